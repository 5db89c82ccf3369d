//! Time in the oracle: every instant at which something happens, in order, and what happens then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Seen;
use super::caches::Sights;
use super::moving::{Load, Roads};
use super::parts::{Life, Machine, Part, Stage, Step};
use super::pools::Pools;
use super::routing::Chooser;
use super::sessions::Conversations;
use crate::pools::{Disaggregation, Role, Site};
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::sim::engine::{HORIZON, too_long};
use crate::sim::latency::LatencyModel;
use crate::sim::load::Demand;
use crate::sim::{Quirks, RequestRow, RouteRow, SimError, Sink, Status, Summary, TierSummary};
use crate::units::{SimDuration, SimTime};

/// See the head of [`super`].
pub(super) struct World<'a> {
    pub demand: &'a Demand<'a>,
    pub requests: &'a Requests,
    pub quirks: Quirks,
    pub seed: u64,
    pub rules: &'a Disaggregation,
    /// By place.
    pub lives: Vec<Life>,
    pub pools: Pools,
    pub replicas: Vec<Machine>,
    /// By set of candidates.
    pub choosers: Vec<Chooser>,
    pub sights: Sights,
    pub roads: Roads,
    pub summary: Summary,
    /// What only the engines know, by pool.
    pub totals: Vec<Summary>,
    pub seen: Seen,
    /// Prompts that are done at this instant and will join a queue for room, and what encoders made that has come.
    pub joining: Vec<usize>,
    pub encoded: Vec<usize>,
    /// Decode replicas that look for room at this instant, or at a later one.
    pub looking: BTreeSet<usize>,
    looks: BTreeSet<(SimTime, usize)>,
    /// Estimates that the latency model had to extrapolate for, by pool.
    pub estimates: Vec<u64>,
    conversations: Conversations,
    gaps: BTreeMap<SimDuration, u64>,
    /// Up to when the integrals are.
    pub integrated: SimTime,
    /// Rows of this instant: by replica, of ends of steps, and of transfers that ended and clients that went; of requests
    /// that were rejected, and of those that will never be sent.
    ended: Vec<Vec<RequestRow>>,
    went: Vec<Vec<RequestRow>>,
    rejected: Vec<RequestRow>,
    never: Vec<RequestRow>,
    pub routes: Vec<RouteRow>,
}

impl<'a> World<'a> {
    /// # Errors
    /// [`SimError::Invalid`] where pools and requests do not go together.
    pub(super) fn new(
        scenario: &'a Scenario,
        demand: &'a Demand<'a>,
        quirks: Quirks,
        model: fn(&Site) -> Result<Box<dyn LatencyModel>, SimError>,
    ) -> Result<World<'a>, SimError> {
        let d = &scenario.deployment;
        let pools = Pools::new(scenario, demand, model)?;
        let conversations = Conversations::new(&scenario.workload, demand, scenario.seed);
        let chooser = |set: usize| {
            let candidates = &pools.sets[set];
            let router = match candidates.role {
                Role::Decode => d.disaggregation.decode_router.as_ref().unwrap_or(&d.router),
                Role::Mixed | Role::Encode | Role::Prefill => &d.router,
            };
            Chooser::new(router, candidates.engines.len(), set, scenario.seed)
        };
        let choosers = (0..pools.sets.len()).map(chooser).collect();
        let blocks = |pool: usize| pools.all[pool].blocks as u64;
        let total = |pool: usize| Summary { kv_blocks_total: blocks(pool), ..Summary::default() };
        let replicas: Vec<Machine> =
            pools.engines.iter().enumerate().map(|(r, pool)| Machine::new(pool.clone(), r, scenario.seed)).collect();
        let mut lives: Vec<Life> = (0..demand.count()).map(|place| Life::new(demand, place)).collect();
        for life in lives.iter_mut().filter(|life| !conversations.waits(life.place)) {
            life.abort = demand.abort(life.place);
        }
        Ok(World {
            demand,
            requests: demand.requests,
            quirks,
            seed: scenario.seed,
            rules: &d.disaggregation,
            lives,
            choosers,
            sights: Sights::new(&d.signals),
            roads: Roads::new(d.disaggregation.transfer, d.tick),
            summary: Summary { out_of_order: demand.out_of_order, ..Summary::default() },
            totals: (0..pools.all.len()).map(total).collect(),
            estimates: vec![0; pools.all.len()],
            seen: Seen::default(),
            joining: Vec::new(),
            encoded: Vec::new(),
            looking: BTreeSet::new(),
            looks: BTreeSet::new(),
            conversations,
            gaps: BTreeMap::new(),
            integrated: SimTime::ZERO,
            ended: vec![Vec::new(); replicas.len()],
            went: vec![Vec::new(); replicas.len()],
            rejected: Vec::new(),
            never: Vec::new(),
            routes: Vec::new(),
            pools,
            replicas,
        })
    }

    /// Runs all of it.
    pub(super) fn run(mut self, sink: &mut dyn Sink, stop: &AtomicBool) -> Result<(Summary, Seen), SimError> {
        let horizon = self.demand.horizon;
        for (place, at) in self.conversations.begin() {
            self.send(place, at);
        }
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
        self.summary.itl = std::mem::take(&mut self.gaps).into_iter().collect();
        let pools = self.totals.iter_mut().zip(&self.pools.all).zip(&self.estimates);
        for (number, ((total, pool), estimates)) in pools.enumerate() {
            // What encoders and estimates asked for is no step.
            let asked = total.latency_extrapolated_steps + estimates;
            total.latency_extrapolated_steps = pool.model.extrapolated() - asked;
            for machine in self.replicas.iter().filter(|machine| machine.pool.number == number) {
                total.latency_extrapolated_steps -= machine.estimates;
                let told: Vec<TierSummary> = machine.shelves.iter().map(|shelf| shelf.told.clone()).collect();
                add_tiers(total, &told);
            }
        }
        for pool in &self.totals {
            add(&mut self.summary, pool);
        }
        self.summary.pools = self.totals;
        self.seen.shared_transfers = self.roads.shared;
        Ok((self.summary, self.seen))
    }

    /// The next time at which a step ends, a transfer begins or ends to flow, a request arrives or reaches a queue, a client
    /// goes that is not in a step, or a replica looks for room.
    fn next_time(&self) -> Option<SimTime> {
        let ends = self.replicas.iter().filter_map(|m| m.current.as_ref().map(Step::end));
        let queued = self.replicas.iter().flat_map(|m| m.coming.iter().map(|c| c.at));
        let arrives = |l: &&Life| !l.arrived && l.arrival < self.demand.horizon;
        let arrivals = self.lives.iter().filter(arrives).map(|l| l.arrival);
        let still = self.replicas.iter().filter(|m| m.current.is_none());
        let patient = still.flat_map(|m| m.waiting.iter().chain(&m.running)).filter(|i| self.lives[**i].trip.is_none());
        let goes = patient.filter_map(|i| self.lives[*i].abort.map(|(at, _)| at));
        let looks = self.looks.first().map(|(at, _)| *at);
        let waiting = self.replicas.iter().flat_map(|m| &m.waiting);
        let fetched = waiting.filter_map(|i| self.lives[*i].trip.map(|trip| trip.until));
        let adapters = self.replicas.iter().filter_map(|m| m.shelf.coming.map(|(at, _)| at));
        let comes = ends.chain(fetched).chain(adapters).chain(queued).chain(arrivals);
        comes.chain(goes).chain(looks).chain(self.roads.next()).min()
    }

    fn instant(&mut self, now: SimTime, sink: &mut dyn Sink) -> Result<(), SimError> {
        self.sights.look_until(now, &self.replicas);
        self.integrate(now);
        let mut ends = false;
        for r in 0..self.replicas.len() {
            ends |= self.end_step(r, now, sink);
        }
        self.move_caches(now);
        self.sights.look_at(now, &self.replicas);
        if now < self.demand.horizon {
            while let Some(i) = self.next_arrival(now) {
                self.seen.ties += u64::from(ends);
                self.arrive(i, now, sink.wants_routes());
            }
        }
        for r in 0..self.replicas.len() {
            self.adapter_comes(r, now);
            let mut left = self.fill_queue(r, now);
            self.note_queue(r);
            left.extend(self.clients_gone(r, now));
            left.sort_by_key(|i| (self.lives[*i].request, self.lives[*i].sample));
            for i in left {
                self.abort(r, i, now);
                if self.replicas[r].pool.role == Role::Decode {
                    self.looks.insert((now + SimDuration(1), r));
                }
            }
            if now < self.demand.horizon {
                self.start(r, now)?;
            }
        }
        self.tell(sink);
        Ok(())
    }

    /// Hands out the rows of this instant.
    fn tell(&mut self, sink: &mut dyn Sink) {
        self.went.iter_mut().chain([&mut self.never]).for_each(|rows| rows.sort_by_key(|row| row.request));
        let of_replicas = self.ended.iter_mut().zip(&mut self.went);
        let ended = of_replicas.flat_map(|(ended, went)| ended.drain(..).chain(went.drain(..)));
        for row in ended.chain(self.rejected.drain(..)).chain(self.never.drain(..)) {
            self.summary.injected += 1;
            sink.request(row);
        }
        self.routes.drain(..).for_each(|row| sink.route(row));
    }

    /// What reaches its destination now; and decode replicas give room, as often as that lets something else arrive.
    fn move_caches(&mut self, now: SimTime) {
        let due = self.looks.iter().filter(|(at, _)| *at <= now).map(|(_, r)| *r);
        self.looking.extend(due);
        self.looks.retain(|(at, _)| *at > now);
        self.joining.sort_unstable();
        for i in std::mem::take(&mut self.joining) {
            self.replicas[self.lives[i].home].room.push_back(i);
            self.looking.insert(self.lives[i].home);
        }
        loop {
            let mut arrived = self.roads.arrived(now);
            arrived.sort_unstable();
            let nothing = arrived.is_empty();
            for (i, load) in arrived {
                match load {
                    Load::Cache => self.cache_came(i, now),
                    Load::Embeddings => self.embeddings_came(i, now),
                }
            }
            let looking = std::mem::take(&mut self.looking);
            if nothing && looking.is_empty() {
                return;
            }
            looking.into_iter().for_each(|r| self.give_room(r, now));
        }
    }

    /// The first in the trace of those that arrive now, or whose embeddings do.
    fn next_arrival(&mut self, now: SimTime) -> Option<usize> {
        let new = (0..self.lives.len()).find(|i| !self.lives[*i].arrived && self.lives[*i].arrival == now);
        let next = new.into_iter().chain(self.encoded.iter().copied()).min()?;
        self.encoded.retain(|i| *i != next);
        Some(next)
    }

    /// Adds what was the case since the last instant.
    fn integrate(&mut self, now: SimTime) {
        let time = i128::from((now - self.integrated).0);
        for (r, machine) in self.replicas.iter().enumerate() {
            let without_adapter = self.without_adapter(r) as i128;
            let totals = &mut self.totals[machine.pool.number];
            totals.kv_block_ns += machine.used() as i128 * time;
            totals.running_ns += machine.running.len() as i128 * time;
            totals.waiting_ns += machine.waiting.len() as i128 * time;
            totals.adapters.wait_ns += without_adapter * time;
            self.summary.room_wait_ns += machine.room.len() as i128 * time;
        }
        self.summary.transfer_ns += self.roads.caches() as i128 * time;
        self.integrated = now;
    }

    /// Requests whose time has come enter the queue; returns those whose client is gone already.
    fn fill_queue(&mut self, r: usize, now: SimTime) -> Vec<usize> {
        let mut gone = Vec::new();
        while self.fetch_over(r, now) {}
        self.replicas[r].coming.sort_unstable();
        while self.replicas[r].coming.first().is_some_and(|c| c.at <= now) {
            let i = self.replicas[r].coming.remove(0).life;
            let life = &mut self.lives[i];
            let again = !life.children.is_empty();
            if life.is_left(now) && !again {
                self.seen.never_queued += 1;
                gone.push(i);
                continue;
            }
            match life.stage {
                Stage::Encode | Stage::Reply => {}
                Stage::Prefill | Stage::PrefillOnly | Stage::Whole => life.queued = life.queued.or(Some(now)),
            }
            for i in self.samples_of(r, i) {
                self.joins(r, i);
                self.replicas[r].line.came = true;
                self.replicas[r].rests = false;
                self.replicas[r].waiting.push_back(i);
                self.prefetch(r, i, now);
            }
        }
        gone
    }

    /// Requests in the queue and running whose client is gone, if no step runs, or one of several in flight has ended.
    fn clients_gone(&self, r: usize, now: SimTime) -> Vec<usize> {
        let machine = &self.replicas[r];
        let between_steps = machine.current.is_none() || machine.line.ended;
        let queue = machine.waiting.iter().chain(&machine.running).filter(|_| between_steps);
        let queue = queue.filter(|i| self.lives[**i].trip.is_none());
        queue.copied().filter(|i| self.lives[*i].is_left(now)).collect()
    }

    /// The client of a request has gone, and that is noticed where the request is.
    pub(super) fn abort(&mut self, r: usize, i: usize, now: SimTime) {
        let Some((_, status)) = self.lives[i].abort else { return };
        self.leave(r, i, now);
        let Some(i) = self.ended_with(i) else { return };
        let counter = match status {
            Status::TimedOut => &mut self.summary.timed_out,
            Status::Cancelled => &mut self.summary.cancelled,
            Status::Finished | Status::LengthCapped | Status::Rejected | Status::InFlight => {
                unreachable!("no client leaves as {status:?}")
            }
        };
        *counter += 1;
        self.summary.end = self.summary.end.max(now);
        let row = self.row(i, status);
        self.went[r].push(row);
        self.over(i, now, now + SimDuration(1), false);
    }

    /// The request has ended; what that brings about comes at `at`.
    fn over(&mut self, i: usize, now: SimTime, at: SimTime, served: bool) {
        let follows = self.conversations.ended(i, at, served);
        for (place, at) in follows.sent {
            self.send(place, at);
        }
        let home = self.lives[i].home as u32;
        for place in follows.never {
            let life = &mut self.lives[place];
            (life.arrived, life.gone, life.arrival) = (true, true, now);
            self.summary.cancelled += 1;
            self.summary.never_sent += 1;
            let (input_tokens, samples) = (life.input as u32, life.samples);
            let row =
                RequestRow { input_tokens, samples, ..RequestRow::new(life.request, home, Status::Cancelled, now) };
            self.never.push(row);
        }
    }

    fn send(&mut self, place: usize, at: SimTime) {
        let life = &mut self.lives[place];
        self.demand.send(life.request, at);
        (life.arrival, life.abort) = (at, self.demand.abort(place));
    }

    /// What was chosen for it cannot hold its prompt.
    pub(super) fn reject(&mut self, i: usize, now: SimTime) {
        self.lives[i].over();
        let row = self.row(i, Status::Rejected);
        self.rejected.push(row);
        self.summary.rejected += 1;
        self.summary.end = self.summary.end.max(now);
        self.over(i, now, now, false);
    }

    /// The request is nowhere any more.
    fn leave(&mut self, r: usize, i: usize, now: SimTime) {
        self.leave_engine(r, i);
        self.lives[i].end_loss(now);
        self.lives[i].over();
    }

    /// The request has nothing on this engine any more.
    pub(super) fn leave_engine(&mut self, r: usize, i: usize) {
        self.fill_late(r, i, self.lives[i].computed);
        if self.replicas[r].waiting.contains(&i) {
            self.leaves_queue(r, i);
        }
        self.forks_leave(r, i);
        let blocks = std::mem::take(&mut self.lives[i].blocks);
        let machine = &mut self.replicas[r];
        let ran = machine.running.contains(&i);
        machine.encoded.remove(&i);
        machine.release_fixed(i);
        machine.release(&blocks);
        machine.running.retain(|running| *running != i);
        machine.waiting.retain(|waiting| *waiting != i);
        if ran {
            self.note_end_of_use(r, i);
        }
    }

    fn row(&mut self, i: usize, status: Status) -> RequestRow {
        let row = match (self.lives[i].children.is_empty(), self.lives[i].forks.is_empty()) {
            (true, true) => self.lives[i].row(status),
            (true, false) => self.row_of_group(i, status),
            (false, _) => self.row_of_samples(i, status),
        };
        self.summary.recomputed_tokens += u64::from(row.recomputed_tokens);
        row
    }

    /// Where no step runs: starts the one that was formed, or forms one and starts it; with asynchronous scheduling,
    /// forms the one after it too.
    fn start(&mut self, r: usize, now: SimTime) -> Result<(), SimError> {
        if self.replicas[r].line.most > 1 {
            return self.fill_line(r, now);
        }
        if self.replicas[r].current.is_some() {
            return Ok(());
        }
        let mut step = match self.replicas[r].next.take() {
            Some(step) => step,
            None if self.replicas[r].idle() || self.replicas[r].rests => return Ok(()),
            None => match self.form(r, now)? {
                Some(step) => step,
                None => return Ok(()),
            },
        };
        self.seen.empty_steps += u64::from(step.batch.iter().all(|part| part.tokens == 0));
        step.row.start = now;
        self.replicas[r].current = Some(step);
        if self.replicas[r].pool.common.async_scheduling && !self.replicas[r].idle() {
            let next = self.form(r, now)?;
            self.replicas[r].next = next.filter(|next| !next.batch.is_empty());
        }
        Ok(())
    }

    /// Ends the step that ends now, if one does: its tokens come out, and what they complete leaves.
    fn end_step(&mut self, r: usize, now: SimTime, sink: &mut dyn Sink) -> bool {
        let Some(step) = self.replicas[r].current.take_if(|step| step.end() == now) else { return false };
        let line = &mut self.replicas[r].line;
        line.ended = line.most > 1;
        self.replicas[r].current = self.replicas[r].line.behind.pop_front();
        self.count_step(r, &step);
        if !self.replicas[r].pool.common.fills_late {
            self.store_filled(r, &step, now);
        }
        if sink.wants_steps() {
            sink.step(step.row);
        }
        self.replicas[r].sglang.ended = now;
        for part in step.batch.iter().filter(|part| !part.decode) {
            self.fill_late(r, part.life, part.from + part.tokens);
        }
        let complete: Vec<usize> =
            step.batch.iter().filter(|part| self.hand_out(r, part, now)).map(|part| part.life).collect();
        self.draft(r, &step);
        self.learn(r);
        for i in complete {
            match self.lives[i].stage {
                Stage::Encode => self.encoder_done(r, i, now),
                Stage::Prefill => self.prompt_done(r, i, now),
                Stage::PrefillOnly | Stage::Whole | Stage::Reply => self.complete(r, i, now),
            }
        }
        true
    }

    fn count_step(&mut self, r: usize, step: &Step) {
        self.count_mix(r, step.mix);
        // Of several in flight at a time, every moment counts once.
        let since = step.row.start.max(std::mem::replace(&mut self.replicas[r].line.busy, step.end()));
        let s = &mut self.totals[self.replicas[r].pool.number];
        s.steps += 1;
        s.busy += step.end() - since;
        s.speculation.draft_ns += step.drafting.0;
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

    /// What the end of a step means for a request in it; whether it is done here now.
    fn hand_out(&mut self, r: usize, part: &Part, now: SimTime) -> bool {
        let after_token = self.replicas[r].pool.after_token();
        let life = &mut self.lives[part.life];
        if life.gone {
            self.seen.wasted += u64::from(part.yields);
            return false;
        }
        let whole = life.parent.unwrap_or(part.life);
        for sent in self.lives[whole].sent.iter_mut().filter(|sent| sent.engine == r) {
            sent.done = sent.done.max((part.from + part.tokens).min(sent.prompt));
        }
        let life = &mut self.lives[part.life];
        let kept = &mut self.replicas[r].encoded;
        if kept.get(&part.life).is_some_and(|tokens| part.from + part.tokens >= (*tokens).min(life.input)) {
            kept.remove(&part.life);
        }
        if part.restores && life.preemptions == part.preemptions {
            life.end_loss(now);
        }
        if !part.yields {
            return false;
        }
        match life.stage {
            Stage::Encode => return true,
            Stage::Prefill => {
                // Without the blocks, nothing is there that could be sent.
                let kept = life.preemptions == part.preemptions;
                self.seen.wasted += u64::from(!kept);
                return kept;
            }
            Stage::PrefillOnly => life.prefilled = Some(now),
            Stage::Whole | Stage::Reply => {}
        }
        let count = self.verify(r, part);
        let life = &mut self.lives[part.life];
        for _ in 0..count {
            if let Some(last) = life.tokens.last().filter(|_| !life.silent) {
                *self.gaps.entry(now - *last).or_insert(0) += 1;
            }
            life.hand_out(now, after_token);
        }
        if part.decode && part.tokens > 1 {
            life.computed = part.from + count;
            life.most = life.most.max(life.computed);
        }
        let done = life.tokens.len() == life.output && life.leader.is_none();
        if !part.decode {
            self.fork(r, part.life);
        }
        self.lives[whole].dealt_with(r, false);
        if part.decode {
            self.give_back(r, part.life);
            self.replicas[r].accepted.push(count - 1);
        }
        done
    }

    /// The request has all its tokens.
    fn complete(&mut self, r: usize, i: usize, now: SimTime) {
        if self.quirks.block_at_completion {
            self.extend(r, i, 1);
        }
        self.leave(r, i, now);
        if self.lives[i].ahead {
            return self.send_samples(r, i, now);
        }
        let Some(i) = self.ended_with(i) else { return };
        let status = if self.lives[i].cut { Status::LengthCapped } else { Status::Finished };
        match self.lives[i].cut {
            true => self.summary.length_capped += 1,
            false => self.summary.finished += 1,
        }
        let pool = self.pool(r);
        let finished = now + pool.after_token() + pool.after_request();
        self.summary.end = self.summary.end.max(finished);
        let row = RequestRow { finished: Some(finished), ..self.row(i, status) };
        self.ended[r].push(row);
        if pool.role == Role::Decode {
            self.looking.insert(r);
        }
        self.over(i, now, now, true);
    }

    /// After room was given.
    pub(super) fn note_blocks(&mut self, r: usize) {
        let used = self.replicas[r].used() as u64;
        let totals = &mut self.totals[self.replicas[r].pool.number];
        totals.kv_blocks_max = totals.kv_blocks_max.max(used);
    }

    fn note_queue(&mut self, r: usize) {
        let waiting = self.replicas[r].waiting.len() as u64;
        let totals = &mut self.totals[self.replicas[r].pool.number];
        totals.waiting_max = totals.waiting_max.max(waiting);
    }

    /// After a batch was formed.
    pub(super) fn note_peaks(&mut self, r: usize) {
        self.note_queue(r);
        self.note_blocks(r);
        let running = self.replicas[r].running.len() as u64;
        let totals = &mut self.totals[self.replicas[r].pool.number];
        totals.running_max = totals.running_max.max(running);
    }

    /// Rows for what is still here, if there is a horizon.
    fn close(&mut self, horizon: SimTime, sink: &mut dyn Sink) {
        let all = self.lives.iter().all(|life| life.arrived);
        assert!(all || horizon < SimTime::MAX, "requests were never sent");
        let mut left: Vec<usize> =
            (0..self.demand.count()).filter(|i| self.lives[*i].arrived && !self.lives[*i].gone).collect();
        if left.is_empty() {
            return;
        }
        self.integrate(horizon);
        self.summary.end = self.summary.end.max(horizon);
        left.sort_by_key(|i| self.lives[*i].request);
        for i in left {
            self.summary.injected += 1;
            self.summary.in_flight += 1;
            self.lives[i].end_loss(horizon);
            for child in self.lives[i].children.clone() {
                self.lives[child].end_loss(horizon);
            }
            let row = self.row(i, Status::InFlight);
            sink.request(row);
        }
    }
}

/// Adds what the engines of a pool know.
fn add(s: &mut Summary, pool: &Summary) {
    s.steps += pool.steps;
    s.busy += pool.busy;
    s.kv_blocks_total = s.kv_blocks_total.max(pool.kv_blocks_total);
    s.kv_blocks_max = s.kv_blocks_max.max(pool.kv_blocks_max);
    s.running_max = s.running_max.max(pool.running_max);
    s.waiting_max = s.waiting_max.max(pool.waiting_max);
    s.kv_block_ns += pool.kv_block_ns;
    s.running_ns += pool.running_ns;
    s.waiting_ns += pool.waiting_ns;
    s.prefix_tokens_queried += pool.prefix_tokens_queried;
    s.prefix_tokens_hit += pool.prefix_tokens_hit;
    s.prefix_blocks_queried += pool.prefix_blocks_queried;
    s.prefix_blocks_hit += pool.prefix_blocks_hit;
    s.encoder_tokens += pool.encoder_tokens;
    s.encoder_time += pool.encoder_time;
    s.latency_extrapolated_steps += pool.latency_extrapolated_steps;
    s.adapters.merge(&pool.adapters);
    let (drafts, more) = (&mut s.speculation, &pool.speculation);
    drafts.drafts += more.drafts;
    drafts.draft_tokens += more.draft_tokens;
    drafts.accepted_tokens += more.accepted_tokens;
    drafts.emitted_tokens += more.emitted_tokens;
    drafts.draft_ns += more.draft_ns;
    let longest = drafts.accepted_by_position.len().max(more.accepted_by_position.len());
    drafts.accepted_by_position.resize(longest, 0);
    drafts.accepted_by_position.iter_mut().zip(&more.accepted_by_position).for_each(|(sum, count)| *sum += count);
    let (work, more) = (&mut s.work, &pool.work);
    work.decode_requests += more.decode_requests;
    work.decode_context += more.decode_context;
    work.prefill_tokens += more.prefill_tokens;
    work.prefill_context += more.prefill_context;
    work.prefill_tokens_x_context += more.prefill_tokens_x_context;
    work.prefill_tokens_squared += more.prefill_tokens_squared;
    let longest = work.steps_by_tokens.len().max(more.steps_by_tokens.len());
    work.steps_by_tokens.resize(longest, 0);
    work.steps_by_tokens.iter_mut().zip(&more.steps_by_tokens).for_each(|(sum, steps)| *sum += steps);
    add_tiers(s, &pool.tiers);
}

fn add_tiers(s: &mut Summary, tiers: &[TierSummary]) {
    for (at, tier) in tiers.iter().enumerate() {
        if at == s.tiers.len() {
            s.tiers.push(TierSummary::default());
        }
        let sum = &mut s.tiers[at];
        *sum = TierSummary {
            lookups: sum.lookups + tier.lookups,
            blocks_hit: sum.blocks_hit + tier.blocks_hit,
            bytes_read: sum.bytes_read + tier.bytes_read,
            blocks_stored: sum.blocks_stored + tier.blocks_stored,
            bytes_written: sum.bytes_written + tier.bytes_written,
            blocks_evicted: sum.blocks_evicted + tier.blocks_evicted,
            blocks_total: sum.blocks_total.max(tier.blocks_total),
            blocks_max: sum.blocks_max.max(tier.blocks_max),
            stall_ns: sum.stall_ns + tier.stall_ns,
        };
    }
}
