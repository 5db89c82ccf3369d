//! What decides a report: everything that is written, with the facts of the models and GPUs that it names.

use indexmap::IndexMap;
use pipe_kernel::SIM_VERSION;
use serde_json::{Value, json};

use super::trial::server;
use crate::catalog::{self, Catalog};
use crate::spec::{Aim, Candidate, Fidelity, MeasuredConfigurations, MeasuredRun, MeasuredSteps, Text, Tree};
use crate::stage::CheckCx;
use crate::stage::simulate::scenario::resolve;

pub(super) fn of(spec: &Fidelity, cx: &CheckCx) -> Value {
    let Fidelity { runs, steps, configurations, published, trials, seed } = spec;
    let catalog = catalog::load(cx.project).ok();
    // The rows of a table name models, and so any of them may be used.
    let any = catalog.as_ref().filter(|_| !configurations.is_empty());
    json!({
        "runs": runs.iter().map(|(name, r)| run(name, r, catalog.as_ref())).collect::<Vec<_>>(),
        "steps": steps.iter().map(|(name, s)| of_steps(name, s, catalog.as_ref())).collect::<Vec<_>>(),
        "configurations": configurations.iter().map(table).collect::<Vec<_>>(),
        "facts": any.map(|c| json!({ "models": c.models, "gpus": c.gpus, "fitted": c.fitted })),
        "published": published.as_ref().map(|p| &p.written),
        "trials": trials,
        "seed": seed.unwrap_or(cx.seed),
        "sim_version": SIM_VERSION,
    })
}

fn run(name: &Text, run: &MeasuredRun, catalog: Option<&Catalog>) -> Value {
    let MeasuredRun { requests, deployment, models, idle_s, aims } = run;
    json!({
        "name": name.value,
        "requests": requests.0.value,
        "deployment": deployment.to_json(),
        "models": candidates(models),
        "facts": facts(deployment, models, catalog),
        "idle_s": idle_s,
        "aims": aims.iter().map(aim).collect::<Vec<_>>(),
    })
}

fn of_steps(name: &Text, steps: &MeasuredSteps, catalog: Option<&Catalog>) -> Value {
    let MeasuredSteps { profile, deployment, models, aims } = steps;
    json!({
        "name": name.value,
        "profile": profile.0.value,
        "deployment": deployment.to_json(),
        "models": candidates(models),
        "facts": facts(deployment, models, catalog),
        "aims": aims.iter().map(aim).collect::<Vec<_>>(),
    })
}

fn table((name, table): (&Text, &MeasuredConfigurations)) -> Value {
    let MeasuredConfigurations { path, only, systems, deployment, client, aims } = table;
    let system = |(name, s): (&Text, &crate::spec::System)| json!({ "name": name.value, "gpu": s.gpu.value, "models": candidates(&s.models) });
    json!({
        "name": name.value,
        // Which table it is: the files of a recipe only say that they are read.
        "path": path.written,
        "only": only,
        "systems": systems.iter().map(system).collect::<Vec<_>>(),
        "deployment": deployment.as_ref().map(Tree::to_json),
        "client": client,
        "aims": aims.iter().map(aim).collect::<Vec<_>>(),
    })
}

fn candidates(models: &IndexMap<Text, Candidate>) -> Vec<Value> {
    let one = |(name, candidate): (&Text, &Candidate)| {
        let Candidate { latency, overheads, fit } = candidate;
        json!({
            "name": name.value,
            "latency": latency.to_json(),
            "overheads": overheads.as_ref().map(Tree::to_json),
            "fit": fit.iter().map(|(path, bounds)| json!([path.value, bounds])).collect::<Vec<_>>(),
        })
    };
    models.iter().map(one).collect()
}

/// What the names of a server stand for; coefficients that were fitted to it among them.
fn facts(deployment: &Tree, models: &IndexMap<Text, Candidate>, catalog: Option<&Catalog>) -> Vec<Value> {
    let of = |candidate: &Candidate| {
        let scenario = resolve(&server(deployment, candidate, 0), catalog?).ok()?;
        Some(json!([scenario.model, scenario.gpu, scenario.pools, scenario.supplied]))
    };
    models.values().map(|candidate| of(candidate).into()).collect()
}

fn aim(aim: &Aim) -> Value {
    let Aim { model, metric, figure, fitted, max_pct, why } = aim;
    json!([model.value, metric, figure, fitted, max_pct, why])
}
