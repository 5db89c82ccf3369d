//! What a search varies: the parameters with their domains, and the scenario that a point of them is.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim;
use pipe_kernel::tune::{Domain, Parameter, Space};

use crate::catalog::{self, Catalog};
use crate::diag::{Diagnostic, Span, nearest};
use crate::spec::{Optimize, Simulate, Stage, StageSpec, Text, Tree, TreeValue, from_tree};
use crate::stage::simulate::filter;
use crate::stage::simulate::profiles::Profiles;
use crate::stage::simulate::scenario::{base, nearest_place, resolve};
use crate::stage::simulate::settings::{self, Setting, SettingKind};

/// A space with everything that turns a point of it into a scenario.
pub(super) struct Search {
    pub space: Space,
    /// One per parameter of the space.
    pub settings: Vec<Setting>,
    /// Under which values of which other parameter each exists.
    conditions: Vec<Option<(usize, Vec<Value>)>>,
    /// `None` where a command is asked instead of the simulator.
    simulated: Option<Simulated>,
}

/// The scenario that is varied.
struct Simulated {
    base: Tree,
    catalog: Catalog,
    /// What latency models read; empty while a pipeline is checked, when there are none yet.
    profiles: Profiles,
    /// Parameters in the order in which they are put into the scenario: a choice before what is below it.
    order: Vec<usize>,
}

/// A parameter, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    values: Option<Vec<Tree>>,
    #[serde(default)]
    ordered: bool,
    #[serde(default)]
    int: Option<(i64, i64)>,
    #[serde(default)]
    float: Option<(f64, f64)>,
    #[serde(default)]
    log: bool,
    #[serde(default)]
    step: Option<f64>,
    #[serde(default)]
    unset: bool,
    #[serde(default)]
    when: IndexMap<Text, Tree>,
}

/// A parameter of the space, read.
struct Found<'a> {
    path: &'a Text,
    domain: Domain,
    /// Values of it that show whether it fits the type of its setting.
    samples: Vec<Tree>,
    /// All its values, where it is a list.
    values: Vec<Value>,
    when: Option<(Text, Vec<Value>)>,
}

/// The `simulate` stage that a search varies; `None` where it varies a command.
///
/// # Errors
/// No such stage, or one of another kind.
pub(super) fn over<'a>(spec: &Optimize, stages: &'a [Stage]) -> Result<Option<&'a Simulate>, Diagnostic> {
    spec.over.as_ref().map(|over| simulation(&over.0, "optimize::over", stages)).transpose()
}

/// Somewhere in the stage, for what has no place of its own.
pub(super) fn place(spec: &Optimize) -> Option<Span> {
    let over = spec.over.as_ref().and_then(|over| over.0.at.clone());
    over.or_else(|| spec.space.keys().next().and_then(|path| path.at.clone()))
}

/// The `simulate` stage of a name.
///
/// # Errors
/// No such stage, or one of another kind, as a problem `code`.
pub(crate) fn simulation<'a>(name: &Text, code: &'static str, stages: &'a [Stage]) -> Result<&'a Simulate, Diagnostic> {
    let wrong = |message: String| Diagnostic::new(code, message).at(name.at.clone());
    let simulations =
        || stages.iter().filter(|s| matches!(s.spec, StageSpec::Simulate(_))).map(|s| s.name.value.as_str());
    match stages.iter().find(|s| s.name.value == name.value).map(|s| &s.spec) {
        Some(StageSpec::Simulate(simulate)) if simulate.is_queueing() => {
            let help = "a run of its deployment takes milliseconds: try all values with `sweep`";
            Err(wrong(format!("`{}` has a queueing deployment, which is not searched", name.value)).help(help))
        }
        Some(StageSpec::Simulate(simulate)) => Ok(simulate),
        Some(_) => {
            let help = match simulations().collect::<Vec<_>>() {
                none if none.is_empty() => "this pipeline has no `simulate` stage".to_string(),
                some => format!("`simulate` stages: {}", some.join(", ")),
            };
            Err(wrong(format!("`{}` is no `simulate` stage", name.value)).help(help))
        }
        None => {
            let found = wrong(format!("there is no stage `{}`", name.value));
            Err(match nearest(&name.value, simulations()) {
                Some(near) => found.help(format!("did you mean `{near}`?")),
                None => found,
            })
        }
    }
}

impl Search {
    /// # Errors
    /// Every problem of space and base scenario, each at its place.
    pub fn new(spec: &Optimize, stages: &[Stage], project: &Path, seed: u64) -> Result<Search, Vec<Diagnostic>> {
        let simulate = over(spec, stages).map_err(|d| vec![d])?;
        let mut problems = Vec::new();
        let mut found = Vec::new();
        for (path, tree) in &spec.space {
            match read(path, tree) {
                Ok(parameter) => found.push(parameter),
                Err(d) => problems.extend(d),
            }
        }
        let mut settings = Vec::new();
        for parameter in &found {
            match simulate {
                Some(_) => match settings::at(&parameter.path.value, parameter.path.at.as_ref()) {
                    Ok(setting) => settings.push(setting),
                    Err(d) => problems.push(d),
                },
                None => settings.push(free(parameter)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let parameters = found.iter().map(|f| parameter(f, &found)).collect();
        let space = Space::new(parameters).map_err(|e| vec![Diagnostic::new("optimize::space", e).at(place(spec))])?;
        let at = |path: &str| found.iter().position(|f| f.path.value == path);
        let conditions = space.parameters().iter().map(|p| p.when.as_ref());
        let conditions = conditions.map(|when| when.and_then(|w| Some((at(&w.path)?, w.values.clone())))).collect();
        let mut search = Search { space, settings, conditions, simulated: None };
        if let Some(simulate) = simulate {
            let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
            let varied = |path: &str| spec.space.keys().any(|p| p.value == path);
            let base = with_required(simulate, base(simulate, seed), varied);
            let mut order: Vec<usize> = (0..found.len()).collect();
            order.sort_by_key(|&j| found[j].path.value.split('.').count());
            search.simulated = Some(Simulated { base, catalog, profiles: Profiles::default(), order });
            problems.extend(search.types(&found));
        }
        if problems.is_empty() { Ok(search) } else { Err(problems) }
    }

    /// Gives latency models what they read.
    pub fn set_profiles(&mut self, profiles: Profiles) {
        if let Some(simulated) = &mut self.simulated {
            simulated.profiles = profiles;
        }
    }

    /// The scenario at a point; `None` where the types refuse it, or nothing is simulated.
    pub fn scenario(&self, point: &[Value]) -> Option<Scenario> {
        let simulated = self.simulated.as_ref()?;
        let mut scenario = resolve(&self.tree(simulated, point), &simulated.catalog).ok()?;
        simulated.profiles.attach(&mut scenario);
        Some(scenario)
    }

    /// Whether a scenario can be simulated, by the simulator's own rules.
    pub fn runs(&self, scenario: &Scenario) -> bool {
        let fits = |s: &Simulated| s.profiles.fit(scenario);
        sim::check(scenario).is_ok() && self.simulated.as_ref().is_none_or(fits)
    }

    /// Whether a command is asked instead of the simulator.
    pub fn is_external(&self) -> bool {
        self.simulated.is_none()
    }

    /// The base with the values of a point.
    fn tree(&self, simulated: &Simulated, point: &[Value]) -> Tree {
        let mut tree = simulated.base.clone();
        for &j in &simulated.order {
            let path = &self.settings[j].path;
            match &point[j] {
                Value::Null if !self.exists(j, point) => {}
                Value::Null => tree.remove_path(path),
                value => tree.set_path(path, Tree::from_json(value.clone())),
            }
        }
        tree
    }

    fn exists(&self, j: usize, point: &[Value]) -> bool {
        self.conditions[j]
            .as_ref()
            .is_none_or(|(parent, values)| values.contains(&point[*parent]) && self.exists(*parent, point))
    }

    /// A point by the values of some of its parameters; the others have that of the base, or else the first of their
    /// domain.
    ///
    /// # Errors
    /// Names that are no parameters, values that the space does not have.
    pub fn point(&self, given: &[(&str, Value)]) -> Result<Vec<Value>, String> {
        let paths: Vec<&str> = self.settings.iter().map(|s| s.path.as_str()).collect();
        for (name, _) in given {
            if !paths.contains(name) {
                let near = nearest(name, paths.iter().copied());
                let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                return Err(format!("`{name}` is no parameter of the space{near}"));
            }
        }
        let first = self.space.decode(&vec![0.0; self.space.dimensions()]);
        let of_base = |path: &str| Some(self.simulated.as_ref()?.base.get_path(path)?.to_json());
        let mut point: Vec<Value> = Vec::new();
        for (j, path) in paths.iter().enumerate() {
            let domain = &self.space.parameters()[j].domain;
            let named = given.iter().find(|(name, _)| name == path).map(|(_, value)| value.clone());
            let base = || of_base(path).filter(|v| domain.encode(v).is_some());
            let unset = || domain.may_be_unset().then_some(Value::Null);
            point.push(named.or_else(base).or_else(unset).unwrap_or_else(|| match &first[j] {
                Value::Null => domain.decode(0.0),
                value => value.clone(),
            }));
        }
        for j in 0..point.len() {
            let named = given.iter().any(|(name, value)| *name == paths[j] && !value.is_null());
            if !self.exists(j, &point) {
                if named {
                    return Err(format!("`{}` does not exist with the other values", paths[j]));
                }
                point[j] = Value::Null;
            }
        }
        match self.space.encode(&point) {
            Some(_) => Ok(point),
            None => {
                let odd = |j: &usize| {
                    let value = &point[*j];
                    self.exists(*j, &point) && self.space.parameters()[*j].domain.encode(value).is_none()
                };
                let at = (0..point.len()).find(odd).unwrap_or(0);
                Err(format!("`{}` has no value {}", paths[at], point[at]))
            }
        }
    }

    /// The base scenario with its defaults, for the recipe: that of some point of the space, without what is varied.
    pub fn base_recipe(&self) -> Value {
        let zero = self.space.decode(&vec![0.0; self.space.dimensions()]);
        self.scenario(&zero).map(|s| filter::config(&s)).unwrap_or_default()
    }

    /// The seed of the base scenario.
    pub fn seed(&self) -> Option<i64> {
        self.simulated.as_ref()?.base.get_path("seed")?.to_json().as_i64()
    }

    /// The facts of every model and GPU that a point of the space may have, for the recipe.
    pub fn facts(&self) -> Value {
        let mut facts = serde_json::Map::new();
        let Some(simulated) = &self.simulated else { return facts.into() };
        let catalog = &simulated.catalog;
        for name in self.places(simulated, "model").iter().flat_map(|path| self.names(simulated, path)) {
            if let Ok((name, model)) = catalog.find_model(&name, None) {
                let fitted: Vec<_> = catalog.fitted_of(&name).collect();
                if !fitted.is_empty() {
                    facts.insert(format!("latency {name}"), serde_json::to_value(fitted).unwrap_or_default());
                }
                facts.insert(format!("model {name}"), serde_json::to_value(model).unwrap_or_default());
            }
        }
        for name in self.places(simulated, "gpu").iter().flat_map(|path| self.names(simulated, path)) {
            if let Ok((name, gpu)) = catalog.gpu(&name) {
                facts.insert(format!("gpu {name}"), serde_json::to_value(gpu).unwrap_or_default());
            }
        }
        facts.into()
    }

    /// Where the deployment and its pools have `field`.
    fn places(&self, simulated: &Simulated, field: &str) -> Vec<String> {
        let own = format!("deployment.{field}");
        let paths = self.settings.iter().map(|s| s.path.as_str());
        let all = settings::expanded(&[simulated.base.to_json()], paths);
        let of_pool = |path: &str| {
            let below = path.strip_prefix("deployment.pools.").and_then(|rest| rest.split_once('.'));
            below.is_some_and(|(_, name)| name == field)
        };
        all.into_iter().map(|s| s.path).filter(|path| *path == own || of_pool(path)).collect()
    }

    /// The texts that may stand at `path`: all levels of its domain, or what the base says.
    fn names(&self, simulated: &Simulated, path: &str) -> Vec<String> {
        let varied = self.space.parameters().iter().find(|p| p.path == path);
        let text = |v: Value| v.as_str().map(str::to_string);
        match varied.map(|p| (&p.domain, p.domain.levels().unwrap_or(1))) {
            Some((domain, n)) => (0..n).filter_map(|i| text(domain.decode((i as f64 + 0.5) / n as f64))).collect(),
            None => simulated.base.get_path(path).and_then(|t| text(t.to_json())).into_iter().collect(),
        }
    }

    /// Whether the values fit the settings that they are for: each once, with the first value of all others.
    fn types(&self, found: &[Found]) -> Vec<Diagnostic> {
        let Some(simulated) = &self.simulated else { return Vec::new() };
        let mut problems: Vec<Diagnostic> = Vec::new();
        let first = |j: usize| found[j].samples.first().map_or(Value::Null, Tree::to_json);
        for (j, parameter) in found.iter().enumerate() {
            for value in &parameter.samples {
                let mut point: Vec<Value> = (0..found.len()).map(first).collect();
                // What it depends on is as it must be for it to exist.
                let mut at = j;
                while let Some((parent, values)) = &self.conditions[at] {
                    point[*parent] = values.first().cloned().unwrap_or_default();
                    at = *parent;
                }
                point[j] = value.to_json();
                for other in 0..point.len() {
                    if !self.exists(other, &point) {
                        point[other] = Value::Null;
                    }
                }
                let mut tree = self.tree(simulated, &point);
                // Once more, with its place.
                tree.set_path(&parameter.path.value, value.clone());
                for d in resolve(&tree, &simulated.catalog).err().unwrap_or_default() {
                    let d = if d.at.is_some() { d } else { d.at(nearest_place(&simulated.base, "deployment")) };
                    if !problems.contains(&d) {
                        problems.push(d);
                    }
                }
            }
        }
        problems
    }
}

/// What only the sweep of the simulation sets, and no scenario can do without, gets the sweep's first value.
pub(crate) fn with_required(simulate: &Simulate, mut base: Tree, varied: impl Fn(&str) -> bool) -> Tree {
    let Some(sweep) = &simulate.sweep else { return base };
    let first = sweep.grid.iter().chain(&sweep.zip).filter_map(|(path, values)| Some((path, values.first()?)));
    let listed = sweep.list.first().into_iter().flatten();
    for (path, value) in first.chain(listed) {
        let required = settings::at(&path.value, None).is_ok_and(|s| s.required);
        if required && !varied(&path.value) && base.get_path(&path.value).is_none() {
            base.set_path(&path.value, value.clone());
        }
    }
    base
}

/// A parameter of a command, which has the type of its values.
fn free(found: &Found) -> Setting {
    let values = || found.samples.iter().map(Tree::to_json).filter(|v| !v.is_null());
    let kind = if values().all(|v| v.is_i64()) {
        SettingKind::Int
    } else if values().all(|v| v.is_number()) {
        SettingKind::Float
    } else if values().all(|v| v.is_boolean()) {
        SettingKind::Bool
    } else {
        SettingKind::Text
    };
    Setting { path: found.path.value.clone(), kind, required: false, description: "A parameter of the command".into() }
}

fn parameter(found: &Found, all: &[Found]) -> Parameter {
    let parameter = Parameter::new(found.path.value.clone(), found.domain.clone());
    let Some((path, values)) = &found.when else { return parameter };
    // A choice with its parameters goes by its name as well.
    let parent = all.iter().find(|f| f.path.value == path.value);
    let named = |name: &Value, value: &Value| {
        value == name
            || value
                .as_object()
                .is_some_and(|map| map.len() == 1 && map.keys().next().map(String::as_str) == name.as_str())
    };
    let meant = |value: &Value| -> Vec<Value> {
        let of_parent: Vec<Value> =
            parent.into_iter().flat_map(|p| &p.values).filter(|v| named(value, v)).cloned().collect();
        if of_parent.is_empty() { vec![value.clone()] } else { of_parent }
    };
    parameter.when(path.value.clone(), values.iter().flat_map(meant).collect())
}

/// A parameter, with values of it that show whether it fits the type of its setting.
fn read<'a>(path: &'a Text, tree: &Tree) -> Result<Found<'a>, Vec<Diagnostic>> {
    let at = || tree.at.clone().or_else(|| path.at.clone());
    let wrong =
        |message: String| vec![Diagnostic::new("optimize::space", format!("`{}`: {message}", path.value)).at(at())];
    let list = |items: &[Tree], ordered: bool| {
        let values: Vec<Value> = items.iter().map(Tree::to_json).collect();
        let domain = if ordered { Domain::ordered(values.clone()) } else { Domain::list(values.clone()) };
        domain
            .map(|d| (d, items.iter().filter(|t| t.value != TreeValue::Null).cloned().collect(), values))
            .map_err(wrong)
    };
    if let TreeValue::List(items) = &tree.value {
        let (domain, samples, values) = list(items, false)?;
        return Ok(Found { path, domain, samples, values, when: None });
    }
    let TreeValue::Map(_) = &tree.value else {
        return Err(wrong(
            "must be a list of values, or `{ values: [..] }`, or `{ int: [low, high] }`, or `{ float: [low, high] }`"
                .to_string(),
        ));
    };
    let written: Written = from_tree(tree)?;
    let ends = |values: [Value; 2]| values.map(|v| Tree::new(Tree::from_json(v).value, at())).to_vec();
    let (domain, samples, values): (Domain, Vec<Tree>, Vec<Value>) = match (&written.values, written.int, written.float)
    {
        (Some(items), None, None) => {
            if written.log || written.step.is_some() {
                return Err(wrong("a list of values has no `log` and no `step`".to_string()));
            }
            list(items, written.ordered)?
        }
        (None, ..) if written.ordered => {
            return Err(wrong("`ordered` is for a list of `values`; numbers are ordered".to_string()));
        }
        (None, Some((low, high)), None) => {
            let step = match written.step {
                Some(s) if s.fract() != 0.0 || s.abs() > 1e15 => {
                    return Err(wrong(format!("the step of integers is an integer, not {s}")));
                }
                step => step.map(|s| s as i64),
            };
            let made = Domain::int(low, high, written.log, step).map_err(wrong)?;
            (made, ends([Value::from(low), Value::from(high)]), Vec::new())
        }
        (None, None, Some((low, high))) => {
            let made = Domain::float(low, high, written.log, written.step).map_err(wrong)?;
            (made, ends([Value::from(low), Value::from(high)]), Vec::new())
        }
        _ => {
            let message = "give one of `values: [..]`, `int: [low, high]` and `float: [low, high]`";
            return Err(wrong(message.to_string()));
        }
    };
    let domain = if written.unset { domain.or_unset() } else { domain };
    let mut when = written.when.into_iter();
    let condition = when.next().map(|(parent, tree)| match &tree.value {
        TreeValue::List(items) => (parent, items.iter().map(Tree::to_json).collect()),
        _ => (parent, vec![tree.to_json()]),
    });
    if when.next().is_some() {
        return Err(wrong("`when` names one other parameter; that one may have a `when` of its own".to_string()));
    }
    Ok(Found { path, domain, samples, values, when: condition })
}
