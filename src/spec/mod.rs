//! YAML to a typed pipeline in which every value knows where it was written.
//!
//! [`load`] reads the file and its includes, applies `--set`, replaces `${name}` and `${env:NAME}`, and reports every
//! problem at once. It reads YAML files only: whether tables, traces and SQL make sense is the business of `plan`.

mod calibrate;
mod de;
mod explorer;
mod export;
mod fidelity;
mod files;
mod glue;
mod ingest;
mod kinds;
mod load;
mod optimize;
mod params;
mod parse;
mod plot;
mod problems;
mod profile;
mod ready;
mod schema;
mod search;
mod set;
mod synthesize;
#[cfg(test)]
mod tests;
mod tokenize;
mod transform;
mod tree;

use std::path::{Path, PathBuf};

pub use calibrate::*;
pub(crate) use de::STAND_IN;
pub use export::*;
pub use fidelity::{
    Aim, AimFigure, AimMetric, Candidate, Client, Fidelity, MeasuredConfigurations, MeasuredRun, MeasuredSteps, System,
};
pub use files::{Paths, is_pattern, is_url, no_match};
pub use glue::Placed;
pub use ingest::*;
pub use kinds::*;
pub use load::{load_mended, load_with};
pub use optimize::{External, JsonFile, Known, Metric, Optimize, Stop};
pub use plot::*;
pub use problems::from_tree;
pub use profile::{Folder, GenericFile, OperatorTables, Profile, StepLog, VidurFiles};
pub use ready::{Figures, Ready};
pub use schema::json_schema;
pub use search::{Find, FindQps, FindReplicas, IsoQps, Rank, Search};
pub use synthesize::*;
pub use tokenize::*;
pub use transform::*;
pub use tree::{Tree, TreeValue};

pub use crate::diag::Sources;
use crate::diag::{Diagnostic, Result, Span};

/// A string, and where it stands.
pub type Text = crate::diag::Spanned<String>;

/// The name of a table or stage that something reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Ref(pub Text);

/// A path to a file, made absolute: relative to the file that it was written in, or to the working directory when it
/// came from `--set`.
#[derive(Clone, Debug, PartialEq)]
pub struct FilePath {
    /// As written, for messages.
    pub written: String,
    pub path: PathBuf,
    pub at: Option<Span>,
}

/// A pipeline, checked as far as its own text goes.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    pub seed: u64,
    /// In the order of the file.
    pub stages: Vec<Stage>,
    /// The pipeline's file, as given.
    pub file: PathBuf,
    /// Every YAML file read, with its text, for showing the lines that diagnostics point at.
    pub sources: Sources,
}

#[derive(Clone, Debug)]
pub struct Stage {
    pub name: Text,
    pub spec: StageSpec,
}

/// Reads a pipeline.
///
/// `set` are the `--set` arguments as `(path, value)`: a name of `params`, or a dotted path into the document
/// (`stages.sim.simulate.deployment.tp`). Values are read as YAML.
///
/// # Errors
/// Every problem found, each with its place.
pub fn load(file: &Path, set: &[(String, String)]) -> Result<Pipeline> {
    load_with(file, set, &mut Sources::default())
}

/// Reads a YAML file that a pipeline names, with places in that file.
///
/// # Errors
/// It cannot be read; every problem of its text.
pub fn read_file<T: serde::de::DeserializeOwned>(file: &FilePath) -> std::result::Result<T, Vec<Diagnostic>> {
    let unread = |e: std::io::Error| {
        let message = format!("cannot read `{}`: {e}", file.written);
        vec![Diagnostic::new("spec::file", message).at(file.at.clone())]
    };
    let text = std::fs::read_to_string(&file.path).map_err(unread)?;
    let folder = std::path::absolute(&file.path).ok().and_then(|p| p.parent().map(std::sync::Arc::<Path>::from));
    let shown: std::sync::Arc<str> = file.written.as_str().into();
    from_tree(&parse::parse(&text, &shown, folder.as_ref())?)
}
