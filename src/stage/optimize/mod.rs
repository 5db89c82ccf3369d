//! `optimize`: the search for the best configurations of a simulation, or of whatever a command measures.
//!
//! ```text
//! space.rs       parameters, and the scenario at a point      rules.rs      which points are worth a trial
//! objective.rs   SQL -> one number per trial                  external.rs   a command in place of the simulator
//! trials.rs      ask, evaluate, tell                          known.rs      trials of another search
//! history.rs     the best so far, when to stop                intervals.rs  how well the best are known
//! tables.rs      tables, study, answer
//! ```
//!
//! A trial is a scenario, and scenarios are remembered: a search that was stopped asks for the same trials again and
//! finds them done; one with more trials begins with those that there were. Which trials there are depends on `batch`
//! (for samplers that look at results in between, and for `fidelity`), but never on the number of threads.
//!
//! A search whose space, rules or objectives changed is another search: `pipe plan` names what changed. What it has in
//! common with the one before is not simulated again.

mod external;
#[cfg(all(test, unix))]
mod external_tests;
mod history;
mod intervals;
mod known;
mod objective;
mod rules;
pub(crate) mod space;
mod tables;
#[cfg(test)]
mod tests;
mod trials;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use pipe_kernel::SIM_VERSION;
use pipe_kernel::tune::{Settings, Study};

use self::external::Command;
use self::objective::Judge;
use self::rules::PointRules;
use self::space::Search;
use self::tables::Report;
use self::trials::{Run, Shared, State, Subject};
use super::calibrate::{calibrated_stages, foreseen_stages};
use super::simulate::evaluate::{Detail, Evaluator};
use super::simulate::input::Workload;
use super::simulate::profiles::{self, Profiles};
use super::simulate::settings::Setting;
use super::simulate::{cost, filter};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::catalog::{self, Catalog};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{FilePath, Optimize, Stage, Text};
use crate::table::simulation;

/// Most trials of one search.
const TRIALS_MAX: u64 = 1_000_000;
/// Most replications of a trial.
const REPLICATIONS_MAX: u32 = 1000;

/// A search with everything that it names, found and compiled.
struct Setup {
    search: Search,
    rules: PointRules,
    judge: Judge,
    command: Option<Command>,
    /// Settings of the scenario that objectives know.
    settings: Vec<Setting>,
    prices: BTreeMap<String, f64>,
}

impl Setup {
    /// # Errors
    /// Everything that is wrong with space, rules, objectives, conditions, command and prices.
    fn new(
        spec: &Optimize,
        stages: &[Stage],
        project: &Path,
        seed: u64,
    ) -> std::result::Result<Setup, Vec<Diagnostic>> {
        let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
        let mut problems = Vec::new();
        let prices = cost::prices(&spec.prices, "optimize::prices", &catalog).unwrap_or_else(|found| {
            problems.extend(found);
            BTreeMap::new()
        });
        let search = Search::new(spec, stages, project, seed).map_err(|found| problems.extend(found)).ok();
        let settings = filter::leaves(&[], spec.space.keys().map(|path| path.value.as_str()));
        let command = match (&spec.external, &search) {
            (Some(external), Some(search)) => {
                Command::new(external, &search.settings).map_err(|found| problems.extend(found)).ok()
            }
            _ => None,
        };
        // Objectives of a command are over its parameters and metrics, which must be known.
        let judge = match (&spec.external, &search, &command) {
            (None, ..) => Some(Judge::new(spec, Some(objective::request_schema()), scenario_schema(&settings))),
            (Some(_), Some(search), Some(command)) => Some(Judge::new(spec, None, metric_schema(search, command))),
            (Some(_), ..) => None,
        };
        let judge = judge.and_then(|judge| judge.map_err(|found| problems.extend(found)).ok());
        let rules = search.as_ref().map(|search| PointRules::new(spec, search));
        let rules = rules.and_then(|rules| rules.map_err(|found| problems.extend(found)).ok());
        match (search, rules, judge) {
            (Some(search), Some(rules), Some(judge)) if problems.is_empty() => {
                Ok(Setup { search, rules, judge, command, settings, prices })
            }
            _ => Err(problems),
        }
    }

    /// The points that the user wants tried first.
    fn enqueued(&self, spec: &Optimize) -> std::result::Result<Vec<Vec<Value>>, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut points = Vec::new();
        for item in &spec.enqueue {
            let given: Vec<(&str, Value)> =
                item.iter().map(|(path, tree)| (path.value.as_str(), tree.to_json())).collect();
            match self.search.point(&given) {
                Ok(point) => points.push(point),
                Err(why) => {
                    let at = item.keys().next().and_then(|path| path.at.clone());
                    problems.push(Diagnostic::new("optimize::enqueue", why).at(at));
                }
            }
        }
        if problems.is_empty() { Ok(points) } else { Err(problems) }
    }
}

/// The columns of a trial's scenario.
fn scenario_schema(settings: &[Setting]) -> SchemaRef {
    let mut fields: Vec<_> = settings.iter().filter_map(Setting::field).collect();
    fields.extend(simulation::totals());
    fields.extend(cost::fields());
    Arc::new(Schema::new(fields))
}

/// The columns of a command: its parameters, and what it printed.
fn metric_schema(search: &Search, command: &Command) -> SchemaRef {
    let mut fields: Vec<_> = search.settings.iter().filter_map(rules::parameter_field).collect();
    fields.extend(command.fields());
    Arc::new(Schema::new(fields))
}

#[async_trait]
impl Kind for Optimize {
    fn kind(&self) -> &'static str {
        "optimize"
    }

    fn version(&self) -> u32 {
        2
    }

    /// The simulation; the requests that it reads come in with it.
    fn inputs(&self) -> Result<Vec<Text>> {
        let known = self.known.as_ref().and_then(|known| known.table.as_ref());
        Ok(self.over.iter().chain(known).map(|r| r.0.clone()).collect())
    }

    fn files(&self) -> Vec<FilePath> {
        self.known.as_ref().and_then(|known| known.optuna.clone()).into_iter().collect()
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        let search = Search::new(self, &foreseen_stages(cx.stages), cx.project, cx.seed).ok();
        tables::shapes(stage, self, search.as_ref())
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        check(self, cx)
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        recipe(self, cx)
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let stages = calibrated_stages(&cx.stages, &cx.inputs).await?;
        let mut setup = Setup::new(self, &stages, &cx.project, cx.seed).map_err(Failure::usage)?;
        let mut enqueued = setup.enqueued(self).map_err(Failure::usage)?;
        let known = known::read(self, &cx, &setup.search, &setup.judge).await?;
        known.warnings.iter().for_each(|text| cx.progress.0.warning(text));
        enqueued.extend(known.points);
        let mut requests = None;
        let subject = match (setup.command.take(), space::over(self, &stages)?) {
            (Some(command), _) => Subject::Command(Box::new(command)),
            (None, Some(simulate)) => {
                let profiles = Profiles::read(&profiles::named(simulate), &cx).await?;
                setup.search.set_profiles(profiles.clone());
                let table = simulate.requests()?.clone();
                let workload = workload(&cx, &table, &catalog::load(&cx.project)?).await?;
                requests = Some(table);
                let evaluator = Box::new(Evaluator::new(&cx, workload, profiles, Detail::default()));
                Subject::Simulation { evaluator, settings: setup.settings, prices: setup.prices }
            }
            (None, None) => return Err(Failure::stage("optimize::over", "there is nothing to evaluate")),
        };
        cx.progress.0.total(self.trials, "trials");
        let run = Run {
            spec: self,
            cx: &cx,
            search: &setup.search,
            rules: &setup.rules,
            shared: Arc::new(Shared { judge: setup.judge, subject }),
            requests,
            known: known.results,
            enqueued,
        };
        let searched = run.trials().await?;
        all_failed(self, &searched)?;
        let front = trials::front(&searched.trials, run.shared.judge.objectives.len() == 1);
        let intervals = intervals::intervals(&run, &searched.trials, &front).await?;
        let report = Report {
            spec: self,
            cx: &cx,
            search: &setup.search,
            judge: &run.shared.judge,
            rules: &setup.rules,
            searched: &searched,
            front,
            intervals,
        };
        report.write()?;
        Ok(Outcome { answer: report.answer(), violated: None })
    }
}

async fn workload(cx: &RunCx, requests: &Text, catalog: &Catalog) -> Result<Workload> {
    let missing = || Failure::stage("optimize::requests", format!("there is no table `{}`", requests.value));
    let workload = Workload::read(cx.inputs.get(&requests.value).ok_or_else(missing)?, catalog).await;
    workload.map_err(|failure| failure.or_at(requests.at.as_ref()))
}

/// A search of which every trial failed has no answer, and the reason is most likely one mistake.
fn all_failed(spec: &Optimize, searched: &trials::Searched) -> Result<()> {
    let ran = || searched.trials.iter().filter(|d| d.state != State::Illegal);
    let Some(first) = ran().next() else { return Ok(()) };
    if ran().any(|d| d.state != State::Failed) {
        return Ok(());
    }
    let why = first.error.clone().unwrap_or_default();
    let message = format!("all {} trials failed; the first (trial {}): {why}", ran().count(), first.number);
    let help = match spec.external {
        Some(_) => {
            "run the command by hand with the parameters of a trial; failures are not remembered, so the next run tries anew"
        }
        None => "what was simulated is remembered: with another objective nothing is simulated again",
    };
    let d = Diagnostic::new("optimize::failed", message).at(space::place(spec)).help(help);
    Err(Failure { exit: Exit::Stage, diagnostics: vec![d] })
}

/// The sampler of a search, before its first trial.
fn study(spec: &Optimize, search: &Search, seed: u64) -> std::result::Result<Study, Vec<String>> {
    let settings = Settings {
        seed: spec.seed.unwrap_or(seed),
        objectives: (spec.minimize.len() + spec.maximize.len()).max(1),
        batch: spec.batch,
        on_violation: spec.on_violation,
        budget: Some(spec.trials),
        ..Settings::default()
    };
    Study::new(search.space.clone(), &spec.sampler, settings)
}

fn check(spec: &Optimize, cx: &CheckCx) -> Vec<Diagnostic> {
    let at = space::place(spec);
    let mut problems = Vec::new();
    let mut wrong = |code: &'static str, message: String| {
        problems.push(Diagnostic::new(code, message).at(at.clone()));
    };
    match (&spec.over, &spec.external) {
        (None, None) => {
            wrong("optimize::over", "nothing to evaluate: neither `over` nor `external`".to_string());
            return problems;
        }
        (Some(_), Some(_)) => {
            wrong(
                "optimize::over",
                "either a simulation is varied (`over`) or a command is run (`external`)".to_string(),
            );
            return problems;
        }
        _ => {}
    }
    if spec.trials == 0 || spec.trials > TRIALS_MAX || spec.batch == 0 {
        wrong("optimize::trials", format!("`trials` must be 1 to {TRIALS_MAX} and `batch` at least 1"));
    }
    if spec.replications == 0 || spec.replications > REPLICATIONS_MAX {
        let n = spec.replications;
        wrong("optimize::replications", format!("`replications` is {n}; must be 1 to {REPLICATIONS_MAX}"));
    }
    if !(spec.confidence > 0.0 && spec.confidence < 1.0) {
        let c = spec.confidence;
        wrong("optimize::replications", format!("`confidence` is {c}; must be above 0 and below 1"));
    }
    if spec.stop.seconds.is_some_and(|s| !(s > 0.0 && s.is_finite())) {
        wrong("optimize::stop", "`stop.seconds` must be above 0".to_string());
    }
    let of_stop = spec.stop.stagnation.iter().flat_map(|s| s.problems());
    of_stop.for_each(|message| wrong("optimize::stop", format!("`stop.stagnation`: {message}")));
    let of_fidelity = spec.fidelity.iter().flat_map(|f| f.problems());
    of_fidelity.for_each(|message| wrong("optimize::fidelity", format!("`fidelity`: {message}")));
    if spec.fidelity.is_some() && spec.external.is_some() {
        wrong("optimize::fidelity", "`fidelity` shortens a simulation; a command has none".to_string());
    }
    if let Some(known) = &spec.known
        && (known.table.is_some() == known.optuna.is_some())
    {
        wrong("optimize::known", "`known` is either a `table` or a file of `optuna`".to_string());
    }
    let setup = match Setup::new(spec, &foreseen_stages(cx.stages), cx.project, cx.seed) {
        Ok(setup) => setup,
        Err(found) => {
            problems.extend(found);
            return problems;
        }
    };
    problems.extend(setup.enqueued(spec).err().into_iter().flatten());
    if let Err(unfit) = study(spec, &setup.search, cx.seed) {
        // That there is nothing to optimize is told already.
        problems.extend(unfit.into_iter().map(|m| Diagnostic::new("optimize::sampler", m).at(at.clone())));
    }
    if problems.is_empty() {
        problems.extend(setup.rules.nothing_left(spec, &setup.search));
    }
    problems
}

fn recipe(spec: &Optimize, cx: &CheckCx) -> Value {
    let stages = foreseen_stages(cx.stages);
    let Ok(setup) = Setup::new(spec, &stages, cx.project, cx.seed) else { return Value::Null };
    let search = &setup.search;
    let texts = |objectives: &indexmap::IndexMap<String, Text>| -> Map<String, Value> {
        objectives.iter().map(|(name, sql)| (name.clone(), Value::from(sql.value.as_str()))).collect()
    };
    let conditions = |tree: &Option<crate::spec::Tree>| -> Value {
        let found = rules::conditions(tree.as_ref(), "").unwrap_or_default();
        let named: Vec<Value> = found.iter().map(|c| json!([c.name, c.sql.value.trim()])).collect();
        Value::from(named)
    };
    let space: Map<String, Value> = spec.space.iter().map(|(p, t)| (p.value.clone(), t.to_json())).collect();
    json!({
        "base": search.base_recipe(),
        "external": setup.command.as_ref().map(Command::recipe),
        "space": space,
        // The order of parameters and objectives decides the trials; keys of JSON objects have none.
        "order": spec.space.keys().map(|p| &p.value).collect::<Vec<_>>(),
        "objectives": spec.minimize.keys().chain(spec.maximize.keys()).collect::<Vec<_>>(),
        "where": conditions(&spec.rules),
        "on_violation": spec.on_violation,
        "minimize": texts(&spec.minimize),
        "maximize": texts(&spec.maximize),
        "subject_to": conditions(&spec.subject_to),
        "sampler": serde_json::to_value(&spec.sampler).unwrap_or_default(),
        "trials": spec.trials,
        "batch": spec.batch,
        "seed": spec.seed.unwrap_or(cx.seed),
        "fidelity": spec.fidelity,
        "common_random_numbers": spec.common_random_numbers,
        "replications": spec.replications,
        "confidence": spec.confidence,
        "replicate": spec.replicate,
        "stop": { "seconds": spec.stop.seconds, "stagnation": spec.stop.stagnation },
        "enqueue": spec.enqueue.iter().map(|item| {
            item.iter().map(|(p, t)| (p.value.clone(), t.to_json())).collect::<Map<String, Value>>()
        }).collect::<Vec<_>>(),
        "known": spec.known.as_ref().map(|k| json!({ "study": k.study, "results": k.results })),
        "prices": setup.prices,
        "optuna": spec.optuna,
        "facts": search.facts(),
        "sim_version": SIM_VERSION,
        "memo_version": simulation::MEMO_VERSION,
    })
}
