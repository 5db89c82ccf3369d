//! A command in place of the simulator: run with the parameters of a trial, and asked what came of it.
//!
//! No shell reads the command. What it printed is searched for the metrics; an attempt that exits with an error, takes
//! too long or prints no number has failed, and so has a trial without an attempt that did not. Results are remembered
//! by parameters, seed and settings of the command, like those of the simulator; failures are not, because a server that
//! was down may be up the next time.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::{StreamExt, stream};
use regex::Regex;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command as Process};

use super::rules::text;
use crate::diag::{Diagnostic, Failure, Result, nearest};
use crate::spec::{External, Metric, Text, Tree, TreeValue};
use crate::stage::RunCx;
use crate::stage::simulate::settings::Setting;
use crate::store::{Hash, Memo, MemoEntry};
use crate::table::column;

/// Names that are no parameters.
const OWN: [&str; 3] = ["seed", "dir", "config"];
/// What is read of an output at most, in bytes; a benchmark prints less.
const OUTPUT_MAX: u64 = 64 << 20;
/// How long the output of a command that ended is waited for: something that it started may hold it open.
const DRAIN: Duration = Duration::from_secs(2);
/// Characters of an output that a message shows.
const SHOWN: usize = 300;

/// A text with parameters in it.
#[derive(Clone, Debug, PartialEq)]
struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Name(String),
}

/// Where a metric is found.
enum Source {
    Json(String),
    Regex(Regex),
    File(Template, String),
}

/// A command, checked.
pub(super) struct Command {
    spec: External,
    /// Arguments that come and go together.
    arguments: Vec<Vec<Template>>,
    env: Vec<(String, Template)>,
    metrics: Vec<(String, Source)>,
}

/// A trial to run.
pub(super) struct Job<'a> {
    /// One per parameter.
    pub values: &'a [Value],
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub key: Hash,
    /// One per metric, or why there are none.
    pub metrics: std::result::Result<Vec<f64>, String>,
    /// Of the attempt that counts; `None` where nothing was run.
    pub seconds: Option<f64>,
}

impl Template {
    /// # Errors
    /// A brace without its other, or nothing between two.
    fn parse(text: &str) -> std::result::Result<Template, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if rest.starts_with(brace) {
                plain.push_str(brace);
                rest = &rest[1..];
                continue;
            }
            let end = rest.find('}').filter(|end| brace == "{" && *end > 0 && !rest[..*end].contains('{'));
            let Some(end) = end else {
                return Err(format!("`{text}`: a `{brace}` alone; write `{brace}{brace}` for the character"));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Name(rest[..end].to_string()));
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template(parts))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// `None` where a parameter is unset.
    fn fill(&self, values: &BTreeMap<&str, Option<String>>) -> Option<String> {
        let part = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Name(name) => values.get(name.as_str()).cloned().flatten(),
        };
        self.0.iter().map(part).collect()
    }
}

impl Command {
    /// # Errors
    /// Everything that is wrong with the settings, each at its place.
    pub fn new(spec: &External, settings: &[Setting]) -> std::result::Result<Command, Vec<Diagnostic>> {
        let mut problems: Vec<Diagnostic> = Vec::new();
        let names: Vec<&str> = settings.iter().map(|s| s.path.as_str()).chain(OWN).collect();
        let at = spec.command.first().and_then(|t| t.at.clone());
        let mut template = |text: &Text| -> Option<Template> {
            let wrong = |message: String| Diagnostic::new("optimize::external", message).at(text.at.clone());
            match Template::parse(&text.value) {
                Ok(template) => {
                    for unknown in template.names().filter(|name| !names.contains(name)) {
                        let d = wrong(format!("`{{{unknown}}}` is no parameter of the space"));
                        let help = match nearest(unknown, names.iter().copied()) {
                            Some(near) => format!("did you mean `{{{near}}}`?"),
                            None => "`{{` and `}}` are braces".to_string(),
                        };
                        problems.push(d.help(help));
                    }
                    Some(template)
                }
                Err(message) => {
                    problems.push(wrong(message));
                    None
                }
            }
        };
        let argument = |tree: &Tree| -> Option<Text> {
            match &tree.value {
                TreeValue::List(_) | TreeValue::Map(_) | TreeValue::Null => None,
                TreeValue::String(s) => Some(Text::new(s.clone(), tree.at.clone())),
                _ => Some(Text::new(tree.to_json().to_string(), tree.at.clone())),
            }
        };
        let mut arguments = Vec::new();
        let mut odd: Vec<&Tree> = Vec::new();
        for tree in &spec.command {
            let group: Vec<&Tree> = match &tree.value {
                TreeValue::List(items) => items.iter().collect(),
                _ => vec![tree],
            };
            let texts: Vec<Option<Text>> = group.iter().map(|t| argument(t)).collect();
            odd.extend(group.iter().zip(&texts).filter(|(_, text)| text.is_none()).map(|(tree, _)| *tree));
            arguments.push(texts.iter().flatten().filter_map(&mut template).collect::<Vec<_>>());
        }
        let env = spec.env.iter().filter_map(|(name, text)| Some((name.value.clone(), template(text)?))).collect();
        let mut metrics = Vec::new();
        let mut bad: Vec<(String, Text)> = Vec::new();
        for (name, metric) in &spec.metrics {
            let source = match metric {
                Metric::Json(pointer) => Ok(Source::Json(pointer.clone())),
                Metric::Regex(pattern) => match Regex::new(pattern) {
                    Ok(regex) if regex.captures_len() < 2 => {
                        Err("the expression has no group for the number".to_string())
                    }
                    Ok(regex) => Ok(Source::Regex(regex)),
                    Err(e) => Err(e.to_string()),
                },
                Metric::File(file) => {
                    let path = template(&Text::new(file.path.clone(), name.at.clone()));
                    path.map(|path| Source::File(path, file.json.clone())).ok_or_else(String::new)
                }
            };
            let pointer = match metric {
                Metric::Json(pointer) => Some(pointer),
                Metric::File(file) => Some(&file.json),
                Metric::Regex(_) => None,
            };
            if let Some(pointer) = pointer.filter(|p| !p.is_empty() && !p.starts_with('/')) {
                bad.push((format!("`{pointer}` is no JSON pointer: these begin with `/`"), name.clone()));
            }
            match source {
                Ok(source) => metrics.push((name.value.clone(), source)),
                Err(message) if message.is_empty() => {}
                Err(message) => bad.push((format!("metric `{}`: {message}", name.value), name.clone())),
            }
        }
        let mut wrong = |message: &str, at: Option<crate::diag::Span>| {
            problems.push(Diagnostic::new("optimize::external", message).at(at));
        };
        odd.into_iter().for_each(|tree| wrong("an argument is a text, a number, or a list of these", tree.at.clone()));
        bad.iter().for_each(|(message, name)| wrong(message, name.at.clone()));
        if spec.command.is_empty() {
            wrong("`command` needs a program", at.clone());
        }
        if spec.metrics.is_empty() {
            wrong("`metrics` says nothing about what the command prints", at.clone());
        }
        if !(spec.timeout_s > 0.0 && spec.timeout_s <= 1e7) {
            wrong(&format!("`timeout_s` is {}; must be above 0", spec.timeout_s), at.clone());
        }
        if spec.concurrency == 0 || spec.retries > 1000 {
            wrong("`concurrency` must be at least 1, and `retries` at most 1000", at);
        }
        let columns: Vec<String> = settings.iter().map(Setting::column).collect();
        for (name, _) in spec.metrics.iter().filter(|(name, _)| columns.contains(&name.value)) {
            wrong(&format!("`{}` is a parameter already", name.value), name.at.clone());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Command { spec: spec.clone(), arguments, env, metrics })
    }

    /// Commands that run at once.
    pub fn at_once(&self) -> usize {
        self.spec.concurrency as usize
    }

    /// The columns of the metrics.
    pub fn fields(&self) -> Vec<Field> {
        let of = |(name, _): &(String, Source)| column(name, DataType::Float64, true, "", "Printed by the command");
        self.metrics.iter().map(of).collect()
    }

    /// Everything of the settings that a result depends on.
    pub fn recipe(&self) -> Value {
        let command: Vec<Value> = self.spec.command.iter().map(Tree::to_json).collect();
        let env: Map<String, Value> =
            self.spec.env.iter().map(|(name, v)| (name.value.clone(), v.value.as_str().into())).collect();
        let metrics: Map<String, Value> = self
            .spec
            .metrics
            .iter()
            .map(|(name, m)| (name.value.clone(), serde_json::to_value(m).unwrap_or_default()))
            .collect();
        json!({
            "command": command,
            "env": env,
            "dir": self.spec.dir.as_ref().map(|d| &d.written),
            "metrics": metrics,
            "version": self.spec.version,
        })
    }

    fn key(&self, job: &Job, settings: &[Setting]) -> Hash {
        let parameters: Map<String, Value> =
            settings.iter().zip(job.values).map(|(s, v)| (s.path.clone(), v.clone())).collect();
        Hash::of_json(&json!({ "external": self.recipe(), "parameters": parameters, "seed": job.seed }))
    }

    /// Runs what is not remembered, so many at once as the settings say; results in the order of the jobs.
    ///
    /// # Errors
    /// Interrupted (what was running is stopped), or the memory cannot be written.
    pub async fn run(&self, cx: &RunCx, settings: &[Setting], jobs: &[Job<'_>]) -> Result<Vec<Measured>> {
        let keys: Vec<Hash> = jobs.iter().map(|job| self.key(job, settings)).collect();
        let known = cx.memo.find(&keys)?;
        let mut runs = Vec::new();
        for (job, key) in jobs.iter().zip(keys) {
            let remembered = known.get(&key).and_then(|hit| self.remembered(&hit.summary));
            runs.push(async move {
                let measured = match remembered {
                    Some((metrics, seconds)) => Measured { key, metrics: Ok(metrics), seconds: Some(seconds) },
                    None => self.measure(cx, settings, job, key).await?,
                };
                cx.progress.0.advance(1);
                Ok(measured)
            });
        }
        let done: Vec<Result<Measured>> = stream::iter(runs).buffered(self.at_once()).collect().await;
        done.into_iter().collect()
    }

    fn remembered(&self, summary: &Value) -> Option<(Vec<f64>, f64)> {
        let metrics = summary.get("metrics")?;
        let values = self.metrics.iter().map(|(name, _)| metrics.get(name)?.as_f64()).collect::<Option<_>>()?;
        Some((values, summary.get("seconds")?.as_f64()?))
    }

    async fn measure(&self, cx: &RunCx, settings: &[Setting], job: &Job<'_>, key: Hash) -> Result<Measured> {
        let mut last = String::new();
        for attempt in 0..=self.spec.retries {
            cx.cancel.check()?;
            let began = std::time::Instant::now();
            match self.attempt(cx, settings, job).await {
                Ok(metrics) => {
                    let seconds = began.elapsed().as_secs_f64();
                    remember(&cx.memo, &key, &self.metrics, &metrics, seconds)?;
                    return Ok(Measured { key, metrics: Ok(metrics), seconds: Some(seconds) });
                }
                Err(why) => {
                    cx.cancel.check()?;
                    last = match attempt {
                        0 => why,
                        _ => format!("{why} (attempt {})", attempt + 1),
                    };
                }
            }
        }
        Ok(Measured { key, metrics: Err(last), seconds: None })
    }

    /// One run of the command.
    async fn attempt(&self, cx: &RunCx, settings: &[Setting], job: &Job<'_>) -> std::result::Result<Vec<f64>, String> {
        let wrong = |what: &str, e: &dyn std::fmt::Display| format!("cannot {what}: {e}");
        let scratch = tempfile::Builder::new().prefix("pipe-trial-").tempdir();
        let scratch = scratch.map_err(|e| wrong("make a folder for the trial", &e))?;
        let parameters: Map<String, Value> =
            settings.iter().zip(job.values).map(|(s, v)| (s.path.clone(), v.clone())).collect();
        let config = scratch.path().join("config.json");
        std::fs::write(&config, Value::from(parameters).to_string()).map_err(|e| wrong("write the parameters", &e))?;
        let mut values: BTreeMap<&str, Option<String>> =
            settings.iter().zip(job.values).map(|(s, v)| (s.path.as_str(), text(v))).collect();
        values.insert("seed", Some(job.seed.to_string()));
        values.insert("dir", Some(scratch.path().display().to_string()));
        values.insert("config", Some(config.display().to_string()));
        let filled = self.arguments.iter().filter_map(|group| group.iter().map(|t| t.fill(&values)).collect());
        let mut words = filled.flat_map(|group: Vec<String>| group);
        let program = words.next().ok_or("the program is unset")?;
        let folder = self.spec.dir.as_ref().map_or(&cx.project, |dir| &dir.path);
        let mut process = Process::new(&program);
        process.args(words).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.envs(self.env.iter().filter_map(|(name, t)| Some((name, t.fill(&values)?))));
        process.kill_on_drop(true);
        #[cfg(unix)]
        process.process_group(0);
        let mut child = process.spawn().map_err(|e| wrong(&format!("run `{program}`"), &e))?;
        let group = Group::of(&child);
        let out = tokio::spawn(read(child.stdout.take()));
        let err = tokio::spawn(read(child.stderr.take()));
        let limit = Duration::from_secs_f64(self.spec.timeout_s);
        let status = tokio::select! {
            status = child.wait() => status.map_err(|e| wrong("wait for the command", &e))?,
            () = tokio::time::sleep(limit) => {
                group.kill(&mut child).await;
                return Err(format!("no answer after {} s", self.spec.timeout_s));
            }
            () = cx.cancel.cancelled() => {
                group.kill(&mut child).await;
                return Err("interrupted".to_string());
            }
        };
        let both = async { (out.await.unwrap_or_default(), err.await.unwrap_or_default()) };
        let drained = tokio::time::timeout(DRAIN, both).await;
        // Whatever it left running goes with it.
        group.kill(&mut child).await;
        let (out, err) = drained.map_err(|_| "it ended, but something that it started still holds its output open")?;
        if !status.success() {
            let told = if err.trim().is_empty() { &out } else { &err };
            return Err(format!("{status}: {}", tail(told)));
        }
        let objects = objects(&out);
        let number = |(name, source): &(String, Source)| {
            let found = match source {
                Source::Json(pointer) => match objects.last() {
                    Some(object) => at_pointer(object, pointer),
                    None => Err(format!("it printed no JSON object, but: {}", tail(&out))),
                },
                Source::Regex(regex) => in_lines(regex, &out).or_else(|| in_lines(regex, &err)).map_or_else(
                    || Err(format!("no line of its output matches `{regex}`; it ends with: {}", tail(&out))),
                    |text| text.replace(',', "").parse::<f64>().map_err(|_| format!("`{text}` is no number")),
                ),
                Source::File(path, pointer) => {
                    let path = path.fill(&values).ok_or("its path has a parameter that is unset")?;
                    let path = folder.join(path);
                    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()));
                    text.and_then(|t| serde_json::from_str(&t).map_err(|e| format!("{}: {e}", path.display())))
                        .and_then(|object: Value| at_pointer(&object, pointer))
                }
            };
            let finite = found.and_then(|v| if v.is_finite() { Ok(v) } else { Err(format!("{v} is not finite")) });
            finite.map_err(|why| format!("metric `{name}`: {why}"))
        };
        self.metrics.iter().map(number).collect()
    }
}

fn at_pointer(object: &Value, pointer: &str) -> std::result::Result<f64, String> {
    match object.pointer(pointer) {
        Some(Value::Number(n)) => n.as_f64().ok_or_else(|| format!("{n} is no number")),
        Some(Value::String(s)) => s.parse().map_err(|_| format!("`{s}` at `{pointer}` is no number")),
        Some(other) => Err(format!("{} at `{pointer}` is no number", tail(&other.to_string()))),
        None => Err(format!("nothing at `{pointer}` in {}", tail(&object.to_string()))),
    }
}

/// The first group in the last line that matches.
fn in_lines<'a>(regex: &Regex, text: &'a str) -> Option<&'a str> {
    text.lines().rev().find_map(|line| Some(regex.captures(line)?.get(1)?.as_str()))
}

/// The JSON objects that begin at the start of a line, in their order.
fn objects(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let line = rest.find('\n').map_or(rest.len(), |n| n + 1);
        if rest.trim_start_matches([' ', '\t']).starts_with('{') {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            if let Some(Ok(object)) = stream.next() {
                at += stream.byte_offset().max(1);
                found.push(object);
                continue;
            }
        }
        at += line;
    }
    found
}

/// The end of a text, in one line.
fn tail(text: &str) -> String {
    let line = text.trim().replace(['\n', '\r'], " ");
    let skip = line.chars().count().saturating_sub(SHOWN);
    let end: String = line.chars().skip(skip).collect();
    match (skip, end.is_empty()) {
        (_, true) => "nothing".to_string(),
        (0, _) => end,
        _ => format!("...{end}"),
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // Whatever could be read counts.
        let _ = from.take(OUTPUT_MAX).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn remember(memo: &Memo, key: &Hash, metrics: &[(String, Source)], values: &[f64], seconds: f64) -> Result<()> {
    let names = || metrics.iter().map(|(name, _)| name);
    let schema = Arc::new(Schema::new(vec![
        Field::new("metric", DataType::Utf8, false),
        Field::new("value", DataType::Float64, false),
    ]));
    let rows = RecordBatch::try_new(
        schema.clone(),
        vec![Arc::new(StringArray::from_iter_values(names())), Arc::new(Float64Array::from(values.to_vec()))],
    );
    let rows = rows.map_err(|e| Failure::stage("optimize::external", e.to_string()))?;
    let by_name: Map<String, Value> = names().cloned().zip(values.iter().map(|v| json!(v))).collect();
    let summary = json!({ "metrics": by_name, "seconds": seconds });
    memo.put(schema, &[rows], &[MemoEntry { key: key.clone(), rows: values.len() as u64, summary }])
}

/// The processes of a command: it and all that it started.
struct Group(Option<u32>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(child.id())
    }

    async fn kill(&self, child: &mut Child) {
        #[cfg(unix)]
        if let Some(group) = self.0.and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        // Gone already, most of the time.
        let _ = child.kill().await;
    }
}
