//! Scenarios of [`Lightllm`].

use super::super::{Dice, Sizes, kinds_of_layers, longest};
use crate::scenario::Scenario;
use crate::sim::scheduler::{Lightllm, Scheduler};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "lightllm: the queue is not looked at",
    "lightllm: tokens wait for prompts",
    "lightllm: all seats are taken",
    "lightllm: the prompts of the step are too long",
    "lightllm: the forecast refuses",
    "lightllm: alone against the forecast",
    "lightllm: windows and states are forecast",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    let d = &mut s.deployment;
    // A cache of as many tokens, or of several times as many, or one that single prompts fill.
    let tokens = d.kv.num_gpu_blocks.unwrap_or(2) as u32 * d.kv.block_size;
    let cache = match dice.range(0, 4) {
        0 | 1 => tokens,
        2 | 3 => tokens * dice.range(2, 9),
        _ => dice.range(2, sizes.longest),
    };
    (d.kv.block_size, d.kv.num_gpu_blocks) = (1, Some(u64::from(cache)));
    d.max_model_len = match dice.range(0, 2) {
        0 => None,
        1 => Some(dice.range(2, tokens.min(cache))),
        _ => d.max_model_len.map(|said| said.min(cache)),
    };
    kinds_of_layers(s.seed, s);
    let longest = longest(&s.deployment);
    s.deployment.scheduler = Scheduler::Lightllm(Lightllm {
        batch_max_tokens: if dice.one_in(2) { Some(longest + dice.range(0, sizes.longest)) } else { None },
        running_max_req_size: dice.pick(&[1, 2, 5, 20, 1000]),
        max_waiting_iters: dice.pick(&[0, 1, 2, 3, 10, 10]),
    });
}
