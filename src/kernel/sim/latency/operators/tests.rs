//! Compositions against sums by hand, of a model with two layers.

use std::collections::BTreeMap;

use super::*;
use crate::profile::{DIMS, Operator, Point};
use crate::scenario::Mla;
use crate::sim::latency::CONTEXT_PAGE;
use crate::sim::swarm::{h100, llama_8b, scenario_8b};

/// `(operator, variant, dtype, shape, us)`.
type Row = (Operator, &'static str, &'static str, &'static [u32], f64);

fn profile(layout: Layout, rows: &[Row]) -> Profile {
    let mut names: Vec<String> = vec![String::new()];
    let mut number = |name: &str| {
        let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
            names.push(name.to_string());
            names.len() - 1
        });
        at as u16
    };
    let mut points: BTreeMap<Operator, Vec<Point>> = BTreeMap::new();
    for &(operator, variant, dtype, shape, latency_us) in rows {
        let mut all = [0; DIMS];
        all[..shape.len()].copy_from_slice(shape);
        let point =
            Point { variant: number(variant), dtype: number(dtype), kv_dtype: number(dtype), shape: all, latency_us };
        points.entry(operator).or_default().push(point);
    }
    Profile { fingerprint: "by hand".to_string(), layout, names, points }
}

/// Two layers, hidden 8, heads 2 of size 4, one of them for keys and values, inter 16, vocabulary 32.
fn tiny() -> ModelSpec {
    ModelSpec { layers: 2, hidden: 8, intermediate: 16, heads: 2, kv_heads: 1, head_dim: 4, vocab: 32, ..llama_8b() }
}

fn deployment() -> Deployment {
    scenario_8b().deployment
}

fn made(profile: &Profile, d: &Deployment, m: &ModelSpec) -> Box<dyn LatencyModel> {
    model(&Operators::of("p"), d, m, &h100(), profile).unwrap()
}

fn decode(requests: u64, context: u64) -> BatchShape {
    BatchShape { decode_requests: requests, decode_context: requests * context, ..BatchShape::default() }
}

/// One prompt.
fn prompt(chunk: u64, context: u64) -> BatchShape {
    BatchShape {
        prefill_requests: 1,
        prefill_tokens: chunk,
        prefill_context: context,
        prefill_tokens_x_context: chunk * context,
        prefill_tokens_squared: chunk * chunk,
        prefill_tokens_x_input: chunk * (chunk + context),
        prefill_tokens_max: chunk,
        prefill_context_pages: context.div_ceil(CONTEXT_PAGE),
        ..BatchShape::default()
    }
}

fn us(model: &dyn LatencyModel, s: &BatchShape) -> f64 {
    model.step(s).0 as f64 / 1e3
}

const LAYERS: &[Row] = &[
    (Operator::TokenLayer, "embedding", "", &[1, 1], 1.0),
    (Operator::TokenLayer, "embedding", "", &[101, 1], 11.0),
    (Operator::TokenLayer, "layernorm", "", &[1, 1], 2.0),
    (Operator::TokenLayer, "layernorm", "", &[101, 1], 2.0),
    (Operator::TokenLayer, "qkv_proj", "", &[1, 1], 10.0),
    (Operator::TokenLayer, "qkv_proj", "", &[101, 1], 110.0),
    (Operator::TokenLayer, "o_proj", "", &[1, 1], 5.0),
    (Operator::TokenLayer, "o_proj", "", &[101, 1], 5.0),
    (Operator::TokenLayer, "gate_up_proj", "", &[1, 1], 20.0),
    (Operator::TokenLayer, "gate_up_proj", "", &[101, 1], 20.0),
    (Operator::TokenLayer, "down_proj", "", &[1, 1], 30.0),
    (Operator::TokenLayer, "down_proj", "", &[101, 1], 30.0),
    (Operator::SequenceLayer, "lm_head", "", &[1, 1], 100.0),
    (Operator::SequenceLayer, "lm_head", "", &[11, 1], 200.0),
    (Operator::BatchAttention, "", "", &[0, 0, 1, 16, 1], 4.0),
    (Operator::BatchAttention, "", "", &[0, 0, 1, 116, 1], 14.0),
    (Operator::BatchAttention, "", "", &[0, 0, 3, 16, 1], 8.0),
    (Operator::BatchAttention, "", "", &[0, 0, 3, 116, 1], 28.0),
    (Operator::BatchAttention, "", "", &[10, 0, 0, 0, 1], 7.0),
    (Operator::BatchAttention, "", "", &[10, 0, 1, 16, 1], 11.0),
    (Operator::BatchAttention, "", "", &[10, 20, 0, 0, 1], 9.0),
    (Operator::BatchAttention, "", "", &[20, 0, 0, 0, 1], 17.0),
];

#[test]
fn layers_by_hand() {
    let p = profile(Layout::Layers, LAYERS);
    let model = made(&p, &deployment(), &tiny());
    // Per layer: two norms 4, o 5, gate and up 20, down 30: 59, and qkv as many us as 9 + tokens. Embedding 0.9 + 0.1 per token.
    let tokens = |n: f64| 0.9 + 0.1 * n + 2.0 * (59.0 + 9.0 + n);
    let head = |n: f64| 90.0 + 10.0 * n;
    for (shape, expect, outside) in [
        // The points themselves: the new token counts in the context.
        (decode(1, 15), tokens(1.0) + head(1.0) + 2.0 * 4.0, 0),
        (decode(3, 115), tokens(3.0) + head(3.0) + 2.0 * 28.0, 0),
        // Halfway between in both directions: the mean of 9 and 18.
        (decode(2, 65), tokens(2.0) + head(2.0) + 2.0 * 13.5, 0),
        (prompt(10, 0), tokens(10.0) + head(1.0) + 2.0 * 7.0, 0),
        (prompt(10, 10), tokens(10.0) + head(1.0) + 2.0 * 8.0, 0),
        (prompt(15, 0), tokens(15.0) + head(1.0) + 2.0 * 12.0, 0),
        // Beyond the last context and number: as their ratios.
        (decode(6, 231), tokens(6.0) + head(6.0) + 2.0 * 28.0 * 2.0 * 2.0, 1),
        // Beyond the last number of tokens, each layer in proportion.
        (prompt(202, 0), 22.0 + 2.0 * (2.0 * (59.0 + 110.0)) + head(1.0) + 2.0 * 17.0 * 10.1, 1),
    ] {
        let before = model.extrapolated();
        let found = us(&*model, &shape);
        assert!((found - expect).abs() < 2e-3, "{shape:?}: {found}, not {expect}");
        assert_eq!(model.extrapolated() - before, outside, "{shape:?}");
    }
    // Both: the attention of the batch as it was measured.
    let both = BatchShape { decode_requests: 1, decode_context: 15, ..prompt(10, 0) };
    assert!((us(&*model, &both) - (tokens(11.0) + head(2.0) + 2.0 * 11.0)).abs() < 2e-3);
    assert!(model.shortest_step() <= model.step(&decode(1, 15)));
    // Settings around it.
    let settings = Operators { scale: 2.0, layer_us: 3.0, step_us: 4.0, ..Operators::of("p") };
    let scaled = super::model(&settings, &deployment(), &tiny(), &h100(), &p).unwrap();
    let expect = 2.0 * (tokens(1.0) + head(1.0) + 8.0 + 2.0 * 3.0 + 4.0);
    assert!((us(&*scaled, &decode(1, 15)) - expect).abs() < 2e-3);
}

#[test]
fn a_layer_has_a_mixture_or_a_dense_network() {
    let mut rows = LAYERS.to_vec();
    rows.extend([
        (Operator::TokenLayer, "act_fn", "", &[1, 1][..], 0.5),
        (Operator::MoeLayer, "", "", &[1, 2, 1][..], 1_000.0),
        (Operator::MoeLayer, "", "", &[1, 9, 1][..], 1e6),
    ]);
    let p = profile(Layout::Layers, &rows);
    let mixture = |layers: u32, first_dense: u32, moe_every: u32| ModelSpec {
        experts: 8,
        top_k: 2,
        layers,
        first_dense,
        moe_every,
        ..tiny()
    };
    for (m, mixed, dense) in [
        (mixture(6, 0, 1), 6.0, 0.0),
        (mixture(6, 2, 1), 4.0, 2.0),
        (mixture(6, 0, 2), 3.0, 3.0),
        (mixture(6, 2, 2), 2.0, 4.0),
        (mixture(6, 6, 1), 0.0, 6.0),
        (ModelSpec { layers: 6, ..tiny() }, 0.0, 6.0),
    ] {
        // Per layer: two norms 4, qkv 10, o 5, attention 4; dense: gate and up 20, activation 1/2, down 30. Once: 101.
        let expect = 6.0 * 23.0 + mixed * 1_000.0 + dense * 50.5 + 101.0;
        let found = us(&*made(&p, &deployment(), &m), &decode(1, 15));
        assert!((found - expect).abs() < 2e-3, "{m:?}: {found}, not {expect}");
    }
    // What no layer has is not missed, and what some have is.
    rows.retain(|row| row.1 != "gate_up_proj");
    let p = profile(Layout::Layers, &rows);
    let of = |m: &ModelSpec| super::model(&Operators::of("p"), &deployment(), m, &h100(), &p).err().unwrap_or_default();
    assert!(of(&mixture(6, 0, 1)).is_empty());
    assert_eq!(of(&mixture(6, 1, 1)), ["it has no layer `gate_up_proj`"]);
}

#[test]
fn layers_without_a_cache_are_in_no_table_of_operators() {
    let hybrid = ModelSpec { linear_layers: 1, ..tiny() };
    let of = |p: &Profile| {
        let made = super::model(&Operators::of("p"), &deployment(), &hybrid, &h100(), p);
        made.err().unwrap_or_default()
    };
    const SAID: &str = "it has no linear attention, which 1 of the 2 layers have";
    assert_eq!(of(&profile(Layout::Layers, LAYERS)), [SAID]);
    assert_eq!(of(&profile(Layout::Operators, DATABASE)), [SAID]);
    // With all else that is missing.
    for layout in [Layout::Vidur, Layout::VidurPredictions, Layout::Generic, Layout::Steps] {
        let lacking = of(&profile(layout, &[]));
        assert!(lacking.len() > 1 && lacking[0] == SAID, "{layout:?}: {lacking:?}");
    }
    // A step that was measured as a whole has what it has.
    for layout in [Layout::Generic, Layout::Steps] {
        assert!(of(&profile(layout, &[(Operator::Step, "", "", &[0, 0, 0, 1, 10, 0], 5.0)])).is_empty());
    }
}

#[test]
fn settings_that_a_layout_does_not_read_are_refused() {
    let all = Operators {
        gemm_dtype: Some("fp8".to_string()),
        moe_dtype: Some("fp8".to_string()),
        distribution: Some("balanced".to_string()),
        link_gb_per_s: Some(50.0),
        link_latency_us: 11.0,
        ..Operators::of("p")
    };
    let names = ["gemm_dtype", "moe_dtype", "distribution"];
    let links = ["link_gb_per_s", "link_latency_us"];
    let both = [&names[..], &links[..]].concat();
    let step: &[Row] = &[(Operator::Step, "", "", &[0, 0, 0, 1, 10, 0], 5.0)];
    for (layout, rows, expect) in [
        (Layout::Operators, DATABASE, &[][..]),
        (Layout::Generic, DATABASE, &[]),
        (Layout::Layers, LAYERS, &names),
        (Layout::Vidur, &[], &both),
        (Layout::VidurPredictions, &[], &both),
        (Layout::Generic, step, &both),
        (Layout::Steps, step, &both),
    ] {
        let p = profile(layout, rows);
        let unread = all.unread(&p);
        let found: Vec<&str> =
            unread.iter().filter_map(|(path, _)| path.strip_prefix("deployment.latency.operators.")).collect();
        assert_eq!(found, expect, "{layout:?}");
        assert!(unread.iter().all(|(_, why)| why.contains(&format!("`{}`", layout.name()))), "{unread:?}");
        // What every layout reads, and what is left out, is no mistake.
        let read = Operators { scale: 2.0, layer_us: 3.0, step_us: 4.0, ..Operators::of("p") };
        assert!(read.unread(&p).is_empty(), "{layout:?}");
    }
}

#[test]
fn skews_that_share_no_bounds_are_refused() {
    // Every bucket has bounds of its own: of so many there are as many to the power of five.
    let shapes: Vec<[u32; 6]> = (1..=30).map(|n| [n, n, n, n, n, 1]).collect();
    let shapes: &'static [[u32; 6]] = Box::leak(shapes.into_boxed_slice());
    let mut rows = LAYERS.to_vec();
    rows.push((Operator::SkewAlpha, "default", "", &[0, 0, 0, 0, 0, 1], 0.1));
    let skewed = |shapes: &'static [[u32; 6]]| {
        let skews = shapes.iter().map(|shape| (Operator::SkewAlpha, "", "", &shape[..], 0.2));
        let rows: Vec<Row> = rows.iter().copied().chain(skews).collect();
        super::model(&Operators::of("p"), &deployment(), &tiny(), &h100(), &profile(Layout::Layers, &rows)).err()
    };
    // 20^5 are 3.2 million, 30^5 24.3 million.
    assert_eq!(skewed(&shapes[..20]), None);
    assert_eq!(skewed(shapes).unwrap(), ["its skews of contexts span more than 4194304 buckets"]);
}

#[test]
fn what_a_profile_lacks_is_said() {
    let p = profile(Layout::Layers, LAYERS);
    let lacking = |p: &Profile, d: &Deployment, m: &ModelSpec| {
        super::model(&Operators::of("p"), d, m, &h100(), p).err().unwrap_or_default().join("; ")
    };
    let d = deployment();
    assert_eq!(lacking(&p, &Deployment { tp: 2, ..d.clone() }, &tiny()), "it has no layers at tp 2; it has tp 1");
    let mixture = ModelSpec { experts: 8, top_k: 2, ..tiny() };
    assert_eq!(lacking(&p, &d, &mixture), "it has no mixture layers");
    let without: Vec<Row> = LAYERS.iter().copied().filter(|r| r.1 != "o_proj").collect();
    assert_eq!(lacking(&profile(Layout::Layers, &without), &d, &tiny()), "it has no layer `o_proj`");
    let empty = profile(Layout::Operators, &[]);
    let found = lacking(&empty, &d, &tiny());
    assert!(found.contains("matrix products of type bfloat16") && found.contains("attention of prompts"), "{found}");
    let steps = profile(Layout::Steps, &[(Operator::Step, "", "", &[0, 0, 0, 1, 10, 4], 5.0)]);
    assert_eq!(lacking(&steps, &d, &tiny()), "it has no steps at tp 1; it has steps at tp 4");
}

/// Products of `tiny`: 16 x 8 (queries, keys, values), 8 x 8 (output), 32 x 8 (gate and up; output matrix), 8 x 16 (down).
const DATABASE: &[Row] = &[
    (Operator::Gemm, "", "bfloat16", &[1, 16, 8], 1.0),
    (Operator::Gemm, "", "bfloat16", &[64, 16, 8], 64.0),
    (Operator::Gemm, "", "bfloat16", &[1, 8, 8], 2.0),
    (Operator::Gemm, "", "bfloat16", &[64, 8, 8], 2.0),
    (Operator::Gemm, "", "bfloat16", &[1, 32, 8], 3.0),
    (Operator::Gemm, "", "bfloat16", &[64, 32, 8], 3.0),
    (Operator::Gemm, "", "bfloat16", &[1, 8, 16], 4.0),
    (Operator::Gemm, "", "bfloat16", &[64, 8, 16], 4.0),
    (Operator::ContextAttention, "", "bfloat16", &[1, 16, 0, 2, 1, 4, 0], 10.0),
    (Operator::ContextAttention, "", "bfloat16", &[1, 32, 0, 2, 1, 4, 0], 30.0),
    (Operator::ContextAttention, "", "bfloat16", &[2, 16, 0, 2, 1, 4, 0], 20.0),
    (Operator::ContextAttention, "", "bfloat16", &[2, 32, 0, 2, 1, 4, 0], 60.0),
    // Another head size, and a window: not taken.
    (Operator::ContextAttention, "", "bfloat16", &[1, 16, 0, 2, 1, 8, 0], 1e6),
    (Operator::ContextAttention, "", "bfloat16", &[1, 16, 0, 2, 1, 4, 16], 1e6),
    (Operator::GenerationAttention, "", "bfloat16", &[1, 16, 2, 1, 4, 0], 5.0),
    (Operator::GenerationAttention, "", "bfloat16", &[1, 32, 2, 1, 4, 0], 7.0),
    (Operator::GenerationAttention, "", "bfloat16", &[2, 16, 2, 1, 4, 0], 8.0),
    (Operator::GenerationAttention, "", "bfloat16", &[2, 32, 2, 1, 4, 0], 10.0),
];

/// Element-wise kernels of a step of `tiny`: embedding; two norms, rotation, saving and an activation per layer; 3 us each.
const KERNELS_US: f64 = 3.0 * (1.0 + 2.0 * 5.0);

#[test]
fn a_database_by_hand() {
    let p = profile(Layout::Operators, DATABASE);
    let model = made(&p, &deployment(), &tiny());
    // What element-wise kernels move is far below a nanosecond here.
    for (shape, expect) in [
        (decode(1, 15), KERNELS_US + 2.0 * (1.0 + 2.0 + 3.0 + 4.0 + 5.0) + 3.0),
        (decode(2, 23), KERNELS_US + 2.0 * (2.0 + 2.0 + 3.0 + 4.0 + 9.0) + 3.0),
        (prompt(16, 0), KERNELS_US + 2.0 * (16.0 + 2.0 + 3.0 + 4.0 + 10.0) + 3.0),
        // Behind 16 tokens that are there, of 32 * 33 / 2 pairs 16 * 17 / 2 are not new.
        (prompt(16, 16), KERNELS_US + 2.0 * (16.0 + 9.0 + 30.0 * (528.0 - 136.0) / 528.0) + 3.0),
    ] {
        let found = us(&*model, &shape);
        assert!((found - expect).abs() < 2e-2, "{shape:?}: {found}, not {expect}");
    }
    assert_eq!(model.extrapolated(), 0);
    // Two equal prompts are the row of two.
    let two =
        BatchShape { prefill_requests: 2, prefill_tokens: 32, prefill_tokens_squared: 512, ..BatchShape::default() };
    let expect = KERNELS_US + 2.0 * (32.0 + 9.0 + 20.0) + 3.0;
    assert!((us(&*model, &two) - expect).abs() < 2e-2, "{}", us(&*model, &two));
    // Four heads for keys and values where one was measured: four times the batch.
    let wide = ModelSpec { heads: 4, kv_heads: 2, hidden: 8, head_dim: 4, ..tiny() };
    let narrow = us(&*made(&p, &deployment(), &tiny()), &decode(2, 15)) - 2.0 * 2.0;
    let of_wide = made(&p, &deployment(), &wide);
    // Its products were not all measured; the attention alone tells.
    let attention = us(&*of_wide, &decode(1, 31)) - us(&*of_wide, &decode(1, 15));
    assert!((attention - 2.0 * 2.0).abs() < 2e-2 && narrow > 0.0, "{attention}");
}

#[test]
fn gpus_that_share_layers_exchange() {
    let mut rows = DATABASE.to_vec();
    // Of two GPUs: products of half the size, one head each, and two exchanges per layer of 16 bytes per token.
    rows.extend([
        (Operator::Gemm, "", "bfloat16", &[1, 12, 8][..], 1.0),
        (Operator::Gemm, "", "bfloat16", &[1, 8, 4][..], 1.0),
        (Operator::GenerationAttention, "", "bfloat16", &[1, 16, 1, 1, 4, 0][..], 5.0),
        (Operator::AllReduce, "vllm_eager", "bfloat16", &[2, 16][..], 99.0),
        (Operator::AllReduce, "vllm_graph", "bfloat16", &[2, 16][..], 6.0),
        (Operator::AllReduce, "vllm_graph", "bfloat16", &[2, 32][..], 8.0),
    ]);
    let p = profile(Layout::Operators, &rows);
    let d = Deployment { tp: 2, ..deployment() };
    let model = made(&p, &d, &tiny());
    // 12 x 8, 8 x 4, 16 x 8, 8 x 8, attention 5, 2 x 6; output matrix 16 x 8.
    let expect = KERNELS_US + 2.0 * (1.0 + 1.0 + 1.0 + 2.0 + 5.0 + 12.0) + 1.0;
    assert!((us(&*model, &decode(1, 15)) - expect).abs() < 2e-2, "{}", us(&*model, &decode(1, 15)));
    // Without a measured exchange: rings at the bandwidth of the link.
    let p = profile(Layout::Operators, &rows[..rows.len() - 3]);
    let settings = Operators { link_latency_us: 20.0, link_gb_per_s: Some(1e-3), ..Operators::of("p") };
    let model = super::model(&settings, &d, &tiny(), &h100(), &p).unwrap();
    // Two rings per layer: 20 us and 16 bytes at a byte per us.
    let ring = 4.0 * (20.0 + 16.0);
    let expect = KERNELS_US + 2.0 * (1.0 + 1.0 + 1.0 + 2.0 + 5.0) + 1.0 + ring;
    assert!((us(&*model, &decode(1, 15)) - expect).abs() < 2e-2, "{}", us(&*model, &decode(1, 15)));
}

#[test]
fn mixtures_take_the_most_skewed_choice_and_their_own_cut() {
    let mut rows = DATABASE.to_vec();
    rows.extend([
        (Operator::Gemm, "", "bfloat16", &[1, 4, 8][..], 0.5),
        (Operator::Moe, "balanced", "bfloat16", &[1, 8, 16, 1, 4, 1, 1][..], 7.0),
        (Operator::Moe, "power_law_1.2", "bfloat16", &[1, 8, 16, 1, 4, 1, 1][..], 9.0),
        (Operator::Moe, "power_law_1.2", "bfloat16", &[1, 8, 32, 1, 4, 1, 1][..], 1e6),
    ]);
    let p = profile(Layout::Operators, &rows);
    let m = ModelSpec { experts: 4, top_k: 1, moe_intermediate: 16, ..tiny() };
    // A layer: 16 x 8, 8 x 8, router 4 x 8, mixture; no activation kernel of its own.
    let kernels = 3.0 * (1.0 + 2.0 * 4.0);
    let expect = |mixture: f64| kernels + 2.0 * (1.0 + 2.0 + 0.5 + mixture + 5.0) + 3.0;
    let model = made(&p, &deployment(), &m);
    assert!((us(&*model, &decode(1, 15)) - expect(9.0)).abs() < 2e-2, "{}", us(&*model, &decode(1, 15)));
    let settings = Operators { distribution: Some("balanced".to_string()), ..Operators::of("p") };
    let model = super::model(&settings, &deployment(), &m, &h100(), &p).unwrap();
    assert!((us(&*model, &decode(1, 15)) - expect(7.0)).abs() < 2e-2);
    let other = ModelSpec { experts: 8, ..m.clone() };
    let lacking = super::model(&settings, &deployment(), &other, &h100(), &p).err().unwrap().join("; ");
    assert!(lacking.contains("mixture with hidden 8, inter 16, 1 of 8 experts"), "{lacking}");
    // Names that were not measured, or not of this mixture.
    let refused =
        |settings: Operators| super::model(&settings, &deployment(), &m, &h100(), &p).err().unwrap_or_default();
    for name in ["power_law_1.3", "bfloat16"] {
        assert_eq!(
            refused(Operators { distribution: Some(name.to_string()), ..Operators::of("p") }),
            [format!("it has no choice of experts `{name}`; of this mixture it has: balanced, power_law_1.2")]
        );
    }
    assert_eq!(
        refused(Operators { moe_dtype: Some("fp4".to_string()), ..Operators::of("p") }),
        ["it has no mixtures of type fp4; of `moe` it has: bfloat16"]
    );
}

#[test]
fn the_most_skewed_choice_is_a_power_law() {
    let m = ModelSpec { experts: 4, top_k: 1, moe_intermediate: 16, ..tiny() };
    let of = |variants: &[&'static str]| {
        let mut rows = DATABASE.to_vec();
        rows.push((Operator::Gemm, "", "bfloat16", &[1, 4, 8][..], 0.5));
        let times = (1..).map(|i| 1_000.0 * f64::from(i));
        let shape = &[1, 8, 16, 1, 4, 1, 1][..];
        rows.extend(variants.iter().zip(times).map(|(name, us)| (Operator::Moe, *name, "bfloat16", shape, us)));
        // Which of them: the two layers are thousands of us, all else is less.
        us(&*made(&profile(Layout::Operators, &rows), &deployment(), &m), &decode(1, 15)) as usize / 2_000 - 1
    };
    assert_eq!(of(&["balanced", "power_law_1.01", "power_law_1.2", "uniform"]), 2);
    assert_eq!(of(&["power_law_10.5", "power_law_2", "zipf"]), 0);
    assert_eq!(of(&["power_law_1.2/min_latency", "power_law_1.01"]), 1);
    assert_eq!(of(&["balanced/min_latency", "balanced"]), 1);
    assert_eq!(of(&["uniform"]), 0);
}

#[test]
fn sizes_beyond_32_bits_do_not_overflow() {
    const HUGE: u32 = u32::MAX;
    let m = ModelSpec { head_dim: HUGE, intermediate: HUGE, shared_experts: HUGE, ..tiny() };
    let mla = Some(Mla { q_rank: HUGE, kv_rank: HUGE, nope_dim: HUGE, rope_dim: HUGE, v_dim: HUGE });
    let d = Deployment { dp: HUGE, enable_expert_parallel: true, ..deployment() };
    let mixture = ModelSpec { experts: 4, top_k: 1, moe_intermediate: 16, ..m.clone() };
    let mut rows = DATABASE.to_vec();
    rows.push((Operator::Moe, "balanced", "bfloat16", &[1, 8, 16, 1, 4, HUGE, HUGE][..], 7.0));
    let p = profile(Layout::Operators, &rows);
    for m in [m.clone(), ModelSpec { mla, ..m }, mixture] {
        // Refused or not: as the profile has it.
        let _ = super::model(&Operators::of("p"), &d, &m, &h100(), &p);
    }
    let most = BatchShape::of_step(&[HUGE; DIMS]);
    assert_eq!(most.prefill_tokens_x_input, u64::MAX / u64::from(HUGE));
    assert!(most.prefill_pairs() > 0.0);
}

#[test]
fn latent_attention_is_taken_whole_where_it_was_measured() {
    let m = ModelSpec { mla: Some(Mla { q_rank: 0, kv_rank: 8, nope_dim: 2, rope_dim: 2, v_dim: 2 }), ..tiny() };
    let mut rows = DATABASE.to_vec();
    rows.extend([
        (Operator::ContextMlaModule, "", "bfloat16", &[1, 16, 0, 2][..], 40.0),
        (Operator::GenerationMlaModule, "", "bfloat16", &[1, 16, 2][..], 20.0),
    ]);
    let p = profile(Layout::Operators, &rows);
    let model = made(&p, &deployment(), &m);
    // Rotation and saving are part of it.
    let expect = KERNELS_US - 2.0 * 6.0 + 2.0 * (3.0 + 4.0 + 20.0) + 3.0;
    assert!((us(&*model, &decode(1, 15)) - expect).abs() < 2e-2, "{}", us(&*model, &decode(1, 15)));
}

#[test]
fn products_between_measured_sizes_are_between() {
    let peak = super::shapes::Peak { flop_per_ns: 1e3, bytes_per_ns: 1e3 };
    let point = |tokens: u32, n: u32, k: u32, latency_us: f64| {
        let mut shape = [0; DIMS];
        shape[..3].copy_from_slice(&[tokens, n, k]);
        Point { variant: 0, dtype: 0, kv_dtype: 0, shape, latency_us }
    };
    // Everywhere five times the roofline, which is memory: 2 (n k + n + k) bytes at a byte per ps for one token.
    let roofline = |n: f64, k: f64| 2.0 * (n * k + n + k) / 1e3;
    let five = |n: u32, k: u32| point(1, n, k, 5.0 * roofline(f64::from(n), f64::from(k)) / 1e3);
    let points = [five(128, 128), five(128, 512), five(512, 128), five(512, 512)];
    let gemms = super::shapes::Gemms::new(points.iter(), peak, 2.0);
    for (n, k) in [(128, 128), (256, 256), (200, 500), (512, 300), (2_048, 2_048), (64, 512)] {
        let found = gemms.of(n, k).unwrap().at(1.0).value;
        let expect = 5.0 * roofline(f64::from(n), f64::from(k));
        assert!((found / expect - 1.0).abs() < 1e-9, "{n} x {k}: {found}, not {expect}");
    }
}

/// A lattice of Vidur's: projections 1 ms at tile 8 and 2 at 16, the rest small.
#[test]
fn predictions_are_looked_up_as_vidur_does() {
    let mut rows: Vec<Row> = Vec::new();
    let shapes: Vec<[u32; 1]> = (1..=16).map(|n| [n]).collect();
    let shapes: &'static [[u32; 1]] = Box::leak(shapes.into_boxed_slice());
    for (i, shape) in shapes.iter().enumerate() {
        let ms = if i < 8 { 1.0 } else { 2.0 };
        for name in FIRST_TO_LAST {
            rows.push((Operator::TokenLayer, name, "", shape, ms * 1e3));
        }
        rows.push((Operator::KvCacheSave, "", "", shape, 0.5 * (i + 1) as f64 * 1e3));
    }
    rows.extend([
        (Operator::DecodeAttention, "", "", &[0, 1][..], 1.0e3),
        (Operator::DecodeAttention, "", "", &[64, 1][..], 3.0e3),
        (Operator::DecodeAttention, "", "", &[128, 1][..], 5.0e3),
        (Operator::DecodeAttention, "", "", &[64, 2][..], 7.0e3),
        (Operator::PrefillAttention, "", "", &[0, 32][..], 11.0e3),
        (Operator::PrefillAttention, "", "", &[64, 32][..], 13.0e3),
    ]);
    let model = made(&profile(Layout::VidurPredictions, &rows), &deployment(), &tiny());
    // Nine token operators with the residual: 9 ms at tile 8, 18 at 16; two layers.
    for (shape, ms, outside) in [
        (decode(1, 63), 2.0 * (9.0 + 0.5 + 3.0), 0),
        // 64 tokens and the new one: the next page.
        (decode(1, 64), 2.0 * (9.0 + 0.5 + 5.0), 0),
        // The mean of 10 and 31 is 20, and with the new token 21.
        (BatchShape { decode_requests: 2, decode_context: 41, ..BatchShape::default() }, 2.0 * (9.0 + 1.0 + 7.0), 0),
        (prompt(9, 0), 2.0 * (18.0 + 4.5 + 11.0), 0),
        (prompt(9, 1), 2.0 * (18.0 + 4.5 + 13.0), 0),
        // Twice the tile that there is.
        (prompt(32, 0), 2.0 * (36.0 + 16.0 + 11.0), 1),
    ] {
        let before = model.extrapolated();
        assert_eq!(us(&*model, &shape), ms * 1e3, "{shape:?}");
        assert_eq!(model.extrapolated() - before, outside, "{shape:?}");
    }
    // The first of two stages hands its batch over, once per step.
    rows.extend(shapes.iter().map(|shape| (Operator::TokenLayer, "send_recv", "", &shape[..], 0.25e3)));
    let staged = made(&profile(Layout::VidurPredictions, &rows), &Deployment { pp: 2, ..deployment() }, &tiny());
    assert_eq!(us(&*staged, &decode(1, 63)), (2.0 * (9.0 + 0.5 + 3.0) + 0.25) * 1e3);
}

/// Columns that end early end the table, and those with gaps are none.
#[test]
fn predictions_go_as_far_as_all_columns() {
    let shapes: Vec<[u32; 1]> = (1..=16).map(|n| [n]).collect();
    let shapes: &'static [[u32; 1]] = Box::leak(shapes.into_boxed_slice());
    let column = |operator: Operator, name: &'static str, most: usize| {
        shapes[..most].iter().map(move |shape| (operator, name, "", &shape[..], 1e3)).collect::<Vec<Row>>()
    };
    let table = |post: usize, reduce: usize, sent: usize| {
        let token = Operator::TokenLayer;
        let mut rows: Vec<Row> = FIRST_TO_LAST
            .iter()
            .flat_map(|name| column(token, name, if *name == "post_attention_layernorm" { post } else { 16 }))
            .collect();
        rows.extend([column(token, "all_reduce", reduce), column(token, "send_recv", sent)].concat());
        rows.extend(column(Operator::KvCacheSave, "", 16));
        rows.push((Operator::DecodeAttention, "", "", &[64, 1][..], 1e3));
        rows.push((Operator::PrefillAttention, "", "", &[64, 32][..], 1e3));
        rows
    };
    let d = Deployment { tp: 2, pp: 2, ..deployment() };
    let of_tokens = |rows: &[Row]| {
        let model = made(&profile(Layout::VidurPredictions, rows), &d, &tiny());
        let step = model.step(&prompt(9, 1));
        (step.0, model.extrapolated())
    };
    let (whole, inside) = of_tokens(&table(16, 16, 16));
    assert_eq!(inside, 0);
    for (post, reduce, sent) in [(8, 16, 16), (16, 8, 16), (16, 16, 8)] {
        let (short, outside) = of_tokens(&table(post, reduce, sent));
        assert!(outside == 1 && short > whole, "{post} {reduce} {sent}: {short} of {whole}");
    }
    let mut rows = table(16, 16, 16);
    rows.retain(|row| row.0 != Operator::KvCacheSave || row.3[0] != 7);
    let lacking = super::model(&Operators::of("p"), &d, &tiny(), &h100(), &profile(Layout::VidurPredictions, &rows));
    let expect = "it has no predictions `attn_kv_cache_save` for every number of tokens";
    assert_eq!(lacking.err().unwrap_or_default(), [expect]);
}

/// GPUs of one node, though groups over several nodes were measured too and come first.
#[test]
fn exchanges_are_those_within_a_node() {
    let mut rows: Vec<Row> =
        FIRST_TO_LAST.iter().map(|name| (Operator::TokenLayer, *name, "", &[1][..], 1.0)).collect();
    rows.extend([
        (Operator::DecodeAttention, "", "", &[16, 1][..], 5.0),
        (Operator::PrefillAttention, "", "", &[0, 16][..], 7.0),
        (Operator::AllReduce, "1", "", &[4, 16][..], 1e6),
        (Operator::AllReduce, "2", "", &[4, 16][..], 1e5),
        (Operator::AllReduce, "4", "", &[4, 16][..], 2.0),
        (Operator::AllReduce, "2", "", &[2, 16][..], 1e4),
        (Operator::SendRecv, "1", "", &[2, 16][..], 300.0),
        (Operator::SendRecv, "2", "", &[2, 16][..], 3.0),
    ]);
    let p = profile(Layout::Vidur, &rows);
    let d = Deployment { tp: 4, pp: 2, ..deployment() };
    // Two layers of nine operators, attention and two exchanges.
    let layers = 2.0 * (9.0 + 5.0 + 2.0 * 2.0);
    assert_eq!(us(&*made(&p, &d, &tiny()), &decode(1, 15)), layers + 3.0);
    // Eight GPUs on nodes of four.
    let g = GpuSpec { gpus_per_node: 4, ..h100() };
    let apart = super::model(&Operators::of("p"), &d, &tiny(), &g, &p).unwrap();
    assert_eq!(us(&*apart, &decode(1, 15)), layers + 300.0);
}

const FIRST_TO_LAST: [&str; 9] = [
    "attn_pre_proj",
    "attn_post_proj",
    "attn_rope",
    "input_layernorm",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "post_attention_layernorm",
    "add",
];

#[test]
fn measured_steps_come_out_as_they_are_and_others_near() {
    let rows: &[Row] = &[
        (Operator::Step, "", "", &[0, 0, 0, 1, 100, 0], 10.0),
        (Operator::Step, "", "", &[0, 0, 0, 8, 800, 0], 12.0),
        (Operator::Step, "", "", &[0, 0, 0, 8, 8_000, 0], 20.0),
        (Operator::Step, "", "", &[512, 1, 0, 8, 800, 0], 50.0),
        (Operator::Step, "", "", &[1_024, 1, 0, 0, 0, 0], 80.0),
    ];
    let p = profile(Layout::Steps, rows);
    let interpolated = made(&p, &deployment(), &llama_8b());
    let settings = crate::sim::latency::Steps { profile: "p".to_string(), scale: 1.0 };
    let replayed = crate::sim::latency::steps::model(&settings, &deployment(), &llama_8b(), &h100(), &p).unwrap();
    for model in [&*interpolated, &*replayed] {
        assert_eq!(us(model, &decode(1, 100)), 10.0);
        assert_eq!(us(model, &decode(8, 1_000)), 20.0);
        let both = BatchShape { decode_requests: 8, decode_context: 800, ..prompt(512, 0) };
        assert_eq!(us(model, &both), 50.0);
        assert_eq!(us(model, &prompt(1_024, 0)), 80.0);
    }
    // The nearest is the one of 8 requests with 800 tokens, scaled by what the context adds to the roofline.
    let near = us(&*replayed, &decode(8, 120));
    assert!((11.9..12.1).contains(&near), "{near}");
    assert_eq!(replayed.extrapolated(), 0);
    let beyond = us(&*replayed, &decode(64, 100_000));
    assert!(beyond > 20.0 && replayed.extrapolated() == 1, "{beyond}");
}

/// The search finds what looking at all does, also among steps that are equally far, and where an axis tells nothing.
#[test]
fn the_nearest_steps_are_found_whatever_the_tree() {
    let mut random = crate::queueing::PythonRandom::new(5);
    let mut upto = |n: u32| random.choice(n + 1);
    let mut shapes: Vec<[u32; 6]> = (0..2_000)
        .map(|i| match i % 3 {
            0 => [0, 0, 0, 1 + upto(30), 100 * upto(20), 0],
            1 => [1 + upto(500), 1 + upto(3), 16 * upto(9), 0, 0, 0],
            _ => [1 + upto(9), 1, 0, 1 + upto(9), 1_000 + upto(9), 0],
        })
        .collect();
    shapes.sort_unstable();
    shapes.dedup();
    let shapes: &'static [[u32; 6]] = Box::leak(shapes.into_boxed_slice());
    let times = (0..).map(|i| 100.0 + f64::from(i));
    let rows: Vec<Row> = shapes.iter().zip(times).map(|(s, us)| (Operator::Step, "", "", &s[..], us)).collect();
    let p = profile(Layout::Steps, &rows);
    let (d, m, g) = (deployment(), llama_8b(), h100());
    let replayed = super::Scatter::new(&p, &d, &m, &g, 1, 1.0, 0.0).unwrap();
    let interpolated = super::Scatter::new(&p, &d, &m, &g, 4, 1.0, 0.0).unwrap();
    for _ in 0..2_000 {
        let mut s = decode(u64::from(upto(40)), u64::from(upto(150)));
        if upto(2) > 0 {
            s = BatchShape { decode_requests: s.decode_requests, decode_context: s.decode_context, ..prompt(7, 30) };
        }
        assert_eq!(replayed.nearest_orders(&s), replayed.nearest_of_all(&s), "{s:?}");
        assert_eq!(interpolated.nearest_orders(&s), interpolated.nearest_of_all(&s), "{s:?}");
    }
}
