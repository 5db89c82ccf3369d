//! What latency models need beside settings and facts: published coefficients from the catalog, profiles from tables.

use pipe_kernel::pools::Site;
use pipe_kernel::profile::Supplied;
use pipe_kernel::scenario::{Deployment, Scenario};
use pipe_kernel::sim::latency::{Latency, Roofline};

use crate::catalog::Catalog;
use crate::catalog::latency::FittedSet;
use crate::diag::{Diagnostic, Span, nearest};

/// Settles what `auto` and `fitted` come to, for the deployment or each of its pools.
///
/// Returns what cannot be settled, each at the place that `place` knows for its path.
pub(super) fn latency(
    scenario: &mut Scenario,
    catalog: &Catalog,
    place: impl Fn(&str) -> Option<Span>,
) -> Vec<Diagnostic> {
    let mut problems: Vec<Diagnostic> = Vec::new();
    let d = &scenario.deployment;
    if d.pools.is_empty() {
        match settled(d, &scenario.supplied, catalog) {
            Ok(supplied) => scenario.supplied = supplied,
            Err(problem) => problems.push(problem.at(place("deployment.latency"))),
        }
        return problems;
    }
    for ((name, pool), facts) in d.pools.iter().zip(&mut scenario.pools) {
        match settled(&d.of_pool(pool), &facts.supplied, catalog) {
            Ok(supplied) => facts.supplied = supplied,
            Err(problem) => {
                let own = format!("deployment.pools.{name}.latency");
                let path = if pool.latency.is_some() { own.as_str() } else { "deployment.latency" };
                let problem = problem.at(place(path));
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    problems
}

/// What a deployment without pools is supplied with.
fn settled(d: &Deployment, known: &Supplied, catalog: &Catalog) -> Result<Supplied, Diagnostic> {
    let fitted = |set: &FittedSet| Supplied {
        latency: Some(Latency::Linear(set.coefficients)),
        picked: Some(set.name()),
        ..known.clone()
    };
    let roofline = || {
        let latency = Latency::Roofline(Roofline::default());
        Supplied { picked: Some(latency.name().to_string()), latency: Some(latency), ..known.clone() }
    };
    match &d.latency {
        Latency::Fitted(wanted) => match catalog.fitted(d, wanted.vllm_version.as_deref()) {
            Some(set) => Ok(fitted(set)),
            None => Err(none(d, wanted.vllm_version.as_deref(), catalog)),
        },
        // The order that `pipelines/fidelity.yaml` supports: a profile that fits, which is attached when it is read; then the
        // roofline. A line that was fitted to half of a run is further off the other half than the roofline as it is, so
        // published lines are for those who ask for them.
        Latency::Auto(_) => Ok(roofline()),
        Latency::Roofline(_)
        | Latency::SimpleRoofline
        | Latency::Operators(_)
        | Latency::Steps(_)
        | Latency::TrainedPhysics(_)
        | Latency::TrainedRoofline(_)
        | Latency::CrossModel(_)
        | Latency::Linear(_)
        | Latency::Regression(_)
        | Latency::Rates(_)
        | Latency::Constant(_) => Ok(known.clone()),
    }
}

/// There are no coefficients for a deployment; and what there is.
fn none(d: &Deployment, vllm: Option<&str>, catalog: &Catalog) -> Diagnostic {
    let version = vllm.map_or_else(String::new, |v| format!(" of vLLM {v}"));
    let stages = if d.pp > 1 { format!(" with pp {}", d.pp) } else { String::new() };
    let spread = if d.enable_expert_parallel && d.dp > 1 { " with shared experts" } else { "" };
    let dtype = format!("{:?}", d.dtype).to_lowercase();
    let message = format!(
        "no fitted coefficients{version} for `{}` in {dtype} on {} with tp {}{stages}{spread}",
        d.model, d.gpu, d.tp
    );
    let told = |set: &FittedSet| format!("{} tp {} (vLLM {})", set.gpu, set.tp, set.vllm);
    let mut there: Vec<String> = catalog.fitted_for(d).filter(|s| s.gpu == d.gpu).map(told).collect();
    if there.is_empty() {
        there = catalog.fitted_for(d).map(told).collect();
    }
    there.sort_unstable();
    there.dedup();
    let help = if there.is_empty() {
        let models = catalog.fitted.iter().map(|s| s.model.as_str());
        let near = nearest(&d.model, models).map_or_else(String::new, |m| format!(", but of `{m}`"));
        let gpu = &d.gpu;
        format!(
            "there are none of this model{near}; `pipe show gpu {gpu}` names those that have some; or write `latency: roofline`"
        )
    } else {
        format!("there are: {}; or write `latency: roofline`", there.join(", "))
    };
    Diagnostic::new("simulate::fitted", message).help(help)
}

/// The latency model of a pool, as in the column `latency_model`: what was picked, or what is written.
pub(super) fn name(site: &Site) -> String {
    if let Some(picked) = &site.supplied.picked {
        return picked.clone();
    }
    let latency = site.supplied.latency.as_ref().unwrap_or(&site.deployment.latency);
    match latency.profile() {
        Some(profile) => format!("{} {profile}", latency.name()),
        None => latency.name().to_string(),
    }
}

/// The same of a whole scenario: of pools that have different ones, all, in the order of the pools.
pub(super) fn names(scenario: &Scenario) -> String {
    let mut all: Vec<String> = Vec::new();
    for name in scenario.sites().iter().map(name) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(deployment: &str) -> Scenario {
        let catalog = catalog();
        let deployment: Deployment = serde_json::from_str(deployment).unwrap();
        let model = catalog.model(&deployment.model).unwrap().1.clone();
        let gpu = catalog.gpu(&deployment.gpu).unwrap().1.clone();
        let facts = pipe_kernel::pools::PoolFacts::new(&model, &gpu);
        Scenario {
            pools: deployment.pools.iter().map(|_| facts.clone()).collect(),
            deployment,
            model,
            gpu,
            supplied: Supplied::default(),
            workload: Default::default(),
            measure: Default::default(),
            seed: 1,
        }
    }

    fn catalog() -> Catalog {
        crate::catalog::load(std::path::Path::new("/nonexistent")).unwrap()
    }

    /// The names of what a deployment comes to, or what is wrong.
    fn of(deployment: &str) -> Result<String, String> {
        let mut s = scenario(deployment);
        let problems = latency(&mut s, &catalog(), |_| None);
        match problems.first() {
            None => Ok(names(&s)),
            Some(d) => Err(format!("{} | {}", d.message, d.help.clone().unwrap_or_default())),
        }
    }

    /// beta 0 of meta-llama/llama-3.1-8b-instruct on H100, tensor parallelism 2, vLLM 0.8.4.
    const LLAMA_TP2_US: f64 = 6910.4204798805;

    const LLAMA: &str = r#""model": "meta-llama/Llama-3.1-8B", "gpu": "h100-sxm""#;

    #[test]
    fn the_name_is_of_what_was_picked() {
        let name = |more: &str| of(&format!("{{{LLAMA}{more}}}")).unwrap();
        assert_eq!(name(""), "roofline");
        assert_eq!(name(r#", "latency": {"fitted": {}}"#), "fitted vllm 0.11.0");
        assert_eq!(name(r#", "latency": {"fitted": {}}, "tp": 2"#), "fitted vllm 0.8.4");
        assert_eq!(name(r#", "latency": "simple_roofline""#), "simple_roofline");
        assert_eq!(name(r#", "latency": {"operators": {"profile": "h100"}}"#), "operators h100");
        let pools = r#", "pools": {"a": {"tp": 2, "latency": {"fitted": {}}}, "b": {"tp": 8}, "c": {"tp": 2}}"#;
        assert_eq!(name(pools), "fitted vllm 0.8.4, roofline");
        // Coefficients of weights in BF16 say nothing of FP8.
        let fp8 = of(&format!(r#"{{{LLAMA}, "dtype": "fp8", "latency": {{"fitted": {{}}}}}}"#));
        assert!(fp8.is_err_and(|e| e.contains("in fp8 on h100-sxm")));
    }

    #[test]
    fn the_coefficients_are_those_of_the_set() {
        let mut s = scenario(&format!(r#"{{{LLAMA}, "latency": {{"fitted": {{}}}}, "tp": 2}}"#));
        assert_eq!(latency(&mut s, &catalog(), |_| None), []);
        let Some(Latency::Linear(linear)) = s.supplied.latency else { panic!() };
        // The one for H100, not that for A100.
        assert_eq!(linear.base_us, LLAMA_TP2_US);
        let of_llama = |f: &FittedSet| (f.model.as_str(), f.tp) == ("meta-llama/Llama-3.1-8B", 2);
        assert_eq!(catalog().fitted.iter().filter(|f| of_llama(f)).count(), 2);
        // Of equal models in FP8, those of the one whose weights are.
        let phi = r#"{"model": "microsoft/phi-4", "gpu": "h100-sxm", "dtype": "fp8", "latency": {"fitted": {}}}"#;
        let mut s = scenario(phi);
        assert_eq!(latency(&mut s, &catalog(), |_| None), []);
        let best =
            |f: &FittedSet| (f.model.as_str(), f.tp, f.loss) == ("RedHatAI/phi-4-FP8-dynamic", 1, Some(198.5839129753));
        let catalog = catalog();
        let set = catalog.fitted.iter().find(|f| best(f)).unwrap();
        assert_eq!(s.supplied.latency, Some(Latency::Linear(set.coefficients)));
    }

    #[test]
    fn where_there_are_none_it_says_what_there_is() {
        let wrong = |more: &str| of(&format!("{{{more}}}")).unwrap_err();
        let fitted = r#", "latency": {"fitted": {}}"#;
        assert_eq!(
            wrong(&format!(r#"{LLAMA}, "tp": 8{fitted}"#)),
            "no fitted coefficients for `meta-llama/Llama-3.1-8B` in bf16 on h100-sxm with tp 8 | there are: h100-sxm tp 1 \
             (vLLM 0.11.0), h100-sxm tp 2 (vLLM 0.8.4), h100-sxm tp 4 (vLLM 0.8.4); or write `latency: roofline`"
        );
        let l4 = wrong(&format!(r#""model": "meta-llama/Llama-3.1-8B", "gpu": "l4"{fitted}"#));
        assert!(l4.contains("a100-80-sxm tp 1 (vLLM 0.8.4)"), "{l4}");
        let none = wrong(&format!(r#""model": "microsoft/phi-2", "gpu": "h100-sxm"{fitted}"#));
        assert!(
            none.contains("there are none of this model, but of `microsoft/phi-4`; `pipe show gpu h100-sxm`"),
            "{none}"
        );
        let old = wrong(&format!(r#"{LLAMA}, "latency": {{"fitted": {{"vllm_version": "0.8.4"}}}}"#));
        assert!(old.starts_with("no fitted coefficients of vLLM 0.8.4 for"), "{old}");
    }
}
