//! Functions whose value depends on who asks: the user, the settings, the schema that comes first.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{ArrayRef, ListArray, StringArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{ScalarUDF, Volatility, create_udf};
use datafusion::scalar::ScalarValue;

use super::of_texts;
use crate::query::session::{CATALOG, SCHEMA};
use crate::serve::postgres::catalog::Catalog;
use crate::serve::postgres::settings::{SERVER_VERSION, Settings};

type Shared = Arc<Mutex<Settings>>;

/// Registers them in the session of a connection.
pub fn register_own(
    ctx: &SessionContext,
    catalog: &Arc<Catalog>,
    settings: &Shared,
    user: &str,
    pid: i32,
    client: SocketAddr,
) {
    let text = |name: &str, value: String| of_texts(name, 0..=0, DataType::Utf8, move |_| Ok(Some(value.clone())));
    let int = |name: &str, value: i32| of_texts(name, 0..=0, DataType::Int32, move |_| Ok(Some(value.to_string())));
    let version = format!(
        "PostgreSQL {SERVER_VERSION} (pipe {}, DataFusion {})",
        env!("CARGO_PKG_VERSION"),
        datafusion::DATAFUSION_VERSION
    );
    let mut all: Vec<ScalarUDF> = vec![
        text("version", version),
        text("current_database", CATALOG.to_string()),
        text("current_catalog", CATALOG.to_string()),
        text("inet_client_addr", client.ip().to_string()),
        int("inet_client_port", i32::from(client.port())),
        int("pg_backend_pid", pid),
        current_schemas(settings),
        is_visible(catalog, settings),
    ];
    all.extend(["session_user", "current_user", "user", "current_role"].map(|name| text(name, user.to_string())));
    let path = settings.clone();
    all.push(of_texts("current_schema", 0..=0, DataType::Utf8, move |_| Ok(Some(first(&path)))));
    all.push(current_setting(settings));
    all.push(set_config());
    for function in all {
        ctx.register_udf(function);
    }
}

fn lock(settings: &Shared) -> std::sync::MutexGuard<'_, Settings> {
    settings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The schema that comes first in the search path.
fn first(settings: &Shared) -> String {
    lock(settings).path().into_iter().next().unwrap_or_else(|| SCHEMA.to_string())
}

fn refused(fault: crate::serve::postgres::fault::Fault) -> DataFusionError {
    DataFusionError::Execution(fault.message)
}

/// `current_setting(name)`, and with `true` NULL where there is none of that name.
fn current_setting(settings: &Shared) -> ScalarUDF {
    let settings = settings.clone();
    of_texts("current_setting", 1..=2, DataType::Utf8, move |args| {
        let Some(name) = args[0] else { return Ok(None) };
        match lock(&settings).get(name) {
            Ok(value) => Ok(Some(value.to_string())),
            Err(_) if args.get(1).copied().flatten() == Some("true") => Ok(None),
            Err(fault) => Err(refused(fault)),
        }
    })
}

/// `set_config(name, value, is_local)` where it is planned; a SELECT that is made of it never calls it.
fn set_config() -> ScalarUDF {
    let body = |_: &[datafusion::logical_expr::ColumnarValue]| {
        exec_err!("set_config() is possible here as a column of a SELECT without FROM, with constants")
    };
    let args = vec![DataType::Utf8, DataType::Utf8, DataType::Boolean];
    create_udf("set_config", args, DataType::Utf8, Volatility::Volatile, Arc::new(body))
}

/// Whether a table is found by its name alone.
fn is_visible(catalog: &Arc<Catalog>, settings: &Shared) -> ScalarUDF {
    let (catalog, settings) = (catalog.clone(), settings.clone());
    of_texts("pg_table_is_visible", 1..=1, DataType::Boolean, move |args| {
        let (Some(oid), Some(content)) = (args[0].and_then(|o| o.parse().ok()), catalog.now()) else { return Ok(None) };
        let path = lock(&settings).path();
        let known = |s: &&String| content.relations.schemas().contains_key(*s);
        let first = path.iter().find(known).map_or(SCHEMA, String::as_str);
        let relation = content.relations.by_oid(oid);
        Ok(relation.map(|r| (r.schema == first || r.schema == "pg_catalog").to_string()))
    })
}

/// The search path; with `true` with the schemas that are in it anyway.
fn current_schemas(settings: &Shared) -> ScalarUDF {
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let kind = DataType::List(item.clone());
    let settings = settings.clone();
    let body = move |args: &[datafusion::logical_expr::ColumnarValue]| -> Result<_> {
        let mut path = lock(&settings).path();
        let implicit = match &args[0] {
            datafusion::logical_expr::ColumnarValue::Scalar(ScalarValue::Boolean(b)) => b.unwrap_or(false),
            _ => false,
        };
        if implicit {
            path.insert(0, "pg_catalog".to_string());
        }
        let values: ArrayRef = Arc::new(StringArray::from(path.clone()));
        let list = ListArray::try_new(item.clone(), OffsetBuffer::from_lengths([path.len()]), values, None)?;
        Ok(datafusion::logical_expr::ColumnarValue::Scalar(ScalarValue::List(Arc::new(list))))
    };
    create_udf("current_schemas", vec![DataType::Boolean], kind, Volatility::Stable, Arc::new(body))
}
