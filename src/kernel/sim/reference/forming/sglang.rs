//! SGLang's scheduler, as its own code goes: lists of requests, filtered where SGLang filters them, sums over them wherever they
//! are asked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use rand_pcg::Pcg64;

use super::Forming;
use crate::rng;
use crate::sim::latency::BatchShape;
use crate::sim::lora::Gated;
use crate::sim::reference::parts::Stage;
use crate::sim::reference::pools::Pool;
use crate::sim::reference::tiers::Loads;
use crate::sim::reference::world::World;
use crate::sim::scheduler::{SchedulePolicy, Sglang};
use crate::units::{SimDuration, SimTime};

/// What happens with drafts.
const RETRACTED: &str = "sglang: retracted from the end, with drafts";
const PADDED: &str = "sglang: padded with drafts";

/// What SGLang keeps between steps.
#[derive(Default)]
pub(in crate::sim::reference) struct Memory {
    /// `running_batch.reqs`, with those that ended and were not filtered out yet, and `batch_is_full`.
    list: Vec<usize>,
    full: bool,
    /// Requests of the last batch, if it had prompts, and the one of them that was cut.
    last: Option<(Vec<usize>, Option<usize>)>,
    /// `chunked_req`.
    cut: Option<usize>,
    /// The ratio it falls from, if not the first one, and steps of replies since.
    ratio: Option<f64>,
    decays: u64,
    unasked: u32,
    numbers: Option<Pcg64>,
    /// When the last step ended.
    pub ended: SimTime,
}

impl Memory {
    pub(in crate::sim::reference) fn new(seed: u64, engine: usize) -> Memory {
        Memory { numbers: Some(rng::stream(seed, &format!("scheduler/sglang/{engine}"))), ..Memory::default() }
    }
}

/// `PrefillAdder`.
struct Adder {
    page: i64,
    free: i64,
    total_offset: f64,
    now_offset: i64,
    input: i64,
    chunk: Option<i64>,
    /// Request, blocks found, tokens.
    run: Vec<(usize, usize, usize)>,
    /// Pages of those, and of replies beside them.
    pages: usize,
    beside: usize,
    cut: Option<usize>,
}

#[derive(PartialEq, Eq)]
enum Added {
    Continue,
    NoToken,
    Other,
}

impl Adder {
    fn total(&self) -> f64 {
        self.free as f64 - self.total_offset
    }

    fn add(&mut self, tokens: i64, reply: i64) {
        let paged = (tokens as f64 / self.page as f64).ceil() as i64 * self.page;
        self.total_offset += (paged + reply) as f64;
        self.now_offset += paged;
        self.input -= paged;
        if let Some(chunk) = &mut self.chunk {
            *chunk -= paged;
        }
    }

    /// One that has the pages of its whole prompt.
    fn add_held(&mut self, tokens: i64, reply: i64) {
        let paged = (tokens as f64 / self.page as f64).ceil() as i64 * self.page;
        self.total_offset += reply as f64;
        self.input -= paged;
        self.chunk = self.chunk.map(|chunk| chunk - paged);
    }

    fn budget(&self) -> Added {
        if self.total() <= 0.0 || self.free - self.now_offset <= 0 {
            Added::NoToken
        } else if self.input <= 0 || self.chunk.is_some_and(|chunk| chunk <= 0) {
            Added::Other
        } else {
            Added::Continue
        }
    }
}

impl World<'_> {
    pub(super) fn form_sglang(&mut self, r: usize, rules: &Sglang, f: &mut Forming) {
        // Those whose KV caches have come are no part of the queue.
        let (mut came, queue) = self.replicas[r]
            .waiting
            .iter()
            .copied()
            .partition(|i| self.lives[*i].ready && self.lives[*i].hits.is_none());
        self.replicas[r].waiting = queue;
        self.form_with(r, rules, &mut came, f);
        while let Some(i) = came.pop_back() {
            self.replicas[r].waiting.push_front(i);
        }
    }

    fn form_with(&mut self, r: usize, rules: &Sglang, came: &mut VecDeque<usize>, f: &mut Forming) {
        if self.replicas[r].running.is_empty() && f.now > self.replicas[r].sglang.ended {
            self.fire("sglang: idle");
            let numbers = self.replicas[r].sglang.numbers.take();
            self.replicas[r].sglang = Memory { numbers, ..Memory::default() };
        }
        self.merge_last(r);
        if self.replicas[r].sglang.unasked > 0 {
            let before = self.replicas[r].sglang.list.len();
            if self.alive(r).is_empty() {
                let memory = &mut self.replicas[r].sglang;
                memory.list.clear();
                memory.full &= before == 0;
                memory.unasked = 0;
            } else {
                self.fire("sglang: replies in a row");
                self.replies(r, rules, came, f);
                if !f.batch.is_empty() {
                    return;
                }
            }
        }
        loop {
            self.prompts(r, rules, f);
            if !f.batch.is_empty() || self.replicas[r].sglang.list.is_empty() && came.is_empty() {
                return;
            }
            self.replies(r, rules, came, f);
            if !f.batch.is_empty() {
                return;
            }
            let memory = &mut self.replicas[r].sglang;
            (memory.ratio, memory.decays) = (None, 0);
        }
    }

    /// Of the list, those that did not end.
    fn alive(&self, r: usize) -> Vec<usize> {
        self.replicas[r].sglang.list.iter().copied().filter(|i| self.runs(r, *i)).collect()
    }

    fn runs(&self, r: usize, i: usize) -> bool {
        self.replicas[r].running.contains(&i)
    }

    /// The start of `get_next_batch_to_run`.
    fn merge_last(&mut self, r: usize) {
        let running = self.replicas[r].running.clone();
        let memory = &mut self.replicas[r].sglang;
        memory.cut = memory.cut.filter(|i| running.contains(i));
        let Some((mut last, cut)) = memory.last.take() else { return };
        let before = last.len();
        last.retain(|i| running.contains(i) && Some(*i) != cut);
        if last.len() < before {
            if memory.full {
                *self.seen.fired.entry("sglang: no longer full after prompts").or_default() += 1;
            }
            memory.full = false;
        }
        if last.is_empty() {
            return;
        }
        if memory.list.is_empty() {
            (memory.list, memory.full) = (last, false);
        } else {
            memory.list.extend(last);
        }
    }

    /// What a request may still get, as far as it is taken account of.
    fn reply_left(&self, r: usize, rules: &Sglang, i: usize) -> i64 {
        let out = self.lives[i].tokens.len() as i64;
        (self.most_out(r, i) - out).min(i64::from(rules.clip_max_new_tokens_estimation)).max(0)
    }

    pub(super) fn most_out(&self, r: usize, i: usize) -> i64 {
        if self.lives[i].ahead {
            return 0;
        }
        if matches!(self.lives[i].stage, Stage::Prefill | Stage::PrefillOnly) {
            return 1;
        }
        i64::from(self.demand.cap(self.lives[i].request, self.replicas[r].pool.max_len as u32))
    }

    fn ratio(&self, r: usize, rules: &Sglang) -> f64 {
        let init = f64::min(rules.init_new_token_ratio * rules.schedule_conservativeness, 1.0);
        let min = f64::min(init * rules.min_new_token_ratio_factor, 1.0);
        let decay = (init - min) / f64::from(rules.new_token_ratio_decay_steps);
        let memory = &self.replicas[r].sglang;
        let from = memory.ratio.unwrap_or(init);
        if memory.decays == 0 { from } else { (from - memory.decays as f64 * decay).max(min) }
    }

    /// `get_new_batch_prefill`.
    fn prompts(&mut self, r: usize, rules: &Sglang, f: &mut Forming) {
        let memory = &self.replicas[r].sglang;
        let (cut, listed) = (memory.cut, memory.list.len());
        let nobody = self.looked_at(r).is_empty();
        if (memory.full || nobody) && cut.is_none() {
            if memory.full && !nobody {
                self.fire("sglang: full");
                if self.alive(r).len() < listed {
                    self.fire("sglang: who ended is not noticed yet");
                }
            }
            return;
        }
        let chunk = rules.chunked_prefill_size.filter(|size| *size > 0);
        let mixed = rules.enable_mixed_chunk && chunk.is_some() && listed > 0;
        let beside = if mixed { self.pages_of_replies(r) } else { 0 };
        if beside > self.replicas[r].free.len() {
            self.fire("sglang: not mixed for want of pages");
            return;
        }
        loop {
            let trips = self.replicas[r].trips;
            let stood = (self.replicas[r].waiting.clone(), self.replicas[r].sglang.numbers.clone());
            self.sort_queue(r, rules);
            let owed: i64 = self.replicas[r].sglang.list.iter().map(|i| self.reply_left(r, rules, *i)).sum();
            if self.alive(r).len() < listed {
                self.fire("sglang: who ended still counts");
            }
            let page = self.replicas[r].pool.block_size as i64;
            let taken = if mixed { listed as i64 } else { 0 };
            let mut adder = Adder {
                page,
                free: self.replicas[r].free.len() as i64 * page,
                total_offset: taken as f64 + owed as f64 * self.ratio(r, rules),
                now_offset: taken,
                input: i64::from(rules.max_prefill_tokens) - taken,
                chunk: chunk.map(|size| size - taken),
                run: Vec::new(),
                pages: beside,
                beside,
                cut: None,
            };
            if let Some(i) = cut {
                self.add_cut(r, rules, i, &mut adder);
                if adder.run.is_empty() {
                    self.fire("sglang: a cut prompt waits for pages");
                    return;
                }
            }
            self.add_waiting(r, rules, &mut adder, f);
            if !adder.run.is_empty() {
                self.run_prompts(r, mixed, adder, f);
                return;
            }
            // With nobody running there may be any number of looks: one that leads to nothing leaves all as it was, and one
            // after which the queue is shorter is followed by another.
            let machine = &mut self.replicas[r];
            if !machine.running.is_empty() {
                return;
            }
            if machine.trips == trips {
                if !machine.shelves.is_empty() || machine.pool.adapters.is_some() {
                    (machine.waiting, machine.sglang.numbers) = stood;
                }
                return;
            }
            self.fire("sglang: looks again behind a fetch");
        }
    }

    /// `add_chunked_req`.
    fn add_cut(&mut self, r: usize, rules: &Sglang, i: usize, adder: &mut Adder) {
        let rest = (self.lives[i].target - self.lives[i].computed) as i64;
        let Some(chunk) = adder.chunk else { unreachable!("a prompt was cut") };
        let mut tokens = chunk.min(adder.total() as i64);
        if tokens <= 0 {
            self.fire("sglang: a cut prompt goes on without room");
            tokens = chunk;
        }
        let held = self.lives[i].blocks.len() as i64 * adder.page - self.lives[i].computed as i64;
        let room = held + (self.replicas[r].free.len() - adder.pages) as i64 * adder.page;
        if room < tokens.min(rest) {
            self.fire("sglang: a cut prompt is cut by pages");
            tokens = room;
        }
        if tokens <= 0 {
            return;
        }
        self.fire("sglang: a cut prompt goes first");
        let whole = tokens >= rest;
        let tokens = tokens.min(rest);
        let reply = if whole { self.most_out(r, i).min(i64::from(rules.clip_max_new_tokens_estimation)) } else { 0 };
        let computed = self.lives[i].computed.div_ceil(adder.page as usize);
        if self.lives[i].blocks.len() > computed {
            self.fire("sglang: a cut prompt has its pages");
            adder.add_held(tokens, reply);
        } else {
            adder.add(tokens, reply);
        }
        adder.pages += (self.lives[i].computed + tokens as usize)
            .div_ceil(adder.page as usize)
            .saturating_sub(self.lives[i].blocks.len());
        adder.run.push((i, 0, tokens as usize));
        adder.cut = if whole { None } else { Some(i) };
    }

    fn add_waiting(&mut self, r: usize, rules: &Sglang, adder: &mut Adder, f: &mut Forming) {
        let seats = (rules.settled.running_max as usize).saturating_sub(self.replicas[r].sglang.list.len());
        while let Some(i) = self.first_of_queue(r) {
            if adder.run.len() >= seats {
                self.fire("sglang: no seat");
                self.replicas[r].sglang.full = true;
                return;
            }
            match self.add_one(r, rules, i, adder, f) {
                Added::Continue => {}
                Added::NoToken => {
                    self.fire("sglang: no tokens");
                    let served = !adder.run.is_empty() || !self.replicas[r].sglang.list.is_empty();
                    self.replicas[r].sglang.full |= served || self.replicas[r].shelves.is_empty();
                    return;
                }
                Added::Other => return,
            }
        }
    }

    /// The waiting queue: those that hold their pages before the others, without those that are being fetched.
    fn looked_at(&self, r: usize) -> Vec<usize> {
        let mut all: Vec<usize> = self.replicas[r].waiting.iter().copied().collect();
        all.retain(|i| self.lives[*i].trip.is_none());
        all.sort_by_key(|i| !self.lives[*i].ready);
        all
    }

    /// The first that its adapter lets run.
    fn first_of_queue(&self, r: usize) -> Option<usize> {
        let first = self.looked_at(r).into_iter().find(|i| self.gate(r, *i) != Gated::Skip);
        first.filter(|i| self.gate(r, *i) == Gated::Go)
    }

    /// One of which a part was fetched: its pages are its own.
    fn add_fetched(&mut self, r: usize, rules: &Sglang, i: usize, adder: &mut Adder, f: &mut Forming) -> Added {
        let rest = (self.lives[i].target - self.lives[i].computed) as i64;
        let Some(tokens) = self.chunk_of(rest, adder) else { return Added::Other };
        let Some(hits) = self.lives[i].hits else { unreachable!("it was fetched") };
        let Some(at) = self.replicas[r].waiting.iter().position(|other| *other == i) else { unreachable!("it waits") };
        self.sit_fetched(r, at, hits, f);
        let reply = self.most_out(r, i).min(i64::from(rules.clip_max_new_tokens_estimation));
        adder.add_held(tokens, if tokens < rest { 0 } else { reply });
        adder.run.push((i, hits, tokens as usize));
        if tokens < rest {
            self.fire("sglang: a fetched prompt is cut");
            adder.cut = Some(i);
        }
        adder.budget()
    }

    /// Tokens of a prompt that lacks so many, by the budgets of the step.
    fn chunk_of(&mut self, rest: i64, adder: &Adder) -> Option<i64> {
        let paged = (rest as usize).div_ceil(adder.page as usize) as i64 * adder.page;
        if paged >= adder.input && !adder.run.is_empty() {
            self.fire("sglang: max_prefill_tokens");
            return None;
        }
        let Some(chunk) = adder.chunk.filter(|chunk| paged > *chunk) else { return Some(rest) };
        let tokens = chunk / adder.page * adder.page;
        if tokens <= 0 || adder.cut.is_some() {
            self.fire("sglang: chunk too small");
            return None;
        }
        Some(tokens)
    }

    /// `add_one_req`.
    fn add_one(&mut self, r: usize, rules: &Sglang, i: usize, adder: &mut Adder, f: &mut Forming) -> Added {
        if rules.prefill_max_requests.is_some_and(|most| adder.run.len() >= most as usize) {
            self.fire("sglang: enough prompts");
            return Added::Other;
        }
        if self.lives[i].ready {
            return self.add_fetched(r, rules, i, adder, f);
        }
        let page = adder.page as usize;
        let hits = self.look_up(r, i);
        let behind = self.lives[i].target - hits.len() * page;
        let total = (behind as i64 + self.reply_left(r, rules, i)) as f64;
        if total >= adder.total() {
            return Added::NoToken;
        }
        let unused = hits.iter().filter(|id| self.replicas[r].blocks[**id].users == 0).count();
        // They are not free any more when it runs.
        let idle = unused + self.replicas[r].pool.fixed;
        let evictable = total < adder.total() - (idle as i64 * adder.page) as f64;
        let mut loads = Loads::none();
        if !self.replicas[r].shelves.is_empty() {
            let whole = behind.div_ceil(page) + idle;
            if !evictable {
                self.fire("sglang: what is found cannot be evicted");
                return Added::NoToken;
            }
            if adder.beside + self.set_aside(r) + whole > self.replicas[r].free.len() {
                self.fire("tiers: no room for a whole prompt");
                return Added::NoToken;
            }
            match self.tiers_for(r, i, &hits, f.now) {
                Ok(parts) => loads = parts,
                Err(fetched) => {
                    assert!(fetched, "there is room");
                    adder.free -= whole as i64 * adder.page;
                    return Added::Continue;
                }
            }
        }
        let rest = (behind - loads.count() * page) as i64;
        let paged = (rest as usize).div_ceil(page) as i64 * adder.page;
        if paged >= adder.input && !adder.run.is_empty() {
            self.fire("sglang: max_prefill_tokens");
            return Added::Other;
        }
        if !evictable {
            self.fire("sglang: what is found cannot be evicted");
            return Added::NoToken;
        }
        let Some(tokens) = self.chunk_of(rest, adder) else { return Added::Other };
        let pages = loads.count() + (tokens as usize).div_ceil(page);
        if adder.pages + pages + idle > self.replicas[r].free.len() {
            self.fire("sglang: no pages");
            return Added::NoToken;
        }
        let cut = tokens < rest;
        self.lock(r, i, &hits, &loads, f);
        adder.free -= (idle + loads.count()) as i64 * adder.page;
        adder.pages += pages - loads.count();
        let reply = self.most_out(r, i).min(i64::from(rules.clip_max_new_tokens_estimation));
        adder.add(tokens, if cut { 0 } else { reply });
        adder.run.push((i, hits.len(), tokens as usize));
        if cut {
            self.fire("sglang: a prompt is cut");
            adder.cut = Some(i);
        }
        adder.budget()
    }

    /// The head of the queue runs; what was found of it is its own.
    fn lock(&mut self, r: usize, i: usize, hits: &[usize], loads: &Loads, f: &mut Forming) {
        self.note_passed(r, i);
        self.bring_adapter(r, i, f);
        self.leaves_queue(r, i);
        self.charge_prompt(r, i);
        self.replicas[r].waiting.retain(|other| *other != i);
        self.replicas[r].running.push(i);
        self.note_admission(r, i, hits.len(), f.now);
        hits.iter().for_each(|id| self.replicas[r].share(*id));
        self.lives[i].blocks = hits.to_vec();
        let loaded = self.load(r, i, loads, f);
        self.replicas[r].hold_fixed(i);
        let computed = (hits.len() + loaded) * self.replicas[r].pool.block_size;
        self.lives[i].computed = computed;
        self.encode(r, i, computed, f);
    }

    /// `prepare_for_extend`, `mix_with_running`.
    fn run_prompts(&mut self, r: usize, mixed: bool, adder: Adder, f: &mut Forming) {
        let mut last = Vec::new();
        if let Some(i) = self.replicas[r].sglang.cut.filter(|i| adder.run.iter().any(|(other, ..)| other == i)) {
            // Its embeddings are looked for in the cache.
            let kept = self.replicas[r].pool.encoder.map_or(0, |limits| limits.cache);
            if let Some(tokens) = self.to_encode(r, i, self.lives[i].computed).filter(|tokens| *tokens as u64 > kept) {
                self.fire("encoder: encoded again");
                let number = self.replicas[r].pool.number;
                self.totals[number].encoder_tokens += tokens as u64;
                f.inputs.insert(0, tokens);
            }
        }
        for (i, _, tokens) in adder.run {
            // A prompt stays one, however few tokens are left of it.
            let from = self.lives[i].computed;
            let fits = self.extend(r, i, tokens);
            assert!(fits, "its pages were counted");
            let part = self.part(i, false, from, tokens, from);
            f.batch.push(part);
            last.push(i);
        }
        if mixed {
            let alive = self.alive(r);
            for i in &alive {
                let fits = self.go_on(r, *i, 1, f);
                assert!(fits, "its page was counted");
            }
            if !alive.is_empty() {
                self.fire("sglang: mixed");
            }
            last.extend(alive);
            self.replicas[r].sglang.list.clear();
        } else if !self.alive(r).is_empty() {
            self.fire("sglang: replies pause");
        }
        let running = self.replicas[r].running.clone();
        f.batch.sort_by_key(|part| running.iter().position(|i| *i == part.life));
        let memory = &mut self.replicas[r].sglang;
        (memory.last, memory.cut) = (Some((last, adder.cut)), adder.cut);
    }

    /// Pages that a token for every reply takes; with drafts, those that all their tokens may take
    /// (`new_tokens_required_next_decode`).
    fn pages_of_replies(&self, r: usize) -> usize {
        if let Some(drafts) = &self.replicas[r].pool.speculative {
            let tokens = 1 + drafts.longest() as usize;
            return self.alive(r).len() * tokens.div_ceil(self.replicas[r].pool.block_size);
        }
        let full = |i: &usize| self.lives[*i].computed.is_multiple_of(self.replicas[r].pool.block_size);
        self.alive(r).iter().filter(|i| full(i)).count()
    }

    /// `get_new_prebuilt_batch`, `update_running_batch`.
    fn replies(&mut self, r: usize, rules: &Sglang, came: &mut VecDeque<usize>, f: &mut Forming) {
        let before = self.replicas[r].sglang.list.len();
        let seats = (rules.settled.running_max as usize).saturating_sub(before);
        let joins: Vec<usize> = came.drain(..came.len().min(seats)).collect();
        if !came.is_empty() {
            self.fire("sglang: no seat for a cache that has come");
        }
        self.replicas[r].sglang.list = self.alive(r);
        if self.replicas[r].sglang.list.is_empty() {
            self.replicas[r].sglang.full = false;
        }
        if self.replicas[r].sglang.list.is_empty() && joins.is_empty() {
            return;
        }
        if self.pages_of_replies(r) > self.replicas[r].free.len() {
            self.retract(r, rules, f);
        } else {
            self.replicas[r].sglang.decays += 1;
        }
        let list = self.replicas[r].sglang.list.clone();
        self.replicas[r].sglang.full &= list.len() == before;
        self.adapt(r, &list);
        for i in self.replicas[r].running.clone().into_iter().filter(|i| list.contains(i)) {
            let fits = self.go_on(r, i, 1, f);
            assert!(fits, "its page was counted");
        }
        for i in joins {
            self.fire("sglang: a cache has come");
            self.replicas[r].waiting.push_front(i);
            self.seat_ready(r, 0, f);
            self.replicas[r].sglang.list.push(i);
        }
        let memory = &mut self.replicas[r].sglang;
        if !f.batch.is_empty() {
            let steps = if rules.disable_overlap_schedule { rules.num_continuous_decode_steps.max(1) } else { 1 };
            memory.unasked = if memory.unasked == 0 { steps - 1 } else { memory.unasked - 1 };
        }
    }

    /// `retract_decode`.
    fn retract(&mut self, r: usize, rules: &Sglang, f: &mut Forming) {
        let running = self.replicas[r].running.clone();
        let mut order = self.replicas[r].sglang.list.clone();
        // By admission, then as SGLang sorts: who goes is taken from the end.
        order.sort_by_key(|i| running.iter().position(|other| other == i));
        let drafts = self.replicas[r].pool.speculative.is_some();
        if !drafts {
            order.sort_by_key(|i| (Reverse(self.lives[*i].tokens.len()), self.lives[*i].prompt));
        }
        while self.pages_of_replies(r) > self.replicas[r].free.len() {
            let Some(i) = order.pop() else { unreachable!("nobody needs pages") };
            let last = if order.is_empty() { "sglang: the last one is retracted" } else { "sglang: retracted" };
            self.fire(last);
            if drafts {
                self.fire(RETRACTED);
            }
            self.preempt(r, i, f);
            self.replicas[r].sglang.list.retain(|other| *other != i);
        }
        let out: i64 = order.iter().map(|i| self.lives[*i].tokens.len() as i64).sum();
        let most: i64 = order.iter().map(|i| self.most_out(r, *i)).sum();
        let ahead = i64::from(rules.retract_decode_steps) * order.len() as i64;
        let estimate = f64::min((out + ahead) as f64 / (most + 1) as f64, 1.0);
        let memory = &mut self.replicas[r].sglang;
        memory.ratio = (!order.is_empty()).then_some(estimate);
        memory.decays = 0;
    }

    /// `calc_priority`.
    fn sort_queue(&mut self, r: usize, rules: &Sglang) {
        // Who has pages already, and who is being fetched, is not compared.
        let waiting: Vec<usize> = self.replicas[r].waiting.iter().copied().collect();
        let apart = |i: &usize| self.lives[*i].ready || self.lives[*i].trip.is_some();
        let (mut apart, mut queue): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(apart);
        let stood = queue.clone();
        match rules.schedule_policy {
            SchedulePolicy::Fcfs => return,
            SchedulePolicy::Lof => {
                let life = |i: &usize| (&self.lives[*i].arrival, &self.lives[*i].request, &self.lives[*i].sample);
                queue.sort_by_key(|i| (Reverse(self.most_out(r, *i)), life(i)));
                apart.sort_by_key(|i| (Reverse(self.most_out(r, *i)), life(i)));
            }
            SchedulePolicy::Random => {
                let Some(numbers) = &mut self.replicas[r].sglang.numbers else { unreachable!("they are at hand") };
                for last in (1..queue.len()).rev() {
                    queue.swap(last, rng::below(numbers, last as u64 + 1) as usize);
                }
            }
            SchedulePolicy::Lpm if queue.len() > 128 => {
                self.fire("sglang: too many for lpm");
                return;
            }
            SchedulePolicy::Lpm => self.longest_prefix_first(r, rules, &mut queue),
            SchedulePolicy::DfsWeight => queue = self.by_weight(r, &queue),
        }
        if queue != stood {
            self.fire(match rules.schedule_policy {
                SchedulePolicy::Fcfs | SchedulePolicy::Lof => "sglang: lof",
                SchedulePolicy::Random => "sglang: random",
                SchedulePolicy::Lpm => "sglang: lpm",
                SchedulePolicy::DfsWeight => "sglang: dfs-weight",
            });
        }
        apart.extend(queue);
        self.replicas[r].waiting = apart.into();
    }

    /// Hashes of the known blocks of all tokens of a waiting request.
    fn contents(&self, r: usize, i: usize) -> Vec<u64> {
        let tokens = self.lives[i].prompt + self.lives[i].tokens.len();
        let blocks = self.known_blocks(r, i).min(tokens / self.replicas[r].pool.block_size);
        (0..blocks).map(|block| self.hash(r, i, block)).collect()
    }

    /// The part of them that the cache has.
    fn in_cache(&self, r: usize, i: usize) -> Vec<u64> {
        self.contents(r, i).into_iter().take_while(|hash| self.replicas[r].find(*hash).is_some()).collect()
    }

    fn longest_prefix_first(&mut self, r: usize, rules: &Sglang, queue: &mut [usize]) {
        let page = self.replicas[r].pool.block_size as i64;
        let (mut tree, mut back) = (Vec::<Vec<u64>>::new(), Vec::new());
        for i in queue.iter().copied() {
            if self.in_cache(r, i).len() as i64 * page > rules.in_batch_prefix_caching_check_threshold {
                continue;
            }
            let own = self.contents(r, i);
            let shared = |other: &Vec<u64>| own.iter().zip(other).take_while(|(a, b)| a == b).count() as i64;
            let longest = tree.iter().map(shared).max().unwrap_or(0);
            if longest * page >= rules.in_batch_prefix_caching_deprioritize_threshold {
                back.push(i);
                self.fire("sglang: held back");
            } else {
                tree.push(own);
            }
        }
        queue.sort_by_key(|i| {
            (back.contains(i), if back.contains(i) { 0 } else { -(self.in_cache(r, *i).len() as i64) })
        });
    }

    /// A tree of single blocks, walked as SGLang walks its tree of runs.
    fn by_weight(&self, r: usize, queue: &[usize]) -> Vec<usize> {
        let paths: Vec<(usize, Vec<u64>)> = queue.iter().map(|i| (*i, self.in_cache(r, *i))).collect();
        let mut order = Vec::new();
        walk(&paths.iter().map(|(i, path)| (*i, path.as_slice())).collect::<Vec<_>>(), &mut order);
        order
    }

    /// What a request has computed can be found from now on; what is there already is kept once.
    pub(in crate::sim::reference) fn fill_late(&mut self, r: usize, i: usize, computed: usize) {
        if self.replicas[r].pool.common.fills_late && !self.lives[i].blocks.is_empty() {
            let new = self.keep_once(r, i, computed);
            self.store_found(r, i, &new, self.integrated);
        }
    }

    /// The same; returns the blocks of which that is news.
    pub(in crate::sim::reference) fn keep_once(&mut self, r: usize, i: usize, computed: usize) -> Vec<usize> {
        let mut new = Vec::new();
        let computed = computed.saturating_sub(self.unpaired(r));
        for block in 0..self.known_blocks(r, i).min(computed / self.replicas[r].pool.block_size) {
            let (own, hash) = (self.lives[i].blocks[block], self.hash(r, i, block));
            if self.replicas[r].blocks[own].hash == Some(hash) {
                continue;
            }
            new.push(block);
            match self.replicas[r].find(hash) {
                Some(other) => {
                    self.fire("sglang: kept once");
                    self.replicas[r].share(other);
                    self.replicas[r].release(&[own]);
                    self.lives[i].blocks[block] = other;
                }
                None => self.replicas[r].fill(own, hash),
            }
        }
        new
    }

    /// See [`World::said`].
    pub(super) fn said_by_sglang(&mut self, r: usize, pool: &Pool, rules: &Sglang, shape: &BatchShape) -> SimDuration {
        let verifies =
            pool.speculative.is_some() && shape.prefill_requests > 0 && self.replicas[r].sglang.last.is_none();
        let prompts = shape.prefill_requests > 0 && !verifies;
        let size = if verifies { shape.prefill_requests } else { shape.decode_requests } as u32;
        let graph = rules.captured().into_iter().find(|captured| *captured >= size).filter(|_| !prompts);
        if graph.is_some_and(|graph| graph > size) {
            self.fire("sglang: padded");
        }
        if !prompts && graph.is_none() {
            self.fire("sglang: without a graph");
        }
        let empty = graph.map_or(0, |graph| u64::from(graph - size));
        let mut padded = *shape;
        match verifies {
            false => padded.decode_requests += empty,
            true => {
                let tokens = shape.prefill_tokens / shape.prefill_requests;
                padded.prefill_requests += empty;
                padded.prefill_tokens += empty * tokens;
                padded.prefill_tokens_squared += empty * tokens * tokens;
                padded.prefill_tokens_x_input += empty * tokens * tokens;
                if empty > 0 {
                    self.fire(PADDED);
                }
            }
        }
        let said = pool.model.step(&padded);
        let mut costs: Vec<_> = rules
            .kernels()
            .into_iter()
            .filter(|(parameter, _)| rules.computes(parameter, prompts))
            .map(|(parameter, value)| rules.cost(parameter, &value))
            .collect();
        if !prompts && graph.is_none() {
            costs.push(rules.cost("cuda_graph", "none"));
        }
        if rules.kernel_factors.is_empty() {
            return said;
        }
        self.fire("sglang: kernels cost");
        let factor: f64 = costs.iter().map(|c| if prompts { c.prefill } else { c.decode }).product();
        let more: f64 = costs.iter().map(|c| if prompts { c.prefill_us } else { c.decode_us }).sum();
        SimDuration((said.0 as f64 * factor) as i64 + SimDuration::from_us(more).0)
    }
}

/// A request, and what is left of its path.
type Path<'a> = (usize, &'a [u64]);

/// Requests of a subtree, with what is left of their paths: children first, the heaviest before the others.
fn walk(requests: &[Path<'_>], order: &mut Vec<usize>) {
    let mut children: BTreeMap<u64, (usize, Vec<Path<'_>>)> = BTreeMap::new();
    for (at, (i, path)) in requests.iter().enumerate() {
        if let Some((hash, rest)) = path.split_first() {
            children.entry(*hash).or_insert((at, Vec::new())).1.push((*i, rest));
        }
    }
    let mut children: Vec<_> = children.into_values().collect();
    children.sort_by_key(|(first, of)| (Reverse(of.len()), *first));
    children.iter().for_each(|(_, of)| walk(of, order));
    order.extend(requests.iter().filter(|(_, path)| path.is_empty()).map(|(i, _)| *i));
}
