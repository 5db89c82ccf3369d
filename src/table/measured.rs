//! Requests as a real server answered them: what `ingest` makes of the logs of a benchmark beside the requests, and
//! `compare` and `calibrate` read.
//!
//! A row per request of one run, sorted by `request_id`, which is that of the table of requests made of the same file. What
//! a file does not say and what does not follow from the rest is null.
//!
//! Requests of a client's warm-up have the status `warmup`: they loaded the server, and no comparison counts them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::column;

pub fn schema() -> SchemaRef {
    let time = |name: &str, what: &str| column(name, DataType::Int64, true, "ns", what);
    Arc::new(Schema::new(vec![
        column("run", DataType::Utf8, false, "", "Which run of the server; empty where the file is of one"),
        column("request_id", DataType::Int64, false, "", "Number of the request, as in the table of requests"),
        time("arrival_ns", "Arrival since the start of the trace"),
        column("input_tokens", DataType::Int32, true, "tokens", "Length of the prompt"),
        column("output_tokens", DataType::Int32, true, "tokens", "Length of the reply; null where there was none"),
        time("queue_ns", "From arrival until the engine began with it"),
        time("ttft_ns", "From arrival to the first token"),
        time("tpot_ns", "Mean time per output token after the first"),
        time("e2e_ns", "From arrival to the last token"),
        time("prefill_ns", "From when the engine began with it to the first token"),
        time("decode_ns", "From the first token to the last"),
        column(
            "status",
            DataType::Utf8,
            false,
            "",
            "`completed`, `warmup` (completed, but not to be counted), or what went wrong",
        ),
    ]))
}
