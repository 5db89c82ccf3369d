//! Columns in the making, by name, so that their order is the schema's alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;

/// Columns over rows of `T`.
pub(super) struct Columns<'a, T> {
    all: &'a [T],
    made: BTreeMap<String, ArrayRef>,
}

impl<'a, T> Columns<'a, T> {
    pub fn new(all: &'a [T]) -> Columns<'a, T> {
        Columns { all, made: BTreeMap::new() }
    }

    pub fn int(&mut self, name: &str, f: fn(&T) -> i64) {
        self.put(name, Arc::new(Int64Array::from_iter_values(self.all.iter().map(f))));
    }

    pub fn optional(&mut self, name: &str, f: impl Fn(&T) -> Option<i64>) {
        self.put(name, Arc::new(self.all.iter().map(f).collect::<Int64Array>()));
    }

    pub fn float(&mut self, name: &str, f: impl Fn(&T) -> Option<f64>) {
        self.put(name, Arc::new(self.all.iter().map(f).collect::<Float64Array>()));
    }

    pub fn text(&mut self, name: &str, f: fn(&T) -> &str) {
        self.put(name, Arc::new(StringArray::from_iter_values(self.all.iter().map(f))));
    }

    pub fn boolean(&mut self, name: &str, f: fn(&T) -> bool) {
        self.put(name, Arc::new(self.all.iter().map(|t| Some(f(t))).collect::<BooleanArray>()));
    }

    fn put(&mut self, name: &str, values: ArrayRef) {
        let before = self.made.insert(name.to_string(), values);
        assert!(before.is_none(), "two columns {name}");
    }

    /// One for each of `fields`, which must be all.
    pub fn ordered<'f>(mut self, fields: impl IntoIterator<Item = &'f Field>) -> Vec<ArrayRef> {
        let ordered: Vec<ArrayRef> = fields.into_iter().filter_map(|f| self.made.remove(f.name())).collect();
        assert!(self.made.is_empty(), "columns without a place: {:?}", self.made.keys());
        ordered
    }

    /// A table of this schema, whose columns they must be.
    ///
    /// # Errors
    /// Never, but for a bug: the columns are those of the schema.
    pub fn table(self, schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
        let ordered = self.ordered(schema.fields().iter().map(AsRef::as_ref));
        RecordBatch::try_new(schema, ordered)
    }

    #[cfg(test)]
    pub fn by_name(self) -> BTreeMap<String, ArrayRef> {
        self.made
    }
}
