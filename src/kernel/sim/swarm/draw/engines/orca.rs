//! Scenarios of [`Orca`].

use super::super::{Dice, Sizes, kinds_of_layers};
use crate::scenario::{Deployment, Scenario};
use crate::sim::scheduler::{Orca, Reserve, Scheduler};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "orca: a prompt beside tokens",
    "orca: all seats are taken",
    "orca: no room for the longest",
    "reserve: less than the longest",
    "reserve: windows and states beside",
    "lanes: formed while another batch is in flight",
    "lanes: three in flight",
    "lanes: formed for a request that came",
    "lanes: waits at a stage behind the first",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    let reserve = dice.pick(&[Reserve::RequestCap, Reserve::MaxModelLen]);
    let batch_size_cap = dice.pick(&[1, 2, 5, 20, 128]);
    s.deployment.scheduler = Scheduler::Orca(Orca { batch_size_cap, reserve });
    room(dice, sizes, &mut s.deployment);
    kinds_of_layers(s.seed, s);
}

/// Of two scenarios one has a cache for several of the longest requests: else one is reserved all of it, unless it asks for
/// less.
pub(super) fn room(dice: &mut Dice, sizes: &Sizes, d: &mut Deployment) {
    if dice.one_in(2) {
        d.max_model_len = Some(dice.range(2, sizes.longest * 2));
        d.kv.num_gpu_blocks = d.kv.num_gpu_blocks.map(|blocks| blocks * u64::from(dice.range(2, 9)));
    }
}
