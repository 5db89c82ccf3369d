//! The memory planner: how many KV blocks fit beside weights and activations.
//!
//! The terms of inference-sim's planner (Apache-2.0), which follow what vLLM measures when it starts, but per GPU:
//! every GPU holds its share of the weights, its own activations, and its share of every block. Data-parallel ranks are
//! engines with a plan each; with `enable_expert_parallel` they share the experts, of which every one of the `tp * dp`
//! GPUs holds as many, whole. Slots for LoRA adapters come on top ([`lora`]). Left out: CUDA graphs.
//!
//! A block holds its tokens in the layers whose cache grows with every token. What else a request holds is the same
//! whatever its length, and counted in whole blocks ([`blocks_per_request`]): the window of layers that look no further
//! back, and the state of layers without a cache. vLLM's hybrid cache manager gives a window out block by block, and
//! groups of layers share one pool: a request shorter than the window holds less there than here. Layers that share another's
//! cache hold none.

use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::lora::{self, Lora};
use crate::sim::scheduler::Scheduler;
use crate::sim::{SimError, facts};

/// Bytes of one GiB.
pub const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// Peak of activations while vLLM profiles itself, dense models and mixtures of experts.
const ACTIVATIONS_DENSE_GIB: f64 = 5.5;
const ACTIVATIONS_MOE_GIB: f64 = 8.0;
/// What CUDA and the communication library take: on one GPU, and on each of several.
const NON_TORCH_SINGLE_GIB: f64 = 0.15;
const NON_TORCH_MULTI_GIB: f64 = 0.6;
/// Largest tensor-parallel size that the advice in a diagnostic tries.
const TP_MAX_TRIED: u32 = 64;

/// The memory of one GPU of a replica, term by term. All in bytes but `blocks`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Memory of the GPU times `gpu_memory_utilization`; all of it where the scheduler takes a share of what is left.
    pub budget: f64,
    /// Its share of the weights.
    pub weights: f64,
    pub activations: f64,
    /// CUDA context and communication buffers.
    pub non_torch: f64,
    /// Slots for LoRA adapters.
    pub adapters: f64,
    /// What is left for the cache, and the scheduler's share of it; negative where the model does not fit.
    pub kv_available: f64,
    /// One block of `block_size` tokens, this GPU's share.
    pub bytes_per_block: f64,
    /// Blocks of the replica: 0 where not one fits.
    pub blocks: u64,
}

/// The memory plan of one GPU of a replica.
pub fn plan(d: &Deployment, model: &ModelSpec, gpu: &GpuSpec) -> MemoryPlan {
    let gpus = f64::from(d.tp.max(1)) * f64::from(d.pp.max(1));
    let ranks = facts::expert_ranks(d);
    let (utilization, of_rest) = d.scheduler.memory_shares(d.kv.gpu_memory_utilization);
    let budget = gpu.memory_gib * utilization * GIB;
    // All but the routed experts are on every rank.
    let experts = facts::routed_params(model);
    let weights = (facts::params(model) - experts + experts / ranks) * d.dtype.bytes() / gpus;
    let activations = GIB * if model.experts >= 2 { ACTIVATIONS_MOE_GIB } else { ACTIVATIONS_DENSE_GIB };
    let non_torch = GIB * if gpus * ranks > 1.0 { NON_TORCH_MULTI_GIB } else { NON_TORCH_SINGLE_GIB };
    // SGLang gives weights and cache a share of what CUDA leaves; what a step needs is in the rest.
    let (budget, activations, taken) = match &d.scheduler {
        Scheduler::Sglang(rules) => {
            let share = rules.mem_fraction_static.unwrap_or(d.kv.gpu_memory_utilization);
            ((gpu.memory_gib * GIB - non_torch) * share, 0.0, 0.0)
        }
        _ => (budget, activations, non_torch),
    };
    let slots = |lora: &Lora| f64::from(lora.max_loras) * f64::from(lora.max_lora_rank);
    let adapters = d.lora.as_ref().map_or(0.0, |lora| slots(lora) * lora::bytes_per_rank(lora, d, model));
    let rest = budget - weights - activations - taken - adapters;
    let kv_available = if rest > 0.0 { rest * of_rest } else { rest };
    // The GPU with the most layers limits all.
    let (growing, _) = facts::kinds_of_layers(model, d);
    let layers = f64::from(growing.div_ceil(d.pp.max(1)));
    let bytes_per_token = layers * facts::kv_numbers_per_gpu(d, model) * d.kv.kv_cache_dtype.bytes();
    let bytes_per_block = bytes_per_token * f64::from(d.kv.block_size);
    let blocks = if kv_available > 0.0 && bytes_per_block > 0.0 { (kv_available / bytes_per_block) as u64 } else { 0 };
    MemoryPlan { budget, weights, activations, non_torch, adapters, kv_available, bytes_per_block, blocks }
}

/// Blocks that every request that runs holds beside those of its tokens: the windows of layers with one, of `window` and a
/// block of tokens, and the states of layers without a cache, in blocks of the layers that grow, rounded up.
pub fn blocks_per_request(d: &Deployment, model: &ModelSpec) -> u64 {
    let (growing, windowed) = facts::kinds_of_layers(model, d);
    let (block, tp) = (f64::from(d.kv.block_size), f64::from(d.tp.max(1)));
    let per_layer = facts::kv_numbers_per_gpu(d, model) * d.kv.kv_cache_dtype.bytes();
    let longest = d.max_model_len.unwrap_or(model.max_pos);
    let seen = f64::from(model.sliding_window.saturating_add(d.kv.block_size).min(longest));
    let windows = f64::from(windowed) * seen * per_layer;
    let states = f64::from(model.linear_layers) * f64::from(model.state_bytes) / tp;
    libm::ceil((windows + states) / (f64::from(growing) * per_layer * block)) as u64
}

/// Blocks of a replica: those that the deployment sets, or those that fit.
///
/// # Errors
/// [`SimError::Invalid`] where not one block fits, with the terms in GiB and what would fit.
pub fn blocks(d: &Deployment, model: &ModelSpec, gpu: &GpuSpec) -> Result<u64, SimError> {
    if let Some(blocks) = d.kv.num_gpu_blocks {
        return Ok(blocks);
    }
    let p = plan(d, model, gpu);
    if p.blocks > 0 {
        return Ok(p.blocks);
    }
    if let Some(lora) = &d.lora
        && p.kv_available + p.adapters >= p.bytes_per_block
    {
        return Err(no_room_for_slots(lora, &p));
    }
    let (share, of_rest) = d.scheduler.memory_shares(d.kv.gpu_memory_utilization);
    let terms = format!(
        "no KV block fits: of {:.2} GiB per GPU ({} GiB x {share}), weights take {:.2}, activations {:.2}, CUDA and \
         communication {:.2}",
        p.budget / GIB,
        gpu.memory_gib,
        p.weights / GIB,
        p.activations / GIB,
        p.non_torch / GIB,
    );
    if let Scheduler::Sglang(rules) = &d.scheduler
        && p.weights + p.bytes_per_block < gpu.memory_gib * GIB - p.non_torch
    {
        let share = rules.mem_fraction_static.unwrap_or_default();
        let message = format!(
            "not enough memory: of {share} of {:.2} GiB per GPU, weights take {:.2}; try to increase mem_fraction_static",
            (gpu.memory_gib * GIB - p.non_torch) / GIB,
            p.weights / GIB,
        );
        return Err(SimError::Invalid { path: "deployment.scheduler.sglang.mem_fraction_static".into(), message });
    }
    let rest = p.kv_available / of_rest;
    if of_rest < 1.0 && rest >= p.bytes_per_block {
        // To three digits, rounded up.
        let share = p.bytes_per_block / rest;
        let digits = libm::pow(10.0, 2.0 - libm::floor(libm::log10(share)));
        let least = (libm::ceil(share * digits) / digits).min(1.0);
        let message = format!(
            "no KV block fits: {of_rest} of the {:.2} GiB per GPU that weights and activations leave is less than the \
             {:.2} MiB of a block; {least} or more would do",
            rest / GIB,
            p.bytes_per_block / (GIB / 1024.0),
        );
        return Err(SimError::Invalid { path: "deployment.scheduler.trtllm.free_gpu_memory_fraction".into(), message });
    }
    let utilization = (p.weights + p.activations + p.non_torch + p.bytes_per_block) / GIB / gpu.memory_gib;
    if utilization <= 0.98 && of_rest == 1.0 {
        let least = libm::ceil(utilization * 100.0) / 100.0;
        return Err(SimError::Invalid {
            path: "deployment.kv.gpu_memory_utilization".into(),
            message: format!("{terms}; {least:.2} or more would do"),
        });
    }
    let advice = match smallest_tp(d, model, gpu) {
        Some(tp) => format!("the smallest tensor-parallel size that fits is {tp}"),
        None => format!(
            "no tensor-parallel size up to {TP_MAX_TRIED} fits: a GPU with more memory, fp8 weights or \
                         a larger pp is needed"
        ),
    };
    Err(SimError::Invalid { path: "deployment.tp".into(), message: format!("{terms}; {advice}") })
}

/// Without adapters, blocks would fit.
fn no_room_for_slots(lora: &Lora, p: &MemoryPlan) -> SimError {
    let slot = p.adapters / f64::from(lora.max_loras.max(1));
    let left = p.kv_available + p.adapters;
    let fit = ((left - p.bytes_per_block) / slot) as u64;
    let advice = match fit {
        0 => "not even one fits: a smaller max_lora_rank, fully_sharded_loras or more GPUs are needed".to_string(),
        some => format!("at most {some} would leave room for a block"),
    };
    SimError::Invalid {
        path: "deployment.lora.max_loras".into(),
        message: format!(
            "no KV block fits: {} slots for adapters of rank {} take {:.2} of the {:.2} GiB per GPU that weights and \
             activations leave; {advice}",
            lora.max_loras,
            lora.max_lora_rank,
            p.adapters / GIB,
            left / GIB,
        ),
    }
}

/// The smallest tensor-parallel size, of those that divide the heads, with which one block fits.
pub fn smallest_tp(d: &Deployment, model: &ModelSpec, gpu: &GpuSpec) -> Option<u32> {
    (1..=TP_MAX_TRIED)
        .filter(|tp| model.heads.is_multiple_of(*tp))
        .filter(|tp| model.mla.is_some() || tp.is_multiple_of(model.kv_heads) || model.kv_heads.is_multiple_of(*tp))
        .filter(|tp| !d.enable_expert_parallel || model.experts.is_multiple_of(tp.saturating_mul(d.dp).max(1)))
        .find(|&tp| plan(&Deployment { tp, ..d.clone() }, model, gpu).blocks > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scheduler::Trtllm;
    use crate::sim::swarm::{h100, llama_8b};

    fn deployment() -> Deployment {
        serde_json::from_str(r#"{"model": "m", "gpu": "g"}"#).unwrap()
    }

    #[test]
    fn llama_8b_on_h100_has_the_blocks_of_inference_sim() {
        assert_eq!(plan(&deployment(), &llama_8b(), &h100()).blocks, 26_312);
    }

    #[test]
    fn whole_experts_are_spread_over_all_ranks() {
        // Mixtral 8x7B but for its vocabulary: 2.393e9 parameters that every rank has (embedding and output matrix
        // 1.051e9, attention 1.342e9), and 8 experts of 5.637e9 in all layers together, all of two bytes.
        let mixture = ModelSpec { experts: 8, top_k: 2, ..llama_8b() };
        let gib = |billions: f64| billions * 2e9 / GIB;
        let (common, expert) = (2.394, 5.637_1);
        for (tp, dp, spread, held) in [
            (1, 1, false, common + 8.0 * expert),
            // Copies: what the other ranks do changes nothing.
            (1, 8, false, common + 8.0 * expert),
            (2, 1, false, common / 2.0 + 4.0 * expert),
            // A slice of every expert weighs as much as some of them whole.
            (2, 1, true, common / 2.0 + 4.0 * expert),
            (1, 8, true, common + expert),
            (2, 4, true, common / 2.0 + expert),
            (4, 2, true, common / 4.0 + expert),
        ] {
            let d = Deployment { tp, dp, enable_expert_parallel: spread, ..deployment() };
            let p = plan(&d, &mixture, &h100());
            assert!((p.weights / GIB / gib(held) - 1.0).abs() < 1e-3, "{tp} {dp} {spread}: {}", p.weights / GIB);
            // Ranks that exchange tokens have communication buffers, like GPUs that share a layer.
            let talks = tp > 1 || (spread && dp > 1);
            assert_eq!(p.non_torch, GIB * if talks { NON_TORCH_MULTI_GIB } else { NON_TORCH_SINGLE_GIB });
            // The cache is that of a rank.
            let copy = plan(&Deployment { tp, ..deployment() }, &mixture, &h100());
            assert_eq!(p.bytes_per_block, copy.bytes_per_block);
        }
    }

    #[test]
    fn windows_and_states_are_held_once_per_request() {
        let mut d = deployment();
        assert_eq!(blocks_per_request(&d, &llama_8b()), 0);
        // gpt-oss-20b: half of the layers look back 128 tokens. A block of sixteen tokens of twelve layers, and for every
        // request 144 tokens of the other twelve: nine such blocks.
        let windowed =
            ModelSpec { layers: 24, kv_heads: 8, head_dim: 64, sliding_window: 128, window_layers: 12, ..llama_8b() };
        assert_eq!((plan(&d, &windowed, &h100()).bytes_per_block, blocks_per_request(&d, &windowed)), (393_216.0, 9));
        // A request is never longer than that.
        d.max_model_len = Some(100);
        assert_eq!(blocks_per_request(&d, &windowed), 7);
        d.max_model_len = None;
        // Qwen3-Next: 36 states of 1,097,728 bytes, and blocks of 16 tokens of twelve layers, 2048 bytes each.
        let hybrid = ModelSpec {
            layers: 48,
            kv_heads: 2,
            head_dim: 256,
            linear_layers: 36,
            state_bytes: 1_097_728,
            ..llama_8b()
        };
        assert_eq!((plan(&d, &hybrid, &h100()).bytes_per_block, blocks_per_request(&d, &hybrid)), (393_216.0, 101));
        // Half of the layers read what the other half holds.
        let shared = ModelSpec { kv_shared_layers: 16, ..llama_8b() };
        let bytes = |m: &ModelSpec| plan(&deployment(), m, &h100()).bytes_per_block;
        assert_eq!((bytes(&shared) * 2.0, blocks_per_request(&d, &shared)), (bytes(&llama_8b()), 0));
        // Without the manager, and where no layer sees more, windows are as large as the context.
        d.kv.disable_hybrid_kv_cache_manager = true;
        assert_eq!((plan(&d, &windowed, &h100()).bytes_per_block, blocks_per_request(&d, &windowed)), (786_432.0, 0));
        let all = ModelSpec { window_layers: 24, ..windowed };
        assert_eq!(blocks_per_request(&deployment(), &all), 0);
    }

    #[test]
    fn a_model_that_does_not_fit_says_what_would() {
        let mut d = deployment();
        d.kv.gpu_memory_utilization = 0.2;
        let e = blocks(&d, &llama_8b(), &h100()).unwrap_err();
        let SimError::Invalid { path, message } = e else { panic!() };
        assert_eq!(path, "deployment.kv.gpu_memory_utilization");
        assert!(message.ends_with("0.26 or more would do"), "{message}");

        // The share of the rest is too small; the rest is not.
        let rules = Trtllm { free_gpu_memory_fraction: 1e-5, ..Trtllm::default() };
        let d = Deployment { scheduler: Scheduler::Trtllm(rules), ..deployment() };
        let e = blocks(&d, &llama_8b(), &h100()).unwrap_err();
        let SimError::Invalid { path, message } = e else { panic!() };
        assert_eq!(path, "deployment.scheduler.trtllm.free_gpu_memory_fraction");
        let (_, told) = message.split_once("block; ").unwrap();
        let least: f64 = told.strip_suffix(" or more would do").unwrap().parse().unwrap();
        let of = |share: f64| {
            let rules = Trtllm { free_gpu_memory_fraction: share, ..Trtllm::default() };
            plan(&Deployment { scheduler: Scheduler::Trtllm(rules), ..deployment() }, &llama_8b(), &h100()).blocks
        };
        assert_eq!((of(least), of(least * 0.99)), (1, 0), "{message}");

        let big = ModelSpec { layers: 320, ..llama_8b() };
        let e = blocks(&deployment(), &big, &h100()).unwrap_err();
        let SimError::Invalid { path, message } = e else { panic!() };
        assert_eq!(path, "deployment.tp");
        assert!(message.ends_with("the smallest tensor-parallel size that fits is 4"), "{message}");
    }
}
