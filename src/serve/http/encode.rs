//! Rows as bytes, a part at a time.
//!
//! The format of the page has a JSON value per line: `{"columns": [..]}`, then an array per row with a text or null per
//! cell (JSON's numbers would lose digits of large integers in a browser), and at the end `{"rows": n}`: how many there
//! are, of which only the first are sent. Where the query fails on its way, the last line is `{"problem": {..}}`.
//!
//! JSON has no number for NaN and what has no end: they are the texts "NaN", "Infinity" and "-Infinity", as in PostgreSQL's
//! and DuckDB's JSON, and null is NULL alone.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, NullableEncoder, make_encoder};
use arrow::json::{EncoderFactory, EncoderOptions, WriterBuilder as JsonBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::negotiate::Format;
use crate::query::columns::duplicates;
use crate::query::output::ObjectPerLine;
use crate::query::text::flat;
use crate::serve::refusal::{Reason, Refusal};
use crate::table::{DESCRIPTION, UNIT};

/// Cells that are written at once; what is made of them is held until it is sent.
const CELLS: usize = 1 << 17;
/// Bytes that a group of rows of a Parquet file may hold before it is written out.
const GROUP_BYTES: usize = 16 << 20;

/// What was written and not taken yet.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes the rows of one result.
pub struct Encoder {
    sink: Sink,
    buffer: Buffer,
}

enum Sink {
    Json(arrow::json::Writer<Buffer, ObjectPerLine>),
    Ndjson(arrow::json::Writer<Buffer, LineDelimited>),
    Csv(Box<arrow::csv::Writer<Buffer>>),
    Arrow(Box<StreamWriter<Buffer>>),
    Parquet(Box<ArrowWriter<Buffer>>),
    Preview { rows: u64, most: u64 },
}

/// Encodes columns with numbers that JSON does not have.
#[derive(Debug)]
struct Floats;

/// Of numbers that JSON has.
static PLAIN: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

impl EncoderFactory for Floats {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        if !array.data_type().is_floating() {
            return Ok(None);
        }
        let word = |v: f64| match v {
            v if v.is_finite() => None,
            v if v.is_nan() => Some("\"NaN\""),
            v if v > 0.0 => Some("\"Infinity\""),
            _ => Some("\"-Infinity\""),
        };
        let wide = cast(array, &DataType::Float64)?;
        let words: Vec<Option<&'static str>> =
            wide.as_primitive::<Float64Type>().iter().map(|v| v.and_then(word)).collect();
        if words.iter().all(Option::is_none) {
            return Ok(None);
        }
        let plain = make_encoder(field, array, &PLAIN)?;
        Ok(Some(NullableEncoder::new(Box::new(Words { words, plain }), array.nulls().cloned())))
    }
}

/// Words in place of some numbers.
struct Words<'a> {
    words: Vec<Option<&'static str>>,
    plain: NullableEncoder<'a>,
}

impl arrow::json::Encoder for Words<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        match self.words.get(row).copied().flatten() {
            Some(word) => out.extend(word.bytes()),
            None => self.plain.encode(row, out),
        }
    }
}

impl Encoder {
    /// With what comes before the first row. The format of the page sends `most` rows.
    ///
    /// # Errors
    /// The format cannot hold these columns.
    pub fn new(format: Format, schema: &SchemaRef, most: u64) -> Result<Encoder, Refusal> {
        let twice = duplicates(schema);
        let by_name = matches!(format, Format::Json | Format::Ndjson | Format::Parquet);
        if by_name && !twice.is_empty() {
            let what = format!("several columns are named `{}`", twice.join("`, `"));
            return Err(Refusal::new(Reason::Query, what).hint("name each differently: `... AS name`"));
        }
        let mut buffer = Buffer::default();
        let to = buffer.clone();
        let json = || JsonBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Floats));
        let sink = match format {
            Format::Json => Sink::Json(json().build(to)),
            Format::Ndjson => Sink::Ndjson(json().build(to)),
            Format::Csv => Sink::Csv(Box::new(CsvBuilder::new().with_header(true).build(to))),
            Format::Arrow => Sink::Arrow(Box::new(StreamWriter::try_new(to, schema).map_err(|e| unfit(&e))?)),
            Format::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                let writer = ArrowWriter::try_new(to, schema.clone(), Some(properties));
                Sink::Parquet(Box::new(writer.map_err(|e| broken(&e))?))
            }
            Format::Preview => {
                let columns: Vec<Value> = schema.fields().iter().map(|f| column(f)).collect();
                line(&mut buffer, &json!({ "columns": columns }));
                Sink::Preview { rows: 0, most }
            }
        };
        let mut encoder = Encoder { sink, buffer };
        // The names also stand over no rows; and a type that the format has not shows before anything is sent.
        encoder.part(&RecordBatch::new_empty(schema.clone()))?;
        Ok(encoder)
    }

    /// # Errors
    /// The format cannot hold a value.
    pub fn rows(&mut self, batch: &RecordBatch) -> Result<(), Refusal> {
        let size = (CELLS / batch.num_columns().max(1)).max(1);
        let starts = (0..batch.num_rows()).step_by(size);
        starts.map(|at| batch.slice(at, size.min(batch.num_rows() - at))).try_for_each(|part| self.part(&part))
    }

    fn part(&mut self, batch: &RecordBatch) -> Result<(), Refusal> {
        match &mut self.sink {
            Sink::Json(writer) => writer.write(batch).map_err(|e| unfit(&e)),
            Sink::Ndjson(writer) => writer.write(batch).map_err(|e| unfit(&e)),
            Sink::Csv(writer) => flat(batch).and_then(|batch| writer.write(&batch)).map_err(|e| unfit(&e)),
            Sink::Arrow(writer) => writer.write(batch).map_err(|e| unfit(&e)),
            Sink::Parquet(writer) => {
                writer.write(batch).map_err(|e| broken(&e))?;
                if writer.in_progress_size() > GROUP_BYTES { writer.flush().map_err(|e| broken(&e)) } else { Ok(()) }
            }
            Sink::Preview { rows, most } => {
                let shown = most.saturating_sub(*rows).min(batch.num_rows() as u64) as usize;
                *rows += batch.num_rows() as u64;
                preview(&mut self.buffer, &batch.slice(0, shown)).map_err(|e| unfit(&e))
            }
        }
    }

    /// What comes after the last row.
    ///
    /// # Errors
    /// None in practice.
    pub fn finish(&mut self) -> Result<(), Refusal> {
        match &mut self.sink {
            Sink::Json(writer) => writer.finish().map_err(|e| unfit(&e)),
            Sink::Ndjson(writer) => writer.finish().map_err(|e| unfit(&e)),
            Sink::Csv(_) => Ok(()),
            Sink::Arrow(writer) => writer.finish().map_err(|e| unfit(&e)),
            Sink::Parquet(writer) => writer.finish().map(|_| ()).map_err(|e| broken(&e)),
            Sink::Preview { rows, .. } => {
                line(&mut self.buffer, &json!({ "rows": rows }));
                Ok(())
            }
        }
    }

    /// The bytes since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is told about a column.
pub fn column(field: &Field) -> Value {
    let told = |key: &str| field.metadata().get(key).map(String::as_str).unwrap_or_default().to_string();
    json!({
        "name": field.name(),
        "type": field.data_type().to_string(),
        "number": field.data_type().is_numeric(),
        "nullable": field.is_nullable(),
        "unit": told(UNIT),
        "description": told(DESCRIPTION),
    })
}

fn preview(out: &mut Buffer, batch: &RecordBatch) -> Result<(), ArrowError> {
    let options = FormatOptions::default();
    let formats = batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options));
    let formats = formats.collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        let cells = formats.iter().zip(batch.columns()).map(|(format, column)| match column.is_null(row) {
            true => Ok(Value::Null),
            false => format.value(row).try_to_string().map(Value::String),
        });
        line(out, &Value::Array(cells.collect::<Result<_, _>>()?));
    }
    Ok(())
}

fn line(out: &mut Buffer, value: &Value) {
    // Writing to memory does not fail.
    let _ = writeln!(out, "{value}");
}

fn unfit(error: &ArrowError) -> Refusal {
    let what = match error {
        ArrowError::CsvError(what) | ArrowError::JsonError(what) | ArrowError::InvalidArgumentError(what) => {
            what.clone()
        }
        other => other.to_string(),
    };
    Refusal::new(Reason::Unsupported, format!("the result cannot be written in this format: {what}"))
        .hint("ask for another format, or CAST the column")
}

fn broken(error: &ParquetError) -> Refusal {
    Refusal::new(Reason::Unsupported, format!("the result cannot be written as Parquet: {error}"))
        .hint("ask for another format, or CAST the column")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float32Array, Float64Array, ListArray};

    #[test]
    fn numbers_that_json_does_not_have() {
        let floats = Float64Array::from(vec![Some(f64::NAN), Some(0.1), None, Some(f64::INFINITY)]);
        let small = Float32Array::from(vec![0.1, f32::NEG_INFINITY, 1.0, 2.0]);
        let lists = [Some(vec![Some(f64::NAN), None]), None, Some(vec![]), Some(vec![Some(1.5)])];
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(lists);
        let columns: [(&str, ArrayRef); 3] = [("a", Arc::new(floats)), ("b", Arc::new(small)), ("c", Arc::new(lists))];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap();
        let mut encoder = Encoder::new(Format::Ndjson, &batch.schema(), 0).unwrap();
        encoder.rows(&batch).unwrap();
        encoder.finish().unwrap();
        let expected = concat!(
            r#"{"a":"NaN","b":0.1,"c":["NaN",null]}"#,
            "\n",
            r#"{"a":0.1,"b":"-Infinity","c":null}"#,
            "\n",
            r#"{"a":null,"b":1.0,"c":[]}"#,
            "\n",
            r#"{"a":"Infinity","b":2.0,"c":[1.5]}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(encoder.take()).unwrap(), expected);
    }
}
