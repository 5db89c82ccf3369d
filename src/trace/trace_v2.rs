//! TraceV2 of inference-sim: a CSV of requests as a client saw them, and a header beside it (`<name>.yaml`).
//!
//! `input_tokens` leaves out the prefix that a prompt shares with others of its `prefix_group`; `prefix_length` is
//! added, and the full blocks of the prefix are hashed, so that a prefix cache finds them. A request arrives when it
//! was sent (`send_time_us`), which is what the server saw. Of the header only `warm_up_requests` and `time_unit`
//! matter: the first so many requests are simulated as the others are, and marked, so that no comparison counts them.
//!
//! Tokens of images, sound and video count to those of an encoder; `reason_ratio` is a share of the reply; a deadline
//! is a time of the clock of the trace, here counted from when the request was sent. Rounds of a session are its turns.
//!
//! Left out: `slo_target_us`, `server_input_tokens`, `num_chunks`, `finish_reason`, messages of errors, and the side
//! file of times between tokens (`request_id,chunk_index,timestamp_us`), which is refused: gaps between tokens have no
//! column.

use serde::Deserialize;

use super::Layout;
use super::extra::Extra;
use super::fields::{BLOCK_TOKENS, Fields, Role};
use super::measured::Time;
use crate::diag::{Failure, Result};
use crate::spec::TimeUnit;

pub const NAMES: [&str; 5] =
    ["send_time_us", "input_tokens", "output_tokens", "first_chunk_time_us", "last_chunk_time_us"];

pub fn fields(block_tokens: Option<u32>) -> Fields {
    Fields::new(Layout::Tokens, TimeUnit::Us)
        .measured(TimeUnit::Us)
        .required(Role::Arrival, NAMES[0])
        .required(Role::InputTokens, NAMES[1])
        .required(Role::OutputTokens, NAMES[2])
        .required(Role::Measured(Time::FirstToken), NAMES[3])
        .required(Role::Measured(Time::LastToken), NAMES[4])
        .optional(Role::Name, "request_id")
        .optional(Role::Status, "status")
        .optional(Role::PrefixGroup, "prefix_group")
        .optional(Role::PrefixTokens, "prefix_length")
        .optional(Role::Class, "slo_class")
        .optional(Role::Model, "model")
        .optional(Role::Adapter, "adapter")
        .optional(Role::Session, "session_id")
        .optional(Role::Turn, "round_index")
        .spans(TimeUnit::Us)
        .optional(Role::Think, "think_time_us")
        .optional(Role::EncoderTokens, "image_tokens")
        .optional(Role::Extra(Extra::AudioTokens), "audio_tokens")
        .optional(Role::Extra(Extra::VideoTokens), "video_tokens")
        .optional(Role::Extra(Extra::ReasonRatio), "reason_ratio")
        .optional(Role::Extra(Extra::ReasoningTokens), "reasoning_tokens")
        .optional(Role::Extra(Extra::Client), "client_id")
        .optional(Role::Extra(Extra::Tenant), "tenant_id")
        .optional(Role::Extra(Extra::Priority), "vllm_priority")
        .optional(Role::Extra(Extra::Deadline), "deadline_us")
        .client_log()
        .block_tokens(block_tokens, Some(BLOCK_TOKENS))
}

/// Columns of the side file.
pub const GAPS: [&str; 3] = ["request_id", "chunk_index", "timestamp_us"];

/// What matters of the header.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    pub warm_up_requests: usize,
    time_unit: Option<String>,
}

/// Reads the text of a header; `written` is its file, for messages.
///
/// # Errors
/// No YAML, or another unit of time.
pub fn header(text: &str, written: &str) -> Result<Header> {
    let wrong = |what: String| Failure::stage("trace::header", format!("{written} is no header of a trace: {what}"));
    let header: Header = serde_saphyr::from_str(text).map_err(|e| wrong(e.to_string()))?;
    match header.time_unit.as_deref() {
        None | Some("microseconds" | "us") => Ok(header),
        Some(other) => Err(wrong(format!("`time_unit` is `{other}`, expected `microseconds`"))),
    }
}
