//! What a user writes for a stage `profile`: where measured times of operators, layers or steps are.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{BadRows, FilePath, Text};

/// Read measured times of operators, layers or steps into one table, for `latency: operators` and `latency: steps`.
/// Exactly one of the layouts.
///
/// ```yaml
/// ops:
///   profile:
///     operators: { path: systems, gpu: h100_sxm, framework: vllm, version: 0.24.0 }
/// ```
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// aiconfigurator's database of operators, for any model.
    pub operators: Option<OperatorTables>,
    /// A folder of LLMServingSim's profiler: `meta.yaml` and `tp<N>/*.csv`, layers of one model.
    pub layers: Option<Folder>,
    /// Files of Vidur's profiler, operators of one model: medians of repetitions.
    pub vidur: Option<VidurFiles>,
    /// A folder of Vidur's predictions, one Parquet file per operator. Its other caches (pickles) are not read.
    pub vidur_predictions: Option<Folder>,
    /// Points of one's own.
    pub generic: Option<GenericFile>,
    /// The log of an engine's steps.
    pub steps: Option<StepLog>,
    /// What to do with a row that cannot be: `fail`, or `reject`, which leaves it out and counts it in
    /// `<stage>_sources`.
    pub bad_rows: BadRows,
}

/// aiconfigurator's database: `<path>/<gpu>/<family>/<framework>/<version>/*_perf.parquet` and `<path>/<gpu>.yaml`, or
/// the same with `data/` in front of the GPU, as in the package.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorTables {
    /// The folder that has `<gpu>.yaml`.
    pub path: FilePath,
    /// The GPU as its folder is called, e.g. `h100_sxm`.
    pub gpu: Text,
    /// The engine: `vllm`, `sglang`, `trtllm`.
    #[serde(default = "vllm")]
    pub framework: Text,
    /// Version of the engine. Default: the newest that has measured GEMMs.
    #[serde(default)]
    pub version: Option<Text>,
    /// Version of NCCL. Default: the one that `<gpu>.yaml` names if it was measured, otherwise the newest.
    #[serde(default)]
    pub nccl: Option<Text>,
}

fn vllm() -> Text {
    Text::new("vllm".to_string(), None)
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// The folder.
    pub path: FilePath,
}

/// CSV files of Vidur's profiler; at least one.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VidurFiles {
    pub mlp: Option<FilePath>,
    pub attention: Option<FilePath>,
    pub all_reduce: Option<FilePath>,
    pub send_recv: Option<FilePath>,
    pub cpu_overheads: Option<FilePath>,
    /// The `model_name` whose rows of `cpu_overheads` are read. Needed where it has several.
    pub model: Option<Text>,
}

/// A CSV or Parquet file (`.parquet`) with a row per point.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenericFile {
    /// The file. Columns: `operator` (default `step`), `variant`, `dtype`, `kv_dtype`, those of the operator's shape,
    /// and one of `latency_us`, `latency_ms`, `latency_s`, `latency_ns`. Columns of a shape that are not there are 0.
    pub path: FilePath,
    /// Name of ours -> name in the file, where they differ.
    #[serde(default)]
    pub columns: IndexMap<Text, Text>,
}

/// A CSV or Parquet file (`.parquet`) with a row per step of an engine.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepLog {
    /// The file.
    pub path: FilePath,
    /// Name of ours -> name in the file: `latency_us` (or `_ms`, `_s`, `_ns`), `prefill_tokens`, `prefill_requests`,
    /// `prefill_context`, `decode_requests`, `decode_context`, `tp`; `kv_blocks_total` and `kv_blocks_free`, from which
    /// the context is estimated where the log does not have it; `scheduled_tokens`, a map from requests to tokens, from
    /// which prefill and decode are counted. Default: the names of the two layouts that the README shows.
    #[serde(default)]
    pub columns: IndexMap<Text, Text>,
    /// Only rows that have these values: column of the file -> value.
    #[serde(default, rename = "where")]
    pub filter: IndexMap<Text, Text>,
    /// Tokens per block of the cache.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
    /// Tensor-parallel size, where the log has no column of it.
    #[serde(default = "one")]
    pub tp: u32,
}

fn sixteen() -> u32 {
    16
}

fn one() -> u32 {
    1
}
