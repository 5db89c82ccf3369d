//! How far a simulation is from what was measured: the features of both, and the two error functions over them.
//!
//! As inference-sim's optimizer has it (`optimizer.py`): per case median, mean and 99th percentile of TTFT and of TPOT,
//! each a list over the cases, and the TTFTs and the TPOTs of all cases behind each other, request by request. An error
//! is the mean over features.

use std::collections::BTreeMap;

use crate::spec::ErrorFunction;

/// The six features that are one number per case, in the order of the field's list.
pub(super) const STATISTICS: [&str; 6] =
    ["ttft_ms_p50", "tpot_ms_p50", "ttft_ms_mean", "tpot_ms_mean", "ttft_ms_p99", "tpot_ms_p99"];
/// The two that are one number per request.
pub(super) const LISTS: [&str; 2] = ["ttft_ms", "tpot_ms"];
/// What published aggregates may be of.
const METRICS: [&str; 3] = ["ttft_ms", "tpot_ms", "e2e_ms"];
const SUFFIXES: [&str; 5] = ["mean", "p50", "p90", "p95", "p99"];
/// Requests per second.
pub(super) const RPS: &str = "rps";

/// Names of all aggregates that can be a target.
pub(super) fn targets() -> Vec<String> {
    let of = |metric: &str| SUFFIXES.map(|suffix| format!("{metric}_{suffix}"));
    METRICS.iter().flat_map(|m| of(m)).chain([RPS.to_string()]).collect()
}

/// Times of the requests of one case, in milliseconds, in the order of the requests; and what else is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Times {
    pub ttft_ms: Vec<f64>,
    pub tpot_ms: Vec<f64>,
    pub e2e_ms: Vec<f64>,
    /// Aggregates that the source states itself; they go before those that follow from the lists.
    pub stated: BTreeMap<String, f64>,
}

impl Times {
    /// An aggregate by its name; `None` where there is nothing to take it of.
    pub fn aggregate(&self, name: &str) -> Option<f64> {
        if let Some(stated) = self.stated.get(name) {
            return Some(*stated);
        }
        let (metric, statistic) = name.rsplit_once('_')?;
        let list = match metric {
            "ttft_ms" => &self.ttft_ms,
            "tpot_ms" => &self.tpot_ms,
            "e2e_ms" => &self.e2e_ms,
            _ => return None,
        };
        if list.is_empty() {
            return None;
        }
        match statistic {
            "mean" => Some(list.iter().sum::<f64>() / list.len() as f64),
            quantile => {
                let percent: f64 = quantile.strip_prefix('p')?.parse().ok()?;
                Some(percentile(list, percent / 100.0))
            }
        }
    }

    pub fn list(&self, name: &str) -> &[f64] {
        match name {
            "ttft_ms" => &self.ttft_ms,
            "tpot_ms" => &self.tpot_ms,
            _ => &self.e2e_ms,
        }
    }
}

/// Exact, with linear interpolation, as numpy takes it.
fn percentile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = q * (sorted.len() - 1) as f64;
    let low = rank as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (rank - low as f64) * (sorted[high] - sorted[low])
}

/// A feature of some cases: simulated and measured values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Feature {
    pub name: String,
    pub simulated: Vec<f64>,
    pub measured: Vec<f64>,
}

/// The features of some cases, each simulated and measured. `targets`: names of aggregates in place of the eight.
pub(super) fn features(cases: &[(&Times, &Times)], targets: Option<&[String]>) -> Vec<Feature> {
    let aggregate = |name: &str| Feature {
        name: name.to_string(),
        simulated: cases.iter().filter_map(|(simulated, _)| simulated.aggregate(name)).collect(),
        measured: cases.iter().filter_map(|(_, measured)| measured.aggregate(name)).collect(),
    };
    if let Some(names) = targets {
        // Cases need not all have the same targets.
        let having = |name: &String| -> Feature {
            let cases = || cases.iter().filter(|(_, measured)| measured.stated.contains_key(name));
            Feature {
                name: name.clone(),
                simulated: cases().filter_map(|(simulated, _)| simulated.aggregate(name)).collect(),
                measured: cases().filter_map(|(_, measured)| measured.aggregate(name)).collect(),
            }
        };
        return names.iter().map(having).collect();
    }
    let list = |name: &str| Feature {
        name: name.to_string(),
        simulated: cases.iter().flat_map(|(simulated, _)| simulated.list(name)).copied().collect(),
        measured: cases.iter().flat_map(|(_, measured)| measured.list(name)).copied().collect(),
    };
    STATISTICS.iter().map(|name| aggregate(name)).chain(LISTS.iter().map(|name| list(name))).collect()
}

/// The error of a feature; `None` where it does not count.
pub(super) fn error_of(feature: &Feature, function: ErrorFunction) -> Option<f64> {
    let Feature { simulated, measured, .. } = feature;
    let pairs = || simulated.iter().zip(measured);
    match function {
        ErrorFunction::Mse => {
            if simulated.len() != measured.len() || simulated.is_empty() {
                return Some(f64::INFINITY);
            }
            Some(pairs().map(|(s, m)| (s - m) * (s - m)).sum::<f64>() / simulated.len() as f64)
        }
        ErrorFunction::Mape => {
            if simulated.len() < measured.len() {
                return Some(f64::INFINITY);
            }
            if measured.len() < simulated.len() {
                return None;
            }
            let relative: Vec<f64> = pairs().filter(|(_, m)| **m > 0.0).map(|(s, m)| ((s - m) / m).abs()).collect();
            (!relative.is_empty()).then(|| relative.iter().sum::<f64>() / relative.len() as f64)
        }
    }
}

/// The mean over the features that count; infinite where none does.
pub(super) fn error(features: &[Feature], function: ErrorFunction) -> f64 {
    let all: Vec<f64> = features.iter().filter_map(|f| error_of(f, function)).collect();
    if all.is_empty() { f64::INFINITY } else { all.iter().sum::<f64>() / all.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ttft: &[f64], tpot: &[f64]) -> Times {
        Times { ttft_ms: ttft.to_vec(), tpot_ms: tpot.to_vec(), ..Times::default() }
    }

    #[test]
    fn eight_features_as_the_optimizer_has_them() {
        let (sim_a, real_a) = (times(&[10.0, 20.0], &[1.0, 2.0]), times(&[10.0, 40.0], &[1.0, 4.0]));
        let (sim_b, real_b) = (times(&[30.0], &[3.0]), times(&[20.0], &[0.0]));
        let all = features(&[(&sim_a, &real_a), (&sim_b, &real_b)], None);
        assert_eq!(all.len(), 8);
        assert_eq!((all[0].simulated.clone(), all[0].measured.clone()), (vec![15.0, 30.0], vec![25.0, 20.0]));
        assert_eq!(
            (all[6].simulated.clone(), all[6].measured.clone()),
            (vec![10.0, 20.0, 30.0], vec![10.0, 40.0, 20.0])
        );
        // Medians: |15 - 25| / 25 and |30 - 20| / 20.
        assert!((error_of(&all[0], ErrorFunction::Mape).unwrap() - 0.45).abs() < 1e-12);
        // 1.5 for 2.5; a measured 0 does not count.
        assert!((error_of(&all[1], ErrorFunction::Mape).unwrap() - 0.4).abs() < 1e-12);
        assert!((error_of(&all[6], ErrorFunction::Mape).unwrap() - (0.0 + 0.5 + 0.5) / 3.0).abs() < 1e-12);
        assert!((error_of(&all[6], ErrorFunction::Mse).unwrap() - (0.0 + 400.0 + 100.0) / 3.0).abs() < 1e-12);
        // p99 of two values: 0.99 of the way.
        assert!((all[4].simulated[0] - 19.9).abs() < 1e-12);
        // Features, each with its error: 0.45, 0.4, 0.45, 0.4, p99 19.9/39.7 and 30/20, 1.99/3.97, lists 1/3 and 1/4.
        let p99 = ((19.9f64 - 39.7).abs() / 39.7 + 0.5) / 2.0;
        let p99_tpot = (1.99f64 - 3.97).abs() / 3.97;
        let expect = (0.45 + 0.4 + 0.45 + 0.4 + p99 + p99_tpot + 1.0 / 3.0 + 0.25) / 8.0;
        assert!((error(&all, ErrorFunction::Mape) - expect).abs() < 1e-12);
    }

    #[test]
    fn lengths_that_differ() {
        let all = |sim: &[f64], real: &[f64]| {
            let (sim, real) = (times(sim, sim), times(real, real));
            features(&[(&sim, &real)], None)
        };
        // Fewer simulated than measured: no trial to be taken.
        assert_eq!(error(&all(&[1.0], &[1.0, 1.0]), ErrorFunction::Mape), f64::INFINITY);
        // Fewer measured: the lists are left out, the statistics count.
        assert!((error(&all(&[2.0, 2.0], &[1.0]), ErrorFunction::Mape) - 1.0).abs() < 1e-12);
        assert_eq!(error(&all(&[2.0, 2.0], &[1.0]), ErrorFunction::Mse), f64::INFINITY);
        assert_eq!(error(&all(&[1.0], &[]), ErrorFunction::Mape), f64::INFINITY);
        assert_eq!(error(&all(&[1.0], &[0.0]), ErrorFunction::Mape), f64::INFINITY);
        assert_eq!(error(&all(&[3.0], &[1.0]), ErrorFunction::Mse), 4.0);
    }

    #[test]
    fn aggregates_that_were_published() {
        let sim = Times { e2e_ms: vec![100.0, 200.0], ..times(&[10.0, 20.0], &[1.0, 2.0]) };
        let stated = BTreeMap::from([("ttft_ms_mean".to_string(), 30.0), ("e2e_ms_p50".to_string(), 100.0)]);
        let real = Times { stated, ..Times::default() };
        let names = ["ttft_ms_mean".to_string(), "e2e_ms_p50".to_string()];
        let all = features(&[(&sim, &real)], Some(&names));
        assert!((error(&all, ErrorFunction::Mape) - 0.5).abs() < 1e-12);
        assert_eq!(targets().len(), 16);
        assert!(targets().iter().all(|t| t == RPS || sim.aggregate(t).is_some()));
    }
}
