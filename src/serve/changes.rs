//! Statements that begin as ones that read, and change something: `SELECT ... INTO`, and `INSERT` and its like within a `WITH`.

use datafusion::sql::sqlparser::ast::{Query, Select, SetExpr, Statement, TableFactor, TableWithJoins};

/// What a statement changes, by its name; `None` where it only reads as far as its syntax tells.
pub fn changed(statement: &Statement) -> Option<&'static str> {
    match statement {
        Statement::Query(query) => changes(query),
        Statement::Explain { statement, .. } => changed(statement),
        _ => None,
    }
}

/// What a query changes, in its body or in a `WITH`.
fn changes(query: &Query) -> Option<&'static str> {
    let within = query.with.iter().flat_map(|w| &w.cte_tables).find_map(|cte| changes(&cte.query));
    within.or_else(|| changes_in(&query.body))
}

fn changes_in(body: &SetExpr) -> Option<&'static str> {
    match body {
        SetExpr::Insert(_) => Some("INSERT"),
        SetExpr::Update(_) => Some("UPDATE"),
        SetExpr::Delete(_) => Some("DELETE"),
        SetExpr::Merge(_) => Some("MERGE"),
        SetExpr::Select(select) => into(select),
        SetExpr::Query(query) => changes(query),
        SetExpr::SetOperation { left, right, .. } => changes_in(left).or_else(|| changes_in(right)),
        SetExpr::Values(_) | SetExpr::Table(_) => None,
    }
}

fn into(select: &Select) -> Option<&'static str> {
    if select.into.is_some() {
        return Some("SELECT INTO");
    }
    let factors = select
        .from
        .iter()
        .flat_map(|t: &TableWithJoins| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)));
    factors.into_iter().find_map(|f| match f {
        TableFactor::Derived { subquery, .. } => changes(subquery),
        _ => None,
    })
}
