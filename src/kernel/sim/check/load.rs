//! What can be wrong with the load and with the measurement.

use super::Problems;
use crate::scenario::{Arrivals, Load, Measure, Scenario, ThinkTime};
use crate::sim::{beams, samples};

/// Longest mean of a think time: eleven days.
const THINK_MAX_S: f64 = 1e6;
/// Largest coefficient of variation.
const CV_MAX: f64 = 100.0;

pub(super) fn check(scenario: &Scenario, p: &mut Problems) {
    load(&scenario.workload, p);
    closed(&scenario.workload, p);
    measure(&scenario.measure, p);
}

fn load(load: &Load, p: &mut Problems) {
    if let Some(rate) = load.rate_rps {
        p.positive_f64("workload.rate_rps", rate);
    }
    match load.arrivals {
        Arrivals::Trace | Arrivals::Constant | Arrivals::Poisson => {}
        Arrivals::Gamma(gamma) => {
            if !(gamma.cv.is_finite() && (0.01..=CV_MAX).contains(&gamma.cv)) {
                p.add("workload.arrivals.gamma.cv", format!("is {}; must be 0.01 to {CV_MAX}", gamma.cv));
            }
        }
    }
    if load.max_requests == Some(0) {
        p.add("workload.max_requests", "is 0; must be at least 1");
    }
    if load.max_tokens == Some(0) {
        p.add("workload.max_tokens", "is 0; must be at least 1");
    }
    let wrong = |n: u32| !(1..=samples::N_MAX).contains(&n);
    if let Some(n) = load.n.filter(|n| wrong(*n)) {
        p.add("workload.n", format!("is {n}; must be 1 to {}", samples::N_MAX));
    }
    p.extend(beams::problems(load));
    let spans = [
        ("workload.horizon_s", load.horizon_s),
        ("workload.deadline_ms", load.deadline_ms),
        ("workload.timeout_s", load.timeout_s),
        ("workload.cancel.after_s", load.cancel.map(|c| c.after_s)),
    ];
    for (path, span) in spans {
        if let Some(span) = span {
            p.positive_f64(path, span);
        }
    }
    if let Some(share) = load.cancel.map(|c| c.share)
        && !(0.0..=1.0).contains(&share)
    {
        p.add("workload.cancel.share", format!("is {share}; must be 0 to 1"));
    }
    for (name, rules) in &load.classes {
        if rules.max_tokens == Some(0) {
            p.add("workload.classes", format!("{name}.max_tokens is 0; must be at least 1"));
        }
        if let Some(n) = rules.n.filter(|n| wrong(*n)) {
            p.add("workload.classes", format!("{name}.n is {n}; must be 1 to {}", samples::N_MAX));
        }
        for (field, span) in [("deadline_ms", rules.deadline_ms), ("timeout_s", rules.timeout_s)] {
            if span.is_some_and(|span| !(span.is_finite() && span > 0.0)) {
                let span = span.unwrap_or_default();
                p.add("workload.classes", format!("{name}.{field} is {span}; must be a number above 0"));
            }
        }
    }
}

/// Users who wait for their replies, and how long they think.
fn closed(load: &Load, p: &mut Problems) {
    if let Some(users) = load.concurrency {
        p.positive("workload.concurrency", users);
        if load.rate_rps.is_some() {
            let message =
                "users who wait for their replies have no rate of their own; leave out `rate_rps`, or `concurrency`";
            p.add("workload.rate_rps", message);
        }
        if load.arrivals != Arrivals::Trace {
            let message = "users who wait for their replies send when those are there; leave out `arrivals`, or \
                           `concurrency`";
            p.add("workload.arrivals", message);
        }
    }
    match load.think_time {
        None => {}
        Some(ThinkTime::Constant(t)) => think(p, "constant.s", t.s, 0.0),
        Some(ThinkTime::Uniform(t)) => {
            think(p, "uniform.min_s", t.min_s, 0.0);
            // A wrong lower bound is a problem of its own.
            think(p, "uniform.max_s", t.max_s, if t.min_s.is_finite() { t.min_s.clamp(0.0, THINK_MAX_S) } else { 0.0 });
        }
        Some(ThinkTime::Exponential(t)) => think(p, "exponential.mean_s", t.mean_s, 0.0),
        Some(ThinkTime::Lognormal(t)) => {
            if t.mean_s == 0.0 {
                p.add("workload.think_time.lognormal.mean_s", "is 0; must be above 0, or write `constant: { s: 0 }`");
            }
            think(p, "lognormal.mean_s", t.mean_s, 0.0);
            p.within("workload.think_time.lognormal.cv", t.cv, (0.0, CV_MAX), "");
        }
    }
}

fn think(p: &mut Problems, field: &str, seconds: f64, low: f64) {
    p.within(format!("workload.think_time.{field}"), seconds, (low, THINK_MAX_S), " seconds");
}

fn measure(m: &Measure, p: &mut Problems) {
    for (path, span) in [("measure.warmup_s", m.warmup_s), ("measure.cooldown_s", m.cooldown_s)] {
        if !(span.is_finite() && span >= 0.0) {
            p.add(path, format!("is {span}; must be 0 or more"));
        }
    }
}
