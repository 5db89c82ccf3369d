//! A pipeline's file with its includes and the `--set` arguments, to one checked document.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::explorer;
use super::params::Params;
use super::problems::{from_tree, list, mended};
use super::set::{Set, apply};
use super::{Document, Figures, Pipeline, Stage, Text, Tree, TreeValue, parse};
use crate::diag::{Diagnostic, Failure, Result, Sources, Span, nearest};

/// Words of SQL that cannot name a table without quotes.
const RESERVED: &str = "all and as between by case cross distinct else end except exists false from full group having \
    in inner intersect into is join lateral left like limit natural not null on or order right select table true union \
    values where with";

/// Reads a pipeline, and keeps the text of every file in `sources`, also when it fails.
///
/// # Errors
/// As for [`super::load`].
pub fn load_with(file: &Path, set: &[(String, String)], sources: &mut Sources) -> Result<Pipeline> {
    match load_mended(file, set, sources) {
        (Some(pipeline), problems) if problems.is_empty() => Ok(pipeline),
        (_, problems) => Err(failure(problems)),
    }
}

/// Reads a pipeline that may have mistakes: what can be made of it, and every problem. Stages with problems have
/// stand-ins for what is wrong in them, and are good for nothing but finding more problems in the others.
pub fn load_mended(
    file: &Path,
    set: &[(String, String)],
    sources: &mut Sources,
) -> (Option<Pipeline>, Vec<Diagnostic>) {
    let mut loader = Loader { sources, problems: Vec::new(), open: Vec::new(), done: HashMap::new() };
    let layer = loader.layer(file, &file.display().to_string().into(), None);
    let problems = std::mem::take(&mut loader.problems);
    let Some(mut layer) = layer.filter(|_| problems.is_empty()) else {
        return (None, problems);
    };
    let mut problems = Vec::new();
    for set in Set::read(set, sources, &mut problems) {
        apply(set, &mut layer, &mut problems);
    }
    let document = document(layer, file, sources, &mut problems);
    let pipeline = document.map(|document| Pipeline {
        name: document.name.value,
        seed: document.seed,
        stages: document.stages.into_iter().map(|(name, spec)| Stage { name, spec }).collect(),
        file: file.to_path_buf(),
        sources: sources.clone(),
    });
    (pipeline, problems)
}

fn failure(mut problems: Vec<Diagnostic>) -> Failure {
    problems.sort_by(|a, b| a.at.cmp(&b.at));
    problems.dedup();
    Failure::usage(problems)
}

/// What a file says, its includes merged in.
pub(super) struct Layer {
    pub params: Vec<(Text, Tree)>,
    pub stages: Vec<(Text, Tree)>,
    /// The other keys of the file.
    pub rest: Vec<(Text, Tree)>,
    /// The key `stages` stands somewhere.
    has_stages: bool,
    at: Option<Span>,
}

struct Loader<'a> {
    sources: &'a mut Sources,
    problems: Vec<Diagnostic>,
    /// Files whose includes are being read, outermost first.
    open: Vec<PathBuf>,
    /// Files that are read, with the place that asked for them: a file that two others include is read once.
    done: HashMap<PathBuf, Option<Span>>,
}

impl Loader<'_> {
    fn problem(&mut self, code: &'static str, message: String, at: Option<&Span>) {
        self.problems.push(Diagnostic::new(code, message).at(at.cloned()));
    }

    /// Reads `path`, called `shown` in messages. `None` where it cannot be read, or is already.
    fn layer(&mut self, path: &Path, shown: &Arc<str>, asked: Option<&Span>) -> Option<Layer> {
        let text = match read(path, shown) {
            Ok(text) => Arc::<str>::from(text),
            Err(d) => {
                let at = d.at.clone().or(asked.cloned());
                self.problems.push(d.at(at));
                return None;
            }
        };
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if self.open.contains(&real) {
            self.problem("spec::cycle", format!("`{shown}` includes itself"), asked);
            return None;
        }
        if self.done.insert(real.clone(), asked.cloned()).is_some() {
            return None;
        }
        self.sources.0.insert(shown.clone(), text.clone());
        let folder = std::path::absolute(path).ok().and_then(|p| p.parent().map(Arc::<Path>::from));
        let tree = match parse::parse(&text, shown, folder.as_ref()) {
            Ok(tree) => tree,
            Err(problems) => {
                self.problems.extend(problems);
                return None;
            }
        };
        let at = tree.at.clone();
        let entries = match tree.value {
            TreeValue::Map(entries) => entries,
            TreeValue::Null => {
                self.problem("spec::empty", format!("`{shown}` is empty"), at.as_ref());
                return None;
            }
            _ => {
                let message = format!("a pipeline is a map with `name` and `stages`, found {}", tree.describe());
                self.problem("spec::wrong_type", message, at.as_ref());
                return None;
            }
        };
        self.open.push(real);
        let layer = self.merged(entries, at, asked.is_some());
        self.open.pop();
        Some(layer)
    }

    /// The entries of a file on top of what it includes.
    fn merged(&mut self, entries: Vec<(Text, Tree)>, at: Option<Span>, included: bool) -> Layer {
        let mut own = Layer { params: Vec::new(), stages: Vec::new(), rest: Vec::new(), has_stages: false, at };
        let mut includes = Vec::new();
        for (key, value) in entries {
            match key.value.as_str() {
                "params" => own.params = self.entries(&key, value),
                "stages" => {
                    own.has_stages = true;
                    own.stages = self.entries(&key, value);
                }
                "include" => includes = self.includes(&key, value),
                name if included => {
                    let d = Diagnostic::new("spec::unknown_key", format!("`{name}` cannot stand in an included file"));
                    self.problems.push(d.at(key.at).help("its keys are `params`, `stages` and `include`"));
                }
                _ => own.rest.push((key, value)),
            }
        }
        let mut below = Layer { params: Vec::new(), stages: Vec::new(), rest: Vec::new(), has_stages: false, at: None };
        for (path, at) in includes {
            if let Some(layer) = self.layer(&path, &shown_path(&path), at.as_ref()) {
                below.has_stages |= layer.has_stages;
                self.beside(&mut below.params, layer.params, &own.params, "parameter");
                self.beside(&mut below.stages, layer.stages, &own.stages, "stage");
            }
        }
        own.has_stages |= below.has_stages;
        own.params = on_top(below.params, own.params);
        own.stages = on_top(below.stages, own.stages);
        own
    }

    /// A map of names; anything else is a problem.
    fn entries(&mut self, key: &Text, value: Tree) -> Vec<(Text, Tree)> {
        match value.value {
            TreeValue::Map(entries) => entries,
            TreeValue::Null => Vec::new(),
            _ => {
                let message = format!("expected a map, found {}", value.describe());
                let d = Diagnostic::new("spec::wrong_type", message).at(value.at.or(key.at.clone()));
                self.problems.push(d.help(format!("`{}` maps names to values", key.value)));
                Vec::new()
            }
        }
    }

    /// The files of an `include`, resolved against the file that it stands in.
    fn includes(&mut self, key: &Text, mut value: Tree) -> Vec<(PathBuf, Option<Span>)> {
        // Parameters come from includes, so that only the environment can be known here.
        let mut params = Params::new(&[], self.sources);
        params.replace(&mut value);
        let problems = params.problems;
        self.problems.extend(problems);
        match from_tree::<Vec<super::FilePath>>(&value) {
            Ok(paths) => paths.into_iter().map(|p| (p.path, p.at.or(key.at.clone()))).collect(),
            Err(problems) => {
                self.problems.extend(problems);
                Vec::new()
            }
        }
    }

    /// Adds the entries of one more include. A name that another include has too is a problem, unless `own` decides.
    fn beside(&mut self, all: &mut Vec<(Text, Tree)>, more: Vec<(Text, Tree)>, own: &[(Text, Tree)], what: &str) {
        for (key, value) in more {
            let Some((first, _)) = all.iter().find(|(k, _)| k.value == key.value) else {
                all.push((key, value));
                continue;
            };
            if own.iter().all(|(k, _)| k.value != key.value) {
                let other = first.at.as_ref().map_or_else(String::new, |at| format!(" and in {at}"));
                let message = format!("the {what} `{}` stands in two included files: here{other}", key.value);
                let d = Diagnostic::new("spec::duplicate_key", message).at(key.at);
                self.problems.push(d.help("define it in the including file to decide"));
            }
        }
    }
}

/// What stands in `own` wins, at the position of what it replaces.
fn on_top(mut below: Vec<(Text, Tree)>, own: Vec<(Text, Tree)>) -> Vec<(Text, Tree)> {
    for (key, value) in own {
        match below.iter_mut().find(|(k, _)| k.value == key.value) {
            Some(entry) => *entry = (key, value),
            None => below.push((key, value)),
        }
    }
    below
}

/// Relative to the working directory where it lies below it.
fn shown_path(path: &Path) -> Arc<str> {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string().into()
}

fn read(path: &Path, shown: &Arc<str>) -> std::result::Result<String, Diagnostic> {
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let d = Diagnostic::new("spec::not_found", format!("no file `{shown}`"));
            neighbour(path).into_iter().fold(d, |d, near| d.help(near))
        }
        std::io::ErrorKind::IsADirectory => {
            let d = Diagnostic::new("spec::not_found", format!("`{shown}` is a folder, not a pipeline's file"));
            yaml_files(path).first().into_iter().fold(d, |d, f| d.help(format!("it contains `{f}`")))
        }
        _ => Diagnostic::new("spec::unreadable", format!("cannot read `{shown}`: {e}")),
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        let line = u32::try_from(good.matches('\n').count() + 1).unwrap_or(u32::MAX);
        let last = good.rsplit('\n').next().unwrap_or_default();
        let column = u32::try_from(last.chars().count() + 1).unwrap_or(u32::MAX);
        Diagnostic::new("spec::not_utf8", format!("`{shown}` is not UTF-8 text")).at(Some(Span {
            file: shown.clone(),
            line,
            column,
            len: 0,
        }))
    })
}

/// The file that was probably meant.
fn neighbour(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = yaml_files(folder);
    let stem = |f: &str| f.rsplit_once('.').map_or_else(|| f.to_owned(), |(stem, _)| stem.to_owned());
    let near = nearest(name, files.iter().map(String::as_str)).map(str::to_owned);
    let near = near.or_else(|| files.iter().find(|f| stem(f) == stem(name)).cloned());
    match near {
        Some(near) => Some(format!("did you mean `{}`?", path.with_file_name(near).display())),
        None if files.is_empty() => None,
        None => Some(format!("`{}` has {}", folder.display(), list(&files))),
    }
}

/// At most ten names of YAML files, sorted.
fn yaml_files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|n| n.ends_with(".yaml") || n.ends_with(".yml"));
    names.sort();
    names.truncate(10);
    names
}

/// Replaces parameters and checks everything that the text itself shows.
fn document(layer: Layer, file: &Path, sources: &Sources, problems: &mut Vec<Diagnostic>) -> Option<Document> {
    let mut params = Params::new(&layer.params, sources);
    let resolved = params.all();
    let mut rest = layer.rest;
    rest.iter_mut().for_each(|(_, value)| params.replace(value));
    let mut stages = layer.stages;
    let mut has_stages = layer.has_stages;
    if !has_stages && explorer::is_one(&rest) {
        has_stages = true;
        match explorer::pipeline(rest, file, layer.at.as_ref()) {
            Ok(made) => (rest, stages) = made,
            Err(found) => {
                problems.extend(params.problems);
                problems.extend(found);
                return None;
            }
        }
    }
    let figures = Figures::near(file.parent().unwrap_or(Path::new(".")));
    for (_, stage) in &mut stages {
        params.replace(stage);
        expand_sql(stage);
        figures.expand(stage, problems);
    }
    problems.extend(params.problems);
    check_names(&rest, &stages, problems);
    check_sql(&stages, problems);
    if stages.is_empty() && has_stages {
        problems.push(Diagnostic::new("spec::empty", "a pipeline needs at least one stage").at(layer.at.clone()));
    }
    let mut entries = rest;
    let map = |name: &str, entries| (Text::new(name.to_owned(), None), Tree::new(TreeValue::Map(entries), None));
    entries.push(map("params", resolved));
    if has_stages {
        entries.push(map("stages", stages));
    }
    let (document, found) = mended(&Tree::new(TreeValue::Map(entries), layer.at));
    problems.extend(found);
    document
}

/// `sql: "SELECT ..."` to `sql: { query: "SELECT ..." }`.
pub(super) fn expand_sql(stage: &mut Tree) {
    let TreeValue::Map(entries) = &mut stage.value else { return };
    for (_, value) in entries.iter_mut().filter(|(k, v)| k.value == "sql" && v.as_str().is_some()) {
        let query = std::mem::replace(value, Tree::new(TreeValue::Null, value.at.clone()));
        value.value = TreeValue::Map(vec![(Text::new("query".to_owned(), query.at.clone()), query)]);
    }
}

fn check_sql(stages: &[(Text, Tree)], problems: &mut Vec<Diagnostic>) {
    for (name, stage) in stages {
        let TreeValue::Map(kinds) = &stage.value else { continue };
        let Some((key, sql)) = kinds.iter().find(|(k, _)| k.value == "sql") else { continue };
        let TreeValue::Map(settings) = &sql.value else { continue };
        let known = |k: &Text| matches!(k.value.as_str(), "query" | "file" | "schema" | "allow_approx");
        let given = ["query", "file"].iter().filter(|k| sql.get(k).is_some()).count();
        // An unknown key may be a misspelt `query`, and is reported.
        if given != 1 && settings.iter().all(|(k, _)| known(k)) {
            let message = format!("`{}` needs either `query` or `file`", name.value);
            let message = if given == 2 { format!("{message}, not both") } else { message };
            problems.push(Diagnostic::new("spec::invalid", message).at(key.at.clone()));
        }
    }
}

fn check_names(rest: &[(Text, Tree)], stages: &[(Text, Tree)], problems: &mut Vec<Diagnostic>) {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let named = |s: &str, allowed: &dyn Fn(char) -> bool| {
        s.starts_with(|c: char| c.is_ascii_lowercase()) && s.chars().all(allowed)
    };
    for (key, value) in rest {
        if let Some(name) = value.as_str().filter(|_| key.value == "name")
            && !named(name, &|c| lower(c) || c == '-')
        {
            let d = Diagnostic::new("spec::name", format!("`{name}` cannot name a pipeline")).at(value.at.clone());
            problems.push(d.help("a letter a-z, then a-z, 0-9, _ and -"));
        }
    }
    for (key, _) in stages {
        let name = key.value.as_str();
        if !named(name, &lower) {
            let d = Diagnostic::new("spec::name", format!("`{name}` cannot name a stage")).at(key.at.clone());
            problems.push(d.help("a letter a-z, then a-z, 0-9 and _: a stage is a table in SQL"));
        } else if RESERVED.split(' ').any(|word| word == name) {
            let message = format!("`{name}` cannot name a stage: it is a word of SQL");
            problems.push(Diagnostic::new("spec::name", message).at(key.at.clone()).help(format!("`{name}s`, say")));
        }
    }
}
