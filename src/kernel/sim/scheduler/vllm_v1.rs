//! The rules of vLLM's V1 scheduler (`vllm/v1/core/sched/scheduler.py`): decisions about one request at a time.
//!
//! In every step, running requests come first, in the order of their admission, and share the token budget; a decode
//! takes one token, a prompt as much as is left. Then waiting requests are admitted first come, first served, unless
//! something was preempted in this step; the first that does not fit blocks those behind it. When no block is free,
//! the request admitted last is preempted: it loses its cache, keeps its tokens, and goes to the front of the queue.
//! Left out: priorities, speculative tokens, encoder budgets, partial-prefill limits.

use super::VllmV1;

impl VllmV1 {
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
