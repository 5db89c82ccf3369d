//! Trace formats: files of requests to rows of the tables in [`crate::table::requests`].
//!
//! ```text
//! open ──► detect ──► Chunks (one thread: read, unpack, cut) ──► Parser (any thread) ──► Parsed, in order
//! ```
//!
//! [`open()`] looks at the head of a file, settles its format and which columns it has, and hands out two halves:
//! [`Chunks`] cuts the file at row boundaries, [`Parser`] turns one chunk into rows. Rows depend on the file and the
//! settings only: where chunks are cut and who parses them changes nothing.
//!
//! Rows have absolute arrivals (of the file's own clock), in the order of the file. Numbering, sorting, shifting to
//! the start of the trace and chaining of hashes is the business of the stage. Times are read as decimal text, not as
//! floats: `0.1` s is 100000000 ns.
//!
//! A row that cannot be read is a [`Problem`] with its line and column; it never stops the file.
//!
//! Runs of real servers (`vllm_bench`, `otel`, `trace_v2`, and generic files that name such columns) also say how each
//! request was served: [`measured`].
//!
//! Left out: BurstGPT, ServeGen, WEKA and agentic traces. `csv` and `jsonl` with a column map read flat ones.

mod azure;
mod chunk;
mod conversation;
mod csv;
mod detect;
mod fields;
mod json;
mod jsonl;
mod llmservingsim;
pub mod measured;
mod mooncake;
mod number;
mod open;
pub mod ordered;
mod otel;
mod parquet;
pub mod sample;
mod sharegpt;
mod talk;
#[cfg(test)]
mod tests;
mod trace_v2;
mod vidur;
pub mod vllm;
mod vllm_bench;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::diag::{Diagnostic, Result, Span};
use crate::spec::{Columns, Format, MeasuredColumns, TimeUnit};
use crate::table::requests;

pub use chunk::{Chunk, Chunks};
pub use conversation::{Conversation, requests as conversation_requests};
pub use detect::{OnBytes, looks, open};
pub use open::read_bytes;
pub use parquet::{batches, parts};

pub use trace_v2::header as trace_v2_header;

/// Most tokens that a prompt or a reply can have, far above any model: more is taken for a mistake in the file.
pub const MAX_TOKENS: i32 = 1 << 24;

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    /// The path as the user wrote it, for messages.
    pub written: String,
    pub format: Format,
    /// Of `csv`, `jsonl` and `parquet`.
    pub columns: Columns,
    /// Of the arrival column of `csv`, `jsonl` and `parquet`.
    pub time_unit: TimeUnit,
    /// Overrides what the format or the file says.
    pub block_tokens: Option<u32>,
    /// Of `csv`, `jsonl` and `parquet`: which columns hold measured times.
    pub measured: Option<MeasuredColumns>,
}

impl Settings {
    /// What to read of the file at `path`, as the defaults have it.
    pub fn new(path: PathBuf, written: String, format: Format) -> Settings {
        Settings {
            path,
            written,
            format,
            columns: Columns::default(),
            time_unit: TimeUnit::default(),
            block_tokens: None,
            measured: None,
        }
    }

    /// No column is named: the format may be one that has names of its own.
    fn is_plain(&self) -> bool {
        self.columns == Columns::default() && self.measured.is_none()
    }
}

/// What the rows of a file hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Token counts: [`requests::schema`].
    Tokens,
    /// Texts that are to be tokenized: [`requests::texts_schema`].
    Texts,
}

impl Layout {
    pub fn schema(self) -> SchemaRef {
        match self {
            Layout::Tokens => requests::schema(),
            Layout::Texts => requests::texts_schema(),
        }
    }
}

/// A row that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1. In Parquet files: the number of the row.
    pub line: u64,
    /// In characters, from 1. In Parquet files: the number of the column.
    pub column: u32,
    /// What is wrong, and what was expected.
    pub reason: String,
    /// The row as it stands in the file, cut after 200 characters. Empty in Parquet files.
    pub text: String,
}

impl Problem {
    /// The problem as a message about `file`.
    pub fn diagnostic(&self, file: &str) -> Diagnostic {
        let line = u32::try_from(self.line).unwrap_or(u32::MAX);
        let at = Span { file: Arc::from(file), line, column: self.column, len: 0 };
        Diagnostic::new("trace::bad_row", self.reason.clone()).at(Some(at))
    }
}

/// What became of a chunk.
#[derive(Debug)]
pub struct Parsed {
    /// Rows in [`Layout::schema`], in the order of the file. `request_id` is 0, `arrival_ns` is of the file's clock,
    /// `block_hashes` are the identifiers of the file.
    pub rows: RecordBatch,
    /// The line of each row.
    pub lines: Vec<u64>,
    pub problems: Vec<Problem>,
    /// Of conversations: what the rows are made of, once all are known.
    pub conversations: Vec<Conversation>,
    /// What was measured of each row; empty where nothing is.
    pub measured: Vec<measured::Raw>,
}

/// Turns chunks into rows. Cheap to share between threads.
#[derive(Clone, Debug)]
pub struct Parser {
    format: Format,
    fields: Arc<fields::Fields>,
    /// Of a CSV file: its header.
    header: Arc<csv::Header>,
}

impl Parser {
    pub fn layout(&self) -> Layout {
        self.fields.layout
    }

    /// Whether rows have measured times.
    pub fn measures(&self) -> bool {
        self.fields.measured.is_some()
    }

    /// The format that was asked for, or found.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The rows of a chunk.
    ///
    /// # Errors
    /// Rows too large for Arrow (more than 2 GiB of text in one chunk). Bad rows are not errors.
    pub fn parse(&self, chunk: Chunk) -> Result<Parsed> {
        match (chunk, self.format) {
            (Chunk::Rows { batch, first_row }, _) => parquet::parse(&self.fields, &batch, first_row),
            (Chunk::Text(text), Format::Mooncake | Format::Llmservingsim | Format::VllmBench | Format::Jsonl) => {
                jsonl::parse(&self.fields, &text)
            }
            (Chunk::Text(text), Format::Azure | Format::Vidur | Format::TraceV2 | Format::Csv) => {
                csv::parse(&self.fields, &self.header, &text)
            }
            (Chunk::Text(text), Format::Sharegpt) => sharegpt::parse(&self.fields, &text),
            (Chunk::Text(_), Format::Auto | Format::Otel | Format::Parquet) => {
                unreachable!("the format is settled, and Parquet files have no text")
            }
        }
    }
}

/// A row of which something is wrong at a byte of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    at: usize,
    reason: String,
}

impl Fault {
    fn new(at: usize, reason: impl Into<String>) -> Self {
        Fault { at, reason: reason.into() }
    }
}
