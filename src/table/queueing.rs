//! What `simulate` makes of a queueing deployment: a row per scenario, and a row per request of each.
//!
//! Columns that llm-simulator has are named as there, nested ones joined with `_`, and in seconds as there. The columns of
//! a scenario are `scenario_id`, `scenario`, one column per setting, then [`figures`]. Scenarios are numbered from 0 in
//! the order of the sweep; requests are sorted by scenario and number. What does not come about before the end of the
//! simulation is null.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::column;
use super::simulation::scenario_id;

fn int(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int64, false, unit, description)
}

/// Of one kind of cluster only.
fn gpus(name: &str, description: &str) -> Field {
    column(name, DataType::Int64, true, "", description)
}

fn float(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Float64, false, unit, description)
}

/// Null where nothing was sampled, or of one kind of cluster only.
fn optional(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Float64, true, unit, description)
}

fn ns(name: &str, nullable: bool, description: &str) -> Field {
    column(name, DataType::Int64, nullable, "ns", description)
}

/// Mean and quantiles of a time.
fn times(name: &str, what: &str) -> [Field; 4] {
    [
        optional(&format!("mean_{name}_s"), "s", &format!("Mean {what}")),
        optional(&format!("p50_{name}_s"), "s", &format!("Median (exact, linear interpolation): {what}")),
        optional(&format!("p90_{name}_s"), "s", &format!("90th percentile: {what}")),
        optional(&format!("p99_{name}_s"), "s", &format!("99th percentile: {what}")),
    ]
}

/// A distribution of token counts.
fn tokens(name: &str, what: &str) -> [Field; 5] {
    [
        float(&format!("{name}_log_mu"), "", &format!("Mean of the logarithm of {what}")),
        float(&format!("{name}_log_sigma"), "", &format!("Standard deviation of the logarithm of {what}")),
        int(&format!("{name}_log_min_value"), "tokens", &format!("Least of {what}")),
        float(&format!("{name}_real_mean"), "tokens", &format!("Mean of {what}, before the least one applies")),
        float(
            &format!("{name}_real_std"),
            "tokens",
            &format!("Standard deviation of {what}, before the least one applies"),
        ),
    ]
}

/// The last columns of the scenarios: what each came to.
pub fn figures() -> Vec<Field> {
    let mut fields = vec![
        int("gpus", "", "GPUs of the cluster that was simulated"),
        int("arrived_requests", "", "Requests that arrived before the end"),
        int("completed_requests", "", "Requests whose last token came before the end"),
        int("num_samples", "", "Times to first token that count: first tokens from the warm-up on"),
    ];
    fields.extend(times("ttft", "time to first token, of first tokens from the warm-up on"));
    fields.extend([
        float("elapsed_s", "s", "End of the simulation"),
        column(
            "mode",
            DataType::Utf8,
            false,
            "",
            "mono: GPUs that do whole requests; disagg: prefill and decode apart",
        ),
        float("throughput_rps", "1/s", "Completed requests per second from 0 to the end, warm-up included"),
        optional(
            "utilization_gpu",
            "",
            "mono: service time of requests with a first token, their decode whole, as a share of GPU time; may pass 1",
        ),
        optional("utilization_prefill", "", "disagg: service time of prompts that are done, as a share of GPU time"),
        optional(
            "utilization_decode",
            "",
            "disagg: service time of outputs with a first token, counted whole, as a share of GPU time; may pass 1",
        ),
        gpus("num_gpus", "mono: GPUs"),
        gpus("prefill_gpus", "disagg: GPUs for prompts"),
        gpus("decode_gpus", "disagg: GPUs for outputs"),
        float("arrival_rate_per_s", "1/s", "Mean arrival rate"),
    ]);
    fields.extend(tokens("prompt_tokens", "prompt lengths"));
    fields.extend(tokens("output_tokens", "output lengths"));
    fields.extend(times("prefill_wait", "wait for a GPU that does the prompt, of first tokens from the warm-up on"));
    fields.extend(times("decode_wait", "wait between prefill and decode, of first tokens from the warm-up on"));
    fields.extend(times("e2e", "time from arrival to last token, of last tokens from the warm-up on"));
    fields.extend([
        optional("occupancy_gpu", "", "mono: share of the GPU time up to the end for which GPUs were held"),
        optional(
            "occupancy_prefill",
            "",
            "disagg: share of the prefill GPU time up to the end for which GPUs were held",
        ),
        optional("occupancy_decode", "", "disagg: share of the decode GPU time up to the end for which GPUs were held"),
    ]);
    fields
}

/// `<stage>_requests`: a row per scenario and request that arrived before the end.
pub fn requests() -> SchemaRef {
    Arc::new(Schema::new(vec![
        scenario_id(),
        int("request_id", "", "Number of the request in the order of arrival, from 0"),
        column("status", DataType::Utf8, false, "", "finished, or in_flight: not done at the end"),
        column("measured", DataType::Boolean, false, "", "Counts in the times to first token of the scenario"),
        column("class", DataType::Utf8, true, "", "Class of service: always null, there are none here"),
        ns("arrival_ns", false, "Arrival"),
        ns("prefill_start_ns", true, "When a GPU begins with the prompt"),
        ns("prefill_end_ns", true, "When the prompt is done"),
        ns("decode_start_ns", true, "When a GPU begins with the output; of a monolithic one, when the prompt is done"),
        ns("first_token_ns", true, "When the first token is out"),
        ns("finished_ns", true, "When the last token is out"),
        ns("prefill_wait_ns", true, "Prefill start minus arrival"),
        ns("decode_wait_ns", true, "Decode start minus prefill end"),
        ns("ttft_ns", true, "Time to first token: first token minus arrival"),
        ns("e2e_ns", true, "Finished minus arrival"),
        int("prompt_tokens", "tokens", "Length of the prompt"),
        int("output_tokens", "tokens", "Length of the output, whether it was finished or not"),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_once() {
        for fields in [figures(), requests().fields().iter().map(|f| f.as_ref().clone()).collect()] {
            let names: std::collections::BTreeSet<_> = fields.iter().map(|f| f.name()).collect();
            assert_eq!(names.len(), fields.len());
        }
    }
}
