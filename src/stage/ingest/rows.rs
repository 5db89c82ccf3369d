//! The table of requests in the making: rows are held, sorted, numbered and written.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, UInt64Array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use rayon::slice::ParallelSliceMut;

use super::arrow;
use crate::diag::Result;
use crate::stage::RunCx;
use crate::store::TableWriter;

/// Bytes of rows that are held to see whether the file is in order, before it is read twice instead.
const HELD_MAX: usize = 512 << 20;
/// The column `arrival_ns`.
const ARRIVAL: usize = 1;
/// Rows of a batch written after sorting.
const SORTED_ROWS: usize = 1 << 16;

/// Replaces the identifiers of blocks by chained hashes.
pub fn chain_hashes(rows: &RecordBatch) -> Result<RecordBatch> {
    let Ok(at) = rows.schema().index_of("block_hashes") else { return Ok(rows.clone()) };
    let lists = rows.column(at).as_list::<i32>();
    if lists.null_count() == lists.len() {
        return Ok(rows.clone());
    }
    let DataType::List(item) = lists.data_type() else { return Ok(rows.clone()) };
    let mut hashes = lists.values().as_primitive::<UInt64Type>().values().to_vec();
    for ends in lists.value_offsets().windows(2) {
        let mut hash = 0;
        for block in &mut hashes[ends[0] as usize..ends[1] as usize] {
            hash = pipe_kernel::workload::chain(hash, *block);
            *block = hash;
        }
    }
    let values: ArrayRef = Arc::new(UInt64Array::from(hashes));
    let lists = ListArray::try_new(item.clone(), lists.offsets().clone(), values, lists.nulls().cloned());
    let mut columns = rows.columns().to_vec();
    columns[at] = Arc::new(lists.map_err(arrow)?);
    RecordBatch::try_new(rows.schema(), columns).map_err(arrow)
}

/// What is done with rows as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Kept in memory until it is clear that they are in order, or until they are too many.
    Hold,
    /// Only looked at: are they in order?
    Probe,
    /// Written: they are known to be in order.
    Stream,
    /// Kept in memory: they are known not to be in order.
    HoldAll,
}

/// The columns of some rows; those without any value take no memory.
struct Held {
    rows: usize,
    columns: Vec<Option<ArrayRef>>,
}

/// The table of requests in the making: numbers, shifts and, where it must, sorts.
pub struct Requests<'a> {
    cx: &'a RunCx,
    pub schema: SchemaRef,
    pub mode: Mode,
    writer: Option<TableWriter>,
    held: Vec<Held>,
    held_bytes: usize,
    /// Whether every row so far arrives no earlier than the one before it.
    pub sorted: bool,
    first_ns: i64,
    last_ns: i64,
    next_id: i64,
}

impl<'a> Requests<'a> {
    pub fn new(cx: &'a RunCx, mode: Mode) -> Self {
        Requests {
            cx,
            schema: Arc::new(Schema::empty()),
            mode,
            writer: None,
            held: Vec::new(),
            held_bytes: 0,
            sorted: true,
            first_ns: i64::MAX,
            last_ns: i64::MIN,
            next_id: 0,
        }
    }

    /// Takes the next rows of the file, with arrivals of the file's clock.
    pub fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        // Either all rows have an arrival or none has: the parser sees to that.
        let arrival = rows.column(ARRIVAL).as_primitive::<Int64Type>();
        if arrival.null_count() > 0 {
            self.mode = Mode::Stream;
        } else {
            for ns in arrival.values() {
                self.sorted &= *ns >= self.last_ns;
                self.last_ns = *ns;
                self.first_ns = self.first_ns.min(*ns);
            }
        }
        match self.mode {
            Mode::Probe => Ok(()),
            Mode::Stream => self.write(rows.num_rows(), rows.columns().to_vec()),
            Mode::Hold | Mode::HoldAll => {
                self.hold(rows);
                Ok(())
            }
        }
    }

    fn hold(&mut self, rows: &RecordBatch) {
        let keep = |(i, c): (usize, &ArrayRef)| (i != 0 && c.null_count() < c.len()).then(|| c.clone());
        let columns: Vec<Option<ArrayRef>> = rows.columns().iter().enumerate().map(keep).collect();
        self.held_bytes += columns.iter().flatten().map(|c| c.get_array_memory_size()).sum::<usize>();
        self.held.push(Held { rows: rows.num_rows(), columns });
        if self.mode == Mode::Hold && self.held_bytes > HELD_MAX {
            self.mode = Mode::Probe;
            self.held.clear();
        }
    }

    /// Writes rows whose numbers and arrivals are still to be set.
    fn write(&mut self, rows: usize, mut columns: Vec<ArrayRef>) -> Result<()> {
        let ids = self.next_id..self.next_id + rows as i64;
        self.next_id = ids.end;
        columns[0] = Arc::new(Int64Array::from_iter_values(ids));
        let arrival = columns[ARRIVAL].as_primitive::<Int64Type>();
        if arrival.null_count() == 0 {
            let first = self.first_ns;
            columns[ARRIVAL] = Arc::new(arrival.unary::<_, Int64Type>(|ns| ns - first));
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(arrow)?;
        self.writer()?.write(&batch)
    }

    fn writer(&mut self) -> Result<&mut TableWriter> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            empty => Ok(empty.insert(self.cx.out.table(&self.cx.stage, self.schema.clone())?)),
        }
    }

    /// Writes what is held, and ends the table.
    pub fn finish(mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        if self.sorted {
            for Held { rows, columns } in held {
                self.cx.cancel.check()?;
                let fill = |(c, f): (Option<ArrayRef>, &Arc<Field>)| filled(c, f, rows);
                let columns = columns.into_iter().zip(self.schema.clone().fields()).map(fill).collect();
                self.write(rows, columns)?;
            }
        } else {
            self.write_sorted(&held)?;
        }
        self.writer()?;
        self.writer.map_or(Ok(()), TableWriter::finish)
    }

    fn write_sorted(&mut self, held: &[Held]) -> Result<()> {
        let mut order: Vec<(i64, (usize, usize))> = Vec::new();
        for (batch, Held { columns, .. }) in held.iter().enumerate() {
            let arrival = columns[ARRIVAL].iter().flat_map(|c| c.as_primitive::<Int64Type>().values());
            order.extend(arrival.enumerate().map(|(row, ns)| (*ns, (batch, row))));
        }
        // Stable: rows of one instant stay in the order of the file.
        self.cx.pool.install(|| order.par_sort_by_key(|(ns, _)| *ns));
        for part in order.chunks(SORTED_ROWS) {
            self.cx.cancel.check()?;
            let places: Vec<(usize, usize)> = part.iter().map(|(_, place)| *place).collect();
            let fields = self.schema.clone();
            let gather = |(i, field): (usize, &Arc<Field>)| gather(held, i, field, &places);
            let columns = fields.fields().iter().enumerate().map(gather).collect::<Result<_>>()?;
            self.write(places.len(), columns)?;
        }
        Ok(())
    }
}

/// A column that was left out, put back. The first, the number of the request, is set while writing.
fn filled(column: Option<ArrayRef>, field: &Field, rows: usize) -> ArrayRef {
    column.unwrap_or_else(|| new_null_array(field.data_type(), rows))
}

/// The values of column `i` at `places`: pairs of batch and row.
fn gather(held: &[Held], i: usize, field: &Field, places: &[(usize, usize)]) -> Result<ArrayRef> {
    if held.iter().all(|h| h.columns[i].is_none()) {
        return Ok(new_null_array(field.data_type(), places.len()));
    }
    let columns: Vec<ArrayRef> = held.iter().map(|h| filled(h.columns[i].clone(), field, h.rows)).collect();
    let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
    interleave(&columns, places).map_err(arrow)
}
