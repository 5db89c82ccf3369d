//! Files of whole tables, and packed text files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayData, AsArray, RecordBatch, make_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::ipc::writer::FileWriter;
use arrow::json::WriterBuilder as JsonBuilder;
use arrow::json::writer::LineDelimited;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::xlsx::Xlsx;
use crate::diag::{self, Failure, Result};
use crate::query::text::flat;
pub(super) use crate::query::text::texts as text;
use crate::spec::{ExportCompression, ExportFormat};

/// A file, packed or not.
pub enum Out {
    Plain(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
}

impl Out {
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, compression: ExportCompression) -> Result<Out> {
        let failed = |e: io::Error| diag::io(path, "write", &e);
        Out::over(File::create(path).map_err(failed)?, compression).map_err(failed)
    }

    fn over(file: File, compression: ExportCompression) -> io::Result<Out> {
        let file = BufWriter::new(file);
        Ok(match compression {
            // Snappy is within Parquet only.
            ExportCompression::None | ExportCompression::Snappy => Out::Plain(file),
            // No name and no time in the header: the same rows are the same bytes.
            ExportCompression::Gzip => Out::Gzip(flate2::GzBuilder::new().write(file, flate2::Compression::default())),
            ExportCompression::Zstd => Out::Zstd(zstd::Encoder::new(file, 3)?),
        })
    }

    /// Writes what is still held.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Out::Plain(mut file) => file.flush(),
            Out::Gzip(packer) => packer.finish()?.flush(),
            Out::Zstd(packer) => packer.finish()?.flush(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::Plain(file) => file.write(bytes),
            Out::Gzip(packer) => packer.write(bytes),
            Out::Zstd(packer) => packer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::Plain(file) => file.flush(),
            Out::Gzip(packer) => packer.flush(),
            Out::Zstd(packer) => packer.flush(),
        }
    }
}

/// What a format could not hold as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Places of columns of which some values are not there, or not whole.
    pub cut: BTreeSet<usize>,
    /// Values that are text instead of numbers or days.
    pub as_text: i64,
    /// Times that were rounded.
    pub rounded: i64,
}

/// How a table becomes a file.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// One of those that hold whole tables in a file.
    pub format: ExportFormat,
    pub compression: Option<ExportCompression>,
    /// Of Parquet.
    pub row_group_rows: Option<u32>,
}

impl Settings {
    /// How the file is packed around its content.
    fn packed(&self) -> ExportCompression {
        match self.format {
            ExportFormat::Csv | ExportFormat::Jsonl => self.compression.unwrap_or_default(),
            ExportFormat::Parquet
            | ExportFormat::Arrow
            | ExportFormat::Xlsx
            | ExportFormat::Postgres
            | ExportFormat::Mooncake
            | ExportFormat::Vidur
            | ExportFormat::TraceV2 => ExportCompression::None,
        }
    }

    fn parquet(&self) -> parquet::errors::Result<WriterProperties> {
        let compression = match self.compression.unwrap_or(ExportCompression::Zstd) {
            ExportCompression::None => Compression::UNCOMPRESSED,
            ExportCompression::Gzip => Compression::GZIP(GzipLevel::default()),
            ExportCompression::Zstd => Compression::ZSTD(ZstdLevel::try_new(3)?),
            ExportCompression::Snappy => Compression::SNAPPY,
        };
        let mut builder = WriterProperties::builder().set_created_by("pipe".to_string()).set_compression(compression);
        if let Some(rows) = self.row_group_rows {
            builder = builder.set_max_row_group_row_count(Some(rows.max(1) as usize));
        }
        Ok(builder.build())
    }
}

/// Takes the batches of a table.
pub struct Sink {
    to: To,
    path: PathBuf,
    /// [`Losses::cut`], of JSON.
    cut: BTreeSet<usize>,
}

enum To {
    Parquet(Box<ArrowWriter<Out>>),
    Arrow(Box<FileWriter<Out>>),
    Csv(Box<arrow::csv::Writer<Out>>),
    Jsonl(Box<arrow::json::Writer<Out, LineDelimited>>),
    Xlsx(Box<Xlsx>, Box<Out>),
}

fn failed(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::stage("export::write", format!("cannot write {}: {e}", path.display()))
}

impl Sink {
    /// A file at `path` for the rows of `schema`; `table` is what they are called, where the format says it.
    ///
    /// # Errors
    /// Columns that the format cannot hold; the file cannot be made.
    pub fn create(settings: &Settings, table: &str, schema: &SchemaRef, path: &Path) -> Result<Sink> {
        let scratch = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = File::create(path).map_err(|e| diag::io(path, "write", &e))?;
        Sink::over(settings, table, schema, path, (file, scratch))
    }

    /// [`Sink::create`] of a file that is open, with a folder for what must lie somewhere until it is written; `path` is what
    /// messages call it.
    ///
    /// # Errors
    /// Columns that the format cannot hold; the file cannot be written.
    pub fn over(
        settings: &Settings,
        table: &str,
        schema: &SchemaRef,
        path: &Path,
        (file, scratch): (File, &Path),
    ) -> Result<Sink> {
        let wrong = |e: &dyn std::fmt::Display| failed(path, e);
        let mut out = Out::over(file, settings.packed()).map_err(|e| wrong(&e))?;
        let to = match settings.format {
            ExportFormat::Parquet => {
                let properties = settings.parquet().map_err(|e| wrong(&e))?;
                let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties));
                To::Parquet(Box::new(writer.map_err(|e| wrong(&e))?))
            }
            ExportFormat::Arrow => To::Arrow(Box::new(FileWriter::try_new(out, schema).map_err(|e| wrong(&e))?)),
            ExportFormat::Csv => {
                // The names also stand over no rows.
                let mut header = csv::Writer::from_writer(Vec::new());
                header.write_record(schema.fields().iter().map(|f| f.name())).map_err(|e| wrong(&e))?;
                out.write_all(&header.into_inner().map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
                let rows = arrow::csv::WriterBuilder::new().with_header(false).build(out);
                To::Csv(Box::new(rows))
            }
            ExportFormat::Xlsx => To::Xlsx(Box::new(Xlsx::new(table, schema, scratch)?), Box::new(out)),
            // The others have writers of their own.
            ExportFormat::Jsonl
            | ExportFormat::Postgres
            | ExportFormat::Mooncake
            | ExportFormat::Vidur
            | ExportFormat::TraceV2 => To::Jsonl(Box::new(JsonBuilder::new().with_explicit_nulls(true).build(out))),
        };
        Ok(Sink { to, path: path.to_path_buf(), cut: BTreeSet::new() })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong = |e: &dyn std::fmt::Display| failed(&self.path, e);
        match &mut self.to {
            To::Parquet(writer) => writer.write(batch).map_err(|e| wrong(&e)),
            To::Arrow(writer) => writer.write(batch).map_err(|e| wrong(&e)),
            To::Csv(writer) => flat(batch).and_then(|batch| writer.write(&batch)).map_err(|e| wrong(&e)),
            To::Jsonl(writer) => {
                let lost = batch.columns().iter().enumerate().filter(|(_, c)| has_no_number(&c.to_data()));
                self.cut.extend(lost.map(|(c, _)| c));
                writer.write(batch).map_err(|e| wrong(&e))
            }
            To::Xlsx(workbook, _) => workbook.write(batch),
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<Losses> {
        let path = self.path;
        let wrong = |e: &dyn std::fmt::Display| failed(&path, e);
        let mut losses = Losses { cut: self.cut, ..Losses::default() };
        let out = match self.to {
            To::Parquet(writer) => writer.into_inner().map_err(|e| wrong(&e))?,
            To::Arrow(mut writer) => {
                writer.finish().map_err(|e| wrong(&e))?;
                writer.into_inner().map_err(|e| wrong(&e))?
            }
            To::Csv(writer) => writer.into_inner(),
            To::Jsonl(mut writer) => {
                writer.finish().map_err(|e| wrong(&e))?;
                writer.into_inner()
            }
            To::Xlsx(workbook, mut out) => {
                losses = workbook.finish(&mut out)?;
                *out
            }
        };
        out.finish().map_err(|e| wrong(&e))?;
        Ok(losses)
    }
}

/// Whether there are values that JSON's numbers cannot hold, NaN or infinite, also in lists.
fn has_no_number(column: &ArrayData) -> bool {
    if !column.data_type().is_floating() {
        return column.child_data().iter().any(has_no_number);
    }
    cast(&make_array(column.clone()), &DataType::Float64)
        .is_ok_and(|wide| wide.as_primitive::<Float64Type>().iter().flatten().any(|x| !x.is_finite()))
}
