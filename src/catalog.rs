//! The catalog of models and GPUs: facts with their source, in `data/catalog/*.yaml`.
//!
//! The files are part of the binary; a project's own `data/catalog/` adds to them and overrides them by name. Names
//! are found whatever their case, and by their aliases; what a scenario carries is always the name of the entry.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use pipe_kernel::scenario::{GpuSpec, ModelSpec};

use crate::diag::{Diagnostic, Result, Span, io, nearest};

/// The built-in models.
const MODELS: &str = include_str!("../data/catalog/models.yaml");
/// The built-in GPUs.
const GPUS: &str = include_str!("../data/catalog/gpus.yaml");
/// The built-in prices.
const PRICES: &str = include_str!("../data/catalog/prices.yaml");

/// Facts by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub models: BTreeMap<String, ModelSpec>,
    pub gpus: BTreeMap<String, GpuSpec>,
    /// What somebody asked for a GPU, and when. The simulator never looks at it.
    pub prices: Vec<Price>,
    /// Lower-cased names and aliases of models -> name.
    model_names: BTreeMap<String, String>,
    gpu_names: BTreeMap<String, String>,
}

/// A price at a date, from a source.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Name of the GPU in the catalog.
    pub gpu: String,
    pub usd_per_gpu_hour: f64,
    pub provider: String,
    /// What exactly was priced.
    pub terms: String,
    /// Day on which the price was seen, `YYYY-MM-DD`.
    pub date: String,
    pub source: String,
}

/// One entry of `models.yaml` or `gpus.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<T> {
    /// Where the facts come from; for the reader of the file.
    #[serde(rename = "source")]
    _source: String,
    #[serde(default)]
    aliases: Vec<String>,
    facts: T,
}

/// The built-in catalog, with that of the project on top.
///
/// # Errors
/// A file of the project's catalog that is not valid.
pub fn load(project: &Path) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    let folder = project.join("data/catalog");
    add(MODELS, "models.yaml", &mut catalog.models, &mut catalog.model_names)?;
    add(GPUS, "gpus.yaml", &mut catalog.gpus, &mut catalog.gpu_names)?;
    catalog.prices = parse(PRICES, "prices.yaml")?;
    if let Some((text, file)) = read(&folder.join("models.yaml"), MODELS)? {
        add(&text, &file, &mut catalog.models, &mut catalog.model_names)?;
    }
    if let Some((text, file)) = read(&folder.join("gpus.yaml"), GPUS)? {
        add(&text, &file, &mut catalog.gpus, &mut catalog.gpu_names)?;
    }
    if let Some((text, file)) = read(&folder.join("prices.yaml"), PRICES)? {
        catalog.prices.extend(parse::<Vec<Price>>(&text, &file)?);
    }
    Ok(catalog)
}

impl Catalog {
    /// The model of that name or alias, under the name of its entry.
    ///
    /// # Errors
    /// No such model; the diagnostic names the nearest, and has no place yet.
    pub fn model(&self, name: &str) -> std::result::Result<(&str, &ModelSpec), Diagnostic> {
        find(name, "model", &self.models, &self.model_names)
    }

    /// The GPU of that name or alias, under the name of its entry.
    ///
    /// # Errors
    /// No such GPU; the diagnostic names the nearest, and has no place yet.
    pub fn gpu(&self, name: &str) -> std::result::Result<(&str, &GpuSpec), Diagnostic> {
        find(name, "gpu", &self.gpus, &self.gpu_names)
    }
}

fn find<'a, T>(
    name: &str,
    what: &'static str,
    entries: &'a BTreeMap<String, T>,
    names: &BTreeMap<String, String>,
) -> std::result::Result<(&'a str, &'a T), Diagnostic> {
    let found = names.get(&name.to_lowercase()).and_then(|n| entries.get_key_value(n));
    if let Some((name, facts)) = found {
        return Ok((name, facts));
    }
    let valid = entries.keys().map(String::as_str).chain(names.keys().map(String::as_str));
    let help = match nearest(name, valid) {
        Some(near) => {
            let near = names.get(&near.to_lowercase()).map_or(near, String::as_str);
            format!("did you mean `{near}`?")
        }
        None => {
            let known: Vec<&str> = entries.keys().map(String::as_str).collect();
            format!("known are {}; a project adds its own in data/catalog/{what}s.yaml", known.join(", "))
        }
    };
    Err(Diagnostic::new("catalog::unknown", format!("no {what} `{name}` in the catalog")).help(help))
}

/// The text of a project's file and its name for messages; `None` where there is none, or it is the built-in one.
fn read(path: &Path, built_in: &str) -> Result<Option<(String, String)>> {
    match std::fs::read_to_string(path) {
        Ok(text) if text == built_in => Ok(None),
        Ok(text) => Ok(Some((text, path.display().to_string()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(path, "read", &e)),
    }
}

fn add<T: DeserializeOwned>(
    text: &str,
    file: &str,
    entries: &mut BTreeMap<String, T>,
    names: &mut BTreeMap<String, String>,
) -> Result<()> {
    for (name, entry) in parse::<IndexMap<String, Entry<T>>>(text, file)? {
        for alias in entry.aliases {
            names.insert(alias.to_lowercase(), name.clone());
        }
        names.insert(name.to_lowercase(), name.clone());
        entries.insert(name, entry.facts);
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T> {
    serde_saphyr::from_str(text).map_err(|e| {
        let at = e.location().map(|l| Span {
            file: file.into(),
            line: u32::try_from(l.line()).unwrap_or(0),
            column: u32::try_from(l.column()).unwrap_or(0),
            len: 0,
        });
        let message = e.to_string();
        let message = message.lines().next().unwrap_or_default().to_string();
        Diagnostic::new("catalog::invalid", format!("the catalog is not valid: {message}")).at(at).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        load(Path::new("/nonexistent")).unwrap()
    }

    /// Parameters of a dense model from its sizes: embedding, output matrix, attention, feed-forward, norms.
    fn dense_params_b(m: &ModelSpec) -> f64 {
        let f = f64::from;
        let attention = 2.0 * f(m.hidden) * f(m.head_dim) * (f(m.heads) + f(m.kv_heads));
        let mlp = f(m.mlp_matrices) * f(m.hidden) * f(m.intermediate);
        let embeddings = if m.tied_embeddings { 1.0 } else { 2.0 };
        let all = f(m.layers) * (attention + mlp + 2.0 * f(m.hidden)) + embeddings * f(m.vocab) * f(m.hidden);
        all / 1e9
    }

    #[test]
    fn sizes_of_dense_models_give_their_parameters() {
        let dense: Vec<_> = catalog().models.into_iter().filter(|(_, m)| m.experts == 0).collect();
        assert_eq!(dense.len(), 21);
        for (name, m) in dense {
            let params = dense_params_b(&m);
            assert!((params / m.params_b - 1.0).abs() < 0.01, "{name}: {params} from its sizes, {} listed", m.params_b);
        }
    }

    #[test]
    fn sizes_give_the_bytes_of_cache_per_token() {
        let catalog = catalog();
        for (name, bytes) in [
            ("meta-llama/Llama-2-7b-hf", 524_288),
            ("meta-llama/Llama-2-70b-hf", 327_680),
            ("meta-llama/Llama-3.1-8B", 131_072),
            ("meta-llama/Llama-3.1-405B", 516_096),
            ("codellama/CodeLlama-34b-Instruct-hf", 196_608),
            ("internlm/internlm-20b", 1_228_800),
            ("internlm/internlm2-20b", 196_608),
            ("Qwen/Qwen-72B", 2_621_440),
            ("Qwen/Qwen2.5-7B-Instruct", 57_344),
            ("Qwen/Qwen3-30B-A3B", 98_304),
            ("Qwen/Qwen3-235B-A22B", 192_512),
            ("mistralai/Mixtral-8x22B-v0.1", 229_376),
            ("microsoft/phi-2", 327_680),
            ("openai/gpt-oss-120b", 73_728),
            ("deepseek-ai/DeepSeek-V3", 70_272),
            ("deepseek-ai/DeepSeek-V2-Lite", 31_104),
            ("moonshotai/Kimi-K2-Instruct", 70_272),
        ] {
            let m = &catalog.models[name];
            let per_layer = match &m.mla {
                Some(a) => a.kv_rank + a.rope_dim,
                None => 2 * m.kv_heads * m.head_dim,
            };
            assert_eq!(m.layers * per_layer * 2, bytes, "{name}");
        }
        assert_eq!(catalog.models.len(), 31);
    }

    #[test]
    fn names_are_found_by_alias_and_case_and_wrong_ones_are_corrected() {
        let catalog = catalog();
        assert_eq!(catalog.model("llama-3.1-8b").unwrap().0, "meta-llama/Llama-3.1-8B");
        assert_eq!(catalog.model("META-LLAMA/llama-3.1-8b").unwrap().0, "meta-llama/Llama-3.1-8B");
        assert_eq!(catalog.gpu("H100").unwrap().0, "h100-sxm");
        let wrong = catalog.gpu("h100-smx").unwrap_err();
        assert_eq!(wrong.help.unwrap(), "did you mean `h100-sxm`?");
        assert!(catalog.model("gpt-5").unwrap_err().help.unwrap().contains("openai/gpt-oss-20b"));
    }

    #[test]
    fn prices_are_of_known_gpus() {
        let catalog = catalog();
        for price in &catalog.prices {
            assert!(catalog.gpus.contains_key(&price.gpu), "{}", price.gpu);
            assert!(price.usd_per_gpu_hour > 0.0);
        }
    }

    #[test]
    fn a_project_overrides_by_name_and_its_mistakes_have_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data/catalog");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("gpus.yaml");
        let facts = "facts: { bf16_tflops: 1, memory_gib: 2, memory_tb_per_s: 3 }";
        std::fs::write(&file, format!("h100-sxm:\n  source: ours\n  {facts}\n")).unwrap();
        assert_eq!(load(dir.path()).unwrap().gpu("h100").unwrap().1.bf16_tflops, 1.0);
        std::fs::write(&file, "h100-sxm:\n  source: ours\n  facts: { bf16: 1 }\n").unwrap();
        let failure = load(dir.path()).unwrap_err();
        assert_eq!(failure.diagnostics[0].at.as_ref().unwrap().line, 3);
    }
}
