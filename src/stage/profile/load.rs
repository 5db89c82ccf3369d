//! The table of a stage `profile` as the kernel's profile.
//!
//! Promises: names are numbered in their order, points sorted by operator, names and shape. Reads only the columns that
//! a row group has values in, a column at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use pipe_kernel::profile::{DIMS, Layout, Operator, Point, Profile};

use crate::diag::{Diagnostic, Failure, Result, io};
use crate::store::TableHandle;
use crate::table::profile::schema;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1 << 15;

/// Reads a profile. Its fingerprint is the hash of the table's content.
///
/// # Errors
/// The table is not one of a stage `profile`, or cannot be read.
pub(crate) async fn load(handle: &TableHandle) -> Result<Arc<Profile>> {
    let handle = handle.clone();
    let read = tokio::task::spawn_blocking(move || read(&handle));
    read.await.map_err(|e| Failure::stage("profile::load", format!("a thread that reads a profile failed: {e}")))?
}

/// [`load`], on this thread.
///
/// # Errors
/// As there.
pub fn read(handle: &TableHandle) -> Result<Arc<Profile>> {
    for field in schema().fields() {
        if handle.schema.field_with_name(field.name()).is_err() {
            let message = format!("table `{}` is no profile: it has no column `{}`", handle.name, field.name());
            return Err(Diagnostic::new("profile::table", message).help("name a stage of kind `profile`").into());
        }
    }
    let mut loading = Loading::default();
    for part in &handle.parts {
        loading.part(part)?;
    }
    loading.finish(handle)
}

#[derive(Default)]
struct Loading {
    layout: Option<Layout>,
    names: Vec<String>,
    points: BTreeMap<Operator, Vec<Point>>,
}

fn damaged(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::stage("profile::load", format!("cannot read {}: {e}", path.display()))
}

/// Whether a row group has a value in a column.
fn has_values(group: &RowGroupMetaData, column: usize) -> bool {
    let nulls = group.column(column).statistics().and_then(|s| s.null_count_opt());
    nulls.is_none_or(|n| n < u64::try_from(group.num_rows()).unwrap_or(u64::MAX))
}

impl Loading {
    fn part(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| io(path, "read", &e))?;
        // Names as numbers and a dictionary: a row costs no text.
        let texts = |f: &Arc<Field>| match f.data_type() {
            DataType::Utf8 => {
                let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                Arc::new(Field::clone(f).with_data_type(kind))
            }
            _ => f.clone(),
        };
        let meta = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| damaged(path, &e))?;
        let fields: Vec<Arc<Field>> = meta.schema().fields().iter().map(texts).collect();
        let wanted = Arc::new(Schema::new_with_metadata(fields, meta.schema().metadata().clone()));
        let options = ArrowReaderOptions::new().with_schema(wanted);
        let meta = ArrowReaderMetadata::try_new(meta.metadata().clone(), options).map_err(|e| damaged(path, &e))?;
        for (i, group) in meta.metadata().row_groups().iter().enumerate() {
            // The columns are flat: a root is a leaf.
            let columns = (0..group.num_columns()).filter(|c| has_values(group, *c));
            let mask = ProjectionMask::roots(meta.metadata().file_metadata().schema_descr(), columns);
            let file = file.try_clone().map_err(|e| io(path, "read", &e))?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, meta.clone());
            let reader = builder.with_row_groups(vec![i]).with_projection(mask).with_batch_size(BATCH_ROWS).build();
            for batch in reader.map_err(|e| damaged(path, &e))? {
                self.batch(&batch.map_err(|e| damaged(path, &e))?, path)?;
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, path: &Path) -> Result<()> {
        let texts = |name: &str| -> Result<(Vec<String>, &[i32])> {
            let column = batch.column_by_name(name).ok_or_else(|| damaged(path, &format!("no column `{name}`")))?;
            let column = column.as_dictionary::<Int32Type>();
            let values = column.values().as_string::<i32>();
            Ok((values.iter().map(|v| v.unwrap_or("").to_string()).collect(), column.keys().values()))
        };
        let (layouts, layout_keys) = texts("layout")?;
        if self.layout.is_none()
            && let Some(first) = layout_keys.first()
        {
            let name = &layouts[*first as usize];
            let layout = Layout::ALL.into_iter().find(|l| l.name() == name);
            self.layout = Some(layout.ok_or_else(|| damaged(path, &format!("no layout `{name}`")))?);
        }
        let (operators, operator_keys) = texts("operator")?;
        let mut names = Vec::new();
        for column in ["variant", "dtype", "kv_dtype"] {
            let (values, keys) = texts(column)?;
            let numbers = values.iter().map(|v| self.name(v, path)).collect::<Result<Vec<u16>>>()?;
            names.push((numbers, keys));
        }
        let times = batch.column_by_name("latency_us").map(|c| c.as_primitive::<Float64Type>().values());
        let times = times.ok_or_else(|| damaged(path, &"no column `latency_us`"))?;
        let mut start = 0;
        for run in operator_keys.chunk_by(|a, b| a == b) {
            let rows = start..start + run.len();
            start = rows.end;
            let name = &operators[run[0] as usize];
            let operator = Operator::ALL.iter().find(|o| o.name() == name);
            let operator = *operator.ok_or_else(|| damaged(path, &format!("no operator `{name}`")))?;
            let points = self.points.entry(operator).or_default();
            let from = points.len();
            points.extend(rows.clone().map(|row| {
                let name = |(numbers, keys): &(Vec<u16>, &[i32])| numbers[keys[row] as usize];
                Point {
                    variant: name(&names[0]),
                    dtype: name(&names[1]),
                    kv_dtype: name(&names[2]),
                    shape: [0; DIMS],
                    latency_us: times[row],
                }
            }));
            for (d, dim) in operator.dims().iter().enumerate() {
                let column = batch.column_by_name(dim).map(|c| c.as_primitive::<Int64Type>());
                let column = column.filter(|c| c.slice(rows.start, rows.len()).null_count() == 0);
                let column = column.ok_or_else(|| damaged(path, &format!("`{name}` without `{dim}`")))?;
                for (point, n) in points[from..].iter_mut().zip(&column.values()[rows.clone()]) {
                    point.shape[d] = u32::try_from(*n).map_err(|_| damaged(path, &format!("`{dim}` is {n}")))?;
                }
            }
        }
        Ok(())
    }

    /// The number of a name, in the order in which they come.
    fn name(&mut self, name: &str, path: &Path) -> Result<u16> {
        let at = self.names.iter().position(|n| n == name).unwrap_or_else(|| {
            self.names.push(name.to_string());
            self.names.len() - 1
        });
        u16::try_from(at).map_err(|_| damaged(path, &"it has more than 65536 names"))
    }

    fn finish(mut self, handle: &TableHandle) -> Result<Arc<Profile>> {
        let Some(layout) = self.layout else {
            return Err(Diagnostic::new("profile::table", format!("profile `{}` has no points", handle.name)).into());
        };
        let mut names = self.names.clone();
        names.push(String::new());
        names.sort_unstable();
        names.dedup();
        let rank = |n: &String| names.binary_search(n).ok().and_then(|i| u16::try_from(i).ok()).unwrap_or(u16::MAX);
        let ranks: Vec<u16> = self.names.iter().map(rank).collect();
        for points in self.points.values_mut() {
            for p in points.iter_mut() {
                for name in [&mut p.variant, &mut p.dtype, &mut p.kv_dtype] {
                    *name = ranks[usize::from(*name)];
                }
            }
            let key = |p: &Point| (p.variant, p.dtype, p.kv_dtype, p.shape);
            if !points.is_sorted_by(|a, b| key(a) <= key(b)) {
                points.sort_unstable_by_key(key);
            }
        }
        let fingerprint = handle.hash.0.clone();
        Ok(Arc::new(Profile { fingerprint, layout, names, points: self.points }))
    }
}
