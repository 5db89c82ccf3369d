//! Rows on their way to a client: those of a query, as it makes them, and those that are known at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion_postgres::pgwire::messages::PgWireBackendMessage as Out;
use futures::StreamExt;

use super::Done;
use crate::serve::postgres::encode::Columns;
use crate::serve::postgres::fault::Fault;
use crate::serve::postgres::line::Line;
use crate::serve::service::Rows;

/// Rows that are encoded at once.
const CHUNK: usize = 1024;

/// See the module.
pub struct Cursor {
    pub columns: Columns,
    source: Source,
    /// What is left of a batch.
    rest: Option<RecordBatch>,
    /// Time that it may still work.
    left: Option<Duration>,
    /// Whether it outlives its transaction.
    pub hold: bool,
}

enum Source {
    Query(Box<Rows>),
    Fixed(Option<RecordBatch>),
}

impl Cursor {
    /// The rows of a query that may work for the time that is `left`.
    pub fn of_query(columns: Columns, rows: Rows, left: Option<Duration>) -> Cursor {
        Cursor { columns, source: Source::Query(Box::new(rows)), rest: None, left, hold: false }
    }

    /// Columns of texts, with their names.
    pub fn of_texts(columns: Vec<(&str, Vec<String>)>) -> Result<Cursor, Fault> {
        let fields: Vec<Field> = columns.iter().map(|(n, _)| Field::new(*n, DataType::Utf8, false)).collect();
        let arrays = columns.into_iter().map(|(_, v)| Arc::new(StringArray::from(v)) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
        let batch = batch.map_err(|e| Fault::new("XX000", e.to_string()))?;
        let columns = Columns::new(&batch.schema(), None);
        Ok(Cursor { columns, source: Source::Fixed(Some(batch)), rest: None, left: None, hold: false })
    }

    /// At most `most` further rows; `None` at the end.
    pub async fn next(&mut self, line: &mut Line, most: usize) -> Done<Option<RecordBatch>> {
        loop {
            if let Some(rest) = self.rest.take() {
                let taken = rest.num_rows().min(most).min(CHUNK);
                if taken < rest.num_rows() {
                    self.rest = Some(rest.slice(taken, rest.num_rows() - taken));
                }
                if taken > 0 {
                    return Ok(Some(rest.slice(0, taken)));
                }
            }
            let next = match &mut self.source {
                Source::Fixed(batch) => batch.take(),
                Source::Query(rows) => {
                    let begun = Instant::now();
                    let next = within(line, self.left, rows.next()).await?;
                    self.left = self.left.map(|left| left.saturating_sub(begun.elapsed()));
                    next.transpose()?
                }
            };
            match next {
                None => return Ok(None),
                batch => self.rest = batch,
            }
        }
    }

    /// Sends rows, all of them if `most` is 0. Returns their number and whether there may be more.
    pub async fn send(&mut self, line: &mut Line, most: usize) -> Done<(usize, bool)> {
        let mut sent = 0;
        let most = if most == 0 { usize::MAX } else { most };
        while sent < most {
            let Some(batch) = self.next(line, most - sent).await? else { return Ok((sent, false)) };
            sent += batch.num_rows();
            let rows = self.columns.rows(&batch)?;
            line.feed(rows.into_iter().map(Out::DataRow).collect()).await?;
        }
        Ok((sent, true))
    }
}

/// Waits for `work` as long as the client's `statement_timeout` allows.
pub async fn within<T>(line: &mut Line, left: Option<Duration>, work: impl Future<Output = T>) -> Done<T> {
    match left {
        None => Ok(line.wait(work).await?),
        Some(left) => match line.wait(tokio::time::timeout(left, work)).await? {
            Ok(done) => Ok(done),
            Err(_) => Err(Fault::new("57014", "canceling statement due to statement timeout").into()),
        },
    }
}
