//! `synthesize`: requests drawn from distributions.
//!
//! The kernel draws; this stage checks its settings and writes the table. Rows depend on the settings and the seed of
//! the pipeline only.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, UInt64Builder, new_null_array};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use pipe_kernel::request::Requests;
use pipe_kernel::workload::{Synthetic, generate};
use serde_json::{Value, json};

use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Synthesize, Text};
use crate::table::requests;

/// Rows of a batch.
const ROWS: usize = 1 << 16;

#[async_trait]
impl Kind for Synthesize {
    fn kind(&self) -> &'static str {
        "synthesize"
    }

    fn seeded(&self) -> bool {
        true
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(Vec::new())
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![TableShape { name: stage.to_string(), schema: Some(requests::schema()) }]
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        // The settings have no places of their own: the name of the stage is the nearest.
        let at = cx.stages.iter().find(|s| s.name.value == stage).and_then(|s| s.name.at.clone());
        let problems = self.workload().problems().into_iter();
        problems
            .map(|p| Diagnostic::new("synthesize::value", format!("`{}` {}", p.path, p.message)).at(at.clone()))
            .collect()
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Synthesize { requests, rate_rps, arrivals, input, output, shared_prefix, block_tokens } = self;
        json!({
            "requests": requests,
            "rate_rps": rate_rps,
            "arrivals": arrivals,
            "input": input,
            "output": output,
            "shared_prefix": shared_prefix,
            "block_tokens": block_tokens,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let workload = self.workload();
        super::tokenize::blocking(move || {
            cx.progress.0.total(u64::from(workload.requests), "requests");
            let requests = generate(&workload, cx.seed);
            let mut writer = cx.out.table(&cx.stage, requests::schema())?;
            for start in (0..requests.len()).step_by(ROWS) {
                cx.cancel.check()?;
                let end = (start + ROWS).min(requests.len());
                writer.write(&batch(&requests, start..end)?)?;
                cx.progress.0.advance((end - start) as u64);
            }
            writer.finish()?;
            Ok(Outcome::default())
        })
        .await
    }
}

impl Synthesize {
    fn workload(&self) -> Synthetic {
        Synthetic {
            requests: self.requests,
            rate_rps: self.rate_rps,
            arrivals: self.arrivals,
            input: self.input,
            output: self.output,
            shared_prefix: self.shared_prefix,
            block_tokens: self.block_tokens,
        }
    }
}

/// The requests `rows` as a batch of [`requests::schema`].
fn batch(made: &Requests, rows: std::ops::Range<usize>) -> Result<RecordBatch> {
    let n = rows.len();
    let hashed = made.block_tokens > 0;
    let item = Arc::new(Field::new_list_field(DataType::UInt64, false));
    let mut hashes = ListBuilder::new(UInt64Builder::new()).with_field(item);
    for i in rows.clone() {
        hashes.values().append_slice(made.hashes(i));
        hashes.append(hashed);
    }
    // Lengths and block sizes are far below 2^31: the kernel bounds them.
    let block_tokens = hashed.then_some(made.block_tokens as i32);
    let int = |values: &[u32]| -> ArrayRef { Arc::new(Int32Array::from_iter_values(values.iter().map(|v| *v as i32))) };
    let arrival = made.arrival[rows.clone()].iter().map(|t| t.0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.clone().map(|i| i as i64))),
        Arc::new(Int64Array::from_iter_values(arrival)),
        new_null_array(&DataType::Utf8, n),
        new_null_array(&DataType::Int32, n),
        new_null_array(&DataType::Utf8, n),
        int(&made.input_tokens[rows.clone()]),
        int(&made.output_tokens[rows]),
        Arc::new(hashes.finish()),
        Arc::new(Int32Array::from(vec![block_tokens; n])),
    ];
    RecordBatch::try_new(requests::schema(), columns)
        .map_err(|e| Failure::stage("synthesize::arrow", format!("cannot put the rows together: {e}")))
}

#[cfg(test)]
mod tests {
    use pipe_kernel::workload::{Constant, Lengths, SharedPrefix};

    use super::*;
    use crate::stage::tokenize::testing;

    #[tokio::test]
    async fn the_table_holds_what_the_kernel_draws() {
        let tokens = |tokens| Lengths::Constant(Constant { tokens });
        let prefix = SharedPrefix { groups: 2, tokens: 32, skew: 0.0 };
        let spec = Synthesize {
            requests: 70_000,
            rate_rps: 10.0,
            arrivals: Default::default(),
            input: tokens(20),
            output: tokens(5),
            shared_prefix: Some(prefix),
            block_tokens: 16,
        };
        let dir = tempfile::tempdir().unwrap();
        let cx = testing::cx(dir.path(), 2);
        spec.run(cx.clone()).await.unwrap();
        let rows = testing::read(&cx, "t");
        let made = generate(&spec.workload(), cx.seed);
        assert_eq!(rows, batch(&made, 0..made.len()).unwrap());
        assert_eq!(rows.num_rows(), 70_000);
    }
}
