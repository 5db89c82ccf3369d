//! Excel workbooks: typed cells, a row at a time, in constant memory.
//!
//! Promises: the same rows are the same bytes. Text is text, also where it begins with `=`. What Excel's numbers cannot
//! hold (integers beyond 2^53, NaN, infinities, long decimals, days before March 1900) is written as text and counted.
//! A sheet holds 1,048,575 rows; further rows are in `<name>_2`, `<name>_3`, ... The sheet `columns` has units and
//! descriptions. Left out: formulas, colours, charts.

use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Float32Type, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, UInt64Type,
};
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, Workbook, Worksheet, XlsxError};

use super::write::{Losses, Out, text};
use crate::diag::{Diagnostic, Failure, Result};
use crate::table::{DESCRIPTION, UNIT};

/// Rows of a sheet, with the line of names; columns; UTF-16 units of a cell; characters of a sheet's name.
pub const ROWS: u32 = 1_048_576;
pub const COLUMNS: usize = 16_384;
const CELL: usize = 32_767;
const NAME: usize = 31;

/// Whole numbers up to here are exact.
const EXACT: u64 = 1 << 53;
/// The first and the last day that Excel counts right, from 1970-01-01: 1900-03-01 and 9999-12-31.
const DAYS: std::ops::RangeInclusive<i64> = -25_508..=2_932_896;
/// 1970-01-01 as Excel counts days.
const EPOCH: i64 = 25_569;
const DAY_S: i64 = 86_400;

/// Rows whose cells say how wide a column is, and the limits of that.
const MEASURED: u64 = 1_000;
const WIDTH: (usize, usize) = (6, 60);

/// XML of a sheet, in bytes, from which the archive needs its large format. Some readers do not know it.
const LARGE: u64 = 3_500_000_000;
/// XML of a cell besides its text, at most.
const CELL_BYTES: u64 = 64;

const DATE: &str = "yyyy-mm-dd";
const TIME: &str = "yyyy-mm-dd hh:mm:ss.000";
const TABLE_OF_COLUMNS: &str = "columns";

/// Refuses tables that are too wide.
pub fn unfit(schema: &Schema) -> Option<Diagnostic> {
    let columns = schema.fields().len();
    (columns > COLUMNS).then(|| {
        let message = format!("the table has {columns} columns, and a sheet of Excel {COLUMNS}");
        Diagnostic::new("export::columns", message).help("choose some with a `sql` stage, or export `parquet`")
    })
}

/// A workbook in the making.
pub struct Xlsx {
    workbook: Workbook,
    schema: SchemaRef,
    name: String,
    sheet: Worksheet,
    sheets: u32,
    /// The next row of the sheet.
    row: u32,
    /// Rows of a sheet.
    rows: u32,
    seen: u64,
    widths: Vec<usize>,
    bytes: u64,
    formats: Formats,
    losses: Losses,
}

struct Formats {
    header: Format,
    date: Format,
    time: Format,
}

type Written<T> = std::result::Result<T, XlsxError>;

fn failed(e: &XlsxError) -> Failure {
    Failure::stage("export::xlsx", format!("cannot write the workbook: {e}"))
}

impl Xlsx {
    /// A workbook for the rows of `schema`, in sheets called `name`. Its parts lie in the folder `scratch` until it is
    /// finished.
    ///
    /// # Errors
    /// Too many columns; the folder cannot be written.
    pub fn new(name: &str, schema: &SchemaRef, scratch: &Path) -> Result<Xlsx> {
        Xlsx::with_rows(name, schema, scratch, ROWS)
    }

    /// [`Xlsx::new`] with `rows` rows per sheet.
    pub(super) fn with_rows(name: &str, schema: &SchemaRef, scratch: &Path, rows: u32) -> Result<Xlsx> {
        if let Some(problem) = unfit(schema) {
            return Err(problem.into());
        }
        Xlsx::begin(name, schema, scratch, rows).map_err(|e| failed(&e))
    }

    fn begin(name: &str, schema: &SchemaRef, scratch: &Path, rows: u32) -> Written<Xlsx> {
        let mut workbook = Workbook::new();
        workbook.set_tempdir(scratch)?;
        // The time of writing would make other bytes of the same rows.
        let made = ExcelDateTime::from_ymd(2000, 1, 1)?;
        workbook.set_properties(&DocProperties::new().set_author("pipe").set_creation_datetime(&made));
        let formats = Formats {
            header: Format::new().set_bold(),
            date: Format::new().set_num_format(DATE),
            time: Format::new().set_num_format(TIME),
        };
        // Room for the arrow of the filter.
        let widths = schema.fields().iter().map(|f| f.name().chars().count() + 3).collect();
        let mut made = Xlsx {
            sheet: workbook.new_worksheet_with_constant_memory()?,
            workbook,
            schema: schema.clone(),
            name: sheet_name(name),
            sheets: 1,
            row: 0,
            rows,
            seen: 0,
            widths,
            bytes: 0,
            formats,
            losses: Losses::default(),
        };
        made.header()?;
        Ok(made)
    }

    fn header(&mut self) -> Written<()> {
        self.sheet.set_name(numbered(&self.name, self.sheets))?;
        self.sheet.set_freeze_panes(1, 0)?;
        for (c, field) in self.schema.fields().iter().enumerate() {
            let (name, _) = cut(field.name());
            self.sheet.write_string_with_format(0, c as u16, name, &self.formats.header)?;
        }
        self.row = 1;
        Ok(())
    }

    /// # Errors
    /// The disk is full and the like.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let arrow = |e: arrow::error::ArrowError| Failure::stage("export::xlsx", format!("cannot write a column: {e}"));
        let columns = batch.columns().iter().map(cells).collect::<std::result::Result<Vec<_>, _>>().map_err(arrow)?;
        for i in 0..batch.num_rows() {
            if self.row == self.rows {
                self.next_sheet().map_err(|e| failed(&e))?;
            }
            for (c, column) in columns.iter().enumerate() {
                self.cell(c, column, i).map_err(|e| failed(&e))?;
            }
            self.row += 1;
            self.seen += 1;
        }
        Ok(())
    }

    fn next_sheet(&mut self) -> Written<()> {
        let next = self.workbook.new_worksheet_with_constant_memory()?;
        let full = std::mem::replace(&mut self.sheet, next);
        self.close(full)?;
        self.sheets += 1;
        self.header()
    }

    fn close(&mut self, mut sheet: Worksheet) -> Written<()> {
        if let Some(last) = self.schema.fields().len().checked_sub(1) {
            sheet.autofilter(0, 0, self.row - 1, last as u16)?;
        }
        for (c, width) in self.widths.iter().enumerate() {
            sheet.set_column_width(c as u16, (*width).clamp(WIDTH.0, WIDTH.1) as f64)?;
        }
        self.workbook.push_worksheet(sheet);
        Ok(())
    }

    /// Writes what is still held to `out`. What was lost is told.
    ///
    /// # Errors
    /// The disk is full and the like.
    pub fn finish(mut self, out: &mut Out) -> Result<Losses> {
        self.complete(out).map_err(|e| failed(&e))?;
        Ok(self.losses)
    }

    fn complete(&mut self, out: &mut Out) -> Written<()> {
        let last = std::mem::replace(&mut self.sheet, Worksheet::new());
        self.close(last)?;
        self.describe()?;
        self.workbook.use_zip_large_file(self.bytes > LARGE);
        self.workbook.save_to_writer(out)
    }

    /// The sheet that says what the columns are.
    fn describe(&mut self) -> Written<()> {
        let sheet = self.workbook.add_worksheet();
        sheet.set_name(TABLE_OF_COLUMNS)?.set_freeze_panes(1, 0)?;
        for (c, (name, width)) in [("column", 28), ("type", 16), ("unit", 10), ("description", 90)].iter().enumerate() {
            sheet.write_string_with_format(0, c as u16, *name, &self.formats.header)?;
            sheet.set_column_width(c as u16, f64::from(*width))?;
        }
        for (i, field) in self.schema.fields().iter().enumerate() {
            let meta = |key: &str| field.metadata().get(key).cloned().unwrap_or_default();
            let cells = [field.name().clone(), field.data_type().to_string(), meta(UNIT), meta(DESCRIPTION)];
            for (c, text) in cells.iter().enumerate() {
                sheet.write_string(i as u32 + 1, c as u16, cut(text).0)?;
            }
        }
        sheet.autofilter(0, 0, self.schema.fields().len() as u32, 3)?;
        Ok(())
    }

    fn cell(&mut self, c: usize, column: &Cells, i: usize) -> Written<()> {
        let (row, col) = (self.row, c as u16);
        self.bytes += CELL_BYTES;
        match column.at(i) {
            Cell::Nothing => {}
            Cell::Bool(value) => {
                self.sheet.write_boolean(row, col, value)?;
            }
            Cell::Number(value) => {
                if self.seen < MEASURED {
                    self.widen(c, value.to_string().len());
                }
                self.sheet.write_number(row, col, value)?;
            }
            Cell::Moment { days, with_time, rounded } => {
                let (format, shown) = if with_time { (&self.formats.time, TIME) } else { (&self.formats.date, DATE) };
                self.sheet.write_number_with_format(row, col, days, format)?;
                self.losses.rounded += i64::from(rounded);
                self.widen(c, shown.len() + 1);
            }
            Cell::Text { text, instead } => {
                let (text, whole) = cut(&text);
                self.losses.as_text += i64::from(instead);
                if !whole {
                    self.losses.cut.insert(c);
                }
                if self.seen < MEASURED {
                    self.widen(c, text.lines().next().unwrap_or_default().chars().count() + 1);
                }
                self.bytes += 2 * text.len() as u64;
                self.sheet.write_string(row, col, text)?;
            }
        }
        Ok(())
    }

    fn widen(&mut self, c: usize, width: usize) {
        if let Some(known) = self.widths.get_mut(c) {
            *known = (*known).max(width);
        }
    }
}

/// What stands in a cell.
enum Cell {
    Nothing,
    Bool(bool),
    Number(f64),
    /// Days as Excel counts them.
    Moment {
        days: f64,
        with_time: bool,
        rounded: bool,
    },
    /// `instead` of a number or a day that Excel does not have.
    Text {
        text: String,
        instead: bool,
    },
}

/// A column of a batch.
enum Cells {
    Bool(ArrayRef),
    Int(ArrayRef),
    UInt(ArrayRef),
    Float(ArrayRef),
    Single(ArrayRef),
    /// Whole numbers of `per_s` a second.
    Moment {
        ticks: ArrayRef,
        per_s: i64,
        texts: ArrayRef,
    },
    Date {
        days: ArrayRef,
        texts: ArrayRef,
    },
    Decimal(ArrayRef),
    Text(ArrayRef),
}

fn cells(column: &ArrayRef) -> std::result::Result<Cells, arrow::error::ArrowError> {
    Ok(match column.data_type() {
        DataType::Dictionary(_, values) => return cells(&cast(column, values)?),
        DataType::Boolean => Cells::Bool(column.clone()),
        DataType::UInt64 => Cells::UInt(column.clone()),
        kind if kind.is_integer() => Cells::Int(cast(column, &DataType::Int64)?),
        DataType::Float64 => Cells::Float(column.clone()),
        DataType::Float16 | DataType::Float32 => Cells::Single(cast(column, &DataType::Float32)?),
        DataType::Timestamp(unit, _) => {
            let per_s = match unit {
                TimeUnit::Second => 1,
                TimeUnit::Millisecond => 1_000,
                TimeUnit::Microsecond => 1_000_000,
                TimeUnit::Nanosecond => 1_000_000_000,
            };
            Cells::Moment { ticks: cast(column, &DataType::Int64)?, per_s, texts: text(column)? }
        }
        DataType::Date32 | DataType::Date64 => Cells::Date { days: column.clone(), texts: text(column)? },
        kind if kind.is_decimal() => Cells::Decimal(text(column)?),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Cells::Text(cast(column, &DataType::Utf8)?),
        _ => Cells::Text(text(column)?),
    })
}

impl Cells {
    fn at(&self, i: usize) -> Cell {
        let instead = |text: String| Cell::Text { text, instead: true };
        match self {
            Cells::Bool(a) if a.is_valid(i) => Cell::Bool(a.as_boolean().value(i)),
            Cells::Int(a) if a.is_valid(i) => {
                let value = a.as_primitive::<Int64Type>().value(i);
                if value.unsigned_abs() <= EXACT { Cell::Number(value as f64) } else { instead(value.to_string()) }
            }
            Cells::UInt(a) if a.is_valid(i) => {
                let value = a.as_primitive::<UInt64Type>().value(i);
                if value <= EXACT { Cell::Number(value as f64) } else { instead(value.to_string()) }
            }
            Cells::Float(a) if a.is_valid(i) => {
                let value = a.as_primitive::<Float64Type>().value(i);
                if value.is_finite() { Cell::Number(value) } else { instead(value.to_string()) }
            }
            // As the decimal that it is read from and printed as: 0.1, not 0.10000000149.
            Cells::Single(a) if a.is_valid(i) => {
                let shown = a.as_primitive::<Float32Type>().value(i).to_string();
                match shown.parse::<f64>() {
                    Ok(value) if value.is_finite() => Cell::Number(value),
                    _ => instead(shown),
                }
            }
            Cells::Moment { ticks, per_s, texts } if ticks.is_valid(i) => {
                let ticks = ticks.as_primitive::<Int64Type>().value(i);
                let (s, rest) = (ticks.div_euclid(*per_s), ticks.rem_euclid(*per_s));
                let ms = rest * 1_000 / per_s;
                let (day, second) = (s.div_euclid(DAY_S), s.rem_euclid(DAY_S));
                if !DAYS.contains(&day) {
                    return instead(texts.as_string::<i32>().value(i).to_string());
                }
                let days = (day + EPOCH) as f64 + (second * 1_000 + ms) as f64 / (DAY_S * 1_000) as f64;
                Cell::Moment { days, with_time: true, rounded: ms * per_s / 1_000 != rest }
            }
            Cells::Date { days, texts } if days.is_valid(i) => {
                let day = match days.as_primitive_opt::<Date32Type>() {
                    Some(days) => i64::from(days.value(i)),
                    None => days.as_primitive::<Date64Type>().value(i).div_euclid(DAY_S * 1_000),
                };
                if !DAYS.contains(&day) {
                    return instead(texts.as_string::<i32>().value(i).to_string());
                }
                Cell::Moment { days: (day + EPOCH) as f64, with_time: false, rounded: false }
            }
            Cells::Decimal(a) if a.is_valid(i) => {
                let shown = a.as_string::<i32>().value(i);
                // 15 digits are what Excel keeps.
                let digits = shown.bytes().filter(u8::is_ascii_digit).count();
                match shown.parse::<f64>() {
                    Ok(value) if digits <= 15 => Cell::Number(value),
                    _ => instead(shown.to_string()),
                }
            }
            Cells::Text(a) if a.is_valid(i) => {
                Cell::Text { text: a.as_string::<i32>().value(i).to_string(), instead: false }
            }
            Cells::Bool(_)
            | Cells::Int(_)
            | Cells::UInt(_)
            | Cells::Float(_)
            | Cells::Single(_)
            | Cells::Moment { .. }
            | Cells::Date { .. }
            | Cells::Decimal(_)
            | Cells::Text(_) => Cell::Nothing,
        }
    }
}

/// What of a text fits into a cell, and whether that is all of it.
fn cut(text: &str) -> (&str, bool) {
    if text.len() <= CELL {
        return (text, true);
    }
    let mut units = 0;
    for (at, c) in text.char_indices() {
        units += c.len_utf16();
        if units > CELL {
            return (&text[..at], false);
        }
    }
    (text, true)
}

/// A name that Excel takes for a sheet.
fn sheet_name(table: &str) -> String {
    let plain = |c: char| if matches!(c, '[' | ']' | ':' | '*' | '?' | '/' | '\\' | '\'') { '_' } else { c };
    let name: String = table.chars().map(plain).collect();
    match name.to_lowercase().as_str() {
        "" => "table".to_string(),
        // The second is Excel's own.
        TABLE_OF_COLUMNS | "history" => format!("{name}_"),
        _ => name,
    }
}

/// The name of the `n`th sheet, from 1.
fn numbered(name: &str, n: u32) -> String {
    let end = if n == 1 { String::new() } else { format!("_{n}") };
    let mut room = NAME - end.len();
    let kept = |c: &char| {
        let fits = room >= c.len_utf16();
        room = room.saturating_sub(c.len_utf16());
        fits
    };
    name.chars().take_while(kept).chain(end.chars()).collect()
}
