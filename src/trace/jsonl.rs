//! JSON lines: an object per line, with names of the user's choice, also nested ones (`usage.prompt_tokens`).

use super::chunk::Text;
use super::extra::Extra;
use super::fields::{Fields, Role, Rows};
use super::json::{Scanner, Value};
use super::{Fault, Parsed};
use crate::diag::Result;

/// A name that is looked for in an object: the value is used, or the object that it holds is looked into.
#[derive(Debug, Default)]
struct Node<'f> {
    key: &'f str,
    role: Option<Role>,
    inner: Vec<Node<'f>>,
}

impl<'f> Node<'f> {
    fn tree(fields: &'f Fields) -> Vec<Node<'f>> {
        let mut nodes = Vec::new();
        for (role, name) in fields.named() {
            Node::add(&mut nodes, role, name);
            if name.contains('.') {
                // A key may have dots of its own.
                nodes.push(Node { key: name, role: Some(role), inner: Vec::new() });
            }
        }
        nodes
    }

    fn add(nodes: &mut Vec<Node<'f>>, role: Role, path: &'f str) {
        let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
        let Some(rest) = rest else {
            return nodes.push(Node { key, role: Some(role), inner: Vec::new() });
        };
        match nodes.iter_mut().find(|n| n.key == key && n.role.is_none()) {
            Some(node) => Node::add(&mut node.inner, role, rest),
            None => {
                let mut inner = Vec::new();
                Node::add(&mut inner, role, rest);
                nodes.push(Node { key, role: None, inner });
            }
        }
    }
}

/// The names that are looked for in a row.
pub struct Names<'f>(Vec<Node<'f>>);

impl<'f> Names<'f> {
    pub fn new(fields: &'f Fields) -> Self {
        Names(Node::tree(fields))
    }

    /// Takes the fields of a row, which is not ended.
    pub fn row(&self, line: &str, rows: &mut Rows) -> std::result::Result<(), Fault> {
        let mut scanner = Scanner::new(line);
        object(&mut scanner, &self.0, rows)?;
        scanner.end()
    }
}

/// The rows of a chunk.
pub fn parse(fields: &Fields, text: &Text) -> Result<Parsed> {
    let names = Names::new(fields);
    lines(fields, text, |line, number, rows| {
        names.row(line, rows)?;
        rows.commit(number)
    })
}

/// The rows of a chunk whose lines `each` reads and ends: content, number.
pub fn lines(
    fields: &Fields,
    text: &Text,
    mut each: impl FnMut(&str, u64, &mut Rows) -> std::result::Result<(), Fault>,
) -> Result<Parsed> {
    let mut rows = Rows::new(fields);
    *rows.counts() += text.counts();
    for (number, start, line) in text.lines() {
        let result = utf8(line).and_then(|line| each(line, number, &mut rows));
        if let Err(fault) = result {
            rows.reject(text.problem(start, start + line.len(), fault));
        }
    }
    rows.finish()
}

pub fn utf8(bytes: &[u8]) -> std::result::Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|e| Fault::new(e.valid_up_to(), "not UTF-8: expected a text file in UTF-8"))
}

fn object(scanner: &mut Scanner, nodes: &[Node], rows: &mut Rows) -> std::result::Result<(), Fault> {
    scanner.members(|scanner, key| match nodes.iter().find(|n| n.key == key) {
        None => scanner.skip(),
        Some(Node { role: Some(role), .. }) => field(scanner, *role, rows),
        Some(node) => match (scanner.value_at(), scanner.value()?) {
            (_, Value::Object) => object(scanner, &node.inner, rows),
            (_, Value::List) => scanner.skip(),
            _ => Ok(()),
        },
    })
}

/// A value of a field.
pub fn field(scanner: &mut Scanner, role: Role, rows: &mut Rows) -> std::result::Result<(), Fault> {
    let at = scanner.value_at();
    match scanner.value()? {
        Value::Null => Ok(()),
        Value::Number(_) if matches!(role, Role::Input | Role::Output) => {
            Err(rows.fault(role, at, "is a number: expected text"))
        }
        Value::Number(text) => rows.text(role, text, at),
        Value::Text(text) => {
            rows.quoted(role, &text);
            rows.text(role, &text, at)
        }
        Value::Bool => Err(rows.fault(role, at, "is true or false: expected a number or text")),
        Value::Object => Err(rows.fault(role, at, "is an object: expected a single value")),
        Value::List => {
            rows.list(role, at)?;
            list(scanner, role, rows)
        }
    }
}

/// The items of a list of messages, hashes or numbers of tokens.
pub fn list(scanner: &mut Scanner, role: Role, rows: &mut Rows) -> std::result::Result<(), Fault> {
    if rows.plain_numbers(role, scanner) {
        return Ok(());
    }
    scanner.items(|scanner| {
        let at = scanner.value_at();
        match (scanner.value()?, role) {
            (Value::Text(text), Role::Input) => {
                rows.message(&text);
                Ok(())
            }
            (Value::Text(name), Role::Extra(Extra::DependsOn)) => {
                rows.parent(&name);
                Ok(())
            }
            (Value::Number(name), Role::Extra(Extra::DependsOn)) => {
                rows.parent(name);
                Ok(())
            }
            (Value::Number(text), Role::Hashes | Role::InputIds | Role::OutputIds) => rows.number(role, text, at),
            (Value::Text(text), Role::Hashes) => rows.number(role, &text, at),
            (_, Role::Hashes | Role::InputIds | Role::OutputIds) => {
                Err(rows.fault(role, at, "has an item that is not a whole number"))
            }
            _ => Err(rows.fault(role, at, "has an item that is not text")),
        }
    })
}
