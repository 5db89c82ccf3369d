//! A regression on physical terms: the roofline's ingredients, each with a fitted factor.
//!
//! Terms and default coefficients of inference-sim's "trained-physics" backend (Apache-2.0, commit f90a1e3a), not
//! truncated to microseconds. Its fitted factor of prefill arithmetic is far below what GPUs reach (0.152), so time to
//! first token hardly depends on the prompt: good for decode-bound questions only. Left out: data parallelism, and the
//! term of models that interleave dense and mixture layers.

use super::{BatchShape, DecodeForm, LatencyModel, ns};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::facts;
use crate::units::SimDuration;

/// Factors of: prefill arithmetic, prefill cache traffic, decode arithmetic, decode cache traffic, weights, all-reduce.
const PREFILL_COMPUTE: f64 = 0.152_128;
const PREFILL_KV: f64 = 0.0;
const DECODE_COMPUTE: f64 = 0.0;
const DECODE_KV: f64 = 1.947_107_71;
const WEIGHTS: f64 = 1.362_529_15;
const ALL_REDUCE: f64 = 0.752_037;
/// Microseconds per layer, per request of the batch, and per step.
const LAYER_US: f64 = 32.095_467_17;
const REQUEST_US: f64 = 4.416_844_44;
const STEP_US: f64 = 126.024_825;
/// Microseconds before the queue, after a request, and after a token.
const BEFORE_QUEUE_US: f64 = 15_563.199_579;
const AFTER_REQUEST_US: f64 = 777.345_5;
const AFTER_TOKEN_US: f64 = 45.907_545;
/// Activations are exchanged, and the cache is kept, in bf16.
const ACTIVATION_BYTES: f64 = 2.0;
const KV_BYTES: f64 = 2.0;

/// The fitted terms, reduced to nanoseconds per unit of the batch's sums.
pub(crate) struct TrainedPhysics {
    step_ns: f64,
    request_ns: f64,
    prefill_token_ns: f64,
    /// Per new token times (length of the whole prompt + half of the chunk).
    prefill_pair_ns: f64,
    decode_token_ns: f64,
    decode_context_ns: f64,
}

impl TrainedPhysics {
    pub(crate) fn new(d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> TrainedPhysics {
        let tp = f64::from(d.tp);
        let (layers, hidden) = (f64::from(m.layers), f64::from(m.hidden));
        let (dense, moe) = (facts::dense_layers(m), facts::moe_layers(m));
        let flop_per_ns = facts::peak_flops(d, g) / 1e9;
        let bytes_per_ns = g.memory_tb_per_s * 1e3;
        let (dense_mlp, expert) = (facts::dense_mlp_params(m), facts::expert_params(m));
        let (top_k, shared) = (f64::from(m.top_k), f64::from(m.shared_experts));
        let used = layers * facts::attention_params(m) + dense * dense_mlp + moe * (top_k + shared) * expert;
        let token_compute = 2.0 * used / tp / flop_per_ns;
        let pair_compute = layers * 4.0 * (f64::from(m.heads) / tp) * f64::from(m.head_dim) / flop_per_ns;
        let kv = layers * facts::kv_numbers_per_gpu(d, m) * KV_BYTES / bytes_per_ns;
        let bytes = d.dtype.bytes();
        let weights = (layers * facts::attention_params(m) + dense * dense_mlp + moe * shared * expert) * bytes / tp
            + moe * (f64::from(m.experts) / tp) * expert * bytes;
        let exchange =
            (layers + dense + moe) * hidden * ACTIVATION_BYTES * 2.0 * (tp - 1.0) / tp / bytes_per_ns * ALL_REDUCE;
        TrainedPhysics {
            step_ns: WEIGHTS * weights / bytes_per_ns + (LAYER_US * layers + STEP_US) * 1e3,
            request_ns: REQUEST_US * 1e3,
            prefill_token_ns: PREFILL_COMPUTE * token_compute + PREFILL_KV * kv + exchange,
            prefill_pair_ns: PREFILL_COMPUTE * pair_compute,
            decode_token_ns: DECODE_COMPUTE * token_compute + DECODE_KV * kv + exchange,
            decode_context_ns: DECODE_COMPUTE * pair_compute + DECODE_KV * kv,
        }
    }

    fn form(&self, decode_requests: u64) -> DecodeForm {
        let base = self.step_ns + (self.request_ns + self.decode_token_ns) * decode_requests as f64;
        DecodeForm::affine(base, self.decode_context_ns)
    }
}

impl LatencyModel for TrainedPhysics {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        let pairs = s.prefill_tokens_x_input as f64 + s.prefill_tokens_squared as f64 / 2.0;
        SimDuration(ns(self.step_ns
            + self.request_ns * (s.decode_requests + s.prefill_requests) as f64
            + self.prefill_token_ns * s.prefill_tokens as f64
            + self.prefill_pair_ns * pairs
            + self.decode_token_ns * s.decode_requests as f64
            + self.decode_context_ns * s.decode_context as f64))
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn before_queue(&self, _input_tokens: u32) -> SimDuration {
        SimDuration::from_us(BEFORE_QUEUE_US)
    }

    fn after_token(&self) -> SimDuration {
        SimDuration::from_us(AFTER_TOKEN_US)
    }

    fn after_request(&self) -> SimDuration {
        SimDuration::from_us(AFTER_REQUEST_US)
    }
}
