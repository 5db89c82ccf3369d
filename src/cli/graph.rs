//! `pipe graph`: what reads what.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Done, check, key_value, table};
use crate::diag::{self, Exit};
use crate::plan::Dag;
use crate::report::{GraphNode, graph_mermaid, graph_svg};

#[derive(Args, Debug)]
pub struct GraphArgs {
    /// The pipeline
    file: PathBuf,
    /// Set a parameter, or any value by its dotted path
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write to a file. Its ending, `.svg` or `.mmd`, is its format where none is given
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
    let (_, dag, _) = check::checked(root, &args.file, &args.set)?;
    let ending = args.output.as_ref().and_then(|path| path.extension()).and_then(|e| e.to_str());
    let format = match (args.format, ending) {
        (Format::Text, Some("svg")) => Format::Svg,
        (Format::Text, Some("mmd" | "mermaid")) => Format::Mermaid,
        (format, _) => format,
    };
    let text = match format {
        Format::Text => lines(&dag),
        Format::Mermaid => graph_mermaid(&nodes(&dag)),
        Format::Svg => graph_svg(&nodes(&dag)),
    };
    match args.output {
        Some(path) => std::fs::write(&path, text).map_err(|e| diag::io(&path, "write", &e))?,
        None => put!("{text}"),
    }
    Ok(Exit::Ok)
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
