//! Steps from measured times of operators: what is looked up, and how it adds up to a step.
//!
//! ```text
//! grid.rs      interpolation                    dense.rs     sums of series, by tokens and by requests
//! layers.rs    LLMServingSim's layers           database.rs  aiconfigurator's operators
//! vidur.rs     Vidur's profiles and predictions generic.rs   whole steps of a user's own
//! shapes.rs    operators that were not measured at the very shape
//! ```
//!
//! A step of `T` new tokens of `R` requests takes the layers that work token by token at `T`, those that work request by
//! request (output matrix, sampler) at `R`, and the attention of its prompts and of its requests that decode, each times
//! its number per step. Attention depends on the batch through these: of requests that decode, their number and the mean
//! of their contexts; of prompts, their number, new tokens, and pairs of tokens that attend to each other.
//!
//! Outside of what was measured, times go on as the roofline does (see `grid.rs`), and the step is counted. What is
//! missing altogether is found before a run.

mod database;
mod dense;
mod generic;
mod grid;
mod layers;
mod shapes;
mod vidur;

pub(super) use generic::Scatter;

use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::dense::Dense;
use self::grid::Read;
use super::work::{Costs, Work};
use super::{BatchShape, LatencyModel, SCALE_MAX, not_in, ns, one};
use crate::profile::{Layout, Operator, Profile};
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::sim::facts::ACTIVATION_BYTES;
use crate::sim::{WorkSums, facts};
use crate::units::SimDuration;

/// Times of operators that were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Operators {
    /// A stage `profile`.
    pub profile: String,
    /// The time of every step is multiplied by this: a coefficient for what was not measured, to be fitted.
    #[serde(default = "one")]
    pub scale: f64,
    /// Per layer and step, in microseconds, beside the operators: launches, element-wise kernels that were not measured.
    #[serde(default)]
    pub layer_us: f64,
    /// Per step, in microseconds.
    #[serde(default)]
    pub step_us: f64,
    /// Type of matrix products as the profile names it. Default: that of the weights.
    #[serde(default)]
    pub gemm_dtype: Option<String>,
    /// Type of the experts as the profile names it. Default: that of matrix products.
    #[serde(default)]
    pub moe_dtype: Option<String>,
    /// How tokens choose experts, as the profile names it. Default: the most skewed that was measured.
    #[serde(default)]
    pub distribution: Option<String>,
    /// Exchange between GPUs where the profile has none: bandwidth in GB/s, one direction. Default: that of the GPU's
    /// link.
    #[serde(default)]
    pub link_gb_per_s: Option<f64>,
    /// The same: latency of one exchange in microseconds.
    #[serde(default = "ten")]
    pub link_latency_us: f64,
}

fn ten() -> f64 {
    10.0
}

/// Largest overhead: a second.
const OVERHEAD_MAX_US: f64 = 1e6;

impl Operators {
    /// Everything by default.
    pub fn of(profile: &str) -> Operators {
        Operators {
            profile: profile.to_string(),
            scale: one(),
            layer_us: 0.0,
            step_us: 0.0,
            gemm_dtype: None,
            moe_dtype: None,
            distribution: None,
            link_gb_per_s: None,
            link_latency_us: ten(),
        }
    }

    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = not_in("deployment.latency.operators.scale", self.scale, SCALE_MAX, "");
        let link = self.link_gb_per_s.unwrap_or(1.0);
        if !(link.is_finite() && link > 0.0) {
            let message = format!("is {link}; must be a number above 0");
            found.push(("deployment.latency.operators.link_gb_per_s", message));
        }
        for (path, us) in [
            ("deployment.latency.operators.layer_us", self.layer_us),
            ("deployment.latency.operators.step_us", self.step_us),
            ("deployment.latency.operators.link_latency_us", self.link_latency_us),
        ] {
            if !(0.0..=OVERHEAD_MAX_US).contains(&us) {
                found.push((path, format!("is {us}; must be 0 to {OVERHEAD_MAX_US} microseconds")));
            }
        }
        found
    }

    /// What is wrong with settings that were given, by path, where the model of this profile does not read them.
    pub(crate) fn unread(&self, profile: &Profile) -> Vec<(&'static str, String)> {
        // Types and choices are those of aiconfigurator's tables; exchanges may be missing there, and in layers.
        let (names, links) = match profile.layout {
            Layout::Operators => (true, true),
            Layout::Layers => (false, true),
            Layout::Vidur | Layout::VidurPredictions => (false, false),
            Layout::Generic | Layout::Steps => (!whole_steps(profile), !whole_steps(profile)),
        };
        let given = [
            ("deployment.latency.operators.gemm_dtype", self.gemm_dtype.is_some(), names),
            ("deployment.latency.operators.moe_dtype", self.moe_dtype.is_some(), names),
            ("deployment.latency.operators.distribution", self.distribution.is_some(), names),
            ("deployment.latency.operators.link_gb_per_s", self.link_gb_per_s.is_some(), links),
            ("deployment.latency.operators.link_latency_us", self.link_latency_us != ten(), links),
        ];
        let unread = given.into_iter().filter(|(_, given, read)| *given && !read);
        let message = format!(
            "is nothing that a profile of the layout `{}` reads; `{}` is one: leave it out",
            profile.layout.name(),
            self.profile
        );
        unread.map(|(path, ..)| (path, message.clone())).collect()
    }
}

/// Everything that a layout needs to make a model.
#[derive(Clone, Copy)]
struct Making<'a> {
    settings: &'a Operators,
    d: &'a Deployment,
    m: &'a ModelSpec,
    g: &'a GpuSpec,
    profile: &'a Profile,
}

impl Making<'_> {
    /// Most new tokens of a step, and most requests.
    fn most_tokens(&self) -> u64 {
        self.d.scheduler.common().map_or(0, |common| common.tokens_max)
    }

    fn most_sequences(&self) -> u64 {
        self.d.scheduler.common().map_or(0, |common| common.seats)
    }

    /// `times` exchanges of the hidden states over the tensor-parallel GPUs, as a line over the new tokens of a step, in
    /// nanoseconds: rings in which every GPU sends `2 (tp - 1) / tp` of the bytes.
    fn rings(&self, times: f64) -> (f64, f64) {
        let tp = f64::from(self.d.tp);
        if self.d.tp < 2 {
            return (0.0, 0.0);
        }
        let bytes_per_ns = self.link_gb_per_s();
        let sent = 2.0 * (tp - 1.0) / tp * f64::from(self.m.hidden) * ACTIVATION_BYTES;
        (times * self.settings.link_latency_us * 1e3, times * sent / bytes_per_ns)
    }

    fn link_gb_per_s(&self) -> f64 {
        self.settings.link_gb_per_s.unwrap_or_else(|| facts::link_gb_per_s(self.g))
    }
}

/// The model of a profile.
///
/// # Errors
/// What the profile lacks for this model and parallelism: one sentence each, with what it has.
pub(crate) fn model(
    settings: &Operators,
    d: &Deployment,
    m: &ModelSpec,
    g: &GpuSpec,
    profile: &Profile,
) -> Result<Box<dyn LatencyModel>, Vec<String>> {
    let making = Making { settings, d, m, g, profile };
    let mut lacking = Vec::new();
    if m.linear_layers > 0 && !whole_steps(profile) {
        lacking.push(format!("it has no linear attention, which {} of the {} layers have", m.linear_layers, m.layers));
    }
    match composed(making) {
        Ok(model) if lacking.is_empty() => return Ok(model),
        Ok(_) => {}
        Err(more) => lacking.extend(more),
    }
    Err(lacking)
}

fn composed(making: Making<'_>) -> Result<Box<dyn LatencyModel>, Vec<String>> {
    Ok(match making.profile.layout {
        Layout::Operators => Box::new(database::model(making)?),
        Layout::Layers => Box::new(layers::model(making)?),
        Layout::Vidur => Box::new(vidur::profiled(making)?),
        Layout::VidurPredictions => Box::new(vidur::predicted(making)?),
        Layout::Generic | Layout::Steps if whole_steps(making.profile) => Box::new(generic::model(making)?),
        Layout::Generic | Layout::Steps => Box::new(database::model(making)?),
    })
}

/// Whether steps were measured as a whole, whatever they are made of.
fn whole_steps(profile: &Profile) -> bool {
    match profile.layout {
        Layout::Generic | Layout::Steps => !profile.of(Operator::Step).is_empty(),
        Layout::Operators | Layout::Layers | Layout::Vidur | Layout::VidurPredictions => false,
    }
}

/// The attention of a batch, all layers together, in nanoseconds.
trait Attention: Send + Sync {
    /// Of requests that decode.
    fn decode(&self, decodes: &Decodes) -> Read;

    /// Of prompts alone.
    fn prefill(&self, prompts: &Prompts) -> Read;

    /// Of both in one batch.
    fn both(&self, prompts: &Prompts, decodes: &Decodes) -> Read {
        let (one, other) = (self.prefill(prompts), self.decode(decodes));
        Read { value: one.value + other.value, inside: one.inside && other.inside }
    }

    /// Whether least and greatest context matter.
    fn wants_spread(&self) -> bool {
        false
    }
}

/// The requests of a batch that decode: how many, and what they attend to, the new token included.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Decodes {
    n: f64,
    /// On average.
    context: f64,
    least: f64,
    greatest: f64,
}

impl Decodes {
    fn of(s: &BatchShape) -> Decodes {
        let n = s.decode_requests as f64;
        Decodes {
            n,
            context: s.decode_context as f64 / n + 1.0,
            least: s.decode_context_min as f64 + 1.0,
            greatest: s.decode_context_max as f64 + 1.0,
        }
    }
}

/// The prompts of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Prompts {
    requests: f64,
    /// New tokens of all.
    tokens: f64,
    /// Tokens of all that are in the cache already.
    context: f64,
    /// Pairs of a new token and one that it attends to, itself included, of all.
    pairs: f64,
}

impl Prompts {
    fn of(s: &BatchShape) -> Prompts {
        Prompts {
            requests: s.prefill_requests as f64,
            tokens: s.prefill_tokens as f64,
            context: s.prefill_context as f64,
            pairs: s.prefill_pairs(),
        }
    }

    /// The one prompt `(chunk, context)` with as many new tokens and pairs; where there is none, because several short
    /// prompts have fewer pairs, the one without context that has as many pairs.
    fn as_one(&self) -> (f64, f64) {
        let context = self.pairs / self.tokens - (self.tokens + 1.0) / 2.0;
        if context >= 0.0 {
            return (self.tokens, context);
        }
        // x (x + 1) / 2 = pairs
        ((libm::sqrt(1.0 + 8.0 * self.pairs) - 1.0) / 2.0, 0.0)
    }

    /// As many equal prompts `(chunk, context)` with as many new tokens and pairs. Unequal ones have more pairs than equal
    /// ones, so that the context is never negative.
    fn as_equal(&self) -> (f64, f64) {
        let chunk = self.tokens / self.requests;
        (chunk, (self.pairs / self.tokens - (chunk + 1.0) / 2.0).max(0.0))
    }
}

/// A model put together from parts.
struct Composed {
    by_tokens: Dense,
    by_sequences: Dense,
    attention: Box<dyn Attention>,
    /// Beside the parts, in nanoseconds.
    step_ns: f64,
    scale: f64,
    costs: Costs,
    outside: AtomicU64,
}

impl Composed {
    fn new(making: Making<'_>, by_tokens: Dense, by_sequences: Dense, attention: Box<dyn Attention>) -> Composed {
        let Making { settings, d, m, g, .. } = making;
        Composed {
            by_tokens,
            by_sequences,
            attention,
            step_ns: (settings.step_us + settings.layer_us * f64::from(m.layers)) * 1e3,
            scale: settings.scale,
            costs: Costs::new(d, m, g),
            outside: AtomicU64::new(0),
        }
    }
}

impl LatencyModel for Composed {
    fn step(&self, s: &BatchShape) -> SimDuration {
        let tokens = self.by_tokens.at(s.decode_requests + s.prefill_tokens);
        let sequences = self.by_sequences.at(s.decode_requests + s.prefill_requests);
        let attention = match (s.decode_requests, s.prefill_requests) {
            (0, 0) => Read { value: 0.0, inside: true },
            (_, 0) => self.attention.decode(&Decodes::of(s)),
            (0, _) => self.attention.prefill(&Prompts::of(s)),
            _ => self.attention.both(&Prompts::of(s), &Decodes::of(s)),
        };
        if !(tokens.inside && sequences.inside && attention.inside) {
            self.outside.fetch_add(1, Ordering::Relaxed);
        }
        SimDuration(ns((tokens.value + sequences.value + attention.value + self.step_ns) * self.scale))
    }

    fn shortest_step(&self) -> SimDuration {
        // Tables need not grow everywhere; nothing is below what a batch takes without its attention.
        SimDuration(ns((self.by_tokens.least() + self.by_sequences.least() + self.step_ns) * self.scale))
    }

    fn work(&self, sums: &WorkSums) -> Option<Work> {
        Some(self.costs.work(sums))
    }

    fn peak(&self) -> Option<Work> {
        Some(self.costs.peak())
    }

    fn wants_spread(&self) -> bool {
        self.attention.wants_spread()
    }

    fn extrapolated(&self) -> u64 {
        self.outside.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
