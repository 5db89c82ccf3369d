//! Latency models: step time from the shape of a batch.
//!
//! Float arithmetic here is `+ - * /` and [`libm`] only, so that every platform computes the same nanoseconds.

mod constant;
mod cross_model;
mod linear;
mod operators;
mod overheads;
mod rates;
mod regression;
mod roofline;
mod simple_roofline;
mod steps;
mod trained_physics;
mod trained_roofline;
mod work;

pub use constant::Constant;
pub use cross_model::CrossModel;
pub use linear::{Fitted, Linear, TimeUnit};
pub use operators::Operators;
#[cfg(test)]
pub(crate) use overheads::JITTER_MAX;
pub use overheads::Overheads;
pub use rates::Rates;
pub use regression::Regression;
pub use roofline::{Curve, Roofline};
pub use steps::Steps;
pub use trained_physics::TrainedPhysics;
pub use trained_roofline::TrainedRoofline;
pub use work::{Work, by_pool, least_seconds, utilization, utilization_of_pool};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SimError, WorkSums};
use crate::pools::Site;
use crate::profile::Supplied;
use crate::scenario::{Deployment, GpuSpec, ModelSpec};
use crate::units::SimDuration;

/// Tokens in a page of [`BatchShape::prefill_context_pages`]: what Vidur rounds contexts up to.
pub(crate) const CONTEXT_PAGE: u64 = 64;

/// Longest time that a setting may say: one minute, in microseconds.
pub(crate) const TIME_MAX_US: f64 = 60e6;
/// Largest factor on the steps of a profile.
const SCALE_MAX: f64 = 100.0;
/// What is wrong with a coefficient without which a batch takes no time.
pub(crate) const NO_TIME: &str = "is 0, and so some steps would take no time";

/// What a step's time may depend on. The engine keeps these sums up to date in O(1) per change.
///
/// A prefill chunk of `n` new tokens follows `context` tokens already computed, of a prompt of `input` tokens. For a
/// request that was preempted, the tokens it had generated are part of that prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchShape {
    pub decode_requests: u64,
    /// Sum over decode requests of the tokens already in the cache before the step.
    pub decode_context: u64,
    /// Least and greatest of these; 0 where the model does not ask ([`LatencyModel::wants_spread`]).
    pub decode_context_min: u64,
    pub decode_context_max: u64,
    pub prefill_requests: u64,
    /// Sum of `n`.
    pub prefill_tokens: u64,
    /// Sum of `context`.
    pub prefill_context: u64,
    /// Sum of `n * context`.
    pub prefill_tokens_x_context: u64,
    /// Sum of `n * n`.
    pub prefill_tokens_squared: u64,
    /// Sum of `n * input`.
    pub prefill_tokens_x_input: u64,
    /// Largest `n`.
    pub prefill_tokens_max: u64,
    /// Sum of `context` in pages of 64 tokens, each rounded up.
    pub prefill_context_pages: u64,
}

impl BatchShape {
    /// A chunk of `n` tokens, at least one, after `context`, of a prompt of `input` tokens.
    pub(crate) fn add_chunk(&mut self, n: u64, context: u64, input: u64) {
        self.prefill_requests += 1;
        self.prefill_tokens += n;
        self.prefill_context += context;
        self.prefill_tokens_x_context += n * context;
        self.prefill_tokens_squared += n * n;
        self.prefill_tokens_x_input += n * input;
        self.prefill_tokens_max = self.prefill_tokens_max.max(n);
        self.prefill_context_pages += context.div_ceil(CONTEXT_PAGE);
    }

    /// Takes a chunk out again; not out of the largest.
    pub(crate) fn remove_chunk(&mut self, n: u64, context: u64, input: u64) {
        self.prefill_requests -= 1;
        self.prefill_tokens -= n;
        self.prefill_context -= context;
        self.prefill_tokens_x_context -= n * context;
        self.prefill_tokens_squared -= n * n;
        self.prefill_tokens_x_input -= n * input;
        self.prefill_context_pages -= context.div_ceil(CONTEXT_PAGE);
    }

    /// The batch of a point of [`Operator::Step`](crate::profile::Operator::Step): prompts of equal length, and requests that
    /// decode of equal contexts.
    pub fn of_step(shape: &[u32; crate::profile::DIMS]) -> BatchShape {
        let [tokens, requests, context, decode_requests, decode_context] = [0, 1, 2, 3, 4].map(|i| u64::from(shape[i]));
        // A log may count prompts of which nothing was computed; every other one has a token.
        let each = requests.clamp(1, tokens.max(1));
        let mean = decode_context.checked_div(decode_requests).unwrap_or(0);
        BatchShape {
            decode_requests,
            decode_context,
            decode_context_min: mean,
            decode_context_max: mean,
            prefill_requests: if tokens > 0 { each } else { 0 },
            prefill_tokens: tokens,
            prefill_context: context,
            prefill_tokens_x_context: tokens * context / each,
            prefill_tokens_squared: tokens * tokens / each,
            prefill_tokens_x_input: tokens.saturating_mul(tokens + context) / each,
            prefill_tokens_max: tokens.div_ceil(each),
            prefill_context_pages: context.div_ceil(CONTEXT_PAGE),
        }
    }

    /// Pairs of a new token of a prompt and a token that it attends to, itself included: token k of a chunk after c
    /// attends to c + k.
    #[inline]
    pub(crate) fn prefill_pairs(&self) -> f64 {
        self.prefill_tokens_x_context as f64 + (self.prefill_tokens_squared + self.prefill_tokens) as f64 / 2.0
    }
}

/// The time of steps without prefill, for a fixed number of decode requests: the longer of two lines over the context.
///
/// The engine runs through millions of such steps; this spares it everything that does not change between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeForm {
    /// Arithmetic in nanoseconds: without context, and per context token.
    pub compute_ns: f64,
    pub compute_ns_per_token: f64,
    /// Memory traffic in nanoseconds: without context, and per context token.
    pub memory_ns: f64,
    pub memory_ns_per_token: f64,
}

impl DecodeForm {
    /// One line only.
    pub fn affine(ns: f64, ns_per_token: f64) -> DecodeForm {
        DecodeForm {
            compute_ns: ns,
            compute_ns_per_token: ns_per_token,
            memory_ns: ns,
            memory_ns_per_token: ns_per_token,
        }
    }

    /// Time of a step at a sum of contexts.
    #[inline]
    pub fn at(&self, decode_context: u64) -> SimDuration {
        // Contexts stay far below 2^63, and the signed conversion is one instruction.
        let context = decode_context as i64 as f64;
        let compute = self.compute_ns + self.compute_ns_per_token * context;
        let memory = self.memory_ns + self.memory_ns_per_token * context;
        SimDuration(ns(if compute > memory { compute } else { memory }))
    }
}

/// [`LatencyModel::shortest_step`] of a model in which more of anything never takes less time.
pub(crate) fn shortest_of_growing(model: &dyn LatencyModel) -> SimDuration {
    let decode = BatchShape { decode_requests: 1, ..BatchShape::default() };
    let prefill = BatchShape {
        prefill_requests: 1,
        prefill_tokens: 1,
        prefill_tokens_squared: 1,
        prefill_tokens_x_input: 1,
        prefill_tokens_max: 1,
        ..BatchShape::default()
    };
    model.step(&decode).min(model.step(&prefill))
}

/// Whole nanoseconds, rounded down; saturates, and takes NaN as zero. Down, so that rounding down further, to whole
/// microseconds, gives what rounding down once would.
#[inline]
pub(crate) fn ns(x: f64) -> i64 {
    x as i64
}

/// The default of factors.
fn one() -> f64 {
    1.0
}

/// What is wrong with a setting that must be above 0 and at most so much.
fn not_in(path: &'static str, value: f64, most: f64, unit: &str) -> Vec<(&'static str, String)> {
    if value > 0.0 && value <= most {
        return Vec::new();
    }
    vec![(path, format!("is {value}; must be above 0 and at most {most}{unit}"))]
}

/// Time of a step, and what a request costs outside of steps.
pub trait LatencyModel: Send + Sync {
    /// Duration of a step; the engine takes at least 1 ns.
    fn step(&self, shape: &BatchShape) -> SimDuration;

    /// The same for every step with this many decode requests and no prefill, if the model has such a form. Must give
    /// exactly what [`LatencyModel::step`] gives: implement `step` by it.
    fn decode_form(&self, _decode_requests: u64) -> Option<DecodeForm> {
        None
    }

    /// No step with a token takes less time. 0 where the model does not know; the more it knows, the further the engine
    /// can leave a replica to itself.
    fn shortest_step(&self) -> SimDuration {
        SimDuration::ZERO
    }

    /// Between arrival and the queue of the scheduler (tokenization, HTTP).
    fn before_queue(&self, _input_tokens: u32) -> SimDuration {
        SimDuration::ZERO
    }

    /// From the end of a step until the client has the token; delays the client, never the engine.
    fn after_token(&self) -> SimDuration {
        SimDuration::ZERO
    }

    /// On top of [`LatencyModel::after_token`], for the end of a request. Not part of the gap before its last token.
    fn after_request(&self) -> SimDuration {
        SimDuration::ZERO
    }

    /// What the steps of one replica did, over all its GPUs; `None` where the model knows no facts of model and GPU.
    fn work(&self, _sums: &WorkSums) -> Option<Work> {
        None
    }

    /// What one replica could do per second; `None` as for [`LatencyModel::work`].
    fn peak(&self) -> Option<Work> {
        None
    }

    /// Whether a step depends on how far apart the contexts of requests that decode are.
    fn wants_spread(&self) -> bool {
        false
    }

    /// Steps so far that were outside of what was measured, and so were extrapolated. 0 for formulas.
    fn extrapolated(&self) -> u64 {
        0
    }
}

/// The choice of a latency model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// The best that is known of this model, GPU and parallelism: a profile that covers them, or else the roofline. The
    /// column `latency_model` of a scenario says which it was.
    Auto(Auto),
    /// Compute and memory bounds of every operator, from the facts of model and GPU, with overheads.
    Roofline(Roofline),
    /// One compute and memory bound for the whole step, at constant efficiency (inference-sim's roofline).
    SimpleRoofline,
    /// Times of operators that were measured, in a table of a stage `profile`.
    Operators(Operators),
    /// Times of steps that were measured, in a table of a stage `profile`: the nearest one.
    Steps(Steps),
    /// The roofline's terms with fitted factors and overheads (inference-sim's default).
    TrainedPhysics(TrainedPhysics),
    /// Fitted factors on a roofline of prefill and one of decode.
    TrainedRoofline(TrainedRoofline),
    /// Fitted on four facts of the model, for H100.
    #[serde(alias = "crossmodel")]
    CrossModel(CrossModel),
    /// Fitted: a base, and a cost per prefill and per decode token.
    Linear(Linear),
    /// `linear` with published coefficients for this model, GPU and tensor-parallel size.
    Fitted(Fitted),
    /// A polynomial in the numbers of a batch.
    Regression(Regression),
    /// Two throughput figures.
    Rates(Rates),
    /// The same for every step.
    Constant(Constant),
}

/// What `auto` may choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auto {
    /// A stage `profile`: taken where it covers model and parallelism.
    pub profile: Option<String>,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::Auto(Auto::default())
    }
}

impl Latency {
    /// As written in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Latency::Auto(_) => "auto",
            Latency::Roofline(_) => "roofline",
            Latency::SimpleRoofline => "simple_roofline",
            Latency::Operators(_) => "operators",
            Latency::Steps(_) => "steps",
            Latency::TrainedPhysics(_) => "trained_physics",
            Latency::TrainedRoofline(_) => "trained_roofline",
            Latency::CrossModel(_) => "cross_model",
            Latency::Linear(_) => "linear",
            Latency::Fitted(_) => "fitted",
            Latency::Regression(_) => "regression",
            Latency::Rates(_) => "rates",
            Latency::Constant(_) => "constant",
        }
    }

    /// The profile that it reads.
    pub fn profile(&self) -> Option<&str> {
        match self {
            Latency::Operators(o) => Some(&o.profile),
            Latency::Steps(s) => Some(&s.profile),
            Latency::Auto(auto) => auto.profile.as_deref(),
            Latency::Roofline(_)
            | Latency::SimpleRoofline
            | Latency::TrainedPhysics(_)
            | Latency::TrainedRoofline(_)
            | Latency::CrossModel(_)
            | Latency::Linear(_)
            | Latency::Fitted(_)
            | Latency::Regression(_)
            | Latency::Rates(_)
            | Latency::Constant(_) => None,
        }
    }
}

/// The latency model of a pool, with its overheads.
///
/// # Errors
/// The profile that the model reads is not at hand, or does not cover model and parallelism.
pub fn of(site: &Site) -> Result<Box<dyn LatencyModel>, SimError> {
    let model = supplied(&site.deployment, &site.model, &site.gpu, &site.supplied).map_err(|mut problems| {
        let (path, message) = problems.swap_remove(0);
        SimError::Invalid { path: path.into(), message }
    })?;
    Ok(overheads::around(model, &site.deployment.overheads))
}

/// Whether the profile that the latency model of a pool reads covers model and parallelism.
pub fn fits(site: &Site) -> bool {
    unfit(site).is_empty()
}

/// What is wrong with the profile that the latency model of a pool reads, by path. Empty where it fits, or none is asked
/// for.
pub(crate) fn unfit(site: &Site) -> Vec<(&'static str, String)> {
    supplied(&site.deployment, &site.model, &site.gpu, &site.supplied).err().unwrap_or_default()
}

/// The model that a deployment names, without overheads, where nothing is supplied.
#[cfg(test)]
pub(crate) fn build(deployment: &Deployment, model: &ModelSpec, gpu: &GpuSpec) -> Box<dyn LatencyModel> {
    supplied(deployment, model, gpu, &Supplied::default()).expect("a model without a profile")
}

/// The model, or at least one problem by path.
fn supplied(
    d: &Deployment,
    m: &ModelSpec,
    g: &GpuSpec,
    supplied: &Supplied,
) -> Result<Box<dyn LatencyModel>, Vec<(&'static str, String)>> {
    let profile = |path: &'static str, name: &str| {
        let missing = || vec![(path, format!("the profile `{name}` is not at hand"))];
        supplied.profile.as_deref().ok_or_else(missing)
    };
    let unfit = |path: &'static str, name: &str, lacking: Vec<String>| {
        let place = format!("the profile `{name}` does not fit {} at tp {}, pp {}", d.model, d.tp, d.pp);
        lacking.into_iter().map(|what| (path, format!("{place}: {what}"))).collect::<Vec<_>>()
    };
    Ok(match supplied.latency.as_ref().unwrap_or(&d.latency) {
        Latency::Roofline(settings) => Box::new(roofline::Terms::new(settings, d, m, g)),
        // Nobody looked what else there is, or there is nothing.
        Latency::Auto(_) | Latency::Fitted(_) => Box::new(roofline::Terms::new(&Roofline::default(), d, m, g)),
        Latency::SimpleRoofline => Box::new(simple_roofline::SimpleRoofline::new(d, m, g)),
        Latency::Operators(settings) => {
            let (path, name) = ("deployment.latency.operators.profile", settings.profile.as_str());
            let profile = profile(path, name)?;
            let unread = settings.unread(profile);
            match operators::model(settings, d, m, g, profile) {
                Ok(model) if unread.is_empty() => model,
                made => return Err([unread, made.err().map_or(Vec::new(), |l| unfit(path, name, l))].concat()),
            }
        }
        Latency::Steps(settings) => {
            let (path, name) = ("deployment.latency.steps.profile", settings.profile.as_str());
            steps::model(settings, d, m, g, profile(path, name)?).map_err(|l| unfit(path, name, l))?
        }
        Latency::TrainedPhysics(fitted) => Box::new(trained_physics::Terms::new(fitted, d, m, g)),
        Latency::TrainedRoofline(fitted) => Box::new(trained_roofline::Terms::new(fitted, d, m, g)),
        Latency::CrossModel(fitted) => Box::new(cross_model::Terms::new(fitted, d, m)),
        Latency::Linear(linear) => Box::new(linear.in_us()),
        Latency::Regression(fitted) => Box::new(regression::Terms::new(fitted)),
        Latency::Rates(rates) => Box::new(*rates),
        Latency::Constant(constant) => Box::new(*constant),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Dtype, Scenario};
    use crate::sim::swarm::{h100, llama_8b, scenario_8b};

    fn shape(decode_requests: u64, context: u64, prompt: u64) -> BatchShape {
        BatchShape {
            decode_requests,
            decode_context: decode_requests * context,
            prefill_requests: u64::from(prompt > 0),
            prefill_tokens: prompt,
            prefill_tokens_squared: prompt * prompt,
            prefill_tokens_x_input: prompt * prompt,
            prefill_tokens_max: prompt,
            ..BatchShape::default()
        }
    }

    fn ms(latency: &str, tp: u32, dtype: Dtype, shape: &BatchShape) -> f64 {
        let mut d = scenario_8b().deployment;
        (d.latency, d.tp, d.dtype) = (serde_json::from_str(latency).unwrap(), tp, dtype);
        build(&d, &llama_8b(), &h100()).step(shape).as_ms()
    }

    #[test]
    fn steps_of_known_batches() {
        const LINEAR: &str = r#"{"linear": {"base_us": 1000, "per_prefill_token_us": 10, "per_decode_token_us": 3}}"#;
        const CROSS: &str = r#"{"cross_model": {}}"#;
        const ROOFLINES: &str = r#"{"trained_roofline": {}}"#;
        const RATES: &str = r#"{"rates": {"prefill_tokens_per_s": 10000, "decode_tokens_per_s": 100}}"#;
        let (decode, prefill, both) = (shape(8, 1000, 0), shape(0, 0, 2000), shape(8, 1000, 2000));
        let cases = [
            // 6.98e9 weights of 2 bytes and 8008 tokens of 131,072 bytes, at 3.35 TB/s.
            (r#""simple_roofline""#, 1, Dtype::Bf16, &decode, 4.4810),
            (r#""simple_roofline""#, 2, Dtype::Bf16, &decode, 2.2405),
            (r#""simple_roofline""#, 1, Dtype::Fp8, &decode, 2.3972),
            // 2 x 6.98e9 x 2000 operations, and those of attention, at 45 % of 989.5 TFLOP/s.
            (r#""simple_roofline""#, 1, Dtype::Bf16, &prefill, 65.0758),
            (LINEAR, 1, Dtype::Bf16, &both, 21.024),
            (RATES, 1, Dtype::Bf16, &both, 210.0),
            (RATES, 1, Dtype::Bf16, &prefill, 200.0),
            // 32 layers of 116.11 us, and 8 times 0.032768 million keys of 1,226.868 us; half of those with TP 2.
            (CROSS, 1, Dtype::Bf16, &decode, 4.0371),
            (CROSS, 2, Dtype::Bf16, &decode, 13.3215),
            (CROSS, 1, Dtype::Bf16, &prefill, 3.7155),
            // At peak, weights take 4,166.8 us and the cache of 8,008 tokens 313.3 us (arithmetic: 117.1 us); 32 layers
            // of 43.5 us and 8 requests of 48.8 us. With the prompt: one request more, and 31,392.6 us of arithmetic.
            (ROOFLINES, 1, Dtype::Bf16, &decode, 6.5358),
            (ROOFLINES, 1, Dtype::Bf16, &both, 30.8401),
        ];
        for (latency, tp, dtype, shape, expect) in cases {
            let ms = ms(latency, tp, dtype, shape);
            assert!((ms / expect - 1.0).abs() < 1e-3, "{latency} tp {tp} {dtype:?} {shape:?}: {ms}, not {expect}");
        }
    }

    #[test]
    fn units_of_coefficients() {
        // The set of inference-sim's README of 2025, in seconds as there: 1,000 prompt tokens and 8 decodes.
        const SECONDS: &str = r#"{"linear": {"base_us": 6.857138e-3, "per_prefill_token_us": 3.82496e-5,
            "per_decode_token_us": 5.51739e-5, "unit": "s"}}"#;
        let both = BatchShape { decode_requests: 8, ..shape(0, 0, 1_000) };
        let step = ms(SECONDS, 1, Dtype::Bf16, &both);
        assert!((step / (6.857_138 + 38.249_6 + 0.441_391_2) - 1.0).abs() < 1e-6, "{step}");
        let mut d = scenario_8b().deployment;
        let text = r#"{"linear": {"base_us": 1, "per_prefill_token_us": 0, "per_decode_token_us": 0,
            "queue_base_us": 2, "per_output_token_us": 3, "after_request_us": 4, "unit": "ms"}}"#;
        d.latency = serde_json::from_str(text).unwrap();
        let model = build(&d, &llama_8b(), &h100());
        let outside = [model.before_queue(9), model.after_token(), model.after_request()];
        assert_eq!(outside.map(|d| d.0), [2_000_000, 3_000_000, 4_000_000]);
    }

    #[test]
    fn a_mixture_reads_the_experts_that_its_tokens_choose() {
        // Mixtral 8x7B: 1.342e9 weights of attention and 5.637e9 of each expert; a step of one token reads two experts,
        // one of 8 tokens all eight (trained roofline: 2 per token) or 7.2 of them (roofline: as chance has it).
        let m = ModelSpec { experts: 8, top_k: 2, ..llama_8b() };
        let weights_ms = |experts: f64| (1.342_2 + experts * 5.637_1) * 2.0 / 3.35;
        let cases = [
            (r#"{"trained_roofline": {"decode": 0, "weights": 1, "layer_us": 0, "request_us": 0}}"#, 1, 2.0),
            (r#"{"trained_roofline": {"decode": 0, "weights": 1, "layer_us": 0, "request_us": 0}}"#, 8, 8.0),
            (r#""simple_roofline""#, 1, 2.0),
            (r#""simple_roofline""#, 8, 8.0 * (1.0 - libm::pow(0.75, 8.0))),
        ];
        for (latency, requests, experts) in cases {
            let mut d = scenario_8b().deployment;
            d.latency = serde_json::from_str(latency).unwrap();
            let ms = build(&d, &m, &h100()).step(&shape(requests, 1, 0)).as_ms();
            assert!((ms / weights_ms(experts) - 1.0).abs() < 1e-3, "{latency} {requests}: {ms}");
        }
    }

    #[test]
    fn layers_without_a_cache_neither_attend_nor_have_keys() {
        // Half of the layers: half of the pairs of a prompt, and half of the keys of a request that decodes.
        let hybrid = ModelSpec { linear_layers: 16, ..llama_8b() };
        let later = BatchShape { prefill_tokens_x_context: 2_000 * 50_000, ..shape(0, 0, 2_000) };
        let cases = [
            (r#""simple_roofline""#, later, shape(0, 0, 2_000)),
            (r#"{"cross_model": {}}"#, shape(8, 1_000, 0), shape(0, 0, 0)),
        ];
        for (latency, with, without) in cases {
            let mut d = scenario_8b().deployment;
            d.latency = serde_json::from_str(latency).unwrap();
            let more = |m: &ModelSpec| {
                let model = build(&d, m, &h100());
                model.step(&with).as_ms() - model.step(&without).as_ms()
            };
            let share = more(&hybrid) / more(&llama_8b());
            assert!((share - 0.5).abs() < 1e-5, "{latency}: {share}");
        }
    }

    #[test]
    fn ranks_that_share_experts_read_less() {
        // Mixtral 8x7B as above, on ranks of one GPU: four ranks with a token each choose 8 (1 - 0.75^4) = 5.469 experts
        // (trained roofline: all eight), of which each reads a quarter. Alone a token reads two.
        let m = ModelSpec { experts: 8, top_k: 2, ..llama_8b() };
        let weights_ms = |experts: f64| (1.342_2 + experts * 5.637_1) * 2.0 / 3.35;
        let chosen = 8.0 * (1.0 - libm::pow(0.75, 4.0));
        const FITTED: &str = r#"{"trained_roofline": {"decode": 0, "weights": 1, "layer_us": 0, "request_us": 0}}"#;
        const PHYSICS: &str = r#"{"trained_physics": {"decode_kv": 0, "weights": 1, "layer_us": 0, "request_us": 0,
            "step_us": 0}}"#;
        for (latency, alone, shared) in
            [(r#""simple_roofline""#, 2.0, chosen / 4.0), (FITTED, 2.0, 2.0), (PHYSICS, 8.0, 2.0)]
        {
            for (dp, enable_expert_parallel, experts) in [(4, false, alone), (1, true, alone), (4, true, shared)] {
                let d = Deployment {
                    latency: serde_json::from_str(latency).unwrap(),
                    dp,
                    enable_expert_parallel,
                    ..scenario_8b().deployment
                };
                let ms = build(&d, &m, &h100()).step(&shape(1, 1, 0)).as_ms();
                assert!((ms / weights_ms(experts) - 1.0).abs() < 1e-3, "{latency} {dp} {enable_expert_parallel}: {ms}");
            }
        }
        // A long prompt is all arithmetic, which is the same: the ranks compute for each other.
        let prompt = shape(0, 0, 20_000);
        let of = |dp: u32| {
            let d = Deployment { dp, enable_expert_parallel: true, ..scenario_8b().deployment };
            build(&d, &m, &h100()).step(&prompt)
        };
        assert_eq!(of(1), of(8));
    }

    #[test]
    fn settings_that_a_profile_does_not_read_are_told_beside_what_it_lacks() {
        let s = scenario_8b();
        let latency = r#"{"operators": {"profile": "p", "moe_dtype": "fp8", "link_gb_per_s": 50}}"#;
        let d = Deployment { latency: serde_json::from_str(latency).unwrap(), ..s.deployment.clone() };
        let profile = crate::profile::Profile {
            fingerprint: "empty".to_string(),
            layout: crate::profile::Layout::Layers,
            names: vec![String::new()],
            points: std::collections::BTreeMap::new(),
        };
        let found = supplied(&d, &s.model, &s.gpu, &Supplied { profile: Some(profile.into()), ..Supplied::default() });
        let paths: Vec<&str> = found.err().unwrap_or_default().iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, ["deployment.latency.operators.moe_dtype", "deployment.latency.operators.profile"]);
    }

    #[test]
    fn the_form_of_decode_steps_is_the_step() {
        let dense = scenario_8b();
        let mixture = Scenario { model: ModelSpec { experts: 8, top_k: 2, ..llama_8b() }, ..scenario_8b() };
        let names = [
            r#""simple_roofline""#,
            r#"{"trained_physics": {}}"#,
            r#"{"trained_roofline": {}}"#,
            r#"{"cross_model": {}}"#,
            r#"{"linear": {"base_us": 7051.8, "per_prefill_token_us": 19.5, "per_decode_token_us": 25.4}}"#,
            r#"{"rates": {"prefill_tokens_per_s": 9000, "decode_tokens_per_s": 70}}"#,
            r#"{"roofline": {}}"#,
            r#"{"roofline": {"cuda_graph_max_bs": 100, "launch_us": 40}}"#,
            r#"{"regression": {"intercept_us": 900.1, "sum_decode_tokens_us": -0.3, "decode_context_us": 0.013}}"#,
            r#"{"constant": {"step_us": 1234.567}}"#,
        ];
        let added = Overheads { step_us: 33.3, request_us: 0.7, network_rtt_ms: 1.0, ..Overheads::default() };
        for (latency, s) in names.iter().flat_map(|name| [(name, &dense), (name, &mixture)]) {
            let mut d = s.deployment.clone();
            d.latency = serde_json::from_str(latency).unwrap();
            let model = build(&d, &s.model, &s.gpu);
            let around = overheads::around(build(&d, &s.model, &s.gpu), &added);
            for requests in [1, 7, 256] {
                for model in [&model, &around] {
                    let form = model.decode_form(requests).unwrap();
                    for context in [1, 100, 5_000, 100_000] {
                        let step = model.step(&shape(requests, context, 0));
                        assert_eq!(form.at(requests * context), step, "{latency} {requests} {context}");
                        assert!(step >= model.shortest_step(), "{latency} {requests} {context}");
                    }
                }
            }
        }
    }

    #[test]
    fn coefficients_left_out_are_the_published_ones() {
        let read = |text: &str| serde_json::from_str::<Latency>(text);
        assert_eq!(
            read(r#"{"trained_physics": {"layer_us": 1}}"#).unwrap(),
            Latency::TrainedPhysics(TrainedPhysics { layer_us: 1.0, ..TrainedPhysics::default() })
        );
        for wrong in [
            r#"{"rates": {"prefill": 1}}"#,
            r#"{"trained_physics": {"moe_layer_us": 1}}"#,
            r#"{"trained_roofline": {"all_reduce": 1}}"#,
            r#"{"cross_model": {"step_us": 1}}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
