//! `${name}` and `${env:NAME}` inside strings.
//!
//! A string that is nothing but `${name}` becomes the value of the parameter, with its type; inside other text the
//! value is written out. `$${` stands for `${`. Parameters may use each other, in any order but in no circle.

use std::collections::HashMap;

use super::parse::{core_scalar, size};
use super::problems::list;
use super::{Text, Tree, TreeValue};
use crate::diag::{Diagnostic, Sources, Span, nearest};

/// Parameters that are made from parameters, one inside the other.
const MAX_CHAIN: usize = 32;
/// Work of one value, in characters.
const VALUE_WORK: usize = 16;
/// Values and characters that replacement may make: parameters that repeat each other grow without bound.
const MAX_WORK: usize = 4 << 20;

pub(super) struct Params<'a> {
    entries: &'a [(Text, Tree)],
    resolved: HashMap<String, State>,
    sources: &'a Sources,
    work: usize,
    pub problems: Vec<Diagnostic>,
}

enum State {
    /// Being resolved: meeting it again is a circle.
    Open,
    Done(Tree),
    /// Its problem is reported; what uses it has none of its own.
    Failed,
}

/// A piece of a string.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Literal(&'a str),
    /// What stands between `${` and `}`.
    Name(&'a str),
    Unclosed(&'a str),
}

impl<'a> Params<'a> {
    pub fn new(entries: &'a [(Text, Tree)], sources: &'a Sources) -> Self {
        Params { entries, resolved: HashMap::new(), sources, work: 0, problems: Vec::new() }
    }

    /// The parameters, resolved, those with problems as `Null`.
    pub fn all(&mut self) -> Vec<(Text, Tree)> {
        let entries = self.entries;
        let value = |this: &mut Self, key: &Text, tree: &Tree| match this.resolve(&key.value) {
            Some(value) => Tree { at: tree.at.clone(), ..value },
            None => Tree::stand_in(tree.at.clone()),
        };
        entries.iter().map(|(key, tree)| (key.clone(), value(self, key, tree))).collect()
    }

    /// Replaces in every string of `tree`; a string with a problem fits anything afterwards.
    pub fn replace(&mut self, tree: &mut Tree) {
        match &mut tree.value {
            TreeValue::List(items) => items.iter_mut().for_each(|item| self.replace(item)),
            TreeValue::Map(entries) => entries.iter_mut().for_each(|(_, value)| self.replace(value)),
            TreeValue::String(text) if text.contains("${") => {
                let text = std::mem::take(text);
                let replaced = self.string(&text, tree).unwrap_or_else(|| Tree::stand_in(None));
                *tree = Tree { at: tree.at.take(), ..replaced };
            }
            _ => {}
        }
    }

    fn resolve(&mut self, name: &str) -> Option<Tree> {
        match self.resolved.get(name) {
            Some(State::Done(tree)) => return Some(tree.clone()),
            Some(State::Failed) => return None,
            Some(State::Open) => {
                let at = self.entries.iter().find(|(k, _)| k.value == name).and_then(|(k, _)| k.at.clone());
                let message = format!("the parameter `{name}` is made from itself");
                self.problems.push(Diagnostic::new("spec::cycle", message).at(at));
                return None;
            }
            None => {}
        }
        let mut tree = self.entries.iter().find(|(k, _)| k.value == name)?.1.clone();
        let before = self.problems.len();
        if self.resolved.values().filter(|s| matches!(s, State::Open)).count() >= MAX_CHAIN {
            let message = format!("more than {MAX_CHAIN} parameters are made from each other");
            self.problems.push(Diagnostic::new("spec::interpolation", message).at(tree.at));
            return None;
        }
        self.resolved.insert(name.to_owned(), State::Open);
        self.replace(&mut tree);
        let failed = self.problems.len() > before || has_stand_in(&tree);
        let state = if failed { State::Failed } else { State::Done(tree.clone()) };
        self.resolved.insert(name.to_owned(), state);
        (!failed).then_some(tree)
    }

    /// `None` where a problem is reported.
    fn string(&mut self, text: &str, whole: &Tree) -> Option<Tree> {
        let pieces = pieces(text);
        if let [Piece::Name(name)] = pieces.as_slice() {
            return self.value(name, whole);
        }
        let mut out = String::new();
        let mut base = whole.base.clone();
        let mut good = true;
        for (i, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Literal(literal) => out.push_str(literal),
                Piece::Unclosed(rest) => {
                    let d = Diagnostic::new("spec::interpolation", "`${` without `}`").at(self.find(whole, rest));
                    self.problems.push(d.help("write `$${` for the characters themselves"));
                    good = false;
                }
                Piece::Name(name) => match self.value(name, whole).map(|v| (v.base.clone(), written_out(&v))) {
                    Some((from, Some(text))) => {
                        out.push_str(&text);
                        // A path that begins with a parameter starts where the parameter was written.
                        base = if i == 0 { from } else { base };
                    }
                    Some((_, None)) => {
                        let message = format!("`${{{name}}}` is a list or a map, and cannot stand inside text");
                        let at = self.find(whole, &format!("${{{name}}}"));
                        self.problems.push(Diagnostic::new("spec::interpolation", message).at(at));
                        good = false;
                    }
                    None => good = false,
                },
            }
            self.spend(out.len(), whole)?;
        }
        good.then(|| Tree::new(TreeValue::String(out), None).with_base(base))
    }

    fn value(&mut self, name: &str, whole: &Tree) -> Option<Tree> {
        let at = self.find(whole, &format!("${{{name}}}"));
        if let Some(variable) = name.strip_prefix("env:") {
            return self.variable(variable, at, whole);
        }
        if self.entries.iter().all(|(k, _)| k.value != name) {
            let names: Vec<&str> = self.entries.iter().map(|(k, _)| k.value.as_str()).collect();
            let d = Diagnostic::new("spec::unknown_param", format!("unknown parameter `{name}`")).at(at);
            self.problems.push(match nearest(name, names.iter().copied()) {
                Some(near) => d.help(format!("did you mean `{near}`? `params` has {}", list(&names))),
                None if names.is_empty() => {
                    d.help("the file has no `params`; write `$${` for the characters themselves")
                }
                None => d.help(format!("`params` has {}; write `$${{` for the characters themselves", list(&names))),
            });
            return None;
        }
        let value = self.resolve(name)?;
        self.spend(size(&value) * VALUE_WORK, whole)?;
        Some(value)
    }

    /// `NAME` or `NAME:-default`.
    fn variable(&mut self, variable: &str, at: Option<Span>, whole: &Tree) -> Option<Tree> {
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        let set = std::env::var(name).ok().filter(|v| !v.is_empty() || default.is_none());
        let Some(text) = set.or(default.map(str::to_owned)) else {
            let message = format!("the environment variable `{name}` is not set");
            let d = Diagnostic::new("spec::env", message).at(at);
            self.problems.push(d.help(format!("set it, or give a default: ${{env:{name}:-default}}")));
            return None;
        };
        let value = core_scalar(&text).unwrap_or(TreeValue::String(text));
        Some(Tree::new(value, None).with_base(whole.base.clone()))
    }

    fn spend(&mut self, work: usize, whole: &Tree) -> Option<()> {
        let before = self.work;
        self.work = self.work.saturating_add(work);
        if self.work <= MAX_WORK {
            return Some(());
        }
        if before <= MAX_WORK {
            let d = Diagnostic::new("spec::interpolation", "the parameters repeat each other too often");
            self.problems.push(d.at(whole.at.clone()));
        }
        None
    }

    /// The place of `what` inside a string; that of the string where it cannot be found.
    fn find(&self, whole: &Tree, what: &str) -> Option<Span> {
        let at = whole.at.as_ref()?;
        let found = self.sources.0.get(&at.file).and_then(|text| {
            let lines = text.lines().enumerate().skip(at.line.max(1) as usize - 1);
            lines.take(1000).find_map(|(i, line)| {
                let skipped = if i + 1 == at.line as usize { at.column.max(1) as usize - 1 } else { 0 };
                let rest: String = line.chars().skip(skipped).collect();
                let column = skipped + rest[..rest.find(what)?].chars().count() + 1;
                let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                let (line, column, len) = (count(i + 1), count(column), count(what.chars().count()));
                Some(Span { file: at.file.clone(), line, column, len })
            })
        });
        Some(found.unwrap_or_else(|| at.clone()))
    }
}

fn has_stand_in(tree: &Tree) -> bool {
    tree.stand_in
        || match &tree.value {
            TreeValue::List(items) => items.iter().any(has_stand_in),
            TreeValue::Map(entries) => entries.iter().any(|(_, v)| has_stand_in(v)),
            _ => false,
        }
}

fn written_out(tree: &Tree) -> Option<String> {
    match &tree.value {
        TreeValue::Null => Some(String::new()),
        TreeValue::String(s) => Some(s.clone()),
        TreeValue::Bool(_) | TreeValue::Int(_) | TreeValue::Float(_) => {
            let json = tree.to_json();
            Some(json.as_str().map_or_else(|| json.to_string(), str::to_owned))
        }
        TreeValue::List(_) | TreeValue::Map(_) => None,
    }
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            pieces.extend([Piece::Literal(before), Piece::Literal("${")]);
            rest = &after[2..];
            continue;
        }
        pieces.push(Piece::Literal(before));
        let Some(end) = after.find('}') else {
            pieces.push(Piece::Unclosed(after));
            rest = "";
            break;
        };
        pieces.push(Piece::Name(after[2..end].trim()));
        rest = &after[end + 1..];
    }
    pieces.push(Piece::Literal(rest));
    pieces.retain(|p| *p != Piece::Literal(""));
    pieces
}
