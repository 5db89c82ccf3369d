//! What the query of a ready-made figure asks about the columns of the tables that it reads.
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{configuration}` | a text: the settings that differ between the rows of the stage's table (`tp 2, round_robin`) |
//! | `{configuration but a}` | the same, without the setting in the column `a` |
//! | `{searched}` | a label: what a `search` looks for the value of (`Rate (requests/s)`) |
//! | `{objective_1}`, `{objective_2}` | name of an objective of the stage, an `optimize` |
//! | `{each objective: SELECT ..}` | the query for every objective, whose name stands for `$`, with UNION ALL between |
//! | `{all objective: ..}`, `{all parameter: ..}` | the expression for every objective or parameter, with commas between |
//!
//! A table whose columns are not known yet has no settings, and one objective and parameter of an unknown name: enough to
//! see which tables a query reads.

use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::report::pretty;
use crate::stage::simulate::settings::column_name;

/// Columns that number rows: no settings.
const NUMBERS: [&str; 7] = ["scenario_id", "scenario", "configuration_id", "probe", "value", "replication", "seed"];
/// The first columns behind the settings, of the tables of `simulate` and of `search`.
const BEHIND: [&str; 2] = ["gpus", "slo"];

/// Words that say nothing more in the name of a setting.
const OBVIOUS: [&str; 9] =
    ["deployment_", "pools_", "scheduler_", "vllm_v1_", "vllm_v0_", "sglang_", "router_", "kv_", "workload_"];

/// What is known of the tables that a figure reads.
pub(super) struct Known<'a> {
    /// Columns of a table, where they are known.
    pub table: &'a dyn Fn(&str) -> Option<SchemaRef>,
    /// Columns of the settings that differ between the rows of the stage's table, or how their names begin; `None` where
    /// only the rows tell.
    pub varied: Option<&'a [String]>,
    /// The path of what the stage, a `search`, looks for the value of.
    pub searched: Option<&'a str>,
}

impl Known<'_> {
    fn table(&self, name: &str) -> Option<SchemaRef> {
        (self.table)(name)
    }
}

/// The query without placeholders, for the stage `of`; `known` knows the columns of tables.
///
/// # Errors
/// The stage does not have what the query asks for: why, in words.
pub(super) fn complete(sql: &str, of: &str, known: &Known) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = sql;
    while let Some(start) = rest.find('{') {
        let Some(len) = closing(&rest[start..]) else { break };
        out.push_str(&rest[..start]);
        let inside = &rest[start + 1..start + len];
        match placeholder(inside, of, known)? {
            Some(text) => out.push_str(&text),
            None => out.push_str(&rest[start..=start + len]),
        }
        rest = &rest[start + len + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace ends with which `text` begins.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// What stands for a placeholder; `None` for what is none.
fn placeholder(inside: &str, of: &str, known: &Known) -> Result<Option<String>, String> {
    let each = |names: Vec<String>, body: &str, between: &str| {
        let texts: Vec<String> = names.iter().map(|name| body.trim().replace('$', name)).collect();
        texts.join(between)
    };
    let some = |what: &str, names: Vec<String>| match names.is_empty() {
        true => Err(format!("`{of}` has no {what}")),
        false => Ok(names),
    };
    Ok(Some(match inside.split_once(':') {
        Some(("each objective", body)) => each(some("objectives", objectives(of, known))?, body, " UNION ALL "),
        Some(("all objective", body)) => each(some("objectives", objectives(of, known))?, body, ", "),
        Some(("all parameter", body)) => each(some("parameters", parameters(of, known))?, body, ", "),
        Some(_) => return Ok(None),
        None => match inside {
            "configuration" => configuration(known.table(of).as_deref(), known.varied, ""),
            "searched" => known.searched.map_or("Value".to_string(), |path| pretty(&column_name(path))),
            "objective_1" => nth_objective(0, of, known)?,
            "objective_2" => nth_objective(1, of, known)?,
            other => match other.strip_prefix("configuration but ") {
                Some(column) => configuration(known.table(of).as_deref(), known.varied, column.trim()),
                None => return Ok(None),
            },
        },
    }))
}

/// The objectives of a search: each has a best one so far.
fn objectives(of: &str, known: &Known) -> Vec<String> {
    let Some(schema) = known.table(&format!("{of}_history")) else { return vec!["unknown".to_string()] };
    schema.fields().iter().filter_map(|f| Some(f.name().strip_prefix("best_")?.to_string())).collect()
}

fn nth_objective(nth: usize, of: &str, known: &Known) -> Result<String, String> {
    if known.table(&format!("{of}_history")).is_none() {
        return Ok("unknown".to_string());
    }
    let all = objectives(of, known);
    let message = || format!("it needs {} objectives, and `{of}` has {}", nth + 1, all.len());
    all.get(nth).cloned().ok_or_else(message)
}

/// What the table of the front has beside the objectives.
fn parameters(of: &str, known: &Known) -> Vec<String> {
    let Some(schema) = known.table(of) else { return vec!["unknown".to_string()] };
    let objectives = objectives(of, known);
    let names = schema.fields().iter().map(|f| f.name().clone());
    names.filter(|n| n != "trial" && n != "hypervolume_contribution" && !objectives.contains(n)).collect()
}

/// SQL for what tells a row's configuration from that of the others: empty where all are the same.
fn configuration(schema: Option<&Schema>, varied: Option<&[String]>, but: &str) -> String {
    let is_varied = |name: &str| {
        let below =
            |path: &String| name.strip_prefix(path.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('_'));
        varied.is_none_or(|varied| varied.iter().any(below))
    };
    let mut settings = schema.map(|schema| settings(schema, but)).unwrap_or_default();
    settings.retain(|(name, _)| is_varied(name));
    let parts: Vec<String> = settings.into_iter().map(part).collect();
    if parts.is_empty() { "''".to_string() } else { format!("concat_ws(', ', {})", parts.join(", ")) }
}

/// The settings among the columns of a table: name, and whether the values are words that say what they are.
pub(super) fn settings<'a>(schema: &'a Schema, but: &str) -> Vec<(&'a str, bool)> {
    let fields = schema.fields();
    let end = fields.iter().position(|f| BEHIND.contains(&f.name().as_str()));
    let of_settings = |name: &str| end.is_some() || name.starts_with("deployment_");
    let mut found: Vec<(&str, bool)> = Vec::new();
    for field in fields.iter().take(end.unwrap_or(fields.len())) {
        let (name, kind) = (field.name().as_str(), field.data_type());
        let scalar = kind.is_numeric() || matches!(kind, DataType::Utf8 | DataType::Boolean);
        if scalar && name != but && !NUMBERS.contains(&name) && of_settings(name) {
            found.push((name, *kind == DataType::Utf8));
        }
    }
    found
}

fn part((column, words): (&str, bool)) -> String {
    let value = format!("CAST(\"{column}\" AS VARCHAR)");
    let varies = format!("min(coalesce({value}, '')) OVER () <> max(coalesce({value}, '')) OVER ()");
    let label = if words { value } else { format!("concat('{} ', {value})", short(column)) };
    format!("CASE WHEN \"{column}\" IS NOT NULL AND {varies} THEN {label} END")
}

/// The name of a setting without what goes without saying.
fn short(column: &str) -> String {
    let mut name = column;
    while let Some(rest) = OBVIOUS.iter().find_map(|word| name.strip_prefix(word)) {
        name = rest;
    }
    name.strip_suffix("_rps").unwrap_or(name).replace('_', " ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::*;
    use crate::table::simulation::totals;

    fn table(columns: &[(&str, DataType)]) -> SchemaRef {
        let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
        Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
    }

    #[test]
    fn settings_end_where_results_begin() {
        assert_eq!(totals()[0].name(), BEHIND[0]);
        let sim = table(&[
            ("scenario_id", DataType::Int64),
            ("scenario", DataType::Utf8),
            ("deployment_gpu", DataType::Utf8),
            ("deployment_tp", DataType::Int64),
            ("rate_rps", DataType::Float64),
            ("seed", DataType::Int64),
            ("gpus", DataType::Int64),
            ("requests", DataType::Int64),
        ]);
        assert_eq!(settings(&sim, "rate_rps"), [("deployment_gpu", true), ("deployment_tp", false)]);
        assert_eq!(settings(&sim, "").len(), 3);
        let some = ["deployment_tp".to_string(), "rat".to_string()];
        let text = configuration(Some(&sim), Some(&some), "");
        assert!(text.contains("\"deployment_tp\"") && !text.contains("gpu") && !text.contains("rate_rps"), "{text}");
        assert_eq!(configuration(Some(&sim), Some(&[]), ""), "''");
        assert!(configuration(Some(&sim), Some(&["deployment".to_string()]), "").contains("deployment_gpu"));
        // A table of somebody's own: what is a result cannot be known.
        let own = table(&[("deployment_tp", DataType::Int64), ("ttft_ms", DataType::Float64)]);
        assert_eq!(settings(&own, ""), [("deployment_tp", false)]);
    }

    #[test]
    fn names_are_short() {
        for (column, name) in [
            ("deployment_tp", "tp"),
            ("deployment_scheduler_vllm_v1_max_num_batched_tokens", "max num batched tokens"),
            ("deployment_pools_prefill_replicas", "prefill replicas"),
            ("rate_rps", "rate"),
        ] {
            assert_eq!(short(column), name);
        }
    }

    #[test]
    fn lists_are_written_out() {
        let history =
            table(&[("trial", DataType::Int64), ("best_a", DataType::Float64), ("best_b", DataType::Float64)]);
        let front = table(&[
            ("trial", DataType::Int64),
            ("deployment_tp", DataType::Int64),
            ("a", DataType::Float64),
            ("b", DataType::Float64),
            ("hypervolume_contribution", DataType::Float64),
        ]);
        let one = table(&[("trial", DataType::Int64), ("best_a", DataType::Float64)]);
        let known = |name: &str| match name {
            "o_history" => Some(history.clone()),
            "one_history" => Some(one.clone()),
            "o" => Some(front.clone()),
            _ => None,
        };
        for (of, sql, expect) in [
            (
                "o",
                "x {each objective: SELECT '$', best_$ FROM t} y",
                Ok("x SELECT 'a', best_a FROM t UNION ALL SELECT 'b', best_b FROM t y"),
            ),
            ("o", "{all parameter: \"$\"}, {objective_2}", Ok("\"deployment_tp\", b")),
            ("one", "{objective_1} {objective_2}", Err("it needs 2 objectives, and `one` has 1")),
            ("new", "{objective_2} {configuration}", Ok("unknown ''")),
            ("new", "{searched} that still passes", Ok("Rate (requests/s) that still passes")),
            ("o", "SELECT '{other}' {", Ok("SELECT '{other}' {")),
        ] {
            assert_eq!(
                complete(sql, of, &Known { table: &known, varied: None, searched: Some("workload.rate_rps") })
                    .as_deref(),
                expect.map_err(String::from).as_deref(),
                "{sql}"
            );
        }
    }
}
