//! Scenarios of vLLM's V1, and of version 0, all of whose requests may have several samples.

use super::super::{Dice, Sizes};
use super::vllm_v0;
use crate::scenario::Scenario;
use crate::sim::scheduler::Scheduler;

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "samples: several",
    "samples: one before the others",
    "samples: preempted",
    "samples: one never ran",
    "samples: two in the prompt's step",
];

pub(super) fn draw(_: &mut Dice, _: &Sizes, s: &mut Scenario) {
    s.deployment.encoder = None;
}

/// The same for version 0.
pub(super) const GROUPS: &[&str] = &[
    "groups: several sequences",
    "groups: a last block is copied",
    "groups: too few seats for all sequences",
    "groups: too few blocks for all sequences",
    "groups: swapped out",
    "groups: swapped where others are computed again",
    "groups: shared again",
    "groups: no room for a second token",
];

pub(super) fn groups(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    vllm_v0::draw(dice, sizes, s);
    (s.deployment.encoder, s.deployment.speculative, s.deployment.pp) = (None, None, 1);
    if let Scheduler::VllmV0(rules) = &mut s.deployment.scheduler
        && rules.watermark > 0.3
    {
        // Of few blocks, with some that a request holds whatever its length, it might leave none.
        rules.watermark = 0.3;
    }
}
