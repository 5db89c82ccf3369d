//! ServeGen's client folders: `chunk-<i>-trace.csv` and `chunk-<i>-dataset.json`.
//!
//! A line of a trace is `start_s,rate_rps,cv,pattern,shape,scale`, without a header; a window lasts until the next
//! line; pattern is `Gamma`, `Weibull` or nothing (the client is idle). A dataset has distributions by the time from
//! which they hold: each is the text of a Python dictionary `{tokens: share, ...}`, of which those with an empty one
//! are passed over; `reason_ratio` has shares of equally spaced ratios from 0 to 1. What is drawn how is said in the
//! kernel's `windows.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_kernel::scenario::Gamma;
use pipe_kernel::workload::{
    ArrivalProcess, Body, Client, Clients, Correlation, Empirical, Field, LengthSet, Lengths, MAX_TOKENS, Weibull,
    Window, Windows,
};
use serde_json::Value;

use super::{Read, empty};
use crate::diag::{Diagnostic, Span};
use crate::spec::{FilePath, Servegen, ServegenScale};

/// The files of the folder, by the number of their client. A folder that is not there has none.
pub(in crate::stage::synthesize) fn files(settings: &Servegen) -> Vec<FilePath> {
    let of = |name: String| FilePath {
        written: format!("{}/{name}", settings.path.written.trim_end_matches('/')),
        path: settings.path.path.join(&name),
        at: settings.path.at.clone(),
    };
    chunks(&settings.path.path)
        .into_iter()
        .flat_map(|(number, dataset)| {
            let trace = of(format!("chunk-{number}-trace.csv"));
            [trace].into_iter().chain(dataset.then(|| of(format!("chunk-{number}-dataset.json"))))
        })
        .collect()
}

/// Numbers of the clients that have a trace, and whether they have a dataset.
fn chunks(folder: &Path) -> BTreeMap<u32, bool> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    let number = |name: &str, end: &str| name.strip_prefix("chunk-")?.strip_suffix(end)?.parse::<u32>().ok();
    let datasets: Vec<u32> = names.iter().filter_map(|n| number(n, "-dataset.json")).collect();
    let traces = names.iter().filter_map(|n| number(n, "-trace.csv"));
    traces.map(|n| (n, datasets.contains(&n))).collect()
}

/// A line of a trace.
struct Line {
    start_s: f64,
    rate_rps: f64,
    /// `None` where the client is idle.
    process: Option<ArrivalProcess>,
}

/// A client with lengths.
struct Chunk {
    number: u32,
    lines: Vec<Line>,
    /// By the time from which they hold.
    sets: Vec<(f64, LengthSet)>,
}

/// # Errors
/// The folder has no clients with lengths; a file is malformed.
pub(super) fn read(
    settings: &Servegen,
    rate_rps: Option<f64>,
    duration_s: Option<f64>,
) -> Result<Read, Vec<Diagnostic>> {
    let at = settings.path.at.clone();
    let wrong = |message: String| vec![Diagnostic::new("synthesize::servegen", message).at(at.clone())];
    let written = &settings.path.written;
    let all = chunks(&settings.path.path);
    if all.is_empty() {
        return Err(wrong(format!("`{written}` is no folder of ServeGen: it has no `chunk-<number>-trace.csv`")));
    }
    if !(settings.from_s.is_finite() && settings.from_s >= 0.0) {
        return Err(wrong(format!("`from_s` must be a number from 0 up, not {}", settings.from_s)));
    }
    if let Some(rate) = rate_rps.filter(|r| !(r.is_finite() && *r > 0.0)) {
        return Err(wrong(format!("`rate_rps` must be a number above 0, not {rate}")));
    }
    if rate_rps.is_none() && settings.scale == ServegenScale::EveryWindow {
        return Err(wrong("`scale: every_window` needs `rate_rps`".to_string()));
    }
    let mut problems = Vec::new();
    let mut chunks = Vec::new();
    let mut without = 0;
    for (number, dataset) in all {
        if !dataset {
            without += 1;
            continue;
        }
        match chunk(settings, number) {
            Ok(chunk) => chunks.push(chunk),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut warnings = Vec::new();
    if without > 0 {
        warnings.push(format!("{without} clients of `{written}` have no dataset and are left out"));
    }
    let ends = chunks.iter().filter_map(|c| Some(c.lines.last()?.start_s + width(&c.lines)));
    let end = ends.fold(0.0f64, f64::max);
    let until = duration_s.map_or(end, |s| (settings.from_s + s).min(end));
    if chunks.iter().all(|c| c.sets.is_empty()) || until <= settings.from_s {
        return Err(wrong(format!("`{written}` has no windows with lengths from {} s to {until} s", settings.from_s)));
    }
    let (clients, left_out) = clients(chunks, settings, (settings.from_s, until), rate_rps);
    if left_out > 0 {
        warnings.push(format!("{left_out} windows of clients lie before their first lengths and are left out"));
    }
    if clients.is_empty() {
        return Err(wrong(format!("no client of `{written}` sends anything from {} s to {until} s", settings.from_s)));
    }
    let clients = Clients { clients, requests: None, duration_s: Some(duration_s.unwrap_or(until - settings.from_s)) };
    Ok(Read { clients, warnings, refused: Vec::new() })
}

/// The width of the last window: that of the one before.
fn width(lines: &[Line]) -> f64 {
    lines.len().checked_sub(2).map_or(600.0, |i| lines[i + 1].start_s - lines[i].start_s)
}

/// Clients of windows with a rate and lengths, and the number of windows without lengths.
fn clients(
    chunks: Vec<Chunk>,
    settings: &Servegen,
    (from, until): (f64, f64),
    rate_rps: Option<f64>,
) -> (Vec<Client>, usize) {
    let mut left_out = 0;
    let mut parts: Vec<(u32, Vec<LengthSet>, Vec<Window>)> = Vec::new();
    for Chunk { number, lines, sets } in chunks {
        let mut windows = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let end = lines.get(i + 1).map_or_else(|| line.start_s + width(&lines), |next| next.start_s);
            let (start, end) = (line.start_s.max(from), end.min(until));
            let Some(process) = line.process.clone().filter(|_| start < end && line.rate_rps > 0.0) else { continue };
            let Some(set) = sets.partition_point(|(at, _)| *at <= line.start_s).checked_sub(1) else {
                left_out += 1;
                continue;
            };
            let (start_s, end_s) = (start - from, end - from);
            windows.push(Window { start_s, end_s, rate_rps: line.rate_rps, process, set: set as u32 });
        }
        if !windows.is_empty() {
            parts.push((number, sets.into_iter().map(|(_, set)| set).collect(), windows));
        }
    }
    if let Some(rate) = rate_rps {
        let all = || parts.iter().flat_map(|(_, _, windows)| windows);
        match settings.scale {
            ServegenScale::Mean => {
                let total: f64 = all().map(|w| (w.end_s - w.start_s) * w.rate_rps).sum();
                let factor = rate * (until - from) / total;
                parts.iter_mut().flat_map(|(_, _, windows)| windows).for_each(|w| w.rate_rps *= factor);
            }
            ServegenScale::EveryWindow => {
                let key = |w: &Window| (w.start_s * 1e3) as i64;
                let mut totals: BTreeMap<i64, f64> = BTreeMap::new();
                all().for_each(|w| *totals.entry(key(w)).or_default() += w.rate_rps);
                for window in parts.iter_mut().flat_map(|(_, _, windows)| windows) {
                    window.rate_rps *= rate / totals[&key(window)];
                }
            }
        }
    }
    let made = parts.into_iter().map(|(number, sets, windows)| {
        let windows = Windows { base: empty(), windows, sets };
        Client::new(format!("chunk-{number}"), Body::Windows(Box::new(windows)))
    });
    (made.collect(), left_out)
}

fn chunk(settings: &Servegen, number: u32) -> Result<Chunk, Diagnostic> {
    let folder = settings.path.written.trim_end_matches('/');
    let read = |name: &str| {
        let path = settings.path.path.join(name);
        std::fs::read_to_string(&path).map_err(|e| {
            Diagnostic::new("synthesize::servegen", format!("cannot read `{folder}/{name}`: {e}"))
                .at(settings.path.at.clone())
        })
    };
    let name = format!("chunk-{number}-trace.csv");
    let lines = lines(&read(&name)?, &format!("{folder}/{name}"))?;
    let name = format!("chunk-{number}-dataset.json");
    let sets = sets(&read(&name)?, &format!("{folder}/{name}"))?;
    Ok(Chunk { number, lines, sets })
}

fn problem(file: &str, line: u32, column: u32, message: String) -> Diagnostic {
    let at = Span { file: file.into(), line, column, len: 1 };
    Diagnostic::new("synthesize::servegen", message).at(Some(at))
}

fn lines(text: &str, file: &str) -> Result<Vec<Line>, Diagnostic> {
    let mut made: Vec<Line> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let mut column = 1;
        let mut fields: Vec<(u32, &str)> = Vec::new();
        for field in line.split(',') {
            fields.push((column, field.trim()));
            column += field.len() as u32 + 1;
        }
        let wrong = |column: u32, message: String| problem(file, number, column, message);
        let [start, rate, cv, pattern, shape, scale] = fields.as_slice() else {
            let message = format!("expected 6 fields (start, rate, cv, pattern, shape, scale), found {}", fields.len());
            return Err(wrong(1, message));
        };
        let value = |(column, text): &(u32, &str), what: &str| match text.parse::<f64>() {
            Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
            _ => Err(wrong(*column, format!("the {what} is `{text}`: expected a number from 0 up"))),
        };
        let (start_s, rate_rps) = (value(start, "start of the window")?, value(rate, "rate")?);
        value(cv, "cv")?;
        let (k, _) = (value(shape, "shape")?, value(scale, "scale")?);
        let process = match pattern.1 {
            "" => None,
            _ if k <= 0.0 => {
                return Err(wrong(shape.0, format!("the shape is `{}`: expected a number above 0", shape.1)));
            }
            // The scale goes when the gaps are stretched to fill the window.
            "Gamma" => Some(ArrivalProcess::Gamma(Gamma { cv: (1.0 / k.sqrt()).clamp(0.001, 1000.0) })),
            "Weibull" => Some(ArrivalProcess::Weibull(Weibull { cv: None, shape: Some(k.clamp(0.2, 120.0)) })),
            other => {
                return Err(wrong(pattern.0, format!("the pattern is `{other}`: expected Gamma, Weibull or nothing")));
            }
        };
        if made.last().is_some_and(|last| start_s <= last.start_s) {
            return Err(wrong(start.0, format!("the window starts at {start_s} s, not after the one before")));
        }
        made.push(Line { start_s, rate_rps, process });
    }
    Ok(made)
}

fn sets(text: &str, file: &str) -> Result<Vec<(f64, LengthSet)>, Diagnostic> {
    let json: Value = serde_json::from_str(text)
        .map_err(|e| problem(file, e.line() as u32, e.column().max(1) as u32, format!("this is no JSON: {e}")))?;
    let Value::Object(windows) = json else {
        return Err(problem(file, 1, 1, "expected a map of windows".to_string()));
    };
    let mut made: Vec<(f64, LengthSet)> = Vec::new();
    for (key, fields) in &windows {
        let line = line_of(text, key);
        let wrong = |message: String| problem(file, line, 1, message);
        let start: f64 = key.parse().map_err(|_| wrong(format!("`{key}` is no start of a window in seconds")))?;
        let Value::Object(fields) = fields else { return Err(wrong(format!("window {key} is no map of fields"))) };
        let mut read: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for (name, value) in fields {
            let known = ["input_tokens", "text_tokens", "output_tokens", "reason_ratio"].contains(&name.as_str())
                || ["image", "audio", "video"]
                    .iter()
                    .any(|m| name.strip_prefix(m).is_some_and(|rest| rest == "_tokens" || rest == "_count"));
            if !known {
                return Err(wrong(format!("window {key}: `{name}` is no field of ServeGen")));
            }
            let text = value.as_str().ok_or_else(|| wrong(format!("window {key}: `{name}` is no text")))?;
            let pairs = python(text).map_err(|why| wrong(format!("window {key}: `{name}`: {why}")))?;
            read.insert(name, pairs);
        }
        if read.values().any(Vec::is_empty) {
            continue;
        }
        if let Some(set) = set(&read).map_err(|why| wrong(format!("window {key}: {why}")))? {
            made.push((start, set));
        }
    }
    made.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(made)
}

/// The line of a window: where its key first stands.
fn line_of(text: &str, key: &str) -> u32 {
    let at = text.find(&format!("\"{key}\"")).unwrap_or(0);
    text[..at].matches('\n').count() as u32 + 1
}

/// The distributions of a window; `None` where it has no lengths.
fn set(read: &BTreeMap<&str, Vec<(f64, f64)>>) -> Result<Option<LengthSet>, String> {
    let whole = |pairs: &[(f64, f64)]| -> Result<Vec<(u32, f64)>, String> {
        let one = |(value, share): &(f64, f64)| {
            let fits = value.fract() == 0.0 && (0.0..=f64::from(MAX_TOKENS)).contains(value);
            let value = if fits { Ok(*value as u32) } else { Err(format!("{value} is no number of tokens")) };
            value.map(|v| (v, *share))
        };
        pairs.iter().map(one).collect()
    };
    let lengths = |pairs: &[(f64, f64)]| -> Result<Lengths, String> {
        let (values, weights) = whole(pairs)?.into_iter().map(|(v, share)| (v.max(1), share)).unzip();
        Ok(Lengths::Empirical(Empirical { values, weights, from: None, column: None }))
    };
    let input = read.get("input_tokens").or_else(|| read.get("text_tokens"));
    let (Some(input), Some(output)) = (input, read.get("output_tokens")) else { return Ok(None) };
    let mut fields = Vec::new();
    if let Some(ratios) = read.get("reason_ratio") {
        fields.push(Field::Reasoning(ratios.iter().map(|(_, share)| *share).collect()));
    }
    for medium in ["image", "audio", "video"] {
        let of = |what: &str| read.get(format!("{medium}_{what}").as_str());
        if let (Some(count), Some(tokens)) = (of("count"), of("tokens")) {
            fields.push(Field::Media { count: whole(count)?, tokens: whole(tokens)? });
        }
    }
    let (input, output) = (lengths(input)?, lengths(output)?);
    Ok(Some(LengthSet { input, output, correlation: Correlation::Comonotone, fields }))
}

/// A Python dictionary `{1: 0.5, 2: 0.5}`, or a list of shares, in order of the text.
fn python(text: &str) -> Result<Vec<(f64, f64)>, String> {
    let text = text.trim();
    let between = |open: char, close: char| text.strip_prefix(open)?.strip_suffix(close);
    let number = |text: &str| {
        let value = text.trim().parse::<f64>().ok().filter(|v| v.is_finite());
        value.ok_or_else(|| format!("`{}` is no number", text.trim()))
    };
    let entries = |inner: &'_ str| -> Vec<String> {
        inner.split(',').map(str::trim).filter(|e| !e.is_empty()).map(str::to_string).collect()
    };
    let pairs: Result<Vec<(f64, f64)>, String> = if let Some(inner) = between('{', '}') {
        let entry = |entry: &String| {
            let (key, share) = entry.split_once(':').ok_or_else(|| format!("`{entry}` is no `value: share`"))?;
            Ok((number(key)?, number(share)?))
        };
        entries(inner).iter().map(entry).collect()
    } else if let Some(inner) = between('[', ']') {
        entries(inner).iter().enumerate().map(|(i, share)| Ok((i as f64, number(share)?))).collect()
    } else {
        return Err("expected a Python dictionary, as {1: 0.5, 2: 0.5}".to_string());
    };
    let pairs = pairs?;
    if let Some((value, share)) = pairs.iter().find(|(_, share)| *share < 0.0) {
        return Err(format!("the share of {value} is {share}"));
    }
    if !pairs.is_empty() && pairs.iter().all(|(_, share)| *share == 0.0) {
        return Err("all shares are 0".to_string());
    }
    Ok(pairs)
}
