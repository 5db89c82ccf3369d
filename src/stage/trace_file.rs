//! A trace file as requests of the kernel, without a pipeline and without a table: for `pipe bench`.
//!
//! Promises: the requests that an `ingest` stage with its defaults and a `simulate` stage would simulate.
//! Leaves out: texts, which would have to be tokenized first, and traces without arrivals.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use pipe_kernel::request::Requests;
use pipe_kernel::units::SimTime;

use super::ingest::chain_hashes;
use super::simulate::input;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Columns, Format, TimeUnit};
use crate::trace::{self, Layout, Settings};

/// Reads a trace of token counts; its format is found from its first line.
///
/// # Errors
/// The file cannot be read, has a bad row, holds texts, or does not say when requests arrive.
pub(crate) fn read(path: &Path) -> Result<Requests> {
    let written = path.display().to_string();
    let settings = Settings {
        path: path.to_path_buf(),
        written: written.clone(),
        format: Format::Auto,
        columns: Columns::default(),
        time_unit: TimeUnit::default(),
        block_tokens: None,
        measured: None,
    };
    let (parser, mut chunks) = trace::open(&settings, Box::new(|_| ()))?;
    if parser.layout() == Layout::Texts {
        return Err(unfit(&written, "holds texts", "`pipe run` with a `tokenize` stage turns texts into token counts"));
    }
    let mut batches = Vec::new();
    while let Some(chunk) = chunks.next_chunk()? {
        let parsed = parser.parse(chunk)?;
        if let Some(problem) = parsed.problems.first() {
            return Err(problem.diagnostic(&written).into());
        }
        batches.push(chain_hashes(parsed.rows)?);
    }
    let failed = |what: String| Failure::stage("trace::rows", format!("{written} cannot be simulated: {what}"));
    let rows = concat_batches(&parser.layout().schema(), &batches).map_err(|e| failed(e.to_string()))?;
    if rows.column_by_name("arrival_ns").is_none_or(|c| c.null_count() > 0) {
        return Err(unfit(&written, "has no arrival times", "a trace with arrival times is needed here"));
    }
    // Readers of traces leave the numbers to `ingest`.
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.num_rows() as i64));
    let is_number = |name: &str| name == "request_id";
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    let columns = columns.map(|(f, c)| if is_number(f.name()) { numbers.clone() } else { c.clone() }).collect();
    let rows = RecordBatch::try_new(rows.schema(), columns).map_err(|e| failed(e.to_string()))?;
    let mut requests = input::requests(&rows, &written)?;
    let first = requests.arrival.iter().copied().min().unwrap_or(SimTime::ZERO);
    requests.arrival.iter_mut().for_each(|t| *t = SimTime(t.0 - first.0));
    Ok(requests)
}

fn unfit(written: &str, what: &str, help: &str) -> Failure {
    Diagnostic::new("trace::unfit", format!("{written} {what}")).help(help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> Result<Requests> {
        read(&crate::repository().join("data/samples").join(name))
    }

    #[test]
    fn a_trace_starts_at_its_first_arrival_and_its_hashes_are_chained() {
        let r = sample("mooncake.jsonl").unwrap();
        assert!(!r.is_empty() && r.block_tokens == 512);
        assert_eq!(r.arrival.iter().min(), Some(&SimTime::ZERO));
        assert_eq!(r.block_hash_offsets.len(), r.len() + 1);
        assert!((0..r.len()).all(|i| r.hashes(i).len() as u32 == r.input_tokens[i].div_ceil(512)));
    }

    #[test]
    fn what_cannot_be_simulated_says_why() {
        let message = |name| sample(name).unwrap_err().diagnostics[0].message.clone();
        assert!(message("sharegpt.json").ends_with("holds texts"), "{}", message("sharegpt.json"));
        assert!(message("nowhere.jsonl").contains("nowhere.jsonl"));
    }
}
