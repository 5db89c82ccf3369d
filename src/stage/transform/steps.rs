//! What each step does to the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::compute::{CastOptions, cast_with_options, kernels::zip::zip};
use indexmap::IndexMap;
use pipe_kernel::rng;
use pipe_kernel::workload::chain;

use super::expression::Expression;
use super::trace::{Trace, failed};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{
    Assign, Cap, CutSide, Distribute, Merge, Prefixes, Repeat, Rescale, Sample, ScaleLengths, Shift, Shuffle, Text,
    TransformStep, Unit, Window,
};

/// What a step noticed, and how often.
pub type Notes = Vec<(&'static str, i64)>;

/// A step at work.
pub struct Step<'a> {
    pub seed: u64,
    /// How many steps of its kind came before it: two samples are drawn independently.
    pub of_kind: usize,
    /// The other tables, by name.
    pub others: &'a BTreeMap<String, Trace>,
    /// The table that the stage reads, for messages.
    pub from: &'a str,
}

/// As written in YAML.
pub fn name(step: &TransformStep) -> &'static str {
    match step {
        TransformStep::Filter(_) => "filter",
        TransformStep::Window(_) => "window",
        TransformStep::Sample(_) => "sample",
        TransformStep::Rescale(_) => "rescale",
        TransformStep::Shift(_) => "shift",
        TransformStep::Repeat(_) => "repeat",
        TransformStep::Shuffle(_) => "shuffle",
        TransformStep::Merge(_) => "merge",
        TransformStep::ScaleLengths(_) => "scale_lengths",
        TransformStep::Cap(_) => "cap",
        TransformStep::Assign(_) => "assign",
        TransformStep::Distribute(_) => "distribute",
        TransformStep::Set(_) => "set",
    }
}

/// Whether the step needs arrivals.
pub fn needs_arrivals(step: &TransformStep) -> bool {
    match step {
        TransformStep::Window(_)
        | TransformStep::Rescale(_)
        | TransformStep::Shift(_)
        | TransformStep::Repeat(_)
        | TransformStep::Shuffle(_) => true,
        TransformStep::Filter(_)
        | TransformStep::Sample(_)
        | TransformStep::Merge(_)
        | TransformStep::ScaleLengths(_)
        | TransformStep::Cap(_)
        | TransformStep::Assign(_)
        | TransformStep::Distribute(_)
        | TransformStep::Set(_) => false,
    }
}

/// Seconds as nanoseconds, to the nearest. The checks bound the seconds.
fn ns(s: f64) -> i64 {
    (s * 1e9).round() as i64
}

impl Step<'_> {
    /// Applies `step`.
    ///
    /// # Errors
    /// Requests without arrivals where they are needed, conditions that fail on values, times beyond what fits.
    pub fn apply(&self, step: &TransformStep, trace: &mut Trace) -> Result<Notes> {
        if needs_arrivals(step) && !trace.timed() {
            let message =
                format!("the requests of `{}` have no arrival times, and `{}` needs them", self.from, name(step));
            return Err(Diagnostic::new("transform::no_arrivals", message)
                .help("`simulate` gives them some: `workload: { arrivals: poisson, rate_rps: 4 }`")
                .into());
        }
        match step {
            TransformStep::Filter(condition) => {
                let keep = Expression::condition(condition, &trace.rows.schema())?.holds(&trace.rows)?;
                trace.keep(&keep).map(|()| Vec::new())
            }
            TransformStep::Window(window) => cut(trace, window),
            TransformStep::Sample(sample) => self.sample(trace, sample),
            TransformStep::Rescale(to) => self.rescale(trace, to),
            TransformStep::Shift(Shift { s }) => {
                let arrivals = moved(&trace.arrivals(), ns(*s))?;
                trace.set_arrivals(arrivals).map(|()| Vec::new())
            }
            TransformStep::Repeat(repeat) => self.repeat(trace, repeat),
            TransformStep::Shuffle(shuffle) => self.shuffle(trace, shuffle),
            TransformStep::Merge(merge) => self.merge(trace, merge),
            TransformStep::ScaleLengths(scale) => scale_lengths(trace, scale),
            TransformStep::Cap(to) => cap(trace, to),
            TransformStep::Assign(assign) => self.assign(trace, assign),
            TransformStep::Distribute(by) => self.distribute(trace, by),
            TransformStep::Set(values) => set(trace, values),
        }
    }

    /// A number from 0 to below 1 for each unit, the same in every run.
    fn draws(&self, label: &str, keys: &[u64]) -> Vec<u64> {
        let label = format!("transform/{label}/{}", self.of_kind);
        let stream = chain(self.seed, rng::fnv1a(label.as_bytes()));
        keys.iter().map(|key| chain(stream, *key)).collect()
    }

    fn sample(&self, trace: &mut Trace, sample: &Sample) -> Result<Notes> {
        let keys = trace.keys(sample.by);
        let draws = self.draws("sample", &keys);
        let keep: BooleanArray = match (sample.share, sample.count) {
            (Some(share), _) => draws.iter().map(|d| Some(unit(*d) < share)).collect(),
            (None, count) => {
                let most = usize::try_from(count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
                // Of one unit all draws are the same.
                let units: BTreeSet<u64> = draws.iter().copied().collect();
                let kept: BTreeSet<u64> = units.into_iter().take(most).collect();
                draws.iter().map(|d| Some(kept.contains(d))).collect()
            }
        };
        trace.keep(&keep).map(|()| Vec::new())
    }

    fn rescale(&self, trace: &mut Trace, to: &Rescale) -> Result<Notes> {
        let arrivals = trace.arrivals();
        let (Some(first), Some(last)) = (arrivals.first().copied(), arrivals.last().copied()) else {
            return Ok(Vec::new());
        };
        let times = match (to.factor, to.rate_rps) {
            (Some(factor), _) => 1.0 / factor,
            (None, rate) => {
                if first == last {
                    let message = format!("the requests of `{}` all arrive at once, at no rate", self.from);
                    return Err(Diagnostic::new("transform::rescale", message).help("`factor` needs no rate").into());
                }
                let now = (arrivals.len() - 1) as f64 * 1e9 / (last - first) as f64;
                now / rate.unwrap_or(now)
            }
        };
        let scaled = |t: i64| in_range((t as f64 * times).round());
        let arrivals = arrivals.into_iter().map(|t| Ok(first + scaled(t - first)?)).collect::<Result<_>>()?;
        trace.set_arrivals(arrivals)?;
        if to.think_time {
            let think = trace.ints("think_ns");
            let think: Int64Array = think.iter().map(|t| t.map(&scaled).transpose()).collect::<Result<_>>()?;
            trace.set("think_ns", Arc::new(think)).map_err(|e| failed(&e))?;
        }
        Ok(Vec::new())
    }

    fn repeat(&self, trace: &mut Trace, repeat: &Repeat) -> Result<Notes> {
        let arrivals = trace.arrivals();
        let (Some(first), Some(last)) = (arrivals.first().copied(), arrivals.last().copied()) else {
            return Ok(Vec::new());
        };
        let span = last - first;
        let gap = repeat.gap_s.map_or_else(|| span / (arrivals.len() as i64 - 1).max(1), ns);
        let period = span + gap;
        let until = repeat.duration_s.map(ns);
        let times = match until {
            None => i64::from(repeat.times.unwrap_or(1)),
            Some(_) if period == 0 => {
                let message = format!("the requests of `{}` all arrive at once: no repetition fills a time", self.from);
                return Err(Diagnostic::new("transform::repeat", message).help("set `gap_s`, or `times`").into());
            }
            Some(until) => (until - first).div_euclid(period) + 1,
        };
        let rows = times.saturating_mul(arrivals.len() as i64);
        if rows > i64::from(u32::MAX) {
            let message = format!("{rows} requests are too many: expected at most {}", u32::MAX);
            return Err(Diagnostic::new("transform::repeat", message).into());
        }
        let stride = trace.ints("request_id").values().iter().max().map_or(0, |id| id + 1);
        let once = trace.clone();
        for copy in 1..times {
            let mut next = once.clone();
            next.set_arrivals(moved(&arrivals, copy * period)?)?;
            next.shift_ids(copy * stride)?;
            next.rename_sessions(|session| format!("{session}#{copy}"))?;
            if repeat.prefixes == Prefixes::Separate {
                next.salt_hashes(chain(rng::fnv1a(b"transform/repeat"), copy as u64))?;
            }
            trace.append(next)?;
        }
        trace.sort()?;
        if let Some(until) = until {
            let keep: BooleanArray = trace.arrivals().iter().map(|t| Some(*t < until)).collect();
            trace.keep(&keep)?;
        }
        Ok(vec![("repetitions", times)])
    }

    fn shuffle(&self, trace: &mut Trace, shuffle: &Shuffle) -> Result<Notes> {
        let arrivals = trace.arrivals();
        let window = shuffle.window_s.map_or(i64::MAX, ns);
        let mut rng = rng::stream_numbered(self.seed, "transform/shuffle/", self.of_kind as u64, "");
        let mut order: Vec<u32> = (0..trace.len() as u32).collect();
        let sessions = trace.keys(Unit::Session);
        let mut start = 0;
        while start < arrivals.len() {
            let which = arrivals[start].div_euclid(window);
            let end = start + arrivals[start..].partition_point(|t| t.div_euclid(window) == which);
            for i in (start + 1..end).rev() {
                let other = start + rng::below(&mut rng, (i - start) as u64 + 1) as usize;
                order.swap(i, other);
            }
            in_turn(&mut order[start..end], &sessions);
            start = end;
        }
        trace.take(&order)?;
        trace.set_arrivals(arrivals)?;
        Ok(Vec::new())
    }

    fn merge(&self, trace: &mut Trace, merge: &Merge) -> Result<Notes> {
        let table = &merge.table.0.value;
        let missing = || Failure::stage("transform::no_table", format!("table `{table}` was not made"));
        let mut other = self.others.get(table).ok_or_else(missing)?.clone();
        if trace.len() > 0 && other.len() > 0 && trace.timed() != other.timed() {
            let (with, without) = if trace.timed() { (self.from, table.as_str()) } else { (table.as_str(), self.from) };
            let message = format!("`{with}` has arrival times, and `{without}` has none: they have no common clock");
            return Err(Diagnostic::new("transform::merge", message).into());
        }
        let stride = trace.ints("request_id").values().iter().max().map_or(0, |id| id + 1);
        other.shift_ids(stride)?;
        other.rename_sessions(|session| format!("{table}/{session}"))?;
        if other.timed() {
            let arrivals = moved(&other.arrivals(), ns(merge.shift_s))?;
            other.set_arrivals(arrivals)?;
        }
        if merge.prefixes == Prefixes::Separate {
            other.salt_hashes(chain(rng::fnv1a(b"transform/merge"), rng::fnv1a(table.as_bytes())))?;
        }
        if let Some(tenant) = &merge.tenant {
            let all: ArrayRef = Arc::new(StringArray::from(vec![tenant.as_str(); other.len()]));
            other.set("tenant", all).map_err(|e| failed(&e))?;
        }
        let added = other.len() as i64;
        trace.append(other)?;
        trace.sort()?;
        Ok(vec![("added", added)])
    }

    fn assign(&self, trace: &mut Trace, assign: &Assign) -> Result<Notes> {
        let Assign { filter, share, by, class, tenant, client, model, adapter, .. } = assign;
        let Assign { priority, max_tokens, acceptance, deadline_s, timeout_s, cancel_s, .. } = assign;
        let n = trace.len();
        let mut holds = match filter {
            Some(condition) => Expression::condition(condition, &trace.rows.schema())?.holds(&trace.rows)?,
            None => BooleanArray::from(vec![true; n]),
        };
        if let Some(share) = share {
            let draws = self.draws("assign", &trace.keys(*by));
            let drawn: BooleanArray = draws.iter().map(|d| Some(unit(*d) < *share)).collect();
            holds = arrow::compute::and(&holds, &drawn).map_err(|e| failed(&e))?;
        }
        let labels = [("class", class), ("tenant", tenant), ("client", client), ("model", model), ("adapter", adapter)];
        let mut values: Vec<(&str, ArrayRef)> = Vec::new();
        for (name, value) in labels {
            if let Some(value) = value {
                values.push((name, Arc::new(StringArray::from(vec![value.as_str(); n]))));
            }
        }
        for (name, value) in [("priority", *priority), ("max_tokens", max_tokens.map(|n| n as i32))] {
            if let Some(value) = value {
                values.push((name, Arc::new(Int32Array::from(vec![value; n]))));
            }
        }
        if let Some(share) = acceptance {
            values.push(("acceptance", Arc::new(Float64Array::from(vec![*share; n]))));
        }
        for (name, s) in [("deadline_ns", deadline_s), ("timeout_ns", timeout_s), ("cancel_ns", cancel_s)] {
            if let Some(s) = s {
                values.push((name, Arc::new(Int64Array::from(vec![ns(*s); n]))));
            }
        }
        for (name, new) in values {
            let column = zip(&holds, &new, trace.column(name)).map_err(|e| failed(&e))?;
            trace.set(name, column).map_err(|e| failed(&e))?;
        }
        Ok(vec![("changed", holds.true_count() as i64)])
    }

    fn distribute(&self, trace: &mut Trace, by: &Distribute) -> Result<Notes> {
        let Distribute { column, weights, by } = by;
        let draws = self.draws("distribute", &trace.keys(*by));
        let total: f64 = weights.values().sum();
        let value = |draw: u64| {
            let target = unit(draw) * total;
            let mut sum = 0.0;
            let found = weights.iter().find(|(_, weight)| {
                sum += **weight;
                target < sum
            });
            // The sum may round below the total.
            found.or(weights.last_key_value()).map(|(name, _)| name.as_str())
        };
        let values: StringArray = draws.into_iter().map(value).collect();
        trace.set(column.name(), Arc::new(values)).map_err(|e| failed(&e))?;
        Ok(Vec::new())
    }
}

/// 64 bits as a number from 0 to below 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn too_late() -> Failure {
    Failure::stage("transform::time", "a time is beyond 146 years: too late for a trace")
}

/// A time that fits. Half of what an integer holds, so that the sum of two times always fits.
fn in_range(ns: f64) -> Result<i64> {
    if ns.abs() <= i64::MAX as f64 / 2.0 { Ok(ns as i64) } else { Err(too_late()) }
}

fn moved(arrivals: &[i64], by: i64) -> Result<Vec<i64>> {
    let later = |t: &i64| t.checked_add(by).filter(|t| *t <= i64::MAX / 2).ok_or_else(too_late);
    arrivals.iter().map(later).collect()
}

/// Puts the requests of each session among the places that they have got into the order of their turns.
fn in_turn(order: &mut [u32], sessions: &[u64]) {
    let mut places: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, row) in order.iter().enumerate() {
        places.entry(sessions[*row as usize]).or_default().push(place);
    }
    for places in places.into_values().filter(|p| p.len() > 1) {
        let mut rows: Vec<u32> = places.iter().map(|p| order[*p]).collect();
        rows.sort_unstable();
        places.into_iter().zip(rows).for_each(|(place, row)| order[place] = row);
    }
}

fn cut(trace: &mut Trace, window: &Window) -> Result<Notes> {
    let (from, to) = (ns(window.from_s), window.to_s.map_or(i64::MAX, ns));
    let keep: BooleanArray = trace.arrivals().iter().map(|t| Some(from <= *t && *t < to)).collect();
    trace.keep(&keep)?;
    if !window.keep_times {
        let arrivals = trace.arrivals().iter().map(|t| t - from).collect();
        trace.set_arrivals(arrivals)?;
    }
    Ok(Vec::new())
}

fn scale_lengths(trace: &mut Trace, scale: &ScaleLengths) -> Result<Notes> {
    let ScaleLengths { input, output, input_max, output_max } = scale;
    let scaled = |tokens: i32, factor: f64, most: Option<u32>| {
        let most = most.map_or(crate::trace::MAX_TOKENS, |m| m.min(crate::trace::MAX_TOKENS as u32) as i32);
        ((f64::from(tokens) * factor).round() as i32).clamp(1, most)
    };
    let (inputs, outputs) = (trace.counts("input_tokens"), trace.counts("output_tokens"));
    let inputs: Vec<i32> = inputs.values().iter().map(|n| scaled(*n, *input, *input_max)).collect();
    let outputs: Vec<i32> = outputs.values().iter().map(|n| scaled(*n, *output, *output_max)).collect();
    lengths(trace, inputs, outputs, false)
}

fn cap(trace: &mut Trace, to: &Cap) -> Result<Notes> {
    let (most, side) = (i64::from(to.max_model_len), to.cut);
    let (inputs, outputs) = (trace.counts("input_tokens"), trace.counts("output_tokens"));
    let fits = |input: i64, output: i64| match side {
        CutSide::Drop => input + output <= most,
        CutSide::Output => input < most,
        CutSide::PromptStart | CutSide::PromptEnd | CutSide::Proportional => true,
    };
    let rows = || inputs.values().iter().zip(outputs.values()).map(|(i, o)| (i64::from(*i), i64::from(*o)));
    let keep: BooleanArray = rows().map(|(i, o)| Some(fits(i, o))).collect();
    let made = rows().filter(|(i, o)| fits(*i, *o)).map(|(input, output)| {
        let excess = input + output - most;
        if excess <= 0 {
            return (input, output);
        }
        match side {
            CutSide::Drop => (input, output),
            CutSide::Output => (input, most - input),
            CutSide::PromptStart | CutSide::PromptEnd => {
                let input = (most - output).max(1);
                (input, output.min(most - input))
            }
            CutSide::Proportional => {
                let (total, share) = (input + output, |n: i64| excess * n);
                let less = |n: i64| (n - (share(n) + total - 1) / total).max(1);
                (less(input), less(output))
            }
        }
    });
    let (inputs, outputs) = made.map(|(i, o)| (i as i32, o as i32)).unzip();
    trace.keep(&keep)?;
    lengths(trace, inputs, outputs, side == CutSide::PromptStart)
}

/// Sets the lengths, and cuts what goes with them: hashes of blocks that are no longer what they were, tokens of images, of
/// reasoning. With `from_start` the beginning of a shorter prompt is gone, and so is all that it shared.
fn lengths(trace: &mut Trace, inputs: Vec<i32>, outputs: Vec<i32>, from_start: bool) -> Result<Notes> {
    let (old_inputs, old_outputs) = (trace.counts("input_tokens"), trace.counts("output_tokens"));
    let blocks = trace.counts("block_tokens");
    let whole = |tokens: i32, block: i32| (tokens / block.max(1)) as usize;
    let most = (0..trace.len()).map(|i| {
        let block = if blocks.is_valid(i) { blocks.value(i) } else { 1 };
        if inputs[i] != old_inputs.value(i) {
            return if from_start { 0 } else { whole(inputs[i].min(old_inputs.value(i)), block) };
        }
        if outputs[i] < old_outputs.value(i) {
            // Some formats also name the block in which the prompt ends.
            return whole(inputs[i] + outputs[i], block).max((inputs[i] as usize).div_ceil(block.max(1) as usize));
        }
        usize::MAX
    });
    let most: Vec<usize> = most.collect();
    trace.cut_hashes(&most)?;
    let changed =
        (0..trace.len()).filter(|i| inputs[*i] != old_inputs.value(*i) || outputs[*i] != old_outputs.value(*i));
    let changed = changed.count() as i64;
    let sum = |column: &Int32Array, new: &[i32]| -> i64 {
        column.values().iter().zip(new).map(|(old, new)| i64::from((old - new).max(0))).sum()
    };
    let cut = sum(&old_inputs, &inputs) + sum(&old_outputs, &outputs);
    for (name, of) in [("encoder_tokens", &inputs), ("reasoning_tokens", &outputs)] {
        let column = trace.counts(name);
        let column: Int32Array = column.iter().zip(of).map(|(n, most)| n.map(|n| n.min(*most))).collect();
        trace.set(name, Arc::new(column)).map_err(|e| failed(&e))?;
    }
    trace.set("input_tokens", Arc::new(Int32Array::from(inputs))).map_err(|e| failed(&e))?;
    trace.set("output_tokens", Arc::new(Int32Array::from(outputs))).map_err(|e| failed(&e))?;
    Ok(vec![("changed", changed), ("tokens_cut", cut)])
}

fn set(trace: &mut Trace, values: &IndexMap<Text, Text>) -> Result<Notes> {
    let schema = trace.rows.schema();
    let mut made = Vec::new();
    for (name, sql) in values {
        let column = Expression::new(sql, &schema)?.values(&trace.rows)?;
        let column = match schema.field_with_name(&name.value) {
            Ok(field) => {
                let options = CastOptions { safe: false, ..CastOptions::default() };
                let cast = cast_with_options(&column, field.data_type(), &options);
                cast.map_err(|e| wrong_value(name, &format!("does not fit the column: {e}")))?
            }
            Err(_) => column,
        };
        made.push((name, column));
    }
    for (name, column) in made {
        trace.set(&name.value, column).map_err(|e| wrong_value(name, &format!("does not fit the column: {e}")))?;
    }
    trace.sort()?;
    Ok(Vec::new())
}

fn wrong_value(name: &Text, what: &str) -> Failure {
    Diagnostic::new("transform::set", format!("what `set` gives for `{}` {what}", name.value))
        .at(name.at.clone())
        .into()
}
