//! Which files are read, and how: settled before anything runs, from settings and the names in folders alone.

use std::path::Path;

use pipe_kernel::profile::{DIMS, Layout, Operator};
use serde_json::{Value, json};

use super::frame::Header;
use super::mapping::Reading;
use super::{generic, layers, operators, vidur};
use crate::diag::{Diagnostic, nearest};
use crate::spec::{FilePath, Profile};

/// How a file with these columns is read.
pub(super) type Map = Box<dyn Fn(&Header) -> std::result::Result<Reading, Vec<Diagnostic>> + Send + Sync>;

pub(super) type Planned = std::result::Result<Plan, Vec<Diagnostic>>;

/// A file with points.
pub(super) struct Item {
    pub file: FilePath,
    pub map: Map,
    pub note: String,
}

/// A point that stands in no row.
pub(super) struct Constant {
    pub file: String,
    pub operator: Operator,
    pub variant: String,
    pub shape: [u32; DIMS],
    pub value: f64,
}

pub(super) struct Plan {
    pub layout: Layout,
    pub items: Vec<Item>,
    /// Files without points that matter.
    pub others: Vec<FilePath>,
    /// What is not read, and why.
    pub skipped: Vec<(String, String)>,
    pub constants: Vec<Constant>,
    /// Facts of the GPU.
    pub gpu: Option<FilePath>,
    /// Settings with defaults filled in, without paths.
    pub settings: Value,
}

impl Plan {
    pub fn new(layout: Layout) -> Plan {
        Plan {
            layout,
            items: Vec::new(),
            others: Vec::new(),
            skipped: Vec::new(),
            constants: Vec::new(),
            gpu: None,
            settings: json!({}),
        }
    }

    pub fn read(&mut self, file: FilePath, map: Map) {
        self.items.push(Item { file, map, note: String::new() });
    }
}

/// What a stage reads.
///
/// # Errors
/// No layout or several; folders that are not there, or do not have what is asked for.
pub(super) fn of(spec: &Profile) -> Planned {
    let Profile { operators, layers, vidur, vidur_predictions, generic, steps, bad_rows: _ } = spec;
    let given: Vec<(&str, Option<&crate::diag::Span>)> = [
        operators.as_ref().map(|o| ("operators", o.path.at.as_ref())),
        layers.as_ref().map(|o| ("layers", o.path.at.as_ref())),
        vidur.as_ref().map(|o| ("vidur", vidur::place(o))),
        vidur_predictions.as_ref().map(|o| ("vidur_predictions", o.path.at.as_ref())),
        generic.as_ref().map(|o| ("generic", o.path.at.as_ref())),
        steps.as_ref().map(|o| ("steps", o.path.at.as_ref())),
    ]
    .into_iter()
    .flatten()
    .collect();
    if given.len() != 1 {
        let names: Vec<&str> = Layout::ALL.iter().map(|l| l.name()).collect();
        let message = match given.as_slice() {
            [] => "a profile names no layout".to_string(),
            several => {
                let several: Vec<String> = several.iter().map(|(name, _)| format!("`{name}`")).collect();
                format!("a profile names {}: expected one layout", several.join(" and "))
            }
        };
        let at = given.get(1).and_then(|(_, at)| at.cloned());
        let help = format!("one of {}; several profiles are several stages", names.join(", "));
        return Err(vec![Diagnostic::new("profile::layout", message).at(at).help(help)]);
    }
    if let Some(settings) = operators {
        return operators::plan(settings);
    }
    if let Some(settings) = layers {
        return layers::plan(settings);
    }
    if let Some(settings) = vidur {
        return vidur::plan(settings);
    }
    if let Some(settings) = vidur_predictions {
        return vidur::predictions(settings);
    }
    if let Some(settings) = generic {
        return generic::plan(settings);
    }
    match steps {
        Some(settings) => generic::steps(settings),
        None => Err(Vec::new()),
    }
}

/// A file in a folder that the user named.
pub(super) fn inside(folder: &FilePath, relative: &str) -> FilePath {
    FilePath {
        written: format!("{}/{relative}", folder.written.trim_end_matches('/')),
        path: folder.path.join(relative),
        at: folder.at.clone(),
    }
}

/// Names in a folder, sorted: of folders, or of files.
pub(super) fn names(path: &Path, folders: bool) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let fits = entries.filter(|e| e.path().is_dir() == folders);
    let mut names: Vec<String> = fits.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|n| !n.starts_with('.'));
    names.sort();
    names
}

/// Refuses what is no folder.
pub(super) fn folder(path: &FilePath) -> std::result::Result<(), Vec<Diagnostic>> {
    if path.path.is_dir() {
        return Ok(());
    }
    let message = if path.path.exists() {
        format!("`{}` is a file, not a folder", path.written)
    } else {
        format!("folder `{}` does not exist", path.written)
    };
    let near = path.path.file_name().and_then(|n| n.to_str()).zip(path.path.parent()).and_then(|(wrong, parent)| {
        let there = names(parent, true);
        nearest(wrong, there.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"))
    });
    let help = near.unwrap_or_else(|| format!("looked for {}", path.path.display()));
    Err(vec![Diagnostic::new("profile::folder", message).at(path.at.clone()).help(help)])
}
