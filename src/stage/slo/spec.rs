//! The rules as written: what is wrong with them, and the checked form that is judged by.

use std::collections::BTreeSet;

use arrow::array::{AsArray, Float64Array, RecordBatch};
use arrow::compute::{binary, cast};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};

use super::judge::{Bounds, CheckedRule, Join, Over};
use crate::diag::{Diagnostic, Failure, Result, Span, nearest};
use crate::query::errors::did_you_mean;
use crate::spec::{Limit, Rule, Slo, StageSpec, Text};
use crate::stage::CheckCx;

/// Metrics that every requests table has, for when its schema is not known yet.
const USUAL: &[&str] = &[
    "ttft_ms",
    "tpot_ms",
    "itl_ms_mean",
    "itl_ms_p99",
    "itl_ms_max",
    "e2e_ms",
    "queue_ms",
    "prefill_ms",
    "decode_ms",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "preemptions",
];

/// Names of Vidur's configuration explorer, in seconds: the times that are summed, and the tokens that the sum is divided by.
/// Vidur divides by all tokens of a reply, also the first.
const EXPLORER: &[(&str, &[&str], Option<&str>)] = &[
    ("request_scheduling_delay", &["queue_ns"], None),
    ("request_e2e_time", &["e2e_ns"], None),
    ("request_e2e_time_normalized", &["e2e_ns"], Some("output_tokens")),
    ("request_execution_plus_preemption_time", &["prefill_ns", "decode_ns"], None),
    ("request_execution_plus_preemption_time_normalized", &["prefill_ns", "decode_ns"], Some("output_tokens")),
    ("prefill_e2e_time", &["ttft_ns"], None),
    ("prefill_e2e_time_normalized", &["ttft_ns"], Some("input_tokens")),
    ("prefill_time_execution_plus_preemption", &["prefill_ns"], None),
    ("prefill_time_execution_plus_preemption_normalized", &["prefill_ns"], Some("input_tokens")),
    ("decode_time_execution_plus_preemption_normalized", &["decode_ns"], Some("output_tokens")),
];

/// A metric of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    pub name: String,
    /// Columns of the requests whose sum it is.
    pub columns: Vec<String>,
    /// Column that the sum is divided by.
    pub per: Option<&'static str>,
    /// What the stored value is divided by.
    pub divisor: f64,
    /// A latency: infinite for a request that was not served.
    pub is_time: bool,
    /// A time between tokens, which a reply of one token does not have.
    pub is_per_token: bool,
}

impl Metric {
    fn named(name: &str) -> Metric {
        if let Some((_, columns, per)) = EXPLORER.iter().find(|(known, ..)| *known == name) {
            return Metric {
                name: name.to_string(),
                columns: columns.iter().map(|c| c.to_string()).collect(),
                per: *per,
                divisor: 1e9,
                is_time: true,
                is_per_token: false,
            };
        }
        let has = |unit: &str| name.split('_').any(|word| word == unit);
        Metric {
            name: name.to_string(),
            // Times are stored in nanoseconds.
            columns: vec![unit(name, "ms", "ns")],
            per: None,
            divisor: if has("ms") { 1e6 } else { 1.0 },
            is_time: has("ms") || has("ns"),
            is_per_token: name.starts_with("tpot_") || name.starts_with("itl_"),
        }
    }

    /// Its values in requests with its columns, before they are divided by the unit.
    ///
    /// # Errors
    /// A column is missing, or no number.
    pub fn values(&self, requests: &RecordBatch) -> Result<Float64Array> {
        let wrong = |name: &str| Failure::stage("slo::input", format!("the requests have no usable column `{name}`"));
        let numbers = |name: &str| -> Result<Float64Array> {
            let column = requests.column_by_name(name).ok_or_else(|| wrong(name))?;
            let column = cast(column, &DataType::Float64).map_err(|_| wrong(name))?;
            Ok(column.as_primitive::<Float64Type>().clone())
        };
        let mut sum = numbers(&self.columns[0])?;
        for name in &self.columns[1..] {
            sum = binary(&sum, &numbers(name)?, |a, b| a + b).map_err(|_| wrong(name))?;
        }
        match self.per {
            Some(name) => binary(&sum, &numbers(name)?, |a, b| a / b).map_err(|_| wrong(name)),
            None => Ok(sum),
        }
    }
}

/// A name in another unit: `itl_ns_p99` in `ms` is `itl_ms_p99`.
fn unit(name: &str, from: &str, to: &str) -> String {
    let words: Vec<&str> = name.split('_').map(|word| if word == from { to } else { word }).collect();
    words.join("_")
}

/// The column of times that a limit is on, and its maximum in seconds; `None` where it is no maximum of one such column.
pub fn seconds_of(limit: &Limit) -> Option<(&'static str, f64)> {
    let metric = Metric::named(&limit.metric.value);
    let known = ["ttft_ns", "e2e_ns"].into_iter().find(|name| metric.columns == [name.to_string()])?;
    (metric.per.is_none() && metric.is_time).then_some(())?;
    Some((known, limit.max? * metric.divisor / 1e9))
}

/// The metrics that rules name, each once, in order.
pub fn metrics(rules: &[Rule]) -> Vec<Metric> {
    let mut found: Vec<Metric> = Vec::new();
    for limit in rules.iter().flat_map(|r| r.all.iter().chain(&r.any)) {
        if !found.iter().any(|m| m.name == limit.metric.value) {
            found.push(Metric::named(&limit.metric.value));
        }
    }
    found
}

/// The rules as they are judged.
///
/// # Errors
/// A rule that [`problems`] would have refused.
pub fn checked(rules: &[Rule], metrics: &[Metric]) -> Result<Vec<CheckedRule>> {
    rules.iter().map(|rule| checked_rule(rule, metrics)).collect()
}

fn checked_rule(rule: &Rule, metrics: &[Metric]) -> Result<CheckedRule> {
    let refused = || Failure::from(Diagnostic::new("slo::rule", format!("rule `{}` is not valid", rule.name.value)));
    let over = match (rule.quantile, rule.fraction) {
        (Some(q), None) => Over::Quantile(q),
        (None, Some(f)) => Over::Fraction(f),
        _ => return Err(refused()),
    };
    let (join, limits) = if rule.any.is_empty() { (Join::All, &rule.all) } else { (Join::Any, &rule.any) };
    let limits = limits
        .iter()
        .map(|l| {
            let metric = metrics.iter().position(|m| m.name == l.metric.value).ok_or_else(refused)?;
            Ok(Bounds { metric, max: l.max, min: l.min })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(CheckedRule { name: rule.name.value.clone(), class: rule.class.clone(), over, join, limits })
}

/// Everything that is wrong with the stage's settings.
pub fn problems(slo: &Slo, cx: &CheckCx) -> Vec<Diagnostic> {
    let mut problems = source_problems(&slo.from.0, cx);
    let table = format!("{}_requests", slo.from.0.value);
    let schema = cx.tables.get(&table).and_then(|t| t.schema.as_ref());
    problems.extend(rules_problems(&slo.rules, slo.from.0.at.as_ref(), schema));
    problems
}

/// Everything that is wrong with rules over requests with these columns, where they are known.
pub fn rules_problems(rules: &[Rule], at: Option<&Span>, requests: Option<&SchemaRef>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    if rules.is_empty() {
        problems.push(
            Diagnostic::new("slo::rules", "there are no rules")
                .at(at.cloned())
                .help("e.g. `[{ name: interactive, quantile: 0.99, all: [{ metric: ttft_ms, max: 500 }] }]`"),
        );
    }
    let valid = valid_metrics(requests);
    let mut names = BTreeSet::new();
    for rule in rules {
        if !names.insert(rule.name.value.as_str()) {
            let what = format!("there are two rules named `{}`", rule.name.value);
            problems.push(Diagnostic::new("slo::name", what).at(rule.name.at.clone()));
        }
        rule_problems(rule, &valid, &mut problems);
    }
    problems
}

fn source_problems(from: &Text, cx: &CheckCx) -> Vec<Diagnostic> {
    let is_simulation = |spec: &StageSpec| matches!(spec, StageSpec::Simulate(_));
    let simulations: Vec<&str> =
        cx.stages.iter().filter(|s| is_simulation(&s.spec)).map(|s| s.name.value.as_str()).collect();
    if simulations.contains(&from.value.as_str()) {
        return Vec::new();
    }
    let exists = cx.stages.iter().any(|s| s.name.value == from.value);
    let what = if exists {
        format!("`{}` is not a `simulate` stage", from.value)
    } else {
        format!("there is no stage `{}`", from.value)
    };
    let help = match (nearest(&from.value, simulations.iter().copied()), simulations.is_empty()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, false) => format!("`simulate` stages: {}", simulations.join(", ")),
        (None, true) => "this pipeline has no `simulate` stage".to_string(),
    };
    vec![Diagnostic::new("slo::from", what).at(from.at.clone()).help(help)]
}

fn valid_metrics(requests: Option<&SchemaRef>) -> Vec<String> {
    let explorer = EXPLORER.iter().map(|(name, ..)| name.to_string());
    let Some(schema) = requests else {
        return USUAL.iter().map(|m| m.to_string()).chain(explorer).collect();
    };
    let keys = ["scenario_id", "request_id", "replica"];
    let numeric: Vec<&String> =
        schema.fields().iter().filter(|f| f.data_type().is_numeric()).map(|f| f.name()).collect();
    let times = numeric.iter().map(|n| unit(n, "ns", "ms")).filter(|n| !numeric.contains(&n));
    let others = numeric.iter().filter(|n| !keys.contains(&n.as_str())).map(|n| n.to_string());
    times.chain(others).chain(explorer).collect()
}

fn rule_problems(rule: &Rule, valid: &[String], problems: &mut Vec<Diagnostic>) {
    let name = &rule.name.value;
    let mut add = |what: String, at: &Option<Span>, help: &str| {
        problems.push(Diagnostic::new("slo::rule", what).at(at.clone()).help(help));
    };
    match (rule.quantile, rule.fraction) {
        (Some(_), Some(_)) => add(
            format!("rule `{name}` has both `quantile` and `fraction`"),
            &rule.name.at,
            "`quantile: 0.99` limits that quantile of each metric; `fraction: 0.99` asks that so many requests meet \
             all limits at once; keep one",
        ),
        (None, None) => add(
            format!("rule `{name}` has neither `quantile` nor `fraction`"),
            &rule.name.at,
            "write `quantile: 0.99` or `fraction: 0.99`",
        ),
        (Some(x), None) | (None, Some(x)) if !(0.0..=1.0).contains(&x) => add(
            format!("rule `{name}`: {x} is not from 0 to 1"),
            &rule.name.at,
            "the 99th percentile is `quantile: 0.99`",
        ),
        _ => {}
    }
    match (rule.all.is_empty(), rule.any.is_empty()) {
        (true, true) => {
            add(format!("rule `{name}` has no limits"), &rule.name.at, "write `all: [{ metric: ttft_ms, max: 500 }]`")
        }
        (false, false) => add(
            format!("rule `{name}` has both `all` and `any`"),
            &rule.name.at,
            "keep one of them, or make two rules: every rule must hold",
        ),
        _ => {}
    }
    for limit in rule.all.iter().chain(&rule.any) {
        limit_problems(limit, valid, problems);
    }
}

fn limit_problems(limit: &Limit, valid: &[String], problems: &mut Vec<Diagnostic>) {
    let metric = &limit.metric;
    let mut add = |what: String, help: String| {
        problems.push(Diagnostic::new("slo::limit", what).at(metric.at.clone()).help(help));
    };
    if !valid.contains(&metric.value) {
        add(format!("there is no metric `{}`", metric.value), did_you_mean(&metric.value, valid, "metrics"));
    }
    let bounds = || "write `max: 500`, `min: 1`, or both".to_string();
    match (limit.max, limit.min) {
        (None, None) => add(format!("`{}` has no limit", metric.value), bounds()),
        (Some(max), Some(min)) if min >= max => {
            add(
                format!("`{}`: nothing is above {min} and below {max}", metric.value),
                "`min` is below `max`".to_string(),
            );
        }
        _ => {}
    }
    if limit.max.into_iter().chain(limit.min).any(|b| !b.is_finite()) {
        add(format!("`{}`: a limit is a finite number", metric.value), bounds());
    }
}
