//! One replica of the fast engine: its state, and time passing.
//!
//! Decode requests are not touched while they only decode. Each stores its length relative to the count of steps
//! (`length - steps`), so all grow by one with the count; sums over them change by their number; those that need a new
//! KV block are found by the residue of their length; the next to finish by a heap over the step at which it will.
//!
//! | file | does |
//! |---|---|
//! | this one | lets time pass: what ends, what enters the queue, when the next step is formed |
//! | [`batch`](super::batch) | forms a step and books what the scheduler decides |
//! | [`ending`](super::ending) | ends a step: hands out tokens, completes requests, sends away those whose client went |
//!
//! Steps are numbered from 1 as they are formed. `steps` have been formed, `handed` have ended; they differ by the steps
//! in `flights`: none or one where the scheduler works between steps, up to two where it works ahead.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::Ordering;

use super::batch::Share;
use super::engine::{Env, HORIZON, Node, Out, too_long};
use super::kv::extents::{Extents, Held};
use super::kv::hashes::Derivation;
use super::latency::{BatchShape, DecodeForm};
use super::log::StepLog;
use super::queue::{Key, Queue};
use super::scheduler::VllmV1;
use super::timing::{Timing, not_sensible};
use super::{SimError, Status, StepRow, Summary};
use crate::scenario::KvCache;
use crate::units::{SimDuration, SimTime};

/// Most steps between two looks at the stop flag.
const STEPS_PER_POLL: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Prefill,
    Decode,
    /// Its last token comes out of a step that was formed already: it keeps its seat and blocks, and gets nothing more.
    Ending,
}

/// A request in the queue or running.
pub(super) struct Live {
    pub request: u32,
    pub phase: Phase,
    pub input: u32,
    /// Tokens it will generate here, and whether a cap says so.
    pub output: u32,
    pub capped: bool,
    /// Tokens handed out, if `exact`; else it decodes, has had a token in every step since, and `finish` tells.
    pub emitted: u32,
    pub exact: bool,
    /// Tokens that the prefill must compute: the prompt, and what was generated before a preemption.
    pub target: u32,
    /// Tokens in the cache, while prefilling.
    pub computed: u32,
    /// Tokens in the cache less the count of steps, while decoding.
    pub base: i64,
    /// Number of the step that yields the last token, while decoding.
    pub finish: u64,
    /// Order of admission.
    pub seq: u64,
    pub queued: SimTime,
    pub scheduled: Option<SimTime>,
    pub first_token: Option<SimTime>,
    /// Time of its last token, if `exact`.
    pub last_token: SimTime,
    /// Since when it runs, or waits.
    pub since: SimTime,
    /// Decoding, but without a token in the step formed last.
    pub stalled: bool,
    pub cached: u32,
    pub preemptions: u32,
    pub recomputed: u32,
    /// Most tokens it had in the cache when it was preempted.
    pub peak: u32,
    pub lost_since: Option<SimTime>,
    pub preempted: SimDuration,
    /// Its gaps between tokens up to the step `from`; those of later steps are in the log.
    pub gaps: Vec<i64>,
    pub from: u64,
    /// Blocks whose content hash the trace knows.
    pub known: u32,
    /// Blocks at its start that it should hold but does not: see [`VllmV1::recompute_full_hits`].
    pub missing: u32,
    pub held: Held,
    /// What becomes of it when its client goes.
    pub goes: Status,
    /// Told apart from others that have had its slot.
    pub generation: u32,
}

/// A step that was formed and has not ended.
#[derive(Default)]
pub(super) struct Flight {
    pub number: u64,
    pub end: SimTime,
    pub duration: SimDuration,
    pub shape: BatchShape,
    /// Decode requests of the batch that had a token in the step before, too, and are to have this one.
    pub regular: u64,
    pub chunks: Vec<Chunk>,
    /// Decode requests of the batch that had none in the step before.
    pub resumed: Vec<u32>,
    /// Decode requests of the batch whose token is handed out one by one, because they stalled or were preempted since.
    pub early: Vec<u32>,
    /// Requests in [`Phase::Ending`] that this step completes.
    pub endings: Vec<u32>,
}

/// Part of a prompt in a step.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub slot: u32,
    /// Tokens in the cache after it.
    pub upto: u32,
    /// It yields a token.
    pub completes: bool,
}

/// (time, request, slot, generation) of a client that will go.
type Abort = Reverse<(SimTime, u32, u32, u32)>;

/// See the head of the file.
pub(super) struct Replica {
    pub id: u32,
    pub rules: VllmV1,
    pub timing: Timing,
    pub block_size: u32,
    pub derivation: Derivation,
    pub caching: bool,
    /// End of the last step, or the time since when nothing was to do.
    pub clock: SimTime,
    /// A step is to be formed at `clock`.
    due: bool,
    pub steps: u64,
    pub handed: u64,
    pub flights: VecDeque<Flight>,
    /// The step that is being formed; and buffers of ended ones.
    pub next: Flight,
    pub spare: Vec<Flight>,
    /// Where a victim can be one that had its share of the step being formed: who had what.
    pub shares: Vec<Share>,
    /// On their way to the queue: (time, place in the order of arrival).
    pending: BinaryHeap<Reverse<(SimTime, u32)>>,
    /// The same for requests whose client is gone before.
    ghosts: BinaryHeap<Reverse<(SimTime, u32)>>,
    aborts: BinaryHeap<Abort>,
    pub waiting: Queue,
    /// In order of admission, whatever their phase.
    pub running: Vec<u32>,
    /// Those of `running` that still prefill, in the same order.
    pub prefills: Vec<u32>,
    pub decodes: u64,
    /// Tokens in the cache over all decode requests.
    pub context: u64,
    /// Decode requests that got no token in the step formed last.
    pub stalled: u64,
    /// Decode requests by residue: those of class `steps % block_size` have a full last block.
    pub class_counts: Vec<u64>,
    /// Those of them that fill blocks whose content the trace knows, in order of admission.
    pub class_lists: Vec<Vec<u32>>,
    /// (number of the step that yields the last token, admission, slot); an entry is void when the request says otherwise.
    pub finishes: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// The same for requests whose end the scheduler knows, where it works ahead.
    pub caps: BinaryHeap<Reverse<(u64, u64, u32)>>,
    pub live: Vec<Live>,
    pub unused: Vec<u32>,
    generation: u32,
    pub pool: Extents,
    pub next_seq: u64,
    /// The head of the queue is known not to fit until something is released.
    pub blocked: bool,
    pub log: StepLog,
    /// Scratch: (admission, slot) of requests that the ending step completes.
    pub done: Vec<(u64, u32)>,
    form: Option<(u64, Option<DecodeForm>)>,
    /// What only the replica counts; the rest stays zero.
    pub totals: Summary,
    /// Up to when the integral of the blocks in use is summed.
    kv_since: SimTime,
}

impl Replica {
    pub(super) fn new(
        id: u32,
        blocks: u64,
        rules: &VllmV1,
        kv: &KvCache,
        derivation: Derivation,
        env: &Env<'_>,
    ) -> Replica {
        let classes = kv.block_size as usize;
        Replica {
            id,
            rules: rules.clone(),
            timing: Timing::new(rules, env.tick),
            block_size: kv.block_size,
            derivation,
            caching: kv.enable_prefix_caching,
            clock: SimTime::ZERO,
            due: true,
            steps: 0,
            handed: 0,
            flights: VecDeque::new(),
            next: Flight::default(),
            spare: Vec::new(),
            shares: Vec::new(),
            pending: BinaryHeap::new(),
            ghosts: BinaryHeap::new(),
            aborts: BinaryHeap::new(),
            waiting: Queue::new(rules.scheduling_policy),
            running: Vec::new(),
            prefills: Vec::new(),
            decodes: 0,
            context: 0,
            stalled: 0,
            class_counts: vec![0; classes],
            class_lists: if derivation == Derivation::None { Vec::new() } else { vec![Vec::new(); classes] },
            finishes: BinaryHeap::new(),
            caps: BinaryHeap::new(),
            live: Vec::new(),
            unused: Vec::new(),
            generation: 0,
            pool: Extents::new(blocks),
            next_seq: 0,
            blocked: false,
            log: StepLog::default(),
            done: Vec::new(),
            form: None,
            totals: Summary::default(),
            kv_since: SimTime::ZERO,
        }
    }

    /// Steps that may be formed and not ended.
    fn depth(&self) -> usize {
        if self.rules.async_scheduling { 2 } else { 1 }
    }

    fn pass(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        loop {
            if !self.due {
                match self.flights.front() {
                    Some(flight) if flight.end <= limit => self.hand_out(env, out),
                    Some(_) => return Ok(()),
                    None => {}
                }
                self.due = true;
            }
            // What arrives at `limit` comes before the queue and the clients of that time are looked at.
            if self.clock >= limit {
                return Ok(());
            }
            self.settle(self.clock, true, env, out);
            if self.flights.is_empty() && self.running.is_empty() && self.waiting.is_empty() {
                match self.pending.peek() {
                    Some(Reverse((at, _))) if *at < limit => self.clock = self.clock.max(*at),
                    Some(_) | None => return Ok(()),
                }
                continue;
            }
            if env.stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if self.clock > HORIZON {
                return Err(too_long());
            }
            if self.decode_run(limit, env, out)? == 0 {
                self.due = false;
                while self.flights.len() < self.depth() {
                    if !self.begin(env, out)? {
                        break;
                    }
                }
            }
        }
    }

    /// Everything between steps but their forming: who enters the queue, and, if `between` steps, whose client is gone.
    pub(super) fn settle(&mut self, now: SimTime, between: bool, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((at, place))) = self.pending.peek().copied() {
            if at > now {
                break;
            }
            self.pending.pop();
            self.enqueue(place, at, env);
        }
        self.totals.waiting_max = self.totals.waiting_max.max(self.waiting.len() as u64);
        if !between || self.aborts.peek().is_none_or(|Reverse((at, ..))| *at > now) {
            return;
        }
        let mut gone = Vec::new();
        while let Some(top) = self.aborts.peek_mut() {
            if top.0.0 > now {
                break;
            }
            let Reverse((_, request, slot, generation)) = PeekMut::pop(top);
            if self.live[slot as usize].generation == generation {
                gone.push((request, slot));
            }
        }
        gone.sort_unstable();
        gone.into_iter().for_each(|(_, slot)| self.abort(slot, env, out));
    }

    fn enqueue(&mut self, place: u32, at: SimTime, env: &Env<'_>) {
        let request = env.demand.nth(place as usize);
        let input = env.requests.input_tokens[request as usize];
        let abort = env.demand.abort(place as usize);
        let (output, capped) = env.demand.output(request, env.max_len);
        self.generation = self.generation.wrapping_add(1);
        let live = Live {
            request,
            phase: Phase::Waiting,
            input,
            output,
            capped,
            emitted: 0,
            exact: true,
            target: input,
            computed: 0,
            base: 0,
            finish: 0,
            seq: 0,
            queued: at,
            scheduled: None,
            first_token: None,
            last_token: SimTime::ZERO,
            since: at,
            stalled: false,
            cached: 0,
            preemptions: 0,
            recomputed: 0,
            peak: 0,
            lost_since: None,
            preempted: SimDuration::ZERO,
            gaps: Vec::new(),
            from: 0,
            known: self.derivation.known_blocks(env.requests, request as usize, self.block_size),
            missing: 0,
            held: Held::default(),
            goes: abort.map_or(Status::Cancelled, |(_, status)| status),
            generation: self.generation,
        };
        let slot = match self.unused.pop() {
            Some(slot) => {
                let old = &mut self.live[slot as usize];
                let (mut gaps, held) = (std::mem::take(&mut old.gaps), std::mem::take(&mut old.held));
                gaps.clear();
                *old = Live { gaps, held, ..live };
                slot
            }
            None => {
                self.live.push(live);
                (self.live.len() - 1) as u32
            }
        };
        if let Some((gone, _)) = abort {
            self.aborts.push(Reverse((gone, request, slot, self.generation)));
        }
        let key = self.waiting.key(env.demand, request);
        // The head of an ordered queue may be another now.
        self.blocked &= !self.waiting.is_ordered();
        self.waiting.push(slot, key);
    }

    /// Requests whose client was gone before they would have reached the queue, at the times at which they would have.
    fn lay_ghosts(&mut self, until: impl Fn(SimTime) -> bool, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((at, place))) = self.ghosts.peek().copied().filter(|Reverse((at, _))| until(*at)) {
            self.ghosts.pop();
            let status = env.demand.abort(place as usize).map_or(Status::Cancelled, |(_, status)| status);
            out.rows.push((at, self.row_of(env.demand.nth(place as usize), status, env)));
        }
    }

    pub(super) fn key(&self, slot: u32, env: &Env<'_>) -> Key {
        self.waiting.key(env.demand, self.live[slot as usize].request)
    }

    /// Runs pure decode steps that change nothing but sums, as many as end by `limit`; returns how many.
    fn decode_run(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<u64, SimError> {
        let quiet = self.stalled == 0
            && self.decodes > 0
            && self.decodes == self.running.len() as u64
            && self.decodes <= u64::from(self.rules.max_num_batched_tokens)
            && (self.waiting.is_empty() || self.blocked)
            && !self.rules.async_scheduling;
        if !quiet {
            return Ok(0);
        }
        // The step that completes a request goes the long way.
        let next_finish = self.finishes.peek().map_or(0, |Reverse((step, _, _))| *step);
        let most = next_finish.saturating_sub(self.steps + 1).min(STEPS_PER_POLL);
        if most == 0 {
            return Ok(0);
        }
        let next_queued = self.pending.peek().map_or(SimTime::MAX, |Reverse((at, _))| *at);
        let next_gone = self.aborts.peek().map_or(SimTime::MAX, |Reverse((at, _, _, _))| *at);
        let next = next_queued.min(next_gone);
        let form = match self.form {
            Some((decodes, form)) if decodes == self.decodes => form,
            Some(_) | None => env.model.decode_form(self.decodes),
        };
        self.form = Some((self.decodes, form));
        let (clock, steps, context) = (self.clock, self.steps, self.context);
        match form {
            Some(form) => self.run_steps(most, limit, next, env, out, |context| form.at(context))?,
            None => {
                let decode_requests = self.decodes;
                self.run_steps(most, limit, next, env, out, |decode_context| {
                    env.model.step(&BatchShape { decode_requests, decode_context, ..BatchShape::default() })
                })?;
            }
        }
        let ran = self.steps - steps;
        if ran > 0 {
            self.handed = self.steps;
            self.totals.busy += self.clock - clock;
            self.totals.kv_blocks_max = self.totals.kv_blocks_max.max(self.pool.used());
            self.totals.work.add_decodes(ran, self.decodes, context);
        }
        Ok(ran)
    }

    #[inline]
    fn run_steps(
        &mut self,
        most: u64,
        limit: SimTime,
        next_event: SimTime,
        env: &Env<'_>,
        out: &mut Out,
        time: impl Fn(u64) -> SimDuration,
    ) -> Result<(), SimError> {
        let classes = self.class_counts.len();
        let knows = !self.class_lists.is_empty();
        let (timing, decodes) = (self.timing, self.decodes);
        let mut class = (self.steps % classes as u64) as usize;
        // What changes with every step, kept out of memory.
        let (mut clock, mut context) = (self.clock, self.context);
        for _ in 0..most {
            let need = self.class_counts[class];
            if need > self.pool.free() || clock >= next_event {
                break;
            }
            let duration = timing.step(time(context)).ok_or_else(not_sensible)?;
            let end = clock + duration;
            if end > limit {
                break;
            }
            let next = if class + 1 == classes { 0 } else { class + 1 };
            self.clock = clock;
            if knows && !self.class_lists[next].is_empty() {
                // A block that is filled now may be a hit for the head of the queue.
                if self.blocked {
                    self.blocked = false;
                    break;
                }
                self.take(need);
                self.fill_decodes(env);
            } else if need > 0 {
                self.take(need);
            }
            if env.wants_steps {
                let shape = BatchShape { decode_requests: decodes, decode_context: context, ..BatchShape::default() };
                out.steps.push((end, self.step_row(clock, duration, &shape, 0)));
            }
            out.gaps.add(duration.0, decodes);
            self.log.push(duration.0);
            clock = end;
            context += decodes;
            self.steps += 1;
            class = next;
        }
        (self.clock, self.context) = (clock, context);
        Ok(())
    }

    /// Blocks for the step being formed, at the present time.
    pub(super) fn take(&mut self, blocks: u64) {
        self.sum_blocks();
        self.pool.take(blocks);
    }

    /// Brings the integral of the blocks in use up to now; to be called before their number changes.
    pub(super) fn sum_blocks(&mut self) {
        let span = self.clock - self.kv_since;
        self.kv_since = self.clock;
        // Neither is negative: one multiplication of machine words.
        self.totals.kv_block_ns += (u128::from(self.pool.used()) * u128::from(span.0 as u64)) as i128;
    }

    pub(super) fn step_row(
        &self,
        start: SimTime,
        duration: SimDuration,
        shape: &BatchShape,
        preempted: u32,
    ) -> StepRow {
        StepRow {
            replica: self.id,
            start,
            duration,
            decode_requests: shape.decode_requests as u32,
            prefill_requests: shape.prefill_requests as u32,
            prefill_tokens: shape.prefill_tokens as u32,
            context_tokens: shape.decode_context + shape.prefill_context,
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            preempted,
            kv_blocks_used: self.pool.used(),
        }
    }

    /// Tokens in the cache.
    #[inline]
    pub(super) fn computed(&self, live: &Live) -> u32 {
        match live.phase {
            Phase::Decode => (live.base + self.steps as i64) as u32,
            Phase::Waiting | Phase::Prefill | Phase::Ending => live.computed,
        }
    }

    /// Tokens handed out.
    pub(super) fn emitted(&self, live: &Live) -> u32 {
        if live.exact { live.emitted } else { live.output - (live.finish - self.handed) as u32 }
    }

    /// Where the request of this admission stands in `running`.
    pub(super) fn position(&self, seq: u64) -> usize {
        self.running.partition_point(|slot| self.live[*slot as usize].seq < seq)
    }

    /// Nothing is left: every block is free again.
    fn assert_idle(&self) {
        assert!(self.outstanding() == 0 && self.flights.is_empty(), "requests were left behind");
        assert!(self.pool.used() == 0, "{} of {} KV blocks leaked", self.pool.used(), self.pool.total());
        assert!(self.decodes == 0 && self.context == 0, "sums do not return to zero");
    }
}

impl Node for Replica {
    fn push(&mut self, place: u32, at: SimTime, env: &Env<'_>) {
        let gone = env.demand.abort(place as usize).is_some_and(|(gone, _)| gone <= at);
        let way = if gone { &mut self.ghosts } else { &mut self.pending };
        way.push(Reverse((at, place)));
    }

    fn outstanding(&self) -> u64 {
        (self.pending.len() + self.ghosts.len() + self.waiting.len() + self.running.len()) as u64
    }

    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        self.lay_ghosts(|at| at < limit, env, out);
        self.pass(limit, env, out)
    }

    fn close(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out) {
        if horizon == SimTime::MAX {
            self.assert_idle();
            return;
        }
        self.lay_ghosts(|at| at <= horizon, env, out);
        if self.flights.is_empty() {
            self.clock = self.clock.max(horizon);
        }
        let between = self.flights.is_empty() || (self.due && self.clock == horizon);
        self.settle(horizon, between, env, out);
        let waiting: Vec<u32> = self.waiting.iter().collect();
        for slot in self.running.clone().into_iter().chain(waiting) {
            self.leave_unfinished(slot, horizon, env, out);
        }
        while let Some(Reverse((_, place))) = self.pending.pop().or_else(|| self.ghosts.pop()) {
            let request = env.demand.nth(place as usize);
            out.rows.push((horizon, self.row_of(request, Status::InFlight, env)));
        }
        self.clock = self.clock.max(horizon);
        self.sum_blocks();
    }

    fn add_to(&self, summary: &mut Summary) {
        summary.steps += self.handed;
        summary.add(&self.totals);
    }
}
