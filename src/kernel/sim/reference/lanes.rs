//! Several batches in flight in the oracle: a list of them, who is in one, and when each stage is free.

use std::collections::VecDeque;

use super::parts::Step;
use super::world::World;
use crate::scenario::Deployment;
use crate::sim::scheduler::Scheduler;
use crate::sim::{SimError, lanes};
use crate::units::{SimDuration, SimTime};

/// What an engine keeps of its batches in flight, where there may be several; the one that ends first is its
/// [`current`](super::parts::Machine::current) one.
pub(super) struct Line {
    pub most: usize,
    /// A batch is formed also when a request comes.
    at_arrivals: bool,
    pub behind: VecDeque<Step>,
    /// When every stage is free.
    stages: Vec<SimTime>,
    /// At this instant a batch has ended, and a request has come.
    pub ended: bool,
    pub came: bool,
    /// Up to when batches were in flight, of those that ended.
    pub busy: SimTime,
    /// FasterTransformer: the requests of every batch that is not done.
    pub batches: Vec<Vec<usize>>,
}

impl Line {
    pub(super) fn new(d: &Deployment, role: crate::pools::Role) -> Line {
        let most = lanes::batches(d, role) as usize;
        Line {
            most,
            at_arrivals: !matches!(d.scheduler, Scheduler::VllmV1(_)),
            behind: VecDeque::new(),
            stages: vec![SimTime::ZERO; most],
            ended: false,
            came: false,
            busy: SimTime::ZERO,
            batches: Vec::new(),
        }
    }
}

impl World<'_> {
    /// Batches in flight, the one that ends first in front.
    fn flying(&self, r: usize) -> impl Iterator<Item = &Step> {
        let machine = &self.replicas[r];
        machine.current.iter().chain(&machine.line.behind)
    }

    /// The request is in a batch that has not ended, of an engine that may have several.
    pub(super) fn is_in_flight(&self, r: usize, i: usize) -> bool {
        self.replicas[r].line.most > 1 && self.flying(r).any(|step| step.batch.iter().any(|part| part.life == i))
    }

    /// Running requests that the batch being formed may have, in the order of their admission.
    pub(super) fn available(&self, r: usize) -> Vec<usize> {
        self.replicas[r].running.iter().copied().filter(|i| !self.is_in_flight(r, *i)).collect()
    }

    /// Requests of one batch, where so many may run.
    pub(super) fn share(&self, r: usize, seats: u32) -> usize {
        match self.replicas[r].line.most {
            1 => usize::MAX,
            batches => (seats as usize / batches).max(1),
        }
    }

    /// Forms batches while fewer are in flight than may be, if something has happened that lets it.
    pub(super) fn fill_line(&mut self, r: usize, now: SimTime) -> Result<(), SimError> {
        let line = &mut self.replicas[r].line;
        let ended = std::mem::take(&mut line.ended);
        let came = std::mem::take(&mut line.came) && line.at_arrivals;
        if self.replicas[r].current.is_some() && !ended && !came {
            return Ok(());
        }
        while self.flying(r).count() < self.replicas[r].line.most && !self.replicas[r].idle() {
            let Some(step) = self.form(r, now)? else { return Ok(()) };
            self.seen.empty_steps += u64::from(step.batch.iter().all(|part| part.tokens == 0));
            self.send_off(r, step, now, !ended && came);
        }
        Ok(())
    }

    fn send_off(&mut self, r: usize, mut step: Step, now: SimTime, joins: bool) {
        let tick = self.replicas[r].pool.tick.map_or(1, |tick| tick.duration().0);
        let stages = self.replicas[r].line.stages.len() as i64;
        let ticks = step.row.duration.0 / tick;
        let (mut at, mut gone, mut waited) = (now, 0, false);
        for stage in 0..stages {
            // All stages but the last one have equal numbers of ticks.
            let last = step.row.duration.0 - gone;
            let time = if stage + 1 < stages { ticks / stages * tick } else { last };
            gone += time;
            let free = &mut self.replicas[r].line.stages[stage as usize];
            waited |= *free > at && stage > 0;
            at = at.max(*free) + SimDuration(time);
            *free = at;
        }
        let before = self.flying(r).count();
        if before > 0 {
            self.fire("lanes: formed while another batch is in flight");
        }
        if before > 1 {
            self.fire("lanes: three in flight");
        }
        if joins && before > 0 {
            self.fire("lanes: formed for a request that came");
        }
        if waited {
            self.fire("lanes: waits at a stage behind the first");
        }
        if self.available(r).iter().any(|i| !step.batch.iter().any(|part| part.life == *i)) {
            self.fire("lanes: a batch leaves a request out");
        }
        (step.row.start, step.row.duration) = (now, at - now);
        let machine = &mut self.replicas[r];
        match machine.current {
            None => machine.current = Some(step),
            Some(_) => machine.line.behind.push_back(step),
        }
    }
}
