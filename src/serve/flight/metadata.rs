//! Catalogs, schemas, tables and keys: one catalog; a schema per pipeline, and `public` with the short names.

use std::sync::Arc;

use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA, InformationSchemaProvider};
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::TableType;

use super::batches::sent;
use crate::query::session::CATALOG;
use crate::table::{DESCRIPTION, UNIT};

/// Kinds of tables.
pub const TABLE: &str = "TABLE";
pub const VIEW: &str = "VIEW";

/// Keys of the metadata of columns, as Flight SQL defines them.
const TYPE_NAME: &str = "ARROW:FLIGHT:SQL:TYPE_NAME";
const REMARKS: &str = "ARROW:FLIGHT:SQL:REMARKS";
const READ_ONLY: &str = "ARROW:FLIGHT:SQL:IS_READ_ONLY";
const SEARCHABLE: &str = "ARROW:FLIGHT:SQL:IS_SEARCHABLE";

/// The schemas that the command asks for.
///
/// # Errors
/// A filter that is no pattern.
pub fn schemas(ctx: &SessionContext, command: CommandGetDbSchemas) -> Result<RecordBatch, FlightError> {
    let names = schema_names(ctx, command.db_schema_filter_pattern.as_deref());
    let mut found = command.into_builder();
    names.iter().for_each(|name| found.append(CATALOG, name));
    found.build()
}

/// The tables that the command asks for, with their columns if it wants them.
///
/// # Errors
/// A filter that is no pattern; a table that cannot be read.
pub async fn tables(ctx: &SessionContext, command: CommandGetTables) -> Result<RecordBatch, FlightError> {
    let names = schema_names(ctx, command.db_schema_filter_pattern.as_deref());
    let wants_columns = command.include_schema;
    let mut found = command.into_builder();
    for name in names {
        let Some(schema) = schema_of(ctx, &name) else { continue };
        for table_name in schema.table_names() {
            let table = schema.table(&table_name).await.map_err(|e| FlightError::ExternalError(Box::new(e)))?;
            let Some(table) = table else { continue };
            let columns = if wants_columns { described(&table.schema()) } else { Arc::new(Schema::empty()) };
            found.append(CATALOG, &name, &table_name, kind(table.as_ref()), &columns)?;
        }
    }
    found.build()
}

fn kind(table: &dyn TableProvider) -> &'static str {
    match table.table_type() {
        TableType::View => VIEW,
        TableType::Base | TableType::Temporary => TABLE,
    }
}

/// The schemas of the catalog. What describes them is one of them only for those who ask for it by name.
fn schema_names(ctx: &SessionContext, filter: Option<&str>) -> Vec<String> {
    let mut names = ctx.catalog(CATALOG).map(|catalog| catalog.schema_names()).unwrap_or_default();
    names.retain(|name| name != "pg_catalog");
    if filter.is_some_and(|f| f.replace('\\', "") == INFORMATION_SCHEMA) {
        names.push(INFORMATION_SCHEMA.to_string());
    }
    names
}

fn schema_of(ctx: &SessionContext, name: &str) -> Option<Arc<dyn SchemaProvider>> {
    if name == INFORMATION_SCHEMA {
        return Some(Arc::new(InformationSchemaProvider::new(ctx.state().catalog_list().clone())));
    }
    ctx.catalog(CATALOG)?.schema(name)
}

/// Columns as they are sent, with what Flight SQL's clients show of them; names, units and descriptions stay.
fn described(schema: &Schema) -> SchemaRef {
    let schema = sent(schema);
    let fields: Vec<Field> = schema.fields().iter().map(|f| described_field(f)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn described_field(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    let unit = metadata.get(UNIT).filter(|u| !u.is_empty());
    let remarks = match (metadata.get(DESCRIPTION), unit) {
        (Some(text), Some(unit)) => Some(format!("{text} [{unit}]")),
        (Some(text), None) => Some(text.clone()),
        (None, unit) => unit.map(|unit| format!("[{unit}]")),
    };
    metadata.extend(remarks.map(|text| (REMARKS.to_string(), text)));
    metadata.insert(TYPE_NAME.to_string(), type_name(field.data_type()));
    metadata.insert(READ_ONLY.to_string(), "1".to_string());
    metadata.insert(SEARCHABLE.to_string(), "1".to_string());
    field.clone().with_metadata(metadata)
}

/// The type as SQL calls it; one that it has no name for as Arrow does.
fn type_name(kind: &DataType) -> String {
    let name = match kind {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 => "VARCHAR",
        DataType::Binary => "BYTEA",
        DataType::Date32 => "DATE",
        DataType::Time64(_) | DataType::Time32(_) => "TIME",
        DataType::Timestamp(_, _) => "TIMESTAMP",
        DataType::Decimal128(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        other => return other.to_string(),
    };
    name.to_string()
}

/// Columns of the answers about primary keys, of which tables here have none.
pub fn primary_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// Columns of the answers about foreign keys, of which tables here have none.
pub fn foreign_keys() -> SchemaRef {
    let mut fields = Vec::new();
    for side in ["pk", "fk"] {
        fields.push(Field::new(format!("{side}_catalog_name"), DataType::Utf8, true));
        fields.push(Field::new(format!("{side}_db_schema_name"), DataType::Utf8, true));
        fields.push(Field::new(format!("{side}_table_name"), DataType::Utf8, false));
        fields.push(Field::new(format!("{side}_column_name"), DataType::Utf8, false));
    }
    fields.push(Field::new("key_sequence", DataType::Int32, false));
    fields.push(Field::new("fk_key_name", DataType::Utf8, true));
    fields.push(Field::new("pk_key_name", DataType::Utf8, true));
    fields.push(Field::new("update_rule", DataType::UInt8, false));
    fields.push(Field::new("delete_rule", DataType::UInt8, false));
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::column;

    #[test]
    fn columns_tell_what_they_are() {
        let fields = vec![
            column("ttft_ms", DataType::Float64, true, "ms", "Time to first token"),
            column("name", DataType::Utf8View, false, "", "Who"),
            Field::new("plain", DataType::Decimal128(9, 2), true),
        ];
        let schema = described(&Schema::new(fields));
        let told = |i: usize, key: &str| schema.field(i).metadata().get(key).map(String::as_str);
        let cases = [
            (0, Some("Time to first token [ms]"), "DOUBLE", Some("ms")),
            (1, Some("Who"), "VARCHAR", None),
            (2, None, "DECIMAL(9, 2)", None),
        ];
        for (i, remarks, name, unit) in cases {
            assert_eq!((told(i, REMARKS), told(i, TYPE_NAME), told(i, UNIT)), (remarks, Some(name), unit), "{i}");
        }
    }
}
