//! `to_char` and `to_timestamp` with PostgreSQL's patterns (table 9.26 of its manual).

use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray, TimestampNanosecondArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Those that are in place of DataFusion's functions of their names.
pub fn all(ctx: &SessionContext) -> Vec<ScalarUDF> {
    let state = ctx.state();
    let known = |name: &str| state.scalar_functions().get(name).cloned();
    let mut all = Vec::new();
    for (name, make) in [("to_char", Which::Char), ("to_timestamp", Which::Timestamp)] {
        all.extend(known(name).map(|inner| ScalarUDF::from(Patterned { inner, make })));
    }
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    Char,
    Timestamp,
}

/// A function of DataFusion that takes patterns of PostgreSQL too; those of DataFusion have a `%`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Patterned {
    inner: Arc<ScalarUDF>,
    make: Which,
}

impl ScalarUDFImpl for Patterned {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(kinds)
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        self.inner.return_type(kinds)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<arrow::datatypes::FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let pattern = match args.args.get(1) {
            Some(ColumnarValue::Scalar(pattern)) if args.args.len() == 2 => pattern.try_as_str().flatten(),
            _ => None,
        };
        let Some(pattern) = pattern.filter(|p| !p.contains('%')).map(str::to_string) else {
            return self.inner.invoke_with_args(args);
        };
        let pattern = Pattern::read(&pattern);
        let constant = matches!(args.args[0], ColumnarValue::Scalar(_));
        let array = args.args[0].to_array(if constant { 1 } else { args.number_rows })?;
        let out = match self.make {
            Which::Char => written(&array, &pattern)?,
            Which::Timestamp => read(&array, &pattern, args.return_type())?,
        };
        if constant {
            return Ok(ColumnarValue::Scalar(datafusion::scalar::ScalarValue::try_from_array(&out, 0)?));
        }
        Ok(ColumnarValue::Array(out))
    }
}

fn written(array: &ArrayRef, pattern: &Pattern) -> Result<ArrayRef> {
    if !array.data_type().is_temporal() && !array.data_type().is_null() {
        return exec_err!("to_char writes dates and times here, not {}", array.data_type());
    }
    let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let micros = micros.as_primitive::<TimestampMicrosecondType>();
    let text = |m: i64| DateTime::from_timestamp_micros(m).map(|at| pattern.write(at.naive_utc()));
    Ok(Arc::new(micros.iter().map(|m| m.and_then(text)).collect::<StringArray>()))
}

fn read(array: &ArrayRef, pattern: &Pattern, kind: &DataType) -> Result<ArrayRef> {
    let texts = cast(array, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    let mut nanos = Vec::with_capacity(texts.len());
    for text in texts {
        let Some(text) = text else {
            nanos.push(None);
            continue;
        };
        let at = pattern.parse(text).and_then(|at| at.and_utc().timestamp_nanos_opt());
        let shown: String = text.chars().take(60).collect();
        let wrong = || DataFusionError::Execution(format!("`{shown}` does not fit the pattern of to_timestamp"));
        nanos.push(Some(at.ok_or_else(wrong)?));
    }
    let array: ArrayRef = Arc::new(TimestampNanosecondArray::from(nanos));
    Ok(cast(&array, kind)?)
}

/// A pattern, as parts.
struct Pattern(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// Its name, and whether it is written without filling.
    Field(&'static str, bool),
}

/// Longer ones before those that they begin with.
const FIELDS: &[&str] = &[
    "HH24", "HH12", "YYYY", "IYYY", "Month", "MONTH", "month", "SSSS", "A.M.", "P.M.", "a.m.", "p.m.", "DDD", "DAY",
    "Day", "day", "MON", "Mon", "mon", "YYY", "TZ", "tz", "OF", "HH", "MI", "SS", "MS", "US", "MM", "DD", "DY", "Dy",
    "dy", "YY", "IW", "ID", "WW", "AM", "PM", "am", "pm", "CC", "Y", "Q", "D", "W",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Pattern {
    fn read(text: &str) -> Pattern {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut bare = false;
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("FM") {
                (bare, rest) = (true, after);
            } else if let Some(quoted) = rest.strip_prefix('"') {
                let end = quoted.find('"').unwrap_or(quoted.len());
                parts.push(Part::Text(quoted[..end].to_string()));
                rest = quoted.get(end + 1..).unwrap_or("");
            } else if let Some(field) = field_of(rest) {
                parts.push(Part::Field(field, bare));
                (bare, rest) = (false, &rest[field.len()..]);
            } else {
                parts.push(Part::Text(c.to_string()));
                rest = &rest[c.len_utf8()..];
            }
        }
        Pattern(parts)
    }

    fn write(&self, at: NaiveDateTime) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Field(name, bare) => {
                    let text = field(name, at);
                    if !*bare {
                        text
                    } else if text.bytes().all(|b| b.is_ascii_digit()) {
                        let short = text.trim_start_matches('0');
                        if short.is_empty() { "0".to_string() } else { short.to_string() }
                    } else {
                        text.trim_end().to_string()
                    }
                }
            })
            .collect()
    }

    /// Reads what [`Pattern::write`] writes, and what differs from it in signs between fields.
    fn parse(&self, text: &str) -> Option<NaiveDateTime> {
        let mut at = Read { year: 1, month: 1, day: 1, ..Read::default() };
        let mut rest = text.trim_start();
        for part in &self.0 {
            match part {
                Part::Text(expected) if expected.trim().is_empty() => rest = rest.trim_start(),
                Part::Text(expected) => {
                    for _ in expected.chars() {
                        let next = rest.chars().next()?;
                        if next.is_alphanumeric() && expected.chars().all(|c| !c.is_alphanumeric()) {
                            break;
                        }
                        rest = &rest[next.len_utf8()..];
                    }
                }
                Part::Field(name, _) => rest = at.take(name, rest.trim_start())?,
            }
        }
        at.moment()
    }
}

fn field_of(text: &str) -> Option<&'static str> {
    let exact = FIELDS.iter().find(|f| text.starts_with(**f));
    // Fields of numbers may be written in small letters.
    let upper = || {
        let numbers = |f: &&&str| f.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        FIELDS.iter().filter(numbers).find(|f| text.get(..f.len()).is_some_and(|t| t.eq_ignore_ascii_case(f)))
    };
    exact.or_else(upper).copied()
}

fn field(name: &str, at: NaiveDateTime) -> String {
    let half = |am: &str, pm: &str| if at.hour() < 12 { am } else { pm }.to_string();
    let twelve = if at.hour().is_multiple_of(12) { 12 } else { at.hour() % 12 };
    let (month, day) = (MONTHS[at.month0() as usize], DAYS[at.weekday().num_days_from_sunday() as usize]);
    match name {
        "YYYY" => format!("{:04}", at.year()),
        "YYY" => format!("{:03}", at.year().rem_euclid(1000)),
        "YY" => format!("{:02}", at.year().rem_euclid(100)),
        "Y" => at.year().rem_euclid(10).to_string(),
        "IYYY" => format!("{:04}", at.iso_week().year()),
        "CC" => format!("{:02}", (at.year() - 1).div_euclid(100) + 1),
        "Q" => (at.month0() / 3 + 1).to_string(),
        "MM" => format!("{:02}", at.month()),
        "Month" => format!("{month:<9}"),
        "MONTH" => format!("{:<9}", month.to_uppercase()),
        "month" => format!("{:<9}", month.to_lowercase()),
        "Mon" => month[..3].to_string(),
        "MON" => month[..3].to_uppercase(),
        "mon" => month[..3].to_lowercase(),
        "DD" => format!("{:02}", at.day()),
        "DDD" => format!("{:03}", at.ordinal()),
        "Day" => format!("{day:<9}"),
        "DAY" => format!("{:<9}", day.to_uppercase()),
        "day" => format!("{:<9}", day.to_lowercase()),
        "Dy" => day[..3].to_string(),
        "DY" => day[..3].to_uppercase(),
        "dy" => day[..3].to_lowercase(),
        "D" => (at.weekday().num_days_from_sunday() + 1).to_string(),
        "ID" => (at.weekday().num_days_from_monday() + 1).to_string(),
        "W" => (at.day0() / 7 + 1).to_string(),
        "WW" => format!("{:02}", at.ordinal0() / 7 + 1),
        "IW" => format!("{:02}", at.iso_week().week()),
        "HH24" => format!("{:02}", at.hour()),
        "HH12" | "HH" => format!("{twelve:02}"),
        "MI" => format!("{:02}", at.minute()),
        "SS" => format!("{:02}", at.second()),
        "SSSS" => at.num_seconds_from_midnight().to_string(),
        "MS" => format!("{:03}", at.nanosecond() / 1_000_000),
        "US" => format!("{:06}", at.nanosecond() / 1000),
        "AM" | "PM" => half("AM", "PM"),
        "am" | "pm" => half("am", "pm"),
        "A.M." | "P.M." => half("A.M.", "P.M."),
        "a.m." | "p.m." => half("a.m.", "p.m."),
        "TZ" => "UTC".to_string(),
        "tz" => "utc".to_string(),
        "OF" => "+00".to_string(),
        _ => String::new(),
    }
}

/// Fields that were read.
#[derive(Default)]
struct Read {
    year: i32,
    month: u32,
    day: u32,
    ordinal: Option<u32>,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: u32,
    afternoon: Option<bool>,
}

impl Read {
    /// Reads a field; returns what comes after it.
    fn take<'a>(&mut self, name: &str, text: &'a str) -> Option<&'a str> {
        let digits = |most: usize| {
            let end = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
            Some((text.get(..end)?.parse::<u32>().ok()?, end))
        };
        let word = |words: &[&str], short: bool| {
            let at = words.iter().position(|w| {
                let w = if short { &w[..3] } else { w };
                text.get(..w.len()).is_some_and(|t| t.eq_ignore_ascii_case(w))
            })?;
            Some((at as u32, if short { 3 } else { words[at].len() }))
        };
        let (value, end) = match name {
            "YYYY" | "IYYY" => digits(4)?,
            "YYY" | "DDD" => digits(3)?,
            "Y" | "Q" | "D" | "ID" | "W" => digits(1)?,
            "SSSS" => digits(5)?,
            "MS" => digits(3)?,
            "US" => digits(6)?,
            "Month" | "MONTH" | "month" => word(&MONTHS, false)?,
            "Mon" | "MON" | "mon" => word(&MONTHS, true)?,
            "Day" | "DAY" | "day" => word(&DAYS, false)?,
            "Dy" | "DY" | "dy" => word(&DAYS, true)?,
            "AM" | "PM" | "am" | "pm" => word(&["am", "pm"], false)?,
            "A.M." | "P.M." | "a.m." | "p.m." => word(&["a.m.", "p.m."], false)?,
            "TZ" | "tz" => word(&["utc", "gmt", "z"], false)?,
            "OF" => (0, text.find(|c: char| !"+-:0123456789".contains(c)).unwrap_or(text.len())),
            _ => digits(2)?,
        };
        match name {
            "YYYY" => self.year = value as i32,
            "YY" => self.year = if value < 70 { 2000 + value as i32 } else { 1900 + value as i32 },
            "MM" => self.month = value,
            "Month" | "MONTH" | "month" | "Mon" | "MON" | "mon" => self.month = value + 1,
            "DD" => self.day = value,
            "DDD" => self.ordinal = Some(value),
            "HH24" | "HH12" | "HH" => self.hour = value,
            "MI" => self.minute = value,
            "SS" => self.second = value,
            "SSSS" => (self.hour, self.minute, self.second) = (value / 3600, value / 60 % 60, value % 60),
            // Digits of a fraction: `5` is half a second.
            "MS" | "US" => self.nanos = value * 10_u32.pow(9 - end as u32),
            "AM" | "PM" | "am" | "pm" | "A.M." | "P.M." | "a.m." | "p.m." => self.afternoon = Some(value == 1),
            "OF" if text[..end].bytes().any(|b| (b'1'..=b'9').contains(&b)) => return None,
            _ => {}
        }
        text.get(end..)
    }

    fn moment(&self) -> Option<NaiveDateTime> {
        let hour = match self.afternoon {
            Some(afternoon) if (1..=12).contains(&self.hour) => self.hour % 12 + if afternoon { 12 } else { 0 },
            Some(_) => return None,
            None => self.hour,
        };
        let date = match self.ordinal {
            Some(day) => NaiveDate::from_yo_opt(self.year, day)?,
            None => NaiveDate::from_ymd_opt(self.year, self.month, self.day)?,
        };
        Some(date.and_time(NaiveTime::from_hms_nano_opt(hour, self.minute, self.second, self.nanos)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap()
    }

    #[test]
    fn times_are_written_as_postgresql_does() {
        // What `SELECT to_char(timestamp '...', '...')` of PostgreSQL 15 prints.
        let moment = at("2026-03-04 15:06:07.089012");
        let cases = [
            ("YYYY-MM-DD HH24:MI:SS.US", "2026-03-04 15:06:07.089012"),
            ("YYYY-MM-DD\"T\"HH24:MI:SS.MS TZ", "2026-03-04T15:06:07.089 UTC"),
            ("HH12:MI AM, Dy DD Mon YY", "03:06 PM, Wed 04 Mar 26"),
            ("FMDay, FMDD FMMonth", "Wednesday, 4 March"),
            ("Month|DDD|Q|IW|D|ID|SSSS", "March    |063|1|10|4|3|54367"),
            ("yyyy/mm", "2026/03"),
            ("", ""),
        ];
        for (pattern, expected) in cases {
            assert_eq!(Pattern::read(pattern).write(moment), expected, "{pattern}");
        }
    }

    #[test]
    fn times_are_read_as_postgresql_does() {
        let cases = [
            ("2026-01-02 03:04:05.000678", "YYYY-MM-DD HH24:MI:SS.US", Some("2026-01-02 03:04:05.000678")),
            ("05 Dec 2000", "DD Mon YYYY", Some("2000-12-05 00:00:00")),
            ("2026/1/2", "YYYY-MM-DD", Some("2026-01-02 00:00:00")),
            ("12:30 am", "HH12:MI am", Some("0001-01-01 00:30:00")),
            ("2026-060", "YYYY-DDD", Some("2026-03-01 00:00:00")),
            ("10.5", "SS.MS", Some("0001-01-01 00:00:10.5")),
            ("2026-13-01", "YYYY-MM-DD", None),
            ("yesterday", "YYYY-MM-DD", None),
            ("", "YYYY", None),
            ("é", "YYYY", None),
        ];
        for (text, pattern, expected) in cases {
            assert_eq!(Pattern::read(pattern).parse(text), expected.map(at), "{text} {pattern}");
        }
    }
}
