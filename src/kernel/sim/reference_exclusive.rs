//! The oracle of the queueing model: the obvious way, every token with its time, every choice by looking at all requests.
//!
//! Slow on purpose. Promises the rows and totals of [`super::scheduler::exclusive`]; shares with it the time of a number
//! of tokens ([`Pace`]), and what the load says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;

use super::engine::{HORIZON, too_long};
use super::load::Demand;
use super::router::Router;
use super::scheduler::exclusive::rates;
use super::scheduler::pace::Pace;
use super::scheduler::{Exclusive, QueueOrder, Scheduler};
use super::{ItlStats, RequestRow, RouteRow, SimError, Sink, Status, Summary};
use crate::pools::Role;
use crate::rng;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    NotYet,
    /// It has arrived, but is not in the queue.
    Coming,
    Waiting,
    /// In the first of two services, until then.
    Prefill(SimTime),
    /// Since the service of this number.
    WaitingToDecode(usize),
    /// In the service that yields tokens, until then.
    Serving(SimTime),
    Over,
}

struct Life {
    request: u32,
    arrival: SimTime,
    replica: usize,
    state: State,
    /// How many requests entered the queue before it.
    entered: usize,
    queued: Option<SimTime>,
    scheduled: Option<SimTime>,
    /// Number of its last service.
    service: usize,
    /// When every token of its reply comes out, once that is known.
    tokens: Vec<SimTime>,
    gone: Option<(SimTime, Status)>,
}

struct World<'a> {
    demand: Demand<'a>,
    rules: Exclusive,
    prefill: Pace,
    decode: Pace,
    max_len: u32,
    replicas: usize,
    lives: Vec<Life>,
    entries: usize,
    services: usize,
    gaps: BTreeMap<SimDuration, u64>,
    summary: Summary,
}

/// See the head of the file.
pub(super) fn simulate(
    scenario: &Scenario,
    demand: Demand<'_>,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
) -> Result<Summary, SimError> {
    let d = &scenario.deployment;
    let rules = match &d.scheduler {
        Scheduler::Exclusive(rules) => rules.clone(),
        _ => unreachable!("the oracle of another scheduler"),
    };
    let life = |place: usize| Life {
        request: demand.nth(place),
        arrival: demand.arrival(demand.nth(place)),
        replica: 0,
        state: State::NotYet,
        entered: 0,
        queued: None,
        scheduled: None,
        service: 0,
        tokens: Vec::new(),
        gone: demand.abort(place),
    };
    let arrives = |place: &usize| demand.arrival(demand.nth(*place)) < demand.horizon;
    let mut lives: Vec<Life> = (0..demand.count()).filter(arrives).map(life).collect();
    // Of requests that arrive at one instant, the first of the trace comes first.
    lives.sort_by_key(|life| (life.arrival, life.request));
    let summary = Summary { injected: lives.len() as u64, out_of_order: demand.out_of_order, ..Summary::default() };
    let mut world = World {
        rules,
        prefill: Pace::new(rates(d).prefill_tokens_per_s, d.tick),
        decode: Pace::new(rates(d).decode_tokens_per_s, d.tick),
        max_len: d.max_model_len.unwrap_or(u32::MAX / 4),
        replicas: d.replicas as usize,
        lives,
        entries: 0,
        services: 0,
        gaps: BTreeMap::new(),
        summary,
        demand,
    };
    world.run(&d.router, scenario.seed, sink, stop)?;
    let mut s = world.summary;
    s.itl = world.gaps.into_iter().collect();
    // All that is not about requests as a whole is about the one pool.
    let pool = Summary {
        injected: s.injected - s.rejected,
        steps: s.steps,
        busy: s.busy,
        running_max: s.running_max,
        waiting_max: s.waiting_max,
        running_ns: s.running_ns,
        waiting_ns: s.waiting_ns,
        ..Summary::default()
    };
    s.pools = vec![pool];
    Ok(s)
}

impl World<'_> {
    fn run(&mut self, router: &Router, seed: u64, sink: &mut dyn Sink, stop: &AtomicBool) -> Result<(), SimError> {
        let (mut turn, mut random) = (0, rng::stream(seed, "router"));
        // Which one, and whether it is by the loads.
        let mut pick = |loads: &[usize]| match router {
            Router::RoundRobin => {
                turn += 1;
                ((turn - 1) % loads.len(), false)
            }
            Router::Random => (((u128::from(random.next_u64()) * loads.len() as u128) >> 64) as usize, false),
            Router::LeastOutstanding => {
                let fewest = loads.iter().min();
                let equal: Vec<usize> = (0..loads.len()).filter(|r| Some(&loads[*r]) == fewest).collect();
                (equal[((u128::from(random.next_u64()) * equal.len() as u128) >> 64) as usize], true)
            }
            Router::LeastQueued
            | Router::LeastTokens
            | Router::LopBinary
            | Router::LopBatchEnd
            | Router::LopUncached
            | Router::StickyRoundRobin
            | Router::StickyLor
            | Router::StickyLop
            | Router::TolerantStickyLopUncached(_)
            | Router::RankedStickyLopUncached(_)
            | Router::PowerOfTwo
            | Router::PrefixAffinity(_)
            | Router::KvAware(_)
            | Router::Weighted(_) => unreachable!("the oracle of exclusive replicas knows three routers"),
        };
        let horizon = self.demand.horizon;
        let mut now = SimTime::ZERO;
        while let Some(next) = self.next_time().filter(|next| *next <= horizon) {
            if stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if next > HORIZON {
                return Err(too_long());
            }
            self.integrate(next - now);
            now = next;
            let mut rows = vec![Vec::new(); self.replicas];
            for (r, rows) in rows.iter_mut().enumerate() {
                self.end(r, now, rows);
            }
            let mut rejected = Vec::new();
            if now < horizon {
                self.arrive(now, &mut pick, &mut rejected, sink);
                for (r, rows) in rows.iter_mut().enumerate() {
                    self.queue(r, now);
                    self.go(r, now, rows);
                    self.start(r, now)?;
                }
            }
            rows.into_iter().flatten().chain(rejected).for_each(|row| self.report(row, now, sink));
            if now == horizon {
                break;
            }
        }
        self.close(now, horizon, sink);
        Ok(())
    }

    /// What is left at the horizon.
    fn close(&mut self, now: SimTime, horizon: SimTime, sink: &mut dyn Sink) {
        let mut left: Vec<usize> = (0..self.lives.len()).filter(|i| self.lives[*i].state != State::Over).collect();
        left.sort_by_key(|i| self.lives[*i].request);
        if !left.is_empty() {
            self.integrate(horizon - now);
        }
        for i in left {
            let row = self.row(i, Status::InFlight, horizon);
            self.report(row, horizon, sink);
        }
    }

    fn next_time(&self) -> Option<SimTime> {
        let of = |life: &Life| match (life.state, life.gone) {
            (State::NotYet, _) => Some(life.arrival),
            (State::Prefill(end) | State::Serving(end), Some((gone, _))) => Some(end.min(gone)),
            (State::Prefill(end) | State::Serving(end), None) => Some(end),
            (State::Coming | State::Waiting | State::WaitingToDecode(_), gone) => gone.map(|(at, _)| at),
            (State::Over, _) => None,
        };
        self.lives.iter().filter_map(of).min()
    }

    fn count(&self, what: impl Fn(&Life) -> bool) -> usize {
        self.lives.iter().filter(|life| what(life)).count()
    }

    fn integrate(&mut self, span: SimDuration) {
        let running = self.count(|l| matches!(l.state, State::Prefill(_) | State::Serving(_))) as i64;
        let waiting = self.count(|l| matches!(l.state, State::Waiting | State::WaitingToDecode(_))) as i64;
        self.summary.running_ns += i128::from(span.0 * running);
        self.summary.waiting_ns += i128::from(span.0 * waiting);
        self.summary.busy += SimDuration(span.0 * running);
    }

    fn end(&mut self, r: usize, now: SimTime, rows: &mut Vec<RequestRow>) {
        let ends = |l: &Life| l.replica == r && (l.state == State::Prefill(now) || l.state == State::Serving(now));
        let mut ending: Vec<usize> = (0..self.lives.len()).filter(|i| ends(&self.lives[*i])).collect();
        ending.sort_by_key(|i| self.lives[*i].service);
        for i in ending {
            self.summary.steps += 1;
            if self.lives[i].state == State::Prefill(now) {
                self.lives[i].state = State::WaitingToDecode(self.entries);
                self.entries += 1;
            } else {
                let capped = self.demand.output(self.lives[i].request, self.max_len).1;
                rows.push(self.row(i, if capped { Status::LengthCapped } else { Status::Finished }, now));
                self.lives[i].state = State::Over;
            }
        }
    }

    fn arrive(
        &mut self,
        now: SimTime,
        pick: &mut impl FnMut(&[usize]) -> (usize, bool),
        rejected: &mut Vec<RequestRow>,
        sink: &mut dyn Sink,
    ) {
        for i in 0..self.lives.len() {
            if self.lives[i].state != State::NotYet || self.lives[i].arrival != now {
                continue;
            }
            let here = |l: &Life, r| l.replica == r && l.state != State::NotYet && l.state != State::Over;
            let loads: Vec<usize> = (0..self.replicas).map(|r| self.count(|l| here(l, r))).collect();
            let (chosen, by_load) = pick(&loads);
            if sink.wants_routes() {
                for (r, load) in loads.iter().enumerate() {
                    sink.route(RouteRow {
                        at: now,
                        request: self.lives[i].request,
                        role: Role::Mixed,
                        replica: r as u32,
                        chosen: r == chosen,
                        score: by_load.then_some(-(*load as f64)),
                        backlog_tokens: self.lives.iter().filter(|l| here(l, r)).map(|l| self.backlog(l, now)).sum(),
                    });
                }
            }
            self.lives[i].replica = chosen;
            if self.demand.requests.input_tokens[self.lives[i].request as usize] < self.max_len {
                self.lives[i].state = State::Coming;
            } else {
                rejected.push(self.row(i, Status::Rejected, now));
                self.lives[i].state = State::Over;
            }
        }
    }

    /// Tokens of a prompt without a first token, and tokens that are to come.
    fn backlog(&self, life: &Life, now: SimTime) -> u64 {
        let out = life.tokens.iter().filter(|token| **token <= now).count() as u64;
        let prompt = if out == 0 { self.demand.requests.input_tokens[life.request as usize] } else { 0 };
        u64::from(prompt) + u64::from(self.demand.output(life.request, self.max_len).0) - out
    }

    fn queue(&mut self, r: usize, now: SimTime) {
        for life in &mut self.lives {
            let gone = life.gone.is_some_and(|(at, _)| at <= now);
            if life.replica == r && life.state == State::Coming && !gone {
                (life.state, life.queued, life.entered) = (State::Waiting, Some(now), self.entries);
                self.entries += 1;
            }
        }
        let waits = |l: &Life| l.replica == r && matches!(l.state, State::Waiting | State::WaitingToDecode(_));
        self.summary.waiting_max = self.summary.waiting_max.max(self.count(waits) as u64);
    }

    fn go(&mut self, r: usize, now: SimTime, rows: &mut Vec<RequestRow>) {
        let here = |l: &Life| l.replica == r && l.state != State::NotYet && l.state != State::Over;
        let mut going: Vec<usize> = (0..self.lives.len()).filter(|i| here(&self.lives[*i])).collect();
        going.sort_by_key(|i| self.lives[*i].request);
        for i in going {
            let Some((_, status)) = self.lives[i].gone.filter(|(at, _)| *at <= now) else { continue };
            let served = matches!(self.lives[i].state, State::Prefill(_) | State::Serving(_));
            self.summary.steps += u64::from(served);
            rows.push(self.row(i, status, now));
            self.lives[i].state = State::Over;
        }
    }

    fn start(&mut self, r: usize, now: SimTime) -> Result<(), SimError> {
        let two = self.rules.decode_servers > 0;
        let in_first = |s: State| matches!(s, State::Prefill(_)) || !two && matches!(s, State::Serving(_));
        while self.count(|l| l.replica == r && in_first(l.state)) < self.rules.servers as usize {
            let waiting = (0..self.lives.len()).filter(|i| self.waits_at(*i, r));
            let Some(i) = waiting.min_by_key(|i| self.key(*i)) else { break };
            self.lives[i].scheduled = Some(now);
            let input = self.demand.requests.input_tokens[self.lives[i].request as usize];
            let prefilled = now + self.prefill.service(input)?;
            if two {
                self.lives[i].state = State::Prefill(prefilled);
                self.lives[i].service = self.services;
                self.services += 1;
            } else {
                self.serve(i, prefilled)?;
            }
        }
        let decoding = |l: &Life| l.replica == r && matches!(l.state, State::Serving(_));
        while two && self.count(decoding) < self.rules.decode_servers as usize {
            let since = |i: &usize| match self.lives[*i].state {
                State::WaitingToDecode(since) if self.lives[*i].replica == r => Some((since, *i)),
                _ => None,
            };
            let Some((_, i)) = (0..self.lives.len()).filter_map(|i| since(&i)).min() else { break };
            self.serve(i, now)?;
        }
        let runs = |l: &Life| l.replica == r && matches!(l.state, State::Prefill(_) | State::Serving(_));
        self.summary.running_max = self.summary.running_max.max(self.count(runs) as u64);
        Ok(())
    }

    fn waits_at(&self, i: usize, r: usize) -> bool {
        self.lives[i].replica == r && self.lives[i].state == State::Waiting
    }

    /// What the first queue is ordered by.
    fn key(&self, i: usize) -> (i64, SimTime, u32) {
        let life = &self.lives[i];
        match self.rules.scheduling_policy {
            QueueOrder::Fcfs => (life.entered as i64, SimTime::ZERO, 0),
            QueueOrder::Priority => (i64::from(self.demand.priority(life.request)), life.arrival, life.request),
            QueueOrder::Sjf => {
                let input = self.demand.requests.input_tokens[life.request as usize];
                (i64::from(input), life.arrival, life.request)
            }
            QueueOrder::Edf => (self.demand.deadline(life.request).0, life.arrival, life.request),
            QueueOrder::LeastSlack | QueueOrder::Fair => unreachable!("refused by the check"),
        }
    }

    fn serve(&mut self, i: usize, prefilled: SimTime) -> Result<(), SimError> {
        let first = prefilled + self.decode.service(1)?;
        let (output, _) = self.demand.output(self.lives[i].request, self.max_len);
        let life = &mut self.lives[i];
        for further in 0..output {
            life.tokens.push(first + self.decode.span(further)?);
        }
        life.state = State::Serving(*life.tokens.last().unwrap_or(&first));
        life.service = self.services;
        self.services += 1;
        Ok(())
    }

    fn row(&mut self, i: usize, status: Status, now: SimTime) -> RequestRow {
        let life = &self.lives[i];
        let out: Vec<SimTime> = life.tokens.iter().copied().filter(|t| *t <= now).collect();
        let mut gaps: Vec<SimDuration> = out.windows(2).map(|w| w[1] - w[0]).collect();
        gaps.iter().for_each(|gap| *self.gaps.entry(*gap).or_insert(0) += 1);
        gaps.sort_unstable();
        RequestRow {
            queued: life.queued,
            scheduled: life.scheduled,
            first_token: out.first().copied(),
            finished: if status.served() { out.last().copied() } else { None },
            input_tokens: self.demand.requests.input_tokens[life.request as usize],
            output_tokens: out.len() as u32,
            itl: (!gaps.is_empty()).then(|| stats(&gaps)),
            ..RequestRow::new(life.request, life.replica as u32, status, life.arrival)
        }
    }

    fn report(&mut self, row: RequestRow, now: SimTime, sink: &mut dyn Sink) {
        let s = &mut self.summary;
        match row.status {
            Status::Finished => s.finished += 1,
            Status::LengthCapped => s.length_capped += 1,
            Status::Rejected => s.rejected += 1,
            Status::TimedOut => s.timed_out += 1,
            Status::Cancelled => s.cancelled += 1,
            Status::InFlight => s.in_flight += 1,
        }
        s.end = now;
        sink.request(row);
    }
}

/// Of sorted gaps. The 99th percentile lies at rank `0.99 * (count - 1)`.
fn stats(gaps: &[SimDuration]) -> ItlStats {
    let hundredths = 99 * (gaps.len() as i64 - 1);
    let low = gaps[(hundredths / 100) as usize].0;
    let high = gaps[((hundredths + 99) / 100) as usize].0;
    let interpolated = low * 100 + (high - low) * (hundredths % 100);
    ItlStats {
        count: gaps.len() as u64,
        sum: gaps.iter().fold(SimDuration::ZERO, |sum, gap| sum + *gap),
        p99: SimDuration((interpolated + 50).div_euclid(100)),
        max: gaps[gaps.len() - 1],
    }
}

#[cfg(test)]
mod tests {
    use rand_pcg::Pcg64;

    use super::*;
    use crate::request::Requests;
    use crate::scenario::{Arrivals, Cancel, ClassRules, Load};
    use crate::sim::latency::{Latency, Rates};
    use crate::sim::swarm::{Rows, scenario_8b};
    use crate::units::Tick;

    struct Dice(Pcg64);

    impl Dice {
        /// Uniform from `low` to `high`, both included.
        fn range(&mut self, low: i64, high: i64) -> i64 {
            low + rng::below(&mut self.0, (high - low + 1) as u64) as i64
        }

        fn one_in(&mut self, n: i64) -> bool {
            self.range(1, n) == 1
        }

        fn pick<T: Copy>(&mut self, of: &[T]) -> T {
            of[self.range(0, of.len() as i64 - 1) as usize]
        }

        /// A value for some of the requests, or for none of any.
        fn some<T>(&mut self, count: usize, mut value: impl FnMut(&mut Dice) -> T) -> Vec<Option<T>> {
            if self.one_in(2) {
                return Vec::new();
            }
            (0..count).map(|_| (!self.one_in(3)).then(|| value(self))).collect()
        }
    }

    const MS: i64 = 1_000_000;

    /// Times are whole milliseconds, so at 1000 tokens per second much happens at once.
    fn requests(dice: &mut Dice) -> Requests {
        let count = dice.range(1, 40) as usize;
        let (gap, longest) = (dice.pick(&[0, 1, 4, 30, 200]), dice.pick(&[3, 12, 150]));
        let mut at = 0;
        let mut arrival = || {
            at += if dice.one_in(3) { 0 } else { dice.range(0, gap) * MS };
            SimTime(at)
        };
        let mut arrivals: Vec<SimTime> = (0..count).map(|_| arrival()).collect();
        if dice.one_in(4) {
            arrivals.swap(0, count / 2);
        }
        let lengths = |dice: &mut Dice| (0..count).map(|_| dice.range(1, longest) as u32).collect::<Vec<_>>();
        let span = |dice: &mut Dice| SimDuration(dice.range(0, 4 * longest) * MS);
        Requests {
            arrival: arrivals,
            input_tokens: lengths(dice),
            output_tokens: lengths(dice),
            priority: dice.some(count, |dice| dice.range(-2, 2) as i32),
            deadline: dice.some(count, span),
            timeout: dice.some(count, span),
            cancel: dice.some(count, span),
            max_tokens: dice.some(count, |dice| dice.range(1, longest) as u32),
            class: dice.some(count, |dice| dice.range(0, 1) as u32),
            class_names: vec!["chat".to_string(), "batch".to_string()],
            ..Requests::default()
        }
    }

    fn load(dice: &mut Dice) -> Load {
        let timeout_s = dice.one_in(4).then(|| dice.range(1, 300) as f64 / 1e3);
        let chat = ClassRules {
            priority: Some(-1),
            timeout_s,
            max_tokens: Some(9),
            deadline_ms: Some(50.0),
            ..ClassRules::default()
        };
        let poisson = dice.one_in(4);
        Load {
            arrivals: if poisson { Arrivals::Poisson } else { Arrivals::Trace },
            rate_rps: poisson.then(|| dice.pick(&[1.0, 30.0, 2_000.0])),
            max_requests: dice.one_in(8).then(|| dice.range(1, 30) as u32),
            horizon_s: dice.one_in(3).then(|| dice.range(1, 400) as f64 / 1e3),
            deadline_ms: dice.one_in(3).then_some(100.0),
            cancel: dice.one_in(4).then_some(Cancel { share: 0.5, after_s: 0.05 }),
            classes: if dice.one_in(2) { [("chat".to_string(), chat)].into() } else { Default::default() },
            ..Load::default()
        }
    }

    fn scenario(seed: u64) -> (Scenario, Requests) {
        let dice = &mut Dice(rng::stream(seed, "exclusive"));
        let mut s = scenario_8b();
        s.seed = seed;
        let orders = [QueueOrder::Fcfs, QueueOrder::Priority, QueueOrder::Sjf, QueueOrder::Edf];
        s.deployment.scheduler = Scheduler::Exclusive(Exclusive {
            servers: dice.pick(&[1, 1, 2, 5]),
            decode_servers: dice.pick(&[0, 0, 1, 2, 5]),
            scheduling_policy: dice.pick(&orders),
        });
        let rates = [(1_000.0, 1_000.0), (2_000.0, 500.0), (1_234.5, 77.7), (3e9, 7e8), (1e4, 3e3)];
        let (prefill_tokens_per_s, decode_tokens_per_s) = dice.pick(&rates);
        s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s, decode_tokens_per_s });
        s.deployment.replicas = dice.pick(&[1, 1, 2, 5]);
        s.deployment.router = match dice.range(0, 2) {
            0 => Router::RoundRobin,
            1 => Router::Random,
            _ => Router::LeastOutstanding,
        };
        let ticks = [1_000, MS, 7 * MS / 2];
        s.deployment.tick = dice.one_in(3).then(|| Tick::new(SimDuration(dice.pick(&ticks)))).flatten();
        s.deployment.max_model_len = dice.one_in(4).then(|| dice.range(2, 200) as u32);
        s.workload = load(dice);
        let requests = requests(dice);
        (s, requests)
    }

    fn run(seed: u64) -> (Rows, Summary) {
        let (s, requests) = scenario(seed);
        let stop = AtomicBool::new(false);
        let (mut fast, mut slow) = (Rows::default(), Rows::default());
        let a = crate::sim::simulate(&s, &requests, &mut fast, &stop).unwrap();
        let b = crate::sim::reference::simulate(&s, &requests, &mut slow, &stop).unwrap();
        let at = format!("seed {seed}: {:?}\n{:?}", s.deployment, s.workload);
        for (f, r) in fast.requests.iter().zip(&slow.requests) {
            assert_eq!(f, r, "{at}");
        }
        for (f, r) in fast.routes.iter().zip(&slow.routes) {
            assert_eq!(f, r, "{at}");
        }
        assert_eq!((&fast, &a), (&slow, &b), "{at}");
        (fast, a)
    }

    #[test]
    fn the_servers_equal_the_oracle() {
        let mut counts = [0_u64; 6];
        for seed in 0..1_500 {
            let (rows, s) = run(seed);
            let ended = [s.finished, s.length_capped, s.rejected, s.timed_out, s.cancelled, s.in_flight];
            counts.iter_mut().zip(ended).for_each(|(sum, n)| *sum += n);
            assert_eq!(i128::from(s.busy.0), s.running_ns, "seed {seed}");
            let gaps: u64 = s.itl.iter().map(|(_, n)| n).sum();
            let tokens: u64 = rows.requests.iter().map(|r| u64::from(r.output_tokens.saturating_sub(1))).sum();
            assert_eq!(gaps, tokens, "seed {seed}");
        }
        // The scenarios reach what they are for.
        assert!(counts.iter().all(|n| *n > 500), "{counts:?}");
    }
}
