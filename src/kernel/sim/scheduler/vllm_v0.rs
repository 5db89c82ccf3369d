//! vLLM's scheduler of version 0, without chunked prefill: a step has whole prompts, or a token of every reply.
//!
//! | | rule | source | timeline |
//! |---|---|---|---|
//! | 1 | As long as no request is swapped out, the queue goes first, first come first served, until one does not fit: the blocks of its whole prompt and, beyond them, `watermark` of all are free, the tokens of all prompts of the step are within `max_num_batched_tokens`, and fewer than `max_num_seqs` run. Its blocks are taken at once | `_schedule_prefills`; `can_allocate` | `prompts_go_first_and_replies_wait`, `a_step_holds_so_many_tokens_of_prompts`, `a_prompt_leaves_the_watermark`, `no_more_run_than_there_are_seats` |
//! | 2 | A step with prompts has nothing else: replies wait | `_schedule_default` | `prompts_go_first_and_replies_wait` |
//! | 3 | `pad_prompts`: prompts count as long as the longest of them | version 0.2, `_schedule`: `len(seq_lens) * max(seq_lens)`; Vidur | `padded_prompts_are_as_long_as_the_longest` |
//! | 4 | Without prompts, every running request gets a token, in the order of admission, if a block is free, also where its last block has room | `_schedule_running`; `can_append_slots` | `a_request_goes_on_only_if_a_block_is_free` |
//! | 5 | Else the last of the running goes; where none is left, the request itself | `_schedule_running` | `the_last_goes_and_comes_back_as_a_prompt` |
//! | 6 | `recompute`: its blocks are lost, and it goes to the head of the queue, as a prompt of all its tokens | `_preempt_by_recompute` | `the_last_goes_and_comes_back_as_a_prompt` |
//! | 7 | `swap`: its blocks are copied to the host. The host must have as many free, and one more where the last is full; else the engine ends with an error | `_preempt_by_swap`, `can_swap_out` | `what_is_swapped_out_comes_back_before_the_queue`, `without_room_on_the_host_the_engine_fails` |
//! | 8 | In a step without prompts and preemptions, swapped requests come back in the order in which they went, until one does not fit: the blocks of its tokens and the next one and, beyond them, the watermark are free. Its next token is part of that step | `_schedule_swapped`; `can_swap_in` | `what_is_swapped_out_comes_back_before_the_queue`, `who_comes_back_leaves_the_watermark` |
//! | 9 | Copies take time before the batch: all blocks that go or come in a step, at `swap_gb_per_s` | `worker.execute_worker` | `what_is_swapped_out_comes_back_before_the_queue`, `a_step_may_be_nothing_but_copies` |
//! | 10 | A prompt whose blocks and the watermark are more than all is rejected | `can_allocate`: `NEVER`, the request is ignored | `what_can_never_be_admitted_is_rejected` |
//! | 11 | With stages of a pipeline (`pp`), up to `pp` batches are in flight ([`lanes`](crate::sim)), each of at most `max_num_seqs / pp` requests (rounded down, at least one). A batch is formed of the running requests that are in none, also its victims, and of those that wait; replies that prompts go before are the next batch, if fewer are in flight | Vidur, `max_micro_batch_size`; `on_schedule` | `replies_follow_the_prompts_that_go_first` (`timelines/lanes.rs`) |
//!
//! Sources: vLLM `vllm/core/scheduler.py` and `vllm/core/block_manager.py`, version 0.6 (rule 3: 0.2). Vidur's `vllm`
//! (microsoft/vidur 7d47513, `vllm_replica_scheduler.py`) follows rules 1 to 6, with padding.
//!
//! What differs from them:
//! - vLLM refuses `max_num_batched_tokens` below `max_model_len`, and so does this. So no prompt exceeds what a step holds;
//!   Vidur's would wait forever.
//! - No request grows beyond what could be admitted again, the blocks without the watermark, and a token: it ends there,
//!   as at `max_model_len`. vLLM ends such a request once it is preempted.
//! - A swapped request counts as one that waits.
//! - Copies are as fast as the link; vLLM starts one for every block and layer.
//! - Stages of a pipeline (`pp`): vLLM has a scheduler, a queue and a share of the blocks for each batch in flight. Rule 11 is
//!   Vidur's, with one of each.
//! - Left out: prefix caches (`enable_prefix_caching`, off in vLLM 0), whose hits such a step would not compute;
//!   `max_paddings` of versions 0.2.2 to 0.2.7; `delay_factor`; priorities. Requests of several sequences are in
//!   [`groups`](crate::sim::groups).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Beams, Common, QueueOrder, Samples, watermark_blocks};
use crate::pools::Site;
use crate::sim::engine;
use crate::sim::kv::plan::GIB;
use crate::units::SimDuration;

/// Least tokens of a step where nothing is said.
const TOKENS_LEAST: u32 = 2048;
/// Largest space on the host, and fastest link.
const SWAP_GIB_MAX: f64 = 65_536.0;
const SWAP_GB_PER_S_MAX: f64 = 1e6;
/// Slowest copies: below, the blocks of a cache would take days.
const SWAP_GB_PER_S_MIN: f64 = 1e-3;

/// vLLM's scheduler of version 0, without chunked prefill, under its own names and defaults: a step has whole prompts, or a
/// token of every reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VllmV0 {
    /// Tokens of the prompts of a step. Default: `max_model_len`, at least 2048. A step must hold the longest prompt.
    pub max_num_batched_tokens: Option<u32>,
    /// Requests that may run at once.
    pub max_num_seqs: u32,
    /// Share of all KV blocks that must stay free when a request is admitted or comes back: 0 or more, below 1.
    pub watermark: f64,
    /// Prompts of a step count as long as the longest of them, as in versions up to 0.2.
    pub pad_prompts: bool,
    /// What becomes of the blocks of a preempted request.
    pub preemption_mode: PreemptionMode,
    /// Memory of the host for swapped blocks, in GiB per GPU. Where it is not enough, the engine ends with an error, and so
    /// does the simulation.
    pub swap_space_gib: f64,
    /// Speed of copies between GPU and host, in GB/s (1e9 bytes) per GPU; not a setting of vLLM's. Default: about what PCIe
    /// 4.0 with 16 lanes does.
    pub swap_gb_per_s: f64,
    /// Time of the host per step, to schedule it and to handle its output, in microseconds.
    pub scheduler_overhead_us: f64,
}

/// What becomes of the blocks of a preempted request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreemptionMode {
    /// They are lost, and computed again.
    #[default]
    Recompute,
    /// They are copied to the host, and back.
    Swap,
}

impl Default for VllmV0 {
    fn default() -> Self {
        VllmV0 {
            max_num_batched_tokens: None,
            max_num_seqs: 256,
            watermark: 0.01,
            pad_prompts: false,
            preemption_mode: PreemptionMode::Recompute,
            swap_space_gib: 4.0,
            swap_gb_per_s: 25.0,
            scheduler_overhead_us: 0.0,
        }
    }
}

impl VllmV0 {
    pub(super) fn common(&self) -> Common {
        Common {
            tokens_max: u64::from(self.budget()),
            seats: u64::from(self.max_num_seqs),
            overhead_us: self.scheduler_overhead_us,
            samples: Samples::Group,
            beams: Beams::OnWrite,
            slack: 1,
            // Who is swapped out waits outside of the queue, where nobody asks for adapters.
            knows_adapters: self.preemption_mode == PreemptionMode::Recompute,
            ..Common::new(QueueOrder::Fcfs)
        }
    }

    /// What vLLM makes of what is not said.
    pub(super) fn settle(&mut self, max_model_len: u32) {
        self.max_num_batched_tokens = Some(self.max_num_batched_tokens.unwrap_or(max_model_len.max(TOKENS_LEAST)));
    }

    /// Tokens of the prompts of a step, once that is settled.
    pub(crate) fn budget(&self) -> u32 {
        self.max_num_batched_tokens.unwrap_or(TOKENS_LEAST)
    }

    /// Blocks that must stay free when a request is admitted or comes back, of so many.
    pub(crate) fn watermark(&self, blocks: u64) -> u64 {
        watermark_blocks(self.watermark, blocks)
    }

    /// Blocks of so many bytes that the host has room for.
    pub(crate) fn host_blocks(&self, bytes_per_block: f64) -> u64 {
        (self.swap_space_gib * GIB / bytes_per_block) as u64
    }

    /// How long so many blocks take between GPU and host.
    pub(crate) fn copy_time(&self, blocks: u64, bytes_per_block: f64) -> SimDuration {
        // A GB/s is a byte per nanosecond.
        SimDuration(libm::round(blocks as f64 * bytes_per_block / self.swap_gb_per_s) as i64)
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, _site: &Site) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.max_num_seqs == 0 {
            found.push(("deployment.scheduler.vllm_v0.max_num_seqs", "is 0; must be at least 1".to_string()));
        }
        if self.budget() < self.max_num_seqs {
            let message =
                format!("is {}; must be at least max_num_seqs, which is {}", self.budget(), self.max_num_seqs);
            found.push(("deployment.scheduler.vllm_v0.max_num_batched_tokens", message));
        }
        found.extend(super::bad_watermark("deployment.scheduler.vllm_v0.watermark", self.watermark));
        if !(0.0..=SWAP_GIB_MAX).contains(&self.swap_space_gib) {
            let message = format!("is {}; must be 0 to {SWAP_GIB_MAX} GiB", self.swap_space_gib);
            found.push(("deployment.scheduler.vllm_v0.swap_space_gib", message));
        }
        if !(SWAP_GB_PER_S_MIN..=SWAP_GB_PER_S_MAX).contains(&self.swap_gb_per_s) {
            let message = format!("is {}; must be {SWAP_GB_PER_S_MIN} to {SWAP_GB_PER_S_MAX} GB/s", self.swap_gb_per_s);
            found.push(("deployment.scheduler.vllm_v0.swap_gb_per_s", message));
        }
        found.extend(super::bad_overhead(
            "deployment.scheduler.vllm_v0.scheduler_overhead_us",
            self.scheduler_overhead_us,
        ));
        found
    }

    pub(in crate::sim) fn problems_of_cache(&self, site: &Site, blocks: u64) -> Vec<(&'static str, String)> {
        let longest = engine::max_len(&site.deployment, &site.model, blocks);
        let budget = self.budget();
        if budget >= longest {
            return Vec::new();
        }
        let message = format!(
            "{budget} is less than the longest sequence of {longest} tokens, which a step must hold as a prompt; raise it \
             to {longest}, or lower max_model_len to {budget}"
        );
        vec![("deployment.scheduler.vllm_v0.max_num_batched_tokens", message)]
    }
}

/// What vLLM's engine says when the host has no room for the blocks of a preempted request.
pub(in crate::sim) fn no_swap_space(host_blocks: u64) -> crate::sim::SimError {
    crate::sim::SimError::Invalid {
        path: "deployment.scheduler.vllm_v0.swap_space_gib".into(),
        message: format!(
            "a request is to be swapped out, and the host has no room for it (it has {host_blocks} blocks in all): vLLM \
             ends here; raise it, or, for requests of one sequence, let preemption_mode be recompute"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scheduler::Scheduler;
    use crate::sim::swarm::scenario_8b;
    use crate::sim::{SimError, check};

    #[test]
    fn defaults_are_vllms() {
        let mut said: VllmV0 = serde_json::from_str("{}").unwrap();
        assert_eq!((said.max_num_seqs, said.watermark, said.swap_space_gib), (256, 0.01, 4.0));
        assert_eq!(said.preemption_mode, PreemptionMode::Recompute);
        said.settle(1_000);
        assert_eq!(said.budget(), 2_048);
        let mut long = VllmV0::default();
        long.settle(8_192);
        assert_eq!(long.budget(), 8_192);
        assert!(serde_json::from_str::<VllmV0>(r#"{"swap": 1}"#).is_err());
        // 16 tokens of 128 KiB: 2 MiB, of which 2,048 are 4 GiB; at 25 bytes per ns.
        assert_eq!(said.host_blocks(2_097_152.0), 2_048);
        assert_eq!(said.copy_time(3, 2_097_152.0), SimDuration(251_658));
    }

    #[test]
    fn what_vllm_refuses_is_refused() {
        let rules = VllmV0::default;
        let cases: [(VllmV0, &[&str]); 6] = [
            (rules(), &[]),
            (VllmV0 { max_num_seqs: 0, ..rules() }, &["max_num_seqs"]),
            // Less than a step may need, and than the requests that may run.
            (VllmV0 { max_num_batched_tokens: Some(4_000), ..rules() }, &["max_num_batched_tokens"]),
            (VllmV0 { max_num_batched_tokens: Some(100), ..rules() }, &["max_num_batched_tokens"]),
            (VllmV0 { watermark: -0.1, swap_space_gib: f64::NAN, ..rules() }, &["watermark", "swap_space_gib"]),
            (
                VllmV0 { swap_gb_per_s: 0.0, scheduler_overhead_us: f64::INFINITY, ..rules() },
                &["swap_gb_per_s", "scheduler_overhead_us"],
            ),
        ];
        for (rules, expect) in cases {
            let mut s = scenario_8b();
            s.deployment.scheduler = Scheduler::VllmV0(rules);
            let found: Vec<String> = check(&s).err().unwrap_or_default().iter().map(SimError::to_string).collect();
            assert_eq!(found.len(), expect.len(), "{found:?}");
            for (found, field) in found.iter().zip(expect) {
                assert!(found.starts_with(&format!("deployment.scheduler.vllm_v0.{field}: ")), "{found}");
            }
        }
    }
}
