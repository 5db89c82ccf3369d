//! Sarathi-Serve's scheduler: chunks of prompts beside tokens of replies, so that no prompt holds up the replies for long.
//!
//! | | rule | source | timeline |
//! |---|---|---|---|
//! | 1 | Running requests that decode come first, in the order of their arrival, one token each; `chunk_size` does not limit them | sarathi_scheduler.py, first pass; Vidur, pass 1 | `decodes_go_first_and_chunks_fill_the_step` |
//! | 2 | One goes on if a block is free, also where its last block has room | base_block_space_manager.py, `can_append_slot` | `a_request_goes_on_only_if_a_block_is_free` |
//! | 3 | Else the last of the running that were not looked at yet loses its blocks, also one whose prompt is not done, and goes to the head of the queue; where none is left, the request itself | first pass | `the_last_goes_and_may_be_back_in_the_same_step`, `a_prompt_that_is_not_done_is_the_first_to_go` |
//! | 4 | Then prompts that have begun get what is missing, at most what the decodes leave of `chunk_size` (something always is: who decodes now had a token of the step before, and so had they) | second pass | `decodes_go_first_and_chunks_fill_the_step` |
//! | 5 | Then the queue, first come first served, also after a preemption, until one does not fit: fewer than `batch_size_cap` run, something is left of `chunk_size`, and the blocks of the whole prompt and, beyond them, `watermark_blocks_fraction` of all are free. The blocks of the whole prompt are taken at once, and what is left of `chunk_size` of its tokens go into the step | phase 2; `can_allocate` | `a_prompt_takes_all_its_blocks_at_once_and_leaves_the_watermark`, `many_decodes_leave_nothing_for_the_queue`, `no_more_run_than_there_are_seats` |
//! | 6 | A preempted request comes back as a prompt of all its tokens | Vidur, `Request.restart` | `the_last_goes_and_may_be_back_in_the_same_step` |
//! | 7 | With stages of a pipeline (`pp`), up to `pp` batches are in flight ([`lanes`](crate::sim)), each of at most `batch_size_cap / pp` requests (rounded down, at least one; Vidur would form none). A batch is formed of the running requests that are in none, also its victims, and of the queue | Vidur, `max_micro_batch_size`; `on_batch_end` | `two_batches_take_turns`, `a_prompt_waits_for_its_chunk`, `who_is_in_flight_is_no_victim` (`timelines/lanes.rs`) |
//! | 8 | A prompt whose blocks can never be taken, because of the watermark, is rejected | Sarathi-Serve and Vidur wait for it forever | `what_can_never_be_admitted_is_rejected` |
//!
//! Sources: microsoft/sarathi-serve, `sarathi/core/scheduler/sarathi_scheduler.py` and
//! `sarathi/core/block_space_manager/`; microsoft/vidur 7d47513, `sarathi_replica_scheduler.py`. Names and defaults are
//! Vidur's.
//!
//! What differs from them:
//! - Vidur turns what is missing of a prompt into tokens of the reply when it preempts it, and looks at a prompt that got
//!   nothing in the step before first, so that it is never preempted; Sarathi-Serve and this do neither.
//! - No request grows beyond what could be admitted again, the blocks without the watermark, and a token: it ends there,
//!   as at `max_model_len`. Theirs would wait forever once it is preempted.
//! - Left out: the dynamic chunk sizes of Sarathi-Serve, and prefix caches, which neither has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Common, QueueOrder, watermark_blocks};
use crate::pools::Site;

/// Sarathi-Serve's scheduler, under the names and with the defaults of Vidur: tokens of replies, and beside them chunks of
/// prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sarathi {
    /// Tokens of a step, as far as prompts fill it: they get what the tokens of replies leave of it.
    pub chunk_size: u32,
    /// Requests that may run at once; with `pp` stages, an equal part of them in each batch.
    pub batch_size_cap: u32,
    /// Share of all KV blocks that must stay free when a request is admitted: 0 or more, below 1.
    pub watermark_blocks_fraction: f64,
    /// Time of the host per step, to schedule it and to handle its output, in microseconds.
    pub scheduler_overhead_us: f64,
}

impl Default for Sarathi {
    fn default() -> Self {
        Sarathi { chunk_size: 512, batch_size_cap: 128, watermark_blocks_fraction: 0.01, scheduler_overhead_us: 0.0 }
    }
}

impl Sarathi {
    pub(super) fn common(&self) -> Common {
        let (chunk, cap) = (u64::from(self.chunk_size), u64::from(self.batch_size_cap));
        Common {
            tokens_max: chunk + cap,
            seats: cap,
            overhead_us: self.scheduler_overhead_us,
            slack: 1,
            ..Common::new(QueueOrder::Fcfs)
        }
    }

    /// Blocks that must stay free when a request is admitted, of so many.
    pub(crate) fn watermark(&self, blocks: u64) -> u64 {
        watermark_blocks(self.watermark_blocks_fraction, blocks)
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, _site: &Site) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for (path, value) in [
            ("deployment.scheduler.sarathi.chunk_size", self.chunk_size),
            ("deployment.scheduler.sarathi.batch_size_cap", self.batch_size_cap),
        ] {
            if value == 0 {
                found.push((path, "is 0; must be at least 1".to_string()));
            }
        }
        found.extend(super::bad_watermark(
            "deployment.scheduler.sarathi.watermark_blocks_fraction",
            self.watermark_blocks_fraction,
        ));
        found.extend(super::bad_overhead(
            "deployment.scheduler.sarathi.scheduler_overhead_us",
            self.scheduler_overhead_us,
        ));
        found
    }

    pub(in crate::sim) fn problems_of_cache(&self, _site: &Site, _blocks: u64) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scheduler::Scheduler;
    use crate::sim::swarm::scenario_8b;
    use crate::sim::{SimError, check};

    #[test]
    fn defaults_are_vidurs() {
        let said: Sarathi = serde_json::from_str("{}").unwrap();
        assert_eq!((said.chunk_size, said.batch_size_cap, said.watermark_blocks_fraction), (512, 128, 0.01));
        // Vidur's 7,424 blocks of Llama 2 7B.
        assert_eq!(said.watermark(7_424), 74);
        assert!(serde_json::from_str::<Sarathi>(r#"{"chunks": 1}"#).is_err());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let cases: [(Sarathi, &[&str]); 4] = [
            (Sarathi::default(), &[]),
            (Sarathi { chunk_size: 0, batch_size_cap: 0, ..Sarathi::default() }, &["chunk_size", "batch_size_cap"]),
            (Sarathi { watermark_blocks_fraction: 1.0, ..Sarathi::default() }, &["watermark_blocks_fraction"]),
            (
                Sarathi { watermark_blocks_fraction: f64::NAN, scheduler_overhead_us: -1.0, ..Sarathi::default() },
                &["watermark_blocks_fraction", "scheduler_overhead_us"],
            ),
        ];
        for (rules, expect) in cases {
            let mut s = scenario_8b();
            s.deployment.scheduler = Scheduler::Sarathi(rules);
            let found: Vec<String> = check(&s).err().unwrap_or_default().iter().map(SimError::to_string).collect();
            assert_eq!(found.len(), expect.len(), "{found:?}");
            for (found, field) in found.iter().zip(expect) {
                assert!(found.starts_with(&format!("deployment.scheduler.sarathi.{field}: ")), "{found}");
            }
        }
    }
}
