//! What a user writes for each kind of stage. Doc comments become the JSON Schema that editors show.
//!
//! Every choice among implementations is a bare name or a one-key map with its parameters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use pipe_kernel::queueing::Queueing;
use pipe_kernel::scenario::{Load, Measure, ThinkTime};
use pipe_kernel::workload::{Adapters, ArrivalProcess, Images, Lengths, SharedPrefix, StepContext, SyntheticSessions};

use super::calibrate::Calibrate;
use super::{Fidelity, FilePath, Optimize, Profile, Ref, Search, Text, Tree};

/// A stage: one of these keys, with its settings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    Ingest(Ingest),
    Synthesize(Synthesize),
    Tokenize(Tokenize),
    Profile(Box<Profile>),
    Simulate(Simulate),
    Sql(Sql),
    Slo(Slo),
    Search(Box<Search>),
    Optimize(Box<Optimize>),
    Calibrate(Calibrate),
    Plot(Plot),
    Compare(Compare),
    Fidelity(Fidelity),
}

/// Read a trace file into a table of requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    /// The file; `.gz` and `.zst` are unpacked while reading.
    pub path: FilePath,
    /// Its format. Default: found from the first line.
    #[serde(default)]
    pub format: Format,
    /// For `csv`, `jsonl` and `parquet`: which column of the file holds what. Default: the names of the table.
    #[serde(default)]
    pub columns: Columns,
    /// Unit of the arrival column of `csv`, `jsonl` and `parquet`.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// For `csv`, `jsonl` and `parquet` of requests that a server answered: which columns hold what was measured. Makes a
    /// second table, `<stage>_measured`; formats of measured runs (`vllm_bench`, `otel`, `trace_v2`) make it without this.
    #[serde(default)]
    pub measured: Option<MeasuredColumns>,
    /// Of a file with several runs of a server: the one to read. Each run has a time 0 of its own.
    #[serde(default)]
    pub run: Option<String>,
    /// For `vllm_bench`: the file that the benchmark took its requests from (format `llmservingsim`), for the numbers of
    /// their tokens and so for what their prompts share. The run has the requests of that file, in its order or by the
    /// number at the end of their names.
    #[serde(default)]
    pub tokens: Option<FilePath>,
    /// Tokens per hashed block, where the file has block hashes. Default: that of the format (Mooncake 512).
    #[serde(default)]
    pub block_tokens: Option<u32>,
    /// What to do with a row that cannot be read.
    #[serde(default)]
    pub bad_rows: BadRows,
    /// Read only the first so many requests. Default: all.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// A trace format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Auto,
    /// JSON lines `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (512-token blocks).
    Mooncake,
    /// CSV `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure LLM inference traces, 2023 and 2024).
    Azure,
    /// CSV `arrived_at` (s), `num_prefill_tokens`, `num_decode_tokens`, and optionally block hashes and sessions.
    Vidur,
    /// Conversations as JSON or JSON lines: `id`, `conversations: [{from, value}]`.
    Sharegpt,
    /// JSON lines `input_toks`, `output_toks`, `arrival_time_ns`, and optionally `input_tok_ids`, `output_tok_ids`: a
    /// workload of LLMServingSim.
    Llmservingsim,
    /// JSON lines `input_toks`, `output_toks`, `arrival_time`, `queued_ts`, `scheduled_ts`, `first_token_ts`,
    /// `last_token_ts` (s): what LLMServingSim's benchmark of vLLM writes. Measured.
    VllmBench,
    /// Parquet `start_unix_ns`, `latency.time_to_first_token`, `latency.e2e`, `usage.prompt_tokens`, ...: request spans of
    /// vLLM's OpenTelemetry tracing, an attribute per column, `gen_ai.` in front of the names or not. Measured.
    Otel,
    /// CSV `send_time_us`, `first_chunk_time_us`, `last_chunk_time_us`, ..., with a header beside it (`.yaml`):
    /// TraceV2 of inference-sim, as its client observed it. Measured.
    TraceV2,
    Jsonl,
    Csv,
    Parquet,
}

/// Columns of a generic file. Either token counts, or texts to be tokenized, must be there. `turn`, `think_ns`,
/// `block_tokens` and `encoder_tokens` are read under these names where they are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    pub arrival: Option<String>,
    pub input_tokens: Option<String>,
    pub output_tokens: Option<String>,
    /// The prompt as text.
    pub input: Option<String>,
    /// The reply as text.
    pub output: Option<String>,
    pub session_id: Option<String>,
    pub class: Option<String>,
    pub model: Option<String>,
    pub adapter: Option<String>,
    pub block_hashes: Option<String>,
}

/// Columns of what was measured of a request, of a generic file. All but `status` and `run` are spans of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeasuredColumns {
    /// Unit of the times.
    pub unit: TimeUnit,
    /// From arrival until the engine began with the request.
    pub queue: Option<String>,
    /// From arrival to the first token.
    pub ttft: Option<String>,
    /// Mean time per output token after the first. Default: computed of `ttft` and `e2e`.
    pub tpot: Option<String>,
    /// From arrival to the last token.
    pub e2e: Option<String>,
    /// From when the engine began with it to the first token.
    pub prefill: Option<String>,
    /// From the first token to the last.
    pub decode: Option<String>,
    /// What became of it: `ok`, `completed`, `success`, `finished` or `200`, or what went wrong. Default: all completed.
    pub status: Option<String>,
    /// Which run of the server it belongs to.
    pub run: Option<String>,
}

/// Unit of a time column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    #[default]
    S,
    Ms,
    Us,
    Ns,
}

/// What to do with a row that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadRows {
    /// The stage fails, naming file, line and column.
    #[default]
    Fail,
    /// The row goes to the table `<stage>_rejected`, with the reason.
    Reject,
}

/// Draw requests from distributions: alone, as turns of sessions, or as steps of agents.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Synthesize {
    /// Number of requests.
    pub requests: u32,
    /// Mean arrival rate, requests per second. With `sessions` or `chains` the rate at which those begin: of first turns,
    /// or runs.
    pub rate_rps: f64,
    #[serde(default)]
    pub arrivals: ArrivalProcess,
    /// Prompt length in tokens, without the shared prefix, and without what was said in the session before.
    pub input: Lengths,
    /// Tokens to generate.
    pub output: Lengths,
    /// Prompts of a group begin with the same tokens.
    #[serde(default)]
    pub shared_prefix: Option<SharedPrefix>,
    /// Tokens per hashed block.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
    /// The requests are turns of conversations.
    #[serde(default)]
    pub sessions: Option<SyntheticSessions>,
    /// The requests are steps of agents. Not together with `sessions`.
    #[serde(default)]
    pub chains: Option<Chains>,
    /// Models that are asked for: name -> weight. Turns of a session ask for the same. Default: no request names one.
    #[serde(default)]
    pub models: BTreeMap<String, f64>,
    /// LoRA adapters that are asked for. Turns of a session ask for the same.
    #[serde(default)]
    pub adapters: Option<Adapters>,
    /// Some requests bring images.
    #[serde(default)]
    pub images: Option<Images>,
}

/// Runs of an agent, all of the same steps. Every run is one session; `rate_rps` is the rate of the runs, and `requests`
/// the number of steps of all of them: what would arrive later is left out, so that the last runs may be cut.
///
/// ```yaml
/// agents:
///   synthesize:
///     requests: 5000
///     rate_rps: 0.5
///     input: { lognormal_p50_p90: { p50: 200, p90: 1500 } }
///     output: { lognormal_p50_p90: { p50: 100, p90: 400 } }
///     shared_prefix: { groups: 1, tokens: 3000 }
///     chains:
///       turn_s: 5
///       steps:
///         plan: { output: { constant: { tokens: 300 } } }
///         search: { after: [plan], tool_time: { exponential: { mean_s: 2 } } }
///         code: { after: [plan], tool_time: { lognormal: { mean_s: 8, cv: 1.5 } } }
///         answer: { after: [search, code] }
///         check: { after: [answer], context: fresh, output: { constant: { tokens: 20 } } }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chains {
    /// Name -> step. Those without `after` begin the run. The name is also the class of its requests.
    pub steps: IndexMap<Text, ChainStep>,
    /// A step whose prompt and reply together would have more tokens than this is left out, and so is what waits for it.
    /// Steps that begin the run are always made. Default: 16777216.
    #[serde(default)]
    pub max_context: Option<u32>,
    /// How long a request is assumed to take, in seconds: a step arrives this and its `tool_time` after the last of those
    /// that it waits for. Of no effect in a simulation, where they are done when they are done.
    #[serde(default)]
    pub turn_s: f64,
}

/// A step of an agent: one request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChainStep {
    /// Steps that must be done before it is sent.
    #[serde(default)]
    pub after: Vec<Text>,
    /// New tokens of its prompt. Default: the `input` of the stage.
    #[serde(default)]
    pub input: Option<Lengths>,
    /// Tokens to generate. Default: the `output` of the stage.
    #[serde(default)]
    pub output: Option<Lengths>,
    /// Time from the end of the last step that it waits for until it is sent: a tool runs. Default: none.
    #[serde(default)]
    pub tool_time: Option<ThinkTime>,
    /// What its prompt begins with.
    #[serde(default)]
    pub context: StepContext,
}

fn sixteen() -> u32 {
    16
}

/// Count the tokens of texts, and hash their blocks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// A table with texts.
    pub from: Ref,
    #[serde(default)]
    pub encoding: Encoding,
    /// Tokens per hashed block.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
}

/// A tokenizer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// GPT-4o and later.
    #[default]
    O200kBase,
    /// GPT-4 and GPT-3.5.
    Cl100kBase,
    /// A Hugging Face `tokenizer.json`.
    HuggingFace(HuggingFace),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HuggingFace {
    /// The `tokenizer.json`.
    pub path: FilePath,
}

/// Simulate every scenario of a sweep over the same requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Simulate {
    /// A table of requests with token counts: of `ingest`, `synthesize`, `tokenize`, or of `sql` with columns
    /// `request_id`, `arrival_ns`, `input_tokens`, `output_tokens`. Read where they are there: `class`, `tenant`, `session_id`,
    /// `block_hashes` and `block_tokens`; `priority`, `max_tokens`, `acceptance` (share of draft tokens, 0 to 1); and, in ns after the arrival of the request,
    /// `deadline_ns`, `timeout_ns`, `cancel_ns`. Needed unless the deployment is `queueing`, which draws its own.
    #[serde(default)]
    pub requests: Option<Ref>,
    /// What is operated: engines behind a router, or `queueing`. Fields that the sweep sets may be left out here.
    #[schemars(with = "AnyDeployment")]
    pub deployment: Tree,
    /// How the requests arrive.
    #[serde(default)]
    #[schemars(with = "Option<Load>")]
    pub workload: Option<Tree>,
    /// Which requests count in the figures of a scenario.
    #[serde(default)]
    #[schemars(with = "Option<Measure>")]
    pub measure: Option<Tree>,
    /// Seed of the scenarios. Default: that of the pipeline. Swept scenarios share it, so that they differ in
    /// nothing but what is swept.
    #[serde(default)]
    pub seed: Option<u64>,
    #[serde(default)]
    pub sweep: Option<Sweep>,
    /// A `calibrate` stage, whose values go over what is written here; or any table with columns `path` (dotted) and
    /// `value`. What the sweep sets goes before both.
    #[serde(default)]
    pub calibration: Option<Ref>,
    /// Also write `<stage>_steps`: a row per iteration of each engine.
    #[serde(default)]
    pub steps: bool,
    /// Also write `<stage>_routes`: a row per candidate of every decision of a router.
    #[serde(default)]
    pub routes: bool,
}

// For the schema alone: a deployment is a `Tree` until its scenario is complete.
/// What is operated: engines behind a router, or queues.
#[derive(JsonSchema)]
#[serde(untagged)]
pub enum AnyDeployment {
    Engines(Box<pipe_kernel::scenario::Deployment>),
    Queues(Box<Queues>),
}

/// A deployment of queues.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Queues {
    Queueing(Queueing),
}

/// The scenarios of a fan-out: the product of what is given here.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// Every combination: dotted path -> values.
    pub grid: IndexMap<Text, Vec<Tree>>,
    /// Side by side: dotted path -> values, all of one length.
    pub zip: IndexMap<Text, Vec<Tree>>,
    /// One by one: each item sets some dotted paths.
    pub list: Vec<IndexMap<Text, Tree>>,
    /// SQL condition over the columns of the scenario; where it is not true, the scenario is left out.
    #[serde(rename = "where")]
    pub filter: Option<Text>,
}

/// Query tables with SQL.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// The statements. `sql: "SELECT ..."` is short for `sql: { query: "SELECT ..." }`.
    #[serde(default)]
    pub query: Option<Text>,
    /// A file with the statements, instead of `query`.
    #[serde(default)]
    pub file: Option<FilePath>,
    /// Columns that the result must have, with their types, in this order.
    #[serde(default)]
    pub schema: Option<IndexMap<String, String>>,
    /// Permit `approx_*` aggregates, whose results differ from run to run.
    #[serde(default)]
    pub allow_approx: bool,
}

/// Judge every scenario against service-level objectives.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// A `simulate` stage.
    pub from: Ref,
    /// All rules must hold for the verdict to be `true`.
    pub rules: Vec<Rule>,
    /// Make the run fail with exit code 3 when no scenario meets every rule.
    #[serde(default)]
    pub assert: bool,
}

/// A rule: a quantile of each metric, or a fraction of the requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: Text,
    /// The limits hold at this quantile of each metric (0 to 1, exact, linear interpolation).
    #[serde(default)]
    pub quantile: Option<f64>,
    /// At least this fraction of the requests meets the limits (0 to 1).
    #[serde(default)]
    pub fraction: Option<f64>,
    /// Every limit must hold.
    #[serde(default)]
    pub all: Vec<Limit>,
    /// At least one limit must hold.
    #[serde(default)]
    pub any: Vec<Limit>,
    /// Only requests of this class. Default: all requests.
    #[serde(default)]
    pub class: Option<String>,
}

/// Bounds on a metric of a request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// `ttft_ms`, `tpot_ms`, `itl_ms_p99`, `e2e_ms`, `queue_ms`, or another numeric column of the requests table.
    pub metric: Text,
    #[serde(default)]
    pub max: Option<f64>,
    #[serde(default)]
    pub min: Option<f64>,
}

/// Say how far a simulation is off what was measured: request by request, and in aggregate.
///
/// ```yaml
/// check:
///   compare:
///     measured: real_measured
///     simulated: sim
///     warmup: { requests: 10 }
///     network_rtt_ms: 0.4
///     artefacts: [tpot_counts_first_token]
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// What is held to be true: the table `<stage>_measured` of an `ingest` stage, or another table of one run with columns
    /// `request_id` (or `arrival_ns`, with `pair: order`) and any of `ttft_ns`, `tpot_ns`, `itl_ns_mean`, `e2e_ns`. Read
    /// where they are there: `arrival_ns`, `input_tokens`, `output_tokens`, `queue_ns`, `second_chunk_ns`, `status`,
    /// `measured`.
    pub measured: Ref,
    /// What is judged: a `simulate` stage, with all its scenarios, or a table as above; with `scenario_id` it may have several
    /// scenarios.
    pub simulated: Ref,
    /// Default: all.
    #[serde(default = "all_figures")]
    pub metrics: Vec<CompareMetric>,
    /// Which request is which.
    #[serde(default)]
    pub pair: PairBy,
    /// Requests at the start that do not count, on either side, by the arrivals of the measured side.
    #[serde(default)]
    pub warmup: Margin,
    /// Requests at the end that do not count.
    #[serde(default)]
    pub cooldown: Margin,
    /// How far the clock of the measured arrivals is ahead of that of the simulated ones; taken off before `warmup.s` and
    /// `cooldown.s`, and before arrivals are compared. Latencies are spans of time, and do not change.
    #[serde(default)]
    pub clock_offset: ClockOffset,
    /// Round trip between client and server, in milliseconds: taken off the measured `ttft` and `e2e`, for times that a
    /// client took.
    #[serde(default)]
    pub network_rtt_ms: f64,
    /// What the measuring client is known to do to its figures; corrected in this order on the measured side.
    #[serde(default)]
    pub artefacts: Vec<Artefact>,
    /// Resamples for the intervals of confidence; 0 for none. Costs as many times the pairs.
    #[serde(default = "thousand")]
    pub bootstrap: u32,
    /// Of the intervals, 0 to 1.
    #[serde(default = "ninety_five")]
    pub confidence: f64,
    /// Seed of the bootstrap. Default: that of the pipeline.
    #[serde(default)]
    pub seed: Option<u64>,
    /// When agreement is called what.
    #[serde(default)]
    pub verdicts: Verdicts,
}

fn all_figures() -> Vec<CompareMetric> {
    CompareMetric::ALL.to_vec()
}
fn thousand() -> u32 {
    1000
}
fn ninety_five() -> f64 {
    0.95
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompareMetric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first; not of replies of one token.
    Tpot,
    /// Mean gap between the tokens of a request; its TPOT where a side does not say.
    Itl,
    /// End-to-end latency.
    E2e,
    /// Output tokens and requests per second, from the first arrival to the last end, of the requests that both sides served.
    Throughput,
}

impl CompareMetric {
    pub const ALL: [CompareMetric; 5] =
        [CompareMetric::Ttft, CompareMetric::Tpot, CompareMetric::Itl, CompareMetric::E2e, CompareMetric::Throughput];
}

/// Which request of one side is which of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairBy {
    /// That of the same number.
    #[default]
    RequestId,
    /// The first to arrive on one side is the first on the other, and so on.
    Order,
}

/// Requests at one end of a run; both limits hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Margin {
    /// So many requests.
    pub requests: u32,
    /// Those that arrive within so many seconds of the first (or the last) arrival.
    pub s: f64,
}

/// How far one clock is ahead of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClockOffset {
    #[default]
    None,
    /// The median difference of the arrivals of the pairs.
    Auto,
    /// Milliseconds.
    Ms(f64),
}

/// What a client is known to do to what it measures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Artefact {
    /// The first chunk of a reply acknowledges the request and holds no token (TGIS, and so LLM-Pilot's data; an empty first
    /// delta of chat endpoints): the first token is the second chunk. Needs the column `second_chunk_ns`, from arrival; TPOT
    /// is computed anew.
    AcknowledgedFirstChunk,
    /// TPOT is end-to-end latency over all output tokens, the first among them (GuideLLM): computed anew of TTFT and
    /// end-to-end latency.
    TpotCountsFirstToken,
    /// Chunks of the stream were counted as output tokens, and a chunk may hold several: the lengths of the simulated side
    /// are taken, and TPOT is computed anew.
    ChunksCountedAsTokens,
    /// TTFT and end-to-end latency begin when the engine began with the request: its time in the queue is added. Needs the
    /// column `queue_ns`.
    TimesStartAtEngine,
    /// TTFT and end-to-end latency have the time in which the prompt went over a slow line, at 4 bytes per token.
    Upload(Upload),
}

/// A line that prompts go over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Megabits (1,000,000 bits) per second.
    pub bandwidth_mbit_s: f64,
}

/// When agreement is called excellent, good or fair; else it is poor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verdicts {
    pub excellent: Agreement,
    pub good: Agreement,
    pub fair: Agreement,
}

impl Default for Verdicts {
    fn default() -> Self {
        let agreement = |mape_pct, pearson| Agreement { mape_pct, pearson };
        // The scale of inference-sim's `calibrate`.
        Verdicts { excellent: agreement(10.0, 0.95), good: agreement(20.0, 0.85), fair: agreement(35.0, 0.7) }
    }
}

/// What a verdict asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// The mean absolute error is below so many percent.
    pub mape_pct: f64,
    /// The correlation is above this, where there is one.
    pub pearson: f64,
}

/// Draw a chart from a query.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// The data: a query whose columns are named below.
    pub query: Text,
    #[serde(default)]
    pub kind: PlotKind,
    /// Column on the horizontal axis. For `cdf`: the column whose distribution is drawn.
    pub x: Text,
    /// Column on the vertical axis. Not for `cdf`.
    #[serde(default)]
    pub y: Option<Text>,
    /// Column that splits the rows into lines, each with its colour and a legend entry.
    #[serde(default)]
    pub series: Option<Text>,
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub x_label: Option<String>,
    #[serde(default)]
    pub y_label: Option<String>,
    #[serde(default)]
    pub x_log: bool,
    #[serde(default)]
    pub y_log: bool,
    /// Width in pixels.
    #[serde(default = "plot_width")]
    pub width: u32,
    /// Height in pixels.
    #[serde(default = "plot_height")]
    pub height: u32,
}

fn plot_width() -> u32 {
    960
}
fn plot_height() -> u32 {
    600
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlotKind {
    #[default]
    Line,
    Scatter,
    Bar,
    /// Cumulative distribution of `x`.
    Cdf,
}

/// Everything that a pipeline file may contain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Name of the pipeline: its tables are published under `data/tables/<name>/`.
    pub name: Text,
    #[serde(default)]
    pub description: Option<String>,
    /// Seed of everything random in the pipeline.
    #[serde(default)]
    pub seed: u64,
    /// Values for `${name}`; overridden with `--set name=value`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Value>")]
    pub params: IndexMap<Text, Tree>,
    /// Files whose `params` and `stages` are merged into this one; what stands here wins.
    #[serde(default)]
    #[schemars(with = "Vec<PathBuf>")]
    pub include: Vec<FilePath>,
    /// Name -> stage. Names are tables: `[a-z][a-z0-9_]*`.
    pub stages: IndexMap<Text, StageSpec>,
}
