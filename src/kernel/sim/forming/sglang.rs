//! Forming a step by the rules of [`Sglang`] (numbers: those of its table).
//!
//! | file | does |
//! |---|---|
//! | this one | what becomes of the step before, prompts or replies, retraction |
//! | [`adder`](self::adder) | prompts of a step: what is left of every budget (rules 2 to 6) |
//! | [`order`](self::order) | the order of the queue (rules 12 to 15) |
//! | [`owed`](self::owed) | tokens that running requests may still get |
//!
//! SGLang's list of running requests, its `running_batch`, is here the decode requests and, as a count, those that ended since the
//! last step of replies (`gone`).

mod adder;
mod order;
mod owed;

use std::cmp::Reverse;

use rand_pcg::Pcg64;

use self::owed::Owed;
use crate::sim::batch::Forming;
use crate::sim::latency::{BatchShape, LatencyModel};
use crate::sim::node::Env;
use crate::sim::replica::{Phase, Replica};
use crate::sim::scheduler::Sglang;
use crate::units::{SimDuration, SimTime};

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: Sglang,
    /// Rule 7.
    full: bool,
    /// Rule 9: the ratio it falls from, and steps since.
    ratio_from: f64,
    decays: u64,
    owed: Owed,
    /// Rule 8: how many, and tokens that they might have got.
    gone: u64,
    gone_tokens: u64,
    last: Last,
    /// Rule 20: steps of replies until the queue is looked at again.
    unasked: u32,
    /// End of the step before.
    ended: SimTime,
    numbers: Option<Pcg64>,
    /// Rule 18: sizes that are captured; what a step costs with prompts, with a graph and without: factor and nanoseconds.
    captured: Vec<u32>,
    costs: [(f64, i64); 3],
    /// Prompts that the step being formed takes: slot, tokens computed, tokens.
    taken: Vec<(u32, u32, u32)>,
}

/// The step before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Replies,
    /// Prompts alone.
    Prompts(Prompts),
    /// Prompts and replies.
    Mixed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Prompts {
    /// Requests in the list of running ones beside them.
    beside: u64,
    /// Prompts that it completes, and those of them that then decode and are still here.
    completes: u64,
    here: u64,
    /// One was cut.
    cut: bool,
}

impl State {
    pub(super) fn new(rules: &Sglang) -> State {
        State {
            full: false,
            ratio_from: rules.ratios().0,
            decays: 0,
            owed: Owed::new(rules.clip_max_new_tokens_estimation),
            gone: 0,
            gone_tokens: 0,
            last: Last::Replies,
            unasked: 0,
            ended: SimTime::ZERO,
            numbers: None,
            captured: rules.captured(),
            costs: [cost(rules, true, false), cost(rules, false, true), cost(rules, false, false)],
            taken: Vec::new(),
            rules: rules.clone(),
        }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        self.merge();
        if replica.decodes == 0 && replica.prefills.is_empty() && replica.clock > self.ended {
            self.forget_gone();
            (self.full, self.unasked) = (false, 0);
            self.reset_ratio();
        }
        if self.unasked > 0 && replica.decodes == 0 {
            self.full &= self.gone == 0;
            self.forget_gone();
            self.unasked = 0;
        }
        // The list may turn out to hold nobody: SGLang idles, and looks at the queue again.
        for _ in 0..3 {
            if self.prompts(replica, f, env) {
                return;
            }
            let listed = replica.decodes + self.gone;
            let seats = u64::from(self.rules.settled.running_max).saturating_sub(listed);
            let joins = seats.min(replica.loaded.len() as u64);
            self.forget_gone();
            self.full &= listed > 0 || joins == 0;
            if replica.decodes > 0 || joins > 0 {
                self.retract_or_decay(replica, f, env);
            }
            self.full &= replica.decodes == listed;
            if replica.decodes > 0 || joins > 0 {
                return self.replies(replica, joins, f, env);
            }
            if listed == 0 {
                return;
            }
            self.reset_ratio();
        }
    }

    /// What the step before leaves: those whose prompts it completed join the list.
    fn merge(&mut self) {
        match self.last {
            Last::Replies => {}
            Last::Prompts(p) => {
                let shrank = p.cut || p.here < p.completes;
                self.full &= !shrank && (p.here == 0 || p.beside > 0);
            }
            Last::Mixed => {
                self.full = false;
                self.forget_gone();
            }
        }
        self.last = Last::Replies;
    }

    /// A step of replies, all with their pages, and of so many of those whose KV caches have come.
    fn replies(&mut self, replica: &mut Replica, joins: u64, f: &mut Forming, env: &Env<'_>) {
        replica.decode_all(f, env);
        for _ in 0..joins {
            self.join(replica, f, env);
        }
        self.unasked = match self.unasked {
            0 => self.rules.decode_steps() - 1,
            left => left - 1,
        };
        let seated = replica.loaded.is_empty() || replica.decodes >= u64::from(self.rules.settled.running_max);
        let settled = seated && (self.full || replica.waiting.is_empty());
        replica.blocked = settled && !replica.nobody_waits() && replica.prefills.is_empty();
    }

    /// Rule 21: the first of those whose KV caches have come.
    fn join(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        let Some(slot) = replica.loaded.pop_front() else { unreachable!("they were counted") };
        self.owed.admit(slot, env.demand.cap(replica.live[slot as usize].request, env.max_len));
        replica.admit_loaded(slot, f, env);
        let live = &replica.live[slot as usize];
        self.owed.enter(slot, live.seq, live.emitted, replica.steps);
    }

    /// Rules 9 to 11, in a step of replies.
    fn retract_or_decay(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        if replica.decode_need() <= replica.pool.free() {
            self.decays += 1;
            return;
        }
        while replica.decodes > 0 && replica.decode_need() > replica.pool.free() {
            let at = victim(replica);
            self.owed.leave(replica.running[at]);
            replica.evict(at, f, env);
        }
        let (mut out, mut most) = (0, 0);
        for slot in replica.running.iter().filter(|slot| decodes(replica, **slot)) {
            let live = &replica.live[*slot as usize];
            out += u64::from(replica.emitted(live));
            most += u64::from(env.demand.cap(live.request, env.max_len));
        }
        if replica.decodes == 0 {
            self.reset_ratio();
            return;
        }
        let ahead = u64::from(self.rules.retract_decode_steps) * replica.decodes;
        self.ratio_from = ((out + ahead) as f64 / (most + 1) as f64).min(1.0);
        self.decays = 0;
    }

    fn ratio(&self) -> f64 {
        let (_, min, decay) = self.rules.ratios();
        match self.decays {
            0 => self.ratio_from,
            steps => (self.ratio_from - steps as f64 * decay).max(min),
        }
    }

    fn reset_ratio(&mut self) {
        (self.ratio_from, self.decays) = (self.rules.ratios().0, 0);
    }

    fn forget_gone(&mut self) {
        (self.gone, self.gone_tokens) = (0, 0);
    }

    /// See [`super::Former::entered`].
    pub(super) fn entered(&mut self, slot: u32, seq: u64, emitted: u32, steps: u64) {
        self.owed.enter(slot, seq, emitted, steps);
        if let Last::Prompts(p) = &mut self.last {
            p.here += 1;
        }
    }

    /// See [`super::Former::left`].
    pub(super) fn left(&mut self, slot: u32, steps: u64) {
        let (tokens, new) = self.owed.left(slot, steps);
        match &mut self.last {
            Last::Prompts(p) if new => p.here -= 1,
            Last::Mixed => {}
            Last::Prompts(_) | Last::Replies => {
                (self.gone, self.gone_tokens) = (self.gone + 1, self.gone_tokens + tokens)
            }
        }
    }

    pub(super) fn ended(&mut self, at: SimTime) {
        self.ended = at;
    }

    /// See [`super::Former::quiet_steps`].
    #[inline]
    pub(super) fn quiet_steps(&self) -> u64 {
        if self.gone == 0 && self.last == Last::Replies { u64::MAX } else { 0 }
    }

    /// See [`super::Former::ran`].
    #[inline]
    pub(super) fn ran(&mut self, steps: u64) {
        self.decays += steps;
        let round = u64::from(self.rules.decode_steps());
        self.unasked = ((u64::from(self.unasked) + round - steps % round) % round) as u32;
    }

    /// See [`super::Former::step`].
    #[inline]
    pub(super) fn step(&self, model: &dyn LatencyModel, shape: &BatchShape) -> SimDuration {
        let replies = shape.prefill_requests == 0;
        let shown = if replies { self.shown(shape.decode_requests) } else { shape.decode_requests };
        let said = model.step(&BatchShape { decode_requests: shown, ..*shape });
        if self.rules.kernel_factors.is_empty() {
            return said;
        }
        let graph = self.captured.last().is_some_and(|largest| shape.decode_requests <= u64::from(*largest));
        let (factor, more) = self.costs[if !replies { 0 } else { 2 - usize::from(graph) }];
        SimDuration((said.0 as f64 * factor) as i64 + more)
    }

    /// Rule 18.
    #[inline]
    pub(super) fn shown(&self, decodes: u64) -> u64 {
        let at = self.captured.partition_point(|size| u64::from(*size) < decodes);
        self.captured.get(at).map_or(decodes, |size| u64::from(*size))
    }

    /// See [`super::Former::least`].
    pub(super) fn least(&self, said: SimDuration) -> SimDuration {
        let least = self.costs.iter().map(|(factor, _)| *factor).fold(1.0, f64::min);
        SimDuration((said.0 as f64 * least) as i64)
    }
}

/// What the kernels make of a step: a factor and nanoseconds.
fn cost(rules: &Sglang, prompts: bool, graph: bool) -> (f64, i64) {
    let (mut factor, mut more) = (1.0, 0.0);
    let mut add = |parameter: &str, value: &str| {
        let cost = rules.cost(parameter, value);
        factor *= if prompts { cost.prefill } else { cost.decode };
        more += if prompts { cost.prefill_us } else { cost.decode_us };
    };
    for (parameter, value) in rules.kernels() {
        if rules.computes(parameter, prompts) {
            add(parameter, &value);
        }
    }
    if !prompts && !graph {
        add("cuda_graph", "none");
    }
    (factor, SimDuration::from_us(more).0)
}

fn decodes(replica: &Replica, slot: u32) -> bool {
    replica.live[slot as usize].phase == Phase::Decode
}

/// Rule 10: its place among the running requests.
fn victim(replica: &Replica) -> usize {
    let key = |(at, slot): &(usize, &u32)| {
        let live = &replica.live[**slot as usize];
        (replica.emitted(live), Reverse(live.input), Reverse(*at))
    };
    let replies = replica.running.iter().enumerate().filter(|(_, slot)| decodes(replica, **slot));
    let (at, _) = replies.min_by_key(key).unwrap_or_else(|| unreachable!("some decode"));
    at
}
