//! Time as an integer count of nanoseconds. Sums of times are exact, in any order.

use std::ops::{Add, AddAssign, Sub};

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
