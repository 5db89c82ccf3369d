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

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::column;

/// The columns that both schemas begin with.
pub fn common() -> Vec<Field> {
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
