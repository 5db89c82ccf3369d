//! Forming a step: who runs, who is admitted, who is preempted, and which blocks they get.
//!
//! The rules are the scheduler's ([`super::scheduler`]); here they are applied. Where every decode request is sure to
//! get its token, only prefills are looked at; else all running requests are, in order.

use super::latency::BatchShape;
use super::replica::{Env, Live, Out, Phase, Replica};
use super::scheduler::VllmV1;
use crate::units::SimTime;

impl Replica {
    /// Forms the next step and starts it.
    pub(super) fn begin(&mut self, env: &Env<'_>, out: &mut Out) {
        self.blocked = false;
        let mut shape = BatchShape::default();
        let mut budget = env.rules.max_num_batched_tokens;
        let (mut regular, mut preempted) = (self.decodes, false);
        if self.all_fit(env) {
            if !self.counting {
                self.decode_blocks(env);
            } else {
                self.pool.take(self.class_counts[self.class(self.steps)]);
            }
            shape.decode_requests = self.decodes;
            shape.decode_context = self.context;
            budget -= self.decodes as u32;
            for i in 0..self.prefills.len() {
                if budget == 0 {
                    break;
                }
                budget -= self.run_prefill(self.prefills[i], budget, &mut shape, env);
            }
        } else {
            (regular, preempted) = self.walk(&mut budget, &mut shape, env, out);
        }
        if !preempted || VllmV1::ADMITS_AFTER_PREEMPTION {
            self.admit(budget, &mut shape, env, out);
        }
        self.blocked = !preempted
            && !self.waiting.is_empty()
            && self.chunks.is_empty()
            && self.stalled == 0
            && self.decodes == self.running.len() as u64;
        self.launch(&shape, regular, env, out);
    }

    #[inline]
    pub(super) fn class(&self, steps: u64) -> usize {
        (steps % self.class_counts.len() as u64) as usize
    }

    /// Whether every running request gets all that it wants, or at least every decode does, without preemption.
    fn all_fit(&self, env: &Env<'_>) -> bool {
        let budget = u64::from(env.rules.max_num_batched_tokens);
        let decode_need = self.class_counts[self.class(self.steps)];
        if self.stalled > 0 || self.decodes > budget || decode_need > self.pool.free() {
            return false;
        }
        let Some(first) = self.prefills.first() else { return true };
        let (mut left, mut need, mut wanted) = ((budget - self.decodes) as u32, decode_need, 0_u64);
        for slot in &self.prefills {
            let live = &self.live[*slot as usize];
            let remaining = live.target - live.computed;
            let tokens = env.rules.running_tokens(remaining, left);
            wanted += u64::from(env.rules.running_tokens(remaining, u32::MAX));
            left -= tokens;
            need += new_blocks(live.computed, tokens, env.block_size);
        }
        if need > self.pool.free() {
            return false;
        }
        // Prefills behind all decodes take what is left. Before a decode, they must leave it its token; and where
        // blocks have ids, they must not take theirs out of turn.
        let prefills_last = self.running[self.running.len() - self.prefills.len()] == *first;
        prefills_last || (self.counting && wanted + self.decodes <= budget)
    }

    /// All running requests in order. Returns the decodes that run on without a gap, and whether any was preempted.
    fn walk(&mut self, budget: &mut u32, shape: &mut BatchShape, env: &Env<'_>, out: &mut Out) -> (u64, bool) {
        let (mut at, mut regular, mut preempted) = (0, 0, false);
        'running: while at < self.running.len() && *budget > 0 {
            let slot = self.running[at];
            let live = &self.live[slot as usize];
            let decode = live.phase == Phase::Decode;
            let computed = self.computed(live);
            let wanted = if decode { 1 } else { live.target - computed };
            let tokens = env.rules.running_tokens(wanted, *budget);
            let need = new_blocks(computed, tokens, env.block_size);
            while self.pool.free() < need {
                preempted = true;
                let Some(victim) = self.running.pop() else { break 'running };
                self.preempt(victim, env, out);
                if victim == slot {
                    break 'running;
                }
            }
            if decode {
                self.grow(slot, computed, 1, env);
                shape.decode_requests += 1;
                shape.decode_context += u64::from(computed);
                *budget -= 1;
                let live = &mut self.live[slot as usize];
                if std::mem::take(&mut live.stalled) {
                    self.stalled -= 1;
                    self.resumed.push(live.last_token);
                } else {
                    regular += 1;
                }
            } else {
                *budget -= self.run_prefill(slot, *budget, shape, env);
            }
            at += 1;
        }
        for at in at..self.running.len() {
            let slot = self.running[at];
            if self.live[slot as usize].phase == Phase::Decode {
                self.stall(slot, env);
            }
        }
        (regular, preempted)
    }

    /// A running decode request gets nothing in this step: it falls one behind the count of steps.
    fn stall(&mut self, slot: u32, env: &Env<'_>) {
        self.leave_class(slot, env);
        let clock = self.clock;
        let live = &mut self.live[slot as usize];
        live.base -= 1;
        live.finish += 1;
        if !live.stalled {
            live.stalled = true;
            live.last_token = clock;
            self.stalled += 1;
        }
        self.enter_class(slot, env);
    }

    /// One chunk of a running prefill; returns its tokens.
    fn run_prefill(&mut self, slot: u32, budget: u32, shape: &mut BatchShape, env: &Env<'_>) -> u32 {
        let live = &self.live[slot as usize];
        let (computed, target) = (live.computed, live.target);
        let tokens = env.rules.running_tokens(target - computed, budget);
        self.grow(slot, computed, tokens, env);
        self.live[slot as usize].computed = computed + tokens;
        self.chunks.push((slot, tokens));
        add_chunk(shape, tokens, computed, target);
        tokens
    }

    /// Admits waiting requests in order until one does not fit.
    fn admit(&mut self, mut budget: u32, shape: &mut BatchShape, env: &Env<'_>, out: &mut Out) {
        while budget > 0 && env.rules.has_seat(self.running.len()) {
            let Some(&slot) = self.waiting.front() else { return };
            let live = &self.live[slot as usize];
            let (target, request, known) = (live.target, live.request as usize, live.known);
            let (hits, idle_hits) = self.find_prefix(request, known, target, env);
            let computed = hits * env.block_size;
            let Some(tokens) = env.rules.waiting_tokens(target - computed, budget) else { return };
            // No tokens: only by `Quirks::free_full_hits`.
            let held = if tokens > 0 { hits } else { 0 };
            if tokens > 0 && new_blocks(computed, tokens, env.block_size) + idle_hits > self.pool.free() {
                return;
            }
            self.waiting.pop_front();
            let first_time = self.live[slot as usize].scheduled.is_none();
            if first_time && env.caching {
                out.prefix_tokens_queried += u64::from(target);
                out.prefix_tokens_hit += u64::from(computed);
            }
            for block in 0..held {
                let hash = env.derivation.hash(env.requests, request, block);
                if let Some(id) = self.pool.find(hash) {
                    self.pool.share(id);
                    self.live[slot as usize].blocks.push(id);
                }
            }
            self.grow(slot, computed, tokens, env);
            let live = &mut self.live[slot as usize];
            if first_time {
                live.scheduled = Some(self.clock);
                live.cached = computed;
            }
            live.phase = Phase::Prefill;
            live.computed = computed + tokens;
            // Blocks that do not start with the prompt cannot be told by their place.
            live.known = if held == hits { known } else { 0 };
            live.seq = self.next_seq;
            self.next_seq += 1;
            self.running.push(slot);
            self.prefills.push(slot);
            self.chunks.push((slot, tokens));
            if tokens > 0 {
                add_chunk(shape, tokens, if env.quirks.hits_without_context { 0 } else { computed }, target);
            }
            budget -= tokens;
        }
    }

    /// Blocks of the longest known prefix that the cache still holds, and how many of them nobody uses.
    fn find_prefix(&self, request: usize, known: u32, target: u32, env: &Env<'_>) -> (u32, u64) {
        if self.counting {
            return (0, 0);
        }
        // The last token is computed again even on a full hit: its output is the first new token.
        let most = if env.quirks.free_full_hits { target } else { target - 1 } / env.block_size;
        let (mut hits, mut idle) = (0, 0);
        while hits < most.min(known) {
            let Some(id) = self.pool.find(env.derivation.hash(env.requests, request, hits)) else { break };
            idle += u64::from(self.pool.is_free(id));
            hits += 1;
        }
        (hits, idle)
    }

    /// The blocks for `tokens` more tokens after `computed`.
    fn grow(&mut self, slot: u32, computed: u32, tokens: u32, env: &Env<'_>) {
        let need = new_blocks(computed, tokens, env.block_size);
        if self.counting {
            self.pool.take(need);
            return;
        }
        for _ in 0..need {
            let id = self.pool.allocate();
            self.live[slot as usize].blocks.push(id);
        }
        let live = &self.live[slot as usize];
        let full = ((computed + tokens) / env.block_size).min(live.known);
        for block in computed / env.block_size..full {
            let hash = env.derivation.hash(env.requests, live.request as usize, block);
            self.pool.fill(live.blocks[block as usize], hash);
        }
    }

    /// The blocks of all decode requests for one token each. Blocks are taken in order of admission; that some are
    /// filled only after all were taken changes nothing, because a full block is in use and cannot be taken.
    pub(super) fn decode_blocks(&mut self, env: &Env<'_>) {
        let class = self.class(self.steps);
        for at in 0..self.class_lists[class].len() {
            let slot = self.class_lists[class][at] as usize;
            let id = self.pool.allocate();
            self.live[slot].blocks.push(id);
        }
        let filling = self.class(self.steps + 1);
        for at in 0..self.class_lists[filling].len() {
            let live = &self.live[self.class_lists[filling][at] as usize];
            let block = self.computed(live) / env.block_size;
            if block < live.known {
                let hash = env.derivation.hash(env.requests, live.request as usize, block);
                self.pool.fill(live.blocks[block as usize], hash);
            }
        }
    }

    /// A request, already taken from `running`, loses its cache and goes back to the front of the queue.
    fn preempt(&mut self, slot: u32, env: &Env<'_>, out: &mut Out) {
        out.preemptions += 1;
        self.release(slot, env);
        let clock = self.clock;
        match self.live[slot as usize].phase {
            Phase::Decode => {
                self.leave_decode(slot, env);
                let live = &mut self.live[slot as usize];
                live.emitted = live.output - (live.finish - self.steps) as u32;
                if std::mem::take(&mut live.stalled) {
                    self.stalled -= 1;
                } else {
                    live.last_token = clock;
                }
            }
            Phase::Prefill => {
                let last = self.prefills.pop();
                assert!(last == Some(slot), "the last of the running is the last of the prefills");
            }
            Phase::Waiting => {}
        }
        let live = &mut self.live[slot as usize];
        live.known = env.derivation.known_blocks(env.requests, live.request as usize, env.block_size);
        if env.quirks.restart_from_prompt {
            (live.emitted, live.first_token, live.last_token) = (0, None, SimTime::ZERO);
        }
        live.phase = Phase::Waiting;
        live.preemptions += 1;
        live.computed = 0;
        live.target = live.input + live.emitted;
        self.waiting.push_front(slot);
    }

    /// Frees the blocks of a request.
    pub(super) fn release(&mut self, slot: u32, env: &Env<'_>) {
        if !self.counting {
            self.pool.release(&self.live[slot as usize].blocks);
            self.live[slot as usize].blocks.clear();
            return;
        }
        let live = &self.live[slot as usize];
        // Whatever was in the cache before this step; the blocks of a step are taken after those of its victims went.
        self.pool.give(u64::from(self.computed(live).div_ceil(env.block_size)));
    }

    /// A completed request takes the place of its last token too, before it frees all.
    pub(super) fn take_one_more(&mut self, slot: u32, env: &Env<'_>) {
        let computed = self.computed(&self.live[slot as usize]);
        if !self.counting && new_blocks(computed, 1, env.block_size) <= self.pool.free() {
            self.grow(slot, computed, 1, env);
        }
    }

    /// Tokens in the cache.
    #[inline]
    pub(super) fn computed(&self, live: &Live) -> u32 {
        match live.phase {
            Phase::Decode => (live.base + self.steps as i64) as u32,
            Phase::Waiting | Phase::Prefill => live.computed,
        }
    }

    pub(super) fn enter_decode(&mut self, slot: u32, env: &Env<'_>) {
        self.decodes += 1;
        let live = &self.live[slot as usize];
        self.context += u64::from(live.computed);
        self.finishes.push(std::cmp::Reverse((live.finish, live.seq, slot)));
        self.enter_class(slot, env);
    }

    pub(super) fn leave_decode(&mut self, slot: u32, env: &Env<'_>) {
        self.leave_class(slot, env);
        self.decodes -= 1;
        self.context -= u64::from(self.computed(&self.live[slot as usize]));
    }

    fn enter_class(&mut self, slot: u32, env: &Env<'_>) {
        let live = &self.live[slot as usize];
        let class = (-live.base).rem_euclid(i64::from(env.block_size)) as usize;
        self.class_counts[class] += 1;
        if !self.counting {
            let at = self.class_position(class, live.seq);
            self.class_lists[class].insert(at, slot);
        }
    }

    fn leave_class(&mut self, slot: u32, env: &Env<'_>) {
        let live = &self.live[slot as usize];
        let class = (-live.base).rem_euclid(i64::from(env.block_size)) as usize;
        self.class_counts[class] -= 1;
        if !self.counting {
            let at = self.class_position(class, live.seq);
            self.class_lists[class].remove(at);
        }
    }

    fn class_position(&self, class: usize, seq: u64) -> usize {
        self.class_lists[class].partition_point(|slot| self.live[*slot as usize].seq < seq)
    }
}

/// Blocks that `tokens` tokens after `computed` need beyond those already held.
#[inline]
fn new_blocks(computed: u32, tokens: u32, block_size: u32) -> u64 {
    u64::from((computed + tokens).div_ceil(block_size) - computed.div_ceil(block_size))
}

fn add_chunk(shape: &mut BatchShape, tokens: u32, context: u32, input: u32) {
    let (n, context, input) = (u64::from(tokens), u64::from(context), u64::from(input));
    shape.prefill_requests += 1;
    shape.prefill_tokens += n;
    shape.prefill_context += context;
    shape.prefill_tokens_x_context += n * context;
    shape.prefill_tokens_squared += n * n;
    shape.prefill_tokens_x_input += n * input;
}
