//! Every mistake is found, where it is written.

use super::*;
use crate::pools::PoolFacts;
use crate::scenario::{Arrivals, Cancel, ClassRules, ModelSpec};
use crate::sim::latency::{
    CrossModel, Latency, Linear, Overheads, Rates, Regression, Roofline, TimeUnit, TrainedPhysics,
};
use crate::sim::router::{Router, Scorers, Weighted};
use crate::sim::scheduler::Scheduler;
use crate::sim::scheduler::{Exclusive, QueueOrder};
use crate::sim::swarm::{h100, llama_8b, scenario_8b};
use crate::sim::tiers::{Device, Replacement, Tier, Ttl, WritePolicy};

#[test]
fn every_problem_is_found_at_once() {
    type Edit = fn(&mut Scenario);
    let cases: &[(Edit, &[&str])] = &[
        (|_| {}, &[]),
        (
            |s| {
                s.deployment.replicas = 0;
                s.deployment.tp = 3;
                s.deployment.pp = 33;
                s.workload.rate_rps = Some(0.0);
                s.deployment.kv.block_size = 0;
            },
            &["deployment.replicas", "deployment.tp", "deployment.pp", "deployment.kv.block_size", "workload.rate_rps"],
        ),
        (|s| s.deployment.max_model_len = Some(200_000), &["deployment.max_model_len"]),
        (|s| s.deployment.kv.gpu_memory_utilization = f64::NAN, &["deployment.kv.gpu_memory_utilization"]),
        (|s| s.gpu.memory_gib = 16.0, &["deployment.tp"]),
        (
            |s| {
                let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { return };
                rules.enable_chunked_prefill = false;
            },
            &["deployment.scheduler.vllm_v1.max_num_batched_tokens"],
        ),
        (|s| s.deployment.scheduler = Scheduler::Exclusive(Exclusive::default()), &["deployment.latency"]),
        (
            |s| {
                s.deployment.overheads = Overheads { step_us: -1.0, jitter_cv: 11.0, ..Overheads::default() };
                s.deployment.latency = Latency::Regression(Regression::default());
            },
            &[
                "deployment.latency.regression.intercept_us",
                "deployment.overheads.step_us",
                "deployment.overheads.jitter_cv",
            ],
        ),
        (
            |s| {
                s.deployment.scheduler = Scheduler::Exclusive(Exclusive::default());
                s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1e3, decode_tokens_per_s: 1e2 });
                s.deployment.overheads.network_rtt_ms = 1.0;
            },
            &["deployment.overheads.network_rtt_ms"],
        ),
        (
            |s| {
                let scheduling_policy = QueueOrder::Fair;
                s.deployment.scheduler = Scheduler::Exclusive(Exclusive { scheduling_policy, ..Exclusive::default() });
                s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1e3, decode_tokens_per_s: 1e2 });
            },
            &["deployment.scheduler.exclusive.scheduling_policy"],
        ),
        (
            |s| {
                let linear = Linear { base_us: 61.0, unit: TimeUnit::S, ..Linear::default() };
                s.deployment.latency = Latency::Linear(linear);
            },
            &["deployment.latency.linear.base_us"],
        ),
        (
            |s| s.deployment.latency = Latency::Roofline(Roofline { gemm: vec![[1.0, 7.0]], ..Roofline::default() }),
            &["deployment.latency.roofline.gemm"],
        ),
        (
            |s| {
                s.workload.horizon_s = Some(-1.0);
                s.workload.cancel = Some(Cancel { share: 1.5, after_s: 0.0 });
                let rules = ClassRules { timeout_s: Some(0.0), ..ClassRules::default() };
                s.workload.classes.insert("chat".to_string(), rules);
                s.measure.warmup_s = f64::NAN;
            },
            &[
                "workload.horizon_s",
                "workload.cancel.after_s",
                "workload.cancel.share",
                "workload.classes",
                "measure.warmup_s",
            ],
        ),
        (
            |s| {
                s.deployment.latency = Latency::TrainedPhysics(TrainedPhysics {
                    decode_kv: -1.0,
                    weights: 0.0,
                    layer_us: 0.0,
                    step_us: 0.0,
                    queue_base_us: f64::INFINITY,
                    ..TrainedPhysics::default()
                });
            },
            &[
                "deployment.latency.trained_physics.decode_kv",
                "deployment.latency.trained_physics.queue_base_us",
                "deployment.latency.trained_physics.step_us",
            ],
        ),
        (
            |s| s.deployment.latency = Latency::CrossModel(CrossModel { layer_us: 0.0, ..CrossModel::default() }),
            &["deployment.latency.cross_model.layer_us"],
        ),
        (
            |s| s.workload.arrivals = Arrivals::Gamma(crate::scenario::Gamma { cv: -1.0 }),
            &["workload.arrivals.gamma.cv"],
        ),
    ];
    for (edit, expect) in cases {
        let mut s = scenario_8b();
        edit(&mut s);
        let found: Vec<String> = match check(&s) {
            Ok(()) => Vec::new(),
            Err(problems) => problems
                .into_iter()
                .map(|e| match e {
                    SimError::Invalid { path, .. } => path.into_owned(),
                    SimError::Cancelled => "cancelled".to_string(),
                })
                .collect(),
        };
        assert_eq!(&found, expect);
    }
}

/// Eight experts, of which a token uses two.
fn mixture() -> ModelSpec {
    ModelSpec { experts: 8, top_k: 2, ..llama_8b() }
}

/// The scenario of settings on top of model and GPU. Pools of the model `moe` have [`mixture`].
fn scenario(deployment: &str, workload: &str) -> Scenario {
    let mut s = scenario_8b();
    let comma = if deployment.is_empty() { "" } else { ", " };
    s.deployment =
        serde_json::from_str(&format!("{{\"model\": \"llama\", \"gpu\": \"h100\"{comma}{deployment}}}")).unwrap();
    s.workload = serde_json::from_str(&format!("{{{workload}}}")).unwrap();
    let facts = |model: &str| if model == "moe" { mixture() } else { llama_8b() };
    s.model = facts(&s.deployment.model);
    let pools = s.deployment.pools.values().map(|pool| s.deployment.of_pool(pool).model);
    s.pools = pools.map(|model| PoolFacts::new(&facts(&model), &h100())).collect();
    s
}

/// What is wrong, as `path: message`, against the beginning of each and, after ` ... `, its end.
#[track_caller]
fn expect(found: Result<(), Vec<SimError>>, expect: &[&str]) {
    let found: Vec<String> = found.err().unwrap_or_default().iter().map(ToString::to_string).collect();
    let fits = |(found, expect): (&String, &&str)| match expect.split_once(" ... ") {
        Some((begin, end)) => found.starts_with(begin) && found.ends_with(end),
        None => found.starts_with(expect),
    };
    assert!(found.len() == expect.len() && found.iter().zip(expect).all(fits), "{found:#?}, not {expect:#?}");
}

#[track_caller]
fn of_deployment(settings: &str, problems: &[&str]) {
    expect(check(&scenario(settings, "")), problems);
}

#[track_caller]
fn of_pools(pools: &str, problems: &[&str]) {
    of_deployment(&format!("\"pools\": {{{pools}}}"), problems);
}

#[track_caller]
fn of_load(workload: &str, problems: &[&str]) {
    expect(check(&scenario("", workload)), problems);
}

const SPLIT: &str = r#""p": {"role": "prefill"}, "d": {"role": "decode"}"#;

#[test]
fn pools_are_checked_where_they_say_something() {
    of_pools(SPLIT, &[]);
    of_pools(r#""a": {}, "b": {"gpu": "h100"}"#, &[]);
    of_pools(
        r#""a": {"replicas": 0, "dp": 0, "tp": 3, "kv": {"block_size": 0}, "max_model_len": 1}"#,
        &[
            "deployment.pools.a.replicas: is 0",
            "deployment.pools.a.dp: is 0",
            "deployment.pools.a.tp: 3 does not divide",
            "deployment.pools.a.max_model_len: is 1",
            "deployment.pools.a.kv.block_size: is 0",
        ],
    );
    // What all pools take from the deployment is wrong once; what only some take, says which.
    of_deployment(r#""tp": 3, "pools": {"a": {}, "b": {}}"#, &["deployment.tp: 3 does not ... 1, 2, 4, 8, 16, 32"]);
    of_deployment(
        r#""tp": 3, "pools": {"a": {}, "b": {"tp": 1}, "c": {}}"#,
        &["deployment.tp: 3 does not ... (pools `a`, `c`)"],
    );
    of_deployment(r#""replicas": 0, "pools": {"a": {}}"#, &[]);
    // The memory of a pool, too.
    of_deployment(
        r#""kv": {"gpu_memory_utilization": 0.2}, "pools": {"a": {"tp": 4}, "b": {}}"#,
        &["deployment.kv.gpu_memory_utilization: no KV block fits ... 0.26 or more would do (pool `b`)"],
    );
    of_pools(
        r#""a": {"kv": {"gpu_memory_utilization": 0.2}}"#,
        &["deployment.pools.a.kv.gpu_memory_utilization: no KV block fits"],
    );
    of_pools(
        r#""a": {"latency": {"linear": {"base_us": 0, "per_prefill_token_us": 0, "per_decode_token_us": 1}}}"#,
        &["deployment.pools.a.latency.linear.base_us: is 0"],
    );
    of_pools(
        r#""a": {"replicas": 4294967295}, "b": {"replicas": 4294967295}"#,
        &["deployment.pools: 8589934590 engines in all; must be at most 1048576"],
    );
    of_deployment(r#""replicas": 2000000"#, &["deployment.replicas: 2000000 engines"]);
}

#[test]
fn facts_of_a_pool_are_found_at_the_name_that_chose_them() {
    let mut s = scenario(r#""pools": {"a": {"model": "m"}, "b": {}}"#, "");
    s.pools[0].model.layers = 0;
    s.pools[1].gpu.memory_gib = 0.0;
    expect(
        check(&s),
        &[
            "deployment.pools.a.model.layers: is 0",
            "deployment.pp: 1 stages for 0 layers ... (pool `a`)",
            "gpu.memory_gib: is 0; must be a number above 0 (pool `b`)",
        ],
    );
}

#[test]
fn names_of_pools_become_columns() {
    of_pools(
        r#""Big": {}, "2nd": {}, "a.b": {}, "ok-1_x": {}"#,
        &[
            "deployment.pools.2nd: names of pools begin with a letter",
            "deployment.pools.Big: names of pools",
            "deployment.pools.a.b: names of pools",
        ],
    );
    of_pools(
        r#""a-b": {}, "a-c": {}, "a_b": {}"#,
        &["deployment.pools.a_b: `a-b` and `a_b` would have the same columns"],
    );
}

#[test]
fn every_model_has_pools_that_finish_its_requests() {
    of_pools(
        r#""p": {"role": "prefill"}"#,
        &["deployment.pools.p.role: no decode pool takes over the prompts of `llama`"],
    );
    of_pools(r#""d": {"role": "decode"}"#, &["deployment.pools.d.role: no prefill pool computes"]);
    of_pools(r#""e": {"role": "encode"}"#, &["deployment.pools.e.role: no pool goes on"]);
    of_pools(r#""e": {"role": "encode"}, "m": {}"#, &[]);
    of_pools(&format!(r#"{SPLIT}, "e": {{"role": "encode"}}"#), &[]);
    of_pools(
        &format!("{SPLIT}, \"m\": {{}}"),
        &["deployment.pools.m.role: `llama` has prefill or decode pools beside"],
    );
    // Model by model.
    of_pools(&format!(r#"{SPLIT}, "m": {{"model": "moe", "tp": 2}}"#), &[]);
    of_pools(
        r#""p": {"role": "prefill"}, "d": {"role": "decode", "model": "moe"}"#,
        &[
            "deployment.pools.p.role: no decode",
            "deployment.pools.d.role: no prefill pool computes the prompts of `moe`",
        ],
    );
}

#[test]
fn a_watermark_must_leave_a_prompt() {
    // Nine tenths of ten blocks of one token: one token, and one more. All but a part of one block: none.
    let of = |scheduler: &str, problems: &[&str]| {
        of_deployment(&format!("{scheduler}, \"kv\": {{\"block_size\": 1, \"num_gpu_blocks\": 10}}"), problems);
    };
    of(r#""scheduler": {"sarathi": {"watermark_blocks_fraction": 0.9}}"#, &[]);
    of(r#""scheduler": {"vllm_v0": {"watermark": 0.9}}"#, &[]);
    // Half of the layers see 4 tokens, and a block: they hold 5 blocks whatever the length, and 5 must stay free.
    for (name, setting) in [("sarathi", "watermark_blocks_fraction"), ("vllm_v0", "watermark")] {
        let mut s = scenario(
            &format!(
                r#""scheduler": {{"{name}": {{"{setting}": 0.5}}}}, "kv": {{"block_size": 1, "num_gpu_blocks": 10}}"#
            ),
            "",
        );
        (s.model.sliding_window, s.model.window_layers) = (4, 16);
        expect(check(&s), &[&format!("deployment.scheduler.{name}.{setting}: leaves none of 10 blocks")]);
    }
}

#[test]
fn sglang_hands_over_to_sglang() {
    const SGLANG: &str = r#""scheduler": {"sglang": {}}"#;
    let of = |settings: &str, problems: &[&str]| {
        let pools = r#""pools": {"p": {"role": "prefill"}, "d": {"role": "decode"}}"#;
        of_deployment(&format!("{SGLANG}, {pools}{settings}"), problems);
    };
    of("", &[]);
    of(
        r#", "disaggregation": {"decider": "never", "first_token": "decode"}"#,
        &[
            "deployment.disaggregation.decider: must be always: a decode server of SGLang computes no prompts",
            "deployment.disaggregation.first_token: is decode: SGLang's first token comes from the prefill server",
        ],
    );
    of_deployment(
        r#""scheduler": {"sglang": {"schedule_policy": "random"}}, "pools": {"p": {"role": "prefill"}, "d": {"role": "decode"}}"#,
        &[
            "deployment.pools.d.role: schedule_policy random shuffles the queue",
            "deployment.pools.p.role: schedule_policy random shuffles the queue",
        ],
    );
    of_deployment(
        &format!(r#""pools": {{"p": {{"role": "prefill", {SGLANG}}}, "d": {{"role": "decode"}}}}"#),
        &["deployment.pools.p.scheduler: SGLang hands KV caches over to SGLang alone: all prefill and decode pools"],
    );
}

#[test]
fn the_queueing_model_hands_nothing_over() {
    const RATES: &str = r#""latency": {"rates": {"prefill_tokens_per_s": 1, "decode_tokens_per_s": 1}}"#;
    let of = |settings: &str, problems: &[&str]| of_deployment(&format!("{RATES}, {settings}"), problems);
    const EXCLUSIVE: &str = r#""scheduler": {"exclusive": {}}"#;
    of(&format!(r#""pools": {{"m": {{{EXCLUSIVE}}}}}"#), &[]);
    of(
        &format!(r#""pools": {{"p": {{"role": "prefill", {EXCLUSIVE}}}, "d": {{"role": "decode"}}}}"#),
        &[
            "deployment.pools.p.scheduler: the exclusive scheduler has no KV cache to hand over or to take, so no prefill",
        ],
    );
    of(
        &format!(r#"{EXCLUSIVE}, "pools": {{"e": {{"role": "encode"}}, "m": {{}}}}"#),
        &[
            "deployment.pools.e.role: the exclusive scheduler has no KV cache ... so no encode pool can have it; its own \
           two stages are `decode_servers`, in a `mixed` pool",
        ],
    );
    of(
        &format!(r#""pools": {{{SPLIT}, "q": {{"model": "moe", {EXCLUSIVE}}}}}"#),
        &["deployment.pools.q.scheduler: the exclusive scheduler has no KV cache, and so no place beside decode pools"],
    );
}

#[test]
fn whole_experts_need_experts_that_divide() {
    const ON: &str = r#""enable_expert_parallel": true"#;
    of_deployment(ON, &["deployment.enable_expert_parallel: `llama` has no experts"]);
    of_pools(
        &format!(r#""a": {{{ON}}}, "b": {{{ON}, "model": "moe"}}"#),
        &["deployment.pools.a.enable_expert_parallel: `llama` has no experts"],
    );
    let moe = |settings: &str| {
        format!(r#""kv": {{"num_gpu_blocks": 100}}, "pools": {{"a": {{"model": "moe", {ON}, {settings}}}}}"#)
    };
    of_deployment(&moe(r#""tp": 2, "dp": 4"#), &[]);
    of_deployment(
        &moe(r#""tp": 2, "dp": 3"#),
        &[
            "deployment.pools.a.dp: tp 2 x dp 3 = 6 GPUs cannot hold as many of the 8 experts each ... one of 1, 2, 4, 8",
        ],
    );
    of_deployment(&moe(r#""tp": 16"#), &["deployment.pools.a.tp: tp 16 x dp 1 = 16 GPUs"]);
}

#[test]
fn routers_have_bounds() {
    let of = |router: &str, problems: &[&str]| of_deployment(&format!("\"router\": {router}"), problems);
    for good in [
        r#""lop""#,
        r#"{"tolerant_sticky_lop_uncached": {}}"#,
        r#"{"ranked_sticky_lop_uncached": {}}"#,
        r#"{"prefix_affinity": {"cache_threshold": 0, "balance_abs_threshold": 0}}"#,
        r#"{"kv_aware": {"overlap_weight": 0}}"#,
        r#"{"weighted": {}}"#,
        r#"{"weighted": {"scorers": {"lora-affinity": 0.1}}}"#,
    ] {
        of(good, &[]);
    }
    of(
        r#"{"tolerant_sticky_lop_uncached": {"tolerance_factor": 0.9}}"#,
        &["deployment.router.tolerant_sticky_lop_uncached.tolerance_factor: is 0.9; must be 1 or more"],
    );
    of(
        r#"{"ranked_sticky_lop_uncached": {"top_k": 0}}"#,
        &["deployment.router.ranked_sticky_lop_uncached.top_k: is 0; must be at least 1"],
    );
    of(
        r#"{"prefix_affinity": {"cache_threshold": 1.5, "balance_rel_threshold": 0.5, "capacity": 0}}"#,
        &[
            "deployment.router.prefix_affinity.cache_threshold: is 1.5; must be 0 to 1",
            "deployment.router.prefix_affinity.balance_rel_threshold: is 0.5; must be 1 or more",
            "deployment.router.prefix_affinity.capacity: is 0",
        ],
    );
    of(
        r#"{"kv_aware": {"overlap_weight": -1, "temperature": -0.5}}"#,
        &[
            "deployment.router.kv_aware.overlap_weight: is -1; must be 0 or more",
            "deployment.router.kv_aware.temperature: is -0.5; must be 0 or more",
        ],
    );
    of(
        r#"{"weighted": {"scorers": {"queue-depth": -1}, "capacity": 0, "max_loras": 0}}"#,
        &[
            "deployment.router.weighted.capacity: is 0",
            "deployment.router.weighted.max_loras: is 0",
            "deployment.router.weighted.scorers.queue-depth: is -1; must be 0 or more",
        ],
    );
    of(
        r#"{"weighted": {"scorers": {}}}"#,
        &[
            "deployment.router.weighted.scorers: all weights are 0; give one of precise-prefix-cache, ... a weight above 0",
        ],
    );
    of_deployment(
        r#""disaggregation": {"decode_router": {"ranked_sticky_lop_uncached": {"top_k": 0}}}"#,
        &["deployment.disaggregation.decode_router.ranked_sticky_lop_uncached.top_k: is 0"],
    );
    let mut s = scenario_8b();
    let scorers = Scorers { load_aware: f64::NAN, ..Scorers::default() };
    s.deployment.router = Router::Weighted(Weighted { scorers: Some(scorers), ..Weighted::default() });
    expect(check(&s), &["deployment.router.weighted.scorers.load-aware: is NaN; must be 0 or more"]);
}

#[test]
fn transfers_and_signals_have_bounds() {
    let of = |settings: &str, problems: &[&str]| of_deployment(settings, problems);
    // Without prefill pools they have nothing to do, which is no mistake.
    of(
        r#""disaggregation": {"transfer": {"bandwidth_gb_per_s": 0.001, "latency_us": 0, "contention": "fabric"}}"#,
        &[],
    );
    of(
        r#""disaggregation": {"transfer": {"bandwidth_gb_per_s": 0, "latency_us": -1}}"#,
        &[
            "deployment.disaggregation.transfer.bandwidth_gb_per_s: is 0; must be 0.001 to 1000000 GB/s",
            "deployment.disaggregation.transfer.latency_us: is -1; must be 0 to 60000000 microseconds",
        ],
    );
    of(r#""signals": {"refresh_ms": 50, "delay_ms": 2}"#, &[]);
    of(r#""signals": {"delay_ms": 2}"#, &["deployment.signals.delay_ms: what is looked at at every decision"]);
    of(
        r#""signals": {"refresh_ms": -1, "delay_ms": -2}"#,
        &[
            "deployment.signals.refresh_ms: is -1; must be 0, or 0.001 to 3600000 milliseconds",
            "deployment.signals.delay_ms: is -2; must be 0 to 3600000 milliseconds",
        ],
    );
    of(r#""signals": {"refresh_ms": 0.0001}"#, &["deployment.signals.refresh_ms: is 0.0001"]);
}

#[test]
fn drafts_have_bounds_and_limits() {
    let eagle = |more: &str| {
        format!(
            r#""speculative": {{"method": "eagle", "num_speculative_tokens": 3, "acceptance": {{"rate": 0.7}}{more}}}"#
        )
    };
    of_deployment(&eagle(""), &[]);
    of_deployment(&eagle(r#", "draft_us": 300.5, "draft_share": 0.05"#), &[]);
    let of = |method: &str, tokens: u32, acceptance: &str| {
        let acceptance = format!(r#""acceptance": {{{acceptance}}}"#);
        format!(r#""speculative": {{"method": "{method}", "num_speculative_tokens": {tokens}, {acceptance}}}"#)
    };
    for tokens in [0, 65] {
        of_deployment(&of("mtp", tokens, r#""rate": 0.7"#), &["deployment.speculative.num_speculative_tokens"]);
    }
    for wrong in
        [r#""rate": 1.5"#, r#""rate": -0.1"#, r#""rates": [0.5]"#, r#""rates": [0.5, 0.6]"#, r#""rates": [2, 1]"#]
    {
        of_deployment(&of("ngram", 2, wrong), &["deployment.speculative.acceptance"]);
    }
    of_deployment(&of("draft_model", 2, r#""rates": [0.8, 0.8]"#), &[]);
    let ranges = "deployment.speculative.num_speculative_tokens_per_batch_size";
    of_deployment(&eagle(r#", "num_speculative_tokens_per_batch_size": [[1, 16, 3], [17, 64, 4]]"#), &[ranges]);
    of_deployment(&eagle(r#", "num_speculative_tokens_per_batch_size": [[1, 16, 3], [17, 64, 0]]"#), &[]);
    for (field, value) in [("draft_us", "-1"), ("draft_us", "1e9"), ("draft_share", "1.5")] {
        of_deployment(&eagle(&format!(r#", "{field}": {value}"#)), &[&format!("deployment.speculative.{field}")]);
    }
    let passes = r#""method": "ngram", "num_speculative_tokens": 3, "acceptance": {"rate": 0.7}, "draft_share": 0.1"#;
    of_deployment(&format!(r#""speculative": {{{passes}}}"#), &["deployment.speculative.draft_share"]);
    let ahead = format!(r#"{}, "scheduler": {{"vllm_v1": {{"async_scheduling": true}}}}"#, eagle(""));
    of_deployment(&ahead, &["deployment.scheduler.vllm_v1.async_scheduling"]);
    let rates = r#""latency": {"rates": {"prefill_tokens_per_s": 1e3, "decode_tokens_per_s": 1e2}}"#;
    let servers = format!(r#"{}, "scheduler": {{"exclusive": {{}}}}, {rates}"#, eagle(""));
    of_deployment(&servers, &["deployment.scheduler"]);
}

#[test]
fn ranks_draft_alike() {
    let ranges = r#""num_speculative_tokens_per_batch_size": [[1, 16, 3], [17, 64, 0]]"#;
    let drafts =
        format!(r#"{{"method": "mtp", "num_speculative_tokens": 3, "acceptance": {{"rate": 0.7}}, {ranges}}}"#);
    for (dp, changed) in [(1, 0), (2, 1)] {
        let s = scenario(&format!(r#""dp": {dp}, "speculative": {drafts}"#), "");
        let changes = crate::sim::changes(&s);
        assert_eq!(changes.len(), changed, "{changes:?}");
        let settled = s.sites()[0].deployment.speculative.clone().unwrap();
        assert_eq!(settled.num_speculative_tokens_per_batch_size.is_empty(), dp > 1);
    }
}

#[test]
fn what_a_trace_says_of_drafts_is_a_probability() {
    let (s, stop) = (scenario_8b(), std::sync::atomic::AtomicBool::new(false));
    for (acceptance, valid) in [(0.0, true), (1.0, true), (1.1, false), (f64::NAN, false)] {
        let requests = crate::request::Requests {
            arrival: vec![crate::units::SimTime(0)],
            input_tokens: vec![1],
            output_tokens: vec![2],
            acceptance: vec![Some(acceptance)],
            ..Default::default()
        };
        let found = crate::sim::simulate(&s, &requests, &mut crate::sim::swarm::Rows::default(), &stop);
        assert_eq!(found.is_ok(), valid, "{acceptance}");
    }
}

#[test]
fn users_who_wait_have_no_rate() {
    of_load(r#""concurrency": 1, "think_time": {"constant": {"s": 0}}"#, &[]);
    of_load(r#""sessions": "closed", "rate_rps": 2, "arrivals": "poisson""#, &[]);
    of_load(
        r#""concurrency": 0, "rate_rps": 2, "arrivals": "poisson""#,
        &["workload.concurrency: is 0", "workload.rate_rps: users who wait", "workload.arrivals: users who wait"],
    );
    for (time, problem) in [
        (r#"{"constant": {"s": -1}}"#, "constant.s: is -1; must be 0 to 1000000 seconds"),
        (r#"{"uniform": {"min_s": 3, "max_s": 2}}"#, "uniform.max_s: is 2; must be 3 to 1000000 seconds"),
        (r#"{"uniform": {"min_s": -3, "max_s": 2}}"#, "uniform.min_s: is -3; must be 0"),
        (r#"{"exponential": {"mean_s": 1e7}}"#, "exponential.mean_s: is 10000000; must be 0 to 1000000 seconds"),
        (r#"{"lognormal": {"mean_s": 0, "cv": 1}}"#, "lognormal.mean_s: is 0; must be above 0"),
        (r#"{"lognormal": {"mean_s": 2, "cv": -1}}"#, "lognormal.cv: is -1; must be 0 to 100"),
    ] {
        of_load(&format!("\"think_time\": {time}"), &[&format!("workload.think_time.{problem}")]);
    }
    for good in [r#"{"uniform": {"min_s": 2, "max_s": 2}}"#, r#"{"lognormal": {"mean_s": 2, "cv": 0}}"#] {
        of_load(&format!("\"think_time\": {good}"), &[]);
    }
}

#[test]
fn blocks_of_every_pool_fit_those_of_the_trace() {
    let requests =
        Requests { block_tokens: 512, block_hashes: vec![1], block_hash_offsets: vec![0, 1], ..Requests::default() };
    let of = |deployment: &str, problems: &[&str]| {
        expect(check_requests(&scenario(deployment, ""), &requests), problems);
    };
    of("", &[]);
    of(r#""kv": {"block_size": 48}"#, &["deployment.kv.block_size: 48 neither divides ... caching to false"]);
    of(
        r#""kv": {"block_size": 48}, "pools": {"a": {}, "b": {"kv": {"block_size": 7}}, "c": {"kv": {}}}"#,
        &["deployment.kv.block_size: 48 neither ... (pool `a`)", "deployment.pools.b.kv.block_size: 7 neither"],
    );
    of(r#""kv": {"block_size": 48, "enable_prefix_caching": false}"#, &[]);
    let none = Requests::default();
    expect(check_requests(&scenario(r#""kv": {"block_size": 48}"#, ""), &none), &[]);
}

#[test]
fn key_value_heads_are_whole_or_shared_evenly() {
    // Qwen2.5 7B: 28 heads that share 4. Seven GPUs would have four heads each, of keys and values that nobody can share.
    let of = |tp: u32, mla: bool| {
        let mut s = scenario(&format!(r#""tp": {tp}, "kv": {{"num_gpu_blocks": 100}}"#), "");
        (s.model.heads, s.model.kv_heads) = (28, 4);
        s.model.mla =
            mla.then_some(crate::scenario::Mla { q_rank: 0, kv_rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 });
        check(&s)
    };
    for tp in [1, 2, 4, 28] {
        expect(of(tp, false), &[]);
    }
    expect(of(7, false), &["deployment.tp: 7 neither divides the 4 key-value heads ... valid are 1, 2, 4, 28"]);
    expect(of(7, true), &[]);
}

#[test]
fn layers_with_a_window_and_without_a_cache_are_some_of_all() {
    let of = |edit: &dyn Fn(&mut ModelSpec)| {
        let mut s = scenario("", "");
        edit(&mut s.model);
        check(&s)
    };
    expect(of(&|m| (m.sliding_window, m.window_layers, m.linear_layers) = (128, 8, 24)), &[]);
    expect(
        of(&|m| (m.sliding_window, m.window_layers, m.linear_layers) = (128, 9, 24)),
        &["model.window_layers: is 9, of 8 layers"],
    );
    expect(of(&|m| m.window_layers = 8), &["model.window_layers: needs sliding_window"]);
    expect(of(&|m| m.linear_layers = 32), &["model.linear_layers: is 32 of 32 layers"]);
    expect(of(&|m| m.first_dense = 32), &[]);
    expect(of(&|m| m.first_dense = 33), &["model.first_dense: is 33 of 32 layers"]);
    expect(of(&|m| m.moe_every = 0), &["model.moe_every: is 0"]);
    expect(of(&|m| m.other_params_b = -1.0), &["model.other_params_b: is -1"]);
}

#[test]
fn tiers_must_hold_something_and_move_it() {
    type Edit = fn(&mut Scenario);
    fn tier() -> Tier {
        Tier { device: Some(Device::CpuDram), capacity_gib: Some(1.0), ..Tier::default() }
    }
    let cases: &[(Edit, &[&str])] = &[
        (|s| s.deployment.kv.tiers = vec![tier()], &[]),
        (
            |s| s.deployment.kv.tiers = vec![tier(), Tier::default()],
            &["1.capacity_gib", "1.read_gb_per_s", "1.write_gb_per_s"],
        ),
        (
            |s| {
                let none = Tier { read_gb_per_s: Some(0.0), write_gb_per_s: Some(f64::NAN), ..tier() };
                s.deployment.kv.tiers = vec![Tier { capacity_gib: Some(0.0), ..none }];
            },
            &["0.capacity_gib", "0.read_gb_per_s", "0.write_gb_per_s"],
        ),
        // A block of 16 tokens has 2 MiB.
        (|s| s.deployment.kv.tiers = vec![Tier { capacity_gib: Some(0.001), ..tier() }], &["0.capacity_gib"]),
        (|s| s.deployment.kv.tiers = vec![Tier { capacity_gib: Some(0.002), ..tier() }], &[]),
        (|s| s.deployment.kv.tiers = vec![Tier { capacity_blocks: Some(5), ..tier() }], &["0.capacity_blocks"]),
        (|s| s.deployment.kv.tiers = vec![Tier { block_size: Some(40), ..tier() }], &["0.block_size"]),
        (|s| s.deployment.kv.tiers = vec![Tier { block_size: Some(48), ..tier() }], &[]),
        (
            |s| {
                let write = WritePolicy::OnEvict;
                s.deployment.kv.tiers = vec![Tier { block_size: Some(48), write, ..tier() }];
            },
            &["0.write"],
        ),
        (|s| s.deployment.kv.tiers = vec![Tier { prefetch: true, blocking: true, ..tier() }], &["0.prefetch"]),
        (|s| s.deployment.kv.tiers = vec![Tier { concurrency: 0, ..tier() }], &["0.concurrency"]),
        (|s| s.deployment.kv.tiers = vec![Tier { latency_us: Some(-1.0), ..tier() }], &["0.latency_us"]),
        (|s| s.deployment.kv.tiers = vec![Tier { contends_with_steps: 11.0, ..tier() }], &["0.contends_with_steps"]),
        (
            |s| {
                let replacement = Replacement::Ttl(Ttl { s: 0.0 });
                s.deployment.kv.tiers = vec![Tier { replacement, ..tier() }];
            },
            &["0.replacement.ttl.s"],
        ),
        (
            |s| {
                s.deployment.kv.tiers = vec![tier()];
                s.deployment.kv.enable_prefix_caching = false;
            },
            &[""],
        ),
        (
            |s| {
                s.deployment.kv.tiers = vec![tier()];
                s.deployment.scheduler = Scheduler::Exclusive(Exclusive::default());
                s.deployment.latency = Latency::Rates(Rates { prefill_tokens_per_s: 1e3, decode_tokens_per_s: 1e2 });
            },
            &[""],
        ),
    ];
    for (at, (edit, expect)) in cases.iter().enumerate() {
        let mut s = scenario_8b();
        edit(&mut s);
        let found: Vec<String> = check(&s).err().unwrap_or_default().iter().map(ToString::to_string).collect();
        let paths: Vec<&str> = found.iter().filter_map(|f| Some(f.split_once(": ")?.0)).collect();
        let expect: Vec<String> =
            expect.iter().map(|path| format!("deployment.kv.tiers.{path}").trim_end_matches('.').to_string()).collect();
        assert_eq!(paths, expect, "case {at}: {found:?}");
    }
    let mut s = scenario_8b();
    s.deployment.kv.tiers = vec![tier()];
    let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { panic!("another scheduler") };
    rules.recompute_full_hits = false;
    let found = check(&s).unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].to_string().starts_with("deployment.scheduler.vllm_v1.recompute_full_hits: "), "{}", found[0]);
    // Stored blocks must go with those of the trace, too.
    let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { panic!("another scheduler") };
    rules.recompute_full_hits = true;
    s.deployment.kv.tiers[0].block_size = Some(48);
    let r = Requests { block_tokens: 16, block_hashes: vec![1], block_hash_offsets: vec![0, 1], ..Requests::default() };
    assert_eq!(check_requests(&s, &r), Ok(()));
    let found = check_requests(&s, &Requests { block_tokens: 64, ..r }).unwrap_err();
    assert!(found[0].to_string().starts_with("deployment.kv.tiers.0.block_size: "), "{}", found[0]);
}
