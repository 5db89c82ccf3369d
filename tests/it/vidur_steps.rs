//! Step times of `operators` on Vidur's tables of predictions, against Vidur's own sums and its own runs.
//!
//! Source: microsoft/vidur (MIT), execution time of a batch, branch main (commit 7d47513) and canary (25e0082). The sums
//! are put together here once more, from the rows of the Parquet files and in Vidur's order of operations; they are equal
//! to what Vidur says of the 49,665 batches of two runs.
//!
//! A step is the nearest nanosecond of what it says. One prediction in fifty differs in its last bit on its way through the
//! table of the stage, which counts microseconds.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pipe_kernel::profile::Supplied;
use pipe_kernel::queueing::PythonRandom;
use pipe_kernel::sim::latency::{BatchShape, Latency, LatencyModel, Operators, of};
use pipe_kernel::sim::swarm::scenario_8b;

use crate::project::{predictions, shared};

const LAYERS: u32 = 32;
/// Nanoseconds by which a step may be off: half of one from rounding, and the last bits of a sum of some 1e8.
const OFF_NS: f64 = 0.5 + 1e-9 * 1e8;

/// Vidur says the time of a batch as the difference of two readings of its clock, of up to some 1,000 s.
const CLOCK_S: f64 = 1e-12;

/// Predictions in ms as the files have them.
struct Tables {
    by_tokens: BTreeMap<&'static str, Vec<f64>>,
    /// By requests and context.
    decode: BTreeMap<(u64, u64), f64>,
    /// By context and chunk.
    prefill: BTreeMap<(u64, u64), f64>,
    branch: Branch,
}

#[derive(Clone, Copy, PartialEq)]
enum Branch {
    Main,
    Canary,
}

const BY_TOKENS: [&str; 10] = [
    "attn_pre_proj",
    "attn_post_proj",
    "attn_rope",
    "attn_kv_cache_save",
    "input_layernorm",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "post_attention_layernorm",
    "add",
];

impl Tables {
    fn read(dir: &Path, branch: Branch) -> Tables {
        let by_tokens = |name: &'static str| {
            let rows = table(&dir.join(format!("{name}.parquet")), ["num_tokens", "num_tokens"]);
            assert!(rows.keys().enumerate().all(|(i, (n, _))| *n == i as u64 + 1), "{name} has gaps");
            (name, rows.into_values().collect())
        };
        Tables {
            by_tokens: BY_TOKENS.into_iter().map(by_tokens).collect(),
            decode: table(&dir.join("attn_decode.parquet"), ["batch_size", "kv_cache_size"]),
            prefill: table(&dir.join("attn_prefill.parquet"), ["kv_cache_size", "prefill_chunk_size"]),
            branch,
        }
    }

    fn most_tokens(&self) -> u64 {
        self.by_tokens.values().map(Vec::len).min().unwrap_or(0) as u64
    }

    /// What Vidur says that a batch takes, in seconds. `grouped`: several query heads share keys and values.
    fn seconds(&self, batch: &Batch, grouped: bool) -> f64 {
        let tokens = batch.tokens();
        let at = |name: &str, n: u64| self.by_tokens[name][n as usize - 1];
        let at_8 = |name: &str| at(name, tokens.div_ceil(8) * 8);
        let several = |n: usize| if self.branch == Branch::Main && grouped && n > 1 { 0.1 } else { 0.0 };
        let decode = match batch.decodes.len() {
            0 => 0.0,
            n => {
                let mean = batch.decodes.iter().sum::<u64>() / n as u64;
                self.decode[&(n as u64, mean.next_multiple_of(64))] * (1.0 + several(n))
            }
        };
        let prefill = match batch.prompts.len() {
            0 => 0.0,
            n => {
                let squares: u64 = batch.prompts.iter().map(|(_, chunk)| chunk * chunk).sum();
                let chunk = (squares as f64).sqrt().round() as u64;
                let contexts = batch.prompts.iter().map(|(context, _)| *context);
                let key = match self.branch {
                    Branch::Main => (contexts.map(|c| c.next_multiple_of(64)).sum(), chunk),
                    Branch::Canary => (contexts.sum::<u64>().next_multiple_of(64), chunk.next_multiple_of(32)),
                };
                self.prefill[&key] * (1.0 + several(n))
            }
        };
        let attention = at_8("attn_pre_proj")
            + at_8("attn_post_proj")
            + at_8("attn_rope")
            + at("attn_kv_cache_save", tokens)
            + decode
            + prefill
            + 0.0
            + at_8("input_layernorm");
        let mlp =
            at_8("mlp_up_proj") + at_8("mlp_down_proj") + at_8("mlp_act") + 0.0 + at_8("post_attention_layernorm");
        ((attention + mlp + at_8("add")) * f64::from(LAYERS) + 0.0) * 1e-3
    }
}

/// The predictions by two columns of keys.
fn table(file: &Path, keys: [&str; 2]) -> BTreeMap<(u64, u64), f64> {
    let file = std::fs::File::open(file).expect("a table of predictions");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a Parquet file").build().expect("a reader");
    let mut rows = BTreeMap::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let key = |name: &str| -> Vec<u64> {
            // Branch main says squares of chunks.
            let squared = batch.column_by_name(&format!("{name}_squared"));
            let column = squared.or(batch.column_by_name(name)).expect("a column");
            let numbers: Vec<i64> = match column.as_primitive_opt::<Int32Type>() {
                Some(numbers) => numbers.values().iter().map(|n| i64::from(*n)).collect(),
                None => column.as_primitive::<Int64Type>().values().to_vec(),
            };
            let numbers = numbers.into_iter().map(|n| u64::try_from(n).expect("a size"));
            if squared.is_some() { numbers.map(u64::isqrt).collect() } else { numbers.collect() }
        };
        let times = batch.column_by_name("prediction").expect("a column").as_primitive::<Float64Type>().values();
        let both = key(keys[0]).into_iter().zip(key(keys[1]));
        rows.extend(both.zip(times).map(|(key, ms)| (key, *ms)));
    }
    rows
}

/// What is in a step: of requests that decode, the tokens that Vidur counts as processed, which the first of the reply
/// belongs to from the end of the prompt on; of prompts, the tokens before and the new ones.
#[derive(Clone, Debug, Default)]
struct Batch {
    decodes: Vec<u64>,
    prompts: Vec<(u64, u64)>,
}

impl Batch {
    fn tokens(&self) -> u64 {
        self.decodes.len() as u64 + self.prompts.iter().map(|(_, chunk)| chunk).sum::<u64>()
    }

    fn shape(&self) -> BatchShape {
        let sum = |of: fn(&(u64, u64)) -> u64| self.prompts.iter().map(of).sum();
        BatchShape {
            decode_requests: self.decodes.len() as u64,
            // The token that is computed in this step is the one that Vidur counts already.
            decode_context: self.decodes.iter().map(|n| n - 1).sum(),
            prefill_requests: self.prompts.len() as u64,
            prefill_tokens: sum(|p| p.1),
            prefill_context: sum(|p| p.0),
            prefill_tokens_x_context: sum(|p| p.0 * p.1),
            prefill_tokens_squared: sum(|p| p.1 * p.1),
            prefill_tokens_max: self.prompts.iter().map(|p| p.1).max().unwrap_or(0),
            prefill_context_pages: sum(|p| p.0.div_ceil(64)),
            ..BatchShape::default()
        }
    }
}

/// A folder of predictions, where there is one.
fn folder(name: &str) -> Option<PathBuf> {
    let dir = shared().map(|dir| dir.join("data/profiles/vidur").join(name)).filter(|dir| dir.is_dir());
    if dir.is_none() {
        eprintln!("skipped: no {name}");
    }
    dir
}

const LLAMA_2: &str = "predictions-llama-2-7b-a100-tp1";
const LLAMA_3: &str = "predictions-llama-3-8b-a100-tp1-canary";

/// `operators` on a folder of predictions.
fn model(dir: &Path, kv_heads: u32) -> Box<dyn LatencyModel> {
    let mut s = scenario_8b();
    (s.model.layers, s.model.heads, s.model.kv_heads) = (LAYERS, 32, kv_heads);
    s.deployment.latency = Latency::Operators(Operators::of("predictions"));
    s.supplied = Supplied { profile: Some(predictions(dir)), ..Supplied::default() };
    of(&s.sites()[0]).expect("a profile that fits")
}

/// Steps against the sums.
struct Comparison {
    tables: Tables,
    model: Box<dyn LatencyModel>,
    grouped: bool,
    compared: usize,
    /// The nearest nanosecond itself.
    equal: usize,
}

impl Comparison {
    fn new(dir: &Path, branch: Branch, kv_heads: u32) -> Comparison {
        let (tables, model) = (Tables::read(dir, branch), model(dir, kv_heads));
        Comparison { tables, model, grouped: kv_heads < 32, compared: 0, equal: 0 }
    }

    #[track_caller]
    fn check(&mut self, batch: &Batch) {
        let expected = self.tables.seconds(batch, self.grouped) * 1e9;
        let found = self.model.step(&batch.shape()).0;
        assert!((found as f64 - expected).abs() <= OFF_NS, "{batch:?} takes {found} ns, not {expected}");
        self.compared += 1;
        self.equal += usize::from(found == expected.round() as i64);
    }

    /// Nothing was outside of the tables, and next to no step was rounded otherwise.
    #[track_caller]
    fn end(self, least: usize) {
        println!("{} of {} steps to the nanosecond", self.equal, self.compared);
        assert!(self.compared >= least, "{}", self.compared);
        assert!(self.equal * 1_000 >= self.compared * 999, "{} of {}", self.equal, self.compared);
        assert_eq!(self.model.extrapolated(), 0);
    }
}

/// A step of every shape that the tables of attention have, and of every number of tokens.
fn every_row(name: &str, branch: Branch, kv_heads: u32, least: usize) {
    let Some(dir) = folder(name) else { return };
    let mut all = Comparison::new(&dir, branch, kv_heads);
    for (n, context) in all.tables.decode.keys().copied().collect::<Vec<_>>() {
        if context > 0 {
            all.check(&Batch { decodes: vec![context; n as usize], ..Batch::default() });
            all.check(&Batch { decodes: vec![context - 63; n as usize], ..Batch::default() });
        }
    }
    let most = all.tables.most_tokens();
    for (context, chunk) in all.tables.prefill.keys().copied().collect::<Vec<_>>() {
        if chunk > 0 && chunk <= most {
            all.check(&Batch { prompts: vec![(context, chunk)], ..Batch::default() });
        }
    }
    all.end(least);
}

#[test]
fn every_prediction_of_main() {
    every_row(LLAMA_2, Branch::Main, 32, 280_000);
}

#[test]
fn every_prediction_of_canary() {
    every_row(LLAMA_3, Branch::Canary, 8, 28_000);
}

/// Batches of both kinds of requests, drawn at random; with and without groups of heads.
fn random(name: &str, branch: Branch, kv_heads: u32) {
    let Some(dir) = folder(name) else { return };
    let mut all = Comparison::new(&dir, branch, kv_heads);
    let mut random = PythonRandom::new(kv_heads);
    let mut upto = |n: u64| u64::from(random.choice(n as u32 + 1));
    for _ in 0..20_000 {
        let mut batch = Batch::default();
        let longest = upto(4_000) + 1;
        for _ in 0..upto(100) {
            batch.decodes.push(upto(longest) + 1);
        }
        for _ in 0..upto(4) {
            // Together at most 4,096 tokens before, after each is rounded up.
            let context = if upto(1) == 0 { 0 } else { upto(900) };
            batch.prompts.push((context, upto(900) + 1));
        }
        if batch.tokens() > 0 {
            all.check(&batch);
        }
    }
    all.end(19_000);
}

#[test]
fn mixed_batches_of_main() {
    random(LLAMA_2, Branch::Main, 32);
    random(LLAMA_2, Branch::Main, 8);
}

#[test]
fn mixed_batches_of_canary() {
    random(LLAMA_3, Branch::Canary, 8);
}

/// A batch of a run of Vidur's.
struct Row {
    prefill: u64,
    decode: u64,
    size: usize,
    seconds: f64,
}

fn csv(file: &Path) -> Vec<BTreeMap<String, String>> {
    let mut text = String::new();
    let file = std::fs::File::open(file).expect("a table of the case");
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("a table of the case");
    csv::Reader::from_reader(text.as_bytes()).deserialize().map(|row| row.expect("a row")).collect()
}

/// How a run puts batches together; what it says of them leaves one way only.
enum Rule {
    /// New prompts alone, in full, or everybody who decodes.
    Vllm,
    /// Everybody who decodes, then prompts that have begun, then new ones, up to so many tokens.
    Sarathi(u64),
}

/// A request of the run.
struct Running {
    prompt: u64,
    /// Tokens that Vidur counts as processed, and those at which it ends.
    processed: u64,
    end: u64,
}

/// Puts the batches of a run together again, from the lengths of its requests and the sizes of its batches, and compares
/// the time of each.
fn replay(name: &str, rule: &Rule) {
    let case = shared().map(|dir| dir.join("reference/cases/vidur").join(name)).filter(|dir| dir.is_dir());
    let (Some(dir), Some(case)) = (folder(LLAMA_2), case) else { return eprintln!("skipped: no {name}") };
    let number = |row: &BTreeMap<String, String>, name: &str| row[name].parse::<u64>().expect("a number");
    let mut waiting: VecDeque<Running> = VecDeque::new();
    for row in csv(&case.join("request_metrics.csv.gz")) {
        assert_eq!(number(&row, "request_num_restarts"), 0);
        let prompt = number(&row, "request_num_prefill_tokens");
        waiting.push_back(Running { prompt, processed: 0, end: prompt + number(&row, "request_num_decode_tokens") });
    }
    let mut all = Comparison::new(&dir, Branch::Main, 32);
    let mut running: Vec<Running> = Vec::new();
    let rows = csv(&case.join("batch_metrics.csv.gz"));
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(number(row, "Batch Id"), i as u64);
        let row = Row {
            prefill: number(row, "batch_num_prefill_tokens"),
            decode: number(row, "batch_num_decode_tokens"),
            size: number(row, "batch_size") as usize,
            seconds: row["batch_execution_time"].parse().expect("seconds"),
        };
        let (decodes, chunk) = match rule {
            Rule::Vllm => (row.prefill == 0, u64::MAX),
            Rule::Sarathi(chunk) => (true, *chunk),
        };
        let mut batch = Batch::default();
        for request in running.iter_mut().filter(|r| decodes && r.processed > r.prompt) {
            batch.decodes.push(request.processed);
            request.processed += 1;
        }
        let (begun, mut left) = (running.len(), chunk - batch.decodes.len() as u64);
        // As many new ones as the batch has room for, by its size.
        let partial = running.iter().filter(|r| r.processed < r.prompt).count();
        let new = row.size - batch.decodes.len() - partial.min(row.size - batch.decodes.len());
        running.extend(waiting.drain(..new));
        assert_eq!(running.len(), begun + new);
        for request in running.iter_mut().filter(|r| r.processed < r.prompt) {
            let tokens = left.min(request.prompt - request.processed);
            if tokens > 0 {
                batch.prompts.push((request.processed, tokens));
                left -= tokens;
                request.processed += tokens;
                // The first token of the reply comes with the end of the prompt.
                request.processed += u64::from(request.processed == request.prompt);
            }
        }
        running.retain(|r| r.processed < r.end);
        let decoding = batch.decodes.len();
        assert_eq!((decoding as u64, decoding + batch.prompts.len()), (row.decode, row.size), "batch {i}");
        assert_eq!(batch.tokens(), row.decode + row.prefill, "batch {i}");
        let seconds = all.tables.seconds(&batch, false);
        assert!((seconds - row.seconds).abs() < CLOCK_S, "batch {i}: {seconds}, not {}: {batch:?}", row.seconds);
        all.check(&batch);
    }
    assert!(waiting.is_empty() && running.is_empty());
    all.end(rows.len());
}

#[test]
fn batches_of_a_run_of_sarathi() {
    replay("a_l27b_sarathi512_q3_2k_detail", &Rule::Sarathi(512));
}

#[test]
fn batches_of_a_run_of_vllm() {
    replay("a_l27b_vllm_q3_2k_detail", &Rule::Vllm);
}
