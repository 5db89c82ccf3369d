//! A regression on two rooflines: prefill and decode each as long as their arithmetic or their cache traffic, whichever
//! is longer, times a fitted factor; then weights, layers and requests.
//!
//! Terms and default coefficients of inference-sim's "trained-roofline" backend (Apache-2.0; removed there in April
//! 2026), fitted to 13 runs of vLLM with four models on H100. Not truncated to microseconds. Where the facts of a model
//! say so, layers are dense, experts have their own size, and some are shared; inference-sim takes every layer of a
//! mixture for one of routed experts as wide as `intermediate`. A step of a mixture reads `top_k` experts per token until
//! all are read; ranks that share experts each their part of those that all their tokens choose. Peaks and weights follow the type of the weights. Left out: communication between GPUs, whose fitted
//! factor is 0, and the overlap of pipeline stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::work::{Costs, Work};
use super::{BatchShape, DecodeForm, LatencyModel, ns, shortest_of_growing};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::{WorkSums, facts};
use crate::units::SimDuration;

/// The cache is kept in bf16.
const KV_BYTES: f64 = 2.0;

/// `step = prefill * max(arithmetic, cache) + decode * max(arithmetic, cache) + weights * reading them + layer_us * layers
/// + request_us * requests + step_us`, all at peak. In brackets the names of inference-sim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainedRoofline {
    /// Factor of prefill (beta 1).
    pub prefill: f64,
    /// Factor of decode (beta 2).
    pub decode: f64,
    /// Factor of the time to read the weights (beta 3).
    pub weights: f64,
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

impl Default for TrainedRoofline {
    fn default() -> Self {
        TrainedRoofline {
            prefill: 0.772_649_133_530_949_9,
            decode: 1.127_489_556_719_325,
            weights: 1.055_990_187_276_685_3,
            layer_us: 43.500_541_908_701_074,
            request_us: 48.806_132_143_191_87,
            step_us: 0.0,
            queue_base_us: 9_315.338_771_116_985,
            after_request_us: 1_849.590_237_134_057_4,
            per_output_token_us: 1.707_938_912_246_939_7,
        }
    }
}

impl TrainedRoofline {
    /// Every coefficient with its path, for the check of a scenario.
    pub(crate) fn coefficients(&self) -> [(&'static str, f64); 9] {
        [
            ("deployment.latency.trained_roofline.prefill", self.prefill),
            ("deployment.latency.trained_roofline.decode", self.decode),
            ("deployment.latency.trained_roofline.weights", self.weights),
            ("deployment.latency.trained_roofline.layer_us", self.layer_us),
            ("deployment.latency.trained_roofline.request_us", self.request_us),
            ("deployment.latency.trained_roofline.step_us", self.step_us),
            ("deployment.latency.trained_roofline.queue_base_us", self.queue_base_us),
            ("deployment.latency.trained_roofline.after_request_us", self.after_request_us),
            ("deployment.latency.trained_roofline.per_output_token_us", self.per_output_token_us),
        ]
    }
}

/// The fitted terms, reduced to nanoseconds per unit of the batch's sums.
pub(crate) struct Terms {
    costs: Costs,
    fitted: TrainedRoofline,
    top_k: f64,
    /// Layers, and what a step costs whatever is in it.
    step_ns: f64,
    request_ns: f64,
    /// Reading the weights that every step reads, and one expert in all mixture layers.
    weights_ns: f64,
    expert_ns: f64,
    /// At peak, without factors: arithmetic of a token, and of a token and one that it attends to; cache of a token.
    token_ns: f64,
    pair_ns: f64,
    kv_ns: f64,
}

impl Terms {
    pub(crate) fn new(fitted: &TrainedRoofline, d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> Terms {
        let costs = Costs::new(d, m, g);
        let tp = f64::from(d.tp);
        let flop_per_ns = facts::peak_flops(d, g) / 1e9;
        let bytes_per_ns = g.memory_tb_per_s * 1e3;
        let read = |params: f64| fitted.weights * (params * costs.weight_bytes / tp / bytes_per_ns);
        Terms {
            costs,
            fitted: *fitted,
            top_k: f64::from(m.top_k),
            step_ns: (fitted.layer_us * f64::from(m.layers) + fitted.step_us) * 1e3,
            request_ns: fitted.request_us * 1e3,
            weights_ns: read(costs.shared_params),
            expert_ns: read(costs.expert_params),
            token_ns: costs.token_flop / tp / flop_per_ns,
            pair_ns: costs.pair_flop / tp / flop_per_ns,
            kv_ns: costs.kv_numbers_per_gpu * KV_BYTES / bytes_per_ns,
        }
    }

    /// What a step costs beside prefill and decode themselves.
    fn base(&self, requests: f64, tokens: f64) -> f64 {
        let ranks = self.costs.ranks;
        let experts = (tokens * ranks * self.top_k).clamp(self.top_k, self.costs.experts.max(self.top_k));
        self.weights_ns + self.expert_ns * experts / ranks + self.step_ns + self.request_ns * requests
    }

    fn form(&self, decode_requests: u64) -> DecodeForm {
        let (n, factor) = (decode_requests as f64, self.fitted.decode);
        let base = self.base(n, n);
        DecodeForm {
            compute_ns: base + factor * self.token_ns * n,
            compute_ns_per_token: factor * self.pair_ns,
            memory_ns: base + factor * self.kv_ns * n,
            memory_ns_per_token: factor * self.kv_ns,
        }
    }
}

impl LatencyModel for Terms {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        let (prefill, decode, context) = (s.prefill_tokens as f64, s.decode_requests as f64, s.decode_context as f64);
        // A chunk of n tokens attends to n * (whole prompt + n / 2), wherever in the prompt it is.
        let pairs = s.prefill_tokens_x_input as f64 + s.prefill_tokens_squared as f64 / 2.0;
        let prefill_ns = (self.token_ns * prefill + self.pair_ns * pairs).max(self.kv_ns * prefill);
        let decode_ns = (self.token_ns * decode + self.pair_ns * context).max(self.kv_ns * (context + decode));
        SimDuration(ns(self.fitted.prefill * prefill_ns
            + self.fitted.decode * decode_ns
            + self.base(decode + s.prefill_requests as f64, prefill + decode)))
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
