//! Schedulers: who runs how many tokens in the next step.

mod vllm_v1;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The choice of a scheduler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// vLLM's V1 scheduler.
    VllmV1(VllmV1),
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::VllmV1(VllmV1::default())
    }
}

/// vLLM's V1 scheduler, under its own names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VllmV1 {
    /// Tokens that one step may process.
    pub max_num_batched_tokens: u32,
    /// Requests that may run at once.
    pub max_num_seqs: u32,
    /// Let a prompt be cut so that its chunks share steps with decodes. Without, a step must hold a whole prompt:
    /// `max_num_batched_tokens` must be at least `max_model_len`.
    pub enable_chunked_prefill: bool,
    /// Longest chunk of one prompt in a step; 0 for no limit.
    pub long_prefill_token_threshold: u32,
}

impl Default for VllmV1 {
    fn default() -> Self {
        VllmV1 {
            max_num_batched_tokens: 2048,
            max_num_seqs: 256,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
        }
    }
}
