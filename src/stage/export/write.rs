//! Files of whole tables, and packed text files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::FileWriter;
use arrow::json::LineDelimitedWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::diag::{self, Failure, Result};
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
        let file = BufWriter::new(File::create(path).map_err(failed)?);
        Ok(match compression {
            ExportCompression::None => Out::Plain(file),
            // No name and no time in the header: the same rows are the same bytes.
            ExportCompression::Gzip => Out::Gzip(flate2::GzBuilder::new().write(file, flate2::Compression::default())),
            ExportCompression::Zstd => Out::Zstd(zstd::Encoder::new(file, 3).map_err(failed)?),
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

/// Takes the batches of a table.
pub struct Sink {
    to: To,
    path: PathBuf,
}

enum To {
    Parquet(Box<ArrowWriter<Out>>),
    Arrow(Box<FileWriter<Out>>),
    Csv(Box<arrow::csv::Writer<Out>>, SchemaRef),
    Jsonl(Box<LineDelimitedWriter<Out>>),
}

fn failed(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::stage("export::write", format!("cannot write {}: {e}", path.display()))
}

impl Sink {
    /// A file at `path` for the rows of `schema`.
    ///
    /// # Errors
    /// Columns that the format cannot hold.
    pub fn new(format: ExportFormat, schema: &SchemaRef, out: Out, path: &Path) -> Result<Sink> {
        let wrong = |e: &dyn std::fmt::Display| failed(path, e);
        let to = match format {
            ExportFormat::Parquet => {
                let zstd = Compression::ZSTD(ZstdLevel::try_new(3).map_err(|e| wrong(&e))?);
                let properties = WriterProperties::builder().set_compression(zstd).build();
                let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties));
                To::Parquet(Box::new(writer.map_err(|e| wrong(&e))?))
            }
            ExportFormat::Arrow => To::Arrow(Box::new(FileWriter::try_new(out, schema).map_err(|e| wrong(&e))?)),
            ExportFormat::Csv => {
                let plain = |f: &Arc<Field>| match f.data_type().is_nested() {
                    true => Field::new(f.name(), DataType::Utf8, true),
                    false => f.as_ref().clone(),
                };
                let plain = Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>());
                To::Csv(Box::new(arrow::csv::Writer::new(out)), Arc::new(plain))
            }
            // Trace formats have files of their own.
            ExportFormat::Jsonl | ExportFormat::Mooncake | ExportFormat::Vidur | ExportFormat::TraceV2 => {
                To::Jsonl(Box::new(LineDelimitedWriter::new(out)))
            }
        };
        Ok(Sink { to, path: path.to_path_buf() })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong = |e: &dyn std::fmt::Display| failed(&self.path, e);
        match &mut self.to {
            To::Parquet(writer) => writer.write(batch).map_err(|e| wrong(&e)),
            To::Arrow(writer) => writer.write(batch).map_err(|e| wrong(&e)),
            To::Csv(writer, schema) => {
                let columns = batch.columns().iter().map(plain).collect::<std::result::Result<_, _>>();
                let batch = columns.and_then(|columns| RecordBatch::try_new(schema.clone(), columns));
                batch.and_then(|batch| writer.write(&batch)).map_err(|e| wrong(&e))
            }
            To::Jsonl(writer) => writer.write(batch).map_err(|e| wrong(&e)),
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        let wrong = |e: &dyn std::fmt::Display| failed(&path, e);
        let out = match self.to {
            To::Parquet(writer) => writer.into_inner().map_err(|e| wrong(&e))?,
            To::Arrow(mut writer) => {
                writer.finish().map_err(|e| wrong(&e))?;
                writer.into_inner().map_err(|e| wrong(&e))?
            }
            To::Csv(writer, _) => writer.into_inner(),
            To::Jsonl(mut writer) => {
                writer.finish().map_err(|e| wrong(&e))?;
                writer.into_inner()
            }
        };
        out.finish().map_err(|e| wrong(&e))
    }
}

/// A column that CSV can hold: lists as text.
fn plain(column: &ArrayRef) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    if !column.data_type().is_nested() {
        return cast(column, column.data_type());
    }
    let options = FormatOptions::default();
    let format = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let text = |i: usize| column.is_valid(i).then(|| format.value(i).try_to_string()).transpose();
    let texts = (0..column.len()).map(text).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Arc::new(StringArray::from(texts)))
}
