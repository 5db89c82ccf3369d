//! Everything that can be wrong with a pipeline before it runs, found at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::{BuiltIn, Dag, Input, Kinds, Node};
use crate::diag::{Diagnostic, Failure, Result, Span, nearest};
use crate::spec::{Calibrate, FilePath, Pipeline, STAND_IN, StageSpec, Text};
use crate::stage::{CheckCx, Kind, TableShape};
use crate::store::input_problem;

/// Checks a pipeline: references, cycles, names of tables, input files, and what each kind knows of its settings.
///
/// # Errors
/// Every mistake, in the order of the file.
pub fn check(pipeline: &Pipeline, project: &Path) -> Result<Dag> {
    check_with(pipeline, project, Arc::new(BuiltIn))
}

/// [`check`] with other implementations of the kinds.
///
/// # Errors
/// Every mistake, in the order of the file.
pub fn check_with(pipeline: &Pipeline, project: &Path, kinds: Arc<dyn Kinds>) -> Result<Dag> {
    let mut graph = Graph::new(pipeline, project, &*kinds, &[]);
    graph.resolve();
    let order = graph.order();
    graph.check_kinds(&order);
    if !graph.problems.is_empty() {
        return Err(Failure::usage(in_file_order(graph.problems)));
    }
    let nodes = graph.nodes(&order);
    Ok(Dag { order, nodes, stages: Arc::new(pipeline.stages.clone()), kinds })
}

/// What else is wrong with a pipeline whose text has `problems` already, in all but the stages that have them.
pub fn more_problems(pipeline: &Pipeline, project: &Path, problems: &[Diagnostic]) -> Vec<Diagnostic> {
    let mut graph = Graph::new(pipeline, project, &BuiltIn, problems);
    graph.resolve();
    let order = graph.order();
    graph.check_kinds(&order);
    graph.problems
}

/// Whether one of `problems` lies in stage `i`: between its name and that of the next stage of the file.
fn is_broken(pipeline: &Pipeline, i: usize, problems: &[Diagnostic]) -> bool {
    let Some(start) = &pipeline.stages[i].name.at else { return false };
    let starts = pipeline.stages.iter().filter_map(|s| s.name.at.as_ref());
    let end = starts.filter(|at| at.file == start.file && *at > start).min();
    let inside = |at: &Span| at.file == start.file && at >= start && end.is_none_or(|end| at < end);
    problems.iter().filter_map(|d| d.at.as_ref()).any(inside)
}

struct Graph<'a> {
    pipeline: &'a Pipeline,
    project: &'a Path,
    kinds: &'a dyn Kinds,
    /// What each stage reads, as written; `None` where that could not be found out.
    reads: Vec<Option<Vec<Text>>>,
    inputs: Vec<Vec<Input>>,
    /// Names that a stage reads and that are not there: other messages about them say nothing new.
    dangling: Vec<BTreeSet<String>>,
    /// Tables by stage, in order; schemas come in with [`Graph::check_kinds`].
    tables: Vec<Vec<TableShape>>,
    problems: Vec<Diagnostic>,
    /// Stages whose text is wrong: only their names and files are looked at.
    broken: Vec<bool>,
}

impl<'a> Graph<'a> {
    fn new(pipeline: &'a Pipeline, project: &'a Path, kinds: &'a dyn Kinds, known: &[Diagnostic]) -> Graph<'a> {
        let n = pipeline.stages.len();
        let mut graph = Graph {
            pipeline,
            project,
            kinds,
            reads: Vec::new(),
            inputs: vec![Vec::new(); n],
            dangling: vec![BTreeSet::new(); n],
            tables: Vec::new(),
            problems: Vec::new(),
            broken: (0..n).map(|i| is_broken(pipeline, i, known)).collect(),
        };
        for i in 0..n {
            let reads = graph.kind(i).inputs();
            graph.reads.push(match reads {
                _ if graph.broken[i] => None,
                Ok(texts) => Some(texts),
                Err(failure) => {
                    graph.problems.extend(failure.or_at(graph.at(i)).diagnostics);
                    None
                }
            });
            // Names only: the schemas of what it reads are not known yet.
            let shapes = graph.kind(i).tables(graph.name(i), &graph.cx(&BTreeMap::new()));
            graph.tables.push(shapes);
            let told = |f: &&FilePath| !(f.written.is_empty() || graph.broken[i] && f.written == STAND_IN);
            let missing: Vec<Diagnostic> =
                graph.kind(i).files().iter().filter(told).filter_map(input_problem).collect();
            graph.problems.extend(missing);
        }
        graph
    }

    fn name(&self, i: usize) -> &'a str {
        &self.pipeline.stages[i].name.value
    }

    fn at(&self, i: usize) -> Option<&'a crate::diag::Span> {
        self.pipeline.stages[i].name.at.as_ref()
    }

    fn kind(&self, i: usize) -> &'a dyn Kind {
        self.kinds.of(&self.pipeline.stages[i])
    }

    fn cx<'b>(&self, tables: &'b BTreeMap<String, TableShape>) -> CheckCx<'b>
    where
        'a: 'b,
    {
        CheckCx { stages: &self.pipeline.stages, tables, seed: self.pipeline.seed, project: self.project }
    }

    /// Finds who makes what each stage reads.
    fn resolve(&mut self) {
        let producers = self.producers();
        for i in 0..self.pipeline.stages.len() {
            let mut reads: Vec<Text> = self.reads[i].clone().unwrap_or_default();
            // Where it does not exist, the other stage is told.
            let implied = implied(&self.pipeline.stages[i].spec, self.pipeline);
            reads.extend(implied.into_iter().filter(|text| producers.contains_key(&text.value)));
            for text in reads {
                match producers.get(&text.value) {
                    Some(&producer) if producer == i => {
                        let message = format!("stage `{}` reads its own table `{}`", self.name(i), text.value);
                        let d = Diagnostic::new("plan::own_table", message);
                        self.problems.push(d.at(text.at.or_else(|| self.at(i).cloned())));
                        self.dangling[i].insert(text.value);
                    }
                    Some(&producer) => {
                        let input = Input { table: text.value, producer };
                        if !self.inputs[i].contains(&input) {
                            self.inputs[i].push(input);
                        }
                    }
                    None => {
                        let d = self.unknown_table(i, &text, &producers);
                        if self.dangling[i].insert(text.value) {
                            self.problems.push(d);
                        }
                    }
                }
            }
            self.inputs[i].sort();
        }
    }

    /// Which stage makes each table; says where two make the same.
    fn producers(&mut self) -> BTreeMap<String, usize> {
        let mut producers: BTreeMap<String, usize> = BTreeMap::new();
        for i in 0..self.tables.len() {
            for table in self.tables[i].clone() {
                let Some(&other) = producers.get(&table.name) else {
                    producers.insert(table.name, i);
                    continue;
                };
                let message =
                    format!("stages `{}` and `{}` both make table `{}`", self.name(other), self.name(i), table.name);
                let d = Diagnostic::new("plan::duplicate_table", message).at(self.at(i).cloned());
                self.problems.push(d.help("rename one of the stages"));
            }
        }
        producers
    }

    fn unknown_table(&self, i: usize, text: &Text, producers: &BTreeMap<String, usize>) -> Diagnostic {
        let message = format!("stage `{}` reads `{}`, which no stage makes", self.name(i), text.value);
        let d = Diagnostic::new("plan::unknown_table", message).at(text.at.clone().or_else(|| self.at(i).cloned()));
        if let Some(setting) = self.setting_that_makes(&text.value) {
            return d.help(setting);
        }
        let others: Vec<&str> = producers.iter().filter(|(_, p)| **p != i).map(|(t, _)| t.as_str()).collect();
        match nearest(&text.value, others.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`? tables: {}", others.join(", "))),
            None if others.is_empty() => d.help("no other stage makes a table"),
            None => d.help(format!("tables: {}", others.join(", "))),
        }
    }

    /// What to set so that a simulation makes this table, if one could.
    fn setting_that_makes(&self, table: &str) -> Option<String> {
        let (stage, part) = table.rsplit_once('_')?;
        let simulates = |s: &crate::spec::Stage| s.name.value == stage && matches!(s.spec, StageSpec::Simulate(_));
        self.pipeline.stages.iter().find(|s| simulates(s))?;
        match part {
            "steps" | "routes" => Some(format!("`{stage}` makes it with `{part}: true`")),
            "tiers" => Some(format!("`{stage}` makes it where its deployment has `kv: {{ tiers: [..] }}`")),
            _ => None,
        }
    }

    /// Kahn's algorithm, the first stage in the file first; what is left over is in or behind a cycle.
    fn order(&mut self) -> Vec<usize> {
        let n = self.inputs.len();
        let mut order: Vec<usize> = Vec::with_capacity(n);
        let mut done = vec![false; n];
        while let Some(next) = (0..n).find(|&i| !done[i] && self.inputs[i].iter().all(|input| done[input.producer])) {
            done[next] = true;
            order.push(next);
        }
        let mut left: BTreeSet<usize> = (0..n).filter(|&i| !done[i]).collect();
        while let Some(cycle) = self.cycle(&left) {
            let names: Vec<String> = cycle.iter().chain(&cycle[..1]).map(|&i| format!("`{}`", self.name(i))).collect();
            let message = format!("stages read from each other in a circle: {}", names.join(" reads "));
            let d = Diagnostic::new("plan::cycle", message).at(self.at(cycle[0]).cloned());
            self.problems.push(d.help("a stage can read only what does not depend on it"));
            left.retain(|i| !cycle.contains(i));
        }
        order.extend((0..n).filter(|&i| !done[i]));
        order
    }

    /// A cycle among `left`, beginning with the first of its stages in the file.
    fn cycle(&self, left: &BTreeSet<usize>) -> Option<Vec<usize>> {
        for &start in left {
            let mut path = vec![start];
            let mut at = start;
            while let Some(input) = self.inputs[at].iter().find(|input| left.contains(&input.producer)) {
                at = input.producer;
                if let Some(begin) = path.iter().position(|&i| i == at) {
                    let mut cycle = path.split_off(begin);
                    let first = cycle.iter().enumerate().min_by_key(|(_, i)| **i).map_or(0, |(k, _)| k);
                    cycle.rotate_left(first);
                    return Some(cycle);
                }
                path.push(at);
            }
        }
        None
    }

    /// Asks the kinds, each with the tables of what comes before it.
    fn check_kinds(&mut self, order: &[usize]) {
        let mut known: BTreeMap<String, TableShape> = BTreeMap::new();
        for &i in order {
            if self.reads[i].is_some() {
                let absent: Vec<String> = self.inputs[i]
                    .iter()
                    .map(|input| &input.table)
                    .filter(|table| !known.contains_key(*table))
                    .chain(&self.dangling[i])
                    .map(|table| format!("`{table}`"))
                    .collect();
                let found = self.kind(i).check(self.name(i), &self.cx(&known));
                let found = Failure::usage(found).or_at(self.at(i)).diagnostics;
                let news = found.into_iter().filter(|d| !absent.iter().any(|name| d.message.contains(name)));
                self.problems.extend(news);
            }
            let mut shapes = self.kind(i).tables(self.name(i), &self.cx(&known));
            if self.broken[i] {
                shapes.iter_mut().for_each(|shape| shape.schema = None);
            }
            known.extend(shapes.iter().map(|shape| (shape.name.clone(), shape.clone())));
            self.tables[i] = shapes;
        }
    }

    /// The nodes of a pipeline without mistakes.
    fn nodes(&self, order: &[usize]) -> Vec<Node> {
        let mut known: BTreeMap<String, TableShape> = BTreeMap::new();
        let mut nodes: BTreeMap<usize, Node> = BTreeMap::new();
        for &i in order {
            let kind = self.kind(i);
            let node = Node {
                name: self.name(i).to_string(),
                kind: kind.kind(),
                version: kind.version(),
                config: kind.recipe(&self.cx(&known)),
                inputs: self.inputs[i].clone(),
                files: kind.files(),
                tables: self.tables[i].clone(),
            };
            known.extend(node.tables.iter().map(|shape| (shape.name.clone(), shape.clone())));
            nodes.insert(i, node);
        }
        nodes.into_values().collect()
    }
}

/// Tables that a stage reads because of what another stage is: `search`, `optimize` and `calibrate` simulate the requests of the
/// stage they vary, so their results depend on them, and not only on the results of that stage; `compare` reads the
/// requests of a simulation.
fn implied(spec: &StageSpec, pipeline: &Pipeline) -> Vec<Text> {
    let of = |over: &Text| {
        let over = pipeline.stages.iter().find(|s| s.name.value == over.value);
        match over.map(|s| &s.spec) {
            Some(StageSpec::Simulate(simulate)) => {
                // Values of the space that name a profile are not looked for: `auto` chooses, a search does not.
                crate::stage::of(&StageSpec::Simulate(simulate.clone())).inputs().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    };
    match spec {
        StageSpec::Search(search) => search.over.as_ref().map(|over| of(&over.0)).unwrap_or_default(),
        StageSpec::Optimize(optimize) => optimize.over.as_ref().map(|over| of(&over.0)).unwrap_or_default(),
        StageSpec::Calibrate(Calibrate::Requests(requests)) => of(&requests.over.0),
        StageSpec::Calibrate(Calibrate::Steps(_) | Calibrate::OptimizerConfig(_)) => Vec::new(),
        StageSpec::Ingest(_)
        | StageSpec::Synthesize(_)
        | StageSpec::Transform(_)
        | StageSpec::Tokenize(_)
        | StageSpec::Profile(_)
        | StageSpec::Simulate(_)
        | StageSpec::Sql(_)
        | StageSpec::Slo(_)
        | StageSpec::Plot(_)
        | StageSpec::Export(_)
        | StageSpec::Fidelity(_) => Vec::new(),
        StageSpec::Compare(compare) => {
            let simulates = |name: &Text| {
                let stage = pipeline.stages.iter().find(|s| s.name.value == name.value);
                stage.is_some_and(|s| matches!(s.spec, StageSpec::Simulate(_)))
            };
            let sides = [&compare.measured.0, &compare.simulated.0];
            let requests = |name: &Text| Text::new(format!("{}_requests", name.value), name.at.clone());
            sides.into_iter().filter(|name| simulates(name)).map(requests).collect()
        }
    }
}

/// By place, those without one first; the same problem is said once.
fn in_file_order(mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    problems.sort_by(|a, b| (&a.at, &a.message).cmp(&(&b.at, &b.message)));
    problems.dedup();
    problems
}
