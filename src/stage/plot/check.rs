//! What is wrong with the settings of a plot: columns that its kind needs or cannot use, and columns that are not there.

use arrow::datatypes::{DataType, Schema};

use super::chart_kind;
use crate::diag::{Diagnostic, Span};
use crate::query::columns::type_name;
use crate::query::errors::did_you_mean;
use crate::spec::{Plot, PlotKind, Text};

/// Pixels that a picture may have on each side.
const SIDES: std::ops::RangeInclusive<u32> = 100..=8000;

/// Axes of `parallel`: fewer have nothing between them, more are a grey cloud.
pub(super) const AXES: std::ops::RangeInclusive<usize> = 2..=24;

/// Whether a kind of plot has a column of some role.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    No,
    May,
    Must,
}

/// The roles of columns that not every kind has.
struct Needs {
    x: Need,
    x_end: Need,
    y: Need,
    z: Need,
    labels: Need,
}

fn needs(kind: PlotKind) -> Needs {
    use Need::{May, Must, No};
    let plane = Needs { x: Must, x_end: No, y: Must, z: No, labels: No };
    match kind {
        PlotKind::Line | PlotKind::Path | PlotKind::Bar | PlotKind::Step | PlotKind::Area | PlotKind::Box => plane,
        PlotKind::Scatter => Needs { labels: May, ..plane },
        PlotKind::Cdf | PlotKind::Histogram => Needs { y: No, ..plane },
        PlotKind::Heat => Needs { z: Must, ..plane },
        PlotKind::Parallel => Needs { x: No, y: No, z: May, ..plane },
        PlotKind::Span => Needs { x_end: Must, ..plane },
    }
}

/// Whether only `x` matters.
pub(super) fn is_distribution(kind: PlotKind) -> bool {
    matches!(kind, PlotKind::Cdf | PlotKind::Histogram)
}

pub(super) fn is_number(kind: &DataType) -> bool {
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

impl Plot {
    /// Where problems are shown that have no place of their own.
    fn place(&self) -> Option<Span> {
        let first = self.figure.as_ref().or(self.x.as_ref()).or(self.columns.first()).or(self.query.as_ref());
        first.and_then(|text| text.at.clone())
    }

    /// What is wrong with the settings, whatever the query yields.
    pub(super) fn setting_problems(&self) -> Vec<Diagnostic> {
        let mut problems = self.role_problems();
        problems.extend(self.axis_problems());
        if self.z_middle.is_some_and(|v| self.kind != PlotKind::Heat || !v.is_finite()) {
            let problem =
                Diagnostic::new("plot::z", "`z_middle` is the middle of the colours of `kind: heat`: a number");
            problems.push(problem.at(self.place()).help("such as `z_middle: 0`; leave it out for other kinds"));
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
        if self.facet_columns == Some(0) || self.facet_columns.is_some() && self.facet.is_none() {
            let problem = Diagnostic::new("plot::facet", "`facet_columns` has nothing to lay out").at(self.place());
            problems.push(problem.help("add `facet: <column>`, and choose 1 or more, or leave it out"));
        }
        for (name, pixels) in [("width", Some(self.width)), ("height", self.height)] {
            if let Some(pixels) = pixels.filter(|p| !SIDES.contains(p)) {
                problems.push(
                    Diagnostic::new("plot::size", format!("`{name}` is {pixels} pixels"))
                        .at(self.query.as_ref().and_then(|q| q.at.clone()))
                        .help(format!("choose {} to {} pixels", SIDES.start(), SIDES.end())),
                );
            }
        }
        problems
    }

    /// Columns that are missing, and those that have no meaning.
    fn role_problems(&self) -> Vec<Diagnostic> {
        let needs = needs(self.kind);
        let kind = chart_kind(self.kind).1;
        let roles = [
            ("plot::x", "x", needs.x, &self.x, "its axes are `columns`", "add `x: <column>`"),
            (
                "plot::x_end",
                "x_end",
                needs.x_end,
                &self.x_end,
                "only bars of `kind: span` have an end",
                "add `x_end: <column>`: where the bar that begins at `x` ends",
            ),
            (
                "plot::y",
                "y",
                needs.y,
                &self.y,
                "a distribution shows how many rows have which `x`, and `parallel` has `columns`",
                "add `y: <column>`, or choose `kind: cdf` for the distribution of `x`",
            ),
            (
                "plot::z",
                "z",
                needs.z,
                &self.z,
                "it colours the cells of `kind: heat` and the lines of `kind: parallel`",
                "add `z: <column>`: the value that colours the cell of `x` and `y`",
            ),
            ("plot::labels", "labels", needs.labels, &self.labels, "only points of `kind: scatter` have labels", ""),
        ];
        let mut problems = Vec::new();
        for (code, name, need, given, why_not, how) in roles {
            match (need, given) {
                (Need::No, Some(column)) => problems.push(
                    Diagnostic::new(code, format!("`{name}` has no meaning for `kind: {kind}`"))
                        .at(column.at.clone())
                        .help(format!("leave it out: {why_not}")),
                ),
                (Need::Must, None) => problems.push(
                    Diagnostic::new(code, format!("`{name}` is missing for `kind: {kind}`")).at(self.place()).help(how),
                ),
                (Need::No | Need::May, None) | (Need::May | Need::Must, Some(_)) => {}
            }
        }
        problems.extend(self.columns_problem());
        if let (PlotKind::Parallel, Some(z), Some(_)) = (self.kind, &self.z, &self.series) {
            let problem = Diagnostic::new("plot::z", "lines have one colour: that of `z`, or that of `series`");
            problems.push(problem.at(z.at.clone()).help("leave one of them out"));
        }
        problems
    }

    fn columns_problem(&self) -> Option<Diagnostic> {
        let problem = |message: String| Diagnostic::new("plot::columns", message).at(self.place());
        if self.kind != PlotKind::Parallel {
            let given = !self.columns.is_empty();
            let help = "leave it out: they are the axes of `kind: parallel`";
            return given.then(|| {
                let message = format!("`columns` has no meaning for `kind: {}`", chart_kind(self.kind).1);
                problem(message).at(self.columns[0].at.clone()).help(help)
            });
        }
        // Without any, they are what the query yields.
        if !self.columns.is_empty() && !AXES.contains(&self.columns.len()) {
            let message = format!("`columns` names {} axes for `kind: parallel`", self.columns.len());
            let help =
                format!("name {} to {} columns: `columns: [tp, rate_rps, ttft_ms_p99]`", AXES.start(), AXES.end());
            return Some(problem(message).help(help));
        }
        let twice = |(i, c): &(usize, &Text)| self.columns[..*i].iter().any(|before| before.value == c.value);
        let (_, column) = self.columns.iter().enumerate().find(twice)?;
        let message = format!("`columns` names `{}` twice", column.value);
        Some(problem(message).at(column.at.clone()).help("name each axis once"))
    }

    /// Logarithms and limits of axes that have none.
    fn axis_problems(&self) -> Vec<Diagnostic> {
        let kind = chart_kind(self.kind).1;
        let upright = self.kind == PlotKind::Parallel;
        let slotted = matches!(self.kind, PlotKind::Bar | PlotKind::Box | PlotKind::Heat);
        let rows = matches!(self.kind, PlotKind::Heat | PlotKind::Span);
        let beside = "its places stand side by side";
        let own = "each of its axes follows from its values";
        let mut problems = Vec::new();
        let mut wrong = |code: &'static str, message: String, help: String| {
            problems.push(Diagnostic::new(code, message).at(self.place()).help(help));
        };
        for (key, set, why_not) in [
            (
                "x_log",
                self.x_log,
                [(slotted, beside), (self.kind == PlotKind::Span, "the lengths of its bars are times"), (upright, own)],
            ),
            (
                "y_log",
                self.y_log,
                [(rows, beside), (self.kind == PlotKind::Area, "its heights are sums"), (upright, own)],
            ),
        ] {
            if let Some((_, why)) = why_not.iter().find(|(not, _)| set && *not) {
                let help = format!("{why}; leave it out, or choose another kind");
                wrong("plot::log", format!("`{key}` has no meaning for `kind: {kind}`"), help);
            }
        }
        let axes = [
            ("x", self.x_min, self.x_max, self.x_log, slotted || upright),
            ("y", self.y_min, self.y_max, self.y_log, rows || upright),
        ];
        for (axis, low, high, log, none) in axes {
            let given: Vec<(&str, f64)> =
                [("min", low), ("max", high)].into_iter().filter_map(|(e, v)| Some((e, v?))).collect();
            for (end, v) in &given {
                if none {
                    let help = "limits are for axes of numbers; leave it out, or choose another kind".to_string();
                    wrong("plot::limits", format!("`{axis}_{end}` has no meaning for `kind: {kind}`"), help);
                } else if !v.is_finite() || log && *v <= 0.0 {
                    let help = if log { "a logarithmic axis has positive numbers" } else { "choose a finite number" };
                    wrong("plot::limits", format!("`{axis}_{end}` is {v}"), help.to_string());
                }
            }
            if let (Some(low), Some(high)) = (low, high)
                && low >= high
            {
                let help = format!("choose a larger `{axis}_max`, or leave one of them out");
                wrong("plot::limits", format!("`{axis}_min` is {low}, and `{axis}_max` is {high}"), help);
            }
        }
        problems
    }

    /// What is wrong with the columns that are to be drawn.
    pub(super) fn column_problems(&self, schema: &Schema) -> Vec<Diagnostic> {
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut problems = Vec::new();
        for (role, column, wants) in self.roles() {
            let problem = |message: String| Diagnostic::new("plot::column", message).at(column.at.clone());
            let name = &column.value;
            let fits = |of: &DataType| if wants.numbers { is_number(of) } else { is_plain(of) };
            match schema.field_with_name(name) {
                Err(_) => problems.push(
                    problem(format!("the query has no column `{name}`, which is to be `{role}`"))
                        .help(did_you_mean(name, &names, "columns")),
                ),
                Ok(field) if !fits(field.data_type()) => problems.push(
                    problem(format!("`{role}` is the column `{name}` of type {}", type_name(field.data_type())))
                        .help(format!("{}; CAST it in the query, or choose another column", wants.why)),
                ),
                Ok(_) => {}
            }
        }
        problems
    }

    /// Every column that is drawn, its role, and what it must hold.
    fn roles(&self) -> Vec<(&'static str, &Text, Wants)> {
        let numbers = |why| Wants { numbers: true, why };
        let plain = |why| Wants { numbers: false, why };
        let x = if is_distribution(self.kind) {
            numbers("a distribution is one of numbers")
        } else if self.kind == PlotKind::Span {
            numbers("a bar lies between numbers")
        } else if self.x_log {
            numbers("a logarithmic axis shows numbers")
        } else if self.x_min.is_some() || self.x_max.is_some() {
            numbers("an axis with limits shows numbers")
        } else {
            plain("an axis shows numbers or names")
        };
        let y = match self.kind {
            PlotKind::Heat | PlotKind::Span => plain("an axis shows numbers or names"),
            _ => numbers("a vertical axis shows numbers"),
        };
        let needs = needs(self.kind);
        let given = [
            ("x", &self.x, needs.x, x),
            ("x_end", &self.x_end, needs.x_end, numbers("a bar lies between numbers")),
            ("y", &self.y, needs.y, y),
            ("z", &self.z, needs.z, numbers("colours are of numbers")),
            ("labels", &self.labels, needs.labels, plain("labels are plain values")),
            ("series", &self.series, Need::May, plain("series are named by plain values")),
            ("facet", &self.facet, Need::May, plain("facets are named by plain values")),
            ("note", &self.note, Need::May, plain("a note is text")),
        ];
        let given = given.into_iter().filter(|(_, _, need, _)| *need != Need::No);
        let mut roles: Vec<_> =
            given.filter_map(|(role, column, _, wants)| Some((role, column.as_ref()?, wants))).collect();
        if self.kind == PlotKind::Parallel {
            let axes = self.columns.iter().map(|c| ("columns", c, plain("an axis shows numbers or names")));
            roles.extend(axes);
        }
        roles
    }
}

/// What a column must hold, and why.
struct Wants {
    /// Numbers; else anything that has a short text.
    numbers: bool,
    why: &'static str,
}
