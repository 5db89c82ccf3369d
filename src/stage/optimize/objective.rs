//! What a search wants: SQL over the requests and the scenario of one trial, to one number each.
//!
//! Everything is planned once. Columns of requests stand in aggregates (`quantile(ttft_ns, 0.99) / 1e6`), which see
//! those that are measured; columns of the scenario and its totals are constants of the trial (`gpus`, `ttft_ms_p99`).
//! Per trial the aggregates are run over its rows, which the plan finds in its task, and then one row is calculated
//! with: no query is planned while a search runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::utils::find_aggregate_exprs;
use datafusion::logical_expr::{BinaryExpr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{Expr, SessionConfig, SessionContext, lit};

use super::rules::{Condition, conditions};
use super::space;
use crate::diag::Diagnostic;
use crate::query::errors::Names;
use crate::spec::{Optimize, Text};
use crate::stage::simulate::filter::{session, sql_problem};
use crate::stage::simulate::settings::column_name;
use crate::table::simulation;

/// How far a condition is missed that has no measure, or misses by nothing.
const MISSED: f64 = 1.0;
/// The least by which a condition that is not met is missed: `<` at equality.
const LEAST: f64 = 1e-12;

/// One objective of a search.
pub(super) struct Objective {
    pub name: String,
    pub maximize: bool,
    pub sql: Text,
    value: Arc<dyn PhysicalExpr>,
}

impl Objective {
    /// A value of it, so that smaller is better.
    pub fn minimized(&self, value: f64) -> f64 {
        if self.maximize { -value } else { value }
    }
}

/// A condition on what came out.
pub(super) struct Constraint {
    pub condition: Condition,
    holds: Arc<dyn PhysicalExpr>,
    /// Above 0 where it does not hold; `None` where there is no measure of that.
    missed_by: Option<Arc<dyn PhysicalExpr>>,
}

/// What came out of a trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figures {
    /// One per objective, as written (not negated); `None` where it is NULL or no finite number.
    pub objectives: Vec<Option<f64>>,
    /// One per condition: 0 or below where it is met, else by how much it is missed, as a share of its bound where that is a
    /// number other than 0.
    pub constraints: Vec<f64>,
}

/// All objectives and conditions of a search.
pub(super) struct Judge {
    pub objectives: Vec<Objective>,
    pub constraints: Vec<Constraint>,
    /// Columns of a trial's scenario.
    scenario: SchemaRef,
    /// The results of the aggregates, then the columns of the scenario.
    row: SchemaRef,
    aggregates: Option<Aggregates>,
}

/// Aggregates over the rows of a trial.
struct Aggregates {
    plan: Arc<dyn ExecutionPlan>,
    /// What the plan reads: columns of the requests, and columns of the scenario, repeated.
    input: SchemaRef,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
}

/// The rows of one trial, where the plan finds them.
struct Rows(RecordBatch);

/// The leaf of the plan: the rows in its task.
#[derive(Debug)]
struct Leaf(SchemaRef);

impl PartitionStream for Leaf {
    fn schema(&self) -> &SchemaRef {
        &self.0
    }

    fn execute(&self, ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = ctx.session_config().get_extension::<Rows>();
        let rows = rows.map_or_else(|| RecordBatch::new_empty(self.0.clone()), |rows| rows.0.clone());
        match MemoryStream::try_new(vec![rows], self.0.clone(), None) {
            Ok(stream) => Box::pin(stream),
            // Rows are made with this schema.
            Err(e) => Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(
                self.0.clone(),
                futures::stream::once(async move { Err(e) }),
            )),
        }
    }
}

/// What expressions may name.
struct Known {
    requests: SchemaRef,
    scenario: SchemaRef,
    ctx: SessionContext,
    names: Names,
}

impl Known {
    /// Some names are columns of both: a request's tokens, and their total. The request's win.
    fn schema(&self, more: impl IntoIterator<Item = Field>) -> Result<DFSchema, DataFusionError> {
        let mut fields: Vec<Arc<Field>> = self.requests.fields().iter().cloned().collect();
        let of_scenario = self.scenario.fields().iter();
        fields.extend(of_scenario.filter(|f| self.requests.field_with_name(f.name()).is_err()).cloned());
        fields.extend(more.into_iter().map(Arc::new));
        DFSchema::try_from(Schema::new(fields))
    }

    fn parse(&self, sql: &Text, more: Vec<Field>) -> Result<Expr, Diagnostic> {
        let wrong = |e: &DataFusionError| sql_problem(e, sql, &self.names);
        let schema = self.schema(more).map_err(|e| wrong(&e))?;
        Ok(self.ctx.parse_sql_expr(&sql.value, &schema).map_err(|e| wrong(&e))?.unalias())
    }
}

impl Judge {
    /// Plans every objective and every condition. `requests` are the columns of a request, if there are any, `scenario` those
    /// of a trial's scenario.
    ///
    /// # Errors
    /// Every mistake, at its place in the SQL.
    pub fn new(spec: &Optimize, requests: Option<SchemaRef>, scenario: SchemaRef) -> Result<Judge, Vec<Diagnostic>> {
        let mut problems = check_names(spec);
        let (ctx, names) = session().map_err(|d| vec![d])?;
        let requests = requests.unwrap_or_else(|| Arc::new(Schema::empty()));
        let known = Known { requests, scenario, ctx, names };
        let minimize = spec.minimize.iter().map(|(name, sql)| (name, sql, false));
        let wanted: Vec<(&String, &Text, bool)> =
            minimize.chain(spec.maximize.iter().map(|(name, sql)| (name, sql, true))).collect();
        let mut parsed: Vec<(Text, Expr)> = Vec::new();
        for (_, sql, _) in &wanted {
            match known.parse(sql, Vec::new()) {
                Ok(expr) => parsed.push(((*sql).clone(), expr)),
                Err(d) => problems.push(d),
            }
        }
        let subject_to = conditions(spec.subject_to.as_ref(), "subject_to").unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        let objectives: Vec<(String, Expr)> =
            wanted.iter().zip(&parsed).map(|((name, ..), (_, expr))| ((*name).clone(), expr.clone())).collect();
        for condition in &subject_to {
            if !problems.is_empty() {
                break;
            }
            let fields = objectives.iter().filter(|(name, _)| known.requests.field_with_name(name).is_err());
            let fields = fields.filter(|(name, _)| known.scenario.field_with_name(name).is_err());
            let fields = fields.map(|(name, _)| Field::new(name, DataType::Float64, true)).collect();
            match known.parse(&condition.sql, fields).and_then(|e| named(e, &objectives, &condition.sql)) {
                Ok(expr) => parsed.push((condition.sql.clone(), expr)),
                Err(d) => problems.push(d),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let judge = Judge::planned(&known, &wanted, subject_to, &parsed);
        judge.map_err(|d| vec![d])
    }

    fn planned(
        known: &Known,
        wanted: &[(&String, &Text, bool)],
        subject_to: Vec<Condition>,
        parsed: &[(Text, Expr)],
    ) -> Result<Judge, Diagnostic> {
        let exprs: Vec<Expr> = parsed.iter().map(|(_, expr)| expr.clone()).collect();
        let found = find_aggregate_exprs(&exprs);
        let at_fault = |e: &DataFusionError| {
            // Which of them it was: the first that has no plan on its own.
            let own = |(sql, expr): &&(Text, Expr)| {
                let aggregates = find_aggregate_exprs(std::slice::from_ref(expr));
                Aggregates::new(known, aggregates).err().map(|e| sql_problem(&e, sql, &known.names))
            };
            let first = parsed.first().map(|(sql, _)| sql.clone()).unwrap_or(Text::new(String::new(), None));
            parsed.iter().find_map(|p| own(&p)).unwrap_or_else(|| sql_problem(e, &first, &known.names))
        };
        let aggregates = Aggregates::new(known, found.clone()).map_err(|e| at_fault(&e))?;
        let mut fields: Vec<Arc<Field>> = Vec::new();
        if let Some(aggregates) = &aggregates {
            fields.extend(aggregates.plan.schema().fields().iter().cloned());
        }
        fields.extend(known.scenario.fields().iter().cloned());
        let row: SchemaRef = Arc::new(Schema::new(fields));
        let df_row = DFSchema::try_from(row.clone()).map_err(|e| at_fault(&e))?;
        // The expression over one row: what was aggregated, and the scenario.
        let compile = |sql: &Text, expr: &Expr| -> Result<(Arc<dyn PhysicalExpr>, DataType), Diagnostic> {
            let wrong = |e: &DataFusionError| sql_problem(e, sql, &known.names);
            let rewritten = over_row(expr, &found).map_err(|e| wrong(&e))?;
            let mut outside: Vec<&Column> = rewritten.column_refs().into_iter().collect();
            outside.retain(|c| known.requests.field_with_name(&c.name).is_ok());
            outside.sort();
            if let Some(column) = outside.first() {
                let name = &column.name;
                let message = format!("`{name}` has a value for every request; an objective is one number");
                return Err(Diagnostic::new("optimize::objective", message)
                    .at(sql.at.clone())
                    .help(format!("put it into an aggregate, e.g. `quantile({name}, 0.99)`")));
            }
            let physical = known.ctx.create_physical_expr(rewritten, &df_row).map_err(|e| wrong(&e))?;
            let kind = physical.data_type(&row).map_err(|e| wrong(&e))?;
            Ok((physical, kind))
        };
        let mut objectives = Vec::new();
        for ((name, sql, maximize), (_, expr)) in wanted.iter().zip(parsed) {
            let (value, kind) = compile(sql, expr)?;
            if !(kind.is_numeric() || kind.is_null()) {
                let message = format!("the objective gives {kind}, not a number");
                return Err(Diagnostic::new("optimize::objective", message).at(sql.at.clone()));
            }
            objectives.push(Objective { name: (*name).clone(), maximize: *maximize, sql: (*sql).clone(), value });
        }
        let mut constraints = Vec::new();
        for (condition, (sql, expr)) in subject_to.into_iter().zip(&parsed[wanted.len()..]) {
            let (holds, kind) = compile(sql, expr)?;
            if !matches!(kind, DataType::Boolean | DataType::Null) {
                let message = format!("the condition gives {kind}, not true or false");
                return Err(Diagnostic::new("sql::type", message).at(sql.at.clone()));
            }
            // Where the sides are no numbers there is no measure, and that is no mistake.
            let missed_by = missed(expr).and_then(|e| compile(sql, &e).ok());
            let missed_by = missed_by.filter(|(_, kind)| kind.is_numeric()).map(|(e, _)| e);
            constraints.push(Constraint { condition, holds, missed_by });
        }
        Ok(Judge { objectives, constraints, scenario: known.scenario.clone(), row, aggregates })
    }

    /// Whether the requests of a trial are looked at.
    pub fn reads_requests(&self) -> bool {
        self.aggregates.is_some()
    }

    /// Columns of a trial's scenario.
    pub fn scenario_schema(&self) -> &SchemaRef {
        &self.scenario
    }

    /// What came out of a trial: of its requests, which are not needed where none are read, and its scenario, in one row.
    ///
    /// # Errors
    /// An expression that fails on these rows.
    pub async fn evaluate(&self, rows: &[RecordBatch], scenario: &RecordBatch) -> Result<Figures, Diagnostic> {
        let nowhere = Text::new(String::new(), None);
        let first = self.objectives.first().map_or(&nowhere, |o| &o.sql);
        let wrong = |e: &DataFusionError, sql: &Text| sql_problem(e, sql, &Names::default());
        let mut columns: Vec<ArrayRef> = Vec::new();
        if let Some(aggregates) = &self.aggregates {
            columns.extend(aggregates.run(rows, scenario).await.map_err(|e| wrong(&e, first))?);
        }
        columns.extend(scenario.columns().iter().cloned());
        let row = RecordBatch::try_new(self.row.clone(), columns).map_err(|e| wrong(&e.into(), first))?;
        let number = |expr: &Arc<dyn PhysicalExpr>, sql: &Text| -> Result<Option<f64>, Diagnostic> {
            let value = expr.evaluate(&row).and_then(|v| v.into_array(1)).map_err(|e| wrong(&e, sql))?;
            Ok(number(&value).filter(|v| v.is_finite()))
        };
        let objectives =
            self.objectives.iter().map(|o| number(&o.value, &o.sql)).collect::<Result<Vec<_>, Diagnostic>>()?;
        let mut constraints = Vec::new();
        for constraint in &self.constraints {
            let sql = &constraint.condition.sql;
            let value = constraint.holds.evaluate(&row).and_then(|v| v.into_array(1)).map_err(|e| wrong(&e, sql))?;
            let holds = value.as_boolean_opt().is_some_and(|v| !v.is_null(0) && v.value(0));
            let by = constraint.missed_by.as_ref().map(|e| number(e, sql)).transpose()?.flatten();
            constraints.push(match (holds, by) {
                (true, Some(by)) => by.min(0.0),
                (true, None) => 0.0,
                (false, Some(by)) => by.max(LEAST),
                (false, None) => MISSED,
            });
        }
        Ok(Figures { objectives, constraints })
    }
}

impl Aggregates {
    /// `None` where there is nothing to aggregate.
    fn new(known: &Known, found: Vec<Expr>) -> Result<Option<Aggregates>, DataFusionError> {
        if found.is_empty() {
            return Ok(None);
        }
        let used: BTreeSet<String> =
            found.iter().flat_map(Expr::column_refs).map(|column| column.name.clone()).collect();
        let of = |schema: &SchemaRef, name: &String| schema.field_with_name(name).ok().cloned();
        let mut fields: Vec<Field> =
            used.iter().filter_map(|name| of(&known.requests, name).or_else(|| of(&known.scenario, name))).collect();
        if fields.is_empty() {
            // `count(*)` has rows to count, but no column.
            fields.extend(known.requests.fields().first().map(|f| f.as_ref().clone()));
        }
        let input: SchemaRef = Arc::new(Schema::new(fields));
        let table = StreamingTable::try_new(input.clone(), vec![Arc::new(Leaf(input.clone()))])?;
        let mut aggregates: Vec<Expr> = found.into_iter().enumerate().map(|(i, a)| a.alias(aggregate(i))).collect();
        aggregates.push(count(lit(1)).alias("__requests"));
        let frame = known.ctx.read_table(Arc::new(table))?.aggregate(Vec::new(), aggregates)?;
        let plan = futures::executor::block_on(frame.create_physical_plan())?;
        Ok(Some(Aggregates { plan, input, config: known.ctx.copied_config(), runtime: known.ctx.runtime_env() }))
    }

    /// The results over the rows of a trial, of one row each.
    async fn run(&self, rows: &[RecordBatch], scenario: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
        let with_scenario = |batch: &RecordBatch| -> Result<RecordBatch, DataFusionError> {
            let column = |field: &Arc<Field>| -> Result<ArrayRef, DataFusionError> {
                match batch.column_by_name(field.name()) {
                    Some(values) => Ok(values.clone()),
                    None => {
                        let value = scenario.column_by_name(field.name());
                        let value = value.map(|v| ScalarValue::try_from_array(v, 0)).transpose()?;
                        let value = value.unwrap_or(ScalarValue::try_from(field.data_type())?);
                        value.to_array_of_size(batch.num_rows())
                    }
                }
            };
            let columns = self.input.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
            Ok(RecordBatch::try_new(self.input.clone(), columns)?)
        };
        let batches = rows.iter().map(with_scenario).collect::<Result<Vec<_>, _>>()?;
        let rows = Arc::new(Rows(concat_batches(&self.input, &batches)?));
        let config = self.config.clone().with_extension(rows);
        // A plan that is made names no function any more.
        let functions = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let (scalar, higher, aggregate, window) = functions;
        let session = "objectives".to_string();
        let task = TaskContext::new(None, session, config, scalar, higher, aggregate, window, self.runtime.clone());
        let result = collect(self.plan.clone(), Arc::new(task)).await?;
        let one = result.into_iter().find(|b| b.num_rows() == 1);
        let none = || DataFusionError::Internal("an aggregation without groups has one row".to_string());
        Ok(one.ok_or_else(none)?.columns().to_vec())
    }
}

/// The column of an aggregate's result.
fn aggregate(i: usize) -> String {
    format!("__aggregate_{i}")
}

/// An expression with its aggregates as columns.
fn over_row(expr: &Expr, found: &[Expr]) -> Result<Expr, DataFusionError> {
    let rewritten = expr.clone().transform_down(|e| match found.iter().position(|a| *a == e) {
        Some(i) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(aggregate(i))))),
        None => Ok(Transformed::no(e)),
    })?;
    Ok(rewritten.data)
}

/// A condition in which objectives are named, with what they stand for.
fn named(expr: Expr, objectives: &[(String, Expr)], sql: &Text) -> Result<Expr, Diagnostic> {
    let replaced = expr.transform_up(|e| match &e {
        Expr::Column(c) => match objectives.iter().find(|(name, _)| *name == c.name) {
            Some((_, meant)) => Ok(Transformed::yes(meant.clone())),
            None => Ok(Transformed::no(e)),
        },
        _ => Ok(Transformed::no(e)),
    });
    replaced.map(|r| r.data).map_err(|e| sql_problem(&e, sql, &Names::default()))
}

/// By how much a condition is missed: above 0 where it does not hold, as a share of its bound where that is a number.
/// `None` where nothing is compared.
fn missed(expr: &Expr) -> Option<Expr> {
    let both = |a: &Expr, b: &Expr, op: Operator| {
        let (a, b) = (missed(a)?, missed(b)?);
        let larger = a.clone().gt(b.clone());
        let pick = |yes: Expr, no: Expr| datafusion::prelude::when(larger.clone(), yes).otherwise(no).ok();
        if op == Operator::And { pick(a, b) } else { pick(b, a) }
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => both(left, right, *op),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (a, b) = (left.as_ref(), right.as_ref());
            let by = match op {
                Operator::Lt | Operator::LtEq => a.clone() - b.clone(),
                Operator::Gt | Operator::GtEq => b.clone() - a.clone(),
                _ => return None,
            };
            Some(scaled(by, literal(b).or_else(|| literal(a))))
        }
        Expr::Between(between) if !between.negated => {
            let (low, high) = (between.low.as_ref(), between.high.as_ref());
            let below = scaled(low.clone() - between.expr.as_ref().clone(), literal(low));
            let above = scaled(between.expr.as_ref().clone() - high.clone(), literal(high));
            let larger = below.clone().gt(above.clone());
            datafusion::prelude::when(larger, below).otherwise(above).ok()
        }
        _ => None,
    }
}

fn scaled(by: Expr, bound: Option<f64>) -> Expr {
    match bound.filter(|b| *b != 0.0) {
        Some(bound) => by / lit(bound.abs()),
        None => by,
    }
}

/// The number that an expression is, if it is one.
fn literal(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Literal(value, _) => number(&value.to_array().ok()?),
        Expr::Negative(inner) => literal(inner).map(|x| -x),
        _ => None,
    }
}

fn number(values: &dyn Array) -> Option<f64> {
    let values = cast(values, &DataType::Float64).ok()?;
    let values = values.as_primitive_opt::<Float64Type>()?;
    (!values.is_empty() && !values.is_null(0)).then(|| values.value(0))
}

/// The columns of a simulated trial's requests.
pub(super) fn request_schema() -> SchemaRef {
    simulation::requests()
}

/// Names of objectives become columns: letters, digits and underscores, each once, none that the tables have already.
fn check_names(spec: &Optimize) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    if spec.minimize.is_empty() && spec.maximize.is_empty() {
        problems.push(
            Diagnostic::new("optimize::objective", "there is nothing to optimize")
                .at(space::place(spec))
                .help("for example `minimize: { ttft_ms_p99: \"quantile(ttft_ns, 0.99) / 1e6\" }`"),
        );
    }
    let mut taken: BTreeSet<String> = super::tables::RESERVED.iter().map(|name| name.to_string()).collect();
    taken.extend(spec.space.keys().map(|p| column_name(&p.value)));
    let constraints = conditions(spec.subject_to.as_ref(), "subject_to").unwrap_or_default();
    taken.extend(constraints.iter().map(|c| format!("c_{}", c.name)));
    let plain = |name: &str| {
        name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    for condition in &constraints {
        if !plain(&condition.name) {
            let message = format!("`{}` cannot be a column: use a-z, 0-9 and `_`", condition.name);
            problems.push(Diagnostic::new("optimize::conditions", message).at(condition.sql.at.clone()));
        }
    }
    for (name, sql) in spec.minimize.iter().chain(&spec.maximize) {
        if !plain(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
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
