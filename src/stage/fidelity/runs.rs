//! Runs of which the times of every request are known.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::prelude::col;
use pipe_kernel::request::Requests;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use super::aims::{self, Aimable};
use super::figures::{Line, Report};
use super::trial::{Bench, Outcome, Times, failed, problems, server};
use super::{fit, measured};
use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Failure, Result};
use crate::query::session::{self, SessionOptions};
use crate::spec::{AimMetric, Candidate, MeasuredRun, Text, Tree};
use crate::stage::RunCx;
use crate::stage::compare::stats::{Pair, mape};
use crate::stage::simulate::input::Workload;

/// A run with everything that was read of it.
pub(super) struct Loaded {
    name: Text,
    spec: MeasuredRun,
    requests: Arc<Requests>,
    /// By place in the trace; `None` where a request was not served, or does not count.
    measured: Vec<Option<Times>>,
    /// By place in the trace: its configuration, from 0.
    phase: Vec<usize>,
}

/// What can be wrong before anything is read.
pub(super) fn check(name: &Text, run: &MeasuredRun, seed: u64, catalog: &Catalog) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if run.models.is_empty() {
        found.push(Diagnostic::new("fidelity::models", format!("`{}` has no models", name.value)).at(name.at.clone()));
    }
    if run.idle_s.is_some_and(|s| !(s.is_finite() && s > 0.0)) {
        let message = "`idle_s` must be a number above 0";
        found.push(Diagnostic::new("fidelity::idle", message).at(name.at.clone()));
    }
    for (model, candidate) in &run.models {
        let tree = server(&run.deployment, candidate, seed);
        let placed = |d: Diagnostic| if d.at.is_some() { d } else { d.at(model.at.clone()) };
        let wrong = problems(&tree, catalog);
        if run.idle_s.is_none() {
            found.extend(aims::unfitted(candidate, "it needs `idle_s`, which says where a configuration ends"));
        } else if !candidate.fit.is_empty() {
            found.extend(fit::problems(candidate, wrong.is_empty().then_some(&tree), catalog).into_iter().map(placed));
        }
        found.extend(wrong.into_iter().map(placed));
    }
    let fitted = |candidate: &Candidate| run.idle_s.is_some() && !candidate.fit.is_empty();
    let can = Aimable {
        models: run.models.keys().map(|m| m.value.as_str()).collect(),
        fitted: run.models.iter().filter(|(_, c)| fitted(c)).map(|(m, _)| m.value.as_str()).collect(),
        help: "give the model a `fit`, and the run `idle_s`",
        metrics: &METRICS,
    };
    found.extend(aims::problems(&run.aims, &can));
    found
}

/// Reads requests and what was measured of them.
///
/// # Errors
/// A table that cannot be read, or has nothing that was served.
pub(super) async fn load(name: &Text, run: &MeasuredRun, catalog: &Catalog, cx: &RunCx) -> Result<Loaded> {
    let table = |name: &Text| {
        let missing = || Failure::stage("fidelity::table", format!("there is no table `{}`", name.value));
        cx.inputs.get(&name.value).ok_or_else(missing)
    };
    let workload = Workload::read(table(&run.requests.0)?, catalog).await?;
    let beside = measured(&run.requests.0);
    let handle = table(&beside)?;
    let wrong = |e: &dyn std::fmt::Display| {
        Failure::stage("fidelity::table", format!("cannot read `{}`: {e}", beside.value)).or_at(beside.at.as_ref())
    };
    let ctx = session::context(&SessionOptions { target_partitions: 1, ..SessionOptions::threads(1) })?;
    let read = ctx.read_table(session::provider(handle)?).map_err(|e| wrong(&e))?;
    let names = ["request_id", "ttft_ns", "e2e_ns", "output_tokens", "status"];
    let rows = read.select_columns(&names).and_then(|r| r.sort(vec![col("request_id").sort(true, false)]));
    let batches = rows.map_err(|e| wrong(&e))?.collect().await.map_err(|e| wrong(&e))?;
    let ids = cast(&workload.request_id, &DataType::Int64).map_err(|e| wrong(&e))?;
    let ids = ids.as_primitive::<Int64Type>().clone();
    let mut times: Vec<Option<Times>> = vec![None; workload.requests.len()];
    for batch in &batches {
        let number = |at: usize| cast(batch.column(at), &DataType::Float64).map_err(|e| wrong(&e));
        let (id, ttft, e2e, output) = (number(0)?, number(1)?, number(2)?, number(3)?);
        let status = cast(batch.column(4), &DataType::Utf8).map_err(|e| wrong(&e))?;
        let status = status.as_string::<i32>();
        let of = |column: &arrow::array::ArrayRef, row: usize| {
            column.is_valid(row).then(|| column.as_primitive::<Float64Type>().value(row))
        };
        for row in 0..batch.num_rows() {
            let served = status.is_valid(row) && status.value(row) == "completed";
            let (Some(id), Some(ttft), Some(e2e), true) = (of(&id, row), of(&ttft, row), of(&e2e, row), served) else {
                continue;
            };
            let Ok(place) = ids.values().binary_search(&(id as i64)) else { continue };
            let more = of(&output, row).unwrap_or(0.0) - 1.0;
            let tpot = (more > 0.0).then(|| (e2e - ttft) / more / 1e6);
            times[place] = Some(Times { ttft: ttft / 1e6, tpot, e2e: e2e / 1e6 });
        }
    }
    if times.iter().all(Option::is_none) {
        return Err(wrong(&"no request of it was served"));
    }
    let phase = phases(&workload.requests, &times, run.idle_s);
    Ok(Loaded { name: name.clone(), spec: run.clone(), requests: workload.requests, measured: times, phase })
}

/// The configurations of a run: a new one begins with the first request that arrives when nothing was in flight for `idle_s`.
fn phases(requests: &Requests, times: &[Option<Times>], idle_s: Option<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|i| (requests.arrival[*i], *i));
    let (mut phase, mut busy_until_ms) = (0, f64::INFINITY);
    let mut phases = vec![0; requests.len()];
    for (n, i) in order.into_iter().enumerate() {
        let arrival_ms = requests.arrival[i].0 as f64 / 1e6;
        if n > 0 && idle_s.is_some_and(|s| arrival_ms > busy_until_ms + s * 1e3) {
            phase += 1;
        }
        let end = arrival_ms + times[i].map_or(0.0, |t| t.e2e);
        busy_until_ms = if n == 0 { end } else { f64::max(busy_until_ms, end) };
        phases[i] = phase;
    }
    phases
}

/// Which requests a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Train,
    Test,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::All => "all",
            Part::Train => "train",
            Part::Test => "test",
        }
    }

    /// Whether a configuration that is for fitting, or is not, is in it.
    pub(super) fn has(self, train: bool) -> bool {
        match self {
            Part::All => true,
            Part::Train => train,
            Part::Test => !train,
        }
    }
}

impl Loaded {
    /// Every second configuration is for fitting.
    fn is_in(&self, place: usize, part: Part) -> bool {
        part.has(self.phase[place].is_multiple_of(2))
    }

    fn pairs(&self, simulated: &[Option<Times>], metric: AimMetric, part: Part) -> Vec<Pair> {
        let of = |times: &Times| match metric {
            AimMetric::Ttft => Some(times.ttft),
            AimMetric::Tpot => times.tpot,
            AimMetric::E2e => Some(times.e2e),
            AimMetric::Step => None,
        };
        let both = self.measured.iter().zip(simulated).enumerate().filter(|(place, _)| self.is_in(*place, part));
        both.filter_map(|(_, (m, s))| Some(Pair { measured: of(m.as_ref()?)?, simulated: of(s.as_ref()?)? })).collect()
    }

    /// What a fit makes small: the mean of the mean absolute errors of TTFT, TPOT and E2E.
    fn error(&self, simulated: &[Option<Times>], part: Part) -> Option<f64> {
        let errors: Vec<f64> =
            METRICS.iter().filter_map(|metric| mape(&self.pairs(simulated, *metric, part))).collect();
        (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
    }
}

const METRICS: [AimMetric; 3] = [AimMetric::Ttft, AimMetric::Tpot, AimMetric::E2e];

/// Holds every model against a run.
///
/// # Errors
/// A model whose profile does not fit; interrupted.
pub(super) fn report(run: Loaded, bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let held_out = run.phase.iter().any(|p| *p > 0);
    if let (Some(idle_s), false) = (run.spec.idle_s, held_out) {
        let message =
            format!("`{}` has no pause of {idle_s} s: it is one configuration, and nothing is fitted", run.name.value);
        bench.cx.progress.0.warning(&message);
    }
    let models: Vec<(&Text, &Candidate)> = run.spec.models.iter().collect();
    let one = |(name, candidate): &(&Text, &Candidate)| untuned(&run, name, candidate, bench);
    let as_they_are: Result<Vec<(Tree, Outcome)>> = bench.cx.pool.install(|| models.par_iter().map(one).collect());
    for ((model, candidate), (tree, outcome)) in models.into_iter().zip(as_they_are?) {
        let parts: &[Part] = if held_out { &[Part::All, Part::Train, Part::Test] } else { &[Part::All] };
        lines(&run, model, false, &outcome, parts, bench, report);
        if held_out && !candidate.fit.is_empty() {
            fitted(&run, model, candidate, &tree, bench, report)?;
        }
        report.judge(&run.name.value, &model.value, &run.spec.aims);
        bench.cx.progress.0.advance(1);
    }
    Ok(())
}

fn untuned(run: &Loaded, model: &Text, candidate: &Candidate, bench: &Bench<'_>) -> Result<(Tree, Outcome)> {
    let tree = server(&run.spec.deployment, candidate, bench.seed);
    let scenario = bench.scenario(&tree).map_err(|found| failed(found, model.at.as_ref()))?;
    let outcome = bench.run(&scenario, &run.requests)?;
    Ok((tree, outcome))
}

fn fitted(
    run: &Loaded,
    model: &Text,
    candidate: &Candidate,
    tree: &Tree,
    bench: &Bench<'_>,
    report: &mut Report,
) -> Result<()> {
    let space = fit::space(candidate).map_err(|d| failed(vec![d], None))?;
    let error = |values: &[Value]| {
        let Ok(scenario) = bench.scenario(&fit::set(tree, &space, values)) else { return Ok(None) };
        Ok(run.error(&bench.run(&scenario, &run.requests)?.times, Part::Train))
    };
    let label = format!("{}/{}", run.name.value, model.value);
    let Some((values, _)) = fit::best(bench, &label, &space, error)? else { return Ok(()) };
    let scenario = bench.scenario(&fit::set(tree, &space, &values)).map_err(|found| failed(found, None))?;
    let outcome = bench.run(&scenario, &run.requests)?;
    lines(run, model, true, &outcome, &[Part::Train, Part::Test], bench, report);
    for (parameter, value) in space.parameters().iter().zip(&values) {
        report.parameter(&run.name.value, &model.value, &parameter.path, value.as_f64().unwrap_or(f64::NAN));
    }
    Ok(())
}

fn lines(
    run: &Loaded,
    model: &Text,
    fitted: bool,
    outcome: &Outcome,
    parts: &[Part],
    bench: &Bench<'_>,
    report: &mut Report,
) {
    for part in parts {
        for metric in METRICS {
            let pairs = run.pairs(&outcome.times, metric, *part);
            let lost = run.measured.iter().zip(&outcome.times).enumerate();
            let lost = lost.filter(|(i, (m, s))| run.is_in(*i, *part) && m.is_some() && s.is_none()).count();
            let line = Line {
                set: &run.name.value,
                model: &model.value,
                fitted,
                part: *part,
                metric,
                not_simulated: lost as u64,
                extrapolated: outcome.extrapolated as f64 / (outcome.steps.max(1)) as f64,
            };
            report.add(&line, &pairs, bench.seed);
        }
    }
}
