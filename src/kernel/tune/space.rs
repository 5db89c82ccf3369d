//! What may be varied: named parameters and their domains.
//!
//! Samplers see a point as coordinates in the unit cube, one per parameter; users see values. [`Domain::decode`] and
//! [`Domain::encode`] go between the two, and `decode(encode(v))` is `v` again. Values survive being written as
//! decimal text: floats carry at most 12 significant digits.
//!
//! Left out: parameters that exist only when others have certain values.

use serde_json::Value;

/// Integers up to here are exact as `f64`.
const EXACT: i64 = 1 << 53;

/// The values that one parameter may take. Made by [`Domain::list`], [`Domain::int`] and [`Domain::float`] only, which
/// is why a domain is always valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Without order: no two values are closer than others.
    Nominal(Vec<Value>),
    /// Numbers in ascending order; the distance between neighbours is one step, whatever their difference.
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
    /// A list of values. All numbers: they are put in ascending order, and neighbours count as similar. Otherwise
    /// (names, booleans, null) every value is as far from every other.
    ///
    /// # Errors
    /// An empty list, or a value that occurs twice.
    pub fn list(mut values: Vec<Value>) -> Result<Domain, String> {
        if values.is_empty() {
            return Err("the list of values is empty".to_owned());
        }
        for (i, value) in values.iter().enumerate() {
            if values[..i].iter().any(|earlier| same(earlier, value)) {
                return Err(format!("{value} is listed twice"));
            }
        }
        if values.iter().any(|v| v.as_f64().is_none()) {
            return Ok(Domain(Kind::Nominal(values)));
        }
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        values.sort_by(|a, b| number(a).total_cmp(&number(b)));
        Ok(Domain(Kind::Ordinal(values)))
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
        Ok(Domain(Kind::Int { low, step, levels: ((high - low) / step) as u64 + 1, log }))
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
            return Ok(Domain(Kind::Float { low, high, log }));
        };
        // The upper end belongs to the range even where the division falls a rounding error short of it.
        let steps = (high - low) / step + 1e-9;
        if !(step > 0.0 && (1.0..EXACT as f64).contains(&steps)) {
            return Err(format!("the step must be above 0 and at most {}, not {step}", high - low));
        }
        Ok(Domain(Kind::FloatStep { low, step, levels: steps as u64 + 1, log }))
    }

    /// `count` numbers spread evenly over a continuous domain, ends included; any other domain as it is.
    pub(crate) fn discretized(&self, count: u32) -> Domain {
        let Kind::Float { .. } = self.0 else {
            return self.clone();
        };
        let intervals = f64::from(count.max(2) - 1);
        let mut values: Vec<Value> = (0..count.max(2)).map(|i| self.decode(f64::from(i) / intervals)).collect();
        values.dedup();
        Domain(Kind::Ordinal(values))
    }

    /// Number of values; `None` where they are a continuum.
    pub fn levels(&self) -> Option<u64> {
        match &self.0 {
            Kind::Nominal(values) | Kind::Ordinal(values) => Some(values.len() as u64),
            Kind::Int { levels, .. } | Kind::FloatStep { levels, .. } => Some(*levels),
            Kind::Float { .. } => None,
        }
    }

    /// No two values are closer than others: coordinates must not be averaged.
    pub fn is_nominal(&self) -> bool {
        matches!(self.0, Kind::Nominal(_))
    }

    /// The value at a coordinate from 0 to 1 (others are clamped): every `u` has a value, and uniformly drawn
    /// coordinates give every level the same share, or the share of its logarithmic interval.
    pub fn decode(&self, u: f64) -> Value {
        match &self.0 {
            Kind::Float { low, high, log } => {
                let u = u.clamp(0.0, 1.0);
                let x = if *log {
                    libm::exp(between(libm::log(*low), libm::log(*high), u))
                } else {
                    between(*low, *high, u)
                };
                Value::from(round12(x).clamp(*low, *high))
            }
            Kind::Nominal(_) | Kind::Ordinal(_) | Kind::Int { .. } | Kind::FloatStep { .. } => {
                self.level(self.level_at(u))
            }
        }
    }

    /// The coordinate of a value, in the middle of those that [`decode`](Self::decode) to it; `None` where the domain
    /// does not have the value.
    pub fn encode(&self, value: &Value) -> Option<f64> {
        if let Kind::Float { low, high, log } = &self.0 {
            let x = value.as_f64().filter(|x| (*low..=*high).contains(x))?;
            let (low, high, x) =
                if *log { (libm::log(*low), libm::log(*high), libm::log(x)) } else { (*low, *high, x) };
            return Some(((x - low) / (high - low)).clamp(0.0, 1.0));
        }
        Some(self.coordinate(self.level_of(value)?))
    }

    /// The position of a value among the levels; `None` where the domain does not have it, or is continuous.
    pub(crate) fn level_of(&self, value: &Value) -> Option<u64> {
        let nearest = |low: f64, step: f64, levels: u64| {
            let k = libm::round((value.as_f64()? - low) / step);
            (k >= 0.0 && k < levels as f64).then_some(k as u64).filter(|&k| same(&self.level(k), value))
        };
        match &self.0 {
            Kind::Nominal(values) | Kind::Ordinal(values) => {
                values.iter().position(|v| same(v, value)).map(|k| k as u64)
            }
            Kind::Int { low, step, levels, .. } => nearest(*low as f64, *step as f64, *levels),
            Kind::FloatStep { low, step, levels, .. } => nearest(*low, *step, *levels),
            Kind::Float { .. } => None,
        }
    }

    /// The value of a level, from 0 up. Continuous domains have none.
    pub(crate) fn level(&self, k: u64) -> Value {
        match &self.0 {
            Kind::Nominal(values) | Kind::Ordinal(values) => values[k as usize].clone(),
            Kind::Int { low, step, .. } => Value::from(low + k as i64 * step),
            Kind::FloatStep { low, step, .. } => Value::from(round12(low + k as f64 * step)),
            Kind::Float { .. } => unreachable!("a continuous domain has no levels"),
        }
    }

    /// The level whose interval of coordinates holds `u`.
    fn level_at(&self, u: f64) -> u64 {
        let levels = self.levels().unwrap_or(1);
        let k = match self.log_ends() {
            Some(ends) => libm::round((libm::exp(between(ends.from, ends.to, u)) - ends.low) / ends.step),
            None => libm::floor(u * levels as f64),
        };
        // The cast takes what lies below 0 as 0.
        (k as u64).min(levels - 1)
    }

    /// The coordinate of the level next to that of `u`, above or below; at the ends, the only one there is. `None`
    /// where there are not two levels.
    pub(crate) fn next_level(&self, u: f64, above: bool) -> Option<f64> {
        let last = self.levels()?.checked_sub(2)? + 1;
        let k = self.level_at(u);
        Some(self.coordinate(if (above || k == 0) && k < last { k + 1 } else { k - 1 }))
    }

    fn coordinate(&self, k: u64) -> f64 {
        match self.log_ends() {
            Some(ends) => (libm::log(ends.low + k as f64 * ends.step) - ends.from) / (ends.to - ends.from),
            None => (k as f64 + 0.5) / self.levels().unwrap_or(1) as f64,
        }
    }

    /// The logarithmic scale of a stepped domain, or `None` where its scale is linear.
    fn log_ends(&self) -> Option<LogEnds> {
        let (low, step, levels) = match self.0 {
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
    /// Logarithms at the coordinates 0 and 1.
    from: f64,
    to: f64,
}

fn between(from: f64, to: f64, u: f64) -> f64 {
    from + u * (to - from)
}

/// Equal values, where numbers are compared as numbers: 4 is 4.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a == b,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The number with 12 significant decimal digits that is nearest to `x`.
///
/// So many digits are read back exactly by every JSON reader, also by those that trade the last bit for speed, and
/// steps of 0.1 stay what they look like.
fn round12(x: f64) -> f64 {
    // Formatting and parsing of the standard library are exact.
    format!("{x:.11e}").parse().unwrap_or(x)
}

/// One parameter of a space.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted path of the field that is varied, e.g. `deployment.tp`.
    pub path: String,
    pub domain: Domain,
}

/// An ordered list of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    parameters: Vec<Parameter>,
}

impl Space {
    /// # Errors
    /// No parameters, or a path that occurs twice.
    pub fn new(parameters: Vec<Parameter>) -> Result<Space, String> {
        if parameters.is_empty() {
            return Err("the space has no parameters".to_owned());
        }
        for (i, parameter) in parameters.iter().enumerate() {
            if parameters[..i].iter().any(|earlier| earlier.path == parameter.path) {
                return Err(format!("{} is varied twice", parameter.path));
            }
        }
        Ok(Space { parameters })
    }

    /// The same paths with other domains.
    pub(crate) fn with(&self, parameters: Vec<Parameter>) -> Space {
        assert!(parameters.len() == self.parameters.len(), "a space keeps its parameters");
        Space { parameters }
    }

    /// In the order in which they were given, which is the order of the values of a point.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of parameters, at least 1.
    pub fn dimensions(&self) -> usize {
        self.parameters.len()
    }

    pub(crate) fn domain(&self, j: usize) -> &Domain {
        &self.parameters[j].domain
    }

    /// Number of points; `None` where they are a continuum, or more than fit 64 bits.
    pub fn points(&self) -> Option<u64> {
        self.parameters.iter().try_fold(1u64, |product, p| product.checked_mul(p.domain.levels()?))
    }

    /// The values at the given coordinates, one per parameter.
    pub fn decode(&self, point: &[f64]) -> Vec<Value> {
        self.parameters.iter().zip(point).map(|(p, &u)| p.domain.decode(u)).collect()
    }

    /// The coordinates of a point; `None` where the space does not have it.
    pub fn encode(&self, values: &[Value]) -> Option<Vec<f64>> {
        if values.len() != self.parameters.len() {
            return None;
        }
        self.parameters.iter().zip(values).map(|(p, v)| p.domain.encode(v)).collect()
    }

    /// Point number `index` of a space with [`points`](Self::points): the last parameter varies fastest.
    pub(crate) fn nth(&self, mut index: u64) -> Vec<Value> {
        let mut values: Vec<Value> = Vec::with_capacity(self.parameters.len());
        for parameter in self.parameters.iter().rev() {
            let levels = parameter.domain.levels().unwrap_or(1);
            values.push(parameter.domain.level(index % levels));
            index /= levels;
        }
        values.reverse();
        values
    }

    /// The inverse of [`nth`](Self::nth); `None` where the space does not have the point.
    pub(crate) fn index_of(&self, values: &[Value]) -> Option<u64> {
        if values.len() != self.parameters.len() {
            return None;
        }
        self.parameters
            .iter()
            .zip(values)
            .try_fold(0, |index, (p, v)| Some(index * p.domain.levels()? + p.domain.level_of(v)?))
    }
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
            let levels: Vec<Value> = (0..domain.levels().unwrap()).map(|k| domain.level(k)).collect();
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
        let next = |from: i64, above| domain.next_level(domain.encode(&json!(from)).unwrap(), above);
        for (from, above, expect) in [(1, true, 2), (1, false, 2), (4, false, 2), (4, true, 8), (8, true, 4)] {
            assert_eq!(next(from, above).map(|u| domain.decode(u)), Some(json!(expect)), "{from} {above}");
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
        let tp = || Parameter { path: "deployment.tp".into(), domain: domains().remove(0) };
        assert!(Space::new(vec![tp(), tp()]).unwrap_err().contains("twice"));
        assert!(Space::new(vec![]).is_err());
    }

    #[test]
    fn points_are_numbered_with_the_last_parameter_fastest() {
        let parameter = |path: &str, domain: &Domain| Parameter { path: path.into(), domain: domain.clone() };
        let d = domains();
        let space = Space::new(vec![parameter("a", &d[0]), parameter("b", &d[5]), parameter("c", &d[1])]).unwrap();
        assert_eq!(space.points(), Some(4 * 3 * 3));
        assert_eq!(space.nth(1), [json!("a"), json!(0), json!(2.5)]);
        for index in 0..36 {
            assert_eq!(space.index_of(&space.nth(index)), Some(index));
        }
        let continuous = Space::new(vec![parameter("a", &d[0]), parameter("x", &d[8])]).unwrap();
        assert_eq!(continuous.points(), None);
    }
}
