//! What was noticed while reading: the table `<stage>_report`, and a line of the stage's answer where something was odd.
//!
//! A row per file and thing, in the order of the files; what is of the trace as a whole comes last, without a file. Things
//! that did not occur have no row, but for the numbers of rows and of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::arrow;
use crate::diag::Result;
use crate::stage::RunCx;
use crate::table::column;
use crate::trace::{Counts, Problem};

/// Different reasons that a file's bad rows are counted by; others are counted together.
const REASONS_MAX: usize = 50;

pub fn table_name(stage: &str) -> String {
    format!("{stage}_report")
}

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("file", DataType::Utf8, true, "", "The file, as written in the pipeline; null for the trace as a whole"),
        column("what", DataType::Utf8, false, "", "What was noticed"),
        column("count", DataType::Int64, false, "", "How often"),
        column("note", DataType::Utf8, false, "", "What that means, or which it was"),
    ]))
}

/// What was noticed of a file.
#[derive(Clone, Debug, Default)]
pub struct FileReport {
    pub file: String,
    /// Name of the format, and how the file was packed.
    pub format: String,
    /// Rows that became requests, or conversations.
    pub good: u64,
    pub requests: u64,
    pub rejected: u64,
    reasons: BTreeMap<String, u64>,
    pub counts: Counts,
    /// Requests whose blocks' identifiers were made chained hashes.
    pub chained: u64,
}

impl FileReport {
    pub fn new(file: &str) -> FileReport {
        FileReport { file: file.to_string(), ..FileReport::default() }
    }

    /// Counts bad rows by their reasons.
    pub fn reject(&mut self, problems: &[Problem]) {
        self.rejected += problems.len() as u64;
        for problem in problems {
            let reason = general(&problem.reason);
            let known = self.reasons.contains_key(&reason) || self.reasons.len() < REASONS_MAX;
            *self.reasons.entry(if known { reason } else { "other reasons".to_string() }).or_default() += 1;
        }
    }
}

/// A reason without the value that was found, so that rows with the same mistake count together.
fn general(reason: &str) -> String {
    let name = reason.strip_prefix('`').and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
    match (name, reason.split_once(": ")) {
        (Some(name), Some((_, what))) => format!("`{name}`: {what}"),
        (Some(_), None) => reason.to_string(),
        (None, _) => {
            let mut text = String::new();
            for c in reason.chars() {
                match c {
                    '0'..='9' if text.ends_with('N') => {}
                    '0'..='9' => text.push('N'),
                    c => text.push(c),
                }
            }
            text
        }
    }
}

/// What was noticed of all files.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub files: Vec<FileReport>,
    /// Requests in the table.
    pub requests: u64,
    /// Requests that arrive before the one that they follow, and at the instant of the one before them.
    pub late: u64,
    pub ties: u64,
    /// Requests at which reading stopped.
    pub cut: Option<u64>,
}

impl Report {
    /// Writes the table.
    pub fn write(&self, cx: &RunCx) -> Result<()> {
        let mut rows: Vec<(Option<&str>, &str, u64, &str)> = Vec::new();
        for file in &self.files {
            let FileReport { file, format, good, requests, rejected, reasons, counts, chained } = file;
            let mut add = |what, count, note| rows.push((Some(file.as_str()), what, count, note));
            add("format", 1, format.as_str());
            add("rows", good + rejected, "rows, or conversations, in the file");
            add("requests", *requests, "requests that they became");
            reasons.iter().for_each(|(reason, n)| add("rejected", *n, reason.as_str()));
            counts.named().into_iter().filter(|(_, _, n)| *n > 0).for_each(|(what, note, n)| add(what, n, note));
            if *chained > 0 {
                add("chained", *chained, "requests whose block identifiers became chained hashes");
            }
        }
        let whole = [
            ("requests", self.requests, "requests in the table"),
            ("late", self.late, "arrivals before that of the row before them: sorted"),
            ("ties", self.ties, "requests that arrive at the instant of the one before them"),
            (
                "limit",
                self.cut.unwrap_or(0),
                "requests after which reading stopped, as `limit` says; what else is counted was read up to there",
            ),
        ];
        let some = |(what, n, _): &&(&str, u64, &str)| *n > 0 || *what == "requests";
        rows.extend(whole.iter().filter(some).map(|(what, n, note)| (None, *what, *n, *note)));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(file, ..)| *file).collect::<StringArray>()),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, what, ..)| what))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, _, n, _)| *n as i64))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(.., note)| note))),
        ];
        let mut writer = cx.out.table(&table_name(&cx.stage), schema())?;
        writer.write(&RecordBatch::try_new(schema(), columns).map_err(arrow)?)?;
        writer.finish()
    }

    /// What a user should hear of; nothing where all is as one expects.
    pub fn answer(&self, stage: &str) -> Vec<String> {
        let mut counts = Counts::default();
        self.files.iter().for_each(|f| counts += f.counts);
        let rejected = self.files.iter().map(|f| f.rejected).sum();
        let odd = [
            (rejected, "rows rejected"),
            (counts.failed, "failed requests"),
            (counts.zero_inputs, "prompts of 0 tokens read as 1"),
            (counts.zero_outputs, "replies of 0 tokens read as 1"),
            (counts.string_numbers, "numbers in quotes"),
            (self.late, "arrivals out of order"),
        ];
        let odd: Vec<String> = odd.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        match odd.is_empty() {
            true => Vec::new(),
            false => {
                vec![format!("{stage}: {} requests; {} ({})", self.requests, odd.join(", "), table_name(stage))]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn reasons_lose_their_values() {
        for (reason, expect) in [
            ("`a` is `x`: not a number, expected a time", "`a`: not a number, expected a time"),
            ("missing `a`, `b`", "missing `a`, `b`"),
            ("12 fields: expected 3, as in the header", "N fields: expected N, as in the header"),
            ("`a` is there twice", "`a` is there twice"),
        ] {
            assert_eq!(general(reason), expect);
        }
    }
}
