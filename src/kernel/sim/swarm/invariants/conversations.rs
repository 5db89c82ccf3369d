//! Requests that wait for others are sent when those are done, and not otherwise.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checked, ensure};
use crate::scenario::{Arrivals, Sessions, ThinkTime};
use crate::sim::{RequestRow, Status};
use crate::units::SimDuration;

/// Whom a request waits for, and for how long after.
struct Waiting {
    parents: Vec<u32>,
    /// `None` where it is drawn.
    think: Option<i64>,
}

impl Checked<'_> {
    pub(super) fn conversations(&self) -> Result<(), String> {
        let load = &self.s.workload;
        let used = self.used();
        let rows: BTreeMap<u32, &RequestRow> = self.rows.requests.iter().map(|row| (row.request, row)).collect();
        let waits = self.waits(&used);
        let known_times = load.concurrency.is_none() && load.arrivals == Arrivals::Trace && load.rate_rps.is_none();
        let mut never_sent = 0;
        for request in &used {
            let waiting = &waits[request];
            let Some(row) = rows.get(request) else {
                let at = self.requests.arrival[*request as usize].0;
                let sent = known_times && waiting.parents.is_empty() && self.horizon().is_some_and(|h| at < h);
                ensure(self.horizon().is_some() && !sent, || format!("request {request} has no row"))?;
                continue;
            };
            never_sent += u64::from(self.follows(row, waiting, &rows)?);
        }
        let known = self.rows.requests.iter().all(|row| waits.contains_key(&row.request));
        ensure(known, || "a request is beyond the last one".to_string())?;
        ensure(never_sent == self.summary.never_sent, || {
            format!("{never_sent} requests were never sent, not {}", self.summary.never_sent)
        })?;
        match load.concurrency {
            Some(users) => self.users(users, &used, &waits, &rows),
            None => Ok(()),
        }
    }

    /// In the order of the trace.
    fn used(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.requests.len() as u32).collect();
        order.sort_by_key(|i| (self.requests.arrival[*i as usize], *i));
        order.truncate(self.s.workload.max_requests.map_or(order.len(), |max| max as usize));
        order
    }

    /// A turn waits for the one before it, unless one of its session names others; nobody waits for what is left out.
    fn waits(&self, used: &[u32]) -> BTreeMap<u32, Waiting> {
        let (r, load) = (self.requests, &self.s.workload);
        let closed = load.sessions == Sessions::Closed || load.concurrency.is_some();
        let session = |i: u32| r.session.get(i as usize).copied().flatten();
        let names = |i: &&u32| !r.waits_for(**i as usize).is_empty();
        let named_in: BTreeSet<u32> = used.iter().filter(names).filter_map(|i| session(*i)).collect();
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        let mut waits = BTreeMap::new();
        for request in used {
            let i = *request as usize;
            let before = session(*request).filter(|of| closed && !named_in.contains(of));
            let before = before.and_then(|of| last.insert(of, *request));
            let parents: Vec<u32> = r.waits_for(i).iter().copied().filter(|p| used.contains(p)).chain(before).collect();
            let traced = before.map_or(0, |p| (r.arrival[i] - r.arrival[p as usize]).0);
            let think = match (r.think.get(i).copied().flatten(), load.think_time) {
                (Some(own), _) => Some(own.0),
                (None, Some(ThinkTime::Constant(t))) => Some(SimDuration::from_s(t.s).0),
                (None, Some(ThinkTime::Uniform(_) | ThinkTime::Exponential(_) | ThinkTime::Lognormal(_))) => None,
                (None, None) => Some(traced),
            };
            waits.insert(*request, Waiting { parents, think });
        }
        waits
    }

    /// Whether a request was never sent, as one that it waits for failed; else it came a think time after the last of them.
    fn follows(&self, row: &RequestRow, waiting: &Waiting, rows: &BTreeMap<u32, &RequestRow>) -> Result<bool, String> {
        let failed = |request: &u32| rows.get(request).is_some_and(|row| failed(row));
        if waiting.parents.iter().any(failed) {
            ensure(never_sent(row), || format!("what it waits for failed, and yet there is {row:?}"))?;
            return Ok(true);
        }
        let mut done = None;
        for parent in &waiting.parents {
            let parent = rows.get(parent).filter(|parent| parent.status.served());
            let end = parent.and_then(|parent| self.left(parent));
            done =
                done.max(Some(end.ok_or_else(|| format!("what it waits for is not done, and yet there is {row:?}"))?));
        }
        let Some(done) = done else { return Ok(false) };
        let right = match waiting.think {
            Some(think) => row.arrival.0 == done + think,
            None => row.arrival.0 >= done,
        };
        ensure(right, || format!("all was done at {done} ns, then {:?}, and yet there is {row:?}", waiting.think))?;
        Ok(false)
    }

    /// At most so many conversations are in the system: what hangs together by sessions and by waiting is one.
    fn users(
        &self,
        users: u32,
        used: &[u32],
        waits: &BTreeMap<u32, Waiting>,
        rows: &BTreeMap<u32, &RequestRow>,
    ) -> Result<(), String> {
        let mut same: BTreeMap<u32, u32> = used.iter().map(|i| (*i, *i)).collect();
        let mut join = |a: u32, b: u32| {
            let (a, b) = (same[&a], same[&b]);
            same.values_mut().filter(|of| **of == a).for_each(|of| *of = b);
        };
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        for request in used {
            waits[request].parents.iter().for_each(|parent| join(*parent, *request));
            if let Some(session) = self.requests.session.get(*request as usize).copied().flatten()
                && let Some(before) = last.insert(session, *request)
            {
                join(before, *request);
            }
        }
        // From the arrival of a request to the last that the engines tell of it.
        let span = |row: &&&RequestRow| {
            let times = [row.queued, row.scheduled, row.prefilled, row.kv_ready];
            let last = times.iter().flatten().max().map_or(row.arrival.0, |t| t.0);
            (same[&row.request], row.arrival.0, self.left(row).unwrap_or(last))
        };
        let sent = rows.values().filter(|row| !never_sent(row));
        let spans: Vec<(u32, i64, i64)> = sent.map(|row| span(&row)).collect();
        for (_, at, _) in &spans {
            let here = spans.iter().filter(|(_, from, until)| from <= at && at < until).map(|(of, _, _)| *of);
            let conversations = here.collect::<BTreeSet<u32>>().len();
            ensure(conversations <= users as usize, || format!("{conversations} conversations at {at} ns"))?;
        }
        Ok(())
    }
}

fn failed(row: &RequestRow) -> bool {
    match row.status {
        Status::Rejected | Status::TimedOut | Status::Cancelled => true,
        Status::Finished | Status::LengthCapped | Status::InFlight => false,
    }
}

/// Nothing is known of a request that was never sent; a client that went before the queue leaves no more.
fn never_sent(row: &RequestRow) -> bool {
    let times = [row.encoded, row.queued, row.scheduled, row.prefilled, row.kv_ready, row.first_token, row.finished];
    row.status == Status::Cancelled && row.output_tokens == 0 && times.iter().all(Option::is_none)
}
