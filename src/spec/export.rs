//! What a user writes for `export`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ref, Text};

/// Write a table as a file for other programs, under `data/exports/<pipeline>/`.
///
/// ```yaml
/// for_others:
///   export: { from: trace, format: mooncake, compression: gzip }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Any table; the trace formats need one of requests with token counts.
    pub from: Ref,
    #[serde(default)]
    pub format: ExportFormat,
    /// Name of the file. Default: that of the stage, with the ending of its format.
    #[serde(default)]
    pub file: Option<Text>,
    /// Of text formats.
    #[serde(default)]
    pub compression: ExportCompression,
}

/// How a table is written. What a format cannot hold is named in the stage's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// All columns, with their units and descriptions.
    #[default]
    Parquet,
    /// All columns, Arrow IPC file.
    Arrow,
    /// All columns, with a line of names; lists as `[1, 2]`.
    Csv,
    /// All columns, an object per line; what is null is left out.
    Jsonl,
    /// Mooncake's JSON lines: whole milliseconds, `hash_ids` of the blocks of the prompt, numbered as they come. With
    /// `session_id` where there are sessions, as Dynamo's tools read it.
    Mooncake,
    /// Vidur's CSV: seconds, and block hashes and sessions where there are some.
    Vidur,
    /// TraceV2 of inference-sim: CSV in whole microseconds, with its header (`.yaml`) beside it.
    TraceV2,
}

/// How a text file is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportCompression {
    #[default]
    None,
    Gzip,
    Zstd,
}
