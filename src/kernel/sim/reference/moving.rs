//! Bytes on their way: transfers that share what they overlap on, each with an equal part at every moment.
//!
//! Whole numbers only: what is left is counted in thousandths of a byte, and goes down at every instant at which one of
//! those that share begins or ends to flow, and at no other.

use std::collections::{BTreeMap, BTreeSet};

use crate::pools::{Contention, Transfer};
use crate::units::{SimDuration, SimTime, Tick};

/// What is on its way: the KV cache of a prompt, or what an encoder made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    Cache,
    Embeddings,
}

struct Moving {
    life: usize,
    load: Load,
    /// What it shares.
    link: usize,
    /// When its bytes begin to flow.
    flows: SimTime,
    flowing: bool,
    /// Thousandths of a byte.
    left: u128,
}

/// See the head of the file.
pub(super) struct Roads {
    /// Bytes in a second.
    bandwidth: u128,
    latency: SimDuration,
    contention: Contention,
    quantum: i64,
    moving: Vec<Moving>,
    /// When something last began or ended to flow on a link.
    touched: BTreeMap<usize, SimTime>,
    /// Transfers that began.
    begun: usize,
    /// Transfers that shared, when they began.
    pub shared: u64,
}

impl Roads {
    pub(super) fn new(rules: Transfer, tick: Option<Tick>) -> Roads {
        Roads {
            bandwidth: (libm::floor(rules.bandwidth_gb_per_s * 1e9 + 0.5) as u128).max(1),
            latency: SimDuration::from_us(rules.latency_us),
            contention: rules.contention,
            quantum: tick.map_or(1, |tick| tick.duration().0),
            moving: Vec::new(),
            touched: BTreeMap::new(),
            begun: 0,
            shared: 0,
        }
    }

    /// A transfer of so many bytes, at least one, from an engine begins.
    pub(super) fn begin(&mut self, life: usize, load: Load, engine: usize, bytes: u128, now: SimTime) {
        let link = match self.contention {
            // A link of its own.
            Contention::None => self.begun,
            Contention::Link => engine,
            Contention::Fabric => 0,
        };
        self.begun += 1;
        let flows = self.whole_ticks(now + self.latency);
        self.moving.push(Moving { life, load, link, flows, flowing: false, left: bytes * 1_000 });
    }

    /// Bytes that the whole bandwidth carries in that time.
    pub(super) fn carries(&self, time: SimDuration) -> u128 {
        self.bandwidth * time.0 as u128 / 1_000_000_000
    }

    /// Rounded up.
    fn whole_ticks(&self, at: SimTime) -> SimTime {
        SimTime((at.0 + self.quantum - 1) / self.quantum * self.quantum)
    }

    fn sharing(&self, link: usize) -> u128 {
        self.moving.iter().filter(|m| m.flowing && m.link == link).count() as u128
    }

    /// When a transfer begins to flow, or ends if nothing begins or ends before.
    fn next_of(&self, m: &Moving) -> SimTime {
        if !m.flowing {
            return m.flows;
        }
        let ns = (m.left * self.sharing(m.link) * 1_000_000).div_ceil(self.bandwidth);
        self.whole_ticks(self.touched[&m.link] + SimDuration(ns as i64))
    }

    /// The next time at which a transfer begins or ends to flow.
    pub(super) fn next(&self) -> Option<SimTime> {
        self.moving.iter().map(|m| self.next_of(m)).min()
    }

    /// Lets bytes flow up to now; what has come.
    pub(super) fn arrived(&mut self, now: SimTime) -> Vec<(usize, Load)> {
        let touched: BTreeSet<usize> = self.moving.iter().filter(|m| self.next_of(m) <= now).map(|m| m.link).collect();
        for link in touched {
            let sharing = self.sharing(link);
            if sharing > 0 {
                let ns = (now - self.touched[&link]).0 as u128;
                let each = ns * self.bandwidth / (1_000_000 * sharing);
                let of_link = self.moving.iter_mut().filter(|m| m.flowing && m.link == link);
                of_link.for_each(|m| m.left = m.left.saturating_sub(each));
            }
            self.touched.insert(link, now);
        }
        let ended = self.moving.iter().filter(|m| m.left == 0).map(|m| (m.life, m.load)).collect();
        self.moving.retain(|m| m.left > 0);
        for at in 0..self.moving.len() {
            if !self.moving[at].flowing && self.moving[at].flows <= now {
                self.shared += u64::from(self.sharing(self.moving[at].link) > 0);
                self.moving[at].flowing = true;
            }
        }
        ended
    }

    /// KV caches that are on their way.
    pub(super) fn caches(&self) -> usize {
        self.moving.iter().filter(|m| m.load == Load::Cache).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(contention: Contention, latency_us: f64) -> Transfer {
        Transfer { bandwidth_gb_per_s: 1.0, latency_us, contention, layerwise: false }
    }

    /// (begins, engine, bytes) of transfers, and when each ends, in ns; returns how many shared.
    #[track_caller]
    fn check(rules: Transfer, tick: Option<&str>, asked: &[(i64, usize, u128)], expect: &[i64]) -> u64 {
        let mut roads = Roads::new(rules, tick.map(|tick| tick.parse().unwrap()));
        let mut ends = vec![0; asked.len()];
        let mut begun = vec![false; asked.len()];
        loop {
            let begins = (0..asked.len()).filter(|i| !begun[*i]).map(|i| SimTime(asked[i].0));
            let Some(now) = begins.chain(roads.next()).min() else { break };
            for (i, load) in roads.arrived(now) {
                assert_eq!(load, Load::Cache);
                ends[i] = now.0;
            }
            for i in 0..asked.len() {
                if !begun[i] && asked[i].0 == now.0 {
                    begun[i] = true;
                    roads.begin(i, Load::Cache, asked[i].1, asked[i].2, now);
                }
            }
        }
        assert_eq!(ends, expect);
        roads.shared
    }

    #[test]
    fn transfers_share_what_they_overlap_on() {
        let link = rules(Contention::Link, 0.0);
        // Alone, at a byte in a nanosecond.
        assert_eq!(check(link, None, &[(5, 0, 100)], &[105]), 0);
        // Latency first: bytes flow from 1,005.
        check(rules(Contention::Link, 1.0), None, &[(5, 0, 100)], &[1_105]);
        // The first has 60 left at 40; both at half speed until 160, when the second has 40 of its 100 left.
        let two = [(0, 0, 100), (40, 0, 100)];
        assert_eq!(check(link, None, &two, &[160, 200]), 1);
        // Two links, and none shared.
        assert_eq!(check(link, None, &[(0, 0, 100), (40, 1, 100)], &[100, 140]), 0);
        assert_eq!(check(rules(Contention::None, 0.0), None, &two, &[100, 140]), 0);
        // One fabric of two links.
        assert_eq!(check(rules(Contention::Fabric, 0.0), None, &[(0, 0, 100), (40, 1, 100)], &[160, 200]), 1);
    }

    #[test]
    fn thousandths_are_rounded_down_when_something_begins_or_ends() {
        let fabric = rules(Contention::Fabric, 0.0);
        // Three share from 0: 10 bytes each take 30 ns.
        check(fabric, None, &[(0, 0, 10), (0, 1, 10), (0, 2, 10)], &[30, 30, 30]);
        // At half speed until 10: 5 bytes left each. A third each until 13: 4 left; then halves: 8 ns more.
        check(fabric, None, &[(0, 0, 10), (0, 1, 10), (10, 2, 1)], &[21, 21, 13]);
        // Three until 1: 0.333 each, so the first has 0.667 left: two share from then on (the third is alone on the road
        // after them), but from 1 to 2 four do: 0.25 each. 0.417 and 0.25 of a byte: see the ends of those that are left.
        // 0: [1, 1, 9]; 1: [0.667, 0.667, 8.667] and 1 begins; with four 0.667 is over after ceil(2.668) = 3 ns, at 4, when
        // 0.75 are gone: 7.917 and 0.25 left; two share: 0.25 are over after 1 ns, at 5 (0.5 gone); 7.417 alone: 8 ns.
        check(fabric, None, &[(0, 0, 1), (0, 0, 1), (0, 0, 9), (1, 0, 1)], &[4, 4, 13, 5]);
    }

    #[test]
    fn instants_are_whole_ticks() {
        let link = rules(Contention::Link, 1.5);
        // Flows from 2 us on, and is over 0.1 us later.
        check(link, Some("1us"), &[(0, 0, 100)], &[3_000]);
        // The second begins to flow at 3 us, when all of the first has come.
        assert_eq!(check(link, Some("1us"), &[(0, 0, 100), (1_500, 0, 100)], &[3_000, 4_000]), 0);
    }

    #[test]
    fn bandwidth_is_whole_bytes_in_a_second() {
        let rules = Transfer { bandwidth_gb_per_s: 25.0, latency_us: 50.0, ..Transfer::default() };
        let mut roads = Roads::new(rules, None);
        roads.begin(3, Load::Embeddings, 0, 101, SimTime(7));
        assert_eq!((roads.next(), roads.caches()), (Some(SimTime(50_007)), 0));
        assert_eq!(roads.arrived(SimTime(50_007)), []);
        // 101 / 25 = 4.04.
        assert_eq!(roads.next(), Some(SimTime(50_012)));
        assert_eq!(roads.arrived(SimTime(50_012)), [(3, Load::Embeddings)]);
        assert_eq!((roads.next(), roads.carries(SimDuration(3))), (None, 75));
        // 1.5 bytes in a second are two.
        let slow = Transfer { bandwidth_gb_per_s: 1.5e-9, ..Transfer::default() };
        assert_eq!(Roads::new(slow, None).carries(SimDuration(1_000_000_000)), 2);
    }
}
