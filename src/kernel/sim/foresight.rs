//! Before which time a replica has nothing to report, as long as it gets no work: so the cluster can leave it alone.
//!
//! Every answer is a lower bound, and safe: to come too early costs time only. Where nothing but decode steps lies ahead it
//! is exact (with jitter: the shortest that they can be).

use std::cmp::Reverse;

use super::lora::Mix;
use super::node::{Env, Work};
use super::replica::{Chunk, Flight, Phase, Replica};
use crate::units::{SimDuration, SimTime};

/// With more requests that have no first token, the next report is not foreseen.
const OPEN_MAX: usize = 8;
/// Steps of decode requests alone that are foreseen.
const FORESEEN_MAX: u64 = 256;

impl Replica {
    /// See [`Node::wake`](super::node::Node::wake).
    pub(super) fn foresee(&self, env: &Env<'_>) -> SimTime {
        let ghost = self.ghosts.peek().map_or(SimTime::MAX, |Reverse((at, ..))| after(*at));
        if self.tiers.as_ref().is_some_and(|tiers| tiers.shared) {
            return ghost.min(self.next_of_all(env));
        }
        if let Some(end) = self.next_end() {
            return ghost.min(if self.due { after(self.clock) } else { end });
        }
        let fetched = self.next_fetch().map_or(SimTime::MAX, after);
        ghost.min(self.wake_for_steps(env)).min(fetched)
    }

    /// Before which time it does nothing at all that others could notice: it shares a tier, and they must take turns.
    fn next_of_all(&self, env: &Env<'_>) -> SimTime {
        let Some(flight) = self.flights.front().filter(|_| !self.due) else {
            let rests = self.flights.is_empty() && self.running.is_empty() && self.nobody_waits();
            return match rests || self.asleep {
                true => self.next_change().map_or(SimTime::MAX, |at| after(at.max(self.clock))),
                false => after(self.clock),
            };
        };
        // Steps of decode requests alone store nothing but what the cache gives up, and last what the model says, unless
        // transfers slow them down.
        let tiers = self.tiers.as_ref().is_some_and(|tiers| tiers.on_evict || tiers.contends);
        let stores = tiers || !self.class_lists.iter().all(Vec::is_empty);
        let alone = flight.chunks.is_empty() && flight.written.is_empty() && flight.endings.is_empty();
        let quiet = if stores || !alone { None } else { self.quiet_span(env) };
        let gone = self.aborts.peek().map_or(SimTime::MAX, |Reverse((at, ..))| after((*at).max(flight.end)));
        let comes = self.pending.peek().map_or(SimTime::MAX, |Reverse((at, ..))| after(*at));
        let fetched = self.next_fetch().map_or(SimTime::MAX, after);
        let end = quiet.map_or(flight.end, |span| (flight.end + span).min(gone));
        end.min(comes).min(fetched)
    }

    /// It runs a step that ends then.
    pub(super) fn ends_at(&self, now: SimTime) -> bool {
        !self.due && self.flights.front().is_some_and(|flight| flight.end == now)
    }

    /// What steps bring about.
    fn wake_for_steps(&self, env: &Env<'_>) -> SimTime {
        let Some(flight) = self.flights.front().filter(|_| !self.due) else {
            let nothing = self.flights.is_empty() && self.running.is_empty() && self.nobody_waits();
            return match (nothing, self.asleep) {
                (true, _) if !env.reports.prompts && !env.reports.progress => self.pending_wake(self.clock, env),
                (true, _) | (_, true) => self.next_change().map_or(SimTime::MAX, |at| after(at.max(self.clock))),
                (false, false) => after(self.clock),
            };
        };
        let ending = |chunk: &Chunk| self.live[chunk.slot as usize].phase == Phase::Ending;
        // Those that have tokens one by one may have their last.
        let singled = |f: &Flight| !f.resumed.is_empty() || !f.early.is_empty();
        let ends = |f: &Flight| !f.endings.is_empty() || singled(f) || f.chunks.iter().any(ending);
        let prompts = env.reports.prompts || env.reports.progress;
        let next = [&self.finishes, &self.caps].into_iter().filter_map(|heap| heap.peek());
        let next = next.map(|Reverse((step, ..))| *step).min().unwrap_or(u64::MAX).min(self.first_verified());
        if next <= flight.number || self.flights.iter().any(ends) || (prompts && !flight.chunks.is_empty()) {
            return flight.end;
        }
        let open = self.prefills.len() + self.waits() as usize + self.pending.len();
        if open > OPEN_MAX || (prompts && open + self.flights.iter().map(|f| f.chunks.len()).sum::<usize>() > 0) {
            return after(flight.end);
        }
        // No step takes less than the shortest, and no request has more than one token of a step.
        let known = later(flight.end, self.shortest, next - flight.number);
        let soonest = |slots: &mut dyn Iterator<Item = u32>| {
            let tokens = |slot: u32| {
                let live = &self.live[slot as usize];
                live.output - self.emitted(live) - 1
            };
            let least = slots.map(tokens).min();
            least.map_or(SimTime::MAX, |tokens| later(flight.end, self.shortest, self.steps_of(tokens)))
        };
        let mut begun = soonest(&mut self.prefills.iter().copied());
        if !self.nobody_waits() {
            begun = begun.min(soonest(&mut self.waiters()));
        }
        let gone = self.aborts.peek().map_or(SimTime::MAX, |Reverse((at, ..))| after((*at).max(flight.end)));
        let sure = begun.min(known).min(self.pending_wake(flight.end, env));
        let quiet = self.quiet_span(env).map_or(SimTime::ZERO, |span| flight.end + span);
        sure.max(quiet).min(gone)
    }

    /// The first step, at the earliest, that completes a request which decodes speculatively.
    fn first_verified(&self) -> u64 {
        let Some(speculating) = self.speculating.as_ref().filter(|_| self.decodes > 0) else { return u64::MAX };
        self.handed.saturating_add(speculating.steps(speculating.least_left))
    }

    /// Steps, at least, in which so many tokens come out.
    fn steps_of(&self, tokens: u32) -> u64 {
        self.speculating.as_ref().map_or(u64::from(tokens), |speculating| speculating.steps(tokens))
    }

    /// Before which time none of the requests on their way can be done or left, if the next step starts at `from` or later.
    fn pending_wake(&self, from: SimTime, env: &Env<'_>) -> SimTime {
        let done = |Reverse((at, place, work)): &Reverse<(SimTime, u32, Work)>| {
            let output = match work {
                Work::Whole => {
                    let request = env.demand.nth(*place as usize);
                    env.demand.output(request, env.len_of(request)).0
                }
                // Its first token may be out; and it may be cut shorter than this engine would, by that of its prompt.
                Work::Reply => {
                    let slot = self.moving[&env.demand.nth(*place as usize)];
                    self.live[slot as usize].output.max(2) - 1
                }
                Work::Prompt | Work::HeldPrompt | Work::Encode => 1,
            };
            let from = (*at).max(from);
            // Its client may go before, which is not noted until it is in the queue.
            let gone = env.demand.abort(*place as usize).map_or(SimTime::MAX, |(gone, _)| after(gone.max(from)));
            after(later(from, self.shortest, self.steps_of(output - 1))).min(gone)
        };
        if self.pending.len() > OPEN_MAX {
            return self.pending.peek().map_or(SimTime::MAX, |Reverse((at, ..))| after((*at).max(from)));
        }
        self.pending.iter().map(done).min().unwrap_or(SimTime::MAX)
    }

    /// The time from the end of the step that runs to the end of the one that completes a request, if nothing comes in
    /// between but steps of the same requests; or less.
    fn quiet_span(&self, env: &Env<'_>) -> Option<SimDuration> {
        let nothing_waits = self.nobody_waits() || (self.blocked && self.class_lists.is_empty());
        let quiet = nothing_waits
            && self.pending.is_empty()
            && self.no_adapter_comes()
            && !self.common.async_scheduling
            && self.stalled == 0
            && self.decodes > 0
            && self.decodes - self.beside == self.running.len() as u64
            && self.decodes <= self.common.decodes_max;
        let finish = self.finishes.peek().map(|Reverse((step, ..))| *step).filter(|_| quiet)?;
        let steps = finish.saturating_sub(self.steps).min(self.steps_with_blocks()).min(self.former.quiet_steps(self));
        let steps = steps.min(self.waiting.steady(self.steps));
        let form = match self.form {
            Some((decodes, form)) if decodes == self.decodes => form?,
            Some(_) | None => self.decode_form(env)?,
        };
        let costs = env.adapters.as_ref().map(|plan| &plan.costs);
        let mix = self.adapters.as_ref().map_or(Mix::default(), |adapters| adapters.decode_mix());
        // To evaluate them twice is cheaper than to come back in between.
        let (mut span, mut context) = (0, self.context);
        for _ in 0..steps.min(FORESEEN_MAX) {
            let said = costs.map_or(form.at(context), |costs| costs.step(form.at(context), mix));
            let least = self.jitter.as_ref().map_or(said, |jitter| jitter.least(said));
            span += self.timing.step(least)?.0;
            context += self.decodes;
        }
        Some(SimDuration(span))
    }

    /// Steps for which free blocks are sure to last, if only the decode requests go on.
    fn steps_with_blocks(&self) -> u64 {
        if self.common.reserves {
            return u64::MAX;
        }
        if self.forking > 0 {
            return 0;
        }
        let Some(free) = self.pool.free().checked_sub(self.common.slack) else { return 0 };
        let size = u64::from(self.block_size);
        let sure = (free / self.decodes.max(1)).saturating_sub(1) * size;
        if sure > 0 {
            return sure;
        }
        let mut left = free;
        for step in 0..size {
            let need = self.class_counts[self.class(self.steps + step)];
            if need > left {
                return step;
            }
            left -= need;
        }
        size
    }
}

/// So many spans later.
fn later(at: SimTime, span: SimDuration, count: u64) -> SimTime {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    SimTime(at.0.saturating_add(span.0.saturating_mul(count)))
}

/// The earliest time after it.
fn after(at: SimTime) -> SimTime {
    SimTime(at.0.saturating_add(1))
}
