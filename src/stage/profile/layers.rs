//! LLMServingSim's profiler: times of the layers of one model, in microseconds.
//!
//! | file in `tp<N>/` | columns | a point is |
//! |---|---|---|
//! | `dense.csv` | `layer, tokens, time_us` | one call of a layer |
//! | `per_sequence.csv` | `layer, sequences, time_us` | one call of `lm_head`, `sampler` |
//! | `attention.csv` | `prefill_chunk, kv_prefill, n_decode, kv_decode, time_us`, maybe `layer` | one attention layer |
//! | `moe.csv` | `tokens, activated_experts, time_us` | one mixture layer of one rank |
//! | `skew_fit.csv` | `pc, n_label, skew_rate_label, kv_big_label, kp_label, alpha`, maybe `layer` | a bucket's alpha |
//!
//! `meta.yaml` says the type of the weights (`variant: bf16-kvfp8`) and the alpha of batches that no bucket has: the
//! point of variant `default`. The layer `attention`, which is the only one of most models, is the empty variant.
//! Facts: `profiler/README.md` and `serving/core/trace_generator.py` of casys-kaist/LLMServingSim.
//!
//! Leaves out: linear attention and draft models, whose tables have other axes, and the samples behind the fits.

use pipe_kernel::profile::{DIMS, Layout, Operator};
use serde_json::{Value, json};

use super::frame::Header;
use super::mapping::{Dim, Mapping, Name, Reading, Times, column};
use super::plan::{Constant, Plan, Planned, folder, inside, names};
use crate::diag::Diagnostic;
use crate::spec::{FilePath, Folder};

/// How a file of a folder `tp<N>` is read.
fn mapping(file: &str, tp: u32, header: &Header) -> Option<Mapping> {
    let tp = Dim::Const(tp);
    let layer = || Name::Column("layer".to_string());
    let kernel = || match header.has("layer") {
        true => Name::Made("layer".to_string(), "layer".to_string(), |layer, _| {
            if layer == "attention" { String::new() } else { layer.to_string() }
        }),
        false => Name::none(),
    };
    let time = "time_us";
    Some(match file {
        "dense.csv" => {
            let mut shape = vec![Dim::Const(0); Operator::TokenLayer.dims().len()];
            (shape[0], shape[1]) = (column("tokens"), tp);
            Mapping { variant: layer(), ..Mapping::new(Operator::TokenLayer, shape, time, 1.0) }
        }
        "per_sequence.csv" => {
            let shape = vec![column("sequences"), tp];
            Mapping { variant: layer(), ..Mapping::new(Operator::SequenceLayer, shape, time, 1.0) }
        }
        "attention.csv" => {
            let mut shape = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"].map(column).to_vec();
            shape.push(tp);
            Mapping { variant: kernel(), ..Mapping::new(Operator::BatchAttention, shape, time, 1.0) }
        }
        "moe.csv" => {
            Mapping::new(Operator::MoeLayer, vec![column("tokens"), column("activated_experts"), tp], time, 1.0)
        }
        "skew_fit.csv" => {
            let mut shape = vec![column("pc")];
            let labels = ["n_label", "skew_rate_label", "kv_big_label", "kp_label"];
            shape.extend(labels.map(|label| Dim::Bound(label.to_string())));
            shape.push(tp);
            let mapping = Mapping::new(Operator::SkewAlpha, shape, "alpha", 1.0);
            Mapping { variant: kernel(), times: Times::Any, ..mapping }
        }
        _ => return None,
    })
}

/// Files that are known and not read.
fn passed_over(file: &str) -> &'static str {
    match file {
        "skew.csv" => "the samples that skew_fit.csv was fitted to",
        "linear_attention.csv" => "layers of linear attention are not looked up",
        "mtp.csv" => "layers of draft models are not looked up",
        _ => "not a table of this layout",
    }
}

pub(super) fn plan(settings: &Folder) -> Planned {
    let path = &settings.path;
    folder(path)?;
    let mut plan = Plan::new(Layout::Layers);
    let meta = inside(path, "meta.yaml");
    let facts = if meta.path.is_file() {
        let text = std::fs::read_to_string(&meta.path).unwrap_or_default();
        let facts: Result<Value, _> = serde_saphyr::from_str(&text);
        plan.others.push(meta.clone());
        facts.map_err(|e| {
            let message = format!("cannot read {}: {e}", meta.written);
            vec![Diagnostic::new("profile::meta", message).at(meta.at.clone())]
        })?
    } else {
        Value::Null
    };
    let (dtype, kv_dtype) = types(&facts);
    let mut found = Vec::new();
    for name in names(&path.path, true) {
        let Some(tp) = name.strip_prefix("tp").and_then(|n| n.parse::<u32>().ok()) else {
            plan.skipped.push((inside(path, &name).written, "not a folder `tp<N>`".to_string()));
            continue;
        };
        found.push(tp);
        let inner = inside(path, &name);
        for file in names(&inner.path, false) {
            let file_path = inside(&inner, &file);
            if mapping(&file, tp, &Header::default()).is_none() {
                plan.skipped.push((file_path.written, passed_over(&file).to_string()));
                continue;
            }
            let (dtype, kv_dtype) = (dtype.clone(), kv_dtype.clone());
            let map = move |header: &Header| {
                let named = |m: Mapping| Mapping {
                    dtype: Name::Fixed(dtype.clone()),
                    kv_dtype: Name::Fixed(kv_dtype.clone()),
                    ..m
                };
                Ok(Reading::of(mapping(&file, tp, header).map(named).into_iter().collect()))
            };
            plan.read(file_path, Box::new(map));
        }
        plan.constants.extend(default_alpha(&facts, &meta, tp));
    }
    if plan.items.is_empty() {
        let message = format!("`{}` has no tables of LLMServingSim's profiler", path.written);
        let help = "expected `meta.yaml` and folders `tp1`, `tp2`, ... with `dense.csv`, `attention.csv`, ...; \
                    name the folder of the type of the weights, e.g. `.../Llama-3.1-8B/bf16`";
        return Err(vec![Diagnostic::new("profile::layers", message).at(path.at.clone()).help(help)]);
    }
    plan.settings = json!({ "tp": found });
    Ok(plan)
}

/// Types of weights and of the cache: `bf16`, `bf16-kvfp8`.
fn types(facts: &Value) -> (String, String) {
    let variant = facts.get("variant").and_then(Value::as_str).unwrap_or("");
    let (dtype, kv) = variant.split_once("-kv").unwrap_or((variant, ""));
    (dtype.to_string(), kv.to_string())
}

/// `skew_fit.per_tp.<N>.alpha_default`, where the fit is switched on.
fn default_alpha(facts: &Value, meta: &FilePath, tp: u32) -> Option<Constant> {
    let fit = facts.get("skew_fit")?;
    if fit.get("enabled") != Some(&Value::Bool(true)) {
        return None;
    }
    let entry = fit.get("per_tp").and_then(|e| e.get(tp.to_string()));
    let value = entry.and_then(|e| e.get("alpha_default")).or_else(|| fit.get("alpha_default"))?.as_f64()?;
    let mut shape = [0; DIMS];
    shape[Operator::SkewAlpha.dims().len() - 1] = tp;
    let variant = "default".to_string();
    Some(Constant { file: meta.written.clone(), operator: Operator::SkewAlpha, variant, shape, value })
}
