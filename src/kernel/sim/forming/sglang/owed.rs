//! Tokens that the decode requests may still get, each up to a limit, without looking at them: what a request may get falls by one
//! with every step of replies, so that all that counts is the step at which it would be nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Owed {
    clip: u64,
    /// A step may yield several tokens of a request: it is not known beforehand when it gets nothing more, and nothing is summed.
    several: bool,
    /// By slot.
    of: Vec<Account>,
    /// Those that may get less than the limit: how many, and the sum of their `nothing`.
    below: u64,
    sum: u64,
    /// Those that may get as much, or more, and when they will be below: (step, slot, admission). Void where the request is not
    /// here any more.
    clipped: u64,
    crossings: BinaryHeap<Reverse<(u64, u32, u64)>>,
    /// Up to which step requests were moved from one to the other.
    upto: u64,
    /// Number of the step that is formed, or was formed last.
    step: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    here: bool,
    seq: u64,
    /// Number of the step that completes its prompt.
    step: u64,
    /// Most tokens that it may generate.
    cap: u32,
    /// The step at which it may get nothing more.
    nothing: u64,
}

impl Owed {
    pub(super) fn new(clip: u32, several: bool) -> Owed {
        let clip = u64::from(clip);
        Owed {
            clip,
            several,
            of: Vec::new(),
            below: 0,
            sum: 0,
            clipped: 0,
            crossings: BinaryHeap::new(),
            upto: 0,
            step: 0,
        }
    }

    /// A request was admitted that may generate so many tokens.
    pub(super) fn admit(&mut self, slot: u32, cap: u32) {
        let at = slot as usize;
        if at >= self.of.len() {
            self.of.resize(at + 1, Account::default());
        }
        self.of[at] = Account { cap, ..Account::default() };
    }

    /// Its prompt is complete: so many tokens are out when `steps` have run.
    pub(super) fn enter(&mut self, slot: u32, seq: u64, emitted: u32, steps: u64) {
        let account = &mut self.of[slot as usize];
        let nothing = steps + u64::from(account.cap.saturating_sub(emitted));
        (account.here, account.seq, account.step, account.nothing) = (true, seq, self.step, nothing);
        if self.several {
            return;
        }
        if nothing <= self.upto + self.clip {
            (self.below, self.sum) = (self.below + 1, self.sum + nothing);
        } else {
            self.clipped += 1;
            self.crossings.push(Reverse((nothing - self.clip, slot, seq)));
        }
    }

    /// Another step is formed.
    pub(super) fn next_step(&mut self) {
        self.step += 1;
    }

    /// It runs no more.
    pub(super) fn leave(&mut self, slot: u32) {
        let account = &mut self.of[slot as usize];
        account.here = false;
        if self.several {
            return;
        }
        if account.nothing <= self.upto + self.clip {
            (self.below, self.sum) = (self.below - 1, self.sum - account.nothing);
        } else {
            self.clipped -= 1;
        }
    }

    /// The same; what it might have got after so many steps, or tokens where a step may yield several, and whether its prompt
    /// was in the step formed last.
    pub(super) fn left(&mut self, slot: u32, steps: u64, emitted: u32) -> (u64, bool) {
        self.leave(slot);
        let account = &mut self.of[slot as usize];
        let tokens = match self.several {
            true => u64::from(account.cap.saturating_sub(emitted)),
            false => account.nothing.saturating_sub(steps),
        };
        (tokens.min(self.clip), account.step == self.step)
    }

    /// What all may get after so many steps.
    pub(super) fn tokens(&mut self, steps: u64) -> u64 {
        self.upto = steps;
        while let Some(Reverse((step, slot, seq))) = self.crossings.peek().copied()
            && step <= steps
        {
            self.crossings.pop();
            let account = &self.of[slot as usize];
            if account.here && account.seq == seq {
                self.clipped -= 1;
                (self.below, self.sum) = (self.below + 1, self.sum + account.nothing);
            }
        }
        self.sum - self.below * steps + self.clipped * self.clip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the sum, request by request.
    #[test]
    fn equals_the_sum() {
        let (mut owed, mut here) = (Owed::new(5, false), Vec::<(u32, u32, u64)>::new());
        let mut random = crate::rng::stream(1, "owed");
        let mut below = |n: u64| crate::rng::below(&mut random, n);
        let (mut steps, mut seq, mut sums) = (0, 0, 0);
        for _ in 0..4_000 {
            match below(4) {
                0 if here.len() < 30 => {
                    let slot = (0..).find(|slot| here.iter().all(|h| h.0 != *slot)).unwrap();
                    let cap = 1 + below(40) as u32;
                    owed.admit(slot, cap);
                    owed.enter(slot, seq, 1, steps);
                    here.push((slot, cap - 1, steps));
                    seq += 1;
                }
                1 if !here.is_empty() => {
                    let (slot, left, since) = here.swap_remove(below(here.len() as u64) as usize);
                    let tokens = u64::from(left).saturating_sub(steps - since).min(5);
                    assert_eq!(owed.left(slot, steps, 0).0, tokens);
                }
                2 => {
                    let sum: u64 =
                        here.iter().map(|(_, left, since)| (u64::from(*left) - (steps - since)).min(5)).sum();
                    assert_eq!(owed.tokens(steps), sum);
                    sums += 1;
                }
                _ => {
                    // Nobody gets more than it may.
                    if here.iter().all(|(_, left, since)| u64::from(*left) > steps - since) {
                        steps += 1;
                    }
                }
            }
        }
        assert!(sums > 500 && steps > 100, "{sums} {steps}");
    }
}
