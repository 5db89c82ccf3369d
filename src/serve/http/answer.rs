//! What is said where something is refused: RFC 9457, with a name that programs can rely on and a hint for people.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::serve::refusal::{Reason, Refusal};

/// Why there is no answer.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// Stable: a reason of a refused statement, or one of HTTP's own.
    reason: &'static str,
    detail: String,
    /// What to do about it; may be empty.
    hint: String,
}

impl Problem {
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, reason, detail: detail.into(), hint: String::new() }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = hint.into();
        self
    }

    pub fn json(&self) -> Value {
        let mut body = json!({
            "type": format!("urn:pipe:{}", self.reason),
            "title": self.reason.replace('_', " "),
            "status": self.status.as_u16(),
            "reason": self.reason,
            "detail": self.detail,
        });
        if !self.hint.is_empty() {
            body["hint"] = json!(self.hint);
        }
        body
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = StatusCode::from_u16(refusal.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Problem { status, reason: refusal.reason.name(), detail: refusal.message, hint: refusal.hint }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, format!("{}\n", self.json())).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.reason == Reason::Access.name() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pipe\""));
        }
        response
    }
}
