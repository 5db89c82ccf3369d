//! APEX: JSON lines `{"StartTimeOffset", "RequestID", "ContextTokens", "GeneratedTokens"}`, the time in nanoseconds from
//! the start. A prompt as text, where there is one, is not read: its length is.

use super::Layout;
use super::fields::{Fields, Role};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["StartTimeOffset", "ContextTokens", "GeneratedTokens"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Ns)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
}
