//! How long a step lasts, from what the latency model says of its batch.
//!
//! Promises: at least a nanosecond, whole ticks, at least one of them; never beyond what the clock can add up. Leaves
//! out the times outside of steps.

use rand::Rng;
use rand_pcg::Pcg64;

use crate::rng;
use crate::sim::SimError;
use crate::sim::engine::STEP_MAX_NS;
use crate::sim::timing::not_sensible;
use crate::units::{SimDuration, Tick};

/// What the host does for a step, beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overhead {
    /// Before and after: the step lasts longer by it.
    Added(SimDuration),
    /// During the step before (asynchronous scheduling): the step lasts at least so long.
    Hidden(SimDuration),
}

impl Overhead {
    pub(super) fn new(overhead_us: f64, hidden: bool) -> Overhead {
        let time = SimDuration::from_us(overhead_us);
        if hidden { Overhead::Hidden(time) } else { Overhead::Added(time) }
    }
}

/// What the steps of one engine vary by: numbers of its own, one per step with tokens.
pub(super) struct Noise {
    numbers: Pcg64,
    variance: f64,
}

impl Noise {
    pub(super) fn new(seed: u64, engine: usize, cv: f64) -> Noise {
        Noise { numbers: rng::stream(seed, &format!("latency/jitter/{engine}")), variance: libm::log1p(cv * cv) }
    }

    /// The next step, for which the latency model says `raw`.
    pub(super) fn on(&mut self, raw: SimDuration) -> SimDuration {
        // A uniform number from the upper 52 bits, in the middle of its interval, and the normal number below which as
        // large a share lies.
        let bits = self.numbers.next_u64() >> 12;
        let uniform = (bits as f64 + 0.5) / 4_503_599_627_370_496.0;
        let normal = rng::normal_quantile(uniform).clamp(-4.0, 4.0);
        // The mean of a lognormal is exp(mu + sigma^2 / 2): 1.
        let factor = libm::exp(normal * libm::sqrt(self.variance) - self.variance / 2.0);
        SimDuration((raw.0 as f64 * factor) as i64)
    }
}

/// Time of a step whose batch has tokens: `raw`, which the latency model said, with the overhead, at least 1 ns, rounded
/// down to whole ticks, at least one.
///
/// # Errors
/// [`SimError::Invalid`] where the model asks for 13 days or more.
#[inline]
pub(super) fn step_time(raw: SimDuration, overhead: Overhead, tick: Option<Tick>) -> Result<SimDuration, SimError> {
    if raw.0 >= STEP_MAX_NS {
        return Err(not_sensible());
    }
    let raw = raw.0.max(0);
    let time = match overhead {
        Overhead::Added(overhead) => raw + overhead.0,
        Overhead::Hidden(overhead) => raw.max(overhead.0),
    };
    let Some(tick) = tick else { return Ok(SimDuration(time.max(1))) };
    let quantum = tick.duration().0;
    Ok(SimDuration((time / quantum * quantum).max(quantum)))
}

/// Time of a step whose batch has no tokens: one tick, 1 ns where there is none.
#[inline]
pub(super) fn empty_step_time(tick: Option<Tick>) -> SimDuration {
    tick.map_or(SimDuration(1), Tick::duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_last_whole_ticks_and_never_13_days() {
        let added = |us| Overhead::new(us, false);
        let hidden = |us| Overhead::new(us, true);
        let us = Some("1us");
        // (raw, overhead, tick, expect; None for an error)
        let cases = [
            (1_234, added(0.0), None, Some(1_234)),
            (1_234, added(1.0), None, Some(2_234)),
            (1_234, hidden(1.0), None, Some(1_234)),
            (1_234, hidden(2.0), None, Some(2_000)),
            (0, added(0.0), None, Some(1)),
            (-5, added(0.01), None, Some(10)),
            (0, hidden(0.0), us, Some(1_000)),
            (1_999, added(0.0), us, Some(1_000)),
            // Rounded once, after the overhead.
            (1_500, added(0.5), us, Some(2_000)),
            (1_999, hidden(1.9), us, Some(1_000)),
            (STEP_MAX_NS - 1, added(0.0), None, Some(STEP_MAX_NS - 1)),
            (STEP_MAX_NS - 1, added(60e6), None, Some(STEP_MAX_NS - 1 + 60_000_000_000)),
            (STEP_MAX_NS, added(0.0), us, None),
            (i64::MAX, hidden(1.0), None, None),
        ];
        for (raw, overhead, tick, expect) in cases {
            let tick = tick.map(|t| t.parse().unwrap());
            let got = step_time(SimDuration(raw), overhead, tick);
            assert_eq!(got.as_ref().ok().map(|d| d.0), expect, "{raw} {overhead:?} {tick:?}");
            if let Err(e) = got {
                assert!(matches!(&e, SimError::Invalid { path, .. } if path == "deployment.latency"));
            }
        }
        assert_eq!(empty_step_time(None).0, 1);
        assert_eq!(empty_step_time(Some("1ms".parse().unwrap())).0, 1_000_000);
    }
}
