//! A table of requests in memory, with the columns that every table of requests has, and those that it brings along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, Int64Builder, ListArray, ListBuilder, RecordBatch,
    StringArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt64Type};
use arrow::error::ArrowError;
use pipe_kernel::rng;
use pipe_kernel::workload::chain;

use crate::diag::{Failure, Result};
use crate::spec::Unit;
use crate::store::TableHandle;
use crate::table::requests;
use crate::trace;

pub fn failed(e: &ArrowError) -> Failure {
    Failure::stage("transform::arrow", format!("cannot put the rows together: {e}"))
}

/// Whether a table with these columns has token counts or texts; `None` if neither.
pub fn has_tokens(schema: &Schema) -> Option<bool> {
    let has = |name: &str| schema.field_with_name(name).is_ok();
    if has("input_tokens") && has("output_tokens") {
        return Some(true);
    }
    (has("input") && has("output")).then_some(false)
}

/// The columns that a table of requests with the columns `found` has after a `transform`: those of every such table, then
/// its own. `None` if it is no table of requests.
pub fn conformed(found: &Schema) -> Option<SchemaRef> {
    found.field_with_name("request_id").ok()?;
    let base = if has_tokens(found)? { requests::schema() } else { requests::texts_schema() };
    let own = found.fields().iter().filter(|f| base.field_with_name(f.name()).is_err());
    Some(Arc::new(Schema::new(base.fields().iter().chain(own).cloned().collect::<Vec<_>>())))
}

/// Requests, in the order of their arrivals.
#[derive(Clone, Debug)]
pub struct Trace {
    pub rows: RecordBatch,
}

impl Trace {
    /// Reads a table.
    ///
    /// # Errors
    /// It cannot be read, is no table of requests, or has two requests of one number.
    pub fn read(name: &str, handle: &TableHandle) -> Result<Trace> {
        let unfit = |what: String| Failure::stage("transform::requests", format!("`{name}` {what}"));
        let batches: Vec<RecordBatch> = trace::parts(&handle.parts)?.collect::<Result<_>>()?;
        let all = concat_batches(&handle.schema, &batches).map_err(|e| failed(&e))?;
        let schema = conformed(&handle.schema).ok_or_else(|| {
            unfit("is no table of requests: expected `request_id`, and token counts or texts".to_string())
        })?;
        let mut columns = Vec::new();
        for field in schema.fields() {
            let column = match all.column_by_name(field.name()) {
                None if field.is_nullable() => new_null_array(field.data_type(), all.num_rows()),
                None => return Err(unfit(format!("has no column `{}`", field.name()))),
                Some(column) => {
                    let options = CastOptions { safe: false, ..CastOptions::default() };
                    cast_with_options(column, field.data_type(), &options)
                        .map_err(|e| unfit(format!("has a column `{}` of another type: {e}", field.name())))?
                }
            };
            if !field.is_nullable() && column.null_count() > 0 {
                return Err(unfit(format!("has {} rows without `{}`", column.null_count(), field.name())));
            }
            columns.push(column);
        }
        let rows = RecordBatch::try_new(schema, columns).map_err(|e| failed(&e))?;
        let mut made = Trace { rows };
        let ids = made.ints("request_id");
        let distinct: BTreeSet<i64> = ids.values().iter().copied().collect();
        if distinct.len() < ids.len() {
            return Err(unfit(format!("has {} rows for {} requests", ids.len(), distinct.len())));
        }
        made.sort()?;
        Ok(made)
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn column(&self, name: &str) -> &ArrayRef {
        // Every trace was conformed.
        self.rows.column_by_name(name).unwrap_or_else(|| panic!("a trace has a column `{name}`"))
    }

    /// A column of Int64.
    pub fn ints(&self, name: &str) -> Int64Array {
        self.column(name).as_primitive::<Int64Type>().clone()
    }

    /// A column of Int32, null or not.
    pub fn counts(&self, name: &str) -> Int32Array {
        self.column(name).as_primitive::<Int32Type>().clone()
    }

    pub fn texts(&self, name: &str) -> StringArray {
        self.column(name).as_string::<i32>().clone()
    }

    /// Replaces a column, or adds one behind the others.
    ///
    /// # Errors
    /// It has values missing where there must be some.
    pub fn set(&mut self, name: &str, column: ArrayRef) -> std::result::Result<(), ArrowError> {
        let schema = self.rows.schema();
        let mut columns = self.rows.columns().to_vec();
        let Ok(at) = schema.index_of(name) else {
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(column);
            self.rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
            return Ok(());
        };
        columns[at] = column;
        self.rows = RecordBatch::try_new(schema, columns)?;
        Ok(())
    }

    pub fn keep(&mut self, keep: &BooleanArray) -> Result<()> {
        self.rows = filter_record_batch(&self.rows, keep).map_err(|e| failed(&e))?;
        Ok(())
    }

    /// The rows at these places, in this order.
    pub fn take(&mut self, places: &[u32]) -> Result<()> {
        let places = UInt32Array::from(places.to_vec());
        self.rows = take_record_batch(&self.rows, &places).map_err(|e| failed(&e))?;
        Ok(())
    }

    /// Every request has an arrival.
    pub fn timed(&self) -> bool {
        self.column("arrival_ns").null_count() == 0
    }

    /// By arrival; those of one instant stay in their order. Requests without arrivals stay as they are.
    pub fn sort(&mut self) -> Result<()> {
        let arrivals = self.ints("arrival_ns");
        if !self.timed() || arrivals.values().is_sorted() {
            return Ok(());
        }
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_by_key(|i| arrivals.value(*i as usize));
        self.take(&order)
    }

    /// Arrivals in nanoseconds.
    pub fn arrivals(&self) -> Vec<i64> {
        self.ints("arrival_ns").values().to_vec()
    }

    pub fn set_arrivals(&mut self, arrivals: Vec<i64>) -> Result<()> {
        self.set("arrival_ns", Arc::new(Int64Array::from(arrivals))).map_err(|e| failed(&e))
    }

    /// A number for each request that is the same for all of one unit.
    pub fn keys(&self, by: Unit) -> Vec<u64> {
        let ids = self.ints("request_id");
        let alone = |i: usize| chain(rng::fnv1a(b"request"), ids.value(i) as u64);
        let column = match by {
            Unit::Request => return (0..self.len()).map(alone).collect(),
            Unit::Session => self.texts("session_id"),
            Unit::Client => self.texts("client"),
        };
        let key = |i: usize| match column.is_valid(i) {
            true => chain(rng::fnv1a(b"unit"), rng::fnv1a(column.value(i).as_bytes())),
            false => alone(i),
        };
        (0..self.len()).map(key).collect()
    }

    /// Changes every hash of a block by `salt`, so that no block is one of another origin any more. Equal hashes stay equal.
    pub fn salt_hashes(&mut self, salt: u64) -> Result<()> {
        if self.rows.column_by_name("block_hashes").is_none() {
            return Ok(());
        }
        let lists = self.column("block_hashes").as_list::<i32>().clone();
        let values = lists.values().as_primitive::<UInt64Type>();
        let values: UInt64Array = values.unary(|hash| chain(salt, hash));
        let (field, offsets, _, nulls) = lists.into_parts();
        let lists = ListArray::try_new(field, offsets, Arc::new(values), nulls).map_err(|e| failed(&e))?;
        self.set("block_hashes", Arc::new(lists)).map_err(|e| failed(&e))
    }

    /// Keeps so many hashes of each request at most.
    pub fn cut_hashes(&mut self, most: &[usize]) -> Result<()> {
        let lists = self.column("block_hashes").as_list::<i32>().clone();
        let values = lists.values().as_primitive::<UInt64Type>().values();
        let mut kept = Vec::new();
        let mut lengths = Vec::new();
        for (ends, most) in lists.value_offsets().windows(2).zip(most) {
            let hashes = &values[ends[0] as usize..ends[1] as usize];
            let hashes = &hashes[..hashes.len().min(*most)];
            kept.extend_from_slice(hashes);
            lengths.push(hashes.len());
        }
        let (field, _, _, nulls) = lists.into_parts();
        let offsets = OffsetBuffer::from_lengths(lengths);
        let lists = ListArray::try_new(field, offsets, Arc::new(UInt64Array::from(kept)), nulls);
        self.set("block_hashes", Arc::new(lists.map_err(|e| failed(&e))?)).map_err(|e| failed(&e))
    }

    /// One trace behind the other. Columns that only one has are null in the other.
    ///
    /// # Errors
    /// Columns of one name and two types.
    pub fn append(&mut self, other: Trace) -> Result<()> {
        let (mine, theirs) = (self.rows.schema(), other.rows.schema());
        let mut fields: Vec<Arc<Field>> = mine.fields().iter().cloned().collect();
        fields.extend(theirs.fields().iter().filter(|f| mine.field_with_name(f.name()).is_err()).cloned());
        let nullable = |f: &Arc<Field>| {
            let both = [&mine, &theirs].iter().all(|s| s.field_with_name(f.name()).is_ok_and(|f| !f.is_nullable()));
            if both { f.clone() } else { Arc::new(f.as_ref().clone().with_nullable(true)) }
        };
        let schema: SchemaRef = Arc::new(Schema::new(fields.iter().map(nullable).collect::<Vec<_>>()));
        let widened = |rows: &RecordBatch| {
            let column = |f: &Arc<Field>| match rows.column_by_name(f.name()) {
                Some(column) => column.clone(),
                None => new_null_array(f.data_type(), rows.num_rows()),
            };
            RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect())
        };
        let both = || concat_batches(&schema, &[widened(&self.rows)?, widened(&other.rows)?]);
        let rows = both()
            .map_err(|e| Failure::stage("transform::merge", format!("the two tables do not fit together: {e}")))?;
        self.rows = rows;
        Ok(())
    }

    /// Adds `by` to the numbers of the requests, also where others name them.
    pub fn shift_ids(&mut self, by: i64) -> Result<()> {
        let ids: Int64Array = self.ints("request_id").unary(|id| id + by);
        let lists = self.column("depends_on").as_list::<i32>().clone();
        let values: Int64Array = lists.values().as_primitive::<Int64Type>().unary(|id| id + by);
        let (field, offsets, _, nulls) = lists.into_parts();
        let lists = ListArray::try_new(field, offsets, Arc::new(values), nulls).map_err(|e| failed(&e))?;
        self.set("request_id", Arc::new(ids)).map_err(|e| failed(&e))?;
        self.set("depends_on", Arc::new(lists)).map_err(|e| failed(&e))
    }

    /// Renames the sessions.
    pub fn rename_sessions(&mut self, name: impl Fn(&str) -> String) -> Result<()> {
        let sessions: StringArray = self.texts("session_id").iter().map(|s| s.map(&name)).collect();
        self.set("session_id", Arc::new(sessions)).map_err(|e| failed(&e))
    }

    /// Numbers the requests from 0 in their order. What they waited for that is no longer there is forgotten; how much that
    /// was is returned.
    pub fn renumber(&mut self) -> Result<i64> {
        let ids = self.ints("request_id");
        let numbers: BTreeMap<i64, i64> = ids.values().iter().copied().zip(0..).collect();
        let lists = self.column("depends_on").as_list::<i32>().clone();
        let mut made = ListBuilder::new(Int64Builder::new()).with_field(Field::new_list_field(DataType::Int64, false));
        let mut lost = 0;
        for i in 0..self.len() {
            let before = lists.value(i);
            let before = before.as_primitive::<Int64Type>().values();
            let known: Vec<i64> = before.iter().filter_map(|id| numbers.get(id).copied()).collect();
            lost += (before.len() - known.len()) as i64;
            made.values().append_slice(&known);
            made.append(!known.is_empty());
        }
        self.set("request_id", Arc::new(Int64Array::from_iter_values(0..self.len() as i64))).map_err(|e| failed(&e))?;
        self.set("depends_on", Arc::new(made.finish())).map_err(|e| failed(&e))?;
        Ok(lost)
    }
}
