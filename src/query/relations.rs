//! What an engine has to query: tables, views and functions, for consoles.

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::{Documentation, TableType};

use super::errors::running;
use super::session::{self, CATALOG, SCHEMA};
use super::{Engine, function_docs};
use crate::diag::Result;

/// A table or a view.
#[derive(Clone, Debug)]
pub struct Relation {
    pub pipeline: String,
    pub name: String,
    /// Whether the name alone means this one.
    pub bare: bool,
    /// Columns, with unit and description in their metadata.
    pub schema: SchemaRef,
    pub is_view: bool,
    /// The SQL of a view.
    pub definition: Option<String>,
}

/// A function of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionEntry {
    pub name: String,
    /// `quantile(x, q)`; the name where nothing better is known.
    pub syntax: String,
    pub description: String,
    pub example: Option<String>,
    /// Whether pipe brings it, rather than DataFusion.
    pub ours: bool,
}

impl Engine {
    /// Every table, and every view that can be queried, by pipeline and name.
    ///
    /// # Errors
    /// None in practice: the catalog lies in memory.
    pub async fn relations(&self) -> Result<Vec<Relation>> {
        let Some(catalog) = self.ctx.catalog(CATALOG) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for pipeline in catalog.schema_names().into_iter().filter(|name| name != SCHEMA) {
            let schema = session::schema(&self.ctx, &pipeline)?;
            for name in schema.table_names() {
                let Some(table) = schema.table(&name).await.map_err(|e| running(&e))? else { continue };
                // The short name of another pipeline's table is another table.
                let short = session::schema(&self.ctx, SCHEMA)?.table(&name).await.map_err(|e| running(&e))?;
                found.push(Relation {
                    bare: short.is_some_and(|short| std::sync::Arc::ptr_eq(&short, &table)),
                    schema: table.schema(),
                    is_view: table.table_type() == TableType::View,
                    definition: table.get_table_definition().map(str::to_string),
                    pipeline: pipeline.clone(),
                    name,
                });
            }
        }
        found.sort_by(|a, b| (&a.pipeline, &a.name).cmp(&(&b.pipeline, &b.name)));
        Ok(found)
    }

    /// Every function by name, those of pipe with what `pipe sql --functions` says of them.
    pub fn functions(&self) -> Vec<FunctionEntry> {
        let state = self.ctx.state();
        self.names.functions.iter().map(|name| entry(&state, name)).collect()
    }
}

fn entry(state: &datafusion::execution::SessionState, name: &str) -> FunctionEntry {
    if let Some(doc) = function_docs().iter().find(|d| d.name == name) {
        return FunctionEntry {
            name: name.to_string(),
            syntax: doc.syntax.to_string(),
            description: doc.description.to_string(),
            example: Some(doc.example.to_string()),
            ours: true,
        };
    }
    let scalar = state.scalar_functions().get(name).and_then(|f| f.documentation());
    let aggregate = || state.aggregate_functions().get(name).and_then(|f| f.documentation());
    let window = || state.window_functions().get(name).and_then(|f| f.documentation());
    let doc: Option<&Documentation> = scalar.or_else(aggregate).or_else(window);
    FunctionEntry {
        name: name.to_string(),
        syntax: doc.map_or_else(|| format!("{name}(...)"), |d| d.syntax_example.clone()),
        description: doc.map_or_else(String::new, |d| d.description.clone()),
        example: None,
        ours: false,
    }
}
