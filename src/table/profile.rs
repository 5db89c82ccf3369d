//! Profiles: measured times of operators, layers or steps, as a stage `profile` makes them.
//!
//! One row per distinct shape, sorted by the columns in front of `latency_us`, operators in the order of
//! [`Operator::ALL`]. The columns of the shape are the names of [`Operator::dims`]; those that an operator does not have
//! are null.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use pipe_kernel::profile::Operator;

use super::column;

/// Names of all shape columns, in the order of the schema.
pub fn shape_columns() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for name in Operator::ALL.iter().flat_map(|o| o.dims()) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    names
}

pub fn schema() -> SchemaRef {
    let mut fields = vec![
        column("layout", DataType::Utf8, false, "", "Whose layout the file has: `operators`, `layers`, `vidur`, ..."),
        column("operator", DataType::Utf8, false, "", "What was measured"),
        column("variant", DataType::Utf8, false, "", "Which of several implementations or layers; may be empty"),
        column("dtype", DataType::Utf8, false, "", "Type of the arithmetic or of the data; empty where not said"),
        column("kv_dtype", DataType::Utf8, false, "", "Type of the cache's entries; empty where there is none"),
    ];
    let shape = |name| column(name, DataType::Int64, true, "", "Of the shape");
    fields.extend(shape_columns().into_iter().map(shape));
    fields.extend([
        column("latency_us", DataType::Float64, false, "us", "Time: the median of the repetitions"),
        column("samples", DataType::Int32, false, "", "Repetitions in the file"),
    ]);
    Arc::new(Schema::new(fields))
}

/// What became of the files of a profile: a row per file, sorted by `file`.
pub fn sources_schema() -> SchemaRef {
    let count = |name, what| column(name, DataType::Int64, false, "", what);
    Arc::new(Schema::new(vec![
        column("file", DataType::Utf8, false, "", "The file, as reached from the path in the pipeline"),
        column("operators", DataType::Utf8, false, "", "What was measured in it"),
        count("rows", "Rows of the file"),
        count("points", "Points that it brought; of a shape in several files the first has it"),
        count("duplicates", "Measurements of a shape that is already there: the median counts"),
        count("rejected", "Rows that cannot be and were left out"),
        column("reasons", DataType::Utf8, false, "", "Why, and how many of each"),
        column("note", DataType::Utf8, false, "", "Why it was not read, or what it stands for"),
    ]))
}

/// Facts of a GPU beside a database of operators, in the order of their file.
pub fn gpu_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("name", DataType::Utf8, false, "", "Dotted name in the file"),
        column("value", DataType::Float64, true, "", "A number"),
        column("text", DataType::Utf8, true, "", "What is no number"),
        column("unit", DataType::Utf8, false, "", "Unit of the number; empty where it has none"),
    ]))
}
