//! The schemas between stages: columns, units, sort order. One file per table.
//!
//! Every column carries `unit` and `description` in its Parquet field metadata; `pipe show TABLE` prints them.
//!
//! Columns keep their names and meaning: new ones are added. Where one goes, or gets another type, unit or meaning, or rows
//! change at all, the version of the stage's kind is raised (`Kind::version`), and the table is another
//! result in another folder: a published folder holds parts of one schema. The version is in the result's manifest, in
//! `pipe show`, `pipe ls --json` and `pipe ls --duckdb`; it is not in the Parquet files, whose bytes are their columns and
//! rows alone.

pub mod measured;
pub mod profile;
pub mod queueing;
pub mod requests;
pub mod simulation;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::datatypes::{DataType, Field};

/// Field metadata: unit of the values (`ns`, `ms`, `tokens`, `1/s`, ...; absent for names and counts without unit).
pub const UNIT: &str = "unit";
/// Field metadata: what the column holds.
pub const DESCRIPTION: &str = "description";

/// A column with its unit (may be empty) and description.
pub fn column(name: &str, kind: DataType, nullable: bool, unit: &str, description: &str) -> Field {
    let mut meta = HashMap::new();
    if !unit.is_empty() {
        meta.insert(UNIT.to_string(), unit.to_string());
    }
    meta.insert(DESCRIPTION.to_string(), description.to_string());
    Field::new(name, kind, nullable).with_metadata(meta)
}

/// A column of `rows` rows without values. All of a type share their memory: most columns of most traces are such.
pub fn nulls(kind: &DataType, rows: usize) -> ArrayRef {
    /// The longest that is kept.
    const ROWS: usize = 1 << 17;
    static KEPT: Mutex<Vec<ArrayRef>> = Mutex::new(Vec::new());
    if rows > ROWS {
        return new_null_array(kind, rows);
    }
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.iter().find(|c| c.data_type() == kind && c.len() >= rows) {
        return known.slice(0, rows);
    }
    let made = new_null_array(kind, rows.next_power_of_two().max(1 << 13));
    kept.retain(|c| c.data_type() != kind);
    kept.push(made.clone());
    made.slice(0, rows)
}
