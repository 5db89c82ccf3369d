//! When requests arrive: renewal processes of a given mean rate.
//!
//! The first request arrives after the first gap. Gaps are rounded to the nanosecond one by one and summed as
//! integers, so that the times of the first n requests do not depend on how many follow. Requests that arrive at one
//! instant are possible (gaps below half a nanosecond).

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Problems};
use crate::rng;
use crate::scenario::Gamma;
use crate::units::{SimDuration, SimTime};

/// How the gaps between arrivals are distributed; their mean is one over the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArrivalProcess {
    /// Exponential gaps: independent users.
    #[default]
    Poisson,
    /// Gamma gaps: `cv` above 1 is burstier than Poisson, below 1 more regular.
    Gamma(Gamma),
    /// Equal gaps.
    Constant,
}

impl ArrivalProcess {
    /// Range of `cv` in which the gamma distribution can be told from the other processes and from zero.
    const CV: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

    /// Everything that is wrong with the parameters; `path` is where this process stands.
    pub fn problems(&self, path: &str) -> Vec<Problem> {
        let mut problems = Problems::below(path);
        match *self {
            ArrivalProcess::Poisson | ArrivalProcess::Constant => {}
            ArrivalProcess::Gamma(Gamma { cv }) => problems.require(Self::CV.contains(&cv), "gamma.cv", || {
                format!("must be from {} to {}, not {cv}; `poisson` is cv 1", Self::CV.start(), Self::CV.end())
            }),
        }
        problems.found
    }

    /// The first `n` arrivals at a mean of `rate_rps` requests per second, non-decreasing.
    ///
    /// The draws do not depend on the rate: twice the rate halves every gap. Times saturate after 292 years.
    ///
    /// The parameters must have no [`problems`](Self::problems), and the rate must be positive.
    pub fn times(&self, rate_rps: f64, n: usize, rng: &mut Pcg64) -> Vec<SimTime> {
        assert!(rate_rps > 0.0, "arrivals need a positive rate, not {rate_rps}");
        let mut now = 0i64;
        let next = |_| {
            let gap = SimDuration::from_s(self.unit_gap(rng) / rate_rps);
            now = now.saturating_add(gap.0);
            SimTime(now)
        };
        (0..n).map(next).collect()
    }

    /// One gap of mean 1.
    fn unit_gap(&self, rng: &mut Pcg64) -> f64 {
        match *self {
            ArrivalProcess::Poisson => rng::exponential(rng, 1.0),
            ArrivalProcess::Gamma(Gamma { cv }) => rng::gamma(rng, 1.0 / (cv * cv), cv * cv),
            ArrivalProcess::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps_s(process: ArrivalProcess, rate_rps: f64, n: usize, seed: u64) -> Vec<f64> {
        let times = process.times(rate_rps, n, &mut rng::stream(seed, "workload/arrivals"));
        let mut last = SimTime::ZERO;
        times.iter().map(|&t| (t - std::mem::replace(&mut last, t)).as_s()).collect()
    }

    #[test]
    fn gaps_have_the_asked_mean_and_variation() {
        let (n, seed) = (200_000, 11);
        println!("seed {seed}");
        for (process, cv) in [
            (ArrivalProcess::Poisson, 1.0),
            (ArrivalProcess::Constant, 0.0),
            (ArrivalProcess::Gamma(Gamma { cv: 0.5 }), 0.5),
            (ArrivalProcess::Gamma(Gamma { cv: 2.0 }), 2.0),
        ] {
            let gaps = gaps_s(process, 8.0, n, seed);
            let mean = gaps.iter().sum::<f64>() / n as f64;
            let var = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n as f64;
            let off = (mean * 8.0 - 1.0).abs();
            assert!(off <= 4.0 * cv / (n as f64).sqrt() + 1e-9, "{process:?}: mean gap {mean} s");
            assert!((var.sqrt() / mean - cv).abs() <= 0.03 * cv + 1e-9, "{process:?}: cv {}", var.sqrt() / mean);
        }
    }

    #[test]
    fn the_rate_scales_the_gaps_and_n_cuts_them() {
        for process in [ArrivalProcess::Poisson, ArrivalProcess::Gamma(Gamma { cv: 3.0 }), ArrivalProcess::Constant] {
            let slow = gaps_s(process, 1.0, 1000, 5);
            let fast = gaps_s(process, 4.0, 1000, 5);
            for (s, f) in slow.iter().zip(&fast) {
                // Each gap is rounded to the nanosecond.
                assert!((s - 4.0 * f).abs() < 3e-9, "{process:?}: {s} and {f}");
            }
            let short = process.times(4.0, 10, &mut rng::stream(5, "workload/arrivals"));
            let long = process.times(4.0, 1000, &mut rng::stream(5, "workload/arrivals"));
            assert_eq!(short, long[..10]);
        }
    }

    #[test]
    fn arrivals_start_after_the_first_gap_and_saturate() {
        let rng = &mut rng::stream(0, "x");
        assert_eq!(ArrivalProcess::Constant.times(4.0, 2, rng), [SimTime(250_000_000), SimTime(500_000_000)]);
        assert_eq!(ArrivalProcess::Constant.times(1e-10, 2, rng), [SimTime::MAX; 2]);
    }

    #[test]
    fn yaml_forms_and_problems() {
        let parse = serde_json::from_str::<ArrivalProcess>;
        assert_eq!(parse(r#""poisson""#).unwrap(), ArrivalProcess::Poisson);
        let gamma = parse(r#"{"gamma": {"cv": -1}}"#).unwrap();
        let problems = gamma.problems("arrivals");
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "arrivals.gamma.cv");
        assert!(parse(r#"{"gamma": {"cv": 2, "shape": 1}}"#).is_err());
        assert!(ArrivalProcess::Gamma(Gamma { cv: f64::NAN }).problems("").len() == 1);
    }
}
