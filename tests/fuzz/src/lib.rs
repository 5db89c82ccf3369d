//! The project's own modules that read traces, compiled without the rest of it, and what the targets share.

#![allow(dead_code, unused_imports)]

#[path = "../../../src/diag.rs"]
pub mod diag;
#[path = "../../../src/spec/mod.rs"]
pub mod spec;
#[path = "../../../src/table/mod.rs"]
pub mod table;
#[path = "../../../src/trace/mod.rs"]
pub mod trace;

pub mod targets;

// The parsers that `trace` keeps to itself, once more, and what they have from it.
#[path = "../../../src/trace/json.rs"]
pub mod json;
#[path = "../../../src/trace/number.rs"]
pub mod number;
pub use trace::MAX_TOKENS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at: usize,
    pub reason: String,
}

impl Fault {
    pub fn new(at: usize, reason: impl Into<String>) -> Self {
        Fault { at, reason: reason.into() }
    }
}

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;

use spec::{Columns, Format, MeasuredColumns, TimeUnit};
use trace::{Parsed, Problem, Reading, Settings};

thread_local! {
    static FILE: OnceCell<tempfile::NamedTempFile> = const { OnceCell::new() };
    static POOL: OnceCell<Arc<rayon::ThreadPool>> = const { OnceCell::new() };
}

/// The path of a file with this content, the same one in every call.
pub fn file(content: &[u8]) -> PathBuf {
    FILE.with(|file| {
        let memory = PathBuf::from("/dev/shm");
        let make =
            || if memory.is_dir() { tempfile::NamedTempFile::new_in(&memory) } else { tempfile::NamedTempFile::new() };
        let path = file.get_or_init(|| make().expect("a temporary file")).path().to_path_buf();
        std::fs::write(&path, content).expect("a temporary file");
        path
    })
}

pub fn settings(content: &[u8], format: Format) -> Settings {
    Settings::new(file(content), "t".to_string(), format)
}

/// What reading a file gives: rows, lines and problems, or a message.
#[derive(Debug, PartialEq)]
pub struct Read {
    pub rows: Vec<RecordBatch>,
    pub lines: Vec<u64>,
    pub problems: Vec<Problem>,
    pub conversations: usize,
}

impl Read {
    fn of(all: Vec<Parsed>) -> Read {
        let mut read = Read { rows: vec![], lines: vec![], problems: vec![], conversations: 0 };
        for parsed in all {
            assert_eq!(parsed.rows.num_rows(), parsed.lines.len());
            read.conversations += parsed.conversations.len();
            trace::conversation_requests(&parsed.conversations, |_| Ok(ControlFlow::Continue(()))).expect("requests");
            if parsed.rows.num_rows() > 0 {
                read.rows.push(parsed.rows);
            }
            read.lines.extend(parsed.lines);
            read.problems.extend(parsed.problems);
        }
        if let Some(first) = read.rows.first() {
            read.rows = vec![arrow::compute::concat_batches(&first.schema(), &read.rows).expect("rows of one schema")];
        }
        read
    }
}

/// Reads a file chunk by chunk, of about `step` bytes.
pub fn in_chunks(settings: &Settings, step: usize) -> Result<Read, String> {
    let told = |f: diag::Failure| f.to_string();
    let (parser, mut chunks) = trace::open(settings, Box::new(|_| ())).map_err(told)?;
    chunks.step(step);
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next_chunk().map_err(told)? {
        all.push(parser.parse(chunk).map_err(told)?);
    }
    Ok(Read::of(all))
}

/// Reads a file on two threads.
pub fn in_parallel(settings: &Settings, step: usize) -> Result<Read, String> {
    let pool = POOL.with(|pool| {
        let make = || Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads"));
        pool.get_or_init(make).clone()
    });
    let mut all = Vec::new();
    let reading = Reading { pool, step };
    let sink = |_: &_, parsed| {
        all.push(parsed);
        Ok(ControlFlow::Continue(()))
    };
    trace::read(settings, &reading, Box::new(|_| ()), Ok, sink).map_err(|f| f.to_string())?;
    Ok(Read::of(all))
}

/// Names of columns for a generic file, taken from some bits.
pub fn columns(bits: u8) -> Columns {
    let name = |bit: u8, name: &str| (bits & (1 << bit) != 0).then(|| name.to_string());
    Columns {
        arrival: name(0, "t"),
        input_tokens: name(1, "i"),
        output_tokens: name(2, "o.n"),
        input: name(3, "p"),
        output: name(4, "r"),
        session_id: name(5, "s"),
        block_hashes: name(6, "h"),
        ..Columns::default()
    }
}

/// Measured columns for a generic file.
pub fn measured(bits: u8) -> Option<MeasuredColumns> {
    let name = |name: &str| Some(name.to_string());
    let columns = MeasuredColumns { ttft: name("f"), e2e: name("e"), status: name("c"), ..MeasuredColumns::default() };
    (bits & 1 != 0).then_some(columns)
}

/// One of all formats that there are; those that are no text are refused soon.
pub fn format(byte: u8) -> Format {
    thread_local! {
        static ALL: Vec<Format> = formats();
    }
    ALL.with(|all| all[byte as usize % all.len()])
}

/// As the JSON Schema names them.
fn formats() -> Vec<Format> {
    fn names(schema: &serde_json::Value, out: &mut Vec<serde_json::Value>) {
        match schema {
            serde_json::Value::Object(map) => {
                out.extend(map.get("const").cloned());
                out.extend(map.get("enum").and_then(|e| e.as_array()).into_iter().flatten().cloned());
                map.values().for_each(|inner| names(inner, out));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|inner| names(inner, out)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    names(&schemars::schema_for!(Format).to_value(), &mut found);
    found.into_iter().filter_map(|name| serde_json::from_value(name).ok()).collect()
}

/// A unit of time.
pub fn unit(byte: u8) -> TimeUnit {
    [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns][byte as usize % 4]
}
