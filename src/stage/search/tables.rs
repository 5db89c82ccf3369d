//! What a search tells: an answer per search, a row per simulation, and the sequence of values of each search.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde_json::Value;

use pipe_kernel::scenario::Scenario;

use super::seek::{Seek, State, Visit};
use super::setup::Setup;
use super::{Probe, broken};
use crate::diag::Result;
use crate::stage::RunCx;
use crate::stage::simulate::filter;
use crate::stage::simulate::settings::Setting;
use crate::stage::simulate::{Totals, totals_columns};
use crate::table::{column, simulation};

/// Answers that are shown of each SLO and model.
const SHOWN: usize = 3;

fn id(name: &str, description: &str) -> Field {
    column(name, DataType::Int64, false, "", description)
}

fn float(name: &str, unit: &str, description: &str) -> Field {
    column(name, DataType::Float64, true, unit, description)
}

/// The settings of the configurations; without that which is searched.
fn settings(setup: &Setup) -> Vec<Setting> {
    let configs: Vec<Value> = setup.configurations.iter().map(|c| filter::config(&c.scenario)).collect();
    filter::present(&configs).into_iter().filter(|s| s.path != setup.path.value && s.path != "seed").collect()
}

/// What an answer has beside its own columns.
fn totals_of_answers() -> Vec<Field> {
    let own = ["gpus"];
    let totals = simulation::totals().into_iter().filter(|f| !own.contains(&f.name().as_str()));
    totals.map(|f| f.with_nullable(true)).collect()
}

/// `<stage>`: a row per configuration and SLO (and value, where these are listed), in their order.
pub(super) fn answers(setup: &Setup) -> SchemaRef {
    let mut fields = vec![id("configuration_id", "Number of the configuration, from 0, in the order of the sweep")];
    fields.extend(settings(setup).iter().filter_map(|s| s.field()).map(|f| f.with_nullable(true)));
    fields.extend([
        column("slo", DataType::Utf8, false, "", "Name of the SLO"),
        column(
            "state",
            DataType::Utf8,
            false,
            "",
            "found: the border is known; all_pass, none_passes: so it is in the whole range; passes, fails: of a listed \
             value; dropped: it cannot become the best; impossible: it cannot be simulated",
        ),
        float("value", "", "The answer: the value of what is searched that still passes; null where there is none"),
        float("failing", "", "The first value that does not pass"),
        float("qps", "1/s", "Requests per second of the answer"),
        column("gpus", DataType::Int64, true, "", "GPUs of the answer"),
        float("usd_per_hour", "USD/h", "What these cost by `prices`"),
        float("qps_per_gpu", "1/s", "Requests per second of the answer, per GPU"),
        float("qps_per_usd", "", "Requests per second of the answer, per US dollar and hour"),
        float("margin", "", "Smallest margin to a limit of the SLO at the answer, relative to the limit"),
        column("probe", DataType::Int64, true, "", "Number of the answer's probe"),
        column("rank", DataType::Int64, true, "", "Place among the configurations of the same SLO and model, from 1"),
        id("values_tried", "Values that the search asked for, also those that another one had asked for before"),
        id("contradictions", "Of these, such that pass beyond one that fails"),
        column("reason", DataType::Utf8, true, "", "Why it is impossible"),
    ]);
    fields.extend(totals_of_answers());
    Arc::new(Schema::new(fields))
}

/// `<stage>_probes`: a row per simulation, in the order of the probes; the columns of `simulate` behind those of the search.
pub(super) fn probes(setup: &Setup) -> SchemaRef {
    let mut fields = vec![
        id("probe", "Number of the probe, from 0: a configuration with a value of what is searched"),
        id("configuration_id", "Number of the configuration"),
        float("value", "", "Value of what is searched"),
        id("replication", "Number of the simulation among those of the probe, from 0"),
        column("scenario", DataType::Utf8, false, "", "Hash of everything that its rows depend on"),
    ];
    fields.extend(probe_settings(setup).iter().filter_map(|s| s.field()));
    fields.extend(simulation::totals());
    Arc::new(Schema::new(fields))
}

fn probe_settings(setup: &Setup) -> Vec<Setting> {
    let configs: Vec<Value> = setup.configurations.iter().map(|c| filter::config(&c.scenario)).collect();
    filter::present(&configs)
}

/// `<stage>_sequence`: a row per value that a search asked for, in its order.
pub(super) fn sequence() -> SchemaRef {
    Arc::new(Schema::new(vec![
        id("configuration_id", "Number of the configuration"),
        column("slo", DataType::Utf8, false, "", "Name of the SLO"),
        id("step", "Place in the sequence of the search, from 0"),
        id("probe", "Number of the probe"),
        float("value", "", "Value that was asked for"),
        column("pass", DataType::Boolean, false, "", "It meets the SLO"),
        float("margin", "", "Smallest margin to a limit of the SLO, relative to it; mean over the replications"),
        float("margin_low", "", "Lower confidence bound of it; the same without replications"),
        float("passing", "", "Hardest value known to pass after this step"),
        float("failing", "", "Easiest value known to fail after this step"),
    ]))
}

fn wrong(e: &ArrowError) -> crate::diag::Failure {
    broken("search::rows", e.to_string())
}

/// Writes all tables.
///
/// # Errors
/// A full disk.
pub(super) fn write(cx: &RunCx, setup: &Setup, slos: &[String], seeks: &[Seek], done: &[Probe]) -> Result<()> {
    let put = |name: &str, schema: SchemaRef, columns: Vec<ArrayRef>| -> Result<()> {
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|e| wrong(&e))?;
        let mut writer = cx.out.table(&format!("{}{name}", cx.stage), schema)?;
        writer.write(&batch)?;
        writer.finish()
    };
    put("", answers(setup), answer_columns(setup, slos, seeks, done).map_err(|e| wrong(&e))?)?;
    put("_probes", probes(setup), probe_columns(setup, done))?;
    put("_sequence", sequence(), sequence_columns(slos, seeks))
}

fn ints<'a, T>(of: impl IntoIterator<Item = T>, f: impl Fn(&T) -> Option<i64> + 'a) -> ArrayRef {
    Arc::new(of.into_iter().map(|t| f(&t)).collect::<Int64Array>())
}

fn floats<T>(of: impl IntoIterator<Item = T>, f: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    // What has no number is null: no table holds infinities.
    Arc::new(of.into_iter().map(|t| f(&t).filter(|x| x.is_finite())).collect::<Float64Array>())
}

fn texts<'a, T>(of: impl IntoIterator<Item = T>, f: impl Fn(&T) -> Option<&'a str>) -> ArrayRef {
    Arc::new(of.into_iter().map(|t| f(&t)).collect::<StringArray>())
}

/// What an answer comes to.
struct Answer {
    value: f64,
    qps: Option<f64>,
    gpus: u64,
    usd: Option<f64>,
    score: f64,
    probe: usize,
}

fn answer_of(setup: &Setup, seek: &Seek) -> Option<Answer> {
    let (value, probe) = (seek.passing()?, seek.answer()?);
    let (gpus, usd) = setup.cost(seek.configuration, value);
    let score = setup.score(seek.configuration, value);
    Some(Answer { value, qps: setup.qps(seek.configuration, value), gpus, usd, score, probe })
}

/// The place of every search among its rivals, from 1; equal scores share one.
fn ranks(setup: &Setup, seeks: &[Seek], answers: &[Option<Answer>]) -> Vec<Option<i64>> {
    let score = |at: usize| answers[at].as_ref().map(|a| a.score);
    let better = |at: usize, mine: f64| {
        let ahead = |other: &usize| {
            setup.are_rivals(&seeks[at], &seeks[*other])
                && score(*other).is_some_and(|s| s.total_cmp(&mine) == Ordering::Greater)
        };
        (0..seeks.len()).filter(ahead).count() as i64
    };
    (0..seeks.len()).map(|at| score(at).map(|mine| 1 + better(at, mine))).collect()
}

fn answer_columns(
    setup: &Setup,
    slos: &[String],
    seeks: &[Seek],
    done: &[Probe],
) -> std::result::Result<Vec<ArrayRef>, ArrowError> {
    let answers: Vec<Option<Answer>> = seeks.iter().map(|seek| answer_of(setup, seek)).collect();
    let ranks = ranks(setup, seeks, &answers);
    let configs: Vec<Value> =
        seeks.iter().map(|seek| filter::config(&setup.configurations[seek.configuration].scenario)).collect();
    let of = |f: fn(&Answer) -> Option<f64>| floats(&answers, move |a| a.as_ref().and_then(f));
    let at_answer = |seek: &Seek| -> Option<Visit> {
        let probe = seek.answer()?;
        seek.visits.iter().find(|v| v.probe == probe).cloned()
    };
    let mut columns: Vec<ArrayRef> = vec![ints(seeks, |s| Some(s.configuration as i64))];
    columns.extend(settings(setup).iter().filter(|s| s.field().is_some()).map(|s| filter::setting_column(s, &configs)));
    columns.extend([
        texts(seeks, |s| Some(slos[s.slo].as_str())),
        texts(seeks, |s| Some(s.state.as_str())),
        of(|a| Some(a.value)),
        floats(seeks, |s| s.failing()),
        of(|a| a.qps),
        ints(&answers, |a| a.as_ref().map(|a| a.gpus as i64)),
        of(|a| a.usd),
        of(|a| a.qps.map(|qps| qps / a.gpus as f64)),
        of(|a| a.qps.zip(a.usd).map(|(qps, usd)| qps / usd)),
        floats(seeks, |s| at_answer(s).and_then(|v| v.judged.margin)),
        ints(&answers, |a| a.as_ref().map(|a| a.probe as i64)),
        Arc::new(ranks.into_iter().collect::<Int64Array>()) as ArrayRef,
        ints(seeks, |s| Some(s.visits.len() as i64)),
        ints(seeks, |s| Some(s.contradictions() as i64)),
        texts(seeks, |s| match &s.state {
            State::Impossible(why) => Some(why.as_str()),
            _ => None,
        }),
    ]);
    // The totals of the answers' probes; of nobody where nothing was simulated.
    let totals: Vec<Totals> = done.iter().filter_map(|p| p.scenarios.first()).map(|(_, f)| f.totals.clone()).collect();
    let wanted = totals_of_answers();
    if totals.is_empty() {
        columns.extend(wanted.iter().map(|f| new_null_array(f.data_type(), seeks.len())));
        return Ok(columns);
    }
    let probes: Int64Array = answers.iter().map(|a| a.as_ref().map(|a| a.probe as i64)).collect();
    for (field, values) in simulation::totals().iter().zip(totals_columns(&totals)) {
        if wanted.iter().any(|f| f.name() == field.name()) {
            columns.push(take(&values, &probes, None)?);
        }
    }
    Ok(columns)
}

fn probe_columns(setup: &Setup, done: &[Probe]) -> Vec<ArrayRef> {
    let mut rows: Vec<(usize, &Probe, usize)> = Vec::new();
    for (number, probe) in done.iter().enumerate() {
        rows.extend((0..probe.scenarios.len()).map(|replication| (number, probe, replication)));
    }
    let scenario =
        |(_, probe, replication): &(usize, &Probe, usize)| -> Scenario { probe.scenarios[*replication].0.clone() };
    let configs: Vec<Value> = rows.iter().map(|row| filter::config(&scenario(row))).collect();
    let totals: Vec<Totals> = rows.iter().map(|(_, p, r)| p.scenarios[*r].1.totals.clone()).collect();
    let keys = rows.iter().map(|(_, p, r)| p.scenarios[*r].1.key.0.as_str());
    let mut columns: Vec<ArrayRef> = vec![
        ints(&rows, |row| Some(row.0 as i64)),
        ints(&rows, |row| Some(row.1.configuration as i64)),
        floats(&rows, |row| Some(row.1.value)),
        ints(&rows, |row| Some(row.2 as i64)),
        Arc::new(StringArray::from_iter_values(keys)),
    ];
    let settings = probe_settings(setup);
    columns.extend(settings.iter().filter(|s| s.field().is_some()).map(|s| filter::setting_column(s, &configs)));
    columns.extend(totals_columns(&totals));
    columns
}

fn sequence_columns(slos: &[String], seeks: &[Seek]) -> Vec<ArrayRef> {
    let rows: Vec<(&Seek, usize, &Visit)> = seeks
        .iter()
        .flat_map(|seek| seek.visits.iter().enumerate().map(move |(step, visit)| (seek, step, visit)))
        .collect();
    vec![
        ints(&rows, |(seek, ..)| Some(seek.configuration as i64)),
        texts(&rows, |(seek, ..)| Some(slos[seek.slo].as_str())),
        ints(&rows, |(_, step, _)| Some(*step as i64)),
        ints(&rows, |(.., visit)| Some(visit.probe as i64)),
        floats(&rows, |(.., visit)| Some(visit.value)),
        Arc::new(rows.iter().map(|(.., visit)| Some(visit.judged.passes)).collect::<BooleanArray>()),
        floats(&rows, |(.., visit)| visit.judged.margin),
        floats(&rows, |(.., visit)| visit.judged.margin_low),
        floats(&rows, |(.., visit)| visit.passing),
        floats(&rows, |(.., visit)| visit.failing),
    ]
}

/// The best configurations of every SLO, ready to read.
pub(super) fn answer(stage: &str, setup: &Setup, slos: &[String], seeks: &[Seek], done: &[Probe]) -> Vec<String> {
    let simulations: usize = done.iter().map(|p| p.scenarios.len()).sum();
    let requests: i64 = done.iter().flat_map(|p| &p.scenarios).map(|(_, f)| f.totals.requests()).sum();
    let count = |state: fn(&State) -> bool| seeks.iter().filter(|s| state(&s.state)).count();
    let mut head = format!("{stage}: {} searches, {simulations} simulations of {requests} requests", seeks.len());
    for (n, what) in [
        (count(|s| matches!(s, State::Impossible(_))), "impossible"),
        (count(|s| matches!(s, State::NonePasses | State::Fails)), "never within the SLO"),
        (count(|s| *s == State::Dropped), "dropped"),
    ] {
        if n > 0 {
            head.push_str(&format!(", {n} {what}"));
        }
    }
    let answers: Vec<Option<Answer>> = seeks.iter().map(|seek| answer_of(setup, seek)).collect();
    let ranks = ranks(setup, seeks, &answers);
    let configs: Vec<Value> = setup.configurations.iter().map(|c| filter::config(&c.scenario)).collect();
    let varied: Vec<Setting> =
        settings(setup).into_iter().filter(|s| configs.iter().any(|c| s.value(c) != s.value(&configs[0]))).collect();
    let mut lines = vec![head];
    for (slo, name) in slos.iter().enumerate() {
        let mut best: Vec<usize> =
            (0..seeks.len()).filter(|at| seeks[*at].slo == slo && ranks[*at].is_some()).collect();
        best.sort_by_key(|at| (ranks[*at], seeks[*at].configuration));
        for at in best.into_iter().take(SHOWN) {
            let Some(found) = &answers[at] else { continue };
            let config = &configs[seeks[at].configuration];
            let described: Vec<String> =
                varied.iter().filter_map(|s| Some(format!("{} {}", s.column(), shown(s.value(config)?)))).collect();
            let mut line = format!("  {name}: {} {}", setup.path.value, rounded(found.value));
            line.push_str(&format!(", {} GPUs", found.gpus));
            if let Some(usd) = found.usd {
                line.push_str(&format!(", {} USD/h", rounded(usd)));
            }
            if !described.is_empty() {
                line.push_str(&format!(" ({})", described.join(", ")));
            }
            lines.push(line);
        }
        if !(0..seeks.len()).any(|at| seeks[at].slo == slo && ranks[at].is_some()) {
            let visits = seeks.iter().filter(|seek| seek.slo == slo).flat_map(|seek| &seek.visits);
            let nearest = visits.filter_map(|visit| visit.judged.margin).max_by(f64::total_cmp);
            // One that is met in the mean may not be surely.
            let by = nearest
                .filter(|margin| *margin < 0.0)
                .map(|margin| format!("; the nearest misses it by {:.1}% (`{stage}_sequence`)", -100.0 * margin));
            lines.push(format!("  {name}: no configuration meets it{}", by.unwrap_or_default()));
        }
    }
    lines
}

fn rounded(x: f64) -> String {
    format!("{:.3}", x).trim_end_matches('0').trim_end_matches('.').to_string()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
        other => other.to_string(),
    }
}
