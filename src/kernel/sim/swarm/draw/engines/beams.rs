//! Scenarios with beam search, of the three schedulers that know it.

use super::super::{Dice, Sizes};
use super::{faster_transformer, room_beside_watermark, samples, trtllm};
use crate::scenario::Scenario;
use crate::sim::scheduler::Scheduler;

/// What every scenario of the long run together must fire, by the names that the oracle counts under.
pub(super) const RULES: &[&str] = &[
    "beams: several",
    "beams: a last block for each",
    "beams: begins anew",
    "beams: paused in its prompt",
    "beams: no room for all tokens",
    "beams: another width",
    "beams: another width ends the batch",
    "beams: a prompt alone is computed for each",
    "trtllm: not enough blocks to completion",
    "trtllm: not enough blocks for a step",
    "trtllm: pauses himself",
    "trtllm: pauses the last",
    "faster_transformer: no room for the longest",
    "groups: a last block is copied",
    "groups: swapped out",
    "groups: shared again",
];

pub(super) fn draw(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    match dice.range(0, 5) {
        0 => samples::groups(dice, sizes, s),
        1 => faster_transformer::draw(dice, sizes, s),
        _ => of_trtllm(dice, sizes, s),
    }
    (s.deployment.encoder, s.deployment.speculative, s.deployment.pp) = (None, None, 1);
}

/// Without layers that know no beams.
fn of_trtllm(dice: &mut Dice, sizes: &Sizes, s: &mut Scenario) {
    trtllm::draw(dice, sizes, s);
    (s.model.window_layers, s.model.sliding_window, s.model.linear_layers, s.model.state_bytes) = (0, 0, 0, 0);
    let width = dice.pick(&[2, 2, 3, 4]);
    // The longest sequence is what the cache holds of so many.
    let times = dice.pick(&[1, u64::from(width), 2 * u64::from(width)]);
    s.deployment.kv.num_gpu_blocks = s.deployment.kv.num_gpu_blocks.map(|blocks| blocks * times);
    if let Scheduler::Trtllm(rules) = &mut s.deployment.scheduler {
        rules.max_beam_width = width;
        rules.max_num_tokens = rules.max_num_tokens.max(width);
    }
    room_beside_watermark(s);
    if let (Scheduler::Trtllm(rules), Some(blocks)) = (&mut s.deployment.scheduler, s.deployment.kv.num_gpu_blocks) {
        // Without chunks what is paused must fit into a step.
        if !rules.enable_chunked_context {
            rules.max_num_tokens = rules.max_num_tokens.max(blocks as u32 / width * s.deployment.kv.block_size);
        }
    }
}
