//! A file of measurements as columns: CSV (comma, semicolon or tab; the first line names the columns) or Parquet.
//!
//! Whole files are held in memory: they have a few hundred thousand rows at most.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use csv::StringRecord;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::diag::{Failure, Result, Span, io};

/// The columns of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    pub written: String,
    pub names: Vec<String>,
}

impl Header {
    pub fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

pub(super) struct Frame {
    pub header: Header,
    pub rows: usize,
    data: Data,
}

enum Data {
    Csv { records: Vec<StringRecord>, lines: Vec<u32> },
    Parquet(RecordBatch),
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
}

fn unreadable(written: &str, e: &dyn std::fmt::Display) -> Failure {
    Failure::stage("profile::read", format!("cannot read {written}: {e}"))
}

fn parquet(path: &Path, written: &str) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(|e| io(path, "read", &e))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(written, &e))
}

fn text(path: &Path) -> Result<csv::Reader<File>> {
    use std::io::{BufRead, BufReader};
    let open = || File::open(path).map_err(|e| io(path, "read", &e));
    let mut first = String::new();
    // Text that is not UTF-8 is reported where its row is read.
    let _ = BufReader::new(open()?).read_line(&mut first);
    let count = |s: char| first.matches(s).count();
    let mut separator = ',';
    for other in [';', '\t'] {
        if count(other) > count(separator) {
            separator = other;
        }
    }
    let mut builder = csv::ReaderBuilder::new();
    Ok(builder.flexible(true).trim(csv::Trim::All).delimiter(separator as u8).from_reader(open()?))
}

fn names(record: &StringRecord) -> Vec<String> {
    record.iter().map(|n| n.trim_start_matches('\u{feff}').to_string()).collect()
}

/// The columns of a file; reads no rows.
///
/// # Errors
/// The file cannot be read.
pub(super) fn header(path: &Path, written: &str) -> Result<Header> {
    let names = if is_parquet(path) {
        parquet(path, written)?.schema().fields().iter().map(|f| f.name().clone()).collect()
    } else {
        names(text(path)?.headers().map_err(|e| unreadable(written, &e))?)
    };
    Ok(Header { written: written.to_string(), names })
}

impl Frame {
    /// Reads a file; of Parquet files only the columns for which `wanted` holds.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path, written: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Frame> {
        if is_parquet(path) {
            let builder = parquet(path, written)?;
            let fields = builder.schema().fields().clone();
            let roots = (0..fields.len()).filter(|i| wanted(fields[*i].name()));
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            let reader = builder.with_projection(mask).with_batch_size(1 << 16).build();
            let reader = reader.map_err(|e| unreadable(written, &e))?;
            let schema = arrow::array::RecordBatchReader::schema(&reader);
            let batches: Vec<RecordBatch> =
                reader.collect::<std::result::Result<_, _>>().map_err(|e| unreadable(written, &e))?;
            let batch = concat_batches(&schema, &batches).map_err(|e| unreadable(written, &e))?;
            let names = schema.fields().iter().map(|f| f.name().clone()).collect();
            let header = Header { written: written.to_string(), names };
            return Ok(Frame { header, rows: batch.num_rows(), data: Data::Parquet(batch) });
        }
        let mut reader = text(path)?;
        let header = names(reader.headers().map_err(|e| unreadable(written, &e))?);
        let header = Header { written: written.to_string(), names: header };
        let (mut records, mut lines) = (Vec::new(), Vec::new());
        for record in reader.records() {
            let record = record.map_err(|e| unreadable(written, &e))?;
            lines.push(record.position().map_or(0, |p| u32::try_from(p.line()).unwrap_or(u32::MAX)));
            records.push(record);
        }
        Ok(Frame { header, rows: records.len(), data: Data::Csv { records, lines } })
    }

    /// The values of a column; NaN where there is none, or no number. Truth is 1.
    pub fn numbers(&self, column: usize) -> Vec<f64> {
        match &self.data {
            Data::Csv { records, .. } => records.iter().map(|r| number(r.get(column).unwrap_or(""))).collect(),
            Data::Parquet(batch) => {
                let values = batch.column(column);
                if matches!(values.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
                    return self.texts(column).iter().map(|v| number(v.unwrap_or(""))).collect();
                }
                match cast(values, &DataType::Float64) {
                    Ok(values) => {
                        let values = values.as_primitive::<Float64Type>();
                        values.iter().map(|v| v.unwrap_or(f64::NAN)).collect()
                    }
                    Err(_) => vec![f64::NAN; self.rows],
                }
            }
        }
    }

    /// The values of a column as text.
    pub fn texts(&self, column: usize) -> StringArray {
        match &self.data {
            Data::Csv { records, .. } => records.iter().map(|r| r.get(column)).collect(),
            Data::Parquet(batch) => match cast(batch.column(column), &DataType::Utf8) {
                Ok(values) => values.as_string::<i32>().clone(),
                Err(_) => StringArray::new_null(self.rows),
            },
        }
    }

    /// Whether there is nothing in a field.
    pub fn is_blank(&self, column: usize, row: usize) -> bool {
        match &self.data {
            Data::Csv { records, .. } => records[row].get(column).is_none_or(str::is_empty),
            Data::Parquet(batch) => batch.column(column).is_null(row),
        }
    }

    /// A field as it is in the file.
    pub fn shown(&self, column: usize, row: usize) -> String {
        match &self.data {
            Data::Csv { records, .. } => records[row].get(column).unwrap_or("").to_string(),
            Data::Parquet(batch) => {
                let value = arrow::util::display::array_value_to_string(batch.column(column), row);
                value.unwrap_or_default()
            }
        }
    }

    /// Where a field is: its line, of Parquet files its row, from 1; and its column, from 1.
    pub fn place(&self, column: usize, row: usize) -> Span {
        let line = match &self.data {
            Data::Csv { lines, .. } => lines[row],
            Data::Parquet(_) => u32::try_from(row + 1).unwrap_or(u32::MAX),
        };
        let column = u32::try_from(column + 1).unwrap_or(u32::MAX);
        Span { file: Arc::from(self.header.written.as_str()), line, column, len: 0 }
    }

    /// Which rows repeat an earlier one in every field.
    pub fn repeated(&self) -> Vec<bool> {
        match &self.data {
            Data::Csv { records, .. } => {
                let mut seen = HashSet::new();
                records.iter().map(|r| !seen.insert(r.iter().collect::<Vec<&str>>())).collect()
            }
            Data::Parquet(_) => vec![false; self.rows],
        }
    }
}

fn number(text: &str) -> f64 {
    match text {
        "True" | "true" => 1.0,
        "False" | "false" => 0.0,
        text => text.parse().unwrap_or(f64::NAN),
    }
}
