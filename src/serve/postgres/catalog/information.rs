//! `information_schema`, with the columns that tools ask for and PostgreSQL's names of types.

use std::collections::BTreeMap;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use datafusion_postgres::pgwire::api::Type;

use super::INFORMATION_SCHEMA;
use super::relations::{Column, OWNER, Relation, Relations};
use super::sheet::{Row, sheet};
use crate::query::session::CATALOG;

/// Its tables.
pub const NAMES: &[&str] = &[
    "check_constraints",
    "columns",
    "constraint_column_usage",
    "constraint_table_usage",
    "key_column_usage",
    "parameters",
    "referential_constraints",
    "routines",
    "schemata",
    "sequences",
    "table_constraints",
    "table_privileges",
    "tables",
    "triggers",
    "views",
];

/// Tables that have no rows here, with their columns.
const WITHOUT_ROWS: &[(&str, &str)] = &[
    ("check_constraints", "constraint_catalog constraint_schema constraint_name check_clause"),
    (
        "constraint_column_usage",
        "table_catalog table_schema table_name column_name constraint_catalog constraint_schema constraint_name",
    ),
    (
        "constraint_table_usage",
        "table_catalog table_schema table_name constraint_catalog constraint_schema constraint_name",
    ),
    (
        "key_column_usage",
        "constraint_catalog constraint_schema constraint_name table_catalog table_schema table_name column_name \
         ordinal_position:int4 position_in_unique_constraint:int4?",
    ),
    (
        "parameters",
        "specific_catalog specific_schema specific_name ordinal_position:int4 parameter_mode parameter_name data_type",
    ),
    (
        "referential_constraints",
        "constraint_catalog constraint_schema constraint_name unique_constraint_catalog unique_constraint_schema \
         unique_constraint_name match_option update_rule delete_rule",
    ),
    (
        "routines",
        "specific_catalog specific_schema specific_name routine_catalog routine_schema routine_name routine_type \
         data_type routine_definition",
    ),
    ("sequences", "sequence_catalog sequence_schema sequence_name data_type start_value increment"),
    (
        "table_constraints",
        "constraint_catalog constraint_schema constraint_name table_catalog table_schema table_name constraint_type \
         is_deferrable initially_deferred enforced",
    ),
    (
        "triggers",
        "trigger_catalog trigger_schema trigger_name event_manipulation event_object_catalog event_object_schema \
         event_object_table action_statement action_timing",
    ),
];

/// Whether a table of `information_schema` never has a row.
pub fn is_without_rows(name: &str) -> bool {
    WITHOUT_ROWS.iter().any(|(n, _)| *n == name)
}

/// All of them.
///
/// # Errors
/// None in practice.
pub fn sheets(relations: &Relations) -> Result<BTreeMap<(&'static str, String), RecordBatch>> {
    let mut out = BTreeMap::new();
    let mut put = |name: &str, batch| out.insert((INFORMATION_SCHEMA, name.to_string()), batch);
    for (name, spec) in WITHOUT_ROWS {
        put(name, sheet(spec, &[])?);
    }
    let schemata: Vec<Row> = relations
        .schemas()
        .keys()
        .map(|s| {
            vec![("catalog_name", CATALOG.into()), ("schema_name", s.as_str().into()), ("schema_owner", OWNER.into())]
        })
        .collect();
    put(
        "schemata",
        sheet(
            "catalog_name schema_name schema_owner default_character_set_catalog:text? \
             default_character_set_schema:text? default_character_set_name:text? sql_path:text?",
            &schemata,
        )?,
    );
    put("tables", tables(relations)?);
    put("columns", columns(relations)?);
    put("views", views(relations)?);
    put("table_privileges", privileges(relations)?);
    Ok(out)
}

fn place(r: &Relation) -> Row {
    vec![
        ("table_catalog", CATALOG.into()),
        ("table_schema", r.schema.as_str().into()),
        ("table_name", r.name.as_str().into()),
    ]
}

fn tables(relations: &Relations) -> Result<RecordBatch> {
    let rows = relations.all().iter().map(|r| {
        let mut row = place(r);
        row.push(("table_type", if r.view { "VIEW" } else { "BASE TABLE" }.into()));
        row.extend([("is_insertable_into", "NO".into()), ("is_typed", "NO".into())]);
        row
    });
    sheet(
        "table_catalog table_schema table_name table_type self_referencing_column_name:text? \
         reference_generation:text? user_defined_type_catalog:text? user_defined_type_schema:text? \
         user_defined_type_name:text? is_insertable_into is_typed commit_action:text?",
        &rows.collect::<Vec<_>>(),
    )
}

fn columns(relations: &Relations) -> Result<RecordBatch> {
    let all = relations.all().iter().flat_map(|r| r.columns.iter().enumerate().map(move |(i, c)| (r, i, c)));
    let rows = all.map(|(r, i, c)| {
        let mut row = place(r);
        row.extend([
            ("column_name", c.name.as_str().into()),
            ("ordinal_position", (i as i64 + 1).into()),
            ("is_nullable", if c.nullable { "YES" } else { "NO" }.into()),
            ("data_type", data_type(&c.kind).into()),
            ("udt_catalog", CATALOG.into()),
            ("udt_schema", "pg_catalog".into()),
            ("udt_name", c.kind.name().into()),
            ("dtd_identifier", (i + 1).to_string().into()),
        ]);
        row.extend(["is_self_referencing", "is_identity", "identity_cycle", "is_updatable"].map(|n| (n, "NO".into())));
        row.push(("is_generated", "NEVER".into()));
        row.extend(precision(c));
        row
    });
    sheet(
        "table_catalog table_schema table_name column_name ordinal_position:int4 column_default:text? is_nullable \
         data_type character_maximum_length:int4? character_octet_length:int4? numeric_precision:int4? \
         numeric_precision_radix:int4? numeric_scale:int4? datetime_precision:int4? interval_type:text? \
         interval_precision:int4? character_set_catalog:text? character_set_schema:text? character_set_name:text? \
         collation_catalog:text? collation_schema:text? collation_name:text? domain_catalog:text? domain_schema:text? \
         domain_name:text? udt_catalog udt_schema udt_name scope_catalog:text? scope_schema:text? scope_name:text? \
         maximum_cardinality:int4? dtd_identifier is_self_referencing is_identity identity_generation:text? \
         identity_start:text? identity_increment:text? identity_maximum:text? identity_minimum:text? identity_cycle \
         is_generated generation_expression:text? is_updatable",
        &rows.collect::<Vec<_>>(),
    )
}

fn precision(column: &Column) -> Row {
    let (bits, radix, scale) = match column.kind {
        Type::INT2 => (16, 2, Some(0)),
        Type::INT4 => (32, 2, Some(0)),
        Type::INT8 => (64, 2, Some(0)),
        Type::FLOAT4 => (24, 2, None),
        Type::FLOAT8 => (53, 2, None),
        Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => return vec![("datetime_precision", 6.into())],
        Type::DATE => return vec![("datetime_precision", 0.into())],
        _ => return Vec::new(),
    };
    let mut row: Row = vec![("numeric_precision", bits.into()), ("numeric_precision_radix", radix.into())];
    row.extend(scale.map(|s: i32| ("numeric_scale", s.into())));
    row
}

/// The name of a type in SQL.
fn data_type(kind: &Type) -> &'static str {
    match *kind {
        Type::BOOL => "boolean",
        Type::INT2 => "smallint",
        Type::INT4 => "integer",
        Type::INT8 => "bigint",
        Type::FLOAT4 => "real",
        Type::FLOAT8 => "double precision",
        Type::NUMERIC => "numeric",
        Type::DATE => "date",
        Type::TIME => "time without time zone",
        Type::TIMESTAMP => "timestamp without time zone",
        Type::TIMESTAMPTZ => "timestamp with time zone",
        Type::INTERVAL => "interval",
        Type::BYTEA => "bytea",
        ref kind if matches!(kind.kind(), tokio_postgres::types::Kind::Array(_)) => "ARRAY",
        _ => "text",
    }
}

fn views(relations: &Relations) -> Result<RecordBatch> {
    let rows = relations.all().iter().filter(|r| r.view && !r.is_system()).map(|r| {
        let mut row = place(r);
        row.extend(r.definition.as_deref().map(|d| ("view_definition", d.into())));
        row.extend(["check_option", "is_updatable", "is_insertable_into"].map(|n| (n, "NO".into())));
        row
    });
    sheet(
        "table_catalog table_schema table_name view_definition:text? check_option is_updatable is_insertable_into",
        &rows.collect::<Vec<_>>(),
    )
}

fn privileges(relations: &Relations) -> Result<RecordBatch> {
    let rows = relations.all().iter().map(|r| {
        let mut row = place(r);
        row.extend([("grantor", OWNER.into()), ("grantee", "PUBLIC".into()), ("privilege_type", "SELECT".into())]);
        row.extend([("is_grantable", "NO".into()), ("with_hierarchy", "YES".into())]);
        row
    });
    sheet(
        "grantor grantee table_catalog table_schema table_name privilege_type is_grantable with_hierarchy",
        &rows.collect::<Vec<_>>(),
    )
}
