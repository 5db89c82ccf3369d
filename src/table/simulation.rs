//! What `simulate` makes: a row per scenario, a row per request, one per pool of each scenario and one per tier of each
//! pool, a histogram of the gaps between tokens of each scenario, and, where asked for, a row per step, and a row per
//! candidate of every decision of a router.
//!
//! Times are nanoseconds since the start of the trace. Scenarios are numbered from 0 in the order of the sweep; the
//! tables are sorted by scenario, then by request, by name of the pool (and tier), by gap, by the end of the step, or by the time of
//! the decision.
//!
//! A replica is an engine: the data-parallel ranks of what is deployed as one have numbers of their own.
//!
//! A request is served if its status is `finished` or `length_capped`. What a request did not come to is null: times and
//! spans that end with its last token are there for served requests only, those that end earlier wherever it got so far.
//!
//! The columns of a scenario depend on its settings: `scenario_id`, `scenario`, one column per scalar setting, then
//! [`totals`].

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{DESCRIPTION, column};

/// Version of the rows that a simulation is remembered by. Raised by hand when [`memo_requests`], [`memo_steps`],
/// [`memo_routes`] or the totals kept with them change, so that rows of an older shape are never reused.
pub const MEMO_VERSION: u32 = 8;

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

pub(super) fn scenario_id() -> Field {
    column("scenario_id", DataType::Int64, false, "", "Number of the scenario, from 0, in the order of the sweep")
}

fn ns(name: &str, nullable: bool, description: &str) -> Field {
    column(name, DataType::Int64, nullable, "ns", description)
}

fn int(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int64, false, unit, description)
}

fn optional(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Int64, true, unit, description)
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
        if field.name() == "prefill_replica" {
            fields.push(pool("Pool of the replica"));
        }
        if field.name() == "priority" {
            fields.push(column("class", DataType::Utf8, true, "", "Class of service, from the trace"));
            fields.push(column("session_id", DataType::Utf8, true, "", "Conversation that the request belongs to"));
        }
        fields.push(field);
    }
    Arc::new(Schema::new(fields))
}

fn pool(description: &str) -> Field {
    text("pool", &format!("{description}; `default` for a deployment without pools"))
}

/// Columns of [`requests`] that follow from others: not remembered, but made when the table is.
pub const DERIVED: [&str; 8] =
    ["queue_ns", "prefill_ns", "kv_transfer_ns", "decode_ns", "ttft_ns", "tpot_ns", "tpot_incl_first_ns", "e2e_ns"];

/// The rows of one scenario as they are remembered: [`requests`] without what others know (`scenario_id`, `pool`,
/// `class`, `session_id`) and without what is [`DERIVED`], with places instead of numbers. Sorted by request.
pub fn memo_requests() -> SchemaRef {
    let kept = |f: &Field| !DERIVED.contains(&f.name().as_str());
    Arc::new(Schema::new(request_columns().into_iter().filter(kept).collect::<Vec<_>>()))
}

fn request_columns() -> Vec<Field> {
    vec![
        int("request", "", "Place of the request in the table of requests sorted by number, from 0"),
        int32(
            "replica",
            "",
            "Replica that it was sent to, from 0, through all pools; with prefill and decode pools that of the decode pool",
        ),
        column(
            "prefill_replica",
            DataType::Int32,
            true,
            "",
            "Replica that computed its prompt; null where that is the same one",
        ),
        text(
            "status",
            "finished; length_capped: served, but cut by a limit; rejected: can never run, too long; timed_out or \
             cancelled: its client went, or (cancelled, never scheduled) one that it waits for failed; in_flight: not done \
             at the horizon",
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
        ns("encoded_ns", true, "When its embeddings had arrived; null where no encoder came first"),
        ns("queued_ns", true, "When it is in the queue of the scheduler; null where its client went before"),
        ns("scheduled_ns", true, "First time that the scheduler gave it tokens"),
        ns("prefilled_ns", true, "When its prompt was done on the prefill replica; null where there is none"),
        ns("kv_ready_ns", true, "When its KV cache had reached the decode replica; null where none was sent"),
        ns("first_token_ns", true, "When the client has the first token"),
        ns("finished_ns", true, "When the client has the last token; null unless served"),
        ns("queue_ns", true, "Scheduled minus arrival"),
        ns("prefill_ns", true, "First token minus scheduled"),
        ns(
            "kv_transfer_ns",
            true,
            "KV cache at the decode replica minus prompt done: waiting for room there, and the transfer",
        ),
        ns("decode_ns", true, "Finished minus first token; null unless served"),
        ns("ttft_ns", true, "Time to first token: first token minus arrival"),
        ns(
            "tpot_ns",
            true,
            "Time per output token: (finished - first token) / (output tokens of a sample - 1), to the nearest ns; \
             null for one token, and unless served",
        ),
        ns(
            "tpot_incl_first_ns",
            true,
            "The other convention: (finished - arrival) / output tokens of a sample, to the nearest ns; null unless \
             served",
        ),
        ns("e2e_ns", true, "Finished minus arrival; null unless served"),
        ns(
            "itl_ns_mean",
            true,
            "Mean gap between its tokens (of all samples), to the nearest ns; null for fewer than two tokens",
        ),
        ns("itl_ns_p99", true, "99th percentile of the gaps between its tokens (linear interpolation, nearest ns)"),
        ns("itl_ns_max", true, "Longest gap between two of its tokens"),
        int32("preemptions", "", "Times that it lost its KV cache to other requests; of several samples, all together"),
        ns(
            "preempted_ns",
            false,
            "Time lost to preemptions: from each until all is computed again that it lost; of several samples, that of \
             the one that lost most",
        ),
        ns(
            "prefill_preempted_ns",
            true,
            "What of prefill_ns was lost to preemptions; of several samples, by the one whose first token came first; \
             null without a first token",
        ),
        int32("input_tokens", "tokens", "Length of the prompt"),
        int32("samples", "", "Parallel samples: replies to the prompt"),
        int32("output_tokens", "tokens", "Tokens generated, of all samples together, whatever became of the request"),
        int32(
            "cached_tokens",
            "tokens",
            "Prompt tokens found in the prefix cache at first admission, of several samples at that of the first",
        ),
        int32("fetched_tokens", "tokens", "Tokens that came from tiers behind the prefix cache, over all admissions"),
        int32(
            "recomputed_tokens",
            "tokens",
            "Tokens computed again: lost to a preemption, or not sent along; of several samples, all together",
        ),
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
        ns(
            "step_start_ns",
            false,
            "When the step began; with several batches in flight (pipeline stages): when its batch was formed",
        ),
        ns(
            "duration_ns",
            false,
            "From then until its tokens came out; with several batches in flight that includes waiting at stages",
        ),
        int32("batch_requests", "", "Requests in the batch: the next two columns together"),
        int32(
            "decode_requests",
            "",
            "Requests that the step gave one more token; of a request with several sequences (vllm_v0), each of these",
        ),
        int32("prefill_requests", "", "Requests whose prompts the step worked on, and those that verified drafts"),
        int32("prefill_tokens", "tokens", "Prompt tokens that the step worked on, and tokens that verified drafts"),
        int("context_tokens", "tokens", "Tokens in the cache, before the step, of the requests in the batch"),
        int32("running", "", "Requests that run once the batch was formed, in the batch or not"),
        int32("waiting", "", "Requests in the queue of the replica once the batch was formed"),
        int32("preempted", "", "Requests preempted while the batch was formed"),
        int("kv_blocks_used", "blocks", "KV blocks in use"),
    ]))
}

/// `<stage>_routes`: a row per scenario, decision of a router, and candidate, in the order of the decisions, candidates by
/// number.
pub fn routes() -> SchemaRef {
    let mut fields = vec![scenario_id(), int("request_id", "", "The request's number in the table of requests")];
    for field in memo_routes().fields().iter().skip(1) {
        fields.push(field.as_ref().clone());
        if field.name() == "replica" {
            fields.push(pool("Pool of the candidate"));
        }
    }
    Arc::new(Schema::new(fields))
}

/// [`routes`] of one scenario as they are remembered, with places instead of numbers.
pub fn memo_routes() -> SchemaRef {
    Arc::new(Schema::new(vec![
        int("request", "", "Place of the request in the table of requests sorted by number, from 0"),
        ns("decided_ns", false, "When the router decided"),
        text("role", "What the candidates are there for: mixed, encode, prefill or decode"),
        int32("replica", "", "The candidate, a replica, from 0"),
        column("chosen", DataType::Boolean, false, "", "It was chosen"),
        float("score", "", "What the router thought of it, higher is better; null where it does not compare"),
        int(
            "backlog_tokens",
            "tokens",
            "What it really had before it, which no router knows: tokens pending of prompts and replies sent to it",
        ),
        optional(
            "regret_tokens",
            "tokens",
            "Of the one chosen: its backlog minus the least backlog of all candidates; null for the others",
        ),
    ]))
}

/// `<stage>_pools`: a row per scenario and pool, sorted by scenario and name. Figures are of all requests.
pub fn pools() -> SchemaRef {
    let mut fields = vec![scenario_id(), pool("Name of the pool")];
    fields.extend([
        text("role", "What its replicas do: mixed, encode, prefill or decode"),
        text("model", "Name of its model in the catalog"),
        text("gpu", "Name of its GPU in the catalog"),
        int("tp", "", "Tensor-parallel size"),
        int("pp", "", "Pipeline-parallel size"),
        int("dp", "", "Data-parallel size"),
        int("replicas", "", "Engines: what is deployed, times its data-parallel ranks"),
        int("replica_first", "", "Number of its first replica; the others follow"),
        int("gpus", "", "GPUs of all its replicas"),
        latency_model(""),
    ]);
    fields.extend(pool_totals());
    Arc::new(Schema::new(fields))
}

/// The last columns of the pools: what the engines of each came to.
pub fn pool_totals() -> Vec<Field> {
    let mut fields = vec![
        int("requests", "", "Requests, or parts of them, that it was sent; a prompt and its reply here are one part"),
        int("steps", "", "Iterations of its replicas"),
        extrapolated(),
        ns("busy_ns", false, "Time in steps, summed over its replicas"),
        float("busy_ratio", "", "Time in steps, as a share of the duration times its replicas"),
        int("prefill_tokens", "tokens", "Prompt tokens computed, also again"),
        int("decode_tokens", "tokens", "Tokens of replies computed, but for those that a prompt's last step yields"),
        float("running_mean", "", "Requests running at a time, over the duration, on its replicas together"),
        int("running_max", "", "Most requests running at once on one of its replicas"),
        float("waiting_mean", "", "Requests waiting at a time, over the duration, on its replicas together"),
        int("waiting_max", "", "Most requests waiting at once on one of its replicas"),
    ];
    fields.extend(utilization());
    fields.extend([
        float("kv_gpu_memory_utilization", "", "Share of the GPU's memory that the engine may use"),
        int("kv_block_size", "tokens", "Tokens per KV block"),
        int("kv_blocks_total", "blocks", "KV blocks of one of its replicas"),
        int("kv_blocks_max", "blocks", "Most KV blocks in use at once on one of its replicas"),
        float("kv_usage_mean", "", "Share of the KV blocks of its replicas in use, over the duration"),
        float("kv_usage_max", "", "Most of the KV blocks of one of its replicas in use at once, as a share"),
    ]);
    fields.extend(kv_plan());
    fields.extend(prefix_cache());
    fields
}

/// `<stage>_tiers`, where a deployment of the stage has tiers: a row per scenario, pool and tier of `deployment.kv.tiers`,
/// sorted by these. Figures are of all requests, and of all the pool's replicas together.
pub fn tiers() -> SchemaRef {
    Arc::new(Schema::new(vec![
        scenario_id(),
        pool("Name of the pool; `default` for a deployment without pools"),
        int("tier", "", "Place among the tiers of the pool, from 0: the order in which they are asked"),
        text("kind", "What it is made of: cpu, disk or remote"),
        column("shared", DataType::Boolean, false, "", "One store for all replicas of the pool, not one for each"),
        int("lookups", "", "Times that it was asked for what follows a request's hits in the prefix cache"),
        int("blocks_hit", "blocks", "KV blocks that were read from it for requests"),
        bytes("bytes_read", "What these weigh"),
        int("blocks_stored", "blocks", "Blocks of its own size that were written to it"),
        bytes("bytes_written", "What these weigh"),
        int("blocks_evicted", "blocks", "Stored blocks that left it for others"),
        int("blocks_total", "blocks", "Blocks of its own size that one such store holds"),
        int("blocks_max", "blocks", "Most of them in use at once in one such store"),
        float("usage_max", "", "The same, as a share"),
        ns("stall_ns", false, "Time that requests or steps waited for reads from it, summed over the reads"),
        float("stalled_mean", "", "Reads at a time, over the duration, that a request or a step waits for"),
    ]))
}

fn latency_model(more: &str) -> Field {
    text("latency_model", &format!("How the time of a step was known; what `auto` and `fitted` came to{more}"))
}

fn extrapolated() -> Field {
    let what = "Steps whose time was extrapolated, because the profile has nothing like them; 0 for formulas";
    int("latency_extrapolated_steps", "", what)
}

fn kv_plan() -> [Field; 5] {
    let field = |name: &str, what: &str| {
        let known = "null where the blocks are given";
        bytes(name, &format!("Memory plan of a GPU: {what}; {known}"))
    };
    [
        field("kv_budget_bytes", "what the engine may use"),
        field("kv_weights_bytes", "its share of the weights"),
        field("kv_activation_bytes", "activations"),
        field("kv_other_bytes", "CUDA, communication and slots for LoRA adapters"),
        field("kv_block_bytes", "its share of one KV block"),
    ]
}

fn prefix_cache() -> [Field; 6] {
    [
        int("prefix_tokens_queried", "tokens", "Prompt tokens looked up in the prefix cache at first admissions"),
        int("prefix_tokens_hit", "tokens", "Prompt tokens found there"),
        float("prefix_hit_rate", "", "Tokens found there, as a share of those looked up"),
        int("prefix_blocks_queried", "blocks", "Full blocks of prompts looked up in the prefix cache"),
        int("prefix_blocks_hit", "blocks", "Blocks found there"),
        float("prefix_block_hit_rate", "", "Blocks found there, as a share of those looked up"),
    ]
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
    fields.extend(mechanisms());
    fields.extend(verdicts());
    fields
}

fn counts() -> Vec<Field> {
    vec![
        int("gpus", "", "GPUs of all pools: replicas x tp x pp x dp, and of an exclusive scheduler x servers"),
        int("engines", "", "Engines of all pools: replicas x dp"),
        latency_model("; of pools that have different ones, all"),
        extrapolated(),
        int("requests", "", "Requests that arrived: the sum of the six counts that follow"),
        int("finished", "", "Requests that were served to the end"),
        int("length_capped", "", "Requests that were served, but whose reply was cut by a limit"),
        int("rejected", "", "Requests that can never run, because they are too long"),
        int("timed_out", "", "Requests whose client gave up"),
        int("cancelled", "", "Requests whose client went away, or that were never sent"),
        int("in_flight", "", "Requests that were not done at the horizon"),
        int("measured_requests", "", "Requests that arrived neither in the warm-up nor in the cool-down"),
        int("measured_served", "", "Requests of these that were finished or length_capped"),
        int(
            "never_sent",
            "",
            "Requests, of those cancelled, that were never sent because one that they wait for failed",
        ),
        int("out_of_order", "", "Requests of the trace that arrive before one in front of them"),
        int("preemptions", "", "Times that a request lost its KV cache to others"),
        int("recomputed_tokens", "tokens", "Tokens computed again: lost to preemptions, or not sent along"),
        int("transfers", "", "KV caches that were sent from a prefill to a decode replica"),
        int("transferred_bytes", "bytes", "What they weighed together"),
        float(
            "room_waiting_mean",
            "",
            "Requests at a time, over the duration, whose KV cache waits for room to be sent",
        ),
        float("transferring_mean", "", "KV caches at a time, over the duration, that are on their way"),
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

fn utilization() -> [Field; 2] {
    let known = |name: &str, what: &str| {
        float(name, "", &format!("{what} utilization in steps, 0 to 1; null where the latency model does not know it"))
    };
    [known("mfu", "Model FLOPs"), known("mbu", "Memory bandwidth")]
}

fn load() -> Vec<Field> {
    let mut fields = vec![
        float("running_mean", "", "Requests running at a time, over the duration, on all replicas together"),
        int("running_max", "", "Most requests running at once on any replica"),
        float("waiting_mean", "", "Requests waiting at a time, over the duration, on all replicas together"),
        int("waiting_max", "", "Most requests waiting at once on any replica"),
    ];
    fields.extend(utilization());
    fields
}

fn cache() -> Vec<Field> {
    let mut fields = vec![
        int("kv_blocks_total", "blocks", "KV blocks of one replica; of several pools, the most"),
        int("kv_blocks_max", "blocks", "Most KV blocks in use at once on any replica"),
        float("kv_usage_mean", "", "Share of the KV blocks of all replicas in use, over the duration"),
        float("kv_usage_max", "", "Most of the KV blocks of a replica in use at once, as a share"),
    ];
    // Several pools have several plans.
    let known = |f: Field| {
        let description = format!("{}, or there are several pools", f.metadata()[DESCRIPTION]);
        bytes(f.name(), &description)
    };
    fields.extend(kv_plan().map(known));
    fields.extend(prefix_cache());
    fields
}

/// What encoders and adapters on the replicas of the prompts did, drafts of replies, and the tiers
/// behind prefix caches together; 0 where a deployment has none.
fn mechanisms() -> [Field; 20] {
    [
        int("encoder_tokens", "tokens", "Encoder tokens computed by `deployment.encoder`, also again"),
        ns("encoder_ns", false, "What that added to steps"),
        int("adapter_loads", "", "LoRA adapters that were loaded onto a replica's GPUs"),
        int("adapter_reads", "", "Adapters, of these, that had to be read from disk first"),
        ns("adapter_load_ns", false, "What that took, summed over the loads"),
        int("adapter_evictions", "", "Adapters that gave up their slot to another"),
        float(
            "adapter_waiting_mean",
            "",
            "Requests in queues at a time, over the duration, whose adapter is not on the GPUs",
        ),
        float("adapters_per_step_mean", "", "Distinct adapters in the batch of a step; null without adapters"),
        int("spec_drafts", "", "Drafts of speculative decoding that were verified: requests in steps"),
        int("spec_draft_tokens", "tokens", "Tokens of these drafts"),
        int("spec_accepted_tokens", "tokens", "Tokens of them that were accepted"),
        float("spec_acceptance_rate", "", "Tokens accepted, as a share of those drafted; null without drafts"),
        float(
            "spec_tokens_per_step",
            "tokens",
            "Tokens that came out for a request in a step that verified a draft of it; null without drafts",
        ),
        ns("spec_draft_ns", false, "Time of drafting, a part of the steps' time"),
        int(
            "tier_lookups",
            "",
            "Times that a tier of `deployment.kv.tiers` was asked for what follows the prefix cache's hits",
        ),
        int("tier_blocks_hit", "blocks", "KV blocks that were read from tiers for requests"),
        bytes("tier_bytes_read", "What these weigh"),
        bytes("tier_bytes_written", "What was written to tiers"),
        int("tier_blocks_evicted", "blocks", "Stored blocks that left a tier for others"),
        float(
            "tier_stalled_mean",
            "",
            "Reads from tiers at a time, over the duration, that a request or a step waits for",
        ),
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
            "scenario_id request_id replica pool prefill_replica status measured class session_id priority arrival_ns \
             deadline_ns encoded_ns queued_ns scheduled_ns prefilled_ns kv_ready_ns first_token_ns finished_ns queue_ns \
             prefill_ns kv_transfer_ns decode_ns ttft_ns tpot_ns tpot_incl_first_ns e2e_ns itl_ns_mean itl_ns_p99 itl_ns_max preemptions preempted_ns prefill_preempted_ns input_tokens samples output_tokens cached_tokens \
             fetched_tokens recomputed_tokens"
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
