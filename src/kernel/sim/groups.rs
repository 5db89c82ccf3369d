//! Groups of sequences: requests whose samples are one request to the scheduler, and share the blocks of its prompt. Beams are
//! such sequences too, also elsewhere ([`beams`](super::beams)).
//!
//! | rule | source | test (`timelines/groups.rs`) |
//! |---|---|---|
//! | 1. The prompt is computed once. The step that completes it yields the first token of every sequence, which share its blocks from then on | vLLM 0.6 `engine/output_processor/single_step.py`; `Scheduler.fork_seq`, `BlockSpaceManagerV1.fork` | `sequences_share_the_blocks_of_their_prompt` |
//! | 2. Every sequence has a token in every step of replies, and attends to a context of its own: the batch has as many decode requests | `Scheduler.schedule`: a `SequenceData` for each | the same |
//! | 3. Whole blocks of the prompt stay shared. Where the prompt ends within a block, each sequence but the last that writes to it copies it first | `append_slots`: `ref_count` above 1 | the same, `a_prompt_that_ends_with_a_block_is_not_copied` |
//! | 4. `max_num_seqs` counts sequences, those of a prompt too that are yet to be | `SequenceGroup.get_max_num_running_seqs`, `SchedulingBudget` | `every_sequence_takes_a_seat` |
//! | 5. A group goes on if a block is free for each of its sequences, needed or not | `can_append_slots` | `a_group_goes_on_only_if_a_block_is_free_for_each` |
//! | 6. It is preempted as a whole, once, and by copies to the host, also where requests of one sequence are computed again | `_preempt` | `a_group_is_swapped_where_others_are_computed_again` |
//! | 7. What is shared is copied once, and shared again when it is back. For the host to take it, and to come back, its full blocks must find room, and one for every sequence | `swap_out`, `swap_in`; `_can_swap`, `get_num_full_blocks_touched` | the same |
//!
//! Sources: vLLM `vllm/core/scheduler.py`, `vllm/core/block_manager_v1.py`, `vllm/core/block_manager_v2.py`, version 0.6.
//!
//! All sequences have the length that the trace gives: they run in lock step. So one request stands for all of them here, of
//! a [`width`](super::replica::Live::width) by which what it adds to a batch is multiplied; what it tells is by its
//! [`replies`](super::replica::Live::replies).
//!
//! What differs: `preemption_mode: recompute` is vLLM's default, with which it swaps groups; where vLLM is told to recompute, it
//! ends with an error as soon as a group is to go. A group ends where it could not come back to an empty cache; vLLM gives it
//! up then, or waits forever. Copies of blocks on the GPU (rule 3) take no time. What is told of queues and seats counts
//! requests, as vLLM's own figures do; decode requests of a step and gaps count sequences; a preemption of all is one.
//!
//! Refused: more sequences than `max_num_seqs`, which vLLM would keep in its queue forever; adapters; pipeline stages.

use super::ItlStats;
use super::kv::plan;
use super::load::Demand;
use super::log::stats_of;
use super::node::Env;
use super::replica::{Live, Replica};
use super::scheduler::{Beams, Samples, Scheduler, VllmV0};
use crate::pools::Site;
use crate::units::SimDuration;

/// Why vLLM's version 0 serves no groups of so many sequences, which are several.
pub(super) fn unfit(rules: &VllmV0, site: &Site, n: u32) -> Option<String> {
    let most = rules.max_num_seqs;
    let d = &site.deployment;
    [
        (n > most, format!("{n} sequences can never run together, max_num_seqs is {most}")),
        (d.pp > 1, "groups of sequences are not simulated with pipeline stages".to_string()),
        (d.lora.is_some(), "groups of sequences are not simulated with adapters".to_string()),
    ]
    .into_iter()
    .find(|(is, _)| *is)
    .map(|(_, why)| why)
}

/// What an empty cache holds of a group that comes back to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Blocks, but for those that stay free and those that a request holds whatever its length.
    blocks: u64,
    block_size: u32,
}

impl Hold {
    /// `None` where there are no groups.
    pub(super) fn of(site: &Site, blocks: u64, demand: &Demand<'_>) -> Option<Hold> {
        let d = &site.deployment;
        let Scheduler::VllmV0(rules) = &d.scheduler else { return None };
        if demand.widest() < 2 {
            return None;
        }
        let free = blocks.saturating_sub(rules.watermark(blocks) + plan::blocks_per_request(d, &site.model));
        Some(Hold { blocks: free, block_size: d.kv.block_size })
    }

    /// Longest prompt plus output of a sequence of a group: with the last of its full blocks, and one for every sequence,
    /// the cache is full.
    pub(super) fn len_of(&self, width: u32, input: u32) -> u32 {
        if width == 1 {
            return u32::MAX;
        }
        let shared = input / self.block_size;
        let each = self.blocks.saturating_sub(u64::from(shared)) / u64::from(width);
        let len = (u64::from(shared) + each) * u64::from(self.block_size) + 1;
        u32::try_from(len).unwrap_or(u32::MAX).max(input.saturating_add(1))
    }
}

/// Blocks that sequences of a request have beyond those of the first, with so many tokens in the cache for each; but for those
/// that it holds ahead.
#[inline]
pub(super) fn own_blocks(live: &Live, beams: Beams, computed: u32, block_size: u32) -> u64 {
    let Live { width, input, .. } = *live;
    if width == 1 {
        return 0;
    }
    let begun = match beams {
        Beams::None | Beams::Apart => false,
        Beams::OnWrite => computed > input,
        Beams::FromStart => computed >= input,
    };
    if begun { own_of(width, input, computed, block_size) } else { 0 }
}

fn own_of(width: u32, input: u32, computed: u32, block_size: u32) -> u64 {
    u64::from(width - 1) * u64::from(computed.div_ceil(block_size) - input / block_size)
}

/// Blocks of a group with so many tokens in the cache for each of its sequences.
pub(super) fn blocks_of(width: u32, input: u32, computed: u32, block_size: u32) -> u64 {
    let own = if computed > input { own_of(width, input, computed, block_size) } else { 0 };
    u64::from(computed.div_ceil(block_size)) + own
}

/// Full blocks of such a group, and one for every sequence.
pub(super) fn next_blocks(width: u32, input: u32, computed: u32, block_size: u32) -> u64 {
    let (full, shared) = (computed / block_size, input / block_size);
    u64::from(full) + u64::from(width - 1) * u64::from(full.saturating_sub(shared)) + u64::from(width)
}

impl Replica {
    /// Sequences of a request here, and of how many of them anybody is told.
    pub(super) fn width_of(&self, request: u32, env: &Env<'_>) -> (u32, u32) {
        let beams = env.demand.beams(request);
        if beams > 1 {
            return (beams, 1);
        }
        match self.common.samples {
            Samples::Group => (env.demand.samples(request), env.demand.samples(request)),
            Samples::None | Samples::Requests | Samples::BehindPrompt => (1, 1),
        }
    }

    /// Sequences of a request, and of how many of them anybody is told.
    #[inline]
    pub(super) fn widths(&self, slot: u32) -> (u64, u64) {
        let Live { width, replies, .. } = self.live[slot as usize];
        (u64::from(width), u64::from(replies))
    }

    /// What was preempted begins with its prompt, and none of its tokens are out.
    pub(super) fn begins_anew(&self, slot: u32, env: &Env<'_>) -> bool {
        let beams = self.live[slot as usize].width > 1 && self.common.beams == Beams::FromStart;
        beams || env.quirks.restart_from_prompt
    }

    /// Sequences of the requests that run, those included of prompts.
    pub(super) fn sequences(&self, env: &Env<'_>) -> u64 {
        if env.groups.is_none() {
            return self.seated() as u64;
        }
        self.running.iter().map(|slot| u64::from(self.live[*slot as usize].width)).sum()
    }

    /// Blocks that a request takes for `tokens` tokens after `computed`.
    #[inline]
    pub(super) fn blocks_for(&self, slot: u32, computed: u32, tokens: u32) -> u64 {
        let width = self.live[slot as usize].width;
        let plain = super::batch::new_blocks(computed, tokens, self.block_size);
        if width == 1 {
            return plain;
        }
        let live = &self.live[slot as usize];
        let own = |computed: u32| own_blocks(live, self.common.beams, computed, self.block_size);
        plain + own(computed + tokens) - own(computed)
    }

    /// Of these, copies of the last block of its prompt.
    #[inline]
    pub(super) fn copies_at(&self, slot: u32, computed: u32) -> u64 {
        let live = &self.live[slot as usize];
        let shared = live.width > 1 && self.common.beams == Beams::OnWrite;
        let copies = shared && computed == live.input && !computed.is_multiple_of(self.block_size);
        if copies { u64::from(live.width - 1) } else { 0 }
    }

    /// The same for the next token of one that decodes.
    #[inline]
    pub(super) fn copies_of(&self, slot: u32) -> u64 {
        let live = &self.live[slot as usize];
        if live.width == 1 { 0 } else { self.copies_at(slot, self.computed(live)) }
    }

    /// The gaps between the tokens of all sequences that came out until now.
    pub(super) fn itl_of_group(&self, slot: u32) -> Option<ItlStats> {
        let live = &self.live[slot as usize];
        live.first_token?;
        let gaps = self.gaps_so_far(live);
        let sum = gaps.iter().sum::<i64>() * i64::from(live.replies);
        let mut all: Vec<i64> = gaps.into_iter().flat_map(|gap| (0..live.replies).map(move |_| gap)).collect();
        stats_of(&mut all, SimDuration(sum))
    }
}
