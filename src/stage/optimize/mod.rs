//! `optimize`: the search for the best configurations of a simulation.
//!
//! ```text
//! space.rs       base scenario, domains, what is possible      objective.rs  SQL -> one number per trial
//! ```
//!
//! A trial is a scenario, and scenarios are remembered: a search that was stopped asks for the same trials again and
//! finds them done. Neither `batch` nor the number of threads changes which trials there are.

mod objective;
pub(crate) mod space;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use pipe_kernel::SIM_VERSION;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::tune::{self, Allowed, OnViolation, Settings, Study, Trial, pareto};

use self::objective::Judge;
use self::space::Search;
use super::calibrate::{calibrated_stages, foreseen_stages};
use super::simulate::evaluate::{Detail, Evaluator, Finished};
use super::simulate::input::Workload;
use super::simulate::profiles::{self, Profiles};
use super::simulate::{filter, totals_columns};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::catalog;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{Optimize, Text};
use crate::table::{column, simulation};

/// Rows of the front that the answer shows.
const SHOWN: usize = 5;
/// Most trials of one search.
const TRIALS_MAX: u64 = 1_000_000;

#[async_trait]
impl Kind for Optimize {
    fn kind(&self) -> &'static str {
        "optimize"
    }

    fn version(&self) -> u32 {
        1
    }

    /// The simulation; the requests that it reads come in with it.
    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(vec![self.over.0.clone()])
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let (front, trials) = schemas(self);
        vec![
            TableShape { name: stage.to_string(), schema: Some(front) },
            TableShape { name: format!("{stage}_trials"), schema: Some(trials) },
        ]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut problems = Judge::new(self).err().unwrap_or_default();
        let at = self.over.0.at.clone();
        if self.trials == 0 || self.trials > TRIALS_MAX || self.batch == 0 {
            let message = format!("`trials` must be 1 to {TRIALS_MAX} and `batch` at least 1");
            problems.push(Diagnostic::new("optimize::trials", message).at(at.clone()));
        }
        let search = match Search::new(self, &foreseen_stages(cx.stages), cx.project, cx.seed) {
            Ok(search) => search,
            Err(found) => {
                problems.extend(found);
                return problems;
            }
        };
        let mut first = match study(self, &search, cx.seed) {
            Ok(study) => study,
            Err(unfit) => {
                // That there is nothing to optimize is told already.
                let wrong = |m| Diagnostic::new("optimize::sampler", m).at(at.clone());
                problems.extend(unfit.into_iter().map(wrong));
                return problems;
            }
        };
        if problems.is_empty() && first.ask(1, &Allowed(|p: &[Value]| search.feasible(p))).is_empty() {
            let found = search.failed().unwrap_or_else(|| {
                Diagnostic::new("optimize::infeasible", "no point of the space is a scenario that can be simulated")
                    .help("look at `where`, and at the memory that the model needs at each `deployment.tp`")
            });
            problems.push(if found.at.is_some() { found } else { found.at(at) });
        }
        problems
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        recipe(self, cx)
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let stages = calibrated_stages(&cx.stages, &cx.inputs).await?;
        let mut search = Search::new(self, &stages, &cx.project, cx.seed).map_err(Failure::usage)?;
        search.profiles = Profiles::read(&profiles::named(space::over(self, &stages)?), &cx).await?;
        let judge = Judge::new(self).map_err(Failure::usage)?;
        let requests = space::over(self, &cx.stages)?.requests()?.clone();
        let missing = || Failure::stage("optimize::requests", format!("there is no table `{}`", requests.value));
        let catalog = catalog::load(&cx.project)?;
        let workload = Workload::read(cx.inputs.get(&requests.value).ok_or_else(missing)?, &catalog).await;
        let workload = workload.map_err(|failure| failure.or_at(requests.at.as_ref()))?;
        cx.progress.0.total(self.trials, "trials");
        let evaluator = Evaluator::new(&cx, workload, search.profiles.clone(), Detail::default());
        let searched = Run { spec: self, cx: &cx, search: &search, judge: &judge, evaluator, requests };
        let trials = searched.trials().await?;
        let front = front(&trials, judge.objectives.len() == 1);
        write(self, &cx, &search, &judge, &trials, &front)?;
        Ok(Outcome { answer: answer(&cx.stage, &search, &judge, &trials, &front), violated: None })
    }
}

/// The sampler of a search, before its first trial.
fn study(spec: &Optimize, search: &Search, seed: u64) -> std::result::Result<Study, Vec<String>> {
    let settings = Settings {
        seed: spec.seed.unwrap_or(seed),
        objectives: (spec.minimize.len() + spec.maximize.len()).max(1),
        on_violation: OnViolation::Resample,
        budget: Some(spec.trials),
        ..Settings::default()
    };
    Study::new(search.space.clone(), &spec.sampler, settings)
}

/// A trial, and the scenario that it was.
struct Done {
    number: u64,
    params: Vec<Value>,
    scenario: String,
    /// As written, not negated.
    objectives: Option<Vec<f64>>,
    /// The same, all to be minimized.
    minimized: Option<Vec<f64>>,
}

/// A search in progress.
struct Run<'a> {
    spec: &'a Optimize,
    cx: &'a RunCx,
    search: &'a Search,
    judge: &'a Judge,
    evaluator: Evaluator,
    requests: Text,
}

impl Run<'_> {
    /// All trials, in order of number.
    async fn trials(&self) -> Result<Vec<Done>> {
        let mut done: Vec<Done> = Vec::new();
        let wrong = |problems: Vec<String>| Failure::stage("optimize::sampler", problems.join("; "));
        let mut study = study(self.spec, self.search, self.cx.seed).map_err(wrong)?;
        while study.told() < self.spec.trials {
            self.cx.cancel.check()?;
            // Sampling and the rules on points are quick; simulations are not.
            let left = (self.spec.trials - study.told()).min(u64::from(self.spec.batch));
            let rules = Allowed(|p: &[Value]| self.search.feasible(p));
            let asked = study.ask(usize::try_from(left).unwrap_or(1), &rules);
            let points: Vec<Vec<Value>> = asked.into_iter().map(|s| s.values).collect();
            if let Some(d) = self.search.failed() {
                return Err(Failure { exit: Exit::Stage, diagnostics: vec![d] });
            }
            if points.is_empty() {
                break;
            }
            // The sampler returns nothing but feasible points, and those have scenarios.
            let scenarios: Vec<Scenario> = points.iter().filter_map(|p| self.search.scenario(p)).collect();
            assert!(scenarios.len() == points.len(), "the sampler returned a point that is not feasible");
            for scenario in &scenarios {
                self.evaluator.workload.check(&scenario.workload, &self.requests)?;
            }
            let (finished, _) = self.evaluator.evaluate(&scenarios).await?;
            for ((params, scenario), finished) in points.into_iter().zip(&scenarios).zip(&finished) {
                let trial = self.judged(study.told(), params, scenario, finished).await?;
                let outcome = tune::Outcome::from(trial.minimized.clone());
                study.tell(Trial { number: trial.number, values: trial.params.clone(), outcome });
                done.push(trial);
            }
        }
        Ok(done)
    }

    async fn judged(&self, number: u64, params: Vec<Value>, scenario: &Scenario, finished: &Finished) -> Result<Done> {
        let rows = self.evaluator.request_rows(scenario, finished, number as i64).await?;
        let rows = rows.iter().map(only_measured).collect::<Result<Vec<_>>>()?;
        let row = scenario_row(self.judge, scenario, finished)?;
        let objectives = self.judge.evaluate(&rows, &row).await.map_err(|d| {
            let message = format!("{} (trial {number})", d.message);
            Failure { exit: Exit::Stage, diagnostics: vec![Diagnostic { message, ..d }] }
        })?;
        let minimized = objectives.as_ref().map(|values| {
            let signed = values.iter().zip(&self.judge.objectives);
            signed.map(|(v, o)| if o.maximize { -v } else { *v }).collect()
        });
        Ok(Done { number, params, scenario: finished.key.0.clone(), objectives, minimized })
    }
}

/// The columns that objectives know of a trial's scenario, in one row.
fn scenario_row(judge: &Judge, scenario: &Scenario, finished: &Finished) -> Result<RecordBatch> {
    let configs = [filter::config(scenario)];
    let mut columns: Vec<ArrayRef> = judge.settings.iter().map(|s| filter::setting_column(s, &configs)).collect();
    columns.extend(totals_columns(std::slice::from_ref(&finished.totals)));
    RecordBatch::try_new(judge.scenario_schema(), columns).map_err(|e| wrong_rows(&e))
}

/// The requests that count in the figures of their scenario.
fn only_measured(rows: &RecordBatch) -> Result<RecordBatch> {
    match rows.column_by_name("measured").and_then(|c| c.as_boolean_opt()) {
        Some(measured) if measured.has_false() => filter_record_batch(rows, measured).map_err(|e| wrong_rows(&e)),
        Some(_) | None => Ok(rows.clone()),
    }
}

fn wrong_rows(e: &arrow::error::ArrowError) -> Failure {
    Failure::stage("optimize::rows", e.to_string())
}

/// Indices of the best trials: those that no other beats in every objective, by the first objective, then by number.
/// With one objective, the first of the best.
fn front(done: &[Done], single: bool) -> Vec<usize> {
    let judged: Vec<(usize, &Vec<f64>)> =
        done.iter().enumerate().filter_map(|(i, d)| Some((i, d.minimized.as_ref()?))).collect();
    let points: Vec<Vec<f64>> = judged.iter().map(|(_, o)| (*o).clone()).collect();
    let mut best = pareto::front(&points);
    best.sort_by(|a, b| points[*a][0].total_cmp(&points[*b][0]).then(a.cmp(b)));
    if single {
        best.truncate(1);
    }
    best.into_iter().map(|i| judged[i].0).collect()
}

/// Name, column and unit-less field of every objective and parameter; what both tables have in common.
fn common_fields(spec: &Optimize) -> Vec<Field> {
    use super::simulate::settings;
    let parameter = |path: &Text| {
        let setting = settings::at(&path.value, None).ok();
        let kind = setting.as_ref().and_then(|s| s.data_type()).unwrap_or(DataType::Utf8);
        let description = setting.as_ref().map_or("", |s| s.description.as_str());
        column(&settings::column_name(&path.value), kind, true, "", description)
    };
    let mut fields: Vec<Field> = spec.space.keys().map(parameter).collect();
    let objective = |(name, sql): (&String, &Text)| column(name, DataType::Float64, true, "", &sql.value);
    fields.extend(spec.minimize.iter().map(objective));
    fields.extend(spec.maximize.iter().map(objective));
    fields
}

/// Schemas of the front and of the trials.
fn schemas(spec: &Optimize) -> (SchemaRef, SchemaRef) {
    let trial = column("trial", DataType::Int64, false, "", "Number of the trial, from 0");
    let mut front = vec![trial.clone()];
    front.extend(common_fields(spec));
    let mut trials = vec![trial];
    trials.extend(simulation::identity().into_iter().filter(|f| f.name() == "scenario"));
    trials.extend(common_fields(spec));
    trials.push(column("feasible", DataType::Boolean, false, "", "Every objective is a number"));
    trials.push(column("on_front", DataType::Boolean, false, "", "No other trial is better in every objective"));
    (Arc::new(Schema::new(front)), Arc::new(Schema::new(trials)))
}

/// Parameters and objectives of some trials.
fn common_columns(search: &Search, judge: &Judge, trials: &[&Done]) -> Vec<ArrayRef> {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (j, setting) in search.settings.iter().enumerate() {
        let values = || trials.iter().map(|d| d.params.get(j));
        columns.push(match setting.data_type() {
            Some(DataType::Int64) => Arc::new(values().map(|v| v.and_then(Value::as_i64)).collect::<Int64Array>()),
            Some(DataType::Float64) => Arc::new(values().map(|v| v.and_then(Value::as_f64)).collect::<Float64Array>()),
            Some(DataType::Boolean) => Arc::new(values().map(|v| v.and_then(Value::as_bool)).collect::<BooleanArray>()),
            Some(_) | None => Arc::new(values().map(|v| v.and_then(text)).collect::<StringArray>()),
        });
    }
    for i in 0..judge.objectives.len() {
        let values = trials.iter().map(|d| d.objectives.as_ref().and_then(|o| o.get(i).copied()));
        columns.push(Arc::new(values.collect::<Float64Array>()));
    }
    columns
}

/// A name, or the JSON of a choice with its parameters.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}

fn write(spec: &Optimize, cx: &RunCx, search: &Search, judge: &Judge, trials: &[Done], front: &[usize]) -> Result<()> {
    let (front_schema, trials_schema) = schemas(spec);
    let numbers = |of: &[&Done]| -> ArrayRef { Arc::new(of.iter().map(|d| d.number as i64).collect::<Int64Array>()) };
    let put = |name: &str, schema: SchemaRef, columns: Vec<ArrayRef>| -> Result<()> {
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|e| wrong_rows(&e))?;
        let mut writer = cx.out.table(name, schema)?;
        writer.write(&batch)?;
        writer.finish()
    };
    let best: Vec<&Done> = front.iter().map(|&i| &trials[i]).collect();
    let mut columns = vec![numbers(&best)];
    columns.extend(common_columns(search, judge, &best));
    put(&cx.stage, front_schema, columns)?;

    let all: Vec<&Done> = trials.iter().collect();
    let mut columns = vec![numbers(&all)];
    columns.push(Arc::new(StringArray::from_iter_values(all.iter().map(|d| d.scenario.as_str()))));
    columns.extend(common_columns(search, judge, &all));
    columns.push(Arc::new(all.iter().map(|d| Some(d.minimized.is_some())).collect::<BooleanArray>()));
    columns.push(Arc::new((0..all.len()).map(|i| Some(front.contains(&i))).collect::<BooleanArray>()));
    put(&format!("{}_trials", cx.stage), trials_schema, columns)
}

/// The best configurations, ready to read.
fn answer(stage: &str, search: &Search, judge: &Judge, trials: &[Done], front: &[usize]) -> Vec<String> {
    let failed = trials.iter().filter(|d| d.objectives.is_none()).count();
    let mut head = format!("{stage}: {} trials", trials.len());
    if failed > 0 {
        head.push_str(&format!(", {failed} failed"));
    }
    // Configurations that achieve the same are one answer: the first of them stands for all.
    let mut answers: Vec<&Done> = Vec::new();
    for &i in front {
        if answers.iter().all(|known| known.objectives != trials[i].objectives) {
            answers.push(&trials[i]);
        }
    }
    match answers.len() {
        0 => head.push_str("; none of them has a value for every objective"),
        1 => head.push_str("; the best configuration:"),
        n if n > SHOWN => head.push_str(&format!("; {n} results that no other beats, the first {SHOWN}:")),
        n => head.push_str(&format!("; {n} results that no other beats:")),
    }
    let mut lines = vec![head];
    for done in answers.into_iter().take(SHOWN) {
        let params = search.settings.iter().zip(&done.params);
        let params: Vec<String> = params
            .map(|(s, v)| format!("{}={}", last(&s.path), text(v).unwrap_or_else(|| "default".to_string())))
            .collect();
        let values = judge.objectives.iter().zip(done.objectives.iter().flatten());
        let values: Vec<String> = values.map(|(o, v)| format!("{} {}", o.name, short(*v))).collect();
        lines.push(format!("  {}: {} (trial {})", values.join(", "), params.join(" "), done.number));
    }
    lines
}

/// The last name of a dotted path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Five significant digits, without an exponent where that can be read.
fn short(v: f64) -> String {
    let magnitude = if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
    if (-4..15).contains(&magnitude) {
        let text = format!("{v:.*}", usize::try_from(4 - magnitude).unwrap_or(0));
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    } else {
        format!("{v:.4e}")
    }
}

fn recipe(spec: &Optimize, cx: &CheckCx) -> Value {
    let Ok(search) = Search::new(spec, &foreseen_stages(cx.stages), cx.project, cx.seed) else { return Value::Null };
    let texts = |objectives: &indexmap::IndexMap<String, Text>| -> Map<String, Value> {
        objectives.iter().map(|(name, sql)| (name.clone(), Value::from(sql.value.as_str()))).collect()
    };
    let space: Map<String, Value> = spec.space.iter().map(|(p, t)| (p.value.clone(), t.to_json())).collect();
    json!({
        "base": search.base_recipe(),
        "space": space,
        // The order of parameters and objectives decides the trials; keys of JSON objects have none.
        "order": spec.space.keys().map(|p| &p.value).collect::<Vec<_>>(),
        "objectives": spec.minimize.keys().chain(spec.maximize.keys()).collect::<Vec<_>>(),
        "where": spec.filter.as_ref().map(|f| &f.value),
        "minimize": texts(&spec.minimize),
        "maximize": texts(&spec.maximize),
        "sampler": serde_json::to_value(&spec.sampler).unwrap_or_default(),
        "trials": spec.trials,
        "seed": spec.seed.unwrap_or(cx.seed),
        "facts": search.facts(),
        "sim_version": SIM_VERSION,
        "memo_version": simulation::MEMO_VERSION,
    })
}
