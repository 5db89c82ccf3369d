//! Statements as PostgreSQL's clients write them, in the SQL that DataFusion plans.
//!
//! Statements over tables that are served are changed as little as names and operators need. Those that ask the catalog, which
//! tools send by the dozen, are changed further: what asks tables that never have a row here (keys, indexes, triggers) is
//! the empty answer that it would be, comments are looked up by functions in place of correlated subqueries.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, SetExpr, Statement, TableFactor, UnaryOperator, Value, Visit, VisitMut, Visitor, VisitorMut,
    visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_postgres::datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use datafusion_postgres::datafusion_pg_catalog::sql::rules::{
    FixArrayLiteral, RewriteArrayAnyAllOperation, RewritePgCatalogOperator, SqlStatementRewriteRule,
    StripCallableQualifier, StripCollate,
};

use super::catalog::{INFORMATION_SCHEMA, PG_CATALOG, WITHOUT_ROWS, is_without_rows};
use super::names;

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

/// What is changed in every statement.
struct Always;

impl VisitorMut for Always {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        match e {
            Expr::Like { .. } | Expr::ILike { .. } => match escaped(e) {
                Some(regex) => *e = regex,
                None => with_backslash(e),
            },
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
                if let Some(cast) = of_object(expr, data_type) {
                    *e = cast;
                }
            }
            Expr::Identifier(name)
                if name.quote_style.is_none()
                    && ["current_schema", "session_user"].contains(&name.value.to_lowercase().as_str()) =>
            {
                *e = call(&name.value.to_lowercase(), Vec::new());
            }
            Expr::Function(f) if matches!(f.args, FunctionArguments::None) => {
                // `current_user` and the like, without parentheses.
                if let [name] = words(&f.name).as_slice()
                    && ["current_user", "session_user", "user", "current_role", "current_catalog", "current_schema"]
                        .contains(&name.as_str())
                {
                    *e = call(name, Vec::new());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// `LIKE` with a pattern that escapes signs, as a regular expression: DataFusion loses the escapes where it makes a test of
/// the beginning of it.
fn escaped(e: &Expr) -> Option<Expr> {
    let (Expr::Like { negated, any: false, expr, pattern, escape_char }
    | Expr::ILike { negated, any: false, expr, pattern, escape_char }) = e
    else {
        return None;
    };
    let sign = match escape_char.as_ref().map(|v| &v.value) {
        None => Some('\\'),
        Some(Value::SingleQuotedString(sign)) => sign.chars().next(),
        Some(_) => None,
    };
    let pattern = constant(pattern)?;
    if escape_char.is_none() && !pattern.contains('\\') {
        return None;
    }
    let mut regex = String::from("^(?s:");
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == sign => regex += &regex::escape(&chars.next().unwrap_or(c).to_string()),
            '%' => regex += ".*",
            '_' => regex.push('.'),
            c => regex += &regex::escape(&c.to_string()),
        }
    }
    regex += ")$";
    let op = match (e, negated) {
        (Expr::Like { .. }, false) => BinaryOperator::PGRegexMatch,
        (Expr::Like { .. }, true) => BinaryOperator::PGRegexNotMatch,
        (_, false) => BinaryOperator::PGRegexIMatch,
        (_, true) => BinaryOperator::PGRegexNotIMatch,
    };
    let (left, right) = (Box::new(Expr::Nested(expr.clone())), Box::new(literal(&regex)));
    Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op, right })))
}

/// The text that an expression of literals is.
fn constant(e: &Expr) -> Option<String> {
    match e {
        Expr::Nested(inner) => constant(inner),
        Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } => Some(constant(left)? + &constant(right)?),
        e => text_of(e).map(str::to_string),
    }
}

/// Escapes of a pattern that only the rows tell, as DataFusion's: with a backslash.
fn with_backslash(e: &mut Expr) {
    if let Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } = e
        && let Some(Value::SingleQuotedString(sign)) = escape_char.take().map(|v| v.value)
        && !sign.is_empty()
        && sign != "\\"
    {
        **pattern = call("replace", vec![pattern.as_ref().clone(), literal(&sign), literal("\\")]);
    }
}

/// Casts between names and oids of objects.
fn of_object(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let kind = type_name(data_type);
    if ["regclass", "regnamespace", "regtype", "regproc", "regprocedure", "regrole"].contains(&kind.as_str()) {
        let name = text_of(expr)?;
        if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() {
            return Some(Expr::Value(Value::Number(name.to_string(), false).with_empty_span()));
        }
        if kind.starts_with("regproc") {
            // Functions are known by their names in the tables of the catalog.
            return Some(literal(name.rsplit('.').next().unwrap_or(name)));
        }
        return Some(call(&format!("to_{kind}"), vec![expr.clone()]));
    }
    if ["text", "varchar", "name", "character varying"].contains(&kind.as_str())
        && let Expr::Cast { expr: inner, data_type: of, .. } = unnested(expr)
        && text_of(inner).is_none()
    {
        let name = match type_name(of).as_str() {
            "regclass" => "pg_name_of_class",
            "regnamespace" => "pg_name_of_namespace",
            "regtype" => "pg_name_of_type",
            _ => return None,
        };
        return Some(call(name, vec![inner.as_ref().clone()]));
    }
    None
}

fn unnested(e: &Expr) -> &Expr {
    match e {
        Expr::Nested(inner) => unnested(inner),
        e => e,
    }
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
            // `d.classoid = 'pg_class'::regclass`, where the name is all that matters.
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

fn last_word(e: &Expr) -> Option<String> {
    match e {
        Expr::Identifier(name) => Some(name.value.to_lowercase()),
        Expr::CompoundIdentifier(names) => names.last().map(|n| n.value.to_lowercase()),
        _ => None,
    }
}

/// Whether a query over the catalog has no row, whatever is served.
fn is_empty(query: &Query) -> bool {
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
    let inner =
        |j: &JoinOperator| matches!(j, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_));
    let of_tables = select.from.iter().any(|from| {
        let outer = from.joins.iter().any(|j| {
            matches!(j.join_operator, JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_))
        });
        let joined = from.joins.iter().any(|j| inner(&j.join_operator) && factor_is_empty(&j.relation, known));
        !outer && (factor_is_empty(&from.relation, known) || joined)
    });
    of_tables || select.selection.as_ref().is_some_and(|e| terms(e).iter().any(|t| is_false(t)))
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
        TableFactor::NestedJoin { table_with_joins, .. } => factor_is_empty(&table_with_joins.relation, known),
        _ => false,
    }
}

/// Whether an item makes one row of many, or of none.
fn aggregates(item: &SelectItem) -> bool {
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
fn empty_out(query: &mut Query) {
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
