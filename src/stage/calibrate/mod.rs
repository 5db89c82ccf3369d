//! `calibrate`: coefficients of latency models and overheads, fitted to what was measured.
//!
//! ```text
//! steps.rs   least squares over durations of steps      study.rs     parameters and cases of a search
//! search.rs  trials, the best over the test cases       features.rs  how far off a trial is
//! config.rs  the field's optimizer configuration        apply.rs     found values in a simulation
//! output.rs  tables, and the study as JSON
//! ```
//!
//! `<stage>` has the values by path, `<stage>_errors` how far off they are on the train and the test part, and, of a
//! search, `<stage>_trials` every trial. A trial is some scenarios, and scenarios are remembered: a search that was
//! stopped goes on. The simulation that is calibrated is not run for it; its settings are read.

mod apply;
mod config;
mod features;
mod output;
mod search;
mod steps;
mod study;
#[cfg(test)]
mod tests;

use std::path::Path;

use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use pipe_kernel::SIM_VERSION;

use self::steps::paths as paths_of_terms;
pub(crate) use apply::{calibrated, calibrated_stages, foreseen, foreseen_stages, rows};

use self::config::Config;
use self::output::{BestRow, role_name};
use self::search::{Found, Search};
use self::study::Study;
use super::simulate::profiles::Profiles;
use super::simulate::{filter, settings};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Calibrate, CalibrateConfig, CalibrateRequests, CaseRole, FilePath, Stage, Text};
use crate::table::{column, simulation};

/// Values that the answer shows.
const SHOWN: usize = 16;

impl Calibrate {
    /// The search, where it is one.
    fn study(
        &self,
        stages: &[Stage],
        project: &Path,
        seed: u64,
    ) -> Option<std::result::Result<Study, Vec<Diagnostic>>> {
        match self {
            Calibrate::Steps(_) => None,
            Calibrate::Requests(requests) => Some(Study::of(requests, stages, project, seed)),
            Calibrate::OptimizerConfig(spec) => Some(Config::read(spec).and_then(|c| c.study(spec, project))),
        }
    }

    /// Columns of the parameters in the table of trials; `None` for least squares.
    fn trial_columns(&self) -> Option<Vec<Field>> {
        let paths: Vec<String> = match self {
            Calibrate::Steps(_) => return None,
            Calibrate::Requests(requests) => requests.parameters.keys().map(|p| p.value.clone()).collect(),
            Calibrate::OptimizerConfig(spec) => match Config::read(spec) {
                Ok(config) => config.parameters(spec).0.into_iter().map(|p| p.path).collect(),
                Err(_) => Vec::new(),
            },
        };
        let field = |path: &String| {
            let what = settings::at(path, None).map(|s| s.description).unwrap_or_default();
            column(&settings::column_name(path), DataType::Float64, true, "", &what)
        };
        Some(paths.iter().map(field).collect())
    }
}

#[async_trait]
impl Kind for Calibrate {
    fn kind(&self) -> &'static str {
        "calibrate"
    }

    fn version(&self) -> u32 {
        1
    }

    /// What was measured; the requests of the simulation come in with it.
    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(match self {
            Calibrate::Steps(steps) => vec![steps.from.0.clone()],
            Calibrate::Requests(requests) => {
                let CalibrateRequests { measured, cases, .. } = requests.as_ref();
                let of_cases = cases.iter().flat_map(|c| c.requests.iter().chain(&c.measured));
                let mut all: Vec<Text> = Vec::new();
                for name in measured.iter().chain(of_cases).map(|r| r.0.clone()) {
                    if !all.contains(&name) {
                        all.push(name);
                    }
                }
                all
            }
            Calibrate::OptimizerConfig(_) => Vec::new(),
        })
    }

    fn files(&self) -> Vec<FilePath> {
        let spec = match self {
            Calibrate::Steps(_) => return Vec::new(),
            Calibrate::Requests(spec) => return spec.cases.iter().filter_map(|c| c.log.clone()).collect(),
            Calibrate::OptimizerConfig(spec) => spec,
        };
        let mut files = vec![spec.path.clone()];
        if let Ok(config) = Config::read(spec) {
            files.extend(config.files(spec));
        }
        files
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let shape = |name: String, schema| TableShape { name, schema: Some(schema) };
        let mut tables = vec![
            shape(stage.to_string(), output::best_schema()),
            shape(format!("{stage}_errors"), output::errors_schema()),
        ];
        if let Some(columns) = self.trial_columns() {
            tables.push(shape(format!("{stage}_trials"), output::trials_schema(&columns)));
        }
        tables
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let stages = foreseen_stages(cx.stages);
        match self {
            Calibrate::Steps(steps) => {
                let mut problems = steps::problems(steps, &stages, cx.project, cx.seed);
                let needed = ["latency_us", "prefill_tokens", "prefill_requests", "decode_requests"];
                let split = steps.split_by.iter().map(|s| s.value.as_str());
                problems.extend(lacking(cx, &steps.from.0, needed.into_iter().chain(split)));
                problems
            }
            Calibrate::Requests(requests) => {
                let mut problems = Study::of(requests, &stages, cx.project, cx.seed).err().unwrap_or_default();
                let of_cases = requests.cases.iter().filter_map(|c| c.measured.as_ref());
                for measured in requests.measured.iter().chain(of_cases) {
                    let needed = ["run", "request_id", "ttft_ns", "tpot_ns", "e2e_ns", "status"];
                    problems.extend(lacking(cx, &measured.0, needed.into_iter()));
                }
                problems
            }
            // A file that is not there is reported by whoever hashes it.
            Calibrate::OptimizerConfig(spec) if !spec.path.path.is_file() => Vec::new(),
            Calibrate::OptimizerConfig(spec) => {
                Config::read(spec).and_then(|c| c.study(spec, cx.project)).err().unwrap_or_default()
            }
        }
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        let stages = foreseen_stages(cx.stages);
        match self {
            Calibrate::Steps(spec) => json!({
                "steps": {
                    "model": spec.model,
                    "terms": paths_of_terms(spec),
                    "zero": spec.terms.iter().map(|t| &t.value).collect::<Vec<_>>(),
                    "facts": steps::facts(spec, &stages, cx.project, cx.seed),
                    "weights": spec.weights,
                    "non_negative": spec.non_negative,
                    "split_by": spec.split_by.as_ref().map(|s| &s.value),
                    "train_share": spec.train_share,
                    "train": spec.train.iter().map(|t| &t.value).collect::<Vec<_>>(),
                    "test": spec.test.iter().map(|t| &t.value).collect::<Vec<_>>(),
                    "seed": spec.seed.unwrap_or(cx.seed),
                },
                "sim_version": SIM_VERSION,
            }),
            Calibrate::Requests(_) => match self.study(&stages, cx.project, cx.seed) {
                Some(Ok(study)) => study_recipe(&study, &[]),
                Some(Err(_)) | None => Value::Null,
            },
            Calibrate::OptimizerConfig(spec) => match self.study(&stages, cx.project, cx.seed) {
                Some(Ok(study)) => study_recipe(&study, &[("arrival_seed", json!(spec.arrival_seed))]),
                Some(Err(_)) | None => Value::Null,
            },
        }
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        match self {
            Calibrate::Steps(spec) => {
                let stages = calibrated_stages(&cx.stages, &cx.inputs).await?;
                let fitted = steps::fit(spec, &cx, &stages).await?;
                output::write_best(&cx, &fitted.best)?;
                output::write_errors(&cx, &fitted.errors)?;
                let study = json!({
                    "parameters": by_name(&fitted.best),
                    "train_error": fitted.train_error,
                    "eval_error": fitted.test_error,
                    "r2": fitted.r2,
                    "steps": fitted.all,
                    "train_steps": fitted.train,
                    "settings": cx.recipe,
                });
                output::write_study(&cx, &study)?;
                let mut head = format!(
                    "{}: {} steps, error {} (R2 {:.4})",
                    cx.stage,
                    fitted.train,
                    percent(fitted.train_error),
                    fitted.r2
                );
                if let Some(test) = fitted.test_error {
                    head.push_str(&format!(", {} on {} held out", percent(test), fitted.all - fitted.train));
                }
                Ok(Outcome { answer: answer(head, &fitted.best), violated: None })
            }
            Calibrate::Requests(spec) => {
                let stages = calibrated_stages(&cx.stages, &cx.inputs).await?;
                let mut study = Study::of(spec, &stages, &cx.project, cx.seed).map_err(Failure::usage)?;
                study.profiles = Profiles::read(&study.named_profiles(), &cx).await?;
                let (workloads, sources) = search::workloads(&study, &cx.inputs).await?;
                let mut cases = Vec::new();
                for (case, source) in study.cases.iter().zip(sources) {
                    cases.push((source, search::measured(case, &cx.inputs).await?));
                }
                let found = Search::new(&study, &cx, workloads, cases)?.run().await?;
                finish(&cx, self, &study, &found, json!({}))
            }
            Calibrate::OptimizerConfig(spec) => run_config(self, spec, &cx).await,
        }
    }
}

async fn run_config(calibrate: &Calibrate, spec: &CalibrateConfig, cx: &RunCx) -> Result<Outcome> {
    let config = Config::read(spec).map_err(Failure::usage)?;
    let study = config.study(spec, &cx.project).map_err(Failure::usage)?;
    config.warnings().iter().for_each(|text| cx.progress.0.warning(text));
    let (workloads, cases) = config.load(spec)?;
    let found = Search::new(&study, cx, workloads, cases)?.run().await?;
    finish(cx, calibrate, &study, &found, config.record())
}

/// Columns that a table needs and does not have.
fn lacking<'a>(cx: &CheckCx, table: &Text, needed: impl Iterator<Item = &'a str>) -> Option<Diagnostic> {
    let schema = cx.tables.get(&table.value)?.schema.as_ref()?;
    let missing: Vec<&str> = needed.filter(|name| schema.field_with_name(name).is_err()).collect();
    if missing.is_empty() {
        return None;
    }
    let there: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let message = format!("`{}` has no column {}", table.value, missing.join(", "));
    let help = format!("its columns are {}", there.join(", "));
    Some(Diagnostic::new("calibrate::columns", message).at(table.at.clone()).help(help))
}

/// Everything that decides the trials.
fn study_recipe(study: &Study, more: &[(&str, Value)]) -> Value {
    let zero = study.space.decode(&vec![1.0; study.space.dimensions()]);
    let case = |c: &study::Case| {
        let scenario = study.scenario(c, &zero).ok();
        json!({
            "name": c.name,
            "role": role_name(c.role),
            "requests": c.requests.value,
            "measured": c.measured.as_ref().map(|m| &m.value),
            "run": c.run.as_ref().map(|r| &r.value),
            // Whose log it is: the files of a recipe only say that they are read.
            "log": c.log.as_ref().map(|l| &l.written),
            "targets": c.targets.iter().map(|(n, v)| (n.value.clone(), json!(v))).collect::<Map<_, _>>(),
            "base": scenario.as_ref().map(filter::config),
            "facts": scenario.as_ref().map(|s| json!({ "model": s.model, "gpu": s.gpu, "pools": s.pools, "supplied": s.supplied })),
        })
    };
    let parameter = |p: &study::Searched| json!({ "path": p.path, "name": p.name, "low": p.low, "high": p.high, "log": p.log, "scaling": p.scaling });
    let mut recipe = json!({
        "cases": study.cases.iter().map(case).collect::<Vec<_>>(),
        "parameters": study.searched.iter().map(parameter).collect::<Vec<_>>(),
        "objective": study.objective,
        "sampler": study.sampler,
        "trials": study.trials,
        // With it a batch is what is compared at once.
        "racing": study.racing.as_ref().map(|racing| json!({ "test": racing, "batch": study.batch })),
        "seed": study.seed,
        "sim_version": SIM_VERSION,
        "memo_version": simulation::MEMO_VERSION,
    });
    for (name, value) in more {
        recipe[*name] = value.clone();
    }
    recipe
}

/// Writes what a search found.
fn finish(cx: &RunCx, calibrate: &Calibrate, study: &Study, found: &Found, record: Value) -> Result<Outcome> {
    let columns = calibrate.trial_columns().unwrap_or_default();
    let trials: Vec<(Vec<f64>, f64)> = found.trials.iter().map(|(p, error)| (study.values(p), *error)).collect();
    let values = &trials[found.best].0;
    let bounds = |p: &study::Searched| {
        let (a, b) = (p.value(p.low), p.value(p.high));
        Some((a.min(b), a.max(b)))
    };
    let best: Vec<BestRow> = study
        .searched
        .iter()
        .zip(values)
        .map(|(p, value)| BestRow {
            path: p.path.clone(),
            name: p.name.clone(),
            value: *value,
            bounds: bounds(p),
            standard_error: None,
        })
        .collect();
    output::write_best(cx, &best)?;
    output::write_errors(cx, &found.errors)?;
    output::write_trials(cx, &columns, &trials, found.best)?;
    // As the field's own record has them: without scaling.
    let draws: Map<String, Value> =
        study.searched.iter().zip(&found.trials[found.best].0).map(|(p, v)| (p.name.clone(), v.clone())).collect();
    let mut json = json!({
        "parameters": by_name(&best),
        "best_params": draws,
        "train_error": found.train_error,
        "eval_error": found.test_error.filter(|e| e.is_finite()),
        "error_function": study.objective,
        "best_trial": found.best,
        "n_trials": trials.len(),
        "seed": study.seed,
        "settings": cx.recipe,
    });
    for (name, value) in record.as_object().into_iter().flatten() {
        json[name] = value.clone();
    }
    output::write_study(cx, &json)?;
    let cases = |role: CaseRole| study.cases.iter().filter(|c| c.role == role).count();
    let shown = |error: f64| match study.objective {
        crate::spec::ErrorFunction::Mape => percent(error),
        crate::spec::ErrorFunction::Mse => format!("{error:.4} ms2"),
    };
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let train = cases(CaseRole::Train);
    let mut head = format!(
        "{}: {} trials, error {} on {train} case{}",
        cx.stage,
        trials.len(),
        shown(found.train_error),
        plural(train)
    );
    if let Some(error) = found.test_error {
        let test = cases(CaseRole::Test);
        head.push_str(&format!(
            ", {} on {test} held out",
            if error.is_finite() { shown(error) } else { "none".into() }
        ));
    }
    Ok(Outcome { answer: answer(head, &best), violated: None })
}

fn by_name(best: &[BestRow]) -> Value {
    best.iter().map(|r| (r.path.clone(), json!(r.value))).collect::<Map<_, _>>().into()
}

fn percent(error: f64) -> String {
    format!("{:.2} %", error * 100.0)
}

/// What was found, ready to read.
fn answer(head: String, best: &[BestRow]) -> Vec<String> {
    let mut lines = vec![head];
    for row in best.iter().take(SHOWN) {
        let value = significant(row.value);
        lines.push(match row.standard_error {
            Some(error) => format!("  {}: {value} (standard error {})", row.path, significant(error)),
            None => format!("  {}: {value}", row.path),
        });
    }
    if best.len() > SHOWN {
        lines.push(format!("  and {} more, in the table", best.len() - SHOWN));
    }
    lines
}

/// Four digits that count.
fn significant(v: f64) -> String {
    if v == 0.0 {
        return "0".to_string();
    }
    let magnitude = libm::floor(libm::log10(v.abs())) as i32;
    if (-4..9).contains(&magnitude) {
        format!("{v:.*}", usize::try_from(3 - magnitude).unwrap_or(0))
    } else {
        format!("{v:.3e}")
    }
}
