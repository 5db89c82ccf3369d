//! Conditions in SQL over the settings of scenarios: `where` of a sweep and of a search.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use serde_json::Value;

use pipe_kernel::scenario::Scenario;

use super::settings::{self, Config, Setting, SettingKind};
use crate::diag::Diagnostic;
use crate::query::errors::{Names, Place, planning};
use crate::query::plan::function_names;
use crate::query::session::{self, SessionOptions};
use crate::spec::Text;
use crate::table::simulation;

/// Bytes that one expression may hold.
const SQL_MEMORY: usize = 8 << 30;

/// The settings of a scenario, by path, as JSON.
pub(crate) fn config(scenario: &Scenario) -> Value {
    let config = Config {
        deployment: scenario.deployment.clone(),
        workload: scenario.workload.clone(),
        measure: scenario.measure,
        seed: scenario.seed,
    };
    // These types have string keys only, and finite floats: the kernel's check refuses others.
    serde_json::to_value(config).unwrap_or(Value::Null)
}

/// The settings that at least one of the scenarios has, in the order of the structs.
pub(crate) fn present(configs: &[Value]) -> Vec<Setting> {
    let mut found = leaves(configs, []);
    found.retain(|s| configs.iter().any(|c| s.value(c).is_some()));
    found
}

/// Every setting that has a column, with the classes that are written in `configs` or `paths`.
pub(crate) fn leaves<'a>(configs: &[Value], paths: impl IntoIterator<Item = &'a str>) -> Vec<Setting> {
    let mut found = settings::expanded(configs, paths);
    found.retain(|s| s.data_type().is_some());
    found
}

/// One column over all scenarios; null where a scenario has no such setting.
pub(crate) fn setting_column(setting: &Setting, configs: &[Value]) -> ArrayRef {
    let values = configs.iter().map(|c| setting.value(c));
    match setting.kind {
        SettingKind::Int => Arc::new(values.map(|v| v.and_then(as_i64)).collect::<Int64Array>()),
        SettingKind::Float => Arc::new(values.map(|v| v.and_then(Value::as_f64)).collect::<Float64Array>()),
        SettingKind::Bool => Arc::new(values.map(|v| v.and_then(Value::as_bool)).collect::<BooleanArray>()),
        SettingKind::Group | SettingKind::Choice | SettingKind::Text => {
            Arc::new(values.map(|v| v.and_then(name_of)).collect::<StringArray>())
        }
    }
}

/// Beyond the range of Int64 (seeds above 2^63) the column saturates; the hash of the scenario has the exact number.
fn as_i64(v: &Value) -> Option<i64> {
    v.as_i64().or_else(|| v.as_u64().map(|_| i64::MAX))
}

/// Text, or the name of the choice that a one-key map makes.
fn name_of(v: &Value) -> Option<&str> {
    match v {
        Value::String(s) => Some(s),
        Value::Object(map) => map.keys().next().map(String::as_str),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// A condition, compiled.
pub(crate) struct Filter {
    expr: Arc<dyn PhysicalExpr>,
    settings: Vec<Setting>,
    schema: SchemaRef,
    sql: Text,
}

impl Filter {
    /// Compiles `condition` over the columns of `settings` and `gpus`.
    ///
    /// # Errors
    /// SQL that is not valid, at the place of the condition.
    pub fn new(condition: &Text, settings: Vec<Setting>) -> Result<Filter, Diagnostic> {
        let mut fields: Vec<_> = settings.iter().filter_map(|s| s.field()).collect();
        fields.extend(simulation::totals().into_iter().filter(|f| f.name() == "gpus"));
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let (session, names) = session()?;
        let wrong = |e: &DataFusionError| sql_problem(e, condition, &names);
        let df_schema = DFSchema::try_from(schema.clone()).map_err(|e| wrong(&e))?;
        let expr = session
            .parse_sql_expr(&condition.value, &df_schema)
            .and_then(|e| session.create_physical_expr(e, &df_schema))
            .map_err(|e| wrong(&e))?;
        let kind = expr.data_type(&schema).map_err(|e| wrong(&e))?;
        if !matches!(kind, DataType::Boolean | DataType::Null) {
            let message = format!("the condition gives {kind}, not true or false");
            return Err(Diagnostic::new("sql::type", message).at(condition.at.clone()));
        }
        Ok(Filter { expr, settings, schema, sql: condition.clone() })
    }

    /// Whether the condition is true, for every scenario; null counts as not true.
    ///
    /// # Errors
    /// An expression that fails on values (a division by zero).
    pub fn keep(&self, scenarios: &[&Scenario]) -> Result<Vec<bool>, Diagnostic> {
        let configs: Vec<Value> = scenarios.iter().map(|s| config(s)).collect();
        let gpus: Vec<u64> = scenarios.iter().map(|s| s.deployment.gpus()).collect();
        self.keep_of(&configs, &gpus)
    }

    /// [`Filter::keep`] of scenarios by their settings and their number of GPUs.
    ///
    /// # Errors
    /// As [`Filter::keep`].
    pub(super) fn keep_of(&self, configs: &[Value], gpus: &[u64]) -> Result<Vec<bool>, Diagnostic> {
        let mut columns: Vec<ArrayRef> = self.settings.iter().map(|s| setting_column(s, configs)).collect();
        let gpus = gpus.iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX));
        columns.push(Arc::new(gpus.collect::<Int64Array>()));
        let evaluate = || -> Result<Vec<bool>, DataFusionError> {
            let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
            let result = self.expr.evaluate(&batch)?.into_array(batch.num_rows())?;
            let mask = result.as_any().downcast_ref::<BooleanArray>();
            Ok((0..batch.num_rows()).map(|i| mask.is_some_and(|m| !m.is_null(i) && m.value(i))).collect())
        };
        evaluate().map_err(|e| sql_problem(&e, &self.sql, &Names::default()))
    }
}

/// A session for expressions, and the names that are valid in it.
///
/// # Errors
/// The temporary folder cannot be used.
pub(crate) fn session() -> Result<(SessionContext, Names), Diagnostic> {
    let options = SessionOptions { target_partitions: 1, memory_bytes: SQL_MEMORY };
    let ctx = session::context(&options).map_err(|f| {
        let message = f.to_string();
        f.diagnostics.into_iter().next().unwrap_or_else(|| Diagnostic::new("sql::session", message))
    })?;
    let names = Names { tables: Vec::new(), functions: function_names(&ctx) };
    Ok((ctx, names))
}

/// A mistake in the expression `sql`, at its place.
pub(crate) fn sql_problem(e: &DataFusionError, sql: &Text, names: &Names) -> Diagnostic {
    planning(e, &sql.value, &Place::Within(sql.at.clone()), names)
}
