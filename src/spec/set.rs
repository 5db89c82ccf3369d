//! The `--set` arguments: a parameter, or a dotted path into the document, and a value in YAML.

use std::path::Path;
use std::sync::Arc;

use super::load::{Layer, expand_sql};
use super::problems::list;
use super::{Text, Tree, TreeValue, parse};
use crate::diag::{Diagnostic, Sources, Span, nearest};

/// What places on the command line are called.
const FILE: &str = "command line";
/// Before each argument, in the text that such places point into.
const PREFIX: &str = "--set ";

/// A `--set` argument.
pub(super) struct Set {
    path: Text,
    value: Tree,
}

impl Set {
    /// Reads the arguments, and makes them a source for messages. Values with problems are left out.
    pub fn read(set: &[(String, String)], sources: &mut Sources, problems: &mut Vec<Diagnostic>) -> Vec<Set> {
        let file: Arc<str> = FILE.into();
        let folder = std::env::current_dir().ok().map(Arc::<Path>::from);
        let mut text = String::new();
        let mut sets = Vec::new();
        for (path, value) in set {
            let line = count(text.matches('\n').count());
            let column = count(PREFIX.chars().count() + path.chars().count() + 1);
            let move_to = |at: &mut Span| {
                at.column += if at.line == 1 { column } else { 0 };
                at.line += line;
            };
            text.push_str(&format!("{PREFIX}{path}={value}\n"));
            match parse::parse(value, &file, folder.as_ref()) {
                Ok(mut value) => {
                    move_places(&mut value, &move_to);
                    let (column, len) = (count(PREFIX.chars().count() + 1), count(path.chars().count()));
                    let at = Span { file: file.clone(), line: line + 1, column, len };
                    sets.push(Set { path: Text::new(path.clone(), Some(at)), value });
                }
                Err(mut found) => {
                    found.iter_mut().filter_map(|d| d.at.as_mut()).for_each(&move_to);
                    problems.extend(found);
                }
            }
        }
        if !set.is_empty() {
            sources.0.insert(file, text.into());
        }
        sets
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn move_places(tree: &mut Tree, f: &impl Fn(&mut Span)) {
    tree.at.as_mut().into_iter().for_each(f);
    match &mut tree.value {
        TreeValue::List(items) => items.iter_mut().for_each(|item| move_places(item, f)),
        TreeValue::Map(entries) => {
            for (key, value) in entries {
                key.at.as_mut().into_iter().for_each(f);
                move_places(value, f);
            }
        }
        _ => {}
    }
}

/// Puts an argument into the document. A path that leads nowhere is a problem; whether its end fits is found when the
/// document gets its types.
pub(super) fn apply(set: Set, layer: &mut Layer, problems: &mut Vec<Diagnostic>) {
    let Set { path, value } = set;
    let (first, below) = path.value.split_once('.').map_or((path.value.as_str(), None), |(a, b)| (a, Some(b)));
    let document = ["name", "description", "seed"];
    match (first, below) {
        ("params", Some(rest)) => into(&mut layer.params, "parameter", rest, value, &path, problems),
        ("stages", Some(rest)) => into_stage(&mut layer.stages, rest, value, &path, problems),
        (name, _) if layer.params.iter().any(|(k, _)| k.value == name) => {
            into(&mut layer.params, "parameter", &path.value, value, &path, problems);
        }
        (name, None) if document.contains(&name) => {
            layer.rest.retain(|(k, _)| k.value != name);
            layer.rest.push((path, value));
        }
        (name, _) => {
            let params = layer.params.iter().map(|(k, _)| k.value.as_str());
            let names: Vec<&str> = params.chain(document).chain(["stages"]).collect();
            problems.push(unknown("parameter", name, &names, &path));
        }
    }
}

fn unknown(what: &str, name: &str, valid: &[&str], path: &Text) -> Diagnostic {
    let d = Diagnostic::new("spec::unknown_set", format!("--set: unknown {what} `{name}`")).at(path.at.clone());
    let all = format!("valid are {}", list(valid));
    d.help(match nearest(name, valid.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? {all}"),
        None => all,
    })
}

/// Follows `rest`, whose first segment names one of `entries`.
fn into(
    entries: &mut [(Text, Tree)],
    what: &str,
    rest: &str,
    value: Tree,
    path: &Text,
    problems: &mut Vec<Diagnostic>,
) {
    let (name, below) = rest.split_once('.').map_or((rest, None), |(a, b)| (a, Some(b)));
    let Some((_, tree)) = entries.iter_mut().find(|(k, _)| k.value == name) else {
        let names: Vec<&str> = entries.iter().map(|(k, _)| k.value.as_str()).collect();
        problems.push(unknown(what, name, &names, path));
        return;
    };
    match below {
        Some(below) => tree.set_path_from(below, value, path.at.as_ref()),
        None => *tree = value,
    }
}

/// `sim.simulate.deployment.tp`: the stage must exist, and be of that kind.
fn into_stage(stages: &mut [(Text, Tree)], rest: &str, value: Tree, path: &Text, problems: &mut Vec<Diagnostic>) {
    let mut segments = rest.split('.');
    if let (Some(name), Some(kind)) = (segments.next(), segments.next())
        && let Some((_, stage)) = stages.iter_mut().find(|(k, _)| k.value == name)
        && let TreeValue::Map(entries) = &mut stage.value
    {
        let kinds: Vec<String> = entries.iter().map(|(k, _)| k.value.clone()).collect();
        if !kinds.iter().any(|k| k == kind) {
            let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
            problems.push(unknown("kind of stage", kind, &kinds, path));
            return;
        }
        // The short form has no room for other settings.
        expand_sql(stage);
    }
    into(stages, "stage", rest, value, path, problems);
}
