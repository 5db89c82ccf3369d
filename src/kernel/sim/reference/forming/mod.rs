//! Forming a step: who runs, who is preempted, who is admitted, and which blocks they get. One file a scheduler; here is what
//! they share.

mod faster_transformer;
mod lightllm;
mod orca;
mod sarathi;
pub(super) mod sglang;
mod trtllm;
mod vllm_v0;
mod vllm_v1;

use std::rc::Rc;

use super::parts::{Life, Part, Stage, Step};
use super::pools::Pool;
use super::speculating::{GIVEN_BACK, HIT_DROPPED, KEPT};
use super::steptime::{empty_step_time, step_time};
use super::tiers::Loads;
use super::world::World;
use crate::sim::latency::BatchShape;
use crate::sim::lora::Gated;
use crate::sim::scheduler::{Beams, QueueOrder, Scheduler};
use crate::sim::{SimError, StepRow};
use crate::units::{SimDuration, SimTime};

/// A batch in the making.
pub(super) struct Forming {
    pub now: SimTime,
    budget: usize,
    batch: Vec<Part>,
    preempted: u32,
    /// What the encoder computes before it.
    inputs: Vec<usize>,
    /// On top of what the latency model says.
    pub(super) more: SimDuration,
    /// The same, for what comes from tiers.
    pub loads: SimDuration,
    /// The engine cannot go on.
    failed: Option<SimError>,
}

impl World<'_> {
    pub(super) fn pool(&self, r: usize) -> Rc<Pool> {
        Rc::clone(&self.replicas[r].pool)
    }

    /// Forms the next step of replica `r`, for requests as they are when the step that runs, if any, has ended. `None`
    /// where none runs and none can be formed: others hold the blocks.
    pub(super) fn form(&mut self, r: usize, now: SimTime) -> Result<Option<Step>, SimError> {
        let pool = self.pool(r);
        self.begin_load(r, now);
        let trips = self.replicas[r].trips;
        let mut forming = Forming {
            now,
            budget: 0,
            batch: Vec::new(),
            preempted: 0,
            inputs: Vec::new(),
            more: SimDuration::ZERO,
            loads: SimDuration::ZERO,
            failed: None,
        };
        match &pool.scheduler {
            Scheduler::VllmV1(rules) => self.form_v1(r, rules, &mut forming),
            Scheduler::VllmV0(rules) => self.form_vllm_v0(r, rules, &mut forming),
            Scheduler::Sarathi(rules) => self.form_sarathi(r, rules, &mut forming),
            Scheduler::Orca(rules) => self.form_orca(r, rules, &mut forming),
            Scheduler::FasterTransformer(rules) => self.form_faster_transformer(r, rules, &mut forming),
            Scheduler::Lightllm(rules) => self.form_lightllm(r, rules, &mut forming),
            Scheduler::Sglang(rules) => self.form_sglang(r, rules, &mut forming),
            Scheduler::Trtllm(rules) => self.form_trtllm(r, rules, &mut forming),
            Scheduler::Exclusive(_) => unreachable!("the oracle of another scheduler"),
        }
        if self.replicas[r].trips > trips {
            self.begin_load(r, now);
        }
        self.store_evicted(r, now);
        if let Some(failed) = forming.failed {
            return Err(failed);
        }
        if forming.batch.is_empty() && forming.preempted == 0 && self.replicas[r].current.is_none() {
            // To look is to change the order of the queue.
            if matches!(pool.scheduler, Scheduler::Sglang(_)) {
                self.replicas[r].rests = true;
                self.fire("sglang: rests");
            }
            return Ok(None);
        }
        let others = self.replicas[r].line.most > 1 && self.replicas[r].current.is_some();
        if forming.batch.is_empty() && others && forming.more == SimDuration::ZERO {
            self.note_peaks(r);
            return Ok(None);
        }
        for part in &mut forming.batch {
            let life = &mut self.lives[part.life];
            let end = part.certain();
            life.recomputed += life.most.min(end).saturating_sub(part.from);
            part.restores = life.losing.is_some() && end >= life.most;
            part.preemptions = life.preemptions;
            life.most = life.most.max(end);
        }
        let yielding: Vec<usize> = forming.batch.iter().filter(|part| part.yields).map(|part| part.life).collect();
        let yielding = yielding.into_iter().filter(|i| !self.lives[*i].silent).collect::<Vec<_>>();
        yielding.into_iter().for_each(|i| self.charge_token(r, i));
        self.count_stalls(r, &forming.batch);
        self.note_held_up(r);
        self.note_peaks(r);
        let shape = self.shape(&forming.batch, pool.model.wants_spread());
        let empty = forming.batch.iter().all(|part| part.tokens == 0);
        let mix = self.mix(r, &forming.batch);
        let mut drafting = SimDuration::ZERO;
        let duration = match empty {
            true if forming.more == SimDuration::ZERO => empty_step_time(pool.tick),
            true => step_time(forming.more, pool.overhead, pool.tick)?,
            false => {
                forming.more += self.encoder_time(&pool, &forming.inputs);
                let plain = self.said(r, &shape);
                let said = self.with_adapters(r, plain, mix);
                // The drafter has no adapters.
                drafting = self.drafting(r, &pool, &forming.batch, plain);
                let said = SimDuration(said.0.saturating_add(drafting.0));
                let raw = self.replicas[r].noise.as_mut().map_or(said, |noise| noise.on(said));
                let start = self.replicas[r].current.as_ref().map_or(now, Step::end);
                let tiers = forming.loads + self.slowed(r, start, raw);
                step_time(SimDuration(raw.0.saturating_add((forming.more + tiers).0)), pool.overhead, pool.tick)?
            }
        };
        let row = self.step_row(r, duration, &shape, forming.preempted);
        Ok(Some(Step { batch: forming.batch, shape, mix, drafting, row }))
    }

    /// A rule of a scheduler was applied.
    pub(in crate::sim::reference) fn fire(&mut self, rule: &'static str) {
        *self.seen.fired.entry(rule).or_default() += 1;
    }

    /// How long a batch takes by the latency model, as the scheduler has it run.
    pub(in crate::sim::reference) fn said(&mut self, r: usize, shape: &BatchShape) -> SimDuration {
        let pool = self.pool(r);
        match &pool.scheduler {
            Scheduler::VllmV1(_) | Scheduler::Exclusive(_) => pool.model.step(shape),
            Scheduler::VllmV0(_)
            | Scheduler::Sarathi(_)
            | Scheduler::Orca(_)
            | Scheduler::Lightllm(_)
            | Scheduler::Trtllm(_) => pool.model.step(shape),
            Scheduler::Sglang(rules) => self.said_by_sglang(r, &pool, rules, shape),
            Scheduler::FasterTransformer(rules) => {
                let padded = self.padded(r, rules, shape);
                pool.model.step(&padded)
            }
        }
    }

    /// The token of the step that runs is its last, and the scheduler knows: a cap says so, or only the prompt is to be
    /// computed here.
    fn is_about_to_be_cut(&self, r: usize, i: usize) -> bool {
        let Some(step) = &self.replicas[r].current else { return false };
        let coming = step.batch.iter().any(|part| part.life == i && part.yields);
        let life = &self.lives[i];
        coming && (life.leaves_with_prompt() || life.cut && life.tokens.len() + 1 == life.output)
    }

    pub(super) fn part(&mut self, i: usize, decode: bool, from: usize, tokens: usize, context: usize) -> Part {
        let life = &mut self.lives[i];
        life.computed = from + tokens;
        let yields = life.computed >= life.target;
        Part { life: i, decode, from, tokens, context, filled_from: from, yields, restores: false, preemptions: 0 }
    }

    /// Who goes when blocks are short.
    fn victim(&self, r: usize) -> usize {
        let running = &self.replicas[r].running;
        let lives = &self.lives;
        let priority = |i: &&usize| {
            let life = &lives[**i];
            (self.demand.priority(life.request), life.arrival, life.request, life.sample)
        };
        let victim = match self.replicas[r].pool.common.policy {
            QueueOrder::Fcfs | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack | QueueOrder::Fair => {
                running.last()
            }
            QueueOrder::Priority => running.iter().max_by_key(priority),
        };
        victim.copied().unwrap_or_else(|| unreachable!("a request alone must get its blocks"))
    }

    fn preempt(&mut self, r: usize, i: usize, f: &mut Forming) {
        if let Some(at) = f.batch.iter().position(|part| part.life == i) {
            let part = f.batch.remove(at);
            f.budget += part.tokens;
            self.seen.give_backs += 1;
            if part.decode && part.tokens > 1 {
                self.fire(GIVEN_BACK);
            }
            self.undo(r, part);
        }
        let blocks = std::mem::take(&mut self.lives[i].blocks);
        self.replicas[r].encoded.remove(&i);
        self.replicas[r].release_fixed(i);
        self.replicas[r].release(&blocks);
        self.replicas[r].running.retain(|running| *running != i);
        self.note_end_of_use(r, i);
        let beams = self.lives[i].beams > 1 && self.replicas[r].pool.common.beams == Beams::FromStart;
        if beams {
            let rule =
                if self.lives[i].tokens.is_empty() { "beams: paused in its prompt" } else { "beams: begins anew" };
            self.fire(rule);
            self.forks_leave(r, i);
            self.lives[i].forks.clear();
        }
        let life = &mut self.lives[i];
        if self.quirks.restart_from_prompt || beams {
            life.tokens.clear();
            life.most = life.most.min(life.prompt);
        }
        (life.computed, life.missing, life.loaded, life.drafts) = (0, 0, 0, 0);
        life.losing = life.losing.or(Some(f.now));
        life.preemptions += 1;
        self.summary.preemptions += 1;
        self.seen.reply_preemptions += u64::from(self.lives[i].stage == Stage::Reply);
        f.preempted += 1;
        match self.replicas[r].pool.common.policy {
            QueueOrder::Fcfs if !self.replicas[r].pool.common.requeues_last => self.replicas[r].waiting.push_front(i),
            QueueOrder::Fcfs => self.replicas[r].waiting.push_back(i),
            // The head of the queue is looked for.
            QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack | QueueOrder::Fair => {
                self.replicas[r].waiting.push_back(i)
            }
        }
    }

    /// The tokens of a part are not computed after all: blocks that they would have filled do not have their content.
    fn undo(&mut self, r: usize, part: Part) {
        let (from, certain) = (part.filled_from, part.certain());
        for block in self.known_blocks_filled(r, part.life, from, certain.saturating_sub(from)) {
            if (block + 1) * self.replicas[r].pool.block_size <= self.lives[part.life].loaded {
                continue;
            }
            let id = self.lives[part.life].blocks[block];
            self.replicas[r].forget(id);
        }
        self.lives[part.life].computed = part.from;
    }

    /// Where in the queue its head is: those that hold their blocks, because their KV cache has come, go before all others;
    /// those that wait for their adapters may be passed over, or hold up all.
    fn head(&self, r: usize) -> Option<usize> {
        self.head_by(r, &|i| self.gate(r, i))
    }

    /// The same, where these may go.
    fn head_by(&self, r: usize, gate: &dyn Fn(usize) -> Gated) -> Option<usize> {
        let waiting = &self.replicas[r].waiting;
        let any_ready = waiting.iter().any(|i| self.lives[*i].ready && gate(*i) != Gated::Skip);
        let looked_at = |at: &usize| {
            let life = &self.lives[waiting[*at]];
            let free = life.listed.is_none() && life.trip.is_none();
            life.ready == any_ready && free && gate(waiting[*at]) != Gated::Skip
        };
        let first_by = |key: &dyn Fn(&Life) -> i64| {
            (0..waiting.len()).filter(looked_at).min_by_key(|at| {
                let life = &self.lives[waiting[*at]];
                (key(life), life.arrival, life.request, life.sample)
            })
        };
        let first = match self.replicas[r].pool.common.policy {
            QueueOrder::Fcfs => (0..waiting.len()).find(looked_at),
            QueueOrder::Priority => first_by(&|life| i64::from(self.demand.priority(life.request))),
            QueueOrder::Sjf => first_by(&|life| life.prompt as i64),
            QueueOrder::Edf => first_by(&|life| self.demand.deadline(life.request).0),
            QueueOrder::LeastSlack => {
                let places = (0..waiting.len()).filter(looked_at);
                places.min_by_key(|at| {
                    let life = &self.lives[waiting[*at]];
                    (self.latest_start(waiting[*at]), life.arrival, life.request, life.sample)
                })
            }
            QueueOrder::Fair if any_ready => (0..waiting.len()).find(looked_at),
            QueueOrder::Fair => {
                let places = (0..waiting.len()).filter(looked_at);
                places.min_by_key(|at| {
                    let life = &self.lives[waiting[*at]];
                    (self.counter(r, waiting[*at]), life.arrival, life.request, life.sample)
                })
            }
        };
        first.filter(|at| gate(waiting[*at]) == Gated::Go)
    }

    /// Requests in the queue in the order in which they are looked at, those that hold their blocks before the others. Who is
    /// being fetched is not looked at. With fair sharing there are no adapters.
    pub(super) fn queue(&self, r: usize) -> Vec<usize> {
        let mut queue: Vec<usize> = self.replicas[r].waiting.iter().copied().collect();
        queue.retain(|i| self.lives[*i].trip.is_none());
        let key = |i: usize| match self.replicas[r].pool.common.policy {
            QueueOrder::Fcfs | QueueOrder::Fair => None,
            QueueOrder::Priority => Some(i64::from(self.demand.priority(self.lives[i].request))),
            QueueOrder::Sjf if self.replicas[r].pool.common.longest_reply_first => Some(-self.most_out(r, i)),
            QueueOrder::Sjf => Some(self.lives[i].prompt as i64),
            QueueOrder::Edf => Some(self.demand.deadline(self.lives[i].request).0),
            QueueOrder::LeastSlack => Some(self.latest_start(i)),
        };
        // Without a key, they are in the order of the queue.
        let came = |i: usize| (self.lives[i].arrival, self.lives[i].request, self.lives[i].sample);
        queue.sort_by_key(|i| key(*i).map(|key| (key, came(*i))));
        queue.sort_by_key(|i| !self.lives[*i].ready);
        queue
    }

    /// Blocks that hold the start of a waiting request, all tokens of which are to be computed.
    pub(super) fn look_up(&mut self, r: usize, i: usize) -> Vec<usize> {
        let life = &mut self.lives[i];
        life.target = life.prompt + life.tokens.len();
        let mut hits = self.prefix(r, i);
        if self.drops_hit(r) && hits.pop().is_some() {
            self.fire(HIT_DROPPED);
        }
        hits
    }

    /// The request at this place of the queue runs from now on: these blocks hold its start, and so many tokens behind them go
    /// into the step, for which there are blocks.
    fn take_seat(&mut self, r: usize, at: usize, hits: Vec<usize>, tokens: usize, f: &mut Forming) {
        self.take_seat_with(r, at, hits, &Loads::none(), tokens, f);
    }

    /// The same, where tiers have more of its start.
    fn take_seat_with(&mut self, r: usize, at: usize, hits: Vec<usize>, loads: &Loads, tokens: usize, f: &mut Forming) {
        let pool = self.pool(r);
        let i = self.replicas[r].waiting[at];
        if self.lives[i].listed.is_none() {
            self.note_overtaking(r, i);
        }
        self.note_passed(r, i);
        self.bring_adapter(r, i, f);
        self.leaves_queue(r, i);
        self.charge_prompt(r, i);
        self.replicas[r].waiting.remove(at);
        self.replicas[r].running.push(i);
        self.note_admission(r, i, hits.len(), f.now);
        self.note_sharing(i, hits.len(), &f.batch);
        let mut computed = hits.len() * pool.block_size;
        let (hits, missing) = if tokens > 0 { (hits, 0) } else { (Vec::new(), hits.len()) };
        hits.iter().for_each(|id| self.replicas[r].share(*id));
        (self.lives[i].blocks, self.lives[i].missing) = (hits, missing);
        computed += self.load(r, i, loads, f) * pool.block_size;
        self.replicas[r].hold_fixed(i);
        self.lives[i].computed = computed;
        let fits = self.extend(r, i, tokens);
        assert!(fits, "an admitted request must get its blocks");
        self.encode(r, i, computed, f);
        let context = if self.quirks.hits_without_context { 0 } else { computed };
        f.batch.push(self.part(i, false, computed, tokens, context));
    }

    /// A request is admitted, of which so many tokens are there: what it needs is encoded.
    fn encode(&mut self, r: usize, i: usize, computed: usize, f: &mut Forming) {
        let Some(tokens) = self.to_encode(r, i, computed) else { return };
        self.fire("encoder: encoded before a prompt");
        let number = self.replicas[r].pool.number;
        self.replicas[r].encoded.insert(i, tokens);
        self.totals[number].encoder_tokens += tokens as u64;
        f.inputs.push(tokens);
    }

    /// Encoder tokens that request `i` needs on this replica, if the first `computed` of its prompt are there.
    fn to_encode(&self, r: usize, i: usize, computed: usize) -> Option<usize> {
        let life = &self.lives[i];
        let asked = self.requests.encoder_tokens.get(life.request as usize).copied().flatten()? as usize;
        let here = self.replicas[r].pool.encoder.is_some() && life.stage != Stage::Encode;
        (here && computed < asked.min(life.input)).then_some(asked)
    }

    /// Whether the encoder has room in the step, and its cache too.
    fn can_encode(&self, r: usize, i: usize, computed: usize, f: &Forming) -> bool {
        let (Some(tokens), Some(limits)) = (self.to_encode(r, i, computed), self.replicas[r].pool.encoder) else {
            return true;
        };
        let in_step: usize = f.inputs.iter().sum();
        let kept: usize = self.replicas[r].encoded.values().sum();
        (in_step + tokens) as u64 <= limits.step && (kept + tokens) as u64 <= limits.cache
    }

    /// How long the encoder takes for these inputs.
    fn encoder_time(&mut self, pool: &Pool, inputs: &[usize]) -> SimDuration {
        let Some(limits) = pool.encoder.filter(|_| !inputs.is_empty()) else { return SimDuration::ZERO };
        let mut shape = BatchShape::default();
        for tokens in inputs.iter().map(|n| *n as u64) {
            shape.prefill_requests += 1;
            shape.prefill_tokens += tokens;
            shape.prefill_tokens_squared += tokens * tokens;
            shape.prefill_tokens_x_input += tokens * tokens;
            shape.prefill_tokens_max = shape.prefill_tokens_max.max(tokens);
        }
        let before = pool.model.extrapolated();
        let time = limits.time(pool.model.step(&shape));
        let totals = &mut self.totals[pool.number];
        // Taken off in the end: it is no step.
        totals.latency_extrapolated_steps += pool.model.extrapolated() - before;
        totals.encoder_time += time;
        time
    }

    /// A running request computes so many more tokens in the step; false where there are no blocks for them.
    fn go_on(&mut self, r: usize, i: usize, tokens: usize, f: &mut Forming) -> bool {
        let decode = self.lives[i].decodes();
        let tokens = if decode { self.wanted(r, i) } else { tokens };
        let Some(part) = self.run_on(r, i, decode, tokens) else { return false };
        f.batch.push(part);
        true
    }

    /// Takes blocks ahead of the tokens that will be in them, until the request holds so many.
    fn hold_blocks(&mut self, r: usize, i: usize, blocks: usize) {
        while self.lives[i].blocks.len() < blocks {
            let Some(id) = self.replicas[r].take() else { unreachable!("blocks were said to be free") };
            self.lives[i].blocks.push(id);
        }
    }

    /// Admits a request whose blocks have come from tiers, and so many tokens behind them.
    fn seat_fetched(&mut self, r: usize, at: usize, hits: usize, tokens: usize, f: &mut Forming) {
        let i = self.replicas[r].waiting[at];
        self.sit_fetched(r, at, hits, f);
        let from = self.lives[i].computed;
        let fits = self.extend(r, i, tokens);
        assert!(fits, "it holds the blocks of its prompt");
        let context = if self.quirks.hits_without_context { 0 } else { from };
        f.batch.push(self.part(i, false, from, tokens, context));
    }

    /// The same, before its tokens are counted.
    fn sit_fetched(&mut self, r: usize, at: usize, hits: usize, f: &mut Forming) {
        let i = self.replicas[r].waiting[at];
        self.note_passed(r, i);
        self.bring_adapter(r, i, f);
        self.charge_prompt(r, i);
        self.replicas[r].waiting.remove(at);
        self.replicas[r].running.push(i);
        self.note_admission(r, i, hits, f.now);
        (self.lives[i].ready, self.lives[i].hits) = (false, None);
        let from = self.lives[i].computed;
        self.encode(r, i, from, f);
    }

    /// Admits a request whose KV cache has come: its next token, or the last one of its prompt again.
    fn seat_ready(&mut self, r: usize, at: usize, f: &mut Forming) {
        let i = self.replicas[r].waiting[at];
        let (decode, from) = (self.lives[i].decodes(), self.lives[i].computed);
        self.replicas[r].waiting.remove(at);
        self.replicas[r].running.push(i);
        self.lives[i].ready = false;
        let fits = self.extend(r, i, 1);
        assert!(fits, "a request whose KV cache has come holds the block of its next token");
        f.batch.push(self.part(i, decode, from, 1, from));
        f.budget = f.budget.saturating_sub(1);
    }

    /// Blocks for so many tokens are free, of which these hold the first.
    pub(super) fn has_room(&self, r: usize, hits: &[usize], tokens: usize) -> bool {
        let machine = &self.replicas[r];
        let blocks = tokens.div_ceil(machine.pool.block_size);
        let unused = hits.iter().filter(|id| machine.blocks[**id].users == 0).count();
        blocks - hits.len() + unused + machine.pool.fixed <= machine.free.len()
    }

    fn note_admission(&mut self, r: usize, i: usize, hits: usize, now: SimTime) {
        let pool = self.pool(r);
        let life = &mut self.lives[i];
        let encodes = life.stage == Stage::Encode;
        if life.scheduled.is_some() || encodes && life.preemptions > 0 {
            return;
        }
        let cached = hits * pool.block_size;
        if !encodes {
            (life.scheduled, life.cached) = (Some(now), cached);
        }
        if pool.caching {
            let totals = &mut self.totals[pool.number];
            totals.prefix_tokens_queried += life.target as u64;
            totals.prefix_tokens_hit += cached as u64;
            totals.prefix_blocks_queried += (life.target / pool.block_size) as u64;
            totals.prefix_blocks_hit += hits as u64;
        }
    }

    /// Blocks whose content the trace knows.
    pub(super) fn known_blocks(&self, r: usize, i: usize) -> usize {
        let (pool, request) = (&self.replicas[r].pool, self.lives[i].request as usize);
        let known = pool.derivation.known_blocks(self.requests, request, pool.block_size as u32) as usize;
        if self.is_another_sample(r, i) { known.min(self.lives[i].input / pool.block_size) } else { known }
    }

    pub(super) fn hash(&self, r: usize, i: usize, block: usize) -> u64 {
        let request = self.lives[i].request as usize;
        self.replicas[r].pool.derivation.hash(self.requests, request, block as u32)
    }

    /// Blocks that hold the longest known prefix of request `i`.
    fn prefix(&self, r: usize, i: usize) -> Vec<usize> {
        let (pool, target) = (&self.replicas[r].pool, self.lives[i].target);
        // The last token is computed again even if all is found: its output is the first new token.
        let usable = if pool.common.recompute_full_hits { target - 1 } else { target };
        let usable = usable.saturating_sub(self.unpaired(r));
        self.found(r, i, usable / pool.block_size)
    }

    /// Blocks that hold the longest known prefix of request `i`, of so many at most.
    pub(super) fn found(&self, r: usize, i: usize, most: usize) -> Vec<usize> {
        let most = self.known_blocks(r, i).min(most);
        (0..most).map_while(|block| self.replicas[r].find(self.hash(r, i, block))).collect()
    }

    /// Gives request `i` the blocks for `tokens` more tokens and notes the content of those that this fills; false if
    /// there are not enough.
    pub(super) fn extend(&mut self, r: usize, i: usize, tokens: usize) -> bool {
        let block_size = self.replicas[r].pool.block_size;
        let life = &self.lives[i];
        let from = life.computed;
        let have = life.missing + life.blocks.len();
        let need = (from + tokens).div_ceil(block_size).saturating_sub(have);
        if need > self.replicas[r].free.len() {
            return false;
        }
        for _ in 0..need {
            if let Some(id) = self.replicas[r].take() {
                self.lives[i].blocks.push(id);
            }
        }
        if !self.replicas[r].pool.common.fills_late {
            self.note_contents(r, i, from, tokens);
        }
        true
    }

    /// `tokens` tokens after the first `from` are there: the blocks that they fill have their contents.
    pub(super) fn note_contents(&mut self, r: usize, i: usize, from: usize, tokens: usize) {
        for block in self.known_blocks_filled(r, i, from, tokens) {
            let hash = self.hash(r, i, block);
            let id = self.lives[i].blocks[block];
            self.replicas[r].fill(id, hash);
        }
    }

    /// Blocks of known content that `tokens` tokens after the first `from` fill. Those of a request that does not hold
    /// the start of its prompt cannot be told by their place.
    pub(super) fn known_blocks_filled(&self, r: usize, i: usize, from: usize, tokens: usize) -> Vec<usize> {
        if self.lives[i].missing > 0 {
            return Vec::new();
        }
        let (known, block_size) = (self.known_blocks(r, i), self.replicas[r].pool.block_size);
        (from / block_size..(from + tokens) / block_size).filter(|block| *block < known).collect()
    }

    fn shape(&self, batch: &[Part], spread: bool) -> BatchShape {
        let mut s = BatchShape::default();
        for part in batch {
            let (n, context) = (part.tokens as u64, part.context as u64);
            let input = if part.decode { context + n } else { self.lives[part.life].target as u64 };
            if part.decode && n == 1 {
                s.decode_requests += 1;
                s.decode_context += context;
            } else if n > 0 {
                s.prefill_requests += 1;
                s.prefill_tokens += n;
                s.prefill_context += context;
                s.prefill_tokens_x_context += n * context;
                s.prefill_tokens_squared += n * n;
                s.prefill_tokens_x_input += n * input;
                s.prefill_context_pages += libm::ceil(context as f64 / 64.0) as u64;
            }
        }
        let chunks = batch.iter().filter(|part| !part.decode || part.tokens > 1).map(|part| part.tokens as u64);
        s.prefill_tokens_max = chunks.max().unwrap_or(0);
        if spread {
            let contexts =
                || batch.iter().filter(|part| part.decode && part.tokens == 1).map(|part| part.context as u64);
            s.decode_context_min = contexts().min().unwrap_or(0);
            s.decode_context_max = contexts().max().unwrap_or(0);
        }
        s
    }

    /// The row of a step that is formed now; when it starts is not known yet.
    fn step_row(&self, r: usize, duration: SimDuration, shape: &BatchShape, preempted: u32) -> StepRow {
        let machine = &self.replicas[r];
        StepRow {
            replica: r as u32,
            start: SimTime::ZERO,
            duration,
            decode_requests: shape.decode_requests as u32,
            prefill_requests: shape.prefill_requests as u32,
            prefill_tokens: shape.prefill_tokens as u32,
            context_tokens: shape.decode_context + shape.prefill_context,
            running: machine.running.len() as u32,
            waiting: machine.waiting.len() as u32,
            preempted,
            kv_blocks_used: machine.used() as u64,
        }
    }

    fn count_stalls(&mut self, r: usize, batch: &[Part]) {
        let without = |i: &&usize| !batch.iter().any(|part| part.life == **i);
        let stalled =
            |i: &&usize| self.lives[**i].decodes() && !self.is_about_to_be_cut(r, **i) && !self.is_in_flight(r, **i);
        let stalls = self.replicas[r].running.iter().filter(without).filter(stalled).count();
        self.seen.stalls += stalls as u64;
        if self.replicas[r].running.iter().filter(without).any(|i| self.lives[*i].drafts > 0) {
            self.fire(KEPT);
        }
    }
}
