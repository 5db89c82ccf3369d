//! What a search varies: the base scenario, the domains of its parameters, and which points are possible at all.

use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim;
use pipe_kernel::tune::{Domain, Parameter, Space};

use crate::catalog::{self, Catalog};
use crate::diag::{Diagnostic, nearest};
use crate::spec::{Optimize, Simulate, Stage, StageSpec, Text, Tree, TreeValue, from_tree};
use crate::stage::simulate::filter::{self, Filter};
use crate::stage::simulate::profiles::Profiles;
use crate::stage::simulate::scenario::{base, nearest_place, resolve};
use crate::stage::simulate::settings::{self, Setting};

/// A space with everything that turns a point of it into a scenario.
pub(super) struct Search {
    pub space: Space,
    /// One per parameter of the space.
    pub settings: Vec<Setting>,
    base: Tree,
    catalog: Catalog,
    /// What latency models read; empty while a pipeline is checked, when there are none yet.
    pub profiles: Profiles,
    filter: Option<Filter>,
    /// The first condition that could not be evaluated. The sampler's question has no room for an error.
    failed: OnceLock<Diagnostic>,
}

/// A range of numbers, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    #[serde(default)]
    int: Option<(i64, i64)>,
    #[serde(default)]
    float: Option<(f64, f64)>,
    #[serde(default)]
    log: bool,
    #[serde(default)]
    step: Option<f64>,
}

/// The `simulate` stage that a search varies.
///
/// # Errors
/// No such stage, or one of another kind.
pub(super) fn over<'a>(spec: &Optimize, stages: &'a [Stage]) -> Result<&'a Simulate, Diagnostic> {
    simulation(&spec.over.0, "optimize::over", stages)
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
            let help = format!("`simulate` stages are: {}", simulations().collect::<Vec<_>>().join(", "));
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
    /// Every problem of space, base scenario and condition, each at its place.
    pub fn new(spec: &Optimize, stages: &[Stage], project: &Path, seed: u64) -> Result<Search, Vec<Diagnostic>> {
        let simulate = over(spec, stages).map_err(|d| vec![d])?;
        let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
        let mut problems = Vec::new();
        let mut parameters = Vec::new();
        let mut found = Vec::new();
        let mut samples = Vec::new();
        for (path, tree) in &spec.space {
            match settings::at(&path.value, path.at.as_ref()) {
                Ok(setting) => found.push(setting),
                Err(d) => problems.push(d),
            }
            match domain(path, tree) {
                Ok((domain, values)) => {
                    parameters.push(Parameter::new(path.value.clone(), domain));
                    samples.push((path, values));
                }
                Err(d) => problems.extend(d),
            }
        }
        let varied = |path: &str| spec.space.keys().any(|p| p.value == path);
        let base = with_required(simulate, base(simulate, seed), varied);
        if problems.is_empty() {
            problems.extend(types(&base, &samples, &catalog));
        }
        let leaves = || filter::leaves(&[base.to_json()], spec.space.keys().map(|path| path.value.as_str()));
        let filter = spec.filter.as_ref().map(|f| Filter::new(f, leaves())).transpose();
        let space =
            Space::new(parameters).map_err(|e| Diagnostic::new("optimize::space", e).at(spec.over.0.at.clone()));
        match (space, filter) {
            (Ok(space), Ok(filter)) if problems.is_empty() => Ok(Search {
                space,
                settings: found,
                base,
                catalog,
                profiles: Profiles::default(),
                filter,
                failed: OnceLock::new(),
            }),
            (space, filter) => {
                // An empty space is only worth a word when nothing else is wrong with it.
                let space = space.err().filter(|_| problems.is_empty());
                Err(problems.into_iter().chain(space).chain(filter.err()).collect())
            }
        }
    }

    /// The scenario at a point; `None` where the types refuse it.
    pub fn scenario(&self, point: &[Value]) -> Option<Scenario> {
        let mut tree = self.base.clone();
        for (parameter, value) in self.space.parameters().iter().zip(point) {
            tree.set_path(&parameter.path, Tree::from_json(value.clone()));
        }
        let mut scenario = resolve(&tree, &self.catalog).ok()?;
        self.profiles.attach(&mut scenario);
        Some(scenario)
    }

    /// Whether a point is possible: the types, the simulator's own rules, and the condition allow it.
    pub fn feasible(&self, point: &[Value]) -> bool {
        let Some(scenario) = self.scenario(point) else { return false };
        if sim::check(&scenario).is_err() || !self.profiles.fit(&scenario) {
            return false;
        }
        let Some(filter) = &self.filter else { return true };
        match filter.keep(&[&scenario]) {
            Ok(kept) => kept.first() == Some(&true),
            Err(d) => {
                self.failed.get_or_init(|| d);
                false
            }
        }
    }

    /// The first point at which the condition could not be evaluated.
    pub fn failed(&self) -> Option<Diagnostic> {
        self.failed.get().cloned()
    }

    /// The base scenario with its defaults, for the recipe: that of some point of the space, without what is varied.
    pub fn base_recipe(&self) -> Value {
        let zero = self.space.decode(&vec![0.0; self.space.dimensions()]);
        self.scenario(&zero).map(|s| filter::config(&s)).unwrap_or_default()
    }

    /// The facts of every model and GPU that a point of the space may have, for the recipe.
    pub fn facts(&self) -> Value {
        let mut facts = serde_json::Map::new();
        for name in self.places("model").iter().flat_map(|path| self.names(path)) {
            if let Ok((name, model)) = self.catalog.find_model(&name, None) {
                let fitted: Vec<_> = self.catalog.fitted_of(&name).collect();
                if !fitted.is_empty() {
                    facts.insert(format!("latency {name}"), serde_json::to_value(fitted).unwrap_or_default());
                }
                facts.insert(format!("model {name}"), serde_json::to_value(model).unwrap_or_default());
            }
        }
        for name in self.places("gpu").iter().flat_map(|path| self.names(path)) {
            if let Ok((name, gpu)) = self.catalog.gpu(&name) {
                facts.insert(format!("gpu {name}"), serde_json::to_value(gpu).unwrap_or_default());
            }
        }
        facts.into()
    }

    /// Where the deployment and its pools have `field`.
    fn places(&self, field: &str) -> Vec<String> {
        let own = format!("deployment.{field}");
        let paths = self.space.parameters().iter().map(|p| p.path.as_str());
        let all = settings::expanded(&[self.base.to_json()], paths);
        let of_pool = |path: &str| {
            let below = path.strip_prefix("deployment.pools.").and_then(|rest| rest.split_once('.'));
            below.is_some_and(|(_, name)| name == field)
        };
        all.into_iter().map(|s| s.path).filter(|path| *path == own || of_pool(path)).collect()
    }

    /// The texts that may stand at `path`: all levels of its domain, or what the base says.
    fn names(&self, path: &str) -> Vec<String> {
        let varied = self.space.parameters().iter().find(|p| p.path == path);
        let text = |v: Value| v.as_str().map(str::to_string);
        match varied.map(|p| (&p.domain, p.domain.levels().unwrap_or(1))) {
            Some((domain, n)) => (0..n).filter_map(|i| text(domain.decode((i as f64 + 0.5) / n as f64))).collect(),
            None => self.base.get_path(path).and_then(|t| text(t.to_json())).into_iter().collect(),
        }
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

/// A domain, and values of it that show whether it fits the type of its setting.
fn domain(path: &Text, tree: &Tree) -> Result<(Domain, Vec<Tree>), Vec<Diagnostic>> {
    let at = || tree.at.clone().or_else(|| path.at.clone());
    let wrong =
        |message: String| vec![Diagnostic::new("optimize::space", format!("`{}`: {message}", path.value)).at(at())];
    if let TreeValue::List(items) = &tree.value {
        let values = items.iter().map(Tree::to_json).collect();
        return Domain::list(values).map(|d| (d, items.clone())).map_err(wrong);
    }
    let TreeValue::Map(_) = &tree.value else {
        return Err(wrong(
            "must be a list of values, or `{ int: [low, high] }`, or `{ float: [low, high] }`".to_string(),
        ));
    };
    let range: Range = from_tree(tree)?;
    let ends = |values: [Value; 2]| values.map(|v| Tree::new(Tree::from_json(v).value, at())).to_vec();
    match (range.int, range.float) {
        (Some((low, high)), None) => {
            let step = match range.step {
                Some(s) if s.fract() != 0.0 || s.abs() > 1e15 => {
                    return Err(wrong(format!("the step of integers is an integer, not {s}")));
                }
                step => step.map(|s| s as i64),
            };
            let made = Domain::int(low, high, range.log, step);
            made.map(|d| (d, ends([Value::from(low), Value::from(high)]))).map_err(wrong)
        }
        (None, Some((low, high))) => {
            let made = Domain::float(low, high, range.log, range.step);
            made.map(|d| (d, ends([Value::from(low), Value::from(high)]))).map_err(wrong)
        }
        (Some(_), Some(_)) | (None, None) => {
            Err(wrong("give either `int: [low, high]` or `float: [low, high]`".to_string()))
        }
    }
}

/// Whether the values fit the settings that they are for: each once, with the first value of all others.
fn types(base: &Tree, samples: &[(&Text, Vec<Tree>)], catalog: &Catalog) -> Vec<Diagnostic> {
    let mut problems: Vec<Diagnostic> = Vec::new();
    let mut first = base.clone();
    for (path, values) in samples {
        if let Some(value) = values.first() {
            first.set_path(&path.value, value.clone());
        }
    }
    for (path, values) in samples {
        for value in values {
            let mut tree = first.clone();
            tree.set_path(&path.value, value.clone());
            for d in resolve(&tree, catalog).err().unwrap_or_default() {
                let d = if d.at.is_some() { d } else { d.at(nearest_place(base, "deployment")) };
                if !problems.contains(&d) {
                    problems.push(d);
                }
            }
        }
    }
    problems
}
