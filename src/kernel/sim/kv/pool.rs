//! The blocks of one replica, as vLLM's V1 `BlockPool`: free blocks in least-recently-used order, content kept until a
//! block is reused, a chain of content hashes to find it again.
//!
//! Two ways to use it, equal wherever nothing can be reused: `take` and `give` keep a number only; with `allocate`,
//! `share` and `release` every block has an id.
//! Promises: used + free = total. Leaves out: vLLM's null block, and copies of the cache outside of GPU memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No block: end of a list.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Block {
    users: u32,
    /// Neighbours in the free list.
    prev: u32,
    next: u32,
    /// Content, if `hashed`, and the next block of equal content.
    hash: u64,
    same: u32,
    hashed: bool,
}

/// See the head of the file.
pub(crate) struct Pool {
    total: u64,
    free: u64,
    /// Blocks that were ever used. Those never used come first in the order of reuse, so they need no list.
    blocks: Vec<Block>,
    head: u32,
    tail: u32,
    /// Content to the first block that holds it; [`Block::same`] leads to others, in the order they were filled.
    by_hash: HashMap<u64, u32, BuildHasherDefault<Spread>>,
}

impl Pool {
    /// All blocks free, in order of their ids. At most 2^32 - 1 where they have ids.
    pub(crate) fn new(total: u64) -> Pool {
        Pool { total, free: total, blocks: Vec::new(), head: NIL, tail: NIL, by_hash: HashMap::default() }
    }

    #[inline]
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    #[inline]
    pub(crate) fn used(&self) -> u64 {
        self.total - self.free
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Takes `n` blocks without naming them.
    #[inline]
    pub(crate) fn take(&mut self, n: u64) {
        assert!(n <= self.free, "took {n} blocks of {}", self.free);
        self.free -= n;
    }

    /// Gives `n` blocks back.
    pub(crate) fn give(&mut self, n: u64) {
        self.free += n;
        assert!(self.free <= self.total, "more blocks free than there are");
    }

    /// The block with this content, if one still holds it; the one filled first among several.
    pub(crate) fn find(&self, hash: u64) -> Option<u32> {
        self.by_hash.get(&hash).copied()
    }

    /// Nobody uses the block: it is in the free list, and a hit must take it out.
    pub(crate) fn is_free(&self, id: u32) -> bool {
        self.blocks[id as usize].users == 0
    }

    /// One more user of a block found by [`Self::find`].
    pub(crate) fn share(&mut self, id: u32) {
        if self.blocks[id as usize].users == 0 {
            self.unlink(id);
            self.free -= 1;
        }
        self.blocks[id as usize].users += 1;
    }

    /// The least recently used free block; what it held is forgotten.
    pub(crate) fn allocate(&mut self) -> u32 {
        assert!(self.free > 0, "allocated a block although none is free");
        self.free -= 1;
        if (self.blocks.len() as u64) < self.total {
            self.blocks.push(Block { users: 1, prev: NIL, next: NIL, hash: 0, same: NIL, hashed: false });
            return (self.blocks.len() - 1) as u32;
        }
        let id = self.head;
        self.unlink(id);
        if self.blocks[id as usize].hashed {
            self.forget(id);
        }
        self.blocks[id as usize].users = 1;
        id
    }

    /// The block is full, and this is its content from now on.
    pub(crate) fn fill(&mut self, id: u32, hash: u64) {
        let b = &mut self.blocks[id as usize];
        if b.hashed {
            return;
        }
        (b.hashed, b.hash, b.same) = (true, hash, NIL);
        let first = *self.by_hash.entry(hash).or_insert(id);
        if first != id {
            let mut at = first;
            while self.blocks[at as usize].same != NIL {
                at = self.blocks[at as usize].same;
            }
            self.blocks[at as usize].same = id;
        }
    }

    /// Gives up the blocks of a request, last one first, so that the ends of chains are reused before their starts.
    pub(crate) fn release(&mut self, ids: &[u32]) {
        for &id in ids.iter().rev() {
            let b = &mut self.blocks[id as usize];
            b.users -= 1;
            if b.users > 0 {
                continue;
            }
            (b.prev, b.next) = (self.tail, NIL);
            match self.tail {
                NIL => self.head = id,
                tail => self.blocks[tail as usize].next = id,
            }
            self.tail = id;
            self.free += 1;
        }
        assert!(self.free <= self.total, "more blocks free than there are");
    }

    fn unlink(&mut self, id: u32) {
        let Block { prev, next, .. } = self.blocks[id as usize];
        match prev {
            NIL => self.head = next,
            prev => self.blocks[prev as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => self.blocks[next as usize].prev = prev,
        }
    }

    fn forget(&mut self, id: u32) {
        let Block { hash, same, .. } = self.blocks[id as usize];
        self.blocks[id as usize].hashed = false;
        let first = self.by_hash.get(&hash).copied().unwrap_or(NIL);
        if first == id {
            match same {
                NIL => self.by_hash.remove(&hash),
                same => self.by_hash.insert(hash, same),
            };
            return;
        }
        let mut at = first;
        while self.blocks[at as usize].same != id {
            at = self.blocks[at as usize].same;
        }
        self.blocks[at as usize].same = same;
    }
}

/// Hashes a hash: trace hashes may be small integers, so their bits are spread by one multiplication.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(self.0 ^ u64::from(*b));
        }
    }

    fn write_u64(&mut self, x: u64) {
        let z = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = z ^ (z >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_blocks_keep_their_content_until_reused() {
        let mut p = Pool::new(3);
        let ids: Vec<u32> = (0..3).map(|_| p.allocate()).collect();
        for (i, id) in ids.iter().enumerate() {
            p.fill(*id, 100 + i as u64);
        }
        assert_eq!((p.free(), p.used()), (0, 3));
        p.release(&ids);
        assert_eq!(p.find(100), Some(ids[0]));
        // The last block of the chain goes first.
        assert_eq!(p.allocate(), ids[2]);
        assert_eq!(p.find(102), None);
        p.share(ids[0]);
        assert_eq!((p.free(), p.used()), (1, 2));
        assert_eq!(p.allocate(), ids[1]);
    }

    #[test]
    fn equal_content_in_several_blocks() {
        let mut p = Pool::new(4);
        let ids: Vec<u32> = (0..3).map(|_| p.allocate()).collect();
        ids.iter().for_each(|id| p.fill(*id, 7));
        p.release(&ids[1..2]);
        assert_eq!(p.allocate(), 3);
        assert_eq!(p.allocate(), ids[1]);
        p.release(&ids[0..1]);
        assert_eq!(p.find(7), Some(ids[0]));
        assert_eq!(p.allocate(), ids[0]);
        assert_eq!(p.find(7), Some(ids[2]));
    }
}
