//! The rules of Orca (Yu et al., *Orca: A Distributed Serving System for Transformer-Based Generative Models*, OSDI 2022),
//! under the names of Vidur's `orca` (`vidur/scheduler/replica_scheduler/orca_replica_scheduler.py`, main 7d47513).
//!
//! | rule | source | test (`timelines/orca.rs`) |
//! |---|---|---|
//! | 1. **Iterations.** Every step gives each running request its next token, and may take new requests in beside them with their whole prompt: tokens and prompts share steps ("selective batching"). | paper 3.1, 3.2; Vidur `_get_next_batch` | `prompts_join_whole_those_that_decode` |
//! | 2. **Admission** is first come, first served, while the batch holds fewer than `batch_size_cap` requests (the paper's `max_bs`); the first whose reservation does not fit holds up those behind it. | Algorithm 1, lines 17 to 29; Vidur | `a_batch_has_so_many_seats`, `who_does_not_fit_holds_up_those_behind` |
//! | 3. **Reservation.** A request is admitted only where slots for all tokens that it may ever have are free, and keeps them until it ends: `reserve`. | Algorithm 1, lines 21 to 25 (`n_rsrv + req.max_tokens <= n_slots`); Vidur `can_allocate(max_blocks_per_sequence)` | `memory_is_reserved_for_the_longest` |
//! | 4. **No preemption**: what runs has all that it will need. | paper 4.2 | the same |
//! | 5. **Ends.** A request that is done leaves with its step, its place and slots are free for the next one. | Algorithm 1, lines 11 to 13 | `a_batch_has_so_many_seats`, `slots_are_free_when_the_client_goes` |
//! | 6. **Pipelining.** With `pp` stages up to `pp` batches are in flight ([`lanes`](crate::sim)), each formed of the requests that are in none of the others and of the queue, so that up to `pp * batch_size_cap` requests run. | Algorithm 1, lines 3 to 10; Vidur `on_schedule` | `orca_has_as_many_in_every_batch` (`timelines/lanes.rs`) |
//!
//! **Slots** are counted in blocks here, each reservation rounded up (Vidur rounds down, and so counts less than a prompt of
//! the full length takes). The paper's `max_tokens` is an attribute of the request, its prompt included: `request_cap`. Vidur,
//! and "Orca (Max)" of the vLLM paper, reserve the longest sequence of the model for everyone: `max_model_len`; with
//! `workload.exact_max_tokens`, `request_cap` is that paper's "Orca (Oracle)". Without any cap all of them are the same.
//!
//! **Left out.** Vidur's bound of the batch by its memory planner: the reservations bound it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Common, QueueOrder};
use crate::pools::Site;

/// Orca: every step gives each running request a token and takes new ones in with their whole prompt; memory for the longest
/// possible reply is reserved at admission. Nothing is ever preempted. First come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Orca {
    /// Requests that a step holds at most; as many run, or with `pp` stages `pp` times as many.
    pub batch_size_cap: u32,
    /// What memory is reserved for a request when it is admitted.
    pub reserve: Reserve,
}

/// How long a request may become, as far as memory is concerned that is reserved for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reserve {
    /// Its prompt, and as many tokens as it may generate: `max_tokens`, or what `max_model_len` leaves.
    RequestCap,
    /// `max_model_len`, whatever it asks for.
    MaxModelLen,
}

impl Default for Orca {
    fn default() -> Self {
        Orca { batch_size_cap: 128, reserve: Reserve::RequestCap }
    }
}

impl Reserve {
    /// Blocks for a prompt of `input` tokens and `cap` further ones at most; `max_len` is the longest of both together.
    pub(in crate::sim) fn blocks(self, (input, cap): (u32, u32), max_len: u32, block_size: u32) -> u32 {
        match self {
            Reserve::RequestCap => (input + cap).div_ceil(block_size),
            Reserve::MaxModelLen => max_len.div_ceil(block_size),
        }
    }
}

impl Orca {
    pub(super) fn common(&self) -> Common {
        Common {
            decodes_max: u64::from(self.batch_size_cap),
            seats: u64::from(self.batch_size_cap),
            reserves: true,
            ..Common::new(QueueOrder::Fcfs)
        }
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, _site: &Site) -> Vec<(&'static str, String)> {
        match self.batch_size_cap {
            0 => vec![("deployment.scheduler.orca.batch_size_cap", "is 0; must be at least 1".to_string())],
            1.. => Vec::new(),
        }
    }

    pub(in crate::sim) fn problems_of_cache(&self, _site: &Site, _blocks: u64) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_whole_blocks() {
        for (input, cap, max_len, block_size, by_cap, by_len) in
            [(3, 1, 8, 4, 1, 2), (3, 2, 8, 4, 2, 2), (7, 1, 9, 4, 2, 3), (5, 4, 9, 1, 9, 9)]
        {
            assert_eq!(Reserve::RequestCap.blocks((input, cap), max_len, block_size), by_cap);
            assert_eq!(Reserve::MaxModelLen.blocks((input, cap), max_len, block_size), by_len);
        }
    }
}
