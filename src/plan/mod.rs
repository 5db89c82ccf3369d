//! A pipeline as a graph of stages, and what a run of it would do.
//!
//! [`check`] finds every mistake that can be found before anything runs, and gives the [`Dag`]. [`plan`] compares the
//! stages with the store: what is cached, what runs, and why. Neither changes anything.
//!
//! A stage whose inputs will be made anew is [`Action::Unknown`]: it runs only if their rows turn out to be others, so
//! the run decides when it gets there, with the same [`decide`].

mod check;
mod reason;
mod select;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::diag::Result;
use crate::spec::{FilePath, Pipeline, Stage};
use crate::stage::{self, Kind, TableShape};
use crate::store::{Entry, Hash, Manifest, Recipe, Store};

pub use check::{check, check_with, more_problems};
pub use reason::differences;

/// Finds the implementation of a stage. [`BuiltIn`] but for tests.
pub trait Kinds: Send + Sync {
    fn of<'a>(&'a self, stage: &'a Stage) -> &'a dyn Kind;
}

/// The kinds of [`crate::stage`].
pub struct BuiltIn;

impl Kinds for BuiltIn {
    fn of<'a>(&'a self, stage: &'a Stage) -> &'a dyn Kind {
        stage::of(&stage.spec)
    }
}

/// A pipeline without mistakes, as a graph.
#[derive(Clone)]
pub struct Dag {
    /// Stages by their place in the pipeline, in an order in which everything is made before it is read. Among stages
    /// that could come next, the first in the file does.
    pub order: Vec<usize>,
    /// By the stage's place in the pipeline.
    pub nodes: Vec<Node>,
    pub(crate) stages: Arc<Vec<Stage>>,
    pub(crate) kinds: Arc<dyn Kinds>,
}

/// A stage in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub kind: &'static str,
    pub version: u32,
    /// What the kind contributes to the fingerprint.
    pub config: Value,
    /// Tables that it reads, by name.
    pub inputs: Vec<Input>,
    /// Files that it reads.
    pub files: Vec<FilePath>,
    /// Tables that it makes, the main one first.
    pub tables: Vec<TableShape>,
}

/// A table that a stage reads, and the stage that makes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    pub table: String,
    /// Place in the pipeline.
    pub producer: usize,
}

impl Dag {
    /// All tables that the pipeline makes, in order of the stages.
    pub fn tables(&self) -> impl Iterator<Item = &TableShape> {
        self.order.iter().flat_map(|&i| &self.nodes[i].tables)
    }

    /// The stages that `stage` reads from, itself included.
    pub fn upstream(&self, stage: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([stage]);
        for &i in self.order.iter().rev() {
            if found.contains(&i) {
                found.extend(self.nodes[i].inputs.iter().map(|input| input.producer));
            }
        }
        found
    }

    /// The stages that read from `stage`, itself included.
    pub fn downstream(&self, stage: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([stage]);
        for &i in &self.order {
            if self.nodes[i].inputs.iter().any(|input| found.contains(&input.producer)) {
                found.insert(i);
            }
        }
        found
    }

    pub(crate) fn kind(&self, stage: usize) -> &dyn Kind {
        self.kinds.of(&self.stages[stage])
    }
}

/// Which stages to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// These stages, and of what they read from whatever is not cached. Empty: all.
    pub only: Vec<String>,
    /// These stages and all that read from them.
    pub from: Vec<String>,
    /// Run these even if cached; `all` for every selected stage.
    pub force: Vec<String>,
}

/// What a run would do, in the order of the run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub stages: Vec<Planned>,
}

#[derive(Clone, Debug)]
pub struct Planned {
    /// Place in the pipeline.
    pub stage: usize,
    pub name: String,
    pub kind: &'static str,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Cached(Box<Manifest>),
    Run {
        reasons: Vec<String>,
    },
    /// Stages that it reads from will run: it runs if they make other rows than before.
    Unknown {
        reasons: Vec<String>,
    },
    /// Not selected.
    Skipped,
}

impl Plan {
    /// Whether something would run, as far as is known.
    pub fn has_work(&self) -> bool {
        self.stages.iter().any(|s| matches!(s.action, Action::Run { .. } | Action::Unknown { .. }))
    }
}

impl Action {
    /// Why, in one line.
    pub fn reason(&self) -> String {
        match self {
            Action::Cached(_) => "nothing changed".to_string(),
            Action::Run { reasons } | Action::Unknown { reasons } => reasons.join(", "),
            Action::Skipped => "not selected".to_string(),
        }
    }
}

/// What a run of the pipeline would do now.
///
/// # Errors
/// Options that name no stage; input files that cannot be read.
pub fn plan(pipeline: &Pipeline, dag: &Dag, store: &Store, options: &Options) -> Result<Plan> {
    let selection = select::select(dag, options)?;
    let last = store.last_recipes(&pipeline.name);
    let mut manifests: BTreeMap<usize, Manifest> = BTreeMap::new();
    let mut stages = Vec::new();
    for &i in &dag.order {
        let node = &dag.nodes[i];
        let action = if !selection.selected.contains(&i) {
            Action::Skipped
        } else {
            let last = last.get(&node.name);
            let forced = selection.forced.contains(&i);
            match input_hashes(dag, i, &manifests) {
                Some(inputs) => {
                    let recipe = recipe(dag, i, pipeline.seed, inputs, store)?;
                    decide(&recipe, last, forced, dag.kind(i).writes_outside(), store).action
                }
                None => unknown(dag, i, pipeline.seed, last, forced, &manifests, store)?,
            }
        };
        if let Action::Cached(manifest) = &action {
            manifests.insert(i, (**manifest).clone());
        }
        stages.push(Planned { stage: i, name: node.name.clone(), kind: node.kind, action });
    }
    store.save_hashes();
    Ok(Plan { stages })
}

/// Stages chosen by `options`: those to run unless cached, and those to run in any case.
pub(crate) fn selection(dag: &Dag, options: &Options) -> Result<(BTreeSet<usize>, BTreeSet<usize>)> {
    select::select(dag, options).map(|s| (s.selected, s.forced))
}

/// Content hashes of a stage's inputs, if the results that they come from are known.
pub(crate) fn input_hashes(
    dag: &Dag,
    stage: usize,
    manifests: &BTreeMap<usize, Manifest>,
) -> Option<BTreeMap<String, Hash>> {
    let inputs = dag.nodes[stage].inputs.iter().map(|input| {
        let manifest = manifests.get(&input.producer)?;
        let producer = &dag.nodes[input.producer].name;
        let table = manifest.tables.iter().find(|t| manifest.table_as(producer, t) == input.table)?;
        Some((input.table.clone(), table.hash.clone()))
    });
    inputs.collect()
}

/// The recipe of a stage whose input tables are there.
///
/// # Errors
/// An input file cannot be read.
pub(crate) fn recipe(
    dag: &Dag,
    stage: usize,
    seed: u64,
    inputs: BTreeMap<String, Hash>,
    store: &Store,
) -> Result<Recipe> {
    let node = &dag.nodes[stage];
    let mut files = BTreeMap::new();
    for file in &node.files {
        files.insert(file.written.clone(), store.input_hash(file)?);
    }
    let (kind, config) = (node.kind.to_string(), node.config.clone());
    let seed = if dag.kind(stage).seeded() { seed } else { 0 };
    Ok(Recipe { kind, version: node.version, config, seed, inputs, files })
}

/// What is to be done with a stage.
pub(crate) struct Decision {
    pub action: Action,
    /// What is wrong with the result that the store has.
    pub damage: Option<String>,
}

/// Decides about a stage whose recipe is complete. `last` is its recipe when it was last published. A stage that writes
/// `outside` the store must be the last that did so: what it wrote may have been replaced since.
pub(crate) fn decide(recipe: &Recipe, last: Option<&Recipe>, forced: bool, outside: bool, store: &Store) -> Decision {
    let run = |reasons: Vec<String>| Action::Run { reasons };
    match store.entry(&recipe.fingerprint()) {
        Entry::Found(_) if outside && last != Some(recipe) => {
            Decision { action: run(reason::reasons(recipe, last)), damage: None }
        }
        Entry::Damaged(why) => Decision { action: run(vec!["result is damaged".to_string()]), damage: Some(why) },
        Entry::Found(_) if forced => Decision { action: run(vec!["forced".to_string()]), damage: None },
        Entry::Found(manifest) => Decision { action: Action::Cached(manifest), damage: None },
        Entry::Missing => Decision { action: run(reason::reasons(recipe, last)), damage: None },
    }
}

/// A stage that reads what is not there yet: what changed for certain, and what may.
fn unknown(
    dag: &Dag,
    stage: usize,
    seed: u64,
    last: Option<&Recipe>,
    forced: bool,
    manifests: &BTreeMap<usize, Manifest>,
    store: &Store,
) -> Result<Action> {
    let waiting = dag.nodes[stage].inputs.iter().filter(|input| !manifests.contains_key(&input.producer));
    let waiting: Vec<String> = waiting
        .map(|input| {
            format!("input `{}` may change: upstream `{}` will run", input.table, dag.nodes[input.producer].name)
        })
        .collect();
    if forced {
        return Ok(Action::Run { reasons: vec!["forced".to_string()] });
    }
    let Some(last) = last else {
        // Another pipeline may have made the same result; that is rare enough to say what is all but certain.
        return Ok(Action::Unknown { reasons: [vec!["never ran".to_string()], waiting].concat() });
    };
    // Inputs that are not known count as unchanged: the others are compared.
    let mut inputs = last.inputs.clone();
    inputs.retain(|table, _| dag.nodes[stage].inputs.iter().any(|input| input.table == *table));
    for input in &dag.nodes[stage].inputs {
        let producer = &dag.nodes[input.producer].name;
        let known = manifests
            .get(&input.producer)
            .and_then(|m| Some(m.tables.iter().find(|t| m.table_as(producer, t) == input.table)?.hash.clone()));
        if let Some(hash) = known {
            inputs.insert(input.table.clone(), hash);
        }
    }
    let now = recipe(dag, stage, seed, inputs, store)?;
    let changed = if now == *last { Vec::new() } else { reason::reasons(&now, Some(last)) };
    Ok(Action::Unknown { reasons: [changed, waiting].concat() })
}
