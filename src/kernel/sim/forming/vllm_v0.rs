//! Forming a step by the rules of [`VllmV0`]: prompts, while replies wait; or replies, of which the running ones are looked
//! at one by one only where a block is not free for each.

use crate::sim::batch::{Forming, Seat};
use crate::sim::groups::{blocks_of, next_blocks};
use crate::sim::node::Env;
use crate::sim::replica::{Phase, Replica};
use crate::sim::scheduler::vllm_v0::no_swap_space;
use crate::sim::scheduler::{PreemptionMode, VllmV0};

/// See the head of the file. Swapped requests are in [`Replica::loaded`].
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: VllmV0,
}

impl State {
    pub(super) fn new(rules: &VllmV0) -> State {
        State { rules: rules.clone() }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let queue_first = replica.loaded.is_empty();
        let lanes = replica.lanes.is_some();
        if queue_first {
            if lanes {
                replica.set_apart();
            }
            self.admit(replica, f, env);
        }
        if !replica.next.chunks.is_empty() {
            f.pause = !lanes;
            return;
        }
        if queue_first && lanes {
            replica.take_in();
        }
        let share = replica.share_of(self.rules.max_num_seqs);
        let mut copied = 0;
        if replica.running.len() <= share && replica.decode_need() + replica.common.slack <= replica.pool.free() {
            replica.decode_all(f, env);
        } else {
            copied += self.walk(replica, share, f, env);
        }
        if f.preempted == 0 {
            copied += self.swap_in(replica, share, f, env);
        }
        if copied > 0 {
            f.more = self.rules.copy_time(copied, env.bytes_per_block);
        }
        // The queue was looked at, or will not be.
        replica.blocked = f.preempted == 0 && replica.waits() > 0 && (queue_first || !replica.loaded.is_empty());
    }

    /// Admits whole prompts in order until one does not fit.
    fn admit(&self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let watermark = self.rules.watermark(replica.pool.total());
        let (mut tokens, mut longest, mut count) = (0_u64, 0_u64, 0_u64);
        let share = replica.share_of(self.rules.max_num_seqs);
        let mut seats = replica.sequences(env);
        while seats < u64::from(self.rules.max_num_seqs) && replica.running.len() < share {
            let Some(slot) = replica.next_waiting(env) else { return };
            seats += u64::from(replica.live[slot as usize].width);
            if seats > u64::from(self.rules.max_num_seqs) {
                return;
            }
            let target = replica.live[slot as usize].target;
            let blocks = target.div_ceil(replica.block_size);
            (tokens, longest, count) = (tokens + u64::from(target), longest.max(u64::from(target)), count + 1);
            let counted = if self.rules.pad_prompts { count * longest } else { tokens };
            if u64::from(blocks) + watermark > replica.room() || counted > u64::from(self.rules.budget()) {
                return;
            }
            replica.dequeue(slot, env);
            replica.seat(slot, &Seat { hits: 0, tokens: target, spare: 0 }, f, env);
        }
    }

    /// One token for every running request that stays, in order, up to so many; the last ones go where no block is free. Returns
    /// the blocks that are copied to the host.
    fn walk(&self, replica: &mut Replica, share: usize, f: &mut Forming, env: &Env<'_>) -> u64 {
        let (mut at, mut copied) = (0, 0);
        while at < replica.running.len() {
            if at == share {
                for at in at..replica.running.len() {
                    replica.leave_out(replica.running[at]);
                }
                return copied;
            }
            let slot = replica.running[at];
            let computed = replica.computed(&replica.live[slot as usize]);
            let width = u64::from(replica.live[slot as usize].width);
            while replica.pool.free() < width && at < replica.running.len() {
                let last = replica.running.len() - 1;
                let alone = replica.live[replica.running[last] as usize].width == 1;
                match self.rules.preemption_mode {
                    PreemptionMode::Recompute if alone => replica.evict(last, f, env),
                    PreemptionMode::Recompute | PreemptionMode::Swap => {
                        let Some(blocks) = self.swap_out(replica, last, f, env) else { return copied };
                        copied += blocks;
                    }
                }
            }
            if at < replica.running.len() {
                replica.run_decode(slot, computed, f, env);
                at += 1;
            }
        }
        copied
    }

    /// Copies the running request at this place to the host; returns its blocks, or `None` where there is no room.
    fn swap_out(&self, replica: &mut Replica, at: usize, f: &mut Forming, env: &Env<'_>) -> Option<u64> {
        let (size, fixed) = (replica.block_size, u64::from(replica.fixed));
        let held = |slot: u32| {
            let live = &replica.live[slot as usize];
            blocks_of(live.width, live.input, live.computed, size) + fixed
        };
        let used: u64 = replica.loaded.iter().map(held).sum();
        let slot = replica.running[at];
        let live = &replica.live[slot as usize];
        let computed = replica.computed(live);
        let asked = next_blocks(live.width, live.input, computed, size) + fixed;
        let blocks = blocks_of(live.width, live.input, computed, size) + fixed;
        let room = self.rules.host_blocks(env.bytes_per_block);
        if used + asked > room {
            f.failed = Some(no_swap_space(room));
            return None;
        }
        replica.swap_out(at, f, env);
        Some(blocks)
    }

    /// Brings swapped requests back, in order, until one does not fit; returns the blocks that are copied from the host.
    fn swap_in(&self, replica: &mut Replica, share: usize, f: &mut Forming, env: &Env<'_>) -> u64 {
        let watermark = self.rules.watermark(replica.pool.total());
        let mut copied = 0;
        while let Some(slot) = replica.loaded.front() {
            if f.shape.decode_requests as usize >= share {
                break;
            }
            let live = &replica.live[slot as usize];
            let (computed, size) = (live.computed, replica.block_size);
            // With the next token. Seats there are: nobody was admitted meanwhile.
            if next_blocks(live.width, live.input, computed, size) + watermark > replica.room() {
                break;
            }
            replica.loaded.pop_front();
            let blocks = blocks_of(live.width, live.input, computed, size) + u64::from(replica.fixed);
            replica.take(blocks);
            let live = &mut replica.live[slot as usize];
            (live.fixed, live.swapped) = (replica.fixed, false);
            replica.admit_loaded(slot, f, env);
            copied += blocks;
        }
        copied
    }
}

impl Replica {
    /// The decode request at this place of `running`, without a share of this step, waits with copies of its blocks.
    fn swap_out(&mut self, at: usize, f: &mut Forming, env: &Env<'_>) {
        let slot = self.running.remove(at);
        f.preempted += 1;
        let live = &self.live[slot as usize];
        let (computed, stalled) = (self.computed(live), live.stalled);
        self.sum_blocks();
        self.release(slot, computed, 0);
        self.stalled -= u64::from(stalled);
        self.single_out(slot);
        self.leave_decode(slot);
        let now = self.clock;
        let live = &mut self.live[slot as usize];
        (live.phase, live.loaded, live.swapped, live.stalled) = (Phase::Waiting, true, true, false);
        live.preemptions += 1;
        live.lost_since = live.lost_since.or(Some(now));
        (live.computed, live.peak) = (computed, live.peak.max(computed));
        self.totals.running_ns += i128::from((now - live.since).0);
        live.since = now;
        let key = self.key(slot, env);
        self.loaded.push(slot, key);
    }
}
