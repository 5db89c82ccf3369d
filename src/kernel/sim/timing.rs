//! How long a step really lasts: what the latency model says, the host's part, and the quantum of time.

use super::SimError;
use super::engine::{STEP_MAX_NS, bounded};
use super::scheduler::Common;
use crate::units::{SimDuration, Tick};

/// See the head of the file.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    overhead_ns: i64,
    /// The host works while the step runs.
    hidden: bool,
    quantum_ns: i64,
}

impl Timing {
    pub(super) fn new(common: &Common, tick: Option<Tick>) -> Timing {
        Timing {
            overhead_ns: bounded(SimDuration::from_us(common.overhead_us), None).0,
            hidden: common.overhead_hidden,
            quantum_ns: tick.map_or(1, |t| t.duration().0),
        }
    }

    /// Duration of a step for which the model says `model`: at least 1 ns, in whole ticks, rounded down, at least one.
    /// `None` where the model asks for 13 days or more.
    #[inline]
    pub(super) fn step(self, model: SimDuration) -> Option<SimDuration> {
        if model.0 >= STEP_MAX_NS {
            return None;
        }
        let ns = if self.hidden { model.0.max(self.overhead_ns) } else { model.0.max(0) + self.overhead_ns };
        if self.quantum_ns == 1 {
            return Some(SimDuration(ns.max(1)));
        }
        Some(SimDuration((ns / self.quantum_ns * self.quantum_ns).max(self.quantum_ns)))
    }

    /// Duration of a step without tokens.
    pub(super) fn empty(self) -> SimDuration {
        SimDuration(self.quantum_ns)
    }
}

pub(super) fn not_sensible() -> SimError {
    SimError::Invalid {
        path: "deployment.latency".into(),
        message:
            "a step would take 13 days or more: the coefficients, or the facts of model and GPU, must be far from \
                  what is meant"
                .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scheduler::QueueOrder;

    #[test]
    fn steps_have_their_overhead_and_their_quantum() {
        // (overhead in us, hidden, tick, model, expect)
        let cases = [
            (0.0, false, None, 5, Some(5)),
            (0.0, false, None, 0, Some(1)),
            (1.0, false, None, 5, Some(1_005)),
            (1.0, true, None, 5, Some(1_000)),
            (1.0, true, None, 5_000, Some(5_000)),
            (0.0, false, Some("1us"), 5, Some(1_000)),
            (0.7, false, Some("1us"), 1_500, Some(2_000)),
            (0.0, false, Some("1us"), 2_999, Some(2_000)),
            (0.0, false, None, STEP_MAX_NS, None),
        ];
        for (overhead_us, overhead_hidden, tick, model, expect) in cases {
            let rules = Common { overhead_us, overhead_hidden, ..Common::new(QueueOrder::Fcfs) };
            let timing = Timing::new(&rules, tick.map(|t| t.parse().unwrap()));
            assert_eq!(timing.step(SimDuration(model)).map(|d| d.0), expect, "{rules:?} {tick:?} {model}");
        }
    }
}
