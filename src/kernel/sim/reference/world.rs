//! Time in the oracle: every instant at which something happens, in order, and what happens then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;
use rand_pcg::Pcg64;

use super::Seen;
use super::parts::{Coming, Life, Machine, Part, Step};
use super::steptime::Overhead;
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::sim::engine::{HORIZON, bounded, too_long};
use crate::sim::kv::hashes::Derivation;
use crate::sim::latency::{self, LatencyModel};
use crate::sim::load::Demand;
use crate::sim::router::Router;
use crate::sim::scheduler::VllmV1;
use crate::sim::{Quirks, RequestRow, SimError, Sink, Status, Summary};
use crate::units::{SimDuration, SimTime, Tick};

/// See the head of [`super`].
pub(super) struct World<'a> {
    pub demand: &'a Demand<'a>,
    pub requests: &'a Requests,
    pub rules: &'a VllmV1,
    pub model: Box<dyn LatencyModel>,
    pub derivation: Derivation,
    pub block_size: usize,
    pub caching: bool,
    pub quirks: Quirks,
    pub overhead: Overhead,
    pub tick: Option<Tick>,
    pub max_len: u32,
    /// In the order of arrival.
    pub lives: Vec<Life>,
    pub replicas: Vec<Machine>,
    pub summary: Summary,
    pub seen: Seen,
    router: &'a Router,
    /// Requests routed, and the stream of the random router.
    arrived: usize,
    random: Pcg64,
    gaps: BTreeMap<SimDuration, u64>,
    /// Up to when the integrals are.
    integrated: SimTime,
    /// Rows of this instant, by replica, and of requests that were rejected.
    ended: Vec<Vec<RequestRow>>,
    rejected: Vec<RequestRow>,
}

impl<'a> World<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        demand: &'a Demand<'a>,
        rules: &'a VllmV1,
        derivation: Derivation,
        blocks: u64,
        max_len: u32,
        quirks: Quirks,
    ) -> World<'a> {
        let d = &scenario.deployment;
        let replicas = d.replicas as usize;
        let summary = Summary {
            injected: demand.count() as u64,
            out_of_order: demand.out_of_order,
            kv_blocks_total: blocks,
            ..Summary::default()
        };
        World {
            demand,
            requests: demand.requests,
            rules,
            model: latency::build(d, &scenario.model, &scenario.gpu),
            derivation,
            block_size: d.kv.block_size as usize,
            caching: d.kv.enable_prefix_caching,
            quirks,
            overhead: Overhead::new(rules.scheduler_overhead_us, rules.async_scheduling),
            tick: d.tick,
            max_len,
            lives: (0..demand.count()).map(|place| Life::new(demand, place)).collect(),
            replicas: (0..replicas).map(|_| Machine::new(blocks as usize)).collect(),
            summary,
            seen: Seen::default(),
            router: &d.router,
            arrived: 0,
            random: rng::stream(scenario.seed, "router"),
            gaps: BTreeMap::new(),
            integrated: SimTime::ZERO,
            ended: vec![Vec::new(); replicas],
            rejected: Vec::new(),
        }
    }

    pub(super) fn run(mut self, sink: &mut dyn Sink, stop: &AtomicBool) -> Result<(Summary, Seen), SimError> {
        let horizon = self.demand.horizon;
        while let Some(now) = self.next_time().filter(|now| *now <= horizon) {
            if stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if now > HORIZON {
                return Err(too_long());
            }
            self.instant(now, sink)?;
        }
        self.close(horizon, sink);
        self.summary.itl = self.gaps.into_iter().collect();
        Ok((self.summary, self.seen))
    }

    /// The next time at which a step ends, a request arrives or reaches a queue.
    fn next_time(&self) -> Option<SimTime> {
        let ends = self.replicas.iter().filter_map(|m| m.current.as_ref().map(Step::end));
        let queued = self.replicas.iter().flat_map(|m| m.coming.iter().map(|c| c.at));
        ends.chain(queued).chain(self.lives.get(self.arrived).map(|l| l.arrival)).min()
    }

    fn instant(&mut self, now: SimTime, sink: &mut dyn Sink) -> Result<(), SimError> {
        self.integrate(now);
        let mut ends = false;
        for r in 0..self.replicas.len() {
            ends |= self.end_step(r, now, sink);
        }
        while self.lives.get(self.arrived).is_some_and(|l| l.arrival == now) {
            self.seen.ties += u64::from(ends);
            self.arrive(self.arrived);
            self.arrived += 1;
        }
        for r in 0..self.replicas.len() {
            let mut left = self.fill_queue(r, now);
            self.note_queue(r);
            left.extend(self.clients_gone(r, now));
            left.sort_by_key(|i| self.lives[*i].request);
            for i in left {
                self.abort(r, i, now);
            }
        }
        if now < self.demand.horizon {
            for r in 0..self.replicas.len() {
                self.start(r, now)?;
            }
        }
        let ended = self.ended.iter_mut().flat_map(|rows| rows.drain(..));
        ended.chain(self.rejected.drain(..)).for_each(|row| sink.request(row));
        Ok(())
    }

    /// Adds what was the case since the last instant.
    fn integrate(&mut self, now: SimTime) {
        let time = i128::from((now - self.integrated).0);
        for machine in &self.replicas {
            self.summary.kv_block_ns += machine.used() as i128 * time;
            self.summary.running_ns += machine.running.len() as i128 * time;
            self.summary.waiting_ns += machine.waiting.len() as i128 * time;
        }
        self.integrated = now;
    }

    /// Routes the request, and rejects it or sends it on its way to the queue.
    fn arrive(&mut self, i: usize) {
        let replica = self.route(i);
        let life = &mut self.lives[i];
        life.replica = replica;
        if life.input as u64 >= u64::from(self.max_len) {
            life.gone = true;
            self.summary.rejected += 1;
            self.summary.end = self.summary.end.max(life.arrival);
            let row = RequestRow {
                input_tokens: life.input as u32,
                ..RequestRow::new(life.request, replica as u32, Status::Rejected, life.arrival)
            };
            self.rejected.push(row);
            return;
        }
        let (output, cut) = self.demand.output(life.request, self.max_len);
        (life.output, life.cut) = (output as usize, cut);
        let at = life.arrival + bounded(self.model.before_queue(life.input as u32), self.tick);
        let coming = Coming { at, arrival: life.arrival, request: life.request, life: i };
        self.replicas[replica].coming.push(coming);
    }

    /// The replica of the request that arrives as the `turn`th.
    fn route(&mut self, turn: usize) -> usize {
        let count = self.replicas.len();
        match self.router {
            Router::RoundRobin => turn % count,
            Router::Random => ((u128::from(self.random.next_u64()) * count as u128) >> 64) as usize,
            Router::LeastOutstanding => (0..count).min_by_key(|r| self.replicas[*r].load()).unwrap_or(0),
        }
    }

    /// Requests whose time has come enter the queue; returns those whose client is gone already.
    fn fill_queue(&mut self, r: usize, now: SimTime) -> Vec<usize> {
        let mut gone = Vec::new();
        let machine = &mut self.replicas[r];
        machine.coming.sort_unstable();
        while machine.coming.first().is_some_and(|c| c.at <= now) {
            let i = machine.coming.remove(0).life;
            if self.lives[i].abort.is_some_and(|(at, _)| at <= now) {
                self.seen.never_queued += 1;
                gone.push(i);
                continue;
            }
            self.lives[i].queued = Some(now);
            machine.waiting.push_back(i);
        }
        gone
    }

    /// Requests in the queue and running whose client is gone, if no step runs.
    fn clients_gone(&self, r: usize, now: SimTime) -> Vec<usize> {
        let machine = &self.replicas[r];
        if machine.current.is_some() {
            return Vec::new();
        }
        let gone = |i: &usize| self.lives[*i].abort.is_some_and(|(at, _)| at <= now);
        machine.waiting.iter().chain(&machine.running).copied().filter(gone).collect()
    }

    fn abort(&mut self, r: usize, i: usize, now: SimTime) {
        let Some((_, status)) = self.lives[i].abort else { return };
        let counter = match status {
            Status::TimedOut => &mut self.summary.timed_out,
            Status::Cancelled => &mut self.summary.cancelled,
            Status::Finished | Status::LengthCapped | Status::Rejected | Status::InFlight => {
                unreachable!("no client leaves as {status:?}")
            }
        };
        *counter += 1;
        self.leave(r, i, now);
        self.summary.end = self.summary.end.max(now);
        let row = self.row(i, status);
        self.ended[r].push(row);
    }

    /// The request is nowhere any more.
    fn leave(&mut self, r: usize, i: usize, now: SimTime) {
        let blocks = std::mem::take(&mut self.lives[i].blocks);
        let machine = &mut self.replicas[r];
        machine.release(&blocks);
        machine.running.retain(|running| *running != i);
        machine.waiting.retain(|waiting| *waiting != i);
        self.lives[i].end_loss(now);
        self.lives[i].gone = true;
    }

    fn row(&mut self, i: usize, status: Status) -> RequestRow {
        let row = self.lives[i].row(status, bounded(self.model.after_token(), self.tick));
        self.summary.recomputed_tokens += u64::from(row.recomputed_tokens);
        row
    }

    /// Where no step runs: starts the one that was formed, or forms one and starts it; with asynchronous scheduling,
    /// forms the one after it too.
    fn start(&mut self, r: usize, now: SimTime) -> Result<(), SimError> {
        if self.replicas[r].current.is_some() {
            return Ok(());
        }
        let mut step = match self.replicas[r].next.take() {
            Some(step) => step,
            None if self.replicas[r].idle() => return Ok(()),
            None => self.form(r, now)?,
        };
        self.seen.empty_steps += u64::from(step.batch.iter().all(|part| part.tokens == 0));
        step.row.start = now;
        self.replicas[r].current = Some(step);
        if self.rules.async_scheduling && !self.replicas[r].idle() {
            let next = self.form(r, now)?;
            if !next.batch.is_empty() {
                self.replicas[r].next = Some(next);
            }
        }
        Ok(())
    }

    /// Ends the step that ends now, if one does: its tokens come out, and what they complete leaves.
    fn end_step(&mut self, r: usize, now: SimTime, sink: &mut dyn Sink) -> bool {
        let Some(step) = self.replicas[r].current.take_if(|step| step.end() == now) else { return false };
        self.count_step(&step);
        if sink.wants_steps() {
            sink.step(step.row);
        }
        let mut complete = Vec::new();
        for part in &step.batch {
            if self.hand_out(part, now) {
                complete.push(part.life);
            }
        }
        for i in complete {
            self.complete(r, i, now);
        }
        true
    }

    fn count_step(&mut self, step: &Step) {
        let s = &mut self.summary;
        s.steps += 1;
        s.busy += step.row.duration;
        let (work, shape) = (&mut s.work, &step.shape);
        work.decode_requests += shape.decode_requests;
        work.decode_context += u128::from(shape.decode_context);
        work.prefill_tokens += shape.prefill_tokens;
        work.prefill_context += u128::from(shape.prefill_context);
        work.prefill_tokens_x_context += u128::from(shape.prefill_tokens_x_context);
        work.prefill_tokens_squared += u128::from(shape.prefill_tokens_squared);
        let tokens = (shape.decode_requests + shape.prefill_tokens) as usize;
        if work.steps_by_tokens.len() <= tokens {
            work.steps_by_tokens.resize(tokens + 1, 0);
        }
        work.steps_by_tokens[tokens] += 1;
    }

    /// What the end of a step means for a request in it; whether it has its last token now.
    fn hand_out(&mut self, part: &Part, now: SimTime) -> bool {
        let life = &mut self.lives[part.life];
        if life.gone {
            self.seen.wasted += u64::from(part.yields);
            return false;
        }
        if part.restores && life.preemptions == part.preemptions {
            life.end_loss(now);
        }
        if !part.yields {
            return false;
        }
        if let Some(last) = life.tokens.last() {
            *self.gaps.entry(now - *last).or_insert(0) += 1;
        }
        life.tokens.push(now);
        life.tokens.len() == life.output
    }

    fn complete(&mut self, r: usize, i: usize, now: SimTime) {
        if self.quirks.block_at_completion {
            self.extend(r, i, 1);
        }
        self.leave(r, i, now);
        let status = if self.lives[i].cut { Status::LengthCapped } else { Status::Finished };
        match self.lives[i].cut {
            true => self.summary.length_capped += 1,
            false => self.summary.finished += 1,
        }
        let after = bounded(self.model.after_token(), self.tick) + bounded(self.model.after_request(), self.tick);
        let finished = now + after;
        self.summary.end = self.summary.end.max(finished);
        let row = RequestRow { finished: Some(finished), ..self.row(i, status) };
        self.ended[r].push(row);
    }

    fn note_queue(&mut self, r: usize) {
        let waiting = self.replicas[r].waiting.len() as u64;
        self.summary.waiting_max = self.summary.waiting_max.max(waiting);
    }

    /// After a batch was formed.
    pub(super) fn note_peaks(&mut self, r: usize) {
        self.note_queue(r);
        let (running, used) = (self.replicas[r].running.len() as u64, self.replicas[r].used() as u64);
        self.summary.running_max = self.summary.running_max.max(running);
        self.summary.kv_blocks_max = self.summary.kv_blocks_max.max(used);
    }

    /// Rows for what is still here, if there is a horizon.
    fn close(&mut self, horizon: SimTime, sink: &mut dyn Sink) {
        let mut left: Vec<usize> = (0..self.lives.len()).filter(|i| !self.lives[*i].gone).collect();
        if left.is_empty() {
            return;
        }
        self.integrate(horizon);
        self.summary.end = self.summary.end.max(horizon);
        left.sort_by_key(|i| self.lives[*i].request);
        for i in left {
            self.summary.in_flight += 1;
            self.lives[i].end_loss(horizon);
            let row = self.row(i, Status::InFlight);
            sink.request(row);
        }
    }
}
