//! `pipe ls` and `pipe show`.

use std::path::{Path, PathBuf};

use arrow::datatypes::Schema;
use clap::Args;
use serde_json::json;

use super::{
    Done, bytes, cores, duckdb, duration, facts, kv_plan, project, runtime, sql, table, thousands, trace_facts,
};
use crate::diag::{self, Diagnostic, Exit, Result};
use crate::query::errors::did_you_mean;
use crate::query::{output, views};
use crate::store::{Published, Store, TableHandle, TableManifest};
use crate::table::{DESCRIPTION, UNIT};

#[derive(Args, Debug)]
pub struct LsArgs {
    /// Only tables of this pipeline
    pipeline: Option<String>,
    /// One JSON object per table
    #[arg(long)]
    json: bool,
    /// Print SQL for DuckDB: a view per table, and the project's views as far as DuckDB has what they use
    ///
    ///   pipe ls --duckdb > views.sql && duckdb -init views.sql
    ///
    /// Where you name the files yourself, write `data/tables/sweep/sim/*.parquet`: tables are links, and DuckDB's `**` does
    /// not follow links.
    #[arg(long, conflicts_with = "json", verbatim_doc_comment)]
    duckdb: bool,
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// `<pipeline>.<table>`, or `<table>` where only one pipeline has it; or `gpu`, `model`, `prices`, `figures`
    table: String,
    /// Name of the GPU or model, or the path of a model's config.json
    name: Option<String>,
    /// Rows to preview
    #[arg(long, default_value_t = 5)]
    rows: usize,
    #[command(flatten)]
    on: facts::OnArgs,
}

/// The part of a manifest that is about a published table.
fn of(published: &Published) -> Option<&TableManifest> {
    published.manifest.tables.iter().find(|t| published.manifest.table_as(&published.stage, t) == published.table)
}

pub(super) fn ls(root: Option<PathBuf>, args: LsArgs) -> Done {
    let project = project(root.clone(), Path::new("."))?;
    let store = Store::open(&project)?;
    let known = store.pipelines();
    if let Some(name) = args.pipeline.as_ref().filter(|name| !known.is_empty() && !known.contains(name)) {
        let help = did_you_mean(name, &known, "pipelines");
        let problem = Diagnostic::new("cli::no_pipeline", format!("no pipeline `{name}` has tables")).help(help);
        return Err(diag::Failure::from(problem).into());
    }
    let wanted = |pipeline: &str| args.pipeline.as_deref().is_none_or(|p| p == pipeline);
    let all: Vec<Published> = store.published().into_iter().filter(|p| wanted(&p.pipeline)).collect();
    if args.duckdb {
        let script = runtime(cores())?.block_on(duckdb::script(root, &project, &all))?;
        put!("{script}");
        return Ok(Exit::Ok);
    }
    if args.json {
        for p in &all {
            let Some(t) = of(p) else { continue };
            say!(
                "{}",
                json!({
                    "pipeline": p.pipeline, "table": p.table, "stage": p.stage, "kind": p.manifest.recipe.kind,
                    "version": p.manifest.recipe.version, "rows": t.rows, "bytes": size(t), "hash": t.hash.0, "path": p.dir,
                    "finished_unix_s": p.manifest.finished_unix_s,
                })
            );
        }
        return Ok(Exit::Ok);
    }
    if all.is_empty() {
        say!("no tables yet: pipe run pipelines/sweep.yaml");
        return Ok(Exit::Ok);
    }
    put!("{}", listing(&all.iter().collect::<Vec<_>>()));
    for file in store.published_files().into_iter().filter(|f| wanted(&f.pipeline)) {
        say!("  {}", file.path.strip_prefix(&project).unwrap_or(&file.path).display());
    }
    let engine = runtime(cores())?.block_on(sql::engine(root, None))?;
    for view in engine.views().iter().filter(|v| wanted(&v.pipeline)) {
        match &view.unavailable {
            None => say!("  {}.{} (view)", view.pipeline, view.name),
            Some(why) => say!("  {}.{} (view, unavailable: {why})", view.pipeline, view.name),
        }
    }
    Ok(Exit::Ok)
}

/// Tables with kind, rows, size and age.
pub(super) fn listing(all: &[&Published]) -> String {
    let row = |p: &&Published| {
        let t = of(p)?;
        Some(vec![
            format!("{}.{}", p.pipeline, p.table),
            p.manifest.recipe.kind.clone(),
            thousands(t.rows),
            bytes(size(t)),
            ago(p.manifest.finished_unix_s),
        ])
    };
    let rows: Vec<Vec<String>> = all.iter().filter_map(row).collect();
    table(&["table", "kind", "rows", "size", "made"], &rows)
}

fn size(t: &TableManifest) -> u64 {
    t.parts.iter().map(|p| p.bytes).sum()
}

/// How long ago, roughly.
fn ago(unix_s: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    match now.saturating_sub(unix_s) {
        0..60 => "just now".to_string(),
        s @ 60..3_600 => format!("{} min ago", s / 60),
        s @ 3_600..86_400 => format!("{} h ago", s / 3_600),
        s => format!("{} days ago", s / 86_400),
    }
}

pub(super) fn show(root: Option<PathBuf>, args: ShowArgs) -> Done {
    let project = project(root.clone(), Path::new("."))?;
    let store = Store::open(&project)?;
    let all = store.published();
    // One word that is a table's name is the table.
    let is_table = args.name.is_none() && all.iter().any(|p| p.table == args.table);
    if !is_table && let Some(text) = facts::show(&project, &args.table, args.name.as_deref(), &args.on)? {
        put!("{text}");
        return Ok(Exit::Ok);
    }
    let found = find(&store, &all, &args.table)?;
    let handle = store.published_handle(found)?;
    put!("{}", describe(found, &handle));
    put!("\n{}", columns(&handle.schema));
    let caches = match found.manifest.recipe.kind.as_str() {
        "simulate" => {
            let pools = kv_plan::table_of_pools(&found.table);
            let tables = all.iter().filter(|p| p.pipeline == found.pipeline && pools.contains(&p.table));
            tables
                .filter_map(|p| Some((p, store.published_handle(p).ok()?)))
                .find_map(|(p, handle)| kv_plan::query(&p.pipeline, &p.table, &handle.schema))
        }
        _ => None,
    };
    let is_trace = trace_facts::is_trace(&handle.schema);
    if caches.is_none() && !is_trace && args.rows == 0 {
        return Ok(Exit::Ok);
    }
    runtime(cores())?.block_on(async {
        let engine = sql::engine(root, None).await?;
        if let Some(query) = caches {
            let lines = kv_plan::lines(&engine.rows(&query).await?);
            put!("{}", lines.iter().map(|line| format!("\n{line}")).collect::<String>());
            say!();
        }
        if is_trace && handle.rows > 0 {
            say!();
            for line in trace_facts::lines(&engine, &found.pipeline, &found.table, handle.rows).await? {
                say!("{line}");
            }
        }
        if args.rows > 0 {
            say!();
            let query = format!("SELECT * FROM \"{}\".\"{}\" LIMIT {}", found.pipeline, found.table, args.rows);
            output::write(engine.sql(&query).await?, output::Format::Table, std::io::stdout()).await?;
        }
        Ok::<(), diag::Failure>(())
    })?;
    Ok(Exit::Ok)
}

/// The published table that is called so.
///
/// # Errors
/// There is none, or there are several; it is a view.
pub(super) fn find<'a>(store: &Store, all: &'a [Published], name: &str) -> Result<&'a Published> {
    let matching: Vec<&Published> = match name.split_once('.') {
        Some((pipeline, table)) => all.iter().filter(|p| p.pipeline == pipeline && p.table == table).collect(),
        None => all.iter().filter(|p| p.table == name).collect(),
    };
    match matching.as_slice() {
        [one] => Ok(one),
        [] if is_view(store, all, name) => {
            let help = format!("ask for its rows: `pipe sql \"SELECT * FROM {name}\"`, with -o FILE as a file");
            Err(Diagnostic::new("cli::view", format!("`{name}` is a view, not a table")).help(help).into())
        }
        [] => {
            let full: Vec<String> = all.iter().map(|p| format!("{}.{}", p.pipeline, p.table)).collect();
            let names = all.iter().map(|p| p.table.as_str()).chain(full.iter().map(String::as_str));
            let help = match diag::nearest(name, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`pipe ls` lists the tables; tables are made by `pipe run`".to_string(),
            };
            Err(Diagnostic::new("cli::no_table", format!("there is no table `{name}`")).help(help).into())
        }
        several => {
            let names: Vec<String> = several.iter().map(|p| format!("{}.{}", p.pipeline, p.table)).collect();
            Err(Diagnostic::new("cli::ambiguous", format!("several pipelines have a table `{name}`"))
                .help(format!("name one: {}", names.join(", ")))
                .into())
        }
    }
}

/// Whether a name is that of a view, of a pipeline or of any.
fn is_view(store: &Store, all: &[Published], name: &str) -> bool {
    let (pipeline, view) = name.split_once('.').map_or((None, name), |(pipeline, view)| (Some(pipeline), view));
    let is_there = pipeline.is_none_or(|pipeline| all.iter().any(|p| p.pipeline == pipeline));
    is_there && views::files(store.project()).is_ok_and(|files| files.iter().any(|file| file.name == view))
}

/// What a table is and where it comes from.
pub(super) fn describe(p: &Published, handle: &TableHandle) -> String {
    let recipe = &p.manifest.recipe;
    let mut out = format!("{}.{}: {} rows", p.pipeline, p.table, thousands(handle.rows));
    if let Some(t) = of(p) {
        out += &format!(", {} in {} part(s), content {}\n", bytes(size(t)), t.parts.len(), t.hash.short());
    }
    out += &format!("  parts    {}\n", p.dir.display());
    out += &format!(
        "  made by  stage `{}` ({} version {}), {}, in {}, pipe {}\n",
        p.stage,
        recipe.kind,
        recipe.version,
        ago(p.manifest.finished_unix_s),
        duration(p.manifest.millis),
        p.manifest.pipe_version,
    );
    for (name, hash) in &recipe.inputs {
        out += &format!("  from     table `{name}` ({})\n", hash.short());
    }
    for (file, hash) in &recipe.files {
        out += &format!("  from     file {file} ({})\n", hash.short());
    }
    out
}

/// Columns with type, unit and description.
pub(super) fn columns(schema: &Schema) -> String {
    let rows: Vec<Vec<String>> = schema
        .fields()
        .iter()
        .map(|f| {
            let meta = |key: &str| f.metadata().get(key).cloned().unwrap_or_default();
            let kind = format!("{}{}", f.data_type(), if f.is_nullable() { ", nullable" } else { "" });
            vec![f.name().clone(), kind, meta(UNIT), meta(DESCRIPTION)]
        })
        .collect();
    table(&["column", "type", "unit", ""], &rows)
}
