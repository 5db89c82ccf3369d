//! LLMServingSim: JSON lines `{"input_toks", "output_toks", "arrival_time_ns", "input_tok_ids", "output_tok_ids"}`.
//!
//! The numbers of the tokens of prompt and reply make the block hashes, of 16 tokens unless the user says otherwise;
//! workloads without them have none. Workloads of agents (`sub_requests`) are left out.

use super::Layout;
use super::fields::{BLOCK_TOKENS, Fields, Role};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 3] = ["input_toks", "output_toks", "arrival_time_ns"];

pub fn fields(block_tokens: Option<u32>) -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Ns)
        .required(Role::InputTokens, NAMES[0])
        .required(Role::OutputTokens, NAMES[1])
        .required(Role::Arrival, NAMES[2])
        .optional(Role::InputIds, "input_tok_ids")
        .optional(Role::OutputIds, "output_tok_ids")
        .block_tokens(block_tokens, Some(BLOCK_TOKENS))
}
