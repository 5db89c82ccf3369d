//! Vidur: CSV `arrived_at` (seconds), `num_prefill_tokens`, `num_decode_tokens`.
//!
//! Newer files add `block_hash_ids` (`"[1, 2, 3]"`, every full block of prompt and reply), `block_size` (tokens per
//! block) and `session_id`.

use super::Layout;
use super::fields::{Fields, Role};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["arrived_at", "num_prefill_tokens", "num_decode_tokens"];

pub fn fields(block_tokens: Option<u32>) -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::S)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .optional(Role::Hashes, "block_hash_ids")
        .optional(Role::BlockTokens, "block_size")
        .optional(Role::Session, "session_id")
        .block_tokens(block_tokens, None)
}
