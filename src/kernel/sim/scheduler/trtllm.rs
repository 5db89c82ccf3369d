//! TensorRT-LLM's in-flight batching: the rules of its capacity scheduler, which says whose blocks fit, and of its micro
//! batch scheduler, which says how many tokens of whom go into a step.
//!
//! Read: `NVIDIA/TensorRT-LLM` around version 1.2 (release 1.2.1 is `376f7e1`; of every file the stored version nearest to
//! it), `cpp/tensorrt_llm/batch_manager/`: *cap* `capacityScheduler.cpp`, *micro* `microBatchScheduler.cpp`, *blocks*
//! `scheduledBlocksManager.h`, *kv* `kvCacheManager.cpp`, and `include/.../llmRequest.h` (*req*); `tensorrt_llm/`: *exec*
//! `_torch/pyexecutor/py_executor.py`, *creator* `_torch/pyexecutor/py_executor_creator.py`, *args* `llmapi/llm_args.py`,
//! *worker* `executor/base_worker.py`. `_torch/pyexecutor/scheduler.py` calls the C++ of both.
//!
//! | rule | source | test |
//! |---|---|---|
//! | 1. **Active requests.** While fewer than `max_batch_size` are active (started, or fetched from the queue), the first of the queue becomes active. An active request keeps its place in the list of active ones to its end, also while it is paused. | exec | `what_was_fetched_keeps_its_place` |
//! | 2. **GUARANTEED_NO_EVICT.** Requests that generate go on, and of the free blocks those are set aside that they may yet need: prompt and cap in whole blocks, less those that they have. Then, in the order of the list, prompts that are under way and fetched ones: each must find all blocks that it may ever need free, and sets them aside; the first fetched one that does not ends the search for fetched ones, the first under way that does not ends it. Blocks in the prefix cache count as needed. | cap `GuaranteedNoEvictScheduler`, blocks, kv `getRemainingBlocksToCompletion` | `nobody_starts_who_could_run_out_of_blocks` |
//! | 3. **STATIC_BATCH.** The same, but prompts go on or start only while nobody generates. | cap `StaticBatchScheduler` | `a_static_batch_is_done_before_the_next` |
//! | 4. **MAX_UTILIZATION.** In the order of the list each takes the blocks of this step: a fetched one those of its whole prompt, a prompt under way none, one that generates that of its token, if the last is full. Where they do not suffice, the last started request of the list, the present one included, is paused, and the list ends before it; without one, the search ends. | cap `MaxUtilizationScheduler`, kv `getNeededBlocksOneStep` | `the_last_of_the_list_is_paused_and_comes_back_to_its_place`, `who_is_alone_pauses_himself` |
//! | 5. **Pause.** A paused request loses its blocks (their contents may be found again), keeps its tokens, and computes prompt and tokens again as one prompt. | exec `_pause_requests`, req `pause` | as 4 |
//! | 6. **Waiting for a prefix.** With block reuse (not in a static batch), a fetched request is passed over, and no more, while the first block of its prompt that is not in the cache is also the first such block of a prompt under way, or of a fetched one before it. | cap `beneficialToSkip` | `a_prompt_waits_for_one_that_computes_its_next_block` |
//! | 7. **Tokens.** Those who may run are taken in the order of the list (with rules 2 and 3 those that generate first), while tokens are left of `max_num_tokens`: one for each that generates; for a prompt all of it, also what is in the cache. The first that does not fit ends it. | micro | `tokens_end_the_step`, `generation_goes_before_context` |
//! | 8. **Chunks.** With `enable_chunked_context` prompts share what those that generate leave. If that is less than all, `FIRST_COME_FIRST_SERVED` gives each in turn all that it lacks, or what is left, rounded down to whole blocks; one that gets none is passed over, and a later one may fit. `EQUAL_PROGRESS` gives each in turn another block, or the rest of its prompt, passing over whom that is too much for, until nobody gets any. | micro `setCtxRequestsChunkSize`, creator: the unit is a block | `chunks_are_cut_to_blocks_first_come_first_served`, `chunks_make_equal_progress` |
//! | 9. **Prefixes.** A prompt that starts takes the blocks of all of it at once. What is found of it in the cache, all but its last token at most, is not computed: its first chunk begins behind, and if it is not its last, ends with the last whole block that lies within the tokens of rule 8. | kv `addSequence`, req `setPrepopulatedPromptLen` | `a_first_chunk_begins_behind_the_prefix` |
//! | 10. **Windows and states.** A fetched request needs, beside the blocks of its tokens (rules 2 to 4), those that it will hold whatever its length; one that started has them, and gives them back when it is paused. | kv `BlockManager`: every window has blocks of its own, and who starts must find enough in each | `windows_are_needed_to_start` |
//! | 11. **Requests** whose prompt exceeds `max_num_tokens` without chunks are rejected (`RequestError`); a cap beyond the longest sequence is lowered to it; without a cap it is all the rest of it. | worker `_deduce_max_tokens`, `_enqueue_request` | `a_prompt_beyond_a_step_is_rejected` |
//! | 12. **Drafts** (`deployment.speculative`: `max_draft_len` is `num_speculative_tokens`). A request that generates takes `1 + max_draft_len` of the tokens of rule 7; the first for whose drafts there are none ends it | micro: `getNumDraftTokens` | `drafts_count_as_tokens_of_the_step` |
//! | 13. In rule 4 it takes the blocks of that many tokens, but none beyond prompt and cap, which is what rule 2 sets aside for it | kv `getNeededBlocksOneStep`, `getRemainingBlocksToCompletion` | `drafts_take_blocks_up_to_the_cap` |
//! | 14. Blocks with nothing but rejected tokens are free when the step ends | kv `rewindKVCache`, `resource_manager.py` `update_resources` | swarm |
//! | 15. **Adapters** (`deployment.lora`): who needs one for which there is no slot beside those claimed is passed over (rules 2, 3), behind the look at his blocks; in rule 4 he is as one whose blocks do not fit | cap `determineNumPages` | [`lora`](crate::sim::lora), rule 13 |
//!
//! Generation requests and prompts share steps. `max_seq_len` is `deployment.max_model_len` (lowered to what the cache
//! holds), `tokens_per_block` is `kv.block_size` (there 32 by default), `enable_block_reuse` is `kv.enable_prefix_caching`;
//! `scheduling_policy` orders the queue from which requests are fetched (there first come, first served). It never says
//! who is paused: that is always the last of the list. Parallel samples are in [`samples`](crate::sim::samples), beams
//! (`max_beam_width`) in [`beams`](crate::sim::beams).
//!
//! Different here: there, a fetched prompt that does not fit (rule 2) ends the search for those under way behind it, too:
//! with rule 6 they can hold the blocks that it waits for, and the engine stops for good. Within a step, those that generate
//! get their blocks first (there: prompts do), which shows in what the prefix cache forgets first only. A block can be found
//! as soon as it is full, as in vLLM; there those of a prompt when all of it is computed, which rule 6 mostly hides, and
//! those of a reply when the request ends. Rule 6 asks once a step for each request: there, one for which another was paused
//! in the same step waits a step for itself. A paused request keeps all its tokens; there those beyond `max_input_len` are
//! dropped. Where a paused request would not fit into a step again, the engine fails in the middle of its work; here
//! `max_num_tokens` is refused. Drafts beyond prompt and cap have no blocks here; there they may take one that nobody set
//! aside, and the engine fails where none is free. Left out: the overlap of scheduling and execution
//! (`disable_overlap_scheduler: true` is what is simulated) and with it the two steps that MAX_UTILIZATION looks ahead with
//! pipeline parallelism (one batch at a time passes all stages), partial reuse of blocks, a cache in host memory
//! (`host_cache_size: 0`: there a block is in one of the two pools, which swap contents, where tiers hold copies), trees of drafts, `draft_len_schedule`, the `max_draft_len - 1` tokens that drafters in the model
//! itself hold beside, attention data parallelism, KV caches that come from other engines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Beams, Common, QueueOrder, Samples};
use crate::pools::Site;
use crate::scenario::KvCache;
use crate::sim::{beams, engine};

/// TensorRT-LLM's in-flight batching, under its own names and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trtllm {
    /// Requests that may be active at once: that run, or were taken from the queue to run next.
    pub max_batch_size: u32,
    /// Tokens that one step may process.
    pub max_num_tokens: u32,
    /// Beams of a request. All requests must ask for as many (`workload.beam_width`); those that ask for others are rejected.
    pub max_beam_width: u32,
    /// Who may have blocks.
    pub capacity_scheduler_policy: CapacitySchedulerPolicy,
    /// Let a prompt be cut into chunks (`enable_chunked_prefill` in its Python interface). Without, longer prompts than
    /// `max_num_tokens` are rejected.
    pub enable_chunked_context: bool,
    /// Who gets how much where the tokens of a step do not suffice for all prompts.
    pub context_chunking_policy: ContextChunkingPolicy,
    /// Share of the memory beside weights and activations that the cache takes, when blocks are planned; in place of
    /// `kv.gpu_memory_utilization`.
    pub free_gpu_memory_fraction: f64,
    /// Order of the queue.
    pub scheduling_policy: QueueOrder,
    /// Time of the host per step, to schedule it and to handle its output, in microseconds: added to the step.
    pub scheduler_overhead_us: f64,
}

/// Who may have blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CapacitySchedulerPolicy {
    /// Only who can have all that it may ever need: nobody is paused.
    #[default]
    GuaranteedNoEvict,
    /// Who can have what the next step needs: others may have to be paused.
    MaxUtilization,
    /// As the first, and a batch is done before the next begins.
    StaticBatch,
}

/// How the tokens of a step are shared by prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ContextChunkingPolicy {
    /// All that the first lacks, then all that the second lacks.
    #[default]
    FirstComeFirstServed,
    /// A block for each, then another one.
    EqualProgress,
}

impl Default for Trtllm {
    fn default() -> Self {
        Trtllm {
            max_batch_size: 2048,
            max_num_tokens: 8192,
            max_beam_width: 1,
            capacity_scheduler_policy: CapacitySchedulerPolicy::default(),
            enable_chunked_context: false,
            context_chunking_policy: ContextChunkingPolicy::default(),
            free_gpu_memory_fraction: 0.9,
            scheduling_policy: QueueOrder::Fcfs,
            scheduler_overhead_us: 0.0,
        }
    }
}

impl Trtllm {
    pub(super) fn common(&self) -> Common {
        Common {
            decodes_max: u64::from(self.max_num_tokens),
            tokens_max: u64::from(self.max_num_tokens),
            seats: u64::from(self.max_batch_size),
            overhead_us: self.scheduler_overhead_us,
            caches_prefixes: true,
            knows_adapters: true,
            samples: Samples::Requests,
            beams: Beams::FromStart,
            ..Common::new(self.scheduling_policy)
        }
    }

    /// What it makes of the settings of the cache.
    pub(super) fn settle(&self, kv: &mut KvCache) -> Vec<(&'static str, String)> {
        if self.max_beam_width < 2 || !kv.enable_prefix_caching {
            return Vec::new();
        }
        kv.enable_prefix_caching = false;
        let message = "off, with max_beam_width above 1: TensorRT-LLM reuses no blocks then (enable_block_reuse)";
        vec![("deployment.kv.enable_prefix_caching", message.to_string())]
    }

    /// Most tokens of a prompt that it takes.
    pub(super) fn longest_prompt(&self) -> u32 {
        if self.enable_chunked_context { u32::MAX } else { self.max_num_tokens }
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, site: &Site) -> Vec<(&'static str, String)> {
        let kv = &site.deployment.kv;
        let mut found = Vec::new();
        for (path, value) in [
            ("deployment.scheduler.trtllm.max_batch_size", self.max_batch_size),
            ("deployment.scheduler.trtllm.max_num_tokens", self.max_num_tokens),
        ] {
            if value == 0 {
                found.push((path, "is 0; must be at least 1".to_string()));
            }
        }
        found.extend(beams::problems_of_trtllm(self, site));
        let fraction = self.free_gpu_memory_fraction;
        if !(fraction > 0.0 && fraction <= 1.0) {
            let message = format!("is {fraction}; must be above 0, and 1 at most");
            found.push(("deployment.scheduler.trtllm.free_gpu_memory_fraction", message));
        }
        if kv.gpu_memory_utilization != KvCache::default().gpu_memory_utilization {
            let message = "is vLLM's; TensorRT-LLM gives the cache a share of what is left beside weights and \
                           activations, scheduler.trtllm.free_gpu_memory_fraction";
            found.push(("deployment.kv.gpu_memory_utilization", message.to_string()));
        }
        if let Some(drafts) = &site.deployment.speculative
            && self.max_num_tokens > 0
            && self.max_num_tokens <= drafts.num_speculative_tokens
        {
            let message = format!(
                "is {}: a step must hold a token and {} drafts of a request, or nobody would ever generate",
                self.max_num_tokens, drafts.num_speculative_tokens
            );
            found.push(("deployment.scheduler.trtllm.max_num_tokens", message));
        }
        found.extend(super::bad_overhead(
            "deployment.scheduler.trtllm.scheduler_overhead_us",
            self.scheduler_overhead_us,
        ));
        if self.enable_chunked_context && self.max_num_tokens > 0 && self.max_num_tokens < kv.block_size {
            let message = format!(
                "is {}, less than the {} tokens of a block: chunks are cut to whole blocks, and a longer prompt would \
                 never begin",
                self.max_num_tokens, kv.block_size
            );
            found.push(("deployment.scheduler.trtllm.max_num_tokens", message));
        }
        found
    }

    pub(in crate::sim) fn problems_of_cache(&self, site: &Site, blocks: u64) -> Vec<(&'static str, String)> {
        let longest = engine::max_len(&site.deployment, &site.model, blocks);
        let pauses = self.capacity_scheduler_policy == CapacitySchedulerPolicy::MaxUtilization;
        if !pauses || self.enable_chunked_context || self.max_num_tokens >= longest - 1 {
            return Vec::new();
        }
        let message = format!(
            "is {}: with MAX_UTILIZATION a paused request computes prompt and reply again, up to {} tokens, which must fit \
             in a step without enable_chunked_context (the number of context tokens exceeds the limit)",
            self.max_num_tokens,
            longest - 1
        );
        vec![("deployment.scheduler.trtllm.max_num_tokens", message)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::kv::plan;
    use crate::sim::scheduler::Scheduler;
    use crate::sim::swarm::{h100, llama_8b, scenario_8b};
    use crate::sim::{SimError, check};

    fn problems(settings: &str, edit: impl Fn(&mut crate::scenario::Deployment)) -> Vec<String> {
        let mut s = scenario_8b();
        s.deployment.scheduler = Scheduler::Trtllm(serde_json::from_str(settings).unwrap());
        edit(&mut s.deployment);
        let told = |e| match e {
            SimError::Invalid { path, message } => format!("{path} {message}"),
            SimError::Cancelled => unreachable!("nobody stops a check"),
        };
        check(&s).err().unwrap_or_default().into_iter().map(told).collect()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let scheduler = "deployment.scheduler.trtllm.";
        for (settings, path, reason) in [
            (r#"{"max_batch_size": 0}"#, "max_batch_size", "at least 1"),
            (r#"{"max_num_tokens": 0}"#, "max_num_tokens", "at least 1"),
            (r#"{"free_gpu_memory_fraction": 0}"#, "free_gpu_memory_fraction", "above 0"),
            (r#"{"free_gpu_memory_fraction": 1.01}"#, "free_gpu_memory_fraction", "1 at most"),
            (r#"{"scheduler_overhead_us": -1}"#, "scheduler_overhead_us", "microseconds"),
            (r#"{"max_num_tokens": 15, "enable_chunked_context": true}"#, "max_num_tokens", "16 tokens of a block"),
            (r#"{"capacity_scheduler_policy": "MAX_UTILIZATION"}"#, "max_num_tokens", "up to 131071 tokens"),
        ] {
            let found = problems(settings, |_| ());
            let path = format!("{scheduler}{path} ");
            assert!(
                found.len() == 1 && found[0].starts_with(&path) && found[0].contains(reason),
                "{settings} {found:?}"
            );
        }
        let chunked = r#"{"capacity_scheduler_policy": "MAX_UTILIZATION", "enable_chunked_context": true}"#;
        let none: [String; 0] = [];
        assert_eq!(problems(chunked, |_| ()), none);
        let whole = r#"{"capacity_scheduler_policy": "MAX_UTILIZATION"}"#;
        assert_eq!(problems(whole, |d| d.max_model_len = Some(8_193)), none);
        let found = problems("{}", |d| d.kv.gpu_memory_utilization = 0.8);
        assert!(
            found.len() == 1 && found[0].starts_with("deployment.kv.gpu_memory_utilization is vLLM's"),
            "{found:?}"
        );
        assert!(serde_json::from_str::<Trtllm>(r#"{"max_num_seqs": 3}"#).is_err());
    }

    #[test]
    fn the_cache_takes_a_share_of_what_is_left() {
        let mut d = scenario_8b().deployment;
        d.kv.gpu_memory_utilization = 1.0;
        let all = plan::plan(&d, &llama_8b(), &h100());
        for fraction in [0.9, 0.5] {
            let rules = Trtllm { free_gpu_memory_fraction: fraction, ..Trtllm::default() };
            d.scheduler = Scheduler::Trtllm(rules);
            let share = plan::plan(&d, &llama_8b(), &h100());
            assert_eq!(share.kv_available, all.kv_available * fraction);
            assert_eq!(share.blocks, (all.kv_available * fraction / all.bytes_per_block) as u64);
        }
    }
}
