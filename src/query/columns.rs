//! The columns of stored results: plain types, unit and description.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;

use crate::table::{DESCRIPTION, UNIT};

/// The schema under which a result is stored.
///
/// Text is Utf8 and binary is Binary, however the engine held them. A column that passes through unchanged keeps unit
/// and description; the unit of others is read off the name (`ttft_ms_p99`: ms).
pub fn stored_schema(result: &Schema) -> SchemaRef {
    let fields: Vec<Field> = result
        .fields()
        .iter()
        .map(|f| {
            let kind = stored_type(f.data_type());
            let nullable = f.is_nullable() || kind != *f.data_type();
            Field::new(f.name(), kind, nullable).with_metadata(metadata(f).into_iter().collect())
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn stored_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => stored_type(values),
        // A column of nothing but NULL: Parquet has no type for it.
        DataType::Null => DataType::Utf8,
        other => other.clone(),
    }
}

fn metadata(field: &Field) -> BTreeMap<String, String> {
    let inferred = unit_of_name(field.name());
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    // An expression may hand on the metadata of its argument; the name tells whether it is still the same quantity.
    let same = match (field.metadata().get(UNIT).map(String::as_str), inferred) {
        (Some(unit), Some(named)) => unit == named,
        (None, Some(_)) => false,
        _ => true,
    };
    if same {
        for key in [UNIT, DESCRIPTION] {
            if let Some(value) = field.metadata().get(key) {
                kept.insert(key.to_string(), value.clone());
            }
        }
    } else if let Some(unit) = inferred {
        kept.insert(UNIT.to_string(), unit.to_string());
    }
    kept
}

/// The unit that a column's name ends in, statistics after it left aside: `e2e_ms`, `e2e_ms_p99`, `rate_rps`.
pub fn unit_of_name(name: &str) -> Option<&'static str> {
    let is_statistic = |word: &str| {
        matches!(word, "mean" | "avg" | "min" | "max" | "std" | "sum" | "total" | "median")
            || word.strip_prefix('p').is_some_and(|q| !q.is_empty() && q.bytes().all(|b| b.is_ascii_digit()))
    };
    let words: Vec<&str> = name.split('_').collect();
    let last = words.iter().rposition(|w| !is_statistic(w))?;
    // `s` alone is a name, `duration_s` has a unit.
    if last == 0 && words[0] != "tokens" {
        return None;
    }
    match words[last] {
        "ns" => Some("ns"),
        "us" => Some("us"),
        "ms" => Some("ms"),
        "s" => Some("s"),
        "tokens" => Some("tokens"),
        "rps" => Some("1/s"),
        "tps" => Some("tokens/s"),
        _ => None,
    }
}

/// The batch with the types of `schema`.
///
/// # Errors
/// A value that does not fit, which [`stored_schema`] rules out.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns =
        batch
            .columns()
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    Ok(column.clone())
                } else {
                    cast(column, field.data_type())
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema.clone(), columns)
}

/// Names that a schema has more than once.
pub fn duplicates(schema: &Schema) -> Vec<String> {
    let mut seen = BTreeSet::new();
    schema.fields().iter().filter(|f| !seen.insert(f.name().as_str())).map(|f| f.name().clone()).collect()
}

/// Positions (from 1) of the columns that rows can be ordered by.
pub fn sortable(schema: &Schema) -> Vec<usize> {
    schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, f)| !f.data_type().is_nested() && !f.data_type().is_null())
        .map(|(i, _)| i + 1)
        .collect()
}

/// The names of types that `schema:` of a stage understands, with the types that they stand for.
const TYPES: &[(&str, DataType)] = &[
    ("bigint", DataType::Int64),
    ("boolean", DataType::Boolean),
    ("date", DataType::Date32),
    ("double", DataType::Float64),
    ("int", DataType::Int32),
    ("real", DataType::Float32),
    ("smallint", DataType::Int16),
    ("text", DataType::Utf8),
    ("timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None)),
];

/// The type that a user's name stands for; `None` if there is no such name.
pub fn type_named(name: &str) -> Option<DataType> {
    let name = name.trim().to_lowercase();
    let name = match name.as_str() {
        "bool" => "boolean",
        "float64" | "double precision" => "double",
        "float" | "float32" => "real",
        "integer" | "int32" => "int",
        "int64" => "bigint",
        "int16" => "smallint",
        "string" | "varchar" | "utf8" => "text",
        other => other,
    };
    TYPES.iter().find(|(n, _)| *n == name).map(|(_, t)| t.clone())
}

/// A type as users write it, or Arrow's name where they cannot.
pub fn type_name(kind: &DataType) -> String {
    TYPES.iter().find(|(_, t)| t == kind).map_or_else(|| kind.to_string(), |(n, _)| n.to_string())
}

/// All type names, for help texts.
pub fn type_names() -> Vec<String> {
    TYPES.iter().map(|(n, _)| n.to_string()).collect()
}
