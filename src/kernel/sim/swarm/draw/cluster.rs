//! Clusters: pools, routers, what the gateway knows, and the way from prefill to decode replicas.

use std::collections::BTreeMap;

use super::{Dice, Sizes, latency, longest, rules};
use crate::pools::{
    Contention, Decider, Disaggregation, FirstToken, Pool, PoolFacts, Role, Signals, Threshold, Transfer,
};
use crate::request::Requests;
use crate::scenario::{Dtype, KvCache, ModelSpec, Scenario};
use crate::sim::router::{KvAware, PrefixAffinity, RankedSticky, Router, Scorers, TolerantSticky, Weighted};
use crate::sim::scheduler::{Scheduler, VllmV1};
use crate::sim::swarm::h100;

/// The second model of a cluster; the first is that of the deployment.
const SECOND: &str = "second";
/// What a token of Llama 3.1 8B takes in the cache: at this many GB/s it is sent in a millisecond.
const TOKEN_PER_MS: f64 = 131_072e-6;

/// Several replicas of one kind, with any router.
pub(super) fn one_pool(dice: &mut Dice, s: &mut Scenario, r: &mut Requests) {
    let d = &mut s.deployment;
    d.replicas = dice.pick(&[1, 2, 2, 3, 5]);
    d.dp = dice.pick(&[1, 1, 1, 2]);
    d.router = router(dice);
    d.signals = signals(dice);
    r.adapter = dice.column(2, r.len(), |dice| dice.range(0, 3));
}

/// Replicas of several kinds, roles and models.
pub(super) fn pools(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario, r: &mut Requests) {
    one_pool(dice, s, r);
    if dice.one_in(6) {
        s.deployment.kv.kv_cache_dtype = Dtype::Fp8;
    }
    s.deployment.disaggregation = disaggregation(dice, sizes);
    let models = if dice.one_in(3) { 2 } else { 1 };
    let mut drawn: Vec<(Role, usize)> = Vec::new();
    for model in 0..models {
        let mut roles = match dice.range(0, 3) {
            0 => vec![Role::Mixed; dice.range(1, 3) as usize],
            // Of one of the two there may be several kinds.
            1.. => match dice.range(0, 3) {
                0 => vec![Role::Prefill, Role::Decode, Role::Prefill],
                1 => vec![Role::Prefill, Role::Decode, Role::Decode],
                2.. => vec![Role::Prefill, Role::Decode],
            },
        };
        if dice.one_in(4) {
            roles.push(Role::Encode);
        }
        drawn.extend(roles.into_iter().map(|role| (role, model)));
    }
    // Numbers go by names: any order of roles.
    for last in (1..drawn.len()).rev() {
        drawn.swap(last, dice.range(0, last as u32) as usize);
    }
    let second = ModelSpec { layers: dice.pick(&[32, 16]), ..s.model.clone() };
    let mut named = BTreeMap::new();
    for ((role, model), name) in drawn.iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"]) {
        let pool = pool(dice, sizes, *role, s, r);
        let model_name = match model {
            0 if dice.one_in(2) => None,
            0 => Some(s.deployment.model.clone()),
            _ => Some(SECOND.to_string()),
        };
        named.insert(name.to_string(), Pool { model: model_name, ..pool });
        let model = if *model == 0 { s.model.clone() } else { second.clone() };
        s.pools.push(PoolFacts::new(&model, &h100()));
    }
    s.deployment.pools = named;
    if dice.one_in(3) {
        again(dice, r);
    }
    asked_models(dice, models, &s.deployment.model, r);
    if dice.one_in(6) {
        s.workload.horizon_s = Some(dice.pick(&[0.005, 0.0123, 0.03, 0.08]));
    }
    if dice.one_in(6) || drawn.iter().any(|(role, _)| *role == Role::Encode) {
        let tokens = |dice: &mut Dice, input: &u32| (!dice.one_in(3)).then(|| dice.range(1, *input));
        r.encoder_tokens = r.input_tokens.iter().map(|input| tokens(dice, input)).collect();
    }
}

/// Half of the requests ask what the first one asked: a cache may be where it is to be sent.
fn again(dice: &mut Dice, r: &mut Requests) {
    let (input, output) = (r.input_tokens[0], r.output_tokens[0]);
    let hashes: Vec<Vec<u64>> = (0..r.len())
        .map(|i| {
            let same = dice.one_in(2);
            if same {
                (r.input_tokens[i], r.output_tokens[i]) = (input, output);
            }
            r.hashes(if same { 0 } else { i }).to_vec()
        })
        .collect();
    if r.block_tokens > 0 {
        r.block_hash_offsets = vec![0];
        r.block_hashes.clear();
        for own in hashes {
            r.block_hashes.extend(own);
            r.block_hash_offsets.push(r.block_hashes.len() as u64);
        }
    }
}

/// Of two models a request asks for one; who asks for none gets the first.
fn asked_models(dice: &mut Dice, models: usize, first: &str, r: &mut Requests) {
    if models == 1 && !dice.one_in(4) {
        return;
    }
    let asked = |dice: &mut Dice| (!dice.one_in(4)).then(|| dice.range(0, models as u32 - 1));
    r.model = (0..r.len()).map(|_| asked(dice)).collect();
    r.model_names = [first, SECOND][..models].iter().map(|name| name.to_string()).collect();
}

fn pool(dice: &mut Dice, sizes: &Sizes, role: Role, s: &Scenario, r: &Requests) -> Pool {
    let d = &s.deployment;
    let mut pool = Pool {
        role,
        replicas: dice.pick(&[1, 1, 2, 3]),
        dp: dice.pick(&[None, None, None, Some(1), Some(2)]),
        max_model_len: if dice.one_in(6) { Some(dice.range(2, sizes.longest * 2)) } else { None },
        kv: if dice.one_in(3) { None } else { Some(cache(dice, sizes, &d.kv, r)) },
        latency: if dice.one_in(2) { None } else { Some(latency(dice, sizes)) },
        ..Pool::default()
    };
    let own = rules(dice, sizes, longest(&d.of_pool(&pool)));
    let whole_prompts = match &d.scheduler {
        Scheduler::VllmV1(rules) => !rules.enable_chunked_prefill,
        _ => false,
    };
    // The budget of the deployment holds its own longest prompt, not that of every pool.
    if whole_prompts || dice.one_in(2) {
        // Of an encoder's prompt nothing says how long it may be.
        let own = if role == Role::Encode { VllmV1 { enable_chunked_prefill: true, ..own } } else { own };
        pool.scheduler = Some(Scheduler::VllmV1(own));
    }
    pool
}

/// Another cache than the deployment's. Its blocks fit those of the trace.
fn cache(dice: &mut Dice, sizes: &Sizes, kv: &KvCache, r: &Requests) -> KvCache {
    let trace = r.block_tokens;
    let fits = |size: &u32| trace == 0 || trace.is_multiple_of(*size) || size.is_multiple_of(trace);
    let fitting: Vec<u32> = [1, 2, 4, 7, 16, trace, trace * 2].into_iter().filter(|s| *s > 0).filter(fits).collect();
    let block_size = dice.pick(&fitting);
    // About one long request, or several.
    let tokens = sizes.longest * dice.pick(&[1, 1, 2, 3, 30]);
    let blocks = u64::from((tokens.div_ceil(block_size) + dice.range(0, 2)).max(2));
    let enable_prefix_caching = !dice.one_in(4);
    KvCache { block_size, num_gpu_blocks: Some(blocks), enable_prefix_caching, ..kv.clone() }
}

fn signals(dice: &mut Dice) -> Signals {
    let refresh_ms = dice.pick(&[0.0, 0.0, 0.5, 1.0, 3.0, 20.0, 0.7]);
    // Also longer than the interval.
    let delay_ms = if refresh_ms > 0.0 { dice.pick(&[0.0, 0.0, 0.3, 1.0, 2.0, 7.0]) } else { 0.0 };
    Signals { refresh_ms, delay_ms }
}

pub(super) fn disaggregation(dice: &mut Dice, sizes: &Sizes) -> Disaggregation {
    let above = Threshold { above: dice.range(0, sizes.longest) };
    Disaggregation {
        decider: match dice.range(0, 7) {
            0 => Decider::Never,
            1 | 2 => Decider::PromptTokens(above),
            3 | 4 => Decider::UncachedTokens(above),
            5.. => Decider::Always,
        },
        decode_router: if dice.one_in(2) { Some(router(dice)) } else { None },
        first_token: dice.pick(&[FirstToken::Prefill, FirstToken::Transfer, FirstToken::Decode]),
        transfer: transfer(dice, sizes),
    }
}

fn transfer(dice: &mut Dice, sizes: &Sizes) -> Transfer {
    let tokens_per_ms = match sizes.round {
        true => dice.pick(&[0.5, 1.0, 1.0, 4.0, 10.0, 1e6]),
        false => dice.pick(&[0.3, 1.0, 3.7, 25.0, 190.7, 1e6]),
    };
    Transfer {
        bandwidth_gb_per_s: tokens_per_ms * TOKEN_PER_MS,
        latency_us: match sizes.round {
            true => dice.pick(&[0.0, 0.0, 1_000.0, 2_000.0]),
            false => dice.pick(&[0.0, 50.0, 333.3, 2_000.0]),
        },
        contention: dice.pick(&[Contention::None, Contention::Link, Contention::Link, Contention::Fabric]),
        layerwise: dice.one_in(3),
    }
}

fn router(dice: &mut Dice) -> Router {
    let capacity = dice.pick(&[1, 4, 20, 10_000]);
    match dice.range(0, 18) {
        0 => Router::RoundRobin,
        1 => Router::Random,
        2 => Router::LeastOutstanding,
        3 => Router::LeastQueued,
        4 => Router::LeastTokens,
        5 => Router::LopBinary,
        6 => Router::LopBatchEnd,
        7 => Router::LopUncached,
        8 => Router::StickyRoundRobin,
        9 => Router::StickyLor,
        10 => Router::StickyLop,
        11 => Router::TolerantStickyLopUncached(TolerantSticky { tolerance_factor: dice.pick(&[1.0, 1.5, 4.0]) }),
        12 => Router::RankedStickyLopUncached(RankedSticky { top_k: dice.range(1, 3) }),
        13 => Router::PowerOfTwo,
        14 => Router::PrefixAffinity(PrefixAffinity {
            cache_threshold: dice.pick(&[0.0, 0.3, 0.9]),
            balance_abs_threshold: dice.pick(&[0, 1, 4, 32]),
            balance_rel_threshold: dice.pick(&[1.0, 1.5, 3.0]),
            capacity,
        }),
        15 | 16 => Router::KvAware(KvAware {
            overlap_weight: dice.pick(&[0.0, 0.5, 1.0, 3.0]),
            temperature: dice.pick(&[0.0, 0.0, 0.3, 10.0]),
        }),
        17.. => Router::Weighted(Weighted { scorers: scorers(dice), capacity, max_loras: dice.range(1, 3) }),
    }
}

/// The default, one that counts alone, or a few.
fn scorers(dice: &mut Dice) -> Option<Scorers> {
    let mut s = Scorers::default();
    let scorers = [
        &mut s.precise_prefix_cache,
        &mut s.prefix_affinity,
        &mut s.no_hit_lru,
        &mut s.queue_depth,
        &mut s.kv_utilization,
        &mut s.load_balance,
        &mut s.active_requests,
        &mut s.running_requests,
        &mut s.load_aware,
        &mut s.lora_affinity,
    ];
    let (always, share) = (dice.range(0, 9) as usize, dice.pick(&[0, 2, 3]));
    for (at, weight) in scorers.into_iter().enumerate() {
        if at == always || (share > 0 && dice.one_in(share)) {
            *weight = dice.pick(&[0.5, 1.0, 2.0]);
        }
    }
    if dice.one_in(5) { None } else { Some(s) }
}
