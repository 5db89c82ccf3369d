//! CSV (RFC 4180) with a header, comma or semicolon or tab as found there, and names of the user's choice.
//!
//! Quoted fields may hold line ends. An empty field is a missing value.

use ::csv::ByteRecord;

use super::chunk::Text;
use super::fields::{Fields, Role, Rows};
use super::json::Scanner;
use super::{Fault, Parsed, jsonl, number};
use crate::diag::{Failure, Result};

/// The first line of a file.
#[derive(Clone, Debug, Default)]
pub struct Header {
    pub names: Vec<String>,
    separator: u8,
}

impl Header {
    /// Of the line `line`.
    pub fn of(line: &str) -> Header {
        let separator = separator(line);
        Header { names: fields_of(line, separator), separator }
    }

    /// The fields of another line of the same file.
    pub fn split(&self, line: &str) -> Vec<String> {
        fields_of(line, self.separator)
    }
}

/// The one of `,`, `;` and tab that is there most.
fn separator(header: &str) -> u8 {
    let count = |s: u8| header.bytes().filter(|b| *b == s).count();
    let mut best = b',';
    for other in [b';', b'\t'] {
        if count(other) > count(best) {
            best = other;
        }
    }
    best
}

fn fields_of(line: &str, separator: u8) -> Vec<String> {
    let mut record = ByteRecord::new();
    // Reading from memory cannot fail, and flexible records cannot be wrong.
    let _ = reader(line.as_bytes(), separator).read_byte_record(&mut record);
    record.iter().map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned()).collect()
}

fn reader(bytes: &[u8], separator: u8) -> ::csv::Reader<&[u8]> {
    ::csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(separator).from_reader(bytes)
}

/// The rows of a chunk.
pub fn parse(fields: &Fields, header: &Header, text: &Text) -> Result<Parsed> {
    let Header { names: header, separator } = header;
    let columns: Vec<(usize, Role)> =
        fields.named().filter_map(|(r, name)| header.iter().position(|h| h == name).map(|i| (i, r))).collect();
    let mut rows = Rows::new(fields);
    rows.counts().open_ends += u64::from(text.ends_open());
    let mut reader = reader(&text.bytes, *separator);
    let mut record = ByteRecord::new();
    loop {
        let (crlf, blank) = line_ends(&text.bytes, reader.position().byte() as usize);
        rows.counts().crlf_rows += u64::from(crlf);
        rows.counts().blank_lines += blank;
        let more = reader.read_byte_record(&mut record).map_err(|e| Failure::stage("trace::csv", e.to_string()))?;
        if !more {
            return rows.finish();
        }
        let position = record.position().cloned().unwrap_or_else(::csv::Position::new);
        let line = text.line + position.line() - 1;
        if record.len() == 1 && record[0].trim_ascii().is_empty() {
            rows.counts().blank_lines += 1;
            continue;
        }
        let result = row(&record, header.len(), &columns, &mut rows);
        if let Err((field, reason)) = result.and_then(|()| rows.commit(line).map_err(|f| (0, f.reason))) {
            // Blank lines are passed over by the reader, and counted to the record after them.
            let start = position.byte() as usize;
            let start = start + text.bytes[start..].iter().take_while(|b| b.is_ascii_whitespace()).count();
            let end = start.max(reader.position().byte() as usize);
            let at = field_start(&text.bytes[start..end], *separator, field);
            rows.reject(text.problem(start, end, Fault::new(at, reason)));
        }
    }
}

/// Where the reader stands after a record or at the start: whether the record ended with CR LF, of which it takes the LF with
/// the next one, and the empty lines that follow, which it passes over.
fn line_ends(bytes: &[u8], at: usize) -> (bool, u64) {
    let crlf = at > 0 && bytes[at - 1] == b'\r' && bytes.get(at) == Some(&b'\n');
    let empty = bytes[at..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).filter(|b| **b == b'\n').count();
    (crlf, (empty - usize::from(crlf)) as u64)
}

/// The error is the number of the field and what is wrong.
fn row(
    record: &ByteRecord,
    expected: usize,
    columns: &[(usize, Role)],
    rows: &mut Rows,
) -> std::result::Result<(), (usize, String)> {
    if record.len() != expected {
        return Err((0, format!("{} fields: expected {expected}, as in the header", record.len())));
    }
    for (i, role) in columns {
        let name = |fault: Fault| (*i, fault.reason);
        let value = jsonl::utf8(&record[*i]).map_err(name)?;
        let value = if matches!(role, Role::Input | Role::Output) { value } else { value.trim() };
        if value.is_empty() {
            continue;
        }
        if matches!(role, Role::Hashes | Role::InputIds | Role::OutputIds) {
            rows.list(*role, 0).and_then(|()| numbers(*role, value, rows)).map_err(name)?;
        } else {
            rows.text(*role, value, 0).map_err(name)?;
        }
    }
    Ok(())
}

/// `[1, 2, 3]`, or numbers separated by blanks.
fn numbers(role: Role, value: &str, rows: &mut Rows) -> std::result::Result<(), Fault> {
    if value.starts_with('[') {
        let mut scanner = Scanner::new(value);
        return jsonl::list(&mut scanner, role, rows)
            .and_then(|()| scanner.end())
            .map_err(|f| Fault::new(0, format!("{} (in `{}`)", f.reason, number::shorten(value))));
    }
    value.split_whitespace().try_for_each(|item| rows.number(role, item, 0))
}

/// The byte at which field `n` of a record begins.
fn field_start(record: &[u8], separator: u8, n: usize) -> usize {
    let mut quoted = false;
    let ends = record.iter().enumerate().filter(|(_, b)| {
        quoted ^= **b == b'"';
        **b == separator && !quoted
    });
    match n {
        0 => 0,
        _ => ends.map(|(i, _)| i + 1).nth(n - 1).unwrap_or(0),
    }
}
