//! What a user writes for `export`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ref, Text};

/// Write a table for other programs: as files under `data/exports/<pipeline>/`, or into a PostgreSQL database.
///
/// ```yaml
/// for_others:
///   export: { from: trace, format: mooncake, compression: gzip }
/// for_people:
///   export: { from: metrics, format: xlsx }
/// by_class:
///   export: { from: sim_requests, partition_by: [scenario_id, class] }
/// database:
///   export: { from: metrics, format: postgres, table: capacity.metrics, mode: replace, url_env: CAPACITY_DB }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Any table; the trace formats need one of requests with token counts.
    pub from: Ref,
    #[serde(default)]
    pub format: ExportFormat,
    /// Name of the file, or of the folder of a partitioned table. Default: that of the stage, with the ending of its
    /// format.
    #[serde(default)]
    pub file: Option<Text>,
    /// Of text formats (default: none) and of Parquet (default: zstd).
    #[serde(default)]
    pub compression: Option<ExportCompression>,
    /// Of Parquet: rows of a row group at most. Default: 1,048,576.
    #[serde(default)]
    pub row_group_rows: Option<u32>,
    /// Of Parquet: a folder per value of these columns, `<column>=<value>/part-00000.parquet`, as Hive and Spark name
    /// them. The columns are in the names of the folders, not in the files.
    #[serde(default)]
    pub partition_by: Vec<Text>,
    /// Of PostgreSQL: the table, as `name` or `schema.name`. Default: the name of `from`.
    #[serde(default)]
    pub table: Option<Text>,
    /// Of PostgreSQL: what happens to a table that is there. Default: fail.
    #[serde(default)]
    pub mode: Option<ExportMode>,
    /// Of PostgreSQL: the environment variable that holds the connection, `postgresql://user@host:5432/database` or
    /// `host=... dbname=...`. What neither it nor `url` says is taken from PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD,
    /// PGPASSFILE, PGSSLMODE and PGSSLROOTCERT, as by `psql`; a host in a URL without a port is asked at 5432.
    #[serde(default)]
    pub url_env: Option<Text>,
    /// Of PostgreSQL: the connection, without a password.
    #[serde(default)]
    pub url: Option<Text>,
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
    /// All columns, with a line of names; lists as `[1, 2]`. NULL and an empty text are the same. Texts are as they are: a
    /// spreadsheet takes one that begins with `=` for a formula and runs it; `xlsx` keeps it a text.
    Csv,
    /// All columns, an object per line. JSON has no NaN and no infinity: those are null, as what is null is.
    Jsonl,
    /// All columns, Excel workbook: a sheet per 1,048,575 rows, and a sheet `columns` with units and descriptions. What
    /// Excel's numbers cannot hold is text.
    Xlsx,
    /// All columns, into a table of a PostgreSQL database, in one transaction: its readers see the old rows or the new.
    Postgres,
    /// Mooncake's JSON lines: whole milliseconds, `hash_ids` of the blocks of the prompt, numbered as they come. With
    /// `session_id` where there are sessions, as Dynamo's tools read it.
    Mooncake,
    /// Vidur's CSV: seconds, and block hashes and sessions where there are some.
    Vidur,
    /// TraceV2 of inference-sim: CSV in whole microseconds, with its header (`.yaml`) beside it.
    TraceV2,
}

/// How a file is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportCompression {
    #[default]
    None,
    Gzip,
    Zstd,
    /// Of Parquet.
    Snappy,
}

/// What happens to a table that the database has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportMode {
    /// It is an error.
    #[default]
    Fail,
    /// The new table takes its place at once. Views on the old one are in the way; its privileges go with it.
    Replace,
    /// Rows are added. The table must have the same columns with the same types.
    Append,
}
