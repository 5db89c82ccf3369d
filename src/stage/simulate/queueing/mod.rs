//! `deployment: { queueing: .. }`: the queueing model in the place of engines.
//!
//! ```text
//! mod.rs       what the stage checks, and how it runs      rows.rs    kernel results -> Arrow
//! scenario.rs  settings + sweep -> scenarios, checked      tests.rs
//! ```
//!
//! Scenarios draw their own requests, so the stage reads no table. One takes milliseconds: they are not remembered one
//! by one, only the stage's result as a whole is.

mod rows;
mod scenario;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use rayon::prelude::*;
use serde_json::{Value, json};

use pipe_kernel::SIM_VERSION;
use pipe_kernel::queueing::{Figures, Queueing, figures};

use self::scenario::{config, expand, present};
use super::{base_recipe, settings, sweep_recipe, swept_paths};
use crate::diag::{Diagnostic, Failure, Result, nearest};
use crate::spec::{Simulate, Tree, TreeValue};
use crate::stage::tokenize::blocking;
use crate::stage::{Outcome, RunCx, TableShape};
use crate::table::{queueing as table, simulation};

/// As written under `deployment`.
const KEY: &str = "queueing";

/// Whether a stage has a queueing deployment: by its settings, or by what its sweep sets.
pub(super) fn chosen(spec: &Simulate) -> bool {
    let names_it = |tree: &Tree| tree.as_str() == Some(KEY) || tree.get_path(KEY).is_some();
    let swept = || spec.sweep.iter().flat_map(swept_paths).map(|path| path.value.as_str());
    let below = |path: &str| path.strip_prefix("deployment.").is_some_and(|p| p.split('.').next() == Some(KEY));
    names_it(&spec.deployment) || swept().any(below)
}

/// A key of `deployment` that is no setting of engines, and that was probably meant to be `queueing`.
pub(super) fn misspelt(spec: &Simulate) -> Option<Diagnostic> {
    let TreeValue::Map(entries) = &spec.deployment.value else { return None };
    let unknown = entries.iter().map(|(key, _)| key).find(|key| {
        settings::at(&format!("deployment.{}", key.value), None).is_err() && nearest(&key.value, [KEY]).is_some()
    })?;
    let message = format!("unknown key `{}`", unknown.value);
    Some(Diagnostic::new("spec::unknown_key", message).at(unknown.at.clone()).help(format!("did you mean `{KEY}`?")))
}

/// Everything that is wrong with the stage.
pub(super) fn check(spec: &Simulate) -> Vec<Diagnostic> {
    let mut problems = senseless(spec);
    let beside = beside(spec);
    if beside.is_empty() {
        problems.extend(expand(spec).err().unwrap_or_default());
    }
    problems.extend(beside);
    problems
}

/// Settings of the stage that mean nothing here.
fn senseless(spec: &Simulate) -> Vec<Diagnostic> {
    let Simulate { requests, deployment, workload, measure, seed, sweep: _, calibration, steps, routes } = spec;
    let draws = "its requests are drawn as `arrival`, `prompt_tokens` and `output_tokens` say; leave it out";
    let seeded = "give `random_seed` under `queueing`; leave `seed` out";
    let warm = "give `warmup_seconds` under `queueing`; leave `measure` out";
    let given = [
        ("requests", requests.as_ref().map(|r| r.0.at.clone()), draws),
        ("workload", workload.as_ref().map(|tree| tree.at.clone()), draws),
        ("measure", measure.as_ref().map(|tree| tree.at.clone()), warm),
        ("seed", seed.map(|_| deployment.at.clone()), seeded),
        ("calibration", calibration.as_ref().map(|c| c.0.at.clone()), "coefficients are of engines; leave it out"),
        ("steps", steps.then(|| deployment.at.clone()), "there are no engines, and so no steps; leave it out"),
        ("routes", routes.then(|| deployment.at.clone()), "there is no router; leave it out"),
    ];
    let found = given.into_iter().filter_map(|(name, at, help)| {
        let message = format!("`{name}` means nothing to a queueing deployment");
        Some(Diagnostic::new("simulate::queueing", message).at(at?).help(help))
    });
    found.collect()
}

/// Keys of `deployment` beside `queueing`.
fn beside(spec: &Simulate) -> Vec<Diagnostic> {
    let TreeValue::Map(entries) = &spec.deployment.value else { return Vec::new() };
    let others = entries.iter().map(|(key, _)| key).filter(|key| key.value != KEY);
    let found = others.map(|key| {
        let message = format!("`{}` beside `{KEY}`: a deployment is engines, or queues, not both", key.value);
        let help = format!("leave out `{}`; or leave out `{KEY}`, and give `model` and `gpu`", key.value);
        Diagnostic::new("simulate::queueing", message).at(key.at.clone()).help(help)
    });
    found.collect()
}

/// `<stage>` and `<stage>_requests`.
pub(super) fn tables(spec: &Simulate, stage: &str) -> Vec<TableShape> {
    let scenarios = if beside(spec).is_empty() { expand(spec).ok() } else { None };
    let configs = scenarios.map(|s| s.iter().map(config).collect::<Vec<_>>());
    vec![
        TableShape { name: stage.to_string(), schema: configs.map(|c| scenario_schema(&c)) },
        TableShape { name: format!("{stage}_requests"), schema: Some(table::requests()) },
    ]
}

fn scenario_schema(configs: &[Value]) -> SchemaRef {
    let mut fields = simulation::identity();
    fields.extend(present(configs).iter().filter_map(|s| s.field()));
    fields.extend(table::figures());
    Arc::new(Schema::new(fields))
}

pub(super) fn recipe(spec: &Simulate) -> Value {
    let Ok(scenarios) = expand(spec) else { return Value::Null };
    let base = base_recipe(spec, scenarios.first().map(config), |alone| expand(alone).ok()?.first().map(config));
    json!({ "base": base, "sweep": spec.sweep.as_ref().map(sweep_recipe), "sim_version": SIM_VERSION })
}

pub(super) async fn run(spec: &Simulate, cx: RunCx) -> Result<Outcome> {
    let scenarios = expand(spec).map_err(Failure::usage)?;
    blocking(move || {
        cx.progress.0.total(scenarios.len() as u64, "scenarios");
        let figures = write_requests(&cx, &scenarios)?;
        write_scenarios(&cx, &scenarios, &figures)?;
        if let Some(warning) = unmeasured(&figures) {
            cx.progress.0.warning(&warning);
        }
        let requests: u64 = figures.iter().map(|f| f.arrived).sum();
        let plural = if scenarios.len() == 1 { "" } else { "s" };
        let answer = format!("{}: {} scenario{plural}, {requests} requests", cx.stage, scenarios.len());
        Ok(Outcome { answer: vec![answer], violated: None })
    })
    .await
}

/// As many scenarios at once as there are threads, whose requests are then written in the order of the scenarios.
fn write_requests(cx: &RunCx, scenarios: &[Queueing]) -> Result<Vec<Figures>> {
    let mut writer = cx.out.table(&format!("{}_requests", cx.stage), table::requests())?;
    let mut all = Vec::with_capacity(scenarios.len());
    let numbered: Vec<(i64, &Queueing)> = (0..).zip(scenarios).collect();
    for some in numbered.chunks(cx.pool.current_num_threads().max(1)) {
        let results: Vec<Result<(Figures, Vec<RecordBatch>)>> =
            cx.pool.install(|| some.par_iter().map(|(id, s)| simulate(cx, *id, s)).collect());
        for result in results {
            let (figures, batches) = result?;
            for batch in &batches {
                writer.write(batch)?;
            }
            all.push(figures);
            cx.progress.0.advance(1);
        }
    }
    writer.finish()?;
    Ok(all)
}

fn simulate(cx: &RunCx, id: i64, settings: &Queueing) -> Result<(Figures, Vec<RecordBatch>)> {
    let requests = pipe_kernel::queueing::run(settings, cx.cancel.flag()).ok_or_else(Failure::interrupted)?;
    let batches = rows::requests(id, settings, &requests).map_err(|e| wrong_rows(&e))?;
    Ok((figures(settings, &requests), batches))
}

fn write_scenarios(cx: &RunCx, scenarios: &[Queueing], figures: &[Figures]) -> Result<()> {
    let configs: Vec<Value> = scenarios.iter().map(config).collect();
    let schema = scenario_schema(&configs);
    let columns = rows::scenarios(scenarios, &configs, figures);
    let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|e| wrong_rows(&e))?;
    let mut writer = cx.out.table(&cx.stage, schema)?;
    writer.write(&batch)?;
    writer.finish()
}

fn wrong_rows(e: &arrow::error::ArrowError) -> Failure {
    Failure::stage("simulate::rows", e.to_string())
}

fn unmeasured(figures: &[Figures]) -> Option<String> {
    let empty = figures.iter().filter(|f| f.num_samples == 0).count();
    (empty > 0).then(|| {
        let scenarios = if empty == 1 { "1 scenario has" } else { &format!("{empty} scenarios have") };
        format!("{scenarios} no times to first token: no first token comes from the warm-up to the end")
    })
}
