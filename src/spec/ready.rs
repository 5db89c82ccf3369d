//! Ready-made figures: a file of SQL each, `queries/figures/<name>.sql`, compiled in or of the project.
//!
//! A file opens with comment lines that are YAML once `-- ` is taken away: what the figure is called (`title`), what it
//! answers (`about`), the kinds of stages that it shows (`for`), the tables that it reads (`needs`), its parameters with
//! their defaults (`with`), and any setting of a plot. The query follows. `{of}` stands for the stage that is shown, and
//! `{name}` for a parameter, in the settings too. What a query has to know of the columns of the tables, such as what
//! differs between scenarios, is left for the stage to fill in.
//!
//! `plot: { figure: <name>, of: <stage> }` becomes a plot with all of its settings here, before anything is checked; what
//! the pipeline says goes before what the file says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::Deserialize;

use super::{Plot, Text, Tree, TreeValue, from_tree, parse};
use crate::diag::{Diagnostic, Span, nearest};

/// The figures that are compiled in, in the order in which they are listed.
macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        const BUILT_IN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../queries/figures/", $name, ".sql")))),*];
    };
}

built_in![
    "latency_by_load",
    "tpot_by_load",
    "e2e_by_load",
    "throughput_by_load",
    "throughput_latency",
    "goodput_by_load",
    "attainment_by_load",
    "attainment_heat",
    "tokens_pareto",
    "load_per_usd",
    "usd_per_million_tokens",
    "ttft_parts",
    "ttft_cdf",
    "itl_cdf",
    "timeline",
    "kv_timeline",
    "replicas_at_work",
    "attainment_over_time",
    "waterfall",
    "slo_margins",
    "search_answers",
    "search_sequence",
    "search_load_per_usd",
    "trial_history",
    "trial_front",
    "trial_parallel",
    "trial_importance",
    "measured_simulated",
    "error_cdf",
    "error_bars",
    "fidelity_errors",
    "arrival_rate",
    "request_lengths",
    "prompt_reuse",
];

/// What the head of a file says beyond the settings of the plot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Head {
    about: String,
    #[serde(rename = "for")]
    kinds: Vec<String>,
    needs: Vec<String>,
    with: IndexMap<Text, Tree>,
    /// Another figure, whose query and settings it has where it says nothing else.
    like: Option<String>,
    /// Place among the figures of a report; without it a report has it only when asked.
    report: Option<u32>,
    /// Places on the horizontal axis from which on it says something in a report.
    least: Option<u32>,
}

/// Keys of [`Head`]; the others are settings of the plot.
const HEAD: [&str; 7] = ["about", "for", "needs", "with", "like", "report", "least"];

/// A ready-made figure.
#[derive(Clone, Debug)]
pub struct Ready {
    pub name: String,
    /// As shown in messages.
    pub file: Arc<str>,
    /// A file of the project, not one that is compiled in.
    pub own: bool,
    pub title: String,
    /// The question that it answers.
    pub about: String,
    /// Kinds of stages that it shows.
    pub kinds: Vec<String>,
    /// Tables that it reads, with `{of}` for the name of the stage.
    pub needs: Vec<String>,
    /// Parameters and their defaults.
    pub with: Vec<(String, String)>,
    pub report: Option<u32>,
    pub least: u32,
    /// Heads with placeholders: of the figure that it is like first, then its own.
    heads: Vec<String>,
    sql: String,
}

/// The head of a file as YAML, and the rest. Lines and columns stay what they were.
fn split(text: &str) -> (String, String) {
    let mut head = String::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let Some(rest) = line.strip_prefix("--") else { break };
        head.push_str("  ");
        head.push_str(rest);
        at += line.len();
    }
    (head, text[at..].trim().to_string())
}

fn problem(code: &'static str, message: String, file: &Arc<str>) -> Diagnostic {
    Diagnostic::new(code, message).at(Some(Span { file: file.clone(), line: 1, column: 1, len: 0 }))
}

/// Finds a figure by its name; `None` where there is none.
type Find<'a> = dyn Fn(&str) -> Result<Option<Ready>, Vec<Diagnostic>> + 'a;

/// The entries of a head: those of [`Head`], and the settings.
type Entries = Vec<(Text, Tree)>;

fn entries(head: &str, file: &Arc<str>) -> Result<(Entries, Entries), Vec<Diagnostic>> {
    match parse::parse(head, file, None)?.value {
        TreeValue::Map(entries) => Ok(entries.into_iter().partition(|(key, _)| HEAD.contains(&key.value.as_str()))),
        _ => Err(vec![
            problem("figure::head", format!("`{file}` does not begin with comments that say what it shows"), file)
                .help(
                    "such as `-- title: Latency over load`, `-- for: [simulate]`, `-- needs: [\"{of}\"]`, `-- x: load`",
                ),
        ]),
    }
}

/// A scalar as it is written into SQL.
fn scalar(value: &Tree) -> Option<String> {
    match &value.value {
        TreeValue::Bool(b) => Some(b.to_string()),
        TreeValue::Int(i) => Some(i.to_string()),
        TreeValue::Float(f) => Some(f.to_string()),
        TreeValue::String(s) => Some(s.clone()),
        TreeValue::Null | TreeValue::List(_) | TreeValue::Map(_) => None,
    }
}

impl Ready {
    /// Reads a file; `find` finds the one that it is like.
    fn read(name: &str, text: &str, own: bool, find: &Find) -> Result<Ready, Vec<Diagnostic>> {
        let file: Arc<str> = format!("queries/figures/{name}.sql").into();
        let (text, sql) = split(text);
        let (head, settings) = entries(&text, &file)?;
        let head: Head = from_tree(&Tree::new(TreeValue::Map(head), None))?;
        let base = match &head.like {
            None => None,
            Some(other) => Some(find(other)?.ok_or_else(|| {
                vec![problem("figure::like", format!("`{file}` is like `{other}`, which is no figure"), &file)]
            })?),
        };
        let title = settings.iter().find(|(k, _)| k.value == "title").and_then(|(_, v)| scalar(v));
        let mut with = base.as_ref().map(|b| b.with.clone()).unwrap_or_default();
        for (key, value) in &head.with {
            let value = scalar(value).ok_or_else(|| vec![wrong_value(key)])?;
            match with.iter_mut().find(|(k, _)| *k == key.value) {
                Some(entry) => entry.1 = value,
                None => with.push((key.value.clone(), value)),
            }
        }
        let inherited = base.clone();
        let or = |own: Vec<String>, of: fn(Ready) -> Vec<String>| match (own.is_empty(), inherited.clone()) {
            (true, Some(base)) => of(base),
            _ => own,
        };
        let figure = Ready {
            name: name.to_string(),
            title: title.unwrap_or_else(|| name.replace('_', " ")),
            about: head.about.trim().to_string(),
            kinds: or(head.kinds, |b| b.kinds),
            needs: or(head.needs, |b| b.needs),
            with,
            report: head.report,
            least: head.least.or(base.as_ref().map(|b| b.least)).unwrap_or(1),
            heads: base.iter().flat_map(|b| b.heads.clone()).chain([text]).collect(),
            sql: if sql.is_empty() { base.map(|b| b.sql).unwrap_or_default() } else { sql },
            own,
            file,
        };
        if figure.sql.is_empty() {
            return Err(vec![problem("figure::sql", format!("`{}` has no query", figure.file), &figure.file)]);
        }
        Ok(figure)
    }

    /// The entries of the plot, and its query, for the stage `of` with these parameters in place of the defaults.
    fn filled(&self, of: &str, with: &[(String, String)]) -> Result<Entries, Vec<Diagnostic>> {
        let fill = |text: &str| {
            let mut text = text.to_string();
            // A parameter may speak of the stage, and of those before it.
            for (name, default) in self.with.iter().rev() {
                let value = with.iter().find(|(k, _)| k == name).map_or(default, |(_, v)| v);
                text = text.replace(&format!("{{{name}}}"), value);
            }
            text.replace("{of}", of)
        };
        let mut all: Entries = Vec::new();
        for head in &self.heads {
            let (_, settings) = entries(&fill(head), &self.file)?;
            for (key, value) in settings {
                all.retain(|(k, _)| k.value != key.value);
                all.push((key, value));
            }
        }
        let query = Tree::new(TreeValue::String(fill(&self.sql)), None);
        all.push((Text::new("query".to_string(), None), query));
        Ok(all)
    }

    /// The plot of the stage `of`, with these parameters in place of the defaults.
    ///
    /// # Errors
    /// A file of the project whose settings are wrong.
    pub fn plot(&self, of: &str, with: &[(String, String)]) -> Result<Plot, Vec<Diagnostic>> {
        let mut all = self.filled(of, with)?;
        let text = |name: &str, value: &str| {
            (Text::new(name.to_string(), None), Tree::new(TreeValue::String(value.to_string()), None))
        };
        all.extend([text("figure", &self.name), text("of", of)]);
        from_tree(&Tree::new(TreeValue::Map(all), None))
    }
}

/// Figures of which each is like the next, and the last like the first.
fn circle(names: &[&str]) -> Diagnostic {
    let (first, others) = names.split_first().map_or(("", &[][..]), |(first, others)| (*first, others));
    let by_way = if others.is_empty() { String::new() } else { format!(", by way of `{}`", others.join("`, `")) };
    let file = format!("queries/figures/{}.sql", names.last().unwrap_or(&first)).into();
    problem("figure::like", format!("`{first}` is like itself{by_way}"), &file)
}

fn wrong_value(key: &Text) -> Diagnostic {
    let message = format!("the parameter `{}` of a figure is a number or a piece of SQL", key.value);
    Diagnostic::new("figure::with", message).at(key.at.clone())
}

/// The figures that are compiled in, and those of a project, by name where they have the same; those of the project are
/// last.
pub struct Figures {
    folder: Option<PathBuf>,
}

impl Figures {
    /// Those that pipelines in the folder `near` can name.
    pub fn near(near: &Path) -> Figures {
        let near = if near.as_os_str().is_empty() { Path::new(".") } else { near };
        let start = near.canonicalize().unwrap_or_else(|_| near.to_path_buf());
        // As the store finds the root of a project.
        let root = start.ancestors().find(|d| d.join("pipelines").is_dir() || d.join("data/store").is_dir());
        Figures { folder: root.map(|d| d.join("queries/figures")) }
    }

    /// Names, each once.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_string()).collect();
        let files = self.folder.iter().flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten());
        let mut own: Vec<String> = files
            .filter_map(|e| Some(e.file_name().into_string().ok()?.strip_suffix(".sql")?.to_string()))
            .filter(|name| !names.contains(name))
            .collect();
        own.sort();
        names.extend(own);
        names
    }

    /// The figure of a name; `None` where there is none.
    ///
    /// # Errors
    /// A file of the project that cannot be read, or whose head is wrong.
    pub fn find(&self, name: &str) -> Result<Option<Ready>, Vec<Diagnostic>> {
        self.find_below(name, &[])
    }

    /// The figure of a name; those above it are like it, each like the next.
    fn find_below(&self, name: &str, above: &[&str]) -> Result<Option<Ready>, Vec<Diagnostic>> {
        let way = [above, &[name]].concat();
        // A name is never a way out of the folder.
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let own = self.folder.as_ref().filter(|_| plain).map(|f| f.join(format!("{name}.sql")));
        let like = |other: &str| match way.iter().position(|seen| *seen == other) {
            Some(at) => Err(vec![circle(&way[at..])]),
            None => self.find_below(other, &way),
        };
        match own.filter(|f| f.is_file()) {
            Some(file) => {
                let text = std::fs::read_to_string(&file).map_err(|e| {
                    vec![Diagnostic::new("figure::file", format!("cannot read `{}`: {e}", file.display()))]
                })?;
                // A copy of one that is compiled in is nobody's own.
                let own = BUILT_IN.iter().all(|(_, built)| *built != text);
                Ready::read(name, &text, own, &like).map(Some)
            }
            None => {
                let built = BUILT_IN.iter().find(|(n, _)| *n == name);
                built.map(|(name, text)| Ready::read(name, text, false, &like)).transpose()
            }
        }
    }

    /// All figures, in the order of [`Figures::names`].
    ///
    /// # Errors
    /// As for [`Figures::find`], of all files.
    pub fn all(&self) -> Result<Vec<Ready>, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut found = Vec::new();
        for name in self.names() {
            match self.find(&name) {
                Ok(figure) => found.extend(figure),
                Err(wrong) => problems.extend(wrong),
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    /// What a wrong name may have meant.
    pub fn help(&self, wrong: &str) -> String {
        let names = self.names();
        match nearest(wrong, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`? `pipe show figures` lists them"),
            None => format!("`pipe show figures` lists them: {}", names.join(", ")),
        }
    }

    /// `plot: { figure: .. }` to a plot with a query and all settings.
    pub(super) fn expand(&self, stage: &mut Tree, problems: &mut Vec<Diagnostic>) {
        let TreeValue::Map(kinds) = &mut stage.value else { return };
        for (key, plot) in kinds.iter_mut().filter(|(k, _)| k.value == "plot") {
            if let Err(found) = self.expand_plot(key, plot) {
                problems.extend(found);
                // Whatever else is wrong follows from this.
                plot.stand_in = true;
            }
        }
    }

    fn expand_plot(&self, key: &Text, plot: &mut Tree) -> Result<(), Vec<Diagnostic>> {
        let at = plot.at.clone();
        let TreeValue::Map(settings) = &mut plot.value else { return Ok(()) };
        let place = |name: &str| settings.iter().position(|(k, _)| k.value == name);
        let wrong = |message: &str, at: Option<&Span>| {
            vec![Diagnostic::new("spec::invalid", message).at(at.or(key.at.as_ref()).cloned())]
        };
        let (figure, query) = (place("figure"), place("query"));
        let Some(figure) = figure else {
            let stray = place("of").or(place("with")).map(|i| &settings[i].0);
            return match (query, stray) {
                (_, Some(stray)) => {
                    let message = format!("`{}` belongs to a `figure`", stray.value);
                    Err(wrong(&message, stray.at.as_ref()))
                }
                // An unknown key may be a misspelt one, and is reported.
                (None, None) if settings.iter().all(|(k, _)| is_setting(&k.value)) => {
                    let mut found = wrong("a plot needs either `query` or `figure`", at.as_ref());
                    found[0].help = Some("`pipe show figures` lists those that are ready-made".to_string());
                    Err(found)
                }
                (_, None) => Ok(()),
            };
        };
        let named = settings[figure].1.clone();
        if let Some(query) = query {
            let at = settings[query].0.at.as_ref();
            return Err(wrong("a plot needs either `query` or `figure`, not both", at));
        }
        let Some(name) = named.as_str() else {
            return Err(wrong("`figure` is the name of a ready-made figure", named.at.as_ref()));
        };
        let Some(ready) = self.find(name)? else {
            let mut found = wrong(&format!("there is no figure `{name}`"), named.at.as_ref());
            found[0].help = Some(self.help(name));
            return Err(found);
        };
        let Some(of) = place("of").map(|i| settings[i].1.clone()) else {
            let message = format!("`of` is missing: the {} stage that `{name}` shows", ready.kinds.join(" or "));
            return Err(wrong(&message, named.at.as_ref()));
        };
        let Some(of) = of.as_str().filter(|of| !of.is_empty() && of.chars().all(is_name)) else {
            return Err(wrong("`of` is the name of a stage", of.at.as_ref()));
        };
        let with = match place("with") {
            Some(i) => parameters(&ready, &settings[i].1)?,
            None => Vec::new(),
        };
        let mut all = ready.filled(of, &with)?;
        for (key, value) in &mut all {
            // Mistakes in what the file says are shown where it is named.
            key.at.clone_from(&named.at);
            moved(value, named.at.as_ref());
        }
        for (key, value) in settings.drain(..) {
            match all.iter_mut().find(|(k, _)| k.value == key.value) {
                Some(entry) => *entry = (key, value),
                None => all.push((key, value)),
            }
        }
        *settings = all;
        Ok(())
    }
}

/// Whether a plot has a setting of this name.
fn is_setting(name: &str) -> bool {
    let schema = schemars::schema_for!(Plot);
    let settings = schema.get("properties").and_then(serde_json::Value::as_object);
    settings.is_some_and(|settings| settings.contains_key(name))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What the pipeline says of a figure's parameters.
fn parameters(ready: &Ready, with: &Tree) -> Result<Vec<(String, String)>, Vec<Diagnostic>> {
    let known: Vec<&str> = ready.with.iter().map(|(name, _)| name.as_str()).collect();
    let TreeValue::Map(entries) = &with.value else {
        let message = format!("`with` maps parameters of the figure to values: {}", known.join(", "));
        return Err(vec![Diagnostic::new("figure::with", message).at(with.at.clone())]);
    };
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for (key, value) in entries {
        if !known.contains(&key.value.as_str()) {
            let message = format!("the figure `{}` has no parameter `{}`", ready.name, key.value);
            let help = match nearest(&key.value, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? parameters: {}", known.join(", ")),
                None if known.is_empty() => "it has none".to_string(),
                None => format!("parameters: {}", known.join(", ")),
            };
            problems.push(Diagnostic::new("figure::with", message).at(key.at.clone()).help(help));
            continue;
        }
        match scalar(value) {
            Some(text) => found.push((key.value.clone(), text)),
            None => problems.push(wrong_value(key)),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// Gives a value, and all in it, another place.
fn moved(tree: &mut Tree, at: Option<&Span>) {
    tree.at = at.cloned();
    match &mut tree.value {
        TreeValue::List(items) => items.iter_mut().for_each(|t| moved(t, at)),
        TreeValue::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
            key.at = at.cloned();
            moved(value, at);
        }),
        TreeValue::Null | TreeValue::Bool(_) | TreeValue::Int(_) | TreeValue::Float(_) | TreeValue::String(_) => {}
    }
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
