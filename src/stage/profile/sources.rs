//! What became of each file, and the facts of a GPU, as tables beside a profile.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use serde_json::Value;

use super::points::Source;
use crate::diag::{Failure, Result, io};
use crate::spec::FilePath;
use crate::stage::RunCx;
use crate::table::profile::{gpu_schema, sources_schema};

fn table(cx: &RunCx, name: &str, schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<()> {
    let rows = RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| Failure::stage("profile::arrow", format!("cannot put the rows together: {e}")))?;
    let mut writer = cx.out.table(name, schema)?;
    writer.write(&rows)?;
    writer.finish()
}

/// Writes the table of sources, sorted by file.
pub(super) fn write(cx: &RunCx, name: &str, sources: &[Source]) -> Result<()> {
    let mut sources: Vec<&Source> = sources.iter().collect();
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    let texts = |f: &dyn Fn(&Source) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(sources.iter().map(|s| f(s))))
    };
    let counts = |f: fn(&Source) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(sources.iter().map(|s| i64::try_from(f(s)).unwrap_or(i64::MAX))))
    };
    let operators = |s: &Source| s.operators.iter().map(|o| o.name()).collect::<Vec<_>>().join(", ");
    let reasons = |s: &Source| s.rejected.iter().map(|(why, n)| format!("{n} {why}")).collect::<Vec<_>>().join(", ");
    let columns = vec![
        texts(&|s| s.file.clone()),
        texts(&operators),
        counts(|s| s.rows),
        counts(|s| s.points),
        counts(|s| s.duplicates),
        counts(|s| s.rejected.values().sum()),
        texts(&reasons),
        texts(&|s| s.note.clone()),
    ];
    table(cx, name, sources_schema(), columns)
}

/// A fact by its dotted name.
struct Fact {
    name: String,
    value: Option<f64>,
    text: Option<String>,
}

fn flatten(name: &str, value: &Value, facts: &mut Vec<Fact>) {
    let mut fact = |value, text| facts.push(Fact { name: name.to_string(), value, text });
    match value {
        Value::Null => {}
        Value::Bool(b) => fact(None, Some(b.to_string())),
        Value::Number(n) => fact(n.as_f64(), None),
        Value::String(s) => fact(None, Some(s.clone())),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                flatten(&format!("{name}.{i}"), item, facts);
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, item, facts);
            }
        }
    }
}

/// Units of aiconfigurator's facts, by their names.
fn unit(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.ends_with("_bw") {
        "B/s"
    } else if last.ends_with("_flops") {
        "1/s"
    } else if last.ends_with("latency") {
        "s"
    } else if last.ends_with("_capacity") || last == "other_mem" || name.contains("nccl_mem") {
        "B"
    } else if last == "power" {
        "W"
    } else {
        ""
    }
}

/// Writes the facts of a GPU in the order of its file.
pub(super) fn write_gpu(cx: &RunCx, name: &str, file: &FilePath) -> Result<()> {
    let text = std::fs::read_to_string(&file.path).map_err(|e| io(&file.path, "read", &e))?;
    let content: Value = serde_saphyr::from_str(&text)
        .map_err(|e| Failure::stage("profile::gpu", format!("cannot read {}: {e}", file.written)))?;
    let mut facts = Vec::new();
    flatten("", &content, &mut facts);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(facts.iter().map(|f| &f.name))),
        Arc::new(Float64Array::from_iter(facts.iter().map(|f| f.value))),
        Arc::new(StringArray::from_iter(facts.iter().map(|f| f.text.as_deref()))),
        Arc::new(StringArray::from_iter_values(
            facts.iter().map(|f| if f.value.is_some() { unit(&f.name) } else { "" }),
        )),
    ];
    table(cx, name, gpu_schema(), columns)
}
