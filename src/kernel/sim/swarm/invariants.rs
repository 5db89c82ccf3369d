//! What must hold of any result, whichever simulator it is from: told from the rows, not from how they came about.

mod cluster;
mod conversations;
mod engines;
mod tiers;

use super::Rows;
use crate::pools::{FirstToken, Site};
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::sim::scheduler::{Scheduler, VllmV1};
use crate::sim::{Quirks, RequestRow, Speculation, Status, Summary, lanes, latency};
use crate::units::SimTime;

struct Checked<'a> {
    s: &'a Scenario,
    requests: &'a Requests,
    quirks: Quirks,
    rows: &'a Rows,
    summary: &'a Summary,
    places: Vec<Place>,
}

/// A pool, and what lies between its steps and the clients.
struct Place {
    site: Site,
    /// From the end of a step until the client has its token, and what comes on top at the end of a request.
    after_token: i64,
    after_request: i64,
}

impl Place {
    fn rules(&self) -> Option<&VllmV1> {
        match &self.site.deployment.scheduler {
            Scheduler::VllmV1(rules) => Some(rules),
            _ => None,
        }
    }

    fn engines(&self) -> std::ops::Range<u32> {
        self.site.first..self.site.first + self.site.engines()
    }

    /// Requests may wait for tiers.
    fn fetches(&self) -> bool {
        !self.site.deployment.kv.tiers.is_empty()
    }

    /// Steps are formed while others run.
    fn asynchronous(&self) -> bool {
        self.rules().is_some_and(|rules| rules.async_scheduling) || self.batches() > 1
    }

    /// Batches in flight at most.
    fn batches(&self) -> usize {
        lanes::batches(&self.site.deployment, self.site.role) as usize
    }
}

/// # Errors
/// The first invariant that does not hold, with what contradicts it.
pub(super) fn check(
    s: &Scenario,
    requests: &Requests,
    quirks: Quirks,
    rows: &Rows,
    summary: &Summary,
) -> Result<(), String> {
    let quantum = s.deployment.tick.map_or(1, |t| t.duration().0);
    let place = |site: Site| {
        let model = latency::of(&site).expect("a model of the swarm");
        let [after_token, after_request] =
            [model.after_token(), model.after_request()].map(|d| d.0 / quantum * quantum);
        Place { site, after_token, after_request }
    };
    let checked = Checked { s, requests, quirks, rows, summary, places: s.sites().into_iter().map(place).collect() };
    checked.conservation()?;
    for row in &rows.requests {
        checked.request(row).map_err(|e| format!("{e}: {row:?}"))?;
    }
    checked.gaps()?;
    checked.drafts()?;
    checked.engines()?;
    checked.tiers()?;
    checked.cluster()?;
    checked.conversations()
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// What a request did in one pool: from the queue there to its end, where that is told.
struct Part {
    place: usize,
    from: i64,
    until: Option<i64>,
}

impl Checked<'_> {
    fn horizon(&self) -> Option<i64> {
        self.s.workload.horizon_s.map(|s| crate::units::SimDuration::from_s(s).0)
    }

    fn sum(&self, of: impl Fn(&RequestRow) -> u64) -> u64 {
        self.rows.requests.iter().map(of).sum()
    }

    /// A request that was preempted begins anew.
    fn restarts(&self) -> bool {
        let beams = |place: &Place| place.site.deployment.scheduler.beam_width().is_some_and(|width| width > 1);
        self.quirks.restart_from_prompt || self.places.iter().any(beams)
    }

    fn place_of(&self, replica: u32) -> usize {
        self.places.partition_point(|place| place.engines().end <= replica)
    }

    fn first_token(&self) -> FirstToken {
        self.s.deployment.disaggregation.first_token
    }

    /// Clients that went, and what is cut by the horizon: rows do not tell all of it.
    fn losses(&self) -> bool {
        let s = self.summary;
        s.timed_out + s.cancelled + s.in_flight > s.never_sent
    }

    /// When the engine was done with a request that was served or is in flight.
    fn left(&self, row: &RequestRow) -> Option<i64> {
        if let Some(over) = self.over_without_reply(row) {
            return Some(over.0);
        }
        let place = &self.places[self.place_of(row.replica)];
        match row.status {
            Status::Finished | Status::LengthCapped => {
                row.finished.map(|t| t.0 - place.after_token - place.after_request)
            }
            Status::InFlight => self.horizon(),
            Status::Rejected | Status::TimedOut | Status::Cancelled => None,
        }
    }

    /// When a request was over before the decode replica had anything to do: its prompt yields all there is.
    fn over_without_reply(&self, row: &RequestRow) -> Option<SimTime> {
        if row.prefill_replica.is_none() || !row.status.served() || row.output_tokens > 1 {
            return None;
        }
        match self.first_token() {
            FirstToken::Prefill | FirstToken::Transfer => row.prefilled,
            FirstToken::Decode => None,
        }
    }

    fn parts(&self, row: &RequestRow) -> Vec<Part> {
        let Some(queued) = row.queued else { return Vec::new() };
        let Some(prefill) = row.prefill_replica else {
            return vec![Part { place: self.place_of(row.replica), from: queued.0, until: self.left(row) }];
        };
        let until = row.prefilled.map(|t| t.0).or(self.left(row));
        let mut parts = vec![Part { place: self.place_of(prefill), from: queued.0, until }];
        if let Some(ready) = row.kv_ready {
            parts.push(Part { place: self.place_of(row.replica), from: ready.0, until: self.left(row) });
        }
        parts
    }

    /// No request is lost, none is told twice.
    fn conservation(&self) -> Result<(), String> {
        let (rows, s) = (&self.rows.requests, self.summary);
        let mut told: Vec<u32> = rows.iter().map(|row| row.request).collect();
        told.sort_unstable();
        told.dedup();
        ensure(told.len() as u64 == s.injected && rows.len() == told.len(), || {
            format!("{} of {} requests have a row, of {}", told.len(), s.injected, rows.len())
        })?;
        let counts = Status::ALL.map(|status| rows.iter().filter(|row| row.status == status).count() as u64);
        let totals = [s.finished, s.length_capped, s.rejected, s.timed_out, s.cancelled, s.in_flight];
        ensure(counts == totals, || format!("{counts:?} rows by status, and totals {totals:?}"))?;
        let sums = (self.sum(|r| u64::from(r.preemptions)), self.sum(|r| u64::from(r.recomputed_tokens)));
        ensure(sums == (s.preemptions, s.recomputed_tokens), || format!("rows have {sums:?}, totals {s:?}"))?;
        let first = rows.iter().position(|row| row.status == Status::InFlight).unwrap_or(rows.len());
        let last = &rows[first..];
        let in_order = last.is_sorted_by_key(|row| row.request) && last.len() as u64 == s.in_flight;
        ensure(in_order, || "requests in flight do not come last, by number".to_string())?;
        let served = rows.iter().filter(|row| row.status.served() && row.prefill_replica.is_none());
        let ends: Vec<_> = served.map(|row| (self.left(row), row.replica)).collect();
        ensure(ends.is_sorted(), || "served requests do not come in the order of their ends".to_string())
    }

    /// Times in order, present as far as the request came, and what it got is what it asked for.
    fn request(&self, row: &RequestRow) -> Result<(), String> {
        self.times(row)?;
        self.first_token_time(row)?;
        let wanted = self.requests.output_tokens[row.request as usize] * row.samples;
        let tokens = row.output_tokens;
        let right = match row.status {
            Status::Finished => tokens == wanted,
            Status::LengthCapped => (1..wanted).contains(&tokens) && tokens.is_multiple_of(row.samples),
            // Its encoder may have been preempted.
            Status::Rejected => tokens == 0 && row.queued.is_none() && (row.encoded.is_some() || row.preemptions == 0),
            // The last token of a request that ends with its client has come out: it is served.
            Status::TimedOut | Status::Cancelled | Status::InFlight => tokens < wanted,
        };
        ensure(right, || format!("{tokens} of {wanted} tokens"))?;
        ensure(row.first_token.is_some() == (tokens > 0), || "a first token without tokens".to_string())?;
        ensure(row.cached_tokens <= row.input_tokens, || "more found than asked".to_string())?;
        ensure((row.preempted.0 > 0) == (row.preemptions > 0), || "a loss without a preemption".to_string())?;
        ensure(row.prefill_preempted <= row.preempted, || {
            "more time lost before the first token than in all".to_string()
        })?;
        if let (Some(first), Some(since)) = (row.first_token, row.scheduled) {
            ensure(row.prefill_preempted <= first - since, || "more time lost than the prefill took".to_string())?;
        }
        // Of an encoder's part it is not told when it was scheduled.
        let since = if row.encoded.is_some() { Some(row.arrival) } else { row.scheduled };
        if let (Some(left), Some(since)) = (self.left(row), since) {
            ensure(row.preempted.0 <= left - since.0, || "more time lost than spent".to_string())?;
        }
        let again = row.prefill_replica.is_some() && self.first_token() == FirstToken::Decode;
        let known = row.preemptions == 0 && row.status.served() && !self.full_hits();
        ensure(!known || row.recomputed_tokens == u32::from(again), || "computed again for no reason".to_string())?;
        let Some(itl) = row.itl else { return ensure(tokens <= row.samples, || "no gaps".to_string()) };
        // Every sample has one gap less than tokens.
        let begun = u64::from(tokens) - itl.count;
        let each = (1..=u64::from(row.samples)).contains(&begun);
        ensure(each && tokens >= 2 && itl.p99 <= itl.max && itl.max <= itl.sum, || "impossible gaps".to_string())?;
        // Those of a request that started again are of its second life.
        if let (Some(first), Some(left)) = (self.first_out(row), row.finished.and(self.left(row)))
            && !self.restarts()
        {
            let between = left - first;
            // Samples begin and end at times of their own.
            let right =
                if row.samples == 1 { between == itl.sum.0 } else { between * i64::from(row.samples) >= itl.sum.0 };
            ensure(right, || format!("{between} ns from the first token to the last"))?;
        }
        Ok(())
    }

    fn times(&self, row: &RequestRow) -> Result<(), String> {
        let path = [row.queued, row.scheduled, row.prefilled, row.kv_ready];
        let known = path.iter().take_while(|t| t.is_some()).count();
        ensure(path[known..].iter().all(Option::is_none), || "times are missing".to_string())?;
        let before = [Some(row.arrival), row.encoded];
        let times: Vec<SimTime> = before.iter().chain(&path).flatten().copied().collect();
        ensure(times.is_sorted(), || "times are out of order".to_string())?;
        ensure(row.prefilled.is_none() || row.prefill_replica.is_some(), || "prefilled nowhere".to_string())?;
        let ends = [row.scheduled, row.first_token, row.finished];
        let known = ends.iter().take_while(|t| t.is_some()).count();
        let complete = (known == 3) == row.status.served() && ends[known..].iter().all(Option::is_none);
        ensure(complete, || "times are missing".to_string())?;
        // A pool's clients may have their first token later than another's have their last.
        let in_order = ends[..known].is_sorted() || row.prefill_replica.is_some();
        ensure(in_order, || "times are out of order".to_string())
    }

    /// The first token of a prompt that was computed elsewhere is there when the mode says.
    fn first_token_time(&self, row: &RequestRow) -> Result<(), String> {
        let Some(prefill) = row.prefill_replica else { return Ok(()) };
        let afters = [prefill, row.replica].map(|replica| self.places[self.place_of(replica)].after_token);
        let follows = |since: Option<SimTime>| match (since, row.first_token) {
            (None, None) => true,
            (Some(since), Some(first)) => afters.contains(&(first - since).0),
            (_, None) | (None, _) => false,
        };
        let right = match self.first_token() {
            FirstToken::Prefill => follows(row.prefilled),
            FirstToken::Transfer if self.over_without_reply(row).is_some() => follows(row.prefilled),
            FirstToken::Transfer => follows(row.kv_ready),
            FirstToken::Decode => row.first_token.is_none_or(|first| row.kv_ready.is_some_and(|ready| ready < first)),
        };
        ensure(right, || format!("the first token is not at the time of {:?}", self.first_token()))
    }

    /// When the engine handed out the first token.
    fn first_out(&self, row: &RequestRow) -> Option<i64> {
        let handed = || Some(row.first_token?.0 - self.places[self.place_of(row.replica)].after_token);
        match (row.prefill_replica, self.first_token()) {
            (Some(_), FirstToken::Prefill) => row.prefilled.map(|t| t.0),
            (Some(_), FirstToken::Transfer) => row.kv_ready.map(|t| t.0),
            (Some(_), FirstToken::Decode) | (None, _) => handed(),
        }
    }

    /// A prompt may be found whole, and then not even its last token is computed.
    fn full_hits(&self) -> bool {
        let found = |place: &Place| place.rules().is_some_and(|rules| !rules.recompute_full_hits);
        self.requests.block_tokens > 0 && self.places.iter().any(found)
    }

    /// Drafts are accepted from the first on; what comes out of them is theirs, and a token of the model for each.
    fn drafts(&self) -> Result<(), String> {
        let told = &self.summary.speculation;
        let Some(rules) = &self.s.deployment.speculative else {
            return ensure(*told == Speculation::default(), || format!("drafts out of nowhere: {told:?}"));
        };
        let most = told.drafts * u64::from(rules.longest());
        let by_position: u64 = told.accepted_by_position.iter().sum();
        let possible = (told.drafts..=most).contains(&told.draft_tokens)
            && told.accepted_tokens <= told.draft_tokens
            && by_position == told.accepted_tokens
            && told.accepted_by_position.is_sorted_by(|a, b| a >= b)
            && told.accepted_by_position.first().is_none_or(|first| *first <= told.drafts)
            && (told.drafts..=told.drafts + told.accepted_tokens).contains(&told.emitted_tokens)
            && told.emitted_tokens <= self.sum(|row| u64::from(row.output_tokens))
            && told.draft_ns >= 0;
        ensure(possible, || format!("impossible drafts: {told:?}"))?;
        let sum = self.summary.pools.iter().fold(Speculation::default(), |mut sum, pool| {
            sum.merge(&pool.speculation);
            sum
        });
        ensure(sum == *told, || format!("{sum:?} over pools, and {told:?}"))
    }

    /// One gap less than a request has tokens, and they last from its first to its last.
    fn gaps(&self) -> Result<(), String> {
        let gaps = &self.summary.itl;
        let count: u64 = gaps.iter().map(|(_, n)| n).sum();
        let time: i128 = gaps.iter().map(|(gap, n)| i128::from(gap.0) * i128::from(*n)).sum();
        let expect_count = self.sum(|row| row.itl.map_or(0, |itl| itl.count));
        let itls = self.rows.requests.iter().filter_map(|row| row.itl);
        let expect_time: i128 = itls.clone().map(|itl| i128::from(itl.sum.0)).sum();
        // What was lost with the tokens of a request that started again counts too.
        let lost = self.restarts() && self.summary.preemptions > 0;
        let adds_up = if lost {
            count >= expect_count && time >= expect_time
        } else {
            (count, time) == (expect_count, expect_time)
        };
        ensure(adds_up, || format!("{count} gaps of {time} ns, not {expect_count} of {expect_time}"))?;
        // Tokens of one step come out together.
        let shortest = i64::from(self.s.deployment.speculative.is_none());
        ensure(gaps.is_sorted_by(|a, b| a.0 < b.0) && gaps.iter().all(|(gap, n)| gap.0 >= shortest && *n > 0), || {
            format!("impossible gaps {gaps:?}")
        })?;
        let longest = itls.map(|itl| itl.max).max().unwrap_or_default();
        ensure(gaps.last().map_or(0, |(gap, _)| gap.0) >= longest.0, || "a gap is missing".to_string())
    }
}
