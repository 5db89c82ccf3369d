//! `width_bucket(x, lo, hi, n)` and `histogram(x, lo, hi, n)`: `n` buckets of equal width.
//!
//! PostgreSQL's buckets: 1 to `n` from `lo` (included) to `hi` (not), 0 before them and `n + 1` after; with `lo` above
//! `hi`, they run downwards. Over integers the bucket is exact, as over PostgreSQL's `numeric`; over floats it is what
//! PostgreSQL's `float8` gives, bit for bit.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{ScalarValue, exec_datafusion_err, exec_err, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::{constant, each_list, is_number};

/// Buckets of a histogram at most: it is a value in memory, one per group.
const MAX_BUCKETS: i64 = 100_000;

/// The ends of the buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bounds {
    Integers(i64, i64),
    Floats(f64, f64),
}

/// Buckets, checked.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    bounds: Bounds,
    count: i64,
}

impl Buckets {
    fn new(bounds: Bounds, count: i64) -> Result<Buckets> {
        if count <= 0 || count == i64::MAX {
            return exec_err!("the number of buckets must be greater than zero, not {count}");
        }
        match bounds {
            Bounds::Floats(lo, hi) if !lo.is_finite() || !hi.is_finite() => {
                exec_err!("the bounds of buckets must be finite, not {lo} and {hi}")
            }
            Bounds::Floats(lo, hi) if lo == hi => exec_err!("the bounds of buckets must differ: both are {lo}"),
            Bounds::Integers(lo, hi) if lo == hi => exec_err!("the bounds of buckets must differ: both are {lo}"),
            bounds => Ok(Buckets { bounds, count }),
        }
    }

    fn of_integer(&self, x: i64, (lo, hi): (i64, i64)) -> i64 {
        // Downwards is upwards with the sign of everything changed.
        let sign = if lo < hi { 1 } else { -1 };
        let (x, lo, hi) = (i128::from(x) * sign, i128::from(lo) * sign, i128::from(hi) * sign);
        if x < lo {
            return 0;
        }
        if x >= hi {
            return self.count + 1;
        }
        // Below 2^64 times 2^63.
        let inside = (x - lo).unsigned_abs() * u128::from(self.count.unsigned_abs()) / (hi - lo).unsigned_abs();
        i64::try_from(inside).unwrap_or(self.count - 1) + 1
    }

    fn of_float(&self, x: f64, (lo, hi): (f64, f64)) -> i64 {
        let (before, after) = if lo < hi { (x < lo, x >= hi) } else { (x > lo, x <= hi) };
        if before {
            return 0;
        }
        if after {
            return self.count + 1;
        }
        let (way, whole) = if lo < hi { (x - lo, hi - lo) } else { (lo - x, lo - hi) };
        let part = if whole.is_finite() { way / whole } else { (x / 2.0 - lo / 2.0) / (hi / 2.0 - lo / 2.0) };
        // The quotient can round up to 1, but the value is below the end.
        ((self.count as f64 * part) as i64).min(self.count - 1) + 1
    }
}

fn name_of_arguments(name: &str) -> String {
    format!("{name} takes a number, two bounds and a number of buckets: {name}(x, lo, hi, n)")
}

/// All integers, or all floats; and how many buckets.
fn coerce(name: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let [numbers @ .., count] = types else { return plan_err!("{}", name_of_arguments(name)) };
    let whole = |t: &DataType| (t.is_integer() && *t != DataType::UInt64) || t.is_null();
    if numbers.len() != 3 || !numbers.iter().all(is_number) || !(count.is_integer() || count.is_null()) {
        return plan_err!("{}", name_of_arguments(name));
    }
    let kind = if numbers.iter().all(whole) { DataType::Int64 } else { DataType::Float64 };
    Ok(vec![kind.clone(), kind.clone(), kind, DataType::Int64])
}

/// See [`super::function_docs`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WidthBucket {
    signature: Signature,
}

impl WidthBucket {
    pub fn new() -> Self {
        WidthBucket { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WidthBucket {
    fn name(&self) -> &str {
        "width_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        coerce(self.name(), types)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [x, lo, hi, n] = arrays.as_slice() else { return internal_err!("four columns expected") };
        let n = n.as_primitive::<Int64Type>();
        let given = |row: usize| [x, lo, hi].iter().all(|a| a.is_valid(row)) && n.is_valid(row);
        let mut out = Vec::with_capacity(x.len());
        if *x.data_type() == DataType::Int64 {
            let [x, lo, hi] = [x, lo, hi].map(|a| a.as_primitive::<Int64Type>());
            for row in 0..x.len() {
                let ends = (lo.value(row), hi.value(row));
                let bucket = || {
                    let buckets = Buckets::new(Bounds::Integers(ends.0, ends.1), n.value(row))?;
                    Ok::<_, datafusion::error::DataFusionError>(buckets.of_integer(x.value(row), ends))
                };
                out.push(given(row).then(bucket).transpose()?);
            }
        } else {
            let [x, lo, hi] = [x, lo, hi].map(|a| a.as_primitive::<Float64Type>());
            for row in 0..x.len() {
                let ends = (lo.value(row), hi.value(row));
                let bucket = || {
                    let buckets = Buckets::new(Bounds::Floats(ends.0, ends.1), n.value(row))?;
                    Ok::<_, datafusion::error::DataFusionError>(buckets.of_float(number(x.value(row))?, ends))
                };
                out.push(given(row).then(bucket).transpose()?);
            }
        }
        let out: ArrayRef = Arc::new(Int64Array::from(out));
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?));
        }
        Ok(ColumnarValue::Array(out))
    }
}

fn number(x: f64) -> Result<f64> {
    if x.is_nan() { exec_err!("a value that is not a number is in no bucket") } else { Ok(x) }
}

/// See [`super::function_docs`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Histogram {
    signature: Signature,
}

impl Histogram {
    pub fn new() -> Self {
        Histogram { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn counts_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)))
}

impl AggregateUDFImpl for Histogram {
    fn name(&self) -> &str {
        "histogram"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        coerce(self.name(), types)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(counts_type())
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "counts"), counts_type(), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("histogram counts rows: DISTINCT makes no sense");
        }
        let [_, lo, hi, n] = args.exprs else { return plan_err!("{}", name_of_arguments(self.name())) };
        let values = [lo, hi, n].map(constant);
        let [Ok(Some(lo)), Ok(Some(hi)), Ok(Some(n))] = values else { return not_constant() };
        Ok(Box::new(Counts::new(buckets(&lo, &hi, &n)?)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.accumulator(args)
    }

    /// Simplifies nothing: it finds wrong buckets while planning, before any row is read.
    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        Some(Box::new(|call, _info| {
            let [_, ends @ ..] = call.params.args.as_slice() else { return Ok(Expr::AggregateFunction(call)) };
            if ends.iter().any(Expr::any_column_refs) {
                return not_constant();
            }
            if let [Expr::Literal(lo, _), Expr::Literal(hi, _), Expr::Literal(n, _)] = ends {
                if [lo, hi, n].iter().any(|v| v.is_null()) {
                    return not_constant();
                }
                buckets(lo, hi, n)?;
            }
            Ok(Expr::AggregateFunction(call))
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

fn not_constant<T>() -> Result<T> {
    plan_err!("lo, hi and n of histogram(x, lo, hi, n) must be constants")
}

fn buckets(lo: &ScalarValue, hi: &ScalarValue, n: &ScalarValue) -> Result<Buckets> {
    let bounds = match (lo, hi) {
        (ScalarValue::Int64(Some(lo)), ScalarValue::Int64(Some(hi))) => Bounds::Integers(*lo, *hi),
        _ => match (lo.cast_to(&DataType::Float64)?, hi.cast_to(&DataType::Float64)?) {
            (ScalarValue::Float64(Some(lo)), ScalarValue::Float64(Some(hi))) => Bounds::Floats(lo, hi),
            _ => return not_constant(),
        },
    };
    match n.cast_to(&DataType::Int64)? {
        ScalarValue::Int64(Some(n)) if n > MAX_BUCKETS => {
            plan_err!("histogram has at most {MAX_BUCKETS} buckets, not {n}; GROUP BY width_bucket(...) has no limit")
        }
        ScalarValue::Int64(Some(n)) => Buckets::new(bounds, n),
        _ => not_constant(),
    }
}

/// Rows per bucket, with one before the first and one after the last.
#[derive(Debug)]
struct Counts {
    buckets: Buckets,
    counts: Vec<i64>,
}

impl Counts {
    fn new(buckets: Buckets) -> Self {
        let len = usize::try_from(buckets.count).unwrap_or(0) + 2;
        Counts { buckets, counts: vec![0; len] }
    }

    fn add(&mut self, bucket: i64, rows: i64) -> Result<()> {
        let slot = usize::try_from(bucket).ok().and_then(|b| self.counts.get_mut(b));
        *slot.ok_or_else(|| exec_datafusion_err!("there is no bucket {bucket}"))? += rows;
        Ok(())
    }

    fn each(&mut self, values: &[ArrayRef], rows: i64) -> Result<()> {
        let Some(x) = values.first() else { return internal_err!("histogram without a column") };
        let buckets = self.buckets;
        match buckets.bounds {
            Bounds::Integers(lo, hi) => {
                let Some(x) = x.as_primitive_opt::<Int64Type>() else { return internal_err!("Int64 expected") };
                x.iter().flatten().try_for_each(|x| self.add(buckets.of_integer(x, (lo, hi)), rows))
            }
            Bounds::Floats(lo, hi) => {
                let Some(x) = x.as_primitive_opt::<Float64Type>() else { return internal_err!("Float64 expected") };
                x.iter().flatten().try_for_each(|x| self.add(buckets.of_float(number(x)?, (lo, hi)), rows))
            }
        }
    }

    fn list(&self) -> ScalarValue {
        let counts = Int64Array::from(self.counts.clone());
        SingleRowListArrayBuilder::new(Arc::new(counts)).with_nullable(true).build_list_scalar()
    }
}

impl Accumulator for Counts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.each(values, 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.each(values, -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        each_list(states, |list| {
            let Some(counts) = list.as_primitive_opt::<Int64Type>() else { return internal_err!("Int64 expected") };
            if counts.len() != self.counts.len() {
                return internal_err!("a histogram of {} counts, not {}", counts.len(), self.counts.len());
            }
            self.counts.iter_mut().zip(counts.values()).for_each(|(sum, n)| *sum += n);
            Ok(())
        })
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.list()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.list())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the first group are those of PostgreSQL's documentation and regression tests.
    #[test]
    fn buckets_of_floats() {
        let cases = [
            (5.35, 0.024, 10.06, 5, 3),
            (-5.2, 0.0, 10.0, 5, 0),
            (10.0, 0.0, 10.0, 5, 6),
            (9.99999999999999, 0.0, 10.0, 5, 5),
            (0.0, 0.0, 10.0, 5, 1),
            (5.35, 10.06, 0.024, 5, 3),
            (10.0, 10.0, 0.0, 5, 1),
            (0.0, 10.0, 0.0, 5, 6),
            (11.0, 10.0, 0.0, 5, 0),
            (f64::INFINITY, 0.0, 1.0, 10, 11),
            (f64::NEG_INFINITY, 0.0, 1.0, 10, 0),
            (f64::INFINITY, 1.0, 0.0, 10, 0),
            (0.0, -1e308, 1e308, 10, 6),
            (1e308, -1e308, 1e308, 10, 11),
            (0.0, 1e308, -1e308, 10, 6),
        ];
        for (x, lo, hi, n, expect) in cases {
            let buckets = Buckets::new(Bounds::Floats(lo, hi), n).unwrap();
            assert_eq!(buckets.of_float(x, (lo, hi)), expect, "width_bucket({x}, {lo}, {hi}, {n})");
        }
    }

    #[test]
    fn buckets_of_integers() {
        let cases = [
            (-1, 0, 10, 5, 0),
            (0, 0, 10, 5, 1),
            (1, 0, 10, 5, 1),
            (2, 0, 10, 5, 2),
            (9, 0, 10, 5, 5),
            (10, 0, 10, 5, 6),
            (11, 10, 0, 5, 0),
            (10, 10, 0, 5, 1),
            (8, 10, 0, 5, 2),
            (0, 10, 0, 5, 6),
            // Bucket k of 100 begins at k - 1; in Float64, 100 * (29 / 100) is below 29.
            (29, 0, 100, 100, 30),
            (i64::MAX, i64::MIN, i64::MAX, 2, 3),
            (i64::MAX - 1, i64::MIN, i64::MAX, 2, 2),
            (-1, i64::MIN, i64::MAX, 2, 1),
            (i64::MIN, i64::MIN, i64::MAX, i64::MAX - 1, 1),
            (i64::MAX - 1, i64::MIN, i64::MAX, i64::MAX - 1, i64::MAX - 1),
            (i64::MIN, i64::MAX, i64::MIN, 7, 8),
        ];
        for (x, lo, hi, n, expect) in cases {
            let buckets = Buckets::new(Bounds::Integers(lo, hi), n).unwrap();
            assert_eq!(buckets.of_integer(x, (lo, hi)), expect, "width_bucket({x}, {lo}, {hi}, {n})");
        }
    }

    #[test]
    fn buckets_that_cannot_be() {
        let cases = [
            (Bounds::Integers(0, 1), 0, "greater than zero"),
            (Bounds::Integers(0, 1), -1, "greater than zero"),
            (Bounds::Integers(0, 1), i64::MAX, "greater than zero"),
            (Bounds::Integers(3, 3), 1, "must differ"),
            (Bounds::Floats(0.0, -0.0), 1, "must differ"),
            (Bounds::Floats(0.0, f64::INFINITY), 1, "finite"),
            (Bounds::Floats(f64::NAN, 1.0), 1, "finite"),
        ];
        for (bounds, n, expect) in cases {
            let error = Buckets::new(bounds, n).unwrap_err().to_string();
            assert!(error.contains(expect), "{bounds:?}, {n}: {error}");
        }
    }
}
