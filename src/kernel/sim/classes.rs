//! Decode requests by the residue of their length: those of one class fill a block in the same step.

use std::cmp::Reverse;

use super::node::Env;
use super::replica::{Live, Replica};

impl Replica {
    pub(super) fn enter_decode(&mut self, slot: u32, env: &Env<'_>) {
        let (width, replies) = self.widths(slot);
        self.decodes += width;
        self.beside += width - 1;
        self.silent += width - replies;
        self.forking += self.copies_of(slot);
        self.begin_to_verify(slot, env);
        self.promised += self.live[slot as usize].promise;
        if let Some(fair) = self.waiting.fair() {
            fair.decode(self.live[slot as usize].tenant, 1, self.steps);
        }
        let computed = self.computed(&self.live[slot as usize]);
        let live = &self.live[slot as usize];
        self.context += u64::from(computed) * width;
        self.spread.enter(live.base, self.decodes == width);
        let entry = Reverse((live.finish, live.seq, slot));
        self.adapter_decodes(slot, true);
        if self.speculating.is_some() {
            return;
        }
        let live = &self.live[slot as usize];
        match live.capped && self.common.async_scheduling {
            true => self.caps.push(entry),
            false => self.finishes.push(entry),
        }
        self.enter_class(slot);
    }

    pub(super) fn leave_decode(&mut self, slot: u32) {
        self.adapter_decodes(slot, false);
        if let Some(speculating) = &mut self.speculating {
            speculating.forget();
        }
        self.leave_class(slot);
        if std::mem::take(&mut self.live[slot as usize].fresh) {
            self.fresh.retain(|other| *other != slot);
        }
        self.spread.leave(self.live[slot as usize].base);
        let (width, replies) = self.widths(slot);
        self.forking -= self.copies_of(slot);
        self.decodes -= width;
        self.beside -= width - 1;
        self.silent -= width - replies;
        self.promised -= self.live[slot as usize].promise;
        if let Some(fair) = self.waiting.fair() {
            fair.decode(self.live[slot as usize].tenant, -1, self.steps);
        }
        self.context -= u64::from(self.computed(&self.live[slot as usize])) * width;
    }

    pub(super) fn enter_class(&mut self, slot: u32) {
        if self.speculating.is_some() {
            return;
        }
        let live = &self.live[slot as usize];
        let class = self.class_of(live);
        self.class_counts[class] += u64::from(live.width);
        if self.fills_later(live) {
            let at = self.class_position(class, live.seq);
            self.class_lists[class].insert(at, slot);
        }
    }

    pub(super) fn leave_class(&mut self, slot: u32) {
        if self.speculating.is_some() {
            return;
        }
        let live = &self.live[slot as usize];
        let class = self.class_of(live);
        self.class_counts[class] -= u64::from(live.width);
        if self.fills_later(live) {
            let at = self.class_position(class, live.seq);
            self.class_lists[class].remove(at);
        }
    }

    fn class_of(&self, live: &Live) -> usize {
        (-live.base).rem_euclid(i64::from(self.block_size)) as usize
    }

    /// The trace knows contents that decoding will fill: the same answer for as long as a request decodes.
    fn fills_later(&self, live: &Live) -> bool {
        !self.common.fills_late && live.known > live.target / self.block_size
    }

    fn class_position(&self, class: usize, seq: u64) -> usize {
        self.class_lists[class].partition_point(|slot| self.live[*slot as usize].seq < seq)
    }
}
