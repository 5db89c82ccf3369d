//! What can be wrong with pools together: their number and names, who finishes a request, who chooses, what moves.

use std::collections::BTreeMap;

use super::Problems;
use crate::pools::{Decider, FirstToken, Role, Site};
use crate::scenario::Deployment;
use crate::sim::router::Router;
use crate::sim::scheduler::{SchedulePolicy, Scheduler};

/// Most engines of a deployment.
const ENGINES_MAX: u64 = 1 << 20;
/// A link from 1 MB/s to 1 PB/s.
const BANDWIDTH_GB_PER_S: (f64, f64) = (1e-3, 1e6);
/// Longest latency of a transfer: one minute.
const LATENCY_MAX_US: f64 = 60e6;
/// Looks at replicas lie 1 microsecond to 1 hour apart.
const REFRESH_MS: (f64, f64) = (1e-3, 3.6e6);

/// Whether the engines have numbers. What follows only makes sense if they do.
pub(super) fn countable(d: &Deployment, p: &mut Problems) -> bool {
    let own = |of: &Deployment| {
        // SGLang's settings may say the ranks.
        let dp = match &of.scheduler {
            Scheduler::Sglang(rules) => rules.sizes((of.tp, of.pp, of.dp)).2,
            _ => of.dp,
        };
        u64::from(of.replicas).saturating_mul(u64::from(dp))
    };
    let (path, engines) = match d.pools.is_empty() {
        true => ("deployment.replicas", own(d)),
        false => ("deployment.pools", d.pools.values().map(|pool| own(&d.of_pool(pool))).fold(0, u64::saturating_add)),
    };
    if engines > ENGINES_MAX {
        p.add(path, format!("{engines} engines in all; must be at most {ENGINES_MAX}"));
    }
    engines <= ENGINES_MAX
}

pub(super) fn check<'a>(d: &'a Deployment, sites: &[Site], p: &mut Problems<'a>) {
    names(d, p);
    roles(d, sites, p);
    exclusive(d, sites, p);
    router("deployment.router", &d.router, p);
    disaggregation(d, p);
    signals(d, p);
}

/// Names become columns of tables.
fn names(d: &Deployment, p: &mut Problems) {
    for name in d.pools.keys() {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !(name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(good)) {
            let message = "names of pools begin with a letter and have lower-case letters, digits, `_` and `-`";
            p.add(format!("deployment.pools.{name}"), message);
        }
    }
    let mut columns: BTreeMap<String, &str> = BTreeMap::new();
    for name in d.pools.keys() {
        if let Some(other) = columns.insert(name.replace('-', "_"), name) {
            let message = format!("`{other}` and `{name}` would have the same columns; rename one");
            p.add(format!("deployment.pools.{name}"), message);
        }
    }
}

/// Every model needs pools that take a request from its prompt to its last token, in one way.
fn roles(d: &Deployment, sites: &[Site], p: &mut Problems) {
    let mut models: BTreeMap<&str, Vec<&Site>> = BTreeMap::new();
    if !d.pools.is_empty() {
        sites.iter().for_each(|s| models.entry(&s.deployment.model).or_default().push(s));
    }
    for (model, sites) in models {
        let has = |role: Role| sites.iter().any(|s| s.role == role);
        let split = has(Role::Prefill) || has(Role::Decode);
        for site in &sites {
            let problem = match site.role {
                Role::Mixed if split => Some(format!(
                    "`{model}` has prefill or decode pools beside this mixed one; a model is served either by mixed \
                     pools or by prefill and decode pools"
                )),
                Role::Prefill if !has(Role::Decode) => {
                    Some(format!("no decode pool takes over the prompts of `{model}`; add one with `role: decode`"))
                }
                Role::Decode if !has(Role::Prefill) => Some(format!(
                    "no prefill pool computes the prompts of `{model}`; add one with `role: prefill`, or make this one \
                     `mixed`"
                )),
                Role::Encode if !split && !has(Role::Mixed) => Some(format!(
                    "no pool goes on with the requests of `{model}`; add one with `role: mixed`, or one each for \
                     `prefill` and `decode`"
                )),
                Role::Mixed | Role::Prefill | Role::Decode | Role::Encode => None,
            };
            if let Some(message) = problem {
                p.add(format!("deployment.pools.{}.role", site.name), message);
            }
        }
    }
}

/// Who can hand over a KV cache, or take one: the queueing model knows none.
fn exclusive<'a>(d: &'a Deployment, sites: &[Site], p: &mut Problems<'a>) {
    let decoders = sites.iter().any(|s| s.role == Role::Decode);
    let sglang = |site: &Site| matches!(site.deployment.scheduler, Scheduler::Sglang(_));
    let all_sglang = |model: &str| {
        let parts = sites.iter().filter(|s| matches!(s.role, Role::Prefill | Role::Decode));
        parts.filter(|s| s.deployment.model == model).all(sglang)
    };
    if sites.iter().any(|site| site.role == Role::Decode && sglang(site)) {
        if d.disaggregation.decider != Decider::Always {
            p.add("deployment.disaggregation.decider", "must be always: a decode server of SGLang computes no prompts");
        }
        if d.disaggregation.first_token == FirstToken::Decode {
            let message = "is decode: SGLang's first token comes from the prefill server; valid are prefill, transfer";
            p.add("deployment.disaggregation.first_token", message);
        }
    }
    let named = || d.pools.iter().map(|(name, pool)| Some((name.as_str(), pool))).chain([None]);
    for (site, pool) in sites.iter().zip(named()) {
        let message = match (&site.deployment.scheduler, site.role) {
            (Scheduler::VllmV1(_), _) => continue,
            (Scheduler::Exclusive(_), Role::Mixed) if !decoders => continue,
            (Scheduler::Exclusive(_), Role::Mixed) => {
                "the exclusive scheduler has no KV cache, and so no place beside decode pools; its own two stages are \
                 `decode_servers`"
                    .to_string()
            }
            (Scheduler::Exclusive(_), role) => format!(
                "the exclusive scheduler has no KV cache to hand over or to take, so no {} pool can have it; its own two \
                 stages are `decode_servers`, in a `mixed` pool",
                role.as_str()
            ),
            (_, Role::Mixed) => continue,
            (Scheduler::Sglang(rules), Role::Prefill | Role::Decode)
                if rules.schedule_policy == SchedulePolicy::Random =>
            {
                "schedule_policy random shuffles the queue at every look, and how often an engine that waits for room looks \
                 is not simulated: give prefill and decode pools another one"
                    .to_string()
            }
            (Scheduler::Sglang(_), Role::Prefill | Role::Decode) if all_sglang(&site.deployment.model) => continue,
            (Scheduler::Sglang(_), Role::Prefill | Role::Decode) => format!(
                "SGLang hands KV caches over to SGLang alone: all prefill and decode pools of `{}` must have it",
                site.deployment.model
            ),
            (_, Role::Encode) => "an encode pool runs vllm_v1; write `scheduler: { vllm_v1: {} }` in it".to_string(),
            (_, role) => format!(
                "only vllm_v1 and sglang hand KV caches over and take them: no {} pool can have another scheduler",
                role.as_str()
            ),
        };
        // An inherited scheduler is not wrong where it is written, but for this pool.
        let own = pool.is_none_or(|(_, pool)| pool.scheduler.is_some());
        p.pool = pool;
        p.add(if own { "deployment.scheduler" } else { "deployment.role" }, message);
        p.pool = None;
    }
}

fn router(path: &str, router: &Router, p: &mut Problems) {
    let at = |field: &str| format!("{path}.{field}");
    match router {
        Router::RoundRobin
        | Router::Random
        | Router::LeastOutstanding
        | Router::LeastQueued
        | Router::LeastTokens
        | Router::LopBinary
        | Router::LopBatchEnd
        | Router::LopUncached
        | Router::StickyRoundRobin
        | Router::StickyLor
        | Router::StickyLop
        | Router::PowerOfTwo => {}
        Router::TolerantStickyLopUncached(r) => {
            p.at_least_f64(at("tolerant_sticky_lop_uncached.tolerance_factor"), r.tolerance_factor, 1.0);
        }
        Router::RankedStickyLopUncached(r) => p.positive(at("ranked_sticky_lop_uncached.top_k"), r.top_k),
        Router::PrefixAffinity(r) => {
            p.within(at("prefix_affinity.cache_threshold"), r.cache_threshold, (0.0, 1.0), "");
            p.at_least_f64(at("prefix_affinity.balance_rel_threshold"), r.balance_rel_threshold, 1.0);
            p.positive(at("prefix_affinity.capacity"), r.capacity);
        }
        Router::KvAware(r) => {
            p.at_least_f64(at("kv_aware.overlap_weight"), r.overlap_weight, 0.0);
            p.at_least_f64(at("kv_aware.temperature"), r.temperature, 0.0);
        }
        Router::Weighted(r) => {
            p.positive(at("weighted.capacity"), r.capacity);
            p.positive(at("weighted.max_loras"), r.max_loras);
            let weights = r.scorers().weights();
            for (name, weight) in weights {
                p.at_least_f64(at(&format!("weighted.scorers.{name}")), weight, 0.0);
            }
            if weights.iter().all(|(_, weight)| *weight == 0.0) {
                let names: Vec<&str> = weights.iter().map(|(name, _)| *name).collect();
                let message = format!("all weights are 0; give one of {} a weight above 0", names.join(", "));
                p.add(at("weighted.scorers"), message);
            }
        }
    }
}

fn disaggregation(d: &Deployment, p: &mut Problems) {
    if let Some(decode) = &d.disaggregation.decode_router {
        router("deployment.disaggregation.decode_router", decode, p);
    }
    let transfer = &d.disaggregation.transfer;
    let bandwidth = transfer.bandwidth_gb_per_s;
    p.within("deployment.disaggregation.transfer.bandwidth_gb_per_s", bandwidth, BANDWIDTH_GB_PER_S, " GB/s");
    let latency = transfer.latency_us;
    p.within("deployment.disaggregation.transfer.latency_us", latency, (0.0, LATENCY_MAX_US), " microseconds");
}

fn signals(d: &Deployment, p: &mut Problems) {
    let (refresh, delay) = (d.signals.refresh_ms, d.signals.delay_ms);
    let (shortest, longest) = REFRESH_MS;
    if refresh != 0.0 && !(shortest..=longest).contains(&refresh) {
        let message = format!("is {refresh}; must be 0, or {shortest} to {longest} milliseconds");
        p.add("deployment.signals.refresh_ms", message);
    }
    p.within("deployment.signals.delay_ms", delay, (0.0, longest), " milliseconds");
    if delay > 0.0 && refresh == 0.0 {
        let message = "what is looked at at every decision has no delay; give `refresh_ms`, too";
        p.add("deployment.signals.delay_ms", message);
    }
}
