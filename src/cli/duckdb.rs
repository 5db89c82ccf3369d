//! `pipe ls --duckdb`: the published tables and the project's views as views of DuckDB.
//!
//! Promises: a view that is there gives the rows that `pipe sql` gives. Those that DuckDB cannot run, or would run with
//! another meaning, are named in a comment with the reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::sql;
use crate::diag::Result;
use crate::query::{duckdb, sql::quoted};
use crate::store::Published;

/// The script for these tables.
///
/// # Errors
/// Tables or views that cannot be read.
pub async fn script(root: Option<PathBuf>, project: &Path, tables: &[Published]) -> Result<String> {
    let mut pipelines: BTreeMap<&str, Vec<&Published>> = BTreeMap::new();
    for table in tables {
        pipelines.entry(&table.pipeline).or_default().push(table);
    }
    let engine = sql::engine(root, None).await?;
    let mut out = String::from(
        "-- The tables of pipe for DuckDB, as they are published: a new run changes what the views read.\n\
         -- Made by `pipe ls --duckdb`; make it again when stages or columns change.\n\
         CREATE OR REPLACE MACRO ms(ns) AS CAST(ns AS DOUBLE) / 1e6;\n\
         CREATE OR REPLACE MACRO s(ns) AS CAST(ns AS DOUBLE) / 1e9;\n",
    );
    for (pipeline, tables) in pipelines {
        out += &format!("\nCREATE SCHEMA IF NOT EXISTS {};\n", quoted(pipeline));
        for table in tables {
            let recipe = &table.manifest.recipe;
            out += &format!("-- made by `{}` version {}\n", recipe.kind, recipe.version);
            out += &duckdb::table(pipeline, &table.table, &table.dir.join("*.parquet"));
        }
        out += &duckdb::views(&engine, project, pipeline).await?;
    }
    Ok(out)
}
