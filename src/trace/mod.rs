//! Trace formats: files of requests to rows of the tables in [`crate::table::requests`].
//!
//! ```text
//! open ──► detect ──┬─► Chunks (one thread: unpack, cut) ──┬─► Parser (any thread) ──► Parsed, in order
//!                   └─► ranges of bytes, row groups ───────┘
//!                       (any thread)
//! ```
//!
//! [`open()`] looks at the head of a file, settles its format and which columns it has, and hands out two halves:
//! [`Chunks`] cuts the file at row boundaries, [`Parser`] turns one chunk into rows. [`read()`] does all that on the threads
//! of a pool, where it can without a [`Chunks`] that one thread must go through: by ranges of bytes, by row groups. Rows
//! depend on the file and the settings only: where it is cut and who parses what changes nothing.
//!
//! Rows have absolute arrivals (of the file's own clock), in the order of the file. Numbering, sorting, shifting to
//! the start of the trace and chaining of hashes is the business of the stage. Times are read as decimal text, not as
//! floats: `0.1` s is 100000000 ns.
//!
//! A row that cannot be read is a [`Problem`] with its line and column; it never stops the file.
//!
//! Runs of real servers (reports and results of benchmarks, traces of a server, and generic files that name such columns)
//! also say how each request was served: [`measured`].
//!
//! Formats that are JSON documents (`documents.rs`) share a tree that knows where its values stand (`document.rs`).
//!
//! Traces of agents (`dynamo`, `weka`, `llmservingsim`, sessions of `mooncake`) say who waits for whom, or show it by their
//! times: see [`Links`].

mod agents;
mod aiperf;
mod apex;
mod azure;
mod burstgpt;
mod chunk;
mod conversation;
mod counts;
mod csv;
mod detailed_results;
mod detect;
mod document;
mod documents;
mod dynamo;
mod extra;
mod fields;
mod genai_perf;
mod guidellm;
mod guidellm_trace;
mod inference_perf;
mod json;
mod jsonl;
mod llmservingsim;
pub mod measured;
mod mooncake;
mod number;
mod open;
mod openai;
pub mod ordered;
mod otel;
mod otlp;
mod parquet;
mod ragpulse;
mod read;
mod role;
pub mod sample;
mod sample_documents;
mod sample_flat;
mod sharegpt;
mod sparse;
mod splitwise;
mod talk;
#[cfg(test)]
mod tests;
mod trace_v2;
mod vidur;
pub mod vllm;
mod vllm_bench;
mod vllm_files;
mod weka;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::diag::{Diagnostic, Failure, Result, Span};
use crate::spec::{Columns, Format, MeasuredColumns, TimeUnit};
use crate::table::requests;

pub use agents::{Call, Waits, waits};
pub use chunk::{Chunk, Chunks};
pub use conversation::{Conversation, requests as conversation_requests};
pub use counts::Counts;
pub use detect::{OnBytes, looks, open};
pub use fields::Links;
pub use open::read_bytes;
pub use parquet::parts;
pub use ragpulse::beside as parts_beside;
pub use read::{Reading, read};
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
    /// Rows in [`Layout::schema`], in the order of the file. `request_id` is 0, or, with [`Links`], a key of the request's
    /// name; `depends_on` are such keys; `arrival_ns` is of the file's clock; `block_hashes` are the file's identifiers.
    pub rows: RecordBatch,
    /// The line of each row.
    pub lines: Vec<u64>,
    pub problems: Vec<Problem>,
    /// Of conversations: what the rows are made of, once all are known.
    pub conversations: Vec<Conversation>,
    /// What was measured of each row; empty where nothing is.
    pub measured: Vec<measured::Raw>,
    /// What was read otherwise than it stands there.
    pub counts: Counts,
    /// The session that began that of each row; empty where the format has none.
    pub parent_sessions: Vec<Option<String>>,
}

impl Parsed {
    /// The rows of several, one after the other.
    fn joined(all: Vec<Parsed>, schema: &SchemaRef) -> Result<Parsed> {
        let rows = arrow::compute::concat_batches(schema, all.iter().map(|p| &p.rows));
        let rows = rows.map_err(|e| Failure::stage("trace::arrow", e.to_string()))?;
        let (mut lines, mut problems, mut conversations, mut measured) = (vec![], vec![], vec![], vec![]);
        let (mut counts, mut parent_sessions) = (Counts::default(), vec![]);
        for parsed in all {
            lines.extend(parsed.lines);
            problems.extend(parsed.problems);
            conversations.extend(parsed.conversations);
            measured.extend(parsed.measured);
            counts += parsed.counts;
            parent_sessions.extend(parsed.parent_sessions);
        }
        Ok(Parsed { rows, lines, problems, conversations, measured, counts, parent_sessions })
    }
}

/// Turns chunks into rows. Cheap to share between threads.
#[derive(Clone, Debug)]
pub struct Parser {
    format: Format,
    fields: Arc<fields::Fields>,
    /// Of a CSV file: its header.
    header: Arc<csv::Header>,
    /// The file begins with a byte order mark.
    marked: bool,
    /// How the file is packed.
    packed: Option<&'static str>,
    /// The file, as the user wrote it, for what is wrong with all of it.
    written: Arc<str>,
}

impl Parser {
    pub fn layout(&self) -> Layout {
        self.fields.layout
    }

    /// Whether rows have measured times.
    pub fn measures(&self) -> bool {
        self.fields.measured.is_some()
    }

    /// How requests that wait for others are linked: see [`Links`]. Those of all files are settled together.
    pub fn links(&self) -> Option<Links> {
        self.fields.links
    }

    /// Whether rows have arrivals: all do, or will once who waits for whom is settled, or none does.
    pub fn arrives(&self) -> bool {
        self.fields.is_required(fields::Role::Arrival) || self.links().is_some()
    }

    /// What the head of the file alone shows; not part of what [`Self::parse`] counts.
    pub fn counts(&self) -> Counts {
        Counts { byte_order_marks: u64::from(self.marked), ..Counts::default() }
    }

    /// How the file is packed: `gzip` or `zstd`.
    pub fn packed(&self) -> Option<&'static str> {
        self.packed
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
        match chunk {
            Chunk::Text(text) => self.parse_text(&text),
            Chunk::Group { groups, group, first_row } => parquet::parse_group(&self.fields, &groups, group, first_row),
        }
    }

    fn parse_text(&self, text: &chunk::Text) -> Result<Parsed> {
        let fields = &self.fields;
        match self.format {
            Format::Apex | Format::GuidellmTrace | Format::Mooncake | Format::VllmBench | Format::Jsonl => {
                jsonl::parse(fields, text)
            }
            Format::Azure | Format::Burstgpt | Format::Splitwise | Format::Vidur | Format::TraceV2 | Format::Csv => {
                csv::parse(fields, &self.header, text)
            }
            Format::Dynamo => dynamo::parse(fields, text),
            Format::Llmservingsim => llmservingsim::parse(fields, text),
            Format::Ragpulse => ragpulse::parse(fields, text),
            Format::Sharegpt => sharegpt::parse(fields, text),
            Format::Weka => weka::parse(fields, text),
            Format::Otel
            | Format::OpenaiChat
            | Format::OpenaiBatch
            | Format::VllmPrompts
            | Format::VllmResult
            | Format::Guidellm
            | Format::Aiperf
            | Format::GenaiPerf
            | Format::InferencePerf
            | Format::DetailedResults => documents::parse(self.format, fields, text, &self.written),
            Format::Auto | Format::Parquet => {
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
