//! Settings that name a table: lengths, pairs and rates are read from it and put in their place.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use pipe_kernel::workload::{
    Body, Empirical, Interpolate, Joint, Lengths, MAX_TOKENS, RatePiece, RateSchedule, Synthetic,
};

use super::settings::{Workload, place};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Synthesize, Text, Tree, TreeValue};
use crate::stage::TableShape;
use crate::store::TableHandle;
use crate::trace;

/// Keys whose map may have a table in `from`.
const READERS: [&str; 3] = ["empirical", "joint", "rate_schedule"];

/// The tables that the settings name, each where it is named.
pub(super) fn named(stage: &Synthesize) -> Vec<Text> {
    let mut found = Vec::new();
    if let Some(from) = &stage.value.from {
        found.push(from.0.clone());
    }
    if let TreeValue::Map(entries) = &stage.tree.value {
        // A workload of another tool has its own keys.
        entries
            .iter()
            .filter(|(key, _)| key.value != "spec")
            .for_each(|(key, tree)| walk(&key.value, tree, &mut found));
    }
    found
}

fn walk(under: &str, tree: &Tree, found: &mut Vec<Text>) {
    match &tree.value {
        TreeValue::Map(entries) => {
            for (key, value) in entries {
                if key.value == "from" && READERS.contains(&under) {
                    found.extend(value.as_str().map(|name| Text::new(name.to_string(), value.at.clone())));
                }
                walk(&key.value, value, found);
            }
        }
        TreeValue::List(items) => items.iter().for_each(|item| walk(under, item, found)),
        TreeValue::Null | TreeValue::Bool(_) | TreeValue::Int(_) | TreeValue::Float(_) | TreeValue::String(_) => {}
    }
}

/// Columns that the tables do not have, as far as their columns are known.
pub(super) fn problems(stage: &Synthesize, tables: &BTreeMap<String, TableShape>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut check = |table: &str, column: &str, path: &str| {
        let Some(schema) = tables.get(table).and_then(|t| t.schema.as_ref()) else { return };
        let message = match schema.field_with_name(column) {
            Ok(field) if field.data_type().is_numeric() => return,
            Ok(field) => format!("column `{column}` of `{table}` is no number but {}", field.data_type()),
            Err(_) => format!("table `{table}` has no column `{column}`"),
        };
        let names = schema.fields().iter().map(|f| f.name().as_str());
        let near = crate::diag::nearest(column, names).map(|near| format!("did you mean `{near}`?"));
        let diagnostic = Diagnostic::new("synthesize::column", message).at(place(&stage.tree, path).cloned());
        found.push(match near {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    };
    fn each(tree: &Tree, path: &str, check: &mut dyn FnMut(&str, &str, &str)) {
        let text = |key: &str| tree.get_path(key).and_then(Tree::as_str);
        match (path.rsplit('.').next(), text("from")) {
            (Some("empirical"), Some(table)) => {
                if let Some(column) = text("column") {
                    check(table, column, &format!("{path}.column"));
                }
            }
            (Some("joint"), Some(table)) => {
                for (key, default) in [("input", "input_tokens"), ("output", "output_tokens")] {
                    check(table, text(key).unwrap_or(default), &format!("{path}.{key}"));
                }
            }
            (Some("rate_schedule"), Some(table)) => check(table, "rate_rps", &format!("{path}.from")),
            _ => {}
        }
        if let TreeValue::Map(entries) = &tree.value {
            for (key, value) in entries.iter().filter(|(key, _)| !(path.is_empty() && key.value == "spec")) {
                let below = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                each(value, &below, check);
            }
        }
    }
    each(&stage.tree, "", &mut check);
    found
}

/// Reads what the workload names tables for.
///
/// # Errors
/// A table or a column is missing, or has nothing that could be drawn.
pub(super) fn resolve(workload: &mut Workload, inputs: &BTreeMap<String, TableHandle>) -> Result<()> {
    match workload {
        Workload::One(one) => resolve_one(one, inputs),
        Workload::Many(many) => {
            for client in &mut many.clients {
                match &mut client.body {
                    Body::Alike(body) => resolve_one(body, inputs)?,
                    // Of other tools, whose settings name no tables.
                    Body::Windows(_) => {}
                }
            }
            Ok(())
        }
    }
}

fn resolve_one(of: &mut Synthetic, inputs: &BTreeMap<String, TableHandle>) -> Result<()> {
    for lengths in of.lengths_mut() {
        if let Lengths::Empirical(empirical) = lengths
            && let (Some(from), Some(column)) = (&empirical.from, &empirical.column)
        {
            let read = columns(from, &[column], inputs)?;
            let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
            read.iter().filter_map(|row| tokens(row[0])).for_each(|t| *counts.entry(t).or_default() += 1.0);
            if counts.is_empty() {
                return Err(nothing(from, column));
            }
            let (values, weights) = counts.into_iter().unzip();
            *empirical = Empirical { values, weights, from: None, column: None };
        }
    }
    if let Some(Joint { from: Some(from), input, output, .. }) = &of.joint {
        let names = [input.as_deref().unwrap_or("input_tokens"), output.as_deref().unwrap_or("output_tokens")];
        let read = columns(from, &names, inputs)?;
        let pairs: Vec<(u32, u32)> = read.iter().filter_map(|row| Some((tokens(row[0])?, tokens(row[1])?))).collect();
        if pairs.is_empty() {
            return Err(nothing(from, &names.join("` and `")));
        }
        of.joint = Some(Joint { pairs, ..Joint::default() });
    }
    if let Some(RateSchedule { from: Some(from), interpolate, after, .. }) = &of.rate_schedule {
        let in_ns = inputs.get(from).is_some_and(|t| t.schema.field_with_name("at_s").is_err());
        let at = if in_ns { "at_ns" } else { "at_s" };
        let read = columns(from, &[at, "rate_rps"], inputs)?;
        let unit = if in_ns { 1e-9 } else { 1.0 };
        let points = read.iter().filter_map(|row| Some((row[0]? * unit, row[1]?))).collect();
        let pieces = pieces(points, *interpolate).map_err(|why| {
            Failure::stage("synthesize::rates", format!("table `{from}` holds no schedule of rates: {why}"))
        })?;
        of.rate_schedule = Some(RateSchedule { pieces, from: None, interpolate: Interpolate::Step, after: *after });
    }
    Ok(())
}

fn nothing(table: &str, column: &str) -> Failure {
    let message = format!("column `{column}` of table `{table}` has no lengths of 1 to {MAX_TOKENS} tokens");
    Failure::stage("synthesize::no_lengths", message)
}

fn tokens(value: Option<f64>) -> Option<u32> {
    value.filter(|v| (1.0..=f64::from(MAX_TOKENS)).contains(v)).map(|v| v.round() as u32)
}

/// Pieces between rows of time and rate. The last row is where the schedule ends, or, with steps, lasts as long as the
/// piece before it.
fn pieces(points: Vec<(f64, f64)>, interpolate: Interpolate) -> std::result::Result<Vec<RatePiece>, String> {
    if points.is_empty() {
        return Err("it has no rows".to_string());
    }
    if let Some(w) = points.windows(2).find(|w| w[1].0 <= w[0].0) {
        return Err(format!("{} s comes after {} s", w[1].0, w[0].0));
    }
    if let Some((at, rate)) = points.iter().find(|(at, rate)| !(rate.is_finite() && *rate >= 0.0 && at.is_finite())) {
        return Err(format!("at {at} s the rate is {rate}"));
    }
    if points.iter().all(|(_, rate)| *rate == 0.0) {
        return Err("all its rates are 0".to_string());
    }
    let piece = |until: f64, from: f64, to: f64| RatePiece {
        for_s: None,
        until_s: Some(until),
        rate_rps: from,
        to_rps: (interpolate == Interpolate::Linear).then_some(to),
    };
    let mut made: Vec<RatePiece> = points.windows(2).map(|w| piece(w[1].0, w[0].1, w[1].1)).collect();
    made.retain(|p| p.until_s.is_some_and(|s| s > 0.0));
    let (last, rate) = points[points.len() - 1];
    let width = points.len().checked_sub(2).map_or(1.0, |i| last - points[i].0);
    if interpolate == Interpolate::Step || made.is_empty() {
        made.push(piece(last.max(0.0) + width, rate, rate));
    }
    Ok(made)
}

/// Columns of a table as numbers, row by row.
///
/// # Errors
/// The table is not there, lacks a column, or cannot be read.
fn columns(table: &str, names: &[&str], inputs: &BTreeMap<String, TableHandle>) -> Result<Vec<Vec<Option<f64>>>> {
    let missing = || Failure::stage("synthesize::no_table", format!("table `{table}` was not made"));
    let handle = inputs.get(table).ok_or_else(missing)?;
    let mut rows = Vec::new();
    for batch in trace::parts(&handle.parts)? {
        let batch = batch?;
        let read: Result<Vec<ArrayRef>> = names.iter().map(|name| number(&batch, table, name)).collect();
        let read = read?;
        let value = |column: &ArrayRef, i: usize| {
            let column = column.as_primitive::<Float64Type>();
            column.is_valid(i).then(|| column.value(i))
        };
        rows.extend((0..batch.num_rows()).map(|i| read.iter().map(|c| value(c, i)).collect()));
    }
    Ok(rows)
}

fn number(batch: &RecordBatch, table: &str, name: &str) -> Result<ArrayRef> {
    let wrong = |why: String| Failure::stage("synthesize::column", why);
    let missing = || wrong(format!("table `{table}` has no column `{name}`"));
    let column = batch.column_by_name(name).ok_or_else(missing)?;
    if !column.data_type().is_numeric() {
        return Err(wrong(format!("column `{name}` of `{table}` is no number but {}", column.data_type())));
    }
    cast(column, &DataType::Float64).map_err(|e| wrong(format!("column `{name}` of `{table}`: {e}")))
}

/// A column of whole numbers, or nothing where the table lacks it.
pub(super) fn ints(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    let column = batch.column_by_name(name).and_then(|c| cast(c, &DataType::Int64).ok());
    match column {
        Some(column) => column.as_primitive::<Int64Type>().iter().collect(),
        None => vec![None; batch.num_rows()],
    }
}
