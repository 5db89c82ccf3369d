//! `pipe report`: what a pipeline found, as one HTML file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::Args;
use serde_json::Value;

use super::figures::{Choice, Chosen, SVG_MAX, image};
use super::{Done, cores, duration, folder, output, pipeline_file, project, runtime, sql, thousands};
use crate::diag::{self, Diagnostic, Exit, Failure, Result, Sources, nearest};
use crate::report::{Page, PageFigure, PageStage, PageTable};
use crate::spec;
use crate::store::{Published, RunRecord, RunStatus, StageAction, Store};
use crate::table::UNIT;

#[derive(Args, Debug)]
pub struct ReportArgs {
    /// The pipeline: its file, or its name
    pipeline: String,
    /// The file to write; `-` for standard output. Default: data/reports/<pipeline>.html
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Ready-made figures beside those of plot stages: `auto` (the usual questions), `stages` (none), `all`, or NAME,...
    /// (`pipe show figures`)
    #[arg(long, default_value = "auto", value_name = "WHICH")]
    figures: Choice,
    /// Rows of a table at most
    #[arg(long, default_value_t = ROWS)]
    rows: usize,
}

/// Rows of a table.
const ROWS: usize = 200;
/// Kinds of stages whose tables are results to look at; those of others are the way there.
const RESULTS: [&str; 9] =
    ["sql", "slo", "search", "optimize", "calibrate", "compare", "fidelity", "simulate", "export"];

pub(super) fn report(root: Option<PathBuf>, args: ReportArgs) -> Done {
    let file = Path::new(&args.pipeline);
    let near = if file.is_file() { folder(file) } else { Path::new(".") };
    let project = project(root.clone(), near)?;
    let store = Store::open(&project)?;
    let mut page = Page::default();
    let name = if file.is_file() { read(file, &mut page)? } else { args.pipeline.clone() };
    let known = store.pipelines();
    if !known.contains(&name) {
        let written = if file.is_file() { Some(file.to_path_buf()) } else { pipeline_file(&store, &name) };
        let help = match (written, nearest(&name, known.iter().map(String::as_str))) {
            (Some(file), _) => {
                let shown = file.strip_prefix(store.project()).unwrap_or(&file);
                format!("run it first: pipe run {}", shown.display())
            }
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => crate::query::errors::did_you_mean(&name, &known, "pipelines with results"),
        };
        let problem = Diagnostic::new("report::nothing", format!("pipeline `{name}` has no results")).help(help);
        return Err(Failure::from(problem).into());
    }
    page.pipeline.clone_from(&name);
    gather(&mut page, &store, (&args.pipeline, file), args.figures, args.rows)?;
    let out = match args.output {
        Some(out) => out,
        None => {
            let dir = project.join("data/reports");
            std::fs::create_dir_all(&dir).map_err(|e| diag::io(&dir, "make", &e))?;
            dir.join(format!("{name}.html"))
        }
    };
    let html = page.html();
    output::write(&out, html.as_bytes())?;
    if output::is_stdout(&out) {
        return Ok(Exit::Ok);
    }
    let shown = std::env::current_dir().ok().and_then(|here| Some(out.strip_prefix(here).ok()?.to_path_buf()));
    let (figures, size) = (page.figures.len(), super::bytes(html.len() as u64));
    say!("{}: {figures} figures, {} tables, {size}", shown.as_ref().unwrap_or(&out).display(), page.tables.len());
    Ok(Exit::Ok)
}

/// The HTML of a pipeline that has results, for `pipe serve`.
///
/// # Errors
/// Its tables or figures cannot be read.
pub(super) fn page(store: &Store, name: &str) -> Result<String> {
    let mut page = Page { pipeline: name.to_string(), ..Page::default() };
    gather(&mut page, store, (name, Path::new("")), Choice::Auto, ROWS)?;
    Ok(page.html())
}

/// Everything that a page tells but the pipeline's name and file. `asked` is how it was asked for, and the file that this
/// is, if it is one.
fn gather(page: &mut Page, store: &Store, asked: (&str, &Path), choice: Choice, most: usize) -> Result<()> {
    let name = page.pipeline.clone();
    let tables: Vec<Published> = store.published().into_iter().filter(|p| p.pipeline == name).collect();
    let runs = store.runs();
    let run = runs.iter().find(|r| r.pipeline == name && ended_well(r.status));
    about_the_run(page, run, asked.0, asked.1);
    stages(page, &tables, run);
    figures(page, store, &name, &tables)?;
    let runtime = runtime(cores())?;
    let project = store.project();
    let chosen = Chosen {
        store,
        project,
        tables: &tables,
        stages: page.stages.iter().map(|s| (s.name.clone(), s.kind.clone())).collect(),
        choice,
        bytes: page.figures.iter().map(|f| f.picture.len()).sum(),
    };
    let (ready, notes) = runtime.block_on(chosen.draw())?;
    page.figures.extend(ready);
    page.notes = notes;
    runtime.block_on(rows(page, Some(project.to_path_buf()), &name, &tables, most))
}

fn ended_well(status: RunStatus) -> bool {
    matches!(status, RunStatus::Finished | RunStatus::Violated)
}

/// Name and description of the pipeline in a file, which goes into the report as it stands.
fn read(file: &Path, page: &mut Page) -> std::result::Result<String, super::Reported> {
    let mut sources = Sources::default();
    let (pipeline, problems) = spec::load_mended(file, &[], &mut sources);
    let Some(pipeline) = pipeline else {
        return Err(super::Reported { failure: Failure::usage(problems), sources });
    };
    page.yaml = std::fs::read_to_string(file).ok();
    let lines = page.yaml.iter().flat_map(|text| text.lines());
    let description = lines.filter_map(|line| line.strip_prefix("description:")).next().unwrap_or_default();
    page.description = description.trim().trim_matches(['"', '\'']).to_string();
    Ok(pipeline.name)
}

fn about_the_run(page: &mut Page, run: Option<&RunRecord>, asked: &str, file: &Path) {
    let file = if file.is_file() { asked.to_string() } else { run.map_or(String::new(), |r| r.file.clone()) };
    page.command = format!("pipe run {file}");
    let Some(run) = run else { return };
    page.made =
        format!("Run {}, finished {}, pipe {}", run.id, run.finished.as_deref().unwrap_or("not yet"), run.pipe_version);
    if run.args.len() > 1 {
        let args: Vec<String> =
            run.args[1..].iter().map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() }).collect();
        page.command = format!("pipe {}", args.join(" "));
    }
    if page.yaml.is_none() {
        page.yaml = std::fs::read_to_string(&run.file).ok();
    }
    page.inputs = run.inputs.iter().map(|i| (i.file.clone(), i.hash.0.clone())).collect();
}

/// The stages in the order of the last run, with their answers.
fn stages(page: &mut Page, tables: &[Published], run: Option<&RunRecord>) {
    let mut manifests = BTreeMap::new();
    for table in tables {
        manifests.entry(table.stage.as_str()).or_insert(&table.manifest);
    }
    let mut order: Vec<&str> = run.iter().flat_map(|r| &r.stages).map(|s| s.name.as_str()).collect();
    order.retain(|name| manifests.contains_key(name));
    order.extend(manifests.keys().filter(|name| !order.contains(name)).copied().collect::<Vec<_>>());
    let maker = |table: &str| tables.iter().find(|p| p.table == table).map(|p| p.stage.as_str());
    for (place, name) in order.iter().enumerate() {
        let manifest = manifests[name];
        let record = run.and_then(|r| r.stages.iter().find(|s| s.name == *name));
        let reads = manifest.recipe.inputs.keys().filter_map(|table| maker(table));
        let mut reads: Vec<usize> =
            reads.filter_map(|stage| order.iter().position(|o| *o == stage)).filter(|at| *at < place).collect();
        reads.sort_unstable();
        reads.dedup();
        let action = match record.map(|r| r.action) {
            Some(StageAction::Ran) => "ran",
            Some(StageAction::Cached) => "cached",
            Some(StageAction::Failed) => "failed",
            Some(StageAction::Skipped) | None => "earlier",
            Some(StageAction::Interrupted) => "interrupted",
        };
        page.stages.push(PageStage {
            name: name.to_string(),
            kind: manifest.recipe.kind.clone(),
            action: action.to_string(),
            time: duration(manifest.millis),
            rows: thousands(manifest.rows()),
            fingerprint: manifest.fingerprint.short().to_string(),
            reads,
        });
        if !manifest.answer.is_empty() {
            page.answers.push((name.to_string(), manifest.answer.clone()));
        }
        page.violated.extend(manifest.violated.clone());
    }
    // The last stages answer what the first ones prepare.
    page.answers.reverse();
}

fn figures(page: &mut Page, store: &Store, name: &str, tables: &[Published]) -> Result<()> {
    let files = store.published_files();
    for published in tables.iter().filter(|p| p.manifest.recipe.kind == "plot") {
        let of = |ending: &str| {
            let wanted = format!("{}.{ending}", published.stage);
            files.iter().find(|f| f.pipeline == name && f.file == wanted).map(|f| f.path.clone())
        };
        let read = |path: &Path| std::fs::read(path).map_err(|e| diag::io(path, "read", &e));
        let svg = of("svg").map(|path| read(&path)).transpose()?.filter(|svg| svg.len() <= SVG_MAX);
        let picture = match (svg, of("png")) {
            (Some(svg), _) => {
                let svg = String::from_utf8_lossy(&svg).into_owned();
                svg[svg.find("<svg").unwrap_or(0)..].to_string()
            }
            (None, Some(png)) => image(&read(&png)?),
            (None, None) => continue,
        };
        let config = &published.manifest.recipe.config;
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let statements = config.get("statements").and_then(Value::as_array);
        let sql: Vec<&str> = statements.into_iter().flatten().filter_map(Value::as_str).collect();
        let title = Some(text("title")).filter(|t| !t.is_empty()).unwrap_or_else(|| published.stage.clone());
        let (id, stage) = (published.stage.clone(), published.stage.clone());
        page.figures.push(PageFigure { id, stage, title, about: String::new(), picture, sql: sql.join(";\n") });
    }
    let place = |stage: &str| page.stages.iter().position(|s| s.name == stage);
    let mut figures = std::mem::take(&mut page.figures);
    figures.sort_by_key(|f| place(&f.stage));
    page.figures = figures;
    Ok(())
}

/// The first rows of the main tables of stages that find something.
async fn rows(page: &mut Page, root: Option<PathBuf>, name: &str, tables: &[Published], most: usize) -> Result<()> {
    let engine = sql::engine(root, None).await?;
    let mut shown: Vec<&Published> =
        tables.iter().filter(|p| RESULTS.contains(&p.manifest.recipe.kind.as_str()) && p.table == p.stage).collect();
    let place = |stage: &str| page.stages.iter().position(|s| s.name == stage);
    // Results last made come first.
    shown.sort_by_key(|p| std::cmp::Reverse(place(&p.stage)));
    for published in shown {
        let query = format!("SELECT * FROM \"{name}\".\"{}\" LIMIT {most}", published.table);
        let found = engine.rows(&query).await?;
        let rows_total = published.manifest.rows();
        page.tables.push(table(&published.table, rows_total, &found, query)?);
    }
    Ok(())
}

fn table(name: &str, rows_total: u64, found: &[RecordBatch], sql: String) -> Result<PageTable> {
    let wrong = |e: arrow::error::ArrowError| Failure::stage("report::table", e.to_string());
    let mut table = PageTable { name: name.to_string(), rows_total, sql, ..PageTable::default() };
    let Some(first) = found.first() else { return Ok(table) };
    let schema = first.schema();
    // Columns without any value say nothing.
    let filled = |i: &usize| found.iter().any(|rows| rows.column(*i).null_count() < rows.num_rows());
    let kept: Vec<usize> = (0..schema.fields().len()).filter(filled).collect();
    for &i in &kept {
        let field = schema.field(i);
        let unit = field.metadata().get(UNIT).cloned().unwrap_or_default();
        table.columns.push((field.name().clone(), unit, field.data_type().is_numeric()));
    }
    let options = FormatOptions::default();
    for rows in found {
        let mut cells: Vec<Vec<(String, Option<f64>)>> = vec![Vec::new(); rows.num_rows()];
        for &i in &kept {
            let column = rows.column(i);
            let format = ArrayFormatter::try_new(column.as_ref(), &options).map_err(wrong)?;
            let numbers = column.data_type().is_numeric().then(|| cast(column, &DataType::Float64)).transpose();
            let numbers = numbers.map_err(wrong)?;
            for (row, cells) in cells.iter_mut().enumerate() {
                let value = numbers.as_ref().and_then(|n| {
                    let n = n.as_primitive::<Float64Type>();
                    n.is_valid(row).then(|| n.value(row))
                });
                let text = match value {
                    Some(value) if column.data_type().is_floating() => rounded(value),
                    _ => format.value(row).try_to_string().map_err(wrong)?,
                };
                cells.push((text, value));
            }
        }
        table.rows.extend(cells);
    }
    Ok(table)
}

/// Six digits at most.
fn rounded(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return value.to_string();
    }
    let places = (5 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [(1.0, "1"), (0.123456789, "0.123457"), (123456.789, "123457"), (1e-9, "0.000000001"), (0.0, "0")];
        for (value, text) in cases {
            assert_eq!(rounded(value), text);
        }
    }
}
