//! What random scenarios have reached: a rule that no scenario applies is not tested by any.

mod cluster;

use std::collections::BTreeMap;
use std::fmt;

use super::Rows;
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::sim::Summary;
use crate::sim::latency::Overheads;
use crate::sim::reference::Seen;
use crate::sim::scheduler::{QueueOrder, Scheduler};

/// Number of scenarios in which something occurred at least once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub scenarios: u64,
    pub preemptions: u64,
    /// A victim of the policy `priority` that had its share of the step already.
    pub give_backs: u64,
    /// Orders of the queue other than the first come first served.
    pub orders: u64,
    pub hits: u64,
    pub length_caps: u64,
    pub timeouts: u64,
    pub cancels: u64,
    /// A client that was gone before its request reached the queue.
    pub never_queued: u64,
    pub rejections: u64,
    pub in_flight: u64,
    pub asynchronous: u64,
    /// Tokens of a step that were nobody's.
    pub wasted: u64,
    /// A request at its cap that a step left out.
    pub left_out: u64,
    /// A decode request that got no token.
    pub stalls: u64,
    /// A batch without tokens.
    pub empty_steps: u64,
    /// An arrival at the end of a step.
    pub ties: u64,
    pub small_caches: u64,
    pub recomputed: u64,
    pub out_of_order: u64,
    /// Requests whose KV cache had come and that went before a head of the queue that did not fit.
    pub passed: u64,
    /// Clients that went while their request waited for room.
    pub left_waiting_for_room: u64,
    /// Encoders on the replicas of the prompts, and requests that they made wait.
    pub encoders: u64,
    pub encoder_waits: u64,
    /// Sessions that a sticky router moved.
    pub moved_sessions: u64,
    /// Layers that were sent while the prompt was computed.
    pub sent_early: u64,
    /// Caches of which all was there already.
    pub empty_transfers: u64,
    pub latency: Latencies,
    pub cluster: cluster::Cluster,
    /// Rules of the scheduler, by its name for them.
    pub fired: BTreeMap<&'static str, u64>,
}

/// Of [`Reach`], what step times are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub rooflines: u64,
    pub regressions: u64,
    pub constants: u64,
    pub overheads: u64,
    pub jitter: u64,
    /// With steps that were formed while another ran, and in whole ticks.
    pub jitter_ahead: u64,
    pub jitter_ticks: u64,
}

impl Latencies {
    fn of(s: &Scenario, asynchronous: bool) -> Latencies {
        let o = s.deployment.overheads;
        let jitter = u64::from(o.jitter_cv > 0.0);
        let named = |name: &str| u64::from(s.sites().iter().any(|site| site.deployment.latency.name() == name));
        Latencies {
            rooflines: named("roofline"),
            regressions: named("regression"),
            constants: named("constant"),
            overheads: u64::from(o != Overheads { jitter_cv: o.jitter_cv, ..Overheads::default() }),
            jitter,
            jitter_ahead: jitter * u64::from(asynchronous),
            jitter_ticks: jitter * u64::from(s.deployment.tick.is_some()),
        }
    }
}

impl Reach {
    /// What one scenario reached.
    pub(super) fn of(s: &Scenario, requests: &Requests, rows: &Rows, summary: &Summary, seen: Seen) -> Reach {
        let (ordered, asynchronous) = match &s.deployment.scheduler {
            Scheduler::VllmV1(rules) => (rules.scheduling_policy != QueueOrder::Fcfs, rules.async_scheduling),
            Scheduler::Exclusive(rules) => (rules.scheduling_policy != QueueOrder::Fcfs, false),
            other => (other.common().is_some_and(|common| common.policy != QueueOrder::Fcfs), false),
        };
        let any = |count: u64| u64::from(count > 0);
        Reach {
            scenarios: 1,
            preemptions: any(summary.preemptions),
            give_backs: any(seen.give_backs),
            orders: u64::from(ordered),
            hits: any(summary.prefix_tokens_hit),
            length_caps: any(summary.length_capped),
            timeouts: any(summary.timed_out),
            cancels: any(summary.cancelled),
            never_queued: any(seen.never_queued),
            rejections: any(summary.rejected),
            in_flight: any(summary.in_flight),
            asynchronous: u64::from(asynchronous),
            wasted: any(seen.wasted),
            left_out: any(seen.left_out),
            stalls: any(seen.stalls),
            empty_steps: any(seen.empty_steps),
            ties: any(seen.ties),
            small_caches: u64::from(summary.kv_blocks_total < 10),
            recomputed: any(summary.recomputed_tokens),
            out_of_order: any(summary.out_of_order),
            passed: any(seen.passed),
            left_waiting_for_room: any(seen.left_waiting_for_room),
            encoders: any(summary.encoder_tokens),
            encoder_waits: any(seen.encoder_waits),
            moved_sessions: any(seen.moved_sessions),
            sent_early: any(seen.sent_early),
            empty_transfers: any(seen.empty_transfers),
            latency: Latencies::of(s, asynchronous),
            cluster: cluster::Cluster::of(s, requests, rows, summary),
            fired: seen.fired.into_keys().map(|rule| (rule, 1)).collect(),
        }
    }

    pub fn add(&mut self, other: &Reach) {
        self.scenarios += other.scenarios;
        for ((_, sum), (_, count)) in self.fields().into_iter().zip(other.counts()) {
            *sum += count;
        }
        for (rule, count) in &other.fired {
            *self.fired.entry(rule).or_default() += count;
        }
    }

    /// Every count with its name.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut copy = self.clone();
        copy.fields().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    fn fields(&mut self) -> Vec<(&'static str, &mut u64)> {
        let mut fields = vec![
            ("preemptions", &mut self.preemptions),
            ("priority preemption of a request that had its share", &mut self.give_backs),
            ("queue orders other than fcfs", &mut self.orders),
            ("prefix hits", &mut self.hits),
            ("length caps", &mut self.length_caps),
            ("timeouts", &mut self.timeouts),
            ("cancels", &mut self.cancels),
            ("client gone before the queue", &mut self.never_queued),
            ("rejections", &mut self.rejections),
            ("in flight at the horizon", &mut self.in_flight),
            ("asynchronous scheduling", &mut self.asynchronous),
            ("tokens that were nobody's", &mut self.wasted),
            ("left out at a cap", &mut self.left_out),
            ("stalls", &mut self.stalls),
            ("empty steps", &mut self.empty_steps),
            ("ties of arrival and end of step", &mut self.ties),
            ("caches below 10 blocks", &mut self.small_caches),
            ("recomputed tokens", &mut self.recomputed),
            ("arrivals out of order", &mut self.out_of_order),
            ("caches that came and went before the head", &mut self.passed),
            ("clients gone while waiting for room", &mut self.left_waiting_for_room),
            ("encoders beside prompts", &mut self.encoders),
            ("requests that an encoder made wait", &mut self.encoder_waits),
            ("sessions that were moved", &mut self.moved_sessions),
            ("layers that were sent early", &mut self.sent_early),
            ("caches that were there already", &mut self.empty_transfers),
            ("latency: roofline", &mut self.latency.rooflines),
            ("latency: regression", &mut self.latency.regressions),
            ("latency: constant", &mut self.latency.constants),
            ("overheads", &mut self.latency.overheads),
            ("jitter", &mut self.latency.jitter),
            ("jitter of asynchronous steps", &mut self.latency.jitter_ahead),
            ("jitter in whole ticks", &mut self.latency.jitter_ticks),
        ];
        fields.extend(self.cluster.fields());
        fields
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<52} {:>8}", "scenarios", self.scenarios)?;
        let fired = self.fired.iter().map(|(rule, count)| (*rule, *count));
        for (name, count) in self.counts().into_iter().chain(fired) {
            let share = count as f64 * 100.0 / self.scenarios.max(1) as f64;
            writeln!(f, "{name:<52} {count:>8} {share:>5.1} %")?;
        }
        Ok(())
    }
}
