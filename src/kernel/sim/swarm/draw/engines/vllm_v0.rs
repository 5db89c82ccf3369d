//! Scenarios of [`VllmV0`].

use super::super::{Dice, Sizes, kinds_of_layers, longest};
use super::room_beside_watermark;
use crate::scenario::Scenario;
use crate::sim::scheduler::{PreemptionMode, Scheduler, VllmV0};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "vllm_v0: swapped requests hold up the queue",
    "vllm_v0: replies wait for prompts",
    "vllm_v0: nothing but copies in a step",
    "vllm_v0: all seats are taken",
    "vllm_v0: the watermark would not stay",
    "vllm_v0: too few blocks",
    "vllm_v0: the step holds no more tokens",
    "vllm_v0: the step holds no more padded prompts",
    "vllm_v0: no block is free, and none is needed",
    "vllm_v0: a request preempts itself",
    "vllm_v0: the last one is preempted",
    "vllm_v0: swapped out",
    "vllm_v0: too few blocks to come back to",
    "vllm_v0: swapped in",
    "vllm_v0: the batch has its share of the seats",
    "vllm_v0: the batch has its share of those that decode",
    "lanes: formed while another batch is in flight",
    "lanes: three in flight",
    "lanes: formed for a request that came",
    "lanes: waits at a stage behind the first",
    "lanes: a batch leaves a request out",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    kinds_of_layers(s.seed, s);
    let longest = longest(&s.deployment);
    let max_num_seqs = if sizes.crowded { dice.pick(&[5, 20, 128]) } else { dice.pick(&[1, 2, 5, 20, 128]) };
    let tokens = longest.max(max_num_seqs) + dice.pick(&[0, 0, 10, 300]);
    s.deployment.scheduler = Scheduler::VllmV0(VllmV0 {
        max_num_batched_tokens: if dice.one_in(4) { None } else { Some(tokens) },
        max_num_seqs,
        watermark: dice.pick(&[0.0, 0.0, 0.01, 0.1, 0.3, 0.4]),
        pad_prompts: dice.one_in(3),
        preemption_mode: dice.pick(&[PreemptionMode::Recompute, PreemptionMode::Swap]),
        swap_space_gib: 400.0,
        swap_gb_per_s: dice.pick(&[0.3, 25.0]),
        scheduler_overhead_us: dice.pick(&[0.0, 0.0, 300.0, 2_500.7]),
    });
    room_beside_watermark(s);
}
