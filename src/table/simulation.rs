//! What `simulate` makes: a row per scenario, a row per request of each scenario, and, where asked for, a row per step.
//!
//! Times are nanoseconds since the start of the trace. Scenarios are numbered from 0 in the order of the sweep; the
//! tables are sorted by scenario, then by request, or by the end of the step.
//!
//! The columns of a scenario depend on its settings: `scenario_id`, `scenario`, one column per scalar setting, then
//! [`totals`].

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::column;

/// Version of the rows that a simulation is remembered by. Raised by hand when [`memo_requests`], [`memo_steps`] or
/// the totals kept with them change, so that rows of an older shape are never reused.
pub const MEMO_VERSION: u32 = 1;

fn scenario_id() -> Field {
    column("scenario_id", DataType::Int64, false, "", "Number of the scenario, from 0, in the order of the sweep")
}

fn ns(name: &str, nullable: bool, description: &str) -> Field {
    column(name, DataType::Int64, nullable, "ns", description)
}

fn int(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int64, false, unit, description)
}

fn int32(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int32, false, unit, description)
}

fn float(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Float64, true, unit, description)
}

/// `<stage>_requests`: a row per scenario and request, sorted by both.
pub fn requests() -> SchemaRef {
    let memo = memo_requests();
    let own = |i: usize| memo.field(i).clone();
    let mut fields = vec![scenario_id(), own(0), own(1), own(2)];
    fields.push(column("class", DataType::Utf8, true, "", "Class of service, from the trace"));
    fields.push(column("session_id", DataType::Utf8, true, "", "Conversation that the request belongs to"));
    fields.extend((3..memo.fields().len()).map(own));
    Arc::new(Schema::new(fields))
}

/// The rows of one scenario as they are remembered: [`requests`] without what other tables know (`scenario_id`,
/// `class`, `session_id`). Sorted by request.
pub fn memo_requests() -> SchemaRef {
    Arc::new(Schema::new(vec![
        int("request_id", "", "Number of the request in the trace, from 0"),
        int32("replica", "", "Replica that served it, from 0"),
        column("status", DataType::Utf8, false, "", "finished, or rejected: can never run, too long"),
        ns("arrival_ns", false, "Arrival in this scenario"),
        ns("scheduled_ns", true, "First time that the scheduler gave it tokens"),
        ns("first_token_ns", true, "When the client has the first token"),
        ns("finished_ns", true, "When the client has the last token"),
        ns("queue_ns", true, "Scheduled minus arrival"),
        ns("ttft_ns", true, "Time to first token: first token minus arrival"),
        ns(
            "tpot_ns",
            true,
            "Time per output token: (finished - first token) / (output tokens - 1), to the nearest ns; null for one token",
        ),
        ns("e2e_ns", true, "Finished minus arrival"),
        int32("input_tokens", "tokens", "Length of the prompt"),
        int32("output_tokens", "tokens", "Tokens generated"),
        int32("cached_tokens", "tokens", "Prompt tokens found in the prefix cache at first admission"),
        int32("preemptions", "", "Times that it lost its KV cache to other requests"),
    ]))
}

/// `<stage>_steps`: a row per scenario and iteration of a replica's engine, in the order of their ends.
pub fn steps() -> SchemaRef {
    let mut fields = vec![scenario_id()];
    fields.extend(memo_steps().fields().iter().map(|f| f.as_ref().clone()));
    Arc::new(Schema::new(fields))
}

/// [`steps`] of one scenario as they are remembered.
pub fn memo_steps() -> SchemaRef {
    Arc::new(Schema::new(vec![
        int32("replica", "", "Replica, from 0"),
        ns("step_start_ns", false, "When the step began"),
        ns("duration_ns", false, "How long it took"),
        int32("decode_requests", "", "Requests that the step gave one more token"),
        int32("prefill_requests", "", "Requests whose prompts the step worked on"),
        int32("prefill_tokens", "tokens", "Prompt tokens that the step worked on"),
        int32("waiting", "", "Requests in the queue of the replica"),
        int("kv_blocks_used", "blocks", "KV blocks in use"),
    ]))
}

/// The first columns of the scenarios.
pub fn identity() -> Vec<Field> {
    vec![
        scenario_id(),
        column(
            "scenario",
            DataType::Utf8,
            false,
            "",
            "Hash of everything that the scenario's rows depend on: settings, facts, requests, version of the simulator",
        ),
    ]
}

/// The last columns of the scenarios: what the whole scenario came to.
pub fn totals() -> Vec<Field> {
    vec![
        int("gpus", "", "GPUs of all replicas: replicas x tp x pp"),
        int("requests", "", "Requests that arrived"),
        int("finished", "", "Requests that were served to the end"),
        int("rejected", "", "Requests that can never run, because they are too long"),
        int("preemptions", "", "Times that a request lost its KV cache to others"),
        int("steps", "", "Iterations of all replicas"),
        ns("duration_ns", false, "From the first arrival to the last completion"),
        ns("busy_ns", false, "Time in steps, summed over the replicas"),
        int("input_tokens", "tokens", "Prompt tokens of finished requests"),
        int("output_tokens", "tokens", "Tokens generated for finished requests"),
        int("kv_blocks_total", "blocks", "KV blocks of one replica"),
        int("kv_blocks_max", "blocks", "Most KV blocks in use at once on any replica"),
        int("prefix_tokens_queried", "tokens", "Prompt tokens looked up in the prefix cache at first admissions"),
        int("prefix_tokens_hit", "tokens", "Prompt tokens found there"),
        float("request_rps", "1/s", "Finished requests per second of the duration"),
        float("output_tps", "tokens/s", "Generated tokens per second of the duration"),
        float("itl_ms_mean", "ms", "Mean gap between two consecutive tokens of a request"),
        float(
            "itl_ms_p50",
            "ms",
            "Median gap between two consecutive tokens of a request (exact, linear interpolation)",
        ),
        float("itl_ms_p90", "ms", "90th percentile of the gaps between tokens (exact, linear interpolation)"),
        float("itl_ms_p99", "ms", "99th percentile of the gaps between tokens (exact, linear interpolation)"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_their_columns_in_order() {
        let names: Vec<_> = requests().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(
            names.join(" "),
            "scenario_id request_id replica status class session_id arrival_ns scheduled_ns first_token_ns \
             finished_ns queue_ns ttft_ns tpot_ns e2e_ns input_tokens output_tokens cached_tokens preemptions"
        );
    }
}
