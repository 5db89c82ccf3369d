//! The SQL of a stage: statements, the tables that they name, and their text without comments and layout.
//!
//! A script is any number of `CREATE TABLE x AS SELECT ...` (stored as `<stage>_x`) and `CREATE VIEW x AS SELECT ...`
//! (not stored), and one `SELECT` at the end, which is the stage's own table.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, OrderByExpr, OrderByKind, OrderByOptions, Query, Spanned, Statement as SqlStatement, TableFactor,
    Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use super::errors::{Names, Place, Stretch, planning};
use super::lint;
use crate::diag::{Diagnostic, Span, Spanned as Placed};
use crate::spec::Text;

/// Nesting that is allowed; deeper SQL is refused rather than run out of stack.
const MAX_DEPTH: usize = 100;

/// A parsed SQL text.
#[derive(Clone, Debug)]
pub struct Script {
    pub text: String,
    pub place: Place,
    pub steps: Vec<Step>,
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Step {
    pub makes: Makes,
    pub query: Query,
    pub at: Option<Stretch>,
}

/// What a statement yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Makes {
    /// `CREATE TABLE x AS`: stored as `<stage>_x`.
    Table(String),
    /// `CREATE VIEW x AS`: a name for the statements that follow.
    View(String),
    /// The last `SELECT`: the stage's own table.
    Result,
}

/// The statements of `text`, by DataFusion's parser.
///
/// # Errors
/// Syntax.
pub fn statements(text: &str) -> Result<Vec<Statement>, DataFusionError> {
    let dialect = GenericDialect {};
    let mut parser = DFParserBuilder::new(text).with_dialect(&dialect).with_recursion_limit(MAX_DEPTH).build()?;
    Ok(parser.parse_statements()?.into())
}

/// A name in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in quotes, without the character that databases cannot hold.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''").replace('\0', ""))
}

impl Script {
    /// Reads the statements, and refuses those that a stage cannot have.
    ///
    /// # Errors
    /// Every problem that can be seen without knowing any table.
    pub fn parse(text: &str, place: Place) -> Result<Script, Vec<Diagnostic>> {
        let statements = statements(text).map_err(|e| vec![planning(&e, text, &place, &Names::default())])?;
        let mut script = Script { text: text.to_string(), place, steps: Vec::new() };
        let mut problems = Vec::new();
        for statement in statements {
            match step(statement) {
                Ok(step) => script.steps.push(step),
                Err(what) => problems.push(script.problem("sql::statement", what, None).help(ALLOWED)),
            }
        }
        if problems.is_empty() {
            problems.extend(script.shape());
        }
        if problems.is_empty() { Ok(script) } else { Err(problems) }
    }

    /// The rules about names and order of statements.
    fn shape(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let mut names = BTreeSet::new();
        for (i, step) in self.steps.iter().enumerate() {
            let last = i + 1 == self.steps.len();
            match &step.makes {
                Makes::Table(name) | Makes::View(name) => {
                    if !is_name(name) {
                        let what = format!("`{name}` cannot be the name of a table");
                        problems.push(
                            self.problem("sql::name", what, step.at).help("names are like `by_rate`: a-z, 0-9 and _"),
                        );
                    }
                    if !names.insert(name.clone()) {
                        problems.push(self.problem("sql::name", format!("`{name}` is made twice"), step.at));
                    }
                }
                Makes::Result if !last => problems.push(
                    self.problem("sql::statement", "only the last statement may be a bare SELECT", step.at)
                        .help("write `CREATE TABLE name AS SELECT ...` for further results"),
                ),
                Makes::Result => {}
            }
        }
        if !self.steps.last().is_some_and(|s| s.makes == Makes::Result) {
            problems.push(
                self.problem("sql::statement", "there is no SELECT at the end", None)
                    .help("the last statement is a SELECT: its rows are the table of the stage"),
            );
        }
        problems
    }

    /// A diagnostic about a stretch of this SQL.
    pub fn problem(&self, code: &'static str, message: impl Into<String>, at: Option<Stretch>) -> Diagnostic {
        self.place.diagnostic(&self.text, code, message, at)
    }

    /// The tables that the statements read and do not make themselves, in order of first mention.
    pub fn references(&self) -> Vec<Text> {
        let mut found: Vec<Text> = Vec::new();
        let mut made: BTreeSet<String> = BTreeSet::new();
        for step in &self.steps {
            for (name, at) in reads(&step.query) {
                if !made.contains(&name) && !found.iter().any(|f| f.value == name) {
                    let place = self.place.diagnostic(&self.text, "", "", at).at;
                    found.push(Placed::new(name, place));
                }
            }
            match &step.makes {
                Makes::Table(name) | Makes::View(name) => {
                    made.insert(name.clone());
                }
                Makes::Result => {}
            }
        }
        found
    }

    /// The statements without comments and layout: equal text, equal results.
    pub fn normalised(&self) -> Vec<String> {
        self.steps
            .iter()
            .map(|step| match &step.makes {
                Makes::Table(name) => format!("CREATE TABLE {name} AS {}", step.query),
                Makes::View(name) => format!("CREATE VIEW {name} AS {}", step.query),
                Makes::Result => step.query.to_string(),
            })
            .collect()
    }

    /// What would make the results differ from run to run.
    pub fn lint(&self, allow_approx: bool) -> Vec<Diagnostic> {
        self.steps.iter().flat_map(|step| lint::step(self, step, allow_approx)).collect()
    }

    /// Where the text starts.
    pub fn start(&self) -> Option<Span> {
        self.problem("", "", None).at
    }
}

const ALLOWED: &str = "a stage has `CREATE TABLE name AS SELECT ...`, `CREATE VIEW name AS SELECT ...`, and a SELECT at \
                       the end; it reads the tables of other stages by their names";

fn step(statement: Statement) -> Result<Step, String> {
    let Statement::Statement(statement) = statement else {
        return Err(format!("`{}` is not possible in a stage", first_words(&statement.to_string())));
    };
    let (makes, query) = match *statement {
        SqlStatement::Query(query) => (Makes::Result, *query),
        SqlStatement::CreateTable(table) if table.columns.is_empty() && !table.external => match table.query {
            Some(query) => (Makes::Table(single_name(&table.name)?), *query),
            None => return Err(format!("CREATE TABLE {} without AS SELECT", table.name)),
        },
        SqlStatement::CreateView(view) if view.columns.is_empty() => {
            (Makes::View(single_name(&view.name)?), *view.query)
        }
        other => return Err(format!("`{}` is not possible in a stage", first_words(&other.to_string()))),
    };
    let at = Stretch::of(query.span()).map(|s| Stretch { len: 0, ..s });
    Ok(Step { makes, query, at })
}

fn first_words(statement: &str) -> String {
    statement.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn single_name(name: &ObjectName) -> Result<String, String> {
    match name.0.as_slice() {
        [part] => match part.as_ident() {
            Some(ident) if ident.quote_style.is_none() => Ok(ident.value.to_lowercase()),
            Some(ident) => Ok(ident.value.clone()),
            None => Err(format!("`{name}` is not a name")),
        },
        _ => Err(format!("`{name}`: a table of a stage has no schema in its name")),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The tables that a query reads: not those of its WITH, nor functions that yield rows.
pub fn reads(query: &Query) -> Vec<(String, Option<Stretch>)> {
    let statement = Statement::Statement(Box::new(SqlStatement::Query(Box::new(query.clone()))));
    // Names that cannot be resolved (four parts and more) are left to the planner.
    let names: BTreeSet<String> = match resolve_table_references(&statement, true) {
        Ok((tables, _)) => tables.into_iter().map(|t| t.to_string()).collect(),
        Err(_) => BTreeSet::new(),
    };
    let mut relations = Relations::default();
    let _ = query.visit(&mut relations);
    let mut seen = BTreeSet::new();
    relations.tables.retain(|(name, _)| names.contains(name) && seen.insert(name.clone()));
    relations.tables
}

#[derive(Default)]
struct Relations {
    tables: Vec<(String, Option<Stretch>)>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            let parts: Vec<String> = name
                .0
                .iter()
                .filter_map(|p| p.as_ident())
                .map(|i| if i.quote_style.is_none() { i.value.to_lowercase() } else { i.value.clone() })
                .collect();
            self.tables.push((parts.join("."), Stretch::of(name.span())));
        }
        ControlFlow::Continue(())
    }
}

/// Whether the rows of a query come in an order that it asks for.
pub fn is_ordered(query: &Query) -> bool {
    query.order_by.is_some()
}

/// The query with its columns at the given positions (from 1) as last keys of its ORDER BY: rows that are equal in the
/// keys of the user then come in one order, and a LIMIT keeps the same rows every time. Unchanged without ORDER BY.
pub fn break_ties(query: &Query, positions: &[usize]) -> Query {
    let mut query = query.clone();
    if let Some(order) = &mut query.order_by
        && let OrderByKind::Expressions(keys) = &mut order.kind
    {
        keys.extend(positions.iter().map(|p| OrderByExpr {
            expr: Expr::value(Value::Number(p.to_string(), false)),
            options: OrderByOptions { asc: None, nulls_first: None },
            with_fill: None,
        }));
    }
    query
}
