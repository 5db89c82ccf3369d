//! What is refused in the SQL of a stage because its rows would differ from run to run.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, GroupByExpr, ObjectName, Query, Select, SelectItem, SetExpr, Spanned, TableFactor, Visit,
    Visitor,
};

use super::errors::{Stretch, find_word};
use super::session::aggregate_names;
use super::sql::{Makes, Script, Step, is_ordered};
use crate::diag::Diagnostic;

/// Functions whose value is another one each time, and what to write instead.
const CHANGING: &[(&str, &str)] = &[
    ("random", "draw in a `synthesize` or `simulate` stage, whose seed is fixed"),
    ("rand", "draw in a `synthesize` or `simulate` stage, whose seed is fixed"),
    ("uuid", "number the rows: `row_number() OVER (ORDER BY ...)`"),
    ("gen_random_uuid", "number the rows: `row_number() OVER (ORDER BY ...)`"),
    ("now", "write the time as a constant, or pass it with `--set`"),
    ("current_timestamp", "write the time as a constant, or pass it with `--set`"),
    ("current_date", "write the date as a constant, or pass it with `--set`"),
    ("current_time", "write the time as a constant, or pass it with `--set`"),
    ("localtimestamp", "write the time as a constant, or pass it with `--set`"),
    ("localtime", "write the time as a constant, or pass it with `--set`"),
    ("today", "write the date as a constant, or pass it with `--set`"),
];

/// The problems of one statement.
pub fn step(script: &Script, step: &Step, allow_approx: bool) -> Vec<Diagnostic> {
    let mut problems = Problems { script, allow_approx, found: Vec::new() };
    let _ = step.query.visit(&mut problems);
    let stored = !matches!(step.makes, Makes::View(_));
    if stored && !is_ordered(&step.query) && !limited(&step.query) && !single_row(&step.query) {
        problems.found.push(
            script.problem("sql::unordered", "the rows of a stored result need an order", step.at).help(
                "end the statement with `ORDER BY ...`: without it, rows come in another order in every run, and \
                 everything that reads this table runs again",
            ),
        );
    }
    problems.found
}

struct Problems<'a> {
    script: &'a Script,
    allow_approx: bool,
    found: Vec<Diagnostic>,
}

impl Problems<'_> {
    fn function(&mut self, function: &Function) {
        let Some(name) = last_name(&function.name) else { return };
        let at = Stretch::of(function.name.span());
        if let Some((_, instead)) = CHANGING.iter().find(|(n, _)| *n == name) {
            let what = format!("`{name}` has another value in every run");
            self.found.push(self.script.problem("sql::not_reproducible", what, at).help(*instead));
        }
        if name.starts_with("approx_") && !self.allow_approx {
            let instead = match name.as_str() {
                "approx_distinct" => "count(DISTINCT x)",
                "approx_median" => "median(x)",
                _ => "quantile(x, q)",
            };
            let what = format!("`{name}` gives another value in every run");
            self.found.push(
                self.script
                    .problem("sql::approximate", what, at)
                    .help(format!("use `{instead}`, which is exact, or set `allow_approx: true`")),
            );
        }
    }
}

impl Visitor for Problems<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if limited(query) && !is_ordered(query) && !single_row(query) {
            self.found.push(
                self.script
                    .problem(
                        "sql::unordered_limit",
                        "LIMIT without ORDER BY keeps other rows in every run",
                        Stretch::of(query.span()).map(|s| Stretch { len: 0, ..s }),
                    )
                    .help("add `ORDER BY ...` before the LIMIT"),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.function(function);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args, .. } = factor {
            let at = Stretch::of(name.span());
            if args.is_some() {
                return ControlFlow::Continue(());
            }
            let text = name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.as_str()).collect::<Vec<_>>();
            // The parser gives names in single quotes no place.
            let at = at.or_else(|| find_word(&self.script.text, text.last()?));
            let quoted = name.0.iter().filter_map(|p| p.as_ident()).any(|i| i.quote_style == Some('\''));
            if quoted || text.iter().any(|t| is_file(t)) {
                let what = format!("`{}` is a file: SQL reads tables only", text.join("."));
                self.found.push(self.script.problem("sql::file", what, at).help(
                    "read the file in an `ingest` stage and name that stage here, so that pipe sees when it changes",
                ));
            } else if text.len() > 1 {
                let what = format!("`{}`: a stage reads the tables of its own pipeline only", text.join("."));
                self.found.push(
                    self.script
                        .problem("sql::qualified", what, at)
                        .help("write the name of the table alone; `include:` brings in the stages of another file"),
                );
            }
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn is_file(name: &str) -> bool {
    let lower = name.to_lowercase();
    name.contains('/')
        || [".parquet", ".csv", ".json", ".jsonl", ".arrow", ".gz", ".zst"].iter().any(|e| lower.ends_with(e))
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.to_lowercase())
}

fn limited(query: &Query) -> bool {
    query.limit_clause.is_some() || query.fetch.is_some()
}

/// Whether a query cannot have more than one row: then it needs no order.
fn single_row(query: &Query) -> bool {
    match query.body.as_ref() {
        SetExpr::Select(select) => one_group(select) || constants(select),
        SetExpr::Values(values) => values.rows.len() == 1,
        SetExpr::Query(inner) => single_row(inner),
        SetExpr::SetOperation { .. }
        | SetExpr::Insert(_)
        | SetExpr::Update(_)
        | SetExpr::Delete(_)
        | SetExpr::Merge(_)
        | SetExpr::Table(_) => false,
    }
}

/// Aggregates without GROUP BY.
fn one_group(select: &Select) -> bool {
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(keys, modifiers) => !keys.is_empty() || !modifiers.is_empty(),
    };
    let distinct_on = matches!(select.distinct, Some(Distinct::On(_)));
    !grouped
        && !distinct_on
        && select.projection.iter().any(|item| match item {
            SelectItem::UnnamedExpr(expr)
            | SelectItem::ExprWithAlias { expr, .. }
            | SelectItem::ExprWithAliases { expr, .. } => aggregates(expr),
            SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => false,
        })
}

/// A SELECT without FROM, whose functions yield one row each.
fn constants(select: &Select) -> bool {
    select.from.is_empty() && !select.projection.iter().any(|item| item.to_string().to_lowercase().contains("unnest"))
}

/// Whether an expression aggregates rows of its own query: not in a window, not in a subquery.
fn aggregates(expr: &Expr) -> bool {
    struct Finder {
        depth: usize,
        found: bool,
    }
    impl Visitor for Finder {
        type Break = ();
        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.depth += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Expr::Function(f) = expr
                && self.depth == 0
                && f.over.is_none()
                && last_name(&f.name).is_some_and(|n| aggregate_names().contains(&n))
            {
                self.found = true;
            }
            ControlFlow::Continue(())
        }
    }
    let mut finder = Finder { depth: 0, found: false };
    let _ = expr.visit(&mut finder);
    finder.found
}
