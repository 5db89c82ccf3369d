//! Least squares over the durations of steps: terms of the latency models, parts by configuration, errors of both parts.
//!
//! A table of steps knows sums over a batch. Where a term needs more, chunks of a step are taken as equally long: squares
//! of chunks and products with what they attend to then follow from the sums. With one prompt in a step, which is the
//! rule, that is exact.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use serde_json::{Value, json};

use pipe_kernel::profile::Operator;
use pipe_kernel::rng;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{self, BatchShape, Overheads};
use pipe_kernel::tune::least_squares::{Fit, Unfit, non_negative, ordinary};

use super::apply::rows;
use super::output::{BestRow, ErrorRow};
use crate::catalog;
use crate::diag::{Diagnostic, Exit, Failure, Result, nearest};
use crate::spec::{CalibrateSteps, CaseRole, Stage, StepModel, Tree, Weights};
use crate::stage::RunCx;
use crate::stage::optimize::space::{simulation, with_required};
use crate::stage::simulate::scenario::{base, resolve};
use crate::stage::simulate::settings::{self, SettingKind};
use crate::store::TableHandle;

/// A coefficient, and what it multiplies.
type Term = (&'static str, fn(&Step) -> f64);

/// Terms of the polynomial.
const REGRESSION: [Term; 18] = [
    ("intercept_us", |_| 1.0),
    ("sum_decode_tokens_us", |s| s.decodes),
    ("sum_prefill_tokens_us", |s| s.prefill_tokens),
    ("max_prefill_tokens_us", |s| s.longest),
    ("num_prefills_us", |s| s.prefills),
    ("sum_decode_tokens_squared_us", |s| s.decodes * s.decodes),
    ("sum_prefill_tokens_squared_us", |s| s.prefill_tokens * s.prefill_tokens),
    ("max_prefill_tokens_squared_us", |s| s.longest * s.longest),
    ("num_prefills_squared_us", |s| s.prefills * s.prefills),
    ("sum_decode_tokens_x_sum_prefill_tokens_us", |s| s.decodes * s.prefill_tokens),
    ("sum_decode_tokens_x_max_prefill_tokens_us", |s| s.decodes * s.longest),
    ("sum_decode_tokens_x_num_prefills_us", |s| s.decodes * s.prefills),
    ("sum_prefill_tokens_x_max_prefill_tokens_us", |s| s.prefill_tokens * s.longest),
    ("sum_prefill_tokens_x_num_prefills_us", |s| s.prefill_tokens * s.prefills),
    ("max_prefill_tokens_x_num_prefills_us", |s| s.longest * s.prefills),
    ("decode_context_us", |s| s.decode_context),
    ("prefill_context_us", |s| s.prefill_context),
    ("prefill_pairs_us", |s| s.x_context() + (s.squared() + s.prefill_tokens) / 2.0),
];
const LINEAR: [Term; 3] =
    [("base_us", |_| 1.0), ("per_prefill_token_us", |s| s.prefill_tokens), ("per_decode_token_us", |s| s.decodes)];
/// Of the polynomial where no terms are given: what the field's optimizer varies.
const DEFAULT: [&str; 4] = ["intercept_us", "sum_decode_tokens_us", "sum_prefill_tokens_us", "num_prefills_us"];
/// Coefficients that act outside of steps.
const OUTSIDE: [&str; 4] = ["queue_base_us", "queue_per_input_token_us", "after_request_us", "per_output_token_us"];

/// The coefficient of which a feature is taken: durations are whole nanoseconds, so more than 1.
const UNIT: f64 = 1000.0;

impl StepModel {
    pub(super) fn name(self) -> &'static str {
        match self {
            StepModel::Linear => "linear",
            StepModel::Regression => "regression",
            StepModel::TrainedPhysics => "trained_physics",
            StepModel::TrainedRoofline => "trained_roofline",
            StepModel::CrossModel => "cross_model",
        }
    }

    /// It is made of facts of model and GPU.
    fn needs_facts(self) -> bool {
        match self {
            StepModel::Linear | StepModel::Regression => false,
            StepModel::TrainedPhysics | StepModel::TrainedRoofline | StepModel::CrossModel => true,
        }
    }
}

/// All coefficients of a model that act on steps, in the order of its settings.
fn step_terms(model: StepModel) -> Vec<String> {
    let prefix = format!("deployment.latency.{}.", model.name());
    let all = settings::expanded(&[], []);
    let own = all.iter().filter(|s| s.kind == SettingKind::Float).filter_map(|s| s.path.strip_prefix(&prefix));
    let known = |name: &&str| match model {
        StepModel::Linear => LINEAR.iter().any(|(n, _)| n == name),
        StepModel::Regression => REGRESSION.iter().any(|(n, _)| n == name),
        StepModel::TrainedPhysics | StepModel::TrainedRoofline | StepModel::CrossModel => !OUTSIDE.contains(name),
    };
    own.filter(known).map(str::to_string).collect()
}

/// The terms that a stage fits, and those of its model that are 0 then.
fn terms(spec: &CalibrateSteps) -> (Vec<String>, Vec<String>) {
    let all = step_terms(spec.model);
    let fitted: Vec<String> = match (spec.terms.is_empty(), spec.model) {
        (true, StepModel::Regression) => all.iter().filter(|t| DEFAULT.contains(&t.as_str())).cloned().collect(),
        (true, _) => all.clone(),
        // In the order of the settings; what is named twice is fitted once.
        (false, _) => all.iter().filter(|t| spec.terms.iter().any(|w| w.value == **t)).cloned().collect(),
    };
    let zero = match spec.model {
        // What is left out is 0 anyway.
        StepModel::Regression => Vec::new(),
        _ => all.into_iter().filter(|t| !fitted.contains(t)).collect(),
    };
    (fitted, zero)
}

fn path(model: StepModel, term: &str) -> String {
    format!("deployment.latency.{}.{term}", model.name())
}

/// The paths of all values that a stage finds.
pub(crate) fn paths(spec: &CalibrateSteps) -> Vec<String> {
    let (fitted, zero) = terms(spec);
    fitted.iter().chain(&zero).map(|t| path(spec.model, t)).collect()
}

/// What is wrong with the settings.
pub(super) fn problems(spec: &CalibrateSteps, stages: &[Stage], project: &Path, seed: u64) -> Vec<Diagnostic> {
    let at = spec.from.0.at.clone();
    let mut found = Vec::new();
    let all = step_terms(spec.model);
    for term in &spec.terms {
        if !all.contains(&term.value) {
            let message = format!("`{}` has no coefficient `{}` of steps", spec.model.name(), term.value);
            let near = nearest(&term.value, all.iter().map(String::as_str));
            let help = near.map_or_else(|| format!("known are {}", all.join(", ")), |n| format!("did you mean `{n}`?"));
            found.push(Diagnostic::new("calibrate::term", message).at(term.at.clone()).help(help));
        }
    }
    let mut wrong = |message: &str, help: &str| {
        found.push(Diagnostic::new("calibrate::split", message).at(at.clone()).help(help));
    };
    let lists = !(spec.train.is_empty() && spec.test.is_empty());
    if spec.split_by.is_none() && (lists || spec.train_share.is_some()) {
        let help = "name the column that tells configurations apart: `split_by: run`";
        wrong("rows of one configuration are too alike to be held out: a split needs `split_by`", help);
    }
    if lists && spec.train_share.is_some() {
        wrong("`train_share` and lists of configurations exclude each other", "leave one of them out");
    }
    if spec.train_share.is_some_and(|s| !(s > 0.0 && s < 1.0)) {
        wrong("`train_share` must be above 0 and below 1", "0.8 is the default");
    }
    if spec.model.needs_facts() {
        if spec.over.is_none() {
            let message = format!("`{}` is made of facts of model and GPU: `over` is missing", spec.model.name());
            let help = "name a `simulate` stage whose deployment the steps were measured on";
            found.push(Diagnostic::new("calibrate::over", message).at(at.clone()).help(help));
        } else if let Err(wrong) = scenario(spec, stages, project, seed) {
            found.extend(wrong);
        }
    }
    found
}

/// The deployment that the steps were measured on; `None` for models that need no facts.
///
/// # Errors
/// No such stage, or its base scenario cannot be.
fn scenario(
    spec: &CalibrateSteps,
    stages: &[Stage],
    project: &Path,
    seed: u64,
) -> std::result::Result<Option<Scenario>, Vec<Diagnostic>> {
    let Some(over) = spec.over.as_ref().filter(|_| spec.model.needs_facts()) else { return Ok(None) };
    let simulate = simulation(&over.0, "calibrate::over", stages).map_err(|d| vec![d])?;
    let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
    let mut tree: Tree = with_required(simulate, base(simulate, seed), |_| false);
    // Whatever it simulates with: facts are asked for here, and profiles may not be there.
    tree.set_path("deployment.latency", Tree::from_json(json!({ "constant": { "step_us": 1 } })));
    resolve(&tree, &catalog).map(Some)
}

/// Facts of the deployment, for the recipe.
pub(super) fn facts(spec: &CalibrateSteps, stages: &[Stage], project: &Path, seed: u64) -> Value {
    match scenario(spec, stages, project, seed) {
        Ok(Some(s)) => json!({ "deployment": s.deployment, "model": s.model, "gpu": s.gpu }),
        Ok(None) | Err(_) => Value::Null,
    }
}

/// A step as it was measured.
#[derive(Clone, Debug, Default)]
struct Step {
    us: f64,
    prefill_tokens: f64,
    prefills: f64,
    prefill_context: f64,
    decodes: f64,
    decode_context: f64,
    /// The longest chunk of a prompt.
    longest: f64,
    configuration: String,
}

impl Step {
    /// Sum over prompts of the square of their chunks.
    fn squared(&self) -> f64 {
        if self.prefills > 0.0 { self.prefill_tokens * self.prefill_tokens / self.prefills } else { 0.0 }
    }

    /// Sum over prompts of chunk times what is in the cache before it.
    fn x_context(&self) -> f64 {
        if self.prefills > 0.0 { self.prefill_tokens * self.prefill_context / self.prefills } else { 0.0 }
    }

    fn shape(&self) -> BatchShape {
        let whole = |x: f64| x.round().max(0.0) as u64;
        // All that decode are taken as equally long.
        let each = if self.decodes > 0.0 { self.decode_context / self.decodes } else { 0.0 };
        BatchShape {
            decode_requests: whole(self.decodes),
            decode_context: whole(self.decode_context),
            decode_context_max: whole(each),
            decode_context_min: whole(each),
            prefill_requests: whole(self.prefills),
            prefill_tokens: whole(self.prefill_tokens),
            prefill_context: whole(self.prefill_context),
            prefill_tokens_x_context: whole(self.x_context()),
            prefill_tokens_squared: whole(self.squared()),
            prefill_tokens_x_input: whole(self.squared() + self.x_context()),
            prefill_tokens_max: whole(self.longest),
            prefill_context_pages: whole(self.prefill_context / 64.0),
        }
    }
}

/// What came out.
pub(super) struct Fitted {
    pub best: Vec<BestRow>,
    pub errors: Vec<ErrorRow>,
    pub train_error: f64,
    pub test_error: Option<f64>,
    pub r2: f64,
    /// Steps in the train part, and in all.
    pub train: usize,
    pub all: usize,
}

/// Fits.
///
/// # Errors
/// A table that cannot be read or lacks a column, values that no step can have, too few steps, terms that cannot be told
/// apart.
pub(super) async fn fit(spec: &CalibrateSteps, cx: &RunCx, stages: &[Stage]) -> Result<Fitted> {
    let at = spec.from.0.at.as_ref();
    let fail = |code: &'static str, message: String, help: &str| {
        let d = Diagnostic::new(code, message).at(at.cloned()).help(help);
        Failure { exit: Exit::Stage, diagnostics: vec![d] }
    };
    let name = &spec.from.0.value;
    let missing = || fail("calibrate::steps", format!("there is no table `{name}`"), "`profile` makes one");
    let handle = cx.inputs.get(name).ok_or_else(missing)?;
    let steps = read(spec, handle).await.map_err(|f| f.or_at(at))?;
    let scenario = scenario(spec, stages, &cx.project, cx.seed).map_err(Failure::usage)?;
    let (fitted, zero) = terms(spec);
    let train = split(spec, &steps, cx.seed).map_err(|(m, h)| fail("calibrate::split", m, &h))?;
    let all_features = features(spec.model, &fitted, &steps, scenario.as_ref())
        .map_err(|m| fail("calibrate::terms", m, "name other `terms`"))?;
    let of = |rows: &[usize], values: &[f64]| rows.iter().map(|&i| values[i]).collect::<Vec<f64>>();
    let rows: Vec<usize> = (0..steps.len()).filter(|&i| train.contains(&steps[i].configuration)).collect();
    let durations: Vec<f64> = steps.iter().map(|s| s.us).collect();
    let y = of(&rows, &durations);
    let columns: Vec<Vec<f64>> = all_features.iter().map(|c| of(&rows, c)).collect();
    let weights: Option<Vec<f64>> = match spec.weights {
        Weights::Absolute => None,
        Weights::Relative => Some(y.iter().map(|y| 1.0 / (y * y)).collect()),
    };
    let solve = if spec.non_negative { non_negative } else { ordinary };
    let fit: Fit = solve(&columns, &y, weights.as_deref()).map_err(|unfit| match unfit {
        Unfit::Rows => {
            let message = format!("{} steps are too few for {} coefficients", y.len(), fitted.len());
            fail("calibrate::steps", message, "give more steps, or fewer `terms`")
        }
        Unfit::Dependent(j) => {
            let message = format!("`{}` follows from the other terms: any share between them fits as well", fitted[j]);
            fail("calibrate::terms", message, "leave one of them out of `terms`, or allow `non_negative: true`")
        }
        Unfit::Values => fail("calibrate::steps", "a number of a step is not finite".to_string(), "look at its table"),
    })?;
    let predicted: Vec<f64> = (0..steps.len())
        .map(|i| all_features.iter().zip(&fit.coefficients).map(|(column, c)| column[i] * c).sum())
        .collect();
    let mut errors = Vec::new();
    let test: Vec<usize> = (0..steps.len()).filter(|i| !train.contains(&steps[*i].configuration)).collect();
    for (role, rows) in [(CaseRole::Train, &rows), (CaseRole::Test, &test)] {
        errors.extend(error_rows(role, rows, &steps, &predicted));
    }
    let mape = |rows: &[usize]| relative(rows, &steps, &predicted);
    let row = |term: &String, value: f64, standard_error: Option<f64>| BestRow {
        path: path(spec.model, term),
        name: term.clone(),
        value,
        bounds: None,
        standard_error,
    };
    let found = fitted.iter().zip(fit.coefficients.iter().zip(&fit.standard_errors));
    let mut best: Vec<BestRow> = found.map(|(term, (value, error))| row(term, *value, *error)).collect();
    best.extend(zero.iter().map(|term| row(term, 0.0, None)));
    Ok(Fitted {
        best,
        errors,
        train_error: mape(&rows),
        test_error: (!test.is_empty()).then(|| mape(&test)),
        r2: fit.r2,
        train: rows.len(),
        all: steps.len(),
    })
}

/// The steps of a table, and what is wrong with it.
async fn read(spec: &CalibrateSteps, handle: &TableHandle) -> Result<Vec<Step>> {
    let there = |name: &str| handle.schema.field_with_name(name).is_ok();
    let mut names = vec!["latency_us", "prefill_tokens", "prefill_requests", "decode_requests"];
    let optional = ["prefill_context", "decode_context", "prefill_tokens_max"];
    names.extend(optional.into_iter().filter(|name| there(name)));
    let is_profile = there("operator");
    names.extend(is_profile.then_some("operator"));
    let split = spec.split_by.as_ref().map(|s| s.value.as_str());
    names.extend(split.filter(|s| !names.contains(s)));
    let batches = rows(handle, &names).await?;
    let wrong = |e: arrow::error::ArrowError| Failure::stage("calibrate::steps", e.to_string());
    let Some(schema) = batches.first().map(RecordBatch::schema) else { return Ok(Vec::new()) };
    let batch = concat_batches(&schema, &batches).map_err(wrong)?;
    let numbers = |name: &str| -> Result<Option<Vec<f64>>> {
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let column = cast(column, &DataType::Float64).map_err(wrong)?;
        Ok(Some(column.as_primitive::<Float64Type>().iter().map(|v| v.unwrap_or(f64::NAN)).collect()))
    };
    let texts = |name: &str| -> Result<Vec<String>> {
        let Some(column) = batch.column_by_name(name) else { return Ok(vec![String::new(); batch.num_rows()]) };
        let column = cast(column, &DataType::Utf8).map_err(wrong)?;
        Ok(column.as_string::<i32>().iter().map(|v| v.unwrap_or_default().to_string()).collect())
    };
    let needed = |name: &str| -> Result<Vec<f64>> { Ok(numbers(name)?.unwrap_or_default()) };
    let (us, tokens, prompts, decodes) =
        (needed("latency_us")?, needed("prefill_tokens")?, needed("prefill_requests")?, needed("decode_requests")?);
    let (prefill_context, decode_context) = (numbers("prefill_context")?, numbers("decode_context")?);
    let longest = numbers("prefill_tokens_max")?;
    let (operators, configurations) = (texts("operator")?, texts(split.unwrap_or_default())?);
    let mut steps = Vec::new();
    let mut bad = Vec::new();
    for i in 0..batch.num_rows() {
        if is_profile && operators[i] != Operator::Step.name() {
            continue;
        }
        let or_zero = |column: &Option<Vec<f64>>| column.as_ref().map_or(0.0, |c| c[i]);
        let step = Step {
            us: us[i],
            prefill_tokens: tokens[i],
            prefills: prompts[i],
            prefill_context: or_zero(&prefill_context),
            decodes: decodes[i],
            decode_context: or_zero(&decode_context),
            longest: longest.as_ref().map_or(if prompts[i] > 0.0 { tokens[i] / prompts[i] } else { 0.0 }, |l| l[i]),
            configuration: configurations[i].clone(),
        };
        let counts = [step.prefill_tokens, step.prefills, step.prefill_context, step.decodes, step.decode_context];
        if !(step.us.is_finite() && step.us > 0.0) || counts.iter().any(|c| !(c.is_finite() && *c >= 0.0)) {
            bad.push(i);
            continue;
        }
        steps.push(step);
    }
    if let Some(first) = bad.first() {
        let message = format!(
            "{} rows of `{}` are no steps (the first is row {first}): a duration must be above 0, and counts at least 0",
            bad.len(),
            handle.name
        );
        return Err(Failure::stage("calibrate::steps", message));
    }
    if steps.is_empty() {
        return Err(Failure::stage("calibrate::steps", format!("`{}` has no steps", handle.name)));
    }
    Ok(steps)
}

/// The values of every term in every step, in microseconds per unit of its coefficient.
fn features(
    model: StepModel,
    terms: &[String],
    steps: &[Step],
    scenario: Option<&Scenario>,
) -> std::result::Result<Vec<Vec<f64>>, String> {
    let formulas: &[Term] = match model {
        StepModel::Linear => &LINEAR,
        StepModel::Regression => &REGRESSION,
        StepModel::TrainedPhysics | StepModel::TrainedRoofline | StepModel::CrossModel => &[],
    };
    let mut columns = Vec::new();
    for term in terms {
        if let Some((_, formula)) = formulas.iter().find(|(name, _)| name == term) {
            columns.push(steps.iter().map(formula).collect());
            continue;
        }
        let Some(scenario) = scenario else { return Err(format!("nothing is known of `{term}`")) };
        // What one unit of this coefficient alone takes: steps of these models are sums.
        let all: serde_json::Map<String, Value> = step_terms(model)
            .into_iter()
            .chain(OUTSIDE.iter().map(|o| (*o).to_string()).filter(|o| settings::at(&path(model, o), None).is_ok()))
            .map(|name| {
                let value = if name == *term { UNIT } else { 0.0 };
                (name, Value::from(value))
            })
            .collect();
        let mut alone = scenario.clone();
        alone.deployment.latency = serde_json::from_value(json!({ model.name(): all })).map_err(|e| e.to_string())?;
        alone.deployment.overheads = Overheads::default();
        let site = alone.sites().into_iter().next().ok_or("the deployment has no pool")?;
        let unit = latency::of(&site).map_err(|e| e.to_string())?;
        columns.push(steps.iter().map(|s| unit.step(&s.shape()).0 as f64 / 1e3 / UNIT).collect());
    }
    Ok(columns)
}

/// The configurations of the train part.
fn split(spec: &CalibrateSteps, steps: &[Step], seed: u64) -> std::result::Result<BTreeSet<String>, (String, String)> {
    let all: BTreeSet<String> = steps.iter().map(|s| s.configuration.clone()).collect();
    let Some(by) = &spec.split_by else { return Ok(all) };
    let names = || all.iter().take(20).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    for given in spec.train.iter().chain(&spec.test) {
        if !all.contains(&given.value) {
            let message = format!("no step has `{}` in `{}`", given.value, by.value);
            return Err((message, format!("its values are {}", names())));
        }
        if spec.train.contains(given) && spec.test.contains(given) {
            return Err((format!("`{}` is in both parts", given.value), "take it out of one".to_string()));
        }
    }
    let train: BTreeSet<String> = match (spec.train.is_empty(), spec.test.is_empty()) {
        (false, _) => spec.train.iter().map(|t| t.value.clone()).collect(),
        (true, false) => all.iter().filter(|n| spec.test.iter().all(|t| t.value != **n)).cloned().collect(),
        (true, true) => {
            if all.len() < 2 {
                let message = format!("all steps have the same `{}` ({}): nothing can be held out", by.value, names());
                return Err((message, "leave `split_by` out, or name another column".to_string()));
            }
            let mut order: Vec<String> = all.iter().cloned().collect();
            let rng = &mut rng::stream(spec.seed.unwrap_or(seed), "calibrate/split");
            // Fisher and Yates.
            for i in (1..order.len()).rev() {
                order.swap(i, rng::below(rng, i as u64 + 1) as usize);
            }
            let share = spec.train_share.unwrap_or(0.8) * order.len() as f64;
            let count = (share.round() as usize).clamp(1, order.len() - 1);
            order.into_iter().take(count).collect()
        }
    };
    if train.is_empty() {
        return Err(("no configuration is left to fit to".to_string(), format!("there are {}", names())));
    }
    Ok(train)
}

/// Mean relative error over some steps.
fn relative(rows: &[usize], steps: &[Step], predicted: &[f64]) -> f64 {
    rows.iter().map(|&i| ((predicted[i] - steps[i].us) / steps[i].us).abs()).sum::<f64>() / rows.len() as f64
}

/// Errors of a part: of every configuration, then of all.
fn error_rows(role: CaseRole, rows: &[usize], steps: &[Step], predicted: &[f64]) -> Vec<ErrorRow> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mean = |rows: &[usize], of: &dyn Fn(usize) -> f64| rows.iter().map(|&i| of(i)).sum::<f64>() / rows.len() as f64;
    let row = |case: &str, feature: &str, rows: &[usize], error: f64| ErrorRow {
        role,
        case: case.to_string(),
        feature: feature.to_string(),
        measured: Some(mean(rows, &|i| steps[i].us)),
        fitted: Some(mean(rows, &|i| predicted[i])),
        error: Some(error).filter(|e| e.is_finite()),
        count: rows.len() as i64,
    };
    let mut by: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    rows.iter().for_each(|&i| by.entry(&steps[i].configuration).or_default().push(i));
    let mut found: Vec<ErrorRow> = Vec::new();
    for (case, rows) in by.iter().filter(|(case, _)| !case.is_empty()) {
        found.push(row(case, "step_us", rows, relative(rows, steps, predicted)));
    }
    let average = mean(rows, &|i| steps[i].us);
    let left = mean(rows, &|i| (predicted[i] - steps[i].us) * (predicted[i] - steps[i].us));
    let around = mean(rows, &|i| (steps[i].us - average) * (steps[i].us - average));
    found.push(row("", "step_us", rows, relative(rows, steps, predicted)));
    found.push(row("", "rmse_us", rows, libm::sqrt(left)));
    found.push(row("", "bias_us", rows, mean(rows, &|i| predicted[i] - steps[i].us)));
    found.push(row("", "r2", rows, 1.0 - left / around));
    found
}
