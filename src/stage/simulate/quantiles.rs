//! Distributions of integers: exact quantiles without sorting, kept as the integers that they lie between.
//!
//! What is kept are integers only, so that a distribution that was just computed and one that was read back from JSON
//! give the same bits. Quantiles use linear interpolation, as numpy does.

use serde::{Deserialize, Serialize};

use pipe_kernel::units::SimDuration;

use crate::table::simulation::QUANTILES;

/// A distribution of times, as far as the tables need it. In nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Distribution {
    count: u64,
    #[serde(with = "wide")]
    sum: i128,
    max: i64,
    /// The two values that each of [`QUANTILES`] lies between.
    neighbours: [[i64; 2]; QUANTILES.len()],
}

impl Distribution {
    /// Of values in any order; leaves them in another.
    pub fn new(values: &mut [i64]) -> Distribution {
        let Some(last) = values.len().checked_sub(1) else { return Distribution::default() };
        let count = values.len() as u64;
        let sum = values.iter().map(|v| i128::from(*v)).sum();
        let wanted = QUANTILES.map(|(_, q)| {
            let (low, _) = position(count, q);
            [low as usize, (low as usize + 1).min(last)]
        });
        let mut ranks: Vec<usize> = wanted.iter().flatten().copied().chain([last]).collect();
        ranks.sort_unstable();
        ranks.dedup();
        select(values, 0, &ranks);
        let neighbours = wanted.map(|pair| pair.map(|rank| values[rank]));
        Distribution { count, sum, max: values[last], neighbours }
    }

    /// Of values with their counts, sorted by value.
    pub fn of_counts(sorted: &[(SimDuration, u64)]) -> Distribution {
        let count: u64 = sorted.iter().map(|(_, n)| n).sum();
        let sum = sorted.iter().map(|(gap, n)| i128::from(gap.0) * i128::from(*n)).sum();
        let neighbours = QUANTILES.map(|(_, q)| {
            let (low, _) = position(count, q);
            [nth(sorted, low), nth(sorted, (low + 1).min(count.saturating_sub(1)))]
        });
        Distribution { count, sum, max: sorted.last().map_or(0, |(gap, _)| gap.0), neighbours }
    }

    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64 / 1e6)
    }

    /// The quantile at this place of [`QUANTILES`].
    pub fn quantile_ms(&self, which: usize) -> Option<f64> {
        let (_, fraction) = position(self.count, QUANTILES[which].1);
        let [low, high] = self.neighbours[which];
        (self.count > 0).then(|| (low as f64 + fraction * (high - low) as f64) / 1e6)
    }

    pub fn max_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.max as f64 / 1e6)
    }
}

/// Puts the values of the given ranks (ascending) where they would stand if all were sorted. `values` are those from
/// rank `start` on, and hold all of the ranks.
fn select(values: &mut [i64], start: usize, ranks: &[usize]) {
    let middle = ranks.len() / 2;
    let Some(&rank) = ranks.get(middle) else { return };
    let (below, _, above) = values.select_nth_unstable(rank - start);
    select(below, start, &ranks[..middle]);
    select(above, rank + 1, &ranks[middle + 1..]);
}

/// Rank of the value below the quantile, and how far the quantile lies on the way to the next (numpy's `linear`).
fn position(count: u64, q: f64) -> (u64, f64) {
    let h = q * count.saturating_sub(1) as f64;
    (h.floor() as u64, h - h.floor())
}

/// The value of the given rank, from 0.
fn nth(sorted: &[(SimDuration, u64)], rank: u64) -> i64 {
    let mut before = 0;
    for (gap, n) in sorted {
        before += n;
        if rank < before {
            return gap.0;
        }
    }
    0
}

/// Integers of 128 bits as text: JSON numbers have fewer.
pub(super) mod wide {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(got: Option<f64>, expect: f64) {
        assert!((got.unwrap() - expect).abs() < 1e-9, "{got:?} instead of {expect}");
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let ms = 1_000_000;
        // numpy.quantile([1, 1, 1, 2, 10], [.5, .9, .95, .99, .999]) = 1, 6.8, 8.4, 9.68, 9.968
        let expect = [1.0, 6.8, 8.4, 9.68, 9.968];
        let counts =
            Distribution::of_counts(&[(SimDuration(ms), 3), (SimDuration(2 * ms), 1), (SimDuration(10 * ms), 1)]);
        let values = Distribution::new(&mut [10 * ms, ms, 2 * ms, ms, ms]);
        assert_eq!(counts, values);
        near(values.mean_ms(), 3.0);
        near(values.max_ms(), 10.0);
        for (which, expect) in expect.into_iter().enumerate() {
            near(values.quantile_ms(which), expect);
        }
        let one = Distribution::new(&mut [5 * ms]);
        assert_eq!((one.quantile_ms(0), one.quantile_ms(4)), (Some(5.0), Some(5.0)));
        let none = Distribution::new(&mut []);
        assert_eq!(none, Distribution::of_counts(&[]));
        assert_eq!((none.mean_ms(), none.quantile_ms(2), none.max_ms()), (None, None, None));
    }

    #[test]
    fn selecting_finds_what_sorting_finds() {
        let mut x = 1_u64;
        for n in [1_usize, 2, 3, 7, 100, 1_000, 4_001] {
            let mut values: Vec<i64> = (0..n)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (x >> 33) as i64 % (n as i64)
                })
                .collect();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let counts: Vec<(SimDuration, u64)> = sorted.iter().map(|v| (SimDuration(*v), 1)).collect();
            assert_eq!(Distribution::new(&mut values), Distribution::of_counts(&counts), "{n} values");
        }
    }

    #[test]
    fn json_keeps_every_bit() {
        let mut d = Distribution::new(&mut [1, 2, i64::MAX / 3]);
        d.sum = i128::MAX;
        let text = serde_json::to_string(&d).unwrap();
        assert_eq!(serde_json::from_str::<Distribution>(&text).unwrap(), d);
    }
}
