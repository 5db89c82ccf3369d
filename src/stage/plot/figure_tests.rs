//! Every ready-made figure over small tables: rows that are worked out by hand, and a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::csv::WriterBuilder;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

use super::*;
use crate::report::golden::check_picture;
use crate::spec::Figures;

/// Scenarios: one GPU at the loads 1, 2 and 4, of which it cannot carry the last, and two GPUs at 1 and 4.
const SIM: &str = "
    SELECT column1 AS scenario_id, concat('s', column1) AS scenario, 'h100-sxm' AS deployment_gpu, column2 AS deployment_tp,
           CAST(column3 AS DOUBLE) AS rate_rps, 7 AS seed, column2 AS gpus, CAST(column4 AS DOUBLE) AS request_rps,
           CAST(column4 * 100 AS DOUBLE) AS output_tps, CAST(column5 AS DOUBLE) AS ttft_ms_p50,
           CAST(column6 AS DOUBLE) AS ttft_ms_p90, CAST(column7 AS DOUBLE) AS ttft_ms_p99,
           CAST(column8 AS DOUBLE) AS tpot_ms_p50, CAST(column8 * 2 AS DOUBLE) AS tpot_ms_p90,
           CAST(column8 * 3 AS DOUBLE) AS tpot_ms_p99, CAST(column7 * 10 AS DOUBLE) AS e2e_ms_p50,
           CAST(column7 * 20 AS DOUBLE) AS e2e_ms_p90, CAST(column7 * 30 AS DOUBLE) AS e2e_ms_p99,
           column9 AS saturation, CAST(column10 AS DOUBLE) AS running_mean, 0.0 AS waiting_mean, 1 AS measured_served
    FROM (VALUES (0, 1, 1, 1, 10, 20, 40, 10, 'stable', 5), (1, 1, 2, 2, 12, 24, 50, 20, 'stable', 3),
                 (2, 1, 4, 3, 100, 500, 2000, 40, 'overloaded', 9), (3, 2, 1, 1, 5, 10, 20, 5, 'stable', 1),
                 (4, 2, 4, 4, 6, 12, 25, 10, 'stable', 4))";

/// Requests, in ms: two of scenario 0 (the second misses 500 ms), one of 1 (slow, with 30 ms lost to a preemption), one of
/// 3, which begins a second late, with its KV cache sent before the first token, and one that was rejected.
const REQUESTS: &str = "
    SELECT column1 AS scenario_id, column2 AS request_id, column3 AS status, true AS measured,
           column4 * 1000000 AS arrival_ns, column5 * 1000000 AS scheduled_ns, column6 * 1000000 AS prefilled_ns,
           column7 * 1000000 AS kv_ready_ns, column8 * 1000000 AS first_token_ns, column9 * 1000000 AS finished_ns,
           (column5 - column4) * 1000000 AS queue_ns, (column8 - column5) * 1000000 AS prefill_ns,
           (column7 - column6) * 1000000 AS kv_transfer_ns, (column8 - column4) * 1000000 AS ttft_ns,
           column10 * 1000000 AS tpot_ns, CASE column1 WHEN 1 THEN 30000000 ELSE 0 END AS prefill_preempted_ns,
           CASE column1 WHEN 3 THEN 1 ELSE column2 END AS replica, CASE column1 WHEN 3 THEN 0 END AS prefill_replica
    FROM (VALUES (0, 0, 'finished', 0, 10, NULL, NULL, 30, 130, 10),
                 (0, 1, 'finished', 1000, 1000, NULL, NULL, 1600, 2000, 40),
                 (1, 0, 'finished', 0, 0, NULL, NULL, 100, 1100, 60),
                 (1, 1, 'rejected', 50, NULL, NULL, NULL, NULL, NULL, NULL),
                 (3, 0, 'finished', 1000, 1020, 1060, 1090, 1100, 1500, 20))";

const GAPS: &str = "SELECT column1 AS scenario_id, column2 * 1000000 AS gap_ns_min, column3 * 1000000 AS gap_ns_max,
    column4 AS tokens FROM (VALUES (0, 10, 11, 5), (0, 40, 42, 15), (3, 20, 21, 4))";

/// Two replicas of 100 blocks: the first begins steps at 0 and 100 ms of 200, the second at 50.
const STEPS: &str = "SELECT 0 AS scenario_id, column1 AS replica, column2 * 1000000 AS step_start_ns,
    100000000 AS duration_ns, column3 AS kv_blocks_used FROM (VALUES (0, 0, 10), (0, 100, 60), (1, 50, 25))";
const POOLS: &str =
    "SELECT 0 AS scenario_id, 'default' AS pool, 0 AS replica_first, 2 AS replicas, 100 AS kv_blocks_total";

const RULES: &str = "SELECT column1 AS scenario_id, column2 AS rule, column3 AS margin
    FROM (VALUES (0, 'fast', -0.5), (0, 'steady', NULL), (1, 'fast', 0.5), (1, 'steady', 0.25), (2, 'fast', 0.5),
                 (2, 'steady', -30.5))";

const ANSWERS: &str = "SELECT column1 AS configuration_id, column2 AS deployment_gpu, 'chat' AS slo,
    CAST(column3 AS DOUBLE) AS value, CAST(column4 AS DOUBLE) AS qps_per_usd, CAST(column5 AS DOUBLE) AS ttft_ms_p99
    FROM (VALUES (0, 'a100', 4, 1.5, 300), (1, 'h100', 10, 2, 200), (2, 'l40s', NULL, NULL, NULL))";
const SEQUENCE: &str = "SELECT column1 AS configuration_id, 'chat' AS slo, column2 AS step, CAST(column3 AS DOUBLE) AS value,
    column4 AS pass FROM (VALUES (0, 0, 2, true), (0, 1, 4, true), (0, 2, 8, false), (1, 0, 2, true), (1, 1, 10, true))";

const FRONT: &str = "SELECT 1 AS trial, 2 AS deployment_tp, 1.0 AS cost, 30.0 AS ms, 0.5 AS hypervolume_contribution";
const TRIALS: &str =
    "SELECT column1 AS trial, column2 AS deployment_tp, column3 AS cost, column4 AS ms, column5 AS state,
    column6 AS feasible, column7 AS on_front FROM (VALUES (0, 1, 3.0, 30.0, 'complete', true, false),
    (1, 2, 1.0, 30.0, 'complete', true, true), (2, 4, 2.0, 99.0, 'infeasible', false, false),
    (3, 8, NULL, NULL, 'failed', false, false))";
const HISTORY: &str = "SELECT column1 AS trial, column2 AS best_cost, column3 AS best_ms,
    column4 AS hypervolume
    FROM (VALUES (0, NULL, 30.0, NULL), (1, 5.0, 30.0, 0.25), (2, 4.0, 30.0, 0.5), (3, 1.0, 30.0, 1.0))";
const IMPORTANCE: &str = "SELECT column1 AS objective, column2 AS parameter, column3 AS importance_share
    FROM (VALUES ('cost', 'deployment.tp', 0.25), ('cost', 'deployment.replicas', 0.75), ('*', 'deployment.tp', 0.5))";

const PAIRS: &str = "SELECT 0 AS scenario_id, 'ttft' AS metric, column1 AS request_id, column2 AS measured_ms,
    column3 AS simulated_ms, 100 * (column3 - column2) / column2 AS error_pct
    FROM (VALUES (0, 10.0, 11.0), (1, 100.0, 50.0), (2, 50.0, 50.0), (3, 20.0, 25.0))";
const ERRORS: &str =
    "SELECT column1 AS scenario_id, 'ttft' AS metric, column2 AS mean_error_pct, column3 AS p99_error_pct,
    column4 AS mape_pct FROM (VALUES (0, -10.0, 30.0, 12.0), (1, 20.0, -10.0, 24.0))";
const FIDELITY: &str = "SELECT column1 AS measured_set, column2 AS latency_model, column3 AS fitted, column4 AS part,
    column5 AS metric, column6 AS mape_pct FROM (VALUES ('a', 'roofline', false, 'all', 'ttft', 20.0),
    ('a', 'linear', true, 'all', 'ttft', 5.0), ('a', 'linear', true, 'test', 'ttft', 7.0),
    ('b', 'roofline', false, 'all', 'ttft', NULL))";

/// Four requests in 10 s; three share their first block, two of these their second.
const TRACE: &str = "SELECT column1 AS request_id, column2 * 1000000000 AS arrival_ns, column3 AS input_tokens,
    column4 AS output_tokens, column5 AS block_hashes, 16 AS block_tokens FROM (VALUES (0, 0, 32, 10, make_array(1, 2)),
    (1, 1, 32, 20, make_array(1, 2)), (2, 1, 16, 30, make_array(1, 3)), (3, 10, 16, 40, make_array(9)))";

const TABLES: &[(&str, &str)] = &[
    ("sim", SIM),
    ("sim_requests", REQUESTS),
    ("sim_itl", GAPS),
    ("sim_steps", STEPS),
    ("sim_pools", POOLS),
    ("judged_rules", RULES),
    ("carries", ANSWERS),
    ("carries_sequence", SEQUENCE),
    ("best", FRONT),
    ("best_trials", TRIALS),
    ("best_history", HISTORY),
    ("best_importance", IMPORTANCE),
    ("check", ERRORS),
    ("check_requests", PAIRS),
    ("accuracy", FIDELITY),
    ("trace", TRACE),
];

/// A figure, its stage, its parameters, a question to its rows (the table `rows`), and the answer as CSV without names.
struct Case {
    figure: &'static str,
    of: &'static str,
    with: &'static [(&'static str, &'static str)],
    ask: &'static str,
    expect: &'static [&'static str],
}

const fn case(figure: &'static str, of: &'static str, ask: &'static str, expect: &'static [&'static str]) -> Case {
    Case { figure, of, with: &[], ask, expect }
}

const CASES: &[Case] = &[
    // The knee: of 1/40, 2/50 and 3/2000 the second is the largest, of 1/20 and 4/25 the last.
    case(
        "latency_by_load",
        "sim",
        "SELECT configuration, quantile, load, ms FROM rows WHERE quantile IN ('knee', 'p50')",
        &[
            "tp 1,p50,1.0,10.0",
            "tp 1,p50,2.0,12.0",
            "tp 1,p50,4.0,100.0",
            "tp 1,knee,2.0,12.0",
            "tp 1,knee,2.0,50.0",
            "tp 2,p50,1.0,5.0",
            "tp 2,p50,4.0,6.0",
            "tp 2,knee,4.0,6.0",
            "tp 2,knee,4.0,25.0",
        ],
    ),
    Case {
        with: &[("most", "1")],
        ..case(
            "latency_by_load",
            "sim",
            "SELECT configuration, count(*), max(note) FROM rows GROUP BY configuration",
            &["tp 1,11,The first 1 of 2 configurations"],
        )
    },
    case(
        "tpot_by_load",
        "sim",
        "SELECT ms FROM rows WHERE configuration = 'tp 2' AND quantile = 'p99'",
        &["15.0", "30.0"],
    ),
    case(
        "e2e_by_load",
        "sim",
        "SELECT ms FROM rows WHERE configuration = 'tp 2' AND quantile = 'p90'",
        &["400.0", "500.0"],
    ),
    case(
        "throughput_by_load",
        "sim",
        "SELECT configuration, load, served_rps FROM rows",
        &[
            "offered,1.0,1.0",
            "offered,2.0,2.0",
            "offered,4.0,4.0",
            "tp 1,1.0,1.0",
            "tp 1,2.0,2.0",
            "tp 1,4.0,3.0",
            "tp 2,1.0,1.0",
            "tp 2,4.0,4.0",
        ],
    ),
    case(
        "throughput_latency",
        "sim",
        "SELECT configuration, output_tps_per_gpu, ttft_ms_p99 FROM rows",
        &["tp 1,100.0,40.0", "tp 1,200.0,50.0", "tp 1,300.0,2000.0", "tp 2,50.0,20.0", "tp 2,200.0,25.0"],
    ),
    // Of one request per second one of two; of two none; of one all. A request without an answer meets nothing.
    case(
        "goodput_by_load",
        "sim",
        "SELECT configuration, load, goodput_rps, attainment FROM rows",
        &["offered,1.0,1.0,", "offered,2.0,2.0,", "tp 1,1.0,0.5,0.5", "tp 1,2.0,0.0,0.0", "tp 2,1.0,1.0,1.0"],
    ),
    Case {
        with: &[("ttft_ms", "600")],
        ..case(
            "attainment_by_load",
            "sim",
            "SELECT configuration, load, attainment FROM rows",
            &["tp 1,1.0,1.0", "tp 1,2.0,0.0", "tp 2,1.0,1.0"],
        )
    },
    case(
        "attainment_heat",
        "sim",
        "SELECT configuration, load, attainment FROM rows",
        &["tp 1,1.0,0.5", "tp 1,2.0,0.0", "tp 2,1.0,1.0"],
    ),
    // (user, GPU): (100, 100), (50, 200), (25, 300), (200, 50) and (100, 200), which beats the first two.
    case(
        "tokens_pareto",
        "sim",
        "SELECT scenario_id, output_tps_per_user, output_tps_per_gpu, front FROM rows",
        &[
            "2,25.0,300.0,on the front",
            "4,100.0,200.0,on the front",
            "3,200.0,50.0,on the front",
            "1,50.0,200.0,beaten",
            "0,100.0,100.0,beaten",
        ],
    ),
    // At 3.6 USD per GPU and hour: 1000, 2000 and 3000 for 40, 50 and 2000 ms; 500 and 2000 for 20 and 25 ms.
    Case {
        with: &[("usd", "3.6")],
        ..case(
            "load_per_usd",
            "sim",
            "SELECT scenario_id, ttft_ms_p99, round(requests_per_usd), front FROM rows",
            &[
                "3,20.0,500.0,on the front",
                "4,25.0,2000.0,on the front",
                "2,2000.0,3000.0,on the front",
                "0,40.0,1000.0,beaten",
                "1,50.0,2000.0,beaten",
            ],
        )
    },
    Case {
        with: &[("usd", "CASE deployment_gpu WHEN 'other' THEN 1.5 END")],
        ..case(
            "load_per_usd",
            "sim",
            "SELECT scenario_id, requests_per_usd, front, note FROM rows",
            &[",,,\"No price is known for 5 of 5 scenarios: give one, with: { usd: ... }\""],
        )
    },
    // Half of the requests will do: scenario 0 has 1 GPU at 100 tokens/s, scenario 3 has 2. A GPU-second is a mill.
    Case {
        with: &[("usd", "3.6"), ("attainment", "0.5")],
        ..case(
            "usd_per_million_tokens",
            "sim",
            "SELECT configuration, scenario_id, round(usd_per_million_tokens, 6), note FROM rows",
            &["tp 1,0,10.0,", "tp 2,3,20.0,"],
        )
    },
    Case {
        with: &[("usd", "3.6")],
        ..case(
            "usd_per_million_tokens",
            "sim",
            "SELECT configuration, note FROM rows",
            &["tp 2,1 of 2 configurations meet the objectives"],
        )
    },
    Case {
        with: &[("usd", "CASE deployment_tp WHEN 2 THEN 3.6 END")],
        ..case(
            "usd_per_million_tokens",
            "sim",
            "SELECT configuration, note FROM rows",
            &["tp 2,\"no price is known for 1 of 2 configurations: give one, with: { usd: ... }\""],
        )
    },
    Case {
        with: &[("usd", "CAST(NULL AS DOUBLE)")],
        ..case(
            "usd_per_million_tokens",
            "sim",
            "SELECT place, usd_per_million_tokens, note FROM rows",
            &[",,\"no price is known for 2 of 2 configurations: give one, with: { usd: ... }\""],
        )
    },
    // Scenario 0: queue (10 + 0) / 2, prefill (20 + 600) / 2; scenario 1: 30 of 100 lost; scenario 3: 20 in the queue, 80 to the token, 30 of them sent.
    case(
        "ttft_parts",
        "sim",
        "SELECT configuration, part, load, ms FROM rows",
        &[
            "tp 1,prefill,1.0,310.0",
            "tp 1,prefill,2.0,70.0",
            "tp 1,queue,1.0,5.0",
            "tp 1,queue,2.0,0.0",
            "tp 1,preemption,1.0,0.0",
            "tp 1,preemption,2.0,30.0",
            "tp 1,KV transfer,1.0,0.0",
            "tp 1,KV transfer,2.0,0.0",
            "tp 2,prefill,1.0,50.0",
            "tp 2,queue,1.0,20.0",
            "tp 2,preemption,1.0,0.0",
            "tp 2,KV transfer,1.0,30.0",
        ],
    ),
    case(
        "ttft_cdf",
        "sim",
        "SELECT scenario, share, ms FROM rows WHERE scenario_id < 3",
        &["\"tp 1, rate 1.0\",0.5,30.0", "\"tp 1, rate 1.0\",1.0,600.0", "\"tp 1, rate 2.0\",1.0,100.0"],
    ),
    case("itl_cdf", "sim", "SELECT scenario_id, gap_ms, share FROM rows", &["0,11.0,0.25", "0,42.0,1.0", "3,21.0,1.0"]),
    // The busiest that keeps up is scenario 0. Windows of 10 ms: waits until 10, runs until 130 and from 1000 to 2000.
    case(
        "timeline",
        "sim",
        "SELECT state, requests, min(k), max(k), count(*) FROM rows GROUP BY state, requests ORDER BY state, requests",
        &["running,0,0,200,89", "running,1,1,199,112", "waiting,0,1,200,200", "waiting,1,0,0,1"],
    ),
    // 200 windows of 1 ms: 10 blocks until 99, then 60; the other has nothing until 50, then 25.
    case(
        "kv_timeline",
        "sim",
        "SELECT replica, kv_usage, min(k), max(k), min(time_s) FROM rows GROUP BY replica, kv_usage ORDER BY replica, min(k)",
        &["0,0.1,0,99,0.0", "0,0.6,100,200,0.1", "1,0.0,0,49,0.0", "1,0.25,50,200,0.05"],
    ),
    // Windows of 10 ms: the first replica from 10 until 130, the second from 1000 to 2000.
    case(
        "replicas_at_work",
        "sim",
        "SELECT state, replicas, min(k), max(k), count(*) FROM rows GROUP BY state, replicas ORDER BY state, replicas",
        &["at work,0,0,200,89", "at work,1,1,199,112", "deployed,2,0,200,201"],
    ),
    // Of 2.5 ms, from a second on: the prompt from 20 until 60, the reply from 90 until 500.
    Case {
        with: &[("scenario", "3")],
        ..case(
            "replicas_at_work",
            "sim",
            "SELECT replicas, count(*) FROM rows WHERE state = 'at work' GROUP BY replicas ORDER BY replicas",
            &["0,21", "1,180"],
        )
    },
    case(
        "attainment_over_time",
        "sim",
        "SELECT k, time_s, requests, attainment FROM rows",
        &["0,0.0,1,1.0", "49,0.98,1,0.0", "50,1.0,1,0.0"],
    ),
    Case {
        with: &[("scenario", "3")],
        ..case(
            "waterfall",
            "sim",
            "SELECT request, part, start_s, end_s FROM rows",
            &["0,queue,0.0,0.02", "0,prefill,0.02,0.06", "0,KV transfer,0.06,0.09", "0,decode,0.1,0.5"],
        )
    },
    case(
        "slo_margins",
        "judged",
        "SELECT scenario_id, rule, margin, margin_exact, note FROM rows",
        &[
            "1,fast,0.5,0.5,margins below -1 are shown as -1",
            "1,steady,0.25,0.25,margins below -1 are shown as -1",
            "0,fast,-0.5,-0.5,margins below -1 are shown as -1",
            "2,fast,0.5,0.5,margins below -1 are shown as -1",
            "2,steady,-1.0,-30.5,margins below -1 are shown as -1",
        ],
    ),
    case(
        "search_answers",
        "carries",
        "SELECT configuration, slo, value, note FROM rows",
        &[
            "a100,chat,4.0,without a bar: no value passes (1 of 3)",
            "h100,chat,10.0,without a bar: no value passes (1 of 3)",
            "l40s,chat,,without a bar: no value passes (1 of 3)",
        ],
    ),
    case(
        "search_sequence",
        "carries",
        "SELECT configuration, step, value, pass FROM rows",
        &["a100,0,2.0,true", "a100,1,4.0,true", "a100,2,8.0,false", "h100,0,2.0,true", "h100,1,10.0,true"],
    ),
    case(
        "search_load_per_usd",
        "carries",
        "SELECT configuration, ttft_ms_p99, qps_per_usd FROM rows",
        &["h100,200.0,2.0", "a100,300.0,1.5"],
    ),
    // From 5 by 4 to 1; the time never improves.
    case(
        "trial_history",
        "best",
        "SELECT objective, trial, share FROM rows",
        &["cost,1,0.0", "cost,2,0.25", "cost,3,1.0", "hypervolume,1,0.25", "hypervolume,2,0.5", "hypervolume,3,1.0"],
    ),
    case(
        "trial_front",
        "best",
        "SELECT trial, cost, ms, kind FROM rows",
        &["1,1.0,30.0,on the front", "0,3.0,30.0,beaten", "2,2.0,99.0,infeasible"],
    ),
    case("trial_parallel", "best", "SELECT * FROM rows", &["1,3.0,30.0,", "2,1.0,30.0,"]),
    case(
        "trial_importance",
        "best",
        "SELECT parameter, objective, importance_share FROM rows",
        &["replicas,cost,0.75", "tp,all together,0.5", "tp,cost,0.25"],
    ),
    case(
        "measured_simulated",
        "check",
        "SELECT side, measured_ms, ms, note FROM rows",
        &[
            "simulated,10.0,11.0,",
            "simulated,20.0,25.0,",
            "simulated,50.0,50.0,",
            "simulated,100.0,50.0,",
            "equal,10.0,10.0,",
            "equal,20.0,20.0,",
            "equal,50.0,50.0,",
            "equal,100.0,100.0,",
        ],
    ),
    Case {
        with: &[("most", "2")],
        ..case(
            "measured_simulated",
            "check",
            "SELECT measured_ms, note FROM rows WHERE side = 'equal'",
            &["20.0,2 of 4 requests", "100.0,2 of 4 requests"],
        )
    },
    case(
        "error_cdf",
        "check",
        "SELECT error_pct, share FROM rows",
        &["-50.0,0.25", "0.0,0.5", "10.0,0.75", "25.0,1.0"],
    ),
    case(
        "error_bars",
        "check",
        "SELECT figure, error_pct FROM rows",
        &["of the mean,15.0", "of the p99,20.0", "of a request (mean),18.0"],
    ),
    case(
        "fidelity_errors",
        "accuracy",
        "SELECT measured_set, latency_model, mape_pct FROM rows",
        &["a,linear (fitted),5.0", "a,roofline,20.0"],
    ),
    // Windows of 100 ms; the last arrival is at the end of the last one.
    case(
        "arrival_rate",
        "trace",
        "SELECT k, time_s, rate_rps FROM rows WHERE rate_rps > 0 OR k = 50",
        &["0,0.0,10.0", "10,1.0,20.0", "50,5.0,0.0", "99,9.9,10.0", "100,10.0,10.0"],
    ),
    case(
        "request_lengths",
        "trace",
        "SELECT part, tokens, share FROM rows",
        &[
            "prompts,16,0.25",
            "prompts,16,0.5",
            "prompts,32,0.75",
            "prompts,32,1.0",
            "replies,10,0.25",
            "replies,20,0.5",
            "replies,30,0.75",
            "replies,40,1.0",
        ],
    ),
    // Prompts have 2 + 2 + 1 + 1 blocks: 1 three times, 2 twice, 9 once; the block 3 is of a reply.
    case(
        "prompt_reuse",
        "trace",
        "SELECT uses, round(uses_share, 4), round(blocks_share, 4) FROM rows",
        &["3,0.5,0.3333", "2,0.8333,0.6667", "1,1.0,1.0"],
    ),
];

/// A session with tables made of queries.
async fn context(tables: &[(&str, &str)]) -> (SessionContext, BTreeMap<String, SchemaRef>) {
    let ctx = session::context(&SessionOptions::threads(2)).unwrap();
    let mut schemas = BTreeMap::new();
    for (name, sql) in tables {
        let batches = ctx.sql(sql).await.unwrap().collect().await.unwrap();
        let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap();
        schemas.insert((*name).to_string(), table.schema());
        session::register(&ctx, SCHEMA, name, Arc::new(table)).unwrap();
    }
    (ctx, schemas)
}

/// Rows as lines of CSV.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut out = Vec::new();
    let mut writer = WriterBuilder::new().with_header(false).build(&mut out);
    batches.iter().for_each(|b| writer.write(b).unwrap());
    drop(writer);
    String::from_utf8(out).unwrap().lines().map(String::from).collect()
}

/// The figure with what its query yields.
async fn result(case: &Case, ctx: &SessionContext, schemas: &BTreeMap<String, SchemaRef>) -> (Plot, Collected) {
    let ready = Figures::near(Path::new("/")).find(case.figure).unwrap().unwrap();
    let with: Vec<(String, String)> = case.with.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let plot = ready.plot(case.of, &with).unwrap();
    let table = |name: &str| schemas.get(name).cloned();
    let searched = Some("workload.rate_rps");
    let plot = plot.completed(&Known { table: &table, varied: None, searched }).unwrap();
    let script = Script::parse(&plot.query.as_ref().unwrap().value, Place::File(ready.file.clone())).unwrap();
    assert!(script.lint(false).is_empty(), "{:?}", script.lint(false));
    let read: BTreeSet<String> = script.references().into_iter().map(|t| t.value).collect();
    let said: BTreeSet<String> = ready.needs.iter().map(|t| t.replace("{of}", case.of)).collect();
    assert_eq!(read, said, "{}: the tables that it reads, and what `needs` says", case.figure);
    let mut rows = Collected::default();
    execute(ctx, &script, &mut rows, &Cancel::default()).await.unwrap_or_else(|e| panic!("{}: {e}", case.figure));
    (plot, rows)
}

#[tokio::test]
async fn the_rows_of_every_figure() {
    let (ctx, schemas) = context(TABLES).await;
    for case in CASES {
        let (_, rows) = result(case, &ctx, &schemas).await;
        let table = MemTable::try_new(rows.schema.unwrap(), vec![rows.batches]).unwrap();
        session::register(&ctx, SCHEMA, "rows", Arc::new(table)).unwrap();
        let found = ctx.sql(case.ask).await.unwrap().collect().await.unwrap();
        assert_eq!(lines(&found), case.expect, "{} {:?}", case.figure, case.with);
    }
    let tested: BTreeSet<&str> = CASES.iter().map(|c| c.figure).collect();
    let all = Figures::near(Path::new("/")).names();
    assert!(all.iter().all(|name| tested.contains(name.as_str())), "a figure has no case: {all:?}");
}

/// A run whose first request is not measured, that begins a second late, and of which one scenario measures nothing.
const LATE: &[(&str, &str)] = &[
    (
        "sim",
        "SELECT column1 AS scenario_id, concat('s', column1) AS scenario, 1 AS deployment_tp, CAST(column1 + 1 AS DOUBLE) AS rate_rps,
                2.0 AS request_rps, 1 AS gpus, 'stable' AS saturation, 5.0 + column1 AS running_mean, 0.0 AS waiting_mean,
                column2 AS measured_served, CAST(column3 AS DOUBLE) AS output_tps, CAST(column4 AS DOUBLE) AS ttft_ms_p99
         FROM (VALUES (0, 2, 100, 10), (1, 0, 200, 20), (2, 0, 150, 900)) ORDER BY scenario_id",
    ),
    (
        "sim_requests",
        "SELECT 0 AS scenario_id, column1 AS request_id, 'finished' AS status, column2 AS measured, column3 * 1000000 AS arrival_ns,
                column3 * 1000000 AS scheduled_ns, CAST(NULL AS BIGINT) AS prefilled_ns, CAST(NULL AS BIGINT) AS kv_ready_ns,
                (column3 + column4) * 1000000 AS first_token_ns, (column3 + 2000) * 1000000 AS finished_ns,
                column4 * 1000000 AS ttft_ns, 10000000 AS tpot_ns
         FROM (VALUES (0, false, 1000, 50), (1, true, 1500, 50), (2, true, 3000, 900))",
    ),
    ("sim_pools", POOLS),
    (
        "sim_steps",
        "SELECT 0 AS scenario_id, 0 AS replica, column1 * 1000000 AS step_start_ns, 100000000 AS duration_ns,
                column2 AS kv_blocks_used FROM (VALUES (1000, 10), (1100, 60))",
    ),
    ("trace", "SELECT column1 AS request_id, 7 AS arrival_ns FROM (VALUES (0), (1))"),
];

#[tokio::test]
async fn runs_that_begin_late_or_measure_little() {
    let (ctx, schemas) = context(LATE).await;
    for case in [
        // One of two measured ones, of two per second.
        case("goodput_by_load", "sim", "SELECT goodput_rps FROM rows WHERE configuration = 'all'", &["1.0"]),
        // Scenario 2 is busier, but measured nothing. Time begins with the first request.
        case(
            "waterfall",
            "sim",
            "SELECT request, part, start_s, end_s, note FROM rows WHERE request <> '2' AND part = 'decode'",
            &["0,decode,0.05,2.0,Scenario 0: rate 1.0", "1,decode,0.55,2.5,Scenario 0: rate 1.0"],
        ),
        Case {
            with: &[("from_s", "0.5")],
            ..case("waterfall", "sim", "SELECT DISTINCT request FROM rows ORDER BY 1", &["1", "2"])
        },
        // From the first step on.
        case(
            "kv_timeline",
            "sim",
            "SELECT kv_usage, min(k), max(k), min(time_s) FROM rows GROUP BY kv_usage ORDER BY min(k)",
            &["0.1,0,99,0.0", "0.6,100,200,0.1"],
        ),
        // All at the same instant: at no rate.
        case("arrival_rate", "trace", "SELECT * FROM rows", &[]),
        Case { with: &[("scenario", "1")], ..case("timeline", "sim", "SELECT * FROM rows", &[]) },
        // In the order of the load, although the throughput falls again.
        case(
            "throughput_latency",
            "sim",
            "SELECT load, output_tps_per_gpu FROM rows",
            &["1.0,100.0", "2.0,200.0", "3.0,150.0"],
        ),
    ] {
        let (_, rows) = result(&case, &ctx, &schemas).await;
        let table = MemTable::try_new(rows.schema.unwrap(), vec![rows.batches]).unwrap();
        session::register(&ctx, SCHEMA, "rows", Arc::new(table)).unwrap();
        let found = ctx.sql(case.ask).await.unwrap().collect().await.unwrap();
        assert_eq!(lines(&found), case.expect, "{} {:?}", case.figure, case.with);
    }
}

#[tokio::test]
async fn the_picture_of_every_figure() {
    let (ctx, schemas) = context(TABLES).await;
    let mut drawn = BTreeSet::new();
    for case in CASES.iter().filter(|c| drawn.insert(c.figure)) {
        let (plot, rows) = result(case, &ctx, &schemas).await;
        let small = Plot { width: 480, height: Some(300), ..plot };
        let chart = small.chart_of(rows.schema.as_ref(), &rows.batches).unwrap();
        check_picture(&format!("figure_{}", case.figure), &chart);
    }
}

/// In a queue M/M/1 that serves 10 requests per second, 99 % are through within ln(100) / (10 - load) seconds: load over
/// latency is highest at half of the capacity, whatever the loads that are looked at.
#[tokio::test]
async fn the_knee_of_a_queue_is_at_half_of_its_capacity() {
    for (from, to) in [(1, 9), (3, 9), (1, 7)] {
        let sim = format!(
            "SELECT load AS scenario_id, concat('s', load) AS scenario, CAST(load AS DOUBLE) AS rate_rps, 1 AS gpus, CAST(load AS DOUBLE) AS request_rps,
                    1.0 AS ttft_ms_p50, 1.0 AS ttft_ms_p90, 1000 * ln(100.0) / (10 - load) AS ttft_ms_p99
             FROM (SELECT unnest(range({from}, {to} + 1)) AS load)"
        );
        let (ctx, schemas) = context(&[("sim", &sim)]).await;
        let case = case("latency_by_load", "sim", "", &[]);
        let (_, rows) = result(&case, &ctx, &schemas).await;
        let table = MemTable::try_new(rows.schema.unwrap(), vec![rows.batches]).unwrap();
        session::register(&ctx, SCHEMA, "rows", Arc::new(table)).unwrap();
        let knee = ctx.sql("SELECT load FROM rows WHERE quantile = 'knee'").await.unwrap().collect().await.unwrap();
        assert_eq!(lines(&knee), ["5.0", "5.0"], "{from} to {to}");
    }
}

/// Default prices are those that the catalog has first.
#[test]
fn prices_are_those_of_the_catalog() {
    let catalog = crate::catalog::load(crate::repository()).unwrap();
    for name in ["load_per_usd", "usd_per_million_tokens"] {
        let ready = Figures::near(Path::new("/")).find(name).unwrap().unwrap();
        let usd = &ready.with.iter().find(|(k, _)| k == "usd").unwrap().1;
        for part in usd.split("WHEN").skip(1) {
            let (gpu, price) = part.trim().split_once(" THEN ").unwrap();
            let price: f64 = price.trim_end_matches("END").trim().parse().unwrap();
            let first = catalog.prices.iter().find(|p| p.gpu == gpu.trim_matches('\'')).unwrap();
            assert_eq!(first.usd_per_gpu_hour, price, "{gpu}");
        }
    }
}
