//! The benchmark of vLLM that comes with LLMServingSim: JSON lines `{"request_id", "input_toks", "output_toks",
//! "arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"}`, all times in seconds.
//!
//! `arrival_time` is of the wall clock (since 1970), the others are of the engine's monotonic clock. They are brought
//! together in [`super::measured`].

use super::Layout;
use super::fields::{Fields, Role};
use super::measured::Time;
use crate::spec::TimeUnit;

pub const NAMES: [&str; 6] =
    ["input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .measured(TimeUnit::S)
        .optional(Role::Name, "request_id")
        .required(Role::InputTokens, NAMES[0])
        .required(Role::OutputTokens, NAMES[1])
        .required(Role::Arrival, NAMES[2])
        .required(Role::Measured(Time::Queued), NAMES[3])
        .optional(Role::Measured(Time::Scheduled), "scheduled_ts")
        .required(Role::Measured(Time::FirstToken), NAMES[4])
        .required(Role::Measured(Time::LastToken), NAMES[5])
}
