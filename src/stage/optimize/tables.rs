//! The tables of a search, its study as a file, and the answer.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value, json};

use pipe_kernel::tune::importance::{Quantiles, ped_anova, shares};
use pipe_kernel::tune::{hypervolume, journal, pareto};

use super::intervals::Interval;
use super::objective::Judge;
use super::rules::{PointRules, conditions, parameter_columns, parameter_field, text};
use super::space::Search;
use super::trials::{Done, End, Searched, State, wrong_rows};
use crate::diag::{Result, io};
use crate::spec::{Optimize, Text};
use crate::stage::simulate::settings;
use crate::stage::{RunCx, TableShape};
use crate::table::column;

/// Rows of the front that the answer shows.
const SHOWN: usize = 5;
/// Objectives up to which the contributions of a front are calculated.
const VOLUMES: usize = 4;
/// Trials of which importances say something.
const IMPORTANT: usize = 20;

/// Columns of the tables that are neither parameters nor objectives.
pub(super) const RESERVED: [&str; 22] = [
    "trial",
    "scenario",
    "state",
    "origin",
    "parent_a",
    "parent_b",
    "repaired",
    "raw",
    "rules_broken",
    "violation",
    "rung",
    "share",
    "requests",
    "seed",
    "seconds",
    "error",
    "feasible",
    "on_front",
    "hypervolume",
    "hypervolume_contribution",
    "front_size",
    "sampler",
];

fn text_field(name: &str, nullable: bool, what: &str) -> Field {
    column(name, DataType::Utf8, nullable, "", what)
}

fn int_field(name: &str, nullable: bool, what: &str) -> Field {
    column(name, DataType::Int64, nullable, "", what)
}

fn float_field(name: &str, nullable: bool, unit: &str, what: &str) -> Field {
    column(name, DataType::Float64, nullable, unit, what)
}

/// The parameters.
fn parameters(spec: &Optimize, search: Option<&Search>) -> Vec<Field> {
    match search {
        Some(search) => search.settings.iter().filter_map(parameter_field).collect(),
        // The space is wrong, and told to be; columns have their names all the same.
        None => spec.space.keys().map(|p| text_field(&settings::column_name(&p.value), true, "")).collect(),
    }
}

fn objectives(spec: &Optimize) -> Vec<Field> {
    let of = |(name, sql): (&String, &Text)| float_field(name, true, "", &sql.value);
    spec.minimize.iter().map(of).chain(spec.maximize.iter().map(of)).collect()
}

fn constraints(spec: &Optimize) -> Vec<Field> {
    let found = conditions(spec.subject_to.as_ref(), "subject_to").unwrap_or_default();
    let of = |name: &str, sql: &str| {
        let what =
            format!("By how much `{sql}` is missed, as a share of the bound where that is a number; 0 and below: met");
        float_field(&format!("c_{name}"), true, "", &what)
    };
    found.iter().map(|c| of(&c.name, c.sql.value.trim())).collect()
}

fn front_schema(spec: &Optimize, search: Option<&Search>) -> SchemaRef {
    let mut fields = vec![int_field("trial", false, "Number of the trial, from 0")];
    fields.extend(parameters(spec, search));
    fields.extend(objectives(spec));
    fields.push(float_field(
        "hypervolume_contribution",
        true,
        "",
        "What the front's hypervolume loses without the trial, on objectives scaled to the front, with the reference a tenth \
         beyond it; null with one objective, or more than four",
    ));
    Arc::new(Schema::new(fields))
}

fn trials_schema(spec: &Optimize, search: Option<&Search>) -> SchemaRef {
    let mut fields = vec![
        int_field("trial", false, "Number of the trial, from 0"),
        text_field(
            "scenario",
            true,
            "Hash of the scenario, or of the command with its parameters; null where nothing ran",
        ),
        text_field(
            "state",
            false,
            "complete; infeasible (misses a condition of subject_to); pruned (stopped at a rung); illegal (breaks rules, and was \
             not run); failed",
        ),
        text_field("origin", false, "Who proposed it: a sampler, enqueued or imported"),
        int_field("parent_a", true, "Trial that it was bred from"),
        int_field("parent_b", true, "The other one"),
        column(
            "repaired",
            DataType::Boolean,
            false,
            "",
            "The proposal broke rules, and became the nearest legal point",
        ),
        text_field("raw", true, "The proposal before it was repaired, as JSON by path"),
        text_field("rules_broken", true, "Rules that the proposal broke"),
    ];
    fields.extend(parameters(spec, search));
    fields.extend(objectives(spec));
    fields.extend(constraints(spec));
    fields.extend([
        float_field("violation", true, "", "By how much it misses the conditions, in sum"),
        int_field("rung", true, "Rung at which it was evaluated last, from 0"),
        float_field("share", true, "", "Share of the requests that it saw there"),
        int_field("requests", true, "Requests that were simulated there"),
        int_field("seed", true, "Seed of its random numbers"),
        float_field(
            "seconds",
            true,
            "s",
            "Simulated time from the first arrival to the end; of a command, how long it ran",
        ),
        text_field("error", true, "Why it failed"),
        column(
            "feasible",
            DataType::Boolean,
            false,
            "",
            "It is complete: every objective is a number, and all conditions are met",
        ),
        column("on_front", DataType::Boolean, false, "", "No other complete trial is better in every objective"),
    ]);
    Arc::new(Schema::new(fields))
}

fn history_schema(spec: &Optimize) -> SchemaRef {
    let mut fields = vec![
        int_field("trial", false, "Number of the trial, from 0"),
        text_field("state", false, "As in the table of trials"),
    ];
    let best = |f: Field| float_field(&format!("best_{}", f.name()), true, "", "Best of the complete trials so far");
    fields.extend(objectives(spec).into_iter().map(best));
    fields.push(float_field(
        "hypervolume",
        true,
        "",
        "Of the front so far, on objectives scaled to the range of the first ten complete trials, with the reference a tenth \
         beyond it; null with one objective, or more than four",
    ));
    fields.push(int_field("front_size", true, "Trials on that front"));
    Arc::new(Schema::new(fields))
}

fn importance_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text_field("objective", false, "Name of the objective; `*` for all of them together"),
        text_field("parameter", false, "Path of the parameter"),
        float_field(
            "importance",
            false,
            "",
            "PED-ANOVA: how differently the best tenth of the trials has it from all of them",
        ),
        float_field("importance_share", false, "", "The same as a share of all parameters"),
        int_field("trials", false, "Complete trials that were compared"),
    ]))
}

fn intervals_schema() -> SchemaRef {
    let float = |name: &str, what: &str| float_field(name, true, "", what);
    Arc::new(Schema::new(vec![
        int_field("trial", false, "Number of the trial"),
        text_field("objective", false, "Name of the objective"),
        int_field("replications", false, "Results, each with a seed of its own that all trials have in common"),
        float("mean", "Mean of the results"),
        float("standard_error", "Of the mean"),
        float("low", "Lower end of the confidence interval, by Student's t"),
        float("high", "Upper end"),
        int_field("best_trial", true, "Trial with the best mean of this objective"),
        float("difference", "Mean of the differences to that trial, replication by replication"),
        float("difference_low", "Lower end of its confidence interval"),
        float("difference_high", "Upper end; where 0 lies outside, the two are different"),
    ]))
}

fn rules_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text_field("rule", false, "Its name, or its SQL"),
        text_field("sql", false, "The condition"),
        int_field(
            "broken",
            false,
            "Proposals of the sampler that broke it; with `on_violation: resample` those are not counted",
        ),
    ]))
}

/// The tables of a stage.
pub(super) fn shapes(stage: &str, spec: &Optimize, search: Option<&Search>) -> Vec<TableShape> {
    let shape = |suffix: &str, schema| TableShape { name: format!("{stage}{suffix}"), schema: Some(schema) };
    vec![
        shape("", front_schema(spec, search)),
        shape("_trials", trials_schema(spec, search)),
        shape("_history", history_schema(spec)),
        shape("_importance", importance_schema()),
        shape("_intervals", intervals_schema()),
        shape("_rules", rules_schema()),
    ]
}

/// All that is known at the end.
pub(super) struct Report<'a> {
    pub spec: &'a Optimize,
    pub cx: &'a RunCx,
    pub search: &'a Search,
    pub judge: &'a Judge,
    pub rules: &'a PointRules,
    pub searched: &'a Searched,
    /// Indices of trials.
    pub front: Vec<usize>,
    pub intervals: Vec<Interval>,
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

fn ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn booleans(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<BooleanArray>())
}

impl Report<'_> {
    fn trials(&self) -> &[Done] {
        &self.searched.trials
    }

    fn put(&self, suffix: &str, schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|e| wrong_rows(&e))?;
        let mut writer = self.cx.out.table(&format!("{}{suffix}", self.cx.stage), schema)?;
        writer.write(&batch)?;
        writer.finish()
    }

    pub fn write(&self) -> Result<()> {
        self.write_front()?;
        self.write_trials()?;
        self.write_history()?;
        self.write_importance()?;
        self.write_intervals()?;
        let labels = self.rules.labels();
        let columns = vec![
            texts(labels.iter().map(|(label, _)| Some(label.clone()))),
            texts(labels.iter().map(|(_, sql)| Some(sql.clone()))),
            ints(self.searched.broken.iter().map(|n| Some(*n as i64))),
        ];
        self.put("_rules", rules_schema(), columns)?;
        let path = self.cx.out.file(&format!("{}_study.json", self.cx.stage))?;
        std::fs::write(&path, format!("{:#}\n", self.study())).map_err(|e| io(&path, "write", &e))?;
        if self.spec.optuna { self.write_journal() } else { Ok(()) }
    }

    /// The study for Optuna and its dashboard.
    fn write_journal(&self) -> Result<()> {
        let objectives = &self.judge.objectives;
        let record = |done: &Done| {
            let minimized = done.minimized.clone().unwrap_or_default();
            let values = objectives.iter().zip(minimized).map(|(o, v)| o.minimized(v)).collect();
            let state = match done.state {
                State::Complete | State::Infeasible => journal::State::Complete { objectives: values },
                State::Pruned => journal::State::Pruned { rung: done.rung, objectives: values },
                State::Illegal => journal::State::Illegal { broken: self.rules.named(done.broken) },
                State::Failed => journal::State::Failed { reason: done.error.clone().unwrap_or_default() },
            };
            let figures = done.evaluated.as_ref().and_then(|e| e.figures.as_ref().ok());
            let missed = figures.map(|f| f.constraints.clone()).unwrap_or_default();
            let names = self.judge.constraints.iter().map(|c| c.condition.name.clone());
            let mut attributes = Map::new();
            attributes.insert("origin".to_string(), json!(done.origin));
            attributes.extend(done.evaluated.as_ref().map(|e| ("scenario".to_string(), json!(e.key))));
            let report = journal::Report {
                state,
                constraints: names.zip(missed).collect(),
                intermediate: Vec::new(),
                started_us: Some(done.times_us.0),
                finished_us: Some(done.times_us.1),
                attributes,
            };
            journal::TrialRecord { values: done.values.clone(), report }
        };
        let study = journal::StudyRecord {
            name: self.cx.stage.clone(),
            objectives: objectives
                .iter()
                .map(|o| journal::ObjectiveInfo { name: o.name.clone(), maximize: o.maximize })
                .collect(),
            space: &self.search.space,
            trials: self.trials().iter().map(record).collect(),
            attributes: Map::new(),
        };
        let path = self.cx.out.file(&format!("{}_optuna.log", self.cx.stage))?;
        let write = || {
            let mut out = std::io::BufWriter::new(std::fs::File::create(&path)?);
            journal::export(&study, &mut out)?;
            std::io::Write::flush(&mut out)
        };
        write().map_err(|e| io(&path, "write", &e))
    }

    fn parameter_columns(&self, trials: &[&Done]) -> Vec<ArrayRef> {
        let points: Vec<&Vec<Value>> = trials.iter().map(|d| &d.values).collect();
        parameter_columns(&self.search.settings, &points, text)
    }

    fn objective_columns(&self, trials: &[&Done]) -> Vec<ArrayRef> {
        let value =
            |d: &Done, i: usize| d.evaluated.as_ref()?.figures.as_ref().ok()?.objectives.get(i).copied().flatten();
        (0..self.judge.objectives.len()).map(|i| floats(trials.iter().map(|d| value(d, i)))).collect()
    }

    fn write_front(&self) -> Result<()> {
        let best: Vec<&Done> = self.front.iter().map(|&i| &self.trials()[i]).collect();
        let mut columns = vec![ints(best.iter().map(|d| Some(d.number as i64)))];
        columns.extend(self.parameter_columns(&best));
        columns.extend(self.objective_columns(&best));
        let points: Vec<&Vec<f64>> = best.iter().filter_map(|d| d.minimized.as_ref()).collect();
        let several = (2..=VOLUMES).contains(&self.judge.objectives.len()) && !points.is_empty();
        let contributions: Vec<Option<f64>> = match several {
            true => {
                let (low, high) = pareto::bounds(&points);
                let scaled: Vec<Vec<f64>> = points.iter().map(|p| pareto::normalized(p, &low, &high)).collect();
                let reference = vec![1.1; low.len()];
                hypervolume::contributions(&scaled, &reference).into_iter().map(Some).collect()
            }
            false => vec![None; best.len()],
        };
        columns.push(floats(contributions.into_iter()));
        self.put("", front_schema(self.spec, Some(self.search)), columns)
    }

    fn write_trials(&self) -> Result<()> {
        let all: Vec<&Done> = self.trials().iter().collect();
        let evaluated = |d: &&Done| d.evaluated.clone();
        let raw = |d: &&Done| {
            let raw = d.raw.as_ref()?;
            let by_path: Map<String, Value> =
                self.search.settings.iter().zip(raw).map(|(s, v)| (s.path.clone(), v.clone())).collect();
            Some(Value::from(by_path).to_string())
        };
        let broken = |d: &&Done| (d.broken != 0).then(|| self.rules.named(d.broken).join("; "));
        let parent = |d: &&Done, i: usize| d.parents.get(i).map(|p| *p as i64);
        let mut columns = vec![
            ints(all.iter().map(|d| Some(d.number as i64))),
            texts(all.iter().map(|d| evaluated(d).map(|e| e.key).filter(|key| !key.is_empty()))),
            texts(all.iter().map(|d| Some(d.state.name().to_string()))),
            texts(all.iter().map(|d| Some(d.origin.to_string()))),
            ints(all.iter().map(|d| parent(d, 0))),
            ints(all.iter().map(|d| parent(d, 1))),
            booleans(all.iter().map(|d| d.raw.is_some())),
            texts(all.iter().map(raw)),
            texts(all.iter().map(broken)),
        ];
        columns.extend(self.parameter_columns(&all));
        columns.extend(self.objective_columns(&all));
        let constraint = |d: &Done, i: usize| d.evaluated.as_ref()?.figures.as_ref().ok()?.constraints.get(i).copied();
        columns.extend((0..self.judge.constraints.len()).map(|i| floats(all.iter().map(|d| constraint(d, i)))));
        let ran = |d: &&Done| d.evaluated.as_ref().is_some_and(|e| e.figures.is_ok());
        columns.extend([
            floats(all.iter().map(|d| ran(d).then_some(d.violation))),
            ints(all.iter().map(|d| ran(d).then_some(i64::from(d.rung)))),
            floats(all.iter().map(|d| ran(d).then_some(d.share))),
            ints(all.iter().map(|d| evaluated(d)?.requests)),
            ints(all.iter().map(|d| evaluated(d).filter(|e| !e.key.is_empty()).map(|e| e.seed as i64))),
            floats(all.iter().map(|d| evaluated(d)?.seconds)),
            texts(all.iter().map(|d| d.error.clone())),
            booleans(all.iter().map(|d| d.state == State::Complete)),
        ]);
        let mut on_front = vec![false; all.len()];
        self.front.iter().for_each(|&i| on_front[i] = true);
        columns.push(booleans(on_front.into_iter()));
        self.put("_trials", trials_schema(self.spec, Some(self.search)), columns)
    }

    fn write_history(&self) -> Result<()> {
        let entries = &self.searched.history.entries;
        let mut columns = vec![
            ints(self.trials().iter().map(|d| Some(d.number as i64))),
            texts(self.trials().iter().map(|d| Some(d.state.name().to_string()))),
        ];
        for (i, objective) in self.judge.objectives.iter().enumerate() {
            // Turned back: of an objective that is maximized the best is the largest.
            columns.push(floats(entries.iter().map(|e| e.best[i].map(|v| objective.minimized(v)))));
        }
        columns.push(floats(entries.iter().map(|e| e.hypervolume)));
        columns.push(ints(entries.iter().map(|e| e.front_size)));
        self.put("_history", history_schema(self.spec), columns)
    }

    fn write_importance(&self) -> Result<()> {
        let complete: Vec<&Done> = self.trials().iter().filter(|d| d.state == State::Complete).collect();
        let mut rows: Vec<(String, String, f64, f64)> = Vec::new();
        if complete.len() >= IMPORTANT {
            let values = |j: usize| complete.iter().map(|d| d.values[j].clone()).collect::<Vec<_>>();
            let parameters = self.search.space.parameters();
            let columns: Vec<_> = parameters.iter().enumerate().map(|(j, p)| p.domain.importance(&values(j))).collect();
            let all: Vec<Vec<f64>> = complete.iter().filter_map(|d| d.minimized.clone()).collect();
            let mut asked: Vec<(String, Vec<Vec<f64>>)> = Vec::new();
            if self.judge.objectives.len() > 1 {
                asked.push(("*".to_string(), all.clone()));
            }
            for (i, objective) in self.judge.objectives.iter().enumerate() {
                asked.push((objective.name.clone(), all.iter().map(|o| vec![o[i]]).collect()));
            }
            for (name, objectives) in asked {
                let found = ped_anova(&columns, &objectives, Quantiles::default());
                for ((parameter, importance), share) in parameters.iter().zip(&found).zip(shares(&found)) {
                    rows.push((name.clone(), parameter.path.clone(), *importance, share));
                }
            }
        }
        let columns = vec![
            texts(rows.iter().map(|r| Some(r.0.clone()))),
            texts(rows.iter().map(|r| Some(r.1.clone()))),
            floats(rows.iter().map(|r| Some(r.2))),
            floats(rows.iter().map(|r| Some(r.3))),
            ints(rows.iter().map(|_| Some(complete.len() as i64))),
        ];
        self.put("_importance", importance_schema(), columns)
    }

    fn write_intervals(&self) -> Result<()> {
        let rows = &self.intervals;
        let columns = vec![
            ints(rows.iter().map(|r| Some(r.trial as i64))),
            texts(rows.iter().map(|r| Some(r.objective.clone()))),
            ints(rows.iter().map(|r| Some(r.replications as i64))),
            floats(rows.iter().map(|r| r.mean)),
            floats(rows.iter().map(|r| r.standard_error)),
            floats(rows.iter().map(|r| r.ends.map(|(low, _)| low))),
            floats(rows.iter().map(|r| r.ends.map(|(_, high)| high))),
            ints(rows.iter().map(|r| r.best_trial.map(|t| t as i64))),
            floats(rows.iter().map(|r| r.difference.map(|d| d.0))),
            floats(rows.iter().map(|r| r.difference.map(|d| d.1))),
            floats(rows.iter().map(|r| r.difference.map(|d| d.2))),
        ];
        self.put("_intervals", intervals_schema(), columns)
    }

    /// Parameters by path, of those that exist and are set.
    fn parameters(&self, done: &Done) -> Map<String, Value> {
        let all = self.search.settings.iter().zip(&done.values);
        all.map(|(s, v)| (s.path.clone(), v.clone())).collect()
    }

    fn entry(&self, done: &Done) -> Value {
        let mut entry = Map::new();
        entry.insert("trial_number".to_string(), json!(done.number));
        let values = done.objectives().unwrap_or_default();
        for (objective, value) in self.judge.objectives.iter().zip(values) {
            entry.insert(objective.name.clone(), json!(value));
        }
        entry.insert("parameters".to_string(), Value::from(self.parameters(done)));
        entry.insert("state".to_string(), json!("COMPLETE"));
        Value::from(entry)
    }

    /// The study: who won, among whom, and how well that is known. `pareto_front` has the form that tuners of serving
    /// engines write.
    fn study(&self) -> Value {
        let front: Vec<Value> = self.front.iter().map(|&i| self.entry(&self.trials()[i])).collect();
        let directions: Vec<&str> =
            self.judge.objectives.iter().map(|o| if o.maximize { "maximize" } else { "minimize" }).collect();
        let count = |state: State| self.trials().iter().filter(|d| d.state == state).count();
        let states = [State::Complete, State::Infeasible, State::Pruned, State::Illegal, State::Failed];
        let best = self.front.first().map(|&i| &self.trials()[i]);
        let errors: Map<String, Value> = self
            .intervals
            .iter()
            .filter(|i| best.is_some_and(|b| b.number == i.trial))
            .map(|i| (i.objective.clone(), json!({ "mean": i.mean, "interval": i.ends.map(|(l, h)| [l, h]) })))
            .collect();
        json!({
            "study_name": self.cx.stage,
            "n_trials": self.trials().len(),
            "objectives": self.judge.objectives.iter().map(|o| &o.name).collect::<Vec<_>>(),
            "directions": directions,
            "sampler": serde_json::to_value(&self.spec.sampler).unwrap_or_default(),
            "picked": self.searched.picked,
            "seed": self.spec.seed.unwrap_or(self.cx.seed),
            "states": states.map(|s| (s.name().to_string(), json!(count(s)))).into_iter().collect::<Map<_, _>>(),
            "best_trial": best.map(|b| b.number),
            "best_parameters": best.map(|b| self.parameters(b)),
            // What it reached in the search, and what it reaches with other seeds.
            "train_error": best.and_then(Done::objectives),
            "eval_error": if errors.is_empty() { Value::Null } else { Value::from(errors) },
            "pareto_front": front,
        })
    }

    /// The best configurations, ready to read.
    pub fn answer(&self) -> Vec<String> {
        let count = |state: State| self.trials().iter().filter(|d| d.state == state).count();
        let mut head = format!("{}: {} trials", self.cx.stage, self.trials().len());
        for state in [State::Failed, State::Infeasible, State::Pruned, State::Illegal] {
            if count(state) > 0 {
                head.push_str(&format!(", {} {}", count(state), state.name()));
            }
        }
        match self.searched.end {
            End::Trials => {}
            End::Exhausted => head.push_str(" (no other point is left)"),
            End::Seconds => head.push_str(" (out of time)"),
            End::Stagnation => head.push_str(" (nothing got better any more)"),
        }
        // Configurations that achieve the same are one answer: the first of them stands for all.
        let mut answers: Vec<&Done> = Vec::new();
        for &i in &self.front {
            if answers.iter().all(|known| known.minimized != self.trials()[i].minimized) {
                answers.push(&self.trials()[i]);
            }
        }
        match answers.len() {
            0 if count(State::Infeasible) > 0 => head.push_str("; none of them meets every condition"),
            0 => head.push_str("; none of them has a value for every objective"),
            1 => head.push_str("; the best configuration:"),
            n if n > SHOWN => head.push_str(&format!("; {n} results that no other beats, the first {SHOWN}:")),
            n => head.push_str(&format!("; {n} results that no other beats:")),
        }
        let mut lines = vec![head];
        lines.extend(answers.into_iter().take(SHOWN).map(|done| self.line(done)));
        if let Some(picked) = &self.searched.picked {
            lines.push(format!("  sampler: {picked}"));
        }
        let labels = self.rules.labels();
        let broken: Vec<String> = labels
            .iter()
            .zip(&self.searched.broken)
            .filter(|(_, n)| **n > 0)
            .map(|((label, _), n)| format!("{n} `{label}`"))
            .collect();
        if !broken.is_empty() {
            let repaired = self.trials().iter().filter(|d| d.raw.is_some()).count();
            let what = if repaired > 0 { format!("{repaired} proposals were repaired") } else { "rules".to_string() };
            lines.push(format!("  {what}; broken: {}", broken.join(", ")));
        }
        lines
    }

    fn line(&self, done: &Done) -> String {
        let params = self.search.settings.iter().zip(&done.values);
        let params: Vec<String> = params
            .map(|(s, v)| format!("{}={}", last(&s.path), text(v).unwrap_or_else(|| "default".to_string())))
            .collect();
        let of = |name: &str| self.intervals.iter().find(|i| i.trial == done.number && i.objective == name);
        let values = self.judge.objectives.iter().zip(done.objectives().unwrap_or_default());
        let values: Vec<String> = values
            .map(|(o, v)| match of(&o.name).and_then(|i| Some((i.mean?, i.ends?))) {
                Some((mean, (low, high))) => {
                    format!("{} {} ({} to {})", o.name, short(mean), short(low), short(high))
                }
                None => format!("{} {}", o.name, short(v)),
            })
            .collect();
        format!("  {}: {} (trial {})", values.join(", "), params.join(" "), done.number)
    }
}

/// The last name of a dotted path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Five significant digits, without an exponent where that can be read.
fn short(v: f64) -> String {
    let magnitude = if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
    if (-4..15).contains(&magnitude) {
        let text = format!("{v:.*}", usize::try_from(4 - magnitude).unwrap_or(0));
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    } else {
        format!("{v:.4e}")
    }
}
