//! The blocks of one replica, as vLLM's V1 `BlockPool`: free blocks in least-recently-used order, content kept until a
//! block is reused. Blocks that share a hash of the trace are handled as one run: a call costs what the runs are, not
//! what the blocks are.
//!
//! A *piece* is a run of blocks of one unit (one hash of the trace): filled one after the other, in use by the same
//! requests or free one after the other. A request that takes only a part of a piece splits it; pieces that become free
//! one after the other grow together again. Blocks of unknown content are counted, nothing more.
//!
//! Promises: used + free = total; what is found, what is free and what is reused next is, block for block, what a pool
//! of single blocks does (never-used blocks first; the last block of a request before the ones ahead of it; of equal
//! contents the one that was filled first is found); nothing is allocated once the cache has been full. Leaves out:
//! which block it is (blocks differ by content only), vLLM's null block, copies of the cache outside of GPU memory.

use super::table::{self, Table};

#[cfg(test)]
#[path = "extents/tests.rs"]
mod tests;

/// No piece: end of a list, and what a table has of no hash. It is also the place of the piece that closes the ring of free
/// ones.
const END: u32 = table::NONE;

/// A run of KV blocks that share a hash of the trace: `blocks` of them, the first is sub-block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub hash: u64,
    pub blocks: u32,
}

/// The known contents that a request holds, from its first block on. Give it back by [`Extents::release`]; it can be
/// used again then, and keeps its memory.
#[derive(Default, Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Held {
    runs: Vec<Run>,
    blocks: u32,
}

impl Held {
    /// KV blocks of known content.
    #[inline]
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }
}

/// Sub-blocks of one unit up to `end`, from the start of `piece`. Where that was split since, its parts follow it in the
/// list of their hash: whatever else is filled comes at the end of the list.
#[derive(Clone, Copy, Debug)]
struct Run {
    piece: u32,
    end: u32,
}

#[derive(Clone, Copy, Default)]
struct Piece {
    hash: u64,
    /// Free blocks of unknown content between the free piece before this one and this one. Kept in [`Extents::front`]
    /// where there is no piece before.
    before: u64,
    /// Sub-blocks `lo..hi` of the unit, at least one.
    lo: u32,
    hi: u32,
    /// Requests that hold all of it; it is in the ring of free pieces if there are none.
    users: u32,
    /// Neighbours in that ring: `prev` is reused sooner. In a place not in use, `next` is another one.
    prev: u32,
    next: u32,
    /// Neighbours among the pieces of this hash, in the order they were filled. The first one's `older` is the last.
    older: u32,
    newer: u32,
}

impl Piece {
    #[inline]
    fn len(&self) -> u32 {
        self.hi - self.lo
    }
}

/// See the head of the file.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Extents {
    total: u64,
    free: u64,
    /// Free blocks of unknown content that are reused before all others.
    front: u64,
    /// The first one is no piece: its `next` is reused first, its `prev` last, `before` counts what comes after all.
    pieces: Vec<Piece>,
    /// A place of `pieces` that is not in use.
    vacant: u32,
    /// Hash to the piece that was filled first.
    by_hash: Table,
    /// Parts of a run that was split; empty between calls.
    parts: Vec<u32>,
    /// What was touched, where somebody wants to know.
    watch: Option<Box<Watch>>,
    /// Runs that were reused, where somebody wants to know: hash, first sub-block, the one behind the last.
    evicted: Option<Vec<(u64, u32, u32)>>,
}

/// Hashes of which blocks were filled or forgotten, since it was last asked.
#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
struct Watch {
    /// In the order in which they were first touched.
    touched: Vec<u64>,
    known: Table,
}

impl Extents {
    /// All blocks free and never used.
    pub(crate) fn new(total: u64) -> Extents {
        Extents {
            total,
            free: total,
            front: total,
            pieces: vec![Piece::default()],
            vacant: END,
            by_hash: Table::new(),
            parts: Vec::new(),
            watch: None,
            evicted: None,
        }
    }

    /// From now on, [`Self::evicted`] tells which contents were given up for others.
    pub(crate) fn keep_evicted(&mut self) {
        self.evicted = Some(Vec::new());
    }

    /// Appends the contents of blocks that were reused since the last call, in the order of their reuse; within a run the last
    /// block comes first.
    pub(crate) fn evicted(&mut self, out: &mut Vec<(u64, u32, u32)>) {
        if let Some(evicted) = &mut self.evicted {
            out.append(evicted);
        }
    }

    /// From now on, [`Self::changes`] tells what comes into the cache and what leaves it.
    pub(crate) fn watch(&mut self) {
        self.watch = Some(Box::default());
    }

    /// Appends every hash of which a block was filled or forgotten since the last call (or since [`Self::watch`]), once, in
    /// the order of the first time, and how many blocks of its unit, from the first one on without a gap, are in the cache
    /// now: as many as [`Self::find`] finds of a unit that is long enough.
    pub(crate) fn changes(&mut self, out: &mut Vec<(u64, u32)>) {
        let Some(mut watch) = self.watch.take() else { return };
        for hash in watch.touched.drain(..) {
            watch.known.remove(hash);
            let mut blocks = 0;
            while let Some((_, to)) = self.first_filled(hash, blocks, u32::MAX) {
                blocks = to;
            }
            out.push((hash, blocks));
        }
        self.watch = Some(watch);
    }

    /// Blocks of this hash were filled or forgotten.
    #[inline]
    fn touch(&mut self, hash: u64) {
        let Some(watch) = &mut self.watch else { return };
        let new = watch.touched.len() as u32 + 1;
        if watch.touched.last() != Some(&hash) && watch.known.get_or_insert(hash, new) == new {
            watch.touched.push(hash);
        }
    }

    #[inline]
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    #[inline]
    pub(crate) fn used(&self) -> u64 {
        self.total - self.free
    }

    #[inline]
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Takes `n` blocks out of the free ones, least recently used first; what they held is forgotten.
    #[inline]
    pub(crate) fn take(&mut self, n: u64) {
        assert!(n <= self.free, "took {n} blocks of {}", self.free);
        self.free -= n;
        if n <= self.front {
            self.front -= n;
        } else {
            self.evict(n);
        }
    }

    /// Gives `n` blocks of unknown content back.
    #[inline]
    pub(crate) fn give(&mut self, n: u64) {
        self.free += n;
        assert!(self.free <= self.total, "more blocks free than there are");
        if self.pieces[END as usize].next == END {
            self.front += n;
        } else {
            self.pieces[END as usize].before += n;
        }
    }

    /// KV blocks of the longest prefix of `units` that is in the cache, at most `most`, and how many of them are free.
    pub(crate) fn find(&self, units: impl Iterator<Item = Unit>, most: u32) -> (u32, u64) {
        let (mut found, mut idle) = (0, 0);
        for unit in units {
            let end = unit.blocks.min(most - found);
            let mut at = 0;
            while at < end {
                let Some((piece, to)) = self.first_filled(unit.hash, at, end) else { return (found + at, idle) };
                if self.pieces[piece as usize].users == 0 {
                    idle += u64::from(to - at);
                }
                at = to;
            }
            found += at;
            if found == most {
                break;
            }
        }
        (found, idle)
    }

    /// A request that holds nothing yet holds the first `blocks` blocks of `units`, all of which [`Self::find`] found.
    pub(crate) fn share(&mut self, held: &mut Held, units: impl Iterator<Item = Unit>, blocks: u32) {
        debug_assert!(held.blocks == 0, "a hit is the start of a request");
        for unit in units {
            let end = unit.blocks.min(blocks - held.blocks);
            let mut at = 0;
            while at < end {
                let found = self.first_filled(unit.hash, at, end);
                let Some((piece, to)) = found else { panic!("sub-block {at} of {:x} is not in the cache", unit.hash) };
                self.hold(held, piece, at, to);
                at = to;
            }
            held.blocks += at;
            if held.blocks == blocks {
                return;
            }
        }
        assert!(held.blocks == blocks, "held {} of {blocks} blocks", held.blocks);
    }

    /// The next `count` blocks of the request, taken before, are full: they hold sub-blocks `first..first + count` of
    /// the unit `hash`, which follow what `held` holds.
    pub(crate) fn fill(&mut self, held: &mut Held, hash: u64, first: u32, count: u32) {
        if count == 0 {
            return;
        }
        self.touch(hash);
        held.blocks += count;
        if first > 0
            && let Some(run) = held.runs.last_mut()
        {
            let last = self.last_part(*run);
            let piece = &mut self.pieces[last as usize];
            debug_assert!(piece.hash == hash && piece.hi == first, "filled blocks follow those held");
            // Nobody else holds its end, and nobody filled any of this unit since.
            if piece.users == 1 && piece.newer == END && piece.hash == hash && piece.hi == first {
                piece.hi += count;
                run.end = piece.hi;
                return;
            }
        }
        let piece = self.add(Piece { hash, lo: first, hi: first + count, users: 1, ..Piece::default() });
        let oldest = self.by_hash.get_or_insert(hash, piece) as usize;
        let newest = std::mem::replace(&mut self.pieces[oldest].older, piece);
        if oldest != piece as usize {
            self.pieces[newest as usize].newer = piece;
            self.pieces[piece as usize].older = newest;
        }
        held.runs.push(Run { piece, end: first + count });
    }

    /// The same, but what is in the cache already is held in place of the request's own blocks, which are free again.
    pub(crate) fn fill_once(&mut self, held: &mut Held, hash: u64, first: u32, count: u32) {
        let (mut at, end) = (first, first + count);
        while at < end {
            let Some((piece, to)) = self.first_filled(hash, at, end) else {
                return self.fill(held, hash, at, end - at);
            };
            self.hold(held, piece, at, to);
            held.blocks += to - at;
            self.give(u64::from(to - at));
            at = to;
        }
    }

    /// The last `count` known blocks of the request were never computed: it still holds them, but their content is
    /// unknown now. Only for blocks that this request filled and nobody else shares.
    pub(crate) fn unfill(&mut self, held: &mut Held, count: u32) {
        assert!(count <= held.blocks, "{count} blocks to forget of {}", held.blocks);
        held.blocks -= count;
        let mut left = count;
        while left > 0 {
            let Some(run) = held.runs.last_mut() else { return };
            let last = self.last_part(*run);
            let piece = &mut self.pieces[last as usize];
            assert!(piece.users == 1, "a block to forget is shared");
            let (hash, len) = (piece.hash, piece.len());
            let cut = left.min(len);
            left -= cut;
            run.end -= cut;
            if cut < len {
                piece.hi -= cut;
            } else {
                if run.piece == last {
                    held.runs.pop();
                }
                self.forget(last);
            }
            self.touch(hash);
        }
    }

    /// Gives up all blocks of a request, last one first, so that the ends of chains are reused before their starts:
    /// first `unknown` blocks of unknown content, then what is held.
    pub(crate) fn release(&mut self, held: &mut Held, unknown: u64) {
        self.give(unknown);
        for at in (0..held.runs.len()).rev() {
            let Run { piece, end } = held.runs[at];
            if self.pieces[piece as usize].hi >= end {
                self.drop_user(piece);
                continue;
            }
            let mut parts = std::mem::take(&mut self.parts);
            let mut part = piece;
            while self.pieces[part as usize].hi < end {
                parts.push(part);
                part = self.pieces[part as usize].newer;
            }
            self.drop_user(part);
            while let Some(part) = parts.pop() {
                self.drop_user(part);
            }
            self.parts = parts;
        }
        held.runs.clear();
        held.blocks = 0;
        assert!(self.free <= self.total, "more blocks free than there are");
    }

    /// The piece that a lookup of sub-block `at` gives, and up to which sub-block, at most `end`, it gives the same.
    #[inline]
    fn first_filled(&self, hash: u64, at: u32, mut end: u32) -> Option<(u32, u32)> {
        let mut slot = self.by_hash.get(hash);
        while slot != END {
            let piece = &self.pieces[slot as usize];
            if piece.lo > at {
                // Filled before the one that will be found, so it wins where it starts.
                end = end.min(piece.lo);
            } else if at < piece.hi {
                return Some((slot, end.min(piece.hi)));
            }
            slot = piece.newer;
        }
        None
    }

    /// One more request holds sub-blocks `from..to` of a piece.
    #[inline]
    fn hold(&mut self, held: &mut Held, mut slot: u32, from: u32, to: u32) {
        if self.pieces[slot as usize].lo < from {
            slot = self.split(slot, from);
        }
        if to < self.pieces[slot as usize].hi {
            self.split(slot, to);
        }
        if self.pieces[slot as usize].users == 0 {
            self.unlink(slot);
            self.free -= u64::from(to - from);
        }
        self.pieces[slot as usize].users += 1;
        held.runs.push(Run { piece: slot, end: to });
    }

    /// One request less holds the piece.
    #[inline]
    fn drop_user(&mut self, slot: u32) {
        let piece = &mut self.pieces[slot as usize];
        piece.users -= 1;
        if piece.users > 0 {
            return;
        }
        let Piece { hash, lo, hi, newer, .. } = *piece;
        self.free += u64::from(hi - lo);
        let ring = self.pieces[END as usize];
        let tail = self.pieces[ring.prev as usize];
        let follows = ring.prev != END && ring.before == 0 && tail.hash == hash && tail.lo == hi;
        // As one, they have one place among those of their hash: only where nothing was filled in between.
        if follows && newer == ring.prev {
            self.forget(slot);
            self.pieces[ring.prev as usize].lo = lo;
            return;
        }
        let piece = &mut self.pieces[slot as usize];
        (piece.prev, piece.next, piece.before) = (ring.prev, END, ring.before);
        self.pieces[ring.prev as usize].next = slot;
        let end = &mut self.pieces[END as usize];
        (end.prev, end.before) = (slot, 0);
    }

    /// Reuses `n` blocks, more than there are at the front.
    fn evict(&mut self, n: u64) {
        let mut left = n - std::mem::take(&mut self.front);
        while left > 0 {
            let head = self.pieces[END as usize].next;
            assert!(head != END, "fewer blocks in the list than are free");
            let piece = &mut self.pieces[head as usize];
            let (hash, len) = (piece.hash, u64::from(piece.len()));
            let (lo, hi) = (piece.lo, piece.hi);
            if left < len {
                piece.hi -= left as u32;
                if let Some(evicted) = &mut self.evicted {
                    evicted.push((hash, hi - left as u32, hi));
                }
                self.touch(hash);
                return;
            }
            if let Some(evicted) = &mut self.evicted {
                evicted.push((hash, lo, hi));
            }
            left -= len;
            self.unlink(head);
            self.forget(head);
            self.touch(hash);
            let unknown = left.min(self.front);
            self.front -= unknown;
            left -= unknown;
        }
    }

    /// Cuts a piece in two; returns the one that starts at `at`. The other one keeps its place, so that those who hold
    /// it find it.
    fn split(&mut self, slot: u32, at: u32) -> u32 {
        let whole = self.pieces[slot as usize];
        let part = self.add(Piece { lo: at, older: slot, ..whole });
        let piece = &mut self.pieces[slot as usize];
        (piece.hi, piece.newer) = (at, part);
        if whole.newer != END {
            self.pieces[whole.newer as usize].older = part;
        } else {
            let oldest = self.by_hash.get(whole.hash);
            self.pieces[oldest as usize].older = part;
        }
        if whole.users == 0 {
            // The end is reused before the start.
            let piece = &mut self.pieces[slot as usize];
            (piece.prev, piece.before) = (part, 0);
            self.pieces[part as usize].next = slot;
            self.pieces[whole.prev as usize].next = part;
        }
        part
    }

    /// The piece that a run ends in.
    #[inline]
    fn last_part(&self, run: Run) -> u32 {
        let mut slot = run.piece;
        while self.pieces[slot as usize].hi < run.end {
            slot = self.pieces[slot as usize].newer;
        }
        slot
    }

    /// Takes a piece out of the ring of free ones. Unknown blocks before it now come before the one after it.
    #[inline]
    fn unlink(&mut self, slot: u32) {
        let Piece { prev, next, before, .. } = self.pieces[slot as usize];
        self.pieces[prev as usize].next = next;
        let after = &mut self.pieces[next as usize];
        after.prev = prev;
        if prev == END {
            self.front += std::mem::take(&mut after.before);
        } else {
            after.before += before;
        }
    }

    /// Nothing is known of these blocks any more; the place of the piece, not in the ring, is vacant.
    #[inline]
    fn forget(&mut self, slot: u32) {
        let Piece { hash, older, newer, .. } = self.pieces[slot as usize];
        let oldest = self.pieces[older as usize].newer != slot;
        match (oldest, newer) {
            (true, END) => self.by_hash.remove(hash),
            (true, newer) => {
                self.by_hash.replace(hash, newer);
                self.pieces[newer as usize].older = older;
            }
            (false, END) => {
                self.pieces[older as usize].newer = END;
                let oldest = self.by_hash.get(hash);
                self.pieces[oldest as usize].older = older;
            }
            (false, newer) => {
                self.pieces[older as usize].newer = newer;
                self.pieces[newer as usize].older = older;
            }
        }
        self.pieces[slot as usize].next = self.vacant;
        self.vacant = slot;
    }

    #[inline]
    fn add(&mut self, piece: Piece) -> u32 {
        table::put(&mut self.pieces, &mut self.vacant, |piece| piece.next, piece)
    }
}
