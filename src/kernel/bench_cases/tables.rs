//! Profiles and batches that the speed of latency models is measured on.
//!
//! Promises: as large as what projects publish, of Llama 3.1 8B on one GPU; the same on any machine. Times are those of a
//! simple formula.
//! Leaves out: real measurements, which are beside the repository where there are any.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::profile::{DIMS, Layout, Operator, Point, Profile, Supplied};
use crate::scenario::Scenario;
use crate::sim::latency::{BatchShape, CONTEXT_PAGE, Latency, Operators, Steps};
use crate::sim::swarm::scenario_8b;

/// Batches of changing sizes: up to 200 requests that decode, and `mixed` with them a prompt of up to 2,000 tokens.
pub fn shape(i: u64, mixed: bool) -> BatchShape {
    let decode_requests = 1 + i * 7 % 200;
    let decode = BatchShape {
        decode_requests,
        decode_context: decode_requests * (100 + i),
        decode_context_min: 50 + i / 2,
        decode_context_max: 200 + 2 * i,
        ..BatchShape::default()
    };
    if !mixed {
        return decode;
    }
    let (n, context) = (1 + i * 13 % 2_000, i * 2);
    BatchShape {
        prefill_requests: 1,
        prefill_tokens: n,
        prefill_context: context,
        prefill_tokens_x_context: n * context,
        prefill_tokens_squared: n * n,
        prefill_tokens_x_input: n * (n + context),
        prefill_tokens_max: n,
        prefill_context_pages: context.div_ceil(CONTEXT_PAGE),
        ..decode
    }
}

/// Points as they are made.
struct Making {
    names: Vec<String>,
    points: BTreeMap<Operator, Vec<Point>>,
}

impl Making {
    fn new(names: &[&str]) -> Making {
        let mut names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        names.push(String::new());
        names.sort_unstable();
        Making { names, points: BTreeMap::new() }
    }

    fn add(&mut self, operator: Operator, variant: &str, shape: &[u32], latency_us: f64) {
        let number = |name: &str| self.names.binary_search_by(|n| n.as_str().cmp(name)).unwrap_or(0) as u16;
        let mut all = [0; DIMS];
        all[..shape.len()].copy_from_slice(shape);
        let dtype = number("bfloat16");
        let point = Point { variant: number(variant), dtype, kv_dtype: dtype, shape: all, latency_us };
        self.points.entry(operator).or_default().push(point);
    }

    fn profile(mut self, layout: Layout) -> Arc<Profile> {
        for points in self.points.values_mut() {
            points.sort_unstable_by_key(|p| (p.variant, p.dtype, p.kv_dtype, p.shape));
        }
        Arc::new(Profile { fingerprint: layout.name().to_string(), layout, names: self.names, points: self.points })
    }
}

/// A profile of each layout that makes a latency model of its own.
pub fn profiles() -> Vec<Arc<Profile>> {
    vec![layers(), database(), predictions(), steps()]
}

/// One replica whose steps are looked up in a profile.
pub fn on(profile: &Arc<Profile>) -> Scenario {
    let mut s = scenario_8b();
    s.deployment.latency = match profile.layout {
        Layout::Steps => Latency::Steps(Steps { profile: "profile".to_string(), scale: 1.0 }),
        Layout::Operators | Layout::Layers | Layout::Vidur | Layout::VidurPredictions | Layout::Generic => {
            Latency::Operators(Operators::of("profile"))
        }
    };
    s.supplied = Supplied { profile: Some(profile.clone()), ..Supplied::default() };
    s
}

/// 1, 2, 4 and so on, up to a number.
fn doubled(most: u32) -> impl Iterator<Item = u32> + Clone {
    std::iter::successors(Some(1_u32), |n| n.checked_mul(2)).take_while(move |n| *n <= most)
}

fn and_zero(numbers: impl Iterator<Item = u32> + Clone) -> impl Iterator<Item = u32> + Clone {
    std::iter::once(0).chain(numbers)
}

/// LLMServingSim's, with the skew of contexts.
fn layers() -> Arc<Profile> {
    const TOKENS: [&str; 9] = [
        "act_fn",
        "down_proj",
        "embedding",
        "final_layernorm",
        "gate_up_proj",
        "layernorm",
        "o_proj",
        "qkv_proj",
        "rotary_emb",
    ];
    let mut all = Making::new(&[&TOKENS[..], &["default", "lm_head", "sampler"]].concat());
    for name in TOKENS {
        for n in (1..=16).chain((24..=2_048).step_by(16)) {
            all.add(Operator::TokenLayer, name, &[n, 1], 20.0 + f64::from(n) * 0.1);
        }
    }
    for n in doubled(256) {
        all.add(Operator::SequenceLayer, "lm_head", &[n, 1], 350.0 + f64::from(n));
        all.add(Operator::SequenceLayer, "sampler", &[n, 1], 30.0 + f64::from(n));
    }
    for chunk in and_zero(doubled(2_048).skip(4)) {
        for before in and_zero(doubled(16_384).skip(9)).filter(|n| chunk > 0 || *n == 0) {
            for n in and_zero(doubled(256)).filter(|n| chunk + n > 0) {
                for context in doubled(16_384).skip(4) {
                    let pairs = f64::from(chunk) * f64::from(before + chunk / 2) + f64::from(n) * f64::from(context);
                    let context = if n == 0 { 0 } else { context };
                    all.add(Operator::BatchAttention, "", &[chunk, before, n, context, 1], 4.0 + pairs * 1e-4);
                    if n == 0 {
                        break;
                    }
                }
            }
        }
    }
    all.add(Operator::SkewAlpha, "default", &[0, 0, 0, 0, 0, 1], 0.07);
    for n in doubled(256).skip(1) {
        for rate in [5, 15, 30, 50] {
            for most in doubled(16_384).skip(10) {
                all.add(Operator::SkewAlpha, "", &[0, n, rate, most, 0, 1], 0.01 + f64::from(rate) * 1e-3);
            }
        }
    }
    all.profile(Layout::Layers)
}

/// aiconfigurator's, of the sizes that are needed.
fn database() -> Arc<Profile> {
    let mut all = Making::new(&["bfloat16"]);
    for (n, k) in [(6_144, 4_096), (4_096, 4_096), (28_672, 4_096), (4_096, 14_336), (128_256, 4_096)] {
        for m in doubled(8_192).flat_map(|m| [m, m + m / 2]) {
            let us = f64::from(n) * f64::from(k) * (1e-6 + f64::from(m) * 3e-9);
            all.add(Operator::Gemm, "", &[m, n, k], us);
        }
    }
    for batch in doubled(256) {
        for chunk in doubled(16_384) {
            let us = 5.0 + f64::from(batch) * f64::from(chunk) * f64::from(chunk) * 1e-6;
            all.add(Operator::ContextAttention, "", &[batch, chunk, 0, 32, 8, 128, 0], us);
        }
        for context in doubled(32_768).skip(1) {
            let us = 5.0 + f64::from(batch) * f64::from(context) * 2e-3;
            all.add(Operator::GenerationAttention, "", &[batch, context, 32, 8, 128, 0], us);
        }
    }
    // In the tables, several implementations of a product are one after the other.
    all.points.values_mut().for_each(|points| points.dedup_by_key(|p| p.shape));
    all.profile(Layout::Operators)
}

/// Vidur's, branch canary.
fn predictions() -> Arc<Profile> {
    const TOKENS: [&str; 9] = [
        "add",
        "attn_post_proj",
        "attn_pre_proj",
        "attn_rope",
        "input_layernorm",
        "mlp_act",
        "mlp_down_proj",
        "mlp_up_proj",
        "post_attention_layernorm",
    ];
    let mut all = Making::new(&TOKENS);
    for n in 1..=8_192 {
        for name in TOKENS {
            all.add(Operator::TokenLayer, name, &[n], 20.0 + f64::from(n) * 0.1);
        }
        all.add(Operator::KvCacheSave, "", &[n], 5.0 + f64::from(n) * 1e-3);
    }
    for context in (0..=8_192).step_by(64) {
        for n in 1..=200 {
            let us = 15.0 + f64::from(n) * f64::from(context) * 2e-3;
            all.add(Operator::DecodeAttention, "", &[context, n], us);
        }
        for chunk in (32..=4_096).step_by(32) {
            let us = 10.0 + f64::from(chunk) * f64::from(context + chunk / 2) * 1e-4;
            all.add(Operator::PrefillAttention, "", &[context, chunk], us);
        }
    }
    all.profile(Layout::VidurPredictions)
}

/// Steps of an engine: those of a busy one do not differ much, but no two are equal.
fn steps() -> Arc<Profile> {
    let mut all = Making::new(&[]);
    for i in 0..8_192_u64 {
        let s = shape(i * 389 % 1_024, i % 4 == 0);
        let n = |x: u64| (x + i % 97) as u32;
        let us = 5_000.0 + (s.decode_requests * 20 + s.prefill_tokens * 15) as f64 + s.decode_context as f64 * 0.01;
        let decode = [s.decode_requests as u32, n(s.decode_context)];
        let prefill = [s.prefill_tokens as u32, s.prefill_requests as u32, s.prefill_context as u32];
        all.add(Operator::Step, "", &[prefill[0], prefill[1], prefill[2], decode[0], decode[1], 1], us);
    }
    all.profile(Layout::Steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::latency::of;

    #[test]
    fn every_profile_makes_a_model() {
        for profile in profiles() {
            let model = of(&on(&profile).sites()[0]).unwrap_or_else(|e| panic!("{:?}: {e}", profile.layout));
            for i in 0..1_024 {
                assert!(model.step(&shape(i, false)) <= model.step(&shape(i, true)) || profile.layout == Layout::Steps);
            }
            // Steps have no two shapes in common.
            assert!(profile.layout == Layout::Steps || model.extrapolated() < 100, "{:?}", profile.layout);
        }
    }
}
