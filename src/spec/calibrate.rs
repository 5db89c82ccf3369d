//! What a user writes for a stage `calibrate`: what was measured, and what is fitted to it.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pipe_kernel::tune::racing::Racing;
use pipe_kernel::tune::{CmaEs, SamplerSpec};

use super::{FilePath, Ref, Text, Tree};

/// Fit the coefficients of a latency model and its overheads to what was measured. One of three ways.
///
/// ```yaml
/// fit:
///   calibrate:
///     requests:
///       over: sim
///       measured: logs_measured
///       parameters:
///         deployment.latency.linear.base_us: [2000, 20000]
///         deployment.latency.linear.per_prefill_token_us: { bounds: [1, 100], log: true }
///       trials: 300
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Calibrate {
    /// Durations of steps: least squares.
    Steps(Box<CalibrateSteps>),
    /// Times of requests, or published aggregates: a search that simulates.
    Requests(Box<CalibrateRequests>),
    /// The optimizer configuration of inference-sim, with the logs and tokens that it names.
    OptimizerConfig(Box<CalibrateConfig>),
}

/// Least squares over the durations of steps.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateSteps {
    /// A table with a row per step and the columns `latency_us`, `prefill_tokens`, `prefill_requests`,
    /// `decode_requests`, and where a term needs them `prefill_context`, `decode_context`, `prefill_tokens_max`: of
    /// `profile` or `sql`. Rows of a profile that are no steps are left out.
    pub from: Ref,
    /// The form that is fitted.
    pub model: StepModel,
    /// Coefficients that are fitted; the others are 0. Default: all, for `regression` those of decode tokens, prompt
    /// tokens, prompts, and the intercept.
    #[serde(default)]
    pub terms: Vec<Text>,
    /// The `simulate` stage whose model, GPU and parallelism the steps were measured on. Needed for the models that are
    /// made of such facts: all but `linear` and `regression`.
    #[serde(default)]
    pub over: Option<Ref>,
    /// Whether a microsecond or a percent counts the same in every step.
    #[serde(default)]
    pub weights: Weights,
    /// Coefficients below zero are not allowed.
    #[serde(default = "yes")]
    pub non_negative: bool,
    /// Column whose values are configurations: all rows of one are in the train part, or none. Needed for a test part.
    #[serde(default)]
    pub split_by: Option<Text>,
    /// Share of the configurations in the train part, drawn by `seed`. Default: 0.8 with `split_by`.
    #[serde(default)]
    pub train_share: Option<f64>,
    /// Instead of a share: the configurations of the train part. Default: those that are not in `test`.
    #[serde(default)]
    pub train: Vec<Text>,
    /// Instead of a share: the configurations of the test part. Default: those that are not in `train`.
    #[serde(default)]
    pub test: Vec<Text>,
    /// Seed of the split. Default: that of the pipeline.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// Latency models whose steps are sums of coefficients times numbers of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepModel {
    Linear,
    Regression,
    TrainedPhysics,
    TrainedRoofline,
    CrossModel,
}

/// What an error of a step counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// As much as its share of the step.
    #[default]
    Relative,
    /// As much as its microseconds.
    Absolute,
}

/// A search for the parameters with which the simulation is closest to what was measured.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateRequests {
    /// The `simulate` stage whose base scenario is calibrated.
    pub over: Ref,
    /// A table of requests as a server answered them, as `ingest` makes them: `<stage>_measured`. Short for one case.
    #[serde(default)]
    pub measured: Option<Ref>,
    /// Several measurements, each of a configuration of its own.
    #[serde(default)]
    pub cases: Vec<CalibrateCase>,
    /// Dotted path -> bounds: `[low, high]`, or `{ bounds: [low, high], log: true, scaling: 1e-4 }`.
    pub parameters: IndexMap<Text, Tree>,
    /// How far off a trial is.
    #[serde(default)]
    pub objective: ErrorFunction,
    #[serde(default = "cma_es")]
    pub sampler: SamplerSpec,
    /// Number of trials.
    pub trials: u64,
    /// Trials simulated at once. The trials of a run do not depend on it.
    #[serde(default = "sixteen")]
    pub batch: u32,
    /// Seed of the sampler. Default: that of the pipeline.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Trials see the train cases block by block, and one that is worse than the best so far beyond chance (Wilcoxon's test)
    /// sees no more of them. Which trials there are then depends on `batch`.
    #[serde(default)]
    pub racing: Option<Racing>,
}

/// A measurement.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrateCase {
    /// Default: `case 1` and so on.
    pub name: Option<Text>,
    /// The requests that were sent. Default: those of the simulation.
    pub requests: Option<Ref>,
    /// The table of how they were answered.
    pub measured: Option<Ref>,
    /// Only the rows of this `run` of the table.
    pub run: Option<Text>,
    /// Instead of a table, a log of `vllm bench serve` (text), or its result file (JSON): the requests in their order.
    pub log: Option<FilePath>,
    /// Instead of both, aggregates: `<ttft|tpot|e2e>_ms_<mean|p50|p90|p95|p99>`, `rps` -> value.
    pub targets: IndexMap<Text, f64>,
    /// What the server was configured to: dotted path -> value.
    pub set: IndexMap<Text, Tree>,
    pub role: CaseRole,
}

/// What a measurement is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaseRole {
    /// Fitted to.
    #[default]
    Train,
    /// Held out: the best parameters are judged by it.
    Test,
}

/// How far off a trial is: the mean over features. Features are median, mean and 99th percentile of TTFT and of TPOT
/// (each a list over the cases), and all TTFTs and all TPOTs; or the aggregates that are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorFunction {
    /// Mean of the relative errors where the measured value is above 0. Infinite where the simulation has fewer values
    /// than were measured; a feature of which it has more is left out.
    #[default]
    Mape,
    /// Mean of the squared errors, in milliseconds squared. Infinite where the numbers of values differ.
    Mse,
}

/// The optimizer configuration of inference-sim (`optimizer_config.yaml`), taken as it is. It names `tokens_dir`,
/// `vllm_dir`, `kv_blocks`, `error_function`, `pbounds`, `scaling`, `train_config`, `test_config`, `seed`, `n_trials`;
/// `sim_dir` has no meaning here.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateConfig {
    /// The file; paths in it are relative to it.
    pub path: FilePath,
    /// Name of the model in the catalog.
    pub model: Text,
    /// Name of the GPU in the catalog.
    pub gpu: Text,
    /// Other settings of the server: dotted path -> value.
    #[serde(default)]
    pub set: IndexMap<Text, Tree>,
    /// Parameters that are not searched, though `pbounds` has them: name -> value, in units of the file (seconds;
    /// microseconds for overheads).
    #[serde(default)]
    pub fix: IndexMap<Text, f64>,
    #[serde(default = "cma_es")]
    pub sampler: SamplerSpec,
    /// Number of trials, in place of the file's `n_trials` (and of 100, where it has none).
    #[serde(default)]
    pub trials: Option<u64>,
    /// Trials simulated at once. The trials of a run do not depend on it.
    #[serde(default = "sixteen")]
    pub batch: u32,
    /// Seed of the arrivals, as the client of the benchmark was given it.
    #[serde(default = "forty_two")]
    pub arrival_seed: u32,
    /// Trials see the train configurations block by block, and one that is worse than the best so far beyond chance
    /// (Wilcoxon's test) sees no more of them. Which trials there are then depends on `batch`.
    #[serde(default)]
    pub racing: Option<Racing>,
}

fn yes() -> bool {
    true
}

fn cma_es() -> SamplerSpec {
    SamplerSpec::CmaEs(CmaEs::default())
}

fn sixteen() -> u32 {
    16
}

fn forty_two() -> u32 {
    42
}
