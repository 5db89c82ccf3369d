//! The roofline: a step takes as long as its arithmetic or its memory traffic, whichever is longer.
//!
//! Formulas of inference-sim's roofline backend (Apache-2.0), in closed form over the sums of a batch, with two
//! differences: the feed-forward network counts as many matrices as the model has (`mlp_matrices`; inference-sim
//! always 2), and nothing is truncated to microseconds. Left out: communication between GPUs, kernel launches, and the
//! overlap of pipeline stages (`pp` divides memory, not time: a step passes through all stages in turn).

use super::{BatchShape, DecodeForm, LatencyModel, ns};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::facts;
use crate::units::SimDuration;

/// Per-token and per-context costs of one replica, all per GPU.
pub(crate) struct Roofline {
    /// Nanoseconds of arithmetic at full prefill efficiency, per new token and per (new token, context token) pair.
    prefill_token_ns: f64,
    prefill_pair_ns: f64,
    /// The same at decode efficiency.
    decode_token_ns: f64,
    decode_pair_ns: f64,
    /// Nanoseconds to read the weights that every step reads.
    weights_ns: f64,
    /// Nanoseconds to read one expert in every mixture layer; 0 for dense models.
    expert_ns: f64,
    experts: f64,
    /// Share of experts that a token does not use.
    unused: f64,
    /// Nanoseconds to read or write the cache of one token, and the activations of a new one.
    kv_token_ns: f64,
    activation_ns: f64,
}

impl Roofline {
    pub(crate) fn new(d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> Roofline {
        let tp = f64::from(d.tp);
        let layers = f64::from(m.layers);
        let (hidden, heads) = (f64::from(m.hidden), f64::from(m.heads));
        let (dense, moe) = (facts::dense_layers(m), facts::moe_layers(m));
        let attention = facts::attention_params(m) * layers;
        let shared = f64::from(m.shared_experts) * facts::expert_params(m) * moe;
        let dense_mlp = facts::dense_mlp_params(m) * dense;
        let used = attention + dense_mlp + shared + f64::from(m.top_k) * facts::expert_params(m) * moe;
        // Two operations per weight and token; two more per element of the hidden state for norms and residuals.
        let token_flop = 2.0 * used + 2.0 * hidden * layers;
        // Scores and weighted values, 2 * head_dim each, and 5 operations of the softmax.
        let pair_flop = layers * heads * (4.0 * f64::from(m.head_dim) + 5.0);
        let peak_per_ns = facts::peak_flops(d, g) / 1e9;
        let (prefill, decode) = (peak_per_ns * g.mfu_prefill * tp, peak_per_ns * g.mfu_decode * tp);
        let bytes_per_ns = g.memory_tb_per_s * 1e3;
        let weight_bytes = d.dtype.bytes() / tp / bytes_per_ns;
        let kv_bytes = layers * facts::kv_numbers_per_gpu(d, m) * d.kv.kv_cache_dtype.bytes();
        let experts = f64::from(m.experts);
        Roofline {
            prefill_token_ns: token_flop / prefill,
            prefill_pair_ns: pair_flop / prefill,
            decode_token_ns: token_flop / decode,
            decode_pair_ns: pair_flop / decode,
            weights_ns: (attention + dense_mlp + shared) * weight_bytes,
            expert_ns: facts::expert_params(m) * moe * weight_bytes,
            experts,
            unused: if experts > 0.0 { ((experts - f64::from(m.top_k)) / experts).max(0.0) } else { 0.0 },
            kv_token_ns: kv_bytes / bytes_per_ns,
            activation_ns: layers * hidden * d.dtype.bytes() / tp / bytes_per_ns,
        }
    }

    /// Reading the weights that `tokens` new tokens need. Experts are taken to be chosen uniformly and independently:
    /// `experts * (1 - unused^tokens)` of them are read.
    fn read_weights(&self, tokens: f64) -> f64 {
        if self.expert_ns == 0.0 {
            return self.weights_ns;
        }
        self.weights_ns + self.expert_ns * self.experts * (1.0 - libm::pow(self.unused, tokens))
    }

    fn form(&self, decode_requests: u64) -> DecodeForm {
        let n = decode_requests as f64;
        DecodeForm {
            compute_ns: self.decode_token_ns * n,
            compute_ns_per_token: self.decode_pair_ns,
            memory_ns: self.read_weights(n) + (self.kv_token_ns + self.activation_ns) * n,
            memory_ns_per_token: self.kv_token_ns,
        }
    }
}

impl LatencyModel for Roofline {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        let (prefill, decode) = (s.prefill_tokens as f64, s.decode_requests as f64);
        // A chunk of n tokens after c: token k of it attends to c + k, so n * c + n (n - 1) / 2 in all.
        let pairs = s.prefill_tokens_x_context as f64 + (s.prefill_tokens_squared - s.prefill_tokens) as f64 / 2.0;
        let context = s.decode_context as f64;
        let compute = self.prefill_token_ns * prefill
            + self.prefill_pair_ns * pairs
            + self.decode_token_ns * decode
            + self.decode_pair_ns * context;
        let cached = prefill + s.prefill_context as f64 + decode + context;
        let memory =
            self.read_weights(prefill + decode) + self.kv_token_ns * cached + self.activation_ns * (prefill + decode);
        SimDuration(ns(compute.max(memory)))
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }
}
