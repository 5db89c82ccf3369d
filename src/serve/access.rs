//! Who may ask: users with passwords, for every protocol, and bearer tokens, for Flight SQL and HTTP.
//!
//! They come from files that nobody else can read, or from the environment; never from a command line, which every user
//! of a machine sees. Neither appears in a message, a log or a `Debug` text. Tokens are kept as hashes; passwords stay in
//! memory as they are, because SCRAM and `Basic` each need them in a form of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine as _};

use crate::diag::{Diagnostic, Result, io};

/// `name:password,name:password`.
pub const USERS_ENV: &str = "PIPE_SERVE_USERS";
/// `token,token`.
pub const TOKENS_ENV: &str = "PIPE_SERVE_TOKENS";

/// Shorter ones are guessed.
const TOKEN_MIN: usize = 16;

/// What clients must know. Without users or tokens, anyone who reaches the address may ask.
#[derive(Clone, Default)]
pub struct Access {
    passwords: BTreeMap<String, String>,
    /// Hashes: comparing them takes the same time whatever was sent.
    tokens: Vec<blake3::Hash>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} users, {} tokens)", self.passwords.len(), self.tokens.len())
    }
}

impl Access {
    /// Reads both files, else the environment.
    ///
    /// # Errors
    /// A file that cannot be read, that others can read, or that has nobody in it, as a variable that is set and empty;
    /// lines that are no `name:password`; short tokens.
    pub fn load(users: Option<&Path>, tokens: Option<&Path>) -> Result<Access> {
        let mut access = Access::default();
        for (entry, place) in secrets(users, USERS_ENV)? {
            access.add_user(&entry, &place)?;
        }
        for (entry, place) in secrets(tokens, TOKENS_ENV)? {
            access.add_token(&entry, &place)?;
        }
        // Meant to keep others out, and empty, it would let everybody in.
        refuse_none(!access.has_users(), users, USERS_ENV, "serve::users", "user")?;
        refuse_none(!access.has_tokens(), tokens, TOKENS_ENV, "serve::tokens", "token")?;
        Ok(access)
    }

    fn add_user(&mut self, entry: &str, place: &str) -> Result<()> {
        match entry.split_once(':') {
            Some((name, password)) if !name.trim().is_empty() && !password.is_empty() => {
                self.passwords.insert(name.trim().to_string(), password.to_string());
                Ok(())
            }
            _ => {
                let message = format!("{place}: expected `name:password`");
                Err(Diagnostic::new("serve::users", message).help("one user per line, both parts not empty").into())
            }
        }
    }

    fn add_token(&mut self, token: &str, place: &str) -> Result<()> {
        if token.len() < TOKEN_MIN || token.contains(char::is_whitespace) {
            let message = format!("{place}: a token has at least {TOKEN_MIN} characters and no spaces");
            return Err(Diagnostic::new("serve::tokens", message).help("make one with `openssl rand -hex 24`").into());
        }
        self.tokens.push(blake3::hash(token.as_bytes()));
        Ok(())
    }

    /// Whether there are users with passwords.
    pub fn has_users(&self) -> bool {
        !self.passwords.is_empty()
    }

    /// Whether there are tokens.
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether nobody has to say who they are.
    pub fn is_open(&self) -> bool {
        !self.has_users() && !self.has_tokens()
    }

    /// The password of a user.
    pub fn password(&self, user: &str) -> Option<&str> {
        self.passwords.get(user).map(String::as_str)
    }

    /// All users with their passwords.
    pub fn users(&self) -> impl Iterator<Item = (&str, &str)> {
        self.passwords.iter().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// Whether the value of an `Authorization` header lets in: `Bearer` with a token, or `Basic` with a user's password.
    pub fn allows(&self, header: Option<&str>) -> bool {
        self.is_open() || bearer(header).is_some_and(|token| self.is_token(token)) || self.is_user(header)
    }

    fn is_token(&self, token: &str) -> bool {
        let hash = blake3::hash(token.as_bytes());
        // `blake3::Hash` compares in constant time.
        self.tokens.iter().fold(false, |known, t| known | (*t == hash))
    }

    /// Whether the header is `Basic` with a user and their password.
    pub fn is_user(&self, header: Option<&str>) -> bool {
        let Some(encoded) = of_scheme(header, "basic") else { return false };
        // Some clients leave out the padding.
        let Ok(bytes) = BASE64_STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')) else { return false };
        let Some((user, given)) = std::str::from_utf8(&bytes).ok().and_then(|t| t.split_once(':')) else {
            return false;
        };
        let password = self.password(user);
        // An unknown user takes as long as a known one.
        let equal = blake3::hash(given.as_bytes()) == blake3::hash(password.unwrap_or_default().as_bytes());
        password.is_some() && equal
    }
}

/// The token of a header `Bearer TOKEN`.
pub fn bearer(header: Option<&str>) -> Option<&str> {
    of_scheme(header, "bearer")
}

fn of_scheme<'a>(header: Option<&'a str>, scheme: &str) -> Option<&'a str> {
    let (found, rest) = header?.trim().split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// The entries of a file, else of the environment, each with the place that a message may name.
fn secrets(path: Option<&Path>, variable: &str) -> Result<Vec<(String, String)>> {
    let Some(path) = path else {
        return Ok(from_environment(variable).into_iter().map(|entry| (entry, variable.to_string())).collect());
    };
    let lines = secret_lines(path)?.into_iter();
    Ok(lines.map(|(number, line)| (line, format!("{}:{number}", path.display()))).collect())
}

/// The lines of a file with secrets, with their numbers; without comments and empty ones.
fn secret_lines(path: &Path) -> Result<Vec<(usize, String)>> {
    refuse_if_shared(path)?;
    let text = std::fs::read_to_string(path).map_err(|e| io(path, "read", &e))?;
    let lines = text.lines().map(|l| l.trim_end_matches('\r').to_string()).enumerate();
    Ok(lines.map(|(i, l)| (i + 1, l)).filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')).collect())
}

/// Where a file was given, or the variable is set, it has to name somebody.
fn refuse_none(none: bool, file: Option<&Path>, variable: &str, code: &'static str, what: &str) -> Result<()> {
    let place = match file {
        Some(path) => path.display().to_string(),
        None if std::env::var_os(variable).is_some() => variable.to_string(),
        None => return Ok(()),
    };
    if !none {
        return Ok(());
    }
    let help = format!("add one, or leave the option and {variable} out to let everybody of this machine in");
    Err(Diagnostic::new(code, format!("{place} has no {what}")).help(help).into())
}

/// # Errors
/// A file with a secret that others can read.
#[cfg(unix)]
pub fn refuse_if_shared(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_err(|e| io(path, "read", &e))?.permissions().mode();
    if mode & 0o077 != 0 {
        let message = format!("{} can be read by other users of this machine", path.display());
        let help = format!("chmod 600 {}", path.display());
        return Err(Diagnostic::new("serve::secrets", message).help(help).into());
    }
    Ok(())
}

#[cfg(not(unix))]
pub fn refuse_if_shared(_path: &Path) -> Result<()> {
    Ok(())
}

fn from_environment(name: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_default();
    text.split(',').map(str::trim).filter(|e| !e.is_empty()).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        // Made readable by its owner alone.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn users_and_tokens_of_files() {
        let users = file("# who\nbi:sec:ret\n\nann: with space \n");
        let tokens = file("0123456789abcdef\nfedcba9876543210ff\r\n");
        let access = Access::load(Some(users.path()), Some(tokens.path())).unwrap();
        assert_eq!(access.password("bi"), Some("sec:ret"));
        assert_eq!(access.password("ann"), Some(" with space "));
        assert_eq!(access.password("Bi"), None);
        let cases = [
            (Some("Bearer 0123456789abcdef"), true),
            (Some("bearer fedcba9876543210ff"), true),
            (Some("Bearer 0123456789abcdeg"), false),
            (Some("Basic 0123456789abcdef"), false),
            (Some("0123456789abcdef"), false),
            (Some(""), false),
            (None, false),
        ];
        for (header, allowed) in cases {
            assert_eq!(access.allows(header), allowed, "{header:?}");
        }
        let basic = [("bi:sec:ret", true), ("bi:secret", false), ("bo:sec:ret", false), ("bo:", false), ("bi", false)];
        for (text, allowed) in basic {
            let header = format!("Basic {}", BASE64_STANDARD_NO_PAD.encode(text));
            assert_eq!(access.allows(Some(&header)), allowed, "{text}");
            assert_eq!(access.allows(Some(&format!("{header}=="))), allowed, "{text}");
        }
        assert!(!access.allows(Some("Basic !!!")));
        assert_eq!(format!("{access:?}"), "Access(2 users, 2 tokens)");
    }

    #[test]
    fn headers_and_their_schemes() {
        let cases = [
            (Some("Bearer abc"), Some("abc")),
            (Some("bearer  abc "), Some("abc")),
            (Some("Basic abc"), None),
            (Some("Bearer"), None),
            (None, None),
        ];
        for (header, expected) in cases {
            assert_eq!(bearer(header), expected, "{header:?}");
        }
    }

    #[test]
    fn without_secrets_everybody_may() {
        let access = Access::default();
        assert!(access.allows(None) && access.is_open());
    }

    #[test]
    fn what_is_wrong_with_them() {
        let cases = [("justaname\n", "", "expected `name:password`"), ("", "short\n", "at least 16 characters")];
        for (users, tokens, expected) in cases {
            let (users, tokens) = (file(users), file(tokens));
            let failure = Access::load(Some(users.path()), Some(tokens.path())).unwrap_err().to_string();
            assert!(failure.contains(expected) && !failure.contains("justaname"), "{failure}");
        }
        assert!(Access::load(Some(Path::new("/no/such/file")), None).is_err());
        let (nobody, somebody) = (file("# who\n\n"), file("bi:secret\n"));
        let failure = Access::load(Some(nobody.path()), None).unwrap_err();
        assert_eq!(failure.diagnostics[0].code, "serve::users");
        let failure = Access::load(Some(somebody.path()), Some(nobody.path())).unwrap_err();
        assert_eq!(failure.diagnostics[0].code, "serve::tokens");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let users = file("bi:secret\n");
        std::fs::set_permissions(users.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let failure = Access::load(Some(users.path()), None).unwrap_err();
        assert_eq!(failure.diagnostics[0].code, "serve::secrets");
    }
}
