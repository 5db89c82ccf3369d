//! The fast engine: arrivals are routed in order, replicas are advanced to them.
//!
//! Replicas only meet at the router. Where it looks at their state, all are advanced to every arrival; where it does
//! not, a replica is advanced when it gets a request, and all of them now and then, so that rows can be handed out in
//! order.

use std::sync::atomic::AtomicBool;

use super::itl::Gaps;
use super::kv::{hashes, plan};
use super::latency::LatencyModel;
use super::load::Demand;
use super::replica::Replica;
use super::router::Picker;
use super::scheduler::{Scheduler, exclusive};
use super::{Quirks, RequestRow, SimError, Sink, Status, StepRow, Summary, latency};
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime, Tick};

/// Arrivals between two times at which rows are handed out.
const ARRIVALS_PER_FLUSH: usize = 1024;
/// Longest step: 13 days. A latency model that asks for more is not sensible.
pub(super) const STEP_MAX_NS: i64 = 1 << 50;
/// 73 years. No run of steps that starts before it can overflow the clock.
pub(super) const HORIZON: SimTime = SimTime(1 << 61);

/// Longest prompt plus output that a replica takes: what the deployment says, the model allows, and the cache holds.
pub(super) fn max_len(scenario: &Scenario, blocks: u64) -> u32 {
    let d = &scenario.deployment;
    let said = d.max_model_len.unwrap_or(scenario.model.max_pos);
    let held = blocks.saturating_mul(u64::from(d.kv.block_size));
    u64::from(said).min(held).min(u64::from(u32::MAX / 4)) as u32
}

/// A time outside of steps: not negative, at most 13 days, in whole ticks.
pub(super) fn bounded(time: SimDuration, tick: Option<Tick>) -> SimDuration {
    let quantum = tick.map_or(1, |t| t.duration().0);
    SimDuration(time.0.clamp(0, STEP_MAX_NS) / quantum * quantum)
}

pub(super) fn too_long() -> SimError {
    SimError::Invalid {
        path: "deployment.latency",
        message: "simulated time passes 73 years: the load, or the steps, must be far from what is meant".to_string(),
    }
}

/// What all replicas of a simulation share and none changes.
pub(super) struct Env<'a> {
    pub demand: &'a Demand<'a>,
    pub requests: &'a Requests,
    pub model: &'a dyn LatencyModel,
    /// What the model says about the client's side, see [`LatencyModel`].
    pub after_token: SimDuration,
    pub after_request: SimDuration,
    pub quirks: Quirks,
    pub tick: Option<Tick>,
    /// Longest prompt plus output.
    pub max_len: u32,
    pub wants_steps: bool,
    pub stop: &'a AtomicBool,
}

/// What replicas hand out.
pub(super) struct Out {
    /// With the time at which they come about.
    pub rows: Vec<(SimTime, RequestRow)>,
    /// With the time of their end.
    pub steps: Vec<(SimTime, StepRow)>,
    pub gaps: Gaps,
}

/// One replica, whatever runs in it.
pub(super) trait Node {
    /// The request that arrives at this place of the demand is on its way; it reaches the queue at `at`.
    fn push(&mut self, place: u32, at: SimTime, env: &Env<'_>);

    /// Requests on their way, waiting or running.
    fn outstanding(&self) -> u64;

    /// Everything that happens until `limit`: what ends at `limit` has ended, what would start at `limit` has not.
    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError>;

    /// The horizon: a row for everything that is still here.
    fn close(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out);

    /// Adds what only the replica knows: steps, busy time, peaks, integrals, preemptions, hits, work.
    fn add_to(&self, summary: &mut Summary);
}

/// The demand of a scenario that can be simulated.
///
/// # Errors
/// The first problem of the scenario, or of its requests.
pub(super) fn accept<'a>(scenario: &Scenario, requests: &'a Requests) -> Result<Demand<'a>, SimError> {
    if let Err(problems) = super::check(scenario) {
        return Err(problems.into_iter().next().unwrap_or(SimError::Cancelled));
    }
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
    quirks: Quirks,
) -> Result<Summary, SimError> {
    let demand = accept(scenario, requests)?;
    let d = &scenario.deployment;
    let model = latency::build(d, &scenario.model, &scenario.gpu);
    let mut env = Env {
        demand: &demand,
        requests,
        model: &*model,
        after_token: bounded(model.after_token(), d.tick),
        after_request: bounded(model.after_request(), d.tick),
        quirks,
        tick: d.tick,
        max_len: scenario.deployment.max_model_len.unwrap_or(u32::MAX / 4),
        wants_steps: sink.wants_steps(),
        stop,
    };
    match &d.scheduler {
        Scheduler::VllmV1(rules) => {
            let blocks = plan::blocks(d, &scenario.model, &scenario.gpu)?;
            let derivation = hashes::derivation(requests, d.kv.block_size, d.kv.enable_prefix_caching)?;
            env.max_len = max_len(scenario, blocks);
            let nodes = (0..d.replicas).map(|id| Replica::new(id, blocks, rules, &d.kv, derivation, &env));
            Cluster::new(scenario, nodes.collect(), blocks).run(&env, sink)
        }
        Scheduler::Exclusive(rules) => Cluster::new(scenario, exclusive::replicas(d, rules), 0).run(&env, sink),
    }
}

struct Cluster<N> {
    nodes: Vec<N>,
    picker: Picker,
    out: Out,
    /// Scratch: places of rows in the order in which they are handed out, and where each is.
    order: Vec<((SimTime, u8, u32, u32), u32)>,
    summary: Summary,
}

impl<N: Node> Cluster<N> {
    fn new(scenario: &Scenario, nodes: Vec<N>, blocks: u64) -> Self {
        let d = &scenario.deployment;
        Cluster {
            nodes,
            picker: Picker::new(d.router.clone(), d.replicas, scenario.seed),
            out: Out { rows: Vec::new(), steps: Vec::new(), gaps: Gaps::new() },
            order: Vec::new(),
            summary: Summary { kv_blocks_total: blocks, ..Summary::default() },
        }
    }

    fn run(mut self, env: &Env<'_>, sink: &mut dyn Sink) -> Result<Summary, SimError> {
        let demand = env.demand;
        for place in 0..demand.count() {
            let request = demand.nth(place);
            let at = demand.arrival(request);
            let flush = place % ARRIVALS_PER_FLUSH == 0;
            if flush || self.picker.looks() {
                self.advance_all(at, env)?;
            }
            if flush {
                self.flush(at, sink);
            }
            let nodes = &self.nodes;
            let picked = self.picker.pick(|r| nodes[r].outstanding());
            let input = env.requests.input_tokens[request as usize];
            if input >= env.max_len {
                self.reject(request, picked as u32, at, input);
                continue;
            }
            self.nodes[picked].advance(at, env, &mut self.out)?;
            let queued = at + bounded(env.model.before_queue(input), env.tick);
            self.nodes[picked].push(place as u32, queued, env);
        }
        self.advance_all(demand.horizon, env)?;
        Ok(self.finish(env, sink))
    }

    fn advance_all(&mut self, at: SimTime, env: &Env<'_>) -> Result<(), SimError> {
        for node in &mut self.nodes {
            node.advance(at, env, &mut self.out)?;
        }
        Ok(())
    }

    fn reject(&mut self, request: u32, replica: u32, arrival: SimTime, input_tokens: u32) {
        let row = RequestRow { input_tokens, ..RequestRow::new(request, replica, Status::Rejected, arrival) };
        self.out.rows.push((arrival, row));
    }

    /// Hands out what has come about. All replicas have been advanced to `now`, so nothing earlier can follow.
    fn flush(&mut self, now: SimTime, sink: &mut dyn Sink) {
        let place = |(at, row): &(SimTime, RequestRow)| match row.status {
            Status::Finished | Status::LengthCapped => (*at, 0_u8, row.replica, 0),
            Status::TimedOut | Status::Cancelled => (*at, 0, row.replica, row.request + 1),
            Status::Rejected => (*at, 1, 0, 0),
            Status::InFlight => (*at, 2, 0, row.request),
        };
        // Ties keep their order: rows of one replica come about in batch order, rejections in order of arrival. Rows
        // are large, and mostly in order already, so their places are sorted instead.
        self.order.clear();
        self.order.extend(self.out.rows.iter().map(place).zip(0..));
        if !self.order.is_sorted() {
            self.order.sort_unstable();
        }
        for (_, i) in &self.order {
            let (at, row) = &self.out.rows[*i as usize];
            count(&mut self.summary, row);
            self.summary.end = self.summary.end.max(row.finished.unwrap_or(*at));
            sink.request(*row);
        }
        self.out.rows.clear();
        // A step that runs has its row already.
        self.out.steps.sort_by_key(|(end, row)| (*end, row.replica));
        let over = self.out.steps.partition_point(|(end, _)| *end <= now);
        for (_, row) in self.out.steps.drain(..over) {
            sink.step(row);
        }
    }

    fn finish(mut self, env: &Env<'_>, sink: &mut dyn Sink) -> Summary {
        let horizon = env.demand.horizon;
        for node in &mut self.nodes {
            node.close(horizon, env, &mut self.out);
        }
        self.flush(horizon, sink);
        let mut s = self.summary;
        for node in &self.nodes {
            node.add_to(&mut s);
        }
        s.injected = env.demand.count() as u64;
        s.out_of_order = env.demand.out_of_order;
        s.itl = self.out.gaps.into_sorted();
        let ended = s.finished + s.length_capped + s.rejected + s.timed_out + s.cancelled;
        assert!(ended + s.in_flight == s.injected, "requests were lost: {s:?}");
        assert!(s.busy >= SimDuration::ZERO && s.kv_blocks_max <= s.kv_blocks_total, "impossible totals: {s:?}");
        s
    }
}

fn count(s: &mut Summary, row: &RequestRow) {
    let times = [Some(row.arrival), row.queued, row.scheduled, row.first_token, row.finished];
    let known = times.into_iter().flatten();
    assert!(known.is_sorted(), "times out of order: {row:?}");
    let counter = match row.status {
        Status::Finished => &mut s.finished,
        Status::LengthCapped => &mut s.length_capped,
        Status::Rejected => &mut s.rejected,
        Status::TimedOut => &mut s.timed_out,
        Status::Cancelled => &mut s.cancelled,
        Status::InFlight => &mut s.in_flight,
    };
    *counter += 1;
    s.preemptions += u64::from(row.preemptions);
    s.recomputed_tokens += u64::from(row.recomputed_tokens);
}

#[cfg(test)]
mod tests {
    use super::*;
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
        check(two, &asked, &[(0, 0, 1, 1, 1), (1, 0, 1, 10, 10), (0, 1, 2, 2, 1)]);
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
