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
use pipe_kernel::scenario::{Load, Measure};

use super::calibrate::Calibrate;
use super::{
    Export, Fidelity, FilePath, Ingest, Optimize, Plot, Profile, Ref, Search, Synthesize, Text, Tokenize, Transform,
    Tree,
};

/// A stage: one of these keys, with its settings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    Ingest(Ingest),
    Synthesize(Synthesize),
    Transform(Transform),
    Tokenize(Tokenize),
    Profile(Box<Profile>),
    Simulate(Simulate),
    Sql(Sql),
    Slo(Slo),
    Search(Box<Search>),
    Optimize(Box<Optimize>),
    Calibrate(Calibrate),
    Plot(Box<Plot>),
    Compare(Compare),
    Fidelity(Fidelity),
    Export(Export),
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
    /// `request_id` (or `arrival_ns`, with `pair: order`) and any of `ttft_ns`, `tpot_ns`, `itl_ns_mean`, `e2e_ns`; also
    /// under the names that a trace has for them, `observed_ttft_ns` and so on. Read where they are there: `arrival_ns`,
    /// `input_tokens`, `output_tokens`, `queue_ns`, `second_chunk_ns`, `status`, `measured`.
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
