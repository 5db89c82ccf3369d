//! What the stage tells at the end of a run: how many scenarios meet the rules, and which of them is the cheapest.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::execution::context::SessionContext;

use super::judge::{CheckedRule, Finding, Join, Over, Verdict};
use super::spec::Metric;
use crate::diag::{Failure, Result};
use crate::query::errors::running;
use crate::stage::Outcome;

/// Columns of the scenarios that say what was configured lie between these two.
const FIRST: &str = "scenario";
const GPUS: &str = "gpus";

/// What is told of each scenario.
#[derive(Clone, Debug, Default)]
pub struct Scenarios {
    /// Per scenario: number of GPUs, and the settings that differ between scenarios.
    pub rows: BTreeMap<i64, (i64, String)>,
}

impl Scenarios {
    /// Reads the scenarios of a simulation.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn read(ctx: &SessionContext, table: &str) -> Result<Scenarios> {
        let rows = ctx.table(table).await.map_err(|e| running(&e))?;
        let schema = rows.schema().as_arrow().clone().into();
        let batches = rows.collect().await.map_err(|e| running(&e))?;
        let all = concat_batches(&schema, &batches).map_err(|e| running(&e.into()))?;
        Scenarios::of(&all)
    }

    fn of(all: &RecordBatch) -> Result<Scenarios> {
        let wrong = |what: &str| Failure::stage("slo::input", format!("the scenarios have no usable column `{what}`"));
        let integers = |name: &str| -> Result<Vec<i64>> {
            let array = all.column_by_name(name).ok_or_else(|| wrong(name))?;
            let array = cast(array, &DataType::Int64).map_err(|_| wrong(name))?;
            Ok(array.as_primitive::<Int64Type>().values().to_vec())
        };
        let (ids, gpus) = (integers("scenario_id")?, integers(GPUS)?);
        let schema = all.schema();
        let names = schema.fields().iter().map(|f| f.name().as_str());
        let settings: Vec<&str> = names.skip_while(|n| *n != FIRST).skip(1).take_while(|n| *n != GPUS).collect();
        let mut described = vec![Vec::new(); all.num_rows()];
        for name in settings {
            let array = all.column_by_name(name).ok_or_else(|| wrong(name))?;
            let Ok(text) = cast(array, &DataType::Utf8) else { continue };
            let text = text.as_string::<i32>();
            let value = |i: usize| if text.is_null(i) { "none" } else { text.value(i) };
            if (1..text.len()).any(|i| value(i) != value(0)) {
                described.iter_mut().enumerate().for_each(|(i, d)| d.push(format!("{name} = {}", value(i))));
            }
        }
        let rows = ids.into_iter().zip(gpus.into_iter().zip(described.iter().map(|d| d.join(", ")))).collect();
        Ok(Scenarios { rows })
    }

    /// `scenario 3: 2 GPUs (rate_rps = 8)`.
    fn describe(&self, scenario: i64) -> String {
        let Some((gpus, settings)) = self.rows.get(&scenario) else { return format!("scenario {scenario}") };
        let unit = if *gpus == 1 { "GPU" } else { "GPUs" };
        let settings = if settings.is_empty() { String::new() } else { format!(" ({settings})") };
        format!("scenario {scenario}: {gpus} {unit}{settings}")
    }
}

/// The metrics of a finding, in the order of the rule.
pub fn metric_names(rule: &CheckedRule, limit: Option<usize>, metrics: &[Metric]) -> String {
    let name = |l: usize| metrics[rule.limits[l].metric].name.clone();
    match limit {
        Some(limit) => name(limit),
        None => (0..rule.limits.len()).map(name).collect::<Vec<_>>().join(", "),
    }
}

/// The answer, and the text of the assertion where no scenario passes.
pub fn outcome(
    stage: &str,
    verdicts: &[Verdict],
    rules: &[CheckedRule],
    metrics: &[Metric],
    scenarios: &Scenarios,
    assert: bool,
) -> Outcome {
    let total = verdicts.len();
    let passing: Vec<&Verdict> = verdicts.iter().filter(|v| v.pass).collect();
    let all: Vec<&str> = rules.iter().map(|r| r.name.as_str()).collect();
    let mut answer = vec![format!(
        "{stage}: {} of {total} {} {}",
        passing.len(),
        if total == 1 { "scenario meets" } else { "scenarios meet" },
        all.join(", ")
    )];
    for (i, rule) in rules.iter().enumerate() {
        let met = verdicts.iter().filter(|v| v.passed[i]).count();
        answer.push(format!("  {}: met by {met} of {total}: {}", rule.name, in_words(rule, metrics)));
    }
    let gpus = |v: &Verdict| scenarios.rows.get(&v.scenario).map_or(i64::MAX, |(gpus, _)| *gpus);
    let margin = |v: &Verdict| v.margin.unwrap_or(f64::INFINITY);
    let better = |a: &&&Verdict, b: &&&Verdict| {
        gpus(a).cmp(&gpus(b)).then(margin(b).total_cmp(&margin(a))).then(a.scenario.cmp(&b.scenario))
    };
    if let Some(best) = passing.iter().min_by(better) {
        answer.push(format!("  fewest GPUs: {}, margin {}", scenarios.describe(best.scenario), percent(best.margin)));
        return Outcome { answer, violated: None };
    }
    // Nearest to a pass; of equals the first.
    let closest = verdicts.iter().rev().max_by(|a, b| margin(a).total_cmp(&margin(b)));
    if let Some(closest) = closest {
        answer.push(format!("  closest: {}, margin {}", scenarios.describe(closest.scenario), percent(closest.margin)));
    }
    let violated = assert.then(|| violation(stage, closest, rules, metrics, scenarios));
    Outcome { answer, violated }
}

fn in_words(rule: &CheckedRule, metrics: &[Metric]) -> String {
    let limits: Vec<String> = rule
        .limits
        .iter()
        .map(|b| {
            let name = &metrics[b.metric].name;
            match (b.min, b.max) {
                (Some(min), Some(max)) => format!("{min} <= {name} <= {max}"),
                (Some(min), None) => format!("{name} >= {min}"),
                (_, Some(max)) => format!("{name} <= {max}"),
                (None, None) => name.clone(),
            }
        })
        .collect();
    let joined = limits.join(match rule.join {
        Join::All => " and ",
        Join::Any => " or ",
    });
    let class = rule.class.as_ref().map(|c| format!(" of class {c}")).unwrap_or_default();
    match rule.over {
        Over::Quantile(q) => format!("{joined} at quantile {q}{class}"),
        Over::Fraction(f) => format!("{joined} for {f} of the requests{class}"),
    }
}

fn percent(margin: Option<f64>) -> String {
    match margin {
        Some(m) if m.is_finite() => format!("{:+.1}%", m * 100.0),
        Some(_) => "none: requests without an answer".to_string(),
        None => "not measured".to_string(),
    }
}

/// A table of the rules of the closest scenario.
fn violation(
    stage: &str,
    closest: Option<&Verdict>,
    rules: &[CheckedRule],
    metrics: &[Metric],
    scenarios: &Scenarios,
) -> String {
    let Some(closest) = closest else { return format!("{stage}: no scenario meets the rules: there is none") };
    let mut rows = vec![["rule", "metric", "value", "limit", "margin", ""].map(String::from)];
    for finding in &closest.findings {
        rows.push(violation_row(finding, &rules[finding.rule], metrics));
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text =
        format!("{stage}: no scenario meets every rule; closest is {}", scenarios.describe(closest.scenario));
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string does not fail.
            let _ = write!(line, "  {cell:<width$}");
        }
        text.push('\n');
        text.push_str(line.trim_end());
    }
    text
}

fn violation_row(finding: &Finding, rule: &CheckedRule, metrics: &[Metric]) -> [String; 6] {
    let limit = match (rule.over, finding.limit.map(|l| rule.limits[l])) {
        (Over::Fraction(wanted), _) => format!(">= {wanted}"),
        (_, Some(b)) => match (b.min, b.max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!(">= {min}"),
            (None, Some(max)) => format!("<= {max}"),
            (None, None) => String::new(),
        },
        (_, None) => String::new(),
    };
    let metric = match rule.over {
        Over::Quantile(q) => format!("{} at {q}", metric_names(rule, finding.limit, metrics)),
        Over::Fraction(_) => format!("fraction with {}", metric_names(rule, None, metrics)),
    };
    let value = match finding.value {
        Some(v) if v.is_infinite() => "no answer".to_string(),
        Some(v) => format!("{v:.3}"),
        None => "-".to_string(),
    };
    let margin = match finding.margin {
        Some(m) if m.is_finite() => format!("{:+.1}%", m * 100.0),
        _ => "-".to_string(),
    };
    let state = if finding.pass { "met" } else { "violated" };
    [rule.name.clone(), metric, value, limit, margin, state.to_string()]
}
