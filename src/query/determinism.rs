//! Which plans give the same rows, bit for bit, whatever the number of partitions.
//!
//! Partitions finish in any order. Counting, exact sums (see [`super::functions`]), extremes and quantiles do not
//! care; aggregates that round as they go (`stddev`, `corr`, `regr_*`), that keep the first or last row, or that are
//! approximate do, and so do window functions where the order of a window has ties. A plan with one of those runs in
//! one partition: then rows come in the order of the tables' parts, which is fixed.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

/// Aggregates whose result does not depend on the order of their rows.
const ORDER_FREE: &[&str] = &[
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "goodput",
    "grouping",
    "histogram",
    "max",
    "median",
    "min",
    "percentile_cont",
    "quantile",
    "slo_attainment",
    "sum",
];

/// Whether the rows of `plan` do not depend on how its inputs are split.
///
/// # Errors
/// None in practice: visiting a plan does not fail.
pub fn partition_free(plan: &LogicalPlan) -> Result<bool> {
    let mut free = true;
    plan.apply_with_subqueries(|node| {
        // Rows that a LIMIT drops are decided by the sort below it; without one they are whatever came first.
        let unsorted_limit = match node {
            LogicalPlan::Limit(limit) => !matches!(*limit.input, LogicalPlan::Sort(_)),
            LogicalPlan::Window(_) | LogicalPlan::Distinct(Distinct::On(_)) => true,
            _ => false,
        };
        free &= !unsorted_limit;
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::AggregateFunction(call) = e {
                    free &= ORDER_FREE.contains(&call.func.name());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(if free { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(free)
}
