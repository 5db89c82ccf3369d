//! Latency models: step time from the shape of a batch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::units::SimDuration;

/// What a step's time may depend on. The engine keeps these sums up to date in O(1) per change.
///
/// A prefill chunk of `n` new tokens follows `context` tokens already computed, of a prompt of `input` tokens.
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

/// Time of a step, and what a request costs outside of steps.
pub trait LatencyModel: Send + Sync {
    /// Duration of a step; the engine takes at least 1 ns.
    fn step(&self, shape: &BatchShape) -> SimDuration;

    /// Between arrival and the queue of the scheduler (tokenization, HTTP).
    fn before_queue(&self, _input_tokens: u32) -> SimDuration {
        SimDuration::ZERO
    }

    /// From the end of a step until the client has the token; delays the client, never the engine.
    fn after_token(&self) -> SimDuration {
        SimDuration::ZERO
    }

    /// On top of [`LatencyModel::after_token`], for the last token of a request.
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
}

/// The model that a deployment names.
pub fn build(_deployment: &Deployment, _model: &ModelSpec, _gpu: &GpuSpec) -> Box<dyn LatencyModel> {
    unimplemented!()
}
