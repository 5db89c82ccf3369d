//! Scenarios of vLLM's V1, all of whose requests may have several samples.

use super::super::{Dice, Sizes};
use crate::scenario::Scenario;

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
