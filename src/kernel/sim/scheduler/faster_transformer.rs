//! The rules of FasterTransformer (NVIDIA/FasterTransformer, release v5.3: `models/multi_gpu_gpt/ParallelGpt.cc`) behind
//! Triton's dynamic batcher, as in Vidur's `faster_transformer`
//! (`vidur/scheduler/replica_scheduler/faster_transformer_replica_scheduler.py`, main 7d47513), under its names.
//!
//! | rule | source | test (`timelines/faster_transformer.rs`) |
//! |---|---|---|
//! | 1. **A batch** is formed when nothing runs (with stages of a pipeline, rule 7): the first requests of the queue, `batch_size_cap` at most (Triton's `max_batch_size`), as many as are there; nobody is waited for (`max_queue_delay_microseconds` 0). Their prompts are one step. | Triton `batcher.md`; Vidur `_get_next_batch` | `a_batch_runs_until_its_longest_request_is_done`, `a_batch_has_so_many_places` |
//! | 2. **It decodes** until every request of it is done; until then nothing is admitted. | `forward`: the loop ends when all are finished; Vidur: the batch goes on before the queue is looked at | the same |
//! | 3. **Memory** for the longest reply is reserved for everyone in the batch; the first that does not fit holds up those behind it. | Vidur `can_allocate(max_blocks_per_sequence)`; FasterTransformer allocates batch x longest sequence, and fails where it cannot | `memory_is_reserved_for_the_longest` |
//! | 4. **Ends.** A request is done when its last token is out (the backend's decoupled mode streams tokens), and its blocks are free then. | FasterTransformer frees with the batch: nobody could use them before. Vidur never frees those of a request that ends before its batch does: a defect that is not repeated | `a_batch_runs_until_its_longest_request_is_done` |
//! | 5. **`padded`**: while the batch decodes, all of its requests are computed, also those that are done, whose attention alone is left out; and the context of each is as if its prompt were the longest of the batch. | `forward`: `local_batch_size` never shrinks, `sequence_lengths` begin at `max_input_length`; `decoder_masked_multihead_attention_template.hpp`: returns where `finished` | `ended_requests_and_padding_are_computed`, `padding_is_attended_to` |
//! | 6. **`remove_padding`**: whether the prompts are computed without what they are padded by. | `ParallelGpt.h`, default true | `ended_requests_and_padding_are_computed` |
//! | 7. **Pipelining.** With `pp` stages up to `pp` batches are in flight ([`lanes`](crate::sim)): one that is not done goes on when it leaves the last stage, and a new one is formed of the queue while there are fewer. | Vidur `_get_next_batch`, `on_schedule` | `static_batches_take_turns_until_each_is_done` (`timelines/lanes.rs`) |
//!
//! Padding is time, not tokens: it goes into what the latency model is shown. Rows, totals of work and the blocks in use tell
//! of real tokens.
//!
//! **Left out.** FasterTransformer's own pipelining splits one batch into micro-batches that follow each other through the
//! stages; here, as in Vidur, several batches do. Preferred batch sizes and the queue delay of Triton, and shared
//! contexts, but for those of [`beams`](crate::sim::beams).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Beams, Common, QueueOrder, Reserve};
use crate::pools::Site;
use crate::sim::latency::BatchShape;

/// FasterTransformer: static batches. A batch is formed when nothing runs, and nothing is admitted before all of it is done.
/// First come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FasterTransformer {
    /// Requests in a batch at most.
    pub batch_size_cap: u32,
    /// What memory is reserved for a request when it is admitted.
    pub reserve: Reserve,
    /// Requests that are done are computed until their batch is, and contexts are as long as if all prompts were the longest
    /// one. Without, a batch costs what is in it, as in Vidur.
    pub padded: bool,
    /// Prompts are computed as they are, not padded to the longest one of the batch. Only with `padded`.
    pub remove_padding: bool,
}

impl Default for FasterTransformer {
    fn default() -> Self {
        FasterTransformer { batch_size_cap: 128, reserve: Reserve::MaxModelLen, padded: true, remove_padding: true }
    }
}

impl FasterTransformer {
    pub(super) fn common(&self) -> Common {
        Common {
            seats: u64::from(self.batch_size_cap),
            reserves: true,
            beams: Beams::Apart,
            plain: !self.padded,
            ..Common::new(QueueOrder::Fcfs)
        }
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, _site: &Site) -> Vec<(&'static str, String)> {
        match self.batch_size_cap {
            0 => {
                vec![("deployment.scheduler.faster_transformer.batch_size_cap", "is 0; must be at least 1".to_string())]
            }
            1.. => Vec::new(),
        }
    }

    pub(in crate::sim) fn problems_of_cache(&self, _site: &Site, _blocks: u64) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// A batch, as far as what is computed of it depends on more than the requests that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Padding {
    /// Requests that it was formed of, each as often as it has beams.
    pub rows: u64,
    /// How often each prompt is computed.
    pub each: u64,
    /// Tokens of its longest prompt.
    pub longest: u64,
}

impl Padding {
    /// A step of a prompt alone, which is computed for each of its beams.
    pub(in crate::sim) fn of_prompt(&self, shape: &BatchShape) -> BatchShape {
        BatchShape {
            prefill_requests: shape.prefill_requests * self.each,
            prefill_tokens: shape.prefill_tokens * self.each,
            prefill_tokens_squared: shape.prefill_tokens_squared * self.each,
            prefill_tokens_x_input: shape.prefill_tokens_x_input * self.each,
            ..*shape
        }
    }

    /// A step of prompts, each as long as the longest one.
    pub(in crate::sim) fn of_prompts(&self, shape: &BatchShape) -> BatchShape {
        let (n, longest) = (shape.prefill_requests, self.longest);
        BatchShape {
            prefill_tokens: n * longest,
            prefill_tokens_squared: n * longest * longest,
            prefill_tokens_x_input: n * longest * longest,
            ..*shape
        }
    }

    /// A step of tokens, where those that still decode attend to `more` tokens of padding together.
    pub(in crate::sim) fn of_tokens(&self, shape: &BatchShape, more: u64) -> BatchShape {
        let context = shape.decode_context + more;
        // All of them are equally far, and those that are done attend to nothing.
        let (each, all_left) = (context / shape.decode_requests, shape.decode_requests == self.rows);
        let asked = shape.decode_context_max > 0;
        BatchShape {
            decode_requests: self.rows,
            decode_context: context,
            decode_context_min: if asked && all_left { each } else { 0 },
            decode_context_max: if asked { each } else { 0 },
            ..*shape
        }
    }
}
