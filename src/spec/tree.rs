//! A piece of YAML whose type is not known yet: values with their places, read and written by dotted paths.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Text, schema};
use crate::diag::Span;

/// A piece of YAML that gets its type later, when a scenario is complete: values with their places.
#[derive(Clone, Debug)]
pub struct Tree {
    pub value: TreeValue,
    pub at: Option<Span>,
    /// Folder that a relative path written here starts from.
    pub(super) base: Option<Arc<Path>>,
    /// A wrong or missing value whose problem is already reported: it deserializes into anything.
    pub(super) stand_in: bool,
}

/// The value of a [`Tree`], by the core types of YAML 1.2.
#[derive(Clone, Debug, PartialEq)]
pub enum TreeValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Tree>),
    /// In the order of the file; keys are unique.
    Map(Vec<(Text, Tree)>),
}

/// Equal values are equal wherever they were written.
impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Tree {
    /// A value, and where it was written.
    pub fn new(value: TreeValue, at: Option<Span>) -> Self {
        Tree { value, at, base: None, stand_in: false }
    }

    /// Folder that a relative path written here starts from; `None` for a value that no file holds.
    pub fn base(&self) -> Option<&Path> {
        self.base.as_deref()
    }

    pub(super) fn with_base(mut self, base: Option<Arc<Path>>) -> Self {
        self.base = base;
        self
    }

    pub(super) fn stand_in(at: Option<Span>) -> Self {
        Tree { stand_in: true, ..Tree::new(TreeValue::Null, at) }
    }

    /// A value that no file holds.
    pub fn from_json(value: Value) -> Self {
        let value = match value {
            Value::Null => TreeValue::Null,
            Value::Bool(b) => TreeValue::Bool(b),
            Value::Number(n) => match n.as_i64() {
                Some(i) => TreeValue::Int(i),
                None => TreeValue::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(s) => TreeValue::String(s),
            Value::Array(items) => TreeValue::List(items.into_iter().map(Tree::from_json).collect()),
            Value::Object(entries) => {
                TreeValue::Map(entries.into_iter().map(|(k, v)| (Text::new(k, None), Tree::from_json(v))).collect())
            }
        };
        Tree::new(value, None)
    }

    /// The value without places. Infinities and NaN, which JSON lacks, become text as YAML writes them.
    pub fn to_json(&self) -> Value {
        match &self.value {
            TreeValue::Null => Value::Null,
            TreeValue::Bool(b) => Value::Bool(*b),
            TreeValue::Int(i) => Value::from(*i),
            TreeValue::Float(f) => match serde_json::Number::from_f64(*f) {
                Some(n) => Value::Number(n),
                None if f.is_nan() => Value::from(".nan"),
                None => Value::from(if *f > 0.0 { ".inf" } else { "-.inf" }),
            },
            TreeValue::String(s) => Value::String(s.clone()),
            TreeValue::List(items) => Value::Array(items.iter().map(Tree::to_json).collect()),
            TreeValue::Map(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.value.clone(), v.to_json())).collect())
            }
        }
    }

    /// The entry of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Tree> {
        match &self.value {
            TreeValue::Map(entries) => entries.iter().find(|(k, _)| k.value == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            TreeValue::String(s) => Some(s),
            _ => None,
        }
    }

    /// What stands at a dotted path (`deployment.scheduler.vllm_v1`); a number picks an item of a list, from 0.
    pub fn get_path(&self, path: &str) -> Option<&Tree> {
        path.split('.').try_fold(self, |tree, segment| match &tree.value {
            TreeValue::List(items) => items.get(segment.parse::<usize>().ok()?),
            _ => tree.get(segment),
        })
    }

    /// Where a dotted path was written; as far as it goes, where it does not go all the way.
    pub fn nearest(&self, path: &str) -> Option<&Span> {
        let mut tree = self;
        let mut at = self.at.as_ref();
        for segment in path.split('.') {
            let next = match &tree.value {
                TreeValue::List(items) => segment.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => tree.get(segment),
            };
            let Some(next) = next else { break };
            at = next.at.as_ref().or(at);
            tree = next;
        }
        at
    }

    /// Puts `value` at a dotted path, making the maps that lead there.
    ///
    /// A choice on the way is turned into the one that the path goes through: with `scheduler: vllm_v1` or another
    /// scheduler, `scheduler.vllm_v1.max_num_seqs` leaves `scheduler: { vllm_v1: { max_num_seqs: .. } }`. Settings of
    /// the same choice stay.
    pub fn set_path(&mut self, path: &str, value: Tree) {
        let at = value.at.clone();
        self.set_path_from(path, value, at.as_ref());
    }

    /// The same, where the path itself was written at `from`.
    pub(super) fn set_path_from(&mut self, path: &str, value: Tree, from: Option<&Span>) {
        let segments: Vec<&str> = path.split('.').collect();
        self.set_segments(None, &segments, value, from);
    }

    /// `under` is the key that `self` stands at.
    fn set_segments(&mut self, under: Option<&str>, segments: &[&str], value: Tree, from: Option<&Span>) {
        let Some((first, rest)) = segments.split_first() else {
            *self = value;
            return;
        };
        if let TreeValue::List(items) = &mut self.value
            && let Some(item) = first.parse::<usize>().ok().and_then(|i| items.get_mut(i))
        {
            return item.set_segments(None, rest, value, from);
        }
        let other_choice = |entries: &[(Text, Tree)]| {
            under.is_some_and(schema::is_choice) && entries.iter().all(|(k, _)| k.value != *first)
        };
        match &mut self.value {
            TreeValue::Map(entries) if !other_choice(entries) => {}
            // A bare choice, another choice, or something that the path cannot go through.
            _ => *self = Tree::new(TreeValue::Map(Vec::new()), from.cloned()).with_base(self.base.take()),
        }
        let TreeValue::Map(entries) = &mut self.value else { return };
        let index = entries.iter().position(|(k, _)| k.value == *first).unwrap_or_else(|| {
            let key = Text::new((*first).to_owned(), from.cloned());
            entries.push((key, Tree::new(TreeValue::Null, from.cloned())));
            entries.len() - 1
        });
        // The keys below these are the user's: a class, a pool or a step of an agent may be called like a choice.
        let under = if matches!(under, Some("classes" | "pools" | "steps")) { None } else { Some(*first) };
        entries[index].1.set_segments(under, rest, value, from);
    }

    /// Takes away what stands at a dotted path, if anything does.
    pub fn remove_path(&mut self, path: &str) {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        match (&mut self.value, rest) {
            (TreeValue::Map(entries), None) => entries.retain(|(k, _)| k.value != first),
            (TreeValue::Map(entries), Some(rest)) => {
                entries.iter_mut().filter(|(k, _)| k.value == first).for_each(|(_, tree)| tree.remove_path(rest));
            }
            (TreeValue::List(items), Some(rest)) => {
                first
                    .parse::<usize>()
                    .ok()
                    .and_then(|i| items.get_mut(i))
                    .into_iter()
                    .for_each(|t| t.remove_path(rest));
            }
            _ => {}
        }
    }

    /// What it is, in words for the user: "text `two`", "the number 3", "a list".
    pub(super) fn describe(&self) -> String {
        match &self.value {
            TreeValue::Null => "nothing".into(),
            TreeValue::Bool(b) => format!("`{b}`"),
            TreeValue::Int(i) => format!("the number {i}"),
            TreeValue::Float(f) => format!("the number {f:?}"),
            TreeValue::String(s) => format!("text `{}`", shortened(s)),
            TreeValue::List(_) => "a list".into(),
            TreeValue::Map(_) => "a map".into(),
        }
    }
}

fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(40).collect();
    if cut.len() < text.trim_end().len() { format!("{cut}...") } else { cut }
}
