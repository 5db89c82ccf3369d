//! The routers that hardly look: one after the other, any, and the better of two.

use super::picker::{Call, Policy};

/// One after the other.
pub(super) struct Turns {
    candidates: usize,
    next: usize,
}

impl Turns {
    pub(super) fn new(candidates: usize) -> Turns {
        Turns { candidates, next: 0 }
    }
}

impl Policy for Turns {
    fn pick(&mut self, call: &mut Call) -> usize {
        call.score(|_| None);
        let candidate = self.next;
        self.next = (candidate + 1) % self.candidates;
        candidate
    }
}

/// Any.
pub(super) struct Any;

impl Policy for Any {
    fn pick(&mut self, call: &mut Call) -> usize {
        call.score(|_| None);
        call.one_of(call.candidates)
    }
}

/// The one of two with fewer outstanding requests.
pub(super) struct PowerOfTwo {
    outstanding: Vec<u32>,
}

impl PowerOfTwo {
    pub(super) fn new(candidates: usize) -> PowerOfTwo {
        PowerOfTwo { outstanding: vec![0; candidates] }
    }
}

impl Policy for PowerOfTwo {
    fn pick(&mut self, call: &mut Call) -> usize {
        call.score(|candidate| Some(0.0 - f64::from(self.outstanding[candidate])));
        let first = call.one_of(call.candidates);
        // One of the others; of a single candidate, that one.
        let other = call.one_of((call.candidates - 1).max(1));
        let second = if other < first || call.candidates == 1 { other } else { other + 1 };
        let candidate = if self.outstanding[second] < self.outstanding[first] { second } else { first };
        self.outstanding[candidate] += 1;
        candidate
    }

    fn ended(&mut self, candidate: usize, _request: u32) {
        self.outstanding[candidate] -= 1;
    }
}
