//! Parallel samples: every sample is a life of its own, and so is the one that computes the prompt for the others; the request
//! itself is in no queue.

use super::parts::{Coming, Life, Part, stats};
use super::world::World;
use crate::sim::scheduler::Samples;
use crate::sim::{RequestRow, Status};
use crate::units::SimTime;

impl World<'_> {
    /// Who enters the queue for request `i`, in order: itself where it has one sample.
    pub(super) fn samples_of(&mut self, r: usize, i: usize) -> Vec<usize> {
        let n = self.lives[i].samples;
        if n == 1 {
            return vec![i];
        }
        if self.replicas[r].pool.common.samples == Samples::Group {
            self.fire("groups: several sequences");
            return vec![i];
        }
        let (behind, begun) = (self.comes_behind(r), !self.lives[i].children.is_empty());
        self.fire("samples: several");
        let numbers = match (behind, begun) {
            (true, false) => 0..1,
            (true, true) => 1..n + 1,
            (false, _) => 0..n,
        };
        let entering: Vec<usize> = numbers.map(|sample| self.born(i, sample, behind && !begun)).collect();
        self.lives[i].children.extend(&entering);
        entering
    }

    fn born(&mut self, i: usize, sample: u32, ahead: bool) -> usize {
        let whole = &self.lives[i];
        let child = Life {
            samples: 1,
            parent: Some(i),
            sample,
            ahead,
            arrived: true,
            stage: whole.stage,
            home: whole.home,
            prompt: whole.prompt,
            output: if ahead { 1 } else { whole.output },
            cut: ahead || whole.cut,
            abort: whole.abort,
            queued: whole.queued,
            ..Life::new(self.demand, whole.place)
        };
        self.lives.push(child);
        self.lives.len() - 1
    }

    fn comes_behind(&self, r: usize) -> bool {
        match self.replicas[r].pool.common.samples {
            Samples::BehindPrompt => true,
            Samples::Requests => false,
            Samples::Group => false,
            Samples::None => unreachable!("it was refused"),
        }
    }

    /// A sample whose reply nobody goes on with.
    pub(super) fn is_another_sample(&self, r: usize, i: usize) -> bool {
        let life = &self.lives[i];
        life.parent.is_some() && life.sample != u32::from(self.comes_behind(r))
    }

    /// The prompt is computed: its samples set out.
    pub(super) fn send_samples(&mut self, r: usize, ahead: usize, now: SimTime) {
        let Some(i) = self.lives[ahead].parent else { unreachable!("it was there for others") };
        self.fire("samples: behind their prompt");
        self.replicas[r].coming.push(Coming { at: now, life: i });
    }

    /// The request that is over because this one is, or this sample.
    pub(super) fn ended_with(&mut self, i: usize) -> Option<usize> {
        let Some(parent) = self.lives[i].parent else { return Some(i) };
        if self.lives[i].preemptions > 0 {
            self.fire("samples: preempted");
        }
        if self.lives[i].computed == 0 {
            self.fire("samples: one never ran");
        }
        let others = self.lives[parent].children.iter().filter(|child| !self.lives[**child].gone).count();
        if others > 0 {
            self.fire("samples: one before the others");
            return None;
        }
        if self.lives[i].ahead {
            self.fire("samples: gone with their prompt");
        }
        self.lives[parent].over();
        Some(parent)
    }

    /// A request of the queue, and the samples that came with it.
    pub(super) fn with_its_samples(&self, i: usize) -> Vec<usize> {
        match self.lives[i].parent {
            Some(parent) => self.lives[parent].children.clone(),
            None => vec![i],
        }
    }

    /// Whether a sample found the prompt that another one computes in the step being formed.
    pub(super) fn note_sharing(&mut self, i: usize, hits: usize, batch: &[Part]) {
        let parent = self.lives[i].parent;
        if parent.is_some() && hits > 0 && batch.iter().any(|part| self.lives[part.life].parent == parent) {
            self.fire("samples: two in the prompt's step");
        }
    }

    /// Tokens of the replies of a request that have not come out.
    pub(super) fn reply_left_of(&self, life: &Life) -> usize {
        let out: usize = self.replying(life).map(|sample| sample.tokens.len()).sum();
        life.output * life.samples as usize - out - life.tokens.len()
    }

    fn replying(&self, life: &Life) -> impl Iterator<Item = &Life> {
        let others = life.children.iter().chain(&life.forks);
        others.map(|child| &self.lives[*child]).filter(|child| !child.ahead && !child.silent)
    }

    /// The row of a request of which samples were in the queue.
    pub(super) fn row_of_samples(&self, i: usize, status: Status) -> RequestRow {
        let life = &self.lives[i];
        let all: Vec<&Life> = life.children.iter().map(|child| &self.lives[*child]).collect();
        let first = all.iter().filter(|child| child.scheduled.is_some()).min_by_key(|c| (c.scheduled, c.sample));
        let first_token = |child: &Life| Some(*child.tokens.first()? + child.after_token);
        let earliest = self.replying(life).filter_map(first_token).min();
        let firsts = self.replying(life).filter(|child| first_token(child) == earliest);
        let gaps = self.replying(life).flat_map(|child| child.tokens.windows(2).map(|w| (w[1] - w[0]).0));
        RequestRow {
            scheduled: first.and_then(|child| child.scheduled),
            first_token: earliest,
            output_tokens: self.replying(life).map(|child| child.tokens.len() as u32).sum(),
            cached_tokens: first.map_or(0, |child| child.cached as u32),
            recomputed_tokens: all.iter().map(|child| child.recomputed as u32).sum(),
            preemptions: all.iter().map(|child| child.preemptions).sum(),
            preempted: all.iter().map(|child| child.lost).max().unwrap_or_default(),
            prefill_preempted: firsts.map(|child| child.lost_of_prefill()).max().unwrap_or_default(),
            itl: stats(gaps.collect()),
            ..life.row(status)
        }
    }
}
