//! Passing time: the instants at which something happens to several engines, and the order at one instant.
//!
//! Where no router and no request waits to hear of what engines do, an engine is let pass when it gets a request, and all
//! of them now and then, so that rows can be handed out in order. Else every engine says before which time it has nothing
//! to tell, and is let pass up to that time only: idle engines cost nothing, and busy ones run many steps at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use super::disagg::Moves;
use super::engine::{HORIZON, too_long};
use super::flow::Flow;
use super::gateway::{Gateway, PoolKind};
use super::harvest::{self, Harvest};
use super::itl::Gaps;
use super::load::Demand;
use super::node::{Engine, Env, Node, Out};
use super::router::Load;
use super::tiers::Shared;
use super::{SimError, Sink, Summary};
use crate::pools::{Role, Site};
use crate::scenario::Scenario;
use crate::units::SimTime;

/// Arrivals between two times at which rows are handed out, at least.
const ARRIVALS_PER_FLUSH: usize = 1024;
/// Rows that are handed out at once, at least, where it costs nothing to know them.
const ROWS_PER_FLUSH: usize = 64;

/// See the head of the file.
pub(super) struct Cluster<'a> {
    pub demand: &'a Demand<'a>,
    pub sites: &'a [Site],
    pub envs: Vec<Env<'a>>,
    pub engines: Vec<Engine>,
    /// Pool of every engine.
    pub site_of: Vec<u32>,
    pub gateway: Gateway,
    pub flow: Flow,
    pub moves: Moves,
    pub out: Out,
    pub harvest: Harvest<'a>,
    /// What engines report is listened to.
    pub listens: bool,
    /// (time, engine, version): when engines may have something to report; void where the version is another.
    wakes: BinaryHeap<Reverse<(SimTime, u32, u32)>>,
    versions: Vec<u32>,
    /// Engines to which something happened at this instant.
    touched: Vec<u32>,
    is_touched: Vec<bool>,
    arrived: usize,
    /// By pool: tiers that its engines share.
    shared: Vec<Shared>,
    /// Some do: engines take turns.
    turns: bool,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(
        scenario: &Scenario,
        sites: &'a [Site],
        kinds: &[PoolKind],
        envs: Vec<Env<'a>>,
        (engines, shared): (Vec<Engine>, Vec<Shared>),
        gateway: Gateway,
        sink: &'a mut dyn Sink,
    ) -> Cluster<'a> {
        let demand = envs[0].demand;
        let flow = Flow::new(demand);
        let parts = sites.iter().any(|site| site.role != Role::Mixed);
        let listens = gateway.listens() || flow.reacts() || parts || sink.wants_routes();
        let turns = shared.iter().any(|shared| !shared.is_empty());
        let count = engines.len();
        let number = |(at, site): (usize, &Site)| vec![at as u32; site.engines() as usize];
        Cluster {
            demand,
            sites,
            envs,
            site_of: sites.iter().enumerate().flat_map(number).collect(),
            gateway,
            flow,
            moves: Moves::new(scenario, sites, count),
            out: Out {
                rows: Vec::new(),
                steps: Vec::new(),
                gaps: Gaps::new(),
                prompts: Vec::new(),
                progress: Vec::new(),
            },
            harvest: Harvest::new(sink, kinds, count),
            engines,
            listens: listens || turns,
            shared,
            turns,
            wakes: BinaryHeap::new(),
            versions: vec![0; count],
            touched: Vec::new(),
            is_touched: vec![false; count],
            arrived: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Summary, SimError> {
        let horizon = self.demand.horizon;
        while let Some(now) = self.next_time().filter(|now| *now <= horizon) {
            if self.envs[0].stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if now > HORIZON {
                return Err(too_long());
            }
            self.instant(now)?;
        }
        self.advance_all(horizon)?;
        self.finish(horizon)
    }

    /// The next time at which a request is sent, a transfer changes, or an engine may have something to report.
    fn next_time(&mut self) -> Option<SimTime> {
        while let Some(Reverse((_, engine, version))) = self.wakes.peek()
            && self.versions[*engine as usize] != *version
        {
            self.wakes.pop();
        }
        let wake = self.wakes.peek().map(|Reverse((at, ..))| *at);
        let sent = self.flow.next(self.demand).filter(|at| *at < self.demand.horizon);
        wake.into_iter().chain(sent).chain(self.moves.links.next()).min()
    }

    fn instant(&mut self, now: SimTime) -> Result<(), SimError> {
        self.look(now, false)?;
        let mut woken = Vec::new();
        while let Some(Reverse((at, engine, version))) =
            self.wakes.peek().copied().filter(|Reverse((at, ..))| *at <= now)
        {
            self.wakes.pop();
            debug_assert!(at == now, "an engine woke too late");
            if self.versions[engine as usize] == version {
                match self.turns {
                    true => woken.push(engine),
                    false => self.advance(engine, now)?,
                }
            }
        }
        // What was before now comes before what ends now.
        woken.sort_by_key(|engine| (self.engines[*engine as usize].ends_at(now), *engine));
        woken.into_iter().try_for_each(|engine| self.advance(engine, now))?;
        self.hear(now)?;
        self.move_caches(now)?;
        self.look(now, true)?;
        if now < self.demand.horizon {
            loop {
                let encoded = self.moves.encoded.first().copied();
                let Some(place) = self.flow.take(now, encoded.unwrap_or(u32::MAX), self.demand) else {
                    let Some(place) = self.moves.encoded.pop_first() else { break };
                    self.route(place, now)?;
                    continue;
                };
                self.arrive(place, now)?;
                self.arrived += 1;
                self.hand_out(now)?;
            }
        }
        self.set_wakes(now);
        Ok(())
    }

    /// Rows of what is over, now and then. Where engines are listened to, all that was before now is known already, and
    /// rows leave while they are still at hand; but not those of steps.
    fn hand_out(&mut self, now: SimTime) -> Result<(), SimError> {
        let told = self.listens && !self.envs[0].wants_steps;
        if told && self.out.rows.len() >= ROWS_PER_FLUSH {
            self.harvest.flush(now, &mut self.out);
        }
        if !told && self.arrived.is_multiple_of(ARRIVALS_PER_FLUSH.max(4 * self.engines.len())) {
            self.advance_all(now)?;
            self.hear(now)?;
            self.harvest.flush(now, &mut self.out);
        }
        Ok(())
    }

    /// Lets an engine pass up to now.
    pub(super) fn advance(&mut self, engine: u32, now: SimTime) -> Result<(), SimError> {
        let site = self.site_of[engine as usize] as usize;
        let node = &mut self.engines[engine as usize];
        node.lend(&mut self.shared[site]);
        node.advance(now, &self.envs[site], &mut self.out)?;
        node.lend(&mut self.shared[site]);
        self.touch(engine);
        Ok(())
    }

    fn advance_all(&mut self, now: SimTime) -> Result<(), SimError> {
        (0..self.engines.len() as u32).try_for_each(|engine| self.advance(engine, now))
    }

    /// Something happened to an engine: when it has something to report is asked again.
    pub(super) fn touch(&mut self, engine: u32) {
        if self.listens && !std::mem::replace(&mut self.is_touched[engine as usize], true) {
            self.touched.push(engine);
        }
    }

    fn set_wakes(&mut self, now: SimTime) {
        for engine in self.touched.drain(..) {
            let at = engine as usize;
            self.is_touched[at] = false;
            self.versions[at] = self.versions[at].wrapping_add(1);
            let wake = self.engines[at].wake(&self.envs[self.site_of[at] as usize]);
            if wake < SimTime::MAX {
                // One that was not let pass up to now had nothing to report by now.
                self.wakes.push(Reverse((wake.max(SimTime(now.0 + 1)), engine, self.versions[at])));
            }
        }
    }

    /// Looks at engines that are due up to a time, and lets routers know what is old enough.
    fn look(&mut self, until: SimTime, included: bool) -> Result<(), SimError> {
        for at in self.gateway.looks_until(until, included) {
            let mut seen = Vec::new();
            for set in 0..self.gateway.sets.len() {
                self.look_at(set, at, |set, candidate, load, changes| seen.push((set, candidate, load, changes)))?;
            }
            self.gateway.keep(at, seen);
        }
        if included {
            self.gateway.show(until);
        }
        Ok(())
    }

    /// What a set of candidates is like now, as far as it may have changed.
    fn look_at(
        &mut self,
        set: usize,
        at: SimTime,
        mut see: impl FnMut(usize, usize, Load, Vec<(u64, u32)>),
    ) -> Result<(), SimError> {
        for candidate in self.gateway.busy(set) {
            let engine = self.gateway.engine(set, candidate as usize);
            self.advance(engine, at)?;
            let engine = &mut self.engines[engine as usize];
            let mut changes = Vec::new();
            if let Some(replica) = engine.batch() {
                replica.pool.changes(&mut changes);
            }
            see(set, candidate as usize, engine.load(), changes);
            if engine.is_empty() {
                self.gateway.note_idle(set, candidate);
            }
        }
        Ok(())
    }

    /// Before a set decides: what it goes by is up to date.
    pub(super) fn look_now(&mut self, set: usize, now: SimTime) -> Result<(), SimError> {
        if !self.gateway.looks_now(set) {
            return Ok(());
        }
        let mut seen = Vec::new();
        self.look_at(set, now, |_, candidate, load, changes| seen.push((candidate, load, changes)))?;
        for (candidate, load, changes) in seen {
            let set = &mut self.gateway.sets[set];
            set.picker.see(candidate, load);
            set.picker.cached(candidate, &changes);
        }
        Ok(())
    }

    /// What engines have reported.
    pub(super) fn hear(&mut self, now: SimTime) -> Result<(), SimError> {
        if !self.listens {
            return Ok(());
        }
        for (engine, request, tokens) in self.out.progress.drain(..) {
            self.gateway.progress(engine, request, tokens);
        }
        let prompts = std::mem::take(&mut self.out.prompts);
        for (engine, request) in &prompts {
            self.gateway.prompt_done(*engine, *request);
            self.harvest.prompt_done(*engine, *request);
        }
        self.out.prompts = prompts;
        self.out.prompts.clear();
        let mut heard = self.out.rows.split_off(self.harvest.heard);
        // What fails first is what others are not sent for.
        heard.sort_by_key(harvest::place);
        for (at, engine, row) in heard {
            assert!(at == now || at.0 + 1 == now.0 || now == self.demand.horizon, "{row:?} is heard of at {now:?}");
            self.part_ended(at, engine, row);
        }
        self.harvest.heard = self.out.rows.len();
        Ok(())
    }

    /// The end of the simulation: a row for everything that is still here.
    fn finish(mut self, horizon: SimTime) -> Result<Summary, SimError> {
        self.hear(horizon)?;
        for engine in 0..self.engines.len() {
            let site = self.site_of[engine] as usize;
            self.engines[engine].lend(&mut self.shared[site]);
            self.engines[engine].close(horizon, &self.envs[site], &mut self.out);
            self.engines[engine].lend(&mut self.shared[site]);
        }
        self.hear(horizon)?;
        self.close_trips(horizon);
        let open = self.demand.count() as u64 - self.harvest.sent;
        assert!(horizon < SimTime::MAX || open == 0, "{open} requests were never sent");
        let mut pools: Vec<Summary> = vec![Summary::default(); self.sites.len()];
        // The first of a pool tells of what they share.
        for (site, shared) in self.sites.iter().zip(&mut self.shared) {
            self.engines[site.first as usize].lend(shared);
        }
        for (engine, site) in self.engines.iter().zip(&self.site_of) {
            engine.add_to(&mut pools[*site as usize]);
        }
        // What ends later counts nowhere.
        self.out.steps.retain(|(end, _)| *end <= horizon);
        self.harvest.flush(SimTime::MAX, &mut self.out);
        Ok(self.harvest.totals(pools, self.demand.out_of_order, self.out.gaps))
    }
}
