//! `pg_catalog` and `information_schema` over the tables that are served.
//!
//! What depends on them is made here, anew when a run has published; types, operators and the like are the rows that the
//! crate `datafusion-pg-catalog` read from a PostgreSQL. An object has the same oid as long as it has its name, across
//! refreshes and starts. Keys, indexes, triggers and their like are tables without rows.

mod information;
mod relations;
mod sheet;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::{CatalogProvider, MemTable, MemoryCatalogProviderList, SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SessionContext;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_postgres::datafusion_pg_catalog::setup_pg_catalog;

use crate::query::session::CATALOG;
use crate::serve::service::Service;
use crate::serve::tables::{LiveCatalog, Snapshot, Tables};
pub use information::is_without_rows;
pub use relations::{OWNER, Relation, Relations};

/// The schema of the system's own tables.
pub const PG_CATALOG: &str = "pg_catalog";
/// The schema of the standard's.
pub const INFORMATION_SCHEMA: &str = "information_schema";

/// Tables of the catalog that have no row here, whatever is served.
pub const WITHOUT_ROWS: &[&str] = &[
    "pg_attrdef",
    "pg_auth_members",
    "pg_constraint",
    "pg_db_role_setting",
    "pg_default_acl",
    "pg_depend",
    "pg_enum",
    "pg_event_trigger",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_init_privs",
    "pg_largeobject",
    "pg_largeobject_metadata",
    "pg_matviews",
    "pg_partitioned_table",
    "pg_policy",
    "pg_policies",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_replication_origin",
    "pg_replication_slots",
    "pg_rewrite",
    "pg_rules",
    "pg_seclabel",
    "pg_sequence",
    "pg_sequences",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_statistic",
    "pg_statistic_ext",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stat_gssapi",
    "pg_subscription",
    "pg_subscription_rel",
    "pg_trigger",
    "pg_user_mapping",
    "pg_locks",
    "pg_prepared_xacts",
];

/// See the module.
pub struct Catalog {
    tables: Arc<Tables>,
    live: Arc<LiveCatalog>,
    /// What PostgreSQL has in any database.
    fixed: Arc<dyn SchemaProvider>,
    oids: Oids,
    now: RwLock<Option<(Arc<Snapshot>, Arc<Content>)>>,
}

/// What the tables of the catalog hold for one state of what is served.
pub struct Content {
    pub relations: Relations,
    sheets: BTreeMap<(&'static str, String), RecordBatch>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

/// A session whose catalogs are those of PostgreSQL; sessions of other protocols do not see them.
///
/// # Errors
/// The rows of the crate cannot be read.
pub fn session(service: &Arc<Service>) -> Result<(SessionContext, Arc<Catalog>)> {
    let mut state = SessionStateBuilder::new_from_existing(service.session().state())
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .build();
    // Ours has PostgreSQL's columns and names of types.
    state.config_mut().options_mut().catalog.information_schema = false;
    // Times with a time zone are told in this one.
    state.config_mut().options_mut().execution.time_zone = Some("+00:00".into());
    let ctx = SessionContext::new_with_state(state);
    let live = Arc::new(LiveCatalog::new(service.tables.clone()));
    ctx.register_catalog(CATALOG, live.clone());
    setup_pg_catalog(&ctx, CATALOG, EmptyContextProvider).map_err(|e| *e)?;
    let fixed = live.schema(PG_CATALOG).ok_or_else(|| DataFusionError::Internal("no pg_catalog".into()))?;
    let (oids, now) = (Oids::default(), RwLock::new(None));
    let catalog = Arc::new(Catalog { tables: service.tables.clone(), live: live.clone(), fixed, oids, now });
    for name in [PG_CATALOG, INFORMATION_SCHEMA] {
        live.register_schema(name, Arc::new(Schema { name, catalog: catalog.clone() }))?;
    }
    Ok((ctx, catalog))
}

impl Catalog {
    /// The schemas that can be named.
    pub fn schemas(&self) -> Vec<String> {
        self.live.schema_names()
    }

    /// The catalog of what is served right now.
    ///
    /// # Errors
    /// A table cannot be read.
    pub async fn refresh(&self) -> Result<Arc<Content>> {
        let snapshot = self.tables.now();
        if let Some(content) = self.known(&snapshot) {
            return Ok(content);
        }
        let mut relations = Relations::default();
        for schema in self.schemas() {
            relations.add_schema(&schema, self.oids.of_schema(&schema));
            let Some(provider) = self.live.schema(&schema) else { continue };
            let own = schema == PG_CATALOG || schema == INFORMATION_SCHEMA;
            for name in provider.table_names() {
                if own {
                    let oid = self.oids.of_relation(&schema, &name);
                    relations.add(Relation::of_system(&schema, &name, oid));
                } else if let Some(table) = provider.table(&name).await? {
                    let oid = self.oids.of_relation(&schema, &name);
                    relations.add(Relation::served(&schema, &name, oid, &table, &snapshot));
                }
            }
        }
        let mut sheets = relations.sheets()?;
        sheets.extend(information::sheets(&relations)?);
        let content = Arc::new(Content { relations, sheets });
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Some((snapshot, content.clone()));
        Ok(content)
    }

    fn known(&self, snapshot: &Arc<Snapshot>) -> Option<Arc<Content>> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.as_ref().filter(|(of, _)| Arc::ptr_eq(of, snapshot)).map(|(_, content)| content.clone())
    }

    /// As [`Catalog::refresh`] left it.
    pub fn now(&self) -> Option<Arc<Content>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, content)| content.clone())
    }
}

/// A schema of the catalog.
#[derive(Debug)]
struct Schema {
    name: &'static str,
    catalog: Arc<Catalog>,
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        let mut names: Vec<String> = relations::NAMES.iter().chain(WITHOUT_ROWS).map(ToString::to_string).collect();
        if self.name == PG_CATALOG {
            names.extend(self.catalog.fixed.table_names());
        } else {
            names = information::NAMES.iter().map(ToString::to_string).collect();
        }
        names.sort();
        names.dedup();
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let content = self.catalog.refresh().await?;
        if let Some(batch) = content.sheets.get(&(self.name, name.to_string())) {
            return Ok(Some(table(batch.clone())?));
        }
        if self.name != PG_CATALOG {
            return Ok(None);
        }
        let fixed = self.catalog.fixed.table(name).await?;
        match (fixed, WITHOUT_ROWS.contains(&name)) {
            (Some(fixed), true) => Ok(Some(table(RecordBatch::new_empty(fixed.schema()))?)),
            (fixed, _) => Ok(fixed),
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::View))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|n| n == name)
    }
}

fn table(batch: RecordBatch) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}

/// Numbers of objects: from their names, so that they stay.
#[derive(Default)]
struct Oids {
    taken: Mutex<BTreeMap<i32, String>>,
}

/// The first that PostgreSQL gives to what users make.
const FIRST: u32 = 16_384;

impl Oids {
    fn of_schema(&self, name: &str) -> i32 {
        match name {
            PG_CATALOG => 11,
            "public" => 2200,
            name => self.of(&format!("schema {name}")),
        }
    }

    fn of_relation(&self, schema: &str, name: &str) -> i32 {
        let known = match (schema, name) {
            (PG_CATALOG, "pg_type") => Some(1247),
            (PG_CATALOG, "pg_attribute") => Some(1249),
            (PG_CATALOG, "pg_proc") => Some(1255),
            (PG_CATALOG, "pg_class") => Some(1259),
            (PG_CATALOG, "pg_authid") => Some(1260),
            (PG_CATALOG, "pg_database") => Some(1262),
            (PG_CATALOG, "pg_constraint") => Some(2606),
            (PG_CATALOG, "pg_namespace") => Some(2615),
            _ => None,
        };
        known.unwrap_or_else(|| self.of(&format!("table {schema} {name}")))
    }

    fn of(&self, key: &str) -> i32 {
        let hash = blake3::hash(key.as_bytes());
        let bytes = hash.as_bytes();
        let hash = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let span = i32::MAX as u32 - FIRST;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut oid = (FIRST + hash % span) as i32;
        while taken.get(&oid).is_some_and(|k| k != key) {
            oid = if oid == i32::MAX { FIRST as i32 } else { oid + 1 };
        }
        taken.insert(oid, key.to_string());
        oid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oids_stay_and_differ() {
        let (a, b) = (Oids::default(), Oids::default());
        let of_a: Vec<i32> = (0..2000).map(|i| a.of_relation("s", &format!("t{i}"))).collect();
        let of_b: Vec<i32> = (0..2000).rev().map(|i| b.of_relation("s", &format!("t{i}"))).rev().collect();
        assert_eq!(of_a, of_b);
        let distinct: std::collections::BTreeSet<i32> = of_a.iter().copied().collect();
        assert!(distinct.len() == 2000 && of_a.iter().all(|o| *o >= FIRST as i32));
        // One that is taken by another name goes to the next.
        let oid = a.of("x");
        a.taken.lock().unwrap().insert(oid, "other".into());
        assert_eq!(a.of("x"), oid + 1);
    }
}
