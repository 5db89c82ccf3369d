//! `pipe sql`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Done, cores, project, runtime};
use crate::diag::{self, Exit, Result};
use crate::query::{Engine, function_docs, output};
use crate::store::Store;

#[derive(Args, Debug)]
pub struct SqlArgs {
    /// The query
    #[arg(required_unless_present_any = ["file", "functions"], conflicts_with = "file")]
    query: Option<String>,
    /// Read the query from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Tables without a pipeline's name are those of this pipeline
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// List pipe's own SQL functions
    #[arg(long)]
    functions: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for reading
    Table,
    /// CSV with a header
    Csv,
    /// A JSON array, one object per line
    Json,
    /// A Parquet file
    Parquet,
    /// An Arrow IPC stream
    Arrow,
}

impl From<Format> for output::Format {
    fn from(f: Format) -> Self {
        match f {
            Format::Table => output::Format::Table,
            Format::Csv => output::Format::Csv,
            Format::Json => output::Format::Json,
            Format::Parquet => output::Format::Parquet,
            Format::Arrow => output::Format::Arrow,
        }
    }
}

/// An engine over everything that is published.
pub(super) async fn engine(root: Option<PathBuf>, pipeline: Option<&str>) -> Result<Engine> {
    let project = project(root, std::path::Path::new("."))?;
    let store = Store::open(&project)?;
    let mut tables = Vec::new();
    for published in store.published() {
        let handle = store.published_handle(&published)?;
        tables.push((published.pipeline, handle));
    }
    Engine::open(&project, tables, pipeline, cores()).await
}

pub(super) fn sql(root: Option<PathBuf>, args: SqlArgs) -> Done {
    if args.functions {
        for f in function_docs() {
            say!("{}\n    {}\n    {}\n", f.syntax, f.description, f.example);
        }
        return Ok(Exit::Ok);
    }
    let text = match (&args.file, args.query) {
        (Some(file), _) => std::fs::read_to_string(file).map_err(|e| diag::io(file, "read", &e))?,
        (None, query) => query.unwrap_or_default(),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout());
    output::Format::from(args.format).check_target(std::io::stdout().is_terminal())?;
    let sources = diag::Sources([("<sql>".into(), text.as_str().into())].into());
    let done = runtime(cores())?.block_on(async {
        let engine = engine(root, args.pipeline.as_deref()).await?;
        let rows = engine.sql(&text).await?;
        output::write(rows, args.format.into(), &mut out).await?;
        out.flush().map_err(|e| diag::io(std::path::Path::new("<standard output>"), "write", &e))
    });
    done.map_err(|failure| super::Reported { failure, sources })?;
    Ok(Exit::Ok)
}
