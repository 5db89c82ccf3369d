//! `export`: a table as a file for other programs.
//!
//! Promises: the bytes of a file depend on the table and the settings only. What a format cannot hold is left out, and named
//! in the stage's table, which has a row per file.
//!
//! Files are published under `data/exports/<pipeline>/`, as links to the store that change when a new run publishes.

#[cfg(test)]
mod tests;
mod traces;
mod write;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::traces::Traces;
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Export, ExportCompression, ExportFormat, Text};
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
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(vec![self.from.0.clone()])
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![TableShape { name: stage.to_string(), schema: Some(files_schema()) }]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let from = &self.from.0;
        if let Some(schema) = cx.tables.get(&from.value).and_then(|t| t.schema.as_ref()) {
            found.extend(self.unfit(schema).map(|d| d.at(from.at.clone())));
        }
        if self.compression != ExportCompression::None && !is_text(self.format) {
            let message = "`compression` is for text formats: Parquet and Arrow files are packed by themselves";
            found.push(Diagnostic::new("export::compression", message).at(from.at.clone()).help("leave it out"));
        }
        if let Some(file) = &self.file
            && (file.value.is_empty() || file.value.starts_with('.') || file.value.contains(['/', '\\']))
        {
            let message = format!("`file` is `{}`: expected a name without a folder", file.value);
            let help = "files are written under data/exports/<pipeline>/";
            found.push(Diagnostic::new("export::file", message).at(file.at.clone()).help(help));
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Export { from: _, format, file, compression } = self;
        json!({ "format": format, "file": file, "compression": compression })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let job = self.clone();
        super::tokenize::blocking(move || job.export(&cx)).await
    }
}

fn is_text(format: ExportFormat) -> bool {
    match format {
        ExportFormat::Parquet | ExportFormat::Arrow => false,
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
        column("file", DataType::Utf8, false, "", "Name of the file, under data/exports/<pipeline>/"),
        column("format", DataType::Utf8, false, "", "How it is written"),
        column("rows", DataType::Int64, false, "", "Rows of the table that are in it"),
        column("bytes", DataType::Int64, false, "bytes", "Its size"),
        column("left_out", DataType::Utf8, true, "", "Columns with values that the format cannot hold"),
        column("rounded", DataType::Int64, false, "", "Times that were rounded to the format's unit"),
    ]))
}

/// A file that was written.
struct Written {
    name: String,
    rows: i64,
    left_out: Vec<String>,
    rounded: i64,
}

impl Export {
    /// What is wrong with the columns of the table.
    fn unfit(&self, schema: &Schema) -> Option<Diagnostic> {
        let is_trace = match self.format {
            ExportFormat::Mooncake | ExportFormat::Vidur | ExportFormat::TraceV2 => true,
            ExportFormat::Parquet | ExportFormat::Arrow | ExportFormat::Csv | ExportFormat::Jsonl => false,
        };
        let lacking: Vec<&str> =
            NEEDED.into_iter().filter(|name| is_trace && schema.field_with_name(name).is_err()).collect();
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
            ExportFormat::Parquet => "parquet",
            ExportFormat::Arrow => "arrow",
            ExportFormat::Csv | ExportFormat::Vidur | ExportFormat::TraceV2 => "csv",
            ExportFormat::Jsonl | ExportFormat::Mooncake => "jsonl",
        };
        let packed = match self.compression {
            ExportCompression::None => "",
            ExportCompression::Gzip => ".gz",
            ExportCompression::Zstd => ".zst",
        };
        format!("{stage}.{ending}{packed}")
    }

    fn export(&self, cx: &RunCx) -> Result<Outcome> {
        let from = &self.from.0.value;
        let missing = || Failure::stage("export::no_table", format!("table `{from}` was not made"));
        let input = cx.inputs.get(from).ok_or_else(missing)?;
        if let Some(problem) = self.unfit(&input.schema) {
            return Err(problem.at(self.from.0.at.clone()).into());
        }
        cx.progress.0.total(input.rows, "rows");
        let name = self.name(&cx.stage);
        let files = match self.format {
            ExportFormat::Parquet | ExportFormat::Arrow | ExportFormat::Csv | ExportFormat::Jsonl => {
                vec![self.whole(cx, input, name)?]
            }
            ExportFormat::Mooncake | ExportFormat::Vidur | ExportFormat::TraceV2 => {
                Traces { cx, input, format: self.format, compression: self.compression }.write(name)?
            }
        };
        self.list(cx, &files)
    }

    /// All columns of the table.
    fn whole(&self, cx: &RunCx, input: &TableHandle, name: String) -> Result<Written> {
        let path = cx.out.file(&name)?;
        let out = write::Out::create(&path, self.compression)?;
        let mut sink = write::Sink::new(self.format, &input.schema, out, &path)?;
        let mut rows = 0;
        for batch in trace::parts(&input.parts)? {
            cx.cancel.check()?;
            let batch = batch?;
            rows += batch.num_rows() as i64;
            sink.write(&batch)?;
            cx.progress.0.advance(batch.num_rows() as u64);
        }
        sink.finish()?;
        Ok(Written { name, rows, left_out: Vec::new(), rounded: 0 })
    }

    fn list(&self, cx: &RunCx, files: &[Written]) -> Result<Outcome> {
        let size = |file: &Written| -> Result<i64> {
            let path = cx.out.file(&file.name)?;
            let size = std::fs::metadata(&path).map_err(|e| crate::diag::io(&path, "read", &e))?;
            Ok(size.len() as i64)
        };
        let sizes = files.iter().map(size).collect::<Result<Vec<_>>>()?;
        let format = json!(self.format);
        let left_out = |f: &Written| (!f.left_out.is_empty()).then(|| f.left_out.join(", "));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(files.iter().map(|f| &f.name))),
            Arc::new(StringArray::from_iter_values(files.iter().map(|_| format.as_str().unwrap_or_default()))),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|f| f.rows))),
            Arc::new(Int64Array::from(sizes)),
            Arc::new(files.iter().map(left_out).collect::<StringArray>()),
            Arc::new(Int64Array::from_iter_values(files.iter().map(|f| f.rounded))),
        ];
        let rows = RecordBatch::try_new(files_schema(), columns)
            .map_err(|e| Failure::stage("export::arrow", format!("cannot put the rows together: {e}")))?;
        let mut writer = cx.out.table(&cx.stage, files_schema())?;
        writer.write(&rows)?;
        writer.finish()?;
        Ok(Outcome::default())
    }
}
