//! BurstGPT (arXiv:2401.17644): CSV `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`; newer files add
//! `Session ID` and `Elapsed time`.
//!
//! `Timestamp` and `Elapsed time` are in seconds; the first need not begin at 0. Requests of the log of the API have no
//! session. A reply of 0 tokens is a request that failed: it is kept with 1 token and `observed_status` `failed`; all others
//! are `completed`. The log (`Conversation log`, `API log`) is the class. `Total tokens` is the sum of the others.

use super::Layout;
use super::extra::Extra;
use super::fields::{Fields, Role};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .spans(TimeUnit::S)
        .no_reply_fails()
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Session, "Session ID")
        .optional(Role::Model, "Model")
        .optional(Role::Class, "Log Type")
        .optional(Role::Extra(Extra::ObservedE2e), "Elapsed time")
}
