//! A ready-made figure of tables that are there: for reports, which have no stage that draws it.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::context::SessionContext;

use super::ready::{Known, settings};
use crate::diag::{Failure, Result};
use crate::query::errors::{Place, running};
use crate::query::execute::{Sink, execute};
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::query::sql::{Makes, Script};
use crate::report::Chart;
use crate::spec::{Plot, Ready};
use crate::stage::Cancel;
use crate::store::TableHandle;

/// A figure that is ready to be drawn.
pub struct Drawable {
    pub chart: Chart,
    /// The query, as it ran.
    pub sql: String,
    /// Rows of its result.
    pub rows: usize,
    /// Distinct values on the horizontal axis; rows where there is none.
    pub places: usize,
}

/// Runs the query of a figure for the stage `of` over `tables`, with the defaults of its parameters; `searched` is what a
/// search looks for the value of.
///
/// # Errors
/// A wrong file of the project; the tables lack what the figure shows, or the query fails.
pub async fn drawable(
    ready: &Ready,
    of: &str,
    tables: &BTreeMap<String, TableHandle>,
    searched: Option<&str>,
    threads: usize,
) -> Result<Drawable> {
    let plot = ready.plot(of, &[]).map_err(Failure::usage)?;
    let ctx = session::context(&SessionOptions::threads(threads))?;
    for (name, handle) in tables {
        session::register(&ctx, SCHEMA, name, session::provider(handle)?)?;
    }
    let known = |name: &str| tables.get(name).map(|t| t.schema.clone());
    let varied = match known(of) {
        Some(schema) => Some(varied(&ctx, of, &schema).await?),
        None => None,
    };
    let plot = plot.completed(&Known { table: &known, varied: varied.as_deref(), searched })?;
    let sql = plot.query.as_ref().map(|q| q.value.clone()).unwrap_or_default();
    let script = Script::parse(&sql, Place::File(ready.file.clone())).map_err(Failure::usage)?;
    let mut result = Collected::default();
    execute(&ctx, &script, &mut result, &Cancel::default()).await?;
    let rows = result.batches.iter().map(RecordBatch::num_rows).sum();
    let places = places(&plot, &result.batches)?.unwrap_or(rows);
    let chart = plot.chart_of(result.schema.as_ref(), &result.batches)?;
    Ok(Drawable { chart, sql, rows, places })
}

/// The settings that differ between the rows of a table.
async fn varied(ctx: &SessionContext, table: &str, schema: &Schema) -> Result<Vec<String>> {
    let names: Vec<&str> = settings(schema, "").into_iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let text = |name: &&str| format!("coalesce(CAST(\"{name}\" AS VARCHAR), '')");
    let differs = |name: &&str| format!("coalesce(min({0}) <> max({0}), false) AS \"{name}\"", text(name));
    let sql = format!("SELECT {} FROM \"{table}\"", names.iter().map(differs).collect::<Vec<_>>().join(", "));
    let frame = ctx.sql(&sql).await.map_err(|e| running(&e))?;
    let rows = frame.collect().await.map_err(|e| running(&e))?;
    let differs = |name: &&str| {
        rows.iter().any(|batch| {
            let column = batch.column_by_name(name).and_then(|c| c.as_boolean_opt());
            column.is_some_and(|column| column.iter().any(|value| value == Some(true)))
        })
    };
    let mut found = Vec::new();
    for name in &names {
        if differs(name) {
            found.push((*name).to_string());
        }
    }
    Ok(found)
}

/// How many values the horizontal axis has.
fn places(plot: &Plot, batches: &[RecordBatch]) -> Result<Option<usize>> {
    let Some(x) = &plot.x else { return Ok(None) };
    let wrong = |e: arrow::error::ArrowError| Failure::stage("figure::rows", e.to_string());
    let mut seen = BTreeSet::new();
    for batch in batches {
        let Some(column) = batch.column_by_name(&x.value) else { continue };
        let options = FormatOptions::default();
        let format = ArrayFormatter::try_new(column.as_ref(), &options).map_err(wrong)?;
        for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
            seen.insert(format.value(row).try_to_string().map_err(wrong)?);
        }
    }
    Ok(Some(seen.len()))
}

/// The rows of the last statement.
#[derive(Default)]
struct Collected {
    last: bool,
    schema: Option<SchemaRef>,
    batches: Vec<RecordBatch>,
}

impl Sink for Collected {
    fn begin(&mut self, makes: &Makes, schema: &SchemaRef) -> Result<()> {
        self.last = *makes == Makes::Result;
        self.schema = Some(schema.clone());
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.last {
            self.batches.push(batch.clone());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "figure_tests.rs"]
mod tests;
