//! Latency models: step time from the shape of a batch.
//!
//! Float arithmetic here is `+ - * /` and [`libm`] only, so that every platform computes the same nanoseconds.

mod linear;
mod rates;
mod roofline;
mod trained_physics;

pub use linear::Linear;
pub use rates::Rates;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::units::SimDuration;

/// What a step's time may depend on. The engine keeps these sums up to date in O(1) per change.
///
/// A prefill chunk of `n` new tokens follows `context` tokens already computed, of a prompt of `input` tokens. For a
/// request that was preempted, the tokens it had generated are part of that prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchShape {
    pub decode_requests: u64,
    /// Sum over decode requests of the tokens already in the cache before the step.
    pub decode_context: u64,
    pub prefill_requests: u64,
    /// Sum of `n`.
    pub prefill_tokens: u64,
    /// Sum of `context`.
    pub prefill_context: u64,
    /// Sum of `n * context`.
    pub prefill_tokens_x_context: u64,
    /// Sum of `n * n`.
    pub prefill_tokens_squared: u64,
    /// Sum of `n * input`.
    pub prefill_tokens_x_input: u64,
}

/// The time of steps without prefill, for a fixed number of decode requests: the longer of two lines over the context.
///
/// The engine runs through millions of such steps; this spares it everything that does not change between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeForm {
    /// Arithmetic in nanoseconds: without context, and per context token.
    pub compute_ns: f64,
    pub compute_ns_per_token: f64,
    /// Memory traffic in nanoseconds: without context, and per context token.
    pub memory_ns: f64,
    pub memory_ns_per_token: f64,
}

impl DecodeForm {
    /// One line only.
    pub fn affine(ns: f64, ns_per_token: f64) -> DecodeForm {
        DecodeForm {
            compute_ns: ns,
            compute_ns_per_token: ns_per_token,
            memory_ns: ns,
            memory_ns_per_token: ns_per_token,
        }
    }

    /// Time of a step at a sum of contexts.
    #[inline]
    pub fn at(&self, decode_context: u64) -> SimDuration {
        // Contexts stay far below 2^63, and the signed conversion is one instruction.
        let context = decode_context as i64 as f64;
        let compute = self.compute_ns + self.compute_ns_per_token * context;
        let memory = self.memory_ns + self.memory_ns_per_token * context;
        SimDuration(ns(if compute > memory { compute } else { memory }))
    }
}

/// Whole nanoseconds, rounded down; saturates, and takes NaN as zero. Down, so that rounding down further, to whole
/// microseconds, gives what rounding down once would.
#[inline]
pub(crate) fn ns(x: f64) -> i64 {
    x as i64
}

/// Time of a step, and what a request costs outside of steps.
pub trait LatencyModel: Send + Sync {
    /// Duration of a step; the engine takes at least 1 ns.
    fn step(&self, shape: &BatchShape) -> SimDuration;

    /// The same for every step with this many decode requests and no prefill, if the model has such a form. Must give
    /// exactly what [`LatencyModel::step`] gives: implement `step` by it.
    fn decode_form(&self, _decode_requests: u64) -> Option<DecodeForm> {
        None
    }

    /// Between arrival and the queue of the scheduler (tokenization, HTTP).
    fn before_queue(&self, _input_tokens: u32) -> SimDuration {
        SimDuration::ZERO
    }

    /// From the end of a step until the client has the token; delays the client, never the engine.
    fn after_token(&self) -> SimDuration {
        SimDuration::ZERO
    }

    /// On top of [`LatencyModel::after_token`], for the end of a request. Not part of the gap before its last token.
    fn after_request(&self) -> SimDuration {
        SimDuration::ZERO
    }
}

/// The choice of a latency model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// Compute and memory bounds from the facts of model and GPU.
    #[default]
    Roofline,
    /// The roofline's terms with fitted factors and overheads (inference-sim's default).
    TrainedPhysics,
    /// Fitted: a base, and a cost per prefill and per decode token.
    Linear(Linear),
    /// Two throughput figures.
    Rates(Rates),
}

/// The model that a deployment names.
pub fn build(deployment: &Deployment, model: &ModelSpec, gpu: &GpuSpec) -> Box<dyn LatencyModel> {
    match &deployment.latency {
        Latency::Roofline => Box::new(roofline::Roofline::new(deployment, model, gpu)),
        Latency::TrainedPhysics => Box::new(trained_physics::TrainedPhysics::new(deployment, model, gpu)),
        Latency::Linear(linear) => Box::new(*linear),
        Latency::Rates(rates) => Box::new(*rates),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Dtype;
    use crate::sim::swarm::{h100, llama_8b, scenario_8b};

    fn shape(decode_requests: u64, context: u64, prompt: u64) -> BatchShape {
        BatchShape {
            decode_requests,
            decode_context: decode_requests * context,
            prefill_requests: u64::from(prompt > 0),
            prefill_tokens: prompt,
            prefill_tokens_squared: prompt * prompt,
            prefill_tokens_x_input: prompt * prompt,
            ..BatchShape::default()
        }
    }

    fn ms(latency: &str, tp: u32, dtype: Dtype, shape: &BatchShape) -> f64 {
        let mut d = scenario_8b().deployment;
        (d.latency, d.tp, d.dtype) = (serde_json::from_str(latency).unwrap(), tp, dtype);
        build(&d, &llama_8b(), &h100()).step(shape).as_ms()
    }

    #[test]
    fn steps_of_known_batches() {
        const LINEAR: &str = r#"{"linear": {"base_us": 1000, "per_prefill_token_us": 10, "per_decode_token_us": 3}}"#;
        const RATES: &str = r#"{"rates": {"prefill_tokens_per_s": 10000, "decode_tokens_per_s": 100}}"#;
        let (decode, prefill, both) = (shape(8, 1000, 0), shape(0, 0, 2000), shape(8, 1000, 2000));
        let cases = [
            // 6.98e9 weights of 2 bytes and 8008 tokens of 131,072 bytes, at 3.35 TB/s.
            (r#""roofline""#, 1, Dtype::Bf16, &decode, 4.4810),
            (r#""roofline""#, 2, Dtype::Bf16, &decode, 2.2405),
            (r#""roofline""#, 1, Dtype::Fp8, &decode, 2.3972),
            // 2 x 6.98e9 x 2000 operations, and those of attention, at 45 % of 989.5 TFLOP/s.
            (r#""roofline""#, 1, Dtype::Bf16, &prefill, 65.0758),
            (LINEAR, 1, Dtype::Bf16, &both, 21.024),
            (RATES, 1, Dtype::Bf16, &both, 210.0),
            (RATES, 1, Dtype::Bf16, &prefill, 200.0),
        ];
        for (latency, tp, dtype, shape, expect) in cases {
            let ms = ms(latency, tp, dtype, shape);
            assert!((ms / expect - 1.0).abs() < 1e-3, "{latency} tp {tp} {dtype:?} {shape:?}: {ms}, not {expect}");
        }
    }

    #[test]
    fn the_form_of_decode_steps_is_the_step() {
        let s = scenario_8b();
        let names = [r#""roofline""#, r#""trained_physics""#];
        for latency in names {
            let mut d = s.deployment.clone();
            d.latency = serde_json::from_str(latency).unwrap();
            let model = build(&d, &s.model, &s.gpu);
            for requests in [1, 7, 256] {
                let form = model.decode_form(requests).unwrap();
                for context in [1, 100, 5_000] {
                    let step = model.step(&shape(requests, context, 0));
                    assert_eq!(form.at(requests * context), step);
                }
            }
        }
        assert!(serde_json::from_str::<Latency>(r#"{"rates": {"prefill": 1}}"#).is_err());
    }
}
