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
