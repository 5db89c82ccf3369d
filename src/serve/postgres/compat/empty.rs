//! Queries of the catalog that have no row whatever is served, for they read tables of what there is none of here: keys,
//! indexes, triggers.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, JoinOperator, Query, Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins,
    UnaryOperator, Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::{never_has_rows, terms, unnested, words};
use crate::serve::postgres::names;

/// Whether a query over the catalog has no row, whatever is served.
pub fn is_empty(query: &Query) -> bool {
    let mut known = BTreeSet::new();
    for cte in query.with.iter().flat_map(|w| &w.cte_tables) {
        if is_empty(&cte.query) || body_is_empty(&cte.query.body, &known) {
            known.insert(cte.alias.name.value.to_lowercase());
        }
    }
    body_is_empty(&query.body, &known)
}

fn body_is_empty(body: &SetExpr, known: &BTreeSet<String>) -> bool {
    match body {
        SetExpr::Select(select) => select_is_empty(select, known),
        SetExpr::Query(query) => is_empty(query),
        SetExpr::SetOperation { left, right, .. } => body_is_empty(left, known) && body_is_empty(right, known),
        _ => false,
    }
}

fn select_is_empty(select: &Select, known: &BTreeSet<String>) -> bool {
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if !grouped && select.projection.iter().any(aggregates) {
        return false;
    }
    let of_tables = select.from.iter().any(|from| joined_is_empty(from, known));
    of_tables || select.selection.as_ref().is_some_and(|e| terms(e).iter().any(|t| is_false(t)))
}

/// Whether tables that are joined have no row together.
fn joined_is_empty(from: &TableWithJoins, known: &BTreeSet<String>) -> bool {
    let inner =
        |j: &JoinOperator| matches!(j, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_));
    let outer = from.joins.iter().any(|j| {
        matches!(j.join_operator, JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_))
    });
    let joined = || from.joins.iter().any(|j| inner(&j.join_operator) && factor_is_empty(&j.relation, known));
    !outer && (factor_is_empty(&from.relation, known) || joined())
}

fn is_false(e: &Expr) -> bool {
    match e {
        Expr::Value(v) => matches!(v.value, Value::Boolean(false)),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            matches!(unnested(expr), Expr::Value(v) if matches!(v.value, Value::Boolean(true)))
        }
        _ => false,
    }
}

fn factor_is_empty(factor: &TableFactor, known: &BTreeSet<String>) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            never_has_rows(name) || matches!(words(name).as_slice(), [only] if known.contains(only))
        }
        TableFactor::Derived { subquery, .. } => is_empty(subquery),
        TableFactor::NestedJoin { table_with_joins, .. } => joined_is_empty(table_with_joins, known),
        _ => false,
    }
}

/// Whether an item makes one row of many, or of none.
pub fn aggregates(item: &SelectItem) -> bool {
    #[derive(Default)]
    struct Finder {
        found: bool,
        /// Subqueries are their own affair.
        within: usize,
    }
    impl Visitor for Finder {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.within += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.within -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
            if let Expr::Function(f) = e
                && self.within == 0
                && f.over.is_none()
            {
                let name = words(&f.name).pop().unwrap_or_default();
                self.found |= crate::query::session::aggregate_names().contains(&name);
            }
            ControlFlow::Continue(())
        }
    }
    let mut finder = Finder::default();
    let _ = Visit::visit(item, &mut finder);
    finder.found
}

/// Puts a plain empty result in place of queries that have no row, at the top and in FROM.
pub fn empty_out(query: &mut Query) {
    if is_empty(query)
        && let Some(empty) = nothing_like(query)
    {
        *query = empty;
        return;
    }
    if let Some(with) = &mut query.with {
        with.cte_tables.iter_mut().for_each(|cte| empty_out(&mut cte.query));
    }
    empty_out_body(&mut query.body);
}

fn empty_out_body(body: &mut SetExpr) {
    match body {
        SetExpr::Query(query) => empty_out(query),
        SetExpr::SetOperation { left, right, .. } => {
            empty_out_body(left);
            empty_out_body(right);
        }
        SetExpr::Select(select) => {
            for from in &mut select.from {
                let joined = from.joins.iter_mut().map(|j| &mut j.relation);
                for factor in std::iter::once(&mut from.relation).chain(joined) {
                    if let TableFactor::Derived { subquery, .. } = factor {
                        empty_out(subquery);
                    }
                }
            }
        }
        _ => {}
    }
}

fn nothing_like(query: &Query) -> Option<Query> {
    let names = names::of(&Statement::Query(Box::new(query.clone())))?;
    let mut seen = BTreeSet::new();
    let items = names.iter().enumerate().map(|(i, name)| {
        let name = if seen.insert(name.clone()) { name.clone() } else { format!("column {}", i + 1) };
        format!("CAST(NULL AS TEXT) AS \"{}\"", name.replace('"', "\"\""))
    });
    let sql = format!("SELECT {} WHERE false", items.collect::<Vec<_>>().join(", "));
    match Parser::parse_sql(&PostgreSqlDialect {}, &sql).ok()?.pop()? {
        Statement::Query(query) => Some(*query),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_that_keep_rows_and_joins_that_do_not() {
        let cases = [
            ("FROM pg_index i JOIN pg_class c ON i.indrelid = c.oid", true),
            ("FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid", true),
            ("FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid", false),
            ("FROM pg_index i RIGHT JOIN pg_class c ON i.indrelid = c.oid", false),
            ("FROM (pg_index i JOIN pg_class c ON i.indrelid = c.oid)", true),
            ("FROM (pg_class c JOIN pg_index i ON i.indrelid = c.oid)", true),
            ("FROM (pg_index i RIGHT JOIN pg_class c ON i.indrelid = c.oid)", false),
            ("FROM (pg_index i FULL JOIN pg_class c ON i.indrelid = c.oid)", false),
        ];
        for (from, expected) in cases {
            let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, &format!("SELECT 1 {from}")).unwrap();
            let Some(Statement::Query(query)) = parsed.pop() else { panic!("{from}") };
            assert_eq!(is_empty(&query), expected, "{from}");
        }
    }
}
