//! In which format a result is sent: `?format=`, else the header `Accept`, else JSON.

use axum::http::{HeaderMap, StatusCode, header};

use super::answer::Problem;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An array of objects, one per line.
    Json,
    /// An object per line.
    Ndjson,
    /// With a line of names.
    Csv,
    /// Arrow IPC stream.
    Arrow,
    Parquet,
    /// For the page: columns, the first rows as texts, and how many there are (`encode.rs`).
    Preview,
}

impl Format {
    /// What can be asked for with `?format=`.
    const NAMES: [(&'static str, Format); 6] = [
        ("json", Format::Json),
        ("ndjson", Format::Ndjson),
        ("csv", Format::Csv),
        ("arrow", Format::Arrow),
        ("parquet", Format::Parquet),
        ("preview", Format::Preview),
    ];

    /// As `Content-Type` says it.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson | Format::Preview => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Of a file.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Ndjson | Format::Preview => "ndjson",
            Format::Csv => "csv",
            Format::Arrow => "arrows",
            Format::Parquet => "parquet",
        }
    }

    /// # Errors
    /// A name that is no format's; a header that accepts none.
    pub fn asked(name: Option<&str>, headers: &HeaderMap) -> Result<Format, Problem> {
        if let Some(name) = name {
            return Format::NAMES.iter().find(|(n, _)| *n == name).map(|(_, f)| *f).ok_or_else(|| {
                let names: Vec<&str> = Format::NAMES.iter().map(|(n, _)| *n).collect();
                Problem::new(StatusCode::BAD_REQUEST, "format", format!("there is no format `{name}`"))
                    .hint(format!("one of {}", names.join(", ")))
            });
        }
        let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|h| h.to_str().ok()).collect();
        if accept.is_empty() { Ok(Format::Json) } else { best(&accept.join(",")) }
    }
}

/// The format that is wanted most; of those wanted equally, the one named first.
fn best(accept: &str) -> Result<Format, Problem> {
    let mut found: Option<(f32, Format)> = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let Some(format) = of_range(parts.next().unwrap_or_default()) else { continue };
        let quality = parts.find_map(|p| p.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if quality > 0.0 && found.is_none_or(|(best, _)| quality > best) {
            found = Some((quality, format));
        }
    }
    found.map(|(_, format)| format).ok_or_else(|| {
        let kinds = [Format::Json, Format::Ndjson, Format::Csv, Format::Arrow, Format::Parquet].map(Format::media_type);
        let what = format!("none of the formats in `Accept: {accept}` can be made");
        Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", what).hint(format!("one of {}", kinds.join(", ")))
    })
}

fn of_range(range: &str) -> Option<Format> {
    match range.to_ascii_lowercase().as_str() {
        "application/json" | "application/*" | "*/*" => Some(Format::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Format::Ndjson),
        "text/csv" | "text/*" => Some(Format::Csv),
        "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
        "application/vnd.apache.parquet" => Some(Format::Parquet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn what_is_asked_for() {
        let cases = [
            (None, None, Some(Format::Json)),
            (None, Some("*/*"), Some(Format::Json)),
            (None, Some("text/csv"), Some(Format::Csv)),
            (None, Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), Some(Format::Json)),
            (None, Some("application/json;q=0.5, application/vnd.apache.parquet"), Some(Format::Parquet)),
            (None, Some("application/vnd.apache.arrow.stream; q=1, text/csv"), Some(Format::Arrow)),
            (None, Some("application/json;q=0, text/csv;q=0.1"), Some(Format::Csv)),
            (None, Some("image/png"), None),
            (Some("ndjson"), Some("text/csv"), Some(Format::Ndjson)),
            (Some("xlsx"), None, None),
        ];
        for (name, accept, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(Format::asked(name, &headers).ok(), expected, "{name:?} {accept:?}");
        }
    }
}
