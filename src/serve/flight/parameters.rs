//! Parameters of statements: `?` and `$1` in SQL, and their values as a client binds them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use futures::FutureExt;
use futures::stream::{Stream, StreamExt};
use prost::bytes::Bytes;
use tonic::Status;

use crate::serve::refusal::{Reason, Refusal};

/// The statement with every `?` numbered, from `$1`.
///
/// # Errors
/// `?` and `$1` in one statement.
pub fn numbered(sql: &str) -> Result<Cow<'_, str>, Refusal> {
    // What is no SQL is refused by the parser, which says more about it.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() else { return Ok(sql.into()) };
    let mut marks = Vec::new();
    let mut others = 0;
    for token in &tokens {
        match &token.token {
            Token::Placeholder(text) if text == "?" => marks.push((token.span.start.line, token.span.start.column)),
            Token::Placeholder(_) => others += 1,
            _ => {}
        }
    }
    if marks.is_empty() {
        return Ok(sql.into());
    }
    if others > 0 {
        let refusal = Refusal::new(Reason::Syntax, "a statement has parameters either as `?` or as `$1`, not both");
        return Err(refusal);
    }
    let mut text = String::with_capacity(sql.len() + marks.len());
    let (mut line, mut column, mut done) = (1, 1, 0);
    for c in sql.chars() {
        if marks.get(done) == Some(&(line, column)) {
            done += 1;
            text.push_str(&format!("${done}"));
        } else {
            text.push(c);
        }
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
    }
    Ok(text.into())
}

/// The parameters of a plan in their order, with their types where the plan says them, else `Null`.
///
/// # Errors
/// Parameters with names; one that is used as several types.
pub fn expected(plan: &LogicalPlan) -> Result<Schema, Refusal> {
    let conflicting = |e: DataFusionError| Refusal::new(Reason::Query, e.strip_backtrace());
    let names = plan.get_parameter_names().map_err(conflicting)?;
    let types = plan.get_parameter_types().map_err(conflicting)?;
    let mut found: BTreeMap<usize, DataType> = BTreeMap::new();
    for name in names {
        let Some(number) =
            name.strip_prefix('$').and_then(|n| n.parse().ok()).filter(|n| (1..=u16::MAX.into()).contains(n))
        else {
            let message = format!("the parameter `{name}` has no number");
            return Err(Refusal::new(Reason::Query, message).hint("write parameters as `?`, or as `$1`, `$2`"));
        };
        found.insert(number, types.get(&name).cloned().flatten().unwrap_or(DataType::Null));
    }
    // A number that is left out has a value too, which is not used.
    let count = found.keys().last().copied().unwrap_or(0);
    let kind = |n: usize| found.get(&n).cloned().unwrap_or(DataType::Null);
    Ok(Schema::new((1..=count).map(|n| Field::new(format!("${n}"), kind(n), true)).collect::<Vec<_>>()))
}

/// The plan with values for its parameters.
///
/// # Errors
/// More or fewer values than parameters; values that do not fit.
pub fn bind(plan: LogicalPlan, values: Vec<ScalarValue>) -> Result<LogicalPlan, Refusal> {
    let count = expected(&plan)?.fields().len();
    if count != values.len() {
        let message = format!("the statement has {count} parameters, and {} values", values.len());
        return Err(Refusal::new(Reason::Query, message));
    }
    if count == 0 {
        return Ok(plan);
    }
    plan.with_param_values(values).map_err(|e| Refusal::new(Reason::Query, e.strip_backtrace()))
}

/// A row of values as a client sends it, in a form that [`values`] reads.
///
/// # Errors
/// Several rows, or what is no Arrow.
pub async fn received<S>(stream: S) -> Result<Bytes, Status>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + 'static,
{
    let checked = stream.map(|data| data.and_then(checked).map_err(Into::into));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(checked);
    let mut row: Option<RecordBatch> = None;
    loop {
        // What reads them panics where they contradict themselves.
        let next = AssertUnwindSafe(batches.next()).catch_unwind().await;
        let next = next.map_err(|_| Status::invalid_argument("these are no parameters: they contradict themselves"))?;
        let Some(batch) = next else { break };
        let batch = batch.map_err(|e| match e {
            FlightError::Tonic(status) => *status,
            e => Status::invalid_argument(format!("these are no parameters: {e}")),
        })?;
        match batch.num_rows() {
            0 => {}
            1 if row.is_none() => row = Some(batch),
            _ => return Err(Status::invalid_argument("one row of parameters at a time: run the statement for each")),
        }
    }
    let Some(row) = row else { return Ok(Bytes::new()) };
    let mut bytes = Vec::new();
    let mut write = || {
        let mut writer = StreamWriter::try_new(&mut bytes, &row.schema())?;
        writer.write(&row)?;
        writer.finish()
    };
    write().map_err(|e| Status::invalid_argument(format!("these parameters cannot be used: {e}")))?;
    Ok(bytes.into())
}

/// A message whose buffers lie within what came of it. One row needs no compression, which says itself how large it becomes.
fn checked(data: FlightData) -> Result<FlightData, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("these are no parameters: {what}"));
    let Ok(message) = root_as_message(&data.data_header) else { return Err(wrong("a message cannot be read")) };
    let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data());
    if let Some(batch) = batch {
        if batch.compression().is_some() {
            return Err(wrong("they are compressed"));
        }
        let came = data.data_body.len();
        let within = |from: i64, long: i64| {
            let (from, long) = (usize::try_from(from).ok()?, usize::try_from(long).ok()?);
            from.checked_add(long).filter(|end| *end <= came)
        };
        if batch.buffers().into_iter().flatten().any(|b| within(b.offset(), b.length()).is_none()) {
            return Err(wrong("a buffer is longer than what came"));
        }
    }
    Ok(data)
}

/// The values of what [`received`] made.
///
/// # Errors
/// Something else.
pub fn values(bytes: &Bytes) -> Result<Vec<ScalarValue>, Refusal> {
    let unusable = |e: &dyn std::fmt::Display| Refusal::new(Reason::Query, format!("these are no parameters: {e}"));
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(|e| unusable(&e))?;
    let row = reader.next().and_then(Result::ok).filter(|r| r.num_rows() == 1);
    let row = row.ok_or_else(|| unusable(&"there is no row"))?;
    row.columns().iter().map(|c| ScalarValue::try_from_array(c, 0).map_err(|e| unusable(&e))).collect()
}

/// A value for each field of [`expected`] that says nothing but its type.
pub fn nulls(expected: &Schema) -> Vec<ScalarValue> {
    let null = |f: &Arc<Field>| ScalarValue::try_from(f.data_type()).unwrap_or(ScalarValue::Null);
    expected.fields().iter().map(null).collect()
}

/// The schema as Flight SQL's messages hold it.
///
/// # Errors
/// None in practice: every schema of a plan can be encoded.
pub fn encoded(schema: &Schema) -> Result<Bytes, Status> {
    let options = datafusion::arrow::ipc::writer::IpcWriteOptions::default();
    let message = arrow_flight::SchemaAsIpc::new(schema, &options).try_into();
    let arrow_flight::IpcMessage(bytes) = message.map_err(|e: ArrowError| Status::internal(e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_are_numbered() {
        let cases = [
            ("SELECT 1", Some("SELECT 1")),
            ("SELECT ?, ?", Some("SELECT $1, $2")),
            ("SELECT $1, $2", Some("SELECT $1, $2")),
            ("SELECT '?', \"a?\", ? -- ?", Some("SELECT '?', \"a?\", $1 -- ?")),
            (
                "SELECT /* ? */ ?\nFROM é WHERE ü = ? AND x = ?",
                Some("SELECT /* ? */ $1\nFROM é WHERE ü = $2 AND x = $3"),
            ),
            ("SELECT 'it''s ?' || ?", Some("SELECT 'it''s ?' || $1")),
            ("SELECT ?, $1", None),
            // Not SQL: left to the parser.
            ("SELECT '?", Some("SELECT '?")),
            ("", Some("")),
        ];
        for (sql, expected) in cases {
            assert_eq!(numbered(sql).ok().as_deref(), expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_row_of_values_comes_back() {
        let column = |v: ScalarValue| v.to_array().unwrap();
        let given = vec![ScalarValue::from(5_i64), ScalarValue::from("x"), ScalarValue::Null, ScalarValue::from(0.5)];
        let names = ["0", "1", "2", "3"];
        let row = RecordBatch::try_from_iter(names.into_iter().zip(given.iter().cloned().map(column))).unwrap();
        let stream = super::super::batches::message(row.schema(), row.clone());
        let bytes = received(stream).await.unwrap();
        assert_eq!(values(&bytes).unwrap(), given);
        let two = super::super::batches::messages(row.schema(), futures::stream::iter([Ok(row.clone()), Ok(row)]));
        assert!(received(two).await.unwrap_err().message().contains("one row"));
    }

    #[tokio::test]
    async fn messages_that_say_more_than_they_have_are_refused() {
        let row = RecordBatch::try_from_iter([("0", ScalarValue::from("a text").to_array().unwrap())]).unwrap();
        let all: Vec<_> = super::super::batches::message(row.schema(), row).collect().await;
        for cut in 0..3 {
            let mut messages: Vec<FlightData> = all.iter().map(|m| m.clone().unwrap()).collect();
            let last = messages.last_mut().unwrap();
            match cut {
                0 => last.data_body = last.data_body.slice(..8),
                1 => last.data_body = Bytes::new(),
                _ => last.data_header = last.data_header.slice(..last.data_header.len() / 2),
            }
            let refused = received(futures::stream::iter(messages.into_iter().map(Ok))).await.unwrap_err();
            assert!(refused.message().contains("these are no parameters"), "{refused:?}");
        }
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for bytes in [&b"garbage"[..], &[0xff; 64], &[0]] {
            assert!(values(&Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
        assert_eq!(values(&Bytes::new()).unwrap(), vec![]);
    }
}
