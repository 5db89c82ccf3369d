//! Reports of fidelity: over what was measured, where it is at hand, and over small sets of their own.

use std::collections::BTreeSet;

use crate::project::{Project, shared};

/// Aims of the example that are not met, with what is known about each in the example itself: set, metric and figure.
const MISSED: [(&str, &str, &str); 5] = [
    ("rtxpro6000", "ttft", "mean"),
    ("h100_slow", "e2e", "mape"),
    ("h100_steps", "step", "mape"),
    ("gap_analysis h200_sxm", "ttft", "mape"),
    ("gap_analysis h200_sxm", "tpot", "mape"),
];

#[test]
fn what_was_measured_is_met_where_the_report_says_so() {
    let Some(data) = shared().map(|dir| dir.join("data")).filter(|dir| dir.join("measured").is_dir()) else {
        eprintln!("skipped: nothing was measured here");
        return;
    };
    let project = Project::new();
    let set = format!("data={}", data.display());
    project.run(&["run", "pipelines/fidelity.yaml", "--set", &set]).ok();
    let missed =
        project.rows("SELECT measured_set, metric, figure, why FROM fidelity.report_aims WHERE NOT met ORDER BY 1, 2");
    let found: BTreeSet<(String, String, String)> = missed
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().expect("text").to_string();
            assert!(!text("why").is_empty(), "nothing is known about {row}");
            (text("measured_set"), text("metric"), text("figure"))
        })
        .collect();
    let expected: BTreeSet<(String, String, String)> =
        MISSED.iter().map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())).collect();
    assert_eq!(found, expected);
    let all = project.rows("SELECT count(*) AS n FROM fidelity.report_aims");
    assert_eq!(all[0]["n"], 24);
    // The published errors are as many as their file says.
    let published =
        project.rows("SELECT count(*) AS n, count(DISTINCT experiment) AS experiments FROM fidelity.report_published");
    assert_eq!((published[0]["n"].as_i64(), published[0]["experiments"].as_i64()), (Some(150), Some(13)));
    // What is fitted saw the half for fitting alone: both halves are there, and neither is empty.
    let halves = project.rows(
        "SELECT part, count(*) AS n FROM fidelity.report_configurations WHERE fitted GROUP BY part ORDER BY part",
    );
    assert!(halves.len() == 2 && halves.iter().all(|half| half["n"].as_i64() > Some(20)), "{halves:?}");
}

const SMALL: &str = r#"
name: small
seed: 3
stages:
  run:
    ingest: { path: ../data/paused.jsonl, format: vllm_bench }
  report:
    fidelity:
      trials: 40
      runs:
        sample:
          requests: run
          idle_s: 0.5
          deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm, max_model_len: 8192 }
          models:
            line: { latency: { linear: { base_us: 3000, per_prefill_token_us: 10, per_decode_token_us: 10 } }, fit: { deployment.latency.linear.base_us: [1000, 30000] } }
            roofline: { latency: roofline }
          aims:
            - { model: line, metric: e2e, figure: mape, max_pct: 0.001, why: "nobody is so good" }
            - { model: line, metric: e2e, figure: mape, fitted: true, max_pct: 1 }
"#;

/// Four bursts of six requests each, with pauses of a second and more, on a server whose steps take 10 ms, and 10 us more
/// for every token.
fn paused() -> String {
    let request = |n: u32| {
        let sent = f64::from(n / 6) * 3.0 + f64::from(n % 6) * 0.3;
        let (arrival, queued) = (1_760_000_000.0 + sent, 5_000.0 + sent);
        let (input, output) = (100 + 40 * (n % 6), 6 + n / 6 * 4);
        let first = queued + 0.010 + f64::from(input) * 10e-6;
        let last = first + f64::from(output - 1) * 0.010_010;
        format!(
            "{{\"request_id\":\"bench-{n}\",\"input_toks\":{input},\"output_toks\":{output},\"arrival_time\":{arrival:.6},\
             \"queued_ts\":{queued:.6},\"scheduled_ts\":{queued:.6},\"first_token_ts\":{first:.6},\"last_token_ts\":{last:.6}}}\n"
        )
    };
    (0..24).map(request).collect()
}

/// A project with [`paused`] and a pipeline.
fn small(pipeline: &str) -> Project {
    let project = Project::new();
    project.write("data/paused.jsonl", &paused());
    project.write("pipelines/small.yaml", pipeline);
    project
}

#[test]
fn a_report_has_errors_parameters_and_aims() {
    let project = small(SMALL);
    let ran = project.run(&["run", "pipelines/small.yaml", "--quiet"]).ok();
    assert!(ran.out.contains("report: 1 of 2 aims met") && ran.out.contains("nobody is so good"), "{}", ran.out);
    let figures = project.rows("SELECT * FROM small.report WHERE metric = 'e2e'");
    let of = |model: &str, fitted: bool, part: &str| {
        let row = figures.iter().find(|r| r["latency_model"] == model && r["fitted"] == fitted && r["part"] == part);
        row.map(|r| (r["pairs"].as_u64().expect("a number"), r["mape_pct"].as_f64().expect("a number")))
    };
    let told = |model, fitted, part| of(model, fitted, part).unwrap_or_else(|| panic!("{model} {part}: {figures:?}"));
    // Every second burst is for fitting, and what is fitted is told of either half.
    for (fitted, part, pairs) in
        [(false, "all", 24), (false, "train", 12), (false, "test", 12), (true, "train", 12), (true, "test", 12)]
    {
        assert_eq!(told("line", fitted, part).0, pairs, "{part}");
    }
    assert!(of("line", true, "all").is_none() && of("roofline", true, "test").is_none());
    for part in ["train", "test"] {
        let (before, after) = (told("line", false, part).1, told("line", true, part).1);
        assert!(before > 50.0 && after < 1.0, "{part}: {before} {after}");
    }
    let parameters = project.rows("SELECT * FROM small.report_parameters");
    assert_eq!(parameters.len(), 1, "{parameters:?}");
    let value = parameters[0]["value"].as_f64().expect("a number");
    assert!((9_800.0..10_200.0).contains(&value), "{value}");
    // The same again, from the store or not.
    let again = small(SMALL);
    again.run(&["run", "pipelines/small.yaml", "--quiet", "-j", "1"]).ok();
    let sql = "SELECT * FROM small.report";
    assert_eq!(project.rows(sql), again.rows(sql));
}

#[test]
fn a_run_without_a_pause_is_not_fitted_and_says_so() {
    let project = small(&SMALL.replace("idle_s: 0.5", "idle_s: 5"));
    let ran = project.run(&["run", "pipelines/small.yaml"]).ok();
    assert!(format!("{}{}", ran.out, ran.err).contains("`sample` has no pause of 5 s"), "{}\n{}", ran.out, ran.err);
    assert!(ran.out.contains("0 of 2 aims met") && ran.out.contains("mape of e2e was never found"), "{}", ran.out);
    let parts = project.rows("SELECT DISTINCT fitted, part FROM small.report");
    assert_eq!((parts.len(), &parts[0]["part"]), (1, &"all".into()), "{parts:?}");
    let aims = project.rows("SELECT met, error_pct FROM small.report_aims WHERE fitted");
    assert_eq!((aims.len(), &aims[0]["met"], &aims[0]["error_pct"]), (1, &false.into(), &serde_json::Value::Null));
    assert!(project.rows("SELECT * FROM small.report_parameters").is_empty());
}

/// Checks a pipeline with one text in place of another, and looks for words in what is said, and for its place.
#[track_caller]
fn refused(project: &Project, pipeline: &str, (from, to, expect): (&str, &str, &str)) {
    assert!(pipeline.contains(from), "{from}");
    project.write("pipelines/wrong.yaml", &pipeline.replacen(from, to, 1));
    let checked = project.run(&["check", "pipelines/wrong.yaml"]);
    assert!(checked.code != Some(0) && checked.err.contains(expect), "{to}:\n{}", checked.err);
    assert!(checked.err.contains("wrong.yaml:"), "{to}:\n{}", checked.err);
}

#[test]
fn mistakes_of_a_report_are_found_before_it_runs() {
    let project = small(SMALL);
    for mistake in [
        ("model: line, metric", "model: lime, metric", "did you mean `line`?"),
        ("[1000, 30000]", "[30000, 1000]", "the lower end 30000 must be below the upper end 1000"),
        ("linear.base_us: [", "linear.bose_us: [", "did you mean `deployment.latency.linear.base_us`?"),
        ("[1000, 30000]", "[-30000, -1000]", "base_us"),
        ("idle_s: 0.5", "idle_s: -1", "`idle_s` must be a number above 0"),
        ("idle_s: 0.5", "", "`deployment.latency.linear.base_us` would not be fitted"),
        ("idle_s: 0.5", "", "nothing of `line` is fitted"),
        ("model: line, metric: e2e", "model: line, metric: step", "no figure of `step` here"),
        (
            "model: line, metric: e2e, figure: mape, fitted",
            "model: roofline, metric: e2e, figure: mape, fitted",
            "nothing of `roofline` is fitted",
        ),
        ("gpu: h100-sxm", "gpu: h100-smx", "did you mean `h100-sxm`?"),
        ("latency: roofline", "latency: { operators: { profile: nowhere } }", "nowhere"),
        ("trials: 40", "trials: 0", "`trials` is 0"),
    ] {
        refused(&project, SMALL, mistake);
    }
}

const HEAD: &str = "backend,model_path,system,tp_size,pp_size,attention_dp_size,moe_ep_size,isl,osl,batch_size,\
                    gemm_quant_mode,moe_quant_mode,silicon_ttft_ms,silicon_tpot_ms\n";

#[test]
fn tables_of_configurations_are_read_row_by_row() {
    let project = Project::new();
    let rows_of = |n: u32| {
        let row = |i: u32| format!("vllm,meta-llama/Llama-3.1-8B,h100_sxm,1,1,,,256,32,{},,,{}.0,8.5\n", i + 1, 20 + i);
        (0..n).map(row).collect::<String>()
    };
    let text = format!(
        "{HEAD}{}vllm,nobody/knows,h100_sxm,1,1,,,256,32,4,,,20,8\nsglang,meta-llama/Llama-3.1-8B,h100_sxm,1,1,,,256,32,4,,,20,8\n",
        rows_of(6)
    );
    project.write("data/silicon.csv", &text);
    let pipeline = |file: &str| {
        format!(
            "name: tables\nstages:\n  report:\n    fidelity:\n      configurations:\n        t:\n          path: ../data/{file}\n          only: {{ backend: [vllm] }}\n          systems:\n            h100_sxm: {{ gpu: h100-sxm, models: {{ roofline: {{ latency: roofline }} }} }}\n"
        )
    };
    project.write("pipelines/tables.yaml", &pipeline("silicon.csv"));
    project.run(&["run", "pipelines/tables.yaml"]).ok();
    let found =
        project.rows("SELECT line, users, simulated_tpot_ms, left_out FROM tables.report_configurations ORDER BY line");
    assert_eq!(found.len(), 7);
    assert!(found[..6].iter().all(|r| r["simulated_tpot_ms"].as_f64() > Some(1.0) && r["left_out"] == ""), "{found:?}");
    assert!(found[6]["left_out"].as_str().is_some_and(|why| why.contains("nobody/knows")), "{}", found[6]);
    for (bad, expect) in [
        (text.replace("8.5", "-1"), ":2: `silicon_tpot_ms` is `-1`"),
        (text.replace("silicon_ttft_ms", "ttft"), "no column `silicon_ttft_ms`"),
        (text.replace("vllm,", "other,"), "no row is asked for"),
    ] {
        project.write("data/bad.csv", &bad);
        project.write("pipelines/bad.yaml", &pipeline("bad.csv"));
        let ran = project.run(&["run", "pipelines/bad.yaml"]);
        assert!(ran.code != Some(0) && ran.err.contains(expect), "{expect}:\n{}", ran.err);
    }
}

/// Steps of one to sixteen requests that decode: 10 ms, and one more per request; prompts.
const STEPS: &str = "prefill_tokens,prefill_requests,prefill_context,decode_requests,decode_context,latency_ms
0,0,0,1,100,11
0,0,0,2,200,12
0,0,0,4,400,14
0,0,0,8,800,18
0,0,0,16,1600,26
64,1,0,0,0,15
512,8,0,0,0,40
";

const SCALED: &str = "\
name: scaled
seed: 1
stages:
  trace: { synthesize: { requests: 20, rate_rps: 2, input: { constant: { tokens: 512 } }, output: { constant: { tokens: 20 } } } }
  own: { profile: { generic: { path: ../data/steps.csv } } }
  report:
    fidelity:
      configurations:
        t:
          path: ../data/silicon.csv
          client: { requests_per_user: 4, warmup_per_user: 1 }
          deployment: { scheduler: { vllm_v1: { max_num_seqs: 64 } } }
          systems:
            h100_sxm: { gpu: h100-sxm, models: { steps: { latency: { steps: { profile: own } } }, roofline: { latency: roofline } } }
          aims: [ { model: steps, metric: tpot, figure: mape, fitted: true, max_pct: 10 } ]
      steps:
        s:
          profile: own
          deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }
          models: { steps: { latency: { steps: { profile: own } } } }
          aims: [ { model: steps, metric: step, figure: mape, max_pct: 0.1 } ]
";

/// Rows of a server that is 30 % slower than [`STEPS`]; two of replies of one token, and one of weights that are not known.
fn slower() -> String {
    let row = |users: u32, osl: u32, gemm: &str, tpot: f64| {
        format!("vllm,meta-llama/Llama-3.1-8B,h100_sxm,1,1,,,64,{osl},{users},{gemm},,30,{tpot:.2}\n")
    };
    let same: String = (1..=16).map(|users| row(users, 40, "", 1.3 * (10.0 + f64::from(users)))).collect();
    format!("{HEAD}{same}{}{}{}", row(3, 1, "", 9.0), row(5, 1, "", 9.0), row(2, 40, "nvfp4", 9.0))
}

#[test]
fn a_factor_is_fitted_to_one_half_of_a_table() {
    let project = Project::new();
    project.write("data/steps.csv", STEPS);
    project.write("data/silicon.csv", &slower());
    project.write("pipelines/scaled.yaml", SCALED);
    let ran = project.run(&["run", "pipelines/scaled.yaml"]).ok();
    assert!(ran.out.contains("2 of 2 aims met"), "{}", ran.out);
    let scale = project.rows("SELECT * FROM scaled.report_parameters");
    assert_eq!((scale.len(), &scale[0]["parameter"]), (1, &"deployment.latency.steps.scale".into()), "{scale:?}");
    let value = scale[0]["value"].as_f64().expect("a number");
    assert!((1.15..1.35).contains(&value), "{value}");
    let figures = project.rows("SELECT * FROM scaled.report WHERE latency_model = 'steps' AND metric <> 'step'");
    let of = |fitted: bool, part: &str, metric: &str, column: &str| {
        let same = |r: &&serde_json::Value| r["fitted"] == fitted && r["part"] == part && r["metric"] == metric;
        figures.iter().find(same).unwrap_or_else(|| panic!("{part} {metric}: {figures:?}"))[column].as_f64()
    };
    for part in ["train", "test"] {
        assert!(of(true, part, "tpot", "mape_pct") < of(false, part, "tpot", "mape_pct"), "{figures:?}");
    }
    // Of 19 rows one cannot be simulated, and two have no TPOT; each is told in the half that it is of.
    for (metric, pairs, without) in [("ttft", 18.0, 1.0), ("tpot", 16.0, 3.0)] {
        assert_eq!(
            (of(false, "all", metric, "pairs"), of(false, "all", metric, "not_simulated")),
            (Some(pairs), Some(without))
        );
        for fitted in [false, true] {
            let both = |column| Some(of(fitted, "train", metric, column)? + of(fitted, "test", metric, column)?);
            assert_eq!((both("pairs"), both("not_simulated")), (Some(pairs), Some(without)), "{metric}: {figures:?}");
        }
    }
    let rows = project.rows(
        "SELECT simulated_ttft_ms AS ttft, simulated_tpot_ms AS tpot, left_out FROM scaled.report_configurations \
         WHERE latency_model = 'steps' AND NOT fitted ORDER BY line",
    );
    assert!(rows[16..18].iter().all(|r| r["ttft"].is_number() && r["tpot"].is_null()), "{rows:?}");
    assert!(rows[16..18].iter().all(|r| r["left_out"] == "replies of one token have no TPOT"), "{rows:?}");
    assert!(rows[18]["ttft"].is_null() && rows[18]["left_out"].as_str().is_some_and(|why| why.contains("nvfp4")));
}

#[test]
fn what_has_no_other_half_is_not_fitted() {
    let project = Project::new();
    project.write("data/steps.csv", STEPS);
    let one: String = slower().lines().take(2).map(|line| format!("{line}\n")).collect();
    project.write("data/silicon.csv", &one);
    project.write("pipelines/scaled.yaml", SCALED);
    let ran = project.run(&["run", "pipelines/scaled.yaml"]).ok();
    assert!(ran.out.contains("1 of 2 aims met") && ran.out.contains("mape of tpot was never found"), "{}", ran.out);
    assert!(project.rows("SELECT * FROM scaled.report WHERE fitted").is_empty());
    assert!(project.rows("SELECT * FROM scaled.report_parameters").is_empty());
}

#[test]
fn mistakes_of_tables_and_steps_are_found_before_they_run() {
    let project = Project::new();
    project.write("data/steps.csv", STEPS);
    project.write("data/silicon.csv", &slower());
    for mistake in [
        ("max_num_seqs: 64", "max_num_sqes: 64", "did you mean `max_num_seqs`?"),
        ("max_num_seqs: 64", "max_num_seqs: 0", "max_num_seqs"),
        ("steps: { profile: own } } }, roofline", "steps: { profile: own, scale: -1 } } }, roofline", "scale"),
        ("{ latency: roofline }", "{ latency: rofline }", "did you mean `roofline`?"),
        (
            "{ latency: roofline }",
            "{ latency: roofline, fit: { deployment.overheads.step_us: [0, 9] } }",
            "`deployment.overheads.step_us` would not be fitted",
        ),
        ("metric: tpot", "metric: e2e", "no figure of `e2e` here"),
        ("model: steps, metric: tpot", "model: roofline, metric: tpot", "nothing of `roofline` is fitted"),
        ("metric: step,", "metric: ttft,", "no figure of `ttft` here"),
        ("metric: step,", "metric: step, fitted: true,", "nothing of `steps` is fitted"),
        (
            "          models: { steps: { latency: { steps: { profile: own } } } }",
            "          models: { steps: { latency: { steps: { profile: own } }, fit: { deployment.latency.steps.scale: [1, 2] } } }",
            "`deployment.latency.steps.scale` would not be fitted",
        ),
    ] {
        refused(&project, SCALED, mistake);
    }
    // A table that is no profile is told once, though a model and the steps name it.
    project.write("pipelines/wrong.yaml", &SCALED.replace("profile: own", "profile: trace"));
    let checked = project.run(&["check", "pipelines/wrong.yaml"]);
    assert_eq!(checked.err.matches("`trace` is no profile").count(), 1, "{}", checked.err);
}
