//! Forming a step: what a scheduler decides is applied here, whichever it is ([`super::forming`]).

use std::cmp::Reverse;

use super::SimError;
use super::fair::OUTPUT_WEIGHT;
use super::latency::BatchShape;
use super::node::{Env, Out};
use super::replica::{Chunk, Flight, Phase, Replica};
use super::scheduler::QueueOrder;
use super::timing::not_sensible;
use crate::units::SimDuration;

/// What was given out in the step that is being formed, as far as it may have to be given back.
#[derive(Default)]
pub(super) struct Forming {
    /// Tokens that the step may still take; what it means is up to the scheduler.
    pub budget: u32,
    pub shape: BatchShape,
    /// Decode requests that run on without a gap: sequences, as far as their tokens are told of.
    pub regular: u64,
    pub preempted: u32,
    /// Prompts only: decode requests, if there are any, wait.
    pub pause: bool,
    /// What the encoder computes before it.
    pub encoder: BatchShape,
    /// On top of what the latency model says, such as for blocks that are copied.
    pub more: SimDuration,
    /// Of that, what it waits for tiers.
    pub loads: SimDuration,
    /// Decode requests that verify drafts.
    pub verifying: u64,
    /// The engine cannot go on.
    pub failed: Option<SimError>,
    /// Decode requests that get nothing, but had something in the step before.
    stalling: Vec<u32>,
}

/// How a request is admitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    /// Blocks of its prefix that were found.
    pub hits: u32,
    /// Tokens behind those that go into the step.
    pub tokens: u32,
    /// Blocks that it takes beyond those of its prefix at once, for tokens of this step and of later ones.
    pub spare: u32,
}

/// What a request got in the step being formed.
pub(super) struct Share {
    slot: u32,
    tokens: u32,
    before: u32,
    /// Of the tokens, those computed before.
    again: u32,
    /// Blocks whose content became known.
    filled: u32,
    resumed: bool,
    fresh: bool,
}

impl Replica {
    /// Forms a step that starts when the last one formed ends, or now; whether there is one. An empty step is one only
    /// where nothing else runs.
    ///
    /// # Errors
    /// The latency model says nothing sensible, or the engine cannot go on.
    pub(super) fn begin(&mut self, env: &Env<'_>, out: &mut Out) -> Result<bool, SimError> {
        self.blocked = false;
        self.retire_capped();
        self.shares.clear();
        let steps = self.steps;
        if let Some(fair) = self.waiting.fair() {
            fair.steps = steps;
        }
        self.start_load(env);
        let mut f = Forming::default();
        let mut former = std::mem::take(&mut self.former);
        let begun = self.tiers.as_ref().map_or(0, |tiers| tiers.begun());
        former.form(self, &mut f, env);
        self.former = former;
        if self.tiers.as_ref().is_some_and(|tiers| tiers.begun() > begun) {
            self.start_load(env);
        }
        self.store_evicted(self.clock);
        if let Some(failed) = f.failed.take() {
            return Err(failed);
        }
        self.stay_awake_for_loads(env);
        self.launch(&f, env, out)
    }

    /// Every decode request gets its token, for which there are blocks.
    pub(super) fn decode_all(&mut self, f: &mut Forming, env: &Env<'_>) {
        debug_assert!(self.stalled == 0, "who had no token in the last step is served by itself");
        if self.speculating.is_some() {
            self.verify_all(f, env);
            return;
        }
        let need = self.decode_need();
        if need > 0 {
            self.take(need);
        }
        self.forking = 0;
        self.fill_decodes(env);
        f.regular = self.decodes - self.silent;
        for slot in self.fresh.drain(..) {
            let live = &mut self.live[slot as usize];
            live.fresh = false;
            f.regular -= u64::from(live.replies);
            self.next.resumed.push(slot);
        }
        f.shape.decode_requests = self.decodes;
        f.shape.decode_context = self.context;
        (f.shape.decode_context_min, f.shape.decode_context_max) = self.contexts();
        f.budget = f.budget.saturating_sub(self.decodes as u32);
    }

    /// Blocks that a token for every decode request takes.
    #[inline]
    pub(super) fn decode_need(&self) -> u64 {
        if self.speculating.is_some() {
            return self.verify_sums().1;
        }
        if self.common.reserves { 0 } else { self.class_counts[self.class(self.steps)] + self.forking }
    }

    /// Where the scheduler works ahead: requests whose last token is in the step before this one, and that the
    /// scheduler knows to be at their cap.
    fn retire_capped(&mut self) {
        while let Some(Reverse((step, seq, slot))) = self.caps.peek().copied() {
            if step > self.steps {
                return;
            }
            self.caps.pop();
            let live = &self.live[slot as usize];
            if live.seq != seq || live.phase != Phase::Decode {
                continue;
            }
            if live.finish > self.steps {
                self.caps.push(Reverse((live.finish, seq, slot)));
                continue;
            }
            let computed = self.computed(live);
            self.leave_decode(slot);
            let live = &mut self.live[slot as usize];
            (live.phase, live.computed) = (Phase::Ending, computed);
            // One that is counted by itself ends with its token.
            if !live.exact
                && let Some(flight) = self.flights.back_mut()
            {
                flight.endings.push(slot);
            }
        }
    }

    #[inline]
    pub(super) fn class(&self, steps: u64) -> usize {
        (steps % self.class_counts.len() as u64) as usize
    }

    pub(super) fn run_decode(&mut self, slot: u32, computed: u32, f: &mut Forming, env: &Env<'_>) {
        let tokens = self.wanted(&self.live[slot as usize], computed);
        self.run_tokens(slot, computed, tokens, f, env);
    }

    /// One decode request gets so many tokens: one, or as many more as it verifies drafts.
    pub(super) fn run_tokens(&mut self, slot: u32, computed: u32, tokens: u32, f: &mut Forming, env: &Env<'_>) {
        let need = self.verify_need(&self.live[slot as usize], computed, tokens);
        self.run_with(slot, (computed, tokens), need, f, env);
    }

    /// The same, where it is known how many blocks it takes for its drafts.
    pub(super) fn run_with(
        &mut self,
        slot: u32,
        (computed, tokens): (u32, u32),
        need: u64,
        f: &mut Forming,
        env: &Env<'_>,
    ) {
        let filled = match self.speculating {
            Some(_) => self.verify(slot, (computed, tokens), need, f, env),
            None => self.grow(slot, computed, 1, env),
        };
        let (width, replies) = self.widths(slot);
        if tokens == 1 {
            let first = f.shape.decode_requests == 0;
            f.shape.decode_requests += width;
            f.shape.decode_context += u64::from(computed) * width;
            if self.spread.asked {
                widen(&mut f.shape, u64::from(computed), first);
            }
        }
        f.budget = f.budget.saturating_sub(tokens);
        let live = &mut self.live[slot as usize];
        let resumed = std::mem::take(&mut live.stalled);
        let fresh = std::mem::take(&mut live.fresh);
        if fresh {
            self.fresh.retain(|other| *other != slot);
        }
        if resumed || fresh {
            self.stalled -= u64::from(resumed);
            self.next.resumed.push(slot);
        } else {
            f.regular += replies;
        }
        self.note_written(slot, computed / self.block_size, filled);
        if self.common.policy == QueueOrder::Priority {
            self.shares.push(Share { slot, tokens, before: computed, again: 0, filled, resumed, fresh });
        }
    }

    /// One chunk of a running prefill.
    pub(super) fn run_prefill(&mut self, slot: u32, tokens: u32, f: &mut Forming, env: &Env<'_>) {
        let computed = self.live[slot as usize].computed;
        self.look_ahead(slot, tokens);
        let (again, filled) = self.book_chunk(slot, computed, tokens, computed, f, env);
        if self.common.policy == QueueOrder::Priority {
            self.shares.push(Share { slot, tokens, before: computed, again, filled, resumed: false, fresh: false });
        }
    }

    /// Tokens of a prompt go into the step; returns how many of them were computed before, and the blocks that become
    /// known. `context` is what the chunk attends to.
    pub(super) fn book_chunk(
        &mut self,
        slot: u32,
        computed: u32,
        tokens: u32,
        context: u32,
        f: &mut Forming,
        env: &Env<'_>,
    ) -> (u32, u32) {
        let filled = self.grow(slot, computed, tokens, env);
        self.note_written(slot, computed / self.block_size, filled);
        let live = &mut self.live[slot as usize];
        let upto = computed + tokens;
        let again = upto.min(live.peak).saturating_sub(computed);
        live.computed = upto;
        live.recomputed += again;
        self.next.chunks.push(Chunk { slot, tokens, upto, completes: upto == live.target });
        f.budget = f.budget.saturating_sub(tokens);
        if tokens > 0 {
            f.shape.add_chunk(u64::from(tokens), u64::from(context), u64::from(live.target));
        }
        (again, filled)
    }

    /// A victim gives its share of this step back; returns the blocks of unknown content that it holds for it.
    pub(super) fn take_back(&mut self, slot: u32, f: &mut Forming) -> u64 {
        let Some(at) = self.shares.iter().position(|share| share.slot == slot) else { return 0 };
        let share = self.shares.remove(at);
        let live = &mut self.live[slot as usize];
        let input = u64::from(live.target);
        f.budget += share.tokens;
        let (n, context) = (u64::from(share.tokens), u64::from(share.before));
        let decode = live.phase == Phase::Decode;
        if decode {
            live.tokens = 0;
            if share.tokens == 1 {
                f.shape.decode_requests -= 1;
                f.shape.decode_context -= context;
            } else {
                f.verifying -= 1;
                f.shape.remove_chunk(n, context, context + n);
            }
            if share.resumed {
                live.stalled = true;
                self.stalled += 1;
                self.next.resumed.retain(|other| *other != slot);
            } else if share.fresh {
                live.fresh = true;
                self.fresh.push(slot);
                self.next.resumed.retain(|other| *other != slot);
            } else {
                f.regular -= 1;
            }
        } else {
            live.computed = share.before;
            live.recomputed -= share.again;
            self.next.chunks.retain(|chunk| chunk.slot != slot);
            f.shape.remove_chunk(n, context, input);
        }
        if share.filled > 0 {
            self.next.written.retain(|written| written.slot != slot);
            self.pool.unfill(&mut live.held, share.filled);
        }
        self.spread_of_shares(f);
        if n == f.shape.prefill_tokens_max {
            f.shape.prefill_tokens_max = self.largest_share();
        }
        // What speculation took is in the request's room.
        let in_room = decode && self.speculating.is_some();
        if in_room { 0 } else { new_blocks(share.before, share.tokens, self.block_size) }
    }

    /// The spread of the contexts that were given out so far.
    fn spread_of_shares(&self, f: &mut Forming) {
        if !self.spread.asked {
            return;
        }
        let decodes = |share: &&Share| self.live[share.slot as usize].phase == Phase::Decode && share.tokens == 1;
        let decodes = self.shares.iter().filter(decodes);
        (f.shape.decode_context_min, f.shape.decode_context_max) = (0, 0);
        let mut shape = BatchShape { decode_requests: 0, ..f.shape };
        for share in decodes {
            shape.decode_requests += 1;
            let first = shape.decode_requests == 1;
            widen(&mut shape, u64::from(share.before), first);
        }
        f.shape = BatchShape { decode_requests: f.shape.decode_requests, ..shape };
    }

    /// The largest chunk among what was given out so far.
    fn largest_share(&self) -> u64 {
        let chunks = |share: &&Share| self.live[share.slot as usize].phase == Phase::Prefill || share.tokens > 1;
        let prefills = self.shares.iter().filter(chunks);
        prefills.map(|share| u64::from(share.tokens)).max().unwrap_or(0)
    }

    /// A running decode request gets nothing in this step: it falls one behind the count of steps.
    pub(super) fn stall(&mut self, slot: u32, f: &mut Forming) {
        self.leave_class(slot);
        self.spread.forget();
        let live = &mut self.live[slot as usize];
        live.base -= 1;
        if let Some(fair) = self.waiting.fair() {
            fair.charge(live.tenant, -OUTPUT_WEIGHT);
        }
        if !live.stalled {
            self.stalled += 1;
            self.single_out(slot);
            self.live[slot as usize].stalled = true;
            f.stalling.push(slot);
        }
        let live = &mut self.live[slot as usize];
        if live.finish > self.steps {
            live.finish += 1;
        }
        self.enter_class(slot);
    }

    /// The step is not formed after all, and no decode request was to be in it.
    fn do_not_stall(&mut self, f: &Forming) {
        self.spread.forget();
        for at in 0..self.running.len() {
            let slot = self.running[at];
            if self.live[slot as usize].phase != Phase::Decode {
                continue;
            }
            self.leave_class(slot);
            let live = &mut self.live[slot as usize];
            live.base += 1;
            if let Some(fair) = self.waiting.fair() {
                fair.charge(live.tenant, OUTPUT_WEIGHT);
            }
            if live.finish > self.steps {
                live.finish -= 1;
            }
            self.enter_class(slot);
        }
        for slot in &f.stalling {
            self.live[*slot as usize].stalled = false;
            self.stalled -= 1;
        }
    }

    /// A request that had a token in every step is from now on counted by itself: what it has emitted, its gaps, and
    /// its token of a step that was formed already.
    pub(super) fn single_out(&mut self, slot: u32) {
        let live = &self.live[slot as usize];
        if live.exact {
            return;
        }
        let emitted = self.emitted(live);
        let (from, handed) = (live.from, self.handed);
        let live = &mut self.live[slot as usize];
        (live.emitted, live.exact, live.last_token) = (emitted, true, self.decoded_at);
        live.gaps.extend_from_slice(self.log.between(from, handed));
        live.from = handed;
        if let Some(flight) = self.flights.back_mut() {
            flight.regular -= u64::from(live.replies);
            flight.early.push(slot);
        }
    }

    /// A waiting request, already taken from the queue, runs from now on.
    pub(super) fn seat(&mut self, slot: u32, seat: &Seat, f: &mut Forming, env: &Env<'_>) {
        self.sit(slot, seat, f, env);
        let computed = self.live[slot as usize].computed;
        let context = if env.quirks.hits_without_context { 0 } else { computed };
        self.book_chunk(slot, computed, seat.tokens, context, f, env);
    }

    /// The same, but its tokens are booked later.
    pub(super) fn sit(&mut self, slot: u32, seat: &Seat, f: &mut Forming, env: &Env<'_>) {
        let Seat { hits, tokens, spare } = *seat;
        self.charge_prompt(slot);
        let live = &self.live[slot as usize];
        let (request, known) = (live.request as usize, live.known);
        self.first_admission(slot, hits);
        // No tokens: only where full hits are not computed again.
        let held = if tokens > 0 { hits } else { 0 };
        if held > 0 {
            self.sum_blocks();
            let units = self.derivation.units(env.requests, request, self.block_size);
            self.pool.share(&mut self.live[slot as usize].held, units, held);
        }
        let computed = (hits + self.load(slot, hits, f, env)) * self.block_size;
        let fixed = self.fixed;
        if spare + fixed > 0 {
            self.take(u64::from(spare) + u64::from(fixed));
        }
        self.adapter_runs(slot, f, env);
        let now = self.clock;
        let live = &mut self.live[slot as usize];
        self.totals.waiting_ns += i128::from((now - live.since).0);
        live.since = now;
        live.phase = Phase::Prefill;
        (live.spare, live.fixed) = (spare, fixed);
        // Blocks that do not start with the prompt cannot be told by their place.
        live.missing = hits - held;
        live.known = if live.missing == 0 { known } else { 0 };
        live.computed = computed;
        live.seq = self.next_seq;
        self.next_seq += 1;
        self.running.push(slot);
        self.prefills.push(slot);
        self.encode(slot, computed, f, env);
    }

    /// What counts once for a request: when it first runs, and what the prefix cache has for it then.
    pub(super) fn first_admission(&mut self, slot: u32, hits: u32) {
        let live = &mut self.live[slot as usize];
        if live.scheduled.is_some() {
            return;
        }
        (live.scheduled, live.cached) = (Some(self.clock), hits * self.block_size);
        if self.caching {
            let t = &mut self.totals;
            t.prefix_tokens_queried += u64::from(live.target);
            t.prefix_tokens_hit += u64::from(live.cached);
            t.prefix_blocks_queried += u64::from(live.target / self.block_size);
            t.prefix_blocks_hit += u64::from(hits);
        }
    }

    /// Takes a request out of the queue, wherever it stands.
    pub(super) fn unqueue(&mut self, slot: u32, env: &Env<'_>) {
        let key = self.key(slot, env);
        let there = self.waiting.remove(slot, key);
        assert!(there, "a waiting request must be in the queue");
    }

    /// The running request at this place loses its blocks and waits again; it had no share of this step.
    pub(super) fn evict(&mut self, at: usize, f: &mut Forming, env: &Env<'_>) {
        let slot = self.running.remove(at);
        f.preempted += 1;
        self.preempt(slot, 0, env);
    }

    /// A request, already taken from `running`, loses its cache and waits again. `given_back` are the blocks that it
    /// took for a share of this step.
    pub(super) fn preempt(&mut self, slot: u32, given_back: u64, env: &Env<'_>) {
        self.forget_encoded(slot);
        let phase = self.live[slot as usize].phase;
        let computed = self.computed(&self.live[slot as usize]);
        self.sum_blocks();
        self.release(slot, computed, given_back);
        match phase {
            Phase::Decode => {
                let stalled = std::mem::take(&mut self.live[slot as usize].stalled);
                self.stalled -= u64::from(stalled);
                self.single_out(slot);
                self.leave_decode(slot);
            }
            Phase::Prefill => self.prefills.retain(|other| *other != slot),
            Phase::Ending => {
                if let Some(flight) = self.flights.back_mut()
                    && let Some(at) = flight.endings.iter().position(|other| *other == slot)
                {
                    flight.endings.swap_remove(at);
                    self.single_out(slot);
                }
            }
            Phase::Waiting | Phase::Moving | Phase::Fetching => {}
        }
        let now = self.clock;
        let known = self.known_blocks(&self.live[slot as usize], env);
        let anew = self.begins_anew(slot, env);
        let live = &mut self.live[slot as usize];
        live.known = known;
        live.peak = live.peak.max(computed);
        if anew {
            (live.emitted, live.first_token, live.prefill_preempted) = (0, None, SimDuration::ZERO);
            live.gaps.clear();
            live.peak = live.peak.min(live.input);
        }
        live.phase = Phase::Waiting;
        live.preemptions += 1;
        live.lost_since = live.lost_since.or(Some(now));
        live.missing = 0;
        live.drafted = 0;
        live.computed = 0;
        live.target = live.input + live.emitted;
        self.totals.running_ns += i128::from((now - live.since).0);
        live.since = now;
        self.adapter_runs_no_more(slot);
        self.adapter_waits(slot, now, env);
        if let Some(place) = self.live[slot as usize].place {
            self.fetched.insert(place, slot);
            return;
        }
        let key = self.key(slot, env);
        match self.common.requeues_last {
            true => self.waiting.push(slot, key),
            false => self.waiting.push_front(slot, key),
        }
    }

    /// Starts the step that was formed, or lets it wait for the one that runs.
    fn launch(&mut self, f: &Forming, env: &Env<'_>, out: &mut Out) -> Result<bool, SimError> {
        let (waits, running) = (self.waits(), self.seated() as u64);
        let t = &mut self.totals;
        t.kv_blocks_max = t.kv_blocks_max.max(self.pool.used());
        t.running_max = t.running_max.max(running);
        t.waiting_max = t.waiting_max.max(waits);
        let empty = f.shape.decode_requests == 0 && f.shape.prefill_requests == 0;
        // A prompt of which nothing is computed is in the batch; one that waits for blocks is not.
        let nobody = self.decodes == 0 && self.next.chunks.is_empty();
        if empty && f.preempted == 0 && nobody && self.rests() {
            self.asleep = true;
            return Ok(false);
        }
        if empty && self.lanes.is_some() && self.nothing_to_send(f) {
            return Ok(false);
        }
        if empty && !self.flights.is_empty() {
            self.do_not_stall(f);
            return Ok(false);
        }
        let start = self.flights.back().map_or(self.clock, |flight| flight.end);
        let mix = self.mix(f);
        let duration = match empty {
            true if f.more == SimDuration::ZERO => self.timing.empty(),
            true => self.timing.step(f.more).ok_or_else(not_sensible)?,
            false => {
                let more = f.more + self.encoder_time(f, env);
                let plain = self.former.step(env.model, &f.shape);
                let mut said = env.adapters.as_ref().map_or(plain, |plan| plan.costs.step(plain, mix));
                if let Some(speculating) = &self.speculating {
                    let drafting = speculating.drafting(plain, (&f.shape, f.pause), env.model, &self.former);
                    said = SimDuration(said.0.saturating_add(drafting.0));
                    self.next.drafting = drafting;
                }
                let raw = self.jitter.as_mut().map_or(said, |jitter| jitter.take(said));
                let more = more + self.slowdown(start, raw);
                self.timing.step(SimDuration(raw.0.saturating_add(more.0))).ok_or_else(not_sensible)?
            }
        };
        if self.lanes.is_some() {
            self.send(f, duration, env, out);
            return Ok(true);
        }
        let end = start + duration;
        if env.wants_steps {
            out.steps.push((end, self.step_row(start, duration, &f.shape, f.preempted)));
        }
        let pause = f.pause && self.decodes > 0;
        let before = match pause {
            true => {
                self.paused += duration;
                SimDuration::ZERO
            }
            false => std::mem::take(&mut self.paused),
        };
        if !pause {
            self.steps += 1;
            self.context += f.shape.decode_requests + f.verifying;
            self.log.push((before + duration).0);
        }
        let buffer = self.spare.pop().unwrap_or_default();
        let mut flight = std::mem::replace(&mut self.next, buffer);
        (flight.number, flight.end, flight.duration) = (self.steps, end, duration);
        (flight.pause, flight.before) = (pause, before);
        (flight.shape, flight.regular, flight.adapters) = (f.shape, f.regular, mix.adapters);
        self.advance_prompts(&flight, env);
        self.flights.push_back(flight);
        if self.log.is_long() {
            self.trim_log();
        }
        Ok(true)
    }

    /// Requests whose prompt the step completes: from the next step on they decode.
    pub(super) fn advance_prompts(&mut self, flight: &Flight, env: &Env<'_>) {
        let mut any = false;
        for chunk in flight.chunks.iter().filter(|chunk| chunk.completes) {
            any = true;
            let steps = self.steps;
            let live = &mut self.live[chunk.slot as usize];
            if let Some(fair) = self.waiting.fair() {
                fair.charge(live.tenant, OUTPUT_WEIGHT);
            }
            live.finish = steps + u64::from(live.output - live.emitted - 1);
            let last = live.finish == steps;
            if last && (live.capped || !self.common.async_scheduling) {
                live.phase = Phase::Ending;
                continue;
            }
            live.phase = Phase::Decode;
            live.base = i64::from(live.computed) - steps as i64;
            let (emitted, seq) = (live.emitted + 1, live.seq);
            self.enter_decode(chunk.slot, env);
            self.former.entered(chunk.slot, seq, emitted, steps);
        }
        if any {
            let live = &self.live;
            self.prefills.retain(|slot| live[*slot as usize].phase == Phase::Prefill);
        }
    }

    pub(super) fn trim_log(&mut self) {
        let regular = |slot: &u32| {
            let live = &self.live[*slot as usize];
            (!live.exact).then_some(live.from)
        };
        let oldest = self.running.iter().filter_map(regular).min();
        self.log.trim(oldest.unwrap_or(self.handed));
    }
}

/// One more context of those in a step, the first or another.
fn widen(shape: &mut BatchShape, context: u64, first: bool) {
    shape.decode_context_min = if first { context } else { shape.decode_context_min.min(context) };
    shape.decode_context_max = shape.decode_context_max.max(context);
}

/// Blocks that `tokens` tokens after `computed` need beyond those already held.
#[inline]
pub(super) fn new_blocks(computed: u32, tokens: u32, block_size: u32) -> u64 {
    u64::from((computed + tokens).div_ceil(block_size) - computed.div_ceil(block_size))
}
