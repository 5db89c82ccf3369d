//! Functions about objects of the catalog: comments, definitions, sizes, names and oids.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::ScalarUDF;
use datafusion_postgres::pgwire::api::Type;

use super::of_texts;
use crate::query::session::SCHEMA;
use crate::serve::postgres::catalog::{Catalog, Content, OWNER, Relation};

/// All of them.
pub fn all(catalog: &Arc<Catalog>) -> Vec<ScalarUDF> {
    let mut all = comments(catalog);
    all.extend(objects(catalog));
    all.extend(nothing());
    all.extend(sizes(catalog));
    all
}

fn content(catalog: &Catalog) -> Option<Arc<Content>> {
    catalog.now()
}

/// What a function tells about the relation whose oid is its first argument.
fn of_relation(
    name: &str,
    arity: std::ops::RangeInclusive<usize>,
    kind: DataType,
    catalog: &Arc<Catalog>,
    tell: impl Fn(&Relation, &[Option<&str>]) -> Option<String> + Send + Sync + 'static,
) -> ScalarUDF {
    let catalog = catalog.clone();
    of_texts(name, arity, kind, move |args| {
        let Some(content) = content(&catalog) else { return Ok(None) };
        let relation = match args[0].map(str::parse::<i32>) {
            Some(Ok(oid)) => content.relations.by_oid(oid),
            Some(Err(_)) => args[0].and_then(|name| named(&content, name)),
            None => None,
        };
        Ok(relation.and_then(|r| tell(r, args)))
    })
}

/// A relation by its name as SQL has it: with schema or without, with quotes or without.
fn named<'a>(content: &'a Content, name: &str) -> Option<&'a Relation> {
    let parts = parts(name)?;
    match parts.as_slice() {
        [name] => [SCHEMA, "pg_catalog"].iter().find_map(|s| content.relations.named(s, name)),
        [schema, name] | [_, schema, name] => content.relations.named(schema, name),
        _ => None,
    }
}

/// `a."B c"` as `a` and `B c`.
fn parts(name: &str) -> Option<Vec<String>> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    for c in name.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            c if quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    parts.push(part);
    (!quoted).then_some(parts)
}

fn comments(catalog: &Arc<Catalog>) -> Vec<ScalarUDF> {
    let told = |text: &str| (!text.is_empty()).then(|| text.to_string());
    vec![
        of_relation("obj_description", 1..=2, DataType::Utf8, catalog, move |r, _| told(&r.comment)),
        of_relation("col_description", 2..=2, DataType::Utf8, catalog, move |r, args| {
            let number: usize = args[1]?.parse().ok()?;
            told(&r.columns.get(number.checked_sub(1)?)?.comment)
        }),
        of_relation("pg_get_viewdef", 1..=2, DataType::Utf8, catalog, |r, _| r.definition.clone()),
        of_texts("shobj_description", 2..=2, DataType::Utf8, |_| Ok(None)),
    ]
}

fn objects(catalog: &Arc<Catalog>) -> Vec<ScalarUDF> {
    let (names, schemas, schema_names) = (catalog.clone(), catalog.clone(), catalog.clone());
    vec![
        of_texts("to_regclass", 1..=1, DataType::Int32, move |args| {
            let content = content(&names);
            let found = args[0].and_then(|name| named(content.as_ref()?, name).map(|r| r.oid));
            Ok(found.map(|oid| oid.to_string()))
        }),
        of_texts("to_regnamespace", 1..=1, DataType::Int32, move |args| {
            let name = args[0].map(|n| n.trim_matches('"').to_string());
            let content = content(&schemas);
            let found = name.and_then(|n| content.as_ref()?.relations.schemas().get(&n).copied());
            Ok(found.map(|oid| oid.to_string()))
        }),
        of_texts("to_regtype", 1..=1, DataType::Int32, |args| {
            Ok(args[0].and_then(type_named).map(|t| t.oid().to_string()))
        }),
        of_texts("to_regproc", 1..=1, DataType::Int32, |_| Ok(None)),
        of_texts("to_regrole", 1..=1, DataType::Int32, |_| Ok(None)),
        // Names of objects, as `oid::regclass::text` has them.
        of_relation("pg_name_of_class", 1..=1, DataType::Utf8, catalog, |r, _| {
            let bare = r.schema == SCHEMA || r.schema == "pg_catalog";
            Some(if bare { quoted(&r.name) } else { format!("{}.{}", quoted(&r.schema), quoted(&r.name)) })
        }),
        of_texts("pg_name_of_namespace", 1..=1, DataType::Utf8, move |args| {
            let oid = args[0].and_then(|o| o.parse::<i32>().ok());
            let content = content(&schema_names);
            let all = content.as_ref().map(|c| c.relations.schemas());
            Ok(all.and_then(|all| all.iter().find(|(_, o)| Some(**o) == oid)).map(|(name, _)| quoted(name)))
        }),
        of_texts("pg_name_of_type", 1..=1, DataType::Utf8, |args| {
            let kind = args[0].and_then(|o| o.parse::<u32>().ok()).and_then(Type::from_oid);
            Ok(kind.map(|t| t.name().to_string()).or_else(|| args[0].map(|_| "-".to_string())))
        }),
        of_texts("pg_get_userbyid", 1..=1, DataType::Utf8, |_| Ok(Some(OWNER.to_string()))),
    ]
}

/// With quotes where SQL needs them.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fits = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty();
    if fits { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn type_named(name: &str) -> Option<Type> {
    let name = name.trim().trim_start_matches("pg_catalog.").trim_matches('"').to_lowercase();
    let (name, array) = name.strip_suffix("[]").map_or((name.as_str(), false), |n| (n, true));
    let (scalar, list) = match name {
        "bool" | "boolean" => (Type::BOOL, Type::BOOL_ARRAY),
        "int2" | "smallint" => (Type::INT2, Type::INT2_ARRAY),
        "int4" | "int" | "integer" => (Type::INT4, Type::INT4_ARRAY),
        "int8" | "bigint" => (Type::INT8, Type::INT8_ARRAY),
        "float4" | "real" => (Type::FLOAT4, Type::FLOAT4_ARRAY),
        "float8" | "double precision" => (Type::FLOAT8, Type::FLOAT8_ARRAY),
        "numeric" | "decimal" => (Type::NUMERIC, Type::NUMERIC_ARRAY),
        "text" => (Type::TEXT, Type::TEXT_ARRAY),
        "varchar" | "character varying" => (Type::VARCHAR, Type::VARCHAR_ARRAY),
        "date" => (Type::DATE, Type::DATE_ARRAY),
        "timestamp" | "timestamp without time zone" => (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
        "timestamptz" | "timestamp with time zone" => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        "interval" => (Type::INTERVAL, Type::INTERVAL_ARRAY),
        "bytea" => (Type::BYTEA, Type::BYTEA_ARRAY),
        "json" => (Type::JSON, Type::JSON_ARRAY),
        "jsonb" => (Type::JSONB, Type::JSONB_ARRAY),
        "uuid" => (Type::UUID, Type::UUID_ARRAY),
        "oid" => (Type::OID, Type::OID_ARRAY),
        _ => return None,
    };
    Some(if array { list } else { scalar })
}

/// Functions that have nothing to tell here, or always the same.
fn nothing() -> Vec<ScalarUDF> {
    let null = |name: &str, arity| of_texts(name, arity, DataType::Utf8, |_| Ok(None));
    let same = |name: &str, arity, kind, value: &'static str| {
        of_texts(name, arity, kind, move |_| Ok(Some(value.to_string())))
    };
    let mut all = vec![
        null("pg_get_serial_sequence", 2..=2),
        null("pg_get_expr", 2..=3),
        null("pg_get_constraintdef", 1..=2),
        null("pg_get_indexdef", 1..=3),
        null("pg_get_ruledef", 1..=2),
        null("pg_get_triggerdef", 1..=2),
        null("pg_get_partkeydef", 1..=1),
        null("pg_get_functiondef", 1..=1),
        null("pg_get_function_result", 1..=1),
        null("pg_get_function_arguments", 1..=1),
        null("pg_get_function_identity_arguments", 1..=1),
        null("pg_tablespace_location", 1..=1),
        null("inet_server_addr", 0..=0),
        null("inet_server_port", 0..=0),
        null("pg_column_compression", 1..=1),
        same("pg_is_in_recovery", 0..=0, DataType::Boolean, "false"),
        same("pg_is_other_temp_schema", 1..=1, DataType::Boolean, "false"),
        same("pg_my_temp_schema", 0..=0, DataType::Int32, "0"),
        same("pg_advisory_unlock_all", 0..=0, DataType::Utf8, ""),
        same("txid_current", 0..=0, DataType::Int64, "1"),
        same("pg_current_xact_id", 0..=0, DataType::Int64, "1"),
        same("pg_stat_get_numscans", 1..=1, DataType::Int64, "0"),
        same("pg_relation_is_publishable", 1..=1, DataType::Boolean, "false"),
        of_texts("pg_encoding_to_char", 1..=1, DataType::Utf8, |args| {
            Ok(args[0].map(|n| if n == "6" { "UTF8" } else { "" }.to_string()))
        }),
        of_texts("pg_char_to_encoding", 1..=1, DataType::Int32, |args| {
            Ok(args[0].map(|name| if name.eq_ignore_ascii_case("utf8") { "6" } else { "-1" }.to_string()))
        }),
        same("getdatabaseencoding", 0..=0, DataType::Utf8, "UTF8"),
    ];
    // Who may read one may read all, and nobody may do anything else.
    for name in [
        "has_table_privilege",
        "has_column_privilege",
        "has_any_column_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_sequence_privilege",
        "has_function_privilege",
        "has_type_privilege",
    ] {
        all.push(of_texts(name, 2..=4, DataType::Boolean, |args| Ok(Some(may(args).to_string()))));
    }
    all.push(of_texts("pg_has_role", 2..=3, DataType::Boolean, |_| Ok(Some("true".into()))));
    for name in [
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_operator_is_visible",
        "pg_collation_is_visible",
        "pg_opclass_is_visible",
    ] {
        all.push(same(name, 1..=1, DataType::Boolean, "true"));
    }
    all
}

fn may(args: &[Option<&str>]) -> bool {
    let asked = args.last().copied().flatten().unwrap_or_default().to_lowercase();
    let one = |p: &str| ["select", "usage", "connect", "execute"].contains(&p.trim());
    asked.split(',').any(one)
}

fn sizes(catalog: &Arc<Catalog>) -> Vec<ScalarUDF> {
    let size = |name: &str, arity| of_relation(name, arity, DataType::Int64, catalog, |r, _| Some(r.bytes.to_string()));
    let whole = catalog.clone();
    vec![
        size("pg_relation_size", 1..=2),
        size("pg_table_size", 1..=1),
        size("pg_total_relation_size", 1..=1),
        of_texts("pg_indexes_size", 1..=1, DataType::Int64, |_| Ok(Some("0".into()))),
        of_texts("pg_database_size", 1..=1, DataType::Int64, move |_| {
            let served = |r: &&Relation| r.schema != SCHEMA;
            let sum = content(&whole).map(|c| c.relations.all().iter().filter(served).map(|r| r.bytes).sum::<i64>());
            Ok(sum.map(|s| s.to_string()))
        }),
        of_texts("pg_size_pretty", 1..=1, DataType::Utf8, |args| Ok(args[0].and_then(pretty))),
    ]
}

/// As PostgreSQL rounds: whole units, up from ten thousand and two hundred and forty of the smaller.
fn pretty(bytes: &str) -> Option<String> {
    let mut size = bytes.parse::<f64>().ok()?;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if size.abs() < 10.0 * 1024.0 {
            return Some(format!("{} {unit}", size.round()));
        }
        size /= 1024.0;
    }
    Some(format!("{} TB", size.round()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes() {
        for (name, expected) in [("a", vec!["a"]), ("S.\"B c\"", vec!["s", "B c"]), ("x.y.z", vec!["x", "y", "z"])] {
            assert_eq!(parts(name).unwrap(), expected);
        }
        assert_eq!(parts("\"a"), None);
        // The manual's own examples, and the edge.
        for (bytes, expected) in
            [("0", "0 bytes"), ("10239", "10239 bytes"), ("10240", "10 kB"), ("1099511627776", "1024 GB")]
        {
            assert_eq!(pretty(bytes).as_deref(), Some(expected));
        }
        assert_eq!(
            (quoted("a_1").as_str(), quoted("A b").as_str(), quoted("1a").as_str()),
            ("a_1", "\"A b\"", "\"1a\"")
        );
        assert_eq!(type_named("pg_catalog.int4[]"), Some(Type::INT4_ARRAY));
        assert!(may(&[Some("t"), Some("SELECT")]) && !may(&[Some("t"), Some("INSERT")]));
    }
}
