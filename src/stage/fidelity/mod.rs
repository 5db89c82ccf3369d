//! `fidelity`: how far latency models are off what real servers did.
//!
//! ```text
//! runs.rs            runs with times of every request      configurations.rs  tables with means per configuration
//! steps.rs           steps of an engine                    table.rs           the rows of those tables
//! trial.rs           a server with a model, simulated      fit.rs             parameters that make errors small
//! figures.rs         errors, and the tables of the stage   published.rs       what others published
//! recipe.rs          what decides a report                 aims.rs            what aims may ask for
//! ```
//!
//! Every model is held against everything as it is, and, where there is something to hold out, fitted on one half of the
//! configurations and held against the other. A configuration is a load that a client put on a server: of a run with pauses,
//! what lies between them. Nothing is fitted per case, and no row of the half that is held out is looked at.
//!
//! Simulations are not remembered: a fit asks for many, each once.

mod aims;
mod configurations;
mod figures;
mod fit;
mod published;
mod recipe;
mod runs;
mod steps;
mod table;
mod trial;

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::Value;

use self::figures::Report;
use super::simulate::profiles::{self, Profiles};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::catalog;
use crate::diag::{Diagnostic, Result};
use crate::spec::{Fidelity, FilePath, Text};

/// Trials of a fit at most.
const TRIALS_MAX: u32 = 100_000;

#[async_trait]
impl Kind for Fidelity {
    fn kind(&self) -> &'static str {
        "fidelity"
    }

    fn version(&self) -> u32 {
        2
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        let mut names = Vec::new();
        for run in self.runs.values() {
            names.push(run.requests.0.clone());
            names.push(measured(&run.requests.0));
        }
        names.extend(self.profiles());
        Ok(names)
    }

    fn files(&self) -> Vec<FilePath> {
        self.configurations.values().map(|c| c.path.clone()).chain(self.published.clone()).collect()
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        figures::tables(stage)
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let at = cx.stages.iter().find(|s| s.name.value == stage).and_then(|s| s.name.at.clone());
        let mut found = Vec::new();
        if self.runs.is_empty() && self.configurations.is_empty() && self.steps.is_empty() {
            let help = "name a measured run under `runs`, or a table under `configurations`";
            found.push(Diagnostic::new("fidelity::nothing", "there is nothing to report").at(at.clone()).help(help));
        }
        if self.trials == 0 || self.trials > TRIALS_MAX {
            let message = format!("`trials` is {}: expected 1 to {TRIALS_MAX}", self.trials);
            found.push(Diagnostic::new("fidelity::trials", message).at(at));
        }
        found.extend(profiles::check(&self.profiles(), cx));
        let Ok(catalog) = catalog::load(cx.project) else { return found };
        for (name, run) in &self.runs {
            found.extend(runs::check(name, run, self.seed.unwrap_or(cx.seed), &catalog));
        }
        for (name, table) in &self.steps {
            found.extend(steps::check(name, table, self.seed.unwrap_or(cx.seed), &catalog));
        }
        for (name, table) in &self.configurations {
            found.extend(configurations::check(name, table, self.seed.unwrap_or(cx.seed), &catalog));
        }
        found
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        recipe::of(self, cx)
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let catalog = catalog::load(&cx.project)?;
        let profiles = Profiles::read(&self.profiles(), &cx).await?;
        let mut loaded = Vec::new();
        for (name, run) in &self.runs {
            loaded.push(runs::load(name, run, &catalog, &cx).await?);
        }
        let (spec, task) = (self.clone(), cx.clone());
        super::tokenize::blocking(move || {
            let seed = task.recipe.get("seed").and_then(Value::as_u64).unwrap_or(task.seed);
            let bench = trial::Bench { catalog: &catalog, profiles: &profiles, cx: &task, seed, trials: spec.trials };
            let mut report = Report::default();
            let systems = spec.configurations.values().flat_map(|c| c.systems.values()).map(|s| s.models.len());
            let models: usize = {
                let steps = spec.steps.values().map(|s| s.models.len());
                spec.runs.values().map(|r| r.models.len()).chain(steps).chain(systems).sum()
            };
            task.progress.0.total(models as u64, "models");
            for run in loaded {
                runs::report(run, &bench, &mut report)?;
            }
            for (name, table) in &spec.steps {
                steps::report(name, table, &bench, &mut report)?;
            }
            for (name, table) in &spec.configurations {
                configurations::report(name, table, &bench, &mut report)?;
            }
            if let Some(file) = &spec.published {
                published::read(file, &mut report)?;
            }
            report.write(&task)?;
            Ok(Outcome { answer: report.answer(&task.stage), violated: None })
        })
        .await
    }
}

/// The table of what was measured beside a table of requests.
fn measured(requests: &Text) -> Text {
    Text::new(format!("{}_measured", requests.value), requests.at.clone())
}

impl Fidelity {
    /// Every profile that a model reads or that is held against one, once.
    fn profiles(&self) -> Vec<Text> {
        let of_systems = self.configurations.values().flat_map(|c| c.systems.values()).map(|s| &s.models);
        let of_steps = self.steps.values().map(|s| &s.models);
        let models = self.runs.values().map(|r| &r.models).chain(of_systems).chain(of_steps);
        let mut found = Vec::new();
        for candidate in models.flat_map(|models| models.values()) {
            profiles::collect("deployment.latency", &candidate.latency, &mut found);
        }
        found.extend(self.steps.values().map(|s| s.profile.0.clone()));
        let mut seen = BTreeSet::new();
        found.retain(|name: &Text| seen.insert(name.value.clone()));
        found
    }
}
