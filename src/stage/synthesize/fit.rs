//! A trace to a workload like it: the columns of a table of requests, client by client, to the kernel's `fit`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef, UInt64Type};
use pipe_kernel::workload::{Body, Client, Clients, FitSettings, Fitted, MAX_TOKENS, Observed, fit};
use serde_json::{Value, json};

use super::settings::{place, scaled};
use super::tables::ints;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Fit, FitBy, FitLengths, Ref, Synthesize};
use crate::stage::TableShape;
use crate::store::TableHandle;
use crate::table::column;
use crate::trace;

/// The table that says what was found.
pub(super) fn name(stage: &str) -> String {
    format!("{stage}_fit")
}

/// What was found of every client.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("client", DataType::Utf8, false, "", "Client"),
        column("figure", DataType::Utf8, false, "", "What was found: `requests`, `rate_rps` by window, `gaps_cv`, ..."),
        column("at_s", DataType::Float64, true, "s", "Start of the window that it belongs to"),
        column("value", DataType::Float64, false, "", "Its value"),
    ]))
}

pub(super) fn recipe(fit: &Fit) -> Value {
    let Fit { by, window_s, scale, lengths, sessions, prefixes } = fit;
    json!({
        "by": by, "window_s": window_s, "scale": scale, "lengths": lengths, "sessions": sessions, "prefixes": prefixes,
    })
}

pub(super) fn problems(stage: &Synthesize, from: &Ref, tables: &BTreeMap<String, TableShape>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut wrong = |path: &str, message: String| {
        let at = place(&stage.tree, path).cloned();
        found.push(Diagnostic::new("synthesize::value", message).at(at));
    };
    let settings = &stage.value;
    let fit = settings.fit.clone().unwrap_or_default();
    let positive = |v: f64| v.is_finite() && v > 0.0;
    for (value, path) in [
        (settings.rate_rps, "rate_rps"),
        (settings.duration_s, "duration_s"),
        (fit.window_s, "fit.window_s"),
        (fit.scale, "fit.scale"),
    ] {
        if let Some(value) = value.filter(|v| !positive(*v)) {
            wrong(path, format!("`{path}` must be a number above 0, not {value}"));
        }
    }
    if settings.rate_rps.is_some() && fit.scale.is_some() {
        wrong(
            "fit.scale",
            "`fit.scale` cannot be there together with `rate_rps`, the mean rate that is wanted".to_string(),
        );
    }
    if settings.requests == Some(0) {
        wrong("requests", "`requests` must be at least 1".to_string());
    }
    if !(1..=MAX_TOKENS).contains(&settings.block_tokens) {
        let message = format!("`block_tokens` must be from 1 to {MAX_TOKENS}, not {}", settings.block_tokens);
        wrong("block_tokens", message);
    }
    if let Some(schema) = tables.get(&from.0.value).and_then(|t| t.schema.as_ref()) {
        for needed in ["arrival_ns", "input_tokens", "output_tokens"] {
            if schema.field_with_name(needed).is_err() {
                let message = format!("table `{}` has no column `{needed}`: it holds no requests", from.0.value);
                found.push(Diagnostic::new("synthesize::column", message).at(from.0.at.clone()));
            }
        }
    }
    found
}

/// Clients like those of a trace.
pub(super) struct Model {
    pub clients: Clients,
    /// By client.
    figures: Vec<(String, Fitted)>,
    pub warnings: Vec<String>,
}

/// Reads the trace and finds what it is like.
///
/// # Errors
/// The table is not there, has no requests with arrivals, or cannot be read.
pub(super) fn read(stage: &Synthesize, table: &str, inputs: &BTreeMap<String, TableHandle>) -> Result<Model> {
    let missing = || Failure::stage("synthesize::no_table", format!("table `{table}` was not made"));
    let handle = inputs.get(table).ok_or_else(missing)?;
    let settings = &stage.value;
    let wanted = settings.fit.clone().unwrap_or_default();
    let mut gathered = Gathered::default();
    let by = by_column(handle, wanted.by)?;
    for batch in trace::parts(&handle.parts)? {
        gathered.add(&batch?, by)?;
    }
    let Gathered { clients, left_out, block_tokens, .. } = gathered;
    let mut warnings = Vec::new();
    if left_out > 0 {
        warnings.push(format!("{left_out} requests of `{table}` have no arrival or no lengths and are left out"));
    }
    let total: usize = clients.values().map(|(o, _)| o.arrival_s.len()).sum();
    let last = clients.values().flat_map(|(o, _)| &o.arrival_s).fold(0.0f64, |a, b| a.max(*b));
    if total < 2 || last <= 0.0 {
        let message =
            format!("table `{table}` has no two requests that arrive at different times: nothing can be fitted");
        return Err(Failure::stage("synthesize::no_requests", message));
    }
    // As long as the trace would be if one more gap followed.
    let span_s = last + last / (total - 1) as f64;
    let window_s = wanted.window_s.unwrap_or((span_s / 24.0).max(10.0)).min(span_s);
    let fit_settings = FitSettings {
        window_s,
        span_s,
        joint: wanted.lengths == FitLengths::Joint,
        sessions: wanted.sessions,
        prefixes: wanted.prefixes,
        block_tokens,
    };
    let mut made = Vec::new();
    let mut figures = Vec::new();
    for (name, (observed, known)) in clients {
        let mut fitted = fit(&sorted(observed), &fit_settings);
        if fitted.body.prefix_groups.is_empty() {
            fitted.body.block_tokens = settings.block_tokens;
        }
        let mut client = Client::new(name.clone(), Body::Alike(Box::new(fitted.body.clone())));
        let [tenant, class, model, adapter] = known.map(Same::value);
        (client.tenant, client.class, client.model, client.adapter) = (tenant, class, model, adapter);
        made.push(client);
        figures.push((name, fitted));
    }
    // All clients must hash blocks of one size.
    let blocks = made.iter().filter_map(|c| match &c.body {
        Body::Alike(body) if !body.prefix_groups.is_empty() => Some(body.block_tokens),
        _ => None,
    });
    let blocks = blocks.max().unwrap_or(settings.block_tokens);
    let factor = match (settings.rate_rps, wanted.scale) {
        (Some(rate), _) => rate * span_s / total as f64,
        (None, Some(factor)) => factor,
        (None, None) => 1.0,
    };
    for client in &mut made {
        if let Body::Alike(body) = &mut client.body {
            body.block_tokens = blocks;
            body.rate_schedule = body.rate_schedule.take().map(|s| scaled(s, factor));
        }
    }
    // As many as there are, where nothing is said.
    let (requests, duration_s) = match (settings.requests, settings.duration_s) {
        (None, None) => (None, Some(span_s)),
        given => given,
    };
    Ok(Model { clients: Clients { clients: made, requests, duration_s }, figures, warnings })
}

impl Model {
    /// The rows of [`schema`].
    ///
    /// # Errors
    /// None but bugs.
    pub fn rows(&self) -> Result<RecordBatch> {
        let all = || self.figures.iter().flat_map(|(client, of)| of.figures.iter().map(move |f| (client, f)));
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(all().map(|(client, _)| Some(client.as_str())).collect::<StringArray>()),
            Arc::new(all().map(|(_, (name, ..))| Some(*name)).collect::<StringArray>()),
            Arc::new(all().map(|(_, (_, at, _))| *at).collect::<Float64Array>()),
            Arc::new(all().map(|(_, (.., value))| Some(*value)).collect::<Float64Array>()),
        ];
        RecordBatch::try_new(schema(), columns)
            .map_err(|e| Failure::stage("synthesize::arrow", format!("cannot put the rows together: {e}")))
    }
}

/// The column that tells clients apart: `None` where all requests are of one.
fn by_column(handle: &TableHandle, by: FitBy) -> Result<Option<&'static str>> {
    let candidates: &[&'static str] = match by {
        FitBy::Client => &["client", "tenant"],
        FitBy::Tenant => &["tenant"],
        FitBy::Class => &["class"],
        FitBy::Nothing => &[],
    };
    let mut filled = vec![false; candidates.len()];
    for batch in trace::parts(&handle.parts)? {
        let batch = batch?;
        for (filled, name) in filled.iter_mut().zip(candidates) {
            *filled |= batch.column_by_name(name).is_some_and(|c| c.null_count() < c.len());
        }
    }
    Ok(candidates.iter().zip(filled).find(|(_, filled)| *filled).map(|(name, _)| *name))
}

/// A value that all requests of a client have, or not.
#[derive(Clone, Debug, Default)]
enum Same {
    #[default]
    Unseen,
    Value(Option<String>),
    Several,
}

impl Same {
    fn see(&mut self, value: Option<&str>) {
        match self {
            Same::Unseen => *self = Same::Value(value.map(str::to_string)),
            Same::Value(known) if known.as_deref() == value => {}
            Same::Value(_) | Same::Several => *self = Same::Several,
        }
    }

    fn value(self) -> Option<String> {
        match self {
            Same::Value(value) => value,
            Same::Unseen | Same::Several => None,
        }
    }
}

/// Columns that a client may have one value of.
const KNOWN: [&str; 4] = ["tenant", "class", "model", "adapter"];

#[derive(Default)]
struct Gathered {
    clients: BTreeMap<String, (Observed, [Same; 4])>,
    sessions: BTreeMap<String, u32>,
    left_out: u64,
    block_tokens: u32,
}

impl Gathered {
    fn add(&mut self, batch: &RecordBatch, by: Option<&str>) -> Result<()> {
        let text = |name: &str| batch.column_by_name(name).and_then(|c| cast(c, &DataType::Utf8).ok());
        let (arrival, input, output) =
            (ints(batch, "arrival_ns"), ints(batch, "input_tokens"), ints(batch, "output_tokens"));
        let (think, block_tokens) = (ints(batch, "think_ns"), ints(batch, "block_tokens"));
        let (session, client) = (text("session_id"), by.and_then(text));
        let known: Vec<Option<arrow::array::ArrayRef>> = KNOWN.iter().map(|name| text(name)).collect();
        let hashes = batch.column_by_name("block_hashes");
        fn at(column: Option<&arrow::array::ArrayRef>, i: usize) -> Option<&str> {
            let column = column?.as_string::<i32>();
            column.is_valid(i).then(|| column.value(i))
        }
        for i in 0..batch.num_rows() {
            let tokens = |v: Option<i64>| v.filter(|v| (1..=i64::from(MAX_TOKENS)).contains(v)).map(|v| v as u32);
            let (Some(ns), Some(input), Some(output)) =
                (arrival[i].filter(|ns| *ns >= 0), tokens(input[i]), tokens(output[i]))
            else {
                self.left_out += 1;
                continue;
            };
            let name = match by {
                Some(_) => at(client.as_ref(), i).unwrap_or("none"),
                None => "all",
            };
            let sessions = &mut self.sessions;
            let session = at(session.as_ref(), i).map(|s| {
                let next = sessions.len() as u32;
                *sessions.entry(s.to_string()).or_insert(next)
            });
            let (observed, same) = self.clients.entry(name.to_string()).or_default();
            for (same, column) in same.iter_mut().zip(&known) {
                same.see(at(column.as_ref(), i));
            }
            observed.arrival_s.push(ns as f64 / 1e9);
            observed.input.push(input);
            observed.output.push(output);
            observed.session.push(session);
            observed.think_s.push(think[i].filter(|t| *t >= 0).map(|t| t as f64 / 1e9));
            let size = block_tokens[i].and_then(|b| u32::try_from(b).ok()).filter(|b| *b > 0);
            self.block_tokens = self.block_tokens.max(size.unwrap_or(0));
            let of_prompt = size.map_or(0, |size| input.div_ceil(size) as usize);
            observed.blocks.push(blocks(hashes, i, of_prompt));
        }
        Ok(())
    }
}

/// The hashes of the blocks of a prompt.
fn blocks(column: Option<&arrow::array::ArrayRef>, i: usize, most: usize) -> Vec<u64> {
    let Some(column) = column.and_then(|c| c.as_list_opt::<i32>()).filter(|c| c.is_valid(i)) else { return Vec::new() };
    let values = column.value(i);
    let Some(values) = values.as_primitive_opt::<UInt64Type>() else { return Vec::new() };
    values.values().iter().take(most).copied().collect()
}

/// In order of the arrivals; ties keep their order.
fn sorted(of: Observed) -> Observed {
    let mut order: Vec<usize> = (0..of.arrival_s.len()).collect();
    order.sort_by(|a, b| of.arrival_s[*a].total_cmp(&of.arrival_s[*b]));
    if order.iter().enumerate().all(|(i, o)| i == *o) {
        return of;
    }
    let mut made = Observed::default();
    for i in order {
        made.arrival_s.push(of.arrival_s[i]);
        made.input.push(of.input[i]);
        made.output.push(of.output[i]);
        made.session.push(of.session[i]);
        made.think_s.push(of.think_s[i]);
        made.blocks.push(of.blocks[i].clone());
    }
    made
}
