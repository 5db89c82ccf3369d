//! `pipe show gpu`, `pipe show model` and `pipe show prices`: what the catalog knows, and what follows from it.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use serde_json::json;

use pipe_kernel::scenario::{Deployment, Dtype, GpuSpec, ModelSpec};
use pipe_kernel::sim::SimError;
use pipe_kernel::sim::facts;
use pipe_kernel::sim::kv::plan;

use super::{bytes, kv_plan, table, thousands};
use crate::catalog::{self, Catalog, Note};
use crate::diag::{Diagnostic, Result};

/// Columns of a line.
const WIDTH: usize = 110;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// Contexts at which a model's decoding is looked at.
const CONTEXTS: [u64; 3] = [0, 1_024, 8_192];

/// What a model is shown on.
#[derive(Args, Debug)]
pub struct OnArgs {
    /// Of a model: show its memory plan on this GPU
    #[arg(long)]
    gpu: Option<String>,
    /// Of a model: tensor-parallel size
    #[arg(long, requires = "gpu")]
    tp: Option<u32>,
    /// Of a model: pipeline-parallel size
    #[arg(long, requires = "gpu")]
    pp: Option<u32>,
    /// Of a model: type of the weights, bf16 or fp8
    #[arg(long)]
    dtype: Option<String>,
    /// Of a model: type of the cache, bf16 or fp8
    #[arg(long)]
    kv_cache_dtype: Option<String>,
}

/// The text for `gpu`, `model` and `prices`, with or without a name; `None` where `what` is none of these.
///
/// # Errors
/// A name that the catalog lacks, a catalog that is not valid, settings that do not go together.
pub(super) fn show(project: &Path, what: &str, name: Option<&str>, on: &OnArgs) -> Result<Option<String>> {
    if name.is_some() && !matches!(what, "gpu" | "model" | "prices" | "figure") {
        let message = format!("`{what}` has nothing of that name");
        let help = "write `pipe show gpu NAME`, `pipe show model NAME`, `pipe show figure NAME`, `pipe show prices`, or `pipe show TABLE`";
        return Err(Diagnostic::new("cli::show", message).help(help).into());
    }
    let load = || catalog::load(project);
    Ok(match (what, name) {
        ("gpu", Some(name)) => Some(gpu(&load()?, name)?),
        ("gpu", None) => Some(gpus(&load()?)),
        ("model", Some(name)) => Some(model(&load()?, name, on)?),
        ("model", None) => Some(models(&load()?)),
        ("prices", gpu) => Some(prices(&load()?, gpu)?),
        ("figure", Some(name)) => Some(super::figures::one(project, name)?),
        ("figure" | "figures", None) => Some(super::figures::list(project)?),
        _ => None,
    })
}

fn gpus(catalog: &Catalog) -> String {
    let known = |x: f64| if x > 0.0 { x.to_string() } else { String::new() };
    let row = |(name, g): (&String, &GpuSpec)| {
        vec![
            name.clone(),
            known(g.bf16_tflops),
            known(g.fp8_tflops),
            known(g.fp4_tflops),
            known(g.memory_gib),
            known(g.memory_tb_per_s),
            known(g.nvlink_gb_per_s),
            known(g.tdp_w),
        ]
    };
    let rows: Vec<Vec<String>> = catalog.gpus.iter().map(row).collect();
    table(&["gpu", "BF16 TFLOP/s", "FP8", "FP4", "GiB", "TB/s", "link GB/s", "W"], &rows)
}

fn models(catalog: &Catalog) -> String {
    let row = |(name, m): (&String, &ModelSpec)| {
        let kv = thousands(facts::kv_bytes_per_token(m, Dtype::Bf16));
        let short = catalog.model_notes.get(name).and_then(|n| n.aliases.first()).cloned().unwrap_or_default();
        vec![name.clone(), short, m.params_b.to_string(), m.active_b.to_string(), kv, thousands(m.max_pos.into())]
    };
    let rows: Vec<Vec<String>> = catalog.models.iter().map(row).collect();
    table(&["model", "also", "params B", "per token B", "KV bytes per token", "positions"], &rows)
}

fn prices(catalog: &Catalog, gpu: Option<&str>) -> Result<String> {
    let only = gpu.map(|name| catalog.gpu(name).map(|(name, _)| name)).transpose()?;
    let rows: Vec<Vec<String>> = catalog
        .prices
        .iter()
        .filter(|p| only.is_none_or(|name| p.gpu == name))
        .map(|p| {
            let price = format!("{:.4}", p.usd_per_gpu_hour);
            vec![p.gpu.clone(), price, p.provider.clone(), p.terms.clone(), p.date.clone(), p.source.clone()]
        })
        .collect();
    Ok(table(&["gpu", "USD per GPU hour", "provider", "terms", "date", "source"], &rows))
}

/// Name, other names and source of an entry.
fn head(name: &str, note: Option<&Note>) -> String {
    let Some(note) = note else { return format!("{name}\n") };
    let also = if note.aliases.is_empty() { String::new() } else { format!(" (also {})", note.aliases.join(", ")) };
    let mut out = format!("{name}{also}\n");
    if let Some(other) = &note.same_as {
        out += &line("as", other.clone());
    }
    if !note.source.is_empty() {
        let date = if note.date.is_empty() { String::new() } else { format!("; read {}", note.date) };
        out += &line("source", format!("{}{date}", note.source));
    }
    out
}

/// A line of its own, or several where the text is long.
fn line(what: &str, text: String) -> String {
    let mut out = String::new();
    let mut line = format!("  {what:<11}");
    for word in text.split(' ') {
        if line.len() + word.len() >= WIDTH && line.len() > 14 {
            out += line.trim_end();
            out.push('\n');
            line = " ".repeat(13);
        }
        line.push(' ');
        line += word;
    }
    out + line.trim_end() + "\n"
}

/// FLOP per byte of memory traffic at which arithmetic takes as long.
fn ridge(g: &GpuSpec, tflops: f64) -> f64 {
    tflops / g.memory_tb_per_s
}

fn gpu(catalog: &Catalog, name: &str) -> Result<String> {
    let (name, g) = catalog.gpu(name)?;
    let mut out = head(name, catalog.gpu_notes.get(name));
    for (dtype, tflops, unit) in [
        ("BF16", g.bf16_tflops, "TFLOP/s"),
        ("FP8", g.fp8_tflops, "TFLOP/s"),
        ("FP4", g.fp4_tflops, "TFLOP/s"),
        ("INT8", g.int8_tops, "TOP/s"),
    ] {
        if tflops > 0.0 {
            let knee = format!("{:.0} per byte of memory traffic before memory is no limit", ridge(g, tflops));
            out += &line(dtype, format!("{tflops} {unit} dense; {knee}"));
        }
    }
    let visible =
        if g.visible_gib > 0.0 { format!(" ({} as the driver shows it)", g.visible_gib) } else { String::new() };
    out += &line("memory", format!("{} GiB{visible}, {} TB/s", g.memory_gib, g.memory_tb_per_s));
    let node = match g.gpus_per_node {
        0 => "other GPUs of the node".to_string(),
        n => format!("the other GPUs of {n} in a node"),
    };
    let links: Vec<String> =
        [(g.nvlink_gb_per_s, node.as_str()), (g.node_gb_per_s, "other nodes"), (g.pcie_gb_per_s, "the host")]
            .iter()
            .filter(|(speed, _)| *speed > 0.0)
            .map(|(speed, to)| format!("{speed} GB/s to {to}"))
            .collect();
    if !links.is_empty() {
        out += &line("links", format!("{} (each way)", links.join(", ")));
    }
    if g.tdp_w > 0.0 {
        let idle = if g.idle_w > 0.0 { format!(", {} W idle", g.idle_w) } else { String::new() };
        out += &line("power", format!("{} W{idle}", g.tdp_w));
    }
    // Two FLOP per weight and token, over the bytes of a weight: the same for all types whose peak doubles as they halve.
    let tokens = ridge(g, g.bf16_tflops);
    out += &line(
        "knee",
        format!("a step of {tokens:.0} tokens of a dense BF16 model takes as long to compute as to read"),
    );
    let prices: Vec<String> = catalog
        .prices
        .iter()
        .filter(|p| p.gpu == name)
        .map(|p| format!("{} ({}, {})", p.usd_per_gpu_hour, p.provider, p.date))
        .collect();
    if !prices.is_empty() {
        out += &line("USD per h", prices.join(", "));
    }
    let of = |plain: bool| {
        let sets = catalog.fitted.iter().filter(|s| s.gpu == name && (s.weights == "bf16") == plain);
        sets.map(|s| s.model.as_str()).collect::<BTreeSet<&str>>()
    };
    let (plain, quantized) = (of(true), of(false));
    if !(plain.is_empty() && quantized.is_empty()) {
        let plain: Vec<&str> = plain.into_iter().collect();
        let quantized = format!("and of {} with weights of fewer bits", quantized.len());
        out += &line("fitted", format!("coefficients of {}; {quantized}", plain.join(", ")));
    }
    Ok(out)
}

fn shape(m: &ModelSpec) -> String {
    let network = match (m.intermediate, m.experts) {
        (0, _) => String::new(),
        (_, 2..) if facts::dense_layers(m) == 0.0 => String::new(),
        (n, _) => format!(", feed-forward {n}"),
    };
    let heads = match &m.mla {
        Some(a) => format!("{} heads of latent attention (rank {} + {})", m.heads, a.kv_rank, a.rope_dim),
        None => format!("{} heads and {} key-value heads of {}", m.heads, m.kv_heads, m.head_dim),
    };
    format!(
        "{} layers of {}, {heads}{network}, vocabulary {}{}, {} positions",
        m.layers,
        m.hidden,
        m.vocab,
        if m.tied_embeddings { " (tied)" } else { "" },
        thousands(m.max_pos.into())
    )
}

fn dtype(text: Option<&str>, what: &str) -> Result<Dtype> {
    match text.map(str::to_lowercase).as_deref() {
        None | Some("bf16" | "bfloat16") => Ok(Dtype::Bf16),
        Some("fp8") => Ok(Dtype::Fp8),
        Some(other) => {
            Err(Diagnostic::new("cli::dtype", format!("{what}: `{other}` is no type")).help("bf16 or fp8").into())
        }
    }
}

fn model(catalog: &Catalog, name: &str, on: &OnArgs) -> Result<String> {
    let here = std::env::current_dir().unwrap_or_default();
    let (name, m) = catalog.find_model(name, Some(&here))?;
    let (weights, cache) =
        (dtype(on.dtype.as_deref(), "--dtype")?, dtype(on.kv_cache_dtype.as_deref(), "--kv-cache-dtype")?);
    let mut out = head(&name, catalog.model_notes.get(&name));
    let all = facts::params(&m);
    out += &line(
        "parameters",
        format!("{:.3} billion, {:.3} that a token passes", all / 1e9, facts::active_params(&m) / 1e9),
    );
    out += &line("shape", shape(&m));
    if m.experts >= 2 {
        let size = if m.moe_intermediate == 0 { m.intermediate } else { m.moe_intermediate };
        let shared = if m.shared_experts > 0 { format!(", {} of all", m.shared_experts) } else { String::new() };
        let layers = facts::moe_layers(&m);
        out += &line("mixture", format!("{} of {} experts of {size}{shared}, in {layers} layers", m.top_k, m.experts));
    }
    if m.linear_layers > 0 {
        out += &line(
            "hybrid",
            format!(
                "{} layers have no cache that grows, but {} bytes of state a request together",
                m.linear_layers,
                thousands(u64::from(m.linear_layers) * u64::from(m.state_bytes))
            ),
        );
    }
    let gib = |d: Dtype| all * d.bytes() / GIB;
    out += &line("weights", format!("{:.2} GiB in BF16, {:.2} in FP8", gib(Dtype::Bf16), gib(Dtype::Fp8)));
    let kv = |d: Dtype| thousands(facts::kv_bytes_per_token(&m, d));
    out += &line("KV cache", format!("{} bytes per token in BF16, {} in FP8", kv(Dtype::Bf16), kv(Dtype::Fp8)));
    if m.window_layers > 0 {
        let window = u64::from(m.sliding_window);
        let growth = facts::kv_bytes_at(&m, cache, window + 1) - facts::kv_bytes_at(&m, cache, window);
        out += &line(
            "window",
            format!(
                "{} layers look back {} tokens: an engine that drops the rest needs {} for {} tokens, and {} bytes for every \
                 further one",
                m.window_layers,
                thousands(window),
                bytes(facts::kv_bytes_at(&m, cache, window)),
                thousands(window),
                thousands(growth)
            ),
        );
    }
    let settings = |gpu: &str, tp: u32, pp: u32| -> Result<Deployment> {
        let value = json!({
            "model": name, "gpu": gpu, "tp": tp, "pp": pp, "dtype": weights, "kv": { "kv_cache_dtype": cache },
        });
        serde_json::from_value(value).map_err(|e| Diagnostic::new("cli::show", e.to_string()).into())
    };
    match &on.gpu {
        Some(gpu) => {
            let (gpu, g) = catalog.gpu(gpu)?;
            out += &on_gpu(&settings(gpu, on.tp.unwrap_or(1), on.pp.unwrap_or(1))?, &m, g);
        }
        None => {
            let mut fits = Vec::new();
            for (gpu, g) in &catalog.gpus {
                let d = settings(gpu, 1, 1)?;
                if let Some(tp) = plan::smallest_tp(&d, &m, g) {
                    fits.push(format!("{gpu} {tp}"));
                }
            }
            out += &line("fits", format!("with at least so many GPUs (tp): {}", fits.join(", ")));
        }
    }
    let mut fitted: Vec<String> =
        catalog.fitted_of(&name).map(|s| format!("{} tp {} (vLLM {})", s.gpu, s.tp, s.vllm)).collect();
    fitted.sort_unstable();
    fitted.dedup();
    if !fitted.is_empty() {
        out += &line("fitted", format!("coefficients for {}", fitted.join(", ")));
    }
    Ok(out)
}

/// The memory plan of a deployment, and where steps stop being bound by memory.
fn on_gpu(d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> String {
    let p = plan::plan(d, m, g);
    let stages = if d.pp > 1 { format!(", pp {}", d.pp) } else { String::new() };
    let of = format!("KV cache of {} on {}, tp {}{stages}", d.model, d.gpu, d.tp);
    let block = d.kv.block_size;
    let sentence = kv_plan::sentence(&of, d.tp * d.pp > 1, d.kv.gpu_memory_utilization, block.into(), &p);
    let mut out = line("plan", sentence);
    out += &line(
        "",
        match plan::blocks(d, m, g) {
            Ok(blocks) => format!("{} tokens", thousands(blocks * u64::from(block))),
            Err(SimError::Invalid { message, .. }) => message,
            Err(other @ SimError::Cancelled) => other.to_string(),
        },
    );
    let knees: Vec<String> = CONTEXTS
        .iter()
        .map(|&context| {
            let at =
                if context == 0 { "no context".to_string() } else { format!("{} tokens each", thousands(context)) };
            match decode_knee(d, m, g, context) {
                Some(batch) => format!("{} requests at {at}", thousands(batch)),
                None => format!("no number of requests at {at}"),
            }
        })
        .collect();
    out += &line("decode", format!("takes as long to compute as to read from {}", knees.join(", ")));
    let prompt = thousands(prefill_knee(d, m, g));
    out += &line("prefill", format!("takes as long to compute as to read from {prompt} tokens in a step"));
    out
}

/// Bytes of weights that a step of many tokens reads, experts all: the embedding is only looked up.
fn read_bytes(d: &Deployment, m: &ModelSpec) -> f64 {
    let looked_up = if m.tied_embeddings { 0.0 } else { f64::from(m.vocab) * f64::from(m.hidden) };
    (facts::params(m) - looked_up) * d.dtype.bytes()
}

/// FLOP of one query against one key, and its value, in all layers.
fn pair_flop(m: &ModelSpec) -> f64 {
    4.0 * f64::from(facts::cache_layers(m)) * f64::from(m.heads) * f64::from(m.head_dim)
}

/// Requests from which a decode step takes as long to compute as to read, at a context each; `None` where never: what each
/// further request reads takes longer than what it computes.
fn decode_knee(d: &Deployment, m: &ModelSpec, g: &GpuSpec, context: u64) -> Option<u64> {
    let (flops, bandwidth) = (facts::peak_flops(d, g), g.memory_tb_per_s * 1e12);
    let compute = (2.0 * facts::active_params(m) + pair_flop(m) * context as f64) / flops;
    let read = facts::kv_bytes_at(m, d.kv.kv_cache_dtype, context) as f64 / bandwidth;
    (compute > read).then(|| (read_bytes(d, m) / bandwidth / (compute - read)).ceil() as u64)
}

/// Tokens of one prompt from which a step takes as long to compute as to read.
fn prefill_knee(d: &Deployment, m: &ModelSpec, g: &GpuSpec) -> u64 {
    let (flops, bandwidth) = (facts::peak_flops(d, g), g.memory_tb_per_s * 1e12);
    // a n^2 + b n = c: pairs (half of the square, for no token sees later ones), weights and cache, weights read.
    let a = pair_flop(m) / 2.0 / flops;
    let written = facts::kv_bytes_per_token(m, d.kv.kv_cache_dtype) as f64 / bandwidth;
    let b = 2.0 * facts::active_params(m) / flops - written;
    let c = read_bytes(d, m) / bandwidth;
    ((-b + (b * b + 4.0 * a * c).sqrt()) / (2.0 * a)).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        catalog::load(Path::new("/nonexistent")).unwrap()
    }

    fn on(model: &str, dtype: &str) -> (Deployment, ModelSpec, GpuSpec) {
        let catalog = catalog();
        let d = json!({"model": model, "gpu": "h100-sxm", "dtype": dtype});
        let (m, g) = (catalog.model(model).unwrap().1.clone(), catalog.gpu("h100").unwrap().1.clone());
        (serde_json::from_value(d).unwrap(), m, g)
    }

    #[test]
    fn knees_are_where_the_two_times_are_equal() {
        let (d, m, g) = on("llama-3.1-8b", "bf16");
        // Without context two FLOP and two bytes per weight: 989 / 3.35.
        assert_eq!(decode_knee(&d, &m, &g, 0), Some(296));
        // At 1,024 tokens a request reads 134.2 MB in 40.06 us, and computes 15.01 + 0.54 GFLOP in 15.72 us.
        assert_eq!(decode_knee(&d, &m, &g, 1_024), None);
        // At 128: 5.008 us against 15.245; 15.01 GB of weights take 4,480.6 us: 437.7.
        assert_eq!(decode_knee(&d, &m, &g, 128), Some(438));
        // A prompt also writes its cache (39 ns per token), and attends to itself: 0.265 ns per token squared.
        let n = prefill_knee(&d, &m, &g) as f64;
        let balance =
            |n: f64| (15.0097 * n / 989.0e3 + 0.262_144e-3 * n * n / 989.0e3) - (15.0097e3 + 0.131_072 * n) / 3.35e6;
        assert!(balance(n) >= 0.0 && balance(n - 1.0) < 0.0, "{n}: {} {}", balance(n), balance(n - 1.0));
        // Half the bytes and twice the peak: the same.
        let (d, m, g) = on("llama-3.1-8b", "fp8");
        assert_eq!(decode_knee(&d, &m, &g, 0), Some(296));
        // A mixture reads all experts for tokens that pass a few: 46.57 GB over 12.75, more requests.
        let (d, m, g) = on("mixtral-8x7b", "bf16");
        assert_eq!(decode_knee(&d, &m, &g, 0), Some(1_079));
    }

    /// Without the breaks of lines.
    fn unwrapped(text: String) -> String {
        assert!(text.lines().all(|line| line.len() <= WIDTH || !line.starts_with("  ")), "{text}");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_model_is_shown_with_its_plan() {
        let show = |what: &str, name: &str, gpu: Option<&str>| {
            let on = OnArgs { gpu: gpu.map(str::to_string), tp: None, pp: None, dtype: None, kv_cache_dtype: None };
            show(Path::new("/nonexistent"), what, Some(name), &on).map(Option::unwrap)
        };
        let text = unwrapped(show("model", "llama-3.1-8b", Some("h100")).unwrap());
        for part in [
            "8.030 billion, 7.505 that a token passes",
            "131,072 bytes per token in BF16, 65,536 in FP8",
            "KV cache of meta-llama/Llama-3.1-8B on h100-sxm, tp 1: 80 GiB x 0.9 = 72.00 - weights 14.96",
            "26,312 blocks",
            "420,992 tokens",
            "from 296 requests at no context",
            "h100-sxm tp 1 (vLLM 0.11.0)",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let text = unwrapped(show("model", "gpt-oss-20b", None).unwrap());
        // 24 x 2,048 bytes x 128; beyond, 12 layers.
        assert!(text.contains("12 layers look back 128 tokens"), "{text}");
        assert!(text.contains("needs 6.0 MiB for 128 tokens, and 24,576 bytes for every further one"), "{text}");
        let text = unwrapped(show("model", "llama-3.1-70b", Some("h100")).unwrap());
        assert!(text.contains("the smallest tensor-parallel size that fits is 2"), "{text}");
        let text = unwrapped(show("gpu", "h100", None).unwrap());
        assert!(text.contains("989 TFLOP/s dense; 295 per byte"), "{text}");
        let wrong = |what: &str, name: &str| show(what, name, None).unwrap_err().diagnostics[0].clone();
        assert_eq!(wrong("gpu", "h100-smx").help.unwrap(), "did you mean `h100-sxm`?");
        assert!(wrong("model", "llama-3.1-8").help.unwrap().contains("did you mean `meta-llama/Llama-3.1-8B`?"));
        assert!(wrong("sweep.sim", "x").help.unwrap().contains("pipe show gpu NAME"));
    }
}
