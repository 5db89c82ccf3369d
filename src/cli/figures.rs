//! Ready-made figures on the command line: `pipe show figures`, and those that a report draws by itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use super::{cores, table};
use crate::diag::{self, Diagnostic, Failure, Result};
use crate::report::{self, PageFigure};
use crate::spec::{Figures, Ready};
use crate::stage::{Drawable, drawable};
use crate::store::{Published, Store, TableHandle};

/// An SVG of more bytes is shown as a PNG instead.
pub(super) const SVG_MAX: usize = 300_000;
/// Bytes of all pictures of a page at most: the page stays below 5 MB.
const PICTURES_MAX: usize = 3_500_000;
/// Figures of a stage that a report chooses.
const OF_A_STAGE: usize = 8;
/// Kinds of stages whose tables are requests: of several in a pipeline, the last says what comes in.
const TRACES: [&str; 4] = ["ingest", "synthesize", "tokenize", "transform"];

/// Which ready-made figures a report has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Those that answer the usual questions.
    Auto,
    /// Those of plot stages only.
    Stages,
    All,
    Named(Vec<String>),
}

impl std::str::FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Choice::Auto,
            "stages" => Choice::Stages,
            "all" => Choice::All,
            names => Choice::Named(names.split(',').map(|n| n.trim().to_string()).collect()),
        })
    }
}

/// What `pipe show figures` prints.
///
/// # Errors
/// A file of the project that is wrong.
pub(super) fn list(project: &Path) -> Result<String> {
    let all = Figures::near(project).all().map_err(Failure::usage)?;
    let row = |f: &Ready| {
        let name = if f.own { format!("{} (own)", f.name) } else { f.name.clone() };
        vec![name, f.about.clone(), f.kinds.join(", "), f.needs.join(", ").replace("{of}", "OF")]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    Ok(table(&["figure", "answers", "of a stage", "reads"], &rows))
}

/// The title with the defaults of the parameters.
fn title(figure: &Ready) -> String {
    figure.plot("OF", &[]).ok().and_then(|plot| plot.title).unwrap_or_else(|| figure.title.clone())
}

/// What `pipe show figure NAME` prints.
///
/// # Errors
/// No figure of that name, or a file that is wrong.
pub(super) fn one(project: &Path, name: &str) -> Result<String> {
    let figures = Figures::near(project);
    let Some(figure) = figures.find(name).map_err(Failure::usage)? else {
        let problem = Diagnostic::new("cli::figure", format!("there is no figure `{name}`"));
        return Err(problem.help(figures.help(name)).into());
    };
    let mut out = format!("{}: {}\n", figure.name, title(&figure));
    let mut line = |what: &str, text: &str| {
        if !text.is_empty() {
            let _ = writeln!(out, "  {what:<11} {text}");
        }
    };
    line("answers", &figure.about);
    line("of a stage", &figure.kinds.join(", "));
    line("reads", &figure.needs.join(", ").replace("{of}", "OF"));
    for (i, (name, default)) in figure.with.iter().enumerate() {
        line(if i == 0 { "with" } else { "" }, &format!("{name}: {default}"));
    }
    line("in YAML", &format!("plot: {{ figure: {}, of: OF }}", figure.name));
    let plot = figure.plot("OF", &[]).map_err(Failure::usage)?;
    let _ = write!(out, "\n{}\n", plot.query.map(|q| q.value).unwrap_or_default());
    Ok(out)
}

/// The figures that a report draws by itself.
pub(super) struct Chosen<'a> {
    pub store: &'a Store,
    pub project: &'a Path,
    /// Tables of the pipeline.
    pub tables: &'a [Published],
    /// Stages in their order: name and kind.
    pub stages: Vec<(String, String)>,
    pub choice: Choice,
    /// Bytes of the pictures that the page has already.
    pub bytes: usize,
}

impl Chosen<'_> {
    /// The figures, results made last first, and what was left out, in words.
    ///
    /// # Errors
    /// A name that no figure has, or that fits no stage; a figure asked for by name that cannot be drawn; tables that
    /// cannot be read.
    pub async fn draw(&self) -> Result<(Vec<PageFigure>, Vec<String>)> {
        let all = Figures::near(self.project).all().map_err(Failure::usage)?;
        self.names_exist(&all)?;
        let mut handles = BTreeMap::new();
        for published in self.tables {
            handles.insert(published.table.clone(), self.store.published_handle(published)?);
        }
        let (mut drawn, mut notes, mut bytes, mut too_many) = (Vec::new(), Vec::new(), self.bytes, 0);
        let last_trace = self.stages.iter().rposition(|(_, kind)| TRACES.contains(&kind.as_str()));
        for (at, (stage, kind)) in self.stages.iter().enumerate().rev() {
            let trace = TRACES.contains(&kind.as_str());
            if self.choice == Choice::Auto && trace && Some(at) != last_trace {
                continue;
            }
            let mut left = OF_A_STAGE;
            for figure in self.of_stage(&all, stage, kind, &handles) {
                if self.choice == Choice::Auto && left == 0 {
                    break;
                }
                let Some(picture) = self.picture(figure, stage, &handles, &mut notes).await? else { continue };
                if bytes + picture.picture.len() > PICTURES_MAX {
                    too_many += 1;
                    continue;
                }
                bytes += picture.picture.len();
                left -= usize::from(left > 0);
                drawn.push(picture);
            }
        }
        if let (Choice::Named(names), true) = (&self.choice, drawn.is_empty() && too_many == 0) {
            let message = format!("no stage of the pipeline has what the figures `{}` show", names.join("`, `"));
            let help = "`pipe show figure NAME` says which tables it reads; figures of plot stages are there already";
            return Err(Diagnostic::new("report::figures", message).help(help).into());
        }
        if too_many > 0 {
            notes.push(format!("{too_many} more figures would make this page larger than 5 MB: ask for them by name"));
        }
        Ok((drawn, notes))
    }

    fn names_exist(&self, all: &[Ready]) -> Result<()> {
        let Choice::Named(names) = &self.choice else { return Ok(()) };
        for name in names {
            if all.iter().all(|f| f.name != *name) {
                let problem = Diagnostic::new("report::figures", format!("there is no figure `{name}`"));
                let help = format!("{}; or `auto`, `stages`, `all`", Figures::near(self.project).help(name));
                return Err(problem.help(help).into());
            }
        }
        Ok(())
    }

    /// The figures that a stage may have, in their order.
    fn of_stage<'f>(
        &self,
        all: &'f [Ready],
        stage: &str,
        kind: &str,
        handles: &BTreeMap<String, TableHandle>,
    ) -> Vec<&'f Ready> {
        let fits = |f: &&Ready| {
            let wanted = match &self.choice {
                Choice::Auto => f.report.is_some(),
                Choice::Stages => false,
                Choice::All => true,
                Choice::Named(names) => names.contains(&f.name),
            };
            let there = f.needs.iter().all(|table| handles.contains_key(&table.replace("{of}", stage)));
            wanted && there && f.kinds.iter().any(|k| k == kind) && !self.is_shown(f, stage)
        };
        let mut found: Vec<&Ready> = all.iter().filter(fits).collect();
        if self.choice == Choice::Auto {
            found.sort_by_key(|f| f.report);
        }
        found
    }

    /// Whether a plot stage shows it already.
    fn is_shown(&self, figure: &Ready, stage: &str) -> bool {
        self.tables.iter().any(|p| {
            let text = |key: &str| p.manifest.recipe.config.get(key).and_then(Value::as_str);
            text("figure") == Some(figure.name.as_str()) && text("of") == Some(stage)
        })
    }

    /// What a search looks for the value of.
    fn searched(&self, stage: &str) -> Option<&str> {
        let config = &self.tables.iter().find(|p| p.stage == stage)?.manifest.recipe.config;
        config.get("find")?.as_object()?.values().next()?.get("path")?.as_str()
    }

    /// `None` where the figure has nothing to show, or cannot be drawn: `notes` then say why.
    async fn picture(
        &self,
        figure: &Ready,
        stage: &str,
        handles: &BTreeMap<String, TableHandle>,
        notes: &mut Vec<String>,
    ) -> Result<Option<PageFigure>> {
        let read: Vec<String> = figure.needs.iter().map(|table| table.replace("{of}", stage)).collect();
        // Also what says which objectives and parameters there are.
        let extra = [stage.to_string(), format!("{stage}_history")];
        let tables = handles.iter().filter(|(name, _)| read.contains(name) || extra.contains(name));
        let tables = tables.map(|(name, handle)| (name.clone(), handle.clone())).collect();
        let named = matches!(self.choice, Choice::Named(_));
        let Drawable { mut chart, sql, rows, places } =
            match drawable(figure, stage, &tables, self.searched(stage), cores()).await {
                Ok(drawable) => drawable,
                Err(failure) if named => return Err(failure),
                Err(failure) => {
                    notes.extend(not_drawn(figure, stage, &failure));
                    return Ok(None);
                }
            };
        if rows == 0 || (self.choice == Choice::Auto && places < figure.least as usize) {
            return Ok(None);
        }
        let title = chart.title.clone();
        // As under the pictures of plot stages.
        let from = read.iter().filter_map(|name| Some(format!("{name} {}", handles.get(name)?.hash.short())));
        let from = format!("{}: of {}", figure.name, from.collect::<Vec<_>>().join(", "));
        chart.caption = if chart.caption.is_empty() { from } else { format!("{} · {from}", chart.caption) };
        let picture = tokio::task::spawn_blocking(move || element(&chart))
            .await
            .map_err(|e| Failure::stage("report::figure", format!("cannot draw `{}`: {e}", figure.name)))??;
        Ok(Some(PageFigure {
            id: format!("{stage}-{}", figure.name),
            stage: stage.to_string(),
            title,
            about: figure.about.clone(),
            picture,
            sql: format!("-- plot: {{ figure: {}, of: {stage} }}\n{sql}", figure.name),
        }))
    }
}

/// Why a figure could not be drawn; nothing where a stage merely does not have what one that is compiled in shows: a sweep
/// without a rate has no load, to name one.
fn not_drawn(figure: &Ready, stage: &str, failure: &Failure) -> Option<String> {
    let missing = |d: &Diagnostic| ["figure::columns", "plot::column", "sql::unknown_column"].contains(&d.code);
    if !figure.own && failure.diagnostics.iter().all(missing) {
        return None;
    }
    let why: Vec<&str> = failure.diagnostics.iter().map(|d| d.message.as_str()).collect();
    Some(format!("`{}` of `{stage}` could not be drawn: {}", figure.name, why.join("; ")))
}

/// The chart as an element of a page: an SVG, or a PNG where that would be large.
fn element(chart: &report::Chart) -> Result<String> {
    let svg = report::svg(chart)?;
    if svg.len() <= SVG_MAX {
        return Ok(svg[svg.find("<svg").unwrap_or(0)..].to_string());
    }
    // A file of its own, which nobody else can have put there.
    let named = tempfile::Builder::new().prefix("pipe-figure-").suffix(".png").tempfile();
    let file = named.map_err(|e| diag::io(&std::env::temp_dir(), "write in", &e))?;
    report::png(chart, file.path())?;
    let bytes = std::fs::read(file.path()).map_err(|e| diag::io(file.path(), "read", &e))?;
    Ok(image(&bytes))
}

/// A PNG as an element of a page.
pub(super) fn image(png: &[u8]) -> String {
    format!("<img alt=\"\" src=\"data:image/png;base64,{}\">", BASE64_STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_figures_that_do_not_fit_are_left_out_in_silence() {
        let timeline = Figures::near(Path::new("/")).find("timeline").unwrap().unwrap();
        let mut own = timeline.clone();
        own.own = true;
        // (figure, what is wrong, whether it is said)
        let cases = [
            (&timeline, "figure::columns", false),
            (&timeline, "sql::unknown_column", false),
            (&timeline, "sql::run", true),
            (&own, "sql::unknown_column", true),
        ];
        for (figure, code, expect) in cases {
            let said = not_drawn(figure, "sim", &Diagnostic::new(code, "why").into());
            assert_eq!(said, expect.then(|| "`timeline` of `sim` could not be drawn: why".to_string()), "{code}");
        }
    }
}
