//! YAML text to a [`Tree`]: a place for every key and value, duplicate keys as errors, bounded nesting and size.
//!
//! Built from parser events and not through serde, which has no places for keys, stops at the first problem, and does
//! not say where a value ends. Types are those of the YAML 1.2 core schema: `no` and `on` are text.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, ScanError, StructureStyle};

use super::{Text, Tree, TreeValue};
use crate::diag::{Diagnostic, Span};

/// Values and keys of a file, with those that aliases repeat. Far above what anyone writes by hand.
const MAX_NODES: usize = 50_000;
const MAX_DEPTH: usize = 64;

/// Reads one document. `file` names it in places, `base` is the folder that its relative paths start from.
///
/// A file without any value is `Null` at its start.
pub(super) fn parse(text: &str, file: &Arc<str>, base: Option<&Arc<Path>>) -> Result<Tree, Vec<Diagnostic>> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
    };
    let events = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { events, text, file, base, anchors: HashMap::new(), nodes: 0, problems: Vec::new() };
    let tree = builder.document();
    match tree {
        Some(tree) if builder.problems.is_empty() => Ok(tree),
        _ => Err(builder.problems),
    }
}

type Input<'a> = granit_parser::StrInput<'a>;

struct Builder<'a> {
    events: Parser<'a, Input<'a>>,
    text: &'a str,
    file: &'a Arc<str>,
    base: Option<&'a Arc<Path>>,
    anchors: HashMap<usize, Tree>,
    nodes: usize,
    problems: Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    /// `None` once reading cannot go on; why is in `problems`.
    fn document(&mut self) -> Option<Tree> {
        let mut tree = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if tree.is_some() => {
                    let at = self.span(&span);
                    let d = Diagnostic::new("spec::yaml", "a second document begins here").at(at);
                    self.problems.push(d.help("a file holds one document; remove the `---`"));
                    return None;
                }
                Event::DocumentStart(..) => {}
                Event::StreamEnd => {
                    let start = Span { file: self.file.clone(), line: 1, column: 1, len: 0 };
                    return Some(tree.unwrap_or_else(|| Tree::new(TreeValue::Null, Some(start))));
                }
                event => tree = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn next(&mut self) -> Option<(Event<'a>, granit_parser::Span)> {
        match self.events.next_event()? {
            Ok(next) => Some(next),
            Err(e) => {
                let d = self.syntax_error(&e);
                self.problems.push(d);
                None
            }
        }
    }

    fn span(&self, span: &granit_parser::Span) -> Option<Span> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let one_line = span.start.line() == span.end.line();
        let len = if one_line { span.end.col().saturating_sub(span.start.col()) } else { 0 };
        Some(Span {
            file: self.file.clone(),
            line: count(span.start.line()),
            column: count(span.start.col() + 1),
            len: count(len),
        })
    }

    fn problem(&mut self, span: &granit_parser::Span, message: impl Into<String>) {
        let at = self.span(span);
        self.problems.push(Diagnostic::new("spec::yaml", message).at(at));
    }

    /// Counts values against the limit.
    fn spend(&mut self, nodes: usize, span: &granit_parser::Span) -> Option<()> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            self.problem(
                span,
                format!("more than {MAX_NODES} values in one file, counting those that `*aliases` repeat"),
            );
            return None;
        }
        Some(())
    }

    fn node(&mut self, event: Event<'a>, span: granit_parser::Span, depth: usize) -> Option<Tree> {
        self.spend(1, &span)?;
        if depth > MAX_DEPTH {
            self.problem(&span, format!("nested more than {MAX_DEPTH} levels deep"));
            return None;
        }
        let (value, at, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|t| t.original());
                (self.scalar(&text, style, tag.as_deref(), &span), self.span(&span), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.map(|t| t.original()), "!!seq", &span);
                let (value, end) = self.list(depth)?;
                (value, self.collection_span(span, end), anchor)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.refuse_tag(tag.map(|t| t.original()), "!!map", &span);
                let (value, end) = self.map(depth)?;
                let mut at = self.collection_span(span, end);
                if let (StructureStyle::Block, TreeValue::Map(entries)) = (style, &value)
                    && let Some((key, _)) = entries.first()
                {
                    at = key.at.clone().map(|k| Span { len: 0, ..k });
                }
                (value, at, anchor)
            }
            Event::Alias(id) => {
                let Some(tree) = self.anchors.get(&id).cloned() else {
                    self.problem(&span, "this alias stands inside the value that it names");
                    return Some(Tree::new(TreeValue::Null, None));
                };
                self.spend(size(&tree), &span)?;
                return Some(tree);
            }
            Event::UnresolvedAlias(name) => {
                self.problem(&span, format!("no anchor `&{name}` before this alias"));
                (TreeValue::Null, self.span(&span), 0)
            }
            // The parser yields no other event where a value stands.
            _ => {
                self.problem(&span, "a value is missing here");
                return None;
            }
        };
        let tree = Tree::new(value, at).with_base(self.base.cloned());
        if anchor != 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        Some(tree)
    }

    fn collection_span(&self, start: granit_parser::Span, end: granit_parser::Span) -> Option<Span> {
        self.span(&granit_parser::Span::new(start.start, end.end))
    }

    fn list(&mut self, depth: usize) -> Option<(TreeValue, granit_parser::Span)> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, end) => return Some((TreeValue::List(items), end)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<(TreeValue, granit_parser::Span)> {
        let mut entries: Vec<(Text, Tree)> = Vec::new();
        let mut seen: HashMap<String, Option<Span>> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, end) => {
                    merge(&mut entries, merged);
                    return Some((TreeValue::Map(entries), end));
                }
                next => next,
            };
            let key = self.key(event, span, depth)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Some((key, plain)) = key else { continue };
            if plain && key.value == "<<" {
                merged.extend(self.merge_sources(value, &span));
            } else if let Some(first) = seen.get(&key.value) {
                let first = first.as_ref().map_or_else(String::new, |at| format!(", first at line {}", at.line));
                let message = format!("the key `{}` stands here twice{first}", key.value);
                self.problems.push(Diagnostic::new("spec::duplicate_key", message).at(key.at));
            } else {
                seen.insert(key.value.clone(), key.at.clone());
                entries.push((key, value));
            }
        }
    }

    /// A key and whether it is written without quotes; the inner `None` where it is no text.
    fn key(&mut self, event: Event<'a>, span: granit_parser::Span, depth: usize) -> Option<Option<(Text, bool)>> {
        if let Event::Scalar(text, style, ..) = event {
            self.spend(1, &span)?;
            return Some(Some((Text::new(text.into_owned(), self.span(&span)), style == ScalarStyle::Plain)));
        }
        let tree = self.node(event, span, depth + 1)?;
        match tree.value {
            TreeValue::String(s) => Some(Some((Text::new(s, self.span(&span)), false))),
            _ => {
                let at = self.span(&span);
                let d = Diagnostic::new("spec::yaml", "a key must be text").at(at);
                self.problems
                    .push(d.help("a value that begins with `{` or `[` is a map or a list; quote it to make it text"));
                Some(None)
            }
        }
    }

    fn merge_sources(&mut self, value: Tree, span: &granit_parser::Span) -> Vec<Tree> {
        let sources = match value.value {
            TreeValue::List(items) => items,
            _ => vec![value],
        };
        if sources.iter().any(|s| !matches!(s.value, TreeValue::Map(_))) {
            self.problem(span, "`<<` takes a map, or a list of maps");
        }
        sources
    }

    fn refuse_tag(&mut self, tag: Option<String>, allowed: &str, span: &granit_parser::Span) {
        if let Some(tag) = tag.filter(|t| t != allowed) {
            self.problem(span, format!("the tag `{tag}` is not known here"));
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&str>, span: &granit_parser::Span) -> TreeValue {
        match tag {
            Some("!!str" | "!") => return TreeValue::String(text.to_owned()),
            Some("!!int" | "!!float" | "!!bool" | "!!null") | None => {}
            Some(other) => self.problem(span, format!("the tag `{other}` is not known here")),
        }
        if style != ScalarStyle::Plain {
            return TreeValue::String(text.to_owned());
        }
        match core_scalar(text) {
            Some(value) => value,
            None => {
                self.problem(span, format!("`{text}` does not fit into 64 bits; quote it if it is text"));
                TreeValue::Int(0)
            }
        }
    }

    fn syntax_error(&self, e: &ScanError) -> Diagnostic {
        let mark = e.marker();
        let at = self.span(&granit_parser::Span::new(*mark, *mark));
        let message = e.info().lines().next().unwrap_or("this is not YAML").to_owned();
        let d = Diagnostic::new("spec::yaml", message).at(at);
        let line = mark.line().saturating_sub(1);
        let indented_by_tab = |l: &&str| l.trim_start_matches(' ').starts_with('\t');
        // The parser may notice a tab only on behalf of the value before it.
        let tab = self.text.lines().enumerate().skip(line).take(2).find(|(_, l)| indented_by_tab(l));
        let tabs = matches!(e.kind(), ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation);
        match (tab, self.text.lines().nth(line)) {
            (Some((i, l)), _) => {
                let column = l.len() - l.trim_start_matches(' ').len();
                let start = granit_parser::Marker::new(0, i + 1, column);
                let end = granit_parser::Marker::new(0, i + 1, column + 1);
                let at = self.span(&granit_parser::Span::new(start, end));
                Diagnostic::new("spec::yaml", "a tab in the indentation").at(at).help("indent with spaces")
            }
            _ if tabs => d.help("use spaces instead of tabs"),
            (_, Some(l)) if l.contains("${") => d.help("inside `{ }` and `[ ]`, write \"${name}\" in quotes"),
            _ => d,
        }
    }
}

/// What stands in a map itself wins over what is merged into it; earlier sources win over later ones.
fn merge(entries: &mut Vec<(Text, Tree)>, sources: Vec<Tree>) {
    for source in sources {
        let TreeValue::Map(more) = source.value else { continue };
        for (key, value) in more {
            if entries.iter().all(|(k, _)| k.value != key.value) {
                entries.push((key, value));
            }
        }
    }
}

/// Values and keys of a tree.
pub(super) fn size(tree: &Tree) -> usize {
    match &tree.value {
        TreeValue::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        TreeValue::Map(entries) => 1 + entries.iter().map(|(_, v)| 1 + size(v)).sum::<usize>(),
        _ => 1,
    }
}

/// A scalar without quotes, by the core schema of YAML 1.2 (10.3.2). `None` for a whole number beyond 64 bits.
pub(super) fn core_scalar(text: &str) -> Option<TreeValue> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => TreeValue::Null,
        "true" | "True" | "TRUE" => TreeValue::Bool(true),
        "false" | "False" | "FALSE" => TreeValue::Bool(false),
        ".nan" | ".NaN" | ".NAN" => TreeValue::Float(f64::NAN),
        _ if digits(unsigned) => TreeValue::Int(text.parse().ok()?),
        _ if matches!(unsigned, ".inf" | ".Inf" | ".INF") => {
            TreeValue::Float(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        _ => match radix(text) {
            Some(number) => TreeValue::Int(number?),
            None if is_float(unsigned) => text.parse().map_or_else(|_| string(text), TreeValue::Float),
            None => string(text),
        },
    })
}

fn string(text: &str) -> TreeValue {
    TreeValue::String(text.to_owned())
}

/// `0x1f` and `0o17`; the inner `None` beyond 64 bits.
fn radix(text: &str) -> Option<Option<i64>> {
    let (digits, radix) = match text.get(..2)? {
        "0x" => (&text[2..], 16),
        "0o" => (&text[2..], 8),
        _ => return None,
    };
    let valid = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    valid.then(|| i64::from_str_radix(digits, radix).ok())
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`, the sign already taken off.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}
