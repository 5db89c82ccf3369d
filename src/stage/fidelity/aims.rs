//! What aims and fits may ask for, by the kind of what was measured.

use super::figures::metric_name;
use crate::diag::{Diagnostic, nearest};
use crate::spec::{Aim, AimMetric, Candidate};

/// What the aims of a set can be of.
pub(super) struct Aimable<'a> {
    pub models: Vec<&'a str>,
    /// The models of which something is fitted.
    pub fitted: Vec<&'a str>,
    /// How a model comes to be one of those.
    pub help: &'static str,
    pub metrics: &'static [AimMetric],
}

/// Aims name models and metrics that there are, and fits that are made.
pub(super) fn problems(aims: &[Aim], can: &Aimable<'_>) -> Vec<Diagnostic> {
    aims.iter().filter_map(|aim| problem(aim, can)).collect()
}

fn problem(aim: &Aim, can: &Aimable<'_>) -> Option<Diagnostic> {
    let name = aim.model.value.as_str();
    let wrong = |message: String| Diagnostic::new("fidelity::aim", message).at(aim.model.at.clone());
    if !can.models.contains(&name) {
        let d = wrong(format!("no model `{name}`"));
        return Some(match nearest(name, can.models.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`?")),
            None => d,
        });
    }
    if !can.metrics.contains(&aim.metric) {
        let known: Vec<&str> = can.metrics.iter().map(|m| metric_name(*m)).collect();
        let message = format!("there is no figure of `{}` here", metric_name(aim.metric));
        return Some(wrong(message).help(format!("there are {}", known.join(", "))));
    }
    let missing = aim.fitted && !can.fitted.contains(&name);
    missing.then(|| wrong(format!("nothing of `{name}` is fitted")).help(can.help))
}

/// A `fit` where none is made.
pub(super) fn unfitted(candidate: &Candidate, help: &str) -> Option<Diagnostic> {
    let (path, _) = candidate.fit.first()?;
    let message = format!("`{}` would not be fitted", path.value);
    Some(Diagnostic::new("fidelity::fit", message).at(path.at.clone()).help(help))
}
