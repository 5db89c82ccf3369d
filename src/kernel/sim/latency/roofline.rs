//! The roofline of every operator: a step takes as long as the operators of all layers, one after the other, each as long
//! as its arithmetic or its memory traffic, whichever is longer, at the share of the peak that such operators reach.
//!
//! | operator | on one GPU |
//! |---|---|
//! | projections of attention, dense feed-forward network, shared experts | matrix multiplications over all new tokens, weights read once; matrices that read the same input are one |
//! | router, routed experts | as many experts read as the tokens choose (see `work.rs`), each with its share of the tokens |
//! | attention of prompts | all pairs of tokens that attend, the cache and the new tokens read once |
//! | attention of requests that decode | the cache read once; the latent one for all heads |
//! | layers without a cache that grows (linear attention, state spaces) | `other_params_b` as one multiplication in each of them, in place of all of the attention |
//! | norms, rotary embedding, activation | memory traffic, and `per_layer_us` |
//! | all-reduce after attention and feed-forward network (`tp` above 1) | a ring: `2 (tp - 1) / tp` of the bytes over a link |
//! | all-to-all before and after routed experts (ranks that share experts) | every token to `top_k` experts, of which a rank has one in `dp` |
//! | stages of a pipeline | the hidden states and residuals go on; a batch passes through all stages in turn (several in flight: [`lanes`](crate::sim)) |
//! | embedding, output matrix, sampling | the output matrix for one token of every request in the batch |
//!
//! **Shares** of the roofline are medians over the tables of vLLM that aiconfigurator publishes (Apache-2.0; A100, H100,
//! H200, B200 and L40S; matrix multiplication and attention by all shapes there are), by arithmetic intensity over that
//! of the ridge of the GPU, after a fixed time per operator: the median of the GPUs' medians. See [`Roofline::default`].
//!
//! **CUDA graphs**: a batch that only decodes is as long as one of the next capture size of vLLM (1, 2, 4, multiples of 8
//! up to 256 and of 16 up to 512) that is not above `cuda_graph_max_bs`. Batches that fit none are launched operator by
//! operator, which the host does while the GPU works: they take at least `launch_us` per operator. A batch with prompts
//! is not padded (its graphs are of the pieces between attention).
//!
//! Left out: overlap of anything with communication, more than one node, tiles and waves of kernels, that ranks which
//! share experts wait for each other, the layers' windows of attention, and the state that linear layers keep per request.

mod curves;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use curves::Curve;
use curves::{Shares, Table};

use super::work::{Costs, Work};
use super::{BatchShape, DecodeForm, LatencyModel, TIME_MAX_US, ns};
use crate::scenario::{Deployment, Dtype, GpuSpec, ModelSpec};
use crate::sim::facts::ACTIVATION_BYTES;
use crate::sim::{WorkSums, facts};
use crate::units::SimDuration;

/// Sampling reads the logits as 32-bit numbers twice: a maximum, and a draw.
const SAMPLED_BYTES: f64 = 8.0;
/// Largest batch that vLLM captures.
const GRAPH_MAX: u32 = 512;

/// Settings; what is left out is as measured (see the head of the file). A curve is a list of `[intensity, share]`: at so
/// many times the arithmetic intensity of the GPU's ridge, this share of the roofline is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Roofline {
    /// Matrix multiplications in bf16, and with weights of 8 bits on GPUs that have no units for them.
    pub gemm: Curve,
    /// Matrix multiplications in FP8.
    pub gemm_fp8: Curve,
    /// Matrix multiplications of routed experts, of any type.
    pub experts: Curve,
    /// Attention of prompts.
    pub prefill_attention: Curve,
    /// Attention of requests that decode.
    pub decode_attention: Curve,
    /// Fixed time of a matrix multiplication, in microseconds.
    pub gemm_us: f64,
    /// The same in FP8, with the scaling of its input.
    pub gemm_fp8_us: f64,
    /// Fixed time of the routed experts of a layer (choosing, sorting, two multiplications, adding), in microseconds.
    pub experts_us: f64,
    /// Fixed time of the attention of prompts in a layer, in microseconds. A batch with both kinds of attention has that
    /// of prompts only.
    pub prefill_attention_us: f64,
    /// Fixed time of the attention of requests that decode in a layer, in microseconds.
    pub decode_attention_us: f64,
    /// Fixed time of an exchange between GPUs, in microseconds.
    pub exchange_us: f64,
    /// For each of the `2 (gpus - 1)` hops of a ring on top, in microseconds.
    pub hop_us: f64,
    /// Share of a link's bandwidth that exchanges reach.
    pub link_share: f64,
    /// Fixed time of the small operators of a layer (norms, rotary embedding, activation), in microseconds.
    pub per_layer_us: f64,
    /// Fixed time of a step (embedding, last norm, sampling), in microseconds.
    pub per_step_us: f64,
    /// Largest batch that runs as a CUDA graph, as vLLM's setting; 0: none does (`enforce_eager`). At most 512.
    pub cuda_graph_max_bs: u32,
    /// Time that the host takes to launch an operator outside of a graph, in microseconds.
    pub launch_us: f64,
}

impl Default for Roofline {
    /// Facts about aiconfigurator's tables (vLLM 0.14 to 0.24; 152,000 multiplications in bf16 and 143,000 in FP8, 98,600
    /// prefills and 98,400 decodes, the latter two with caches of either type; prefills of H200 from its table of vLLM
    /// 0.24), as medians of GPUs: fixed times are those of operators whose roofline is below 0.5 us, shares those of
    /// operators whose roofline is above 20 us. Experts: its balanced tables in bf16. Exchanges: `vllm_graph` of H100,
    /// A100, H200 and B200. Launches: what `vllm_eager` takes longer there for small messages.
    ///
    /// Fixed times of small operators are those of LLMServingSim's profile of Llama 3.1 8B on an RTX PRO 6000 (MIT) at
    /// one token: norms 2.4 us each, rotary embedding 2.7, activation 2.7; embedding 3.1, last norm 2.4, sampler 24.7.
    fn default() -> Roofline {
        Roofline {
            gemm: vec![
                [1.0 / 256.0, 0.84],
                [1.0 / 16.0, 0.83],
                [0.125, 0.80],
                [0.25, 0.79],
                [0.5, 0.74],
                [1.0, 0.64],
                [2.0, 0.67],
                [4.0, 0.75],
                [8.0, 0.76],
                [16.0, 0.75],
            ],
            gemm_fp8: vec![
                [1.0 / 256.0, 0.81],
                [1.0 / 32.0, 0.79],
                [1.0 / 16.0, 0.74],
                [0.125, 0.62],
                [0.25, 0.62],
                [0.5, 0.57],
                [1.0, 0.38],
                [2.0, 0.45],
                [4.0, 0.51],
                [8.0, 0.53],
                [16.0, 0.57],
            ],
            experts: vec![
                [1.0 / 256.0, 0.73],
                [1.0 / 64.0, 0.80],
                [1.0 / 32.0, 0.76],
                [1.0 / 16.0, 0.74],
                [0.125, 0.69],
                [0.25, 0.57],
                [0.5, 0.45],
                [1.0, 0.32],
                [2.0, 0.35],
                [4.0, 0.49],
            ],
            prefill_attention: vec![
                [1.0 / 32.0, 0.27],
                [1.0 / 16.0, 0.28],
                [0.125, 0.40],
                [0.25, 0.36],
                [0.5, 0.34],
                [1.0, 0.28],
                [2.0, 0.36],
                [4.0, 0.42],
                [8.0, 0.49],
                [16.0, 0.53],
                [32.0, 0.58],
            ],
            decode_attention: vec![
                [1.0 / 256.0, 0.84],
                [1.0 / 128.0, 0.78],
                [1.0 / 64.0, 0.73],
                [1.0 / 32.0, 0.71],
                [1.0 / 16.0, 0.70],
                [0.125, 0.65],
                [0.25, 0.71],
            ],
            gemm_us: 3.1,
            gemm_fp8_us: 5.9,
            experts_us: 33.0,
            prefill_attention_us: 11.0,
            decode_attention_us: 9.8,
            exchange_us: 4.75,
            hop_us: 0.1,
            link_share: 0.65,
            per_layer_us: 10.2,
            per_step_us: 30.2,
            cuda_graph_max_bs: GRAPH_MAX,
            launch_us: 17.6,
        }
    }
}

impl Roofline {
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (path, curve) in [
            ("deployment.latency.roofline.gemm", &self.gemm),
            ("deployment.latency.roofline.gemm_fp8", &self.gemm_fp8),
            ("deployment.latency.roofline.experts", &self.experts),
            ("deployment.latency.roofline.prefill_attention", &self.prefill_attention),
            ("deployment.latency.roofline.decode_attention", &self.decode_attention),
        ] {
            problems.extend(curves::problem(curve).map(|message| (path, message)));
        }
        for (path, us) in [
            ("deployment.latency.roofline.gemm_us", self.gemm_us),
            ("deployment.latency.roofline.gemm_fp8_us", self.gemm_fp8_us),
            ("deployment.latency.roofline.experts_us", self.experts_us),
            ("deployment.latency.roofline.prefill_attention_us", self.prefill_attention_us),
            ("deployment.latency.roofline.decode_attention_us", self.decode_attention_us),
            ("deployment.latency.roofline.exchange_us", self.exchange_us),
            ("deployment.latency.roofline.hop_us", self.hop_us),
            ("deployment.latency.roofline.per_layer_us", self.per_layer_us),
            ("deployment.latency.roofline.per_step_us", self.per_step_us),
            ("deployment.latency.roofline.launch_us", self.launch_us),
        ] {
            if !(0.0..=TIME_MAX_US).contains(&us) {
                problems.push((path, format!("is {us}; must be 0 to {TIME_MAX_US} microseconds")));
            }
        }
        if !(1e-3..=1.0).contains(&self.link_share) {
            let message = format!("is {}; must be 0.001 to 1", self.link_share);
            problems.push(("deployment.latency.roofline.link_share", message));
        }
        if self.cuda_graph_max_bs > GRAPH_MAX {
            let message = format!("is {}; must be 0 to {GRAPH_MAX}", self.cuda_graph_max_bs);
            problems.push(("deployment.latency.roofline.cuda_graph_max_bs", message));
        }
        problems
    }
}

/// The batch as which vLLM runs one of `requests` that decode; `None` where no graph is large enough.
fn captured(requests: u64, max: u32) -> Option<u64> {
    let size = match requests {
        0..=2 => requests,
        3..=4 => 4,
        5..=256 => requests.next_multiple_of(8),
        257.. => requests.next_multiple_of(16),
    };
    (size <= u64::from(max)).then_some(size)
}

/// What one GPU does in a nanosecond, and what it reaches of that.
struct Machine {
    flop: f64,
    /// The same for the type of the weights, and whether that is FP8 arithmetic.
    weight_flop: f64,
    fp8: bool,
    bytes: f64,
    link: f64,
    weight_bytes: f64,
    gemm: Shares,
    gemm_fp8: Shares,
    experts: Shares,
    gemm_ns: f64,
    gemm_fp8_ns: f64,
    experts_ns: f64,
    exchange_ns: f64,
    hop_ns: f64,
}

impl Machine {
    fn new(r: &Roofline, d: &Deployment, g: &GpuSpec) -> Machine {
        Machine {
            flop: g.bf16_tflops * 1e3,
            weight_flop: facts::peak_flops(d, g) / 1e9,
            fp8: d.dtype == Dtype::Fp8 && g.fp8_tflops > 0.0,
            bytes: g.memory_tb_per_s * 1e3,
            link: facts::link_gb_per_s(g) * r.link_share,
            weight_bytes: d.dtype.bytes(),
            gemm: Shares::new(&r.gemm),
            gemm_fp8: Shares::new(&r.gemm_fp8),
            experts: Shares::new(&r.experts),
            gemm_ns: r.gemm_us * 1e3,
            gemm_fp8_ns: r.gemm_fp8_us * 1e3,
            experts_ns: r.experts_us * 1e3,
            exchange_ns: r.exchange_us * 1e3,
            hop_ns: r.hop_us * 1e3,
        }
    }

    /// `rows x k` times a matrix of the model, `k x n`; no matrix: no time.
    fn weights(&self, rows: f64, k: f64, n: f64) -> f64 {
        let (shares, fixed, input) = match self.fp8 {
            true => (&self.gemm_fp8, self.gemm_fp8_ns, self.weight_bytes),
            false => (&self.gemm, self.gemm_ns, ACTIVATION_BYTES),
        };
        if k * n == 0.0 {
            return 0.0;
        }
        let bytes = k * n * self.weight_bytes + rows * (k * input + n * ACTIVATION_BYTES);
        fixed + bounded(2.0 * rows * k * n / self.weight_flop, bytes / self.bytes, shares)
    }

    /// The same for a matrix in bf16.
    fn plain(&self, rows: f64, k: f64, n: f64) -> f64 {
        let bytes = (k * n + rows * (k + n)) * ACTIVATION_BYTES;
        self.gemm_ns + bounded(2.0 * rows * k * n / self.flop, bytes / self.bytes, &self.gemm)
    }

    /// A feed-forward network: all matrices that read the input at once, then the last one.
    fn network(&self, rows: f64, m: &ModelSpec, inner: f64) -> f64 {
        let hidden = f64::from(m.hidden);
        let first = f64::from(m.mlp_matrices.max(1) - 1) * inner;
        self.weights(rows, hidden, first) + self.weights(rows, inner, hidden)
    }

    /// A part `of` the bytes over a link, in so many hops.
    fn exchange(&self, bytes: f64, hops: f64) -> f64 {
        self.exchange_ns + self.hop_ns * hops + bytes / self.link
    }
}

/// The longer of two times at full speed, at the share that is reached there.
#[inline]
fn bounded(arithmetic: f64, memory: f64, shares: &Shares) -> f64 {
    // The intensity over that of the ridge is the arithmetic's time over the memory's.
    arithmetic.max(memory) / shares.of(arithmetic / memory)
}

/// Numbers that attention works with on one GPU.
struct Attention {
    /// Operations per pair of tokens that attend, of prompts and of requests that decode.
    prefill_flop: f64,
    decode_flop: f64,
    /// Bytes of a token's keys and values as they are read, by either.
    prefill_bytes: f64,
    decode_bytes: f64,
    /// Bytes of a new token's queries and of what comes out.
    token_bytes: f64,
}

impl Attention {
    fn new(d: &Deployment, m: &ModelSpec) -> Attention {
        let heads = f64::from(m.heads) / f64::from(d.tp);
        let kept = facts::kv_numbers_per_gpu(d, m) * d.kv.kv_cache_dtype.bytes();
        match &m.mla {
            // Prompts attend with keys and values of every head, which are made for that; what decodes, to the latent.
            Some(a) => {
                let (kv_rank, rope) = (f64::from(a.kv_rank), f64::from(a.rope_dim));
                let (query, value) = (f64::from(a.nope_dim) + rope, f64::from(a.v_dim));
                Attention {
                    prefill_flop: 2.0 * heads * (query + value),
                    decode_flop: 2.0 * heads * (2.0 * kv_rank + rope),
                    prefill_bytes: heads * (query + value) * ACTIVATION_BYTES,
                    decode_bytes: kept,
                    token_bytes: heads * (query + value) * ACTIVATION_BYTES,
                }
            }
            None => {
                let wide = heads * f64::from(m.head_dim);
                Attention {
                    prefill_flop: 4.0 * wide,
                    decode_flop: 4.0 * wide,
                    prefill_bytes: kept,
                    decode_bytes: kept,
                    token_bytes: 2.0 * wide * ACTIVATION_BYTES,
                }
            }
        }
    }
}

/// Time of all that depends on the new tokens of a step alone, over all layers.
fn token_ns(tokens: f64, on: &Machine, costs: &Costs, d: &Deployment, m: &ModelSpec) -> f64 {
    let (tp, hidden) = (f64::from(d.tp), f64::from(m.hidden));
    let (heads, layers) = (f64::from(m.heads) / tp, f64::from(m.layers));
    // Of the layers, those with attention: 1 where all have it, to the bit.
    let attending = f64::from(facts::cache_layers(m)) / layers;
    let (projections, width) = match &m.mla {
        Some(a) => {
            let (q_rank, kv_rank) = (f64::from(a.q_rank), f64::from(a.kv_rank));
            let (query, value) = (f64::from(a.nope_dim + a.rope_dim), f64::from(a.v_dim));
            // Every GPU has all of what compresses.
            let queries = match a.q_rank {
                0 => on.weights(tokens, hidden, heads * query),
                _ => on.weights(tokens, q_rank, heads * query),
            };
            let down = q_rank + kv_rank + f64::from(a.rope_dim);
            let up = on.weights(tokens, kv_rank, heads * (f64::from(a.nope_dim) + value));
            let out = on.weights(tokens, heads * value, hidden);
            (on.weights(tokens, hidden, down) + queries + up + out, heads * query)
        }
        None => {
            let wide = heads * f64::from(m.head_dim);
            let queries_keys_values = wide + facts::kv_numbers_per_gpu(d, m);
            (on.weights(tokens, hidden, queries_keys_values) + on.weights(tokens, wide, hidden), queries_keys_values)
        }
    };
    let dense_inner = f64::from(m.intermediate) / tp;
    let dense = on.network(tokens, m, dense_inner);
    let moe_layers = facts::moe_layers(m);
    let mixture = if moe_layers > 0.0 { mixture_ns(tokens, on, costs, d, m) } else { 0.0 };
    // Norms read and write the hidden states and the residual, twice; the embedding of positions what it changes; the
    // activation reads what the first matrices of the network made, and writes what the last one reads.
    let inner = if moe_layers > 0.0 {
        facts::expert_params(m) / hidden / tp * f64::from(m.top_k)
    } else {
        f64::from(m.mlp_matrices) * dense_inner
    };
    let small = tokens * (8.0 * hidden + 2.0 * width * attending + inner) * ACTIVATION_BYTES / on.bytes;
    let exchanges = match d.tp {
        0 | 1 => 0.0,
        _ => 2.0 * on.exchange(2.0 * (tp - 1.0) / tp * tokens * hidden * ACTIVATION_BYTES, 2.0 * (tp - 1.0)),
    };
    let embedding = tokens * 2.0 * hidden * ACTIVATION_BYTES / on.bytes;
    let stages = f64::from(d.pp.max(1)) - 1.0;
    let sent = match d.pp {
        0 | 1 => 0.0,
        _ => stages * on.exchange(2.0 * tokens * hidden * ACTIVATION_BYTES / tp, 1.0),
    };
    layers * (projections * attending + small + exchanges)
        + facts::dense_layers(m) * dense
        + moe_layers * mixture
        + embedding
        + sent
        + others_ns(tokens, on, d, m)
}

/// Layers in which tokens pass the parameters that the sizes of a model do not give: those without attention, as far as
/// it has some, or else all of them as in one.
fn other_layers(m: &ModelSpec) -> f64 {
    if m.other_params_b > 0.0 { f64::from(m.linear_layers.max(1)) } else { 0.0 }
}

/// The parameters that the sizes of a model do not give, in equal parts.
fn others_ns(tokens: f64, on: &Machine, d: &Deployment, m: &ModelSpec) -> f64 {
    let (parts, hidden) = (other_layers(m), f64::from(m.hidden));
    if parts == 0.0 {
        return 0.0;
    }
    parts * on.weights(tokens, hidden, m.other_params_b * 1e9 / f64::from(d.tp) / parts / hidden)
}

/// One mixture layer.
fn mixture_ns(tokens: f64, on: &Machine, costs: &Costs, d: &Deployment, m: &ModelSpec) -> f64 {
    let (tp, hidden, chosen) = (f64::from(d.tp), f64::from(m.hidden), f64::from(m.top_k));
    let expert = facts::expert_params(m) / tp;
    let router = on.plain(tokens, hidden, f64::from(m.experts));
    let passing = tokens * chosen * (2.0 * hidden + expert / hidden) * ACTIVATION_BYTES;
    let bytes = costs.experts_read(tokens) * expert * on.weight_bytes + passing;
    let routed = bounded(2.0 * tokens * chosen * expert / on.weight_flop, bytes / on.bytes, &on.experts);
    let shared = match m.shared_experts {
        0 => 0.0,
        n => {
            let inner = expert / hidden / f64::from(m.mlp_matrices) * f64::from(n);
            on.network(tokens, m, inner)
        }
    };
    let exchanges = if costs.ranks > 1.0 {
        let away = tokens * chosen / tp * hidden * ACTIVATION_BYTES * (costs.ranks - 1.0) / costs.ranks;
        2.0 * on.exchange(away, costs.ranks - 1.0)
    } else {
        0.0
    };
    router + on.experts_ns + routed + shared + exchanges
}

/// Time of all that depends on the requests of a batch alone: the output matrix, and sampling.
fn request_ns(requests: f64, on: &Machine, d: &Deployment, m: &ModelSpec) -> f64 {
    let (tp, vocab) = (f64::from(d.tp), f64::from(m.vocab));
    let gathered = match d.tp {
        0 | 1 => 0.0,
        _ => on.exchange((tp - 1.0) / tp * requests * vocab * ACTIVATION_BYTES, tp - 1.0),
    };
    on.plain(requests, f64::from(m.hidden), vocab / tp) + gathered + requests * vocab * SAMPLED_BYTES / on.bytes
}

/// Operators of a layer that are launched one by one: multiplications, attention, exchanges.
fn launches(d: &Deployment, m: &ModelSpec) -> f64 {
    let attention = f64::from(facts::cache_layers(m)) * if m.mla.is_some() { 5.0 } else { 3.0 };
    let reduced = f64::from(m.layers) * if d.tp > 1 { 2.0 } else { 0.0 };
    let shared = if m.shared_experts > 0 { 2.0 } else { 0.0 };
    let exchanged = if facts::expert_ranks(d) > 1.0 { 2.0 } else { 0.0 };
    // The router, and the two multiplications of experts.
    attention
        + reduced
        + other_layers(m)
        + facts::dense_layers(m) * 2.0
        + facts::moe_layers(m) * (3.0 + shared + exchanged)
}

/// The model of one deployment.
pub(crate) struct Terms {
    costs: Costs,
    tokens: Table,
    requests: Table,
    /// Of every step, without attention.
    fixed_ns: f64,
    graph_max: u32,
    /// The host's time for a step outside of graphs.
    host_ns: f64,
    prefill_shares: Shares,
    prefill_fixed_ns: f64,
    /// At full speed: per pair of tokens, per token in the cache, and per new token.
    prefill_pair_ns: f64,
    prefill_cached_ns: f64,
    prefill_token_ns: f64,
    decode_fixed_ns: f64,
    /// As they are reached: per token in the cache with the new one, and per request.
    decode_cached_ns: f64,
    decode_request_ns: f64,
}

impl Terms {
    pub(crate) fn new(r: &Roofline, d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> Terms {
        let costs = Costs::new(d, m, g);
        let (on, attention) = (Machine::new(r, d, g), Attention::new(d, m));
        let (layers, cached) = (f64::from(m.layers), f64::from(facts::cache_layers(m)));
        let decode_shares = Shares::new(&r.decode_attention);
        let (arithmetic, memory) = (attention.decode_flop / on.flop, attention.decode_bytes / on.bytes);
        let share = decode_shares.of(arithmetic / memory);
        Terms {
            costs,
            tokens: Table::new(|tokens| token_ns(tokens, &on, &costs, d, m)),
            requests: Table::new(|requests| request_ns(requests, &on, d, m)),
            fixed_ns: (r.per_step_us + r.per_layer_us * layers) * 1e3,
            graph_max: r.cuda_graph_max_bs,
            host_ns: r.per_step_us * 1e3 + r.launch_us * 1e3 * launches(d, m),
            prefill_shares: Shares::new(&r.prefill_attention),
            prefill_fixed_ns: cached * r.prefill_attention_us * 1e3,
            prefill_pair_ns: cached * attention.prefill_flop / on.flop,
            prefill_cached_ns: cached * attention.prefill_bytes / on.bytes,
            prefill_token_ns: cached * attention.token_bytes / on.bytes,
            decode_fixed_ns: cached * r.decode_attention_us * 1e3,
            decode_cached_ns: cached * arithmetic.max(memory) / share,
            decode_request_ns: cached * attention.token_bytes / on.bytes / share,
        }
    }

    #[inline]
    fn form(&self, decode_requests: u64) -> DecodeForm {
        let graph = captured(decode_requests, self.graph_max);
        let padded = graph.unwrap_or(decode_requests);
        let gpu = self.fixed_ns
            + self.tokens.of(padded)
            + self.requests.of(padded)
            + self.decode_fixed_ns
            + (self.decode_cached_ns + self.decode_request_ns) * decode_requests as f64;
        let form = DecodeForm::affine(gpu, self.decode_cached_ns);
        match graph {
            Some(_) => form,
            None => DecodeForm { compute_ns: self.host_ns, compute_ns_per_token: 0.0, ..form },
        }
    }
}

impl LatencyModel for Terms {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        let (prefill, decode) = (s.prefill_tokens as f64, s.decode_requests as f64);
        let tokens = s.prefill_tokens + s.decode_requests;
        let memory = self.prefill_cached_ns * (s.prefill_context as f64 + prefill) + self.prefill_token_ns * prefill;
        let attention = self.prefill_fixed_ns
            + bounded(self.prefill_pair_ns * s.prefill_pairs(), memory, &self.prefill_shares)
            + self.decode_cached_ns * (s.decode_context as f64 + decode)
            + self.decode_request_ns * decode;
        let requests = self.requests.of(s.prefill_requests + s.decode_requests);
        let gpu = self.fixed_ns + self.tokens.of(tokens) + requests + attention;
        let host = if tokens > u64::from(self.graph_max) { self.host_ns } else { 0.0 };
        SimDuration(ns(gpu.max(host)))
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn shortest_step(&self) -> SimDuration {
        // Attention takes no less than nothing, the rest never less than for one token. Sums may be rounded otherwise.
        SimDuration((ns(self.fixed_ns + self.tokens.of(1) + self.requests.of(1)) - 1).max(0))
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        Some(self.costs.work(sums))
    }

    fn peak(&self) -> Option<Work> {
        Some(self.costs.peak())
    }
}
