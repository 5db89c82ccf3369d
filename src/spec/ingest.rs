//! What a user writes for `ingest`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FilePath, Paths};

/// Read trace files into a table of requests. Prompts and replies of 0 tokens are kept with 1, the least that an engine
/// computes; that, and whatever else is read otherwise than it stands there, is counted in `<stage>_report`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    /// The file; a list of files; or a pattern with `*`, `?`, `[...]` or `**`. Files of a pattern are read in the order of
    /// their names, in which numbers count as numbers (`part-2` before `part-10`); those of a list in its order. All have
    /// one format and one clock. `.gz` and `.zst` are unpacked while reading. With the build feature `cloud` also
    /// `https://`, `http://`, `s3://`, `gs://` and `az://`, with credentials from the environment.
    pub path: Paths,
    /// Its format. Default: found from the first line.
    #[serde(default)]
    pub format: Format,
    /// For `csv`, `jsonl` and `parquet`: which column of the file holds what. Default: the names of the table.
    #[serde(default)]
    pub columns: Columns,
    /// Unit of the arrival column of `csv`, `jsonl` and `parquet`.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// For `csv`, `jsonl` and `parquet` of requests that a server answered: which columns hold what was measured. Makes a
    /// second table, `<stage>_measured`; formats of measured runs make it without this.
    #[serde(default)]
    pub measured: Option<MeasuredColumns>,
    /// Of a file with several runs of a server: the one to read. Each run has a time 0 of its own.
    #[serde(default)]
    pub run: Option<String>,
    /// For `vllm_bench`: the file that the benchmark took its requests from (format `llmservingsim`), for the numbers of
    /// their tokens and so for what their prompts share. The run has the requests of that file, in its order or by the
    /// number at the end of their names.
    #[serde(default)]
    pub tokens: Option<FilePath>,
    /// Tokens per hashed block, where the file has block hashes. Default: that of the format (Mooncake 512).
    #[serde(default)]
    pub block_tokens: Option<u32>,
    /// What to do with a row that cannot be read.
    #[serde(default)]
    pub on_error: OnError,
    /// Read only the first so many requests. Default: all.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// A trace format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Auto,
    /// JSON lines `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (512-token blocks); with Dynamo's sessions
    /// and agents (`session_id`, `delay`, `request_id`, `wait_for`, `tool_wait_ms`, ms).
    Mooncake,
    /// CSV `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure LLM inference traces, 2023 and 2024), and with `NumImages`
    /// (multimodal, 2025).
    Azure,
    /// JSON lines `StartTimeOffset` (ns), `RequestID`, `ContextTokens`, `GeneratedTokens`: APEX.
    Apex,
    /// CSV `Timestamp` (s), `Model`, `Request tokens`, `Response tokens`, `Log Type`, and in newer files `Session ID`,
    /// `Elapsed time` (s): BurstGPT. Replies of 0 tokens are failures, and kept.
    Burstgpt,
    /// JSON lines with `schema: dynamo.request.trace.v1`: request traces of NVIDIA Dynamo, with its agents' sessions.
    Dynamo,
    /// JSON lines `timestamp` (s), `input_length`, `output_length`: what GuideLLM replays (`trace_synthetic`).
    GuidellmTrace,
    /// JSON lines `timestamp` (s, in quotes), `input_length`, `output_length`, `session_id`, and `hash_ids` with the parts of
    /// the prompt: RAGPulse. Lengths of the parts are read from the files beside it.
    Ragpulse,
    /// CSV `arrival_timestamp` (s), `prompt_size`, `token_size`, `application_id`, ...: Splitwise-sim.
    Splitwise,
    /// JSON lines, a coding agent's conversation each: `id`, `requests: [{t, in, out, hash_ids}]` (s, 64-token blocks), with
    /// subagents: traces of WEKA's KV cache tester.
    Weka,
    /// CSV `arrived_at` (s), `num_prefill_tokens`, `num_decode_tokens`, and optionally block hashes and sessions.
    Vidur,
    /// Conversations as JSON or JSON lines: `id`, `conversations: [{from, value}]`.
    Sharegpt,
    /// JSON lines `input_toks`, `output_toks`, `arrival_time_ns`, and optionally `input_tok_ids`, `output_tok_ids`, or, for
    /// agents, `sub_requests`: a workload of LLMServingSim.
    Llmservingsim,
    /// JSON lines `input_toks`, `output_toks`, `arrival_time`, `queued_ts`, `scheduled_ts`, `first_token_ts`,
    /// `last_token_ts` (s): what LLMServingSim's benchmark of vLLM writes. Measured.
    VllmBench,
    /// Request spans of OpenTelemetry. Parquet `start_unix_ns`, `latency.time_to_first_token`, `latency.e2e`,
    /// `usage.prompt_tokens`, ...: vLLM's tracing, an attribute per column, `gen_ai.` in front of the names or not. JSON or
    /// JSON lines: `resourceSpans`, as OTLP has them (also BLIS's `traces.json`), or `spans`, as inference-perf replays
    /// them. Measured.
    Otel,
    /// CSV `send_time_us`, `first_chunk_time_us`, `last_chunk_time_us`, ..., with a header beside it (`.yaml`):
    /// TraceV2 of inference-sim, as its client observed it. Measured.
    TraceV2,
    /// Conversations as JSON or JSON lines: `messages: [{role, content}]`, as OpenAI's API has them.
    OpenaiChat,
    /// A batch of OpenAI's API, JSON lines: its input (`custom_id`, `body`; texts, and replies as long as the body
    /// allows) or its output (`custom_id`, `response`; numbers of tokens).
    OpenaiBatch,
    /// JSON lines `prompt`, `output_tokens`: a custom dataset of `vllm bench serve`.
    VllmPrompts,
    /// The result of `vllm bench serve --save-result --save-detailed`: one JSON object with `input_lens`,
    /// `output_lens`, `ttfts`, `itls`, `start_times` (s). Measured.
    VllmResult,
    /// A report of GuideLLM, `benchmarks.json`; each benchmark is a run. Measured.
    Guidellm,
    /// Records of AIPerf, `profile_export.jsonl`: `metadata`, `metrics`. Measured.
    Aiperf,
    /// A profile of GenAI-Perf, `profile_export.json`: `experiments`. Texts, with what was observed.
    GenaiPerf,
    /// Requests of inference-perf, `per_request_lifecycle_metrics.json`: `start_time`, `end_time`, `info`. Measured.
    InferencePerf,
    /// `detailed_results_*.json` of vllm-data-collection: `prompts`. Measured, unless it is the tokenized one.
    DetailedResults,
    Jsonl,
    Csv,
    Parquet,
}

/// Columns of a generic file. Either token counts, or texts to be tokenized, must be there. `turn`, `think_ns`,
/// `block_tokens`, `encoder_tokens`, `reasoning_tokens`, `acceptance`, `deadline_ns`, `timeout_ns`, `cancel_ns` and what was
/// observed (`observed_ttft_ns`, ...) are read under these names where they are there; so is `depends_on` (a list), where
/// the requests have names (`request_id`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    pub arrival: Option<String>,
    pub input_tokens: Option<String>,
    pub output_tokens: Option<String>,
    /// The prompt as text.
    pub input: Option<String>,
    /// The reply as text.
    pub output: Option<String>,
    pub session_id: Option<String>,
    pub class: Option<String>,
    pub model: Option<String>,
    pub adapter: Option<String>,
    pub block_hashes: Option<String>,
    pub tenant: Option<String>,
    pub client: Option<String>,
    pub priority: Option<String>,
    pub max_tokens: Option<String>,
    pub images: Option<String>,
}

/// Columns of what was measured of a request, of a generic file. All but `status` and `run` are spans of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeasuredColumns {
    /// Unit of the times.
    pub unit: TimeUnit,
    /// From arrival until the engine began with the request.
    pub queue: Option<String>,
    /// From arrival to the first token.
    pub ttft: Option<String>,
    /// Mean time per output token after the first. Default: computed of `ttft` and `e2e`.
    pub tpot: Option<String>,
    /// From arrival to the last token.
    pub e2e: Option<String>,
    /// From when the engine began with it to the first token.
    pub prefill: Option<String>,
    /// From the first token to the last.
    pub decode: Option<String>,
    /// What became of it: `ok`, `completed`, `success`, `finished` or `200`, or what went wrong. Default: all completed.
    pub status: Option<String>,
    /// Which run of the server it belongs to.
    pub run: Option<String>,
}

/// Unit of a time column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    #[default]
    S,
    Ms,
    Us,
    Ns,
}

/// What to do with a row of a trace that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The stage fails, naming file, line, column and reason.
    #[default]
    Fail,
    /// The row goes to the table `<stage>_rejected`, with the reason.
    Quarantine(Quarantine),
}

/// How many rows may be put aside before the stage fails after all. Default: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quarantine {
    /// At most so many.
    #[schemars(range(min = 1))]
    pub max_rows: Option<u64>,
    /// At most this share of all rows, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_share: Option<f64>,
}

/// What to do with a row of a profile that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadRows {
    /// The stage fails, naming file, line and column.
    #[default]
    Fail,
    /// The row goes to the table `<stage>_rejected`, with the reason.
    Reject,
}
