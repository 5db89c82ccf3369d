//! The work of the stage: all files, one after the other, each on all threads.

use std::ops::ControlFlow;
use std::path::PathBuf;

use arrow::array::Array;

use super::linked::Linked;
use super::measured;
use super::rejects::Rejects;
use super::report::{FileReport, Report};
use super::rows::{Memory, Mode, Requests, chain_hashes};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{FilePath, Format, OnError, is_url};
use crate::stage::{Outcome, RunCx};
use crate::store;
use crate::trace::{self, Conversation, Links, Parsed, Parser, Reading, Settings};

pub struct Job {
    /// Of each file, in order.
    pub settings: Vec<Settings>,
    pub on_error: OnError,
    pub limit: Option<u64>,
    /// Of files of several runs, the one to read.
    pub run: Option<String>,
    /// Where the numbers of the tokens are.
    pub tokens: Option<FilePath>,
    /// The header beside the trace.
    pub header: Option<PathBuf>,
    pub memory: Memory,
    /// Bytes of a chunk, other than the default. Rows do not depend on it.
    pub step: Option<usize>,
    pub cx: RunCx,
}

/// The parser of the first file; `None` without files.
///
/// # Errors
/// A file that cannot be read, is of none of the formats, or of another than the first.
pub fn one_format(files: &[Settings]) -> Result<Option<Parser>> {
    let mut first: Option<(&Settings, Parser)> = None;
    for file in files {
        let parser = trace::looks(file)?;
        let Some((one, like)) = &first else {
            first = Some((file, parser));
            continue;
        };
        let what = |parser: &Parser| {
            let format = name(parser.format());
            let has = |there: bool, what: &str| format!(" {} {what}", if there { "with" } else { "without" });
            let (a, b) = (has(parser.arrives(), "arrivals"), has(parser.measures(), "measured times"));
            format!("{format} of {:?}{a}{b}", parser.layout()).to_lowercase()
        };
        let (expected, found) = (what(like), what(&parser));
        if expected != found {
            let what = format!("`{}` is {expected}, but `{}` is {found}", one.written, file.written);
            let help = "the files of a stage have one format; read others in a stage of their own";
            let diagnostics = vec![Diagnostic::new("ingest::formats", what).help(help)];
            return Err(Failure { exit: Exit::Stage, diagnostics });
        }
    }
    Ok(first.map(|(_, parser)| parser))
}

/// As in YAML.
fn name(format: Format) -> String {
    serde_json::to_string(&format).unwrap_or_default().trim_matches('"').to_string()
}

impl Job {
    pub fn run(mut self) -> Result<Outcome> {
        // Gone when the stage ends.
        let _fetched = self.fetch()?;
        self.cx.progress.0.total(self.bytes(), "bytes");
        let Some(parser) = one_format(&self.settings)? else {
            return Err(Failure::stage("ingest::files", "no files to read"));
        };
        let report = if parser.measures() { measured::run(&self)? } else { self.requests(&parser)? };
        report.write(&self.cx)?;
        Ok(Outcome { answer: report.answer(&self.cx.stage), violated: None })
    }

    /// Gets the files that are elsewhere.
    fn fetch(&mut self) -> Result<Vec<tempfile::NamedTempFile>> {
        let mut fetched = Vec::new();
        for settings in self.settings.iter_mut().filter(|s| is_url(&s.written)) {
            let (progress, cancel) = (self.cx.progress.clone(), self.cx.cancel.clone());
            let from = FilePath { written: settings.written.clone(), path: settings.path.clone(), at: None };
            let file = store::fetch(&from, &self.cx.out.dir, &mut |n| progress.0.advance(n))?;
            cancel.check()?;
            settings.path = file.path().to_path_buf();
            fetched.push(file);
        }
        Ok(fetched)
    }

    /// The files as written, for messages.
    pub fn written(&self) -> String {
        self.settings.iter().map(|s| s.written.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn bytes(&self) -> u64 {
        self.settings.iter().map(|s| std::fs::metadata(&s.path).map_or(0, |m| m.len())).sum()
    }

    fn requests(&self, parser: &Parser) -> Result<Report> {
        let mut rejects = Rejects::new(&self.cx, self.on_error)?;
        let mut table = Requests::new(&self.cx, Mode::Hold, self.memory);
        table.schema = parser.layout().schema();
        let mut pass = self.pass(&mut table, &mut rejects)?;
        if pass.is_none() {
            // Rows that are written already would have to come after others.
            self.cx.progress.0.total(2 * self.bytes(), "bytes");
            table = table.restart()?;
            table.schema = parser.layout().schema();
            rejects.again();
            pass = self.pass(&mut table, &mut rejects)?;
        }
        table.finish()?;
        let mut report = pass.unwrap_or_default();
        report.requests = table.rows() as u64;
        (report.late, report.ties) = (table.late, table.ties);
        rejects.finish(report.files.iter().map(|f| f.good).sum())?;
        Ok(report)
    }

    /// How requests of any of the files are linked.
    fn links(&self) -> Result<Option<Links>> {
        let links = self.settings.iter().map(|file| Ok(trace::looks(file)?.links()));
        Ok(links.collect::<Result<Vec<_>>>()?.into_iter().flatten().next())
    }

    /// Reads all files from start to end; `None` if the table must be begun anew.
    fn pass(&self, table: &mut Requests, rejects: &mut Rejects) -> Result<Option<Report>> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut conversations = Vec::new();
        let mut report = Report::default();
        let mut again = false;
        let mut linked = self.links()?.map(Linked::new);
        for (i, settings) in self.settings.iter().enumerate() {
            if left == 0 || again {
                break;
            }
            let mut seen = FileReport::new(&settings.written);
            let before = conversations.len();
            self.read(settings, &mut seen, |_, mut parsed: Parsed, seen| {
                conversations.append(&mut parsed.conversations);
                let full = cut(&mut parsed, left);
                let rows = parsed.rows.num_rows() as u64;
                left -= rows;
                seen.good += rows;
                seen.requests += rows;
                seen.counts += parsed.counts;
                seen.chained += hashed(&parsed);
                seen.reject(&parsed.problems);
                rejects.add(&settings.written, &parsed.problems)?;
                if rows > 0 {
                    again = match &mut linked {
                        Some(linked) => {
                            linked.push(i, parsed);
                            false
                        }
                        None => table.push(parsed.rows)?.is_break(),
                    };
                }
                Ok(if full || again { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            let talks = &conversations[before..];
            seen.good += talks.len() as u64;
            seen.requests += talks.iter().map(|c: &Conversation| c.replies.len() as u64).sum::<u64>();
            report.files.push(seen);
        }
        if again {
            return Ok(None);
        }
        rejects.check()?;
        if let Some(linked) = linked {
            let lost = linked.settle(table)?;
            report.files.iter_mut().zip(lost).for_each(|(file, lost)| file.counts.lost_waits += lost);
        }
        let cut = self.write_conversations(&conversations, table)?;
        report.cut = self.limit.filter(|_| cut || left == 0);
        self.cx.cancel.check()?;
        Ok(Some(report))
    }

    /// Reads a file on all threads; `sink` gets its rows in order, with chained hashes.
    pub fn read(
        &self,
        settings: &Settings,
        seen: &mut FileReport,
        mut sink: impl FnMut(&Parser, Parsed, &mut FileReport) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (progress, cancel) = (self.cx.progress.clone(), self.cx.cancel.clone());
        let mut reading = Reading::new(self.cx.pool.clone());
        reading.step = self.step.unwrap_or(reading.step);
        let parser = trace::looks(settings)?;
        let packed = parser.packed().map(|p| format!(", {p}")).unwrap_or_default();
        seen.format = format!("{}{packed}", name(parser.format()));
        seen.counts += parser.counts();
        let work = move |mut parsed: Parsed| {
            cancel.check()?;
            parsed.rows = chain_hashes(parsed.rows)?;
            Ok(parsed)
        };
        trace::read(settings, &reading, Box::new(move |n| progress.0.advance(n)), work, |parser, parsed| {
            sink(parser, parsed, seen)
        })
    }

    /// Says whether the limit cut some off.
    fn write_conversations(&self, conversations: &[Conversation], table: &mut Requests) -> Result<bool> {
        let mut left = usize::try_from(self.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let mut cut = false;
        trace::conversation_requests(conversations, |rows| {
            self.cx.cancel.check()?;
            cut |= rows.num_rows() > left;
            let rows = rows.slice(0, left.min(rows.num_rows()));
            left -= rows.num_rows();
            // They have no arrivals, and so no order that could be wrong.
            let _ = table.push(rows)?;
            Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(cut)
    }
}

/// Rows with block hashes.
pub fn hashed(parsed: &Parsed) -> u64 {
    parsed.rows.column_by_name("block_hashes").map_or(0, |c| c.len() - c.null_count()) as u64
}

/// Keeps the first `left` rows, and the problems up to the last of them. Says whether rows enough were there.
fn cut(parsed: &mut Parsed, left: u64) -> bool {
    let rows = parsed.rows.num_rows();
    let keep = usize::try_from(left).unwrap_or(usize::MAX);
    if rows < keep || keep == 0 {
        return keep == 0;
    }
    let last = parsed.lines[keep - 1];
    parsed.problems.retain(|p| p.line <= last);
    parsed.rows = parsed.rows.slice(0, keep);
    true
}
