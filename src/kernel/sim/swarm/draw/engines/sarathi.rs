//! Scenarios of [`Sarathi`].

use super::super::{Dice, Sizes};
use crate::scenario::Scenario;
use crate::sim::scheduler::{Sarathi, Scheduler};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[];

pub(super) fn draw(_dice: &mut Dice, _sizes: &Sizes, s: &mut Scenario) {
    s.deployment.scheduler = Scheduler::Sarathi(Sarathi::default());
}
