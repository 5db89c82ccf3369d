//! The durations of the steps of one replica, from which a request reads its own gaps between tokens when it is done.
//!
//! A request that decodes without interruption has a token at the end of every step, so its gaps are the durations of
//! consecutive steps. Their largest hundredth is found through the largest few of every 64, so a request costs a few
//! hundred operations, whatever the number of its tokens.
//!
//! Promises: exact quantiles. Keeps no more than what the oldest running request may ask for, twice.

use super::ItlStats;
use crate::units::SimDuration;

/// Steps whose largest durations are kept together, and how many of them.
const BLOCK: usize = 64;
const KEPT: usize = 8;
/// Most of the largest gaps that are searched for one by one: of 3,100 gaps the largest hundredth.
const WANTED_MAX: usize = 32;
/// Steps beyond which it is worth asking what may go.
const TRIM_AT: usize = 1 << 10;

/// Steps are numbered from 1, in the order in which they were formed.
#[derive(Default)]
pub(super) struct StepLog {
    /// Number of the first step kept, less 1; a multiple of [`BLOCK`].
    before: u64,
    durations: Vec<i64>,
    /// Of every whole block, in descending order.
    largest: Vec<[i64; KEPT]>,
    trim_at: usize,
    /// Scratch.
    all: Vec<i64>,
}

impl StepLog {
    #[inline]
    pub(super) fn push(&mut self, duration: i64) {
        self.durations.push(duration);
        if self.durations.len().is_multiple_of(BLOCK) {
            self.keep_largest();
        }
    }

    /// Of the last block, while it is still at hand.
    fn keep_largest(&mut self) {
        let mut largest = [i64::MIN; KEPT];
        let block = &self.durations[self.durations.len() - BLOCK..];
        block.iter().rev().for_each(|d| _ = insert(&mut largest, *d));
        self.largest.push(largest);
    }

    /// Durations of the steps after `from` up to and with `to`.
    pub(super) fn between(&self, from: u64, to: u64) -> &[i64] {
        &self.durations[(from - self.before) as usize..(to.max(from) - self.before) as usize]
    }

    /// Whether [`Self::trim`] is due.
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.durations.len() >= self.trim_at.max(TRIM_AT)
    }

    /// Nobody will ask for steps up to `step`.
    pub(super) fn trim(&mut self, step: u64) {
        let blocks = (step.saturating_sub(self.before) as usize).min(self.durations.len()) / BLOCK;
        self.durations.drain(..blocks * BLOCK);
        self.largest.drain(..blocks);
        self.before += (blocks * BLOCK) as u64;
        self.trim_at = self.durations.len() * 2;
    }

    /// Quantile and largest of the gaps that are the steps after `from` up to and with `to`; their sum is not looked at.
    pub(super) fn stats(&mut self, from: u64, to: u64, sum: SimDuration) -> Option<ItlStats> {
        let (first, end) = ((from - self.before) as usize, (to.max(from) - self.before) as usize);
        let n = end - first;
        if n == 0 {
            return None;
        }
        let (_, wanted, hundredths) = rank(n);
        let (low, high) = (first.div_ceil(BLOCK), end / BLOCK);
        if low >= high || wanted > WANTED_MAX {
            self.all.clear();
            self.all.extend_from_slice(&self.durations[first..end]);
            return stats_of(&mut self.all, sum);
        }
        let mut top = [i64::MIN; WANTED_MAX];
        let top = &mut top[..wanted];
        for block in low..high {
            let largest = &self.largest[block];
            let all_in = largest.iter().all(|d| insert(top, *d));
            if all_in && wanted > KEPT {
                // There may be more of it than was kept: what is left beside the kept ones.
                let least = largest[KEPT - 1];
                let mut spare = largest.iter().filter(|d| **d == least).count();
                for duration in &self.durations[block * BLOCK..(block + 1) * BLOCK] {
                    let kept = *duration > least || (*duration == least && spare > 0);
                    spare -= usize::from(kept && *duration == least);
                    if !kept {
                        insert(top, *duration);
                    }
                }
            }
        }
        for range in [high * BLOCK..end, first..low * BLOCK] {
            self.durations[range].iter().rev().for_each(|d| _ = insert(top, *d));
        }
        let next = top[wanted.saturating_sub(2)];
        Some(interpolate(n, (top[wanted - 1], next, top[0]), hundredths, sum))
    }
}

/// Puts a value into a list of the largest, in descending order, if it is one of them; whether it is.
#[inline]
fn insert(top: &mut [i64], value: i64) -> bool {
    let mut at = top.len() - 1;
    if value <= top[at] {
        return false;
    }
    while at > 0 && top[at - 1] < value {
        top[at] = top[at - 1];
        at -= 1;
    }
    top[at] = value;
    true
}

/// Of `n` values: the rank of the one below the 99th percentile, how many are not below that one, and how many
/// hundredths of the way to the next the percentile lies (numpy's `linear`).
pub(super) fn rank(n: usize) -> (usize, usize, i64) {
    let hundredths = 99 * (n - 1);
    let low = hundredths / 100;
    (low, n - low, (hundredths % 100) as i64)
}

/// Of `n` gaps: the 99th percentile between the gap below it and the next, and the largest.
pub(super) fn interpolate(n: usize, (low, next, max): (i64, i64, i64), hundredths: i64, sum: SimDuration) -> ItlStats {
    let part = i128::from(next - low) * i128::from(hundredths);
    ItlStats { count: n as u64, sum, p99: SimDuration(low + ((part + 50) / 100) as i64), max: SimDuration(max) }
}

/// Statistics of gaps listed one by one, in any order, which this changes.
pub(super) fn stats_of(gaps: &mut [i64], sum: SimDuration) -> Option<ItlStats> {
    if gaps.is_empty() {
        return None;
    }
    let n = gaps.len();
    let (at, _, hundredths) = rank(n);
    let (_, &mut low, above) = gaps.select_nth_unstable(at);
    let next = above.iter().copied().min().unwrap_or(low);
    let max = above.iter().copied().max().unwrap_or(low);
    Some(interpolate(n, (low, next, max), hundredths, sum))
}

/// The same where there are so many gaps of 0 beside those listed, which are all above 0.
pub(super) fn stats_with_zeros(gaps: &mut [i64], zeros: usize, sum: SimDuration) -> Option<ItlStats> {
    let (n, (at, _, hundredths)) = (gaps.len() + zeros, rank((gaps.len() + zeros).max(1)));
    if n == 0 {
        return None;
    }
    if at < zeros {
        let max = gaps.iter().copied().max().unwrap_or(0);
        let next = if at + 1 < zeros { 0 } else { gaps.iter().copied().min().unwrap_or(0) };
        return Some(interpolate(n, (0, next, max), hundredths, sum));
    }
    let (_, &mut low, above) = gaps.select_nth_unstable(at - zeros);
    let next = above.iter().copied().min().unwrap_or(low);
    let max = above.iter().copied().max().unwrap_or(low);
    Some(interpolate(n, (low, next, max), hundredths, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy.quantile(gaps, 0.99) and the maximum, from a sorted copy.
    fn slow(gaps: &[i64]) -> (i64, i64) {
        let mut sorted = gaps.to_vec();
        sorted.sort_unstable();
        let h = 0.99 * (sorted.len() - 1) as f64;
        let low = h.floor() as usize;
        let high = (low + 1).min(sorted.len() - 1);
        let p99 = sorted[low] as f64 + (h - h.floor()) * (sorted[high] - sorted[low]) as f64;
        (p99.round() as i64, sorted[sorted.len() - 1])
    }

    #[test]
    fn equals_a_sort() {
        let mut x = 7_u64;
        let mut random = move || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x >> 33
        };
        for spread in [1, 3, 1_000_000] {
            let mut log = StepLog::default();
            let mut all = Vec::new();
            for step in 1..3_000_u64 {
                let duration = (random() % spread) as i64 * 1_000;
                log.push(duration);
                all.push(duration);
                if step % 7 != 0 {
                    continue;
                }
                let from = step - random() % step.min(1_000);
                let gaps = &all[from as usize..step as usize];
                let stats = log.stats(from, step, SimDuration(9));
                assert_eq!(log.between(from, step), gaps);
                let Some(stats) = stats else {
                    assert!(gaps.is_empty());
                    continue;
                };
                let (p99, max) = slow(gaps);
                assert!((stats.p99.0 - p99).abs() <= 1 && stats.max.0 == max, "{} gaps: {stats:?}", gaps.len());
                let listed = stats_of(&mut gaps.to_vec(), SimDuration(9)).unwrap();
                assert_eq!(listed, stats);
                if step > 1_000 && step % 70 == 0 {
                    log.trim(step - 1_000);
                    assert!(log.durations.len() < 1_100 + 70);
                }
            }
        }
    }

    #[test]
    fn zeros_need_not_be_listed() {
        let gaps: Vec<i64> = (1..=7).map(|g| g * g * 100).collect();
        for count in 0..=7 {
            for zeros in [0, 1, 2, 98, 99, 100, 101, 600, 700, 2_000] {
                let mut listed = gaps[..count].to_vec();
                let known = stats_with_zeros(&mut listed.clone(), zeros, SimDuration(5));
                listed.resize(count + zeros, 0);
                assert_eq!(known, stats_of(&mut listed, SimDuration(5)), "{count} gaps, {zeros} zeros");
            }
        }
    }

    #[test]
    fn quantiles_by_hand() {
        // 101 gaps: rank 99 exactly. 2 gaps: 99 hundredths of the way.
        let mut many: Vec<i64> = (1..=101).map(|g| g * 10).collect();
        assert_eq!(stats_of(&mut many, SimDuration(1)).unwrap().p99, SimDuration(1_000));
        let two = stats_of(&mut [30, 10], SimDuration(40)).unwrap();
        assert_eq!((two.p99.0, two.max.0, two.sum.0), (30, 30, 40));
        assert_eq!(stats_of(&mut [0, 1_000], SimDuration(1)).unwrap().p99, SimDuration(990));
        assert!(stats_of(&mut [], SimDuration(0)).is_none());
    }
}
