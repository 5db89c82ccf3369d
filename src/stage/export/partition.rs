//! Partitioned Parquet: a folder per value of some columns, as Hive and Spark name them.
//!
//! Promises: rows of a folder are in the order of the table; the same table makes the same files; memory is bounded
//! ([`BUFFER_BYTES`]), and one file is open at a time. Each time the buffer is full, every partition in it gets a file, so
//! that a table larger than the buffer has several in a folder. Left out: reading them back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, interleave_record_batch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::write::{Settings, Sink};
use super::{Loss, Written};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::Text;
use crate::stage::RunCx;
use crate::store::TableHandle;
use crate::trace;

/// Rows that wait to be written, in bytes.
pub const BUFFER_BYTES: usize = 256 << 20;
/// More folders than this help no reader.
const PARTITIONS: usize = 10_000;
/// Bytes of a file's name that file systems take.
const NAME_BYTES: usize = 255;
/// What stands for NULL.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// What is wrong with the columns to partition by.
pub fn unfit(by: &[Text], table: &str, schema: &Schema) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for column in by {
        let name = &column.value;
        let wrong = |message: String, help: String| {
            Diagnostic::new("export::partition", message).at(column.at.clone()).help(help)
        };
        if !seen.insert(name) {
            found.push(wrong(format!("`{name}` is there twice"), "leave one out".to_string()));
        }
        match schema.field_with_name(name) {
            Err(_) => {
                let near = crate::diag::nearest(name, schema.fields().iter().map(|f| f.name().as_str()));
                let help = near.map_or("`pipe show` lists the columns".to_string(), |n| format!("did you mean `{n}`?"));
                found.push(wrong(format!("`{table}` has no column `{name}`"), help));
            }
            Ok(field) if !can_be_a_name(field.data_type()) => {
                let message = format!("`{name}` is {}, which cannot be part of a folder's name", field.data_type());
                found.push(wrong(message, "partition by numbers, texts, days or booleans".to_string()));
            }
            Ok(_) => {}
        }
    }
    if found.is_empty() && !by.is_empty() && by.len() == schema.fields().len() {
        let message = format!("all columns of `{table}` are in the names of folders: the files would have none");
        let at = by.first().and_then(|c| c.at.clone());
        found.push(Diagnostic::new("export::partition", message).at(at).help("leave one out of `partition_by`"));
    }
    found
}

fn can_be_a_name(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => can_be_a_name(values),
        DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(_, None) => true,
        kind => kind.is_numeric(),
    }
}

/// A table on its way into folders.
pub struct Partitions<'a> {
    pub cx: &'a RunCx,
    pub input: &'a TableHandle,
    pub settings: Settings,
    pub by: &'a [Text],
    /// The folder of them all.
    pub folder: String,
    /// [`BUFFER_BYTES`].
    pub buffer_bytes: usize,
}

/// The partitions so far, and the rows that are not written yet.
#[derive(Default)]
struct State {
    /// Looked up, never walked.
    known: HashMap<String, usize>,
    partitions: Vec<Partition>,
    batches: Vec<RecordBatch>,
    bytes: usize,
    files: Vec<Written>,
}

struct Partition {
    /// `a=1/b=x`.
    path: String,
    /// Batch and row of those that wait.
    rows: Vec<(usize, usize)>,
    /// Columns with values among those rows that another one's name stands for.
    unclear: BTreeSet<usize>,
    files: usize,
}

impl Partitions<'_> {
    /// Writes all files.
    ///
    /// # Errors
    /// Too many partitions; values too long for a name; the disk is full and the like.
    pub fn write(&self) -> Result<Vec<Written>> {
        let schema = &self.input.schema;
        let is_key = |name: &str| self.by.iter().any(|c| c.value == name);
        let (kept, fields): (Vec<usize>, Vec<_>) =
            schema.fields().iter().cloned().enumerate().filter(|(_, f)| !is_key(f.name())).unzip();
        let inner: SchemaRef = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        let mut state = State::default();
        for batch in trace::parts(&self.input.parts)? {
            self.cx.cancel.check()?;
            let batch = batch?;
            self.sort_in(&batch, &kept, &mut state)?;
            if state.bytes >= self.buffer_bytes {
                self.flush(&inner, &mut state)?;
            }
            self.cx.progress.0.advance(batch.num_rows() as u64);
        }
        self.flush(&inner, &mut state)?;
        state.files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(state.files)
    }

    /// Notes to which partitions the rows of a batch belong.
    fn sort_in(&self, batch: &RecordBatch, kept: &[usize], state: &mut State) -> Result<()> {
        let broken = |e: arrow::error::ArrowError| {
            Failure::stage("export::partition", format!("cannot partition `{}`: {e}", self.input.name))
        };
        let mut keys = Vec::new();
        for column in self.by {
            let array = batch.column_by_name(&column.value).ok_or_else(|| {
                Failure::stage("export::partition", format!("`{}` has no column `{}`", self.input.name, column.value))
            })?;
            keys.push((escape(&column.value), values(array).map_err(broken)?));
        }
        let inner = batch.project(kept).map_err(broken)?;
        let sizes = inner.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or_default());
        state.bytes += sizes.sum::<usize>();
        let place = state.batches.len();
        state.batches.push(inner);
        let mut path = String::new();
        let mut unclear = Vec::new();
        for row in 0..batch.num_rows() {
            path.clear();
            unclear.clear();
            for (c, (name, values)) in keys.iter().enumerate() {
                let value = values.is_valid(row).then(|| values.value(row));
                if value.is_some_and(|v| v.is_empty() || v == NULL) {
                    unclear.push(c);
                }
                let value = value.filter(|v| !v.is_empty()).map_or(NULL.to_string(), escape);
                let start = path.len();
                path.push_str(&format!("{}{name}={value}", if c > 0 { "/" } else { "" }));
                if path.len() - start > NAME_BYTES {
                    return Err(self.too_long(c));
                }
            }
            let next = state.partitions.len();
            let known = state.known.get(&path).copied();
            if known.is_none() {
                if next == PARTITIONS {
                    return Err(self.too_many());
                }
                state.known.insert(path.clone(), next);
                let (path, rows, unclear) = (path.clone(), Vec::new(), BTreeSet::new());
                state.partitions.push(Partition { path, rows, unclear, files: 0 });
            }
            if let Some(partition) = state.partitions.get_mut(known.unwrap_or(next)) {
                partition.rows.push((place, row));
                partition.unclear.extend(&unclear);
            }
        }
        Ok(())
    }

    fn too_long(&self, column: usize) -> Failure {
        let name = self.by.get(column).map_or("", |c| c.value.as_str());
        let message = format!("a value of `{name}` makes a folder's name of more than {NAME_BYTES} bytes");
        Diagnostic::new("export::partition", message).help("partition by a column of short values").into()
    }

    fn too_many(&self) -> Failure {
        let names: Vec<&str> = self.by.iter().map(|c| c.value.as_str()).collect();
        let message =
            format!("`{}` has more than {PARTITIONS} different values of {}", self.input.name, names.join(", "));
        let help = "partition by fewer columns, or by coarser values made by a `sql` stage";
        Diagnostic::new("export::partitions", message).help(help).into()
    }

    /// Writes the rows that wait, a file per partition that has some.
    fn flush(&self, schema: &SchemaRef, state: &mut State) -> Result<()> {
        let batches: Vec<&RecordBatch> = state.batches.iter().collect();
        for partition in &mut state.partitions {
            if partition.rows.is_empty() {
                continue;
            }
            self.cx.cancel.check()?;
            let rows = std::mem::take(&mut partition.rows);
            let name = format!("{}/{}/part-{:05}.parquet", self.folder, partition.path, partition.files);
            let mut sink = Sink::create(&self.settings, &self.input.name, schema, &self.cx.out.file(&name)?)?;
            for rows in rows.chunks(1 << 16) {
                let batch = interleave_record_batch(&batches, rows)
                    .map_err(|e| Failure::stage("export::partition", format!("cannot gather rows: {e}")))?;
                // Of the table, with units and descriptions.
                let batch = RecordBatch::try_new(schema.clone(), batch.columns().to_vec())
                    .map_err(|e| Failure::stage("export::partition", format!("cannot gather rows: {e}")))?;
                sink.write(&batch)?;
            }
            sink.finish()?;
            partition.files += 1;
            let unclear = std::mem::take(&mut partition.unclear).into_iter().filter_map(|c| self.by.get(c));
            let loss = Loss { left_out: unclear.map(|c| c.value.clone()).collect(), ..Loss::default() };
            state.files.push(Written { name, rows: rows.len() as i64, sent: None, loss });
        }
        state.batches.clear();
        state.bytes = 0;
        Ok(())
    }
}

/// The values of a column as they stand in names, before they are escaped.
fn values(column: &ArrayRef) -> std::result::Result<StringArray, arrow::error::ArrowError> {
    let by = |text: &dyn Fn(usize) -> String| -> StringArray {
        (0..column.len()).map(|i| column.is_valid(i).then(|| text(i))).collect()
    };
    Ok(match column.data_type() {
        DataType::Dictionary(_, kind) => return values(&cast(column, kind)?),
        DataType::Date64 => return values(&cast(column, &DataType::Date32)?),
        DataType::Float16 => return values(&cast(column, &DataType::Float32)?),
        // With a point or an exponent, so that readers take them for what they are.
        DataType::Float32 => by(&|i| format!("{:?}", column.as_primitive::<Float32Type>().value(i))),
        DataType::Float64 => by(&|i| format!("{:?}", column.as_primitive::<Float64Type>().value(i))),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            cast(column, &DataType::Utf8)?.as_string::<i32>().clone()
        }
        _ => {
            let options = FormatOptions::default().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
            let format = ArrayFormatter::try_new(column.as_ref(), &options)?;
            let text = |i: usize| column.is_valid(i).then(|| format.value(i).try_to_string()).transpose();
            StringArray::from((0..column.len()).map(text).collect::<std::result::Result<Vec<_>, _>>()?)
        }
    })
}

/// A value or a column's name in the name of a folder: the characters that Hive escapes, as `%` and two digits.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let reserved = c.is_ascii_control()
            || matches!(c, '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '[' | ']' | '^');
        if reserved {
            out.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}
