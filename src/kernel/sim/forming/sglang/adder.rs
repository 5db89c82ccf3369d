//! The prompts of a step (SGLang's `PrefillAdder`).
//!
//! First it is settled who goes with how many tokens, and what of them the cache holds is held; then pages are taken. What one
//! takes can so not be what another one found.

use super::{Last, Prompts, State};
use crate::sim::batch::{Forming, Seat, new_blocks};
use crate::sim::node::Env;
use crate::sim::replica::Replica;

/// What is left of every budget.
struct Adder {
    page: i64,
    /// Tokens in pages that are free, or hold what nobody uses.
    free: i64,
    /// Of those, what running requests are expected to take, and what this step adds, with replies and without.
    total_offset: f64,
    now_offset: i64,
    input: i64,
    chunk: Option<i64>,
    /// Pages that are taken when all is settled, for prompts and for replies beside them.
    pages: u64,
    /// A prompt is cut.
    cut: bool,
}

/// Why no further request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    NoToken,
    Other,
}

impl Adder {
    fn total(&self) -> f64 {
        self.free as f64 - self.total_offset
    }

    fn pages_of(&self, tokens: i64) -> i64 {
        (tokens + self.page - 1) / self.page * self.page
    }

    /// `reply`: tokens that it may generate.
    fn add(&mut self, tokens: i64, reply: i64) {
        let tokens = self.pages_of(tokens);
        self.total_offset += (tokens + reply) as f64;
        self.now_offset += tokens;
        self.input -= tokens;
        self.chunk = self.chunk.map(|left| left - tokens);
    }

    fn stop(&self) -> Option<Stop> {
        if self.total() <= 0.0 || self.free - self.now_offset <= 0 {
            return Some(Stop::NoToken);
        }
        (self.input <= 0 || self.chunk.is_some_and(|left| left <= 0)).then_some(Stop::Other)
    }
}

impl State {
    /// Rules 1 to 8: whether the step is one of prompts.
    pub(super) fn prompts(&mut self, r: &mut Replica, f: &mut Forming, env: &Env<'_>) -> bool {
        if self.unasked > 0 && r.decodes > 0 {
            return false;
        }
        let cut = r.prefills.first().copied();
        if (self.full || r.waiting.is_empty()) && cut.is_none() {
            return false;
        }
        let listed = r.decodes + self.gone;
        let mixed = self.rules.enable_mixed_chunk && self.rules.chunk().is_some() && listed > 0;
        let beside = if mixed { r.decode_need() } else { 0 };
        if beside > r.pool.free() {
            return false;
        }
        self.arrange(r, env);
        let mut adder = self.adder(r, if mixed { listed } else { 0 });
        adder.pages = beside;
        self.taken.clear();
        if let Some(slot) = cut {
            self.add_cut(slot, &mut adder, r, env);
            if self.taken.is_empty() {
                return false;
            }
        }
        self.add_waiting(&mut adder, r, f, env);
        if self.taken.is_empty() {
            return false;
        }
        self.book(mixed, adder.cut, r, f, env);
        true
    }

    fn adder(&mut self, r: &Replica, beside: u64) -> Adder {
        let owed = self.owed.tokens(r.steps) + self.gone_tokens;
        let beside = beside as i64;
        Adder {
            page: i64::from(r.block_size),
            free: (r.pool.free() * u64::from(r.block_size)) as i64,
            total_offset: beside as f64 + owed as f64 * self.ratio(),
            now_offset: beside,
            input: i64::from(self.rules.max_prefill_tokens) - beside,
            chunk: self.rules.chunk().map(|size| i64::from(size) - beside),
            pages: 0,
            cut: false,
        }
    }

    fn clipped(&self, tokens: u32) -> i64 {
        i64::from(tokens.min(self.rules.clip_max_new_tokens_estimation))
    }

    /// Rule 2.
    fn add_cut(&mut self, slot: u32, adder: &mut Adder, r: &Replica, env: &Env<'_>) {
        let live = &r.live[slot as usize];
        let rest = i64::from(live.target - live.computed);
        let left = adder.chunk.unwrap_or(rest);
        let mut tokens = left.min(adder.total() as i64);
        if tokens <= 0 {
            tokens = left;
        }
        // Not in SGLang, which would stop: no more than there are pages for.
        let held = (i64::from(live.computed) + adder.page - 1) / adder.page * adder.page;
        let room = held - i64::from(live.computed) + (r.pool.free() - adder.pages) as i64 * adder.page;
        let tokens = tokens.min(rest).min(room);
        if tokens <= 0 {
            return;
        }
        self.taken.push((slot, live.computed, tokens as u32));
        adder.pages += new_blocks(live.computed, tokens as u32, r.block_size);
        let whole = tokens == rest;
        let reply = if whole { self.clipped(r.most_out(slot, env)) } else { 0 };
        adder.add(tokens, reply);
        adder.cut = !whole;
    }

    /// Rules 3 to 7.
    fn add_waiting(&mut self, adder: &mut Adder, r: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let seats = u64::from(self.rules.settled.running_max).saturating_sub(r.decodes + self.gone);
        while let Some(slot) = r.waiting.front() {
            if self.taken.len() as u64 >= seats {
                self.full = true;
                return;
            }
            let stop = self.add_one(slot, adder, r, f, env).err().or_else(|| adder.stop());
            if let Some(stop) = stop {
                self.full |= stop == Stop::NoToken;
                return;
            }
        }
    }

    /// The head of the queue.
    fn add_one(
        &mut self,
        slot: u32,
        adder: &mut Adder,
        r: &mut Replica,
        f: &mut Forming,
        env: &Env<'_>,
    ) -> Result<(), Stop> {
        let first = self.taken.is_empty();
        if self.rules.prefill_max_requests.is_some_and(|most| self.taken.len() >= most as usize) {
            return Err(Stop::Other);
        }
        let live = &r.live[slot as usize];
        let (target, cap) = (live.target, r.most_out(slot, env));
        let (hits, idle) = r.prefix_of(slot, env);
        let computed = hits * r.block_size;
        let rest = i64::from(target - computed);
        let total = (rest + self.clipped(cap.saturating_sub(live.emitted))) as f64;
        if total >= adder.total() {
            return Err(Stop::NoToken);
        }
        let pages = adder.pages_of(rest);
        if pages >= adder.input && !first {
            return Err(Stop::Other);
        }
        // What is found, and nobody uses, cannot be evicted any more; nor what is held for windows and states.
        let locked = (idle as i64 + i64::from(r.fixed)) * adder.page;
        if total >= adder.total() - locked as f64 {
            return Err(Stop::NoToken);
        }
        let whole = adder.chunk.is_none_or(|left| pages <= left);
        let tokens = if whole { rest } else { adder.chunk.unwrap_or(rest) / adder.page * adder.page };
        if tokens <= 0 || (!whole && adder.cut) {
            return Err(Stop::Other);
        }
        let need = new_blocks(computed, tokens as u32, r.block_size);
        if adder.pages + need + idle + u64::from(r.fixed) > r.pool.free() {
            return Err(Stop::NoToken);
        }
        adder.free -= locked;
        adder.pages += need;
        adder.add(tokens, if whole { self.clipped(cap) } else { 0 });
        r.waiting.pop_front();
        r.sit(slot, &Seat { hits, tokens: tokens as u32, spare: 0 }, f, env);
        self.owed.admit(slot, cap);
        self.taken.push((slot, computed, tokens as u32));
        adder.cut |= !whole;
        Ok(())
    }

    /// The step is one of those that were taken, and, if `mixed`, of replies.
    fn book(&mut self, mixed: bool, cut: bool, r: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        self.owed.next_step();
        let mut completes = 0;
        for at in 0..self.taken.len() {
            let (slot, computed, tokens) = self.taken[at];
            completes += u64::from(computed + tokens == r.live[slot as usize].target);
            r.book_chunk(slot, computed, tokens, computed, f, env);
        }
        if mixed {
            self.forget_gone();
        }
        if mixed && r.decodes > 0 {
            r.decode_all(f, env);
            self.last = Last::Mixed;
            return;
        }
        f.pause = true;
        let beside = r.decodes + self.gone;
        self.last = Last::Prompts(Prompts { beside, completes, cut, ..Prompts::default() });
    }
}
