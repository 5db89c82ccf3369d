//! `pipe export`: a published table as a file.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Done, bytes, project, tables, thousands};
use crate::diag::{self, Diagnostic, Exit, Result};
use crate::spec::{ExportCompression, ExportFormat};
use crate::stage::export_files::{Settings, Sink};
use crate::store::{Store, TableHandle};
use crate::trace;

#[derive(Args, Debug)]
pub struct ExportArgs {
    /// `<pipeline>.<table>`, or `<table>` where only one pipeline has it
    table: String,
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How to write it. Default: by the ending of the file
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// CSV with a header
    Csv,
    /// A JSON object per line
    Jsonl,
    /// A Parquet file
    Parquet,
    /// An Arrow IPC file
    Arrow,
    /// An Excel workbook
    Xlsx,
}

impl From<Format> for ExportFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Csv => ExportFormat::Csv,
            Format::Jsonl => ExportFormat::Jsonl,
            Format::Parquet => ExportFormat::Parquet,
            Format::Arrow => ExportFormat::Arrow,
            Format::Xlsx => ExportFormat::Xlsx,
        }
    }
}

pub(super) fn export(root: Option<PathBuf>, args: ExportArgs) -> Done {
    let store = Store::open(&project(root, Path::new("."))?)?;
    let published = store.published();
    let handle = store.published_handle(tables::find(&published, &args.table)?)?;
    let settings = settings(&args.output, args.format)?;
    if args.output.is_dir() || (args.output.exists() && !args.force) {
        let message = format!("`{}` is there already", args.output.display());
        let help = "--force replaces a file; or name another with --output";
        return Err(diag::Failure::from(Diagnostic::new("cli::exists", message).help(help)).into());
    }
    // A file in the making is not taken for a whole one.
    let folder = super::folder(&args.output);
    let name = args.output.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let making = folder.join(format!(".{name}.tmp-{}", std::process::id()));
    let written = write(&handle, &settings, &making).and_then(|lost| {
        std::fs::rename(&making, &args.output).map_err(|e| diag::io(&args.output, "write", &e))?;
        Ok(lost)
    });
    let lost = written.inspect_err(|_| {
        let _ = std::fs::remove_file(&making);
    })?;
    let size = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    tell!("{}: {} rows, {}", args.output.display(), thousands(handle.rows), bytes(size));
    lost.iter().for_each(|line| tell!("  {line}"));
    Ok(Exit::Ok)
}

/// Writes the file; what the format could not hold, in words.
fn write(handle: &TableHandle, settings: &Settings, path: &Path) -> Result<Vec<String>> {
    let mut sink = Sink::create(settings, &handle.name, &handle.schema, path)?;
    for batch in trace::parts(&handle.parts)? {
        sink.write(&batch?)?;
    }
    let lost = sink.finish()?;
    let names: Vec<&str> =
        lost.cut.iter().filter_map(|c| handle.schema.fields().get(*c)).map(|f| f.name().as_str()).collect();
    let mut lines = Vec::new();
    if !names.is_empty() {
        lines.push(format!("longer than a cell, and cut: values of {}", names.join(", ")));
    }
    if lost.as_text > 0 {
        lines.push(format!("text instead of a number or a day: {} values", lost.as_text));
    }
    if lost.rounded > 0 {
        lines.push(format!("rounded to milliseconds: {} times", lost.rounded));
    }
    Ok(lines)
}

/// How the ending of a file's name says to write it, unless the format is given.
fn settings(file: &Path, format: Option<Format>) -> Result<Settings> {
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_lowercase();
    let (name, compression) = match name.rsplit_once('.') {
        Some((rest, "gz")) => (rest, Some(ExportCompression::Gzip)),
        Some((rest, "zst")) => (rest, Some(ExportCompression::Zstd)),
        _ => (name.as_str(), None),
    };
    let by_name = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("csv") => Some(Format::Csv),
        Some("jsonl" | "ndjson") => Some(Format::Jsonl),
        Some("parquet") => Some(Format::Parquet),
        Some("arrow" | "feather") => Some(Format::Arrow),
        Some("xlsx") => Some(Format::Xlsx),
        _ => None,
    };
    let Some(format) = format.or(by_name) else {
        let message = format!("the ending of `{}` says no format", file.display());
        let help =
            "give --format csv, jsonl, parquet, arrow or xlsx, or end the name so (csv and jsonl also with .gz, .zst)";
        return Err(Diagnostic::new("cli::format", message).help(help).into());
    };
    if compression.is_some() && !matches!(format, Format::Csv | Format::Jsonl) {
        let message = format!("`{}`: only CSV and JSON lines are packed so", file.display());
        return Err(Diagnostic::new("cli::format", message).help("leave out `.gz` and `.zst`").into());
    }
    Ok(Settings { format: format.into(), compression, row_group_rows: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_name_formats() {
        let check = |file: &str, expect: Option<(ExportFormat, Option<ExportCompression>)>| {
            let found = settings(Path::new(file), None).ok().map(|s| (s.format, s.compression));
            assert_eq!(found, expect, "{file}");
        };
        check("a/b.CSV", Some((ExportFormat::Csv, None)));
        check("b.csv.gz", Some((ExportFormat::Csv, Some(ExportCompression::Gzip))));
        check("b.jsonl.zst", Some((ExportFormat::Jsonl, Some(ExportCompression::Zstd))));
        check("b.parquet", Some((ExportFormat::Parquet, None)));
        check("b.xlsx", Some((ExportFormat::Xlsx, None)));
        check("b.xlsx.gz", None);
        check("b", None);
        check("b.txt", None);
    }
}
