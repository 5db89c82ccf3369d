//! Real traces, where they are at hand: counts and means as their publishers and our own reading of the files say.

use crate::project::{Project, shared};

fn facts(trace: &str) -> Option<serde_json::Value> {
    let file = shared()?.join("data/traces").join(trace);
    if !file.is_file() {
        eprintln!("skipped: no {trace}");
        return None;
    }
    let project = Project::new();
    let set = format!("trace={}", file.display());
    project.run(&["run", "pipelines/mooncake.yaml", "--set", &set, "--only", "facts"]).ok();
    project.rows("SELECT * FROM mooncake.facts").into_iter().next()
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
