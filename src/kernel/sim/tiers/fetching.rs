//! What a replica does with its tiers: see the rules of [`super`].

use std::cmp::Reverse;

use super::{TierFacts, Tiers, Wanted, WritePolicy, runs};
use crate::sim::batch::Forming;
use crate::sim::node::Env;
use crate::sim::replica::{Phase, Replica, Written};
use crate::units::{SimDuration, SimTime};

/// What became of a waiting request for which the tiers were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Asked {
    /// It does not fit, whatever the tiers have: it waits, and so do those behind it.
    NoRoom,
    /// It is being fetched, and is out of the queue.
    Fetching,
    /// So many blocks behind its hits are loaded by the step that admits it ([`Replica::seat`] sees to it): it computes what
    /// comes behind those. Also where there are no tiers, or they have nothing.
    Loads(u32),
}

impl Replica {
    /// The tiers are asked for what follows the `hits` of a waiting request, of which `idle` are free, as
    /// [`Replica::prefix_of`] tells. To be called where it would be admitted.
    pub(in crate::sim) fn ask_tiers(&mut self, slot: u32, hits: u32, idle: u64, env: &Env<'_>) -> Asked {
        if self.tiers.is_none() {
            return Asked::Loads(0);
        }
        if !self.has_room_for_all(slot, hits, idle) {
            return Asked::NoRoom;
        }
        let to = self.look_up(slot, hits, false, self.clock, env);
        let Some(tiers) = &mut self.tiers else { return Asked::Loads(0) };
        if to == hits || tiers.plan.iter().all(|portion| tiers.tiers[portion.tier].facts.blocking) {
            tiers.planned = slot;
            return Asked::Loads(to - hits);
        }
        self.unqueue(slot, env);
        self.start_fetch(slot, hits, to, self.clock, env);
        Asked::Fetching
    }

    /// The blocks of all that it must compute are free, beyond those that it shares.
    fn has_room_for_all(&self, slot: u32, hits: u32, idle: u64) -> bool {
        let blocks = self.live[slot as usize].target.div_ceil(self.block_size);
        u64::from(blocks - hits) + idle + u64::from(self.fixed) + self.set_aside() <= self.pool.free()
    }

    /// Blocks that prompts which run are yet to take, where they must be left for them.
    pub(in crate::sim) fn set_aside(&self) -> u64 {
        if !self.common.cut_waits {
            return 0;
        }
        let rest = |slot: &u32| {
            let live = &self.live[*slot as usize];
            self.chunk_need(live, live.target - live.computed)
        };
        self.prefills.iter().map(rest).sum()
    }

    fn look_up(&mut self, slot: u32, hits: u32, ahead: bool, now: SimTime, env: &Env<'_>) -> u32 {
        let live = &self.live[slot as usize];
        let wanted = Wanted {
            request: live.request as usize,
            target: live.target,
            hits,
            most: ((live.target - 1) / self.block_size).min(live.known),
            block_size: self.block_size,
            ahead,
        };
        let Some(tiers) = &mut self.tiers else { return hits };
        let before = env.model.extrapolated();
        let to = tiers.look_up(&wanted, env.requests, env.model, now);
        // An estimate is no step.
        self.totals.not_extrapolated += env.model.extrapolated() - before;
        to
    }

    /// A request, out of the queue, takes its blocks, and what the tiers have for it is on its way.
    fn start_fetch(&mut self, slot: u32, hits: u32, to: u32, now: SimTime, env: &Env<'_>) {
        let Some(tiers) = &mut self.tiers else { return };
        let live = &self.live[slot as usize];
        let request = live.request as usize;
        let end = tiers.begin(env.requests, request, now);
        tiers.begun += 1;
        tiers.fetches.push(Reverse((end, tiers.begun, slot)));
        let blocks = live.target.div_ceil(self.block_size);
        self.sum_blocks_to(now);
        if hits > 0 {
            let units = self.derivation.units(env.requests, request, self.block_size);
            self.pool.share(&mut self.live[slot as usize].held, units, hits);
        }
        self.pool.take(u64::from(blocks - hits) + u64::from(self.fixed));
        self.totals.kv_blocks_max = self.totals.kv_blocks_max.max(self.pool.used());
        let live = &mut self.live[slot as usize];
        (live.phase, live.computed) = (Phase::Fetching, to * self.block_size);
        (live.spare, live.fixed) = (blocks - to, self.fixed);
        (live.fetched, live.missing) = (to - hits, 0);
        live.fetched_tokens += (to - hits) * self.block_size;
    }

    /// A request has entered the queue: what can be fetched ahead is.
    pub(in crate::sim) fn prefetch(&mut self, slot: u32, now: SimTime, env: &Env<'_>) {
        if !self.tiers.as_ref().is_some_and(|tiers| tiers.prefetches) {
            return;
        }
        let (hits, idle) = self.prefix_of(slot, env);
        if !self.has_room_for_all(slot, hits, idle) {
            return;
        }
        let to = self.look_up(slot, hits, true, now, env);
        if to > hits {
            self.unqueue(slot, env);
            self.start_fetch(slot, hits, to, now, env);
            self.store_evicted(now);
        }
    }

    /// The first of the fetches is over.
    pub(in crate::sim) fn fetch_is_over(&mut self, env: &Env<'_>) {
        let Some(tiers) = &mut self.tiers else { return };
        let Some(Reverse((at, _, slot))) = tiers.fetches.pop() else { return };
        let gone = tiers.gone.iter().position(|other| *other == slot);
        let gone = gone.map(|place| tiers.gone.swap_remove(place)).is_some();
        if self.common.fills_late {
            // What is kept once may give blocks back.
            self.sum_blocks_to(at);
        }
        let live = &self.live[slot as usize];
        let to = live.computed / self.block_size;
        self.fill(slot, to - live.fetched, to, env);
        let live = &mut self.live[slot as usize];
        (live.phase, live.loaded) = (Phase::Waiting, true);
        let (request, generation) = (live.request, live.generation);
        if gone {
            self.aborts.push(Reverse((at, request, slot, generation)));
        }
        self.asleep = false;
        self.wait(slot, None, env);
    }

    /// A request whose client has gone is being fetched: that is noticed when it is there.
    pub(in crate::sim) fn is_away(&mut self, slot: u32) -> bool {
        let away = self.live[slot as usize].phase == Phase::Fetching;
        if let Some(tiers) = self.tiers.as_mut().filter(|_| away) {
            tiers.gone.push(slot);
        }
        away
    }

    /// Admits a request, already taken from [`Replica::loaded`], whose blocks have come: `tokens` behind them go into the step.
    pub(in crate::sim) fn admit_fetched(&mut self, slot: u32, tokens: u32, f: &mut Forming, env: &Env<'_>) {
        self.sit_fetched(slot, f, env);
        let computed = self.live[slot as usize].computed;
        let context = if env.quirks.hits_without_context { 0 } else { computed };
        self.book_chunk(slot, computed, tokens, context, f, env);
    }

    /// The same, but its tokens are booked later.
    pub(in crate::sim) fn sit_fetched(&mut self, slot: u32, f: &mut Forming, env: &Env<'_>) {
        let live = &self.live[slot as usize];
        let (computed, hits) = (live.computed, live.computed / self.block_size - live.fetched);
        self.charge_prompt(slot);
        self.first_admission(slot, hits);
        self.adapter_runs(slot, f, env);
        let now = self.clock;
        let live = &mut self.live[slot as usize];
        self.totals.waiting_ns += i128::from((now - live.since).0);
        (live.since, live.phase, live.loaded, live.fetched) = (now, Phase::Prefill, false, 0);
        live.seq = self.next_seq;
        self.next_seq += 1;
        self.running.push(slot);
        self.prefills.push(slot);
        self.encode(slot, computed, f, env);
    }

    /// What [`Asked::Loads`] said of a request that is admitted: it takes the blocks, and the step waits for them. Returns how
    /// many.
    pub(in crate::sim) fn load(&mut self, slot: u32, hits: u32, f: &mut Forming, env: &Env<'_>) -> u32 {
        let now = self.clock;
        let Some(tiers) = &mut self.tiers else { return 0 };
        let Some(to) = tiers.plan.last().map(|portion| portion.to).filter(|_| tiers.planned == slot) else { return 0 };
        let request = self.live[slot as usize].request as usize;
        let waits = tiers.begin(env.requests, request, now) - now;
        tiers.plan.clear();
        f.more += SimDuration((waits.0 - f.loads.0).max(0));
        f.loads = f.loads.max(waits);
        self.take(u64::from(to - hits));
        self.fill(slot, hits, to, env);
        self.live[slot as usize].fetched_tokens += (to - hits) * self.block_size;
        to - hits
    }

    /// What a step that ends now has filled.
    pub(in crate::sim) fn store_written(&mut self, written: &[Written], env: &Env<'_>) {
        let now = self.clock;
        let Some(tiers) = &mut self.tiers else { return };
        for one in tiers.tiers.iter_mut().filter(|one| one.facts.write == WritePolicy::WriteThrough) {
            let TierFacts { derivation, chunk, .. } = one.facts;
            one.store.expect(written.iter().flat_map(|Written { request, from, to, .. }| {
                runs(derivation, env.requests, *request as usize, from / chunk, to / chunk).map(|(hash, ..)| hash)
            }));
            for Written { request, from, to, .. } in written {
                let (from, to) = (from / one.facts.chunk, to / one.facts.chunk);
                let runs = runs(one.facts.derivation, env.requests, *request as usize, from, to);
                let mut stored = 0;
                if one.facts.pinned {
                    for (hash, lo, hi) in runs.rev() {
                        stored += one.store.put(hash, lo, hi, now);
                    }
                } else {
                    for (hash, lo, hi) in runs {
                        stored += one.store.put(hash, lo, hi, now);
                    }
                }
                one.write(stored, now);
            }
        }
    }

    /// What the GPU's cache has given up since the last time.
    pub(in crate::sim) fn store_evicted(&mut self, now: SimTime) {
        let Some(tiers) = &mut self.tiers else { return };
        if !tiers.on_evict {
            return;
        }
        self.pool.evicted(&mut tiers.evicted);
        let Tiers { tiers, evicted, .. } = &mut **tiers;
        for one in tiers.iter_mut().filter(|one| one.facts.write == WritePolicy::OnEvict) {
            let mut stored = 0;
            one.store.expect(evicted.iter().map(|(hash, ..)| *hash));
            if one.facts.pinned {
                for (hash, lo, hi) in evicted.iter().rev() {
                    stored += one.store.put(*hash, *lo, *hi, now);
                }
            } else {
                for (hash, lo, hi) in evicted.iter() {
                    stored += one.store.put(*hash, *lo, *hi, now);
                }
            }
            one.write(stored, now);
        }
        evicted.clear();
    }

    /// By how much longer a step lasts because of transfers.
    pub(in crate::sim) fn slowdown(&self, start: SimTime, said: SimDuration) -> SimDuration {
        self.tiers.as_ref().map_or(SimDuration::ZERO, |tiers| tiers.slowdown(start, said))
    }
}
