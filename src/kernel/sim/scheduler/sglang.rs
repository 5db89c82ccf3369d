//! The rules of SGLang's scheduler, version 0.5.9 (`python/sglang/srt/`: `managers/scheduler.py`, `managers/schedule_policy.py`,
//! `managers/schedule_batch.py`, `mem_cache/radix_cache.py`, `server_args.py`, `environ.py`), under the names and defaults of
//! its server.
//!
//! | rule | source | timeline |
//! |---|---|---|
//! | 1. Prompts before replies: a step holds prompts only, and replies pause, wherever a prompt can be added | scheduler.py `get_next_batch_to_run` | `prompts_pause_replies` |
//! | 2. A prompt that was cut goes first, with as much as the chunk and the cache leave | schedule_policy.py `add_chunked_req` | `a_cut_prompt_goes_first` |
//! | 3. Waiting requests follow in the order of the policy until one does not fit; none behind it is looked at | scheduler.py `_get_new_batch_prefill_raw` | `the_first_that_does_not_fit_ends_it` |
//! | 4. Tokens: its own and `min(max_new_tokens - out, 4096)` must be fewer than those free or evictable, less `new_token_ratio` of what each running request may still get, less all of what this step has added | schedule_policy.py `add_one_req` | `room_is_kept_for_replies` |
//! | 5. `max_prefill_tokens`: whole pages of the prompt must be fewer than are left of it, but for the first of a step | the same | `prefill_tokens_are_limited` |
//! | 6. `chunked_prefill_size`: a longer rest is cut to whole pages of it; then the step is full | the same | `prompts_are_cut_to_pages` |
//! | 7. *Full*: where a seat (`max_running_requests`) or tokens were missing, nobody is looked at until a batch shrinks: replies that ended are noticed by the step of replies after, prompts that were cut, or that ended with their first token, by the next step | scheduler.py `batch_is_full` | `who_ends_is_noticed_a_step_later` |
//! | 8. Replies that ended still count, with what they might have got, until the next step of replies | schedule_batch.py `filter_batch` | `who_ended_still_counts` |
//! | 9. `new_token_ratio` falls by its decay with every step of replies, from `init` to `min`; it is `init` again after idling | scheduler.py `update_running_batch`, `self_check_during_idle` | `the_ratio_decays` |
//! | 10. Retraction: where the pages of a step of replies are missing, one request, and then as many as it takes, go: of the fewest tokens out, then of the longest prompt, then the latest; never the last one | schedule_batch.py `retract_decode` | `the_shortest_reply_is_retracted` |
//! | 11. Who is retracted keeps its tokens and waits at the end of the queue; the ratio becomes (tokens out + 20 per request) / (most tokens + 1) of those that remain | the same | `the_ratio_is_estimated_anew` |
//! | 12. `lpm`: the longest prefix in the cache first, as they stood among equals; with more than 128 waiting as they stand | schedule_policy.py `_sort_by_longest_prefix` | `longest_prefix_first` |
//! | 13. ... and of requests that share 32 tokens or more, of which the cache has 32 at most, all but the first go last | `_compute_prefix_matches` | `one_of_those_that_share_goes_first` |
//! | 14. `dfs-weight`: the subtree of the cache for which most wait first, in it the deepest first | `_sort_by_dfs_weight` | `depth_first_by_weight` |
//! | 15. `lof`: most `max_new_tokens` first. `random`: shuffled at every look | `_sort_by_longest_output`, `_sort_randomly` | `longest_output_first` |
//! | 16. Contents are found by others from the end of the step that computes them: a prompt's as its chunks end, a reply's when it ends; what was computed twice is kept once; a retracted reply's are lost | radix_cache.py `cache_unfinished_req`, `cache_finished_req` | `prompts_of_one_step_share_nothing` |
//! | 17. `enable_mixed_chunk`: every reply has its token in the step of the prompts, and takes it from the chunk and from `max_prefill_tokens`; the ratio stays | scheduler.py `mix_with_running` | `mixed_steps` |
//! | 18. CUDA graphs: a step of replies is padded to the next captured size; beyond the largest it runs without | server_args.py `_generate_cuda_graph_batch_sizes` | `graphs_pad` |
//! | 19. A prompt has at most `limit - 7` tokens, prompt and output `limit - 2`, where `limit` is the least of context length and cache | scheduler.py `init_req_max_new_tokens`, tp_worker.py | `lengths` |
//! | 20. `num_continuous_decode_steps` with `disable_overlap_schedule`: so many steps of replies before the queue is looked at | 0.3.5 `event_loop_normal`; read nowhere since | `continuous_decode_steps` |
//! | 21. **Disaggregation.** On a decode server, requests whose KV caches have come join the step of replies in the order in which they came, as far as there are seats; one of a reply that ended is there after the next step of replies | disaggregation/decode.py `get_new_prebuilt_batch` | `caches_that_came_join_where_there_are_seats` |
//! | 22. ... it keeps no prefixes | server_args.py `_handle_pd_disaggregation` | `a_decode_server_keeps_no_prefixes` |
//! | 23. A prefill server counts on one token of each request | disaggregation/prefill.py `max_new_tokens = 1` | `a_prefill_server_expects_one_token_of_each` |
//! | 24. Tiers (HiCache): where the tokens of rule 4 are there, and the pages of the whole prompt beside those that a prompt which was cut still lacks, tiers are asked for what the tree has not. Of what a `blocking` tier (host memory) has, neither chunk nor `max_prefill_tokens` know, and the step lasts longer by it | schedule_policy.py `add_one_req` (`host_hit_length`, `init_load_back`), hiradix_cache.py `load_back` | `the_host_has_what_the_tree_has_not` |
//! | 25. Of what other tiers have (storage), also those with `prefetch`, the request waits with its pages, and goes before all that have none, whatever is left for replies; where it is cut, what follows takes no tokens of rule 4 | hiradix_cache.py `prefetch_from_storage`, scheduler.py (`check_prefetch_progress`) | `what_was_fetched_goes_first`, `what_was_fetched_and_cut_has_its_pages` |
//! | 26. `write_through`: stored is what can be found from now on, when it can (rule 16); `on_evict` is `write_back` | hiradix_cache.py `_inc_hit_count`, `evict` | `what_can_be_found_is_stored` |
//! | 27. With tiers, where tokens are missing and nobody runs, the batch is not full (rule 7) | scheduler.py (`enable_hierarchical_cache`) | `what_was_fetched_goes_first` |
//! | 28. LoRA: who asks for an adapter for which the batch has no slot is passed over ([`crate::sim::lora`], rule 11) | scheduler.py `_can_schedule_lora_req` | `adapters_of_a_batch_have_slots`, `requests_without_an_adapter_need_a_slot` |
//! | 29. With drafts (`deployment.speculative`; chains, `speculative_eagle_topk: 1`, and the workers without overlap) a step of replies verifies `1 + num_speculative_tokens` tokens of every one, wherever its sequence must end. `num_speculative_tokens` is `speculative_num_steps`, one less than `speculative_num_draft_tokens` | speculative/eagle_info.py `prepare_for_verify` | `a_step_of_replies_verifies_drafts` |
//! | 30. Such a step asks for whole pages of that for every reply, whatever room its last page has; where they are missing, replies are retracted from the end, the latest first | schedule_batch.py `new_tokens_required_next_decode`, `retract_decode` | `the_last_is_retracted_where_drafts_lack_pages` |
//! | 31. It takes the pages that it writes to; those with nothing but rejected tokens are free when it ends | eagle_info.py `verify`: `align_evict_mask_to_page_size` | `pages_of_rejected_drafts_are_given_back` |
//! | 32. With `eagle` and `mtp` the cache knows tokens by pairs, a token and the next: of `n` tokens whole pages of `n - 1` are kept, and of a prompt the last but one is not looked for. Of pages of one token the last that is found is not used | radix_cache.py `is_eagle` | `contents_of_eagle_are_known_by_pairs` |
//! | 33. The step that verifies makes all passes of the drafter; that of a prompt one, over its tokens (`ngram`: none) | eagle_worker.py `draft`, `forward_draft_extend` | `drafting_belongs_to_the_step_that_verifies` |
//! | 34. Graphs are captured for more sizes, 1 to 8 among them; padding verifies tokens, too | server_args.py `_generate_cuda_graph_batch_sizes` | `graphs_pad_with_drafts` |
//! | 35. The server sets `max_running_requests` to 48 where nothing is said, has neither overlap nor mixed chunks, and reserves 2 GiB for a head, 6 GiB for a model of its own | server_args.py `_handle_speculative_decoding`, `_handle_gpu_memory_settings` | `sglang/tests.rs` |
//!
//! **Parallelism.** `tp_size`, `dp_size` and `pp_size` are other names of the deployment's `tp`, `dp` and `pp`, from which GPUs,
//! memory and times follow: a field of the deployment that is 1 takes what is said here, else both must agree. With
//! `enable_dp_attention` SGLang's `tp_size` counts all GPUs of the ranks: the deployment's `tp` is `tp_size / dp_size`. Every
//! rank is an engine with a queue and a cache of its own, with its share of `chunked_prefill_size` and
//! `max_running_requests`. In the same way `page_size` is `kv.block_size`, of which 16 counts as not said (SGLang's own default
//! is 1), and `disable_radix_cache` is `kv.enable_prefix_caching: false`. Blocks are planned from `mem_fraction_static`, not from
//! `kv.gpu_memory_utilization`.
//!
//! **Kernels.** What a parameter does to kernels cannot be derived here: [`Sglang::kernel_factors`] takes it, empty by default, so
//! that `attention_backend`, `decode_attention_backend`, `prefill_attention_backend`, `sampling_backend`, `enable_torch_compile`,
//! `enable_two_batch_overlap` and `tokenizer_worker_num` change no time unless measured factors are given. What the server makes
//! of them otherwise (pages, CUDA graphs) is done.
//!
//! **Where this differs from SGLang.**
//! - The radix tree is the cache of blocks of this simulator: evicted block by block, least recently used first, the end of a
//!   request before its start; SGLang evicts whole leaves. Contents are known by whole pages, also where waiting requests are
//!   compared with each other (rule 13; SGLang: by tokens). Subtrees of equal weight (rule 14) come as their first request stands
//!   in the queue; SGLang: as they came into the tree.
//! - Overlap hides `scheduler_overhead_us` behind the step, and that is all: in SGLang the end of a reply is also noticed one step
//!   later, and estimates lag by one token.
//! - The order of the running requests, which breaks ties of retraction, is that of their admission. `lof` breaks ties by arrival.
//! - Where SGLang would stop (a step's pages are missing even with one request left, or for a prompt that was cut, or for a mixed
//!   step), the last request is retracted too, the prompt is cut shorter, or waits, or the step is not mixed. With drafts no
//!   request grows so long that the pages of rule 30 would be missing for it alone: it ends there, as at the context length.
//! - Rule 27, where pages have several tokens, and two sequences part just at the end of a page: that page is found here; there it
//!   is not. What policies compare (rules 12 to 14) are pages, not pairs.
//! - Between prefill and decode servers requests wait and move as everywhere in this simulator ([`crate::sim`]): the prompt is
//!   computed before there is room for it on the decode server, and room is its tokens and one more; SGLang gives room first, and
//!   wants `num_reserved_decode_tokens` free for each request there. Who is retracted on a decode server computes its prompt
//!   again there, before all replies; SGLang copies its cache to the host and back. Where prompts that wait for room hold the pages
//!   that one that was cut lacks, that waits.
//! - A client that goes is noticed between steps, and its request leaves at once.
//! - Random orders are not Python's. Data-parallel ranks do not wait for each other, pipeline stages do not work on several
//!   batches. What a request holds for windows and states is taken as it is admitted, as everywhere in this simulator, not from
//!   pools of their own. Left out: priorities, trees of drafts, SGLANG_ENABLE_SPEC_V2, grammars,
//!   `ignore_eos` estimates without the radix cache.
//! - HiCache loads layer by layer while the step computes, so that a step lasts as long as the slower of the two; here they add
//!   up. What comes from storage goes to the host's memory there, and to the GPU with admission; here to pages of the GPU at
//!   once. `load_back_threshold` (10 tokens), `prefetch_threshold` (256), `write_through_selective` (the second use) and
//!   `prefetch` policies other than `wait_complete` are left out, and the host's memory has what the deployment says of
//!   the tier, not `hicache_ratio` of the GPU's. A look at the queue that leads to nothing, while nobody runs, leaves its
//!   order (rules 12 to 15) as it was, where tiers or adapters are what is waited for.

mod kernels;
mod server_args;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use kernels::{AttentionBackend, KernelCost, MoeA2aBackend, SamplingBackend};
pub(super) use server_args::settle;

use super::{Common, QueueOrder, Samples};

/// With more requests waiting, `lpm` leaves them as they stand.
pub(crate) const LPM_MAX: usize = 128;

/// SGLang's scheduler, under its own names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sglang {
    /// Another name of `deployment.tp`; with `enable_dp_attention`, of `tp * dp`.
    pub tp_size: Option<u32>,
    /// Another name of `deployment.dp`.
    pub dp_size: Option<u32>,
    /// Another name of `deployment.pp`.
    pub pp_size: Option<u32>,
    /// The data-parallel ranks share the GPUs of `tp_size`, and `chunked_prefill_size` and `max_running_requests`.
    pub enable_dp_attention: bool,
    /// Which waiting request goes first.
    pub schedule_policy: SchedulePolicy,
    /// Tokens of prompts in a step; -1 or 0: prompts are not cut. Default: by the memory of the GPU, 2048 to 16384.
    pub chunked_prefill_size: Option<i64>,
    /// Tokens of prompts that are added to a step, whole pages each; one prompt may exceed it.
    pub max_prefill_tokens: u32,
    /// Requests whose prompts are in one step. Default: no limit.
    pub prefill_max_requests: Option<u32>,
    /// Requests that may run at once, over all ranks of DP attention. Default: what the cache allows, 2048 to 4096.
    pub max_running_requests: Option<u32>,
    /// Share of the GPU's memory for weights and KV cache. Default: what chunks, CUDA graphs and parallelism leave.
    pub mem_fraction_static: Option<f64>,
    /// Another name of `kv.block_size`: tokens of a page.
    pub page_size: Option<u32>,
    /// No prefixes are reused, and the policies that look at them become `fcfs`.
    pub disable_radix_cache: bool,
    /// Factor on the share of their tokens that running requests are expected to use still: higher admits fewer.
    pub schedule_conservativeness: f64,
    /// Put replies into the steps of prompts.
    pub enable_mixed_chunk: bool,
    /// Steps of replies in a row before the queue is looked at. Only with `disable_overlap_schedule`, as up to SGLang 0.3.5; later
    /// versions do not read it.
    pub num_continuous_decode_steps: u32,
    /// The host works between steps, not while they run: `scheduler_overhead_us` is added to every step.
    pub disable_overlap_schedule: bool,
    /// Time of the host per step, in microseconds: a step lasts at least that long, or that much longer without overlap.
    pub scheduler_overhead_us: f64,
    /// Largest batch of replies that a CUDA graph is captured for. Default: by the memory of the GPU, 8 to 512.
    pub cuda_graph_max_bs: Option<u32>,
    /// No CUDA graphs: batches of replies are as large as they are.
    pub disable_cuda_graph: bool,
    /// A CUDA graph for every size up to the largest: nothing is padded.
    pub disable_cuda_graph_padding: bool,
    /// What computes attention. Some change `page_size` or do without CUDA graphs; for times see `kernel_factors`.
    pub attention_backend: Option<AttentionBackend>,
    /// The same for replies alone.
    pub decode_attention_backend: Option<AttentionBackend>,
    /// The same for prompts alone.
    pub prefill_attention_backend: Option<AttentionBackend>,
    /// What samples: see `kernel_factors`.
    pub sampling_backend: Option<SamplingBackend>,
    /// See `kernel_factors`.
    pub enable_torch_compile: bool,
    /// Needs `moe_a2a_backend`. See `kernel_factors`.
    pub enable_two_batch_overlap: bool,
    /// What exchanges tokens between experts; looked at by `enable_two_batch_overlap` only.
    pub moe_a2a_backend: MoeA2aBackend,
    /// Processes that turn text into tokens: see `kernel_factors`.
    pub tokenizer_worker_num: u32,
    /// What a value of a parameter costs: parameter, then value, such as `{ attention_backend: { triton: { prefill: 1.2 } } }`.
    /// Values are written as in the settings (`true`, `fa3`, `4`); one that was not said is `none`. `cuda_graph: { none: ... }` is
    /// for steps of replies that run without a CUDA graph. A step with prompts costs as a prefill. Empty: no effect.
    pub kernel_factors: BTreeMap<String, BTreeMap<String, KernelCost>>,
    /// SGLANG_INIT_NEW_TOKEN_RATIO, which `schedule_conservativeness` multiplies, up to 1.
    pub init_new_token_ratio: f64,
    /// SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR: the least ratio, as a share of the first.
    pub min_new_token_ratio_factor: f64,
    /// SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS: steps of replies from the first to the least ratio.
    pub new_token_ratio_decay_steps: u32,
    /// SGLANG_RETRACT_DECODE_STEPS: tokens that every remaining request is expected to get, when the ratio is estimated anew.
    pub retract_decode_steps: u32,
    /// SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION: of more tokens to come is not taken account.
    pub clip_max_new_tokens_estimation: u32,
    /// IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD: waiting requests of which the cache has more tokens are not compared; -1: none are.
    pub in_batch_prefix_caching_check_threshold: i64,
    /// IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD: tokens that one must share with another that waits to be held back.
    pub in_batch_prefix_caching_deprioritize_threshold: i64,
    /// What follows from the rest of the deployment.
    #[serde(skip)]
    pub(crate) settled: Settled,
}

/// What follows from settings, model and memory together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Settled {
    /// Longest prompt, and requests that may run at once.
    pub input_max: u32,
    pub running_max: u32,
    /// Tokens of a request in a step that verifies drafts (`speculative_num_draft_tokens`); 0 without drafts.
    pub verified: u32,
}

/// Which waiting request goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulePolicy {
    /// The longest prefix in the cache.
    Lpm,
    /// First come, first served; who was retracted goes last.
    #[default]
    Fcfs,
    /// The subtree of the cache for which most wait.
    DfsWeight,
    /// The most tokens that it may generate.
    Lof,
    /// Whoever.
    Random,
}

impl Default for Sglang {
    fn default() -> Self {
        Sglang {
            tp_size: None,
            dp_size: None,
            pp_size: None,
            enable_dp_attention: false,
            schedule_policy: SchedulePolicy::Fcfs,
            chunked_prefill_size: None,
            max_prefill_tokens: 16_384,
            prefill_max_requests: None,
            max_running_requests: None,
            mem_fraction_static: None,
            page_size: None,
            disable_radix_cache: false,
            schedule_conservativeness: 1.0,
            enable_mixed_chunk: false,
            num_continuous_decode_steps: 1,
            disable_overlap_schedule: false,
            scheduler_overhead_us: 0.0,
            cuda_graph_max_bs: None,
            disable_cuda_graph: false,
            disable_cuda_graph_padding: false,
            attention_backend: None,
            decode_attention_backend: None,
            prefill_attention_backend: None,
            sampling_backend: None,
            enable_torch_compile: false,
            enable_two_batch_overlap: false,
            moe_a2a_backend: MoeA2aBackend::None,
            tokenizer_worker_num: 1,
            kernel_factors: BTreeMap::new(),
            init_new_token_ratio: 0.7,
            min_new_token_ratio_factor: 0.14,
            new_token_ratio_decay_steps: 600,
            retract_decode_steps: 20,
            clip_max_new_tokens_estimation: 4096,
            in_batch_prefix_caching_check_threshold: 32,
            in_batch_prefix_caching_deprioritize_threshold: 32,
            settled: Settled::default(),
        }
    }
}

impl Sglang {
    pub(super) fn common(&self) -> Common {
        let policy = match self.schedule_policy {
            // Sorted by prompt, for which the replica gives the tokens that the reply may have.
            SchedulePolicy::Lof => QueueOrder::Sjf,
            SchedulePolicy::Lpm | SchedulePolicy::Fcfs | SchedulePolicy::DfsWeight | SchedulePolicy::Random => {
                QueueOrder::Fcfs
            }
        };
        Common {
            joins_in_order: true,
            longest_reply_first: self.schedule_policy == SchedulePolicy::Lof,
            requeues_last: true,
            fills_late: true,
            tokens_max: self.chunk().unwrap_or(self.max_prefill_tokens).into(),
            overhead_us: self.scheduler_overhead_us,
            overhead_hidden: !self.disable_overlap_schedule,
            caches_prefixes: !self.disable_radix_cache,
            knows_adapters: true,
            base_needs_slot: true,
            asks_tiers: true,
            cut_waits: true,
            plain: self.kernel_factors.is_empty(),
            samples: Samples::BehindPrompt,
            ..Common::new(policy)
        }
    }

    /// Tokens of prompts in a step; `None` where prompts are not cut.
    pub(crate) fn chunk(&self) -> Option<u32> {
        self.chunked_prefill_size.and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0)
    }

    /// First and least ratio, and by what it falls.
    pub(crate) fn ratios(&self) -> (f64, f64, f64) {
        let init = (self.init_new_token_ratio * self.schedule_conservativeness).min(1.0);
        let min = (init * self.min_new_token_ratio_factor).min(1.0);
        (init, min, (init - min) / f64::from(self.new_token_ratio_decay_steps.max(1)))
    }

    /// Steps of replies in a row before the queue is looked at.
    pub(crate) fn decode_steps(&self) -> u32 {
        if self.disable_overlap_schedule { self.num_continuous_decode_steps.max(1) } else { 1 }
    }
}
