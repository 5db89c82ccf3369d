//! Vidur: the CSV files of its profiler, and tables of its predictions. Times are ms.
//!
//! Of the profiler, the median of the repetitions of each row counts (`time_stats.X.median`; for CPU overheads
//! `X_median`, for `ray_comm_time` the mean), and rows that repeat another in every field are dropped first, as Vidur
//! does. A time of 0 is one below the clock's resolution. Sizes of collectives are bytes; their variant is the number of
//! GPUs of the group that share a node.
//!
//! Predictions are a folder of Parquet files, one per operator: its axes, and `prediction`. Division of `latency_us` by
//! 1e3 gives the prediction in ms, exactly but for one in fifty, which differs in the last bit.

use pipe_kernel::profile::{Layout, Operator};
use serde_json::json;

use super::frame::Header;
use super::mapping::{Dim, Mapping, Name, Reading, Test, Times, column};
use super::plan::{Map, Plan, Planned, folder, inside, names};
use crate::diag::{Diagnostic, Span};
use crate::spec::{FilePath, Folder, VidurFiles};

/// Milliseconds are so many microseconds.
const MS: f64 = 1e3;

const CPU: [(&str, &str); 5] = [
    ("schedule", "schedule_median"),
    ("sampler_e2e", "sampler_e2e_median"),
    ("prepare_inputs_e2e", "prepare_inputs_e2e_median"),
    ("process_model_outputs", "process_model_outputs_median"),
    ("ray_comm_time", "ray_comm_time_mean"),
];

/// Where the first of the files is named.
pub(super) fn place(settings: &VidurFiles) -> Option<&Span> {
    let VidurFiles { mlp, attention, all_reduce, send_recv, cpu_overheads, model: _ } = settings;
    [mlp, attention, all_reduce, send_recv, cpu_overheads].into_iter().flatten().next().and_then(|f| f.at.as_ref())
}

pub(super) fn plan(settings: &VidurFiles) -> Planned {
    let VidurFiles { mlp: layers, attention: kernels, all_reduce, send_recv, cpu_overheads, model } = settings;
    let mut plan = Plan::new(Layout::Vidur);
    let mut add = |file: &Option<FilePath>, map: Map| {
        if let Some(file) = file {
            plan.read(file.clone(), map);
        }
    };
    add(layers, Box::new(mlp));
    add(kernels, Box::new(attention));
    add(all_reduce, Box::new(|h| Ok(collective(h, Operator::AllReduce, "all_reduce"))));
    add(send_recv, Box::new(|h| Ok(collective(h, Operator::SendRecv, "send_recv"))));
    let wanted = model.as_ref().map(|m| m.value.clone());
    let cpu_file = cpu_overheads.clone();
    add(cpu_overheads, Box::new(move |h| cpu(h, wanted.as_deref(), cpu_file.as_ref())));
    if plan.items.is_empty() {
        let help = "`mlp`, `attention`, `all_reduce`, `send_recv`, `cpu_overheads`: at least one";
        return Err(vec![Diagnostic::new("profile::vidur", "`vidur` names no file").help(help)]);
    }
    // Which file is which: the files of a recipe only say that they are read.
    let written = |file: &Option<FilePath>| file.as_ref().map(|f| f.written.clone());
    plan.settings = json!({
        "model": model.as_ref().map(|m| &m.value),
        "mlp": written(layers), "attention": written(kernels), "all_reduce": written(all_reduce),
        "send_recv": written(send_recv), "cpu_overheads": written(cpu_overheads),
    });
    Ok(plan)
}

/// The operator in the name of a column `time_stats.X.median`.
fn median_of(column: &str) -> Option<&str> {
    column.strip_prefix("time_stats.")?.strip_suffix(".median")
}

fn mlp(header: &Header) -> Result<Reading, Vec<Diagnostic>> {
    let shape = [
        "num_tokens",
        "num_tensor_parallel_workers",
        "n_head",
        "n_kv_head",
        "n_embd",
        "n_expanded_embd",
        "vocab_size",
        "use_gated_mlp",
    ];
    let mapping = |name: &String| {
        let operator = median_of(name)?;
        let mapping = Mapping::new(Operator::TokenLayer, shape.map(column).to_vec(), name, MS);
        let times = Times::NotNegativeOrNone;
        Some(Mapping { variant: Name::Fixed(operator.to_string()), times, ..mapping })
    };
    let mappings: Vec<Mapping> = header.names.iter().filter_map(mapping).collect();
    if mappings.is_empty() {
        return Err(vec![none(header, "`time_stats.mlp_up_proj.median`")]);
    }
    Ok(Reading { drop_repeated: true, also: header.names.clone(), ..Reading::of(mappings) })
}

fn none(header: &Header, what: &str) -> Diagnostic {
    let message = format!("{} has no column such as {what}", header.written);
    let help = format!("columns: {}", header.names.join(", "));
    Diagnostic::new("profile::column", message).help(help)
}

/// Sizes of the model, as columns of the profile of attention.
fn sizes() -> Vec<Dim> {
    ["num_tensor_parallel_workers", "n_q_head", "n_kv_head", "n_embd", "block_size"].map(column).to_vec()
}

fn attention(header: &Header) -> Result<Reading, Vec<Diagnostic>> {
    let chunk = || "prefill_chunk_size".to_string();
    let with = |mut first: Vec<Dim>| {
        first.extend(sizes());
        first
    };
    let new = |operator: Operator, shape: Vec<Dim>, name: &str| Mapping {
        times: Times::NotNegative,
        ..Mapping::new(operator, with(shape), &format!("time_stats.{name}.median"), MS)
    };
    let prefill = new(Operator::PrefillAttention, vec![column("kv_cache_size"), column(&chunk())], "attn_prefill");
    let decode = new(Operator::DecodeAttention, vec![column("kv_cache_size"), column("batch_size")], "attn_decode");
    let mut mappings = vec![
        Mapping { tests: vec![Test::Positive(chunk())], ..prefill },
        Mapping { tests: vec![Test::Zero(chunk())], ..decode },
    ];
    // Not all profiles have it; where it is missing, the engine saves as part of attention.
    if header.has("time_stats.attn_kv_cache_save.median") {
        let tokens = vec![Dim::Max(chunk(), "batch_size".to_string())];
        mappings.push(new(Operator::KvCacheSave, tokens, "attn_kv_cache_save"));
    }
    Ok(Reading { drop_repeated: true, also: header.names.clone(), ..Reading::of(mappings) })
}

fn collective(header: &Header, operator: Operator, name: &str) -> Reading {
    let shape = vec![column("num_workers"), column("size")];
    let mapping = Mapping::new(operator, shape, &format!("time_stats.{name}.median"), MS);
    let mapping = Mapping {
        variant: Name::Column("devices_per_node".to_string()),
        times: Times::NotNegative,
        tests: vec![Test::Is("collective".to_string(), name.to_string())],
        ..mapping
    };
    Reading { drop_repeated: true, also: header.names.clone(), ..Reading::of(vec![mapping]) }
}

fn cpu(header: &Header, model: Option<&str>, file: Option<&FilePath>) -> Result<Reading, Vec<Diagnostic>> {
    let tests = match model {
        Some(model) => vec![Test::Is("model_name".to_string(), model.to_string())],
        None => {
            one_model(header, file)?;
            Vec::new()
        }
    };
    let mapping = |(name, column_name): &(&str, &str)| {
        let shape = vec![column("batch_size"), column("tensor_parallel_degree")];
        let mapping = Mapping::new(Operator::Cpu, shape, column_name, MS);
        let variant = Name::Fixed((*name).to_string());
        Mapping { variant, times: Times::NotNegativeOrNone, tests: tests.clone(), ..mapping }
    };
    let there = CPU.iter().filter(|(_, column)| header.has(column));
    let mappings: Vec<Mapping> = there.map(mapping).collect();
    if mappings.is_empty() {
        return Err(vec![none(header, "`schedule_median`")]);
    }
    Ok(Reading { drop_repeated: true, also: header.names.clone(), ..Reading::of(mappings) })
}

/// Refuses a file of several models where none is named: their times are not those of one shape.
fn one_model(header: &Header, file: Option<&FilePath>) -> Result<(), Vec<Diagnostic>> {
    let (Some(column), Some(file)) = (header.find("model_name"), file) else { return Ok(()) };
    let frame = super::frame::Frame::read(&file.path, &file.written, &|_| true).map_err(|f| f.diagnostics)?;
    let texts = frame.texts(column);
    let models: std::collections::BTreeSet<&str> = texts.iter().flatten().collect();
    if models.len() < 2 {
        return Ok(());
    }
    let models: Vec<&str> = models.into_iter().collect();
    let message = format!("{} is of several models", header.written);
    let what = Diagnostic::new("profile::model", message).help(format!("add `model:`, one of {}", models.join(", ")));
    Err(vec![what.at(file.at.clone())])
}

/// A folder of predictions.
pub(super) fn predictions(settings: &Folder) -> Planned {
    let path = &settings.path;
    folder(path)?;
    let mut plan = Plan::new(Layout::VidurPredictions);
    for file in names(&path.path, false) {
        let full = inside(path, &file);
        match file.strip_suffix(".parquet") {
            Some(stem) => {
                let stem = stem.to_string();
                plan.read(full, Box::new(move |h| prediction(h, &stem)));
            }
            None if file.ends_with(".pkl") => {
                plan.skipped.push((full.written, "pickles are not read: save the table as Parquet".to_string()));
            }
            None => plan.skipped.push((full.written, "not a Parquet file".to_string())),
        }
    }
    if plan.items.is_empty() {
        let message = format!("`{}` has no Parquet file", path.written);
        let help = "expected one per operator, such as `attn_decode.parquet`, with its axes and `prediction`";
        return Err(vec![Diagnostic::new("profile::nothing", message).at(path.at.clone()).help(help)]);
    }
    Ok(plan)
}

fn prediction(header: &Header, stem: &str) -> Result<Reading, Vec<Diagnostic>> {
    // Of one model with one parallelism, which the file does not say.
    let shape = |operator: Operator, first: Vec<Dim>| {
        let rest = operator.dims().len() - first.len();
        first.into_iter().chain(std::iter::repeat_n(Dim::Const(0), rest)).collect::<Vec<Dim>>()
    };
    let chunk = match header.has("prefill_chunk_size_squared") {
        true => Dim::Root("prefill_chunk_size_squared".to_string()),
        false => column("prefill_chunk_size"),
    };
    let named = || Name::Fixed(stem.to_string());
    let (operator, first, variant) = match stem {
        "attn_decode" => (Operator::DecodeAttention, vec![column("kv_cache_size"), column("batch_size")], Name::none()),
        "attn_prefill" => (Operator::PrefillAttention, vec![column("kv_cache_size"), chunk], Name::none()),
        "attn_kv_cache_save" => (Operator::KvCacheSave, vec![column("num_tokens")], Name::none()),
        _ if header.has("num_tokens") => (Operator::TokenLayer, vec![column("num_tokens")], named()),
        _ if header.has("batch_size") => (Operator::Cpu, vec![column("batch_size")], named()),
        _ => return Err(vec![none(header, "`num_tokens` or `batch_size`")]),
    };
    let mapping = Mapping::new(operator, shape(operator, first), "prediction", MS);
    Ok(Reading::of(vec![Mapping { variant, times: Times::NotNegative, ..mapping }]))
}
