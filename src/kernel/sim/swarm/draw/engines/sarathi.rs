//! Scenarios of [`Sarathi`].

use super::super::{Dice, Sizes, kinds_of_layers};
use super::room_beside_watermark;
use crate::scenario::Scenario;
use crate::sim::scheduler::{Sarathi, Scheduler};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "sarathi: a prompt that has begun is cut again",
    "sarathi: no block is free, and none is needed",
    "sarathi: a prompt that is not done is preempted",
    "sarathi: the last one is preempted",
    "sarathi: a request preempts itself",
    "sarathi: all seats are taken",
    "sarathi: nothing is left for the queue",
    "sarathi: the watermark would not stay",
    "sarathi: too few blocks",
    "sarathi: admitted in a step that preempts",
    "sarathi: a new prompt is cut",
    "sarathi: the batch has its share of the seats",
    "lanes: formed while another batch is in flight",
    "lanes: three in flight",
    "lanes: formed for a request that came",
    "lanes: waits at a stage behind the first",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    kinds_of_layers(s.seed, s);
    s.deployment.scheduler = Scheduler::Sarathi(Sarathi {
        chunk_size: dice.pick(&[1, 3, 10, 40, 512]),
        batch_size_cap: if sizes.crowded { dice.pick(&[5, 20, 128]) } else { dice.pick(&[1, 2, 5, 20, 128]) },
        watermark_blocks_fraction: dice.pick(&[0.0, 0.01, 0.1, 0.3, 0.6]),
        scheduler_overhead_us: dice.pick(&[0.0, 0.0, 300.0, 2_500.7]),
    });
    room_beside_watermark(s);
}
