//! The fast engine: arrivals are routed in order, replicas are advanced to them.
//!
//! Replicas only meet at the router. Where it looks at their state, all are advanced to every arrival; where it does
//! not, a replica is advanced when it gets a request, and all of them now and then, so that rows can be handed out in
//! order.

use std::sync::atomic::AtomicBool;

use super::itl::Gaps;
use super::kv::{hashes, plan};
use super::replica::{Env, HORIZON, Out, Replica, bounded, too_long};
use super::router::Picker;
use super::scheduler::Scheduler;
use super::{Quirks, RequestRow, SimError, Sink, Status, Summary, latency, load};
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

/// Arrivals between two times at which rows are handed out.
const ARRIVALS_PER_FLUSH: usize = 1024;

/// Longest prompt plus output that a replica takes: what the deployment says, the model allows, and the cache holds.
pub(super) fn max_len(scenario: &Scenario, blocks: u64) -> u32 {
    let d = &scenario.deployment;
    let said = d.max_model_len.unwrap_or(scenario.model.max_pos);
    let held = blocks.saturating_mul(u64::from(d.kv.block_size));
    u64::from(said).min(held).min(u64::from(u32::MAX / 4)) as u32
}

pub(super) fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    quirks: Quirks,
) -> Result<Summary, SimError> {
    if let Err(problems) = super::check(scenario) {
        return Err(problems.into_iter().next().unwrap_or(SimError::Cancelled));
    }
    let d = &scenario.deployment;
    let arrivals = load::arrivals(&scenario.workload, requests, scenario.seed)?;
    if arrivals.last().is_some_and(|t| *t > HORIZON) {
        return Err(too_long());
    }
    let blocks = plan::blocks(d, &scenario.model, &scenario.gpu)?;
    let model = latency::build(d, &scenario.model, &scenario.gpu);
    let Scheduler::VllmV1(rules) = &d.scheduler;
    let env = Env {
        requests,
        arrivals: &arrivals,
        rules,
        model: &*model,
        after_token: bounded(model.after_token()),
        after_request: bounded(model.after_request()),
        quirks,
        block_size: d.kv.block_size,
        max_len: max_len(scenario, blocks),
        derivation: hashes::derivation(requests, d.kv.block_size, d.kv.enable_prefix_caching)?,
        caching: d.kv.enable_prefix_caching,
        wants_steps: sink.wants_steps(),
        stop,
    };
    let cluster = Cluster {
        replicas: (0..d.replicas).map(|id| Replica::new(id, blocks, &env)).collect(),
        picker: Picker::new(d.router.clone(), d.replicas, scenario.seed),
        out: Out {
            rows: Vec::new(),
            steps: Vec::new(),
            gaps: Gaps::new(),
            preemptions: 0,
            prefix_tokens_queried: 0,
            prefix_tokens_hit: 0,
        },
        summary: Summary { kv_blocks_total: blocks, ..Summary::default() },
    };
    cluster.run(&env, sink)
}

struct Cluster {
    replicas: Vec<Replica>,
    picker: Picker,
    out: Out,
    summary: Summary,
}

impl Cluster {
    fn run(mut self, env: &Env<'_>, sink: &mut dyn Sink) -> Result<Summary, SimError> {
        for (i, &at) in env.arrivals.iter().enumerate() {
            let flush = i % ARRIVALS_PER_FLUSH == 0;
            if flush || self.picker.looks() {
                self.advance_all(at, env)?;
            }
            if flush {
                self.flush(sink);
            }
            let replicas = &self.replicas;
            let picked = self.picker.pick(|r| replicas[r].outstanding());
            let input = env.requests.input_tokens[i];
            if input >= env.max_len {
                self.reject(i as u32, picked as u32, at, input);
                continue;
            }
            self.replicas[picked].advance(at, env, &mut self.out)?;
            self.replicas[picked].push(i as u32, at + bounded(env.model.before_queue(input)));
        }
        self.advance_all(SimTime::MAX, env)?;
        self.flush(sink);
        Ok(self.finish(env))
    }

    fn advance_all(&mut self, at: SimTime, env: &Env<'_>) -> Result<(), SimError> {
        for replica in &mut self.replicas {
            replica.advance(at, env, &mut self.out)?;
        }
        Ok(())
    }

    fn reject(&mut self, request: u32, replica: u32, arrival: SimTime, input_tokens: u32) {
        let row = RequestRow {
            request,
            replica,
            status: Status::Rejected,
            arrival,
            scheduled: None,
            first_token: None,
            finished: None,
            input_tokens,
            output_tokens: 0,
            cached_tokens: 0,
            preemptions: 0,
        };
        self.out.rows.push((arrival, row));
    }

    /// Hands out what has come about. All replicas have been advanced to the same time, so nothing earlier can follow.
    fn flush(&mut self, sink: &mut dyn Sink) {
        // Stable: rows of one replica are in order already, rejections of one time are in order of arrival.
        self.out.rows.sort_by_key(|(at, row)| {
            let rejected = row.status == Status::Rejected;
            (*at, rejected, if rejected { 0 } else { row.replica })
        });
        for (at, row) in self.out.rows.drain(..) {
            match row.status {
                Status::Finished => self.summary.finished += 1,
                Status::Rejected => self.summary.rejected += 1,
            }
            self.summary.end = self.summary.end.max(row.finished.unwrap_or(at));
            sink.request(row);
        }
        self.out.steps.sort_by_key(|(end, row)| (*end, row.replica));
        for (_, row) in self.out.steps.drain(..) {
            sink.step(row);
        }
    }

    fn finish(self, env: &Env<'_>) -> Summary {
        let mut s = self.summary;
        for replica in &self.replicas {
            replica.assert_idle();
            s.steps += replica.steps;
            s.busy += replica.busy;
            s.kv_blocks_max = s.kv_blocks_max.max(replica.used_max);
        }
        s.injected = env.arrivals.len() as u64;
        s.preemptions = self.out.preemptions;
        s.prefix_tokens_queried = self.out.prefix_tokens_queried;
        s.prefix_tokens_hit = self.out.prefix_tokens_hit;
        s.itl = self.out.gaps.into_sorted();
        assert!(s.finished + s.rejected == s.injected, "requests were lost: {s:?}");
        assert!(s.busy >= SimDuration::ZERO && s.kv_blocks_max <= s.kv_blocks_total, "impossible totals: {s:?}");
        s
    }
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
        let Scheduler::VllmV1(mut rules) = s.deployment.scheduler.clone();
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
        assert_eq!((rows.requests[1].status, rows.requests[1].output_tokens), (Status::Finished, 2));
        assert_eq!((summary.rejected, summary.finished), (1, 1));
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
