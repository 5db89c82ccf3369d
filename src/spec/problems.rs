//! A tree to a typed value, with every problem at once.
//!
//! Serde stops at the first problem. Here the problem is noted, its place in a copy of the tree is mended (a key that
//! was meant is renamed, an unknown one dropped, a wrong or missing value replaced by one that fits anything), and the
//! copy is read again, until nothing is left to find.

use serde::de::DeserializeOwned;

use super::de::{De, Kind, Problem, Step};
use super::{Text, Tree, TreeValue};
use crate::diag::{Diagnostic, Span, nearest};

/// Problems of one tree that are reported at most.
const MAX_PROBLEMS: usize = 50;

/// The choice that is the kind of a stage, by serde's name of it.
const STAGE: &str = "StageSpec";

/// Reads a typed value.
///
/// # Errors
/// Every problem, at the place of the innermost value that has one.
pub fn from_tree<T: DeserializeOwned>(tree: &Tree) -> Result<T, Vec<Diagnostic>> {
    match mended(tree) {
        (Some(value), problems) if problems.is_empty() => Ok(value),
        (_, problems) => Err(problems),
    }
}

/// The value with every problem mended, where that is possible, and the problems.
pub(super) fn mended<T: DeserializeOwned>(tree: &Tree) -> (Option<T>, Vec<Diagnostic>) {
    let mut problem = match T::deserialize(De(tree)) {
        Ok(value) => return (Some(value), Vec::new()),
        Err(problem) => problem,
    };
    let mut tree = tree.clone();
    let mut value = None;
    let mut found = Found::default();
    while found.count() < MAX_PROBLEMS {
        let path: Vec<Step> = problem.path.iter().rev().copied().collect();
        if at_path(&mut tree, &path).is_some_and(|t| t.stand_in) {
            break;
        }
        found.note(&tree, &path, &problem);
        mend(&mut tree, &path, &problem);
        problem = match T::deserialize(De(&tree)) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(problem) => problem,
        };
    }
    (value, found.finish())
}

/// What was found so far. Keys missing from one map become one diagnostic.
#[derive(Default)]
struct Found {
    diagnostics: Vec<Diagnostic>,
    missing: Vec<Missing>,
}

struct Missing {
    path: Vec<Step>,
    at: Option<Span>,
    fields: Vec<&'static str>,
    valid: &'static [&'static str],
}

impl Found {
    fn count(&self) -> usize {
        self.diagnostics.len() + self.missing.iter().map(|m| m.fields.len()).sum::<usize>()
    }

    fn note(&mut self, tree: &Tree, path: &[Step], problem: &Problem) {
        let at = place(tree, path, problem);
        if let Kind::Missing { field, valid } = problem.kind {
            match self.missing.iter_mut().find(|m| m.path == path) {
                Some(missing) => missing.fields.push(field),
                None => self.missing.push(Missing { path: path.to_vec(), at, fields: vec![field], valid }),
            }
        } else {
            self.diagnostics.push(describe(&problem.kind).at(at));
        }
    }

    fn finish(mut self) -> Vec<Diagnostic> {
        for m in &self.missing {
            let (noun, fields) = (if m.fields.len() == 1 { "key" } else { "keys" }, list(&m.fields));
            let d = Diagnostic::new("spec::missing_key", format!("required {noun} {fields} missing")).at(m.at.clone());
            self.diagnostics.push(if m.valid.is_empty() {
                d
            } else {
                d.help(format!("its keys are {}", list(m.valid)))
            });
        }
        self.diagnostics.sort_by(|a, b| a.at.cmp(&b.at));
        self.diagnostics
    }
}

fn describe(kind: &Kind) -> Diagnostic {
    let with = |code, message: String, help: &Option<String>| {
        let d = Diagnostic::new(code, message);
        help.iter().fold(d, |d, help| d.help(help.clone()))
    };
    match kind {
        Kind::UnknownField { name, valid } => {
            let d = Diagnostic::new("spec::unknown_key", format!("unknown key `{name}`"));
            match valid {
                [] => d.help("no keys are allowed here"),
                _ if name == "bad_rows" && valid.contains(&"on_error") => {
                    d.help("it is called `on_error` now: `fail`, or `quarantine` in the place of `reject`")
                }
                _ => d.help(suggest(name, valid, "its keys are")),
            }
        }
        Kind::UnknownChoice { what, name, valid } => {
            let message = format!("unknown {} `{name}`", choice_in_words(what));
            Diagnostic::new("spec::unknown_choice", message).help(suggest(name, valid, "one of"))
        }
        Kind::Missing { field, .. } => Diagnostic::new("spec::missing_key", format!("required key `{field}` missing")),
        Kind::Type { wanted, found, help } => {
            with("spec::wrong_type", format!("expected {wanted}, found {found}"), help)
        }
        Kind::Other { message, help } => with("spec::invalid", message.clone(), help),
    }
}

/// "did you mean `a`? its keys are `a`, `b`"
fn suggest(wrong: &str, valid: &[&str], introduction: &str) -> String {
    let all = format!("{introduction} {}", list(valid));
    match nearest(wrong, valid.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? {all}"),
        None => all,
    }
}

/// Names in backticks, with commas.
pub(super) fn list(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|n| format!("`{}`", n.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The name of an enum as a user would say it: `SamplerSpec` is a "sampler", `TimeUnit` a "time unit".
pub(super) fn choice_in_words(name: &str) -> String {
    if name == STAGE {
        return "kind of stage".into();
    }
    let mut words = String::new();
    for c in name.strip_suffix("Spec").unwrap_or(name).chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

/// The place to underline: the wrong key or value, and for a missing key the key that the map stands under. Values
/// without a place are shown at the nearest one around them.
fn place(tree: &Tree, path: &[Step], problem: &Problem) -> Option<Span> {
    let mut at = tree.at.clone();
    let mut key = None;
    let mut here = tree;
    for Step(index) in path {
        (key, here) = match &here.value {
            TreeValue::Map(entries) => match entries.get(*index) {
                Some((key, value)) => (Some(key), value),
                None => break,
            },
            TreeValue::List(items) => match items.get(*index) {
                Some(item) => (None, item),
                None => break,
            },
            _ => break,
        };
        let around = key.and_then(|k| k.at.clone()).or(at);
        at = here.at.clone().or(around);
    }
    // A choice given as a bare name is itself what lacks settings.
    let lacks = matches!(problem.kind, Kind::Missing { .. }) && here.as_str().is_none();
    let wants_key = problem.on_key || lacks || is_empty_value(here);
    match key {
        Some(key) if wants_key => key.at.clone().or(at),
        _ => at,
    }
}

/// Nothing to underline after the colon.
fn is_empty_value(tree: &Tree) -> bool {
    matches!(tree.value, TreeValue::Null) && tree.at.as_ref().is_none_or(|at| at.len == 0)
}

fn at_path<'a>(tree: &'a mut Tree, path: &[Step]) -> Option<&'a mut Tree> {
    path.iter().try_fold(tree, |tree, Step(index)| match &mut tree.value {
        TreeValue::Map(entries) => entries.get_mut(*index).map(|(_, v)| v),
        TreeValue::List(items) => items.get_mut(*index),
        _ => None,
    })
}

/// Changes the tree so that this problem is gone, and none is that another would have caused.
fn mend(tree: &mut Tree, path: &[Step], problem: &Problem) {
    match &problem.kind {
        Kind::UnknownField { name, valid } => {
            if let Some((Step(index), parent)) = path.split_last()
                && let Some(Tree { value: TreeValue::Map(entries), .. }) = at_path(tree, parent)
            {
                return mend_key(entries, *index, name, valid);
            }
        }
        Kind::Missing { field, .. } => {
            if let Some(map) = at_path(tree, path) {
                return add_missing(map, field);
            }
        }
        Kind::UnknownChoice { what, name, valid } if *what == STAGE && problem.on_key => {
            if let Some((Step(index), parent)) = path.split_last()
                && let Some(Tree { value: TreeValue::Map(entries), .. }) = at_path(tree, parent)
                && let Some(meant) = nearest(name, valid.iter().copied())
            {
                // It keeps its settings, and others find the tables that it makes.
                entries[*index].0.value = meant.to_owned();
                return;
            }
        }
        Kind::UnknownChoice { .. } | Kind::Type { .. } | Kind::Other { .. } => {}
    }
    // A wrong key of a choice makes the whole choice wrong, and its key is the last step.
    let path = if problem.on_key { path.split_last().map_or(path, |(_, parent)| parent) } else { path };
    if let Some(wrong) = at_path(tree, path) {
        *wrong = Tree::stand_in(wrong.at.clone());
    }
}

/// A key that was probably meant keeps its value, so that the value is checked and the key is not missed.
fn mend_key(entries: &mut Vec<(Text, Tree)>, index: usize, name: &str, valid: &[&str]) {
    match nearest(name, valid.iter().copied().filter(|v| entries.iter().all(|(k, _)| k.value != *v))) {
        Some(meant) => entries[index].0.value = meant.to_owned(),
        None => drop(entries.remove(index)),
    }
}

fn add_missing(map: &mut Tree, field: &str) {
    let entry = (Text::new(field.to_owned(), None), Tree::stand_in(None));
    match &mut map.value {
        TreeValue::Map(entries) => entries.push(entry),
        // A bare choice whose settings cannot all be left out.
        TreeValue::String(choice) => {
            let settings = Tree::new(TreeValue::Map(vec![entry]), map.at.clone());
            let choice = Text::new(std::mem::take(choice), map.at.clone());
            map.value = TreeValue::Map(vec![(choice, settings)]);
        }
        _ => map.value = TreeValue::Map(vec![entry]),
    }
}
