//! Parquet files whose columns are encoded side by side.
//!
//! Encoding and compressing is most of the time of a stage that makes many rows, and the columns of a row group have
//! nothing to do with each other. Which thread encodes which column changes no byte.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Rows of a row group: what a writer holds in memory, and the unit in which readers skip and share work.
pub(super) const ROW_GROUP_ROWS: usize = 1 << 17;

/// Memory of the rows of a row group at most, give or take a batch: long texts make shorter groups.
const ROW_GROUP_BYTES: usize = 128 << 20;

/// How every table and every pack of the memo is written. No time, no version of a library: same rows, same bytes.
pub(super) fn writer_properties(schema: &Schema) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by("pipe".to_string())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
    // Times and numbers of requests hardly repeat: a dictionary of them is work for nothing, their differences are small.
    for field in schema.fields().iter().filter(|f| f.data_type() == &DataType::Int64) {
        if field.name().ends_with("_ns") || field.name() == "request_id" {
            let path = ColumnPath::from(field.name().as_str());
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    properties.build()
}

/// Writes one file. Batches must have the same sizes for the same rows: pages end where batches do.
pub(super) struct ColumnsWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    group: Vec<RecordBatch>,
    group_rows: usize,
    group_bytes: usize,
    groups: usize,
}

impl<W: Write + Send> ColumnsWriter<W> {
    pub fn try_new(out: W, schema: SchemaRef) -> Result<Self> {
        let writer = ArrowWriter::try_new(out, schema.clone(), Some(writer_properties(&schema)))?;
        let (writer, factory) = writer.into_serialized_writer()?;
        Ok(ColumnsWriter { writer, factory, schema, group: Vec::new(), group_rows: 0, group_bytes: 0, groups: 0 })
    }

    /// Appends a batch; a row group is encoded once it has [`ROW_GROUP_ROWS`] rows, of which batches are divisors.
    pub fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.group_rows += batch.num_rows();
        // Of the rows themselves, not of the buffers that they happen to lie in: the cut must not depend on those.
        let sizes = batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or_default());
        self.group_bytes += sizes.sum::<usize>();
        self.group.push(batch);
        if self.group_rows >= ROW_GROUP_ROWS || self.group_bytes >= ROW_GROUP_BYTES { self.encode() } else { Ok(()) }
    }

    pub fn into_inner(mut self) -> Result<W> {
        if self.group_rows > 0 {
            self.encode()?;
        }
        self.writer.into_inner()
    }

    fn encode(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.group);
        (self.group_rows, self.group_bytes) = (0, 0);
        let mut writers = self.factory.create_column_writers(self.groups)?.into_iter();
        self.groups += 1;
        let mut columns: Vec<(usize, Vec<ArrowColumnWriter>)> = Vec::new();
        for (i, field) in self.schema.fields().iter().enumerate() {
            columns.push((i, writers.by_ref().take(leaves(field.data_type())).collect()));
        }
        let schema = &self.schema;
        let encoded: Result<Vec<Vec<ArrowColumnChunk>>> =
            columns.into_par_iter().map(|(i, writers)| column(schema, i, writers, &batches)).collect();
        let mut group = self.writer.next_row_group()?;
        for chunk in encoded?.into_iter().flatten() {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        Ok(())
    }
}

fn column(
    schema: &Schema,
    i: usize,
    mut writers: Vec<ArrowColumnWriter>,
    batches: &[RecordBatch],
) -> Result<Vec<ArrowColumnChunk>> {
    for batch in batches {
        for (writer, leaf) in writers.iter_mut().zip(compute_leaves(schema.field(i), batch.column(i))?) {
            writer.write(&leaf)?;
        }
    }
    writers.into_iter().map(ArrowColumnWriter::close).collect()
}

/// Parquet columns of a value: one, but for structures.
fn leaves(kind: &DataType) -> usize {
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => leaves(item.data_type()),
        DataType::Struct(fields) => fields.iter().map(|f| leaves(f.data_type())).sum(),
        _ => 1,
    }
}
