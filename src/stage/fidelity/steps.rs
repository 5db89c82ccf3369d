//! Steps of an engine: the time that a latency model says of their shape, against the time that they took.

use pipe_kernel::profile::{Operator, Point};
use pipe_kernel::sim::latency::{self, BatchShape};

use super::aims::{self, Aimable};
use super::figures::{Line, Report};
use super::runs::Part;
use super::trial::{Bench, failed, problems, server};
use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{AimMetric, MeasuredSteps, Text};
use crate::stage::compare::stats::Pair;

const HELP: &str = "nothing is fitted to steps here: that is the business of `calibrate`";

pub(super) fn check(name: &Text, steps: &MeasuredSteps, seed: u64, catalog: &Catalog) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if steps.models.is_empty() {
        found.push(Diagnostic::new("fidelity::models", format!("`{}` has no models", name.value)).at(name.at.clone()));
    }
    for (model, candidate) in &steps.models {
        let tree = server(&steps.deployment, candidate, seed);
        let placed = |d: Diagnostic| if d.at.is_some() { d } else { d.at(model.at.clone()) };
        found.extend(problems(&tree, catalog).into_iter().map(placed));
        found.extend(aims::unfitted(candidate, HELP));
    }
    let models = steps.models.keys().map(|m| m.value.as_str()).collect();
    let can = Aimable { models, fitted: Vec::new(), help: HELP, metrics: &[AimMetric::Step] };
    found.extend(aims::problems(&steps.aims, &can));
    found
}

/// Holds every model against the steps.
///
/// # Errors
/// The profile has no steps; a model whose own profile does not fit.
pub(super) fn report(name: &Text, steps: &MeasuredSteps, bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let profile = bench.profiles.get(&steps.profile.0.value);
    let points: &[Point] = profile.map_or(&[], |p| p.of(Operator::Step));
    if points.is_empty() {
        let message = format!("`{}` has no steps", steps.profile.0.value);
        return Err(Failure::stage("fidelity::steps", message).or_at(steps.profile.0.at.as_ref()));
    }
    for (model, candidate) in &steps.models {
        bench.cx.cancel.check()?;
        let tree = server(&steps.deployment, candidate, bench.seed);
        let scenario = bench.scenario(&tree).map_err(|found| failed(found, model.at.as_ref()))?;
        let site = scenario.sites().swap_remove(0);
        let of = latency::of(&site).map_err(|e| Failure::stage("fidelity::impossible", e.to_string()))?;
        let pair = |p: &Point| Pair {
            measured: p.latency_us / 1e3,
            simulated: of.step(&BatchShape::of_step(&p.shape)).as_ms(),
        };
        let pairs: Vec<Pair> = points.iter().map(pair).collect();
        let line = Line {
            set: &name.value,
            model: &model.value,
            fitted: false,
            part: Part::All,
            metric: AimMetric::Step,
            not_simulated: 0,
            extrapolated: of.extrapolated() as f64 / pairs.len() as f64,
        };
        report.add(&line, &pairs, bench.seed);
        report.judge(&name.value, &model.value, &steps.aims);
        bench.cx.progress.0.advance(1);
    }
    Ok(())
}
