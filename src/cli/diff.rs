//! `pipe diff`: two runs, or two tables: what was set otherwise, and which rows differ.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::Args;

use super::{Done, cores, history, project, runtime, table, tables, thousands};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::plan::differences;
use crate::query::Engine;
use crate::query::sql::quoted;
use crate::store::{Manifest, Published, RunRecord, Store, TableHandle};

#[derive(Args, Debug)]
pub struct DiffArgs {
    /// A run (the beginning of its name will do; `latest`), or a table
    a: String,
    /// Another of the same kind
    b: String,
    /// Columns that say which row is which. Default: scenario and request, scenario, request, trial or step, whatever is
    /// there and different in every row
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,...")]
    key: Vec<String>,
    /// Numbers differ by more than this share of the larger one: 0.01 is 1 %, and from 2 on none differ
    #[arg(long, default_value_t = 1e-9, value_name = "SHARE")]
    tolerance: f64,
    /// Rows to show of a table
    #[arg(long, default_value_t = 5)]
    rows: usize,
    /// Exit with 1 if something differs
    #[arg(long)]
    exit_code: bool,
}

/// Keys that are tried, in this order.
const KEYS: [&[&str]; 6] = [
    &["scenario_id", "request_id"],
    &["scenario_id"],
    &["request_id"],
    &["trial"],
    &["scenario_id", "pool", "replica", "step"],
    &["metric"],
];

pub(super) fn diff(root: Option<PathBuf>, args: DiffArgs) -> Done {
    let project = project(root, Path::new("."))?;
    let store = Store::open(&project)?;
    let runs = store.runs();
    let as_runs = history::find(&runs, &args.a).ok().zip(history::find(&runs, &args.b).ok());
    let differ = match as_runs {
        Some((a, b)) => of_runs(&project, &store, a, b, &args)?,
        None => {
            let all = store.published();
            let (a, b) = found(&store, &runs, &all, [&args.a, &args.b])?;
            let settings = differences(&b.manifest.recipe, &a.manifest.recipe);
            let (a, b) = (store.published_handle(a)?, store.published_handle(b)?);
            let rows = of_tables(&project, a, b, &args)?;
            say!("settings of {} and {}: {}", args.a, args.b, listed(&settings));
            put!("{}", rows.text);
            rows.differ || !settings.is_empty()
        }
    };
    Ok(if differ && args.exit_code { Exit::Stage } else { Exit::Ok })
}

/// The two tables.
///
/// # Errors
/// They are not two tables, nor, as is known already, two runs; in the words of what each of them could be.
fn found<'a>(
    store: &Store,
    runs: &[RunRecord],
    all: &'a [Published],
    names: [&str; 2],
) -> Result<(&'a Published, &'a Published)> {
    let [a, b] = names.map(|name| tables::find(store, all, name));
    if let (Ok(a), Ok(b)) = (&a, &b) {
        return Ok((*a, *b));
    }
    for (name, table) in names.into_iter().zip([a, b]) {
        let (Err(no_table), Err(no_run)) = (table, history::find(runs, name)) else { continue };
        let is = |failure: &Failure, code: &str| failure.diagnostics.iter().any(|d| d.code == code);
        if is(&no_run, "cli::ambiguous") {
            return Err(no_run);
        }
        if !is(&no_table, "cli::no_table") {
            return Err(no_table);
        }
        let help = no_table.diagnostics.into_iter().find_map(|d| d.help).unwrap_or_default();
        let what = format!("there is neither a run nor a table `{name}`");
        return Err(Diagnostic::new("cli::no_table", what)
            .help(format!("{help}; `pipe history` lists the runs"))
            .into());
    }
    let what = format!("of `{}` and `{}`, one is a run and the other a table", names[0], names[1]);
    Err(Diagnostic::new("diff::kinds", what).help("compare two runs, or two tables").into())
}

fn listed(reasons: &[String]) -> String {
    if reasons.is_empty() { "the same".to_string() } else { reasons.join(", ") }
}

/// Two runs, stage by stage. Says whether anything differs.
fn of_runs(project: &Path, store: &Store, a: &RunRecord, b: &RunRecord, args: &DiffArgs) -> Result<bool> {
    let mut differ = false;
    for stage in &a.stages {
        let Some(other) = b.stages.iter().find(|s| s.name == stage.name) else {
            say!("{}: only in {}", stage.name, a.id);
            differ = true;
            continue;
        };
        let (Some(one), Some(two)) = (&stage.fingerprint, &other.fingerprint) else {
            say!("{}: not finished in one of them", stage.name);
            differ = true;
            continue;
        };
        if one == two {
            say!("{}: the same", stage.name);
            continue;
        }
        differ = true;
        match (store.get(one), store.get(two)) {
            (Some(one), Some(two)) => {
                say!("{}: {}", stage.name, listed(&differences(&two.recipe, &one.recipe)));
                of_manifests(project, store, &stage.name, (&one, &two), args)?;
            }
            _ => say!("{}: settings or inputs differ; a result is no longer in the store", stage.name),
        }
    }
    for stage in b.stages.iter().filter(|s| !a.stages.iter().any(|other| other.name == s.name)) {
        say!("{}: only in {}", stage.name, b.id);
        differ = true;
    }
    Ok(differ)
}

fn of_manifests(
    project: &Path,
    store: &Store,
    stage: &str,
    (one, two): (&Manifest, &Manifest),
    args: &DiffArgs,
) -> Result<()> {
    for table in &one.tables {
        let name = one.table_as(stage, table);
        let Some(other) = two.tables.iter().find(|t| two.table_as(stage, t) == name) else {
            say!("  {name}: only in the first");
            continue;
        };
        if other.hash == table.hash {
            say!("  {name}: the same rows");
            continue;
        }
        let (a, b) = (store.handle_as(one, stage, &name)?, store.handle_as(two, stage, &name)?);
        match of_tables(project, a, b, args) {
            Ok(rows) => put!("{}", rows.text.lines().map(|line| format!("  {line}\n")).collect::<String>()),
            // A table without a key is not compared, the others are.
            Err(failure) => say!("  {name}: {failure}"),
        }
    }
    Ok(())
}

/// What was found of two tables.
struct Rows {
    text: String,
    differ: bool,
}

fn of_tables(project: &Path, a: TableHandle, b: TableHandle, args: &DiffArgs) -> Result<Rows> {
    let (name, schemas) = (a.name.clone(), (a.schema.clone(), b.schema.clone()));
    if a.hash == b.hash {
        return Ok(Rows { text: format!("{name}: the same {} rows\n", thousands(a.rows)), differ: false });
    }
    let (rows_a, rows_b) = (a.rows, b.rows);
    let renamed = |handle: TableHandle| TableHandle { name: "t".to_string(), ..handle };
    runtime(cores())?.block_on(async {
        let tables = vec![("a".to_string(), renamed(a)), ("b".to_string(), renamed(b))];
        let engine = Engine::open(project, tables, None, cores()).await?;
        let key = key(&engine, &schemas, &args.key).await?;
        let mut text =
            format!("{name}: {} and {} rows, by {}\n", thousands(rows_a), thousands(rows_b), key.join(", "),);
        let has = |schema: &Schema, name: &str| schema.field_with_name(name).is_ok();
        for (mine, other, which) in [(&schemas.0, &schemas.1, "first"), (&schemas.1, &schemas.0, "second")] {
            let only: Vec<&str> =
                mine.fields().iter().map(|f| f.name().as_str()).filter(|name| !has(other, name)).collect();
            if !only.is_empty() {
                text += &format!("  columns only in the {which}: {}\n", only.join(", "));
            }
        }
        let columns: Vec<Column> = schemas
            .0
            .fields()
            .iter()
            .filter(|f| !key.contains(f.name()))
            .filter_map(|f| {
                Some(Column::of(f.name(), f.data_type(), schemas.1.field_with_name(f.name()).ok()?.data_type()))
            })
            .collect();
        text += &report(&engine, &key, &columns, args).await?;
        Ok::<Rows, Failure>(Rows { text, differ: true })
    })
}

/// A column of both tables.
struct Column {
    name: String,
    number: bool,
    nested: bool,
}

impl Column {
    fn of(name: &str, a: &DataType, b: &DataType) -> Column {
        let nested = a.is_nested() || b.is_nested() || (a != b && !(a.is_numeric() && b.is_numeric()));
        Column { name: name.to_string(), number: a.is_numeric() && b.is_numeric(), nested }
    }

    /// SQL that is true where the two rows differ.
    fn differs(&self, tolerance: f64) -> String {
        let name = quoted(&self.name);
        if self.number {
            let (a, b) = (format!("CAST(a.{name} AS DOUBLE)"), format!("CAST(b.{name} AS DOUBLE)"));
            let near = format!("abs({a} - {b}) <= {tolerance:e} * greatest(abs({a}), abs({b}))");
            return format!("((a.{name} IS DISTINCT FROM b.{name}) AND NOT coalesce({near}, false))");
        }
        if self.nested {
            return format!("(CAST(a.{name} AS VARCHAR) IS DISTINCT FROM CAST(b.{name} AS VARCHAR))");
        }
        format!("(a.{name} IS DISTINCT FROM b.{name})")
    }

    /// How far apart two numbers are, as a share of the larger.
    fn apart(&self) -> String {
        let name = quoted(&self.name);
        let (a, b) = (format!("CAST(a.{name} AS DOUBLE)"), format!("CAST(b.{name} AS DOUBLE)"));
        format!("abs({a} - {b}) / nullif(greatest(abs({a}), abs({b})), 0)")
    }
}

/// The columns that name a row.
async fn key(
    engine: &Engine,
    schemas: &(arrow::datatypes::SchemaRef, arrow::datatypes::SchemaRef),
    given: &[String],
) -> Result<Vec<String>> {
    let both = |name: &str| schemas.0.field_with_name(name).is_ok() && schemas.1.field_with_name(name).is_ok();
    let candidates: Vec<Vec<String>> = match given {
        [] => KEYS.iter().map(|key| key.iter().map(|c| c.to_string()).collect()).collect(),
        given => vec![given.to_vec()],
    };
    if let Some(missing) = given.iter().find(|name| !both(name)) {
        let names: Vec<&str> = schemas.0.fields().iter().map(|f| f.name().as_str()).collect();
        return Err(Diagnostic::new("diff::key", format!("not both tables have a column `{missing}`"))
            .help(format!("the first has {}", names.join(", ")))
            .into());
    }
    for key in candidates.into_iter().filter(|key| key.iter().all(|name| both(name))) {
        let columns: Vec<String> = key.iter().map(|c| quoted(c)).collect();
        let of = |side: &str| {
            let columns = columns.join(", ");
            format!("SELECT count(*) AS n FROM (SELECT 1 FROM {side}.t GROUP BY {columns} HAVING count(*) > 1)")
        };
        let mut twice = 0.0;
        for side in ["a", "b"] {
            twice += number(&engine.rows(&of(side)).await?, "n").unwrap_or(0.0);
        }
        if twice == 0.0 {
            return Ok(key);
        }
    }
    let what = if given.is_empty() { "no columns are known to name a row" } else { "several rows have the same key" };
    let names: Vec<&str> = schemas.0.fields().iter().map(|f| f.name().as_str()).filter(|name| both(name)).collect();
    let help = format!("name the columns that tell rows apart, --key COLUMN,...; both have {}", names.join(", "));
    Err(Diagnostic::new("diff::key", what).help(help).into())
}

async fn report(engine: &Engine, key: &[String], columns: &[Column], args: &DiffArgs) -> Result<String> {
    let on = key.iter().map(|c| format!("a.{0} = b.{0}", quoted(c))).collect::<Vec<_>>().join(" AND ");
    let mut text = String::new();
    for (from, to, which) in [("a", "b", "first"), ("b", "a", "second")] {
        let query = format!("SELECT count(*) AS n FROM {from}.t a LEFT ANTI JOIN {to}.t b ON {on}");
        let only = number(&engine.rows(&query).await?, "n").unwrap_or(0.0);
        if only > 0.0 {
            text += &format!("  rows only in the {which}: {}\n", thousands(only as u64));
        }
    }
    let mut counts = Vec::new();
    for (i, column) in columns.iter().enumerate() {
        counts.push(format!("count(*) FILTER (WHERE {}) AS n{i}", column.differs(args.tolerance)));
        if column.number {
            counts.push(format!("max({}) AS d{i}", column.apart()));
        }
    }
    if counts.is_empty() {
        return Ok(text + "  no columns to compare\n");
    }
    let found = engine.rows(&format!("SELECT {} FROM a.t a JOIN b.t b ON {on}", counts.join(", "))).await?;
    let differing: Vec<(&Column, u64, Option<f64>)> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| (c, number(&found, &format!("n{i}")).unwrap_or(0.0) as u64, number(&found, &format!("d{i}"))))
        .filter(|(_, n, _)| *n > 0)
        .collect();
    if differing.is_empty() {
        return Ok(text + "  no value differs by more than the tolerance\n");
    }
    let rows: Vec<Vec<String>> = differing
        .iter()
        .map(|(c, n, apart)| {
            let most = apart.map_or(String::new(), |share| format!("{:.3} %", 100.0 * share));
            vec![c.name.clone(), thousands(*n), most]
        })
        .collect();
    text += &table(&["column", "rows differ", "at most"], &rows);
    if args.rows == 0 {
        return Ok(text);
    }
    let any = differing.iter().map(|(c, ..)| c.differs(args.tolerance)).collect::<Vec<_>>().join(" OR ");
    let order = key.iter().map(|c| format!("a.{}", quoted(c))).collect::<Vec<_>>().join(", ");
    let shown: Vec<String> = key
        .iter()
        .map(|c| format!("a.{0} AS {0}", quoted(c)))
        .chain(differing.iter().take(6).flat_map(|(c, ..)| {
            let name = quoted(&c.name);
            [
                format!("a.{name} AS {}", quoted(&format!("{} (1)", c.name))),
                format!("b.{name} AS {}", quoted(&format!("{} (2)", c.name))),
            ]
        }))
        .collect();
    let query = format!(
        "SELECT {} FROM a.t a JOIN b.t b ON {on} WHERE {any} ORDER BY {order} LIMIT {}",
        shown.join(", "),
        args.rows,
    );
    text += &cells(&engine.rows(&query).await?)?;
    Ok(text)
}

/// The first value of a column, as a number.
fn number(rows: &[RecordBatch], name: &str) -> Option<f64> {
    let rows = rows.iter().find(|rows| rows.num_rows() > 0)?;
    let column = cast(rows.column_by_name(name)?, &DataType::Float64).ok()?;
    let column = column.as_primitive::<Float64Type>();
    column.is_valid(0).then(|| column.value(0))
}

/// Rows as aligned text.
fn cells(rows: &[RecordBatch]) -> Result<String> {
    let wrong = |e: arrow::error::ArrowError| Failure::stage("diff::rows", e.to_string());
    let Some(first) = rows.first() else { return Ok(String::new()) };
    let schema = first.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for rows in rows {
        let columns = rows.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>().map_err(wrong)?;
        for i in 0..rows.num_rows() {
            let line = columns.iter().map(|c| c.value(i).try_to_string()).collect::<std::result::Result<Vec<_>, _>>();
            lines.push(line.map_err(wrong)?);
        }
    }
    Ok(table(&names, &lines))
}
