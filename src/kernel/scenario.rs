//! What is simulated: a deployment, the facts of its model and GPU, a load, and a seed.
//!
//! These types are what a user writes under `deployment:` and `workload:`; every field can be addressed by a dotted
//! path (`deployment.scheduler.vllm_v1.max_num_seqs`). Names are vLLM's where vLLM has a name.

use std::collections::BTreeMap;

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pools::{Disaggregation, Pool, PoolFacts, Signals};
use crate::profile::Supplied;
use crate::rng;
use crate::sim::{
    encoder::Encoder,
    latency::{Latency, Overheads},
    lora::Lora,
    router::Router,
    scheduler::Scheduler,
    speculative::Speculative,
    tiers::Tier,
};
use crate::units::Tick;

/// What is operated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Name of a model in the catalog, such as `meta-llama/Llama-3.1-8B`.
    pub model: String,
    /// Name of a GPU in the catalog, such as `h100-sxm`.
    pub gpu: String,
    /// Engine instances behind the router.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Tensor-parallel size: GPUs that share every layer of a replica.
    #[serde(default = "one")]
    pub tp: u32,
    /// Pipeline-parallel size: stages that the layers of a replica are cut into. With the schedulers `vllm_v1`, `vllm_v0`,
    /// `sarathi`, `orca` and `faster_transformer`, up to as many batches are in flight, each in a stage of its own; with the
    /// others, and with `async_scheduling`, `scheduling_policy: fair`, `speculative`, `lora`, `encoder`, `kv.tiers` or pools
    /// of a role, one batch at a time passes all stages.
    #[serde(default = "one")]
    pub pp: u32,
    /// Data-parallel size: engines of a replica, each with `tp * pp` GPUs, a scheduler and a KV cache of its own. The
    /// router sees every one of them.
    #[serde(default = "one")]
    pub dp: u32,
    /// Spread whole experts over the `tp * dp` GPUs of a replica, in place of a slice of every expert on each.
    #[serde(default)]
    pub enable_expert_parallel: bool,
    /// Type of the weights.
    #[serde(default)]
    pub dtype: Dtype,
    /// Longest prompt plus output in tokens: a prompt that leaves no room for output is rejected, a longer output is
    /// cut. Default: the model's own limit. Never more than the KV cache of a replica holds.
    #[serde(default)]
    pub max_model_len: Option<u32>,
    /// Let `max_model_len` be beyond the positions of the model, as `VLLM_ALLOW_LONG_MAX_MODEL_LEN` does.
    #[serde(default)]
    pub allow_long_max_model_len: bool,
    /// How a replica forms its batches.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Speculative decoding. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculative: Option<Speculative>,
    /// How arriving requests are spread over the replicas.
    #[serde(default)]
    pub router: Router,
    /// The key-value cache of a replica.
    #[serde(default)]
    pub kv: KvCache,
    /// How long a step takes.
    #[serde(default)]
    pub latency: Latency,
    /// What the host and the network add.
    #[serde(default)]
    pub overheads: Overheads,
    /// The encoder of images and sound on the replicas themselves. Default: encoder tokens cost nothing, but for those of a
    /// pool with the role `encode`.
    #[serde(default)]
    pub encoder: Option<Encoder>,
    /// Quantum of time, such as `1us`: every step and every overhead is rounded down to whole quanta, a step to at
    /// least one. Default: nanoseconds. For comparison with simulators that count in whole microseconds.
    #[serde(default)]
    pub tick: Option<Tick>,
    /// Replicas of several kinds behind one router, by name; `replicas` has no meaning then. What a pool does not say is
    /// as here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<String, Pool>,
    /// How requests go from prefill to decode pools, where there are some.
    #[serde(default)]
    pub disaggregation: Disaggregation,
    /// How old the router's knowledge is.
    #[serde(default)]
    pub signals: Signals,
    /// LoRA adapters. Default: none are served, and what requests say of theirs only routers look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

fn one() -> u32 {
    1
}

impl Deployment {
    /// GPUs of all replicas together. A server of an exclusive replica is `tp * pp` GPUs of its own.
    pub fn gpus(&self) -> u64 {
        if !self.pools.is_empty() {
            return self.pools.values().map(|pool| self.of_pool(pool).gpus()).sum();
        }
        let servers = match &self.scheduler {
            Scheduler::Exclusive(e) => u64::from(e.servers) + u64::from(e.decode_servers),
            _ => 1,
        };
        let (tp, pp, dp) = match &self.scheduler {
            Scheduler::Sglang(rules) => rules.sizes((self.tp, self.pp, self.dp)),
            _ => (self.tp, self.pp, self.dp),
        };
        let engines = u64::from(self.replicas) * u64::from(dp);
        engines * servers * u64::from(tp) * u64::from(pp)
    }
}

/// Number format of weights or cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    #[default]
    Bf16,
    Fp8,
}

impl Dtype {
    pub fn bytes(self) -> f64 {
        match self {
            Dtype::Bf16 => 2.0,
            Dtype::Fp8 => 1.0,
        }
    }
}

/// The key-value cache of a replica, in vLLM's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvCache {
    /// Tokens per block.
    #[serde(default = "sixteen")]
    pub block_size: u32,
    /// Blocks of a replica. Default: planned from the memory of its GPUs.
    #[serde(default)]
    pub num_gpu_blocks: Option<u64>,
    /// Share of the GPU's memory that the engine may use, when blocks are planned.
    #[serde(default = "ninety_percent")]
    pub gpu_memory_utilization: f64,
    /// Reuse the blocks of equal prefixes.
    #[serde(default = "yes")]
    pub enable_prefix_caching: bool,
    /// Type of the cache's entries. Default: bf16.
    #[serde(default)]
    pub kv_cache_dtype: Dtype,
    /// Give every layer with a sliding window as much as a layer without, as vLLM does without its hybrid cache manager.
    #[serde(default)]
    pub disable_hybrid_kv_cache_manager: bool,
    /// Stores behind the prefix cache, fastest first, from which blocks are fetched in place of computing them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
}

fn sixteen() -> u32 {
    16
}
fn ninety_percent() -> f64 {
    0.9
}
fn yes() -> bool {
    true
}

impl Default for KvCache {
    fn default() -> Self {
        KvCache {
            block_size: sixteen(),
            num_gpu_blocks: None,
            gpu_memory_utilization: ninety_percent(),
            enable_prefix_caching: yes(),
            kv_cache_dtype: Dtype::default(),
            disable_hybrid_kv_cache_manager: false,
            tiers: Vec::new(),
        }
    }
}

/// How the requests of the trace arrive in this scenario, and what their clients want.
///
/// What a request brings itself ([`crate::request::Requests`]) goes before the rules of its class, and those before
/// the rules for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Mean arrival rate in requests per second over all replicas, of those that do not wait for another one. Default:
    /// the rate of the trace.
    #[serde(default)]
    pub rate_rps: Option<f64>,
    /// Arrival process. `trace` keeps the pattern of the trace, stretched to `rate_rps` where that is given.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Use only the first so many requests. Default: all.
    #[serde(default)]
    pub max_requests: Option<u32>,
    /// The simulation ends at this time: what has not ended by then is `in_flight`, what arrives later is left out.
    /// Default: it ends when every request has.
    #[serde(default)]
    pub horizon_s: Option<f64>,
    /// A request should be done so long after its arrival. Only the queue order `edf` and whoever reads the tables look
    /// at it; nothing is aborted.
    #[serde(default)]
    pub deadline_ms: Option<f64>,
    /// A client gives up so long after its request arrived: status `timed_out`. Default: never.
    #[serde(default)]
    pub timeout_s: Option<f64>,
    /// Most tokens that a request may generate, as in the OpenAI API. A reply that is cut is `length_capped`.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Parallel samples of a request, as in the OpenAI API: so many replies to one prompt. All of them have the length that
    /// the trace gives, which knows no other. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Beams of a request: how many candidates of its reply are kept at every step, of which the best one is its reply (the
    /// `beam_width` of TensorRT-LLM and FasterTransformer, vLLM's `best_of` with `use_beam_search`). Default: 1, no beam search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beam_width: Option<u32>,
    /// Clients ask for exactly as many tokens as they get, as benchmark clients with `ignore_eos` do: a scheduler that
    /// plans by what a request may generate plans by that. Without, it plans by `max_tokens`, or where there is none by what
    /// `max_model_len` leaves.
    #[serde(default)]
    pub exact_max_tokens: bool,
    /// Clients that go away before their reply is complete: status `cancelled`.
    #[serde(default)]
    pub cancel: Option<Cancel>,
    /// When the turns of a session arrive.
    #[serde(default)]
    pub sessions: Sessions,
    /// Closed loop: so many virtual users, each with one session (or one request that belongs to none) at a time. The
    /// next one, in the order of the trace, begins a think time after the last request of the one before is done.
    /// Implies `sessions: closed`.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Time between the end of a request and the one that waits for it, where the request has no `think_ns` of its own.
    /// Default: what lies between their arrivals in the trace for turns of a session, 0 for other requests that wait.
    #[serde(default)]
    pub think_time: Option<ThinkTime>,
    /// Rules by class of service (column `class` of the requests).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, ClassRules>,
}

/// When the turns of a session arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sessions {
    /// At their own times, whether the turn before is done or not.
    #[default]
    Open,
    /// A think time after the turn before is done. If that fails, what follows it is never sent: `cancelled`.
    Closed,
}

/// A distribution of think times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThinkTime {
    /// Always the same.
    Constant(ConstantTime),
    /// Every time from `min_s` to `max_s` equally likely.
    Uniform(UniformTime),
    Exponential(ExponentialTime),
    /// Lognormal, by its mean and its coefficient of variation.
    Lognormal(LognormalTime),
}

/// Parameters of a constant time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstantTime {
    /// Seconds, 0 or more.
    pub s: f64,
}

/// Parameters of uniformly distributed times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UniformTime {
    /// Seconds, 0 or more.
    pub min_s: f64,
    /// Seconds, not below `min_s`.
    pub max_s: f64,
}

/// Parameters of exponentially distributed times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExponentialTime {
    /// Mean in seconds.
    pub mean_s: f64,
}

/// Parameters of lognormally distributed times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LognormalTime {
    /// Mean in seconds.
    pub mean_s: f64,
    /// Standard deviation over mean.
    pub cv: f64,
}

impl ThinkTime {
    /// One time in seconds; takes one number from the stream.
    pub fn sample(&self, rng: &mut Pcg64) -> f64 {
        match *self {
            ThinkTime::Constant(t) => {
                rng::uniform01(rng);
                t.s
            }
            ThinkTime::Uniform(t) => t.min_s + (t.max_s - t.min_s) * rng::uniform01(rng),
            ThinkTime::Exponential(t) => rng::exponential(rng, t.mean_s),
            ThinkTime::Lognormal(t) => {
                // sigma^2 = ln(1 + cv^2), mu = ln(mean) - sigma^2 / 2.
                let variance = libm::log1p(t.cv * t.cv);
                rng::lognormal(rng, libm::log(t.mean_s) - variance / 2.0, libm::sqrt(variance))
            }
        }
    }

    /// In seconds.
    pub fn mean_s(&self) -> f64 {
        match *self {
            ThinkTime::Constant(t) => t.s,
            ThinkTime::Uniform(t) => f64::midpoint(t.min_s, t.max_s),
            ThinkTime::Exponential(t) => t.mean_s,
            ThinkTime::Lognormal(t) => t.mean_s,
        }
    }
}

/// Clients that go away: every request independently, from the scenario's own stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Share of the requests whose client would go away, 0 to 1.
    pub share: f64,
    /// Mean of the exponentially distributed time from arrival until the client goes, in seconds. A request that is
    /// done by then is not touched.
    pub after_s: f64,
}

/// What holds for the requests of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassRules {
    /// Priority as in vLLM: a lower value goes first. Default: 0.
    #[serde(default)]
    pub priority: Option<i32>,
    /// A request of the class should be done so long after its arrival; nothing is aborted.
    #[serde(default)]
    pub deadline_ms: Option<f64>,
    /// A client of the class gives up so long after its request arrived.
    #[serde(default)]
    pub timeout_s: Option<f64>,
    /// Most tokens that a request of the class may generate.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Parallel samples of a request of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Beams of a request of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beam_width: Option<u32>,
}

/// Which requests count in the figures of a scenario. Every request is simulated; raw counts are kept beside.
///
/// A request is measured if it arrives at or after the end of the warm-up, before the start of the cool-down, and is
/// neither one of the first `warmup_requests` nor of the last `cooldown_requests` to arrive. A span of zero leaves nothing
/// out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Leave out what arrives in so many seconds from the first arrival.
    #[serde(default)]
    pub warmup_s: f64,
    /// Leave out what arrives in so many seconds up to the last arrival.
    #[serde(default)]
    pub cooldown_s: f64,
    /// Leave out so many requests, the first to arrive.
    #[serde(default)]
    pub warmup_requests: u32,
    /// Leave out so many requests, the last to arrive.
    #[serde(default)]
    pub cooldown_requests: u32,
}

/// An arrival process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// The times of the trace.
    #[default]
    Trace,
    /// Equal gaps.
    Constant,
    /// Exponential gaps: independent users.
    Poisson,
    /// Gamma gaps of the same mean: `cv` above 1 is burstier than Poisson, below 1 more regular.
    Gamma(Gamma),
}

/// Parameters of gamma-distributed gaps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gamma {
    /// Coefficient of variation: standard deviation over mean of the gaps.
    pub cv: f64,
}

/// Facts of a model, from its `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    pub layers: u32,
    pub hidden: u32,
    /// Inner size of a dense feed-forward layer.
    pub intermediate: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub vocab: u32,
    /// `max_position_embeddings`.
    pub max_pos: u32,
    /// Matrices of a feed-forward layer: 3 when gated (SwiGLU), else 2.
    #[serde(default = "three")]
    pub mlp_matrices: u32,
    /// Embedding and output matrix are one.
    #[serde(default)]
    pub tied_embeddings: bool,
    /// Experts per mixture layer; 0 for dense models.
    #[serde(default)]
    pub experts: u32,
    /// Experts that a token uses.
    #[serde(default)]
    pub top_k: u32,
    /// Experts that every token uses.
    #[serde(default)]
    pub shared_experts: u32,
    /// Inner size of an expert.
    #[serde(default)]
    pub moe_intermediate: u32,
    /// Dense layers before the first mixture layer.
    #[serde(default)]
    pub first_dense: u32,
    /// Of the layers after those, one in so many is a mixture; the others are dense.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub moe_every: u32,
    /// Tokens that a layer with a sliding window looks back; 0 where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sliding_window: u32,
    /// Layers with that window (or chunks of as many tokens); the others look back to the beginning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub window_layers: u32,
    /// Layers without a cache that grows with the context: linear attention, state spaces.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub linear_layers: u32,
    /// Bytes of state that each of those holds for a request, whatever its context.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub state_bytes: u32,
    /// Layers that read the cache of a layer before them, and hold none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kv_shared_layers: u32,
    /// Parameters that the sizes do not give and every token passes, in billions: those of linear layers, above all.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub other_params_b: f64,
    /// Multi-head latent attention, where the model has it.
    #[serde(default)]
    pub mla: Option<Mla>,
    /// All parameters, in billions.
    pub params_b: f64,
    /// Parameters that a token uses, in billions.
    pub active_b: f64,
}

fn three() -> u32 {
    3
}
// By reference, as serde calls them.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(n: &u32) -> bool {
    *n == 1
}
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_nothing(x: &f64) -> bool {
    *x == 0.0
}

/// Ranks and head sizes of multi-head latent attention (DeepSeek).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mla {
    pub q_rank: u32,
    pub kv_rank: u32,
    pub nope_dim: u32,
    pub rope_dim: u32,
    pub v_dim: u32,
}

/// Facts of a GPU: dense peaks, per GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuSpec {
    pub bf16_tflops: f64,
    /// 0 where the GPU has no FP8 units.
    #[serde(default)]
    pub fp8_tflops: f64,
    /// 0 where the GPU has no FP4 units.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub fp4_tflops: f64,
    /// 10^12 operations per second; 0 where nobody says.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub int8_tops: f64,
    /// Memory that plans start from: nominal, or what the driver shows where that is known.
    pub memory_gib: f64,
    /// What the driver shows, where `memory_gib` is nominal; 0 where nobody says. For the reader.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub visible_gib: f64,
    /// Memory bandwidth in TB/s (10^12 bytes).
    pub memory_tb_per_s: f64,
    /// Bandwidth to the other GPUs of the node in GB/s, one direction.
    #[serde(default)]
    pub nvlink_gb_per_s: f64,
    /// Bandwidth to the host in GB/s, one direction; 0 where nobody says.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub pcie_gb_per_s: f64,
    /// Bandwidth to other nodes in GB/s, one direction, of one GPU; 0 where nobody says.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub node_gb_per_s: f64,
    /// GPUs that the links of the node reach; 0 where nobody says.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus_per_node: u32,
    /// Share of the peak that prefill reaches.
    #[serde(default = "mfu_prefill")]
    pub mfu_prefill: f64,
    /// Share of the peak that decode reaches.
    #[serde(default = "mfu_decode")]
    pub mfu_decode: f64,
    /// Board power in W.
    #[serde(default)]
    pub tdp_w: f64,
    /// Power without work in W; 0 where nobody says.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub idle_w: f64,
}

fn mfu_prefill() -> f64 {
    0.45
}
fn mfu_decode() -> f64 {
    0.30
}

/// One fully specified simulation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    pub deployment: Deployment,
    pub model: ModelSpec,
    pub gpu: GpuSpec,
    /// Facts of the pools, in the order of their names; empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolFacts>,
    /// What the latency model needs beside settings and facts; of the pools, each has its own.
    #[serde(default, skip_serializing_if = "Supplied::is_nothing")]
    pub supplied: Supplied,
    pub workload: Load,
    pub measure: Measure,
    /// Neighbouring scenarios may share a seed: their random streams are then common (paired comparison).
    pub seed: u64,
}
