//! Orca: iteration-level scheduling with reserved memory.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::{Orca, Reserve};

impl World<'_> {
    pub(super) fn form_orca(&mut self, r: usize, rules: &Orca, f: &mut Forming) {
        for i in self.available(r) {
            let held = self.lives[i].blocks.len();
            let goes_on = self.go_on(r, i, 1, f);
            assert!(goes_on && self.lives[i].blocks.len() == held, "its blocks were reserved");
        }
        let decode = !f.batch.is_empty();
        while let Some(at) = self.head(r) {
            if f.batch.len() >= rules.batch_size_cap as usize {
                self.fire("orca: all seats are taken");
                return;
            }
            if !self.reserve(r, at, rules.reserve, f) {
                self.fire("orca: no room for the longest");
                return;
            }
            if decode {
                self.fire("orca: a prompt beside tokens");
            }
        }
    }

    /// Admits the request at this place of the queue with all of its prompt, if blocks for all tokens that it may ever have
    /// are free, and takes them.
    pub(super) fn reserve(&mut self, r: usize, at: usize, reserve: Reserve, f: &mut Forming) -> bool {
        let i = self.replicas[r].waiting[at];
        let life = &self.lives[i];
        let (prompt, longest) = (life.prompt, self.replicas[r].pool.max_len);
        let tokens = match reserve {
            Reserve::RequestCap => prompt + self.demand.cap(life.request, longest as u32) as usize,
            Reserve::MaxModelLen => longest,
        };
        let blocks = tokens.div_ceil(self.replicas[r].pool.block_size);
        let beams = self.lives[i].beams as usize;
        if blocks * beams + self.replicas[r].pool.fixed > self.replicas[r].free.len() {
            return false;
        }
        if self.replicas[r].pool.fixed > 0 {
            self.fire("reserve: windows and states beside");
        }
        if tokens < longest {
            self.fire("reserve: less than the longest");
        }
        self.lives[i].target = prompt;
        self.take_seat(r, at, Vec::new(), prompt, f);
        self.hold_blocks(r, i, blocks);
        self.hold_apart(r, i, (beams - 1) * blocks);
        true
    }
}
