//! What must hold of any result, whichever simulator it is from: told from the rows, not from how they came about.

use super::Rows;
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::sim::scheduler::{Scheduler, VllmV1};
use crate::sim::{Quirks, RequestRow, Status, StepRow, Summary, latency};
use crate::units::SimTime;

struct Checked<'a> {
    s: &'a Scenario,
    requests: &'a Requests,
    quirks: Quirks,
    rows: &'a Rows,
    summary: &'a Summary,
    /// From the end of the last step of a request until its client has all.
    after_ns: i64,
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
    let model = latency::build(&s.deployment, &s.model, &s.gpu);
    let after_ns = [model.after_token(), model.after_request()].iter().map(|d| d.0 / quantum * quantum).sum();
    let checked = Checked { s, requests, quirks, rows, summary, after_ns };
    checked.conservation()?;
    for row in &rows.requests {
        checked.request(row).map_err(|e| format!("{e}: {row:?}"))?;
    }
    checked.gaps()?;
    checked.steps()?;
    checked.work()?;
    checked.computed_tokens()?;
    checked.integrals()?;
    for replica in 0..s.deployment.replicas {
        checked.never_idle(replica)?;
    }
    Ok(())
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Checked<'_> {
    fn rules(&self) -> Option<&VllmV1> {
        match &self.s.deployment.scheduler {
            Scheduler::VllmV1(rules) => Some(rules),
            Scheduler::Exclusive(_) => None,
        }
    }

    fn asynchronous(&self) -> bool {
        self.rules().is_some_and(|rules| rules.async_scheduling)
    }

    fn horizon(&self) -> Option<i64> {
        self.s.workload.horizon_s.map(|s| crate::units::SimDuration::from_s(s).0)
    }

    fn sum(&self, of: impl Fn(&RequestRow) -> u64) -> u64 {
        self.rows.requests.iter().map(of).sum()
    }

    /// When the engine was done with a request that was served or is in flight.
    fn left(&self, row: &RequestRow) -> Option<i64> {
        match row.status {
            Status::Finished | Status::LengthCapped => row.finished.map(|t| t.0 - self.after_ns),
            Status::InFlight => self.horizon(),
            Status::Rejected | Status::TimedOut | Status::Cancelled => None,
        }
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
        let served: Vec<_> = rows.iter().filter_map(|row| row.finished.map(|t| (t, row.replica))).collect();
        ensure(served.is_sorted(), || "served requests do not come in the order of their ends".to_string())
    }

    /// Times in order, present as far as the request came, and what it got is what it asked for.
    fn request(&self, row: &RequestRow) -> Result<(), String> {
        let times = [Some(row.arrival), row.queued, row.scheduled, row.first_token, row.finished];
        let known = times.iter().take_while(|t| t.is_some()).count();
        let all_known = if row.status.served() { known == 5 } else { known < 5 };
        ensure(all_known && times[known..].iter().all(Option::is_none), || "times are missing".to_string())?;
        ensure(times[..known].is_sorted(), || "times are out of order".to_string())?;
        let wanted = self.requests.output_tokens[row.request as usize];
        let tokens = row.output_tokens;
        let right = match row.status {
            Status::Finished => tokens == wanted,
            Status::LengthCapped => (1..wanted).contains(&tokens),
            Status::Rejected => tokens == 0 && known == 1 && row.preemptions == 0,
            // The last token of a request that ends with its client has come out: it is served.
            Status::TimedOut | Status::Cancelled | Status::InFlight => tokens < wanted,
        };
        ensure(right, || format!("{tokens} of {wanted} tokens"))?;
        ensure(row.first_token.is_some() == (tokens > 0), || "a first token without tokens".to_string())?;
        ensure(row.cached_tokens <= row.input_tokens, || "more found than asked".to_string())?;
        ensure((row.preempted.0 > 0) == (row.preemptions > 0), || "a loss without a preemption".to_string())?;
        if let (Some(left), Some(scheduled)) = (self.left(row), row.scheduled) {
            ensure(row.preempted.0 <= left - scheduled.0, || "more time lost than spent".to_string())?;
        }
        let Some(itl) = row.itl else { return ensure(tokens < 2, || "no gaps".to_string()) };
        ensure(tokens >= 2 && itl.p99 <= itl.max && itl.max <= itl.sum, || "impossible gaps".to_string())?;
        if let (Some(first), Some(finished)) = (row.first_token, row.finished) {
            let between = (finished - first).0;
            ensure(between >= itl.sum.0, || "gaps beyond the last token".to_string())?;
        }
        Ok(())
    }

    /// One gap less than a request has tokens, and they last from its first to its last.
    fn gaps(&self) -> Result<(), String> {
        let gaps = &self.summary.itl;
        let count: u64 = gaps.iter().map(|(_, n)| n).sum();
        let time: i128 = gaps.iter().map(|(gap, n)| i128::from(gap.0) * i128::from(*n)).sum();
        let expect_count = self.sum(|row| u64::from(row.output_tokens.saturating_sub(1)));
        let itls = self.rows.requests.iter().filter_map(|row| row.itl);
        let expect_time: i128 = itls.clone().map(|itl| i128::from(itl.sum.0)).sum();
        // What was lost with the tokens of a request that started again counts too.
        let lost = self.quirks.restart_from_prompt && self.summary.preemptions > 0;
        let adds_up = if lost {
            count >= expect_count && time >= expect_time
        } else {
            (count, time) == (expect_count, expect_time)
        };
        ensure(adds_up, || format!("{count} gaps of {time} ns, not {expect_count} of {expect_time}"))?;
        ensure(gaps.is_sorted_by(|a, b| a.0 < b.0) && gaps.iter().all(|(gap, n)| gap.0 > 0 && *n > 0), || {
            format!("impossible gaps {gaps:?}")
        })?;
        let longest = itls.map(|itl| itl.max).max().unwrap_or_default();
        ensure(gaps.last().map_or(0, |(gap, _)| gap.0) >= longest.0, || "a gap is missing".to_string())
    }

    /// Steps take time, follow each other, keep to the limits, and add up.
    fn steps(&self) -> Result<(), String> {
        let (steps, s) = (&self.rows.steps, self.summary);
        let quantum = self.s.deployment.tick.map_or(1, |t| t.duration().0);
        let Some(rules) = self.rules() else { return Ok(()) };
        for row in steps {
            let tokens = u64::from(row.decode_requests) + u64::from(row.prefill_tokens);
            let possible = row.duration.0 >= quantum
                && row.duration.0 % quantum == 0
                && row.kv_blocks_used <= s.kv_blocks_max
                && u64::from(row.running) <= s.running_max
                && u64::from(row.waiting) <= s.waiting_max
                && tokens <= u64::from(rules.max_num_batched_tokens)
                && self.horizon().is_none_or(|horizon| end(row).0 <= horizon);
            ensure(possible, || format!("impossible {row:?}"))?;
        }
        ensure(steps.is_sorted_by_key(|row| (end(row), row.replica)), || "steps are out of order".to_string())?;
        for replica in 0..self.s.deployment.replicas {
            let own: Vec<&StepRow> = steps.iter().filter(|row| row.replica == replica).collect();
            let apart = own.windows(2).all(|w| end(w[0]) <= w[1].start);
            ensure(apart, || format!("steps of replica {replica} overlap"))?;
        }
        let busy: i64 = steps.iter().map(|row| row.duration.0).sum();
        ensure(busy == s.busy.0 && steps.len() as u64 == s.steps, || format!("steps do not add up to {s:?}"))?;
        let limits = s.kv_blocks_max <= s.kv_blocks_total && s.running_max <= u64::from(rules.max_num_seqs);
        ensure(limits, || format!("beyond its limits: {s:?}"))?;
        let preempted: u64 = steps.iter().map(|row| u64::from(row.preempted)).sum();
        let all_told = !self.asynchronous() && s.in_flight == 0;
        ensure(preempted == s.preemptions || (!all_told && preempted < s.preemptions), || {
            format!("steps preempted {preempted}, not {}", s.preemptions)
        })
    }

    /// The sums over batches are those of the rows.
    fn work(&self) -> Result<(), String> {
        let (steps, work) = (&self.rows.steps, &self.summary.work);
        let decodes: u64 = steps.iter().map(|row| u64::from(row.decode_requests)).sum();
        let prefill: u64 = steps.iter().map(|row| u64::from(row.prefill_tokens)).sum();
        let context: u128 = steps.iter().map(|row| u128::from(row.context_tokens)).sum();
        let sums = (work.decode_requests, work.prefill_tokens, work.decode_context + work.prefill_context);
        ensure(sums == (decodes, prefill, context), || format!("{decodes} {prefill} {context} is not {work:?}"))?;
        let tokens = |row: &StepRow| (row.decode_requests + row.prefill_tokens) as usize;
        let mut by_tokens = vec![0_u64; steps.iter().map(|row| tokens(row) + 1).max().unwrap_or(0)];
        steps.iter().for_each(|row| by_tokens[tokens(row)] += 1);
        ensure(by_tokens == work.steps_by_tokens, || format!("{by_tokens:?} is not {:?}", work.steps_by_tokens))
    }

    /// Every token of prompt and output is computed once, but the last, and again as often as it was lost. Only what
    /// nobody else could have computed can be told from rows.
    fn computed_tokens(&self) -> Result<(), String> {
        let s = self.summary;
        // Tokens that a preempted request generates again are not counted as computed again.
        let lost = self.quirks.restart_from_prompt && s.preemptions > 0;
        if lost || self.asynchronous() || s.timed_out + s.cancelled + s.in_flight > 0 {
            return Ok(());
        }
        let served = self.rows.requests.iter().filter(|row| row.status.served());
        let of =
            |r: &RequestRow| u64::from(r.input_tokens + r.output_tokens + r.recomputed_tokens - r.cached_tokens) - 1;
        let expect: u64 = served.map(of).sum();
        let computed = s.work.decode_requests + s.work.prefill_tokens;
        // What was lost may be found again, and more than that if another request went on with it.
        let exact = s.preemptions == 0 || self.requests.block_tokens == 0;
        let full_hits = self.rules().is_some_and(|rules| !rules.recompute_full_hits) && s.prefix_tokens_hit > 0;
        ensure(computed == expect || (!exact && computed <= expect) || full_hits, || {
            format!("{computed} tokens were computed, not {expect}")
        })
    }

    /// Requests are somewhere from the queue to their end; blocks are in use while steps run.
    fn integrals(&self) -> Result<(), String> {
        let (rows, s) = (&self.rows.requests, self.summary);
        let here = rows.iter().filter(|row| row.queued.is_some());
        let mut expect = 0_i128;
        let mut known = true;
        for row in here {
            match (row.queued, self.left(row)) {
                (Some(queued), Some(left)) => expect += i128::from(left - queued.0),
                (_, None) | (None, _) => known = false,
            }
        }
        let total = s.running_ns + s.waiting_ns;
        ensure(total == expect || (!known && total > expect), || format!("{total} request ns, not {expect}"))?;
        if known && s.preemptions == 0 {
            let until = |row: &RequestRow| row.scheduled.map(|t| t.0).or(self.left(row));
            let waited = rows.iter().filter_map(|row| Some(i128::from(until(row)? - row.queued?.0)));
            let waited: i128 = waited.sum();
            ensure(s.waiting_ns == waited, || format!("{} ns waited, not {waited}", s.waiting_ns))?;
        }
        let over_steps = |of: fn(&StepRow) -> u64| -> i128 {
            self.rows.steps.iter().map(|row| i128::from(of(row)) * i128::from(row.duration.0)).sum()
        };
        let (blocks, running) = (over_steps(|row| row.kv_blocks_used), over_steps(|row| u64::from(row.running)));
        let exact = (s.kv_block_ns, s.running_ns) == (blocks, running);
        let cut = s.in_flight > 0 && s.kv_block_ns >= blocks && s.running_ns >= running;
        ensure(exact || cut || self.asynchronous(), || format!("steps have {blocks} and {running}: {s:?}"))
    }

    /// A step runs whenever a request is in the queue or runs.
    fn never_idle(&self, replica: u32) -> Result<(), String> {
        let steps: Vec<&StepRow> = self.rows.steps.iter().filter(|row| row.replica == replica).collect();
        let last = steps.last().map_or(SimTime::ZERO, |row| end(row));
        // The step that the horizon cut has no row.
        let cut = self.horizon().is_some();
        for row in self.rows.requests.iter().filter(|row| row.replica == replica) {
            let Some(queued) = row.queued else { continue };
            // Of a request whose client went is only known that it was here for a moment.
            let left = self.left(row).map_or(SimTime(queued.0 + 1), SimTime);
            let first = steps.partition_point(|step| end(step) <= queued);
            let mut covered = queued;
            for step in &steps[first..] {
                if step.start > covered || covered >= left {
                    break;
                }
                covered = end(step);
            }
            ensure(covered >= left || (cut && covered >= last), || {
                format!("replica {replica} rests at {covered:?} although there is {row:?}")
            })?;
        }
        Ok(())
    }
}

fn end(row: &StepRow) -> SimTime {
    row.start + row.duration
}
