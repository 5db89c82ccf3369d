//! What a search for coefficients is about: parameters, cases, and the scenario of a case at a point.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim;
use pipe_kernel::tune::racing::Racing;
use pipe_kernel::tune::{Domain, Parameter, SamplerSpec, Space};

use super::apply::leaf;
use super::features;
use crate::catalog::{self, Catalog};
use crate::diag::{Diagnostic, Span, nearest};
use crate::spec::{CalibrateRequests, CaseRole, ErrorFunction, FilePath, Stage, Text, Tree, TreeValue, from_tree};
use crate::stage::optimize::space::{simulation, with_required};
use crate::stage::simulate::profiles::{self, Profiles};
use crate::stage::simulate::scenario::{base, check, nearest_place, resolve};
use crate::stage::simulate::settings::{self, SettingKind};

/// Most trials of one search.
const TRIALS_MAX: u64 = 1_000_000;

/// A number that is searched.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Searched {
    /// Where it belongs in a scenario.
    pub path: String,
    /// As it was written.
    pub name: String,
    pub at: Option<Span>,
    pub low: f64,
    pub high: f64,
    pub log: bool,
    /// What is drawn, times this, is the value.
    pub scaling: f64,
}

impl Searched {
    /// The value of a draw, in units of the setting.
    pub fn value(&self, draw: f64) -> f64 {
        draw * self.scaling
    }
}

/// Bounds, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    bounds: (f64, f64),
    #[serde(default)]
    log: bool,
    #[serde(default = "one")]
    scaling: f64,
}

fn one() -> f64 {
    1.0
}

/// The parameters that are well written, and what is wrong with the others.
pub(super) fn parameters(written: &IndexMap<Text, Tree>) -> (Vec<Searched>, Vec<Diagnostic>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (path, tree) in written {
        let at = tree.at.clone().or_else(|| path.at.clone());
        let setting = match settings::at(&path.value, path.at.as_ref()) {
            Ok(setting) => setting,
            Err(d) => {
                problems.push(d);
                continue;
            }
        };
        if !matches!(setting.kind, SettingKind::Int | SettingKind::Float) {
            let message = format!("`{}` is no number, and cannot be fitted", path.value);
            problems.push(Diagnostic::new("calibrate::parameter", message).at(path.at.clone()));
            continue;
        }
        let bounds = match &tree.value {
            TreeValue::List(_) => from_tree(tree).map(|bounds| Written { bounds, log: false, scaling: 1.0 }),
            _ => from_tree::<Written>(tree),
        };
        match bounds {
            Ok(Written { bounds: (low, high), log, scaling }) => {
                let name = path.value.clone();
                found.push(Searched { path: name.clone(), name, at, low, high, log, scaling });
            }
            Err(wrong) => problems.extend(wrong),
        }
    }
    (found, problems)
}

/// The space of some parameters.
///
/// # Errors
/// Bounds the wrong way round, scalings of 0, parameters that stand for the same setting.
pub(super) fn space(searched: &[Searched], at: Option<&Span>) -> Result<Space, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut parameters = Vec::new();
    for p in searched {
        let place = || p.at.clone().or_else(|| at.cloned());
        let wrong = |message: String| Diagnostic::new("calibrate::bounds", message).at(place());
        if p.low >= p.high {
            let message =
                format!("the bounds of `{}` are [{}, {}]: the lower is not below the upper", p.name, p.low, p.high);
            problems.push(wrong(message).help(format!("write [{}, {}]", p.high, p.low)));
            continue;
        }
        if !(p.scaling.is_finite() && p.scaling != 0.0) {
            problems.push(wrong(format!("the scaling of `{}` is {}; must be a number, not 0", p.name, p.scaling)));
            continue;
        }
        let whole = settings::at(&p.path, None).is_ok_and(|s| s.kind == SettingKind::Int);
        let integers = whole && p.scaling == 1.0 && p.low.fract() == 0.0 && p.high.fract() == 0.0;
        let domain = match integers {
            true => Domain::int(p.low as i64, p.high as i64, p.log, None),
            false => Domain::float(p.low, p.high, p.log, None),
        };
        match domain {
            Ok(domain) => parameters.push(Parameter::new(p.path.clone(), domain)),
            Err(message) => problems.push(wrong(format!("`{}`: {message}", p.name))),
        }
    }
    match Space::new(parameters) {
        Ok(space) if problems.is_empty() => Ok(space),
        Ok(_) => Err(problems),
        Err(e) => {
            if problems.is_empty() {
                problems.push(Diagnostic::new("calibrate::parameters", e).at(at.cloned()));
            }
            Err(problems)
        }
    }
}

/// A measurement that is fitted to or judged by.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub name: String,
    pub role: CaseRole,
    /// Its base scenario.
    pub base: Tree,
    /// The table of its requests; empty where the requests are made here.
    pub requests: Text,
    pub measured: Option<Text>,
    pub run: Option<Text>,
    /// A log in place of a table.
    pub log: Option<FilePath>,
    /// Aggregates in place of `measured`.
    pub targets: IndexMap<Text, f64>,
    pub at: Option<Span>,
}

/// A search, as far as it is known before anything ran.
pub(super) struct Study {
    pub searched: Vec<Searched>,
    pub space: Space,
    pub cases: Vec<Case>,
    pub objective: ErrorFunction,
    pub sampler: SamplerSpec,
    pub trials: u64,
    pub batch: u32,
    pub racing: Option<Racing>,
    pub seed: u64,
    pub catalog: Catalog,
    /// What latency models read; none before the stage runs.
    pub profiles: Profiles,
    pub at: Option<Span>,
}

impl Study {
    /// # Errors
    /// Every problem of settings, bounds, cases and scenarios, each at its place.
    pub fn of(spec: &CalibrateRequests, stages: &[Stage], project: &Path, seed: u64) -> Result<Study, Vec<Diagnostic>> {
        let at = spec.over.0.at.clone();
        let simulate = simulation(&spec.over.0, "calibrate::over", stages).map_err(|d| vec![d])?;
        let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
        let (searched, mut problems) = parameters(&spec.parameters);
        let space = match problems.is_empty() {
            true => space(&searched, at.as_ref()).map_err(|found| problems.extend(found)).ok(),
            false => None,
        };
        let requests = simulate.requests().cloned().map_err(|d| problems.push(d)).ok();
        let varied = |path: &str| searched.iter().any(|p| p.path == path);
        let base = with_required(simulate, base(simulate, seed), varied);
        let (cases, found) = cases(spec, &base, requests.as_ref());
        problems.extend(found);
        let (Some(space), true) = (space, problems.is_empty()) else { return Err(problems) };
        let study = Study {
            searched,
            space,
            cases,
            objective: spec.objective,
            sampler: spec.sampler.clone(),
            trials: spec.trials,
            batch: spec.batch,
            racing: spec.racing.clone(),
            seed: spec.seed.unwrap_or(seed),
            catalog,
            profiles: Profiles::default(),
            at,
        };
        study.checked()
    }

    /// The study, if it can be begun.
    ///
    /// # Errors
    /// No trials, a sampler that cannot work on the space, cases whose scenarios cannot be simulated.
    pub fn checked(self) -> Result<Study, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        if self.trials == 0 || self.trials > TRIALS_MAX || self.batch == 0 {
            let message = format!("`trials` must be 1 to {TRIALS_MAX} and `batch` at least 1");
            problems.push(Diagnostic::new("calibrate::trials", message).at(self.at.clone()));
        }
        let of_racing = self.racing.iter().flat_map(Racing::problems);
        problems.extend(
            of_racing.map(|m| Diagnostic::new("calibrate::racing", format!("`racing`: {m}")).at(self.at.clone())),
        );
        let unfit = self.sampler.problems(&self.space, 1);
        problems.extend(unfit.into_iter().map(|m| Diagnostic::new("calibrate::sampler", m).at(self.at.clone())));
        // At the upper ends: there a coefficient is seldom 0, with which all might be.
        let high: Vec<Value> = self.space.decode(&vec![1.0; self.space.dimensions()]);
        for case in &self.cases {
            match self.scenario(case, &high) {
                Ok(scenario) => problems.extend(check(&scenario, |path| nearest_place(&case.base, path))),
                Err(found) => problems.extend(found),
            }
        }
        problems.dedup();
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// The values at a point, in units of the settings.
    pub fn values(&self, point: &[Value]) -> Vec<f64> {
        self.searched.iter().zip(point).map(|(p, v)| p.value(v.as_f64().unwrap_or(f64::NAN))).collect()
    }

    /// The scenario of a case at a point.
    ///
    /// # Errors
    /// What its types refuse.
    pub fn scenario(&self, case: &Case, point: &[Value]) -> Result<Scenario, Vec<Diagnostic>> {
        let mut tree = case.base.clone();
        for (p, value) in self.searched.iter().zip(self.values(point)) {
            tree.set_path(&p.path, leaf(&p.path, value));
        }
        let mut scenario = resolve(&tree, &self.catalog)?;
        self.profiles.attach(&mut scenario);
        Ok(scenario)
    }

    /// The profiles that the cases name.
    pub fn named_profiles(&self) -> Vec<Text> {
        let mut found = Vec::new();
        for deployment in self.cases.iter().filter_map(|c| c.base.get_path("deployment")) {
            profiles::collect("deployment", deployment, &mut found);
        }
        found
    }

    /// Whether every case can be simulated at a point.
    pub fn feasible(&self, point: &[Value]) -> bool {
        let possible = |s: &Scenario| sim::check(s).is_ok() && self.profiles.fit(s);
        self.cases.iter().all(|case| self.scenario(case, point).is_ok_and(|s| possible(&s)))
    }

    /// Names of the aggregates that are fitted to, where they are given in place of measured requests.
    pub fn targets(&self) -> Option<Vec<String>> {
        let known = features::targets();
        let given = |name: &String| self.cases.iter().any(|c| c.targets.keys().any(|t| t.value == *name));
        let names: Vec<String> = known.into_iter().filter(given).collect();
        (!names.is_empty()).then_some(names)
    }
}

/// Sets dotted paths of a base scenario.
pub(super) fn set_all(base: &mut Tree, set: &IndexMap<Text, Tree>, problems: &mut Vec<Diagnostic>) {
    for (path, value) in set {
        match settings::at(&path.value, path.at.as_ref()) {
            Ok(_) => base.set_path(&path.value, value.clone()),
            Err(d) => problems.push(d),
        }
    }
}

fn cases(spec: &CalibrateRequests, base: &Tree, requests: Option<&Text>) -> (Vec<Case>, Vec<Diagnostic>) {
    let at = spec.over.0.at.clone();
    let mut problems = Vec::new();
    let wrong = |message: &str, at: Option<Span>| Diagnostic::new("calibrate::cases", message).at(at);
    let requests = || requests.cloned().unwrap_or_else(|| Text::new(String::new(), None));
    if let (Some(measured), true) = (&spec.measured, spec.cases.is_empty()) {
        let case = Case {
            name: measured.0.value.clone(),
            role: CaseRole::Train,
            base: base.clone(),
            requests: requests(),
            measured: Some(measured.0.clone()),
            run: None,
            log: None,
            targets: IndexMap::new(),
            at: measured.0.at.clone(),
        };
        return (vec![case], problems);
    }
    if spec.cases.is_empty() || spec.measured.is_some() {
        let help = "`measured: logs_measured`, or `cases: [{ measured: logs_measured, set: { ... } }]`";
        problems.push(wrong("give either `measured` or `cases`", at).help(help));
        return (Vec::new(), problems);
    }
    let mut all = Vec::new();
    for (number, case) in (1..).zip(&spec.cases) {
        let place = || {
            let named = case.name.as_ref().and_then(|n| n.at.clone());
            named
                .or_else(|| case.measured.as_ref().and_then(|m| m.0.at.clone()))
                .or_else(|| case.log.as_ref().and_then(|l| l.at.clone()))
                .or_else(|| at.clone())
        };
        let given = [case.measured.is_some(), case.log.is_some(), !case.targets.is_empty()];
        if given.iter().filter(|g| **g).count() != 1 {
            problems.push(wrong("a case needs one of `measured`, `log` and `targets`", place()));
        }
        for (target, value) in &case.targets {
            let known = features::targets();
            if !known.contains(&target.value) {
                let d = Diagnostic::new("calibrate::target", format!("no aggregate `{}`", target.value));
                let near = nearest(&target.value, known.iter().map(String::as_str));
                let help =
                    near.map_or_else(|| format!("known are {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
                problems.push(d.at(target.at.clone()).help(help));
            } else if !(value.is_finite() && *value > 0.0) {
                let message = format!("the target `{}` is {value}; must be a number above 0", target.value);
                problems.push(Diagnostic::new("calibrate::target", message).at(target.at.clone()));
            }
        }
        let mut base = base.clone();
        set_all(&mut base, &case.set, &mut problems);
        all.push(Case {
            name: case.name.as_ref().map_or_else(|| format!("case {number}"), |n| n.value.clone()),
            role: case.role,
            base,
            requests: case.requests.as_ref().map_or_else(requests, |r| r.0.clone()),
            measured: case.measured.as_ref().map(|m| m.0.clone()),
            run: case.run.clone(),
            log: case.log.clone(),
            targets: case.targets.clone(),
            at: place(),
        });
    }
    if all.iter().any(|c| c.targets.is_empty()) && all.iter().any(|c| !c.targets.is_empty()) {
        problems
            .push(wrong("some cases have `targets` and some do not: their errors have no common scale", at.clone()));
    }
    if all.iter().all(|c| c.role == CaseRole::Test) {
        problems.push(wrong("every case has `role: test`: there is none to fit to", at.clone()));
    }
    let mut names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
        problems.push(wrong(&format!("two cases are called `{}`", twice[0]), at));
    }
    (all, problems)
}
