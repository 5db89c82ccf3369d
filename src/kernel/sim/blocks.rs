//! The blocks of requests on a replica: what the cache has of a prompt, what is taken, filled with known contents, and given
//! back.

use super::groups::own_blocks;
use super::kv::hashes::Derivation;
use super::node::Env;
use super::replica::{Phase, Replica, Written};

impl Replica {
    /// The prefix of a waiting request that the cache holds.
    pub(super) fn prefix_of(&self, slot: u32, env: &Env<'_>) -> (u32, u64) {
        let live = &self.live[slot as usize];
        let pairs = self.speculating.as_ref().is_some_and(|s| s.pairs);
        let target = if pairs { (live.target - 1).max(1) } else { live.target };
        let found = self.find_prefix(live.request as usize, live.known, target, env);
        match found.0 {
            1.. if self.speculating.as_ref().is_some_and(|s| s.drops_hit) => {
                let units = self.derivation.units(env.requests, live.request as usize, self.block_size);
                self.pool.find(units, found.0 - 1)
            }
            _ => found,
        }
    }

    /// Blocks of the longest known prefix that the cache still holds, and how many of them nobody uses.
    pub(super) fn find_prefix(&self, request: usize, known: u32, target: u32, env: &Env<'_>) -> (u32, u64) {
        if self.derivation == Derivation::None || known == 0 {
            return (0, 0);
        }
        // The last token is computed again even on a full hit: its output is the first new token.
        let most = if self.common.recompute_full_hits { target - 1 } else { target } / self.block_size;
        self.pool.find(self.derivation.units(env.requests, request, self.block_size), most.min(known))
    }

    /// Content of the first whole block of the tokens to be computed that the cache does not hold; `None` where it holds them
    /// all, or the trace does not know.
    pub(super) fn next_content(&self, slot: u32, env: &Env<'_>) -> Option<u64> {
        if self.derivation == Derivation::None {
            return None;
        }
        let live = &self.live[slot as usize];
        let request = live.request as usize;
        let whole = (live.target / self.block_size).min(live.known);
        let (found, _) = self.pool.find(self.derivation.units(env.requests, request, self.block_size), whole);
        (found < whole).then(|| self.derivation.hash(env.requests, request, found))
    }

    /// The blocks for `tokens` more tokens after `computed`; returns how many become known.
    pub(super) fn grow(&mut self, slot: u32, computed: u32, tokens: u32, env: &Env<'_>) -> u32 {
        if !self.common.reserves {
            let need = self.blocks_for(slot, computed, tokens);
            if self.live[slot as usize].phase == Phase::Decode {
                self.forking -= self.copies_at(slot, computed);
            }
            let live = &mut self.live[slot as usize];
            let there = need.min(u64::from(live.spare));
            live.spare -= there as u32;
            if need > there {
                self.take(need - there);
            }
        }
        let live = &self.live[slot as usize];
        let (from, to) = (computed / self.block_size, ((computed + tokens) / self.block_size).min(live.known));
        if from >= to || self.common.fills_late {
            return 0;
        }
        self.fill(slot, from, to, env);
        to - from
    }

    /// Blocks `from..to` of a request are full, and their contents known.
    pub(super) fn fill(&mut self, slot: u32, from: u32, to: u32, env: &Env<'_>) {
        let live = &mut self.live[slot as usize];
        let request = live.request as usize;
        let mut block = from;
        while block < to {
            let (unit, first) = self.derivation.unit_of(block);
            let count = (self.derivation.unit_blocks() - first).min(to - block);
            let hash = self.derivation.unit_hash(env.requests, request, unit);
            match self.common.fills_late {
                true => self.pool.fill_once(&mut live.held, hash, first, count),
                false => self.pool.fill(&mut live.held, hash, first, count),
            }
            block += count;
        }
    }

    /// Where contents are found late: those of the first `computed` tokens of a request are found from now on.
    pub(super) fn fill_late(&mut self, slot: u32, computed: u32, env: &Env<'_>) {
        if !self.common.fills_late {
            return;
        }
        let pairs = self.speculating.as_ref().is_some_and(|s| s.pairs);
        let computed = computed.saturating_sub(u32::from(pairs));
        let live = &self.live[slot as usize];
        let (from, to) = (live.held.blocks(), (computed / self.block_size).min(live.known));
        if from >= to {
            return;
        }
        let request = live.request;
        self.sum_blocks();
        self.fill(slot, from, to, env);
        if self.tiers.is_some() {
            self.store_written(&[Written { slot, request, from, to }], env);
        }
    }

    /// Blocks that all decode requests fill in the step being formed, in order of admission.
    pub(super) fn fill_decodes(&mut self, env: &Env<'_>) {
        if self.class_lists.is_empty() {
            return;
        }
        let filling = self.class(self.steps + 1);
        for at in 0..self.class_lists[filling].len() {
            let slot = self.class_lists[filling][at];
            let live = &self.live[slot as usize];
            let block = self.computed(live) / self.block_size;
            if block < live.known {
                self.fill(slot, block, block + 1, env);
                self.note_written(slot, block, 1);
            }
        }
    }

    /// The step being formed fills so many blocks of a request from this one on: tiers are told when it ends.
    #[inline]
    pub(super) fn note_written(&mut self, slot: u32, from: u32, blocks: u32) {
        if blocks > 0 && self.tiers.is_some() {
            let request = self.live[slot as usize].request;
            self.next.written.push(Written { slot, request, from, to: from + blocks });
        }
    }

    /// Frees the blocks of a request with so many tokens in the cache, and some more.
    pub(super) fn release(&mut self, slot: u32, computed: u32, more: u64) {
        let reserves = self.common.reserves;
        let verifies = self.speculating.is_some();
        let live = &mut self.live[slot as usize];
        let spare = std::mem::take(&mut live.spare);
        let more = more + u64::from(std::mem::take(&mut live.fixed));
        let blocks = match reserves {
            true => spare,
            false if verifies && live.phase == Phase::Decode => {
                live.room / self.block_size - live.missing - live.held.blocks()
            }
            false => computed.div_ceil(self.block_size) - live.missing - live.held.blocks() + spare,
        };
        let own = own_blocks(live, self.common.beams, computed, self.block_size);
        self.pool.release(&mut live.held, u64::from(blocks) + own + more);
    }

    /// A completed request takes the place of its last token too, before it frees all, if there is one; returns how many.
    pub(super) fn one_more(&mut self, slot: u32, env: &Env<'_>) -> u32 {
        let computed = self.computed(&self.live[slot as usize]);
        if self.speculating.is_some() || self.blocks_for(slot, computed, 1) > self.pool.free() {
            return 0;
        }
        self.grow(slot, computed, 1, env);
        1
    }
}
