//! Models and GPUs of a project's own, and what `auto` says that it picked.

use crate::project::Project;

const FILE: &str = "pipelines/own.yaml";

const PIPELINE: &str = "name: own
stages:
  made:
    synthesize: { requests: 20, rate_rps: 5, input: { normal: { mean: 64, std: 8, min: 16 } }, output: { normal: { mean: 8, std: 2, min: 2 } } }
  sim:
    simulate:
      requests: made
      deployment: { model: ./mine/config.json, gpu: mine }
";

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
    "intermediate_size": 4096, "vocab_size": 32000, "max_position_embeddings": 2048}"#;

const GPU: &str = "my-gpu:
  source: its datasheet
  date: \"2026-11-22\"
  aliases: [mine]
  facts: { bf16_tflops: 400, memory_gib: 64, memory_tb_per_s: 2 }
";

#[test]
fn a_model_is_a_config_beside_the_pipeline_and_a_change_of_it_is_seen() {
    let project = Project::new();
    project.write(FILE, PIPELINE);
    project.write("pipelines/mine/config.json", CONFIG);
    project.write("data/catalog/gpus.yaml", GPU);
    project.run(&["run", FILE]).ok();
    let of = |column: &str| project.rows(&format!("SELECT {column} AS x FROM own.sim"))[0]["x"].clone();
    assert_eq!(
        (of("deployment_model"), of("deployment_gpu"), of("latency_model")),
        ("./mine/config.json".into(), "my-gpu".into(), "roofline".into())
    );
    assert_eq!(of("latency_extrapolated_steps"), 0);
    let before = of("scenario");
    project.write("pipelines/mine/config.json", &CONFIG.replace("4096", "2048"));
    let plan = project.run(&["plan", FILE]).ok();
    assert!(plan.out.contains("facts"), "{}", plan.out);
    project.run(&["run", FILE]).ok();
    assert_ne!(of("scenario"), before);
    project.write("pipelines/mine/config.json", "{}");
    let wrong = project.run(&["check", FILE]);
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.err.contains("pipelines/mine/config.json`: has no `model_type`") && wrong.err.contains("own.yaml:8"),
        "{}",
        wrong.err
    );
}

#[test]
fn fitted_coefficients_are_picked_and_show_knows_gpus_and_models() {
    let project = Project::new();
    let known = PIPELINE
        .replace("./mine/config.json", "llama-3.1-8b")
        .replace("gpu: mine", "gpu: h100, tp: 2, latency: fitted");
    project.write(FILE, &known);
    project.run(&["run", FILE]).ok();
    let rows = project.rows("SELECT s.latency_model AS s, p.latency_model AS p FROM own.sim s, own.sim_pools p");
    assert_eq!((&rows[0]["s"], &rows[0]["p"]), (&"fitted vllm 0.8.4".into(), &"fitted vllm 0.8.4".into()));
    project.write("data/catalog/gpus.yaml", GPU);
    let shown = project.run(&["show", "gpu", "mine"]).ok();
    assert!(shown.out.contains("400 TFLOP/s dense; 200 per byte"), "{}", shown.out);
    assert!(project.run(&["show", "prices", "h100"]).ok().out.contains("6.8800"));
    // A table of that name is a table, alone or with its pipeline.
    project.write(FILE, &known.replace("  made:", "  gpu: { sql: SELECT 1 AS one }\n  made:"));
    project.run(&["run", FILE]).ok();
    for name in ["gpu", "own.gpu"] {
        assert!(project.run(&["show", name]).ok().out.starts_with("own.gpu: 1 rows"));
    }
    assert!(project.run(&["show", "gpu", "mine"]).ok().out.starts_with("my-gpu"));
}
