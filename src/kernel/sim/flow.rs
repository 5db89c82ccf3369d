//! What is sent when: requests at times of their own, those that wait for others, and those of virtual users.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Status;
use super::load::Demand;
use crate::units::{SimDuration, SimTime};

/// See the head of the file. Requests are named by their place in the order of the trace.
pub(super) struct Flow {
    /// The next that may have a time of its own.
    timed: usize,
    /// (time, place) of those that waited and will be sent.
    ready: BinaryHeap<Reverse<(SimTime, u32)>>,
    /// Requests that a request still waits for; [`NEVER`] once it is known never to be sent. Empty where nobody waits.
    left: Vec<u32>,
    /// Place by request, where requests wait and are not in the order of the trace.
    places: Vec<u32>,
    /// Requests of a conversation that have not ended.
    open: Vec<u32>,
    /// The next conversation that a user begins.
    next: usize,
}

fn later(at: SimTime, by: SimDuration) -> SimTime {
    SimTime(at.0.saturating_add(by.0))
}

const NEVER: u32 = u32::MAX;

impl Flow {
    pub(super) fn new(demand: &Demand<'_>) -> Flow {
        let mut flow = Flow {
            timed: 0,
            ready: BinaryHeap::new(),
            left: Vec::new(),
            places: Vec::new(),
            open: Vec::new(),
            next: 0,
        };
        let Some(graph) = &demand.graph else { return flow };
        flow.left.clone_from(&graph.parents);
        flow.places = vec![NEVER; demand.requests.len()];
        (0..demand.count()).for_each(|place| flow.places[demand.nth(place) as usize] = place as u32);
        if let Some(users) = &graph.users {
            flow.open = (0..users.conversations()).map(|c| users.members(c).len() as u32).collect();
            for start in &users.starts {
                flow.begin(*start, demand);
            }
        }
        flow
    }

    /// Whether what is sent depends on what becomes of other requests.
    pub(super) fn reacts(&self) -> bool {
        !self.left.is_empty()
    }

    /// When the next request is sent.
    pub(super) fn next(&mut self, demand: &Demand<'_>) -> Option<SimTime> {
        while self.timed < demand.count() && !demand.is_timed(self.timed) {
            self.timed += 1;
        }
        let timed = (self.timed < demand.count()).then(|| demand.arrival(demand.nth(self.timed)));
        let ready = self.ready.peek().map(|Reverse((at, _))| *at);
        timed.into_iter().chain(ready).min()
    }

    /// The place of the next request that is sent at this time, if it comes before another one.
    pub(super) fn take(&mut self, now: SimTime, before: u32, demand: &Demand<'_>) -> Option<u32> {
        if self.next(demand) != Some(now) {
            return None;
        }
        let waited = self.ready.peek().filter(|Reverse((at, _))| *at == now).map(|Reverse((_, place))| *place);
        let timed = self.timed < demand.count() && demand.arrival(demand.nth(self.timed)) == now;
        let place =
            waited.into_iter().chain(timed.then_some(self.timed as u32)).min().filter(|place| *place < before)?;
        if waited == Some(place) {
            self.ready.pop();
            demand.send(demand.nth(place as usize), now);
        } else {
            self.timed += 1;
        }
        Some(place)
    }

    /// A request has ended at `at`: what waited for it is sent a think time later, or never (its place
    /// is added to `never`).
    pub(super) fn end(&mut self, request: u32, status: Status, at: SimTime, demand: &Demand<'_>, never: &mut Vec<u32>) {
        let Some(graph) = &demand.graph else { return };
        let from = match status {
            Status::TimedOut | Status::Cancelled => later(at, SimDuration(1)),
            Status::Finished | Status::LengthCapped | Status::Rejected => at,
            Status::InFlight => return,
        };
        let place = self.places[request as usize];
        if status.served() {
            for child in graph.children(place) {
                let left = &mut self.left[*child as usize];
                if *left != NEVER {
                    *left -= 1;
                    if *left == 0 {
                        self.ready.push(Reverse((later(from, graph.think[*child as usize]), *child)));
                    }
                }
            }
            self.close(place, from, demand);
            return;
        }
        let mut failed = vec![place];
        while let Some(place) = failed.pop() {
            for child in graph.children(place) {
                if std::mem::replace(&mut self.left[*child as usize], NEVER) != NEVER {
                    demand.send(demand.nth(*child as usize), at);
                    never.push(*child);
                    failed.push(*child);
                }
            }
            self.close(place, from, demand);
        }
    }

    /// One request less of a conversation; after the last, its user begins the next.
    fn close(&mut self, place: u32, from: SimTime, demand: &Demand<'_>) {
        let Some(users) = demand.graph.as_ref().and_then(|g| g.users.as_ref()) else { return };
        let open = &mut self.open[users.conversation[place as usize] as usize];
        *open -= 1;
        if *open == 0 && self.next < users.conversations() {
            let first = users.members(self.next)[0];
            let think = demand.graph.as_ref().map_or(SimDuration::ZERO, |g| g.think[first as usize]);
            self.begin(later(from, think), demand);
        }
    }

    /// A user begins the next conversation.
    fn begin(&mut self, at: SimTime, demand: &Demand<'_>) {
        let Some((graph, users)) = demand.graph.as_ref().and_then(|g| Some((g, g.users.as_ref()?))) else { return };
        let free = users.members(self.next).iter().filter(|place| graph.parents[**place as usize] == 0);
        self.ready.extend(free.map(|place| Reverse((at, *place))));
        self.next += 1;
    }
}
