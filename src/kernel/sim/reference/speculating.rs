//! Drafts in the oracle: every token of every one by itself. See [`crate::sim::speculative`] for the rules.

use super::parts::{Part, Step};
use super::pools::Pool;
use super::world::World;
use crate::sim::adaptive::AdaptiveBatch;
use crate::sim::latency::BatchShape;
use crate::sim::scheduler::Scheduler;
use crate::sim::speculative::{DraftMethod, luck, luck_of};
use crate::units::SimDuration;

/// What happens to drafts.
pub(in crate::sim) const ALL_ACCEPTED: &str = "speculative: all drafts accepted";
pub(in crate::sim) const NONE_ACCEPTED: &str = "speculative: no draft accepted";
pub(in crate::sim) const PAST_THE_END: &str = "speculative: accepted past the end of the reply";
pub(in crate::sim) const CUT: &str = "speculative: drafts were cut";
pub(in crate::sim) const BLOCKS_KEPT: &str = "speculative: blocks kept for rejected drafts";
pub(in crate::sim) const BLOCKS_GIVEN_BACK: &str = "speculative: blocks of rejected drafts given back";
pub(in crate::sim) const BEYOND_THE_END: &str = "speculative: drafts beyond what was set aside";
pub(in crate::sim) const KEPT: &str = "speculative: drafts kept through a step without tokens";
pub(in crate::sim) const GIVEN_BACK: &str = "speculative: a victim gave back its drafts";
pub(in crate::sim) const HIT_DROPPED: &str = "speculative: last block of a hit dropped";
pub(in crate::sim) const NO_DRAFT: &str = "speculative: nothing drafted in a large batch";

/// SGLang's `AdaptiveStepSlot`.
pub(in crate::sim::reference) struct AdaptiveEntry {
    rules: AdaptiveBatch,
    current_steps: u32,
    ema_accept_len: f64,
    batch_count: u32,
}

/// One for every entry of the settings.
pub(in crate::sim::reference) fn entries(pool: &Pool) -> Vec<AdaptiveEntry> {
    let Some(rules) = &pool.speculative else { return Vec::new() };
    let Some(adaptive) = &rules.adaptive else { return Vec::new() };
    let entry = |batch: &AdaptiveBatch| {
        let candidates = &batch.candidate_steps;
        let current_steps = match candidates.contains(&rules.num_speculative_tokens) {
            true => rules.num_speculative_tokens,
            false => candidates[candidates.len() / 2],
        };
        let ema_accept_len = f64::from(current_steps) - 1.0;
        AdaptiveEntry { rules: batch.clone(), current_steps, ema_accept_len, batch_count: 0 }
    };
    adaptive.batches.iter().map(entry).collect()
}

impl AdaptiveEntry {
    /// `update`, `_recompute_params`: what was accepted of every request of a batch.
    fn update(&mut self, accepted: &[usize]) {
        let rules = &self.rules;
        if self.current_steps > 0 {
            let mean = accepted.iter().sum::<usize>() as f64 / accepted.len() as f64;
            self.ema_accept_len = (1.0 - rules.ema_alpha) * self.ema_accept_len + rules.ema_alpha * mean;
        }
        self.batch_count += 1;
        let warm = self.batch_count > rules.warmup_batches;
        if !warm || !(self.batch_count - rules.warmup_batches).is_multiple_of(rules.update_interval) {
            return;
        }
        let old = self.current_steps;
        let below = |steps: u32| rules.candidate_steps.iter().copied().filter(|other| *other < steps).max();
        let above = |steps: u32| rules.candidate_steps.iter().copied().filter(|other| *other > steps).min();
        if old == 0 {
            self.current_steps = above(old).unwrap_or(0);
            if self.current_steps > 0 && self.ema_accept_len < 0.0 {
                self.ema_accept_len = f64::from(self.current_steps) - 1.0;
            }
            return;
        }
        let mut steps = old;
        while let Some(shorter) = below(steps) {
            let threshold = if shorter == 0 { 0.5 } else { f64::from(shorter) - 0.5 } + rules.down_hysteresis;
            if self.ema_accept_len > threshold {
                break;
            }
            steps = shorter;
        }
        if steps == old {
            while let Some(longer) = above(steps)
                && self.ema_accept_len > f64::from(steps) - 0.5 + rules.up_hysteresis
            {
                steps = longer;
            }
        }
        if rules.ceiling_coeff > 0.0 && steps <= old {
            let ceiling = f64::max(1.0, libm::ceil(self.ema_accept_len * rules.ceiling_coeff));
            while let Some(shorter) = below(steps)
                && f64::from(steps) > ceiling
            {
                steps = shorter;
            }
        }
        self.current_steps = steps;
    }
}

/// The engine takes blocks for all drafts, wherever the sequence must end, and keeps none for those that are rejected.
fn gives_back(scheduler: &Scheduler) -> bool {
    matches!(scheduler, Scheduler::Sglang(_) | Scheduler::Trtllm(_))
}

impl World<'_> {
    /// Drafts go on from what the model made of the tokens before.
    fn drafts_from_states(&self, r: usize) -> bool {
        self.replicas[r].pool.speculative.as_ref().is_some_and(|rules| rules.follows_model())
    }

    /// Whether the last block of a prefix that was found is computed again.
    pub(super) fn drops_hit(&self, r: usize) -> bool {
        let pool = &self.replicas[r].pool;
        self.drafts_from_states(r)
            && match &pool.scheduler {
                // The token behind the last page is the next page.
                Scheduler::Sglang(_) => pool.block_size == 1,
                Scheduler::Trtllm(_) => false,
                _ => true,
            }
    }

    /// Tokens at the end of a sequence that its contents in the cache leave out: SGLang knows a token by itself and the next
    /// one, and of the last there is none.
    pub(super) fn unpaired(&self, r: usize) -> usize {
        let pool = &self.replicas[r].pool;
        let pairs = matches!(pool.scheduler, Scheduler::Sglang(_)) && pool.block_size > 1 && self.drafts_from_states(r);
        usize::from(pairs)
    }

    /// Tokens that a request which decodes wants in the next step.
    pub(super) fn wanted(&self, r: usize, i: usize) -> usize {
        let (pool, life) = (&self.replicas[r].pool, &self.lives[i]);
        if pool.speculative.is_none() {
            return 1;
        }
        let mut wanted = 1 + life.drafts;
        if gives_back(&pool.scheduler) {
            return wanted;
        }
        // What its tokens attend to must leave a place for one more.
        while wanted > 1 && life.computed + wanted > pool.max_len - 1 {
            wanted -= 1;
        }
        wanted
    }

    /// A running request goes on with so many tokens, if there are blocks.
    pub(super) fn run_on(&mut self, r: usize, i: usize, decode: bool, tokens: usize) -> Option<Part> {
        let pool = self.pool(r);
        let from = self.lives[i].computed;
        let Some(rules) = &pool.speculative else {
            return self.extend(r, i, tokens).then(|| self.part(i, decode, from, tokens, from));
        };
        let ahead = rules.lookahead(&pool.scheduler) as usize;
        let mut slots = from + tokens;
        for _ in 0..ahead {
            if slots < pool.max_len {
                slots += 1;
            }
        }
        if let Scheduler::Trtllm(_) = &pool.scheduler {
            let life = &self.lives[i];
            let last = life.prompt + self.demand.cap(life.request, pool.max_len as u32) as usize;
            if slots > last {
                slots = last;
                self.fire(BEYOND_THE_END);
            }
        }
        let unfilled = self.lives[i].blocks.iter().position(|id| self.replicas[r].blocks[*id].hash.is_none());
        let filled_from = unfilled.unwrap_or(self.lives[i].blocks.len());
        let have = self.lives[i].missing + self.lives[i].blocks.len();
        let need = slots.div_ceil(pool.block_size).saturating_sub(have);
        if need > self.replicas[r].free.len() {
            return None;
        }
        for _ in 0..need {
            let id = self.replicas[r].take()?;
            self.lives[i].blocks.push(id);
        }
        let mut part = self.part(i, decode, from, tokens, from);
        part.filled_from = filled_from * pool.block_size;
        // Of tokens that are certain, also those of the last step.
        if !pool.common.fills_late {
            self.note_contents(r, i, 0, part.certain());
        }
        Some(part)
    }

    /// Tokens that come out for a part of a step: what is accepted of its drafts, and one more.
    pub(super) fn verify(&mut self, r: usize, part: &Part) -> usize {
        let pool = self.pool(r);
        let Some(rules) = &pool.speculative else { return 1 };
        if !part.decode || part.tokens == 1 {
            return 1;
        }
        let drafts = part.tokens - 1;
        let life = &self.lives[part.life];
        let own = self.requests.acceptance.get(life.request as usize).copied().flatten();
        let mut accepted = 0;
        for position in 0..drafts {
            let token = (life.tokens.len() + position) as u32;
            let uniform = luck(luck_of(self.seed, life.request), token) as f64 / 9_007_199_254_740_992.0;
            if uniform >= rules.chance(position, own) {
                break;
            }
            accepted += 1;
        }
        let left = life.output - life.tokens.len();
        let emitted = (1 + accepted).min(left);
        self.note_verification(r, part, accepted, left);
        let told = &mut self.totals[pool.number].speculation;
        told.drafts += 1;
        told.draft_tokens += drafts as u64;
        told.accepted_tokens += accepted as u64;
        told.emitted_tokens += emitted as u64;
        if told.accepted_by_position.len() < drafts {
            told.accepted_by_position.resize(drafts, 0);
        }
        for count in &mut told.accepted_by_position[..accepted] {
            *count += 1;
        }
        emitted
    }

    /// The entry for a batch of so many requests.
    fn adaptive_entry(&self, r: usize, requests: usize) -> usize {
        let pool = &self.replicas[r].pool;
        let Scheduler::Sglang(rules) = &pool.scheduler else { unreachable!("nobody else adapts") };
        let graph = rules.captured().into_iter().find(|size| *size as usize >= requests);
        let padded = graph.map_or(requests, |size| size as usize);
        let entries = &self.replicas[r].adaptive;
        entries.iter().rposition(|entry| entry.rules.batch_size as usize <= padded).unwrap_or(0)
    }

    /// These are about to decode: as many tokens were drafted for each as their batch drafts.
    pub(super) fn adapt(&mut self, r: usize, requests: &[usize]) {
        if self.replicas[r].adaptive.is_empty() || requests.is_empty() {
            return;
        }
        let entry = self.adaptive_entry(r, requests.len());
        if entry > 0 {
            self.fire("adaptive: a larger batch");
        }
        let steps = self.replicas[r].adaptive[entry].current_steps as usize;
        if steps == 0 {
            self.fire("adaptive: no drafts");
        }
        self.replicas[r].steps = steps;
        requests.iter().for_each(|i| self.lives[*i].drafts = steps);
    }

    /// A step has ended.
    pub(super) fn learn(&mut self, r: usize) {
        let accepted = std::mem::take(&mut self.replicas[r].accepted);
        if self.replicas[r].adaptive.is_empty() || accepted.is_empty() {
            return;
        }
        let at = self.adaptive_entry(r, accepted.len());
        let entry = &mut self.replicas[r].adaptive[at];
        let before = entry.current_steps;
        entry.update(&accepted);
        let after = entry.current_steps;
        if after > before {
            self.fire("adaptive: longer");
        }
        if after < before {
            self.fire("adaptive: shorter");
        }
    }

    /// Blocks that hold nothing but what was rejected are free again.
    pub(super) fn give_back(&mut self, r: usize, i: usize) {
        let pool = self.pool(r);
        if !gives_back(&pool.scheduler) {
            return;
        }
        let kept = self.lives[i].computed.div_ceil(pool.block_size);
        while self.lives[i].blocks.len() > kept {
            let Some(id) = self.lives[i].blocks.pop() else { unreachable!("it holds more than that") };
            self.replicas[r].release(&[id]);
            self.fire(BLOCKS_GIVEN_BACK);
        }
    }

    /// What scenarios should reach.
    fn note_verification(&mut self, r: usize, part: &Part, accepted: usize, left: usize) {
        let (drafts, life) = (part.tokens - 1, &self.lives[part.life]);
        let held = life.blocks.len() + life.missing;
        let needed = (part.from + 1 + accepted).div_ceil(self.replicas[r].pool.block_size);
        for (rule, applied) in [
            (ALL_ACCEPTED, accepted == drafts),
            (NONE_ACCEPTED, accepted == 0),
            (PAST_THE_END, 1 + accepted > left),
            (CUT, drafts < life.drafts),
            (BLOCKS_KEPT, held > needed),
        ] {
            if applied {
                self.fire(rule);
            }
        }
    }

    /// The drafts that follow a step, for everybody who has a token of it.
    pub(super) fn draft(&mut self, r: usize, step: &Step) {
        let pool = self.pool(r);
        let Some(rules) = &pool.speculative else { return };
        let batch = step.batch.iter().filter(|part| part.tokens > 0).count();
        for part in step.batch.iter().filter(|part| part.yields) {
            self.lives[part.life].drafts = rules.drafted(batch as u64) as usize;
            if rules.drafted(batch as u64) == 0 {
                self.fire(NO_DRAFT);
            }
        }
    }

    /// How long drafting takes at the end of a step for which the latency model says `said`.
    pub(super) fn drafting(&mut self, r: usize, pool: &Pool, batch: &[Part], said: SimDuration) -> SimDuration {
        let Some(rules) = &pool.speculative else { return SimDuration::ZERO };
        let parts: Vec<&Part> = batch.iter().filter(|part| part.tokens > 0).collect();
        let prompts = batch.iter().all(|part| !part.decode);
        let passes = match &pool.scheduler {
            // It drafts before it verifies, from what the pass over the prompt left.
            Scheduler::Sglang(_) if prompts && rules.method == DraftMethod::Ngram => 0,
            Scheduler::Sglang(_) if prompts => 1,
            Scheduler::Sglang(_) if rules.adaptive.is_some() => self.replicas[r].steps as u32,
            _ => rules.drafted(parts.len() as u64),
        };
        let of_model = |time: SimDuration| (rules.draft_share * time.0 as f64) as i64;
        let mut time = 0_i64;
        for pass in 0..passes {
            time = time.saturating_add(SimDuration::from_us(rules.draft_us).0);
            if rules.draft_share == 0.0 {
                continue;
            }
            if pass == 0 {
                time = time.saturating_add(of_model(said));
                continue;
            }
            let contexts = parts.iter().map(|part| (part.context + part.tokens) as u64);
            let (requests, context) = (parts.len() as u64, contexts.sum::<u64>());
            let mean = if pool.model.wants_spread() { context / requests } else { 0 };
            let shape = BatchShape {
                decode_requests: requests,
                decode_context: context,
                decode_context_min: mean,
                decode_context_max: mean,
                ..BatchShape::default()
            };
            time = time.saturating_add(of_model(self.said(r, &shape)));
        }
        SimDuration(time)
    }
}
