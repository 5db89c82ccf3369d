//! Real traces, where they are at hand: counts and means as their publishers and our own reading of the files say.

use crate::project::{Project, shared};

fn facts(trace: &str) -> Option<serde_json::Value> {
    ingested(trace)?.rows("SELECT * FROM mooncake.facts").into_iter().next()
}

/// A project with the trace as `mooncake.trace`.
fn ingested(trace: &str) -> Option<Project> {
    let file = shared()?.join("data/traces").join(trace);
    if !file.is_file() {
        eprintln!("skipped: no {trace}");
        return None;
    }
    let project = Project::new();
    let set = format!("trace={}", file.display());
    project.run(&["run", "pipelines/mooncake.yaml", "--set", &set, "--only", "facts"]).ok();
    Some(project)
}

fn row(project: &Project, sql: &str) -> serde_json::Value {
    project.rows(sql).into_iter().next().expect("one row")
}

/// Blocks, and different ones: of chained hashes every block but the first of its kind is a hit of a cache without end.
const BLOCKS: &str = "SELECT count(*) AS blocks, count(DISTINCT hash) AS distinct_blocks \
                      FROM (SELECT unnest(block_hashes) AS hash FROM mooncake.trace)";
/// Coefficient of variation of the time between arrivals.
const CV: &str = "SELECT stddev_pop(gap) / avg(gap) AS cv FROM \
                  (SELECT arrival_ns - lag(arrival_ns) OVER (ORDER BY request_id) AS gap FROM mooncake.trace)";

/// kvcache-ai/Mooncake, FAST'25 release: 36.64 % and 63.96 % of blocks are hits of a cache without end.
#[test]
fn mooncake_prefixes() {
    for (trace, blocks, distinct) in [("conversation", 288_500, 182_790), ("synthetic", 121_877, 43_924)] {
        let Some(project) = ingested(&format!("mooncake/{trace}_trace.jsonl")) else { return };
        let f = row(&project, BLOCKS);
        assert_eq!((&f["blocks"], &f["distinct_blocks"]), (&blocks.into(), &distinct.into()), "{trace}");
    }
}

/// kvcache-ai/Mooncake, FAST'25 release.
#[test]
fn mooncake_synthetic() {
    let Some(f) = facts("mooncake/synthetic_trace.jsonl") else { return };
    assert_eq!(f["requests"], 3_993);
    close(&f["input_tokens_mean"], 15_325.48);
    close(&f["output_tokens_mean"], 149.12);
    close(&f["duration_s"], 1_022.025);
}

/// Azure/AzurePublicDataset, LLM inference traces of 2023: the burstiness of their arrivals.
#[test]
fn azure_burstiness() {
    for (trace, cv) in [("conv", 1.094_17), ("code", 13.151_29)] {
        let Some(project) = ingested(&format!("azure/AzureLLMInferenceTrace_{trace}.csv")) else { return };
        let got = row(&project, CV)["cv"].as_f64().expect("a number");
        assert!((got - cv).abs() < 0.000_01, "{trace}: {got}");
    }
}

/// RAGPulse: prompts of parts, whose lengths are in files beside it; 1,300,057 full blocks of 16 tokens.
#[test]
fn ragpulse() {
    let Some(project) = ingested("ragpulse/0_trace.jsonl") else { return };
    let f = row(&project, "SELECT * FROM mooncake.facts");
    assert_eq!((&f["requests"], &f["duration_s"]), (&7_106.into(), &604_603.0.into()));
    assert_eq!((&f["input_tokens"], &f["output_tokens"]), (&20_917_099.into(), &2_012_676.into()));
    let sessions = row(&project, "SELECT count(DISTINCT session_id) AS n FROM mooncake.trace");
    assert_eq!(sessions["n"], 3_990);
    let blocks = row(&project, BLOCKS);
    assert_eq!((&blocks["blocks"], &blocks["distinct_blocks"]), (&1_300_057.into(), &889_182.into()));
}

/// Vidur's synthetic trace of sessions, with block hashes.
#[test]
fn vidur_sessions() {
    let Some(project) = ingested("vidur/session_trace_synthetic.csv") else { return };
    let f = row(&project, "SELECT * FROM mooncake.facts");
    assert_eq!(
        (&f["requests"], &f["input_tokens"], &f["output_tokens"]),
        (&1_531.into(), &2_750_499.into(), &204_590.into())
    );
    let blocks = row(&project, BLOCKS);
    assert_eq!((&blocks["blocks"], &blocks["distinct_blocks"]), (&183_986.into(), &47_497.into()));
}

fn close(value: &serde_json::Value, expected: f64) {
    let got = value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"));
    assert!((got - expected).abs() < 0.005, "{got}, expected {expected}");
}

/// kvcache-ai/Mooncake, FAST'25 release.
#[test]
fn mooncake_conversation() {
    let Some(f) = facts("mooncake/conversation_trace.jsonl") else { return };
    assert_eq!(f["requests"], 12_031);
    close(&f["input_tokens_mean"], 12_035.06);
    close(&f["output_tokens_mean"], 342.62);
    close(&f["duration_s"], 3_536.999);
    assert_eq!(f["input_tokens_max"], 126_195);
    close(&f["input_tokens_p50"], 6_909.0);
}

/// Azure/AzurePublicDataset, LLM inference traces of 2023.
#[test]
fn azure_conversation() {
    let Some(f) = facts("azure/AzureLLMInferenceTrace_conv.csv") else { return };
    assert_eq!(f["requests"], 19_366);
    assert_eq!(f["input_tokens"], 22_361_870);
    assert_eq!(f["output_tokens"], 4_088_665);
}

/// Azure/AzurePublicDataset, LLM inference traces of 2023.
#[test]
fn azure_code() {
    let Some(f) = facts("azure/AzureLLMInferenceTrace_code.csv") else { return };
    assert_eq!(f["requests"], 8_819);
    assert_eq!(f["input_tokens"], 18_059_974);
    assert_eq!(f["output_tokens"], 245_896);
}
