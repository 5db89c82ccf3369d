//! `quantile(x, q[, method])`: exact, by default with linear interpolation.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Float64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Expr, Signature, Volatility};

use super::method::Method;
use super::{constant, each_list, floats, is_number};

/// The quantile `q` (0 to 1) of `values`, by linear interpolation between the two nearest (numpy's default). Reorders
/// `values`. `None` without values; not a number if a value is not. Infinities are fine: between a finite value and
/// an infinity lies that infinity.
pub fn quantile_of(values: &mut [f64], q: f64) -> Option<f64> {
    quantile_by(values, q, Method::Linear)
}

/// [`quantile_of`] by another of numpy's methods.
pub fn quantile_by(values: &mut [f64], q: f64, method: Method) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    if values.iter().any(|v| v.is_nan()) {
        return Some(f64::NAN);
    }
    let (index, t) = method.place(values.len(), q);
    let (_, &mut low, above) = values.select_nth_unstable_by(index, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    Some(interpolate(low, high, t))
}

/// As numpy does it: from the nearer end, so that the result is monotone in `t` and exact at both ends.
fn interpolate(low: f64, high: f64, t: f64) -> f64 {
    if t <= 0.0 || low == high {
        return low;
    }
    let gap = high - low;
    if !gap.is_finite() {
        return if low == f64::NEG_INFINITY {
            low
        } else if high == f64::INFINITY {
            high
        } else {
            low * (1.0 - t) + high * t
        };
    }
    if t < 0.5 { low + gap * t } else { high - gap * (1.0 - t) }
}

/// See [`super::function_docs`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Quantile {
    signature: Signature,
}

impl Quantile {
    pub fn new() -> Self {
        Quantile { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Quantile {
    fn name(&self) -> &str {
        "quantile"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [x, q, rest @ ..] if rest.len() <= 1 => {
                if !is_number(x) || !is_number(q) {
                    return plan_err!("quantile(x, q) takes two numbers");
                }
                if !rest.iter().all(|m| m.is_string() || m.is_null()) {
                    return plan_err!("the method of quantile(x, q, method) is a name, e.g. 'lower'");
                }
                let mut kinds = vec![DataType::Float64; 2];
                kinds.extend(rest.iter().map(|_| DataType::Utf8));
                Ok(kinds)
            }
            _ => plan_err!("quantile takes two arguments: quantile(x, q), e.g. quantile(ttft_ns, 0.99)"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let list = Field::new_list_field(DataType::Float64, true);
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "values"), DataType::List(Arc::new(list)), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(Ok(Some(q))) = args.exprs.get(1).map(constant) else { return not_constant() };
        let ScalarValue::Float64(Some(q)) = q.cast_to(&DataType::Float64)? else { return not_constant() };
        check_range(q)?;
        let method = match args.exprs.get(2).map(constant) {
            None => Method::Linear,
            Some(Ok(Some(name))) => method_of(&name)?,
            Some(_) => return no_constant_method(),
        };
        Ok(Box::new(Values { values: Vec::new(), q, method, distinct: args.is_distinct }))
    }

    /// Simplifies nothing: it finds a wrong `q` while planning, before any row is read.
    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        Some(Box::new(|call, _info| {
            match call.params.args.get(1) {
                Some(q) if q.any_column_refs() => return not_constant(),
                Some(Expr::Literal(ScalarValue::Float64(Some(q)), _)) => check_range(*q)?,
                _ => {}
            }
            match call.params.args.get(2) {
                Some(Expr::Literal(name, _)) => drop(method_of(name)?),
                Some(method) if method.any_column_refs() => return no_constant_method(),
                _ => {}
            }
            Ok(Expr::AggregateFunction(call))
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

fn check_range(q: f64) -> Result<()> {
    if (0.0..=1.0).contains(&q) {
        return Ok(());
    }
    plan_err!("the second argument of quantile(x, q) must be from 0 to 1, not {q}")
}

fn not_constant<T>() -> Result<T> {
    plan_err!("the second argument of quantile(x, q) must be a constant")
}

fn no_constant_method<T>() -> Result<T> {
    plan_err!("the method of quantile(x, q, method) must be a constant")
}

fn method_of(name: &ScalarValue) -> Result<Method> {
    match name.try_as_str().flatten() {
        Some(name) => Method::named(name),
        None => no_constant_method(),
    }
}

/// All values of a group. Their order is whatever the partitions brought; the result does not depend on it.
#[derive(Debug)]
struct Values {
    values: Vec<f64>,
    q: f64,
    method: Method,
    distinct: bool,
}

impl Values {
    fn extend(&mut self, array: &ArrayRef) -> Result<()> {
        let array = floats(array)?;
        if array.null_count() == 0 {
            self.values.extend_from_slice(array.values());
        } else {
            self.values.extend(array.iter().flatten());
        }
        Ok(())
    }

    fn dedup(&mut self) {
        if self.distinct {
            // -0 and 0 are one value.
            let unique: BTreeSet<u64> = self.values.iter().map(|v| (v + 0.0).to_bits()).collect();
            self.values = unique.into_iter().map(f64::from_bits).collect();
        }
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values.first() {
            Some(x) => self.extend(x),
            None => exec_err!("quantile without a column"),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        each_list(states, |list| self.extend(list))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.dedup();
        let values = Float64Array::from(std::mem::take(&mut self.values));
        Ok(vec![SingleRowListArrayBuilder::new(Arc::new(values)).with_nullable(true).build_list_scalar()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.dedup();
        Ok(ScalarValue::Float64(quantile_by(&mut self.values, self.q, self.method)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<f64>()
    }
}
