//! Mooncake (FAST'25): JSON lines `{"timestamp", "input_length", "output_length", "hash_ids"}`.
//!
//! `timestamp` is in milliseconds from the start, in buckets, so that many requests share one. Each item of `hash_ids`
//! names a block of 512 tokens together with all that comes before it; the prompt is covered to its end,
//! `ceil(input_length / 512)` items, and the reply is not.
//!
//! Dynamo's replay adds sessions (`session_id`, `delay` or `delay_ms`) and agents (`request_id`, `wait_for`,
//! `tool_wait_ms`). A turn, or a request that waits for others, is sent `delay + tool_wait_ms` after they are done: that is
//! `think_ns`. It needs no `timestamp`; without one it stands where it would be sent if requests took no time.
//! `policy_class` is the class. `input_tokens`, `output_tokens` and `created_time` are other names of the same.
//!
//! Left out: `priority` (for Dynamo's router, which sends the higher first, while the table has vLLM's lower first),
//! `branches` (said again by `wait_for`), `prefix_reset` (`hash_ids` show it), `tool_events` and constraints of routing.

use super::Layout;
use super::detect::Key;
use super::extra::Extra;
use super::fields::{Fields, Links, Role};
use crate::spec::TimeUnit;

/// Tokens per block.
const BLOCK_TOKENS: u32 = 512;

pub const NAMES: [&str; 3] = ["timestamp", "input_length", "output_length"];
const OTHER_NAMES: [&str; 3] = ["created_time", "input_tokens", "output_tokens"];

/// Whether a row with these keys is one. Lengths under the other names are those of generic files, too: then there must be
/// hashes.
pub fn fits(keys: &[Key]) -> bool {
    let has = |name: &str| keys.iter().any(|k| k.path == name && !k.object);
    let timed = has(NAMES[0]) || has(OTHER_NAMES[0]);
    let own = NAMES[1..].iter().all(|n| has(n)) && (timed || has("hash_ids") || has("wait_for"));
    let other = NAMES.iter().zip(OTHER_NAMES).all(|(name, other)| has(name) || has(other)) && has("hash_ids");
    (own || other) && !keys.iter().any(|k| k.path == "hash_ids" && k.object)
}

pub fn fields(block_tokens: Option<u32>, keys: &[Key]) -> Fields {
    let has = |name: &str| keys.iter().any(|k| k.path == name);
    let name = |i: usize| if has(OTHER_NAMES[i]) && !has(NAMES[i]) { OTHER_NAMES[i] } else { NAMES[i] };
    let fields = Fields::new(Layout::Tokens, TimeUnit::Ms)
        .spans(TimeUnit::Ms)
        .required(Role::InputTokens, name(1))
        .required(Role::OutputTokens, name(2))
        .optional(Role::Hashes, "hash_ids")
        .optional(Role::Session, "session_id")
        .block_tokens(block_tokens, Some(BLOCK_TOKENS));
    if !["session_id", "request_id", "wait_for"].into_iter().any(has) {
        return fields.required(Role::Arrival, name(0));
    }
    fields
        .links(Links::Names)
        .optional(Role::Arrival, name(0))
        .optional(Role::Think, "delay")
        .optional(Role::Class, "policy_class")
        .optional(Role::Extra(Extra::Request), "request_id")
        .optional(Role::Extra(Extra::DependsOn), "wait_for")
        .optional(Role::Extra(Extra::Wait), "tool_wait_ms")
        .optional(Role::Extra(Extra::OtherWait), "delay_ms")
}
