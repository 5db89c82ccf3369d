//! `transform`: a table of requests to another one.
//!
//! Promises: rows depend on the input, the steps and the seed of the pipeline only. The result is sorted by arrival (of one
//! instant in the order before) and numbered from 0; `depends_on` names the new numbers. What a request waited for that is
//! gone is forgotten, and counted. Every step and what it did is a row of `<stage>_report`.
//!
//! Columns of `observed_*` stay with their requests, also where a step changes lengths or the pace: they are what was seen
//! of the request as it was.
//!
//! The requests are held in memory: some 200 bytes each, and 8 per hash of a block.

mod expression;
mod steps;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::expression::Expression;
use self::steps::{Notes, Step};
use self::trace::{Trace, conformed, failed, has_tokens};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result, Span};
use crate::spec::{Assign, Cap, Distribute, Merge, Repeat, Rescale, Sample, ScaleLengths, Shift, Shuffle, Text};
use crate::spec::{Transform, TransformStep, Window};
use crate::table::{column, requests};
use crate::trace::MAX_TOKENS;

/// Rows that are written at once.
const ROWS: usize = 1 << 16;
/// Most seconds of a setting: a hundred years.
const MAX_S: f64 = 3.2e9;
/// Columns that hang together with others, and the step that changes all of them.
const BOUND: [(&str, &str); 6] = [
    ("request_id", "requests are numbered anew when all steps are done"),
    ("depends_on", "requests wait for the same requests in every table"),
    ("input_tokens", "use `scale_lengths` or `cap`, which also cut the hashes of blocks"),
    ("output_tokens", "use `scale_lengths` or `cap`, which also cut the hashes of blocks"),
    ("block_hashes", "they name what the prompts share"),
    ("block_tokens", "the hashes are of blocks of this size"),
];

#[async_trait]
impl Kind for Transform {
    fn kind(&self) -> &'static str {
        "transform"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        let merged = self.steps.iter().filter_map(|step| match step {
            TransformStep::Merge(merge) => Some(merge.table.0.clone()),
            _ => None,
        });
        let mut names = vec![self.from.0.clone()];
        for name in merged {
            if !names.iter().any(|n| n.value == name.value) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        vec![
            TableShape { name: stage.to_string(), schema: self.result(cx) },
            TableShape { name: report_name(stage), schema: Some(report_schema()) },
        ]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for name in self.inputs().unwrap_or_default() {
            let schema = cx.tables.get(&name.value).and_then(|t| t.schema.as_ref());
            if schema.is_some_and(|s| conformed(s).is_none()) {
                let message = format!("`{}` is no table of requests", name.value);
                let help =
                    "expected `request_id`, and `input_tokens` and `output_tokens`, or the texts `input` and `output`";
                found.push(Diagnostic::new("transform::requests", message).at(name.at.clone()).help(help));
            }
        }
        let mut schema = self.schema_of(&self.from.0, cx);
        for (i, step) in self.steps.iter().enumerate() {
            let mut steps =
                Checked { found: &mut found, at: self.from.0.at.as_ref(), step: i, name: steps::name(step) };
            steps.values(step);
            if let Some(known) = schema {
                steps.columns(step, &known);
                schema = self.after(step, known, cx);
            }
        }
        found
    }

    fn seeded(&self) -> bool {
        self.steps.iter().any(|step| match step {
            TransformStep::Sample(_) | TransformStep::Shuffle(_) | TransformStep::Distribute(_) => true,
            TransformStep::Assign(assign) => assign.share.is_some(),
            TransformStep::Filter(_)
            | TransformStep::Window(_)
            | TransformStep::Rescale(_)
            | TransformStep::Shift(_)
            | TransformStep::Repeat(_)
            | TransformStep::Merge(_)
            | TransformStep::ScaleLengths(_)
            | TransformStep::Cap(_)
            | TransformStep::Set(_) => false,
        })
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Transform { from, steps } = self;
        json!({ "from": from, "steps": steps })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let job = self.clone();
        super::tokenize::blocking(move || job.transform(&cx)).await
    }
}

fn report_name(stage: &str) -> String {
    format!("{stage}_report")
}

/// What the steps did.
fn report_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        column("step", DataType::Int32, false, "", "Number of the step, from 0; -1: the whole stage"),
        column("action", DataType::Utf8, false, "", "Which step it is"),
        column("what", DataType::Utf8, false, "", "What is counted"),
        column("count", DataType::Int64, false, "", "How often it was there"),
    ]))
}

impl Transform {
    /// The columns of an input, where they are known.
    fn schema_of(&self, name: &Text, cx: &CheckCx) -> Option<SchemaRef> {
        conformed(cx.tables.get(&name.value)?.schema.as_ref()?)
    }

    /// The columns after a step.
    fn after(&self, step: &TransformStep, schema: SchemaRef, cx: &CheckCx) -> Option<SchemaRef> {
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        let known = |fields: &[Arc<Field>], name: &str| fields.iter().any(|f| f.name() == name);
        match step {
            TransformStep::Merge(merge) => {
                let other = self.schema_of(&merge.table.0, cx)?;
                let new: Vec<_> = other.fields().iter().filter(|f| !known(&fields, f.name())).cloned().collect();
                fields.extend(new.iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))));
            }
            TransformStep::Set(values) => {
                for (name, sql) in values {
                    if !known(&fields, &name.value) {
                        let kind = Expression::new(sql, &schema).ok()?.kind;
                        fields.push(Arc::new(Field::new(&name.value, kind, true)));
                    }
                }
            }
            TransformStep::Filter(_)
            | TransformStep::Window(_)
            | TransformStep::Sample(_)
            | TransformStep::Rescale(_)
            | TransformStep::Shift(_)
            | TransformStep::Repeat(_)
            | TransformStep::Shuffle(_)
            | TransformStep::ScaleLengths(_)
            | TransformStep::Cap(_)
            | TransformStep::Assign(_)
            | TransformStep::Distribute(_) => {}
        }
        Some(Arc::new(Schema::new(fields)))
    }

    fn result(&self, cx: &CheckCx) -> Option<SchemaRef> {
        let first = self.schema_of(&self.from.0, cx)?;
        self.steps.iter().try_fold(first, |schema, step| self.after(step, schema, cx))
    }

    fn transform(&self, cx: &RunCx) -> Result<Outcome> {
        let mut tables = BTreeMap::new();
        for name in self.inputs()? {
            let missing = || Failure::stage("transform::no_table", format!("table `{}` was not made", name.value));
            let handle = cx.inputs.get(&name.value).ok_or_else(missing)?;
            tables.insert(name.value.clone(), Trace::read(&name.value, handle)?);
            cx.cancel.check()?;
        }
        let from = &self.from.0.value;
        let mut trace = tables.get(from).cloned().unwrap_or_else(|| unreachable!("the first input is read"));
        cx.progress.0.total(self.steps.len() as u64, "steps");
        let mut report = Report::default();
        let mut of_kind: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, step) in self.steps.iter().enumerate() {
            cx.cancel.check()?;
            let name = steps::name(step);
            let count = of_kind.entry(name).or_default();
            let at_work = Step { seed: cx.seed, of_kind: *count, others: &tables, from };
            *count += 1;
            let before = trace.len();
            let notes = at_work.apply(step, &mut trace).map_err(|f| f.or_at(self.from.0.at.as_ref()))?;
            report.add(i as i32, name, before, trace.len(), notes);
            cx.progress.0.advance(1);
        }
        let lost = trace.renumber()?;
        report.add(
            -1,
            "transform",
            tables.get(from).map_or(0, Trace::len),
            trace.len(),
            vec![("dependencies_cut", lost)],
        );
        let mut writer = cx.out.table(&cx.stage, trace.rows.schema())?;
        for at in (0..trace.len()).step_by(ROWS) {
            cx.cancel.check()?;
            writer.write(&trace.rows.slice(at, ROWS.min(trace.len() - at)))?;
        }
        writer.finish()?;
        let mut writer = cx.out.table(&report_name(&cx.stage), report_schema())?;
        writer.write(&report.rows()?)?;
        writer.finish()?;
        Ok(Outcome::default())
    }
}

/// Rows of the report.
#[derive(Default)]
struct Report(Vec<(i32, &'static str, &'static str, i64)>);

impl Report {
    fn add(&mut self, step: i32, action: &'static str, before: usize, after: usize, notes: Notes) {
        let counts = [("requests_in", before as i64), ("requests_out", after as i64)];
        self.0.extend(counts.into_iter().chain(notes).map(|(what, count)| (step, action, what, count)));
    }

    fn rows(&self) -> Result<RecordBatch> {
        let text = |f: fn(&(i32, &'static str, &'static str, i64)) -> &'static str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(self.0.iter().map(f)))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from_iter_values(self.0.iter().map(|r| r.0))),
            text(|r| r.1),
            text(|r| r.2),
            Arc::new(Int64Array::from_iter_values(self.0.iter().map(|r| r.3))),
        ];
        RecordBatch::try_new(report_schema(), columns).map_err(|e| failed(&e))
    }
}

/// Looks at one step.
struct Checked<'a> {
    found: &'a mut Vec<Diagnostic>,
    at: Option<&'a Span>,
    step: usize,
    name: &'static str,
}

impl Checked<'_> {
    fn refuse(&mut self, field: &str, message: impl std::fmt::Display) {
        let dot = if field.is_empty() { "" } else { "." };
        let message = format!("`steps[{}].{}{dot}{field}` {message}", self.step, self.name);
        self.found.push(Diagnostic::new("transform::value", message).at(self.at.cloned()));
    }

    /// Notes a number that is not in a range.
    fn within(&mut self, field: &str, value: f64, from: f64, to: f64) {
        if !(from..=to).contains(&value) {
            self.refuse(field, format!("is {value}: expected {from} to {to}"));
        }
    }

    fn positive(&mut self, field: &str, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            self.refuse(field, format!("is {value}: expected a number above 0"));
        }
    }

    fn seconds(&mut self, field: &str, value: f64) {
        self.within(field, value, 0.0, MAX_S);
    }

    /// Exactly one of two settings must be there.
    fn one_of(&mut self, a: (&str, bool), b: (&str, bool)) {
        match (a.1, b.1) {
            (true, true) => self.refuse("", format!("has `{}` and `{}`: expected one of them", a.0, b.0)),
            (false, false) => self.refuse("", format!("has neither `{}` nor `{}`: expected one of them", a.0, b.0)),
            (true, false) | (false, true) => {}
        }
    }

    fn tokens(&mut self, field: &str, value: u32) {
        self.within(field, f64::from(value), 1.0, f64::from(MAX_TOKENS));
    }

    /// Everything that is wrong with the values of a step.
    fn values(&mut self, step: &TransformStep) {
        match step {
            TransformStep::Filter(_) => {}
            TransformStep::Window(Window { from_s, to_s, keep_times: _ }) => {
                self.seconds("from_s", *from_s);
                if let Some(to) = to_s {
                    self.seconds("to_s", *to);
                    if to <= from_s {
                        self.refuse("to_s", format!("is {to}: expected more than `from_s`, which is {from_s}"));
                    }
                }
            }
            TransformStep::Sample(Sample { share, count, by: _ }) => {
                self.one_of(("share", share.is_some()), ("count", count.is_some()));
                share.iter().for_each(|s| self.within("share", *s, 0.0, 1.0));
            }
            TransformStep::Rescale(Rescale { rate_rps, factor, think_time: _ }) => {
                self.one_of(("rate_rps", rate_rps.is_some()), ("factor", factor.is_some()));
                rate_rps.iter().for_each(|r| self.positive("rate_rps", *r));
                factor.iter().for_each(|f| self.positive("factor", *f));
            }
            TransformStep::Shift(Shift { s }) => self.seconds("s", *s),
            TransformStep::Repeat(Repeat { times, duration_s, gap_s, prefixes: _ }) => {
                self.one_of(("times", times.is_some()), ("duration_s", duration_s.is_some()));
                if *times == Some(0) {
                    self.refuse("times", "is 0: expected at least 1");
                }
                duration_s.iter().for_each(|s| self.seconds("duration_s", *s));
                gap_s.iter().for_each(|s| self.seconds("gap_s", *s));
            }
            TransformStep::Shuffle(Shuffle { window_s }) => {
                window_s.iter().for_each(|s| self.within("window_s", *s, 1e-9, MAX_S));
            }
            TransformStep::Merge(Merge { table: _, tenant: _, shift_s, prefixes: _ }) => {
                self.seconds("shift_s", *shift_s)
            }
            TransformStep::ScaleLengths(ScaleLengths { input, output, input_max, output_max }) => {
                self.positive("input", *input);
                self.positive("output", *output);
                input_max.iter().for_each(|n| self.tokens("input_max", *n));
                output_max.iter().for_each(|n| self.tokens("output_max", *n));
            }
            TransformStep::Cap(Cap { max_model_len, cut: _ }) => {
                if *max_model_len < 2 {
                    self.refuse("max_model_len", format!("is {max_model_len}: expected at least 2 tokens"));
                }
            }
            TransformStep::Assign(assign) => self.assigned(assign),
            TransformStep::Distribute(Distribute { column: _, weights, by: _ }) => {
                if weights.is_empty() {
                    self.refuse("weights", "is empty: expected `value: weight`");
                }
                weights.iter().for_each(|(name, weight)| self.positive(&format!("weights.{name}"), *weight));
            }
            TransformStep::Set(values) => {
                for name in values.keys() {
                    if let Some((_, help)) = BOUND.iter().find(|(bound, _)| *bound == name.value) {
                        let message = format!("`set` cannot change `{}`", name.value);
                        let found = Diagnostic::new("transform::set", message).at(name.at.clone());
                        self.found.push(found.help(*help));
                    }
                }
            }
        }
    }

    fn assigned(&mut self, assign: &Assign) {
        let Assign { filter: _, share, by: _, class, tenant, client, model, adapter, .. } = assign;
        let Assign { priority, max_tokens, acceptance, deadline_s, timeout_s, cancel_s, .. } = assign;
        share.iter().for_each(|s| self.within("share", *s, 0.0, 1.0));
        acceptance.iter().for_each(|s| self.within("acceptance", *s, 0.0, 1.0));
        max_tokens.iter().for_each(|n| self.tokens("max_tokens", *n));
        let times = [("deadline_s", deadline_s), ("timeout_s", timeout_s), ("cancel_s", cancel_s)];
        for (name, s) in times {
            s.iter().for_each(|s| self.seconds(name, *s));
        }
        let labels = [class, tenant, client, model, adapter].into_iter().any(Option::is_some);
        let limits = priority.is_some() || max_tokens.is_some() || acceptance.is_some();
        if !labels && !limits && times.iter().all(|(_, s)| s.is_none()) {
            self.refuse("", "assigns nothing: expected `class`, `tenant`, `priority`, `deadline_s`, ...");
        }
    }

    /// What is wrong with the SQL of a step, and with the columns that it needs.
    fn columns(&mut self, step: &TransformStep, schema: &SchemaRef) {
        match step {
            TransformStep::Filter(condition) => self.found.extend(Expression::condition(condition, schema).err()),
            TransformStep::Assign(assign) => {
                let condition = assign.filter.as_ref();
                self.found.extend(condition.and_then(|c| Expression::condition(c, schema).err()));
            }
            TransformStep::Set(values) => {
                self.found.extend(values.values().filter_map(|sql| Expression::new(sql, schema).err()));
            }
            TransformStep::ScaleLengths(_) | TransformStep::Cap(_) => {
                if has_tokens(schema) == Some(false) {
                    self.refuse("", "needs token counts, and the requests have texts: put `tokenize` before it");
                }
            }
            TransformStep::Window(_)
            | TransformStep::Sample(_)
            | TransformStep::Rescale(_)
            | TransformStep::Shift(_)
            | TransformStep::Repeat(_)
            | TransformStep::Shuffle(_)
            | TransformStep::Merge(_)
            | TransformStep::Distribute(_) => {}
        }
        debug_assert!(requests::common().iter().all(|f| schema.field_with_name(f.name()).is_ok()));
    }
}
