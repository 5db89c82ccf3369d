//! Sarathi-Serve: chunks of prompts beside tokens of replies.

use std::collections::VecDeque;

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Sarathi;

impl World<'_> {
    pub(super) fn form_sarathi(&mut self, r: usize, rules: &Sarathi, f: &mut Forming) {
        f.budget = rules.chunk_size as usize;
        let prompts = self.pass_over_running(r, f);
        for i in prompts {
            let missing = self.lives[i].target - self.lives[i].computed;
            let tokens = missing.min(f.budget);
            assert!(tokens > 0, "who decodes had a token of the step before, and so had every prompt that has begun");
            if tokens < missing {
                self.fire("sarathi: a prompt that has begun is cut again");
            }
            let fits = self.go_on(r, i, tokens, f);
            assert!(fits, "the blocks of a prompt are taken when it is admitted");
            f.budget -= tokens;
        }
        while self.admit_next_sarathi(r, rules, f) {}
    }

    /// A token for everybody who decodes, in order; returns those whose prompts are not done.
    fn pass_over_running(&mut self, r: usize, f: &mut Forming) -> Vec<usize> {
        let mut left: VecDeque<usize> = self.available(r).into();
        let mut prompts = Vec::new();
        while let Some(i) = left.pop_front() {
            if !self.lives[i].decodes() {
                prompts.push(i);
                continue;
            }
            let full = self.lives[i].computed.is_multiple_of(self.replicas[r].pool.block_size);
            let mut stays = true;
            while stays && self.replicas[r].free.is_empty() {
                if !full {
                    self.fire("sarathi: no block is free, and none is needed");
                }
                let victim = left.pop_back().unwrap_or(i);
                if !self.lives[victim].decodes() {
                    self.fire("sarathi: a prompt that is not done is preempted");
                }
                self.preempt(r, victim, f);
                stays = victim != i;
                self.fire(if stays {
                    "sarathi: the last one is preempted"
                } else {
                    "sarathi: a request preempts itself"
                });
            }
            if stays {
                let fits = self.go_on(r, i, 1, f);
                assert!(fits, "a block is free");
                f.budget = f.budget.saturating_sub(1);
            }
        }
        prompts
    }

    /// Admits the head of the queue; false where it does not fit.
    fn admit_next_sarathi(&mut self, r: usize, rules: &Sarathi, f: &mut Forming) -> bool {
        let Some(i) = self.replicas[r].waiting.front().copied() else { return false };
        if self.replicas[r].running.len() >= rules.batch_size_cap as usize {
            self.fire("sarathi: all seats are taken");
            return false;
        }
        if f.batch.len() >= self.share(r, rules.batch_size_cap) {
            self.fire("sarathi: the batch has its share of the seats");
            return false;
        }
        if f.budget == 0 {
            self.fire("sarathi: nothing is left for the queue");
            return false;
        }
        let hits = self.look_up(r, i);
        assert!(hits.is_empty(), "nothing is cached");
        let target = self.lives[i].target;
        let blocks = target.div_ceil(self.replicas[r].pool.block_size);
        let (free, fixed) = (self.replicas[r].free.len(), self.replicas[r].pool.fixed);
        let watermark = rules.watermark(self.replicas[r].blocks.len() as u64) as usize;
        if blocks + fixed + watermark > free {
            self.fire(if blocks + fixed <= free {
                "sarathi: the watermark would not stay"
            } else {
                "sarathi: too few blocks"
            });
            return false;
        }
        if f.preempted > 0 {
            self.fire("sarathi: admitted in a step that preempts");
        }
        if target > f.budget {
            self.fire("sarathi: a new prompt is cut");
        }
        let tokens = target.min(f.budget);
        self.take_seat(r, 0, hits, tokens, f);
        self.hold_blocks(r, i, blocks);
        f.budget -= tokens;
        true
    }
}
