//! Requests of a trace: what `ingest`, `synthesize` and `tokenize` make and `simulate` reads.
//!
//! Two schemas share their first columns: [`schema`] has token counts and block hashes, [`texts_schema`] has the texts
//! that `tokenize` turns into them. Sorted by `arrival_ns`, then by the order of the file; `request_id` counts from 0
//! in that order.
//!
//! `depends_on` holds numbers of this table. Where it is set for any request of a session, it alone says who waits for
//! whom in that session: the steps of an agent may run side by side. Turns of other sessions follow each other without it.
//!
//! `simulate` needs four of these columns and reads more than these: see its `input.rs`.
//!
//! What a real server did with a request is in the columns `observed_*`, which no simulation reads: they stay with the
//! request through every stage that rewrites the table, so that any part of a trace can be compared with a simulation.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::{column, nulls};

/// The columns that both schemas begin with.
pub fn common() -> Vec<Field> {
    let time = |name: &str, what: &str| column(name, DataType::Int64, true, "ns", what);
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
        column("tenant", DataType::Utf8, true, "", "Whose request it is: a customer, a team, an application"),
        column("client", DataType::Utf8, true, "", "Client or user that sent it"),
        column(
            "think_ns",
            DataType::Int64,
            true,
            "ns",
            "Time from the end of the last request that it waits for until it is sent",
        ),
        column("depends_on", numbers(), true, "", "Numbers of the requests that must be done before it is sent"),
        column("model", DataType::Utf8, true, "", "Model that the request asks for"),
        column("adapter", DataType::Utf8, true, "", "LoRA adapter that the request asks for"),
        column("priority", DataType::Int32, true, "", "Lower goes first, as of vLLM"),
        column("max_tokens", DataType::Int32, true, "tokens", "Longest reply that the request allows"),
        column("acceptance", DataType::Float64, true, "", "Share of draft tokens that are accepted, 0 to 1"),
        time("deadline_ns", "After its arrival, when it should be done"),
        time("timeout_ns", "After its arrival, when it is given up"),
        time("cancel_ns", "After its arrival, when its client goes away"),
        time("observed_queue_ns", "As measured: from arrival until the engine began with it"),
        time("observed_ttft_ns", "As measured: from arrival to the first token"),
        time("observed_tpot_ns", "As measured: mean time per output token after the first"),
        time("observed_e2e_ns", "As measured: from arrival to the last token"),
        column("observed_status", DataType::Utf8, true, "", "As measured: `completed`, `warmup`, or what went wrong"),
    ]
}

/// Type of `depends_on`.
pub fn numbers() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Int64, false)))
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
        column(
            "encoder_tokens",
            DataType::Int32,
            true,
            "tokens",
            "Tokens of the prompt that an encoder makes of images or sound",
        ),
        column("images", DataType::Int32, true, "", "Images, or other media, that the prompt brings"),
        column("reasoning_tokens", DataType::Int32, true, "tokens", "Tokens of the reply that are reasoning"),
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
        column(
            "roles",
            DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, false))),
            true,
            "",
            "Who says each message: system, user, assistant or tool; null where the file does not say",
        ),
        column("output", DataType::Utf8, false, "", "The reply; empty where the file does not have it"),
        column("output_tokens", DataType::Int32, true, "tokens", "Length of a reply whose text is not there"),
        column("images", DataType::Int32, true, "", "Images, or other media, that the prompt brings"),
    ]);
    Arc::new(Schema::new(fields))
}

/// A batch of `rows` rows of `schema`, one of the two. Columns that are not given are null.
///
/// # Errors
/// As [`RecordBatch::try_new`]: a column that must not be null is missing, or has another type or length.
///
/// # Panics
/// A column that the schema does not have.
pub fn assemble<'a>(
    schema: &SchemaRef,
    rows: usize,
    given: impl IntoIterator<Item = (&'a str, ArrayRef)>,
) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = schema.fields().iter().map(|f| nulls(f.data_type(), rows)).collect();
    for (name, column) in given {
        let at = schema.index_of(name).unwrap_or_else(|_| panic!("requests have no column `{name}`"));
        columns[at] = column;
    }
    RecordBatch::try_new(schema.clone(), columns)
}
