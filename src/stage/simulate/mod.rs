//! `simulate`: every scenario of a sweep over the same requests.
//!
//! ```text
//! settings.rs   the settings as paths and columns      filter.rs    `where`
//! scenario.rs   base + sweep -> scenarios, checked     input.rs     the shared requests
//! evaluate.rs   scenarios -> results, by memory        operator.rs  the DataFusion operators that simulate
//! rows.rs       kernel rows -> Arrow                   totals.rs    what a scenario comes to
//! supply.rs     fitted coefficients, and what `auto` picks   profiles.rs  tables of measured times
//! columns.rs    columns by name                        pools.rs     what each pool comes to
//! tiers.rs      what the tiers of each came to         mechanisms.rs  what else a scenario's engines did
//! measure.rs    warm-up and cool-down                  saturation.rs  does it keep up
//! quantiles.rs  exact quantiles of integers            histogram.rs   gaps between tokens
//! queueing/     deployments that are queues: their own settings, scenarios and tables
//! ```
//!
//! Finished scenarios are remembered one by one: a sweep that grows simulates what is new, and a run that was stopped
//! goes on. The tables are then written in the order of the scenarios, one scenario at a time.

mod columns;
pub(crate) mod cost;
mod derived;
pub(crate) mod evaluate;
pub(crate) mod filter;
mod histogram;
pub(crate) mod input;
mod measure;
mod mechanisms;
mod operator;
mod pools;
pub(crate) mod profiles;
mod quantiles;
mod queueing;
mod rows;
mod saturation;
pub(crate) mod scenario;
pub(crate) mod settings;
mod supply;
mod tiers;
mod totals;

#[cfg(test)]
mod input_tests;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use totals::{Totals, totals_columns};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use pipe_kernel::SIM_VERSION;
use pipe_kernel::scenario::{Deployment, Scenario};
use pipe_kernel::sim;

use self::evaluate::{Detail, Evaluator, Finished};
use self::input::Workload;
use self::profiles::Profiles;
use super::calibrate::{calibrated, foreseen};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::catalog;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{Simulate, Sweep, Text, Tree};
use crate::table::simulation;

#[async_trait]
impl Kind for Simulate {
    fn kind(&self) -> &'static str {
        "simulate"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        let tables = self.requests.iter().chain(&self.calibration).map(|r| r.0.clone());
        Ok(tables.chain(profiles::named(self)).collect())
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        if self.is_queueing() {
            return queueing::tables(self, stage);
        }
        let scenarios = foreseen(self, cx.stages).and_then(|spec| scenarios(&spec, cx.project, cx.seed).ok());
        let shape = |name: String, schema: Option<SchemaRef>| TableShape { name, schema };
        let mut tables = vec![
            shape(stage.to_string(), scenarios.map(|s| scenario_schema(&configs(&s)))),
            shape(format!("{stage}_requests"), Some(simulation::requests())),
            shape(format!("{stage}_itl"), Some(simulation::itl())),
            shape(format!("{stage}_pools"), Some(simulation::pools())),
        ];
        if tiers::mentioned(self) {
            tables.push(shape(format!("{stage}_tiers"), Some(simulation::tiers())));
        }
        if self.steps {
            tables.push(shape(format!("{stage}_steps"), Some(simulation::steps())));
        }
        if self.routes {
            tables.push(shape(format!("{stage}_routes"), Some(simulation::routes())));
        }
        tables
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        if self.is_queueing() {
            return queueing::check(self);
        }
        if let Some(found) = queueing::misspelt(self) {
            return vec![found];
        }
        let mut problems = check_requests(self, cx);
        problems.extend(profiles::check(&profiles::named(self), cx));
        if let Some(d) = check_calibration(self, cx) {
            problems.push(d);
        }
        // Values of a table of one's own are known when it is there; then all of this is checked again.
        let Some(spec) = foreseen(self, cx.stages) else { return problems };
        if let Err(found) = scenarios(&spec, cx.project, cx.seed) {
            problems.extend(found);
        }
        problems
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        if self.is_queueing() {
            return queueing::recipe(self);
        }
        match foreseen(self, cx.stages) {
            Some(spec) => recipe(&spec, cx),
            None => unforeseen_recipe(self, cx),
        }
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        if self.is_queueing() {
            return queueing::run(self, cx).await;
        }
        let spec = &calibrated(self, &cx.inputs).await?;
        let wrong = |diagnostics| match &self.calibration {
            Some(_) => Failure { exit: Exit::Stage, diagnostics },
            None => Failure::usage(diagnostics),
        };
        let mut scenarios = scenarios(spec, &cx.project, cx.seed).map_err(wrong)?;
        let profiles = Profiles::read(&profiles::named(self), &cx).await?;
        scenarios.iter_mut().for_each(|scenario| profiles.attach(scenario));
        let name = self.requests()?;
        let missing = || Failure::stage("simulate::requests", format!("there is no table `{}`", name.value));
        let catalog = catalog::load(&cx.project)?;
        let workload = Workload::read(cx.inputs.get(&name.value).ok_or_else(missing)?, &catalog).await;
        let workload = workload.map_err(|failure| failure.or_at(name.at.as_ref()))?;
        for scenario in &scenarios {
            workload.check(&scenario.workload, name)?;
        }
        scenario::check_requests(spec, cx.seed, &catalog, &scenarios, &workload.requests)
            .map_err(|diagnostics| Failure { exit: Exit::Stage, diagnostics })?;
        cx.progress.0.total(scenarios.len() as u64, "scenarios");
        let detail = Detail { steps: self.steps, routes: self.routes };
        let evaluator = Evaluator::new(&cx, workload, profiles, detail);
        let (finished, reused) = evaluator.evaluate(&scenarios).await?;
        for text in warnings(name, &evaluator.workload, &scenarios, &finished) {
            cx.progress.0.warning(&text);
        }
        write_scenarios(&cx, &scenarios, &finished)?;
        write_itl(&cx, &finished)?;
        write_by_scenario(&cx, "pools", simulation::pools(), &scenarios, &finished, Totals::pool_rows)?;
        if tiers::mentioned(self) {
            write_by_scenario(&cx, "tiers", simulation::tiers(), &scenarios, &finished, Totals::tier_rows)?;
        }
        write_rows(&cx, &evaluator, &scenarios, &finished, detail).await?;
        Ok(Outcome { answer: vec![answer(&cx.stage, &finished, reused)], violated: None })
    }
}

impl Simulate {
    /// Whether the deployment is the queueing model.
    pub(crate) fn is_queueing(&self) -> bool {
        queueing::chosen(self)
    }

    /// The table of requests of a deployment that needs one.
    ///
    /// # Errors
    /// It is not given.
    pub(crate) fn requests(&self) -> std::result::Result<&Text, Diagnostic> {
        let missing = || {
            Diagnostic::new("spec::missing_key", "required key `requests` missing")
                .help("it names a table of requests: a stage `ingest`, `synthesize`, `tokenize` or `sql`")
        };
        self.requests.as_ref().map(|r| &r.0).ok_or_else(missing)
    }
}

/// What the user should know of the requests and the scenarios, though it stops nothing.
pub(crate) fn warnings(
    requests: &Text,
    workload: &Workload,
    scenarios: &[Scenario],
    finished: &[Finished],
) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(n) = finished.iter().map(|f| f.totals.out_of_order()).max().filter(|n| *n > 0) {
        found.push(format!(
            "{n} requests of `{}` arrive before one in front of them; they are simulated at their time",
            requests.value
        ));
    }
    let unknown: BTreeSet<&str> = scenarios.iter().flat_map(|s| workload.unknown_classes(&s.workload)).collect();
    for class in unknown {
        let names = &workload.requests.class_names;
        let classes = if names.is_empty() { "none".to_string() } else { names.join(", ") };
        found.push(format!(
            "`workload.classes` has rules for `{class}`, a class that no request of `{}` has (classes: {classes})",
            requests.value
        ));
    }
    let mut changed: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for change in scenarios.iter().flat_map(sim::changes) {
        *changed.entry(change).or_default() += 1;
    }
    for ((path, change), count) in changed {
        let of = if count == scenarios.len() {
            String::new()
        } else {
            format!("in {count} of {} scenarios, ", scenarios.len())
        };
        found.push(format!("{of}the engine's own way with `{path}`: {change}"));
    }
    let outside: Vec<(i64, i64)> = finished.iter().map(|f| f.totals.extrapolated_and_all_steps()).collect();
    let beyond = outside.iter().filter(|(n, _)| *n > 0).count();
    if let Some((n, all)) =
        outside.iter().max_by(|a, b| (a.0 * b.1.max(1)).cmp(&(b.0 * a.1.max(1)))).filter(|(n, _)| *n > 0)
    {
        found.push(format!(
            "in {beyond} of {} scenarios, steps lie beyond what their profile measured and are extrapolated like a \
             roofline: at most {n} of {all} steps of one (`latency_extrapolated_steps`)",
            finished.len()
        ));
    }
    let unmeasured = finished.iter().filter(|f| f.totals.requests() > 0 && f.totals.measured_requests() == 0).count();
    if unmeasured > 0 {
        found
            .push(format!("{unmeasured} scenarios have no figures: warm-up and cool-down leave no request to measure"));
    }
    found
}

/// Every scenario of a stage.
///
/// # Errors
/// Every problem of settings, sweep and catalog.
pub(crate) fn scenarios(
    spec: &Simulate,
    project: &std::path::Path,
    seed: u64,
) -> std::result::Result<Vec<Scenario>, Vec<Diagnostic>> {
    let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
    scenario::expand(spec, seed, &catalog)
}

/// A table of calibrated values must have paths and values.
fn check_calibration(spec: &Simulate, cx: &CheckCx) -> Option<Diagnostic> {
    let name = &spec.calibration.as_ref()?.0;
    let schema = cx.tables.get(&name.value)?.schema.as_ref()?;
    let lacking: Vec<&str> = ["path", "value"].into_iter().filter(|c| schema.field_with_name(c).is_err()).collect();
    let message = format!("`{}` has no column {}", name.value, lacking.join(", "));
    let d = Diagnostic::new("simulate::calibration", message).at(name.at.clone());
    (!lacking.is_empty()).then(|| d.help("give a stage `calibrate`, or a table with `path` (dotted) and `value`"))
}

/// The recipe where the base is not known before a table is there: what is written. The facts of the catalog are in the
/// identity of every scenario.
fn unforeseen_recipe(spec: &Simulate, cx: &CheckCx) -> Value {
    let written = |tree: &Option<Tree>| tree.as_ref().map(Tree::to_json);
    json!({
        "deployment": spec.deployment.to_json(),
        "workload": written(&spec.workload),
        "measure": written(&spec.measure),
        "seed": spec.seed.unwrap_or(cx.seed),
        "sweep": spec.sweep.as_ref().map(sweep_recipe),
        "steps": spec.steps,
        "routes": spec.routes,
        "facts": catalog::load(cx.project).map(|c| json!({ "models": c.models, "gpus": c.gpus, "fitted": c.fitted })).unwrap_or_default(),
        "sim_version": SIM_VERSION,
        "memo_version": simulation::MEMO_VERSION,
    })
}

/// The table of requests must have token counts, and what it has must be of the right type.
fn check_requests(spec: &Simulate, cx: &CheckCx) -> Vec<Diagnostic> {
    let name = match spec.requests() {
        Ok(name) => name,
        Err(missing) => return vec![missing],
    };
    let Some(schema) = cx.tables.get(&name.value).and_then(|t| t.schema.as_ref()) else { return Vec::new() };
    let (lacking, wrong) = input::unfit(schema);
    let problem = |message: String| Diagnostic::new("simulate::requests", message).at(name.at.clone());
    let mut problems: Vec<Diagnostic> =
        wrong.into_iter().map(|what| problem(format!("the requests of `{}`: {what}", name.value))).collect();
    if !lacking.is_empty() {
        let message = format!("`{}` is no table of requests with token counts: no {}", name.value, lacking.join(", "));
        let help = match schema.field_with_name("input").is_ok() {
            true => {
                format!("it has texts; count their tokens first, with a stage `tokenize: {{ from: {} }}`", name.value)
            }
            false => {
                "give a table of `ingest`, `synthesize` or `tokenize`, or one of `sql` with these columns".to_string()
            }
        };
        problems.push(problem(message).help(help));
    }
    problems
}

fn recipe(spec: &Simulate, cx: &CheckCx) -> Value {
    let Ok(scenarios) = scenarios(spec, cx.project, cx.seed) else { return Value::Null };
    let mut facts = Map::new();
    for s in &scenarios {
        facts.insert(format!("model {}", s.deployment.model), serde_json::to_value(&s.model).unwrap_or_default());
        facts.insert(format!("gpu {}", s.deployment.gpu), serde_json::to_value(&s.gpu).unwrap_or_default());
        for site in s.sites() {
            facts.insert(
                format!("model {}", site.deployment.model),
                serde_json::to_value(&site.model).unwrap_or_default(),
            );
            facts.insert(format!("gpu {}", site.deployment.gpu), serde_json::to_value(&site.gpu).unwrap_or_default());
            if let (Some(picked), Some(latency)) = (&site.supplied.picked, &site.supplied.latency) {
                let Deployment { model, gpu, tp, .. } = &site.deployment;
                let name = format!("latency {model} {gpu} tp {tp} {picked}");
                facts.insert(name, serde_json::to_value(latency).unwrap_or_default());
            }
        }
    }
    let alone = |spec: &Simulate| self::scenarios(spec, cx.project, cx.seed).ok()?.first().map(filter::config);
    json!({
        "base": base_recipe(spec, scenarios.first().map(filter::config), alone),
        "sweep": spec.sweep.as_ref().map(sweep_recipe),
        "steps": spec.steps,
        "routes": spec.routes,
        "facts": facts,
        "sim_version": SIM_VERSION,
        "memo_version": simulation::MEMO_VERSION,
    })
}

fn swept_paths(sweep: &Sweep) -> impl Iterator<Item = &Text> {
    sweep.grid.keys().chain(sweep.zip.keys()).chain(sweep.list.iter().flat_map(|item| item.keys()))
}

/// What a sweep starts from, with every default filled in (a default that changes is a change of the recipe) and without
/// what the sweep sets in every scenario. `first` is its first scenario, `alone` gives the one without a sweep.
fn base_recipe(spec: &Simulate, first: Option<Value>, alone: impl Fn(&Simulate) -> Option<Value>) -> Value {
    let Some(sweep) = &spec.sweep else { return first.unwrap_or_default() };
    let always = |path: &Text| {
        sweep.grid.contains_key(path)
            || sweep.zip.contains_key(path)
            || (!sweep.list.is_empty() && sweep.list.iter().all(|item| item.contains_key(path)))
    };
    // What one item sets and another does not is in the first scenario as the item has it; the other has it from here.
    let mut base = match swept_paths(sweep).all(always) {
        true => first.clone().unwrap_or_default(),
        false => alone(&Simulate { sweep: None, ..spec.clone() }).unwrap_or_else(|| {
            let written = |tree: &Option<Tree>| tree.as_ref().map(Tree::to_json);
            json!({
                "deployment": spec.deployment.to_json(),
                "workload": written(&spec.workload),
                "measure": written(&spec.measure),
                "seed": first.as_ref().map(|config| &config["seed"]),
            })
        }),
    };
    for path in swept_paths(sweep).filter(|path| always(path)) {
        remove(&mut base, &path.value);
    }
    base
}

fn sweep_recipe(sweep: &Sweep) -> Value {
    let values = |v: &Vec<Tree>| Value::Array(v.iter().map(Tree::to_json).collect());
    let grid: Map<String, Value> = sweep.grid.iter().map(|(p, v)| (p.value.clone(), values(v))).collect();
    let zip: Map<String, Value> = sweep.zip.iter().map(|(p, v)| (p.value.clone(), values(v))).collect();
    let item = |i: &indexmap::IndexMap<Text, Tree>| -> Value {
        i.iter().map(|(p, v)| (p.value.clone(), v.to_json())).collect::<Map<_, _>>().into()
    };
    json!({
        "grid": grid,
        "zip": zip,
        "list": sweep.list.iter().map(item).collect::<Vec<_>>(),
        "where": sweep.filter.as_ref().map(|f| &f.value),
        // The order of the paths is the order of the scenarios; keys of JSON objects have none.
        "order": sweep.grid.keys().chain(sweep.zip.keys()).map(|p| &p.value).collect::<Vec<_>>(),
    })
}

fn remove(config: &mut Value, path: &str) {
    let (parent, name) = match path.rsplit_once('.') {
        Some((parent, name)) => (config.pointer_mut(&format!("/{}", parent.replace('.', "/"))), name),
        None => (Some(config), path),
    };
    if let Some(map) = parent.and_then(Value::as_object_mut) {
        map.shift_remove(name);
    }
}

pub(crate) fn configs(scenarios: &[Scenario]) -> Vec<Value> {
    scenarios.iter().map(filter::config).collect()
}

/// Schema of `<stage>`: the settings that at least one scenario has, between identity and totals.
fn scenario_schema(configs: &[Value]) -> SchemaRef {
    let mut fields = simulation::identity();
    fields.extend(filter::present(configs).iter().filter_map(|s| s.field()));
    fields.extend(simulation::totals());
    Arc::new(Schema::new(fields))
}

fn write_scenarios(cx: &RunCx, scenarios: &[Scenario], finished: &[Finished]) -> Result<()> {
    let configs = configs(scenarios);
    let schema = scenario_schema(&configs);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..scenarios.len() as i64)),
        Arc::new(StringArray::from_iter_values(finished.iter().map(|f| f.key.0.as_str()))),
    ];
    columns.extend(filter::present(&configs).iter().map(|s| filter::setting_column(s, &configs)));
    let totals: Vec<Totals> = finished.iter().map(|f| f.totals.clone()).collect();
    columns.extend(totals_columns(&totals));
    let batch = RecordBatch::try_new(schema.clone(), columns);
    let batch = batch.map_err(|e| Failure::stage("simulate::rows", e.to_string()))?;
    let mut writer = cx.out.table(&cx.stage, schema)?;
    writer.write(&batch)?;
    writer.finish()
}

fn write_itl(cx: &RunCx, finished: &[Finished]) -> Result<()> {
    let mut table = cx.out.table(&format!("{}_itl", cx.stage), simulation::itl())?;
    for (id, finished) in (0i64..).zip(finished) {
        let rows = finished.totals.itl_rows(id);
        table.write(&rows.map_err(|e| Failure::stage("simulate::rows", e.to_string()))?)?;
    }
    table.finish()
}

/// A table of the stage that has some rows of every scenario.
fn write_by_scenario(
    cx: &RunCx,
    name: &str,
    schema: SchemaRef,
    scenarios: &[Scenario],
    finished: &[Finished],
    rows: fn(&Totals, i64, &Scenario) -> std::result::Result<RecordBatch, ArrowError>,
) -> Result<()> {
    let mut table = cx.out.table(&format!("{}_{name}", cx.stage), schema)?;
    for (id, (scenario, finished)) in (0i64..).zip(scenarios.iter().zip(finished)) {
        let rows = rows(&finished.totals, id, scenario);
        table.write(&rows.map_err(|e| Failure::stage("simulate::rows", e.to_string()))?)?;
    }
    table.finish()
}

async fn write_rows(
    cx: &RunCx,
    evaluator: &Evaluator,
    scenarios: &[Scenario],
    finished: &[Finished],
    detail: Detail,
) -> Result<()> {
    let mut requests = cx.out.table(&format!("{}_requests", cx.stage), simulation::requests())?;
    for (id, (scenario, finished)) in (0i64..).zip(scenarios.iter().zip(finished)) {
        cx.cancel.check()?;
        for batch in evaluator.request_rows(scenario, finished, id).await? {
            requests.write(&batch)?;
        }
    }
    requests.finish()?;
    if detail.steps {
        let mut table = cx.out.table(&format!("{}_steps", cx.stage), simulation::steps())?;
        for (id, (scenario, finished)) in (0i64..).zip(scenarios.iter().zip(finished)) {
            cx.cancel.check()?;
            for batch in evaluator.step_rows(scenario, finished, id).await? {
                table.write(&batch)?;
            }
        }
        table.finish()?;
    }
    if detail.routes {
        let mut table = cx.out.table(&format!("{}_routes", cx.stage), simulation::routes())?;
        for (id, (scenario, finished)) in (0i64..).zip(scenarios.iter().zip(finished)) {
            cx.cancel.check()?;
            for batch in evaluator.route_rows(scenario, finished, id).await? {
                table.write(&batch)?;
            }
        }
        table.finish()?;
    }
    Ok(())
}

fn answer(stage: &str, finished: &[Finished], reused: usize) -> String {
    let requests: i64 = finished.iter().map(|f| f.totals.requests()).sum();
    let plural = if finished.len() == 1 { "" } else { "s" };
    let mut line = format!("{stage}: {} scenario{plural}, {requests} requests", finished.len());
    if reused > 0 {
        line.push_str(&format!(", {reused} reused"));
    }
    line
}
