//! What GuideLLM replays (`trace_synthetic`): JSON lines `{"timestamp", "input_length", "output_length"}`, the time in
//! seconds.
//!
//! Mooncake has the same names, and milliseconds. Without a name of the format, a file without `hash_ids` whose first times
//! have fractions is taken for this one, as Mooncake's times are whole.

use super::Layout;
use super::fields::{Fields, Role};
use super::json::{Scanner, Value};
use super::mooncake::NAMES;
use crate::spec::TimeUnit;

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
}

/// Whether a file of Mooncake's names that begins with `head` is one of these.
pub fn fits(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let mut fractions = false;
    for line in text.lines() {
        let mut hashes = false;
        let read = Scanner::new(line).members(|scanner, key| match key.as_ref() {
            "timestamp" => {
                if let Value::Number(n) = scanner.value()? {
                    fractions |= n.contains('.');
                }
                Ok(())
            }
            _ => {
                hashes |= key == "hash_ids";
                scanner.skip()
            }
        });
        // The head may end within a line.
        if hashes && read.is_ok() {
            return false;
        }
    }
    fractions
}
