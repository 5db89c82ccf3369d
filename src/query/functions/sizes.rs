//! How many bytes the result of a function takes, from its arguments: for [`super::bounded`].
//!
//! Exact for numbers; for text and lists, at most a little too high. NULL arguments make NULL, which takes nothing.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampNanosecondType,
};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

/// The bytes of the result over a number of rows.
pub type Estimate = fn(&[Arg], usize) -> Result<u64>;

/// An argument of a call: a column, or one value for all rows.
pub struct Arg {
    array: ArrayRef,
    constant: bool,
}

impl Arg {
    /// # Errors
    /// A value that Arrow has no array of.
    pub fn new(value: &ColumnarValue) -> Result<Arg> {
        Ok(match value {
            ColumnarValue::Array(array) => Arg { array: array.clone(), constant: false },
            ColumnarValue::Scalar(scalar) => Arg { array: scalar.to_array()?, constant: true },
        })
    }

    pub fn is_constant(&self) -> bool {
        self.constant
    }

    fn index(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }

    /// What the value in a row takes.
    pub fn bytes(&self, row: usize) -> u64 {
        value_bytes(&self.array, self.index(row))
    }

    fn as_type(&self, kind: &DataType) -> Result<Arg> {
        Ok(Arg { array: cast(&self.array, kind)?, constant: self.constant })
    }

    fn integers(&self) -> Result<impl Fn(usize) -> Option<i64>> {
        let array: Int64Array = cast(&self.array, &DataType::Int64)?.as_primitive::<Int64Type>().clone();
        let constant = self.constant;
        Ok(move |row: usize| {
            let at = if constant { 0 } else { row };
            array.is_valid(at).then(|| array.value(at))
        })
    }

    fn texts(&self) -> Result<Texts> {
        let array: StringArray = cast(&self.array, &DataType::Utf8)?.as_string::<i32>().clone();
        Ok(Texts { array, constant: self.constant })
    }
}

struct Texts {
    array: StringArray,
    constant: bool,
}

impl Texts {
    fn at(&self, row: usize) -> Option<&str> {
        let at = if self.constant { 0 } else { row };
        self.array.is_valid(at).then(|| self.array.value(at))
    }
}

/// Bytes of a value whatever it is; `None` where values of the type differ.
fn fixed_width(kind: &DataType) -> Option<u64> {
    match kind {
        DataType::Null => Some(0),
        DataType::Boolean => Some(1),
        DataType::FixedSizeBinary(width) => u64::try_from(*width).ok(),
        DataType::FixedSizeList(field, len) => {
            Some(fixed_width(field.data_type())?.saturating_mul(u64::try_from(*len).ok()?))
        }
        DataType::Struct(fields) => fields.iter().map(|f| fixed_width(f.data_type())).sum(),
        other => other.primitive_width().map(|w| w as u64),
    }
}

/// What stands for a text or a list beside its contents: its place.
const OFFSET: u64 = 8;

fn value_bytes(array: &ArrayRef, at: usize) -> u64 {
    if let Some(width) = fixed_width(array.data_type()) {
        return width;
    }
    if array.is_null(at) {
        return OFFSET;
    }
    let list = |values: ArrayRef| match fixed_width(values.data_type()) {
        Some(width) => width.saturating_mul(values.len() as u64).saturating_add(OFFSET),
        None => (0..values.len()).map(|i| value_bytes(&values, i)).fold(OFFSET, u64::saturating_add),
    };
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(at).len() as u64 + OFFSET,
        DataType::LargeUtf8 => array.as_string::<i64>().value(at).len() as u64 + OFFSET,
        DataType::Utf8View => array.as_string_view().value(at).len() as u64 + OFFSET,
        DataType::List(_) => list(array.as_list::<i32>().value(at)),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(at)),
        _ => array.slice(at, 1).to_data().get_slice_memory_size().map_or(OFFSET, |n| n as u64),
    }
}

fn total(rows: usize, of: impl FnMut(usize) -> Option<u64>) -> u64 {
    (0..rows).filter_map(of).fold(0, u64::saturating_add)
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// `repeat(text, n)`.
pub fn repeat(args: &[Arg], rows: usize) -> Result<u64> {
    let [text, n] = args else { return Ok(0) };
    let (text, n) = (text.texts()?, n.integers()?);
    Ok(total(rows, |row| Some((text.at(row)?.len() as u64).saturating_mul(count(n(row)?)))))
}

/// `concat(a, b, ..)`, `a || b`.
pub fn together(args: &[Arg], rows: usize) -> Result<u64> {
    Ok(total(rows, |row| Some(args.iter().map(|a| a.bytes(row)).fold(0, u64::saturating_add))))
}

/// `concat_ws(separator, a, b, ..)`.
pub fn separated(args: &[Arg], rows: usize) -> Result<u64> {
    let Some((separator, parts)) = args.split_first() else { return Ok(0) };
    Ok(total(rows, |row| {
        let between = separator.bytes(row).saturating_mul(parts.len() as u64);
        Some(parts.iter().map(|a| a.bytes(row)).fold(between, u64::saturating_add))
    }))
}

/// `regexp_replace(text, pattern, by[, flags])`. A bound that takes no search of the text: `by` at every place of it, and
/// with all of it for each group that `by` names. Where that is much, the places are counted.
pub fn regexp_replace(args: &[Arg], rows: usize) -> Result<u64> {
    const MUCH: u64 = 1 << 20;
    let [text, pattern, by, flags @ ..] = args else { return Ok(0) };
    let flags = flags.first().map(Arg::texts).transpose()?;
    let (text, pattern, by) = (text.texts()?, pattern.texts()?, by.texts()?);
    let mut known: Option<((&str, &str), Option<regex::Regex>)> = None;
    Ok(total(rows, |row| {
        let (text, pattern, by) = (text.at(row)?, pattern.at(row)?, by.at(row)?);
        let len = text.len() as u64;
        // Matches do not overlap: a group repeats the text once at most.
        let groups = by.bytes().filter(|b| matches!(b, b'$' | b'\\')).count() as u64;
        let with = |places: u64| {
            let put = places.saturating_mul(by.len() as u64);
            len.saturating_add(put).saturating_add(groups.saturating_mul(len))
        };
        let flags = flags.as_ref().and_then(|f| f.at(row)).unwrap_or_default();
        let everywhere = flags.contains('g');
        let most = with(if everywhere { len.saturating_add(1) } else { 1 });
        if most < MUCH {
            return Some(most);
        }
        if known.as_ref().is_none_or(|(of, _)| *of != (pattern, flags)) {
            let others = flags.replace('g', "");
            let whole = if others.is_empty() { pattern.to_string() } else { format!("(?{others}){pattern}") };
            known = Some(((pattern, flags), regex::Regex::new(&whole).ok()));
        }
        // What is no pattern here is none for the function either; then the bound is all there is.
        let found = known.as_ref().and_then(|(_, regex)| Some(regex.as_ref()?.find_iter(text).count() as u64));
        Some(found.filter(|_| everywhere).map_or(most, with))
    }))
}

/// `lpad(text, n[, fill])`, `rpad`: texts of `n` characters.
pub fn pad(args: &[Arg], rows: usize) -> Result<u64> {
    let (Some(text), Some(n)) = (args.first(), args.get(1)) else { return Ok(0) };
    let (text, n) = (text.texts()?, n.integers()?);
    let fill = args.get(2).map(Arg::texts).transpose()?;
    Ok(total(rows, |row| {
        let (text, wanted) = (text.at(row)?, count(n(row)?));
        let fill = fill.as_ref().map_or(Some(" "), |f| f.at(row))?;
        // No character has more than four bytes: most calls need no counting.
        if wanted.saturating_mul(4) <= 1 << 10 {
            return Some(wanted * 4);
        }
        let missing = wanted.saturating_sub(text.chars().count() as u64);
        let whole = missing.checked_div(fill.chars().count() as u64).map_or(0, |n| n.saturating_add(1));
        Some((text.len() as u64).saturating_add(whole.saturating_mul(fill.len() as u64)))
    }))
}

/// `replace(text, what, by)`.
pub fn replace(args: &[Arg], rows: usize) -> Result<u64> {
    let [text, what, by] = args else { return Ok(0) };
    let (text, what, by) = (text.texts()?, what.texts()?, by.texts()?);
    Ok(total(rows, |row| {
        let (text, what, by) = (text.at(row)?, what.at(row)?, by.at(row)?);
        let len = text.len() as u64;
        if by.len() <= what.len() {
            return Some(len);
        }
        // An empty `what` stands before every character and at the end.
        let found = text.matches(what).count() as u64;
        Some(len.saturating_add(found.saturating_mul((by.len() - what.len()) as u64)))
    }))
}

/// `array_repeat(element, n)`.
pub fn array_repeat(args: &[Arg], rows: usize) -> Result<u64> {
    let [element, n] = args else { return Ok(0) };
    let n = n.integers()?;
    // For every element, DataFusion notes the 8 bytes of its row.
    Ok(total(rows, |row| Some(element.bytes(row).max(8).saturating_mul(count(n(row)?)))))
}

/// `array_resize(list, n[, fill])`.
pub fn array_resize(args: &[Arg], rows: usize) -> Result<u64> {
    let (Some(list), Some(n)) = (args.first(), args.get(1)) else { return Ok(0) };
    let n = n.integers()?;
    let element = match list.array.data_type() {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => field.data_type(),
        _ => return Ok(0),
    };
    let empty = fixed_width(element).unwrap_or(OFFSET).max(1);
    Ok(total(rows, |row| {
        let fill = args.get(2).map_or(empty, |f| f.bytes(row).max(empty));
        Some(list.bytes(row).saturating_add(fill.saturating_mul(count(n(row)?))))
    }))
}

/// `range([start,] stop[, step])` and `generate_series`, over numbers, dates and times: one value more than `range` may
/// have.
pub fn range(args: &[Arg], rows: usize) -> Result<u64> {
    let Some(first) = args.first() else { return Ok(0) };
    if args.iter().any(|a| a.array.data_type().is_null()) {
        return Ok(0);
    }
    match first.array.data_type() {
        DataType::Date32 | DataType::Date64 => times(args, rows, &DataType::Date32),
        DataType::Timestamp(_, _) => times(args, rows, &DataType::Timestamp(TimeUnit::Nanosecond, None)),
        _ => integers(args, rows),
    }
}

/// Values from `start` to `stop` in steps, both ends included; none where the step leads away or is zero.
fn steps(start: i64, stop: i64, step: i128) -> u64 {
    let way = i128::from(stop) - i128::from(start);
    match way.checked_div(step) {
        Some(n) if way == 0 || (way > 0) == (step > 0) => u64::try_from(n + 1).unwrap_or(u64::MAX),
        _ => 0,
    }
}

fn integers(args: &[Arg], rows: usize) -> Result<u64> {
    let all = args.iter().map(Arg::integers).collect::<Result<Vec<_>>>()?;
    Ok(total(rows, |row| {
        let (start, stop, step) = match all.as_slice() {
            [stop] => (0, stop(row)?, 1),
            [start, stop] => (start(row)?, stop(row)?, 1),
            [start, stop, step] => (start(row)?, stop(row)?, step(row)?),
            _ => return None,
        };
        Some(steps(start, stop, step.into()).saturating_mul(8))
    }))
}

/// Dates in days, times in nanoseconds; the step is an interval.
fn times(args: &[Arg], rows: usize, kind: &DataType) -> Result<u64> {
    let [start, stop, step] = args else { return Ok(0) };
    let days = *kind == DataType::Date32;
    let (start, stop) = (start.as_type(kind)?, stop.as_type(kind)?);
    let step = step.as_type(&DataType::Interval(IntervalUnit::MonthDayNano))?;
    let at = |arg: &Arg, row: usize| {
        let index = arg.index(row);
        arg.array.is_valid(index).then(|| match days {
            true => i64::from(arg.array.as_primitive::<Date32Type>().value(index)),
            false => arg.array.as_primitive::<TimestampNanosecondType>().value(index),
        })
    };
    let width = if days { 4 } else { 8 };
    Ok(total(rows, |row| {
        let index = step.index(row);
        if step.array.is_null(index) {
            return None;
        }
        let interval = step.array.as_primitive::<IntervalMonthDayNanoType>().value(index);
        let step = shortest(interval.months, interval.days, interval.nanoseconds, days);
        Some(steps(at(&start, row)?, at(&stop, row)?, step).saturating_mul(width))
    }))
}

/// The least that an interval can be, in days or nanoseconds: a month of 28 days. One unit, if its parts have different
/// signs and could cancel out.
fn shortest(months: i32, days: i32, nanoseconds: i64, in_days: bool) -> i128 {
    const DAY: i128 = 86_400_000_000_000;
    let least = i128::from(months) * 28 * DAY + i128::from(days) * DAY + i128::from(nanoseconds);
    let most = i128::from(months) * 31 * DAY + i128::from(days) * DAY + i128::from(nanoseconds);
    let unit = if in_days { DAY } else { 1 };
    let mixed = (least > 0) != (most > 0) || least.abs() < unit;
    match least {
        0 if most == 0 => 0,
        _ if mixed => most.signum(),
        _ => least / unit,
    }
}
