//! From settings and sweep to queueing scenarios, in the order of the file, filtered and checked.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use pipe_kernel::queueing::Queueing;

use crate::diag::{Diagnostic, Span};
use crate::spec::{Queues, Simulate, Sweep, Text, Tree, TreeValue, from_tree};
use crate::stage::simulate::filter::Filter;
use crate::stage::simulate::scenario::{
    OR_LEAVE_OUT, Problems, Product, axes, covers, distinct, nearest_place, picked,
};
use crate::stage::simulate::settings::{self, Setting};

/// What a user writes of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What is operated: `queueing`.
    deployment: Queues,
}

/// Every setting, in the order of the structs.
fn all() -> &'static [Setting] {
    static ALL: LazyLock<Vec<Setting>> = LazyLock::new(settings::of_type::<Config>);
    &ALL
}

/// The setting at `path`.
///
/// # Errors
/// No setting has that path; it may be one of engines.
fn at(path: &str, written: Option<&Span>) -> Result<Setting, Diagnostic> {
    settings::find(all(), path, written).map_err(|unknown| {
        if settings::at(path, None).is_err() {
            return unknown;
        }
        let message = format!("`{path}` is a setting of engines; this deployment is `queueing`");
        let help = "its settings begin with `deployment.queueing.`";
        Diagnostic::new("simulate::unknown_path", message).at(written.cloned()).help(help)
    })
}

/// Settings that have a column.
fn leaves() -> Vec<Setting> {
    all().iter().filter(|s| s.data_type().is_some()).cloned().collect()
}

/// Settings that have a column, and that at least one of the scenarios has.
pub(super) fn present(configs: &[Value]) -> Vec<Setting> {
    let mut found = leaves();
    found.retain(|s| configs.iter().any(|c| s.value(c).is_some()));
    found
}

/// The settings of a scenario, by path, as JSON.
pub(super) fn config(scenario: &Queueing) -> Value {
    // String keys and finite floats only.
    serde_json::to_value(Config { deployment: Queues::Queueing(*scenario) }).unwrap_or(Value::Null)
}

/// Every scenario of a stage, in order; of equal ones the first.
///
/// # Errors
/// Every problem found, without repetitions.
pub(super) fn expand(spec: &Simulate) -> Result<Vec<Queueing>, Vec<Diagnostic>> {
    let nothing = Sweep::default();
    let sweep = spec.sweep.as_ref().unwrap_or(&nothing);
    let (axes, mut problems) = axes(sweep, at);
    let entry = (Text::new("deployment".to_string(), spec.deployment.at.clone()), spec.deployment.clone());
    let base = Tree::new(TreeValue::Map(vec![entry]), spec.deployment.at.clone());
    let mut wrong = Problems::default();
    let mut built = Vec::new();
    for picks in Product::new(&axes) {
        let mut tree = base.clone();
        for (path, value) in picked(&axes, &picks) {
            tree.set_path(&path.value, value.clone());
        }
        match from_tree::<Config>(&tree) {
            Ok(Config { deployment: Queues::Queueing(settings) }) => built.push((settings.with_defaults(), picks)),
            Err(found) => found.into_iter().for_each(|d| wrong.add(d)),
        }
    }
    problems.extend(wrong.done().err().unwrap_or_default());
    if let (Some(condition), false) = (&sweep.filter, problems.is_empty()) {
        problems.extend(Filter::new(condition, leaves()).err());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if let Some(condition) = &sweep.filter {
        built = keep(condition, built)?;
    }
    let mut problems = Problems::default();
    for (scenario, picks) in &built {
        for problem in scenario.problems() {
            let path = format!("deployment.queueing.{}", problem.path);
            let swept = picked(&axes, picks).filter(|(p, _)| covers(&p.value, &path)).last();
            let written = swept.and_then(|(p, v)| v.at.clone().or_else(|| p.at.clone()));
            let d = Diagnostic::new("simulate::impossible", format!("`{path}` {}", problem.message));
            let d = d.at(written.or_else(|| nearest_place(&base, &path)));
            problems.add(if spec.sweep.is_some() { d.help(OR_LEAVE_OUT) } else { d });
        }
    }
    problems.done()?;
    Ok(distinct(built.into_iter().map(|(s, _)| s).collect(), |s| s))
}

/// The scenarios for which the condition is true.
fn keep(condition: &Text, built: Vec<(Queueing, Vec<usize>)>) -> Result<Vec<(Queueing, Vec<usize>)>, Vec<Diagnostic>> {
    let configs: Vec<Value> = built.iter().map(|(s, _)| config(s)).collect();
    let gpus: Vec<u64> = built.iter().map(|(s, _)| s.gpus()).collect();
    let filter = Filter::new(condition, present(&configs)).map_err(|d| vec![d])?;
    let mask = filter.keep_of(&configs, &gpus).map_err(|d| vec![d])?;
    let count = built.len();
    let kept: Vec<_> = built.into_iter().zip(mask).filter(|(_, keep)| *keep).map(|(b, _)| b).collect();
    if kept.is_empty() {
        let message = format!("the condition is true for none of the {count} scenarios");
        return Err(vec![Diagnostic::new("simulate::no_scenarios", message).at(condition.at.clone())]);
    }
    Ok(kept)
}
