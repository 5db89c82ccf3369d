//! Pipeline-parallel micro-batches: with `pp` stages, up to `pp` batches are in flight.
//!
//! | rule | source | test ([`timelines`](super)`/lanes.rs`) |
//! |---|---|---|
//! | While fewer than `pp` batches are in flight, the next one is formed | Vidur 7d47513, `base_replica_scheduler.py`, `on_schedule`; Orca (OSDI 2022), Algorithm 1, lines 3 to 10; vLLM 0.11, `core.py`, `step_with_batch_queue` | `two_batches_take_turns` |
//! | of the requests that are in none of them | the same; vLLM forms it of those whose next token can be computed, see [`VllmV1`](super::scheduler::VllmV1) | `a_prompt_waits_for_its_chunk` |
//! | when a batch ends; and, but for vLLM's V1 scheduler, which waits for that, when a request reaches the queue | Vidur `ReplicaScheduleEvent`, which arrivals and ends of batches call for; vLLM waits for the first batch once nothing more can be formed | `who_comes_is_served_beside_the_batch_in_flight` |
//! | A batch passes the stages in order; each holds one batch at a time, first come, first served | Vidur `ReplicaStageScheduler` | `a_long_batch_holds_up_the_short_one_behind_it` |
//! | Tokens come out when it leaves the last stage | Vidur `BatchEndEvent` | `two_batches_take_turns` |
//! | Of a batch alone, the stages take what a step takes with one batch at a time: each the same time, in whole ticks, and the last one what is left | layers are cut into equal stages | `a_batch_alone_takes_as_long_as_a_step` |
//! | Clients that went are noticed when a batch ends, or nothing is in flight | vLLM looks at aborts between two batches | `clients_that_go_are_noticed_when_a_batch_ends` |
//!
//! A [`Lane`] is what the machinery keeps of the requests of one batch: their sums, their count of steps, their log of gaps.
//! That of the requests that are in no batch is the replica's own, as with one batch at a time; a batch takes it along, and
//! leaves an empty one. When it ends, its lane is the replica's own again, and who was in none joins it. So a batch costs what a
//! step costs, and only requests that change lanes are touched one by one: those that a batch leaves out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem::swap;

use super::SimError;
use super::batch::Forming;
use super::forming::Former;
use super::log::StepLog;
use super::node::{Env, Out, Work};
use super::replica::{Flight, Live, Now, Phase, Replica};
use super::scheduler::{QueueOrder, Scheduler};
use super::spread::Spread;
use crate::pools::{Role, Site};
use crate::scenario::Deployment;
use crate::units::{SimDuration, SimTime};

/// Batches that an engine of such a deployment has in flight at most.
pub(super) fn batches(d: &Deployment, role: Role) -> u32 {
    if knows(d) && hindrances(d, role).is_empty() { d.pp.max(1) } else { 1 }
}

/// The scheduler is simulated with several batches in flight.
fn knows(d: &Deployment) -> bool {
    match &d.scheduler {
        Scheduler::VllmV1(_)
        | Scheduler::VllmV0(_)
        | Scheduler::Sarathi(_)
        | Scheduler::Orca(_)
        | Scheduler::FasterTransformer(_) => true,
        Scheduler::Lightllm(_) | Scheduler::Sglang(_) | Scheduler::Trtllm(_) | Scheduler::Exclusive(_) => false,
    }
}

/// With what it is simulated with one batch at a time, whatever `pp`.
fn hindrances(d: &Deployment, role: Role) -> Vec<&'static str> {
    let common = d.scheduler.common();
    let fair = common.is_some_and(|common| common.policy == QueueOrder::Fair);
    let ahead = common.is_some_and(|common| common.async_scheduling);
    let all = [
        (role != Role::Mixed, "pools of a role"),
        (d.speculative.is_some(), "speculative"),
        (d.lora.is_some(), "lora"),
        (d.encoder.is_some(), "encoder"),
        (!d.kv.tiers.is_empty(), "kv.tiers"),
        (fair, "scheduling_policy fair"),
        (ahead, "async_scheduling"),
    ];
    all.into_iter().filter(|(there, _)| *there).map(|(_, name)| name).collect()
}

/// What a user would want to know of `pp`.
pub(crate) fn told(site: &Site) -> Option<(&'static str, String)> {
    let d = &site.deployment;
    let names = hindrances(d, site.role);
    let hindered = d.pp > 1 && knows(d) && !names.is_empty();
    hindered.then(|| {
        let message = format!(
            "one batch at a time passes the {} stages, not one per stage: with {} no more than that is simulated",
            d.pp,
            names.join(", ")
        );
        ("deployment.pp", message)
    })
}

/// See the head of the file.
pub(super) struct Lane {
    running: Vec<u32>,
    prefills: Vec<u32>,
    steps: u64,
    handed: u64,
    decodes: u64,
    context: u64,
    fresh: Vec<u32>,
    decoded_at: SimTime,
    flights: VecDeque<Flight>,
    class_counts: Vec<u64>,
    class_lists: Vec<Vec<u32>>,
    finishes: BinaryHeap<Reverse<(u64, u64, u32)>>,
    spread: Spread,
    log: StepLog,
    former: Former,
}

impl Lane {
    fn end(&self) -> SimTime {
        self.flights.front().map_or(SimTime::MAX, |flight| flight.end)
    }
}

/// The lanes of a replica but its own.
pub(super) struct Lanes {
    /// Batches in flight at most.
    most: usize,
    /// A batch is formed when a request reaches the queue, too.
    at_arrivals: bool,
    /// The next chunk of a prompt may be in a batch while one before it is in flight.
    chunks_follow: bool,
    quantum_ns: i64,
    /// Batches in flight, in the order in which they were formed, and so in that of their ends.
    flying: VecDeque<Lane>,
    /// Requests that the batch being formed leaves out, all together.
    apart: Option<Lane>,
    spare: Vec<Lane>,
    /// When every stage is free.
    free: Vec<SimTime>,
    /// End of the batch that was formed last.
    last_end: SimTime,
    /// Requests that the batch being formed leaves out, one by one.
    left: Vec<u32>,
    /// A batch has just ended.
    ended: bool,
}

impl Lanes {
    /// A batch enters the first stage, or waits for it; when it leaves the last one.
    fn pass(&mut self, start: SimTime, duration: SimDuration) -> SimTime {
        let stages = self.free.len() as i64;
        let each = duration.0 / self.quantum_ns / stages * self.quantum_ns;
        let mut at = start;
        for (stage, free) in self.free.iter_mut().enumerate() {
            let last = stage as i64 + 1 == stages;
            at = at.max(*free) + SimDuration(if last { duration.0 - each * (stages - 1) } else { each });
            *free = at;
        }
        at
    }

    /// The lane of those that the batch being formed leaves out, or an empty one.
    fn unused(&mut self) -> Lane {
        let lane = self.apart.take().or_else(|| self.spare.pop());
        lane.unwrap_or_else(|| unreachable!("there are more lanes than batches"))
    }

    fn all(&self) -> impl Iterator<Item = &Lane> {
        self.flying.iter().chain(&self.apart).chain(&self.spare)
    }
}

impl Replica {
    pub(super) fn give_lanes(&mut self, batches: u32, d: &Deployment) {
        if batches < 2 {
            return;
        }
        let lane = || Lane {
            running: Vec::new(),
            prefills: Vec::new(),
            steps: 0,
            handed: 0,
            decodes: 0,
            context: 0,
            fresh: Vec::new(),
            decoded_at: SimTime::ZERO,
            flights: VecDeque::new(),
            class_counts: self.class_counts.clone(),
            class_lists: self.class_lists.clone(),
            finishes: BinaryHeap::new(),
            spread: self.spread,
            log: StepLog::default(),
            former: Former::new(&d.scheduler),
        };
        let spare = (0..=batches).map(|_| lane()).collect();
        self.lanes = Some(Box::new(Lanes {
            most: batches as usize,
            at_arrivals: !matches!(d.scheduler, Scheduler::VllmV1(_)),
            chunks_follow: matches!(d.scheduler, Scheduler::VllmV1(_)),
            quantum_ns: d.tick.map_or(1, |tick| tick.duration().0),
            flying: VecDeque::new(),
            apart: None,
            spare,
            free: vec![SimTime::ZERO; batches as usize],
            last_end: SimTime::ZERO,
            left: Vec::new(),
            ended: false,
        }));
    }

    /// Makes a lane the replica's own, and the other way round; but for what the scheduler remembers, which it has while it
    /// works.
    fn swap(&mut self, lane: &mut Lane) {
        swap(&mut self.running, &mut lane.running);
        swap(&mut self.prefills, &mut lane.prefills);
        swap(&mut self.steps, &mut lane.steps);
        swap(&mut self.handed, &mut lane.handed);
        swap(&mut self.decodes, &mut lane.decodes);
        swap(&mut self.context, &mut lane.context);
        swap(&mut self.fresh, &mut lane.fresh);
        swap(&mut self.decoded_at, &mut lane.decoded_at);
        swap(&mut self.flights, &mut lane.flights);
        swap(&mut self.class_counts, &mut lane.class_counts);
        swap(&mut self.class_lists, &mut lane.class_lists);
        swap(&mut self.finishes, &mut lane.finishes);
        swap(&mut self.spread, &mut lane.spread);
        swap(&mut self.log, &mut lane.log);
    }

    fn the_lanes(&mut self) -> &mut Lanes {
        self.lanes.as_mut().unwrap_or_else(|| unreachable!("one batch at a time"))
    }

    /// Requests that run, in any lane.
    #[inline]
    pub(super) fn seated(&self) -> usize {
        let elsewhere = |lanes: &Lanes| lanes.all().map(|lane| lane.running.len()).sum();
        self.running.len() + self.lanes.as_deref().map_or(0, elsewhere)
    }

    /// Requests of a batch at most, of so many that may run: with several in flight each has an equal part.
    pub(super) fn share_of(&self, seats: u32) -> usize {
        let share = |lanes: &Lanes| (seats as usize / lanes.most).max(1);
        self.lanes.as_deref().map_or(usize::MAX, share)
    }

    /// Nothing is in flight.
    #[inline]
    pub(super) fn rests(&self) -> bool {
        self.flights.is_empty() && self.lanes.as_deref().is_none_or(|lanes| lanes.flying.is_empty())
    }

    /// When the first of several batches in flight ends.
    pub(super) fn next_end(&self) -> Option<SimTime> {
        self.lanes.as_deref().and_then(|lanes| lanes.flying.front()).map(Lane::end)
    }

    /// See [`Replica::advance`](super::node::Node::advance).
    pub(super) fn pass_in_lanes(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        loop {
            if !self.due {
                if let Some(end) = self.next_end() {
                    let comes = self.next_to_join();
                    if comes < end {
                        if comes >= limit {
                            return Ok(());
                        }
                        self.clock = self.clock.max(comes);
                    } else if end <= limit {
                        self.end_batch(env, out);
                    } else {
                        return Ok(());
                    }
                }
                self.due = true;
            }
            if self.clock >= limit {
                return Ok(());
            }
            let between = self.rests() || self.the_lanes().ended;
            self.settle(self.clock, between, env, out);
            match self.what_now(limit, env)? {
                Now::Nothing => return Ok(()),
                Now::Later => continue,
                Now::Form => {}
            }
            self.due = false;
            self.the_lanes().ended = false;
            while self.the_lanes().flying.len() < self.the_lanes().most {
                if !self.begin(env, out)? {
                    break;
                }
            }
        }
    }

    /// When a request comes for which a batch may be formed beside those in flight.
    fn next_to_join(&mut self) -> SimTime {
        let lanes = self.the_lanes();
        if !lanes.at_arrivals || lanes.flying.len() >= lanes.most {
            return SimTime::MAX;
        }
        self.pending.peek().map_or(SimTime::MAX, |Reverse((at, ..))| *at)
    }

    /// The first of the batches in flight ends; who was in none joins its lane.
    fn end_batch(&mut self, env: &Env<'_>, out: &mut Out) {
        let lanes = self.the_lanes();
        lanes.ended = true;
        let Some(mut lane) = lanes.flying.pop_front() else { return };
        // Those that came meanwhile have waited beside those that it completes.
        self.settle(SimTime(lane.end().0 - 1), false, env, out);
        self.exchange(&mut lane);
        self.hand_out(env, out);
        if lane.running.len() > self.running.len() {
            self.exchange(&mut lane);
        }
        if !lane.running.is_empty() {
            let slots = lane.running.clone();
            self.swap(&mut lane);
            self.move_to(&slots, &mut lane, env);
            self.swap(&mut lane);
        }
        self.the_lanes().spare.push(lane);
    }

    /// [`Self::swap`], and what the scheduler remembers too.
    fn exchange(&mut self, lane: &mut Lane) {
        self.swap(lane);
        swap(&mut self.former, &mut lane.former);
    }

    /// The batch being formed has none of the requests that are in no batch now.
    pub(super) fn set_apart(&mut self) {
        let lanes = self.the_lanes();
        assert!(lanes.apart.is_none(), "requests were left behind");
        let Some(mut lane) = lanes.spare.pop() else { unreachable!("there are more lanes than batches") };
        self.swap(&mut lane);
        self.the_lanes().apart = Some(lane);
    }

    /// It may have them after all.
    pub(super) fn take_in(&mut self) {
        if let Some(mut lane) = self.the_lanes().apart.take() {
            self.swap(&mut lane);
            self.the_lanes().spare.push(lane);
        }
    }

    /// The batch being formed leaves a request out.
    pub(super) fn leave_out(&mut self, slot: u32) {
        self.the_lanes().left.push(slot);
    }

    /// Whether a batch without tokens is none: others are in flight, so something will change.
    pub(super) fn nothing_to_send(&mut self, f: &Forming) -> bool {
        let copies = f.more > SimDuration::ZERO;
        let nothing = !copies && self.next.chunks.is_empty() && !self.rests();
        if nothing {
            self.the_lanes().left.clear();
        }
        nothing
    }

    /// The batch that was formed sets out for the stages; those that it leaves out are the replica's own.
    pub(super) fn send(&mut self, f: &Forming, duration: SimDuration, env: &Env<'_>, out: &mut Out) {
        let start = self.clock;
        let left = std::mem::take(&mut self.the_lanes().left);
        self.move_apart(&left, env);
        let lanes = self.the_lanes();
        let end = lanes.pass(start, duration);
        // Of several in flight at a time, every moment counts once.
        let alone = end - start.max(std::mem::replace(&mut lanes.last_end, end));
        if env.wants_steps {
            out.steps.push((end, self.step_row(start, end - start, &f.shape, f.preempted)));
        }
        let gap = end - self.decoded_at;
        self.steps += 1;
        self.context += f.shape.decode_requests;
        self.log.push(gap.0);
        let buffer = self.spare.pop().unwrap_or_default();
        let mut flight = std::mem::replace(&mut self.next, buffer);
        (flight.number, flight.end, flight.duration) = (self.steps, end, alone);
        (flight.pause, flight.before) = (false, SimDuration(gap.0 - alone.0));
        (flight.shape, flight.regular) = (f.shape, f.regular);
        self.advance_prompts(&flight, env);
        self.flights.push_back(flight);
        if self.log.is_long() {
            self.trim_log();
        }
        if self.the_lanes().chunks_follow {
            let prompts = self.prefills.clone();
            self.move_apart(&prompts, env);
        }
        let mut lane = self.the_lanes().unused();
        self.exchange(&mut lane);
        self.the_lanes().flying.push_back(lane);
    }

    fn move_apart(&mut self, slots: &[u32], env: &Env<'_>) {
        if !slots.is_empty() {
            let mut lane = self.the_lanes().unused();
            self.move_to(slots, &mut lane, env);
            self.the_lanes().apart = Some(lane);
        }
    }

    /// The batch in flight that has the request which goes when blocks are missing, if one has.
    pub(super) fn lane_of_victim(&self, env: &Env<'_>) -> Option<usize> {
        let lanes = self.lanes.as_deref()?;
        let rank = |slot: u32| match self.common.policy {
            QueueOrder::Priority => (Some(self.key(slot, env)), 0),
            _ => (None, self.live[slot as usize].seq),
        };
        let last = |running: &[u32]| running.iter().map(|slot| rank(*slot)).max();
        let own = last(&self.running);
        let flying = lanes.flying.iter().enumerate().map(|(at, lane)| (last(&lane.running), Some(at)));
        flying.chain([(own, None)]).max()?.1
    }

    /// The one of this batch in flight loses its blocks; a token that is on its way comes out.
    pub(super) fn preempt_in(&mut self, lane: usize, f: &mut Forming, env: &Env<'_>) {
        self.swap_flying(lane);
        if let Some(at) = self.victim(env) {
            self.evict(at, f, env);
        }
        self.swap_flying(lane);
    }

    /// A batch in flight computes something of a request that waits: it lost its blocks meanwhile.
    pub(super) fn is_on_its_way(&self, slot: u32) -> bool {
        let has = |lane: &Lane| {
            let mut chunks = lane.flights.iter().flat_map(|flight| &flight.chunks);
            let mut tokens = lane.flights.iter().flat_map(|flight| flight.early.iter().chain(&flight.resumed));
            chunks.any(|chunk| chunk.slot == slot) || tokens.any(|other| *other == slot)
        };
        let lost = self.live[slot as usize].preemptions > 0;
        lost && self.lanes.as_deref().is_some_and(|lanes| lanes.flying.iter().any(has))
    }

    /// Requests of the replica's own lane go to another one that is not in flight, and are in no batch but with chunks.
    fn move_to(&mut self, slots: &[u32], lane: &mut Lane, env: &Env<'_>) {
        let mut lengths = Vec::with_capacity(slots.len());
        let decodes = self.decodes;
        for slot in slots {
            let at = self.position(*slot);
            self.running.remove(at);
            let live = &self.live[*slot as usize];
            lengths.push(self.computed(live));
            match live.phase {
                Phase::Decode => {
                    self.single_out(*slot);
                    self.leave_decode(*slot);
                }
                Phase::Prefill => self.prefills.retain(|other| other != slot),
                other => unreachable!("{other:?} is in a batch"),
            }
        }
        if self.decodes < decodes {
            let mut gone = slots.to_vec();
            gone.sort_unstable();
            self.finishes.retain(|Reverse((.., slot))| gone.binary_search(slot).is_err());
        }
        self.swap(lane);
        for (slot, computed) in slots.iter().zip(lengths) {
            let seq = self.live[*slot as usize].seq;
            let at = self.running.partition_point(|other| self.live[*other as usize].seq < seq);
            self.running.insert(at, *slot);
            let steps = self.steps;
            let live = &mut self.live[*slot as usize];
            if live.phase == Phase::Prefill {
                let at = self.prefills.partition_point(|other| self.live[*other as usize].seq < seq);
                self.prefills.insert(at, *slot);
                continue;
            }
            live.base = i64::from(computed) - steps as i64;
            live.finish = steps + u64::from(live.output - live.emitted);
            self.enter_decode(*slot, env);
            // Its next gap is its own.
            self.live[*slot as usize].fresh = true;
            self.fresh.push(*slot);
        }
        self.swap(lane);
    }

    /// The client of a request is gone, whatever lane it is in.
    pub(super) fn abort_in_lane(&mut self, slot: u32, env: &Env<'_>, out: &mut Out) {
        let flying = self.lanes.as_deref().map(|lanes| &lanes.flying);
        match flying.and_then(|flying| flying.iter().position(|lane| lane.running.contains(&slot))) {
            Some(at) => {
                self.swap_flying(at);
                self.abort(slot, env, out);
                self.swap_flying(at);
            }
            None => self.abort(slot, env, out),
        }
        // Whatever it has in batches in flight is nobody's: others may have its place.
        let flying = self.lanes.iter_mut().flat_map(|lanes| &mut lanes.flying);
        for flight in flying.flat_map(|lane| &mut lane.flights) {
            flight.chunks.retain(|chunk| chunk.slot != slot);
            flight.resumed.retain(|other| *other != slot);
            flight.early.retain(|other| *other != slot);
        }
    }

    fn swap_flying(&mut self, at: usize) {
        let Some(mut lanes) = self.lanes.take() else { return };
        self.swap(&mut lanes.flying[at]);
        self.lanes = Some(lanes);
    }

    /// The horizon: rows of those in flight.
    pub(super) fn close_lanes(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out) {
        for at in 0..self.lanes.as_deref().map_or(0, |lanes| lanes.flying.len()) {
            self.swap_flying(at);
            for slot in self.running.clone() {
                self.leave_unfinished(slot, horizon, env, out);
            }
            self.swap_flying(at);
        }
    }

    /// Steps that ended, of all lanes but the replica's own.
    pub(super) fn handed_in_lanes(&self) -> u64 {
        self.lanes.as_deref().map_or(0, |lanes| lanes.all().map(|lane| lane.handed).sum())
    }

    /// Tokens of replies that have not come out, of the requests in flight.
    pub(super) fn reply_tokens_in_lanes(&self) -> u64 {
        let left = |live: &Live, lane: &Lane| match live.work {
            Work::Whole | Work::Reply if live.exact => u64::from(live.output - live.emitted),
            Work::Whole | Work::Reply => live.finish - lane.handed,
            Work::Prompt | Work::HeldPrompt | Work::Encode => 0,
        };
        let of = |lane: &Lane| lane.running.iter().map(|slot| left(&self.live[*slot as usize], lane)).sum::<u64>();
        self.lanes.as_deref().map_or(0, |lanes| lanes.flying.iter().map(of).sum())
    }
}
