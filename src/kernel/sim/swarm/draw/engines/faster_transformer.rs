//! Scenarios of [`FasterTransformer`].

use super::super::{Dice, Sizes, kinds_of_layers};
use super::orca::room;
use crate::scenario::Scenario;
use crate::sim::scheduler::{FasterTransformer, Reserve, Scheduler};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "faster_transformer: some are done before their batch",
    "faster_transformer: the queue waits for the batch",
    "faster_transformer: the batch is full",
    "faster_transformer: no room for the longest",
    "reserve: less than the longest",
    "reserve: windows and states beside",
    "lanes: formed while another batch is in flight",
    "lanes: three in flight",
    "lanes: formed for a request that came",
    "lanes: waits at a stage behind the first",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    s.deployment.scheduler = Scheduler::FasterTransformer(FasterTransformer {
        batch_size_cap: dice.pick(&[1, 2, 5, 20, 128]),
        reserve: dice.pick(&[Reserve::RequestCap, Reserve::MaxModelLen]),
        padded: !dice.one_in(3),
        remove_padding: dice.one_in(2),
    });
    room(dice, sizes, &mut s.deployment);
    kinds_of_layers(s.seed, s);
}
