//! Axes as functions: from values to the unit interval, and where their ticks are.

use super::chart::Limits;
use super::number::{number, tick_labels};

/// From values to 0..1 along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear {
        low: f64,
        high: f64,
    },
    /// Of decimal exponents.
    Log {
        low: f64,
        high: f64,
    },
    /// Equal slots for the categories 0, 1, 2...
    Slots(usize),
}

impl Default for Scale {
    fn default() -> Scale {
        Scale::Linear { low: 0.0, high: 1.0 }
    }
}

/// A place on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    /// Empty for a line of the grid without a label.
    pub label: String,
    /// Where there is not room for all labels, those of lower rank stay. [`FAINT`] has none.
    pub rank: u8,
}

/// The rank of lines between labelled ones.
pub(super) const FAINT: u8 = 3;

/// How far a linear axis reaches beyond the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reach {
    /// To zero where that is near enough: the data begin below this share of their maximum.
    NearZero(f64),
    /// Always to zero: the length of a bar must not lie.
    Zero,
}

impl Scale {
    /// Over `min..=max`, with a little room on both sides.
    pub fn linear((min, max): (f64, f64), reach: Reach) -> Scale {
        let zero = match reach {
            Reach::Zero => true,
            Reach::NearZero(share) => min >= 0.0 && min < share * max || max <= 0.0 && max > share * min,
        };
        let (mut low, mut high) = if zero { (min.min(0.0), max.max(0.0)) } else { (min, max) };
        // Values that differ in their last digits only would be drawn as noise.
        if high - low <= low.abs().max(high.abs()) * 1e-12 {
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.5 };
            (low, high) = (if low >= 0.0 { (low - room).max(0.0) } else { low - room }, high + room);
        }
        let room = (high - low) * 0.04;
        Scale::Linear {
            low: if zero && low == 0.0 { 0.0 } else { low - room },
            high: if zero && high == 0.0 { 0.0 } else { high + room },
        }
    }

    /// Over `min..=max`, both above zero.
    pub fn log((min, max): (f64, f64)) -> Scale {
        let (low, high) = (libm::log10(min), libm::log10(max));
        let room = if high - low < 1e-9 { 0.35 } else { (high - low) * 0.04 };
        Scale::Log { low: low - room, high: high + room }
    }

    /// The same with the ends that are asked for, positive ones for a logarithmic axis.
    pub fn limited(self, limits: Limits) -> Scale {
        let log = |v: Option<f64>| v.map(libm::log10);
        match self {
            Scale::Linear { low, high } => {
                let (low, high) = ends((low, high), (limits.low, limits.high));
                Scale::Linear { low, high }
            }
            Scale::Log { low, high } => {
                let (low, high) = ends((low, high), (log(limits.low), log(limits.high)));
                Scale::Log { low, high }
            }
            Scale::Slots(n) => Scale::Slots(n),
        }
    }

    /// Where `v` is on the axis, 0 to 1.
    pub fn unit(&self, v: f64) -> f64 {
        match *self {
            Scale::Linear { low, high } => (v - low) / (high - low),
            Scale::Log { low, high } => (libm::log10(v) - low) / (high - low),
            Scale::Slots(n) => (v + 0.5) / n.max(1) as f64,
        }
    }

    /// Where bars stand: at zero, or at the low end of an axis that has none.
    pub fn foot(&self) -> f64 {
        match *self {
            Scale::Linear { low, high } => 0.0_f64.clamp(low, high),
            Scale::Log { low, .. } => libm::pow(10.0, low),
            Scale::Slots(_) => -0.5,
        }
    }

    /// About `want` labelled ticks in order; slots have names instead.
    pub fn ticks(&self, want: usize) -> Vec<Tick> {
        match *self {
            Scale::Linear { low, high } => even_ticks(low, high, want),
            Scale::Log { low, high } => log_ticks(low, high, want),
            Scale::Slots(_) => Vec::new(),
        }
    }
}

/// The given ends instead of those of the data; where all data lie beyond them, an axis of some length.
fn ends((low, high): (f64, f64), given: (Option<f64>, Option<f64>)) -> (f64, f64) {
    let (from, to) = (given.0.unwrap_or(low), given.1.unwrap_or(high));
    let room = from.abs().max(to.abs()).max(1.0);
    match given {
        _ if from < to => (from, to),
        (None, Some(_)) => (to - room, to),
        _ => (from, from + room),
    }
}

/// Ticks at multiples of 1, 2 or 5 times a power of ten.
fn even_ticks(low: f64, high: f64, want: usize) -> Vec<Tick> {
    let step = nice_step((high - low) / want.max(1) as f64);
    let first = libm::ceil(low / step - 1e-9);
    // Bounded, since at the limits of precision adding a step may change nothing.
    let values: Vec<f64> =
        (0..64).map(|i| (first + f64::from(i)) * step).take_while(|v| *v <= high + step * 1e-9).collect();
    let labels = tick_labels(&values, step);
    values.into_iter().zip(labels).map(|(value, label)| Tick { value, label, rank: 0 }).collect()
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `raw`.
fn nice_step(raw: f64) -> f64 {
    if !(raw > 0.0 && raw.is_finite()) {
        return 1.0;
    }
    let decade = libm::pow(10.0, libm::floor(libm::log10(raw)));
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * decade >= raw * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * decade
}

/// Decades, with the steps between them where there are few. `low` and `high` are exponents.
fn log_ticks(low: f64, high: f64, want: usize) -> Vec<Tick> {
    let span = high - low;
    if span < 0.8 {
        return even_ticks(libm::pow(10.0, low), libm::pow(10.0, high), want);
    }
    let every = (libm::ceil(span / want.max(1) as f64) as i32).max(1);
    let mut ticks = Vec::new();
    for k in libm::floor(low) as i32..=libm::ceil(high) as i32 {
        for digit in 1..10 {
            let value = f64::from(digit) * libm::pow(10.0, f64::from(k));
            let at = libm::log10(value);
            if at < low - 1e-9 || at > high + 1e-9 {
                continue;
            }
            let rank = match digit {
                1 if k.rem_euclid(every) == 0 => 0,
                2 | 5 if span <= 2.7 => 1,
                3 | 4 | 6 | 8 if span <= 1.25 => 2,
                _ if every == 1 && span <= 7.0 => FAINT,
                _ => continue,
            };
            ticks.push(Tick { value, label: if rank < FAINT { number(value) } else { String::new() }, rank });
        }
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, want: usize) -> Vec<String> {
        scale.ticks(want).into_iter().map(|t| t.label).filter(|l| !l.is_empty()).collect()
    }

    #[test]
    fn linear_axes_have_round_ticks() {
        assert_eq!(labels(Scale::linear((0.0, 10.0), Reach::NearZero(0.5)), 5), ["0", "5", "10"]);
        assert_eq!(labels(Scale::linear((98.0, 102.0), Reach::NearZero(0.5)), 5), ["98", "99", "100", "101", "102"]);
        assert_eq!(labels(Scale::linear((7.0, 7.0), Reach::NearZero(0.5)), 4), ["4", "6", "8", "10"]);
        assert_eq!(labels(Scale::linear((0.0, 0.0), Reach::Zero), 2), ["0", "1"]);
    }

    #[test]
    fn log_axes_have_decades_and_what_lies_between_where_there_is_room() {
        assert_eq!(labels(Scale::log((1.0, 1e6)), 8), ["1", "10", "100", "1,000", "10,000", "100,000", "1M"]);
        assert_eq!(labels(Scale::log((1.0, 50.0)), 8), ["1", "2", "5", "10", "20", "50"]);
        assert_eq!(labels(Scale::log((54.0, 440.0)), 8), ["50", "60", "80", "100", "200", "300", "400"]);
        assert_eq!(labels(Scale::log((20.0, 30.0)), 5), ["20", "25", "30"]);
        assert!(labels(Scale::log((1e-9, 1e9)), 6).len() <= 7);
    }

    #[test]
    fn limits_are_the_ends_of_an_axis() {
        let limits = |low, high| Limits { low, high };
        let linear = Scale::linear((10.0, 20.0), Reach::NearZero(0.1));
        let log = Scale::log((10.0, 1000.0));
        // (scale, limits, the values at its ends, where given)
        let cases = [
            (linear, limits(Some(12.0), None), (Some(12.0), None)),
            (linear, limits(Some(0.0), Some(5.0)), (Some(0.0), Some(5.0))),
            (linear, limits(Some(50.0), None), (Some(50.0), Some(100.0))),
            (linear, limits(None, Some(-3.0)), (None, Some(-3.0))),
            (log, limits(Some(1.0), Some(100.0)), (Some(1.0), Some(100.0))),
        ];
        for (scale, limits, (low, high)) in cases {
            let limited = scale.limited(limits);
            assert!(low.is_none_or(|v| limited.unit(v).abs() < 1e-12), "{limited:?}");
            assert!(high.is_none_or(|v| (limited.unit(v) - 1.0).abs() < 1e-12), "{limited:?}");
            assert!(limited.unit(1e9) > limited.unit(1.0), "{limited:?}");
        }
        assert_eq!(Scale::Slots(3).limited(limits(Some(9.0), None)), Scale::Slots(3));
    }

    #[test]
    fn extreme_values_end_in_few_ticks() {
        let cases = [(1e18, 1e18 + 256.0), (-1e300, 1e300), (1e-300, 2e-300), (0.1, 0.1 + 1e-17)];
        for range in cases {
            let ticks = Scale::linear(range, Reach::NearZero(0.5)).ticks(6);
            assert!((1..=64).contains(&ticks.len()), "{range:?}: {}", ticks.len());
        }
    }
}
