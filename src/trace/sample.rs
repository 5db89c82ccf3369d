//! Writes the samples in `data/samples/`: one small file per trace format, and conversations.
//!
//! The same bytes on every run and every machine. Lengths and times are made up, of the shape that such traces have:
//! a heavy tail of prompts, conversations that grow from turn to turn, ties where the real format has them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use serde_json::json;

use super::{sample_documents, sample_flat, talk};
use crate::diag::{self, Failure, Result};

/// Rows of a small sample.
const ROWS: usize = 200;
const CONVERSATIONS: usize = 400;

/// Random numbers with specified bits (splitmix64).
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Draw(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// A number from 0 to `n - 1`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    pub fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }

    /// Microseconds to the next arrival, 0.25 s on average.
    pub(super) fn gap_us(&mut self) -> u64 {
        let uniform = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        (-libm::log1p(-uniform) * 250_000.0) as u64
    }

    /// A length in tokens: mostly short, with a long tail.
    pub(super) fn tokens(&mut self, typical: u64) -> u64 {
        let doublings = self.below(5);
        1 + self.below(typical << doublings)
    }
}

/// One request of a made-up trace.
pub(super) struct Row {
    pub at_us: u64,
    pub input: u64,
    pub output: u64,
    pub session: u64,
    pub class: &'static str,
}

pub(super) fn rows(seed: u64, n: usize) -> Vec<Row> {
    let mut draw = Draw::new(seed);
    let mut at_us = 0;
    (0..n)
        .map(|i| {
            at_us += if i == 0 { 0 } else { draw.gap_us() };
            let class = if draw.below(4) == 0 { "batch" } else { "interactive" };
            Row { at_us, input: draw.tokens(200), output: draw.tokens(40), session: draw.below(60), class }
        })
        .collect()
}

/// Writes every sample into `dir`, which is made where it does not exist.
///
/// # Errors
/// A file cannot be written.
pub fn write_all(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| diag::io(dir, "make", &e))?;
    for (name, bytes) in files()? {
        let path = dir.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|e| diag::io(&path, "make", &e))?;
        std::fs::write(&path, bytes).map_err(|e| diag::io(&path, "write", &e))?;
    }
    Ok(())
}

/// Name and content of every sample.
pub fn files() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let generic = rows(4, ROWS);
    let jsonl = generic_jsonl(&generic);
    let csv = generic_csv(&generic);
    let mut all = vec![
        ("chat.jsonl", chat(CONVERSATIONS, 1).join("\n").into_bytes()),
        ("sharegpt.json", format!("[\n{}\n]\n", chat(100, 2).join(",\n")).into_bytes()),
        ("mooncake.jsonl", mooncake().into_bytes()),
        ("azure_2023.csv", azure("2023-11-16", 7, "").into_bytes()),
        ("azure_2024.csv", azure("2024-05-12", 6, "+00:00").into_bytes()),
        ("vidur.csv", vidur().into_bytes()),
        ("vidur_sessions.csv", vidur_sessions().into_bytes()),
        ("generic.jsonl.gz", gzip(jsonl.as_bytes())?),
        ("generic.jsonl", jsonl.into_bytes()),
        ("generic.csv.zst", zstd::encode_all(csv.as_bytes(), 3).map_err(|e| packing(&e))?),
        ("generic.csv", csv.into_bytes()),
        ("generic.parquet", generic_parquet(&generic)?),
        ("tokenizer.json", tokenizer()),
        ("vllm_bench.jsonl", vllm_bench().into_bytes()),
    ];
    all.extend(sample_flat::files()?);
    all.extend(sample_documents::files());
    all.extend(sample_documents::trace_v2_files());
    Ok(all)
}

/// Fifty requests as a benchmark of a server would log them: an engine that computes one prompt at a time and decodes
/// slower the more requests it has, with some noise. The wall clock and the engine's are far apart.
fn vllm_bench() -> String {
    let mut draw = Draw::new(9);
    let (mut free_us, mut ends_us, mut text) = (0, Vec::new(), String::new());
    for (i, row) in rows(9, 50).iter().enumerate() {
        let at_us = row.at_us;
        let queued_us = at_us + 300 + draw.below(900);
        let scheduled_us = queued_us.max(free_us) + 20 + draw.below(60);
        let first_us = scheduled_us + 6_000 + row.input * (45 + draw.below(10));
        free_us = first_us;
        let others = ends_us.iter().filter(|end| **end > first_us).count() as u64;
        let token_us = 6_400 + 90 * others + draw.below(500);
        let last_us = first_us + (row.output - 1) * token_us;
        ends_us.push(last_us);
        let wall = |us: u64| (1_760_000_000_000_000 + us) as f64 / 1e6;
        let engine = |us: u64| (5_000_000_000 + us) as f64 / 1e6;
        let line = json!({
            "request_id": format!("bench-{i}"), "input_toks": row.input, "output_toks": row.output,
            "arrival_time": wall(at_us), "queued_ts": engine(queued_us), "scheduled_ts": engine(scheduled_us),
            "first_token_ts": engine(first_us), "last_token_ts": engine(last_us),
        });
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

fn packing(e: &dyn std::fmt::Display) -> Failure {
    Failure::stage("sample::write", format!("cannot make a sample: {e}"))
}

/// Conversations of 2 to 4 turns, one JSON object each.
fn chat(conversations: usize, seed: u64) -> Vec<String> {
    let mut draw = Draw::new(seed);
    (0..conversations)
        .map(|i| {
            let mut messages = vec![json!({ "from": "system", "value": talk::system(draw.below(3) as usize) })];
            for _ in 0..2 + draw.below(3) {
                messages.push(json!({ "from": "human", "value": talk::question(&mut draw) }));
                messages.push(json!({ "from": "gpt", "value": talk::answer(&mut draw) }));
            }
            json!({ "id": format!("chat_{i:04}"), "conversations": messages }).to_string()
        })
        .collect()
}

/// Times in buckets of 3 s; every request goes on from a document that others share.
fn mooncake() -> String {
    const BLOCK: u64 = 512;
    let mut text = String::new();
    let (mut draw, mut next_id) = (Draw::new(3), 8 * 20);
    for row in rows(3, ROWS) {
        let input = row.input * 8;
        let blocks = input.div_ceil(BLOCK);
        // Eight documents of up to 20 blocks, with the identifiers 0 to 159.
        let document = draw.below(8);
        let shared = draw.below(21).min(blocks.saturating_sub(1));
        let ids: Vec<u64> = (0..blocks).map(|b| if b < shared { document * 20 + b } else { next_id + b }).collect();
        next_id += blocks;
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let timestamp = row.at_us / 3_000_000 * 3000;
        let _ = writeln!(
            text,
            r#"{{"timestamp": {timestamp}, "input_length": {input}, "output_length": {}, "hash_ids": [{}]}}"#,
            row.output,
            ids.join(", ")
        );
    }
    text
}

/// Without an end of line after the last row, like the published files.
fn azure(day: &str, decimals: usize, zone: &str) -> String {
    let mut text = "TIMESTAMP,ContextTokens,GeneratedTokens".to_string();
    for row in rows(5, ROWS) {
        let at = row.at_us + 18 * 3_600_000_000;
        let (second, fraction) = (at / 1_000_000, format!("{:06}0", at % 1_000_000));
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let fraction = &fraction[..decimals];
        let _ = write!(text, "\n{day} {hour:02}:{minute:02}:{second:02}.{fraction}{zone},{},{}", row.input, row.output);
    }
    text
}

pub(super) fn seconds(at_us: u64) -> String {
    format!("{}.{:06}", at_us / 1_000_000, at_us % 1_000_000)
}

fn vidur() -> String {
    let mut text = "arrived_at,num_prefill_tokens,num_decode_tokens\n".to_string();
    for row in rows(6, ROWS) {
        let _ = writeln!(text, "{},{},{}", seconds(row.at_us), row.input, row.output);
    }
    text
}

/// Sessions whose prompts hold all that was said before: the blocks of a request begin with those of the one before.
fn vidur_sessions() -> String {
    const BLOCK: u64 = 16;
    let mut text = "arrived_at,num_prefill_tokens,num_decode_tokens,block_hash_ids,block_size,session_id\n".to_string();
    let mut draw = Draw::new(7);
    let mut said: Vec<(u64, Vec<u64>)> = vec![(0, Vec::new()); 60];
    let mut next_id = 1;
    for row in rows(7, ROWS) {
        let (tokens, ids) = &mut said[row.session as usize];
        let input = *tokens + draw.below(200) + 1;
        *tokens = input + row.output;
        while (ids.len() as u64) < *tokens / BLOCK {
            ids.push(next_id);
            next_id += 1;
        }
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let _ = writeln!(
            text,
            "{},{input},{},\"[{}]\",{BLOCK},{}",
            seconds(row.at_us),
            row.output,
            ids.join(", "),
            row.session
        );
    }
    text
}

fn push_jsonl(text: &mut String, row: &Row) {
    let Row { at_us, input, output, session, class } = row;
    let arrival = seconds(*at_us);
    let _ = writeln!(
        text,
        r#"{{"arrival":{arrival},"input_tokens":{input},"output_tokens":{output},"session_id":"s{session}","class":"{class}"}}"#
    );
}

fn generic_jsonl(rows: &[Row]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        push_jsonl(&mut text, row);
        text
    })
}

fn generic_csv(rows: &[Row]) -> String {
    let mut text = "arrival,input_tokens,output_tokens,session_id,class\n".to_string();
    for Row { at_us, input, output, session, class } in rows {
        let _ = writeln!(text, "{},{input},{output},s{session},{class}", seconds(*at_us));
    }
    text
}

fn generic_parquet(rows: &[Row]) -> Result<Vec<u8>> {
    let columns: [(&str, ArrayRef); 5] = [
        ("arrival", Arc::new(rows.iter().map(|r| Some(r.at_us as f64 / 1e6)).collect::<Float64Array>())),
        ("input_tokens", Arc::new(rows.iter().map(|r| Some(r.input as i64)).collect::<Int64Array>())),
        ("output_tokens", Arc::new(rows.iter().map(|r| Some(r.output as i64)).collect::<Int64Array>())),
        ("session_id", Arc::new(rows.iter().map(|r| Some(format!("s{}", r.session))).collect::<StringArray>())),
        ("class", Arc::new(rows.iter().map(|r| Some(r.class)).collect::<StringArray>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| packing(&e))?;
    // The version of the library would change the file with every update of it.
    let properties = WriterProperties::builder().set_created_by("pipe".to_string()).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).map_err(|e| packing(&e))?;
    writer.write(&batch).map_err(|e| packing(&e))?;
    writer.close().map_err(|e| packing(&e))?;
    Ok(bytes)
}

/// Two members, as `cat` of two files makes them.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for part in [first, second] {
        let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::default());
        encoder.write_all(part).and_then(|()| encoder.finish()).map_err(|e| packing(&e))?;
    }
    Ok(packed)
}

/// A Hugging Face tokenizer whose tokens are the words of the samples.
fn tokenizer() -> Vec<u8> {
    let words = std::iter::once("[UNK]".to_string()).chain(talk::words());
    let vocabulary: serde_json::Map<_, _> = words.enumerate().map(|(id, word)| (word, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    });
    format!("{tokenizer:#}\n").into_bytes()
}

/// Writes `n` requests as generic JSON lines, about 100 bytes each: an input for benchmarks.
///
/// # Errors
/// The file cannot be written.
pub fn write_generic_jsonl(path: &Path, n: u64, seed: u64) -> Result<()> {
    const AT_ONCE: u64 = 10_000;
    let fail = |e| diag::io(path, "write", &e);
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path).map_err(fail)?);
    let (mut written, mut start_us) = (0, 0);
    while written < n {
        let mut rows = rows(seed.wrapping_add(written), (n - written).min(AT_ONCE) as usize);
        rows.iter_mut().for_each(|r| r.at_us += start_us);
        start_us = rows.last().map_or(start_us, |r| r.at_us);
        out.write_all(generic_jsonl(&rows).as_bytes()).map_err(fail)?;
        written += rows.len() as u64;
    }
    out.flush().map_err(fail)
}
