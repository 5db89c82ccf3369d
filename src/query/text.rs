//! Rows as text for people and documents: Markdown, and one line per column; and lists as text, for formats without.

use std::io::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// How the cells of a row are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A table of Markdown: GitHub's, with numbers to the right.
    Markdown,
    /// A line per column, as `\x` of psql.
    Vertical,
}

/// Writes rows as they come.
pub struct TextWriter<W: Write> {
    out: W,
    layout: Layout,
    schema: SchemaRef,
    rows: u64,
}

/// The cells of a batch, row by row; NULL is empty.
///
/// # Errors
/// A value that cannot be shown, e.g. a date outside the calendar.
pub fn cells(batch: &RecordBatch) -> Result<Vec<Vec<String>>, ArrowError> {
    let options = FormatOptions::default();
    let columns = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    (0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row).try_to_string()).collect()).collect()
}

/// The columns of [`flat`] rows.
pub fn flat_schema(schema: &Schema) -> SchemaRef {
    let plain = |f: &Arc<Field>| match f.data_type().is_nested() {
        true => Field::new(f.name(), DataType::Utf8, true),
        false => f.as_ref().clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

/// The rows with lists as text, `[1, 2]`, as CSV can hold them.
///
/// # Errors
/// A value that cannot be shown.
pub fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let plain = |c: &ArrayRef| if c.data_type().is_nested() { texts(c) } else { Ok(c.clone()) };
    let columns = batch.columns().iter().map(plain).collect::<Result<Vec<_>, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(flat_schema(&batch.schema()), columns, &rows)
}

/// The values of a column as people read them.
///
/// # Errors
/// A value that cannot be shown.
pub fn texts(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let format = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let text = |i: usize| column.is_valid(i).then(|| format.value(i).try_to_string()).transpose();
    let texts = (0..column.len()).map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StringArray::from(texts)))
}

impl<W: Write> TextWriter<W> {
    /// # Errors
    /// The output cannot be written.
    pub fn new(layout: Layout, schema: &SchemaRef, mut out: W) -> Result<Self, std::io::Error> {
        if layout == Layout::Markdown {
            let names: Vec<String> = schema.fields().iter().map(|f| markdown(f.name())).collect();
            let rule = |numeric: bool| if numeric { "---:" } else { "---" };
            let rules: Vec<&str> = schema.fields().iter().map(|f| rule(f.data_type().is_numeric())).collect();
            writeln!(out, "| {} |\n| {} |", names.join(" | "), rules.join(" | "))?;
        }
        Ok(TextWriter { out, layout, schema: schema.clone(), rows: 0 })
    }

    /// # Errors
    /// The output cannot be written, or a value cannot be shown.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        for row in cells(batch)? {
            self.rows += 1;
            match self.layout {
                Layout::Markdown => {
                    let row: Vec<String> = row.iter().map(|cell| markdown(cell)).collect();
                    writeln!(self.out, "| {} |", row.join(" | "))?;
                }
                Layout::Vertical => self.record(&row)?,
            }
        }
        Ok(())
    }

    fn record(&mut self, row: &[String]) -> Result<(), std::io::Error> {
        let length = |name: &str| name.chars().count();
        let width = self.schema.fields().iter().map(|f| length(f.name())).max().unwrap_or(0);
        writeln!(self.out, "{:-<w$}", format!("-[ RECORD {} ]", self.rows), w = width + 3)?;
        for (field, cell) in self.schema.fields().iter().zip(row) {
            let mut name = field.name().as_str();
            // A cell of several lines goes on below itself.
            for line in cell.split('\n') {
                writeln!(self.out, "{name:width$} | {line}")?;
                name = "";
            }
        }
        Ok(())
    }

    /// # Errors
    /// The output cannot be written.
    pub fn finish(mut self) -> Result<(), std::io::Error> {
        if self.layout == Layout::Vertical && self.rows == 0 {
            writeln!(self.out, "(0 rows)")?;
        }
        self.out.flush()
    }
}

/// A cell that does not end its column or its row.
fn markdown(cell: &str) -> String {
    cell.replace('\\', "\\\\").replace('|', "\\|").replace("\r\n", "<br>").replace(['\n', '\r'], "<br>")
}
