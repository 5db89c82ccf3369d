//! The chart's data in the form in which they are drawn: what cannot be drawn is left out and counted, bars and names
//! have their slots, distributions are steps.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::chart::{Chart, ChartKind, Limits, Series};
use super::number::number;
use super::palette::{Rgb, line_colour, sided_colour, value_colour};
use super::parallel::{self, Upright};
use super::scale::{Reach, Scale};
use super::span;

/// Beyond this the distance between two values is not a number any more.
const LARGEST: f64 = 1e300;

/// What is drawn.
#[derive(Default)]
pub(super) struct Data {
    pub kind: ChartKind,
    /// All series of the first facet in the order of the chart, then those of the next.
    pub series: Vec<Vec<(f64, f64)>>,
    /// Series of a facet.
    pub per_facet: usize,
    /// Names of the slots on the horizontal axis.
    pub slots: Option<Vec<String>>,
    /// Names of the slots on the vertical axis, from below.
    pub row_slots: Option<Vec<String>>,
    /// Of a heat map, a value per point of each series; of parallel axes, one per row.
    pub values: Vec<Vec<f64>>,
    /// Of spans: where the points of each series end.
    pub ends: Vec<Vec<f64>>,
    /// Of a scatter chart: what stands beside the points of each series, or nothing.
    pub labels: Vec<Vec<String>>,
    /// Of parallel axes: the rows of each series.
    pub tuples: Vec<Vec<Vec<f64>>>,
    pub axes: Vec<Upright>,
    pub x: Scale,
    pub y: Scale,
    /// What was left out, for the reader.
    pub notes: Vec<String>,
    /// The lowest and the highest value that is shown as a colour.
    pub range: Option<(f64, f64)>,
    /// Colours differ on both sides of the middle of the range.
    pub sided: bool,
    pub dark: bool,
}

/// What is drawn in one facet.
pub(super) struct Panel<'a> {
    pub data: &'a Data,
    pub series: &'a [Vec<(f64, f64)>],
    pub values: &'a [Vec<f64>],
    pub ends: &'a [Vec<f64>],
    pub labels: &'a [Vec<String>],
    pub tuples: &'a [Vec<Vec<f64>>],
}

impl Panel<'_> {
    pub fn is_empty(&self) -> bool {
        self.series.iter().all(Vec::is_empty) && self.tuples.iter().all(Vec::is_empty)
    }
}

/// Rows that are not drawn, by reason.
#[derive(Default)]
pub(super) struct Skipped {
    pub not_a_number: usize,
    pub not_positive_x: usize,
    pub not_positive_y: usize,
    pub same_bar: usize,
    /// Outside the limits of the axes.
    pub beyond: usize,
    /// Marks that reach over the limits.
    pub cut: usize,
    /// Spans that end before they begin.
    pub backwards: usize,
    /// Lines over parallel axes that lack a value on one.
    pub gaps: usize,
    /// Lines over parallel axes without a value for their colour.
    pub colourless: usize,
}

/// The axes as they are asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    pub x_log: bool,
    pub y_log: bool,
    pub x: Limits,
    pub y: Limits,
}

impl Asked {
    fn of(chart: &Chart) -> Asked {
        let slotted = chart.kind.has_slots() || chart.categories.is_some() && !chart.kind.is_distribution();
        let no_height = matches!(chart.kind, ChartKind::Heat | ChartKind::Span);
        let x_log = chart.x_log && !slotted && chart.kind != ChartKind::Span;
        let y_log = chart.y_log && !no_height && chart.kind != ChartKind::Area;
        let usable = |limits: Limits, none: bool, log: bool| {
            let of = |v: Option<f64>| v.filter(|v| !none && is_number(*v) && (!log || *v > 0.0));
            Limits { low: of(limits.low), high: of(limits.high) }
        };
        Asked { x_log, y_log, x: usable(chart.x_limits, slotted, x_log), y: usable(chart.y_limits, no_height, y_log) }
    }
}

/// Whether `v` is within the limits.
pub(super) fn within(limits: Limits, v: f64) -> bool {
    limits.low.is_none_or(|low| v >= low) && limits.high.is_none_or(|high| v <= high)
}

impl Data {
    pub fn new(chart: &Chart) -> Data {
        let parts = by_facet(chart);
        let asked = Asked::of(chart);
        let mut skipped = Skipped::default();
        let mut data = match chart.kind {
            ChartKind::Heat => Data::heat(chart, &parts, &mut skipped),
            ChartKind::Span => span::data(chart, &parts, asked, &mut skipped),
            ChartKind::Parallel => parallel::data(chart, &parts, &mut skipped),
            ChartKind::Line
            | ChartKind::Path
            | ChartKind::Scatter
            | ChartKind::Bar
            | ChartKind::Cdf
            | ChartKind::Step
            | ChartKind::Area
            | ChartKind::Histogram
            | ChartKind::Box => Data::plain(chart, &parts, asked, &mut skipped),
        };
        data.range = range(data.values.iter().flatten().copied().filter(|v| is_number(*v)));
        if let (ChartKind::Heat, Some(middle), Some((low, high))) = (chart.kind, chart.middle, data.range) {
            let far = (high - middle).max(middle - low);
            data.range = Some((middle - far, middle + far));
            data.sided = true;
        }
        data.notes = skipped.notes(chart.kind);
        Data { kind: chart.kind, per_facet: chart.series.len().max(1), dark: chart.dark, ..data }
    }

    /// Of every kind whose points have a place on two axes.
    fn plain(chart: &Chart, parts: &[Series], asked: Asked, skipped: &mut Skipped) -> Data {
        let mut slots = chart.categories.clone().filter(|_| !chart.kind.is_distribution());
        let mut series: Vec<_> = match chart.kind {
            ChartKind::Cdf => parts.iter().map(|s| steps(&s.points, asked, skipped)).collect(),
            ChartKind::Histogram => histogram(chart, parts, asked, skipped),
            _ => parts.iter().map(|s| usable(&s.points, chart.kind, asked, skipped)).collect(),
        };
        if slots.is_none() && chart.kind.has_slots() {
            slots = Some(number_slots(&mut series));
        }
        let mut labels = Vec::new();
        match chart.kind {
            ChartKind::Line | ChartKind::Step => series.iter_mut().for_each(|s| s.sort_by(|a, b| a.0.total_cmp(&b.0))),
            ChartKind::Area => series = series.chunks(chart.series.len().max(1)).flat_map(stacked).collect(),
            ChartKind::Bar => series.iter_mut().for_each(|s| skipped.same_bar += one_per_slot(s)),
            ChartKind::Box => series.iter_mut().for_each(|s| *s = five_numbers(s)),
            ChartKind::Scatter => labels = parts.iter().map(|s| usable_labels(s, asked)).collect(),
            ChartKind::Path
            | ChartKind::Cdf
            | ChartKind::Histogram
            | ChartKind::Heat
            | ChartKind::Parallel
            | ChartKind::Span => {}
        }
        skipped.cut += cut(chart.kind, &series, asked.y);
        let (x, y) = scales(chart, &series, slots.as_ref().map(Vec::len), asked);
        Data { series, slots, labels, x, y, ..Data::default() }
    }

    /// Cells, with a slot per distinct x and y.
    fn heat(chart: &Chart, parts: &[Series], skipped: &mut Skipped) -> Data {
        let mut series = Vec::new();
        let mut values = Vec::new();
        for s in parts {
            let cells = s.points.iter().copied().zip(s.values.iter().copied());
            let cells: Vec<((f64, f64), f64)> =
                cells.filter(|((x, y), v)| is_number(*x) && is_number(*y) && is_number(*v)).collect();
            skipped.not_a_number += s.points.len() - cells.len();
            let mut seen = BTreeSet::new();
            let place = |x: f64| (x + 0.0).to_bits();
            let before = cells.len();
            let cells: Vec<_> = cells.into_iter().filter(|((x, y), _)| seen.insert((place(*x), place(*y)))).collect();
            skipped.same_bar += before - cells.len();
            let (points, of): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
            series.push(points);
            values.push(of);
        }
        let slots = chart.categories.clone().unwrap_or_else(|| number_slots(&mut series));
        let rows = if chart.rows.is_empty() {
            let mut turned: Vec<Vec<(f64, f64)>> =
                series.iter().map(|s| s.iter().map(|(x, y)| (*y, *x)).collect()).collect();
            let rows = number_slots(&mut turned);
            series = turned.into_iter().map(|s| s.into_iter().map(|(y, x)| (x, y)).collect()).collect();
            rows
        } else {
            chart.rows.clone()
        };
        let (x, y) = (Scale::Slots(slots.len()), Scale::Slots(rows.len()));
        Data { series, slots: Some(slots), row_slots: Some(rows), values, x, y, ..Data::default() }
    }

    /// By facet; one where there are none.
    pub fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let all = self.series.len().max(self.tuples.len());
        (0..all.max(1)).step_by(self.per_facet).map(move |from| Panel {
            data: self,
            series: part(&self.series, from, self.per_facet),
            values: part(&self.values, from, self.per_facet),
            ends: part(&self.ends, from, self.per_facet),
            labels: part(&self.labels, from, self.per_facet),
            tuples: part(&self.tuples, from, self.per_facet),
        })
    }

    /// The colour of a value.
    pub fn colour(&self, value: f64) -> Rgb {
        match self.range {
            Some((low, high)) if high > low => self.colour_at((value - low) / (high - low)),
            _ => self.colour_at(0.5),
        }
    }

    /// The colour of a place between the lowest value and the highest, 0 to 1.
    pub fn colour_at(&self, unit: f64) -> Rgb {
        match self.kind {
            ChartKind::Parallel => line_colour(unit, self.dark),
            _ if self.sided => sided_colour(unit),
            _ => value_colour(unit),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.series.iter().all(Vec::is_empty) && self.tuples.iter().all(Vec::is_empty)
    }
}

/// `count` of `all` from `from` on; nothing where there are none.
fn part<T>(all: &[T], from: usize, count: usize) -> &[T] {
    all.get(from..).map_or(&[], |rest| &rest[..count.min(rest.len())])
}

/// The series of each facet, one facet after another: each has all of them, some of which may be empty.
fn by_facet(chart: &Chart) -> Cow<'_, [Series]> {
    if chart.facets.is_empty() {
        return Cow::Borrowed(&chart.series);
    }
    let empty = |s: &Series| Series { name: s.name.clone(), ..Series::default() };
    let mut parts: Vec<Series> = chart.facets.iter().flat_map(|_| chart.series.iter().map(empty)).collect();
    for (i, series) in chart.series.iter().enumerate() {
        for k in 0..series.points.len().max(series.tuples.len()) {
            let facet = series.facets.get(k).copied().unwrap_or(0).min(chart.facets.len() - 1);
            let part = &mut parts[facet * chart.series.len() + i];
            part.points.extend(series.points.get(k));
            part.values.extend(series.values.get(k));
            part.ends.extend(series.ends.get(k));
            part.labels.extend(series.labels.get(k).cloned());
            part.tuples.extend(series.tuples.get(k).cloned());
        }
    }
    Cow::Owned(parts)
}

impl Skipped {
    fn notes(&self, kind: ChartKind) -> Vec<String> {
        let count =
            |n: usize, one: &str, many: &str| format!("{} {}", number(n as f64), if n == 1 { one } else { many });
        let (bar, bars) = match kind {
            ChartKind::Heat => ("cell", "cells"),
            ChartKind::Box => ("box", "boxes"),
            ChartKind::Histogram => ("bin", "bins"),
            ChartKind::Area => ("point", "points"),
            _ => ("bar", "bars"),
        };
        let whose = if kind == ChartKind::Heat { "cell" } else { "bar" };
        let rows = [
            (self.not_a_number, "without a number not drawn".to_string()),
            (self.not_positive_x, "with x ≤ 0 not on the log axis".to_string()),
            (self.not_positive_y, "with y ≤ 0 not on the log axis".to_string()),
            (self.same_bar, format!("not drawn: their {whose} shows an earlier row")),
            (self.backwards, "with x_end < x not drawn".to_string()),
            (self.beyond, "beyond the limits of the axes".to_string()),
            (self.gaps, "with gaps: no number on some axis".to_string()),
            (self.colourless, "in grey: no number for their colour".to_string()),
        ];
        let rows = rows.into_iter().filter(|(n, _)| *n > 0);
        let mut notes: Vec<String> = rows.map(|(n, why)| format!("{} {why}", count(n, "row", "rows"))).collect();
        if self.cut > 0 {
            notes.push(format!("{} cut at the limits of the axes", count(self.cut, bar, bars)));
        }
        notes
    }
}

/// How many marks reach over the limits of the vertical axis.
fn cut(kind: ChartKind, series: &[Vec<(f64, f64)>], limits: Limits) -> usize {
    let points = match kind {
        ChartKind::Bar | ChartKind::Area => 1,
        // Their corners, and their quantiles.
        ChartKind::Histogram => 2,
        ChartKind::Box => 5,
        _ => return 0,
    };
    // An empty bin has no height that could be cut below.
    let limits = if kind == ChartKind::Histogram { Limits { low: None, ..limits } } else { limits };
    let outside = |mark: &&[(f64, f64)]| mark.iter().any(|p| !within(limits, p.1));
    series.iter().map(|s| s.chunks_exact(points).filter(outside).count()).sum()
}

/// The outline of how many x fall into each bin, per series; the bins are those of all series together.
fn histogram(chart: &Chart, parts: &[Series], asked: Asked, skipped: &mut Skipped) -> Vec<Vec<(f64, f64)>> {
    let x_log = asked.x_log;
    let bins = if chart.bins == 0 { 40 } else { chart.bins };
    let place = |x: f64| if x_log { libm::log10(x) } else { x };
    let mut kept: Vec<Vec<f64>> = Vec::new();
    for series in parts {
        let values: Vec<f64> = series.points.iter().map(|p| p.0).filter(|x| is_number(*x)).collect();
        skipped.not_a_number += series.points.len() - values.len();
        let mut shown: Vec<f64> = values.iter().copied().filter(|x| !x_log || *x > 0.0).collect();
        skipped.not_positive_x += values.len() - shown.len();
        let positive = shown.len();
        shown.retain(|x| within(asked.x, *x));
        skipped.beyond += positive - shown.len();
        kept.push(shown.into_iter().map(place).collect());
    }
    let Some((low, high)) = range(kept.iter().flatten().copied()) else { return vec![Vec::new(); kept.len()] };
    // Values that are all the same have a bin of their own width.
    let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
    let width = (high - low) / bins as f64;
    let edge = |i: usize| {
        let at = low + width * i as f64;
        if x_log { libm::pow(10.0, at) } else { at }
    };
    let outline = |values: Vec<f64>| {
        let mut counts = vec![0usize; bins];
        values.iter().for_each(|v| counts[(((v - low) / width) as usize).min(bins - 1)] += 1);
        let corners = |(i, n): (usize, &usize)| [(edge(i), *n as f64), (edge(i + 1), *n as f64)];
        if values.is_empty() { Vec::new() } else { counts.iter().enumerate().flat_map(corners).collect() }
    };
    kept.into_iter().map(outline).collect()
}

/// Integers in the order of the numbers; -0 and 0 are one value.
fn order(x: f64) -> i64 {
    let bits = (x + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The upper edge of each series when it stands on those before it, at every x that any of them has.
fn stacked(series: &[Vec<(f64, f64)>]) -> Vec<Vec<(f64, f64)>> {
    let mut sums: BTreeMap<i64, (f64, f64)> = series.iter().flatten().map(|(x, _)| (order(*x), (*x, 0.0))).collect();
    let raise = |points: &Vec<(f64, f64)>| {
        for (x, y) in points {
            if let Some(sum) = sums.get_mut(&order(*x)) {
                sum.1 += y;
            }
        }
        sums.values().copied().collect()
    };
    series.iter().map(raise).collect()
}

/// For each slot its quantiles 0.05, 0.25, 0.5, 0.75 and 0.95, with linear interpolation.
fn five_numbers(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut slots: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    points.iter().for_each(|(x, y)| slots.entry(*x as i64).or_default().push(*y));
    let of = |(slot, mut values): (i64, Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let place = q * (values.len() - 1) as f64;
            let below = place as usize;
            let above = (below + 1).min(values.len() - 1);
            values[below] + (values[above] - values[below]) * (place - below as f64)
        };
        [0.05, 0.25, 0.5, 0.75, 0.95].map(|q| (slot as f64, at(q)))
    };
    slots.into_iter().flat_map(of).collect()
}

pub(super) fn is_number(v: f64) -> bool {
    v.abs() <= LARGEST
}

/// The points that have a place on the axes. Those outside the limits are counted and kept, since lines lead to them.
fn usable(points: &[(f64, f64)], kind: ChartKind, asked: Asked, skipped: &mut Skipped) -> Vec<(f64, f64)> {
    // Where marks reach over the limits, they are counted as cut.
    let high = matches!(kind, ChartKind::Line | ChartKind::Path | ChartKind::Scatter | ChartKind::Step);
    let mut kept = Vec::with_capacity(points.len());
    for &(x, y) in points {
        if !is_number(x) || !is_number(y) {
            skipped.not_a_number += 1;
        } else if asked.x_log && x <= 0.0 {
            skipped.not_positive_x += 1;
        } else if asked.y_log && y <= 0.0 {
            skipped.not_positive_y += 1;
        } else {
            if !within(asked.x, x) || high && !within(asked.y, y) {
                skipped.beyond += 1;
            }
            kept.push((x, y));
        }
    }
    kept
}

/// The labels of the points that [`usable`] keeps.
fn usable_labels(series: &Series, asked: Asked) -> Vec<String> {
    let keeps = |p: (f64, f64)| !usable(&[p], ChartKind::Scatter, asked, &mut Skipped::default()).is_empty();
    series.points.iter().zip(&series.labels).filter(|(p, _)| keeps(**p)).map(|(_, label)| label.clone()).collect()
}

/// The corners of the distribution of x: from each value to the share of values up to it. Values that a logarithmic
/// axis cannot show lie left of it, and count.
fn steps(points: &[(f64, f64)], asked: Asked, skipped: &mut Skipped) -> Vec<(f64, f64)> {
    let mut values: Vec<f64> = points.iter().map(|p| p.0).filter(|x| is_number(*x)).collect();
    skipped.not_a_number += points.len() - values.len();
    values.sort_by(f64::total_cmp);
    let hidden = if asked.x_log { values.partition_point(|x| *x <= 0.0) } else { 0 };
    skipped.not_positive_x += hidden;
    skipped.beyond += values[hidden..].iter().filter(|v| !within(asked.x, **v)).count();
    let all = values.len() as f64;
    let mut corners: Vec<(f64, f64)> = Vec::new();
    let mut share = hidden as f64 / all;
    let mut i = hidden;
    while i < values.len() {
        let x = values[i];
        i += values[i..].partition_point(|v| *v <= x);
        // Zero has no place on a logarithmic axis.
        if !(asked.y_log && share <= 0.0) {
            corners.push((x, share));
        }
        share = i as f64 / all;
        corners.push((x, share));
    }
    corners
}

/// Gives every distinct x a slot, in the order of numbers; the points then hold the index of theirs.
pub(super) fn number_slots(series: &mut [Vec<(f64, f64)>]) -> Vec<String> {
    let distinct: BTreeMap<i64, f64> = series.iter().flatten().map(|p| (order(p.0), p.0)).collect();
    let index: BTreeMap<i64, usize> = distinct.keys().enumerate().map(|(i, k)| (*k, i)).collect();
    for point in series.iter_mut().flatten() {
        point.0 = index.get(&order(point.0)).copied().unwrap_or(0) as f64;
    }
    distinct.values().map(|x| number(*x)).collect()
}

/// Keeps the first row of every slot; returns how many went.
fn one_per_slot(points: &mut Vec<(f64, f64)>) -> usize {
    let before = points.len();
    let mut seen = BTreeSet::new();
    points.retain(|p| seen.insert(p.0 as i64));
    before - points.len()
}

fn scales(chart: &Chart, series: &[Vec<(f64, f64)>], slots: Option<usize>, asked: Asked) -> (Scale, Scale) {
    let Asked { x_log, y_log, .. } = asked;
    // A rule that the data do not reach is to be seen too.
    let rules = |upright: bool, log: bool| {
        let values = chart.rules.iter().filter(move |r| r.upright == upright).map(|r| r.value);
        values.filter(move |v| is_number(*v) && (!log || *v > 0.0))
    };
    let any = series.iter().any(|s| !s.is_empty());
    let points = || series.iter().flatten().filter(|p| within(asked.x, p.0));
    let xs = range(points().map(|p| p.0).chain(rules(true, x_log).filter(|x| any && within(asked.x, *x))));
    let ys = points().map(|p| p.1).chain(rules(false, y_log).filter(|_| any));
    let ys = range(ys.filter(|y| within(asked.y, *y)));
    let x = match (slots, xs) {
        (Some(n), _) => Scale::Slots(n),
        (None, range) if x_log => Scale::log(range.or(asked.x.around()).unwrap_or((1.0, 10.0))),
        (None, range) => Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::NearZero(0.2)),
    };
    let y = match (chart.kind, ys) {
        // A bin without values has a count of 0, which a logarithmic axis shows at its foot.
        (ChartKind::Histogram, Some((_, high))) if y_log => Scale::log((0.8, high.max(1.0))),
        (_, range) if y_log => Scale::log(range.or(asked.y.around()).unwrap_or((1.0, 10.0))),
        (ChartKind::Cdf, _) => Scale::linear((0.0, 1.0), Reach::Zero),
        (ChartKind::Bar | ChartKind::Area | ChartKind::Histogram, range) => {
            Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::Zero)
        }
        (_, range) => Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::NearZero(0.5)),
    };
    (x.limited(asked.x), y.limited(asked.y))
}

pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |r, v| match r {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
