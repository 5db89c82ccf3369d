//! Imported trials as points of a space.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::Space;
use super::super::domain::{ABSENT, Domain, round12};
use super::{ImportedStudy, TrialRecord};

/// Which parameter of a space a name of an imported parameter means.
#[derive(Debug)]
pub struct Names<'a> {
    space: &'a Space,
    given: BTreeMap<&'a str, Option<usize>>,
}

/// The trials of an imported study that are points of a space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fitted {
    /// Numbers in the imported study, and the trials.
    pub trials: Vec<(u64, TrialRecord)>,
    /// Values of the points that somebody wants tried.
    pub enqueued: Vec<Vec<Value>>,
    /// What is no point of the space.
    pub misfits: Vec<Misfit>,
}

/// What is no point of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Number of the trial; `None` for an enqueued point.
    pub trial: Option<u64>,
    /// One for each parameter that does not fit.
    pub reasons: Vec<String>,
}

impl<'a> Names<'a> {
    /// `given`: the path that an imported name means, or `None` for a parameter that does not matter. Other names mean
    /// the path that they are, or else the only path whose last part they are.
    ///
    /// # Errors
    /// A path that is not in the space.
    pub fn new(space: &'a Space, given: &'a BTreeMap<String, Option<String>>) -> Result<Names<'a>, String> {
        let at = |path: &String| {
            let found = space.parameters().iter().position(|p| p.path == *path);
            found.ok_or_else(|| format!("the space has no parameter {path}"))
        };
        let resolved = given.iter().map(|(name, path)| Ok((name.as_str(), path.as_ref().map(at).transpose()?)));
        Ok(Names { space, given: resolved.collect::<Result<_, String>>()? })
    }

    /// The parameter that a name means; `None` where it does not matter.
    fn parameter(&self, name: &str) -> Result<Option<usize>, String> {
        if let Some(at) = self.given.get(name) {
            return Ok(*at);
        }
        let parameters = self.space.parameters();
        if let Some(at) = parameters.iter().position(|p| p.path == name) {
            return Ok(Some(at));
        }
        let is_last = |path: &str| path.rsplit('.').next() == Some(name);
        let mut ends = (0..parameters.len()).filter(|&j| is_last(&parameters[j].path));
        match (ends.next(), ends.next()) {
            (Some(at), None) => Ok(Some(at)),
            (None, _) => Err(format!("{name} is no parameter of the space")),
            (Some(a), Some(b)) => {
                Err(format!("{name} may be {} or {}: say which", parameters[a].path, parameters[b].path))
            }
        }
    }

    /// The point of the space that some parameters are: values in the order of the space, floats with 12 digits.
    /// A parameter that is not given is not set, or does not exist. Text that is no value but is JSON for one stands
    /// for it.
    ///
    /// # Errors
    /// Why there is no such point, a reason for each parameter that does not fit.
    pub fn fit(&self, params: &Map<String, Value>) -> Result<Vec<Value>, Vec<String>> {
        let space = self.space;
        let mut reasons = Vec::new();
        let mut given: Vec<Option<(&str, &Value)>> = vec![None; space.dimensions()];
        for (name, value) in params {
            match self.parameter(name) {
                Ok(None) => (),
                Ok(Some(j)) => {
                    if let Some((other, _)) = given[j].replace((name.as_str(), value)) {
                        reasons.push(format!("{other} and {name} are the same parameter"));
                    }
                }
                Err(reason) => reasons.push(reason),
            }
        }
        let mut places = vec![ABSENT; space.dimensions()];
        for (j, parameter) in space.parameters().iter().enumerate() {
            match given[j] {
                Some((name, value)) => match place(&parameter.domain, value) {
                    Some(place) => places[j] = place,
                    // It may be that it does not exist.
                    None if value.is_null() => (),
                    None => reasons.push(format!("{name} cannot be {value}")),
                },
                None => places[j] = parameter.domain.place_of(&Value::Null).unwrap_or(ABSENT),
            }
        }
        if !reasons.is_empty() {
            return Err(reasons);
        }
        // All places are right or absent, so that existence can be told from them in any order.
        let exists: Vec<bool> = (0..places.len()).map(|j| space.exists(j, &places)).collect();
        for (j, parameter) in space.parameters().iter().enumerate() {
            if exists[j] {
                if places[j] == ABSENT && !parameter.domain.may_be_unset() {
                    reasons.push(format!("{} is missing", parameter.path));
                }
                continue;
            }
            places[j] = ABSENT;
            if let (Some((name, value)), Some(when)) = (given[j].filter(|(_, v)| !v.is_null()), &parameter.when) {
                let values: Vec<String> = when.values.iter().map(Value::to_string).collect();
                let values = values.join(", ");
                reasons.push(format!("{name} is {value}, but exists only where {} is {values}", when.path));
            }
        }
        if reasons.is_empty() { Ok(space.values(&places)) } else { Err(reasons) }
    }
}

/// The place of a value, or of what it stands for.
fn place(domain: &Domain, value: &Value) -> Option<f64> {
    // Steps are added up with another rounding elsewhere.
    let rounded = || value.as_f64().and_then(|x| domain.place_of(&Value::from(round12(x))));
    let said = || domain.place_of(&serde_json::from_str(value.as_str()?).ok()?);
    domain.place_of(value).or_else(rounded).or_else(said)
}

impl ImportedStudy {
    /// The trials and enqueued points that are points of a space, and why the others are not.
    pub fn fit(&self, names: &Names) -> Fitted {
        let mut fitted = Fitted::default();
        for trial in &self.trials {
            match names.fit(&trial.params) {
                Ok(values) => {
                    let record = TrialRecord { values, report: trial.report.clone() };
                    fitted.trials.push((trial.number, record));
                }
                Err(reasons) => fitted.misfits.push(Misfit { trial: Some(trial.number), reasons }),
            }
        }
        for params in &self.enqueued {
            match names.fit(params) {
                Ok(values) => fitted.enqueued.push(values),
                Err(reasons) => fitted.misfits.push(Misfit { trial: None, reasons }),
            }
        }
        fitted
    }
}
