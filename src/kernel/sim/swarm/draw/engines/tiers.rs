//! Scenarios of vLLM's V1 scheduler with tiers behind its prefix cache.

use super::super::{Dice, Sizes, kinds_of_layers};
use crate::scenario::{Cancel, Scenario};
use crate::sim::kv::plan;
use crate::sim::scheduler::{QueueOrder, Scheduler};
use crate::sim::tiers::{Device, Fetch, Replacement, Tier, TierKind, Ttl, WritePolicy};

/// See [`super::Engine::rules`].
pub(super) const RULES: &[&str] = &[
    "tiers: a fetch",
    "tiers: a fetch after a preemption",
    "tiers: a prefetch",
    "tiers: a blocking load",
    "tiers: several have parts",
    "tiers: computing is cheaper",
    "tiers: a transfer waits for others",
    "tiers: no room for a whole prompt",
    "tiers: a client goes during a fetch",
    "tiers: what engines share is read",
    "tiers: one leaves for another",
    "tiers: what is evicted is stored",
    "tiers: a fetch for a tenant",
    "tiers: a fetched request has an adapter",
];

/// For other schedulers that ask tiers, in some scenarios.
pub(super) fn beside(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    if dice.one_in(2) {
        let count = dice.pick(&[1, 1, 2]);
        let willing = dice.range(0, 2) > 0;
        s.deployment.kv.enable_prefix_caching = true;
        s.deployment.kv.tiers = (0..count)
            .map(|_| {
                let tier = tier(dice, sizes);
                if willing { all_of_it(dice, sizes, tier) } else { tier }
            })
            .collect();
        // About one long request, with what a prompt must leave.
        let few = u64::from((sizes.longest + sizes.block_size + 9).div_ceil(sizes.block_size));
        let fixed = plan::blocks_per_request(&s.deployment, &s.model);
        let blocks = &mut s.deployment.kv.num_gpu_blocks;
        *blocks = blocks.map(|blocks| if dice.one_in(3) { blocks } else { blocks.min(few + fixed) });
    }
}

/// One that keeps all, and gives it at once.
fn all_of_it(dice: &mut Dice, sizes: &Sizes, tier: Tier) -> Tier {
    let prefetch = dice.one_in(2);
    Tier {
        device: None,
        capacity_blocks: Some(u64::from(sizes.longest) * 100),
        read_gb_per_s: Some(1_000.0),
        write_gb_per_s: Some(1_000.0),
        latency_us: Some(0.0),
        write: WritePolicy::WriteThrough,
        replacement: Replacement::Lru,
        fetch: Fetch::Always,
        prefetch,
        blocking: !prefetch && dice.one_in(2),
        ..tier
    }
}

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    // What is asked for again has often left the cache.
    if dice.one_in(2) {
        let few = u64::from((sizes.longest + sizes.block_size).div_ceil(sizes.block_size));
        s.deployment.kv.num_gpu_blocks = s.deployment.kv.num_gpu_blocks.map(|blocks| blocks.min(few));
    }
    let seed = s.seed;
    kinds_of_layers(seed, s);
    let d = &mut s.deployment;
    if let Scheduler::VllmV1(rules) = &mut d.scheduler {
        rules.recompute_full_hits = true;
        if dice.one_in(6) {
            rules.scheduling_policy = QueueOrder::Fair;
        }
    }
    d.kv.enable_prefix_caching = true;
    if dice.one_in(3) {
        s.workload.cancel = Some(Cancel { share: 0.7, after_s: dice.pick(&[0.01, 0.1]) });
    }
    let count = dice.pick(&[1, 2, 2, 3]);
    d.kv.tiers = (0..count).map(|_| tier(dice, sizes)).collect();
}

fn tier(dice: &mut Dice, sizes: &Sizes) -> Tier {
    let write = dice.pick(&[WritePolicy::WriteThrough, WritePolicy::WriteThrough, WritePolicy::OnEvict]);
    let chunk = if write == WritePolicy::OnEvict { 1 } else { dice.pick(&[1, 1, 2, 4]) };
    let prompts = dice.pick(&[1, 2, 5, 100]);
    let blocks = u64::from((sizes.longest * prompts).div_ceil(sizes.block_size * chunk)) + u64::from(dice.range(0, 3));
    let device =
        if dice.one_in(4) { Some(dice.pick(&[Device::CpuDram, Device::NvmeGen4, Device::Sata])) } else { None };
    let rate = |dice: &mut Dice| match device {
        None => Some(dice.pick(&[0.3, 3.0, 30.0, 30.0, 1_000.0])),
        Some(_) => None,
    };
    let prefetch = dice.one_in(3);
    Tier {
        kind: dice.pick(&[TierKind::Cpu, TierKind::Disk, TierKind::Remote]),
        device,
        capacity_gib: None,
        capacity_blocks: Some(blocks),
        block_size: if chunk == 1 && dice.one_in(2) { None } else { Some(sizes.block_size * chunk) },
        read_gb_per_s: rate(dice),
        write_gb_per_s: rate(dice),
        latency_us: if dice.one_in(2) { Some(dice.pick(&[0.0, 1.0, 700.3, 3_000.0, 15_000.0])) } else { None },
        concurrency: dice.pick(&[1, 1, 2, 5]),
        write,
        replacement: match dice.range(0, 3) {
            0 => Replacement::Ttl(Ttl { s: dice.pick(&[0.003, 0.02, 0.3]) }),
            1 => Replacement::Pinned,
            _ => Replacement::Lru,
        },
        fetch: match dice.range(0, 7) {
            0 => Fetch::Never,
            1 | 2 => Fetch::Cheaper,
            _ => Fetch::Always,
        },
        shared: dice.one_in(3),
        prefetch,
        blocking: !prefetch && dice.one_in(3),
        contends_with_steps: dice.pick(&[0.0, 0.0, 0.0, 0.3, 2.0]),
    }
}
