//! Looks at the head of a file: its format, and which of the columns that may be there are there.
//!
//! The first row decides for the whole file, so that every chunk is read the same way: where it has an arrival, every
//! row must have one, and where it has none, no row may.

use std::sync::Arc;

use super::extra::Extra;
use super::fields::{Fields, Links, Role};
use super::json::{Scanner, Value};
use super::{
    Chunks, Layout, Parser, Settings, azure, csv, documents, llmservingsim, measured, mooncake, number, parquet,
    sharegpt,
};
use super::{apex, burstgpt, dynamo, guidellm_trace, ragpulse, splitwise, trace_v2, vidur, vllm_bench, weka};
use crate::diag::{Diagnostic, Exit, Failure, Result, nearest};
use crate::spec::{Columns, Format, MeasuredColumns, TimeUnit};

use super::chunk::Cut;
pub use super::open::OnBytes;

/// What the head of a file looks like.
enum Shape {
    Empty,
    Parquet,
    /// A JSON list; the keys are those of its first item.
    List(Vec<Key>),
    /// A JSON object in the first line.
    Object(Vec<Key>),
    /// A JSON object that ends in another line than it begins.
    Document(Vec<Key>),
    /// Anything else: the first line, and the second.
    Lines(String, Option<String>),
}

/// A column that the first row has.
pub struct Key {
    /// Nested keys are joined by dots.
    pub path: String,
    /// The first row has no value there.
    pub null: bool,
    /// It holds an object, whose keys are listed too.
    pub object: bool,
}

/// What files look like, for those who gave one that looks like none.
const LOOKS: &str = "formats: mooncake (JSON lines with timestamp, input_length, output_length, hash_ids), azure (CSV \
    TIMESTAMP,ContextTokens,GeneratedTokens), burstgpt (CSV Timestamp, Request tokens, Response tokens), splitwise \
    (CSV arrival_timestamp, prompt_size, token_size), vidur (CSV arrived_at,num_prefill_tokens,num_decode_tokens), \
    sharegpt (JSON or JSON lines with conversations), llmservingsim (JSON lines input_toks, output_toks, \
    arrival_time_ns, or sub_requests), \
    ragpulse (as mooncake, with lists of parts in hash_ids), dynamo (JSON lines with schema and event_type), weka (JSON \
    lines id, requests), apex (JSON lines StartTimeOffset, ContextTokens, GeneratedTokens), \
    vllm_bench (JSON lines input_toks, output_toks, arrival_time, first_token_ts, last_token_ts), otel (Parquet \
    start_unix_ns, latency.time_to_first_token, latency.e2e), trace_v2 (CSV send_time_us, first_chunk_time_us, \
    last_chunk_time_us), openai_chat (JSON or JSON lines with messages), openai_batch (JSON lines custom_id, body or \
    response), vllm_prompts (JSON lines prompt, output_tokens), vllm_result (JSON input_lens, output_lens), guidellm (JSON \
    benchmarks), aiperf (JSON lines metadata, metrics), genai_perf (JSON experiments), inference_perf (JSON list \
    start_time, end_time, info), detailed_results (JSON prompts), otel also as JSON with resourceSpans or spans, and \
    jsonl, csv, parquet with input_tokens and output_tokens, or input and \
    output; other names are given with `columns: { input_tokens: ..., output_tokens: ... }`";

/// Opens a trace: the parser of its rows, and the chunks to be parsed. `on_bytes` hears how much of the file was read.
///
/// # Errors
/// The file cannot be read, is of none of the formats, or lacks a column.
pub fn open(settings: &Settings, mut on_bytes: OnBytes) -> Result<(Parser, Chunks)> {
    // A Parquet file is read from its end; what it has of a head is known without unpacking.
    if parquet::is_parquet(settings)? {
        if settings.format != Format::Otel {
            refuse_unless(settings, Format::Parquet, "Parquet")?;
        }
        let (format, fields, groups) = parquet::open(settings)?;
        let rows = groups.all_rows();
        let size = std::fs::metadata(&settings.path).map_or(0, |m| m.len());
        let on_rows = Box::new(move |n: u64| on_bytes(size * n / rows.max(1)));
        let written = settings.written.as_str().into();
        let (fields, header) = (Arc::new(fields), Arc::default());
        let parser = Parser { format, fields, header, marked: false, packed: None, written };
        return Ok((parser, Chunks::rows(groups, on_rows)));
    }
    let content = super::open::open(&settings.path, &settings.written, on_bytes)?;
    let shape = shape(&content.head);
    let format = match settings.format {
        Format::Auto => match guess(settings, &shape)? {
            Format::Mooncake if guidellm_trace::fits(&content.head) => Format::GuidellmTrace,
            format => format,
        },
        format => format,
    };
    let (fields, header) = fields(settings, format, &shape, &content.head)?;
    let (cut, skip) = match (format, &shape) {
        (Format::Azure | Format::Burstgpt | Format::Splitwise | Format::Vidur | Format::TraceV2 | Format::Csv, _) => {
            (Cut::Quoted, header_bytes(&content.head))
        }
        _ if fields.whole => (Cut::Whole, 0),
        (_, Shape::List(_)) => (Cut::Elements, 0),
        _ => (Cut::Lines, 0),
    };
    let (marked, packed, written) = (content.marked, content.packed, settings.written.as_str().into());
    let parser = Parser { format, fields: Arc::new(fields), header: Arc::new(header), marked, packed, written };
    Ok((parser, Chunks::text(content, cut, skip, &settings.written)))
}

/// The parser that [`open()`] would give; reads the head of the file only.
///
/// # Errors
/// As [`open()`].
pub fn looks(settings: &Settings) -> Result<Parser> {
    open(settings, Box::new(|_| ())).map(|(parser, _)| parser)
}

/// Blank lines and the first line that is not.
fn header_bytes(head: &[u8]) -> usize {
    let blank = head.iter().take_while(|b| b.is_ascii_whitespace()).count();
    head[blank..].iter().position(|b| *b == b'\n').map_or(head.len(), |n| blank + n + 1)
}

fn shape(head: &[u8]) -> Shape {
    if head.starts_with(b"PAR1") {
        return Shape::Parquet;
    }
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let Some(first) = lines.next() else { return Shape::Empty };
    match first.as_bytes()[0] {
        b'[' => Shape::List(text.trim_start().strip_prefix('[').map(keys).unwrap_or_default()),
        b'{' if Scanner::new(first).skip().is_err() && lines.clone().next().is_some_and(|l| !l.starts_with('{')) => {
            Shape::Document(keys(text.trim_start()))
        }
        // A row that is broken decides nothing: it will be reported with the others.
        b'{' => {
            let all = std::iter::once(first).chain(lines);
            Shape::Object(all.map(keys).find(|k| !k.is_empty()).unwrap_or_default())
        }
        _ => Shape::Lines(first.to_string(), lines.next().map(str::to_string)),
    }
}

/// The keys of an object, as far as it can be read.
fn keys(line: &str) -> Vec<Key> {
    fn object(scanner: &mut Scanner, prefix: &str, keys: &mut Vec<Key>) -> std::result::Result<(), super::Fault> {
        scanner.members(|scanner, key| {
            let path = format!("{prefix}{key}");
            scanner.value_at();
            let value = match scanner.value() {
                Ok(value) => value,
                // The head may end within a long text; that there is one is known.
                Err(fault) => {
                    keys.push(Key { path, null: false, object: false });
                    return Err(fault);
                }
            };
            let object_here = value == Value::Object;
            keys.push(Key { path: path.clone(), null: value == Value::Null, object: object_here });
            match value {
                Value::List => scanner.skip(),
                Value::Object => object(scanner, &format!("{path}."), keys),
                _ => Ok(()),
            }
        })
    }
    let mut found = Vec::new();
    let _ = object(&mut Scanner::new(line), "", &mut found);
    found
}

fn guess(settings: &Settings, shape: &Shape) -> Result<Format> {
    let mapped = !settings.is_plain();
    let all = |names: &[&str], keys: &[Key]| names.iter().all(|n| keys.iter().any(|k| k.path == *n));
    match shape {
        Shape::Empty => Err(wrong(settings, "is empty: expected requests")),
        Shape::Parquet => Err(wrong(settings, "is a packed Parquet file: unpack it first")),
        Shape::List(keys) if keys.is_empty() => Ok(Format::Sharegpt),
        Shape::List(keys) | Shape::Object(keys) if keys.iter().any(|k| k.path == "conversations") => {
            Ok(Format::Sharegpt)
        }
        Shape::List(keys) => Ok(documents::guess(keys).unwrap_or(Format::Sharegpt)),
        Shape::Document(keys) => documents::guess(keys).ok_or_else(|| {
            wrong(settings, &format!("is a JSON document of a form that is not known, with {}", list(keys)))
        }),
        Shape::Object(keys) => {
            let has = |name: &str| keys.iter().any(|k| k.path == name);
            if !mapped && dynamo::fits(keys) {
                return Ok(Format::Dynamo);
            }
            if !mapped && weka::fits(has) {
                return Ok(Format::Weka);
            }
            if !mapped && ragpulse::fits(has) {
                return Ok(Format::Ragpulse);
            }
            if !mapped && let Some(format) = documents::guess(keys) {
                return Ok(format);
            }
            if !mapped && mooncake::fits(keys) {
                return Ok(Format::Mooncake);
            }
            if !mapped && all(&apex::NAMES, keys) {
                return Ok(Format::Apex);
            }
            if !mapped && all(&vllm_bench::NAMES, keys) {
                return Ok(Format::VllmBench);
            }
            if !mapped && (all(&llmservingsim::NAMES, keys) || all(&[llmservingsim::STEPS], keys)) {
                return Ok(Format::Llmservingsim);
            }
            generic(settings, keys).map(|_| Format::Jsonl)
        }
        Shape::Lines(first, second) => {
            let keys = csv_keys(&csv::Header::of(first), second.as_deref());
            if !mapped && all(&azure::NAMES, &keys) {
                return Ok(Format::Azure);
            }
            if !mapped && all(&burstgpt::NAMES, &keys) {
                return Ok(Format::Burstgpt);
            }
            if !mapped && all(&splitwise::NAMES, &keys) {
                return Ok(Format::Splitwise);
            }
            if !mapped && all(&vidur::NAMES, &keys) {
                return Ok(Format::Vidur);
            }
            if !mapped && all(&trace_v2::NAMES, &keys) {
                return Ok(Format::TraceV2);
            }
            if !mapped && all(&trace_v2::GAPS, &keys) {
                return Err(wrong(settings, "has the times between tokens of a trace: read the trace beside it"));
            }
            generic(settings, &keys).map(|_| Format::Csv)
        }
    }
}

fn csv_keys(header: &csv::Header, second: Option<&str>) -> Vec<Key> {
    let values = second.map(|line| header.split(line)).unwrap_or_default();
    let null = |i: usize| values.get(i).is_some_and(String::is_empty);
    header.names.iter().enumerate().map(|(i, n)| Key { path: n.clone(), null: null(i), object: false }).collect()
}

/// The fields of a file of `format`; of CSV files also the header.
fn fields(settings: &Settings, format: Format, shape: &Shape, head: &[u8]) -> Result<(Fields, csv::Header)> {
    if let Shape::List(keys) | Shape::Object(keys) | Shape::Document(keys) = shape {
        let whole = matches!(shape, Shape::Document(_));
        if let Some(fields) = documents::fields(settings, format, keys, head, whole)? {
            if fields.whole && matches!(shape, Shape::List(_)) {
                return Err(mismatch(settings, "a JSON list", "`[`"));
            }
            return Ok((fields, csv::Header::default()));
        }
    }
    match shape {
        Shape::Empty => Err(wrong(settings, "is empty: expected requests")),
        Shape::Parquet => Err(wrong(settings, "is a packed Parquet file: unpack it first")),
        Shape::Document(keys) => Err(mismatch(settings, "one JSON document", &list(keys))),
        Shape::List(_) => {
            refuse_unless(settings, Format::Sharegpt, "a JSON list")?;
            Ok((sharegpt::fields(), csv::Header::default()))
        }
        Shape::Object(keys) => {
            let fields = match format {
                Format::Mooncake => mooncake::fields(settings.block_tokens, keys),
                Format::Apex => apex::fields(),
                Format::Dynamo => dynamo::fields(settings.block_tokens, keys),
                Format::GuidellmTrace => guidellm_trace::fields(),
                Format::Ragpulse => ragpulse::fields(settings)?,
                Format::Weka => weka::fields(settings.block_tokens),
                Format::Sharegpt => sharegpt::fields(),
                Format::VllmBench => vllm_bench::fields(),
                Format::Llmservingsim => {
                    // Agents that come after other lines are sessions like any other.
                    let agents = keys.iter().any(|k| k.path == llmservingsim::STEPS);
                    llmservingsim::fields(settings.block_tokens, agents)
                }
                Format::Jsonl => generic(settings, keys)?,
                Format::Azure
                | Format::Burstgpt
                | Format::Splitwise
                | Format::Vidur
                | Format::TraceV2
                | Format::Otel
                | Format::OpenaiChat
                | Format::OpenaiBatch
                | Format::VllmPrompts
                | Format::VllmResult
                | Format::Guidellm
                | Format::Aiperf
                | Format::GenaiPerf
                | Format::InferencePerf
                | Format::DetailedResults
                | Format::Csv
                | Format::Parquet
                | Format::Auto => {
                    return Err(mismatch(settings, "JSON lines", &list(keys)));
                }
            };
            Ok((fields, csv::Header::default()))
        }
        Shape::Lines(first, second) => {
            let header = csv::Header::of(first);
            let keys = csv_keys(&header, second.as_deref());
            let fields = match format {
                Format::Azure => azure::fields(),
                Format::Burstgpt => burstgpt::fields(),
                Format::Splitwise => splitwise::fields(),
                Format::Vidur => vidur::fields(settings.block_tokens),
                Format::TraceV2 => trace_v2::fields(settings.block_tokens),
                Format::Csv => generic(settings, &keys)?,
                Format::Mooncake
                | Format::Apex
                | Format::Dynamo
                | Format::GuidellmTrace
                | Format::Ragpulse
                | Format::Weka
                | Format::Sharegpt
                | Format::VllmBench
                | Format::Llmservingsim
                | Format::Otel
                | Format::OpenaiChat
                | Format::OpenaiBatch
                | Format::VllmPrompts
                | Format::VllmResult
                | Format::Guidellm
                | Format::Aiperf
                | Format::GenaiPerf
                | Format::InferencePerf
                | Format::DetailedResults
                | Format::Jsonl
                | Format::Parquet
                | Format::Auto => {
                    return Err(mismatch(settings, "text that is not JSON", &format!("`{}`", number::shorten(first))));
                }
            };
            all_there(settings, &fields, &keys)?;
            Ok((fields, header))
        }
    }
}

/// Every column that must be there is in the header.
pub fn all_there(settings: &Settings, fields: &Fields, keys: &[Key]) -> Result<()> {
    let mut names = explicit(&settings.columns);
    names.extend(settings.measured.iter().flat_map(MeasuredColumns::named).map(|(_, name)| name));
    let missing = fields.named().filter(|(role, name)| {
        (fields.is_required(*role) || names.contains(name)) && !keys.iter().any(|k| k.path == *name)
    });
    let diagnostics: Vec<Diagnostic> = missing
        .map(|(_, name)| {
            let hint = match nearest(name, keys.iter().map(|k| k.path.as_str())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the file has {}", list(keys)),
            };
            let message = format!("{} has no column `{name}`", settings.written);
            Diagnostic::new("trace::no_column", message).help(hint)
        })
        .collect();
    if diagnostics.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Stage, diagnostics }) }
}

fn explicit(columns: &Columns) -> Vec<&str> {
    let Columns {
        arrival,
        input_tokens,
        output_tokens,
        input,
        output,
        session_id,
        class,
        model,
        adapter,
        block_hashes,
        tenant,
        client,
        priority,
        max_tokens,
        images,
    } = columns;
    let tokens = [arrival, input_tokens, output_tokens, input, output, block_hashes, images, max_tokens];
    let names = [session_id, class, model, adapter, tenant, client, priority];
    tokens.into_iter().chain(names).filter_map(|c| c.as_deref()).collect()
}

/// The fields of a `csv`, `jsonl` or `parquet` file whose first row has `keys`.
pub fn generic(settings: &Settings, keys: &[Key]) -> Result<Fields> {
    let columns = &settings.columns;
    let there = |name: &str| keys.iter().any(|k| k.path == name);
    let tokens = columns.input_tokens.is_some() || columns.output_tokens.is_some();
    let texts = columns.input.is_some() || columns.output.is_some();
    let layout = match (tokens, texts) {
        (true, _) => Layout::Tokens,
        (_, true) => Layout::Texts,
        _ if there("input_tokens") && there("output_tokens") => Layout::Tokens,
        _ if there("input") && there("output") => Layout::Texts,
        _ => {
            let seen = format!("has the columns {}: expected token counts or texts", list(keys));
            return Err(wrong(settings, &seen));
        }
    };
    if layout == Layout::Texts && settings.measured.is_some() {
        return Err(wrong(settings, "has texts, and `measured` needs requests with token counts"));
    }
    let name = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_string());
    let (arrival, unit, known) = arrival(settings, keys);
    let fields = Fields::new(layout, unit);
    let fields = if known { fields.required(Role::Arrival, arrival) } else { fields.forbidden(Role::Arrival, arrival) };
    let fields = fields
        .optional(Role::Session, name(&columns.session_id, "session_id"))
        .optional(Role::Turn, "turn")
        .optional(Role::Class, name(&columns.class, "class"))
        .optional(Role::Think, "think_ns")
        .optional(Role::Model, name(&columns.model, "model"))
        .optional(Role::Adapter, name(&columns.adapter, "adapter"));
    let fields = extras(fields, columns, &there);
    let fields = measured::generic(fields, settings.measured.as_ref());
    Ok(match layout {
        Layout::Tokens => fields
            .required(Role::InputTokens, name(&columns.input_tokens, "input_tokens"))
            .required(Role::OutputTokens, name(&columns.output_tokens, "output_tokens"))
            .optional(Role::Hashes, name(&columns.block_hashes, "block_hashes"))
            .optional(Role::BlockTokens, "block_tokens")
            .optional(Role::EncoderTokens, "encoder_tokens")
            .block_tokens(settings.block_tokens, None),
        Layout::Texts => fields
            .required(Role::Input, name(&columns.input, "input"))
            .required(Role::Output, name(&columns.output, "output")),
    })
}

/// Columns that few files have. Who waits for whom is read where requests have names.
fn extras(fields: Fields, columns: &Columns, there: &impl Fn(&str) -> bool) -> Fields {
    let mapped = [
        (Extra::Tenant, &columns.tenant),
        (Extra::Client, &columns.client),
        (Extra::Priority, &columns.priority),
        (Extra::MaxTokens, &columns.max_tokens),
        (Extra::Images, &columns.images),
    ];
    let linked = there("request_id") && there("depends_on");
    let fields = if linked { fields.links(Links::Names) } else { fields };
    Extra::ALL.into_iter().fold(fields, |fields, extra| {
        let given = mapped.iter().find(|(e, _)| *e == extra).and_then(|(_, name)| name.as_deref());
        let own = extra.column().filter(|name| there(name));
        match given.or(own) {
            Some(_) if matches!(extra, Extra::Request | Extra::DependsOn) && !linked => fields,
            Some(name) => fields.optional(Role::Extra(extra), name),
            None => fields,
        }
    })
}

/// Name and unit of the arrival, and whether the rows have one. `arrival_ns` is in nanoseconds, whatever the unit of
/// other columns.
fn arrival(settings: &Settings, keys: &[Key]) -> (String, TimeUnit, bool) {
    let key = |name: &str| keys.iter().find(|k| k.path == name);
    match (&settings.columns.arrival, key("arrival_ns"), key("arrival")) {
        (Some(name), _, _) => (name.clone(), settings.time_unit, true),
        (None, Some(found), _) => (found.path.clone(), TimeUnit::Ns, !found.null),
        (None, None, Some(found)) => (found.path.clone(), settings.time_unit, !found.null),
        (None, None, None) => ("arrival".to_string(), settings.time_unit, false),
    }
}

fn list(keys: &[Key]) -> String {
    let names: Vec<_> = keys.iter().take(20).map(|k| format!("`{}`", number::shorten(&k.path))).collect();
    if names.is_empty() { "nothing that can be read".to_string() } else { names.join(", ") }
}

fn wrong(settings: &Settings, what: &str) -> Failure {
    let message = format!("{} {what}", settings.written);
    let diagnostic = Diagnostic::new("trace::format", message).help(LOOKS);
    Failure { exit: Exit::Stage, diagnostics: vec![diagnostic] }
}

fn mismatch(settings: &Settings, is: &str, seen: &str) -> Failure {
    let asked = serde_json::to_string(&settings.format).unwrap_or_default();
    wrong(settings, &format!("was said to be {}, but is {is}: it begins with {seen}", asked.trim_matches('"')))
}

/// A shape that only `format` has, under another name.
fn refuse_unless(settings: &Settings, format: Format, is: &str) -> Result<()> {
    if settings.format == Format::Auto || settings.format == format {
        return Ok(());
    }
    Err(mismatch(settings, is, if format == Format::Parquet { "`PAR1`" } else { "`[`" }))
}
