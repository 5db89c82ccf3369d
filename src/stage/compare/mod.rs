//! `compare`: how far a simulation is off what was measured, or any run off any other.
//!
//! `<stage>` has a row per scenario and metric: errors of the mean, of each request and of the quantiles, with intervals of
//! confidence and a verdict. `<stage>_requests` has the pairs. Only requests that both sides served count; what one side
//! lacks is counted, and never taken for 0. Errors are of the simulated side against the measured one, after the measured
//! side was rid of what its client did to it.
//!
//! Leaves out: gaps of single tokens, which measured runs seldom have: ITL is the mean gap of a request.

mod answer;
mod judge;
mod side;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde_json::{Value, json};

use self::judge::{Detail, Figure, judge};
use self::side::{Side, read};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::spec::{Artefact, ClockOffset, Compare, StageSpec, Text};
use crate::table::column;

/// Rows of a batch that is written.
const BATCH: usize = 8192;

#[async_trait]
impl Kind for Compare {
    fn kind(&self) -> &'static str {
        "compare"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(vec![self.measured.0.clone(), self.simulated.0.clone()])
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![
            TableShape { name: stage.to_string(), schema: Some(figures_schema()) },
            TableShape { name: pairs_name(stage), schema: Some(pairs_schema()) },
        ]
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for side in [&self.measured.0, &self.simulated.0] {
            let simulates = |s: &&crate::spec::Stage| matches!(s.spec, StageSpec::Simulate(_));
            let is_stage = cx.stages.iter().filter(simulates).any(|s| s.name.value == side.value);
            let table = if is_stage { format!("{}_requests", side.value) } else { side.value.clone() };
            let Some(schema) = cx.tables.get(&table).and_then(|t| t.schema.as_ref()) else { continue };
            let beside = format!("{}_measured", side.value);
            found.extend(side::problems(&table, schema, self.pair).into_iter().map(|mut problem| {
                if cx.tables.contains_key(&beside) {
                    problem.help = Some(format!("did you mean `{beside}`?"));
                }
                problem.at(side.at.clone())
            }));
        }
        let at = cx.stages.iter().find(|s| s.name.value == stage).and_then(|s| s.name.at.clone());
        found.extend(self.setting_problems(cx).into_iter().map(|d| d.at(at.clone())));
        found
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        let Compare {
            measured,
            simulated,
            metrics,
            pair,
            warmup,
            cooldown,
            clock_offset,
            network_rtt_ms,
            artefacts,
            bootstrap,
            confidence,
            seed,
            verdicts,
        } = self;
        // Which side a table is on: the inputs of a recipe only say that it is read.
        json!({
            "measured": measured.0.value, "simulated": simulated.0.value,
            "metrics": metrics, "pair": pair, "warmup": warmup, "cooldown": cooldown, "clock_offset": clock_offset,
            "network_rtt_ms": network_rtt_ms, "artefacts": artefacts, "bootstrap": bootstrap, "confidence": confidence,
            "seed": seed.unwrap_or(cx.seed), "verdicts": verdicts,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        // One partition: rows come in the order in which they are stored, and so do problems.
        let ctx = session::context(&SessionOptions {
            target_partitions: 1,
            ..SessionOptions::threads(cx.pool.current_num_threads())
        })?;
        for (name, handle) in &cx.inputs {
            session::register(&ctx, SCHEMA, name, session::provider(handle)?)?;
        }
        let (measured_name, simulated_name) = (table_of(&self.measured.0, &cx), table_of(&self.simulated.0, &cx));
        let measured = read(&ctx, &measured_name, self.pair, &cx.cancel).await?;
        let simulated = read(&ctx, &simulated_name, self.pair, &cx.cancel).await?;
        let (spec, task) = (self.clone(), cx.clone());
        super::tokenize::blocking(move || spec.finish(&task, [&measured_name, &simulated_name], measured, &simulated))
            .await
    }
}

/// The table that a side names: of a simulation, its requests.
fn table_of(side: &Text, cx: &RunCx) -> String {
    let requests = format!("{}_requests", side.value);
    if cx.inputs.contains_key(&requests) { requests } else { side.value.clone() }
}

fn pairs_name(stage: &str) -> String {
    format!("{stage}_requests")
}

impl Compare {
    fn setting_problems(&self, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut refuse = |what: String, help: &str| found.push(Diagnostic::new("compare::setting", what).help(help));
        if self.metrics.is_empty() {
            refuse("`metrics` is empty: nothing would be compared".to_string(), "leave it out to compare all");
        }
        for (i, metric) in self.metrics.iter().enumerate() {
            if self.metrics[..i].contains(metric) {
                refuse(format!("`metrics` has {} twice", json!(metric)), "leave one out");
            }
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            let what = format!("`confidence` is {}: expected a number between 0 and 1", self.confidence);
            refuse(what, "0.95 leaves out 2.5% at either end");
        }
        let times =
            [("network_rtt_ms", self.network_rtt_ms), ("warmup.s", self.warmup.s), ("cooldown.s", self.cooldown.s)];
        for (name, value) in times.into_iter().filter(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            refuse(format!("`{name}` is {value}: expected a time from 0 up"), "leave it out for none");
        }
        if let ClockOffset::Ms(ms) = self.clock_offset
            && !ms.is_finite()
        {
            refuse(format!("`clock_offset` is {ms}: expected a number"), "`auto` finds it from the arrivals");
        }
        for (name, agreement) in
            [("excellent", self.verdicts.excellent), ("good", self.verdicts.good), ("fair", self.verdicts.fair)]
        {
            if !(agreement.mape_pct.is_finite() && agreement.pearson.is_finite()) {
                refuse(format!("`verdicts.{name}` is not made of numbers"), "e.g. { mape_pct: 10, pearson: 0.95 }");
            }
        }
        let measured = cx.tables.get(&self.measured.0.value).and_then(|t| t.schema.as_ref());
        for artefact in &self.artefacts {
            let needs: &[&str] = match artefact {
                Artefact::AcknowledgedFirstChunk => &["second_chunk_ns"],
                Artefact::TimesStartAtEngine => &["queue_ns"],
                Artefact::TpotCountsFirstToken => &["ttft_ns", "e2e_ns", "output_tokens"],
                Artefact::ChunksCountedAsTokens => &["ttft_ns", "e2e_ns"],
                Artefact::Upload(upload) => {
                    if !(upload.bandwidth_mbit_s.is_finite() && upload.bandwidth_mbit_s > 0.0) {
                        let what =
                            format!("`bandwidth_mbit_s` is {}: expected a number above 0", upload.bandwidth_mbit_s);
                        refuse(what, "100 for a line of 100 Mbit/s");
                    }
                    &["input_tokens"]
                }
            };
            let lacking = |name: &&&str| measured.is_some_and(|schema| schema.column_with_name(name).is_none());
            if let Some(name) = needs.iter().find(lacking) {
                let table = &self.measured.0.value;
                let what = format!("the artefact {} needs a column `{name}`, which `{table}` has not", json!(artefact));
                refuse(what, "a stage `sql` between the two can make it of what was measured");
            }
        }
        found
    }

    /// Everything once both sides are read.
    fn finish(&self, cx: &RunCx, names: [&str; 2], measured: Side, simulated: &Side) -> Result<Outcome> {
        let [measured_name, simulated_name] = names;
        let truth = one_scenario(measured, measured_name)?;
        if simulated.is_empty() {
            return Err(nothing(format!("`{simulated_name}` has no rows")));
        }
        let seed = cx.recipe.get("seed").and_then(Value::as_u64).unwrap_or(cx.seed);
        let one = |(scenario, requests): (&i64, &Vec<side::Request>)| {
            cx.cancel.check()?;
            Ok(judge(self, seed, *scenario, &truth, requests))
        };
        let judged: Result<Vec<(Vec<Figure>, Vec<Detail>)>> =
            cx.pool.install(|| simulated.iter().collect::<Vec<_>>().into_par_iter().map(one).collect());
        let judged = judged?;
        if judged.iter().flat_map(|(figures, _)| figures).all(|f| f.pairs == 0) {
            let what =
                format!("no request of `{measured_name}` has a counterpart with the same metric in `{simulated_name}`");
            return Err(nothing(what));
        }
        let wrong = |e| Failure::stage("compare::output", format!("cannot build the result: {e}"));
        let mut writer = cx.out.table(&cx.stage, figures_schema())?;
        let figures: Vec<&Figure> = judged.iter().flat_map(|(figures, _)| figures).collect();
        for chunk in figures.chunks(BATCH) {
            writer.write(&figure_rows(chunk).map_err(wrong)?)?;
        }
        writer.finish()?;
        let mut writer = cx.out.table(&pairs_name(&cx.stage), pairs_schema())?;
        for chunk in judged.iter().flat_map(|(_, details)| details.chunks(BATCH)) {
            writer.write(&pair_rows(chunk).map_err(wrong)?)?;
        }
        writer.finish()?;
        Ok(Outcome { answer: answer::lines(&cx.stage, names, &figures), violated: None })
    }
}

fn nothing(what: String) -> Failure {
    let help = "with `request_id` both sides number the same requests; `pair: order` pairs them by their arrivals; \
                requests of warm-up and cool-down, and those that were not served, do not count";
    Diagnostic::new("compare::nothing", what).help(help).into()
}

/// The measured side is one run.
fn one_scenario(side: Side, table: &str) -> Result<Vec<side::Request>> {
    let scenarios = side.len();
    let mut all = side.into_values();
    match (all.next(), scenarios) {
        (Some(requests), 1) => Ok(requests),
        (None, _) => Err(nothing(format!("`{table}` has no rows"))),
        (Some(_), n) => {
            let what = format!("`{table}` has {n} scenarios: what a simulation is compared with is one run");
            Err(Diagnostic::new("compare::scenarios", what).help("select one of them in a stage `sql`").into())
        }
    }
}

/// Columns of `<stage>`.
fn figures_schema() -> SchemaRef {
    let text = |name: &str, what: &str| column(name, DataType::Utf8, false, "", what);
    let int = |name: &str, what: &str| column(name, DataType::Int64, false, "", what);
    let float = |name: &str, unit: &str, what: &str| column(name, DataType::Float64, true, unit, what);
    let mut fields = vec![
        int("scenario_id", "Number of the scenario; 0 where the simulated table has none"),
        text("metric", "ttft, tpot, itl, e2e; output_tps, request_rps"),
        text("unit", "Of `measured`, `simulated` and `rmse`"),
        int("pairs", "Requests that count on both sides"),
        int("missing_measured", "Requests that have the metric on the simulated side alone"),
        int("missing_simulated", "Requests that have the metric on the measured side alone"),
        int("zero_measured", "Pairs whose measured value is 0: they have no relative error"),
        int("left_out", "Requests of warm-up and cool-down"),
        float("measured", "", "Mean of the pairs, or the rate, as measured"),
        float("simulated", "", "Mean of the pairs, or the rate, as simulated"),
        float("mean_error_pct", "%", "Simulated against measured"),
        float("mean_error_pct_low", "%", "Lower end of its interval of confidence"),
        float("mean_error_pct_high", "%", "Upper end"),
        float("mape_pct", "%", "Mean of the absolute errors of the requests"),
        float("mape_pct_low", "%", "Lower end of its interval of confidence"),
        float("mape_pct_high", "%", "Upper end"),
        float("bias_pct", "%", "Mean of the errors of the requests, with their signs"),
        float("rmse", "", "Root of the mean squared error"),
        float("pearson", "", "Correlation of the pairs; null where a side does not vary"),
    ];
    for q in ["p50", "p90", "p95", "p99"] {
        fields.push(float(&format!("{q}_error_pct"), "%", "Quantile as simulated against the measured one"));
    }
    fields.extend([
        column("verdict", DataType::Utf8, true, "", "excellent, good, fair or poor; of rates by their error alone"),
        float("clock_offset_ms", "ms", "Taken off the measured arrivals"),
        float("arrival_error_ms_max", "ms", "Largest difference of the arrivals of a pair, after that"),
    ]);
    Arc::new(Schema::new(fields))
}

fn figure_rows(rows: &[&Figure]) -> std::result::Result<RecordBatch, ArrowError> {
    let ints = |f: fn(&Figure) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| f(r) as i64)))
    };
    let texts = |f: fn(&Figure) -> &'static str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| f(r))))
    };
    let floats = |f: &dyn Fn(&Figure) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(rows.iter().map(|r| f(r))))
    };
    let percent = |f: &dyn Fn(&Figure) -> Option<f64>| floats(&|r| f(r).map(|v| v * 100.0));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.scenario))),
        texts(|r| r.metric),
        texts(|r| r.unit),
        ints(|r| r.pairs),
        ints(|r| r.missing_measured),
        ints(|r| r.missing_simulated),
        ints(|r| r.zero_measured),
        ints(|r| r.left_out),
        floats(&|r| r.measured),
        floats(&|r| r.simulated),
        percent(&|r| r.mean_error),
        percent(&|r| r.mean_error_interval.map(|i| i.low)),
        percent(&|r| r.mean_error_interval.map(|i| i.high)),
        percent(&|r| r.mape),
        percent(&|r| r.mape_interval.map(|i| i.low)),
        percent(&|r| r.mape_interval.map(|i| i.high)),
        percent(&|r| r.bias),
        floats(&|r| r.rmse),
        floats(&|r| r.pearson),
    ];
    columns.extend((0..judge::QUANTILES.len()).map(|q| percent(&|r| r.quantile_errors[q])));
    columns.push(Arc::new(StringArray::from_iter(rows.iter().map(|r| r.verdict.map(|v| v.as_str())))));
    columns.push(floats(&|r| Some(r.clock_offset_ms)));
    columns.push(floats(&|r| r.arrival_error_ms_max));
    RecordBatch::try_new(figures_schema(), columns)
}

/// Columns of `<stage>_requests`.
fn pairs_schema() -> SchemaRef {
    let float = |name: &str, null, unit: &str, what: &str| column(name, DataType::Float64, null, unit, what);
    Arc::new(Schema::new(vec![
        column("scenario_id", DataType::Int64, false, "", "Number of the scenario"),
        column("metric", DataType::Utf8, false, "", "ttft, tpot, itl or e2e"),
        column("request_id", DataType::Int64, false, "", "Number of the request on the measured side"),
        float("measured_ms", false, "ms", "As measured, corrected"),
        float("simulated_ms", false, "ms", "As simulated"),
        float("error_ms", false, "ms", "Simulated minus measured"),
        float("error_pct", true, "%", "The error against the measured value; null where that is 0"),
    ]))
}

fn pair_rows(rows: &[Detail]) -> std::result::Result<RecordBatch, ArrowError> {
    let floats = |f: fn(&Detail) -> Option<f64>| -> ArrayRef { Arc::new(Float64Array::from_iter(rows.iter().map(f))) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.scenario))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.metric))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.request))),
        floats(|r| Some(r.pair.measured)),
        floats(|r| Some(r.pair.simulated)),
        floats(|r| Some(r.pair.simulated - r.pair.measured)),
        floats(|r| r.pair.relative().map(|e| e * 100.0)),
    ];
    RecordBatch::try_new(pairs_schema(), columns)
}
