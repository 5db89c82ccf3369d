//! What the server makes of settings, and what it refuses.

use super::*;
use crate::pools::Site;
use crate::scenario::{GpuSpec, Scenario};
use crate::sim::scheduler::Scheduler;
use crate::sim::swarm::{h100, scenario_8b};
use crate::sim::{SimError, changes, check};

fn scenario(edit: impl Fn(&mut Scenario, &mut Sglang)) -> Scenario {
    let (mut s, mut rules) = (scenario_8b(), Sglang::default());
    edit(&mut s, &mut rules);
    s.deployment.scheduler = Scheduler::Sglang(rules);
    s
}

/// The site of a scenario, and its rules as the server has them.
fn settled(s: &Scenario) -> (Site, Sglang) {
    let site = s.sites().remove(0);
    let Scheduler::Sglang(rules) = site.deployment.scheduler.clone() else { panic!("another scheduler") };
    (site, rules)
}

/// Paths of what is changed, and of what is refused.
fn told(s: &Scenario) -> (Vec<&'static str>, Vec<String>) {
    let refused = check(s).err().unwrap_or_default().into_iter().map(|e| match e {
        SimError::Invalid { path, .. } => {
            path.strip_prefix("deployment.scheduler.sglang.").unwrap_or(&path).to_string()
        }
        SimError::Cancelled => panic!("nobody cancels"),
    });
    let short = |path: &'static str| path.strip_prefix("deployment.scheduler.sglang.").unwrap_or(path);
    (changes(s).into_iter().map(|(path, _)| short(path)).collect(), refused.collect())
}

#[test]
fn defaults_follow_from_memory() {
    // (GiB, tp, pp, chunk, largest graph, share)
    // 80 GiB are 81,920 MiB: 512 + 8192 * 1.5 + 256 * 2 + 1024 / 8 = 13,440 are reserved.
    for (memory_gib, tp, pp, chunk, graphs, share) in [
        (16.0, 1, 1, 2048, 8, 0.772),
        (24.0, 4, 1, 2048, 80, 0.827),
        (32.0, 1, 1, 2048, 24, 0.885),
        (48.0, 2, 1, 4096, 32, 0.858),
        (48.0, 4, 1, 4096, 160, 0.848),
        (80.0, 1, 1, 8192, 256, 0.836),
        (80.0, 8, 1, 8192, 512, 0.819),
        (80.0, 2, 2, 8192, 256, 0.831),
        (141.0, 1, 1, 8192, 256, 0.907),
        (180.0, 1, 1, 16_384, 512, 0.858),
    ] {
        let s = scenario(|s, _| {
            (s.gpu, s.deployment.tp, s.deployment.pp) = (GpuSpec { memory_gib, ..h100() }, tp, pp);
        });
        let (_, rules) = settled(&s);
        let got = (rules.chunked_prefill_size, rules.cuda_graph_max_bs, rules.mem_fraction_static);
        assert_eq!(got, (Some(chunk), Some(graphs), Some(share)), "{memory_gib} {tp} {pp}");
    }
}

#[test]
fn blocks_are_planned_from_the_static_share() {
    // (80 GiB - 0.15) * 0.836 - 8.03e9 parameters of two bytes, by 131,072 bytes per token and 16 of them.
    let site = |share| settled(&scenario(|_, r| r.mem_fraction_static = share)).0;
    let blocks = |site: &Site| crate::sim::kv::plan::blocks(&site.deployment, &site.model, &site.gpu).unwrap();
    let plan = |share: f64| ((79.85 * share * 1024.0 * 1024.0 * 1024.0 - 16.06e9) / 131_072.0 / 16.0) as i64;
    assert!((blocks(&site(None)) as i64 - plan(0.836)).abs() < 20, "{}", blocks(&site(None)));
    assert!((blocks(&site(Some(0.5))) as i64 - plan(0.5)).abs() < 20);
    let (_, refused) = told(&scenario(|_, r| r.mem_fraction_static = Some(0.1)));
    assert_eq!(refused, ["mem_fraction_static"]);
}

#[test]
fn seats_and_lengths_follow_from_the_cache() {
    // (blocks of 16, max_model_len, asked, seats, longest prompt, longest prompt and output)
    for (blocks, len, asked, seats, input, all) in [
        (10_000, None, None, 2048, 131_065, 131_070),
        (10_000, Some(8192), None, 4096, 8185, 8190),
        (100_000, Some(8192), None, 4096, 8185, 8190),
        (10_000, Some(32_000), None, 2560, 31_993, 31_998),
        (10, None, None, 80, 153, 158),
        (10_000, None, Some(64), 64, 131_065, 131_070),
        (10_000, None, Some(9000), 2048, 131_065, 131_070),
    ] {
        let s = scenario(|s, r| {
            (s.deployment.kv.num_gpu_blocks, s.deployment.max_model_len) = (Some(blocks), len);
            r.max_running_requests = asked;
        });
        let (site, rules) = settled(&s);
        assert_eq!(
            rules.settled,
            Settled { input_max: input, running_max: seats, verified: 0 },
            "{blocks} {len:?} {asked:?}"
        );
        assert_eq!(site.deployment.max_model_len, Some(all));
        assert_eq!(told(&s), (vec![], vec![]));
    }
}

#[test]
fn sizes_have_two_names() {
    // (deployment's tp, pp, dp; SGLang's; DP attention; what is simulated, GPUs)
    for (own, other, attention, expect, gpus) in [
        ((1, 1, 1), (Some(4), Some(2), Some(8)), false, (4, 2, 8), 64),
        ((4, 2, 1), (Some(4), Some(2), None), false, (4, 2, 1), 8),
        ((2, 1, 4), (None, None, None), false, (2, 1, 4), 8),
        ((1, 1, 1), (Some(8), None, Some(4)), true, (2, 1, 4), 8),
        ((2, 1, 4), (Some(8), None, Some(4)), true, (2, 1, 4), 8),
    ] {
        let s = scenario(|s, r| {
            (s.deployment.tp, s.deployment.pp, s.deployment.dp) = own;
            (r.tp_size, r.pp_size, r.dp_size) = other;
            r.enable_dp_attention = attention;
        });
        let (site, _) = settled(&s);
        assert_eq!((site.deployment.tp, site.deployment.pp, site.deployment.dp), expect, "{own:?} {other:?}");
        assert_eq!((s.deployment.gpus(), site.engines()), (gpus, expect.2));
        assert_eq!(told(&s).1, Vec::<String>::new());
    }
    let page = scenario(|_, r| r.page_size = Some(64));
    assert_eq!((settled(&page).0.deployment.kv.block_size, told(&page)), (64, (vec![], vec![])));
}

#[test]
fn ranks_of_dp_attention_share() {
    let s = scenario(|_, r| {
        (r.tp_size, r.dp_size, r.enable_dp_attention) = (Some(8), Some(4), true);
        r.max_running_requests = Some(256);
    });
    let (_, rules) = settled(&s);
    assert_eq!((rules.chunked_prefill_size, rules.settled.running_max), (Some(2048), 64));
    assert_eq!(rules.schedule_conservativeness, 0.3);
    // 512 + 8192 * 1.5 + 512 * 2 + 1024, and 512 * 4 * 4.5 more: 24,064 of 81,920 MiB.
    assert_eq!(rules.mem_fraction_static, Some(0.706));
    assert_eq!(told(&s), (vec!["schedule_conservativeness", "chunked_prefill_size"], vec![]));
}

#[test]
fn what_the_server_changes_is_told() {
    use AttentionBackend as Backend;
    type Edit = fn(&mut Scenario, &mut Sglang);
    let blackwell: Edit = |s, r| {
        s.gpu.fp4_tflops = 9_000.0;
        (r.page_size, r.attention_backend) = (Some(128), Some(Backend::TrtllmMha));
        s.deployment.kv.num_gpu_blocks = Some(1_000);
    };
    let cases: &[(Edit, &[&str])] = &[
        (|_, _| (), &[]),
        (|s, _| s.deployment.pp = 2, &["disable_overlap_schedule"]),
        (|_, r| (r.pp_size, r.disable_overlap_schedule) = (Some(2), true), &[]),
        (|_, r| r.attention_backend = Some(Backend::TorchNative), &["disable_cuda_graph"]),
        (|_, r| r.attention_backend = Some(Backend::Flashmla), &["deployment.kv.block_size"]),
        (|_, r| (r.page_size, r.decode_attention_backend) = (Some(64), Some(Backend::Flashmla)), &[]),
        (|_, r| r.prefill_attention_backend = Some(Backend::Fa4), &["deployment.kv.block_size"]),
        (|_, r| r.attention_backend = Some(Backend::DualChunkFlashAttn), &["attention_backend"]),
        (|_, r| r.attention_backend = Some(Backend::Aiter), &["mem_fraction_static"]),
        (|_, r| (r.schedule_policy, r.disable_radix_cache) = (SchedulePolicy::Lpm, true), &["schedule_policy"]),
        (
            |s, r| {
                s.deployment.kv.enable_prefix_caching = false;
                r.schedule_policy = SchedulePolicy::DfsWeight;
            },
            &["schedule_policy"],
        ),
        (|_, r| r.num_continuous_decode_steps = 4, &["num_continuous_decode_steps"]),
        (blackwell, &["deployment.kv.block_size"]),
    ];
    for (edit, expect) in cases {
        let s = scenario(edit);
        assert_eq!(told(&s), (expect.to_vec(), vec![]), "{:?}", s.deployment.scheduler);
    }
    // The cache stays as large.
    let (site, rules) = settled(&scenario(blackwell));
    assert_eq!((site.deployment.kv.num_gpu_blocks, rules.page_size), (Some(2_000), Some(64)));
}

#[test]
fn what_the_server_refuses_is_refused() {
    type Edit = fn(&mut Scenario, &mut Sglang);
    let cases: &[(Edit, &[&str])] = &[
        (|s, r| (s.deployment.tp, r.tp_size) = (2, Some(4)), &["tp_size"]),
        (|s, r| (s.deployment.dp, r.dp_size) = (2, Some(4)), &["dp_size"]),
        (|s, r| (s.deployment.pp, r.pp_size) = (2, Some(4)), &["pp_size"]),
        (|_, r| (r.tp_size, r.dp_size, r.enable_dp_attention) = (Some(5), Some(2), true), &["tp_size"]),
        (|s, r| (s.deployment.kv.block_size, r.page_size) = (32, Some(64)), &["page_size"]),
        (|_, r| r.chunked_prefill_size = Some(100), &["chunked_prefill_size"]),
        (|_, r| (r.pp_size, r.enable_mixed_chunk) = (Some(2), true), &["enable_mixed_chunk"]),
        (|_, r| r.schedule_conservativeness = -1.0, &["schedule_conservativeness"]),
        (|_, r| r.tokenizer_worker_num = 0, &["tokenizer_worker_num"]),
        (|_, r| r.enable_two_batch_overlap = true, &["enable_two_batch_overlap"]),
        (|_, r| (r.enable_two_batch_overlap, r.moe_a2a_backend) = (true, MoeA2aBackend::Deepep), &[]),
        (|_, r| r.attention_backend = Some(AttentionBackend::TrtllmMha), &["attention_backend"]),
        (|_, r| r.max_running_requests = Some(0), &["max_running_requests"]),
        (|_, r| r.cuda_graph_max_bs = Some(0), &["cuda_graph_max_bs"]),
        (|_, r| r.new_token_ratio_decay_steps = 0, &["new_token_ratio_decay_steps"]),
        (|_, r| r.prefill_max_requests = Some(0), &["prefill_max_requests"]),
        (|_, r| r.mem_fraction_static = Some(1.5), &["mem_fraction_static"]),
        (|_, r| r.scheduler_overhead_us = f64::NAN, &["scheduler_overhead_us"]),
        (|_, r| drop(r.kernel_factors.insert("attention".into(), BTreeMap::new())), &["kernel_factors"]),
        (
            |_, r| {
                let cost = KernelCost { decode: 0.0, ..KernelCost::default() };
                r.kernel_factors.insert("cuda_graph".into(), BTreeMap::from([("none".into(), cost)]));
            },
            &["kernel_factors"],
        ),
        (|s, _| s.deployment.max_model_len = Some(7), &["deployment.max_model_len"]),
        (|s, _| s.deployment.max_model_len = Some(8), &[]),
        (
            |s, _| (s.deployment.kv.block_size, s.deployment.kv.num_gpu_blocks) = (1, Some(7)),
            &["deployment.kv.num_gpu_blocks"],
        ),
        (|s, _| s.deployment.max_model_len = Some(200_000), &["deployment.max_model_len"]),
    ];
    for (edit, expect) in cases {
        let s = scenario(edit);
        assert_eq!(told(&s).1, *expect, "{:?}", s.deployment.scheduler);
    }
}

/// As they are in the tuner's own files, `null` where the server is to choose.
#[test]
fn configurations_of_the_tuner_are_settings() {
    let text = r#"{
        "tp_size": 2, "attention_backend": "fa3", "chunked_prefill_size": null, "max_prefill_tokens": 8192, "dp_size": 2,
        "schedule_policy": "dfs-weight", "pp_size": 1, "decode_attention_backend": null, "prefill_attention_backend": "triton",
        "page_size": 32, "cuda_graph_max_bs": 24, "enable_mixed_chunk": true, "disable_overlap_schedule": false,
        "enable_torch_compile": true, "num_continuous_decode_steps": 1, "enable_two_batch_overlap": false,
        "tokenizer_worker_num": 16, "sampling_backend": "pytorch"
    }"#;
    let rules: Sglang = serde_json::from_str(text).unwrap();
    let s = scenario(|_, r| *r = rules.clone());
    assert_eq!(told(&s), (vec![], vec![]));
    let (site, rules) = settled(&s);
    assert_eq!((site.deployment.tp, site.deployment.dp, site.deployment.kv.block_size), (2, 2, 32));
    assert_eq!((rules.schedule_policy, rules.chunk()), (SchedulePolicy::DfsWeight, Some(8192)));
    let whole = serde_json::to_string(&Sglang::default()).unwrap();
    assert_eq!(serde_json::from_str::<Sglang>(&whole).unwrap(), Sglang::default());
    assert!(serde_json::from_str::<Sglang>(r#"{ "schedule_policy": "dfs_weight" }"#).is_err());
}

#[test]
fn what_drafts_change() {
    let drafts = |method: &str| {
        let text = format!(r#"{{"method": "{method}", "num_speculative_tokens": 3, "acceptance": {{"rate": 0.7}}}}"#);
        serde_json::from_str(&text).ok()
    };
    let changed = ["max_running_requests", "disable_overlap_schedule", "enable_mixed_chunk"];
    // 80 GiB are 81,920 MiB, of which 13,440 are reserved without drafts, 2,048 more with a head, 6,144 more with a model.
    for (method, share) in [("ngram", 0.836), ("eagle", 0.811), ("mtp", 0.811), ("draft_model", 0.761)] {
        let s = scenario(|s, r| (s.deployment.speculative, r.enable_mixed_chunk) = (drafts(method), true));
        let (_, rules) = settled(&s);
        let got = (rules.mem_fraction_static, rules.settled.running_max, rules.settled.verified);
        assert_eq!(got, (Some(share), 48, 4), "{method}");
        assert!(rules.disable_overlap_schedule && !rules.enable_mixed_chunk);
        assert_eq!(told(&s), (changed.to_vec(), Vec::new()));
    }
    let s = scenario(|s, r| {
        s.deployment.speculative = drafts("eagle");
        (r.max_running_requests, r.disable_overlap_schedule) = (Some(300), true);
    });
    assert_eq!((told(&s), settled(&s).1.settled.running_max), ((Vec::new(), Vec::new()), 300));
    // What SGLang refuses, and what is vLLM's.
    let refused = |edit: &dyn Fn(&mut Scenario, &mut Sglang)| {
        told(&scenario(|s, r| {
            (r.max_running_requests, r.disable_overlap_schedule) = (Some(300), true);
            edit(s, r);
        }))
        .1
    };
    assert_eq!(refused(&|s, _| (s.deployment.speculative, s.deployment.pp) = (drafts("mtp"), 2)), ["deployment.pp"]);
    let ranks = |method: &'static str| {
        move |s: &mut Scenario, r: &mut Sglang| {
            (s.deployment.speculative, s.deployment.dp) = (drafts(method), 2);
            (r.enable_dp_attention, r.chunked_prefill_size) = (true, Some(8192));
        }
    };
    assert_eq!(refused(&ranks("ngram")), ["deployment.speculative.method"]);
    assert_eq!(refused(&ranks("draft_model")), ["deployment.speculative.method"]);
    assert_eq!(refused(&ranks("eagle")), [""; 0]);
    let by_batch = |s: &mut Scenario, _: &mut Sglang| {
        s.deployment.speculative = drafts("eagle");
        s.deployment.speculative.as_mut().unwrap().num_speculative_tokens_per_batch_size = vec![[1, 8, 3]];
    };
    assert_eq!(refused(&by_batch), ["deployment.speculative.num_speculative_tokens_per_batch_size"]);
}

#[test]
fn adaptive_drafts_are_checked() {
    let refused = |edit: &dyn Fn(&mut Scenario, &mut Sglang), method: &str, adaptive: &str| {
        let text = format!(
            r#"{{"method": "{method}", "num_speculative_tokens": 3, "acceptance": {{"rate": 0.7}}, "adaptive": {adaptive}}}"#
        );
        told(&scenario(|s, r| {
            (s.deployment.speculative, r.max_running_requests) = (serde_json::from_str(&text).ok(), Some(300));
            edit(s, r);
        }))
        .1
    };
    let path = ["deployment.speculative.adaptive"];
    assert_eq!(refused(&|_, _| (), "eagle", "{}"), [""; 0]);
    assert_eq!(refused(&|_, _| (), "ngram", "{}"), path);
    assert_eq!(refused(&|_, _| (), "mtp", r#"{"batches": []}"#), path);
    let overlaps = |_: &mut Scenario, r: &mut Sglang| {
        (r.enable_two_batch_overlap, r.moe_a2a_backend) = (true, MoeA2aBackend::Deepep);
    };
    assert_eq!(refused(&overlaps, "eagle", "{}"), path);
    // Pages are planned for the longest draft.
    let s = scenario(|s, _| {
        s.deployment.speculative = serde_json::from_str(
            r#"{"method": "eagle", "num_speculative_tokens": 3, "acceptance": {"rate": 0.7}, "adaptive": {}}"#,
        )
        .ok();
    });
    assert_eq!(settled(&s).1.settled.verified, 8);
}
