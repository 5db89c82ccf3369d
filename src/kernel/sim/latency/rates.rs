//! Two throughput figures, as published in benchmark tables: prefill tokens per second of a replica, and decode tokens
//! per second of a request.
//!
//! The coarsest model that still has steps: decoding in company is free, and the context costs nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchShape, DecodeForm, LatencyModel, ns, shortest_of_growing};
use crate::units::SimDuration;

/// `step = prefill tokens / prefill_tokens_per_s + (1 / decode_tokens_per_s if any request decodes)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Prompt tokens per second of one replica.
    pub prefill_tokens_per_s: f64,
    /// Output tokens per second of one request, however many decode beside it.
    pub decode_tokens_per_s: f64,
}

impl LatencyModel for Rates {
    fn step(&self, s: &BatchShape) -> SimDuration {
        let decode = if s.decode_requests > 0 { 1e9 / self.decode_tokens_per_s } else { 0.0 };
        SimDuration(ns(s.prefill_tokens as f64 * 1e9 / self.prefill_tokens_per_s + decode))
    }

    fn shortest_step(&self) -> SimDuration {
        shortest_of_growing(self)
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        let base = if decode_requests > 0 { 1e9 / self.decode_tokens_per_s } else { 0.0 };
        Some(DecodeForm::affine(base, 0.0))
    }
}
