//! `prefix_affinity`: the candidate that was sent the most similar prompts, as long as the loads are even.

use super::holders::Holder;
use super::least::Least;
use super::picker::{Call, Policy};
use super::sent::{Sent, prompt_hashes};
use super::settings::PrefixAffinity;

/// See the head of the file.
pub(super) struct Affinity {
    settings: PrefixAffinity,
    outstanding: Least<u64>,
    /// Of every candidate, all ones less its outstanding requests: the lowest is that of the most.
    most: Least<u64>,
    sent: Sent,
    /// Hashes remembered.
    known: Least<u64>,
    matches: Vec<Holder>,
}

impl Affinity {
    pub(super) fn new(settings: PrefixAffinity, candidates: usize) -> Affinity {
        Affinity {
            settings,
            outstanding: Least::new(candidates, 0),
            most: Least::new(candidates, !0),
            sent: Sent::new(candidates, settings.capacity),
            known: Least::new(candidates, 0),
            matches: Vec::new(),
        }
    }

    fn uneven(&self) -> bool {
        let (fewest, most) = (self.outstanding.lowest(), !self.most.lowest());
        most - fewest > u64::from(self.settings.balance_abs_threshold)
            && most as f64 > fewest as f64 * self.settings.balance_rel_threshold
    }

    /// The fewest outstanding of those that match best; at least one matches.
    fn best(&mut self, call: &mut Call, most: u32) -> usize {
        self.matches.retain(|(_, known)| *known == most);
        let load = |holder: &Holder| self.outstanding.get(holder.0 as usize);
        let fewest = self.matches.iter().map(load).min().expect("one matches best");
        self.matches.retain(|holder| self.outstanding.get(holder.0 as usize) == fewest);
        self.matches.sort_unstable();
        self.matches[call.one_of(self.matches.len())].0 as usize
    }

    fn set(&mut self, candidate: usize, outstanding: u64) {
        self.outstanding.set(candidate, outstanding);
        self.most.set(candidate, !outstanding);
    }
}

impl Policy for Affinity {
    fn pick(&mut self, call: &mut Call) -> usize {
        let hashes = prompt_hashes(call.ask, call.requests);
        let share = |known: u32| if known == 0 { 0.0 } else { f64::from(known) / hashes.len() as f64 };
        self.sent.matches(hashes, &mut self.matches);
        call.score(|_| Some(0.0));
        self.matches.iter().for_each(|(candidate, known)| call.rescore(*candidate, share(*known)));
        let most = self.matches.iter().map(|(_, known)| *known).max().unwrap_or(0);
        let candidate = if self.uneven() {
            self.outstanding.nth(call.one_of(self.outstanding.count()))
        } else if most > 0 && share(most) > self.settings.cache_threshold {
            self.best(call, most)
        } else {
            self.known.nth(call.one_of(self.known.count()))
        };
        self.set(candidate, self.outstanding.get(candidate) + 1);
        self.sent.send(candidate, hashes);
        self.known.set(candidate, u64::from(self.sent.known(candidate)));
        candidate
    }

    fn ended(&mut self, candidate: usize, _request: u32) {
        self.set(candidate, self.outstanding.get(candidate) - 1);
    }
}
