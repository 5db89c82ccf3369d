//! Tables and views of a project as statements for DuckDB.
//!
//! Promises: a view is given only where DuckDB gives the same rows. So it may call functions that both have with one
//! meaning, and divide where the result is no whole number; DuckDB's `quantile`, for one, does not interpolate. Where
//! nothing says where NULL is sorted, the view for DuckDB says it. Left out: translating the others.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, Operator, TryCast};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArgumentClause, FunctionArguments, Ident, NamedWindowDefinition, NamedWindowExpr,
    ObjectName, ObjectNamePart, OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Query, Select, TableFactor,
    VisitMut, VisitorMut, WindowType,
};

use super::errors::running;
use super::sql::{literal, quoted, reads};
use super::{Engine, session, views};
use crate::diag::Result;

/// Functions, also over windows, that both have with the same meaning; `ms` and `s` are macros of the script.
const SAME: [&str; 34] = [
    "abs",
    "avg",
    "bool_and",
    "bool_or",
    "ceil",
    "coalesce",
    "concat",
    "count",
    "dense_rank",
    "exp",
    "first_value",
    "floor",
    "greatest",
    "lag",
    "last_value",
    "lead",
    "least",
    "ln",
    "lower",
    "max",
    "min",
    "ms",
    "nullif",
    "ntile",
    "power",
    "rank",
    "round",
    "row_number",
    "s",
    "sqrt",
    "sum",
    "trim",
    "trunc",
    "upper",
];

/// A view over the files of a table.
pub fn table(pipeline: &str, table: &str, files: &Path) -> String {
    format!(
        "CREATE OR REPLACE VIEW {}.{} AS SELECT * FROM read_parquet({});\n",
        quoted(pipeline),
        quoted(table),
        literal(&pattern(files))
    )
}

/// The project's views in one pipeline, those that can be; the others as comments.
///
/// # Errors
/// View files that cannot be read.
pub async fn views(engine: &Engine, project: &Path, pipeline: &str) -> Result<String> {
    let mut out = String::new();
    let mut made: BTreeSet<String> = BTreeSet::new();
    let mut waiting = Vec::new();
    let mut names = BTreeSet::new();
    for file in views::files(project)? {
        let status = engine.views().iter().find(|v| v.pipeline == pipeline && v.name == file.name);
        let available = status.is_some_and(|v| v.unavailable.is_none());
        names.insert(file.name.clone());
        if available && let Some(query) = views::query(&file) {
            waiting.push((file.name, query));
        }
    }
    let mut left = Vec::new();
    // Views that others read come first.
    loop {
        let (before, mut still) = (waiting.len(), Vec::new());
        for (name, query) in waiting {
            let reads: Vec<String> = reads(&query).into_iter().map(|(table, _)| table).collect();
            if reads.iter().any(|table| names.contains(table) && !made.contains(table)) {
                still.push((name, query));
                continue;
            }
            match strange(engine, pipeline, &name).await? {
                Some(why) => left.push((name, why)),
                None => {
                    out += &format!(
                        "CREATE OR REPLACE VIEW {}.{} AS {};\n",
                        quoted(pipeline),
                        quoted(&name),
                        within(&query, pipeline)
                    );
                    made.insert(name);
                }
            }
        }
        waiting = still;
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    left.extend(waiting.into_iter().map(|(name, _)| (name, "it reads a view that is left out".to_string())));
    left.sort();
    for (name, why) in left {
        out += &format!("-- left out: {pipeline}.{name}, because {why}; `pipe sql` has it\n");
    }
    Ok(out)
}

/// Why DuckDB would not give the rows of a view.
async fn strange(engine: &Engine, pipeline: &str, view: &str) -> Result<Option<String>> {
    let schema = session::schema(engine.context(), pipeline)?;
    let Some(table) = schema.table(view).await.map_err(|e| running(&e))? else {
        return Ok(Some("it cannot be read".to_string()));
    };
    let Some(plan) = table.get_logical_plan() else { return Ok(None) };
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        found = found.take().or_else(|| strange_node(node));
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|e| running(&e))?;
    Ok(found)
}

fn strange_node(node: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let schemas = node.inputs();
    let is = |e: &Expr, kind: fn(&DataType) -> bool| {
        schemas.iter().any(|input| e.get_type(input.schema()).is_ok_and(|found| kind(&found)))
    };
    let whole = |e: &Expr| is(e, DataType::is_integer);
    let fraction = |e: &Expr| is(e, |kind| kind.is_floating() || kind.is_decimal());
    let mut look = |e: &Expr| {
        let function = match e {
            Expr::ScalarFunction(f) => Some(f.name().to_string()),
            Expr::AggregateFunction(f) => Some(f.func.name().to_string()),
            Expr::WindowFunction(f) => Some(f.fun.name().to_string()),
            Expr::BinaryExpr(b) if b.op == Operator::Divide && whole(&b.left) && whole(&b.right) => {
                found = Some("it divides whole numbers, which DuckDB does with fractions".to_string());
                None
            }
            Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })
                if field.data_type().is_integer() && fraction(expr) =>
            {
                found = Some("it cuts fractions to whole numbers, which DuckDB rounds".to_string());
                None
            }
            _ => None,
        };
        if let Some(name) = function.filter(|name| !SAME.contains(&name.as_str())) {
            found = Some(format!("DuckDB has no `{name}` with the same meaning"));
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    };
    // Expressions are small; an error of walking would be one of ours above.
    let _ = node.apply_expressions(|e| e.apply(&mut look));
    found
}

/// The query with the tables that it reads as those of a pipeline.
fn within(query: &Query, pipeline: &str) -> String {
    let tables = reads(query).into_iter().map(|(name, _)| name).filter(|name| !name.contains('.')).collect();
    let mut query = query.clone();
    let _ = query.visit(&mut Qualify { pipeline, tables });
    query.to_string()
}

struct Qualify<'a> {
    pipeline: &'a str,
    tables: BTreeSet<String>,
}

impl VisitorMut for Qualify<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor
            && let [ObjectNamePart::Identifier(ident)] = name.0.as_slice()
        {
            let plain = if ident.quote_style.is_none() { ident.value.to_lowercase() } else { ident.value.clone() };
            if self.tables.contains(&plain) {
                let part = |text: &str| ObjectNamePart::Identifier(Ident::with_quote('"', text));
                *name = ObjectName(vec![part(self.pipeline), part(&plain)]);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(OrderBy { kind, .. }) = &mut query.order_by {
            match kind {
                OrderByKind::All(options) => spell(options),
                OrderByKind::Expressions(keys) => spell_all(keys),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for NamedWindowDefinition(_, window) in &mut select.named_window {
            if let NamedWindowExpr::WindowSpec(window) = window {
                spell_all(&mut window.order_by);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        if let SqlExpr::Function(function) = expr {
            if let Some(WindowType::WindowSpec(window)) = &mut function.over {
                spell_all(&mut window.order_by);
            }
            if let FunctionArguments::List(list) = &mut function.args {
                for clause in &mut list.clauses {
                    if let FunctionArgumentClause::OrderBy(keys) = clause {
                        spell_all(keys);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn spell_all(keys: &mut [OrderByExpr]) {
    keys.iter_mut().for_each(|key| spell(&mut key.options));
}

/// Says where NULL is where DuckDB would have it at the other end: downwards, it is first here and last there.
fn spell(options: &mut OrderByOptions) {
    if options.asc == Some(false) && options.nulls_first.is_none() {
        options.nulls_first = Some(true);
    }
}

/// A pattern for the files, whose folder's name may have characters of patterns.
fn pattern(files: &Path) -> String {
    let (folder, name) = (files.parent().unwrap_or(files), files.file_name().unwrap_or_default());
    let escaped: String = folder
        .to_string_lossy()
        .chars()
        .map(|c| if matches!(c, '[' | '*' | '?') { format!("[{c}]") } else { c.to_string() })
        .collect();
    format!("{escaped}/{}", name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::views::{ViewFile, query};

    #[test]
    fn where_null_is_sorted_is_said() {
        let written = |sql: &str| {
            let file = ViewFile { name: "v".to_string(), sql: sql.to_string(), file: "v.sql".into() };
            within(&query(&file).unwrap(), "p")
        };
        let cases = [
            ("SELECT x FROM t ORDER BY x, y DESC", "SELECT x FROM \"p\".\"t\" ORDER BY x, y DESC NULLS FIRST"),
            ("SELECT x FROM t ORDER BY y DESC NULLS LAST", "SELECT x FROM \"p\".\"t\" ORDER BY y DESC NULLS LAST"),
            (
                "SELECT row_number() OVER (ORDER BY x DESC) FROM t",
                "SELECT row_number() OVER (ORDER BY x DESC NULLS FIRST) FROM \"p\".\"t\"",
            ),
            (
                "SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY x DESC)",
                "SELECT rank() OVER w FROM \"p\".\"t\" WINDOW w AS (ORDER BY x DESC NULLS FIRST)",
            ),
            (
                "SELECT first_value(x ORDER BY y DESC) FROM t",
                "SELECT first_value(x ORDER BY y DESC NULLS FIRST) FROM \"p\".\"t\"",
            ),
        ];
        for (sql, expect) in cases {
            assert_eq!(written(sql), expect);
        }
    }
}
