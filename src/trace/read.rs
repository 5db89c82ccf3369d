//! Reads a whole file on all threads of a pool, in bounded memory, and hands out its rows in the order of the file.
//!
//! - A plain file of lines, or of CSV records, is read by ranges of bytes: every thread reads a range of its own. A range
//!   begins and ends wherever it does; its rows are those that begin in it. To know where that is, and on which line, a
//!   range waits until the ranges before it have counted their line ends and quotes, which is a small part of the work.
//! - A packed file, and a JSON list, is read and cut by one thread; its chunks are parsed by all.
//! - A Parquet file is read by row groups.
//!
//! In flight at a time are at most three chunks per thread, of 1 MiB or a row group.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::chunk::{CHUNK, Chunks, Cut, MAX_ROW, Text, too_long};
use super::ordered::ordered;
use super::{OnBytes, Parsed, Parser, Settings};
use crate::diag::{self, Failure, Result};

/// How a file is read. Rows depend on nothing of it.
#[derive(Clone, Debug)]
pub struct Reading {
    pub pool: Arc<rayon::ThreadPool>,
    /// Bytes of a range or chunk.
    pub step: usize,
}

impl Reading {
    pub fn new(pool: Arc<rayon::ThreadPool>) -> Reading {
        Reading { pool, step: CHUNK }
    }
}

/// Reads a file: `work` on the rows of each chunk, on any thread, then `sink`, in order. Stops when `sink` breaks. The
/// caller must not be a thread of the pool.
///
/// # Errors
/// Those of [`super::open()`], of `work` and of `sink`; the file cannot be read, or a row is too long.
pub fn read(
    settings: &Settings,
    reading: &Reading,
    mut on_bytes: OnBytes,
    work: impl Fn(Parsed) -> Result<Parsed> + Send + Sync + 'static,
    mut sink: impl FnMut(&Parser, Parsed) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // Of ranges, what was read is told here; of others, by whoever reads.
    let (parser, chunks) = super::open(settings, Box::new(|_| ()))?;
    if let Some((cut, start, line)) = chunks.plain() {
        drop(chunks);
        let ranges = Ranges::new(settings, reading, cut, start, line)?;
        let mut next = 0;
        let source = || {
            on_bytes(if next == 0 { start } else { 0 });
            let range = (next < ranges.count()).then_some(next);
            if let Some(range) = range {
                on_bytes(ranges.bytes(range));
            }
            next += 1;
            Ok(range.map(|range| (ranges.clone(), range)))
        };
        let parse = parser.clone();
        let work = move |(ranges, range): (Arc<Ranges>, u64)| {
            let parsed = ranges.with_rows(range, |text| parse.parse_text(text))?;
            work(parsed)
        };
        return ordered(&reading.pool, source, work, |parsed| sink(&parser, parsed));
    }
    let (parser, mut chunks) = super::open(settings, on_bytes)?;
    chunks.step(reading.step);
    let parse = parser.clone();
    ordered(
        &reading.pool,
        || Chunks::next_chunk(&mut chunks),
        move |chunk| work(parse.parse(chunk)?),
        |parsed| sink(&parser, parsed),
    )
}

/// A file that is read at many places at once.
struct Ranges {
    file: File,
    written: String,
    cut: Cut,
    /// The first byte of the first row, and the one behind the last.
    start: u64,
    end: u64,
    step: u64,
    known: Mutex<Known>,
    changed: Condvar,
}

/// What the ranges before one have found out.
struct Known {
    /// The range that is next to count.
    range: u64,
    here: Here,
    /// A range could not be read: those after it wait no longer.
    failed: bool,
}

/// A place in a file.
#[derive(Clone, Copy)]
struct Here {
    /// From 1.
    line: u64,
    /// Within quotes.
    quoted: bool,
}

thread_local! {
    /// What a thread reads into, one range after the other: fresh memory costs as much as reading.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Ranges {
    fn new(settings: &Settings, reading: &Reading, cut: Cut, start: u64, line: u64) -> Result<Arc<Ranges>> {
        let unreadable = |e: io::Error| diag::io(settings.written.as_ref(), "read", &e);
        let file = File::open(&settings.path).map_err(unreadable)?;
        let end = file.metadata().map_err(unreadable)?.len();
        let known = Known { range: 0, here: Here { line, quoted: false }, failed: false };
        Ok(Arc::new(Ranges {
            file,
            written: settings.written.clone(),
            cut,
            start,
            end,
            step: reading.step.max(1) as u64,
            known: Mutex::new(known),
            changed: Condvar::new(),
        }))
    }

    fn count(&self) -> u64 {
        self.end.saturating_sub(self.start).div_ceil(self.step)
    }

    fn bytes(&self, range: u64) -> u64 {
        self.step.min(self.end - self.start - range * self.step)
    }

    /// Calls `f` with the rows that begin in a range. All ranges before it must have begun.
    fn with_rows<T>(self: &Arc<Self>, range: u64, f: impl FnOnce(&Text) -> Result<T>) -> Result<T> {
        let mut counted = Turn { ranges: self, range, done: false };
        let from = self.start + range * self.step;
        // With the byte before it, which says whether a row begins at once.
        let lead = u64::from(range > 0);
        let size = self.bytes(range);
        // What it held is written over: to clear it would be work for nothing.
        let mut bytes = BUFFER.take();
        bytes.resize((size + lead) as usize, 0);
        self.fill(&mut bytes, from - lead)?;
        let (here, behind) = counted.wait_and_count(&bytes[lead as usize..])?;
        let body = self.rows_of(&mut bytes, lead as usize, from + size, here, behind)?;
        let (skip, line) = body.unwrap_or((bytes.len(), here.line));
        bytes.drain(..skip);
        let text = Text { bytes, line, column: 1, depth: 0 };
        let result = f(&text);
        // That of a row of many chunks is not kept.
        if text.bytes.capacity() as u64 <= 4 * self.step {
            BUFFER.set(text.bytes);
        }
        result
    }

    /// Which of the bytes belong to rows that begin in the range, its end put on; `None` if none begins. Bytes to leave out
    /// at the start, and the line behind them.
    fn rows_of(
        &self,
        bytes: &mut Vec<u8>,
        lead: usize,
        end: u64,
        here: Here,
        behind: Here,
    ) -> Result<Option<(usize, u64)>> {
        let mut quoted = here.quoted;
        let mut skip = lead;
        // Unless a row begins where the range does, up to the first end of a row.
        if lead > 0 && (quoted || bytes[0] != b'\n') {
            match self.row_end(&bytes[lead..], &mut quoted) {
                Some(n) => skip = lead + n,
                None => return Ok(None),
            }
        }
        if skip == bytes.len() {
            return Ok(None);
        }
        let line = here.line + count(&bytes[lead..skip], b'\n');
        // From the end on to that of the row that is cut there.
        let mut quoted = behind.quoted;
        let mut at = end;
        if !quoted && bytes.last() == Some(&b'\n') {
            return Ok(Some((skip, line)));
        }
        let mut ahead = Vec::new();
        while at < self.end {
            let more = self.step.clamp(4096, 1 << 16).min(self.end - at);
            ahead.resize(more as usize, 0);
            self.fill(&mut ahead, at)?;
            let found = self.row_end(&ahead, &mut quoted);
            bytes.extend_from_slice(&ahead[..found.unwrap_or(ahead.len())]);
            if found.is_some() {
                break;
            }
            if bytes.len() - skip > MAX_ROW {
                return Err(too_long(self.cut, &self.written, line, 1));
            }
            at += more;
        }
        Ok(Some((skip, line)))
    }

    /// Bytes up to and with the first end of a row. `quoted` goes along.
    fn row_end(&self, bytes: &[u8], quoted: &mut bool) -> Option<usize> {
        if self.cut == Cut::Lines {
            return bytes.iter().position(|b| *b == b'\n').map(|n| n + 1);
        }
        for (i, b) in bytes.iter().enumerate() {
            *quoted ^= *b == b'"';
            if *b == b'\n' && !*quoted {
                return Some(i + 1);
            }
        }
        None
    }

    /// Reads the bytes at a place.
    fn fill(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let mut got = 0;
        while got < bytes.len() {
            match read_at(&self.file, &mut bytes[got..], at + got as u64) {
                Ok(0) => return Err(Failure::stage("trace::changed", format!("{} became shorter", self.written))),
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(diag::io(self.written.as_ref(), "read", &e)),
            }
        }
        Ok(())
    }
}

/// The turn of a range to count. Dropped before it has, those after it are told that it failed.
struct Turn<'a> {
    ranges: &'a Ranges,
    range: u64,
    done: bool,
}

impl Turn<'_> {
    /// Waits for the ranges before, adds what is in this one, and returns the places where it begins and ends.
    fn wait_and_count(&mut self, bytes: &[u8]) -> Result<(Here, Here)> {
        let Ranges { known, changed, cut, .. } = self.ranges;
        let lines = count(bytes, b'\n');
        let odd = *cut == Cut::Quoted && count(bytes, b'"') % 2 == 1;
        let guard = known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known =
            changed.wait_while(guard, |k| k.range < self.range && !k.failed).unwrap_or_else(PoisonError::into_inner);
        if known.failed {
            return Err(Failure::stage("trace::read", format!("{} could not be read", self.ranges.written)));
        }
        let here = known.here;
        let behind = Here { line: here.line + lines, quoted: here.quoted ^ odd };
        known.here = behind;
        known.range += 1;
        self.done = true;
        changed.notify_all();
        Ok((here, behind))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.ranges.known.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
            self.ranges.changed.notify_all();
        }
    }
}

/// How often a byte is there. In pieces whose counts fit a byte, which the compiler makes several times faster.
fn count(bytes: &[u8], byte: u8) -> u64 {
    let piece = |piece: &[u8]| piece.iter().map(|b| u8::from(*b == byte)).sum::<u8>();
    bytes.chunks(255).map(|bytes| u64::from(piece(bytes))).sum()
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}
