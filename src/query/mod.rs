//! Queries over the store: the DataFusion session, its functions, the rules that make results reproducible, and the
//! formats of output.
//!
//! ```text
//! sql.rs          the script of a stage: statements, tables that it names     lint.rs   what would not be reproducible
//! plan.rs         plans: checked against schemas, and run                     errors.rs DataFusion's errors, with places
//! determinism.rs  which plans may run in several partitions                   columns.rs types and units of results
//! execute.rs      runs a script into a sink
//! session.rs      sessions and tables       views.rs  queries/views/*.sql     output.rs table, CSV, JSON, Parquet, Arrow
//! relations.rs    what there is to query, for consoles                        text.rs   Markdown, a line per column
//! functions/      quantile, histogram, width_bucket, slo_attainment, goodput, tokens_per_s, ms, s; exact sum and avg;
//!                 limits on what a call may make
//! duckdb.rs       statements for DuckDB
//! ```
//!
//! Queries read: a session has no way to write a table or to open a file that is not part of one.

pub mod columns;
pub mod determinism;
pub mod duckdb;
pub mod errors;
pub mod execute;
pub mod functions;
mod lint;
pub mod output;
pub mod plan;
pub mod relations;
pub mod session;
pub mod sql;
pub mod text;
pub mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::TryStreamExt;

pub use functions::{FunctionDoc, function_docs, quantile_of};
pub use relations::Relation;
pub use views::ViewStatus;

use crate::diag::{Failure, Result};
use crate::store::TableHandle;
use errors::{Names, Place, planning, running};
use session::{SCHEMA, SessionOptions};

/// All tables of a store, ready for SQL. Read-only.
pub struct Engine {
    ctx: SessionContext,
    views: Vec<ViewStatus>,
    names: Names,
}

impl Engine {
    /// A session over `tables`, given with the pipelines that they belong to, and over the project's views.
    ///
    /// `sweep.sim` is the table `sim` of the pipeline `sweep`; `sim` alone is that of `default_pipeline`, or the only
    /// one of that name.
    ///
    /// # Errors
    /// View files that cannot be read.
    pub async fn open(
        project: &Path,
        tables: Vec<(String, TableHandle)>,
        default_pipeline: Option<&str>,
        threads: usize,
    ) -> Result<Engine> {
        let ctx = session::context(&SessionOptions::threads(threads))?;
        let mut pipelines = BTreeSet::new();
        for (pipeline, handle) in &tables {
            session::register(&ctx, pipeline, &handle.name, session::provider(handle)?)?;
            pipelines.insert(pipeline.clone());
        }
        let files = views::files(project)?;
        let mut statuses = Vec::new();
        for pipeline in &pipelines {
            statuses.extend(views::define(&ctx, pipeline, &files).await?);
        }
        let names = bare_names(&ctx, &pipelines, default_pipeline).await?;
        Ok(Engine { names: Names { tables: names, functions: plan::function_names(&ctx) }, ctx, views: statuses })
    }

    /// The session, for servers.
    pub fn context(&self) -> &SessionContext {
        &self.ctx
    }

    /// The names that are valid in statements.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The views of the project in each pipeline, those that cannot be queried with the reason.
    pub fn views(&self) -> &[ViewStatus] {
        &self.views
    }

    /// Runs one statement that reads.
    ///
    /// # Errors
    /// Mistakes in the SQL, with their place in it (`<sql>:line:column`); statements that write.
    pub async fn sql(&self, text: &str) -> Result<SendableRecordBatchStream> {
        let place = Place::File("<sql>".into());
        let wrong = |e| Failure::from(planning(&e, text, &place, &self.names));
        let mut statements = sql::statements(text).map_err(wrong)?;
        let Some(statement) = statements.pop() else {
            return Err(place.diagnostic(text, "sql::statement", "there is no statement", None).into());
        };
        if !statements.is_empty() {
            let problem = place.diagnostic(text, "sql::statement", "one statement at a time is run here", None);
            let help =
                "run several as a file, `pipe sql -f FILE`, or from standard input; or make a `sql` stage of them";
            return Err(problem.help(help).into());
        }
        if !reads_only(&statement) {
            let what = format!(
                "`{}` is not possible here: queries only read",
                statement.to_string().split_whitespace().take(2).collect::<Vec<_>>().join(" ")
            );
            return Err(place
                .diagnostic(text, "sql::read_only", what, None)
                .help(
                    "use SELECT, WITH, EXPLAIN, SHOW or DESCRIBE; tables are made by the stages of a pipeline: put the \
                     statement into a `sql` stage and `pipe run` it. For a file: `pipe sql --format parquet > file`",
                )
                .into());
        }
        let logical = self.ctx.state().statement_to_plan(statement).await.map_err(wrong)?;
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(&logical).map_err(wrong)?;
        plan::stream(&self.ctx, &logical).await.map_err(wrong)
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// As [`Engine::sql`], and what goes wrong while it runs.
    pub async fn rows(&self, text: &str) -> Result<Vec<RecordBatch>> {
        self.sql(text).await?.try_collect().await.map_err(|e| running(&e))
    }
}

/// Gives tables and views their short names; returns them, and the long ones.
async fn bare_names(ctx: &SessionContext, pipelines: &BTreeSet<String>, default: Option<&str>) -> Result<Vec<String>> {
    let mut owners: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    let mut names = Vec::new();
    for pipeline in pipelines {
        for name in session::schema(ctx, pipeline)?.table_names() {
            names.push(format!("{pipeline}.{name}"));
            owners.entry(name).or_default().push(pipeline);
        }
    }
    for (name, pipelines) in owners {
        let chosen = match pipelines.as_slice() {
            [only] => Some(*only),
            several => several.iter().find(|p| Some(p.as_str()) == default).copied(),
        };
        if let Some(pipeline) = chosen {
            let table = session::schema(ctx, pipeline)?.table(&name).await.map_err(|e| running(&e))?;
            if let Some(table) = table {
                session::register(ctx, SCHEMA, &name, table)?;
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a statement does nothing but read.
pub fn reads_only(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => is_query(statement),
        Statement::Explain(explain) => reads_only(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

/// [`reads_only`] of what the parser of SQL alone knows.
pub fn is_query(statement: &SqlStatement) -> bool {
    match statement {
        SqlStatement::Query(_)
        | SqlStatement::ExplainTable { .. }
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowVariables { .. }
        | SqlStatement::ShowSchemas { .. } => true,
        SqlStatement::Explain { statement, .. } => is_query(statement),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
