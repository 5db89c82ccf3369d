//! vLLM's scheduler of version 0: steps of whole prompts, or of tokens of replies. A request that is swapped out waits, is
//! ready, and has no blocks.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::vllm_v0::no_swap_space;
use crate::sim::scheduler::{PreemptionMode, VllmV0};

impl World<'_> {
    pub(super) fn form_vllm_v0(&mut self, r: usize, rules: &VllmV0, f: &mut Forming) {
        let swapped = self.swapped_out(r);
        if swapped.is_empty() {
            while self.admit_next_vllm_v0(r, rules, f) {}
        } else if swapped.len() < self.replicas[r].waiting.len() {
            self.fire("vllm_v0: swapped requests hold up the queue");
        }
        if !f.batch.is_empty() {
            if self.available(r).len() > f.batch.len() {
                self.fire("vllm_v0: replies wait for prompts");
            }
            return;
        }
        let mut copied = self.a_token_each(r, rules, f);
        if f.preempted == 0 {
            while let Some(blocks) = self.bring_back(r, rules, f) {
                copied += blocks;
            }
        }
        if copied > 0 && f.batch.is_empty() {
            self.fire("vllm_v0: nothing but copies in a step");
        }
        f.more = rules.copy_time(copied as u64, self.replicas[r].pool.bytes_per_block);
    }

    fn seats_taken(&self, r: usize) -> usize {
        self.replicas[r].running.iter().map(|i| self.lives[*i].width()).sum()
    }

    fn swapped_out(&self, r: usize) -> Vec<usize> {
        self.replicas[r].waiting.iter().copied().filter(|i| self.lives[*i].ready).collect()
    }

    /// Admits the head of the queue; false where it does not fit.
    fn admit_next_vllm_v0(&mut self, r: usize, rules: &VllmV0, f: &mut Forming) -> bool {
        let Some(at) = self.head(r) else { return false };
        let i = self.replicas[r].waiting[at];
        let (taken, seats) = (self.seats_taken(r), rules.max_num_seqs as usize);
        if taken + self.lives[i].width() > seats {
            self.fire(match taken < seats {
                true => "groups: too few seats for all sequences",
                false => "vllm_v0: all seats are taken",
            });
            return false;
        }
        if f.batch.len() >= self.share(r, rules.max_num_seqs) {
            self.fire("vllm_v0: the batch has its share of the seats");
            return false;
        }
        let hits = self.look_up(r, i);
        assert!(hits.is_empty(), "nothing is cached");
        let target = self.lives[i].target;
        let blocks = target.div_ceil(self.replicas[r].pool.block_size) + self.replicas[r].pool.fixed;
        let free = self.replicas[r].free.len();
        let watermark = rules.watermark(self.replicas[r].blocks.len() as u64) as usize;
        if blocks + watermark > free {
            self.fire(if blocks <= free { "vllm_v0: the watermark would not stay" } else { "vllm_v0: too few blocks" });
            return false;
        }
        let lengths: Vec<usize> = f.batch.iter().map(|part| part.tokens).chain([target]).collect();
        let sum: usize = lengths.iter().sum();
        let padded = lengths.len() * lengths.iter().max().copied().unwrap_or(0);
        let budget = rules.budget() as usize;
        if sum > budget {
            self.fire("vllm_v0: the step holds no more tokens");
            return false;
        }
        if rules.pad_prompts && padded > budget {
            self.fire("vllm_v0: the step holds no more padded prompts");
            return false;
        }
        self.take_seat(r, at, hits, target, f);
        true
    }

    /// A token for every running request, in order; returns the blocks that are copied to the host.
    fn a_token_each(&mut self, r: usize, rules: &VllmV0, f: &mut Forming) -> usize {
        let (mut done, mut copied) = (0, 0);
        while let Some(i) = self.available(r).get(done).copied() {
            if done == self.share(r, rules.max_num_seqs) {
                self.fire("vllm_v0: the batch has its share of those that decode");
                break;
            }
            let (free, sequences) = (self.replicas[r].free.len(), self.sequences(i));
            if free >= sequences.len() {
                for one in sequences {
                    self.own_last_block(r, one);
                    let fits = self.go_on(r, one, 1, f);
                    assert!(fits, "a block is free");
                }
                done += 1;
                continue;
            }
            if !self.lives[i].computed.is_multiple_of(self.replicas[r].pool.block_size) {
                self.fire("vllm_v0: no block is free, and none is needed");
            }
            if free > 0 {
                self.fire("groups: too few blocks for all sequences");
            }
            let Some(victim) = self.available(r).last().copied() else { return copied };
            self.fire(match victim == i {
                true => "vllm_v0: a request preempts itself",
                false => "vllm_v0: the last one is preempted",
            });
            match rules.preemption_mode {
                PreemptionMode::Recompute if self.lives[victim].forks.is_empty() => self.preempt(r, victim, f),
                PreemptionMode::Recompute | PreemptionMode::Swap => match self.swap_out(r, victim, rules, f) {
                    Some(blocks) => copied += blocks,
                    None => return copied,
                },
            }
        }
        copied
    }

    /// Copies a request to the host; returns its blocks, or `None` where there is no room.
    fn swap_out(&mut self, r: usize, i: usize, rules: &VllmV0, f: &mut Forming) -> Option<usize> {
        let fixed = self.replicas[r].pool.fixed;
        let sequences = self.sequences(i);
        for one in &sequences {
            self.lives[*one].away = self.lives[*one].blocks.clone();
        }
        let on_host: usize = self.swapped_out(r).iter().map(|i| self.away(*i).len() + fixed).sum();
        let room = rules.host_blocks(self.replicas[r].pool.bytes_per_block);
        // The full ones, and one for the token that would be next.
        let asked = self.full_away(r, i).len() + sequences.len() + fixed;
        if (on_host + asked) as u64 > room {
            f.failed = Some(no_swap_space(room));
            return None;
        }
        self.fire("vllm_v0: swapped out");
        if sequences.len() > 1 {
            self.fire(match rules.preemption_mode {
                PreemptionMode::Recompute => "groups: swapped where others are computed again",
                PreemptionMode::Swap => "groups: swapped out",
            });
        }
        for one in &sequences {
            let blocks = std::mem::take(&mut self.lives[*one].blocks);
            self.replicas[r].release(&blocks);
        }
        self.replicas[r].release_fixed(i);
        self.replicas[r].running.retain(|running| *running != i);
        self.replicas[r].waiting.push_back(i);
        let life = &mut self.lives[i];
        life.ready = true;
        life.losing = life.losing.or(Some(f.now));
        life.preemptions += 1;
        self.summary.preemptions += 1;
        f.preempted += 1;
        Some(self.away(i).len() + fixed)
    }

    /// Brings the first of the swapped requests back, with its next token; returns the blocks that are copied, or `None`
    /// where there is nobody, or it does not fit.
    fn bring_back(&mut self, r: usize, rules: &VllmV0, f: &mut Forming) -> Option<usize> {
        let at = self.replicas[r].waiting.iter().position(|i| self.lives[*i].ready)?;
        let i = self.replicas[r].waiting[at];
        if f.batch.len() >= self.share(r, rules.max_num_seqs) {
            return None;
        }
        let seats = self.seats_taken(r) + self.lives[i].width();
        assert!(seats <= rules.max_num_seqs as usize, "nobody took its seat");
        let sequences = self.sequences(i);
        let fixed = self.replicas[r].pool.fixed;
        let watermark = rules.watermark(self.replicas[r].blocks.len() as u64) as usize;
        if self.full_away(r, i).len() + sequences.len() + fixed + watermark > self.replicas[r].free.len() {
            self.fire("vllm_v0: too few blocks to come back to");
            return None;
        }
        self.fire("vllm_v0: swapped in");
        f.budget = 1;
        self.replicas[r].hold_fixed(i);
        let copied = self.copy_back(r, i);
        for one in &sequences {
            self.own_last_block(r, *one);
            match *one == i {
                true => self.seat_ready(r, at, f),
                false => assert!(self.go_on(r, *one, 1, f), "there is a block for each"),
            }
        }
        Some(copied + fixed)
    }
}
