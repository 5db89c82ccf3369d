//! The tables that are served: those of each pipeline's last good run, swapped as a whole when a new one is published.
//!
//! A query keeps the tables with which it was planned: results in the store are never changed, so it sees one run from
//! its first row to its last, whatever is published meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use datafusion::catalog::{CatalogProvider, SchemaProvider};
use datafusion::error::Result as DataFusionResult;

use crate::diag::{Diagnostic, Failure, Result, nearest};
use crate::query::session::CATALOG;
use crate::query::{Engine, ViewStatus, errors::Names};
use crate::store::{Entry, Hash, Published, RunRecord, RunStatus, Store, TableHandle};

/// What is served right now.
pub struct Snapshot {
    catalog: Arc<dyn CatalogProvider>,
    /// Valid names, for messages.
    pub names: Names,
    pub views: Vec<ViewStatus>,
    /// Tables by pipeline, in the order of their names.
    pub tables: Vec<ServedTable>,
    /// When it was loaded.
    pub at: SystemTime,
}

/// A table of a pipeline.
#[derive(Clone, Debug)]
pub struct ServedTable {
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
    /// Of the result that it is a table of.
    pub fingerprint: Hash,
    pub handle: TableHandle,
    /// Bytes of its parts.
    pub bytes: u64,
    /// Seconds since 1970 when it was made.
    pub made_unix_s: u64,
}

/// The tables of a project, kept up to date.
pub struct Tables {
    store: Store,
    /// Only these pipelines; all if empty.
    only: Vec<String>,
    threads: usize,
    now: RwLock<Arc<Snapshot>>,
    seen: RwLock<Seen>,
}

/// What tells that something was published: folders in which files are replaced, and when that was last.
type Seen = Vec<(PathBuf, Option<SystemTime>)>;

impl Tables {
    /// Loads what is published.
    ///
    /// # Errors
    /// A pipeline of `only` that has no results; views that cannot be read.
    pub async fn open(store: Store, only: Vec<String>, threads: usize) -> Result<Arc<Tables>> {
        let known = store.pipelines();
        for name in &only {
            if !known.contains(name) {
                let help = match nearest(name, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "run it first: pipe run FILE".to_string(),
                };
                let what = format!("pipeline `{name}` has no results");
                return Err(Diagnostic::new("serve::pipeline", what).help(help).into());
            }
        }
        let seen = changed(&store);
        let snapshot = load(&store, &only, threads).await?;
        let (now, seen) = (RwLock::new(Arc::new(snapshot)), RwLock::new(seen));
        Ok(Arc::new(Tables { store, only, threads, now, seen }))
    }

    /// What is served right now.
    pub fn now(&self) -> Arc<Snapshot> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a pipeline is among those that are served.
    pub fn serves(&self, pipeline: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|p| p == pipeline)
    }

    /// Loads the tables again if something was published since. Returns whether it did.
    ///
    /// # Errors
    /// What is there cannot be read; what was served before still is.
    pub async fn refresh(&self) -> Result<bool> {
        let seen = changed(&self.store);
        if *self.seen.read().unwrap_or_else(PoisonError::into_inner) == seen {
            return Ok(false);
        }
        let snapshot = load(&self.store, &self.only, self.threads).await?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = seen;
        Ok(true)
    }
}

/// The folders that change when something is published, a run ends, or a view is written.
fn changed(store: &Store) -> Seen {
    let mut paths = vec![store.root().join("pipelines"), store.root().join("runs")];
    let views = store.project().join("queries/views");
    paths.extend(std::fs::read_dir(&views).into_iter().flatten().flatten().map(|e| e.path()));
    paths.push(views);
    paths.sort();
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    paths.into_iter().map(|p| (p.clone(), modified(&p))).collect()
}

async fn load(store: &Store, only: &[String], threads: usize) -> Result<Snapshot> {
    let of = store.clone();
    let tables = tokio::task::spawn_blocking(move || good_tables(&of))
        .await
        .map_err(|e| Failure::stage("serve::load", format!("cannot read the store: {e}")))?;
    let tables: Vec<ServedTable> =
        tables.into_iter().filter(|t| only.is_empty() || only.contains(&t.pipeline)).collect();
    let handles = tables.iter().map(|t| (t.pipeline.clone(), t.handle.clone())).collect();
    let engine = Engine::open(store.project(), handles, None, threads).await?;
    let catalog = engine
        .context()
        .catalog(CATALOG)
        .ok_or_else(|| Failure::stage("serve::load", format!("the session has no catalog `{CATALOG}`")))?;
    let (names, views) = (engine.names().clone(), engine.views().to_vec());
    Ok(Snapshot { catalog, names, views, tables, at: SystemTime::now() })
}

/// The tables of every pipeline as its last good run left them. Where none ended well, what was published so far.
fn good_tables(store: &Store) -> Vec<ServedTable> {
    let runs = store.runs();
    let mut found: BTreeMap<(String, String), ServedTable> = BTreeMap::new();
    let mut published: BTreeMap<String, Vec<Published>> = BTreeMap::new();
    for table in store.published() {
        published.entry(table.pipeline.clone()).or_default().push(table);
    }
    for (pipeline, tables) in published {
        let of: Vec<&RunRecord> = runs.iter().filter(|r| r.pipeline == pipeline).collect();
        let good = |r: &&&RunRecord| matches!(r.status, RunStatus::Finished | RunStatus::Violated);
        let unfinished = of.first().is_some_and(|newest| !good(&newest));
        let good: Vec<&RunRecord> = of.iter().filter(good).copied().collect();
        let mut of_good_run = BTreeSet::new();
        if unfinished {
            for table in good.iter().flat_map(|run| from_run(store, &pipeline, run)) {
                // The newest good run in which a stage took part decides for all its tables.
                let (stage, name) = (table.stage.clone(), table.handle.name.clone());
                if of_good_run.insert((stage, name.clone())) {
                    found.entry((pipeline.clone(), name)).or_insert(table);
                }
            }
        }
        if !unfinished || good.is_empty() {
            for p in tables {
                match store.published_handle(&p) {
                    Ok(handle) => {
                        found.insert(
                            (pipeline.clone(), p.table.clone()),
                            served(&pipeline, &p.stage, &p.manifest, handle),
                        );
                    }
                    Err(failure) => tracing::warn!("{}.{} is not served: {failure}", p.pipeline, p.table),
                }
            }
        }
    }
    found.into_values().collect()
}

/// The tables of the stages that took part in a run.
fn from_run(store: &Store, pipeline: &str, run: &RunRecord) -> Vec<ServedTable> {
    let mut tables = Vec::new();
    for stage in &run.stages {
        let Some(Entry::Found(manifest)) = stage.fingerprint.as_ref().map(|f| store.entry(f)) else { continue };
        for table in &manifest.tables {
            let name = manifest.table_as(&stage.name, table);
            if let Ok(handle) = store.handle_as(&manifest, &stage.name, &name) {
                tables.push(served(pipeline, &stage.name, &manifest, handle));
            }
        }
    }
    tables
}

fn served(pipeline: &str, stage: &str, manifest: &crate::store::Manifest, handle: TableHandle) -> ServedTable {
    let parts = manifest.tables.iter().filter(|t| manifest.table_as(stage, t) == handle.name).flat_map(|t| &t.parts);
    ServedTable {
        pipeline: pipeline.to_string(),
        stage: stage.to_string(),
        kind: manifest.recipe.kind.clone(),
        fingerprint: manifest.fingerprint.clone(),
        bytes: parts.map(|p| p.bytes).sum(),
        made_unix_s: manifest.finished_unix_s,
        handle,
    }
}

/// The catalog of a session of a server: the schemas of [`Tables`] as they are at each look, and those of the protocol
/// (`pg_catalog`), which stay.
pub struct LiveCatalog {
    tables: Arc<Tables>,
    own: RwLock<BTreeMap<String, Arc<dyn SchemaProvider>>>,
}

impl LiveCatalog {
    pub fn new(tables: Arc<Tables>) -> LiveCatalog {
        LiveCatalog { tables, own: RwLock::default() }
    }

    /// What it holds now, which stays: two lookups find tables of one run.
    pub fn pinned(&self) -> PinnedCatalog {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner).clone();
        PinnedCatalog { own, now: self.tables.now() }
    }
}

impl std::fmt::Debug for LiveCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LiveCatalog({:?})", self.schema_names())
    }
}

impl CatalogProvider for LiveCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.pinned().schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        own.or_else(|| self.tables.now().catalog.schema(name))
    }

    fn register_schema(
        &self,
        name: &str,
        schema: Arc<dyn SchemaProvider>,
    ) -> DataFusionResult<Option<Arc<dyn SchemaProvider>>> {
        Ok(self.own.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), schema))
    }
}

/// A [`LiveCatalog`] as it was at one moment.
pub struct PinnedCatalog {
    own: BTreeMap<String, Arc<dyn SchemaProvider>>,
    now: Arc<Snapshot>,
}

impl std::fmt::Debug for PinnedCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedCatalog({:?})", self.schema_names())
    }
}

impl CatalogProvider for PinnedCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.now.catalog.schema_names();
        names.extend(self.own.keys().cloned());
        names.sort();
        names.dedup();
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.own.get(name).cloned().or_else(|| self.now.catalog.schema(name))
    }
}
