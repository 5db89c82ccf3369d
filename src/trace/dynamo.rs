//! Request traces of NVIDIA Dynamo: JSON lines with `"schema": "dynamo.request.trace.v1"`, one event each.
//!
//! A `request_end` is a request: `request.request_received_ms` (since 1970), `request.replay.input_length`,
//! `request.output_tokens`, `request.replay.input_sequence_hashes` in blocks of `request.replay.trace_block_size` tokens,
//! `request.model`, `agent_context.session_id`, and how it was served: `request.ttft_ms`, `request.total_time_ms`, else
//! until `event_time_unix_ms`. Events may be wrapped: `{"event": {...}}`. Others (`tool_end`) are counted, not read: the
//! time of tools is part of that between requests.
//!
//! With sessions, a request waits for what was done in its session when it was sent, and the first of a session for what was
//! done in `agent_context.parent_session_id`: see [`super::agents`].

use super::chunk::Text;
use super::detect::Key;
use super::extra::Extra;
use super::fields::{Fields, Links, Role};
use super::json::{Scanner, Value};
use super::{Fault, Layout, Parsed, jsonl};
use crate::diag::Result;
use crate::spec::TimeUnit;

const SCHEMA: &str = "schema";
const EVENT: &str = "event_type";
/// Of wrapped events.
const WRAPPED: &str = "event.";

/// Whether a row with these keys is an event.
pub fn fits(keys: &[Key]) -> bool {
    ["", WRAPPED].iter().any(|p| [SCHEMA, EVENT].iter().all(|n| keys.iter().any(|k| k.path == format!("{p}{n}"))))
}

pub fn fields(block_tokens: Option<u32>, keys: &[Key]) -> Fields {
    let prefix = if keys.iter().any(|k| k.path == format!("{WRAPPED}{SCHEMA}")) { WRAPPED } else { "" };
    let name = |name: &str| format!("{prefix}{name}");
    Fields::new(Layout::Tokens, TimeUnit::Ms)
        .spans(TimeUnit::Ms)
        .links(Links::Times)
        .required(Role::Arrival, name("request.request_received_ms"))
        .required(Role::InputTokens, name("request.replay.input_length"))
        .required(Role::OutputTokens, name("request.output_tokens"))
        .optional(Role::Hashes, name("request.replay.input_sequence_hashes"))
        .optional(Role::BlockTokens, name("request.replay.trace_block_size"))
        .optional(Role::Model, name("request.model"))
        .optional(Role::Session, name("agent_context.session_id"))
        .optional(Role::Extra(Extra::ParentSession), name("agent_context.parent_session_id"))
        .optional(Role::Extra(Extra::ObservedTtft), name("request.ttft_ms"))
        .optional(Role::Extra(Extra::ObservedE2e), name("request.total_time_ms"))
        .optional(Role::Extra(Extra::End), name("event_time_unix_ms"))
        .block_tokens(block_tokens, None)
}

/// The rows of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    let names = jsonl::Names::new(fields);
    let wrapped = fields.name(Role::Arrival).is_some_and(|name| name.starts_with(WRAPPED));
    jsonl::lines(fields, text, |line, number, rows| {
        if !is_request(line, wrapped)? {
            rows.counts().other_events += 1;
            return Ok(());
        }
        names.row(line, rows)?;
        rows.commit(number)
    })
}

/// Whether the event is the end of a request.
fn is_request(line: &str, wrapped: bool) -> std::result::Result<bool, Fault> {
    fn event(scanner: &mut Scanner, wrapped: bool, kind: &mut Option<bool>) -> std::result::Result<(), Fault> {
        scanner.members(|scanner, key| match (wrapped, key.as_ref()) {
            (true, "event") => event(scanner, false, kind),
            (false, EVENT) => {
                let at = scanner.value_at();
                let Value::Text(text) = scanner.value()? else {
                    return Err(Fault::new(at, format!("`{EVENT}` is not text")));
                };
                *kind = Some(text == "request_end");
                Ok(())
            }
            _ => scanner.skip(),
        })
    }
    let mut kind = None;
    let mut scanner = Scanner::new(line);
    event(&mut scanner, wrapped, &mut kind)?;
    scanner.end()?;
    kind.ok_or_else(|| Fault::new(0, format!("missing `{EVENT}`")))
}
