//! Whether the requests of a scenario meet rules, and by how much. No I/O.
//!
//! A request that was not served has latencies of +infinity: it is in every quantile, and meets no maximum. The time
//! per output token of a reply of one token does not exist: it is left out of quantiles, and met in fractions, as in
//! vLLM's goodput. Other values that are missing are left out of quantiles, and missed in fractions.

use crate::query::quantile_of;

/// Bounds on a metric, given by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    pub metric: usize,
    pub max: Option<f64>,
    pub min: Option<f64>,
}

/// What is asked of the limits of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Over {
    /// They hold at this quantile of each metric.
    Quantile(f64),
    /// At least this fraction of the requests meets them.
    Fraction(f64),
}

/// How the limits of a rule are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    All,
    Any,
}

/// A rule, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedRule {
    pub name: String,
    pub class: Option<String>,
    pub over: Over,
    pub join: Join,
    pub limits: Vec<Bounds>,
}

/// The value of a metric of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    Value(f64),
    /// The metric does not apply: met, and in no quantile.
    NotApplicable,
    /// Unknown: missed, and in no quantile.
    Missing,
}

/// The requests of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Per request; empty if no rule looks at classes.
    pub classes: Vec<Option<String>>,
    /// Per metric and request.
    pub samples: Vec<Vec<Sample>>,
    pub count: usize,
}

/// How a rule, or a limit of a quantile rule, came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub rule: usize,
    /// The limit in the rule; `None` for fractions, which join all their limits.
    pub limit: Option<usize>,
    /// The quantile or the fraction that was reached; `None` if nothing could be measured.
    pub value: Option<f64>,
    /// What is left to the limit, relative to it; for fractions the difference. Negative where it is violated.
    pub margin: Option<f64>,
    pub pass: bool,
}

/// A scenario against all rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub scenario: i64,
    pub pass: bool,
    /// The smallest margin of a rule.
    pub margin: Option<f64>,
    /// Per rule.
    pub passed: Vec<bool>,
    /// The rule with the smallest margin.
    pub worst: Option<usize>,
    pub findings: Vec<Finding>,
}

/// Judges the requests of a scenario.
pub fn judge(scenario: i64, requests: &Requests, rules: &[CheckedRule]) -> Verdict {
    let mut verdict =
        Verdict { scenario, pass: true, margin: None, passed: Vec::new(), worst: None, findings: Vec::new() };
    for (index, rule) in rules.iter().enumerate() {
        let (findings, pass, margin) = judge_rule(index, rule, requests);
        verdict.findings.extend(findings);
        verdict.pass &= pass;
        verdict.passed.push(pass);
        if let Some(margin) = margin
            && verdict.margin.is_none_or(|m| margin < m)
        {
            verdict.margin = Some(margin);
            verdict.worst = Some(index);
        }
    }
    verdict
}

fn judge_rule(index: usize, rule: &CheckedRule, requests: &Requests) -> (Vec<Finding>, bool, Option<f64>) {
    let chosen: Vec<usize> = (0..requests.count)
        .filter(|&r| rule.class.is_none() || requests.classes.get(r).is_some_and(|c| *c == rule.class))
        .collect();
    match rule.over {
        Over::Quantile(q) => {
            let findings: Vec<Finding> = rule
                .limits
                .iter()
                .enumerate()
                .map(|(at, bounds)| at_quantile(index, at, bounds, q, requests, &chosen))
                .collect();
            let margins = findings.iter().filter_map(|f| f.margin);
            let (pass, margin) = match rule.join {
                Join::All => (findings.iter().all(|f| f.pass), margins.reduce(f64::min)),
                Join::Any => (findings.iter().any(|f| f.pass), margins.reduce(f64::max)),
            };
            (findings, pass, margin)
        }
        Over::Fraction(wanted) => {
            let met = chosen.iter().filter(|&&r| meets(rule, requests, r)).count();
            let value = (!chosen.is_empty()).then(|| met as f64 / chosen.len() as f64);
            let pass = value.is_some_and(|v| v >= wanted);
            let margin = Some(value.map_or(f64::NEG_INFINITY, |v| v - wanted));
            (vec![Finding { rule: index, limit: None, value, margin, pass }], pass, margin)
        }
    }
}

fn at_quantile(rule: usize, limit: usize, bounds: &Bounds, q: f64, requests: &Requests, chosen: &[usize]) -> Finding {
    let samples = &requests.samples[bounds.metric];
    let mut values: Vec<f64> = chosen
        .iter()
        .filter_map(|&r| match samples[r] {
            Sample::Value(v) => Some(v),
            Sample::NotApplicable | Sample::Missing => None,
        })
        .collect();
    match quantile_of(&mut values, q) {
        Some(value) => Finding {
            rule,
            limit: Some(limit),
            value: Some(value),
            margin: margin(value, bounds),
            pass: holds(value, bounds),
        },
        // Requests to which the metric does not apply meet the limit; without any request there is nothing to praise.
        None => {
            let pass = chosen.iter().any(|&r| samples[r] == Sample::NotApplicable);
            Finding { rule, limit: Some(limit), value: None, margin: (!pass).then_some(f64::NEG_INFINITY), pass }
        }
    }
}

fn meets(rule: &CheckedRule, requests: &Requests, request: usize) -> bool {
    let mut each = rule.limits.iter().map(|bounds| match requests.samples[bounds.metric][request] {
        Sample::Value(v) => holds(v, bounds),
        Sample::NotApplicable => true,
        Sample::Missing => false,
    });
    match rule.join {
        Join::All => each.all(|met| met),
        Join::Any => each.any(|met| met),
    }
}

fn holds(value: f64, bounds: &Bounds) -> bool {
    bounds.max.is_none_or(|max| value <= max) && bounds.min.is_none_or(|min| value >= min)
}

/// The smaller of the distances to both bounds, each relative to its bound; absolute where the bound is 0.
fn margin(value: f64, bounds: &Bounds) -> Option<f64> {
    let scaled = |distance: f64, bound: f64| if bound == 0.0 { distance } else { distance / bound.abs() };
    let below = bounds.max.map(|max| scaled(max - value, max));
    let above = bounds.min.map(|min| scaled(value - min, min));
    below.into_iter().chain(above).reduce(f64::min)
}
