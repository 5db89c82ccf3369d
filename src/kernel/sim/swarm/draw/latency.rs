//! Overheads, jitter, and models that the first thousands of scenarios did not know.

use super::{Dice, Sizes};
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::latency::{Constant, Latency, Overheads, Regression, Roofline};

/// Three sevenths of all seeds have something of it. None of those that once told of a mistake does: they go on to be what
/// they were.
pub(super) fn draw(seed: u64, sizes: &Sizes, s: &mut Scenario) {
    if !matches!(seed % 7, 0 | 4 | 6) {
        return;
    }
    let dice = &mut Dice(rng::stream(seed, "swarm/latency"));
    let (model, overheads, jitter) = (dice.one_in(2), dice.one_in(2), dice.one_in(2));
    if model {
        s.deployment.latency = latency(dice);
    }
    if overheads {
        s.deployment.overheads = added(dice, sizes);
    }
    if jitter {
        s.deployment.overheads.jitter_cv = dice.pick(&[0.03, 0.3, 1.0]);
    }
}

fn latency(dice: &mut Dice) -> Latency {
    match dice.range(0, 2) {
        0 => Latency::Roofline(Roofline { cuda_graph_max_bs: dice.pick(&[0, 4, 512]), ..Roofline::default() }),
        1 => Latency::Constant(Constant { step_us: dice.pick(&[1_000.0, 1_000.0, 777.777]) }),
        _ => {
            // Some of the coefficients of least squares are negative.
            let mut coefficient = |most: u32| f64::from(dice.range(0, most)) * 0.01 - f64::from(most) * 0.002;
            Latency::Regression(Regression {
                sum_decode_tokens_us: coefficient(9_000),
                sum_prefill_tokens_us: coefficient(3_000),
                max_prefill_tokens_us: coefficient(3_000),
                num_prefills_us: coefficient(90_000),
                sum_decode_tokens_squared_us: coefficient(10),
                sum_prefill_tokens_squared_us: coefficient(10),
                sum_decode_tokens_x_max_prefill_tokens_us: coefficient(30),
                max_prefill_tokens_x_num_prefills_us: coefficient(30),
                decode_context_us: coefficient(100),
                prefill_pairs_us: coefficient(10),
                queue_base_us: f64::from(dice.range(0, 3_000)),
                after_request_us: f64::from(dice.range(0, 300)),
                intercept_us: f64::from(dice.range(100, 4_000)),
                ..Regression::default()
            })
        }
    }
}

fn added(dice: &mut Dice, sizes: &Sizes) -> Overheads {
    let unit = if sizes.round { 1_000.0 } else { 333.3 };
    let mut some = |most: u32| f64::from(dice.range(0, most)) * unit;
    Overheads {
        step_us: some(2),
        request_us: some(1),
        tokenize_us: some(3),
        tokenize_per_token_us: some(1) / 10.0,
        detokenize_us: some(2),
        network_rtt_ms: some(6) / 1_000.0,
        jitter_cv: 0.0,
    }
}
