//! The search itself: trials over the train cases, the best of them over the test cases.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use serde_json::Value;

use pipe_kernel::scenario::Scenario;
use pipe_kernel::tune::{Allowed, OnViolation, Outcome, Settings, Study as Asked, Trial};

use super::apply::rows;
use super::features::{Feature, RPS, Times, error, error_of, features};
use super::output::ErrorRow;
use super::study::{Case, Study};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{CaseRole, ErrorFunction, Text};
use crate::stage::RunCx;
use crate::stage::simulate::evaluate::{Detail, Evaluator};
use crate::stage::simulate::input::Workload;
use crate::store::TableHandle;

/// A study with everything that it reads.
pub(super) struct Search<'a> {
    pub study: &'a Study,
    pub cx: &'a RunCx,
    /// Requests, each simulated by cases that have them in common.
    pub sources: Vec<Evaluator>,
    /// Per case: its source, and how it was measured.
    pub cases: Vec<(usize, Times)>,
}

/// What came out.
pub(super) struct Found {
    /// In order of number, with the error over the train cases.
    pub trials: Vec<(Vec<Value>, f64)>,
    /// Number of the best.
    pub best: usize,
    pub errors: Vec<ErrorRow>,
    pub train_error: f64,
    /// `None` without test cases.
    pub test_error: Option<f64>,
}

impl<'a> Search<'a> {
    /// # Errors
    /// Tables that cannot be read; cases of which more was measured than is simulated; `mse` over cases of which less
    /// was.
    pub fn new(
        study: &'a Study,
        cx: &'a RunCx,
        workloads: Vec<Workload>,
        cases: Vec<(usize, Times)>,
    ) -> Result<Search<'a>> {
        let source = |w| Evaluator::new(cx, w, study.profiles.clone(), Detail::default());
        let sources: Vec<Evaluator> = workloads.into_iter().map(source).collect();
        let mut problems = Vec::new();
        for (case, (source, times)) in study.cases.iter().zip(&cases) {
            let simulated = sources[*source].workload.requests.len();
            let measured = times.ttft_ms.len();
            let wrong = |message: String| Diagnostic::new("calibrate::lengths", message).at(case.at.clone());
            let counts = format!("{}: {measured} requests were measured, and {simulated} are simulated", case.name);
            if !case.targets.is_empty() || (measured == 0 && !times.stated.is_empty()) {
                continue;
            }
            if measured > simulated {
                let help = "give the requests that were sent, all of them; or only the `run` that they belong to";
                problems.push(wrong(counts).help(help));
            } else if measured < simulated && study.objective == ErrorFunction::Mse {
                let help = "`objective: mape` compares the rest of the figures then";
                problems.push(wrong(format!("{counts}: no request can be paired")).help(help));
            } else if measured < simulated {
                let which = "times of single requests cannot be paired, and only medians, means and p99 count";
                cx.progress.0.warning(&format!("{counts}; {which}"));
            }
        }
        if !problems.is_empty() {
            return Err(Failure { exit: Exit::Stage, diagnostics: problems });
        }
        Ok(Search { study, cx, sources, cases })
    }

    /// All trials, and what the best comes to.
    ///
    /// # Errors
    /// A scenario that fails; no trial whose error is finite.
    pub async fn run(&self) -> Result<Found> {
        let train = self.of_role(CaseRole::Train);
        let test = self.of_role(CaseRole::Test);
        let each = (self.study.trials * train.len() as u64).saturating_add(test.len() as u64);
        self.cx.progress.0.total(each, "simulations");
        let mut asked = self.asked()?;
        let mut trials = Vec::new();
        // The best trial so far: its error, and those of its cases.
        let (mut least, mut incumbent): (f64, Option<Vec<f64>>) = (f64::INFINITY, None);
        while asked.told() < self.study.trials {
            self.cx.cancel.check()?;
            let left = (self.study.trials - asked.told()).min(u64::from(self.study.batch));
            let rules = Allowed(|p: &[Value]| self.study.feasible(p));
            let suggestions = asked.ask(usize::try_from(left).unwrap_or(1), &rules);
            let points: Vec<Vec<Value>> = suggestions.into_iter().map(|s| s.values).collect();
            if points.is_empty() {
                break;
            }
            let raced = self.race(&points, &train, incumbent.as_deref()).await?;
            for (params, (times, blocks)) in points.into_iter().zip(&raced) {
                let seen = &train[..times.len()];
                let so_far = error(&self.features(seen, times), self.study.objective);
                let whole = times.len() == train.len();
                let outcome = match (whole, so_far.is_finite()) {
                    (true, finite) => Outcome::from(finite.then(|| vec![so_far])),
                    // Of a part of the cases: compared only with others that saw as many.
                    (false, true) => Outcome::Pruned { rung: *blocks, objectives: vec![so_far], violation: 0.0 },
                    (false, false) => Outcome::Failed,
                };
                asked.tell(Trial { number: asked.told(), values: params.clone(), outcome });
                let error = if whole { so_far } else { f64::INFINITY };
                if error < least {
                    (least, incumbent) = (error, Some(self.case_errors(&train, times)));
                }
                trials.push((params, error));
            }
        }
        let finite = trials.iter().enumerate().filter(|(_, (_, error))| error.is_finite());
        let best = finite.min_by(|a, b| a.1.1.total_cmp(&b.1.1).then(a.0.cmp(&b.0))).map(|(i, _)| i);
        let Some(best) = best else { return Err(self.hopeless(&trials, &train).await) };
        let (point, train_error) = trials[best].clone();
        let mut errors = Vec::new();
        let mut test_error = None;
        for (role, cases) in [(CaseRole::Train, &train), (CaseRole::Test, &test)] {
            if cases.is_empty() {
                continue;
            }
            let times = self.simulate(std::slice::from_ref(&point), cases).await?.swap_remove(0);
            for (i, &case) in cases.iter().enumerate() {
                errors.extend(self.rows(role, &self.study.cases[case].name, &self.features(&[case], &times[i..=i])));
            }
            let all = self.features(cases, &times);
            errors.extend(self.rows(role, "", &all));
            if role == CaseRole::Test {
                test_error = Some(error(&all, self.study.objective));
            }
        }
        Ok(Found { trials, best, errors, train_error, test_error })
    }

    /// The times of the train cases at some points, and how many blocks of them each saw: all, but for those that a race
    /// drops.
    async fn race(
        &self,
        points: &[Vec<Value>],
        train: &[usize],
        incumbent: Option<&[f64]>,
    ) -> Result<Vec<(Vec<Times>, u32)>> {
        let Some(racing) = &self.study.racing else {
            return Ok(self.simulate(points, train).await?.into_iter().map(|times| (times, 1)).collect());
        };
        let mut raced: Vec<(Vec<Times>, u32)> = vec![(Vec::new(), 0); points.len()];
        let mut left: Vec<usize> = (0..points.len()).collect();
        for block in racing.blocks(train.len()) {
            let running: Vec<Vec<Value>> = left.iter().map(|&i| points[i].clone()).collect();
            for (&i, times) in left.iter().zip(self.simulate(&running, &train[block.clone()]).await?) {
                raced[i].0.extend(times);
                raced[i].1 += 1;
            }
            if let (Some(best), true) = (incumbent, block.end < train.len()) {
                let best = &best[..block.end];
                left.retain(|&i| !racing.drops(&self.case_errors(&train[..block.end], &raced[i].0), best));
            }
        }
        Ok(raced)
    }

    /// The error of every case, infinite where it has none.
    fn case_errors(&self, cases: &[usize], times: &[Times]) -> Vec<f64> {
        let of = |(i, case): (usize, &usize)| {
            let one = error(&self.features(&[*case], &times[i..=i]), self.study.objective);
            if one.is_nan() { f64::INFINITY } else { one }
        };
        cases.iter().enumerate().map(of).collect()
    }

    fn of_role(&self, role: CaseRole) -> Vec<usize> {
        (0..self.study.cases.len()).filter(|&i| self.study.cases[i].role == role).collect()
    }

    /// The sampler, before its first trial.
    fn asked(&self) -> Result<Asked> {
        let settings = Settings {
            seed: self.study.seed,
            on_violation: OnViolation::Resample,
            budget: Some(self.study.trials),
            ..Settings::default()
        };
        let made = Asked::new(self.study.space.clone(), &self.study.sampler, settings);
        made.map_err(|problems| Failure::stage("calibrate::sampler", problems.join("; ")))
    }

    /// The times of some cases at some points: by point, then by case.
    async fn simulate(&self, points: &[Vec<Value>], cases: &[usize]) -> Result<Vec<Vec<Times>>> {
        let mut all: Vec<Vec<Option<Times>>> = vec![vec![None; cases.len()]; points.len()];
        for (source, evaluator) in self.sources.iter().enumerate() {
            let mut wanted: Vec<(usize, usize)> = Vec::new();
            let mut scenarios: Vec<Scenario> = Vec::new();
            for (p, point) in points.iter().enumerate() {
                for (c, &case) in cases.iter().enumerate().filter(|(_, case)| self.cases[**case].0 == source) {
                    let case = &self.study.cases[case];
                    let scenario = self.study.scenario(case, point);
                    let scenario = scenario.map_err(|d| Failure { exit: Exit::Stage, diagnostics: d })?;
                    evaluator.workload.check(&scenario.workload, &case.requests)?;
                    scenarios.push(scenario);
                    wanted.push((p, c));
                }
            }
            let (finished, _) = evaluator.evaluate(&scenarios).await?;
            for (((p, c), scenario), finished) in wanted.into_iter().zip(&scenarios).zip(&finished) {
                let rows = evaluator.request_rows(scenario, finished, 0).await?;
                all[p][c] = Some(simulated(&rows));
            }
        }
        Ok(all.into_iter().map(|cases| cases.into_iter().flatten().collect()).collect())
    }

    fn features(&self, cases: &[usize], simulated: &[Times]) -> Vec<Feature> {
        let pairs: Vec<(&Times, &Times)> = simulated.iter().zip(cases.iter().map(|&c| &self.cases[c].1)).collect();
        features(&pairs, self.study.targets().as_deref())
    }

    /// What some features come to: `case` is empty for all cases of a role.
    fn rows(&self, role: CaseRole, case: &str, features: &[Feature]) -> Vec<ErrorRow> {
        let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let row = |feature: &Feature| ErrorRow {
            role,
            case: case.to_string(),
            feature: feature.name.clone(),
            measured: mean(&feature.measured),
            fitted: mean(&feature.simulated),
            error: error_of(feature, self.study.objective).filter(|e| e.is_finite()),
            count: feature.measured.len() as i64,
        };
        let mut rows: Vec<ErrorRow> = features.iter().filter(|f| !f.measured.is_empty()).map(row).collect();
        let total = error(features, self.study.objective);
        rows.push(ErrorRow {
            role,
            case: case.to_string(),
            feature: "total".to_string(),
            measured: None,
            fitted: None,
            error: Some(total).filter(|e| e.is_finite()),
            count: rows.len() as i64,
        });
        rows
    }

    /// Why no trial has an error.
    async fn hopeless(&self, trials: &[(Vec<Value>, f64)], train: &[usize]) -> Failure {
        let fail = |message: String| {
            let d = Diagnostic::new("calibrate::all_failed", message).at(self.study.at.clone());
            let help = "look at the bounds: with such values the server cannot answer what was answered";
            Failure { exit: Exit::Stage, diagnostics: vec![d.help(help)] }
        };
        let Some((point, _)) = trials.first() else {
            return fail("no point within the bounds is a scenario that can be simulated".to_string());
        };
        let times = match self.simulate(std::slice::from_ref(point), train).await {
            Ok(mut times) => times.swap_remove(0),
            Err(failure) => return failure,
        };
        let short = train.iter().zip(&times).map(|(&case, times)| {
            let measured = &self.cases[case].1;
            (&self.study.cases[case].name, times.ttft_ms.len(), measured.ttft_ms.len())
        });
        let told: Vec<String> =
            short.map(|(name, ours, theirs)| format!("{name}: {ours} answered, {theirs} measured")).collect();
        fail(format!("none of {} trials can be compared with what was measured ({})", trials.len(), told.join("; ")))
    }
}

/// The times of one simulation, in the order of the requests.
fn simulated(batches: &[RecordBatch]) -> Times {
    let mut times = Times::default();
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for batch in batches {
        let column = |name: &str| batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
        let ms = |name: &str, list: &mut Vec<f64>| {
            list.extend(column(name).into_iter().flatten().flatten().map(|ns| ns as f64 / 1e6));
        };
        ms("ttft_ns", &mut times.ttft_ms);
        ms("tpot_ns", &mut times.tpot_ms);
        ms("e2e_ns", &mut times.e2e_ms);
        if let (Some(arrivals), Some(spans)) = (column("arrival_ns"), column("e2e_ns")) {
            for (arrival, span) in arrivals.iter().zip(spans) {
                let Some(arrival) = arrival else { continue };
                first = first.min(arrival);
                last = last.max(span.map_or(i64::MIN, |s| arrival + s));
            }
        }
    }
    if last > first {
        times.stated.insert(RPS.to_string(), times.e2e_ms.len() as f64 * 1e9 / (last - first) as f64);
    }
    times
}

/// How a case was measured: from its table or its log, or as its targets state.
///
/// # Errors
/// The table cannot be read, or has no row that counts.
pub(super) async fn measured(case: &Case, inputs: &BTreeMap<String, TableHandle>) -> Result<Times> {
    if let Some(log) = &case.log {
        return super::config::read_log(&log.path).map_err(|f| f.or_at(log.at.as_ref()));
    }
    let Some(table) = &case.measured else {
        let stated = case.targets.iter().map(|(name, value)| (name.value.clone(), *value)).collect();
        return Ok(Times { stated, ..Times::default() });
    };
    let at = table.at.as_ref();
    let wrong = |message: String, help: String| {
        let d = Diagnostic::new("calibrate::measured", message).at(at.cloned()).help(help);
        Failure { exit: Exit::Stage, diagnostics: vec![d] }
    };
    let missing = || wrong(format!("there is no table `{}`", table.value), "`ingest` makes one".to_string());
    let handle = inputs.get(&table.value).ok_or_else(missing)?;
    let columns = ["run", "request_id", "ttft_ns", "tpot_ns", "e2e_ns", "status"];
    let mut all: Vec<(i64, [Option<i64>; 3])> = Vec::new();
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    for batch in rows(handle, &columns).await.map_err(|f| f.or_at(at))? {
        let text = |i: usize| arrow::compute::cast(batch.column(i), &DataType::Utf8);
        let int = |i: usize| arrow::compute::cast(batch.column(i), &DataType::Int64);
        let cast = |e: arrow::error::ArrowError| Failure::stage("calibrate::measured", e.to_string());
        let (run, status) = (text(0).map_err(cast)?, text(5).map_err(cast)?);
        let (run, status) = (run.as_string::<i32>(), status.as_string::<i32>());
        let numbers = (1..5).map(int).collect::<std::result::Result<Vec<_>, _>>().map_err(cast)?;
        let at = |column: usize, row: usize| {
            let values = numbers[column].as_primitive::<Int64Type>();
            values.is_valid(row).then(|| values.value(row))
        };
        for row in 0..batch.num_rows() {
            *runs.entry(run.value(row).to_string()).or_default() += 1;
            let other = case.run.as_ref().is_some_and(|r| r.value != run.value(row));
            if !other && status.value(row) == "completed" {
                all.push((at(0, row).unwrap_or(0), [at(1, row), at(2, row), at(3, row)]));
            }
        }
    }
    all.sort_by_key(|(id, _)| *id);
    if all.is_empty() {
        let names: Vec<String> = runs.keys().map(|r| format!("`{r}`")).collect();
        let of = case.run.as_ref().map_or(String::new(), |r| format!(" of run `{}`", r.value));
        return Err(wrong(
            format!("`{}` has no completed request{of}", table.value),
            format!("its runs are {}", if names.is_empty() { "none".to_string() } else { names.join(", ") }),
        ));
    }
    let list = |i: usize| all.iter().filter_map(|(_, times)| times[i]).map(|ns| ns as f64 / 1e6).collect();
    Ok(Times { ttft_ms: list(0), tpot_ms: list(1), e2e_ms: list(2), stated: BTreeMap::new() })
}

/// The requests of the cases, each table once, and which of them each case has.
///
/// # Errors
/// A table that cannot be read.
pub(super) async fn workloads(
    study: &Study,
    inputs: &BTreeMap<String, TableHandle>,
) -> Result<(Vec<Workload>, Vec<usize>)> {
    let mut names: Vec<&Text> = Vec::new();
    let mut sources = Vec::new();
    for case in &study.cases {
        let known = names.iter().position(|n| n.value == case.requests.value);
        sources.push(known.unwrap_or(names.len()));
        if known.is_none() {
            names.push(&case.requests);
        }
    }
    let mut all = Vec::new();
    for name in names {
        let missing = || Failure::stage("calibrate::requests", format!("there is no table `{}`", name.value));
        let handle = inputs.get(&name.value).ok_or_else(missing)?;
        all.push(Workload::read(handle, &study.catalog).await.map_err(|f| f.or_at(name.at.as_ref()))?);
    }
    Ok((all, sources))
}
