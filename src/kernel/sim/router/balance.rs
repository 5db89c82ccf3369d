//! `lop_uncached` and the sticky routers that go by it: the best balance of uncached prompt tokens.

use super::counts::{Left, Sessions};
use super::picker::{Call, Policy};

/// When a session keeps its replica.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// Sessions do not count.
    Never,
    /// Its imbalance is not above the least one times this.
    Tolerant(f64),
    /// Fewer candidates than this have a lower one.
    Ranked(u32),
}

/// See the head of the file.
pub(super) struct Balance {
    keep: Keep,
    sessions: Sessions,
    /// Uncached prompt tokens pending.
    pending: Vec<u64>,
    left: Left,
    /// Of every candidate: what it would have pending with the request, and then its imbalance.
    imbalances: Vec<u64>,
}

impl Balance {
    pub(super) fn new(keep: Keep, candidates: usize, requests: usize) -> Balance {
        Balance {
            keep,
            sessions: Sessions::new(),
            pending: vec![0; candidates],
            left: Left::new(requests),
            imbalances: vec![0; candidates],
        }
    }

    fn weigh(&mut self, call: &Call) {
        // The lowest, the lowest of the others, and the highest.
        let (mut low, mut second, mut high) = (u64::MAX, u64::MAX, 0);
        for &pending in &self.pending {
            second = second.min(pending.max(low));
            low = low.min(pending);
            high = high.max(pending);
        }
        for (with, pending) in self.imbalances.iter_mut().zip(&self.pending) {
            *with = pending + u64::from(call.ask.prompt);
        }
        for (candidate, hit) in call.hits {
            self.imbalances[*candidate as usize] -= u64::from(*hit);
        }
        for (with, pending) in self.imbalances.iter_mut().zip(&self.pending) {
            let others = if *pending == low { second } else { low };
            *with = high.max(*with) - others.min(*with);
        }
    }

    /// The session's candidate, if it keeps it.
    fn kept(&self, call: &Call, least: u64) -> Option<usize> {
        let keeps = |imbalance: u64| match self.keep {
            Keep::Never => false,
            Keep::Tolerant(factor) => imbalance as f64 <= factor * least as f64,
            Keep::Ranked(k) => {
                let lower = self.imbalances.iter().filter(|other| **other < imbalance).count();
                (lower as u64) < u64::from(k)
            }
        };
        self.sessions.of(call).filter(|candidate| keeps(self.imbalances[*candidate]))
    }

    fn take(&mut self, candidate: usize, request: u32) {
        self.pending[candidate] -= u64::from(self.left.take(request, u32::MAX));
    }
}

impl Policy for Balance {
    fn pick(&mut self, call: &mut Call) -> usize {
        self.weigh(call);
        call.score(|candidate| Some(0.0 - self.imbalances[candidate] as f64));
        let least = self.imbalances.iter().copied().min().unwrap_or(0);
        let kept = self.kept(call, least);
        let candidate = kept.unwrap_or_else(|| call.one_with(&self.imbalances, least));
        match self.keep {
            Keep::Never => {}
            Keep::Tolerant(_) | Keep::Ranked(_) => self.sessions.put(call, candidate),
        }
        let hit = call.hits.iter().find(|(holder, _)| *holder as usize == candidate).map_or(0, |(_, hit)| *hit);
        let uncached = call.ask.prompt - hit;
        self.left.put(call.ask.request, uncached);
        self.pending[candidate] += u64::from(uncached);
        candidate
    }

    fn prompt_done(&mut self, candidate: usize, request: u32) {
        self.take(candidate, request);
    }

    fn ended(&mut self, candidate: usize, request: u32) {
        self.take(candidate, request);
    }
}
