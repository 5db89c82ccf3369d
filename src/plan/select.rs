//! Which stages a run is about.

use std::collections::BTreeSet;

use super::{Dag, Options};
use crate::diag::{Diagnostic, Failure, Result, nearest};

pub(super) struct Selection {
    /// To run unless cached.
    pub selected: BTreeSet<usize>,
    /// To run in any case.
    pub forced: BTreeSet<usize>,
}

/// Resolves the names, and adds what the chosen stages read from: without it they have no inputs.
pub(super) fn select(dag: &Dag, options: &Options) -> Result<Selection> {
    let Options { only, from, force } = options;
    let mut problems = Vec::new();
    let mut find = |flag: &str, name: &String| {
        let found = dag.nodes.iter().position(|n| n.name == *name);
        if found.is_none() {
            problems.push(no_stage(dag, flag, name));
        }
        found
    };
    let only: Vec<usize> = only.iter().filter_map(|n| find("--only", n)).collect();
    let from: Vec<usize> = from.iter().filter_map(|n| find("--from", n)).collect();
    let force_all = force.iter().any(|n| n == "all" && dag.nodes.iter().all(|node| node.name != "all"));
    let named = force.iter().filter(|n| !(force_all && *n == "all"));
    let mut forced: BTreeSet<usize> = named.filter_map(|n| find("--force", n)).collect();
    if !problems.is_empty() {
        return Err(Failure::usage(problems));
    }
    let mut chosen: BTreeSet<usize> = only.into_iter().collect();
    chosen.extend(from.into_iter().flat_map(|i| dag.downstream(i)));
    if chosen.is_empty() {
        chosen.extend(dag.order.iter().copied());
    }
    if force_all {
        // `--only a --force all` means a, not everything that a reads from.
        forced.extend(&chosen);
    }
    chosen.extend(&forced);
    let selected = chosen.iter().flat_map(|&i| dag.upstream(i)).collect();
    Ok(Selection { selected, forced })
}

fn no_stage(dag: &Dag, flag: &str, name: &str) -> Diagnostic {
    let names: Vec<&str> = dag.nodes.iter().map(|n| n.name.as_str()).collect();
    let d = Diagnostic::new("plan::unknown_stage", format!("{flag}: there is no stage `{name}`"));
    match nearest(name, names.iter().copied()) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d.help(format!("stages: {}", names.join(", "))),
    }
}
