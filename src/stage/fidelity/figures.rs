//! The tables of a fidelity report, and the lines at the end of the run.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::runs::Part;
use crate::diag::{Failure, Result};
use crate::spec::{Aim, AimFigure, AimMetric};
use crate::stage::compare::stats::{
    Bootstrap, Pair, bias, error_of_mean, error_of_quantile, mape, mean_measured, mean_simulated, pearson,
};
use crate::stage::{RunCx, TableShape};
use crate::table::column;

/// Resamples of an interval, and its confidence.
const RESAMPLES: u32 = 400;
const CONFIDENCE: f64 = 0.95;

/// Which figure.
pub(super) struct Line<'a> {
    pub set: &'a str,
    pub model: &'a str,
    pub fitted: bool,
    pub part: Part,
    pub metric: AimMetric,
    pub not_simulated: u64,
    /// Share of the steps that a profile did not measure.
    pub extrapolated: f64,
}

/// A row of `<stage>`.
struct Figure {
    set: String,
    model: String,
    fitted: bool,
    part: Part,
    metric: &'static str,
    pairs: u64,
    not_simulated: u64,
    measured: Option<f64>,
    simulated: Option<f64>,
    mean_error: Option<f64>,
    mape: Option<f64>,
    mape_low: Option<f64>,
    mape_high: Option<f64>,
    bias: Option<f64>,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    pearson: Option<f64>,
    extrapolated: f64,
}

/// An aim and whether it is met.
struct Judged {
    set: String,
    model: String,
    fitted: bool,
    metric: &'static str,
    figure: &'static str,
    /// What it is; `None` where there is no such figure.
    error: Option<f64>,
    max_pct: f64,
    met: bool,
    why: String,
}

/// A row of `<stage>_configurations`.
pub(super) struct Configuration {
    pub set: String,
    pub model: String,
    pub fitted: bool,
    pub part: Part,
    pub line: u64,
    pub served_model: String,
    pub tp: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
    pub users: u32,
    /// TTFT and TPOT in ms.
    pub measured: (f64, f64),
    pub simulated: (Option<f64>, Option<f64>),
    pub left_out: String,
}

/// A row of `<stage>_published`.
pub(super) struct Published {
    pub experiment: String,
    pub model: String,
    pub workload: String,
    pub hardware: String,
    pub tp: Option<i64>,
    pub simulator: String,
    pub metric: String,
    pub error_pct: f64,
}

/// Everything that is reported.
#[derive(Default)]
pub(super) struct Report {
    figures: Vec<Figure>,
    judged: Vec<Judged>,
    parameters: Vec<(String, String, String, f64)>,
    pub configurations: Vec<Configuration>,
    pub published: Vec<Published>,
}

pub(super) fn metric_name(metric: AimMetric) -> &'static str {
    match metric {
        AimMetric::Ttft => "ttft",
        AimMetric::Tpot => "tpot",
        AimMetric::E2e => "e2e",
        AimMetric::Step => "step",
    }
}

impl Report {
    pub(super) fn add(&mut self, line: &Line<'_>, pairs: &[Pair], seed: u64) {
        let label = format!("fidelity/{}/{}/{}", line.set, line.model, metric_name(line.metric));
        let bootstrap = Bootstrap { resamples: RESAMPLES, confidence: CONFIDENCE, seed, label: &label };
        let [interval] = bootstrap.intervals(pairs, [mape]);
        let (mean_error, error) = (error_of_mean(pairs), mape(pairs));
        self.figures.push(Figure {
            set: line.set.to_string(),
            model: line.model.to_string(),
            fitted: line.fitted,
            part: line.part,
            metric: metric_name(line.metric),
            pairs: pairs.len() as u64,
            not_simulated: line.not_simulated,
            measured: mean_measured(pairs),
            simulated: mean_simulated(pairs),
            mean_error,
            mape: error,
            mape_low: interval.map(|i| i.low),
            mape_high: interval.map(|i| i.high),
            bias: bias(pairs),
            p50: error_of_quantile(pairs, 0.5),
            p90: error_of_quantile(pairs, 0.9),
            p99: error_of_quantile(pairs, 0.99),
            pearson: pearson(pairs),
            extrapolated: line.extrapolated,
        });
    }

    /// Judges the aims of a model by what was added of it. One of which there is no figure is missed.
    pub(super) fn judge(&mut self, set: &str, model: &str, aims: &[Aim]) {
        for aim in aims.iter().filter(|aim| aim.model.value == model) {
            // An aim is for the model as it is on everything, or as it is fitted on what was held out.
            let part = if aim.fitted { Part::Test } else { Part::All };
            let metric = metric_name(aim.metric);
            let found = self.figures.iter().find(|f| {
                (f.set.as_str(), f.model.as_str(), f.metric) == (set, model, metric)
                    && (f.fitted, f.part) == (aim.fitted, part)
            });
            let (figure, error) = match aim.figure {
                AimFigure::Mean => ("mean", found.and_then(|f| f.mean_error).map(f64::abs)),
                AimFigure::Mape => ("mape", found.and_then(|f| f.mape)),
            };
            self.judged.push(Judged {
                set: set.to_string(),
                model: model.to_string(),
                fitted: aim.fitted,
                metric,
                figure,
                error,
                max_pct: aim.max_pct,
                met: error.is_some_and(|e| e * 100.0 <= aim.max_pct),
                why: aim.why.clone(),
            });
        }
    }

    pub(super) fn parameter(&mut self, set: &str, model: &str, path: &str, value: f64) {
        self.parameters.push((set.to_string(), model.to_string(), path.to_string(), value));
    }

    pub(super) fn write(&self, cx: &RunCx) -> Result<()> {
        let tables = [
            (figures_name(&cx.stage), figures_schema(), self.figure_columns()),
            (format!("{}_aims", cx.stage), aims_schema(), self.aim_columns()),
            (format!("{}_parameters", cx.stage), parameters_schema(), self.parameter_columns()),
            (format!("{}_configurations", cx.stage), configurations_schema(), self.configuration_columns()),
            (format!("{}_published", cx.stage), published_schema(), self.published_columns()),
        ];
        for (name, schema, columns) in tables {
            let wrong =
                |e: arrow::error::ArrowError| Failure::stage("fidelity::output", format!("cannot build `{name}`: {e}"));
            let rows = RecordBatch::try_new(schema.clone(), columns).map_err(wrong)?;
            let mut writer = cx.out.table(&name, schema)?;
            writer.write(&rows)?;
            writer.finish()?;
        }
        Ok(())
    }

    fn figure_columns(&self) -> Vec<ArrayRef> {
        let f = &self.figures;
        vec![
            texts(f.iter().map(|f| f.set.as_str())),
            texts(f.iter().map(|f| f.model.as_str())),
            bools(f.iter().map(|f| f.fitted)),
            texts(f.iter().map(|f| f.part.name())),
            texts(f.iter().map(|f| f.metric)),
            ints(f.iter().map(|f| f.pairs as i64)),
            ints(f.iter().map(|f| f.not_simulated as i64)),
            floats(f.iter().map(|f| f.measured)),
            floats(f.iter().map(|f| f.simulated)),
            percents(f.iter().map(|f| f.mean_error)),
            percents(f.iter().map(|f| f.mape)),
            percents(f.iter().map(|f| f.mape_low)),
            percents(f.iter().map(|f| f.mape_high)),
            percents(f.iter().map(|f| f.bias)),
            percents(f.iter().map(|f| f.p50)),
            percents(f.iter().map(|f| f.p90)),
            percents(f.iter().map(|f| f.p99)),
            floats(f.iter().map(|f| f.pearson)),
            percents(f.iter().map(|f| Some(f.extrapolated))),
        ]
    }

    fn aim_columns(&self) -> Vec<ArrayRef> {
        let j = &self.judged;
        vec![
            texts(j.iter().map(|j| j.set.as_str())),
            texts(j.iter().map(|j| j.model.as_str())),
            bools(j.iter().map(|j| j.fitted)),
            texts(j.iter().map(|j| j.metric)),
            texts(j.iter().map(|j| j.figure)),
            percents(j.iter().map(|j| j.error)),
            floats(j.iter().map(|j| Some(j.max_pct))),
            bools(j.iter().map(|j| j.met)),
            texts(j.iter().map(|j| if j.met { "" } else { j.why.as_str() })),
        ]
    }

    fn parameter_columns(&self) -> Vec<ArrayRef> {
        let p = &self.parameters;
        vec![
            texts(p.iter().map(|p| p.0.as_str())),
            texts(p.iter().map(|p| p.1.as_str())),
            texts(p.iter().map(|p| p.2.as_str())),
            floats(p.iter().map(|p| Some(p.3))),
        ]
    }

    fn configuration_columns(&self) -> Vec<ArrayRef> {
        let c = &self.configurations;
        vec![
            texts(c.iter().map(|c| c.set.as_str())),
            texts(c.iter().map(|c| c.model.as_str())),
            bools(c.iter().map(|c| c.fitted)),
            texts(c.iter().map(|c| c.part.name())),
            ints(c.iter().map(|c| c.line as i64)),
            texts(c.iter().map(|c| c.served_model.as_str())),
            ints(c.iter().map(|c| i64::from(c.tp))),
            ints(c.iter().map(|c| i64::from(c.input_tokens))),
            ints(c.iter().map(|c| i64::from(c.output_tokens))),
            ints(c.iter().map(|c| i64::from(c.users))),
            floats(c.iter().map(|c| Some(c.measured.0))),
            floats(c.iter().map(|c| c.simulated.0)),
            floats(c.iter().map(|c| Some(c.measured.1))),
            floats(c.iter().map(|c| c.simulated.1)),
            texts(c.iter().map(|c| c.left_out.as_str())),
        ]
    }

    fn published_columns(&self) -> Vec<ArrayRef> {
        let p = &self.published;
        vec![
            texts(p.iter().map(|p| p.experiment.as_str())),
            texts(p.iter().map(|p| p.model.as_str())),
            texts(p.iter().map(|p| p.workload.as_str())),
            texts(p.iter().map(|p| p.hardware.as_str())),
            Arc::new(Int64Array::from_iter(p.iter().map(|p| p.tp))),
            texts(p.iter().map(|p| p.simulator.as_str())),
            texts(p.iter().map(|p| p.metric.as_str())),
            floats(p.iter().map(|p| Some(p.error_pct))),
        ]
    }

    /// A line per set and model: errors of the mean and of the requests; then the aims that are missed.
    pub(super) fn answer(&self, stage: &str) -> Vec<String> {
        let (met, all) = (self.judged.iter().filter(|j| j.met).count(), self.judged.len());
        let mut lines = vec![format!("{stage}: {met} of {all} aims met; mean error / MAPE per metric")];
        let mut groups: Vec<(&str, &str, bool, Part)> = Vec::new();
        for f in &self.figures {
            let group = (f.set.as_str(), f.model.as_str(), f.fitted, f.part);
            let told = if f.fitted { Part::Test } else { Part::All };
            if f.part == told && !groups.contains(&group) {
                groups.push(group);
            }
        }
        let wide = |of: fn(&(&str, &str, bool, Part)) -> usize| groups.iter().map(of).max().unwrap_or(0);
        let (sets, models) = (wide(|g| g.0.chars().count()), wide(|g| g.1.chars().count()));
        for (set, model, fitted, part) in &groups {
            let of = self
                .figures
                .iter()
                .filter(|f| (f.set.as_str(), f.model.as_str(), f.fitted, f.part) == (*set, *model, *fitted, *part));
            let percent = |v: Option<f64>, signed: bool| match v {
                Some(v) if signed => format!("{:+.1}", v * 100.0),
                Some(v) => format!("{:.1}%", v * 100.0),
                None => "-".to_string(),
            };
            let cells: Vec<String> = of
                .map(|f| format!("{} {:>6} / {:>6}", f.metric, percent(f.mean_error, true), percent(f.mape, false)))
                .collect();
            let how = if *fitted { "fitted, held out" } else { "as it is" };
            lines.push(format!("  {set:<sets$}  {model:<models$}  {how:<16}  {}", cells.join("   ")));
        }
        for missed in self.judged.iter().filter(|j| !j.met) {
            let Judged { set, model, fitted, metric, figure, error, max_pct, met: _, why } = missed;
            let how = if *fitted { "fitted" } else { "as it is" };
            let by = if error.is_some() { format!("above {max_pct}%") } else { "was never found".to_string() };
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            lines.push(format!("  missed: {set} {model} {how}, {figure} of {metric} {by}{why}"));
        }
        lines
    }
}

fn figures_name(stage: &str) -> String {
    stage.to_string()
}

/// The tables that a stage makes.
pub(super) fn tables(stage: &str) -> Vec<TableShape> {
    let shape = |name: String, schema: SchemaRef| TableShape { name, schema: Some(schema) };
    vec![
        shape(figures_name(stage), figures_schema()),
        shape(format!("{stage}_aims"), aims_schema()),
        shape(format!("{stage}_parameters"), parameters_schema()),
        shape(format!("{stage}_configurations"), configurations_schema()),
        shape(format!("{stage}_published"), published_schema()),
    ]
}

fn text(name: &str, what: &str) -> Field {
    column(name, DataType::Utf8, false, "", what)
}
fn float(name: &str, unit: &str, what: &str) -> Field {
    column(name, DataType::Float64, true, unit, what)
}
fn int(name: &str, unit: &str, what: &str) -> Field {
    column(name, DataType::Int64, false, unit, what)
}

fn identity() -> Vec<Field> {
    vec![
        text("measured_set", "What was measured; of a table of configurations with the system"),
        text("latency_model", "Name of the latency model"),
        column("fitted", DataType::Boolean, false, "", "Its parameters were fitted on the part `train`"),
    ]
}

fn figures_schema() -> SchemaRef {
    let mut fields = identity();
    fields.extend([
        text("part", "`all`, `train` or `test`: which configurations"),
        text("metric", "ttft, tpot or e2e; of steps `step`"),
        int("pairs", "", "Requests, configurations, or steps that both sides have"),
        int("not_simulated", "", "Those that the simulation does not have"),
        float("measured_ms", "ms", "Mean as measured"),
        float("simulated_ms", "ms", "Mean as simulated"),
        float("mean_error_pct", "%", "Error of the mean"),
        float("mape_pct", "%", "Mean absolute error of the pairs"),
        float("mape_pct_low", "%", "Lower end of its interval of confidence of 95%"),
        float("mape_pct_high", "%", "Upper end"),
        float("bias_pct", "%", "Mean error of the pairs, with their signs"),
        float("p50_error_pct", "%", "Error of the median"),
        float("p90_error_pct", "%", "Error of the 90th percentile"),
        float("p99_error_pct", "%", "Error of the 99th percentile"),
        float("pearson", "", "Correlation of the pairs"),
        float("extrapolated_pct", "%", "Steps beyond what the profile measured"),
    ]);
    Arc::new(Schema::new(fields))
}

fn aims_schema() -> SchemaRef {
    let mut fields = identity();
    fields.extend([
        text("metric", "ttft, tpot or e2e; of steps `step`"),
        text("figure", "`mean` or `mape`"),
        float("error_pct", "%", "What it is; null where there is no such figure, and the aim is missed"),
        float("max_pct", "%", "What it should be at most"),
        column("met", DataType::Boolean, false, "", "It is not above"),
        text("why", "What is known about a miss"),
    ]);
    Arc::new(Schema::new(fields))
}

fn parameters_schema() -> SchemaRef {
    let fields = identity().into_iter().take(2);
    Arc::new(Schema::new(
        fields.chain([text("parameter", "Dotted path"), float("value", "", "As fitted")]).collect::<Vec<_>>(),
    ))
}

fn configurations_schema() -> SchemaRef {
    let mut fields = identity();
    fields.extend([
        text("part", "`train` or `test`"),
        int("line", "", "Line of the file"),
        text("served_model", "Model that was served"),
        int("tp", "", "Tensor-parallel size"),
        int("input_tokens", "tokens", "Length of prompts, as stated"),
        int("output_tokens", "tokens", "Length of replies, as stated"),
        int("users", "", "Users of the closed loop"),
        float("measured_ttft_ms", "ms", "Mean TTFT as measured"),
        float("simulated_ttft_ms", "ms", "Mean TTFT as simulated; null where it was not"),
        float("measured_tpot_ms", "ms", "Mean TPOT as measured"),
        float("simulated_tpot_ms", "ms", "Mean TPOT as simulated, of replies that have one; null where it was not"),
        text("left_out", "Why a figure is missing; empty where none is"),
    ]);
    Arc::new(Schema::new(fields))
}

fn published_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("experiment", "Name of the experiment"),
        text("served_model", "Model that was served"),
        text("workload", "Kind of load"),
        text("hardware", "GPU"),
        column("tp", DataType::Int64, true, "", "Tensor-parallel size"),
        text("simulator", "Whose simulator"),
        text("metric", "What the error is of"),
        float("error_pct", "%", "Error with its sign, as published"),
    ]))
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values.collect::<Vec<_>>()))
}
fn bools(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(BooleanArray::from_iter(values.map(Some)))
}
fn ints(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values.collect::<Vec<_>>()))
}
fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(Float64Array::from_iter(values))
}
fn percents(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    floats(values.map(|v| v.map(|v| v * 100.0)))
}
