//! Parquet files with columns of the user's choice. Problems name the row, from 1, and the number of the column.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit as ArrowUnit, UInt64Type};

use super::detect::{Key, all_there, generic};
use super::extra::Extra;
use super::fields::{Fields, Role, Rows};
use super::{Fault, Parsed, Problem, Settings, otel};
use crate::diag::{self, Diagnostic, Exit, Failure, Result};
use crate::spec::Format;

/// Rows that are parsed at once.
const BATCH_ROWS: usize = 1 << 16;
const PART_BATCH_ROWS: usize = 8192;

pub fn is_parquet(settings: &Settings) -> Result<bool> {
    let fail = |e| diag::io(settings.written.as_ref(), "read", &e);
    let mut magic = Vec::new();
    File::open(&settings.path).and_then(|f| f.take(4).read_to_end(&mut magic)).map_err(fail)?;
    Ok(magic == b"PAR1")
}

/// The rows of the Parquet files `paths`, one after the other, in batches of at most 8,192 rows.
///
/// # Errors
/// A file cannot be opened; batches that cannot be read are errors of the iterator.
pub fn parts(paths: &[PathBuf]) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
    let mut readers = Vec::new();
    for path in paths {
        let unreadable = move |e: &dyn std::fmt::Display| {
            Failure::stage("trace::parquet", format!("cannot read {}: {e}", path.display()))
        };
        let file = File::open(path).map_err(|e| unreadable(&e))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(&e))?;
        let reader = builder.with_batch_size(PART_BATCH_ROWS).build().map_err(|e| unreadable(&e))?;
        let name = path.display().to_string();
        readers.push(
            reader.map(move |batch| {
                batch.map_err(|e| Failure::stage("trace::parquet", format!("cannot read {name}: {e}")))
            }),
        );
    }
    Ok(readers.into_iter().flatten())
}

/// The row groups of a file, each of which can be read by itself.
#[derive(Debug)]
pub struct Groups {
    path: PathBuf,
    written: String,
    metadata: ArrowReaderMetadata,
    /// The columns that are read.
    mask: ProjectionMask,
}

impl Groups {
    /// Rows of a group; `None` behind the last.
    pub fn rows(&self, group: usize) -> Option<u64> {
        let groups = self.metadata.metadata().row_groups();
        groups.get(group).map(|g| g.num_rows().try_into().unwrap_or(0))
    }

    /// Rows of all groups.
    pub fn all_rows(&self) -> u64 {
        (0..).map_while(|i| self.rows(i)).sum()
    }

    fn reader(&self, group: usize) -> Result<ParquetRecordBatchReader> {
        let file = File::open(&self.path).map_err(|e| self.unreadable(&e))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let builder = builder.with_projection(self.mask.clone()).with_row_groups(vec![group]);
        builder.with_batch_size(BATCH_ROWS).build().map_err(|e| self.unreadable(&e))
    }

    fn unreadable(&self, e: &dyn std::fmt::Display) -> Failure {
        Failure::stage("trace::parquet", format!("cannot read {}: {e}", self.written))
    }
}

/// The rows of a row group, the first of which has the number `first_row` in the file.
pub fn parse_group(fields: &Fields, groups: &Groups, group: usize, first_row: u64) -> Result<Parsed> {
    let mut next_row = first_row;
    let mut all = Vec::new();
    for batch in groups.reader(group)? {
        let batch = batch.map_err(|e| groups.unreadable(&e))?;
        all.push(parse(fields, &batch, next_row)?);
        next_row += batch.num_rows() as u64;
    }
    Parsed::joined(all, &fields.layout.schema())
}

/// The format and the fields of the file, and its row groups.
pub fn open(settings: &Settings) -> Result<(Format, Fields, Groups)> {
    let unreadable = |e: &dyn std::fmt::Display| {
        Failure::stage("trace::parquet", format!("cannot read {} as Parquet: {e}", settings.written))
    };
    let builder = || {
        let file = File::open(&settings.path).map_err(|e| unreadable(&e))?;
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(&e))
    };
    let mut first = builder()?.with_batch_size(1).with_limit(1).build().map_err(|e| unreadable(&e))?;
    let first = first.next().transpose().map_err(|e| unreadable(&e))?;
    let schema = builder()?.schema().clone();
    let null = |i: usize| first.as_ref().is_some_and(|row| row.column(i).is_null(0));
    let keys = schema.fields().iter().enumerate();
    let keys: Vec<Key> = keys.map(|(i, f)| Key { path: f.name().clone(), null: null(i), object: false }).collect();
    let is_otel = settings.format == Format::Auto && settings.is_plain() && otel::fits(&keys);
    let (format, fields) = match settings.format {
        Format::Otel => (Format::Otel, otel::fields(&keys)),
        _ if is_otel => (Format::Otel, otel::fields(&keys)),
        _ => (Format::Parquet, generic(settings, &keys)?),
    };
    all_there(settings, &fields, &keys)?;
    check_types(settings, &fields, schema.fields().iter().map(AsRef::as_ref))?;

    let used = schema.fields().iter().enumerate().filter(|(_, f)| fields.named().any(|(_, n)| n == f.name()));
    let file = File::open(&settings.path).map_err(|e| unreadable(&e))?;
    let metadata = ArrowReaderMetadata::load(&file, Default::default()).map_err(|e| unreadable(&e))?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), used.map(|(i, _)| i));
    let (path, written) = (settings.path.clone(), settings.written.clone());
    Ok((format, fields, Groups { path, written, metadata, mask }))
}

fn check_types<'a>(settings: &Settings, fields: &Fields, schema: impl Iterator<Item = &'a Field>) -> Result<()> {
    let mut diagnostics = Vec::new();
    for field in schema {
        let Some((role, _)) = fields.named().find(|(_, n)| n == field.name()) else { continue };
        if let Err(expected) = canonical(role, field.data_type()) {
            let message = format!(
                "{} has a column `{}` of type {}: expected {expected}",
                settings.written,
                field.name(),
                field.data_type()
            );
            diagnostics.push(Diagnostic::new("trace::column_type", message));
        }
    }
    if diagnostics.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Stage, diagnostics }) }
}

/// The type that a column is read as; the error is what would be valid.
fn canonical(role: Role, found: &DataType) -> std::result::Result<DataType, &'static str> {
    let text = matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let dictionary = matches!(found, DataType::Dictionary(_, v) if **v == DataType::Utf8);
    let list = |kind| DataType::List(std::sync::Arc::new(Field::new_list_field(kind, true)));
    let item = match found {
        DataType::List(f) | DataType::LargeList(f) => Some(f.data_type()),
        _ => None,
    };
    match role {
        Role::Arrival | Role::Measured(_) => match found {
            DataType::Timestamp(_, _) if role == Role::Arrival => Ok(DataType::Timestamp(ArrowUnit::Nanosecond, None)),
            DataType::Float32 | DataType::Float64 => Ok(DataType::Float64),
            _ if found.is_integer() => Ok(DataType::Int64),
            _ if role == Role::Arrival => Err("numbers or timestamps"),
            _ => Err("numbers"),
        },
        Role::Extra(extra) if extra.is_real() => match found {
            DataType::Float32 | DataType::Float64 => Ok(DataType::Float64),
            _ if found.is_integer() => Ok(DataType::Int64),
            _ => Err("numbers"),
        },
        Role::Extra(extra) if extra.is_number() => {
            if found.is_integer() {
                Ok(DataType::Int64)
            } else {
                Err("whole numbers")
            }
        }
        Role::Extra(Extra::DependsOn) => match item {
            // Names are compared as texts.
            Some(kind) if kind.is_string() || kind.is_integer() => Ok(list(DataType::Utf8)),
            _ => Err("lists of names or numbers of requests"),
        },
        Role::InputTokens
        | Role::OutputTokens
        | Role::BlockTokens
        | Role::Turn
        | Role::Think
        | Role::EncoderTokens
        | Role::PrefixTokens => {
            if found.is_integer() {
                Ok(DataType::Int64)
            } else {
                Err("whole numbers")
            }
        }
        Role::Extra(_)
        | Role::Session
        | Role::Class
        | Role::Model
        | Role::Adapter
        | Role::Name
        | Role::Run
        | Role::Status
        | Role::PrefixGroup => {
            if text || dictionary || found.is_integer() {
                Ok(DataType::Utf8)
            } else {
                Err("text")
            }
        }
        Role::Output if text || dictionary => Ok(DataType::Utf8),
        Role::Input if text || dictionary => Ok(DataType::Utf8),
        Role::Input if item.is_some_and(DataType::is_string) => Ok(list(DataType::Utf8)),
        Role::Hashes | Role::InputIds | Role::OutputIds if item.is_some_and(DataType::is_integer) => {
            Ok(list(DataType::UInt64))
        }
        Role::Input | Role::Output => Err("text"),
        Role::Hashes | Role::InputIds | Role::OutputIds => Err("lists of whole numbers"),
    }
}

/// The rows of a batch.
pub fn parse(fields: &Fields, batch: &RecordBatch, first_row: u64) -> Result<Parsed> {
    let mut columns: Vec<(usize, Role, ArrayRef)> = Vec::new();
    for (i, field) in batch.schema().fields().iter().enumerate() {
        let Some((role, _)) = fields.named().find(|(_, n)| n == field.name()) else { continue };
        let kind = canonical(role, field.data_type()).map_err(|e| Failure::stage("trace::column_type", e))?;
        // What does not fit becomes null, and is then missing.
        let options = CastOptions { safe: true, ..CastOptions::default() };
        let cast = cast_with_options(batch.column(i), &kind, &options);
        columns.push((i, role, cast.map_err(|e| Failure::stage("trace::parquet", e.to_string()))?));
    }
    let mut rows = Rows::new(fields);
    for row in 0..batch.num_rows() {
        let mut place = 0;
        let line = first_row + row as u64;
        let result = columns
            .iter()
            .filter(|(_, _, values)| !values.is_null(row))
            .try_for_each(|(i, role, values)| {
                place = *i;
                value(*role, values, row, &mut rows)
            })
            .and_then(|()| rows.commit(line));
        if let Err(fault) = result {
            rows.reject(Problem { line, column: place as u32 + 1, reason: fault.reason, text: String::new() });
        }
    }
    rows.finish()
}

fn value(role: Role, values: &ArrayRef, row: usize, rows: &mut Rows) -> std::result::Result<(), Fault> {
    match values.data_type() {
        DataType::Utf8 => rows.text(role, values.as_string::<i32>().value(row), 0),
        // Numbers take the same way as those of text files, and meet the same checks.
        DataType::Int64 => rows.text(role, &values.as_primitive::<Int64Type>().value(row).to_string(), 0),
        // The shortest text of a float is what a CSV file would say.
        DataType::Float64 => rows.text(role, &values.as_primitive::<Float64Type>().value(row).to_string(), 0),
        DataType::Timestamp(_, _) => {
            let ns = values.as_primitive::<arrow::datatypes::TimestampNanosecondType>().value(row);
            rows.arrival_ns(ns, 0)
        }
        _ => list(role, &values.as_list::<i32>().value(row), rows),
    }
}

fn list(role: Role, items: &ArrayRef, rows: &mut Rows) -> std::result::Result<(), Fault> {
    rows.list(role, 0)?;
    if items.null_count() > 0 {
        return Err(rows.fault(role, 0, "has an item that is missing or does not fit"));
    }
    match items.data_type() {
        DataType::Utf8 if role == Role::Extra(Extra::DependsOn) => {
            items.as_string::<i32>().iter().flatten().for_each(|name| rows.parent(name));
        }
        DataType::Utf8 => items.as_string::<i32>().iter().flatten().for_each(|m| rows.message(m)),
        _ => {
            items.as_primitive::<UInt64Type>().values().iter().try_for_each(|h| rows.number(role, &h.to_string(), 0))?
        }
    }
    Ok(())
}
