//! The rows of a plot's query as what its chart draws.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use indexmap::{IndexMap, IndexSet};

use super::check::is_number;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::report::{Chart, ChartAxis, Series, pretty};
use crate::spec::{Plot, PlotKind, Text};

/// More plots side by side cannot be read.
const FACETS: usize = 36;

/// More series are a column of numbers that was meant to be `x` or `z`.
const SERIES: usize = 1000;

/// The rows so far.
#[derive(Default)]
pub(super) struct Gathered {
    /// By the text of the series column, in the order in which they come.
    series: IndexMap<String, Series>,
    x: Names,
    y: Names,
    facets: IndexSet<String>,
    /// Of parallel axes.
    axes: Vec<Names>,
    /// What the rows say under the picture.
    pub note: Option<String>,
}

/// The distinct texts of a column; none of a column of numbers.
#[derive(Default)]
struct Names {
    texts: IndexSet<String>,
    named: bool,
}

impl Names {
    /// The values of a column: numbers, or indices of texts.
    fn values(&mut self, column: &ArrayRef, always: bool) -> std::result::Result<Vec<f64>, ArrowError> {
        self.named = always || !is_number(column.data_type());
        if self.named { slots(&mut self.texts, column) } else { numbers(column) }
    }
}

impl Gathered {
    /// # Errors
    /// More facets or series than can be told apart; a column that cannot be read.
    pub fn add(&mut self, plot: &Plot, batch: &RecordBatch) -> Result<()> {
        self.add_rows(plot, batch).map_err(|e| Failure::stage("plot::rows", e.to_string()))?;
        let limits = [
            (
                "plot::facet",
                &plot.facet,
                "facet",
                self.facets.len(),
                FACETS,
                "filter the rows in the query, or group the values with CASE",
            ),
            (
                "plot::series",
                &plot.series,
                "series",
                self.series.len(),
                SERIES,
                "leave `series` out, or choose a column with few values; one of numbers can be `x`, or `z` of `kind: heat` or `parallel`",
            ),
        ];
        for (code, column, role, found, most, help) in limits {
            if let Some(column) = column.as_ref().filter(|_| found > most) {
                let message = format!("the column `{}`, which is `{role}`, has more than {most} values", column.value);
                let problem = Diagnostic::new(code, message).at(column.at.clone()).help(help);
                return Err(Failure { exit: Exit::Stage, diagnostics: vec![problem] });
            }
        }
        Ok(())
    }

    fn add_rows(&mut self, plot: &Plot, batch: &RecordBatch) -> std::result::Result<(), ArrowError> {
        let rows = batch.num_rows();
        let column = |name: &Text| {
            let missing = || ArrowError::SchemaError(format!("the query has no column `{}`", name.value));
            batch.column_by_name(&name.value).ok_or_else(missing)
        };
        if let (Some(note), None) = (&plot.note, &self.note) {
            let notes = column(note)?;
            let first = (0..notes.len()).find(|row| notes.is_valid(*row));
            self.note = first.map(|row| texts(&notes.slice(row, 1))).transpose()?.and_then(|mut found| found.pop());
        }
        let names = plot.series.as_ref().map(|c| texts(column(c)?)).transpose()?;
        let facets = plot.facet.as_ref().map(|c| slots(&mut self.facets, column(c)?)).transpose()?;
        let values = plot.value_column().map(|c| numbers(column(c)?)).transpose()?;
        let labels = plot.label_column().map(|c| texts(column(c)?)).transpose()?;
        let ends = plot.end_column().map(|c| numbers(column(c)?)).transpose()?;
        let xs = plot.x_column().map(|c| self.x.values(column(c)?, false)).transpose()?;
        let by_name = plot.kind == PlotKind::Span;
        let ys = plot.height_column().map(|c| self.y.values(column(c)?, by_name)).transpose()?;
        let parallel = plot.kind == PlotKind::Parallel;
        let axes: Vec<Vec<f64>> = if parallel {
            self.axes.resize_with(plot.columns.len(), Names::default);
            let columns = plot.columns.iter().zip(&mut self.axes);
            columns.map(|(c, axis)| axis.values(column(c)?, false)).collect::<std::result::Result<_, _>>()?
        } else {
            Vec::new()
        };
        let at = |values: &Option<Vec<f64>>, k: usize| values.as_ref().map(|v| v[k]);
        for k in 0..rows {
            let name = names.as_ref().map(|n| n[k].as_str()).unwrap_or_default();
            if !self.series.contains_key(name) {
                self.series.insert(name.to_string(), Series { name: name.to_string(), ..Series::default() });
            }
            let Some(series) = self.series.get_mut(name) else { continue };
            if parallel {
                series.tuples.push(axes.iter().map(|a| a[k]).collect());
            } else {
                series.points.push((at(&xs, k).unwrap_or(0.0), at(&ys, k).unwrap_or(0.0)));
            }
            series.values.extend(at(&values, k));
            series.ends.extend(at(&ends, k));
            series.labels.extend(labels.as_ref().map(|l| l[k].clone()));
            series.facets.extend(at(&facets, k).map(|f| f as usize));
        }
        Ok(())
    }

    pub fn into_chart(self, plot: &Plot, frame: Chart) -> Chart {
        let Gathered { series, x, y, facets, axes, note: _ } = self;
        let axis = |(column, axis): (&Text, Names)| ChartAxis {
            label: pretty(&column.value),
            names: axis.texts.into_iter().collect(),
        };
        Chart {
            series: series.into_values().collect(),
            categories: x.named.then(|| x.texts.into_iter().collect()),
            rows: y.texts.into_iter().collect(),
            facets: facets.into_iter().collect(),
            axes: plot.columns.iter().zip(axes).map(axis).collect(),
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
