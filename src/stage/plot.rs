//! `plot`: a chart of the rows of a query, as SVG and PNG, with the rows as a table beside it.
//!
//! The query obeys the rules of `sql` stages. Its result is the stage's table; the pictures show the columns `x`, `y`
//! and `series` of it. NULL is not drawn; text on the horizontal axis makes a slot per value, in the order of the rows.

pub(super) mod figure;
mod ready;

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use indexmap::{IndexMap, IndexSet};
use serde_json::{Value, json};

use super::sql::ENGINE;
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Exit, Failure, Result, io};
use crate::query::columns::type_name;
use crate::query::errors::{Place, did_you_mean};
use crate::query::execute::{Sink, execute};
use crate::query::plan::{self, Made};
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::query::sql::{Makes, Script};
use crate::report::{self, Chart, ChartKind, Rule, Series, pretty};
use crate::spec::{Figures, Plot, PlotKind, PlotRule, PlotTheme, Text};
use crate::store::TableWriter;

/// Pixels that a picture may have on each side.
const SIDES: std::ops::RangeInclusive<u32> = 100..=8000;

impl Plot {
    /// The statements; those of a ready-made figure ask for the columns of tables, where they are known.
    fn script(&self, known: &dyn Fn(&str) -> Option<SchemaRef>) -> Result<Script> {
        let text = self.query.as_ref().map(|q| q.value.as_str()).unwrap_or_default();
        let place = Place::Within(self.place());
        let (Some(figure), Some(of)) = (&self.figure, &self.of) else {
            return Script::parse(text, place).map_err(Failure::usage);
        };
        let text = ready::complete(text, &of.value, known).map_err(|why| {
            let message = format!("the figure `{}` cannot show `{}`: {why}", figure.value, of.value);
            Diagnostic::new("figure::columns", message).at(figure.at.clone())
        })?;
        Script::parse(&text, place).map_err(Failure::usage)
    }

    /// What is wrong with the stage that a figure is to show; any table of SQL may have the right columns.
    fn stage_problem(&self, cx: &CheckCx) -> Option<Diagnostic> {
        let (figure, of) = (self.figure.as_ref()?, self.of.as_ref()?);
        let ready = Figures::near(cx.project).find(&figure.value).ok()??;
        let stage = cx.stages.iter().find(|s| s.name.value == of.value)?;
        let kind = super::of(&stage.spec).kind();
        let fits = kind == "sql" || ready.kinds.iter().any(|k| k == kind);
        let message = || {
            let wanted = ready.kinds.join(" or ");
            format!("the figure `{}` shows a {wanted} stage, and `{}` is a {kind}", figure.value, of.value)
        };
        (!fits).then(|| Diagnostic::new("figure::of", message()).at(of.at.clone()))
    }

    fn planned(&self, cx: &CheckCx) -> Result<(Script, Vec<Made>, Vec<Diagnostic>)> {
        let script = self.script(&|name| cx.tables.get(name)?.schema.clone())?;
        let tables: BTreeMap<_, _> = cx.tables.iter().map(|(name, t)| (name.clone(), t.schema.clone())).collect();
        let (made, problems) = plan::check(&script, &tables);
        Ok((script, made, problems))
    }

    /// Where a problem with the whole is shown.
    fn place(&self) -> Option<crate::diag::Span> {
        let texts = [&self.figure, &self.query, &self.x];
        texts.into_iter().flatten().find_map(|text| text.at.clone())
    }

    /// The column on the vertical axis, if this kind of chart has one.
    fn height_column(&self) -> Option<&Text> {
        self.y.as_ref().filter(|_| !is_distribution(self.kind))
    }

    /// The column of the colours, if this kind of chart has one.
    fn value_column(&self) -> Option<&Text> {
        self.z.as_ref().filter(|_| self.kind == PlotKind::Heat)
    }

    /// What is wrong with the settings, whatever the query yields.
    fn setting_problems(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        match (self.kind, &self.y) {
            (PlotKind::Cdf | PlotKind::Histogram, Some(y)) => problems.push(
                Diagnostic::new("plot::y", format!("`y` has no meaning for `kind: {}`", kind_name(self.kind)))
                    .at(y.at.clone())
                    .help("leave it out: a distribution shows how many rows have which `x`"),
            ),
            (
                PlotKind::Line
                | PlotKind::Scatter
                | PlotKind::Bar
                | PlotKind::Step
                | PlotKind::Area
                | PlotKind::Box
                | PlotKind::Heat | PlotKind::Span | PlotKind::Parallel,
                None,
            ) => problems.push(
                Diagnostic::new("plot::y", format!("`y` is missing for `kind: {}`", kind_name(self.kind)))
                    .at(self.place())
                    .help("add `y: <column>`, or choose `kind: cdf` for the distribution of `x`"),
            ),
            (PlotKind::Cdf | PlotKind::Histogram, None)
            | (
                PlotKind::Line
                | PlotKind::Scatter
                | PlotKind::Bar
                | PlotKind::Step
                | PlotKind::Area
                | PlotKind::Box
                | PlotKind::Heat | PlotKind::Span | PlotKind::Parallel,
                Some(_),
            ) => {}
        }
        let slotted = matches!(self.kind, PlotKind::Bar | PlotKind::Box | PlotKind::Heat);
        let no_y_log = matches!(self.kind, PlotKind::Heat | PlotKind::Area);
        for (key, wrong, why) in [
            ("x_log", slotted && self.x_log, "its places stand side by side"),
            ("y_log", no_y_log && self.y_log, "its heights are sums, or places side by side"),
        ] {
            if wrong {
                let message = format!("`{key}` has no meaning for `kind: {}`", kind_name(self.kind));
                problems.push(
                    Diagnostic::new("plot::log", message)
                        .at(self.place())
                        .help(format!("{why}; leave it out, or choose another kind")),
                );
            }
        }
        match (self.kind, &self.z) {
            (PlotKind::Heat, None) => problems.push(
                Diagnostic::new("plot::z", "`z` is missing for `kind: heat`")
                    .at(self.place())
                    .help("add `z: <column>`: the value that colours the cell of `x` and `y`"),
            ),
            (PlotKind::Heat, Some(_)) | (_, None) => {}
            (_, Some(z)) => problems.push(
                Diagnostic::new("plot::z", format!("`z` has no meaning for `kind: {}`", kind_name(self.kind)))
                    .at(z.at.clone())
                    .help("leave it out: it colours the cells of `kind: heat`"),
            ),
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let one = rule.x.is_some() != rule.y.is_some();
            let finite = rule.x.into_iter().chain(rule.y).all(f64::is_finite);
            if !one || !finite {
                problems.push(
                    Diagnostic::new("plot::rules", format!("`rules[{i}]` is no line: expected a number `x` or `y`"))
                        .at(self.place())
                        .help("such as `rules: [{ y: 500, label: objective }]`"),
                );
            }
        }
        if self.bins == 0 || self.bins > 10_000 {
            problems.push(
                Diagnostic::new("plot::bins", format!("`bins` is {}", self.bins))
                    .at(self.place())
                    .help("choose 1 to 10000"),
            );
        }
        for (name, pixels) in [("width", self.width), ("height", self.height.unwrap_or(600))] {
            if !SIDES.contains(&pixels) {
                problems.push(
                    Diagnostic::new("plot::size", format!("`{name}` is {pixels} pixels"))
                        .at(self.place())
                        .help(format!("choose {} to {} pixels", SIDES.start(), SIDES.end())),
                );
            }
        }
        problems
    }

    /// What is wrong with the columns that are to be drawn.
    fn column_problems(&self, schema: &Schema) -> Vec<Diagnostic> {
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut problems = Vec::new();
        let mut check = |axis: &str, column: &Text, fits: &dyn Fn(&DataType) -> bool, wants: &str| {
            let problem = |message: String| Diagnostic::new("plot::column", message).at(column.at.clone());
            let name = &column.value;
            match schema.field_with_name(name) {
                Err(_) => problems.push(
                    problem(format!("the query has no column `{name}`, which is to be `{axis}`"))
                        .help(did_you_mean(name, &names, "columns")),
                ),
                Ok(field) if !fits(field.data_type()) => problems.push(
                    problem(format!("`{axis}` is the column `{name}` of type {}", type_name(field.data_type())))
                        .help(format!("{wants}; CAST it in the query, or choose another column")),
                ),
                Ok(_) => {}
            }
        };
        let nothing = Text::new(String::new(), None);
        let x = self.x.as_ref().unwrap_or(&nothing);
        match (self.kind, self.x_log) {
            (PlotKind::Cdf | PlotKind::Histogram, _) => {
                check("x", x, &is_number, "a distribution is one of numbers");
            }
            (_, true) => check("x", x, &is_number, "a logarithmic axis shows numbers"),
            (_, false) => check("x", x, &is_plain, "an axis shows numbers or names"),
        }
        match (self.kind, self.height_column()) {
            (PlotKind::Heat, Some(y)) => check("y", y, &is_plain, "an axis shows numbers or names"),
            (_, Some(y)) => check("y", y, &is_number, "a vertical axis shows numbers"),
            (_, None) => {}
        }
        if let Some(z) = self.value_column() {
            check("z", z, &is_number, "colours are of numbers");
        }
        if let Some(series) = &self.series {
            check("series", series, &is_plain, "series are named by plain values");
        }
        problems
    }

    /// What is under the picture: what it shows of which content, so that a picture that went astray finds home. Not the
    /// name of the pipeline: the same rows are the same picture.
    fn caption_of(&self, cx: &RunCx) -> String {
        if let Some(caption) = &self.caption {
            return caption.clone();
        }
        let from: Vec<String> =
            cx.inputs.iter().map(|(name, handle)| format!("{name} {}", handle.hash.short())).collect();
        if from.is_empty() { String::new() } else { format!("{}: of {}", cx.stage, from.join(", ")) }
    }

    /// The chart of the rows of the query, which a stage has not drawn.
    ///
    /// # Errors
    /// The rows lack a column that is to be drawn.
    fn chart_of(&self, schema: Option<&SchemaRef>, batches: &[RecordBatch]) -> Result<Chart> {
        let diagnostics = schema.map(|s| self.column_problems(s)).unwrap_or_default();
        if !diagnostics.is_empty() {
            return Err(Failure { exit: Exit::Stage, diagnostics });
        }
        let mut drawn = Gathered::default();
        for batch in batches {
            drawn.add(self, batch).map_err(|e| Failure::stage("plot::rows", e.to_string()))?;
        }
        let caption = drawn.note.clone().unwrap_or_default();
        Ok(drawn.into_chart(Chart { caption, ..self.frame() }))
    }

    /// The chart without its data.
    fn frame(&self) -> Chart {
        let label = |given: &Option<String>, column: Option<&Text>, otherwise: &str| match (given, column) {
            (Some(label), _) => label.clone(),
            (None, Some(column)) => pretty(&column.value),
            (None, None) => otherwise.to_string(),
        };
        Chart {
            kind: match self.kind {
                PlotKind::Line => ChartKind::Line,
                PlotKind::Scatter => ChartKind::Scatter,
                PlotKind::Bar => ChartKind::Bar,
                PlotKind::Cdf => ChartKind::Cdf,
                PlotKind::Step => ChartKind::Step,
                PlotKind::Area => ChartKind::Area,
                PlotKind::Histogram => ChartKind::Histogram,
                PlotKind::Box => ChartKind::Box,
                PlotKind::Heat => ChartKind::Heat,
                PlotKind::Parallel | PlotKind::Span => ChartKind::Line,
            },
            title: self.title.clone().unwrap_or_default(),
            x_label: label(&self.x_label, self.x.as_ref(), ""),
            y_label: match self.kind {
                PlotKind::Histogram => label(&self.y_label, None, "Rows"),
                _ => label(&self.y_label, self.height_column(), "Fraction of rows"),
            },
            x_log: self.x_log,
            y_log: self.y_log,
            width: self.width,
            height: self.height.unwrap_or(600),
            legend: self.value_column().or(self.series.as_ref()).map(|s| pretty(&s.value)).unwrap_or_default(),
            rules: self.rules.iter().map(rule).collect(),
            bins: self.bins as usize,
            ..Chart::default()
        }
    }
}

/// Whether only `x` matters.
fn is_distribution(kind: PlotKind) -> bool {
    matches!(kind, PlotKind::Cdf | PlotKind::Histogram)
}

fn rule(rule: &PlotRule) -> Rule {
    let value = rule.x.or(rule.y).unwrap_or(f64::NAN);
    Rule { value, label: rule.label.clone(), upright: rule.x.is_some() }
}

fn kind_name(kind: PlotKind) -> &'static str {
    match kind {
        PlotKind::Line => "line",
        PlotKind::Scatter => "scatter",
        PlotKind::Bar => "bar",
        PlotKind::Cdf => "cdf",
        PlotKind::Step => "step",
        PlotKind::Area => "area",
        PlotKind::Histogram => "histogram",
        PlotKind::Box => "box",
        PlotKind::Heat => "heat",
        PlotKind::Parallel => "parallel",
        PlotKind::Span => "span",
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_numeric()
}

/// Numbers, and what has a short text.
fn is_plain(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => is_plain(value),
        other => {
            !other.is_nested() && !matches!(other, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
        }
    }
}

#[async_trait]
impl Kind for Plot {
    fn kind(&self) -> &'static str {
        "plot"
    }

    fn version(&self) -> u32 {
        2
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        let mut read = self.script(&|_| None)?.references();
        if let Some(figure) = &self.figure {
            read.iter_mut().for_each(|table| table.at.clone_from(&figure.at));
        }
        Ok(read)
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        let schema = self.planned(cx).ok().and_then(|(_, made, _)| made.last().and_then(|m| m.schema.clone()));
        vec![TableShape { name: stage.to_string(), schema }]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        if let Some(problem) = self.stage_problem(cx) {
            return vec![problem];
        }
        let mut problems = self.setting_problems();
        let (script, made, wrong) = match self.planned(cx) {
            Ok(planned) => planned,
            Err(failure) => {
                problems.extend(failure.diagnostics);
                return problems;
            }
        };
        problems.extend(wrong);
        problems.extend(script.lint(false));
        for step in script.steps.iter().filter(|s| matches!(s.makes, Makes::Table(_))) {
            let problem = script.problem("plot::table", "a plot stores one table: its own", step.at);
            problems.push(problem.help("use CREATE VIEW or WITH, or make the table in a `sql` stage"));
        }
        if let Some(schema) = made.last().and_then(|m| m.schema.as_ref()) {
            problems.extend(self.column_problems(schema));
        }
        problems
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        let Plot { query: _, with: _, figure, of, note, kind, x, y, z, series, title, x_label, y_label, x_log, y_log, .. } = self;
        let Plot { rules, bins, theme, caption, width, height, .. } = self;
        json!({
            "engine": ENGINE,
            "statements": self.script(&|name| cx.tables.get(name)?.schema.clone()).map(|s| s.normalised()).unwrap_or_default(),
            "kind": kind,
            "x": x.as_ref().map(|x| &x.value),
            "y": y.as_ref().map(|y| &y.value),
            "z": z.as_ref().map(|z| &z.value),
            "series": series.as_ref().map(|s| &s.value),
            "title": title,
            "x_label": x_label,
            "y_label": y_label,
            "x_log": x_log,
            "y_log": y_log,
            "rules": rules,
            "bins": bins,
            "theme": theme,
            "caption": caption,
            "figure": figure.as_ref().map(|f| &f.value),
            "of": of.as_ref().map(|f| &f.value),
            "note": note.as_ref().map(|n| &n.value),
            "width": width,
            "height": height,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let script = self.script(&|name| cx.inputs.get(name).map(|t| t.schema.clone()))?;
        let ctx = session::context(&SessionOptions::threads(cx.pool.current_num_threads()))?;
        for (name, handle) in &cx.inputs {
            session::register(&ctx, SCHEMA, name, session::provider(handle)?)?;
        }
        let mut rows = Rows { cx: &cx, plot: self, writer: None, drawn: Gathered::default() };
        execute(&ctx, &script, &mut rows, &cx.cancel).await?;
        let said = [rows.drawn.note.clone().unwrap_or_default(), self.caption_of(&cx)];
        let caption = said.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join(" · ");
        let chart = rows.drawn.into_chart(Chart { caption, ..self.frame() });
        let themes: &[(bool, &str)] = match self.theme {
            PlotTheme::Light => &[(false, "")],
            PlotTheme::Dark => &[(true, "")],
            PlotTheme::Both => &[(false, ""), (true, ".dark")],
        };
        for (dark, suffix) in themes {
            let name = |ending: &str| cx.out.file(&format!("{}{suffix}.{ending}", cx.stage));
            let (svg, png, chart) = (name("svg")?, name("png")?, Chart { dark: *dark, ..chart.clone() });
            cx.cancel.check()?;
            tokio::task::spawn_blocking(move || draw(&chart, &svg, &png))
                .await
                .map_err(|e| Failure::stage("plot::draw", format!("cannot draw the chart: {e}")))??;
        }
        Ok(Outcome::default())
    }
}

fn draw(chart: &Chart, svg: &Path, png: &Path) -> Result<()> {
    std::fs::write(svg, report::svg(chart)?).map_err(|e| io(svg, "write", &e))?;
    report::png(chart, png)
}

/// Stores the result, and keeps what is drawn of it.
struct Rows<'a> {
    cx: &'a RunCx,
    plot: &'a Plot,
    writer: Option<TableWriter>,
    drawn: Gathered,
}

impl Sink for Rows<'_> {
    fn begin(&mut self, makes: &Makes, schema: &SchemaRef) -> Result<()> {
        if *makes == Makes::Result {
            // Known before the run only where the schemas of all inputs were.
            let diagnostics = self.plot.column_problems(schema);
            if !diagnostics.is_empty() {
                return Err(Failure { exit: Exit::Stage, diagnostics });
            }
            self.writer = Some(self.cx.out.table(&self.cx.stage, schema.clone())?);
        }
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        self.cx.progress.0.advance(batch.num_rows() as u64);
        writer.write(batch)?;
        self.drawn.add(self.plot, batch).map_err(|e| Failure::stage("plot::rows", e.to_string()))
    }

    fn end(&mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), TableWriter::finish)
    }
}

/// The points of the rows so far.
#[derive(Default)]
struct Gathered {
    /// By the text of the series column, in the order in which they come.
    series: IndexMap<String, Vec<(f64, f64)>>,
    /// Values of z, along with the points.
    values: IndexMap<String, Vec<f64>>,
    /// Values of x that are not numbers.
    names: IndexSet<String>,
    /// x is a column of names.
    named: bool,
    /// The same of y.
    rows: IndexSet<String>,
    rows_named: bool,
    /// What the rows say under the picture.
    note: Option<String>,
}

impl Gathered {
    fn add(&mut self, plot: &Plot, batch: &RecordBatch) -> std::result::Result<(), ArrowError> {
        let column = |name: &Text| {
            let missing = || ArrowError::SchemaError(format!("the query has no column `{}`", name.value));
            batch.column_by_name(&name.value).ok_or_else(missing)
        };
        if let (Some(note), None) = (&plot.note, &self.note) {
            let notes = column(note)?;
            let first = (0..notes.len()).find(|row| notes.is_valid(*row));
            self.note = first.map(|row| texts(&notes.slice(row, 1))).transpose()?.and_then(|mut texts| texts.pop());
        }
        let x = column(plot.x.as_ref().unwrap_or(&Text::new(String::new(), None)))?;
        self.named = !is_number(x.data_type());
        let xs = if self.named { slots(&mut self.names, x)? } else { numbers(x)? };
        let ys = match plot.height_column() {
            Some(y) => {
                let y = column(y)?;
                self.rows_named = !is_number(y.data_type());
                if self.rows_named { slots(&mut self.rows, y)? } else { numbers(y)? }
            }
            None => vec![0.0; batch.num_rows()],
        };
        let names = match &plot.series {
            Some(series) => texts(column(series)?)?,
            None => vec![String::new(); batch.num_rows()],
        };
        if let Some(z) = plot.value_column() {
            for (name, z) in names.iter().zip(numbers(column(z)?)?) {
                self.values.entry(name.clone()).or_default().push(z);
            }
        }
        for ((name, x), y) in names.into_iter().zip(xs).zip(ys) {
            self.series.entry(name).or_default().push((x, y));
        }
        Ok(())
    }

    fn into_chart(self, frame: Chart) -> Chart {
        let Gathered { series, mut values, names, named, rows, rows_named: _, note: _ } = self;
        let of = |(name, points): (String, Vec<(f64, f64)>)| {
            let values = values.swap_remove(&name).unwrap_or_default();
            Series { name, points, values }
        };
        Chart {
            series: series.into_iter().map(of).collect(),
            categories: named.then(|| names.into_iter().collect()),
            rows: rows.into_iter().collect(),
            ..frame
        }
    }
}

/// The index of each value among the distinct ones.
fn slots(names: &mut IndexSet<String>, column: &ArrayRef) -> std::result::Result<Vec<f64>, ArrowError> {
    Ok(texts(column)?.into_iter().map(|name| names.insert_full(name).0 as f64).collect())
}

/// A column as numbers; NULL is NaN.
fn numbers(column: &ArrayRef) -> std::result::Result<Vec<f64>, ArrowError> {
    let cast = cast(column, &DataType::Float64)?;
    Ok(cast.as_primitive::<Float64Type>().iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}

/// A column as people read it.
fn texts(column: &ArrayRef) -> std::result::Result<Vec<String>, ArrowError> {
    let options = FormatOptions::default().with_null("NULL");
    let format = ArrayFormatter::try_new(column.as_ref(), &options)?;
    (0..column.len()).map(|i| format.value(i).try_to_string()).collect()
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
