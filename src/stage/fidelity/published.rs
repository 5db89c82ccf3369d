//! Errors that others published of their simulators, as they stand in a file.

use serde_json::Value;

use super::figures::{Published, Report};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::FilePath;

/// Reads `{experiments: {name: {metadata: {...}, simulators: {name: {<metric>_mpe: percent}}}}}`.
///
/// # Errors
/// A file that is not so.
pub(super) fn read(file: &FilePath, report: &mut Report) -> Result<()> {
    let wrong = |what: String| -> Failure {
        Diagnostic::new("fidelity::published", format!("{}: {what}", file.path.display())).at(file.at.clone()).into()
    };
    let text = std::fs::read_to_string(&file.path).map_err(|e| wrong(e.to_string()))?;
    let all: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let experiments = all.get("experiments").and_then(Value::as_object);
    let experiments = experiments.ok_or_else(|| wrong("it has no object `experiments`".to_string()))?;
    let mut found = Vec::new();
    for (name, experiment) in experiments {
        let about = |key: &str| match experiment.pointer(&format!("/metadata/{key}")) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let simulators = experiment.get("simulators").and_then(Value::as_object);
        for (simulator, errors) in simulators.into_iter().flatten() {
            for (metric, error) in errors.as_object().into_iter().flatten() {
                let (Some(metric), Some(error_pct)) = (metric.strip_suffix("_mpe"), error.as_f64()) else { continue };
                found.push(Published {
                    experiment: name.clone(),
                    model: about("model"),
                    workload: about("workload"),
                    hardware: about("hardware"),
                    tp: about("tp").parse().ok(),
                    simulator: simulator.clone(),
                    metric: metric.to_string(),
                    error_pct,
                });
            }
        }
    }
    if found.is_empty() {
        return Err(wrong("it has no errors".to_string()));
    }
    report.published.extend(found);
    Ok(())
}
