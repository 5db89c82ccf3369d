//! The rules of LightLLM's router (ModelTC/lightllm, `lightllm/server/router/manager.py` at 3bed16d, `req_queue.py` at f1f66fe,
//! `server/io_struct.py`, `api_server.py`; the mode without chunked prefill, and without a prompt cache), under its names, but
//! for `max_waiting_iters`, which is Vidur's for `router_max_wait_tokens`
//! (`vidur/scheduler/replica_scheduler/lightllm_replica_scheduler.py`, main 7d47513).
//!
//! | rule | source | test (`timelines/lightllm.rs`) |
//! |---|---|---|
//! | 1. **Tokens, not blocks.** The cache is handed out token by token: `kv.block_size` must be 1. `max_total_token_num` is `kv.num_gpu_blocks`. | `TokenAttention`; Vidur asserts it | `lightllm_is_refused_what_it_refuses` |
//! | 2. **When nothing runs**, the queue is looked at, and the prompts of those that are admitted are one step. | `_step` | `prompts_are_computed_every_so_many_steps` |
//! | 3. **While something runs**, the queue is looked at every `max_waiting_iters` steps of tokens, whether or not anybody was admitted the last time. | `has_wait_tokens`, `max_wait_tokens` | `prompts_are_computed_every_so_many_steps`, `room_is_seen_at_the_next_look` |
//! | 4. **Prompts only.** A step computes whole prompts of new requests, while those that decode wait, or a token for each of these. | `_prefill_batch`, `_decode_batch` | `prompts_are_computed_every_so_many_steps` |
//! | 5. **Seats**: at most `running_max_req_size` requests run. | `generate_new_batch`, `_can_add_new_req` | `seats_are_limited` |
//! | 6. **`batch_max_tokens`**: the prompts of a step have no more tokens together. Default: a sixth of the cache, at least the longest request. | `generate_new_batch`; `api_server.py` | `the_prompts_of_a_step_are_limited` |
//! | 7. **Forecast.** A request is admitted only where the cache would not be full at any time if all that run, and it, went on to the most tokens that they may generate. | `_can_add_new_req`, `get_tuple_tokens` | `the_forecast_admits_what_fits_at_its_peak` |
//! | 8. **First come, first served**: the first that is not admitted holds up those behind it. | `generate_new_batch` breaks | `the_prompts_of_a_step_are_limited` |
//! | 9. **Alone**, a request is admitted whatever the forecast says. | not in LightLLM: see below | `a_prompt_that_fills_the_cache_runs_alone` |
//!
//! **The forecast.** A request that runs counts as `held = prompt + out` tokens, which it has in the cache after its next one,
//! and `left = most - out - 1` further ones; one that is to be admitted as `held = prompt + 1`, `left = most - 2`, at least 0,
//! its own numbers once its prompt is done. In the order of falling `left`, the peak is the maximum over `k` of `left[k] * k +
//! held[1] + ... + held[k]`, and must be less than the cache.
//!
//! *Why nothing runs out.* Everything that runs gets a token in a step of tokens and none in a step of prompts. In the `t+1`st
//! step of tokens from now only requests with `left >= t` can be there, for none generates more than its most: the first `k`
//! of that order, of which the last has `left[k] >= t`. They hold at most `held[1] + t + ... + held[k] + t <= held[1] + ... +
//! held[k] + left[k] * k`, which is not above the peak; and while prompts are computed, less. A reply that ends early, or whose
//! client goes, takes a term out of these sums. So until the next admission no more is in use than was forecast, and every
//! admission makes the forecast anew with all that run: the cache is never full. (Checked in every step.)
//!
//! What a request holds whatever its length (windows of layers, and states: not in LightLLM) is a part of `held`.
//!
//! That holds because the forecast goes by the most that a request may generate, as LightLLM's does with its default
//! `router_token_ratio` of 0. Above 0 it guesses less while the cache is not busy, and pauses requests when that was too little:
//! left out.
//!
//! **Differs.** 9: a request that may generate one token counts with one more than it takes, so that LightLLM would never admit
//! a prompt of one less than the whole cache, nor what is behind it. The router looks for new requests every 10 ms when nothing
//! runs: here at once. It refuses a request whose prompt and `max_tokens` exceed `max_req_total_len` (`max_model_len` here):
//! its reply is cut instead, as everywhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Common, QueueOrder};
use crate::pools::Site;
use crate::sim::engine;
use crate::sim::kv::plan;

/// LightLLM: a cache of single tokens (`kv: { block_size: 1 }`), admission by a forecast of its peak, steps of prompts apart
/// from steps of tokens. Nothing is ever preempted. First come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lightllm {
    /// Tokens of prompts in one step; at least `max_model_len`. Default: a sixth of the cache, and at least that.
    pub batch_max_tokens: Option<u32>,
    /// Requests that run at most.
    pub running_max_req_size: u32,
    /// Steps of tokens between two looks at the queue, while something runs (LightLLM: `router_max_wait_tokens`).
    pub max_waiting_iters: u32,
}

impl Default for Lightllm {
    fn default() -> Self {
        Lightllm { batch_max_tokens: None, running_max_req_size: 1000, max_waiting_iters: 10 }
    }
}

impl Lightllm {
    pub(super) fn common(&self) -> Common {
        Common {
            decodes_max: u64::from(self.running_max_req_size),
            seats: u64::from(self.running_max_req_size),
            ..Common::new(QueueOrder::Fcfs)
        }
    }

    /// Tokens of prompts that a step holds, with a cache of so many and requests of so many at most.
    pub(in crate::sim) fn tokens_of_prompts(&self, cache: u64, longest: u32) -> u64 {
        self.batch_max_tokens.map_or_else(|| (cache / 6).max(u64::from(longest)), u64::from)
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, site: &Site) -> Vec<(&'static str, String)> {
        let d = &site.deployment;
        let mut found = Vec::new();
        if self.running_max_req_size == 0 {
            let path = "deployment.scheduler.lightllm.running_max_req_size";
            found.push((path, "is 0; must be at least 1".to_string()));
        }
        if d.kv.block_size != 1 {
            let message = format!("is {}; must be 1: LightLLM hands out its cache token by token", d.kv.block_size);
            found.push(("deployment.kv.block_size", message));
        }
        if d.pp != 1 {
            let message = format!("is {}; must be 1: LightLLM has no pipeline stages", d.pp);
            found.push(("deployment.pp", message));
        }
        found
    }

    pub(in crate::sim) fn problems_of_cache(&self, site: &Site, blocks: u64) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let longest = engine::max_len(&site.deployment, &site.model, blocks);
        let cache = blocks.saturating_sub(plan::blocks_per_request(&site.deployment, &site.model));
        if let Some(said) = site.deployment.max_model_len.filter(|said| u64::from(*said) > cache) {
            let message = format!(
                "is {said}; LightLLM wants a cache that holds a request of that length, and it has {cache} tokens"
            );
            found.push(("deployment.max_model_len", message));
        }
        if let Some(tokens) = self.batch_max_tokens.filter(|tokens| *tokens < longest) {
            let message = format!(
                "is {tokens}; must be at least the longest request of {longest} tokens (`max_model_len`), whose prompt could \
                 never be computed else"
            );
            found.push(("deployment.scheduler.lightllm.batch_max_tokens", message));
        }
        found
    }
}

/// What a request holds after its next token, and how many it may generate after that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Outlook {
    pub held: u32,
    pub left: u32,
}

/// The most that a cache will hold, if every request generates all that it may: see the head of the file.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Forecast {
    /// By falling `left`.
    requests: Vec<Outlook>,
}

impl Forecast {
    pub(in crate::sim) fn of(mut requests: Vec<Outlook>) -> Forecast {
        requests.sort_unstable_by_key(|one| std::cmp::Reverse(one.left));
        Forecast { requests }
    }

    /// The peak with one more request.
    pub(in crate::sim) fn peak_with(&self, more: Outlook) -> u64 {
        let (before, behind) = self.requests.split_at(self.place(more));
        let (mut held, mut peak) = (0, 0);
        for (before, one) in (0..).zip(before.iter().chain([&more]).chain(behind)) {
            held += u64::from(one.held);
            peak = (held + u64::from(one.left) * (before + 1)).max(peak);
        }
        peak
    }

    pub(in crate::sim) fn add(&mut self, more: Outlook) {
        self.requests.insert(self.place(more), more);
    }

    fn place(&self, more: Outlook) -> usize {
        self.requests.partition_point(|one| one.left >= more.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// What the requests hold together in each step, if all go on.
    fn lived_through(requests: &[Outlook]) -> u64 {
        let longest = requests.iter().map(|one| one.left).max().unwrap_or(0);
        let at = |t: u32| requests.iter().filter(|one| one.left >= t).map(|one| u64::from(one.held + t)).sum();
        (0..=longest).map(at).max().unwrap_or(0)
    }

    #[test]
    fn the_forecast_is_what_comes() {
        let mut random = rng::stream(7, "forecast");
        for round in 0..2_000 {
            let mut one = || Outlook {
                held: 1 + rng::below(&mut random, 20) as u32,
                left: rng::below(&mut random, if round % 2 == 0 { 4 } else { 40 }) as u32,
            };
            let mut all: Vec<Outlook> = (0..round % 7).map(|_| one()).collect();
            let mut forecast = Forecast::of(all.clone());
            for _ in 0..3 {
                let more = one();
                all.push(more);
                assert_eq!(forecast.peak_with(more), lived_through(&all), "{all:?}");
                forecast.add(more);
            }
        }
    }

    #[test]
    fn prompts_of_a_step_are_a_sixth_of_the_cache_or_the_longest_request() {
        for (said, cache, longest, expect) in
            [(None, 6_000, 3_072, 3_072), (None, 60_000, 3_072, 10_000), (Some(4_000), 60_000, 3_072, 4_000)]
        {
            let rules = Lightllm { batch_max_tokens: said, ..Lightllm::default() };
            assert_eq!(rules.tokens_of_prompts(cache, longest), expect);
        }
    }
}
