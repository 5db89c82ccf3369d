//! Parameters that make errors small: CMA-ES over their ranges, the same trials for the same seed.

use pipe_kernel::tune::{CmaEs, Domain, NoRules, Outcome, Parameter, SamplerSpec, Settings, Space, Study, Trial};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use super::trial::{self, Bench};
use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Candidate, Text, Tree};
use crate::stage::simulate::settings;

/// Trials asked for at once. Part of what a fit comes to, and so no matter of cores.
const BATCH: usize = 8;

/// What is varied.
///
/// # Errors
/// A range that is none.
pub(super) fn space(candidate: &Candidate) -> std::result::Result<Space, Diagnostic> {
    let mut parameters = Vec::new();
    for (path, (low, high)) in &candidate.fit {
        let wrong =
            |what: String| Diagnostic::new("fidelity::fit", format!("`{}`: {what}", path.value)).at(path.at.clone());
        let domain = Domain::float(*low, *high, false, None).map_err(wrong)?;
        parameters.push(Parameter::new(path.value.clone(), domain));
    }
    let at = candidate.latency.at.clone();
    Space::new(parameters).map_err(|what| Diagnostic::new("fidelity::fit", what).at(at))
}

/// What is wrong with what is fitted: ranges, paths, and, of a server that is right without, that server at the upper ends,
/// where a coefficient is seldom 0.
pub(super) fn problems(candidate: &Candidate, right: Option<&Tree>, catalog: &Catalog) -> Vec<Diagnostic> {
    let unknown = |path: &Text| settings::at(&path.value, path.at.as_ref()).err();
    let mut found: Vec<Diagnostic> = candidate.fit.keys().filter_map(unknown).collect();
    match (space(candidate), right) {
        (Err(d), _) => found.push(d),
        (Ok(space), Some(tree)) if found.is_empty() => {
            let high = space.decode(&vec![1.0; space.dimensions()]);
            found = trial::problems(&set(tree, &space, &high), catalog);
        }
        (Ok(_), _) => {}
    }
    found
}

/// Sets parameters in the settings of a server.
pub(super) fn set(tree: &Tree, space: &Space, values: &[Value]) -> Tree {
    let mut tree = tree.clone();
    for (parameter, value) in space.parameters().iter().zip(values) {
        tree.set_path(&parameter.path, Tree::from_json(value.clone()));
    }
    tree
}

/// The point with the least `error`, and that error. `None` where no point has one.
///
/// # Errors
/// Interrupted; what `error` fails with.
pub(super) fn best(
    bench: &Bench<'_>,
    label: &str,
    space: &Space,
    error: impl Fn(&[Value]) -> Result<Option<f64>> + Sync,
) -> Result<Option<(Vec<Value>, f64)>> {
    // Fits of one report draw from streams of their own.
    let seed = label.bytes().fold(bench.seed, |seed, byte| pipe_kernel::rng::mix64(seed ^ u64::from(byte)));
    let settings = Settings { seed, budget: Some(u64::from(bench.trials)), ..Settings::default() };
    let study = Study::new(space.clone(), &SamplerSpec::CmaEs(CmaEs::default()), settings);
    let mut study = study.map_err(|problems| Failure::stage("fidelity::fit", problems.join("; ")))?;
    let mut judged: Vec<(Vec<Value>, f64)> = Vec::new();
    while study.told() < u64::from(bench.trials) {
        if bench.stopped() {
            return Err(Failure::interrupted());
        }
        let left = (bench.trials as usize - study.told() as usize).min(BATCH);
        let asked = study.ask(left, &NoRules);
        if asked.is_empty() {
            break;
        }
        let errors: Result<Vec<Option<f64>>> =
            bench.cx.pool.install(|| asked.par_iter().map(|s| error(&s.values)).collect());
        for (suggestion, error) in asked.into_iter().zip(errors?) {
            let error = error.filter(|e| e.is_finite());
            let outcome = Outcome::from(error.map(|e| vec![e]));
            study.tell(Trial { number: suggestion.number, values: suggestion.values.clone(), outcome });
            judged.extend(error.map(|e| (suggestion.values, e)));
        }
    }
    // Of equals the first.
    Ok(judged.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)))
}
