//! `sql`: tables made by SQL over other tables.
//!
//! The last SELECT is the stage's table; `CREATE TABLE x AS` before it is stored as `<stage>_x`. Rows come in the
//! order of the ORDER BY that every stored result must have; rows that are equal in its keys are ordered by all columns
//! of the result, from the first to the last, so that the same inputs always give the same files.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Exit, Failure, Result, io};
use crate::query::columns::{type_name, type_named, type_names};
use crate::query::errors::{Place, did_you_mean};
use crate::query::execute::{Sink, execute};
use crate::query::plan::{self, Made};
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::query::sql::{Makes, Script};
use crate::spec::{Sql, Text};
use crate::store::{Staging, TableWriter};

/// Part of every recipe: another engine may round another way.
pub(super) const ENGINE: &str = "datafusion-55";

impl Sql {
    /// The statements and where they stand.
    fn script(&self) -> Result<Script> {
        match (&self.query, &self.file) {
            (Some(query), None) => Script::parse(&query.value, Place::Within(query.at.clone())).map_err(Failure::usage),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(&file.path).map_err(|e| {
                    let failure = Failure { exit: Exit::Usage, ..io(&file.path, "read", &e) };
                    failure.or_at(file.at.as_ref())
                })?;
                Script::parse(&text, Place::File(file.written.as_str().into())).map_err(Failure::usage)
            }
            (Some(query), Some(_)) => Err(Diagnostic::new("sql::source", "both `query` and `file` are given")
                .at(query.at.clone())
                .help("keep one of them")
                .into()),
            (None, None) => Err(Diagnostic::new("sql::source", "neither `query` nor `file` is given")
                .help("write `sql: \"SELECT ...\"` or `sql: { file: queries/....sql }`")
                .into()),
        }
    }

    fn planned(&self, cx: &CheckCx) -> Result<(Script, Vec<Made>, Vec<Diagnostic>)> {
        let script = self.script()?;
        let tables: BTreeMap<_, _> = cx.tables.iter().map(|(name, t)| (name.clone(), t.schema.clone())).collect();
        let (made, problems) = plan::check(&script, &tables);
        Ok((script, made, problems))
    }
}

/// The name under which a result is stored; `None` for views.
fn table_name(stage: &str, makes: &Makes) -> Option<String> {
    match makes {
        Makes::Table(name) => Some(format!("{stage}_{name}")),
        Makes::Result => Some(stage.to_string()),
        Makes::View(_) => None,
    }
}

#[async_trait]
impl Kind for Sql {
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(self.script()?.references())
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        let Ok((_, made, _)) = self.planned(cx) else { return Vec::new() };
        let mut shapes: Vec<TableShape> = made
            .into_iter()
            .filter_map(|m| Some(TableShape { name: table_name(stage, &m.makes)?, schema: m.schema }))
            .collect();
        // The main table is the last statement and is shown first.
        if let Some(main) = shapes.pop() {
            shapes.insert(0, main);
        }
        shapes
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let (script, made, mut problems) = match self.planned(cx) {
            Ok(planned) => planned,
            Err(failure) => return failure.diagnostics,
        };
        problems.extend(script.lint(self.allow_approx));
        if let Some(wanted) = &self.schema {
            let result = made.last().and_then(|m| m.schema.as_ref());
            problems.extend(schema_problems(wanted, result, &script));
        }
        problems
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Sql { query: _, file: _, schema, allow_approx } = self;
        let statements = self.script().map(|s| s.normalised()).unwrap_or_default();
        json!({ "engine": ENGINE, "statements": statements, "schema": schema, "allow_approx": allow_approx })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let script = self.script()?;
        let ctx = session::context(&SessionOptions::threads(cx.pool.current_num_threads()))?;
        for (name, handle) in &cx.inputs {
            session::register(&ctx, SCHEMA, name, session::provider(handle)?)?;
        }
        let mut tables =
            Tables { cx: &cx, out: cx.out.clone(), writer: None, script: &script, wanted: self.schema.as_ref() };
        execute(&ctx, &script, &mut tables, &cx.cancel).await?;
        Ok(Outcome::default())
    }
}

/// Writes each result into its table.
struct Tables<'a> {
    cx: &'a RunCx,
    out: Staging,
    writer: Option<TableWriter>,
    script: &'a Script,
    wanted: Option<&'a IndexMap<String, String>>,
}

impl Sink for Tables<'_> {
    fn begin(&mut self, makes: &Makes, schema: &SchemaRef) -> Result<()> {
        if let (Makes::Result, Some(wanted)) = (makes, self.wanted) {
            let diagnostics = schema_problems(wanted, Some(schema), self.script);
            if !diagnostics.is_empty() {
                return Err(Failure { exit: Exit::Stage, diagnostics });
            }
        }
        if let Some(name) = table_name(&self.cx.stage, makes) {
            self.writer = Some(self.out.table(&name, schema.clone())?);
        }
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.cx.progress.0.advance(batch.num_rows() as u64);
        self.writer.as_mut().map_or(Ok(()), |w| w.write(batch))
    }

    fn end(&mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), TableWriter::finish)
    }
}

/// Where the result is not as the stage's `schema:` says. Nothing if the result is not known yet.
fn schema_problems(wanted: &IndexMap<String, String>, result: Option<&SchemaRef>, script: &Script) -> Vec<Diagnostic> {
    let problem = |message: String, help: String| Diagnostic::new("sql::schema", message).at(script.start()).help(help);
    let mut problems = Vec::new();
    for (name, kind) in wanted {
        if type_named(kind).is_none() {
            let help = did_you_mean(kind, &type_names(), "types");
            problems.push(problem(format!("`{kind}`, for column `{name}`, is not a type"), help));
        }
    }
    let Some(result) = result else { return problems };
    for (name, kind) in wanted {
        let Ok(field) = result.field_with_name(name) else {
            let columns: Vec<String> = result.fields().iter().map(|f| f.name().clone()).collect();
            let help = did_you_mean(name, &columns, "columns");
            problems.push(problem(format!("the result has no column `{name}`"), help));
            continue;
        };
        if type_named(kind).is_some_and(|t| t != *field.data_type()) {
            let is = type_name(field.data_type());
            problems.push(problem(
                format!("column `{name}` is {is}, and `schema` says {kind}"),
                format!("write `CAST(... AS {kind}) AS {name}` in the query, or `{name}: {is}` in `schema`"),
            ));
        }
    }
    let names = result.fields().iter().map(|f| f.name().as_str());
    let more: Vec<&str> = names.filter(|n| !wanted.contains_key(*n)).collect();
    if !more.is_empty() {
        let what = format!("the result has columns that `schema` has not: {}", more.join(", "));
        problems.push(problem(what, "add them to `schema`, or do not select them".to_string()));
    }
    if problems.is_empty() && !same_order(wanted, result) {
        let order: Vec<&str> = wanted.keys().map(String::as_str).collect();
        let what = "the columns of the result are in another order than `schema` says".to_string();
        problems.push(problem(what, format!("select them as {}", order.join(", "))));
    }
    problems
}

fn same_order(wanted: &IndexMap<String, String>, result: &Schema) -> bool {
    wanted.keys().eq(result.fields().iter().map(|f| f.name()))
}

#[cfg(test)]
mod tests;
