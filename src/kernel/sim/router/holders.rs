//! An index from a hash to the candidates that hold it, with a number for each.
//!
//! Promises: the holders of a hash come by their numbers, in one piece of memory; a hash that nobody holds takes none.

use crate::sim::kv::table::{NONE, Table};

/// Candidate and number.
pub(super) type Holder = (u32, u32);

/// A place for `n` holders begins at `start` and has room for the next power of two.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// See the head of the file.
pub(super) struct Holders {
    /// Hash to place in `spans`.
    by_hash: Table,
    /// Place 0 is not used.
    spans: Vec<Span>,
    vacant: Vec<u32>,
    cells: Vec<Holder>,
    /// Starts of vacant places, by the logarithm of their room.
    rooms: [Vec<u32>; 32],
}

impl Holders {
    pub(super) fn new() -> Holders {
        Holders {
            by_hash: Table::new(),
            spans: vec![Span::default()],
            vacant: Vec::new(),
            cells: Vec::new(),
            rooms: [const { Vec::new() }; 32],
        }
    }

    /// The holders of a hash, by candidate.
    #[inline]
    pub(super) fn of(&self, hash: u64) -> &[Holder] {
        &self.cells[self.spans[self.by_hash.get(hash) as usize].range()]
    }

    /// The number of one of them.
    #[inline]
    pub(super) fn get(&self, hash: u64, candidate: u32) -> Option<u32> {
        let holders = self.of(hash);
        holders.binary_search_by_key(&candidate, |(holder, _)| *holder).ok().map(|at| holders[at].1)
    }

    /// The candidate holds the hash, with this number.
    pub(super) fn put(&mut self, hash: u64, candidate: u32, number: u32) {
        let mut slot = self.by_hash.get(hash);
        if slot == NONE {
            slot = self.vacant.pop().unwrap_or(self.spans.len() as u32);
            if slot as usize == self.spans.len() {
                self.spans.push(Span::default());
            }
            self.by_hash.get_or_insert(hash, slot);
        }
        let mut span = self.spans[slot as usize];
        match self.cells[span.range()].binary_search_by_key(&candidate, |(holder, _)| *holder) {
            Ok(at) => self.cells[span.start as usize + at].1 = number,
            Err(at) => {
                span = self.resize(span, span.len + 1);
                let at = span.start as usize + at;
                self.cells.copy_within(at..span.range().end - 1, at + 1);
                self.cells[at] = (candidate, number);
                self.spans[slot as usize] = span;
            }
        }
    }

    /// The candidate does not hold the hash any more, if it did.
    pub(super) fn remove(&mut self, hash: u64, candidate: u32) {
        let slot = self.by_hash.get(hash);
        let span = self.spans[slot as usize];
        let found = self.cells[span.range()].binary_search_by_key(&candidate, |(holder, _)| *holder);
        let Ok(at) = found else { return };
        let at = span.start as usize + at;
        self.cells.copy_within(at + 1..span.range().end, at);
        self.spans[slot as usize] = self.resize(span, span.len - 1);
        if span.len == 1 {
            self.by_hash.remove(hash);
            self.vacant.push(slot);
        }
    }

    /// The place for another number of holders; those that are in both keep their order.
    fn resize(&mut self, span: Span, len: u32) -> Span {
        let (old, new) = (room(span.len), room(len));
        if old == new {
            return Span { len, ..span };
        }
        let start = match new {
            None => 0,
            Some(class) => self.rooms[class].pop().unwrap_or_else(|| {
                let start = self.cells.len();
                self.cells.resize(start + (1 << class), Holder::default());
                assert!(self.cells.len() <= u32::MAX as usize, "more holders than can be numbered");
                start as u32
            }),
        };
        let both = Span { len: span.len.min(len), ..span };
        self.cells.copy_within(both.range(), start as usize);
        if let Some(class) = old {
            self.rooms[class].push(span.start);
        }
        Span { start, len }
    }
}

/// Logarithm of the room for so many.
fn room(len: u32) -> Option<usize> {
    (len > 0).then(|| len.next_power_of_two().trailing_zeros() as usize)
}

/// Goes through candidates and holders side by side, both by their numbers: every candidate stays for which `stays` says
/// so, given what it had until now and the number that it holds.
#[inline]
pub(super) fn narrow(
    candidates: &mut Vec<Holder>,
    holders: &[Holder],
    mut stays: impl FnMut(&mut Holder, Option<u32>) -> bool,
) {
    let mut at = 0;
    candidates.retain_mut(|candidate| {
        while at < holders.len() && holders[at].0 < candidate.0 {
            at += 1;
        }
        let number = holders.get(at).filter(|holder| holder.0 == candidate.0).map(|holder| holder.1);
        stays(candidate, number)
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rng::{below, stream};

    #[test]
    fn holders_equal_a_map() {
        for seed in 0..20 {
            let mut rng = stream(seed, "router/holders");
            let (mut holders, mut map) = (Holders::new(), BTreeMap::<u64, BTreeMap<u32, u32>>::new());
            let (hashes, candidates) = (1 + below(&mut rng, 40), 1 + below(&mut rng, 40));
            let mut most = 0;
            for round in 0..4_000 {
                let (hash, candidate) = (below(&mut rng, hashes), below(&mut rng, candidates) as u32);
                // First more and more, then fewer and fewer, and so on.
                if below(&mut rng, 4) < 1 + 2 * (round / 500 % 2) {
                    holders.remove(hash, candidate);
                    map.entry(hash).or_default().remove(&candidate);
                } else {
                    holders.put(hash, candidate, round as u32);
                    map.entry(hash).or_default().insert(candidate, round as u32);
                }
                assert_eq!(holders.get(hash, candidate), map[&hash].get(&candidate).copied(), "{seed} {round}");
                let hash = below(&mut rng, hashes);
                let expect: Vec<Holder> = map.entry(hash).or_default().iter().map(|(a, n)| (*a, *n)).collect();
                assert_eq!(holders.of(hash), expect, "{seed} {round}");
                if round == 2_000 {
                    most = holders.cells.len();
                }
            }
            assert!(holders.spans.len() <= hashes as usize + 1, "{seed}");
            assert!(holders.cells.len() <= 3 * most, "{seed}: {} after {most}", holders.cells.len());
            map.iter().for_each(|(hash, held)| held.keys().for_each(|candidate| holders.remove(*hash, *candidate)));
            assert_eq!((0..hashes).map(|hash| holders.of(hash).len()).sum::<usize>(), 0, "{seed}");
            assert_eq!(holders.vacant.len() + 1, holders.spans.len(), "{seed}");
        }
    }

    #[test]
    fn candidates_and_holders_side_by_side() {
        let mut candidates = vec![(1, 10), (3, 30), (4, 40), (9, 90)];
        let mut seen = Vec::new();
        narrow(&mut candidates, &[(0, 5), (3, 6), (5, 7), (9, 8)], |candidate, number| {
            seen.push((candidate.0, number));
            candidate.1 += 1;
            number.is_some()
        });
        assert_eq!(seen, [(1, None), (3, Some(6)), (4, None), (9, Some(8))]);
        assert_eq!(candidates, [(3, 31), (9, 91)]);
    }
}
