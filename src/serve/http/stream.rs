//! A result on its way: encoded as its client takes it, in a body that breaks off where the query does.

use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};
use serde_json::json;

use super::answer::Problem;
use super::encode::Encoder;
use super::negotiate::Format;
use crate::serve::refusal::{Reason, Refusal};
use crate::serve::service::Rows;

/// Bytes that are held back: what goes wrong before is told with a status instead of a broken connection.
const HELD: usize = 256 << 10;

struct Encoding {
    rows: Rows,
    /// `None` once the last byte was made.
    encoder: Option<Encoder>,
    format: Format,
}

/// The body of an answer; `most` rows of it in the format of the page.
///
/// # Errors
/// The query fails, or the format does not fit, before much was made.
pub async fn body(rows: Rows, format: Format, most: u64) -> Result<Body, Refusal> {
    let encoder = Encoder::new(format, &rows.schema(), most)?;
    let mut encoding = Encoding { rows, encoder: Some(encoder), format };
    // The page is told in its format what goes wrong, and shows rows at once.
    let hold = if format == Format::Preview { 1 } else { HELD };
    let mut held = Vec::new();
    while held.len() < hold {
        match encoding.next().await {
            Some(Ok(bytes)) => held.extend_from_slice(&bytes),
            Some(Err(refusal)) => return Err(refusal),
            None => return Ok(Body::from(held)),
        }
    }
    let rest = stream::unfold(encoding, |mut encoding| async move {
        let bytes = encoding.next().await?;
        Some((encoding.told(bytes), encoding))
    });
    Ok(Body::from_stream(stream::iter([Ok(Bytes::from(held))]).chain(rest)))
}

impl Encoding {
    /// The next bytes; at least one.
    async fn next(&mut self) -> Option<Result<Bytes, Refusal>> {
        loop {
            let mut encoder = self.encoder.take()?;
            let batch = match self.rows.next().await {
                Some(Ok(batch)) => Some(batch),
                Some(Err(refusal)) => return Some(Err(refusal)),
                None => None,
            };
            let last = batch.is_none();
            // A thread that may compute: it holds up no other connection.
            let encoded = tokio::task::spawn_blocking(move || {
                let done = match &batch {
                    Some(batch) => encoder.rows(batch),
                    None => encoder.finish(),
                };
                done.map(|()| (encoder.take(), encoder))
            });
            let (bytes, encoder) = match encoded.await {
                Ok(Ok(encoded)) => encoded,
                Ok(Err(refusal)) => return Some(Err(refusal)),
                Err(e) => {
                    let what = format!("the result cannot be written because of a bug in pipe: {e}");
                    return Some(Err(Refusal::new(Reason::Failed, what)));
                }
            };
            self.encoder = (!last).then_some(encoder);
            if !bytes.is_empty() {
                return Some(Ok(Bytes::from(bytes)));
            }
        }
    }

    /// An error ends the body before its end, so that the client sees that something is missing: a chunked body has no last
    /// chunk, and a stream of HTTP/2 is reset. The page is told why.
    fn told(&self, bytes: Result<Bytes, Refusal>) -> Result<Bytes, Refusal> {
        bytes.or_else(|refusal| match self.format {
            Format::Preview => {
                let problem = json!({ "problem": Problem::from(refusal).json() });
                Ok(Bytes::from(format!("{problem}\n")))
            }
            _ => Err(refusal),
        })
    }
}
