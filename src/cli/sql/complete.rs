//! What Tab offers: tables, columns of the tables that the statement names, functions, keywords, commands.

use std::collections::BTreeSet;

use clap::ValueEnum;

use super::command::{COMMANDS, Setting};
use super::split::split;
use crate::query::output::Format;

/// Words that statements are made of.
const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "ANTI JOIN",
    "ANY",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CROSS JOIN",
    "CURRENT ROW",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "FALSE",
    "FILTER",
    "FOLLOWING",
    "FROM",
    "FULL JOIN",
    "GROUP BY",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER JOIN",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "NULLS FIRST",
    "NULLS LAST",
    "OFFSET",
    "ON",
    "OR",
    "ORDER BY",
    "OVER",
    "PARTITION BY",
    "PRECEDING",
    "QUALIFY",
    "RANGE",
    "RECURSIVE",
    "RIGHT JOIN",
    "ROWS",
    "SELECT",
    "SEMI JOIN",
    "SHOW FUNCTIONS",
    "SHOW TABLES",
    "THEN",
    "TRUE",
    "UNBOUNDED",
    "UNION",
    "UNION ALL",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
    "WITHIN GROUP",
];

/// Words after which a table is named.
const BEFORE_TABLES: &[&str] = &["from", "join", "describe", "desc", "table"];

/// Names to complete with.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub tables: Vec<TableNames>,
    pub functions: Vec<String>,
}

/// A table, and its columns.
#[derive(Clone, Debug)]
pub struct TableNames {
    pub pipeline: String,
    pub name: String,
    /// Whether the name alone means this one.
    pub bare: bool,
    pub columns: Vec<String>,
}

/// A word to put in place of the one before the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub word: String,
    /// As listed.
    pub shown: String,
}

/// What can stand at the end of `before`, the text up to the cursor, and the byte at which it begins; `after` is the rest.
///
/// Names of files are not offered here: [`wants_file`].
pub fn complete(catalog: &Catalog, before: &str, after: &str) -> (usize, Vec<Offer>) {
    let start =
        before.rfind(|c: char| !is_word(c)).map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8));
    let word = &before[start..];
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    if let Some(command) = line.strip_prefix('\\') {
        return of_command(catalog, command, start, word);
    }
    let (_, rest) = split(before);
    if rest.is_quoted() {
        return (start, Vec::new());
    }
    let statement = statement(before, after);
    let mut offers = Offers { prefix: word.to_string(), words: BTreeSet::new() };
    let previous =
        before[..start].split(|c: char| !is_word(c)).rfind(|w| !w.is_empty()).unwrap_or_default().to_lowercase();
    let names_table = BEFORE_TABLES.contains(&previous.as_str()) && before[..start].ends_with(char::is_whitespace);
    if let Some((qualifier, _)) = word.rsplit_once('.') {
        offers.qualified(catalog, qualifier, &statement);
    } else if names_table {
        offers.tables(catalog);
    } else {
        let named = catalog.named(&statement);
        let of: Vec<&TableNames> = if named.is_empty() { catalog.tables.iter().collect() } else { named };
        of.iter().flat_map(|t| &t.columns).for_each(|c| offers.add(c, c));
        offers.aliases(catalog, &statement);
        catalog.functions.iter().for_each(|f| offers.add(&format!("{f}("), f));
        KEYWORDS.iter().for_each(|k| offers.keyword(k));
        if !word.is_empty() {
            offers.tables(catalog);
        }
    }
    (start, offers.done())
}

/// Whether the word before the cursor is the name of a file.
pub fn wants_file(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    ["\\i ", "\\o "].iter().any(|command| line.starts_with(command))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// The statement that the cursor is in.
fn statement(before: &str, after: &str) -> String {
    let end = after.split(';').next().unwrap_or_default();
    let (_, mut rest) = split(&format!("{before}{end}"));
    rest.finish().map_or(String::new(), |s| s.text)
}

fn of_command(catalog: &Catalog, command: &str, start: usize, word: &str) -> (usize, Vec<Offer>) {
    let mut offers = Offers { prefix: word.to_string(), words: BTreeSet::new() };
    match command.split_once(char::is_whitespace).map(|(name, rest)| (name, rest.trim_start())) {
        None => COMMANDS.iter().for_each(|(name, ..)| offers.add(name, &format!("\\{name}"))),
        Some(("d" | "dt" | "dv", _)) => offers.tables(catalog),
        Some(("dn" | "c", _)) => catalog.tables.iter().for_each(|t| offers.add(&t.pipeline, &t.pipeline)),
        Some(("df", _)) => catalog.functions.iter().for_each(|f| offers.add(f, f)),
        Some(("f", _)) => offers.formats(),
        Some(("x", _)) => ["on", "off", "auto"].iter().for_each(|v| offers.add(v, v)),
        Some(("timing", _)) => ["on", "off"].iter().for_each(|v| offers.add(v, v)),
        Some(("pset", rest)) => match rest.split_once(char::is_whitespace).map(|(setting, _)| setting) {
            None => Setting::ALL.iter().for_each(|(name, _)| offers.add(name, name)),
            Some("format") => offers.formats(),
            Some("expanded") => ["on", "off", "auto"].iter().for_each(|v| offers.add(v, v)),
            Some(_) => ["on", "off"].iter().for_each(|v| offers.add(v, v)),
        },
        Some(_) => {}
    }
    (start, offers.done())
}

struct Offers {
    prefix: String,
    /// As listed, and the word.
    words: BTreeSet<(String, String)>,
}

impl Offers {
    fn add(&mut self, word: &str, shown: &str) {
        let begins = |text: &str| {
            let mut characters = text.chars();
            self.prefix.chars().all(|p| characters.next().is_some_and(|c| c.to_lowercase().eq(p.to_lowercase())))
        };
        if begins(word) {
            self.words.insert((shown.to_string(), word.to_string()));
        }
    }

    /// In the case in which the word was begun.
    fn keyword(&mut self, keyword: &str) {
        if self.prefix.chars().any(char::is_lowercase) {
            self.add(&keyword.to_lowercase(), &keyword.to_lowercase());
        } else {
            self.add(keyword, keyword);
        }
    }

    fn formats(&mut self) {
        Format::value_variants().iter().for_each(|f| self.add(&f.name(), &f.name()));
    }

    /// Short names where they are enough, and the long ones.
    fn tables(&mut self, catalog: &Catalog) {
        for table in &catalog.tables {
            let long = format!("{}.{}", table.pipeline, table.name);
            if table.bare {
                self.add(&table.name, &table.name);
            }
            if !table.bare || self.prefix.contains('.') {
                self.add(&long, &long);
            } else {
                self.add(&format!("{}.", table.pipeline), &format!("{}.", table.pipeline));
            }
        }
    }

    /// Columns of a table or an alias, or tables of a pipeline.
    fn qualified(&mut self, catalog: &Catalog, qualifier: &str, statement: &str) {
        let table = match catalog.table(qualifier) {
            Some(table) => Some(table),
            None => {
                aliases(catalog, statement).into_iter().find(|(a, _)| a == &qualifier.to_lowercase()).map(|(_, t)| t)
            }
        };
        for column in table.map(|t| t.columns.as_slice()).unwrap_or_default() {
            self.add(&format!("{qualifier}.{column}"), column);
        }
        for table in catalog.tables.iter().filter(|t| t.pipeline == qualifier) {
            self.add(&format!("{qualifier}.{}", table.name), &table.name);
        }
    }

    fn aliases(&mut self, catalog: &Catalog, statement: &str) {
        for (alias, _) in aliases(catalog, statement) {
            self.add(&format!("{alias}."), &format!("{alias}."));
        }
    }

    fn done(self) -> Vec<Offer> {
        self.words.into_iter().map(|(shown, word)| Offer { word, shown }).collect()
    }
}

impl Catalog {
    fn table(&self, name: &str) -> Option<&TableNames> {
        let name = name.to_lowercase();
        match name.split_once('.') {
            Some((pipeline, table)) => self.tables.iter().find(|t| t.pipeline == pipeline && t.name == table),
            None => self.tables.iter().find(|t| t.bare && t.name == name),
        }
    }

    /// The tables whose names stand in a statement.
    fn named(&self, statement: &str) -> Vec<&TableNames> {
        let mut found: Vec<&TableNames> = Vec::new();
        for table in statement.split(|c: char| !is_word(c)).filter_map(|w| self.table(w)) {
            if !found.iter().any(|f| std::ptr::eq(*f, table)) {
                found.push(table);
            }
        }
        found
    }
}

/// `x` of `FROM sim x` and `FROM sim AS x`, with the table.
fn aliases<'a>(catalog: &'a Catalog, statement: &str) -> Vec<(String, &'a TableNames)> {
    // A comma or a bracket ends what may be an alias, and so stands for a word of its own.
    let spaced: String = statement.chars().map(|c| if is_word(c) || c.is_whitespace() { c } else { ';' }).collect();
    let spaced = spaced.replace(';', " ; ").to_lowercase();
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let is_keyword = |w: &str| KEYWORDS.iter().any(|k| k.to_lowercase().split(' ').next() == Some(w));
    let mut found = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let Some(table) = catalog.table(word) else { continue };
        let next = match words.get(i + 1) {
            Some(&"as") => words.get(i + 2),
            other => other,
        };
        if let Some(alias) = next.filter(|w| w.chars().all(|c| is_word(c) && c != '.') && !is_keyword(w)) {
            found.push((alias.to_string(), table));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let table = |pipeline: &str, name: &str, bare: bool, columns: &[&str]| TableNames {
            pipeline: pipeline.to_string(),
            name: name.to_string(),
            bare,
            columns: columns.iter().map(|c| c.to_string()).collect(),
        };
        Catalog {
            tables: vec![
                table("other", "metrics", false, &["gpus", "z_only_here"]),
                table("sweep", "metrics", false, &["gpus"]),
                table("sweep", "sim", true, &["scenario_id", "seed"]),
                table("sweep", "sim_requests", true, &["scenario_id", "ttft_ns", "tpot_ns"]),
            ],
            functions: vec!["quantile".to_string(), "sum".to_string(), "tan".to_string()],
        }
    }

    /// The words offered at `|`.
    fn offered(text: &str) -> Vec<String> {
        let (before, after) = text.split_once('|').unwrap();
        let (start, offers) = complete(&catalog(), before, after);
        assert!(before.is_char_boundary(start));
        offers.into_iter().map(|o| o.word).collect()
    }

    #[test]
    fn words() {
        let cases: &[(&str, &[&str])] = &[
            ("SELECT * FROM s|", &["sim", "sim_requests", "sweep.", "sweep.metrics"]),
            ("select * from SIM_|", &["sim_requests"]),
            ("select * from sweep.|", &["sweep.metrics", "sweep.sim", "sweep.sim_requests"]),
            ("select * from a join swe|", &["sweep.", "sweep.metrics"]),
            ("select * from o|", &["other.metrics"]),
            ("SELECT tt| FROM sim_requests", &["ttft_ns"]),
            ("SELECT t| FROM sim_requests", &["tan(", "then", "tpot_ns", "true", "ttft_ns"]),
            ("SELECT T| FROM sim", &["THEN", "TRUE", "tan("]),
            ("SELECT gp| FROM sweep.metrics", &["gpus"]),
            ("SELECT z_|", &["z_only_here"]),
            ("SELECT z_| FROM sim", &[]),
            ("SELECT r.t| FROM sim_requests r", &["r.tpot_ns", "r.ttft_ns"]),
            ("SELECT r.s| FROM sim AS r, sim_requests q", &["r.scenario_id", "r.seed"]),
            ("SELECT sim.se|", &["sim.seed"]),
            ("select 1; SELECT se| FROM sim; select 2", &["seed", "select", "semi join"]),
            ("SELECT quan|", &["quantile("]),
            ("SELECT 'tt|", &[]),
            ("SELECT 1 grou|", &["group by"]),
            ("\\t|", &["timing"]),
            ("\\d sim_|", &["sim_requests"]),
            ("\\c o|", &["other"]),
            ("\\pset f|", &["format"]),
            ("\\pset format m|", &["markdown"]),
            ("\\f js|", &["json", "jsonl"]),
            ("\\x a|", &["auto"]),
            ("\\df q|", &["quantile"]),
            ("ä tt|", &["ttft_ns"]),
        ];
        for (text, expect) in cases {
            assert_eq!(offered(text), *expect, "{text}");
        }
    }

    #[test]
    fn files() {
        assert!(wants_file("\\i que"));
        assert!(wants_file("select 1\n\\o "));
        assert!(!wants_file("\\d x"));
    }
}
