//! Schemas, tables, views and columns as `pg_catalog` shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion_postgres::pgwire::api::Type;

use super::sheet::{Cell, Row, sheet};
use super::{INFORMATION_SCHEMA, PG_CATALOG};
use crate::query::session::{CATALOG, SCHEMA};
use crate::serve::postgres::encode::{pg_type, type_length};
use crate::serve::postgres::settings::Settings;
use crate::serve::tables::Snapshot;
use crate::table::{DESCRIPTION, UNIT};

/// Tables that are made here.
pub const NAMES: &[&str] = &[
    "pg_attribute",
    "pg_class",
    "pg_database",
    "pg_description",
    "pg_namespace",
    "pg_roles",
    "pg_settings",
    "pg_stat_activity",
    "pg_stat_user_tables",
    "pg_tables",
    "pg_user",
    "pg_views",
];

/// Who owns everything.
pub const OWNER: &str = "pipe";
const OWNER_OID: i32 = 10;
const DATABASE_OID: i32 = 5;
const PAGE: i64 = 8192;

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Type,
    pub nullable: bool,
    /// What it holds, with the unit of its values; may be empty.
    pub comment: String,
}

/// A table or view.
#[derive(Clone, Debug)]
pub struct Relation {
    pub oid: i32,
    pub schema: String,
    pub name: String,
    pub view: bool,
    pub columns: Vec<Column>,
    pub rows: i64,
    pub bytes: i64,
    /// May be empty.
    pub comment: String,
    /// The query of a view.
    pub definition: Option<String>,
}

impl Relation {
    /// One of the catalog itself.
    pub fn of_system(schema: &str, name: &str, oid: i32) -> Relation {
        Relation {
            oid,
            schema: schema.to_string(),
            name: name.to_string(),
            view: schema == INFORMATION_SCHEMA,
            columns: Vec::new(),
            rows: 0,
            bytes: 0,
            comment: String::new(),
            definition: None,
        }
    }

    /// One that is served.
    pub fn served(schema: &str, name: &str, oid: i32, table: &Arc<dyn TableProvider>, now: &Snapshot) -> Relation {
        let schema_of = table.schema();
        let columns = schema_of.fields().iter().map(|field| {
            let text = |key| field.metadata().get(key).map_or("", String::as_str);
            let comment = match (text(DESCRIPTION), text(UNIT)) {
                (about, "") => about.to_string(),
                ("", unit) => format!("[{unit}]"),
                (about, unit) => format!("{about} [{unit}]"),
            };
            Column { name: field.name().clone(), kind: pg_type(field), nullable: field.is_nullable(), comment }
        });
        let columns = columns.collect();
        let view = table.table_type() == TableType::View;
        let of = |t: &&crate::serve::tables::ServedTable| {
            t.handle.name == name && (t.pipeline == schema || schema == SCHEMA) && !view
        };
        let served = now.tables.iter().find(of);
        let comment = match served {
            Some(t) if t.stage == t.handle.name => format!("{} of pipeline {}", t.kind, t.pipeline),
            Some(t) => format!("of the stage {} ({}) of pipeline {}", t.stage, t.kind, t.pipeline),
            None => String::new(),
        };
        Relation {
            columns,
            view,
            rows: served.map_or(0, |t| i64::try_from(t.handle.rows).unwrap_or(i64::MAX)),
            bytes: served.map_or(0, |t| i64::try_from(t.bytes).unwrap_or(i64::MAX)),
            comment,
            definition: table.get_table_definition().map(|d| body(d).to_string()),
            ..Relation::of_system(schema, name, oid)
        }
    }

    pub fn is_system(&self) -> bool {
        self.schema == PG_CATALOG || self.schema == INFORMATION_SCHEMA
    }

    fn kind(&self) -> &'static str {
        if self.view { "v" } else { "r" }
    }
}

/// The query of `CREATE VIEW name AS query`.
fn body(definition: &str) -> &str {
    let upper = definition.to_ascii_uppercase();
    if !upper.trim_start().starts_with("CREATE") {
        return definition;
    }
    // The first one: columns of the query have their own.
    let at = [" AS ", " AS\n"].iter().filter_map(|word| upper.find(word)).min();
    at.map_or(definition, |i| definition[i + 4..].trim())
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Relations {
    schemas: BTreeMap<String, i32>,
    all: Vec<Relation>,
}

impl Relations {
    pub fn add_schema(&mut self, name: &str, oid: i32) {
        self.schemas.insert(name.to_string(), oid);
    }

    pub fn add(&mut self, relation: Relation) {
        self.all.push(relation);
    }

    /// Names and oids.
    pub fn schemas(&self) -> &BTreeMap<String, i32> {
        &self.schemas
    }

    pub fn all(&self) -> &[Relation] {
        &self.all
    }

    pub fn by_oid(&self, oid: i32) -> Option<&Relation> {
        self.all.iter().find(|r| r.oid == oid)
    }

    pub fn named(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.all.iter().find(|r| r.schema == schema && r.name == name)
    }

    /// The tables of `pg_catalog` that show them.
    ///
    /// # Errors
    /// None in practice.
    pub fn sheets(&self) -> Result<BTreeMap<(&'static str, String), RecordBatch>> {
        let sheets = [
            ("pg_namespace", self.pg_namespace()?),
            ("pg_class", self.pg_class()?),
            ("pg_attribute", self.pg_attribute()?),
            ("pg_description", self.pg_description()?),
            ("pg_tables", self.pg_tables()?),
            ("pg_views", self.pg_views()?),
            ("pg_database", pg_database()?),
            ("pg_roles", pg_roles()?),
            ("pg_user", pg_user()?),
            ("pg_settings", pg_settings()?),
            ("pg_stat_user_tables", self.pg_stat_user_tables()?),
            (
                "pg_stat_activity",
                sheet("datid:oid? datname:text? pid:int4 usename:text? state:text? query:text?", &[])?,
            ),
        ];
        Ok(sheets.into_iter().map(|(name, batch)| ((PG_CATALOG, name.to_string()), batch)).collect())
    }

    fn pg_namespace(&self) -> Result<RecordBatch> {
        let rows: Vec<Row> = self
            .schemas
            .iter()
            .map(|(name, oid)| {
                vec![("oid", (*oid).into()), ("nspname", name.as_str().into()), ("nspowner", OWNER_OID.into())]
            })
            .collect();
        sheet("oid:oid nspname:text nspowner:oid nspacl:texts? options:texts?", &rows)
    }

    fn pg_class(&self) -> Result<RecordBatch> {
        let rows: Vec<Row> = self
            .all
            .iter()
            .map(|r| {
                vec![
                    ("oid", r.oid.into()),
                    ("relname", r.name.as_str().into()),
                    ("relnamespace", self.schemas.get(&r.schema).copied().unwrap_or(0).into()),
                    ("relowner", OWNER_OID.into()),
                    ("relam", if r.view { 0 } else { 2 }.into()),
                    ("relpages", r.bytes.div_euclid(PAGE).into()),
                    ("reltuples", r.rows.into()),
                    ("relpersistence", "p".into()),
                    ("relkind", r.kind().into()),
                    ("relnatts", (r.columns.len() as i64).into()),
                    ("relhasrules", r.view.into()),
                    ("relispopulated", true.into()),
                    ("relreplident", "n".into()),
                ]
            })
            .collect();
        sheet(
            "oid:oid relname:text relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid relfilenode:oid \
             reltablespace:oid relpages:int4 reltuples:float4 relallvisible:int4 reltoastrelid:oid relhasindex:bool \
             relisshared:bool relpersistence:text relkind:text relnatts:int2 relchecks:int2 relhasrules:bool \
             relhastriggers:bool relhassubclass:bool relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool \
             relreplident:text relispartition:bool relrewrite:oid relfrozenxid:int4 relminmxid:int4 relacl:texts? \
             reloptions:texts? relpartbound:text?",
            &rows,
        )
    }

    fn pg_attribute(&self) -> Result<RecordBatch> {
        let rows: Vec<Row> = self
            .all
            .iter()
            .flat_map(|r| r.columns.iter().enumerate().map(move |(i, c)| (r, i, c)))
            .map(|(r, i, c)| {
                let length = type_length(&c.kind);
                let array = matches!(c.kind.kind(), tokio_postgres::types::Kind::Array(_));
                let textual = matches!(c.kind, Type::TEXT | Type::TEXT_ARRAY);
                vec![
                    ("attrelid", r.oid.into()),
                    ("attname", c.name.as_str().into()),
                    ("atttypid", (c.kind.oid() as i32).into()),
                    ("attstattarget", (-1).into()),
                    ("attlen", i32::from(length).into()),
                    ("attnum", (i as i64 + 1).into()),
                    ("attndims", i32::from(array).into()),
                    ("attcacheoff", (-1).into()),
                    ("atttypmod", (-1).into()),
                    ("attbyval", (length > 0 && length <= 8).into()),
                    ("attalign", "i".into()),
                    ("attstorage", if length > 0 { "p" } else { "x" }.into()),
                    ("attnotnull", (!c.nullable).into()),
                    ("attislocal", true.into()),
                    // That of the type `text`: nothing special about the column.
                    ("attcollation", if textual { 100 } else { 0 }.into()),
                ]
            })
            .collect();
        sheet(
            "attrelid:oid attname:text atttypid:oid attstattarget:int4 attlen:int2 attnum:int2 attndims:int4 \
             attcacheoff:int4 atttypmod:int4 attbyval:bool attalign:text attstorage:text attcompression:text \
             attnotnull:bool atthasdef:bool atthasmissing:bool attidentity:text attgenerated:text attisdropped:bool \
             attislocal:bool attinhcount:int4 attcollation:oid attacl:texts? attoptions:texts? attfdwoptions:texts? \
             attmissingval:text?",
            &rows,
        )
    }

    fn pg_description(&self) -> Result<RecordBatch> {
        let mut rows: Vec<Row> = Vec::new();
        for r in self.all.iter().filter(|r| !r.is_system()) {
            let comments = std::iter::once(&r.comment).chain(r.columns.iter().map(|c| &c.comment));
            for (i, comment) in comments.enumerate().filter(|(_, c)| !c.is_empty()) {
                rows.push(vec![
                    ("objoid", r.oid.into()),
                    ("classoid", 1259.into()),
                    ("objsubid", (i as i64).into()),
                    ("description", comment.as_str().into()),
                ]);
            }
        }
        sheet("objoid:oid classoid:oid objsubid:int4 description:text", &rows)
    }

    fn pg_tables(&self) -> Result<RecordBatch> {
        let rows: Vec<Row> = self.all.iter().filter(|r| !r.view).map(|r| owned(r, "tablename", "tableowner")).collect();
        sheet(
            "schemaname:text tablename:text tableowner:text tablespace:text? hasindexes:bool hasrules:bool \
             hastriggers:bool rowsecurity:bool",
            &rows,
        )
    }

    fn pg_views(&self) -> Result<RecordBatch> {
        let rows = self.all.iter().filter(|r| r.view).map(|r| {
            let mut row = owned(r, "viewname", "viewowner");
            row.extend(r.definition.as_deref().map(|d| ("definition", Cell::from(d))));
            row
        });
        sheet("schemaname:text viewname:text viewowner:text definition:text?", &rows.collect::<Vec<_>>())
    }

    fn pg_stat_user_tables(&self) -> Result<RecordBatch> {
        let rows = self.all.iter().filter(|r| !r.view && !r.is_system()).map(|r| {
            vec![
                ("relid", r.oid.into()),
                ("schemaname", r.schema.as_str().into()),
                ("relname", r.name.as_str().into()),
                ("n_live_tup", r.rows.into()),
            ]
        });
        sheet(
            "relid:oid schemaname:text relname:text seq_scan:int8 seq_tup_read:int8 idx_scan:int8 idx_tup_fetch:int8 \
             n_tup_ins:int8 n_tup_upd:int8 n_tup_del:int8 n_live_tup:int8 n_dead_tup:int8",
            &rows.collect::<Vec<Row>>(),
        )
    }
}

fn owned(r: &Relation, name: &'static str, owner: &'static str) -> Row {
    vec![("schemaname", r.schema.as_str().into()), (name, r.name.as_str().into()), (owner, OWNER.into())]
}

fn pg_database() -> Result<RecordBatch> {
    let row: Row = vec![
        ("oid", DATABASE_OID.into()),
        ("datname", CATALOG.into()),
        ("datdba", OWNER_OID.into()),
        ("encoding", 6.into()),
        ("datlocprovider", "c".into()),
        ("datcollate", "C".into()),
        ("datctype", "C".into()),
        ("datallowconn", true.into()),
        ("datconnlimit", (-1).into()),
        ("dattablespace", 1663.into()),
    ];
    sheet(
        "oid:oid datname:text datdba:oid encoding:int4 datlocprovider:text datistemplate:bool datallowconn:bool \
         datconnlimit:int4 datfrozenxid:int4 datminmxid:int4 dattablespace:oid datcollate:text datctype:text \
         daticulocale:text? daticurules:text? datcollversion:text? datacl:texts?",
        &[row],
    )
}

fn pg_roles() -> Result<RecordBatch> {
    let row: Row = vec![
        ("oid", OWNER_OID.into()),
        ("rolname", OWNER.into()),
        ("rolinherit", true.into()),
        ("rolcanlogin", true.into()),
        ("rolconnlimit", (-1).into()),
    ];
    sheet(
        "oid:oid rolname:text rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool rolcanlogin:bool \
         rolreplication:bool rolconnlimit:int4 rolpassword:text? rolvaliduntil:text? rolbypassrls:bool rolconfig:texts?",
        &[row],
    )
}

/// Settings as they are at first: what a connection changed is in SHOW.
fn pg_settings() -> Result<RecordBatch> {
    let rows = Settings::default().all().into_iter().map(|(name, value)| {
        let mut row: Row = vec![("name", name.into()), ("setting", value.as_str().into())];
        row.extend([("boot_val", value.as_str().into()), ("reset_val", value.into())]);
        row.extend([("context", "user".into()), ("vartype", "string".into()), ("source", "default".into())]);
        row
    });
    sheet(
        "name setting unit:text? category short_desc extra_desc:text? context vartype source min_val:text? max_val:text? \
         enumvals:texts? boot_val reset_val sourcefile:text? sourceline:int4? pending_restart:bool",
        &rows.collect::<Vec<_>>(),
    )
}

fn pg_user() -> Result<RecordBatch> {
    let row: Row = vec![("usename", OWNER.into()), ("usesysid", OWNER_OID.into())];
    sheet(
        "usename:text usesysid:oid usecreatedb:bool usesuper:bool userepl:bool usebypassrls:bool passwd:text? \
         valuntil:text? useconfig:texts?",
        &[row],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_view() {
        let cases = [
            ("CREATE VIEW a AS SELECT 1", "SELECT 1"),
            ("CREATE OR REPLACE VIEW \"a\" AS\nSELECT 1 AS x", "SELECT 1 AS x"),
            ("SELECT 1 AS x", "SELECT 1 AS x"),
        ];
        for (definition, expected) in cases {
            assert_eq!(body(definition), expected);
        }
    }
}
