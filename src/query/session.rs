//! DataFusion sessions over the store's tables.
//!
//! A session knows one catalog, [`CATALOG`]. Each pipeline is a schema in it (`sweep.sim`); tables that are written
//! without a schema are looked up in [`SCHEMA`]. Sessions never write tables, and open no file but the parts of the
//! tables that were registered.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::context::SessionContext;
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;

use super::errors::Raised;
use super::functions;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::store::TableHandle;

/// The catalog of every session.
pub const CATALOG: &str = "pipe";
/// The schema of tables that are written without one.
pub const SCHEMA: &str = "public";

/// How much of the machine a session may use. Changes no row of a result.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Partitions in which plans run.
    pub target_partitions: usize,
    /// Bytes that operators may hold before they spill to the temporary folder.
    pub memory_bytes: usize,
}

impl SessionOptions {
    /// As many partitions as threads, and half of the machine's memory.
    pub fn threads(threads: usize) -> Self {
        SessionOptions { target_partitions: threads.max(1), memory_bytes: half_of_memory() }
    }
}

/// Half of what the machine has; 4 GiB where it does not say.
fn half_of_memory() -> usize {
    const FALLBACK: usize = 4 << 30;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return FALLBACK };
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<usize>().ok())
        .map_or(FALLBACK, |kib| kib * 512)
}

/// A session without tables, with the functions of pipe.
///
/// # Errors
/// The temporary folder cannot be used.
pub fn context(options: &SessionOptions) -> Result<SessionContext> {
    let mut config = SessionConfig::new()
        .with_target_partitions(options.target_partitions)
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, SCHEMA);
    let parser = &mut config.options_mut().sql_parser;
    // Diagnostics point at the place in the SQL.
    parser.collect_spans = true;
    // Text is Utf8 in stored tables: every reader knows it.
    parser.map_string_types_to_utf8view = false;
    config.options_mut().execution.parquet.schema_force_view_types = false;

    let consumers = std::num::NonZeroUsize::MIN.saturating_add(4);
    let pool = TrackConsumersPool::new(GreedyMemoryPool::new(options.memory_bytes), consumers);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .build_arc()
        .map_err(|e| Failure::stage("query::session", format!("cannot start the query engine: {e}")))?;
    let state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    let ctx = SessionContext::new_with_state(state);
    ctx.register_catalog(CATALOG, Arc::new(MemoryCatalogProvider::new()));
    schema(&ctx, SCHEMA)?;
    functions::aggregates().into_iter().for_each(|f| ctx.register_udaf(f));
    functions::scalars().into_iter().for_each(|f| ctx.register_udf(f));
    let concat = Arc::new(functions::concat::ConcatRewrite(Arc::new(functions::concat::Concat::udf())));
    ctx.state_ref().write().register_function_rewrite(concat).map_err(internal)?;
    Ok(ctx)
}

/// The schema `name` of the session, made if it is new.
///
/// # Errors
/// None in practice: the catalog lies in memory.
pub fn schema(ctx: &SessionContext, name: &str) -> Result<Arc<dyn SchemaProvider>> {
    let catalog = ctx
        .catalog(CATALOG)
        .ok_or_else(|| Failure::stage("query::session", format!("the session has no catalog `{CATALOG}`")))?;
    if let Some(schema) = catalog.schema(name) {
        return Ok(schema);
    }
    let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
    catalog.register_schema(name, schema.clone()).map_err(internal)?;
    Ok(schema)
}

/// Makes `table` known as `name` in the schema `schema_name`, in place of what was there.
///
/// # Errors
/// None in practice: the catalog lies in memory.
pub fn register(ctx: &SessionContext, schema_name: &str, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
    let schema = schema(ctx, schema_name)?;
    schema.deregister_table(name).map_err(internal)?;
    schema.register_table(name.to_string(), table).map_err(internal)?;
    Ok(())
}

/// A stored table as DataFusion reads it: its parts, with the schema that the store knows.
///
/// # Errors
/// A part that is missing, or a path that is not valid.
pub fn provider(handle: &TableHandle) -> Result<Arc<dyn TableProvider>> {
    parts_provider(&handle.schema, &handle.parts)
}

/// Parquet files of one schema as a table.
///
/// # Errors
/// A file that is missing, or a path that is not valid.
pub fn parts_provider(schema: &SchemaRef, parts: &[std::path::PathBuf]) -> Result<Arc<dyn TableProvider>> {
    if parts.is_empty() {
        return Ok(Arc::new(EmptyTable::new(schema.clone())));
    }
    // DataFusion takes a file that is not there for a folder without files: no rows, and no error.
    if let Some(missing) = parts.iter().find(|p| !p.is_file()) {
        let what = format!("a part of a table is missing: {}", missing.display());
        let problem = Diagnostic::new("query::part", what).help("`pipe run` makes the table again");
        return Err(Failure { exit: Exit::Stage, diagnostics: vec![problem] });
    }
    let urls = parts.iter().map(|p| url(p)).collect::<Result<Vec<_>>>()?;
    let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("");
    let config =
        ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema.clone());
    let files = ListingTable::try_new(config).map_err(internal)?;
    Ok(Arc::new(Parts { files, paths: parts.to_vec() }))
}

/// A table of files that must all be there. DataFusion takes a file that is gone for a folder without files: fewer rows, and
/// no error.
#[derive(Debug)]
struct Parts {
    files: ListingTable,
    paths: Vec<std::path::PathBuf>,
}

#[async_trait]
impl TableProvider for Parts {
    fn schema(&self) -> SchemaRef {
        self.files.schema()
    }

    fn table_type(&self) -> TableType {
        self.files.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        self.files.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if self.paths.iter().any(|p| !p.is_file()) {
            return Err(Raised::Gone.into());
        }
        self.files.scan(state, projection, filters, limit).await
    }
}

/// The path as URL. Written out, because DataFusion takes `*`, `?` and `[` in a plain path for a pattern.
fn url(path: &Path) -> Result<ListingTableUrl> {
    let absolute = std::path::absolute(path).map_err(|e| crate::diag::io(path, "find", &e))?;
    let mut text = String::from("file://");
    for byte in absolute.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    ListingTableUrl::parse(&text).map_err(internal)
}

fn internal(e: DataFusionError) -> Failure {
    Failure::stage("query::session", e.strip_backtrace())
}

/// Names of all aggregates, those of DataFusion and ours.
pub fn aggregate_names() -> &'static BTreeSet<String> {
    static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let ours = functions::aggregates().into_iter().map(Arc::new);
        datafusion::functions_aggregate::all_default_aggregate_functions()
            .into_iter()
            .chain(ours)
            .flat_map(|f| f.aliases().iter().cloned().chain([f.name().to_string()]).collect::<Vec<_>>())
            .collect()
    })
}
