//! Pipeline stages, for the schedulers that are simulated with a batch for each.

use super::super::Dice;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::scheduler::Scheduler;

/// In half of the scenarios of such an engine.
pub(super) fn draw(name: &str, s: &mut Scenario) {
    let dice = &mut Dice(rng::stream(s.seed, &format!("swarm/lanes/{name}")));
    let knows = match &s.deployment.scheduler {
        Scheduler::Sarathi(_) | Scheduler::Orca(_) | Scheduler::FasterTransformer(_) | Scheduler::VllmV0(_) => true,
        Scheduler::VllmV1(_)
        | Scheduler::Lightllm(_)
        | Scheduler::Sglang(_)
        | Scheduler::Trtllm(_)
        | Scheduler::Exclusive(_) => false,
    };
    if knows && dice.one_in(2) {
        s.deployment.pp = dice.range(2, 4);
    }
}
