//! Objects elsewhere, by address: `https://`, `http://`, `s3://`, `gs://` and `az://`. With the build feature `cloud` alone,
//! because its clients bring TLS and a hundred packages, and would rebuild DataFusion for everybody; without it, an address
//! is refused with what to do.
//!
//! An object is fetched to a file before it is read, so that reading is the same as of any other file: on all threads, twice
//! where it must be. Its identity in a fingerprint is its ETag or version, and its size; an object without them is hashed,
//! and so fetched once more.
//!
//! Credentials come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), as the clients of `object_store` read them, and
//! stand in no file and no message. Left out: addresses with a query, such as signed ones, and patterns.

#[cfg(feature = "cloud")]
mod client;
#[cfg(all(test, feature = "cloud"))]
mod tests;

use std::path::Path;

use super::Hash;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::FilePath;

/// What is wrong with an address, if anything, as far as can be told without asking for the object's content.
pub(super) fn problem(file: &FilePath) -> Option<Diagnostic> {
    let wrong = |what: String| Diagnostic::new("plan::remote", what).at(file.at.clone());
    let FilePath { written, .. } = file;
    if written.contains(['*', '?', '#', '[']) {
        let what = format!("`{written}` has a pattern or a query: expected the address of one object");
        return Some(wrong(what).help("list the objects one by one; credentials come from the environment"));
    }
    let scheme = written.split("://").next().unwrap_or_default();
    if !["http", "https", "s3", "gs", "az"].contains(&scheme) {
        let help = "one of `https://`, `http://`, `s3://`, `gs://`, `az://`, or the path of a file";
        return Some(wrong(format!("`{written}` is an address of an unknown kind")).help(help));
    }
    identity(file).err().and_then(|failure| failure.diagnostics.into_iter().next())
}

#[cfg(not(feature = "cloud"))]
fn refused(file: &FilePath) -> Failure {
    let what = format!("`{}` is elsewhere, and this build reads files of this machine alone", file.written);
    let help = "build with `cargo build --release --features cloud`, or fetch the file first";
    Diagnostic::new("plan::remote", what).at(file.at.clone()).help(help).into()
}

/// What tells the content of the object from any other.
///
/// # Errors
/// It is not there, or cannot be asked for.
#[cfg(not(feature = "cloud"))]
pub(super) fn identity(file: &FilePath) -> Result<Hash> {
    Err(refused(file))
}

/// Fetches the object to a file in `dir`, which goes when it is dropped. `on_bytes` hears how much came.
///
/// # Errors
/// It is not there, or what came is not all of it.
#[cfg(not(feature = "cloud"))]
pub fn fetch(file: &FilePath, _dir: &Path, _on_bytes: &mut (dyn FnMut(u64) + Send)) -> Result<tempfile::NamedTempFile> {
    Err(refused(file))
}

/// What tells the content of the object from any other.
///
/// # Errors
/// It is not there, or cannot be asked for.
#[cfg(feature = "cloud")]
pub(super) fn identity(file: &FilePath) -> Result<Hash> {
    client::identity(&file.written).map_err(|what| failed(file, &what))
}

/// Fetches the object to a file in `dir`, which goes when it is dropped. `on_bytes` hears how much came.
///
/// # Errors
/// It is not there, or what came is not all of it.
#[cfg(feature = "cloud")]
pub fn fetch(file: &FilePath, dir: &Path, on_bytes: &mut (dyn FnMut(u64) + Send)) -> Result<tempfile::NamedTempFile> {
    let to = tempfile::NamedTempFile::new_in(dir).map_err(|e| super::disk(dir, "write", &e))?;
    client::fetch(&file.written, to.as_file(), on_bytes).map_err(|what| failed(file, &what))?;
    Ok(to)
}

#[cfg(feature = "cloud")]
fn failed(file: &FilePath, what: &str) -> Failure {
    let mut failure = Failure::stage("store::remote", format!("cannot fetch `{}`: {what}", file.written));
    failure.diagnostics[0].at = file.at.clone();
    failure
}
