//! Forming a step by the rules of [`Sarathi`]: where a block is free for every decode request, only prompts are looked at;
//! else all running requests are, in order.

use crate::sim::batch::{Forming, Seat};
use crate::sim::node::Env;
use crate::sim::replica::{Phase, Replica};
use crate::sim::scheduler::Sarathi;

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: Sarathi,
}

impl State {
    pub(super) fn new(rules: &Sarathi) -> State {
        State { rules: rules.clone() }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        f.budget = self.rules.chunk_size;
        let share = replica.share_of(self.rules.batch_size_cap);
        let mut behind = u64::MAX;
        if replica.running.len() <= share && replica.decode_need() < replica.pool.free() {
            replica.decode_all(f, env);
        } else {
            behind = walk(replica, share, f, env);
        }
        let mut count = f.shape.decode_requests as usize;
        for at in 0..replica.prefills.len() {
            let slot = replica.prefills[at];
            let live = &replica.live[slot as usize];
            if live.seq >= behind {
                break;
            }
            let tokens = (live.target - live.computed).min(f.budget);
            if tokens == 0 {
                // Those of several batches have come together.
                replica.leave_out(slot);
                continue;
            }
            count += 1;
            replica.run_prefill(slot, tokens, f, env);
        }
        self.admit(replica, share.saturating_sub(count), f, env);
        replica.blocked = f.preempted == 0 && replica.waits() > 0 && replica.next.chunks.is_empty();
    }

    /// Admits waiting requests, so many at most, in order until one does not fit.
    fn admit(&self, replica: &mut Replica, mut places: usize, f: &mut Forming, env: &Env<'_>) {
        let watermark = self.rules.watermark(replica.pool.total());
        while f.budget > 0 && places > 0 && replica.seated() < self.rules.batch_size_cap as usize {
            places -= 1;
            let Some(slot) = replica.waiting.front() else { return };
            let target = replica.live[slot as usize].target;
            let blocks = target.div_ceil(replica.block_size);
            if u64::from(blocks) + watermark > replica.room() {
                return;
            }
            replica.waiting.pop_front();
            let tokens = target.min(f.budget);
            replica.seat(slot, &Seat { hits: 0, tokens, spare: blocks }, f, env);
        }
    }
}

/// One token for every decode request that stays, in order, up to so many; the last of those behind it go where no block is
/// free. Returns from which order of admission on the batch has no place for requests.
fn walk(replica: &mut Replica, share: usize, f: &mut Forming, env: &Env<'_>) -> u64 {
    let mut at = 0;
    while at < replica.running.len() {
        if f.shape.decode_requests as usize == share {
            let behind = replica.running[at];
            for at in at..replica.running.len() {
                replica.leave_out(replica.running[at]);
            }
            return replica.live[behind as usize].seq;
        }
        let slot = replica.running[at];
        let live = &replica.live[slot as usize];
        if live.phase != Phase::Decode {
            at += 1;
            continue;
        }
        let computed = replica.computed(live);
        while replica.pool.free() == 0 && at < replica.running.len() {
            replica.evict(replica.running.len() - 1, f, env);
        }
        if at < replica.running.len() {
            replica.run_decode(slot, computed, f, env);
            at += 1;
        }
    }
    u64::MAX
}
