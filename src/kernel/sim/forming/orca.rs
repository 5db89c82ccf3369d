//! Forming a step by the rules of [`Orca`].

use crate::sim::batch::{Forming, Seat};
use crate::sim::node::Env;
use crate::sim::replica::Replica;
use crate::sim::scheduler::{Orca, Reserve};

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: Orca,
}

impl State {
    pub(super) fn new(rules: &Orca) -> State {
        State { rules: *rules }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        replica.decode_all(f, env);
        replica.admit_reserving(self.rules.batch_size_cap, self.rules.reserve, f, env);
        // Whoever is not admitted now will be when something is released.
        replica.blocked = replica.next.chunks.is_empty() && !replica.nobody_waits();
    }
}

impl Replica {
    /// Admits waiting requests in order, with whole prompts, as long as there are seats and all that a request may ever have
    /// fits.
    pub(super) fn admit_reserving(&mut self, seats: u32, reserve: Reserve, f: &mut Forming, env: &Env<'_>) {
        while self.running.len() < seats as usize {
            let Some(slot) = self.waiting.front() else { return };
            let live = &self.live[slot as usize];
            // Those of a batch have as many beams.
            if self.running.first().is_some_and(|first| self.live[*first as usize].width != live.width) {
                return;
            }
            let (tokens, lengths) = (live.target, (live.input, env.demand.cap(live.request, env.max_len)));
            let spare = reserve.blocks(lengths, env.max_len, self.block_size) * live.width;
            if u64::from(spare) > self.room() {
                return;
            }
            self.waiting.pop_front();
            self.seat(slot, &Seat { hits: 0, tokens, spare }, f, env);
        }
    }
}
