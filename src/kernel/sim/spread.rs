//! How far apart the contexts of the requests that decode are, for latency models that ask.
//!
//! A request that decodes has one token more with every step, so the request with the longest context stays the one: it
//! has the greatest number of tokens less steps (its base). Only when it leaves is there something to look for. A step in
//! which some get no token is summed up request by request, and forgets what was known.

use super::replica::{Phase, Replica};

/// Least and greatest base, once known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    /// The latency model asks.
    pub asked: bool,
    known: Option<(i64, i64)>,
}

impl Spread {
    pub(super) fn new(asked: bool) -> Spread {
        Spread { asked, known: None }
    }

    /// A request begins to decode; `first` if no other does.
    pub(super) fn enter(&mut self, base: i64, first: bool) {
        self.known = match self.known {
            _ if first => Some((base, base)),
            Some((least, greatest)) => Some((least.min(base), greatest.max(base))),
            None => None,
        };
    }

    pub(super) fn leave(&mut self, base: i64) {
        if self.known.is_some_and(|(least, greatest)| base == least || base == greatest) {
            self.known = None;
        }
    }

    /// Bases change.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }
}

impl Replica {
    /// Least and greatest context of the requests that decode; zeros where nobody asks, or none does.
    pub(super) fn contexts(&mut self) -> (u64, u64) {
        if !self.spread.asked || self.decodes == 0 {
            return (0, 0);
        }
        let known = self.spread.known.unwrap_or_else(|| {
            let lives = self.running.iter().map(|slot| &self.live[*slot as usize]);
            let bases = lives.filter(|live| live.phase == Phase::Decode).map(|live| live.base);
            bases.fold((i64::MAX, i64::MIN), |(least, greatest), base| (least.min(base), greatest.max(base)))
        });
        self.spread.known = Some(known);
        let steps = self.steps as i64;
        ((known.0 + steps) as u64, (known.1 + steps) as u64)
    }
}
