//! SQL expressions over the columns of a row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::query::errors::Names;
use crate::spec::Text;
use crate::stage::simulate::filter::{session, sql_problem};

/// An expression, compiled.
pub struct Expression<'a> {
    expr: Arc<dyn PhysicalExpr>,
    sql: &'a Text,
    pub kind: DataType,
}

impl<'a> Expression<'a> {
    /// # Errors
    /// SQL that is not valid, at its place.
    pub fn new(sql: &'a Text, schema: &SchemaRef) -> std::result::Result<Expression<'a>, Diagnostic> {
        let (session, names) = session()?;
        let wrong = |e: &DataFusionError| sql_problem(e, sql, &names);
        let df_schema = DFSchema::try_from(schema.clone()).map_err(|e| wrong(&e))?;
        let expr = session
            .parse_sql_expr(&sql.value, &df_schema)
            .and_then(|e| session.create_physical_expr(e, &df_schema))
            .map_err(|e| wrong(&e))?;
        let kind = expr.data_type(schema).map_err(|e| wrong(&e))?;
        Ok(Expression { expr, sql, kind })
    }

    /// # Errors
    /// As [`Expression::new`]; an expression that is not true or false.
    pub fn condition(sql: &'a Text, schema: &SchemaRef) -> std::result::Result<Expression<'a>, Diagnostic> {
        let made = Expression::new(sql, schema)?;
        if !matches!(made.kind, DataType::Boolean | DataType::Null) {
            let message = format!("the condition gives {}, not true or false", made.kind);
            return Err(Diagnostic::new("sql::type", message).at(sql.at.clone()));
        }
        Ok(made)
    }

    /// A value per row.
    ///
    /// # Errors
    /// An expression that fails on values (a division by zero).
    pub fn values(&self, rows: &RecordBatch) -> Result<ArrayRef> {
        let values = self.expr.evaluate(rows).and_then(|v| v.into_array(rows.num_rows()));
        values
            .map_err(|e| Failure { exit: Exit::Stage, diagnostics: vec![sql_problem(&e, self.sql, &Names::default())] })
    }

    /// Where the condition is true; null is not.
    ///
    /// # Errors
    /// As [`Expression::values`].
    pub fn holds(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        let values = self.values(rows)?;
        let mask = values.as_boolean_opt();
        let holds = |i| mask.is_some_and(|m: &BooleanArray| m.is_valid(i) && m.value(i));
        Ok((0..rows.num_rows()).map(|i| Some(holds(i))).collect())
    }
}
