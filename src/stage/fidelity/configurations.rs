//! Tables with a mean TTFT and TPOT per configuration of a server and its load.
//!
//! A table says little of the client: how many users, and how long prompts and replies are meant to be. The rest is settings.
//! Users of a closed loop that all begin at once, with equal lengths, stay in step for ever; where lengths are drawn, evenly
//! between a share of the stated one and all of it, they do not. One factor on the time of a step is fitted per system and
//! model, on half of the configurations, drawn once for all models.

use std::collections::BTreeMap;

use pipe_kernel::request::Requests;
use pipe_kernel::rng;
use pipe_kernel::units::SimTime;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use super::figures::{Configuration, Line, Report};
use super::runs::{self, Part};
use super::trial::{Bench, failed, problems, server};
use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{AimMetric, Candidate, Client, MeasuredConfigurations, System, Text, Tree};
use crate::stage::compare::stats::{Pair, mape};

/// Requests of a client at most.
const REQUESTS_MAX: u32 = 20_000;
/// Golden-section steps of a fit: the factor is known to a thousandth.
const SECTIONS: u32 = 14;
const FACTORS: (f64, f64) = (0.5, 2.5);
const GOLDEN: f64 = 0.618_033_988_749_895;

/// A row of the table.
#[derive(Clone, Debug)]
struct Row {
    line: u64,
    model: String,
    system: String,
    tp: u32,
    pp: u32,
    dp: u32,
    experts_spread: bool,
    isl: u32,
    osl: u32,
    users: u32,
    gemm: String,
    moe: String,
    ttft_ms: f64,
    tpot_ms: f64,
    train: bool,
}

pub(super) fn check(name: &Text, table: &MeasuredConfigurations, catalog: &Catalog) -> Vec<Diagnostic> {
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
    let models = table.systems.values().flat_map(|s| s.models.keys());
    found.extend(runs::aims(&table.aims, models));
    found
}

/// Reads the rows that are asked for, and draws which of them are for fitting.
///
/// # Errors
/// A file that cannot be read, lacks a column, or has a value that is none.
fn read(name: &Text, table: &MeasuredConfigurations, seed: u64) -> Result<Vec<Row>> {
    let wrong = |line: u64, what: String| -> Failure {
        let place = if line > 0 { format!(":{line}") } else { String::new() };
        let message = format!("{}{place}: {what}", table.path.path.display());
        Diagnostic::new("fidelity::configurations", message).at(table.path.at.clone()).into()
    };
    let mut reader = csv::Reader::from_path(&table.path.path).map_err(|e| wrong(0, e.to_string()))?;
    let headers = reader.headers().map_err(|e| wrong(0, e.to_string()))?.clone();
    let column = |name: &str| {
        let at = headers.iter().position(|h| h == name);
        at.ok_or_else(|| {
            wrong(1, format!("no column `{name}`; there are {}", headers.iter().collect::<Vec<_>>().join(", ")))
        })
    };
    const NAMES: [&str; 13] = [
        "model_path",
        "system",
        "tp_size",
        "pp_size",
        "attention_dp_size",
        "moe_ep_size",
        "isl",
        "osl",
        "batch_size",
        "gemm_quant_mode",
        "moe_quant_mode",
        "silicon_ttft_ms",
        "silicon_tpot_ms",
    ];
    let mut at = Vec::new();
    for name in NAMES {
        at.push(column(name)?);
    }
    let mut only = Vec::new();
    for (name, values) in &table.only {
        only.push((column(name)?, values));
    }
    let mut stream = rng::stream(seed, &format!("fidelity/{}/split", name.value));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| wrong(0, e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let text = |i: usize| record.get(at[i]).unwrap_or_default().to_string();
        let taken = only.iter().all(|(at, values)| values.iter().any(|v| Some(v.as_str()) == record.get(*at)));
        if !taken || !table.systems.keys().any(|s| s.value == text(1)) {
            continue;
        }
        let count = |i: usize| -> Result<u32> {
            let text = text(i);
            if text.is_empty() {
                return Ok(1);
            }
            let number = text.parse::<f64>().ok().filter(|n| (0.0..=f64::from(u32::MAX)).contains(n));
            number
                .map(|n| n as u32)
                .ok_or_else(|| wrong(line, format!("`{}` is `{text}`: expected a number", NAMES[i])))
        };
        let time = |i: usize| -> Result<f64> {
            let number = text(i).parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
            number.ok_or_else(|| wrong(line, format!("`{}` is `{}`: expected ms above 0", NAMES[i], text(i))))
        };
        let train = rng::below(&mut stream, 2) == 0;
        rows.push(Row {
            line,
            model: text(0),
            system: text(1),
            tp: count(2)?.max(1),
            pp: count(3)?.max(1),
            dp: count(4)?.max(1),
            experts_spread: count(5)? > 1,
            isl: count(6)?.max(1),
            osl: count(7)?.max(1),
            users: count(8)?.max(1),
            gemm: text(9),
            moe: text(10),
            ttft_ms: time(11)?,
            tpot_ms: time(12)?,
            train,
        });
    }
    if rows.is_empty() {
        return Err(wrong(0, "no row is asked for by `only` and `systems`".to_string()));
    }
    Ok(rows)
}

impl Row {
    /// The settings of the server.
    fn tree(&self, table: &MeasuredConfigurations, system: &System, candidate: &Candidate, seed: u64) -> Tree {
        let json = |value: Value| Tree::from_json(value);
        let mut deployment = table.deployment.clone().unwrap_or_else(|| json(serde_json::json!({})));
        for (path, value) in [
            ("model", Value::from(self.model.clone())),
            ("gpu", Value::from(system.gpu.value.clone())),
            ("tp", Value::from(self.tp)),
            ("pp", Value::from(self.pp)),
            ("dp", Value::from(self.dp)),
            ("dtype", Value::from(if self.gemm.starts_with("fp8") { "fp8" } else { "bf16" })),
        ] {
            deployment.set_path(path, json(value));
        }
        if self.experts_spread && self.dp > 1 {
            deployment.set_path("enable_expert_parallel", json(Value::Bool(true)));
        }
        let mut tree = server(&deployment, candidate, seed);
        tree.set_path("workload.concurrency", json(Value::from(self.users)));
        tree
    }

    /// Types of weights that a scenario has no word for.
    fn beyond_types(&self) -> Option<String> {
        let known = |name: &str| ["", "fp8", "fp8_block", "bfloat16", "float16"].contains(&name);
        let odd = [&self.gemm, &self.moe].into_iter().find(|name| !known(name));
        odd.map(|name| format!("weights of type {name} are not modelled"))
    }

    fn requests(&self, client: Client, seed: u64) -> Requests {
        let n = self.users.saturating_mul(client.requests_per_user).min(REQUESTS_MAX.max(self.users));
        let mut stream = rng::stream(seed, &format!("fidelity/client/{}", self.line));
        let mut length = |most: u32| {
            let least = (f64::from(most) * client.shortest) as u32;
            (least + rng::below(&mut stream, u64::from(most - least.min(most)) + 1) as u32).clamp(1, most)
        };
        let mut requests = Requests::default();
        for _ in 0..n {
            requests.arrival.push(SimTime::ZERO);
            requests.input_tokens.push(length(self.isl));
            requests.output_tokens.push(length(self.osl));
        }
        requests
    }
}

/// A row that can be simulated with a model, as it is without a factor.
struct Case<'a> {
    row: &'a Row,
    tree: Tree,
}

/// Means of TTFT and TPOT in ms.
type Means = (f64, f64);

/// The settings of a factor, where the model has one.
fn factor(candidate: &Candidate) -> Option<String> {
    let latency = candidate.latency.to_json();
    let name = latency.as_object().and_then(|m| m.keys().next().cloned())?;
    ["operators", "steps"].contains(&name.as_str()).then(|| format!("deployment.latency.{name}.scale"))
}

fn simulated(
    case: &Case<'_>,
    table: &MeasuredConfigurations,
    bench: &Bench<'_>,
    scale: Option<(&str, f64)>,
) -> Result<Option<(Means, f64)>> {
    let mut tree = case.tree.clone();
    if let Some((path, value)) = scale {
        tree.set_path(path, Tree::from_json(Value::from(value)));
    }
    let Ok(scenario) = bench.scenario(&tree) else { return Ok(None) };
    let requests = case.row.requests(table.client, bench.seed);
    let outcome = bench.run(&scenario, &requests)?;
    let skipped = (case.row.users * table.client.warmup_per_user) as usize;
    let kept: Vec<_> = outcome.times.iter().skip(skipped).flatten().collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let n = kept.len() as f64;
    let ttft = kept.iter().map(|t| t.ttft).sum::<f64>() / n;
    let tpot = kept.iter().filter_map(|t| t.tpot).sum::<f64>() / n;
    Ok(Some(((ttft, tpot), outcome.extrapolated as f64 / outcome.steps.max(1) as f64)))
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
    let rows = read(name, table, bench.seed)?;
    for (system_name, system) in &table.systems {
        let of_system: Vec<&Row> = rows.iter().filter(|r| r.system == system_name.value).collect();
        for (model, candidate) in &system.models {
            let set = format!("{} {}", name.value, system_name.value);
            one(&set, (table, system), (model, candidate), &of_system, bench, report)?;
            bench.cx.progress.0.advance(1);
        }
    }
    Ok(())
}

fn one(
    set: &str,
    (table, system): (&MeasuredConfigurations, &System),
    (model, candidate): (&Text, &Candidate),
    rows: &[&Row],
    bench: &Bench<'_>,
    report: &mut Report,
) -> Result<()> {
    let mut cases = Vec::new();
    let mut left_out: BTreeMap<u64, String> = BTreeMap::new();
    for row in rows {
        let tree = row.tree(table, system, candidate, bench.seed);
        let unfit = row.beyond_types().or_else(|| {
            let found = problems(&tree, bench.catalog);
            let found = if found.is_empty() { bench.scenario(&tree).err().unwrap_or_default() } else { found };
            found.into_iter().next().map(|d| d.message)
        });
        match unfit {
            Some(why) => drop(left_out.insert(row.line, why)),
            None => cases.push(Case { row, tree }),
        }
    }
    let all = |scale: Option<(&str, f64)>, part: Part| -> Result<Vec<Option<(Means, f64)>>> {
        let chosen = |case: &&Case<'_>| part == Part::All || case.row.train == (part == Part::Train);
        let chosen: Vec<&Case<'_>> = cases.iter().filter(chosen).collect();
        bench.cx.pool.install(|| chosen.par_iter().map(|case| simulated(case, table, bench, scale)).collect())
    };
    let untuned = all(None, Part::All)?;
    let path = factor(candidate);
    let scale = match &path {
        Some(path) => Some(fitted(path, &cases, &all)?),
        None => None,
    };
    let tuned = match (&path, scale) {
        (Some(path), Some(scale)) => {
            report.parameter(set, &model.value, path, scale);
            Some(all(Some((path, scale)), Part::All)?)
        }
        _ => None,
    };
    for (fitted, results) in [(false, Some(&untuned)), (true, tuned.as_ref())] {
        let Some(results) = results else { continue };
        let parts: &[Part] = if fitted { &[Part::Train, Part::Test] } else { &[Part::All, Part::Train, Part::Test] };
        for part in parts {
            for metric in [AimMetric::Ttft, AimMetric::Tpot] {
                let pairs = pairs(&cases, results, metric, *part);
                let outside = results.iter().flatten().map(|(_, share)| share).sum::<f64>();
                let line = Line {
                    set,
                    model: &model.value,
                    fitted,
                    part: *part,
                    metric,
                    not_simulated: left_out.len() as u64,
                    extrapolated: outside / results.len().max(1) as f64,
                };
                report.add(&line, &pairs, &table.aims, bench.seed);
            }
        }
        for (case, result) in cases.iter().zip(results) {
            let means = result.as_ref().map(|(means, _)| *means);
            report.configurations.push(described(set, &model.value, fitted, case.row, means, String::new()));
        }
    }
    for row in rows.iter().filter(|r| left_out.contains_key(&r.line)) {
        let why = left_out[&row.line].clone();
        report.configurations.push(described(set, &model.value, false, row, None, why));
    }
    if cases.is_empty() {
        let why = left_out.into_values().next().unwrap_or_else(|| "the table has no such rows".to_string());
        let message = format!("{set}: no configuration can be simulated with `{}`: {why}", model.value);
        return Err(failed(vec![Diagnostic::new("fidelity::configurations", message)], model.at.as_ref()));
    }
    Ok(())
}

fn pairs(cases: &[Case<'_>], results: &[Option<(Means, f64)>], metric: AimMetric, part: Part) -> Vec<Pair> {
    let chosen = cases.iter().zip(results).filter(|(case, _)| match part {
        Part::All => true,
        Part::Train => case.row.train,
        Part::Test => !case.row.train,
    });
    let pair = |(case, result): (&Case<'_>, &Option<(Means, f64)>)| {
        let ((ttft, tpot), _) = result.as_ref()?;
        Some(match metric {
            AimMetric::Ttft => Pair { measured: case.row.ttft_ms, simulated: *ttft },
            AimMetric::Tpot | AimMetric::E2e | AimMetric::Step => Pair { measured: case.row.tpot_ms, simulated: *tpot },
        })
    };
    chosen.filter_map(pair).collect()
}

/// What simulates a part of the cases with a factor.
type All<'a> = dyn Fn(Option<(&str, f64)>, Part) -> Result<Vec<Option<(Means, f64)>>> + 'a;

/// The factor with the least mean absolute error of TPOT on what is for fitting, by golden section: between the best two
/// factors the error falls and rises once, as far as steps alone make TPOT.
fn fitted(path: &str, cases: &[Case<'_>], all: &All<'_>) -> Result<f64> {
    let train: Vec<f64> = cases.iter().filter(|c| c.row.train).map(|c| c.row.tpot_ms).collect();
    let error = |scale: f64| -> Result<f64> {
        let results = all(Some((path, scale)), Part::Train)?;
        let pairs: Vec<Pair> = train
            .iter()
            .zip(&results)
            .filter_map(|(measured, r)| Some(Pair { measured: *measured, simulated: r.as_ref()?.0.1 }))
            .collect();
        Ok(mape(&pairs).unwrap_or(f64::INFINITY))
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
    Ok(if at_a <= at_b { a } else { b })
}

fn described(set: &str, model: &str, fitted: bool, row: &Row, means: Option<Means>, left_out: String) -> Configuration {
    Configuration {
        set: set.to_string(),
        model: model.to_string(),
        fitted,
        part: if row.train { Part::Train } else { Part::Test },
        line: row.line,
        served_model: row.model.clone(),
        tp: row.tp,
        input_tokens: row.isl,
        output_tokens: row.osl,
        users: row.users,
        measured: (row.ttft_ms, row.tpot_ms),
        simulated: means,
        left_out,
    }
}
