//! Sizes that follow from the facts of a model: parameters per layer, bytes of cache per token.
//!
//! Shared by the memory planner, the latency models and whoever tells a user of a model, so that all mean the same weights.
//! Left out: biases and the norms inside of attention, which are less than one in a thousand. Counts are `f64`: exact
//! for every model below 2^53 parameters, and what they are multiplied with is `f64` anyway.

use crate::scenario::{Deployment, Dtype, GpuSpec, ModelSpec};

/// Hidden states are bf16, in memory and between GPUs.
pub(crate) const ACTIVATION_BYTES: f64 = 2.0;
/// A GPU of which no link is known has one of PCIe 4.0 x16, in GB/s in one direction.
const PCIE_GB_PER_S: f64 = 32.0;

/// Parameters of the attention of one layer: projections of queries, keys, values and output.
pub fn attention_params(m: &ModelSpec) -> f64 {
    let (d, heads) = (f64::from(m.hidden), f64::from(m.heads));
    if let Some(a) = &m.mla {
        // Low-rank projections of DeepSeek-V2, equations 1 to 8; a q_rank of 0 means that queries are not compressed.
        let (kv_rank, rope) = (f64::from(a.kv_rank), f64::from(a.rope_dim));
        let q_dim = heads * (f64::from(a.nope_dim) + rope);
        let q = if a.q_rank == 0 { d * q_dim } else { f64::from(a.q_rank) * (d + q_dim) };
        let v_dim = f64::from(a.v_dim);
        return q + d * (kv_rank + rope) + kv_rank * heads * (f64::from(a.nope_dim) + v_dim) + heads * v_dim * d;
    }
    2.0 * d * heads * f64::from(m.head_dim) + 2.0 * d * kv_width(m)
}

/// Width of the keys of one token in one layer over all heads; the values are as wide.
fn kv_width(m: &ModelSpec) -> f64 {
    f64::from(m.kv_heads) * f64::from(m.head_dim)
}

/// Layers with a mixture of experts.
pub fn moe_layers(m: &ModelSpec) -> f64 {
    if m.experts >= 2 { f64::from(m.layers.saturating_sub(m.first_dense) / m.moe_every.max(1)) } else { 0.0 }
}

/// Layers whose cache grows with the context.
pub fn cache_layers(m: &ModelSpec) -> u32 {
    m.layers.saturating_sub(m.linear_layers)
}

/// Layers that hold a cache of their own that grows with the context; of those with a window, it is said apart whether they
/// do.
pub fn holding_layers(m: &ModelSpec) -> u32 {
    cache_layers(m).saturating_sub(m.kv_shared_layers)
}

/// Layers by how their cache grows, in an engine that drops what is out of a layer's sight: with every token, and up to the
/// window. All of them grow where none would.
pub fn kinds_of_layers(m: &ModelSpec, d: &Deployment) -> (u32, u32) {
    let holding = holding_layers(m);
    let windowed = m.window_layers.min(holding);
    if d.kv.disable_hybrid_kv_cache_manager || m.sliding_window == 0 || windowed == holding {
        return (holding, 0);
    }
    (holding - windowed, windowed)
}

/// Layers with one dense feed-forward network.
pub fn dense_layers(m: &ModelSpec) -> f64 {
    f64::from(m.layers) - moe_layers(m)
}

/// Parameters of the feed-forward network of a dense layer.
pub(crate) fn dense_mlp_params(m: &ModelSpec) -> f64 {
    f64::from(m.mlp_matrices) * f64::from(m.hidden) * f64::from(m.intermediate)
}

/// Parameters of one expert.
pub(crate) fn expert_params(m: &ModelSpec) -> f64 {
    let inner = if m.moe_intermediate == 0 { m.intermediate } else { m.moe_intermediate };
    f64::from(m.mlp_matrices) * f64::from(m.hidden) * f64::from(inner)
}

/// Parameters of all experts of all layers among which tokens choose.
pub fn routed_params(m: &ModelSpec) -> f64 {
    moe_layers(m) * f64::from(m.experts) * expert_params(m)
}

/// Data-parallel ranks that share one set of experts.
pub(crate) fn expert_ranks(d: &Deployment) -> f64 {
    if d.enable_expert_parallel { f64::from(d.dp.max(1)) } else { 1.0 }
}

/// Parameters of the whole model.
pub fn params(m: &ModelSpec) -> f64 {
    let d = f64::from(m.hidden);
    let embedding = f64::from(m.vocab) * d;
    let head = if m.tied_embeddings { 0.0 } else { embedding };
    let experts = (f64::from(m.experts) + f64::from(m.shared_experts)) * expert_params(m);
    let router = d * f64::from(m.experts);
    embedding
        + head
        + d
        + f64::from(m.layers) * 2.0 * d
        + f64::from(cache_layers(m)) * attention_params(m)
        + m.other_params_b * 1e9
        + dense_layers(m) * dense_mlp_params(m)
        + moe_layers(m) * (experts + router)
}

/// Parameters that a token passes: all but the experts that it does not choose, and the embedding, which is looked up.
/// An embedding that is the output matrix too is multiplied with.
pub fn active_params(m: &ModelSpec) -> f64 {
    let idle = moe_layers(m) * f64::from(m.experts.saturating_sub(m.top_k)) * expert_params(m);
    let looked_up = if m.tied_embeddings { 0.0 } else { f64::from(m.vocab) * f64::from(m.hidden) };
    params(m) - idle - looked_up
}

/// Numbers that the cache holds per token and layer on one GPU.
///
/// Heads are split over the tensor-parallel GPUs and repeated where there are fewer heads than GPUs; the compressed
/// cache of latent attention is one for all heads, so every GPU holds all of it.
pub(crate) fn kv_numbers_per_gpu(d: &Deployment, m: &ModelSpec) -> f64 {
    match &m.mla {
        Some(a) => f64::from(a.kv_rank) + f64::from(a.rope_dim),
        None => 2.0 * f64::from(m.kv_heads.div_ceil(d.tp.max(1)).max(1)) * f64::from(m.head_dim),
    }
}

/// Bytes that the cache of the whole model holds per token: what a transfer between engines moves. Layers with a window
/// count in full, as where one block holds a token's place in every layer.
pub fn kv_bytes_per_token(m: &ModelSpec, dtype: Dtype) -> u64 {
    u64::from(holding_layers(m)) * kv_bytes_per_layer(m, dtype)
}

/// Bytes that the cache of one request must hold at a context, if layers with a window keep no more than that.
pub fn kv_bytes_at(m: &ModelSpec, dtype: Dtype, context: u64) -> u64 {
    let windowed = u64::from(m.window_layers.min(holding_layers(m)));
    let full = u64::from(holding_layers(m)) - windowed;
    let seen = if m.sliding_window == 0 { context } else { context.min(u64::from(m.sliding_window)) };
    (full * context + windowed * seen) * kv_bytes_per_layer(m, dtype)
}

/// Bytes that one layer's cache holds per token.
pub(crate) fn kv_bytes_per_layer(m: &ModelSpec, dtype: Dtype) -> u64 {
    let numbers = match &m.mla {
        Some(a) => u64::from(a.kv_rank) + u64::from(a.rope_dim),
        None => 2 * u64::from(m.kv_heads) * u64::from(m.head_dim),
    };
    // Types are whole bytes.
    numbers * dtype.bytes() as u64
}

/// Dense peak for the type of the weights in FLOP per second: FP8 units where the GPU has them.
pub fn peak_flops(d: &Deployment, g: &GpuSpec) -> f64 {
    let tflops = match d.dtype {
        Dtype::Fp8 if g.fp8_tflops > 0.0 => g.fp8_tflops,
        Dtype::Fp8 | Dtype::Bf16 => g.bf16_tflops,
    };
    tflops * 1e12
}

/// Bandwidth to the other GPUs of the node in GB/s, one direction.
pub(crate) fn link_gb_per_s(g: &GpuSpec) -> f64 {
    if g.nvlink_gb_per_s > 0.0 { g.nvlink_gb_per_s } else { PCIE_GB_PER_S }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Mla;
    use crate::sim::swarm::llama_8b;

    #[test]
    fn parameters_match_the_published_counts() {
        let mixtral = ModelSpec { vocab: 32_000, experts: 8, top_k: 2, params_b: 46.7, ..llama_8b() };
        let deepseek_v3 = ModelSpec {
            layers: 61,
            hidden: 7168,
            intermediate: 18_432,
            heads: 128,
            kv_heads: 128,
            vocab: 129_280,
            experts: 256,
            top_k: 8,
            shared_experts: 1,
            moe_intermediate: 2048,
            first_dense: 3,
            mla: Some(Mla { q_rank: 1536, kv_rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 }),
            params_b: 671.0,
            ..llama_8b()
        };
        for m in [llama_8b(), mixtral, deepseek_v3] {
            let billions = params(&m) / 1e9;
            assert!((billions / m.params_b - 1.0).abs() < 2e-3, "{billions} instead of {}", m.params_b);
        }
    }

    #[test]
    fn windows_and_linear_layers_hold_less() {
        // gpt-oss-20b: 24 layers of 8 heads of 64, of which half look back 128 tokens; two bytes.
        let windowed =
            ModelSpec { layers: 24, kv_heads: 8, head_dim: 64, sliding_window: 128, window_layers: 12, ..llama_8b() };
        assert_eq!(kv_bytes_per_token(&windowed, Dtype::Bf16), 24 * 2_048);
        assert_eq!(kv_bytes_at(&windowed, Dtype::Bf16, 100), 100 * 24 * 2_048);
        assert_eq!(kv_bytes_at(&windowed, Dtype::Bf16, 1_000), (1_000 * 12 + 128 * 12) * 2_048);
        assert_eq!(kv_bytes_at(&windowed, Dtype::Fp8, 1_000), (1_000 * 12 + 128 * 12) * 1_024);
        // Three of four layers without a growing cache: a quarter of the cache, and of the attention.
        let hybrid = ModelSpec { linear_layers: 24, ..llama_8b() };
        assert_eq!(kv_bytes_per_token(&hybrid, Dtype::Bf16) * 4, kv_bytes_per_token(&llama_8b(), Dtype::Bf16));
        assert_eq!(params(&llama_8b()) - params(&hybrid), 24.0 * attention_params(&llama_8b()));
        // What the sizes do not give is said.
        assert_eq!(params(&ModelSpec { other_params_b: 1.5, ..llama_8b() }), params(&llama_8b()) + 1.5e9);
    }

    #[test]
    fn every_second_layer_can_be_a_mixture() {
        let of = |first_dense, moe_every| {
            let m = ModelSpec { experts: 8, top_k: 2, first_dense, moe_every, ..llama_8b() };
            (moe_layers(&m), dense_layers(&m), routed_params(&m) / expert_params(&m), params(&m) - active_params(&m))
        };
        let looked_up = 128_256.0 * 4_096.0;
        let expert = expert_params(&llama_8b());
        assert_eq!(of(0, 1), (32.0, 0.0, 256.0, looked_up + 32.0 * 6.0 * expert));
        assert_eq!(of(0, 2), (16.0, 16.0, 128.0, looked_up + 16.0 * 6.0 * expert));
        assert_eq!(of(2, 1), (30.0, 2.0, 240.0, looked_up + 30.0 * 6.0 * expert));
    }
}
