//! Statements as PostgreSQL's clients write them, in the SQL that DataFusion plans.
//!
//! Statements over tables that are served are changed as little as names and operators need. Those that ask the catalog, which
//! tools send by the dozen, are changed further: what asks tables that never have a row here (keys, indexes, triggers) is
//! the empty answer that it would be (`empty.rs`), comments are looked up by functions in place of correlated subqueries.
//! What is written otherwise in any statement is in `dialect.rs`.

mod dialect;
mod empty;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart, Query, SelectItem,
    SetExpr, Statement, TableFactor, Value, VisitMut, VisitorMut, visit_relations,
};
use datafusion_postgres::datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use datafusion_postgres::datafusion_pg_catalog::sql::rules::{
    FixArrayLiteral, RewriteArrayAnyAllOperation, RewritePgCatalogOperator, SqlStatementRewriteRule,
    StripCallableQualifier, StripCollate,
};

use super::catalog::{INFORMATION_SCHEMA, PG_CATALOG, WITHOUT_ROWS, is_without_rows};
use dialect::Always;
use empty::{aggregates, empty_out, is_empty};

/// Changes statements.
#[derive(Debug, Default)]
pub struct Compat {
    crates: PostgresCompatibilityParser,
}

impl Compat {
    /// The statement that is planned. `path` is the search path.
    pub fn rewrite(&self, mut statement: Statement, path: &[String]) -> Statement {
        let _ = VisitMut::visit(&mut statement, &mut Always);
        if !asks_catalog(&statement) {
            let rules: [&dyn SqlStatementRewriteRule; 5] = [
                &RewriteArrayAnyAllOperation,
                &StripCallableQualifier,
                &FixArrayLiteral,
                &StripCollate,
                &RewritePgCatalogOperator,
            ];
            return rules.iter().fold(statement, |s, rule| rule.rewrite(s));
        }
        let _ = VisitMut::visit(&mut statement, &mut OfCatalog { path });
        if let Statement::Query(query) = &mut statement {
            empty_out(query);
        }
        self.crates.rewrite(statement)
    }
}

/// Whether a statement reads the catalog.
fn asks_catalog(statement: &Statement) -> bool {
    visit_relations(statement, |name| match is_of_catalog(name) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })
    .is_break()
}

fn words(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.to_lowercase()).collect()
}

fn is_of_catalog(name: &ObjectName) -> bool {
    match words(name).as_slice() {
        [only] => only.starts_with("pg_"),
        [.., schema, _] => schema == PG_CATALOG || schema == INFORMATION_SCHEMA,
        [] => false,
    }
}

/// Whether a table never has a row.
fn never_has_rows(name: &ObjectName) -> bool {
    match words(name).as_slice() {
        [only] => WITHOUT_ROWS.contains(&only.as_str()),
        [.., schema, table] if schema == PG_CATALOG => WITHOUT_ROWS.contains(&table.as_str()),
        [.., schema, table] if schema == INFORMATION_SCHEMA => is_without_rows(table),
        _ => false,
    }
}

/// A call of a function.
fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a))).collect();
    let list = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn truth(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).with_empty_span())
}

fn text_of(e: &Expr) -> Option<&str> {
    match e {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The bare name of a type.
fn type_name(kind: &DataType) -> String {
    let lower = kind.to_string().to_lowercase();
    lower.trim_start_matches("pg_catalog.").trim_matches('"').to_string()
}

/// What is changed in statements that ask the catalog.
struct OfCatalog<'a> {
    path: &'a [String],
}

impl VisitorMut for OfCatalog<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        let changed = match e {
            Expr::Subquery(query) => comment(query).or_else(|| is_empty(query).then(null)).or_else(|| {
                one_row(query);
                None
            }),
            Expr::Exists { subquery, negated } if is_empty(subquery) => Some(truth(*negated)),
            Expr::InSubquery { expr, subquery, negated } => match subquery {
                q if is_empty(q) => Some(truth(*negated)),
                // Grafana's list of the schemas of the search path, by hand.
                q if q.to_string().contains("current_setting('search_path')") => Some(Expr::InList {
                    expr: expr.clone(),
                    list: self.path.iter().map(|s| literal(s)).collect(),
                    negated: *negated,
                }),
                _ => None,
            },
            Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } => {
                by_name(left, right);
                by_name(right, left);
                by_function(left, right);
                by_function(right, left);
                None
            }
            Expr::Function(f) => match words(&f.name).last().map(String::as_str) {
                Some("json_build_object" | "generate_subscripts" | "pg_identify_object") => Some(null()),
                // Lists of what there is none of: roles of a policy, options of a table, members of a role.
                Some("array") if matches!(f.args, FunctionArguments::Subquery(_)) => Some(no_texts()),
                _ => None,
            },
            _ => None,
        };
        if let Some(changed) = changed {
            *e = changed;
        }
        ControlFlow::Continue(())
    }
}

fn literal(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_string()).with_empty_span())
}

/// `relnamespace = 'public'`: an oid compared with a name.
fn by_name(column: &Expr, value: &mut Expr) {
    let column = match column {
        Expr::Identifier(name) => name.value.to_lowercase(),
        Expr::CompoundIdentifier(names) => names.last().map(|n| n.value.to_lowercase()).unwrap_or_default(),
        _ => return,
    };
    let function = match column.as_str() {
        "relnamespace" | "typnamespace" | "pronamespace" => "to_regnamespace",
        "attrelid" | "objoid" | "indrelid" | "conrelid" | "oid" => "to_regclass",
        "atttypid" => "to_regtype",
        _ => return,
    };
    let Some(name) = text_of(value) else { return };
    *value = match name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() {
        true => Expr::Value(Value::Number(name.to_string(), false).with_empty_span()),
        false => call(function, vec![value.clone()]),
    };
}

/// `proc.oid = t.typreceive`: functions of types are known by their names.
fn by_function(function: &Expr, other: &mut Expr) {
    const OF_TYPES: [&str; 4] = ["typinput", "typoutput", "typreceive", "typsend"];
    if last_word(function).is_some_and(|w| OF_TYPES.contains(&w.as_str()))
        && let Expr::CompoundIdentifier(names) = other
        && let Some(last) = names.last_mut().filter(|n| n.value.eq_ignore_ascii_case("oid"))
    {
        *last = Ident::new("proname");
    }
}

/// A list of texts that is NULL.
fn no_texts() -> Expr {
    let data_type = DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None));
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(null()), data_type, array: false, format: None }
}

/// Lets a scalar subquery have one row in the eyes of the planner, where a key that it does not know sees to it.
fn one_row(query: &mut Query) {
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return;
    }
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if grouped || select.from.is_empty() || select.projection.iter().any(aggregates) {
        return;
    }
    if let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] =
        select.projection.as_mut_slice()
    {
        *item = call("max", vec![item.clone()]);
        query.order_by = None;
    }
}

/// `(SELECT d.description FROM pg_description d WHERE d.objoid = X AND d.objsubid = Y)` as a call.
fn comment(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [from] = select.from.as_slice() else { return None };
    let TableFactor::Table { name, .. } = &from.relation else { return None };
    if words(name).last().map(String::as_str) != Some("pg_description") || !from.joins.is_empty() {
        return None;
    }
    let (mut object, mut column) = (None, None);
    for term in terms(select.selection.as_ref()?) {
        let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = term else { continue };
        for (side, other) in [(left, right), (right, left)] {
            match last_word(side).as_deref() {
                Some("objoid") => object = Some(other.as_ref().clone()),
                Some("objsubid") => column = Some(other.as_ref().clone()),
                _ => {}
            }
        }
    }
    let column = column?;
    if column.to_string() == "0" {
        return Some(call("obj_description", vec![object?]));
    }
    Some(call("col_description", vec![object?, column]))
}

/// What `AND` joins.
fn terms(e: &Expr) -> Vec<&Expr> {
    match e {
        Expr::Nested(inner) => terms(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            terms(left).into_iter().chain(terms(right)).collect()
        }
        e => vec![e],
    }
}

fn unnested(e: &Expr) -> &Expr {
    match e {
        Expr::Nested(inner) => unnested(inner),
        e => e,
    }
}

fn last_word(e: &Expr) -> Option<String> {
    match e {
        Expr::Identifier(name) => Some(name.value.to_lowercase()),
        Expr::CompoundIdentifier(names) => names.last().map(|n| n.value.to_lowercase()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parse(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)
    }

    #[test]
    fn what_is_planned() {
        let cases = [
            // A user's statement keeps its correlated subqueries.
            (
                "SELECT (SELECT max(x) FROM u WHERE u.a = t.a) FROM t",
                "SELECT (SELECT max(x) FROM u WHERE u.a = t.a) FROM t",
            ),
            ("SELECT pg_catalog.lower(a) FROM t", "SELECT lower(a) FROM t"),
            ("SELECT current_user", "SELECT current_user()"),
            ("SELECT a FROM t WHERE b NOT LIKE 'x/_.%' ESCAPE '/'", "SELECT a FROM t WHERE ((b) !~ '^(?s:x_\\..*)$')"),
            ("SELECT a FROM t WHERE b LIKE 'x/_' || '%' ESCAPE '/'", "SELECT a FROM t WHERE ((b) ~ '^(?s:x_.*)$')"),
            ("SELECT a FROM t WHERE b LIKE c ESCAPE '/'", "SELECT a FROM t WHERE b LIKE replace(c, '/', '\\')"),
            ("SELECT a FROM t WHERE b LIKE 'x_%'", "SELECT a FROM t WHERE b LIKE 'x_%'"),
            ("SELECT a FROM t WHERE b = ANY(ARRAY[1, 2])", "SELECT a FROM t WHERE array_contains(ARRAY[1, 2], b)"),
            ("SELECT 'sweep.sim'::regclass", "SELECT to_regclass('sweep.sim')"),
            (
                "SELECT conname, conkey FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid",
                "SELECT CAST(NULL AS TEXT) AS \"conname\", CAST(NULL AS TEXT) AS \"conkey\" WHERE false",
            ),
            ("SELECT count(*) FROM pg_index", "SELECT count(*) FROM pg_catalog.pg_index"),
            (
                "SELECT c.relname FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid",
                "SELECT c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid",
            ),
            (
                "SELECT c.relname, (SELECT d.description FROM pg_description d WHERE d.objoid = c.oid AND d.objsubid = 0) AS x FROM pg_class c",
                "SELECT c.relname, obj_description(c.oid) AS x FROM pg_catalog.pg_class c",
            ),
            (
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'",
                "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace('public')",
            ),
            (
                "SELECT relname FROM pg_class c WHERE NOT EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhrelid = c.oid)",
                "SELECT relname FROM pg_catalog.pg_class c WHERE true",
            ),
        ];
        for (sql, expected) in cases {
            let planned = Compat::default().rewrite(parse(sql), &["public".to_string()]).to_string();
            // The crates write aliases of tables with AS or without.
            assert_eq!(planned.replace(" AS ", " "), expected.replace(" AS ", " "), "{sql}");
        }
    }
}
