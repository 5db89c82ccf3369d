//! Views of the project: each `queries/views/<name>.sql` is the view `<name>` in every pipeline that has its tables.

use std::path::Path;
use std::sync::Arc;

use datafusion::datasource::ViewTable;
use datafusion::execution::context::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use super::errors::{Names, Place, planning};
use super::session;
use super::sql::{reads, statements};
use crate::diag::{Failure, Result, io};

/// A file of `queries/views/`.
#[derive(Clone, Debug)]
pub struct ViewFile {
    pub name: String,
    pub sql: String,
    /// As shown in messages.
    pub file: Arc<str>,
}

/// What became of a view in a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewStatus {
    pub pipeline: String,
    pub name: String,
    /// Why it cannot be queried; `None` where it can.
    pub unavailable: Option<String>,
}

/// The view files of a project, by name.
///
/// # Errors
/// A file that cannot be read. No folder is no views.
pub fn files(project: &Path) -> Result<Vec<ViewFile>> {
    let folder = project.join("queries/views");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| io(&folder, "list", &e))?.path();
        let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "sql") {
            let sql = std::fs::read_to_string(&path).map_err(|e| io(&path, "read", &e))?;
            files.push(ViewFile { file: format!("queries/views/{name}.sql").into(), name, sql });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Makes the views that can be made in the schema of one pipeline, whatever their order among each other.
///
/// # Errors
/// None in practice; a view with a mistake is unavailable, with the reason.
pub async fn define(ctx: &SessionContext, pipeline: &str, files: &[ViewFile]) -> Result<Vec<ViewStatus>> {
    let mut waiting: Vec<(&ViewFile, String)> = files.iter().map(|f| (f, String::new())).collect();
    let mut done = Vec::new();
    loop {
        let before = waiting.len();
        let mut still = Vec::new();
        for (file, _) in waiting {
            match view(ctx, pipeline, file).await {
                Ok(table) => {
                    session::register(ctx, pipeline, &file.name, Arc::new(table))?;
                    done.push(ViewStatus {
                        pipeline: pipeline.to_string(),
                        name: file.name.clone(),
                        unavailable: None,
                    });
                }
                Err(reason) => still.push((file, reason)),
            }
        }
        waiting = still;
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    done.extend(waiting.into_iter().map(|(file, reason)| ViewStatus {
        pipeline: pipeline.to_string(),
        name: file.name.clone(),
        unavailable: Some(reason),
    }));
    done.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(done)
}

async fn view(ctx: &SessionContext, pipeline: &str, file: &ViewFile) -> std::result::Result<ViewTable, String> {
    let place = Place::File(file.file.clone());
    let explain = |e| Failure::from(planning(&e, &file.sql, &place, &Names::default())).to_string();
    let query = single_query(&file.sql).map_err(&explain)?;
    let query = query.ok_or_else(|| format!("{}: a view is one SELECT", file.file))?;
    let schema = session::schema(ctx, pipeline).map_err(|f| f.to_string())?;
    let missing: Vec<String> = reads(&query)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|n| !n.contains('.') && !schema.table_exist(n))
        .collect();
    if !missing.is_empty() {
        return Err(format!("no table `{}`", missing.join("`, `")));
    }
    let mut state = ctx.state();
    state.config_mut().options_mut().catalog.default_schema = pipeline.to_string();
    let statement = Statement::Statement(Box::new(SqlStatement::Query(query)));
    let plan = state.statement_to_plan(statement).await.map_err(explain)?;
    Ok(ViewTable::new(plan, Some(file.sql.clone())))
}

/// The query of a view, if it is one.
pub fn query(file: &ViewFile) -> Option<Query> {
    single_query(&file.sql).ok().flatten().map(|query| *query)
}

fn single_query(sql: &str) -> std::result::Result<Option<Box<Query>>, datafusion::error::DataFusionError> {
    let mut parsed = statements(sql)?;
    Ok(match (parsed.pop(), parsed.is_empty()) {
        (Some(Statement::Statement(statement)), true) => match *statement {
            SqlStatement::Query(query) => Some(query),
            _ => None,
        },
        _ => None,
    })
}
