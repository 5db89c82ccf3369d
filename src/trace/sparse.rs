//! Columns of which most files have nothing: they cost nothing until a row has a value.

use arrow::array::{ArrayBuilder, Int32Array, Int32Builder, Int64Array, Int64Builder, StringArray, StringBuilder};

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
    ($builder:ty, $array:ty, $($value:tt)*) => {
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

            pub fn finish(&mut self) -> $array {
                let nulls = std::mem::take(&mut self.nulls);
                self.builder.take().map_or_else(|| <$array>::new_null(nulls), |mut builder| builder.finish())
            }
        }
    };
}

sparse!(Int32Builder, Int32Array, i32);
sparse!(Int64Builder, Int64Array, i64);
sparse!(StringBuilder, StringArray, impl AsRef<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_where_they_belong() {
        let mut column = Sparse::<Int32Builder>::new();
        [None, None, Some(3), None].into_iter().for_each(|v| column.append_option(v));
        assert_eq!(column.finish(), Int32Array::from(vec![None, None, Some(3), None]));
        let mut column = Sparse::<StringBuilder>::new();
        [None::<&str>, None].into_iter().for_each(|v| column.append_option(v));
        assert_eq!(column.finish(), StringArray::new_null(2));
    }
}
