//! A server with a latency model, simulated once.

use std::sync::atomic::Ordering;

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::{self, RequestRow, SimError, Sink};

use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Failure, Result, Span};
use crate::spec::{Candidate, Text, Tree, TreeValue};
use crate::stage::RunCx;
use crate::stage::simulate::profiles::Profiles;
use crate::stage::simulate::scenario::{check, impossible, nearest_place, resolve};

/// What all trials share.
pub(super) struct Bench<'a> {
    pub catalog: &'a Catalog,
    pub profiles: &'a Profiles,
    pub cx: &'a RunCx,
    pub seed: u64,
    pub trials: u32,
}

/// Times of a request in milliseconds; `None` where it was not served.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    pub ttft: f64,
    /// `None` for replies of one token.
    pub tpot: Option<f64>,
    pub e2e: f64,
}

/// What came of a simulation.
pub(super) struct Outcome {
    /// By place in the trace.
    pub times: Vec<Option<Times>>,
    /// Steps beyond what a profile measured, and all steps.
    pub extrapolated: u64,
    pub steps: u64,
}

/// The settings of a server with a candidate.
pub(super) fn server(deployment: &Tree, candidate: &Candidate, seed: u64) -> Tree {
    let mut deployment = deployment.clone();
    deployment.set_path("latency", candidate.latency.clone());
    if let Some(overheads) = &candidate.overheads {
        deployment.set_path("overheads", overheads.clone());
    }
    let empty = || Tree::new(TreeValue::Map(Vec::new()), None);
    let entry = |name: &str, tree: Tree| (Text::new(name.to_string(), tree.at.clone()), tree);
    let at = deployment.at.clone();
    let seed = Tree::new(TreeValue::Int(i64::try_from(seed).unwrap_or(i64::MAX)), None);
    let entries = vec![
        entry("deployment", deployment),
        entry("workload", empty()),
        entry("measure", empty()),
        entry("seed", seed),
    ];
    Tree::new(TreeValue::Map(entries), at)
}

/// What is wrong with a server, apart from what its profile shows.
pub(super) fn problems(tree: &Tree, catalog: &Catalog) -> Vec<Diagnostic> {
    match resolve(tree, catalog) {
        Ok(scenario) => check(&scenario, |path| nearest_place(tree, path)),
        Err(found) => found,
    }
}

impl Bench<'_> {
    /// The scenario of a server, with its profile.
    ///
    /// # Errors
    /// What the types, the simulator, or the profile refuse.
    pub fn scenario(&self, tree: &Tree) -> std::result::Result<Scenario, Vec<Diagnostic>> {
        let mut scenario = resolve(tree, self.catalog)?;
        self.profiles.attach(&mut scenario);
        let place = |path: &str| nearest_place(tree, path);
        let mut found = check(&scenario, place);
        found.extend(impossible(sim::check_profiles(&scenario), place));
        if found.is_empty() { Ok(scenario) } else { Err(found) }
    }

    /// # Errors
    /// The scenario is impossible with these requests; interrupted.
    pub fn run(&self, scenario: &Scenario, requests: &Requests) -> Result<Outcome> {
        self.cx.cancel.check()?;
        let mut rows = Rows { times: vec![None; requests.len()] };
        match sim::simulate(scenario, requests, &mut rows, self.cx.cancel.flag()) {
            Ok(summary) => Ok(Outcome {
                times: rows.times,
                extrapolated: summary.latency_extrapolated_steps,
                steps: summary.steps,
            }),
            Err(SimError::Cancelled) => Err(Failure::interrupted()),
            Err(SimError::Invalid { path, message }) => {
                Err(Failure::stage("fidelity::impossible", format!("`{path}`: {message}")))
            }
        }
    }

    /// Whether the user asked to stop.
    pub fn stopped(&self) -> bool {
        self.cx.cancel.flag().load(Ordering::Relaxed)
    }
}

/// Problems of a server as a failure of the stage.
pub(super) fn failed(found: Vec<Diagnostic>, at: Option<&Span>) -> Failure {
    let placed = found.into_iter().map(|d| if d.at.is_some() { d } else { d.at(at.cloned()) }).collect();
    Failure { exit: crate::diag::Exit::Stage, diagnostics: placed }
}

/// Keeps what is asked of every request.
struct Rows {
    times: Vec<Option<Times>>,
}

impl Sink for Rows {
    fn request(&mut self, row: RequestRow) {
        let (Some(first), Some(finished)) = (row.first_token, row.finished) else { return };
        let (ttft, e2e) = ((first - row.arrival).as_ms(), (finished - row.arrival).as_ms());
        let more = row.output_tokens.saturating_sub(1);
        let tpot = (more > 0).then(|| (e2e - ttft) / f64::from(more));
        self.times[row.request as usize] = Some(Times { ttft, tpot, e2e });
    }
}
