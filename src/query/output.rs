//! Results as text and files: table, CSV, TSV, JSON, JSON lines, Markdown, one line per column, Parquet, Arrow.

use std::io::Write;
use std::path::Path;

use clap::ValueEnum;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv::WriterBuilder as CsvBuilder;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::json::WriterBuilder as JsonBuilder;
use datafusion::arrow::json::writer::{JsonFormat, LineDelimited};
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::errors::running;
use super::text::{Layout, TextWriter, flat};
use crate::diag::{Diagnostic, Failure, Result};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for reading
    Table,
    /// CSV with a header; lists as `[1, 2]`
    Csv,
    /// CSV with tabs
    Tsv,
    /// A JSON array, one object per line
    Json,
    /// One JSON object per line, without an array
    Jsonl,
    /// A table of GitHub's Markdown
    Markdown,
    /// A line per column
    Vertical,
    /// A Parquet file
    Parquet,
    /// An Arrow IPC stream
    Arrow,
}

impl Format {
    /// As written on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |v| v.get_name().to_string())
    }

    /// That of files whose names end so.
    pub fn of_file(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "txt" => Some(Format::Table),
            "csv" => Some(Format::Csv),
            "tsv" | "tab" => Some(Format::Tsv),
            "json" => Some(Format::Json),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "md" | "markdown" => Some(Format::Markdown),
            "parquet" => Some(Format::Parquet),
            "arrow" | "arrows" => Some(Format::Arrow),
            _ => None,
        }
    }

    /// Whether the output is not text.
    pub fn is_binary(self) -> bool {
        match self {
            Format::Parquet | Format::Arrow => true,
            Format::Table | Format::Csv | Format::Tsv | Format::Json | Format::Jsonl => false,
            Format::Markdown | Format::Vertical => false,
        }
    }

    /// # Errors
    /// Binary output to a terminal.
    pub fn check_target(self, terminal: bool) -> Result<()> {
        if terminal && self.is_binary() {
            let what = "this format is binary, and the output is a terminal";
            return Err(Diagnostic::new("query::terminal", what).help("send it to a file: `> result.parquet`").into());
        }
        Ok(())
    }
}

/// Writes all rows of a stream, as they come except for [`Format::Table`]. Returns their number.
///
/// # Errors
/// The query fails, or the output cannot be written. A pipe that was closed (`| head`) is no error.
pub async fn write<W: Write + Send>(mut rows: SendableRecordBatchStream, format: Format, out: W) -> Result<u64> {
    let schema = rows.schema();
    let mut sink = match Sink::new(format, &schema, out) {
        Err(e) if e.is_closed() => return Ok(0),
        other => other.map_err(Error::failure)?,
    };
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|e| running(&e))?;
        count += batch.num_rows() as u64;
        match sink.write(batch) {
            Err(e) if e.is_closed() => return Ok(count),
            other => other.map_err(Error::failure)?,
        }
    }
    match sink.finish() {
        Err(e) if e.is_closed() => Ok(count),
        other => other.map_err(Error::failure).map(|()| count),
    }
}

/// An error while writing, whichever crate it comes from.
struct Error(Box<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(e: E) -> Self {
        Error(Box::new(e))
    }
}

impl Error {
    fn is_closed(&self) -> bool {
        let mut at: Option<&(dyn std::error::Error + 'static)> = Some(self.0.as_ref());
        while let Some(e) = at {
            if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
                return true;
            }
            at = e.source();
        }
        self.0.to_string().contains("Broken pipe")
    }

    fn failure(self) -> Failure {
        Failure::stage("query::output", format!("cannot write the result: {}", self.0))
    }
}

/// An array with an object per line.
#[derive(Debug, Default)]
pub struct ObjectPerLine;

impl JsonFormat for ObjectPerLine {
    fn start_stream<W: Write>(&self, writer: &mut W) -> std::result::Result<(), arrow::error::ArrowError> {
        Ok(writer.write_all(b"[")?)
    }

    fn start_row<W: Write>(&self, writer: &mut W, first: bool) -> std::result::Result<(), arrow::error::ArrowError> {
        Ok(writer.write_all(if first { b"\n" } else { b",\n" })?)
    }

    fn end_stream<W: Write>(&self, writer: &mut W) -> std::result::Result<(), arrow::error::ArrowError> {
        Ok(writer.write_all(b"\n]\n")?)
    }
}

enum Sink<W: Write + Send> {
    Table { schema: SchemaRef, batches: Vec<RecordBatch>, out: W },
    Csv(Box<arrow::csv::Writer<W>>),
    Json(arrow::json::Writer<W, ObjectPerLine>),
    Jsonl(arrow::json::Writer<W, LineDelimited>),
    Text(TextWriter<W>),
    Parquet(Box<ArrowWriter<W>>),
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write + Send> Sink<W> {
    fn new(format: Format, schema: &SchemaRef, out: W) -> std::result::Result<Self, Error> {
        Ok(match format {
            Format::Table => Sink::Table { schema: schema.clone(), batches: Vec::new(), out },
            Format::Csv | Format::Tsv => {
                let delimiter = if format == Format::Tsv { b'\t' } else { b',' };
                let mut writer = CsvBuilder::new().with_header(true).with_delimiter(delimiter).build(out);
                // The names also stand over no rows.
                writer.write(&flat(&RecordBatch::new_empty(schema.clone()))?)?;
                Sink::Csv(Box::new(writer))
            }
            Format::Json => Sink::Json(JsonBuilder::new().with_explicit_nulls(true).build(out)),
            Format::Jsonl => Sink::Jsonl(JsonBuilder::new().with_explicit_nulls(true).build(out)),
            Format::Markdown => Sink::Text(TextWriter::new(Layout::Markdown, schema, out)?),
            Format::Vertical => Sink::Text(TextWriter::new(Layout::Vertical, schema, out)?),
            Format::Parquet => {
                let properties =
                    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
                Sink::Parquet(Box::new(ArrowWriter::try_new(out, schema.clone(), Some(properties))?))
            }
            Format::Arrow => Sink::Arrow(Box::new(StreamWriter::try_new(out, schema)?)),
        })
    }

    fn write(&mut self, batch: RecordBatch) -> std::result::Result<(), Error> {
        match self {
            Sink::Table { batches, .. } => batches.push(batch),
            Sink::Csv(writer) => writer.write(&flat(&batch)?)?,
            Sink::Json(writer) => writer.write(&batch)?,
            Sink::Jsonl(writer) => writer.write(&batch)?,
            Sink::Text(writer) => writer.write(&batch)?,
            Sink::Parquet(writer) => writer.write(&batch)?,
            Sink::Arrow(writer) => writer.write(&batch)?,
        }
        Ok(())
    }

    fn finish(self) -> std::result::Result<(), Error> {
        match self {
            Sink::Table { schema, batches, mut out } => {
                writeln!(out, "{}", pretty_format_batches_with_schema(schema, &batches)?)?;
                out.flush()?;
            }
            Sink::Csv(writer) => writer.into_inner().flush()?,
            Sink::Json(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Sink::Jsonl(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Sink::Text(writer) => writer.finish()?,
            Sink::Parquet(writer) => {
                writer.close()?;
            }
            Sink::Arrow(mut writer) => writer.finish()?,
        }
        Ok(())
    }
}
