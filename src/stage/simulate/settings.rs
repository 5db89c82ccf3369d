//! The settings of a scenario as paths and columns: what a sweep, a search or a condition can name.
//!
//! The list is derived from the types themselves, by way of their JSON Schema, so that a new field of the kernel is
//! swept, stored and searched without a line here. Order is that of the structs. A map whose keys the user chooses
//! (`workload.classes`, `deployment.pools`) stands in it as a pattern with [`ANY`] for the key; [`expanded`] has the keys
//! that are there.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use arrow::datatypes::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use pipe_kernel::scenario::{Deployment, Load, Measure};

use crate::diag::{Diagnostic, Span, nearest};
use crate::table::column;

/// What a user writes of a scenario; the rest is facts from the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub deployment: Deployment,
    #[serde(default)]
    pub workload: Load,
    #[serde(default)]
    pub measure: Measure,
    /// Seed of the scenario's random streams.
    pub seed: u64,
}

/// In the path of a pattern: any key.
const ANY: &str = "*";

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingKind {
    /// A map of settings; no column of its own.
    Group,
    /// One of several implementations; its column holds the name of the one chosen.
    Choice,
    Int,
    Float,
    Text,
    Bool,
}

/// One addressable setting.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Dotted path, e.g. `deployment.scheduler.vllm_v1.max_num_seqs`.
    pub path: String,
    pub kind: SettingKind,
    /// Without it there is no scenario.
    pub required: bool,
    pub description: String,
}

impl Setting {
    /// Name of its column, see [`column_name`].
    pub fn column(&self) -> String {
        column_name(&self.path)
    }

    pub fn data_type(&self) -> Option<DataType> {
        match self.kind {
            SettingKind::Group => None,
            SettingKind::Choice | SettingKind::Text => Some(DataType::Utf8),
            SettingKind::Int => Some(DataType::Int64),
            SettingKind::Float => Some(DataType::Float64),
            SettingKind::Bool => Some(DataType::Boolean),
        }
    }

    pub fn field(&self) -> Option<Field> {
        Some(column(&self.column(), self.data_type()?, true, "", &self.description))
    }

    /// The value in a configuration written as JSON; `None` where a choice was made that has no such setting.
    pub fn value<'a>(&self, config: &'a Value) -> Option<&'a Value> {
        self.path.split('.').try_fold(config, |v, segment| v.get(segment))
    }
}

/// Name of the column of the setting at `path`: the path with underscores, so that SQL takes it without quotes, and
/// without `workload`.
pub(crate) fn column_name(path: &str) -> String {
    path.strip_prefix("workload.").unwrap_or(path).replace(['.', '-'], "_")
}

/// Every setting, in the order of the structs, with patterns for maps whose keys the user chooses.
fn patterns() -> &'static [Setting] {
    static ALL: LazyLock<Vec<Setting>> = LazyLock::new(of_type::<Config>);
    &ALL
}

/// Every setting of a type, in the order of its fields.
pub(super) fn of_type<T: JsonSchema>() -> Vec<Setting> {
    let schema = schemars::schema_for!(T).to_value();
    let mut found = Vec::new();
    let walk = Walk { defs: schema.get("$defs").cloned().unwrap_or(Value::Null) };
    walk.properties(&schema, "", true, &mut found);
    found
}

/// Every setting, in the order of the structs; of maps whose keys the user chooses, those of the keys that one of the
/// configurations has or one of the paths goes through, in alphabetical order.
pub(crate) fn expanded<'a>(configs: &[Value], paths: impl IntoIterator<Item = &'a str>) -> Vec<Setting> {
    let paths: Vec<&str> = paths.into_iter().collect();
    let mut found: Vec<Setting> = Vec::new();
    let mut last_map = "";
    for pattern in patterns() {
        let Some((map, _)) = pattern.path.split_once(".*") else {
            found.push(pattern.clone());
            continue;
        };
        // All fields of one key, then those of the next.
        if map != last_map {
            last_map = map;
            let fields = || patterns().iter().filter(|p| p.path.split_once(".*").is_some_and(|(m, _)| m == map));
            found.extend(keys(map, configs, &paths).iter().flat_map(|key| fields().map(|f| f.with_key(key))));
        }
    }
    found
}

/// The keys of the map at a path.
fn keys(map: &str, configs: &[Value], paths: &[&str]) -> BTreeSet<String> {
    let pointer = format!("/{}", map.replace('.', "/"));
    let maps = configs.iter().filter_map(|c| c.pointer(&pointer)?.as_object());
    let named = paths.iter().filter_map(|p| p.strip_prefix(map)?.strip_prefix('.')?.split('.').next());
    // A key with a dot has no path.
    let written = maps.flat_map(|m| m.keys().map(String::as_str)).filter(|key| !key.contains('.'));
    written.chain(named).filter(|key| !key.is_empty()).map(str::to_string).collect()
}

impl Setting {
    /// The setting that a pattern stands for, for a key.
    fn with_key(&self, key: &str) -> Setting {
        let named = |segment: &str| if segment == ANY { key.to_string() } else { segment.to_string() };
        let path: Vec<String> = self.path.split('.').map(named).collect();
        Setting { path: path.join("."), ..self.clone() }
    }
}

/// The setting at `path`.
///
/// # Errors
/// No setting has that path; the diagnostic names the nearest.
pub(crate) fn at(path: &str, written: Option<&Span>) -> Result<Setting, Diagnostic> {
    find(&expanded(&[], [path]), path, written)
}

/// The one of these settings that has this path.
///
/// # Errors
/// As [`at`].
pub(super) fn find(all: &[Setting], path: &str, written: Option<&Span>) -> Result<Setting, Diagnostic> {
    if let Some(found) = all.iter().find(|s| s.path == path) {
        return Ok(found.clone());
    }
    let help = match nearest(path, all.iter().map(|s| s.path.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let parent = all.iter().rfind(|s| path.starts_with(&format!("{}.", s.path)));
            let prefix = parent.map_or(String::new(), |p| format!("{}.", p.path));
            let valid: Vec<&str> = all
                .iter()
                .map(|s| s.path.as_str())
                .filter(|p| p.strip_prefix(prefix.as_str()).is_some_and(|rest| !rest.contains('.')))
                .collect();
            match (valid.is_empty(), parent) {
                (true, Some(parent)) => format!("`{}` has no settings of its own", parent.path),
                _ => format!("valid are {}", valid.join(", ")),
            }
        }
    };
    let message = format!("no setting `{path}` in a scenario");
    Err(Diagnostic::new("simulate::unknown_path", message).at(written.cloned()).help(help))
}

/// A walk through a JSON Schema as schemars writes it for serde's types.
struct Walk {
    defs: Value,
}

impl Walk {
    /// Follows a reference, keeping the description that stands next to it.
    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        let name = node.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
        if let Some(target) = name.and_then(|n| self.defs.get(n)) {
            return self.resolve(target);
        }
        let optional = node.get("anyOf").and_then(Value::as_array);
        let inner = optional.and_then(|o| o.iter().find(|n| n.get("type").and_then(Value::as_str) != Some("null")));
        match inner {
            Some(inner) => self.resolve(inner),
            None => node,
        }
    }

    fn properties(&self, node: &Value, prefix: &str, required: bool, found: &mut Vec<Setting>) {
        let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
        let needed = node.get("required").and_then(Value::as_array);
        for (name, property) in properties {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let required = required && needed.is_some_and(|n| n.iter().any(|r| r == name));
            self.setting(property, path, required, found);
        }
    }

    fn setting(&self, property: &Value, path: String, required: bool, found: &mut Vec<Setting>) {
        let node = self.resolve(property);
        let choices = node.get("oneOf").and_then(Value::as_array);
        let any_key = node.get("additionalProperties").filter(|values| values.is_object());
        let kind = match choices {
            Some(_) => SettingKind::Choice,
            None if node.get("properties").is_some() || any_key.is_some() => SettingKind::Group,
            None => scalar(node),
        };
        let describe = |n: &Value| n.get("description").and_then(Value::as_str).map(first_sentence);
        let description = describe(property).or_else(|| describe(node)).unwrap_or_default();
        found.push(Setting { path: path.clone(), kind, required, description });
        for choice in choices.into_iter().flatten() {
            self.properties(choice, &path, false, found);
        }
        self.properties(node, &path, required, found);
        if let Some(values) = any_key {
            self.setting(values, format!("{path}.{ANY}"), false, found);
        }
    }
}

fn scalar(node: &Value) -> SettingKind {
    let kinds: Vec<&str> = match node.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    };
    match kinds.iter().find(|k| **k != "null") {
        Some(&"integer") => SettingKind::Int,
        Some(&"number") => SettingKind::Float,
        Some(&"boolean") => SettingKind::Bool,
        Some(_) | None => SettingKind::Text,
    }
}

fn first_sentence(text: &str) -> String {
    let line = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match line.split_once(". ") {
        Some((first, _)) => first.to_string(),
        None => line.trim_end_matches('.').to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_types_in_their_order() {
        let of = |path: &str| at(path, None).unwrap();
        let all = expanded(&[], []);
        assert_eq!(all[0].path, "deployment");
        assert_eq!(all[1].path, "deployment.model");
        assert!(all.iter().all(|s| !s.path.contains(ANY)));
        assert!(of("deployment.model").required);
        assert!(!of("deployment.tp").required);
        assert_eq!(of("deployment.scheduler").kind, SettingKind::Choice);
        assert_eq!(of("deployment.scheduler.vllm_v1").kind, SettingKind::Group);
        assert_eq!(of("deployment.scheduler.vllm_v1.max_num_seqs").kind, SettingKind::Int);
        assert_eq!(of("deployment.max_model_len").kind, SettingKind::Int);
        assert_eq!(of("workload.rate_rps").kind, SettingKind::Float);
        assert_eq!(of("workload.arrivals").kind, SettingKind::Choice);
        assert_eq!(of("workload.arrivals.gamma.cv").column(), "arrivals_gamma_cv");
        assert_eq!(of("deployment.kv.enable_prefix_caching").kind, SettingKind::Bool);
        assert_eq!(of("seed").kind, SettingKind::Int);
        assert_eq!(of("deployment.router").data_type(), Some(DataType::Utf8));
        assert_eq!(of("deployment.tick").kind, SettingKind::Text);
        assert_eq!(of("measure.warmup_s").kind, SettingKind::Float);
        assert_eq!(of("measure.cooldown_requests").column(), "measure_cooldown_requests");
    }

    #[test]
    fn classes_are_named_by_the_user() {
        let of = |path: &str| at(path, None).unwrap();
        let priority = of("workload.classes.chat.priority");
        assert_eq!((priority.kind, priority.column().as_str()), (SettingKind::Int, "classes_chat_priority"));
        assert_eq!(of("workload.classes.chat.timeout_s").kind, SettingKind::Float);
        assert_eq!(of("workload.classes.chat").kind, SettingKind::Group);
        assert_eq!(of("workload.classes").kind, SettingKind::Group);
        let config = serde_json::json!({ "workload": { "classes": { "b": {}, "a": { "priority": 3 }, "x.y": {} } } });
        let found = expanded(std::slice::from_ref(&config), ["workload.classes.c.priority", "deployment.tp"]);
        let columns: Vec<String> = found.iter().map(Setting::column).filter(|c| c.contains("_priority")).collect();
        assert_eq!(columns, ["classes_a_priority", "classes_b_priority", "classes_c_priority"]);
        let a = found.iter().position(|s| s.path == "workload.classes.a.beam_width").unwrap();
        assert_eq!(found[a + 1].path, "workload.classes.b");
        assert_eq!(of("workload.classes.a.priority").value(&config), Some(&3.into()));
    }

    #[test]
    fn pools_are_named_by_the_user_and_have_all_settings_of_their_fields() {
        let of = |path: &str| at(path, None).unwrap();
        let seats = of("deployment.pools.p-1.scheduler.vllm_v1.max_num_seqs");
        assert_eq!(
            (seats.kind, seats.column().as_str()),
            (SettingKind::Int, "deployment_pools_p_1_scheduler_vllm_v1_max_num_seqs")
        );
        for (path, kind) in [
            ("deployment.pools", SettingKind::Group),
            ("deployment.pools.p", SettingKind::Group),
            ("deployment.pools.p.role", SettingKind::Choice),
            ("deployment.pools.p.replicas", SettingKind::Int),
            ("deployment.pools.p.model", SettingKind::Text),
            ("deployment.pools.p.tp", SettingKind::Int),
            ("deployment.pools.p.enable_expert_parallel", SettingKind::Bool),
            ("deployment.pools.p.scheduler", SettingKind::Choice),
            ("deployment.pools.p.scheduler.vllm_v1", SettingKind::Group),
            ("deployment.pools.p.kv.block_size", SettingKind::Int),
            ("deployment.pools.p.latency.linear.base_us", SettingKind::Float),
            ("deployment.disaggregation.decider", SettingKind::Choice),
            ("deployment.disaggregation.decider.prompt_tokens.above", SettingKind::Int),
            ("deployment.disaggregation.decode_router.weighted.scorers.queue-depth", SettingKind::Float),
            ("deployment.disaggregation.transfer.contention", SettingKind::Choice),
            ("deployment.signals.refresh_ms", SettingKind::Float),
            ("workload.think_time.lognormal.cv", SettingKind::Float),
            ("workload.sessions", SettingKind::Choice),
            ("workload.concurrency", SettingKind::Int),
        ] {
            let found = of(path);
            assert_eq!((found.kind, found.required), (kind, false), "{path}");
        }
        assert_eq!(
            of("deployment.router.weighted.scorers.precise-prefix-cache").column(),
            "deployment_router_weighted_scorers_precise_prefix_cache"
        );
        let config = serde_json::json!({ "deployment": { "pools": { "b": { "tp": 2, "scheduler": null }, "a": {} } } });
        let found = expanded(std::slice::from_ref(&config), ["deployment.pools.c.kv.block_size"]);
        let columns: Vec<String> = found.iter().map(Setting::column).filter(|c| c.ends_with("_replicas")).collect();
        assert_eq!(
            columns,
            [
                "deployment_replicas",
                "deployment_pools_a_replicas",
                "deployment_pools_b_replicas",
                "deployment_pools_c_replicas"
            ]
        );
        assert_eq!(of("deployment.pools.b.tp").value(&config), Some(&2.into()));
    }

    #[test]
    fn a_wrong_path_is_corrected() {
        let help = |path| at(path, None).unwrap_err().help.unwrap();
        assert_eq!(help("deployment.replcas"), "did you mean `deployment.replicas`?");
        assert!(help("workload.something_else_entirely").contains("workload.rate_rps"));
        assert_eq!(help("xyz"), "valid are deployment, workload, measure, seed");
        assert_eq!(help("workload.classes.chat.priorty"), "did you mean `workload.classes.chat.priority`?");
        assert!(help("workload.classes.chat.something_else_entirely").contains("workload.classes.chat.deadline_ms"));
        assert_eq!(help("deployment.pools.a.replcas"), "did you mean `deployment.pools.a.replicas`?");
        assert_eq!(
            help("deployment.pools.a.scheduler.vllm_v1.max_seqs"),
            "did you mean `deployment.pools.a.scheduler.vllm_v1.max_num_seqs`?"
        );
        assert_eq!(
            help("deployment.router.weighted.scorers.queue_depth"),
            "did you mean `deployment.router.weighted.scorers.queue-depth`?"
        );
        assert_eq!(help("deployment.tp.some_thing"), "`deployment.tp` has no settings of its own");
    }
}
