//! A regression on physical terms: the roofline's ingredients, each with a fitted factor.
//!
//! Terms and default coefficients of inference-sim's "trained-physics" backend (Apache-2.0, commit f90a1e3a), not
//! truncated to microseconds; the weights of all experts count in every step. Its fitted factor of prefill arithmetic is
//! far below what GPUs reach (0.152), so time to first token hardly depends on the prompt: good for decode-bound
//! questions only. Ranks that share experts each read their own. Left out: what such ranks exchange, and the term of models
//! that interleave dense and mixture layers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::work::{Costs, Work};
use super::{BatchShape, DecodeForm, LatencyModel, ns, shortest_of_growing};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::facts::ACTIVATION_BYTES;
use crate::sim::{WorkSums, facts};
use crate::units::SimDuration;

/// The cache is kept in bf16.
const KV_BYTES: f64 = 2.0;

/// `step = ` time at peak of every kind of work, each times its factor, `+ layer_us * layers + request_us * requests +
/// step_us`. In brackets the names of inference-sim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainedPhysics {
    /// Factor of the time of prefill arithmetic at peak (beta 1a).
    pub prefill_compute: f64,
    /// Factor of the time to write the cache of prompt tokens (beta 1b).
    pub prefill_kv: f64,
    /// Factor of the time of decode arithmetic at peak (beta 2a).
    pub decode_compute: f64,
    /// Factor of the time to read the cache of requests that decode (beta 2b).
    pub decode_kv: f64,
    /// Factor of the time to read the weights (beta 3).
    pub weights: f64,
    /// Factor of the time to exchange activations, at the bandwidth of GPU memory (beta 4).
    pub all_reduce: f64,
    /// Per layer of the model and step, in microseconds (beta 5).
    pub layer_us: f64,
    /// Per request in the batch, in microseconds (beta 6).
    pub request_us: f64,
    /// Per step, in microseconds (beta 7).
    pub step_us: f64,
    /// Between arrival and the scheduler's queue, in microseconds (alpha 0).
    pub queue_base_us: f64,
    /// From the last token until the client has the end of the reply, in microseconds (alpha 1).
    pub after_request_us: f64,
    /// From the end of a step until the client has its token, in microseconds (alpha 2).
    pub per_output_token_us: f64,
}

impl Default for TrainedPhysics {
    fn default() -> Self {
        TrainedPhysics {
            prefill_compute: 0.152_128,
            prefill_kv: 0.0,
            decode_compute: 0.0,
            decode_kv: 1.947_107_71,
            weights: 1.362_529_15,
            all_reduce: 0.752_037,
            layer_us: 32.095_467_17,
            request_us: 4.416_844_44,
            step_us: 126.024_825,
            queue_base_us: 15_563.199_579,
            after_request_us: 777.345_5,
            per_output_token_us: 45.907_545,
        }
    }
}

impl TrainedPhysics {
    /// Every coefficient with its path, for the check of a scenario.
    pub(crate) fn coefficients(&self) -> [(&'static str, f64); 12] {
        [
            ("deployment.latency.trained_physics.prefill_compute", self.prefill_compute),
            ("deployment.latency.trained_physics.prefill_kv", self.prefill_kv),
            ("deployment.latency.trained_physics.decode_compute", self.decode_compute),
            ("deployment.latency.trained_physics.decode_kv", self.decode_kv),
            ("deployment.latency.trained_physics.weights", self.weights),
            ("deployment.latency.trained_physics.all_reduce", self.all_reduce),
            ("deployment.latency.trained_physics.layer_us", self.layer_us),
            ("deployment.latency.trained_physics.request_us", self.request_us),
            ("deployment.latency.trained_physics.step_us", self.step_us),
            ("deployment.latency.trained_physics.queue_base_us", self.queue_base_us),
            ("deployment.latency.trained_physics.after_request_us", self.after_request_us),
            ("deployment.latency.trained_physics.per_output_token_us", self.per_output_token_us),
        ]
    }
}

/// The fitted terms, reduced to nanoseconds per unit of the batch's sums.
pub(crate) struct Terms {
    costs: Costs,
    fitted: TrainedPhysics,
    step_ns: f64,
    request_ns: f64,
    prefill_token_ns: f64,
    /// Per new token times (length of the whole prompt + half of the chunk).
    prefill_pair_ns: f64,
    decode_token_ns: f64,
    decode_context_ns: f64,
}

impl Terms {
    pub(crate) fn new(fitted: &TrainedPhysics, d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> Terms {
        let c = fitted;
        let costs = Costs::new(d, m, g);
        let tp = f64::from(d.tp);
        let layers = f64::from(m.layers);
        let flop_per_ns = facts::peak_flops(d, g) / 1e9;
        let bytes_per_ns = g.memory_tb_per_s * 1e3;
        let token_compute = costs.token_flop / tp / flop_per_ns;
        let pair_compute = costs.pair_flop / tp / flop_per_ns;
        let kv = costs.kv_numbers_per_gpu * KV_BYTES / bytes_per_ns;
        let weights =
            (costs.shared_params + costs.experts / costs.ranks * costs.expert_params) * costs.weight_bytes / tp;
        // One exchange per layer after the attention, and one after the feed-forward network.
        let exchanged = 2.0 * layers * f64::from(m.hidden) * ACTIVATION_BYTES;
        let exchange = exchanged * 2.0 * (tp - 1.0) / tp / bytes_per_ns * c.all_reduce;
        Terms {
            costs,
            fitted: *c,
            step_ns: c.weights * weights / bytes_per_ns + (c.layer_us * layers + c.step_us) * 1e3,
            request_ns: c.request_us * 1e3,
            prefill_token_ns: c.prefill_compute * token_compute + c.prefill_kv * kv + exchange,
            prefill_pair_ns: c.prefill_compute * pair_compute,
            decode_token_ns: c.decode_compute * token_compute + c.decode_kv * kv + exchange,
            decode_context_ns: c.decode_compute * pair_compute + c.decode_kv * kv,
        }
    }

    fn form(&self, decode_requests: u64) -> DecodeForm {
        let base = self.step_ns + (self.request_ns + self.decode_token_ns) * decode_requests as f64;
        DecodeForm::affine(base, self.decode_context_ns)
    }
}

impl LatencyModel for Terms {
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

    fn shortest_step(&self) -> SimDuration {
        shortest_of_growing(self)
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn before_queue(&self, _input_tokens: u32) -> SimDuration {
        SimDuration::from_us(self.fitted.queue_base_us)
    }

    fn after_token(&self) -> SimDuration {
        SimDuration::from_us(self.fitted.per_output_token_us)
    }

    fn after_request(&self) -> SimDuration {
        SimDuration::from_us(self.fitted.after_request_us)
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        Some(self.costs.work(sums))
    }

    fn peak(&self) -> Option<Work> {
        Some(self.costs.peak())
    }
}
