//! `sum` and `avg` that do not depend on the order of the rows.
//!
//! Sums of integers, decimals and durations are exact already and stay DataFusion's; sums of floats and means of
//! numbers go through [`ExactSum`].

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, UInt64Type};
use datafusion::common::cast::as_binary_array;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::average::Avg as PlainAvg;
use datafusion::functions_aggregate::sum::Sum as PlainSum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
    Volatility,
};

use super::each_list;
use super::exact::ExactSum;

/// `sum`, exact over floats.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Sum {
    plain: PlainSum,
}

impl Sum {
    pub fn new() -> Self {
        Sum { plain: PlainSum::new() }
    }
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.plain.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.plain.return_type(types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if args.return_type() == &DataType::Float64 { Ok(exact_state(&args)) } else { self.plain.state_fields(args) }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.return_type() == &DataType::Float64 {
            Ok(Box::new(Exact::new(Number::Float, Finish::Sum, args.is_distinct)))
        } else {
            self.plain.accumulator(args)
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        args.return_type() != &DataType::Float64 && self.plain.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.plain.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.return_type() == &DataType::Float64 {
            self.accumulator(args)
        } else {
            self.plain.create_sliding_accumulator(args)
        }
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        if args.return_type == &DataType::Float64 { None } else { self.plain.value_from_stats(args) }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, kind: &DataType) -> SetMonotonicity {
        self.plain.set_monotonicity(kind)
    }
}

/// `avg`, exact up to the last division over integers and floats.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Avg {
    plain: PlainAvg,
    signature: Signature,
    aliases: Vec<String>,
}

impl Avg {
    pub fn new() -> Self {
        Avg {
            plain: PlainAvg::new(),
            signature: Signature::user_defined(Volatility::Immutable),
            aliases: vec!["mean".to_string()],
        }
    }
}

fn number(kind: &DataType) -> Option<Number> {
    match kind {
        DataType::Int64 => Some(Number::Int),
        DataType::UInt64 => Some(Number::Unsigned),
        DataType::Float64 => Some(Number::Float),
        _ => None,
    }
}

fn widened(kind: &DataType) -> Result<DataType> {
    match kind {
        DataType::Dictionary(_, values) => widened(values),
        k if k.is_signed_integer() => Ok(DataType::Int64),
        k if k.is_unsigned_integer() => Ok(DataType::UInt64),
        k if k.is_floating() || k.is_null() => Ok(DataType::Float64),
        k if k.is_decimal() || matches!(k, DataType::Duration(_)) => Ok(k.clone()),
        k => plan_err!("avg takes numbers, not {k}"),
    }
}

impl AggregateUDFImpl for Avg {
    fn name(&self) -> &str {
        "avg"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [kind] => Ok(vec![widened(kind)?]),
            _ => plan_err!("avg takes one argument"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.plain.return_type(types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        match args.input_fields.first().and_then(|f| number(f.data_type())) {
            Some(_) => Ok(exact_state(&args)),
            None => self.plain.state_fields(args),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.expr_fields.first().and_then(|f| number(f.data_type())) {
            Some(number) => Ok(Box::new(Exact::new(number, Finish::Mean, args.is_distinct))),
            None => self.plain.accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        args.expr_fields.first().and_then(|f| number(f.data_type())).is_none()
            && self.plain.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.plain.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match args.expr_fields.first().and_then(|f| number(f.data_type())) {
            Some(_) => self.accumulator(args),
            None => self.plain.create_sliding_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

fn exact_state(args: &StateFieldsArgs) -> Vec<FieldRef> {
    let kind = if args.is_distinct {
        DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)))
    } else {
        DataType::Binary
    };
    vec![Arc::new(Field::new(format_state_name(args.name, "exact"), kind, true))]
}

/// What the 64 bits of a value mean.
#[derive(Clone, Copy, Debug)]
enum Number {
    Int,
    Unsigned,
    Float,
}

impl Number {
    /// Every value that is not NULL, as 64 bits.
    fn each(self, array: &ArrayRef, mut take: impl FnMut(i64)) -> Result<()> {
        match self {
            Number::Int => match array.as_primitive_opt::<Int64Type>() {
                Some(a) => a.iter().flatten().for_each(take),
                None => return internal_err!("Int64 expected"),
            },
            Number::Unsigned => match array.as_primitive_opt::<UInt64Type>() {
                Some(a) => a.iter().flatten().for_each(|v| take(v.cast_signed())),
                None => return internal_err!("UInt64 expected"),
            },
            Number::Float => match array.as_primitive_opt::<Float64Type>() {
                // Adding 0 makes 0 of -0: one value for DISTINCT.
                Some(a) => a.iter().flatten().for_each(|v| take((v + 0.0).to_bits().cast_signed())),
                None => return internal_err!("Float64 expected"),
            },
        }
        Ok(())
    }

    fn add(self, sum: &mut ExactSum, bits: i64) {
        match self {
            Number::Int => sum.add_int(bits.into()),
            Number::Unsigned => sum.add_int(bits.cast_unsigned().into()),
            Number::Float => sum.add(f64::from_bits(bits.cast_unsigned())),
        }
    }

    fn remove(self, sum: &mut ExactSum, bits: i64) {
        match self {
            Number::Int => sum.remove_int(bits.into()),
            Number::Unsigned => sum.remove_int(bits.cast_unsigned().into()),
            Number::Float => sum.remove(f64::from_bits(bits.cast_unsigned())),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Finish {
    Sum,
    Mean,
}

#[derive(Debug)]
struct Exact {
    number: Number,
    finish: Finish,
    sum: ExactSum,
    /// The values seen, for DISTINCT; then `sum` stays empty until the end.
    distinct: Option<BTreeSet<i64>>,
}

impl Exact {
    fn new(number: Number, finish: Finish, distinct: bool) -> Self {
        Exact { number, finish, sum: ExactSum::default(), distinct: distinct.then(BTreeSet::new) }
    }
}

impl Accumulator for Exact {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(array) = values.first() else { return internal_err!("sum without a column") };
        let number = self.number;
        match &mut self.distinct {
            Some(seen) => number.each(array, |bits| {
                seen.insert(bits);
            }),
            None => number.each(array, |bits| number.add(&mut self.sum, bits)),
        }
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(array) = values.first() else { return internal_err!("sum without a column") };
        let number = self.number;
        number.each(array, |bits| number.remove(&mut self.sum, bits))
    }

    fn supports_retract_batch(&self) -> bool {
        self.distinct.is_none()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if let Some(seen) = &mut self.distinct {
            return each_list(states, |list| {
                match list.as_primitive_opt::<Int64Type>() {
                    Some(list) => seen.extend(list.iter().flatten()),
                    None => return internal_err!("Int64 expected"),
                }
                Ok(())
            });
        }
        let Some(state) = states.first() else { return internal_err!("sum without a state") };
        for bytes in as_binary_array(state)?.iter().flatten() {
            match ExactSum::from_bytes(bytes) {
                Some(part) => self.sum.merge(&part),
                None => return internal_err!("damaged partial sum"),
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![match &self.distinct {
            Some(seen) => {
                let values = Int64Array::from_iter_values(seen.iter().copied());
                SingleRowListArrayBuilder::new(Arc::new(values)).with_nullable(true).build_list_scalar()
            }
            None => ScalarValue::Binary(Some(self.sum.to_bytes())),
        }])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut unique = ExactSum::default();
        let sum = match &self.distinct {
            Some(seen) => {
                seen.iter().for_each(|&bits| self.number.add(&mut unique, bits));
                &unique
            }
            None => &self.sum,
        };
        Ok(ScalarValue::Float64(match self.finish {
            Finish::Sum => (sum.count() > 0).then(|| sum.value()),
            Finish::Mean => sum.mean(),
        }))
    }

    fn size(&self) -> usize {
        // A node of a B-tree holds 11 keys and is at least half full.
        size_of_val(self) + self.sum.heap_size() + self.distinct.as_ref().map_or(0, |s| s.len() * 2 * size_of::<i64>())
    }
}
