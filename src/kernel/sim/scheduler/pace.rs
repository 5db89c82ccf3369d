//! The times of tokens at a given rate, rounded once, and the gaps between them without a look at each.

use crate::sim::engine::too_long;
use crate::sim::log::{interpolate, rank};
use crate::sim::{ItlStats, SimError};
use crate::units::{SimDuration, Tick};

/// Longest span: 36 years. Three of them fit behind [`HORIZON`](crate::sim::engine::HORIZON).
const SPAN_MAX_NS: u128 = 1 << 60;

/// The time of a number of tokens: that of one, as the double nearest to `1e9 / rate` nanoseconds, times their number.
///
/// With `g` the time of one token and `q` the tick, `n` tokens take `q * floor((n * g + 1/2) / q)`, exactly. Two
/// neighbours of this sequence differ by `q * floor(g / q)` or by one tick more, and all differences add up to the last
/// member: that gives the number of either, for any number of tokens, without looking at them.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Pace {
    /// In units of 2^-64 ns; at most 2^-64 ns less than the double says.
    per_token: u128,
    tick_ns: i64,
}

const HALF: u128 = 1 << 63;

impl Pace {
    pub(in crate::sim) fn new(tokens_per_s: f64, tick: Option<Tick>) -> Pace {
        let unit = HALF as f64 * 2.0;
        Pace { per_token: (1e9 / tokens_per_s * unit) as u128, tick_ns: tick.map_or(1, |t| t.duration().0) }
    }

    /// # Errors
    /// Where the span passes 36 years.
    pub(in crate::sim) fn span(&self, tokens: u32) -> Result<SimDuration, SimError> {
        let exact = self.per_token.checked_mul(u128::from(tokens)).and_then(|ns| ns.checked_add(HALF));
        let ns = exact.map(|ns| ns >> 64).filter(|ns| *ns <= SPAN_MAX_NS).ok_or_else(too_long)?;
        Ok(SimDuration(ns as i64 / self.tick_ns * self.tick_ns))
    }

    /// The same, but at least a tick.
    pub(in crate::sim) fn service(&self, tokens: u32) -> Result<SimDuration, SimError> {
        Ok(self.span(tokens)?.max(SimDuration(self.tick_ns)))
    }

    /// Most tokens, up to `most`, whose span is not above `time`.
    pub(super) fn tokens_in(&self, time: SimDuration, most: u32) -> u32 {
        // The span is above `time` from the first whole tick behind it on.
        let above = ((time.0 / self.tick_ns + 1) * self.tick_ns) as u128;
        let tokens = ((above << 64) - HALF - 1).checked_div(self.per_token);
        tokens.map_or(most, |tokens| tokens.min(u128::from(most)) as u32)
    }

    /// The gaps between a first token and `count` further ones, the last of which comes `sum` after it.
    pub(super) fn gaps(&self, count: u32, sum: SimDuration) -> Gaps {
        let low = (self.per_token >> 64) as i64 / self.tick_ns * self.tick_ns;
        let long = (sum.0 - i64::from(count) * low) / self.tick_ns;
        Gaps { low, tick_ns: self.tick_ns, short: u64::from(count) - long as u64, long: long as u64 }
    }
}

/// `short` gaps of `low` nanoseconds, and `long` ones that are a tick longer.
pub(super) struct Gaps {
    pub low: i64,
    pub tick_ns: i64,
    pub short: u64,
    pub long: u64,
}

impl Gaps {
    /// At this place of the sorted gaps.
    fn nth(&self, at: u64) -> i64 {
        if at < self.short { self.low } else { self.low + self.tick_ns }
    }

    /// Of at least one gap.
    pub(super) fn stats(&self, sum: SimDuration) -> ItlStats {
        let last = self.short + self.long - 1;
        let (below, _, hundredths) = rank(last as usize + 1);
        let (low, next) = (self.nth(below as u64), self.nth((below as u64 + 1).min(last)));
        interpolate(last as usize + 1, (low, next, self.nth(last)), hundredths, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn spans_are_rounded_once() {
        for (rate, tick, tokens, expect) in [
            (8_000.0, None, 662, 82_750_000),
            (2_000.0, None, 350, 175_000_000),
            (3.0, None, 1, 333_333_333),
            (3.0, None, 2, 666_666_667),
            (3.0, None, 3_000_000, 1_000_000_000_000_000),
            (8_000.0, Some(1_000), 3, 375_000),
            (3_000.0, Some(1_000), 1, 333_000),
            (3_000.0, Some(1_000), 2, 666_000),
            (3_000.0, Some(1_000), 3, 1_000_000),
            (3e9, None, 1, 0),
            (3e9, None, 4, 1),
        ] {
            let tick = tick.map(|ns| Tick::new(SimDuration(ns)).unwrap());
            assert_eq!(Pace::new(rate, tick).span(tokens), Ok(SimDuration(expect)), "{tokens} at {rate}/s, {tick:?}");
        }
    }

    #[test]
    fn gaps_are_known_without_looking_at_them() {
        for rate in [1e3, 2e3, 3.0, 7.7, 1234.5, 7e8, 2e9, 2.1e9, 1e12, 1.0 + 1e-9, 1e3 - 1e-10] {
            for tick_ns in [1, 7, 1_000, MS] {
                let pace = Pace::new(rate, Tick::new(SimDuration(tick_ns)));
                let spans: Vec<i64> = (0..400).map(|n| pace.span(n).unwrap().0).collect();
                for count in [1, 2, 3, 57, 101, 399] {
                    let mut gaps: Vec<i64> = spans[..=count].windows(2).map(|w| w[1] - w[0]).collect();
                    gaps.sort_unstable();
                    let sum = spans[count];
                    let known = pace.gaps(count as u32, SimDuration(sum));
                    assert!((0..count).all(|at| known.nth(at as u64) == gaps[at]), "{rate} {tick_ns} {count}");
                    assert_eq!(known.short + known.long, count as u64);
                    // No token more, none less.
                    for time in [sum, sum + 1, (sum - 1).max(0)] {
                        let out = spans[1..].iter().filter(|span| **span <= time).count();
                        assert_eq!(pace.tokens_in(SimDuration(time), 399) as usize, out, "{rate} {tick_ns} {time}");
                    }
                }
            }
        }
        // Ranks of the 99th percentile: 1.98 of three gaps, 98.01 of a hundred.
        let stats = |short, long| Gaps { low: 10, tick_ns: 100, short, long }.stats(SimDuration(0));
        assert_eq!((stats(2, 1).p99.0, stats(2, 1).max.0), (108, 110));
        assert_eq!((stats(99, 1).p99.0, stats(100, 1).p99.0, stats(5, 0).max.0), (11, 10, 10));
    }
}
