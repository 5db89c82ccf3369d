//! `export`: a table for other programs, as files or in a database.
//!
//! Promises: the bytes of a file depend on the table and the settings only. What a format cannot hold is left out, and named
//! in the stage's table, which has a row per file.
//!
//! Files are published under `data/exports/<pipeline>/`, as links to the store that change when a new run publishes. A
//! database is outside the store: a result that is cached says that the rows were sent, and `--force` sends them again.
//!
//! | file | holds |
//! |---|---|
//! | `write.rs` | files of whole tables: Parquet, Arrow, CSV, JSON lines |
//! | `xlsx.rs` | workbooks |
//! | `partition.rs` | Parquet in folders by values |
//! | `traces.rs` | formats of traces |
//! | `postgres/` | tables of a database |

mod partition;
mod postgres;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod traces;
pub(crate) mod write;
mod xlsx;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::partition::Partitions;
use self::traces::Traces;
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Export, ExportCompression, ExportFormat, Stage, StageSpec, Text};
use crate::store::TableHandle;
use crate::table::column;
use crate::trace;

/// Columns that a trace format needs.
const NEEDED: [&str; 4] = ["request_id", "arrival_ns", "input_tokens", "output_tokens"];

#[async_trait]
impl Kind for Export {
    fn kind(&self) -> &'static str {
        "export"
    }

    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(vec![self.from.0.clone()])
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![TableShape { name: stage.to_string(), schema: Some(files_schema()) }]
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let from = &self.from.0;
        let schema = cx.tables.get(&from.value).and_then(|t| t.schema.as_ref());
        let mut found = self.misplaced();
        match schema {
            Some(schema) => found.extend(self.unfit(schema)),
            None if self.format == ExportFormat::Postgres => found.extend(postgres::unfit(self, None)),
            None => {}
        }
        if let Some(file) = &self.file
            && (file.value.is_empty() || file.value.starts_with('.') || file.value.contains(['/', '\\']))
        {
            let message = format!("`file` is `{}`: expected a name without a folder", file.value);
            let help = "files are written under data/exports/<pipeline>/";
            found.push(Diagnostic::new("export::file", message).at(file.at.clone()).help(help));
        }
        found.extend(self.written_twice(stage, cx.stages));
        found
    }

    fn writes_outside(&self) -> bool {
        self.format == ExportFormat::Postgres
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Export { from, format, file, compression, row_group_rows, partition_by, table, mode, url, url_env } = self;
        let mut recipe = json!({ "format": format, "file": file, "compression": compression });
        if let Some(map) = recipe.as_object_mut() {
            match format {
                ExportFormat::Parquet => {
                    let by: Vec<&str> = partition_by.iter().map(|c| c.value.as_str()).collect();
                    map.insert("row_group_rows".to_string(), json!(row_group_rows));
                    map.insert("partition_by".to_string(), json!(by));
                }
                // Another server is another place to send the rows to; who sends them is not in it.
                ExportFormat::Postgres => {
                    let (_, _) = (url, url_env);
                    map.insert("server".to_string(), json!(postgres::server(self)));
                    map.insert("table".to_string(), json!(table.as_ref().unwrap_or(&from.0).value));
                    map.insert("mode".to_string(), json!(mode.unwrap_or_default()));
                }
                ExportFormat::Arrow
                | ExportFormat::Csv
                | ExportFormat::Jsonl
                | ExportFormat::Xlsx
                | ExportFormat::Mooncake
                | ExportFormat::Vidur
                | ExportFormat::TraceV2 => {}
            }
        }
        recipe
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let job = self.clone();
        if self.format == ExportFormat::Postgres {
            return job.send(&cx).await;
        }
        super::tokenize::blocking(move || job.export(&cx)).await
    }
}

fn is_text(format: ExportFormat) -> bool {
    match format {
        ExportFormat::Parquet | ExportFormat::Arrow | ExportFormat::Xlsx | ExportFormat::Postgres => false,
        ExportFormat::Csv
        | ExportFormat::Jsonl
        | ExportFormat::Mooncake
        | ExportFormat::Vidur
        | ExportFormat::TraceV2 => true,
    }
}

/// The files that were written.
fn files_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column(
            "file",
            DataType::Utf8,
            false,
            "",
            "Name of the file, under data/exports/<pipeline>/; of a database, the table",
        ),
        column("format", DataType::Utf8, false, "", "How it is written"),
        column("rows", DataType::Int64, false, "", "Rows of the table that are in it"),
        column("bytes", DataType::Int64, false, "bytes", "Its size; of a database, what was sent"),
        column("left_out", DataType::Utf8, true, "", "Columns with values that the format cannot hold, or not whole"),
        column("rounded", DataType::Int64, false, "", "Times that were rounded to the format's unit"),
        column(
            "as_text",
            DataType::Int64,
            false,
            "",
            "Numbers and days that are text, because the format has none such",
        ),
        column("server", DataType::Utf8, true, "", "Database that it was sent to: host:port/database"),
    ]))
}

/// A file, or a table of a database, that was written.
struct Written {
    name: String,
    rows: i64,
    /// Of a database.
    sent: Option<Sent>,
    loss: Loss,
}

/// Where rows went that are in no file.
struct Sent {
    /// `host:port/database`.
    server: String,
    bytes: i64,
}

/// What a format could not hold as it is.
#[derive(Default)]
struct Loss {
    /// Names of columns.
    left_out: Vec<String>,
    rounded: i64,
    as_text: i64,
}

impl Export {
    /// Settings that the format does not have.
    fn misplaced(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut only = |given: bool, at: &Text, what: &str, of: &str| {
            if given {
                let message = format!("`{what}` is a setting of {of}");
                found.push(Diagnostic::new("export::setting", message).at(at.at.clone()).help("leave it out"));
            }
        };
        let from = &self.from.0;
        let parquet = self.format == ExportFormat::Parquet;
        let postgres = self.format == ExportFormat::Postgres;
        only(self.row_group_rows.is_some() && !parquet, from, "row_group_rows", "`format: parquet`");
        if let Some(first) = self.partition_by.first() {
            only(!parquet, first, "partition_by", "`format: parquet`");
        }
        for (name, setting) in [("table", &self.table), ("url", &self.url), ("url_env", &self.url_env)] {
            if let Some(text) = setting {
                only(!postgres, text, name, "`format: postgres`");
            }
        }
        only(self.mode.is_some() && !postgres, from, "mode", "`format: postgres`");
        if let Some(file) = &self.file {
            only(postgres, file, "file", "formats of files: of a database, `table`");
        }
        if self.row_group_rows == Some(0) {
            let problem = Diagnostic::new("export::setting", "`row_group_rows` is 0: expected at least 1");
            found.push(problem.at(from.at.clone()).help("the default is 1048576"));
        }
        let fits = match self.compression {
            None | Some(ExportCompression::None) => true,
            Some(ExportCompression::Snappy) => parquet,
            Some(ExportCompression::Gzip | ExportCompression::Zstd) => parquet || is_text(self.format),
        };
        if !fits {
            let message = "`compression` is for text formats and Parquet: this one is packed by itself, or not at all";
            let help = "leave it out; `snappy` is of Parquet only";
            found.push(Diagnostic::new("export::compression", message).at(from.at.clone()).help(help));
        }
        found
    }

    /// What is wrong with the columns of the table.
    fn unfit(&self, schema: &Schema) -> Vec<Diagnostic> {
        let here = |d: Diagnostic| d.at(self.from.0.at.clone());
        match self.format {
            ExportFormat::Mooncake | ExportFormat::Vidur | ExportFormat::TraceV2 => {
                self.lacking(schema).map(here).into_iter().collect()
            }
            ExportFormat::Xlsx => xlsx::unfit(schema).map(here).into_iter().collect(),
            ExportFormat::Parquet => partition::unfit(&self.partition_by, &self.from.0.value, schema),
            ExportFormat::Postgres => postgres::unfit(self, Some(schema)),
            ExportFormat::Arrow | ExportFormat::Csv | ExportFormat::Jsonl => Vec::new(),
        }
    }

    /// The columns that a trace needs and the table does not have.
    fn lacking(&self, schema: &Schema) -> Option<Diagnostic> {
        let lacking: Vec<&str> = NEEDED.into_iter().filter(|name| schema.field_with_name(name).is_err()).collect();
        if lacking.is_empty() {
            return None;
        }
        let names = lacking.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let message = format!("`{}` lacks {names}, and a trace needs them", self.from.0.value);
        let help = "of texts, `tokenize` makes token counts; `jsonl` and `parquet` hold any table";
        Some(Diagnostic::new("export::column", message).help(help))
    }

    fn name(&self, stage: &str) -> String {
        if let Some(file) = &self.file {
            return file.value.clone();
        }
        let ending = match self.format {
            // A folder.
            ExportFormat::Parquet if !self.partition_by.is_empty() => return stage.to_string(),
            ExportFormat::Parquet => "parquet",
            ExportFormat::Arrow => "arrow",
            ExportFormat::Csv | ExportFormat::Vidur | ExportFormat::TraceV2 => "csv",
            ExportFormat::Jsonl | ExportFormat::Mooncake => "jsonl",
            ExportFormat::Xlsx => "xlsx",
            // Its rows are in no file.
            ExportFormat::Postgres => "",
        };
        let packed = match self.compression {
            _ if !is_text(self.format) => "",
            None | Some(ExportCompression::None | ExportCompression::Snappy) => "",
            Some(ExportCompression::Gzip) => ".gz",
            Some(ExportCompression::Zstd) => ".zst",
        };
        format!("{stage}.{ending}{packed}")
    }

    /// What is published under `data/exports/<pipeline>/`.
    fn published(&self, stage: &str) -> Vec<String> {
        let name = self.name(stage);
        match self.format {
            ExportFormat::Postgres => Vec::new(),
            ExportFormat::TraceV2 => vec![traces::header_name(&name), name],
            _ => vec![name],
        }
    }

    /// A stage before this one that writes the same file: one would be gone.
    fn written_twice(&self, stage: &str, stages: &[Stage]) -> Option<Diagnostic> {
        let mine = self.published(stage);
        let before = stages.iter().take_while(|other| other.name.value != stage);
        let mut exports = before.filter_map(|other| match &other.spec {
            StageSpec::Export(export) => Some((&other.name.value, export.published(&other.name.value))),
            _ => None,
        });
        let (other, file) =
            exports.find_map(|(other, theirs)| Some((other, mine.iter().find(|file| theirs.contains(file))?)))?;
        let message = format!("`{stage}` and `{other}` both write `{file}`");
        let at = self.file.as_ref().unwrap_or(&self.from.0).at.clone();
        Some(Diagnostic::new("export::file", message).at(at).help("give one of them another name with `file`"))
    }

    /// The table to write.
    fn input<'a>(&self, cx: &'a RunCx) -> Result<&'a TableHandle> {
        let from = &self.from.0.value;
        let missing = || Failure::stage("export::no_table", format!("table `{from}` was not made"));
        let input = cx.inputs.get(from).ok_or_else(missing)?;
        let wrong = self.unfit(&input.schema);
        if !wrong.is_empty() {
            return Err(Failure::usage(wrong));
        }
        cx.progress.0.total(input.rows, "rows");
        Ok(input)
    }

    async fn send(&self, cx: &RunCx) -> Result<Outcome> {
        let sent = postgres::send(self, cx, self.input(cx)?).await?;
        self.list(cx, &[sent])
    }

    fn export(&self, cx: &RunCx) -> Result<Outcome> {
        let input = self.input(cx)?;
        let name = self.name(&cx.stage);
        let (format, compression) = (self.format, self.compression);
        let settings = write::Settings { format, compression, row_group_rows: self.row_group_rows };
        let files = match format {
            ExportFormat::Mooncake | ExportFormat::Vidur | ExportFormat::TraceV2 => {
                Traces { cx, input, format, compression: compression.unwrap_or_default() }.write(name)?
            }
            ExportFormat::Parquet if !self.partition_by.is_empty() => {
                let (by, buffer_bytes) = (&self.partition_by, partition::BUFFER_BYTES);
                Partitions { cx, input, settings, by, folder: name, buffer_bytes }.write()?
            }
            ExportFormat::Parquet
            | ExportFormat::Arrow
            | ExportFormat::Csv
            | ExportFormat::Jsonl
            | ExportFormat::Xlsx
            | ExportFormat::Postgres => vec![self.whole(cx, input, &settings, name)?],
        };
        self.list(cx, &files)
    }

    /// All columns of the table.
    fn whole(&self, cx: &RunCx, input: &TableHandle, settings: &write::Settings, name: String) -> Result<Written> {
        let path = cx.out.file(&name)?;
        let mut sink = write::Sink::create(settings, &input.name, &input.schema, &path)?;
        let mut rows = 0;
        for batch in trace::parts(&input.parts)? {
            cx.cancel.check()?;
            let batch = batch?;
            rows += batch.num_rows() as i64;
            sink.write(&batch)?;
            cx.progress.0.advance(batch.num_rows() as u64);
        }
        let write::Losses { cut, as_text, rounded } = sink.finish()?;
        let left_out = cut.iter().filter_map(|c| input.schema.fields().get(*c)).map(|f| f.name().clone()).collect();
        Ok(Written { name, rows, sent: None, loss: Loss { left_out, rounded, as_text } })
    }

    fn list(&self, cx: &RunCx, files: &[Written]) -> Result<Outcome> {
        let size = |file: &Written| -> Result<i64> {
            if let Some(sent) = &file.sent {
                return Ok(sent.bytes);
            }
            let path = cx.out.file(&file.name)?;
            let size = std::fs::metadata(&path).map_err(|e| crate::diag::io(&path, "read", &e))?;
            Ok(size.len() as i64)
        };
        let sizes = files.iter().map(size).collect::<Result<Vec<_>>>()?;
        let format = json!(self.format);
        let left_out = |f: &Written| (!f.loss.left_out.is_empty()).then(|| f.loss.left_out.join(", "));
        let server = |f: &Written| f.sent.as_ref().map(|sent| sent.server.clone());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(files.iter().map(|f| &f.name))),
            Arc::new(StringArray::from_iter_values(files.iter().map(|_| format.as_str().unwrap_or_default()))),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|f| f.rows))),
            Arc::new(Int64Array::from(sizes)),
            Arc::new(files.iter().map(left_out).collect::<StringArray>()),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|f| f.loss.rounded))),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|f| f.loss.as_text))),
            Arc::new(files.iter().map(server).collect::<StringArray>()),
        ];
        let rows = RecordBatch::try_new(files_schema(), columns)
            .map_err(|e| Failure::stage("export::arrow", format!("cannot put the rows together: {e}")))?;
        let mut writer = cx.out.table(&cx.stage, files_schema())?;
        writer.write(&rows)?;
        writer.finish()?;
        Ok(Outcome::default())
    }
}
