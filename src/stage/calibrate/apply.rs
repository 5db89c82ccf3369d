//! Calibrated values in a simulation: what `simulate: { calibration: fit }` means.
//!
//! The values of the table, each at its dotted path, go over what the stage writes, before its sweep. Before the table
//! exists, a pipeline is checked with values in their place that are possible, so that its columns are known.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::{config, paths_of_terms};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::query::session::{self, SessionOptions};
use crate::spec::{Calibrate, Simulate, Stage, StageSpec, Text, Tree, TreeValue};
use crate::stage::simulate::settings::{self, SettingKind};
use crate::store::TableHandle;

/// Bytes that DataFusion may hold while it reads a table.
const READ_MEMORY: usize = 1 << 30;

/// The simulation with possible values in place of what its calibration will find; as it is without one. `None` where
/// nothing is known of the table before it is there.
pub(crate) fn foreseen(simulate: &Simulate, stages: &[Stage]) -> Option<Simulate> {
    let Some(calibration) = &simulate.calibration else { return Some(simulate.clone()) };
    let stage = stages.iter().find(|s| s.name.value == calibration.0.value)?;
    match &stage.spec {
        StageSpec::Calibrate(calibrate) => {
            let values: Vec<(String, f64)> = possible(calibrate).into_iter().collect();
            Some(with(simulate, &values))
        }
        _ => None,
    }
}

/// The stages of a pipeline, its simulations calibrated as far as the tables are at hand, and otherwise foreseen.
///
/// # Errors
/// A table that cannot be read.
pub(crate) async fn calibrated_stages(stages: &[Stage], inputs: &BTreeMap<String, TableHandle>) -> Result<Vec<Stage>> {
    let mut all = Vec::with_capacity(stages.len());
    for stage in stages {
        let spec = match &stage.spec {
            StageSpec::Simulate(simulate) => StageSpec::Simulate(match table(simulate, inputs) {
                Some(_) => calibrated(simulate, inputs).await?,
                None => foreseen(simulate, stages).unwrap_or_else(|| simulate.clone()),
            }),
            other => other.clone(),
        };
        all.push(Stage { name: stage.name.clone(), spec });
    }
    Ok(all)
}

/// The same before anything ran.
pub(crate) fn foreseen_stages(stages: &[Stage]) -> Vec<Stage> {
    let spec = |stage: &Stage| match &stage.spec {
        StageSpec::Simulate(simulate) if simulate.calibration.is_some() => {
            StageSpec::Simulate(foreseen(simulate, stages).unwrap_or_else(|| simulate.clone()))
        }
        other => other.clone(),
    };
    stages.iter().map(|s| Stage { name: s.name.clone(), spec: spec(s) }).collect()
}

fn table<'a>(simulate: &Simulate, inputs: &'a BTreeMap<String, TableHandle>) -> Option<&'a TableHandle> {
    inputs.get(&simulate.calibration.as_ref()?.0.value)
}

/// The simulation with the values of its calibration; as it is without one.
///
/// # Errors
/// No such table; a table without `path` and `value`; a path that no setting has.
pub(crate) async fn calibrated(simulate: &Simulate, inputs: &BTreeMap<String, TableHandle>) -> Result<Simulate> {
    let Some(calibration) = &simulate.calibration else { return Ok(simulate.clone()) };
    let at = calibration.0.at.as_ref();
    let name = &calibration.0.value;
    let wrong = |message: String| {
        let d = Diagnostic::new("simulate::calibration", message).at(at.cloned());
        Failure { exit: Exit::Stage, diagnostics: vec![d] }
    };
    let handle = inputs.get(name).ok_or_else(|| wrong(format!("there is no table `{name}`")))?;
    let mut values = Vec::new();
    for batch in rows(handle, &["path", "value"]).await.map_err(|f| f.or_at(at))? {
        let column = |i: usize, kind: DataType| cast(batch.column(i), &kind).map_err(|e| wrong(e.to_string()));
        let (paths, numbers) = (column(0, DataType::Utf8)?, column(1, DataType::Float64)?);
        let (paths, numbers) = (paths.as_string::<i32>(), numbers.as_primitive::<Float64Type>());
        for i in 0..batch.num_rows() {
            if paths.is_null(i) || numbers.is_null(i) {
                return Err(wrong(format!("row {i} of `{name}` has no path or no value")));
            }
            values.push((paths.value(i).to_string(), numbers.value(i)));
        }
    }
    let unknown: Vec<Diagnostic> = values.iter().filter_map(|(path, _)| settings::at(path, at).err()).collect();
    if unknown.is_empty() {
        Ok(with(simulate, &values))
    } else {
        Err(Failure { exit: Exit::Stage, diagnostics: unknown })
    }
}

/// The columns of a table.
///
/// # Errors
/// It cannot be read, or lacks one of them.
pub(crate) async fn rows(handle: &TableHandle, columns: &[&str]) -> Result<Vec<RecordBatch>> {
    let lacking: Vec<&str> = columns.iter().filter(|c| handle.schema.field_with_name(c).is_err()).copied().collect();
    if !lacking.is_empty() {
        let message = format!("`{}` has no column {}", handle.name, lacking.join(", "));
        return Err(Failure::stage("calibrate::columns", message));
    }
    let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: READ_MEMORY })?;
    let failed = |e: datafusion::error::DataFusionError| {
        Failure::stage("calibrate::read", format!("cannot read `{}`: {}", handle.name, e.strip_backtrace()))
    };
    let table = ctx.read_table(session::provider(handle)?).map_err(failed)?;
    table.select_columns(columns).map_err(failed)?.collect().await.map_err(failed)
}

/// The simulation with values at paths.
fn with(simulate: &Simulate, values: &[(String, f64)]) -> Simulate {
    let mut simulate = simulate.clone();
    for (path, value) in values {
        let tree = leaf(path, *value);
        let Some((head, rest)) = path.split_once('.') else {
            if path == "seed" {
                simulate.seed = Some(*value as u64);
            }
            continue;
        };
        let empty = || Tree::new(TreeValue::Map(Vec::new()), None);
        let target = match head {
            "deployment" => &mut simulate.deployment,
            "workload" => simulate.workload.get_or_insert_with(empty),
            "measure" => simulate.measure.get_or_insert_with(empty),
            _ => continue,
        };
        // Choices are told apart by the keys above them, so the whole path is set.
        let mut tree_of_all = Tree::new(
            TreeValue::Map(vec![(Text::new(head.to_string(), target.at.clone()), target.clone())]),
            target.at.clone(),
        );
        tree_of_all.set_path(&format!("{head}.{rest}"), tree);
        if let Some(set) = tree_of_all.get_path(head) {
            *target = set.clone();
        }
    }
    simulate
}

/// A value in the type of its setting.
pub(super) fn leaf(path: &str, value: f64) -> Tree {
    let whole = settings::at(path, None).is_ok_and(|s| s.kind == SettingKind::Int);
    Tree::new(if whole { TreeValue::Int(value.round() as i64) } else { TreeValue::Float(value) }, None)
}

/// A value of every parameter that a stage will find.
fn possible(calibrate: &Calibrate) -> BTreeMap<String, f64> {
    match calibrate {
        Calibrate::Steps(steps) => paths_of_terms(steps).into_iter().map(|path| (path, 1.0)).collect(),
        Calibrate::Requests(requests) => super::study::parameters(&requests.parameters)
            .0
            .into_iter()
            .map(|p| (p.path.clone(), p.value(p.high)))
            .collect(),
        Calibrate::OptimizerConfig(field) => match config::Config::read(field) {
            Ok(config) => config.parameters(field).0.into_iter().map(|p| (p.path.clone(), p.value(p.high))).collect(),
            Err(_) => BTreeMap::new(),
        },
    }
}
