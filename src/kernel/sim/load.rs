//! The load of a scenario: when its requests arrive.
//!
//! Promises: the same seed draws the same sequence of unit gaps at every rate, so scenarios that differ in their rate
//! only see the same pattern, faster or slower. Generated processes start with a gap, a trace keeps its first arrival.

use super::SimError;
use crate::request::Requests;
use crate::rng;
use crate::scenario::{Arrivals, Load};
use crate::units::SimTime;

/// Arrival times of the requests used: the first `max_requests`, at the rate and by the process of `load`.
///
/// # Errors
/// [`SimError::Invalid`] where the requests give no rate and the scenario none either, or are out of order.
pub(crate) fn arrivals(load: &Load, requests: &Requests, seed: u64) -> Result<Vec<SimTime>, SimError> {
    let count = load.max_requests.map_or(requests.len(), |max| requests.len().min(max as usize));
    let trace = &requests.arrival[..count];
    check_requests(requests, trace)?;
    let gap_ns = |rate: Option<f64>| mean_gap_ns(rate, trace);
    match load.arrivals {
        Arrivals::Trace => match load.rate_rps {
            None => Ok(trace.to_vec()),
            Some(_) if count < 2 => Ok(trace.to_vec()),
            Some(rate) => {
                let stretch = 1e9 / rate / gap_ns(None)?;
                let first = trace[0].0;
                Ok(trace.iter().map(|t| SimTime(first + round((t.0 - first) as f64 * stretch))).collect())
            }
        },
        Arrivals::Constant => Ok(accumulate(count, gap_ns(load.rate_rps)?, || 1.0)),
        Arrivals::Poisson => {
            let mut r = rng::stream(seed, "workload/arrivals");
            Ok(accumulate(count, gap_ns(load.rate_rps)?, || rng::exponential(&mut r, 1.0)))
        }
        Arrivals::Gamma(gamma) => {
            let mut r = rng::stream(seed, "workload/arrivals");
            let shape = 1.0 / (gamma.cv * gamma.cv);
            Ok(accumulate(count, gap_ns(load.rate_rps)?, || rng::gamma(&mut r, shape, 1.0 / shape)))
        }
    }
}

fn check_requests(requests: &Requests, trace: &[SimTime]) -> Result<(), SimError> {
    let invalid = |message: String| Err(SimError::Invalid { path: "workload", message });
    if u32::try_from(requests.len()).is_err() {
        return invalid(format!("{} requests; at most {} can be simulated at once", requests.len(), u32::MAX));
    }
    if trace.first().is_some_and(|t| t.0 < 0) {
        return invalid("request 0 arrives before the start of the trace".to_string());
    }
    if let Some(i) = trace.windows(2).position(|w| w[1] < w[0]) {
        return invalid(format!("request {} arrives before request {i}; sort the trace by arrival", i + 1));
    }
    for i in 0..trace.len() {
        if requests.input_tokens[i] == 0 || requests.output_tokens[i] == 0 {
            return invalid(format!(
                "request {i} has {} input and {} output tokens; both must be at least 1",
                requests.input_tokens[i], requests.output_tokens[i]
            ));
        }
    }
    Ok(())
}

/// Mean gap in nanoseconds: of the rate, else of the trace.
fn mean_gap_ns(rate: Option<f64>, trace: &[SimTime]) -> Result<f64, SimError> {
    if let Some(rate) = rate {
        return Ok(1e9 / rate);
    }
    match (trace.first(), trace.last()) {
        (Some(first), Some(last)) if last > first => Ok((last.0 - first.0) as f64 / (trace.len() - 1) as f64),
        (Some(_), Some(_)) => Err(SimError::Invalid {
            path: "workload.rate_rps",
            message: "all requests of the trace arrive at the same time, so it has no rate to keep or to stretch; set \
                      rate_rps together with arrivals: constant, poisson or gamma"
                .to_string(),
        }),
        (None, _) | (_, None) => Ok(0.0),
    }
}

/// Sums of `count` gaps of mean `gap_ns`; each sum is rounded once, so errors do not accumulate.
fn accumulate(count: usize, gap_ns: f64, mut unit_gap: impl FnMut() -> f64) -> Vec<SimTime> {
    let mut sum = 0.0;
    let mut next = || {
        sum += unit_gap();
        SimTime(round(sum * gap_ns))
    };
    (0..count).map(|_| next()).collect()
}

fn round(x: f64) -> i64 {
    (x + 0.5) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Gamma;

    fn trace(times: &[i64]) -> Requests {
        Requests {
            arrival: times.iter().map(|t| SimTime(*t)).collect(),
            input_tokens: vec![1; times.len()],
            output_tokens: vec![1; times.len()],
            ..Requests::default()
        }
    }

    fn times(load: &Load, requests: &Requests) -> Vec<i64> {
        arrivals(load, requests, 1).unwrap().iter().map(|t| t.0).collect()
    }

    #[test]
    fn a_trace_is_stretched_about_its_first_arrival() {
        let r = trace(&[1_000, 2_000, 5_000]);
        // 2 gaps in 4000 ns: half a million requests per second.
        let load = Load { rate_rps: Some(250_000.0), ..Load::default() };
        assert_eq!(times(&load, &r), [1_000, 3_000, 9_000]);
        assert_eq!(times(&Load { max_requests: Some(2), ..Load::default() }, &r), [1_000, 2_000]);
        let same = trace(&[5, 5]);
        assert!(arrivals(&load, &same, 1).is_err());
    }

    #[test]
    fn processes_have_their_mean_and_deviation_and_share_their_pattern() {
        let r = trace(&(0..20_000).collect::<Vec<_>>());
        for (process, cv) in [
            (Arrivals::Constant, 0.0),
            (Arrivals::Poisson, 1.0),
            (Arrivals::Gamma(Gamma { cv: 2.0 }), 2.0),
            (Arrivals::Gamma(Gamma { cv: 0.5 }), 0.5),
        ] {
            let slow = times(&Load { rate_rps: Some(1.0), arrivals: process, max_requests: None }, &r);
            let fast = times(&Load { rate_rps: Some(10.0), arrivals: process, max_requests: None }, &r);
            assert!(slow.iter().zip(&fast).all(|(s, f)| (s - f * 10).abs() <= 10), "{process:?}");
            let gaps: Vec<f64> = slow.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e9).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let var = gaps.iter().map(|g| (g - mean) * (g - mean)).sum::<f64>() / gaps.len() as f64;
            assert!((mean - 1.0).abs() < 0.05, "{process:?} mean {mean}");
            assert!((libm::sqrt(var) - cv).abs() < 0.1 * cv.max(0.01), "{process:?} deviation {}", libm::sqrt(var));
        }
    }
}
