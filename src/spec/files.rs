//! Files that a pipeline names one by one, as a list, or with a pattern.
//!
//! Patterns are those of the crate `glob`: `*` and `?` within a name, `[...]` for one character of several, `**` for any
//! depth of folders. A file whose own name has such characters is meant as it is. Names that begin with a dot match only
//! what begins with one.
//!
//! Order: a list keeps its own; the files of a pattern come by name, numbers in it by value, so that `part-2` is before
//! `part-10` whatever the file system says.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::FilePath;
use crate::diag::{Diagnostic, nearest};

/// One path or several, each of which may be a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Paths(pub Vec<FilePath>);

impl Paths {
    /// The files, in the order in which they are read. A pattern that matches nothing stays as it is: whoever looks for
    /// that file says so, with [`no_match`].
    pub fn files(&self) -> Vec<FilePath> {
        self.0.iter().flat_map(expand).collect()
    }

    /// As written, for messages.
    pub fn written(&self) -> String {
        self.0.iter().map(|p| p.written.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Where the first stands.
    pub fn at(&self) -> Option<&crate::diag::Span> {
        self.0.first().and_then(|p| p.at.as_ref())
    }
}

/// Whether it is the address of an object elsewhere.
pub fn is_url(written: &str) -> bool {
    written.contains("://")
}

/// Whether it stands for files by a pattern, not for one file.
pub fn is_pattern(file: &FilePath) -> bool {
    !is_url(&file.written) && has_wildcard(&file.written) && std::fs::symlink_metadata(&file.path).is_err()
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn expand(file: &FilePath) -> Vec<FilePath> {
    if !is_pattern(file) {
        return vec![file.clone()];
    }
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let (base, pattern) = base(file);
    let escaped = Path::new(&glob::Pattern::escape(&base.to_string_lossy())).join(&pattern);
    let found = glob::glob_with(&escaped.to_string_lossy(), options).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = found.filter(|p| p.is_file()).collect();
    paths.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    if paths.is_empty() {
        return vec![file.clone()];
    }
    let written = split(Path::new(&file.written)).0;
    let named = |path: PathBuf| {
        let inside = path.strip_prefix(&base).unwrap_or(&path);
        FilePath { written: written.join(inside).display().to_string(), path: path.clone(), at: file.at.clone() }
    };
    paths.into_iter().map(named).collect()
}

/// The folder that the pattern is looked for in, and the pattern. The folder of the pipeline may have wildcards in its own
/// name: only what was written counts.
fn base(file: &FilePath) -> (PathBuf, PathBuf) {
    let pattern = split(Path::new(&file.written)).1;
    let plain = file.path.components().count().saturating_sub(pattern.components().count());
    (file.path.components().take(plain).collect(), pattern)
}

/// The folders before the first with a wildcard, and the rest.
fn split(path: &Path) -> (PathBuf, PathBuf) {
    let plain = path.components().take_while(|c| !has_wildcard(&c.as_os_str().to_string_lossy())).count();
    (path.components().take(plain).collect(), path.components().skip(plain).collect())
}

/// Texts in an order in which runs of digits count as numbers; equal only if they are the same text.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    while let (Some(c), Some(d)) = (x.first(), y.first()) {
        let order = if c.is_ascii_digit() && d.is_ascii_digit() {
            let (n, m) = (digits(&mut x), digits(&mut y));
            (n.len(), n).cmp(&(m.len(), m))
        } else {
            (x, y) = (&x[1..], &y[1..]);
            c.cmp(d)
        };
        if order.is_ne() {
            return order;
        }
    }
    (x.len(), a).cmp(&(y.len(), b))
}

/// Takes the digits at the start of a text, without zeros in front.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let (run, rest) = text.split_at(text.iter().take_while(|b| b.is_ascii_digit()).count());
    *text = rest;
    &run[run.iter().take_while(|b| **b == b'0').count()..]
}

/// That no file matches the pattern, and what is there instead.
pub fn no_match(file: &FilePath) -> Diagnostic {
    let message = format!("no file matches `{}`", file.written);
    let found = Diagnostic::new("plan::missing_file", message).at(file.at.clone());
    let (base, rest) = base(file);
    let folder = split(Path::new(&file.written)).0.display().to_string();
    let folder = if folder.is_empty() { ".".to_string() } else { folder };
    let Ok(entries) = std::fs::read_dir(&base) else {
        let near = base.file_name().zip(base.parent()).and_then(|(name, parent)| {
            let names = names(parent);
            nearest(&name.to_string_lossy(), names.iter().map(String::as_str)).map(str::to_string)
        });
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return found.help(format!("there is no folder `{folder}`{near}"));
    };
    drop(entries);
    let mut there = names(&base);
    let first = rest.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    there.sort_by(|a, b| strsim::levenshtein(a, &first).cmp(&strsim::levenshtein(b, &first)).then(natural(a, b)));
    there.truncate(5);
    let there: Vec<String> = there.iter().map(|n| format!("`{n}`")).collect();
    match there.is_empty() {
        true => found.help(format!("the folder `{folder}` is empty")),
        false => found.help(format!("nearest in `{folder}`: {}", there.join(", "))),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["p-10", "p-9", "p-2b", "p-02", "p-2", "p", "q-1", "p-2a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["p", "p-02", "p-2", "p-2a", "p-2b", "p-9", "p-10", "q-1"]);
    }

    #[test]
    fn patterns_become_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("odd [name]");
        std::fs::create_dir_all(root.join("in/deep")).unwrap();
        for name in ["a-10.csv", "a-2.csv", "b.csv", "in/c.csv", "in/deep/d.csv", ".hidden.csv", "x[1].csv", "a.txt"] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        let path = |written: &str| FilePath { written: written.to_string(), path: root.join(written), at: None };
        let files = |written: &[&str]| -> Vec<String> {
            let paths = Paths(written.iter().map(|w| path(w)).collect());
            paths.files().into_iter().map(|f| f.written).collect()
        };
        assert_eq!(files(&["a-*.csv"]), ["a-2.csv", "a-10.csv"]);
        assert_eq!(files(&["b.csv", "a-?.csv"]), ["b.csv", "a-2.csv"]);
        assert_eq!(files(&["in/**/*.csv"]), ["in/c.csv", "in/deep/d.csv"]);
        // A file of that very name is meant as it is.
        assert_eq!(files(&["x[1].csv"]), ["x[1].csv"]);
        assert_eq!(files(&["no*.csv"]), ["no*.csv"]);
        assert!(is_pattern(&path("no*.csv")) && !is_pattern(&path("x[1].csv")));
        let help = no_match(&path("b*.cvs")).help.unwrap();
        assert!(help.starts_with("nearest in `.`: `b.csv`"), "{help}");
        let help = no_match(&path("inn/*.csv")).help.unwrap();
        assert_eq!(help, "there is no folder `inn`; did you mean `in`?");
    }
}
