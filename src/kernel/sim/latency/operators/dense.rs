//! A sum of measured series over whole numbers (tokens, requests), looked up in an array.

use super::grid::{Read, Series};

/// Numbers up to which sums are kept; beyond, series are asked.
const KEPT_MAX: u64 = 1 << 16;

/// The sum of series, each some number of times, plus a line.
pub(super) struct Dense {
    parts: Vec<(f64, Series)>,
    /// Without measurements: a constant, and a slope.
    line: (f64, f64),
    values: Vec<f64>,
    /// First and last number at which every series was measured.
    measured: (f64, f64),
    least: f64,
}

impl Dense {
    /// Values up to `most` are kept. Nothing is the sum of no parts.
    pub(super) fn new(parts: Vec<(f64, Series)>, line: (f64, f64), most: u64) -> Dense {
        let first = parts.iter().map(|(_, s)| s.first()).fold(0.0, f64::max);
        let last = parts.iter().map(|(_, s)| s.last()).fold(f64::INFINITY, f64::min);
        let mut dense = Dense { parts, line, values: Vec::new(), measured: (first, last), least: 0.0 };
        dense.values = (0..=most.min(KEPT_MAX)).map(|n| dense.sum(n)).collect();
        // Of a step with something in it.
        dense.least = dense.values.iter().skip(1).copied().fold(f64::INFINITY, f64::min).min(dense.sum(1));
        dense
    }

    fn sum(&self, n: u64) -> f64 {
        if n == 0 {
            return 0.0;
        }
        let x = n as f64;
        self.parts.iter().map(|(times, series)| times * series.at(x).value).sum::<f64>() + self.line.0 + self.line.1 * x
    }

    #[inline]
    pub(super) fn at(&self, n: u64) -> Read {
        let value = match self.values.get(n as usize) {
            Some(value) => *value,
            None => self.sum(n),
        };
        let x = n as f64;
        Read { value, inside: n == 0 || (self.measured.0 <= x && x <= self.measured.1) }
    }

    /// The least value at one or more.
    pub(super) fn least(&self) -> f64 {
        self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_series() {
        let a = Series::new([(1.0, 10.0), (3.0, 30.0)]).unwrap();
        let b = Series::new([(2.0, 4.0), (4.0, 2.0)]).unwrap();
        let d = Dense::new(vec![(2.0, a), (1.0, b)], (0.5, 0.25), 3);
        // 2 (10 n) + b + 1/2 + n/4; b is 4 up to 2, then 3, 2. Beyond 3, the first grows in proportion.
        for (n, value, inside) in [
            (0, 0.0, true),
            (1, 24.75, false),
            (2, 45.0, true),
            (3, 64.25, true),
            (4, 83.5, false),
            (8, 160.0 + 4.0 + 2.5, false),
        ] {
            assert_eq!(d.at(n), Read { value, inside }, "{n}");
        }
        assert_eq!(d.least(), 24.75);
        assert_eq!(Dense::new(Vec::new(), (0.0, 0.0), 10).at(7), Read { value: 0.0, inside: true });
    }
}
