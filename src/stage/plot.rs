//! `plot`: a chart of the rows of a query, as SVG and PNG, with the rows as a table beside it.
//!
//! The query obeys the rules of `sql` stages. Its result is the stage's table; the pictures show the columns of it that
//! the settings name. NULL is not drawn; text on an axis makes a slot per value, in the order of the rows.

mod check;
pub(super) mod figure;
mod gather;
mod ready;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::check::is_distribution;
use self::gather::Gathered;
use self::ready::Known;
use super::simulate::settings::column_name;
use super::sql::ENGINE;
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Exit, Failure, Result, io};
use crate::query::errors::Place;
use crate::query::execute::{Sink, execute};
use crate::query::plan::{self, Made};
use crate::query::session::{self, SCHEMA, SessionOptions};
use crate::query::sql::{Makes, Script};
use crate::report::{self, Chart, ChartKind, Limits, Rule, pretty};
use crate::spec::{Figures, Find, Plot, PlotKind, PlotRule, PlotTheme, Stage, StageSpec, Text};
use crate::store::TableWriter;

impl Plot {
    /// The plot itself; of a ready-made figure with what it asks about the columns of tables, where they are known.
    fn completed(&self, known: &Known) -> Result<Plot> {
        let mut plot = self.clone();
        let (Some(figure), Some(of)) = (&self.figure, &self.of) else { return Ok(plot) };
        let fill = |text: &mut String| -> Result<()> {
            *text = ready::complete(text, &of.value, known).map_err(|why| {
                let message = format!("the figure `{}` cannot show `{}`: {why}", figure.value, of.value);
                Diagnostic::new("figure::columns", message).at(figure.at.clone())
            })?;
            Ok(())
        };
        let Plot { query, x, x_end, y, z, series, facet, labels, note, columns, rules, .. } = &mut plot;
        let texts = [query, x, x_end, y, z, series, facet, labels, note].into_iter().flatten().chain(columns);
        texts.map(|text| &mut text.value).chain(rules.iter_mut().map(|rule| &mut rule.label)).try_for_each(fill)?;
        let Plot { title, x_label, y_label, caption, .. } = &mut plot;
        [title, x_label, y_label, caption].into_iter().flatten().try_for_each(fill)?;
        Ok(plot)
    }

    /// Columns of the settings that differ between the rows of the stage that a figure shows, where its sweep says so.
    fn varied(&self, stages: &[Stage]) -> Option<Vec<String>> {
        let of = self.of.as_ref()?;
        let sweep = match &stages.iter().find(|s| s.name.value == of.value)?.spec {
            StageSpec::Simulate(simulate) => simulate.sweep.as_ref(),
            StageSpec::Search(search) if search.over.is_none() => search.sweep.as_ref(),
            _ => return None,
        };
        let Some(sweep) = sweep else { return Some(Vec::new()) };
        let paths = sweep.grid.keys().chain(sweep.zip.keys()).chain(sweep.list.iter().flat_map(|item| item.keys()));
        Some(paths.map(|path| column_name(&path.value)).collect())
    }

    /// What the stage that a figure shows looks for the value of, if it is a search.
    fn searched<'a>(&self, stages: &'a [Stage]) -> Option<&'a str> {
        let of = self.of.as_ref()?;
        let StageSpec::Search(search) = &stages.iter().find(|s| s.name.value == of.value)?.spec else { return None };
        Some(match &search.find {
            Find::Qps(find) => &find.path.value,
            Find::Replicas(find) => &find.path.value,
            Find::IsoQps(find) => &find.path.value,
        })
    }

    /// [`Plot::completed`] as far as a check knows the tables.
    fn completed_for(&self, cx: &CheckCx) -> Result<Plot> {
        let table = |name: &str| cx.tables.get(name)?.schema.clone();
        let (varied, searched) = (self.varied(cx.stages), self.searched(cx.stages));
        self.completed(&Known { table: &table, varied: varied.as_deref(), searched })
    }

    /// The statements of the query.
    fn script(&self) -> Result<Script> {
        let text = self.query.as_ref().map(|q| q.value.as_str()).unwrap_or_default();
        let from = self.figure.as_ref().or(self.query.as_ref());
        Script::parse(text, Place::Within(from.and_then(|text| text.at.clone()))).map_err(Failure::usage)
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
        let script = self.script()?;
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

    /// With all axes of `parallel`: what the query yields, less series, facets and notes.
    fn with_axes(&self, schema: &Schema) -> Cow<'_, Plot> {
        if self.kind != PlotKind::Parallel || !self.columns.is_empty() {
            return Cow::Borrowed(self);
        }
        let roles = [&self.series, &self.facet, &self.note];
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
            kind: chart_kind(self.kind).0,
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
            middle: self.z_middle,
            legend: self.value_column().or(self.series.as_ref()).map(|s| pretty(&s.value)).unwrap_or_default(),
            rules: self.rules.iter().map(rule).collect(),
            bins: self.bins as usize,
            ..Chart::default()
        }
    }
}

/// What is drawn of a kind of plot, and what the kind is called.
fn chart_kind(kind: PlotKind) -> (ChartKind, &'static str) {
    match kind {
        PlotKind::Line => (ChartKind::Line, "line"),
        PlotKind::Path => (ChartKind::Path, "path"),
        PlotKind::Scatter => (ChartKind::Scatter, "scatter"),
        PlotKind::Bar => (ChartKind::Bar, "bar"),
        PlotKind::Cdf => (ChartKind::Cdf, "cdf"),
        PlotKind::Step => (ChartKind::Step, "step"),
        PlotKind::Area => (ChartKind::Area, "area"),
        PlotKind::Histogram => (ChartKind::Histogram, "histogram"),
        PlotKind::Box => (ChartKind::Box, "box"),
        PlotKind::Heat => (ChartKind::Heat, "heat"),
        PlotKind::Parallel => (ChartKind::Parallel, "parallel"),
        PlotKind::Span => (ChartKind::Span, "span"),
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
        4
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        let asked = RefCell::new(BTreeSet::new());
        let ask = |name: &str| {
            asked.borrow_mut().insert(name.to_string());
            None
        };
        let mut read = self.completed(&Known { table: &ask, varied: None, searched: None })?.script()?.references();
        if let Some(figure) = &self.figure {
            // Tables of which a figure wants to know the columns, too.
            let seen: BTreeSet<String> = read.iter().map(|table| table.value.clone()).collect();
            let more = asked.into_inner().into_iter().filter(|name| !seen.contains(name));
            read.extend(more.map(|name| Text::new(name, None)));
            read.iter_mut().for_each(|table| table.at.clone_from(&figure.at));
        }
        Ok(read)
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        let planned = self.completed_for(cx).and_then(|plot| plot.planned(cx));
        let schema = planned.ok().and_then(|(_, made, _)| made.last().and_then(|m| m.schema.clone()));
        vec![TableShape { name: stage.to_string(), schema }]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        if let Some(problem) = self.stage_problem(cx) {
            return vec![problem];
        }
        let mut problems = self.setting_problems();
        let planned = self.completed_for(cx).and_then(|plot| Ok((plot.planned(cx)?, plot)));
        let ((script, made, wrong), plot) = match planned {
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
            problems.extend(plot.with_axes(schema).column_problems(schema));
        }
        problems
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        let completed = self.completed_for(cx);
        let this = completed.as_ref().unwrap_or(self);
        let Plot { query: _, with: _, figure, of, note, kind, x, x_end, y, z, columns, series, .. } = this;
        let Plot { facet, facet_columns, labels, .. } = this;
        let Plot { title, x_label, y_label, x_log, y_log, x_min, x_max, y_min, y_max, .. } = this;
        let Plot { z_middle, rules, bins, theme, caption, width, height, .. } = this;
        let name = |column: &Option<Text>| column.as_ref().map(|c| c.value.clone());
        json!({
            "engine": ENGINE,
            "statements": this.script().map(|s| s.normalised()).unwrap_or_default(),
            "kind": kind,
            "x": name(x),
            "x_end": name(x_end),
            "y": name(y),
            "z": name(z),
            "z_middle": z_middle,
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
        let table = |name: &str| cx.inputs.get(name).map(|t| t.schema.clone());
        let (varied, searched) = (self.varied(&cx.stages), self.searched(&cx.stages));
        let plot = self.completed(&Known { table: &table, varied: varied.as_deref(), searched })?;
        let script = plot.script()?;
        let ctx = session::context(&SessionOptions::threads(cx.pool.current_num_threads()))?;
        for (name, handle) in &cx.inputs {
            session::register(&ctx, SCHEMA, name, session::provider(handle)?)?;
        }
        let mut rows = Rows { cx: &cx, plot, writer: None, drawn: Gathered::default() };
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
