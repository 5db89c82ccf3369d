//! Time as an integer count of nanoseconds. Sums of times are exact, in any order.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in simulated time: nanoseconds since the start of the trace. About 292 years fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimTime(pub i64);

/// A span of simulated time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimDuration(pub i64);

impl SimTime {
    pub const ZERO: SimTime = SimTime(0);
    pub const MAX: SimTime = SimTime(i64::MAX);
}

impl SimDuration {
    pub const ZERO: SimDuration = SimDuration(0);

    /// Nearest nanosecond to a number of microseconds; saturates, and takes NaN and negative numbers as zero.
    pub fn from_us(us: f64) -> SimDuration {
        SimDuration((us * 1e3).round().max(0.0) as i64)
    }

    /// Nearest nanosecond to a number of seconds; saturates, and takes NaN and negative numbers as zero.
    pub fn from_s(s: f64) -> SimDuration {
        SimDuration((s * 1e9).round().max(0.0) as i64)
    }

    pub fn as_ms(self) -> f64 {
        self.0 as f64 / 1e6
    }

    pub fn as_s(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add<SimDuration> for SimTime {
    type Output = SimTime;
    fn add(self, d: SimDuration) -> SimTime {
        SimTime(self.0 + d.0)
    }
}

impl Sub for SimTime {
    type Output = SimDuration;
    fn sub(self, earlier: SimTime) -> SimDuration {
        SimDuration(self.0 - earlier.0)
    }
}

impl Add for SimDuration {
    type Output = SimDuration;
    fn add(self, d: SimDuration) -> SimDuration {
        SimDuration(self.0 + d.0)
    }
}

impl AddAssign for SimDuration {
    fn add_assign(&mut self, d: SimDuration) {
        self.0 += d.0;
    }
}

/// A quantum of time, written as a number and a unit: `1us`, `100ns`, `1ms`, `1s`. At least a nanosecond, at most an
/// hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(SimDuration);

const TICK_UNITS: [(&str, i64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
const TICK_MAX_NS: i64 = 3_600 * 1_000_000_000;

impl Tick {
    /// `None` beyond its bounds.
    pub fn new(quantum: SimDuration) -> Option<Tick> {
        (1..=TICK_MAX_NS).contains(&quantum.0).then_some(Tick(quantum))
    }

    pub fn duration(self) -> SimDuration {
        self.0
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = TICK_UNITS.iter().rev().find(|(_, ns)| self.0.0 % ns == 0);
        let (unit, ns) = whole.copied().unwrap_or(("ns", 1));
        write!(f, "{}{unit}", self.0.0 / ns)
    }
}

impl std::str::FromStr for Tick {
    type Err = String;

    fn from_str(text: &str) -> Result<Tick, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = TICK_UNITS.iter().find(|(unit, _)| *unit == text[digits.len()..].trim());
        let ns = unit.and_then(|(_, ns)| digits.trim().parse::<i64>().ok()?.checked_mul(*ns));
        let wrong = || format!("`{text}` is not a quantum of time; write `1ns` to `3600s`, such as `1us`");
        ns.and_then(|ns| Tick::new(SimDuration(ns))).ok_or_else(wrong)
    }
}

impl Serialize for Tick {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tick {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tick, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Tick {
    fn schema_name() -> Cow<'static, str> {
        "Tick".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ ?(ns|us|ms|s)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quanta_are_read_and_written() {
        let cases = [
            ("1us", Some((1_000, "1us"))),
            ("250 ns", Some((250, "250ns"))),
            ("1000us", Some((1_000_000, "1ms"))),
            ("2s", Some((2_000_000_000, "2s"))),
            ("0us", None),
            ("-1us", None),
            ("1", None),
            ("1m", None),
            ("us", None),
            ("3601s", None),
            ("99999999999999999999s", None),
        ];
        for (text, expect) in cases {
            let read = text.parse::<Tick>().ok().map(|t| (t.duration().0, t.to_string()));
            assert_eq!(read, expect.map(|(ns, text)| (ns, text.to_string())), "{text}");
        }
    }
}
