//! Trials of another search: points to begin with, or results to learn from.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use pipe_kernel::tune::journal::{self, ImportedStudy, Names, State};
use serde_json::Value;

use super::objective::Judge;
use super::space::Search;
use crate::diag::{Failure, Result, io};
use crate::spec::{FilePath, Known, Optimize};
use crate::stage::RunCx;
use crate::stage::calibrate::rows;

/// A trial of another search, whose result is taken for true.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Imported {
    pub values: Vec<Value>,
    /// One per objective, as written.
    pub objectives: Option<Vec<f64>>,
    pub constraints: Vec<f64>,
    pub violation: f64,
}

/// What `known` names, as far as it fits the space: points, or results; and what does not fit, in words.
#[derive(Default)]
pub(super) struct Found {
    pub points: Vec<Vec<Value>>,
    pub results: Vec<Imported>,
    pub warnings: Vec<String>,
}

/// Reads what `known` names.
///
/// # Errors
/// A table or a file that cannot be read; one without a column of any parameter.
pub(super) async fn read(spec: &Optimize, cx: &RunCx, search: &Search, judge: &Judge) -> Result<Found> {
    let Some(known) = &spec.known else { return Ok(Found::default()) };
    if let Some(file) = &known.optuna {
        return of_optuna(known, file, search, judge);
    }
    let mut found = Found::default();
    let mut odd: Vec<String> = Vec::new();
    for trial in of_table(known, cx, search, judge).await? {
        let given: Vec<(&str, Value)> = search
            .settings
            .iter()
            .zip(&trial.values)
            .filter_map(|(s, v)| Some((s.path.as_str(), v.clone()?)))
            .collect();
        match search.point(&given) {
            Ok(values) if known.results => {
                let violation = trial.constraints.iter().map(|c| c.max(0.0)).sum();
                found.results.push(Imported {
                    values,
                    objectives: trial.objectives,
                    constraints: trial.constraints,
                    violation,
                });
            }
            Ok(values) => found.points.push(values),
            Err(why) => odd.push(why),
        }
    }
    if let Some(first) = odd.first() {
        let n = odd.len();
        found
            .warnings
            .push(format!("{n} of the known trials do not fit the space and are left out; the first: {first}"));
    }
    Ok(found)
}

/// A row of another search.
struct Row {
    /// One per parameter of this search; `None` where the other does not have it.
    values: Vec<Option<Value>>,
    objectives: Option<Vec<f64>>,
    constraints: Vec<f64>,
}

async fn of_table(known: &Known, cx: &RunCx, search: &Search, judge: &Judge) -> Result<Vec<Row>> {
    let Some(table) = &known.table else { return Ok(Vec::new()) };
    let name = &table.0.value;
    let wrong = |message: String| Failure::stage("optimize::known", message).or_at(table.0.at.as_ref());
    let handle = cx.inputs.get(name).ok_or_else(|| wrong(format!("there is no table `{name}`")))?;
    let has = |column: &String| handle.schema.field_with_name(column).is_ok();
    let columns: Vec<String> = handle.schema.fields().iter().map(|f| f.name().clone()).collect();
    let parameters: Vec<Option<String>> = search.settings.iter().map(|s| Some(s.column()).filter(has)).collect();
    if parameters.iter().all(Option::is_none) {
        let wanted = search.settings.first().map(|s| s.column()).unwrap_or_default();
        return Err(wrong(format!("`{name}` has no column of any parameter, such as `{wanted}`")));
    }
    let lacking: Vec<&str> =
        judge.objectives.iter().map(|o| o.name.as_str()).filter(|n| !has(&n.to_string())).collect();
    if known.results && !lacking.is_empty() {
        return Err(wrong(format!(
            "`{name}` has no column {}, so it has no results for this search",
            lacking.join(", ")
        )));
    }
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for batch in rows(handle, &columns).await? {
        let number = |column: &str, row: usize| -> Option<f64> {
            let values = cast(batch.column_by_name(column)?, &DataType::Float64).ok()?;
            let values = values.as_primitive::<Float64Type>();
            (!values.is_null(row)).then(|| values.value(row))
        };
        for row in 0..batch.num_rows() {
            if !ran(&batch, row) {
                continue;
            }
            let values = parameters.iter().map(|column| {
                let column = batch.column_by_name(column.as_ref()?)?;
                Some(json(column, row))
            });
            let constraints =
                judge.constraints.iter().map(|c| number(&format!("c_{}", c.condition.name), row).unwrap_or(0.0));
            found.push(Row {
                values: values.collect(),
                objectives: judge.objectives.iter().map(|o| number(&o.name, row)).collect(),
                constraints: constraints.collect(),
            });
        }
    }
    Ok(found)
}

/// The trials of a study in a file of Optuna's journal storage.
fn of_optuna(known: &Known, file: &FilePath, search: &Search, judge: &Judge) -> Result<Found> {
    let wrong = |message: String| Failure::stage("optimize::known", message).or_at(file.at.as_ref());
    let open = std::fs::File::open(&file.path).map_err(|e| io(&file.path, "open", &e))?;
    let study = journal::import(std::io::BufReader::new(open), known.study.as_deref());
    let study = study.map_err(|e| wrong(format!("`{}`: {e}", file.written)))?;
    // Parameters go by their path, its last name, or their column.
    let columns = search.settings.iter().map(|s| (s.column(), Some(s.path.clone()))).collect();
    let names = Names::new(&search.space, &columns).map_err(wrong)?;
    let order = if known.results { in_order(&study, judge).map_err(wrong)? } else { Vec::new() };
    let fitted = study.fit(&names);
    let mut found = Found { points: fitted.enqueued, ..Found::default() };
    for (_, trial) in fitted.trials {
        let State::Complete { objectives } = &trial.report.state else { continue };
        if !known.results {
            found.points.push(trial.values);
            continue;
        }
        let missed = |name: &String| trial.report.constraints.iter().find(|(n, _)| n == name).map_or(0.0, |(_, c)| *c);
        found.results.push(Imported {
            objectives: order.iter().map(|&i| objectives.get(i).copied()).collect(),
            constraints: judge.constraints.iter().map(|c| missed(&c.condition.name)).collect(),
            violation: trial.report.constraints.iter().map(|(_, c)| c.max(0.0)).sum(),
            values: trial.values,
        });
    }
    if let Some(first) = fitted.misfits.first() {
        let (n, why) = (fitted.misfits.len(), first.reasons.join("; "));
        found.warnings.push(format!("{n} of the known trials do not fit the space and are left out; the first: {why}"));
    }
    Ok(found)
}

/// Where the other study has each objective of this one: by name, or else in the same order.
fn in_order(study: &ImportedStudy, judge: &Judge) -> std::result::Result<Vec<usize>, String> {
    let at = |name: &String| study.objectives.iter().position(|o| o.name == *name);
    let by_name: Option<Vec<usize>> = judge.objectives.iter().map(|o| at(&o.name)).collect();
    let order = by_name.unwrap_or_else(|| (0..judge.objectives.len()).collect());
    let same = |(o, &i): (&super::objective::Objective, &usize)| {
        study.objectives.get(i).is_some_and(|other| other.maximize == o.maximize)
    };
    if study.objectives.len() != judge.objectives.len() || !judge.objectives.iter().zip(&order).all(same) {
        let direction = |maximize: bool| if maximize { "maximize" } else { "minimize" };
        let told = |all: Vec<(&str, bool)>| {
            all.into_iter().map(|(name, m)| format!("{} {name}", direction(m))).collect::<Vec<_>>().join(", ")
        };
        return Err(format!(
            "the study `{}` wants: {}; this one: {}",
            study.name,
            told(study.objectives.iter().map(|o| (o.name.as_str(), o.maximize)).collect()),
            told(judge.objectives.iter().map(|o| (o.name.as_str(), o.maximize)).collect())
        ));
    }
    Ok(order)
}

/// Whether a row is one that ran to its end; tables without a column `state` have no others.
fn ran(batch: &RecordBatch, row: usize) -> bool {
    let state = batch.column_by_name("state").and_then(|c| cast(c, &DataType::Utf8).ok());
    let Some(state) = state else { return true };
    let state = state.as_string::<i32>();
    state.is_null(row) || matches!(state.value(row).to_lowercase().as_str(), "complete" | "infeasible")
}

/// The value of a cell; text that is a JSON object is one.
fn json(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::from(column.as_boolean().value(row)),
        kind if kind.is_integer() => match cast(column, &DataType::Int64) {
            Ok(values) => Value::from(values.as_primitive::<Int64Type>().value(row)),
            Err(_) => Value::Null,
        },
        kind if kind.is_numeric() => match cast(column, &DataType::Float64) {
            Ok(values) => Value::from(values.as_primitive::<Float64Type>().value(row)),
            Err(_) => Value::Null,
        },
        _ => match cast(column, &DataType::Utf8) {
            Ok(values) => {
                let text = values.as_string::<i32>().value(row).to_string();
                let object = text.starts_with('{').then(|| serde_json::from_str(&text).ok()).flatten();
                object.unwrap_or(Value::String(text))
            }
            Err(_) => Value::Null,
        },
    }
}
