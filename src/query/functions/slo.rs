//! `slo_attainment(condition)` and `goodput(condition, arrival_ns, finished_ns)`.
//!
//! Both count: integers only until the last division, so that partitions do not matter.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{ScalarValue, exec_err, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};

fn state(name: &str, parts: &[&str]) -> Vec<FieldRef> {
    parts.iter().map(|p| Arc::new(Field::new(format_state_name(name, p), DataType::Int64, true))).collect()
}

fn is_condition(kind: &DataType) -> bool {
    matches!(kind, DataType::Boolean | DataType::Null)
}

fn is_time(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_null()
}

fn conditions(array: Option<&ArrayRef>) -> Result<&BooleanArray> {
    match array.and_then(|a| a.as_boolean_opt()) {
        Some(a) => Ok(a),
        None => internal_err!("Boolean expected"),
    }
}

fn integers(arrays: &[ArrayRef], index: usize) -> Result<&Int64Array> {
    match arrays.get(index).and_then(|a| a.as_primitive_opt::<Int64Type>()) {
        Some(a) => Ok(a),
        None => internal_err!("Int64 expected"),
    }
}

fn total(arrays: &[ArrayRef], index: usize) -> Result<i64> {
    Ok(compute::sum(integers(arrays, index)?).unwrap_or(0))
}

/// See [`super::function_docs`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Attainment {
    signature: Signature,
}

impl Attainment {
    pub fn new() -> Self {
        Attainment { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Attainment {
    fn name(&self) -> &str {
        "slo_attainment"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [condition] if is_condition(condition) => Ok(vec![DataType::Boolean]),
            _ => plan_err!("slo_attainment takes one condition, e.g. slo_attainment(ms(ttft_ns) <= 200)"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(state(args.name, &["met", "rows"]))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("slo_attainment counts rows: DISTINCT makes no sense");
        }
        Ok(Box::new(Met::default()))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

#[derive(Debug, Default)]
struct Met {
    met: i64,
    rows: i64,
}

impl Accumulator for Met {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let condition = conditions(values.first())?;
        self.met += condition.true_count() as i64;
        self.rows += condition.len() as i64;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let condition = conditions(values.first())?;
        self.met -= condition.true_count() as i64;
        self.rows -= condition.len() as i64;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.met += total(states, 0)?;
        self.rows += total(states, 1)?;
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.met)), ScalarValue::Int64(Some(self.rows))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64((self.rows > 0).then(|| self.met as f64 / self.rows as f64)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// See [`super::function_docs`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Goodput {
    signature: Signature,
}

impl Goodput {
    pub fn new() -> Self {
        Goodput { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Goodput {
    fn name(&self) -> &str {
        "goodput"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [condition, arrival, finished] if is_condition(condition) && is_time(arrival) && is_time(finished) => {
                Ok(vec![DataType::Boolean, DataType::Int64, DataType::Int64])
            }
            _ => {
                plan_err!("goodput takes a condition and two times in ns: goodput(condition, arrival_ns, finished_ns)")
            }
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(state(args.name, &["met", "start", "end"]))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return exec_err!("goodput counts rows: DISTINCT makes no sense");
        }
        Ok(Box::new(MetOverTime::default()))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

#[derive(Debug, Default)]
struct MetOverTime {
    met: i64,
    start: Option<i64>,
    end: Option<i64>,
}

impl MetOverTime {
    fn widen(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let start = compute::min(integers(arrays, 1)?);
        let end = compute::max(integers(arrays, 2)?);
        self.start = self.start.into_iter().chain(start).min();
        self.end = self.end.max(end);
        Ok(())
    }
}

impl Accumulator for MetOverTime {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.met += conditions(values.first())?.true_count() as i64;
        self.widen(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.met += total(states, 0)?;
        self.widen(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.met)), ScalarValue::Int64(self.start), ScalarValue::Int64(self.end)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let span = match (self.start, self.end) {
            (Some(start), Some(end)) => end.saturating_sub(start),
            _ => 0,
        };
        Ok(ScalarValue::Float64((span > 0).then(|| self.met as f64 * 1e9 / span as f64)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
