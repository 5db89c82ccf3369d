//! Rows as text for people and documents: Markdown, and one line per column.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
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
