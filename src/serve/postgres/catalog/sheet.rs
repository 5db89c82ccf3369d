//! Tables of the catalog, from a line that names their columns and rows that say what is not as usual.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::Result;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Text(String),
    Int(i64),
    Bool(bool),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_string())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

impl From<i32> for Cell {
    fn from(n: i32) -> Cell {
        Cell::Int(i64::from(n))
    }
}

impl From<i64> for Cell {
    fn from(n: i64) -> Cell {
        Cell::Int(n)
    }
}

impl From<bool> for Cell {
    fn from(b: bool) -> Cell {
        Cell::Bool(b)
    }
}

/// A row: columns with values. Columns that it leaves out are NULL if they can be, else 0, false or empty.
pub type Row = Vec<(&'static str, Cell)>;

/// A table. `spec` is like `oid:oid relname:text reltuples:float4 relacl:text?`; `?` is for columns that can be NULL.
///
/// # Errors
/// None in practice: arrays are made to the schema.
pub fn sheet(spec: &str, rows: &[Row]) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for column in spec.split_whitespace() {
        let (name, kind) = column.split_once(':').unwrap_or((column, "text"));
        let (kind, nullable) = kind.strip_suffix('?').map_or((kind, false), |k| (k, true));
        let cells: Vec<Option<&Cell>> =
            rows.iter().map(|row| row.iter().find(|(n, _)| *n == name).map(|(_, c)| c)).collect();
        let (field, array) = column_of(name, kind, nullable, &cells);
        fields.push(field);
        arrays.push(array);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

fn column_of(name: &str, kind: &str, nullable: bool, cells: &[Option<&Cell>]) -> (Field, ArrayRef) {
    let int = |c: &Option<&Cell>| match c {
        Some(Cell::Int(n)) => Some(*n),
        _ => (!nullable).then_some(0),
    };
    let ints = || cells.iter().map(int);
    let field = |kind| Field::new(name, kind, nullable);
    match kind {
        "oid" => {
            // How the crates mark what is sent as an oid.
            let mark = HashMap::from([("pg.oid_alias".to_string(), "oid".to_string())]);
            let array: Int32Array = ints().map(|n| n.map(|n| n as i32)).collect();
            (field(DataType::Int32).with_metadata(mark), Arc::new(array))
        }
        // Lists of text, of which none has a value here.
        "texts" => {
            let kind = DataType::new_list(DataType::Utf8, true);
            (Field::new(name, kind.clone(), true), new_null_array(&kind, cells.len()))
        }
        "int2" => (field(DataType::Int16), Arc::new(ints().map(|n| n.map(|n| n as i16)).collect::<Int16Array>())),
        "int4" => (field(DataType::Int32), Arc::new(ints().map(|n| n.map(|n| n as i32)).collect::<Int32Array>())),
        "int8" => (field(DataType::Int64), Arc::new(ints().collect::<Int64Array>())),
        "float4" => (field(DataType::Float32), Arc::new(ints().map(|n| n.map(|n| n as f32)).collect::<Float32Array>())),
        "bool" => {
            let bools = cells.iter().map(|c| match c {
                Some(Cell::Bool(b)) => Some(*b),
                _ => (!nullable).then_some(false),
            });
            (field(DataType::Boolean), Arc::new(bools.collect::<BooleanArray>()))
        }
        _ => {
            let texts = cells.iter().map(|c| match c {
                Some(Cell::Text(t)) => Some(t.as_str()),
                _ => (!nullable).then_some(""),
            });
            (field(DataType::Utf8), Arc::new(texts.collect::<StringArray>()))
        }
    }
}
