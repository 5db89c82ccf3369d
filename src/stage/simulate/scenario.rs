//! From settings and sweep to scenarios: every combination, typed, with its facts, filtered and checked.
//!
//! The order is that of the file: the product of `grid` (the last path varies fastest), then `zip`, then `list`. Of
//! scenarios that are equal in everything the first stays.

use std::collections::{BTreeMap, HashSet};

use pipe_kernel::pools::PoolFacts;
use pipe_kernel::profile::Supplied;
use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{GpuSpec, ModelSpec, Scenario};
use pipe_kernel::sim::{self, SimError};
use serde::Serialize;

use super::filter::{self, Filter};
use super::settings::{self, Config, Setting};
use super::supply;
use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Span};
use crate::spec::{Simulate, Sweep, Text, Tree, TreeValue};

/// Most scenarios of one sweep, before its condition.
const SCENARIOS_MAX: u64 = 1_000_000;
/// Problems of one sweep that are shown.
const PROBLEMS_MAX: usize = 20;
/// Problems that are told apart; with more, the rest is only counted.
const PROBLEMS_KEPT: usize = 1000;
pub(super) const OR_LEAVE_OUT: &str = "change it, or leave such scenarios out with `sweep.where`";

/// The settings that a sweep starts from: `deployment`, `workload`, `measure` and `seed` in one tree.
pub(crate) fn base(spec: &Simulate, pipeline_seed: u64) -> Tree {
    let seed = i64::try_from(spec.seed.unwrap_or(pipeline_seed)).unwrap_or(i64::MAX);
    let empty = || Tree::new(TreeValue::Map(Vec::new()), None);
    let entry = |name: &str, tree: Tree| (Text::new(name.to_string(), tree.at.clone()), tree);
    let entries = vec![
        entry("deployment", spec.deployment.clone()),
        entry("workload", spec.workload.clone().unwrap_or_else(empty)),
        entry("measure", spec.measure.clone().unwrap_or_else(empty)),
        entry("seed", Tree::new(TreeValue::Int(seed), None)),
    ];
    Tree::new(TreeValue::Map(entries), spec.deployment.at.clone())
}

/// Finds the setting at a path, or says which would be valid.
pub(super) type Known = fn(&str, Option<&Span>) -> Result<Setting, Diagnostic>;

/// What one item of a sweep sets.
pub(super) type Item<'a> = Vec<(&'a Text, &'a Tree)>;

/// Every scenario of a stage, in order.
///
/// # Errors
/// Every problem found, without repetitions, the first twenty.
pub(crate) fn expand(spec: &Simulate, seed: u64, catalog: &Catalog) -> Result<Vec<Scenario>, Vec<Diagnostic>> {
    let origins = Origins::of(spec, seed, catalog)?;
    Ok(origins.built.into_iter().map(|(scenario, _)| scenario).collect())
}

/// An item of a sweep, of which one setting is still to be chosen.
pub(crate) struct Configuration {
    tree: Tree,
    /// With the value that the setting was tried with.
    pub scenario: Scenario,
    /// What makes it impossible, if it is.
    pub wrong: Vec<Diagnostic>,
}

impl Configuration {
    /// The scenario with these values.
    ///
    /// # Errors
    /// A value of the wrong type.
    pub fn with(&self, values: &[(&str, Tree)], catalog: &Catalog) -> Result<Scenario, Vec<Diagnostic>> {
        let mut tree = self.tree.clone();
        values.iter().for_each(|(path, value)| tree.set_path(path, value.clone()));
        resolve(&tree, catalog)
    }
}

/// Every item of a sweep, with a value for the setting that is searched. What the sweep itself says of that is left out.
/// Configurations that cannot be simulated are kept, with the reason.
///
/// # Errors
/// Wrong paths, names, types, and conditions: everything but what the simulator refuses.
pub(crate) fn configurations(
    spec: &Simulate,
    seed: u64,
    catalog: &Catalog,
    (path, value): (&Text, Tree),
) -> Result<Vec<Configuration>, Vec<Diagnostic>> {
    let mut sweep = spec.sweep.clone().unwrap_or_default();
    sweep.grid.shift_remove(path);
    sweep.zip.shift_remove(path);
    sweep.list.iter_mut().for_each(|item| drop(item.shift_remove(path)));
    let (axes, mut problems) = axes(&sweep, settings::at);
    problems.extend(settings::at(&path.value, path.at.as_ref()).err());
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut base = base(spec, seed);
    base.set_path(&path.value, value);
    let (mut built, wrong) = build(&base, &axes, catalog);
    wrong.done()?;
    if let Some(condition) = &sweep.filter {
        built = keep(condition, built)?;
    }
    if let Err(d) = one_column_each(&built, base.at.as_ref()) {
        return Err(vec![d]);
    }
    let origins = Origins { base, axes, built: Vec::new() };
    let configuration = |(scenario, picks): (Scenario, Vec<usize>)| {
        let mut tree = origins.base.clone();
        picked(&origins.axes, &picks).for_each(|(path, value)| tree.set_path(&path.value, value.clone()));
        let wrong = check(&scenario, |path| origins.place(&picks, path));
        Configuration { tree, scenario, wrong }
    };
    Ok(distinct(built, |(scenario, _)| scenario).into_iter().map(configuration).collect())
}

/// Scenarios with the items of the sweep that each is made of.
struct Origins<'a> {
    base: Tree,
    axes: Vec<Vec<Item<'a>>>,
    built: Vec<(Scenario, Vec<usize>)>,
}

impl<'a> Origins<'a> {
    /// Of every scenario of a stage, in order; errors as [`expand`].
    fn of(spec: &'a Simulate, seed: u64, catalog: &Catalog) -> Result<Self, Vec<Diagnostic>> {
        let (axes, mut problems) = spec.sweep.as_ref().map(|sweep| axes(sweep, settings::at)).unwrap_or_default();
        let base = base(spec, seed);
        let condition = spec.sweep.as_ref().and_then(|sweep| sweep.filter.as_ref());
        let (mut built, wrong) = build(&base, &axes, catalog);
        problems.extend(wrong.done().err().unwrap_or_default());
        if let (Some(condition), false) = (condition, problems.is_empty()) {
            // The scenarios are wrong, so which columns they have is not known; any setting will do.
            let swept = axes.iter().flatten().flatten().map(|(path, _)| path.value.as_str());
            problems.extend(Filter::new(condition, filter::leaves(&[base.to_json()], swept)).err());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        if let Some(condition) = condition {
            built = keep(condition, built)?;
        }
        let origins = Origins { base, axes, built };
        let mut problems = Problems::default();
        for (scenario, picks) in &origins.built {
            for d in check(scenario, |path| origins.place(picks, path)) {
                problems.add(if spec.sweep.is_some() { d.help(OR_LEAVE_OUT) } else { d });
            }
        }
        if let Err(d) = one_column_each(&origins.built, origins.base.at.as_ref()) {
            problems.add(d);
        }
        problems.done()?;
        Ok(Origins { built: distinct(origins.built, |(scenario, _)| scenario), ..origins })
    }

    /// Where the value at `path` was written for the scenario of these items.
    fn place(&self, picks: &[usize], path: &str) -> Option<Span> {
        let swept = picked(&self.axes, picks).filter(|(set, _)| covers(&set.value, path)).last();
        swept
            .and_then(|(set, value)| value.at.clone().or_else(|| set.at.clone()))
            .or_else(|| nearest_place(&self.base, path))
    }
}

/// Two settings may not share a column: names that the user chose (classes, pools) may differ in no letter or digit.
fn one_column_each(built: &[(Scenario, Vec<usize>)], at: Option<&Span>) -> Result<(), Diagnostic> {
    let chosen = |s: &Scenario| !(s.workload.classes.is_empty() && s.deployment.pools.is_empty());
    let configs: Vec<_> = built.iter().filter(|(s, _)| chosen(s)).map(|(s, _)| filter::config(s)).collect();
    let mut columns: BTreeMap<String, String> = BTreeMap::new();
    for setting in filter::present(&configs) {
        let column = setting.column();
        if let Some(other) = columns.get(&column) {
            let message = format!("`{other}` and `{}` would both be the column `{column}`; rename one", setting.path);
            return Err(Diagnostic::new("simulate::columns", message).at(at.cloned()));
        }
        columns.insert(column, setting.path);
    }
    Ok(())
}

/// Every combination with a typed scenario, and what is wrong with the others.
fn build(base: &Tree, axes: &[Vec<Item>], catalog: &Catalog) -> (Vec<(Scenario, Vec<usize>)>, Problems) {
    let mut problems = Problems::default();
    let mut built = Vec::new();
    for picks in Product::new(axes) {
        let mut tree = base.clone();
        for (path, value) in picked(axes, &picks) {
            tree.set_path(&path.value, value.clone());
        }
        match resolve(&tree, catalog) {
            Ok(scenario) => built.push((scenario, picks)),
            Err(found) => found.into_iter().for_each(|d| problems.add(d)),
        }
    }
    (built, problems)
}

/// The typed scenario of a complete tree, with the facts of its models and GPUs. Names become those of the catalog, so
/// that an alias is the same scenario.
///
/// # Errors
/// Wrong types, unknown keys, unknown names, each at its place.
pub(crate) fn resolve(tree: &Tree, catalog: &Catalog) -> Result<Scenario, Vec<Diagnostic>> {
    let Config { mut deployment, workload, measure, seed } = crate::spec::from_tree::<Config>(tree)?;
    let place = |path: &str| nearest_place(tree, path);
    let mut problems = Vec::new();
    let mut model_of = |name: &mut String, path: &str| {
        // A config.json is looked for where its path was written.
        let base = tree.get_path(path).and_then(Tree::base);
        named(name, catalog.find_model(name, base), place(path), &mut problems)
    };
    let model = model_of(&mut deployment.model, "deployment.model");
    let own_models: Vec<Option<ModelSpec>> = deployment
        .pools
        .iter_mut()
        .map(|(name, pool)| model_of(pool.model.as_mut()?, &format!("deployment.pools.{name}.model")))
        .collect();
    let mut gpu_of = |name: &mut String, path: &str| {
        let found = catalog.gpu(name).map(|(known, facts)| (known.to_string(), facts.clone()));
        named(name, found, place(path), &mut problems)
    };
    let gpu = gpu_of(&mut deployment.gpu, "deployment.gpu");
    let own_gpus: Vec<Option<GpuSpec>> = deployment
        .pools
        .iter_mut()
        .map(|(name, pool)| gpu_of(pool.gpu.as_mut()?, &format!("deployment.pools.{name}.gpu")))
        .collect();
    let (Some(model), Some(gpu), true) = (model, gpu, problems.is_empty()) else { return Err(problems) };
    // What a pool does not say is as under the deployment.
    let facts = |(own_model, own_gpu): (Option<ModelSpec>, Option<GpuSpec>)| PoolFacts {
        model: own_model.unwrap_or_else(|| model.clone()),
        gpu: own_gpu.unwrap_or_else(|| gpu.clone()),
        supplied: Supplied::default(),
    };
    let pools = own_models.into_iter().zip(own_gpus).map(facts).collect();
    let supplied = Supplied::default();
    let mut scenario = Scenario { deployment, model, gpu, pools, supplied, workload, measure, seed };
    let problems = supply::latency(&mut scenario, catalog, place);
    if problems.is_empty() { Ok(scenario) } else { Err(problems) }
}

/// The facts that were found for a name, which becomes that of the catalog; `None` where there are none.
fn named<T>(
    name: &mut String,
    found: Result<(String, T), Diagnostic>,
    at: Option<Span>,
    problems: &mut Vec<Diagnostic>,
) -> Option<T> {
    match found {
        Ok((known, facts)) => {
            *name = known;
            Some(facts)
        }
        Err(d) => {
            problems.push(d.at(at));
            None
        }
    }
}

/// What the simulator would refuse, each problem at the place that `place` knows for its path.
pub(crate) fn check(scenario: &Scenario, place: impl Fn(&str) -> Option<Span>) -> Vec<Diagnostic> {
    impossible(sim::check(scenario), place)
}

/// What is wrong with a scenario in the kernel's words, each problem at the place that `place` knows for its path.
pub(crate) fn impossible(checked: Result<(), Vec<SimError>>, place: impl Fn(&str) -> Option<Span>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for problem in checked.err().unwrap_or_default() {
        let SimError::Invalid { path, message } = problem else { continue };
        // Facts have no place in the pipeline; the name that chose them has.
        let written = match path.split('.').next() {
            Some("model") => "deployment.model",
            Some("gpu") => "deployment.gpu",
            Some(_) | None => path.as_ref(),
        };
        found.push(Diagnostic::new("simulate::impossible", format!("`{path}`: {message}")).at(place(written)));
    }
    found
}

/// What requests and profiles show to be wrong with scenarios that are right by themselves.
///
/// # Errors
/// Every problem found, without repetitions, the first twenty.
pub(crate) fn check_requests(
    spec: &Simulate,
    seed: u64,
    catalog: &Catalog,
    scenarios: &[Scenario],
    requests: &Requests,
) -> Result<(), Vec<Diagnostic>> {
    let checked = |s: &Scenario| [sim::check_profiles(s), sim::check_requests(s, requests)];
    let wrong: Vec<_> =
        scenarios.iter().map(checked).enumerate().filter(|(_, c)| c.iter().any(Result::is_err)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    // Only who is wrong asks where it was written.
    let origins = Origins::of(spec, seed, catalog)?;
    let mut problems = Problems::default();
    for (i, checked) in wrong {
        let place = |path: &str| origins.place(&origins.built[i].1, path);
        checked.into_iter().flat_map(|c| impossible(c, place)).for_each(|d| problems.add(d));
    }
    problems.done()
}

/// Where the value at `path` was written, or else the innermost map around it that is written anywhere.
pub(crate) fn nearest_place(tree: &Tree, path: &str) -> Option<Span> {
    let mut path = path;
    loop {
        if let Some(at) = tree.get_path(path).and_then(|t| t.at.clone()) {
            return Some(at);
        }
        match path.rsplit_once('.') {
            Some((parent, _)) => path = parent,
            None => return tree.at.clone(),
        }
    }
}

/// A value set at `set` decides what is at `path`.
pub(super) fn covers(set: &str, path: &str) -> bool {
    path == set || path.strip_prefix(set).is_some_and(|rest| rest.starts_with('.'))
}

fn keep(condition: &Text, built: Vec<(Scenario, Vec<usize>)>) -> Result<Vec<(Scenario, Vec<usize>)>, Vec<Diagnostic>> {
    let configs: Vec<_> = built.iter().map(|(s, _)| filter::config(s)).collect();
    let filter = Filter::new(condition, filter::present(&configs)).map_err(|d| vec![d])?;
    let scenarios: Vec<&Scenario> = built.iter().map(|(s, _)| s).collect();
    let mask = filter.keep(&scenarios).map_err(|d| vec![d])?;
    let count = built.len();
    let kept: Vec<_> = built.into_iter().zip(mask).filter(|(_, keep)| *keep).map(|(b, _)| b).collect();
    if kept.is_empty() {
        let message = format!("the condition is true for none of the {count} scenarios");
        return Err(vec![Diagnostic::new("simulate::no_scenarios", message).at(condition.at.clone())]);
    }
    Ok(kept)
}

/// Of items with the same scenario, the first.
pub(super) fn distinct<T, S: Serialize>(items: Vec<T>, scenario: impl Fn(&T) -> &S) -> Vec<T> {
    let mut seen = HashSet::new();
    items.into_iter().filter(|i| seen.insert(serde_json::to_string(scenario(i)).unwrap_or_default())).collect()
}

/// The axes of the product, each a list of items, without what is wrong with them: paths that do not exist are left
/// out, so that the values of the others are still looked at.
pub(super) fn axes(sweep: &Sweep, known: Known) -> (Vec<Vec<Item<'_>>>, Vec<Diagnostic>) {
    let mut problems = check_paths(sweep, known);
    let exists = |path: &Text| known(&path.value, None).is_ok();
    let wrong = |at: &Text, message: String| Diagnostic::new("simulate::sweep", message).at(at.at.clone());
    let mut axes: Vec<Vec<Item>> = Vec::new();
    for (path, values) in &sweep.grid {
        if values.is_empty() {
            problems.push(wrong(path, format!("`{}` has no values", path.value)));
        } else if exists(path) {
            axes.push(values.iter().map(|v| vec![(path, v)]).collect());
        }
    }
    if let Some((first, values)) = sweep.zip.first() {
        for (path, others) in &sweep.zip {
            if others.len() != values.len() || others.is_empty() {
                let message = format!(
                    "`{}` has {} values and `{}` has {}; what is zipped has one length, at least 1",
                    path.value,
                    others.len(),
                    first.value,
                    values.len()
                );
                problems.push(wrong(path, message));
            }
        }
        axes.push((0..values.len()).map(|i| zip_item(sweep, i, known)).collect());
    }
    if !sweep.list.is_empty() {
        axes.push(sweep.list.iter().map(|item| item.iter().filter(|(path, _)| exists(path)).collect()).collect());
    }
    let count = axes.iter().try_fold(1u64, |n, axis| n.checked_mul(axis.len() as u64));
    if count.is_none_or(|n| n > SCENARIOS_MAX) {
        let at = sweep.grid.keys().chain(sweep.zip.keys()).next().and_then(|t| t.at.clone());
        let message = format!("the sweep has more than {SCENARIOS_MAX} scenarios");
        problems.push(Diagnostic::new("simulate::sweep", message).at(at).help("give fewer values, or use `optimize`"));
        axes.iter_mut().for_each(|axis| axis.truncate(1));
    }
    (axes, problems)
}

fn zip_item(sweep: &Sweep, i: usize, known: Known) -> Item<'_> {
    let there = sweep.zip.iter().filter(|(path, _)| known(&path.value, None).is_ok());
    there.filter_map(|(path, values)| Some((path, values.get(i)?))).collect()
}

/// Paths that do not exist, and paths that two parts of the sweep set.
fn check_paths(sweep: &Sweep, known: Known) -> Vec<Diagnostic> {
    let list: BTreeMap<&str, &Text> = sweep.list.iter().flat_map(|i| i.keys()).map(|t| (t.value.as_str(), t)).collect();
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for path in sweep.grid.keys().chain(sweep.zip.keys()).chain(list.into_values()) {
        if let Err(d) = known(&path.value, path.at.as_ref()) {
            problems.push(d);
        }
        if !seen.insert(&path.value) {
            let message = format!("`{}` is swept twice", path.value);
            problems.push(Diagnostic::new("simulate::sweep", message).at(path.at.clone()));
        }
    }
    problems
}

pub(super) fn picked<'a>(axes: &'a [Vec<Item<'a>>], picks: &'a [usize]) -> impl Iterator<Item = (&'a Text, &'a Tree)> {
    axes.iter().zip(picks).flat_map(|(axis, &i)| axis[i].iter().copied())
}

/// Every combination of one item per axis; the last axis varies fastest. One empty combination without axes.
pub(super) struct Product {
    lengths: Vec<usize>,
    next: Option<Vec<usize>>,
}

impl Product {
    pub(super) fn new(axes: &[Vec<Item>]) -> Self {
        let lengths: Vec<usize> = axes.iter().map(Vec::len).collect();
        let next = lengths.iter().all(|n| *n > 0).then(|| vec![0; lengths.len()]);
        Product { lengths, next }
    }
}

impl Iterator for Product {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let current = self.next.take()?;
        let mut following = current.clone();
        for i in (0..following.len()).rev() {
            following[i] += 1;
            if following[i] < self.lengths[i] {
                self.next = Some(following);
                break;
            }
            following[i] = 0;
        }
        Some(current)
    }
}

/// Problems without repetitions, and how many scenarios have each.
#[derive(Default)]
pub(super) struct Problems {
    found: Vec<(Diagnostic, usize)>,
    beyond: usize,
}

impl Problems {
    pub(super) fn add(&mut self, d: Diagnostic) {
        let known = self.found.iter().position(|(known, _)| *known == d);
        match known {
            Some(i) => self.found[i].1 += 1,
            None if self.found.len() >= PROBLEMS_KEPT => self.beyond += 1,
            None => self.found.push((d, 1)),
        }
    }

    pub(super) fn done(self) -> Result<(), Vec<Diagnostic>> {
        if self.found.is_empty() {
            return Ok(());
        }
        let left_out = self.found.len().saturating_sub(PROBLEMS_MAX) + self.beyond;
        let mut shown: Vec<Diagnostic> = self.found.into_iter().take(PROBLEMS_MAX).map(with_count).collect();
        if left_out > 0 {
            shown.push(Diagnostic::new("simulate::more", format!("and {left_out} more problems of this sweep")));
        }
        Err(shown)
    }
}

fn with_count((mut d, count): (Diagnostic, usize)) -> Diagnostic {
    if count > 1 && d.code == "simulate::impossible" {
        d.message = format!("{} ({count} scenarios)", d.message);
    }
    d
}
