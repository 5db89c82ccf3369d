//! What runs again, and what does not.

use crate::project::{Project, SMALL};

const FILE: &str = "pipelines/small.yaml";

fn small() -> Project {
    let project = Project::new();
    project.write(FILE, SMALL);
    project
}

fn ran(actions: &[(String, String)]) -> Vec<&str> {
    actions.iter().filter(|(_, a)| a == "ran").map(|(s, _)| s.as_str()).collect()
}

#[test]
fn the_second_run_is_cached_and_threads_do_not_matter() {
    let one = small();
    assert_eq!(ran(&one.actions(&[FILE, "-j", "1"])).len(), 4);
    assert!(ran(&one.actions(&[FILE])).is_empty());
    let many = small();
    many.run(&["run", FILE, "-j", "7"]).ok();
    assert_eq!(one.hashes("small"), many.hashes("small"));
}

#[test]
fn comments_order_and_names_change_nothing() {
    let project = small();
    project.run(&["run", FILE]).ok();
    project.write(FILE, &SMALL.replace("stages:\n", "# a remark\nstages:\n\n"));
    assert!(ran(&project.actions(&[FILE])).is_empty());
}

#[test]
fn a_sweep_that_grows_simulates_only_what_is_new() {
    let project = small();
    project.run(&["run", FILE]).ok();
    project.write(FILE, &SMALL.replace("[4, 16, 64]", "[2, 4, 16, 64]"));
    let plan = project.run(&["plan", FILE]).ok();
    assert!(plan.out.contains("sweep.grid"), "{}", plan.out);
    let again = project.run(&["run", FILE]).ok();
    assert!(again.out.contains("8 scenarios"), "{}", again.out);
    assert!(again.out.contains("6 reused"), "{}", again.out);

    let fresh = small();
    fresh.write(FILE, &SMALL.replace("[4, 16, 64]", "[2, 4, 16, 64]"));
    fresh.run(&["run", FILE]).ok();
    assert_eq!(project.hashes("small"), fresh.hashes("small"));
}

#[test]
fn the_same_rows_stop_the_reruns() {
    let project = small();
    project.run(&["run", FILE]).ok();
    // Another query that gives the same table: what reads it stays cached.
    let changed = SMALL.replace("avg(ms(e2e_ns))", "avg(e2e_ns / 1e6)");
    let more = changed.clone() + "  few:\n    sql: SELECT scenario_id, ttft_ms_p99 FROM metrics ORDER BY scenario_id\n";
    let before =
        SMALL.to_string() + "  few:\n    sql: SELECT scenario_id, ttft_ms_p99 FROM metrics ORDER BY scenario_id\n";
    project.write(FILE, &before);
    project.run(&["run", FILE]).ok();
    project.write(FILE, &more);
    assert_eq!(ran(&project.actions(&[FILE])), ["metrics"]);
}

#[test]
fn only_from_and_force() {
    let project = small();
    assert_eq!(ran(&project.actions(&[FILE, "--only", "sim"])), ["trace", "sim"]);
    // The two do not need each other: either may be done first.
    let actions = project.actions(&[FILE]);
    let mut rest = ran(&actions);
    rest.sort_unstable();
    assert_eq!(rest, ["metrics", "verdict"]);
    assert_eq!(ran(&project.actions(&[FILE, "--force", "metrics"])), ["metrics"]);
    assert_eq!(project.run(&["run", FILE, "--force", "metrisc"]).code, Some(2));
}

#[test]
fn a_damaged_part_is_made_again() {
    let project = small();
    project.run(&["run", FILE]).ok();
    let before = project.hashes("small");
    let table = project.path().join("data/tables/small/metrics").canonicalize().expect("a published table");
    let part = std::fs::read_dir(table).expect("a folder").next().expect("a part").expect("a part").path();
    let mut bytes = std::fs::read(&part).expect("a part");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&part, bytes).expect("written");
    let ran_again = project.run(&["run", FILE]).ok();
    assert!(ran_again.err.contains("damaged") || ran_again.err.contains("hash"), "{}", ran_again.err);
    assert_eq!(project.hashes("small"), before);
    assert!(ran(&project.actions(&[FILE])).is_empty());
}

#[test]
fn plan_says_why() {
    let project = small();
    let plan = project.run(&["plan", FILE]).ok();
    assert!(plan.out.contains("never ran"), "{}", plan.out);
    project.run(&["run", FILE]).ok();
    let plan = project.run(&["plan", FILE]).ok();
    assert!(!plan.out.contains("never ran") && plan.out.contains("cached"), "{}", plan.out);
    let plan = project.run(&["plan", FILE, "--set", "seed=6"]).ok();
    assert!(plan.out.contains("seed"), "{}", plan.out);
}

/// Stages that read two things of one kind, each in a role of its own.
const ROLES: &str = "\
name: roles
seed: 1
stages:
  trace: { synthesize: { requests: 48, rate_rps: 16, input: { constant: { tokens: 200 } }, output: { constant: { tokens: 20 } } } }
  slow: { simulate: { requests: trace, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, latency: { linear: { base_us: 9000, per_prefill_token_us: 20, per_decode_token_us: 100 } } } } }
  fast: { simulate: { requests: trace, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, latency: { linear: { base_us: 6000, per_prefill_token_us: 20, per_decode_token_us: 100 } } } } }
  errors: { compare: { measured: slow, simulated: fast, bootstrap: 0 } }
  fit:
    calibrate:
      requests:
        over: slow
        cases: [ { log: ../data/8.txt }, { log: ../data/32.txt, set: { workload.rate_rps: 32 } } ]
        parameters: { deployment.latency.linear.base_us: [1000, 20000] }
        trials: 2
  links: { profile: { vidur: { all_reduce: ../data/one.csv, send_recv: ../data/other.csv } } }
";

const LINKS: &str = "\
num_workers,size,devices_per_node,collective,time_stats.all_reduce.median,time_stats.send_recv.median
2,1024,2,all_reduce,0.011,0
2,1024,2,send_recv,0,0.012
";

#[test]
fn what_swaps_its_role_is_read_again() {
    let file = "pipelines/roles.yaml";
    let project = Project::new();
    project.write("data/one.csv", LINKS);
    project.write("data/other.csv", &LINKS.replace("0.01", "0.02"));
    for rate in ["8", "32"] {
        let log = format!("data/samples/calibrate/exp_48p_{rate}r_0.0t_512mbt_256lpt_sharegpt.txt");
        std::fs::copy(project.path().join(log), project.path().join(format!("data/{rate}.txt"))).expect("a log");
    }
    project.write(file, ROLES);
    project.run(&["run", file]).ok();
    assert!(ran(&project.actions(&[file])).is_empty());
    for (from, to, stage) in [
        ("measured: slow, simulated: fast", "measured: fast, simulated: slow", "errors"),
        ("8.txt }, { log: ../data/32.txt", "32.txt }, { log: ../data/8.txt", "fit"),
        ("one.csv, send_recv: ../data/other.csv", "other.csv, send_recv: ../data/one.csv", "links"),
    ] {
        let swapped = ROLES.replace(from, to);
        assert_ne!(swapped, ROLES);
        project.write(file, &swapped);
        assert_eq!(ran(&project.actions(&[file])), [stage]);
        project.write(file, ROLES);
        assert!(ran(&project.actions(&[file])).is_empty());
    }
}

/// Stages that read facts of the project: fitted coefficients, and a `config.json`.
const FACTS: &str = "\
name: facts
seed: 1
stages:
  trace: { synthesize: { requests: 48, rate_rps: 16, input: { constant: { tokens: 200 } }, output: { constant: { tokens: 20 } } } }
  run: { ingest: { path: ../data/samples/vllm_bench.jsonl, format: vllm_bench } }
  simple: { simulate: { requests: trace, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, latency: roofline } } }
  known: { simulate: { requests: trace, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, latency: fitted } } }
  simple_fit: { calibrate: { requests: { over: simple, cases: [ { log: LOG } ], parameters: { deployment.overheads.step_us: [0, 900] }, trials: 2 } } }
  known_fit: { calibrate: { requests: { over: known, cases: [ { log: LOG } ], parameters: { deployment.overheads.step_us: [0, 900] }, trials: 2 } } }
  known_used: { simulate: { requests: trace, calibration: simple_fit, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, latency: fitted } } }
  known_report: { fidelity: { runs: { run: { requests: run, deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }, models: { known: { latency: fitted } } } } } }
  own_report: { fidelity: { runs: { run: { requests: run, deployment: { model: ./own/config.json, gpu: h100-sxm }, models: { simple: { latency: roofline } } } } } }
";

const COEFFICIENTS: &str = "\
- source: a bench of our own
  date: \"2026-11-22\"
  sets:
    meta-llama/Llama-3.1-8B:
      - { gpu: h100-sxm, tp: 1, vllm: \"0.19.0\", alpha: [1000, 0, 0], beta: [6000, 20, 100], loss: 0.001 }
";

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
    "intermediate_size": 4096, "vocab_size": 32000, "max_position_embeddings": 8192}"#;

#[test]
fn facts_that_change_are_read_again_by_those_that_use_them() {
    let file = "pipelines/facts.yaml";
    let project = Project::new();
    let (coefficients, config) = ("data/catalog/latency.yaml", "pipelines/own/config.json");
    let log = "../data/samples/calibrate/exp_48p_16r_0.0t_512mbt_256lpt_sharegpt.txt";
    project.write(file, &FACTS.replace("LOG", log));
    project.write(coefficients, COEFFICIENTS);
    project.write(config, CONFIG);
    project.run(&["run", file]).ok();
    assert!(ran(&project.actions(&[file])).is_empty());
    project.write(coefficients, &COEFFICIENTS.replace("6000", "7000"));
    let actions = project.actions(&[file]);
    let mut again = ran(&actions);
    again.sort_unstable();
    assert_eq!(again, ["known", "known_fit", "known_report", "known_used"]);
    project.write(config, &CONFIG.replace("4096", "2048"));
    assert_eq!(ran(&project.actions(&[file])), ["own_report"]);
}
