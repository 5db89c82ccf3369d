//! `pipe init`: a first pipeline from a question asked in one line.
//!
//! Numbers are taken with the words around them, models and GPUs by their names in the catalog, a trace by the path of a file
//! that is there. What the question leaves open is filled in, and said.

use std::path::{Path, PathBuf};

use clap::Args;
use regex::Regex;

use super::{Done, project};
use crate::catalog::{self, Catalog};
use crate::diag::{self, Diagnostic, Exit, Result, Sources};
use crate::{plan, spec};

#[derive(Args, Debug)]
pub struct InitArgs {
    /// The question, e.g. "how many H100 does Llama 3.1 70B need for 20 requests/s with TTFT p95 under 1 s?"
    question: Vec<String>,
    /// Name of the pipeline, and of its file
    #[arg(long, default_value = "first")]
    name: String,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// What a question says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Asked {
    model: Option<String>,
    gpu: Option<String>,
    rate_rps: Option<String>,
    trace: Option<String>,
    input: Option<String>,
    output: Option<String>,
    quantile: Option<f64>,
    /// Metric and milliseconds.
    limits: Vec<(&'static str, f64)>,
}

const MODEL: &str = "meta-llama/Llama-3.1-8B";
const GPU: &str = "h100-sxm";

pub(super) fn init(root: Option<PathBuf>, args: InitArgs) -> Done {
    let project = match (&root, project(root.clone(), Path::new("."))) {
        (_, Ok(project)) => project,
        (_, Err(failure)) => return Err(failure.into()),
    };
    let name = &args.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        let problem = Diagnostic::new("init::name", format!("`{name}` is no name of a pipeline"));
        return Err(diag::Failure::from(problem.help("expected small letters, digits and `_`, a letter first")).into());
    }
    let file = project.join("pipelines").join(format!("{name}.yaml"));
    if file.exists() && !args.force {
        let problem = Diagnostic::new("init::exists", format!("{} is there already", file.display()));
        return Err(diag::Failure::from(problem.help("choose another --name, or write over it with --force")).into());
    }
    let question = args.question.join(" ");
    let catalog = catalog::load(&project)?;
    let asked = understood(&question, &catalog);
    let (text, tp) = fitting(&project, &file, &asked, &question, name)?;
    std::fs::create_dir_all(project.join("pipelines")).map_err(|e| diag::io(&file, "write", &e))?;
    std::fs::write(&file, text).map_err(|e| diag::io(&file, "write", &e))?;
    let here = std::env::current_dir().unwrap_or_default();
    let shown = file.strip_prefix(&here).unwrap_or(&file).display();
    say!("{shown}: {}", told(&asked, tp));
    say!("\nrun it:   pipe run {shown}\nchange it: every line says what it is; `pipe check {shown}` finds mistakes");
    Ok(Exit::Ok)
}

/// The pipeline with the least tensor parallelism whose weights fit, with room for a KV cache worth the name: in six tenths
/// of the memory if they can, else in what an engine takes.
fn fitting(project: &Path, file: &Path, asked: &Asked, question: &str, name: &str) -> Result<(String, u32)> {
    let mut last = None;
    for memory in ["        kv: { gpu_memory_utilization: 0.6 }\n", ""] {
        for tp in [1, 2, 4, 8] {
            let text = pipeline(asked, question, name, tp);
            let tried = text.replace("        router:", &format!("{memory}        router:"));
            match checked(project, file, &tried) {
                Ok(()) => return Ok((text, tp)),
                Err(failure) => last = Some(failure),
            }
        }
    }
    Err(last.unwrap_or_else(|| unreachable!("at least one was tried")))
}

/// Whether the pipeline is one without mistakes. It is looked at in a file beside the one that it will be in, so that paths
/// mean the same.
fn checked(project: &Path, file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().unwrap_or(project);
    std::fs::create_dir_all(folder).map_err(|e| diag::io(folder, "make", &e))?;
    let tried = tempfile::Builder::new().prefix(".init-").suffix(".yaml").tempfile_in(folder);
    let tried = tried.map_err(|e| diag::io(folder, "write", &e))?;
    std::fs::write(tried.path(), text).map_err(|e| diag::io(tried.path(), "write", &e))?;
    let mut sources = Sources::default();
    let (pipeline, problems) = spec::load_mended(tried.path(), &[], &mut sources);
    match pipeline {
        Some(pipeline) if problems.is_empty() => plan::check(&pipeline, project).map(|_| ()),
        _ => Err(diag::Failure::usage(problems)),
    }
}

fn understood(question: &str, catalog: &Catalog) -> Asked {
    let first = |pattern: &str| -> Option<String> {
        let found = Regex::new(&format!("(?i){pattern}")).ok()?.captures(question)?;
        found.iter().skip(1).flatten().next().map(|m| m.as_str().to_string())
    };
    let number = r"(\d+(?:\.\d+)?)";
    let mut asked = Asked {
        rate_rps: first(&format!(r"{number}\s*(?:rps\b|qps\b|req(?:uests?)?\s*(?:/|per|a)\s*s)")),
        input: first(r"(\d+)\s*(?:prompt|input)\b").or_else(|| first(r"(?:prompts?|inputs?)\s+of\s+(\d+)")),
        output: first(r"(\d+)\s*(?:output|reply|replies)\b").or_else(|| first(r"(?:outputs?|replies)\s+of\s+(\d+)")),
        quantile: first(r"\bp(\d\d(?:\.\d+)?)\b").and_then(|p| p.parse::<f64>().ok()).map(|p| p / 100.0),
        ..Asked::default()
    };
    for (metric, words) in
        [("ttft_ms", "ttft|first token"), ("tpot_ms", "tpot|itl|per token"), ("e2e_ms", "e2e|latency")]
    {
        let pattern = format!(r"(?i)(?:{words})[^0-9.]*(?:p\d\d(?:\.\d+)?[^0-9]*)?{number}\s*(ms|s\b|sec)");
        let found = Regex::new(&pattern).ok().and_then(|regex| {
            let found = regex.captures(question)?;
            let value: f64 = found.get(1)?.as_str().parse().ok()?;
            Some(if found.get(2)?.as_str().eq_ignore_ascii_case("ms") { value } else { 1000.0 * value })
        });
        asked.limits.extend(found.map(|ms| (metric, ms)));
    }
    let words: Vec<&str> =
        question.split_whitespace().map(|w| w.trim_matches([',', '?', '!', ';', '"', '\''])).collect();
    asked.trace = words.iter().find(|w| w.contains('.') && Path::new(w).is_file()).map(|w| w.to_string());
    let models = catalog.models.keys().map(|name| (name.as_str(), name.rsplit('/').next().unwrap_or(name)));
    let notes = catalog.model_notes.iter();
    let model_aliases = notes.flat_map(|(name, note)| note.aliases.iter().map(|a| (name.as_str(), a.as_str())));
    asked.model = named(&words, models.chain(model_aliases));
    let gpus = catalog.gpus.keys().map(|name| (name.as_str(), name.as_str()));
    let notes = catalog.gpu_notes.iter();
    let gpu_aliases = notes.flat_map(|(name, note)| note.aliases.iter().map(|a| (name.as_str(), a.as_str())));
    asked.gpu = named(&words, gpus.chain(gpu_aliases));
    asked
}

/// The entry whose name stands in the words, written together or apart; of several the longest.
fn named<'a>(words: &[&str], entries: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let plain =
        |text: &str| -> String { text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase() };
    let joined: Vec<String> = (0..words.len())
        .flat_map(|i| (i + 1..=(i + 4).min(words.len())).map(move |j| (i, j)))
        .map(|(i, j)| plain(&words[i..j].concat()))
        .collect();
    let fits = |name: &str| {
        let name = plain(name);
        // `H100s` are several.
        name.len() > 1 && joined.iter().any(|w| *w == name || w.strip_suffix('s') == Some(&name))
    };
    let found = entries.filter(|(_, alias)| fits(alias));
    found
        .max_by_key(|(name, alias)| (plain(alias).len(), std::cmp::Reverse(name.len())))
        .map(|(name, _)| name.to_string())
}

fn limits(asked: &Asked) -> Vec<(&'static str, f64)> {
    if asked.limits.is_empty() { vec![("ttft_ms", 500.0), ("tpot_ms", 50.0)] } else { asked.limits.clone() }
}

/// Median and 90th percentile of the tokens of prompts, and of replies.
fn lengths(asked: &Asked) -> [(u64, u64); 2] {
    let of = |asked: &Option<String>, default| asked.as_deref().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (input, output) = (of(&asked.input, 600_u64), of(&asked.output, 200_u64));
    [(input, input.saturating_mul(4)), (output, output.saturating_mul(3))]
}

fn told(asked: &Asked, tp: u32) -> String {
    let said = |value: &Option<String>, default: &str| match value {
        Some(value) => value.clone(),
        None => format!("{default} (assumed)"),
    };
    let what = match &asked.rate_rps {
        Some(rate) => format!("the fewest replicas for {rate} requests/s"),
        None => "the highest load of one replica".to_string(),
    };
    let requests = match &asked.trace {
        Some(trace) => format!("requests of {trace}"),
        None => {
            let [(input, long), (output, many)] = lengths(asked);
            let assumed = if asked.input.is_some() && asked.output.is_some() { "" } else { ", assumed" };
            format!("prompts of {input} tokens and replies of {output} (medians; p90 {long} and {many}{assumed})")
        }
    };
    let limits = limits(asked).iter().map(|(m, ms)| format!("{m} <= {ms}")).collect::<Vec<_>>().join(" and ");
    let assumed = if asked.limits.is_empty() { " (assumed)" } else { "" };
    format!(
        "{what}; model {}, GPU {}, tp {tp}; {requests}; {limits}{assumed} at quantile {}",
        said(&asked.model, MODEL),
        said(&asked.gpu, GPU),
        asked.quantile.unwrap_or(0.99),
    )
}

fn pipeline(asked: &Asked, question: &str, name: &str, tp: u32) -> String {
    let model = asked.model.as_deref().unwrap_or(MODEL);
    let gpu = asked.gpu.as_deref().unwrap_or(GPU);
    let rules =
        limits(asked).iter().map(|(m, ms)| format!("{{ metric: {m}, max: {ms} }}")).collect::<Vec<_>>().join(", ");
    let quantile = asked.quantile.unwrap_or(0.99);
    let header =
        if question.is_empty() { "A first pipeline.".to_string() } else { question.replace(['\n', '\r'], " ") };
    let [input, output] = lengths(asked);
    let requests = match &asked.trace {
        Some(trace) => {
            let path = std::path::absolute(trace).unwrap_or_else(|_| PathBuf::from(trace));
            format!(
                "  # A trace of your own: its format is found from its content.\n  requests:\n    ingest: {{ path: \"{}\" }}\n",
                path.display(),
            )
        }
        None => format!(
            "  # Requests that are drawn: half of the prompts are shorter than p50, and nine of ten than p90. With a trace of your\n  \
             # own: `ingest: {{ path: requests.jsonl }}`.\n  requests:\n    synthesize:\n      requests: 3000\n      rate_rps: {}\n      \
             input: {{ lognormal_p50_p90: {{ p50: {}, p90: {} }} }}\n      output: {{ lognormal_p50_p90: {{ p50: {}, p90: {} }} }}\n",
            asked.rate_rps.as_deref().unwrap_or("4"),
            input.0,
            input.1,
            output.0,
            output.1,
        ),
    };
    let (arrivals, find, what) = match &asked.rate_rps {
        Some(rate) => (
            format!("{{ arrivals: poisson, rate_rps: {rate} }}"),
            "{ replicas: { start: 2 } }",
            "The fewest replicas that serve this load within the objectives.",
        ),
        None => (
            "{ arrivals: poisson }".to_string(),
            "{ qps: { start: 4, tolerance: 0.02 } }",
            "The highest load that one replica serves within the objectives.",
        ),
    };
    format!(
        "# {header}\nname: {name}\nseed: 1\n\nstages:\n{requests}\n  # {what}\n  answer:\n    search:\n      requests: requests\n      \
         deployment:\n        model: {model}\n        gpu: {gpu}\n        tp: {tp}\n        router: least_outstanding\n      workload: {arrivals}\n      # To compare several:\n      # sweep: \
         {{ grid: {{ deployment.gpu: [{gpu}, h200-sxm] }} }}\n      find: {find}\n      slos:\n        - {{ name: objective, quantile: \
         {quantile}, all: [{rules}] }}\n\n  # Everything is a table: `pipe sql \"SELECT * FROM {name}.answer\"`.\n  probes:\n    sql: \
         SELECT * FROM answer_probes ORDER BY 1, 2, 3\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &str) -> Asked {
        understood(question, &catalog::load(Path::new("/nonexistent")).unwrap())
    }

    #[test]
    fn questions_are_understood() {
        let found = asked(
            "How many H100s does Llama 3.1 70B need for 20.5 requests/s with TTFT p95 under 0.4 s and TPOT < 30 ms?",
        );
        assert_eq!(found.gpu.as_deref(), Some("h100-sxm"));
        assert_eq!(found.model.as_deref(), Some("meta-llama/Llama-3.1-70B"));
        assert_eq!((found.rate_rps.as_deref(), found.quantile), (Some("20.5"), Some(0.95)));
        assert_eq!(found.limits, [("ttft_ms", 400.0), ("tpot_ms", 30.0)]);
        let found = asked("what load does an l40s carry with prompts of 1000 and 300 output tokens");
        assert_eq!((found.gpu.as_deref(), found.model, found.rate_rps), (Some("l40s"), None, None));
        assert_eq!((found.input.as_deref(), found.output.as_deref()), (Some("1000"), Some("300")));
        assert_eq!(asked(""), Asked::default());
    }

    #[test]
    fn what_is_assumed_is_said() {
        let cases = [
            (
                "",
                "the highest load of one replica; model meta-llama/Llama-3.1-8B (assumed), GPU h100-sxm (assumed), tp 1; \
                 prompts of 600 tokens and replies of 200 (medians; p90 2400 and 600, assumed); ttft_ms <= 500 and \
                 tpot_ms <= 50 (assumed) at quantile 0.99",
            ),
            (
                "l40s, llama 3.1 8b, 4 rps, prompts of 1000 and 300 output tokens, TTFT p95 under 1 s",
                "the fewest replicas for 4 requests/s; model meta-llama/Llama-3.1-8B, GPU l40s, tp 1; prompts of 1000 tokens \
                 and replies of 300 (medians; p90 4000 and 900); ttft_ms <= 1000 at quantile 0.95",
            ),
        ];
        for (question, expected) in cases {
            assert_eq!(told(&asked(question), 1), expected);
        }
    }

    #[test]
    fn what_is_written_is_a_pipeline_that_fits() {
        let dir = tempfile::tempdir().unwrap();
        for (question, tp) in [("", 1), ("llama 3.1 70b on h100 for 5 rps", 4), ("llama 3.1 8b on a 4090", 2)] {
            let asked = asked(question);
            let file = dir.path().join("pipelines/first.yaml");
            let (text, found) = fitting(dir.path(), &file, &asked, question, "first").unwrap();
            assert_eq!(found, tp, "{question}\n{text}");
            assert_eq!(std::fs::read_dir(dir.path().join("pipelines")).unwrap().count(), 0, "nothing is left behind");
        }
    }
}
