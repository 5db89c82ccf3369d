//! Scenarios of [`Trtllm`].

use super::super::{Dice, Sizes, kinds_of_layers};
use crate::scenario::Scenario;
use crate::sim::scheduler::{CapacitySchedulerPolicy, ContextChunkingPolicy, QueueOrder, Scheduler, Trtllm};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "trtllm: full",
    "trtllm: a static batch is not done",
    "trtllm: not enough blocks to completion",
    "trtllm: not enough blocks for a step",
    "trtllm: pauses himself",
    "trtllm: pauses the last",
    "trtllm: pauses for who waits",
    "trtllm: waits for a prefix",
    "trtllm: a context does not fit",
    "trtllm: chunks first come first served",
    "trtllm: a later chunk fits",
    "trtllm: chunks of equal progress",
    "trtllm: a first chunk behind a prefix",
    "trtllm: no room for all samples",
    "encoder: encoded before a prompt",
    "trtllm: windows and states do not fit",
    "trtllm: no slot for an adapter",
    "trtllm: no slot for an adapter ends the search",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    kinds_of_layers(s.seed, s);
    let policies = [
        CapacitySchedulerPolicy::GuaranteedNoEvict,
        CapacitySchedulerPolicy::MaxUtilization,
        CapacitySchedulerPolicy::MaxUtilization,
        CapacitySchedulerPolicy::StaticBatch,
    ];
    let mut rules = Trtllm {
        max_batch_size: dice.pick(&[1, 2, 5, 20, 256]),
        max_num_tokens: dice.pick(&[1, 3, 10, 40, 100, 2048]),
        capacity_scheduler_policy: dice.pick(&policies),
        enable_chunked_context: !dice.one_in(3),
        context_chunking_policy: dice
            .pick(&[ContextChunkingPolicy::FirstComeFirstServed, ContextChunkingPolicy::EqualProgress]),
        scheduling_policy: dice.pick(&[
            QueueOrder::Fcfs,
            QueueOrder::Fcfs,
            QueueOrder::Priority,
            QueueOrder::Sjf,
            QueueOrder::Edf,
            QueueOrder::LeastSlack,
            QueueOrder::Fair,
        ]),
        scheduler_overhead_us: dice.pick(&[0.0, 0.0, 0.0, 300.0, 1_000.0, 2_500.7]),
        ..Trtllm::default()
    };
    if rules.enable_chunked_context {
        rules.max_num_tokens = rules.max_num_tokens.max(sizes.block_size);
    } else if rules.capacity_scheduler_policy == CapacitySchedulerPolicy::MaxUtilization {
        let held = s.deployment.kv.num_gpu_blocks.unwrap_or(0) as u32 * s.deployment.kv.block_size;
        rules.max_num_tokens = rules.max_num_tokens.max(s.deployment.max_model_len.map_or(held, |l| l.min(held)));
    }
    s.deployment.scheduler = Scheduler::Trtllm(rules);
}
