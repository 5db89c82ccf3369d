//! Functions of PostgreSQL that DataFusion does not have, or has otherwise.

mod catalog;
mod own;
mod time;

use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

pub use own::register_own;

use super::catalog::Catalog;

/// What a row's values make; texts, whatever their types are.
type Body = dyn Fn(&[Option<&str>]) -> Result<Option<String>> + Send + Sync;

/// A function by rows, for figures about the catalog and the session: of any types, over their texts.
struct OfTexts {
    name: String,
    arity: RangeInclusive<usize>,
    kind: DataType,
    signature: Signature,
    body: Arc<Body>,
}

impl std::fmt::Debug for OfTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OfTexts({})", self.name)
    }
}

impl PartialEq for OfTexts {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for OfTexts {}

impl Hash for OfTexts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// Makes one that gives text, or what its text is in `kind`.
fn of_texts(
    name: &str,
    arity: RangeInclusive<usize>,
    kind: DataType,
    body: impl Fn(&[Option<&str>]) -> Result<Option<String>> + Send + Sync + 'static,
) -> ScalarUDF {
    let mut ways = Vec::new();
    for n in arity.clone() {
        ways.push(if n == 0 { TypeSignature::Nullary } else { TypeSignature::Any(n) });
    }
    let signature = Signature::one_of(ways, Volatility::Stable);
    ScalarUDF::from(OfTexts { name: name.to_string(), arity, kind, signature, body: Arc::new(body) })
}

impl ScalarUDFImpl for OfTexts {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.kind.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if !self.arity.contains(&args.args.len()) {
            return exec_err!("{} takes {:?} arguments", self.name, self.arity);
        }
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let mut columns: Vec<ArrayRef> = Vec::new();
        for arg in args.args {
            columns.push(texts(&arg.into_array(rows)?)?);
        }
        let columns: Vec<&StringArray> = columns.iter().map(|c| c.as_string::<i32>()).collect();
        let mut out: Vec<Option<String>> = Vec::with_capacity(rows);
        for row in 0..rows {
            let values: Vec<Option<&str>> = columns.iter().map(|c| (!c.is_null(row)).then(|| c.value(row))).collect();
            out.push((self.body)(&values)?);
        }
        let array: ArrayRef = Arc::new(StringArray::from(out));
        let array = if self.kind == DataType::Utf8 { array } else { cast(&array, &self.kind)? };
        if constant {
            return Ok(ColumnarValue::Scalar(datafusion::scalar::ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// Values as text; what has none is NULL.
fn texts(array: &ArrayRef) -> Result<ArrayRef> {
    if array.data_type().is_nested() || array.data_type().is_null() {
        return Ok(Arc::new(StringArray::new_null(array.len())));
    }
    Ok(cast(array, &DataType::Utf8)?)
}

/// Registers what is the same for all connections.
pub fn register(ctx: &SessionContext, catalog: &Arc<Catalog>) {
    for function in catalog::all(catalog).into_iter().chain(time::all(ctx)) {
        ctx.register_udf(function);
    }
}
