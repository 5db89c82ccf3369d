//! The fast engine: what all engines of a scenario share, built from its settings.
//!
//! | file | does |
//! |---|---|
//! | [`cluster`](super::cluster) | passes time: what happens at which instant, and in which order |
//! | [`dispatch`](super::dispatch) | arrivals and ends of requests and of their parts |
//! | [`gateway`](super::gateway), [`flow`](super::flow) | routers and what they know; what is sent when |
//! | [`disagg`](super::disagg), [`transfer`](super::transfer) | requests of several parts; bytes on their way |
//! | [`harvest`](super::harvest) | rows in order, totals |

use std::sync::atomic::AtomicBool;

use super::cluster::Cluster;
use super::encoder::Encoder;
use super::gateway::{Gateway, PoolKind};
use super::groups::Hold;
use super::kv::hashes::Derivation;
use super::kv::{hashes, plan};
use super::latency::LatencyModel;
use super::load::Demand;
use super::node::{Engine, Env, Reports};
use super::replica::Replica;
use super::scheduler::{Scheduler, exclusive};
use super::tiers::{self, Shared, TierFacts};
use super::{Parts, SimError, Sink, Summary, lanes, latency, lora};
use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::scenario::{Deployment, ModelSpec, Scenario};
use crate::units::{SimDuration, SimTime, Tick};

/// Longest step: 13 days. A latency model that asks for more is not sensible.
pub(super) const STEP_MAX_NS: i64 = 1 << 50;
/// 73 years. No run of steps that starts before it can overflow the clock.
pub(super) const HORIZON: SimTime = SimTime(1 << 61);

/// Longest prompt plus output that an engine takes: what the deployment says, the model allows, and the cache holds.
pub(super) fn max_len(d: &Deployment, model: &ModelSpec, blocks: u64) -> u32 {
    let said = d.max_model_len.unwrap_or(model.max_pos);
    let fixed = plan::blocks_per_request(d, model);
    let held = d.scheduler.most_tokens(blocks, fixed, d.kv.block_size);
    u64::from(said).min(held).min(u64::from(u32::MAX / 4)) as u32
}

/// A time outside of steps: not negative, at most 13 days, in whole ticks.
pub(super) fn bounded(time: SimDuration, tick: Option<Tick>) -> SimDuration {
    let quantum = tick.map_or(1, |t| t.duration().0);
    SimDuration(time.0.clamp(0, STEP_MAX_NS) / quantum * quantum)
}

pub(super) fn too_long() -> SimError {
    SimError::Invalid {
        path: "deployment.latency".into(),
        message: "simulated time passes 73 years: the load, or the steps, must be far from what is meant".to_string(),
    }
}

/// The demand of a scenario that can be simulated.
///
/// # Errors
/// The first problem of the scenario, or of its requests.
pub(super) fn accept<'a>(scenario: &Scenario, requests: &'a Requests) -> Result<Demand<'a>, SimError> {
    if let Err(problems) = super::check(scenario) {
        return Err(problems.into_iter().next().unwrap_or(SimError::Cancelled));
    }
    super::samples::check(scenario, requests)?;
    super::beams::check(scenario, requests)?;
    let demand = Demand::new(&scenario.workload, requests, scenario.seed)?;
    if demand.last().is_some_and(|t| t > HORIZON) {
        return Err(too_long());
    }
    Ok(demand)
}

pub(super) fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    parts: Parts,
) -> Result<Summary, SimError> {
    let Parts { quirks, models, draws } = parts;
    let completed = super::samples::complete(scenario, requests);
    let requests = completed.as_ref();
    let demand = accept(scenario, requests)?;
    let sites = scenario.sites();
    let kinds = sites.iter().map(|site| kind(site, requests)).collect::<Result<Vec<_>, _>>()?;
    let mut gateway = Gateway::new(scenario, &sites, &kinds, requests)?;
    gateway.sets.iter_mut().zip(draws).for_each(|(set, draws)| set.picker.draw_from(draws));
    let mut models = models.into_iter();
    let models: Vec<Box<dyn LatencyModel>> =
        sites.iter().map(|site| models.next().map_or_else(|| latency::of(site), Ok)).collect::<Result<_, _>>()?;
    let reports = Reports {
        prompts: sink.wants_routes() || gateway.sets.iter().any(|set| set.needs.prompts),
        progress: gateway.sets.iter().any(|set| set.needs.progress),
    };
    let env = |at: usize| {
        let (d, model) = (&sites[at].deployment, &*models[at]);
        Env {
            demand: &demand,
            requests,
            model,
            adapters: lora::Plan::new(&sites[at], requests),
            after_token: bounded(model.after_token(), d.tick),
            after_request: bounded(model.after_request(), d.tick),
            seed: scenario.seed,
            jitter_cv: d.overheads.jitter_cv,
            quirks,
            tick: d.tick,
            max_len: match d.scheduler.common() {
                Some(_) => max_len(d, &sites[at].model, kinds[at].blocks),
                None => d.max_model_len.unwrap_or(u32::MAX / 4),
            },
            groups: Hold::of(&sites[at], kinds[at].blocks, &demand),
            encoder: Encoder::of(&sites, at, requests),
            fixed_blocks: plan::blocks_per_request(d, &sites[at].model) as u32,
            longest_prompt: d.scheduler.longest_prompt(),
            beam_width: d.scheduler.beam_width(),
            bytes_per_block: plan::plan(d, &sites[at].model, &sites[at].gpu).bytes_per_block,
            wants_steps: sink.wants_steps(),
            reports,
            stop,
        }
    };
    let envs: Vec<Env<'_>> = (0..sites.len()).map(env).collect();
    let (mut engines, mut shared) = (Vec::new(), Vec::new());
    for ((site, kind), env) in sites.iter().zip(&kinds).zip(&envs) {
        let watched = gateway.watches(site.first);
        let tiers = tiers::facts_of(site, requests)?;
        shared.push(Shared::new(&tiers));
        let ids = site.first..site.first + site.engines();
        engines.extend(ids.map(|id| engine(id, site, (kind, &tiers), watched, env)));
    }
    let mut summary = Cluster::new(scenario, &sites, &kinds, envs, (engines, shared), gateway, sink).run()?;
    for (pool, model) in summary.pools.iter_mut().zip(&models) {
        // What the engines counted until here are steps that the model was asked for, but that did not run.
        pool.latency_extrapolated_steps = model.extrapolated().saturating_sub(pool.latency_extrapolated_steps);
    }
    summary.latency_extrapolated_steps = summary.pools.iter().map(|pool| pool.latency_extrapolated_steps).sum();
    Ok(summary)
}

/// What a pool's engines are to a router.
fn kind(site: &Site, requests: &Requests) -> Result<PoolKind, SimError> {
    let d = &site.deployment;
    Ok(match d.scheduler.common() {
        Some(common) => PoolKind {
            derivation: match site.role {
                // The trace knows nothing of what an encoder sees.
                Role::Encode => Derivation::None,
                Role::Mixed | Role::Prefill | Role::Decode => {
                    let caches = d.kv.enable_prefix_caching && common.caches_prefixes;
                    hashes::derivation(requests, d.kv.block_size, caches)?.with(d.lora.is_some())
                }
            },
            blocks: plan::blocks(d, &site.model, &site.gpu)?,
            recompute_full_hits: common.recompute_full_hits,
        },
        None => PoolKind { derivation: Derivation::None, blocks: 0, recompute_full_hits: true },
    })
}

fn engine(id: u32, site: &Site, (kind, tiers): (&PoolKind, &[TierFacts]), watched: bool, env: &Env<'_>) -> Engine {
    let d = &site.deployment;
    match &d.scheduler {
        Scheduler::Exclusive(rules) => Engine::Exclusive(Box::new(exclusive::servers(id, d, rules))),
        batching => {
            let common = batching.common().unwrap_or_else(|| unreachable!("it forms batches"));
            let mut replica = Replica::new(id, kind.blocks, (batching, common), d, kind.derivation, env);
            if watched {
                replica.pool.watch();
            }
            replica.give_tiers(tiers);
            replica.give_lanes(lanes::batches(d, site.role), d);
            Engine::Batch(Box::new(replica))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Status;
    use crate::sim::latency::{Latency, Linear};
    use crate::sim::router::Router;
    use crate::sim::scheduler::VllmV1 as VllmRules;
    use crate::sim::simulate;
    use crate::sim::swarm::{Rows, scenario_8b};

    const MS: i64 = 1_000_000;

    /// (arrival in ms, input, output)
    type Asked = (f64, u32, u32);
    /// (replica, scheduled, first token, finished in ms, tokens out)
    type Got = (u32, i64, i64, i64, u32);

    /// Steps of one millisecond, whatever is in them.
    fn scenario() -> Scenario {
        let mut s = scenario_8b();
        s.deployment.latency = Latency::Linear(Linear {
            base_us: 1_000.0,
            per_prefill_token_us: 0.0,
            per_decode_token_us: 0.0,
            queue_base_us: 0.0,
            queue_per_input_token_us: 0.0,
            per_output_token_us: 0.0,
            ..Linear::default()
        });
        s
    }

    fn requests(asked: &[Asked]) -> Requests {
        Requests {
            arrival: asked.iter().map(|a| SimTime((a.0 * 1e6) as i64)).collect(),
            input_tokens: asked.iter().map(|a| a.1).collect(),
            output_tokens: asked.iter().map(|a| a.2).collect(),
            ..Requests::default()
        }
    }

    fn run(s: &Scenario, requests: &Requests) -> (Rows, Summary) {
        let mut rows = Rows::default();
        let summary = simulate(s, requests, &mut rows, &AtomicBool::new(false)).unwrap();
        rows.requests.sort_by_key(|row| row.request);
        (rows, summary)
    }

    fn ms(t: Option<SimTime>) -> i64 {
        let ns = t.unwrap().0;
        assert_eq!(ns % MS, 0);
        ns / MS
    }

    #[track_caller]
    fn check(edit: impl Fn(&mut Scenario, &mut VllmRules), asked: &[Asked], expect: &[Got]) -> Summary {
        let mut s = scenario();
        let Scheduler::VllmV1(mut rules) = s.deployment.scheduler.clone() else { panic!() };
        edit(&mut s, &mut rules);
        s.deployment.scheduler = Scheduler::VllmV1(rules);
        let (rows, summary) = run(&s, &requests(asked));
        let got: Vec<Got> = rows
            .requests
            .iter()
            .map(|r| (r.replica, ms(r.scheduled), ms(r.first_token), ms(r.finished), r.output_tokens))
            .collect();
        assert_eq!(got, expect);
        summary
    }

    #[test]
    fn a_prompt_takes_one_step_and_every_further_token_one() {
        let summary = check(|_, _| (), &[(0.0, 3, 3)], &[(0, 0, 1, 3, 3)]);
        assert_eq!(summary.itl, [(SimDuration(MS), 2)]);
        assert_eq!((summary.steps, summary.busy.0, summary.end.0), (3, 3 * MS, 3 * MS));
    }

    #[test]
    fn a_prompt_beyond_the_budget_is_cut() {
        check(|_, r| r.max_num_batched_tokens = 10, &[(0.0, 25, 1)], &[(0, 0, 3, 3, 1)]);
        check(|_, r| r.long_prefill_token_threshold = 5, &[(0.0, 25, 1)], &[(0, 0, 5, 5, 1)]);
    }

    #[test]
    fn decodes_come_before_the_prompts_behind_them() {
        // From 1 ms on, request 0 takes one token of the budget of 10 and the prompt of 27 gets nine.
        let asked = [(0.0, 5, 9), (1.0, 27, 1)];
        check(|_, r| r.max_num_batched_tokens = 10, &asked, &[(0, 0, 1, 9, 9), (0, 1, 4, 4, 1)]);
    }

    #[test]
    fn seats_are_limited_and_the_queue_is_in_order() {
        let asked = [(0.0, 3, 2), (0.0, 3, 2)];
        check(|_, r| r.max_num_seqs = 1, &asked, &[(0, 0, 1, 2, 2), (0, 2, 3, 4, 2)]);
    }

    #[test]
    fn a_preempted_request_keeps_its_tokens() {
        // Two blocks of four tokens. At 2 ms both requests hold four tokens, the first needs a block, the second goes.
        // It comes back at 5 ms, computes its prompt and its two tokens again, and that step yields the third.
        let asked = [(0.0, 3, 5), (0.0, 3, 5)];
        let two_blocks = |s: &mut Scenario, _: &mut VllmRules| {
            (s.deployment.kv.block_size, s.deployment.kv.num_gpu_blocks) = (4, Some(2));
        };
        let summary = check(two_blocks, &asked, &[(0, 0, 1, 5, 5), (0, 0, 1, 8, 5)]);
        assert_eq!(summary.itl, [(SimDuration(MS), 7), (SimDuration(4 * MS), 1)]);
        assert_eq!((summary.preemptions, summary.kv_blocks_max), (1, 2));
    }

    #[test]
    fn an_arrival_at_the_end_of_a_step_joins_the_next() {
        check(|_, _| (), &[(0.0, 3, 2), (1.0, 3, 1)], &[(0, 0, 1, 2, 2), (0, 1, 2, 2, 1)]);
    }

    #[test]
    fn the_router_sees_what_completed_at_the_time_of_the_arrival() {
        let two = |s: &mut Scenario, _: &mut VllmRules| {
            s.deployment.replicas = 2;
            s.deployment.router = Router::LeastOutstanding;
        };
        let asked = [(0.0, 3, 1), (0.0, 3, 10), (1.0, 3, 1)];
        // Which of the two comes first is drawn; the third goes where the first was done.
        check(two, &asked, &[(1, 0, 1, 1, 1), (0, 0, 1, 10, 10), (1, 1, 2, 2, 1)]);
    }

    #[test]
    fn what_exceeds_the_longest_sequence_is_rejected_or_cut() {
        let mut s = scenario();
        s.deployment.max_model_len = Some(8);
        let (rows, summary) = run(&s, &requests(&[(0.0, 8, 1), (0.0, 6, 9)]));
        assert_eq!(rows.requests[0].status, Status::Rejected);
        assert_eq!((rows.requests[1].status, rows.requests[1].output_tokens), (Status::LengthCapped, 2));
        assert_eq!((summary.rejected, summary.length_capped), (1, 1));
    }

    #[test]
    fn equal_prompts_share_all_blocks_but_the_last() {
        let mut s = scenario();
        s.deployment.kv.block_size = 4;
        let mut r = requests(&[(0.0, 8, 1), (5.0, 8, 1), (9.0, 9, 1)]);
        (r.block_tokens, r.block_hashes, r.block_hash_offsets) = (4, vec![1, 2, 1, 2, 1, 2], vec![0, 2, 4, 6]);
        let (rows, summary) = run(&s, &r);
        // The last token of a prompt is always computed: of 8 tokens 4 can be hit, of 9 tokens 8.
        assert_eq!(rows.requests.iter().map(|r| r.cached_tokens).collect::<Vec<_>>(), [0, 4, 8]);
        assert_eq!((summary.prefix_tokens_queried, summary.prefix_tokens_hit), (25, 12));
        s.deployment.kv.enable_prefix_caching = false;
        let (_, summary) = run(&s, &r);
        assert_eq!((summary.prefix_tokens_queried, summary.prefix_tokens_hit), (0, 0));
    }

    #[test]
    fn extrapolated_steps_are_those_of_the_models() {
        use std::sync::atomic::{AtomicU64, Ordering};

        use crate::sim::{Parts, latency::BatchShape, simulate_of};

        /// A table that knows prompts only.
        struct Prompts(AtomicU64);
        impl LatencyModel for Prompts {
            fn step(&self, shape: &BatchShape) -> SimDuration {
                self.0.fetch_add(u64::from(shape.prefill_requests == 0), Ordering::Relaxed);
                SimDuration(MS)
            }
            fn extrapolated(&self) -> u64 {
                self.0.load(Ordering::Relaxed)
            }
        }
        let asked = requests(&[(0.0, 3, 4)]);
        let parts = Parts { models: vec![Box::new(Prompts(AtomicU64::new(0)))], ..Parts::default() };
        let stop = AtomicBool::new(false);
        let summary = simulate_of(&scenario(), &asked, &mut Rows::default(), &stop, parts).unwrap();
        assert_eq!((summary.steps, summary.latency_extrapolated_steps), (4, 3));
        assert_eq!(summary.pools[0].latency_extrapolated_steps, 3);
        assert_eq!(run(&scenario(), &asked).1.latency_extrapolated_steps, 0);
    }

    #[test]
    fn a_step_that_is_asked_for_twice_counts_once() {
        use std::sync::atomic::{AtomicU64, Ordering};

        use crate::sim::{Parts, latency::BatchShape, simulate_of};

        /// A table that knows nothing; steps take longer with the context, as the simple roofline of 8B has it.
        struct Nothing(AtomicU64);
        impl LatencyModel for Nothing {
            fn step(&self, s: &BatchShape) -> SimDuration {
                self.0.fetch_add(1, Ordering::Relaxed);
                let work = 3 * s.prefill_tokens + s.decode_requests + (s.decode_context + s.prefill_context) / 64;
                SimDuration(MS + 1_000 * work as i64)
            }
            fn extrapolated(&self) -> u64 {
                self.0.load(Ordering::Relaxed)
            }
        }
        // Arrivals in the middle of steps, over two replicas; few blocks, so that some are preempted.
        let asked: Vec<Asked> = (0..60).map(|i| (f64::from(i) * 3.7, 20 + i % 7 * 30, 5 + i % 11 * 9)).collect();
        let mut s = scenario();
        (s.deployment.replicas, s.deployment.kv.num_gpu_blocks) = (2, Some(60));
        s.deployment.router = Router::LeastOutstanding;
        let parts = Parts { models: vec![Box::new(Nothing(AtomicU64::new(0)))], ..Parts::default() };
        let stop = AtomicBool::new(false);
        let summary = simulate_of(&s, &requests(&asked), &mut Rows::default(), &stop, parts).unwrap();
        assert!(summary.preemptions > 0 && summary.steps > 100, "{summary:?}");
        assert_eq!(summary.latency_extrapolated_steps, summary.steps);
    }

    #[test]
    fn a_stop_is_heard_and_nothing_is_not_an_error() {
        let mut rows = Rows::default();
        let stopped = simulate(&scenario(), &requests(&[(0.0, 3, 3)]), &mut rows, &AtomicBool::new(true));
        assert_eq!(stopped, Err(SimError::Cancelled));
        let (_, summary) = run(&scenario(), &Requests::default());
        assert_eq!((summary.injected, summary.steps), (0, 0));
    }

    #[test]
    fn absurd_times_are_an_error() {
        let mut s = scenario();
        let Latency::Linear(linear) = &mut s.deployment.latency else { panic!() };
        (linear.base_us, linear.per_prefill_token_us) = (60e6, 60e6);
        let far = requests(&[(0.0, 2_000, 100_000), (3e12, 3, 3)]);
        let e = simulate(&s, &far, &mut Rows::default(), &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(e, SimError::Invalid { .. }));
    }
}
