//! The configuration explorer's file of Vidur, as it is, as a pipeline.
//!
//! Vidur (github.com/microsoft/vidur, `vidur/config_optimizer/config_explorer`, the version with routing policies) searches
//! the product of clusters, routers, queues, schedulers, TP, PP and batch sizes for every entry of `search_configs` and
//! every SLO. Here every trace is a stage `ingest`, every entry (and queue) a stage `search`, and two queries gather the
//! answers: `capacity` has them all, `best` the best of each trace, model and SLO.
//!
//! | there | here |
//! |---|---|
//! | `clusters` | `deployment.gpu` (`h100`: h100-sxm, `a100`: a100-80-sxm); TP is at most `gpus_per_node`; networks of `network_device` are those of the GPU |
//! | `global_schedulers` | `deployment.router`, with `top_k` and `tolerance_factor`; with one replica, `round_robin` alone |
//! | `request_queues` | `fcfs`; `edf`, with deadlines of `slo_prefill_e2e_time_normalized` seconds per prompt token |
//! | `replica_schedulers` | `vllm_v1`, `sarathi` (`chunk_size`), `vllm` (`vllm_v0`), `orca`, `faster_transformer` |
//! | `batch_sizes` | times PP, requests that run at once |
//! | `slo_configs` | rules: a `fraction` of the requests meets all limits (`and`) or one (`or`); those that are not served do not |
//! | `traces` | `trace_file`: beside the file, else in the working directory; `max_seq_len`: `max_model_len`, also beyond the model's |
//! | `models` | `identifier`; `exclude_tp_dims` |
//! | `search_configs` | `search_for: qps`, `num_replicas` or `isoqps`; `num_requests`: `workload.max_requests`; Poisson arrivals |
//!
//! Beside these keys the file may have `name`, `description`, `seed` and `params`, as any pipeline; `search`, with further
//! settings of its searches (`prices`, `drop_hopeless`, `replications`, ...), and `deployment`, with further settings of all
//! its configurations (`latency`, `kv`, ...).

use std::path::Path;

use serde::Deserialize;

use super::problems::from_tree;
use super::{Text, Tree, TreeValue};
use crate::diag::{Diagnostic, Span};

/// Keys that only such a file has.
const KEYS: [&str; 3] = ["search_configs", "global_schedulers", "replica_schedulers"];
/// Keys of every pipeline.
const OF_PIPELINES: [&str; 3] = ["name", "description", "seed"];
/// Columns that answers of all searches have.
const COLUMNS: &str = "deployment_gpu AS gpu, deployment_tp AS tp, deployment_pp AS pp, deployment_router AS router, \
    deployment_scheduler AS scheduler, configuration_id, slo, state, value, qps, gpus, usd_per_hour, qps_per_gpu, \
    qps_per_usd, margin, rank, values_tried, contradictions, reason, ttft_ms_p50, ttft_ms_p99, tpot_ms_p50, tpot_ms_p99, \
    e2e_ms_p50, e2e_ms_p99, output_tps, prefix_hit_rate, kv_usage_mean";

type Entries = Vec<(Text, Tree)>;

/// Whether a file without `stages` is meant for the explorer.
pub(super) fn is_one(entries: &[(Text, Tree)]) -> bool {
    entries.iter().any(|(key, _)| KEYS.contains(&key.value.as_str()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explorer {
    clusters: Vec<Cluster>,
    global_schedulers: Vec<Router>,
    #[serde(default = "fcfs")]
    request_queues: Vec<Queue>,
    replica_schedulers: Vec<Scheduler>,
    slo_configs: Vec<Slo>,
    traces: Vec<Trace>,
    batch_sizes: Vec<i64>,
    tp_dimensions: Vec<i64>,
    pp_dimensions: Vec<i64>,
    models: Vec<Model>,
    search_configs: Vec<Wanted>,
    #[serde(default)]
    search: Option<Tree>,
    #[serde(default)]
    deployment: Option<Tree>,
}

fn fcfs() -> Vec<Queue> {
    let name = || Text::new("fcfs".to_string(), None);
    vec![Queue { name: name(), provider: name(), slo_prefill_e2e_time_normalized: None }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    device: Text,
    #[serde(default, rename = "network_device")]
    _network_device: Option<Text>,
    #[serde(default)]
    gpus_per_node: Option<i64>,
    #[serde(default, rename = "num_gpus")]
    _num_gpus: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Router {
    scheduler: Text,
    #[serde(default)]
    top_k: Option<i64>,
    #[serde(default)]
    tolerance_factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    name: Text,
    provider: Text,
    #[serde(default)]
    slo_prefill_e2e_time_normalized: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scheduler {
    scheduler: Text,
    #[serde(default)]
    chunk_size: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slo {
    name: Text,
    #[serde(rename = "type")]
    join: Text,
    quantile: f64,
    slos: Vec<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    metric: Text,
    value: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    name: Text,
    trace_file: Tree,
    #[serde(default)]
    max_seq_len: Option<i64>,
    #[serde(default = "yes")]
    enable_prefix_caching: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: Text,
    identifier: Tree,
    #[serde(default)]
    exclude_tp_dims: Vec<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    trace: Text,
    model: Text,
    search_for: Text,
    num_requests: i64,
    num_replicas: i64,
    qps: f64,
    #[serde(default)]
    qps_multipliers: Vec<f64>,
}

/// Name, description and seed, and the stages, of the pipeline that an explorer's file stands for.
///
/// # Errors
/// Unknown keys, wrong types, names that nothing has, each at its place.
pub(super) fn pipeline(
    entries: Entries,
    file: &Path,
    at: Option<&Span>,
) -> Result<(Entries, Entries), Vec<Diagnostic>> {
    let (mut rest, own): (Entries, Entries) =
        entries.into_iter().partition(|(key, _)| OF_PIPELINES.contains(&key.value.as_str()));
    let explorer: Explorer = from_tree(&Tree::new(TreeValue::Map(own), at.cloned()))?;
    if !rest.iter().any(|(key, _)| key.value == "name") {
        let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or("config_explorer");
        rest.push(entry("name", text(&identifier(stem))));
    }
    let stages = explorer.stages()?;
    Ok((rest, stages))
}

impl Explorer {
    fn stages(&self) -> Result<Entries, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut traces: Entries = Vec::new();
        let mut searches: Entries = Vec::new();
        let mut union = Vec::new();
        for wanted in &self.search_configs {
            let found = (self.trace(wanted), self.model(wanted), self.slos());
            let (trace, model, slos) = match found {
                (Ok(trace), Ok(model), Ok(slos)) => (trace, model, slos),
                (trace, model, slos) => {
                    problems.extend(trace.err().into_iter().chain(model.err()));
                    problems.extend(slos.err().unwrap_or_default());
                    continue;
                }
            };
            let trace_stage = identifier(&trace.name.value);
            if !traces.iter().any(|(key, _)| key.value == trace_stage) {
                traces.push((
                    Text::new(trace_stage.clone(), trace.name.at.clone()),
                    map(vec![entry("ingest", map(vec![entry("path", located(&trace.trace_file))]))]),
                ));
            }
            for queue in &self.request_queues {
                let requests = match queue.slo_prefill_e2e_time_normalized {
                    Some(seconds) if queue.provider.value == "edf" => {
                        let name = format!("{trace_stage}_{}", identifier(&queue.name.value));
                        let query = format!(
                            "SELECT *, CAST(input_tokens * {seconds:?} * 1e9 AS BIGINT) AS deadline_ns FROM {trace_stage}"
                        );
                        if !traces.iter().any(|(key, _)| key.value == name) {
                            let stage = map(vec![entry("sql", map(vec![entry("query", text(&query))]))]);
                            traces.push((Text::new(name.clone(), queue.name.at.clone()), stage));
                        }
                        name
                    }
                    _ => trace_stage.clone(),
                };
                let mut name = format!("{trace_stage}_{}_{}", identifier(&model.name.value), wanted.search_for.value);
                if self.request_queues.len() > 1 {
                    name = format!("{name}_{}", identifier(&queue.name.value));
                }
                while searches.iter().any(|(key, _)| key.value == name) {
                    name.push_str("_again");
                }
                match self.search(wanted, trace, model, queue, &requests, &slos) {
                    Ok(search) => {
                        union.push(format!(
                            "SELECT '{}' AS trace, '{}' AS model, '{}' AS search_for, '{}' AS queue, {COLUMNS} FROM {name}",
                            quoted(&trace.name.value),
                            quoted(&model.name.value),
                            quoted(&wanted.search_for.value),
                            quoted(&queue.name.value),
                        ));
                        searches.push((Text::new(name, wanted.trace.at.clone()), map(vec![entry("search", search)])));
                    }
                    Err(found) => problems.extend(found),
                }
            }
        }
        if !problems.is_empty() {
            problems.sort_by(|a, b| a.at.cmp(&b.at));
            problems.dedup();
            return Err(problems);
        }
        let sql = |query: &str| map(vec![entry("sql", map(vec![entry("query", text(query))]))]);
        let mut stages = traces;
        stages.extend(searches);
        let all = union.join("\nUNION ALL\n");
        let order = "trace, model, search_for, queue, slo, configuration_id, value";
        stages.push(entry("capacity", sql(&format!("SELECT * FROM (\n{all}\n)\nORDER BY {order}"))));
        stages.push(entry(
            "best",
            sql(
                "SELECT * FROM capacity WHERE rank = 1 ORDER BY trace, model, search_for, slo, queue, configuration_id",
            ),
        ));
        Ok(stages)
    }

    fn trace(&self, wanted: &Wanted) -> Result<&Trace, Diagnostic> {
        let names = || self.traces.iter().map(|t| t.name.value.as_str());
        self.traces
            .iter()
            .find(|t| t.name.value == wanted.trace.value)
            .ok_or_else(|| unknown("trace", &wanted.trace, names()))
    }

    fn model(&self, wanted: &Wanted) -> Result<&Model, Diagnostic> {
        let names = || self.models.iter().map(|m| m.name.value.as_str());
        self.models
            .iter()
            .find(|m| m.name.value == wanted.model.value)
            .ok_or_else(|| unknown("model", &wanted.model, names()))
    }

    fn slos(&self) -> Result<Tree, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let rules = self
            .slo_configs
            .iter()
            .map(|slo| {
                let join = match slo.join.value.as_str() {
                    "and" => "all",
                    "or" => "any",
                    _ => {
                        problems.push(unknown("type", &slo.join, ["and", "or"].into_iter()));
                        "all"
                    }
                };
                let limit = |l: &Limit| {
                    map(vec![("metric", name(&l.metric)), ("max", float(l.value))].into_iter().map(named).collect())
                };
                map(vec![
                    entry("name", name(&slo.name)),
                    entry("fraction", float(slo.quantile)),
                    entry(join, list(slo.slos.iter().map(limit).collect())),
                ])
            })
            .collect();
        if problems.is_empty() { Ok(list(rules)) } else { Err(problems) }
    }

    fn search(
        &self,
        wanted: &Wanted,
        trace: &Trace,
        model: &Model,
        queue: &Queue,
        requests: &str,
        slos: &Tree,
    ) -> Result<Tree, Vec<Diagnostic>> {
        let mut workload = vec![entry("arrivals", text("poisson")), entry("max_requests", int(wanted.num_requests))];
        let mut deployment = vec![
            entry("model", model.identifier.clone()),
            entry(
                "kv",
                map(vec![entry(
                    "enable_prefix_caching",
                    Tree::new(TreeValue::Bool(trace.enable_prefix_caching), None),
                )]),
            ),
        ];
        if let Some(len) = trace.max_seq_len {
            deployment.push(entry("max_model_len", int(len)));
            deployment.push(entry("allow_long_max_model_len", Tree::new(TreeValue::Bool(true), None)));
        }
        let replicas = entry("replicas", int(wanted.num_replicas));
        let find = match wanted.search_for.value.as_str() {
            "qps" => {
                deployment.push(replicas);
                // As in Vidur: down to 0.1 requests per second, and to a hundredth of the border.
                let range = map(vec![
                    entry("start", float(wanted.qps)),
                    entry("min", float(wanted.qps.min(0.1))),
                    entry("tolerance", float(0.01)),
                ]);
                map(vec![entry("qps", range)])
            }
            "num_replicas" => {
                workload.push(entry("rate_rps", float(wanted.qps)));
                map(vec![entry("replicas", map(vec![entry("start", int(wanted.num_replicas))]))])
            }
            "isoqps" => {
                deployment.push(replicas);
                let multipliers = list(wanted.qps_multipliers.iter().map(|by| float(*by)).collect());
                map(vec![entry(
                    "iso_qps",
                    map(vec![entry("qps", float(wanted.qps)), entry("multipliers", multipliers)]),
                )])
            }
            _ => {
                return Err(vec![unknown(
                    "search_for",
                    &wanted.search_for,
                    ["qps", "num_replicas", "isoqps"].into_iter(),
                )]);
            }
        };
        let mut deployment = map(deployment);
        for (key, value) in self.deployment.iter().flat_map(entries) {
            deployment.set_path(&key.value, value.clone());
        }
        let mut search = vec![
            entry("requests", text(requests)),
            entry("deployment", deployment),
            entry("workload", map(workload)),
            entry("sweep", map(vec![entry("list", list(self.items(wanted, trace, model, queue)?))])),
            entry("find", find),
            entry("slos", slos.clone()),
        ];
        search.extend(self.search.iter().flat_map(entries).cloned());
        Ok(map(search))
    }

    /// The configurations of a search.
    fn items(
        &self,
        wanted: &Wanted,
        trace: &Trace,
        model: &Model,
        queue: &Queue,
    ) -> Result<Vec<Tree>, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        if !["fcfs", "edf"].contains(&queue.provider.value.as_str()) {
            problems.push(unknown("provider", &queue.provider, ["fcfs", "edf"].into_iter()));
        }
        let mut items = Vec::new();
        for cluster in &self.clusters {
            for router in &self.global_schedulers {
                // One replica needs no choice.
                let alone = wanted.search_for.value == "qps" && wanted.num_replicas == 1;
                if alone && router.scheduler.value != "round_robin" {
                    continue;
                }
                for scheduler in &self.replica_schedulers {
                    for tp in self.tp_dimensions.iter().filter(|tp| !model.exclude_tp_dims.contains(tp)) {
                        if cluster.gpus_per_node.is_some_and(|most| *tp > most) {
                            continue;
                        }
                        for pp in &self.pp_dimensions {
                            for batch in &self.batch_sizes {
                                let settings = match scheduler.settings(batch * pp, &queue.provider.value, trace) {
                                    Ok(settings) => settings,
                                    Err(d) => {
                                        problems.push(d);
                                        continue;
                                    }
                                };
                                items.push(map(vec![
                                    entry(
                                        "deployment.gpu",
                                        Tree::new(
                                            TreeValue::String(gpu(&cluster.device.value).to_string()),
                                            cluster.device.at.clone(),
                                        ),
                                    ),
                                    entry("deployment.router", router.setting()),
                                    entry("deployment.scheduler", settings),
                                    entry("deployment.tp", int(*tp)),
                                    entry("deployment.pp", int(*pp)),
                                ]));
                            }
                        }
                    }
                }
            }
        }
        if items.is_empty() && problems.is_empty() {
            let message = format!("no configuration is left for `{}` on `{}`", model.name.value, trace.name.value);
            let help = "look at `exclude_tp_dims`, `gpus_per_node`, and the routers for one replica (`round_robin`)";
            problems.push(Diagnostic::new("spec::explorer", message).at(wanted.model.at.clone()).help(help));
        }
        problems.sort_by(|a, b| a.at.cmp(&b.at));
        problems.dedup();
        if problems.is_empty() { Ok(items) } else { Err(problems) }
    }
}

impl Router {
    fn setting(&self) -> Tree {
        let parameters: Entries = self
            .top_k
            .map(|k| entry("top_k", int(k)))
            .into_iter()
            .chain(self.tolerance_factor.map(|x| entry("tolerance_factor", float(x))))
            .collect();
        match parameters.is_empty() {
            true => name(&self.scheduler),
            false => {
                Tree::new(TreeValue::Map(vec![(self.scheduler.clone(), map(parameters))]), self.scheduler.at.clone())
            }
        }
    }
}

impl Scheduler {
    /// With so many requests at once.
    fn settings(&self, batch: i64, provider: &str, trace: &Trace) -> Result<Tree, Diagnostic> {
        let chunk = |key: &str| {
            let missing = || {
                let message = format!("`{}` needs `chunk_size`", self.scheduler.value);
                Diagnostic::new("spec::explorer", message).at(self.scheduler.at.clone())
            };
            self.chunk_size.map(|n| entry(key, int(n))).ok_or_else(missing)
        };
        let cap = |key: &str| entry(key, int(batch));
        let (kind, settings) = match self.scheduler.value.as_str() {
            "vllm_v1" => {
                let policy = entry("scheduling_policy", text(provider));
                ("vllm_v1", vec![chunk("max_num_batched_tokens")?, cap("max_num_seqs"), policy])
            }
            "sarathi" => ("sarathi", vec![chunk("chunk_size")?, cap("batch_size_cap")]),
            "vllm" => {
                let tokens = trace.max_seq_len.map(|n| entry("max_num_batched_tokens", int(n)));
                ("vllm_v0", tokens.into_iter().chain([cap("max_num_seqs")]).collect())
            }
            "orca" => ("orca", vec![cap("batch_size_cap")]),
            "faster_transformer" => ("faster_transformer", vec![cap("batch_size_cap")]),
            _ => {
                let known = ["vllm_v1", "sarathi", "vllm", "orca", "faster_transformer"];
                return Err(unknown("scheduler", &self.scheduler, known.into_iter()));
            }
        };
        if provider == "edf" && kind != "vllm_v1" {
            let message = format!("`{}` has no queue `edf`", self.scheduler.value);
            return Err(Diagnostic::new("spec::explorer", message).at(self.scheduler.at.clone()));
        }
        Ok(Tree::new(TreeValue::Map(vec![entry(kind, map(settings))]), self.scheduler.at.clone()))
    }
}

/// Vidur's name of a device as one of the catalog.
fn gpu(device: &str) -> &str {
    match device {
        "h100" => "h100-sxm",
        "a100" => "a100-80-sxm",
        other => other,
    }
}

/// A path beside the file that it stands in, or else in the working directory, as Vidur has it.
fn located(path: &Tree) -> Tree {
    let Some(written) = path.as_str() else { return path.clone() };
    let beside = path.base().is_some_and(|base| base.join(written).exists());
    match std::env::current_dir() {
        Ok(here) if !beside && here.join(written).exists() => {
            Tree::new(TreeValue::String(here.join(written).display().to_string()), path.at.clone())
        }
        _ => path.clone(),
    }
}

fn unknown<'a>(what: &str, given: &Text, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let known: Vec<&str> = known.collect();
    let d = Diagnostic::new("spec::explorer", format!("there is no {what} `{}`", given.value)).at(given.at.clone());
    match crate::diag::nearest(&given.value, known.iter().copied()) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d.help(format!("known: {}", known.join(", "))),
    }
}

/// A name that SQL takes without quotes.
fn identifier(name: &str) -> String {
    let clean: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if clean.starts_with(|c: char| c.is_ascii_digit()) { format!("t_{clean}") } else { clean }
}

fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

fn entries(tree: &Tree) -> &[(Text, Tree)] {
    match &tree.value {
        TreeValue::Map(entries) => entries,
        _ => &[],
    }
}

fn entry(key: &str, value: Tree) -> (Text, Tree) {
    (Text::new(key.to_string(), value.at.clone()), value)
}

fn named((key, value): (&str, Tree)) -> (Text, Tree) {
    entry(key, value)
}

fn map(entries: Entries) -> Tree {
    let at = entries.first().and_then(|(_, value)| value.at.clone());
    Tree::new(TreeValue::Map(entries), at)
}

fn list(items: Vec<Tree>) -> Tree {
    let at = items.first().and_then(|item| item.at.clone());
    Tree::new(TreeValue::List(items), at)
}

fn text(text: &str) -> Tree {
    Tree::new(TreeValue::String(text.to_string()), None)
}

fn name(text: &Text) -> Tree {
    Tree::new(TreeValue::String(text.value.clone()), text.at.clone())
}

fn int(n: i64) -> Tree {
    Tree::new(TreeValue::Int(n), None)
}

fn float(x: f64) -> Tree {
    Tree::new(TreeValue::Float(x), None)
}
