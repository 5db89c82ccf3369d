//! What a tier holds, in runs of blocks: a call costs what the runs are, not what the blocks are.
//!
//! A *piece* is a run of stored blocks of one unit (one hash of the trace) that were stored or read one after the other, the
//! last one first: so the ends of chains leave before their starts. Pieces are in a ring by age; of those of one hash no two
//! hold the same block.
//!
//! Promises: block for block what a list of single blocks does, of which each that is stored or read moves to the end, and
//! the first leaves when one more is to be stored. Leaves out: bytes and time of transfers; a block is there when its write
//! has ended, and has its place from the time at which that was asked for.

use std::collections::VecDeque;

use crate::sim::kv::table::{self, Table};
use crate::units::{SimDuration, SimTime};

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

/// The place of the piece that closes the ring: it is no piece.
const END: u32 = table::NONE;

/// So many free blocks are more than a step fills.
const ROOMY: u64 = 1024;

/// Two of them are a line of memory.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Piece {
    hash: u64,
    /// Blocks `lo..hi` of the unit, at least one.
    lo: u32,
    hi: u32,
    /// The number of the write that stores them.
    write: u32,
    /// Neighbours in the ring: `prev` is older. In a place not in use, `next` is another one.
    prev: u32,
    next: u32,
    /// The next piece of this hash.
    sibling: u32,
}

/// See the head of the file.
pub(super) struct Store {
    capacity: u64,
    ttl: Option<SimDuration>,
    pinned: bool,
    pieces: Vec<Piece>,
    /// When the blocks of each were stored or read, where they grow old by that.
    ages: Vec<SimTime>,
    vacant: u32,
    by_hash: Table,
    /// Writes from the first that was not over when the last one began: when each ends. And how many there were before it.
    writes: VecDeque<SimTime>,
    over: u32,
    /// Blocks that it holds, those being written included; the most that it ever held; and blocks that left for others.
    used: u64,
    most: u64,
    evicted: u64,
}

impl Store {
    pub(super) fn new(capacity: u64, ttl: Option<SimDuration>, pinned: bool) -> Store {
        let ring = Piece { hash: 0, lo: 0, hi: 0, write: 0, prev: END, next: END, sibling: END };
        Store {
            capacity,
            ttl,
            pinned,
            pieces: vec![ring],
            ages: vec![SimTime::ZERO],
            vacant: END,
            by_hash: Table::new(),
            writes: VecDeque::new(),
            over: 0,
            used: 0,
            most: 0,
            evicted: 0,
        }
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Up to which block of a unit, at most `end`, all from `at` on are there now.
    pub(super) fn run(&self, hash: u64, mut at: u32, end: u32, now: SimTime) -> u32 {
        while at < end {
            let slot = self.piece_of(hash, at);
            if slot == END {
                break;
            }
            let piece = &self.pieces[slot as usize];
            if !self.is_written(piece.write, now) || self.is_old(slot, now) {
                break;
            }
            at = piece.hi.min(end);
        }
        at
    }

    /// Blocks `lo..hi` of a unit, which are there, are read: the last one first.
    pub(super) fn touch(&mut self, hash: u64, lo: u32, mut hi: u32, now: SimTime) {
        while hi > lo {
            let slot = self.piece_of(hash, hi - 1);
            assert!(slot != END, "block {} of {hash:x} is not in the tier", hi - 1);
            hi = self.renew(slot, lo, hi, now);
        }
    }

    /// Blocks `lo..hi` of a unit are to be stored, the last one first (where nothing ever leaves: the first one first, as
    /// many as there is room for); those that are there already count as used now. Returns how many are written: by the
    /// write that [`Self::written`] tells of next.
    pub(super) fn put(&mut self, hash: u64, lo: u32, hi: u32, now: SimTime) -> u64 {
        if self.pinned {
            return self.put_pinned(hash, lo, hi, now);
        }
        self.expire(now);
        let (mut hi, mut stored) = (hi, 0);
        while hi > lo {
            let any = self.by_hash.get(hash) != END;
            let slot = if any { self.piece_of(hash, hi - 1) } else { END };
            if slot != END {
                hi = self.renew(slot, lo, hi, now);
                continue;
            }
            // No more at once than it holds: the first of them leave for the others.
            let least = hi - u64::from(hi - lo).min(self.capacity) as u32;
            let from = if any { self.end_before(hash, hi).max(least) } else { lo.max(least) };
            let count = u64::from(hi - from);
            self.evict((self.used + count).saturating_sub(self.capacity));
            self.add(hash, from, hi, now);
            stored += count;
            hi = from;
        }
        stored
    }

    /// Up to so many runs are about to be stored, of these units. Changes nothing: memory that will be needed is read at once,
    /// not one lookup after the other.
    pub(super) fn expect(&self, hashes: impl Iterator<Item = u64>) {
        let mut count = 0_u64;
        for hash in hashes {
            self.by_hash.expect(hash);
            count += 1;
        }
        // Where it is about full, as many leave.
        let mut head = self.pieces[END as usize].next;
        while self.used + ROOMY >= self.capacity && count > 0 && head != END {
            let piece = &self.pieces[head as usize];
            self.by_hash.expect(piece.hash);
            (head, count) = (piece.next, count - 1);
        }
    }

    fn put_pinned(&mut self, hash: u64, lo: u32, hi: u32, now: SimTime) -> u64 {
        let (mut at, mut stored) = (lo, 0);
        while at < hi && self.used < self.capacity {
            let slot = self.piece_of(hash, at);
            if slot != END {
                at = self.pieces[slot as usize].hi;
                continue;
            }
            let to = self.start_after(hash, at).min(hi);
            let count = u64::from(to - at).min(self.capacity - self.used);
            self.add(hash, at, at + count as u32, now);
            stored += count;
            at += count as u32;
        }
        stored
    }

    /// The write of what was stored since the last one, which begins now, ends then.
    pub(super) fn written(&mut self, end: SimTime, now: SimTime) {
        while self.writes.front().is_some_and(|end| *end <= now) {
            self.writes.pop_front();
            self.over += 1;
        }
        self.writes.push_back(end);
        assert!(self.next_write() < u32::MAX, "more writes than can be numbered");
    }

    /// The number of the write to come.
    fn next_write(&self) -> u32 {
        self.over + self.writes.len() as u32
    }

    /// Of a write that is not over when the next is asked for, the end is known.
    #[inline]
    fn is_written(&self, write: u32, now: SimTime) -> bool {
        let Some(at) = write.checked_sub(self.over) else { return true };
        self.writes.get(at as usize).is_some_and(|end| *end <= now)
    }

    fn is_old(&self, slot: u32, now: SimTime) -> bool {
        self.ttl.is_some_and(|ttl| self.ages[slot as usize] + ttl <= now)
    }

    /// What is too old leaves.
    fn expire(&mut self, now: SimTime) {
        loop {
            let head = self.pieces[END as usize].next;
            if head == END || !self.is_old(head, now) {
                return;
            }
            let Piece { lo, hi, .. } = self.pieces[head as usize];
            self.used -= u64::from(hi - lo);
            self.unlink(head);
            self.forget(head);
        }
    }

    /// The oldest blocks leave.
    fn evict(&mut self, count: u64) {
        self.used -= count;
        self.evicted += count;
        let mut left = count;
        while left > 0 {
            let head = self.pieces[END as usize].next;
            assert!(head != END, "a tier holds fewer blocks than it counts");
            let piece = &mut self.pieces[head as usize];
            let len = u64::from(piece.hi - piece.lo);
            if left < len {
                piece.hi -= left as u32;
                return;
            }
            left -= len;
            self.unlink(head);
            self.forget(head);
        }
    }

    /// New blocks, younger than all others.
    fn add(&mut self, hash: u64, lo: u32, hi: u32, now: SimTime) {
        self.used += u64::from(hi - lo);
        self.most = self.most.max(self.used);
        assert!(self.used <= self.capacity, "a tier holds more than it can");
        let write = self.next_write();
        let slot = self.place(Piece { hash, lo, hi, write, prev: END, next: END, sibling: END });
        self.enter_hash(slot);
        self.append(slot, now);
    }

    /// The part of a piece within `lo..hi`, which reaches to `hi`, is used; returns where it starts.
    fn renew(&mut self, slot: u32, lo: u32, hi: u32, now: SimTime) -> u32 {
        let mut slot = slot;
        if self.pieces[slot as usize].hi > hi {
            self.split(slot, hi);
        }
        if self.pieces[slot as usize].lo < lo {
            slot = self.split(slot, lo);
        }
        let from = self.pieces[slot as usize].lo;
        self.unlink(slot);
        self.append(slot, now);
        from
    }

    /// Cuts a piece in two; returns the one that starts at `at`, which is older.
    fn split(&mut self, slot: u32, at: u32) -> u32 {
        let whole = self.pieces[slot as usize];
        let upper = self.place(Piece { lo: at, ..whole });
        if self.ttl.is_some() {
            self.ages[upper as usize] = self.ages[slot as usize];
        }
        self.pieces[slot as usize].hi = at;
        self.enter_hash(upper);
        self.pieces[upper as usize].prev = whole.prev;
        self.pieces[upper as usize].next = slot;
        self.pieces[whole.prev as usize].next = upper;
        self.pieces[slot as usize].prev = upper;
        upper
    }

    /// The youngest of all, or one with what is: where it follows that.
    fn append(&mut self, slot: u32, now: SimTime) {
        let tail = self.pieces[END as usize].prev;
        let (youngest, piece) = (self.pieces[tail as usize], self.pieces[slot as usize]);
        let same = youngest.write == piece.write
            || (self.is_written(youngest.write, now) && self.is_written(piece.write, now));
        let age = self.ttl.is_none() || self.ages[tail as usize] == now;
        if tail != END && youngest.hash == piece.hash && youngest.lo == piece.hi && same && age {
            self.forget(slot);
            self.pieces[tail as usize].lo = piece.lo;
            return;
        }
        if self.ttl.is_some() {
            self.ages[slot as usize] = now;
        }
        let piece = &mut self.pieces[slot as usize];
        (piece.prev, piece.next) = (tail, END);
        self.pieces[tail as usize].next = slot;
        self.pieces[END as usize].prev = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Piece { prev, next, .. } = self.pieces[slot as usize];
        self.pieces[prev as usize].next = next;
        self.pieces[next as usize].prev = prev;
    }

    /// The piece that holds this block.
    fn piece_of(&self, hash: u64, at: u32) -> u32 {
        let mut slot = self.by_hash.get(hash);
        while slot != END {
            let piece = &self.pieces[slot as usize];
            if piece.lo <= at && at < piece.hi {
                return slot;
            }
            slot = piece.sibling;
        }
        END
    }

    /// Where the last piece before this block ends.
    fn end_before(&self, hash: u64, at: u32) -> u32 {
        let mut slot = self.by_hash.get(hash);
        let mut end = 0;
        while slot != END {
            let piece = &self.pieces[slot as usize];
            if piece.hi <= at {
                end = end.max(piece.hi);
            }
            slot = piece.sibling;
        }
        end
    }

    /// Where the next piece after this block starts.
    fn start_after(&self, hash: u64, at: u32) -> u32 {
        let mut slot = self.by_hash.get(hash);
        let mut start = u32::MAX;
        while slot != END {
            let piece = &self.pieces[slot as usize];
            if piece.lo > at {
                start = start.min(piece.lo);
            }
            slot = piece.sibling;
        }
        start
    }

    fn place(&mut self, piece: Piece) -> u32 {
        let slot = table::put(&mut self.pieces, &mut self.vacant, |piece| piece.next, piece);
        if self.ttl.is_some() && self.ages.len() < self.pieces.len() {
            self.ages.push(SimTime::ZERO);
        }
        slot
    }

    fn enter_hash(&mut self, slot: u32) {
        let hash = self.pieces[slot as usize].hash;
        let first = self.by_hash.get_or_insert(hash, slot);
        if first == slot {
            self.pieces[slot as usize].sibling = END;
            return;
        }
        self.pieces[slot as usize].sibling = self.pieces[first as usize].sibling;
        self.pieces[first as usize].sibling = slot;
    }

    /// A piece, not in the ring any more, leaves those of its hash; its place is vacant.
    fn forget(&mut self, slot: u32) {
        let Piece { hash, sibling, .. } = self.pieces[slot as usize];
        let first = self.by_hash.get(hash);
        if first == slot {
            match sibling {
                END => self.by_hash.remove(hash),
                next => self.by_hash.replace(hash, next),
            }
        } else {
            let mut before = first;
            while self.pieces[before as usize].sibling != slot {
                before = self.pieces[before as usize].sibling;
            }
            self.pieces[before as usize].sibling = sibling;
        }
        self.pieces[slot as usize].next = self.vacant;
        self.vacant = slot;
    }
}
