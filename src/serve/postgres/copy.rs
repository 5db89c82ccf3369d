//! `COPY (SELECT ...) TO STDOUT`: the rows of a query as a file that the client keeps.

use datafusion_postgres::pgwire::api::results::Tag;
use datafusion_postgres::pgwire::messages::PgWireBackendMessage as Out;
use datafusion_postgres::pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use datafusion_postgres::pgwire::messages::data::DataRow;

use super::command::CopyFormat;
use super::connection::{Connection, Cursor, Trouble};

/// Sends all rows of a query.
///
/// # Errors
/// What ends the query, or the connection.
pub async fn send(client: &mut Connection, mut cursor: Cursor, format: CopyFormat) -> Result<(), Trouble> {
    let columns = cursor.columns.len();
    let code: i8 = i8::from(format == CopyFormat::Binary);
    let response = CopyOutResponse::new(code, columns as i16, vec![i16::from(code); columns]);
    client.line.feed(vec![Out::CopyOutResponse(response)]).await?;
    let names: Vec<Option<&[u8]>> = cursor.columns.names().map(|n| Some(n.as_bytes())).collect();
    // A line of names is a row for clients; the beginning of a binary file goes with the row that follows, or the end.
    let mut first = format.first(&names);
    if format != CopyFormat::Binary && !first.is_empty() {
        client.line.feed(vec![data(std::mem::take(&mut first))]).await?;
    }
    let mut sent = 0;
    while let Some(batch) = cursor.next(&mut client.line, usize::MAX).await? {
        sent += batch.num_rows();
        let rows = cursor.columns.rows(&batch)?;
        client.line.feed(rows.iter().map(|row| data(format.row(row, &mut first))).collect()).await?;
    }
    if format == CopyFormat::Binary {
        first.extend([0xff, 0xff]);
        client.line.feed(vec![data(first)]).await?;
    }
    client.line.feed(vec![Out::CopyDone(CopyDone::new())]).await?;
    client.complete(Tag::new("COPY").with_rows(sent)).await
}

fn data(bytes: Vec<u8>) -> Out {
    Out::CopyData(CopyData::new(bytes.into()))
}

impl CopyFormat {
    /// What comes before the rows.
    fn first(&self, names: &[Option<&[u8]>]) -> Vec<u8> {
        match self {
            CopyFormat::Binary => b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(),
            CopyFormat::Text { header: true, .. } | CopyFormat::Csv { header: true, .. } => self.line(names),
            _ => Vec::new(),
        }
    }

    /// A row after what is in `first`, which is empty then.
    fn row(&self, row: &DataRow, first: &mut Vec<u8>) -> Vec<u8> {
        if *self == CopyFormat::Binary {
            let mut bytes = std::mem::take(first);
            // Fields lie in a row of a result as they do in a file.
            bytes.extend(row.field_count.to_be_bytes());
            bytes.extend_from_slice(&row.data);
            return bytes;
        }
        self.line(&fields(&row.data))
    }

    fn line(&self, fields: &[Option<&[u8]>]) -> Vec<u8> {
        let mut line = Vec::new();
        for (i, field) in fields.iter().enumerate() {
            match self {
                CopyFormat::Text { delimiter, null, .. } => {
                    if i > 0 {
                        line.push(*delimiter as u8);
                    }
                    match field {
                        None => line.extend(null.bytes()),
                        Some(field) => escaped(field, *delimiter as u8, &mut line),
                    }
                }
                CopyFormat::Csv { delimiter, null, quote, .. } => {
                    if i > 0 {
                        line.push(*delimiter as u8);
                    }
                    match field {
                        None => line.extend(null.bytes()),
                        Some(field) => quoted(field, *delimiter as u8, *quote as u8, null, &mut line),
                    }
                }
                CopyFormat::Binary => {}
            }
        }
        line.push(b'\n');
        line
    }
}

/// The fields of a row, each after its length.
fn fields(mut bytes: &[u8]) -> Vec<Option<&[u8]>> {
    let mut out = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                out.push(None);
                bytes = rest;
            }
            Ok(length) => {
                let (field, rest) = rest.split_at(length.min(rest.len()));
                out.push(Some(field));
                bytes = rest;
            }
        }
    }
    out
}

fn escaped(field: &[u8], delimiter: u8, line: &mut Vec<u8>) {
    for byte in field {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            b'\t' => line.extend(b"\\t"),
            byte if *byte == delimiter => line.extend([b'\\', *byte]),
            byte => line.push(*byte),
        }
    }
}

fn quoted(field: &[u8], delimiter: u8, quote: u8, null: &str, line: &mut Vec<u8>) {
    let special = |b: &u8| [delimiter, quote, b'\n', b'\r'].contains(b);
    if field != null.as_bytes() && field != b"\\." && !field.iter().any(special) {
        line.extend(field);
        return;
    }
    line.push(quote);
    for byte in field {
        if *byte == quote {
            line.push(quote);
        }
        line.push(*byte);
    }
    line.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_postgresql_writes_them() {
        // What `COPY (VALUES (...)) TO STDOUT` of PostgreSQL 15 prints.
        let text = CopyFormat::Text { delimiter: '\t', null: "\\N".into(), header: false };
        let csv = CopyFormat::Csv { delimiter: ',', null: String::new(), header: true, quote: '"' };
        type Case<'a> = (&'a CopyFormat, &'a [Option<&'a [u8]>], &'a str);
        let cases: [Case; 4] = [
            (&text, &[Some(b"a\tb"), None, Some(b"c\\d\n")], "a\\tb\t\\N\tc\\\\d\\n\n"),
            (&csv, &[Some(b"a,b"), None, Some(b"")], "\"a,b\",,\"\"\n"),
            (&csv, &[Some(b"say \"x\""), Some(b"1.5")], "\"say \"\"x\"\"\",1.5\n"),
            (&csv, &[Some(b"two\nlines")], "\"two\nlines\"\n"),
        ];
        for (format, fields, expected) in cases {
            assert_eq!(String::from_utf8(format.line(fields)).unwrap(), expected);
        }
        assert_eq!(fields(&[0, 0, 0, 1, b'x', 255, 255, 255, 255, 0, 0, 0, 0]), [Some(&b"x"[..]), None, Some(b"")]);
    }

    #[test]
    fn a_binary_file_begins_in_the_message_of_its_first_row() {
        let mut first = CopyFormat::Binary.first(&[]);
        let row = DataRow::new((&[0, 0, 0, 1, b'x'][..]).into(), 1);
        let begun = CopyFormat::Binary.row(&row, &mut first);
        assert_eq!(begun, b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01x");
        assert_eq!(CopyFormat::Binary.row(&row, &mut first), b"\0\x01\0\0\0\x01x");
    }
}
