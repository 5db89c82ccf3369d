//! What steps and totals of the engines must have to do with each other, pool by pool.

use super::{Checked, Place, ensure};
use crate::pools::Role;
use crate::sim::beams;
use crate::sim::lora::Loading;
use crate::sim::scheduler::Scheduler;
use crate::sim::{RequestRow, StepRow, Summary, WorkSums};
use crate::units::SimTime;

impl Checked<'_> {
    pub(super) fn engines(&self) -> Result<(), String> {
        self.order()?;
        work("all", self.rows.steps.iter(), &self.summary.work)?;
        self.sums()?;
        for at in 0..self.places.len() {
            let name = &self.places[at].site.name;
            self.flights(at)
                .and_then(|()| self.steps(at))
                .and_then(|()| self.integrals(at))
                .map_err(|e| format!("pool {name}: {e}"))?;
        }
        self.computed_tokens()
    }

    /// The totals of a pool; those of all where there are no pools.
    fn totals(&self, at: usize) -> &Summary {
        if self.s.deployment.pools.is_empty() { self.summary } else { &self.summary.pools[at] }
    }

    fn steps_of(&self, at: usize) -> impl Iterator<Item = &StepRow> + Clone {
        let engines = self.places[at].engines();
        self.rows.steps.iter().filter(move |row| engines.contains(&row.replica))
    }

    fn order(&self) -> Result<(), String> {
        let (steps, s) = (&self.rows.steps, self.summary);
        ensure(steps.is_sorted_by_key(|row| (end(row), row.replica)), || "steps are out of order".to_string())?;
        let preempted: u64 = steps.iter().map(|row| u64::from(row.preempted)).sum();
        let all_told = !self.places.iter().any(Place::asynchronous) && s.in_flight == 0;
        ensure(preempted == s.preemptions || (!all_told && preempted < s.preemptions), || {
            format!("steps preempted {preempted}, not {}", s.preemptions)
        })
    }

    /// What all pools did is what each of them did.
    fn sums(&self) -> Result<(), String> {
        let (s, pools) = (self.summary, &self.summary.pools);
        if self.s.deployment.pools.is_empty() {
            return Ok(());
        }
        ensure(pools.len() == self.places.len(), || format!("{} pools", pools.len()))?;
        let counts: [fn(&Summary) -> i128; 10] = [
            |s| s.steps.into(),
            |s| s.busy.0.into(),
            |s| s.kv_block_ns,
            |s| s.running_ns,
            |s| s.waiting_ns,
            |s| s.prefix_tokens_hit.into(),
            |s| s.prefix_tokens_queried.into(),
            |s| s.prefix_blocks_hit.into(),
            |s| s.work.prefill_tokens.into(),
            |s| s.work.decode_requests.into(),
        ];
        for (at, of) in counts.iter().enumerate() {
            let (all, sum) = (of(s), pools.iter().map(of).sum::<i128>());
            ensure(all == sum, || format!("total {at} is {all}, but {sum} over pools"))?;
        }
        let peaks: [fn(&Summary) -> u64; 4] =
            [|s| s.kv_blocks_total, |s| s.kv_blocks_max, |s| s.running_max, |s| s.waiting_max];
        for (at, of) in peaks.iter().enumerate() {
            let (all, most) = (of(s), pools.iter().map(of).max().unwrap_or(0));
            ensure(all == most, || format!("peak {at} is {all}, but {most} over pools"))?;
        }
        Ok(())
    }

    /// Where several batches may be in flight: no more are, and they end in the order in which they were formed.
    fn flights(&self, at: usize) -> Result<(), String> {
        let place = &self.places[at];
        if place.batches() < 2 {
            return Ok(());
        }
        let mut busy = 0;
        for replica in place.engines() {
            let own: Vec<&StepRow> = self.steps_of(at).filter(|row| row.replica == replica).collect();
            let mut until = SimTime::ZERO;
            for (n, row) in own.iter().enumerate() {
                let ahead = own[..n].iter().filter(|other| end(other) > row.start).count();
                ensure(ahead < place.batches(), || format!("{ahead} batches are ahead of {row:?}"))?;
                ensure(n == 0 || own[n - 1].start <= row.start, || format!("{row:?} overtakes the one before"))?;
                ensure(end(row) > until, || format!("{row:?} ends before the one in front of it"))?;
                busy += (end(row) - row.start.max(until)).0;
                until = end(row);
            }
        }
        let s = self.totals(at);
        let count = self.steps_of(at).count() as u64;
        ensure(busy == s.busy.0 && count == s.steps, || format!("{count} batches, {busy} ns do not add up to {s:?}"))
    }

    /// Steps take time, follow each other, keep to the limits, and add up.
    fn steps(&self, at: usize) -> Result<(), String> {
        let (place, s) = (&self.places[at], self.totals(at));
        let quantum = self.s.deployment.tick.map_or(1, |t| t.duration().0);
        let Some(rules) = place.rules() else { return Ok(()) };
        for row in self.steps_of(at) {
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
        for replica in place.engines() {
            let own: Vec<&StepRow> = self.steps_of(at).filter(|row| row.replica == replica).collect();
            let apart = own.windows(2).all(|w| end(w[0]) <= w[1].start);
            ensure(apart || place.batches() > 1, || format!("steps of replica {replica} overlap"))?;
            match place.site.role {
                Role::Mixed => self.never_idle(replica, &own)?,
                Role::Prefill => self.prompts_run(replica, &own)?,
                // A request may wait there for blocks that are kept for others.
                Role::Encode | Role::Decode => {}
            }
        }
        let busy: i64 = self.steps_of(at).map(|row| row.duration.0).sum();
        let count = self.steps_of(at).count() as u64;
        let added = busy == s.busy.0 || place.batches() > 1;
        ensure(added && count == s.steps, || format!("steps do not add up to {s:?}"))?;
        let limits = s.kv_blocks_max <= s.kv_blocks_total && s.running_max <= u64::from(rules.max_num_seqs);
        ensure(limits, || format!("beyond its limits: {s:?}"))?;
        work("its own", self.steps_of(at), &s.work)
    }

    /// Every token of prompt and output is computed once, but the last, and again as often as it was lost. Only what
    /// nobody else could have computed can be told from rows.
    fn computed_tokens(&self) -> Result<(), String> {
        let s = self.summary;
        // Tokens that a preempted request generates again are not counted as computed again.
        let lost = self.restarts() && s.preemptions > 0;
        if lost || self.places.iter().any(Place::asynchronous) || self.losses() {
            return Ok(());
        }
        let rows = &self.rows.requests;
        // What tiers have of it after a preemption was computed before that.
        let fetched = |r: &RequestRow| if s.preemptions == 0 { r.fetched_tokens } else { 0 };
        let several = rows.iter().any(|row| row.samples > 1);
        let of = |r: &RequestRow| {
            let all = r.input_tokens * self.prompts_of(r) + r.output_tokens + r.recomputed_tokens;
            // Of several samples the hits are told together.
            let cached = if several { 0 } else { r.cached_tokens };
            // Of the beams that nobody is told of, all but the first token.
            let beams = beams::of_request(&self.s.workload, self.requests, r.request as usize);
            let silent = (beams - 1) * r.output_tokens.saturating_sub(1);
            u64::from(all - cached - fetched(r) + silent) - u64::from(r.samples)
        };
        let served: u64 = rows.iter().filter(|row| row.status.served()).map(of).sum();
        let served = served - if several { s.prefix_tokens_hit } else { 0 };
        // Those of a rejected request are lost.
        let tokens = |row: &RequestRow| self.requests.encoder_tokens.get(row.request as usize).copied().flatten();
        let again = |row: &RequestRow| if row.status.served() { 0 } else { row.recomputed_tokens };
        let encoded = rows.iter().filter(|row| row.encoded.is_some());
        let encoded: u64 = encoded.map(|row| u64::from(tokens(row).unwrap_or(0) + again(row))).sum();
        // Of what was drafted, tokens that did not come out are computed in vain.
        let drafts = &s.speculation;
        let in_vain = drafts.draft_tokens + drafts.drafts - drafts.emitted_tokens;
        let (computed, expect) = (s.work.decode_requests + s.work.prefill_tokens - in_vain, served + encoded);
        // What was lost may be found again, and more than that if another request went on with it.
        let exact = s.preemptions == 0 || (self.requests.block_tokens == 0 && !several);
        ensure(computed == expect || (!exact && computed <= expect) || self.full_hits(), || {
            format!("{computed} tokens were computed, not {expect}")
        })
    }

    /// How often the prompt of a request is computed, but for what is found of it.
    fn prompts_of(&self, row: &RequestRow) -> u32 {
        let scheduler = &self.places[self.place_of(row.replica)].site.deployment.scheduler;
        match scheduler {
            Scheduler::Sglang(_) if row.samples > 1 => row.samples + 1,
            Scheduler::VllmV0(_) => 1,
            _ => row.samples,
        }
    }

    /// Requests are somewhere from the queue to the end of their part; blocks are in use while steps run.
    fn integrals(&self, at: usize) -> Result<(), String> {
        let (s, role) = (self.totals(at), self.places[at].site.role);
        if role == Role::Encode {
            // When its part ended is not told.
            return Ok(());
        }
        let (mut expect, mut known) = (0_i128, true);
        for part in self.rows.requests.iter().flat_map(|row| self.parts(row)).filter(|part| part.place == at) {
            match part.until {
                Some(until) => expect += i128::from(until - part.from),
                None => known = false,
            }
        }
        // Samples leave at times of their own.
        let most = self.rows.requests.iter().map(|row| row.samples).max().unwrap_or(1);
        let total = s.running_ns + s.waiting_ns;
        let right = total == expect || (!known && total >= expect);
        let range = expect..=expect * i128::from(most);
        ensure(right || (most > 1 && known && range.contains(&total)), || format!("{total} request ns, not {expect}"))?;
        let first = match role {
            Role::Mixed | Role::Prefill => true,
            Role::Encode | Role::Decode => false,
        };
        if first && known && self.summary.preemptions == 0 && most == 1 {
            let waited = |row: &RequestRow| {
                let part = self.parts(row).into_iter().next().filter(|part| part.place == at)?;
                Some(i128::from(row.scheduled.map(|t| t.0).or(part.until)? - part.from))
            };
            let waited: i128 = self.rows.requests.iter().filter_map(waited).sum();
            ensure(s.waiting_ns == waited, || format!("{} ns waited, not {waited}", s.waiting_ns))?;
        }
        let over_steps = |of: fn(&StepRow) -> u64| -> i128 {
            self.steps_of(at).map(|row| i128::from(of(row)) * i128::from(row.duration.0)).sum()
        };
        let (blocks, running) = (over_steps(|row| row.kv_blocks_used), over_steps(|row| u64::from(row.running)));
        let exact = match role {
            // Blocks are also kept for what comes from tiers; where equal contents are kept once, some are free when it comes.
            Role::Mixed if self.places[at].fetches() => {
                let once = self.places[at].site.deployment.scheduler.common().is_some_and(|common| common.fills_late);
                (s.kv_block_ns >= blocks || once) && s.running_ns == running
            }
            Role::Mixed => (s.kv_block_ns, s.running_ns) == (blocks, running),
            // Blocks are also kept for transfers, and free when those end.
            Role::Prefill => s.running_ns == running,
            Role::Encode | Role::Decode => s.running_ns >= running,
        };
        let blocks_cut = role != Role::Mixed || s.kv_block_ns >= blocks;
        let cut = self.summary.in_flight > 0 && blocks_cut && s.running_ns >= running;
        ensure(exact || cut || self.places[at].asynchronous(), || format!("steps have {blocks} and {running}: {s:?}"))
    }

    /// A step runs whenever a request is in the queue or runs.
    fn never_idle(&self, replica: u32, steps: &[&StepRow]) -> Result<(), String> {
        // It may rest until an adapter comes.
        if self.s.deployment.lora.as_ref().is_some_and(|lora| lora.loading == Loading::Background) {
            return Ok(());
        }
        for row in self.rows.requests.iter().filter(|row| row.replica == replica) {
            let Some(queued) = row.queued else { continue };
            // Of a request whose client went is only known that it was here for a moment.
            let left = self.left(row).map_or(SimTime(queued.0 + 1), SimTime);
            // Where blocks may be on their way from tiers, it rests for those who wait for them.
            let fetches = self.places[self.place_of(replica)].fetches();
            let queued = match (fetches, row.scheduled) {
                (true, Some(scheduled)) if row.preemptions == 0 && row.finished.is_some() => scheduled,
                (true, _) => continue,
                (false, _) => queued,
            };
            ensure(self.covered(steps, queued, left), || format!("replica {replica} rests although there is {row:?}"))?;
        }
        Ok(())
    }

    /// A step runs as long as a prompt is computed.
    fn prompts_run(&self, replica: u32, steps: &[&StepRow]) -> Result<(), String> {
        for row in self.rows.requests.iter().filter(|row| row.prefill_replica == Some(replica) && row.preemptions == 0)
        {
            let (Some(scheduled), Some(prefilled)) = (row.scheduled, row.prefilled) else { continue };
            let covered = self.covered(steps, scheduled, prefilled);
            ensure(covered, || format!("replica {replica} rests although it computes {row:?}"))?;
        }
        Ok(())
    }

    fn covered(&self, steps: &[&StepRow], from: SimTime, until: SimTime) -> bool {
        let mut covered = from;
        for step in &steps[steps.partition_point(|step| end(step) <= from)..] {
            if step.start > covered || covered >= until {
                break;
            }
            covered = end(step);
        }
        // The step that the horizon cut has no row.
        let last = steps.last().map_or(SimTime::ZERO, |row| end(row));
        covered >= until || (self.horizon().is_some() && covered >= last)
    }
}

/// The sums over batches are those of the rows.
fn work<'a>(whose: &str, steps: impl Iterator<Item = &'a StepRow> + Clone, work: &WorkSums) -> Result<(), String> {
    let decodes: u64 = steps.clone().map(|row| u64::from(row.decode_requests)).sum();
    let prefill: u64 = steps.clone().map(|row| u64::from(row.prefill_tokens)).sum();
    let context: u128 = steps.clone().map(|row| u128::from(row.context_tokens)).sum();
    let sums = (work.decode_requests, work.prefill_tokens, work.decode_context + work.prefill_context);
    ensure(sums == (decodes, prefill, context), || format!("{whose}: {decodes} {prefill} {context} is not {work:?}"))?;
    let tokens = |row: &StepRow| (row.decode_requests + row.prefill_tokens) as usize;
    let mut by_tokens = vec![0_u64; steps.clone().map(|row| tokens(row) + 1).max().unwrap_or(0)];
    steps.for_each(|row| by_tokens[tokens(row)] += 1);
    ensure(by_tokens == work.steps_by_tokens, || format!("{whose}: {by_tokens:?} is not {:?}", work.steps_by_tokens))
}

fn end(row: &StepRow) -> SimTime {
    row.start + row.duration
}
