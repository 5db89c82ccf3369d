//! Requests as rows of the table.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::UInt64Builder;
use arrow::array::{ArrayRef, Int32Array, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use pipe_kernel::request::Requests;
use pipe_kernel::units::SimDuration;
use pipe_kernel::workload::Made;

use crate::diag::{Failure, Result};
use crate::stage::RunCx;
use crate::table::requests;

/// Rows of a batch, and the hashes that all but a batch of one row has at most.
pub(super) const ROWS: usize = 1 << 16;
pub(super) const HASHES: u64 = 1 << 24;

/// Writes the stage's table.
///
/// # Errors
/// The user asked to stop; the table cannot be written.
pub(super) fn write(made: &Made, cx: &RunCx) -> Result<()> {
    let requests = &made.requests;
    cx.progress.0.total(requests.len() as u64, "requests");
    let turns = turns(requests);
    let mut writer = cx.out.table(&cx.stage, requests::schema())?;
    let mut start = 0;
    while start < requests.len() {
        cx.cancel.check()?;
        let end = end_of_batch(requests, start);
        writer.write(&batch(made, &turns, start..end)?)?;
        cx.progress.0.advance((end - start) as u64);
        start = end;
    }
    writer.finish()
}

/// The turn of every request: how many of its session come before it. Empty where there are no sessions.
pub(super) fn turns(made: &Requests) -> Vec<Option<i32>> {
    let mut so_far: BTreeMap<u32, i32> = BTreeMap::new();
    let next = |session: &Option<u32>| {
        let turn = so_far.entry((*session)?).or_default();
        *turn += 1;
        Some(*turn - 1)
    };
    made.session.iter().map(next).collect()
}

/// The end of the batch that begins at `start`: at least one row.
pub(super) fn end_of_batch(made: &Requests, start: usize) -> usize {
    let end = (start + ROWS).min(made.len());
    let offsets = &made.block_hash_offsets;
    let most = offsets[start] + HASHES;
    (start + 1).max(start + offsets[start + 1..=end].partition_point(|hashes| *hashes <= most))
}

/// The requests `rows` as a batch of [`requests::schema`].
pub(super) fn batch(all: &Made, turns: &[Option<i32>], rows: Range<usize>) -> Result<RecordBatch> {
    let made = &all.requests;
    let n = rows.len();
    let hashed = made.block_tokens > 0;
    let item = Arc::new(Field::new_list_field(DataType::UInt64, false));
    let mut hashes = ListBuilder::new(UInt64Builder::new()).with_field(item);
    let item = Arc::new(Field::new_list_field(DataType::Int64, false));
    let mut depends_on = ListBuilder::new(Int64Builder::new()).with_field(item);
    for i in rows.clone() {
        hashes.values().append_slice(made.hashes(i));
        hashes.append(hashed);
        let before = made.waits_for(i);
        before.iter().for_each(|request| depends_on.values().append_value(i64::from(*request)));
        depends_on.append(!before.is_empty());
    }
    // Lengths and block sizes are far below 2^31: the kernel bounds them.
    let block_tokens = hashed.then_some(made.block_tokens as i32);
    let int = |values: &[u32]| -> ArrayRef { Arc::new(Int32Array::from_iter_values(values.iter().map(|v| *v as i32))) };
    let maybe = |column: &[Option<u32>]| -> ArrayRef {
        Arc::new(rows.clone().map(|i| known(column, i).map(|n| n as i32)).collect::<Int32Array>())
    };
    let arrival = made.arrival[rows.clone()].iter().map(|t| t.0);
    let text = |column: &[Option<u32>], name: &dyn Fn(u32) -> String| -> ArrayRef {
        Arc::new(rows.clone().map(|i| known(column, i).map(name)).collect::<StringArray>())
    };
    let of = |names: &[String], which: u32| names[which as usize].clone();
    let adapter = |which: u32| match made.adapter_names.get(which as usize) {
        Some(name) => name.clone(),
        None => format!("adapter-{which}"),
    };
    let time = |column: &[Option<SimDuration>]| -> ArrayRef {
        Arc::new(rows.clone().map(|i| known(column, i).map(|t| t.0)).collect::<Int64Array>())
    };
    let columns: [(&str, ArrayRef); 21] = [
        ("request_id", Arc::new(Int64Array::from_iter_values(rows.clone().map(|i| i as i64)))),
        ("arrival_ns", Arc::new(Int64Array::from_iter_values(arrival))),
        ("session_id", text(&made.session, &|session| format!("s{session}"))),
        ("turn", Arc::new(rows.clone().map(|i| known(turns, i)).collect::<Int32Array>())),
        ("class", text(&made.class, &|class| of(&made.class_names, class))),
        ("tenant", text(&made.tenant, &|tenant| of(&all.tenant_names, tenant))),
        ("client", text(&all.client, &|client| of(&all.client_names, client))),
        ("think_ns", time(&made.think)),
        ("depends_on", Arc::new(depends_on.finish())),
        ("model", text(&made.model, &|model| of(&made.model_names, model))),
        ("adapter", text(&made.adapter, &adapter)),
        ("priority", Arc::new(rows.clone().map(|i| known(&made.priority, i)).collect::<Int32Array>())),
        ("deadline_ns", time(&made.deadline)),
        ("timeout_ns", time(&made.timeout)),
        ("input_tokens", int(&made.input_tokens[rows.clone()])),
        ("output_tokens", int(&made.output_tokens[rows.clone()])),
        ("block_hashes", Arc::new(hashes.finish())),
        ("block_tokens", Arc::new(Int32Array::from(vec![block_tokens; n]))),
        ("encoder_tokens", maybe(&made.encoder_tokens)),
        ("images", maybe(&all.images)),
        ("reasoning_tokens", maybe(&all.reasoning)),
    ];
    requests::assemble(&requests::schema(), n, columns)
        .map_err(|e| Failure::stage("synthesize::arrow", format!("cannot put the rows together: {e}")))
}

/// A value of a column that is empty where the requests say nothing.
fn known<T: Copy>(column: &[Option<T>], i: usize) -> Option<T> {
    column.get(i).copied().flatten()
}
