//! `pipe export`: a published table as a file.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::output::{Output, is_stdout};
use super::{Done, bytes, project, tables, thousands};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{ExportCompression, ExportFormat};
use crate::stage::export_files::{Settings, Sink};
use crate::store::{Store, TableHandle};
use crate::trace;

#[derive(Args, Debug)]
pub struct ExportArgs {
    /// `<pipeline>.<table>`, or `<table>` where only one pipeline has it
    table: String,
    /// Where to write it; `-` for standard output
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
    let handle = store.published_handle(tables::find(&store, &published, &args.table)?)?;
    let settings = settings(&args.output, args.format)?;
    let to_stdout = is_stdout(&args.output);
    if to_stdout && std::io::stdout().is_terminal() && is_binary(&settings) {
        let what = "this format is binary, and the output is a terminal";
        return Err(Failure::from(Diagnostic::new("query::terminal", what).help("send it to a file: `> FILE`")).into());
    }
    // What is no file is written to, not replaced.
    if !args.force && !to_stdout && args.output.is_file() {
        let message = format!("`{}` is there already", args.output.display());
        let help = "--force replaces a file; or name another with --output";
        return Err(Failure::from(Diagnostic::new("cli::exists", message).help(help)).into());
    }
    let output = Output::new(&args.output)?;
    output.remove_on_interrupt();
    let lost = match write(&handle, &settings, &args.output, &output) {
        // A reader that went away (`| head`).
        Err(e) if to_stdout && e.to_string().contains("Broken pipe") => return Ok(Exit::Ok),
        written => written?,
    };
    output.done()?;
    let size =
        args.output.metadata().ok().filter(|m| !to_stdout && m.is_file()).map(|m| format!(", {}", bytes(m.len())));
    let name = if to_stdout { args.table.clone() } else { args.output.display().to_string() };
    tell!("{name}: {} rows{}", thousands(handle.rows), size.unwrap_or_default());
    lost.iter().for_each(|line| tell!("  {line}"));
    Ok(Exit::Ok)
}

fn is_binary(settings: &Settings) -> bool {
    settings.compression.is_some() || !matches!(settings.format, ExportFormat::Csv | ExportFormat::Jsonl)
}

/// Writes the rows; what the format could not hold, in words.
fn write(handle: &TableHandle, settings: &Settings, name: &Path, output: &Output) -> Result<Vec<String>> {
    let to = (output.file()?, output.scratch());
    let mut sink = Sink::over(settings, &handle.name, &handle.schema, name, (to.0, &to.1))?;
    for batch in trace::parts(&handle.parts)? {
        sink.write(&batch?)?;
    }
    let lost = sink.finish()?;
    let names: Vec<&str> =
        lost.cut.iter().filter_map(|c| handle.schema.fields().get(*c)).map(|f| f.name().as_str()).collect();
    let mut lines = Vec::new();
    if !names.is_empty() {
        let what = match settings.format {
            ExportFormat::Jsonl => "not a number or infinite, and null here",
            _ => "longer than a cell, and cut",
        };
        lines.push(format!("{what}: values of {}", names.join(", ")));
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
