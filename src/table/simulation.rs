//! What `simulate` makes: a row per scenario, a row per request of each scenario, a histogram of the gaps between tokens
//! of each scenario, and, where asked for, a row per step.
//!
//! Times are nanoseconds since the start of the trace. Scenarios are numbered from 0 in the order of the sweep; the
//! tables are sorted by scenario, then by request, by gap, or by the end of the step.
//!
//! A request is served if its status is `finished` or `length_capped`. What a request did not come to is null: times and
//! spans that end with its last token are there for served requests only, those that end earlier wherever it got so far.
//!
//! The columns of a scenario depend on its settings: `scenario_id`, `scenario`, one column per scalar setting, then
//! [`totals`].

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::column;

/// Version of the rows that a simulation is remembered by. Raised by hand when [`memo_requests`], [`memo_steps`] or
/// the totals kept with them change, so that rows of an older shape are never reused.
pub const MEMO_VERSION: u32 = 3;

/// Latencies that a scenario has a distribution of, and what each is.
pub const LATENCIES: [(&str, &str); 7] = [
    ("ttft", "time to first token, of measured requests with a first token"),
    ("tpot", "time per output token after the first, of measured requests served with at least two"),
    ("itl", "gap between two consecutive tokens of a request, all gaps of all requests in one, measured or not"),
    ("e2e", "end-to-end latency, of measured requests that were served"),
    ("queue", "time from arrival to scheduling, of measured requests that were scheduled"),
    ("prefill", "time from scheduling to first token, of measured requests with a first token"),
    ("decode", "time from first to last token, of measured requests that were served"),
];

/// Quantiles of every latency: suffix of the column, and the quantile.
pub const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)];

fn scenario_id() -> Field {
    column("scenario_id", DataType::Int64, false, "", "Number of the scenario, from 0, in the order of the sweep")
}

fn ns(name: &str, nullable: bool, description: &str) -> Field {
    column(name, DataType::Int64, nullable, "ns", description)
}

fn int(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int64, false, unit, description)
}

fn bytes(name: &str, description: &str) -> Field {
    column(name, DataType::Int64, true, "bytes", description)
}

fn int32(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int32, false, unit, description)
}

fn float(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Float64, true, unit, description)
}

fn text(name: &str, description: &str) -> Field {
    column(name, DataType::Utf8, false, "", description)
}

/// `<stage>_requests`: a row per scenario and request, sorted by both.
pub fn requests() -> SchemaRef {
    let mut fields = vec![scenario_id(), int("request_id", "", "The request's number in the table of requests")];
    for field in request_columns().into_iter().skip(1) {
        if field.name() == "priority" {
            fields.push(column("class", DataType::Utf8, true, "", "Class of service, from the trace"));
            fields.push(column("session_id", DataType::Utf8, true, "", "Conversation that the request belongs to"));
        }
        fields.push(field);
    }
    Arc::new(Schema::new(fields))
}

/// Columns of [`requests`] that follow from others: not remembered, but made when the table is.
pub const DERIVED: [&str; 7] =
    ["queue_ns", "prefill_ns", "decode_ns", "ttft_ns", "tpot_ns", "tpot_incl_first_ns", "e2e_ns"];

/// The rows of one scenario as they are remembered: [`requests`] without what other tables know (`scenario_id`,
/// `class`, `session_id`) and without what is [`DERIVED`], with places instead of numbers. Sorted by request.
pub fn memo_requests() -> SchemaRef {
    let kept = |f: &Field| !DERIVED.contains(&f.name().as_str());
    Arc::new(Schema::new(request_columns().into_iter().filter(kept).collect::<Vec<_>>()))
}

fn request_columns() -> Vec<Field> {
    vec![
        int("request", "", "Place of the request in the table of requests sorted by number, from 0"),
        int32("replica", "", "Replica that it was sent to, from 0"),
        text(
            "status",
            "finished; length_capped: served, but cut by a limit; rejected: can never run, too long; timed_out or \
             cancelled: its client went; in_flight: not done at the horizon",
        ),
        column(
            "measured",
            DataType::Boolean,
            false,
            "",
            "Counts in the figures of the scenario: no warm-up or cool-down",
        ),
        column(
            "priority",
            DataType::Int32,
            true,
            "",
            "Lower goes first, where the scheduler looks at it: the request's own, else that of its class; null for the \
             default, 0",
        ),
        ns("arrival_ns", false, "Arrival in this scenario"),
        ns("deadline_ns", true, "When it should be done (a time, not a span); null where nobody says"),
        ns("queued_ns", true, "When it is in the queue of the scheduler; null where its client went before"),
        ns("scheduled_ns", true, "First time that the scheduler gave it tokens"),
        ns("first_token_ns", true, "When the client has the first token"),
        ns("finished_ns", true, "When the client has the last token; null unless served"),
        ns("queue_ns", true, "Scheduled minus arrival"),
        ns("prefill_ns", true, "First token minus scheduled"),
        ns("decode_ns", true, "Finished minus first token; null unless served"),
        ns("ttft_ns", true, "Time to first token: first token minus arrival"),
        ns(
            "tpot_ns",
            true,
            "Time per output token: (finished - first token) / (output tokens - 1), to the nearest ns; null for one \
             token, and unless served",
        ),
        ns(
            "tpot_incl_first_ns",
            true,
            "The other convention: (finished - arrival) / output tokens, to the nearest ns; null unless served",
        ),
        ns("e2e_ns", true, "Finished minus arrival; null unless served"),
        ns("itl_ns_mean", true, "Mean gap between its tokens, to the nearest ns; null for fewer than two tokens"),
        ns("itl_ns_p99", true, "99th percentile of the gaps between its tokens (linear interpolation, nearest ns)"),
        ns("itl_ns_max", true, "Longest gap between two of its tokens"),
        int32("preemptions", "", "Times that it lost its KV cache to other requests"),
        ns("preempted_ns", false, "Time lost to preemptions: from each until all is computed again that it lost"),
        int32("input_tokens", "tokens", "Length of the prompt"),
        int32("output_tokens", "tokens", "Tokens generated, whatever became of the request"),
        int32("cached_tokens", "tokens", "Prompt tokens found in the prefix cache at first admission"),
        int32("recomputed_tokens", "tokens", "Tokens computed again because a preemption lost them"),
    ]
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
        int32("batch_requests", "", "Requests in the batch: decode and prefill"),
        int32("decode_requests", "", "Requests that the step gave one more token"),
        int32("prefill_requests", "", "Requests whose prompts the step worked on"),
        int32("prefill_tokens", "tokens", "Prompt tokens that the step worked on"),
        int("context_tokens", "tokens", "Tokens in the cache, before the step, of the requests in the batch"),
        int32("running", "", "Requests that run once the batch was formed, in the batch or not"),
        int32("waiting", "", "Requests in the queue of the replica once the batch was formed"),
        int32("preempted", "", "Requests preempted while the batch was formed"),
        int("kv_blocks_used", "blocks", "KV blocks in use"),
    ]))
}

/// `<stage>_itl`: how many gaps between tokens are how long, sorted by scenario and gap. Bins are 1 ns wide below 64 ns,
/// and above there are 32 in every power of two, so none is wider than 1/32 of what is in it. Empty bins have no row.
pub fn itl() -> SchemaRef {
    Arc::new(Schema::new(vec![
        scenario_id(),
        ns("gap_ns_min", false, "Shortest gap of the bin"),
        ns("gap_ns_max", false, "Every gap of the bin is below this"),
        int("tokens", "tokens", "Tokens of all requests that came so long after the one before"),
    ]))
}

/// The first columns of the scenarios.
pub fn identity() -> Vec<Field> {
    vec![
        scenario_id(),
        text(
            "scenario",
            "Hash of everything that the scenario's rows depend on: settings, facts, requests, version of the simulator",
        ),
    ]
}

/// The last columns of the scenarios: what the whole scenario came to.
///
/// Counts, integrals and peaks are of all requests; figures of latencies, and the tokens of requests, of those that are
/// measured.
pub fn totals() -> Vec<Field> {
    let mut fields = counts();
    fields.extend(LATENCIES.into_iter().flat_map(|(name, what)| latency(name, what)));
    fields.extend(load());
    fields.extend(cache());
    fields.extend(verdicts());
    fields
}

fn counts() -> Vec<Field> {
    vec![
        int("gpus", "", "GPUs of all replicas: replicas x tp x pp, and of an exclusive scheduler x servers"),
        int("requests", "", "Requests that arrived: the sum of the six counts that follow"),
        int("finished", "", "Requests that were served to the end"),
        int("length_capped", "", "Requests that were served, but whose reply was cut by a limit"),
        int("rejected", "", "Requests that can never run, because they are too long"),
        int("timed_out", "", "Requests whose client gave up"),
        int("cancelled", "", "Requests whose client went away"),
        int("in_flight", "", "Requests that were not done at the horizon"),
        int("measured_requests", "", "Requests that arrived neither in the warm-up nor in the cool-down"),
        int("measured_served", "", "Requests of these that were finished or length_capped"),
        int("out_of_order", "", "Requests of the trace that arrive before one in front of them"),
        int("preemptions", "", "Times that a request lost its KV cache to others"),
        int("recomputed_tokens", "tokens", "Tokens computed again because preemptions lost them"),
        int("steps", "", "Iterations of all replicas"),
        ns("duration_ns", false, "From the first arrival to the end: the last completion, or the horizon"),
        ns("busy_ns", false, "Time in steps, summed over the replicas"),
        int("input_tokens", "tokens", "Prompt tokens of measured requests that were served"),
        int("output_tokens", "tokens", "Tokens generated for measured requests that were served"),
        ns(
            "rate_window_ns",
            false,
            "Span that the rates refer to: the duration, or with warm-up or cool-down the time from the first to the last \
             measured arrival",
        ),
        float("request_rps", "1/s", "Requests, measured or not, that were served in the rate window, per second of it"),
        float("output_tps", "tokens/s", "Tokens of these requests, per second of the rate window"),
    ]
}

fn latency(name: &str, what: &str) -> Vec<Field> {
    let mut fields = vec![float(&format!("{name}_ms_mean"), "ms", &format!("Mean {what}"))];
    for (suffix, q) in QUANTILES {
        // 0.999 is the 99.9th percentile; the product alone would print as 99.9 with a tail of digits.
        let percentile = (q * 1e6).round() / 1e4;
        let description = format!("{percentile}th percentile (exact, linear interpolation): {what}");
        fields.push(float(&format!("{name}_ms_{suffix}"), "ms", &description));
    }
    fields.push(float(&format!("{name}_ms_max"), "ms", &format!("Longest: {what}")));
    fields
}

fn load() -> Vec<Field> {
    vec![
        float("running_mean", "", "Requests running at a time, over the duration, on all replicas together"),
        int("running_max", "", "Most requests running at once on any replica"),
        float("waiting_mean", "", "Requests waiting at a time, over the duration, on all replicas together"),
        int("waiting_max", "", "Most requests waiting at once on any replica"),
        float("mfu", "", "Model FLOPs utilization in steps, 0 to 1; null where the latency model does not know it"),
        float(
            "mbu",
            "",
            "Memory bandwidth utilization in steps, 0 to 1; null where the latency model does not know it",
        ),
    ]
}

fn cache() -> Vec<Field> {
    vec![
        int("kv_blocks_total", "blocks", "KV blocks of one replica"),
        int("kv_blocks_max", "blocks", "Most KV blocks in use at once on any replica"),
        float("kv_usage_mean", "", "Share of the KV blocks of all replicas in use, over the duration"),
        float("kv_usage_max", "", "Most of the KV blocks of a replica in use at once, as a share"),
        bytes("kv_budget_bytes", "Memory plan of a GPU: what the engine may use; null where the blocks are given"),
        bytes("kv_weights_bytes", "Memory plan of a GPU: its share of the weights; null where the blocks are given"),
        bytes("kv_activation_bytes", "Memory plan of a GPU: activations; null where the blocks are given"),
        bytes("kv_other_bytes", "Memory plan of a GPU: CUDA and communication; null where the blocks are given"),
        bytes("kv_block_bytes", "Memory plan of a GPU: its share of one KV block; null where the blocks are given"),
        int("prefix_tokens_queried", "tokens", "Prompt tokens looked up in the prefix cache at first admissions"),
        int("prefix_tokens_hit", "tokens", "Prompt tokens found there"),
        float("prefix_hit_rate", "", "Tokens found there, as a share of those looked up"),
        int("prefix_blocks_queried", "blocks", "Full blocks of prompts looked up in the prefix cache"),
        int("prefix_blocks_hit", "blocks", "Blocks found there"),
        float("prefix_block_hit_rate", "", "Blocks found there, as a share of those looked up"),
    ]
}

fn verdicts() -> Vec<Field> {
    vec![
        float(
            "throughput_ratio",
            "",
            "Requests served until the last arrival, as a share of those that arrived: completions to arrivals per second",
        ),
        text(
            "saturation",
            "stable, backlogged or overloaded, by latency trend and rate deficit (inference-sim's composite)",
        ),
        text(
            "saturation_rule",
            "What decided: latency_trend (latencies rise over all quarters), rate_deficit (fewer completions than \
             arrivals), or below_noise (neither by more than 1/sqrt(arrivals))",
        ),
        text(
            "saturation_backlog_drift",
            "stable, backlogged or overloaded, by the trend of the requests in the system over minutes",
        ),
        text("saturation_threshold", "stable or overloaded: mean end-to-end latency below 5 s or not"),
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
            "scenario_id request_id replica status measured class session_id priority arrival_ns deadline_ns queued_ns \
             scheduled_ns first_token_ns finished_ns queue_ns prefill_ns decode_ns ttft_ns tpot_ns tpot_incl_first_ns \
             e2e_ns itl_ns_mean itl_ns_p99 itl_ns_max preemptions preempted_ns input_tokens output_tokens cached_tokens \
             recomputed_tokens"
        );
    }

    #[test]
    fn totals_are_named_once_and_say_what_they_are() {
        let fields = totals();
        let names: std::collections::BTreeSet<_> = fields.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), fields.len());
        let of = |name: &str| fields.iter().find(|f| f.name() == name).unwrap().metadata()["description"].clone();
        assert!(of("ttft_ms_p999").starts_with("99.9th percentile (exact, linear interpolation): time to first"));
        assert!(of("e2e_ms_p50").starts_with("50th percentile"));
    }
}
