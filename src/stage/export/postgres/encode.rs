//! Rows in the binary format of COPY, and the types that columns have in PostgreSQL.
//!
//! Source: PostgreSQL's documentation, "COPY", "File Formats", "Binary Format"; the formats of values are those that the
//! `*_send` functions of the server's types write.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema, Time64MicrosecondType, TimeUnit,
};

use super::super::write::text;
use crate::diag::{Diagnostic, Failure, Result};

/// Columns of a table, and bytes of a name, that PostgreSQL takes.
const COLUMNS: usize = 1_600;
pub const NAME_BYTES: usize = 63;

/// 2000-01-01, from where PostgreSQL counts, since 1970-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = 946_684_800_000_000;

/// A type of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    Bytea,
    Date,
    Time,
    /// With the ticks of a second in Arrow.
    Timestamp {
        per_s: i64,
        zone: bool,
    },
    Numeric,
    Array(Box<Type>),
}

impl Type {
    /// What a column of Arrow becomes; `None` where PostgreSQL has nothing like it.
    pub fn of(kind: &DataType) -> Option<Type> {
        Some(match kind {
            DataType::Dictionary(_, values) => return Type::of(values),
            DataType::Boolean => Type::Bool,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::Int2,
            DataType::Int32 | DataType::UInt16 => Type::Int4,
            DataType::Int64 | DataType::UInt32 => Type::Int8,
            DataType::Float16 | DataType::Float32 => Type::Float4,
            DataType::Float64 => Type::Float8,
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Type::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Type::Bytea
            }
            DataType::Date32 | DataType::Date64 => Type::Date,
            DataType::Time32(_) | DataType::Time64(_) => Type::Time,
            DataType::Timestamp(unit, zone) => {
                let per_s = match unit {
                    TimeUnit::Second => 1,
                    TimeUnit::Millisecond => 1_000,
                    TimeUnit::Microsecond => 1_000_000,
                    TimeUnit::Nanosecond => 1_000_000_000,
                };
                Type::Timestamp { per_s, zone: zone.is_some() }
            }
            DataType::UInt64 => Type::Numeric,
            kind if kind.is_decimal() => Type::Numeric,
            // Lists of lists would have to be rectangular.
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                match Type::of(item.data_type())? {
                    Type::Array(_) => return None,
                    item => Type::Array(Box::new(item)),
                }
            }
            _ => return None,
        })
    }

    /// As the server itself writes it.
    pub fn name(&self) -> String {
        match self {
            Type::Bool => "boolean".to_string(),
            Type::Int2 => "smallint".to_string(),
            Type::Int4 => "integer".to_string(),
            Type::Int8 => "bigint".to_string(),
            Type::Float4 => "real".to_string(),
            Type::Float8 => "double precision".to_string(),
            Type::Text => "text".to_string(),
            Type::Bytea => "bytea".to_string(),
            Type::Date => "date".to_string(),
            Type::Time => "time without time zone".to_string(),
            Type::Timestamp { zone: false, .. } => "timestamp without time zone".to_string(),
            Type::Timestamp { zone: true, .. } => "timestamp with time zone".to_string(),
            Type::Numeric => "numeric".to_string(),
            Type::Array(item) => format!("{}[]", item.name()),
        }
    }

    /// Number of the type in the server's catalog, which items of arrays carry.
    fn oid(&self) -> i32 {
        match self {
            Type::Bool => 16,
            Type::Bytea => 17,
            Type::Int8 => 20,
            Type::Int2 => 21,
            Type::Int4 => 23,
            Type::Text => 25,
            Type::Float4 => 700,
            Type::Float8 => 701,
            Type::Date => 1082,
            Type::Time => 1083,
            Type::Timestamp { zone: false, .. } => 1114,
            Type::Timestamp { zone: true, .. } => 1184,
            Type::Numeric => 1700,
            // Not within arrays: see `Type::of`.
            Type::Array(_) => 2277,
        }
    }
}

/// What of a table PostgreSQL cannot hold.
pub fn unfit(schema: &Schema) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let wrong = |message: String, help: &str| Diagnostic::new("export::postgres_column", message).help(help);
    if schema.fields().len() > COLUMNS {
        let message = format!("the table has {} columns, and PostgreSQL takes {COLUMNS}", schema.fields().len());
        found.push(wrong(message, "choose some with a `sql` stage"));
    }
    for field in schema.fields() {
        if Type::of(field.data_type()).is_none() {
            let message = format!("column `{}` is {}, which PostgreSQL cannot hold", field.name(), field.data_type());
            found.push(wrong(message, "leave it out, or make it text or numbers, with a `sql` stage"));
        }
        if field.name().len() > NAME_BYTES || field.name().contains('\0') || field.name().is_empty() {
            let message = format!("column `{}` cannot be called so: names have 1 to {NAME_BYTES} bytes", field.name());
            found.push(wrong(message, "rename it with a `sql` stage: `SELECT \"...\" AS short`"));
        }
    }
    found
}

/// What comes before the first row and after the last.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const TRAILER: &[u8] = &[0xff, 0xff];

/// Appends the rows of a batch, whose first is row `first` of the table. Returns how many times were rounded to
/// microseconds.
///
/// # Errors
/// Text with a zero character; times beyond those of PostgreSQL.
pub fn rows(batch: &RecordBatch, first: u64, out: &mut Vec<u8>) -> Result<i64> {
    let broken =
        |e: arrow::error::ArrowError| Failure::stage("export::postgres", format!("cannot write a column: {e}"));
    let columns = batch.columns().iter().map(Values::of).collect::<std::result::Result<Vec<_>, _>>().map_err(broken)?;
    let mut rounded = 0;
    for i in 0..batch.num_rows() {
        put16(out, columns.len() as i16);
        for (c, column) in columns.iter().enumerate() {
            column.put(i, out, &mut rounded).map_err(|what| {
                let schema = batch.schema();
                let message = format!("row {} of column `{}`: {what}", first + i as u64 + 1, schema.field(c).name());
                let problem = Diagnostic::new("export::value", message).help("mend or leave out with a `sql` stage");
                Failure { exit: crate::diag::Exit::Stage, diagnostics: vec![problem] }
            })?;
        }
    }
    Ok(rounded)
}

/// A column of a batch, in the arrays that [`Type`] is written from.
struct Values {
    kind: Type,
    array: ArrayRef,
    items: Option<Box<Values>>,
}

impl Values {
    fn of(column: &ArrayRef) -> std::result::Result<Values, arrow::error::ArrowError> {
        let unknown = || arrow::error::ArrowError::NotYetImplemented(column.data_type().to_string());
        let kind = Type::of(column.data_type()).ok_or_else(unknown)?;
        let column = match column.data_type() {
            DataType::Dictionary(_, values) => &cast(column, values)?,
            _ => column,
        };
        let mut items = None;
        let array = match &kind {
            Type::Bool => column.clone(),
            Type::Int2 => cast(column, &DataType::Int16)?,
            Type::Int4 => cast(column, &DataType::Int32)?,
            Type::Int8 => cast(column, &DataType::Int64)?,
            Type::Float4 => cast(column, &DataType::Float32)?,
            Type::Float8 => cast(column, &DataType::Float64)?,
            Type::Text => cast(column, &DataType::LargeUtf8)?,
            Type::Bytea => cast(column, &DataType::LargeBinary)?,
            Type::Date => cast(&cast(column, &DataType::Date32)?, &DataType::Int32)?,
            Type::Time => cast(column, &DataType::Time64(TimeUnit::Microsecond))?,
            Type::Timestamp { .. } => cast(column, &DataType::Int64)?,
            Type::Numeric => text(column)?,
            Type::Array(_) => {
                let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
                    column.data_type()
                else {
                    return Err(unknown());
                };
                let lists = cast(column, &DataType::LargeList(item.clone()))?;
                items = Some(Box::new(Values::of(lists.as_list::<i64>().values())?));
                lists
            }
        };
        Ok(Values { kind, array, items })
    }

    /// Appends the length of a value and the value.
    fn put(&self, i: usize, out: &mut Vec<u8>, rounded: &mut i64) -> std::result::Result<(), String> {
        if self.array.is_null(i) {
            put32(out, -1);
            return Ok(());
        }
        let start = out.len();
        put32(out, 0);
        match &self.kind {
            Type::Bool => out.push(u8::from(self.array.as_boolean().value(i))),
            Type::Int2 => put16(out, self.array.as_primitive::<Int16Type>().value(i)),
            Type::Int4 => put32(out, self.array.as_primitive::<Int32Type>().value(i)),
            Type::Int8 => put64(out, self.array.as_primitive::<Int64Type>().value(i)),
            Type::Float4 => out.extend(self.array.as_primitive::<Float32Type>().value(i).to_be_bytes()),
            Type::Float8 => out.extend(self.array.as_primitive::<Float64Type>().value(i).to_be_bytes()),
            Type::Text => {
                let text = self.array.as_string::<i64>().value(i);
                if text.contains('\0') {
                    return Err("the text has a zero character, which PostgreSQL cannot hold".to_string());
                }
                out.extend(text.as_bytes());
            }
            Type::Bytea => out.extend(self.array.as_binary::<i64>().value(i)),
            Type::Date => {
                let days = self.array.as_primitive::<Int32Type>().value(i).checked_sub(EPOCH_DAYS);
                // The least stands for the infinite past.
                put32(out, days.filter(|d| *d != i32::MIN).ok_or("the day is before those of PostgreSQL")?);
            }
            Type::Time => put64(out, self.array.as_primitive::<Time64MicrosecondType>().value(i)),
            Type::Timestamp { per_s, .. } => {
                let ticks = self.array.as_primitive::<Int64Type>().value(i);
                put64(out, micros(ticks, *per_s, rounded).ok_or("the time is beyond those of PostgreSQL")?);
            }
            Type::Numeric => numeric(self.array.as_string::<i32>().value(i), out),
            Type::Array(item) => self.list(i, item, out, rounded)?,
        }
        let len = i32::try_from(out.len() - start - 4).map_err(|_| "the value is larger than 2 GiB".to_string())?;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        Ok(())
    }

    fn list(&self, i: usize, item: &Type, out: &mut Vec<u8>, rounded: &mut i64) -> std::result::Result<(), String> {
        let (lists, Some(items)) = (self.array.as_list::<i64>(), &self.items) else { return Ok(()) };
        let offsets = lists.value_offsets();
        let (from, to) = (offsets[i] as usize, offsets[i + 1] as usize);
        put32(out, i32::from(to > from));
        put32(out, i32::from((from..to).any(|k| items.array.is_null(k))));
        put32(out, item.oid());
        if to > from {
            put32(out, i32::try_from(to - from).map_err(|_| "the list is too long".to_string())?);
            // Numbered from 1.
            put32(out, 1);
        }
        (from..to).try_for_each(|k| items.put(k, out, rounded))
    }
}

/// Microseconds since 2000.
fn micros(ticks: i64, per_s: i64, rounded: &mut i64) -> Option<i64> {
    let us = match per_s {
        1_000_000_000 => {
            *rounded += i64::from(ticks % 1_000 != 0);
            ticks.div_euclid(1_000)
        }
        per_s => ticks.checked_mul(1_000_000 / per_s)?,
    };
    // The least and the greatest stand for infinities.
    us.checked_sub(EPOCH_US).filter(|us| !matches!(*us, i64::MIN | i64::MAX))
}

/// A decimal number in PostgreSQL's digits, which are groups of four.
fn numeric(decimal: &str, out: &mut Vec<u8>) {
    let (negative, decimal) = decimal.strip_prefix('-').map_or((false, decimal), |rest| (true, rest));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let pad = (4 - whole.len() % 4) % 4;
    let digits: Vec<u8> = std::iter::repeat_n(b'0', pad).chain(whole.bytes()).chain(fraction.bytes()).collect();
    let group = |four: &[u8]| (0..4).fold(0_i16, |n, k| n * 10 + i16::from(four.get(k).unwrap_or(&b'0') - b'0'));
    let groups: Vec<i16> = digits.chunks(4).map(group).collect();
    let lead = groups.iter().take_while(|g| **g == 0).count();
    let end = groups.iter().rposition(|g| *g != 0).map_or(lead, |last| last + 1);
    let kept = groups.get(lead..end).unwrap_or_default();
    let weight = ((whole.len() + pad) / 4) as i16 - 1 - lead as i16;
    put16(out, kept.len() as i16);
    put16(out, if kept.is_empty() { 0 } else { weight });
    put16(out, if negative && !kept.is_empty() { 0x4000 } else { 0 });
    put16(out, fraction.len() as i16);
    kept.iter().for_each(|group| put16(out, *group));
}

fn put16(out: &mut Vec<u8>, value: i16) {
    out.extend(value.to_be_bytes());
}

fn put32(out: &mut Vec<u8>, value: i32) {
    out.extend(value.to_be_bytes());
}

fn put64(out: &mut Vec<u8>, value: i64) {
    out.extend(value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL's digits by their documentation: count, weight of the first, sign, digits after the point, groups.
    #[test]
    fn decimals_become_groups_of_four_digits() {
        let check = |decimal: &str, expect: &[i16]| {
            let mut out = Vec::new();
            numeric(decimal, &mut out);
            let words: Vec<i16> = out.chunks(2).map(|c| i16::from_be_bytes([c[0], c[1]])).collect();
            assert_eq!(words, expect, "{decimal}");
        };
        check("0", &[0, 0, 0, 0]);
        check("0.00", &[0, 0, 0, 2]);
        check("1", &[1, 0, 0, 0, 1]);
        check("-12345.678", &[3, 1, 0x4000, 3, 1, 2345, 6780]);
        check("0.0001", &[1, -1, 0, 4, 1]);
        check("0.00001", &[1, -2, 0, 5, 1000]);
        check("10000", &[1, 1, 0, 0, 1]);
        check("18446744073709551615", &[5, 4, 0, 0, 1844, 6744, 737, 955, 1615]);
    }
}
