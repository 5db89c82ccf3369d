//! Routers, pools and sessions as a user runs them: the example pipelines with their queries, and a pool's settings by
//! their dotted paths.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::project::{Project, text};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn all_cached(project: &Project, file: &str) {
    let actions = project.actions(&[file]);
    assert!(!actions.is_empty() && actions.iter().all(|(_, action)| action == "cached"), "{actions:?}");
}

#[test]
fn routers_differ_in_what_they_find_in_caches_and_in_what_they_balance() {
    let project = Project::new();
    let file = "pipelines/routing.yaml";
    project.run(&["run", file]).ok();

    // policies.sql
    let rows = project.rows("SELECT * FROM routing.policies");
    assert_eq!(rows.len(), 8);
    let names: BTreeSet<String> = rows.iter().map(|r| text(&r["policy"])).collect();
    let expect = "kv_aware least_outstanding least_tokens power_of_two prefix_affinity round_robin sticky_lop weighted";
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>().join(" "), expect);
    let of = |policy: &str, column: &str| number(&rows.iter().find(|r| r["policy"] == policy).expect(policy)[column]);
    assert!(rows.is_sorted_by_key(|r| number(&r["ttft_ms_p99"])), "{rows:?}");
    for row in &rows {
        let value = |column: &str| number(&row[column]);
        assert!((0.0..1.0).contains(&value("hit_rate")), "{row}");
        // The busiest of eight replicas has at least the mean of them, and at most everything.
        assert!((1.0..=8.0).contains(&value("imbalance")), "{row}");
        assert!(value("ttft_ms_p50") > 0.0 && value("ttft_ms_p50") <= value("ttft_ms_p99"), "{row}");
        assert!(value("ttft_ms_p99") <= value("e2e_ms_p99"), "{row}");
    }
    // Who looks into caches, or keeps a conversation where it is, finds more there than who does not.
    for aware in ["kv_aware", "weighted", "sticky_lop", "prefix_affinity"] {
        for blind in ["round_robin", "least_outstanding", "power_of_two", "least_tokens"] {
            assert!(of(aware, "hit_rate") > of(blind, "hit_rate"), "{aware}, {blind}: {rows:?}");
        }
    }
    let best = of("kv_aware", "ttft_ms_p99").min(of("weighted", "ttft_ms_p99"));
    assert!(best < of("round_robin", "ttft_ms_p99"), "{rows:?}");

    // regret.sql
    let regret = project.rows("SELECT * FROM routing.regret");
    assert_eq!(regret.iter().map(|r| text(&r["policy"])).collect::<BTreeSet<_>>(), names);
    assert!(regret.is_sorted_by_key(|r| number(&r["regret_tokens_mean"])), "{regret:?}");
    for row in &regret {
        assert_eq!(row["decisions"], 3000);
        assert!((0.0..=1.0).contains(&number(&row["chose_the_least"])), "{row}");
        assert!(number(&row["regret_tokens_mean"]) >= 0.0 && number(&row["regret_tokens_p99"]) >= 0.0, "{row}");
    }

    // Every request of every scenario has one decision among eight candidates, one of them chosen: where it then ran.
    let decisions = project.rows(
        "SELECT count(*) AS decisions, min(candidates) AS fewest, max(candidates) AS most, sum(chosen) AS chosen, \
                min(regret) AS regret, sum(elsewhere) AS elsewhere, sum(wrong) AS wrong \
         FROM (SELECT count(DISTINCT r.replica) AS candidates, sum(CASE WHEN r.chosen THEN 1 ELSE 0 END) AS chosen, \
                      min(r.regret_tokens) AS regret, \
                      sum(CASE WHEN r.chosen AND r.replica <> q.replica THEN 1 ELSE 0 END) AS elsewhere, \
                      max(CASE WHEN r.chosen THEN r.backlog_tokens END) - min(r.backlog_tokens) - max(r.regret_tokens) AS wrong \
               FROM routing.sim_routes r \
               JOIN routing.sim_requests q ON q.scenario_id = r.scenario_id AND q.request_id = r.request_id \
               GROUP BY r.scenario_id, r.request_id)",
    );
    let expect = serde_json::json!({
        "decisions": 8 * 3000, "fewest": 8, "most": 8, "chosen": 8 * 3000, "regret": 0, "elsewhere": 0, "wrong": 0
    });
    assert_eq!(decisions[0], expect);
    let scored = project.rows(
        "SELECT s.deployment_router AS policy, count(r.score) AS scores FROM routing.sim_routes r \
         JOIN routing.sim s ON s.scenario_id = r.scenario_id GROUP BY s.deployment_router",
    );
    for row in &scored {
        let compares = match text(&row["policy"]).as_str() {
            "round_robin" => number(&row["scores"]) == 0.0,
            // The two that it drew; the session's replica without a look.
            "power_of_two" | "sticky_lop" => number(&row["scores"]) < 8.0 * 8.0 * 3000.0,
            _ => number(&row["scores"]) == 8.0 * 3000.0,
        };
        assert!(compares, "{scored:?}");
    }

    // A turn is sent when the one before it is done.
    let early = project.rows(
        "SELECT count(*) AS turns, sum(CASE WHEN turn.arrival_ns < before.finished_ns THEN 1 ELSE 0 END) AS early \
         FROM routing.sim_requests turn \
         JOIN routing.talks t ON t.request_id = turn.request_id \
         JOIN routing.talks b ON b.session_id = t.session_id AND b.turn = t.turn - 1 \
         JOIN routing.sim_requests before ON before.scenario_id = turn.scenario_id AND before.request_id = b.request_id",
    );
    assert!(number(&early[0]["turns"]) > 8.0 * 1000.0, "{early:?}");
    assert_eq!(early[0]["early"], 0);

    all_cached(&project, file);
}

#[test]
fn long_prompts_want_gpus_of_their_own_and_short_ones_do_not() {
    let project = Project::new();
    let file = "pipelines/disaggregation.yaml";
    project.run(&["run", file]).ok();

    // splits.sql
    let rows = project.rows("SELECT * FROM disaggregation.splits");
    assert_eq!(rows.len(), 12);
    for (length, splits) in ["short", "middle", "long"].into_iter().zip(rows.chunks(4)) {
        assert!(splits.iter().all(|r| r["prompts"] == length), "{splits:?}");
        let names: Vec<String> = splits.iter().map(|r| text(&r["split"])).collect();
        assert_eq!(names, ["8", "2+6", "4+4", "6+2"]);
        for (i, row) in splits.iter().enumerate() {
            assert!((0.0..=1.0).contains(&number(&row["goodput"])), "{row}");
            assert_eq!(row["kv_transfer_ms_mean"].is_null(), i == 0, "{row}");
            assert!(i == 0 || number(&row["kv_transfer_ms_mean"]) > 0.0, "{row}");
        }
    }
    assert!(rows.is_sorted_by_key(|r| number(&r["prompt_tokens"])), "{rows:?}");

    // crossover.sql
    let rows = project.rows("SELECT * FROM disaggregation.crossover");
    assert_eq!(rows.iter().map(|r| text(&r["prompts"])).collect::<Vec<_>>(), ["short", "middle", "long"]);
    assert_eq!((&rows[0]["split_wins"], &rows[2]["split_wins"]), (&Value::Bool(false), &Value::Bool(true)), "{rows:?}");
    for row in &rows {
        assert_ne!(row["best_split"], "8");
        let (split, whole) = (number(&row["split_goodput"]), number(&row["whole_goodput"]));
        assert!(if row["split_wins"] == true { split >= whole } else { split <= whole }, "{row}");
    }

    // A prompt is a part of its request, a reply the other, and replicas of the decode pool only decode.
    for (stage, requests) in [("sim_short", 2400), ("sim_middle", 600), ("sim_long", 600)] {
        let pools = project.rows(&format!(
            "SELECT p.*, s.gpus AS gpus_of_all, s.transfers, r.prompt_tokens, r.reply_tokens \
             FROM disaggregation.{stage}_pools p JOIN disaggregation.{stage} s ON s.scenario_id = p.scenario_id \
             JOIN (SELECT scenario_id, sum(input_tokens - cached_tokens) AS prompt_tokens, \
                          sum(output_tokens) AS reply_tokens \
                   FROM disaggregation.{stage}_requests GROUP BY scenario_id) r ON r.scenario_id = p.scenario_id \
             ORDER BY p.scenario_id, p.pool"
        ));
        assert_eq!(pools.len(), 1 + 3 * 2);
        let (whole, split) = pools.split_at(1);
        assert_eq!((&whole[0]["pool"], &whole[0]["role"]), (&Value::from("default"), &Value::from("mixed")));
        assert_eq!((&whole[0]["requests"], &whole[0]["replicas"]), (&requests.into(), &8.into()));
        assert_eq!(whole[0]["transfers"], 0);
        for pair in split.chunks(2) {
            let [decode, prefill] = pair else { panic!("{pair:?}") };
            assert_eq!((&decode["role"], &prefill["role"]), (&Value::from("decode"), &Value::from("prefill")));
            assert_eq!((&decode["requests"], &prefill["requests"]), (&requests.into(), &requests.into()), "{stage}");
            assert_eq!(number(&decode["gpus"]) + number(&prefill["gpus"]), number(&decode["gpus_of_all"]));
            assert_eq!((&decode["replica_first"], &prefill["replica_first"]), (&0.into(), &decode["replicas"]));
            assert_eq!((&decode["transfers"], &decode["gpus_of_all"]), (&requests.into(), &8.into()));
            // Nobody is preempted here: prompts are computed once, and the first token of a reply comes with its prompt.
            assert_eq!((&decode["prefill_tokens"], &prefill["decode_tokens"]), (&0.into(), &0.into()), "{stage}");
            assert_eq!(prefill["prefill_tokens"], prefill["prompt_tokens"], "{stage}");
            assert_eq!(number(&decode["decode_tokens"]), number(&decode["reply_tokens"]) - f64::from(requests));
        }
    }

    // The prompt is done, the KV cache comes, then the client has the first token; the pools are those of the replicas.
    let order = project.rows(
        "SELECT count(*) AS n, sum(CASE WHEN prefilled_ns < kv_ready_ns AND kv_ready_ns <= first_token_ns THEN 0 ELSE 1 END) \
                AS wrong, count(DISTINCT pool) AS pools, min(pool) AS pool \
         FROM disaggregation.sim_long_requests WHERE prefill_replica IS NOT NULL",
    );
    assert_eq!(order[0], serde_json::json!({ "n": 3 * 600, "wrong": 0, "pools": 1, "pool": "decode" }));

    all_cached(&project, file);
}

/// Prompts elsewhere than replies, in pools whose sizes are set from without.
const POOLS: &str = "\
name: pools
seed: 3
stages:
  trace:
    synthesize:
      requests: 120
      rate_rps: 20
      input: { normal: { mean: 1500, std: 300, min: 16 } }
      output: { constant: { tokens: 40 } }
  sim:
    simulate:
      requests: trace
      routes: true
      deployment:
        model: meta-llama/Llama-3.1-8B
        gpu: l40s
        router: least_outstanding
        pools:
          decode: { role: decode, replicas: 2, kv: { num_gpu_blocks: 4000 } }
          prefill: { role: prefill, replicas: 1, gpu: h100-sxm }
        disaggregation: { transfer: { contention: fabric } }
";

#[test]
fn the_settings_of_a_pool_are_set_and_swept_like_any_other() {
    let project = Project::new();
    let file = "pipelines/pools.yaml";
    let sweep = "      sweep: { grid: { deployment.pools.decode.replicas: [1, 3], deployment.disaggregation.first_token: [prefill, transfer] } }\n";
    project.write(file, POOLS);
    let replicas = "stages.sim.simulate.deployment.pools.decode.replicas";

    project.run(&["run", file]).ok();
    let pools = project.rows("SELECT pool, replicas, gpu, gpus FROM pools.sim_pools ORDER BY pool");
    let expect = |decode: u32| {
        serde_json::json!([
            { "pool": "decode", "replicas": decode, "gpu": "l40s", "gpus": decode },
            { "pool": "prefill", "replicas": 1, "gpu": "h100-sxm", "gpus": 1 },
        ])
    };
    assert_eq!(Value::from(pools), expect(2));

    let show = project.run(&["show", "pools.sim", "--rows", "1"]).ok().out;
    let caches: Vec<&str> = show.lines().filter(|line| line.starts_with("pool ")).collect();
    assert_eq!(caches.len(), 2, "{show}");
    assert_eq!(
        caches[0],
        "pool decode: KV cache of meta-llama/Llama-3.1-8B on l40s, tp 1: given: 4,000 blocks of 16 tokens"
    );
    assert!(
        caches[1].starts_with("pool prefill: KV cache of meta-llama/Llama-3.1-8B on h100-sxm, tp 1: 80 GiB"),
        "{show}"
    );
    assert!(show.contains("deployment_pools_decode_kv_num_gpu_blocks"), "{show}");

    // `--set` says what changes, and changes it.
    let set = format!("{replicas}=3");
    let plan = project.run(&["plan", file, "--set", &set]).ok().out;
    assert!(plan.contains("config `base.deployment.pools.decode.replicas` changed (2 -> 3)"), "{plan}");
    project.run(&["run", file, "--set", &set]).ok();
    let pools = project.rows("SELECT pool, replicas, gpu, gpus FROM pools.sim_pools ORDER BY pool");
    assert_eq!(Value::from(pools), expect(3));
    let wrong = project.run(&["check", file, "--set", "stages.sim.simulate.deployment.pools.decode.replica=3"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains("replicas"), "{}", wrong.err);

    // A sweep over the same path: a column, and scenarios that it names.
    project.write("pipelines/swept.yaml", &format!("{}{sweep}", POOLS.replace("name: pools", "name: swept")));
    project.run(&["run", "pipelines/swept.yaml"]).ok();
    let rows = project.rows(
        "SELECT deployment_pools_decode_replicas AS decode, deployment_disaggregation_first_token AS first, gpus, engines, \
                finished, ttft_ms_p50 \
         FROM swept.sim ORDER BY scenario_id",
    );
    let named: Vec<(u64, String)> =
        rows.iter().map(|r| (r["decode"].as_u64().expect("a number"), text(&r["first"]))).collect();
    let expect = [(1, "prefill"), (1, "transfer"), (3, "prefill"), (3, "transfer")].map(|(n, f)| (n, f.to_string()));
    assert_eq!(named, expect);
    for pair in rows.chunks(2) {
        assert!(pair.iter().all(|r| r["gpus"] == number(&r["decode"]) as u64 + 1 && r["gpus"] == r["engines"]));
        assert!(pair.iter().all(|r| r["finished"] == 120), "{pair:?}");
        // The client that has the first token from the prefill replica does not wait for the KV cache.
        assert!(number(&pair[0]["ttft_ms_p50"]) < number(&pair[1]["ttft_ms_p50"]), "{pair:?}");
    }
    // A decision for the reply among one or three candidates, and one for the prompt.
    let routes = project.rows(
        "SELECT scenario_id, role, pool, count(*) AS n, sum(CASE WHEN chosen THEN 1 ELSE 0 END) AS chosen \
         FROM swept.sim_routes GROUP BY scenario_id, role, pool ORDER BY scenario_id, role",
    );
    assert_eq!(routes.len(), 4 * 2);
    for row in &routes {
        let decode = row["role"] == "decode";
        let candidates = if decode && row["scenario_id"].as_u64() >= Some(2) { 3 } else { 1 };
        assert_eq!((&row["pool"], &row["n"], &row["chosen"]), (&row["role"], &(candidates * 120).into(), &120.into()));
    }
}

#[test]
fn every_engine_answers_at_every_load() {
    let project = Project::new();
    let file = "pipelines/engines.yaml";
    project.run(&["run", file]).ok();
    let rows = project.rows("SELECT * FROM engines.answer");
    let engines = ["faster_transformer", "lightllm", "orca", "sarathi", "sglang", "trtllm", "vllm_v0", "vllm_v1"];
    assert_eq!(rows.len(), 4 * engines.len());
    for (at_load, rate) in rows.chunks(engines.len()).zip([2.0, 4.0, 6.0, 8.0]) {
        assert_eq!(at_load.iter().map(|r| text(&r["engine"])).collect::<Vec<_>>(), engines);
        for row in at_load {
            assert_eq!(number(&row["rate_rps"]), rate);
            for (low, high) in [("ttft_ms_p50", "ttft_ms_p99"), ("tpot_ms_p50", "tpot_ms_p99")] {
                assert!(0.0 < number(&row[low]) && number(&row[low]) <= number(&row[high]), "{row}");
            }
            assert!((0.0..=1.0).contains(&number(&row["kv_used"])) && number(&row["output_tps"]) > 0.0, "{row}");
            // These engines share no prefixes.
            let shares =
                !["faster_transformer", "lightllm", "orca", "sarathi", "vllm_v0"].contains(&&*text(&row["engine"]));
            assert_eq!(row["hit_rate"].as_f64().is_some_and(|rate| rate > 0.0), shares, "{row}");
        }
        // A static batch keeps who comes later waiting until its last reply is done.
        let ttft = |engine: &str| at_load.iter().find(|r| r["engine"] == engine).map(|r| number(&r["ttft_ms_p50"]));
        assert!(ttft("faster_transformer") > ttft("vllm_v1"), "{at_load:?}");
    }
    all_cached(&project, file);
}
