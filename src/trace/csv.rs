//! CSV (RFC 4180) with a header, comma or semicolon or tab as found there, and names of the user's choice.
//!
//! Quoted fields may hold line ends. An empty field is a missing value.

use ::csv::ByteRecord;

use super::chunk::Text;
use super::extra::Extra;
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
    let columns: Vec<(usize, Role)> =
        fields.named().filter_map(|(r, name)| header.names.iter().position(|h| h == name).map(|i| (i, r))).collect();
    match plain(&text.bytes) {
        Some(content) => parse_plain(fields, header, &columns, text, content),
        None => parse_quoted(fields, header, &columns, text),
    }
}

/// The chunk as text, if its records are its lines and its fields what is between separators: no quotes, and no CR but
/// before LF. So are nearly all, and reading them takes a third of the time.
fn plain(bytes: &[u8]) -> Option<&str> {
    if bytes.contains(&b'"') {
        return None;
    }
    let returns = bytes.iter().filter(|b| **b == b'\r').count();
    if returns > 0 && bytes.windows(2).filter(|w| w == b"\r\n").count() != returns {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

fn parse_plain(
    fields: &Fields,
    header: &Header,
    columns: &[(usize, Role)],
    text: &Text,
    content: &str,
) -> Result<Parsed> {
    let mut rows = Rows::new(fields);
    *rows.counts() += text.counts();
    // Where each field begins and ends.
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(header.names.len());
    for (number, start, line) in text.lines() {
        places.clear();
        let mut from = start;
        for (i, byte) in line.iter().enumerate() {
            if *byte == header.separator {
                places.push((from, start + i));
                from = start + i + 1;
            }
        }
        places.push((from, start + line.len()));
        let result = match places.len() == header.names.len() {
            true => columns.iter().try_for_each(|(i, role)| {
                let (from, to) = places[*i];
                field(*role, &content[from..to], &mut rows).map_err(|fault| (*i, fault.reason))
            }),
            false => Err((0, wrong_width(places.len(), header.names.len()))),
        };
        if let Err((n, reason)) = result.and_then(|()| rows.commit(number).map_err(|f| (0, f.reason))) {
            let end = start + line.len();
            reject(text, header.separator, (start, end), (n, reason), &mut rows);
        }
    }
    rows.finish()
}

fn parse_quoted(fields: &Fields, header: &Header, columns: &[(usize, Role)], text: &Text) -> Result<Parsed> {
    let mut rows = Rows::new(fields);
    rows.counts().open_ends += u64::from(text.ends_open());
    let mut reader = reader(&text.bytes, header.separator);
    let mut record = ByteRecord::new();
    // The line of the byte up to which lines were counted.
    let (mut line, mut counted) = (text.line, 0);
    // The record before has content.
    let mut filled = false;
    loop {
        let (crlf, blank) = line_ends(&text.bytes, reader.position().byte() as usize);
        rows.counts().crlf_rows += u64::from(crlf && filled);
        rows.counts().blank_lines += blank;
        let more = reader.read_byte_record(&mut record).map_err(|e| Failure::stage("trace::csv", e.to_string()))?;
        if !more {
            return rows.finish();
        }
        // The ends of lines before a record are passed over by the reader, and counted to it.
        let start = record.position().map_or(counted, |p| p.byte() as usize);
        let start = start + text.bytes[start..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        line += text.bytes[counted..start].iter().filter(|b| **b == b'\n').count() as u64;
        counted = start;
        filled = record.len() > 1 || !record[0].trim_ascii().is_empty();
        if !filled {
            rows.counts().blank_lines += 1;
            continue;
        }
        let result = row(&record, header.names.len(), columns, &mut rows);
        if let Err(fault) = result.and_then(|()| rows.commit(line).map_err(|f| (0, f.reason))) {
            let end = start.max(reader.position().byte() as usize);
            reject(text, header.separator, (start, end), fault, &mut rows);
        }
    }
}

/// Rejects the row at `(start, end)` for what is wrong with a field.
fn reject(text: &Text, separator: u8, (start, end): (usize, usize), (n, reason): (usize, String), rows: &mut Rows) {
    let start = start + text.bytes[start..end].iter().take_while(|b| b.is_ascii_whitespace()).count();
    let at = field_start(&text.bytes[start..end], separator, n);
    rows.reject(text.problem(start, end, Fault::new(at, reason)));
}

fn wrong_width(found: usize, expected: usize) -> String {
    format!("{found} fields: expected {expected}, as in the header")
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
        return Err((0, wrong_width(record.len(), expected)));
    }
    for (i, role) in columns {
        let value = jsonl::utf8(&record[*i]).and_then(|value| field(*role, value, rows));
        value.map_err(|fault| (*i, fault.reason))?;
    }
    Ok(())
}

fn field(role: Role, value: &str, rows: &mut Rows) -> std::result::Result<(), Fault> {
    let value = if matches!(role, Role::Input | Role::Output) { value } else { value.trim() };
    if value.is_empty() {
        return Ok(());
    }
    if matches!(role, Role::Hashes | Role::InputIds | Role::OutputIds | Role::Extra(Extra::DependsOn)) {
        rows.list(role, 0).and_then(|()| numbers(role, value, rows))
    } else {
        rows.text(role, value, 0)
    }
}

/// `[1, 2, 3]`, or numbers separated by blanks.
fn numbers(role: Role, value: &str, rows: &mut Rows) -> std::result::Result<(), Fault> {
    if value.starts_with('[') {
        let mut scanner = Scanner::new(value);
        return jsonl::list(&mut scanner, role, rows)
            .and_then(|()| scanner.end())
            .map_err(|f| Fault::new(0, format!("{} (in `{}`)", f.reason, number::shorten(value))));
    }
    if role == Role::Extra(Extra::DependsOn) {
        value.split_whitespace().for_each(|name| rows.parent(name));
        return Ok(());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::TimeUnit;
    use crate::trace::Layout;

    /// Both ways of reading give the same for whatever both may read.
    #[test]
    fn plain_records_are_read_as_quoted_ones() {
        let fields = Fields::new(Layout::Tokens, TimeUnit::S)
            .required(Role::Arrival, "t")
            .required(Role::InputTokens, "i")
            .required(Role::OutputTokens, "o")
            .optional(Role::Session, "s")
            .optional(Role::Hashes, "h")
            .block_tokens(Some(16), None);
        let header = Header::of("t,i,o,s,h,x");
        let columns = [
            (0, Role::Arrival),
            (1, Role::InputTokens),
            (2, Role::OutputTokens),
            (3, Role::Session),
            (4, Role::Hashes),
        ];
        let pieces = [
            "1",
            ",",
            ",",
            ",",
            "\n",
            "\r\n",
            " ",
            "x",
            "2.5",
            "7,8,é,1 2 3,",
            "\n\n",
            "3,4,5,a,6,b\n",
            "1,2,3,,,\n",
            "-1",
        ];
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut content = String::new();
            for _ in 0..20 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                content += pieces[(state >> 33) as usize % pieces.len()];
            }
            let text = Text { bytes: content.clone().into_bytes(), line: 5, column: 1, depth: 0 };
            let a = parse_plain(&fields, &header, &columns, &text, &content).unwrap();
            let b = parse_quoted(&fields, &header, &columns, &text).unwrap();
            assert_eq!(a.rows, b.rows, "{content:?}");
            assert_eq!((&a.lines, &a.problems, a.counts), (&b.lines, &b.problems, b.counts), "{content:?}");
        }
    }
}
