//! Tables with a mean TTFT and TPOT per configuration of a server and its load.
//!
//! A table says little of the client: how many users, and how long prompts and replies are meant to be. The rest is settings.
//! Users of a closed loop that all begin at once, with equal lengths, stay in step for ever; where lengths are drawn, evenly
//! between a share of the stated one and all of it, they do not. One factor on the time of a step is fitted per system and
//! model, on half of the configurations, drawn once for all models.

use std::collections::BTreeMap;

use pipe_kernel::sim;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use super::aims::{self, Aimable};
use super::figures::{Configuration, Line, Report};
use super::runs::Part;
use super::table::{self, Row};
use super::trial::{Bench, Times, failed, problems};
use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Result};
use crate::spec::{AimMetric, Candidate, Client, MeasuredConfigurations, System, Text, Tree};
use crate::stage::compare::stats::{Pair, mape};

/// Golden-section steps of a fit: the factor is known to a thousandth.
const SECTIONS: u32 = 14;
const FACTORS: (f64, f64) = (0.5, 2.5);
const GOLDEN: f64 = 0.618_033_988_749_895;

const METRICS: [AimMetric; 2] = [AimMetric::Ttft, AimMetric::Tpot];

pub(super) fn check(name: &Text, table: &MeasuredConfigurations, seed: u64, catalog: &Catalog) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut wrong = |what: &str| {
        found.push(Diagnostic::new("fidelity::configurations", what.to_string()).at(name.at.clone()));
    };
    if table.systems.is_empty() {
        wrong("`systems` is empty: no row would be taken");
    }
    let Client { requests_per_user, shortest, warmup_per_user } = table.client;
    if requests_per_user == 0 || warmup_per_user >= requests_per_user {
        wrong("`client.warmup_per_user` must leave at least one of `requests_per_user`");
    }
    if !(shortest > 0.0 && shortest <= 1.0) {
        wrong("`client.shortest` must be above 0 and at most 1");
    }
    for system in table.systems.values() {
        if let Err(d) = catalog.gpu(&system.gpu.value) {
            found.push(d.at(system.gpu.at.clone()));
        }
    }
    let candidates = || table.systems.values().flat_map(|s| &s.models);
    let help = "one factor is fitted by itself, where the model has a `scale`";
    found.extend(candidates().filter_map(|(_, candidate)| aims::unfitted(candidate, help)));
    let scaled = |model: &str| candidates().filter(|(m, _)| m.value == model).all(|(_, c)| factor(c).is_some());
    let models: Vec<&str> = candidates().map(|(model, _)| model.value.as_str()).collect();
    let fitted = models.iter().copied().filter(|model| scaled(model)).collect();
    let help = "of a table, the models `operators` and `steps` are fitted";
    found.extend(aims::problems(&table.aims, &Aimable { models, fitted, help, metrics: &METRICS }));
    if found.is_empty() {
        found = without_rows(name, table, seed, catalog);
    }
    found
}

/// Models that cannot be simulated with a single row, as far as their profiles do not matter.
fn without_rows(name: &Text, table: &MeasuredConfigurations, seed: u64, catalog: &Catalog) -> Vec<Diagnostic> {
    // A file that is not there is reported by whoever hashes it.
    if !table.path.path.is_file() {
        return Vec::new();
    }
    let rows = match table::read(name, table, seed) {
        Ok(rows) => rows,
        Err(failure) => return failure.diagnostics,
    };
    let mut found = Vec::new();
    for (system_name, system) in &table.systems {
        let of_system = || rows.iter().filter(|r| r.system == system_name.value);
        for (model, candidate) in &system.models {
            let unfit = |row: &Row| unfit(row, table, &row.tree(table, system, candidate, seed), catalog);
            if of_system().all(|row| unfit(row).is_some()) {
                let set = format!("{} {}", name.value, system_name.value);
                found.push(none(&set, model, of_system().find_map(unfit)));
            }
        }
    }
    found
}

/// Why a row cannot be simulated, as far as its profile does not matter.
fn unfit(row: &Row, table: &MeasuredConfigurations, tree: &Tree, catalog: &Catalog) -> Option<Diagnostic> {
    let beyond = row.beyond(table.client).map(|why| Diagnostic::new("fidelity::configurations", why));
    beyond.or_else(|| problems(tree, catalog).into_iter().next())
}

/// That no row is left for a model, with the reason of one of them.
fn none(set: &str, model: &Text, why: Option<Diagnostic>) -> Diagnostic {
    let why = why.unwrap_or_else(|| Diagnostic::new("fidelity::configurations", "the table has no such rows"));
    let message = format!("{set}: no configuration can be simulated with `{}`: {}", model.value, why.message);
    Diagnostic { message, at: why.at.clone().or_else(|| model.at.clone()), ..why }
}

/// The settings of a factor, where the model has one.
fn factor(candidate: &Candidate) -> Option<String> {
    let latency = candidate.latency.to_json();
    let name = latency.as_object().and_then(|m| m.keys().next().cloned())?;
    ["operators", "steps"].contains(&name.as_str()).then(|| format!("deployment.latency.{name}.scale"))
}

/// Holds every model of every system against a table.
///
/// # Errors
/// A file that cannot be read; interrupted.
pub(super) fn report(
    name: &Text,
    table: &MeasuredConfigurations,
    bench: &Bench<'_>,
    report: &mut Report,
) -> Result<()> {
    let rows = table::read(name, table, bench.seed)?;
    for (system_name, system) in &table.systems {
        let rows: Vec<&Row> = rows.iter().filter(|r| r.system == system_name.value).collect();
        let set = format!("{} {}", name.value, system_name.value);
        for (model, candidate) in &system.models {
            Held { set: &set, table, system, model, candidate, rows: &rows, bench }.report(report)?;
            bench.cx.progress.0.advance(1);
        }
    }
    Ok(())
}

/// A row that can be simulated with a model, as it is without a factor.
struct Case<'a> {
    row: &'a Row,
    tree: Tree,
}

/// Means over the requests of a configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Means {
    ttft_ms: f64,
    /// Over those that have one; `None` where no reply has a second token.
    tpot_ms: Option<f64>,
    /// Share of the steps that the profile did not measure.
    extrapolated: f64,
}

/// The means of a case, or why there are none.
type Simulated = std::result::Result<Means, String>;

/// A factor on the time of a step: its settings, and what they are set to.
type Factor<'a> = Option<(&'a str, f64)>;

/// A model that is held against the rows of a system.
struct Held<'a> {
    set: &'a str,
    table: &'a MeasuredConfigurations,
    system: &'a System,
    model: &'a Text,
    candidate: &'a Candidate,
    rows: &'a [&'a Row],
    bench: &'a Bench<'a>,
}

impl Held<'_> {
    fn report(&self, report: &mut Report) -> Result<()> {
        let (cases, left_out) = self.cases();
        if cases.is_empty() {
            let why = left_out.into_values().next();
            return Err(failed(vec![none(self.set, self.model, why)], self.model.at.as_ref()));
        }
        let cases: Vec<&Case<'_>> = cases.iter().collect();
        let untuned = self.simulate(&cases, None)?;
        self.add(&cases, &untuned, false, report);
        // Without a pair to fit to, or without one to hold against, nothing can be said of a factor.
        let halves = [Part::Train, Part::Test];
        let both = halves.into_iter().all(|part| !pairs(&cases, &untuned, AimMetric::Tpot, part).is_empty());
        if let (Some(path), true) = (factor(self.candidate), both)
            && let Some(scale) = self.fitted(&path, &cases)?
        {
            report.parameter(self.set, &self.model.value, &path, scale);
            let tuned = self.simulate(&cases, Some((&path, scale)))?;
            self.add(&cases, &tuned, true, report);
        }
        for (row, why) in self.rows.iter().filter_map(|row| Some((row, left_out.get(&row.line)?))) {
            report.configurations.push(self.described(row, &Err(why.message.clone()), false));
        }
        report.judge(self.set, &self.model.value, &self.table.aims);
        Ok(())
    }

    /// The rows that can be simulated, and by line why the others cannot.
    fn cases(&self) -> (Vec<Case<'_>>, BTreeMap<u64, Diagnostic>) {
        let (mut cases, mut left_out) = (Vec::new(), BTreeMap::new());
        for row in self.rows {
            let tree = row.tree(self.table, self.system, self.candidate, self.bench.seed);
            let with_profile = || self.bench.scenario(&tree).err().and_then(|found| found.into_iter().next());
            match unfit(row, self.table, &tree, self.bench.catalog).or_else(with_profile) {
                Some(why) => drop(left_out.insert(row.line, why)),
                None => cases.push(Case { row, tree }),
            }
        }
        (cases, left_out)
    }

    fn simulate(&self, cases: &[&Case<'_>], factor: Factor<'_>) -> Result<Vec<Simulated>> {
        self.bench.cx.pool.install(|| cases.par_iter().map(|case| self.simulated(case, factor)).collect())
    }

    fn simulated(&self, case: &Case<'_>, factor: Factor<'_>) -> Result<Simulated> {
        let mut tree = case.tree.clone();
        if let Some((path, value)) = factor {
            tree.set_path(path, Tree::from_json(Value::from(value)));
        }
        let client = self.table.client;
        let requests = case.row.requests(client, self.bench.seed);
        let scenario = match self.bench.scenario(&tree) {
            Ok(scenario) => scenario,
            Err(found) => return Ok(Err(found.into_iter().map(|d| d.message).next().unwrap_or_default())),
        };
        if let Err(found) = sim::check_requests(&scenario, &requests) {
            return Ok(Err(found.into_iter().map(|e| e.to_string()).next().unwrap_or_default()));
        }
        let outcome = self.bench.run(&scenario, &requests)?;
        let kept: Vec<&Times> = outcome.times.iter().skip(case.row.warmup(client)).flatten().collect();
        let extrapolated = outcome.extrapolated as f64 / outcome.steps.max(1) as f64;
        Ok(means(&kept, extrapolated).ok_or_else(|| "no request was served".to_string()))
    }

    /// The factor with the least mean absolute error of TPOT on what is for fitting, by golden section: between the best
    /// two factors the error falls and rises once, as far as steps alone make TPOT. `None` where no factor has an error.
    fn fitted(&self, path: &str, cases: &[&Case<'_>]) -> Result<Option<f64>> {
        let train: Vec<&Case<'_>> = cases.iter().copied().filter(|c| c.row.train).collect();
        let error = |scale: f64| -> Result<f64> {
            let results = self.simulate(&train, Some((path, scale)))?;
            Ok(mape(&pairs(&train, &results, AimMetric::Tpot, Part::Train)).unwrap_or(f64::INFINITY))
        };
        let (mut low, mut high) = FACTORS;
        let (mut a, mut b) = (high - (high - low) * GOLDEN, low + (high - low) * GOLDEN);
        let (mut at_a, mut at_b) = (error(a)?, error(b)?);
        for _ in 0..SECTIONS {
            if at_a <= at_b {
                (high, b, at_b) = (b, a, at_a);
                a = high - (high - low) * GOLDEN;
                at_a = error(a)?;
            } else {
                (low, a, at_a) = (a, b, at_b);
                b = low + (high - low) * GOLDEN;
                at_b = error(b)?;
            }
        }
        let (best, least) = if at_a <= at_b { (a, at_a) } else { (b, at_b) };
        Ok(least.is_finite().then_some(best))
    }

    /// The figures of the cases, and what became of each.
    fn add(&self, cases: &[&Case<'_>], results: &[Simulated], fitted: bool, report: &mut Report) {
        let parts: &[Part] = if fitted { &[Part::Train, Part::Test] } else { &[Part::All, Part::Train, Part::Test] };
        for part in parts {
            let rows = self.rows.iter().filter(|row| part.has(row.train)).count();
            for metric in METRICS {
                let pairs = pairs(cases, results, metric, *part);
                let line = Line {
                    set: self.set,
                    model: &self.model.value,
                    fitted,
                    part: *part,
                    metric,
                    not_simulated: (rows - pairs.len()) as u64,
                    extrapolated: extrapolated(cases, results, *part),
                };
                report.add(&line, &pairs, self.bench.seed);
            }
        }
        for (case, result) in cases.iter().zip(results) {
            report.configurations.push(self.described(case.row, result, fitted));
        }
    }

    fn described(&self, row: &Row, result: &Simulated, fitted: bool) -> Configuration {
        Configuration {
            set: self.set.to_string(),
            model: self.model.value.clone(),
            fitted,
            part: if row.train { Part::Train } else { Part::Test },
            line: row.line,
            served_model: row.model.clone(),
            tp: row.tp,
            input_tokens: row.isl,
            output_tokens: row.osl,
            users: row.users,
            measured: (row.ttft_ms, row.tpot_ms),
            simulated: (result.as_ref().ok().map(|m| m.ttft_ms), result.as_ref().ok().and_then(|m| m.tpot_ms)),
            left_out: match result {
                Ok(Means { tpot_ms: None, .. }) => "replies of one token have no TPOT".to_string(),
                Ok(Means { tpot_ms: Some(_), .. }) => String::new(),
                Err(why) => why.clone(),
            },
        }
    }
}

fn means(kept: &[&Times], extrapolated: f64) -> Option<Means> {
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let tpot_ms = mean(kept.iter().filter_map(|t| t.tpot).collect());
    Some(Means { ttft_ms: mean(kept.iter().map(|t| t.ttft).collect())?, tpot_ms, extrapolated })
}

/// The cases of a part with their means.
fn of_part<'a>(
    cases: &'a [&Case<'_>],
    results: &'a [Simulated],
    part: Part,
) -> impl Iterator<Item = (&'a Row, &'a Means)> {
    let both = cases.iter().zip(results).filter(move |(case, _)| part.has(case.row.train));
    both.filter_map(|(case, result)| Some((case.row, result.as_ref().ok()?)))
}

fn pairs(cases: &[&Case<'_>], results: &[Simulated], metric: AimMetric, part: Part) -> Vec<Pair> {
    let pair = |(row, means): (&Row, &Means)| match metric {
        AimMetric::Ttft => Some(Pair { measured: row.ttft_ms, simulated: means.ttft_ms }),
        AimMetric::Tpot => Some(Pair { measured: row.tpot_ms, simulated: means.tpot_ms? }),
        AimMetric::E2e | AimMetric::Step => None,
    };
    of_part(cases, results, part).filter_map(pair).collect()
}

/// Mean share of the steps of a configuration that the profile did not measure.
fn extrapolated(cases: &[&Case<'_>], results: &[Simulated], part: Part) -> f64 {
    let shares: Vec<f64> = of_part(cases, results, part).map(|(_, means)| means.extrapolated).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_of_those_that_have_the_figure() {
        let times = |ttft: f64, tpot: Option<f64>| Times { ttft, tpot, e2e: 0.0 };
        let (one, two, three) = (times(10.0, Some(4.0)), times(20.0, None), times(30.0, Some(8.0)));
        let all = means(&[&one, &two, &three], 0.5);
        assert_eq!(all, Some(Means { ttft_ms: 20.0, tpot_ms: Some(6.0), extrapolated: 0.5 }));
        assert_eq!(means(&[&two], 0.0), Some(Means { ttft_ms: 20.0, tpot_ms: None, extrapolated: 0.0 }));
        assert_eq!(means(&[], 0.0), None);
    }
}
