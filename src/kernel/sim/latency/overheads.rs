//! What the host and the network add to any latency model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::work::Work;
use super::{BatchShape, DecodeForm, LatencyModel, TIME_MAX_US, ns};
use crate::sim::WorkSums;
use crate::units::SimDuration;

/// Largest coefficient of variation of a step: beyond, what is drawn in would be missed (see `jitter.rs`).
pub(crate) const JITTER_MAX: f64 = 1.0;

/// What the host and the network add, whatever the latency model. All 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Overheads {
    /// Per step, in microseconds: scheduling, launching, sampling.
    pub step_us: f64,
    /// Per request in the batch of a step, prompts and decodes alike, in microseconds.
    pub request_us: f64,
    /// Between arrival and the scheduler's queue, in microseconds: HTTP, tokenization.
    pub tokenize_us: f64,
    /// The same, per prompt token.
    pub tokenize_per_token_us: f64,
    /// From the end of a step until a token leaves the server, in microseconds: detokenization, streaming.
    pub detokenize_us: f64,
    /// Round trip between client and server, in milliseconds: half of it before the queue, half after every token.
    pub network_rtt_ms: f64,
    /// Jitter: the duration of every step (of the latency model, with `step_us` and `request_us`) is multiplied by a
    /// lognormal factor of mean 1 and this coefficient of variation, from the scenario's own stream. Factors beyond four
    /// standard deviations of their logarithm are drawn in. At most 1.
    pub jitter_cv: f64,
}

impl Overheads {
    fn all(&self) -> [(&'static str, f64, f64, &'static str); 7] {
        let us = |path, value| (path, value, TIME_MAX_US, " microseconds");
        [
            us("deployment.overheads.step_us", self.step_us),
            us("deployment.overheads.request_us", self.request_us),
            us("deployment.overheads.tokenize_us", self.tokenize_us),
            us("deployment.overheads.tokenize_per_token_us", self.tokenize_per_token_us),
            us("deployment.overheads.detokenize_us", self.detokenize_us),
            ("deployment.overheads.network_rtt_ms", self.network_rtt_ms, TIME_MAX_US / 1e3, " milliseconds"),
            ("deployment.overheads.jitter_cv", self.jitter_cv, JITTER_MAX, ""),
        ]
    }

    /// What is not 0, by path.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.all().into_iter().filter(|(_, value, ..)| *value != 0.0).map(|(path, ..)| path)
    }

    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let wrong = self.all().into_iter().filter(|(_, value, max, _)| !(0.0..=*max).contains(value));
        wrong.map(|(path, value, max, unit)| (path, format!("is {value}; must be 0 to {max}{unit}"))).collect()
    }
}

/// The model with the overheads around it; jitter is the engine's.
pub(crate) fn around(model: Box<dyn LatencyModel>, overheads: &Overheads) -> Box<dyn LatencyModel> {
    if *overheads == (Overheads { jitter_cv: overheads.jitter_cv, ..Overheads::default() }) {
        return model;
    }
    let way_us = overheads.network_rtt_ms * 1e3 / 2.0;
    Box::new(Around {
        model,
        step_ns: overheads.step_us * 1e3,
        request_ns: overheads.request_us * 1e3,
        before_us: overheads.tokenize_us + way_us,
        before_per_token_us: overheads.tokenize_per_token_us,
        after: SimDuration::from_us(overheads.detokenize_us + way_us),
    })
}

struct Around {
    model: Box<dyn LatencyModel>,
    step_ns: f64,
    request_ns: f64,
    before_us: f64,
    before_per_token_us: f64,
    after: SimDuration,
}

impl Around {
    fn added(&self, requests: u64) -> f64 {
        self.step_ns + self.request_ns * requests as f64
    }
}

impl LatencyModel for Around {
    fn step(&self, s: &BatchShape) -> SimDuration {
        if s.prefill_requests == 0
            && let Some(form) = self.decode_form(s.decode_requests)
        {
            return form.at(s.decode_context);
        }
        let added = ns(self.added(s.decode_requests + s.prefill_requests));
        SimDuration(self.model.step(s).0.saturating_add(added))
    }

    fn decode_form(&self, decode_requests: u64) -> Option<DecodeForm> {
        let (form, added) = (self.model.decode_form(decode_requests)?, self.added(decode_requests));
        Some(DecodeForm { compute_ns: form.compute_ns + added, memory_ns: form.memory_ns + added, ..form })
    }

    fn shortest_step(&self) -> SimDuration {
        // A model that does not know may say less than nothing. Sums that are rounded once may be 1 ns below.
        match self.model.shortest_step() {
            SimDuration::ZERO => SimDuration::ZERO,
            shortest => SimDuration(shortest.0.saturating_add(ns(self.added(1))) - 1),
        }
    }

    fn before_queue(&self, input_tokens: u32) -> SimDuration {
        let own = SimDuration::from_us(self.before_us + self.before_per_token_us * f64::from(input_tokens));
        self.model.before_queue(input_tokens) + own
    }

    fn after_token(&self) -> SimDuration {
        self.model.after_token() + self.after
    }

    fn after_request(&self) -> SimDuration {
        self.model.after_request()
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        self.model.work(sums)
    }

    fn peak(&self) -> Option<Work> {
        self.model.peak()
    }

    fn wants_spread(&self) -> bool {
        self.model.wants_spread()
    }

    fn extrapolated(&self) -> u64 {
        self.model.extrapolated()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Linear;
    use super::*;

    fn linear() -> Linear {
        Linear { base_us: 1_000.0, per_prefill_token_us: 2.0, per_decode_token_us: 3.0, ..Linear::default() }
    }

    #[test]
    fn overheads_are_added_to_what_the_model_says() {
        let linear = Linear { queue_base_us: 10.0, per_output_token_us: 20.0, after_request_us: 30.0, ..linear() };
        let overheads = Overheads {
            step_us: 100.0,
            request_us: 7.0,
            tokenize_us: 40.0,
            tokenize_per_token_us: 0.5,
            detokenize_us: 60.0,
            network_rtt_ms: 3.0,
            jitter_cv: 0.0,
        };
        let model = around(Box::new(linear), &overheads);
        let decode = BatchShape { decode_requests: 4, decode_context: 99, ..BatchShape::default() };
        let mixed = BatchShape { prefill_requests: 2, prefill_tokens: 50, ..decode };
        // 1,000 + 4 x 3 + 100 + 4 x 7 us; with the prompts 50 x 2 and 2 x 7 more.
        assert_eq!(model.step(&decode), SimDuration(1_140_000));
        assert_eq!(model.step(&mixed), SimDuration(1_254_000));
        assert_eq!(model.decode_form(4).unwrap().at(99), SimDuration(1_140_000));
        // One request: 1,000 + 2 + 100 + 7, less the ns that rounding may take.
        assert_eq!(model.shortest_step(), SimDuration(1_109_000 - 1));
        // 10 + 40 + 100 / 2 + 3,000 / 2, and 20 + 60 + 3,000 / 2.
        assert_eq!(model.before_queue(100), SimDuration(1_600_000));
        assert_eq!(model.after_token(), SimDuration(1_580_000));
        assert_eq!(model.after_request(), SimDuration(30_000));
        assert_eq!(model.work(&WorkSums::default()), None);
    }

    #[test]
    fn bad_overheads_are_named() {
        let wild = Overheads { jitter_cv: 1.01, ..Overheads::default() };
        assert_eq!(wild.problems(), [("deployment.overheads.jitter_cv", "is 1.01; must be 0 to 1".to_string())]);
        for value in [-1.0, f64::NAN, 1e12, f64::INFINITY] {
            let o = Overheads { request_us: value, jitter_cv: value, ..Overheads::default() };
            let paths: Vec<&str> = o.problems().iter().map(|(path, _)| *path).collect();
            assert_eq!(paths, ["deployment.overheads.request_us", "deployment.overheads.jitter_cv"], "{value}");
        }
        let o = Overheads { network_rtt_ms: 60_000.0, jitter_cv: 1.0, ..Overheads::default() };
        assert!(o.problems().is_empty());
        assert_eq!(o.given().count(), 2);
    }
}
