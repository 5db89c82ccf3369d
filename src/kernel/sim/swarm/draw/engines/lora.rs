//! LoRA adapters: few slots, many adapters, loads about as long as steps.

use super::super::{Dice, Sizes};
use crate::scenario::Scenario;
use crate::sim::lora::{Adapter, Gate, Loading, Lora, RankFactor};
use crate::sim::scheduler::Scheduler;

pub(super) const RULES: &[&str] = &[
    "lora: loaded in the step",
    "lora: loaded in the background",
    "lora: no slot for a load",
    "lora: one goes before another that waits for its adapter",
    "lora: the head holds up all",
    "lora: a slot is given up",
    "lora: read from disk",
    "lora: the host forgets",
];

/// Adapters for a scenario of any scheduler that heeds them.
pub(in super::super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    let max_loras = dice.pick(&[1, 1, 2, 3]);
    let ranks = [8, 12, 16, 32];
    let listed = dice.range(0, 4);
    let adapters = (0..listed).map(|number| (number.to_string(), Adapter { rank: dice.pick(&ranks) })).collect();
    let factors = |dice: &mut Dice| {
        let points = [(8, 0.02), (16, 0.035), (32, 0.06)].map(|(rank, factor)| RankFactor { rank, factor });
        points[..dice.range(1, 3) as usize].to_vec()
    };
    let us = |dice: &mut Dice, most: u32| {
        let us = f64::from(dice.range(0, most));
        if sizes.round { us * 1_000.0 } else { us * 333.3 }
    };
    let disk_gb_per_s = if dice.one_in(2) { Some(dice.pick(&[0.02, 1.0])) } else { None };
    let held = dice.one_in(2) && disk_gb_per_s.is_some();
    s.deployment.lora = Some(Lora {
        max_loras,
        max_cpu_loras: held.then(|| max_loras + dice.range(0, 2)),
        max_lora_rank: 32,
        default_rank: dice.pick(&[None, Some(1), Some(20)]),
        adapters,
        bytes_per_rank: Some(1e6 / 16.0),
        gate: match (&s.deployment.scheduler, dice.pick(&[Gate::Skip, Gate::HeadOfLine])) {
            (Scheduler::Sglang(_) | Scheduler::Trtllm(_), _) => Gate::Skip,
            (_, gate) => gate,
        },
        loading: match (&s.deployment.scheduler, dice.pick(&[Loading::InStep, Loading::Background])) {
            (Scheduler::Trtllm(_), _) => Loading::InStep,
            (_, loading) => loading,
        },
        load_base_us: us(dice, 4),
        // A millisecond for rank 16.
        load_gb_per_s: Some(dice.pick(&[1.0, 0.37, 100.0])),
        disk_base_us: us(dice, 3),
        disk_gb_per_s,
        step_us: us(dice, 1),
        per_adapter_us: if dice.one_in(2) { us(dice, 2) } else { 0.0 },
        factors: if dice.one_in(2) { factors(dice) } else { Vec::new() },
        ..Lora::default()
    });
}

/// Which adapter every request asks for.
pub(in super::super) fn asked(dice: &mut Dice, count: usize) -> Vec<Option<u32>> {
    let (adapters, none) = (dice.range(1, 8), dice.pick(&[0, 0, 3, 10]));
    (0..count).map(|_| (dice.range(1, 12) > none).then(|| dice.range(0, adapters - 1))).collect()
}
