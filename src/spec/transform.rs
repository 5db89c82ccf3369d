//! What a user writes for `transform`.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ref, Text};

/// Change a table of requests, step by step: cut, sample, speed up, repeat, merge, shorten, label.
///
/// ```yaml
/// rush_hour:
///   transform:
///     from: trace
///     steps:
///       - window: { from_s: 3600, to_s: 7200 }
///       - sample: { share: 0.25, by: session }
///       - rescale: { rate_rps: 8 }
///       - cap: { max_model_len: 32768, cut: prompt_end }
///       - assign: { where: "input_tokens > 8000", class: batch, priority: 1 }
///       - merge: { table: code, tenant: code }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// A table of requests: of `ingest`, `synthesize`, `tokenize`, `transform`, or of `sql` with the same columns. Its other
    /// columns are kept as they are.
    pub from: Ref,
    /// In this order, each on what the one before made.
    pub steps: Vec<TransformStep>,
}

/// A step of a `transform`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransformStep {
    /// Keep the requests for which this SQL condition over the columns is true: `"input_tokens > 100 AND class = 'chat'"`.
    Filter(Text),
    /// Keep the requests that arrive in a window of time.
    Window(Window),
    /// Keep some of the requests, sessions or clients.
    Sample(Sample),
    /// Speed the trace up or slow it down. All gaps change by one factor, so that bursts stay bursts.
    Rescale(Rescale),
    /// Let everything arrive later.
    Shift(Shift),
    /// Play the trace several times, one after the other.
    Repeat(Repeat),
    /// Who arrives when is drawn anew within windows of time; when someone arrives stays.
    Shuffle(Shuffle),
    /// Add the requests of another table.
    Merge(Merge),
    /// Make prompts and replies longer or shorter.
    ScaleLengths(ScaleLengths),
    /// Fit the requests into a model's context.
    Cap(Cap),
    /// Give requests a class, a tenant, limits of time, by a rule.
    Assign(Box<Assign>),
    /// Draw the values of a column by weight.
    Distribute(Distribute),
    /// Set columns to what SQL expressions over the columns of the row give: `{ class: "CASE WHEN ... END" }`.
    Set(IndexMap<Text, Text>),
}

/// A window of time, in seconds since the start of the trace.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    #[serde(default)]
    pub from_s: f64,
    /// What arrives then is not in it. Default: the end.
    #[serde(default)]
    pub to_s: Option<f64>,
    /// Arrivals keep their times. Default: the window begins at 0.
    #[serde(default)]
    pub keep_times: bool,
}

/// What stays or goes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    #[default]
    Request,
    /// A request without `session_id` is one of its own.
    Session,
    /// A request without `client` is one of its own.
    Client,
}

/// A sample. Of one seed, a smaller sample is part of a larger one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Each is kept with this probability, 0 to 1. This or `count`.
    #[serde(default)]
    pub share: Option<f64>,
    /// Exactly so many are kept, or all where there are fewer.
    #[serde(default)]
    pub count: Option<u64>,
    /// What is kept or left out as a whole.
    #[serde(default)]
    pub by: Unit,
}

/// A new pace: one of the two.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rescale {
    /// Mean rate, requests per second: requests but the last, over the time from the first arrival to the last.
    #[serde(default)]
    pub rate_rps: Option<f64>,
    /// Times the rate that it has.
    #[serde(default)]
    pub factor: Option<f64>,
    /// Also the time that users think, and tools take, changes. Default: it stays.
    #[serde(default)]
    pub think_time: bool,
}

/// A delay.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// Seconds.
    pub s: f64,
}

/// Repetitions: `times`, or a duration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How often the trace is there in the end.
    #[serde(default)]
    pub times: Option<u32>,
    /// As often as it takes to fill so many seconds; what arrives later is left out.
    #[serde(default)]
    pub duration_s: Option<f64>,
    /// From the last arrival of one to the first of the next, in seconds. Default: the mean gap of the trace.
    #[serde(default)]
    pub gap_s: Option<f64>,
    /// Whether what is said again has the same words.
    #[serde(default)]
    pub prefixes: Prefixes,
}

/// Whether requests of two origins may have words in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prefixes {
    /// They share no block: a prefix cache finds nothing of one for the other.
    #[default]
    Separate,
    /// Equal hashes are equal words.
    Shared,
}

/// Who arrives when.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shuffle {
    /// Length of the windows in seconds. Default: the whole trace is one. Turns of a session stay in their order.
    #[serde(default)]
    pub window_s: Option<f64>,
}

/// Another trace, on the same clock.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// A table of requests. Its sessions get the name of the table in front of theirs.
    pub table: Ref,
    /// Tenant of its requests. Default: what the table says.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Its requests arrive so many seconds later.
    #[serde(default)]
    pub shift_s: f64,
    #[serde(default)]
    pub prefixes: Prefixes,
}

/// Factors of lengths. A result is rounded to the nearest token, halves up, and is at least 1.
///
/// Of a prompt that changes, the full blocks at its beginning keep their hashes; the rest, and the reply after it, are
/// words that no other request has.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleLengths {
    #[serde(default = "one")]
    pub input: f64,
    #[serde(default = "one")]
    pub output: f64,
    /// Longest prompt in tokens.
    #[serde(default)]
    pub input_max: Option<u32>,
    /// Longest reply in tokens.
    #[serde(default)]
    pub output_max: Option<u32>,
}

fn one() -> f64 {
    1.0
}

/// The longest context of a model, and what gives way.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// Prompt and reply together have at most so many tokens.
    pub max_model_len: u32,
    pub cut: CutSide,
}

/// What is cut of a request that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CutSide {
    /// The beginning of the prompt, as vLLM's `truncate_prompt_tokens`: what it shared with others is gone.
    PromptStart,
    /// The end of the prompt: its first blocks can still be shared.
    PromptEnd,
    /// The reply. A prompt that leaves no room for one token is left out.
    Output,
    /// Prompt and reply in proportion, each rounded up, as Vidur's trace generator.
    Proportional,
    /// The request is left out.
    Drop,
}

/// Values for the requests that a rule is about. Of several such steps, a later one goes over an earlier one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assign {
    /// SQL condition over the columns. Default: all requests.
    #[serde(rename = "where", default)]
    pub filter: Option<Text>,
    /// Of those, this share, 0 to 1, drawn at random.
    #[serde(default)]
    pub share: Option<f64>,
    /// What is drawn as a whole.
    #[serde(default)]
    pub by: Unit,
    #[serde(default)]
    pub class: Option<String>,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub client: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub adapter: Option<String>,
    /// Lower goes first.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Longest reply that the request allows, in tokens.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Share of draft tokens that are accepted, 0 to 1.
    #[serde(default)]
    pub acceptance: Option<f64>,
    /// Seconds after arrival by which the request should be done.
    #[serde(default)]
    pub deadline_s: Option<f64>,
    /// Seconds after arrival at which it is given up.
    #[serde(default)]
    pub timeout_s: Option<f64>,
    /// Seconds after arrival at which its client goes away.
    #[serde(default)]
    pub cancel_s: Option<f64>,
}

/// Values drawn by weight.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distribute {
    pub column: LabelColumn,
    /// Value -> weight.
    pub weights: BTreeMap<String, f64>,
    /// What gets one value.
    #[serde(default)]
    pub by: Unit,
}

/// A column of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelColumn {
    Class,
    Tenant,
    Client,
    Model,
    Adapter,
}

impl LabelColumn {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            LabelColumn::Class => "class",
            LabelColumn::Tenant => "tenant",
            LabelColumn::Client => "client",
            LabelColumn::Model => "model",
            LabelColumn::Adapter => "adapter",
        }
    }
}
