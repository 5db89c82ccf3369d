//! The prompts of a step (SGLang's `PrefillAdder`).
//!
//! First it is settled who goes with how many tokens, and what of them the cache holds is held; then pages are taken. What one
//! takes can so not be what another one found.

use super::{Last, Prompts, State};
use crate::sim::batch::{Forming, Seat, new_blocks};
use crate::sim::node::Env;
use crate::sim::replica::{Phase, Replica};
use crate::sim::tiers::Asked;

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
    /// Pages that are taken when all is settled, for prompts and for replies beside them; and for the latter alone.
    pages: u64,
    beside: u64,
    /// A prompt is cut.
    cut: bool,
}

/// What became of a request that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Runs,
    /// It is being fetched from tiers, and out of the queue.
    Fetched,
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

    /// The same, where the pages of the prompt are held already.
    fn add_held(&mut self, tokens: i64, reply: i64) {
        let tokens = self.pages_of(tokens);
        self.total_offset += reply as f64;
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
        if (self.full || (r.waiting.is_empty() && (r.tiers.is_none() || r.loaded.is_empty()))) && cut.is_none() {
            return false;
        }
        let listed = r.decodes + self.gone;
        let mixed = self.rules.enable_mixed_chunk && self.rules.chunk().is_some() && listed > 0;
        let beside = if mixed { r.decode_need() } else { 0 };
        if beside > r.pool.free() {
            return false;
        }
        let beside = (if mixed { listed } else { 0 }, beside);
        loop {
            let begun = r.tiers.as_ref().map_or(0, |tiers| tiers.begun());
            let stood = self.stands(r);
            self.arrange(r, env);
            let mut adder = self.adder(r, beside, env);
            self.taken.clear();
            self.again = None;
            if let Some(slot) = cut {
                self.add_cut(slot, &mut adder, r, env);
                if self.taken.is_empty() {
                    return false;
                }
            }
            self.add_waiting(&mut adder, r, f, env);
            if !self.taken.is_empty() {
                self.book(mixed, adder.cut, r, f, env);
                return true;
            }
            let fetches = r.tiers.as_ref().is_some_and(|tiers| tiers.begun() > begun);
            if !fetches || !r.running.is_empty() {
                self.put_back(stood, r);
                return false;
            }
            // Nobody runs, and the queue is another one without those that are fetched.
        }
    }

    /// `beside`: requests and pages of replies in the same step.
    fn adder(&mut self, r: &Replica, (beside, pages): (u64, u64), env: &Env<'_>) -> Adder {
        let replies = match self.verified {
            0 => self.owed.tokens(r.steps),
            _ => self.owed_one_by_one(r, env),
        };
        let owed = replies + self.gone_tokens;
        let beside = beside as i64;
        Adder {
            page: i64::from(r.block_size),
            free: (r.pool.free() * u64::from(r.block_size)) as i64,
            total_offset: beside as f64 + owed as f64 * self.ratio(),
            now_offset: beside,
            input: i64::from(self.rules.max_prefill_tokens) - beside,
            chunk: self.rules.chunk().map(|size| i64::from(size) - beside),
            pages,
            beside: pages,
            cut: false,
        }
    }

    /// What all that reply may still get, where a step yields several tokens.
    fn owed_one_by_one(&self, r: &Replica, env: &Env<'_>) -> u64 {
        let lives = r.running.iter().map(|slot| &r.live[*slot as usize]).filter(|live| live.phase == Phase::Decode);
        lives
            .map(|live| env.demand.cap(live.request, env.max_len).saturating_sub(live.emitted))
            .map(|left| self.clipped(left) as u64)
            .sum()
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
        let held = held + i64::from(live.spare) * adder.page;
        let room = held - i64::from(live.computed) + (r.pool.free() - adder.pages) as i64 * adder.page;
        let tokens = tokens.min(rest).min(room);
        if tokens <= 0 {
            return;
        }
        self.taken.push((slot, live.computed, tokens as u32));
        self.again = Some((slot, live.computed));
        adder.pages += r.chunk_need(live, tokens as u32);
        let whole = tokens == rest;
        let reply = if whole { self.clipped(r.most_out(slot, env)) } else { 0 };
        match live.spare {
            0 => adder.add(tokens, reply),
            // It was fetched.
            _ => adder.add_held(tokens, reply),
        }
        adder.cut = !whole;
    }

    /// Rules 3 to 7, and 25: who holds its pages goes first.
    fn add_waiting(&mut self, adder: &mut Adder, r: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let seats = u64::from(self.rules.settled.running_max).saturating_sub(r.decodes + self.gone);
        while let Some(slot) = if r.tiers.is_some() { r.next_ready(env) } else { r.next_waiting(env) } {
            if self.taken.len() as u64 >= seats {
                self.full = true;
                return;
            }
            let added = match r.live[slot as usize].loaded {
                true => self.add_fetched(slot, adder, r, f, env),
                false => self.add_one(slot, adder, r, f, env),
            };
            let stop = match added {
                Ok(Added::Runs) => adder.stop(),
                Ok(Added::Fetched) => None,
                Err(stop) => Some(stop),
            };
            if let Some(stop) = stop {
                // Where only those hold pages who are being fetched, the next of them is to be looked at.
                let anybody = r.tiers.is_none() || !self.taken.is_empty() || r.decodes + self.gone > 0;
                self.full |= stop == Stop::NoToken && anybody;
                return;
            }
        }
    }

    /// One that was fetched, and holds the pages of its prompt.
    fn add_fetched(
        &mut self,
        slot: u32,
        adder: &mut Adder,
        r: &mut Replica,
        f: &mut Forming,
        env: &Env<'_>,
    ) -> Result<Added, Stop> {
        let live = &r.live[slot as usize];
        let (computed, cap) = (live.computed, r.most_out(slot, env));
        let (tokens, whole) = self.cut_to(i64::from(live.target - computed), adder)?;
        adder.add_held(tokens, if whole { self.clipped(cap) } else { 0 });
        r.unload(slot, env);
        r.sit_fetched(slot, f, env);
        self.goes_along(slot, cap, (computed, tokens as u32, whole), adder);
        Ok(Added::Runs)
    }

    /// A request with so many tokens computed goes with so many more, which may be all of its prompt.
    fn goes_along(&mut self, slot: u32, cap: u32, (computed, tokens, whole): (u32, u32, bool), adder: &mut Adder) {
        self.owed.admit(slot, cap);
        self.taken.push((slot, computed, tokens));
        adder.cut |= !whole;
    }

    /// Rules 5 and 6: tokens of a prompt that lacks so many, and whether those are all of them.
    fn cut_to(&self, rest: i64, adder: &Adder) -> Result<(i64, bool), Stop> {
        if self.rules.prefill_max_requests.is_some_and(|most| self.taken.len() >= most as usize) {
            return Err(Stop::Other);
        }
        let pages = adder.pages_of(rest);
        if pages >= adder.input && !self.taken.is_empty() {
            return Err(Stop::Other);
        }
        let whole = adder.chunk.is_none_or(|left| pages <= left);
        let tokens = if whole { rest } else { adder.chunk.unwrap_or(rest) / adder.page * adder.page };
        if tokens <= 0 || (!whole && adder.cut) {
            return Err(Stop::Other);
        }
        Ok((tokens, whole))
    }

    /// One of the queue.
    fn add_one(
        &mut self,
        slot: u32,
        adder: &mut Adder,
        r: &mut Replica,
        f: &mut Forming,
        env: &Env<'_>,
    ) -> Result<Added, Stop> {
        let first = self.taken.is_empty();
        if self.rules.prefill_max_requests.is_some_and(|most| self.taken.len() >= most as usize) {
            return Err(Stop::Other);
        }
        let live = &r.live[slot as usize];
        let (target, cap) = (live.target, r.most_out(slot, env));
        let (hits, idle) = r.prefix_of(slot, env);
        let reply = self.clipped(cap.saturating_sub(live.emitted));
        let total = (i64::from(target - hits * r.block_size) + reply) as f64;
        if total >= adder.total() {
            return Err(Stop::NoToken);
        }
        // What is found, and nobody uses, cannot be evicted any more; nor what is held for windows and states.
        let locked = (idle as i64 + i64::from(r.fixed)) * adder.page;
        let mut loads = 0;
        if r.tiers.is_some() {
            // Rules 24 and 25.
            let all = u64::from(target.div_ceil(r.block_size) - hits) + idle + u64::from(r.fixed);
            if total >= adder.total() - locked as f64 || adder.beside + r.set_aside() + all > r.pool.free() {
                return Err(Stop::NoToken);
            }
            match r.ask_tiers(slot, hits, idle, env) {
                Asked::NoRoom => return Err(Stop::NoToken),
                Asked::Fetching => {
                    adder.free -= all as i64 * adder.page;
                    return Ok(Added::Fetched);
                }
                Asked::Loads(blocks) => loads = blocks,
            }
        }
        let computed = (hits + loads) * r.block_size;
        let rest = i64::from(target - computed);
        if adder.pages_of(rest) >= adder.input && !first {
            return Err(Stop::Other);
        }
        if total >= adder.total() - locked as f64 {
            return Err(Stop::NoToken);
        }
        let (tokens, whole) = self.cut_to(rest, adder)?;
        let need = new_blocks(computed, tokens as u32, r.block_size);
        if adder.pages + need + u64::from(loads) + idle + u64::from(r.fixed) > r.pool.free() {
            return Err(Stop::NoToken);
        }
        adder.free -= locked + i64::from(loads) * adder.page;
        adder.pages += need;
        adder.add(tokens, if whole { self.clipped(cap) } else { 0 });
        r.dequeue(slot, env);
        r.sit(slot, &Seat { hits, tokens: tokens as u32, spare: 0 }, f, env);
        self.goes_along(slot, cap, (computed, tokens as u32, whole), adder);
        Ok(Added::Runs)
    }

    /// The step is one of those that were taken, and, if `mixed`, of replies.
    fn book(&mut self, mixed: bool, cut: bool, r: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        self.owed.next_step();
        if let Some((slot, computed)) = self.again {
            r.encode_again(slot, computed, f, env);
        }
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
