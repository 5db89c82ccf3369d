//! Rows by arrival, more of them than fit in memory.
//!
//! Rows are held until they take as much memory as they may; then they are sorted and put on disk, as a run. At the end the
//! runs are merged, a few rows of each at a time. The order is stable: rows of one instant stay in the order in which they
//! came, so how many runs there are changes nothing. The key is one column of integers, which a sort of tables in general
//! would neither know to be stable nor need less disk for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use rayon::slice::ParallelSliceMut;

use super::arrow;
use super::rows::ARRIVAL;
use crate::diag::{self, Result};
use crate::stage::RunCx;
use crate::table::nulls;

/// Rows of a batch that comes out sorted.
const ROWS: usize = 8192;

/// Puts rows in order.
pub struct Sorter {
    cx: RunCx,
    schema: SchemaRef,
    /// Bytes of rows held at most.
    memory: usize,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    runs: Vec<File>,
}

impl Sorter {
    pub fn new(cx: &RunCx, schema: SchemaRef, memory: usize) -> Sorter {
        Sorter { cx: cx.clone(), schema, memory, held: Vec::new(), held_bytes: 0, runs: Vec::new() }
    }

    pub fn push(&mut self, rows: RecordBatch) -> Result<()> {
        let sizes = rows.columns().iter().filter(|c| c.null_count() < c.len()).map(|c| c.get_array_memory_size());
        self.held_bytes += sizes.sum::<usize>();
        self.held.push(rows);
        if self.held_bytes > self.memory { self.spill() } else { Ok(()) }
    }

    /// Calls `sink` with all rows, in order.
    pub fn finish(mut self, mut sink: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        if self.runs.is_empty() {
            return self.sorted(&mut sink);
        }
        self.spill()?;
        self.merge(&mut sink)
    }

    /// Calls `sink` with the rows held, in order.
    fn sorted(&mut self, sink: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        let mut order: Vec<(i64, (usize, usize))> = Vec::new();
        for (batch, rows) in held.iter().enumerate() {
            let arrival = rows.column(ARRIVAL).as_primitive::<Int64Type>().values();
            order.extend(arrival.iter().enumerate().map(|(row, ns)| (*ns, (batch, row))));
        }
        self.cx.pool.install(|| order.par_sort_by_key(|(ns, _)| *ns));
        for part in order.chunks(ROWS) {
            self.cx.cancel.check()?;
            let places: Vec<(usize, usize)> = part.iter().map(|(_, place)| *place).collect();
            sink(gather(&self.schema, &held, &places)?)?;
        }
        Ok(())
    }

    /// Puts the rows held on disk, as a run.
    fn spill(&mut self) -> Result<()> {
        let dir = self.cx.out.dir.clone();
        let full = |e: std::io::Error| diag::io(&dir, "write rows to be sorted to", &e);
        let file = tempfile::tempfile_in(&dir).map_err(full)?;
        let mut writer = StreamWriter::try_new(BufWriter::with_capacity(1 << 20, file), &self.schema).map_err(arrow)?;
        self.sorted(&mut |rows| writer.write(&rows).map_err(arrow))?;
        writer.finish().map_err(arrow)?;
        let mut out = writer.into_inner().map_err(arrow)?;
        out.flush().map_err(full)?;
        let mut file = out.into_inner().map_err(|e| full(e.into_error()))?;
        file.rewind().map_err(full)?;
        self.runs.push(file);
        Ok(())
    }

    fn merge(self, sink: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let mut runs = self.runs.into_iter().map(Run::open).collect::<Result<Vec<Run>>>()?;
        // The batches that rows of the next output lie in: first the current one of each run, then those that are used up.
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut heads = BinaryHeap::new();
        for (i, run) in runs.iter_mut().enumerate() {
            // A run has rows, since it was full.
            let first = run.next()?.unwrap_or_else(|| RecordBatch::new_empty(self.schema.clone()));
            if first.num_rows() > 0 {
                heads.push(Reverse((arrival(&first, 0), i)));
            }
            run.batch = i;
            batches.push(first);
        }
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(ROWS);
        while let Some(Reverse((_, i))) = heads.pop() {
            let run = &mut runs[i];
            places.push((run.batch, run.row));
            run.row += 1;
            if run.row == batches[run.batch].num_rows() {
                if let Some(next) = run.next()? {
                    (run.batch, run.row) = (batches.len(), 0);
                    batches.push(next);
                } else {
                    run.row = usize::MAX;
                }
            }
            if run.row < usize::MAX {
                heads.push(Reverse((arrival(&batches[run.batch], run.row), i)));
            }
            if places.len() == ROWS || heads.is_empty() {
                self.cx.cancel.check()?;
                sink(gather(&self.schema, &batches, &places)?)?;
                places.clear();
                batches = runs.iter().map(|run| batches[run.batch].clone()).collect();
                runs.iter_mut().enumerate().for_each(|(i, run)| run.batch = i);
            }
        }
        Ok(())
    }
}

/// Sorted rows on disk.
struct Run {
    reader: StreamReader<BufReader<File>>,
    /// Where its current batch is.
    batch: usize,
    /// Its next row there.
    row: usize,
}

impl Run {
    fn open(file: File) -> Result<Run> {
        let reader = StreamReader::try_new_buffered(file, None).map_err(arrow)?;
        Ok(Run { reader, batch: 0, row: 0 })
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.reader.next().transpose().map_err(arrow)
    }
}

fn arrival(rows: &RecordBatch, row: usize) -> i64 {
    rows.column(ARRIVAL).as_primitive::<Int64Type>().value(row)
}

/// The rows at `places`: pairs of batch and row.
pub fn gather(schema: &SchemaRef, batches: &[RecordBatch], places: &[(usize, usize)]) -> Result<RecordBatch> {
    let column = |i: usize| -> Result<ArrayRef> {
        let columns: Vec<&dyn Array> = batches.iter().map(|b| b.column(i).as_ref()).collect();
        if columns.iter().all(|c| c.null_count() == c.len()) {
            return Ok(nulls(schema.field(i).data_type(), places.len()));
        }
        interleave(&columns, places).map_err(arrow)
    };
    let columns = (0..schema.fields().len()).map(column).collect::<Result<_>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(arrow)
}
