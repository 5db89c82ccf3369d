//! Names of columns that a statement does not name: as PostgreSQL chooses them, where DataFusion writes out the expression.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, SelectItem, SetExpr, Statement, Value, VisitMut, VisitorMut,
};

/// The names of a statement's columns; `None` where only its plan can tell, for it has a `*`.
pub fn of(statement: &Statement) -> Option<Vec<String>> {
    match statement {
        Statement::Query(query) => of_body(&query.body),
        _ => None,
    }
}

fn of_body(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => select.projection.iter().map(of_item).collect(),
        SetExpr::Query(query) => of_body(&query.body),
        SetExpr::SetOperation { left, .. } => of_body(left),
        _ => None,
    }
}

fn of_item(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(e) => Some(of_expr(e).unwrap_or_else(|| "?column?".to_string())),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    }
}

/// The name that an expression gives its column, if it gives one.
fn of_expr(e: &Expr) -> Option<String> {
    let plain = |name: &str| Some(name.to_string());
    match e {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(names) => names.last().map(folded),
        Expr::CompoundFieldAccess { root, .. } => of_expr(root),
        Expr::Function(f) => last(&f.name),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => of_expr(inner),
        Expr::Cast { expr, data_type, .. } => of_expr(expr).or_else(|| {
            let text = data_type.to_string().to_lowercase();
            let bare = text.rsplit('.').next().unwrap_or_default().split('(').next().unwrap_or_default();
            Some(internal_name(bare.trim()).to_string())
        }),
        Expr::Case { else_result, .. } => else_result.as_deref().and_then(of_expr).or_else(|| plain("case")),
        Expr::Exists { .. } => plain("exists"),
        Expr::Subquery(query) => of_body(&query.body)?.into_iter().next(),
        Expr::Array(_) => plain("array"),
        Expr::Extract { .. } => plain("extract"),
        Expr::Ceil { .. } => plain("ceil"),
        Expr::Floor { .. } => plain("floor"),
        Expr::Position { .. } => plain("position"),
        Expr::Substring { .. } => plain("substring"),
        Expr::Trim { .. } => plain("btrim"),
        Expr::Overlay { .. } => plain("overlay"),
        Expr::AtTimeZone { .. } => plain("timezone"),
        Expr::Interval(_) => plain("interval"),
        Expr::TypedString(typed) => Some(internal_name(&typed.data_type.to_string().to_lowercase()).to_string()),
        Expr::Value(v) if matches!(v.value, Value::Boolean(_)) => plain("bool"),
        _ => None,
    }
}

/// Names of types in the catalog, where SQL has others.
fn internal_name(name: &str) -> &str {
    match name {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "double" | "double precision" => "float8",
        "real" => "float4",
        "boolean" => "bool",
        "decimal" => "numeric",
        "character varying" => "varchar",
        other => other,
    }
}

fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|p| p.as_ident()).map(folded)
}

fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// Makes a statement plannable that names two columns alike, and lets subqueries be asked for the columns that PostgreSQL
/// would name (`SELECT count FROM (SELECT count(*) FROM t)`). What the client sees comes from [`of`], taken before.
pub fn settle(statement: &mut Statement) {
    let Statement::Query(query) = statement else { return };
    for_selects(&mut query.body, &mut |items| unlike(items));
    let _ = query.visit(&mut Inner { depth: 0 });
}

fn for_selects(body: &mut SetExpr, change: &mut dyn FnMut(&mut Vec<SelectItem>)) {
    match body {
        SetExpr::Select(select) => change(&mut select.projection),
        SetExpr::Query(query) => for_selects(&mut query.body, change),
        SetExpr::SetOperation { left, right, .. } => {
            for_selects(left, change);
            for_selects(right, change);
        }
        _ => {}
    }
}

/// Renames all but the first of the columns that have one name.
fn unlike(items: &mut [SelectItem]) {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter_mut().enumerate() {
        let (key, expr) = match item {
            SelectItem::UnnamedExpr(e) => (uncast(e).to_string(), e.clone()),
            SelectItem::ExprWithAlias { expr, alias } => (folded(alias), expr.clone()),
            _ => continue,
        };
        if !seen.insert(key) {
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', format!("column {}", i + 1)) };
        }
    }
}

/// What DataFusion names a cast: what is cast.
fn uncast(e: &Expr) -> &Expr {
    match e {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => uncast(expr),
        e => e,
    }
}

struct Inner {
    depth: usize,
}

impl VisitorMut for Inner {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth > 1 {
            for_selects(&mut query.body, &mut |items| named(items));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// Gives calls the names that they have in PostgreSQL, where nothing else has them.
fn named(items: &mut [SelectItem]) {
    let names: Vec<Option<String>> = items.iter().map(of_item).collect();
    for (i, item) in items.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(e @ (Expr::Function(_) | Expr::Cast { .. } | Expr::Case { .. })) = item else {
            continue;
        };
        let Some(name) = of_expr(e) else { continue };
        if names.iter().enumerate().all(|(j, n)| i == j || n.as_ref() != Some(&name)) {
            *item = SelectItem::ExprWithAlias { expr: e.clone(), alias: Ident::with_quote('"', name) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn parse(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)
    }

    #[test]
    fn names_as_postgresql_gives_them() {
        // Read off PostgreSQL 15's psql.
        let cases = [
            ("SELECT 1, 'a', a + 1 FROM t", vec!["?column?", "?column?", "?column?"]),
            ("SELECT count(*), Avg(x), pg_catalog.lower(y) FROM t", vec!["count", "avg", "lower"]),
            ("SELECT x::int, 1::bigint, CAST('1' AS numeric)", vec!["x", "int8", "numeric"]),
            ("SELECT CASE WHEN a THEN b END, CASE WHEN a THEN b ELSE c END FROM t", vec!["case", "c"]),
            (
                "SELECT t.\"A b\", T.C, (SELECT max(x) FROM u), EXISTS (SELECT 1) FROM t",
                vec!["A b", "c", "max", "exists"],
            ),
            ("SELECT true, ARRAY[1], extract(year FROM x), x AS Y FROM t", vec!["bool", "array", "extract", "y"]),
            ("SELECT sum(x) FROM t UNION SELECT 1", vec!["sum"]),
        ];
        for (sql, expected) in cases {
            assert_eq!(of(&parse(sql)).unwrap(), expected, "{sql}");
        }
        assert_eq!(of(&parse("SELECT *, 1 FROM t")), None);
    }

    #[test]
    fn what_is_planned() {
        let cases = [
            ("SELECT 1, 1", "SELECT 1, 1 AS \"column 2\""),
            ("SELECT NULL::date, NULL::text", "SELECT NULL::DATE, NULL::TEXT AS \"column 2\""),
            ("SELECT a AS x, b AS x FROM t", "SELECT a AS x, b AS \"column 2\" FROM t"),
            ("SELECT count(*) FROM t", "SELECT count(*) FROM t"),
            (
                "SELECT count FROM (SELECT count(*) FROM t) AS s",
                "SELECT count FROM (SELECT count(*) AS \"count\" FROM t) AS s",
            ),
            ("SELECT 1 FROM (SELECT max(a), max(b) FROM t) AS s", "SELECT 1 FROM (SELECT max(a), max(b) FROM t) AS s"),
        ];
        for (sql, expected) in cases {
            let mut statement = parse(sql);
            settle(&mut statement);
            assert_eq!(statement.to_string(), expected, "{sql}");
        }
    }
}
