//! Scenarios of [`Sglang`].

use std::collections::BTreeMap;

use super::super::{Dice, Sizes, cluster};
use super::tiers;
use crate::pools::{Decider, FirstToken, Pool, PoolFacts, Role};
use crate::scenario::Scenario;
use crate::sim::kv::plan;
use crate::sim::scheduler::{AttentionBackend, KernelCost, SchedulePolicy, Scheduler, Sglang};

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "sglang: replies pause",
    "sglang: a cut prompt goes first",
    "sglang: a cut prompt goes on without room",
    "sglang: a cut prompt is cut by pages",
    "sglang: a prompt is cut",
    "sglang: no seat",
    "sglang: no tokens",
    "sglang: what is found cannot be evicted",
    "sglang: max_prefill_tokens",
    "sglang: chunk too small",
    "sglang: enough prompts",
    "sglang: full",
    "sglang: no longer full after prompts",
    "sglang: who ended is not noticed yet",
    "sglang: who ended still counts",
    "sglang: idle",
    "sglang: retracted",
    "sglang: lpm",
    "sglang: held back",
    "sglang: dfs-weight",
    "sglang: lof",
    "sglang: random",
    "sglang: kept once",
    "sglang: mixed",
    "sglang: not mixed for want of pages",
    "sglang: padded",
    "sglang: without a graph",
    "sglang: kernels cost",
    "sglang: replies in a row",
    "samples: behind their prompt",
    "samples: gone with their prompt",
    "tiers: a fetch",
    "tiers: a fetch after a preemption",
    "tiers: a prefetch",
    "tiers: a blocking load",
    "tiers: no room for a whole prompt",
    "tiers: what is evicted is stored",
    "tiers: a fetched request has an adapter",
    "lora: loaded in the step",
    "lora: loaded in the background",
    "lora: one goes before another that waits for its adapter",
    "lora: a slot is given up",
    "lora: a slot for those without an adapter",
    "lora: those without an adapter give up their slot",
    "encoder: encoded before a prompt",
    "encoder: encoded again",
    "sglang: a cache has come",
    "sglang: no seat for a cache that has come",
    "sglang: rests",
    "sglang: a fetched prompt is cut",
    "sglang: a cut prompt has its pages",
    "sglang: looks again behind a fetch",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    let page = i64::from(s.deployment.kv.block_size);
    let policies = [
        SchedulePolicy::Fcfs,
        SchedulePolicy::Lpm,
        SchedulePolicy::Lpm,
        SchedulePolicy::DfsWeight,
        SchedulePolicy::Lof,
        SchedulePolicy::Random,
    ];
    let chunks = if sizes.crowded { [-1, 2, 5, 500] } else { [-1, 1, 4, 40] };
    let chunk = dice.pick(&chunks);
    let mut rules = Sglang {
        schedule_policy: dice.pick(&policies),
        chunked_prefill_size: Some(if chunk > 0 { chunk * page } else { chunk }),
        max_prefill_tokens: dice.pick(&[1, 10, 60, 16_384, 16_384]),
        prefill_max_requests: if dice.one_in(8) { Some(dice.range(1, 3)) } else { None },
        max_running_requests: if dice.one_in(2) { Some(dice.pick(&[1, 2, 5, 20])) } else { None },
        disable_radix_cache: dice.one_in(8),
        schedule_conservativeness: dice.pick(&[0.0, 0.1, 0.3, 1.0, 1.5]),
        enable_mixed_chunk: dice.one_in(3),
        num_continuous_decode_steps: dice.pick(&[1, 1, 2, 5]),
        disable_overlap_schedule: dice.one_in(2),
        scheduler_overhead_us: dice.pick(&[0.0, 0.0, 0.0, 300.0, 1_000.0, 2_500.7]),
        cuda_graph_max_bs: Some(dice.pick(&[1, 3, 8, 24])),
        disable_cuda_graph: dice.one_in(4),
        disable_cuda_graph_padding: dice.one_in(4),
        new_token_ratio_decay_steps: dice.pick(&[1, 7, 30, 600]),
        retract_decode_steps: dice.pick(&[0, 3, 20]),
        clip_max_new_tokens_estimation: dice.pick(&[1, 6, 20, 4096]),
        in_batch_prefix_caching_check_threshold: dice.pick(&[-1, 0, 4, 32]),
        in_batch_prefix_caching_deprioritize_threshold: dice.pick(&[1, 8, 32]),
        ..Sglang::default()
    };
    if dice.one_in(4) {
        rules.attention_backend = Some(AttentionBackend::Triton);
        rules.decode_attention_backend = if dice.one_in(2) { Some(AttentionBackend::Fa3) } else { None };
        rules.kernel_factors = costs(dice);
    }
    // Replies take what a prompt that was cut counted on.
    if sizes.crowded && dice.one_in(2) {
        rules.enable_mixed_chunk = true;
        rules.chunked_prefill_size = Some(page * (i64::from(dice.range(6, 12)) / page + 1));
        rules.schedule_conservativeness = dice.pick(&[0.0, 0.1]);
        (rules.max_prefill_tokens, rules.max_running_requests) = (16_384, None);
    }
    // A prompt has all but seven tokens of the cache, and of what the model may be given.
    s.deployment.max_model_len = s.deployment.max_model_len.map(|len| len.max(10));
    let fixed = plan::blocks_per_request(&s.deployment, &s.model);
    if let Some(blocks) = &mut s.deployment.kv.num_gpu_blocks {
        *blocks = (*blocks).max(fixed + 10_u64.div_ceil(page as u64));
    }
    let split = dice.one_in(3);
    if split && rules.schedule_policy == SchedulePolicy::Random {
        rules.schedule_policy = SchedulePolicy::Lpm;
    }
    if !split {
        tiers::beside(dice, sizes, s);
        rules.disable_radix_cache &= s.deployment.kv.tiers.is_empty();
    }
    s.deployment.scheduler = Scheduler::Sglang(rules);
    if split {
        parts(dice, sizes, s);
    }
}

/// Prefill and decode servers.
fn parts(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    let roles = dice.pick(&[
        vec![Role::Prefill, Role::Decode],
        vec![Role::Decode, Role::Prefill],
        vec![Role::Decode, Role::Prefill, Role::Decode],
        vec![Role::Prefill, Role::Decode, Role::Prefill],
    ]);
    for (role, name) in roles.into_iter().zip(["a", "b", "c"]) {
        let mut kv = s.deployment.kv.clone();
        kv.num_gpu_blocks = kv.num_gpu_blocks.map(|blocks| blocks * u64::from(dice.range(1, 2)));
        let pool = Pool {
            role,
            replicas: dice.pick(&[1, 1, 2]),
            kv: if dice.one_in(2) { Some(kv) } else { None },
            ..Pool::default()
        };
        s.deployment.pools.insert(name.to_string(), pool);
        s.pools.push(PoolFacts::new(&s.model, &s.gpu));
    }
    let mut rules = cluster::disaggregation(dice, sizes);
    rules.decider = Decider::Always;
    rules.first_token = dice.pick(&[FirstToken::Prefill, FirstToken::Transfer]);
    s.deployment.disaggregation = rules;
}

fn costs(dice: &mut Dice) -> BTreeMap<String, BTreeMap<String, KernelCost>> {
    let mut cost = |parameter: &str, value: &str| {
        let cost = KernelCost {
            prefill: dice.pick(&[0.5, 1.0, 1.3]),
            prefill_us: dice.pick(&[0.0, 12.5]),
            decode: dice.pick(&[0.7, 1.0, 2.0]),
            decode_us: dice.pick(&[0.0, 30.0]),
        };
        (parameter.to_string(), BTreeMap::from([(value.to_string(), cost)]))
    };
    BTreeMap::from([
        cost("attention_backend", "triton"),
        cost("decode_attention_backend", "fa3"),
        cost("cuda_graph", "none"),
        cost("sampling_backend", "none"),
    ])
}
