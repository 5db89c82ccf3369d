//! The search itself: points are asked for, evaluated batch by batch, and told.
//!
//! What a trial is does not depend on the number of threads, nor on whether the search was stopped in between: scenarios
//! and results of commands are remembered, so a search that goes on asks for the same trials again and finds them done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use pipe_kernel::rng;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim;
use pipe_kernel::tune::pareto::{self, Candidate};
use pipe_kernel::tune::{self, Study, Suggestion, Trial, halving};

use super::external::{Command, Job};
use super::history::History;
use super::known::Imported;
use super::objective::{Figures, Judge};
use super::rules::{self, Asked, PointRules};
use super::space::Search;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{Optimize, Text};
use crate::stage::RunCx;
use crate::stage::simulate::evaluate::{Evaluator, Finished};
use crate::stage::simulate::settings::Setting;
use crate::stage::simulate::{cost, filter, totals_columns};

/// Trials that are asked for at once per thread, where no result of one is needed for the next: enough that starting them
/// costs nothing.
const AT_ONCE: usize = 32;
/// The same where the time is limited.
const AT_ONCE_TIMED: usize = 4;

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It ran to its end, and meets every condition.
    Complete,
    /// It ran to its end, and misses one.
    Infeasible,
    /// It was stopped at a rung below the last.
    Pruned,
    /// It was not run, because it breaks rules.
    Illegal,
    /// It has no result.
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Complete => "complete",
            State::Infeasible => "infeasible",
            State::Pruned => "pruned",
            State::Illegal => "illegal",
            State::Failed => "failed",
        }
    }
}

/// A trial that is over.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub number: u64,
    pub values: Vec<Value>,
    /// What the sampler proposed, where that broke a rule.
    pub raw: Option<Vec<Value>>,
    /// The rules that the proposal broke.
    pub broken: u64,
    pub origin: &'static str,
    pub parents: Vec<u64>,
    pub state: State,
    /// Its rung, from 0, and the share of the requests that it saw.
    pub rung: u32,
    pub share: f64,
    pub evaluated: Option<Evaluated>,
    /// All to be minimized.
    pub minimized: Option<Vec<f64>>,
    /// By how much it misses the conditions, in sum.
    pub violation: f64,
    pub error: Option<String>,
    /// When its batch began and ended, in microseconds since 1970: for people who look at a study, in no table.
    pub times_us: (i64, i64),
}

impl Done {
    /// Its objectives as written, where it has all.
    pub fn objectives(&self) -> Option<Vec<f64>> {
        self.minimized.as_ref()?;
        self.evaluated.as_ref()?.figures.as_ref().ok()?.objectives.iter().copied().collect()
    }

    fn outcome(&self) -> tune::Outcome {
        match (self.state, &self.minimized) {
            (State::Complete | State::Infeasible, Some(objectives)) => {
                tune::Outcome::Complete { objectives: objectives.clone(), violation: self.violation }
            }
            (State::Pruned, Some(objectives)) => {
                tune::Outcome::Pruned { rung: self.rung, objectives: objectives.clone(), violation: self.violation }
            }
            (State::Illegal, _) => tune::Outcome::Illegal { broken: self.broken },
            (State::Complete | State::Infeasible | State::Pruned | State::Failed, _) => tune::Outcome::Failed,
        }
    }
}

/// What an evaluation gave.
#[derive(Clone, Debug)]
pub(super) struct Evaluated {
    /// Of the scenario, or of the command with its parameters.
    pub key: String,
    pub seed: u64,
    /// Requests that were simulated.
    pub requests: Option<i64>,
    /// Simulated, or measured.
    pub seconds: Option<f64>,
    /// Or why there are none.
    pub figures: std::result::Result<Figures, String>,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Trials,
    /// No new point is left.
    Exhausted,
    Seconds,
    Stagnation,
}

/// A search that is over.
pub(super) struct Searched {
    pub trials: Vec<Done>,
    pub history: History,
    pub end: End,
    /// What `auto` picked, and why.
    pub picked: Option<String>,
    /// Per rule, the simulator's last: proposals that broke it.
    pub broken: Vec<u64>,
}

/// What evaluations need on any thread.
pub(super) struct Shared {
    pub judge: Judge,
    pub subject: Subject,
}

/// What is evaluated.
pub(super) enum Subject {
    Simulation { evaluator: Box<Evaluator>, settings: Vec<Setting>, prices: BTreeMap<String, f64> },
    Command(Box<Command>),
}

/// A search in progress.
pub(super) struct Run<'a> {
    pub spec: &'a Optimize,
    pub cx: &'a RunCx,
    pub search: &'a Search,
    pub rules: &'a PointRules,
    pub shared: Arc<Shared>,
    /// The table of requests, for messages.
    pub requests: Option<Text>,
    pub known: Vec<Imported>,
    /// Points that are tried first.
    pub enqueued: Vec<Vec<Value>>,
}

impl Run<'_> {
    fn judge(&self) -> &Judge {
        &self.shared.judge
    }

    /// All trials, in order of number.
    pub async fn trials(&self) -> Result<Searched> {
        let wrong = |problems: Vec<String>| Failure::stage("optimize::sampler", problems.join("; "));
        let mut study = super::study(self.spec, self.search, self.cx.seed).map_err(wrong)?;
        let mut searched = Searched {
            trials: Vec::new(),
            history: History::new(self.judge().objectives.len()),
            end: End::Trials,
            picked: None,
            broken: vec![0; self.rules.labels().len()],
        };
        for imported in &self.known {
            let done = self.imported(imported, study.told());
            self.take(&mut study, &mut searched, done);
        }
        for point in &self.enqueued {
            // Points were found in the space already.
            study.enqueue(point).map_err(|why| Failure::stage("optimize::enqueue", why))?;
        }
        let target = study.told() + self.spec.trials;
        let began = Instant::now();
        while study.told() < target {
            self.cx.cancel.check()?;
            if self.spec.stop.seconds.is_some_and(|limit| began.elapsed().as_secs_f64() >= limit) {
                searched.end = End::Seconds;
                break;
            }
            let left = usize::try_from(target - study.told()).unwrap_or(usize::MAX);
            let asked = self.ask(&mut study, left.min(self.at_once()));
            if let Some(d) = self.rules.failed() {
                return Err(Failure { exit: Exit::Stage, diagnostics: vec![d] });
            }
            if asked.is_empty() {
                searched.end = End::Exhausted;
                break;
            }
            for done in self.batch(&asked, &searched.trials).await? {
                (0..searched.broken.len()).for_each(|i| searched.broken[i] += done.broken >> i & 1);
                self.take(&mut study, &mut searched, done);
                if self.spec.stop.stagnation.as_ref().is_some_and(|s| searched.history.stagnates(s)) {
                    searched.end = End::Stagnation;
                    searched.picked = study.picked().map(str::to_string);
                    // What else was evaluated with it is not part of the search: how much that is depends on the machine.
                    return Ok(searched);
                }
            }
        }
        searched.picked = study.picked().map(str::to_string);
        Ok(searched)
    }

    fn take(&self, study: &mut Study, searched: &mut Searched, done: Done) {
        study.tell(Trial { number: done.number, values: done.values.clone(), outcome: done.outcome() });
        searched.history.push(&done);
        searched.trials.push(done);
    }

    fn imported(&self, trial: &Imported, number: u64) -> Done {
        let objectives = &self.judge().objectives;
        let minimized = trial
            .objectives
            .as_ref()
            .map(|values| objectives.iter().zip(values).map(|(o, v)| o.minimized(*v)).collect::<Vec<_>>());
        let state = match (&minimized, trial.violation > 0.0) {
            (None, _) => State::Failed,
            (Some(_), true) => State::Infeasible,
            (Some(_), false) => State::Complete,
        };
        let figures = Figures {
            objectives: trial.objectives.iter().flatten().map(|v| Some(*v)).collect(),
            constraints: trial.constraints.clone(),
        };
        Done {
            number,
            values: trial.values.clone(),
            raw: None,
            broken: 0,
            origin: "imported",
            parents: Vec::new(),
            state,
            rung: 0,
            share: 1.0,
            evaluated: minimized.is_some().then(|| Evaluated {
                key: String::new(),
                seed: 0,
                requests: None,
                seconds: None,
                figures: Ok(figures),
            }),
            error: minimized.is_none().then(|| "it has no result".to_string()),
            minimized,
            violation: trial.violation,
            times_us: (now_us(), now_us()),
        }
    }

    /// How many trials are evaluated together: with halving a batch, otherwise what keeps the machine busy.
    fn at_once(&self) -> usize {
        let batch = self.spec.batch as usize;
        if self.spec.fidelity.is_some() {
            return batch;
        }
        let each = if self.spec.stop.seconds.is_some() { AT_ONCE_TIMED } else { AT_ONCE };
        batch.max(match &self.shared.subject {
            Subject::Simulation { .. } => each * self.cx.pool.current_num_threads(),
            // What was measured beyond the end of a search would be lost.
            Subject::Command(command) => command.at_once(),
        })
    }

    fn ask(&self, study: &mut Study, n: usize) -> Vec<Suggestion> {
        let asked = Asked { rules: self.rules, search: self.search };
        self.cx.pool.install(|| study.ask(n, &asked))
    }

    /// Evaluates what was asked for, in its order.
    async fn batch(&self, asked: &[Suggestion], before: &[Done]) -> Result<Vec<Done>> {
        let began = now_us();
        let mut done: Vec<Done> = asked.iter().map(new).collect();
        let mut current: Vec<usize> = (0..done.len()).filter(|&i| done[i].state != State::Illegal).collect();
        let all = self.shared.requests(self.search);
        let ladder = match (&self.spec.fidelity, all) {
            (Some(halving), Some(all)) => halving.ladder(current.len(), all),
            _ => vec![halving::Rung { share: 1.0, requests: all.unwrap_or(0), members: current.len() }],
        };
        for (step, rung) in ladder.iter().enumerate() {
            let last = step + 1 == ladder.len();
            let points: Vec<(u64, &[Value])> =
                current.iter().map(|&i| (asked[i].number, asked[i].values.as_slice())).collect();
            let evaluated = self.evaluate(&points, (!last).then_some(rung.requests), 0).await?;
            for (&i, evaluated) in current.iter().zip(evaluated) {
                let trial = &mut done[i];
                (trial.rung, trial.share) = (step as u32, rung.share);
                self.settle(trial, evaluated, last);
            }
            if !last {
                current = self.promoted(&done, current, step as u32, before);
            }
        }
        let ended = now_us();
        done.iter_mut().for_each(|trial| trial.times_us = (began, ended));
        // Evaluations count themselves; these have none.
        self.cx.progress.0.advance(done.iter().filter(|d| d.state == State::Illegal).count() as u64);
        Ok(done)
    }

    /// What an evaluation makes of a trial.
    fn settle(&self, trial: &mut Done, evaluated: Evaluated, last: bool) {
        let judge = self.judge();
        trial.error = None;
        trial.minimized = None;
        match &evaluated.figures {
            Err(why) => {
                trial.state = State::Failed;
                trial.error = Some(why.clone());
            }
            Ok(figures) => {
                trial.violation = figures.constraints.iter().map(|c| c.max(0.0)).sum();
                let missing = figures.objectives.iter().position(Option::is_none);
                match missing {
                    Some(i) => {
                        trial.state = State::Failed;
                        let name = &judge.objectives[i].name;
                        trial.error = Some(format!("`{name}` is NULL, or no finite number"));
                    }
                    None => {
                        let values = judge.objectives.iter().zip(figures.objectives.iter().flatten());
                        trial.minimized = Some(values.map(|(o, v)| o.minimized(*v)).collect());
                        trial.state = match (last, trial.violation > 0.0) {
                            (false, _) => State::Pruned,
                            (true, true) => State::Infeasible,
                            (true, false) => State::Complete,
                        };
                    }
                }
            }
        }
        trial.evaluated = Some(evaluated);
    }

    /// Who climbs to the next rung: the best share, but with several objectives nobody that an earlier trial dominates at
    /// the same rung.
    fn promoted(&self, done: &[Done], current: Vec<usize>, step: u32, before: &[Done]) -> Vec<usize> {
        let Some(fidelity) = &self.spec.fidelity else { return current };
        let candidate = |trial: &Done| {
            let objectives = trial.minimized.clone()?;
            Some(Candidate { objectives, violation: trial.violation })
        };
        let results: Vec<Option<Candidate>> = current.iter().map(|&i| candidate(&done[i])).collect();
        let mut promoted: Vec<usize> = fidelity.promoted(&results).into_iter().map(|place| current[place]).collect();
        if self.judge().objectives.len() > 1 {
            let stopped = before.iter().filter(|t| t.rung == step && t.state == State::Pruned && t.violation <= 0.0);
            let seen: Vec<&Vec<f64>> = stopped.filter_map(|t| t.minimized.as_ref()).collect();
            promoted.retain(|&i| {
                let own = done[i].minimized.as_deref().unwrap_or_default();
                done[i].violation > 0.0 || !seen.iter().any(|other| pareto::dominates(other, own))
            });
        }
        promoted
    }

    /// Results of some points: number of the trial, and values. `requests`: no more than so many are simulated.
    /// Replication 0 is that of the search.
    pub async fn evaluate(
        &self,
        points: &[(u64, &[Value])],
        requests: Option<u64>,
        replication: u32,
    ) -> Result<Vec<Evaluated>> {
        let seeds: Vec<u64> = points.iter().map(|(number, _)| self.seed(*number, replication)).collect();
        match &self.shared.subject {
            Subject::Command(command) => {
                let jobs: Vec<Job> =
                    points.iter().zip(&seeds).map(|((_, values), &seed)| Job { values, seed }).collect();
                let measured = command.run(self.cx, &self.search.settings, &jobs).await?;
                let mut evaluated = Vec::new();
                for ((job, measured), seed) in jobs.iter().zip(measured).zip(seeds) {
                    let figures = match &measured.metrics {
                        Ok(metrics) => Ok(self.of_metrics(job.values, metrics).await?),
                        Err(why) => Err(why.clone()),
                    };
                    let key = measured.key.0;
                    evaluated.push(Evaluated { key, seed, requests: None, seconds: measured.seconds, figures });
                }
                Ok(evaluated)
            }
            Subject::Simulation { evaluator, .. } => self.simulate(evaluator, points, &seeds, requests).await,
        }
    }

    /// The seed of a trial.
    fn seed(&self, trial: u64, replication: u32) -> u64 {
        let base = self.search.seed().and_then(|s| u64::try_from(s).ok()).unwrap_or(self.cx.seed);
        // Replications are for comparing, and always have seeds in common.
        let common = self.spec.common_random_numbers || replication > 0;
        let own = if common { base } else { rng::mix64(base ^ rng::mix64(trial + 1)) };
        own.wrapping_add(u64::from(replication)) & (i64::MAX as u64)
    }

    async fn of_metrics(&self, values: &[Value], metrics: &[f64]) -> Result<Figures> {
        let point = values.to_vec();
        let mut columns = rules::parameter_columns(&self.search.settings, &[&point], rules::name_of);
        columns.extend(metrics.iter().map(|v| Arc::new(Float64Array::from(vec![*v])) as ArrayRef));
        let row = RecordBatch::try_new(self.judge().scenario_schema().clone(), columns).map_err(|e| wrong_rows(&e))?;
        self.judge().evaluate(&[], &row).await.map_err(broken)
    }

    async fn simulate(
        &self,
        evaluator: &Evaluator,
        points: &[(u64, &[Value])],
        seeds: &[u64],
        requests: Option<u64>,
    ) -> Result<Vec<Evaluated>> {
        let most = requests.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let made = |(values, seed): (&[Value], u64)| -> std::result::Result<Scenario, String> {
            let mut scenario = self.search.scenario(values).ok_or("it is no scenario")?;
            scenario.seed = seed;
            let own = scenario.workload.max_requests;
            scenario.workload.max_requests = own.into_iter().chain(most).min();
            if let Some(table) = &self.requests {
                evaluator.workload.check(&scenario.workload, table).map_err(|f| f.to_string())?;
            }
            match sim::check_requests(&scenario, &evaluator.workload.requests) {
                Ok(()) => Ok(scenario),
                Err(problems) => Err(problems.into_iter().map(|e| e.to_string()).collect::<Vec<_>>().join("; ")),
            }
        };
        let points: Vec<(&[Value], u64)> = points.iter().map(|(_, v)| *v).zip(seeds.iter().copied()).collect();
        let made: Vec<std::result::Result<Scenario, String>> =
            self.cx.pool.install(|| points.par_iter().map(|p| made(*p)).collect());
        let scenarios: Vec<Scenario> = made.iter().filter_map(|m| m.as_ref().ok().cloned()).collect();
        let finished = self.finished(evaluator, &scenarios).await?;
        let figures = self.figures(&scenarios, &finished).await?;
        let mut results = scenarios.iter().zip(finished).zip(figures);
        let mut evaluated = Vec::new();
        for (made, (_, seed)) in made.into_iter().zip(points) {
            let failed =
                |why: String| Evaluated { key: String::new(), seed, requests: None, seconds: None, figures: Err(why) };
            evaluated.push(match made {
                Err(why) => failed(why),
                Ok(_) => match results.next() {
                    Some(((_, Ok(finished)), Some(figures))) => Evaluated {
                        key: finished.key.0,
                        seed,
                        requests: Some(finished.totals.requests()),
                        seconds: Some(finished.totals.duration_ns() as f64 / 1e9),
                        figures: Ok(figures),
                    },
                    Some(((scenario, Err(why)), _)) => Evaluated { key: evaluator.key(scenario).0, ..failed(why) },
                    Some(((_, Ok(_)), None)) | None => failed("it has no result".to_string()),
                },
            });
        }
        Ok(evaluated)
    }

    /// Results of scenarios, or why one has none. When one fails the others are tried without it.
    async fn finished(
        &self,
        evaluator: &Evaluator,
        scenarios: &[Scenario],
    ) -> Result<Vec<std::result::Result<Finished, String>>> {
        let failure = match evaluator.evaluate(scenarios).await {
            Ok((finished, _)) => return Ok(finished.into_iter().map(Ok).collect()),
            Err(failure) => failure,
        };
        self.cx.cancel.check()?;
        let of_scenario = |f: &Failure| f.diagnostics.iter().any(|d| d.code == "simulate::failed");
        if !of_scenario(&failure) {
            return Err(failure);
        }
        let mut finished = Vec::new();
        for scenario in scenarios {
            self.cx.cancel.check()?;
            finished.push(match evaluator.evaluate(std::slice::from_ref(scenario)).await {
                Ok((mut one, _)) => one.pop().ok_or_else(|| "it has no result".to_string()),
                Err(failure) if of_scenario(&failure) => Err(failure.to_string()),
                Err(failure) => return Err(failure),
            });
        }
        Ok(finished)
    }

    /// What came out of simulations; `None` for those that failed. On all threads.
    async fn figures(
        &self,
        scenarios: &[Scenario],
        finished: &[std::result::Result<Finished, String>],
    ) -> Result<Vec<Option<Figures>>> {
        let shared = self.shared.clone();
        let pool = self.cx.pool.clone();
        let runtime = tokio::runtime::Handle::current();
        let items: Vec<(Scenario, Option<Finished>)> =
            scenarios.iter().cloned().zip(finished.iter().map(|f| f.as_ref().ok().cloned())).collect();
        let judged = tokio::task::spawn_blocking(move || {
            let one = |(scenario, finished): &(Scenario, Option<Finished>)| {
                finished.as_ref().map(|f| runtime.block_on(shared.figures(scenario, f))).transpose()
            };
            pool.install(|| items.par_iter().map(one).collect::<Result<Vec<_>>>())
        });
        judged.await.map_err(|e| Failure::stage("optimize::judge", e.to_string()))?
    }
}

impl Shared {
    /// Requests that a trial simulates, at most.
    fn requests(&self, search: &Search) -> Option<u64> {
        match &self.subject {
            Subject::Simulation { evaluator, .. } => {
                let all = evaluator.workload.requests.len() as u64;
                let first = search.space.decode(&vec![0.0; search.space.dimensions()]);
                let most = search.scenario(&first).and_then(|s| s.workload.max_requests);
                Some(most.map_or(all, |most| all.min(u64::from(most))))
            }
            Subject::Command(_) => None,
        }
    }

    async fn figures(&self, scenario: &Scenario, finished: &Finished) -> Result<Figures> {
        let Subject::Simulation { evaluator, settings, prices } = &self.subject else {
            return Err(Failure::stage("optimize::judge", "nothing was simulated"));
        };
        let rows = match self.judge.reads_requests() {
            true => evaluator.request_rows(scenario, finished, 0).await?,
            false => Vec::new(),
        };
        let rows = rows.iter().map(only_measured).collect::<Result<Vec<_>>>()?;
        let configs = [filter::config(scenario)];
        let mut columns: Vec<ArrayRef> = settings.iter().map(|s| filter::setting_column(s, &configs)).collect();
        columns.extend(totals_columns(std::slice::from_ref(&finished.totals)));
        columns.extend(cost::columns(scenario, &finished.totals, prices));
        let row = RecordBatch::try_new(self.judge.scenario_schema().clone(), columns).map_err(|e| wrong_rows(&e))?;
        self.judge.evaluate(&rows, &row).await.map_err(broken)
    }
}

/// A trial that was asked for.
fn new(asked: &Suggestion) -> Done {
    let illegal = asked.broken != 0 && asked.raw.is_none();
    Done {
        number: asked.number,
        values: asked.values.clone(),
        raw: asked.raw.clone(),
        broken: asked.broken,
        origin: asked.origin.name(),
        parents: asked.parents.clone(),
        state: if illegal { State::Illegal } else { State::Failed },
        rung: 0,
        share: 1.0,
        evaluated: None,
        minimized: None,
        violation: 0.0,
        error: None,
        times_us: (0, 0),
    }
}

fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// The requests that count in the figures of their scenario.
fn only_measured(rows: &RecordBatch) -> Result<RecordBatch> {
    use arrow::array::AsArray;
    match rows.column_by_name("measured").and_then(|c| c.as_boolean_opt()) {
        Some(measured) if measured.has_false() => filter_record_batch(rows, measured).map_err(|e| wrong_rows(&e)),
        Some(_) | None => Ok(rows.clone()),
    }
}

pub(super) fn wrong_rows(e: &arrow::error::ArrowError) -> Failure {
    Failure::stage("optimize::rows", e.to_string())
}

fn broken(d: Diagnostic) -> Failure {
    Failure { exit: Exit::Stage, diagnostics: vec![d] }
}

/// Indices of the best trials: those that no other beats in every objective, by the first objective, then by number.
/// With one objective, the first of the best.
pub(super) fn front(done: &[Done], single: bool) -> Vec<usize> {
    let complete = done.iter().enumerate().filter(|(_, d)| d.state == State::Complete);
    let judged: Vec<(usize, &Vec<f64>)> = complete.filter_map(|(i, d)| Some((i, d.minimized.as_ref()?))).collect();
    let points: Vec<&[f64]> = judged.iter().map(|(_, o)| o.as_slice()).collect();
    let mut best = pareto::front(&points);
    best.sort_by(|a, b| points[*a][0].total_cmp(&points[*b][0]).then(a.cmp(b)));
    if single {
        best.truncate(1);
    }
    best.into_iter().map(|i| judged[i].0).collect()
}
