//! Writing a journal.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::super::domain::{ABSENT, Domain, Kind, same};
use super::super::{Parameter, Space};
use super::{
    CONSTRAINTS, FAIL_REASON, METRIC_NAMES, RULES_BROKEN, RUNG, Report, State, StudyRecord, TrialRecord, time,
};

/// Who wrote the lines: any text that is not the name of a worker of Optuna, which are random.
const WORKER: &str = "pipe";
/// The largest decimal power that a step may need to be an integer.
const DECIMALS: u32 = 12;
/// The largest number of steps from 0 to either end: so far Optuna's test whether a float is on a step, to 1e-8 of it,
/// has room for rounding.
const STEPS: f64 = 1e6;

/// Writes a study as a journal file of its own: see the [module](super).
///
/// # Errors
/// Those of the writer; and `InvalidInput`, with the number of the trial, where a study contradicts itself: no
/// objective, a name twice, values that the space does not have, another number of objectives, no time, intermediate
/// values with several objectives or of a step below 0, or an attribute or constraint with a name that is used here
/// ([`RULES_BROKEN`], [`RUNG`], [`FAIL_REASON`]).
pub fn export(study: &StudyRecord, out: &mut impl Write) -> io::Result<()> {
    if study.objectives.is_empty() {
        return Err(invalid("a study has at least one objective"));
    }
    let names: Vec<&str> = study.objectives.iter().map(|of| of.name.as_str()).collect();
    if let Some(name) = repeated(&names) {
        return Err(invalid(format!("the objective {name} occurs twice")));
    }
    let directions: Vec<u8> = study.objectives.iter().map(|of| if of.maximize { 2 } else { 1 }).collect();
    line(out, &json!({"op_code": 0, "worker_id": WORKER, "study_name": study.name, "directions": directions}))?;
    line(out, &json!({"op_code": 3, "worker_id": WORKER, "study_id": 0, "system_attr": {(METRIC_NAMES): names}}))?;
    for (key, value) in &study.attributes {
        line(out, &json!({"op_code": 2, "worker_id": WORKER, "study_id": 0, "user_attr": {(key.as_str()): value}}))?;
    }
    let parameters: Vec<Written> = study.space.parameters().iter().map(Written::new).collect();
    for (number, trial) in study.trials.iter().enumerate() {
        let row = finished(study.space, &parameters, names.len(), trial)
            .map_err(|reason| invalid(format!("trial {number}: {reason}")))?;
        line(out, &row)?;
    }
    Ok(())
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.into())
}

fn line(out: &mut impl Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn repeated<'a>(names: &[&'a str]) -> Option<&'a str> {
    names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, name)| *name)
}

/// A parameter, as all trials have it.
struct Written<'a> {
    path: &'a str,
    domain: &'a Domain,
    /// The distribution, as JSON text.
    distribution: String,
    /// The value is written as the position of a choice, not as a number.
    choice: bool,
}

impl Written<'_> {
    fn new(parameter: &Parameter) -> Written<'_> {
        let domain = &parameter.domain;
        let (name, attributes) = distribution(domain);
        let distribution = json!({"name": name, "attributes": attributes}).to_string();
        Written { path: &parameter.path, domain, distribution, choice: name == "CategoricalDistribution" }
    }
}

/// Class and attributes of a distribution of Optuna.
pub(super) fn distribution(domain: &Domain) -> (&'static str, Value) {
    match domain.kind() {
        Kind::Nominal(_) | Kind::Ordinal(_) => {
            let levels = domain.levels().unwrap_or(0);
            let values: Vec<Value> = (0..levels).map(|k| domain.value(domain.place_of_level(k))).collect();
            ("CategoricalDistribution", json!({"choices": choices(&values)}))
        }
        Kind::Int { low, step, levels, log } => {
            let high = domain.set_value(levels - 1);
            ("IntDistribution", json!({"log": *log && *step == 1, "step": step, "low": low, "high": high}))
        }
        Kind::FloatStep { low, step, levels, log } => {
            let high = domain.set_value(levels - 1);
            let step = is_decimal(*low, *step, *levels).then_some(*step);
            let log = *log && step.is_none();
            ("FloatDistribution", json!({"step": step, "low": domain.set_value(0), "high": high, "log": log}))
        }
        Kind::Float { low, high, log } => {
            ("FloatDistribution", json!({"step": null, "low": low, "high": high, "log": log}))
        }
    }
}

/// Low end and step have so few decimals that every level is the decimal number that one expects, also for Optuna.
fn is_decimal(low: f64, step: f64, levels: u64) -> bool {
    let high = low + (levels - 1) as f64 * step;
    let few = low.abs().max(high.abs()) / step <= STEPS;
    few && (0..=DECIMALS).any(|digits| {
        let scale = 10u64.pow(digits) as f64;
        // An integer over an exact power of ten is the nearest number to that decimal.
        let exact = |x: f64| {
            let n = libm::round(x * scale);
            n.abs() < 1e12 && n / scale == x
        };
        exact(low) && exact(step) && libm::round(high * scale).abs() < 1e12
    })
}

/// Values as choices: what Optuna does not take, and numbers that are equal to a boolean for Python, as JSON text.
/// Spaces behind tell such text from names that look the same.
fn choices(values: &[Value]) -> Vec<Value> {
    let (truth, lie) = (values.contains(&Value::Bool(true)), values.contains(&Value::Bool(false)));
    let as_text = |value: &Value| match value {
        Value::Array(_) | Value::Object(_) => true,
        Value::Number(_) => (truth && same(value, &json!(1))) || (lie && same(value, &json!(0))),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    };
    let mut choices: Vec<Value> = values.iter().filter(|v| !as_text(v)).cloned().collect();
    let mut texts = values.iter().filter(|v| as_text(v)).map(|value| {
        let mut text = value.to_string();
        while choices.contains(&Value::String(text.clone())) {
            text.push(' ');
        }
        choices.push(Value::String(text.clone()));
        Value::String(text)
    });
    values.iter().map(|v| if as_text(v) { texts.next().unwrap_or(Value::Null) } else { v.clone() }).collect()
}

/// The line of a trial.
fn finished(space: &Space, parameters: &[Written], objectives: usize, trial: &TrialRecord) -> Result<Value, String> {
    let report = &trial.report;
    let places = space.places(&trial.values).ok_or_else(|| format!("the space has no point {:?}", trial.values))?;
    let mut distributions = Map::new();
    let mut params = Map::new();
    for (j, parameter) in parameters.iter().enumerate() {
        let Written { path, domain, .. } = parameter;
        let value = if !space.exists(j, &places) || (!parameter.choice && places[j] == ABSENT) {
            continue;
        } else if parameter.choice {
            json!(domain.level_of_place(places[j]))
        } else {
            trial.values[j].as_f64().into()
        };
        distributions.insert((*path).to_owned(), Value::String(parameter.distribution.clone()));
        params.insert((*path).to_owned(), value);
    }
    check(report, objectives)?;
    let mut user = report.attributes.clone();
    let mut system = Map::new();
    for (name, value) in &report.constraints {
        if value.is_finite() {
            system.insert(format!("{CONSTRAINTS}:{name}"), json!(value));
        }
    }
    let mut steps: Map<String, Value> = Map::new();
    for (step, value) in report.intermediate.iter().filter(|(_, value)| value.is_finite()) {
        steps.insert(step.to_string(), json!(value));
    }
    let finite = |values: &[f64]| !values.is_empty() && values.iter().all(|x| x.is_finite());
    let (state, values) = match &report.state {
        State::Complete { objectives } => {
            let unmeasured = report.constraints.iter().find(|(_, c)| !c.is_finite());
            if let Some((name, value)) = unmeasured {
                user.insert(FAIL_REASON.to_owned(), json!(format!("the constraint {name} is {value}")));
                (3, None)
            } else if finite(objectives) {
                (1, Some(objectives))
            } else {
                user.insert(FAIL_REASON.to_owned(), json!(format!("the objectives are {objectives:?}")));
                (3, None)
            }
        }
        State::Pruned { rung, objectives } => {
            if objectives.len() == 1 && finite(objectives) {
                steps.insert(rung.to_string(), json!(objectives[0]));
            }
            let last = steps.keys().filter_map(|step| step.parse::<u32>().ok()).max();
            if last != Some(*rung) {
                user.insert(RUNG.to_owned(), json!(rung));
            }
            (2, Some(objectives).filter(|values| finite(values)))
        }
        State::Illegal { broken } => {
            system.insert(format!("{CONSTRAINTS}:{RULES_BROKEN}"), json!(broken.len().max(1) as f64));
            user.insert(RULES_BROKEN.to_owned(), json!(broken));
            (2, None)
        }
        State::Failed { reason } => {
            if !reason.is_empty() {
                user.insert(FAIL_REASON.to_owned(), json!(reason));
            }
            (3, None)
        }
    };
    let at = |us: Option<i64>| {
        let us = us.or(report.started_us).or(report.finished_us).ok_or("no time is known")?;
        time::format(us).ok_or_else(|| format!("the time {us} us is not in the years 1 to 9999"))
    };
    Ok(json!({
        "op_code": 4,
        "worker_id": WORKER,
        "study_id": 0,
        "datetime_start": at(report.started_us)?,
        "datetime_complete": at(report.finished_us)?,
        "state": state,
        // One value is written alone.
        "value": values.filter(|v| v.len() == 1).map(|v| v[0]),
        "values": values.filter(|v| v.len() > 1),
        "distributions": distributions,
        "params": params,
        "user_attrs": user,
        "system_attrs": system,
        "intermediate_values": steps,
    }))
}

/// What of a report could not be written, or would be read as something else.
fn check(report: &Report, objectives: usize) -> Result<(), String> {
    match &report.state {
        State::Complete { objectives: values } if values.len() != objectives => {
            return Err(format!("{} objectives instead of {objectives}", values.len()));
        }
        State::Pruned { objectives: values, .. } if !values.is_empty() && values.len() != objectives => {
            return Err(format!("{} objectives instead of {objectives}, or none", values.len()));
        }
        State::Complete { .. } | State::Pruned { .. } | State::Illegal { .. } | State::Failed { .. } => (),
    }
    if objectives > 1 && !report.intermediate.is_empty() {
        return Err("intermediate values are for one objective only".to_owned());
    }
    if let Some((step, _)) = report.intermediate.iter().find(|(step, _)| *step < 0) {
        return Err(format!("the step {step} is below 0"));
    }
    for name in [RULES_BROKEN, RUNG, FAIL_REASON] {
        if report.attributes.contains_key(name) {
            return Err(format!("the attribute {name} is one of those that are written here"));
        }
    }
    let constraints: Vec<&str> = report.constraints.iter().map(|(name, _)| name.as_str()).collect();
    if constraints.contains(&RULES_BROKEN) {
        return Err(format!("the constraint {RULES_BROKEN} is the one that is written here"));
    }
    match repeated(&constraints) {
        Some(name) => Err(format!("the constraint {name} occurs twice")),
        None => Ok(()),
    }
}
