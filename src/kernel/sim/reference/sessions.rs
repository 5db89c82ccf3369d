//! Who waits for whom, and when what waited is sent: dependencies, the turns of closed sessions, and virtual users.
//!
//! The rules are those of [`crate::sim`], section Sessions. Requests are named by their places in the demand.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng;
use crate::scenario::{Load, Sessions};
use crate::sim::load::Demand;
use crate::units::{SimDuration, SimTime};

/// What the end of a request brings about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// Requests that are sent, and when.
    pub sent: Vec<(usize, SimTime)>,
    /// Requests that never will be.
    pub never: Vec<usize>,
}

/// See the head of the file.
pub(super) struct Conversations {
    /// Whom every request waits for.
    parents: Vec<BTreeSet<usize>>,
    think: Vec<SimDuration>,
    /// Those of virtual users, in order; empty where there are no users.
    conversations: Vec<BTreeSet<usize>>,
    /// When the users begin their first ones.
    starts: Vec<SimTime>,
    /// Conversations that have begun; and of them those that are over.
    begun: usize,
    over: BTreeSet<usize>,
    /// Requests that have ended, and when what follows from that comes about.
    ended: BTreeMap<usize, SimTime>,
}

impl Conversations {
    pub(super) fn new(load: &Load, demand: &Demand<'_>, seed: u64) -> Conversations {
        let requests = demand.requests;
        let count = demand.count();
        let place: BTreeMap<u32, usize> = (0..count).map(|place| (demand.nth(place), place)).collect();
        let closed = load.sessions == Sessions::Closed || load.concurrency.is_some();
        let session = |at: usize| requests.session.get(demand.nth(at) as usize).copied().flatten();
        let same = |a: usize, b: usize| session(a).is_some() && session(a) == session(b);
        let names = |at: usize| !requests.waits_for(demand.nth(at) as usize).is_empty();
        // A session of which one names others itself has an order of its own.
        let in_turn = |at: usize| closed && !(0..count).any(|other| same(other, at) && names(other));
        let before = |at: usize| (0..at).rev().find(|other| same(*other, at)).filter(|_| in_turn(at));
        let parents = |at: usize| {
            let named = requests.waits_for(demand.nth(at) as usize).iter();
            named.filter_map(|other| place.get(other).copied()).chain(before(at)).collect()
        };
        let parents: Vec<BTreeSet<usize>> = (0..count).map(parents).collect();
        let mut random = rng::stream(seed, "workload/think");
        let think = |at: usize| {
            let drawn = load.think_time.map(|time| SimDuration::from_s(time.sample(&mut random)));
            let own = requests.think.get(demand.nth(at) as usize).copied().flatten();
            let traced = |before: usize| {
                let [this, that] = [at, before].map(|place| requests.arrival[demand.nth(place) as usize]);
                this - that
            };
            let time = own.or(drawn).or_else(|| before(at).map(traced)).unwrap_or_default();
            SimDuration(time.0.max(0))
        };
        let think = (0..count).map(think).collect();
        let users = load.concurrency.unwrap_or(0);
        let mean_ns = load.think_time.map_or(0.0, |time| time.mean_s() * 1e9);
        let start = |user: u32| SimTime(libm::floor(f64::from(user) * mean_ns / f64::from(users) + 0.5) as i64);
        let conversations = match users {
            0 => Vec::new(),
            _ => conversations(count, |a, b| same(a, b) || parents[a].contains(&b) || parents[b].contains(&a)),
        };
        Conversations {
            parents,
            think,
            conversations,
            starts: (0..users).map(start).collect(),
            begun: 0,
            over: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    /// What is sent because the users begin.
    pub(super) fn begin(&mut self) -> Vec<(usize, SimTime)> {
        let starts = std::mem::take(&mut self.starts);
        starts.into_iter().flat_map(|start| self.next_conversation(start)).collect()
    }

    /// A request has ended, and what follows comes about at `at`.
    pub(super) fn ended(&mut self, place: usize, at: SimTime, served: bool) -> Consequences {
        self.ended.insert(place, at);
        let mut follows = Consequences::default();
        if served {
            follows.sent = self.children(place).into_iter().filter_map(|child| self.due(child)).collect();
        } else {
            let mut failed = vec![place];
            while let Some(cause) = failed.pop() {
                for child in self.children(cause) {
                    // It may have waited for two that failed.
                    if let std::collections::btree_map::Entry::Vacant(entry) = self.ended.entry(child) {
                        entry.insert(at);
                        follows.never.push(child);
                        failed.push(child);
                    }
                }
            }
        }
        for number in 0..self.begun {
            let ends: Option<Vec<SimTime>> =
                self.conversations[number].iter().map(|place| self.ended.get(place).copied()).collect();
            let Some(last) = ends.and_then(|ends| ends.into_iter().max()) else { continue };
            if self.over.insert(number) {
                let first = self.conversations.get(self.begun).and_then(|next| next.first());
                let think = first.map_or(SimDuration::ZERO, |first| self.think[*first]);
                follows.sent.extend(self.next_conversation(later(last, think)));
            }
        }
        follows
    }

    fn children(&self, place: usize) -> Vec<usize> {
        (0..self.parents.len()).filter(|child| self.parents[*child].contains(&place)).collect()
    }

    /// When a request is sent whose last parent may have ended.
    fn due(&self, place: usize) -> Option<(usize, SimTime)> {
        if self.ended.contains_key(&place) {
            return None;
        }
        let ends: Option<Vec<SimTime>> = self.parents[place].iter().map(|p| self.ended.get(p).copied()).collect();
        Some((place, later(ends?.into_iter().max()?, self.think[place])))
    }

    /// A user begins the next conversation: the requests of it that wait for nobody.
    fn next_conversation(&mut self, at: SimTime) -> Vec<(usize, SimTime)> {
        let Some(conversation) = self.conversations.get(self.begun) else { return Vec::new() };
        self.begun += 1;
        conversation.iter().filter(|place| self.parents[**place].is_empty()).map(|place| (*place, at)).collect()
    }

    /// Requests that wait for others, or for a user.
    pub(super) fn waits(&self, place: usize) -> bool {
        !self.parents[place].is_empty() || !self.conversations.is_empty()
    }
}

fn later(at: SimTime, by: SimDuration) -> SimTime {
    SimTime(at.0.saturating_add(by.0))
}

/// What belongs together, in the order of the first of each.
fn conversations(count: usize, together: impl Fn(usize, usize) -> bool) -> Vec<BTreeSet<usize>> {
    let mut all: Vec<BTreeSet<usize>> = Vec::new();
    for at in 0..count {
        let (joined, others) = all.into_iter().partition(|one| one.iter().any(|other| together(at, *other)));
        all = others;
        let joined: Vec<BTreeSet<usize>> = joined;
        all.push(joined.into_iter().flatten().chain([at]).collect());
    }
    all.sort_by_key(|one| one.first().copied());
    all
}
