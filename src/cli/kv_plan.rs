//! What `pipe show` says of the KV caches of a simulation: how many blocks a replica of each pool has, and why.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema};

use super::thousands;
use pipe_kernel::sim::kv::plan::MemoryPlan;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;
/// Caches that are shown.
const SHOWN: usize = 20;

/// The columns of a pool that its cache follows from, and the plan itself.
const COLUMNS: [&str; 14] = [
    "pool",
    "model",
    "gpu",
    "tp",
    "pp",
    "dp",
    "kv_gpu_memory_utilization",
    "kv_block_size",
    "kv_blocks_total",
    "kv_budget_bytes",
    "kv_weights_bytes",
    "kv_activation_bytes",
    "kv_other_bytes",
    "kv_block_bytes",
];

/// The pool of a deployment that has none.
const NO_POOL: &str = "default";

/// The table with the pools of the scenarios in `table`, if that is one of scenarios or of pools.
pub(super) fn table_of_pools(table: &str) -> [String; 2] {
    [table.to_string(), format!("{table}_pools")]
}

/// The query for the caches of a table; `None` where it is no table of pools.
pub(super) fn query(pipeline: &str, table: &str, schema: &Schema) -> Option<String> {
    let all = COLUMNS.iter().all(|name| schema.field_with_name(name).is_ok());
    let columns = COLUMNS.join(", ");
    all.then(|| format!("SELECT DISTINCT {columns} FROM \"{pipeline}\".\"{table}\" ORDER BY {columns}"))
}

/// A line per cache, from the rows of [`query`], with the pools that have it where not all have the same.
pub(super) fn lines(rows: &[RecordBatch]) -> Vec<String> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (pool, cache) in rows.iter().flat_map(|rows| (0..rows.num_rows()).filter_map(|i| line(rows, i))) {
        match found.iter_mut().find(|(other, _)| *other == cache) {
            Some((_, pools)) => pools.push(pool),
            None => found.push((cache, vec![pool])),
        }
    }
    let alone = found.len() == 1;
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(cache, pools)| match pools.as_slice() {
            _ if alone => cache,
            [pool] if pool == NO_POOL => cache,
            [pool] => format!("pool {pool}: {cache}"),
            several => format!("pools {}: {cache}", several.join(", ")),
        })
        .collect();
    if lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("and {more} more KV caches"));
    }
    lines
}

/// A pool and its cache; `None` for a deployment without cache.
fn line(rows: &RecordBatch, i: usize) -> Option<(String, String)> {
    let text = |name: &str| {
        let column = cast(rows.column_by_name(name)?, &DataType::Utf8).ok()?;
        let column = column.as_string_opt::<i32>()?;
        column.is_valid(i).then(|| column.value(i).to_string())
    };
    let int = |name: &str| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        column.is_valid(i).then(|| column.value(i))
    };
    let float = |name: &str| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<Float64Type>()?;
        column.is_valid(i).then(|| column.value(i))
    };
    let blocks = int("kv_blocks_total").filter(|n| *n > 0)?;
    let (tp, pp, dp) = (int("tp")?, int("pp")?, int("dp")?);
    let stages = if pp > 1 { format!(", pp {pp}") } else { String::new() };
    let ranks = if dp > 1 { format!(", dp {dp}") } else { String::new() };
    let pool = text("pool")?;
    let of = format!("KV cache of {} on {}, tp {tp}{stages}{ranks}", text("model")?, text("gpu")?);
    let tokens = int("kv_block_size")?;
    let count = thousands(u64::try_from(blocks).unwrap_or(0));
    let Some(budget) = int("kv_budget_bytes") else {
        return Some((pool, format!("{of}: given: {count} blocks of {tokens} tokens")));
    };
    let gib = |name: &str| int(name).map(|bytes| bytes as f64 / GIB);
    let (weights, activations, other) = (gib("kv_weights_bytes")?, gib("kv_activation_bytes")?, gib("kv_other_bytes")?);
    let share = float("kv_gpu_memory_utilization")?;
    let plan = MemoryPlan {
        budget: budget as f64,
        weights: weights * GIB,
        activations: activations * GIB,
        // With what adapters take.
        non_torch: other * GIB,
        adapters: 0.0,
        kv_available: 0.0,
        bytes_per_block: int("kv_block_bytes")? as f64,
        blocks: u64::try_from(blocks).unwrap_or(0),
    };
    Some((pool, sentence(&of, tp * pp > 1, share, tokens, &plan)))
}

/// The terms of a plan; `of` says whose it is, `each` that it is that of one GPU of several.
pub(super) fn sentence(of: &str, each: bool, share: f64, tokens: i64, plan: &MemoryPlan) -> String {
    let each = if each { ", per GPU" } else { "" };
    let gib = |bytes: f64| bytes / GIB;
    let (budget, weights) = (gib(plan.budget), gib(plan.weights));
    let (activations, other) = (gib(plan.activations), gib(plan.non_torch));
    // The memory of the GPU is a fact with few digits; what the division adds is cut.
    let memory = (budget / share * 100.0).round() / 100.0;
    let left = budget - weights - activations - other;
    let (block, count) = (plan.bytes_per_block / MIB, thousands(plan.blocks));
    format!(
        "{of}{each}: {memory} GiB x {share} = {budget:.2} - weights {weights:.2} - activations {activations:.2} - other \
         {other:.2} = {left:.2} GiB; / {block:.2} MiB per block of {tokens} tokens = {count} blocks"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    /// Pool, tp, blocks, and the plan in GiB and MiB: budget, weights, activations, other, block.
    fn cache(pool: &str, tp: i64, blocks: i64, plan: Option<[f64; 5]>) -> RecordBatch {
        let int = |v: Option<i64>| Arc::new(Int64Array::from(vec![v])) as ArrayRef;
        let text = |v: &str| Arc::new(StringArray::from(vec![v])) as ArrayRef;
        let bytes = |i: usize, unit: f64| int(plan.map(|p| (p[i] * unit) as i64));
        let columns: Vec<ArrayRef> = vec![
            text(pool),
            text("meta-llama/Llama-3.1-8B"),
            text("h100-sxm"),
            int(Some(tp)),
            int(Some(1)),
            int(Some(if pool == NO_POOL { 1 } else { 4 })),
            Arc::new(Float64Array::from(vec![0.9])),
            int(Some(16)),
            int(Some(blocks)),
            bytes(0, GIB),
            bytes(1, GIB),
            bytes(2, GIB),
            bytes(3, GIB),
            bytes(4, MIB),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(
            COLUMNS.into_iter().zip(columns).map(|(name, values)| (name, values, true)),
        );
        rows.unwrap()
    }

    fn check(pool: &str, tp: i64, blocks: i64, plan: Option<[f64; 5]>, expect: &[&str]) {
        let rows = cache(pool, tp, blocks, plan);
        assert!(query("p", "sim_pools", &rows.schema()).is_some_and(|q| q.contains("\"p\".\"sim_pools\"")));
        assert_eq!(lines(&[rows]), expect);
    }

    #[test]
    fn pools_with_the_same_cache_share_a_line() {
        let of = |pools: [(&str, i64); 3]| lines(&pools.map(|(pool, blocks)| cache(pool, 1, blocks, None)));
        let line = |blocks: &str| {
            format!("KV cache of meta-llama/Llama-3.1-8B on h100-sxm, tp 1, dp 4: given: {blocks} blocks of 16 tokens")
        };
        assert_eq!(of([("a", 5_000), ("b", 5_000), ("c", 5_000)]), [line("5,000")]);
        let different = of([("a", 5_000), ("b", 6_000), ("c", 5_000)]);
        assert_eq!(different, [format!("pools a, c: {}", line("5,000")), format!("pool b: {}", line("6,000"))]);
    }

    #[test]
    fn the_terms_of_a_plan_are_shown() {
        check(
            NO_POOL,
            1,
            26_312,
            Some([72.0, 14.96, 5.5, 0.15, 2.0]),
            &[
                "KV cache of meta-llama/Llama-3.1-8B on h100-sxm, tp 1: 80 GiB x 0.9 = 72.00 - weights 14.96 - activations \
               5.50 - other 0.15 = 51.39 GiB; / 2.00 MiB per block of 16 tokens = 26,312 blocks",
            ],
        );
        check(
            "prefill",
            2,
            58_000,
            Some([72.0, 7.48, 5.5, 0.6, 1.0]),
            &[
                "KV cache of meta-llama/Llama-3.1-8B on h100-sxm, tp 2, dp 4, per GPU: 80 GiB x 0.9 = 72.00 - weights 7.48 - \
               activations 5.50 - other 0.60 = 58.42 GiB; / 1.00 MiB per block of 16 tokens = 58,000 blocks",
            ],
        );
        check(
            NO_POOL,
            1,
            5_000,
            None,
            &["KV cache of meta-llama/Llama-3.1-8B on h100-sxm, tp 1: given: 5,000 blocks of 16 tokens"],
        );
        check("p", 1, 0, None, &[]);
    }
}
