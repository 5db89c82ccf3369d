//! Runs of real servers: the requests, sorted and numbered, and beside them what was measured of each.
//!
//! Such files are of thousands of requests, not of millions: all rows are held. One run is read; its first arrival is time
//! 0 in both tables, and a request has the same number in both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type};

use super::arrow;
use super::job::{Job, hashed};
use super::rejects::Rejects;
use super::report::{FileReport, Report};
use super::rows::chain_hashes;
use crate::diag::{self, Diagnostic, Exit, Failure, Result, nearest};
use crate::spec::{FilePath, Format};
use crate::table::{measured, requests};
use crate::trace::measured::{Measured, Raw, settle};
use crate::trace::{self, Parsed, Problem, Settings};

/// The rows of all files, side by side.
struct File {
    format: Format,
    rows: RecordBatch,
    /// Number of the file, and line in it.
    lines: Vec<(usize, u64)>,
    raws: Vec<Raw>,
}

pub(super) fn run(job: &Job) -> Result<Report> {
    let mut rejects = Rejects::new(&job.cx, job.on_error)?;
    let (file, mut report) = read(job, &mut rejects)?;
    let all = file.rows.num_rows();
    let mut file = one_run(job, file)?;
    report.cut = job.limit.filter(|limit| file.rows.num_rows() as u64 == *limit && file.rows.num_rows() < all);
    if let Some(tokens) = &job.tokens {
        file.rows = with_hashes(job, tokens, &file)?;
    }
    let warmup = header(job.header.as_deref(), &job.settings[0].written)?;
    let (rows, measured) = settled(job, file, warmup, &mut rejects, &mut report)?;
    rejects.finish(rows.num_rows() as u64)?;
    write(job, &rows, &measured)?;
    Ok(report)
}

fn read(job: &Job, rejects: &mut Rejects) -> Result<(File, Report)> {
    let (mut batches, mut lines, mut raws) = (Vec::new(), Vec::new(), Vec::new());
    let mut report = Report::default();
    let mut format = Format::Auto;
    for (i, settings) in job.settings.iter().enumerate() {
        let mut seen = FileReport::new(&settings.written);
        // Requests of other runs do not count against the limit: it is applied once the run is known.
        job.read(settings, &mut seen, |parser, parsed: Parsed, seen| {
            format = parser.format();
            rejects.add(&settings.written, &parsed.problems)?;
            seen.reject(&parsed.problems);
            seen.counts += parsed.counts;
            seen.good += parsed.rows.num_rows() as u64;
            seen.chained += hashed(&parsed);
            batches.push(parsed.rows);
            lines.extend(parsed.lines.into_iter().map(|line| (i, line)));
            raws.extend(parsed.measured);
            Ok(ControlFlow::Continue(()))
        })?;
        report.files.push(seen);
    }
    rejects.check()?;
    let rows = concat_batches(&requests::schema(), &batches).map_err(arrow)?;
    Ok((File { format, rows, lines, raws }, report))
}

/// The rows of the run that is asked for, up to the limit.
fn one_run(job: &Job, file: File) -> Result<File> {
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    file.raws.iter().for_each(|raw| *runs.entry(&raw.run).or_default() += 1);
    let wanted = match (&job.run, runs.len()) {
        (None, 0 | 1) => None,
        (None, _) => {
            let what = format!("{} has {} runs, each with a time of its own", job.written(), runs.len());
            return Err(refused(what, format!("choose one with `run: ...`: {}", list(&runs))));
        }
        (Some(run), _) if runs.contains_key(run.as_str()) => Some(run.clone()),
        (Some(run), _) => {
            let help = match nearest(run, runs.keys().copied()) {
                Some(near) => format!("did you mean `{near}`? It has {}", list(&runs)),
                None => format!("it has {}", list(&runs)),
            };
            return Err(refused(format!("{} has no run `{run}`", job.written()), help));
        }
    };
    let chosen = |raw: &Raw| wanted.as_ref().is_none_or(|run| raw.run == *run);
    let limit = usize::try_from(job.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let keep: Vec<usize> = (0..file.raws.len()).filter(|i| chosen(&file.raws[*i])).take(limit).collect();
    let File { format, rows, lines, mut raws } = file;
    let lines = keep.iter().map(|i| lines[*i]).collect();
    let rows = taken(&rows, &keep)?;
    let raws = keep.iter().map(|i| std::mem::take(&mut raws[*i])).collect();
    Ok(File { format, rows, lines, raws })
}

fn refused(what: String, help: String) -> Failure {
    let diagnostic = Diagnostic::new("ingest::run", what).help(help);
    Failure { exit: Exit::Stage, diagnostics: vec![diagnostic] }
}

fn list(runs: &BTreeMap<&str, usize>) -> String {
    let all = runs.iter().take(20).map(|(run, n)| format!("`{run}` ({n} requests)"));
    let more = if runs.len() > 20 { ", ..." } else { "" };
    format!("{}{more}", all.collect::<Vec<_>>().join(", "))
}

fn taken(rows: &RecordBatch, places: &[usize]) -> Result<RecordBatch> {
    let places = UInt32Array::from_iter_values(places.iter().map(|i| *i as u32));
    take_record_batch(rows, &places).map_err(arrow)
}

/// The rows with the hashes of the workload that the benchmark sent.
fn with_hashes(job: &Job, tokens: &FilePath, file: &File) -> Result<RecordBatch> {
    let mut settings = Settings::new(tokens.path.clone(), tokens.written.clone(), Format::Llmservingsim);
    settings.block_tokens = job.settings[0].block_tokens;
    let (parser, mut chunks) = trace::open(&settings, Box::new(|_| ()))?;
    let mut batches = Vec::new();
    while let Some(chunk) = chunks.next_chunk()? {
        let parsed = parser.parse(chunk)?;
        if let Some(problem) = parsed.problems.first() {
            return Err(Failure { exit: Exit::Stage, diagnostics: vec![problem.diagnostic(&tokens.written)] });
        }
        batches.push(chain_hashes(parsed.rows)?);
    }
    let workload = concat_batches(&requests::schema(), &batches).map_err(arrow)?;
    let places = matched(job, tokens, file, &workload)?;
    let workload = taken(&workload, &places)?;
    let mut columns = file.rows.columns().to_vec();
    for name in ["block_hashes", "block_tokens"] {
        let at = requests::schema().index_of(name).map_err(arrow)?;
        columns[at] = workload.column(at).clone();
    }
    RecordBatch::try_new(file.rows.schema(), columns).map_err(arrow)
}

/// Which request of the workload each row is: by the number at the end of its name where all have one of their own, else
/// by its place. Their lengths must agree.
fn matched(job: &Job, tokens: &FilePath, file: &File, workload: &RecordBatch) -> Result<Vec<usize>> {
    let number = |raw: &Raw| {
        let digits = raw.name.bytes().rev().take_while(u8::is_ascii_digit).count();
        raw.name[raw.name.len() - digits..].parse::<usize>().ok()
    };
    let named: Option<Vec<usize>> = file.raws.iter().map(number).collect();
    let distinct = |places: &Vec<usize>| {
        let mut sorted = places.clone();
        sorted.sort_unstable();
        sorted.windows(2).all(|w| w[0] != w[1])
    };
    let places = named.filter(distinct).unwrap_or_else(|| (0..file.raws.len()).collect());
    let lengths = |rows: &RecordBatch, name: &str| -> Vec<i32> {
        let column = rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int32Type>());
        column.map(|c| c.values().to_vec()).unwrap_or_default()
    };
    for name in ["input_tokens", "output_tokens"] {
        let (ours, theirs) = (lengths(&file.rows, name), lengths(workload, name));
        let differs = |(row, place): (usize, &usize)| theirs.get(*place) != Some(&ours[row]);
        let Some(row) = places.iter().enumerate().position(differs) else { continue };
        let there = theirs.get(places[row]).map_or("nothing".to_string(), |n| n.to_string());
        let what = format!(
            "{} line {}: `{name}` is {}, and {there} in request {} of {}",
            job.settings[file.lines[row].0].written, file.lines[row].1, ours[row], places[row], tokens.written
        );
        let help = "`tokens` is the file that the benchmark took its requests from, with at least as many of them";
        let diagnostic = Diagnostic::new("ingest::tokens", what).at(tokens.at.clone()).help(help);
        return Err(Failure { exit: Exit::Stage, diagnostics: vec![diagnostic] });
    }
    Ok(places)
}

/// Requests at the start that the header of the trace counts as warm-up.
fn header(path: Option<&Path>, written: &str) -> Result<usize> {
    let Some(path) = path else { return Ok(0) };
    let bytes = trace::read_bytes(path).map_err(|e| diag::io(path, "read", &e))?;
    let name = Path::new(written).with_extension("yaml").display().to_string();
    Ok(trace::trace_v2_header(&String::from_utf8_lossy(&bytes), &name)?.warm_up_requests)
}

/// Rows in the order of their arrivals, from time 0, and what was measured of them.
fn settled(
    job: &Job,
    file: File,
    warmup: usize,
    rejects: &mut Rejects,
    report: &mut Report,
) -> Result<(RecordBatch, Vec<Measured>)> {
    let arrivals = integers(&file.rows, "arrival_ns");
    let outputs = file.rows.column_by_name("output_tokens").and_then(|c| c.as_primitive_opt::<Int32Type>());
    let outputs = outputs.map(|c| c.values().to_vec()).unwrap_or_default();
    let mut good = Vec::new();
    for (i, row) in settle(file.format, &file.raws, &arrivals, &outputs, warmup).into_iter().enumerate() {
        match row {
            Ok(row) => good.push((i, row)),
            Err(reason) => {
                let (of, line) = file.lines[i];
                let problem = [Problem { line, column: 1, reason, text: String::new() }];
                rejects.add(&job.settings[of].written, &problem)?;
                report.files[of].reject(&problem);
                report.files[of].good -= 1;
            }
        }
    }
    rejects.check()?;
    for (i, _) in &good {
        report.files[file.lines[*i].0].requests += 1;
    }
    report.requests = good.len() as u64;
    report.late = good.windows(2).filter(|w| arrivals[w[1].0] < arrivals[w[0].0]).count() as u64;
    // Stable: requests of one instant stay in the order of the file.
    good.sort_by_key(|(i, _)| arrivals[*i]);
    report.ties = good.windows(2).filter(|w| arrivals[w[1].0] == arrivals[w[0].0]).count() as u64;
    let places: Vec<usize> = good.iter().map(|(i, _)| *i).collect();
    let rows = taken(&file.rows, &places)?;
    let first = places.first().and_then(|i| arrivals[*i]);
    let columns = rows.columns().iter().enumerate().map(|(i, column)| match i {
        0 => Arc::new(Int64Array::from_iter_values(0..places.len() as i64)) as ArrayRef,
        1 => Arc::new(Int64Array::from_iter(places.iter().map(|i| Some(arrivals[*i]? - first?)))),
        _ => column.clone(),
    });
    let rows = RecordBatch::try_new(rows.schema(), columns.collect()).map_err(arrow)?;
    Ok((rows, good.into_iter().map(|(_, row)| row).collect()))
}

fn integers(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    let column = rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
    column.map(|c| c.iter().collect()).unwrap_or_default()
}

pub(super) fn table_name(stage: &str) -> String {
    format!("{stage}_measured")
}

fn write(job: &Job, rows: &RecordBatch, measured: &[Measured]) -> Result<()> {
    let rows = &observed(rows, measured)?;
    let mut writer = job.cx.out.table(&job.cx.stage, rows.schema())?;
    writer.write(rows)?;
    writer.finish()?;
    let mut writer = job.cx.out.table(&table_name(&job.cx.stage), measured::schema())?;
    writer.write(&measured_rows(rows, measured)?)?;
    writer.finish()
}

/// The requests with what was measured of each, which stays with them through other stages.
fn observed(rows: &RecordBatch, measured: &[Measured]) -> Result<RecordBatch> {
    let times =
        |f: fn(&Measured) -> Option<i64>| -> ArrayRef { Arc::new(Int64Array::from_iter(measured.iter().map(f))) };
    let status = StringArray::from_iter_values(measured.iter().map(|m| m.status.as_str()));
    let given: [(&str, ArrayRef); 5] = [
        ("observed_queue_ns", times(|m| m.queue_ns)),
        ("observed_ttft_ns", times(|m| m.ttft_ns)),
        ("observed_tpot_ns", times(|m| m.tpot_ns)),
        ("observed_e2e_ns", times(|m| m.e2e_ns)),
        ("observed_status", Arc::new(status)),
    ];
    let mut columns = rows.columns().to_vec();
    for (name, column) in given {
        columns[rows.schema().index_of(name).map_err(arrow)?] = column;
    }
    RecordBatch::try_new(rows.schema(), columns).map_err(arrow)
}

fn measured_rows(rows: &RecordBatch, measured: &[Measured]) -> Result<RecordBatch> {
    let same = |name: &str| rows.column_by_name(name).cloned().unwrap_or_else(|| Arc::new(Int64Array::new_null(0)));
    let outputs = same("output_tokens");
    let outputs = outputs.as_primitive::<Int32Type>().iter().zip(measured);
    let texts =
        |f: fn(&Measured) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(measured.iter().map(f))) };
    let times =
        |f: fn(&Measured) -> Option<i64>| -> ArrayRef { Arc::new(Int64Array::from_iter(measured.iter().map(f))) };
    let columns: Vec<ArrayRef> = vec![
        texts(|m| &m.run),
        same("request_id"),
        same("arrival_ns"),
        same("input_tokens"),
        Arc::new(Int32Array::from_iter(outputs.map(|(n, m)| n.filter(|_| !m.no_reply)))),
        times(|m| m.queue_ns),
        times(|m| m.ttft_ns),
        times(|m| m.tpot_ns),
        times(|m| m.e2e_ns),
        times(|m| m.prefill_ns),
        times(|m| m.decode_ns),
        texts(|m| &m.status),
    ];
    RecordBatch::try_new(measured::schema(), columns).map_err(arrow)
}
