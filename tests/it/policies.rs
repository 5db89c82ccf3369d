//! What queue orders, timeouts and the queueing model do to real tables.

use serde_json::Value;

use crate::project::Project;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

#[test]
fn an_order_of_the_queue_helps_whom_it_is_for() {
    let project = Project::new();
    project.run(&["run", "pipelines/priorities.yaml"]).ok();
    let rows = project.rows("SELECT * FROM priorities.answer");
    let of = |policy: &str, class: &str, column: &str| {
        let row = rows.iter().find(|r| r["policy"] == policy && r["class"] == class).unwrap();
        number(&row[column])
    };
    let chat = |policy: &str| of(policy, "chat", "ttft_ms_p99");
    let batch = |policy: &str| of(policy, "batch", "ttft_ms_p99");
    assert!(chat("priority") * 4.0 < chat("fcfs"), "{rows:?}");
    assert!(batch("priority") > 2.0 * batch("fcfs"), "{rows:?}");
    // Deadlines let batch work that has waited long go before chat.
    assert!(chat("priority") < chat("edf") && batch("edf") < batch("priority"), "{rows:?}");
    let met = |policy: &str, class: &str| of(policy, class, "deadline_met");
    assert!(met("edf", "chat") > met("fcfs", "chat") && met("edf", "batch") > met("priority", "batch"), "{rows:?}");
}

#[test]
fn requests_end_as_their_clients_and_the_horizon_say() {
    let project = Project::new();
    project.write(
        "pipelines/ends.yaml",
        "name: ends
seed: 3
stages:
  trace:
    synthesize: { requests: 400, rate_rps: 40, input: { constant: { tokens: 540 } }, output: { constant: { tokens: 200 } } }
  sim:
    simulate:
      requests: trace
      steps: true
      deployment:
        model: meta-llama/Llama-3.1-8B
        gpu: h100-sxm
        tick: 1us
        latency: simple_roofline
        scheduler: { vllm_v1: { async_scheduling: true, scheduler_overhead_us: 500 } }
      workload: { timeout_s: 3, max_tokens: 150, horizon_s: 9, cancel: { share: 0.2, after_s: 4 } }
  queue:
    simulate:
      requests: trace
      deployment:
        model: meta-llama/Llama-3.1-8B
        gpu: l40s
        scheduler: { exclusive: { servers: 3, decode_servers: 40 } }
        latency: { rates: { prefill_tokens_per_s: 18000, decode_tokens_per_s: 100 } }
",
    );
    project.run(&["run", "pipelines/ends.yaml"]).ok();
    let row = &project.rows("SELECT * FROM ends.sim")[0];
    let count = |name: &str| number(&row[name]);
    for status in ["length_capped", "timed_out", "cancelled", "in_flight"] {
        assert!(count(status) > 0.0, "{status}: {row}");
    }
    let ended = ["finished", "length_capped", "rejected", "timed_out", "cancelled", "in_flight"].map(count);
    assert_eq!(ended.iter().sum::<f64>(), count("requests"));
    assert!(count("mfu") > 0.0 && count("mfu") < 1.0 && count("mbu") > 0.0 && count("mbu") <= 1.0, "{row}");
    let ticks = "SELECT count(*) AS n FROM ends.sim_steps WHERE duration_ns % 1000 <> 0 OR duration_ns < 500000";
    assert_eq!(project.rows(ticks)[0]["n"], 0);
    // 540 tokens at 18,000 per second, then the first token after 10 ms: 40 ms at least, and no queue before decode.
    let shortest = project.rows("SELECT min(ttft_ns) AS ttft, min(e2e_ns) AS e2e FROM ends.queue_requests");
    assert_eq!((&shortest[0]["ttft"], &shortest[0]["e2e"]), (&Value::from(40_000_000), &Value::from(2_030_000_000)));
}
