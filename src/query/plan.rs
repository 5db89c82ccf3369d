//! From a script to plans, and from plans to rows.
//!
//! The same planning serves the check before a run, against empty tables of the expected schemas, and the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::datasource::ViewTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::context::SessionContext;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use super::errors::{Names, planning};
use super::session::{self, SCHEMA, SessionOptions};
use super::sql::{Makes, Script, break_ties, is_ordered, reads};
use super::{columns, determinism};
use crate::diag::{Diagnostic, Result};

/// What a statement would make. The schema is `None` where that of an input is not known yet, or where it is wrong.
#[derive(Clone, Debug)]
pub struct Made {
    pub makes: Makes,
    pub schema: Option<SchemaRef>,
}

/// Plans a script against tables that do not exist yet.
///
/// `tables` are those that may be read, with their schemas where they are known. Statements that read a table whose
/// schema is not known, or a table that is not among them, are left alone: whether a table exists is for the caller.
pub fn check(script: &Script, tables: &BTreeMap<String, Option<SchemaRef>>) -> (Vec<Made>, Vec<Diagnostic>) {
    let mut checker = match Checker::new(script, tables) {
        Ok(checker) => checker,
        Err(failure) => return (Vec::new(), failure.diagnostics),
    };
    for i in 0..script.steps.len() {
        checker.step(i);
    }
    (checker.made, checker.problems)
}

struct Checker<'a> {
    script: &'a Script,
    ctx: SessionContext,
    known: BTreeSet<String>,
    names: Names,
    made: Vec<Made>,
    problems: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    fn new(script: &'a Script, tables: &BTreeMap<String, Option<SchemaRef>>) -> Result<Self> {
        let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: 1 << 28 })?;
        let mut known = BTreeSet::new();
        for (name, schema) in tables {
            if let Some(schema) = schema {
                session::register(&ctx, SCHEMA, name, Arc::new(EmptyTable::new(schema.clone())))?;
                known.insert(name.clone());
            }
        }
        let names = Names { tables: tables.keys().cloned().collect(), functions: function_names(&ctx) };
        Ok(Checker { script, ctx, known, names, made: Vec::new(), problems: Vec::new() })
    }

    fn step(&mut self, index: usize) {
        let step = &self.script.steps[index];
        let readable = reads(&step.query).iter().all(|(name, _)| self.known.contains(name));
        let mut schema = None;
        if readable {
            // Every table lies in memory: planning waits for nothing.
            match futures::executor::block_on(self.plan(&step.query)) {
                Ok(plan) => schema = self.register(index, plan),
                Err(e) => {
                    self.problems.push(planning(&e, &self.script.text, &self.script.place, &self.names));
                }
            }
        }
        self.made.push(Made { makes: step.makes.clone(), schema });
    }

    async fn plan(&self, query: &Query) -> std::result::Result<LogicalPlan, DataFusionError> {
        let plan = plan_query(&self.ctx, query).await?;
        // Some mistakes show only here: an argument that must be constant, for one.
        self.ctx.state().create_physical_plan(&plan).await?;
        Ok(plan)
    }

    fn register(&mut self, index: usize, plan: LogicalPlan) -> Option<SchemaRef> {
        let step = &self.script.steps[index];
        let schema = columns::stored_schema(plan.schema().as_arrow());
        let twice = columns::duplicates(&schema);
        if !twice.is_empty() {
            let what = format!("the result has several columns named `{}`", twice.join("`, `"));
            self.problems.push(
                self.script
                    .problem("sql::duplicate_column", what, step.at)
                    .help("give each its own name: `... AS name`"),
            );
            return None;
        }
        let (name, table): (_, Arc<dyn TableProvider>) = match &step.makes {
            Makes::View(name) => (name, Arc::new(ViewTable::new(plan, None))),
            Makes::Table(name) => (name, Arc::new(EmptyTable::new(schema.clone()))),
            Makes::Result => return Some(schema),
        };
        if let Err(failure) = session::register(&self.ctx, SCHEMA, name, table) {
            self.problems.extend(failure.diagnostics);
        }
        self.known.insert(name.clone());
        Some(schema)
    }
}

/// The plan of a query; where it has an ORDER BY, its columns are the last keys (see [`break_ties`]).
///
/// # Errors
/// Unknown names, wrong types.
pub async fn plan_query(ctx: &SessionContext, query: &Query) -> std::result::Result<LogicalPlan, DataFusionError> {
    let state = ctx.state();
    let plan = state.statement_to_plan(statement(query)).await?;
    if !is_ordered(query) {
        return Ok(plan);
    }
    let positions = columns::sortable(plan.schema().as_arrow());
    match state.statement_to_plan(statement(&break_ties(query, &positions))).await {
        Ok(plan) => Ok(plan),
        // Where positions are not possible as keys, the order that the user wrote has to do.
        Err(_) => Ok(plan),
    }
}

fn statement(query: &Query) -> Statement {
    Statement::Statement(Box::new(SqlStatement::Query(Box::new(query.clone()))))
}

/// Runs a plan: in one partition, if its rows could depend on their number.
///
/// # Errors
/// Planning errors that only show now.
pub async fn stream(
    ctx: &SessionContext,
    plan: &LogicalPlan,
) -> std::result::Result<SendableRecordBatchStream, DataFusionError> {
    let (physical, state) = physical(ctx, plan).await?;
    execute_stream(physical, state.task_ctx())
}

/// What [`stream`] runs, and the settings that it runs it with.
///
/// # Errors
/// Planning errors that only show now.
pub async fn physical(
    ctx: &SessionContext,
    plan: &LogicalPlan,
) -> std::result::Result<(Arc<dyn ExecutionPlan>, SessionState), DataFusionError> {
    let mut state = ctx.state();
    if !determinism::partition_free(plan)? {
        state.config_mut().options_mut().execution.target_partitions = 1;
    }
    let physical = state.create_physical_plan(plan).await?;
    Ok((physical, state))
}

/// Names of all functions of a session.
pub fn function_names(ctx: &SessionContext) -> Vec<String> {
    let state = ctx.state();
    let scalars = state.scalar_functions().keys();
    let names: BTreeSet<String> =
        scalars.chain(state.aggregate_functions().keys()).chain(state.window_functions().keys()).cloned().collect();
    names.into_iter().collect()
}
