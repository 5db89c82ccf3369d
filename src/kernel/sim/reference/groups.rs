//! Groups of sequences: the first is the request itself, in the queue and among those that run; the others are lives of their
//! own from the end of the prompt, each with a table of blocks, and go where the first goes.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::{Life, stats};
use super::world::World;
use crate::sim::scheduler::{Beams, Samples, Scheduler};
use crate::sim::{RequestRow, Status};

impl World<'_> {
    /// A request, and the other sequences of its group.
    pub(super) fn sequences(&self, i: usize) -> Vec<usize> {
        [i].into_iter().chain(self.lives[i].forks.iter().copied()).collect()
    }

    /// The prompt of a request is computed, and a token of it out: so is one of every other sequence.
    pub(super) fn fork(&mut self, r: usize, i: usize) {
        let common = self.replicas[r].pool.common;
        let beams = self.lives[i].beams > 1;
        if !beams && (common.samples != Samples::Group || self.lives[i].samples == 1) {
            return;
        }
        if beams {
            self.fire("beams: several");
        }
        for sample in 1..self.lives[i].width() as u32 {
            let (shared, own) = self.blocks_of_fork(r, i);
            let first = &self.lives[i];
            let other = Life {
                samples: 1,
                beams: 1,
                silent: beams,
                leader: Some(i),
                sample,
                arrived: true,
                stage: first.stage,
                home: first.home,
                prompt: first.prompt,
                output: first.output,
                target: first.target,
                computed: first.computed,
                most: first.computed,
                blocks: shared.iter().chain(&own).copied().collect(),
                tokens: first.tokens.clone(),
                after_token: first.after_token,
                ..Life::new(self.demand, first.place)
            };
            for id in &shared {
                self.replicas[r].blocks[*id].users += 1;
            }
            self.lives.push(other);
            let other = self.lives.len() - 1;
            self.lives[i].forks.push(other);
        }
    }

    /// Blocks of another sequence of a group: those of the first, and its own, which are held for it.
    fn blocks_of_fork(&mut self, r: usize, i: usize) -> (Vec<usize>, Vec<usize>) {
        let pool = self.pool(r);
        let life = &mut self.lives[i];
        let (shared, own) = match pool.common.beams {
            Beams::None | Beams::OnWrite => (life.blocks.len(), 0),
            Beams::FromStart => {
                let whole = life.input / pool.block_size;
                (whole, life.blocks.len() - whole)
            }
            Beams::Apart => (0, life.blocks.len()),
        };
        (life.blocks[..shared].to_vec(), life.apart.drain(..own).collect())
    }

    /// Blocks of a request, each once, whichever sequence holds it.
    pub(super) fn blocks_of_all(&self, i: usize) -> BTreeSet<usize> {
        let of = |one: usize| self.lives[one].blocks.iter().chain(&self.lives[one].apart).copied();
        self.sequences(i).into_iter().flat_map(of).collect()
    }

    /// Takes so many blocks for beams that are not there yet.
    pub(super) fn hold_apart(&mut self, r: usize, i: usize, blocks: usize) {
        for _ in 0..blocks {
            let Some(id) = self.replicas[r].take() else { unreachable!("blocks were said to be free") };
            self.lives[i].apart.push(id);
        }
    }

    /// A sequence is to write: to a block that others use, too, it does not.
    pub(super) fn own_last_block(&mut self, r: usize, i: usize) {
        let at = self.lives[i].computed / self.replicas[r].pool.block_size;
        let Some(id) = self.lives[i].blocks.get(at).copied() else { return };
        if self.replicas[r].blocks[id].users == 1 {
            return;
        }
        self.fire("groups: a last block is copied");
        let Some(copy) = self.replicas[r].take() else { unreachable!("a block is free for each") };
        self.replicas[r].release(&[id]);
        self.lives[i].blocks[at] = copy;
    }

    /// Blocks of a group that are on the host, by what they were.
    pub(super) fn away(&self, i: usize) -> BTreeSet<usize> {
        self.sequences(i).iter().flat_map(|one| self.lives[*one].away.iter().copied()).collect()
    }

    /// Those of them that are full.
    pub(super) fn full_away(&self, r: usize, i: usize) -> BTreeSet<usize> {
        let full = |one: &usize| self.lives[*one].computed / self.replicas[r].pool.block_size;
        let sequences = self.sequences(i);
        sequences.iter().flat_map(|one| self.lives[*one].away.iter().copied().take(full(one))).collect()
    }

    /// They are copied back, each once; returns how many there are.
    pub(super) fn copy_back(&mut self, r: usize, i: usize) -> usize {
        let mut now: BTreeMap<usize, usize> = BTreeMap::new();
        for one in self.sequences(i) {
            for old in std::mem::take(&mut self.lives[one].away) {
                let id = match now.get(&old) {
                    Some(id) => {
                        self.fire("groups: shared again");
                        self.replicas[r].blocks[*id].users += 1;
                        *id
                    }
                    None => {
                        let Some(id) = self.replicas[r].take() else { unreachable!("blocks were said to be free") };
                        now.insert(old, id);
                        id
                    }
                };
                self.lives[one].blocks.push(id);
            }
        }
        now.len()
    }

    /// The other sequences leave with the first.
    pub(super) fn forks_leave(&mut self, r: usize, i: usize) {
        for other in self.lives[i].forks.clone() {
            let blocks = std::mem::take(&mut self.lives[other].blocks);
            self.replicas[r].release(&blocks);
            self.lives[other].over();
        }
        let apart = std::mem::take(&mut self.lives[i].apart);
        self.replicas[r].release(&apart);
    }

    /// Longest prompt plus output of a sequence, so that whenever its group is on the host, an empty cache can take it back.
    pub(super) fn longest_group(&mut self, r: usize, i: usize) -> usize {
        let pool = self.pool(r);
        let (input, n) = (self.lives[i].input, self.lives[i].width());
        let Scheduler::VllmV0(rules) = &pool.scheduler else { return usize::MAX };
        if n == 1 {
            return usize::MAX;
        }
        let watermark = rules.watermark(pool.blocks as u64) as usize;
        let mut computed = input;
        let fits = |computed: usize| {
            let shared = input / pool.block_size;
            let full = shared + n * (computed / pool.block_size - shared);
            full + n + watermark + pool.fixed <= pool.blocks
        };
        if !fits(computed) {
            self.fire("groups: no room for a second token");
            return input + 1;
        }
        while fits(computed + 1) && computed < pool.max_len {
            computed += 1;
        }
        // The token that comes of these, and the one of the step after it.
        computed + 2
    }

    /// The row of a request whose prompt was computed for several sequences.
    pub(super) fn row_of_group(&self, i: usize, status: Status) -> RequestRow {
        let told = |one: &&Life| !one.silent;
        let all: Vec<&Life> = self.sequences(i).into_iter().map(|one| &self.lives[one]).filter(told).collect();
        let gaps = all.iter().flat_map(|one| one.tokens.windows(2).map(|w| (w[1] - w[0]).0));
        RequestRow {
            output_tokens: all.iter().map(|one| one.tokens.len() as u32).sum(),
            itl: stats(gaps.collect()),
            ..self.lives[i].row(status)
        }
    }
}
