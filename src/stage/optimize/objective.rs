//! What a search wants: SQL over the requests and the scenario of one trial, to one number.
//!
//! An expression is planned once. Columns of requests stand in aggregates (`quantile(ttft_ns, 0.99) / 1e6`), which see
//! those that are measured; columns of the scenario and its totals are constants of the trial (`gpus`, `ttft_ms_p99`).

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::utils::find_aggregate_exprs;
use datafusion::prelude::{DataFrame, Expr, SessionContext, lit};

use crate::diag::Diagnostic;
use crate::query::errors::Names;
use crate::spec::{Optimize, Text};
use crate::stage::simulate::filter::{leaves, session, sql_problem};
use crate::stage::simulate::settings::Setting;
use crate::table::simulation;

/// One objective of a search.
pub(super) struct Objective {
    pub name: String,
    pub maximize: bool,
    sql: Text,
    expr: Expr,
}

/// All objectives of a search, and the session that they are evaluated in.
pub(super) struct Judge {
    pub objectives: Vec<Objective>,
    /// Settings that objectives know; of the pools and classes, those that the space names.
    pub settings: Vec<Setting>,
    ctx: SessionContext,
}

impl Judge {
    /// The columns of a trial's scenario: its settings, and the totals.
    pub fn scenario_schema(&self) -> SchemaRef {
        let mut fields: Vec<_> = self.settings.iter().filter_map(|s| s.field()).collect();
        fields.extend(simulation::totals());
        Arc::new(Schema::new(fields))
    }

    /// Plans every objective.
    ///
    /// # Errors
    /// Every mistake, at its place in the SQL.
    pub fn new(spec: &Optimize) -> Result<Judge, Vec<Diagnostic>> {
        let (ctx, names) = session().map_err(|d| vec![d])?;
        let settings = leaves(&[], spec.space.keys().map(|path| path.value.as_str()));
        let mut judge = Judge { objectives: Vec::new(), settings, ctx };
        let mut problems = check_names(spec);
        let minimize = spec.minimize.iter().map(|(name, sql)| (name, sql, false));
        for (name, sql, maximize) in minimize.chain(spec.maximize.iter().map(|(name, sql)| (name, sql, true))) {
            match judge.plan(sql, &names) {
                Ok(expr) => {
                    judge.objectives.push(Objective { name: name.clone(), maximize, sql: sql.clone(), expr });
                }
                Err(d) => problems.push(d),
            }
        }
        if problems.is_empty() { Ok(judge) } else { Err(problems) }
    }

    fn plan(&self, sql: &Text, names: &Names) -> Result<Expr, Diagnostic> {
        let wrong = |e: &DataFusionError| sql_problem(e, sql, names);
        // Some names are columns of both: a request's tokens, and their total. The request's win.
        let requests = simulation::requests();
        let mut fields: Vec<_> = requests.fields().iter().cloned().collect();
        let scenario = self.scenario_schema();
        fields.extend(scenario.fields().iter().filter(|f| requests.field_with_name(f.name()).is_err()).cloned());
        let schema = DFSchema::try_from(Schema::new(fields)).map_err(|e| wrong(&e))?;
        let expr = self.ctx.parse_sql_expr(&sql.value, &schema).map_err(|e| wrong(&e))?.unalias();
        // Planning against no rows finds what is left: types, and columns outside of aggregates.
        let nulls: Vec<_> = scenario.fields().iter().map(|f| arrow::array::new_null_array(f.data_type(), 1)).collect();
        let nullable = scenario.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let row = RecordBatch::try_new(Arc::new(Schema::new(nullable)), nulls).map_err(|e| wrong(&e.into()))?;
        let frame = self.frame(&expr, Vec::new(), &row).map_err(|problem| match problem {
            Unplanned::Outside(column) => Diagnostic::new(
                "optimize::objective",
                format!("`{column}` has a value for every request; an objective is one number"),
            )
            .at(sql.at.clone())
            .help(format!("put it into an aggregate, e.g. `quantile({column}, 0.99)`")),
            Unplanned::Sql(e) => wrong(&e),
        })?;
        let kind = frame.schema().field(0).data_type().clone();
        if !(kind.is_numeric() || kind.is_null()) {
            let message = format!("the objective gives {kind}, not a number");
            return Err(Diagnostic::new("optimize::objective", message).at(sql.at.clone()));
        }
        Ok(expr)
    }

    /// The query for one trial: aggregates over its requests, with the columns of its scenario as constants.
    fn frame(&self, expr: &Expr, rows: Vec<RecordBatch>, scenario: &RecordBatch) -> Result<DataFrame, Unplanned> {
        let requests = simulation::requests();
        let constant = expr.clone().transform_up(|e| constant(e, &requests, scenario))?.data;
        let found = find_aggregate_exprs(std::slice::from_ref(&constant));
        let name = |i: usize| format!("__aggregate_{i}");
        let rewritten = constant
            .transform_down(|e| match found.iter().position(|a| *a == e) {
                Some(i) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name(i))))),
                None => Ok(Transformed::no(e)),
            })?
            .data;
        let made: BTreeSet<String> = (0..found.len()).map(name).collect();
        let mut used: Vec<&Column> = rewritten.column_refs().into_iter().filter(|c| !made.contains(&c.name)).collect();
        used.sort();
        if let Some(column) = used.first() {
            return Err(Unplanned::Outside(column.name.clone()));
        }
        // An aggregation needs an aggregate, also where the objective is a constant of the trial.
        let mut aggregates: Vec<Expr> = found.into_iter().enumerate().map(|(i, a)| a.alias(name(i))).collect();
        aggregates.push(count(lit(1)).alias("__requests"));
        let table = MemTable::try_new(requests, vec![rows])?;
        let frame = self.ctx.read_table(Arc::new(table))?.aggregate(Vec::new(), aggregates)?;
        Ok(frame.select(vec![rewritten.alias("objective")])?)
    }

    /// The objectives of a trial, as written (not negated). `None` where one of them is null or no finite number: the
    /// trial failed.
    ///
    /// # Errors
    /// An expression that fails on these rows.
    pub async fn evaluate(&self, rows: &[RecordBatch], scenario: &RecordBatch) -> Result<Option<Vec<f64>>, Diagnostic> {
        let mut values = Vec::new();
        for objective in &self.objectives {
            let wrong = |e: &DataFusionError| sql_problem(e, &objective.sql, &Names::default());
            let frame = self.frame(&objective.expr, rows.to_vec(), scenario).map_err(|problem| match problem {
                Unplanned::Sql(e) => wrong(&e),
                Unplanned::Outside(column) => {
                    Diagnostic::new("optimize::objective", format!("`{column}` is no constant"))
                }
            })?;
            let result = frame.collect().await.map_err(|e| wrong(&e))?;
            let value = result.iter().find(|b| b.num_rows() > 0).and_then(|b| number(b.column(0)));
            match value.filter(|v| v.is_finite()) {
                Some(value) => values.push(value),
                None => return Ok(None),
            }
        }
        Ok(Some(values))
    }
}

/// Why an objective has no plan.
enum Unplanned {
    /// This column of the requests stands outside of an aggregate.
    Outside(String),
    Sql(DataFusionError),
}

impl From<DataFusionError> for Unplanned {
    fn from(e: DataFusionError) -> Self {
        Unplanned::Sql(e)
    }
}

/// A column of the scenario becomes its value.
fn constant(e: Expr, requests: &Schema, scenario: &RecordBatch) -> datafusion::error::Result<Transformed<Expr>> {
    match &e {
        Expr::Column(column) if requests.field_with_name(&column.name).is_err() => {
            match scenario.column_by_name(&column.name) {
                Some(values) => Ok(Transformed::yes(lit(ScalarValue::try_from_array(values, 0)?))),
                None => Ok(Transformed::no(e)),
            }
        }
        _ => Ok(Transformed::no(e)),
    }
}

fn number(values: &dyn Array) -> Option<f64> {
    let values = cast(values, &DataType::Float64).ok()?;
    let values = values.as_primitive_opt::<Float64Type>()?;
    (!values.is_empty() && !values.is_null(0)).then(|| values.value(0))
}

/// Names of objectives become columns: letters, digits and underscores, each once, none that the tables have already.
fn check_names(spec: &Optimize) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    if spec.minimize.is_empty() && spec.maximize.is_empty() {
        problems.push(
            Diagnostic::new("optimize::objective", "there is nothing to optimize")
                .at(spec.over.0.at.clone())
                .help("for example `minimize: { ttft_ms_p99: \"quantile(ttft_ns, 0.99) / 1e6\" }`"),
        );
    }
    let mut taken: BTreeSet<String> = ["trial", "scenario", "feasible", "on_front"].map(String::from).into();
    taken.extend(spec.space.keys().map(|p| crate::stage::simulate::settings::column_name(&p.value)));
    for (name, sql) in spec.minimize.iter().chain(&spec.maximize) {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && name.starts_with(|c: char| c.is_ascii_lowercase());
        if !plain {
            let message = format!("`{name}` cannot be a column: use a-z, 0-9 and `_`, beginning with a letter");
            problems.push(Diagnostic::new("optimize::objective", message).at(sql.at.clone()));
        }
        if !taken.insert(name.clone()) {
            let message = format!("the tables of the search have a column `{name}` already");
            problems.push(Diagnostic::new("optimize::objective", message).at(sql.at.clone()));
        }
    }
    problems
}
