//! Published coefficients of the linear latency model, by model, GPU, tensor-parallel size and version of vLLM.
//!
//! `step = beta0 + beta1 * prefill tokens + beta2 * decode tokens`, `alpha0 + alpha1 * input tokens` before the queue, and
//! `alpha2` after every token; all in microseconds. A project adds sets of its own in `data/catalog/latency.yaml`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use pipe_kernel::scenario::{Deployment, Dtype};
use pipe_kernel::sim::latency::{Linear, TimeUnit};

use super::Catalog;
use crate::diag::{Diagnostic, Result};

/// Sets of one source, by model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    source: String,
    date: String,
    sets: IndexMap<String, Vec<Coefficients>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Coefficients {
    gpu: String,
    tp: u32,
    vllm: String,
    /// Format of the weights, where the model brings its own.
    #[serde(default = "bf16")]
    weights: String,
    alpha: [f64; 3],
    beta: [f64; 3],
    loss: Option<f64>,
}

fn bf16() -> String {
    "bf16".to_string()
}

/// Coefficients, and what they were fitted to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FittedSet {
    /// Name of the model in the catalog.
    pub model: String,
    /// Name of the GPU in the catalog.
    pub gpu: String,
    pub tp: u32,
    /// Version of vLLM, such as `0.8.4`.
    pub vllm: String,
    /// Format of the weights: `bf16`, or what the model brings itself.
    pub weights: String,
    pub coefficients: Linear,
    /// What was left of the fit's objective, where that is known; only comparable within one source.
    pub loss: Option<f64>,
    pub source: String,
    pub date: String,
}

impl FittedSet {
    /// As in the column `latency_model`.
    pub fn name(&self) -> String {
        format!("fitted vllm {}", self.vllm)
    }
}

/// The sets of a file, under the names of the catalog.
///
/// # Errors
/// A model or GPU that the catalog lacks; a coefficient that is negative or no number.
pub(super) fn sets(groups: &[Group], file: &str, catalog: &Catalog) -> Result<Vec<FittedSet>> {
    let mut found = Vec::new();
    let wrong = |model: &str, what: String| Diagnostic::new("catalog::invalid", format!("{file}, `{model}`: {what}"));
    for group in groups {
        for (model, sets) in &group.sets {
            let (name, _) = catalog.model(model).map_err(|d| with_file(d, file))?;
            for set in sets {
                let (gpu, _) = catalog.gpu(&set.gpu).map_err(|d| with_file(d, file))?;
                let numbers = set.alpha.iter().chain(&set.beta);
                if numbers.clone().any(|x| !(x.is_finite() && *x >= 0.0)) || set.beta[0] == 0.0 || set.tp == 0 {
                    let what = "tp and beta[0] must be above 0, and all coefficients 0 or more (microseconds)";
                    return Err(wrong(model, what.to_string()).into());
                }
                found.push(FittedSet {
                    model: name.to_string(),
                    gpu: gpu.to_string(),
                    tp: set.tp,
                    vllm: set.vllm.trim_start_matches('v').to_string(),
                    weights: set.weights.clone(),
                    coefficients: Linear {
                        base_us: set.beta[0],
                        per_prefill_token_us: set.beta[1],
                        per_decode_token_us: set.beta[2],
                        queue_base_us: set.alpha[0],
                        queue_per_input_token_us: set.alpha[1],
                        per_output_token_us: set.alpha[2],
                        after_request_us: 0.0,
                        unit: TimeUnit::Us,
                    },
                    loss: set.loss,
                    source: group.source.clone(),
                    date: group.date.clone(),
                });
            }
        }
    }
    Ok(found)
}

fn with_file(d: Diagnostic, file: &str) -> Diagnostic {
    let message = format!("{file}: {}", d.message);
    Diagnostic { message, ..d }
}

impl Catalog {
    /// Sets of a model on any GPU, and those of the same model with weights of the deployment's format.
    pub fn fitted_for<'a, 'b>(&'a self, d: &'b Deployment) -> impl Iterator<Item = &'a FittedSet> + use<'a, 'b> {
        self.fitted_of(&d.model).filter(move |set| {
            let own = set.model == d.model;
            match d.dtype {
                // What the weights of such a model are, it says itself.
                Dtype::Bf16 => own,
                Dtype::Fp8 => set.weights == "fp8" || (own && set.weights != "bf16"),
            }
        })
    }

    /// Sets of a model, and of models that are the same but for their weights.
    pub fn fitted_of<'a, 'b>(&'a self, model: &'b str) -> impl Iterator<Item = &'a FittedSet> + use<'a, 'b> {
        let same = |set: &FittedSet| {
            let note = self.model_notes.get(&set.model);
            note.and_then(|n| n.same_as.as_deref()) == Some(model)
        };
        self.fitted.iter().filter(move |set| set.model == model || same(set))
    }

    /// The set for a deployment without pools: of the version of vLLM, or the newest; of several the one with the least
    /// loss. None holds for several pipeline stages, or for experts that ranks share.
    pub fn fitted(&self, d: &Deployment, vllm: Option<&str>) -> Option<&FittedSet> {
        if d.pp != 1 || (d.enable_expert_parallel && d.dp > 1) {
            return None;
        }
        let left = |set: &FittedSet| set.loss.unwrap_or(f64::INFINITY);
        let wanted = vllm.map(|v| v.trim_start_matches('v'));
        let there = self.fitted_for(d).filter(|s| s.gpu == d.gpu && s.tp == d.tp);
        let there = there.filter(|s| wanted.is_none_or(|v| s.vllm == v));
        // The last of equals: what a project adds goes before what is built in.
        there.max_by(|a, b| version(&a.vllm).cmp(&version(&b.vllm)).then(left(b).total_cmp(&left(a))))
    }
}

/// `0.10.1.1` is newer than `0.8.4`.
fn version(text: &str) -> Vec<u32> {
    text.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect()
}
