//! A trace that was drawn is found again, and drawn again like it.

use super::*;
use crate::scenario::{Gamma, ThinkTime};
use std::collections::BTreeSet;

fn drawn(more: &str) -> Made {
    let text = format!(
        r#"{{"duration_s": 20000, "input": {{"lognormal_p50_p90": {{"p50": 300, "p90": 900}}}},
            "output": {{"exponential": {{"mean": 200}}}}, "correlation": {{"gaussian": {{"rho": 0.7}}}}, {more}}}"#
    );
    let workload: Synthetic = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(workload.problems(), []);
    generate_all(&workload, 17)
}

fn observed(made: &Made) -> Observed {
    let r = &made.requests;
    let n = r.len();
    Observed {
        arrival_s: r.arrival.iter().map(|t| t.0 as f64 / 1e9).collect(),
        input: r.input_tokens.clone(),
        output: r.output_tokens.clone(),
        session: (0..n).map(|i| r.session.get(i).copied().flatten()).collect(),
        think_s: (0..n).map(|i| r.think.get(i).copied().flatten().map(|t| t.as_s())).collect(),
        blocks: (0..n).map(|i| r.hashes(i).to_vec()).collect(),
    }
}

const SETTINGS: FitSettings =
    FitSettings { window_s: 1000.0, span_s: 20_000.0, joint: true, sessions: true, prefixes: true, block_tokens: 16 };

fn figure(of: &Fitted, name: &str) -> f64 {
    of.figures.iter().find(|(n, ..)| *n == name).unwrap_or_else(|| panic!("{name}: {:?}", of.figures)).2
}

fn again(fitted: &Fitted) -> Made {
    let workload = Synthetic { duration_s: Some(20_000.0), ..fitted.body.clone() };
    assert_eq!(workload.problems(), []);
    generate_all(&workload, 99)
}

#[test]
fn rates_bursts_and_lengths_are_found() {
    let made = drawn(
        r#""arrivals": {"gamma": {"cv": 2}}, "rate_schedule": {"pieces": [{"for_s": 10000, "rate_rps": 1},
        {"for_s": 10000, "rate_rps": 4}]}"#,
    );
    let found = fit(&observed(&made), &SETTINGS);
    assert!((figure(&found, "gaps_cv") - 2.0).abs() < 0.1, "{}", figure(&found, "gaps_cv"));
    let rates: Vec<f64> = found.figures.iter().filter(|f| f.0 == "rate_rps").map(|f| f.2).collect();
    assert_eq!(rates.len(), 20);
    assert!(rates[..10].iter().all(|r| (r - 1.0).abs() < 0.4) && rates[10..].iter().all(|r| (r - 4.0).abs() < 0.8));
    let expect = 6.0 / std::f64::consts::PI * 0.35f64.asin();
    assert!((figure(&found, "lengths_rank_correlation") - expect).abs() < 0.02);
    let mean = |made: &Made| {
        made.requests.input_tokens.iter().map(|t| f64::from(*t)).sum::<f64>() / made.requests.len() as f64
    };
    for joint in [true, false] {
        let found = fit(&observed(&made), &FitSettings { joint, ..SETTINGS });
        let more = again(&found);
        let n = more.requests.len() as f64;
        assert!((n / made.requests.len() as f64 - 1.0).abs() < 0.05, "{n}");
        assert!((mean(&more) / mean(&made) - 1.0).abs() < 0.03);
        let rho = rank_correlation(&more.requests.input_tokens, &more.requests.output_tokens).unwrap();
        assert!((rho - expect).abs() < 0.03, "{joint}: {rho}");
        let late = more.requests.arrival.iter().filter(|t| t.0 >= 10_000_000_000_000).count() as f64;
        assert!((late / n - 0.8).abs() < 0.03, "{late} of {n}");
        let refit = fit(&observed(&more), &SETTINGS);
        assert!((figure(&refit, "gaps_cv") - 2.0).abs() < 0.15);
    }
}

#[test]
fn sessions_and_prefixes_are_found() {
    let made = drawn(
        r#""rate_rps": 0.5, "prefix_groups": [{"weight": 3, "tokens": 160}, {"weight": 1, "tokens": 0}], "sessions":
        {"turns": {"uniform": {"min": 1, "max": 5}}, "think_time": {"lognormal": {"mean_s": 30, "cv": 0.5}}, "turn_s": 2}"#,
    );
    let found = fit(&observed(&made), &SETTINGS);
    assert!((figure(&found, "turns_mean") - 3.0).abs() < 0.1 && figure(&found, "accumulate") == 1.0);
    assert!((figure(&found, "think_s_mean") - 30.0).abs() < 0.6 && (figure(&found, "think_s_cv") - 0.5).abs() < 0.03);
    assert!((figure(&found, "prefix_share") - 0.75).abs() < 0.02, "{}", figure(&found, "prefix_share"));
    assert_eq!(found.body.prefix_groups[0].tokens, 160);
    assert!(matches!(found.body.arrivals, ArrivalProcess::Gamma(Gamma { cv }) if (cv - 1.0).abs() < 0.05));
    assert!(matches!(found.body.sessions.as_ref().unwrap().think_time, ThinkTime::Lognormal(_)));
    let more = again(&found);
    let mean = |made: &Made| {
        made.requests.input_tokens.iter().map(|t| f64::from(*t)).sum::<f64>() / made.requests.len() as f64
    };
    assert!((mean(&more) / mean(&made) - 1.0).abs() < 0.06, "{} {}", mean(&more), mean(&made));
    let firsts = (0..more.requests.len()).filter_map(|i| more.requests.hashes(i).get(9)).collect::<Vec<_>>();
    let distinct = firsts.iter().collect::<BTreeSet<_>>().len();
    assert!(distinct < firsts.len() / 2, "{distinct} of {}", firsts.len());
    // As requests of their own, turns have neither sessions nor think times.
    let flat = fit(&observed(&made), &FitSettings { sessions: false, prefixes: false, ..SETTINGS });
    assert!(flat.body.sessions.is_none() && flat.body.prefix_groups.is_empty());
    assert_eq!(figure(&flat, "new_input_tokens_mean"), figure(&flat, "input_tokens_mean"));
}

#[test]
fn ranks_of_ties_are_shared() {
    assert_eq!(rank_correlation(&[1, 2, 3], &[2, 4, 9]), Some(1.0));
    assert_eq!(rank_correlation(&[1, 2, 3], &[3, 2, 1]), Some(-1.0));
    assert_eq!(rank_correlation(&[1, 1], &[3, 2]), None);
    // Ranks 0.5, 0.5, 2, 3 and 0, 1, 2, 3.
    assert!((rank_correlation(&[5, 5, 6, 7], &[1, 2, 3, 4]).unwrap() - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12);
}
