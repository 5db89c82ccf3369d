//! The schemas between stages: columns, units, sort order. One file per table.
//!
//! Every column carries `unit` and `description` in its Parquet field metadata; `pipe show TABLE` prints them.

pub mod measured;
pub mod profile;
pub mod queueing;
pub mod requests;
pub mod simulation;

use std::collections::HashMap;

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
