//! Pipeline stages, for the schedulers that are simulated with a batch for each.

use super::super::{Dice, Sizes, kinds_of_layers};
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::scheduler::Scheduler;

/// What every scenario of the long run together must fire with vLLM's V1, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "lanes: formed while another batch is in flight",
    "lanes: three in flight",
    "lanes: waits at a stage behind the first",
    "lanes: a batch leaves a request out",
    "lanes: a chunk follows one in flight",
    "lanes: a victim is in flight",
    "lanes: the head of the queue is on its way",
];

/// In half of the scenarios of the other engines that have batches in flight.
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

/// The scenarios of the swarm, with stages; in a few, what allows one batch at a time only.
pub(super) fn vllm_v1(dice: &mut Dice, _: &Sizes, s: &mut Scenario) {
    kinds_of_layers(s.seed, s);
    s.deployment.pp = dice.range(2, 4);
    if let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler {
        rules.async_scheduling &= dice.one_in(4);
        if rules.enable_chunked_prefill && dice.one_in(4) {
            // Fewer than there are replies.
            rules.max_num_batched_tokens = dice.range(1, 4);
        }
    }
}
