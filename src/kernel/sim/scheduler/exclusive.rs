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
//! not add up over tokens. Prefill and first token last at least a tick. See [`Pace`].
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

use super::{Exclusive, QueueOrder};
use crate::scenario::Deployment;
use crate::sim::engine::{Env, HORIZON, Node, Out, too_long};
use crate::sim::latency::{Latency, Rates};
use crate::sim::queue::{Key, Queue};
use crate::sim::{ItlStats, RequestRow, SimError, Status, Summary};
use crate::units::{SimDuration, SimTime, Tick};

/// One node per replica.
pub(in crate::sim) fn replicas(deployment: &Deployment, rules: &Exclusive) -> Vec<Servers> {
    let rates = rates(deployment);
    (0..deployment.replicas).map(|id| Servers::new(id, rules, &rates, deployment.tick)).collect()
}

pub(in crate::sim) fn rates(deployment: &Deployment) -> Rates {
    match &deployment.latency {
        Latency::Rates(rates) => *rates,
        Latency::Roofline
        | Latency::TrainedPhysics(_)
        | Latency::TrainedRoofline(_)
        | Latency::CrossModel(_)
        | Latency::Linear(_) => unreachable!("the check asks for rates"),
    }
}

/// Longest span: 36 years. Three of them fit behind [`HORIZON`].
const SPAN_MAX_NS: u128 = 1 << 60;

/// The time of a number of tokens: that of one, as the double nearest to `1e9 / rate` nanoseconds, times their number.
///
/// With `g` the time of one token and `q` the tick, `n` tokens take `q * floor((n * g + 1/2) / q)`, exactly. Two
/// neighbours of this sequence differ by `q * floor(g / q)` or by one tick more, and all differences add up to the last
/// member: that gives the number of either, for any number of tokens, without looking at them.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Pace {
    /// In units of 2^-64 ns; at most 2^-64 ns less than the double says.
    per_token: u128,
    tick_ns: i64,
}

const HALF: u128 = 1 << 63;

impl Pace {
    pub(in crate::sim) fn new(tokens_per_s: f64, tick: Option<Tick>) -> Pace {
        let unit = HALF as f64 * 2.0;
        Pace { per_token: (1e9 / tokens_per_s * unit) as u128, tick_ns: tick.map_or(1, |t| t.duration().0) }
    }

    /// # Errors
    /// Where the span passes 36 years.
    pub(in crate::sim) fn span(&self, tokens: u32) -> Result<SimDuration, SimError> {
        let exact = self.per_token.checked_mul(u128::from(tokens)).and_then(|ns| ns.checked_add(HALF));
        let ns = exact.map(|ns| ns >> 64).filter(|ns| *ns <= SPAN_MAX_NS).ok_or_else(too_long)?;
        Ok(SimDuration(ns as i64 / self.tick_ns * self.tick_ns))
    }

    /// The same, but at least a tick.
    pub(in crate::sim) fn service(&self, tokens: u32) -> Result<SimDuration, SimError> {
        Ok(self.span(tokens)?.max(SimDuration(self.tick_ns)))
    }

    /// Most tokens, up to `most`, whose span is not above `time`.
    fn tokens_in(&self, time: SimDuration, most: u32) -> u32 {
        // The span is above `time` from the first whole tick behind it on.
        let above = ((time.0 / self.tick_ns + 1) * self.tick_ns) as u128;
        let tokens = ((above << 64) - HALF - 1).checked_div(self.per_token);
        tokens.map_or(most, |tokens| tokens.min(u128::from(most)) as u32)
    }

    /// The gaps between a first token and `count` further ones, the last of which comes `sum` after it.
    fn gaps(&self, count: u32, sum: SimDuration) -> Gaps {
        let low = (self.per_token >> 64) as i64 / self.tick_ns * self.tick_ns;
        let long = (sum.0 - i64::from(count) * low) / self.tick_ns;
        Gaps { low, tick_ns: self.tick_ns, short: u64::from(count) - long as u64, long: long as u64 }
    }
}

/// `short` gaps of `low` nanoseconds, and `long` ones that are a tick longer.
struct Gaps {
    low: i64,
    tick_ns: i64,
    short: u64,
    long: u64,
}

impl Gaps {
    /// At this place of the sorted gaps.
    fn nth(&self, at: u64) -> i64 {
        if at < self.short { self.low } else { self.low + self.tick_ns }
    }

    fn stats(&self, sum: SimDuration) -> ItlStats {
        let last = self.short + self.long - 1;
        let (rank, part) = (last * 99 / 100, (last * 99 % 100) as i64);
        let (low, high) = (self.nth(rank), self.nth((rank + 1).min(last)));
        let p99 = low + (part * (high - low) + 50) / 100;
        ItlStats { sum, p99: SimDuration(p99), max: SimDuration(self.nth(last)) }
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
    /// When clients go: (time, request, slot); void where the slot is another's by then.
    aborts: BinaryHeap<Reverse<(SimTime, u32, u32)>>,
    live: Vec<Live>,
    unused: Vec<u32>,
    services: u64,
    steps: u64,
    running: u64,
    running_max: u64,
    waiting_max: u64,
    running_ns: i128,
    waiting_ns: i128,
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
            aborts: BinaryHeap::new(),
            live: Vec::new(),
            unused: Vec::new(),
            services: 0,
            steps: 0,
            running: 0,
            running_max: 0,
            waiting_max: 0,
            running_ns: 0,
            waiting_ns: 0,
        }
    }

    fn waiting(&self) -> u64 {
        (self.first.len() + self.second.len()) as u64
    }

    /// The next time at which something happens.
    fn next(&mut self) -> Option<SimTime> {
        while let Some(Reverse((_, service, slot))) = self.ends.peek()
            && self.live[*slot as usize].service != *service
        {
            self.ends.pop();
        }
        while let Some(Reverse((_, request, slot))) = self.aborts.peek()
            && !self.is(*slot, *request)
        {
            self.aborts.pop();
        }
        let end = self.ends.peek().map(|Reverse((at, _, _))| *at);
        let abort = self.aborts.peek().map(|Reverse((at, _, _))| *at);
        let queued = self.pending.peek().map(|Reverse((at, _))| *at);
        [end, abort, queued].into_iter().flatten().min()
    }

    /// Whether the slot is still that request's.
    fn is(&self, slot: u32, request: u32) -> bool {
        let live = &self.live[slot as usize];
        live.stage != Stage::Unused && live.request == request
    }

    fn pass_to(&mut self, time: SimTime) {
        let span = i128::from((time - self.clock).0);
        assert!(span >= 0, "time decreases");
        self.running_ns += span * i128::from(self.running);
        self.waiting_ns += span * i128::from(self.waiting());
        self.clock = time;
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
        self.steps += 1;
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
            let key = self.first.key(env.demand, request);
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
        self.waiting_max = self.waiting_max.max(self.waiting());
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
        out.rows.push((self.clock, row));
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

    fn start_services(&mut self) -> Result<(), SimError> {
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
                self.serve(slot, prefilled)?;
            }
        }
        while self.idle_decode > 0
            && let Some(slot) = self.second.pop_front()
        {
            self.idle_decode -= 1;
            self.serve(slot, self.clock)?;
        }
        self.running_max = self.running_max.max(self.running);
        Ok(())
    }

    /// The prompt of a request that begins a service is done at `prefilled`, and tokens follow.
    fn serve(&mut self, slot: u32, prefilled: SimTime) -> Result<(), SimError> {
        let live = &mut self.live[slot as usize];
        live.stage = Stage::Serving;
        live.first_token = prefilled + self.decode.service(1)?;
        let end = live.first_token + self.decode.span(live.output - 1)?;
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
    fn push(&mut self, place: u32, at: SimTime, _env: &Env<'_>) {
        self.pending.push(Reverse((at, place)));
    }

    fn outstanding(&self) -> u64 {
        (self.pending.len() + self.live.len() - self.unused.len()) as u64
    }

    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        loop {
            // What has happened at this instant already does not happen again.
            if self.clock < limit {
                self.enqueue(env);
                self.notice_gone(env, out);
                self.start_services()?;
            }
            let Some(next) = self.next().filter(|next| *next <= limit) else { return Ok(()) };
            if env.stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if next > HORIZON {
                return Err(too_long());
            }
            self.pass_to(next);
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
            out.rows.push((horizon, RequestRow { input_tokens, ..row }));
        }
        if self.outstanding() > 0 {
            self.pass_to(horizon);
        }
        for slot in 0..self.live.len() as u32 {
            if self.live[slot as usize].stage != Stage::Unused {
                let row = self.row(slot, Status::InFlight, horizon, env, out);
                out.rows.push((horizon, row));
            }
        }
    }

    fn add_to(&self, s: &mut Summary) {
        s.steps += self.steps;
        s.busy += SimDuration(i64::try_from(self.running_ns).unwrap_or(i64::MAX));
        s.running_max = s.running_max.max(self.running_max);
        s.waiting_max = s.waiting_max.max(self.waiting_max);
        s.running_ns += self.running_ns;
        s.waiting_ns += self.waiting_ns;
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

    #[test]
    fn spans_are_rounded_once() {
        for (rate, tick, tokens, expect) in [
            (8_000.0, None, 662, 82_750_000),
            (2_000.0, None, 350, 175_000_000),
            (3.0, None, 1, 333_333_333),
            (3.0, None, 2, 666_666_667),
            (3.0, None, 3_000_000, 1_000_000_000_000_000),
            (8_000.0, Some(1_000), 3, 375_000),
            (3_000.0, Some(1_000), 1, 333_000),
            (3_000.0, Some(1_000), 2, 666_000),
            (3_000.0, Some(1_000), 3, 1_000_000),
            (3e9, None, 1, 0),
            (3e9, None, 4, 1),
        ] {
            let tick = tick.map(|ns| Tick::new(SimDuration(ns)).unwrap());
            assert_eq!(Pace::new(rate, tick).span(tokens), Ok(SimDuration(expect)), "{tokens} at {rate}/s, {tick:?}");
        }
    }

    #[test]
    fn gaps_are_known_without_looking_at_them() {
        for rate in [1e3, 2e3, 3.0, 7.7, 1234.5, 7e8, 2e9, 2.1e9, 1e12, 1.0 + 1e-9, 1e3 - 1e-10] {
            for tick_ns in [1, 7, 1_000, MS] {
                let pace = Pace::new(rate, Tick::new(SimDuration(tick_ns)));
                let spans: Vec<i64> = (0..400).map(|n| pace.span(n).unwrap().0).collect();
                for count in [1, 2, 3, 57, 101, 399] {
                    let mut gaps: Vec<i64> = spans[..=count].windows(2).map(|w| w[1] - w[0]).collect();
                    gaps.sort_unstable();
                    let sum = spans[count];
                    let known = pace.gaps(count as u32, SimDuration(sum));
                    assert!((0..count).all(|at| known.nth(at as u64) == gaps[at]), "{rate} {tick_ns} {count}");
                    assert_eq!(known.short + known.long, count as u64);
                    // No token more, none less.
                    for time in [sum, sum + 1, (sum - 1).max(0)] {
                        let out = spans[1..].iter().filter(|span| **span <= time).count();
                        assert_eq!(pace.tokens_in(SimDuration(time), 399) as usize, out, "{rate} {tick_ns} {time}");
                    }
                }
            }
        }
        // Ranks of the 99th percentile: 1.98 of three gaps, 98.01 of a hundred.
        let stats = |short, long| Gaps { low: 10, tick_ns: 100, short, long }.stats(SimDuration(0));
        assert_eq!((stats(2, 1).p99.0, stats(2, 1).max.0), (108, 110));
        assert_eq!((stats(99, 1).p99.0, stats(100, 1).p99.0, stats(5, 0).max.0), (11, 10, 10));
    }
}
