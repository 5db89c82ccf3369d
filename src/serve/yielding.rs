//! Plans that can be stopped. Where a join multiplies rows, an operator can work for minutes before it hands on a row, or
//! hand on rows for minutes to one that counts them: nothing ends it meanwhile, neither a timeout nor a client that leaves,
//! because a task ends only where it waits. So joins wait now and then.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, JoinType};
use datafusion::config::ConfigOptions;
use datafusion::error::Result as DfResult;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

/// Pairs that a nested loop looks at without waiting: a tenth of a second.
const PAIRS: u64 = 1 << 27;
/// Rows of one side that a nested loop takes at once. With fewer it takes [`SLOWER`] times as long for a pair.
const LOOPED: std::ops::RangeInclusive<u64> = 1024..=8192;
/// Between the 4 and the 12 times that were measured with 128 rows.
const SLOWER: u64 = 8;
/// Rows of the other side from which on even the fewest of those would keep it for a second.
const MANY: u64 = 1 << 19;
/// Rows that a hash join takes at once where it may drop most of the pairs that it finds.
const HASHED: usize = 1024;

/// The session's plans, so that each can be stopped.
pub fn with_rule(state: SessionState) -> SessionState {
    let mut rules = state.physical_optimizers().to_vec();
    // What comes after it hands filters down that are known only later: nothing may move between these operators then.
    let after = rules.iter().position(|r| r.name() == "EnsureCooperative").map_or(rules.len(), |i| i + 1);
    rules.insert(after, Arc::new(Yielding));
    SessionStateBuilder::new_from_existing(state).with_physical_optimizer_rules(rules).build()
}

#[derive(Debug)]
struct Yielding;

impl PhysicalOptimizerRule for Yielding {
    fn name(&self) -> &str {
        "Yielding"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let yielding = plan.transform_up(|plan| {
            let plan = match pairs(plan.as_ref()) {
                Pairs::Few => return Ok(Transformed::no(plan)),
                Pairs::HandedOn => plan,
                Pairs::Looped => sliced(plan, None)?,
                Pairs::Dropped => sliced(plan, Some(HASHED))?,
            };
            Ok(Transformed::yes(Arc::new(CooperativeExec::new(plan)) as Arc<dyn ExecutionPlan>))
        });
        Ok(yielding?.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What an operator does with rows that it multiplies.
enum Pairs {
    Few,
    /// As they are made: it is enough to wait now and then between them.
    HandedOn,
    /// Every row of one input with every one of the other, perhaps to drop most.
    Looped,
    /// Perhaps after most were dropped.
    Dropped,
}

fn pairs(plan: &dyn ExecutionPlan) -> Pairs {
    if plan.is::<NestedLoopJoinExec>() {
        return Pairs::Looped;
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let all = matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        return if all && join.filter.is_none() { Pairs::HandedOn } else { Pairs::Dropped };
    }
    let multiplies = plan.is::<CrossJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<SymmetricHashJoinExec>()
        || plan.is::<PiecewiseMergeJoinExec>()
        || plan.is::<UnnestExec>();
    if multiplies { Pairs::HandedOn } else { Pairs::Few }
}

/// With slices of what it reads last, the side that a join does not hold: of so many rows each, or of as many as suit the side
/// that it holds.
fn sliced(plan: Arc<dyn ExecutionPlan>, rows: Option<usize>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let mut children: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
    let held = Arc::new(AtomicU64::new(0));
    let (last, first) = (children.pop(), children.pop());
    if let Some(first) = first {
        children.push(match rows {
            Some(_) => first,
            None => Arc::new(SlicesExec::new(first, Slices::Held(held.clone()))),
        });
    }
    if let Some(last) = last {
        children.push(Arc::new(SlicesExec::new(last, rows.map_or(Slices::Beside(held), Slices::Of))));
    }
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Rows that a nested loop takes at once beside so many that it holds. Not by the clock: the order of the pairs depends on it.
fn beside(held: u64) -> usize {
    let rows = if held < MANY {
        (PAIRS / held.max(1)).clamp(*LOOPED.start(), *LOOPED.end())
    } else {
        (PAIRS / SLOWER / held).max(1)
    };
    rows as usize
}

#[derive(Clone, Debug)]
enum Slices {
    Of(usize),
    /// Counted, and handed on as they come: a join reads all of them before the others.
    Held(Arc<AtomicU64>),
    /// Of [`beside`] those counted.
    Beside(Arc<AtomicU64>),
}

/// Hands on the rows of its input a few at a time, and lets others work before each of these.
#[derive(Debug)]
struct SlicesExec {
    input: Arc<dyn ExecutionPlan>,
    slices: Slices,
    properties: Arc<PlanProperties>,
}

impl SlicesExec {
    fn new(input: Arc<dyn ExecutionPlan>, slices: Slices) -> Self {
        let properties = input.properties().clone();
        SlicesExec { input, slices, properties }
    }
}

impl DisplayAs for SlicesExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.slices {
            Slices::Of(rows) => write!(f, "SlicesExec: rows={rows}"),
            Slices::Held(_) => write!(f, "SlicesExec: counted"),
            Slices::Beside(_) => write!(f, "SlicesExec: pairs={PAIRS}"),
        }
    }
}

impl ExecutionPlan for SlicesExec {
    fn name(&self) -> &str {
        "SlicesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(child), true) => Ok(Arc::new(Self::new(child, self.slices.clone()))),
            _ => Err(DataFusionError::Internal("SlicesExec has one child".to_string())),
        }
    }

    // Deprecated, and still required.
    #[allow(deprecated)]
    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (schema, how) = (input.schema(), self.slices.clone());
        // Of a query that refers to itself, the same plan runs again and again.
        if let Slices::Held(held) = &how {
            held.store(0, Ordering::Relaxed);
        }
        let slices = input.flat_map(move |batch| {
            let slices: Vec<_> = match batch {
                Ok(batch) => {
                    let rows = batch.num_rows();
                    let most = match &how {
                        Slices::Of(rows) => (*rows).max(1),
                        Slices::Held(held) => {
                            held.fetch_add(rows as u64, Ordering::Relaxed);
                            rows.max(1)
                        }
                        Slices::Beside(held) => beside(held.load(Ordering::Relaxed)),
                    };
                    (0..rows).step_by(most).map(|at| Ok(batch.slice(at, most.min(rows - at)))).collect()
                }
                Err(e) => vec![Err(e)],
            };
            stream::iter(slices)
        });
        let slices = slices.then(|slice| async move {
            tokio::task::yield_now().await;
            slice
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, slices)))
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> DfResult<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> DfResult<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(child_pushdown_result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::session::{self, SessionOptions};
    use datafusion::execution::context::SessionContext;

    #[test]
    fn more_rows_of_one_side_mean_fewer_of_the_other() {
        let sizes = [0, 1, 512, 20_000, 500_000, 1 << 19, 1 << 20, u64::MAX].map(beside);
        assert_eq!(sizes, [8192, 8192, 8192, 6710, 1024, 32, 16, 1]);
    }

    #[tokio::test]
    async fn what_is_held_is_counted_anew_when_a_plan_runs_again() {
        let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: 64 << 20 }).unwrap();
        let rows = ctx.sql("SELECT value FROM generate_series(1, 20000)").await.unwrap();
        let held = Arc::new(AtomicU64::new(0));
        let plan = Arc::new(SlicesExec::new(rows.create_physical_plan().await.unwrap(), Slices::Held(held.clone())));
        for _ in 0..2 {
            datafusion::physical_plan::collect(plan.clone(), ctx.task_ctx()).await.unwrap();
            assert_eq!(held.load(Ordering::Relaxed), 20_000);
        }
    }

    #[tokio::test]
    async fn loops_in_slices_find_the_same_pairs() {
        let plain = session::context(&SessionOptions { target_partitions: 2, memory_bytes: 64 << 20 }).unwrap();
        let sliced = SessionContext::new_with_state(with_rule(plain.state()));
        let join = |kind: &str| {
            format!(
                "SELECT a.value AS a, b.value AS b FROM generate_series(1, 1500) a {kind} JOIN \
                 generate_series(1, 9000) b ON a.value * 5 < b.value AND b.value < a.value * 5 + 4"
            )
        };
        for kind in ["", "LEFT", "RIGHT", "FULL"] {
            let sql = join(kind);
            let told = async |ctx: &SessionContext, sql: &str| {
                let rows = ctx.sql(sql).await.unwrap().collect().await.unwrap();
                datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string()
            };
            assert!(told(&sliced, &format!("EXPLAIN {sql}")).await.contains("SlicesExec: pairs"));
            let sorted = format!("SELECT * FROM ({sql}) ORDER BY a, b");
            assert_eq!(told(&sliced, &sorted).await, told(&plain, &sorted).await, "{kind}");
        }
    }
}
