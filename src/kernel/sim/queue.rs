//! The queue of waiting requests, in any [`QueueOrder`].
//!
//! Holds slots (places in its owner's table of live requests), not requests: a slot may belong to another request as
//! soon as it has left the queue. First come, first served is a ring buffer: what leaves from its middle stays behind
//! as an entry that its slot no longer knows, and is skipped when it comes to the front. The other orders are a map by
//! key. Neither is ever searched. With fair sharing the key begins with the tenant, and counters say whose part of the map
//! the head is in: as many are looked at as tenants wait.

use std::collections::{BTreeMap, VecDeque};

use super::fair::Fair;
use super::load::Demand;
use super::scheduler::QueueOrder;
use crate::units::{SimDuration, SimTime};

/// Dead entries of a line are kept until there are so many of them, and as many as live ones.
const DEAD_MAX: usize = 64;
/// No entry of a line has this number.
const NOWHERE: i64 = i64::MIN;

/// What a request is ordered by: rank, then arrival, then number, of itself and of its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Priority value, prompt length, deadline or latest start in nanoseconds, tenant; 0 for first come, first served.
    pub rank: i64,
    pub arrival: SimTime,
    pub request: u32,
    pub sample: u32,
}

/// See the head of the file.
pub(super) struct Queue {
    order: QueueOrder,
    /// Empty in the other orders.
    line: Line,
    /// Empty for first come, first served.
    sorted: BTreeMap<Key, u32>,
    /// Counts nothing in the other orders.
    fair: Fair,
}

impl Queue {
    pub(super) fn new(order: QueueOrder) -> Queue {
        Queue { order, line: Line::default(), sorted: BTreeMap::new(), fair: Fair::default() }
    }

    /// Whether a request that enters may become the first.
    pub(super) fn is_ordered(&self) -> bool {
        self.order != QueueOrder::Fcfs
    }

    /// The counters of the tenants, where they say who is first.
    #[inline]
    pub(super) fn fair(&mut self) -> Option<&mut Fair> {
        (self.order == QueueOrder::Fair).then_some(&mut self.fair)
    }

    /// The key of a sample of a request with so many tokens of prompt here, which are estimated to take so long: the same for as
    /// long as it lives.
    pub(super) fn key(
        &self,
        demand: &Demand<'_>,
        (request, sample): (u32, u32),
        prompt: u32,
        work: SimDuration,
    ) -> Key {
        let rank = match self.order {
            QueueOrder::Fcfs => 0,
            QueueOrder::Priority => i64::from(demand.priority(request)),
            QueueOrder::Sjf => i64::from(prompt),
            QueueOrder::Edf => demand.deadline(request).0,
            QueueOrder::LeastSlack => match demand.deadline(request) {
                SimTime::MAX => i64::MAX,
                deadline => deadline.0.saturating_sub(work.0),
            },
            QueueOrder::Fair => demand.tenant(request),
        };
        Key { rank, arrival: demand.arrival(request), request, sample }
    }

    /// At the end, or at its ordered place.
    pub(super) fn push(&mut self, slot: u32, key: Key) {
        match self.order {
            QueueOrder::Fcfs => self.line.push_back(slot),
            QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack => self.insert(slot, key),
            QueueOrder::Fair => {
                self.fair.enter(key.rank);
                self.insert(slot, key);
            }
        }
    }

    /// What was preempted: at the head, or at its ordered place.
    pub(super) fn push_front(&mut self, slot: u32, key: Key) {
        match self.order {
            QueueOrder::Fcfs => self.line.push_front(slot),
            QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack => self.insert(slot, key),
            QueueOrder::Fair => {
                self.fair.enter_again(key.rank);
                self.insert(slot, key);
            }
        }
    }

    fn insert(&mut self, slot: u32, key: Key) {
        let other = self.sorted.insert(key, slot);
        assert!(other.is_none(), "request {} is in the queue twice", key.request);
    }

    #[inline]
    pub(super) fn front(&self) -> Option<u32> {
        match self.order {
            QueueOrder::Fcfs => self.line.slots.front().copied(),
            QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack => {
                self.sorted.first_key_value().map(|(_, s)| *s)
            }
            QueueOrder::Fair => self.fairest().map(|(_, slot)| slot),
        }
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<u32> {
        match self.order {
            QueueOrder::Fcfs => self.line.pop_front(),
            QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack => {
                self.sorted.pop_first().map(|(_, slot)| slot)
            }
            QueueOrder::Fair => {
                let (key, slot) = self.fairest()?;
                self.remove(slot, key);
                Some(slot)
            }
        }
    }

    /// Takes out a request wherever it stands; whether it was there. Give the slot and the key that it was pushed with.
    pub(super) fn remove(&mut self, slot: u32, key: Key) -> bool {
        match self.order {
            QueueOrder::Fcfs => self.line.remove(slot),
            QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack => {
                self.sorted.remove(&key).is_some()
            }
            QueueOrder::Fair => {
                let there = self.sorted.remove(&key).is_some();
                if there {
                    self.fair.leave(key.rank);
                }
                there
            }
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.line.slots.len() - self.line.dead + self.sorted.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        // The first entry of a line is alive.
        self.line.slots.is_empty() && self.sorted.is_empty()
    }

    /// First come, first served: from now on in this order, which must be of those that are in it.
    pub(super) fn arrange(&mut self, order: &[u32]) {
        assert!(self.order == QueueOrder::Fcfs && order.len() == self.len(), "a queue is arranged as a whole");
        self.line.slots = order.iter().copied().collect();
        self.line.dead = 0;
        for (number, slot) in (self.line.first..).zip(order) {
            self.line.numbers[*slot as usize] = number;
        }
    }

    /// In order, as it is if nobody is served.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut tenants: Vec<(i64, SimTime, u32, i64)> = match self.order {
            QueueOrder::Fair => self.fair.levels().filter_map(|(tenant, level)| self.placed(tenant, level)).collect(),
            QueueOrder::Fcfs | QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack => {
                Vec::new()
            }
        };
        tenants.sort_unstable();
        let sorted = if tenants.is_empty() { Some(self.sorted.values().copied()) } else { None };
        let of_tenants = tenants.into_iter().flat_map(|(.., tenant)| self.of(tenant).map(|(_, slot)| *slot));
        // Only one of the three has any.
        self.line.iter().chain(sorted.into_iter().flatten()).chain(of_tenants)
    }

    /// Steps of decode requests alone, after so many steps, for which the head that was found last is sure to stay it.
    pub(super) fn steady(&self, steps: u64) -> u64 {
        if self.order != QueueOrder::Fair || self.sorted.is_empty() {
            return u64::MAX;
        }
        let Some((head, _)) = self.fairest() else { return u64::MAX };
        self.fair.steady(head.rank, steps, |a, b| {
            let first = |tenant| self.of(tenant).next().map(|(key, _)| (key.arrival, key.request));
            first(a) < first(b)
        })
    }

    /// The requests of a tenant in the queue.
    fn of(&self, tenant: i64) -> impl Iterator<Item = (&Key, &u32)> {
        let low = Key { rank: tenant, arrival: SimTime(i64::MIN), request: 0, sample: 0 };
        let high = Key { rank: tenant, arrival: SimTime::MAX, request: u32::MAX, sample: u32::MAX };
        self.sorted.range(low..=high)
    }

    /// What a tenant with this counter is ordered by, and itself.
    fn placed(&self, tenant: i64, level: i64) -> Option<(i64, SimTime, u32, i64)> {
        self.of(tenant).next().map(|(key, _)| (level, key.arrival, key.request, tenant))
    }

    /// The first request of the tenant that goes first.
    fn fairest(&self) -> Option<(Key, u32)> {
        let first = self.fair.levels().filter_map(|(tenant, level)| self.placed(tenant, level)).min();
        first.and_then(|(.., tenant)| self.of(tenant).next().map(|(key, slot)| (*key, *slot)))
    }
}

/// First come, first served. The first entry, if any, is alive.
#[derive(Default)]
struct Line {
    slots: VecDeque<u32>,
    /// Number of the first entry; those behind it count up.
    first: i64,
    /// By slot: the number of its entry, or [`NOWHERE`]. An entry is alive while its slot says its number.
    numbers: Vec<i64>,
    dead: usize,
}

impl Line {
    fn push_back(&mut self, slot: u32) {
        let number = self.first + self.slots.len() as i64;
        self.slots.push_back(slot);
        self.enter(slot, number);
    }

    fn push_front(&mut self, slot: u32) {
        self.first -= 1;
        self.slots.push_front(slot);
        self.enter(slot, self.first);
    }

    fn enter(&mut self, slot: u32, number: i64) {
        let at = slot as usize;
        if at >= self.numbers.len() {
            self.numbers.resize(at + 1, NOWHERE);
        }
        assert!(self.numbers[at] == NOWHERE, "slot {slot} is in the queue twice");
        self.numbers[at] = number;
    }

    #[inline]
    fn pop_front(&mut self) -> Option<u32> {
        let slot = self.slots.pop_front()?;
        self.first += 1;
        self.numbers[slot as usize] = NOWHERE;
        if self.dead > 0 {
            self.skip_dead();
        }
        Some(slot)
    }

    fn remove(&mut self, slot: u32) -> bool {
        let Some(number) = self.numbers.get_mut(slot as usize).filter(|number| **number != NOWHERE) else {
            return false;
        };
        *number = NOWHERE;
        self.dead += 1;
        self.skip_dead();
        if self.dead >= DEAD_MAX && self.dead * 2 >= self.slots.len() {
            self.compact();
        }
        true
    }

    fn skip_dead(&mut self) {
        while let Some(slot) = self.slots.front()
            && self.numbers[*slot as usize] != self.first
        {
            self.slots.pop_front();
            self.first += 1;
            self.dead -= 1;
        }
    }

    /// Costs as much as the entries that died since the last time.
    fn compact(&mut self) {
        self.slots = self.iter().collect();
        self.dead = 0;
        for (number, slot) in (self.first..).zip(&self.slots) {
            self.numbers[*slot as usize] = number;
        }
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let alive = |(number, slot): &(i64, &u32)| self.numbers[**slot as usize] == *number;
        (self.first..).zip(&self.slots).filter(alive).map(|(_, slot)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Requests;
    use crate::rng;
    use crate::scenario::Load;

    /// Those that are told by their keys.
    const ORDERS: [QueueOrder; 5] =
        [QueueOrder::Fcfs, QueueOrder::Priority, QueueOrder::Sjf, QueueOrder::Edf, QueueOrder::LeastSlack];

    /// What `operations` random operations do to a queue and to a plain list of (key, slot). `leave` in ten go away,
    /// and a slot is used again at once.
    fn check(order: QueueOrder, seed: u64, operations: usize, leave: u64) {
        let mut random = rng::stream(seed, "queue");
        let mut below = |n: usize| rng::below(&mut random, n as u64) as usize;
        let (mut queue, mut plain) = (Queue::new(order), Vec::<(Key, u32)>::new());
        let (mut unused, mut slots) = (Vec::new(), 0);
        for request in 0..operations as u32 {
            let action = below(10) as u64;
            if action < leave && !plain.is_empty() {
                let (key, slot) = plain.remove(below(plain.len()));
                assert!(queue.remove(slot, key));
                assert!(!queue.remove(slot, key));
                unused.push(slot);
            } else if action < 5 {
                let slot = (!plain.is_empty()).then(|| plain.remove(0).1);
                assert_eq!(queue.pop_front(), slot);
                unused.extend(slot);
            } else {
                let slot = unused.pop().unwrap_or(slots);
                slots = slots.max(slot + 1);
                let rank = if order == QueueOrder::Fcfs { 0 } else { below(5) as i64 };
                let key = Key { rank, arrival: SimTime(below(3) as i64), request, sample: 0 };
                let front = action == 9;
                if front {
                    queue.push_front(slot, key)
                } else {
                    queue.push(slot, key)
                }
                plain.insert(if front { 0 } else { plain.len() }, (key, slot));
                if order != QueueOrder::Fcfs {
                    plain.sort_unstable();
                }
            }
            let first = plain.first().map(|(_, slot)| *slot);
            assert_eq!((queue.len(), queue.front(), queue.is_empty()), (plain.len(), first, plain.is_empty()));
            if request % 16 == 0 {
                assert!(queue.iter().eq(plain.iter().map(|(_, slot)| *slot)), "seed {seed} {order:?}");
            }
        }
    }

    #[test]
    fn equals_a_list() {
        for order in ORDERS {
            for seed in 0..20 {
                // Long queues that many leave from their middle, and short ones.
                check(order, seed, 3_000, 4);
                check(order, seed, 1_000, 1);
                check(order, seed, 1_000, 0);
            }
        }
    }

    #[test]
    fn what_leaves_the_middle_of_a_line_is_not_searched_nor_kept() {
        let mut queue = Queue::new(QueueOrder::Fcfs);
        let key = Key { rank: 0, arrival: SimTime::ZERO, request: 0, sample: 0 };
        let n = 200_000;
        (0..n).for_each(|slot| queue.push(slot, key));
        assert!((1..n - 1).rev().all(|slot| queue.remove(slot, key)));
        assert!(queue.line.slots.len() < 4 * DEAD_MAX, "{} entries for 2", queue.line.slots.len());
        assert_eq!(queue.iter().collect::<Vec<_>>(), [0, n - 1]);
    }

    #[test]
    fn ranks_are_what_the_orders_say() {
        let requests = Requests {
            arrival: vec![SimTime(7)],
            input_tokens: vec![30],
            output_tokens: vec![1],
            priority: vec![Some(-4)],
            ..Requests::default()
        };
        let load = Load { deadline_ms: Some(1.0), ..Load::default() };
        let late = [(load, [0, -4, 30, 1_000_007, 1_000_002]), (Load::default(), [0, -4, 30, i64::MAX, i64::MAX])];
        for (load, expect) in late {
            let demand = Demand::new(&load, &requests, 1).unwrap();
            let keys = ORDERS.map(|order| Queue::new(order).key(&demand, (0, 0), 30, SimDuration(5)));
            assert_eq!(keys.map(|key| key.rank), expect);
            assert!(keys.iter().all(|key| (key.arrival, key.request) == (SimTime(7), 0)));
        }
    }

    #[test]
    fn tenants_go_by_their_counters() {
        let mut queue = Queue::new(QueueOrder::Fair);
        let key = |tenant, request| Key { rank: tenant, arrival: SimTime(0), request, sample: 0 };
        for (slot, tenant) in [7, 7, 3, 3, -1].into_iter().enumerate() {
            queue.push(slot as u32, key(tenant, slot as u32));
        }
        let fair = queue.fair().unwrap();
        [(7, 5), (3, 4), (-1, 6)].into_iter().for_each(|(tenant, tokens)| fair.charge(tenant, tokens));
        assert_eq!(queue.iter().collect::<Vec<_>>(), [2, 3, 0, 1, 4]);
        // Equal counters: the lower number.
        queue.fair().unwrap().charge(3, 1);
        assert_eq!((queue.front(), queue.len()), (Some(0), 5));
        assert_eq!(queue.pop_front(), Some(0));
        // Two requests of the first tenant decode: by 4 a step it loses its lead of 6, and is even with the other after 1.5
        // steps; one of the other slows that down to 2 a step.
        queue.fair().unwrap().charge(7, -5);
        queue.fair().unwrap().decode(7, 2, 0);
        assert_eq!((queue.front(), queue.steady(0)), (Some(1), 2));
        queue.fair().unwrap().decode(3, 1, 0);
        queue.fair().unwrap().decode(-1, 1, 0);
        // After 2.5 steps; and where it comes out even, who has the lower number goes first: that is the leader.
        assert_eq!(queue.steady(0), 3);
        queue.fair().unwrap().charge(3, -1);
        assert_eq!(queue.steady(0), 3);
        // Who was the head when it was last looked for is not any more.
        assert_eq!(queue.steady(4), 0);
        queue.fair().unwrap().steps = 3;
        assert_eq!(queue.front(), Some(2));
        assert!(queue.remove(4, key(-1, 4)) && !queue.remove(4, key(-1, 4)));
    }
}
