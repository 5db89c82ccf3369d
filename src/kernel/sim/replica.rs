//! One replica of the fast engine: its state, and time passing.
//!
//! Decode requests are not touched while they only decode. Each stores its length relative to the count of steps
//! (`length - steps`), so all grow by one with the count; sums over them change by their number; those that need a new
//! KV block are found by the residue of their length; the next to finish by a heap over the step at which it will.
//! [`batch`](super::batch) forms steps; this file runs and ends them.
//!
//! Order at equal times: a step that ends at `t` is over before a request that arrives at `t` is routed, and a request
//! that is queued at `t` is in the queue before a step starts at `t`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use super::itl::Gaps;
use super::kv::hashes::Derivation;
use super::kv::pool::Pool;
use super::latency::{BatchShape, DecodeForm, LatencyModel};
use super::scheduler::VllmV1;
use super::{Quirks, RequestRow, SimError, Status, StepRow};
use crate::request::Requests;
use crate::units::{SimDuration, SimTime};

/// Longest step: 13 days. Bounds what absurd coefficients can do to the clock.
const STEP_MAX_NS: i64 = 1 << 50;
/// Most steps between two looks at the stop flag.
const STEPS_PER_POLL: u64 = 4096;
/// 73 years. No run of steps that starts before it can overflow the clock.
pub(super) const HORIZON: SimTime = SimTime(1 << 61);

/// What all replicas of a simulation share and none changes.
pub(super) struct Env<'a> {
    pub requests: &'a Requests,
    /// When request `i` arrives in this scenario.
    pub arrivals: &'a [SimTime],
    pub rules: &'a VllmV1,
    pub model: &'a dyn LatencyModel,
    /// What the model says about the client's side, see [`LatencyModel`].
    pub after_token: SimDuration,
    pub after_request: SimDuration,
    pub quirks: Quirks,
    pub block_size: u32,
    /// Longest prompt plus output.
    pub max_len: u32,
    pub derivation: Derivation,
    pub caching: bool,
    pub wants_steps: bool,
    pub stop: &'a AtomicBool,
}

/// What replicas hand out.
pub(super) struct Out {
    pub rows: Vec<(SimTime, RequestRow)>,
    /// With the time of their end.
    pub steps: Vec<(SimTime, StepRow)>,
    pub gaps: Gaps,
    pub preemptions: u64,
    pub prefix_tokens_queried: u64,
    pub prefix_tokens_hit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Prefill,
    Decode,
}

/// A request in the queue or running.
pub(super) struct Live {
    pub request: u32,
    pub phase: Phase,
    pub input: u32,
    /// Tokens it will generate here.
    pub output: u32,
    /// Tokens generated; exact outside of [`Phase::Decode`], where it follows from `finish`.
    pub emitted: u32,
    /// Tokens that the prefill must compute: the prompt, and what was generated before a preemption.
    pub target: u32,
    /// Tokens in the cache, while prefilling.
    pub computed: u32,
    /// Tokens in the cache less the count of steps, while decoding.
    pub base: i64,
    /// Count of steps at which the last token is out, while decoding.
    pub finish: u64,
    /// Order of admission.
    pub seq: u64,
    pub scheduled: Option<SimTime>,
    pub first_token: Option<SimTime>,
    /// Time of its last token, where the next one does not simply follow a step later.
    pub last_token: SimTime,
    /// Decoding, but without a token in the last step.
    pub stalled: bool,
    pub cached: u32,
    pub preemptions: u32,
    /// Blocks whose content hash the trace knows.
    pub known: u32,
    /// Ids of its blocks; empty where blocks are only counted.
    pub blocks: Vec<u32>,
}

/// A step that has started.
pub(super) struct Flight {
    pub end: SimTime,
    pub duration: SimDuration,
    /// Decode requests that get a token, and those of them that also got one in the step before.
    pub decodes: u64,
    pub regular: u64,
}

/// See the head of the file.
pub(super) struct Replica {
    pub id: u32,
    /// End of the last step, or the time since when nothing was to do.
    pub clock: SimTime,
    /// Steps ended.
    pub steps: u64,
    pub busy: SimDuration,
    pub flight: Option<Flight>,
    /// On their way to the queue: (time, request).
    pending: BinaryHeap<Reverse<(SimTime, u32)>>,
    pub waiting: VecDeque<u32>,
    /// In order of admission, decode and prefill alike.
    pub running: Vec<u32>,
    /// Those of `running` that still prefill, in the same order.
    pub prefills: Vec<u32>,
    pub decodes: u64,
    /// Tokens in the cache over all decode requests.
    pub context: u64,
    /// Decode requests that got no token in the last step.
    pub stalled: u64,
    /// Decode requests by residue: those of class `steps % block_size` have a full last block.
    pub class_counts: Vec<u64>,
    /// The same as lists in order of admission; only where blocks have ids.
    pub class_lists: Vec<Vec<u32>>,
    /// (step count at which it is done, admission, slot); an entry is void when the request says otherwise.
    pub finishes: BinaryHeap<Reverse<(u64, u64, u32)>>,
    pub live: Vec<Live>,
    unused: Vec<u32>,
    pub pool: Pool,
    pub counting: bool,
    pub used_max: u64,
    pub next_seq: u64,
    /// The head of the queue is known not to fit until something is released.
    pub blocked: bool,
    /// Prefill chunks of the step in flight: (slot, tokens).
    pub chunks: Vec<(u32, u32)>,
    /// Last token times of decodes in flight that stalled before.
    pub resumed: Vec<SimTime>,
    /// Scratch: requests that the ending step completes.
    done: Vec<(u64, u32)>,
    form: Option<(u64, Option<DecodeForm>)>,
}

impl Replica {
    pub(super) fn new(id: u32, blocks: u64, env: &Env<'_>) -> Replica {
        let counting = env.derivation == Derivation::None;
        let classes = env.block_size as usize;
        Replica {
            id,
            clock: SimTime::ZERO,
            steps: 0,
            busy: SimDuration::ZERO,
            flight: None,
            pending: BinaryHeap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefills: Vec::new(),
            decodes: 0,
            context: 0,
            stalled: 0,
            class_counts: vec![0; classes],
            class_lists: if counting { Vec::new() } else { vec![Vec::new(); classes] },
            finishes: BinaryHeap::new(),
            live: Vec::new(),
            unused: Vec::new(),
            pool: Pool::new(blocks),
            counting,
            used_max: 0,
            next_seq: 0,
            blocked: false,
            chunks: Vec::new(),
            resumed: Vec::new(),
            done: Vec::new(),
            form: None,
        }
    }

    /// A request is on its way; it reaches the queue at `at`.
    pub(super) fn push(&mut self, request: u32, at: SimTime) {
        self.pending.push(Reverse((at, request)));
    }

    /// Requests on their way, waiting or running.
    pub(super) fn outstanding(&self) -> u64 {
        (self.pending.len() + self.waiting.len() + self.running.len()) as u64
    }

    /// Ends every step that ends at or before `limit` and starts those that start before it.
    pub(super) fn advance(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<(), SimError> {
        loop {
            if let Some(flight) = &self.flight {
                if flight.end > limit {
                    return Ok(());
                }
                self.finish(env, out);
            }
            self.enqueue(env);
            if self.running.is_empty() && self.waiting.is_empty() {
                match self.pending.peek() {
                    Some(Reverse((at, _))) if *at < limit => self.clock = *at,
                    Some(_) | None => return Ok(()),
                }
                continue;
            }
            if self.clock >= limit {
                return Ok(());
            }
            if env.stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if self.clock > HORIZON {
                return Err(too_long());
            }
            if self.decode_run(limit, env, out) == 0 {
                self.begin(env, out);
            }
        }
    }

    /// Moves requests whose time has come into the queue.
    fn enqueue(&mut self, env: &Env<'_>) {
        while let Some(Reverse((at, request))) = self.pending.peek().copied() {
            if at > self.clock {
                return;
            }
            self.pending.pop();
            let i = request as usize;
            let input = env.requests.input_tokens[i];
            let live = Live {
                request,
                phase: Phase::Waiting,
                input,
                output: env.requests.output_tokens[i].min(env.max_len - input),
                emitted: 0,
                target: input,
                computed: 0,
                base: 0,
                finish: 0,
                seq: 0,
                scheduled: None,
                first_token: None,
                last_token: SimTime::ZERO,
                stalled: false,
                cached: 0,
                preemptions: 0,
                known: env.derivation.known_blocks(env.requests, i, env.block_size),
                blocks: Vec::new(),
            };
            let slot = match self.unused.pop() {
                Some(slot) => {
                    let blocks = std::mem::take(&mut self.live[slot as usize].blocks);
                    self.live[slot as usize] = Live { blocks, ..live };
                    slot
                }
                None => {
                    self.live.push(live);
                    (self.live.len() - 1) as u32
                }
            };
            self.waiting.push_back(slot);
        }
    }

    /// Runs pure decode steps that change nothing but sums, as many as end by `limit`; returns how many.
    fn decode_run(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> u64 {
        let quiet = self.stalled == 0
            && self.decodes > 0
            && self.decodes == self.running.len() as u64
            && self.decodes <= u64::from(env.rules.max_num_batched_tokens)
            && (self.waiting.is_empty() || self.blocked);
        if !quiet {
            return 0;
        }
        // The step that completes a request goes the long way.
        let next_finish = self.finishes.peek().map_or(0, |Reverse((step, _, _))| *step);
        let most = next_finish.saturating_sub(self.steps + 1).min(STEPS_PER_POLL);
        if most == 0 {
            return 0;
        }
        let next_queued = self.pending.peek().map_or(SimTime::MAX, |Reverse((at, _))| *at);
        let form = match self.form {
            Some((decodes, form)) if decodes == self.decodes => form,
            Some(_) | None => env.model.decode_form(self.decodes),
        };
        self.form = Some((self.decodes, form));
        let started = (self.clock, self.steps);
        match form {
            Some(form) => self.run_steps(most, limit, next_queued, env, out, |context| form.at(context)),
            None => {
                let decode_requests = self.decodes;
                self.run_steps(most, limit, next_queued, env, out, |decode_context| {
                    env.model.step(&BatchShape { decode_requests, decode_context, ..BatchShape::default() })
                });
            }
        }
        self.busy += self.clock - started.0;
        self.used_max = self.used_max.max(self.pool.used());
        self.steps - started.1
    }

    #[inline]
    fn run_steps(
        &mut self,
        most: u64,
        limit: SimTime,
        next_queued: SimTime,
        env: &Env<'_>,
        out: &mut Out,
        time: impl Fn(u64) -> SimDuration,
    ) {
        let classes = self.class_counts.len();
        let mut class = (self.steps % classes as u64) as usize;
        for _ in 0..most {
            let need = self.class_counts[class];
            if need > self.pool.free() || self.clock >= next_queued {
                return;
            }
            let duration = clamp(time(self.context), env.quirks);
            let end = self.clock + duration;
            if end > limit {
                return;
            }
            let next = if class + 1 == classes { 0 } else { class + 1 };
            if self.counting {
                self.pool.take(need);
            } else {
                // A block that is filled now may be a hit for the head of the queue.
                if self.blocked && !self.class_lists[next].is_empty() {
                    self.blocked = false;
                    return;
                }
                self.decode_blocks(env);
            }
            if env.wants_steps {
                let row = self.step_row(duration, self.decodes, 0, 0);
                out.steps.push((end, row));
            }
            out.gaps.add(duration.0, self.decodes);
            self.clock = end;
            self.context += self.decodes;
            self.steps += 1;
            class = next;
        }
    }

    /// Starts the step that `begin` formed.
    pub(super) fn launch(&mut self, shape: &BatchShape, regular: u64, env: &Env<'_>, out: &mut Out) {
        let empty = shape.decode_requests == 0 && shape.prefill_requests == 0;
        let time = if empty { SimDuration::ZERO } else { env.model.step(shape) };
        let duration = clamp(time, env.quirks);
        let end = self.clock + duration;
        self.used_max = self.used_max.max(self.pool.used());
        if env.wants_steps {
            let row =
                self.step_row(duration, shape.decode_requests, shape.prefill_requests as u32, shape.prefill_tokens);
            out.steps.push((end, row));
        }
        self.flight = Some(Flight { end, duration, decodes: shape.decode_requests, regular });
    }

    fn step_row(&self, duration: SimDuration, decodes: u64, prefill_requests: u32, prefill_tokens: u64) -> StepRow {
        StepRow {
            replica: self.id,
            start: self.clock,
            duration,
            decode_requests: decodes as u32,
            prefill_requests,
            prefill_tokens: prefill_tokens as u32,
            waiting: self.waiting.len() as u32,
            kv_blocks_used: self.pool.used(),
        }
    }

    /// Ends the step in flight: hands out its tokens, completes requests.
    fn finish(&mut self, env: &Env<'_>, out: &mut Out) {
        let Some(flight) = self.flight.take() else { return };
        assert!(flight.end > self.clock, "a step must take time");
        self.clock = flight.end;
        self.steps += 1;
        self.busy += flight.duration;
        self.context += flight.decodes;
        out.gaps.add(flight.duration.0, flight.regular);
        for last in self.resumed.drain(..) {
            out.gaps.add((flight.end - last).0, 1);
        }
        if !self.chunks.is_empty() {
            self.finish_prefills(env, out);
        }
        while let Some(Reverse((step, seq, slot))) = self.finishes.peek().copied() {
            if step > self.steps {
                break;
            }
            self.finishes.pop();
            let live = &self.live[slot as usize];
            if live.seq != seq || live.phase != Phase::Decode {
                continue;
            }
            if live.finish > self.steps {
                self.finishes.push(Reverse((live.finish, seq, slot)));
                continue;
            }
            self.leave_decode(slot, env);
            self.done.push((seq, slot));
        }
        if !self.done.is_empty() {
            self.blocked = false;
            self.complete(env, out);
        }
    }

    fn finish_prefills(&mut self, env: &Env<'_>, out: &mut Out) {
        let mut any = false;
        let chunks = std::mem::take(&mut self.chunks);
        for &(slot, _) in &chunks {
            let live = &mut self.live[slot as usize];
            if live.computed < live.target {
                continue;
            }
            any = true;
            live.emitted += 1;
            match live.first_token {
                None => live.first_token = Some(self.clock),
                Some(_) => out.gaps.add((self.clock - live.last_token).0, 1),
            }
            live.phase = Phase::Decode;
            live.base = i64::from(live.computed) - self.steps as i64;
            if live.emitted == live.output {
                self.done.push((live.seq, slot));
            } else {
                live.finish = self.steps + u64::from(live.output - live.emitted);
                self.enter_decode(slot, env);
            }
        }
        self.chunks = chunks;
        self.chunks.clear();
        if any {
            let live = &self.live;
            self.prefills.retain(|slot| live[*slot as usize].phase == Phase::Prefill);
        }
    }

    /// Releases and reports the requests in `done`, in batch order.
    fn complete(&mut self, env: &Env<'_>, out: &mut Out) {
        self.done.sort_unstable();
        let mut done = std::mem::take(&mut self.done);
        for (seq, slot) in done.drain(..) {
            if env.quirks.block_at_completion {
                self.take_one_more(slot, env);
            }
            self.release(slot, env);
            let at = self.position(seq);
            self.running.remove(at);
            let live = &self.live[slot as usize];
            let row = RequestRow {
                request: live.request,
                replica: self.id,
                status: Status::Finished,
                arrival: env.arrivals[live.request as usize],
                scheduled: live.scheduled,
                first_token: live.first_token.map(|t| t + env.after_token),
                finished: Some(self.clock + env.after_token + env.after_request),
                input_tokens: live.input,
                output_tokens: live.output,
                cached_tokens: live.cached,
                preemptions: live.preemptions,
            };
            out.rows.push((self.clock, row));
            self.unused.push(slot);
        }
        self.done = done;
    }

    /// Where the request of this admission stands in `running`.
    pub(super) fn position(&self, seq: u64) -> usize {
        self.running.partition_point(|slot| self.live[*slot as usize].seq < seq)
    }

    /// Nothing is left: every block is free again.
    pub(super) fn assert_idle(&self) {
        assert!(self.outstanding() == 0 && self.flight.is_none(), "requests were left behind");
        assert!(self.pool.used() == 0, "{} of {} KV blocks leaked", self.pool.used(), self.pool.total());
        assert!(self.decodes == 0 && self.context == 0, "sums do not return to zero");
    }
}

/// Duration of a step: at least a nanosecond, at most 13 days; whole microseconds where that is asked for.
#[inline]
pub(super) fn clamp(time: SimDuration, quirks: Quirks) -> SimDuration {
    if quirks.whole_microseconds {
        return SimDuration((time.0.clamp(1, STEP_MAX_NS) / 1_000 * 1_000).max(1_000));
    }
    SimDuration(time.0.clamp(1, STEP_MAX_NS))
}

/// A time outside of steps: not negative, at most 13 days.
pub(super) fn bounded(time: SimDuration) -> SimDuration {
    SimDuration(time.0.clamp(0, STEP_MAX_NS))
}

pub(super) fn too_long() -> SimError {
    SimError::Invalid {
        path: "deployment.latency",
        message: "simulated time passes 73 years: the load, or the steps, must be far from what is meant".to_string(),
    }
}
