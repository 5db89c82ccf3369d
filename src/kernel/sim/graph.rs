//! Which requests wait for which, how long after, and which belong to one conversation.
//!
//! Static: what has been sent and what is done is the engine's ([`flow`](super::flow)).

use super::SimError;
use crate::request::Requests;
use crate::rng;
use crate::scenario::{Load, Sessions};
use crate::units::{SimDuration, SimTime};

/// See the head of the file. Requests are named by their place in the order of the trace.
#[derive(Debug)]
pub(super) struct Graph {
    /// Requests that a request waits for.
    pub parents: Vec<u32>,
    /// Those that wait for request `i`: `children[offsets[i]..offsets[i + 1]]`, in order.
    children: Vec<u32>,
    offsets: Vec<u32>,
    /// From the end of the last request that it waits for, or that a user waits before the conversation it begins.
    pub think: Vec<SimDuration>,
    pub users: Option<Users>,
}

/// Conversations for virtual users.
#[derive(Debug)]
pub(super) struct Users {
    /// When each user begins its first conversation.
    pub starts: Vec<SimTime>,
    /// Conversation of a request; they are in the order of their first requests.
    pub conversation: Vec<u32>,
    /// Requests of a conversation, in order: `members[offsets[c]..offsets[c + 1]]`.
    members: Vec<u32>,
    offsets: Vec<u32>,
}

impl Users {
    pub(super) fn conversations(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn members(&self, conversation: usize) -> &[u32] {
        &self.members[self.offsets[conversation] as usize..self.offsets[conversation + 1] as usize]
    }
}

impl Graph {
    /// `nth[place]` is the request at a place of the trace. `None` where every request is sent at a time of its own.
    ///
    /// # Errors
    /// Requests that wait for each other in a circle.
    pub(super) fn new(load: &Load, requests: &Requests, nth: &[u32], seed: u64) -> Result<Option<Graph>, SimError> {
        let closed = load.sessions == Sessions::Closed || load.concurrency.is_some();
        let chained = closed && requests.session.iter().any(Option::is_some);
        if !chained && requests.depends_on.is_empty() && load.concurrency.is_none() {
            return Ok(None);
        }
        let before = predecessors(requests, nth, closed);
        let mut edges = edges(requests, nth, &before);
        edges.sort_unstable();
        edges.dedup();
        let (offsets, children) = compressed(&edges, nth.len());
        let mut parents = vec![0; nth.len()];
        edges.iter().for_each(|(_, child)| parents[*child as usize] += 1);
        let think = thinks(load, requests, nth, &before, seed);
        let users = load.concurrency.map(|users| conversations(load, requests, nth, &edges, users));
        let graph = Graph { parents, children, offsets, think, users };
        graph.check(nth)?;
        Ok(Some(graph))
    }

    /// The requests that wait for this one.
    pub(super) fn children(&self, place: u32) -> &[u32] {
        &self.children[self.offsets[place as usize] as usize..self.offsets[place as usize + 1] as usize]
    }

    /// Takes away what waits for nobody, again and again: what is left is in a circle, or behind one.
    fn check(&self, nth: &[u32]) -> Result<(), SimError> {
        let mut left = self.parents.clone();
        let mut free: Vec<u32> = (0..left.len() as u32).filter(|place| left[*place as usize] == 0).collect();
        let mut sent = 0;
        while let Some(place) = free.pop() {
            sent += 1;
            for child in self.children(place) {
                left[*child as usize] -= 1;
                if left[*child as usize] == 0 {
                    free.push(*child);
                }
            }
        }
        if sent == left.len() {
            return Ok(());
        }
        let circle: Vec<String> = self.circle(&left).iter().map(|place| nth[*place as usize].to_string()).collect();
        let message = format!("requests wait for each other in a circle: {}", circle.join(" -> "));
        Err(SimError::Invalid { path: "workload".into(), message })
    }

    /// One circle among the requests of which some parents are `left`, from its lowest request back to it.
    fn circle(&self, left: &[u32]) -> Vec<u32> {
        // Each of them waits for another one of them: walking back must come round.
        let mut parent = vec![u32::MAX; left.len()];
        for place in (0..left.len() as u32).filter(|place| left[*place as usize] > 0) {
            for child in self.children(place) {
                parent[*child as usize] = parent[*child as usize].min(place);
            }
        }
        let Some(start) = left.iter().position(|l| *l > 0) else { return Vec::new() };
        let mut at = start as u32;
        for _ in 0..left.len() {
            at = parent[at as usize];
        }
        let mut circle = vec![at];
        let mut next = parent[at as usize];
        while next != at {
            circle.push(next);
            next = parent[next as usize];
        }
        circle.reverse();
        let lowest = (0..circle.len()).min_by_key(|i| circle[*i]).unwrap_or(0);
        circle.rotate_left(lowest);
        circle.push(circle[0]);
        circle
    }
}

/// The place before each in its session, where sessions are closed and nobody in it names others.
fn predecessors(requests: &Requests, nth: &[u32], closed: bool) -> Vec<Option<u32>> {
    let mut before = vec![None; nth.len()];
    if !closed {
        return before;
    }
    let sessions = requests.session.iter().flatten().max().map_or(0, |max| *max as usize + 1);
    let session = |request: u32| requests.session.get(request as usize).copied().flatten();
    let mut ordered = vec![false; sessions];
    for request in nth.iter().filter(|request| !requests.waits_for(**request as usize).is_empty()) {
        session(*request).into_iter().for_each(|session| ordered[session as usize] = true);
    }
    let mut last: Vec<Option<u32>> = vec![None; sessions];
    for (place, request) in (0..).zip(nth) {
        if let Some(session) = session(*request).filter(|session| !ordered[*session as usize]) {
            before[place as usize] = last[session as usize].replace(place);
        }
    }
    before
}

/// (parent, child). What is not simulated is not waited for.
fn edges(requests: &Requests, nth: &[u32], before: &[Option<u32>]) -> Vec<(u32, u32)> {
    let mut place_of = vec![u32::MAX; requests.len()];
    (0..).zip(nth).for_each(|(place, request)| place_of[*request as usize] = place);
    let mut edges = Vec::new();
    for (place, request) in (0..).zip(nth) {
        let named = requests.waits_for(*request as usize).iter().map(|parent| place_of[*parent as usize]);
        let known = named.filter(|parent| *parent != u32::MAX).chain(before[place as usize]);
        edges.extend(known.map(|parent| (parent, place)));
    }
    edges
}

/// Second members by the first, as offsets and values.
fn compressed(sorted: &[(u32, u32)], count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut offsets = vec![0; count + 1];
    sorted.iter().for_each(|(from, _)| offsets[*from as usize + 1] += 1);
    for i in 0..count {
        offsets[i + 1] += offsets[i];
    }
    (offsets, sorted.iter().map(|(_, to)| *to).collect())
}

fn thinks(load: &Load, requests: &Requests, nth: &[u32], before: &[Option<u32>], seed: u64) -> Vec<SimDuration> {
    let mut stream = rng::stream(seed, "workload/think");
    let arrival = |place: u32| requests.arrival[nth[place as usize] as usize];
    let mut think = |place: u32| {
        let drawn = load.think_time.map(|t| SimDuration::from_s(t.sample(&mut stream)));
        let own = requests.think.get(nth[place as usize] as usize).copied().flatten();
        let traced = before[place as usize].map(|previous| arrival(place) - arrival(previous));
        own.or(drawn).or(traced).unwrap_or(SimDuration::ZERO).max(SimDuration::ZERO)
    };
    (0..nth.len() as u32).map(&mut think).collect()
}

fn conversations(load: &Load, requests: &Requests, nth: &[u32], edges: &[(u32, u32)], users: u32) -> Users {
    let mut same = Union::new(nth.len());
    edges.iter().for_each(|(a, b)| same.join(*a, *b));
    let sessions = requests.session.iter().flatten().max().map_or(0, |max| *max as usize + 1);
    let mut last: Vec<Option<u32>> = vec![None; sessions];
    for (place, request) in (0..).zip(nth) {
        if let Some(session) = requests.session.get(*request as usize).copied().flatten()
            && let Some(previous) = last[session as usize].replace(place)
        {
            same.join(previous, place);
        }
    }
    let mut number = vec![u32::MAX; nth.len()];
    let mut count = 0;
    let mut conversation = Vec::with_capacity(nth.len());
    for place in 0..nth.len() as u32 {
        let root = same.root(place) as usize;
        if number[root] == u32::MAX {
            number[root] = count;
            count += 1;
        }
        conversation.push(number[root]);
    }
    let mut sorted: Vec<(u32, u32)> = conversation.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let (offsets, members) = compressed(&sorted, count as usize);
    let mean_ns = load.think_time.map_or(0.0, |t| t.mean_s() * 1e9);
    let start = |user: u32| SimTime((f64::from(user) * mean_ns / f64::from(users) + 0.5) as i64);
    let starts = (0..users.min(count)).map(start).collect();
    Users { starts, conversation, members, offsets }
}

/// Sets of places that belong together.
struct Union(Vec<u32>);

impl Union {
    fn new(count: usize) -> Union {
        Union((0..count as u32).collect())
    }

    fn root(&mut self, mut place: u32) -> u32 {
        while self.0[place as usize] != place {
            let above = self.0[self.0[place as usize] as usize];
            self.0[place as usize] = above;
            place = above;
        }
        place
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{ConstantTime, ThinkTime};

    /// (arrival, session, waits for)
    fn requests(asked: &[(i64, Option<u32>, &[u32])]) -> Requests {
        let mut r = Requests { depends_on_offsets: vec![0], ..Requests::default() };
        for (at, session, waits) in asked {
            r.arrival.push(SimTime(*at));
            r.session.push(*session);
            r.depends_on.extend_from_slice(waits);
            r.depends_on_offsets.push(r.depends_on.len() as u64);
            r.input_tokens.push(1);
            r.output_tokens.push(1);
        }
        r
    }

    fn graph(load: &Load, r: &Requests) -> Graph {
        let nth: Vec<u32> = (0..r.len() as u32).collect();
        Graph::new(load, r, &nth, 1).unwrap().unwrap()
    }

    #[test]
    fn turns_follow_each_other_and_chains_say_so_themselves() {
        let r = requests(&[
            (0, Some(7), &[]),
            (5, Some(7), &[]),
            (6, Some(2), &[]),
            (7, Some(2), &[0, 2]),
            (8, Some(2), &[]),
            (9, None, &[2]),
        ]);
        let closed = graph(&Load { sessions: Sessions::Closed, ..Load::default() }, &r);
        assert_eq!(closed.parents, [0, 1, 0, 2, 0, 1]);
        assert_eq!((closed.children(0), closed.children(2)), ([1, 3].as_slice(), [3, 5].as_slice()));
        // A turn keeps its distance in the trace; what names its predecessors itself has none.
        assert_eq!(closed.think.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 5, 0, 0, 0, 0]);
        let open = graph(&Load::default(), &r);
        assert_eq!(open.parents, [0, 0, 0, 2, 0, 1]);
    }

    #[test]
    fn a_think_time_is_its_own_before_it_is_drawn() {
        let mut r = requests(&[(0, Some(0), &[]), (5, Some(0), &[]), (9, Some(0), &[])]);
        r.think = vec![None, Some(SimDuration(3)), None];
        let think_time = Some(ThinkTime::Constant(ConstantTime { s: 1e-6 }));
        let g = graph(&Load { sessions: Sessions::Closed, think_time, ..Load::default() }, &r);
        assert_eq!(g.think.iter().map(|t| t.0).collect::<Vec<_>>(), [1_000, 3, 1_000]);
    }

    #[test]
    fn conversations_are_what_belongs_together() {
        let r = requests(&[(0, None, &[]), (1, Some(0), &[]), (2, Some(1), &[]), (3, Some(0), &[]), (4, None, &[2])]);
        let load = Load {
            concurrency: Some(3),
            think_time: Some(ThinkTime::Constant(ConstantTime { s: 3e-9 })),
            ..Load::default()
        };
        let users = graph(&load, &r).users.unwrap();
        assert_eq!(users.conversation, [0, 1, 2, 1, 2]);
        assert_eq!(
            (users.conversations(), users.members(1), users.members(2)),
            (3, [1, 3].as_slice(), [2, 4].as_slice())
        );
        assert_eq!(users.starts, [SimTime(0), SimTime(1), SimTime(2)]);
    }

    #[test]
    fn circles_are_found_and_named() {
        let r = requests(&[(0, None, &[]), (1, None, &[3]), (2, None, &[1, 0]), (3, None, &[2]), (4, None, &[3])]);
        let nth: Vec<u32> = (0..5).collect();
        let e = Graph::new(&Load::default(), &r, &nth, 1).unwrap_err();
        assert!(e.to_string().contains("1 -> 2 -> 3 -> 1"), "{e}");
    }
}
