//! `pipe graph`: what reads what.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Done, check, key_value, output, pipeline_file, project, table};
use crate::diag::{Diagnostic, Exit, Result};
use crate::plan::Dag;
use crate::report::{GraphNode, graph_mermaid, graph_svg};
use crate::store::Store;

#[derive(Args, Debug)]
pub struct GraphArgs {
    /// The pipeline: its file, or its name
    pipeline: PathBuf,
    /// Set a parameter, or any value by its dotted path
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Default: text, or what the name given to --output ends in
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to a file: .svg, .mmd (Mermaid), .md (the same in a block), .txt; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line per stage
    Text,
    /// Mermaid's flowchart, for Markdown
    Mermaid,
    /// A picture
    Svg,
}

pub(super) fn graph(root: Option<PathBuf>, args: GraphArgs) -> Done {
    let format = format(args.format, args.output.as_deref())?;
    let (_, dag, _) = check::checked(root.clone(), &file(root, args.pipeline)?, &args.set)?;
    let text = match format {
        Written::As(Format::Text) => lines(&dag),
        Written::As(Format::Mermaid) => graph_mermaid(&nodes(&dag)),
        Written::As(Format::Svg) => graph_svg(&nodes(&dag)),
        Written::Markdown => format!("```mermaid\n{}\n```\n", graph_mermaid(&nodes(&dag)).trim_end()),
    };
    match args.output.filter(|path| !output::is_stdout(path)) {
        Some(path) => output::write(&path, text.as_bytes())?,
        None => put!("{text}"),
    }
    Ok(Exit::Ok)
}

/// The file of a pipeline that is given by its file or its name.
fn file(root: Option<PathBuf>, pipeline: PathBuf) -> Result<PathBuf> {
    if pipeline.exists() {
        return Ok(pipeline);
    }
    let Some(name) = pipeline.to_str().filter(|name| !name.contains(['/', '.'])) else { return Ok(pipeline) };
    let project = project(root, Path::new("."))?;
    Ok(pipeline_file(&Store::open(&project)?, name).unwrap_or(pipeline))
}

/// What stands in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    As(Format),
    /// Mermaid's flowchart in a block.
    Markdown,
}

/// The format that was given, or else that of files whose names end so.
fn format(given: Option<Format>, output: Option<&Path>) -> Result<Written> {
    let ending = output.and_then(|path| path.extension()).and_then(|e| e.to_str()).map(str::to_lowercase);
    Ok(match (given, ending.as_deref()) {
        (Some(Format::Mermaid), Some("md" | "markdown")) => Written::Markdown,
        (Some(format), _) => Written::As(format),
        (None, Some("svg")) => Written::As(Format::Svg),
        (None, Some("mmd" | "mermaid")) => Written::As(Format::Mermaid),
        (None, Some("md" | "markdown")) => Written::Markdown,
        (None, None | Some("txt")) => Written::As(Format::Text),
        (None, Some(other)) => {
            let message = format!("no format is known by the ending `.{other}`");
            let help = "end the name in .svg, .mmd, .md or .txt, or give --format text, mermaid or svg";
            return Err(Diagnostic::new("cli::format", message).help(help).into());
        }
    })
}

/// The stages in the order of a run.
fn nodes(dag: &Dag) -> Vec<GraphNode> {
    let place = |stage: usize| dag.order.iter().position(|s| *s == stage).unwrap_or(0);
    let node = |&stage: &usize| {
        let node = &dag.nodes[stage];
        let mut reads: Vec<usize> = node.inputs.iter().map(|input| place(input.producer)).collect();
        reads.sort_unstable();
        reads.dedup();
        GraphNode { name: node.name.clone(), kind: node.kind.to_string(), note: String::new(), reads }
    };
    dag.order.iter().map(node).collect()
}

fn lines(dag: &Dag) -> String {
    let list = |names: Vec<&str>| names.join(", ");
    let row = |&stage: &usize| {
        let node = &dag.nodes[stage];
        let files = node.files.iter().map(|f| f.written.as_str());
        let reads = node.inputs.iter().map(|i| i.table.as_str()).chain(files).collect();
        let makes = node.tables.iter().map(|t| t.name.as_str()).collect();
        vec![node.name.clone(), node.kind.to_string(), list(reads), list(makes)]
    };
    let rows: Vec<Vec<String>> = dag.order.iter().map(row).collect();
    table(&["stage", "kind", "reads", "makes"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_name_formats() {
        let of = |given: Option<Format>, name: &str| format(given, Some(Path::new(name))).ok();
        assert_eq!(of(None, "a.svg"), Some(Written::As(Format::Svg)));
        assert_eq!(of(None, "a.MMD"), Some(Written::As(Format::Mermaid)));
        assert_eq!(of(None, "a.md"), Some(Written::Markdown));
        assert_eq!(of(None, "a.txt"), Some(Written::As(Format::Text)));
        assert_eq!(of(None, "-"), Some(Written::As(Format::Text)));
        assert_eq!(of(None, "a.png"), None);
        assert_eq!(of(Some(Format::Text), "a.svg"), Some(Written::As(Format::Text)));
    }
}
