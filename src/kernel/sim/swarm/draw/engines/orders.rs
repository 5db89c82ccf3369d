//! Scenarios of vLLM's V1 scheduler with the orders of the queue that need more than the request: fair sharing, and slack.

use super::super::{Dice, Sizes};
use crate::scenario::Scenario;
use crate::sim::scheduler::{QueueOrder, Scheduler};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] =
    &["orders: estimate", "fair: raised to the lowest", "fair: raised to the last", "fair: another tenant goes first"];

pub(super) fn draw(dice: &mut Dice, _sizes: &Sizes, s: &mut Scenario) {
    let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { return };
    rules.scheduling_policy = dice.pick(&[QueueOrder::LeastSlack, QueueOrder::Fair, QueueOrder::Fair]);
    if dice.one_in(2) {
        rules.max_num_seqs = dice.range(1, 8);
    }
}
