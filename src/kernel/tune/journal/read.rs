//! Reading a journal, as Optuna replays it.

use std::fmt;
use std::io::BufRead;

use serde_json::{Map, Value};

use super::{CONSTRAINTS, FAIL_REASON, METRIC_NAMES, ObjectiveInfo, RULES_BROKEN, RUNG, Report, State, time};

/// Why a journal could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalError {
    /// Counted from 1; `None` for what is not about one line.
    pub line: Option<usize>,
    pub reason: String,
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for JournalError {}

/// A study of a journal.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedStudy {
    pub name: String,
    /// Their names are those that were set, or else `value`, or `values_0`, `values_1`, ...
    pub objectives: Vec<ObjectiveInfo>,
    /// User attributes.
    pub attributes: Map<String, Value>,
    /// The trials that are over, in order of number. Numbers have gaps where trials are not.
    pub trials: Vec<ImportedTrial>,
    /// The parameters of trials that wait: points that somebody wants tried. Not all parameters need to be there.
    pub enqueued: Vec<Map<String, Value>>,
    /// Number of trials that were left running, or still are.
    pub running: usize,
    /// The file ends in the middle of a line, as while somebody writes; what came before was read.
    pub unfinished: bool,
}

/// A trial that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedTrial {
    /// Position among all trials of its study, from 0.
    pub number: u64,
    /// Values by name of parameter; those that the trial did not have are not there.
    pub params: Map<String, Value>,
    /// Numbers may be infinite, intermediate values also NaN.
    pub report: Report,
}

/// Reads a study of a journal, by name; without one, the only study that there is.
///
/// Lines are replayed as Optuna does it: deleted studies are gone, what would change a finished trial is passed over.
/// A last line that is not whole is passed over; a whole one without an end of line counts. Bare `NaN` and `Infinity`
/// are numbers where numbers are expected, and text in attributes. Times without an offset are taken to be UTC.
///
/// # Errors
/// A line that is no operation of a journal, with its number; a study that is not there, or not the only one.
pub fn import(journal: impl BufRead, study: Option<&str>) -> Result<ImportedStudy, JournalError> {
    let mut studies = import_all(journal)?;
    let names: Vec<&str> = studies.iter().map(|s| s.name.as_str()).collect();
    let at = match study {
        Some(name) => names.iter().position(|n| *n == name),
        None => (names.len() == 1).then_some(0),
    };
    let reason = match (study, at) {
        (_, Some(at)) => return Ok(studies.swap_remove(at)),
        (_, None) if names.is_empty() => "the journal has no study".to_owned(),
        (Some(name), None) => format!("the journal has no study {name}, but {}", names.join(", ")),
        (None, None) => format!("the journal has several studies: {}", names.join(", ")),
    };
    Err(JournalError { line: None, reason })
}

/// Reads all studies of a journal that were not deleted, in the order of their creation: see [`import`].
///
/// # Errors
/// A line that is no operation of a journal, with its number.
pub fn import_all(mut journal: impl BufRead) -> Result<Vec<ImportedStudy>, JournalError> {
    let mut replay = Replay::default();
    let mut unfinished = false;
    let mut bytes = Vec::new();
    for number in 1.. {
        let error = |reason: String| JournalError { line: Some(number), reason };
        bytes.clear();
        if journal.read_until(b'\n', &mut bytes).map_err(|e| error(e.to_string()))? == 0 {
            break;
        }
        let parsed = std::str::from_utf8(&bytes).map_err(|e| e.to_string()).and_then(parse);
        match parsed {
            Ok(line) => replay.apply(&line).map_err(error)?,
            Err(_) if bytes.last() != Some(&b'\n') => unfinished = true,
            Err(reason) => return Err(error(reason)),
        }
    }
    Ok(replay.studies(unfinished))
}

/// The names of numbers that are no JSON, as Python writes them. The longer ones first.
const BARE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// JSON, or what Python's `json` takes for it: bare `NaN`, `Infinity` and `-Infinity` become text.
fn parse(text: &str) -> Result<Value, String> {
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => format!("no JSON: {error}"),
    };
    let mut quoted = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut inside = false;
    while let Some(c) = rest.chars().next() {
        let bare = BARE.into_iter().find(|bare| !inside && rest.starts_with(bare));
        if let Some(bare) = bare {
            quoted.extend(["\"", bare, "\""]);
            rest = &rest[bare.len()..];
            continue;
        }
        let mut len = c.len_utf8();
        match c {
            '"' => inside = !inside,
            // What is escaped ends no text.
            '\\' if inside => len += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => (),
        }
        quoted.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    serde_json::from_str(&quoted).map_err(|_| error)
}

/// A number, finite or not.
fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Running,
    Complete,
    Pruned,
    Failed,
    Waiting,
}

impl Phase {
    fn is_finished(self) -> bool {
        matches!(self, Phase::Complete | Phase::Pruned | Phase::Failed)
    }
}

/// A distribution, as far as it matters for reading values and for which may follow which.
#[derive(Clone)]
enum Distribution {
    Float { log: bool },
    Int { log: bool },
    Categorical(Vec<Value>),
}

impl Distribution {
    fn parse(text: &str) -> Result<Distribution, String> {
        let json = parse(text).map_err(|reason| format!("the distribution {text} is {reason}"))?;
        let unknown = || format!("unknown distribution {text}");
        let name = json.get("name").or_else(|| json.get("type")).and_then(Value::as_str).ok_or_else(unknown)?;
        let attributes = json.get("attributes").unwrap_or(&json);
        let log = attributes.get("log").and_then(Value::as_bool).unwrap_or(false);
        // The short names are those of an abbreviated form; those with Uniform are older than Optuna 3.
        Ok(match name {
            "FloatDistribution" | "float" | "UniformDistribution" | "DiscreteUniformDistribution" => {
                Distribution::Float { log }
            }
            "LogUniformDistribution" => Distribution::Float { log: true },
            "IntDistribution" | "int" | "IntUniformDistribution" => Distribution::Int { log },
            "IntLogUniformDistribution" => Distribution::Int { log: true },
            "CategoricalDistribution" | "categorical" => {
                let choices = attributes.get("choices").and_then(Value::as_array).ok_or_else(unknown)?;
                Distribution::Categorical(choices.clone())
            }
            _ => return Err(unknown()),
        })
    }

    /// A parameter of a study may have both.
    fn goes_with(&self, other: &Distribution) -> bool {
        match (self, other) {
            (Distribution::Float { log: a }, Distribution::Float { log: b })
            | (Distribution::Int { log: a }, Distribution::Int { log: b }) => a == b,
            (Distribution::Categorical(a), Distribution::Categorical(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_in_python(a, b))
            }
            _ => false,
        }
    }

    /// The value that the file's number stands for.
    fn value(&self, internal: &Value) -> Result<Value, String> {
        let x = number(internal).filter(|x| x.is_finite());
        let x = x.ok_or_else(|| format!("a parameter has the value {internal}"))?;
        match self {
            Distribution::Float { .. } => Ok(Value::from(x)),
            Distribution::Int { .. } => Ok(Value::from(x as i64)),
            Distribution::Categorical(choices) => {
                let choice = (x >= 0.0).then(|| choices.get(x as usize)).flatten();
                choice.cloned().ok_or_else(|| format!("there is no choice {internal} among {}", choices.len()))
            }
        }
    }
}

/// Equal where numbers are compared as numbers, and booleans are the numbers 1 and 0.
fn same_in_python(a: &Value, b: &Value) -> bool {
    let x = |value: &Value| value.as_bool().map_or_else(|| value.as_f64(), |b| Some(f64::from(u8::from(b))));
    match (x(a), x(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A trial while it is read.
struct Trial {
    study: usize,
    number: u64,
    phase: Phase,
    params: Map<String, Value>,
    distributions: Vec<(String, Distribution)>,
    values: Vec<f64>,
    started_us: Option<i64>,
    finished_us: Option<i64>,
    steps: Vec<(i64, f64)>,
    user: Map<String, Value>,
    system: Map<String, Value>,
}

/// A study while it is read.
struct Study {
    name: String,
    deleted: bool,
    maximize: Vec<bool>,
    user: Map<String, Value>,
    system: Map<String, Value>,
    trials: Vec<usize>,
}

/// The state of a journal: what its lines made so far.
#[derive(Default)]
struct Replay {
    studies: Vec<Study>,
    trials: Vec<Trial>,
}

/// A line, with its fields by name.
struct Line<'a>(&'a Value);

impl<'a> Line<'a> {
    fn get(&self, field: &str) -> Result<&'a Value, String> {
        self.0.get(field).ok_or_else(|| format!("{field} is missing"))
    }

    /// A field that may be missing, which is the same as `null`.
    fn optional(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn integer(&self, field: &str) -> Result<u64, String> {
        self.get(field)?.as_u64().ok_or_else(|| format!("{field} is no integer"))
    }

    fn text(&self, field: &str) -> Result<&'a str, String> {
        self.get(field)?.as_str().ok_or_else(|| format!("{field} is no text"))
    }

    fn object(&self, field: &str) -> Result<&'a Map<String, Value>, String> {
        self.get(field)?.as_object().ok_or_else(|| format!("{field} is no object"))
    }

    fn optional_object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>, String> {
        self.optional(field).map(|_| self.object(field)).transpose()
    }

    fn time(&self, field: &str) -> Result<Option<i64>, String> {
        let Some(value) = self.optional(field) else { return Ok(None) };
        let us = value.as_str().and_then(time::parse);
        us.map(Some).ok_or_else(|| format!("{field} is {value}, which is no time"))
    }

    fn phase(&self) -> Result<Phase, String> {
        Ok(match self.integer("state")? {
            0 => Phase::Running,
            1 => Phase::Complete,
            2 => Phase::Pruned,
            3 => Phase::Failed,
            4 => Phase::Waiting,
            state => return Err(format!("unknown state {state}")),
        })
    }

    /// One value or several; `None` where there is none.
    fn values(&self) -> Result<Option<Vec<f64>>, String> {
        let numbers = |value: &Value| number(value).ok_or_else(|| format!("{value} is no number"));
        match (self.optional("value"), self.optional("values")) {
            (_, Some(Value::Array(values))) => values.iter().map(numbers).collect::<Result<_, _>>().map(Some),
            (_, Some(other)) => Err(format!("values is {other}")),
            (Some(value), None) => Ok(Some(vec![numbers(value)?])),
            (None, None) => Ok(None),
        }
    }
}

impl Replay {
    fn apply(&mut self, line: &Value) -> Result<(), String> {
        let line = Line(line);
        match line.integer("op_code")? {
            0 => self.create_study(&line),
            1 => {
                if let Some(study) = self.study(&line)? {
                    self.studies[study].deleted = true;
                }
                Ok(())
            }
            2 => self.set_study(&line, "user_attr", |study| &mut study.user),
            3 => self.set_study(&line, "system_attr", |study| &mut study.system),
            4 => self.create_trial(&line),
            5 => self.set_param(&line),
            6 => self.set_state(&line),
            7 => {
                let step = line.get("step")?.as_i64().ok_or("step is no integer")?;
                let value = line.get("intermediate_value")?;
                let value = number(value).ok_or_else(|| format!("intermediate_value is {value}"))?;
                if let Some(trial) = self.open(&line)? {
                    set_step(&mut trial.steps, step, value);
                }
                Ok(())
            }
            8 => self.set_trial(&line, "user_attr", |trial| &mut trial.user),
            9 => self.set_trial(&line, "system_attr", |trial| &mut trial.system),
            10 => Ok(()),
            other => Err(format!("unknown op_code {other}")),
        }
    }

    /// The study of a line, unless it was deleted.
    fn study(&self, line: &Line) -> Result<Option<usize>, String> {
        let id = line.integer("study_id")?;
        let at = usize::try_from(id).ok().filter(|at| *at < self.studies.len());
        let at = at.ok_or_else(|| format!("there is no study with the id {id}"))?;
        Ok(Some(at).filter(|at| !self.studies[*at].deleted))
    }

    /// The trial of a line, unless it is finished.
    fn open(&mut self, line: &Line) -> Result<Option<&mut Trial>, String> {
        let id = line.integer("trial_id")?;
        let trial = usize::try_from(id).ok().and_then(|at| self.trials.get_mut(at));
        let trial = trial.ok_or_else(|| format!("there is no trial with the id {id}"))?;
        Ok(Some(trial).filter(|trial| !trial.phase.is_finished()))
    }

    fn create_study(&mut self, line: &Line) -> Result<(), String> {
        let name = line.text("study_name")?;
        let directions = line.get("directions")?.as_array().filter(|d| !d.is_empty());
        let maximize = directions.ok_or("directions is no list with a direction")?.iter().map(|d| match d.as_u64() {
            Some(1) => Ok(false),
            Some(2) => Ok(true),
            _ => Err(format!("unknown direction {d}")),
        });
        let maximize = maximize.collect::<Result<Vec<bool>, String>>()?;
        // Two who create the same study at once: the first one did.
        if self.studies.iter().any(|study| !study.deleted && study.name == name) {
            return Ok(());
        }
        self.studies.push(Study {
            name: name.to_owned(),
            deleted: false,
            maximize,
            user: Map::new(),
            system: Map::new(),
            trials: Vec::new(),
        });
        Ok(())
    }

    fn set_study(
        &mut self,
        line: &Line,
        field: &str,
        which: fn(&mut Study) -> &mut Map<String, Value>,
    ) -> Result<(), String> {
        let attributes = line.object(field)?.clone();
        if let Some(at) = self.study(line)? {
            which(&mut self.studies[at]).extend(attributes);
        }
        Ok(())
    }

    fn set_trial(
        &mut self,
        line: &Line,
        field: &str,
        which: fn(&mut Trial) -> &mut Map<String, Value>,
    ) -> Result<(), String> {
        let attributes = line.object(field)?.clone();
        if let Some(trial) = self.open(line)? {
            which(trial).extend(attributes);
        }
        Ok(())
    }

    fn create_trial(&mut self, line: &Line) -> Result<(), String> {
        let Some(study) = self.study(line)? else { return Ok(()) };
        let mut distributions = Vec::new();
        for (name, text) in line.optional_object("distributions")?.into_iter().flatten() {
            let text = text.as_str().ok_or_else(|| format!("the distribution of {name} is no text"))?;
            distributions.push((name.clone(), Distribution::parse(text)?));
        }
        let mut params = Map::new();
        for (name, internal) in line.optional_object("params")?.into_iter().flatten() {
            let distribution = distributions.iter().find(|(n, _)| n == name).map(|(_, d)| d);
            let distribution = distribution.ok_or_else(|| format!("{name} has no distribution"))?;
            params.insert(name.clone(), distribution.value(internal).map_err(|e| format!("{name}: {e}"))?);
        }
        let mut steps = Vec::new();
        for (step, value) in line.optional_object("intermediate_values")?.into_iter().flatten() {
            let step = step.parse().map_err(|_| format!("the step {step} is no integer"))?;
            let value = number(value).ok_or_else(|| format!("the intermediate value {value} is no number"))?;
            set_step(&mut steps, step, value);
        }
        let attributes = |field| Ok::<_, String>(line.optional_object(field)?.cloned().unwrap_or_default());
        let trial = Trial {
            study,
            number: self.studies[study].trials.len() as u64,
            phase: if line.optional("state").is_some() { line.phase()? } else { Phase::Running },
            params,
            distributions,
            values: self.values(line, study)?.unwrap_or_default(),
            started_us: line.time("datetime_start")?,
            finished_us: line.time("datetime_complete")?,
            steps,
            user: attributes("user_attrs")?,
            system: attributes("system_attrs")?,
        };
        self.studies[study].trials.push(self.trials.len());
        self.trials.push(trial);
        Ok(())
    }

    /// The values of a line, as many as the study has objectives.
    fn values(&self, line: &Line, study: usize) -> Result<Option<Vec<f64>>, String> {
        let expect = self.studies[study].maximize.len();
        match line.values()? {
            Some(values) if values.len() != expect => Err(format!("{} values instead of {expect}", values.len())),
            values => Ok(values),
        }
    }

    fn set_param(&mut self, line: &Line) -> Result<(), String> {
        let name = line.text("param_name")?;
        let distribution = Distribution::parse(line.text("distribution")?)?;
        let value = distribution.value(line.get("param_value_internal")?).map_err(|e| format!("{name}: {e}"))?;
        let Some(study) = self.open(line)?.map(|trial| trial.study) else { return Ok(()) };
        // The first trial of the study that has the parameter says what it is; another kind of it is passed over.
        let first = self.studies[study].trials.iter().find_map(|&at| {
            self.trials[at].distributions.iter().find(|(n, _)| n == name).map(|(_, distribution)| distribution)
        });
        if first.is_some_and(|first| !first.goes_with(&distribution)) {
            return Ok(());
        }
        if let Some(trial) = self.open(line)? {
            trial.params.insert(name.to_owned(), value);
            trial.distributions.retain(|(n, _)| n != name);
            trial.distributions.push((name.to_owned(), distribution));
        }
        Ok(())
    }

    fn set_state(&mut self, line: &Line) -> Result<(), String> {
        let phase = line.phase()?;
        let (started, finished) = (line.time("datetime_start")?, line.time("datetime_complete")?);
        let Some(study) = self.open(line)?.map(|trial| trial.study) else { return Ok(()) };
        let values = self.values(line, study)?;
        let Some(trial) = self.open(line)? else { return Ok(()) };
        // Somebody else runs it already.
        if phase == Phase::Running && trial.phase == Phase::Running {
            return Ok(());
        }
        trial.phase = phase;
        trial.values = values.unwrap_or_else(|| std::mem::take(&mut trial.values));
        trial.started_us = started.filter(|_| phase == Phase::Running).or(trial.started_us);
        trial.finished_us = finished.filter(|_| phase.is_finished()).or(trial.finished_us);
        Ok(())
    }

    /// The studies that are left.
    fn studies(self, unfinished: bool) -> Vec<ImportedStudy> {
        let mut studies: Vec<ImportedStudy> = Vec::new();
        // Places of the studies in the list of those that are left.
        let mut at = Vec::new();
        for study in self.studies {
            at.push((!study.deleted).then_some(studies.len()));
            if !study.deleted {
                studies.push(ImportedStudy {
                    objectives: objectives(&study),
                    name: study.name,
                    attributes: study.user,
                    trials: Vec::new(),
                    enqueued: Vec::new(),
                    running: 0,
                    unfinished,
                });
            }
        }
        for trial in self.trials {
            let Some(study) = at[trial.study].map(|at| &mut studies[at]) else { continue };
            match trial.phase {
                Phase::Running => study.running += 1,
                Phase::Waiting => {
                    let mut params = trial.params;
                    if let Some(Value::Object(fixed)) = trial.system.get("fixed_params") {
                        params.extend(fixed.clone());
                    }
                    study.enqueued.push(params);
                }
                Phase::Complete | Phase::Pruned | Phase::Failed => study.trials.push(imported(trial)),
            }
        }
        studies
    }
}

fn set_step(steps: &mut Vec<(i64, f64)>, step: i64, value: f64) {
    match steps.binary_search_by_key(&step, |(s, _)| *s) {
        Ok(at) => steps[at].1 = value,
        Err(at) => steps.insert(at, (step, value)),
    }
}

fn objectives(study: &Study) -> Vec<ObjectiveInfo> {
    let count = study.maximize.len();
    let names = study.system.get(METRIC_NAMES).and_then(Value::as_array).filter(|names| names.len() == count);
    let name = |i: usize| match names.and_then(|names| names[i].as_str()) {
        Some(name) => name.to_owned(),
        None if count == 1 => "value".to_owned(),
        None => format!("values_{i}"),
    };
    study.maximize.iter().enumerate().map(|(i, &maximize)| ObjectiveInfo { name: name(i), maximize }).collect()
}

/// A finished trial, with what [`export`](super::export) put into attributes taken out of them again.
fn imported(trial: Trial) -> ImportedTrial {
    let Trial { number: position, phase, params, values, steps, mut user, system, .. } = trial;
    let mut constraints: Vec<(String, f64)> = Vec::new();
    // The older form is a list without names.
    for (i, value) in system.get(CONSTRAINTS).and_then(Value::as_array).into_iter().flatten().enumerate() {
        constraints.extend(number(value).map(|x| (i.to_string(), x)));
    }
    for (key, value) in &system {
        let name = key.strip_prefix(CONSTRAINTS).and_then(|rest| rest.strip_prefix(':'));
        if let (Some(name), Some(x)) = (name, number(value)) {
            constraints.retain(|(n, _)| n != name);
            constraints.push((name.to_owned(), x));
        }
    }
    let broken = |user: &Map<String, Value>| {
        let names = user.get(RULES_BROKEN)?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    };
    let by_rules = constraints.iter().any(|(name, x)| name == RULES_BROKEN && *x > 0.0);
    let state = match (phase, broken(&user)) {
        (Phase::Pruned, Some(broken)) if by_rules && values.is_empty() => {
            user.shift_remove(RULES_BROKEN);
            constraints.retain(|(name, _)| name != RULES_BROKEN);
            State::Illegal { broken }
        }
        (Phase::Complete, _) => State::Complete { objectives: values },
        (Phase::Pruned, _) => {
            let told = user.get(RUNG).and_then(Value::as_u64).and_then(|rung| u32::try_from(rung).ok());
            if told.is_some() {
                user.shift_remove(RUNG);
            }
            let last = steps.last().map(|(step, _)| u32::try_from((*step).max(0)).unwrap_or(u32::MAX));
            State::Pruned { rung: told.or(last).unwrap_or(0), objectives: values }
        }
        (Phase::Failed | Phase::Running | Phase::Waiting, _) => {
            let reason = user.get(FAIL_REASON).and_then(Value::as_str).map(str::to_owned);
            if reason.is_some() {
                user.shift_remove(FAIL_REASON);
            }
            State::Failed { reason: reason.unwrap_or_default() }
        }
    };
    let (started_us, finished_us) = (trial.started_us, trial.finished_us);
    let report = Report { state, constraints, intermediate: steps, started_us, finished_us, attributes: user };
    ImportedTrial { number: position, params, report }
}
