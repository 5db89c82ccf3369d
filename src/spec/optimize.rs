//! The settings of `optimize`: what is varied, what is wanted, by whom it is evaluated, and when to stop.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pipe_kernel::tune::halving::Halving;
use pipe_kernel::tune::stagnation::Stagnation;
use pipe_kernel::tune::{OnViolation, SamplerSpec};

use super::{FilePath, Ref, Text, Tree};

/// Search a space of parameters for the best configurations: of a simulation, or of a command that measures.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimize {
    /// The `simulate` stage whose base scenario is varied. This, or `external`.
    #[serde(default)]
    pub over: Option<Ref>,
    /// A command that is run with the parameters, and says what came of it. This, or `over`.
    #[serde(default)]
    pub external: Option<External>,
    /// Dotted path of a setting (with `external`: name of a parameter) -> a list of values, or `{ values: [..] }`,
    /// `{ int: [low, high] }`, `{ float: [low, high] }`; with `ordered: true` (a list whose neighbours are similar), `log`,
    /// `step`, `unset: true` (the setting is left out), and `when: { <other parameter>: [<values>] }`.
    pub space: IndexMap<Text, Tree>,
    /// Rules that every trial obeys: an SQL condition, a list of them, or a map of name -> condition. A column that is named
    /// like a parameter is that parameter (NULL where it is unset or does not exist); others are those of the scenario. As
    /// in SQL, what is NULL is not true.
    #[serde(default, rename = "where")]
    #[schemars(with = "Option<Conditions>")]
    pub rules: Option<Tree>,
    /// What becomes of a point that the sampler proposes and that breaks a rule.
    #[serde(default)]
    pub on_violation: OnViolation,
    /// Name -> SQL over the measured requests and the scenario of a trial; smaller is better.
    #[serde(default)]
    pub minimize: IndexMap<String, Text>,
    /// Name -> SQL; larger is better.
    #[serde(default)]
    pub maximize: IndexMap<String, Text>,
    /// Conditions on what came out, written as objectives are, which may be named in them: one, a list, or a map of name ->
    /// condition. Trials that miss one are `infeasible`, and never on the front.
    #[serde(default)]
    #[schemars(with = "Option<Conditions>")]
    pub subject_to: Option<Tree>,
    #[serde(default)]
    pub sampler: SamplerSpec,
    /// Number of trials, without those that are `known`. With more than before, a search begins with the trials that there
    /// were; only `auto` looks at the number, and may pick another sampler for it.
    pub trials: u64,
    /// Trials between two looks of `tpe` at the results, and trials that a rung of `fidelity` is for. `nsga2`, `nsga3` and
    /// `cma_es` have generations of their own.
    #[serde(default = "eight")]
    pub batch: u32,
    /// Seed of the sampler. Default: that of the pipeline.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Successive halving: all trials of a batch see the first part of the requests, the best of them a longer one, few the
    /// whole. Results are compared within a rung only.
    #[serde(default)]
    pub fidelity: Option<Halving>,
    /// All trials simulate with the same seed, so that they differ in their parameters only. Without it, each has its own.
    #[serde(default = "yes")]
    pub common_random_numbers: bool,
    /// From 2 on: the best trials are simulated again until there are so many results of each, with seeds that they have in
    /// common, and compared with the best of them (`<stage>_intervals`).
    #[serde(default = "one")]
    pub replications: u32,
    /// Of these intervals.
    #[serde(default = "confidence")]
    pub confidence: f64,
    /// How many trials are replicated, at most. Default: the whole front, and with one objective the best five.
    #[serde(default)]
    pub replicate: Option<u32>,
    /// When to end before all trials are done.
    #[serde(default)]
    pub stop: Stop,
    /// Points that are tried first; a parameter that is not named has the value of the base, or else the first of its domain.
    #[serde(default)]
    pub enqueue: Vec<IndexMap<Text, Tree>>,
    /// Trials of another search.
    #[serde(default)]
    pub known: Option<Known>,
    /// US dollars of a GPU per hour: the GPU's name in the catalog -> price. With them, `usd_per_hour` and
    /// `usd_per_million_output_tokens` can be asked for. `pipe show prices` has some, with dates.
    #[serde(default)]
    pub prices: IndexMap<Text, f64>,
    /// Writes the study to `data/figures/<pipeline>/<stage>_optuna.log`, in the form of Optuna's journal storage.
    #[serde(default)]
    pub optuna: bool,
}

/// One condition, several, or several with names.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Conditions {
    One(String),
    List(Vec<String>),
    Named(IndexMap<String, String>),
}

/// When to end before all trials are done.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// No batch begins after so many seconds of a run. How many trials there are then depends on the machine. `pipe run
    /// --force <stage>` goes on from there: what was evaluated is remembered.
    pub seconds: Option<f64>,
    /// The best, or with several objectives the hypervolume, does not get better any more.
    pub stagnation: Option<Stagnation>,
}

/// Trials of another search, which this one begins with.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// A table with columns of the parameters, such as `<stage>_trials`. This, or `optuna`.
    #[serde(default)]
    pub table: Option<Ref>,
    /// A file of Optuna's journal storage.
    #[serde(default)]
    pub optuna: Option<FilePath>,
    /// Of that file, the study; may be left out where there is one.
    #[serde(default)]
    pub study: Option<String>,
    /// The results are taken for true, and the sampler learns from them (`imported`). Otherwise the points are tried first.
    #[serde(default)]
    pub results: bool,
}

/// A command that is run once per trial, without a shell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Program and arguments. `{name}` is the value of a parameter, `{seed}` that of the trial, `{dir}` an empty folder that is
    /// removed after it, `{config}` a file with all parameters as JSON, `{{` and `}}` are braces. An argument that is a list
    /// is left out as a whole where one of its parameters is unset.
    #[schemars(with = "Vec<Template>")]
    pub command: Vec<Tree>,
    /// Variables of its environment, beside those that pipe itself has; templates as in `command`.
    #[serde(default)]
    pub env: IndexMap<Text, Text>,
    /// Folder that it runs in. Default: the project's.
    #[serde(default)]
    pub dir: Option<FilePath>,
    /// After so many seconds it is stopped, with all that it started, and the attempt has failed.
    #[serde(default = "ten_minutes")]
    pub timeout_s: f64,
    /// Further attempts, where one fails.
    #[serde(default)]
    pub retries: u32,
    /// Commands that run at once. Of samplers that look at results every `batch` trials, no more than that.
    #[serde(default = "one")]
    pub concurrency: u32,
    /// Name -> where its number stands in what the command prints. Objectives and `subject_to` are SQL over these names and
    /// the parameters.
    pub metrics: IndexMap<Text, Metric>,
    /// Part of what a result is remembered by: change it to measure everything anew.
    #[serde(default)]
    pub version: String,
}

/// An argument of a command, or several that come and go together.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Template {
    One(String),
    Group(Vec<String>),
}

/// Where a number stands in what a command prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// JSON pointer (`/p99_ttft_ms`) into the last JSON object of its standard output, which may span lines.
    Json(String),
    /// Regular expression; its first group in the last line that matches, of standard output, then of standard error.
    Regex(String),
    /// In a file that the command writes.
    File(JsonFile),
}

/// A number in a JSON file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonFile {
    /// Path of the file, relative to the folder that the command runs in; a template as in `command`.
    pub path: String,
    /// JSON pointer into it.
    pub json: String,
}

fn eight() -> u32 {
    8
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn confidence() -> f64 {
    0.95
}

fn ten_minutes() -> f64 {
    600.0
}
