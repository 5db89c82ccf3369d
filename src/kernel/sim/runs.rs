//! Runs of steps in which decode requests go on, and nothing else happens.

use std::cmp::Reverse;

use super::SimError;
use super::jitter::{Plain, Times, Varied};
use super::latency::{BatchShape, DecodeForm};
use super::lora::Mix;
use super::node::{Env, Out};
use super::replica::Replica;
use super::scheduler::Common;
use super::timing::not_sensible;
use crate::units::{SimDuration, SimTime};

/// Most steps between two looks at the stop flag.
const STEPS_PER_POLL: u64 = 4096;

impl Replica {
    /// Runs pure decode steps that change nothing but sums, as many as end by `limit`; returns how many.
    pub(super) fn decode_run(&mut self, limit: SimTime, env: &Env<'_>, out: &mut Out) -> Result<u64, SimError> {
        let quiet = self.stalled == 0
            && self.decodes > 0
            && self.decodes - self.beside == self.running.len() as u64
            && self.forking == 0
            && self.fresh.is_empty()
            && self.paused == SimDuration::ZERO
            && self.decodes <= self.common.decodes_max
            && (self.nobody_waits() || self.blocked)
            && !self.common.async_scheduling
            && !self.tiers.as_ref().is_some_and(|tiers| tiers.contends);
        if !quiet {
            return Ok(0);
        }
        // The step that completes a request goes the long way.
        let next_finish = self.finishes.peek().map_or(0, |Reverse((step, _, _))| *step);
        let most = next_finish
            .saturating_sub(self.steps + 1)
            .min(STEPS_PER_POLL)
            .min(self.former.quiet_steps(self))
            .min(self.waiting.steady(self.steps));
        if most == 0 {
            return Ok(0);
        }
        let next_queued = self.pending.peek().map_or(SimTime::MAX, |Reverse((at, ..))| *at);
        let next_gone = self.aborts.peek().map_or(SimTime::MAX, |Reverse((at, _, _, _))| *at);
        let next_adapter = self.next_adapter().unwrap_or(SimTime::MAX);
        let next_fetch = self.next_fetch().unwrap_or(SimTime::MAX);
        let next = next_queued.min(next_gone).min(next_adapter).min(next_fetch);
        let form = match self.form {
            Some((decodes, form)) if decodes == self.decodes => form,
            Some(_) | None => self.decode_form(env),
        };
        self.form = Some((self.decodes, form));
        let (clock, steps, context) = (self.clock, self.steps, self.context);
        let decode_requests = self.decodes;
        let (least, greatest) = self.contexts();
        let mut former = std::mem::take(&mut self.former);
        let step = |decode_context: u64| {
            // Every step adds a token to each.
            let ran = if greatest > 0 { (decode_context - context) / decode_requests } else { 0 };
            let (decode_context_min, decode_context_max) = (least + ran, greatest + ran);
            let shape = BatchShape {
                decode_requests,
                decode_context,
                decode_context_min,
                decode_context_max,
                ..BatchShape::default()
            };
            former.step(env.model, &shape)
        };
        let mix = self.adapters.as_ref().map_or(Mix::default(), |adapters| adapters.decode_mix());
        let costs = env.adapters.as_ref().map(|plan| &plan.costs).filter(|costs| !costs.are_free());
        let said = |context| {
            let said = form.map_or_else(|| step(context), |form| form.at(context));
            costs.map_or(said, |costs| costs.step(said, mix))
        };
        let ran = match (form, self.jitter.take()) {
            (Some(form), None) if costs.is_none() => {
                self.run_steps(most, limit, next, env, out, Plain(|context| form.at(context)))
            }
            (_, None) => self.run_steps(most, limit, next, env, out, Plain(said)),
            (_, Some(mut jitter)) => {
                let result = self.run_steps(most, limit, next, env, out, Varied(said, &mut jitter));
                self.jitter = Some(jitter);
                result
            }
        };
        let asked = ran.as_ref().copied().unwrap_or_default();
        if let (None, Some(context)) = (form, asked) {
            // The step that did not run will be asked for again. What it counted, it counts now once more: both are taken
            // off in the end.
            let before = env.model.extrapolated();
            step(context);
            self.totals.not_extrapolated += 2 * (env.model.extrapolated() - before);
        }
        former.ran(self.steps - steps);
        self.former = former;
        ran?;
        let ran = self.steps - steps;
        if ran > 0 {
            (self.handed, self.decoded_at) = (self.steps, self.clock);
            self.former.ended(self.clock);
            self.totals.busy += self.clock - clock;
            self.totals.kv_blocks_max = self.totals.kv_blocks_max.max(self.pool.used());
            self.totals.work.add_decodes(ran, self.decodes, context);
            if let Some(adapters) = &mut self.adapters {
                adapters.sums.count_steps(mix.adapters, ran);
            }
        }
        Ok(ran)
    }

    /// How long steps of the decode requests alone take, where that follows from their context by a line.
    pub(super) fn decode_form(&self, env: &Env<'_>) -> Option<DecodeForm> {
        env.model.decode_form(self.former.shown(self.decodes)).filter(|_| self.common.plain)
    }

    /// Returns the context of a step whose time was asked for, but that did not run.
    #[inline]
    fn run_steps(
        &mut self,
        most: u64,
        limit: SimTime,
        next_event: SimTime,
        env: &Env<'_>,
        out: &mut Out,
        mut times: impl Times,
    ) -> Result<Option<u64>, SimError> {
        let classes = self.class_counts.len();
        let knows = !self.class_lists.is_empty();
        let (timing, decodes, told) = (self.timing, self.decodes, self.decodes - self.silent);
        let Common { slack, reserves, .. } = self.common;
        let mut class = (self.steps % classes as u64) as usize;
        // What changes with every step, kept out of memory.
        let (mut clock, mut context) = (self.clock, self.context);
        let mut asked = None;
        for _ in 0..most {
            let need = if reserves { 0 } else { self.class_counts[class] };
            if need + slack > self.pool.free() || clock >= next_event {
                break;
            }
            let duration = timing.step(times.next(context)).ok_or_else(not_sensible)?;
            let end = clock + duration;
            if end > limit {
                asked = Some(context);
                break;
            }
            let next = if class + 1 == classes { 0 } else { class + 1 };
            self.clock = clock;
            if knows && !self.class_lists[next].is_empty() {
                // A block that is filled now may be a hit for the head of the queue.
                if self.blocked {
                    self.blocked = false;
                    asked = Some(context);
                    break;
                }
                if self.tiers.is_some() {
                    // What it fills is stored when it ends.
                    asked = Some(context);
                    break;
                }
                self.take(need);
                self.fill_decodes(env);
            } else if need > 0 {
                self.take(need);
                if self.tiers.is_some() {
                    self.store_evicted(clock);
                }
            }
            if env.wants_steps {
                let shape = BatchShape { decode_requests: decodes, decode_context: context, ..BatchShape::default() };
                out.steps.push((end, self.step_row(clock, duration, &shape, 0)));
            }
            out.gaps.add(duration.0, told);
            self.log.push(duration.0);
            times.pass();
            clock = end;
            context += decodes;
            self.steps += 1;
            class = next;
        }
        (self.clock, self.context) = (clock, context);
        Ok(asked)
    }
}
