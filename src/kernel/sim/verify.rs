//! Drafts in the fast engine: how many tokens a request that decodes takes in a step, which slots it needs, and what comes out.
//! The rules are in [`super::speculative`].
//!
//! Every request goes on by a number of its own here, so each is looked at twice a step: when that is formed, and when it
//! ends. Its tokens handed out are [`Live::emitted`] at any time, its step of the last token is not known, its blocks are
//! [`Live::room`] while it decodes, and nobody counts who will need a block. Its gaps above 0 are still those of the log.

use super::adaptive::Tuner;
use super::batch::{Forming, new_blocks};
use super::forming::Former;
use super::latency::{BatchShape, LatencyModel, ns};
use super::node::Env;
use super::replica::{Flight, Live, Phase, Replica};
use super::scheduler::{QueueOrder, Scheduler};
use super::speculative::{DraftMethod, Speculation, Speculative, later_pass, luck, luck_of, threshold};
use crate::scenario::Deployment;
use crate::units::SimDuration;

/// In place of the step of the last token, which is not known.
pub(super) const SOME_DAY: u64 = u64::MAX / 2;
/// In place of the longest sequence, where drafts may lie beyond it.
const NO_CEILING: u32 = u32::MAX / 2;
/// In place of a request's own threshold.
pub(super) const AS_ALL: u64 = u64::MAX;

/// Drafts of so many tokens are looked at at once.
const AT_ONCE: u32 = 8;

/// What an engine that decodes speculatively knows.
pub(super) struct Speculating {
    rules: Speculative,
    /// Tokens of a draft at most, and slots beyond those of a step's tokens.
    most: u32,
    lookahead: u32,
    /// The last block of a hit is not used; or, a block is found only with the token behind it.
    pub drops_hit: bool,
    pub pairs: bool,
    /// No tokens and slots lie beyond so many.
    ceiling: u32,
    block_size: u32,
    /// What a request may have in the end is set aside for it ([`Live::promise`]), and its slots end there.
    promises: bool,
    /// Blocks that hold nothing but what was rejected are free when the step ends.
    gives_back: bool,
    /// How long drafts are, where that follows what was accepted.
    tuner: Option<Tuner>,
    /// Passes of the drafter in a step of prompts alone, where these are others than in a step that verifies.
    passes_of_prompts: Option<u32>,
    /// By position, below which number of luck a draft is accepted.
    thresholds: Vec<u64>,
    /// No request that decodes has fewer tokens to come.
    pub least_left: u32,
    /// Tokens and blocks that all who decode want in the next step, while these are the same.
    sums: Option<(u64, u64)>,
    /// Drafts that were verified, by the number of tokens accepted of them; their tokens, those that came out, and the
    /// tokens of the longest.
    accepted: Vec<u64>,
    draft_tokens: u64,
    emitted_tokens: u64,
    longest: u32,
    /// Gaps of 0 that nobody counts yet.
    pub together: u64,
}

impl Speculating {
    pub(super) fn new(d: &Deployment, env: &Env<'_>) -> Option<Box<Speculating>> {
        let (rules, scheduler) = (d.speculative.clone()?, &d.scheduler);
        let most = rules.longest();
        let tuner = match (scheduler, &rules.adaptive) {
            (Scheduler::Sglang(own), Some(adaptive)) => {
                Some(Tuner::new(adaptive, rules.num_speculative_tokens, own.captured()))
            }
            _ => None,
        };
        let sglang = matches!(scheduler, Scheduler::Sglang(_));
        let gives_back = sglang || matches!(scheduler, Scheduler::Trtllm(_));
        let single = d.kv.block_size == 1;
        let follows = rules.follows_model();
        Some(Box::new(Speculating {
            most,
            lookahead: rules.lookahead(scheduler),
            block_size: d.kv.block_size,
            promises: matches!(scheduler, Scheduler::Trtllm(_)),
            drops_hit: follows && if sglang { single } else { !gives_back },
            pairs: follows && sglang && !single,
            ceiling: if gives_back { NO_CEILING } else { env.max_len },
            gives_back,
            tuner,
            passes_of_prompts: sglang.then(|| u32::from(rules.method != DraftMethod::Ngram)),
            thresholds: (0..most as usize).map(|position| threshold(rules.chance(position, None))).collect(),
            least_left: u32::MAX,
            sums: None,
            accepted: vec![0; most as usize + 1],
            draft_tokens: 0,
            emitted_tokens: 0,
            longest: 0,
            together: 0,
            rules,
        }))
    }

    /// Tokens that are drafted at the end of a step.
    pub(super) fn drafted(&self, shape: &BatchShape) -> u32 {
        self.rules.drafted(shape.decode_requests + shape.prefill_requests)
    }

    /// How long drafts take in a step, of prompts alone or not, that takes `said` without.
    pub(super) fn drafting(
        &self,
        said: SimDuration,
        (shape, prompts): (&BatchShape, bool),
        model: &dyn LatencyModel,
        former: &Former,
    ) -> SimDuration {
        let other = self.passes_of_prompts.filter(|_| prompts);
        let drafted = || self.tuner.as_ref().map_or_else(|| self.drafted(shape), |tuner| tuner.steps);
        let passes = i64::from(other.unwrap_or_else(drafted));
        let mut time = SimDuration::from_us(self.rules.draft_us).0.saturating_mul(passes);
        let share = self.rules.draft_share;
        if share > 0.0 && passes > 0 {
            time = time.saturating_add(ns(share * said.0 as f64));
            if passes > 1 {
                let later = former.step(model, &later_pass(shape, model.wants_spread()));
                time = time.saturating_add(ns(share * later.0 as f64).saturating_mul(passes - 1));
            }
        }
        SimDuration(time)
    }

    /// Steps, at least, in which so many tokens come out.
    pub(super) fn steps(&self, tokens: u32) -> u64 {
        u64::from(tokens.div_ceil(self.most + 1))
    }

    /// Who decodes changes.
    pub(super) fn forget(&mut self) {
        self.sums = None;
    }

    /// Tokens that a request which has computed so many, and has a draft, takes in a step with room for all: one, and its
    /// drafts.
    #[inline]
    fn wanted(&self, computed: u32, drafted: u32) -> u32 {
        (1 + drafted).min(self.ceiling - 1 - computed).max(1)
    }

    /// Slots that it needs for that beyond those that it has; none beyond what was set aside for it.
    #[inline]
    fn missing(&self, computed: u32, tokens: u32, live: &Live) -> u32 {
        // That is not in the line of memory that every step looks at.
        let ceiling = if self.promises { live.promise as u32 * self.block_size } else { self.ceiling };
        (computed + tokens + self.lookahead).min(ceiling).saturating_sub(live.room)
    }

    /// What became of drafts.
    pub(super) fn told(&self) -> Speculation {
        let drafts = self.accepted.iter().sum();
        // Who had more than so many accepted had the one at this place, too.
        let mut left = drafts;
        let by_position = self.accepted[..self.longest as usize].iter().map(|count| {
            left -= count;
            left
        });
        let accepted_by_position: Vec<u64> = by_position.collect();
        Speculation {
            drafts,
            draft_tokens: self.draft_tokens,
            accepted_tokens: accepted_by_position.iter().sum(),
            accepted_by_position,
            emitted_tokens: self.emitted_tokens,
            draft_ns: 0,
        }
    }

    /// Accepted drafts of a request that has had `emitted` tokens.
    #[inline]
    fn guessed(&self, key: u64, own: u64, emitted: u32, drafts: u32) -> u32 {
        let lucky = |at: u32| {
            let below = if own == AS_ALL { self.thresholds[at as usize] } else { own };
            luck(key, emitted + at) < below
        };
        if drafts > AT_ONCE {
            return (0..drafts).take_while(|at| lucky(*at)).count() as u32;
        }
        // To look at all of a few is faster than to guess where the first is rejected.
        let rejected = (0..drafts).fold(1 << drafts, |rejected, at| rejected | u32::from(!lucky(at)) << at);
        rejected.trailing_zeros()
    }
}

impl Replica {
    /// Tokens that a request that decodes takes in a step which has room for all: one, and its drafts.
    #[inline]
    pub(super) fn wanted(&self, live: &Live, computed: u32) -> u32 {
        let Some(speculating) = &self.speculating else { return 1 };
        speculating.wanted(computed, live.drafted)
    }

    /// Blocks that it needs for so many tokens beyond those that it has.
    #[inline]
    pub(super) fn verify_need(&self, live: &Live, computed: u32, tokens: u32) -> u64 {
        let Some(speculating) = &self.speculating else { return 0 };
        u64::from(speculating.missing(computed, tokens, live).div_ceil(self.block_size))
    }

    /// Tokens, and blocks, of all requests that decode: every one, and its drafts.
    pub(super) fn verify_sums(&self) -> (u64, u64) {
        if let Some(sums) = self.speculating.as_ref().and_then(|s| s.sums) {
            return sums;
        }
        let lives = self.running.iter().map(|slot| &self.live[*slot as usize]);
        lives.filter(|live| live.phase == Phase::Decode).fold((0, 0), |(tokens, blocks), live| {
            let computed = self.computed(live);
            let wanted = self.wanted(live, computed);
            (tokens + u64::from(wanted), blocks + self.verify_need(live, computed, wanted))
        })
    }

    /// The blocks that a chunk of a running prompt takes.
    pub(super) fn chunk_need(&self, live: &Live, tokens: u32) -> u64 {
        let need = new_blocks(live.computed, tokens, self.block_size);
        let more = need.saturating_sub(u64::from(live.spare));
        let Some(speculating) = &self.speculating else { return more };
        if speculating.lookahead == 0 {
            return more;
        }
        let slots = (live.computed + tokens + speculating.lookahead).min(speculating.ceiling);
        let blocks = slots.div_ceil(self.block_size) - live.computed.div_ceil(self.block_size);
        u64::from(blocks.max(need as u32).saturating_sub(live.spare))
    }

    /// Takes the blocks that a chunk of a running prompt needs for slots behind it.
    pub(super) fn look_ahead(&mut self, slot: u32, tokens: u32) {
        if self.speculating.as_ref().is_none_or(|s| s.lookahead == 0) {
            return;
        }
        let need = self.chunk_need(&self.live[slot as usize], tokens);
        if need > 0 {
            self.take(need);
            self.live[slot as usize].spare += need as u32;
        }
    }

    /// A request begins to decode.
    pub(super) fn begin_to_verify(&mut self, slot: u32, env: &Env<'_>) {
        let computed = self.computed(&self.live[slot as usize]);
        let Some(speculating) = &mut self.speculating else { return };
        speculating.forget();
        let live = &mut self.live[slot as usize];
        let own = env.requests.acceptance.get(live.request as usize).copied().flatten();
        live.own = own.map_or(AS_ALL, threshold);
        live.luck = luck_of(env.seed, live.request);
        live.finish = SOME_DAY;
        // The one that its prompt yields is as good as out.
        speculating.least_left = speculating.least_left.min(live.output - live.emitted - 1);
        live.room = (computed.div_ceil(self.block_size) + std::mem::take(&mut live.spare)) * self.block_size;
    }

    /// Before a step of all that decode: how many tokens each has drafted, where that follows what was accepted.
    pub(super) fn choose_drafts(&mut self) {
        let decodes = self.decodes;
        let Some(speculating) = &mut self.speculating else { return };
        let Some(steps) = speculating.tuner.as_mut().map(|tuner| tuner.choose(decodes)) else { return };
        speculating.forget();
        for slot in &self.running {
            self.live[*slot as usize].drafted = steps;
        }
    }

    /// Every decode request verifies its drafts, for all of which there are blocks.
    pub(super) fn verify_all(&mut self, f: &mut Forming, env: &Env<'_>) {
        let singly = self.common.policy == QueueOrder::Priority || self.spread.asked || !self.fresh.is_empty();
        if singly || !self.class_lists.is_empty() {
            for at in 0..self.running.len() {
                let slot = self.running[at];
                let live = &self.live[slot as usize];
                if live.phase == Phase::Decode {
                    self.run_decode(slot, self.computed(live), f, env);
                }
            }
            return;
        }
        let Some(speculating) = &self.speculating else { return };
        let (mut blocks, mut tokens, mut shape) = (0, 0, f.shape);
        for slot in &self.running {
            let live = &mut self.live[*slot as usize];
            if live.phase != Phase::Decode {
                continue;
            }
            let computed = (live.base + self.steps as i64) as u32;
            live.tokens = speculating.wanted(computed, live.drafted);
            let missing = speculating.missing(computed, live.tokens, live);
            if missing > 0 {
                let more = missing.div_ceil(self.block_size);
                live.room += more * self.block_size;
                blocks += u64::from(more);
            }
            tokens += live.tokens;
            let (n, context) = (u64::from(live.tokens), u64::from(computed));
            if n == 1 {
                shape.decode_requests += 1;
                shape.decode_context += context;
            } else {
                shape.add_chunk(n, context, context + n);
            }
        }
        f.shape = shape;
        f.regular = self.decodes;
        f.verifying = self.decodes - shape.decode_requests;
        f.budget = f.budget.saturating_sub(tokens);
        if blocks > 0 {
            self.take(blocks);
        }
    }

    /// A request that decodes takes so many tokens, and blocks, in the step; returns the blocks that become known.
    pub(super) fn verify(
        &mut self,
        slot: u32,
        (computed, tokens): (u32, u32),
        need: u64,
        f: &mut Forming,
        env: &Env<'_>,
    ) -> u32 {
        if need > 0 {
            self.take(need);
        }
        let live = &mut self.live[slot as usize];
        live.room += need as u32 * self.block_size;
        live.tokens = tokens;
        let (from, to) = (live.held.blocks(), ((computed + 1) / self.block_size).min(live.known));
        if from < to && !self.common.fills_late {
            self.fill(slot, from, to, env);
        }
        if tokens > 1 {
            f.verifying += 1;
            let (n, context) = (u64::from(tokens), u64::from(computed));
            f.shape.add_chunk(n, context, context + n);
        }
        if self.common.fills_late { 0 } else { to.saturating_sub(from) }
    }

    /// A step with requests that decode has ended: what comes of their drafts.
    pub(super) fn end_verification(&mut self, flight: &Flight) {
        if self.speculating.is_none() {
            return;
        }
        self.sum_blocks();
        let Some(speculating) = &mut self.speculating else { return };
        speculating.forget();
        let (mut sums, steps) = ((0, 0), self.steps as i64);
        let drafted = speculating.drafted(&flight.shape);
        let (mut more, mut least) = (0, u32::MAX);
        let (mut verified, mut came_out) = (0, 0);
        for slot in &self.running {
            let live = &mut self.live[*slot as usize];
            if live.phase != Phase::Decode {
                continue;
            }
            let drafts = std::mem::take(&mut live.tokens);
            if drafts > 0 {
                let drafts = drafts - 1;
                // The one token that is sure is counted already where it was handed out by itself.
                let before = live.emitted - u32::from(live.from == flight.number);
                let accepted = speculating.guessed(live.luck, live.own, before, drafts);
                let tokens = (1 + accepted).min(live.output - before);
                live.emitted = before + tokens;
                live.drafted = drafted;
                (verified, came_out) = (verified + 1, came_out + u64::from(tokens - 1));
                if drafts > 0 {
                    live.base += i64::from(tokens - 1);
                    more += u64::from(tokens - 1);
                    speculating.accepted[accepted as usize] += 1;
                    speculating.draft_tokens += u64::from(drafts);
                    speculating.emitted_tokens += u64::from(tokens);
                    speculating.longest = speculating.longest.max(drafts);
                }
                if speculating.gives_back {
                    let held = ((live.base + steps) as u32).div_ceil(self.block_size) * self.block_size;
                    self.pool.give(u64::from((live.room - held) / self.block_size));
                    live.room = held;
                }
                if live.emitted == live.output {
                    self.done.push((live.seq, *slot));
                    continue;
                }
            }
            least = least.min(live.output - live.emitted);
            let computed = (live.base + steps) as u32;
            let wanted = speculating.wanted(computed, live.drafted);
            let missing = speculating.missing(computed, wanted, live);
            sums.0 += u64::from(wanted);
            sums.1 += u64::from(if missing > 0 { missing.div_ceil(self.block_size) } else { 0 });
        }
        if let Some(tuner) = speculating.tuner.as_mut().filter(|_| verified > 0) {
            tuner.learn(verified, came_out);
        }
        speculating.least_left = least;
        // A completed request is still to leave: that makes them void.
        speculating.sums = Some(sums);
        speculating.together += more;
        self.context += more;
        self.spread.forget();
    }
}
