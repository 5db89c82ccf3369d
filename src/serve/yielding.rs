//! Plans that can be stopped. Where a join multiplies rows, an operator can work for minutes before it hands on a row, or
//! hand on rows for minutes to one that counts them: nothing ends it meanwhile, neither a timeout nor a client that leaves,
//! because a task ends only where it waits. So joins wait now and then.

use std::fmt;
use std::sync::Arc;

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

/// Rows of one side that a nested loop takes at once, with each of the other.
const LOOPED: usize = 128;
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
                Pairs::Dropped(rows) => sliced(plan, rows)?,
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
    /// Perhaps after most were dropped: it is given so many rows of its second input at once.
    Dropped(usize),
}

fn pairs(plan: &dyn ExecutionPlan) -> Pairs {
    if plan.is::<NestedLoopJoinExec>() {
        return Pairs::Dropped(LOOPED);
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let all = matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        return if all && join.filter.is_none() { Pairs::HandedOn } else { Pairs::Dropped(HASHED) };
    }
    let multiplies = plan.is::<CrossJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<SymmetricHashJoinExec>()
        || plan.is::<PiecewiseMergeJoinExec>()
        || plan.is::<UnnestExec>();
    if multiplies { Pairs::HandedOn } else { Pairs::Few }
}

/// With slices of what it reads last: the side that a join does not hold.
fn sliced(plan: Arc<dyn ExecutionPlan>, rows: usize) -> DfResult<Arc<dyn ExecutionPlan>> {
    let mut children: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
    if let Some(last) = children.pop() {
        children.push(Arc::new(SlicesExec::new(last, rows)));
    }
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Hands on the rows of its input a few at a time, and lets others work before each of these.
#[derive(Debug)]
struct SlicesExec {
    input: Arc<dyn ExecutionPlan>,
    rows: usize,
    properties: Arc<PlanProperties>,
}

impl SlicesExec {
    fn new(input: Arc<dyn ExecutionPlan>, rows: usize) -> Self {
        let properties = input.properties().clone();
        SlicesExec { input, rows, properties }
    }
}

impl DisplayAs for SlicesExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SlicesExec: rows={}", self.rows)
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
            (Some(child), true) => Ok(Arc::new(Self::new(child, self.rows))),
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
        let (schema, most) = (input.schema(), self.rows.max(1));
        let slices = input.flat_map(move |batch| {
            let slices: Vec<_> = match batch {
                Ok(batch) => {
                    let rows = batch.num_rows();
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
