//! One replica of the fast engine: its state, and time passing.
//!
//! Decode requests are not touched while they only decode. Each stores its length relative to the count of steps
//! (`length - steps`), so all grow by one with the count; sums over them change by their number; those that need a new
//! KV block are found by the residue of their length; the next to finish by a heap over the step at which it will.
//!
//! | file | does |
//! |---|---|
//! | this one | lets time pass: what ends, what enters the queue, when the next step is formed |
//! | [`live`](super::live) | what is known of a request that is here, and of a step that was formed |
//! | [`runs`](super::runs) | runs of steps of decode requests alone |
//! | [`classes`](super::classes) | decode requests by the residue of their length |
//! | [`blocks`](super::blocks) | what the cache has of a prompt, and blocks that are taken, filled and given back |
//! | [`batch`](super::batch) | forms a step and books what the scheduler decides; [`forming`](super::forming): one file a scheduler |
//! | [`ending`](super::ending) | ends a step: hands out tokens, completes requests, sends away those whose client went |
//! | [`foresight`](super::foresight) | before which time there is nothing to report |
//! | [`moving`](super::moving) | KV caches that go to another engine, or come from one |
//!
//! Steps are numbered from 1 as they are formed. `steps` have been formed, `handed` have ended; they differ by the steps
//! in `flights`: none or one where the scheduler works between steps, up to two where it works ahead. A step in which
//! decode requests wait for prompts to be computed (a *pause*: where a scheduler does either, not both) has no number: to
//! those that wait it is a part of the step after it. A request whose first token came out of one is *fresh*, and counted by
//! itself, until it has its next.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::Ordering;

use super::batch::Share;
use super::engine::{HORIZON, too_long};
use super::fair::INPUT_WEIGHT;
use super::forming::Former;
use super::jitter::Jitter;
use super::kv::extents::Extents;
use super::kv::hashes::Derivation;
use super::lanes::Lanes;
use super::latency::{BatchShape, DecodeForm};
pub(super) use super::live::{Chunk, Flight, Live, Phase, Written};
use super::log::StepLog;
use super::lora::{Adapters, NO_ADAPTER};
use super::node::{Env, Node, Out, Work};
use super::queue::{Key, Queue};
use super::router::Load;
use super::samples::Parents;
use super::scheduler::{Common, QueueOrder, Samples, Scheduler};
use super::spread::Spread;
use super::tiers::{TierFacts, Tiers};
use super::timing::Timing;
use super::verify::Speculating;
use super::work::Tally;
use super::{SimError, Status, StepRow, Summary};
use crate::scenario::Deployment;
use crate::units::{SimDuration, SimTime};

/// (time, request, slot, generation) of a client that will go.
type Abort = Reverse<(SimTime, u32, u32, u32)>;

/// What an engine has to do at a time.
pub(super) enum Now {
    /// Nothing before the limit.
    Nothing,
    /// It is a later time now: that at which something comes.
    Later,
    /// Form a step.
    Form,
}

/// See the head of the file. What every step looks at comes first: of a thousand replicas none is at hand when its turn
/// comes.
#[repr(C)]
pub(super) struct Replica {
    /// End of the last step, or the time since when nothing was to do.
    pub clock: SimTime,
    /// A step is to be formed at `clock`.
    pub due: bool,
    /// Nothing runs, and what waits gets no blocks until something changes.
    pub asleep: bool,
    /// The head of the queue is known not to fit until something is released.
    pub blocked: bool,
    pub steps: u64,
    pub handed: u64,
    /// Sequences that decode: one of a request, but of several samples in a group, or beams.
    pub decodes: u64,
    /// Of these, sequences beyond the first of a request, and those whose tokens nobody is told of; blocks that requests take
    /// for copies of a last block that their sequences share.
    pub beside: u64,
    pub silent: u64,
    pub forking: u64,
    /// Tokens in the cache over all decode requests.
    pub context: u64,
    /// Decode requests that got no token in the step formed last.
    pub stalled: u64,
    /// Pauses since the last step that was no pause, and whose last token came out of one.
    pub paused: SimDuration,
    pub fresh: Vec<u32>,
    /// End of the last step that was no pause, and pauses that have ended.
    pub decoded_at: SimTime,
    pub pauses: u64,
    pub timing: Timing,
    /// No step with tokens takes less.
    pub shortest: SimDuration,
    pub block_size: u32,
    /// Blocks that a request holds whatever its length.
    pub fixed: u32,
    /// Encoder tokens that are kept.
    pub encoded: u64,
    pub flights: VecDeque<Flight>,
    /// In order of admission, whatever their phase.
    pub running: Vec<u32>,
    /// Those of `running` that still prefill, in the same order.
    pub prefills: Vec<u32>,
    /// Decode requests by residue: those of class `steps % block_size` have a full last block.
    pub class_counts: Vec<u64>,
    /// Those of them that fill blocks whose content the trace knows, in order of admission.
    pub class_lists: Vec<Vec<u32>>,
    /// (number of the step that yields the last token, admission, slot); an entry is void when the request says otherwise.
    pub finishes: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// On their way to the queue: (time, place in the trace, what for).
    pub pending: BinaryHeap<Reverse<(SimTime, u32, Work)>>,
    /// The same for requests whose client is gone before.
    pub ghosts: BinaryHeap<Reverse<(SimTime, u32, Work)>>,
    pub aborts: BinaryHeap<Abort>,
    pub form: Option<(u64, Option<DecodeForm>)>,
    pub spread: Spread,
    /// Up to when the integral of the blocks in use is summed.
    kv_since: SimTime,
    /// What only the replica counts; the rest stays zero.
    pub totals: Tally,
    pub log: StepLog,
    pub pool: Extents,
    pub id: u32,
    pub common: Common,
    pub former: Former,
    pub derivation: Derivation,
    pub caching: bool,
    /// The step that is being formed; and buffers of ended ones.
    pub next: Flight,
    pub spare: Vec<Flight>,
    /// Where a victim can be one that had its share of the step being formed: who had what.
    pub shares: Vec<Share>,
    /// Slots of requests in [`Phase::Moving`].
    pub moving: BTreeMap<u32, u32>,
    pub waiting: Queue,
    /// Those that hold their blocks: they go before the others.
    pub loaded: Queue,
    /// Those that wait and have a place in the list of active requests, by place.
    pub fetched: BTreeMap<u64, u32>,
    /// Sum of [`Live::promise`] over decode requests.
    pub promised: u64,
    /// The same for requests whose end the scheduler knows, where it works ahead.
    pub caps: BinaryHeap<Reverse<(u64, u64, u32)>>,
    pub live: Vec<Live>,
    pub unused: Vec<u32>,
    /// Requests of several samples.
    pub parents: Parents,
    generation: u32,
    pub next_seq: u64,
    pub jitter: Option<Box<Jitter>>,
    /// Behind the prefix cache.
    pub tiers: Option<Box<Tiers>>,
    pub adapters: Option<Box<Adapters>>,
    pub speculating: Option<Box<Speculating>>,
    /// Where several batches are in flight.
    pub lanes: Option<Box<Lanes>>,
    /// Scratch: (admission, slot) of requests that the ending step completes.
    pub done: Vec<(u64, u32)>,
}

impl Replica {
    pub(super) fn new(
        id: u32,
        blocks: u64,
        (scheduler, common): (&Scheduler, Common),
        d: &Deployment,
        derivation: Derivation,
        env: &Env<'_>,
    ) -> Replica {
        let kv = &d.kv;
        let classes = kv.block_size as usize;
        let mut common = common;
        if common.samples == Samples::Group {
            // Everyone asks for so many blocks before he takes one.
            common.slack = common.slack.max(u64::from(env.demand.widest()));
        }
        let (timing, jitter) = (Timing::new(&common, env.tick), Jitter::new(env.seed, id, env.jitter_cv));
        let former = Former::new(scheduler);
        let said = former.least(env.model.shortest_step());
        let said = env.adapters.as_ref().map_or(said, |plan| plan.costs.least(said));
        let shortest = jitter.as_ref().map_or(said, |jitter| jitter.least(said));
        Replica {
            id,
            common,
            former,
            timing,
            shortest: timing.step(shortest).unwrap_or(SimDuration(1)),
            jitter,
            adapters: env.adapters.as_ref().map(|plan| Box::new(Adapters::new(plan))),
            speculating: Speculating::new(d, env),
            block_size: kv.block_size,
            fixed: env.fixed_blocks,
            encoded: 0,
            derivation,
            caching: kv.enable_prefix_caching && common.caches_prefixes,
            clock: SimTime::ZERO,
            due: true,
            asleep: false,
            steps: 0,
            handed: 0,
            flights: VecDeque::new(),
            next: Flight::default(),
            spare: Vec::new(),
            shares: Vec::new(),
            pending: BinaryHeap::new(),
            ghosts: BinaryHeap::new(),
            aborts: BinaryHeap::new(),
            moving: BTreeMap::new(),
            waiting: Queue::new(common.policy),
            loaded: Queue::new(match common.policy {
                QueueOrder::Fair => QueueOrder::Fcfs,
                // Those that come from tiers are in the order of the others.
                _ if common.joins_in_order && kv.tiers.is_empty() => QueueOrder::Fcfs,
                other => other,
            }),
            fetched: BTreeMap::new(),
            promised: 0,
            running: Vec::new(),
            prefills: Vec::new(),
            decodes: 0,
            beside: 0,
            silent: 0,
            forking: 0,
            context: 0,
            stalled: 0,
            paused: SimDuration::ZERO,
            fresh: Vec::new(),
            decoded_at: SimTime::ZERO,
            pauses: 0,
            class_counts: vec![0; classes],
            class_lists: if derivation == Derivation::None || common.fills_late {
                Vec::new()
            } else {
                vec![Vec::new(); classes]
            },
            finishes: BinaryHeap::new(),
            caps: BinaryHeap::new(),
            live: Vec::new(),
            unused: Vec::new(),
            parents: Parents::new(),
            generation: 0,
            pool: Extents::new(blocks),
            next_seq: 0,
            blocked: false,
            log: StepLog::default(),
            done: Vec::new(),
            form: None,
            spread: Spread::new(env.model.wants_spread()),
            totals: Tally::default(),
            kv_since: SimTime::ZERO,
            tiers: None,
            lanes: None,
        }
    }

    /// Gives it tiers, where there are some.
    pub(super) fn give_tiers(&mut self, tiers: &[TierFacts]) {
        if tiers.is_empty() {
            return;
        }
        let tiers = Tiers::new(tiers);
        if tiers.on_evict {
            self.pool.keep_evicted();
        }
        self.tiers = Some(Box::new(tiers));
    }

    /// Steps that may be formed and not ended.
    fn depth(&self) -> usize {
        if self.common.async_scheduling { 2 } else { 1 }
    }

    fn pass(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        if self.lanes.is_some() {
            return self.pass_in_lanes(limit, env, out);
        }
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
            match self.what_now(limit, env)? {
                Now::Nothing => return Ok(()),
                Now::Later => continue,
                Now::Form => {}
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

    /// What is to be done at this time, when all that comes before a step has been looked at.
    #[inline]
    pub(super) fn what_now(&mut self, limit: SimTime, env: &Env<'_>) -> Result<Now, SimError> {
        let nothing = self.rests() && self.running.is_empty() && self.nobody_waits();
        if nothing || self.asleep {
            let Some(at) = self.next_change().filter(|at| *at < limit) else { return Ok(Now::Nothing) };
            self.clock = self.clock.max(at);
            return Ok(Now::Later);
        }
        if env.stop.load(Ordering::Relaxed) {
            return Err(SimError::Cancelled);
        }
        if self.clock > HORIZON { Err(too_long()) } else { Ok(Now::Form) }
    }

    /// The next time at which something enters the queue, or a client goes.
    pub(super) fn next_change(&self) -> Option<SimTime> {
        let queued = self.pending.peek().map(|Reverse((at, ..))| *at);
        let patient = !self.nobody_waits() || !self.running.is_empty();
        let gone = self.aborts.peek().map(|Reverse((at, ..))| *at).filter(|_| patient);
        let comes = self.next_adapter().filter(|_| !self.nobody_waits());
        queued.into_iter().chain(gone).chain(comes).chain(self.next_fetch()).min()
    }

    /// When something that is fetched from tiers is there.
    #[inline]
    pub(super) fn next_fetch(&self) -> Option<SimTime> {
        self.tiers.as_ref().and_then(|tiers| tiers.next_fetch())
    }

    fn fetching(&self) -> usize {
        self.tiers.as_ref().map_or(0, |tiers| tiers.fetching())
    }

    /// Everything between steps but their forming: who enters the queue, and, if `between` steps, whose client is gone.
    pub(super) fn settle(&mut self, now: SimTime, between: bool, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((at, place, work))) = self.pending.peek().copied() {
            if at > now {
                break;
            }
            if self.next_fetch().is_some_and(|fetched| fetched <= at) {
                self.fetch_is_over(env);
                continue;
            }
            self.adapter_comes(at);
            self.pending.pop();
            self.asleep = false;
            match work {
                Work::Reply => self.enqueue_reply(place, at, env),
                Work::Whole | Work::Prompt | Work::HeldPrompt | Work::Encode => self.enqueue(place, at, work, env),
            }
        }
        while self.next_fetch().is_some_and(|at| at <= now) {
            self.fetch_is_over(env);
        }
        self.adapter_comes(now);
        self.totals.waiting_max = self.totals.waiting_max.max(self.waits());
        if !between || self.aborts.peek().is_none_or(|Reverse((at, ..))| *at > now) {
            return;
        }
        let mut gone = Vec::new();
        while let Some(top) = self.aborts.peek_mut() {
            if top.0.0 > now {
                break;
            }
            let Reverse((_, request, slot, generation)) = PeekMut::pop(top);
            let live = &self.live[slot as usize];
            if live.generation == generation {
                gone.push((request, live.sample, slot));
            }
        }
        gone.retain(|(.., slot)| !self.is_away(*slot));
        self.asleep &= gone.is_empty();
        gone.sort_unstable();
        gone.into_iter().for_each(|(.., slot)| self.abort_in_lane(slot, env, out));
    }

    fn enqueue(&mut self, place: u32, at: SimTime, work: Work, env: &Env<'_>) {
        let request = env.demand.nth(place as usize);
        let input = prompt(request, work, env);
        let abort = env.demand.abort(place as usize);
        let (samples, ahead) = self.samples_of(place, request, env);
        // The engine knows that a part of a request is to end with its prompt.
        let (output, capped) = match work {
            Work::Whole | Work::Reply if !ahead => env.demand.output(request, env.len_of(request)),
            Work::Whole | Work::Reply | Work::Prompt | Work::HeldPrompt | Work::Encode => (1, true),
        };
        let several = ahead || samples.end > 1;
        let (width, replies) = self.width_of(request, env);
        for sample in samples {
            let mut live = Live {
                request,
                adapter: env.adapters.as_ref().map_or(NO_ADAPTER, |plan| plan.of(env.requests, request, work)),
                work,
                input,
                output,
                capped,
                width,
                replies,
                several,
                ahead,
                sample,
                target: input,
                tenant: env.demand.tenant(request),
                queued: at,
                since: at,
                goes: abort.map_or(Status::Cancelled, |(_, status)| status),
                told: !env.reports.prompts,
                ..Live::default()
            };
            live.known = self.known_blocks(&live, env);
            let slot = self.slot(live);
            if several {
                self.sample_entered(slot);
            }
            self.wait(slot, abort, env);
            self.prefetch(slot, at, env);
        }
    }

    /// Blocks of a request whose content the trace knows.
    pub(super) fn known_blocks(&self, live: &Live, env: &Env<'_>) -> u32 {
        let known = self.derivation.known_blocks(env.requests, live.request as usize, self.block_size);
        self.known_of_sample(live, known)
    }

    /// A slot for a request, with the buffers of one that had it.
    pub(super) fn slot(&mut self, live: Live) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        match self.unused.pop() {
            Some(slot) => {
                let old = &mut self.live[slot as usize];
                let (mut gaps, held) = (std::mem::take(&mut old.gaps), std::mem::take(&mut old.held));
                gaps.clear();
                *old = Live { gaps, held, generation, ..live };
                slot
            }
            None => {
                self.live.push(Live { generation, ..live });
                (self.live.len() - 1) as u32
            }
        }
    }

    /// A request enters the queue.
    pub(super) fn wait(&mut self, slot: u32, abort: Option<(SimTime, Status)>, env: &Env<'_>) {
        if self.common.policy == QueueOrder::LeastSlack {
            self.live[slot as usize].work_time = self.time_of_prompt(slot, env);
        }
        let steps = self.steps;
        if let Some(fair) = self.waiting.fair() {
            fair.steps = steps;
        }
        let key = self.key(slot, env);
        let live = &self.live[slot as usize];
        let (request, generation, loaded, since) = (live.request, live.generation, live.loaded, live.since);
        let fetched = live.fetched > 0;
        if let Some((gone, _)) = abort {
            self.aborts.push(Reverse((gone, request, slot, generation)));
        }
        // The head may be another now.
        self.blocked &= !self.waiting.is_ordered() && !loaded;
        // While it was fetched it waited, too.
        if !fetched {
            self.adapter_waits(slot, since, env);
        }
        if loaded { &mut self.loaded } else { &mut self.waiting }.push(slot, key);
    }

    /// What the latency model says of a step of the prompt alone.
    fn time_of_prompt(&mut self, slot: u32, env: &Env<'_>) -> SimDuration {
        let tokens = u64::from(self.live[slot as usize].input);
        let prompt = BatchShape {
            prefill_requests: 1,
            prefill_tokens: tokens,
            prefill_tokens_squared: tokens * tokens,
            prefill_tokens_x_input: tokens * tokens,
            prefill_tokens_max: tokens,
            ..BatchShape::default()
        };
        let before = env.model.extrapolated();
        let time = env.model.step(&prompt);
        self.totals.not_extrapolated += env.model.extrapolated() - before;
        time
    }

    /// The tenant of a request that is admitted is charged for its prompt, once.
    pub(super) fn charge_prompt(&mut self, slot: u32) {
        let live = &mut self.live[slot as usize];
        if let Some(fair) = self.waiting.fair()
            && !std::mem::replace(&mut live.charged, true)
        {
            fair.charge(live.tenant, INPUT_WEIGHT * i64::from(live.input));
        }
    }

    pub(super) fn nobody_waits(&self) -> bool {
        self.waiting.is_empty() && self.loaded.is_empty() && self.fetched.is_empty()
    }

    /// Requests in the queue.
    pub(super) fn waits(&self) -> u64 {
        (self.waiting.len() + self.loaded.len() + self.fetched.len() + self.fetching()) as u64
    }

    /// Those in the queue that could be admitted.
    pub(super) fn waiters(&self) -> impl Iterator<Item = u32> + '_ {
        self.loaded.iter().chain(self.fetched.values().copied()).chain(self.waiting.iter())
    }

    /// Those that are being fetched from tiers.
    fn fetched(&self) -> impl Iterator<Item = u32> + '_ {
        self.tiers.iter().flat_map(|tiers| tiers.fetching_slots())
    }

    /// Requests whose client was gone before they would have reached the queue, at the times at which they would have.
    fn lay_ghosts(&mut self, until: impl Fn(SimTime) -> bool, env: &Env<'_>, out: &mut Out) {
        while let Some(Reverse((at, place, _))) = self.ghosts.peek().copied().filter(|Reverse((at, ..))| until(*at)) {
            self.ghosts.pop();
            let status = env.demand.abort(place as usize).map_or(Status::Cancelled, |(_, status)| status);
            out.rows.push((at, self.id, self.row_of(env.demand.nth(place as usize), status, env)));
        }
    }

    pub(super) fn key(&self, slot: u32, env: &Env<'_>) -> Key {
        let live = &self.live[slot as usize];
        let first = match self.common.longest_reply_first {
            true => u32::MAX - self.most_out(slot, env),
            false => live.input,
        };
        self.waiting.key(env.demand, (live.request, live.sample), first, live.work_time)
    }

    /// Tokens that a request may generate here, as the scheduler is told: one where its reply is made elsewhere.
    pub(super) fn most_out(&self, slot: u32, env: &Env<'_>) -> u32 {
        let live = &self.live[slot as usize];
        match live.work {
            Work::Whole | Work::Reply => live.cap(env),
            Work::Prompt | Work::HeldPrompt | Work::Encode => 1,
        }
    }

    /// Blocks that a request that is admitted may take for its tokens.
    pub(super) fn room(&self) -> u64 {
        self.pool.free().saturating_sub(u64::from(self.fixed))
    }

    /// Blocks for the step being formed, at the present time.
    pub(super) fn take(&mut self, blocks: u64) {
        self.sum_blocks();
        self.pool.take(blocks);
    }

    /// Brings the integral of the blocks in use up to now; to be called before their number changes.
    pub(super) fn sum_blocks(&mut self) {
        self.sum_blocks_to(self.clock);
    }

    /// The same, where blocks change hands while a step runs.
    pub(super) fn sum_blocks_to(&mut self, now: SimTime) {
        let span = now - self.kv_since;
        debug_assert!(span >= SimDuration::ZERO, "blocks changed hands before");
        self.kv_since = now;
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
            running: self.seated() as u32,
            waiting: self.waits() as u32,
            preempted,
            kv_blocks_used: self.pool.used(),
        }
    }

    /// Tokens in the cache.
    #[inline]
    pub(super) fn computed(&self, live: &Live) -> u32 {
        match live.phase {
            Phase::Decode => (live.base + self.steps as i64) as u32,
            Phase::Waiting | Phase::Prefill | Phase::Ending | Phase::Moving | Phase::Fetching => live.computed,
        }
    }

    /// Tokens handed out.
    pub(super) fn emitted(&self, live: &Live) -> u32 {
        if live.exact || self.speculating.is_some() {
            live.emitted
        } else {
            live.output - (live.finish - self.handed) as u32
        }
    }

    /// Where a request stands in `running`. That is short, and at hand; what is known of the requests in it is neither.
    pub(super) fn position(&self, slot: u32) -> usize {
        let found = self.running.iter().position(|other| *other == slot);
        found.unwrap_or_else(|| unreachable!("slot {slot} does not run"))
    }

    /// Nothing is left: every block is free again.
    fn assert_idle(&self) {
        assert!(self.is_empty() && self.rests(), "requests were left behind");
        assert!(self.parents.is_empty(), "samples were lost");
        assert!(self.pool.used() == 0, "{} of {} KV blocks leaked", self.pool.used(), self.pool.total());
        assert!(self.decodes == 0 && self.context == 0, "sums do not return to zero");
    }
}

/// Tokens of the prompt that a request has here.
fn prompt(request: u32, work: Work, env: &Env<'_>) -> u32 {
    let request = request as usize;
    match work {
        Work::Encode => env.requests.encoder_tokens[request].unwrap_or(1),
        Work::Whole | Work::Prompt | Work::HeldPrompt | Work::Reply => env.requests.input_tokens[request],
    }
}

impl Node for Replica {
    fn push(&mut self, place: u32, at: SimTime, work: Work, env: &Env<'_>) {
        let gone = env.demand.abort(place as usize).is_some_and(|(gone, _)| gone <= at);
        let way = if gone { &mut self.ghosts } else { &mut self.pending };
        way.push(Reverse((at, place, work)));
    }

    fn load(&self) -> Load {
        Load { waiting: self.waits() as u32, running: self.seated() as u32, blocks_used: self.pool.used() }
    }

    fn is_empty(&self) -> bool {
        let coming = self.pending.is_empty() && self.ghosts.is_empty() && self.moving.is_empty();
        coming && self.nobody_waits() && self.seated() == 0 && self.fetching() == 0
    }

    fn reply_tokens(&self, env: &Env<'_>) -> u64 {
        let left = |slot: u32| {
            let live = &self.live[slot as usize];
            match live.work {
                Work::Whole if live.ahead => self.replies_behind(live, env),
                Work::Whole | Work::Reply => u64::from(live.output - self.emitted(live)) * u64::from(live.replies),
                Work::Prompt | Work::HeldPrompt | Work::Encode => 0,
            }
        };
        let coming = |Reverse((_, place, work)): &Reverse<(SimTime, u32, Work)>| match work {
            Work::Whole => {
                let request = env.demand.nth(*place as usize);
                u64::from(env.demand.output(request, env.len_of(request)).0) * u64::from(env.demand.samples(request))
            }
            // Of a reply on its way the slot is known.
            Work::Reply | Work::Prompt | Work::HeldPrompt | Work::Encode => 0,
        };
        let queue = self.waiters().chain(self.fetched());
        let here = self.running.iter().copied().chain(queue).chain(self.moving.values().copied());
        here.map(left).sum::<u64>()
            + self.reply_tokens_in_lanes()
            + self.pending.iter().chain(&self.ghosts).map(coming).sum::<u64>()
    }

    fn wake(&self, env: &Env<'_>) -> SimTime {
        self.foresee(env)
    }

    fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        self.lay_ghosts(|at| at < limit, env, out);
        self.pass(limit, env, out)?;
        // A step that runs, or begins now, does not keep anybody from the queue who came before.
        self.settle(SimTime(limit.0 - 1), false, env, out);
        Ok(())
    }

    fn close(&mut self, horizon: SimTime, env: &Env<'_>, out: &mut Out) {
        if let Some(speculating) = &mut self.speculating {
            out.gaps.add(0, std::mem::take(&mut speculating.together));
        }
        if horizon == SimTime::MAX {
            self.assert_idle();
            return;
        }
        self.lay_ghosts(|at| at <= horizon, env, out);
        if self.rests() {
            self.clock = self.clock.max(horizon);
        }
        let between = self.rests() || (self.due && self.clock == horizon);
        self.settle(horizon, between, env, out);
        let waiting: Vec<u32> = self.waiters().chain(self.fetched()).collect();
        for slot in self.running.clone().into_iter().chain(waiting) {
            self.leave_unfinished(slot, horizon, env, out);
        }
        self.close_lanes(horizon, env, out);
        while let Some(Reverse((_, place, work))) = self.pending.pop().or_else(|| self.ghosts.pop()) {
            if work != Work::Reply {
                let request = env.demand.nth(place as usize);
                out.rows.push((horizon, self.id, self.row_of(request, Status::InFlight, env)));
            }
        }
        self.clock = self.clock.max(horizon);
        self.close_adapters(horizon);
        self.sum_blocks();
    }

    fn add_to(&self, summary: &mut Summary) {
        summary.steps += self.handed + self.pauses + self.handed_in_lanes();
        if let Some(adapters) = &self.adapters {
            summary.adapters.merge(&adapters.sums);
        }
        self.totals.add_to(summary);
        if let Some(tiers) = &self.tiers {
            summary.add_tiers(&tiers.summaries());
        }
        if let Some(speculating) = &self.speculating {
            summary.speculation.merge(&speculating.told());
        }
    }
}
