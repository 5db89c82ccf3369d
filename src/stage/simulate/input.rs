//! The requests that all scenarios of a stage share: read once, never changed.
//!
//! Any table will do that has the columns of [`COLUMNS`] that are needed, whatever stage made it; the rest is read where
//! it is there. Requests are sorted by their numbers, and the kernel knows them by their place in that order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt64Array, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, UInt64Type};
use datafusion::prelude::{SessionContext, col};

use pipe_kernel::request::Requests;
use pipe_kernel::scenario::{Arrivals, Load};
use pipe_kernel::sim::{beams, samples};
use pipe_kernel::units::{SimDuration, SimTime};

use crate::catalog::Catalog;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::query::session::{self, SessionOptions};
use crate::spec::Text;
use crate::store::{Hash, TableHandle};
use crate::trace::MAX_TOKENS;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Integers of any type.
    Int,
    Text,
    /// Lists of integers.
    Ints,
    /// Numbers of any type.
    Real,
}

/// The columns that are read, what they hold, and whether a table must have them. Times but `arrival_ns` are spans from
/// the arrival of the request, or (`think_ns`) from the end of those that it waits for.
const COLUMNS: [(&str, Holds, bool); 22] = [
    ("request_id", Holds::Int, true),
    ("arrival_ns", Holds::Int, true),
    ("input_tokens", Holds::Int, true),
    ("output_tokens", Holds::Int, true),
    ("session_id", Holds::Text, false),
    ("class", Holds::Text, false),
    ("tenant", Holds::Text, false),
    ("block_hashes", Holds::Ints, false),
    ("block_tokens", Holds::Int, false),
    ("priority", Holds::Int, false),
    ("max_tokens", Holds::Int, false),
    ("n", Holds::Int, false),
    ("beam_width", Holds::Int, false),
    ("deadline_ns", Holds::Int, false),
    ("timeout_ns", Holds::Int, false),
    ("cancel_ns", Holds::Int, false),
    ("depends_on", Holds::Ints, false),
    ("think_ns", Holds::Int, false),
    ("model", Holds::Text, false),
    ("adapter", Holds::Text, false),
    ("encoder_tokens", Holds::Int, false),
    ("acceptance", Holds::Real, false),
];

impl Holds {
    fn fits(self, kind: &DataType) -> bool {
        match (self, kind) {
            (_, DataType::Null) => true,
            (Holds::Int, kind) => kind.is_integer(),
            (Holds::Text, DataType::Dictionary(_, values)) => self.fits(values),
            (Holds::Text, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
            (Holds::Ints, DataType::List(item) | DataType::LargeList(item)) => item.data_type().is_integer(),
            (Holds::Real, kind) => kind.is_integer() || kind.is_floating(),
            (Holds::Text | Holds::Ints, _) => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Holds::Int => "an integer",
            Holds::Text => "text",
            Holds::Ints => "a list of integers",
            Holds::Real => "a number",
        }
    }
}

/// Columns that a table of requests lacks, and columns of another type than they must be, in words.
pub(super) fn unfit(schema: &Schema) -> (Vec<&'static str>, Vec<String>) {
    let (mut lacking, mut wrong) = (Vec::new(), Vec::new());
    for (name, holds, needed) in COLUMNS {
        match schema.field_with_name(name) {
            Ok(field) if holds.fits(field.data_type()) => {}
            Ok(field) => wrong.push(format!("column `{name}` is {}; must be {}", field.data_type(), holds.name())),
            Err(_) if needed => lacking.push(name),
            Err(_) => {}
        }
    }
    (lacking, wrong)
}

/// Bytes that DataFusion may hold while it reads the table.
const READ_MEMORY: usize = 16 << 30;
/// Values that are reported at once.
const PROBLEMS_MAX: usize = 20;

/// Requests, and what tables repeat of them.
#[derive(Clone)]
pub(crate) struct Workload {
    pub requests: Arc<Requests>,
    /// Name of the table.
    pub table: String,
    /// Of the content of the table.
    pub hash: Hash,
    /// Every request has an arrival time.
    pub timed: bool,
    /// Numbers of the requests, by place.
    pub request_id: ArrayRef,
    /// Text by place, null where the trace says nothing.
    pub class: ArrayRef,
    pub session_id: ArrayRef,
}

impl Workload {
    /// Reads a table of requests with token counts. Models get the names of the catalog, where it knows them.
    ///
    /// # Errors
    /// The table cannot be read, or lacks a column; two requests of one number; values that no request can have.
    pub async fn read(handle: &TableHandle, catalog: &Catalog) -> Result<Workload> {
        let ctx = session::context(&SessionOptions { target_partitions: 1, memory_bytes: READ_MEMORY })?;
        let rows = sorted(&ctx, handle).await.map_err(|e| unreadable(handle, &e.strip_backtrace()))?;
        let (lacking, mut wrong) = unfit(&rows.schema());
        wrong.extend(lacking.iter().map(|name| format!("no column `{name}`")));
        if !wrong.is_empty() {
            return Err(unreadable(handle, &wrong.join(", ")));
        }
        let mut reader = Reader::new(&rows, &handle.name, Some(catalog))?;
        let (requests, timed) = reader.requests()?;
        reader.done()?;
        Ok(Workload {
            requests: Arc::new(requests),
            table: handle.name.clone(),
            hash: handle.hash.clone(),
            timed,
            request_id: reader.ids.clone(),
            class: Arc::new(reader.text("class")?),
            session_id: Arc::new(reader.text("session_id")?),
        })
    }

    /// Whether the requests can arrive as `load` says.
    ///
    /// # Errors
    /// The trace has no times and the load neither a process nor a rate; `requests` is where the table is named.
    pub fn check(&self, load: &Load, requests: &Text) -> Result<()> {
        let keeps_trace = matches!(load.arrivals, Arrivals::Trace);
        // Users who wait for their replies take the requests in their order.
        if self.timed || load.concurrency.is_some() || !(keeps_trace || load.rate_rps.is_none()) {
            return Ok(());
        }
        let what = if keeps_trace { "`arrivals: trace` needs them" } else { "then `rate_rps` must be given" };
        let message = format!("the requests of `{}` have no arrival times, and {what}", requests.value);
        let diagnostic = Diagnostic::new("simulate::no_arrivals", message)
            .at(requests.at.clone())
            .help("say how they arrive: `workload: { arrivals: poisson, rate_rps: 4 }`");
        Err(Failure { exit: Exit::Stage, diagnostics: vec![diagnostic] })
    }

    /// What the kernel says of these requests, with their own numbers in place of their places.
    pub fn in_own_numbers(&self, path: &str, message: &str) -> String {
        let ids = self.request_id.as_primitive::<Int64Type>();
        let own = |place: &str| {
            let place = place.parse::<usize>().ok().filter(|p| *p < ids.len())?;
            Some(ids.value(place).to_string())
        };
        // Such as "requests wait for each other in a circle: 0 -> 4 -> 0".
        let told = message.rsplit_once(": ").filter(|_| path == "workload").and_then(|(what, places)| {
            let numbers = places.split(" -> ").map(own).collect::<Option<Vec<String>>>()?;
            Some(format!("{what}: {} (request_id in `{}`)", numbers.join(" -> "), self.table))
        });
        told.unwrap_or_else(|| message.to_string())
    }

    /// Classes that `load` has rules for and no request has, in order.
    pub fn unknown_classes<'a>(&self, load: &'a Load) -> Vec<&'a str> {
        load.classes.keys().map(String::as_str).filter(|c| !self.requests.class_names.iter().any(|n| n == c)).collect()
    }
}

/// The columns that are known, by number of the request.
async fn sorted(ctx: &SessionContext, handle: &TableHandle) -> datafusion::error::Result<RecordBatch> {
    let external = |e: Failure| datafusion::error::DataFusionError::External(Box::new(e));
    let table = ctx.read_table(session::provider(handle).map_err(external)?)?;
    let there = |name: &&str| handle.schema.field_with_name(name).is_ok();
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).filter(there).collect();
    let rows = table.select_columns(&names)?;
    let rows = if there(&"request_id") { rows.sort(vec![col("request_id").sort(true, false)])? } else { rows };
    let schema = Arc::new(rows.schema().as_arrow().clone());
    let batches = rows.collect().await?;
    Ok(concat_batches(&schema, &batches)?)
}

fn unreadable(handle: &TableHandle, what: &str) -> Failure {
    Failure::stage("simulate::requests", format!("cannot read the requests of `{}`: {what}", handle.name))
}

/// The requests of rows that are sorted by number, as [`Workload::read`] would have them, but for the names of models.
///
/// # Errors
/// As [`Workload::read`].
pub(crate) fn requests(rows: &RecordBatch, table: &str) -> Result<Requests> {
    let mut reader = Reader::new(rows, table, None)?;
    let (requests, _) = reader.requests()?;
    reader.done()?;
    Ok(requests)
}

/// Reads the columns of a table of requests, and collects the values that cannot be.
struct Reader<'a> {
    rows: &'a RecordBatch,
    table: &'a str,
    catalog: Option<&'a Catalog>,
    ids: ArrayRef,
    problems: Vec<String>,
    beyond: usize,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// Requests without number, or with the number of another.
    fn new(rows: &'a RecordBatch, table: &'a str, catalog: Option<&'a Catalog>) -> Result<Reader<'a>> {
        let wrong = |message: String| Err(Failure::stage("simulate::requests", message));
        let ids = integers(rows, "request_id")?.unwrap_or_else(|| Int64Array::new_null(rows.num_rows()));
        if ids.null_count() > 0 {
            return wrong(format!("{} requests of `{table}` have no request_id", ids.null_count()));
        }
        // Sorted: equal numbers are neighbours.
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        for pair in ids.values().windows(2).filter(|pair| pair[0] == pair[1]) {
            *counts.entry(pair[0]).or_insert(1) += 1;
        }
        if let Some((id, count)) = counts.first_key_value() {
            let more = match counts.len() - 1 {
                0 => String::new(),
                others => format!(" (and {others} more numbers stand for several)"),
            };
            return wrong(format!(
                "request_id {id} stands for {count} requests of `{table}`{more}; every request needs a number of its own"
            ));
        }
        Ok(Reader { rows, table, catalog, ids: Arc::new(ids), problems: Vec::new(), beyond: 0 })
    }

    fn requests(&mut self) -> Result<(Requests, bool)> {
        let tokens = (1, i64::from(MAX_TOKENS));
        let ever = (0, i64::MAX);
        let arrivals = self.optional("arrival_ns", ever)?;
        let timed = arrivals.iter().all(Option::is_some) && arrivals.len() == self.rows.num_rows();
        // Times that only some have are none.
        let arrival = |t: &Option<i64>| SimTime(t.filter(|_| timed).unwrap_or(0));
        let span = |ns: i64| SimDuration(ns);
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let (block_hashes, block_hash_offsets, block_tokens) = self.hashes()?;
        let (class, class_names) = numbered(self.text("class")?.iter());
        let (tenant, _) = numbered(self.text("tenant")?.iter());
        let (session, _) = numbered(self.text("session_id")?.iter());
        let (adapter, adapter_names) = numbered(self.text("adapter")?.iter());
        let (model, model_names) = self.models()?;
        let (depends_on, depends_on_offsets) = self.dependencies()?;
        let requests = Requests {
            arrival: match arrivals.is_empty() {
                true => vec![SimTime::ZERO; self.rows.num_rows()],
                false => arrivals.iter().map(arrival).collect(),
            },
            input_tokens: self.needed("input_tokens", tokens)?.into_iter().map(count).collect(),
            output_tokens: self.needed("output_tokens", tokens)?.into_iter().map(count).collect(),
            block_hashes,
            block_hash_offsets,
            block_tokens,
            priority: self.mapped("priority", (i64::from(i32::MIN), i64::from(i32::MAX)), |p| p as i32)?,
            deadline: self.mapped("deadline_ns", ever, span)?,
            timeout: self.mapped("timeout_ns", ever, span)?,
            cancel: self.mapped("cancel_ns", ever, span)?,
            max_tokens: self.mapped("max_tokens", tokens, count)?,
            n: self.mapped("n", (1, i64::from(samples::N_MAX)), count)?,
            beam_width: self.mapped("beam_width", (1, i64::from(beams::BEAM_WIDTH_MAX)), count)?,
            class,
            class_names,
            tenant,
            session,
            depends_on,
            depends_on_offsets,
            think: self.mapped("think_ns", ever, span)?,
            model,
            model_names,
            adapter,
            adapter_names,
            encoder_tokens: self.mapped("encoder_tokens", (0, tokens.1), count)?,
            acceptance: self.shares("acceptance")?,
        };
        Ok((requests, timed))
    }

    /// # Errors
    /// The values that cannot be, the first twenty.
    fn done(&mut self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let problem = |message| Diagnostic::new("simulate::requests", message);
        let mut diagnostics: Vec<Diagnostic> = std::mem::take(&mut self.problems).into_iter().map(problem).collect();
        if self.beyond > 0 {
            diagnostics.push(problem(format!("and {} more values of `{}` that cannot be", self.beyond, self.table)));
        }
        Err(Failure { exit: Exit::Stage, diagnostics })
    }

    fn problem(&mut self, column: &str, place: usize, what: &str) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.beyond += 1;
            return;
        }
        let id = self.ids.as_primitive::<Int64Type>().value(place);
        self.problems.push(format!("request {id} of `{}`: {column} is {what}", self.table));
    }

    /// The values of a column, from `low` to `high`; empty where no request has one.
    fn optional(&mut self, name: &str, (low, high): (i64, i64)) -> Result<Vec<Option<i64>>> {
        let Some(values) = integers(self.rows, name)? else { return Ok(Vec::new()) };
        let mut found = Vec::with_capacity(values.len());
        for (place, value) in values.iter().enumerate() {
            let given = self.rows.column_by_name(name).is_some_and(|c| c.is_valid(place));
            match value {
                Some(v) if v < low || v > high => {
                    let bounds = if high == i64::MAX { format!("{low} or more") } else { format!("{low} to {high}") };
                    self.problem(name, place, &format!("{v}; must be {bounds}"));
                }
                None if given => self.problem(name, place, "beyond 2^63"),
                Some(_) | None => {}
            }
            found.push(value);
        }
        if found.iter().all(Option::is_none) {
            found.clear();
        }
        Ok(found)
    }

    fn mapped<T>(&mut self, name: &str, bounds: (i64, i64), f: impl Fn(i64) -> T) -> Result<Vec<Option<T>>> {
        Ok(self.optional(name, bounds)?.into_iter().map(|v| v.map(&f)).collect())
    }

    /// The numbers of a column, from 0 to 1; empty where no request has one.
    fn shares(&mut self, name: &str) -> Result<Vec<Option<f64>>> {
        let rows = self.rows;
        let Some(column) = rows.column_by_name(name) else { return Ok(Vec::new()) };
        let values = cast(column, &DataType::Float64).map_err(|e| wrong_type(name, &e))?;
        let mut found: Vec<Option<f64>> = values.as_primitive::<Float64Type>().iter().collect();
        for (place, value) in found.iter().enumerate() {
            if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
                self.problem(name, place, &format!("{value}; must be 0 to 1"));
            }
        }
        if found.iter().all(Option::is_none) {
            found.clear();
        }
        Ok(found)
    }

    /// The values of a column that every request has.
    fn needed(&mut self, name: &str, bounds: (i64, i64)) -> Result<Vec<i64>> {
        let mut values = self.optional(name, bounds)?;
        values.resize(self.rows.num_rows(), None);
        for (place, _) in values.iter().enumerate().filter(|(_, v)| v.is_none()) {
            self.problem(name, place, "null");
        }
        Ok(values.into_iter().map(|v| v.unwrap_or(bounds.0)).collect())
    }

    fn text(&self, name: &str) -> Result<StringArray> {
        let column = match self.rows.column_by_name(name) {
            Some(column) => cast(column, &DataType::Utf8).map_err(|e| wrong_type(name, &e))?,
            None => new_null_array(&DataType::Utf8, self.rows.num_rows()),
        };
        Ok(column.as_string::<i32>().clone())
    }

    /// Names as the catalog writes them, so that an alias is the same model as in a deployment.
    fn models(&self) -> Result<Numbered> {
        let texts = self.text("model")?;
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        for name in texts.iter().flatten() {
            let known = || self.catalog.and_then(|c| c.model(name).ok()).map_or(name, |(known, _)| known);
            names.entry(name).or_insert_with(known);
        }
        Ok(numbered(texts.iter().map(|name| names.get(name?).copied())))
    }

    /// The places of the requests that each request waits for, and where each request's begin; empty where none waits.
    fn dependencies(&mut self) -> Result<(Vec<u32>, Vec<u64>)> {
        let Some(lists) = self.rows.column_by_name("depends_on") else { return Ok((Vec::new(), Vec::new())) };
        let item = Arc::new(Field::new_list_field(DataType::Int64, true));
        let lists = cast(lists, &DataType::List(item)).map_err(|e| wrong_type("depends_on", &e))?;
        let ids = self.ids.as_primitive::<Int64Type>().clone();
        let (mut all, mut offsets) = (Vec::new(), vec![0]);
        for (place, list) in lists.as_list::<i32>().iter().enumerate() {
            let before = all.len();
            let values = list.as_ref().map(|list| list.as_primitive::<Int64Type>());
            for id in values.into_iter().flatten() {
                // Rows are sorted by number.
                match id.map(|id| (id, ids.values().binary_search(&id))) {
                    Some((_, Ok(other))) if other == place => self.problem("depends_on", place, "the request itself"),
                    Some((_, Ok(other))) => {
                        let other = u32::try_from(other).unwrap_or(u32::MAX);
                        // Named twice, it is waited for once.
                        if !all[before..].contains(&other) {
                            all.push(other);
                        }
                    }
                    Some((id, Err(_))) => self.problem("depends_on", place, &format!("{id}, which no request has")),
                    None => self.problem("depends_on", place, "a list with a null, or with a number beyond 2^63"),
                }
            }
            offsets.push(all.len() as u64);
        }
        if all.is_empty() { Ok((Vec::new(), Vec::new())) } else { Ok((all, offsets)) }
    }

    fn hashes(&mut self) -> Result<Hashes> {
        let none = (Vec::new(), Vec::new(), 0);
        let sizes = self.optional("block_tokens", (1, i64::from(MAX_TOKENS)))?;
        let mut known = sizes.iter().flatten();
        let (Some(size), Some(lists)) = (known.next(), self.rows.column_by_name("block_hashes")) else {
            return Ok(none);
        };
        if let Some(other) = known.find(|s| *s != size) {
            let message = format!("blocks of {size} and of {other} tokens in one table, `{}`", self.table);
            return Err(Failure::stage("simulate::requests", message));
        }
        let item = Arc::new(Field::new_list_field(DataType::UInt64, true));
        let lists = cast(lists, &DataType::List(item)).map_err(|e| wrong_type("block_hashes", &e))?;
        let (mut all, mut offsets) = (Vec::new(), vec![0]);
        for list in lists.as_list::<i32>().iter() {
            if let Some(list) = list {
                let values: &UInt64Array = list.as_primitive::<UInt64Type>();
                all.extend_from_slice(values.values());
            }
            offsets.push(all.len() as u64);
        }
        Ok((all, offsets, u32::try_from(*size).unwrap_or(0)))
    }
}

/// The number of every request's name, an index into the names that follow; both empty where no request has one.
type Numbered = (Vec<Option<u32>>, Vec<String>);

/// Names in alphabetical order, and the place of each.
fn numbered<'a>(texts: impl Iterator<Item = Option<&'a str>> + Clone) -> Numbered {
    let mut places: BTreeMap<&str, u32> = texts.clone().flatten().map(|name| (name, 0)).collect();
    if places.is_empty() {
        return (Vec::new(), Vec::new());
    }
    (0..).zip(places.values_mut()).for_each(|(i, place)| *place = i);
    let numbers = texts.map(|name| places.get(name?).copied()).collect();
    (numbers, places.into_keys().map(str::to_string).collect())
}

/// Hashes of all requests, where each request's begin, and the tokens per block; empty where the trace has none.
type Hashes = (Vec<u64>, Vec<u64>, u32);

/// A column of integers; what 64 bits do not hold is null. `None` where there is no such column.
fn integers(rows: &RecordBatch, name: &str) -> Result<Option<Int64Array>> {
    let Some(column) = rows.column_by_name(name) else { return Ok(None) };
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let values = cast_with_options(column, &DataType::Int64, &options).map_err(|e| wrong_type(name, &e))?;
    Ok(Some(values.as_primitive::<Int64Type>().clone()))
}

fn wrong_type(name: &str, e: &arrow::error::ArrowError) -> Failure {
    Failure::stage("simulate::requests", format!("cannot read column {name}: {e}"))
}
