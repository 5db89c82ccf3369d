//! The page: three files in the binary, which say nothing about what is served.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Shared;
use crate::diag::Result;
use crate::serve::random;

/// Path, type, content.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

/// Nothing from elsewhere, nothing inline, nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Whether a path is part of the page, which everybody may load: it asks for the token.
pub fn is_shell(path: &str) -> bool {
    FILES.iter().any(|(p, ..)| *p == path)
}

pub fn routes() -> Router<Arc<Shared>> {
    FILES.iter().fold(Router::new(), |router, (path, kind, text)| router.route(path, get(|| file(kind, text))))
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    let policy: (HeaderName, &str) = (header::CONTENT_SECURITY_POLICY, POLICY);
    ([(header::CONTENT_TYPE, kind), policy], text).into_response()
}

/// Digits that nobody can guess.
///
/// # Errors
/// The operating system gives no random numbers.
pub fn nonce() -> Result<String> {
    Ok(format!("{:032x}", u128::from_le_bytes(random()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        let bytes: usize = FILES.iter().map(|(_, _, text)| text.len()).sum();
        assert!(bytes < 100_000, "{bytes}");
        for (path, _, text) in FILES {
            for word in ["http://", "https://", "innerHTML", "eval(", " style=\"", " onclick"] {
                assert!(!text.contains(word), "{path}: {word}");
            }
        }
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
