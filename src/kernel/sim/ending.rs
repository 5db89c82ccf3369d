//! Ending a step: its tokens are handed out, what they complete leaves. And leaving otherwise: because the client went,
//! or because the simulation ends.

use std::cmp::Reverse;

use super::log::{stats_of, stats_with_zeros};
use super::node::{Env, Out, Work};
use super::replica::{Flight, Live, Phase, Replica};
use super::{ItlStats, RequestRow, Status};
use crate::units::{SimDuration, SimTime};

/// When a token comes out: the number of steps with decode requests until then, and whether this one is none of them.
#[derive(Clone, Copy)]
struct When {
    at: SimTime,
    step: u64,
    pause: bool,
    /// Tokens that are drafted to follow it.
    drafted: u32,
}

impl Replica {
    /// Ends the first of the steps in flight.
    pub(super) fn hand_out(&mut self, env: &Env<'_>, out: &mut Out) {
        let Some(mut flight) = self.flights.pop_front() else { return };
        assert!(flight.end > self.clock, "a step must take time");
        if self.common.async_scheduling || self.tiers.is_some() || self.next_adapter().is_some_and(|at| at < flight.end)
        {
            // It may complete requests that wait: those that came meanwhile have waited beside them. And what is on its way
            // is there for those that wait before it is for those that come.
            self.settle(SimTime(flight.end.0 - 1), false, env, out);
        }
        self.clock = flight.end;
        if flight.pause {
            self.pauses += 1;
        } else {
            self.handed += 1;
            self.decoded_at = flight.end;
        }
        assert!(self.handed == flight.number, "steps end in the order in which they were formed");
        self.totals.busy += flight.duration;
        self.totals.work.add(&flight.shape);
        if let Some(adapters) = &mut self.adapters {
            adapters.sums.count_steps(flight.adapters, 1);
        }
        self.totals.speculation.draft_ns += std::mem::take(&mut flight.drafting).0;
        out.gaps.add((flight.duration + flight.before).0, flight.regular);
        if !flight.written.is_empty() {
            self.store_written(&flight.written, env);
            flight.written.clear();
        }
        self.tokens_one_by_one(&mut flight, env, out);
        if !flight.pause {
            self.end_verification(&flight);
        }
        self.find_finished();
        self.former.ended(flight.end);
        if !self.done.is_empty() {
            self.blocked = false;
            self.complete(env, out);
        }
        self.spare.push(flight);
    }

    /// Prompts that are complete, requests that had no token in the step before, and those that were preempted since.
    fn tokens_one_by_one(&mut self, flight: &mut Flight, env: &Env<'_>, out: &mut Out) {
        let drafted = self.speculating.as_ref().map_or(0, |s| s.drafted(&flight.shape));
        let when = When { at: flight.end, step: flight.number, pause: flight.pause, drafted };
        for chunk in flight.chunks.drain(..) {
            let live = &mut self.live[chunk.slot as usize];
            if env.reports.progress && live.first_token.is_none() {
                let (request, upto) = (live.request, chunk.upto.min(live.input));
                let more = upto.saturating_sub(live.progressed);
                live.progressed += more;
                let more = if live.several { self.progress_of_sample(request, upto) } else { more };
                out.progress.push((self.id, request, more));
            }
            let live = &mut self.live[chunk.slot as usize];
            if live.phase != Phase::Waiting && chunk.upto >= live.peak {
                let since = live.lost_since.take();
                live.preempted += since.map_or(SimDuration::ZERO, |since| flight.end - since);
            }
            if live.phase != Phase::Waiting {
                self.fill_late(chunk.slot, chunk.upto, env);
            }
            let live = &self.live[chunk.slot as usize];
            if live.encoded > 0 && chunk.upto >= live.encoded.min(live.input) {
                self.forget_encoded(chunk.slot);
            }
            let live = &self.live[chunk.slot as usize];
            // A prompt that is needed elsewhere is nothing without its blocks: it is computed again.
            if chunk.completes && (live.phase, live.work) != (Phase::Waiting, Work::HeldPrompt) {
                self.token(chunk.slot, when, out);
            }
        }
        for slot in flight.resumed.drain(..).chain(flight.early.drain(..)) {
            let live = &mut self.live[slot as usize];
            if live.phase == Phase::Decode {
                // It came back with all that it had.
                let since = live.lost_since.take();
                live.preempted += since.map_or(SimDuration::ZERO, |since| flight.end - since);
            }
            self.token(slot, when, out);
        }
        for slot in flight.endings.drain(..) {
            self.done.push((self.live[slot as usize].seq, slot));
        }
    }

    /// One token of one request.
    fn token(&mut self, slot: u32, When { at, step, pause, drafted }: When, out: &mut Out) {
        let live = &mut self.live[slot as usize];
        live.emitted += 1;
        live.drafted = drafted;
        let mut begins = None;
        match live.first_token {
            None => {
                live.first_token = Some(at);
                // A loss may still be under way: a step can yield the token of a request that was preempted meanwhile.
                let losing = live.lost_since.map_or(SimDuration::ZERO, |since| at - since.min(at));
                live.prefill_preempted = live.preempted + losing;
                let told = std::mem::replace(&mut live.told, true);
                if live.several {
                    begins = Some(live.request);
                } else if !told {
                    out.prompts.push((self.id, live.request));
                }
            }
            Some(_) => {
                let gap = (at - live.last_token).0;
                out.gaps.add(gap, u64::from(live.replies));
                live.gaps.push(gap);
            }
        }
        (live.last_token, live.from) = (at, step);
        let last = live.emitted == live.output;
        match live.phase {
            Phase::Decode if pause => {
                (live.exact, live.fresh) = (true, true);
                self.fresh.push(slot);
            }
            Phase::Decode => live.exact = live.stalled,
            Phase::Ending | Phase::Waiting if last => self.done.push((live.seq, slot)),
            Phase::Waiting => live.target = live.input + live.emitted,
            Phase::Ending | Phase::Prefill | Phase::Moving | Phase::Fetching => {}
        }
        if let Some(request) = begins
            && self.prompt_of_sample(request)
        {
            out.prompts.push((self.id, request));
        }
    }

    fn find_finished(&mut self) {
        while let Some(Reverse((step, seq, slot))) = self.finishes.peek().copied() {
            if step > self.handed {
                return;
            }
            self.finishes.pop();
            let live = &self.live[slot as usize];
            if live.seq != seq || live.phase != Phase::Decode {
                continue;
            }
            if live.finish > self.handed {
                self.finishes.push(Reverse((live.finish, seq, slot)));
                continue;
            }
            self.done.push((seq, slot));
        }
    }

    /// Releases and reports the requests in `done`, in batch order.
    fn complete(&mut self, env: &Env<'_>, out: &mut Out) {
        self.done.sort_unstable();
        let mut done = std::mem::take(&mut self.done);
        for (_, slot) in done.drain(..) {
            let gaps = self.gaps_of_sample(slot);
            let itl = self.itl(slot, self.handed);
            let status = match self.live[slot as usize].capped {
                true => Status::LengthCapped,
                false => Status::Finished,
            };
            let more = if env.quirks.block_at_completion { self.one_more(slot, env) } else { 0 };
            match self.live[slot as usize].work {
                Work::HeldPrompt => self.hold(slot),
                Work::Whole | Work::Prompt | Work::Encode | Work::Reply => self.leave(slot, more, env),
            }
            let live = &self.live[slot as usize];
            let row = RequestRow {
                finished: Some(self.clock + env.after_token + env.after_request),
                output_tokens: live.output * live.replies,
                itl,
                ..self.row(live, status, env)
            };
            self.tell(slot, self.clock, row, gaps, out);
        }
        self.done = done;
    }

    /// The client of a request is gone.
    pub(super) fn abort(&mut self, slot: u32, env: &Env<'_>, out: &mut Out) {
        let live = &self.live[slot as usize];
        let (status, emitted) = (live.goes, self.emitted(live) * live.replies);
        let gaps = self.gaps_of_sample(slot);
        let itl = self.itl(slot, self.handed);
        self.blocked = false;
        self.withdraw(slot);
        self.leave(slot, 0, env);
        let live = &self.live[slot as usize];
        let row = RequestRow { output_tokens: emitted, itl, ..self.row(live, status, env) };
        self.tell(slot, self.clock, row, gaps, out);
    }

    /// A request has left at this time, or one of its samples, whose gaps these are.
    fn tell(&mut self, slot: u32, at: SimTime, row: RequestRow, gaps: Option<Vec<i64>>, out: &mut Out) {
        match gaps {
            Some(gaps) => self.sample_left(at, self.live[slot as usize].sample, row, gaps, out),
            None => out.rows.push((at, self.id, row)),
        }
    }

    /// Gaps between the tokens of one of several samples that came out until now.
    fn gaps_of_sample(&self, slot: u32) -> Option<Vec<i64>> {
        let live = &self.live[slot as usize];
        if !live.several {
            return None;
        }
        Some(self.gaps_so_far(live))
    }

    pub(super) fn gaps_so_far(&self, live: &Live) -> Vec<i64> {
        let mut gaps = live.gaps.clone();
        if live.first_token.is_some() && !live.exact {
            gaps.extend_from_slice(self.log.between(live.from, self.handed.min(live.finish)));
        }
        gaps
    }

    /// Whatever the request has in a step that runs is nobody's.
    fn withdraw(&mut self, slot: u32) {
        let live = &self.live[slot as usize];
        let (exact, replies) = (live.exact, u64::from(live.replies));
        let Some(flight) = self.flights.back_mut() else { return };
        if !exact {
            flight.regular -= replies;
        }
        flight.chunks.retain(|chunk| chunk.slot != slot);
        flight.resumed.retain(|other| *other != slot);
        flight.endings.retain(|other| *other != slot);
        flight.early.retain(|other| *other != slot);
    }

    /// A request leaves the replica now, whatever its phase; with the places of `more` tokens beyond those it computed.
    fn leave(&mut self, slot: u32, more: u32, env: &Env<'_>) {
        self.forget_encoded(slot);
        let live = &self.live[slot as usize];
        let (phase, computed) = (live.phase, self.computed(live));
        let stay = i128::from((self.clock - live.since).0);
        match phase {
            Phase::Waiting => {
                let key = self.key(slot, env);
                let Live { loaded, swapped, place, .. } = self.live[slot as usize];
                let there = match place {
                    Some(place) => self.fetched.remove(&place).is_some(),
                    None if loaded => self.loaded.remove(slot, key),
                    None => self.waiting.remove(slot, key),
                };
                assert!(there, "a waiting request must be in the queue");
                self.adapter_waits_no_more(slot);
                self.totals.waiting_ns += stay;
                if loaded && !swapped {
                    self.sum_blocks();
                    self.release(slot, computed, 0);
                }
            }
            Phase::Prefill | Phase::Decode | Phase::Ending => {
                self.adapter_runs_no_more(slot);
                self.totals.running_ns += stay;
                let at = self.position(slot);
                self.running.remove(at);
                self.sum_blocks();
                self.fill_late(slot, computed, env);
                self.release(slot, computed + more, 0);
            }
            Phase::Moving | Phase::Fetching => unreachable!("what moves is freed"),
        }
        match phase {
            Phase::Decode => {
                let live = &self.live[slot as usize];
                // Its place in a step that runs is in vain.
                if !live.exact
                    && live.finish <= self.handed
                    && let Some(flight) = self.flights.back_mut()
                {
                    flight.regular -= u64::from(live.replies);
                }
                self.stalled -= u64::from(live.stalled);
                self.leave_decode(slot);
                self.former.left(slot, self.steps, self.live[slot as usize].emitted);
            }
            Phase::Prefill => self.prefills.retain(|other| *other != slot),
            Phase::Waiting | Phase::Ending | Phase::Moving | Phase::Fetching => {}
        }
        let now = self.clock;
        let live = &mut self.live[slot as usize];
        if let Some(since) = live.lost_since.take() {
            live.preempted += now - since;
        }
        // What the heaps still say of it is void.
        (live.phase, live.generation) = (Phase::Waiting, 0);
        self.unused.push(slot);
    }

    /// The gaps of a request between tokens that came out up to the step `to`.
    fn itl(&mut self, slot: u32, to: u64) -> Option<ItlStats> {
        if self.speculating.is_some() {
            return self.itl_of_chunks(slot, to);
        }
        if self.live[slot as usize].replies > 1 {
            return self.itl_of_group(slot);
        }
        let live = &mut self.live[slot as usize];
        let first = live.first_token?;
        if live.exact {
            return stats_of(&mut live.gaps, live.last_token - first);
        }
        // The last token came out when the last step ended.
        let to = to.min(live.finish);
        let sum = self.decoded_at - first;
        if live.gaps.is_empty() {
            return self.log.stats(live.from, to, sum);
        }
        live.gaps.extend_from_slice(self.log.between(live.from, to));
        stats_of(&mut live.gaps, sum)
    }

    /// The same where several tokens come out at once.
    fn itl_of_chunks(&mut self, slot: u32, to: u64) -> Option<ItlStats> {
        let live = &mut self.live[slot as usize];
        let first = live.first_token?;
        let last = if live.exact { live.last_token } else { self.decoded_at };
        if !live.exact {
            live.gaps.extend_from_slice(self.log.between(live.from, to));
        }
        let together = live.emitted as usize - 1 - live.gaps.len();
        stats_with_zeros(&mut live.gaps, together, last - first)
    }

    /// At the horizon a request is still here. Of the replica only what its totals need is kept up.
    pub(super) fn leave_unfinished(&mut self, slot: u32, horizon: SimTime, env: &Env<'_>, out: &mut Out) {
        let live = &self.live[slot as usize];
        let emitted = self.emitted(live) * live.replies;
        let stay = i128::from((horizon - live.since).0);
        match live.phase {
            Phase::Waiting | Phase::Fetching => self.totals.waiting_ns += stay,
            Phase::Prefill | Phase::Decode | Phase::Ending => self.totals.running_ns += stay,
            Phase::Moving => unreachable!("what moves is the cluster's"),
        }
        // Its last token may lie before the end of the last step only where it is counted by itself.
        let gaps = self.gaps_of_sample(slot);
        let itl = self.itl(slot, self.handed);
        let live = &mut self.live[slot as usize];
        if let Some(since) = live.lost_since.take() {
            live.preempted += horizon - since;
        }
        let live = &self.live[slot as usize];
        let row = RequestRow { output_tokens: emitted, itl, ..self.row(live, Status::InFlight, env) };
        self.tell(slot, horizon, row, gaps, out);
    }

    /// What is known of a request that reached the queue.
    fn row(&self, live: &Live, status: Status, env: &Env<'_>) -> RequestRow {
        RequestRow {
            queued: Some(live.queued),
            scheduled: live.scheduled,
            first_token: live.first_token.map(|t| t + env.after_token),
            cached_tokens: live.cached,
            fetched_tokens: live.fetched_tokens,
            recomputed_tokens: live.recomputed,
            preemptions: live.preemptions,
            preempted: live.preempted,
            prefill_preempted: live.prefill_preempted,
            ..self.row_of(live.request, status, env)
        }
    }

    /// What is known of a request that did not.
    pub(super) fn row_of(&self, request: u32, status: Status, env: &Env<'_>) -> RequestRow {
        let input_tokens = env.requests.input_tokens[request as usize];
        RequestRow {
            input_tokens,
            samples: env.demand.samples(request),
            ..RequestRow::new(request, self.id, status, env.demand.arrival(request))
        }
    }
}
