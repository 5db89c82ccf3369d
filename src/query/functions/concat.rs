//! `||` with the limit of [`super::bounded`]: a long text beside a column is written down for every row.
//!
//! DataFusion's operator is no function, so that it cannot be replaced like those; here every `||` of a query becomes a
//! call of [`Concat`], with the operator's types and results.

use std::sync::Arc;

use datafusion::arrow::compute::kernels::concat_elements::concat_elements_dyn;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::{BinaryExpr, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::bounded::within_limit;
use super::sizes;

/// Texts one after the other; NULL where either is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    signature: Signature,
}

impl Concat {
    /// The function that stands for the operator.
    pub fn udf() -> ScalarUDF {
        ScalarUDF::new_from_impl(Concat { signature: Signature::user_defined(Volatility::Immutable) })
    }
}

fn types(left: &DataType, right: &DataType) -> Result<(DataType, DataType, DataType)> {
    let operator = BinaryTypeCoercer::new(left, &Operator::StringConcat, right);
    let (left, right) = operator.get_input_types()?;
    Ok((left, right, operator.get_result_type()?))
}

impl ScalarUDFImpl for Concat {
    fn name(&self) -> &str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = given else { return datafusion::common::plan_err!("|| has two sides") };
        types(left, right).map(|(left, right, _)| vec![left, right])
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        let [left, right] = given else { return datafusion::common::plan_err!("|| has two sides") };
        types(left, right).map(|(_, _, result)| result)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        within_limit(self.name(), &args.args, args.number_rows, sizes::together)?;
        let one = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if one { 1 } else { args.number_rows };
        let [left, right] = args.args.as_slice() else { return datafusion::common::exec_err!("|| has two sides") };
        let joined = concat_elements_dyn(&left.to_array(rows)?, &right.to_array(rows)?)?;
        if one { ScalarValue::try_from_array(&joined, 0).map(ColumnarValue::Scalar) } else { Ok(joined.into()) }
    }
}

/// Makes calls of [`Concat`] of operators.
#[derive(Debug)]
pub struct ConcatRewrite(pub Arc<ScalarUDF>);

impl FunctionRewrite for ConcatRewrite {
    fn name(&self) -> &str {
        "limit_concat"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                let call = ScalarFunction::new_udf(self.0.clone(), vec![*left, *right]);
                Ok(Transformed::yes(Expr::ScalarFunction(call)))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}
