//! LoRA adapters the obvious way: lists of adapters, searched whenever something is asked. The rules are those of
//! [`crate::sim::lora`].

use std::collections::BTreeSet;

use super::forming::Forming;
use super::parts::{Life, Part, Stage};
use super::world::World;
use crate::sim::lora::{Costs, Gate, Gated, Loading, Lora, Mix};
use crate::units::{SimDuration, SimTime};

/// The adapters of one engine, by the numbers of the trace.
#[derive(Default)]
pub(super) struct Shelf {
    /// On the GPU, and on its way there.
    pub here: Vec<u32>,
    pub coming: Option<(SimTime, u32)>,
    /// In the host's memory alone, where that does not hold all.
    host: Vec<u32>,
    /// The last that was used at the end.
    used: Vec<u32>,
}

/// In the place of an adapter: who asks for none, where that needs a slot.
const BASE: u32 = u32::MAX;

impl Shelf {
    fn note_use(&mut self, adapter: u32) {
        self.used.retain(|other| *other != adapter);
        self.used.push(adapter);
    }

    /// When it was used last, in comparison with others.
    fn last_use(&self, adapter: u32) -> usize {
        self.used.iter().position(|other| *other == adapter).unwrap_or(0)
    }
}

impl World<'_> {
    fn lora(&self, r: usize) -> Option<&Lora> {
        self.replicas[r].pool.adapters.as_ref().map(|(lora, _)| lora)
    }

    /// The adapter that a request asks for here.
    fn adapter_of(&self, r: usize, i: usize) -> Option<u32> {
        let Life { request, stage, .. } = self.lives[i];
        self.lora(r).filter(|_| stage != Stage::Encode)?;
        self.requests.adapter.get(request as usize).copied().flatten()
    }

    /// What it needs a slot for.
    fn slot_of(&self, r: usize, i: usize) -> Option<u32> {
        self.lora(r).filter(|_| self.lives[i].stage != Stage::Encode)?;
        let base = self.replicas[r].pool.common.base_needs_slot.then_some(BASE);
        self.adapter_of(r, i).or(base)
    }

    fn rank(&self, r: usize, adapter: u32) -> u32 {
        self.lora(r).map_or(0, |lora| lora.rank_of(self.requests, adapter))
    }

    /// What requests that run need slots for.
    fn adapters_in_use(&self, r: usize) -> Vec<u32> {
        let mut all: Vec<u32> = self.replicas[r].running.iter().filter_map(|i| self.slot_of(r, *i)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether a waiting request may be admitted, as far as its adapter goes.
    pub(super) fn gate(&self, r: usize, i: usize) -> Gated {
        let (Some(lora), Some(adapter)) = (self.lora(r), self.slot_of(r, i)) else { return Gated::Go };
        let in_use = self.adapters_in_use(r);
        let may = match lora.loading {
            Loading::InStep => in_use.contains(&adapter) || in_use.len() < lora.max_loras as usize,
            Loading::Background => self.replicas[r].shelf.here.contains(&adapter),
        };
        match (may, lora.gate) {
            (true, _) => Gated::Go,
            (false, Gate::Skip) => Gated::Skip,
            (false, Gate::HeadOfLine) => Gated::Stop,
        }
    }

    /// Whether there are slots for this request and all of these.
    pub(super) fn slots_suffice(&self, r: usize, i: usize, others: &[usize]) -> bool {
        let Some(lora) = self.lora(r) else { return true };
        let claimed: BTreeSet<u32> = others.iter().filter_map(|other| self.slot_of(r, *other)).collect();
        let of_own = self.slot_of(r, i);
        of_own.is_none_or(|own| claimed.contains(&own) || claimed.len() < lora.max_loras as usize)
    }

    /// An adapter gets a slot, and is on its way; how long that takes. `spared` keep theirs. `None` where all slots are taken.
    fn give_slot(&mut self, r: usize, adapter: u32, spared: &[u32]) -> Option<SimDuration> {
        let (lora, in_use, rank) = (self.lora(r)?.clone(), self.adapters_in_use(r), self.rank(r, adapter));
        let shelf = &self.replicas[r].shelf;
        let taken = shelf.here.len() + usize::from(shelf.coming.is_some());
        if taken == lora.max_loras as usize {
            let idle = shelf.here.iter().copied().filter(|a| !in_use.contains(a) && !spared.contains(a));
            let victim = idle.min_by_key(|a| (*a == BASE, shelf.last_use(*a)))?;
            let machine = &mut self.replicas[r];
            machine.shelf.here.retain(|a| *a != victim);
            if victim == BASE {
                self.fire("lora: those without an adapter give up their slot");
            } else {
                machine.shelf.host.push(victim);
                self.totals[machine.pool.number].adapters.evictions += 1;
                self.fire("lora: a slot is given up");
            }
        }
        if adapter == BASE {
            self.fire("lora: a slot for those without an adapter");
            return Some(SimDuration::ZERO);
        }
        let machine = &mut self.replicas[r];
        let shelf = &mut machine.shelf;
        let from_disk = lora.host_slots().is_some() && !shelf.host.contains(&adapter);
        shelf.host.retain(|a| *a != adapter);
        let mut forgotten = 0;
        if let Some(slots) = lora.host_slots() {
            let here = shelf.here.iter().filter(|a| **a != BASE).count();
            while here + 1 + shelf.host.len() > slots as usize {
                let Some(oldest) = shelf.host.iter().copied().min_by_key(|a| shelf.last_use(*a)) else { break };
                shelf.host.retain(|a| *a != oldest);
                forgotten += 1;
            }
        }
        let (_, costs) = machine.pool.adapters.as_ref()?;
        let time = costs.load(rank, from_disk);
        let sums = &mut self.totals[machine.pool.number].adapters;
        sums.loads += 1;
        sums.reads += u64::from(from_disk);
        sums.load_time += time;
        if forgotten > 0 {
            self.fire("lora: the host forgets");
        }
        if from_disk {
            self.fire("lora: read from disk");
        }
        Some(time)
    }

    /// This request of the queue is about to be admitted.
    pub(super) fn note_passed(&mut self, r: usize, admitted: usize) {
        let Some(Lora { gate: Gate::Skip, .. }) = self.lora(r) else { return };
        let queue = self.queue(r);
        let passed = queue.into_iter().take_while(|i| *i != admitted).filter(|i| self.gate(r, *i) == Gated::Skip);
        let passed: Vec<usize> = passed.collect();
        if !passed.is_empty() {
            self.fire("lora: one goes before another that waits for its adapter");
        }
        if passed.into_iter().any(|i| self.lives[i].hits.is_some()) {
            self.fire("tiers: what was fetched waits for its adapter");
        }
    }

    /// After a step was formed.
    pub(super) fn note_held_up(&mut self, r: usize) {
        let Some(Lora { gate: Gate::HeadOfLine, .. }) = self.lora(r) else { return };
        let queue = self.queue(r);
        if queue.first().is_some_and(|head| self.gate(r, *head) == Gated::Stop) && queue.len() > 1 {
            self.fire("lora: the head holds up all");
        }
    }

    /// A request is admitted: its adapter is there, or is loaded before the step runs.
    pub(super) fn bring_adapter(&mut self, r: usize, i: usize, f: &mut Forming) {
        let Some(adapter) = self.slot_of(r, i) else { return };
        if self.lives[i].hits.is_some() && adapter != BASE {
            self.fire("tiers: a fetched request has an adapter");
        }
        if self.replicas[r].shelf.here.contains(&adapter) {
            return;
        }
        let Some(time) = self.give_slot(r, adapter, &[]) else { unreachable!("a request was admitted without a slot") };
        self.replicas[r].shelf.here.push(adapter);
        f.more += time;
        if adapter != BASE {
            self.fire("lora: loaded in the step");
        }
    }

    /// A request runs no more. It has been taken out of the running ones.
    pub(super) fn note_end_of_use(&mut self, r: usize, i: usize) {
        if let Some(adapter) = self.slot_of(r, i)
            && !self.adapters_in_use(r).contains(&adapter)
        {
            self.replicas[r].shelf.note_use(adapter);
        }
    }

    /// Before a step is formed: the next load begins, if one can.
    pub(super) fn begin_load(&mut self, r: usize, now: SimTime) {
        let Some(lora) = self.lora(r) else { return };
        if lora.loading == Loading::InStep || self.replicas[r].shelf.coming.is_some() {
            return;
        }
        let head_only = lora.gate == Gate::HeadOfLine;
        let mut before = Vec::new();
        for (place, i) in self.queue(r).into_iter().enumerate() {
            if head_only && place > 0 {
                return;
            }
            let Some(adapter) = self.slot_of(r, i) else { continue };
            if self.replicas[r].shelf.here.contains(&adapter) {
                before.push(adapter);
                continue;
            }
            let Some(time) = self.give_slot(r, adapter, &before) else {
                self.fire("lora: no slot for a load");
                return;
            };
            let pool = self.pool(r);
            let Some((_, costs)) = &pool.adapters else { return };
            self.replicas[r].shelf.coming = Some((now + costs.in_ticks(time), adapter));
            self.fire("lora: loaded in the background");
            return;
        }
    }

    /// The adapter that was on its way is there.
    pub(super) fn adapter_comes(&mut self, r: usize, now: SimTime) {
        let shelf = &mut self.replicas[r].shelf;
        if let Some((_, adapter)) = shelf.coming.take_if(|(at, _)| *at <= now) {
            shelf.here.push(adapter);
            shelf.note_use(adapter);
            self.replicas[r].rests = false;
        }
    }

    /// Requests in the queue whose adapter is not on the GPU.
    pub(super) fn without_adapter(&self, r: usize) -> usize {
        let machine = &self.replicas[r];
        let asked = machine.waiting.iter().filter_map(|i| self.adapter_of(r, *i));
        asked.filter(|adapter| !machine.shelf.here.contains(adapter)).count()
    }

    /// The adapters of a batch.
    pub(super) fn mix(&self, r: usize, batch: &[Part]) -> Mix {
        let with_tokens = batch.iter().filter(|part| part.tokens > 0);
        let mut all: Vec<u32> = with_tokens.filter_map(|part| self.adapter_of(r, part.life)).collect();
        all.sort_unstable();
        all.dedup();
        let ranks = all.iter().map(|adapter| self.rank(r, *adapter));
        Mix { adapters: all.len() as u32, rank: ranks.max().unwrap_or(0) }
    }

    /// How long a batch takes for which the latency model says `said`.
    pub(super) fn with_adapters(&self, r: usize, said: SimDuration, mix: Mix) -> SimDuration {
        let costs: Option<&Costs> = self.replicas[r].pool.adapters.as_ref().map(|(_, costs)| costs);
        costs.map_or(said, |costs| costs.step(said, mix))
    }

    /// A step with so many adapters in its batch has ended.
    pub(super) fn count_mix(&mut self, r: usize, mix: Mix) {
        if self.lora(r).is_none() {
            return;
        }
        let steps = &mut self.totals[self.replicas[r].pool.number].adapters.steps_by_adapters;
        if steps.len() <= mix.adapters as usize {
            steps.resize(mix.adapters as usize + 1, 0);
        }
        steps[mix.adapters as usize] += 1;
    }
}
