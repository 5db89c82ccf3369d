//! What the benchmark client of vllm-data-collection leaves (`detailed_results_*.json`), with which inference-sim was
//! calibrated: one JSON object with `prompts[]`.
//!
//! Measured: `{"input_text", "generated_text", "input_len", "output_len", "error", "events"}`. Events are readings of
//! the server's monotonic clock in seconds: `SERVER_HIT` is the arrival, `QUEUED` and `SCHEDULED` are of the engine,
//! and `SERVER_LEFT` (or `FINISHED`, in the engine) is the end. There is no event of the first token.
//!
//! Tokenized (`..._tokenized.json`): the same prompts with the numbers of their tokens in place of the texts, and
//! `arrival_time` in microseconds. Those make the block hashes; nothing is measured.

use super::Fault;
use super::Layout;
use super::document::{Node, Out, Tree, field, numbers, time, what_went_wrong};
use super::fields::{BLOCK_TOKENS, Fields, Role};
use super::measured::Time;
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

/// Whether the first prompt of the file that begins with `head` is a list of numbers.
pub fn is_tokenized(head: &[u8]) -> bool {
    const KEY: &[u8] = b"\"input_text\"";
    let Some(at) = head.windows(KEY.len()).position(|w| w == KEY) else { return false };
    head[at + KEY.len()..].iter().find(|b| !b.is_ascii_whitespace() && **b != b':') == Some(&b'[')
}

pub fn measured() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .whole()
        .measured(TimeUnit::S)
        .required(Role::Arrival, "SERVER_HIT")
        .required(Role::InputTokens, "input_len")
        .required(Role::OutputTokens, "output_len")
        .optional(Role::Status, "error")
        .optional(Role::Measured(Time::Queued), "QUEUED")
        .optional(Role::Measured(Time::Scheduled), "SCHEDULED")
        .optional(Role::Measured(Time::LastToken), "SERVER_LEFT")
}

pub fn tokenized(block_tokens: Option<u32>) -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Us)
        .whole()
        .required(Role::Arrival, "arrival_time")
        .required(Role::InputTokens, "input_text")
        .required(Role::OutputTokens, "generated_text")
        .optional(Role::InputIds, "input_text")
        .optional(Role::OutputIds, "generated_text")
        .block_tokens(block_tokens, Some(BLOCK_TOKENS))
}

pub fn take(fields: &Fields, out: &mut Out, node: &Node) -> Faulty<()> {
    for (i, prompt) in node.list("prompts")?.iter().enumerate() {
        let path = || format!("prompts[{i}]");
        match fields.measured {
            Some(_) => answered(out, prompt, path),
            None => numbered(out, prompt, path),
        }
    }
    Ok(())
}

fn answered(out: &mut Out, prompt: &Node, path: impl Fn() -> String) {
    let error = prompt.key("error").and_then(Node::text).filter(|e| !e.is_empty());
    out.row(path, prompt, |rows| {
        let mut events = Vec::new();
        for event in prompt.list("events")? {
            events.extend(event.key("event_type").and_then(Node::text).zip(event.key("timestamp")));
        }
        let event = |name: &str| events.iter().find(|(kind, _)| *kind == name).map(|(_, at)| *at);
        field(rows, Role::Arrival, event("SERVER_HIT"))?;
        field(rows, Role::InputTokens, prompt.key("input_len"))?;
        field(rows, Role::OutputTokens, prompt.key("output_len"))?;
        if let Some(error) = error {
            rows.text(Role::Status, &what_went_wrong(error), prompt.at)?;
        }
        time(rows, Time::Queued, event("QUEUED"), TimeUnit::S)?;
        time(rows, Time::Scheduled, event("SCHEDULED"), TimeUnit::S)?;
        time(rows, Time::LastToken, event("SERVER_LEFT").or_else(|| event("FINISHED")), TimeUnit::S)
    });
}

fn numbered(out: &mut Out, prompt: &Node, path: impl Fn() -> String) {
    out.row(path, prompt, |rows| {
        field(rows, Role::Arrival, prompt.key("arrival_time"))?;
        let of = [
            (Role::InputTokens, Role::InputIds, "input_text"),
            (Role::OutputTokens, Role::OutputIds, "generated_text"),
        ];
        for (length, ids, key) in of {
            let Some(list) = prompt.key(key) else { continue };
            numbers(rows, ids, list)?;
            if let Tree::List(items) = &list.value {
                rows.text(length, &items.len().to_string(), list.at)?;
            }
        }
        Ok(())
    });
}
