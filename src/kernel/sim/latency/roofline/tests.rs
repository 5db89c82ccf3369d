//! Steps and their parts against values computed by hand.

use super::*;
use crate::scenario::Mla;
use crate::sim::latency::CONTEXT_PAGE;
use crate::sim::swarm::{h100, llama_8b, scenario_8b};

/// A GPU of 1,000 operations and 10 bytes per nanosecond, whose links move 1 byte in that time.
fn gpu() -> GpuSpec {
    GpuSpec { bf16_tflops: 1.0, fp8_tflops: 2.0, memory_tb_per_s: 0.01, nvlink_gb_per_s: 1.0, ..h100() }
}

/// Everything at full speed, and nothing takes time that is fixed.
fn ideal() -> Roofline {
    let full = || vec![[1.0, 1.0]];
    Roofline {
        gemm: full(),
        gemm_fp8: full(),
        experts: full(),
        prefill_attention: full(),
        decode_attention: full(),
        gemm_us: 0.0,
        gemm_fp8_us: 0.0,
        experts_us: 0.0,
        prefill_attention_us: 0.0,
        decode_attention_us: 0.0,
        exchange_us: 0.0,
        hop_us: 0.0,
        link_share: 1.0,
        per_layer_us: 0.0,
        per_step_us: 0.0,
        launch_us: 0.0,
        ..Roofline::default()
    }
}

/// Two layers of hidden size 40, four heads of 10 with two for keys, an inner size of 100, and 80 words.
fn small() -> ModelSpec {
    ModelSpec { layers: 2, hidden: 40, intermediate: 100, heads: 4, kv_heads: 2, head_dim: 10, vocab: 80, ..llama_8b() }
}

fn deployment(edit: impl Fn(&mut Deployment)) -> Deployment {
    let mut d = scenario_8b().deployment;
    edit(&mut d);
    d
}

fn ns_of(r: &Roofline, d: &Deployment, m: &ModelSpec, shape: &BatchShape) -> i64 {
    Terms::new(r, d, m, &gpu()).step(shape).0
}

fn decode(requests: u64, context: u64) -> BatchShape {
    BatchShape { decode_requests: requests, decode_context: context, ..BatchShape::default() }
}

/// One prompt of `n` tokens after `context`.
fn prompt(n: u64, context: u64) -> BatchShape {
    BatchShape {
        prefill_requests: 1,
        prefill_tokens: n,
        prefill_context: context,
        prefill_tokens_x_context: n * context,
        prefill_tokens_squared: n * n,
        prefill_tokens_x_input: n * (n + context),
        prefill_tokens_max: n,
        prefill_context_pages: context.div_ceil(CONTEXT_PAGE),
        ..BatchShape::default()
    }
}

#[test]
fn a_token_of_a_small_model_by_hand() {
    // All of it is memory traffic, at 10 bytes a nanosecond. Numbers of 2 bytes that a layer moves for a token:
    // 40 x 80 weights of queries, keys and values, 40 in, 80 out; 40 x 40, 40, 40; 40 x 200, 40, 200; 100 x 40, 100, 40;
    // norms 8 x 40; positions 2 x 80; activation 3 x 100.
    let layer = 3_200 + 120 + 1_600 + 80 + 8_000 + 240 + 4_000 + 140 + 320 + 160 + 300;
    // The cache of 7 tokens and the new one, 2 x 2 x 10 numbers each; queries and what comes out, 40 each.
    let attention = 8 * 40 + 80;
    // The embedding read and written; the output matrix; 80 logits of 4 bytes, read twice.
    let ends = 80 + 3_200 + 40 + 80 + 80 * 4;
    let numbers = 2 * (layer + attention) + ends;
    assert_eq!(ns_of(&ideal(), &deployment(|_| ()), &small(), &decode(1, 7)), numbers * 2 / 10);
}

#[test]
fn fixed_times_count_operators() {
    let plain = ns_of(&ideal(), &deployment(|_| ()), &small(), &decode(1, 7));
    let with = |edit: &dyn Fn(&mut Roofline), tp: u32| {
        let mut r = ideal();
        edit(&mut r);
        let d = deployment(|d| d.tp = tp);
        ns_of(&r, &d, &small(), &decode(1, 7)) - ns_of(&ideal(), &d, &small(), &decode(1, 7))
    };
    assert!(plain > 0);
    // Two layers of four multiplications, and the output matrix.
    assert_eq!(with(&|r| r.gemm_us = 1.0, 1), 9_000);
    assert_eq!(with(&|r| r.decode_attention_us = 1.0, 1), 2_000);
    assert_eq!(with(&|r| r.prefill_attention_us = 1.0, 1), 0);
    assert_eq!(with(&|r| (r.per_layer_us, r.per_step_us) = (1.0, 0.5), 1), 2_500);
    // On two GPUs every layer has two exchanges of two hops, and the logits are gathered in one.
    assert_eq!(with(&|r| r.exchange_us = 1.0, 2), 5_000);
    assert_eq!(with(&|r| r.hop_us = 1.0, 2), 9_000);
    // At 512 there is a graph; outside, the host takes 100 us for each of 2 x 5 operators.
    assert_eq!(with(&|r| r.launch_us = 100.0, 1), 0);
    let mut eager = ideal();
    (eager.launch_us, eager.cuda_graph_max_bs) = (100.0, 0);
    assert_eq!(ns_of(&eager, &deployment(|_| ()), &small(), &decode(1, 7)), 1_000_000);
    assert_eq!(ns_of(&eager, &deployment(|_| ()), &small(), &prompt(1, 7)), 1_000_000);
}

#[test]
fn exchanges_move_their_bytes() {
    // A prompt of 8 tokens on 4 GPUs; a link moves 1 byte per nanosecond, at half of that here.
    let d = deployment(|d| d.tp = 4);
    let half = Roofline { link_share: 0.5, ..ideal() };
    let more = ns_of(&half, &d, &small(), &prompt(8, 0)) - ns_of(&ideal(), &d, &small(), &prompt(8, 0));
    // Per layer two rings of 2 x 3/4 of 8 x 40 numbers; 3/4 of 80 logits are gathered.
    assert_eq!(more, 2 * 2 * 960 + 120);
    // Three stages: hidden states and residuals of 8 tokens go on twice.
    let d = deployment(|d| d.pp = 3);
    let one = deployment(|_| ());
    let sent = ns_of(&ideal(), &d, &small(), &prompt(8, 0)) - ns_of(&ideal(), &one, &small(), &prompt(8, 0));
    assert_eq!(sent, 2 * 2 * 8 * 40 * 2);
}

#[test]
fn prompts_pay_for_pairs_and_their_cache() {
    let (d, m) = (deployment(|_| ()), small());
    // Alone: the difference that 30 tokens before a chunk of 20 make. Arithmetic of 4 x 4 x 10 per pair on 1,000 per
    // nanosecond: 20 x 30 pairs more, on top of 210. Memory: 40 numbers per token at 10 bytes per nanosecond, and 80 of
    // queries and outputs.
    let attention = |context: f64| {
        let (pairs, cached) = (20.0 * context + 210.0, context + 20.0);
        2.0 * f64::max(pairs * 160.0 / 1_000.0, (cached * 40.0 + 20.0 * 80.0) * 2.0 / 10.0)
    };
    let more = ns_of(&ideal(), &d, &m, &prompt(20, 3_000)) - ns_of(&ideal(), &d, &m, &prompt(20, 0));
    assert!((more as f64 - (attention(3_000.0) - attention(0.0))).abs() <= 1.0, "{more}");
    // At a share of a quarter it takes four times as long.
    let slow = Roofline { prefill_attention: vec![[1.0, 0.25]], ..ideal() };
    let more = ns_of(&slow, &d, &m, &prompt(20, 3_000)) - ns_of(&ideal(), &d, &m, &prompt(20, 3_000));
    assert!((more as f64 - 3.0 * attention(3_000.0)).abs() <= 1.0, "{more}");
}

#[test]
fn a_mixture_reads_what_its_tokens_choose() {
    // The second layer has four experts of inner size 30 and one shared; a token chooses two. At 10 bytes a nanosecond,
    // what 2 tokens of a dense layer and of a mixture layer move, in numbers.
    let m = ModelSpec { experts: 4, top_k: 2, shared_experts: 1, moe_intermediate: 30, first_dense: 1, ..small() };
    let dense = ModelSpec { experts: 0, ..m.clone() };
    let d = deployment(|_| ());
    let more = ns_of(&ideal(), &d, &m, &decode(2, 0)) - ns_of(&ideal(), &d, &dense, &decode(2, 0));
    let network = |inner: f64| 40.0 * 3.0 * inner + 2.0 * (40.0 + 2.0 * inner + inner + 40.0);
    // 4 (1 - 1/4) = 3 experts of 3,600 weights; every chosen expert reads and writes 40 and has 90 between.
    let experts = 3.0 * 3_600.0 + 2.0 * 2.0 * (80.0 + 90.0);
    let router = 40.0 * 4.0 + 2.0 * (40.0 + 4.0);
    // Activations are counted as of the chosen experts in every layer: 2 x 90 in place of 300 per token.
    let activation = 2.0 * 2.0 * (2.0 * 90.0 - 300.0);
    let numbers = router + experts + network(30.0) - network(100.0) + activation;
    assert!((more as f64 - numbers * 2.0 / 10.0).abs() <= 1.0, "{more}, not {}", numbers / 5.0);
}

#[test]
fn ranks_that_share_experts_exchange_tokens() {
    let m = ModelSpec { experts: 4, top_k: 2, moe_intermediate: 30, ..small() };
    let of = |dp: u32, share: f64| {
        let d = deployment(|d| (d.dp, d.enable_expert_parallel) = (dp, true));
        ns_of(&Roofline { link_share: share, ..ideal() }, &d, &m, &decode(2, 0))
    };
    // Half of 2 x 2 hidden states of 40 numbers go to the other rank and come back, in two layers, at half the speed.
    assert_eq!(of(2, 0.5) - of(2, 1.0), 2 * 2 * 160);
    assert_eq!(of(1, 0.5), of(1, 1.0));
    // Four tokens choose 4 (1 - 1/16) experts, of which each rank reads half; alone two choose 3.
    let read = 2.0 * 3_600.0 * (3.75 / 2.0 - 3.0) * 2.0 / 10.0;
    assert!(((of(2, 1.0) - of(1, 1.0)) as f64 - (read + 640.0)).abs() <= 1.0);
}

#[test]
fn latent_attention_reads_one_latent_for_all_heads() {
    let mla = Some(Mla { q_rank: 16, kv_rank: 20, nope_dim: 6, rope_dim: 4, v_dim: 8 });
    let m = ModelSpec { mla, ..small() };
    let d = deployment(|_| ());
    // Decoding: 24 numbers per cached token; operations 2 x 4 x (2 x 20 + 4) = 352 take 0.352 ns, 48 bytes 4.8 ns.
    let more = ns_of(&ideal(), &d, &m, &decode(1, 1_000)) - ns_of(&ideal(), &d, &m, &decode(1, 0));
    assert_eq!(more, 2 * 4_800);
    // Prompts attend with keys of 10 and values of 8 in each head: 144 bytes per cached token, 144 operations per pair.
    let more = ns_of(&ideal(), &d, &m, &prompt(1, 1_000)) - ns_of(&ideal(), &d, &m, &prompt(1, 0));
    assert_eq!(more, 2 * 14_400);
    // On two GPUs each has the whole latent.
    let d = deployment(|d| d.tp = 2);
    let more = ns_of(&ideal(), &d, &m, &decode(1, 1_000)) - ns_of(&ideal(), &d, &m, &decode(1, 0));
    assert_eq!(more, 2 * 4_800);
}

#[test]
fn layers_without_a_cache_have_no_attention() {
    // A layer more, with 4,000 parameters of its own in place of attention.
    let m = ModelSpec { layers: 3, linear_layers: 1, other_params_b: 4_000.0 / 1e9, ..small() };
    let d = deployment(|_| ());
    let of = |m: &ModelSpec, s: &BatchShape| ns_of(&ideal(), &d, m, s);
    // Numbers of 2 bytes at 10 bytes a nanosecond, as for `a_token_of_a_small_model_by_hand`: the multiplication has 40 in
    // and 100 out; the network, the norms and the activation are as in every layer.
    let layer = (4_000 + 140) + 8_000 + 240 + 4_000 + 140 + 320 + 300;
    assert_eq!(of(&m, &decode(1, 7)) - of(&small(), &decode(1, 7)), layer * 2 / 10);
    for shape in [decode(3, 9_000), prompt(20, 3_000)] {
        let short = BatchShape { decode_context: 0, prefill_context: 0, prefill_tokens_x_context: 0, ..shape };
        let context = |m: &ModelSpec| of(m, &shape) - of(m, &short);
        assert!((context(&m) - context(&small())).abs() <= 1, "{shape:?}: {}", context(&m));
    }
    // On two GPUs each has half of them, and the layer exchanges as any other.
    let split = deployment(|d| d.tp = 2);
    let on_two = |m: &ModelSpec| ns_of(&ideal(), &split, m, &decode(1, 7));
    let halves = (2_000 + 90) + 4_000 + 140 + 2_000 + 90 + 320 + 150;
    assert_eq!(on_two(&m) - on_two(&small()), halves * 2 / 10 + 2 * 40 * 2);
    // Fixed times: a multiplication and those of the network, no attention, and what every layer has.
    let fixed = |edit: &dyn Fn(&mut Roofline), shape: &BatchShape| {
        let mut r = ideal();
        edit(&mut r);
        let more = |m: &ModelSpec| ns_of(&r, &d, m, shape) - of(m, shape);
        more(&m) - more(&small())
    };
    assert_eq!(fixed(&|r| r.gemm_us = 1.0, &decode(1, 7)), 3_000);
    assert_eq!(fixed(&|r| r.decode_attention_us = 1.0, &decode(1, 7)), 0);
    assert_eq!(fixed(&|r| r.prefill_attention_us = 1.0, &prompt(9, 0)), 0);
    assert_eq!(fixed(&|r| r.per_layer_us = 1.0, &decode(1, 7)), 1_000);
    // Launched one by one: that multiplication and the two of the network.
    let eager = Roofline { launch_us: 100.0, cuda_graph_max_bs: 0, ..ideal() };
    assert_eq!(ns_of(&eager, &d, &m, &decode(1, 7)), 1_300_000);
}

#[test]
fn parameters_beyond_the_sizes_are_read_by_a_dense_model_too() {
    // One multiplication of 40 in and 50 out.
    let m = ModelSpec { other_params_b: 2_000.0 / 1e9, ..small() };
    let d = deployment(|_| ());
    let more = ns_of(&ideal(), &d, &m, &decode(1, 7)) - ns_of(&ideal(), &d, &small(), &decode(1, 7));
    assert_eq!(more, (2_000 + 90) * 2 / 10);
}

#[test]
fn types_change_peaks_and_bytes() {
    let of = |edit: &dyn Fn(&mut Deployment), g: &GpuSpec, shape: &BatchShape| {
        Terms::new(&ideal(), &deployment(edit), &small(), g).step(shape).0
    };
    let (bf16, fp8) = (|_: &mut Deployment| (), |d: &mut Deployment| d.dtype = Dtype::Fp8);
    let shape = decode(1, 7);
    // Half the bytes of 16,800 weights per layer, and of 40 + 40 + 40 + 100 inputs.
    assert_eq!(of(&bf16, &gpu(), &shape) - of(&fp8, &gpu(), &shape), 2 * (16_800 + 220) / 10);
    let old = GpuSpec { fp8_tflops: 0.0, ..gpu() };
    assert_eq!(of(&bf16, &old, &shape) - of(&fp8, &old, &shape), 2 * 16_800 / 10);
    // Half of 40 x 2 bytes per cached token and layer.
    let cache = |d: &mut Deployment| d.kv.kv_cache_dtype = Dtype::Fp8;
    assert_eq!(of(&bf16, &gpu(), &decode(1, 999)) - of(&cache, &gpu(), &decode(1, 999)), 2 * 1_000 * 40 / 10);
    // A network of two matrices has one that reads the input.
    let two = ModelSpec { mlp_matrices: 2, ..small() };
    let less = ns_of(&ideal(), &deployment(bf16), &small(), &shape) - ns_of(&ideal(), &deployment(bf16), &two, &shape);
    assert_eq!(less, 2 * (4_000 + 100 + 100) * 2 / 10);
}

#[test]
fn batches_that_decode_are_padded_to_captured_sizes() {
    for (requests, expect) in [
        (1, Some(1)),
        (2, Some(2)),
        (3, Some(4)),
        (5, Some(8)),
        (8, Some(8)),
        (250, Some(256)),
        (257, Some(272)),
        (512, Some(512)),
        (513, None),
    ] {
        assert_eq!(captured(requests, 512), expect, "{requests}");
    }
    assert_eq!((captured(60, 60), captured(56, 60), captured(1, 0)), (None, Some(56), None));
    let model = Terms::new(&Roofline::default(), &deployment(|_| ()), &llama_8b(), &h100());
    // 193 requests run as 200; what differs is their attention.
    let gap = model.step(&decode(200, 200_000)).0 - model.step(&decode(193, 200_000)).0;
    let own = 7.0 * (model.decode_cached_ns + model.decode_request_ns);
    assert!((gap as f64 - own).abs() <= 1.0, "{gap}");
    assert!(model.step(&decode(201, 200_000)).0 > model.step(&decode(200, 200_000)).0 + own as i64);
}

#[test]
fn decode_steps_are_the_form_and_none_is_shorter_than_the_shortest() {
    let mixture = ModelSpec { experts: 8, top_k: 2, ..llama_8b() };
    for (m, tp, max) in [(llama_8b(), 1, 512), (llama_8b(), 4, 100), (mixture, 2, 512)] {
        let r = Roofline { cuda_graph_max_bs: max, ..Roofline::default() };
        let model = Terms::new(&r, &deployment(|d| d.tp = tp), &m, &h100());
        for requests in [1, 3, 99, 101, 256, 700, 20_000] {
            let form = model.decode_form(requests).unwrap();
            for context in [0, 1, 1_000, 1_000_000] {
                let step = model.step(&decode(requests, context));
                assert_eq!(form.at(context), step);
                assert!(step >= model.shortest_step());
            }
            assert!(model.step(&prompt(requests, 0)) >= model.shortest_step());
        }
    }
}

#[test]
fn figures_of_an_8b_model_on_an_h100_are_plausible() {
    let model = Terms::new(&Roofline::default(), &deployment(|_| ()), &llama_8b(), &h100());
    let ms = |shape: &BatchShape| model.step(shape).0 as f64 / 1e6;
    // 16 GB at 3.35 TB/s take 4.8 ms; vLLM's steps of this model are measured at 6 to 8 ms.
    let one = ms(&decode(1, 500));
    assert!((5.8..8.0).contains(&one), "{one}");
    // 2 x 8.03e9 x 8,192 operations at 989 TFLOP/s take 133 ms; 60 to 75 % of the peak are reached.
    let prompt = ms(&prompt(8_192, 0));
    assert!((170.0..260.0).contains(&prompt), "{prompt}");
}

#[test]
fn bad_settings_are_named() {
    assert!(Roofline::default().problems().is_empty());
    let paths = |r: &Roofline| r.problems().iter().map(|(path, _)| *path).collect::<Vec<_>>();
    let bad = Roofline {
        gemm: vec![],
        decode_attention: vec![[1.0, 2.0]],
        per_layer_us: -1.0,
        per_step_us: f64::NAN,
        link_share: 0.0,
        cuda_graph_max_bs: 513,
        ..Roofline::default()
    };
    assert_eq!(
        paths(&bad),
        [
            "deployment.latency.roofline.gemm",
            "deployment.latency.roofline.decode_attention",
            "deployment.latency.roofline.per_layer_us",
            "deployment.latency.roofline.per_step_us",
            "deployment.latency.roofline.link_share",
            "deployment.latency.roofline.cuda_graph_max_bs",
        ]
    );
    let read: Roofline = serde_json::from_str(r#"{"gemm": [[0.1, 0.5], [1, 0.7]], "cuda_graph_max_bs": 64}"#).unwrap();
    assert_eq!(read.gemm, [[0.1, 0.5], [1.0, 0.7]]);
    assert_eq!(Roofline { gemm: Roofline::default().gemm, cuda_graph_max_bs: 512, ..read }, Roofline::default());
}
