//! What a request must pass before anything looks at it, and what every answer carries.
//!
//! A page of another site that a user of this machine has open can send requests here. It must not read an answer, nor
//! make the server work: browsers say where a request comes from (`Origin`, `Sec-Fetch-Site`), and a name that a foreign
//! DNS server points at 127.0.0.1 is not ours (`Host`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::Problem;
use super::{App, page};
use crate::serve::Wire;
use crate::serve::refusal::Reason;

/// Path and query.
const URI_BYTES: usize = 16 << 10;

pub async fn guard(State(shared): App, request: Request, next: Next) -> Response {
    let mut response = match admit(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    secure(response.headers_mut());
    response
}

fn admit(shared: &Arc<super::Shared>, request: &Request) -> Result<(), Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    if uri.path_and_query().is_some_and(|p| p.as_str().len() > URI_BYTES) {
        let what = format!("the URL is longer than {URI_BYTES} bytes");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long", what).hint("POST the statement to /sql"));
    }
    if uri.path() == "/healthz" {
        return Ok(());
    }
    // HTTP/2 has it in the URI.
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => text(headers, header::HOST),
    };
    own_host(host, shared.address)?;
    let opens = request.method() == Method::GET && page::is_shell(uri.path());
    own_page(host, headers, opens)?;
    if page::is_shell(uri.path()) || shared.service.access.allows(text(headers, header::AUTHORIZATION)) {
        return Ok(());
    }
    shared.service.metrics.denied(Wire::Http);
    tracing::warn!("http: a request has no valid token or password");
    let what = if headers.contains_key(header::AUTHORIZATION) {
        "the token or password is not valid"
    } else {
        "a token or password is needed"
    };
    Err(Problem::new(StatusCode::UNAUTHORIZED, Reason::Access.name(), what)
        .hint("send the header `Authorization: Bearer TOKEN`, or `Basic` with a user of `pipe serve`"))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// On an address that only this machine reaches, the names of this machine are the only ones. Elsewhere a server does not
/// know by what names it is reached: tokens keep foreign names out there, and where it was started without, nothing does.
fn own_host(host: Option<&str>, address: SocketAddr) -> Result<(), Problem> {
    let Some(host) = host else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "host", "the request names no host"));
    };
    let Ok(authority) = host.parse::<Authority>() else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "host", "the header Host is not a host"));
    };
    let name = authority.host().trim_end_matches('.');
    let number = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let own = name.eq_ignore_ascii_case("localhost") || number.is_some_and(|ip| ip.is_loopback() || ip == address.ip());
    if own || !address.ip().is_loopback() {
        return Ok(());
    }
    let what = format!("`{name}` is not a name of this server");
    let hint = format!("use http://{address}/, or a proxy that sends `Host: {address}`");
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", what).hint(hint))
}

/// Whether it comes from no page, from a page of ours, or from a link to the page that somebody followed (`opens`). Nothing
/// that works or answers with results is opened from elsewhere: a hidden frame could.
fn own_page(host: Option<&str>, headers: &HeaderMap, opens: bool) -> Result<(), Problem> {
    let foreign = |what: String| {
        Err(Problem::new(StatusCode::FORBIDDEN, "origin", what).hint("pages of other sites may not ask this server"))
    };
    // Scripts cannot set these headers. Old browsers do not send them.
    match text(headers, HeaderName::from_static("sec-fetch-site")) {
        Some("same-origin") => return Ok(()),
        Some(site @ ("cross-site" | "same-site")) if !(opens && followed(headers)) => {
            return foreign(format!("the request comes from a page of another origin ({site})"));
        }
        _ => {}
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("?");
    let from = origin.split_once("://").map(|(_, from)| from);
    if from.is_some() && from == host { Ok(()) } else { foreign(format!("the request comes from {origin}")) }
}

/// Whether somebody goes to it in a window of their own.
fn followed(headers: &HeaderMap) -> bool {
    text(headers, HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
        && text(headers, HeaderName::from_static("sec-fetch-dest")) == Some("document")
}

/// Headers that were not set are set.
fn secure(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_server() {
        let cases = [
            ("127.0.0.1:8080", Some("127.0.0.1:8080"), 0),
            ("127.0.0.1:8080", Some("localhost:9999"), 0),
            ("127.0.0.1:8080", Some("LOCALHOST"), 0),
            ("127.0.0.1:8080", Some("[::1]:8080"), 0),
            ("127.0.0.2:8080", Some("127.0.0.2:8080"), 0),
            ("[::1]:8080", Some("[::1]:8080"), 0),
            ("127.0.0.1:8080", Some("evil.example:8080"), 421),
            ("127.0.0.1:8080", Some("localhost.evil.example"), 421),
            ("127.0.0.1:8080", Some("192.0.2.7"), 421),
            ("127.0.0.1:8080", Some("127.0.0.1.nip.io"), 421),
            ("127.0.0.1:8080", Some("127.0.0.1@evil.example"), 421),
            ("127.0.0.1:8080", Some(""), 400),
            ("127.0.0.1:8080", Some("a b"), 400),
            ("127.0.0.1:8080", None, 400),
            ("192.0.2.7:443", Some("pipe.example"), 0),
        ];
        for (address, host, expected) in cases {
            let status =
                own_host(host, address.parse().unwrap()).map_or_else(|p| p.into_response().status().as_u16(), |()| 0);
            assert_eq!(status, expected, "{address} {host:?}");
        }
    }

    #[test]
    fn pages_of_this_server() {
        let host = Some("127.0.0.1:8080");
        const CROSS: (&str, &str) = ("sec-fetch-site", "cross-site");
        const GOES: (&str, &str) = ("sec-fetch-mode", "navigate");
        let cases: [(&[(&str, &str)], bool); 13] = [
            (&[], true),
            (&[("origin", "http://127.0.0.1:8080")], true),
            (&[("origin", "http://127.0.0.1:8081")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            // A proxy changed the host.
            (&[("origin", "https://pipe.example"), ("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[CROSS, GOES, ("sec-fetch-dest", "document")], true),
            (&[CROSS, GOES, ("sec-fetch-dest", "iframe")], false),
            (&[CROSS, GOES], false),
            (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
            (&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], false),
            // A form of another site.
            (&[CROSS, GOES, ("sec-fetch-dest", "document"), ("origin", "https://evil.example")], false),
        ];
        for (given, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(own_page(host, &headers, true).is_ok(), expected, "{given:?}");
            // Statements and reports are not opened from elsewhere.
            let inside = expected && !given.contains(&CROSS);
            assert_eq!(own_page(host, &headers, false).is_ok(), inside, "{given:?}");
        }
    }
}
