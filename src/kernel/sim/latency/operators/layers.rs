//! LLMServingSim's layer profiles: layers of one model, measured on their own, and the attention of whole batches.
//!
//! Source: LLMServingSim's profiler (github.com/casys-kaist/LLMServingSim, MIT). A model step is: embedding, then in every
//! layer two norms and everything else once, then the final norm; then output matrix and sampler, by requests. Of a model
//! with mixtures, a layer has either one of them or the products of the feed-forward network. Attention
//! is a table over one prompt (chunk, context) together with equal requests that decode (number, context). Several prompts
//! of a batch are looked up as one with as many new tokens and as much context. Where the profiler measured it, attention
//! takes longer if the contexts of the requests that decode differ.
//!
//! Exchange between tensor-parallel GPUs is not in the profile: two rings per layer at the bandwidth and latency of the
//! settings. Left out: pipeline stages, which run in turn.

use super::dense::Dense;
use super::grid::{Near, Read, Series, Table};
use super::{Attention, Composed, Decodes, Making, Prompts};
use crate::profile::{Operator, Point};
use crate::scenario::ModelSpec;
use crate::sim::facts;

/// Token layers that a step has once; a layer has the others once.
const ONCE: [&str; 2] = ["embedding", "final_layernorm"];
/// The one that a layer has twice: before the attention and before the feed-forward network.
const TWICE: &str = "layernorm";
/// Those of the feed-forward network of a dense layer, and which of them it cannot do without.
const FEED_FORWARD: [&str; 3] = ["gate_up_proj", "act_fn", "down_proj"];
const NEEDED_DENSE: [&str; 2] = ["gate_up_proj", "down_proj"];
/// Without these there is no step.
const NEEDED: [&str; 2] = ["qkv_proj", "o_proj"];
/// Most buckets of skews, chunks together.
const BUCKETS_MAX: usize = 1 << 22;

pub(super) fn model(making: Making<'_>) -> Result<Composed, Vec<String>> {
    let Making { d, m, profile, .. } = making;
    let of_tp = |operator: Operator, at: usize| -> Vec<&Point> {
        let mut points: Vec<&Point> = profile.of(operator).iter().filter(|p| p.shape[at] == d.tp).collect();
        points.sort_by_key(|p| (p.variant, p.shape));
        points
    };
    let tokens = of_tp(Operator::TokenLayer, 1);
    let attention = of_tp(Operator::BatchAttention, 4);
    if tokens.is_empty() || attention.is_empty() {
        let mut known: Vec<u32> = profile.of(Operator::TokenLayer).iter().map(|p| p.shape[1]).collect();
        known.sort_unstable();
        known.dedup();
        let known: Vec<String> = known.iter().map(u32::to_string).collect();
        return Err(vec![format!("it has no layers at tp {}; it has tp {}", d.tp, known.join(", "))]);
    }
    let layers = f64::from(m.layers);
    let parts = by_tokens(m, named(&tokens, &profile.names), &of_tp(Operator::MoeLayer, 2))?;
    let by_sequences = named(&of_tp(Operator::SequenceLayer, 1), &profile.names);
    let by_sequences = by_sequences.into_iter().map(|(_, series)| (1.0, series)).collect();
    let most = making.most_tokens();
    let attention = Batches::new(&attention, Skew::new(&making)?, layers);
    let attention = attention
        .ok_or_else(|| vec!["its attention has no points of prompts, or of requests that decode".to_string()])?;
    Ok(Composed::new(
        making,
        Dense::new(parts, making.rings(2.0 * layers), most),
        Dense::new(by_sequences, (0.0, 0.0), making.most_sequences()),
        Box::new(attention),
    ))
}

/// Layers over new tokens, each with how many of it a step has.
fn by_tokens(m: &ModelSpec, named: Vec<(&str, Series)>, moe: &[&Point]) -> Result<Vec<(f64, Series)>, Vec<String>> {
    let (layers, dense, mixed) = (f64::from(m.layers), facts::dense_layers(m), facts::moe_layers(m));
    let needed: &[&str] = if dense > 0.0 { &NEEDED_DENSE } else { &[] };
    let missing = NEEDED.iter().chain(needed).filter(|name| !named.iter().any(|(known, _)| known == *name));
    let mut lacking: Vec<String> = missing.map(|name| format!("it has no layer `{name}`")).collect();
    if mixed > 0.0 && moe.is_empty() {
        lacking.push("it has no mixture layers".to_string());
    }
    if !lacking.is_empty() {
        return Err(lacking);
    }
    let times = |name: &str| match name {
        _ if ONCE.contains(&name) => 1.0,
        _ if FEED_FORWARD.contains(&name) => dense,
        TWICE => 2.0 * layers,
        _ => layers,
    };
    let mut parts: Vec<(f64, Series)> = named.into_iter().map(|(name, series)| (times(name), series)).collect();
    if mixed > 0.0 {
        parts.push((mixed, mixtures(moe, m.experts)?));
    }
    // What no layer has does not say either up to where a step was measured.
    parts.retain(|(times, _)| *times > 0.0);
    Ok(parts)
}

/// Times in nanoseconds over the first number of the shape, by name.
fn named<'a>(points: &[&Point], names: &'a [String]) -> Vec<(&'a str, Series)> {
    let mut found = Vec::new();
    for group in points.chunk_by(|a, b| a.variant == b.variant) {
        let points = group.iter().map(|p| (f64::from(p.shape[0]), p.latency_us * 1e3));
        found.extend(Series::new(points).map(|series| (names[usize::from(group[0].variant)].as_str(), series)));
    }
    found
}

/// Mixture layers over tokens. Of several numbers of active experts at one number of tokens, the greatest up to `experts`:
/// the tokens of a batch spread.
fn mixtures(points: &[&Point], experts: u32) -> Result<Series, Vec<String>> {
    let by_tokens = points.chunk_by(|a, b| a.shape[0] == b.shape[0]);
    let most = by_tokens.filter_map(|group| {
        let fitting = group.iter().filter(|p| p.shape[1] <= experts);
        let widest = fitting.max_by_key(|p| p.shape[1])?;
        Some((f64::from(widest.shape[0]), widest.latency_us * 1e3))
    });
    Series::new(most).ok_or_else(|| vec!["its mixture layers have no points".to_string()])
}

/// Over context, number of requests and context of those that decode.
type Beside = Table<Table<Series>>;

/// The attention of whole batches.
struct Batches {
    /// Batches without a prompt: number, context.
    decode: Table<Series>,
    /// Prompts: chunk, context, and beside them requests that decode.
    prefill: Table<Beside>,
    skew: Option<Skew>,
    layers: f64,
}

impl Batches {
    fn new(points: &[&Point], skew: Option<Skew>, layers: f64) -> Option<Batches> {
        let decode = |rows: &[&Point]| {
            Table::new(rows.chunk_by(|a, b| a.shape[2] == b.shape[2]).filter_map(|of_number| {
                let series = Series::new(of_number.iter().map(|p| (f64::from(p.shape[3]), p.latency_us * 1e3)))?;
                Some((f64::from(of_number[0].shape[2]), series))
            }))
        };
        let beside = |rows: &[&Point]| {
            let contexts = rows.chunk_by(|a, b| a.shape[1] == b.shape[1]);
            Table::new(contexts.filter_map(|of_one| Some((f64::from(of_one[0].shape[1]), decode(of_one)?))))
        };
        let (without, with): (Vec<&Point>, Vec<&Point>) = points.iter().partition(|p| p.shape[0] == 0);
        let chunks = with.chunk_by(|a, b| a.shape[0] == b.shape[0]);
        let prefill = Table::new(chunks.filter_map(|of_one| Some((f64::from(of_one[0].shape[0]), beside(of_one)?))));
        Some(Batches { decode: decode(&without)?, prefill: prefill?, skew, layers })
    }

    /// The time of one layer at each of these contexts of the requests that decode, all other numbers equal.
    #[inline]
    fn at<const N: usize>(&self, (chunk, before): (f64, f64), n: f64, contexts: [f64; N]) -> [Read; N] {
        let mut of_decodes = [Near::default(); N];
        let mut leaf = |row: &Series| {
            let mut near = of_decodes.iter_mut();
            contexts.map(|context| near.next().map_or_else(|| row.at(context), |near| row.at_near(context, near)))
        };
        if chunk == 0.0 {
            return self.decode.at(n, leaf);
        }
        let (mut of_context, mut of_number) = (Near::default(), Near::default());
        self.prefill
            .at(chunk, |rows| rows.at_near(before, &mut of_context, |rows| rows.at_near(n, &mut of_number, &mut leaf)))
    }

    /// All layers of a batch, which takes longer where contexts differ.
    fn skewed(&self, decodes: &Decodes, prompts: (f64, f64)) -> Read {
        let layers = |value: f64, inside: bool| Read { value: value * self.layers, inside };
        let differ = decodes.n >= 2.0 && decodes.greatest > decodes.context;
        let Some(skew) = self.skew.as_ref().filter(|_| differ) else {
            let [mean] = self.at(prompts, decodes.n, [decodes.context]);
            return layers(mean.value, mean.inside);
        };
        let [mean, longest] = self.at(prompts, decodes.n, [decodes.context, decodes.greatest]);
        let more = skew.alpha(decodes, prompts) * (longest.value - mean.value).max(0.0);
        layers(mean.value + more, mean.inside)
    }
}

/// How much longer attention takes where the contexts of the requests that decode differ: a share alpha of the way from all
/// of mean length to all of the greatest. By buckets of chunk, number, rate (how far up the mean lies between least and
/// greatest), greatest context, and context of the prompt; the profiler's own default elsewhere.
struct Skew {
    default: f64,
    /// Upper bounds of number, rate, greatest context and context of the prompt.
    bounds: [Vec<u32>; 4],
    /// Per measured chunk, the shares of all buckets; NaN where there is none.
    chunks: Vec<(f64, Vec<f64>)>,
}

impl Skew {
    /// `None` where the profiler was told not to measure it.
    ///
    /// # Errors
    /// Buckets that are too many to be kept: points that share no bounds.
    fn new(making: &Making<'_>) -> Result<Option<Skew>, Vec<String>> {
        let of_tp = || making.profile.of(Operator::SkewAlpha).iter().filter(|p| p.shape[5] == making.d.tp);
        let variant = making.profile.name("default");
        let Some(default) = of_tp().find(|p| Some(p.variant) == variant) else { return Ok(None) };
        let variant = default.variant;
        let buckets = || of_tp().filter(|p| p.variant != variant);
        let sorted = |at: usize| {
            let mut all: Vec<u32> = buckets().map(|p| p.shape[at]).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (chunks, bounds) = (sorted(0), [1, 2, 3, 4].map(sorted));
        let lengths = || bounds.iter().map(Vec::len);
        let all = lengths().try_fold(chunks.len(), |all, n| all.checked_mul(n));
        if all.is_none_or(|all| all > BUCKETS_MAX) {
            return Err(vec![format!("its skews of contexts span more than {BUCKETS_MAX} buckets")]);
        }
        let count = lengths().product();
        let mut skew = Skew {
            default: default.latency_us,
            bounds,
            chunks: chunks.into_iter().map(|chunk| (f64::from(chunk), vec![f64::NAN; count])).collect(),
        };
        for p in buckets() {
            let bucket = skew.bucket([1, 2, 3, 4].map(|at| f64::from(p.shape[at])));
            let chunk = skew.chunks.iter().position(|(chunk, _)| *chunk == f64::from(p.shape[0]));
            if let (Some(bucket), Some(chunk)) = (bucket, chunk) {
                skew.chunks[chunk].1[bucket] = p.latency_us;
            }
        }
        Ok(Some(skew))
    }

    /// The number of a bucket among all; `None` beyond the bounds.
    fn bucket(&self, at: [f64; 4]) -> Option<usize> {
        let mut bucket = 0;
        for (bounds, x) in self.bounds.iter().zip(at) {
            let within = bounds.partition_point(|bound| f64::from(*bound) < x);
            if within == bounds.len() {
                return None;
            }
            bucket = bucket * bounds.len() + within;
        }
        Some(bucket)
    }

    fn alpha(&self, decodes: &Decodes, (chunk, before): (f64, f64)) -> f64 {
        let rate = 100.0 * (decodes.context - decodes.least) / (decodes.greatest - decodes.least).max(1.0);
        let known = || {
            let at = self.chunks.partition_point(|(known, _)| *known < chunk);
            let (_, shares) = self.chunks.get(at).filter(|(known, _)| *known == chunk)?;
            let share = shares[self.bucket([decodes.n, rate, decodes.greatest, before])?];
            (!share.is_nan()).then_some(share)
        };
        known().unwrap_or(self.default)
    }
}

impl Attention for Batches {
    fn decode(&self, decodes: &Decodes) -> Read {
        self.skewed(decodes, (0.0, 0.0))
    }

    fn prefill(&self, prompts: &Prompts) -> Read {
        let [read] = self.at((prompts.tokens, prompts.context), 0.0, [0.0]);
        Read { value: read.value * self.layers, ..read }
    }

    fn both(&self, prompts: &Prompts, decodes: &Decodes) -> Read {
        self.skewed(decodes, (prompts.tokens, prompts.context))
    }

    fn wants_spread(&self) -> bool {
        self.skew.is_some()
    }
}
