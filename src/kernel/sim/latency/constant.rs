//! Every step takes the same time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchShape, DecodeForm, LatencyModel, TIME_MAX_US, not_in};
use crate::units::SimDuration;

/// A step takes `step_us`, whatever is in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// In microseconds.
    pub step_us: f64,
}

impl Constant {
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        not_in("deployment.latency.constant.step_us", self.step_us, TIME_MAX_US, " microseconds")
    }
}

impl LatencyModel for Constant {
    fn step(&self, _: &BatchShape) -> SimDuration {
        SimDuration::from_us(self.step_us)
    }

    fn shortest_step(&self) -> SimDuration {
        SimDuration::from_us(self.step_us)
    }

    fn decode_form(&self, _: u64) -> Option<DecodeForm> {
        Some(DecodeForm::affine(SimDuration::from_us(self.step_us).0 as f64, 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_takes_the_same_time() {
        let model = Constant { step_us: 1_234.567 };
        let prompt = BatchShape { prefill_requests: 1, prefill_tokens: 9_000, ..BatchShape::default() };
        let decode = BatchShape { decode_requests: 99, decode_context: 1 << 40, ..BatchShape::default() };
        for shape in [prompt, decode] {
            assert_eq!(model.step(&shape), SimDuration(1_234_567), "{shape:?}");
        }
        assert_eq!(model.decode_form(99).map(|form| form.at(1 << 40)), Some(SimDuration(1_234_567)));
        assert_eq!(model.shortest_step(), SimDuration(1_234_567));
    }

    #[test]
    fn a_step_takes_time() {
        for step_us in [0.0, -1.0, f64::NAN, f64::INFINITY, 60.001e6] {
            assert_eq!(Constant { step_us }.problems().len(), 1, "{step_us}");
        }
        for step_us in [1e-3, 60e6] {
            assert!(Constant { step_us }.problems().is_empty(), "{step_us}");
        }
    }
}
