//! Runs the script of a stage, statement by statement, into a sink.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use futures::StreamExt;

use super::columns;
use super::errors::{Names, planning, running};
use super::plan::{function_names, plan_query, stream};
use super::session::{self, SCHEMA};
use super::sql::{Makes, Script, Step};
use crate::diag::{Exit, Failure, Result};
use crate::stage::Cancel;

/// Bytes of a `CREATE TABLE` that are kept for the statements after it. A larger one is computed again where it is
/// read: the same rows, since results do not depend on the run.
const KEPT_BYTES: usize = 256 << 20;

/// Takes the rows of the tables that a script makes, one table after the other.
pub trait Sink: Send {
    /// A table begins.
    ///
    /// # Errors
    /// It cannot be made.
    fn begin(&mut self, makes: &Makes, schema: &SchemaRef) -> Result<()>;

    /// # Errors
    /// It cannot be written.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;

    /// The table is complete.
    ///
    /// # Errors
    /// It cannot be written.
    fn end(&mut self) -> Result<()>;
}

/// Runs every statement. The tables that the script reads are registered in `ctx`, in the schema [`SCHEMA`].
///
/// # Errors
/// Planning errors where the schemas of the inputs were not known before, errors while running, of the sink, and
/// [`Failure::interrupted`].
pub async fn execute(ctx: &SessionContext, script: &Script, sink: &mut dyn Sink, cancel: &Cancel) -> Result<()> {
    for step in &script.steps {
        let plan = plan(ctx, script, step).await?;
        let table: Arc<dyn TableProvider> = match &step.makes {
            Makes::View(_) => Arc::new(ViewTable::new(plan, None)),
            Makes::Table(_) | Makes::Result => {
                let kept = store(ctx, step, &plan, sink, cancel).await?;
                match kept {
                    Some((schema, rows)) => Arc::new(MemTable::try_new(schema, vec![rows]).map_err(|e| running(&e))?),
                    None => Arc::new(ViewTable::new(plan, None)),
                }
            }
        };
        match &step.makes {
            Makes::View(name) | Makes::Table(name) => session::register(ctx, SCHEMA, name, table)?,
            Makes::Result => {}
        }
    }
    Ok(())
}

async fn plan(ctx: &SessionContext, script: &Script, step: &Step) -> Result<LogicalPlan> {
    let plan = plan_query(ctx, &step.query).await.map_err(|e| {
        let tables = session::schema(ctx, SCHEMA).map(|s| s.table_names()).unwrap_or_default();
        let names = Names { tables, functions: function_names(ctx) };
        let problem = planning(&e, &script.text, &script.place, &names);
        Failure { exit: Exit::Stage, diagnostics: vec![problem] }
    })?;
    let twice = columns::duplicates(plan.schema().as_arrow());
    if twice.is_empty() {
        return Ok(plan);
    }
    let what = format!("the result has several columns named `{}`", twice.join("`, `"));
    let problem = script.problem("sql::duplicate_column", what, step.at).help("give each its own name: `... AS name`");
    Err(Failure { exit: Exit::Stage, diagnostics: vec![problem] })
}

/// Writes the rows of a plan; returns them if later statements may read them and they are not too many.
async fn store(
    ctx: &SessionContext,
    step: &Step,
    plan: &LogicalPlan,
    sink: &mut dyn Sink,
    cancel: &Cancel,
) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
    let schema = columns::stored_schema(plan.schema().as_arrow());
    let mut rows = stream(ctx, plan).await.map_err(|e| running(&e))?;
    let mut kept = matches!(step.makes, Makes::Table(_)).then(Vec::new);
    let mut bytes = 0;
    sink.begin(&step.makes, &schema)?;
    loop {
        let batch = tokio::select! {
            () = cancel.cancelled() => return Err(Failure::interrupted()),
            batch = rows.next() => batch,
        };
        let Some(batch) = batch else { break };
        let batch = batch.map_err(|e| running(&e))?;
        let batch = columns::conform(&batch, &schema).map_err(|e| running(&e.into()))?;
        sink.write(&batch)?;
        bytes += batch.get_array_memory_size();
        match &mut kept {
            Some(all) if bytes <= KEPT_BYTES => all.push(batch),
            _ => kept = None,
        }
    }
    sink.end()?;
    Ok(kept.map(|rows| (schema, rows)))
}
