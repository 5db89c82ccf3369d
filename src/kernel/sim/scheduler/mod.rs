//! Schedulers: who runs how many tokens in the next step.

pub(super) mod exclusive;
pub(super) mod pace;
mod vllm_v1;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The choice of a scheduler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// vLLM's V1 scheduler.
    VllmV1(VllmV1),
    /// A queueing model: one request at a time per server.
    Exclusive(Exclusive),
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
    /// Order of the queue; with `priority` also who is preempted: the running request of the highest value, among equals
    /// the latest to arrive.
    pub scheduling_policy: QueueOrder,
    /// Form the next step while this one runs: what arrives meanwhile waits one step longer, a reply that ends of its
    /// own accord (not at a length cap) occupies one step more, and `scheduler_overhead_us` is hidden.
    pub async_scheduling: bool,
    /// Time of the host per step, to schedule it and to handle its output, in microseconds: added to the step, or
    /// hidden behind it with `async_scheduling` (a step then lasts at least that long).
    pub scheduler_overhead_us: f64,
    /// Compute the last token of a prompt again that was found whole in the prefix cache, as vLLM must to get its first
    /// output. Without: such a request computes nothing and holds none of the blocks found, as in inference-sim.
    pub recompute_full_hits: bool,
}

/// The queueing model of a monolithic or a disaggregated cluster: a server holds one request from the start of its
/// prefill to its last token (one stage), or until the prompt is done, after which one of the decode servers takes over
/// (two stages). Nothing is batched, there is no KV cache, and a transfer costs nothing. Needs `latency: { rates: ... }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exclusive {
    /// Servers of the one stage, or of the prefill stage. They share one queue.
    pub servers: u32,
    /// Servers of the decode stage, with a queue of their own, first come first served; 0 for one stage.
    pub decode_servers: u32,
    /// Order of the first queue.
    pub scheduling_policy: QueueOrder,
}

impl Default for Exclusive {
    fn default() -> Self {
        Exclusive { servers: 1, decode_servers: 0, scheduling_policy: QueueOrder::Fcfs }
    }
}

/// Which waiting request goes first. Ties: earlier arrival, then lower request number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueOrder {
    /// First come, first served; what was preempted goes to the front.
    #[default]
    Fcfs,
    /// The lowest priority value.
    Priority,
    /// Shortest job first: the shortest prompt.
    Sjf,
    /// Earliest deadline first; requests without a deadline last.
    Edf,
}

impl Default for VllmV1 {
    fn default() -> Self {
        VllmV1 {
            max_num_batched_tokens: 2048,
            max_num_seqs: 256,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            scheduling_policy: QueueOrder::Fcfs,
            async_scheduling: false,
            scheduler_overhead_us: 0.0,
            recompute_full_hits: true,
        }
    }
}
