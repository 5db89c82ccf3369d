//! `ms(ns)` and `s(ns)`: what is stored in nanoseconds, as people read it.

use std::sync::Arc;

use datafusion::arrow::array::Float64Array;
use datafusion::arrow::compute::unary;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::{floats, is_number};

/// Divides by a constant.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PerUnit {
    name: &'static str,
    /// As bits: floats do not hash.
    divisor: u64,
    signature: Signature,
}

impl PerUnit {
    pub fn new(name: &'static str, divisor: f64) -> Self {
        PerUnit { name, divisor: divisor.to_bits(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for PerUnit {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [ns] if is_number(ns) => Ok(vec![DataType::Float64]),
            _ => plan_err!("{0} takes one number of nanoseconds: {0}(ns)", self.name),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let divisor = f64::from_bits(self.divisor);
        match args.args.first() {
            Some(ColumnarValue::Scalar(ScalarValue::Float64(v))) => {
                Ok(ColumnarValue::Scalar(ScalarValue::Float64(v.map(|v| v / divisor))))
            }
            Some(ColumnarValue::Array(array)) => {
                let result: Float64Array = unary::<_, _, Float64Type>(floats(array)?, |v| v / divisor);
                Ok(ColumnarValue::Array(Arc::new(result)))
            }
            _ => plan_err!("{} takes one number", self.name),
        }
    }
}
