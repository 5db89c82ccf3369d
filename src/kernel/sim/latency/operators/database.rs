//! aiconfigurator's operator database: a transformer put together from matrix products, attention, mixtures and exchanges.
//!
//! Source: ai-dynamo/aiconfigurator (Apache-2.0): its tables, its constants of element-wise kernels (memory at 80 % of its
//! bandwidth and 3 us each; here also for the rotation and for the saving of keys and values, which it leaves out), and its correction for prompts that continue others, the share of pairs of tokens that are
//! new. A layer is: norm, projections of queries, keys and values, attention, output projection, norm, feed-forward
//! network (two products around a gate) or mixture with its router and shared experts; with tensor parallelism an
//! all-reduce after each half, of vLLM's own kernel where it was measured, of NCCL otherwise. Once: embedding, and the
//! output matrix by requests. Latent attention is taken whole where it was measured with its projections.
//!
//! Ranks that share experts gather the tokens of all before a mixture and scatter the results after it. Of several
//! implementations of an operator the fastest is taken. Pipeline stages run in turn.

use super::dense::Dense;
use super::grid::{Read, Series};
use super::shapes::{Gemms, Heads, Peak, log_distance};
use super::{Attention, Composed, Decodes, Making, Prompts};
use crate::profile::{Operator, Point};
use crate::scenario::Dtype;
use crate::sim::facts::{self, ACTIVATION_BYTES};

/// Share of the memory bandwidth that element-wise kernels reach, and what each costs besides, in nanoseconds.
const MEMORY_EFFICIENCY: f64 = 0.8;
const KERNEL_NS: f64 = 3_000.0;
/// Heads, kv heads and size of a head in the shapes of attention.
const CONTEXT_HEADS: [usize; 3] = [3, 4, 5];
const GENERATION_HEADS: [usize; 3] = [2, 3, 4];

pub(super) fn model(making: Making<'_>) -> Result<Composed, Vec<String>> {
    let mut parts = Parts { making, tokens: Vec::new(), line: (0.0, 0.0), lacking: Vec::new() };
    let gemms = parts.gemms();
    let attention = parts.attention(&gemms);
    parts.feed_forward(&gemms);
    parts.exchanges();
    let sequences = parts.head(&gemms);
    let Parts { tokens, line, lacking, .. } = parts;
    let (Some(attention), true) = (attention, lacking.is_empty()) else { return Err(lacking) };
    let by_tokens = Dense::new(tokens, line, making.most_tokens());
    let by_sequences = Dense::new(sequences, (0.0, 0.0), making.most_sequences());
    Ok(Composed::new(making, by_tokens, by_sequences, attention))
}

/// What a step is made of, as it is found.
struct Parts<'a> {
    making: Making<'a>,
    /// By new tokens.
    tokens: Vec<(f64, Series)>,
    line: (f64, f64),
    lacking: Vec<String>,
}

/// The names under which a type may stand in the tables, best first.
fn names(dtype: Dtype) -> &'static [&'static str] {
    match dtype {
        Dtype::Bf16 => &["bfloat16", "bf16", "float16", "half"],
        Dtype::Fp8 => &["fp8", "fp8_block", "float8"],
    }
}

/// How skewed a choice of experts is, to be compared: power laws by their exponents, which are not negative, before all
/// others. Kernels for few tokens, which have a name behind a slash, after those for any number.
fn skew(name: &str) -> f64 {
    let (law, kernel) = name.split_once('/').map_or((name, false), |(law, _)| (law, true));
    let exponent =
        law.strip_prefix("power_law").map_or(-1.0, |rest| rest.trim_start_matches('_').parse().unwrap_or(0.0));
    if kernel { exponent - 1e3 } else { exponent }
}

impl<'a> Parts<'a> {
    fn peak(&self) -> Peak {
        let Making { d, g, .. } = self.making;
        Peak { flop_per_ns: facts::peak_flops(d, g) / 1e9, bytes_per_ns: g.memory_tb_per_s * 1e3 }
    }

    /// The number of the first of these names that a point of the operator has as its type.
    fn dtype(&self, operator: Operator, asked: Option<&str>, names: &[&str]) -> Option<u16> {
        let of = |name: &str| self.making.profile.name(name);
        let has = |dtype: &u16| self.making.profile.of(operator).iter().any(|p| p.dtype == *dtype);
        match asked {
            Some(name) => of(name).filter(has),
            None => names.iter().filter_map(|name| of(name)).find(has),
        }
    }

    fn lacks(&mut self, what: String, operator: Operator) {
        let profile = self.making.profile;
        let mut have: Vec<&str> =
            profile.of(operator).iter().map(|p| profile.names[usize::from(p.dtype)].as_str()).collect();
        have.sort_unstable();
        have.dedup();
        let have = match have.as_slice() {
            [] => "none at all".to_string(),
            some => some.join(", "),
        };
        self.lacking.push(format!("it has no {what}; of `{}` it has: {have}", operator.name()));
    }

    /// Products of the type of the weights.
    fn gemms(&mut self) -> Gemms {
        let Making { settings, d, profile, .. } = self.making;
        let asked = settings.gemm_dtype.as_deref();
        let dtype = self.dtype(Operator::Gemm, asked, names(d.dtype));
        if dtype.is_none() {
            let wanted = asked.unwrap_or(names(d.dtype)[0]);
            self.lacks(format!("matrix products of type {wanted}"), Operator::Gemm);
        }
        let points = profile.of(Operator::Gemm).iter().filter(|p| Some(p.dtype) == dtype);
        Gemms::new(points, self.peak(), d.dtype.bytes())
    }

    /// Products in bf16 whatever the weights are: router, output matrix.
    fn gemms_bf16(&self, gemms: &Gemms, n: u32, k: u32) -> Option<Series> {
        let dtype = self.dtype(Operator::Gemm, None, names(Dtype::Bf16));
        let points = self.making.profile.of(Operator::Gemm).iter().filter(|p| Some(p.dtype) == dtype);
        Gemms::new(points, self.peak(), Dtype::Bf16.bytes()).of(n, k).or_else(|| gemms.of(n, k))
    }

    fn product(&mut self, gemms: &Gemms, times: f64, n: u32, k: u32) {
        // What is missing altogether was said when the products were looked for.
        self.tokens.extend(gemms.of(n.max(1), k.max(1)).map(|series| (times, series)));
    }

    /// An element-wise kernel that moves so many numbers per token.
    fn element_wise(&mut self, times: f64, numbers: f64) {
        let per_token = numbers * ACTIVATION_BYTES / (self.peak().bytes_per_ns * MEMORY_EFFICIENCY);
        self.line.0 += times * KERNEL_NS;
        self.line.1 += times * per_token;
    }

    /// Adds projections and norms, and gives the attention of all layers.
    fn attention(&mut self, gemms: &Gemms) -> Option<Box<dyn Attention>> {
        let Making { d, m, .. } = self.making;
        let (layers, hidden) = (f64::from(m.layers), f64::from(m.hidden));
        // Embedding: read and written once. A norm with its residual reads and writes two hidden states, and there are two
        // of them.
        self.element_wise(1.0, 2.0 * hidden);
        self.element_wise(2.0 * layers, 4.0 * hidden);
        let heads = (m.heads / d.tp.max(1)).max(1);
        let kv_heads = m.kv_heads.div_ceil(d.tp.max(1)).max(1);
        if let Some(mla) = &m.mla {
            return self.latent(gemms, heads, mla);
        }
        let wide = |heads: u32| heads.saturating_mul(m.head_dim);
        self.product(gemms, layers, wide(heads.saturating_add(kv_heads.saturating_mul(2))), m.hidden);
        self.product(gemms, layers, m.hidden, wide(heads));
        // Rotation of queries and keys; keys and values into the cache.
        self.element_wise(layers, 2.0 * f64::from(wide(heads.saturating_add(kv_heads))));
        self.element_wise(layers, 4.0 * f64::from(wide(kv_heads)));
        let context = self.of_cache(Operator::ContextAttention, |p| p.shape[6] == 0 && p.shape[2] == 0);
        let generation = self.of_cache(Operator::GenerationAttention, |p| p.shape[5] == 0);
        let wanted = [heads, kv_heads, m.head_dim];
        let prefill = Heads::new(&context, 1, &CONTEXT_HEADS, &wanted, 0);
        let decode = Heads::new(&generation, 1, &GENERATION_HEADS, &wanted, 1);
        if prefill.is_none() {
            self.lacks("attention of prompts".to_string(), Operator::ContextAttention);
        }
        if decode.is_none() {
            self.lacks("attention of requests that decode".to_string(), Operator::GenerationAttention);
        }
        let attention = Measured { prefill: prefill?, decode: decode?, layers };
        Some(Box::new(attention))
    }

    /// Points with the type of the cache, or the nearest to it that there is.
    fn of_cache(&self, operator: Operator, fits: impl Fn(&Point) -> bool) -> Vec<&'a Point> {
        let points = self.making.profile.of(operator);
        let fitting: Vec<&Point> = points.iter().filter(|p| fits(p)).collect();
        let wanted: Vec<u16> =
            names(self.making.d.kv.kv_cache_dtype).iter().filter_map(|n| self.making.profile.name(n)).collect();
        let found = wanted.iter().find(|dtype| fitting.iter().any(|p| p.kv_dtype == **dtype));
        let dtype = found.copied().or_else(|| fitting.first().map(|p| p.kv_dtype));
        fitting.into_iter().filter(|p| Some(p.kv_dtype) == dtype).collect()
    }

    /// DeepSeek's latent attention.
    fn latent(&mut self, gemms: &Gemms, heads: u32, mla: &crate::scenario::Mla) -> Option<Box<dyn Attention>> {
        let layers = f64::from(self.making.m.layers);
        let hidden = self.making.m.hidden;
        let whole = |p: &Point| p.shape[2] == 0;
        let context = self.of_cache(Operator::ContextMlaModule, whole);
        let generation = self.of_cache(Operator::GenerationMlaModule, |_| true);
        let modules = !context.is_empty() && !generation.is_empty();
        let (context, generation) = match modules {
            true => (context, generation),
            false => (self.of_cache(Operator::ContextMla, whole), self.of_cache(Operator::GenerationMla, |_| true)),
        };
        if !modules {
            // Down to the latent spaces, up to the heads, and out.
            let of_heads = |a: u32, b: u32| heads.saturating_mul(a.saturating_add(b));
            let kept = mla.kv_rank.saturating_add(mla.rope_dim);
            let q_dim = of_heads(mla.nope_dim, mla.rope_dim);
            match mla.q_rank {
                0 => self.product(gemms, layers, q_dim.saturating_add(kept), hidden),
                rank => {
                    self.product(gemms, layers, rank.saturating_add(kept), hidden);
                    self.product(gemms, layers, q_dim, rank);
                }
            }
            self.product(gemms, layers, of_heads(mla.nope_dim, mla.v_dim), mla.kv_rank);
            self.product(gemms, layers, hidden, of_heads(mla.v_dim, 0));
        }
        let prefill = Heads::new(&context, 1, &[3], &[heads], 0);
        let decode = Heads::new(&generation, 1, &[2], &[heads], 0);
        if prefill.is_none() || decode.is_none() {
            self.lacks("latent attention".to_string(), Operator::ContextMla);
        }
        let attention = Measured { prefill: prefill?, decode: decode?, layers };
        Some(Box::new(attention))
    }

    fn feed_forward(&mut self, gemms: &Gemms) {
        let Making { d, m, .. } = self.making;
        let tp = d.tp.max(1);
        let (dense, mixtures) = (facts::dense_layers(m), facts::moe_layers(m));
        let gated = m.mlp_matrices >= 3;
        let mut network = |times: f64, inner: u32| {
            let inner = (inner / tp).max(1);
            self.product(gemms, times, if gated { inner.saturating_mul(2) } else { inner }, m.hidden);
            self.element_wise(times, f64::from(inner) * if gated { 3.0 } else { 2.0 });
            self.product(gemms, times, m.hidden, inner);
        };
        if dense > 0.0 {
            network(dense, m.intermediate);
        }
        if mixtures == 0.0 {
            return;
        }
        let inner = if m.moe_intermediate == 0 { m.intermediate } else { m.moe_intermediate };
        if m.shared_experts > 0 {
            network(mixtures, inner.saturating_mul(m.shared_experts));
        }
        let router = self.gemms_bf16(gemms, m.experts, m.hidden);
        self.tokens.extend(router.map(|series| (mixtures, series)));
        let mixture = self.mixture(inner);
        self.tokens.extend(mixture.map(|series| (mixtures, series)));
    }

    /// A mixture layer over the new tokens of an engine. What is missing is said.
    fn mixture(&mut self, inner: u32) -> Option<Series> {
        let Making { settings, d, m, profile, .. } = self.making;
        let asked = settings.moe_dtype.as_deref().or(settings.gemm_dtype.as_deref());
        let Some(dtype) = self.dtype(Operator::Moe, asked, names(d.dtype)) else {
            self.lacks(format!("mixtures of type {}", asked.unwrap_or(names(d.dtype)[0])), Operator::Moe);
            return None;
        };
        let fits = |p: &&Point| {
            let [_, hidden, of_inner, top_k, experts, ..] = p.shape;
            p.dtype == dtype && (hidden, of_inner, top_k, experts) == (m.hidden, inner, m.top_k, m.experts)
        };
        let fitting: Vec<&Point> = profile.of(Operator::Moe).iter().filter(fits).collect();
        let (moe_tp, moe_ep) = match d.enable_expert_parallel {
            true => (1, d.tp.saturating_mul(d.dp)),
            false => (d.tp, 1),
        };
        let cut = |p: &Point| [p.shape[5], p.shape[6]];
        let far = |p: &&&Point| log_distance(&cut(p), &[moe_tp, moe_ep]);
        let Some(near) = fitting.iter().min_by(|a, b| far(a).total_cmp(&far(b))).map(|p| cut(p)) else {
            let sizes = format!("hidden {}, inter {inner}, {} of {} experts", m.hidden, m.top_k, m.experts);
            self.lacks(format!("mixture with {sizes} in the type of the weights"), Operator::Moe);
            return None;
        };
        let mut chosen: Vec<&Point> = fitting.into_iter().filter(|p| cut(p) == near).collect();
        let variant = self.choice(&chosen)?;
        chosen.retain(|p| p.variant == variant);
        chosen.sort_by(|a, b| a.shape[0].cmp(&b.shape[0]).then(a.latency_us.total_cmp(&b.latency_us)));
        chosen.dedup_by_key(|p| p.shape[0]);
        // Ranks that share experts work on the tokens of all; another cut of the experts has another share of the work.
        let tokens = if d.enable_expert_parallel { f64::from(d.dp.max(1)) } else { 1.0 };
        let parts = |[tp, ep]: [u32; 2]| f64::from(tp.max(1)) * f64::from(ep.max(1));
        let share = parts(near) / parts([moe_tp, moe_ep]);
        Series::new(chosen.iter().map(|p| (f64::from(p.shape[0]) / tokens, p.latency_us * 1e3 * share)))
    }

    /// How tokens choose experts: as it was asked for, or the most skewed power law, or whatever was measured.
    fn choice(&mut self, points: &[&Point]) -> Option<u16> {
        let Making { settings, profile, .. } = self.making;
        let mut known: Vec<u16> = points.iter().map(|p| p.variant).collect();
        known.sort_unstable();
        known.dedup();
        let name = |variant: u16| profile.names[usize::from(variant)].as_str();
        let Some(asked) = &settings.distribution else {
            return known.into_iter().max_by(|a, b| skew(name(*a)).total_cmp(&skew(name(*b))));
        };
        let found = known.iter().copied().find(|variant| name(*variant) == asked);
        if found.is_none() {
            let known: Vec<&str> = known.into_iter().map(name).collect();
            self.lacking
                .push(format!("it has no choice of experts `{asked}`; of this mixture it has: {}", known.join(", ")));
        }
        found
    }

    fn exchanges(&mut self) {
        let Making { d, m, .. } = self.making;
        let layers = f64::from(m.layers);
        let bytes = f64::from(m.hidden) * ACTIVATION_BYTES;
        let (dense, mixtures) = (facts::dense_layers(m), facts::moe_layers(m));
        let shares = d.enable_expert_parallel && d.dp > 1;
        if d.tp > 1 {
            let after_mixtures = if shares { 0.0 } else { mixtures };
            let times = layers + dense + after_mixtures;
            match self.collective(Operator::AllReduce, d.tp, bytes) {
                Some(series) => self.tokens.push((times, series)),
                None => {
                    let line = self.making.rings(times);
                    self.line = (self.line.0 + line.0, self.line.1 + line.1);
                }
            }
        }
        if shares {
            let gpus = d.tp.saturating_mul(d.dp);
            for operator in [Operator::AllGather, Operator::ReduceScatter] {
                match self.collective(operator, gpus, bytes * f64::from(d.dp)) {
                    Some(series) => self.tokens.push((mixtures, series)),
                    None => self.lacks(format!("exchange between {gpus} GPUs"), operator),
                }
            }
        }
        if d.pp > 1 {
            let per_token = bytes / self.making.link_gb_per_s();
            let times = f64::from(d.pp - 1);
            self.line.0 += times * self.making.settings.link_latency_us * 1e3;
            self.line.1 += times * per_token;
        }
    }

    /// An exchange over new tokens. More GPUs than were measured: as of the most that were, in proportion to what a ring
    /// sends.
    fn collective(&self, operator: Operator, gpus: u32, bytes_per_token: f64) -> Option<Series> {
        let points = self.making.profile.of(operator);
        let known =
            points.iter().map(|p| p.shape[0]).filter(|n| *n <= gpus).max().or(points.first().map(|p| p.shape[0]))?;
        let names = &self.making.profile.names;
        let preferred = |p: &&Point| {
            let (variant, dtype) = (names[usize::from(p.variant)].as_str(), names[usize::from(p.dtype)].as_str());
            let graph = variant.contains("graph") || variant.is_empty();
            let half = ["half", "bfloat16", "float16", ""].contains(&dtype);
            (u8::from(!half), u8::from(!graph))
        };
        let best = points.iter().filter(|p| p.shape[0] == known).map(|p| preferred(&p)).min()?;
        let mut chosen: Vec<&Point> = points.iter().filter(|p| p.shape[0] == known && preferred(p) == best).collect();
        chosen.sort_by(|a, b| a.shape[1].cmp(&b.shape[1]).then(a.latency_us.total_cmp(&b.latency_us)));
        chosen.dedup_by_key(|p| p.shape[1]);
        let sent = |n: u32| f64::from(n.saturating_sub(1)) / f64::from(n.max(1));
        let more = if known == gpus || sent(known) == 0.0 { 1.0 } else { sent(gpus) / sent(known) };
        Series::new(chosen.iter().map(|p| (f64::from(p.shape[1]) / bytes_per_token, p.latency_us * 1e3 * more)))
    }

    /// The output matrix, by requests.
    fn head(&self, gemms: &Gemms) -> Vec<(f64, Series)> {
        let Making { d, m, .. } = self.making;
        if gemms.is_empty() {
            return Vec::new();
        }
        self.gemms_bf16(gemms, m.vocab / d.tp.max(1), m.hidden).map(|series| (1.0, series)).into_iter().collect()
    }
}

/// Attention from the tables of prompts and of requests that decode.
struct Measured {
    prefill: Heads,
    decode: Heads,
    layers: f64,
}

impl Attention for Measured {
    fn decode(&self, &Decodes { n, context, .. }: &Decodes) -> Read {
        let read = self.decode.at(n, context);
        Read { value: read.value * self.layers, ..read }
    }

    fn prefill(&self, prompts: &Prompts) -> Read {
        let (chunk, context) = prompts.as_equal();
        let full = chunk + context;
        // Of all pairs of the prompt so far, those of its new tokens.
        let share = if context > 0.0 { prompts.pairs / prompts.requests / (full * (full + 1.0) / 2.0) } else { 1.0 };
        let read = self.prefill.at(prompts.requests, full);
        Read { value: read.value * share * self.layers, ..read }
    }
}
