//! Tests of the stage on real material, where there is some: counts and values as other tools find them.

use super::*;
use crate::stage::profile::frame::Frame;

/// Real material beside or above the repository, where there is some.
fn shared() -> Option<PathBuf> {
    let own = std::env::var_os("PIPE_SHARED").map(PathBuf::from);
    let above = || crate::repository().ancestors().map(|d| d.join("shared"));
    own.or_else(|| above().find(|d| d.join("data/profiles").is_dir())).map(|d| d.join("data"))
}

fn is_sorted(kernel: &Kernel) -> bool {
    let key = |p: &Point| (p.variant, p.dtype, p.kv_dtype, p.shape);
    kernel.points.values().all(|points| points.windows(2).all(|w| key(&w[0]) < key(&w[1])))
}

#[test]
fn every_database_of_operators_is_read() {
    let Some(data) = shared() else { return };
    let root = data.join("profiles/operators");
    // GEMMs, mixtures and all points, counted with another tool.
    for (gpu, version, gemm, moe, all) in [
        ("a100_sxm", "0.14.0", 9240, 6360, 28_967),
        ("b200_sxm", "0.19.0", 114_566, 53_036, 223_172),
        ("b200_sxm", "0.24.0", 142_968, 63_510, 336_526),
        ("h100_sxm", "0.14.0", 26_040, 34_099, 86_333),
        ("h100_sxm", "0.19.0", 101_003, 42_444, 239_261),
        ("h100_sxm", "0.24.0", 107_188, 49_862, 280_414),
        ("h200_sxm", "0.14.0", 101_010, 34_094, 161_298),
        ("h200_sxm", "0.19.0", 101_004, 43_740, 236_070),
        ("h200_sxm", "0.24.0", 107_225, 48_762, 279_399),
        ("l40s", "0.14.0", 18_480, 12_718, 55_086),
        ("l40s", "0.24.0", 107_066, 48_317, 271_158),
    ] {
        let made = run(&operators(&root, gpu, Some(version))).unwrap();
        let kernel = made.kernel();
        let count = |o| kernel.of(o).len();
        let total = kernel.points.values().map(Vec::len).sum::<usize>();
        assert_eq!((count(Operator::Gemm), count(Operator::Moe), total), (gemm, moe, all), "{gpu} {version}");
        assert!(is_sorted(&kernel), "{gpu} {version}");
        assert_eq!(made.sources().iter().map(|s| s.2).sum::<i64>(), all as i64, "{gpu} {version}");
        assert_eq!(kernel.fingerprint, made.cx.out.handle("t").unwrap().hash.0);
    }
}

#[test]
fn values_of_an_h100_are_those_of_its_files() {
    let Some(data) = shared() else { return };
    // The newest version is taken.
    let made = run(&operators(&data.join("profiles/operators"), "h100_sxm", None)).unwrap();
    let kernel = made.kernel();
    assert_eq!(at(&kernel, Operator::Gemm, "", "bfloat16", "", &[128, 4096, 4096]), [0.017215111189418368 * 1e3]);
    // 131,072 elements of two bytes.
    let reduce = |variant| at(&kernel, Operator::AllReduce, variant, "bfloat16", "", &[8, 262_144]);
    assert_eq!(reduce("vllm_graph"), [0.010790079832077026 * 1e3]);
    assert_eq!(reduce("vllm_eager"), [0.040477762222290034 * 1e3]);
    // The new token is part of the context.
    let shape = [64, 4096, 8, 1, 128, 0];
    let times = at(&kernel, Operator::GenerationAttention, "", "bfloat16", "fp8", &shape);
    assert_eq!(times, [0.0440533310174942 * 1e3]);
    let facts = made.rows("t_gpu");
    let names = facts["name"].as_string::<i32>();
    let row = names.iter().position(|n| n == Some("gpu.mem_bw")).unwrap();
    assert_eq!(facts["value"].as_primitive::<Float64Type>().value(row), 3.35e12);
    assert_eq!(facts["unit"].as_string::<i32>().value(row), "B/s");
    assert!(names.iter().any(|n| n == Some("misc.nccl_mem.8")), "{names:?}");

    // Two measurements of one shape: the mean of the two.
    let kernel = run(&operators(&data.join("profiles/operators"), "h100_sxm", Some("0.14.0"))).unwrap().kernel();
    let times = at(&kernel, Operator::Moe, "balanced", "bfloat16", "", &[1, 7168, 2048, 8, 384, 1, 1]);
    assert_eq!(times, [(0.30855466922124225 * 1e3 + 0.30533333619435626 * 1e3) / 2.0]);
}

#[test]
fn layers_of_real_models_are_read() {
    let Some(data) = shared() else { return };
    let root = data.join("profiles/layers");
    let of = |gpu: &str| {
        let path = root.join(gpu).join("meta-llama/Llama-3.1-8B/bf16");
        run(&Profile { layers: Some(Folder { path: file(&path) }), ..Profile::default() }).unwrap()
    };
    for (gpu, dense, sequence, attention, alphas) in
        [("RTX4090", 1368, 80, 8643, 3982), ("RTXPRO6000", 2 * 1368, 160, 2 * 19_364, 3982 + 3966 + 2)]
    {
        let made = of(gpu);
        let kernel = made.kernel();
        let count = |o| kernel.of(o).len();
        let counts = [Operator::TokenLayer, Operator::SequenceLayer, Operator::BatchAttention, Operator::SkewAlpha];
        assert_eq!(counts.map(count), [dense, sequence, attention, alphas], "{gpu}");
        assert!(is_sorted(&kernel), "{gpu}");
        assert!(made.sources().iter().any(|s| s.0.ends_with("tp1/skew.csv") && s.3.starts_with("skipped")), "{gpu}");
    }
    let kernel = of("RTXPRO6000").kernel();
    assert_eq!(at(&kernel, Operator::TokenLayer, "act_fn", "bf16", "", &[1, 1]), [2.67733]);
    assert_eq!(at(&kernel, Operator::TokenLayer, "act_fn", "bf16", "", &[1, 2]), [1.77067]);
    assert_eq!(at(&kernel, Operator::SequenceLayer, "lm_head", "bf16", "", &[1, 2]), [356.181]);
    assert_eq!(at(&kernel, Operator::BatchAttention, "", "bf16", "", &[0, 0, 1, 16, 1]), [8.35233]);
    assert_eq!(at(&kernel, Operator::SkewAlpha, "", "bf16", "", &[0, 128, 15, 16384, 0, 1]), [0.0328]);
    assert_eq!(at(&kernel, Operator::SkewAlpha, "default", "", "", &[0, 0, 0, 0, 0, 2]), [0.0654]);
}

#[test]
fn files_of_vidurs_profiler_are_read() {
    let Some(data) = shared() else { return };
    let raw = data.join("profiles/vidur/raw");
    let files = |model: &str, network: &str| VidurFiles {
        mlp: Some(file(&raw.join(format!("a100/meta-llama/{model}/mlp.csv")))),
        attention: Some(file(&raw.join("attention_a100_64q8kv_tp2.csv"))),
        all_reduce: Some(file(&raw.join(format!("network/{network}/all_reduce.csv")))),
        send_recv: Some(file(&raw.join(format!("network/{network}/send_recv.csv")))),
        ..VidurFiles::default()
    };
    for (model, network, reduces) in [
        ("Llama-2-70b-hf", "a100_dgx", 6951),
        ("Llama-2-7b-hf", "a100_pairwise_nvlink", 4494),
        ("Llama-2-7b-hf", "h100_dgx", 2979),
    ] {
        let made = run(&Profile { vidur: Some(files(model, network)), ..Profile::default() }).unwrap();
        let kernel = made.kernel();
        let counts = [
            Operator::TokenLayer,
            Operator::PrefillAttention,
            Operator::DecodeAttention,
            Operator::AllReduce,
            Operator::SendRecv,
        ];
        assert_eq!(counts.map(|o| kernel.of(o).len()), [10_360, 4206, 10_112, reduces, 1986], "{model} {network}");
        assert!(is_sorted(&kernel));
        let sizes = if model == "Llama-2-70b-hf" { [64, 8, 8192, 28_672] } else { [32, 32, 4096, 11_008] };
        let shape = [8, 2, sizes[0], sizes[1], sizes[2], sizes[3], 32_768, 1];
        let wanted = if model == "Llama-2-70b-hf" { 147.0 } else { 33.0 };
        assert_eq!(at(&kernel, Operator::TokenLayer, "mlp_down_proj", "", "", &shape), [wanted]);
        assert_eq!(at(&kernel, Operator::PrefillAttention, "", "", "", &[0, 1024, 2, 64, 8, 8192, 16]), [216.0]);
    }
}

#[test]
fn predictions_of_vidur_come_back_to_the_bit() {
    let Some(data) = shared() else { return };
    for (name, total) in [("llama-2-7b-a100-tp1", 315_520), ("llama-3-8b-a100-tp1-canary", 114_944)] {
        let path = data.join(format!("profiles/vidur/predictions-{name}"));
        let made =
            run(&Profile { vidur_predictions: Some(Folder { path: file(&path) }), ..Profile::default() }).unwrap();
        let kernel = made.kernel();
        assert_eq!(kernel.points.values().map(Vec::len).sum::<usize>(), total, "{name}");
        let frame = Frame::read(&path.join("attn_prefill.parquet"), "attn_prefill.parquet", &|_| true).unwrap();
        let column = |name: &str| frame.numbers(frame.header.find(name).unwrap());
        let (contexts, chunks, times) = (column("kv_cache_size"), column("prefill_chunk_size"), column("prediction"));
        let points: BTreeMap<[u32; 2], f64> =
            kernel.of(Operator::PrefillAttention).iter().map(|p| ([p.shape[0], p.shape[1]], p.latency_us)).collect();
        assert_eq!(points.len(), times.len());
        let mut same = 0;
        for ((context, chunk), ms) in contexts.iter().zip(&chunks).zip(&times) {
            let back = points[&[*context as u32, *chunk as u32]] / 1e3;
            assert!((back - ms).abs() <= ms.abs() * f64::EPSILON, "{context} {chunk}: {ms} {back}");
            same += usize::from(back == *ms);
        }
        assert!(same * 100 > times.len() * 95, "{same} of {}", times.len());
    }
}

#[test]
fn the_log_of_a_real_engine_is_read() {
    let Some(data) = shared() else { return };
    let log = |filter: &[(&str, &str)]| StepLog {
        path: file(&data.join("measured/vllm_steps_h100.parquet")),
        columns: Default::default(),
        filter: filter.iter().map(|(c, v)| (text(c), text(v))).collect(),
        block_tokens: 16,
        tp: 1,
    };
    let made = run(&Profile { steps: Some(log(&[("model", "codellama-34b"), ("tp", "2")])), ..Profile::default() });
    let made = made.unwrap();
    let kernel = made.kernel();
    let points = points(&kernel, Operator::Step);
    assert!(points.len() > 1000 && points.iter().all(|p| p.1[5] == 2 && p.2 > 0.0), "{}", points.len());
    let failure = run(&Profile { steps: Some(log(&[("model", "nobody")])), ..Profile::default() }).err().unwrap();
    let help = failure.diagnostics[0].help.clone().unwrap();
    assert!(help.contains("codellama-34b"), "{help}");
}
