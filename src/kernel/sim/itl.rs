//! An exact histogram of gaps between tokens.
//!
//! Decode steps of similar batches last similar, often equal, times: pages of consecutive nanoseconds count them
//! without a search. Gaps beyond the pages go to a list that is merged when it has grown.

use crate::units::SimDuration;

/// Gaps per page, as a power of two: a page is 4 KiB.
const PAGE_BITS: u32 = 9;
const PAGE: usize = 1 << PAGE_BITS;
/// Gaps below 2^27 ns (0.13 s) can have a page.
const DIRECTORY: usize = 1 << (27 - PAGE_BITS);
/// Pages of one histogram, to bound its memory: 32 MiB.
const PAGES_MAX: usize = 8192;
/// Length at which the list of other gaps is first merged.
const MERGE_AT: usize = 1 << 16;

pub(crate) struct Gaps {
    /// Index of a page plus one; 0 for none.
    directory: Vec<u16>,
    pages: Vec<u64>,
    others: Vec<(i64, u64)>,
    merge_at: usize,
}

impl Gaps {
    pub(crate) fn new() -> Gaps {
        Gaps { directory: vec![0; DIRECTORY], pages: Vec::new(), others: Vec::new(), merge_at: MERGE_AT }
    }

    /// Counts `weight` gaps of `ns`.
    #[inline]
    pub(crate) fn add(&mut self, ns: i64, weight: u64) {
        let at = (ns >> PAGE_BITS) as usize;
        match self.directory.get(at) {
            Some(&page) if page != 0 => {
                self.pages[((page as usize - 1) << PAGE_BITS) | (ns as usize & (PAGE - 1))] += weight;
            }
            _ => self.add_slow(ns, weight),
        }
    }

    #[cold]
    #[inline(never)]
    fn add_slow(&mut self, ns: i64, weight: u64) {
        if weight == 0 {
            return;
        }
        let at = (ns >> PAGE_BITS) as usize;
        let pages = self.pages.len() >> PAGE_BITS;
        if at < DIRECTORY && pages < PAGES_MAX {
            self.pages.resize(self.pages.len() + PAGE, 0);
            self.directory[at] = pages as u16 + 1;
            self.pages[(pages << PAGE_BITS) | (ns as usize & (PAGE - 1))] += weight;
            return;
        }
        self.others.push((ns, weight));
        if self.others.len() >= self.merge_at {
            merge(&mut self.others);
            self.merge_at = (self.others.len() * 2).max(MERGE_AT);
        }
    }

    /// Every gap once, in ascending order.
    pub(crate) fn into_sorted(mut self) -> Vec<(SimDuration, u64)> {
        merge(&mut self.others);
        let mut all: Vec<(SimDuration, u64)> = Vec::new();
        for (at, page) in self.directory.iter().enumerate().filter(|(_, page)| **page != 0) {
            let start = (*page as usize - 1) << PAGE_BITS;
            let counts = self.pages[start..start + PAGE].iter().enumerate().filter(|(_, count)| **count > 0);
            all.extend(counts.map(|(i, count)| (SimDuration(((at << PAGE_BITS) | i) as i64), *count)));
        }
        let others = self.others.into_iter().map(|(ns, count)| (SimDuration(ns), count));
        all.extend(others);
        // A page, once there, takes all of its gaps, so no gap is in both parts.
        all.sort_unstable_by_key(|(gap, _)| *gap);
        all
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
            // Many pages, more than there may be, and some gaps beyond all of them.
            let ns = if i % 100 == 0 { (x >> 20) as i64 } else { (x >> 40) as i64 * 16 % (1 << 27) };
            gaps.add(ns, i % 7);
            if i % 7 > 0 {
                *map.entry(ns).or_insert(0) += i % 7;
            }
        }
        let sorted: Vec<(i64, u64)> = gaps.into_sorted().into_iter().map(|(d, n)| (d.0, n)).collect();
        assert_eq!(sorted, map.into_iter().collect::<Vec<_>>());
    }
}
