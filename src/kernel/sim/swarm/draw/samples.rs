//! Several samples of a request, where engines know them.

use super::Dice;
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::samples;

/// In one of `one_in` scenarios: for all requests, for those of a class, or as they say themselves.
pub(super) fn draw(seed: u64, one_in: u32, s: &mut Scenario, requests: &mut Requests) {
    let dice = &mut Dice(rng::stream(seed, "swarm/samples"));
    if !dice.one_in(one_in) {
        return;
    }
    let without = (s.workload.clone(), requests.n.clone());
    if dice.one_in(2) {
        s.workload.n = Some(dice.range(1, 4));
    }
    for class in s.workload.classes.values_mut() {
        class.n = if dice.one_in(2) { Some(dice.range(1, 3)) } else { None };
    }
    requests.n = dice.column(2, requests.len(), |dice| dice.pick(&[1, 2, 2, 3, 5]));
    if samples::check(s, requests).is_err() {
        (s.workload, requests.n) = without;
    }
}
