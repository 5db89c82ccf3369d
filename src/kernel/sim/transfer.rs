//! Transfers between engines: bytes that share a bandwidth fairly for as long as they overlap.
//!
//! Exact integer arithmetic in thousandths of a byte, by the rules of [`super`]: all that flow over a link have had the
//! same since they overlap, so a link keeps one sum of what each of them has had, and a transfer is over when the sum has
//! grown by its size.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::pools::{Contention, Transfer};
use crate::units::{SimDuration, SimTime, Tick};

/// Thousandths of a byte.
type Milli = u128;

/// See the head of the file. A transfer is named by the place of its request.
pub(super) struct Links {
    bandwidth: u128,
    latency: SimDuration,
    contention: Contention,
    quantum_ns: i64,
    links: BTreeMap<u32, Link>,
    /// (next instant, link).
    due: BTreeSet<(SimTime, u32)>,
    /// Links of transfers that share nothing; they are used again.
    unused: Vec<u32>,
    next_link: u32,
}

#[derive(Default)]
struct Link {
    /// What each that flows has had since the link began to be used.
    had: Milli,
    /// Up to when.
    since: SimTime,
    /// Bytes that will flow from a time on: (time, place, size).
    coming: BinaryHeap<Reverse<(SimTime, u32, Milli)>>,
    /// (had when it is over, place).
    flowing: BinaryHeap<Reverse<(Milli, u32)>>,
    next: Option<SimTime>,
}

impl Links {
    pub(super) fn new(rules: &Transfer, tick: Option<Tick>) -> Links {
        let quantum_ns = tick.map_or(1, |t| t.duration().0);
        Links {
            bandwidth: ((rules.bandwidth_gb_per_s * 1e9 + 0.5) as u128).max(1),
            latency: SimDuration::from_us(rules.latency_us),
            contention: rules.contention,
            quantum_ns,
            links: BTreeMap::new(),
            due: BTreeSet::new(),
            unused: Vec::new(),
            next_link: 0,
        }
    }

    /// Whole bytes that a bandwidth without other users carries in a time.
    pub(super) fn carried(&self, time: SimDuration) -> u128 {
        time.0.max(0) as u128 * self.bandwidth / 1_000_000_000
    }

    /// So many bytes, at least one, are to go from an engine.
    pub(super) fn start(&mut self, now: SimTime, source: u32, place: u32, bytes: u128) {
        let link = match self.contention {
            Contention::Link => source,
            Contention::Fabric => 0,
            Contention::None => self.unused.pop().unwrap_or_else(|| {
                self.next_link += 1;
                self.next_link - 1
            }),
        };
        let at = up(now + self.latency, self.quantum_ns);
        let entry = self.links.entry(link).or_default();
        entry.coming.push(Reverse((at, place, bytes * 1000)));
        // What is due now is to be passed yet, and knows then what comes.
        if entry.next != Some(now) {
            self.settle(link, now, &mut Vec::new());
        }
    }

    /// The next instant at which something begins or ends to flow.
    pub(super) fn next(&self) -> Option<SimTime> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Lets bytes flow up to `now`, and adds the places of the transfers that are over to `done`.
    pub(super) fn pass(&mut self, now: SimTime, done: &mut Vec<u32>) {
        while let Some((_, link)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.settle(link, now, done);
        }
    }

    fn settle(&mut self, at: u32, now: SimTime, done: &mut Vec<u32>) {
        let Some(link) = self.links.get_mut(&at) else { return };
        if let Some(next) = link.next.take() {
            self.due.remove(&(next, at));
            if next > now {
                // Nothing changes yet but what is coming.
                link.reschedule(self.bandwidth, self.quantum_ns);
                self.due.extend(link.next.map(|next| (next, at)));
                return;
            }
        }
        link.change(now, self.bandwidth, done);
        link.reschedule(self.bandwidth, self.quantum_ns);
        if let Some(next) = link.next {
            self.due.insert((next, at));
        } else {
            self.links.remove(&at);
            if self.contention == Contention::None {
                self.unused.push(at);
            }
        }
    }
}

impl Link {
    /// An instant at which something begins or ends.
    fn change(&mut self, now: SimTime, bandwidth: u128, done: &mut Vec<u32>) {
        let flowing = self.flowing.len() as u128;
        if flowing > 0 {
            let ns = (now - self.since).0 as u128;
            self.had += ns * bandwidth / (1_000_000 * flowing);
        }
        self.since = now;
        while let Some(Reverse((_, place))) = self.flowing.peek().copied().filter(|Reverse((o, _))| *o <= self.had) {
            self.flowing.pop();
            done.push(place);
        }
        while let Some(Reverse((_, place, size))) = self.coming.peek().copied().filter(|Reverse((at, ..))| *at <= now) {
            self.coming.pop();
            self.flowing.push(Reverse((self.had + size, place)));
        }
    }

    fn reschedule(&mut self, bandwidth: u128, quantum_ns: i64) {
        let begins = self.coming.peek().map(|Reverse((at, ..))| *at);
        let ends = self.flowing.peek().map(|Reverse((over, _))| {
            let left = over - self.had;
            let ns = (left * self.flowing.len() as u128 * 1_000_000).div_ceil(bandwidth);
            let ns = i64::try_from(ns).unwrap_or(i64::MAX / 2);
            up(SimTime(self.since.0.saturating_add(ns)), quantum_ns)
        });
        self.next = begins.into_iter().chain(ends).min();
    }
}

/// Up to whole quanta.
fn up(at: SimTime, quantum_ns: i64) -> SimTime {
    SimTime(at.0.div_euclid(quantum_ns) * quantum_ns + if at.0.rem_euclid(quantum_ns) > 0 { quantum_ns } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(contention: Contention, latency_us: f64, tick: Option<&str>) -> Links {
        let rules = Transfer { bandwidth_gb_per_s: 1.0, latency_us, contention, layerwise: false };
        Links::new(&rules, tick.map(|t| t.parse().unwrap()))
    }

    /// (time, place) of everything that is over, in order.
    fn run(mut l: Links, starts: &[(i64, u32, u32, u128)]) -> Vec<(i64, u32)> {
        let mut over = Vec::new();
        let mut starts = starts.iter().peekable();
        loop {
            let next = l.next().into_iter().chain(starts.peek().map(|s| SimTime(s.0))).min();
            let Some(now) = next else { return over };
            let mut done = Vec::new();
            l.pass(now, &mut done);
            done.sort_unstable();
            over.extend(done.into_iter().map(|place| (now.0, place)));
            while let Some((_, source, place, bytes)) = starts.next_if(|s| s.0 == now.0) {
                l.start(now, *source, *place, *bytes);
            }
        }
    }

    #[test]
    fn transfers_share_while_they_overlap() {
        // One byte per ns. The first has 1000 of its 3000 alone; then both go at half speed: the second's 500 take 1000 ns,
        // the first has 1500 left at 2000, alone again.
        let starts = [(0, 0, 0, 3000), (1000, 0, 1, 500)];
        assert_eq!(run(links(Contention::Link, 0.0, None), &starts), [(2000, 1), (3500, 0)]);
        assert_eq!(run(links(Contention::Fabric, 0.0, None), &starts), [(2000, 1), (3500, 0)]);
        assert_eq!(run(links(Contention::None, 0.0, None), &starts), [(1500, 1), (3000, 0)]);
        let elsewhere = [(0, 0, 0, 3000), (1000, 7, 1, 500)];
        assert_eq!(run(links(Contention::Link, 0.0, None), &elsewhere), [(1500, 1), (3000, 0)]);
        assert_eq!(run(links(Contention::Fabric, 0.0, None), &elsewhere), [(2000, 1), (3500, 0)]);
    }

    #[test]
    fn latency_and_tick_come_on_top() {
        assert_eq!(run(links(Contention::Link, 1.0, None), &[(5, 0, 0, 100)]), [(1105, 0)]);
        // Flows from 2 us on, and is over at 2.1, rounded up.
        assert_eq!(run(links(Contention::Link, 1.5, Some("1us")), &[(0, 0, 0, 100)]), [(3000, 0)]);
    }

    #[test]
    fn thirds_are_rounded_down_and_never_lost() {
        // Three of 100 bytes: each has a third; the last byte is there after 300 ns.
        let starts = [(0, 0, 0, 100), (0, 0, 1, 100), (0, 0, 2, 101)];
        assert_eq!(run(links(Contention::Link, 0.0, None), &starts), [(300, 0), (300, 1), (301, 2)]);
    }
}
