//! Schedulers: who runs how many tokens in the next step.

pub(super) mod exclusive;
mod faster_transformer;
mod lightllm;
mod orca;
pub(super) mod pace;
mod sarathi;
mod sglang;
mod trtllm;
pub(in crate::sim) mod vllm_v0;
mod vllm_v1;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pools::{Role, Site};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::latency::TIME_MAX_US;
pub use faster_transformer::FasterTransformer;
pub(in crate::sim) use faster_transformer::Padding;
pub use lightllm::Lightllm;
pub(in crate::sim) use lightllm::{Forecast, Outlook};
pub use orca::{Orca, Reserve};
pub use sarathi::Sarathi;
pub(crate) use sglang::LPM_MAX;
pub use sglang::{AttentionBackend, KernelCost, MoeA2aBackend, SamplingBackend, SchedulePolicy, Sglang};
pub use trtllm::{CapacitySchedulerPolicy, ContextChunkingPolicy, Trtllm};
pub use vllm_v0::{PreemptionMode, VllmV0};

/// The choice of a scheduler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// vLLM's V1 scheduler.
    VllmV1(VllmV1),
    /// vLLM's scheduler of version 0: steps of whole prompts, or of tokens of replies.
    VllmV0(VllmV0),
    /// Sarathi-Serve: chunks of prompts beside tokens of replies.
    Sarathi(Sarathi),
    /// Orca: iteration-level scheduling with reserved memory.
    Orca(Orca),
    /// FasterTransformer: static batches.
    FasterTransformer(FasterTransformer),
    /// LightLLM: a cache of single tokens, and a forecast of its peak.
    Lightllm(Lightllm),
    /// SGLang's scheduler.
    Sglang(Sglang),
    /// TensorRT-LLM's in-flight batching.
    Trtllm(Trtllm),
    /// A queueing model: one request at a time per server.
    Exclusive(Exclusive),
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::VllmV1(VllmV1::default())
    }
}

impl Scheduler {
    /// What the machinery of batches is told; `None` where there are no batches.
    pub(crate) fn common(&self) -> Option<Common> {
        match self {
            Scheduler::VllmV1(rules) => Some(rules.common()),
            Scheduler::VllmV0(rules) => Some(rules.common()),
            Scheduler::Sarathi(rules) => Some(rules.common()),
            Scheduler::Orca(rules) => Some(rules.common()),
            Scheduler::FasterTransformer(rules) => Some(rules.common()),
            Scheduler::Lightllm(rules) => Some(rules.common()),
            Scheduler::Sglang(rules) => Some(rules.common()),
            Scheduler::Trtllm(rules) => Some(rules.common()),
            Scheduler::Exclusive(_) => None,
        }
    }

    /// Most tokens of a prompt that the engine takes; [`u32::MAX`] where it has no limit of its own, and the longest prompt
    /// plus output alone says.
    pub(crate) fn longest_prompt(&self) -> u32 {
        match self {
            Scheduler::VllmV1(_)
            | Scheduler::VllmV0(_)
            | Scheduler::Sarathi(_)
            | Scheduler::Orca(_)
            | Scheduler::FasterTransformer(_)
            | Scheduler::Lightllm(_)
            | Scheduler::Exclusive(_) => u32::MAX,
            Scheduler::Sglang(rules) => rules.settled.input_max,
            Scheduler::Trtllm(rules) => rules.longest_prompt(),
        }
    }

    /// Beams of the requests that the engine takes, where it takes those of one width only.
    pub(crate) fn beam_width(&self) -> Option<u32> {
        match self {
            Scheduler::Trtllm(rules) => Some(rules.max_beam_width),
            Scheduler::VllmV1(_)
            | Scheduler::VllmV0(_)
            | Scheduler::Sarathi(_)
            | Scheduler::Orca(_)
            | Scheduler::FasterTransformer(_)
            | Scheduler::Lightllm(_)
            | Scheduler::Sglang(_)
            | Scheduler::Exclusive(_) => None,
        }
    }

    /// Shares of the memory when blocks are planned: of a GPU's, what the engine may use, and of what is left of that beside
    /// weights and activations, what the cache takes.
    pub(crate) fn memory_shares(&self, utilization: f64) -> (f64, f64) {
        match self {
            Scheduler::Trtllm(rules) => (1.0, rules.free_gpu_memory_fraction),
            Scheduler::VllmV1(_)
            | Scheduler::VllmV0(_)
            | Scheduler::Sarathi(_)
            | Scheduler::Orca(_)
            | Scheduler::FasterTransformer(_)
            | Scheduler::Lightllm(_)
            | Scheduler::Sglang(_)
            | Scheduler::Exclusive(_) => (utilization, 1.0),
        }
    }

    /// Most tokens of prompt and output together that a request may have in a cache of so many blocks, of which it holds
    /// `fixed` whatever its length.
    pub(in crate::sim) fn most_tokens(&self, blocks: u64, fixed: u64, block_size: u32) -> u64 {
        let growing = blocks.saturating_sub(fixed);
        let all = growing.saturating_mul(u64::from(block_size));
        // What a request could be admitted with again, and the token that comes of it.
        let beside = |watermark: u64| growing.saturating_sub(watermark).saturating_mul(u64::from(block_size)) + 1;
        match self {
            Scheduler::VllmV0(rules) => all.min(beside(rules.watermark(blocks))),
            Scheduler::Sarathi(rules) => all.min(beside(rules.watermark(blocks))),
            // What a step might take for a request that verifies drafts must be there beside it.
            Scheduler::Sglang(rules) => {
                let pages = rules.settled.verified.div_ceil(block_size.max(1));
                growing.saturating_sub(u64::from(pages)).saturating_mul(u64::from(block_size))
            }
            // The blocks are dealt out to the beams.
            Scheduler::Trtllm(rules) if rules.max_beam_width > 1 => {
                (growing / u64::from(rules.max_beam_width)).saturating_mul(u64::from(block_size))
            }
            Scheduler::VllmV1(_)
            | Scheduler::Orca(_)
            | Scheduler::FasterTransformer(_)
            | Scheduler::Lightllm(_)
            | Scheduler::Trtllm(_)
            | Scheduler::Exclusive(_) => all,
        }
    }

    /// What the engine makes of its settings in a role, in place, before it does in general; path and change.
    pub(crate) fn settle_role(d: &mut Deployment, role: Role) -> Vec<(&'static str, String)> {
        match (&mut d.scheduler, role) {
            (Scheduler::Sglang(rules), Role::Decode) => rules.settle_decode(&d.kv),
            _ => Vec::new(),
        }
    }

    /// What the engine makes of its settings of its own accord, in place; the path of each change, and what it is.
    pub(crate) fn settle(d: &mut Deployment, model: &ModelSpec, gpu: &GpuSpec) -> Vec<(&'static str, String)> {
        let max_model_len = d.max_model_len.unwrap_or(model.max_pos);
        match &mut d.scheduler {
            Scheduler::VllmV1(_) | Scheduler::Exclusive(_) => Vec::new(),
            Scheduler::VllmV0(rules) => {
                rules.settle(max_model_len);
                Vec::new()
            }
            Scheduler::Sarathi(_) | Scheduler::Orca(_) | Scheduler::FasterTransformer(_) | Scheduler::Lightllm(_) => {
                Vec::new()
            }
            Scheduler::Trtllm(rules) => rules.settle(&mut d.kv),
            Scheduler::Sglang(_) => sglang::settle(d, model, gpu),
        }
    }

    /// What the engine would refuse, by path. Of vLLM's V1 and of exclusive servers the check knows itself.
    pub(in crate::sim) fn problems(&self, site: &Site) -> Vec<(&'static str, String)> {
        match self {
            Scheduler::VllmV1(_) | Scheduler::Exclusive(_) => Vec::new(),
            Scheduler::VllmV0(rules) => rules.problems(site),
            Scheduler::Sarathi(rules) => rules.problems(site),
            Scheduler::Orca(rules) => rules.problems(site),
            Scheduler::FasterTransformer(rules) => rules.problems(site),
            Scheduler::Lightllm(rules) => rules.problems(site),
            Scheduler::Sglang(rules) => rules.problems(site),
            Scheduler::Trtllm(rules) => rules.problems(site),
        }
    }

    /// The same, once the number of blocks of a replica is known.
    pub(in crate::sim) fn problems_of_cache(&self, site: &Site, blocks: u64) -> Vec<(&'static str, String)> {
        match self {
            Scheduler::VllmV1(_) | Scheduler::Exclusive(_) => Vec::new(),
            Scheduler::VllmV0(rules) => rules.problems_of_cache(site, blocks),
            Scheduler::Sarathi(rules) => rules.problems_of_cache(site, blocks),
            Scheduler::Orca(rules) => rules.problems_of_cache(site, blocks),
            Scheduler::FasterTransformer(rules) => rules.problems_of_cache(site, blocks),
            Scheduler::Lightllm(rules) => rules.problems_of_cache(site, blocks),
            Scheduler::Sglang(rules) => rules.problems_of_cache(site, blocks),
            Scheduler::Trtllm(rules) => rules.problems_of_cache(site, blocks),
        }
    }
}

/// What the machinery of batches asks of every scheduler, whatever its rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Common {
    /// Order of the queue.
    pub policy: QueueOrder,
    /// Decode requests that a step holds at most.
    pub decodes_max: u64,
    /// New tokens, and requests, that a step hardly ever exceeds: what is looked up for every step is laid out for so many.
    pub tokens_max: u64,
    pub seats: u64,
    /// The next step is formed while this one runs.
    pub async_scheduling: bool,
    /// Time of the host per step in microseconds, and whether it works while the step runs.
    pub overhead_us: f64,
    pub overhead_hidden: bool,
    /// See [`VllmV1::recompute_full_hits`].
    pub recompute_full_hits: bool,
    /// Finds the blocks of equal prefixes, where the deployment wants that.
    pub caches_prefixes: bool,
    /// Heeds adapters: see [`super::lora`].
    pub knows_adapters: bool,
    /// Requests without an adapter need a slot, too: one for all of them.
    pub base_needs_slot: bool,
    /// Blocks that must be free beyond those that are taken, for decode requests to go on unasked.
    pub slack: u64,
    /// All blocks that a request may ever have are taken when it is admitted.
    pub reserves: bool,
    /// Asks the tiers behind the prefix cache ([`crate::sim::tiers`]).
    pub asks_tiers: bool,
    /// A prompt that was cut waits for blocks, and nobody gives his up for it: fetches leave it those of its rest.
    pub cut_waits: bool,
    /// What it makes of a request with several samples, and with several beams.
    pub samples: Samples,
    pub beams: Beams,
    /// With [`QueueOrder::Sjf`]: the most tokens that a reply may have go first, not the shortest prompt.
    pub longest_reply_first: bool,
    /// Requests whose KV caches have come run in the order in which they came, whatever the order of the queue.
    pub joins_in_order: bool,
    /// Who is preempted goes to the end of the queue.
    pub requeues_last: bool,
    /// Contents are found, and kept once, from the end of the step that computes them: those of a prompt as its chunks end, those
    /// of a reply when it ends.
    pub fills_late: bool,
    /// The latency model is shown batches as they are, and what it says is what they take.
    pub plain: bool,
}

/// What becomes of a request with several samples: see [`crate::sim::samples`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Samples {
    /// The engine knows no such requests.
    None,
    /// Every sample is a request to the scheduler.
    Requests,
    /// The same, behind a request that computes the prompt.
    BehindPrompt,
    /// They are the sequences of one request: see [`crate::sim::groups`].
    Group,
}

/// How the beams of a request share blocks: see [`crate::sim::beams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beams {
    /// The engine knows no beam search.
    None,
    /// All of the prompt; who writes to one that others use, too, copies it first.
    OnWrite,
    /// Whole ones of the prompt; of that in which the prompt ends each has its own from the start.
    FromStart,
    /// None.
    Apart,
}

impl Common {
    /// An engine that has none of the others' ways.
    pub(crate) fn new(policy: QueueOrder) -> Common {
        Common {
            policy,
            decodes_max: u64::MAX,
            tokens_max: 8192,
            seats: 256,
            async_scheduling: false,
            overhead_us: 0.0,
            overhead_hidden: false,
            recompute_full_hits: true,
            caches_prefixes: false,
            knows_adapters: false,
            base_needs_slot: false,
            slack: 0,
            reserves: false,
            asks_tiers: false,
            cut_waits: false,
            samples: Samples::None,
            beams: Beams::None,
            longest_reply_first: false,
            joins_in_order: false,
            requeues_last: false,
            fills_late: false,
            plain: true,
        }
    }
}

/// Blocks that a share of so many comes to, rounded down.
fn watermark_blocks(share: f64, blocks: u64) -> u64 {
    (share * blocks as f64) as u64
}

/// The path of a share of blocks that must stay free, with those that have one.
pub(in crate::sim) fn watermark_path(scheduler: &Scheduler) -> Option<&'static str> {
    match scheduler {
        Scheduler::VllmV0(_) => Some("deployment.scheduler.vllm_v0.watermark"),
        Scheduler::Sarathi(_) => Some("deployment.scheduler.sarathi.watermark_blocks_fraction"),
        _ => None,
    }
}

/// What is wrong with a share of blocks that must stay free.
fn bad_watermark(path: &'static str, share: f64) -> Option<(&'static str, String)> {
    let fine = (0.0..1.0).contains(&share);
    (!fine).then(|| (path, format!("is {share}; must be 0 or more and below 1: nobody could be admitted")))
}

/// What is wrong with a time of the host per step.
pub(in crate::sim) fn bad_overhead(path: &'static str, us: f64) -> Option<(&'static str, String)> {
    let fine = (0.0..=TIME_MAX_US).contains(&us);
    (!fine).then(|| (path, format!("is {us}; must be 0 to {TIME_MAX_US} microseconds")))
}

/// vLLM's V1 scheduler, under its own names and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Least slack first: deadline less now less the work that is left. That is estimated, once, as the time of a step of
    /// the prompt alone by the latency model; now is the same for all. Requests without a deadline last.
    LeastSlack,
    /// The tenant that was served the fewest tokens, by virtual token counters; then first come, first served. A tenant is
    /// who the request says it is for, or where none says, its class.
    Fair,
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
