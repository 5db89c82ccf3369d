//! Tiers in the oracle: every stored block by itself, in a list.

use super::forming::Forming;
use super::parts::{Life, Step};
use super::world::World;
use crate::request::Requests;
use crate::sim::TierSummary;
use crate::sim::latency::BatchShape;
use crate::sim::scheduler::QueueOrder;
use crate::sim::tiers::{Fetch, TierFacts, WritePolicy};
use crate::units::{SimDuration, SimTime};

/// Longest transfer: 13 days.
const LONGEST_NS: u128 = 1 << 50;

/// A block in a tier.
struct Stored {
    hash: u64,
    readable: SimTime,
    used: SimTime,
}

/// One tier of one engine.
pub(super) struct Shelf {
    facts: TierFacts,
    /// Used the longest ago in front.
    stored: Vec<Stored>,
    /// When the places for transfers are free.
    reading: Vec<SimTime>,
    writing: Vec<SimTime>,
    pub told: TierSummary,
}

/// What is on its way to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trip {
    pub until: SimTime,
    pub number: u64,
    /// Blocks that it has from the prefix cache, and those with what comes.
    pub hits: usize,
    pub to: usize,
}

/// A request is to have these blocks from a tier.
struct Part {
    shelf: usize,
    from: usize,
    to: usize,
}

impl Shelf {
    pub(super) fn new(facts: &TierFacts) -> Shelf {
        Shelf {
            stored: Vec::new(),
            reading: vec![SimTime::ZERO; facts.concurrency as usize],
            writing: vec![SimTime::ZERO; facts.concurrency as usize],
            told: TierSummary { blocks_total: facts.capacity, ..TierSummary::default() },
            facts: facts.clone(),
        }
    }

    fn is_old(&self, stored: &Stored, now: SimTime) -> bool {
        self.facts.ttl.is_some_and(|ttl| stored.used + ttl <= now)
    }

    /// The stored block that holds this KV block of a request.
    fn hash(&self, requests: &Requests, request: usize, block: usize) -> Option<u64> {
        let chunk = block as u32 / self.facts.chunk;
        let known = self.facts.derivation.known_blocks(requests, request, self.facts.tokens);
        (chunk < known).then(|| self.facts.derivation.hash(requests, request, chunk))
    }

    fn has(&self, requests: &Requests, request: usize, block: usize, now: SimTime) -> bool {
        let Some(hash) = self.hash(requests, request, block) else { return false };
        self.stored.iter().any(|s| s.hash == hash && s.readable <= now && !self.is_old(s, now))
    }

    /// It is the youngest now.
    fn renew(&mut self, hash: u64, now: SimTime) -> bool {
        let Some(at) = self.stored.iter().position(|s| s.hash == hash) else { return false };
        let stored = self.stored.remove(at);
        self.stored.push(Stored { used: now, ..stored });
        true
    }

    /// When a transfer would begin, the place that it would take, and how long it would take.
    fn transfer(&self, bytes: u128, now: SimTime, read: bool) -> (SimTime, usize, SimDuration) {
        let (places, rate) =
            if read { (&self.reading, self.facts.read_rate) } else { (&self.writing, self.facts.write_rate) };
        let place = (0..places.len()).min_by_key(|at| places[*at]).unwrap_or_else(|| unreachable!("no places"));
        let flow = ((bytes * 1_000_000_000).div_ceil(rate)).min(LONGEST_NS) as i64;
        let mut time = (self.facts.latency.0 + flow).max(1);
        if let Some(tick) = self.facts.tick {
            let quantum = tick.duration().0;
            time += (quantum - time % quantum) % quantum;
        }
        (places[place].max(now), place, SimDuration(time))
    }

    /// These are to be stored, in this order.
    fn store(&mut self, hashes: &[u64], now: SimTime) {
        let old: Vec<bool> = self.stored.iter().map(|s| self.is_old(s, now)).collect();
        let mut at = 0;
        self.stored.retain(|_| {
            at += 1;
            !old[at - 1]
        });
        let order: Vec<u64> = if self.facts.pinned { hashes.iter().rev().copied().collect() } else { hashes.to_vec() };
        // When it can be read is known when it is known what is written.
        let mut new = 0_u64;
        for hash in order {
            if self.facts.pinned {
                if self.stored.iter().any(|s| s.hash == hash) || self.stored.len() as u64 == self.facts.capacity {
                    continue;
                }
            } else if self.renew(hash, now) {
                continue;
            }
            if self.stored.len() as u64 == self.facts.capacity {
                self.stored.remove(0);
                self.told.blocks_evicted += 1;
            }
            self.stored.push(Stored { hash, readable: SimTime::MAX, used: now });
            new += 1;
        }
        self.told.blocks_max = self.told.blocks_max.max(self.stored.len() as u64);
        if new == 0 {
            return;
        }
        let bytes = self.facts.block_bytes * u128::from(self.facts.chunk) * u128::from(new);
        let (start, place, time) = self.transfer(bytes, now, false);
        self.writing[place] = start + time;
        for stored in self.stored.iter_mut().filter(|s| s.readable == SimTime::MAX) {
            stored.readable = start + time;
        }
        self.told.blocks_stored += new;
        self.told.bytes_written += bytes;
    }

    /// Until when a transfer that was asked for goes on.
    fn busy_until(&self) -> SimTime {
        self.reading.iter().chain(&self.writing).copied().max().unwrap_or(SimTime::ZERO)
    }
}

impl World<'_> {
    /// The engine that keeps this tier: where it is shared, the first of the pool.
    fn keeper(&self, r: usize, number: usize) -> usize {
        let machine = &self.replicas[r];
        if !machine.shelves[number].facts.shared {
            return r;
        }
        let first = self.replicas.iter().position(|other| other.pool.number == machine.pool.number);
        first.unwrap_or(r)
    }

    fn shelf(&self, r: usize, number: usize) -> &Shelf {
        &self.replicas[self.keeper(r, number)].shelves[number]
    }

    fn shelf_mut(&mut self, r: usize, number: usize) -> &mut Shelf {
        let keeper = self.keeper(r, number);
        &mut self.replicas[keeper].shelves[number]
    }

    /// What the tiers are to give a request behind its hits; `ahead`: only those that are asked when it enters the queue.
    fn ask_tiers(&mut self, r: usize, i: usize, hits: usize, ahead: bool, now: SimTime) -> Vec<Part> {
        let pool = self.pool(r);
        let (request, target) = (self.lives[i].request as usize, self.lives[i].target);
        let most = ((target - 1) / pool.block_size).min(self.known_blocks(r, i));
        let asked = |shelf: &Shelf| shelf.facts.fetch != Fetch::Never && (!ahead || shelf.facts.prefetch);
        let count = self.replicas[r].shelves.len();
        for number in (0..count).filter(|number| asked(&self.replicas[r].shelves[*number])).collect::<Vec<_>>() {
            self.shelf_mut(r, number).told.lookups += 1;
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut at = hits;
        while at < most {
            let has = |shelf: usize, block: usize| self.shelf(r, shelf).has(self.requests, request, block, now);
            let Some(shelf) = (0..count).find(|s| asked(self.shelf(r, *s)) && has(*s, at)) else { break };
            let to = (at..most).find(|block| !has(shelf, *block)).unwrap_or(most);
            if self.shelf(r, shelf).facts.fetch == Fetch::Cheaper {
                let bytes = self.shelf(r, shelf).facts.block_bytes * (to - at) as u128;
                let (start, _, time) = self.shelf(r, shelf).transfer(bytes, now, true);
                let before = pool.model.extrapolated();
                let compute = pool.model.step(&alone((to - at) * pool.block_size, at * pool.block_size, target));
                self.replicas[r].estimates += pool.model.extrapolated() - before;
                if start + time - now > compute {
                    self.fire("tiers: computing is cheaper");
                    break;
                }
            }
            parts.push(Part { shelf, from: at, to });
            at = to;
        }
        let several = parts.iter().any(|part| part.shelf != parts[0].shelf);
        if several {
            self.fire("tiers: several have parts");
        }
        parts
    }

    /// The transfers begin; when the last of them is over.
    fn begin_reads(&mut self, r: usize, i: usize, parts: &[Part], now: SimTime) -> SimTime {
        let request = self.lives[i].request as usize;
        let mut until = now;
        for number in 0..self.replicas[r].shelves.len() {
            let requests = self.requests;
            let shelf = self.shelf_mut(r, number);
            let blocks: Vec<usize> =
                parts.iter().filter(|part| part.shelf == number).flat_map(|part| part.from..part.to).collect();
            if blocks.is_empty() {
                continue;
            }
            let mut hashes: Vec<u64> =
                blocks.iter().filter_map(|block| shelf.hash(requests, request, *block)).collect();
            hashes.dedup();
            hashes.iter().rev().for_each(|hash| assert!(shelf.renew(*hash, now), "a block was found"));
            let bytes = shelf.facts.block_bytes * blocks.len() as u128;
            let (start, place, time) = shelf.transfer(bytes, now, true);
            let waits = start > now;
            shelf.reading[place] = start + time;
            shelf.told.blocks_hit += blocks.len() as u64;
            shelf.told.bytes_read += bytes;
            shelf.told.stall_ns += i128::from((start + time - now).0);
            until = until.max(start + time);
            if waits {
                self.fire("tiers: a transfer waits for others");
            }
            if self.keeper(r, number) != r {
                self.fire("tiers: what engines share is read");
            }
        }
        until
    }

    /// The blocks of all that a request must compute are free.
    fn has_room_for_all(&self, r: usize, i: usize, hits: &[usize]) -> bool {
        let size = self.replicas[r].pool.block_size;
        self.has_room(r, hits, self.lives[i].target + self.set_aside(r) * size)
    }

    /// Blocks that the rests of prompts need that run, where nobody gives his up for them.
    pub(super) fn set_aside(&self, r: usize) -> usize {
        let machine = &self.replicas[r];
        let prompts = machine.running.iter().map(|i| &self.lives[*i]).filter(|life| !life.decodes());
        let rest = |life: &Life| life.target.div_ceil(machine.pool.block_size) - life.blocks.len();
        if machine.pool.common.cut_waits { prompts.map(rest).sum() } else { 0 }
    }

    /// A request that would be admitted: `None` where it waits or is fetched from now on (true), else the blocks that are to be
    /// loaded by its step.
    pub(super) fn tiers_for(&mut self, r: usize, i: usize, hits: &[usize], now: SimTime) -> Result<Loads, bool> {
        if self.replicas[r].shelves.is_empty() {
            return Ok(Loads(Vec::new()));
        }
        if !self.has_room_for_all(r, i, hits) {
            self.fire("tiers: no room for a whole prompt");
            return Err(false);
        }
        let parts = self.ask_tiers(r, i, hits.len(), false, now);
        if parts.iter().all(|part| self.replicas[r].shelves[part.shelf].facts.blocking) {
            return Ok(Loads(parts));
        }
        self.begin_fetch(r, i, hits, &parts, now);
        Err(true)
    }

    /// It takes its blocks, and waits for what comes.
    fn begin_fetch(&mut self, r: usize, i: usize, hits: &[usize], parts: &[Part], now: SimTime) {
        let until = self.begin_reads(r, i, parts, now);
        self.leaves_queue(r, i);
        let pool = self.pool(r);
        let to = parts.last().map_or(hits.len(), |part| part.to);
        hits.iter().for_each(|id| self.replicas[r].share(*id));
        let mut blocks = hits.to_vec();
        let all = self.lives[i].target.div_ceil(pool.block_size);
        for _ in hits.len()..all {
            let Some(id) = self.replicas[r].take() else { unreachable!("there is room") };
            blocks.push(id);
        }
        self.replicas[r].hold_fixed(i);
        self.replicas[r].trips += 1;
        let life = &mut self.lives[i];
        (life.blocks, life.missing) = (blocks, 0);
        life.computed = to * pool.block_size;
        life.fetched_tokens += (to - hits.len()) * pool.block_size;
        life.trip = Some(Trip { until, number: self.replicas[r].trips, hits: hits.len(), to });
        self.note_blocks(r);
        self.fire("tiers: a fetch");
        if pool.common.policy == QueueOrder::Fair {
            self.fire("tiers: a fetch for a tenant");
        }
        if self.lives[i].preemptions > 0 {
            self.fire("tiers: a fetch after a preemption");
        }
    }

    /// A request enters the queue.
    pub(super) fn prefetch(&mut self, r: usize, i: usize, now: SimTime) {
        if !self.replicas[r].shelves.iter().any(|shelf| shelf.facts.prefetch) {
            return;
        }
        let hits = self.look_up(r, i);
        if !self.has_room_for_all(r, i, &hits) {
            return;
        }
        let parts = self.ask_tiers(r, i, hits.len(), true, now);
        if !parts.is_empty() {
            self.begin_fetch(r, i, &hits, &parts, now);
            self.store_evicted(r, now);
            self.fire("tiers: a prefetch");
        }
    }

    /// The first fetch that is over by now: its request waits for a seat.
    pub(super) fn fetch_over(&mut self, r: usize, now: SimTime) -> bool {
        let over = |i: &usize| self.lives[*i].trip.filter(|trip| trip.until <= now).map(|trip| (trip, *i));
        let Some((trip, i)) = self.replicas[r].waiting.iter().filter_map(over).min() else { return false };
        self.note_loaded(r, i, trip.hits, trip.to);
        self.lives[i].trip = None;
        (self.lives[i].ready, self.lives[i].hits) = (true, Some(trip.hits));
        self.replicas[r].rests = false;
        self.replicas[r].waiting.retain(|other| *other != i);
        self.replicas[r].waiting.push_back(i);
        if self.lives[i].is_left(now) {
            self.fire("tiers: a client goes during a fetch");
        }
        true
    }

    /// Loads what [`Self::tiers_for`] found for a request that is admitted and holds its hits: returns how many blocks.
    pub(super) fn load(&mut self, r: usize, i: usize, loads: &Loads, f: &mut Forming) -> usize {
        let Loads(parts) = loads;
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return 0 };
        let size = self.replicas[r].pool.block_size;
        let waits = self.begin_reads(r, i, parts, f.now) - f.now;
        f.loads = f.loads.max(waits);
        for _ in first.from..last.to {
            let Some(id) = self.replicas[r].take() else { unreachable!("there is room") };
            self.lives[i].blocks.push(id);
        }
        self.note_loaded(r, i, first.from, last.to);
        self.lives[i].fetched_tokens += (last.to - first.from) * size;
        self.fire("tiers: a blocking load");
        last.to - first.from
    }

    /// These blocks have come.
    fn note_loaded(&mut self, r: usize, i: usize, from: usize, to: usize) {
        let size = self.replicas[r].pool.block_size;
        if self.replicas[r].pool.common.fills_late {
            self.keep_once(r, i, to * size);
        } else {
            self.note_contents(r, i, from * size, (to - from) * size);
        }
    }

    /// What a step that ends has filled is stored.
    pub(super) fn store_filled(&mut self, r: usize, step: &Step, now: SimTime) {
        for number in 0..self.replicas[r].shelves.len() {
            if self.replicas[r].shelves[number].facts.write != WritePolicy::WriteThrough {
                continue;
            }
            for part in &step.batch {
                let filled = self.known_blocks_filled(r, part.life, part.from, part.tokens);
                self.store_on(r, number, part.life, &filled, now);
            }
        }
    }

    /// These blocks of a request, which can be found from now on, are stored.
    pub(super) fn store_found(&mut self, r: usize, i: usize, filled: &[usize], now: SimTime) {
        for number in 0..self.replicas[r].shelves.len() {
            if self.replicas[r].shelves[number].facts.write == WritePolicy::WriteThrough {
                self.store_on(r, number, i, filled, now);
            }
        }
    }

    /// These blocks of a request are stored by this tier.
    fn store_on(&mut self, r: usize, number: usize, i: usize, filled: &[usize], now: SimTime) {
        let (requests, request) = (self.requests, self.lives[i].request as usize);
        let shelf = self.shelf_mut(r, number);
        let chunk = shelf.facts.chunk as usize;
        let whole = |block: &&usize| (**block + 1).is_multiple_of(chunk);
        let hashes = filled.iter().rev().filter(whole).filter_map(|block| shelf.hash(requests, request, *block));
        let hashes: Vec<u64> = hashes.collect();
        let before = shelf.told.blocks_evicted;
        shelf.store(&hashes, now);
        if shelf.told.blocks_evicted > before {
            self.fire("tiers: one leaves for another");
        }
    }

    /// What the prefix cache has given up is stored.
    pub(super) fn store_evicted(&mut self, r: usize, now: SimTime) {
        let evicted = std::mem::take(&mut self.replicas[r].evicted);
        if evicted.is_empty() {
            return;
        }
        for number in 0..self.replicas[r].shelves.len() {
            let shelf = self.shelf_mut(r, number);
            if shelf.facts.write == WritePolicy::OnEvict {
                shelf.store(&evicted, now);
                self.fire("tiers: what is evicted is stored");
            }
        }
    }

    /// By how much longer a step lasts because of transfers.
    pub(super) fn slowed(&self, r: usize, start: SimTime, said: SimDuration) -> SimDuration {
        let mut more = 0;
        for number in 0..self.replicas[r].shelves.len() {
            let shelf = self.shelf(r, number);
            if shelf.facts.contends > 0.0 {
                let overlap = (shelf.busy_until() - start).0.min(said.0).max(0);
                more += (overlap as f64 * shelf.facts.contends) as i64;
            }
        }
        SimDuration(more)
    }
}

/// A request that was fetched waits for room in the encoder.
pub(super) const ENCODER_WAITS: &str = "tiers: what was fetched waits for the encoder";

/// What is loaded by the step that admits a request.
pub(super) struct Loads(Vec<Part>);

impl Loads {
    pub(super) fn none() -> Loads {
        Loads(Vec::new())
    }

    /// Blocks.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|part| part.to - part.from).sum()
    }
}

/// A step with these tokens of a prompt alone.
fn alone(tokens: usize, context: usize, target: usize) -> BatchShape {
    let (n, context, target) = (tokens as u64, context as u64, target as u64);
    BatchShape {
        prefill_requests: 1,
        prefill_tokens: n,
        prefill_context: context,
        prefill_tokens_x_context: n * context,
        prefill_tokens_squared: n * n,
        prefill_tokens_x_input: n * target,
        prefill_tokens_max: n,
        prefill_context_pages: libm::ceil(context as f64 / 64.0) as u64,
        ..BatchShape::default()
    }
}
