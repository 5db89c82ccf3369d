//! Speculative decoding: a cheap drafter guesses the next tokens of every reply, and one step of the model verifies them.
//!
//! What comes out is what the model would have said, so only times change, and which tokens a step computes. Names are those
//! of vLLM's `speculative_config`; what vLLM is not asked for (how long drafting takes, and how often a draft is accepted) has
//! names of its own. `V` is vLLM 0.11 (`vllm/v1/core/sched/scheduler.py`, `vllm/v1/core/kv_cache_manager.py`), `D` vLLM's main
//! branch of 2026 (`vllm/config/speculative.py`, `vllm/v1/spec_decode/dynamic`), `M` `vllm/v1/spec_decode/metrics.py`.
//!
//! | rule | source | test (`timelines/speculative.rs`, unless it says otherwise) |
//! |---|---|---|
//! | A step that yields a token of a request drafts `k` more at its end; the next step that has it computes `1 + k` tokens: the last token and the drafts | V `schedule`: `num_tokens_with_spec - num_computed_tokens` | `a_step_yields_what_it_accepts` |
//! | Drafts are accepted from the first on, up to the first that is not; one token of the model follows (after the last, too) | Leviathan et al. 2023, algorithm 1 | same; the mean against equation 1: `the_mean_is_that_of_leviathan` |
//! | All tokens of a step come out when it ends. What lies beyond the reply's end is dropped; it counts as accepted | V `update_from_output`: statistics before `_update_request_with_output` | `a_reply_ends_in_the_middle_of_a_draft` |
//! | Drafts are cut so that no token lies beyond `max_model_len`; not at the request's own cap, which the engine looks at only afterwards | V `schedule`: `max_model_len - 1 - num_computed_tokens` | `no_draft_lies_beyond_the_longest_sequence` |
//! | Drafts count in the token budget, and the budget and `long_prefill_token_threshold` cut them | V `schedule` | `drafts_take_from_the_budget` |
//! | A step needs slots for all tokens that it computes and, where a model drafts (all but `ngram`), for `num_speculative_tokens` more, never beyond `max_model_len`. So do chunks of prompts that run already; admissions do not | V `num_lookahead_tokens`, `allocate_slots`, `effective_lookahead_tokens` | `slots_for_drafts_are_kept_and_used_again` |
//! | Slots of rejected tokens are used again by the next step: blocks are only added | V `update_from_output`: `num_computed_tokens -= num_rejected` | same |
//! | Contents of a block are known when a step is formed in which all its tokens are certain | V `allocate_slots`: caches up to `num_tokens` | swarm |
//! | Where a model drafts on the target's hidden states (`eagle`, `mtp`), the last block found in the prefix cache is not used | V `find_longest_cache_hit(use_eagle)` | `eagle_computes_the_last_block_again` |
//! | A request that got nothing in a step keeps its drafts; one that is preempted loses them | V `schedule`; 0.12 `_preempt_request` | `a_request_that_got_nothing_keeps_its_drafts` |
//! | `num_speculative_tokens_per_batch_size`: `k` follows from the number of requests with tokens in the step that drafts | D `dynamic_sd_lookup[len(num_scheduled_tokens)]` | `few_drafts_in_large_batches` |
//! | With `dp` above 1 that is left out, and a warning says so | D `_maybe_disable_dynamic_sd_for_data_parallel` | `check/tests.rs` |
//! | Adapters ([`super::lora`]) are the model's alone: drafts are made without, and take the time that they would take without | vLLM since 0.10.1 (pull request 21068) | `drafts_are_made_without_adapters` |
//! | Together with `async_scheduling`: refused | 0.11 `engine/arg_utils.py`; allowed since 0.12 | `check/tests.rs` |
//!
//! **Other engines** have rules of their own for slots, blocks and passes, under the same names: SGLang rules 29 to 35 of
//! [`Sglang`](super::scheduler::Sglang)'s table, TensorRT-LLM rules 12 to 14 of [`Trtllm`](super::scheduler::Trtllm)'s. Luck,
//! what comes out, and how it is counted are the same.
//!
//! **Verification in the latency model.** A request that verifies drafts is a chunk of `1 + k` tokens after its context, as it
//! is in vLLM, where one kernel call has queries of any length: its cache is read once, `1 + k` rows go through the weights.
//! So in batches (and steps' rows, and sums over work) it counts as a prompt's chunk, whose prompt is as long as context and
//! chunk; one without drafts is a decode request as ever. Latent attention verifies by the cheaper kernel of decoding in
//! reality: the models' prompts make it dearer than it is.
//!
//! **Drafting** takes `k * draft_us`, and `draft_share` of what the latency model says of the step (without adapters) for
//! the first pass (over all tokens of the step) and of a batch in which every request of the step decodes one token for each
//! of the `k - 1` others. It is part of every step with tokens, before jitter; `k` is that of the step.
//!
//! **Luck.** Whether token `t` of request `r` would have been guessed is one number, a hash of seed, `r` and `t`: the same
//! under every scheduler and draft length, so that scenarios of one seed compare in pairs.
//!
//! **Gaps.** Tokens of one step come out together, with gaps of 0 between them; they count as gaps of the reply, so that the
//! mean gap is the TPOT. A client that counts chunks of a stream, as vLLM's benchmark does, sees only the others: all gaps
//! above 0.
//!
//! Left out: trees of drafts (a chain only), that `ngram` often finds nothing to draft, the drafter's own memory (weights,
//! cache), and that vLLM drafts nothing at all while the longest request is within `k` of `max_model_len`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adaptive::Adaptive;
use super::latency::{BatchShape, TIME_MAX_US};
use super::scheduler::{QueueOrder, Scheduler};
use crate::pools::{Role, Site};
use crate::rng;
use crate::scenario::Deployment;

/// Longest draft: more than any drafter is worth.
const DRAFT_MAX: u32 = 64;
/// The stream of all luck.
const STREAM: &str = "speculative/acceptance";
/// Numbers of luck are below this.
const LUCK_END: u64 = 1 << 53;

/// Speculative decoding, in vLLM's words (`speculative_config`) as far as vLLM has one; with `vllm_v1`, `sglang`, `trtllm`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Speculative {
    /// Who drafts.
    pub method: DraftMethod,
    /// Tokens of a draft, 1 to 64.
    pub num_speculative_tokens: u32,
    /// Fewer tokens in large batches: `[from, to, tokens]` for batches of `from` to `to` requests, from 1 on, in ascending
    /// order. A batch size between two ranges belongs to the lower one, one beyond all to the last. Default: always as many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub num_speculative_tokens_per_batch_size: Vec<[u32; 3]>,
    /// With `sglang`: as many tokens as were accepted of late ([`Adaptive`]); `num_speculative_tokens` are those of the first
    /// drafts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
    /// How often drafts are accepted, where the request does not say so itself (column `acceptance`).
    pub acceptance: Acceptance,
    /// Time of a drafting pass in microseconds; a step makes one for every token of a draft.
    #[serde(default)]
    pub draft_us: f64,
    /// Time of a drafting pass as a share of a pass of the model over the same tokens. Not with `ngram`.
    #[serde(default)]
    pub draft_share: f64,
}

/// Who drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DraftMethod {
    /// The prompt: what followed the last few tokens there.
    Ngram,
    /// A small model of its own.
    DraftModel,
    /// A head on the model's hidden states: EAGLE and its successors.
    #[serde(alias = "eagle3")]
    Eagle,
    /// The model's own layers for the tokens after the next (multi-token prediction).
    Mtp,
}

/// How often drafts are accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    /// Every token with this probability, 0 to 1, if those before it were (Leviathan's alpha).
    Rate(f64),
    /// For every position of a draft the probability that it and all before it are accepted: what vLLM reports per position,
    /// and takes as `synthetic_acceptance_rates`. Never rising.
    Rates(Vec<f64>),
}

impl Speculative {
    /// Tokens that are drafted at the end of a step with so many requests.
    pub(crate) fn drafted(&self, batch: u64) -> u32 {
        let ranges = self.by_batch_size();
        let range = ranges.iter().take_while(|[from, ..]| u64::from(*from) <= batch).last();
        range.map_or(self.num_speculative_tokens, |[.., tokens]| *tokens).min(self.num_speculative_tokens)
    }

    /// Probability that the draft at this position, from 0, is accepted if all before it were; `own` is the request's.
    pub(crate) fn chance(&self, position: usize, own: Option<f64>) -> f64 {
        if let Some(own) = own {
            return own;
        }
        match &self.acceptance {
            Acceptance::Rate(rate) => *rate,
            Acceptance::Rates(rates) => {
                let at = |position: usize| rates.get(position).copied().unwrap_or(0.0);
                let before = position.checked_sub(1).map_or(1.0, at);
                if before > 0.0 { at(position) / before } else { 0.0 }
            }
        }
    }

    /// Tokens of the longest draft.
    pub(crate) fn longest(&self) -> u32 {
        self.num_speculative_tokens.max(self.adaptive.as_ref().map_or(0, Adaptive::longest))
    }

    /// Slots beyond those of the tokens of a step.
    pub(crate) fn lookahead(&self, scheduler: &Scheduler) -> u32 {
        match (scheduler, self.method) {
            (Scheduler::VllmV1(_), DraftMethod::DraftModel | DraftMethod::Eagle | DraftMethod::Mtp) => {
                self.num_speculative_tokens
            }
            (Scheduler::VllmV1(_), DraftMethod::Ngram) => 0,
            // What SGLang takes for drafts while they are made it has given back before they are verified.
            (Scheduler::Sglang(_) | Scheduler::Trtllm(_), _) => 0,
            (other, _) => unreachable!("{other:?} is refused"),
        }
    }

    /// Whether the drafter goes on from what the model made of the tokens before.
    pub(crate) fn follows_model(&self) -> bool {
        match self.method {
            DraftMethod::Eagle | DraftMethod::Mtp => true,
            DraftMethod::Ngram | DraftMethod::DraftModel => false,
        }
    }

    /// What the engines of a pool make of it of their own accord, in place; the path of each change, and what it is.
    pub(crate) fn settle(d: &mut Deployment, role: Role) -> Vec<(&'static str, String)> {
        if role == Role::Encode {
            // What an encoder makes is no reply.
            d.speculative = None;
        }
        let ranks = d.dp > 1 && matches!(d.scheduler, Scheduler::VllmV1(_));
        let Some(speculative) = d.speculative.as_mut().filter(|s| ranks && !s.by_batch_size().is_empty()) else {
            return Vec::new();
        };
        speculative.num_speculative_tokens_per_batch_size.clear();
        let message = "left out, with dp above 1: vLLM drafts as many tokens in every batch there, so that ranks agree";
        vec![("deployment.speculative.num_speculative_tokens_per_batch_size", message.to_string())]
    }

    fn by_batch_size(&self) -> &[[u32; 3]] {
        &self.num_speculative_tokens_per_batch_size
    }

    /// What is wrong with it, by path.
    pub(in crate::sim) fn problems(&self, site: &Site) -> Vec<(&'static str, String)> {
        let mut found = self.combinations(site);
        let tokens = self.num_speculative_tokens;
        if !(1..=DRAFT_MAX).contains(&tokens) {
            let path = "deployment.speculative.num_speculative_tokens";
            found.push((path, format!("is {tokens}; must be 1 to {DRAFT_MAX}")));
        }
        found.extend(
            self.schedule_problem()
                .map(|message| ("deployment.speculative.num_speculative_tokens_per_batch_size", message)),
        );
        found.extend(self.acceptance_problem().map(|message| ("deployment.speculative.acceptance", message)));
        if !(0.0..=TIME_MAX_US).contains(&self.draft_us) {
            let message = format!("is {}; must be 0 to {TIME_MAX_US} microseconds", self.draft_us);
            found.push(("deployment.speculative.draft_us", message));
        }
        if !(0.0..=1.0).contains(&self.draft_share) {
            found.push(("deployment.speculative.draft_share", format!("is {}; must be 0 to 1", self.draft_share)));
        } else if self.draft_share > 0.0 && self.method == DraftMethod::Ngram {
            let message = "ngram has no model whose passes could take a share of the model's; write draft_us";
            found.push(("deployment.speculative.draft_share", message.to_string()));
        }
        found
    }

    /// What does not go together.
    fn combinations(&self, site: &Site) -> Vec<(&'static str, String)> {
        let d = &site.deployment;
        let mut found = Vec::new();
        match &d.scheduler {
            Scheduler::VllmV1(rules) if rules.async_scheduling => found.push((
                "deployment.scheduler.vllm_v1.async_scheduling",
                "must be false with deployment.speculative: vLLM 0.11, whose scheduler this is, refuses both together \
                 (later versions form the next step with placeholders for drafts that do not exist yet)"
                    .to_string(),
            )),
            Scheduler::VllmV1(_) => {}
            other => {
                if let Some(message) = unknown_to(other) {
                    found.push(("deployment.scheduler", message.to_string()));
                }
                if !self.by_batch_size().is_empty() {
                    let path = "deployment.speculative.num_speculative_tokens_per_batch_size";
                    found.push((path, "is vLLM's; only `vllm_v1` looks at it".to_string()));
                }
            }
        }
        if matches!(d.scheduler, Scheduler::Sglang(_)) && site.role != Role::Mixed {
            let message = "is not simulated on SGLang's prefill and decode servers";
            found.push(("deployment.speculative", message.to_string()));
        }
        found.extend(self.adaptive_problem(d).map(|message| ("deployment.speculative.adaptive", message)));
        if d.scheduler.common().is_some_and(|common| common.policy == QueueOrder::Fair) {
            let message = "`fair` is not simulated with speculative decoding: tenants are charged when a step is formed, when \
                           nobody knows how many tokens of a draft come out";
            found.push(("deployment.scheduler", message.to_string()));
        }
        found
    }

    /// What SGLang makes static, and so does not adapt.
    fn adaptive_problem(&self, d: &Deployment) -> Option<String> {
        let adaptive = self.adaptive.as_ref()?;
        let Scheduler::Sglang(rules) = &d.scheduler else {
            return Some("is SGLang's; only `sglang` looks at it".to_string());
        };
        if !self.follows_model() {
            return Some("supports the methods eagle and mtp only".to_string());
        }
        if rules.enable_dp_attention && d.dp > 1 {
            return Some("is not supported with DP attention: ranks would not agree".to_string());
        }
        if rules.enable_two_batch_overlap {
            return Some("is not supported with enable_two_batch_overlap".to_string());
        }
        adaptive.problem()
    }

    fn schedule_problem(&self) -> Option<String> {
        let ranges = self.by_batch_size();
        let mut after = 0;
        for [from, to, tokens] in ranges {
            if after == 0 && *from != 1 {
                return Some(format!("begins at {from}; must start at 1"));
            }
            if *from <= after || to < from {
                return Some(format!(
                    "[{from}, {to}, {tokens}] must begin after {after}, and not end before it begins"
                ));
            }
            if *tokens > self.num_speculative_tokens {
                return Some(format!("{tokens} is above num_speculative_tokens, {}", self.num_speculative_tokens));
            }
            after = *to;
        }
        None
    }

    fn acceptance_problem(&self) -> Option<String> {
        let wrong = |rate: &&f64| !(0.0..=1.0).contains(*rate);
        match &self.acceptance {
            Acceptance::Rate(rate) => wrong(&rate).then(|| format!("is {rate}; must be 0 to 1")),
            Acceptance::Rates(rates) => {
                if let Some(rate) = rates.iter().find(wrong) {
                    return Some(format!("has {rate}; all must be 0 to 1"));
                }
                let wanted = self.longest();
                if rates.len() != wanted as usize {
                    let what =
                        if self.adaptive.is_some() { "those of the longest draft" } else { "num_speculative_tokens" };
                    return Some(format!("has {} rates; must have {what}, {wanted}", rates.len()));
                }
                let falls = rates.is_sorted_by(|a, b| a >= b);
                (!falls).then(|| "must not rise: each is the rate of all positions up to it".to_string())
            }
        }
    }
}

/// Why a scheduler has no drafts, where it has none.
fn unknown_to(scheduler: &Scheduler) -> Option<&'static str> {
    match scheduler {
        Scheduler::VllmV1(_) | Scheduler::Sglang(_) | Scheduler::Trtllm(_) => None,
        Scheduler::Sarathi(_) | Scheduler::Orca(_) | Scheduler::FasterTransformer(_) => Some(
            "has no speculative decoding, nor have Sarathi-Serve, Orca and FasterTransformer; use `vllm_v1`, `sglang` or \
             `trtllm`",
        ),
        Scheduler::Lightllm(_) => Some(
            "is LightLLM without multi-token prediction, as its paper has it; for drafts use `vllm_v1`, `sglang` or `trtllm`",
        ),
        Scheduler::VllmV0(_) => {
            Some("speculative decoding is not simulated with this scheduler; use `vllm_v1`, `sglang` or `trtllm`")
        }
        Scheduler::Exclusive(_) => {
            Some("has no steps that could verify drafts: it serves at given rates; use `vllm_v1`, `sglang` or `trtllm`")
        }
    }
}

/// The key of a request's luck.
pub(crate) fn luck_of(seed: u64, request: u32) -> u64 {
    let stream = rng::mix64(seed ^ rng::fnv1a(STREAM.as_bytes()));
    rng::mix64(stream.wrapping_add(u64::from(request).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// Whether a token would be guessed: uniform in whole numbers from 0 to 2^53.
#[inline]
pub(crate) fn luck(key: u64, token: u32) -> u64 {
    rng::mix64(key ^ u64::from(token).wrapping_mul(0xD1B5_4A32_D192_ED03)) >> 11
}

/// A draft is accepted whose number of luck is below this.
pub(crate) fn threshold(chance: f64) -> u64 {
    libm::ceil(chance * LUCK_END as f64) as u64
}

/// The batch of a drafting pass after the first: every request of the step decodes.
pub(crate) fn later_pass(shape: &BatchShape, spread: bool) -> BatchShape {
    let decode_requests = shape.decode_requests + shape.prefill_requests;
    let decode_context = shape.decode_context + shape.decode_requests + shape.prefill_context + shape.prefill_tokens;
    let mean = if spread { decode_context.checked_div(decode_requests).unwrap_or(0) } else { 0 };
    BatchShape {
        decode_requests,
        decode_context,
        decode_context_min: mean,
        decode_context_max: mean,
        ..BatchShape::default()
    }
}

/// What became of drafts, over the steps that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speculation {
    /// Drafts that were verified: requests in steps.
    pub drafts: u64,
    /// Tokens of these, and those of them that were accepted; also where the reply ended before them.
    pub draft_tokens: u64,
    pub accepted_tokens: u64,
    /// Accepted tokens by their position in the draft.
    pub accepted_by_position: Vec<u64>,
    /// Tokens that came out of steps that verified a draft for them.
    pub emitted_tokens: u64,
    /// Time of drafting, a part of the steps' time (before jitter and ticks).
    pub draft_ns: i64,
}

impl Speculation {
    /// Mean tokens per verified draft, as vLLM counts: the accepted ones and one of the model. This is by how much fewer steps
    /// a reply has; the same scenario without speculation, with the same seed, tells by how much faster it is.
    pub fn acceptance_length(&self) -> Option<f64> {
        (self.drafts > 0).then(|| 1.0 + self.accepted_tokens as f64 / self.drafts as f64)
    }

    /// Share of the draft tokens that were accepted.
    pub fn acceptance_rate(&self) -> Option<f64> {
        (self.draft_tokens > 0).then(|| self.accepted_tokens as f64 / self.draft_tokens as f64)
    }

    pub(in crate::sim) fn merge(&mut self, other: &Speculation) {
        self.drafts += other.drafts;
        self.draft_tokens += other.draft_tokens;
        self.accepted_tokens += other.accepted_tokens;
        self.emitted_tokens += other.emitted_tokens;
        self.draft_ns += other.draft_ns;
        if self.accepted_by_position.len() < other.accepted_by_position.len() {
            self.accepted_by_position.resize(other.accepted_by_position.len(), 0);
        }
        for (sum, count) in self.accepted_by_position.iter_mut().zip(&other.accepted_by_position) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eagle(acceptance: Acceptance) -> Speculative {
        Speculative {
            method: DraftMethod::Eagle,
            num_speculative_tokens: 3,
            num_speculative_tokens_per_batch_size: Vec::new(),
            adaptive: None,
            acceptance,
            draft_us: 0.0,
            draft_share: 0.0,
        }
    }

    #[test]
    fn it_is_written_in_vllms_words() {
        let text = r#"{"method": "eagle3", "num_speculative_tokens": 3, "acceptance": {"rates": [0.8, 0.6, 0.3]}}"#;
        let read: Speculative = serde_json::from_str(text).unwrap();
        assert_eq!(read, eagle(Acceptance::Rates(vec![0.8, 0.6, 0.3])));
        assert!(serde_json::from_str::<Speculative>(r#"{"method": "ngram", "num_speculative_tokens": 3}"#).is_err());
    }

    #[test]
    fn drafts_by_batch_size() {
        // The example of vLLM's own test, with its gaps.
        let mut s = eagle(Acceptance::Rate(0.5));
        s.num_speculative_tokens_per_batch_size = vec![[1, 16, 3], [32, 128, 2], [256, 2048, 0]];
        let cases = [(1, 3), (16, 3), (17, 3), (31, 3), (32, 2), (128, 2), (129, 2), (255, 2), (256, 0), (9_999, 0)];
        for (batch, expect) in cases {
            assert_eq!(s.drafted(batch), expect, "{batch}");
        }
        assert!(s.schedule_problem().is_none());
        for wrong in [vec![[2, 16, 3]], vec![[1, 16, 4]], vec![[1, 16, 3], [16, 20, 2]], vec![[1, 0, 3]]] {
            s.num_speculative_tokens_per_batch_size = wrong.clone();
            assert!(s.schedule_problem().is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn chances_of_positions_are_conditional() {
        let s = eagle(Acceptance::Rates(vec![0.8, 0.4, 0.0]));
        assert_eq!([0, 1, 2, 3].map(|at| s.chance(at, None)), [0.8, 0.5, 0.0, 0.0]);
        assert_eq!([0, 2].map(|at| s.chance(at, Some(0.9))), [0.9, 0.9]);
        assert_eq!([0, 2].map(|at| eagle(Acceptance::Rate(0.7)).chance(at, None)), [0.7, 0.7]);
    }

    #[test]
    fn luck_is_uniform_and_its_own_for_every_request_and_token() {
        let mut below = 0;
        for request in 0..300 {
            let key = luck_of(7, request);
            below += (0..300).filter(|token| luck(key, *token) < threshold(0.3)).count();
        }
        // Standard error of the share of 90,000: 0.0015.
        assert!((below as f64 / 90_000.0 - 0.3).abs() < 0.006, "{below}");
        assert_ne!(luck(luck_of(7, 0), 1), luck(luck_of(8, 0), 1));
        assert_eq!((threshold(0.0), threshold(1.0)), (0, LUCK_END));
        // Neighbours have nothing to do with each other.
        let key = luck_of(7, 0);
        let pairs = (0..100_000).filter(|t| luck(key, *t) < LUCK_END / 2 && luck(key, t + 1) < LUCK_END / 2).count();
        assert!((pairs as f64 / 100_000.0 - 0.25).abs() < 0.007, "{pairs}");
    }
}
