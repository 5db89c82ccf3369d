//! The table of requests in the making: rows are numbered, shifted, sorted where they must be, and written.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, UInt64Type};

use super::arrow;
use super::sort::Sorter;
use crate::diag::Result;
use crate::stage::RunCx;
use crate::store::TableWriter;

/// The column `arrival_ns`.
pub(super) const ARRIVAL: usize = 1;

/// Memory of rows that are held, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Before they are written for being in order so far.
    pub held: usize,
    /// Before they are sorted and put on disk.
    pub sorted: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { held: 64 << 20, sorted: 512 << 20 }
    }
}

/// Replaces the identifiers of blocks by chained hashes.
pub fn chain_hashes(rows: RecordBatch) -> Result<RecordBatch> {
    let Ok(at) = rows.schema().index_of("block_hashes") else { return Ok(rows) };
    let lists = rows.column(at).as_list::<i32>();
    if lists.null_count() == lists.len() {
        return Ok(rows);
    }
    let DataType::List(item) = lists.data_type().clone() else { return Ok(rows) };
    let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
    let values = lists.values().as_primitive::<UInt64Type>().clone();
    let (schema, mut columns, _) = rows.into_parts();
    columns[at] = Arc::new(UInt64Array::from(Vec::<u64>::new()));
    // In place, as nobody else holds the values any more.
    let mut hashes: Vec<u64> = match values.into_parts() {
        (_, values, None) => values.into_inner().into_vec().unwrap_or_else(|shared| shared.typed_data().to_vec()),
        (_, values, Some(_)) => values.to_vec(),
    };
    for ends in offsets.windows(2) {
        let mut hash = 0;
        for block in &mut hashes[ends[0] as usize..ends[1] as usize] {
            hash = pipe_kernel::workload::chain(hash, *block);
            *block = hash;
        }
    }
    let values: ArrayRef = Arc::new(UInt64Array::from(hashes));
    columns[at] = Arc::new(ListArray::try_new(item, offsets, values, nulls).map_err(arrow)?);
    RecordBatch::try_new(schema, columns).map_err(arrow)
}

/// What is done with rows as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Kept in memory, until it is clear that they are not in order, or until they are many.
    Hold,
    /// Written: they are in order so far.
    Stream,
    /// Put in order: they are known not to be.
    Sort,
}

/// The table of requests in the making.
pub struct Requests<'a> {
    cx: &'a RunCx,
    pub schema: SchemaRef,
    mode: Mode,
    memory: Memory,
    writer: Option<TableWriter>,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    sorter: Option<Sorter>,
    first_ns: i64,
    /// Arrival of the last row taken.
    last_ns: i64,
    next_id: i64,
    /// Rows that arrive before the row that they follow.
    pub late: u64,
    /// Arrival of the last row written, since the first.
    written_ns: Option<i64>,
    /// Rows that arrive at the same instant as the one before them in the table.
    pub ties: u64,
}

impl<'a> Requests<'a> {
    pub fn new(cx: &'a RunCx, mode: Mode, memory: Memory) -> Self {
        Requests {
            cx,
            schema: Arc::new(Schema::empty()),
            mode,
            memory,
            writer: None,
            held: Vec::new(),
            held_bytes: 0,
            sorter: None,
            first_ns: i64::MAX,
            last_ns: i64::MIN,
            next_id: 0,
            late: 0,
            written_ns: None,
            ties: 0,
        }
    }

    /// Rows in the table.
    pub fn rows(&self) -> i64 {
        self.next_id
    }

    /// Takes the next rows, with arrivals of the trace's clock. Breaks where rows that are written already would have to come
    /// after these: [`Requests::restart`], and all rows once more.
    pub fn push(&mut self, rows: RecordBatch) -> Result<ControlFlow<()>> {
        // Either all rows have an arrival or none has: the parser sees to that.
        let arrival = rows.column(ARRIVAL).as_primitive::<Int64Type>();
        if arrival.null_count() > 0 {
            self.write(rows)?;
            return Ok(ControlFlow::Continue(()));
        }
        for ns in arrival.values() {
            self.late += u64::from(*ns < self.last_ns);
            self.last_ns = *ns;
            self.first_ns = self.first_ns.min(*ns);
        }
        if self.late > 0 {
            match self.mode {
                Mode::Stream => return Ok(ControlFlow::Break(())),
                Mode::Hold => self.start_to_sort()?,
                Mode::Sort => {}
            }
        }
        match self.mode {
            Mode::Hold => self.hold(rows)?,
            Mode::Stream => self.write(rows)?,
            Mode::Sort => self.sorter()?.push(rows)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Forgets all rows, and sorts those that come now.
    pub fn restart(self) -> Result<Requests<'a>> {
        self.writer.map_or(Ok(()), TableWriter::discard)?;
        Ok(Requests::new(self.cx, Mode::Sort, self.memory))
    }

    fn hold(&mut self, rows: RecordBatch) -> Result<()> {
        self.held_bytes += rows
            .columns()
            .iter()
            .filter(|c| c.null_count() < c.len())
            .map(|c| c.get_array_memory_size())
            .sum::<usize>();
        self.held.push(rows);
        if self.held_bytes > self.memory.held {
            self.mode = Mode::Stream;
            self.write_held()?;
        }
        Ok(())
    }

    fn write_held(&mut self) -> Result<()> {
        for rows in std::mem::take(&mut self.held) {
            self.cx.cancel.check()?;
            self.write(rows)?;
        }
        Ok(())
    }

    fn start_to_sort(&mut self) -> Result<()> {
        self.mode = Mode::Sort;
        let held = std::mem::take(&mut self.held);
        let sorter = self.sorter()?;
        held.into_iter().try_for_each(|rows| sorter.push(rows))
    }

    fn sorter(&mut self) -> Result<&mut Sorter> {
        match &mut self.sorter {
            Some(sorter) => Ok(sorter),
            none => Ok(none.insert(Sorter::new(self.cx, self.schema.clone(), self.memory.sorted))),
        }
    }

    /// Writes rows whose numbers and arrivals are still to be set.
    fn write(&mut self, rows: RecordBatch) -> Result<()> {
        let ids = self.next_id..self.next_id + rows.num_rows() as i64;
        self.next_id = ids.end;
        let (_, mut columns, _) = rows.into_parts();
        columns[0] = Arc::new(Int64Array::from_iter_values(ids));
        let arrival = columns[ARRIVAL].as_primitive::<Int64Type>();
        if arrival.null_count() == 0 {
            let first = self.first_ns;
            let arrival = arrival.unary::<_, Int64Type>(|ns| ns - first);
            for ns in arrival.values() {
                self.ties += u64::from(self.written_ns == Some(*ns));
                self.written_ns = Some(*ns);
            }
            columns[ARRIVAL] = Arc::new(arrival);
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
    pub fn finish(&mut self) -> Result<()> {
        self.write_held()?;
        if let Some(sorter) = self.sorter.take() {
            sorter.finish(|rows| self.write(rows))?;
        }
        self.writer()?;
        self.writer.take().map_or(Ok(()), TableWriter::finish)
    }
}
