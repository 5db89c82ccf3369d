//! Mooncake (FAST'25): JSON lines `{"timestamp", "input_length", "output_length", "hash_ids"}`.
//!
//! `timestamp` is in whole milliseconds from the start, in buckets, so that many requests share one. Each item of
//! `hash_ids` names a block of 512 tokens together with all that comes before it; the prompt is covered to its end,
//! `ceil(input_length / 512)` items, and the reply is not.

use super::Layout;
use super::fields::{Fields, Role};
use crate::spec::TimeUnit;

/// Tokens per block.
const BLOCK_TOKENS: u32 = 512;

pub const NAMES: [&str; 3] = ["timestamp", "input_length", "output_length"];

pub fn fields(block_tokens: Option<u32>) -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Ms)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Hashes, "hash_ids")
        .optional(Role::Session, "session_id")
        .block_tokens(block_tokens, Some(BLOCK_TOKENS))
}
