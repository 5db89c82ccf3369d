//! Hash to a number that is not 0: open addressing, at most half full. One line of memory for most lookups, where the
//! standard library's table needs two.
//!
//! Promises: what is found depends on what was put in, not on its order. Leaves out: going through what is in it.

/// What a table has of a hash that is not in it.
pub(crate) const NONE: u32 = 0;

/// See the head of the file.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Table {
    /// A power of two of places, probed one after the other; [`NONE`]: vacant.
    pub(super) places: Vec<(u64, u32)>,
    pub(super) len: usize,
    shift: u32,
}

impl Default for Table {
    fn default() -> Table {
        Table::new()
    }
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { places: vec![(0, NONE); 16], len: 0, shift: 60 }
    }

    /// Hashes of a trace may be small integers: one multiplication spreads whatever bits they differ in to the high ones.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Where a hash is, or the vacant place where it would be.
    #[inline]
    fn place(&self, hash: u64) -> usize {
        let mut at = self.home(hash);
        while self.places[at].1 != NONE && self.places[at].0 != hash {
            at = (at + 1) & (self.places.len() - 1);
        }
        at
    }

    /// The number of this hash, or [`NONE`].
    #[inline]
    pub(crate) fn get(&self, hash: u64) -> u32 {
        self.places[self.place(hash)].1
    }

    /// A lookup of this hash is about to come: the memory that it needs is read, and nobody waits for it. Many of these one
    /// after the other cost little more than one.
    #[inline]
    pub(crate) fn expect(&self, hash: u64) {
        std::hint::black_box(self.places[self.home(hash)].1);
    }

    /// Sets the number of this hash, unless it has one; returns the one that it has then.
    #[inline]
    pub(crate) fn get_or_insert(&mut self, hash: u64, number: u32) -> u32 {
        let at = self.place(hash);
        if self.places[at].1 != NONE {
            return self.places[at].1;
        }
        self.places[at] = (hash, number);
        self.len += 1;
        if self.len * 2 > self.places.len() {
            self.grow();
        }
        number
    }

    /// Sets the number of a hash that has one.
    #[inline]
    pub(crate) fn replace(&mut self, hash: u64, number: u32) {
        let at = self.place(hash);
        self.places[at].1 = number;
    }

    /// Removes a hash that has a number; those behind it move up, so that no lookup stops before them.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u64) {
        let mask = self.places.len() - 1;
        let mut gap = self.place(hash);
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let (other, number) = self.places[at];
            if number == NONE {
                break;
            }
            // It may move to the gap unless that lies before its home.
            if at.wrapping_sub(self.home(other)) & mask >= at.wrapping_sub(gap) & mask {
                self.places[gap] = (other, number);
                gap = at;
            }
        }
        self.places[gap].1 = NONE;
        self.len -= 1;
    }

    #[cold]
    fn grow(&mut self) {
        let size = self.places.len() * 2;
        let old = std::mem::replace(&mut self.places, vec![(0, NONE); size]);
        self.shift -= 1;
        for (hash, number) in old.into_iter().filter(|(_, number)| *number != NONE) {
            let at = self.place(hash);
            self.places[at] = (hash, number);
        }
    }
}

/// Puts something into a list of things that are known by their place: into the last one that became vacant, or at the end.
/// `vacant` is that place, where there is one; `next` says of what was there which one became vacant before it.
#[inline]
pub(crate) fn put<T>(list: &mut Vec<T>, vacant: &mut u32, next: impl Fn(&T) -> u32, thing: T) -> u32 {
    if *vacant == NONE {
        list.push(thing);
        let place = list.len() - 1;
        assert!(place < u32::MAX as usize, "more things than can be numbered");
        return place as u32;
    }
    let place = *vacant;
    let at = &mut list[place as usize];
    *vacant = next(at);
    *at = thing;
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{below, stream};

    #[test]
    fn table_equals_a_map() {
        // Hashes that differ in their low bits, in their high ones, in few, in all.
        let families: [fn(u64) -> u64; 4] = [|x| x, |x| x << 48, |x| x * 512, crate::rng::mix64];
        for (family, hash) in families.into_iter().enumerate() {
            let mut rng = stream(family as u64, "kv/table");
            let (mut table, mut map) = (Table::new(), std::collections::BTreeMap::new());
            for round in 0..20_000_u32 {
                let key = hash(below(&mut rng, 600));
                match below(&mut rng, 3) {
                    0 => assert_eq!(table.get_or_insert(key, round + 1), *map.entry(key).or_insert(round + 1)),
                    1 if map.contains_key(&key) => {
                        table.remove(key);
                        map.remove(&key);
                    }
                    2 if map.contains_key(&key) => {
                        table.replace(key, round + 1);
                        map.insert(key, round + 1);
                    }
                    _ => {}
                }
                let other = hash(below(&mut rng, 600));
                assert_eq!(table.get(other), map.get(&other).copied().unwrap_or(NONE), "{family} {round}");
                assert_eq!(table.len, map.len());
            }
            assert!(map.len() > 200 && table.places.len() < 4 * 600, "{} of {}", map.len(), table.places.len());
        }
    }
}
