//! What of a file becomes points: which columns are the shape, the names and the time; and the loop that reads them.

use std::collections::BTreeSet;

use arrow::array::{Array, StringArray};
use pipe_kernel::profile::{DIMS, Operator};

use super::frame::{Frame, Header};
use super::points::{Points, Raw};
use crate::diag::Diagnostic;
use crate::query::errors::did_you_mean;

/// A number of a shape.
#[derive(Clone, Debug)]
pub(super) enum Dim {
    Const(u32),
    Column(String),
    /// The second where the first is 0.
    Or(String, String),
    Sum(String, String),
    Max(String, String),
    /// The column holds the square.
    Root(String),
    /// A count of elements, and their type.
    Bytes(String, String),
    /// Of a map from requests to tokens of a step (`{'a': 1, 'b': 512}`).
    Scheduled(String, Counted),
    /// Tokens of the blocks in use, where there are requests.
    Used {
        total: String,
        free: String,
        requests: String,
        block_tokens: u32,
    },
    /// The upper bound of a bucket: `n<=128`, `sr>70%`, `kvB<=16k`.
    Bound(String),
}

/// What is counted in the tokens of a step: a request with one token decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    PrefillTokens,
    PrefillRequests,
    DecodeRequests,
}

impl Dim {
    fn columns(&self) -> Vec<&str> {
        match self {
            Dim::Const(_) => vec![],
            Dim::Column(a) | Dim::Root(a) | Dim::Bound(a) | Dim::Scheduled(a, _) => vec![a],
            Dim::Used { total, free, requests, block_tokens: _ } => vec![total, free, requests],
            Dim::Or(a, b) | Dim::Sum(a, b) | Dim::Max(a, b) | Dim::Bytes(a, b) => vec![a, b],
        }
    }
}

/// A column where the file has it, otherwise a number.
pub(super) fn column_or(header: &Header, name: &str, otherwise: u32) -> Dim {
    if header.has(name) { Dim::Column(name.to_string()) } else { Dim::Const(otherwise) }
}

pub(super) fn column(name: &str) -> Dim {
    Dim::Column(name.to_string())
}

/// A name of a point.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Fixed(String),
    Column(String),
    /// Made of the text of two columns.
    Made(String, String, fn(&str, &str) -> String),
}

impl Name {
    pub fn none() -> Name {
        Name::Fixed(String::new())
    }

    fn columns(&self) -> Vec<&str> {
        match self {
            Name::Fixed(_) => vec![],
            Name::Column(a) => vec![a],
            Name::Made(a, b, _) => vec![a, b],
        }
    }
}

/// Which rows are meant.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Is(String, String),
    Positive(String),
    Zero(String),
}

impl Test {
    fn column(&self) -> &str {
        match self {
            Test::Is(a, _) | Test::Positive(a) | Test::Zero(a) => a,
        }
    }
}

/// Which times can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Positive,
    /// Zero is a time below the clock's resolution.
    NotNegative,
    /// As `NotNegative`; where there is none, it was not measured.
    NotNegativeOrNone,
    /// No time at all: any number.
    Any,
}

/// How rows become points of one operator.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub operator: Operator,
    pub variant: Name,
    pub dtype: Name,
    pub kv_dtype: Name,
    /// In the order of [`Operator::dims`].
    pub shape: Vec<Dim>,
    /// Column of the time, and how many of its unit are a microsecond's inverse: 1000 for ms.
    pub time: (String, f64),
    pub times: Times,
    pub tests: Vec<Test>,
}

/// How a file becomes points.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub mappings: Vec<Mapping>,
    /// Rows that repeat another in every field are dropped.
    pub drop_repeated: bool,
    /// Column that names the operator of a row: names that are none are refused.
    pub operators: Option<String>,
    /// Columns beyond those of the mappings.
    pub also: Vec<String>,
    /// Steps without tokens are passed over.
    pub idle: bool,
}

impl Mapping {
    pub fn new(operator: Operator, shape: Vec<Dim>, time: &str, factor: f64) -> Mapping {
        assert_eq!(shape.len(), operator.dims().len(), "{operator:?}");
        Mapping {
            operator,
            variant: Name::none(),
            dtype: Name::none(),
            kv_dtype: Name::none(),
            shape,
            time: (time.to_string(), factor),
            times: Times::Positive,
            tests: Vec::new(),
        }
    }

    fn columns(&self) -> Vec<&str> {
        let names = [&self.variant, &self.dtype, &self.kv_dtype];
        let mut all: Vec<&str> = names.into_iter().flat_map(Name::columns).collect();
        all.extend(self.shape.iter().flat_map(Dim::columns));
        all.extend(self.tests.iter().map(Test::column));
        all.push(&self.time.0);
        all
    }
}

impl Reading {
    pub fn of(mappings: Vec<Mapping>) -> Reading {
        Reading { mappings, ..Reading::default() }
    }

    /// The columns that are read.
    pub fn columns(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.mappings.iter().flat_map(Mapping::columns).collect();
        all.extend(self.operators.iter().chain(&self.also).map(String::as_str));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Columns that the file does not have.
    pub fn missing(&self, header: &Header) -> Vec<Diagnostic> {
        let missing = self.columns().into_iter().filter(|c| !header.has(c));
        missing.map(|c| missing_column(header, c)).collect()
    }
}

pub(super) fn missing_column(header: &Header, name: &str) -> Diagnostic {
    let message = if header.names.is_empty() {
        format!("{} is empty", header.written)
    } else {
        format!("{} has no column `{name}`", header.written)
    };
    Diagnostic::new("profile::column", message).help(did_you_mean(name, &header.names, "columns"))
}

/// Times in microseconds such that division by the factor gives the number in the file again, where there is such one.
fn microseconds(value: f64, factor: f64) -> f64 {
    if factor == 1.0 || !value.is_finite() {
        return value;
    }
    // Below 1 the division is the exact one of two powers of ten.
    let us = if factor < 1.0 { value / (1.0 / factor) } else { value * factor };
    let back = |us: f64| if factor < 1.0 { us * (1.0 / factor) } else { us / factor };
    [us, us.next_up(), us.next_down()].into_iter().find(|us| back(*us) == value).unwrap_or(us)
}

/// Bytes of an element.
fn bytes_of(dtype: &str) -> Option<f64> {
    match dtype {
        "half" | "float16" | "fp16" | "bfloat16" | "bf16" => Some(2.0),
        "int8" | "fp8" | "float8" | "uint8" => Some(1.0),
        "float" | "float32" | "fp32" | "int32" => Some(4.0),
        _ => None,
    }
}

/// A bound that no number exceeds.
const UNBOUNDED: f64 = 1e9;

/// See [`Dim::Bound`]; NaN where it is none. Rates are percents.
fn bound(label: &str) -> f64 {
    let percent = label.contains('%');
    if label.contains('>') {
        return if percent { 100.0 } else { UNBOUNDED };
    }
    let Some((_, text)) = label.rsplit_once('=') else { return f64::NAN };
    let text = text.trim().trim_end_matches('%');
    match text.strip_suffix('k') {
        Some(kilo) => kilo.parse::<f64>().map_or(f64::NAN, |n| n * 1024.0),
        None => text.parse().unwrap_or(f64::NAN),
    }
}

/// See [`Dim::Scheduled`]; NaN where it is no such map.
fn scheduled(map: &str, counted: Counted) -> f64 {
    let Some(inner) = map.trim().strip_prefix('{').and_then(|m| m.strip_suffix('}')) else { return f64::NAN };
    let mut sum = 0.0;
    for entry in inner.split(',').filter(|e| !e.trim().is_empty()) {
        let tokens = entry.rsplit(':').next().and_then(|n| n.trim().parse::<u32>().ok());
        let Some(tokens) = tokens else { return f64::NAN };
        sum += match (counted, tokens) {
            (Counted::DecodeRequests, 1) => 1.0,
            (Counted::PrefillTokens, n) if n > 1 => f64::from(n),
            (Counted::PrefillRequests, n) if n > 1 => 1.0,
            _ => 0.0,
        };
    }
    sum
}

/// The greatest number that a shape can have.
const LARGEST: f64 = u32::MAX as f64;

fn values(frame: &Frame, dim: &Dim) -> Vec<f64> {
    let at = |name: &str| frame.header.find(name);
    let numbers = |name: &str| at(name).map_or_else(|| vec![f64::NAN; frame.rows], |i| frame.numbers(i));
    let both = |a: &str, b: &str, f: fn(f64, f64) -> f64| {
        numbers(a).into_iter().zip(numbers(b)).map(|(a, b)| f(a, b)).collect()
    };
    match dim {
        Dim::Const(n) => vec![f64::from(*n); frame.rows],
        Dim::Column(a) => numbers(a),
        Dim::Or(a, b) => both(a, b, |a, b| if a == 0.0 { b } else { a }),
        Dim::Sum(a, b) => both(a, b, |a, b| a + b),
        Dim::Max(a, b) => both(a, b, f64::max),
        // Exact for squares of whole numbers; of other numbers the root is no whole number.
        Dim::Root(a) => numbers(a).into_iter().map(libm::sqrt).collect(),
        Dim::Bytes(a, dtype) => {
            let Some(i) = at(dtype) else { return vec![f64::NAN; frame.rows] };
            let sizes = frame.texts(i);
            let sizes = sizes.iter().map(|d| d.and_then(bytes_of).unwrap_or(f64::NAN));
            numbers(a).into_iter().zip(sizes).map(|(n, size)| n * size).collect()
        }
        Dim::Scheduled(a, counted) => {
            let Some(i) = at(a) else { return vec![f64::NAN; frame.rows] };
            frame.texts(i).iter().map(|map| map.map_or(f64::NAN, |map| scheduled(map, *counted))).collect()
        }
        Dim::Used { total, free, requests, block_tokens } => {
            let used = numbers(total).into_iter().zip(numbers(free)).zip(numbers(requests));
            used.map(|((total, free), n)| if n > 0.0 { (total - free) * f64::from(*block_tokens) } else { 0.0 })
                .collect()
        }
        Dim::Bound(a) => {
            let Some(i) = at(a) else { return vec![f64::NAN; frame.rows] };
            frame.texts(i).iter().map(|label| label.map_or(f64::NAN, bound)).collect()
        }
    }
}

/// Numbers of the names of a column, or of all rows.
enum Names {
    One(u32),
    Each(Vec<u32>),
}

impl Names {
    fn of(frame: &Frame, name: &Name, points: &mut Points) -> Names {
        let texts = |column: &str| {
            let at = frame.header.find(column);
            at.map_or_else(|| StringArray::new_null(frame.rows), |i| frame.texts(i))
        };
        fn value(texts: &StringArray, row: usize) -> &str {
            if texts.is_null(row) { "" } else { texts.value(row) }
        }
        match name {
            Name::Fixed(name) => Names::One(points.name(name)),
            Name::Column(a) => {
                let a = texts(a);
                Names::Each((0..frame.rows).map(|row| points.name(value(&a, row))).collect())
            }
            Name::Made(a, b, make) => {
                let (a, b) = (texts(a), texts(b));
                let text = |row: usize| (value(&a, row), value(&b, row));
                let mut last: Option<(usize, u32)> = None;
                let number = |row: usize| {
                    // Names repeat from row to row.
                    if let Some((before, n)) = last
                        && text(before) == text(row)
                    {
                        return n;
                    }
                    let n = points.name(&make(text(row).0, text(row).1));
                    last = Some((row, n));
                    n
                };
                Names::Each((0..frame.rows).map(number).collect())
            }
        }
    }

    fn at(&self, row: usize) -> u32 {
        match self {
            Names::One(n) => *n,
            Names::Each(all) => all[row],
        }
    }
}

fn passes(frame: &Frame, tests: &[Test], skip: Vec<bool>) -> Vec<bool> {
    let mut pass: Vec<bool> = skip.into_iter().map(|skip| !skip).collect();
    for test in tests {
        let Some(i) = frame.header.find(test.column()) else { continue };
        match test {
            Test::Is(_, wanted) => {
                let texts = frame.texts(i);
                texts.iter().zip(&mut pass).for_each(|(t, p)| *p &= t.unwrap_or("") == wanted);
            }
            Test::Positive(_) => frame.numbers(i).iter().zip(&mut pass).for_each(|(n, p)| *p &= *n > 0.0),
            // What is no number is kept here, and refused as part of the shape.
            Test::Zero(_) => frame.numbers(i).iter().zip(&mut pass).for_each(|(n, p)| *p &= n.is_nan() || *n <= 0.0),
        }
    }
    pass
}

/// Reads the rows of a file. What cannot be is noted in `points`, with its place.
pub(super) fn read(frame: &Frame, reading: &Reading, source: usize, points: &mut Points) {
    points.sources[source].rows += frame.rows as u64;
    if frame.rows == 0 {
        points.empty(source, &frame.header);
    }
    let repeated = if reading.drop_repeated { frame.repeated() } else { vec![false; frame.rows] };
    points.sources[source].duplicates += repeated.iter().filter(|r| **r).count() as u64;
    if let Some(column) = reading.operators.as_ref().and_then(|c| frame.header.find(c)) {
        let all: Vec<String> = Operator::ALL.iter().map(|o| o.name().to_string()).collect();
        for (row, name) in frame.texts(column).iter().enumerate() {
            let name = name.unwrap_or("");
            if !all.iter().any(|o| o == name) {
                let what = Diagnostic::new("profile::operator", format!("there is no operator `{name}`"));
                let what = what.at(Some(frame.place(column, row))).help(did_you_mean(name, &all, "operators"));
                points.refuse(source, "unknown operator", what);
            }
        }
    }
    for mapping in &reading.mappings {
        one(frame, mapping, &repeated, reading.idle, source, points);
    }
}

fn one(frame: &Frame, mapping: &Mapping, repeated: &[bool], idle: bool, source: usize, points: &mut Points) {
    let pass = passes(frame, &mapping.tests, repeated.to_vec());
    if !pass.contains(&true) {
        if idle && frame.rows > 0 {
            nothing_fits(frame, &mapping.tests, source, points);
        }
        return;
    }
    let mut passed_over = 0_u64;
    let shape: Vec<Vec<f64>> = mapping.shape.iter().map(|d| values(frame, d)).collect();
    let variant = Names::of(frame, &mapping.variant, points);
    let dtype = Names::of(frame, &mapping.dtype, points);
    let kv_dtype = Names::of(frame, &mapping.kv_dtype, points);
    let Some(time) = frame.header.find(&mapping.time.0) else { return };
    let times = frame.numbers(time);
    points.sources[source].operators.insert(mapping.operator);
    'rows: for row in (0..frame.rows).filter(|row| pass[*row]) {
        let mut numbers = [0; DIMS];
        for (d, values) in shape.iter().enumerate() {
            let n = values[row];
            if !(0.0..=LARGEST).contains(&n) || n.fract() != 0.0 {
                let columns = mapping.shape[d].columns();
                let at = columns.first().and_then(|c| frame.header.find(c)).unwrap_or(0);
                let shown: Vec<String> =
                    columns.iter().filter_map(|c| frame.header.find(c)).map(|c| frame.shown(c, row)).collect();
                let message = format!(
                    "`{}` is {:?}: expected whole numbers of 0 or more",
                    columns.join("` and `"),
                    shown.join(" and ")
                );
                let what = Diagnostic::new("profile::shape", message).at(Some(frame.place(at, row)));
                points.refuse(source, "no shape", what);
                continue 'rows;
            }
            numbers[d] = n as u32;
        }
        if idle && numbers.iter().zip(mapping.operator.dims()).all(|(n, dim)| *n == 0 || *dim == "tp") {
            passed_over += 1;
            continue;
        }
        let value = times[row];
        let (fits, reason) = match mapping.times {
            Times::Positive => (value > 0.0, "expected a time above 0"),
            Times::NotNegative | Times::NotNegativeOrNone => (value >= 0.0, "expected a time of 0 or more"),
            Times::Any => (true, ""),
        };
        if !value.is_finite() || !fits {
            if mapping.times == Times::NotNegativeOrNone && frame.is_blank(time, row) {
                continue;
            }
            let message = format!("`{}` is {:?}: {reason}", mapping.time.0, frame.shown(time, row));
            let what = Diagnostic::new("profile::time", message).at(Some(frame.place(time, row)));
            let kind = match value {
                v if v.is_nan() => "no number",
                v if v < 0.0 => "negative",
                0.0 => "zero",
                _ => "not finite",
            };
            points.refuse(source, kind, what);
            continue;
        }
        points.push(Raw {
            operator: mapping.operator,
            variant: variant.at(row),
            dtype: dtype.at(row),
            kv_dtype: kv_dtype.at(row),
            shape: numbers,
            latency_us: microseconds(value, mapping.time.1),
            source: source as u32,
            row: row as u32,
        });
    }
    if passed_over > 0 {
        points.sources[source].note = format!("{passed_over} steps without tokens passed over");
    }
}

/// The user asked for rows of which there are none.
fn nothing_fits(frame: &Frame, tests: &[Test], source: usize, points: &mut Points) {
    for test in tests {
        let Test::Is(column, wanted) = test else { continue };
        let Some(i) = frame.header.find(column) else { continue };
        let texts = frame.texts(i);
        let there: Vec<String> =
            texts.iter().flatten().collect::<BTreeSet<&str>>().into_iter().map(String::from).collect();
        if !there.contains(wanted) {
            let message = format!("no row of {} has `{column}` {wanted}", frame.header.written);
            let what = Diagnostic::new("profile::where", message);
            points.refuse(source, "not asked for", what.help(did_you_mean(wanted, &there, "values")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_from_microseconds() {
        let (mut same, mut all) = (0, 0);
        for i in 1..100_000_u32 {
            let ms = f64::from(i) * 0.000_731;
            let back = microseconds(ms, 1e3) / 1e3;
            all += 1;
            same += u32::from(back == ms);
            assert!((back / ms - 1.0).abs() < 1e-15, "{ms} {back}");
        }
        // Where the mantissa is just above that of a power of two times 1.024, some have no microseconds of their own.
        assert!(same * 100 > all * 97, "{same} of {all}");
        assert_eq!(microseconds(0.25, 1e3), 250.0);
        assert_eq!(microseconds(1500.0, 1e-3), 1.5);
        assert_eq!(microseconds(3.0, 1.0), 3.0);
    }

    #[test]
    fn bounds_of_buckets() {
        for (label, want) in [
            ("n<=128", 128.0),
            ("n>256", 1e9),
            ("sr<=15%", 15.0),
            ("sr>70%", 100.0),
            ("kvB<=16k", 16384.0),
            ("kp=0", 0.0),
            ("kp<=512", 512.0),
        ] {
            assert_eq!(bound(label), want, "{label}");
        }
        assert!(bound("n").is_nan() && bound("n<=x").is_nan());
    }
}
