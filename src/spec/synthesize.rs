//! What a user writes for `synthesize`.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use pipe_kernel::scenario::ThinkTime;
use pipe_kernel::workload::{Adapters, ArrivalProcess, Images, Lengths, SharedPrefix, StepContext, SyntheticSessions};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Text;

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
