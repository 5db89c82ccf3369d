//! aiconfigurator's database of operators.
//!
//! ```text
//! <path>/<gpu>.yaml
//! <path>/[data/]<gpu>/<family>/<framework>/<version>/<table>_perf.parquet
//! <path>/[data/]<gpu>/comm/nccl/<version>/nccl_perf.parquet
//! ```
//!
//! A version may have `reuse.yaml` instead of a table: `reuse: [{ table, from_version }]`, the table is that of another
//! version of the same framework. Times are ms. `message_size` counts elements. Of attention, the cache of a decode
//! step has `isl + step` tokens; 0 key-value heads are as many as heads. Facts: systems of aiconfigurator-core 0.12.
//!
//! Leaves out: tables of families that no latency model looks up, and the text files of old versions.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pipe_kernel::profile::{Layout, Operator};
use serde_json::{Value, json};

use super::frame::Header;
use super::mapping::{Dim, Mapping, Name, Reading, Test, column, column_or};
use super::plan::{Item, Plan, Planned, folder, inside, names};
use crate::diag::{Diagnostic, Span, nearest};
use crate::spec::{FilePath, OperatorTables};

/// Milliseconds are so many microseconds.
const MS: f64 = 1e3;

/// Folders under `comm` that are libraries, not frameworks.
const LIBRARIES: [&str; 2] = ["nccl", "oneccl"];

/// How the table of a file is read; `None` where it is none of ours.
fn table(stem: &str) -> Option<fn(&Header) -> Vec<Mapping>> {
    Some(match stem {
        "gemm_perf" => |_| {
            let mapping = Mapping::new(Operator::Gemm, vec![column("m"), column("n"), column("k")], "latency", MS);
            vec![Mapping { dtype: Name::Column("gemm_dtype".to_string()), ..mapping }]
        },
        "context_attention_perf" => |h| {
            let mut shape = vec![column("batch_size"), column("isl"), column_or(h, "step", 0)];
            shape.extend(heads(h));
            vec![attention(Mapping::new(Operator::ContextAttention, shape, "latency", MS))]
        },
        "generation_attention_perf" => |h| {
            let mut shape = vec![column("batch_size"), Dim::Sum("isl".to_string(), "step".to_string())];
            shape.extend(heads(h));
            vec![attention(Mapping::new(Operator::GenerationAttention, shape, "latency", MS))]
        },
        "moe_perf" => |_| {
            let shape =
                ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"];
            let shape = shape.map(column).to_vec();
            let variant = |distribution: &str, kernel: &str| {
                // TensorRT-LLM's kernels for few tokens stand in the same table.
                let few = if kernel.ends_with("_min_latency") { "/min_latency" } else { "" };
                format!("{distribution}{few}")
            };
            let mapping = Mapping::new(Operator::Moe, shape, "latency", MS);
            vec![Mapping {
                variant: Name::Made("distribution".to_string(), "kernel_source".to_string(), variant),
                dtype: Name::Column("moe_dtype".to_string()),
                ..mapping
            }]
        },
        "context_mla_perf" => |h| latent(h, Operator::ContextMla, true),
        "mla_context_module_perf" => |h| latent(h, Operator::ContextMlaModule, true),
        "generation_mla_perf" => |h| latent(h, Operator::GenerationMla, false),
        "mla_generation_module_perf" => |h| latent(h, Operator::GenerationMlaModule, false),
        "custom_allreduce_perf" => |h| {
            let variant = if h.has("backend") { "backend" } else { "kernel_source" };
            let mapping = collective(Operator::AllReduce, "allreduce_dtype");
            vec![Mapping { variant: Name::Column(variant.to_string()), ..mapping }]
        },
        "nccl_perf" => |_| library("nccl"),
        "oneccl_perf" => |_| library("oneccl"),
        _ => return None,
    })
}

/// Heads of attention, their size and the window.
fn heads(header: &Header) -> [Dim; 4] {
    let kv = Dim::Or("num_key_value_heads".to_string(), "num_heads".to_string());
    [column("num_heads"), kv, column_or(header, "head_dim", 128), column_or(header, "window_size", 0)]
}

fn attention(mapping: Mapping) -> Mapping {
    let dtype = Name::Column("attn_dtype".to_string());
    Mapping { dtype, kv_dtype: Name::Column("kv_cache_dtype".to_string()), ..mapping }
}

/// DeepSeek's attention: alone, or with the projections around it, whose type is the variant then.
fn latent(header: &Header, operator: Operator, prompts: bool) -> Vec<Mapping> {
    let shape = if prompts {
        vec![column("batch_size"), column("isl"), column_or(header, "step", 0), column("num_heads")]
    } else {
        vec![column("batch_size"), Dim::Sum("isl".to_string(), "step".to_string()), column("num_heads")]
    };
    let variant = match header.has("gemm_type") {
        true => Name::Column("gemm_type".to_string()),
        false => Name::none(),
    };
    vec![Mapping {
        variant,
        dtype: Name::Column("mla_dtype".to_string()),
        kv_dtype: Name::Column("kv_cache_dtype".to_string()),
        ..Mapping::new(operator, shape, "latency", MS)
    }]
}

fn collective(operator: Operator, dtype: &str) -> Mapping {
    let bytes = Dim::Bytes("message_size".to_string(), dtype.to_string());
    let mapping = Mapping::new(operator, vec![column("num_gpus"), bytes], "latency", MS);
    Mapping { dtype: Name::Column(dtype.to_string()), ..mapping }
}

fn library(name: &'static str) -> Vec<Mapping> {
    [
        (Operator::AllReduce, "all_reduce"),
        (Operator::AllGather, "all_gather"),
        (Operator::ReduceScatter, "reduce_scatter"),
        (Operator::AllToAll, "alltoall"),
    ]
    .into_iter()
    .map(|(operator, text)| Mapping {
        variant: Name::Fixed(name.to_string()),
        tests: vec![Test::Is("op_name".to_string(), text.to_string())],
        ..collective(operator, "nccl_dtype")
    })
    .collect()
}

/// Versions in their order: numbers by value, `1.3.0rc20` before `1.3.0`.
fn version_key(version: &str) -> (Vec<u64>, bool, Vec<u64>, String) {
    let numbers =
        |text: &str| -> Vec<u64> { text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect() };
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let (release, tag) = version.split_at(end);
    (numbers(release), tag.is_empty() || tag.starts_with("post"), numbers(tag), version.to_string())
}

fn newest(versions: impl IntoIterator<Item = String>) -> Option<String> {
    versions.into_iter().max_by_key(|v| version_key(v))
}

/// A name that is not there, and what is.
fn unknown(what: &str, name: &str, there: &[String], at: Option<Span>, shown: &str) -> Vec<Diagnostic> {
    let message = format!("{shown} has no {what} `{name}`");
    let mut help = match there {
        [] => format!("there are no {what}s here"),
        there => format!("{what}s: {}", there.join(", ")),
    };
    if let Some(near) = nearest(name, there.iter().map(String::as_str)) {
        help = format!("did you mean `{near}`?\n{help}");
    }
    vec![Diagnostic::new("profile::unknown", message).at(at).help(help)]
}

/// The folder of a GPU, and how it is reached from the folder that the user named.
struct Gpu<'a> {
    folder: &'a FilePath,
    prefix: String,
}

impl Gpu<'_> {
    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path.join(&self.prefix).join(relative)
    }

    fn file(&self, relative: &str) -> FilePath {
        inside(self.folder, &format!("{}/{relative}", self.prefix))
    }
}

pub(super) fn plan(settings: &OperatorTables) -> Planned {
    let OperatorTables { path, gpu, framework, version, nccl } = settings;
    folder(path)?;
    let data = path.path.join("data");
    let prefix = if path.path.join(&gpu.value).is_dir() { gpu.value.clone() } else { format!("data/{}", gpu.value) };
    if !path.path.join(&prefix).is_dir() {
        let there = if data.is_dir() { names(&data, true) } else { names(&path.path, true) };
        return Err(unknown("GPU", &gpu.value, &there, gpu.at.clone(), &format!("`{}`", path.written)));
    }
    let gpu_folder = Gpu { folder: path, prefix };
    let families = names(&gpu_folder.path(""), true);
    let frameworks: BTreeSet<String> = families
        .iter()
        .flat_map(|family| names(&gpu_folder.path(family), true))
        .filter(|name| !LIBRARIES.contains(&name.as_str()))
        .collect();
    let shown = format!("`{}/{}`", path.written.trim_end_matches('/'), gpu_folder.prefix);
    if !frameworks.contains(&framework.value) {
        let there: Vec<String> = frameworks.into_iter().collect();
        let at = framework.at.clone().or_else(|| path.at.clone());
        return Err(unknown("framework", &framework.value, &there, at, &shown));
    }
    let versions = |family: &str, name: &str| names(&gpu_folder.path(&format!("{family}/{name}")), true);
    let all: BTreeSet<String> = families.iter().flat_map(|f| versions(f, &framework.value)).collect();
    let chosen = match version {
        Some(version) if all.contains(&version.value) => version.value.clone(),
        Some(version) => {
            let there: Vec<String> = all.into_iter().collect();
            let shown = format!("{} of `{}`", framework.value, gpu.value);
            return Err(unknown("version", &version.value, &there, version.at.clone(), &shown));
        }
        None => newest(versions("gemm", &framework.value)).or_else(|| newest(all)).unwrap_or_default(),
    };

    let mut plan = Plan::new(Layout::Operators);
    let mut problems = Vec::new();
    for family in &families {
        for name in names(&gpu_folder.path(family), true).iter().filter(|name| **name == framework.value) {
            let there = versions(family, name);
            if !there.contains(&chosen) {
                let why = format!("no version {chosen}; there are {}", there.join(", "));
                plan.skipped.push((gpu_folder.file(&format!("{family}/{name}")).written, why));
                continue;
            }
            version_folder(&gpu_folder, &format!("{family}/{name}"), &chosen, &mut plan, &mut problems);
        }
    }
    let facts = inside(path, &format!("{}.yaml", gpu.value));
    let named = std::fs::read_to_string(&facts.path).ok().and_then(|text| library_version(&text));
    for library in LIBRARIES {
        let there = versions("comm", library);
        let wanted = nccl.as_ref().filter(|_| library == "nccl");
        let version = match wanted {
            Some(wanted) if !there.contains(&wanted.value) => {
                problems.extend(unknown(
                    "version",
                    &wanted.value,
                    &there,
                    wanted.at.clone(),
                    &format!("{library} in {shown}"),
                ));
                continue;
            }
            Some(wanted) => Some(wanted.value.clone()),
            None => named.clone().filter(|n| library == "nccl" && there.contains(n)).or_else(|| newest(there)),
        };
        if let Some(version) = version {
            version_folder(&gpu_folder, &format!("comm/{library}"), &version, &mut plan, &mut problems);
        }
    }
    if facts.path.is_file() {
        plan.others.push(facts.clone());
        plan.gpu = Some(facts);
    } else {
        let message = format!("`{}` has no `{}.yaml`, which says what the GPU is", path.written, gpu.value);
        let help = format!("name the folder that has it; it was looked for at {}", path.path.display());
        problems.push(Diagnostic::new("profile::gpu", message).at(path.at.clone()).help(help));
    }
    if plan.items.is_empty() && problems.is_empty() {
        let message = format!("{shown} has no table of `{}` {chosen} that can be read", framework.value);
        problems.push(Diagnostic::new("profile::nothing", message).at(path.at.clone()));
    }
    plan.settings = json!({ "gpu": gpu.value, "framework": framework.value, "version": chosen });
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

/// `misc.nccl_version` of the facts of a GPU.
fn library_version(text: &str) -> Option<String> {
    let facts: Value = serde_saphyr::from_str(text).ok()?;
    match facts.get("misc")?.get("nccl_version")? {
        Value::String(version) => Some(version.clone()),
        Value::Number(version) => Some(version.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The tables of one version: its own, and those that it takes from another.
fn version_folder(gpu: &Gpu, place: &str, version: &str, plan: &mut Plan, problems: &mut Vec<Diagnostic>) {
    let mut own = BTreeSet::new();
    for file in names(&gpu.path(&format!("{place}/{version}")), false) {
        let Some(stem) = file.strip_suffix(".parquet") else { continue };
        own.insert(stem.to_string());
        take(gpu, &format!("{place}/{version}/{file}"), stem, String::new(), plan);
    }
    let reuse = gpu.file(&format!("{place}/{version}/reuse.yaml"));
    if !reuse.path.is_file() {
        return;
    }
    let entries = match reused(&reuse) {
        Ok(entries) => entries,
        Err(what) => return problems.push(what),
    };
    for (stem, from) in entries {
        if own.contains(&stem) {
            continue;
        }
        // What another version takes from a third is followed, but never in a circle.
        let mut donor = from.clone();
        let mut seen = BTreeSet::from([version.to_string()]);
        while seen.insert(donor.clone()) && !gpu.path(&format!("{place}/{donor}/{stem}.parquet")).is_file() {
            let next = reused(&gpu.file(&format!("{place}/{donor}/reuse.yaml"))).unwrap_or_default();
            match next.into_iter().find(|(table, _)| *table == stem) {
                Some((_, next)) => donor = next,
                None => break,
            }
        }
        let file = format!("{place}/{donor}/{stem}.parquet");
        if gpu.path(&file).is_file() {
            take(gpu, &file, &stem, format!("stands for version {version}"), plan);
        } else if table(&stem).is_some() {
            let message = format!("{} takes `{stem}` from version {from}, which does not have it", reuse.written);
            problems.push(Diagnostic::new("profile::reuse", message).at(reuse.at.clone()));
        }
    }
    plan.others.push(reuse);
}

fn take(gpu: &Gpu, file: &str, stem: &str, note: String, plan: &mut Plan) {
    let file = gpu.file(file);
    match table(stem) {
        Some(mappings) => {
            let map = Box::new(move |header: &Header| Ok(Reading::of(mappings(header))));
            plan.items.push(Item { file, map, note });
        }
        None => plan.skipped.push((file.written, "no latency model looks up such a table".to_string())),
    }
}

/// The entries of a `reuse.yaml`: tables and the versions that have them. None where there is no such file.
fn reused(file: &FilePath) -> std::result::Result<Vec<(String, String)>, Diagnostic> {
    let wrong = |why: &str| {
        let message = format!("cannot read {}: {why}", file.written);
        let help = "expected `reuse:` with a list of `{ table: ..., from_version: ... }`";
        Diagnostic::new("profile::reuse", message).at(file.at.clone()).help(help)
    };
    let Ok(text) = std::fs::read_to_string(&file.path) else { return Ok(Vec::new()) };
    let content: Value = serde_saphyr::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
    let entries = content.get("reuse").and_then(Value::as_array).ok_or_else(|| wrong("it has no list `reuse`"))?;
    let text = |entry: &Value, key: &str| match entry.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(n)) => Ok(n.to_string()),
        _ => Err(wrong(&format!("an entry has no `{key}`"))),
    };
    entries.iter().map(|e| Ok((text(e, "table")?, text(e, "from_version")?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let sorted = ["0.1.dev19262", "0.9.0", "0.14.0", "0.14.0.post1", "1.3.0rc9", "1.3.0rc20", "1.3.0", "1.10.0"];
        for pair in sorted.windows(2) {
            assert!(version_key(pair[0]) < version_key(pair[1]), "{pair:?}");
        }
        assert_eq!(newest(["0.9.0".to_string(), "0.24.0".to_string()]).as_deref(), Some("0.24.0"));
    }
}
