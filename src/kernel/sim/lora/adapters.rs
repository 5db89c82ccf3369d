//! The adapters of one replica of the fast engine: which are where, who waits for them and who runs with them.
//!
//! All is counted as it changes: a step costs what the prompts in it are, a load what the slots are.

use std::collections::{BTreeMap, BTreeSet};

use super::costs::{Costs, Mix};
use super::{AdapterSums, Gate, Loading, Lora};
use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::sim::batch::Forming;
use crate::sim::node::{Env, Work};
use crate::sim::replica::{Phase, Replica};
use crate::units::{SimDuration, SimTime};

/// The place of no adapter.
pub(in crate::sim) const NO_ADAPTER: u32 = u32::MAX;

/// What the replicas of a pool share.
pub(in crate::sim) struct Plan {
    slots: u32,
    host_slots: Option<u32>,
    skips: bool,
    background: bool,
    pub costs: Costs,
    /// Place of those who ask for none, where they need a slot; else [`NO_ADAPTER`].
    base: u32,
    /// Numbers and ranks of the adapters of the trace, in the order of the numbers.
    known: Vec<(u32, u32)>,
}

impl Plan {
    /// `None` where there are no adapters. An encoder has none.
    pub(in crate::sim) fn new(site: &Site, requests: &Requests) -> Option<Plan> {
        let d = &site.deployment;
        let lora: &Lora = d.lora.as_ref().filter(|_| site.role != Role::Encode)?;
        let numbers: BTreeSet<u32> = requests.adapter.iter().flatten().copied().collect();
        let base = d.scheduler.common().is_some_and(|common| common.base_needs_slot);
        Some(Plan {
            base: if base { numbers.len() as u32 } else { NO_ADAPTER },
            slots: lora.max_loras,
            host_slots: lora.host_slots(),
            skips: lora.gate == Gate::Skip,
            background: lora.loading == Loading::Background,
            costs: Costs::new(lora, d, &site.model, &site.gpu),
            known: numbers.into_iter().map(|number| (number, lora.rank_of(requests, number))).collect(),
        })
    }

    /// The place of the adapter that a request asks for.
    pub(in crate::sim) fn of(&self, requests: &Requests, request: u32, work: Work) -> u32 {
        if work == Work::Encode {
            return NO_ADAPTER;
        }
        let number = requests.adapter.get(request as usize).copied().flatten();
        let at = number.and_then(|number| self.known.binary_search_by_key(&number, |known| known.0).ok());
        at.map_or(self.base, |at| at as u32)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Disk,
    Host,
    /// On its way into a slot that is kept for it.
    Coming,
    Gpu,
}

#[derive(Clone, Copy)]
struct Adapter {
    rank: u32,
    place: Place,
    /// Order of the ends of use.
    idle_since: u64,
    /// Requests that run, of them those that decode, and requests that wait.
    running: u32,
    decoding: u32,
    waiting: u32,
    /// The last search in which it was met.
    met: u64,
    /// It stands for those who ask for none: nothing is loaded, and its slot is given up last.
    base: bool,
}

/// Whether a waiting request may be admitted, as far as its adapter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Gated {
    Go,
    /// Not this one; those behind it may.
    Skip,
    /// Neither this one nor those behind it.
    Stop,
}

/// See the head of the file.
pub(in crate::sim) struct Adapters {
    all: Vec<Adapter>,
    /// Slots that are taken, also by what comes; adapters in use.
    taken: u32,
    in_use: u32,
    /// (since when, place): idle adapters on the GPU; those in the host's memory alone, where that does not hold all.
    idle: BTreeSet<(u64, u32)>,
    hosted: BTreeSet<(u64, u32)>,
    /// When it is there, and which.
    coming: Option<(SimTime, u32)>,
    next_idle: u64,
    /// Waiting requests with an adapter; those whose adapter is in use; those whose adapter is not on the GPU.
    waiting: u64,
    waiting_used: u64,
    waiting_cold: u64,
    /// Distinct adapters of the requests that decode, and how many of them have which rank.
    decoding: u32,
    ranks: BTreeMap<u32, u32>,
    searches: u64,
    pub sums: AdapterSums,
}

impl Adapters {
    pub(in crate::sim) fn new(plan: &Plan) -> Adapters {
        let place = if plan.host_slots.is_some() { Place::Disk } else { Place::Host };
        let fresh =
            |rank| Adapter { rank, place, idle_since: 0, running: 0, decoding: 0, waiting: 0, met: 0, base: false };
        let base = (plan.base != NO_ADAPTER).then(|| Adapter { base: true, place: Place::Host, ..fresh(0) });
        Adapters {
            all: plan.known.iter().map(|(_, rank)| fresh(*rank)).chain(base).collect(),
            taken: 0,
            in_use: 0,
            idle: BTreeSet::new(),
            hosted: BTreeSet::new(),
            coming: None,
            next_idle: 0,
            waiting: 0,
            waiting_used: 0,
            waiting_cold: 0,
            decoding: 0,
            ranks: BTreeMap::new(),
            searches: 0,
            sums: AdapterSums::default(),
        }
    }

    /// A request that asks for it waits from now on.
    fn waits(&mut self, at: u32, now: SimTime) {
        let adapter = &mut self.all[at as usize];
        adapter.waiting += 1;
        self.waiting += 1;
        self.waiting_used += u64::from(adapter.running > 0);
        if adapter.place != Place::Gpu {
            self.colder(at, 1, now);
        }
    }

    fn waits_no_more(&mut self, at: u32, now: SimTime) {
        let adapter = &mut self.all[at as usize];
        adapter.waiting -= 1;
        self.waiting -= 1;
        self.waiting_used -= u64::from(adapter.running > 0);
        if adapter.place != Place::Gpu {
            self.warmer(at, 1, now);
        }
    }

    /// So many more requests wait whose adapter is not on the GPU. The time until then is taken off, that at the end added.
    fn colder(&mut self, at: u32, requests: u32, now: SimTime) {
        self.waiting_cold += u64::from(requests);
        if !self.all[at as usize].base {
            self.sums.wait_ns -= i128::from(requests) * i128::from(now.0);
        }
    }

    fn warmer(&mut self, at: u32, requests: u32, now: SimTime) {
        self.waiting_cold -= u64::from(requests);
        if !self.all[at as usize].base {
            self.sums.wait_ns += i128::from(requests) * i128::from(now.0);
        }
    }

    /// A request that asks for it runs from now on.
    fn runs(&mut self, at: u32) {
        let adapter = &mut self.all[at as usize];
        debug_assert!(adapter.place == Place::Gpu, "nobody runs without the adapter");
        adapter.running += 1;
        if adapter.running == 1 {
            self.in_use += 1;
            self.waiting_used += u64::from(adapter.waiting);
            self.idle.remove(&(adapter.idle_since, at));
        }
    }

    fn runs_no_more(&mut self, at: u32) {
        let adapter = &mut self.all[at as usize];
        adapter.running -= 1;
        if adapter.running == 0 {
            self.in_use -= 1;
            self.waiting_used -= u64::from(adapter.waiting);
            self.rests(at);
        }
    }

    /// On the GPU, and nobody runs with it.
    fn rests(&mut self, at: u32) {
        self.next_idle += 1;
        let adapter = &mut self.all[at as usize];
        adapter.idle_since = if adapter.base { u64::MAX } else { self.next_idle };
        self.idle.insert((adapter.idle_since, at));
    }

    fn decodes(&mut self, at: u32) {
        let adapter = &mut self.all[at as usize];
        adapter.decoding += 1;
        if adapter.decoding == 1 && !adapter.base {
            self.decoding += 1;
            *self.ranks.entry(adapter.rank).or_default() += 1;
        }
    }

    fn decodes_no_more(&mut self, at: u32) {
        let adapter = &mut self.all[at as usize];
        let rank = adapter.rank;
        adapter.decoding -= 1;
        if adapter.decoding == 0 && !adapter.base {
            self.decoding -= 1;
            if let Some(count) = self.ranks.get_mut(&rank) {
                *count -= 1;
                if *count == 0 {
                    self.ranks.remove(&rank);
                }
            }
        }
    }

    /// The adapters of all requests that decode.
    #[inline]
    pub(in crate::sim) fn decode_mix(&self) -> Mix {
        Mix { adapters: self.decoding, rank: self.ranks.last_key_value().map_or(0, |(rank, _)| *rank) }
    }

    /// The slot for the next adapter: a free one, or that of the adapter idle for longest which the last search did not meet.
    fn victim(&self, spares_met: bool) -> Option<u32> {
        let met = |at: u32| spares_met && self.all[at as usize].met == self.searches;
        self.idle.iter().map(|(_, at)| *at).find(|at| !met(*at))
    }

    /// A load begins, into a free slot or that of the victim; how long it takes.
    fn load(&mut self, at: u32, victim: Option<u32>, now: SimTime, plan: &Plan) -> SimDuration {
        match victim {
            Some(victim) => self.evict(victim, now, plan),
            None => self.taken += 1,
        }
        if self.all[at as usize].base {
            self.all[at as usize].place = Place::Coming;
            return SimDuration::ZERO;
        }
        let from_disk = self.all[at as usize].place == Place::Disk;
        if let Some(slots) = plan.host_slots {
            self.hosted.remove(&(self.all[at as usize].idle_since, at));
            let base = self.all.last().is_some_and(|last| last.base && last.place != Place::Host);
            while self.taken - u32::from(base) + self.hosted.len() as u32 > slots {
                let Some((_, forgotten)) = self.hosted.pop_first() else { unreachable!("there is room for all slots") };
                self.all[forgotten as usize].place = Place::Disk;
            }
        }
        let time = plan.costs.load(self.all[at as usize].rank, from_disk);
        self.sums.loads += 1;
        self.sums.reads += u64::from(from_disk);
        self.sums.load_time += time;
        self.all[at as usize].place = Place::Coming;
        time
    }

    /// Its slot is another's from now on.
    fn evict(&mut self, victim: u32, now: SimTime, plan: &Plan) {
        let adapter = &mut self.all[victim as usize];
        let entry = (adapter.idle_since, victim);
        adapter.place = Place::Host;
        let (waiting, base) = (adapter.waiting, adapter.base);
        self.idle.remove(&entry);
        if plan.host_slots.is_some() && !base {
            self.hosted.insert(entry);
        }
        self.colder(victim, waiting, now);
        self.sums.evictions += u64::from(!base);
    }

    /// It is on the GPU from now on.
    fn came(&mut self, at: u32, now: SimTime) {
        self.all[at as usize].place = Place::Gpu;
        self.warmer(at, self.all[at as usize].waiting, now);
    }

    /// What comes is there, if it is by `now`.
    fn arrive(&mut self, now: SimTime) -> bool {
        let Some((time, at)) = self.coming.filter(|(time, _)| *time <= now) else { return false };
        self.coming = None;
        self.came(at, time);
        self.rests(at);
        true
    }
}

/// Adapters for which a step has set slots aside: those in use, where they count, and others.
#[derive(Debug, Default)]
pub(in crate::sim) struct Claims {
    /// Those in use have their slots whoever claims.
    in_use: bool,
    /// The others, each once.
    claimed: Vec<u32>,
}

impl Claims {
    /// Those in use have slots already.
    pub(in crate::sim) fn beside_those_in_use() -> Claims {
        Claims { in_use: true, claimed: Vec::new() }
    }

    /// Nobody has a slot yet, also who runs.
    pub(in crate::sim) fn none() -> Claims {
        Claims::default()
    }

    /// Whether there is a slot for the adapter of a request.
    pub(in crate::sim) fn fits(&self, replica: &Replica, slot: u32, env: &Env<'_>) -> bool {
        let (Some(adapters), Some(plan)) = (&replica.adapters, &env.adapters) else { return true };
        let at = replica.live[slot as usize].adapter;
        let others = if self.in_use { adapters.in_use } else { 0 };
        at == NO_ADAPTER || self.has(adapters, at) || others as usize + self.claimed.len() < plan.slots as usize
    }

    /// Sets one aside, if it needs one.
    pub(in crate::sim) fn claim(&mut self, replica: &Replica, slot: u32) {
        let Some(adapters) = &replica.adapters else { return };
        let at = replica.live[slot as usize].adapter;
        if at != NO_ADAPTER && !self.has(adapters, at) {
            self.claimed.push(at);
        }
    }

    fn has(&self, adapters: &Adapters, at: u32) -> bool {
        (self.in_use && adapters.all[at as usize].running > 0) || self.claimed.contains(&at)
    }
}

impl Replica {
    /// Whether a waiting request may be admitted, as far as its adapter goes.
    pub(in crate::sim) fn gate(&self, slot: u32, env: &Env<'_>) -> Gated {
        let (Some(adapters), Some(plan)) = (&self.adapters, &env.adapters) else { return Gated::Go };
        let at = self.live[slot as usize].adapter;
        if at == NO_ADAPTER {
            return Gated::Go;
        }
        let adapter = &adapters.all[at as usize];
        let may = match plan.background {
            true => adapter.place == Place::Gpu,
            false => adapter.running > 0 || adapters.in_use < plan.slots,
        };
        match (may, plan.skips) {
            (true, _) => Gated::Go,
            (false, true) => Gated::Skip,
            (false, false) => Gated::Stop,
        }
    }

    /// The first in the queue of those that may be admitted, as far as their adapters go.
    pub(in crate::sim) fn next_waiting(&self, env: &Env<'_>) -> Option<u32> {
        let front = self.waiting.front()?;
        let (Some(adapters), Some(plan)) = (&self.adapters, &env.adapters) else { return Some(front) };
        match self.gate(front, env) {
            Gated::Go => return Some(front),
            Gated::Stop => return None,
            Gated::Skip => {}
        }
        // Where nobody may, nobody is looked at.
        let all = self.waits();
        let may = match plan.background {
            true => all - adapters.waiting_cold,
            false => all - adapters.waiting + adapters.waiting_used,
        };
        if may == 0 {
            return None;
        }
        self.waiting.iter().find(|slot| self.gate(*slot, env) == Gated::Go)
    }

    /// The same of all that wait: those that hold their blocks go before the others.
    pub(in crate::sim) fn next_ready(&self, env: &Env<'_>) -> Option<u32> {
        if self.loaded.is_empty() {
            return self.next_waiting(env);
        }
        for slot in self.loaded.iter() {
            match self.gate(slot, env) {
                Gated::Go => return Some(slot),
                Gated::Stop => return None,
                Gated::Skip => {}
            }
        }
        self.next_waiting(env)
    }

    /// Takes out of [`Replica::loaded`] what [`Self::next_ready`] said.
    pub(in crate::sim) fn unload(&mut self, slot: u32, env: &Env<'_>) {
        if self.loaded.front() == Some(slot) {
            self.loaded.pop_front();
        } else {
            let key = self.key(slot, env);
            let there = self.loaded.remove(slot, key);
            assert!(there, "a request with its blocks must be among those");
        }
    }

    /// Takes out of the queue what [`Self::next_waiting`] said.
    pub(in crate::sim) fn dequeue(&mut self, slot: u32, env: &Env<'_>) {
        if self.waiting.front() == Some(slot) {
            self.waiting.pop_front();
        } else {
            self.unqueue(slot, env);
        }
    }

    /// A request entered the queue at this time.
    pub(in crate::sim) fn adapter_waits(&mut self, slot: u32, now: SimTime, env: &Env<'_>) {
        let at = self.live[slot as usize].adapter;
        if let (Some(adapters), Some(plan)) = (&mut self.adapters, &env.adapters) {
            if at != NO_ADAPTER {
                adapters.waits(at, now);
            }
            // It may go before all others.
            self.blocked &= !plan.skips;
        }
    }

    /// A request left the queue without being admitted.
    pub(in crate::sim) fn adapter_waits_no_more(&mut self, slot: u32) {
        let (at, now) = (self.live[slot as usize].adapter, self.clock);
        if let (Some(adapters), true) = (&mut self.adapters, at != NO_ADAPTER) {
            adapters.waits_no_more(at, now);
        }
    }

    /// A request is admitted: its adapter is there, or loaded before the step runs.
    pub(in crate::sim) fn adapter_runs(&mut self, slot: u32, f: &mut Forming, env: &Env<'_>) {
        let (at, now) = (self.live[slot as usize].adapter, self.clock);
        let (Some(adapters), Some(plan), true) = (&mut self.adapters, &env.adapters, at != NO_ADAPTER) else { return };
        adapters.waits_no_more(at, now);
        if adapters.all[at as usize].place != Place::Gpu {
            let victim = adapters.victim(false).filter(|_| adapters.taken == plan.slots);
            assert!(victim.is_some() || adapters.taken < plan.slots, "a request was admitted without a slot");
            f.more += adapters.load(at, victim, now, plan);
            adapters.came(at, now);
        }
        adapters.runs(at);
    }

    /// A request runs no more: it is done, gone or preempted.
    pub(in crate::sim) fn adapter_runs_no_more(&mut self, slot: u32) {
        let at = self.live[slot as usize].adapter;
        if let (Some(adapters), true) = (&mut self.adapters, at != NO_ADAPTER) {
            adapters.runs_no_more(at);
        }
    }

    /// A request decodes from the next step on, or no more.
    pub(in crate::sim) fn adapter_decodes(&mut self, slot: u32, does: bool) {
        let at = self.live[slot as usize].adapter;
        if let (Some(adapters), true) = (&mut self.adapters, at != NO_ADAPTER) {
            match does {
                true => adapters.decodes(at),
                false => adapters.decodes_no_more(at),
            }
        }
    }

    /// Before a step is formed: the next load begins, if one can.
    pub(in crate::sim) fn start_load(&mut self, env: &Env<'_>) {
        let (now, Some((at, victim))) = (self.clock, self.load_to_start(env)) else { return };
        if let (Some(adapters), Some(plan)) = (&mut self.adapters, &env.adapters) {
            let time = plan.costs.in_ticks(adapters.load(at, victim, now, plan));
            adapters.coming = Some((now + time, at));
        }
    }

    /// The adapter that would be loaded, and the one that gives up its slot.
    fn load_to_start(&mut self, env: &Env<'_>) -> Option<(u32, Option<u32>)> {
        let (Some(adapters), Some(plan)) = (&mut self.adapters, &env.adapters) else { return None };
        let full = adapters.taken == plan.slots;
        let none = adapters.waiting_cold == 0 || (full && adapters.idle.is_empty());
        if !plan.background || adapters.coming.is_some() || none {
            return None;
        }
        adapters.searches += 1;
        let looked_at = if plan.skips { usize::MAX } else { 1 };
        for slot in self.loaded.iter().chain(self.waiting.iter()).take(looked_at) {
            let at = self.live[slot as usize].adapter;
            if at == NO_ADAPTER {
                continue;
            }
            let adapter = &mut adapters.all[at as usize];
            if adapter.place == Place::Gpu {
                adapter.met = adapters.searches;
                continue;
            }
            if !full {
                return Some((at, None));
            }
            return adapters.victim(true).map(|victim| (at, Some(victim)));
        }
        None
    }

    /// After a step was formed: one is formed again although nothing changes, where a load could begin.
    pub(in crate::sim) fn stay_awake_for_loads(&mut self, env: &Env<'_>) {
        if self.blocked && self.adapters.is_some() {
            self.blocked = self.load_to_start(env).is_none();
        }
    }

    /// What comes is there, if it is by `now`: who waits for it is looked at again.
    pub(in crate::sim) fn adapter_comes(&mut self, now: SimTime) {
        if self.adapters.as_mut().is_some_and(|adapters| adapters.arrive(now)) {
            (self.blocked, self.asleep) = (false, false);
        }
    }

    /// When the adapter that comes is there.
    #[inline]
    pub(in crate::sim) fn next_adapter(&self) -> Option<SimTime> {
        Some(self.adapters.as_ref()?.coming?.0)
    }

    /// Nothing is on its way that could let somebody in.
    pub(in crate::sim) fn no_adapter_comes(&self) -> bool {
        self.adapters.as_ref().is_none_or(|adapters| adapters.coming.is_none())
    }

    /// The adapters of the step that was formed.
    pub(in crate::sim) fn mix(&mut self, f: &Forming) -> Mix {
        let Some(adapters) = &mut self.adapters else { return Mix::default() };
        adapters.searches += 1;
        let now = adapters.searches;
        let all = !f.pause && f.shape.decode_requests + f.verifying == self.decodes;
        let mut mix = if all { adapters.decode_mix() } else { Mix::default() };
        let live = &self.live;
        let chunks = self.next.chunks.iter().filter(|chunk| chunk.tokens > 0).map(|chunk| chunk.slot);
        // Some that decode have no token in this step: those that have were gone through one by one.
        let runs = |slot: &u32| live[*slot as usize].phase == Phase::Decode && !live[*slot as usize].stalled;
        let decodes = self.running.iter().copied().filter(|slot| !all && !f.pause && runs(slot));
        for slot in chunks.chain(decodes) {
            let at = live[slot as usize].adapter;
            if at == NO_ADAPTER || (all && adapters.all[at as usize].decoding > 0) {
                continue;
            }
            let adapter = &mut adapters.all[at as usize];
            if adapter.base {
                continue;
            }
            if std::mem::replace(&mut adapter.met, now) != now {
                mix.adapters += 1;
                mix.rank = mix.rank.max(adapter.rank);
            }
        }
        mix
    }

    /// At the horizon: who waits has waited until then.
    pub(in crate::sim) fn close_adapters(&mut self, horizon: SimTime) {
        if let Some(adapters) = &mut self.adapters {
            let base = adapters.all.last().filter(|last| last.base && last.place != Place::Gpu);
            let cold = adapters.waiting_cold - base.map_or(0, |base| u64::from(base.waiting));
            adapters.sums.wait_ns += i128::from(cold) * i128::from(horizon.0);
        }
    }
}
