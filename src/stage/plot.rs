//! `plot`: a chart of the rows of a query, as SVG and PNG, with the rows as a table beside it.
//!
//! The query obeys the rules of `sql` stages. Its result is the stage's table; the pictures show the columns of it that
//! the settings name. NULL is not drawn; text on an axis makes a slot per value, in the order of the rows.

mod check;
pub(super) mod figure;
mod gather;
mod ready;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::check::is_distribution;
use self::gather::Gathered;
use super::sql::ENGINE;
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Exit, Failure, Result, io};
use crate::query::errors::Place;
use crate::query::execute::{Sink, execute};
use crate::query::plan::{self, Made};
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::query::sql::{Makes, Script};
use crate::report::{self, Chart, ChartKind, Limits, Rule, pretty};
use crate::spec::{Figures, Plot, PlotKind, PlotRule, PlotTheme, Text};
use crate::store::TableWriter;

impl Plot {
    /// The statements; those of a ready-made figure ask for the columns of tables, where they are known.
    fn script(&self, known: &dyn Fn(&str) -> Option<SchemaRef>) -> Result<Script> {
        let text = self.query.as_ref().map(|q| q.value.as_str()).unwrap_or_default();
        let (Some(figure), Some(of)) = (&self.figure, &self.of) else {
            let place = Place::Within(self.query.as_ref().and_then(|q| q.at.clone()));
            return Script::parse(text, place).map_err(Failure::usage);
        };
        let text = ready::complete(text, &of.value, known).map_err(|why| {
            let message = format!("the figure `{}` cannot show `{}`: {why}", figure.value, of.value);
            Diagnostic::new("figure::columns", message).at(figure.at.clone())
        })?;
        Script::parse(&text, Place::Within(figure.at.clone())).map_err(Failure::usage)
    }

    /// What is wrong with the stage that a figure is to show; any table of SQL may have the right columns.
    fn stage_problem(&self, cx: &CheckCx) -> Option<Diagnostic> {
        let (figure, of) = (self.figure.as_ref()?, self.of.as_ref()?);
        let ready = Figures::near(cx.project).find(&figure.value).ok()??;
        let stage = cx.stages.iter().find(|s| s.name.value == of.value)?;
        let kind = super::of(&stage.spec).kind();
        if kind == "sql" || ready.kinds.iter().any(|k| k == kind) {
            return None;
        }
        let (name, wanted) = (&figure.value, ready.kinds.join(" or "));
        let message = format!("the figure `{name}` shows a {wanted} stage, and `{}` is a {kind}", of.value);
        Some(Diagnostic::new("figure::of", message).at(of.at.clone()))
    }

    fn planned(&self, cx: &CheckCx) -> Result<(Script, Vec<Made>, Vec<Diagnostic>)> {
        let script = self.script(&|name| cx.tables.get(name)?.schema.clone())?;
        let tables: BTreeMap<_, _> = cx.tables.iter().map(|(name, t)| (name.clone(), t.schema.clone())).collect();
        let (made, problems) = plan::check(&script, &tables);
        Ok((script, made, problems))
    }

    /// The column on the horizontal axis, if this kind of chart has one.
    fn x_column(&self) -> Option<&Text> {
        self.x.as_ref().filter(|_| self.kind != PlotKind::Parallel)
    }

    /// The column on the vertical axis, if this kind of chart has one.
    fn height_column(&self) -> Option<&Text> {
        self.y.as_ref().filter(|_| !is_distribution(self.kind) && self.kind != PlotKind::Parallel)
    }

    /// The column of the colours, if this kind of chart has one.
    fn value_column(&self) -> Option<&Text> {
        self.z.as_ref().filter(|_| matches!(self.kind, PlotKind::Heat | PlotKind::Parallel))
    }

    /// The column where bars end, if this kind of chart has one.
    fn end_column(&self) -> Option<&Text> {
        self.x_end.as_ref().filter(|_| self.kind == PlotKind::Span)
    }

    /// The column beside the points, if this kind of chart has one.
    fn label_column(&self) -> Option<&Text> {
        self.labels.as_ref().filter(|_| self.kind == PlotKind::Scatter)
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

    /// With all axes of `parallel`: what the query yields, less what has another role.
    fn with_axes(&self, schema: &Schema) -> Cow<'_, Plot> {
        if self.kind != PlotKind::Parallel || !self.columns.is_empty() {
            return Cow::Borrowed(self);
        }
        let roles = [&self.z, &self.series, &self.facet, &self.note];
        let taken = |name: &str| roles.into_iter().flatten().any(|column| column.value == name);
        let names = schema.fields().iter().map(|f| f.name()).filter(|name| !taken(name));
        let columns = names.take(*check::AXES.end()).map(|name| Text::new(name.clone(), None)).collect();
        Cow::Owned(Plot { columns, ..self.clone() })
    }

    /// The chart of rows that are not a stage's.
    ///
    /// # Errors
    /// They lack a column that is to be drawn.
    fn chart_of(&self, schema: Option<&SchemaRef>, batches: &[RecordBatch]) -> Result<Chart> {
        let plot = schema.map_or(Cow::Borrowed(self), |schema| self.with_axes(schema));
        let diagnostics = schema.map(|schema| plot.column_problems(schema)).unwrap_or_default();
        if !diagnostics.is_empty() {
            return Err(Failure { exit: Exit::Stage, diagnostics });
        }
        let mut drawn = Gathered::default();
        batches.iter().try_for_each(|batch| drawn.add(&plot, batch))?;
        let caption = drawn.note.clone().unwrap_or_default();
        Ok(plot.chart(drawn, caption))
    }

    /// The chart of what was gathered.
    fn chart(&self, drawn: Gathered, caption: String) -> Chart {
        let chart = drawn.into_chart(self, Chart { caption, ..self.frame() });
        Chart { height: self.height.unwrap_or_else(|| chart.natural_height()), ..chart }
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
                PlotKind::Parallel => ChartKind::Parallel,
                PlotKind::Span => ChartKind::Span,
            },
            title: self.title.clone().unwrap_or_default(),
            x_label: label(&self.x_label, self.x_column(), ""),
            y_label: match self.kind {
                PlotKind::Histogram => label(&self.y_label, None, "Rows"),
                PlotKind::Cdf => label(&self.y_label, None, "Fraction of rows"),
                _ => label(&self.y_label, self.height_column(), ""),
            },
            x_log: self.x_log,
            y_log: self.y_log,
            x_limits: Limits { low: self.x_min, high: self.x_max },
            y_limits: Limits { low: self.y_min, high: self.y_max },
            facet_label: self.facet.as_ref().map(|f| pretty(&f.value)).unwrap_or_default(),
            facet_columns: self.facet_columns.unwrap_or(0) as usize,
            width: self.width,
            legend: self.value_column().or(self.series.as_ref()).map(|s| pretty(&s.value)).unwrap_or_default(),
            rules: self.rules.iter().map(rule).collect(),
            bins: self.bins as usize,
            ..Chart::default()
        }
    }
}

fn rule(rule: &PlotRule) -> Rule {
    let value = rule.x.or(rule.y).unwrap_or(f64::NAN);
    Rule { value, label: rule.label.clone(), upright: rule.x.is_some() }
}

#[async_trait]
impl Kind for Plot {
    fn kind(&self) -> &'static str {
        "plot"
    }

    fn version(&self) -> u32 {
        3
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
            problems.extend(self.with_axes(schema).column_problems(schema));
        }
        problems
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        let Plot { query: _, with: _, figure, of, note, kind, x, x_end, y, z, columns, series, .. } = self;
        let Plot { facet, facet_columns, labels, .. } = self;
        let Plot { title, x_label, y_label, x_log, y_log, x_min, x_max, y_min, y_max, .. } = self;
        let Plot { rules, bins, theme, caption, width, height, .. } = self;
        let name = |column: &Option<Text>| column.as_ref().map(|c| c.value.clone());
        json!({
            "engine": ENGINE,
            "statements": self.script(&|name| cx.tables.get(name)?.schema.clone()).map(|s| s.normalised()).unwrap_or_default(),
            "kind": kind,
            "x": name(x),
            "x_end": name(x_end),
            "y": name(y),
            "z": name(z),
            "columns": columns.iter().map(|c| &c.value).collect::<Vec<_>>(),
            "series": name(series),
            "facet": name(facet),
            "facet_columns": facet_columns,
            "labels": name(labels),
            "title": title,
            "x_label": x_label,
            "y_label": y_label,
            "x_log": x_log,
            "y_log": y_log,
            "limits": [x_min, x_max, y_min, y_max],
            "rules": rules,
            "bins": bins,
            "theme": theme,
            "caption": caption,
            "figure": name(figure),
            "of": name(of),
            "note": name(note),
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
        let mut rows = Rows { cx: &cx, plot: self.clone(), writer: None, drawn: Gathered::default() };
        execute(&ctx, &script, &mut rows, &cx.cancel).await?;
        let said = [rows.drawn.note.clone().unwrap_or_default(), self.caption_of(&cx)];
        let caption = said.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join(" · ");
        let chart = rows.plot.chart(rows.drawn, caption);
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
    plot: Plot,
    writer: Option<TableWriter>,
    drawn: Gathered,
}

impl Sink for Rows<'_> {
    fn begin(&mut self, makes: &Makes, schema: &SchemaRef) -> Result<()> {
        if *makes == Makes::Result {
            // Known before the run only where the schemas of all inputs were.
            self.plot = self.plot.with_axes(schema).into_owned();
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
        self.drawn.add(&self.plot, batch)
    }

    fn end(&mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), TableWriter::finish)
    }
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
