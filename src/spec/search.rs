//! The settings of `search`: how much load a configuration carries, or how little of it carries a load.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use pipe_kernel::scenario::{Load, Measure};

use super::{AnyDeployment, Ref, Rule, Simulate, Sweep, Text, Tree};

/// Find, for every configuration and every SLO, the highest load that meets the SLO, or the fewest replicas.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The `simulate` stage whose settings are searched; its sweep gives the configurations, unless there is one here.
    /// This, or `requests` and `deployment`.
    #[serde(default)]
    pub over: Option<Ref>,
    /// A table of requests, as in `simulate`.
    #[serde(default)]
    pub requests: Option<Ref>,
    /// What is operated, as in `simulate`.
    #[serde(default)]
    #[schemars(with = "Option<AnyDeployment>")]
    pub deployment: Option<Tree>,
    /// How the requests arrive, as in `simulate`. With `horizon_s` no simulation goes beyond that time; what is not done by
    /// then misses its limits.
    #[serde(default)]
    #[schemars(with = "Option<Load>")]
    pub workload: Option<Tree>,
    /// Which requests count, as in `simulate`.
    #[serde(default)]
    #[schemars(with = "Option<Measure>")]
    pub measure: Option<Tree>,
    /// Seed of the simulations. All configurations and probes share it, so that they differ in nothing but what is
    /// searched. Default: that of the pipeline.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The configurations, each searched on its own.
    #[serde(default)]
    pub sweep: Option<Sweep>,
    /// What is looked for.
    pub find: Find,
    /// Service-level objectives, each searched on its own. What simulations of one tell, the others learn from.
    pub slos: Vec<Rule>,
    /// Simulations of a probe, with seeds of their own. From 2 on, a probe passes where the SLO's margin is above zero with
    /// `confidence`, by Student's t over the replications.
    #[serde(default = "one")]
    pub replications: u32,
    /// One-sided confidence that a load that passes meets the SLO; only with `replications`.
    #[serde(default = "confidence")]
    pub confidence: f64,
    /// What makes a configuration the best of those of one SLO. Default: `usd_per_hour` or `qps_per_usd` where `prices` has
    /// the price of every GPU, else `gpus` or `qps_per_gpu`.
    #[serde(default)]
    pub rank: Option<Rank>,
    /// Stop searching configurations that cannot become the best any more: the lowest load at which one failed, or, for limits
    /// on `ttft` and `e2e` and with the roofline as latency model, the load that its GPUs could carry at the peak of their
    /// arithmetic, is worth less than a load at which another passed. They are reported as `dropped`. What promises most is
    /// searched first.
    #[serde(default)]
    pub drop_hopeless: bool,
    /// US dollars of a GPU per hour: the GPU's name in the catalog -> price. `pipe show prices` has some, with dates.
    #[serde(default)]
    pub prices: IndexMap<Text, f64>,
}

fn one() -> u32 {
    1
}

fn confidence() -> f64 {
    0.95
}

/// What is looked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// The highest load, in requests per second.
    Qps(FindQps),
    /// The fewest replicas.
    Replicas(FindReplicas),
    /// Nothing: every load of a list is simulated, and judged.
    IsoQps(IsoQps),
}

/// The highest load at which the SLO is met.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FindQps {
    /// The setting that is the load.
    pub path: Text,
    /// The first load that is tried; then it is doubled or halved until one passes and one fails.
    pub start: f64,
    /// The lowest load that is tried.
    pub min: f64,
    /// The highest load that is tried.
    pub max: f64,
    /// Loads between the highest that passes and the lowest that fails are tried until these differ by at most this share
    /// of the latter.
    pub tolerance: f64,
}

impl Default for FindQps {
    fn default() -> Self {
        FindQps {
            path: Text::new("workload.rate_rps".to_string(), None),
            start: 1.0,
            min: 0.01,
            max: 1e6,
            tolerance: 0.02,
        }
    }
}

/// The fewest replicas with which the SLO is met.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FindReplicas {
    /// The setting that is the number of replicas, such as that of a pool.
    pub path: Text,
    /// The first number that is tried; then it is doubled or halved until one passes and one fails.
    pub start: u32,
    pub min: u32,
    pub max: u32,
}

impl Default for FindReplicas {
    fn default() -> Self {
        FindReplicas { path: Text::new("deployment.replicas".to_string(), None), start: 1, min: 1, max: 1024 }
    }
}

/// Loads that are compared as they are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IsoQps {
    /// The setting that is the load. Default: `workload.rate_rps`.
    #[serde(default = "rate")]
    pub path: Text,
    /// The load, in requests per second.
    pub qps: f64,
    /// What it is multiplied with. Default: 1.
    #[serde(default = "once")]
    pub multipliers: Vec<f64>,
}

fn rate() -> Text {
    FindQps::default().path
}

fn once() -> Vec<f64> {
    vec![1.0]
}

/// What makes one configuration better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// The highest load.
    Qps,
    /// The highest load per GPU.
    QpsPerGpu,
    /// The highest load per dollar and hour.
    QpsPerUsd,
    /// The fewest replicas.
    Replicas,
    /// The fewest GPUs.
    Gpus,
    /// The lowest price.
    UsdPerHour,
}

impl Search {
    /// What is simulated, as the stage says by itself or another one does; `None` where neither does.
    pub fn simulation(&self, over: Option<&Simulate>) -> Option<Simulate> {
        let own = || {
            Some(Simulate {
                requests: self.requests.clone(),
                deployment: self.deployment.clone()?,
                workload: None,
                measure: None,
                seed: None,
                sweep: None,
                calibration: None,
                steps: false,
                routes: false,
            })
        };
        let mut base = over.cloned().or_else(own)?;
        base.workload = self.workload.clone().or(base.workload);
        base.measure = self.measure.clone().or(base.measure);
        base.seed = self.seed.or(base.seed);
        base.sweep = self.sweep.clone().or(base.sweep);
        (base.steps, base.routes) = (false, false);
        Some(base)
    }
}
