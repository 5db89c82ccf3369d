//! Requests of a trace: what `ingest`, `synthesize` and `tokenize` make and `simulate` reads.
//!
//! Two schemas share their first columns: [`schema`] has token counts and block hashes, [`texts_schema`] has the texts
//! that `tokenize` turns into them. Sorted by `arrival_ns`, then by the order of the file; `request_id` counts from 0
//! in that order.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int32Array, ListArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt64Type};
use pipe_kernel::units::SimTime;

use super::column;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::store::TableHandle;

fn common() -> Vec<Field> {
    vec![
        column("request_id", DataType::Int64, false, "", "Number of the request, from 0, in order of arrival"),
        column(
            "arrival_ns",
            DataType::Int64,
            true,
            "ns",
            "Arrival since the start of the trace; null where the trace has no times",
        ),
        column("session_id", DataType::Utf8, true, "", "Conversation that the request belongs to"),
        column("turn", DataType::Int32, true, "", "Turn within the conversation, from 0"),
        column("class", DataType::Utf8, true, "", "Class of service"),
    ]
}

/// Requests with token counts.
pub fn schema() -> SchemaRef {
    let mut fields = common();
    fields.extend([
        column("input_tokens", DataType::Int32, false, "tokens", "Length of the prompt"),
        column("output_tokens", DataType::Int32, false, "tokens", "Length of the reply"),
        column(
            "block_hashes",
            DataType::List(Arc::new(Field::new_list_field(DataType::UInt64, false))),
            true,
            "",
            "Chained hashes of the blocks of prompt and reply: equal hash, equal content up to the end of the block",
        ),
        column("block_tokens", DataType::Int32, true, "tokens", "Tokens per hashed block"),
    ]);
    Arc::new(Schema::new(fields))
}

/// Requests as texts.
pub fn texts_schema() -> SchemaRef {
    let mut fields = common();
    fields.extend([
        column(
            "input",
            DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, false))),
            false,
            "",
            "Messages of the prompt, oldest first: the conversation so far",
        ),
        column("output", DataType::Utf8, false, "", "The reply"),
    ]);
    Arc::new(Schema::new(fields))
}

/// Requests as the simulator reads them, and what it does not need to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    pub requests: pipe_kernel::request::Requests,
    /// Whether the trace has times; without them every arrival is 0, and arrivals are to be drawn.
    pub has_arrivals: bool,
    /// Conversation of each request; empty where none has one.
    pub sessions: Vec<Option<String>>,
    /// Class of service of each request; empty where none has one.
    pub classes: Vec<Option<String>>,
}

/// Reads a table of requests with token counts.
///
/// # Errors
/// The table has texts instead of counts, or other columns; rows that no trace has (lengths below 1, times that
/// decrease); a part cannot be read.
pub fn read_requests(handle: &TableHandle) -> Result<Loaded> {
    check_schema(&handle.name, &handle.schema).map_err(|d| Failure { exit: Exit::Stage, diagnostics: vec![d] })?;
    let mut loaded = Loaded { has_arrivals: true, ..Loaded::default() };
    loaded.requests.block_hash_offsets.push(0);
    for batch in crate::trace::parts(&handle.parts)? {
        loaded.add(&handle.name, &batch?)?;
    }
    for names in [&mut loaded.sessions, &mut loaded.classes] {
        if names.iter().all(Option::is_none) {
            names.clear();
        }
    }
    Ok(loaded)
}

/// Whether a table with this schema can be simulated.
///
/// # Errors
/// What is missing, without a place.
pub fn check_schema(table: &str, found: &Schema) -> std::result::Result<(), Diagnostic> {
    let has = |schema: SchemaRef| {
        schema.fields().iter().all(|f| found.field_with_name(f.name()).is_ok_and(|g| g.data_type() == f.data_type()))
    };
    if has(schema()) {
        return Ok(());
    }
    if has(texts_schema()) {
        let message = format!("table `{table}` holds texts: token counts are expected");
        let help = format!("put a stage `tokenize: {{ from: {table} }}` before this one");
        return Err(Diagnostic::new("requests::texts", message).help(help));
    }
    let expected: Vec<String> = schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    let message = format!("table `{table}` does not hold requests");
    Err(Diagnostic::new("requests::schema", message).help(format!("expected the columns {}", expected.join(", "))))
}

impl Loaded {
    fn add(&mut self, table: &str, batch: &RecordBatch) -> Result<()> {
        let column = |name: &str| {
            let missing = || Failure::stage("requests::schema", format!("table `{table}` has lost its column `{name}`"));
            batch.column_by_name(name).ok_or_else(missing)
        };
        let (arrival, sessions, classes) = (column("arrival_ns")?, column("session_id")?, column("class")?);
        let arrival = arrival.as_primitive::<Int64Type>();
        let (input, output) = (column("input_tokens")?, column("output_tokens")?);
        let (input, output) = (input.as_primitive::<Int32Type>(), output.as_primitive::<Int32Type>());
        let (hashes, block_tokens) = (column("block_hashes")?, column("block_tokens")?);
        self.sessions.extend(sessions.as_string::<i32>().iter().map(|s| s.map(str::to_string)));
        self.classes.extend(classes.as_string::<i32>().iter().map(|s| s.map(str::to_string)));
        for row in 0..batch.num_rows() {
            let wrong = |what: String| {
                let number = self.requests.arrival.len();
                Err(Failure::stage("requests::row", format!("request {number} of table `{table}`: {what}")))
            };
            let time = if arrival.is_null(row) { 0 } else { arrival.value(row) };
            if !self.requests.arrival.is_empty() && self.has_arrivals == arrival.is_null(row) {
                return wrong("some requests have an arrival and some have none".to_string());
            }
            self.has_arrivals = !arrival.is_null(row);
            let before = self.requests.arrival.last().map_or(0, |t| t.0);
            if time < before {
                return wrong(format!("arrival_ns {time} comes after {before}: requests are sorted by arrival"));
            }
            let (Ok(tokens @ 1..), Ok(reply @ 1..)) =
                (u32::try_from(input.value(row)), u32::try_from(output.value(row)))
            else {
                return wrong("input_tokens and output_tokens are at least 1".to_string());
            };
            self.requests.arrival.push(SimTime(time));
            self.requests.input_tokens.push(tokens);
            self.requests.output_tokens.push(reply);
        }
        self.add_hashes(table, hashes.as_list::<i32>(), block_tokens.as_primitive::<Int32Type>())
    }

    fn add_hashes(&mut self, table: &str, hashes: &ListArray, block_tokens: &Int32Array) -> Result<()> {
        for row in 0..hashes.len() {
            if hashes.is_valid(row) {
                let said = if block_tokens.is_valid(row) { block_tokens.value(row) } else { 0 };
                let size = u32::try_from(said).unwrap_or(0);
                if size == 0 || ![0, size].contains(&self.requests.block_tokens) {
                    let message = format!("table `{table}` has blocks of {said} and of other sizes: one is expected");
                    return Err(Failure::stage("requests::block_tokens", message));
                }
                self.requests.block_tokens = size;
                self.requests.block_hashes.extend(hashes.value(row).as_primitive::<UInt64Type>().values());
            }
            self.requests.block_hash_offsets.push(self.requests.block_hashes.len() as u64);
        }
        Ok(())
    }
}
