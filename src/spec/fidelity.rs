//! What a user writes for a stage `fidelity`: what was measured, and which latency models are held against it.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FilePath, Ref, Text, Tree};

/// Report how far latency models are off real servers: as they are, and fitted on a part of what was measured, with errors
/// on the part that was held out. What is held out are whole configurations, never single requests of one.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fidelity {
    /// Runs with times of every request: name -> run.
    pub runs: IndexMap<Text, MeasuredRun>,
    /// Tables with a mean TTFT and TPOT per configuration: name -> table.
    pub configurations: IndexMap<Text, MeasuredConfigurations>,
    /// Steps of an engine: name -> steps.
    pub steps: IndexMap<Text, MeasuredSteps>,
    /// Errors that other simulators published: a JSON file `{experiments: {name: {metadata, simulators: {name: {<metric>_mpe}}}}}`.
    pub published: Option<FilePath>,
    /// Trials of a fit.
    #[serde(default = "trials")]
    pub trials: u32,
    /// Seed of fits, splits and intervals. Default: that of the pipeline.
    pub seed: Option<u64>,
}

fn trials() -> u32 {
    192
}

/// A measured run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredRun {
    /// A stage `ingest` of a measured run: its requests, with `<stage>_measured` beside them.
    pub requests: Ref,
    /// The server, without its latency model.
    #[schemars(with = "serde_json::Value")]
    pub deployment: Tree,
    /// Name -> latency model.
    pub models: IndexMap<Text, Candidate>,
    /// A configuration of the client ends where nothing was in flight for so many seconds. Every second one is for fitting,
    /// from the first. Default: the run is one configuration, and nothing is fitted.
    #[serde(default)]
    pub idle_s: Option<f64>,
    /// What the figures should be.
    #[serde(default)]
    pub aims: Vec<Aim>,
}

/// A latency model that is held against what was measured.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// As `deployment.latency`.
    #[schemars(with = "serde_json::Value")]
    pub latency: Tree,
    /// As `deployment.overheads`.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub overheads: Option<Tree>,
    /// What is fitted: dotted path -> `[lowest, highest]`.
    #[serde(default)]
    pub fit: IndexMap<Text, (f64, f64)>,
}

/// An aim: the figure should not be above `max_pct`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aim {
    /// Name of the model.
    pub model: Text,
    pub metric: AimMetric,
    pub figure: AimFigure,
    /// Of the fitted model, on what was held out. Default: as it is, on everything.
    #[serde(default)]
    pub fitted: bool,
    /// In percent.
    pub max_pct: f64,
    /// What is known about it, told where it is missed.
    #[serde(default)]
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AimMetric {
    Ttft,
    Tpot,
    E2e,
    /// Time of a step.
    Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AimFigure {
    /// Error of the mean, whatever its sign.
    Mean,
    /// Mean absolute error of the requests, or of the configurations.
    Mape,
}

/// Steps of an engine, of which shape and time are known.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredSteps {
    /// A stage `profile` with whole steps. Contexts of several prompts are taken to be equal.
    pub profile: Ref,
    /// The server, without its latency model.
    #[schemars(with = "serde_json::Value")]
    pub deployment: Tree,
    /// Name -> latency model. Nothing is fitted here: that is the business of a stage `calibrate` with `steps`.
    pub models: IndexMap<Text, Candidate>,
    /// What the figures should be.
    #[serde(default)]
    pub aims: Vec<Aim>,
}

/// Means per configuration, in the columns of aiconfigurator's silicon table: `model_path`, `system`, `tp_size`, `pp_size`,
/// `attention_dp_size`, `moe_ep_size`, `isl`, `osl`, `batch_size` (users of a closed loop), `gemm_quant_mode`,
/// `moe_quant_mode`, `silicon_ttft_ms`, `silicon_tpot_ms`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredConfigurations {
    /// A CSV file.
    pub path: FilePath,
    /// Column -> values: only rows that have one of them.
    #[serde(default)]
    pub only: BTreeMap<String, Vec<String>>,
    /// Value of `system` -> what it is here. Other rows are left out.
    pub systems: IndexMap<Text, System>,
    /// What the server is set to, beside model, GPU and parallelism.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub deployment: Option<Tree>,
    /// The client, of which the table says no more than its number of users.
    #[serde(default)]
    pub client: Client,
    /// What the figures should be.
    #[serde(default)]
    pub aims: Vec<Aim>,
}

/// A GPU of a table of configurations.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Name in the catalog.
    pub gpu: Text,
    /// Name -> latency model. What is fitted is one factor on the time of a step, where the model has a `scale`.
    pub models: IndexMap<Text, Candidate>,
}

/// A client of a closed loop. Users whose prompts and replies have different lengths do not stay in step. As it is without
/// settings, InferenceX drives its servers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// Requests of every user, one after the other. Fewer where they were more than 20,000 in all, but more than
    /// `warmup_per_user`.
    pub requests_per_user: u32,
    /// Lengths are drawn evenly from this share of the stated one up to all of it.
    pub shortest: f64,
    /// Requests of every user that are left out of the means, from the first.
    pub warmup_per_user: u32,
}

impl Default for Client {
    fn default() -> Client {
        Client { requests_per_user: 10, shortest: 0.8, warmup_per_user: 0 }
    }
}
