//! A fitted linear model: a step costs a base, plus something per prefill token and per decode token.
//!
//! The form that inference-sim calls "blackbox", for which fitted coefficients of many (model, GPU, TP, vLLM) sets are
//! public. It leaves out the context: a long cache costs no more than a short one.
//!
//! Old versions of that project give the coefficients of a step in seconds, newer ones in microseconds: `unit` says which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchShape, DecodeForm, LatencyModel, ns, shortest_of_growing};
use crate::units::SimDuration;

/// `step = base_us + per_prefill_token_us * prefill tokens + per_decode_token_us * decode tokens`; outside of steps,
/// `queue_base_us + queue_per_input_token_us * input` before the queue, `per_output_token_us` after a token, and
/// `after_request_us` after the last one on top. Times are in `unit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Time of every step in microseconds (inference-sim: beta 0).
    pub base_us: f64,
    /// Per prompt token computed in the step, in microseconds (beta 1).
    pub per_prefill_token_us: f64,
    /// Per request that decodes in the step, in microseconds (beta 2).
    pub per_decode_token_us: f64,
    /// Between arrival and the scheduler's queue, in microseconds (alpha 0).
    #[serde(default)]
    pub queue_base_us: f64,
    /// The same, per prompt token (alpha 1).
    #[serde(default)]
    pub queue_per_input_token_us: f64,
    /// From the end of a step until the client has its token, in microseconds (alpha 2).
    #[serde(default)]
    pub per_output_token_us: f64,
    /// From the last token until the client has the end of the reply, in microseconds (post-decode overhead).
    #[serde(default)]
    pub after_request_us: f64,
    /// What all these numbers are in, whatever their names say: `us`, `ms` or `s`.
    #[serde(default, skip_serializing_if = "TimeUnit::is_us")]
    pub unit: TimeUnit,
}

/// The unit of the times in a set of coefficients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Microseconds.
    #[default]
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
}

impl TimeUnit {
    /// Microseconds in one.
    pub(crate) fn us(self) -> f64 {
        match self {
            TimeUnit::Us => 1.0,
            TimeUnit::Ms => 1e3,
            TimeUnit::S => 1e6,
        }
    }

    pub(crate) fn is_us(&self) -> bool {
        *self == TimeUnit::Us
    }
}

impl Linear {
    /// The same in microseconds.
    pub(crate) fn in_us(&self) -> Linear {
        let us = self.unit.us();
        Linear {
            base_us: self.base_us * us,
            per_prefill_token_us: self.per_prefill_token_us * us,
            per_decode_token_us: self.per_decode_token_us * us,
            queue_base_us: self.queue_base_us * us,
            queue_per_input_token_us: self.queue_per_input_token_us * us,
            per_output_token_us: self.per_output_token_us * us,
            after_request_us: self.after_request_us * us,
            unit: TimeUnit::Us,
        }
    }

    /// Every coefficient with its path, for the check of a scenario.
    pub(crate) fn coefficients(&self) -> [(&'static str, f64); 7] {
        [
            ("deployment.latency.linear.after_request_us", self.after_request_us),
            ("deployment.latency.linear.base_us", self.base_us),
            ("deployment.latency.linear.per_prefill_token_us", self.per_prefill_token_us),
            ("deployment.latency.linear.per_decode_token_us", self.per_decode_token_us),
            ("deployment.latency.linear.queue_base_us", self.queue_base_us),
            ("deployment.latency.linear.queue_per_input_token_us", self.queue_per_input_token_us),
            ("deployment.latency.linear.per_output_token_us", self.per_output_token_us),
        ]
    }
}

/// Which of the published coefficients: by model, GPU and tensor-parallel size of the deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fitted {
    /// Version of vLLM that they were fitted to, such as `0.8.4`. Default: the newest there is.
    pub vllm_version: Option<String>,
}

/// The coefficients of one deployment, in microseconds: made by [`Linear::in_us`].
impl LatencyModel for Linear {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0 {
            return self.form(s.decode_requests).at(s.decode_context);
        }
        SimDuration(ns((self.base_us
            + self.per_prefill_token_us * s.prefill_tokens as f64
            + self.per_decode_token_us * s.decode_requests as f64)
            * 1e3))
    }

    fn shortest_step(&self) -> SimDuration {
        shortest_of_growing(self)
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        Some(self.form(decode_requests))
    }

    fn before_queue(&self, input_tokens: u32) -> SimDuration {
        SimDuration::from_us(self.queue_base_us + self.queue_per_input_token_us * f64::from(input_tokens))
    }

    fn after_token(&self) -> SimDuration {
        SimDuration::from_us(self.per_output_token_us)
    }

    fn after_request(&self) -> SimDuration {
        SimDuration::from_us(self.after_request_us)
    }
}

impl Linear {
    fn form(&self, decode_requests: u64) -> DecodeForm {
        DecodeForm::affine((self.base_us + self.per_decode_token_us * decode_requests as f64) * 1e3, 0.0)
    }
}
