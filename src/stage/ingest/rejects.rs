//! What becomes of rows that cannot be read.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::arrow;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{OnError, Quarantine};
use crate::stage::RunCx;
use crate::store::TableWriter;
use crate::table::column;
use crate::trace::Problem;

/// Bad rows that are reported at once.
pub const PROBLEMS_MAX: usize = 20;

pub fn table_name(stage: &str) -> String {
    format!("{stage}_rejected")
}

/// Rows that could not be read.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("file", DataType::Utf8, false, "", "The file, as written in the pipeline"),
        column("line", DataType::Int64, false, "", "Line, from 1; of Parquet files the row"),
        column("column", DataType::Int64, false, "", "Character in the line, from 1; of Parquet files the column"),
        column("reason", DataType::Utf8, false, "", "What is wrong, and what was expected"),
        column("text", DataType::Utf8, false, "", "The row, cut after 200 characters"),
    ]))
}

/// The bad rows of all files.
pub struct Rejects {
    on_error: OnError,
    /// Of the table of rejected rows; without it, bad rows are an error.
    writer: Option<TableWriter>,
    /// The first of them, for messages.
    first: Vec<Diagnostic>,
    seen: u64,
    /// Bad rows at the start of this pass that an earlier pass has written.
    known: u64,
}

impl Rejects {
    pub fn new(cx: &RunCx, on_error: OnError) -> Result<Self> {
        let writer = match on_error {
            OnError::Fail => None,
            OnError::Quarantine(_) => Some(cx.out.table(&table_name(&cx.stage), schema())?),
        };
        Ok(Rejects { on_error, writer, first: Vec::new(), seen: 0, known: 0 })
    }

    /// All files are read once more from their start.
    pub fn again(&mut self) {
        self.known = self.seen;
        self.seen = 0;
    }

    /// Takes the next bad rows of `file`.
    ///
    /// # Errors
    /// They are too many.
    pub fn add(&mut self, file: &str, problems: &[Problem]) -> Result<()> {
        let skip = usize::try_from(self.known.saturating_sub(self.seen)).unwrap_or(usize::MAX);
        self.seen += problems.len() as u64;
        let new = problems.get(skip.min(problems.len())..).unwrap_or_default();
        let room = PROBLEMS_MAX.saturating_sub(self.first.len());
        self.first.extend(new.iter().take(room).map(|p| p.diagnostic(file)));
        if let Some(writer) = &mut self.writer
            && !new.is_empty()
        {
            writer.write(&rows(file, new)?)?;
        }
        match self.on_error {
            OnError::Fail if self.first.len() >= PROBLEMS_MAX => self.check(),
            OnError::Quarantine(Quarantine { max_rows: Some(most), .. }) if self.seen > most => {
                Err(self.too_many(format!("more than {most} rows cannot be read, and `max_rows` allows no more")))
            }
            OnError::Fail | OnError::Quarantine(_) => Ok(()),
        }
    }

    /// Fails if there are bad rows and they are not wanted in a table.
    pub fn check(&self) -> Result<()> {
        if self.on_error != OnError::Fail || self.first.is_empty() {
            return Ok(());
        }
        let mut diagnostics = self.first.clone();
        if let Some(last) = diagnostics.last_mut() {
            let stopped = if self.first.len() >= PROBLEMS_MAX { "reading stopped here; " } else { "" };
            let help = "`on_error: quarantine` goes on without such rows and lists them in a table";
            last.help = Some(format!("{stopped}{help}"));
        }
        Err(Failure { exit: Exit::Stage, diagnostics })
    }

    /// Ends the table. `good` rows were read.
    ///
    /// # Errors
    /// The bad rows are too large a share.
    pub fn finish(mut self, good: u64) -> Result<()> {
        self.check()?;
        if let OnError::Quarantine(Quarantine { max_share: Some(most), .. }) = self.on_error {
            let all = good + self.seen;
            if self.seen as f64 > most * all as f64 {
                let percent = 100.0 * self.seen as f64 / all as f64;
                let what = format!("{} of {all} rows ({percent:.2} %) cannot be read", self.seen);
                return Err(self.too_many(format!("{what}, and `max_share` allows {:.2} %", 100.0 * most)));
            }
        }
        self.writer.take().map_or(Ok(()), TableWriter::finish)
    }

    fn too_many(&self, what: String) -> Failure {
        let limit = Diagnostic::new("ingest::too_many_bad_rows", what).help("the first of them are listed here");
        Failure { exit: Exit::Stage, diagnostics: std::iter::once(limit).chain(self.first.clone()).collect() }
    }
}

fn rows(file: &str, problems: &[Problem]) -> Result<RecordBatch> {
    let texts =
        |f: fn(&Problem) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(problems.iter().map(f))) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(problems.iter().map(|_| file))),
        Arc::new(Int64Array::from_iter_values(problems.iter().map(|p| p.line as i64))),
        Arc::new(Int64Array::from_iter_values(problems.iter().map(|p| i64::from(p.column)))),
        texts(|p| &p.reason),
        texts(|p| &p.text),
    ];
    RecordBatch::try_new(schema(), columns).map_err(arrow)
}
