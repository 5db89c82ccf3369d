//! Rows on a terminal: the first and the last of many, the columns that fit, and how many there are.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::pretty::pretty_format_batches;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::thousands;
use crate::query::text::cells;

/// Rows shown at each end.
const ROWS: usize = 20;
/// Text is not cut below this many columns of the terminal, nor below its heading.
const CELL: usize = 20;
/// What stands for what is left out.
const GAP: &str = "…";

/// The rows that are shown of a result, kept while it passes by.
pub struct Shown {
    all: bool,
    head: Vec<RecordBatch>,
    head_rows: usize,
    tail: VecDeque<RecordBatch>,
    tail_rows: usize,
    rows: u64,
}

impl Shown {
    pub fn new(all: bool) -> Self {
        Shown { all, head: Vec::new(), head_rows: 0, tail: VecDeque::new(), tail_rows: 0, rows: 0 }
    }

    pub fn push(&mut self, batch: RecordBatch) {
        let rows = batch.num_rows();
        self.rows += rows as u64;
        let first = if self.all { rows } else { rows.min(ROWS - self.head_rows) };
        if first > 0 {
            self.head.push(batch.slice(0, first));
            self.head_rows += if self.all { 0 } else { first };
        }
        if first < rows {
            self.tail_rows += rows - first;
            self.tail.push_back(batch.slice(first, rows - first));
        }
        while let Some(oldest) = self.tail.front()
            && self.tail_rows - oldest.num_rows() >= ROWS
        {
            self.tail_rows -= oldest.num_rows();
            self.tail.pop_front();
        }
        if let Some(oldest) = self.tail.front_mut()
            && self.tail_rows > ROWS
        {
            let rest = oldest.num_rows() - (self.tail_rows - ROWS);
            *oldest = oldest.slice(self.tail_rows - ROWS, rest);
            self.tail_rows = ROWS;
        }
    }

    /// The rows kept, in order.
    pub fn batches(&self) -> Vec<RecordBatch> {
        self.head.iter().chain(&self.tail).cloned().collect()
    }

    /// The rows as a table that is at most `width` columns of the terminal wide, and a line that counts them.
    ///
    /// # Errors
    /// A value that cannot be shown.
    pub fn table(&self, schema: &SchemaRef, width: usize) -> Result<String, ArrowError> {
        let mut lines: Vec<Vec<String>> = Vec::new();
        for batch in &self.head {
            lines.extend(cells(batch)?);
        }
        let kept = lines.len() + self.tail_rows;
        let hidden = self.rows > kept as u64;
        if hidden {
            lines.push(vec![GAP.to_string(); schema.fields().len()]);
        }
        for batch in &self.tail {
            lines.extend(cells(batch)?);
        }
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let fit = Fit::new(&names, &lines, width);
        let mut out = fit.table(&names, &lines)?;
        let hidden_columns = fit.columns.contains(&None).then(|| {
            let shown = fit.columns.iter().flatten().count();
            format!("{shown} of {} columns shown; all with \\x, or --format vertical", names.len())
        });
        out.push('\n');
        out += &self.counted(hidden_columns);
        Ok(out)
    }

    /// The line that counts the rows.
    pub fn count(&self) -> String {
        self.counted(None)
    }

    fn counted(&self, note: Option<String>) -> String {
        let kept = self.head.iter().chain(&self.tail).map(RecordBatch::num_rows).sum::<usize>();
        let hidden = self.rows > kept as u64;
        let rows = hidden.then(|| format!("{kept} shown; all with \\pset all on, or --all"));
        let parts: Vec<String> = [Some(count(self.rows)), rows, note].into_iter().flatten().collect();
        format!("({})\n", parts.join("; "))
    }

    /// Whether a table of these rows is wider than `width`.
    ///
    /// # Errors
    /// A value that cannot be shown.
    pub fn is_wider(&self, schema: &SchemaRef, width: usize) -> Result<bool, ArrowError> {
        let mut widest: Vec<usize> = schema.fields().iter().map(|f| f.name().width()).collect();
        for batch in self.batches() {
            for row in cells(&batch)? {
                widest.iter_mut().zip(&row).for_each(|(w, cell)| *w = (*w).max(cell_width(cell)));
            }
        }
        Ok(total(widest.into_iter()) > width)
    }
}

/// `1,200 rows`.
fn count(rows: u64) -> String {
    format!("{} {}", thousands(rows), if rows == 1 { "row" } else { "rows" })
}

fn cell_width(cell: &str) -> usize {
    cell.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
}

/// Of a table with these columns: a bar and two spaces more for each, and one bar at the end.
fn total(widths: impl Iterator<Item = usize>) -> usize {
    widths.map(|w| w + 3).sum::<usize>() + 1
}

/// The columns that are shown, and how wide their cells may be; `None` stands for those left out.
struct Fit {
    columns: Vec<Option<usize>>,
    cap: usize,
}

impl Fit {
    fn new(names: &[&str], rows: &[Vec<String>], width: usize) -> Fit {
        let of = |c: usize| rows.iter().map(|r| cell_width(&r[c])).max().unwrap_or(0);
        let widest: Vec<(usize, usize)> = (0..names.len()).map(|c| (names[c].width(), of(c))).collect();
        let capped = |cap: usize| widest.iter().map(move |(name, cell)| (*cell).min(cap).max(*name));
        let every = (0..names.len()).map(Some).collect();
        let largest = widest.iter().map(|(_, cell)| *cell).max().unwrap_or(0);
        if total(capped(largest)) <= width {
            return Fit { columns: every, cap: usize::MAX };
        }
        if let Some(cap) = (CELL..largest).rev().find(|cap| total(capped(*cap)) <= width) {
            return Fit { columns: every, cap };
        }
        let widths: Vec<usize> = capped(CELL).collect();
        Fit { columns: ends(&widths, width), cap: CELL }
    }

    fn table(&self, names: &[&str], rows: &[Vec<String>]) -> Result<String, ArrowError> {
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for column in &self.columns {
            let name = column.map_or(GAP, |c| names[c]);
            fields.push(Field::new(name, DataType::Utf8, false));
            let cell = |row: &Vec<String>| column.map_or(GAP.to_string(), |c| cut(&row[c], self.cap));
            columns.push(Arc::new(StringArray::from_iter_values(rows.iter().map(cell))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
        Ok(pretty_format_batches(&[batch])?.to_string())
    }
}

/// Columns from both ends as long as they fit, the first ones first; at least one.
fn ends(widths: &[usize], width: usize) -> Vec<Option<usize>> {
    let (mut left, mut right) = (0, widths.len());
    let mut used = total([1].into_iter());
    while left < right {
        let next = if left <= widths.len() - right { left } else { right - 1 };
        if used + widths[next] + 3 > width && left > 0 {
            break;
        }
        used += widths[next] + 3;
        if next == left { left += 1 } else { right -= 1 }
    }
    let gap = (left < right).then_some(None);
    (0..left).map(Some).chain(gap).chain((right..widths.len()).map(Some)).collect()
}

/// The text, or its beginning and `…`, at most `cap` columns of the terminal wide.
fn cut(text: &str, cap: usize) -> String {
    if cell_width(text) <= cap {
        return text.to_string();
    }
    let line = text.lines().next().unwrap_or_default();
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= cap
    };
    line.chars().take_while(fits).collect::<String>() + GAP
}

/// Columns of the terminal that standard output is.
pub fn terminal_width() -> usize {
    const USUAL: usize = 100;
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    #[cfg(unix)]
    let columns = rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .or(columns);
    columns.unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn batch(from: i64, rows: i64) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(from..from + rows))]).unwrap()
    }

    /// The values of a table's lines, without its frame.
    fn values(table: &str) -> Vec<String> {
        table.lines().filter(|l| l.starts_with('|')).skip(1).map(|l| l.replace('|', " ").trim().to_string()).collect()
    }

    #[test]
    fn the_ends_of_many_rows() {
        // Batches of these sizes, whether all rows are wanted, the lines shown, the count.
        let cases: &[(&[i64], bool, usize, &str)] = &[
            (&[], false, 0, "(0 rows)"),
            (&[1], false, 1, "(1 row)"),
            (&[40], false, 40, "(40 rows)"),
            (&[20, 20], false, 40, "(40 rows)"),
            (&[41], false, 41, "(41 rows; 40 shown; all with \\pset all on, or --all)"),
            (&[1; 100], false, 41, "(100 rows; 40 shown; all with \\pset all on, or --all)"),
            (&[7, 8000, 3], false, 41, "(8,010 rows; 40 shown; all with \\pset all on, or --all)"),
            (&[30, 30], true, 60, "(60 rows)"),
        ];
        for (sizes, all, lines, count) in cases {
            let mut shown = Shown::new(*all);
            let mut from = 0;
            for size in *sizes {
                shown.push(batch(from, *size));
                from += size;
            }
            let text = shown.table(&batch(0, 0).schema(), 80).unwrap();
            let values = values(&text);
            assert_eq!(values.len(), *lines, "{sizes:?}: {text}");
            assert_eq!(text.lines().last(), Some(*count), "{sizes:?}");
            let expect: Vec<String> = match *lines == 41 && !*all {
                true => (0..20)
                    .map(|v| v.to_string())
                    .chain([GAP.into()])
                    .chain((from - 20..from).map(|v| v.to_string()))
                    .collect(),
                false => (0..from).map(|v| v.to_string()).collect(),
            };
            assert_eq!(values, expect, "{sizes:?}");
        }
    }

    #[test]
    fn columns_that_fit() {
        type Case = (&'static [usize], usize, &'static [Option<usize>]);
        let cases: &[Case] = &[
            (&[5, 5], 21, &[Some(0), Some(1)]),
            (&[5, 5, 5], 21, &[Some(0), None, Some(2)]),
            (&[5, 5, 5, 5], 29, &[Some(0), Some(1), None, Some(3)]),
            (&[500, 5], 21, &[Some(0), None]),
        ];
        for (widths, width, expect) in cases {
            assert_eq!(ends(widths, *width), *expect, "{widths:?} in {width}");
        }
    }

    #[test]
    fn tables_are_no_wider_than_the_terminal() {
        let long = "x".repeat(200);
        let wide = "漢字".repeat(60);
        let names: Vec<String> = (0..30).map(|i| format!("column_{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for columns in [1, 3, 30] {
            let row: Vec<String> = (0..columns).map(|i| if i % 2 == 0 { long.clone() } else { wide.clone() }).collect();
            for width in [60, 80, 200] {
                let rows = [row.clone()];
                let text = Fit::new(&names[..columns], &rows, width).table(&names[..columns], &rows).unwrap();
                assert!(text.lines().all(|l| l.width() <= width), "{columns} columns in {width}:\n{text}");
            }
        }
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("漢字漢", 4), "漢…");
        assert_eq!(cut("one\ntwo three", 5), "one…");
    }
}
