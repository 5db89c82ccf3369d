//! Files of JSON documents: one document that is the whole file, a document per line, or a list of documents.
//!
//! A document is read into a tree that knows where its values stand, so that what is wrong with one is said with line
//! and column; numbers stay the text that they are. A document of many requests is in memory at once, at most
//! [`super::chunk::MAX_DOCUMENT`] bytes of it; of lines and lists only some at a time.
//!
//! `NaN` and `Infinity`, which Python writes and JSON does not have, stand for what was not measured: they are read as
//! null. A document that is not JSON to its end has no requests that could be told apart: where it is the whole file,
//! reading fails; a line or an element of a list is a bad row.

use std::borrow::Cow;

use super::chunk::{Cut, Scan, Text};
use super::conversation::Conversation;
use super::fields::{Fields, Role, Rows};
use super::json::{Scanner, Value};
use super::measured::Time;
use super::{Fault, Parsed, Problem, jsonl, number};
use crate::diag::{Failure, Result, Span};
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

/// A value, and the byte of the document at which it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<'a> {
    pub at: usize,
    pub value: Tree<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Tree<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// The document that is all of `text`.
pub fn tree(text: &str) -> Faulty<Node<'_>> {
    let mut scanner = Scanner::new(text);
    let node = node(&mut scanner, text)?;
    scanner.end()?;
    Ok(node)
}

fn node<'a>(scanner: &mut Scanner<'a>, text: &'a str) -> Faulty<Node<'a>> {
    let at = scanner.value_at();
    if ["NaN", "Infinity", "-Infinity"].iter().any(|word| scanner.pass(word)) {
        return Ok(Node { at, value: Tree::Null });
    }
    let value = match scanner.value()? {
        Value::Null => Tree::Null,
        Value::Bool => Tree::Bool(text[at..].starts_with('t')),
        Value::Number(number) => Tree::Number(number),
        Value::Text(text) => Tree::Text(text),
        Value::List => {
            let mut items = Vec::new();
            scanner.items(|scanner| node(scanner, text).map(|item| items.push(item)))?;
            Tree::List(items)
        }
        Value::Object => {
            let mut members = Vec::new();
            scanner.members(|scanner, key| node(scanner, text).map(|member| members.push((key, member))))?;
            Tree::Object(members)
        }
    };
    Ok(Node { at, value })
}

impl<'a> Node<'a> {
    /// What an object has under a key; null counts as nothing.
    pub fn key(&self, key: &str) -> Option<&Node<'a>> {
        let Tree::Object(members) = &self.value else { return None };
        members.iter().find(|(k, _)| k == key).map(|(_, node)| node).filter(|node| node.value != Tree::Null)
    }

    /// What is under keys joined by dots.
    pub fn path(&self, path: &str) -> Option<&Node<'a>> {
        path.split('.').try_fold(self, |node, key| node.key(key))
    }

    /// What is under the first of these paths that leads to something.
    pub fn first(&self, paths: &[&str]) -> Option<&Node<'a>> {
        paths.iter().find_map(|path| self.path(path))
    }

    /// The items of the list under a path; none where there is nothing.
    pub fn list(&self, path: &str) -> Faulty<&[Node<'a>]> {
        match self.path(path) {
            None => Ok(&[]),
            Some(Node { value: Tree::List(items), .. }) => Ok(items),
            Some(other) => Err(Fault::new(other.at, format!("`{path}` is not a list"))),
        }
    }

    /// The text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        self.value == Tree::Bool(true)
    }

    /// A number or a text as it is written.
    pub fn written(&self) -> Option<&str> {
        match &self.value {
            Tree::Number(text) => Some(text),
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A time in nanoseconds: a number in `unit`, or a date.
    pub fn time_ns(&self, name: &str, unit: TimeUnit) -> Faulty<i64> {
        let written = self.written().ok_or_else(|| Fault::new(self.at, format!("`{name}` is not a time")))?;
        number::time_ns(written, unit).map_err(|reason| Fault::new(self.at, format!("`{name}` {reason}")))
    }
}

/// Takes a value as a field of the row, where it is there.
pub fn field(rows: &mut Rows, role: Role, node: Option<&Node>) -> Faulty<()> {
    let Some(node) = node else { return Ok(()) };
    match &node.value {
        Tree::Null => Ok(()),
        // A tool that keeps its counts as floats writes 17.0.
        Tree::Number(text) => rows.text(role, text.strip_suffix(".0").unwrap_or(text), node.at),
        Tree::Text(text) => {
            rows.quoted(role, text);
            rows.text(role, text, node.at)
        }
        Tree::Bool(_) => Err(rows.fault(role, node.at, "is true or false: expected a number or text")),
        Tree::List(_) => Err(rows.fault(role, node.at, "is a list: expected a single value")),
        Tree::Object(_) => Err(rows.fault(role, node.at, "is an object: expected a single value")),
    }
}

/// Takes a time that was measured, in a unit of its own.
pub fn time(rows: &mut Rows, time: Time, node: Option<&Node>, unit: TimeUnit) -> Faulty<()> {
    let Some(node) = node else { return Ok(()) };
    let role = Role::Measured(time);
    let written = node.written().ok_or_else(|| rows.fault(role, node.at, "is not a number: expected a time"))?;
    let ns = number::time_ns(written, unit).map_err(|reason| rows.fault(role, node.at, &reason))?;
    rows.measured_ns(time, ns, node.at)
}

/// Takes a list of whole numbers.
pub fn numbers(rows: &mut Rows, role: Role, node: &Node) -> Faulty<()> {
    let Tree::List(items) = &node.value else {
        return Err(rows.fault(role, node.at, "is not a list: expected the numbers of tokens"));
    };
    rows.list(role, node.at)?;
    for item in items {
        let Tree::Number(text) = item.value else {
            return Err(rows.fault(role, item.at, "has an item that is not a whole number"));
        };
        rows.number(role, text, item.at)?;
    }
    Ok(())
}

/// An error as a status: its first line, cut after 80 characters.
pub fn what_went_wrong(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    if line.is_empty() { "error".to_string() } else { line.chars().take(80).collect() }
}

/// What is made of the documents of a text.
pub struct Out<'f, 't> {
    pub rows: Rows<'f>,
    pub conversations: Vec<Conversation>,
    text: &'t Text,
    /// Where the document begins in the text.
    start: usize,
    /// A byte of the text, its line and its column: requests come in the order in which they stand there, so that the
    /// text is not counted through for each.
    known: (usize, u64, u32),
}

impl Out<'_, '_> {
    /// A row, of what stands at `node`; `path` says where that is in the document.
    pub fn row(&mut self, path: impl Fn() -> String, node: &Node, fill: impl FnOnce(&mut Rows) -> Faulty<()>) {
        let (line, _) = self.place(node.at);
        if let Err(fault) = fill(&mut self.rows).and_then(|()| self.rows.commit(line)) {
            self.bad(path, node, fault);
        }
    }

    /// A row that cannot be read.
    pub fn bad(&mut self, path: impl Fn() -> String, node: &Node, fault: Fault) {
        let path = path();
        let reason = if path.is_empty() { fault.reason } else { format!("{path}: {}", fault.reason) };
        let (line, column) = self.place(if fault.at == 0 { node.at } else { fault.at });
        let row = self.start + node.at;
        let text = self.text.shown(row, self.text.bytes.len().min(row + 1000));
        self.rows.reject(Problem { line, column, reason, text });
    }

    /// Line and column of a byte of the document.
    pub fn place(&mut self, at: usize) -> (u64, u32) {
        let at = (self.start + at).min(self.text.bytes.len());
        let known = if at < self.known.0 { (0, self.text.line, self.text.column) } else { self.known };
        let (line, column) = self.text.place_after(known, at);
        self.known = (at, line, column);
        (line, column)
    }

    /// The file fails: something is wrong with all of it.
    fn failure(&mut self, written: &str, fault: &Fault) -> Failure {
        let (line, column) = self.place(fault.at);
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        let mut failure = Failure::stage("trace::document", fault.reason.clone());
        failure.diagnostics[0].at = Some(Span { file: written.into(), line, column, len: 0 });
        failure
    }
}

/// The requests of a chunk, each document of which `take` reads. What `take` fails with is wrong with a whole document.
pub fn parse(
    fields: &Fields,
    text: &Text,
    written: &str,
    take: impl Fn(&mut Out, &Node) -> Faulty<()>,
) -> Result<Parsed> {
    let known = (0, text.line, text.column);
    let mut out = Out { rows: Rows::new(fields), conversations: Vec::new(), text, start: 0, known };
    let list = text.depth > 0 || text.line == 1 && text.bytes.trim_ascii_start().starts_with(b"[");
    let documents = match (fields.whole, list) {
        (true, _) => vec![(0, text.bytes.len())],
        (false, true) => elements(text),
        (false, false) => {
            *out.rows.counts() += text.counts();
            text.lines().map(|(_, start, line)| (start, start + line.len())).collect()
        }
    };
    for (start, end) in documents {
        out.start = start;
        let read = jsonl::utf8(&text.bytes[start..end]).and_then(tree);
        let problem = match read {
            Ok(node) => take(&mut out, &node),
            Err(fault) => Err(fault),
        };
        match problem {
            Ok(()) => {}
            Err(fault) if fields.whole => return Err(out.failure(written, &fault)),
            Err(fault) => {
                let problem = text.problem(start, end, fault);
                out.rows.reject(problem);
            }
        }
    }
    let mut parsed = out.rows.finish()?;
    parsed.conversations = out.conversations;
    Ok(parsed)
}

/// The elements of the outermost list that lie in a chunk.
pub fn elements(text: &Text) -> Vec<(usize, usize)> {
    let mut scan = Scan::new(Cut::Elements, text.depth);
    let mut found = Vec::new();
    let mut start = 0;
    let mut take = |from: usize, to: usize| {
        let blank = text.bytes[from..to].iter().take_while(|b| b.is_ascii_whitespace()).count();
        if from + blank < to {
            found.push((from + blank, to));
        }
    };
    for (i, byte) in text.bytes.iter().enumerate() {
        let depth = scan.depth;
        let (next, opens) = (scan.element(*byte), depth == 0 && *byte == b'[');
        let closes = depth == 1 && scan.depth == 0;
        if next || opens || closes {
            take(start, i);
            start = i + 1;
        }
    }
    // Something left over is a row that does not end, or text after the list: parsing it says which.
    take(start, text.bytes.len());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_knows_where_its_values_stand_and_keeps_numbers_as_they_are() {
        let text = r#" {"a": {"b": [1.10, "x", true, null, NaN, -Infinity]}, "c.d": 7} "#;
        let root = tree(text).unwrap();
        let items = root.list("a.b").unwrap();
        let values: Vec<&Tree> = items.iter().map(|i| &i.value).collect();
        let expect =
            [Tree::Number("1.10"), Tree::Text("x".into()), Tree::Bool(true), Tree::Null, Tree::Null, Tree::Null];
        assert_eq!(values, expect.iter().collect::<Vec<_>>());
        assert!(items.iter().all(|i| text[i.at..].starts_with(['1', '"', 't', 'n', 'N', '-'])));
        assert_eq!(root.key("c.d").and_then(Node::written), Some("7"));
        assert!(root.path("c.d").is_none() && root.path("a.b.c").is_none());
        assert_eq!(root.first(&["x", "a.b"]).map(|n| n.at), Some(13));
        assert!(root.list("c").unwrap().is_empty());
        assert_eq!(root.path("a").unwrap().list("b.c").unwrap().len(), 0);
        for wrong in ["", "{", "[1 2]", "{} {}", "Nan", "[NaN"] {
            assert!(tree(wrong).is_err(), "{wrong}");
        }
        assert!(tree(&"[".repeat(1000)).is_err());
    }

    #[test]
    fn an_error_becomes_a_status_of_one_line() {
        assert_eq!(what_went_wrong("\n Traceback: x\n y"), "Traceback: x");
        assert_eq!(what_went_wrong(""), "error");
        assert_eq!(what_went_wrong(&"é".repeat(200)).chars().count(), 80);
    }
}
