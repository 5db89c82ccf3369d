//! From rows to messages: types that every client knows, in pieces that gRPC's clients accept.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::{Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt};
use tonic::Status;

/// About how large a message may be: clients take 4 MiB and more by default, and rows of a batch differ.
pub const MESSAGE: usize = 2 << 20;

/// Messages of a result.
pub type Messages = BoxStream<'static, Result<FlightData, Status>>;

/// How a result is sent: text as Utf8, and nothing encoded by dictionary, because not every client knows views and
/// dictionaries. Lists and structures likewise; names, units and descriptions stay.
pub fn sent(schema: &Schema) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(sent_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn sent_field(field: &FieldRef) -> FieldRef {
    let kind = sent_type(field.data_type());
    if kind == *field.data_type() { field.clone() } else { Arc::new(Field::clone(field).with_data_type(kind)) }
}

fn sent_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => sent_type(values),
        DataType::RunEndEncoded(_, values) => sent_type(values.data_type()),
        DataType::List(of) | DataType::LargeList(of) | DataType::ListView(of) | DataType::LargeListView(of) => {
            DataType::List(sent_field(of))
        }
        DataType::FixedSizeList(of, length) => DataType::FixedSizeList(sent_field(of), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(sent_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(sent_field(entries), *sorted),
        other => other.clone(),
    }
}

/// The messages of `rows`, after one with the schema.
pub fn messages<S>(schema: SchemaRef, rows: S) -> Messages
where
    S: Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
{
    let of = schema.clone();
    let pieces = rows.map(move |batch| pieces(&batch?, &of).map_err(FlightError::from));
    let pieces = pieces.map_ok(|p| futures::stream::iter(p.into_iter().map(Ok))).try_flatten();
    // They are cut already, by what is in them. The encoder would take a slice for as large as what it was cut from, and
    // send the groups of an aggregation a few rows at a time.
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema).with_max_flight_data_size(usize::MAX);
    encoder.build(pieces).map_err(Status::from).boxed()
}

/// The message of one batch that has `schema`.
pub fn message(schema: SchemaRef, batch: RecordBatch) -> Messages {
    messages(schema, futures::stream::iter([Ok(batch)]))
}

fn pieces(batch: &RecordBatch, schema: &SchemaRef) -> Result<Vec<RecordBatch>, ArrowError> {
    let batch = as_sent(batch, schema)?;
    let rows = batch.num_rows();
    let bytes: usize = batch.columns().iter().map(|c| size(c)).sum();
    let most = (rows / bytes.div_ceil(MESSAGE).max(1)).max(1);
    Ok((0..rows).step_by(most).map(|at| batch.slice(at, most.min(rows - at))).collect())
}

/// Bytes of what an array shows, not of what it was cut from.
fn size(array: &dyn Array) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_buffer_memory_size())
}

fn as_sent(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| match column.data_type() {
        kind if kind == field.data_type() => Ok(column.clone()),
        _ => cast(column, field.data_type()),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_, _>>()?, &options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_flight::decode::FlightRecordBatchStream;
    use datafusion::arrow::array::{ArrayRef, AsArray, DictionaryArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::{Int32Type, Int64Type};

    fn of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn types_that_every_client_knows() {
        let list = |of: DataType| DataType::List(Arc::new(Field::new_list_field(of, true)));
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8View));
        let cases = [
            (DataType::Int64, DataType::Int64),
            (DataType::Utf8View, DataType::Utf8),
            (DataType::BinaryView, DataType::Binary),
            (dictionary.clone(), DataType::Utf8),
            (list(DataType::Utf8View), list(DataType::Utf8)),
            (DataType::LargeList(Arc::new(Field::new_list_field(dictionary, true))), list(DataType::Utf8)),
        ];
        for (kind, expected) in cases {
            assert_eq!(sent_type(&kind), expected, "{kind}");
        }
        let field = Field::new("a", DataType::Utf8View, false).with_metadata([("unit".into(), "ms".into())].into());
        let field = sent(&Schema::new(vec![field])).field(0).clone();
        assert_eq!((field.metadata()["unit"].as_str(), field.is_nullable()), ("ms", false));
    }

    #[tokio::test]
    async fn what_is_sent_arrives() {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None, Some("ccc")]));
        let keys: ArrayRef = Arc::new(["x", "y", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let batch = of(vec![("t", text), ("d", keys)]);
        let schema = sent(&batch.schema());
        let received =
            FlightRecordBatchStream::new_from_flight_data(message(schema.clone(), batch).map_err(Into::into));
        let received: Vec<RecordBatch> = received.try_collect().await.unwrap();
        assert_eq!(received[0].schema(), schema);
        let column = |i: usize| received[0].column(i).as_string::<i32>().iter().collect::<Vec<_>>();
        assert_eq!(column(0), [Some("a"), None, Some("ccc")]);
        assert_eq!(column(1), [Some("x"), Some("y"), Some("x")]);
    }

    #[test]
    fn messages_are_cut_by_what_is_in_them() {
        let all: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000_000));
        let all = of(vec![("a", all)]);
        // 8 MB: four messages. 1,000 rows of them are one.
        let cases = [(all.clone(), 4), (all.slice(500_000, 1_000), 1), (all.slice(0, 0), 0)];
        for (batch, expected) in cases {
            let cut = pieces(&batch, &batch.schema()).unwrap();
            let rows: Vec<i64> =
                cut.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
            assert_eq!(rows, batch.column(0).as_primitive::<Int64Type>().values().to_vec());
            assert_eq!(cut.len(), expected, "{} rows", batch.num_rows());
        }
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        let cut = pieces(&batch, &batch.schema()).unwrap();
        assert_eq!(cut.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }
}
