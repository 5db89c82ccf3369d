//! One roofline for a whole step: a step takes as long as its arithmetic or its memory traffic, whichever is longer.
//!
//! Formulas of inference-sim's roofline backend (Apache-2.0), in closed form over the sums of a batch, with two
//! differences: the feed-forward network counts as many matrices as the model has (`mlp_matrices`; inference-sim
//! always 2), and nothing is truncated to microseconds. Ranks that share experts are taken to run in balance (see `work.rs`). Left out:
//! communication between GPUs and between such ranks, kernel launches, and the overlap of pipeline stages (`pp` divides
//! memory, not time: a batch passes through all stages in turn).

use super::work::{Costs, Work};
use super::{BatchShape, DecodeForm, LatencyModel, ns, shortest_of_growing};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::{WorkSums, facts};
use crate::units::SimDuration;

/// Per-token and per-context costs of one replica, all per GPU.
pub(crate) struct SimpleRoofline {
    costs: Costs,
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
    /// Nanoseconds to read or write the cache of one token, and the activations of a new one.
    kv_token_ns: f64,
    activation_ns: f64,
}

impl SimpleRoofline {
    pub(crate) fn new(d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> SimpleRoofline {
        let costs = Costs::new(d, m, g);
        let tp = f64::from(d.tp);
        // Two more operations per element of the hidden state for norms and residuals, and 5 of the softmax per pair.
        let token_flop = costs.token_flop + 2.0 * costs.hidden_numbers;
        let pair_flop = costs.pair_flop + 5.0 * f64::from(facts::cache_layers(m)) * f64::from(m.heads);
        let peak_per_ns = facts::peak_flops(d, g) / 1e9;
        let (prefill, decode) = (peak_per_ns * g.mfu_prefill * tp, peak_per_ns * g.mfu_decode * tp);
        let bytes_per_ns = g.memory_tb_per_s * 1e3;
        let weight_bytes = d.dtype.bytes() / tp / bytes_per_ns;
        let kv_bytes = costs.kv_numbers_per_gpu * d.kv.kv_cache_dtype.bytes();
        SimpleRoofline {
            costs,
            prefill_token_ns: token_flop / prefill,
            prefill_pair_ns: pair_flop / prefill,
            decode_token_ns: token_flop / decode,
            decode_pair_ns: pair_flop / decode,
            weights_ns: costs.shared_params * weight_bytes,
            expert_ns: costs.expert_params * weight_bytes,
            kv_token_ns: kv_bytes / bytes_per_ns,
            activation_ns: costs.hidden_numbers * d.dtype.bytes() / tp / bytes_per_ns,
        }
    }

    /// Reading the weights that `tokens` new tokens need.
    fn read_weights(&self, tokens: f64) -> f64 {
        if self.expert_ns == 0.0 {
            return self.weights_ns;
        }
        self.weights_ns + self.expert_ns * self.costs.experts_read(tokens)
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

impl LatencyModel for SimpleRoofline {
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

    fn shortest_step(&self) -> SimDuration {
        shortest_of_growing(self)
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        Some(self.costs.work(sums))
    }

    fn peak(&self) -> Option<Work> {
        Some(self.costs.peak())
    }
}
