//! Beams of requests, where engines know them: for all requests, for those of a class, or as they say themselves.

use super::Dice;
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::scheduler::Scheduler;
use crate::sim::{beams, check};

/// Most that are drawn where an engine takes any.
const MOST: u32 = 4;

pub(super) fn draw(seed: u64, s: &mut Scenario, requests: &mut Requests) {
    let dice = &mut Dice(rng::stream(seed, "swarm/beams"));
    match s.deployment.scheduler.beam_width() {
        Some(width) => {
            s.workload.beam_width = Some(width);
            requests.beam_width =
                dice.column(3, requests.len(), |dice| dice.pick(&[width, width, width, 1, width + 1]));
        }
        None => {
            s.workload.beam_width = Some(dice.range(1, MOST));
            for class in s.workload.classes.values_mut() {
                class.beam_width = if dice.one_in(2) { Some(dice.range(1, MOST)) } else { None };
            }
            requests.beam_width = dice.column(2, requests.len(), |dice| dice.range(1, MOST));
        }
    }
    if is_wrong(s, requests) && matches!(s.deployment.scheduler, Scheduler::FasterTransformer(_)) {
        // Memory for so many is beyond the cache.
        s.deployment.kv.num_gpu_blocks = s.deployment.kv.num_gpu_blocks.map(|blocks| blocks * u64::from(MOST + 1));
        if s.deployment.max_model_len.is_none() {
            let held = s.deployment.kv.num_gpu_blocks.unwrap_or(0) as u32 * s.deployment.kv.block_size;
            s.deployment.max_model_len = Some((held / (MOST + 1)).max(2));
        }
    }
    if is_wrong(s, requests) {
        (s.workload.beam_width, requests.beam_width) = (s.deployment.scheduler.beam_width(), Vec::new());
        s.workload.classes.values_mut().for_each(|class| class.beam_width = None);
    }
}

fn is_wrong(s: &Scenario, requests: &Requests) -> bool {
    check(s).is_err() || beams::check(s, requests).is_err()
}
