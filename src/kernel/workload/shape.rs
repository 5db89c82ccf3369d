//! What a request is in numbers: the lengths of prompt and reply and how they go together, images and other media, and
//! how much of the reply is reasoning.
//!
//! Every part has a stream of its own. Lengths that are correlated keep the stream of the prompt: with another
//! correlation, or another reply, the prompts stay the same.

use std::collections::BTreeMap;

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::families::normal_below;
use super::lengths::Sampler;
use super::mix::Images;
use super::{Lengths, MAX_TOKENS, Problem, Problems};
use crate::rng;

/// How the lengths of prompt and reply go together, where each has a distribution of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correlation {
    /// One says nothing of the other.
    #[default]
    Independent,
    /// The longer the prompt, the longer the reply: both are the same quantile of their distributions (ServeGen).
    Comonotone,
    /// A Gaussian copula: the normal scores of both lengths have the correlation `rho`.
    Gaussian(GaussianCopula),
}

/// Parameters of a Gaussian copula.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GaussianCopula {
    /// Correlation of the normal scores, -1 to 1. That of the ranks (Spearman's) is `6 / pi * asin(rho / 2)`.
    pub rho: f64,
}

/// Lengths of prompt and reply that are drawn together: rows of a table, or pairs listed here, all equally likely.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Joint {
    /// Prompt and reply in tokens.
    pub pairs: Vec<(u32, u32)>,
    /// Instead of `pairs`: the table. Rows where a length is null, or below 1, are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Column of `from` with the lengths of the prompts. Default: `input_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Column of `from` with the lengths of the replies. Default: `output_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl Joint {
    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let Joint { pairs, from, input, output } = self;
        let mut own = Problems::below(path);
        own.require(pairs.is_empty() != from.is_none(), "pairs", || match from {
            Some(_) => "cannot be there together with `from`".to_owned(),
            None => "are missing: at least one, or a table (`from`)".to_owned(),
        });
        own.require(from.is_some() || (input.is_none() && output.is_none()), "from", || {
            "is missing: the table of these columns".to_owned()
        });
        for (i, (input, output)) in pairs.iter().enumerate() {
            for (j, tokens) in [input, output].into_iter().enumerate() {
                own.require((1..=MAX_TOKENS).contains(tokens), &format!("{}.{i}.{j}", "pairs"), || {
                    format!("must be from 1 to {MAX_TOKENS} tokens, not {tokens}")
                });
            }
        }
        own.found
    }
}

/// Replies that are reasoning in part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reasoning {
    /// Share of the reply that is reasoning.
    pub share: Ratio,
}

/// A distribution of shares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// Always the same.
    Constant(ConstantRatio),
    /// Every share from `min` to `max` equally likely.
    Uniform(UniformRatio),
    /// Whole percent, distributed like lengths (what is called tokens there is percent here); above 100 is 100.
    Percent(Box<Lengths>),
}

/// Parameters of a constant share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstantRatio {
    /// 0 to 1.
    pub value: f64,
}

/// Parameters of evenly distributed shares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UniformRatio {
    /// 0 to 1.
    pub min: f64,
    /// Not below `min`, at most 1.
    pub max: f64,
}

impl Reasoning {
    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let path = format!("{path}.share");
        let mut own = Problems::below(&path);
        match &self.share {
            Ratio::Constant(ConstantRatio { value }) => {
                own.require((0.0..=1.0).contains(value), "constant.value", || {
                    format!("must be from 0 to 1, not {value}")
                });
            }
            Ratio::Uniform(UniformRatio { min, max }) => {
                own.require((0.0..=1.0).contains(min), "uniform.min", || format!("must be from 0 to 1, not {min}"));
                own.require(max >= min && *max <= 1.0, "uniform.max", || {
                    format!("must be from min, which is {min}, to 1, not {max}")
                });
            }
            Ratio::Percent(lengths) => own.found.extend(lengths.problems(&format!("{path}.percent"))),
        }
        own.found
    }
}

/// The settings that say what requests are in numbers.
pub(super) struct Settings<'a> {
    pub input: &'a Lengths,
    pub output: &'a Lengths,
    pub correlation: Correlation,
    pub joint: Option<&'a Joint>,
    pub images: Option<&'a Images>,
    pub audio: Option<&'a Images>,
    pub video: Option<&'a Images>,
    pub reasoning: Option<&'a Reasoning>,
}

/// The numbers of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// New words of the prompt, media included.
    pub input: u32,
    pub output: u32,
    /// Of media.
    pub encoder: Option<u32>,
    /// Number of media, where it is known.
    pub media: Option<u32>,
    pub reasoning: Option<u32>,
}

/// Draws shapes.
pub(super) struct Shapes {
    input: Sampler,
    output: Sampler,
    correlation: Correlation,
    joint: Vec<(u32, u32)>,
    /// Their streams, their settings, and samplers of count and tokens.
    media: Vec<Medium>,
    reasoning: Option<(Ratio, Option<Sampler>)>,
}

struct Medium {
    labels: [&'static str; 3],
    share: f64,
    count: Option<Sampler>,
    tokens: Sampler,
}

impl Shapes {
    pub fn new(settings: &Settings) -> Shapes {
        let Settings { input, output, correlation, joint, images, audio, video, reasoning } = settings;
        let medium = |of: Option<&Images>, labels: [&'static str; 3]| {
            of.map(|m| Medium {
                labels,
                share: m.share,
                count: m.count.as_ref().map(Lengths::sampler),
                tokens: m.tokens.sampler(),
            })
        };
        let media = [
            medium(*images, ["images", "images/count", "images/tokens"]),
            medium(*audio, ["audio", "audio/count", "audio/tokens"]),
            medium(*video, ["video", "video/count", "video/tokens"]),
        ];
        Shapes {
            input: input.sampler(),
            output: output.sampler(),
            correlation: *correlation,
            joint: joint.map_or(Vec::new(), |j| j.pairs.clone()),
            media: media.into_iter().flatten().collect(),
            reasoning: reasoning.map(|r| match &r.share {
                Ratio::Percent(lengths) => (r.share.clone(), Some(lengths.sampler())),
                Ratio::Constant(_) | Ratio::Uniform(_) => (r.share.clone(), None),
            }),
        }
    }

    /// One shape, from these streams.
    pub fn draw(&self, from: &mut Streams) -> Shape {
        let (input, output) = self.lengths(from);
        let mut shape = Shape { input, output, ..Shape::default() };
        for medium in &self.media {
            let (tokens, count) = medium.draw(from);
            shape.encoder = Some(shape.encoder.unwrap_or(0).saturating_add(tokens).min(MAX_TOKENS));
            if let Some(count) = count {
                shape.media = Some(shape.media.unwrap_or(0).saturating_add(count));
            }
        }
        shape.input += shape.encoder.unwrap_or(0);
        if let Some((ratio, percent)) = &self.reasoning {
            let rng = from.get("reasoning");
            let share = match ratio {
                Ratio::Constant(ConstantRatio { value }) => *value,
                Ratio::Uniform(UniformRatio { min, max }) => min + (max - min) * rng::uniform01(rng),
                Ratio::Percent(_) => {
                    let percent = percent.as_ref().map_or(0, |p| p.sample(rng));
                    f64::from(percent.min(100)) / 100.0
                }
            };
            shape.reasoning = Some(libm::round(share * f64::from(output)) as u32);
        }
        shape
    }

    fn lengths(&self, from: &mut Streams) -> (u32, u32) {
        if !self.joint.is_empty() {
            return self.joint[rng::below(from.get("joint"), self.joint.len() as u64) as usize];
        }
        match self.correlation {
            Correlation::Independent => (self.input.sample(from.get("input")), self.output.sample(from.get("output"))),
            Correlation::Comonotone => {
                let u = rng::uniform_open(from.get("input"));
                (self.input.quantile(u), self.output.quantile(u))
            }
            Correlation::Gaussian(GaussianCopula { rho }) => {
                let u = rng::uniform_open(from.get("input"));
                let free = rng::standard_normal(from.get("output"));
                let score = rho * rng::normal_quantile(u) + libm::sqrt(1.0 - rho * rho) * free;
                // A score beyond 8 would be a certainty in floats.
                let v = normal_below(score).clamp(1e-15, 1.0 - 1e-15);
                (self.input.quantile(u), self.output.quantile(v))
            }
        }
    }
}

impl Medium {
    /// Tokens of a request's media, and their number where it is drawn.
    fn draw(&self, from: &mut Streams) -> (u32, Option<u32>) {
        let [share, count, tokens] = self.labels;
        let Some(counts) = &self.count else {
            let drawn = self.tokens.sample(from.get(tokens));
            return (if rng::uniform01(from.get(share)) < self.share { drawn } else { 0 }, None);
        };
        let count = counts.sample(from.get(count)).min(MEDIA);
        if rng::uniform01(from.get(share)) >= self.share {
            return (0, Some(0));
        }
        let rng = from.get(tokens);
        let sum = (0..count).fold(0u32, |sum, _| sum.saturating_add(self.tokens.sample(rng)));
        (sum.min(MAX_TOKENS), Some(count))
    }
}

/// Most images, sounds or videos of a request.
pub(super) const MEDIA: u32 = 10_000;

pub(super) fn correlation_problems(correlation: &Correlation, input: &Lengths, output: &Lengths) -> Vec<Problem> {
    let mut own = Problems::below("correlation");
    if let Correlation::Gaussian(GaussianCopula { rho }) = correlation {
        own.require((-1.0..=1.0).contains(rho), "gaussian.rho", || format!("must be from -1 to 1, not {rho}"));
    }
    let skewed = [input, output].into_iter().any(|l| matches!(l, Lengths::SkewNormal(_)));
    let mut whole = Problems::below("");
    whole.require(*correlation == Correlation::Independent || !skewed, "correlation", || {
        "cannot be with `skew_normal` lengths, whose quantiles have no formula".to_owned()
    });
    own.found.extend(whole.found);
    own.found
}

/// The streams of a workload, or of one request of it, by what they are for.
pub(super) struct Streams {
    seed: u64,
    of: String,
    open: BTreeMap<&'static str, Pcg64>,
}

impl Streams {
    /// Streams called `{of}/{what}`.
    pub fn new(seed: u64, of: String) -> Streams {
        Streams { seed, of, open: BTreeMap::new() }
    }

    pub fn get(&mut self, what: &'static str) -> &mut Pcg64 {
        let Streams { seed, of, open } = self;
        open.entry(what).or_insert_with(|| rng::stream(*seed, &format!("{of}/{what}")))
    }
}
