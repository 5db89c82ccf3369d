//! What requests differ in beside their lengths: the words that they begin with, the model and the adapter that they
//! ask for, and images.

use std::collections::BTreeMap;

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lengths, MAX_TOKENS, Problem, Problems, chain};
use crate::rng;

/// Most prefixes or adapters.
const MAX_KINDS: u32 = 1 << 24;

/// Prompts that begin alike: system prompts, or documents that many users ask about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Number of different prefixes; every request has one of them.
    pub groups: u32,
    /// Length of each prefix in tokens. It comes before, and on top of, the drawn prompt.
    pub tokens: u32,
    /// How unevenly the groups are used: the k-th most popular one has weight `1 / k^skew` (Zipf's law).
    /// 0, the default, is even.
    #[serde(default)]
    pub skew: f64,
}

impl SharedPrefix {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let SharedPrefix { groups, tokens, skew } = *self;
        let mut own = Problems::below("shared_prefix");
        require_kinds(&mut own, groups, "groups");
        own.require((1..=MAX_TOKENS).contains(&tokens), "tokens", || {
            format!("must be from 1 to {MAX_TOKENS}, not {tokens}")
        });
        own.require_at_least_zero(skew, "skew");
        own.found
    }
}

/// LoRA adapters: every request, or session, asks for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapters {
    /// Number of adapters. They are called `adapter-0`, the most popular one, `adapter-1` and so on.
    pub count: u32,
    /// How unevenly they are used: the k-th most popular one has weight `1 / k^skew` (Zipf's law). 0, the default, is
    /// even.
    #[serde(default)]
    pub skew: f64,
}

impl Adapters {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut own = Problems::below("adapters");
        require_kinds(&mut own, self.count, "count");
        own.require_at_least_zero(self.skew, "skew");
        own.found
    }
}

fn require_kinds(own: &mut Problems, kinds: u32, field: &str) {
    own.require((1..=MAX_KINDS).contains(&kinds), field, || format!("must be from 1 to {MAX_KINDS}, not {kinds}"));
}

/// Requests with images, or sound: an encoder makes tokens of the prompt from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Share of the requests that bring some, 0 to 1.
    #[serde(default = "all")]
    pub share: f64,
    /// How many those requests bring; what is called tokens there are images here. At most 10000 count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Lengths>,
    /// Tokens of the prompt that the encoder makes of those of a request, or, with `count`, of each. They come on top
    /// of `input`.
    pub tokens: Lengths,
}

fn all() -> f64 {
    1.0
}

impl Images {
    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let Images { share, count, tokens } = self;
        let mut own = Problems::below(path);
        own.require((0.0..=1.0).contains(share), "share", || format!("must be from 0 to 1, not {share}"));
        own.found.extend(count.iter().flat_map(|c| c.problems(&format!("{path}.count"))));
        own.found.extend(tokens.problems(&format!("{path}.tokens")));
        own.found
    }
}

pub(super) fn model_problems(models: &BTreeMap<String, f64>) -> Vec<Problem> {
    let mut own = Problems::below("models");
    for (name, weight) in models {
        own.require_positive(*weight, name);
    }
    own.found
}

/// Draws the model and the adapter of one request, or session, after the other.
pub(super) struct Asked {
    models: Option<(Popularity, Pcg64)>,
    adapters: Option<(Popularity, Pcg64)>,
}

impl Asked {
    pub fn new(models: &BTreeMap<String, f64>, adapters: Option<Adapters>, seed: u64) -> Asked {
        let weights = || Popularity::of(models.values().copied());
        Asked {
            models: (!models.is_empty()).then(|| (weights(), rng::stream(seed, "workload/models"))),
            adapters: adapters.map(|a| (Popularity::zipf(a.count, a.skew), rng::stream(seed, "workload/adapters"))),
        }
    }

    /// Model and adapter of the next one.
    pub fn draw(&mut self) -> (Option<u32>, Option<u32>) {
        let next = |from: &mut Option<(Popularity, Pcg64)>| from.as_mut().map(|(of, rng)| of.sample(rng) as u32);
        (next(&mut self.models), next(&mut self.adapters))
    }
}

/// The hash that the first block of a request is chained to: 0 where all ask for the same. Another model or adapter
/// makes other keys and values of the same words, so that their blocks are not the same.
pub(super) fn root(model: Option<u32>, adapter: Option<u32>) -> u64 {
    let next = |hash, asked: Option<u32>, label: &[u8]| match asked {
        Some(which) => chain(chain(hash, rng::fnv1a(label)), u64::from(which)),
        None => hash,
    };
    next(next(0, model, b"workload/models"), adapter, b"workload/adapters")
}

/// The popularity of the kinds of something.
pub(super) struct Popularity {
    /// Weight of the kinds up to and including this one; empty where all weigh the same.
    cumulative: Vec<f64>,
    kinds: u32,
}

impl Popularity {
    /// The k-th of them, from 1, weighs `1 / k^skew`.
    pub fn zipf(kinds: u32, skew: f64) -> Popularity {
        if skew > 0.0 {
            return Popularity::of((1..=kinds).map(|k| libm::pow(f64::from(k), -skew)));
        }
        Popularity { cumulative: Vec::new(), kinds }
    }

    /// Of these weights, of which there are at most 2^32.
    pub fn of(weights: impl Iterator<Item = f64>) -> Popularity {
        let mut sum = 0.0;
        let mut next = |weight: f64| {
            sum += weight;
            sum
        };
        let cumulative: Vec<f64> = weights.map(&mut next).collect();
        Popularity { kinds: cumulative.len() as u32, cumulative }
    }

    /// A kind, from 0. One draw.
    pub fn sample(&self, rng: &mut Pcg64) -> u64 {
        let Some(total) = self.cumulative.last() else {
            return rng::below(rng, u64::from(self.kinds));
        };
        let target = rng::uniform01(rng) * total;
        let kind = self.cumulative.partition_point(|&c| c <= target);
        // The product may round up to the total.
        kind.min(self.cumulative.len() - 1) as u64
    }
}
