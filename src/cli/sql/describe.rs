//! What `\d` and its kin print: tables, views, pipelines, functions.

use crate::cli::{table, tables, thousands};
use crate::diag::{Diagnostic, Result, nearest};
use crate::query::Relation;
use crate::query::relations::FunctionEntry;
use crate::store::{Published, Store};

use super::session::Session;

/// Whether `name` is what a pattern stands for: `*` for any characters, `?` for one. Without regard to case.
fn matches(pattern: &str, name: &str) -> bool {
    fn rest(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', after)) => (0..=name.len()).any(|skip| rest(after, &name[skip..])),
            Some((c, after)) => name.split_first().is_some_and(|(n, name)| (*c == '?' || c == n) && rest(after, name)),
        }
    }
    let characters = |text: &str| -> Vec<char> {
        let mut all: Vec<char> = text.to_lowercase().chars().collect();
        // `**` means no more than `*`, and would take longer.
        all.dedup_by(|a, b| *a == '*' && *b == '*');
        all
    };
    rest(&characters(pattern), &characters(name))
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// A table or view whose name, or name with its pipeline, is what the pattern stands for.
fn named(pattern: Option<&str>, pipeline: &str, name: &str) -> bool {
    pattern.is_none_or(|p| matches(p, name) || matches(p, &format!("{pipeline}.{name}")))
}

fn none(what: &str, pattern: Option<&str>) -> String {
    match pattern {
        Some(pattern) => format!("no {what} like `{pattern}`\n"),
        None => format!("no {what} yet: pipe run pipelines/sweep.yaml\n"),
    }
}

/// `\dt`.
///
/// # Errors
/// The store cannot be read.
pub fn list_tables(session: &Session, pattern: Option<&str>) -> Result<String> {
    let all = Store::open(&session.project)?.published();
    let found: Vec<&Published> = all.iter().filter(|p| named(pattern, &p.pipeline, &p.table)).collect();
    Ok(if found.is_empty() { none("tables", pattern) } else { tables::listing(&found) })
}

/// `\dv`.
pub fn list_views(session: &Session, pattern: Option<&str>) -> String {
    let found = session.engine.views().iter().filter(|v| named(pattern, &v.pipeline, &v.name));
    let rows: Vec<Vec<String>> = found
        .map(|v| {
            vec![
                format!("{}.{}", v.pipeline, v.name),
                v.unavailable.as_ref().map_or(String::new(), |why| format!("unavailable: {why}")),
            ]
        })
        .collect();
    match (rows.is_empty(), pattern) {
        (true, None) => "no views: put a SELECT into queries/views/NAME.sql\n".to_string(),
        (true, pattern) => none("views", pattern),
        _ => table(&["view", ""], &rows),
    }
}

/// `\d`: tables and views.
///
/// # Errors
/// As [`list_tables`].
pub fn list(session: &Session, pattern: Option<&str>) -> Result<String> {
    let tables = list_tables(session, pattern)?;
    let views = session.engine.views().iter().any(|v| named(pattern, &v.pipeline, &v.name));
    Ok(if views { format!("{tables}\n{}", list_views(session, pattern)) } else { tables })
}

/// `\dn`.
///
/// # Errors
/// The store cannot be read.
pub fn list_pipelines(session: &Session, pattern: Option<&str>) -> Result<String> {
    let store = Store::open(&session.project)?;
    let all = store.published();
    let names = store.pipelines();
    let rows: Vec<Vec<String>> = names
        .iter()
        .filter(|name| pattern.is_none_or(|p| matches(p, name)))
        .map(|name| {
            let tables = all.iter().filter(|p| p.pipeline == *name).count();
            let chosen = session.pipeline.as_ref() == Some(name);
            vec![
                name.clone(),
                thousands(tables as u64),
                if chosen { "chosen with \\c".to_string() } else { String::new() },
            ]
        })
        .collect();
    Ok(if rows.is_empty() { none("pipelines", pattern) } else { table(&["pipeline", "tables", ""], &rows) })
}

/// `\d NAME`: a table or a view, or those that a pattern stands for.
///
/// # Errors
/// There is none; the store cannot be read.
pub fn describe(session: &Session, name: &str) -> Result<String> {
    let name = name.trim_matches('"');
    if is_pattern(name) {
        return list(session, Some(name));
    }
    let relations = session.relations()?;
    let is_meant =
        |pipeline: &str, table: &str, bare: bool| (bare && table == name) || format!("{pipeline}.{table}") == name;
    if let Some(relation) = relations.iter().find(|r| is_meant(&r.pipeline, &r.name, r.bare)) {
        return if relation.is_view { Ok(view(relation)) } else { stored(session, relation) };
    }
    // A view that cannot be queried has no columns, but a reason.
    let broken = session.engine.views().iter().find(|v| v.name == name || format!("{}.{}", v.pipeline, v.name) == name);
    if let Some((view, why)) = broken.and_then(|v| Some((v, v.unavailable.as_ref()?))) {
        return Ok(format!("{}.{}: view, unavailable: {why}\n", view.pipeline, view.name));
    }
    Err(unknown(name, &relations).into())
}

fn unknown(name: &str, relations: &[Relation]) -> Diagnostic {
    let full: Vec<String> = relations.iter().map(|r| format!("{}.{}", r.pipeline, r.name)).collect();
    let several: Vec<&str> = full.iter().map(String::as_str).filter(|f| f.rsplit('.').next() == Some(name)).collect();
    if !several.is_empty() {
        return Diagnostic::new("console::ambiguous", format!("several pipelines have a table `{name}`"))
            .help(format!("name one: {}; or choose a pipeline with \\c", several.join(", ")));
    }
    let names = relations.iter().map(|r| r.name.as_str()).chain(full.iter().map(String::as_str));
    let help = nearest(name, names).map_or("`\\d` lists what there is".to_string(), |n| format!("did you mean `{n}`?"));
    Diagnostic::new("console::no_table", format!("there is no table or view `{name}`")).help(help)
}

fn stored(session: &Session, relation: &Relation) -> Result<String> {
    let store = Store::open(&session.project)?;
    let all = store.published();
    let published = tables::find(&store, &all, &format!("{}.{}", relation.pipeline, relation.name))?;
    let handle = store.published_handle(published)?;
    Ok(format!("{}\n{}", tables::describe(published, &handle), tables::columns(&relation.schema)))
}

fn view(relation: &Relation) -> String {
    let head = format!("{}.{}: view, queries/views/{}.sql\n", relation.pipeline, relation.name, relation.name);
    let sql = relation.definition.as_deref().unwrap_or_default().trim_end();
    format!("{head}\n{}\n{sql}\n", tables::columns(&relation.schema))
}

/// `\df`: without a pattern the functions of pipe; one function with all that is known of it.
pub fn functions(session: &Session, pattern: Option<&str>) -> String {
    let all = session.engine.functions();
    let found: Vec<&FunctionEntry> = match pattern {
        None => all.iter().filter(|f| f.ours).collect(),
        Some(pattern) => all.iter().filter(|f| matches(pattern, &f.name)).collect(),
    };
    match (found.as_slice(), pattern) {
        ([], Some(pattern)) => {
            let near = nearest(pattern, all.iter().map(|f| f.name.as_str()));
            let near = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            format!("no function like `{pattern}`{near}\n")
        }
        ([one], Some(pattern)) if !is_pattern(pattern) => function(one),
        _ => {
            let first = |f: &FunctionEntry| {
                f.description
                    .split_inclusive(['.', ':'])
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(['.', ':'])
                    .trim()
                    .to_string()
            };
            let rows: Vec<Vec<String>> =
                found.iter().map(|f| vec![f.syntax.lines().next().unwrap_or_default().to_string(), first(f)]).collect();
            let rest = all.len() - found.len();
            let more = match pattern {
                None => format!(
                    "\n  \\df NAME says more of one; \\df * lists {} more, those of DataFusion\n",
                    thousands(rest as u64)
                ),
                Some(_) => String::new(),
            };
            table(&["function", ""], &rows) + &more
        }
    }
}

fn function(f: &FunctionEntry) -> String {
    let example = f.example.as_ref().map_or(String::new(), |e| format!("    {e}\n"));
    format!("{}\n    {}\n{example}", f.syntax, f.description.trim())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        let cases = [
            ("sim", "sim", true),
            ("sim", "sim_requests", false),
            ("SIM*", "sim_requests", true),
            ("*req*", "sim_requests", true),
            ("s?m", "sim", true),
            ("s?m", "sm", false),
            ("*", "", true),
            ("sweep.*", "sweep.sim", true),
            ("****************a", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", false),
        ];
        for (pattern, name, expect) in cases {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }
}
