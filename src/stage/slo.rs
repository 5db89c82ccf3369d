//! `slo`: every scenario of a `simulate` stage against service-level objectives.
//!
//! `<stage>` has a row per scenario: the verdict over all rules. `<stage>_rules` has a row per scenario and limit of a
//! quantile rule, or per scenario and fraction rule, in the order of the YAML. Requests of the warm-up and the cool-down
//! do not count.

mod answer;
mod judge;
mod spec;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, ident};
use futures::StreamExt;
use serde_json::{Value, json};

use pipe_kernel::sim::Status;

use super::{Cancel, CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::query::errors::running;
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::spec::{Limit, Rule, Slo, Text};
use crate::table::column;
use answer::Scenarios;
pub(crate) use judge::Verdict;
use judge::{CheckedRule, Over, Requests, Sample, judge};
use spec::{Metric, checked, metrics, problems};
pub(crate) use spec::{rules_problems, seconds_of};

/// Columns of requests that are looked at whatever the rules.
const FIXED: [&str; 4] = ["scenario_id", "status", "class", "measured"];
/// Rows of a batch that is written.
const BATCH: usize = 8192;

/// Rules as a part of a recipe.
pub(crate) fn rules_recipe(rules: &[Rule]) -> Vec<Value> {
    let limits = |limits: &[Limit]| -> Vec<Value> {
        let limit = |Limit { metric, max, min }: &Limit| json!({ "metric": metric.value, "max": max, "min": min });
        limits.iter().map(limit).collect()
    };
    rules
        .iter()
        .map(|Rule { name, quantile, fraction, all, any, class }| {
            json!({
                "name": name.value, "quantile": quantile, "fraction": fraction,
                "all": limits(all), "any": limits(any), "class": class,
            })
        })
        .collect()
}

impl Slo {
    fn scenarios_table(&self) -> String {
        self.from.0.value.clone()
    }

    fn requests_table(&self) -> String {
        format!("{}_requests", self.from.0.value)
    }
}

/// Columns of `<stage>`.
fn verdict_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("scenario_id", DataType::Int64, false, "", "Number of the scenario"),
        column("pass", DataType::Boolean, false, "", "Every rule is met"),
        column(
            "margin",
            DataType::Float64,
            true,
            "",
            "Smallest margin of a rule: what is left to its limit, relative to it; negative if violated",
        ),
        column("rules_passed", DataType::Int32, false, "", "Rules that are met"),
        column("rules_total", DataType::Int32, false, "", "Rules"),
        column("worst_rule", DataType::Utf8, true, "", "The rule with the smallest margin"),
    ]))
}

/// Columns of `<stage>_rules`.
fn rules_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("scenario_id", DataType::Int64, false, "", "Number of the scenario"),
        column("rule", DataType::Utf8, false, "", "Name of the rule"),
        column("class", DataType::Utf8, true, "", "Class of the requests that count; null for all"),
        column("metric", DataType::Utf8, false, "", "The metric that is limited; several for a fraction"),
        column(
            "kind",
            DataType::Utf8,
            false,
            "",
            "quantile: the limit holds there; fraction: so many requests meet it",
        ),
        column("threshold", DataType::Float64, false, "", "The quantile or the fraction, 0 to 1"),
        column("value", DataType::Float64, true, "", "Value of the metric at the quantile, or the fraction reached"),
        column("max", DataType::Float64, true, "", "Value must not be above"),
        column("min", DataType::Float64, true, "", "Value must not be below"),
        column(
            "margin",
            DataType::Float64,
            true,
            "",
            "What is left to the limit, relative to it; a difference for fractions",
        ),
        column("pass", DataType::Boolean, false, "", "The limit holds"),
    ]))
}

#[async_trait]
impl Kind for Slo {
    fn kind(&self) -> &'static str {
        "slo"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        let at = self.from.0.at.clone();
        Ok(vec![Text::new(self.scenarios_table(), at.clone()), Text::new(self.requests_table(), at)])
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![
            TableShape { name: stage.to_string(), schema: Some(verdict_schema()) },
            TableShape { name: format!("{stage}_rules"), schema: Some(rules_schema()) },
        ]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        problems(self, cx)
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Slo { from: _, rules, assert } = self;
        json!({ "rules": rules_recipe(rules), "assert": assert })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        // One partition: the rows of a scenario come one after the other, as they are stored.
        let ctx = session::context(&SessionOptions {
            target_partitions: 1,
            ..SessionOptions::threads(cx.pool.current_num_threads())
        })?;
        for (name, handle) in &cx.inputs {
            session::register(&ctx, SCHEMA, name, session::provider(handle)?)?;
        }
        let (verdicts, rules) = self.verdicts(&ctx, &cx.cancel, &|rows| cx.progress.0.advance(rows)).await?;
        write(&cx, &verdicts, &rules, &metrics(&self.rules))?;
        let scenarios = Scenarios::read(&ctx, &self.scenarios_table()).await?;
        Ok(answer::outcome(&cx.stage, &verdicts, &rules, &metrics(&self.rules), &scenarios, self.assert))
    }
}

impl Slo {
    /// Judges scenario by scenario, holding the requests of one at a time.
    async fn verdicts(
        &self,
        ctx: &SessionContext,
        cancel: &Cancel,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<Verdict>, Vec<CheckedRule>)> {
        let metrics = metrics(&self.rules);
        let rules = checked(&self.rules, &metrics)?;
        let table = ctx.table(self.requests_table()).await.map_err(|e| running(&e))?;
        let used: BTreeSet<&str> =
            metrics.iter().flat_map(|m| m.columns.iter().map(String::as_str).chain(m.per)).collect();
        let select: Vec<Expr> =
            FIXED.into_iter().chain(used.into_iter().filter(|name| !FIXED.contains(name))).map(ident).collect();
        let mut rows =
            table.select(select).map_err(|e| running(&e))?.execute_stream().await.map_err(|e| running(&e))?;
        let mut judging = Judging::new(&metrics, &rules);
        while let Some(batch) = rows.next().await {
            cancel.check()?;
            let batch = batch.map_err(|e| running(&e))?;
            judging.take(&batch)?;
            advance(batch.num_rows() as u64);
        }
        let verdicts = judging.finish();
        Ok((verdicts, rules))
    }
}

/// Rules that are ready to judge the requests of a scenario.
pub(crate) struct Judge {
    metrics: Vec<Metric>,
    rules: Vec<CheckedRule>,
}

impl Judge {
    /// # Errors
    /// Rules of which [`rules_problems`] finds something.
    pub fn new(rules: &[Rule]) -> Result<Judge> {
        let metrics = metrics(rules);
        Ok(Judge { rules: checked(rules, &metrics)?, metrics })
    }

    /// The verdict on the rows of one scenario, as in `<stage>_requests`; on none, nothing passes.
    ///
    /// # Errors
    /// A column is missing, or has another type.
    pub fn verdict(&self, requests: &[RecordBatch]) -> Result<Verdict> {
        let mut judging = Judging::new(&self.metrics, &self.rules);
        requests.iter().try_for_each(|batch| judging.take(batch))?;
        let none = || {
            judge(0, &Requests { samples: vec![Vec::new(); self.metrics.len()], ..Requests::default() }, &self.rules)
        };
        Ok(judging.finish().pop().unwrap_or_else(none))
    }
}

/// Collects the requests of a scenario, and judges it when the next one begins.
struct Judging<'a> {
    metrics: &'a [Metric],
    rules: &'a [CheckedRule],
    with_classes: bool,
    scenario: Option<i64>,
    requests: Requests,
    verdicts: Vec<Verdict>,
}

impl<'a> Judging<'a> {
    fn new(metrics: &'a [Metric], rules: &'a [CheckedRule]) -> Self {
        let with_classes = rules.iter().any(|r| r.class.is_some());
        let mut judging = Judging {
            metrics,
            rules,
            with_classes,
            scenario: None,
            requests: Requests::default(),
            verdicts: Vec::new(),
        };
        judging.clear();
        judging
    }

    fn clear(&mut self) {
        self.requests.classes.clear();
        self.requests.samples.resize(self.metrics.len(), Vec::new());
        self.requests.samples.iter_mut().for_each(Vec::clear);
        self.requests.count = 0;
    }

    /// Rows with the columns of [`FIXED`] and of the metrics. A scenario of which no request is measured is judged all the
    /// same.
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong =
            |what: &str| Failure::stage("slo::input", format!("column `{what}` has another type than expected"));
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| wrong(name));
        let [scenario, status, class, measured] = FIXED;
        let ids = column(scenario)?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(scenario))?;
        let status = column(status)?.as_string_opt::<i32>().ok_or_else(|| wrong(status))?;
        let class = column(class)?.as_string_opt::<i32>().ok_or_else(|| wrong(class))?;
        let measured = column(measured)?.as_boolean_opt().ok_or_else(|| wrong(measured))?;
        let values = self.metrics.iter().map(|metric| metric.values(batch)).collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let id = ids.value(row);
            if self.scenario != Some(id) {
                if self.scenario.is_some_and(|last| id < last) {
                    return Err(Failure::stage("slo::input", "the requests are not sorted by scenario"));
                }
                self.judge();
                self.scenario = Some(id);
            }
            if !measured.value(row) {
                continue;
            }
            let served = served(status.value(row));
            if self.with_classes {
                self.requests.classes.push(class.is_valid(row).then(|| class.value(row).to_string()));
            }
            for ((metric, array), samples) in self.metrics.iter().zip(&values).zip(&mut self.requests.samples) {
                let value = array.is_valid(row).then(|| array.value(row));
                samples.push(metric.sample(served, value));
            }
            self.requests.count += 1;
        }
        Ok(())
    }

    fn judge(&mut self) {
        if let Some(scenario) = self.scenario {
            self.verdicts.push(judge(scenario, &self.requests, self.rules));
        }
        self.clear();
    }

    fn finish(mut self) -> Vec<Verdict> {
        self.judge();
        self.verdicts
    }
}

/// Whether a request of this status was answered.
fn served(status: &str) -> bool {
    Status::ALL.iter().any(|s| s.served() && s.as_str() == status)
}

impl Metric {
    /// The value of a request's metric; `served` tells whether the request was answered.
    fn sample(&self, served: bool, value: Option<f64>) -> Sample {
        match value {
            _ if self.is_time && !served => Sample::Value(f64::INFINITY),
            Some(v) => Sample::Value(v / self.divisor),
            None if self.is_per_token => Sample::NotApplicable,
            None => Sample::Missing,
        }
    }
}

fn write(cx: &RunCx, verdicts: &[Verdict], rules: &[CheckedRule], metrics: &[Metric]) -> Result<()> {
    let wrong = |e| Failure::stage("slo::output", format!("cannot build the result: {e}"));
    let mut writer = cx.out.table(&cx.stage, verdict_schema())?;
    for chunk in verdicts.chunks(BATCH) {
        writer.write(&verdict_batch(chunk, rules).map_err(wrong)?)?;
    }
    writer.finish()?;
    let mut writer = cx.out.table(&format!("{}_rules", cx.stage), rules_schema())?;
    for chunk in verdicts.chunks(BATCH) {
        writer.write(&rules_batch(chunk, rules, metrics).map_err(wrong)?)?;
    }
    writer.finish()
}

fn verdict_batch(
    verdicts: &[Verdict],
    rules: &[CheckedRule],
) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let worst = |v: &Verdict| v.worst.map(|r| rules[r].name.clone());
    let passed = |v: &Verdict| v.passed.iter().filter(|p| **p).count() as i32;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(verdicts.iter().map(|v| v.scenario))),
        Arc::new(BooleanArray::from_iter(verdicts.iter().map(|v| Some(v.pass)))),
        Arc::new(Float64Array::from_iter(verdicts.iter().map(|v| v.margin))),
        Arc::new(Int32Array::from_iter_values(verdicts.iter().map(passed))),
        Arc::new(Int32Array::from_iter_values(verdicts.iter().map(|_| rules.len() as i32))),
        Arc::new(StringArray::from_iter(verdicts.iter().map(worst))),
    ];
    RecordBatch::try_new(verdict_schema(), columns)
}

fn rules_batch(
    verdicts: &[Verdict],
    rules: &[CheckedRule],
    metrics: &[Metric],
) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let rows: Vec<_> = verdicts
        .iter()
        .flat_map(|v| v.findings.iter().map(move |f| (v.scenario, f)))
        .map(|(scenario, f)| (scenario, &rules[f.rule], f))
        .collect();
    let bounds = |rule: &CheckedRule, limit: Option<usize>| limit.map(|l| rule.limits[l]);
    let min = |rule: &CheckedRule, limit: Option<usize>| match rule.over {
        Over::Fraction(wanted) => Some(wanted),
        Over::Quantile(_) => bounds(rule, limit).and_then(|b| b.min),
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(scenario, ..)| *scenario))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, rule, _)| &rule.name))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, rule, _)| rule.class.as_ref()))),
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|(_, rule, f)| answer::metric_names(rule, f.limit, metrics)),
        )),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, rule, _)| rule.over.kind()))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, rule, _)| rule.over.threshold()))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|(.., f)| f.value))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|(_, rule, f)| bounds(rule, f.limit).and_then(|b| b.max)))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|(_, rule, f)| min(rule, f.limit)))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|(.., f)| f.margin))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|(.., f)| Some(f.pass)))),
    ];
    RecordBatch::try_new(rules_schema(), columns)
}

impl Over {
    fn kind(&self) -> &'static str {
        match self {
            Over::Quantile(_) => "quantile",
            Over::Fraction(_) => "fraction",
        }
    }

    fn threshold(&self) -> f64 {
        match self {
            Over::Quantile(q) => *q,
            Over::Fraction(f) => *f,
        }
    }
}

#[cfg(test)]
mod tests;
