//! A tournament tree: the lowest of many values, one of which changes at a time.
//!
//! Promises: a change costs O(log n), usually less; how many values are the lowest, and which is the next higher one,
//! is at hand; the `n`th of the lowest is found in O(log n).

/// What a tree can order.
pub(super) trait Key: Copy + Ord {
    /// Above all values.
    const NONE: Self;
}

impl Key for u64 {
    const NONE: u64 = u64::MAX;
}

impl Key for u128 {
    const NONE: u128 = u128::MAX;
}

/// What is known of the values below.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Node<K> {
    lowest: K,
    /// The lowest of those that are higher.
    next: K,
    /// Values that are the lowest.
    count: u32,
}

impl<K: Key> Node<K> {
    #[inline]
    fn leaf(value: K) -> Node<K> {
        Node { lowest: value, next: K::NONE, count: 1 }
    }

    #[inline]
    fn join(left: Node<K>, right: Node<K>) -> Node<K> {
        let (low, high) = if right.lowest < left.lowest { (right, left) } else { (left, right) };
        if low.lowest == high.lowest {
            Node { lowest: low.lowest, next: low.next.min(high.next), count: low.count + high.count }
        } else {
            Node { lowest: low.lowest, next: low.next.min(high.lowest), count: low.count }
        }
    }
}

/// See the head of the file.
pub(super) struct Least<K> {
    /// Filled up with [`Key::NONE`] to a power of two.
    values: Vec<K>,
    /// Node `i` is above nodes `2i` and `2i + 1`, or above values `2i - n` and `2i + 1 - n`. Place 0 is not used.
    nodes: Vec<Node<K>>,
}

impl<K: Key> Least<K> {
    /// `n` equal values, at least one.
    pub(super) fn new(n: usize, value: K) -> Least<K> {
        assert!(n > 0, "the lowest of nothing");
        let places = n.next_power_of_two().max(2);
        let mut values = vec![value; n];
        values.resize(places, K::NONE);
        let mut least = Least { values, nodes: vec![Node::leaf(K::NONE); places] };
        for at in (1..places).rev() {
            least.nodes[at] = least.above(at);
        }
        least
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> K {
        self.values[at]
    }

    pub(super) fn set(&mut self, at: usize, value: K) {
        self.values[at] = value;
        let mut node = (at + self.values.len()) / 2;
        while node > 0 {
            let new = self.above(node);
            if self.nodes[node] == new {
                return;
            }
            self.nodes[node] = new;
            node /= 2;
        }
    }

    #[inline]
    pub(super) fn lowest(&self) -> K {
        self.nodes[1].lowest
    }

    /// How many values are the lowest.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.nodes[1].count as usize
    }

    /// The lowest of the values that are higher than the lowest; [`Key::NONE`], if there is none.
    #[inline]
    pub(super) fn next(&self) -> K {
        self.nodes[1].next
    }

    /// The places of all values up to `limit`, in order.
    pub(super) fn each_up_to(&self, limit: K, each: &mut impl FnMut(usize)) {
        self.below(1, limit, each);
    }

    fn below(&self, at: usize, limit: K, each: &mut impl FnMut(usize)) {
        let lowest = self.node(at).lowest;
        if lowest > limit || lowest == K::NONE {
            return;
        }
        match at.checked_sub(self.values.len()) {
            Some(place) => each(place),
            None => {
                self.below(2 * at, limit, each);
                self.below(2 * at + 1, limit, each);
            }
        }
    }

    /// The place of number `n` (from 0) of the values that are the lowest, in the order of their places.
    pub(super) fn nth(&self, mut n: usize) -> usize {
        let (lowest, places) = (self.lowest(), self.values.len());
        debug_assert!(n < self.count(), "number {n} of {}", self.count());
        let mut at = 1;
        while at < places {
            at *= 2;
            let left = self.node(at);
            let count = if left.lowest == lowest { left.count as usize } else { 0 };
            if n >= count {
                n -= count;
                at += 1;
            }
        }
        at - places
    }

    #[inline]
    fn above(&self, at: usize) -> Node<K> {
        Node::join(self.node(2 * at), self.node(2 * at + 1))
    }

    #[inline]
    fn node(&self, at: usize) -> Node<K> {
        match at.checked_sub(self.values.len()) {
            None => self.nodes[at],
            Some(value) => Node::leaf(self.values[value]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{below, stream};

    fn compare(least: &Least<u64>, values: &[u64], limit: u64) {
        let lowest = *values.iter().min().expect("a value");
        let places: Vec<usize> = (0..values.len()).filter(|at| values[*at] == lowest).collect();
        assert_eq!((least.lowest(), least.count()), (lowest, places.len()));
        assert_eq!((0..places.len()).map(|n| least.nth(n)).collect::<Vec<usize>>(), places);
        let next = values.iter().copied().filter(|value| *value > lowest).min();
        assert_eq!(least.next(), next.unwrap_or(u64::MAX));
        let mut seen = Vec::new();
        least.each_up_to(limit, &mut |at| seen.push(at));
        assert_eq!(seen, (0..values.len()).filter(|at| values[*at] <= limit).collect::<Vec<usize>>());
    }

    #[test]
    fn a_tree_equals_a_scan() {
        for n in (1..20).chain([31, 32, 33, 100]) {
            let mut rng = stream(n as u64, "router/least");
            let (mut least, mut values) = (Least::new(n, 3), vec![3; n]);
            compare(&least, &values, 3);
            let most = 1 + below(&mut rng, 12);
            for _ in 0..500 {
                let (at, value) = (below(&mut rng, n as u64) as usize, below(&mut rng, most));
                least.set(at, value);
                values[at] = value;
                assert_eq!(least.get(at), value);
                compare(&least, &values, below(&mut rng, most));
            }
        }
    }
}
