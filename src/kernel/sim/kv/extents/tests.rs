//! The pool of runs against pools of single blocks, in random sequences of operations, and its rules case by case.
//!
//! Promises: after every operation the same is free, found and reused next, block for block. Leaves out: speed.

use std::collections::VecDeque;

use rand_pcg::Pcg64;

use super::*;
use crate::rng::{below, stream};

/// Content of a block: hash of its unit, sub-block.
type Place = (u64, u32);

/// The obvious way: every block by itself, a queue of free ones, and what each holds.
#[derive(Clone)]
struct Naive {
    free: VecDeque<u32>,
    users: Vec<u32>,
    /// With the count of blocks that were filled before.
    content: Vec<Option<(u64, Place)>>,
    filled: u64,
    /// Hashes of what was filled or forgotten, since it was last asked.
    touched: Vec<u64>,
}

impl Naive {
    fn new(total: u64) -> Naive {
        let n = total as usize;
        let free = (0..total as u32).collect();
        Naive { free, users: vec![0; n], content: vec![None; n], filled: 0, touched: Vec::new() }
    }

    fn free(&self) -> u64 {
        self.free.len() as u64
    }

    fn find(&self, place: Place) -> Option<u32> {
        let with = |id: &usize| self.content[*id].is_some_and(|(_, at)| at == place);
        let first = (0..self.content.len()).filter(with).min_by_key(|id| self.content[*id]);
        first.map(|id| id as u32)
    }

    fn is_free(&self, id: u32) -> bool {
        self.users[id as usize] == 0
    }

    fn share(&mut self, id: u32) {
        self.free.retain(|other| *other != id);
        self.users[id as usize] += 1;
    }

    fn allocate(&mut self) -> u32 {
        let id = self.free.pop_front().expect("a free block");
        self.unfill(id);
        self.users[id as usize] = 1;
        id
    }

    fn fill(&mut self, id: u32, place: Place) {
        self.content[id as usize] = Some((self.filled, place));
        self.filled += 1;
        self.touched.push(place.0);
    }

    fn release(&mut self, ids: &[u32]) {
        for id in ids.iter().rev() {
            self.users[*id as usize] -= 1;
            if self.users[*id as usize] == 0 {
                self.free.push_back(*id);
            }
        }
    }

    fn unfill(&mut self, id: u32) {
        let forgotten = self.content[id as usize].take();
        self.touched.extend(forgotten.map(|(_, (hash, _))| hash));
    }

    /// Every hash that was touched, once, and how many of its first sub-blocks are known.
    fn changes(&mut self) -> Vec<(u64, u32)> {
        let mut changes: Vec<(u64, u32)> = Vec::new();
        for hash in std::mem::take(&mut self.touched) {
            if changes.iter().all(|(other, _)| *other != hash) {
                let blocks = (0..).take_while(|sub| self.find((hash, *sub)).is_some()).count();
                changes.push((hash, blocks as u32));
            }
        }
        changes
    }

    fn is_single(&self, id: u32) -> bool {
        self.users[id as usize] == 1
    }

    /// The free blocks by their content, next to be reused first.
    fn order(&self) -> Vec<Option<Place>> {
        self.free.iter().map(|id| self.content[*id as usize].map(|(_, place)| place)).collect()
    }
}

fn places(units: &[Unit]) -> Vec<Place> {
    units.iter().flat_map(|unit| (0..unit.blocks).map(|sub| (unit.hash, sub))).collect()
}

/// A request in both pools.
struct Live {
    units: Vec<Unit>,
    known: Vec<Place>,
    held: Held,
    ids: Vec<u32>,
    shared: usize,
}

impl Live {
    fn unknown(&self) -> u64 {
        self.ids.len() as u64 - u64::from(self.held.blocks())
    }
}

struct Both {
    extents: Extents,
    blocks: Naive,
    live: Vec<Live>,
    hashes: u64,
    parts: u32,
}

impl Both {
    fn new(total: u64, hashes: u64, parts: u32) -> Both {
        let mut extents = Extents::new(total);
        extents.watch();
        Both { extents, blocks: Naive::new(total), live: Vec::new(), hashes, parts }
    }

    fn find(&self, units: &[Unit], most: u32) -> u32 {
        let known = places(units);
        let ids = known.iter().take(most as usize).map_while(|place| self.blocks.find(*place));
        let (mut found, mut idle) = (0, 0);
        for id in ids {
            found += 1;
            idle += u64::from(self.blocks.is_free(id));
        }
        assert_eq!(self.extents.find(units.iter().copied(), most), (found, idle), "{units:?} {most}");
        found
    }

    /// A new request holds at most `most` blocks of what it finds.
    fn admit(&mut self, units: Vec<Unit>, most: u32) {
        let blocks = self.find(&units, most);
        let known = places(&units);
        let mut held = Held::default();
        self.extents.share(&mut held, units.iter().copied(), blocks);
        let ids: Vec<u32> =
            known[..blocks as usize].iter().map(|place| self.blocks.find(*place).expect("found before")).collect();
        ids.iter().for_each(|id| self.blocks.share(*id));
        self.live.push(Live { units, known, held, ids, shared: blocks as usize });
    }

    fn take(&mut self, at: usize, n: u64) {
        self.extents.take(n);
        for _ in 0..n {
            let id = self.blocks.allocate();
            self.live[at].ids.push(id);
        }
    }

    fn fill(&mut self, at: usize, count: u32) {
        let live = &mut self.live[at];
        let (mut start, from) = (0, live.held.blocks());
        for unit in &live.units {
            let end = start + unit.blocks;
            let (first, last) = (from.max(start), (from + count).min(end));
            if first < last {
                self.extents.fill(&mut live.held, unit.hash, first - start, last - first);
            }
            start = end;
        }
        assert_eq!(live.held.blocks(), from + count);
        for block in from as usize..(from + count) as usize {
            self.blocks.fill(live.ids[block], live.known[block]);
        }
    }

    fn unfill(&mut self, at: usize, count: u32) {
        let live = &mut self.live[at];
        let end = live.held.blocks() as usize;
        self.extents.unfill(&mut live.held, count);
        for block in (end - count as usize..end).rev() {
            self.blocks.unfill(live.ids[block]);
        }
    }

    /// Blocks at the end of what a request filled that nobody shares.
    fn can_unfill(&self, at: usize) -> u32 {
        let live = &self.live[at];
        let filled = live.shared..live.held.blocks() as usize;
        filled.rev().take_while(|block| self.blocks.is_single(live.ids[*block])).count() as u32
    }

    fn release(&mut self, at: usize) {
        let mut live = self.live.swap_remove(at);
        let unknown = live.unknown();
        self.extents.release(&mut live.held, unknown);
        self.blocks.release(&live.ids);
        assert_eq!((live.held.blocks(), live.held.runs.len()), (0, 0));
    }

    /// Both tell the same of what was filled or forgotten; returns of how many hashes.
    fn compare_changes(&mut self) -> u64 {
        let mut changes = vec![(u64::MAX, 0)];
        self.extents.changes(&mut changes);
        assert_eq!(changes.remove(0), (u64::MAX, 0), "changes are appended");
        assert_eq!(changes, self.blocks.changes());
        for (hash, blocks) in &changes {
            let unit = Unit { hash: *hash, blocks: u32::MAX };
            assert_eq!(self.extents.find(std::iter::once(unit), u32::MAX).0, *blocks);
        }
        changes.len() as u64
    }

    fn compare(&self) {
        check_structure(&self.extents, &self.live);
        let holders: Vec<Vec<(u32, u32)>> = self.live.iter().map(|live| blocks_of(&self.extents, &live.held)).collect();
        compare_places(&self.extents, &self.blocks, self.hashes, self.parts);
        for place in all_places(self.hashes, self.parts) {
            // Both give the same block: the same requests hold it in the same places.
            let Some(id) = self.blocks.find(place) else { continue };
            let (slot, _) = self.extents.first_filled(place.0, place.1, place.1 + 1).expect("compared above");
            for (live, holds) in self.live.iter().zip(&holders) {
                let expect = live.ids.iter().map(|other| *other == id);
                let got = holds.iter().map(|block| *block == (slot, place.1)).chain(std::iter::repeat(false));
                assert!(expect.zip(got).all(|(a, b)| a == b), "{place:?} is another block");
            }
        }
        assert_eq!(reuse_order(&self.extents), self.blocks.order());
    }

    /// Takes everything that is free, in steps of at most `step` blocks.
    fn drain(extents: &mut Extents, blocks: &mut Naive, hashes: u64, parts: u32, step: u64) {
        while blocks.free() > 0 {
            let n = step.min(blocks.free());
            extents.take(n);
            for _ in 0..n {
                blocks.allocate();
            }
            compare_places(extents, blocks, hashes, parts);
        }
    }
}

fn all_places(hashes: u64, parts: u32) -> impl Iterator<Item = Place> {
    (0..hashes).flat_map(move |hash| (0..parts).map(move |sub| (hash, sub)))
}

fn compare_places(extents: &Extents, blocks: &Naive, hashes: u64, parts: u32) {
    assert_eq!((extents.free(), extents.used() + extents.free()), (blocks.free(), extents.total()));
    for (hash, sub) in all_places(hashes, parts) {
        let got = extents.first_filled(hash, sub, sub + 1).map(|(slot, _)| extents.pieces[slot as usize].users == 0);
        let expect = blocks.find((hash, sub)).map(|id| blocks.is_free(id));
        assert_eq!(got, expect, "{hash} {sub}");
    }
}

/// Free blocks by their content, next to be reused first.
fn reuse_order(extents: &Extents) -> Vec<Option<Place>> {
    let mut order = vec![None; extents.front as usize];
    let mut slot = extents.pieces[0].next;
    while slot != END {
        let piece = extents.pieces[slot as usize];
        order.resize(order.len() + piece.before as usize, None);
        order.extend((piece.lo..piece.hi).rev().map(|sub| Some((piece.hash, sub))));
        slot = piece.next;
    }
    order.resize(order.len() + extents.pieces[0].before as usize, None);
    order
}

/// Piece and sub-block of every known block of a request.
fn blocks_of(extents: &Extents, held: &Held) -> Vec<(u32, u32)> {
    let mut blocks = Vec::new();
    for run in &held.runs {
        let mut slot = run.piece;
        loop {
            let piece = extents.pieces[slot as usize];
            blocks.extend((piece.lo..piece.hi).map(|sub| (slot, sub)));
            if piece.hi >= run.end {
                assert_eq!(piece.hi, run.end, "a run ends within a piece");
                break;
            }
            assert_eq!(extents.pieces[piece.newer as usize].lo, piece.hi, "a gap in a run");
            slot = piece.newer;
        }
    }
    blocks
}

/// Every piece is in the list of its hash, counts its holders, and is in the ring just if it has none; every other
/// place is vacant.
fn check_structure(extents: &Extents, live: &[Live]) {
    let n = extents.pieces.len();
    let (mut users, mut ringed, mut listed) = (vec![0; n], vec![false; n], vec![false; n]);
    for live in live {
        let mut blocks = blocks_of(extents, &live.held);
        assert_eq!(blocks.len(), live.held.blocks() as usize);
        assert!(
            blocks
                .iter()
                .map(|(slot, sub)| (extents.pieces[*slot as usize].hash, *sub))
                .eq(live.known[..blocks.len()].iter().copied())
        );
        blocks.retain(|(slot, sub)| extents.pieces[*slot as usize].lo == *sub);
        blocks.iter().for_each(|(slot, _)| users[*slot as usize] += 1);
    }
    let (mut slot, mut prev, mut free) = (extents.pieces[0].next, END, extents.front);
    while slot != END {
        let piece = extents.pieces[slot as usize];
        assert_eq!(piece.prev, prev);
        assert!(prev != END || piece.before == 0, "unknown blocks before the first piece are in front");
        ringed[slot as usize] = true;
        free += piece.before + u64::from(piece.len());
        (prev, slot) = (slot, piece.next);
    }
    assert_eq!(extents.pieces[0].prev, prev);
    assert_eq!(extents.free, free + extents.pieces[0].before);
    let firsts: Vec<&(u64, u32)> = extents.by_hash.places.iter().filter(|(_, first)| *first != END).collect();
    assert_eq!(firsts.len(), extents.by_hash.len);
    for (hash, first) in firsts {
        let (mut slot, mut last) = (*first, extents.pieces[*first as usize].older);
        assert_eq!(extents.pieces[last as usize].newer, END);
        while slot != END {
            let piece = extents.pieces[slot as usize];
            assert_eq!(piece.hash, *hash);
            assert!(piece.lo < piece.hi, "an empty piece");
            assert!(slot == *first || piece.older == last);
            listed[slot as usize] = true;
            (last, slot) = (slot, piece.newer);
        }
        assert_eq!(extents.pieces[*first as usize].older, last);
    }
    let mut vacant = extents.vacant;
    let mut vacancies = 0;
    while vacant != END {
        assert!(!listed[vacant as usize]);
        vacancies += 1;
        vacant = extents.pieces[vacant as usize].next;
    }
    assert_eq!(listed.iter().filter(|l| **l).count() + vacancies + 1, n);
    for slot in (1..n).filter(|slot| listed[*slot]) {
        assert_eq!(extents.pieces[slot].users, users[slot]);
        assert_eq!(ringed[slot], users[slot] == 0);
    }
}

/// Documents that share beginnings: each unit's hash tells little, so that equal content meets often.
fn random_units(rng: &mut Pcg64, hashes: u64, parts: u32) -> Vec<Unit> {
    let n = below(rng, 5) as usize;
    let mut hash = below(rng, hashes);
    let mut units: Vec<Unit> = (0..n).map(|_| Unit { hash: step(rng, &mut hash, hashes), blocks: parts }).collect();
    if let Some(last) = units.last_mut()
        && below(rng, 2) == 0
    {
        last.blocks = 1 + below(rng, u64::from(parts)) as u32;
    }
    units
}

/// Mostly the next hash, as along a document; seldom any other, so that one request may even hold a hash twice.
fn step(rng: &mut Pcg64, hash: &mut u64, hashes: u64) -> u64 {
    *hash = if below(rng, 8) == 0 { below(rng, hashes) } else { (*hash + 1) % hashes };
    *hash
}

#[derive(Debug, Default)]
struct Seen {
    hits: u64,
    unfilled: u64,
    /// Runs held across a split, and pieces that are not alone in the list of their hash, counted after each operation.
    split: u64,
    equal: u64,
    changes: u64,
}

fn sequence(seed: u64, seen: &mut Seen) {
    let mut rng = stream(seed, "kv/extents");
    let rng = &mut rng;
    let (hashes, parts) = (1 + below(rng, 6), 1 + below(rng, 7) as u32);
    let mut both = Both::new(1 + below(rng, 48), hashes, parts);
    for _ in 0..10 + below(rng, 90) {
        let (n, free) = (both.live.len() as u64, both.blocks.free());
        let at = if n > 0 { below(rng, n) as usize } else { 0 };
        match below(rng, 10) {
            0..3 if n < 8 => {
                let units = random_units(rng, hashes, parts);
                let most = if below(rng, 3) == 0 { below(rng, 20) as u32 } else { u32::MAX };
                both.admit(units, most);
                let live = both.live.len() - 1;
                seen.hits += u64::from(both.live[live].held.blocks());
                both.take(live, below(rng, 24).min(both.blocks.free()));
            }
            3 if n > 0 => both.take(at, below(rng, 4).min(free)),
            4..7 if n > 0 => {
                let live = &both.live[at];
                let most = (live.known.len().min(live.ids.len())) as u32 - live.held.blocks();
                let count = if below(rng, 2) == 0 { most } else { below(rng, u64::from(most) + 1) as u32 };
                both.fill(at, count);
            }
            7 if n > 0 => {
                let count = below(rng, u64::from(both.can_unfill(at)) + 1) as u32;
                seen.unfilled += u64::from(count);
                both.unfill(at, count);
            }
            8..10 if n > 0 => both.release(at),
            _ => drop(both.find(&random_units(rng, hashes, parts), below(rng, 30) as u32)),
        }
        both.compare();
        if below(rng, 3) == 0 {
            seen.changes += both.compare_changes();
        }
        let runs = both.live.iter().flat_map(|live| &live.held.runs);
        seen.split += runs.filter(|run| both.extents.pieces[run.piece as usize].hi < run.end).count() as u64;
        let firsts = both.extents.by_hash.places.iter().filter(|(_, first)| *first != END);
        seen.equal += firsts.filter(|(_, first)| both.extents.pieces[*first as usize].newer != END).count() as u64;
        if below(rng, 8) == 0 {
            Both::drain(&mut both.extents.clone(), &mut both.blocks.clone(), hashes, parts, 1 + below(rng, 5));
        }
    }
    if below(rng, 2) == 0 {
        while let Some(last) = both.live.len().checked_sub(1) {
            both.release(last);
        }
        assert_eq!(both.extents.used(), 0);
    }
    Both::drain(&mut both.extents, &mut both.blocks, hashes, parts, 1);
    both.compare_changes();
    if both.live.is_empty() {
        assert_eq!(both.extents.by_hash.len, 0, "something is known of reused blocks");
    }
}

fn sequences(seeds: std::ops::Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| sequence(seed, &mut seen));
        assert!(std::panic::catch_unwind(run).is_ok(), "the sequence of seed {seed} fails");
    }
    seen
}

#[test]
fn equals_the_obvious_way() {
    let seen = sequences(0..3_000);
    assert!(seen.hits > 10_000 && seen.unfilled > 1_000 && seen.split > 1_000 && seen.equal > 10_000, "{seen:?}");
    assert!(seen.changes > 10_000, "{seen:?}");
}

/// One operation of a case. Requests are numbered in the order of their admission, finished ones too.
#[derive(Clone, Copy)]
enum Do {
    /// A new request of these units holds what it finds, at most so many blocks, and takes so many more.
    Admit(&'static [(u64, u32)], u32, u64),
    Fill(usize, u32),
    Unfill(usize, u32),
    Release(usize),
}
use Do::{Admit, Fill, Release, Unfill};

/// Free blocks in the order of their reuse, as hash and sub-block ("3.0"), or "-" where nothing is known of it.
fn check(case: &str, total: u64, script: &[Do], expect: &str) {
    let mut both = Both::new(total, 10, 10);
    let mut names: Vec<usize> = Vec::new();
    let mut count = 0;
    for op in script {
        let place = |name: usize, names: &[usize]| names.iter().position(|n| *n == name).expect("a request");
        match *op {
            Admit(units, most, take) => {
                both.admit(units.iter().map(|(hash, blocks)| Unit { hash: *hash, blocks: *blocks }).collect(), most);
                both.take(both.live.len() - 1, take);
                names.push(count);
                count += 1;
            }
            Fill(name, blocks) => both.fill(place(name, &names), blocks),
            Unfill(name, blocks) => both.unfill(place(name, &names), blocks),
            Release(name) => {
                let at = place(name, &names);
                both.release(at);
                names.swap_remove(at);
            }
        }
        both.compare();
    }
    let show = |block: &Option<Place>| block.map_or("-".to_owned(), |(hash, sub)| format!("{hash}.{sub}"));
    let order: Vec<String> = reuse_order(&both.extents).iter().map(show).collect();
    assert_eq!(order.join(" "), expect, "{case}");
}

#[test]
fn rules() {
    let two: &[(u64, u32)] = &[(1, 3), (2, 2)];
    let one: &[(u64, u32)] = &[(1, 4)];
    let half: &[(u64, u32)] = &[(1, 2)];
    let cases: &[(&str, u64, &[Do], &str)] = &[
        ("never used", 3, &[], "- - -"),
        ("reverse release", 7, &[Admit(two, 9, 6), Fill(0, 5), Release(0)], "- - 2.1 2.0 1.2 1.1 1.0"),
        ("in use, not free", 7, &[Admit(two, 9, 6), Fill(0, 5)], "-"),
        ("not full, not known", 5, &[Admit(two, 9, 5), Fill(0, 2), Release(0)], "- - - 1.1 1.0"),
        ("a hit is taken out", 5, &[Admit(two, 9, 5), Fill(0, 5), Release(0), Admit(half, 9, 0)], "2.1 2.0 1.2"),
        (
            "a hit makes it recent",
            5,
            &[Admit(two, 9, 5), Fill(0, 5), Release(0), Admit(one, 3, 0), Release(1)],
            "2.1 2.0 1.2 1.1 1.0",
        ),
        (
            "a shorter hit cuts a free run",
            6,
            &[Admit(one, 9, 4), Fill(0, 4), Release(0), Admit(half, 9, 0), Release(1), Admit(&[(2, 1)], 9, 3)],
            "1.2 1.1 1.0",
        ),
        (
            "a shorter hit cuts a run in use",
            4,
            &[Admit(one, 9, 4), Fill(0, 4), Admit(half, 9, 0), Release(0)],
            "1.3 1.2",
        ),
        (
            "both hold the start",
            4,
            &[Admit(one, 9, 4), Fill(0, 4), Admit(half, 9, 0), Release(1), Release(0)],
            "1.3 1.2 1.1 1.0",
        ),
        (
            "filled first is found",
            4,
            &[Admit(half, 9, 2), Admit(half, 9, 2), Fill(1, 2), Fill(0, 2), Release(0), Admit(half, 9, 0), Release(1)],
            "1.1 1.0",
        ),
        (
            "the next one when the first is reused",
            4,
            &[
                Admit(half, 9, 2),
                Admit(half, 9, 2),
                Fill(0, 2),
                Fill(1, 2),
                Release(0),
                Admit(&[(3, 2)], 9, 2),
                Admit(half, 9, 0),
                Release(1),
                Release(2),
                Release(3),
            ],
            "- - 1.1 1.0",
        ),
        (
            "block by block, the one filled first",
            8,
            &[
                Admit(one, 9, 4),
                Admit(one, 9, 4),
                Fill(0, 2),
                Fill(1, 4),
                Fill(0, 2),
                Release(0),
                Release(1),
                Admit(one, 9, 0),
            ],
            "1.3 1.2 1.1 1.0",
        ),
        (
            "a request of parts of two others",
            8,
            &[
                Admit(one, 9, 4),
                Admit(one, 9, 4),
                Fill(0, 2),
                Fill(1, 4),
                Fill(0, 2),
                Admit(one, 9, 0),
                Release(1),
                Release(0),
            ],
            "1.1 1.0 1.3 1.2",
        ),
        (
            "unknown blocks merge",
            8,
            &[
                Admit(half, 9, 2),
                Admit(&[], 9, 2),
                Admit(&[], 9, 2),
                Fill(0, 2),
                Release(0),
                Release(1),
                Release(2),
                Admit(half, 9, 0),
                Admit(&[], 9, 5),
            ],
            "-",
        ),
        (
            "unknown blocks merge where a hit lay between",
            6,
            &[Admit(&[], 9, 4), Admit(half, 9, 2), Fill(1, 2), Release(1), Release(0), Admit(half, 9, 3), Release(2)],
            "- - - - 1.1 1.0",
        ),
        (
            "reuse stops within a run",
            5,
            &[Admit(one, 9, 5), Fill(0, 4), Release(0), Admit(&[], 9, 3), Release(1)],
            "1.1 1.0 - - -",
        ),
        (
            "what was never computed is not found",
            5,
            &[Admit(one, 9, 4), Fill(0, 4), Unfill(0, 3), Admit(one, 9, 0), Release(0), Release(1)],
            "- - - - 1.0",
        ),
        (
            "never computed, across units",
            5,
            &[Admit(two, 9, 5), Fill(0, 5), Unfill(0, 3), Fill(0, 2), Release(0)],
            "- 2.0 1.2 1.1 1.0",
        ),
        (
            "a full hit is computed again in part",
            6,
            &[Admit(one, 9, 4), Fill(0, 4), Release(0), Admit(one, 3, 1), Fill(1, 1), Release(1)],
            "- 1.3 1.3 1.2 1.1 1.0",
        ),
    ];
    for (case, total, script, expect) in cases {
        check(case, *total, script, expect);
    }
}

#[test]
fn counts_alone_keep_no_pieces() {
    // More blocks than could be numbered: nothing is kept of blocks that no hash names.
    let total = 1 << 40;
    let mut extents = Extents::new(total);
    for n in [5, total - 6, 1] {
        extents.take(n);
    }
    assert_eq!((extents.free(), extents.used()), (0, total));
    for n in [1, total - 1] {
        extents.release(&mut Held::default(), n);
    }
    extents.take(total - 1);
    assert_eq!((extents.free(), extents.front, extents.pieces.len()), (1, 1, 1));
}

#[test]
fn vacant_places_are_used_again() {
    let mut extents = Extents::new(64);
    let mut held = Held::default();
    let mut most = 0;
    for round in 0..1_000 {
        let units: [Unit; 4] = std::array::from_fn(|at| Unit { hash: round / 3 * 2 + at as u64, blocks: 8 });
        let (found, _) = extents.find(units.into_iter(), 31);
        extents.share(&mut held, units.into_iter(), found);
        extents.take(u64::from(32 - found) + 5);
        for at in found..32 {
            extents.fill(&mut held, units[at as usize / 8].hash, at % 8, 1);
        }
        extents.release(&mut held, 5);
        if round == 100 {
            most = extents.pieces.len();
        }
    }
    assert_eq!((extents.pieces.len(), extents.used()), (most, 0));
    assert!(extents.by_hash.len <= 64 && most <= 64 / 8 * 3, "{most} pieces of 64 blocks");
}

#[test]
#[should_panic(expected = "took 3 blocks of 2")]
fn no_more_than_free() {
    let mut extents = Extents::new(4);
    extents.take(2);
    extents.take(3);
}

#[test]
#[should_panic(expected = "shared")]
fn shared_blocks_are_not_forgotten() {
    let mut extents = Extents::new(4);
    let (mut first, mut second) = (Held::default(), Held::default());
    extents.take(4);
    extents.fill(&mut first, 1, 0, 4);
    extents.share(&mut second, std::iter::once(Unit { hash: 1, blocks: 4 }), 4);
    extents.unfill(&mut first, 1);
}

#[test]
#[should_panic(expected = "more blocks free than there are")]
fn no_more_than_taken() {
    let mut extents = Extents::new(4);
    extents.take(2);
    extents.release(&mut Held::default(), 3);
}

/// Requests that hold whole beginnings do not get here: the start of a run outlives its end. The lookup is exact anyway.
#[test]
fn the_end_filled_first_is_found_there() {
    let mut extents = Extents::new(20);
    let (mut end, mut whole) = (Held::default(), Held::default());
    extents.take(15);
    extents.fill(&mut end, 1, 5, 5);
    extents.fill(&mut whole, 1, 0, 10);
    extents.release(&mut end, 0);
    let unit = Unit { hash: 1, blocks: 10 };
    assert_eq!(extents.find(std::iter::once(unit), 10), (10, 5));
    let mut both = Held::default();
    extents.share(&mut both, std::iter::once(unit), 10);
    assert_eq!((extents.used(), both.blocks()), (15, 10));
    extents.release(&mut whole, 0);
    assert_eq!(extents.used(), 10);
}

#[test]
fn changes_are_told_where_somebody_watches() {
    let mut extents = Extents::new(8);
    let (mut held, mut other, mut changes) = (Held::default(), Held::default(), Vec::new());
    extents.take(2);
    extents.fill(&mut held, 5, 0, 1);
    extents.changes(&mut changes);
    assert_eq!(changes, []);
    extents.watch();
    extents.fill(&mut held, 5, 1, 1);
    extents.take(3);
    extents.fill(&mut other, 9, 0, 3);
    extents.unfill(&mut other, 2);
    extents.changes(&mut changes);
    assert_eq!(changes, [(5, 2), (9, 1)]);
    // To hold or to give up what is known changes nothing; to use the blocks again does.
    extents.release(&mut held, 0);
    extents.changes(&mut changes);
    assert_eq!(changes.len(), 2);
    extents.take(4);
    extents.changes(&mut changes);
    assert_eq!(changes[2..], [(5, 1)]);
    extents.take(1);
    extents.changes(&mut changes);
    assert_eq!(changes[3..], [(5, 0)]);
}
