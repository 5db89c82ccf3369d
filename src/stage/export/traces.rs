//! Files in the formats of traces.

use std::collections::HashMap;
use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use serde_json::json;

use super::write::Out;
use super::{Loss, Written};
use crate::diag::{self, Diagnostic, Failure, Result};
use crate::spec::{ExportCompression, ExportFormat};
use crate::stage::RunCx;
use crate::store::TableHandle;
use crate::table::requests;
use crate::trace;
use crate::trace::measured::{COMPLETED, WARMUP};

/// Columns of TraceV2 that are always there, as inference-sim writes them.
const TRACE_V2: [&str; 27] = [
    "request_id",
    "client_id",
    "tenant_id",
    "slo_class",
    "session_id",
    "round_index",
    "prefix_group",
    "prefix_length",
    "streaming",
    "input_tokens",
    "output_tokens",
    "text_tokens",
    "image_tokens",
    "audio_tokens",
    "video_tokens",
    "reason_ratio",
    "model",
    "deadline_us",
    "server_input_tokens",
    "arrival_time_us",
    "send_time_us",
    "first_chunk_time_us",
    "last_chunk_time_us",
    "num_chunks",
    "status",
    "error_message",
    "finish_reason",
];

/// A trace to be written.
pub struct Traces<'a> {
    pub cx: &'a RunCx,
    pub input: &'a TableHandle,
    pub format: ExportFormat,
    pub compression: ExportCompression,
}

impl Traces<'_> {
    /// Writes the file, and its header where the format has one.
    ///
    /// # Errors
    /// Requests without arrivals; blocks of several sizes; the file cannot be written.
    pub fn write(&self, name: String) -> Result<Vec<Written>> {
        let path = self.cx.out.file(&name)?;
        let failed = |e: std::io::Error| diag::io(&path, "write", &e);
        let mut out = Out::create(&path, self.compression)?;
        let optional = self.filled()?;
        let mut file = File {
            format: self.format,
            filled: &optional,
            ids: HashMap::new(),
            block: None,
            rounded: 0,
            warm_up: 0,
            late_warm_up: false,
            counted: false,
        };
        let mut line = Vec::new();
        file.header(&mut line);
        let mut rows = 0;
        for batch in trace::parts(&self.input.parts)? {
            self.cx.cancel.check()?;
            let batch = batch?;
            let columns = Columns::of(&batch)?;
            for i in 0..batch.num_rows() {
                file.row(&columns, i, &mut line)?;
                if line.len() > 1 << 16 {
                    out.write_all(&line).map_err(failed)?;
                    line.clear();
                }
            }
            rows += batch.num_rows() as i64;
            self.cx.progress.0.advance(batch.num_rows() as u64);
        }
        out.write_all(&line).map_err(failed)?;
        out.finish().map_err(failed)?;
        let File { rounded, warm_up, late_warm_up, .. } = file;
        let lost = |name: &String| !holds(self.format, name) || (name == "observed_status" && late_warm_up);
        let left_out = optional.iter().filter(|name| lost(name)).cloned().collect();
        let loss = Loss { left_out, rounded, as_text: 0 };
        let mut files = vec![Written { name: name.clone(), rows, sent: None, loss }];
        if self.format == ExportFormat::TraceV2 {
            files.push(self.side_header(&name, &optional, warm_up)?);
        }
        Ok(files)
    }

    /// The columns beyond those that every trace has which have a value anywhere.
    fn filled(&self) -> Result<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        for batch in trace::parts(&self.input.parts)? {
            let batch = batch?;
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                if column.null_count() < column.len()
                    && !super::NEEDED.contains(&field.name().as_str())
                    && !found.contains(field.name())
                {
                    found.push(field.name().clone());
                }
            }
        }
        let order = |name: &String| self.input.schema.index_of(name).unwrap_or(usize::MAX);
        found.sort_by_key(order);
        Ok(found)
    }

    /// The header of a TraceV2 file, of whose requests the first `warm_up` warmed the server up.
    fn side_header(&self, name: &str, filled: &[String], warm_up: u64) -> Result<Written> {
        let name = header_name(name);
        let path = self.cx.out.file(&name)?;
        let observed = filled.iter().any(|c| c.starts_with("observed_"));
        let mode = if observed { "real" } else { "generated" };
        let text = format!("trace_version: 2\ntime_unit: microseconds\nmode: {mode}\nwarm_up_requests: {warm_up}\n");
        std::fs::write(&path, text).map_err(|e| diag::io(&path, "write", &e))?;
        Ok(Written { name, rows: 0, sent: None, loss: Loss::default() })
    }
}

/// The file beside one of TraceV2.
pub fn header_name(name: &str) -> String {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    format!("{stem}.yaml")
}

/// Whether the format has a place for a column.
fn holds(format: ExportFormat, column: &str) -> bool {
    let held: &[&str] = match format {
        ExportFormat::Mooncake => &["session_id", "block_hashes", "block_tokens"],
        ExportFormat::Vidur => &["session_id", "block_hashes", "block_tokens"],
        ExportFormat::TraceV2 => &[
            "session_id",
            "turn",
            "class",
            "tenant",
            "client",
            "model",
            "adapter",
            "priority",
            "deadline_ns",
            "observed_ttft_ns",
            "observed_e2e_ns",
            "observed_tpot_ns",
            "observed_status",
            "encoder_tokens",
            "reasoning_tokens",
        ],
        ExportFormat::Parquet
        | ExportFormat::Arrow
        | ExportFormat::Csv
        | ExportFormat::Jsonl
        | ExportFormat::Xlsx
        | ExportFormat::Postgres => return true,
    };
    held.contains(&column)
}

/// The columns of a batch that formats write.
struct Columns {
    ints: HashMap<&'static str, ArrayRef>,
    texts: HashMap<&'static str, ArrayRef>,
    hashes: Option<ArrayRef>,
}

const INTS: [&str; 13] = [
    "request_id",
    "arrival_ns",
    "input_tokens",
    "output_tokens",
    "turn",
    "block_tokens",
    "encoder_tokens",
    "reasoning_tokens",
    "priority",
    "deadline_ns",
    "observed_ttft_ns",
    "observed_e2e_ns",
    "observed_tpot_ns",
];
const TEXTS: [&str; 7] = ["session_id", "class", "tenant", "client", "model", "adapter", "observed_status"];

impl Columns {
    fn of(batch: &RecordBatch) -> Result<Columns> {
        let read = |name: &str, kind: &DataType| -> Result<Option<ArrayRef>> {
            let Some(column) = batch.column_by_name(name) else { return Ok(None) };
            let cast = cast(column, kind);
            cast.map(Some).map_err(|e| Failure::stage("export::column", format!("cannot read column `{name}`: {e}")))
        };
        let (mut ints, mut texts) = (HashMap::new(), HashMap::new());
        for name in INTS {
            ints.extend(read(name, &DataType::Int64)?.map(|c| (name, c)));
        }
        for name in TEXTS {
            texts.extend(read(name, &DataType::Utf8)?.map(|c| (name, c)));
        }
        let field = requests::schema();
        let hashes = field.field_with_name("block_hashes").ok().and_then(|f| read(f.name(), f.data_type()).transpose());
        Ok(Columns { ints, texts, hashes: hashes.transpose()? })
    }

    fn int(&self, name: &str, i: usize) -> Option<i64> {
        let column = self.ints.get(name)?.as_primitive::<Int64Type>();
        column.is_valid(i).then(|| column.value(i))
    }

    fn text(&self, name: &str, i: usize) -> Option<&str> {
        let column = self.texts.get(name)?.as_string::<i32>();
        column.is_valid(i).then(|| column.value(i))
    }

    fn hashes(&self, i: usize) -> Option<Vec<u64>> {
        let lists = self.hashes.as_ref()?.as_list::<i32>();
        lists.is_valid(i).then(|| lists.value(i).as_primitive::<UInt64Type>().values().to_vec())
    }
}

/// The text of a file in the making.
struct File<'a> {
    format: ExportFormat,
    filled: &'a [String],
    /// Numbers of the blocks, as they come. Looked up, never walked.
    ids: HashMap<u64, u64>,
    block: Option<i64>,
    rounded: i64,
    /// Requests at the beginning that warmed the server up: a TraceV2 file says how many those are.
    warm_up: u64,
    /// There is one after others, of which the file cannot say it.
    late_warm_up: bool,
    /// A request that counts was there.
    counted: bool,
}

impl File<'_> {
    fn has(&self, column: &str) -> bool {
        self.filled.iter().any(|c| c == column)
    }

    fn header(&self, line: &mut Vec<u8>) {
        let names: Vec<&str> = match self.format {
            ExportFormat::Vidur => {
                let mut names = vec!["arrived_at", "num_prefill_tokens", "num_decode_tokens"];
                if self.has("session_id") {
                    names.push("session_id");
                }
                if self.has("block_hashes") {
                    names.extend(["block_size", "block_hash_ids"]);
                }
                names
            }
            ExportFormat::TraceV2 => {
                let mut names = TRACE_V2.to_vec();
                if self.has("priority") {
                    names.insert(4, "vllm_priority");
                }
                if self.has("adapter") {
                    names.push("adapter");
                }
                names
            }
            ExportFormat::Mooncake
            | ExportFormat::Parquet
            | ExportFormat::Arrow
            | ExportFormat::Csv
            | ExportFormat::Jsonl
            | ExportFormat::Xlsx
            | ExportFormat::Postgres => return,
        };
        line.extend(names.join(",").into_bytes());
        line.push(b'\n');
    }

    fn row(&mut self, columns: &Columns, i: usize, line: &mut Vec<u8>) -> Result<()> {
        let id = columns.int("request_id", i).unwrap_or_default();
        let needed = |name: &str| {
            columns.int(name, i).ok_or_else(|| {
                let message = format!("request {id} has no `{name}`, and a trace needs it");
                let failure: Failure = Diagnostic::new("export::value", message)
                    .help("`simulate` gives arrivals to requests without; `jsonl` and `parquet` hold any table")
                    .into();
                failure
            })
        };
        let (arrival, input, output) = (needed("arrival_ns")?, needed("input_tokens")?, needed("output_tokens")?);
        match self.format {
            ExportFormat::Mooncake => {
                let mut row = serde_json::Map::new();
                row.insert("timestamp".to_string(), json!(self.in_unit(arrival, 1_000_000)));
                row.insert("input_length".to_string(), json!(input));
                row.insert("output_length".to_string(), json!(output));
                if let Some(hashes) = columns.hashes(i) {
                    let block = self.one_size(columns.int("block_tokens", i), id)?;
                    let of_prompt = input.div_euclid(block) + i64::from(input % block > 0);
                    let hashes = hashes.iter().take(of_prompt as usize).map(|h| self.number(*h));
                    row.insert("hash_ids".to_string(), hashes.collect());
                }
                if let Some(session) = columns.text("session_id", i) {
                    row.insert("session_id".to_string(), json!(session));
                }
                line.extend(serde_json::Value::Object(row).to_string().into_bytes());
            }
            ExportFormat::Vidur => {
                line.extend(format!("{},{input},{output}", decimal_s(arrival)).into_bytes());
                if self.has("session_id") {
                    line.push(b',');
                    line.extend(field(columns.text("session_id", i).unwrap_or_default()).into_bytes());
                }
                if self.has("block_hashes") {
                    line.push(b',');
                    if let Some(hashes) = columns.hashes(i) {
                        let block = columns.int("block_tokens", i).unwrap_or_default();
                        let ids: Vec<String> = hashes.iter().map(|h| self.number(*h).to_string()).collect();
                        line.extend(format!("{block},\"[{}]\"", ids.join(", ")).into_bytes());
                    } else {
                        line.push(b',');
                    }
                }
            }
            ExportFormat::TraceV2 => self.trace_v2(columns, i, [id, arrival, input, output], line),
            ExportFormat::Parquet
            | ExportFormat::Arrow
            | ExportFormat::Csv
            | ExportFormat::Jsonl
            | ExportFormat::Xlsx
            | ExportFormat::Postgres => {}
        }
        line.push(b'\n');
        Ok(())
    }

    fn trace_v2(&mut self, columns: &Columns, i: usize, basics: [i64; 4], line: &mut Vec<u8>) {
        let [id, arrival, input, output] = basics;
        let text = |name: &str| field(columns.text(name, i).unwrap_or_default());
        let encoder = columns.int("encoder_tokens", i).unwrap_or(0);
        let reasoning = columns.int("reasoning_tokens", i).unwrap_or(0);
        let status = columns.text("observed_status", i).unwrap_or(COMPLETED);
        let served = matches!(status, COMPLETED | WARMUP);
        if status == WARMUP {
            self.warm_up += u64::from(!self.counted);
            self.late_warm_up |= self.counted;
        } else {
            self.counted = true;
        }
        let arrival_us = self.in_unit(arrival, 1000);
        let mut after = |span: Option<i64>| span.map_or(0, |ns| self.in_unit(arrival + ns, 1000));
        let first = after(columns.int("observed_ttft_ns", i));
        let last = after(columns.int("observed_e2e_ns", i));
        let deadline = after(columns.int("deadline_ns", i));
        let mut fields = vec![id.to_string(), text("client"), text("tenant"), text("class")];
        if self.has("priority") {
            fields.push(columns.int("priority", i).unwrap_or(0).to_string());
        }
        fields.extend([text("session_id"), columns.int("turn", i).unwrap_or(0).to_string()]);
        // The blocks that prompts share have no place but named groups, which a table of hashes does not have.
        fields.extend([String::new(), "0".to_string(), "true".to_string()]);
        fields.extend([input, output, input - encoder, encoder, 0, 0].map(|n| n.to_string()));
        fields.extend([(reasoning as f64 / output as f64).to_string(), text("model"), deadline.to_string()]);
        fields.extend([0, arrival_us, arrival_us, first, last, 0].map(|n| n.to_string()));
        fields.extend([if served { "ok".to_string() } else { field(status) }, String::new(), String::new()]);
        if self.has("adapter") {
            fields.push(text("adapter"));
        }
        line.extend(fields.join(",").into_bytes());
    }

    /// A time in whole units of `ns`, halves up.
    fn in_unit(&mut self, time: i64, ns: i64) -> i64 {
        self.rounded += i64::from(time % ns != 0);
        (time + ns / 2).div_euclid(ns)
    }

    fn number(&mut self, hash: u64) -> u64 {
        let next = self.ids.len() as u64;
        *self.ids.entry(hash).or_insert(next)
    }

    /// The size of blocks, which a file of this format has once.
    fn one_size(&mut self, block: Option<i64>, id: i64) -> Result<i64> {
        let block = block.filter(|b| *b > 0).unwrap_or(1);
        let first = *self.block.get_or_insert(block);
        if first != block {
            let message = format!("request {id} has blocks of {block} tokens, and those before it of {first}");
            return Err(Diagnostic::new("export::block_tokens", message)
                .help("a file of this format has one size of blocks: `vidur` says it for each request")
                .into());
        }
        Ok(block)
    }
}

/// Nanoseconds as seconds, exactly.
fn decimal_s(ns: i64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A field of a CSV file.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}
