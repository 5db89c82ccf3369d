//! When a search may stop: nothing has become better for a while.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Stop when the best, or the hypervolume, has improved by less than a share over a number of trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stagnation {
    /// Number of trials that are looked back.
    pub trials: u32,
    /// What counts as an improvement, relative to the larger of the two.
    pub eps: f64,
}

impl Default for Stagnation {
    fn default() -> Self {
        Stagnation { trials: 300, eps: 1e-3 }
    }
}

impl Stagnation {
    /// Why this cannot be, in words for the user; empty where it can.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.trials == 0 {
            problems.push("trials: at least one trial is looked back".to_owned());
        }
        if !(self.eps >= 0.0 && self.eps < 1.0) {
            problems.push(format!("eps: a share from 0 up to 1, not {}", self.eps));
        }
        problems
    }

    /// The position of the first trial after which to stop.
    ///
    /// `trace` has, per trial, the [best so far](best_so_far) or the [hypervolume so far](super::hypervolume::Archive):
    /// what only ever gets better, in either direction. As long as it is not finite nothing has been found yet, and the
    /// search goes on.
    pub fn stops_at(&self, trace: &[f64]) -> Option<usize> {
        let back = self.trials as usize;
        (back..trace.len()).find(|&now| self.stands_still(trace[now - back], trace[now]))
    }

    /// Whether to stop after the last trial of a trace, which had no reason to stop before. O(1).
    pub fn stops(&self, trace: &[f64]) -> bool {
        let back = trace.len().checked_sub(self.trials as usize + 1);
        back.is_some_and(|then| self.stands_still(trace[then], trace[trace.len() - 1]))
    }

    fn stands_still(&self, then: f64, now: f64) -> bool {
        then.is_finite() && now.is_finite() && (now - then).abs() <= self.eps * then.abs().max(now.abs())
    }
}

/// The least value up to every trial; infinite until there is one. `None` is a trial that does not count.
pub fn best_so_far(values: &[Option<f64>]) -> Vec<f64> {
    let lower = |best: &mut f64, value: &Option<f64>| {
        *best = value.map_or(*best, |v| best.min(v));
        Some(*best)
    };
    values.iter().scan(f64::INFINITY, lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_when_nothing_gets_better() {
        let rule = Stagnation { trials: 3, eps: 0.01 };
        // Falling by less than a hundredth within three trials, for the first time at the last.
        let best = [100.0, 90.0, 90.0, 89.5, 89.0, 88.9];
        assert_eq!(rule.stops_at(&best), None);
        assert_eq!(rule.stops_at(&[best.as_slice(), &[88.8]].concat()), Some(6));
        // The same upwards, as a volume goes.
        let volume = [0.0, 50.0, 60.0, 60.1, 60.2, 60.3, 61.0];
        assert_eq!(rule.stops_at(&volume), Some(5));
        for n in 0..=volume.len() {
            assert_eq!(rule.stops(&volume[..n]), n == 6, "{n}");
        }
        assert_eq!(rule.stops_at(&[0.0; 4]), Some(3));
        assert_eq!(rule.stops_at(&[5.0; 3]), None);
        assert_eq!(rule.stops_at(&[]), None);
        // Through zero.
        assert_eq!(rule.stops_at(&[1.0, 0.5, 0.0, -0.5, -1.0, -1.0, -1.0, -1.0]), Some(7));
        // Any improvement at all.
        assert_eq!(Stagnation { trials: 2, eps: 0.0 }.stops_at(&[3.0, 2.0, 2.0, 1.9999, 1.9999, 1.9999]), Some(5));
    }

    #[test]
    fn nothing_found_is_no_reason_to_stop() {
        let rule = Stagnation { trials: 2, eps: 0.01 };
        let trace = best_so_far(&[None, None, None, Some(4.0), Some(5.0), None, Some(3.0), Some(3.0), None]);
        let inf = f64::INFINITY;
        assert_eq!(trace, [inf, inf, inf, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0]);
        assert_eq!(rule.stops_at(&trace), Some(5));
        assert_eq!(rule.stops_at(&trace[..5]), None);
    }

    #[test]
    fn rules_are_checked() {
        assert!(Stagnation::default().problems().is_empty());
        assert_eq!(Stagnation { trials: 0, eps: f64::NAN }.problems().len(), 2);
        assert!(serde_json::from_str::<Stagnation>(r#"{"trial": 3}"#).is_err());
    }
}
