//! Columns of which most files have nothing: they cost nothing until a row has a value.

use std::sync::Arc;

use arrow::array::{ArrayBuilder, ArrayRef, Int32Builder, Int64Builder, StringBuilder};
use arrow::datatypes::DataType;

use crate::table::nulls;

/// A builder that begins with the first value.
#[derive(Debug)]
pub struct Sparse<B> {
    /// Rows without a value, before the first that has one.
    nulls: usize,
    builder: Option<B>,
}

impl<B: ArrayBuilder> Sparse<B> {
    pub fn new() -> Self {
        Sparse { nulls: 0, builder: None }
    }
}

macro_rules! sparse {
    ($builder:ty, $kind:expr, $($value:tt)*) => {
        impl Sparse<$builder> {
            pub fn append_option(&mut self, value: Option<$($value)*>) {
                match (&mut self.builder, value) {
                    (Some(builder), value) => builder.append_option(value),
                    (None, None) => self.nulls += 1,
                    (empty, Some(value)) => {
                        let mut builder = <$builder>::new();
                        (0..self.nulls).for_each(|_| builder.append_null());
                        builder.append_value(value);
                        *empty = Some(builder);
                    }
                }
            }

            pub fn finish(&mut self) -> ArrayRef {
                let rows = std::mem::take(&mut self.nulls);
                match self.builder.take() {
                    Some(mut builder) => Arc::new(builder.finish()),
                    None => nulls(&$kind, rows),
                }
            }
        }
    };
}

sparse!(Int32Builder, DataType::Int32, i32);
sparse!(Int64Builder, DataType::Int64, i64);
sparse!(StringBuilder, DataType::Utf8, impl AsRef<str>);

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Int32Array, StringArray};

    use super::*;

    #[test]
    fn values_come_where_they_belong() {
        let mut column = Sparse::<Int32Builder>::new();
        [None, None, Some(3), None].into_iter().for_each(|v| column.append_option(v));
        assert_eq!(column.finish().to_data(), Int32Array::from(vec![None, None, Some(3), None]).to_data());
        let mut column = Sparse::<StringBuilder>::new();
        [None::<&str>, None].into_iter().for_each(|v| column.append_option(v));
        assert_eq!(column.finish().to_data(), StringArray::new_null(2).to_data());
    }
}
