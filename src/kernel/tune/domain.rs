//! The values that one parameter may take.
//!
//! Three ways to say the same: a *value* is what users see; a *coordinate* of the unit interval is what a search that
//! knows nothing draws; a *place* is what samplers calculate with: 0 to 1 along the values that are set, or [`ABSENT`].
//! Places are canonical: equal values have the same bits. Values survive being written as decimal text: floats carry at
//! most 12 significant digits.

use serde_json::Value;

use super::importance::{Column, Null, Values};

/// Integers up to here are exact as `f64`.
const EXACT: i64 = 1 << 53;
/// The place of a parameter that is not set, or that does not exist because of another one.
pub(super) const ABSENT: f64 = -1.0;
/// Share of the coordinates of a continuous domain that are not set, where that is a value.
const UNSET_SHARE: f64 = 0.1;

/// The values that one parameter may take. Made by [`Domain::list`], [`Domain::ordered`], [`Domain::int`] and
/// [`Domain::float`] only, which is why a domain is always valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    kind: Kind,
    /// `null` is one more value: not set.
    unset: bool,
}

/// What a domain is, besides whether it may be unset.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Without order: no two values are closer than others.
    Nominal(Vec<Value>),
    /// In order; the distance between neighbours is one step, whatever their difference.
    Ordinal(Vec<Value>),
    /// `low`, `low + step`, ... up to `levels` numbers.
    Int {
        low: i64,
        step: i64,
        levels: u64,
        log: bool,
    },
    Float {
        low: f64,
        high: f64,
        log: bool,
    },
    /// `low`, `low + step`, ... up to `levels` numbers.
    FloatStep {
        low: f64,
        step: f64,
        levels: u64,
        log: bool,
    },
}

impl Domain {
    /// A list of values. All numbers, but for a `null`: they are put in ascending order, neighbours count as similar,
    /// and `null` is the value of not being set. Otherwise (names, booleans) every value is as far from every other.
    ///
    /// # Errors
    /// An empty list, or a value that occurs twice.
    pub fn list(values: Vec<Value>) -> Result<Domain, String> {
        check_list(&values)?;
        let (mut numbers, others): (Vec<Value>, Vec<Value>) = values.iter().cloned().partition(Value::is_number);
        if numbers.is_empty() || others.iter().any(|v| !v.is_null()) {
            return Ok(Domain { kind: Kind::Nominal(values), unset: false });
        }
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        numbers.sort_by(|a, b| number(a).total_cmp(&number(b)));
        Ok(Domain { kind: Kind::Ordinal(numbers), unset: !others.is_empty() })
    }

    /// A list of values in the order in which they are given: neighbours count as similar. `null` is the value of not
    /// being set, wherever it stands.
    ///
    /// # Errors
    /// A list without a value but `null`, or a value that occurs twice.
    pub fn ordered(values: Vec<Value>) -> Result<Domain, String> {
        check_list(&values)?;
        let (nulls, values): (Vec<Value>, Vec<Value>) = values.into_iter().partition(Value::is_null);
        if values.is_empty() {
            return Err("the list has no value but null".to_owned());
        }
        Ok(Domain { kind: Kind::Ordinal(values), unset: !nulls.is_empty() })
    }

    /// Off and on.
    pub fn boolean() -> Domain {
        Domain { kind: Kind::Nominal(vec![Value::Bool(false), Value::Bool(true)]), unset: false }
    }

    /// The integers `low`, `low + step`, ... up to `high`; `step` is 1 unless given. With `log`, equal ratios are
    /// equally far apart.
    ///
    /// # Errors
    /// `low >= high`, a step below 1, `log` with `low < 1`, or numbers beyond 2^53.
    pub fn int(low: i64, high: i64, log: bool, step: Option<i64>) -> Result<Domain, String> {
        let step = step.unwrap_or(1);
        if low >= high {
            return Err(format!("the lower end {low} must be below the upper end {high}"));
        }
        if low < -EXACT || high > EXACT {
            return Err(format!("the ends must lie within {} and {EXACT}", -EXACT));
        }
        if step < 1 || step > high - low {
            return Err(format!("the step must be from 1 to {}, not {step}", high - low));
        }
        if log && low < 1 {
            return Err(format!("a logarithmic range starts at 1 or above, not {low}"));
        }
        let levels = ((high - low) / step) as u64 + 1;
        Ok(Domain { kind: Kind::Int { low, step, levels, log }, unset: false })
    }

    /// The numbers from `low` to `high`, or, with a step, `low`, `low + step`, ... up to `high`. With `log`, equal
    /// ratios are equally far apart.
    ///
    /// # Errors
    /// Ends or step that are no numbers, `low >= high`, a step that is not above 0 or exceeds the range, `log` with
    /// `low <= 0`.
    pub fn float(low: f64, high: f64, log: bool, step: Option<f64>) -> Result<Domain, String> {
        if !(low.is_finite() && high.is_finite() && low < high && (high - low).is_finite()) {
            return Err(format!("the lower end {low} must be below the upper end {high}"));
        }
        if log && low <= 0.0 {
            return Err(format!("a logarithmic range starts above 0, not at {low}"));
        }
        let Some(step) = step else {
            return Ok(Domain { kind: Kind::Float { low, high, log }, unset: false });
        };
        // The upper end belongs to the range even where the division falls a rounding error short of it.
        let steps = (high - low) / step + 1e-9;
        if !(step > 0.0 && (1.0..EXACT as f64).contains(&steps)) {
            return Err(format!("the step must be above 0 and at most {}, not {step}", high - low));
        }
        Ok(Domain { kind: Kind::FloatStep { low, step, levels: steps as u64 + 1, log }, unset: false })
    }

    /// What importances are calculated from: the values of some trials, and what kind of values they are. A value that the
    /// domain does not have counts as absent.
    pub fn importance(&self, given: &[Value]) -> Column {
        let levels = |levels: &[Value]| -> Vec<Option<f64>> {
            let level = |value: &Value| levels.iter().position(|l| same(l, value)).map(|k| k as f64);
            given.iter().map(level).collect()
        };
        let numbers = || given.iter().map(Value::as_f64).collect();
        let (values, given) = match &self.kind {
            Kind::Nominal(names) => (Values::Categorical { choices: names.len() }, levels(names)),
            Kind::Ordinal(ordered) => (Values::Ordinal { levels: ordered.len() }, levels(ordered)),
            Kind::Int { low, step, levels, log } => {
                let high = low + step * (*levels as i64 - 1);
                (Values::Int { low: *low, high, log: *log, step: *step }, numbers())
            }
            Kind::Float { low, high, log } => {
                (Values::Float { low: *low, high: *high, log: *log, step: None }, numbers())
            }
            Kind::FloatStep { low, step, levels, log } => {
                let high = low + step * (*levels - 1) as f64;
                (Values::Float { low: *low, high, log: *log, step: Some(*step) }, numbers())
            }
        };
        Column { values, given, null: if self.unset { Null::Value } else { Null::Inactive } }
    }

    /// The same with `null` as one more value: not set. A list of names gets it as one more name.
    pub fn or_unset(mut self) -> Domain {
        match &mut self.kind {
            Kind::Nominal(values) => {
                if !values.contains(&Value::Null) {
                    values.push(Value::Null);
                }
            }
            Kind::Ordinal(_) | Kind::Int { .. } | Kind::Float { .. } | Kind::FloatStep { .. } => self.unset = true,
        }
        self
    }

    /// `count` numbers spread evenly over a continuous domain, ends included; any other domain as it is.
    pub(super) fn discretized(&self, count: u32) -> Domain {
        let Kind::Float { .. } = self.kind else {
            return self.clone();
        };
        let intervals = f64::from(count.max(2) - 1);
        let mut values: Vec<Value> = (0..count.max(2)).map(|i| self.value(f64::from(i) / intervals)).collect();
        values.dedup();
        Domain { kind: Kind::Ordinal(values), unset: self.unset }
    }

    /// Number of values, `null` included; `None` where they are a continuum.
    pub fn levels(&self) -> Option<u64> {
        Some(self.set_levels()? + u64::from(self.unset))
    }

    /// Number of values that are not the unset one.
    pub(super) fn set_levels(&self) -> Option<u64> {
        match &self.kind {
            Kind::Nominal(values) | Kind::Ordinal(values) => Some(values.len() as u64),
            Kind::Int { levels, .. } | Kind::FloatStep { levels, .. } => Some(*levels),
            Kind::Float { .. } => None,
        }
    }

    /// No two values are closer than others: places must not be averaged.
    pub fn is_nominal(&self) -> bool {
        matches!(self.kind, Kind::Nominal(_))
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Not being set is a value besides those of the range or list.
    pub fn may_be_unset(&self) -> bool {
        self.unset
    }

    /// The value at a coordinate from 0 to 1 (others are clamped): every `u` has a value, and uniformly drawn
    /// coordinates give every level the same share, or the share of its logarithmic interval.
    pub fn decode(&self, u: f64) -> Value {
        self.value(self.place(u))
    }

    /// A coordinate of a value: one that [`decode`](Self::decode)s to it. `None` where the domain does not have it.
    pub fn encode(&self, value: &Value) -> Option<f64> {
        let share = self.unset_share();
        let place = self.place_of(value)?;
        Some(if place == ABSENT { 0.5 * share } else { share + place * (1.0 - share) })
    }

    fn unset_share(&self) -> f64 {
        match (self.unset, self.set_levels()) {
            (false, _) => 0.0,
            (true, Some(levels)) => 1.0 / (levels + 1) as f64,
            (true, None) => UNSET_SHARE,
        }
    }

    /// The place of a coordinate. Not yet canonical.
    pub(super) fn place(&self, u: f64) -> f64 {
        if !self.unset {
            return u.clamp(0.0, 1.0);
        }
        let share = self.unset_share();
        if u < share { ABSENT } else { ((u - share) / (1.0 - share)).clamp(0.0, 1.0) }
    }

    /// The canonical place nearest to one that is set.
    pub(super) fn snap(&self, place: f64) -> f64 {
        match &self.kind {
            Kind::Float { low, high, log } => float_place(*low, *high, *log, float_at(*low, *high, *log, place)),
            Kind::Nominal(_) | Kind::Ordinal(_) | Kind::Int { .. } | Kind::FloatStep { .. } => {
                self.place_at(self.level_at(place))
            }
        }
    }

    /// The value at a place, canonical or not.
    pub(super) fn value(&self, place: f64) -> Value {
        if place == ABSENT {
            return Value::Null;
        }
        match &self.kind {
            Kind::Float { low, high, log } => Value::from(float_at(*low, *high, *log, place)),
            Kind::Nominal(_) | Kind::Ordinal(_) | Kind::Int { .. } | Kind::FloatStep { .. } => {
                self.set_value(self.level_at(place))
            }
        }
    }

    /// The canonical place of a value; `None` where the domain does not have it.
    pub(super) fn place_of(&self, value: &Value) -> Option<f64> {
        if self.unset && value.is_null() {
            return Some(ABSENT);
        }
        let nearest = |low: f64, step: f64, levels: u64| {
            let k = libm::round((value.as_f64()? - low) / step);
            (k >= 0.0 && k < levels as f64).then_some(k as u64).filter(|&k| same(&self.set_value(k), value))
        };
        let level = match &self.kind {
            Kind::Nominal(values) | Kind::Ordinal(values) => {
                values.iter().position(|v| same(v, value)).map(|k| k as u64)
            }
            Kind::Int { low, step, levels, .. } => nearest(*low as f64, *step as f64, *levels),
            Kind::FloatStep { low, step, levels, .. } => nearest(*low, *step, *levels),
            Kind::Float { low, high, log } => {
                let x = value.as_f64().filter(|x| (*low..=*high).contains(x))?;
                return Some(float_place(*low, *high, *log, x));
            }
        };
        Some(self.place_at(level?))
    }

    /// The place of a level, counted from 0 with the unset value, if any, before all others.
    pub(super) fn place_of_level(&self, k: u64) -> f64 {
        match (self.unset, k) {
            (true, 0) => ABSENT,
            (true, k) => self.place_at(k - 1),
            (false, k) => self.place_at(k),
        }
    }

    /// The level of a place, counted likewise.
    pub(super) fn level_of_place(&self, place: f64) -> u64 {
        if place == ABSENT {
            return 0;
        }
        self.level_at(place) + u64::from(self.unset)
    }

    /// The value of a level that is set, from 0 up. Continuous domains have none.
    pub(super) fn set_value(&self, k: u64) -> Value {
        match &self.kind {
            Kind::Nominal(values) | Kind::Ordinal(values) => values[k as usize].clone(),
            Kind::Int { low, step, .. } => Value::from(low + k as i64 * step),
            Kind::FloatStep { low, step, .. } => Value::from(round12(low + k as f64 * step)),
            Kind::Float { .. } => unreachable!("a continuous domain has no levels"),
        }
    }

    /// The level whose interval of places holds one, of those that are set.
    pub(super) fn level_at(&self, place: f64) -> u64 {
        let levels = self.set_levels().unwrap_or(1);
        let k = match self.log_ends() {
            Some(ends) => libm::round((libm::exp(between(ends.from, ends.to, place)) - ends.low) / ends.step),
            // Casts drop what is behind the point.
            None => place * levels as f64,
        };
        // The cast takes what lies below 0 as 0.
        (k as u64).min(levels - 1)
    }

    /// The place of the level next to that of `place`, above or below; at the ends, the only one there is. `None`
    /// where there are not two levels.
    pub(super) fn next_level(&self, place: f64, above: bool) -> Option<f64> {
        let last = self.set_levels()?.checked_sub(2)? + 1;
        let k = self.level_at(place);
        Some(self.place_at(if (above || k == 0) && k < last { k + 1 } else { k - 1 }))
    }

    /// The place of a level that is set: the middle of its interval, but for logarithmic ones.
    pub(super) fn place_at(&self, k: u64) -> f64 {
        match self.log_ends() {
            Some(ends) => (libm::log(ends.low + k as f64 * ends.step) - ends.from) / (ends.to - ends.from),
            None => (k as f64 + 0.5) / self.set_levels().unwrap_or(1) as f64,
        }
    }

    /// Where the interval of a level that is set begins; that of the number of levels: where the last one ends.
    pub(super) fn edge(&self, k: u64) -> f64 {
        let levels = self.set_levels().unwrap_or(1);
        match self.log_ends() {
            _ if k == 0 => 0.0,
            _ if k >= levels => 1.0,
            Some(ends) => (libm::log(ends.low + (k as f64 - 0.5) * ends.step) - ends.from) / (ends.to - ends.from),
            None => k as f64 / levels as f64,
        }
    }

    /// The logarithmic scale of a stepped domain, or `None` where its scale is linear.
    fn log_ends(&self) -> Option<LogEnds> {
        let (low, step, levels) = match self.kind {
            Kind::Int { low, step, levels, log: true } => (low as f64, step as f64, levels),
            Kind::FloatStep { low, step, levels, log: true } => (low, step, levels),
            Kind::Int { .. } | Kind::FloatStep { .. } | Kind::Nominal(_) | Kind::Ordinal(_) | Kind::Float { .. } => {
                return None;
            }
        };
        // Half a step beyond either end belongs to the ends; below a low end that is less than a step, half of it.
        let from = libm::log((low - 0.5 * step).max(0.5 * low));
        let to = libm::log(low + ((levels - 1) as f64 + 0.5) * step);
        Some(LogEnds { low, step, from, to })
    }
}

struct LogEnds {
    low: f64,
    step: f64,
    /// Logarithms at the places 0 and 1.
    from: f64,
    to: f64,
}

fn check_list(values: &[Value]) -> Result<(), String> {
    if values.is_empty() {
        return Err("the list of values is empty".to_owned());
    }
    for (i, value) in values.iter().enumerate() {
        if values[..i].iter().any(|earlier| same(earlier, value)) {
            return Err(format!("{value} is listed twice"));
        }
    }
    Ok(())
}

/// The number of a continuous domain at a place.
fn float_at(low: f64, high: f64, log: bool, place: f64) -> f64 {
    let place = place.clamp(0.0, 1.0);
    let x = if log { libm::exp(between(libm::log(low), libm::log(high), place)) } else { between(low, high, place) };
    round12(x).clamp(low, high)
}

fn float_place(low: f64, high: f64, log: bool, x: f64) -> f64 {
    let (low, high, x) = if log { (libm::log(low), libm::log(high), libm::log(x)) } else { (low, high, x) };
    ((x - low) / (high - low)).clamp(0.0, 1.0)
}

fn between(from: f64, to: f64, u: f64) -> f64 {
    from + u * (to - from)
}

/// Equal values, where numbers are compared as numbers: 4 is 4.0.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a == b,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Powers of ten that are exact as `f64`.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The number with 12 significant decimal digits that is nearest to `x`.
///
/// So many digits are read back exactly by every JSON reader, also by those that trade the last bit for speed, and
/// steps of 0.1 stay what they look like.
pub(super) fn round12(x: f64) -> f64 {
    let size = x.abs();
    if size == 0.0 {
        return x;
    }
    // Digits behind the point. One more or less than 12 digits in all, next to a power of ten, does no harm.
    let digits = 11 - power_of_ten(size);
    let Some(scale) = usize::try_from(digits).ok().and_then(|digits| TENS.get(digits)) else {
        // Formatting and parsing of the standard library are exact.
        return format!("{x:.11e}").parse().unwrap_or(x);
    };
    // An integer below 2^53 over an exact power of ten is rounded once: it is the number that is written that way. The
    // cast drops what is behind the point.
    let scaled = (size * scale + 0.5) as u64 as f64 / scale;
    if x < 0.0 { -scaled } else { scaled }
}

/// The exponent of the power of ten at or below a positive number; next to a power of ten, maybe the one beside it.
fn power_of_ten(x: f64) -> i32 {
    let binary = ((x.to_bits() >> 52) & 0x7FF) as i32 - 1023;
    // 78,913 / 2^18 is the logarithm of 2 to the base of 10, to seven digits; what it says is right or one too low.
    let low = (binary * 78_913) >> 18;
    let next = match usize::try_from(low + 1) {
        Ok(up) => TENS.get(up).is_some_and(|ten| x >= *ten),
        Err(_) => TENS.get(low.unsigned_abs() as usize - 1).is_some_and(|ten| x * ten >= 1.0),
    };
    if next { low + 1 } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use serde_json::json;

    fn list(values: Value) -> Result<Domain, String> {
        Domain::list(values.as_array().unwrap().clone())
    }

    fn domains() -> Vec<Domain> {
        vec![
            list(json!(["a", null, true, 3])).unwrap(),
            list(json!([8, 1, 2.5])).unwrap(),
            Domain::int(-3, 9, false, None).unwrap(),
            Domain::int(512, 16384, true, None).unwrap(),
            Domain::int(1, 4096, true, Some(7)).unwrap(),
            Domain::int(0, 10, false, Some(4)).unwrap(),
            Domain::float(0.5, 0.95, false, Some(0.05)).unwrap(),
            Domain::float(0.1, 100.0, true, Some(0.3)).unwrap(),
            Domain::float(-1.0, 1.0, false, None).unwrap(),
            Domain::float(1e-6, 1.0 / 3.0, true, None).unwrap(),
        ]
    }

    #[test]
    fn values_and_coordinates_round_trip() {
        let mut rng = rng::stream(1, "space");
        for domain in domains() {
            for i in 0..2000 {
                let u = if i < 2 { f64::from(i) } else { rng::uniform01(&mut rng) };
                let value = domain.decode(u);
                let back = domain.encode(&value).unwrap();
                assert!((0.0..=1.0).contains(&back));
                assert_eq!(domain.decode(back), value, "{domain:?} at {u}");
                // Written as JSON and read again it is the same point, to the last bit.
                let read: Value = serde_json::from_str(&value.to_string()).unwrap();
                assert_eq!(domain.encode(&read), Some(back));
            }
        }
    }

    #[test]
    fn ends_and_levels() {
        let cases = [
            (Domain::int(0, 10, false, Some(4)), json!([0, 4, 8])),
            (Domain::float(0.5, 0.8, false, Some(0.1)), json!([0.5, 0.6, 0.7, 0.8])),
            (list(json!([8, 1, 2.5])), json!([1, 2.5, 8])),
            (list(json!(["b", "a"])), json!(["b", "a"])),
            (Ok(Domain::float(1.0, 100.0, true, None).unwrap().discretized(3)), json!([1.0, 10.0, 100.0])),
        ];
        for (domain, expect) in cases {
            let domain = domain.unwrap();
            let levels: Vec<Value> =
                (0..domain.levels().unwrap()).map(|k| domain.value(domain.place_of_level(k))).collect();
            assert_eq!(Value::Array(levels), expect);
            assert_eq!(domain.decode(-1.0), expect[0]);
            assert_eq!(&domain.decode(2.0), expect.as_array().unwrap().last().unwrap());
        }
        assert_eq!(Domain::int(0, 10, false, Some(4)).unwrap().encode(&json!(4.0)), Some(0.5));
        assert_eq!(Domain::int(0, 10, false, Some(4)).unwrap().encode(&json!(5)), None);
        assert_eq!(list(json!(["a"])).unwrap().encode(&json!("b")), None);
    }

    #[test]
    fn scales_share_the_coordinates_as_they_say() {
        let share = |domain: Domain, value: Value| {
            (0..100_000).filter(|i| domain.decode((f64::from(*i) + 0.5) / 1e5) == value).count() as f64 / 1e5
        };
        assert!((share(Domain::int(1, 4, false, None).unwrap(), json!(1)) - 0.25).abs() < 1e-4);
        // ln(1.5 / 0.5) of ln(8.5 / 0.5).
        let expect = 3.0f64.ln() / 17.0f64.ln();
        assert!((share(Domain::int(1, 8, true, None).unwrap(), json!(1)) - expect).abs() < 1e-4);
        assert!((share(list(json!([1, 1000, "x"])).unwrap(), json!("x")) - 1.0 / 3.0).abs() < 1e-4);
    }

    #[test]
    fn neighbours_are_one_level_away() {
        let domain = list(json!([1, 2, 4, 8])).unwrap();
        let next = |from: i64, above| domain.next_level(domain.place_of(&json!(from)).unwrap(), above);
        for (from, above, expect) in [(1, true, 2), (1, false, 2), (4, false, 2), (4, true, 8), (8, true, 4)] {
            assert_eq!(next(from, above).map(|u| domain.value(u)), Some(json!(expect)), "{from} {above}");
        }
        assert_eq!(list(json!([7])).unwrap().next_level(0.5, true), None);
        assert_eq!(Domain::float(0.0, 1.0, false, None).unwrap().next_level(0.5, true), None);
    }

    #[test]
    fn bad_domains_are_refused() {
        for (domain, expect) in [
            (list(json!([])), "empty"),
            (list(json!([1, 2, 1.0])), "twice"),
            (list(json!(["a", "a"])), "twice"),
            (Domain::int(4, 4, false, None), "below"),
            (Domain::int(0, 4, true, None), "logarithmic"),
            (Domain::int(0, 4, false, Some(0)), "step"),
            (Domain::int(0, 4, false, Some(5)), "step"),
            (Domain::int(i64::MIN, i64::MAX, false, None), "within"),
            (Domain::float(1.0, 0.0, false, None), "below"),
            (Domain::float(f64::NAN, 0.0, false, None), "below"),
            (Domain::float(0.0, 1.0, true, None), "logarithmic"),
            (Domain::float(0.0, 1.0, false, Some(-0.1)), "step"),
            (Domain::float(0.0, 1.0, false, Some(2.0)), "step"),
            (Domain::float(0.0, 1.0, false, Some(f64::NAN)), "step"),
        ] {
            let message = domain.unwrap_err();
            assert!(message.contains(expect), "{message}");
        }
    }

    #[test]
    fn unset_is_one_more_value() {
        let cases = [
            (Domain::int(1, 3, false, None).unwrap().or_unset(), json!([null, 1, 2, 3])),
            (list(json!([16, null, 8])).unwrap(), json!([null, 8, 16])),
            (Domain::ordered(vec![json!("low"), json!("high"), Value::Null]).unwrap(), json!([null, "low", "high"])),
            (list(json!(["a", "b"])).unwrap().or_unset(), json!(["a", "b", null])),
            (Domain::boolean().or_unset(), json!([false, true, null])),
        ];
        for (domain, expect) in cases {
            let n = domain.levels().unwrap();
            let levels: Vec<Value> = (0..n).map(|k| domain.value(domain.place_of_level(k))).collect();
            assert_eq!(Value::Array(levels), expect);
            for k in 0..n {
                let place = domain.place_of_level(k);
                assert_eq!(domain.level_of_place(place), k);
                assert_eq!(domain.place_of(&domain.value(place)), Some(place));
                // Equal shares of the coordinates.
                assert_eq!(domain.decode((k as f64 + 0.5) / n as f64), expect[k as usize]);
                assert_eq!(domain.decode(domain.encode(&expect[k as usize]).unwrap()), expect[k as usize]);
            }
        }
        let rate = Domain::float(0.0, 2.0, false, None).unwrap().or_unset();
        assert_eq!((rate.levels(), rate.decode(0.0), rate.decode(1.0)), (None, Value::Null, json!(2.0)));
        assert_eq!(rate.decode(rate.encode(&json!(0.5)).unwrap()), json!(0.5));
        assert!(Domain::ordered(vec![Value::Null]).is_err());
        assert!(!Domain::ordered(vec![json!("b"), json!("a")]).unwrap().is_nominal());
    }

    #[test]
    fn twelve_digits_are_those_of_the_decimal_text() {
        let mut rng = rng::stream(2, "round");
        for _ in 0..100_000 {
            let x = rng::normal(&mut rng, 0.0, 1.0) * libm::pow(10.0, rng::uniform01(&mut rng) * 60.0 - 30.0);
            let got = round12(x);
            assert_eq!(got, round12(got));
            assert!((got / x - 1.0).abs() < 1e-11, "{x} {got}");
            assert_eq!(format!("{got:.11e}").parse::<f64>().unwrap(), got, "{x}");
        }
        assert_eq!((round12(0.0), round12(0.1 + 0.2), round12(-1e6)), (0.0, 0.3, -1e6));
    }
}
