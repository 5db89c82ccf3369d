//! The rules of vLLM's V1 scheduler (`vllm/v1/core/sched/scheduler.py`, version 0.11): decisions about one request at a
//! time, which [`batch`](crate::sim) applies.
//!
//! 1. **Running requests** come first, in the order of their admission, and share the token budget
//!    `max_num_batched_tokens`. One that decodes wants one token, one that prefills as many as are missing, at most
//!    `long_prefill_token_threshold`; what is left of the budget cuts either. When the budget is spent, the rest get
//!    nothing in this step.
//! 2. **Preemption.** When a running request needs more blocks than are free, a victim goes: the last of the running, or,
//!    with the policy `priority`, of all running the one with the highest priority value, among those the latest to
//!    arrive, among those the one with the highest number (vLLM takes the one admitted first, so that two of one
//!    arrival could preempt each other forever; its arrivals are never equal). It loses its blocks, keeps its tokens,
//!    and waits again. Repeated until the blocks suffice, or the victim is the request itself: then no further running
//!    request is looked at. A victim that had its share of this step already gives it back: its budget, its place in
//!    the batch, and the contents that its blocks would have had; what the others were to get stays as it is.
//! 3. **Waiting requests** are admitted in queue order while seats (`max_num_seqs`) and budget last, unless something was
//!    preempted in this step; the first that does not fit blocks those behind it. Blocks that hold the start of its
//!    tokens are shared ([`crate::sim::kv`]), all but the last token if all is found; the rest is chunked as above, or
//!    must fit whole without `enable_chunked_prefill`. It fits when the blocks for the chunk, and the blocks found that
//!    nobody uses, are free.
//! 4. **The queue** is first come first served, a preempted request at its head; or ordered by priority value, by length
//!    of the prompt (`sjf`; not in vLLM, from inference-sim) or by deadline (`edf`, not in vLLM), by the latest start
//!    (`least_slack`, not in vLLM), each then by arrival and number, where a preempted request takes its ordered place; or
//!    by the tenant that was served least (`fair`, not in vLLM: [`crate::sim`]'s `fair.rs`), then the same.
//! 5. **Stages of a pipeline** (`pp`): up to `pp` batches are in flight ([`lanes`](crate::sim); `core.py`,
//!    `step_with_batch_queue`; `timelines/lanes.rs`). The next one is formed at once while there are fewer, then whenever the
//!    first of them ends; what comes meanwhile waits for that. A request whose tokens are all computed or in flight is passed
//!    over until its next one is out; the next chunk of a prompt may follow one in flight. A victim may be in flight: it loses
//!    its blocks, and a token that is on its way comes out. It is admitted again when nothing of it is in flight any more, and
//!    holds up the queue until then (vLLM would compute the token twice).
//!
//! A preempted request that is admitted again computes its prompt and the tokens it had generated, as one prompt.
//! Drafts are in [`speculative`](crate::sim::speculative), encoder budgets in [`encoder`](crate::sim::encoder), parallel samples
//! in [`samples`](crate::sim::samples). Left out:
//! partial-prefill limits, and vLLM's `max_model_len - 1` bound on the tokens of a step, which only shortens the last chunk of prompts that are rejected here.

use super::{Common, Samples, VllmV1};

impl VllmV1 {
    pub(super) fn common(&self) -> Common {
        Common {
            decodes_max: u64::from(self.max_num_batched_tokens),
            tokens_max: u64::from(self.max_num_batched_tokens),
            seats: u64::from(self.max_num_seqs),
            async_scheduling: self.async_scheduling,
            overhead_us: self.scheduler_overhead_us,
            overhead_hidden: self.async_scheduling,
            recompute_full_hits: self.recompute_full_hits,
            caches_prefixes: true,
            asks_tiers: true,
            knows_adapters: true,
            samples: Samples::Requests,
            ..Common::new(self.scheduling_policy)
        }
    }

    /// Tokens that a running request gets, which still has `remaining` tokens to compute; 0 when the budget is spent.
    #[inline]
    pub(crate) fn running_tokens(&self, remaining: u32, budget: u32) -> u32 {
        self.chunk(remaining).min(budget)
    }

    /// Tokens that the head of the queue gets, or `None` when it has to wait: without chunked prefill a prompt that
    /// exceeds the budget is not cut.
    #[inline]
    pub(crate) fn waiting_tokens(&self, remaining: u32, budget: u32) -> Option<u32> {
        let tokens = self.chunk(remaining);
        if !self.enable_chunked_prefill && tokens > budget {
            return None;
        }
        Some(tokens.min(budget))
    }

    /// Whether one more request may run.
    #[inline]
    pub(crate) fn has_seat(&self, running: usize) -> bool {
        running < self.max_num_seqs as usize
    }

    /// Whether waiting requests are looked at in a step that had to preempt.
    pub(crate) const ADMITS_AFTER_PREEMPTION: bool = false;

    #[inline]
    fn chunk(&self, remaining: u32) -> u32 {
        match self.long_prefill_token_threshold {
            0 => remaining,
            threshold => remaining.min(threshold),
        }
    }
}
