//! What may be varied: named parameters, their domains, and on which other parameters they depend.
//!
//! A parameter with a condition exists only where another one has certain values; otherwise its value is `null` and
//! its place [`ABSENT`], so that two points that say the same are one. Conditions may hang on conditions, as trees.

use rand_pcg::Pcg64;
use serde_json::Value;

use super::domain::{ABSENT, Domain};
use crate::rng;

/// What a parameter depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Path of another parameter of the space, one that is not continuous.
    pub path: String,
    /// The parameter exists where the other has one of these values.
    pub values: Vec<Value>,
}

/// One parameter of a space.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted path of the field that is varied, e.g. `deployment.tp`.
    pub path: String,
    pub domain: Domain,
    /// Without one, it always exists.
    pub when: Option<Condition>,
}

impl Parameter {
    /// A parameter that always exists.
    pub fn new(path: impl Into<String>, domain: Domain) -> Parameter {
        Parameter { path: path.into(), domain, when: None }
    }

    /// The same, existing only under a condition.
    #[must_use]
    pub fn when(mut self, path: impl Into<String>, values: Vec<Value>) -> Parameter {
        self.when = Some(Condition { path: path.into(), values });
        self
    }
}

/// An ordered list of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    parameters: Vec<Parameter>,
    /// Of each parameter: the one it depends on, and the levels of that, ascending, with which it exists.
    parents: Vec<Option<(usize, Vec<u64>)>>,
    /// The parameters that depend directly on each.
    children: Vec<Vec<usize>>,
    /// All parameters, those that others depend on before them; else as given.
    order: Vec<usize>,
    conditional: bool,
}

impl Space {
    /// # Errors
    /// No parameters, a path that occurs twice, a condition on a path that is none of the others or is continuous, on
    /// values that it does not have, or conditions in a circle.
    pub fn new(parameters: Vec<Parameter>) -> Result<Space, String> {
        if parameters.is_empty() {
            return Err("the space has no parameters".to_owned());
        }
        for (i, parameter) in parameters.iter().enumerate() {
            if parameters[..i].iter().any(|earlier| earlier.path == parameter.path) {
                return Err(format!("{} is varied twice", parameter.path));
            }
        }
        let parents = parameters.iter().map(|p| parent(&parameters, p)).collect::<Result<Vec<_>, String>>()?;
        let mut children = vec![Vec::new(); parameters.len()];
        for (j, parent) in parents.iter().enumerate() {
            if let Some((p, _)) = parent {
                children[*p].push(j);
            }
        }
        let mut order: Vec<usize> = Vec::with_capacity(parameters.len());
        let mut placed = vec![false; parameters.len()];
        while order.len() < parameters.len() {
            let ready = |j: &usize| !placed[*j] && parents[*j].as_ref().is_none_or(|(p, _)| placed[*p]);
            let Some(next) = (0..parameters.len()).find(ready) else {
                let path = placed.iter().position(|p| !p).map_or("", |j| parameters[j].path.as_str());
                return Err(format!("{path} depends on itself: its conditions go in a circle"));
            };
            placed[next] = true;
            order.push(next);
        }
        let conditional = parents.iter().any(Option::is_some);
        Ok(Space { parameters, parents, children, order, conditional })
    }

    /// The same parameters and conditions with other domains.
    pub(super) fn with_domains(&self, domain: impl Fn(&Domain) -> Domain) -> Result<Space, String> {
        let changed = |p: &Parameter| Parameter { domain: domain(&p.domain), ..p.clone() };
        Space::new(self.parameters.iter().map(changed).collect())
    }

    /// In the order in which they were given, which is the order of the values of a point.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of parameters, at least 1.
    pub fn dimensions(&self) -> usize {
        self.parameters.len()
    }

    pub(super) fn domain(&self, j: usize) -> &Domain {
        &self.parameters[j].domain
    }

    /// Some parameter exists only under a condition.
    pub fn is_conditional(&self) -> bool {
        self.conditional
    }

    /// The place of parameter `j` may be [`ABSENT`].
    pub(super) fn may_be_absent(&self, j: usize) -> bool {
        self.parents[j].is_some() || self.parameters[j].domain.may_be_unset()
    }

    /// Number of points, those that differ only in parameters that do not exist counted once; `None` where they are a
    /// continuum, or more than fit 64 bits.
    pub fn points(&self) -> Option<u64> {
        let roots = (0..self.dimensions()).filter(|&j| self.parents[j].is_none());
        roots.map(|j| self.count(j)).try_fold(1u64, |product, n| product.checked_mul(n?))
    }

    /// Number of values of a parameter that exists, together with those of all that depend on it.
    fn count(&self, j: usize) -> Option<u64> {
        let mut sum = self.domain(j).levels()?;
        for level in self.special(j) {
            sum = sum.checked_add(self.below(j, level)? - 1)?;
        }
        Some(sum)
    }

    /// The levels of a parameter with which others exist, ascending.
    fn special(&self, j: usize) -> Vec<u64> {
        let of = |&child: &usize| self.parents[child].as_ref().map_or(&[][..], |(_, levels)| levels).to_vec();
        let mut levels: Vec<u64> = self.children[j].iter().flat_map(of).collect();
        levels.sort_unstable();
        levels.dedup();
        levels
    }

    /// Number of values of all that depend on a parameter, where that has a certain level.
    fn below(&self, j: usize, level: u64) -> Option<u64> {
        let living = self.children[j].iter().filter(|&&child| self.lives(child, level));
        living.map(|&child| self.count(child)).try_fold(1u64, |product, n| product.checked_mul(n?))
    }

    fn lives(&self, child: usize, level: u64) -> bool {
        self.parents[child].as_ref().is_none_or(|(_, levels)| levels.binary_search(&level).is_ok())
    }

    /// The values at the given coordinates from 0 to 1, one per parameter; `null` for those that do not exist.
    pub fn decode(&self, point: &[f64]) -> Vec<Value> {
        let mut places: Vec<f64> = self.parameters.iter().zip(point).map(|(p, &u)| p.domain.place(u)).collect();
        self.canonical(&mut places, |_| 0.5);
        self.values(&places)
    }

    /// The coordinates of a point; `None` where the space does not have it.
    pub fn encode(&self, values: &[Value]) -> Option<Vec<f64>> {
        let places = self.places(values)?;
        let coordinate = |(j, place): (usize, f64)| {
            let nothing = place == ABSENT && !self.domain(j).may_be_unset();
            if nothing { Some(0.5) } else { self.domain(j).encode(&values[j]) }
        };
        places.into_iter().enumerate().map(coordinate).collect()
    }

    /// The values at some canonical places.
    pub(super) fn values(&self, places: &[f64]) -> Vec<Value> {
        self.parameters.iter().zip(places).map(|(p, &place)| p.domain.value(place)).collect()
    }

    /// The canonical places of a point; `None` where the space does not have it.
    pub(super) fn places(&self, values: &[Value]) -> Option<Vec<f64>> {
        if values.len() != self.parameters.len() {
            return None;
        }
        let mut places = vec![ABSENT; values.len()];
        for &j in &self.order {
            if self.exists(j, &places) {
                places[j] = self.domain(j).place_of(&values[j])?;
            } else if !values[j].is_null() {
                return None;
            }
        }
        Some(places)
    }

    /// Whether parameter `j` exists; the places of what it depends on must be canonical.
    pub(super) fn exists(&self, j: usize, places: &[f64]) -> bool {
        let mut at = j;
        while let Some((parent, levels)) = &self.parents[at] {
            let level = self.domain(*parent).level_of_place(places[*parent]);
            if levels.binary_search(&level).is_err() {
                return false;
            }
            at = *parent;
        }
        true
    }

    /// Makes places those of an existing point: what does not exist is absent, what exists but is absent without being
    /// allowed to be gets the coordinate that `fill` says, and all others are put onto their values.
    pub(super) fn canonical(&self, places: &mut [f64], mut fill: impl FnMut(usize) -> f64) {
        for &j in &self.order {
            if self.conditional && !self.exists(j, places) {
                places[j] = ABSENT;
                continue;
            }
            let domain = self.domain(j);
            if places[j] == ABSENT && !domain.may_be_unset() {
                places[j] = domain.place(fill(j));
            }
            if places[j] != ABSENT {
                places[j] = domain.snap(places[j]);
            }
        }
    }

    /// A point, each coordinate equally likely.
    pub(super) fn random(&self, rng: &mut Pcg64) -> Vec<f64> {
        let mut places: Vec<f64> = self.parameters.iter().map(|p| p.domain.place(rng::uniform01(rng))).collect();
        self.canonical(&mut places, |_| rng::uniform01(rng));
        places
    }

    /// Point number `index` of a space with [`points`](Self::points), as canonical places: the last parameter varies
    /// fastest, and any parameter faster than the one that it depends on.
    pub(super) fn nth(&self, mut index: u64) -> Vec<f64> {
        let mut places = vec![ABSENT; self.dimensions()];
        // Points that share everything that is decided so far.
        let mut left = self.points().unwrap_or(1);
        for &j in &self.order {
            if !self.exists(j, &places) {
                continue;
            }
            // Points for each value that nothing depends on.
            let each = left / self.count(j).unwrap_or(1).max(1);
            let mut start = 0;
            let mut found = None;
            for level in self.special(j) {
                let plain = (level - start) * each;
                if index < plain {
                    break;
                }
                index -= plain;
                start = level;
                let many = each * self.below(j, level).unwrap_or(1);
                if index < many {
                    found = Some((level, many));
                    break;
                }
                index -= many;
                start += 1;
            }
            let (level, many) = found.unwrap_or((start + index / each, each));
            if found.is_none() {
                index %= each;
            }
            places[j] = self.domain(j).place_of_level(level);
            left = many;
        }
        places
    }
}

/// The parameter that another depends on, and the levels of it.
fn parent(parameters: &[Parameter], of: &Parameter) -> Result<Option<(usize, Vec<u64>)>, String> {
    let Some(when) = &of.when else { return Ok(None) };
    let Some(p) = parameters.iter().position(|p| p.path == when.path) else {
        return Err(format!("{} depends on {}, which is not varied", of.path, when.path));
    };
    let domain = &parameters[p].domain;
    if domain.levels().is_none() {
        return Err(format!("{} depends on {}, whose values are a continuum", of.path, when.path));
    }
    if when.values.is_empty() {
        return Err(format!("{} depends on {}, but on no value of it", of.path, when.path));
    }
    let level = |value: &Value| {
        let place = domain.place_of(value);
        place
            .map(|p| domain.level_of_place(p))
            .ok_or_else(|| format!("{} depends on {} being {value}, a value that it does not have", of.path, when.path))
    };
    let mut levels = when.values.iter().map(level).collect::<Result<Vec<_>, String>>()?;
    levels.sort_unstable();
    levels.dedup();
    Ok(Some((p, levels)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    fn list(values: Value) -> Domain {
        Domain::list(values.as_array().unwrap().clone()).unwrap()
    }

    fn int(low: i64, high: i64) -> Domain {
        Domain::int(low, high, false, None).unwrap()
    }

    /// A router, of whose two kinds one has a setting, of which again one value has a setting.
    fn nested() -> Space {
        Space::new(vec![
            Parameter::new("depth", int(1, 3)).when("kind", vec![json!("tree"), json!("forest")]),
            Parameter::new("kind", list(json!(["line", "tree", "forest"]))),
            Parameter::new("n", int(0, 1)),
            Parameter::new("leaf", int(1, 2).or_unset()).when("depth", vec![json!(3)]),
            Parameter::new("weight", int(1, 2)).when("leaf", vec![Value::Null]),
        ])
        .unwrap()
    }

    #[test]
    fn points_are_counted_and_numbered_with_conditions() {
        let space = nested();
        // leaf: 1, 2, or unset with two weights: 4. depth: 1, 2, or 3 with 4 leaves: 6. kind: 1 + 2 * 6 = 13. n: 2.
        assert_eq!(space.points(), Some(26));
        let all: Vec<Vec<Value>> = (0..26).map(|i| space.values(&space.nth(i))).collect();
        let unique: HashSet<String> = all.iter().map(|v| format!("{v:?}")).collect();
        assert_eq!(unique.len(), 26);
        for values in &all {
            let places = space.places(values).unwrap();
            assert_eq!(&space.values(&places), values);
            let mut again = places.clone();
            space.canonical(&mut again, |_| 0.5);
            assert_eq!(again, places);
            assert_eq!(&space.decode(&space.encode(values).unwrap()), values);
        }
        assert_eq!(all[0], [Value::Null, json!("line"), json!(0), Value::Null, Value::Null]);
        // Whatever is drawn is one of them.
        let mut rng = rng::stream(4, "nested");
        let drawn: HashSet<String> =
            (0..3000).map(|_| format!("{:?}", space.values(&space.random(&mut rng)))).collect();
        assert_eq!(drawn, unique);
        // A value for what does not exist is no point, nor is none for what does.
        assert_eq!(space.places(&[json!(1), json!("line"), json!(0), Value::Null, Value::Null]), None);
        assert_eq!(space.places(&[Value::Null, json!("tree"), json!(0), Value::Null, Value::Null]), None);
    }

    #[test]
    fn points_are_numbered_with_the_last_parameter_fastest() {
        let space = Space::new(vec![
            Parameter::new("a", list(json!(["a", null, true, 3]))),
            Parameter::new("b", Domain::int(0, 10, false, Some(4)).unwrap()),
            Parameter::new("c", list(json!([8, 1, 2.5]))),
        ])
        .unwrap();
        assert_eq!(space.points(), Some(4 * 3 * 3));
        assert_eq!(space.values(&space.nth(1)), [json!("a"), json!(0), json!(2.5)]);
        let unique: HashSet<String> = (0..36).map(|i| format!("{:?}", space.nth(i))).collect();
        assert_eq!(unique.len(), 36);
        let continuous = Domain::float(0.0, 1.0, false, None).unwrap();
        let continuous = Space::new(vec![Parameter::new("x", continuous), Parameter::new("n", int(0, 3))]).unwrap();
        assert_eq!(continuous.points(), None);
        let huge = Space::new(vec![Parameter::new("x", int(0, 1 << 40)), Parameter::new("y", int(0, 1 << 40))]);
        assert_eq!(huge.unwrap().points(), None);
    }

    #[test]
    fn bad_spaces_are_refused() {
        let kind = || Parameter::new("kind", list(json!(["a", "b"])));
        let n = || Parameter::new("n", int(0, 3));
        let x = || Parameter::new("x", Domain::float(0.0, 1.0, false, None).unwrap());
        for (parameters, expect) in [
            (vec![], "no parameters"),
            (vec![n(), n()], "twice"),
            (vec![n().when("kind", vec![json!("a")])], "not varied"),
            (vec![kind(), n().when("kind", vec![json!("c")])], "does not have"),
            (vec![kind(), n().when("kind", vec![])], "no value"),
            (vec![x(), n().when("x", vec![json!(0.5)])], "continuum"),
            (vec![n().when("n", vec![json!(1)])], "circle"),
            (vec![kind().when("n", vec![json!(1)]), n().when("kind", vec![json!("a")])], "circle"),
        ] {
            let message = Space::new(parameters).unwrap_err();
            assert!(message.contains(expect), "{message}");
        }
    }
}
