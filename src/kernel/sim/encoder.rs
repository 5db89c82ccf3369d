//! Encoder inputs of prompts (images, sound) on the replicas that compute the prompts, where no pool of encoders does.
//!
//! | rule | source | test (`timelines/batches.rs`) |
//! |---|---|---|
//! | 1. A request brings `encoder_tokens`, at the start of its prompt. They are encoded in the step in which it is admitted, before its tokens; not if its cached prefix covers them. | vLLM 0.11 `scheduler.py`, `_try_schedule_encoder_inputs` | `an_encoder_runs_before_the_prompt_it_is_for` |
//! | 2. A step encodes at most `max_num_encoder_input_tokens`, and the encoder cache holds at most `encoder_cache_size`; neither is less than the largest input. The first request that does not fit waits, and so do those behind it. | the same; `compute_encoder_budget` of `encoder_cache_manager.py` | `an_encoder_has_a_budget_and_a_cache` |
//! | 3. What was encoded is in that cache until the step ends that computes the last of its tokens, or its request is preempted or goes. | `_free_encoder_inputs` | the same |
//! | 4. The encoder takes `relative_cost` of what a step would take whose batch is its inputs as prompts without context, on top of the step. | not in vLLM, which measures nothing of it | `an_encoder_runs_before_the_prompt_it_is_for` |
//! | 5. SGLang makes nobody wait for its encoder: rule 1 without rule 2. What `SGLANG_VLM_CACHE_SIZE_MB` does not hold, which is `encoder_cache_size` here and 100 MiB of embeddings by default, is encoded again with every further chunk of its tokens. | SGLang 0.5.9 `managers/mm_utils.py`, `_get_chunked_prefill_embedding`; `environ.py` | `sglang_encodes_what_it_cannot_keep_again` |
//! | 6. Nor does TensorRT-LLM, which keeps an embedding with its request until the prompt is computed. | TensorRT-LLM 1.2 `_torch/models/modeling_multimodal_utils.py`, `get_multimodal_embeddings` | `trtllm_encodes_once` |
//!
//! Left out: inputs elsewhere in the prompt than at its start, several inputs of a request one by one, and results that
//! stay in the cache for another request with the same input, or are pushed out of it by others' (rule 5).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::Forming;
use super::latency::BatchShape;
use super::node::{Env, Work};
use super::replica::{Live, Replica};
use super::scheduler::Scheduler;
use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::units::SimDuration;

/// The encoder of a multi-modal model on the replicas themselves, in vLLM's words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Encoder {
    /// Encoder tokens that a step computes at most; `vllm_v1` only. Default: the tokens that the scheduler allows a step.
    pub max_num_encoder_input_tokens: Option<u32>,
    /// Encoder tokens whose results are kept at once. Default: the same; with `sglang`, what `SGLANG_VLM_CACHE_SIZE_MB` holds by
    /// default. Not with `trtllm`.
    pub encoder_cache_size: Option<u32>,
    /// What an encoder token costs beside a prompt token of the language model: 0.1 for an encoder with a tenth of its
    /// parameters.
    pub relative_cost: f64,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { max_num_encoder_input_tokens: None, encoder_cache_size: None, relative_cost: 0.1 }
    }
}

/// What SGLang keeps of embeddings by default, in bytes, and the bytes of a number in them.
const SGLANG_CACHE: u64 = 100 << 20;
const EMBEDDING_BYTES: u64 = 2;
/// Largest of [`Encoder::relative_cost`].
const COST_MAX: f64 = 1e3;

impl Encoder {
    /// What is wrong with it, by path.
    pub(super) fn problems(&self, scheduler: &Scheduler) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut unknown = |path: &'static str, said: bool, engine: &str| {
            if said {
                found.push((
                    path,
                    format!("has no counterpart in {engine}, which makes nobody wait for it; leave it out"),
                ));
            }
        };
        let step = ("deployment.encoder.max_num_encoder_input_tokens", self.max_num_encoder_input_tokens.is_some());
        match scheduler {
            Scheduler::VllmV1(_) => {}
            Scheduler::Sglang(_) => unknown(step.0, step.1, "SGLang"),
            Scheduler::Trtllm(_) => {
                unknown(step.0, step.1, "TensorRT-LLM");
                unknown("deployment.encoder.encoder_cache_size", self.encoder_cache_size.is_some(), "TensorRT-LLM");
            }
            Scheduler::VllmV0(_)
            | Scheduler::Sarathi(_)
            | Scheduler::Orca(_)
            | Scheduler::FasterTransformer(_)
            | Scheduler::Lightllm(_)
            | Scheduler::Exclusive(_) => {
                let message = "vllm_v1, sglang and trtllm encode on their replicas; beside others, a pool with the role \
                               encode does";
                found.push(("deployment.encoder", message.to_string()));
            }
        }
        let [tokens, cache] = [self.max_num_encoder_input_tokens, self.encoder_cache_size];
        for (path, value) in [
            ("deployment.encoder.max_num_encoder_input_tokens", tokens),
            ("deployment.encoder.encoder_cache_size", cache),
        ] {
            if value == Some(0) {
                found.push((path, "is 0; must be at least 1".to_string()));
            }
        }
        if !(0.0..=COST_MAX).contains(&self.relative_cost) {
            let message = format!("is {}; must be 0 to {COST_MAX}", self.relative_cost);
            found.push(("deployment.encoder.relative_cost", message));
        }
        found
    }

    /// For one pool; `None` where nothing is encoded, or by another pool.
    pub(super) fn of(sites: &[Site], at: usize, requests: &Requests) -> Option<Limits> {
        let site = &sites[at];
        let elsewhere = |other: &Site| other.role == Role::Encode && other.deployment.model == site.deployment.model;
        let settings = site.deployment.encoder.filter(|_| !sites.iter().any(elsewhere))?;
        let tokens = site.deployment.scheduler.common()?.tokens_max;
        let largest = requests.encoder_tokens.iter().flatten().max().copied().unwrap_or(0);
        let limit = |said: Option<u32>| said.map_or(tokens, u64::from).max(u64::from(largest));
        let none = Limits { step: u64::MAX, cache: u64::MAX, cost: settings.relative_cost };
        Some(match &site.deployment.scheduler {
            Scheduler::Sglang(_) => {
                let held = SGLANG_CACHE / (u64::from(site.model.hidden) * EMBEDDING_BYTES);
                Limits { cache: settings.encoder_cache_size.map_or(held, u64::from), ..none }
            }
            Scheduler::Trtllm(_) => none,
            _ => Limits {
                step: limit(settings.max_num_encoder_input_tokens),
                cache: limit(settings.encoder_cache_size),
                ..none
            },
        })
    }
}

/// [`Encoder`], for the requests that there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens of a step, and of the cache.
    pub step: u64,
    pub cache: u64,
    pub cost: f64,
}

impl Limits {
    /// Time of the encoder for inputs that would take so long as prompts.
    pub(super) fn time(self, as_prompts: SimDuration) -> SimDuration {
        SimDuration((as_prompts.0 as f64 * self.cost) as i64)
    }
}

impl Replica {
    /// Tokens that must be encoded for a waiting request of which so many are found in the prefix cache.
    fn to_encode(live: &Live, computed: u32, env: &Env<'_>) -> u32 {
        if env.encoder.is_none() || live.work == Work::Encode {
            return 0;
        }
        let tokens = env.requests.encoder_tokens.get(live.request as usize).copied().flatten().unwrap_or(0);
        if computed >= tokens.min(live.input) { 0 } else { tokens }
    }

    /// Whether the encoder can take a waiting request, of which so many tokens are found in the prefix cache, into the step.
    pub(super) fn can_encode(&self, slot: u32, computed: u32, f: &Forming, env: &Env<'_>) -> bool {
        let Some(limits) = env.encoder else { return true };
        let tokens = u64::from(Self::to_encode(&self.live[slot as usize], computed, env));
        tokens == 0 || f.encoder.prefill_tokens + tokens <= limits.step && self.encoded + tokens <= limits.cache
    }

    /// An admitted request is encoded, if it must be.
    pub(super) fn encode(&mut self, slot: u32, computed: u32, f: &mut Forming, env: &Env<'_>) {
        let live = &mut self.live[slot as usize];
        let tokens = Self::to_encode(live, computed, env);
        if tokens == 0 {
            return;
        }
        live.encoded = tokens;
        let n = u64::from(tokens);
        self.encoded += n;
        self.totals.encoder_tokens += n;
        f.encoder = f.encoder.with_prompt(n);
    }

    /// A prompt goes on, some encoder tokens of which are still to be computed: where its results were not kept, they are made
    /// again.
    pub(super) fn encode_again(&mut self, slot: u32, computed: u32, f: &mut Forming, env: &Env<'_>) {
        let tokens = u64::from(Self::to_encode(&self.live[slot as usize], computed, env));
        if tokens == 0 || env.encoder.is_none_or(|limits| tokens <= limits.cache) {
            return;
        }
        self.totals.encoder_tokens += tokens;
        f.encoder = f.encoder.with_prompt(tokens);
    }

    /// What was encoded for a request is not needed any more.
    pub(super) fn forget_encoded(&mut self, slot: u32) {
        self.encoded -= u64::from(std::mem::take(&mut self.live[slot as usize].encoded));
    }

    /// How long the encoder takes in the step that is formed.
    pub(super) fn encoder_time(&mut self, f: &Forming, env: &Env<'_>) -> SimDuration {
        let Some(limits) = env.encoder.filter(|_| f.encoder.prefill_requests > 0) else { return SimDuration::ZERO };
        let before = env.model.extrapolated();
        let time = limits.time(env.model.step(&f.encoder));
        // It is no step.
        self.totals.not_extrapolated += env.model.extrapolated() - before;
        self.totals.encoder_time += time;
        time
    }
}

impl BatchShape {
    /// With one more prompt, without context.
    pub(super) fn with_prompt(self, tokens: u64) -> BatchShape {
        BatchShape {
            prefill_requests: self.prefill_requests + 1,
            prefill_tokens: self.prefill_tokens + tokens,
            prefill_tokens_squared: self.prefill_tokens_squared + tokens * tokens,
            prefill_tokens_x_input: self.prefill_tokens_x_input + tokens * tokens,
            prefill_tokens_max: self.prefill_tokens_max.max(tokens),
            ..self
        }
    }
}
