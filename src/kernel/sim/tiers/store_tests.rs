//! The store of runs against a list of single blocks, in random sequences of operations.

use super::*;
use crate::rng;

/// (hash, block, readable, used), used the longest ago in front.
type Plain = Vec<(u64, u32, SimTime, SimTime)>;

/// `operations` random operations on few units, with a capacity that holds some of them.
fn check(seed: u64, capacity: u64, ttl: Option<i64>, pinned: bool) {
    let mut random = rng::stream(seed, "store");
    let mut below = |n: u64| rng::below(&mut random, n);
    let ttl = ttl.map(SimDuration);
    let (mut store, mut plain) = (Store::new(capacity, ttl, pinned), Plain::new());
    let (mut now, mut evicted, mut most) = (SimTime::ZERO, 0, 0);
    for _ in 0..2_000 {
        now = now + SimDuration(below(4) as i64);
        let (hash, lo) = (below(5), below(20) as u32);
        let hi = lo + 1 + below(12) as u32;
        let old = |used: SimTime, now: SimTime| ttl.is_some_and(|ttl| used + ttl <= now);
        let there = |plain: &Plain, block: u32| {
            plain.iter().any(|s| (s.0, s.1) == (hash, block) && s.2 <= now && !old(s.3, now))
        };
        let to = (lo..hi).find(|block| !there(&plain, *block)).unwrap_or(hi);
        assert_eq!(store.run(hash, lo, hi, now), to, "seed {seed}");
        if below(3) == 0 {
            store.touch(hash, lo, to, now);
            for block in (lo..to).rev() {
                let at = plain.iter().position(|s| (s.0, s.1) == (hash, block)).unwrap();
                let stored = plain.remove(at);
                plain.push((stored.0, stored.1, stored.2, now));
            }
            continue;
        }
        let stored = store.put(hash, lo, hi, now);
        let end = now + SimDuration(below(6) as i64);
        plain.retain(|s| !old(s.3, now));
        let mut expect = 0;
        let order: Vec<u32> = if pinned { (lo..hi).collect() } else { (lo..hi).rev().collect() };
        for block in order {
            let at = plain.iter().position(|s| (s.0, s.1) == (hash, block));
            let full = plain.len() as u64 == capacity;
            match at {
                Some(_) | None if pinned && (at.is_some() || full) => {}
                Some(at) => {
                    let stored = plain.remove(at);
                    plain.push((stored.0, stored.1, stored.2, now));
                }
                None => {
                    if full {
                        plain.remove(0);
                        evicted += 1;
                    }
                    plain.push((hash, block, end, now));
                    expect += 1;
                }
            }
            most = most.max(plain.len() as u64);
        }
        assert_eq!(stored, expect, "seed {seed}");
        if stored > 0 {
            store.written(end, now);
        }
        assert_eq!((store.used, store.most(), store.evicted()), (plain.len() as u64, most, evicted), "seed {seed}");
    }
}

#[test]
fn equals_a_list_of_blocks() {
    for seed in 0..40 {
        for capacity in [1, 7, 40, 1_000] {
            check(seed, capacity, None, false);
            check(seed, capacity, Some(25), false);
            check(seed, capacity, None, true);
        }
    }
}
