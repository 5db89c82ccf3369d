//! DataFusion's functions that make large values of small ones, with a limit on what one call may make.
//!
//! What a scalar function allocates is not counted by the memory pool: `repeat('x', 2000000000)` takes 2 GB whatever a
//! session may use, and once per row. Here the size of the result is worked out from the arguments first, and a call
//! over [`MAX_BYTES`] is an error. Below it, the functions are DataFusion's own.
//!
//! Left out: functions whose result is about as long as their arguments together.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::functions::{regex, string, unicode};
use datafusion::functions_nested::{range, repeat, resize};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::concat::Concat;
use super::sizes::{self, Arg};
use crate::query::errors::Raised;

/// What the result of one call over one batch of rows may take.
pub const MAX_BYTES: u64 = 256 << 20;

/// The functions with a limit, under the names of DataFusion's, which they replace.
pub fn scalars() -> Vec<ScalarUDF> {
    let bounded: [(Arc<ScalarUDF>, sizes::Estimate); 11] = [
        (string::repeat(), sizes::repeat),
        (string::concat(), sizes::together),
        (string::concat_ws(), sizes::separated),
        (regex::regexp_replace(), sizes::regexp_replace),
        (string::replace(), sizes::replace),
        (unicode::lpad(), sizes::pad),
        (unicode::rpad(), sizes::pad),
        (repeat::array_repeat_udf(), sizes::array_repeat),
        (resize::array_resize_udf(), sizes::array_resize),
        (range::range_udf(), sizes::range),
        (range::gen_series_udf(), sizes::range),
    ];
    let wrap = |(plain, estimate)| ScalarUDF::new_from_impl(Bounded { plain, estimate });
    bounded.into_iter().map(wrap).collect()
}

/// A function, and how large its result gets.
#[derive(Debug)]
struct Bounded {
    plain: Arc<ScalarUDF>,
    estimate: sizes::Estimate,
}

/// The estimate follows from the function.
impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.plain == other.plain
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.plain.hash(state);
    }
}

/// Whether each call of a function counts what it writes down of its constants, for the rows that there are.
pub fn has_limit(function: &ScalarUDF) -> bool {
    function.inner().is::<Bounded>() || function.inner().is::<Concat>()
}

/// The bytes that the result for `rows` rows takes, and those of constants that are repeated for every row on the way.
fn bytes(args: &[ColumnarValue], rows: usize, estimate: sizes::Estimate) -> Result<u64> {
    let per_row = args.iter().any(|a| matches!(a, ColumnarValue::Array(_)));
    let rows = if per_row { rows } else { 1 };
    let args = args.iter().map(Arg::new).collect::<Result<Vec<_>>>()?;
    let constants: u64 = args.iter().filter(|a| a.is_constant()).map(|a| a.bytes(0)).fold(0, u64::saturating_add);
    let spread = if per_row { constants.saturating_mul(rows as u64) } else { 0 };
    Ok(estimate(&args, rows)?.max(spread))
}

/// # Errors
/// The result of a call would take more than [`MAX_BYTES`].
pub fn within_limit(what: &str, args: &[ColumnarValue], rows: usize, estimate: sizes::Estimate) -> Result<()> {
    let bytes = bytes(args, rows, estimate)?;
    if bytes > MAX_BYTES {
        let why = format!("result of {what} would take {bytes} bytes; at most {} MiB", MAX_BYTES >> 20);
        return Err(Raised::TooLarge(why).into());
    }
    Ok(())
}

impl ScalarUDFImpl for Bounded {
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        within_limit(&format!("{}()", self.name()), &args.args, args.number_rows, self.estimate)?;
        self.plain.inner().invoke_with_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let plain = Arc::new(self.plain.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Bounded { plain, estimate: self.estimate }))
    }

    fn name(&self) -> &str {
        self.plain.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.plain.inner().aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.plain.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.plain.inner().signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.plain.inner().coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.plain.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.plain.inner().return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.plain.inner().is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match self.plain.inner().simplify(args, info)? {
            // It may be the same function of other arguments, without the limit.
            ExprSimplifyResult::Simplified(Expr::ScalarFunction(call)) if call.func == self.plain => {
                let limited = Bounded { plain: self.plain.clone(), estimate: self.estimate };
                let call = ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(limited)), call.args);
                ExprSimplifyResult::Simplified(Expr::ScalarFunction(call))
            }
            other => other,
        })
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.plain.inner().preimage(args, literal, info)
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.plain.inner().conditional_arguments(args)
    }

    fn short_circuits(&self) -> bool {
        self.plain.inner().short_circuits()
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.plain.inner().evaluate_bounds(input)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.plain.inner().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.plain.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.plain.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.plain.inner().strictly_order_preserving(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.plain.inner().documentation()
    }
}

#[cfg(test)]
#[path = "bounded_tests.rs"]
mod tests;
