//! Runs of agents: a graph of steps, each a request, and what can be wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sessions::{require_context, time_problems};
use super::{Lengths, Problem, Problems};
use crate::scenario::ThinkTime;

/// Runs of an agent, all of the same steps. `rate_rps` is the rate of the runs, and `requests` the number of steps of
/// all of them: what would arrive later is left out, so that the last runs may be cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chains {
    /// Those without `after` begin the run.
    pub steps: Vec<ChainStep>,
    /// A step whose prompt and reply together would have more tokens than this is left out, and so is what waits for
    /// it. Steps that begin the run are always made. Default: [`MAX_TOKENS`](super::MAX_TOKENS).
    #[serde(default)]
    pub max_context: Option<u32>,
    /// How long a request is assumed to take, in seconds: a step arrives this and its `tool_time` after the last of
    /// those that it waits for. Of no effect in a simulation, where they are done when they are done.
    #[serde(default)]
    pub turn_s: f64,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainStep {
    /// Letters, digits, `_` and `-`. Also the class of its requests.
    pub name: String,
    /// Steps that must be done before it is sent.
    #[serde(default)]
    pub after: Vec<String>,
    /// New tokens of its prompt. Default: `input` of the workload.
    #[serde(default)]
    pub input: Option<Lengths>,
    /// Tokens of its reply. Default: `output` of the workload.
    #[serde(default)]
    pub output: Option<Lengths>,
    /// Time from the end of the last step that it waits for until it is sent. Default: none.
    #[serde(default)]
    pub tool_time: Option<ThinkTime>,
    #[serde(default)]
    pub context: StepContext,
}

/// What the prompt of a step begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepContext {
    /// The prompt and the reply of the first step named in `after`, then the replies of the others.
    #[default]
    Inherit,
    /// The shared prefix, if there is one.
    Fresh,
}

/// Most steps of a run.
const MAX_STEPS: usize = 1000;

impl Chains {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let Chains { steps, max_context, turn_s } = self;
        let mut own = Problems::below("chains");
        own.require((1..=MAX_STEPS).contains(&steps.len()), "steps", || {
            format!("must be from 1 to {MAX_STEPS} steps, not {}", steps.len())
        });
        let mut found = own.found;
        let mut names = BTreeSet::new();
        for step in steps {
            found.extend(step.problems(names.insert(step.name.as_str())));
        }
        found.extend(self.order_problems());
        let mut own = Problems::below("chains");
        require_context(&mut own, *max_context);
        own.require_at_least_zero(*turn_s, "turn_s");
        found.extend(own.found);
        found
    }

    /// Names in `after` that no step has, and circles, which have no beginning. One problem per entry at most.
    fn order_problems(&self) -> Vec<Problem> {
        let places = self.places();
        let mut found = Problems::below("chains.steps");
        for step in &self.steps {
            for (i, name) in step.after.iter().enumerate() {
                let at = format!("{}.after.{i}", step.name);
                found.require(places.contains_key(name.as_str()), &at, || format!("is `{name}`, which is no step"));
                found
                    .require(*name != step.name, &at, || "is the step itself, which cannot wait for itself".to_owned());
                let again = *name != step.name && step.after[..i].contains(name);
                found.require(!again, &at, || format!("is `{name}`, which is there already"));
            }
        }
        for (at, circle) in self.circles() {
            found.require(false, &at, || format!("closes a circle: {circle}"));
        }
        found.found
    }

    /// By name; of several steps of one name, the first.
    fn places(&self) -> BTreeMap<&str, usize> {
        self.steps.iter().enumerate().rev().map(|(i, s)| (s.name.as_str(), i)).collect()
    }

    /// Circles of at least two steps: the entry that closes one, and who waits for whom. Every circle has an entry here,
    /// though not every one is spelled out where several share steps.
    fn circles(&self) -> Vec<(String, String)> {
        let places = self.places();
        let mut found = Vec::new();
        let mut seen = vec![Seen::Never; self.steps.len()];
        for root in 0..self.steps.len() {
            // The way from the root: steps, and the entry of `after` that is looked at next.
            let mut way: Vec<(usize, usize)> = Vec::new();
            if matches!(seen[root], Seen::Never) {
                seen[root] = Seen::OnTheWay(0);
                way.push((root, 0));
            }
            while let Some((step, entry)) = way.last_mut() {
                let (here, i) = (*step, *entry);
                let Some(name) = self.steps[here].after.get(i) else {
                    seen[here] = Seen::Done;
                    way.pop();
                    continue;
                };
                *entry += 1;
                let Some(&next) = places.get(name.as_str()).filter(|next| **next != here) else { continue };
                match seen[next] {
                    Seen::Done => {}
                    Seen::Never => {
                        seen[next] = Seen::OnTheWay(way.len());
                        way.push((next, 0));
                    }
                    Seen::OnTheWay(start) => {
                        let names = way[start..].iter().map(|(s, _)| self.steps[*s].name.as_str());
                        found.push((
                            format!("{}.after.{i}", self.steps[here].name),
                            in_words(&names.collect::<Vec<_>>()),
                        ));
                    }
                }
            }
        }
        found
    }
}

/// What is known of a step while circles are looked for.
#[derive(Clone, Copy)]
enum Seen {
    Never,
    /// At this place of the way.
    OnTheWay(usize),
    Done,
}

/// "`a` waits for `b`, `b` for `c`, `c` for `a`"
fn in_words(circle: &[&str]) -> String {
    let next = circle.iter().cycle().skip(1);
    let pairs: Vec<String> = circle.iter().zip(next).map(|(from, to)| format!("`{from}` for `{to}`")).collect();
    pairs.join(", ").replacen("` for `", "` waits for `", 1)
}

impl ChainStep {
    /// What is wrong with the step alone; `new` where no step before it has its name.
    fn problems(&self, new: bool) -> Vec<Problem> {
        let ChainStep { name, after, input, output, tool_time, context: _ } = self;
        let path = format!("chains.steps.{name}");
        let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let mut own = Problems::below("chains.steps");
        own.require(!name.is_empty() && name.chars().all(named), name, || {
            "is no name of a step: expected letters, digits, `_` and `-`".to_owned()
        });
        own.require(new, name, || "is there twice".to_owned());
        own.require(tool_time.is_none() || !after.is_empty(), &format!("{name}.tool_time"), || {
            "has no meaning without `after`: nothing comes before the step".to_owned()
        });
        let mut found = own.found;
        found.extend(input.iter().flat_map(|l| l.problems(&format!("{path}.input"))));
        found.extend(output.iter().flat_map(|l| l.problems(&format!("{path}.output"))));
        found.extend(tool_time.iter().flat_map(|t| time_problems(t, &format!("{path}.tool_time"))));
        found
    }
}

/// The steps in an order in which each comes after all that it waits for; otherwise in the order that they are written.
pub(super) struct Graph<'a> {
    pub steps: Vec<Node<'a>>,
}

/// A step, and its neighbours as places in the graph.
pub(super) struct Node<'a> {
    pub step: &'a ChainStep,
    pub after: Vec<u32>,
    pub then: Vec<u32>,
}

impl Graph<'_> {
    /// The steps must have no [`problems`](Chains::problems).
    pub fn new(chains: &Chains) -> Graph<'_> {
        let places = chains.places();
        let after = |i: usize| chains.steps[i].after.iter().map(|name| places[name.as_str()]);
        let mut left: BTreeSet<usize> = (0..chains.steps.len()).collect();
        // Place in the graph by place in the settings.
        let mut ranks: BTreeMap<usize, u32> = BTreeMap::new();
        let mut steps: Vec<Node> = Vec::new();
        while let Some(next) = left.iter().copied().find(|i| after(*i).all(|a| ranks.contains_key(&a))) {
            left.remove(&next);
            let rank = steps.len() as u32;
            let before: Vec<u32> = after(next).map(|a| ranks[&a]).collect();
            before.iter().for_each(|b| steps[*b as usize].then.push(rank));
            ranks.insert(next, rank);
            steps.push(Node { step: &chains.steps[next], after: before, then: Vec::new() });
        }
        assert!(left.is_empty(), "steps that wait for each other have no order");
        Graph { steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps as `name: after after`.
    fn chains(steps: &[&str]) -> Chains {
        let step = |text: &&str| {
            let (name, after) = text.split_once(':').unwrap();
            let after = after.split_whitespace().map(str::to_owned).collect();
            let (tool_time, context) = (None, StepContext::Inherit);
            ChainStep { name: name.to_owned(), after, input: None, output: None, tool_time, context }
        };
        Chains { steps: steps.iter().map(step).collect(), max_context: None, turn_s: 0.0 }
    }

    #[test]
    fn orders_that_cannot_be_are_named() {
        for (steps, expect) in [
            (vec!["a:", "b: a", "c: a b"], vec![]),
            (vec![], vec!["chains.steps must be from 1 to 1000 steps, not 0"]),
            (vec!["a: b"], vec!["chains.steps.a.after.0 is `b`, which is no step"]),
            (vec!["a: a"], vec!["chains.steps.a.after.0 is the step itself, which cannot wait for itself"]),
            (vec!["a:", "b: a a"], vec!["chains.steps.b.after.1 is `a`, which is there already"]),
            (vec!["a: b", "b: a"], vec!["chains.steps.b.after.0 closes a circle: `a` waits for `b`, `b` for `a`"]),
            (
                vec!["start:", "a: start c", "b: a", "c: b", "end: c"],
                vec!["chains.steps.b.after.0 closes a circle: `a` waits for `c`, `c` for `b`, `b` for `a`"],
            ),
            (
                vec!["a: b", "b: a", "c: x d", "d: c"],
                vec![
                    "chains.steps.c.after.0 is `x`, which is no step",
                    "chains.steps.b.after.0 closes a circle: `a` waits for `b`, `b` for `a`",
                    "chains.steps.d.after.0 closes a circle: `c` waits for `d`, `d` for `c`",
                ],
            ),
            (vec!["a:", "a:"], vec!["chains.steps.a is there twice"]),
            (vec!["a.b:"], vec!["chains.steps.a.b is no name of a step: expected letters, digits, `_` and `-`"]),
        ] {
            let found: Vec<String> =
                chains(&steps).problems().iter().map(|p| format!("{} {}", p.path, p.message)).collect();
            assert_eq!(found, expect, "{steps:?}");
        }
    }

    #[test]
    fn a_step_comes_after_those_that_it_waits_for() {
        let chains = chains(&["end: b c", "c: a", "a:", "b: a", "other:"]);
        let graph = Graph::new(&chains);
        let names: Vec<&str> = graph.steps.iter().map(|n| n.step.name.as_str()).collect();
        assert_eq!(names, ["a", "c", "b", "end", "other"]);
        assert_eq!((&graph.steps[3].after, &graph.steps[0].then), (&vec![2, 1], &vec![1, 2]));
    }

    /// Many steps that all wait for each other: found in time, and without deep recursion.
    #[test]
    fn a_thousand_steps_in_a_circle() {
        let texts: Vec<String> = (0..1000).map(|i| format!("s{i}: s{}", (i + 1) % 1000)).collect();
        let all: Vec<&str> = texts.iter().map(String::as_str).collect();
        let problems = chains(&all).problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "chains.steps.s999.after.0");
    }
}
