//! `where`: which points of the space are worth a trial. Every condition is SQL, asked about many points at once.
//!
//! A column that is named like a parameter is that parameter; what only needs these is answered before a scenario is
//! made. Every point must also be a scenario that the simulator takes.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use pipe_kernel::scenario::Scenario;
use pipe_kernel::tune::{self, OnViolation, SamplerSpec, Settings, Study};

use super::space::{self, Search};
use crate::diag::Diagnostic;
use crate::query::errors::Names;
use crate::spec::{Optimize, Text, Tree, TreeValue};
use crate::stage::simulate::filter::{config, leaves, session, setting_column, sql_problem};
use crate::stage::simulate::settings::Setting;
use crate::table::simulation;

/// Most rules of a search: the kernel has a bit for each, and one is the simulator's.
const RULES_MAX: usize = 63;
/// Points that are drawn to see whether rules leave anything.
const DRAWN: usize = 256;
/// What a point that is no scenario breaks.
const IMPOSSIBLE: &str = "can be simulated";

/// A condition as written.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    /// Its name, or its number from 1.
    pub name: String,
    /// How it is shown.
    pub label: String,
    pub sql: Text,
}

/// One condition, a list of them, or a map of name -> condition.
///
/// # Errors
/// Anything else.
pub(super) fn conditions(tree: Option<&Tree>, what: &str) -> Result<Vec<Condition>, Vec<Diagnostic>> {
    let Some(tree) = tree else { return Ok(Vec::new()) };
    let wrong = |tree: &Tree| {
        let message = format!("`{what}` is a condition in SQL, a list of them, or a map of name -> condition");
        vec![Diagnostic::new("optimize::conditions", message).at(tree.at.clone())]
    };
    let text = |tree: &Tree| match &tree.value {
        TreeValue::String(s) => Ok(Text::new(s.clone(), tree.at.clone())),
        TreeValue::Bool(b) => Ok(Text::new(b.to_string(), tree.at.clone())),
        _ => Err(wrong(tree)),
    };
    let unnamed = |(i, tree): (usize, &Tree)| {
        text(tree).map(|sql| Condition { name: (i + 1).to_string(), label: sql.value.trim().to_string(), sql })
    };
    match &tree.value {
        TreeValue::List(items) => items.iter().enumerate().map(unnamed).collect(),
        TreeValue::Map(entries) => entries
            .iter()
            .map(|(name, tree)| Ok(Condition { name: name.value.clone(), label: name.value.clone(), sql: text(tree)? }))
            .collect(),
        _ => Ok(vec![unnamed((0, tree))?]),
    }
}

/// A condition, compiled.
struct Rule {
    condition: Condition,
    expr: Arc<dyn PhysicalExpr>,
    /// The parameters that it looks at, where it looks at nothing else.
    parameters: Option<Vec<usize>>,
}

/// An expression, and the parameters that it looks at, where it looks at nothing else.
type Compiled = (Arc<dyn PhysicalExpr>, Option<Vec<usize>>);

/// The rules of a search.
pub(super) struct PointRules {
    rules: Vec<Rule>,
    /// The parameters, then the other settings of a scenario, then `gpus`.
    schema: SchemaRef,
    /// Of the parameters alone: the first columns of `schema`.
    own: SchemaRef,
    others: Vec<Setting>,
    /// The first condition that could not be evaluated. The sampler's question has no room for an error.
    failed: OnceLock<Diagnostic>,
}

impl PointRules {
    /// Compiles `where`.
    ///
    /// # Errors
    /// SQL that is not valid, at its place.
    pub fn new(spec: &Optimize, search: &Search) -> Result<PointRules, Vec<Diagnostic>> {
        let conditions = conditions(spec.rules.as_ref(), "where")?;
        let mut problems = Vec::new();
        if conditions.len() > RULES_MAX {
            let message = format!("{} rules; at most {RULES_MAX}: join some with AND", conditions.len());
            problems.push(Diagnostic::new("optimize::conditions", message).at(space::place(spec)));
        }
        let parameters: Vec<Field> = search.settings.iter().filter_map(parameter_field).collect();
        let taken: BTreeSet<&str> = parameters.iter().map(|f| f.name().as_str()).collect();
        let mut others = Vec::new();
        let mut fields = parameters.clone();
        if !search.is_external() {
            others = leaves(&[], search.settings.iter().map(|s| s.path.as_str()));
            others.retain(|s| !taken.contains(s.column().as_str()));
            fields.extend(others.iter().filter_map(Setting::field));
            fields.extend(simulation::totals().into_iter().filter(|f| f.name() == "gpus"));
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let own = Arc::new(Schema::new(parameters));
        let (session, names) = session().map_err(|d| vec![d])?;
        let mut rules = Vec::new();
        for condition in conditions {
            let wrong = |e: &DataFusionError| sql_problem(e, &condition.sql, &names);
            let compiled = || -> Result<Compiled, Diagnostic> {
                let df_schema = DFSchema::try_from(schema.clone()).map_err(|e| wrong(&e))?;
                let expr = session.parse_sql_expr(&condition.sql.value, &df_schema).map_err(|e| wrong(&e))?;
                let at = |name: &str| own.index_of(name).ok();
                let looks: Option<BTreeSet<usize>> = expr.column_refs().into_iter().map(|c| at(&c.name)).collect();
                let expr = session.create_physical_expr(expr, &df_schema).map_err(|e| wrong(&e))?;
                let kind = expr.data_type(&schema).map_err(|e| wrong(&e))?;
                if !matches!(kind, DataType::Boolean | DataType::Null) {
                    let message = format!("the condition gives {kind}, not true or false");
                    return Err(Diagnostic::new("sql::type", message).at(condition.sql.at.clone()));
                }
                Ok((expr, looks.map(|set| set.into_iter().collect())))
            };
            match compiled() {
                Ok((expr, parameters)) => rules.push(Rule { condition, expr, parameters }),
                Err(d) => problems.push(d),
            }
        }
        if problems.is_empty() {
            Ok(PointRules { rules, schema, own, others, failed: OnceLock::new() })
        } else {
            Err(problems)
        }
    }

    /// The first condition that could not be evaluated.
    pub fn failed(&self) -> Option<Diagnostic> {
        self.failed.get().cloned()
    }

    /// Labels and SQL of all rules, that of the simulator last.
    pub fn labels(&self) -> Vec<(String, String)> {
        let of = |r: &Rule| (r.condition.label.clone(), r.condition.sql.value.trim().to_string());
        let own = (IMPOSSIBLE.to_string(), "the simulator takes the scenario".to_string());
        self.rules.iter().map(of).chain([own]).collect()
    }

    /// The labels of the rules in a mask.
    pub fn named(&self, mask: u64) -> Vec<String> {
        let labels = self.labels().into_iter().enumerate();
        labels.filter(|(i, _)| mask >> i & 1 == 1).map(|(_, (label, _))| label).collect()
    }

    /// What the rules leave of the space, where that is nothing: drawn points, and which rules they break.
    pub fn nothing_left(&self, spec: &Optimize, search: &Search) -> Option<Diagnostic> {
        let of = |on_violation| Settings { seed: 0, on_violation, budget: None, ..Settings::default() };
        let asked = |draws: usize, on_violation| {
            let study = Study::new(search.space.clone(), &SamplerSpec::Random, of(on_violation));
            study.map(|mut study| study.ask(draws, &Asked { rules: self, search })).unwrap_or_default()
        };
        let drawn = asked(DRAWN, OnViolation::Prune);
        if self.failed.get().is_some() || drawn.iter().any(|s| s.broken == 0) {
            return self.failed();
        }
        // Tens of thousands of draws, or every point of a small space.
        if !asked(1, OnViolation::Resample).is_empty() {
            return None;
        }
        let broken = |i: usize| drawn.iter().filter(|s| s.broken >> i & 1 == 1).count();
        let mut shares: Vec<(usize, usize)> = (0..=self.rules.len()).map(|i| (broken(i), i)).collect();
        shares.sort_by_key(|(n, i)| (std::cmp::Reverse(*n), *i));
        let labels = self.labels();
        let share = |n: usize| 100.0 * n as f64 / drawn.len().max(1) as f64;
        let told: Vec<String> = shares
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, i)| format!("`{}` rejects {:.0} %", labels[*i].0, share(*n)))
            .collect();
        let worst = shares.first().filter(|(n, i)| *n == drawn.len() && *i < self.rules.len()).map(|(_, i)| *i);
        let message = match worst {
            Some(i) => format!("the rule `{}` rejects every point of the space", labels[i].0),
            None => {
                format!("no point of the space obeys all rules: of {} drawn points {}", drawn.len(), told.join(", "))
            }
        };
        let at = worst.and_then(|i| self.rules[i].condition.sql.at.clone()).or_else(|| space::place(spec));
        let help = "look at `where`, and at the memory that the model needs at each `deployment.tp`";
        Some(Diagnostic::new("optimize::infeasible", message).at(at).help(help))
    }

    fn fail(&self, e: &DataFusionError, rule: &Rule) {
        self.failed.get_or_init(|| sql_problem(e, &rule.condition.sql, &Names::default()));
    }

    /// Sets the bit of a rule for every point at which it is not true.
    fn judge(&self, bit: usize, batch: &RecordBatch, masks: &mut [u64], rows: &[usize]) {
        let rule = &self.rules[bit];
        let evaluated = rule.expr.evaluate(batch).and_then(|v| v.into_array(batch.num_rows()));
        match evaluated {
            Ok(values) => {
                let values = values.as_boolean_opt();
                for (row, &point) in rows.iter().enumerate() {
                    let holds = values.is_some_and(|v: &BooleanArray| !v.is_null(row) && v.value(row));
                    masks[point] |= u64::from(!holds) << bit;
                }
            }
            Err(e) => {
                self.fail(&e, rule);
                rows.iter().for_each(|&point| masks[point] |= 1 << bit);
            }
        }
    }

    fn broken(&self, search: &Search, points: &[Vec<Value>]) -> Vec<u64> {
        let mut masks = vec![0; points.len()];
        let all: Vec<usize> = (0..points.len()).collect();
        let own = parameter_columns(&search.settings, &points.iter().collect::<Vec<_>>(), name_of);
        let (cheap, costly): (Vec<usize>, Vec<usize>) =
            (0..self.rules.len()).partition(|&i| self.rules[i].parameters.is_some());
        if let Ok(batch) = RecordBatch::try_new(self.own.clone(), own.clone()) {
            cheap.into_iter().for_each(|bit| self.judge(bit, &batch, &mut masks, &all));
        }
        if search.is_external() {
            return masks;
        }
        // A scenario is made only of what got so far.
        let left: Vec<usize> = all.into_iter().filter(|&i| masks[i] == 0).collect();
        let made: Vec<Option<Scenario>> =
            left.par_iter().map(|&i| search.scenario(&points[i]).filter(|s| search.runs(s))).collect();
        for (&i, scenario) in left.iter().zip(&made) {
            masks[i] |= u64::from(scenario.is_none()) << self.rules.len();
        }
        if costly.is_empty() {
            return masks;
        }
        let (left, made): (Vec<usize>, Vec<Scenario>) =
            left.into_iter().zip(made).filter_map(|(i, scenario)| Some((i, scenario?))).unzip();
        if left.is_empty() {
            return masks;
        }
        let configs: Vec<Value> = made.iter().map(config).collect();
        let gpus = made.iter().map(|s| i64::try_from(s.deployment.gpus()).unwrap_or(i64::MAX));
        let kept: Vec<&Vec<Value>> = left.iter().map(|&i| &points[i]).collect();
        let mut columns = parameter_columns(&search.settings, &kept, name_of);
        columns.extend(self.others.iter().map(|s| setting_column(s, &configs)));
        columns.push(Arc::new(gpus.collect::<Int64Array>()));
        match RecordBatch::try_new(self.schema.clone(), columns) {
            Ok(batch) => costly.into_iter().for_each(|bit| self.judge(bit, &batch, &mut masks, &left)),
            Err(e) => self.fail(&e.into(), &self.rules[costly[0]]),
        }
        masks
    }
}

/// The rules, as a study asks them.
pub(super) struct Asked<'a> {
    pub rules: &'a PointRules,
    pub search: &'a Search,
}

impl tune::Rules for Asked<'_> {
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
        self.rules.broken(self.search, points)
    }

    fn parameters_of(&self, rule: usize) -> Option<Vec<usize>> {
        self.rules.rules.get(rule)?.parameters.clone()
    }

    fn is_empty(&self) -> bool {
        self.rules.rules.is_empty() && self.search.is_external()
    }
}

/// The column of a parameter: NULL where it is unset or does not exist.
pub(super) fn parameter_field(setting: &Setting) -> Option<Field> {
    let kind = setting.data_type().unwrap_or(DataType::Utf8);
    Some(crate::table::column(&setting.column(), kind, true, "", &setting.description))
}

/// The columns of all parameters, a row per point; `text` writes what is no number and no boolean.
pub(super) fn parameter_columns(
    settings: &[Setting],
    points: &[&Vec<Value>],
    text: fn(&Value) -> Option<String>,
) -> Vec<ArrayRef> {
    let of = |(j, setting): (usize, &Setting)| -> ArrayRef {
        let values = || points.iter().map(|p| p.get(j));
        match setting.data_type() {
            Some(DataType::Int64) => Arc::new(values().map(|v| v.and_then(Value::as_i64)).collect::<Int64Array>()),
            Some(DataType::Float64) => Arc::new(values().map(|v| v.and_then(Value::as_f64)).collect::<Float64Array>()),
            Some(DataType::Boolean) => Arc::new(values().map(|v| v.and_then(Value::as_bool)).collect::<BooleanArray>()),
            Some(_) | None => Arc::new(values().map(|v| v.and_then(text)).collect::<StringArray>()),
        }
    };
    settings.iter().enumerate().map(of).collect()
}

/// A name; of a choice with its parameters, that of the choice.
pub(super) fn name_of(value: &Value) -> Option<String> {
    match value.as_object().map(|map| map.keys().next()) {
        Some(name) => name.cloned(),
        None => text(value),
    }
}

/// A name, or the JSON of a choice with its parameters.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}
