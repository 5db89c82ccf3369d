//! Sizes and times by hand, and every refusal.

use super::*;
use crate::scenario::{Deployment, GpuSpec, Mla, ModelSpec, Scenario};
use crate::sim::kv::plan;
use crate::sim::scheduler::{Exclusive, Scheduler};
use crate::sim::swarm::{h100, llama_8b, scenario_8b};
use crate::sim::{SimError, check};

fn deployment(tp: u32, pp: u32) -> Deployment {
    Deployment { tp, pp, ..scenario_8b().deployment }
}

#[test]
fn bytes_follow_from_the_matrices() {
    // In and out of a layer of Llama 3.1 8B: q 4096 + 4096, k and v 4096 + 1024 each, o as q, gate, up and down 4096 + 14336
    // each: 81,920, in 32 layers, two bytes each.
    let all = 81_920.0 * 64.0;
    let of = |lora: &Lora, tp, pp| bytes_per_rank(lora, &deployment(tp, pp), &llama_8b());
    let lora = Lora::default();
    assert_eq!(of(&lora, 1, 1), all);
    // q 4096 + 2048, k and v 4096 + 512, o 2048 + 4096, gate and up 4096 + 7168, down 7168 + 4096.
    assert_eq!(of(&lora, 2, 1), 55_296.0 * 64.0);
    assert_eq!(of(&Lora { fully_sharded_loras: true, ..lora.clone() }, 2, 1), all / 2.0);
    // 11 of 32 layers.
    assert_eq!(of(&lora, 1, 3), 81_920.0 * 22.0);
    let attention = Lora { target_modules: [Module::QProj, Module::VProj].into(), ..lora.clone() };
    assert_eq!(of(&attention, 1, 1), 13_312.0 * 64.0);
    assert_eq!(of(&Lora { bytes_per_rank: Some(2e6), ..lora }, 4, 1), 2e6);
}

#[test]
fn experts_have_no_adapters_and_latent_attention_has_its_matrices() {
    let of = |module: Module, m: &ModelSpec| {
        bytes_per_rank(&Lora { target_modules: [module].into(), ..Lora::default() }, &deployment(1, 1), m)
    };
    let mixture = ModelSpec { experts: 8, top_k: 2, first_dense: 3, ..llama_8b() };
    assert_eq!(of(Module::UpProj, &mixture), 3.0 * 18_432.0 * 2.0);
    assert_eq!(of(Module::OProj, &mixture), 32.0 * 8_192.0 * 2.0);
    assert_eq!(of(Module::GateProj, &ModelSpec { mlp_matrices: 2, ..llama_8b() }), 0.0);
    let mla = Mla { q_rank: 1_536, kv_rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 };
    let latent = ModelSpec { layers: 1, mla: Some(mla), ..llama_8b() };
    let sizes = [
        (Module::QProj, 4_096 + 1_536 + 1_536 + 32 * 192),
        (Module::KProj, 4_096 + 512 + 64),
        (Module::VProj, 512 + 32 * 256),
        (Module::OProj, 32 * 128 + 4_096),
    ];
    for (module, numbers) in sizes {
        assert_eq!(of(module, &latent), f64::from(numbers) * 2.0, "{module:?}");
    }
    let whole = ModelSpec { mla: Some(Mla { q_rank: 0, ..mla }), ..latent };
    assert_eq!(of(Module::QProj, &whole), f64::from(4_096 + 32 * 192) * 2.0);
}

#[test]
fn slots_take_memory() {
    let with = |lora: Option<Lora>| Deployment { lora, ..deployment(1, 1) };
    let blocks = |lora: Option<Lora>| plan::plan(&with(lora), &llama_8b(), &h100()).blocks;
    assert_eq!(blocks(None), 26_312);
    // 4 x 16 x 5,242,880 bytes are 160 blocks of 2 MiB.
    let four = Lora { max_loras: 4, ..Lora::default() };
    assert_eq!(blocks(Some(four.clone())), 26_312 - 160);
    // inference-sim's case 20: 2 x 32 x 2e6 bytes are 61.04 blocks.
    let its = Lora { max_loras: 2, max_lora_rank: 32, bytes_per_rank: Some(2e6), ..Lora::default() };
    assert!((26_250..=26_251).contains(&blocks(Some(its))));
    // What is given is given.
    let mut given = with(Some(four));
    given.kv.num_gpu_blocks = Some(100);
    assert_eq!(plan::blocks(&given, &llama_8b(), &h100()), Ok(100));
}

#[test]
fn loads_take_what_their_bytes_take() {
    let costs = |lora: &Lora, gpu: &GpuSpec, tick: Option<&str>| {
        let d = Deployment { tick: tick.map(|t| t.parse().unwrap()), ..deployment(1, 1) };
        Costs::new(lora, &d, &llama_8b(), gpu)
    };
    // inference-sim at rank 32: 1500 us + 64 MB at 2 MB a microsecond.
    let its = Lora {
        bytes_per_rank: Some(2e6),
        load_base_us: 1_500.0,
        load_gb_per_s: Some(2_000.0),
        disk_base_us: 10.0,
        disk_gb_per_s: Some(2.0),
        ..Lora::default()
    };
    let of = costs(&its, &h100(), None);
    assert_eq!((of.load(32, false).0, of.load(32, true).0), (1_532_000, 1_532_000 + 10_000 + 32_000_000));
    // The link of the GPU where it is known: 5,242,880 bytes at 64 GB/s are 81,920 ns; at 25 GB/s, 209,715.2.
    let known = GpuSpec { pcie_gb_per_s: 64.0, ..h100() };
    assert_eq!(costs(&Lora::default(), &known, None).load(1, false).0, 81_920);
    assert_eq!(costs(&Lora::default(), &h100(), None).load(1, false).0, 209_716);
    let ticks = |ns| costs(&its, &h100(), Some("1us")).in_ticks(SimDuration(ns)).0;
    assert_eq!([0, 1, 1_000, 1_001].map(ticks), [1_000, 1_000, 1_000, 2_000]);
}

#[test]
fn factors_are_interpolated_between_their_ranks() {
    let points = [(8, 0.02), (16, 0.035), (32, 0.06)].map(|(rank, factor)| RankFactor { rank, factor });
    let costs = |lora: &Lora| Costs::new(lora, &deployment(1, 1), &llama_8b(), &h100());
    let its = costs(&Lora { factors: points.into(), ..Lora::default() });
    let step = |adapters, rank| its.step(SimDuration(1_000_000_000), Mix { adapters, rank }).0;
    let near = |ns: i64, expect: i64| assert!((ns - expect).abs() <= 1, "{ns}, not {expect}");
    near(step(1, 8), 1_020_000_000);
    near(step(2, 16), 1_070_000_000);
    near(step(3, 32), 1_180_000_000);
    near(step(1, 12), 1_027_500_000);
    near(step(1, 24), 1_047_500_000);
    near(step(1, 1), 1_020_000_000);
    near(step(2, 64), 1_120_000_000);
    assert_eq!(step(0, 0), 1_000_000_000);
    assert!(!its.are_free() && costs(&Lora::default()).are_free());
    let free = costs(&Lora { factors: vec![RankFactor { rank: 8, factor: 0.0 }], ..Lora::default() });
    assert_eq!(free.step(SimDuration(7), Mix { adapters: 3, rank: 9 }).0, 7);
}

#[test]
fn ranks_go_by_name_or_by_number() {
    let lora = r#"{"adapters": {"sql": {"rank": 8}, "1": {"rank": 4}}, "default_rank": 2}"#;
    let lora: Lora = serde_json::from_str(lora).unwrap();
    let named = Requests { adapter_names: ["chat", "sql"].map(String::from).into(), ..Requests::default() };
    assert_eq!([0, 1].map(|number| lora.rank_of(&named, number)), [2, 8]);
    assert_eq!([0, 1, 7].map(|number| lora.rank_of(&Requests::default(), number)), [2, 4, 2]);
    let plain: Lora = serde_json::from_str("{}").unwrap();
    assert_eq!((plain.rank_of(&named, 1), plain.max_loras, plain.host_slots()), (16, 1, None));
    assert_eq!(plain, Lora::default());
}

#[test]
fn what_cannot_be_is_refused() {
    type Edit = fn(&mut Lora);
    let cases: &[(Edit, &[&str])] = &[
        (|_| (), &[]),
        (|l| l.max_loras = 0, &["max_loras: is 0; must be at least 1"]),
        (|l| l.max_lora_rank = 24, &["max_lora_rank: is 24; vLLM knows [1, 8, 16, 32, 64, 128, 256, 320, 512]"]),
        (
            |l| {
                l.default_rank = Some(0);
                l.adapters = [("big", 17), ("ok", 16)].map(|(name, rank)| (name.to_string(), Adapter { rank })).into();
            },
            &[
                "default_rank: is 0; must be 1 to max_lora_rank (16)",
                "adapters.big.rank: is 17; must be 1 to max_lora_rank (16)",
            ],
        ),
        (
            |l| (l.max_loras, l.max_cpu_loras, l.disk_gb_per_s) = (4, Some(3), Some(1.0)),
            &["max_cpu_loras: is 3; must be max_loras (4) or more"],
        ),
        (
            |l| l.max_cpu_loras = Some(3),
            &["max_cpu_loras: changes nothing without disk_gb_per_s, the way of those that the host forgets"],
        ),
        (
            |l| (l.load_gb_per_s, l.disk_gb_per_s) = (Some(0.0), Some(f64::NAN)),
            &[
                "load_gb_per_s: is 0; must be a number, 0.001 or more",
                "disk_gb_per_s: is NaN; must be a number, 0.001 or more",
            ],
        ),
        (
            |l| (l.load_base_us, l.step_us) = (-1.0, 1e9),
            &[
                "load_base_us: is -1; must be 0 to 60000000 microseconds",
                "step_us: is 1000000000; must be 0 to 60000000 microseconds",
            ],
        ),
        (|l| l.bytes_per_rank = Some(0.0), &["bytes_per_rank: is 0; must be above 0 and at most 1e9"]),
        (|l| l.bytes_per_rank = Some(1.1e9), &["bytes_per_rank: is 1100000000; must be above 0 and at most 1e9"]),
        (|l| l.load_gb_per_s = Some(0.0009), &["load_gb_per_s: is 0.0009; must be a number, 0.001 or more"]),
        (|l| l.target_modules.clear(), &["target_modules: is empty: there must be one"]),
        (
            |l| l.factors = [8, 8].map(|rank| RankFactor { rank, factor: -0.1 }).into(),
            &["factors: a factor must be 0 to 1000", "factors: ranks must grow from one to the next"],
        ),
        (
            |l| (l.max_loras, l.max_lora_rank) = (100, 256),
            &[
                "max_loras: no KV block fits: 100 slots for adapters of rank 256 take 125.00 of the 51.39 GiB per GPU that \
               weights and activations leave; at most 41 would leave room for a block",
            ],
        ),
    ];
    for (edit, expect) in cases {
        let mut s = scenario_8b();
        edit(s.deployment.lora.insert(Lora::default()));
        assert_eq!(told(&s), *expect);
    }
}

fn told(s: &Scenario) -> Vec<String> {
    let text = |e: SimError| e.to_string().replacen("deployment.lora.", "", 1);
    check(s).err().unwrap_or_default().into_iter().map(text).collect()
}

#[test]
fn adapters_need_batches_that_heed_them() {
    let mut s = scenario_8b();
    s.deployment.lora = Some(Lora::default());
    let pools = r#"{"a": {"role": "prefill"}, "b": {"role": "decode"}}"#;
    let split = Scenario {
        deployment: Deployment { pools: serde_json::from_str(pools).unwrap(), ..s.deployment.clone() },
        pools: vec![crate::pools::PoolFacts::new(&s.model, &s.gpu); 2],
        ..s.clone()
    };
    assert_eq!(told(&split), ["deployment.lora: adapters are not simulated with prefill and decode pools"]);
    s.deployment.scheduler = Scheduler::Exclusive(Exclusive::default());
    let of_lora: Vec<String> = told(&s).into_iter().filter(|text| text.starts_with("deployment.lora")).collect();
    assert_eq!(of_lora, ["deployment.lora: the exclusive scheduler has no batches, and knows no adapters"]);
}

#[test]
fn schedulers_without_adapters_say_why() {
    let told_of_all = |scheduler: &str, lora: Lora| -> Vec<String> {
        let mut s = scenario_8b();
        s.deployment.lora = Some(lora);
        s.deployment.scheduler = serde_json::from_str(scheduler).unwrap();
        let of_lora = |text: &String| ["deployment.lora", "gate", "loading"].iter().any(|path| text.starts_with(path));
        told(&s).into_iter().filter(of_lora).collect()
    };
    let told_of = |scheduler: &str, gate: Gate| told_of_all(scheduler, Lora { gate, ..Lora::default() });
    for (scheduler, reason) in [
        (r#"{"sarathi": {}}"#, "the project of this scheduler has no adapters"),
        (r#"{"orca": {}}"#, "the project of this scheduler has no adapters"),
        (r#"{"faster_transformer": {}}"#, "the project of this scheduler has no adapters"),
        (r#"{"lightllm": {}}"#, "the project of this scheduler has no adapters"),
        (r#"{"vllm_v0": {"preemption_mode": "swap"}}"#, "swapped requests"),
    ] {
        let found = told_of(scheduler, Gate::Skip);
        assert!(found.len() == 1 && found[0].contains(reason), "{scheduler}: {found:?}");
    }
    let trtllm = r#"{"trtllm": {}}"#;
    assert_eq!(told_of(trtllm, Gate::Skip), [""; 0]);
    let found = told_of(trtllm, Gate::HeadOfLine);
    assert!(found.len() == 1 && found[0].starts_with("gate: must be skip"), "{found:?}");
    let background = || Lora { gate: Gate::Skip, loading: Loading::Background, ..Lora::default() };
    let found = told_of_all(trtllm, background());
    assert!(found.len() == 1 && found[0].starts_with("loading: must be in_step"), "{found:?}");
    let sglang = r#"{"sglang": {}}"#;
    assert_eq!(told_of_all(sglang, background()), [""; 0]);
    assert_eq!(told_of(sglang, Gate::Skip), [""; 0]);
    let found = told_of(sglang, Gate::HeadOfLine);
    assert!(found.len() == 1 && found[0].starts_with("gate: must be skip"), "{found:?}");
}
