//! The tables of a calibration, and its study as one JSON file.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;

use crate::diag::{Failure, Result, io};
use crate::spec::CaseRole;
use crate::stage::RunCx;
use crate::table::column;

/// A parameter as it was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BestRow {
    pub path: String,
    /// As it was written.
    pub name: String,
    pub value: f64,
    pub bounds: Option<(f64, f64)>,
    pub standard_error: Option<f64>,
}

/// How far off a part is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ErrorRow {
    pub role: CaseRole,
    /// Empty for all cases of the role.
    pub case: String,
    pub feature: String,
    pub measured: Option<f64>,
    pub fitted: Option<f64>,
    pub error: Option<f64>,
    pub count: i64,
}

pub(super) fn best_schema() -> SchemaRef {
    let number = |name: &str, what: &str| column(name, DataType::Float64, true, "", what);
    Arc::new(Schema::new(vec![
        column("path", DataType::Utf8, false, "", "Dotted path of the setting"),
        column("name", DataType::Utf8, false, "", "The parameter as it was written"),
        column("value", DataType::Float64, false, "", "Its best value, in units of the setting"),
        number("low", "Lower bound of the search, in the same units; null for least squares"),
        number("high", "Upper bound of the search"),
        number("standard_error", "Standard error, where it is known: least squares, not held at zero"),
        number("t", "Value over standard error"),
    ]))
}

pub(super) fn errors_schema() -> SchemaRef {
    let number = |name: &str, what: &str| column(name, DataType::Float64, true, "", what);
    Arc::new(Schema::new(vec![
        column("role", DataType::Utf8, false, "", "train: fitted to; test: held out"),
        column("case", DataType::Utf8, false, "", "The case, or the configuration; empty for all of them"),
        column("feature", DataType::Utf8, false, "", "What is compared; `total`: the mean over the features"),
        number("measured", "Mean of the measured values"),
        number("fitted", "Mean of the simulated or predicted values"),
        number("error", "Error by the function of the stage; null where it does not count, or is infinite"),
        column("count", DataType::Int64, false, "", "Measured values; features of a total"),
    ]))
}

/// `columns`: one per parameter.
pub(super) fn trials_schema(columns: &[Field]) -> SchemaRef {
    let mut fields = vec![column("trial", DataType::Int64, false, "", "Number of the trial, from 0")];
    fields.extend(columns.iter().cloned());
    fields.extend([
        column("error", DataType::Float64, true, "", "Error over the train cases; null where it is infinite"),
        column("best_error", DataType::Float64, true, "", "Least error of this trial and those before it"),
        column("best", DataType::Boolean, false, "", "No other trial has less, and none before it as little"),
    ]);
    Arc::new(Schema::new(fields))
}

fn put(cx: &RunCx, name: &str, schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<()> {
    let batch = RecordBatch::try_new(schema.clone(), columns);
    let batch = batch.map_err(|e| Failure::stage("calibrate::rows", e.to_string()))?;
    let mut writer = cx.out.table(name, schema)?;
    writer.write(&batch)?;
    writer.finish()
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

pub(super) fn write_best(cx: &RunCx, rows: &[BestRow]) -> Result<()> {
    let t = |r: &BestRow| r.standard_error.filter(|e| *e > 0.0).map(|e| r.value / e);
    let columns = vec![
        texts(rows.iter().map(|r| r.path.as_str())),
        texts(rows.iter().map(|r| r.name.as_str())),
        floats(rows.iter().map(|r| Some(r.value))),
        floats(rows.iter().map(|r| r.bounds.map(|b| b.0))),
        floats(rows.iter().map(|r| r.bounds.map(|b| b.1))),
        floats(rows.iter().map(|r| r.standard_error)),
        floats(rows.iter().map(t)),
    ];
    put(cx, &cx.stage, best_schema(), columns)
}

pub(super) fn role_name(role: CaseRole) -> &'static str {
    match role {
        CaseRole::Train => "train",
        CaseRole::Test => "test",
    }
}

pub(super) fn write_errors(cx: &RunCx, rows: &[ErrorRow]) -> Result<()> {
    let columns = vec![
        texts(rows.iter().map(|r| role_name(r.role))),
        texts(rows.iter().map(|r| r.case.as_str())),
        texts(rows.iter().map(|r| r.feature.as_str())),
        floats(rows.iter().map(|r| r.measured)),
        floats(rows.iter().map(|r| r.fitted)),
        floats(rows.iter().map(|r| r.error)),
        Arc::new(rows.iter().map(|r| Some(r.count)).collect::<Int64Array>()),
    ];
    put(cx, &format!("{}_errors", cx.stage), errors_schema(), columns)
}

/// `values`: per trial those of the parameters, in units of the settings; and the error.
pub(super) fn write_trials(cx: &RunCx, fields: &[Field], trials: &[(Vec<f64>, f64)], best: usize) -> Result<()> {
    let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..trials.len() as i64))];
    for j in 0..fields.len() {
        columns.push(floats(trials.iter().map(|(values, _)| values.get(j).copied())));
    }
    columns.push(floats(trials.iter().map(|(_, error)| Some(*error).filter(|e| e.is_finite()))));
    let mut least = f64::INFINITY;
    let so_far = trials.iter().map(|(_, error)| {
        least = least.min(*error);
        Some(least).filter(|e| e.is_finite())
    });
    columns.push(floats(so_far.collect::<Vec<_>>().into_iter()));
    columns.push(Arc::new((0..trials.len()).map(|i| Some(i == best)).collect::<BooleanArray>()));
    put(cx, &format!("{}_trials", cx.stage), trials_schema(fields), columns)
}

/// The study as the file `<stage>_study.json` among the stage's files.
pub(super) fn write_study(cx: &RunCx, study: &Value) -> Result<()> {
    let path = cx.out.file(&format!("{}_study.json", cx.stage))?;
    std::fs::write(&path, format!("{study:#}\n")).map_err(|e| io(&path, "write", &e))
}
