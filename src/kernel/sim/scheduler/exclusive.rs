//! The queueing model: a server holds one request alone. Nothing happens but arrivals, ends of services and clients
//! that go, so a request costs a few steps through heaps, however long its prompt and its reply.
//!
//! **One stage**: a server is held from the start of the prefill to the last token. **Two stages**: until the prompt is
//! done; then the request joins the queue of the decode servers, first come, first served (prompts that are done at one
//! instant: in the order in which their services began). A free server takes the head of its queue at once.
//!
//! **Times.** Prefill lasts `prompt / prefill_tokens_per_s`, the first token comes `1 / decode_tokens_per_s` after the
//! prefill (one stage) or the start of the decode service (two), token `k` comes `(k - 1) / decode_tokens_per_s` after
//! the first. Each of these spans is rounded by itself: to the nearest nanosecond, then down to whole ticks, so errors do
//! not add up over tokens. Prefill and first token last at least a tick. See [`pace`](super::pace).
//!
//! **At one instant**: services end; requests arrive and enter the first queue; clients that went are noticed; services
//! start. A client that goes frees its server at once. At the horizon services end, and nothing else happens.
//!
//! **Figures.** `steps` are services that ended, also by their client's going: one per request in one stage, two in two.
//! `busy` is the time that servers were held, up to the horizon, and so equal to the integral of the requests running;
//! both queues count as waiting. Requests that end at one instant are reported in the order in which their last services
//! began. There is no KV cache, no work, and no table of steps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use super::pace::Pace;
use super::{Exclusive, QueueOrder};
use crate::scenario::Deployment;
use crate::sim::engine::{HORIZON, too_long};
use crate::sim::latency::{Latency, Rates};
use crate::sim::node::{Env, Node, Out, Work};
use crate::sim::queue::{Key, Queue};
use crate::sim::router::Load;
use crate::sim::{ItlStats, RequestRow, SimError, Status, Summary};
use crate::units::{SimDuration, SimTime, Tick};

/// The servers of one replica, with this number.
pub(in crate::sim) fn servers(id: u32, deployment: &Deployment, rules: &Exclusive) -> Servers {
    Servers::new(id, rules, &rates(deployment), deployment.tick)
}

pub(in crate::sim) fn rates(deployment: &Deployment) -> Rates {
    match &deployment.latency {
        Latency::Rates(rates) => *rates,
        other => unreachable!("the check asks for rates, not {}", other.name()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The slot is nobody's.
    Unused,
    /// Its client was gone when it reached the queue.
    Unqueued,
    FirstQueue,
    /// The first of two services.
    Prefill,
    SecondQueue,
    /// The service that yields tokens.
    Serving,
}

/// A request in a queue or a service.
struct Live {
    request: u32,
    stage: Stage,
    key: Key,
    input: u32,
    /// Tokens it will generate, and whether that is less than it would.
    output: u32,
    capped: bool,
    /// What becomes of it if its client goes.
    gone: Status,
    queued: SimTime,
    scheduled: Option<SimTime>,
    /// When the first token comes out, once in [`Stage::Serving`].
    first_token: SimTime,
    /// Number of the service that it is in.
    service: u64,
}

/// The servers of one replica.
pub(in crate::sim) struct Servers {
    id: u32,
    prefill: Pace,
    decode: Pace,
    two_stages: bool,
    clock: SimTime,
    /// On their way to the queue: (time, place in the demand).
    pending: BinaryHeap<Reverse<(SimTime, u32)>>,
    first: Queue,
    second: Queue,
    /// Servers without a request.
    idle: u32,
    idle_decode: u32,
    /// (time, service, slot); void where the request is not in that service any more.
    ends: BinaryHeap<Reverse<(SimTime, u64, u32)>>,
    /// The same for first tokens, where somebody is to be told of them.
    firsts: BinaryHeap<Reverse<(SimTime, u64, u32)>>,
    /// When clients go: (time, request, slot); void where the slot is another's by then.
    aborts: BinaryHeap<Reverse<(SimTime, u32, u32)>>,
    live: Vec<Live>,
    unused: Vec<u32>,
    services: u64,
    running: u64,
    /// What only the replica counts; the rest stays zero.
    totals: Summary,
}

impl Servers {
    fn new(id: u32, rules: &Exclusive, rates: &Rates, tick: Option<Tick>) -> Servers {
        Servers {
            id,
            prefill: Pace::new(rates.prefill_tokens_per_s, tick),
            decode: Pace::new(rates.decode_tokens_per_s, tick),
            two_stages: rules.decode_servers > 0,
            clock: SimTime::ZERO,
            pending: BinaryHeap::new(),
            first: Queue::new(rules.scheduling_policy),
            second: Queue::new(QueueOrder::Fcfs),
            idle: rules.servers,
            idle_decode: rules.decode_servers,
            ends: BinaryHeap::new(),
            firsts: BinaryHeap::new(),
            aborts: BinaryHeap::new(),
            live: Vec::new(),
            unused: Vec::new(),
            services: 0,
            running: 0,
            totals: Summary::default(),
        }
    }

    fn waiting(&self) -> u64 {
        (self.first.len() + self.second.len()) as u64
    }

    /// The next time at which something happens.
    fn next(&mut self) -> Option<SimTime> {
        for heap in [&mut self.ends, &mut self.firsts] {
            while let Some(Reverse((_, service, slot))) = heap.peek()
                && self.live[*slot as usize].service != *service
            {
                heap.pop();
            }
        }
        while let Some(Reverse((_, request, slot))) = self.aborts.peek()
            && !self.is(*slot, *request)
        {
            self.aborts.pop();
        }
        let end = self.ends.peek().map(|Reverse((at, _, _))| *at);
        let abort = self.aborts.peek().map(|Reverse((at, _, _))| *at);
        let queued = self.pending.peek().map(|Reverse((at, _))| *at);
        let first = self.firsts.peek().map(|Reverse((at, _, _))| *at);
        [end, abort, queued, first].into_iter().flatten().min()
    }

    /// Whether the slot is still that request's.
    fn is(&self, slot: u32, request: u32) -> bool {
        let live = &self.live[slot as usize];
        live.stage != Stage::Unused && live.request == request
    }

    fn pass_to(&mut self, time: SimTime) {
        let span = i128::from((time - self.clock).0);
        assert!(span >= 0, "time decreases");
        self.totals.running_ns += span * i128::from(self.running);
        self.totals.waiting_ns += span * i128::from(self.waiting());
        self.clock = time;
    }

    fn tell_first_tokens(&mut self, out: &mut Out) {
        while let Some(Reverse((at, service, slot))) = self.firsts.peek().copied()
            && at <= self.clock
        {
            self.firsts.pop();
            let live = &self.live[slot as usize];
            if live.service == service {
                out.prompts.push((self.id, live.request));
            }
        }
    }

    fn end_services(&mut self, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((at, service, slot))) = self.ends.peek().copied()
            && at <= self.clock
        {
            self.ends.pop();
            let live = &mut self.live[slot as usize];
            if live.service != service {
                continue;
            }
            match live.stage {
                Stage::Prefill => {
                    live.stage = Stage::SecondQueue;
                    let key = live.key;
                    self.free_server(slot, Stage::Prefill);
                    self.second.push(slot, key);
                }
                Stage::Serving => {
                    let status = if live.capped { Status::LengthCapped } else { Status::Finished };
                    self.leave(slot, status, env, out);
                }
                Stage::Unused | Stage::Unqueued | Stage::FirstQueue | Stage::SecondQueue => {
                    unreachable!("a service without a request")
                }
            }
        }
    }

    /// The service of a request that was in this stage ends.
    fn free_server(&mut self, slot: u32, stage: Stage) {
        self.live[slot as usize].service = u64::MAX;
        let decode = self.two_stages && stage == Stage::Serving;
        *(if decode { &mut self.idle_decode } else { &mut self.idle }) += 1;
        self.running -= 1;
        self.totals.steps += 1;
    }

    /// Moves requests whose time has come into the queue.
    fn enqueue(&mut self, env: &Env<'_>) {
        while let Some(Reverse((at, place))) = self.pending.peek().copied()
            && at <= self.clock
        {
            self.pending.pop();
            let request = env.demand.nth(place as usize);
            let abort = env.demand.abort(place as usize);
            let (output, capped) = env.demand.output(request, env.max_len);
            let gone = abort.is_some_and(|(at, _)| at <= self.clock);
            let key = self.first.key(
                env.demand,
                (request, 0),
                env.requests.input_tokens[request as usize],
                SimDuration::ZERO,
            );
            let slot = self.slot(Live {
                request,
                stage: if gone { Stage::Unqueued } else { Stage::FirstQueue },
                key,
                input: env.requests.input_tokens[request as usize],
                output,
                capped,
                gone: abort.map_or(Status::TimedOut, |(_, status)| status),
                queued: self.clock,
                scheduled: None,
                first_token: SimTime::MAX,
                service: u64::MAX,
            });
            if let Some((at, _)) = abort {
                self.aborts.push(Reverse((at.max(self.clock), request, slot)));
            }
            if !gone {
                self.first.push(slot, key);
            }
        }
        self.totals.waiting_max = self.totals.waiting_max.max(self.waiting());
    }

    fn slot(&mut self, live: Live) -> u32 {
        match self.unused.pop() {
            Some(slot) => {
                self.live[slot as usize] = live;
                slot
            }
            None => {
                self.live.push(live);
                (self.live.len() - 1) as u32
            }
        }
    }

    fn notice_gone(&mut self, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((at, request, slot))) = self.aborts.peek().copied()
            && at <= self.clock
        {
            self.aborts.pop();
            if !self.is(slot, request) {
                continue;
            }
            let live = &self.live[slot as usize];
            let (status, key) = (live.gone, live.key);
            match live.stage {
                Stage::FirstQueue => assert!(self.first.remove(slot, key), "not in its queue"),
                Stage::SecondQueue => assert!(self.second.remove(slot, key), "not in its queue"),
                Stage::Unqueued | Stage::Prefill | Stage::Serving => {}
                Stage::Unused => unreachable!("a slot that is nobody's"),
            }
            self.leave(slot, status, env, out);
        }
    }

    /// A request that is in no queue leaves, its tokens so far are pooled, and its row goes out.
    fn leave(&mut self, slot: u32, status: Status, env: &Env<'_>, out: &mut Out) {
        let row = self.row(slot, status, self.clock, env, out);
        out.rows.push((self.clock, self.id, row));
        let stage = self.live[slot as usize].stage;
        if matches!(stage, Stage::Prefill | Stage::Serving) {
            self.free_server(slot, stage);
        }
        self.live[slot as usize].stage = Stage::Unused;
        self.unused.push(slot);
    }

    fn row(&self, slot: u32, status: Status, now: SimTime, env: &Env<'_>, out: &mut Out) -> RequestRow {
        let live = &self.live[slot as usize];
        let begun = live.stage == Stage::Serving && live.first_token <= now;
        let further = if begun { self.decode.tokens_in(now - live.first_token, live.output - 1) } else { 0 };
        RequestRow {
            queued: (live.stage != Stage::Unqueued).then_some(live.queued),
            scheduled: live.scheduled,
            first_token: begun.then_some(live.first_token),
            finished: status.served().then_some(now),
            input_tokens: live.input,
            output_tokens: u32::from(begun) + further,
            itl: (further > 0).then(|| self.gaps(further, out)),
            ..RequestRow::new(live.request, self.id, status, env.demand.arrival(live.request))
        }
    }

    /// Pools the gaps of a request that got so many tokens after its first.
    fn gaps(&self, further: u32, out: &mut Out) -> ItlStats {
        // The whole reply has a span, and so has its part.
        let sum = self.decode.span(further).unwrap_or_default();
        let gaps = self.decode.gaps(further, sum);
        out.gaps.add(gaps.low, gaps.short);
        out.gaps.add(gaps.low + gaps.tick_ns, gaps.long);
        gaps.stats(sum)
    }

    fn start_services(&mut self, env: &Env<'_>) -> Result<(), SimError> {
        while self.idle > 0
            && let Some(slot) = self.first.pop_front()
        {
            self.idle -= 1;
            let live = &mut self.live[slot as usize];
            live.scheduled = Some(self.clock);
            let prefilled = self.clock + self.prefill.service(live.input)?;
            if self.two_stages {
                live.stage = Stage::Prefill;
                self.run_until(slot, prefilled);
            } else {
                self.serve(slot, prefilled, env)?;
            }
        }
        while self.idle_decode > 0
            && let Some(slot) = self.second.pop_front()
        {
            self.idle_decode -= 1;
            self.serve(slot, self.clock, env)?;
        }
        self.totals.running_max = self.totals.running_max.max(self.running);
        Ok(())
    }

    /// The prompt of a request that begins a service is done at `prefilled`, and tokens follow.
    fn serve(&mut self, slot: u32, prefilled: SimTime, env: &Env<'_>) -> Result<(), SimError> {
        let live = &mut self.live[slot as usize];
        live.stage = Stage::Serving;
        live.first_token = prefilled + self.decode.service(1)?;
        let end = live.first_token + self.decode.span(live.output - 1)?;
        if env.reports.prompts {
            self.firsts.push(Reverse((live.first_token, self.services, slot)));
        }
        self.run_until(slot, end);
        Ok(())
    }

    fn run_until(&mut self, slot: u32, end: SimTime) {
        self.live[slot as usize].service = self.services;
        self.ends.push(Reverse((end, self.services, slot)));
        self.services += 1;
        self.running += 1;
    }
}

impl Node for Servers {
    fn push(&mut self, place: u32, at: SimTime, _work: Work, _env: &Env<'_>) {
        self.pending.push(Reverse((at, place)));
    }

    fn load(&self) -> Load {
        Load { waiting: self.waiting() as u32, running: self.running as u32, blocks_used: 0 }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.live.len() == self.unused.len()
    }

    fn reply_tokens(&self, env: &Env<'_>) -> u64 {
        let left = |live: &Live| match live.stage {
            Stage::Unused | Stage::Unqueued => 0,
            Stage::FirstQueue | Stage::Prefill | Stage::SecondQueue => live.output,
            Stage::Serving if live.first_token > self.clock => live.output,
            Stage::Serving => live.output - 1 - self.decode.tokens_in(self.clock - live.first_token, live.output - 1),
        };
        let coming = |Reverse((_, place)): &Reverse<(SimTime, u32)>| {
            env.demand.output(env.demand.nth(*place as usize), env.max_len).0
        };
        self.live.iter().map(left).chain(self.pending.iter().map(coming)).map(u64::from).sum()
    }

    fn wake(&self, _env: &Env<'_>) -> SimTime {
        let end = self.ends.peek().map(|Reverse((at, ..))| *at);
        let first = self.firsts.peek().map(|Reverse((at, ..))| *at);
        let abort = self.aborts.peek().map(|Reverse((at, ..))| *at);
        let queued = self.pending.peek().map(|Reverse((at, _))| *at);
        // What waits at this instant has not been looked at yet.
        let starts = (!self.first.is_empty() && self.idle > 0) || (!self.second.is_empty() && self.idle_decode > 0);
        let soon = starts.then_some(self.clock);
        let later = abort.into_iter().chain(queued).chain(soon).min();
        let later = later.map(|at| SimTime(at.max(self.clock).0.saturating_add(1)));
        end.into_iter().chain(first).chain(later).min().unwrap_or(SimTime::MAX)
    }

    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        loop {
            // What has happened at this instant already does not happen again.
            if self.clock < limit {
                self.enqueue(env);
                self.notice_gone(env, out);
                self.start_services(env)?;
            }
            let Some(next) = self.next().filter(|next| *next <= limit) else {
                // What is out by now is known by the clock.
                if self.clock < limit && !self.is_empty() {
                    self.pass_to(limit);
                }
                return Ok(());
            };
            if env.stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if next > HORIZON {
                return Err(too_long());
            }
            self.pass_to(next);
            self.tell_first_tokens(out);
            self.end_services(env, out);
            if next == limit {
                return Ok(());
            }
        }
    }

    fn close(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((_, place))) = self.pending.pop() {
            let request = env.demand.nth(place as usize);
            let input_tokens = env.requests.input_tokens[request as usize];
            let row = RequestRow::new(request, self.id, Status::InFlight, env.demand.arrival(request));
            out.rows.push((horizon, self.id, RequestRow { input_tokens, ..row }));
        }
        if !self.is_empty() {
            self.pass_to(horizon);
        }
        for slot in 0..self.live.len() as u32 {
            if self.live[slot as usize].stage != Stage::Unused {
                let row = self.row(slot, Status::InFlight, horizon, env, out);
                out.rows.push((horizon, self.id, row));
            }
        }
    }

    fn add_to(&self, s: &mut Summary) {
        s.busy += SimDuration(i64::try_from(self.totals.running_ns).unwrap_or(i64::MAX));
        s.add(&self.totals);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::request::Requests;
    use crate::scenario::Scenario;
    use crate::sim::scheduler::Scheduler;
    use crate::sim::simulate;
    use crate::sim::swarm::{Rows, scenario_8b};

    const MS: i64 = 1_000_000;

    /// (arrival in ms, input, output)
    type Asked = (i64, u32, u32);
    /// (status, scheduled, first token, finished in ms, tokens out); -1 for what did not come about
    type Got = (Status, i64, i64, i64, u32);

    use Status::{Finished, InFlight, LengthCapped, TimedOut};

    /// A token of a prompt and a token of a reply take a millisecond each.
    fn scenario(servers: u32, decode_servers: u32) -> Scenario {
        let mut s = scenario_8b();
        let scheduling_policy = QueueOrder::Fcfs;
        s.deployment.scheduler = Scheduler::Exclusive(Exclusive { servers, decode_servers, scheduling_policy });
        s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1e3, decode_tokens_per_s: 1e3 });
        s
    }

    fn requests(asked: &[Asked]) -> Requests {
        Requests {
            arrival: asked.iter().map(|a| SimTime(a.0 * MS)).collect(),
            input_tokens: asked.iter().map(|a| a.1).collect(),
            output_tokens: asked.iter().map(|a| a.2).collect(),
            ..Requests::default()
        }
    }

    #[track_caller]
    fn check(s: &Scenario, requests: &Requests, expect: &[Got]) -> Summary {
        let mut rows = Rows::default();
        let summary = simulate(s, requests, &mut rows, &AtomicBool::new(false)).unwrap();
        rows.requests.sort_by_key(|row| row.request);
        let ms = |t: Option<SimTime>| t.map_or(-1, |t| t.0 / MS);
        let got: Vec<Got> = rows
            .requests
            .iter()
            .map(|r| (r.status, ms(r.scheduled), ms(r.first_token), ms(r.finished), r.output_tokens))
            .collect();
        assert_eq!(got, expect);
        summary
    }

    #[test]
    fn one_stage_holds_its_server_to_the_last_token() {
        let asked = requests(&[(0, 10, 5), (2, 10, 1), (40, 3, 2)]);
        let s = check(
            &scenario(1, 0),
            &asked,
            &[(Finished, 0, 11, 15, 5), (Finished, 15, 26, 26, 1), (Finished, 40, 44, 45, 2)],
        );
        assert_eq!((s.steps, s.busy.0, s.running_max, s.waiting_max), (3, 31 * MS, 1, 1));
        assert_eq!((s.waiting_ns, s.end.0, s.kv_blocks_total), (i128::from(13 * MS), 45 * MS, 0));
        check(
            &scenario(2, 0),
            &asked,
            &[(Finished, 0, 11, 15, 5), (Finished, 2, 13, 13, 1), (Finished, 40, 44, 45, 2)],
        );
    }

    #[test]
    fn two_stages_have_a_queue_each() {
        // The second prompt is done at 12 ms and waits for the reply of the first until 20 ms.
        let asked = requests(&[(0, 10, 10), (2, 2, 4)]);
        let s = check(&scenario(1, 1), &asked, &[(Finished, 0, 11, 20, 10), (Finished, 10, 21, 24, 4)]);
        assert_eq!((s.steps, s.busy.0, s.waiting_ns), (4, 26 * MS, i128::from(16 * MS)));
        assert_eq!(s.itl, [(SimDuration(MS), 12)]);
        // With a server for each prompt, the short reply is out before the long prompt is done.
        check(&scenario(2, 1), &asked, &[(Finished, 0, 11, 20, 10), (Finished, 2, 5, 8, 4)]);
    }

    #[test]
    fn the_first_queue_has_an_order() {
        let mut asked = requests(&[(0, 4, 1), (1, 3, 1), (2, 2, 1), (3, 1, 1)]);
        asked.priority = vec![None, Some(1), Some(2), Some(1)];
        asked.deadline = vec![None, None, Some(SimDuration(9 * MS)), Some(SimDuration(9 * MS))];
        // When each is scheduled.
        for (scheduling_policy, expect) in [
            (QueueOrder::Fcfs, [0, 5, 9, 12]),
            (QueueOrder::Priority, [0, 5, 11, 9]),
            (QueueOrder::Sjf, [0, 10, 7, 5]),
            (QueueOrder::Edf, [0, 10, 5, 8]),
        ] {
            let mut s = scenario(1, 0);
            let rules = Exclusive { servers: 1, decode_servers: 0, scheduling_policy };
            s.deployment.scheduler = Scheduler::Exclusive(rules);
            let mut rows = Rows::default();
            simulate(&s, &asked, &mut rows, &AtomicBool::new(false)).unwrap();
            rows.requests.sort_by_key(|row| row.request);
            let scheduled: Vec<i64> = rows.requests.iter().map(|r| r.scheduled.unwrap().0 / MS).collect();
            assert_eq!(scheduled, expect, "{scheduling_policy:?}");
        }
    }

    #[test]
    fn clients_that_go_free_their_servers_at_once() {
        let mut asked = requests(&[(0, 10, 9), (0, 10, 9), (0, 2, 2)]);
        // In its service after two tokens, in the queue, and at the very end of its service.
        asked.timeout = [12, 5, 16].map(|ms| Some(SimDuration(ms * MS))).to_vec();
        let s = check(
            &scenario(1, 0),
            &asked,
            &[(TimedOut, 0, 11, -1, 2), (TimedOut, -1, -1, -1, 0), (Finished, 12, 15, 16, 2)],
        );
        assert_eq!((s.steps, s.busy.0, s.timed_out, s.waiting_ns), (2, 16 * MS, 2, i128::from(17 * MS)));
        assert_eq!(s.itl, [(SimDuration(MS), 2)]);
        // The first prompt is left half done; the second waits for a decode server when its client goes.
        let mut asked = requests(&[(0, 4, 20), (0, 4, 9), (0, 10, 9)]);
        asked.timeout = vec![None, Some(SimDuration(9 * MS)), Some(SimDuration(11 * MS))];
        let s = check(
            &scenario(1, 1),
            &asked,
            &[(Finished, 0, 5, 24, 20), (TimedOut, 4, -1, -1, 0), (TimedOut, 8, -1, -1, 0)],
        );
        assert_eq!((s.steps, s.busy.0), (4, (4 + 4 + 3 + 20) * MS));
    }

    #[test]
    fn what_ends_at_the_horizon_has_ended() {
        let asked = requests(&[(0, 3, 2), (0, 3, 4), (0, 3, 1), (5, 1, 1)]);
        let mut s = scenario(2, 0);
        s.workload.horizon_s = Some(0.005);
        let s = check(&s, &asked, &[(Finished, 0, 4, 5, 2), (InFlight, 0, 4, -1, 2), (InFlight, -1, -1, -1, 0)]);
        assert_eq!((s.injected, s.steps, s.busy.0, s.end.0), (3, 1, 10 * MS, 5 * MS));
    }

    #[test]
    fn long_replies_are_cut_and_long_prompts_rejected() {
        let mut s = scenario(1, 0);
        (s.deployment.max_model_len, s.workload.max_tokens) = (Some(8), Some(3));
        let asked = requests(&[(0, 8, 1), (0, 7, 5), (0, 1, 5)]);
        let rejected = (Status::Rejected, -1, -1, -1, 0);
        check(&s, &asked, &[rejected, (LengthCapped, 0, 8, 8, 1), (LengthCapped, 8, 10, 12, 3)]);
    }

    #[test]
    fn spans_passing_36_years_are_refused() {
        let mut s = scenario(1, 0);
        s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1e-9, decode_tokens_per_s: 1e3 });
        let error = |s: &Scenario| simulate(s, &requests(&[(0, 2, 1)]), &mut Rows::default(), &AtomicBool::new(false));
        assert_eq!(error(&s), Err(too_long()));
        s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1e3, decode_tokens_per_s: 1e-300 });
        assert_eq!(error(&s), Err(too_long()));
    }
}
