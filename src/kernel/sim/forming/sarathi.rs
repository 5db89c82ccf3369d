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
        if replica.decode_need() < replica.pool.free() {
            replica.decode_all(f, env);
        } else {
            walk(replica, f, env);
        }
        for at in 0..replica.prefills.len() {
            let slot = replica.prefills[at];
            let live = &replica.live[slot as usize];
            let tokens = (live.target - live.computed).min(f.budget);
            replica.run_prefill(slot, tokens, f, env);
        }
        self.admit(replica, f, env);
        replica.blocked = f.preempted == 0 && replica.waits() > 0 && replica.next.chunks.is_empty();
    }

    /// Admits waiting requests in order until one does not fit.
    fn admit(&self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let watermark = self.rules.watermark(replica.pool.total());
        let share = replica.share_of(self.rules.batch_size_cap);
        while f.budget > 0 && replica.running.len() < share && replica.seated() < self.rules.batch_size_cap as usize {
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

/// One token for every decode request that stays, in order; the last of those behind it go where no block is free.
fn walk(replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
    let mut at = 0;
    while at < replica.running.len() {
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
}
