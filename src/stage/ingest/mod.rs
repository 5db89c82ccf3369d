//! `ingest`: a trace file to a table of requests.
//!
//! Promises: rows depend on the content of the file and the settings, never on threads or chunks. The trace starts
//! with its first arrival: `arrival_ns` is the time since then. Rows are sorted by arrival; those of one instant stay
//! in the order of the file. Block hashes are chained over the identifiers of the file, so that they keep the promise
//! of the table also for files whose identifiers name a block alone.
//!
//! A file of a server's run also makes `<stage>_measured`: see `measured.rs`.
//!
//! Rows are held until the end of the file shows whether they are in order: a plain row takes 16 bytes. A file whose
//! rows take more than half a GiB is read twice: once to see whether it is in order, once to write it through, with
//! bounded memory, or to sort it, in memory. Rows without arrivals have no order, and are written as they come.

mod measured;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use serde_json::{Value, json};

pub(super) use self::rows::chain_hashes;
use self::rows::{Mode, Requests};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{BadRows, Columns, FilePath, Format, Ingest, Text, TimeUnit};
use crate::store::TableWriter;
use crate::table::column;
use crate::trace::{self, Conversation, Parsed, Problem, Settings, ordered::ordered};

/// Bad rows that are reported at once.
const PROBLEMS_MAX: usize = 20;

#[async_trait]
impl Kind for Ingest {
    fn kind(&self) -> &'static str {
        "ingest"
    }

    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(Vec::new())
    }

    fn files(&self) -> Vec<FilePath> {
        std::iter::once(self.path.clone()).chain(self.tokens.clone()).chain(self.header()).collect()
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let looks = trace::looks(&self.settings()).ok();
        let schema = looks.as_ref().map(|parser| parser.layout().schema());
        let mut tables = vec![TableShape { name: stage.to_string(), schema }];
        if looks.map_or_else(|| self.is_measured(), |parser| parser.measures()) {
            let schema = Some(crate::table::measured::schema());
            tables.push(TableShape { name: measured::table_name(stage), schema });
        }
        if self.bad_rows == BadRows::Reject {
            tables.push(TableShape { name: rejected_name(stage), schema: Some(rejected_schema()) });
        }
        tables
    }

    fn check(&self, _stage: &str, _cx: &CheckCx) -> Vec<Diagnostic> {
        let at = self.path.at.as_ref();
        let mut found = Vec::new();
        // A file that is not there is reported by whoever hashes it.
        let looks = self.path.path.is_file().then(|| trace::looks(&self.settings()));
        let format = match looks {
            Some(Err(failure)) => {
                found.extend(failure.or_at(at).diagnostics);
                self.format
            }
            Some(Ok(parser)) => parser.format(),
            None => self.format,
        };
        let mut refuse = |code: &'static str, message: &str, help: &str| {
            found.push(Diagnostic::new(code, message).at(at.cloned()).help(help));
        };
        if has_own_names(self.format) {
            let help = "leave it out, or read the file as `jsonl`, `csv` or `parquet`";
            let given = [
                ("ingest::columns", "columns", self.columns != Columns::default()),
                ("ingest::time_unit", "time_unit", self.time_unit != TimeUnit::default()),
                ("ingest::measured", "measured", self.measured.is_some()),
            ];
            for (code, key, _) in given.into_iter().filter(|(.., given)| *given) {
                let what = format!("`{key}` is for `csv`, `jsonl` and `parquet`: this format has its own");
                refuse(code, &what, help);
            }
        }
        let has_runs = matches!(format, Format::Otel | Format::Guidellm)
            || self.measured.as_ref().is_some_and(|m| m.run.is_some());
        if self.run.is_some() && !has_runs && format != Format::Auto {
            let help = "leave it out; a generic file names the column with `measured: { run: ... }`";
            refuse("ingest::run", "`run` is for files that say which run of a server a row belongs to", help);
        }
        if self.tokens.is_some() && !matches!(format, Format::VllmBench | Format::Auto) {
            let help = "leave it out: other formats have their block hashes in the file itself";
            refuse("ingest::tokens", "`tokens` is for `vllm_bench`", help);
        }
        let Columns { input_tokens, output_tokens, input, output, .. } = &self.columns;
        if (input_tokens.is_some() || output_tokens.is_some()) && (input.is_some() || output.is_some()) {
            let help = "with counts the texts are not needed; with texts, the stage `tokenize` counts";
            refuse("ingest::columns", "`columns` names token counts and texts: expected one of them", help);
        }
        if self.limit == Some(0) {
            refuse("ingest::limit", "`limit` is 0: expected at least 1", "leave it out to read all requests");
        }
        if self.block_tokens.is_some_and(|n| n == 0 || n > trace::MAX_TOKENS as u32) {
            let message = format!("`block_tokens` is out of range: expected 1 to {}", trace::MAX_TOKENS);
            refuse("ingest::block_tokens", &message, "vLLM's default is 16; Mooncake's traces have 512");
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Ingest { path: _, format, columns, time_unit, measured, run, tokens, block_tokens, bad_rows, limit } = self;
        // What `auto` finds follows from the content of the file, which enters the fingerprint by its hash.
        json!({
            "format": format,
            "columns": columns,
            "time_unit": time_unit,
            "measured": measured,
            "run": run,
            "tokens": tokens.is_some(),
            "block_tokens": block_tokens,
            "bad_rows": bad_rows,
            "limit": limit,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let job = Job {
            settings: self.settings(),
            bad_rows: self.bad_rows,
            limit: self.limit,
            run: self.run.clone(),
            tokens: self.tokens.clone(),
            header: self.header().map(|h| h.path),
            cx,
        };
        super::tokenize::blocking(move || job.run()).await
    }
}

impl Ingest {
    fn settings(&self) -> Settings {
        Settings {
            path: self.path.path.clone(),
            written: self.path.written.clone(),
            format: self.format,
            columns: self.columns.clone(),
            time_unit: self.time_unit,
            block_tokens: self.block_tokens,
            measured: self.measured.clone(),
        }
    }

    /// Whether the settings alone say that there are measured times.
    fn is_measured(&self) -> bool {
        let measured = [
            Format::VllmBench,
            Format::Otel,
            Format::TraceV2,
            Format::VllmResult,
            Format::Guidellm,
            Format::Aiperf,
            Format::InferencePerf,
        ];
        self.measured.is_some() || measured.contains(&self.format)
    }

    /// The header beside a trace, where its format has one and it is there.
    fn header(&self) -> Option<FilePath> {
        let beside = |path: &std::path::Path| path.with_extension("yaml");
        let path = beside(&self.path.path);
        let format = match self.format {
            Format::Auto if path.is_file() && path != self.path.path => trace::looks(&self.settings()).ok()?.format(),
            format => format,
        };
        let written = beside(std::path::Path::new(&self.path.written)).display().to_string();
        (format == Format::TraceV2 && path.is_file()).then(|| FilePath { written, path, at: self.path.at.clone() })
    }
}

/// A format whose columns are what they are.
fn has_own_names(format: Format) -> bool {
    match format {
        Format::Mooncake
        | Format::Azure
        | Format::Apex
        | Format::Burstgpt
        | Format::Dynamo
        | Format::GuidellmTrace
        | Format::Ragpulse
        | Format::Splitwise
        | Format::Weka
        | Format::Vidur
        | Format::Sharegpt
        | Format::Llmservingsim
        | Format::VllmBench
        | Format::Otel
        | Format::TraceV2
        | Format::OpenaiChat
        | Format::OpenaiBatch
        | Format::VllmPrompts
        | Format::VllmResult
        | Format::Guidellm
        | Format::Aiperf
        | Format::GenaiPerf
        | Format::InferencePerf
        | Format::DetailedResults => true,
        Format::Auto | Format::Jsonl | Format::Csv | Format::Parquet => false,
    }
}

fn rejected_name(stage: &str) -> String {
    format!("{stage}_rejected")
}

/// Rows that could not be read.
fn rejected_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("file", DataType::Utf8, false, "", "The file, as written in the pipeline"),
        column("line", DataType::Int64, false, "", "Line, from 1; of Parquet files the row"),
        column("column", DataType::Int64, false, "", "Character in the line, from 1; of Parquet files the column"),
        column("reason", DataType::Utf8, false, "", "What is wrong, and what was expected"),
        column("text", DataType::Utf8, false, "", "The row, cut after 200 characters"),
    ]))
}

fn arrow(e: ArrowError) -> Failure {
    Failure::stage("ingest::arrow", format!("cannot put the rows together: {e}"))
}

struct Job {
    settings: Settings,
    bad_rows: BadRows,
    limit: Option<u64>,
    /// Of a file of several runs, the one to read.
    run: Option<String>,
    /// Where the numbers of the tokens are.
    tokens: Option<FilePath>,
    /// The header beside the trace.
    header: Option<PathBuf>,
    cx: RunCx,
}

impl Job {
    fn run(&self) -> Result<Outcome> {
        let size = std::fs::metadata(&self.settings.path).map_or(0, |m| m.len());
        self.cx.progress.0.total(size, "bytes");
        if trace::looks(&self.settings)?.measures() {
            measured::run(self)?;
            return Ok(Outcome::default());
        }
        let mut rejects = Rejects::new(self)?;
        let mut table = Requests::new(&self.cx, Mode::Hold);
        self.pass(&mut table, &mut rejects)?;
        if table.mode == Mode::Probe {
            self.cx.progress.0.total(2 * size, "bytes");
            table = Requests::new(&self.cx, if table.sorted { Mode::Stream } else { Mode::HoldAll });
            rejects.again();
            self.pass(&mut table, &mut rejects)?;
        }
        rejects.finish()?;
        table.finish()?;
        Ok(Outcome::default())
    }

    /// Reads the file from start to end.
    fn pass(&self, table: &mut Requests, rejects: &mut Rejects) -> Result<()> {
        let progress = self.cx.progress.clone();
        let (parser, mut chunks) = trace::open(&self.settings, Box::new(move |n| progress.0.advance(n)))?;
        table.schema = parser.layout().schema();
        let cancel = self.cx.cancel.clone();
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut conversations = Vec::new();
        let source = || chunks.next_chunk();
        let work = move |chunk| {
            cancel.check()?;
            let mut parsed = parser.parse(chunk)?;
            parsed.rows = chain_hashes(&parsed.rows)?;
            Ok(parsed)
        };
        ordered(&self.cx.pool, source, work, |mut parsed: Parsed| {
            conversations.append(&mut parsed.conversations);
            let full = cut(&mut parsed, left);
            left -= parsed.rows.num_rows() as u64;
            rejects.add(parsed.problems)?;
            if parsed.rows.num_rows() > 0 {
                table.push(&parsed.rows)?;
            }
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        rejects.check()?;
        self.write_conversations(&conversations, table)?;
        self.cx.cancel.check()
    }

    fn write_conversations(&self, conversations: &[Conversation], table: &mut Requests) -> Result<()> {
        let mut left = usize::try_from(self.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        trace::conversation_requests(conversations, |rows| {
            self.cx.cancel.check()?;
            let rows = rows.slice(0, left.min(rows.num_rows()));
            left -= rows.num_rows();
            table.push(&rows)?;
            Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }
}

/// Keeps the first `left` rows, and the problems up to the last of them. Says whether rows enough were there.
fn cut(parsed: &mut Parsed, left: u64) -> bool {
    let rows = parsed.rows.num_rows();
    let keep = usize::try_from(left).unwrap_or(usize::MAX);
    if rows < keep || keep == 0 {
        return keep == 0;
    }
    let last = parsed.lines[keep - 1];
    parsed.problems.retain(|p| p.line <= last);
    parsed.rows = parsed.rows.slice(0, keep);
    true
}

/// What becomes of bad rows.
struct Rejects<'a> {
    file: &'a str,
    /// Of the table of rejected rows; without it, problems are collected.
    writer: Option<TableWriter>,
    problems: Vec<Problem>,
    seen: usize,
    /// Problems at the start of this pass that an earlier pass has written.
    known: usize,
}

impl<'a> Rejects<'a> {
    fn new(job: &'a Job) -> Result<Self> {
        let writer = match job.bad_rows {
            BadRows::Fail => None,
            BadRows::Reject => Some(job.cx.out.table(&rejected_name(&job.cx.stage), rejected_schema())?),
        };
        Ok(Rejects { file: &job.settings.written, writer, problems: Vec::new(), seen: 0, known: 0 })
    }

    /// The file is read once more from its start.
    fn again(&mut self) {
        self.known = self.seen;
        self.seen = 0;
    }

    fn add(&mut self, problems: Vec<Problem>) -> Result<()> {
        let skip = self.known.saturating_sub(self.seen);
        self.seen += problems.len();
        let new: Vec<Problem> = problems.into_iter().skip(skip).collect();
        if new.is_empty() {
            return Ok(());
        }
        if let Some(writer) = &mut self.writer {
            return writer.write(&rejected_rows(self.file, &new)?);
        }
        self.problems.extend(new);
        if self.problems.len() >= PROBLEMS_MAX { self.check() } else { Ok(()) }
    }

    /// Fails if there are bad rows and they are not wanted in a table.
    fn check(&self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut diagnostics: Vec<Diagnostic> =
            self.problems.iter().take(PROBLEMS_MAX).map(|p| p.diagnostic(self.file)).collect();
        if let Some(last) = diagnostics.last_mut() {
            let stopped = if self.problems.len() >= PROBLEMS_MAX { "reading stopped here; " } else { "" };
            let help = "`bad_rows: reject` goes on without such rows and lists them in a table";
            last.help = Some(format!("{stopped}{help}"));
        }
        Err(Failure { exit: Exit::Stage, diagnostics })
    }

    fn finish(self) -> Result<()> {
        self.writer.map_or(Ok(()), TableWriter::finish)
    }
}

fn rejected_rows(file: &str, problems: &[Problem]) -> Result<RecordBatch> {
    let texts =
        |f: fn(&Problem) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(problems.iter().map(f))) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(problems.iter().map(|_| file))),
        Arc::new(Int64Array::from_iter_values(problems.iter().map(|p| p.line as i64))),
        Arc::new(Int64Array::from_iter_values(problems.iter().map(|p| i64::from(p.column)))),
        texts(|p| &p.reason),
        texts(|p| &p.text),
    ];
    RecordBatch::try_new(rejected_schema(), columns).map_err(arrow)
}
