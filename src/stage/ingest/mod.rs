//! `ingest`: trace files to a table of requests.
//!
//! Promises: rows depend on the content of the files, their order and the settings, never on threads, chunks or how files
//! are packed. The trace starts with its first arrival: `arrival_ns` is the time since then, over all files, which share a
//! clock. Rows are sorted by arrival; those of one instant stay in the order of the files and of the rows in them. Block
//! hashes are chained over the identifiers of the file, so that they keep the promise of the table also for files whose
//! identifiers name a block alone. Nothing is dropped in silence: `<stage>_report` counts what was noticed, and
//! `<stage>_rejected`, with `on_error: quarantine`, has the rows that cannot be read.
//!
//! Files of a server's run also make `<stage>_measured`: see `measured.rs`.
//!
//! Memory does not grow with the files (but for conversations and measured runs, which are held). Rows are written as they
//! come, as long as they come in order. The first 64 MiB are held back, so that a file which is not in order is mostly known
//! for it before anything is written; else what was written is dropped, and all is read once more, to be sorted. Rows that
//! are sorted are held up to 512 MiB, and beyond that put on disk in sorted runs, which are merged: see `sort.rs`; with what
//! sorting them takes, a process has 1.4 GiB at most. Besides, up to three chunks per thread are in flight (`trace::read`),
//! and the row group that is written. Rows without arrivals have no order, and are written as they come.

mod job;
mod linked;
mod measured;
mod rejects;
mod report;
mod rows;
mod sort;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use arrow::error::ArrowError;
use async_trait::async_trait;
use serde_json::{Value, json};

use self::job::Job;
pub(super) use self::rows::chain_hashes;
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Columns, FilePath, Format, Ingest, OnError, Text, TimeUnit, is_pattern};
use crate::trace::{self, Parser, Settings};

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
        let own = self.path.files().into_iter().chain(self.tokens.clone()).chain(self.header());
        own.chain(self.parts()).collect()
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let looks = self.looks().and_then(Result::ok);
        let schema = looks.as_ref().map(|parser| parser.layout().schema());
        let mut tables = vec![TableShape { name: stage.to_string(), schema }];
        if looks.map_or_else(|| self.is_measured(), |parser| parser.measures()) {
            let schema = Some(crate::table::measured::schema());
            tables.push(TableShape { name: measured::table_name(stage), schema });
        }
        if matches!(self.on_error, OnError::Quarantine(_)) {
            tables.push(TableShape { name: rejects::table_name(stage), schema: Some(rejects::schema()) });
        }
        tables.push(TableShape { name: report::table_name(stage), schema: Some(report::schema()) });
        tables
    }

    fn check(&self, _stage: &str, _cx: &CheckCx) -> Vec<Diagnostic> {
        let at = self.path.at();
        let mut found = Vec::new();
        let files = self.path.files();
        let format = match self.one_format(&files) {
            Ok(parser) => parser.map_or(self.format, |p| p.format()),
            Err(failure) => {
                found.extend(failure.or_at(at).diagnostics);
                self.format
            }
        };
        let mut names = BTreeSet::new();
        for file in files.iter().filter(|f| !names.insert(&f.path)) {
            let what = format!("`{}` is there twice: its requests would count twice", file.written);
            found.push(Diagnostic::new("ingest::twice", what).at(file.at.clone()).help("leave one of them out"));
        }
        let several = files.len() > 1;
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
        if several && (self.tokens.is_some() || format == Format::TraceV2) {
            let what = "several files: a run with a header or a file of tokens beside it is one file";
            refuse("ingest::several", what, "use a stage per file");
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
        if let OnError::Quarantine(limits) = self.on_error {
            if limits.max_rows == Some(0) {
                refuse("ingest::on_error", "`max_rows` is 0: expected at least 1", "`on_error: fail` allows none");
            }
            if limits.max_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                refuse(
                    "ingest::on_error",
                    "`max_share` is out of range: expected 0 to 1",
                    "0.01 allows one row in 100",
                );
            }
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Ingest { path, format, columns, time_unit, measured, run, tokens, block_tokens, on_error, limit } = self;
        // What `auto` finds follows from the content of the file, which enters the fingerprint by its hash.
        json!({
            // Their content is hashed; their order decides among requests of one instant.
            "files": path.files().iter().map(|f| f.written.clone()).collect::<Vec<_>>(),
            "format": format,
            "columns": columns,
            "time_unit": time_unit,
            "measured": measured,
            "run": run,
            "tokens": tokens.is_some(),
            "block_tokens": block_tokens,
            "on_error": on_error,
            "limit": limit,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let files = self.path.files();
        let written = json!(files.iter().map(|f| f.written.clone()).collect::<Vec<_>>());
        if cx.recipe.get("files").is_some_and(|planned| *planned != written) {
            let what = format!("other files match `{}` than when the run began", self.path.written());
            return Err(Failure::stage("ingest::files", what));
        }
        let job = Job {
            settings: files.iter().map(|file| self.settings(file)).collect(),
            on_error: self.on_error,
            limit: self.limit,
            run: self.run.clone(),
            tokens: self.tokens.clone(),
            header: self.header().map(|h| h.path),
            memory: rows::Memory::default(),
            step: None,
            cx,
        };
        super::tokenize::blocking(move || job.run()).await
    }
}

impl Ingest {
    fn settings(&self, file: &FilePath) -> Settings {
        Settings {
            path: file.path.clone(),
            written: file.written.clone(),
            format: self.format,
            columns: self.columns.clone(),
            time_unit: self.time_unit,
            block_tokens: self.block_tokens,
            measured: self.measured.clone(),
        }
    }

    /// The parser of the first file, if it is there. A file that is not is reported by whoever hashes it; one that is elsewhere
    /// is looked at when it is fetched.
    fn looks(&self) -> Option<Result<Parser>> {
        let first = self.path.files().into_iter().next().filter(|f| !is_pattern(f) && f.path.is_file())?;
        Some(trace::looks(&self.settings(&first)))
    }

    /// The parser of the first file that is there; all others must look the same.
    fn one_format(&self, files: &[FilePath]) -> Result<Option<Parser>> {
        let there = files.iter().filter(|f| f.path.is_file());
        job::one_format(&there.map(|f| self.settings(f)).collect::<Vec<_>>())
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

    /// The files beside traces that say how long the parts of prompts are, where their format has some and they are there.
    fn parts(&self) -> Vec<FilePath> {
        let mut found: Vec<FilePath> = Vec::new();
        for file in self.path.files() {
            let beside = trace::parts_beside(&file.path);
            let format = match self.format {
                _ if beside.is_empty() || is_pattern(&file) => continue,
                Format::Auto => trace::looks(&self.settings(&file)).map_or(Format::Auto, |parser| parser.format()),
                format => format,
            };
            let beside = beside.into_iter().filter(|_| format == Format::Ragpulse);
            let new = beside.filter(|path| found.iter().all(|f| f.path != *path)).collect::<Vec<_>>();
            found.extend(new.into_iter().map(|path| {
                let written = Path::new(&file.written).with_file_name(path.file_name().unwrap_or_default());
                FilePath { written: written.display().to_string(), path, at: file.at.clone() }
            }));
        }
        found
    }

    /// The header beside a trace, where its format has one and it is there.
    fn header(&self) -> Option<FilePath> {
        let files = self.path.files();
        let [file] = &files[..] else { return None };
        let beside = |path: &Path| path.with_extension("yaml");
        let path = beside(&file.path);
        let format = match self.format {
            Format::Auto if path.is_file() && path != file.path => self.looks()?.ok()?.format(),
            format => format,
        };
        let written = beside(Path::new(&file.written)).display().to_string();
        (format == Format::TraceV2 && path.is_file()).then(|| FilePath { written, path, at: file.at.clone() })
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

fn arrow(e: ArrowError) -> Failure {
    Failure::stage("ingest::arrow", format!("cannot put the rows together: {e}"))
}
