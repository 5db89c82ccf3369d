//! Errors as PostgreSQL's clients read them: five characters of SQLSTATE, a message, a hint.

use datafusion_postgres::pgwire::error::ErrorInfo;

use crate::serve::refusal::{Reason, Refusal};

/// What a client is told instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// SQLSTATE, of appendix A of PostgreSQL's manual.
    pub code: &'static str,
    pub message: String,
    /// May be empty.
    pub hint: String,
    /// Whether the connection ends with it.
    pub fatal: bool,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), hint: String::new(), fatal: false }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = hint.into();
        self
    }

    /// One that ends the connection.
    pub fn fatal(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { fatal: true, ..Fault::new(code, message) }
    }

    /// A message that the protocol does not allow here.
    pub fn protocol(message: impl Into<String>) -> Fault {
        Fault::new("08P01", message)
    }

    /// A feature of PostgreSQL that is not here.
    pub fn unsupported(message: impl Into<String>) -> Fault {
        Fault::new("0A000", message)
    }

    pub fn info(self) -> ErrorInfo {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let mut info = ErrorInfo::new(severity.into(), self.code.into(), self.message);
        info.severity_nonlocalized = Some(severity.into());
        info.hint = (!self.hint.is_empty()).then_some(self.hint);
        info
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let code = match refusal.reason {
            Reason::Failed if refusal.message.to_lowercase().contains("divide by zero") => "22012",
            reason => reason.sqlstate(),
        };
        Fault::new(code, refusal.message).hint(refusal.hint)
    }
}

/// A text with a name in place of a path of this machine, also where that stands without its first `/`. Longer words that
/// the path is a part of are left alone.
pub fn without_path(text: &str, path: &str, name: &str) -> String {
    let bare = path.trim_start_matches('/');
    // One folder alone is a word like any other.
    let bare = if bare.contains('/') { bare } else { path };
    if bare.len() < 2 {
        return text.to_string();
    }
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in text.match_indices(bare) {
        let (before, after) = (&text[from..at], &text[at + bare.len()..]);
        let of_word = |c: char| c.is_alphanumeric() || "_-".contains(c);
        let start = if bare == path { before } else { before.strip_suffix('/').unwrap_or(before) };
        let within = start.ends_with(|c: char| of_word(c) || c == '.');
        let goes_on = after.trim_start_matches('.').starts_with(of_word);
        if within || goes_on {
            continue;
        }
        out.push_str(start);
        out.push_str(name);
        from = at + bare.len();
    }
    out + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        let cases = [
            ("/srv/pipe", "cannot read /srv/pipe/data/x.parquet", "cannot read P/data/x.parquet"),
            ("/srv/pipe", "at srv/pipe/data, file:///srv/pipe, and \"/srv/pipe\"", "at P/data, file://P, and \"P\""),
            ("/srv/pipe", "not in /srv/pipe.", "not in P."),
            (
                "/srv/pipe",
                "/srv/pipes /srv/pipe.old /x/srv/pipe my-srv/pipe",
                "/srv/pipes /srv/pipe.old /x/srv/pipe my-srv/pipe",
            ),
            ("/work", "no work is done in /work", "no work is done in P"),
            ("/", "1 / 2", "1 / 2"),
        ];
        for (path, text, expected) in cases {
            assert_eq!(without_path(text, path, "P"), expected);
        }
        let zero = Refusal::new(Reason::Failed, "Arrow error: Divide by zero error");
        assert_eq!(Fault::from(zero).code, "22012");
    }
}
