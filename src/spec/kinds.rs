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
use pipe_kernel::tune::SamplerSpec;
use pipe_kernel::workload::{Adapters, ArrivalProcess, Images, Lengths, SharedPrefix, StepContext, SyntheticSessions};

use super::{FilePath, Ref, Text, Tree};

/// A stage: one of these keys, with its settings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    Ingest(Ingest),
    Synthesize(Synthesize),
    Tokenize(Tokenize),
    Simulate(Simulate),
    Sql(Sql),
    Slo(Slo),
    Optimize(Optimize),
    Plot(Plot),
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
    /// `request_id`, `arrival_ns`, `input_tokens`, `output_tokens`. Read where they are there: `class`, `session_id`,
    /// `block_hashes` and `block_tokens`; `priority`, `max_tokens`; and, in ns after the arrival of the request,
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

/// Search the space of deployments for the best ones.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimize {
    /// The `simulate` stage whose base scenario is varied.
    pub over: Ref,
    /// Dotted path -> a list of values, `{ int: [low, high] }` or `{ float: [low, high] }`, with `log` and `step`.
    pub space: IndexMap<Text, Tree>,
    /// SQL condition over the columns of the scenario that every trial satisfies.
    #[serde(default, rename = "where")]
    pub filter: Option<Text>,
    /// Name -> SQL over the measured requests and the scenario of a trial; smaller is better.
    #[serde(default)]
    pub minimize: IndexMap<String, Text>,
    /// Name -> SQL; larger is better.
    #[serde(default)]
    pub maximize: IndexMap<String, Text>,
    #[serde(default)]
    pub sampler: SamplerSpec,
    /// Number of trials.
    pub trials: u64,
    /// Trials asked for at once. The trials of a run do not depend on it.
    #[serde(default = "eight")]
    pub batch: u32,
    /// Seed of the sampler. Default: that of the pipeline.
    #[serde(default)]
    pub seed: Option<u64>,
}

fn eight() -> u32 {
    8
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
