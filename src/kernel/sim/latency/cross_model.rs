//! A regression on four facts of a model, one set of coefficients for all models.
//!
//! Terms and default coefficients of inference-sim's "crossmodel" backend (Apache-2.0; removed there in April 2026),
//! fitted to vLLM on H100 with four models. Not truncated to microseconds. It leaves out the context and the arithmetic:
//! a long cache costs no more than a short one, and the prompt of a dense model costs nothing. A deployment on more than
//! one GPU pays a fixed 9.4 ms per step. Nothing of the GPU enters, so it holds for H100 only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchShape, DecodeForm, LatencyModel, ns, shortest_of_growing};
use crate::scenario::{Deployment, ModelSpec};
use crate::sim::facts;
use crate::units::SimDuration;

/// `step = layer_us * layers + decode_kv_us * decode tokens * (10^6 keys of one token on one GPU) + moe_token_us * tokens
/// (mixtures only) + tp_us (on more than one GPU only)`. In brackets the names of inference-sim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CrossModel {
    /// Per layer of the model and step, in microseconds (beta 0).
    pub layer_us: f64,
    /// Per request that decodes and million numbers in the keys of one token on one GPU, in microseconds (beta 1).
    pub decode_kv_us: f64,
    /// Per new token of a mixture of experts, in microseconds (beta 2).
    pub moe_token_us: f64,
    /// Per step with `tp` above 1, in microseconds (beta 3).
    pub tp_us: f64,
    /// Between arrival and the scheduler's queue, in microseconds (alpha 0).
    pub queue_base_us: f64,
    /// The same, per prompt token (alpha 1).
    pub queue_per_input_token_us: f64,
    /// From the end of a step until the client has its token, in microseconds (alpha 2).
    pub per_output_token_us: f64,
}

impl Default for CrossModel {
    fn default() -> Self {
        CrossModel {
            layer_us: 116.110,
            decode_kv_us: 1_226.868,
            moe_token_us: 19.943,
            tp_us: 9_445.157,
            queue_base_us: 13_732.0,
            queue_per_input_token_us: 0.0,
            per_output_token_us: 860.6,
        }
    }
}

impl CrossModel {
    /// Every coefficient with its path, for the check of a scenario.
    pub(crate) fn coefficients(&self) -> [(&'static str, f64); 7] {
        [
            ("deployment.latency.cross_model.layer_us", self.layer_us),
            ("deployment.latency.cross_model.decode_kv_us", self.decode_kv_us),
            ("deployment.latency.cross_model.moe_token_us", self.moe_token_us),
            ("deployment.latency.cross_model.tp_us", self.tp_us),
            ("deployment.latency.cross_model.queue_base_us", self.queue_base_us),
            ("deployment.latency.cross_model.queue_per_input_token_us", self.queue_per_input_token_us),
            ("deployment.latency.cross_model.per_output_token_us", self.per_output_token_us),
        ]
    }
}

/// The terms for one deployment.
pub(crate) struct Terms {
    fitted: CrossModel,
    step_ns: f64,
    prefill_token_ns: f64,
    decode_token_ns: f64,
}

impl Terms {
    pub(crate) fn new(fitted: &CrossModel, d: &Deployment, m: &ModelSpec) -> Terms {
        // Half of a cache entry are keys; of a latent cache, which has none, half is taken all the same.
        let keys = f64::from(facts::cache_layers(m)) * facts::kv_numbers_per_gpu(d, m) / 2.0;
        let exchange_us = if d.tp > 1 { fitted.tp_us } else { 0.0 };
        let token_us = if m.experts >= 2 { fitted.moe_token_us } else { 0.0 };
        Terms {
            fitted: *fitted,
            step_ns: (fitted.layer_us * f64::from(m.layers) + exchange_us) * 1e3,
            prefill_token_ns: token_us * 1e3,
            decode_token_ns: (fitted.decode_kv_us * keys / 1e6 + token_us) * 1e3,
        }
    }

    fn form(&self, decode_requests: u64) -> DecodeForm {
        DecodeForm::affine(self.step_ns + self.decode_token_ns * decode_requests as f64, 0.0)
    }
}

impl LatencyModel for Terms {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        SimDuration(ns(self.step_ns
            + self.prefill_token_ns * s.prefill_tokens as f64
            + self.decode_token_ns * s.decode_requests as f64))
    }

    fn shortest_step(&self) -> SimDuration {
        shortest_of_growing(self)
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn before_queue(&self, input_tokens: u32) -> SimDuration {
        let per_token_us = self.fitted.queue_per_input_token_us;
        SimDuration::from_us(self.fitted.queue_base_us + per_token_us * f64::from(input_tokens))
    }

    fn after_token(&self) -> SimDuration {
        SimDuration::from_us(self.fitted.per_output_token_us)
    }
}
