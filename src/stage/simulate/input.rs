//! The requests that all scenarios of a stage share: read once, never changed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type, UInt64Type};
use datafusion::prelude::{SessionContext, col};

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{Arrivals, Load};
use pipe_kernel::units::SimTime;

use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::query::session::{self, SessionOptions};
use crate::spec::Text;
use crate::store::{Hash, TableHandle};

/// Bytes that DataFusion may hold while it reads the table.
const READ_MEMORY: usize = 16 << 30;

/// Requests, and what tables repeat of them.
#[derive(Clone)]
pub(crate) struct Workload {
    pub requests: Arc<Requests>,
    /// Of the content of the table.
    pub hash: Hash,
    /// Every request has an arrival time.
    pub timed: bool,
    /// Text by request, null where the trace says nothing.
    pub class: ArrayRef,
    pub session_id: ArrayRef,
}

impl Workload {
    /// Reads a table of requests with token counts.
    ///
    /// # Errors
    /// The table cannot be read, or lacks a column.
    pub async fn read(handle: &TableHandle) -> Result<Workload> {
        let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: READ_MEMORY })?;
        let rows = sorted(&ctx, handle).await.map_err(|e| unreadable(handle, &e.strip_backtrace()))?;
        let requests = requests(&rows).map_err(|what| unreadable(handle, &what))?;
        Ok(Workload {
            requests: Arc::new(requests),
            hash: handle.hash.clone(),
            timed: column(&rows, "arrival_ns").is_ok_and(|c| c.null_count() == 0),
            class: column(&rows, "class").map_err(|what| unreadable(handle, &what))?.clone(),
            session_id: column(&rows, "session_id").map_err(|what| unreadable(handle, &what))?.clone(),
        })
    }

    /// Whether the requests can arrive as `load` says.
    ///
    /// # Errors
    /// The trace has no times and the load neither a process nor a rate; `requests` is where the table is named.
    pub fn check(&self, load: &Load, requests: &Text) -> Result<()> {
        let keeps_trace = matches!(load.arrivals, Arrivals::Trace);
        if self.timed || !(keeps_trace || load.rate_rps.is_none()) {
            return Ok(());
        }
        let what = if keeps_trace { "`arrivals: trace` needs them" } else { "then `rate_rps` must be given" };
        let message = format!("the requests of `{}` have no arrival times, and {what}", requests.value);
        let diagnostic = Diagnostic::new("simulate::no_arrivals", message)
            .at(requests.at.clone())
            .help("say how they arrive: `workload: { arrivals: poisson, rate_rps: 4 }`");
        Err(Failure { exit: Exit::Stage, diagnostics: vec![diagnostic] })
    }
}

async fn sorted(ctx: &SessionContext, handle: &TableHandle) -> datafusion::error::Result<RecordBatch> {
    let external = |e: Failure| datafusion::error::DataFusionError::External(Box::new(e));
    let table = ctx.read_table(session::provider(handle).map_err(external)?)?;
    let rows = table.sort(vec![col("request_id").sort(true, false)])?;
    let schema = Arc::new(rows.schema().as_arrow().clone());
    let batches = rows.collect().await?;
    Ok(concat_batches(&schema, &batches)?)
}

fn unreadable(handle: &TableHandle, what: &str) -> Failure {
    Failure::stage("simulate::requests", format!("cannot read the requests of `{}`: {what}", handle.name))
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> std::result::Result<&'a ArrayRef, String> {
    rows.column_by_name(name).ok_or_else(|| format!("no column {name}"))
}

fn tokens(rows: &RecordBatch, name: &str) -> std::result::Result<Vec<u32>, String> {
    let values = column(rows, name)?.as_primitive_opt::<Int32Type>().ok_or_else(|| format!("{name} is not Int32"))?;
    // A count that is negative is as impossible as 0, which the simulator refuses with the request's number.
    Ok(values.iter().map(|v| v.and_then(|v| u32::try_from(v).ok()).unwrap_or(0)).collect())
}

fn requests(rows: &RecordBatch) -> std::result::Result<Requests, String> {
    let arrival =
        column(rows, "arrival_ns")?.as_primitive_opt::<Int64Type>().ok_or("arrival_ns is not Int64".to_string())?;
    let (block_hashes, block_hash_offsets, block_tokens) = hashes(rows)?;
    Ok(Requests {
        arrival: arrival.iter().map(|t| SimTime(t.unwrap_or(0))).collect(),
        input_tokens: tokens(rows, "input_tokens")?,
        output_tokens: tokens(rows, "output_tokens")?,
        block_hashes,
        block_hash_offsets,
        block_tokens,
    })
}

/// Hashes of all requests, where each request's begin, and the tokens per block; empty where the trace has none.
type Hashes = (Vec<u64>, Vec<u64>, u32);

fn hashes(rows: &RecordBatch) -> std::result::Result<Hashes, String> {
    let sizes =
        column(rows, "block_tokens")?.as_primitive_opt::<Int32Type>().ok_or("block_tokens is not Int32".to_string())?;
    let mut known = sizes.iter().flatten();
    let Some(size) = known.next() else { return Ok((Vec::new(), Vec::new(), 0)) };
    if let Some(other) = known.find(|s| *s != size) {
        return Err(format!("blocks of {size} and of {other} tokens in one table"));
    }
    let size = u32::try_from(size).map_err(|_| format!("blocks of {size} tokens"))?;
    let lists = column(rows, "block_hashes")?.as_list_opt::<i32>().ok_or("block_hashes is not a list".to_string())?;
    let (mut all, mut offsets) = (Vec::new(), vec![0]);
    for list in lists.iter() {
        if let Some(list) = list {
            let values: &UInt64Array = list.as_primitive_opt::<UInt64Type>().ok_or("block_hashes is not UInt64")?;
            all.extend_from_slice(values.values());
        }
        offsets.push(all.len() as u64);
    }
    Ok((all, offsets, size))
}
