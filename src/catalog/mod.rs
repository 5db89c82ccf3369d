//! The catalog of models, GPUs, prices and fitted coefficients: facts with their source, in `data/catalog/*.yaml`.
//!
//! The files are part of the binary; a project's own `data/catalog/` adds to them and overrides them by name. Names
//! are found whatever their case, and by their aliases; what a scenario carries is always the name of the entry. A model may
//! also be a `config.json` of Hugging Face ([`hf`]); then a scenario carries its path as it was written.

pub mod hf;
#[cfg(test)]
mod hf_tests;
mod hybrid;
pub mod latency;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use pipe_kernel::scenario::{GpuSpec, ModelSpec};

use self::latency::FittedSet;
use crate::diag::{Diagnostic, Result, Span, io, nearest};

/// The built-in models.
const MODELS: &str = include_str!("../../data/catalog/models.yaml");
/// The built-in GPUs.
const GPUS: &str = include_str!("../../data/catalog/gpus.yaml");
/// The built-in prices.
const PRICES: &str = include_str!("../../data/catalog/prices.yaml");
/// The built-in fitted coefficients.
const LATENCY: &str = include_str!("../../data/catalog/latency.yaml");

/// Facts by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub models: BTreeMap<String, ModelSpec>,
    pub gpus: BTreeMap<String, GpuSpec>,
    /// What somebody asked for a GPU, and when. The simulator never looks at it.
    pub prices: Vec<Price>,
    /// Fitted coefficients, under the names of models and GPUs.
    pub fitted: Vec<FittedSet>,
    /// Where the facts of a model, and of a GPU, are from.
    pub model_notes: BTreeMap<String, Note>,
    pub gpu_notes: BTreeMap<String, Note>,
    /// Lower-cased names and aliases of models -> name.
    model_names: BTreeMap<String, String>,
    gpu_names: BTreeMap<String, String>,
    /// Models read from a `config.json`: as written -> the file, and what is in it.
    configs: Arc<Mutex<BTreeMap<String, (PathBuf, ModelSpec)>>>,
}

/// Where the facts of an entry are from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Note {
    pub source: String,
    /// Day on which they were read, `YYYY-MM-DD`; empty where nobody says.
    pub date: String,
    pub aliases: Vec<String>,
    /// The entry whose facts they are.
    pub same_as: Option<String>,
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
    /// Where the facts come from.
    #[serde(default)]
    source: String,
    #[serde(default)]
    date: String,
    #[serde(default)]
    aliases: Vec<String>,
    facts: Option<T>,
    /// Of a model: its `config.json`, or the folder that it lies in, relative to the file.
    config: Option<PathBuf>,
    /// The entry before, in this file or in the built-in one, that has the same facts.
    same_as: Option<String>,
}

/// What entries are of: how a file is read in place of facts.
trait Facts: Clone + DeserializeOwned {
    fn from_config(path: &Path) -> std::result::Result<Self, Diagnostic>;
}

impl Facts for ModelSpec {
    fn from_config(path: &Path) -> std::result::Result<Self, Diagnostic> {
        hf::read(path)
    }
}

impl Facts for GpuSpec {
    fn from_config(_: &Path) -> std::result::Result<Self, Diagnostic> {
        Err(Diagnostic::new("catalog::invalid", "a GPU has no config; give its `facts`"))
    }
}

/// The built-in catalog, with that of the project on top.
///
/// # Errors
/// A file of the project's catalog that is not valid.
pub fn load(project: &Path) -> Result<Catalog> {
    let (built_in, groups) = built_in()?;
    let mut catalog = Catalog { configs: Arc::default(), ..built_in.clone() };
    let folder = project.join("data/catalog");
    if let Some((text, file)) = read(&folder.join("models.yaml"), MODELS)? {
        catalog.add_models(&text, &file, &folder)?;
    }
    if let Some((text, file)) = read(&folder.join("gpus.yaml"), GPUS)? {
        catalog.add_gpus(&text, &file, &folder)?;
    }
    if let Some((text, file)) = read(&folder.join("prices.yaml"), PRICES)? {
        catalog.prices.extend(parse::<Vec<Price>>(&text, &file)?);
    }
    let mut fitted = latency::sets(groups, "latency.yaml", &catalog)?;
    if let Some((text, file)) = read(&folder.join("latency.yaml"), LATENCY)? {
        fitted.extend(latency::sets(&parse::<Vec<latency::Group>>(&text, &file)?, &file, &catalog)?);
    }
    catalog.fitted = fitted;
    Ok(catalog)
}

/// What the binary carries, read once: every stage asks for it. The coefficients are still without names.
fn built_in() -> Result<&'static (Catalog, Vec<latency::Group>)> {
    static READ: OnceLock<(Catalog, Vec<latency::Group>)> = OnceLock::new();
    if let Some(read) = READ.get() {
        return Ok(read);
    }
    let mut catalog = Catalog::default();
    let none = Path::new("");
    catalog.add_models(MODELS, "models.yaml", none)?;
    catalog.add_gpus(GPUS, "gpus.yaml", none)?;
    catalog.prices = parse(PRICES, "prices.yaml")?;
    let groups = parse(LATENCY, "latency.yaml")?;
    Ok(READ.get_or_init(|| (catalog, groups)))
}

impl Catalog {
    fn add_models(&mut self, text: &str, file: &str, folder: &Path) -> Result<()> {
        add(text, file, folder, &mut self.models, &mut self.model_names, &mut self.model_notes)
    }

    fn add_gpus(&mut self, text: &str, file: &str, folder: &Path) -> Result<()> {
        add(text, file, folder, &mut self.gpus, &mut self.gpu_names, &mut self.gpu_notes)
    }

    /// The model of that name or alias, under the name of its entry; or the one in the `config.json` at that path, which
    /// is relative to `base`, under the name that was given. Without a base, what was read under that name before.
    ///
    /// # Errors
    /// As [`Catalog::model`] and [`hf::read`].
    pub fn find_model(&self, name: &str, base: Option<&Path>) -> std::result::Result<(String, ModelSpec), Diagnostic> {
        let named = self.model(name);
        let Some(written) = hf::path_of(name).filter(|_| named.is_err()) else {
            return named.map(|(name, facts)| (name.to_string(), facts.clone()));
        };
        let path = base.map_or(written.clone(), |base| base.join(&written).components().collect());
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, facts)) = configs.get(name).filter(|(known, _)| base.is_none() || *known == path) {
            return Ok((name.to_string(), facts.clone()));
        }
        let facts = hf::read(&path)?;
        configs.insert(name.to_string(), (path, facts.clone()));
        Ok((name.to_string(), facts))
    }

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

fn add<T: Facts>(
    text: &str,
    file: &str,
    folder: &Path,
    entries: &mut BTreeMap<String, T>,
    names: &mut BTreeMap<String, String>,
    notes: &mut BTreeMap<String, Note>,
) -> Result<()> {
    for (name, entry) in parse::<IndexMap<String, Entry<T>>>(text, file)? {
        let wrong = |what: String| Diagnostic::new("catalog::invalid", format!("`{name}` in {file}: {what}"));
        let facts = match (entry.facts, &entry.config, &entry.same_as) {
            (Some(facts), None, None) => facts,
            (None, Some(config), None) => T::from_config(&folder.join(config)).map_err(|d| {
                let message = d.message.clone();
                Diagnostic { message: format!("`{name}` in {file}: {message}"), ..d }
            })?,
            (None, None, Some(other)) => {
                let known = names.get(&other.to_lowercase()).and_then(|n| entries.get(n));
                let missing = || wrong(format!("there is no `{other}` before it, which it would be the same as"));
                known.cloned().ok_or_else(missing)?
            }
            _ => return Err(wrong("needs one of `facts`, `config` and `same_as`".to_string()).into()),
        };
        for alias in &entry.aliases {
            names.insert(alias.to_lowercase(), name.clone());
        }
        names.insert(name.to_lowercase(), name.clone());
        let same_as = entry.same_as.and_then(|other| names.get(&other.to_lowercase()).cloned());
        let note = Note { source: entry.source, date: entry.date, aliases: entry.aliases, same_as };
        notes.insert(name.clone(), note);
        entries.insert(name, facts);
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
