//! What a user writes for `synthesize`.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use pipe_kernel::scenario::ThinkTime;
use pipe_kernel::workload::{
    Active, Adapters, ArrivalProcess, Correlation, Diurnal, Images, Joint, Lengths, PrefixGroup, PrefixTree,
    RateSchedule, Reasoning, SharedPrefix, Spike, StepContext, SyntheticSessions, SystemPrompt,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FilePath, Placed, Ref, Text, Tree};

/// The settings of a stage `synthesize`, and the YAML that they were read from.
pub type Synthesize = Placed<SynthesizeSettings>;

/// Draw requests: from distributions, alone, as turns of sessions, or as steps of agents; from several `clients`; as a
/// workload file of another tool says (`spec`, `preset`, `servegen`); or like those of a trace (`from`).
///
/// ```yaml
/// day:
///   synthesize:
///     duration_s: 86400
///     rate_rps: 5
///     diurnal: { peak_hour: 14, peak_to_trough: 4 }
///     clients:
///       chat:  { share: 3, tenant: acme, class: interactive, system_prompt: { tokens: 800 } }
///       batch: { share: 1, tenant: lab, class: batch, arrivals: { batch: { size: { geometric: { mean: 20 } } } } }
///     input: { lognormal_p50_p90: { p50: 300, p90: 2000 } }
///     output: { lognormal_p50_p90: { p50: 200, p90: 600 } }
///     correlation: { gaussian: { rho: 0.4 } }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Synthesize")]
#[serde(deny_unknown_fields)]
pub struct SynthesizeSettings {
    /// Number of requests. This or `duration_s`; with both, what is reached first ends.
    #[serde(default)]
    pub requests: Option<u32>,
    /// Requests that arrive before this, in seconds.
    #[serde(default)]
    pub duration_s: Option<f64>,
    /// Mean arrival rate, requests per second. With `sessions` or `chains` the rate at which those begin: of first
    /// turns, or runs. With `clients` that of all together.
    #[serde(default)]
    pub rate_rps: Option<f64>,
    #[serde(default)]
    pub arrivals: ArrivalProcess,
    /// A rate that changes, in place of `rate_rps`.
    #[serde(default)]
    pub rate_schedule: Option<RateSchedule>,
    /// The rate follows the hours of a day.
    #[serde(default)]
    pub diurnal: Option<Diurnal>,
    /// Times of another rate.
    #[serde(default)]
    pub spikes: Vec<Spike>,
    /// Prompt length in tokens, without the shared prefix, and without what was said in the session before.
    #[serde(default)]
    pub input: Option<Lengths>,
    /// Tokens to generate.
    #[serde(default)]
    pub output: Option<Lengths>,
    /// How the lengths of prompt and reply go together.
    #[serde(default)]
    pub correlation: Correlation,
    /// Lengths of prompt and reply that are drawn together, in place of `input` and `output`.
    #[serde(default)]
    pub joint: Option<Joint>,
    /// What every prompt begins with.
    #[serde(default)]
    pub system_prompt: Option<SystemPrompt>,
    /// Prompts of a group begin with the same tokens.
    #[serde(default)]
    pub shared_prefix: Option<SharedPrefix>,
    /// Prompts begin with a path of a tree, in place of `shared_prefix`.
    #[serde(default)]
    pub prefix_tree: Option<PrefixTree>,
    /// Groups of prefixes of several lengths, in place of `shared_prefix`.
    #[serde(default)]
    pub prefix_groups: Vec<PrefixGroup>,
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
    /// Some requests bring sound; as `images`.
    #[serde(default)]
    pub audio: Option<Images>,
    /// Some requests bring videos; as `images`.
    #[serde(default)]
    pub video: Option<Images>,
    /// Some of the reply is reasoning.
    #[serde(default)]
    pub reasoning: Option<Reasoning>,
    /// Name -> client. What a client does not say is as said above.
    #[serde(default)]
    pub clients: IndexMap<Text, SynthClient>,
    /// A workload as another tool writes it, in place of all above but `requests`, `duration_s` and `block_tokens`.
    #[serde(default)]
    pub spec: Option<WorkloadSpec>,
    /// A named workload of inference-sim, in place of lengths and arrivals.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// Clients as ServeGen describes them, in place of all above but `requests`, `duration_s`, `rate_rps` and
    /// `block_tokens`.
    #[serde(default)]
    pub servegen: Option<Servegen>,
    /// A table of requests: draw such as it has. `fit` says how.
    #[serde(default)]
    pub from: Option<Ref>,
    /// What is taken over from the table `from`.
    #[serde(default)]
    pub fit: Option<Fit>,
}

/// A client of a workload. What it does not say is as the stage says.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SynthClient {
    /// Its share of the rate of the stage, relative to that of the other clients. Default: 1, where it has no rate of
    /// its own.
    #[serde(default)]
    pub share: Option<f64>,
    /// A rate of its own, in requests per second.
    #[serde(default)]
    pub rate_rps: Option<f64>,
    /// Whose requests these are.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Class of service.
    #[serde(default)]
    pub class: Option<String>,
    /// Model that it asks for.
    #[serde(default)]
    pub model: Option<String>,
    /// LoRA adapter that it asks for.
    #[serde(default)]
    pub adapter: Option<String>,
    /// Lower goes first, as of vLLM.
    #[serde(default)]
    pub priority: Option<i32>,
    /// A request should be done so long after its arrival.
    #[serde(default)]
    pub deadline_ms: Option<f64>,
    /// A request is given up so long after its arrival.
    #[serde(default)]
    pub timeout_s: Option<f64>,
    /// When it sends. Default: always.
    #[serde(default)]
    pub active: Vec<Active>,
    #[serde(default)]
    pub arrivals: Option<ArrivalProcess>,
    #[serde(default)]
    pub rate_schedule: Option<RateSchedule>,
    #[serde(default)]
    pub diurnal: Option<Diurnal>,
    #[serde(default)]
    pub spikes: Option<Vec<Spike>>,
    #[serde(default)]
    pub input: Option<Lengths>,
    #[serde(default)]
    pub output: Option<Lengths>,
    #[serde(default)]
    pub correlation: Option<Correlation>,
    #[serde(default)]
    pub joint: Option<Joint>,
    #[serde(default)]
    pub system_prompt: Option<SystemPrompt>,
    #[serde(default)]
    pub shared_prefix: Option<SharedPrefix>,
    #[serde(default)]
    pub prefix_tree: Option<PrefixTree>,
    #[serde(default)]
    pub prefix_groups: Option<Vec<PrefixGroup>>,
    #[serde(default)]
    pub sessions: Option<SyntheticSessions>,
    #[serde(default)]
    pub images: Option<Images>,
    #[serde(default)]
    pub audio: Option<Images>,
    #[serde(default)]
    pub video: Option<Images>,
    #[serde(default)]
    pub reasoning: Option<Reasoning>,
}

/// A workload as another tool writes it: a YAML file, or the same inline.
///
/// Lengths and times have the distributions that the tool draws from; the numbers drawn are others, since every tool
/// has a generator of its own. A key that is not known is an error, one that is not kept is warned about or refused.
/// Seeds in these files have no effect: the pipeline has one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// The file. Either this or `inline`.
    #[serde(default)]
    pub path: Option<FilePath>,
    /// What such a file says.
    #[serde(default)]
    pub inline: Option<Tree>,
    /// Its format. Default: found from its keys.
    #[serde(default)]
    pub format: SpecFormat,
}

/// The format of a workload file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpecFormat {
    #[default]
    Auto,
    /// `format: GuideLLM`, `rate`, `data`: the request generator configuration in the style of GuideLLM. Kept: all of
    /// `rate`; of `data` the lengths, `prefix_tokens`, `prefix_count`, `prefix_buckets` and `turns`. Refused: tool
    /// calls.
    Guidellm,
    /// Workload specification of inference-sim (BLIS), version 2 or 1. Kept: rates, clients, cohorts, windows,
    /// multi-turn, reasoning, media, prefix groups, closed loops, `inference_perf`. Warned about: what a simulation
    /// sets (`network`, `goodput_slo_targets`, `streaming`). Refused: `servegen_data` (see `servegen`), distributions
    /// in files.
    Blis,
    /// Configuration of inference-perf with `load` (types `constant`, `poisson`, `concurrent`) and `data` (types
    /// `shared_prefix`, `random`, `synthetic`). Warned about: what concerns the server and the report. Refused: sweeps,
    /// replays, datasets, media.
    InferencePerf,
}

/// A named workload of inference-sim: equal gaps, normal lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 256 (std 100) tokens in, 256 (100) out.
    Chatbot,
    /// 1024 (150) in, 1024 (200) out.
    Contentgen,
    /// 4096 (500) in, 512 (150) out.
    Summarization,
    /// 10240 (1200) in, 1536 (300) out.
    Multidoc,
}

/// Clients as ServeGen (Alibaba) describes them: a folder with `chunk-*-trace.csv` (rates and gaps by window of 600 s)
/// and `chunk-*-dataset.json` (distributions of lengths). Language, reasoning and multimodal clients.
///
/// In every window a client has its share of the rate, draws `ceil(rate * 600)` gaps of its gamma or Weibull
/// distribution and stretches them to fill the window; one number per request decides all its lengths. Kept: all of
/// that. Left out: clients without a dataset, and windows before the first lengths, both counted in a warning; lengths
/// of 0 are 1.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Servegen {
    /// The folder.
    pub path: FilePath,
    /// Where in the two weeks (or the day) the workload begins, in seconds.
    #[serde(default)]
    pub from_s: f64,
    /// How rates of windows become those of the workload. `rate_rps` of the stage is the mean, or that of every window.
    #[serde(default)]
    pub scale: ServegenScale,
}

/// What the rate of a workload means to ServeGen's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServegenScale {
    /// All rates are multiplied by one factor, so that the mean over the workload is `rate_rps`; without it, they are
    /// as they are.
    #[default]
    Mean,
    /// Every window has `rate_rps` in all: the mix of clients changes, the rate does not.
    EveryWindow,
}

/// What is taken over from a trace.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fit {
    /// What makes a client.
    pub by: FitBy,
    /// Rates are measured in windows of so many seconds. Default: a 24th of the trace, at least 10 s.
    pub window_s: Option<f64>,
    /// What the rates of the trace are multiplied by. Not with `rate_rps`, which is the mean that is wanted.
    pub scale: Option<f64>,
    /// Lengths of prompt and reply.
    pub lengths: FitLengths,
    /// Turns and think times of sessions. Without it, turns are requests of their own.
    pub sessions: bool,
    /// Prefixes that requests share.
    pub prefixes: bool,
}

impl Default for Fit {
    fn default() -> Self {
        Fit {
            by: FitBy::Client,
            window_s: None,
            scale: None,
            lengths: FitLengths::Joint,
            sessions: true,
            prefixes: true,
        }
    }
}

/// What makes a client of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FitBy {
    /// Column `client`; where that is null in all rows, `tenant`; else all requests are of one client.
    #[default]
    Client,
    /// Column `tenant`.
    Tenant,
    /// Column `class`.
    Class,
    /// All requests are of one client.
    Nothing,
}

/// How lengths are taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FitLengths {
    /// Pairs of prompt and reply as they are in the trace.
    #[default]
    Joint,
    /// Prompt and reply each as in the trace, coupled by a Gaussian copula of the same rank correlation: pairs that
    /// the trace does not have can occur.
    Copula,
}

/// Runs of an agent, all of the same steps. Every run is one session; `rate_rps` is the rate of the runs, and
/// `requests` the number of steps of all of them: what would arrive later is left out, so that the last runs may be
/// cut.
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
    /// A step whose prompt and reply together would have more tokens than this is left out, and so is what waits for
    /// it. Steps that begin the run are always made. Default: 16777216.
    #[serde(default)]
    pub max_context: Option<u32>,
    /// How long a request is assumed to take, in seconds: a step arrives this and its `tool_time` after the last of
    /// those that it waits for. Of no effect in a simulation, where they are done when they are done.
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
