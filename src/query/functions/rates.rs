//! `tokens_per_s(tokens, ns)`: a rate from a sum of tokens and a time.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::is_number;

/// See [`super::function_docs`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TokensPerS {
    signature: Signature,
}

impl TokensPerS {
    pub fn new() -> Self {
        TokensPerS { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TokensPerS {
    fn name(&self) -> &str {
        "tokens_per_s"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let whole = |t: &DataType| t.is_integer() || t.is_null();
        match types {
            [tokens, ns] if whole(tokens) && whole(ns) => Ok(vec![DataType::Int64; 2]),
            [tokens, ns] if is_number(tokens) && is_number(ns) => Ok(vec![DataType::Float64; 2]),
            _ => plan_err!(
                "tokens_per_s takes a number of tokens and one of nanoseconds, e.g. \
                 tokens_per_s(sum(output_tokens), max(finished_ns) - min(arrival_ns))"
            ),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [tokens, ns] = arrays.as_slice() else { return internal_err!("two columns expected") };
        let rates: Float64Array = match tokens.data_type() {
            DataType::Int64 => {
                let (tokens, ns) = (tokens.as_primitive::<Int64Type>(), ns.as_primitive::<Int64Type>());
                tokens.iter().zip(ns).map(|(t, ns)| of_integers(t?, ns?)).collect()
            }
            _ => {
                let (tokens, ns) = (tokens.as_primitive::<Float64Type>(), ns.as_primitive::<Float64Type>());
                tokens.iter().zip(ns).map(|(t, ns)| Some(t? * 1e9 / ns.filter(|ns| *ns != 0.0)?)).collect()
            }
        };
        let rates: ArrayRef = Arc::new(rates);
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&rates, 0)?));
        }
        Ok(ColumnarValue::Array(rates))
    }
}

/// `tokens * 10^9 / ns`, rounded once. `None` for no time.
fn of_integers(tokens: i64, ns: i64) -> Option<f64> {
    if ns == 0 {
        return None;
    }
    let top = u128::from(tokens.unsigned_abs()) * 1_000_000_000;
    let rate = quotient(top, ns.unsigned_abs().into());
    Some(if (tokens < 0) != (ns < 0) { -rate } else { rate })
}

/// `a / b` to the nearest Float64, ties to even, for `b` from 1 to 2^63.
fn quotient(a: u128, b: u128) -> f64 {
    if a == 0 {
        return 0.0;
    }
    // Shifted until the first bit is set, `a` has at least 64 bits more than `b`: the quotient has more bits than a
    // Float64, and whatever remains need only be known not to be nothing.
    let shift = a.leading_zeros();
    let (whole, rest) = ((a << shift) / b, (a << shift) % b);
    let rounded = (whole | u128::from(rest != 0)) as f64;
    rounded * f64::from_bits(u64::from(1023 - shift) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let cases = [
            (0, 1, Some(0.0)),
            (1, 0, None),
            (0, 0, None),
            (1, 1, Some(1e9)),
            (3, 1_000_000_000, Some(3.0)),
            (1, 3_000_000_000, Some(1.0 / 3.0)),
            (2, 3_000_000_000, Some(2.0 / 3.0)),
            (-1, 3_000_000_000, Some(-1.0 / 3.0)),
            (1, i64::MAX, Some(1e9 / 9223372036854775807.0)),
            (i64::MAX, 1, Some(9.223372036854776e27)),
            (i64::MIN, 1, Some(-9.223372036854776e27)),
            (i64::MIN, i64::MIN, Some(1e9)),
            // Above 2^53 tokens: Float64 would round before it divides, and give 1e9 here.
            (9007199254740993, 9007199254740992, Some(1000000000.0000001)),
        ];
        for (tokens, ns, expect) in cases {
            assert_eq!(of_integers(tokens, ns), expect, "{tokens} in {ns} ns");
        }
    }

    /// A tie goes to the even neighbour, anything beyond it up.
    #[test]
    fn quotients_are_rounded_once() {
        let one = 1u128 << 53;
        assert_eq!(quotient(one + 1, 1), one as f64);
        assert_eq!(quotient(one + 3, 1), (one + 4) as f64);
        assert_eq!(quotient(2 * (one + 1) + 1, 2), (one + 2) as f64);
        assert_eq!(quotient((one + 1) * 3 + 1, 3), (one + 2) as f64);
    }
}
