//! Azure LLM inference traces: CSV `TIMESTAMP,ContextTokens,GeneratedTokens`.
//!
//! 2023: `2023-11-16 18:15:46.6805900`, seven decimals and no zone. 2024: with `+00:00`. Multimodal (2025): with a
//! column `NumImages`; what the images take is part of `ContextTokens`. None has hashes.

use super::Layout;
use super::extra::Extra;
use super::fields::{Fields, Role};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

pub fn fields() -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Extra(Extra::Images), "NumImages")
}
