//! The oracle: the same simulation the obvious way, one request, one token and one step at a time.
//!
//! Nothing is summed up in advance, nothing is skipped, every block has an id. Slow on purpose. Promises the same
//! rows, to the nanosecond, as the fast engine. Shares with it what it does not check: step times, arrival times, the
//! number of blocks, and hashes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;

use super::kv::hashes::{self, Derivation};
use super::kv::plan;
use super::latency::{BatchShape, LatencyModel};
use super::replica::{HORIZON, bounded, clamp, too_long};
use super::router::Router;
use super::scheduler::{Scheduler, VllmV1};
use super::{Quirks, RequestRow, SimError, Sink, Status, StepRow, Summary, engine, latency, load};
use crate::request::Requests;
use crate::rng;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

/// Runs one scenario like [`super::simulate`].
///
/// # Errors
/// As [`super::simulate`].
pub fn simulate(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
) -> Result<Summary, SimError> {
    simulate_with(scenario, requests, sink, stop, Quirks::default())
}

/// [`simulate`] with deviations.
///
/// # Errors
/// As [`super::simulate`].
#[doc(hidden)]
pub fn simulate_with(
    scenario: &Scenario,
    requests: &Requests,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
    quirks: Quirks,
) -> Result<Summary, SimError> {
    if let Err(problems) = super::check(scenario) {
        return Err(problems.into_iter().next().unwrap_or(SimError::Cancelled));
    }
    let d = &scenario.deployment;
    let arrivals = load::arrivals(&scenario.workload, requests, scenario.seed)?;
    if arrivals.last().is_some_and(|t| *t > HORIZON) {
        return Err(too_long());
    }
    let blocks = plan::blocks(d, &scenario.model, &scenario.gpu)?;
    let Scheduler::VllmV1(rules) = &d.scheduler;
    let mut world = World {
        requests,
        rules: rules.clone(),
        model: latency::build(d, &scenario.model, &scenario.gpu),
        derivation: hashes::derivation(requests, d.kv.block_size, d.kv.enable_prefix_caching)?,
        block_size: d.kv.block_size as usize,
        caching: d.kv.enable_prefix_caching,
        quirks,
        max_len: engine::max_len(scenario, blocks) as usize,
        lives: arrivals.iter().map(|t| Life::new(*t)).collect(),
        replicas: (0..d.replicas).map(|_| Machine::new(blocks as usize)).collect(),
        gaps: BTreeMap::new(),
        summary: Summary { injected: arrivals.len() as u64, kv_blocks_total: blocks, ..Summary::default() },
    };
    world.run(&d.router, scenario.seed, sink, stop)?;
    let mut summary = world.summary;
    summary.itl = world.gaps.into_iter().collect();
    Ok(summary)
}

/// Everything about one request.
struct Life {
    arrival: SimTime,
    replica: usize,
    /// Tokens in the cache.
    computed: usize,
    /// When each of its tokens came out.
    tokens: Vec<SimTime>,
    /// Tokens that must be computed before the next one can come out.
    target: usize,
    blocks: Vec<usize>,
    /// Blocks at the start of the prompt that it should hold but does not: see [`Quirks::free_full_hits`].
    missing: usize,
    scheduled: Option<SimTime>,
    cached: usize,
    preemptions: u32,
}

impl Life {
    fn new(arrival: SimTime) -> Life {
        Life {
            arrival,
            replica: 0,
            computed: 0,
            tokens: Vec::new(),
            target: 0,
            blocks: Vec::new(),
            missing: 0,
            scheduled: None,
            cached: 0,
            preemptions: 0,
        }
    }
}

#[derive(Clone, Default)]
struct Block {
    users: usize,
    hash: Option<u64>,
}

/// What one request does in a step.
#[derive(Clone, Copy)]
struct Part {
    request: usize,
    tokens: usize,
    decode: bool,
    /// Tokens in the cache before the step.
    context: usize,
}

/// One replica.
struct Machine {
    /// Between arrival and queue.
    coming: Vec<(SimTime, usize)>,
    waiting: VecDeque<usize>,
    running: Vec<usize>,
    blocks: Vec<Block>,
    free: VecDeque<usize>,
    by_hash: BTreeMap<u64, Vec<usize>>,
    /// End of the step that runs, and its batch.
    step: Option<(SimTime, Vec<Part>)>,
}

impl Machine {
    fn new(blocks: usize) -> Machine {
        Machine {
            coming: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            blocks: vec![Block::default(); blocks],
            free: (0..blocks).collect(),
            by_hash: BTreeMap::new(),
            step: None,
        }
    }

    fn take(&mut self) -> Option<usize> {
        let id = self.free.pop_front()?;
        if let Some(hash) = self.blocks[id].hash.take() {
            let holders = self.by_hash.entry(hash).or_default();
            holders.retain(|held| *held != id);
            if holders.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
        self.blocks[id].users = 1;
        Some(id)
    }

    fn release(&mut self, ids: &[usize]) {
        for &id in ids.iter().rev() {
            self.blocks[id].users -= 1;
            if self.blocks[id].users == 0 {
                self.free.push_back(id);
            }
        }
    }
}

struct World<'a> {
    requests: &'a Requests,
    rules: VllmV1,
    model: Box<dyn LatencyModel>,
    derivation: Derivation,
    block_size: usize,
    caching: bool,
    quirks: Quirks,
    max_len: usize,
    lives: Vec<Life>,
    replicas: Vec<Machine>,
    gaps: BTreeMap<SimDuration, u64>,
    summary: Summary,
}

impl World<'_> {
    /// At every time at which something happens: steps end, requests arrive, queues fill, steps start.
    fn run(&mut self, router: &Router, seed: u64, sink: &mut dyn Sink, stop: &AtomicBool) -> Result<(), SimError> {
        let mut next_arrival = 0;
        let (mut turn, mut random) = (0, rng::stream(seed, "router"));
        while let Some(now) = self.next_time(next_arrival) {
            if stop.load(Ordering::Relaxed) {
                return Err(SimError::Cancelled);
            }
            if now > HORIZON {
                return Err(too_long());
            }
            for r in 0..self.replicas.len() {
                self.end_step(r, now, sink);
            }
            while next_arrival < self.lives.len() && self.lives[next_arrival].arrival == now {
                let count = self.replicas.len();
                let replica = match router {
                    Router::RoundRobin => {
                        turn += 1;
                        (turn - 1) % count
                    }
                    Router::Random => ((u128::from(random.next_u64()) * count as u128) >> 64) as usize,
                    Router::LeastOutstanding => {
                        let load = |m: &Machine| m.coming.len() + m.waiting.len() + m.running.len();
                        (0..count).min_by_key(|r| load(&self.replicas[*r])).unwrap_or(0)
                    }
                };
                self.arrive(next_arrival, replica, sink);
                next_arrival += 1;
            }
            for r in 0..self.replicas.len() {
                let machine = &mut self.replicas[r];
                machine.coming.sort_unstable();
                while machine.coming.first().is_some_and(|(at, _)| *at <= now) {
                    let (_, i) = machine.coming.remove(0);
                    machine.waiting.push_back(i);
                }
                if machine.step.is_none() && !(machine.waiting.is_empty() && machine.running.is_empty()) {
                    self.start_step(r, now, sink);
                }
            }
        }
        Ok(())
    }

    fn next_time(&self, next_arrival: usize) -> Option<SimTime> {
        let ends = self.replicas.iter().filter_map(|m| m.step.as_ref().map(|(end, _)| *end));
        let queued = self.replicas.iter().flat_map(|m| m.coming.iter().map(|(at, _)| *at));
        ends.chain(queued).chain(self.lives.get(next_arrival).map(|l| l.arrival)).min()
    }

    fn input(&self, i: usize) -> usize {
        self.requests.input_tokens[i] as usize
    }

    /// Tokens that request `i` generates.
    fn output(&self, i: usize) -> usize {
        (self.requests.output_tokens[i] as usize).min(self.max_len - self.input(i))
    }

    fn arrive(&mut self, i: usize, replica: usize, sink: &mut dyn Sink) {
        self.lives[i].replica = replica;
        self.lives[i].target = self.input(i);
        if self.input(i) + 1 > self.max_len {
            self.summary.rejected += 1;
            self.summary.end = self.summary.end.max(self.lives[i].arrival);
            sink.request(self.row(i, Status::Rejected, 0, None));
            return;
        }
        let at = self.lives[i].arrival + bounded(self.model.before_queue(self.requests.input_tokens[i]));
        self.replicas[replica].coming.push((at, i));
    }

    fn row(&self, i: usize, status: Status, output_tokens: u32, finished: Option<SimTime>) -> RequestRow {
        let life = &self.lives[i];
        RequestRow {
            request: i as u32,
            replica: life.replica as u32,
            status,
            arrival: life.arrival,
            scheduled: life.scheduled,
            first_token: life.tokens.first().map(|t| *t + bounded(self.model.after_token())),
            finished,
            input_tokens: self.requests.input_tokens[i],
            output_tokens,
            cached_tokens: life.cached as u32,
            preemptions: life.preemptions,
        }
    }

    fn start_step(&mut self, r: usize, now: SimTime, sink: &mut dyn Sink) {
        let mut budget = self.rules.max_num_batched_tokens as usize;
        let mut batch: Vec<Part> = Vec::new();
        let mut preempted = false;
        let mut at = 0;
        while at < self.replicas[r].running.len() && budget > 0 {
            let i = self.replicas[r].running[at];
            let decode = self.lives[i].computed >= self.lives[i].target;
            let wanted = if decode { 1 } else { self.lives[i].target - self.lives[i].computed };
            let tokens = self.chunk(wanted).min(budget);
            let mut fits = self.extend(r, i, tokens);
            while !fits {
                preempted = true;
                let Some(victim) = self.replicas[r].running.pop() else { break };
                self.preempt(r, victim);
                if victim == i {
                    break;
                }
                fits = self.extend(r, i, tokens);
            }
            if !fits {
                break;
            }
            batch.push(Part { request: i, tokens, decode, context: self.lives[i].computed });
            self.lives[i].computed += tokens;
            budget -= tokens;
            at += 1;
        }
        if !preempted {
            self.admit(r, now, budget, &mut batch);
        }
        let used = self.note_use(r);
        let shape = self.shape(&batch);
        let empty = batch.iter().all(|part| part.tokens == 0);
        let duration = clamp(if empty { SimDuration::ZERO } else { self.model.step(&shape) }, self.quirks);
        self.summary.steps += 1;
        self.summary.busy += duration;
        if sink.wants_steps() {
            self.steps_row(r, now, duration, &shape, used, sink);
        }
        self.replicas[r].step = Some((now + duration, batch));
    }

    fn steps_row(
        &mut self,
        r: usize,
        start: SimTime,
        duration: SimDuration,
        shape: &BatchShape,
        kv_blocks_used: u64,
        sink: &mut dyn Sink,
    ) {
        sink.step(StepRow {
            replica: r as u32,
            start,
            duration,
            decode_requests: shape.decode_requests as u32,
            prefill_requests: shape.prefill_requests as u32,
            prefill_tokens: shape.prefill_tokens as u32,
            waiting: self.replicas[r].waiting.len() as u32,
            kv_blocks_used,
        });
    }

    fn chunk(&self, wanted: usize) -> usize {
        match self.rules.long_prefill_token_threshold as usize {
            0 => wanted,
            threshold => wanted.min(threshold),
        }
    }

    fn admit(&mut self, r: usize, now: SimTime, mut budget: usize, batch: &mut Vec<Part>) {
        while budget > 0 && self.replicas[r].running.len() < self.rules.max_num_seqs as usize {
            let Some(&i) = self.replicas[r].waiting.front() else { return };
            let hits = self.prefix(r, i);
            let computed = hits.len() * self.block_size;
            let wanted = self.chunk(self.lives[i].target - computed);
            if !self.rules.enable_chunked_prefill && wanted > budget {
                return;
            }
            let tokens = wanted.min(budget);
            let blocks = (computed + tokens).div_ceil(self.block_size);
            let idle = hits.iter().filter(|id| self.replicas[r].blocks[**id].users == 0).count();
            if tokens > 0 && blocks - hits.len() + idle > self.replicas[r].free.len() {
                return;
            }
            let machine = &mut self.replicas[r];
            machine.waiting.pop_front();
            let (hits, missing) = if tokens > 0 { (hits, 0) } else { (Vec::new(), hits.len()) };
            for &id in &hits {
                machine.free.retain(|free| *free != id);
                machine.blocks[id].users += 1;
            }
            if self.lives[i].scheduled.is_none() {
                self.lives[i].scheduled = Some(now);
                self.lives[i].cached = computed;
                if self.caching {
                    self.summary.prefix_tokens_queried += self.lives[i].target as u64;
                    self.summary.prefix_tokens_hit += computed as u64;
                }
            }
            self.lives[i].blocks = hits;
            self.lives[i].missing = missing;
            self.lives[i].computed = computed;
            let fits = self.extend(r, i, tokens);
            assert!(fits, "an admitted request must get its blocks");
            self.lives[i].computed += tokens;
            self.replicas[r].running.push(i);
            let context = if self.quirks.hits_without_context { 0 } else { computed };
            batch.push(Part { request: i, tokens, decode: false, context });
            budget -= tokens;
        }
    }

    /// Blocks that hold the longest known prefix of request `i`.
    fn prefix(&self, r: usize, i: usize) -> Vec<usize> {
        let known = self.derivation.known_blocks(self.requests, i, self.block_size as u32) as usize;
        let target = self.lives[i].target;
        let most = if self.quirks.free_full_hits { target } else { target - 1 } / self.block_size;
        let mut found = Vec::new();
        for block in 0..known.min(most) {
            let hash = self.derivation.hash(self.requests, i, block as u32);
            match self.replicas[r].by_hash.get(&hash).and_then(|ids| ids.first()) {
                Some(id) => found.push(*id),
                None => break,
            }
        }
        found
    }

    /// Gives request `i` the blocks for `tokens` more tokens and notes which blocks that fills; false if none is free.
    fn extend(&mut self, r: usize, i: usize, tokens: usize) -> bool {
        let before = self.lives[i].computed;
        let need = (before + tokens).div_ceil(self.block_size) - self.lives[i].missing - self.lives[i].blocks.len();
        if need > self.replicas[r].free.len() {
            return false;
        }
        for _ in 0..need {
            if let Some(id) = self.replicas[r].take() {
                self.lives[i].blocks.push(id);
            }
        }
        if self.lives[i].missing > 0 {
            return true;
        }
        let known = self.derivation.known_blocks(self.requests, i, self.block_size as u32) as usize;
        for block in before / self.block_size..(before + tokens) / self.block_size {
            let id = self.lives[i].blocks[block];
            let machine = &mut self.replicas[r];
            if block < known && machine.blocks[id].hash.is_none() {
                let hash = self.derivation.hash(self.requests, i, block as u32);
                machine.blocks[id].hash = Some(hash);
                machine.by_hash.entry(hash).or_default().push(id);
            }
        }
        true
    }

    fn preempt(&mut self, r: usize, i: usize) {
        let blocks = std::mem::take(&mut self.lives[i].blocks);
        self.replicas[r].release(&blocks);
        if self.quirks.restart_from_prompt {
            self.lives[i].tokens.clear();
        }
        self.lives[i].computed = 0;
        self.lives[i].missing = 0;
        self.lives[i].target = self.input(i) + self.lives[i].tokens.len();
        self.lives[i].preemptions += 1;
        self.summary.preemptions += 1;
        self.replicas[r].waiting.push_front(i);
    }

    fn shape(&self, batch: &[Part]) -> BatchShape {
        let mut s = BatchShape::default();
        for part in batch {
            let (n, context) = (part.tokens as u64, part.context as u64);
            let input = self.lives[part.request].target as u64;
            if part.decode {
                s.decode_requests += 1;
                s.decode_context += context;
            } else if n > 0 {
                s.prefill_requests += 1;
                s.prefill_tokens += n;
                s.prefill_context += context;
                s.prefill_tokens_x_context += n * context;
                s.prefill_tokens_squared += n * n;
                s.prefill_tokens_x_input += n * input;
            }
        }
        s
    }

    fn note_use(&mut self, r: usize) -> u64 {
        let machine = &self.replicas[r];
        let used = machine.blocks.iter().filter(|b| b.users > 0).count();
        assert!(used + machine.free.len() == machine.blocks.len(), "used + free blocks must be all blocks");
        self.summary.kv_blocks_max = self.summary.kv_blocks_max.max(used as u64);
        used as u64
    }

    fn end_step(&mut self, r: usize, now: SimTime, sink: &mut dyn Sink) {
        let Some((end, batch)) = self.replicas[r].step.take() else { return };
        if end > now {
            self.replicas[r].step = Some((end, batch));
            return;
        }
        let mut done = Vec::new();
        for Part { request: i, decode, .. } in batch {
            let life = &mut self.lives[i];
            if !decode && life.computed < life.target {
                continue;
            }
            if let Some(last) = life.tokens.last() {
                *self.gaps.entry(now - *last).or_insert(0) += 1;
            }
            life.tokens.push(now);
            if life.tokens.len() == self.output(i) {
                done.push(i);
            }
        }
        done.sort_by_key(|i| self.replicas[r].running.iter().position(|running| running == i));
        for i in done {
            if self.quirks.block_at_completion {
                self.extend(r, i, 1);
            }
            let blocks = std::mem::take(&mut self.lives[i].blocks);
            self.replicas[r].release(&blocks);
            self.replicas[r].running.retain(|running| *running != i);
            let finished = now + bounded(self.model.after_token()) + bounded(self.model.after_request());
            self.summary.finished += 1;
            self.summary.end = self.summary.end.max(finished);
            sink.request(self.row(i, Status::Finished, self.lives[i].tokens.len() as u32, Some(finished)));
        }
    }
}
