//! Constants beside rows. A short statement can make a long text (`repeat('x', 200000)`), and wherever an operator takes
//! columns it is written down for every row of a batch; none of them asks the memory pool for that.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, InListExpr, LikeExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::unnest::UnnestExec;

use crate::query::errors::Raised;
use crate::query::functions::bounded::{self, MAX_BYTES};

/// Whether the constants of every operator, written down for a batch of so many rows, are within [`MAX_BYTES`]. Those of a
/// plan with one row are there once.
///
/// # Errors
/// They are not.
pub fn check(plan: &Arc<dyn ExecutionPlan>, batch_rows: usize) -> DfResult<()> {
    if has_one_row(plan)? { Ok(()) } else { look(plan, &[], MAX_BYTES / batch_rows.max(1) as u64) }
}

/// At an operator and those below it. The columns in `taken` are lists that the one above takes apart.
fn look(plan: &Arc<dyn ExecutionPlan>, taken: &[usize], most: u64) -> DfResult<()> {
    let mut bytes = 0;
    match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) if !taken.is_empty() && has_one_row(plan)? => {
            let beside = projection.expr().iter().enumerate().filter(|(i, _)| !taken.contains(i));
            bytes += beside.map(|(_, column)| written(&column.expr)).sum::<u64>();
        }
        _ => {
            plan.apply_expressions(&mut |expr| {
                bytes += written(expr);
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
    }
    if bytes > most {
        let why = format!("constants of {bytes} bytes would be beside every row; at most {most} bytes");
        return Err(Raised::TooLarge(why).into());
    }
    let taken: Vec<usize> = plan.downcast_ref::<UnnestExec>().map_or_else(Vec::new, |unnest| {
        unnest.list_column_indices().iter().map(|list| list.index_in_input_schema).collect()
    });
    plan.children().into_iter().try_for_each(|input| look(input, &taken, most))
}

/// Of a statement without tables, which makes no rows of a list either.
fn has_one_row(plan: &Arc<dyn ExecutionPlan>) -> DfResult<bool> {
    let several = plan.exists(|node| {
        let leaf = node.children().is_empty();
        Ok(node.is::<UnnestExec>() || leaf && !node.is::<PlaceholderRowExec>())
    })?;
    Ok(!several)
}

/// Bytes of the constants that may become columns. What is compared with one does not make it a column, and functions with
/// a limit look at the rows that there are.
fn written(expr: &Arc<dyn PhysicalExpr>) -> u64 {
    if let Some(constant) = expr.downcast_ref::<Literal>() {
        return constant.value().size().saturating_sub(size_of::<ScalarValue>()) as u64;
    }
    let limited = expr.downcast_ref::<ScalarFunctionExpr>().is_some_and(|f| bounded::has_limit(f.fun()));
    let left_out = limited || compares(expr.as_ref());
    expr.children().into_iter().filter(|child| !(left_out && child.is::<Literal>())).map(written).sum()
}

fn compares(expr: &dyn PhysicalExpr) -> bool {
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return matches!(
            binary.op(),
            Operator::Eq
                | Operator::NotEq
                | Operator::Lt
                | Operator::LtEq
                | Operator::Gt
                | Operator::GtEq
                | Operator::IsDistinctFrom
                | Operator::IsNotDistinctFrom
        );
    }
    // `x = ANY (list)` is a function.
    let any = expr.downcast_ref::<ScalarFunctionExpr>().is_some_and(|f| f.name() == "array_has");
    any || expr.is::<InListExpr>() || expr.is::<LikeExpr>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::session::{self, SessionOptions};

    #[tokio::test]
    async fn long_constants_have_one_row() {
        let ctx = session::context(&SessionOptions { target_partitions: 2, memory_bytes: 64 << 20 }).unwrap();
        let rows = "FROM generate_series(1, 3) AS t(v)";
        let numbers = (0..9_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let words = (0..3_000).map(|n| format!("'{n:020}'")).collect::<Vec<_>>().join(",");
        // 256 MiB of 8,192 rows are 32,768 bytes each.
        let cases = [
            ("SELECT repeat('x', 200000)".to_string(), None),
            ("SELECT length(repeat('x', 200000)), repeat('y', 200000) || 'z'".to_string(), None),
            (format!("SELECT repeat('x', 32000) {rows}"), None),
            (format!("SELECT repeat('x', 40000) {rows}"), Some(40_000)),
            (format!("SELECT repeat('x', 20000), repeat('y', 20000) {rows}"), Some(40_000)),
            (format!("SELECT max(repeat('x', 40000)) {rows}"), Some(40_000)),
            (format!("SELECT CASE WHEN v = 2 THEN repeat('x', 40000) END {rows}"), Some(40_000)),
            (format!("SELECT substr(repeat('x', 40000), v) {rows}"), Some(40_000)),
            (format!("SELECT repeat('x', 40000) || v, replace(v::text, '1', repeat('y', 40000)) {rows}"), None),
            (format!("SELECT concat(v, substr(repeat('x', 40000), v)) {rows}"), Some(40_000)),
            (format!("SELECT a.s {rows} CROSS JOIN (SELECT repeat('x', 40000) AS s) AS a"), Some(40_000)),
            ("SELECT repeat('x', 40000), unnest(range(0, 9000))".to_string(), Some(40_000)),
            ("SELECT unnest(range(0, 9000)), unnest(range(0, 90000))".to_string(), None),
            (format!("SELECT v, unnest(range(0, 9000)) {rows}"), Some(72_000)),
            (format!("SELECT v {rows} WHERE v::text = repeat('1', 40000)"), None),
            (format!("SELECT v {rows} WHERE v::text LIKE repeat('1', 40000)"), None),
            (format!("SELECT v {rows} WHERE v::text IN ({words})"), None),
            (format!("SELECT v {rows} WHERE v = ANY ([{numbers}])"), None),
        ];
        for (sql, bytes) in cases {
            let plan = ctx.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
            let told = check(&plan, 8192).map_err(|e| Raised::of(&e).cloned());
            let Some(bytes) = bytes else {
                assert_eq!(told, Ok(()), "{}", &sql[..sql.len().min(90)]);
                continue;
            };
            let Err(Some(Raised::TooLarge(why))) = told else { panic!("{sql}: {told:?}") };
            // Lists and texts have a few bytes beside those of their letters.
            let counted: u64 = why.split(' ').nth(2).unwrap().parse().unwrap();
            assert!((bytes..bytes + 1_000).contains(&counted), "{sql}: {why}");
        }
    }
}
