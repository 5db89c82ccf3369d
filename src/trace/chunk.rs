//! Cuts a file into chunks of whole rows, which are then parsed side by side.

use std::io::{BufRead, Read};
use std::sync::Arc;

use super::open::{Content, OnBytes};
use super::parquet::Groups;
use super::{Counts, Fault, Problem};
use crate::diag::{self, Failure, Result};

/// Bytes read for a chunk: large enough to be worth a thread's while, small enough to keep several in flight.
pub const CHUNK: usize = 1 << 20;
/// Largest file that is one document: it is read as a whole, and its tree takes a few times as much.
pub const MAX_DOCUMENT: usize = 1 << 30;
/// Longest row. A quote or bracket that is never closed would otherwise read the whole file into memory.
pub const MAX_ROW: usize = 256 << 20;

/// Some rows of a file.
#[derive(Debug)]
pub enum Chunk {
    Text(Text),
    /// A row group of a Parquet file, which is yet to be read; rows count from 1.
    Group {
        groups: Arc<Groups>,
        group: usize,
        first_row: u64,
    },
}

/// Whole rows as text, and where they stand.
#[derive(Debug)]
pub struct Text {
    pub bytes: Vec<u8>,
    /// Of the first byte, from 1.
    pub line: u64,
    /// Of the first byte, in characters from 1.
    pub column: u32,
    /// JSON brackets open before the first byte.
    pub depth: u32,
}

impl Text {
    /// The lines that are not blank: number, byte where it begins, content without the end of line.
    pub fn lines(&self) -> impl Iterator<Item = (u64, usize, &[u8])> {
        let mut rest = self.bytes.as_slice();
        let mut number = self.line;
        std::iter::from_fn(move || {
            loop {
                let whole = rest;
                let start = self.bytes.len() - whole.len();
                // Of all ways to find a byte in the standard library, the fastest.
                let len = rest.skip_until(b'\n').unwrap_or(0);
                if len == 0 {
                    return None;
                }
                number += 1;
                let line = &whole[..len];
                if !line.trim_ascii().is_empty() {
                    return Some((number - 1, start, strip_end(line)));
                }
            }
        })
    }

    /// Of rows that are lines: how they end, and the blank ones.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { open_ends: u64::from(self.ends_open()), ..Counts::default() };
        let mut rest = self.bytes.as_slice();
        loop {
            let whole = rest;
            let line = &whole[..rest.skip_until(b'\n').unwrap_or(0)];
            if line.is_empty() {
                return counts;
            }
            let blank = line.trim_ascii().is_empty();
            counts.blank_lines += u64::from(blank);
            counts.crlf_rows += u64::from(!blank && line.ends_with(b"\r\n"));
        }
    }

    /// Only the last text of a file ends within a line.
    pub fn ends_open(&self) -> bool {
        self.bytes.last().is_some_and(|b| *b != b'\n')
    }

    /// The problem at byte `start + fault.at`, of the row `start..end`.
    pub(super) fn problem(&self, start: usize, end: usize, fault: Fault) -> Problem {
        let at = (start + fault.at).min(self.bytes.len());
        let (line, column) = self.place_after((0, self.line, self.column), at);
        Problem { line, column, reason: fault.reason, text: self.shown(start, end) }
    }

    /// Line and column of byte `at`, from those of a byte before it.
    pub(super) fn place_after(&self, (from, line, column): (usize, u64, u32), at: usize) -> (u64, u32) {
        let passed = &self.bytes[from..at];
        let ends = passed.iter().filter(|b| **b == b'\n').count() as u64;
        let rest = passed.iter().rposition(|b| *b == b'\n').map_or(passed, |n| &passed[n + 1..]);
        // Bytes that go on with a character are none of their own.
        let characters = rest.iter().filter(|b| (**b & 0xC0) != 0x80).count() as u32;
        (line + ends, characters + if ends == 0 { column } else { 1 })
    }

    /// The row `start..end`, as far as it is shown.
    pub(super) fn shown(&self, start: usize, end: usize) -> String {
        String::from_utf8_lossy(strip_end(&self.bytes[start..end])).chars().take(200).collect()
    }
}

fn strip_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Where a text may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After every end of line.
    Lines,
    /// After ends of lines outside quotes.
    Quoted,
    /// After the commas of the outermost JSON list.
    Elements,
    /// Nowhere: the file is one document.
    Whole,
}

impl Cut {
    /// Bytes that a piece may have at most.
    fn longest(self) -> usize {
        if self == Cut::Whole { MAX_DOCUMENT } else { MAX_ROW }
    }
}

/// The chunks of a file, in order.
pub struct Chunks(Source);

enum Source {
    Text(Box<TextSource>),
    Rows { groups: Arc<Groups>, next: usize, next_row: u64, on_rows: OnBytes },
}

struct TextSource {
    cut: Cut,
    content: Content,
    /// Bytes read for a chunk.
    step: usize,
    /// Bytes before the first row: the mark and the header.
    start: u64,
    /// Read, but not yet handed out.
    carry: Vec<u8>,
    line: u64,
    column: u32,
    depth: u32,
    written: String,
}

impl Chunks {
    /// `skip` bytes of the head (the header of a CSV file) are passed over.
    pub(super) fn text(mut content: Content, cut: Cut, skip: usize, written: &str) -> Self {
        let mut carry = std::mem::take(&mut content.head);
        let line = 1 + carry.drain(..skip).filter(|b| *b == b'\n').count() as u64;
        let start = (if content.marked { 3 } else { 0 } + skip) as u64;
        Chunks(Source::Text(Box::new(TextSource {
            cut,
            content,
            step: CHUNK,
            start,
            carry,
            line,
            column: 1,
            depth: 0,
            written: written.to_string(),
        })))
    }

    pub(super) fn rows(groups: Groups, on_rows: OnBytes) -> Self {
        Chunks(Source::Rows { groups: Arc::new(groups), next: 0, next_row: 1, on_rows })
    }

    /// Chunks of about `bytes` instead of the default. Rows do not depend on it.
    pub fn step(&mut self, bytes: usize) {
        if let Source::Text(source) = &mut self.0 {
            source.step = bytes.max(1);
        }
    }

    /// Where the rows begin in a file that can be read at any place: its cut, the byte, and the line.
    pub(super) fn plain(&self) -> Option<(Cut, u64, u64)> {
        match &self.0 {
            Source::Text(s) => match s.cut {
                Cut::Lines | Cut::Quoted => s.content.packed.is_none().then_some((s.cut, s.start, s.line)),
                Cut::Elements | Cut::Whole => None,
            },
            Source::Rows { .. } => None,
        }
    }

    /// The next chunk; `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read or unpacked, or a row is too long.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        match &mut self.0 {
            Source::Text(source) => Ok(source.next()?.map(Chunk::Text)),
            Source::Rows { groups, next, next_row, on_rows } => {
                let Some(rows) = groups.rows(*next) else { return Ok(None) };
                let chunk = Chunk::Group { groups: groups.clone(), group: *next, first_row: *next_row };
                *next += 1;
                *next_row += rows;
                on_rows(rows);
                Ok(Some(chunk))
            }
        }
    }
}

impl TextSource {
    fn next(&mut self) -> Result<Option<Text>> {
        let mut bytes = std::mem::take(&mut self.carry);
        let mut scan = Scan::new(self.cut, self.depth);
        loop {
            // In one piece: growing by doubling would copy every byte again.
            bytes.reserve(self.step + 64);
            let got = (&mut self.content.rest).take(self.step as u64).read_to_end(&mut bytes);
            let got = got.map_err(|e| diag::io(self.written.as_ref(), "read", &e))?;
            scan.go_on(&bytes);
            // A chunk without a boundary grows; a full one is cut at its last boundary.
            match scan.boundary {
                _ if got == 0 => break,
                Some(end) if bytes.len() >= self.step => {
                    self.carry = bytes.split_off(end);
                    break;
                }
                _ if bytes.len() > self.cut.longest() => return Err(self.too_long()),
                _ => {}
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = Text { line: self.line, column: self.column, depth: self.depth, bytes };
        self.advance(&text.bytes);
        Ok(Some(text))
    }

    fn advance(&mut self, bytes: &[u8]) {
        self.line += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        if self.cut == Cut::Elements {
            let line_start = bytes.iter().rposition(|b| *b == b'\n');
            let characters = String::from_utf8_lossy(&bytes[line_start.map_or(0, |n| n + 1)..]).chars().count() as u32;
            self.column = if line_start.is_some() { 1 + characters } else { self.column + characters };
            self.depth = 1;
        }
    }

    fn too_long(&self) -> Failure {
        too_long(self.cut, &self.written, self.line, self.column)
    }
}

/// A row that begins at a line and column and does not end within [`MAX_ROW`].
pub(super) fn too_long(cut: Cut, written: &str, line: u64, column: u32) -> Failure {
    let what = match cut {
        Cut::Lines => "no end of line",
        Cut::Quoted => "no end of line outside quotes: is a quote never closed?",
        Cut::Elements => "no end of an item of the list: is a bracket or a quote never closed?",
        Cut::Whole => "no end of the document",
    };
    let line = u32::try_from(line).unwrap_or(u32::MAX);
    let mut failure = Failure::stage("trace::row_too_long", format!("{what} within {} MiB", cut.longest() >> 20));
    failure.diagnostics[0].at = Some(crate::diag::Span { file: written.into(), line, column, len: 0 });
    failure
}

/// Looks for the last place where a growing text may be cut.
pub struct Scan {
    cut: Cut,
    at: usize,
    quoted: bool,
    escaped: bool,
    pub depth: u32,
    pub boundary: Option<usize>,
}

impl Scan {
    pub fn new(cut: Cut, depth: u32) -> Self {
        Scan { cut, at: 0, quoted: false, escaped: false, depth, boundary: None }
    }

    fn go_on(&mut self, bytes: &[u8]) {
        if self.cut == Cut::Whole {
            return;
        }
        let new = &bytes[self.at..];
        let plain = match self.cut {
            Cut::Lines => true,
            Cut::Quoted => !self.quoted && !new.contains(&b'"'),
            Cut::Elements | Cut::Whole => false,
        };
        if plain {
            self.boundary = new.iter().rposition(|b| *b == b'\n').map(|n| self.at + n + 1).or(self.boundary);
        } else {
            for (i, b) in new.iter().enumerate() {
                let ends = if self.cut == Cut::Elements { self.element(*b) } else { self.record(*b) };
                if ends {
                    self.boundary = Some(self.at + i + 1);
                }
            }
        }
        self.at = bytes.len();
    }

    /// Whether a CSV record ends with `byte`. A doubled quote opens and closes, and so changes nothing.
    fn record(&mut self, byte: u8) -> bool {
        self.quoted ^= byte == b'"';
        byte == b'\n' && !self.quoted
    }

    /// Whether an element of the outermost list ends with `byte`.
    pub fn element(&mut self, byte: u8) -> bool {
        if self.quoted {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.quoted = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.quoted = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        byte == b',' && self.depth == 1
    }
}
