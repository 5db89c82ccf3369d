//! An exact histogram of gaps between tokens.
//!
//! Decode steps of similar batches last similar, often equal, times: a hash table counts them. What does not fit goes to a
//! list that is merged when it has grown. Gaps are counted a few at a time: each is a look at another line of memory,
//! and a processor waits for many at once as long as for one.

use crate::units::SimDuration;

/// Slots of a new table, and of the largest, as powers of two.
const BITS_FIRST: u32 = 12;
const BITS_MAX: u32 = 20;
/// Gaps that are counted together.
const BATCH: usize = 32;
/// Length at which the list of other gaps is first merged.
const MERGE_AT: usize = 1 << 16;
/// A count or a gap in nanoseconds that does not fit into half a slot.
const HALF: u32 = 32;

pub(crate) struct Gaps {
    /// Gap in the upper half, count in the lower; 0 is an empty slot. At most three quarters are in use.
    slots: Vec<u64>,
    bits: u32,
    in_use: usize,
    others: Vec<(i64, u64)>,
    merge_at: usize,
    /// The first `waits` of these are not counted yet.
    batch: [(i64, u64); BATCH],
    waits: usize,
}

impl Gaps {
    pub(crate) fn new() -> Gaps {
        let slots = vec![0; 1 << BITS_FIRST];
        let (others, batch) = (Vec::new(), [(0, 0); BATCH]);
        Gaps { slots, bits: BITS_FIRST, in_use: 0, others, merge_at: MERGE_AT, batch, waits: 0 }
    }

    /// Counts `weight` gaps of `ns`.
    #[inline]
    pub(crate) fn add(&mut self, ns: i64, weight: u64) {
        self.batch[self.waits] = (ns, weight);
        self.waits += 1;
        if self.waits == BATCH {
            self.count();
        }
    }

    #[inline(never)]
    fn count(&mut self) {
        let batch = self.batch;
        let waiting = &batch[..std::mem::take(&mut self.waits)];
        // These reads do not depend on each other, so all lines are on their way before the first is needed.
        let read = waiting.iter().fold(0, |read, (ns, _)| read ^ self.slots[self.home(*ns as u64)]);
        std::hint::black_box(read);
        for (ns, weight) in waiting {
            let gap = *ns as u64;
            let at = self.find(gap);
            let slot = self.slots[at];
            let sum = (slot & ((1 << HALF) - 1)) + weight;
            if slot != 0 && sum >> HALF == 0 {
                self.slots[at] = gap << HALF | sum;
            } else {
                self.add_slow(*ns, *weight, at);
            }
        }
    }

    /// Fibonacci hashing: the upper bits of a product with 2^64 over the golden ratio.
    #[inline]
    fn home(&self, gap: u64) -> usize {
        (gap.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - self.bits)) as usize
    }

    /// The slot of a gap, or the empty one where it would be.
    #[inline]
    fn find(&self, gap: u64) -> usize {
        let mut at = self.home(gap);
        while self.slots[at] != 0 && self.slots[at] >> HALF != gap {
            at = (at + 1) & (self.slots.len() - 1);
        }
        at
    }

    #[cold]
    #[inline(never)]
    fn add_slow(&mut self, ns: i64, weight: u64, at: usize) {
        if weight == 0 {
            return;
        }
        let gap = ns as u64;
        let full = (self.in_use + 1) * 4 > self.slots.len() * 3;
        if self.slots[at] == 0 && gap >> HALF == 0 && weight >> HALF == 0 && !(full && self.bits == BITS_MAX) {
            self.slots[at] = gap << HALF | weight;
            self.in_use += 1;
            if full {
                self.grow();
            }
            return;
        }
        self.others.push((ns, weight));
        if self.others.len() >= self.merge_at {
            merge(&mut self.others);
            self.merge_at = (self.others.len() * 2).max(MERGE_AT);
        }
    }

    fn grow(&mut self) {
        self.bits += 1;
        let old = std::mem::replace(&mut self.slots, vec![0; 1 << self.bits]);
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            let at = self.find(slot >> HALF);
            self.slots[at] = slot;
        }
    }

    /// Every gap once, in ascending order.
    pub(crate) fn into_sorted(mut self) -> Vec<(SimDuration, u64)> {
        self.count();
        let counted = |slot: u64| ((slot >> HALF) as i64, slot & ((1 << HALF) - 1));
        let mut all = self.others;
        all.extend(self.slots.into_iter().filter(|slot| *slot != 0).map(counted));
        merge(&mut all);
        all.into_iter().map(|(ns, count)| (SimDuration(ns), count)).collect()
    }
}

fn merge(list: &mut Vec<(i64, u64)>) {
    list.sort_unstable_by_key(|(ns, _)| *ns);
    list.dedup_by(|b, a| {
        let same = a.0 == b.0;
        a.1 += if same { b.1 } else { 0 };
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn equals_a_map() {
        let mut gaps = Gaps::new();
        let mut map = BTreeMap::new();
        let mut x = 1_u64;
        for i in 0..300_000_u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // More than the table holds, many of them often, some beyond what a slot can say.
            let ns = match i % 100 {
                0 => (x >> 20) as i64,
                1..50 => (x >> 52) as i64,
                _ => (x >> 44) as i64,
            };
            let weight = if i % 1000 == 7 { 1 << 31 } else { i % 7 };
            gaps.add(ns, weight);
            if weight > 0 {
                *map.entry(ns).or_insert(0) += weight;
            }
        }
        let sorted: Vec<(i64, u64)> = gaps.into_sorted().into_iter().map(|(d, n)| (d.0, n)).collect();
        assert_eq!(sorted, map.into_iter().collect::<Vec<_>>());
    }
}
