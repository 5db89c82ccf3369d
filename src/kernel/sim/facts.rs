//! Sizes that follow from the facts of a model: parameters per layer, bytes of cache per token.
//!
//! Shared by the memory planner and the latency models, so that both mean the same weights. Counts are `f64`: exact
//! for every model below 2^53 parameters, and what they are multiplied with is `f64` anyway.

use crate::scenario::{Deployment, GpuSpec, ModelSpec};

/// Parameters of the attention of one layer: projections of queries, keys, values and output.
pub(crate) fn attention_params(m: &ModelSpec) -> f64 {
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
pub(crate) fn kv_width(m: &ModelSpec) -> f64 {
    f64::from(m.kv_heads) * f64::from(m.head_dim)
}

/// Layers with a mixture of experts.
pub(crate) fn moe_layers(m: &ModelSpec) -> f64 {
    if m.experts >= 2 { f64::from(m.layers.saturating_sub(m.first_dense)) } else { 0.0 }
}

/// Layers with one dense feed-forward network.
pub(crate) fn dense_layers(m: &ModelSpec) -> f64 {
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

/// Parameters of the whole model.
pub(crate) fn params(m: &ModelSpec) -> f64 {
    let d = f64::from(m.hidden);
    let embedding = f64::from(m.vocab) * d;
    let head = if m.tied_embeddings { 0.0 } else { embedding };
    let per_layer = attention_params(m) + 2.0 * d;
    let experts = (f64::from(m.experts) + f64::from(m.shared_experts)) * expert_params(m);
    let router = d * f64::from(m.experts);
    embedding
        + head
        + d
        + f64::from(m.layers) * per_layer
        + dense_layers(m) * dense_mlp_params(m)
        + moe_layers(m) * (experts + router)
}

/// Bytes of cache that one token takes on one GPU, for the layers of the largest pipeline stage.
///
/// Heads are split over the tensor-parallel GPUs and repeated where there are fewer heads than GPUs; the compressed
/// cache of latent attention is one for all heads, so every GPU holds all of it.
pub(crate) fn kv_bytes_per_token_per_gpu(d: &Deployment, m: &ModelSpec) -> f64 {
    let layers = f64::from(m.layers.div_ceil(d.pp.max(1)));
    let bytes = d.kv.kv_cache_dtype.bytes();
    match &m.mla {
        Some(a) => layers * (f64::from(a.kv_rank) + f64::from(a.rope_dim)) * bytes,
        None => {
            let heads = f64::from(m.kv_heads.div_ceil(d.tp.max(1)).max(1));
            layers * 2.0 * heads * f64::from(m.head_dim) * bytes
        }
    }
}

/// Dense peak for the type of the weights in FLOP per second: FP8 units where the GPU has them.
pub(crate) fn peak_flops(d: &Deployment, g: &GpuSpec) -> f64 {
    use crate::scenario::Dtype;
    let tflops = match d.dtype {
        Dtype::Fp8 if g.fp8_tflops > 0.0 => g.fp8_tflops,
        Dtype::Fp8 | Dtype::Bf16 => g.bf16_tflops,
    };
    tflops * 1e12
}
