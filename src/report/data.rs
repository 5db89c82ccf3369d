//! The chart's data in the form in which they are drawn: what cannot be drawn is left out and counted, bars and names
//! have their slots, distributions are steps.

use std::collections::{BTreeMap, BTreeSet};

use super::chart::{Chart, ChartKind};
use super::number::number;
use super::scale::{Reach, Scale};

/// Beyond this the distance between two values is not a number any more.
const LARGEST: f64 = 1e300;

/// What is drawn.
pub(super) struct Data {
    /// By series, in the order of the chart.
    pub series: Vec<Vec<(f64, f64)>>,
    /// Names of the slots on the horizontal axis.
    pub slots: Option<Vec<String>>,
    /// Names of the slots on the vertical axis, from below.
    pub row_slots: Option<Vec<String>>,
    /// Of a heat map: a value per point of each series.
    pub values: Vec<Vec<f64>>,
    pub x: Scale,
    pub y: Scale,
    /// What was left out, for the reader.
    pub notes: Vec<String>,
}

/// Rows that are not drawn, by reason.
#[derive(Default)]
struct Skipped {
    not_a_number: usize,
    not_positive_x: usize,
    not_positive_y: usize,
    same_bar: usize,
}

impl Data {
    pub fn new(chart: &Chart) -> Data {
        let mut skipped = Skipped::default();
        let mut slots = chart.categories.clone().filter(|_| !is_distribution(chart.kind));
        let slotted = matches!(chart.kind, ChartKind::Bar | ChartKind::Box | ChartKind::Heat);
        let x_log = chart.x_log && slots.is_none() && !slotted;
        let y_log = chart.y_log && !matches!(chart.kind, ChartKind::Heat | ChartKind::Area);
        if chart.kind == ChartKind::Heat {
            return Data::heat(chart, skipped);
        }
        let mut series: Vec<_> = match chart.kind {
            ChartKind::Cdf => chart.series.iter().map(|s| steps(&s.points, x_log, y_log, &mut skipped)).collect(),
            ChartKind::Histogram => histogram(chart, x_log, &mut skipped),
            ChartKind::Line
            | ChartKind::Scatter
            | ChartKind::Bar
            | ChartKind::Step
            | ChartKind::Area
            | ChartKind::Box
            | ChartKind::Heat => chart.series.iter().map(|s| usable(&s.points, x_log, y_log, &mut skipped)).collect(),
        };
        match chart.kind {
            ChartKind::Line | ChartKind::Step => series.iter_mut().for_each(|s| s.sort_by(|a, b| a.0.total_cmp(&b.0))),
            ChartKind::Area => series = stacked(series),
            ChartKind::Bar => {
                if slots.is_none() {
                    slots = Some(number_slots(&mut series));
                }
                series.iter_mut().for_each(|s| skipped.same_bar += one_per_slot(s));
            }
            ChartKind::Box => {
                if slots.is_none() {
                    slots = Some(number_slots(&mut series));
                }
                series.iter_mut().for_each(|s| *s = five_numbers(s));
            }
            ChartKind::Scatter | ChartKind::Cdf | ChartKind::Histogram | ChartKind::Heat => {}
        }
        let (x, y) = scales(chart, &series, slots.as_ref().map(Vec::len), x_log, y_log);
        Data { series, slots, row_slots: None, values: Vec::new(), x, y, notes: skipped.notes() }
    }

    /// Cells, with a slot per distinct x and y.
    fn heat(chart: &Chart, mut skipped: Skipped) -> Data {
        let mut series = Vec::new();
        let mut values = Vec::new();
        for s in &chart.series {
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
        Data { series, slots: Some(slots), row_slots: Some(rows), values, x, y, notes: skipped.notes() }
    }

    /// The lowest and the highest value of a heat map.
    pub fn value_range(&self) -> Option<(f64, f64)> {
        range(self.values.iter().flatten().copied())
    }

    pub fn is_empty(&self) -> bool {
        self.series.iter().all(Vec::is_empty)
    }
}

impl Skipped {
    fn notes(&self) -> Vec<String> {
        let rows = |n: usize| format!("{} {}", number(n as f64), if n == 1 { "row" } else { "rows" });
        let mut notes = Vec::new();
        if self.not_a_number > 0 {
            notes.push(format!("{} without a number not drawn", rows(self.not_a_number)));
        }
        for (n, axis) in [(self.not_positive_x, "x"), (self.not_positive_y, "y")] {
            if n > 0 {
                notes.push(format!("{} with {axis} ≤ 0 not on the log axis", rows(n)));
            }
        }
        if self.same_bar > 0 {
            notes.push(format!("{} not drawn: their bar shows an earlier row", rows(self.same_bar)));
        }
        notes
    }
}

/// Whether only x of the points matters.
fn is_distribution(kind: ChartKind) -> bool {
    matches!(kind, ChartKind::Cdf | ChartKind::Histogram)
}

/// The outline of how many x fall into each bin, per series; the bins are those of all series together.
fn histogram(chart: &Chart, x_log: bool, skipped: &mut Skipped) -> Vec<Vec<(f64, f64)>> {
    let bins = if chart.bins == 0 { 40 } else { chart.bins };
    let place = |x: f64| if x_log { libm::log10(x) } else { x };
    let mut kept: Vec<Vec<f64>> = Vec::new();
    for series in &chart.series {
        let values: Vec<f64> = series.points.iter().map(|p| p.0).filter(|x| is_number(*x)).collect();
        skipped.not_a_number += series.points.len() - values.len();
        let shown: Vec<f64> = values.iter().copied().filter(|x| !x_log || *x > 0.0).map(place).collect();
        skipped.not_positive_x += values.len() - shown.len();
        kept.push(shown);
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

/// The upper edge of each series when it stands on those before it, at every x that any of them has.
fn stacked(series: Vec<Vec<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let order = |x: f64| {
        let bits = (x + 0.0).to_bits() as i64;
        bits ^ (((bits >> 63) as u64) >> 1) as i64
    };
    let mut sums: BTreeMap<i64, (f64, f64)> = series.iter().flatten().map(|(x, _)| (order(*x), (*x, 0.0))).collect();
    let raise = |points: Vec<(f64, f64)>| {
        for (x, y) in points {
            if let Some(sum) = sums.get_mut(&order(x)) {
                sum.1 += y;
            }
        }
        sums.values().copied().collect()
    };
    series.into_iter().map(raise).collect()
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

fn is_number(v: f64) -> bool {
    v.abs() <= LARGEST
}

/// The points that have a place on the axes.
fn usable(points: &[(f64, f64)], x_log: bool, y_log: bool, skipped: &mut Skipped) -> Vec<(f64, f64)> {
    let mut kept = Vec::with_capacity(points.len());
    for &(x, y) in points {
        if !is_number(x) || !is_number(y) {
            skipped.not_a_number += 1;
        } else if x_log && x <= 0.0 {
            skipped.not_positive_x += 1;
        } else if y_log && y <= 0.0 {
            skipped.not_positive_y += 1;
        } else {
            kept.push((x, y));
        }
    }
    kept
}

/// The corners of the distribution of x: from each value to the share of values up to it. Values that a logarithmic
/// axis cannot show lie left of it, and count.
fn steps(points: &[(f64, f64)], x_log: bool, y_log: bool, skipped: &mut Skipped) -> Vec<(f64, f64)> {
    let mut values: Vec<f64> = points.iter().map(|p| p.0).filter(|x| is_number(*x)).collect();
    skipped.not_a_number += points.len() - values.len();
    values.sort_by(f64::total_cmp);
    let hidden = if x_log { values.partition_point(|x| *x <= 0.0) } else { 0 };
    skipped.not_positive_x += hidden;
    let all = values.len() as f64;
    let mut corners: Vec<(f64, f64)> = Vec::new();
    let mut share = hidden as f64 / all;
    let mut i = hidden;
    while i < values.len() {
        let x = values[i];
        i += values[i..].partition_point(|v| *v <= x);
        // Zero has no place on a logarithmic axis.
        if !(y_log && share <= 0.0) {
            corners.push((x, share));
        }
        share = i as f64 / all;
        corners.push((x, share));
    }
    corners
}

/// Gives every distinct x a slot, in the order of numbers; the points then hold the index of theirs.
fn number_slots(series: &mut [Vec<(f64, f64)>]) -> Vec<String> {
    // Adding zero makes -0 and 0 one value.
    let order = |x: f64| {
        let bits = (x + 0.0).to_bits() as i64;
        bits ^ (((bits >> 63) as u64) >> 1) as i64
    };
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

fn scales(chart: &Chart, series: &[Vec<(f64, f64)>], slots: Option<usize>, x_log: bool, y_log: bool) -> (Scale, Scale) {
    // A rule that the data do not reach is to be seen too.
    let rules = |upright: bool, log: bool| {
        let values = chart.rules.iter().filter(move |r| r.upright == upright).map(|r| r.value);
        values.filter(move |v| is_number(*v) && (!log || *v > 0.0))
    };
    let any = series.iter().any(|s| !s.is_empty());
    let xs = range(series.iter().flatten().map(|p| p.0).chain(rules(true, x_log).filter(|_| any)));
    let ys = range(series.iter().flatten().map(|p| p.1).chain(rules(false, y_log).filter(|_| any)));
    let x = match (slots, xs) {
        (Some(n), _) => Scale::Slots(n),
        (None, Some(range)) if x_log => Scale::log(range),
        (None, range) => Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::NearZero(0.2)),
    };
    let y = match (chart.kind, ys) {
        // A bin without values has a count of 0, which a logarithmic axis shows at its foot.
        (ChartKind::Histogram, Some((_, high))) if y_log => Scale::log((0.8, high.max(1.0))),
        (_, Some(range)) if y_log => Scale::log(range),
        (ChartKind::Cdf, _) => Scale::linear((0.0, 1.0), Reach::Zero),
        (ChartKind::Bar | ChartKind::Area | ChartKind::Histogram, range) => {
            Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::Zero)
        }
        (ChartKind::Line | ChartKind::Scatter | ChartKind::Step | ChartKind::Box | ChartKind::Heat, range) => {
            Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::NearZero(0.5))
        }
    };
    (x, y)
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |r, v| match r {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Series;

    fn chart(kind: ChartKind, points: &[(f64, f64)]) -> Chart {
        Chart { kind, series: vec![Series { points: points.to_vec(), ..Series::default() }], ..Chart::default() }
    }

    #[test]
    fn a_distribution_is_a_step_per_distinct_value() {
        let data =
            Data::new(&chart(ChartKind::Cdf, &[(2.0, 0.0), (1.0, 0.0), (2.0, 0.0), (f64::NAN, 0.0), (4.0, 0.0)]));
        assert_eq!(data.series[0], [(1.0, 0.0), (1.0, 0.25), (2.0, 0.25), (2.0, 0.75), (4.0, 0.75), (4.0, 1.0)]);
        assert_eq!(data.notes, ["1 row without a number not drawn"]);
    }

    #[test]
    fn a_distribution_counts_what_its_log_axis_cannot_show() {
        let log = Chart { x_log: true, ..chart(ChartKind::Cdf, &[(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (10.0, 0.0)]) };
        let data = Data::new(&log);
        assert_eq!(data.series[0], [(1.0, 0.5), (1.0, 0.75), (10.0, 0.75), (10.0, 1.0)]);
        assert_eq!(data.notes, ["2 rows with x ≤ 0 not on the log axis"]);
    }

    #[test]
    fn lines_follow_x_and_leave_out_what_has_no_place() {
        let points = [(3.0, 1.0), (1.0, 0.0), (2.0, f64::NAN), (0.0, 5.0), (1.5, 2.0)];
        let data = Data::new(&Chart { x_log: true, y_log: true, ..chart(ChartKind::Line, &points) });
        assert_eq!(data.series[0], [(1.5, 2.0), (3.0, 1.0)]);
        assert_eq!(data.notes.len(), 3, "{:?}", data.notes);
    }

    #[test]
    fn bins_are_equal_and_count_everything() {
        let points: Vec<(f64, f64)> = (0..=10).map(|i| (f64::from(i), 0.0)).collect();
        let chart = Chart { bins: 5, ..chart(ChartKind::Histogram, &points) };
        let data = Data::new(&chart);
        // The last bin has its upper edge too.
        let counts: Vec<f64> = data.series[0].iter().step_by(2).map(|p| p.1).collect();
        assert_eq!(counts, [2.0, 2.0, 2.0, 2.0, 3.0]);
        assert_eq!((data.series[0][0].0, data.series[0][9].0), (0.0, 10.0));
        let log = Chart { x_log: true, bins: 2, ..chart };
        let data = Data::new(&log);
        // From 1 to 10 by factors: 1, 2, 3 and 4 to 10.
        let counts: Vec<f64> = data.series[0].iter().step_by(2).map(|p| p.1).collect();
        assert_eq!(
            (counts, &data.notes[..]),
            (vec![3.0, 7.0], &["1 row with x ≤ 0 not on the log axis".to_string()][..])
        );
        let one = Data::new(&Chart { bins: 3, ..self::chart(ChartKind::Histogram, &[(7.0, 0.0)]) });
        assert_eq!(one.series[0].iter().map(|p| p.1).fold(0.0, f64::max), 1.0);
    }

    #[test]
    fn areas_stand_on_each_other() {
        let mut chart = chart(ChartKind::Area, &[(2.0, 1.0), (1.0, 2.0)]);
        chart.series.push(Series { points: vec![(2.0, 5.0), (3.0, 1.0)], ..Series::default() });
        let data = Data::new(&chart);
        assert_eq!(data.series[0], [(1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]);
        assert_eq!(data.series[1], [(1.0, 2.0), (2.0, 6.0), (3.0, 1.0)]);
    }

    #[test]
    fn boxes_have_five_numbers_per_slot() {
        let points: Vec<(f64, f64)> = (0..=20).map(|i| (4.0, f64::from(i))).chain([(9.0, 7.0)]).collect();
        let data = Data::new(&chart(ChartKind::Box, &points));
        assert_eq!(data.slots.as_deref(), Some(&["4", "9"].map(String::from)[..]));
        assert_eq!(data.series[0][..5], [(0.0, 1.0), (0.0, 5.0), (0.0, 10.0), (0.0, 15.0), (0.0, 19.0)]);
        assert!(data.series[0][5..].iter().all(|p| *p == (1.0, 7.0)));
    }

    #[test]
    fn cells_have_slots_on_both_axes() {
        let mut chart = chart(ChartKind::Heat, &[(8.0, 2.0), (4.0, 2.0), (4.0, 1.0), (4.0, 1.0), (f64::NAN, 1.0)]);
        chart.series[0].values = vec![0.5, 0.25, 1.0, 9.0, 1.0];
        let data = Data::new(&chart);
        assert_eq!(data.slots.as_deref(), Some(&["4", "8"].map(String::from)[..]));
        assert_eq!(data.row_slots.as_deref(), Some(&["1", "2"].map(String::from)[..]));
        assert_eq!(
            (&data.series[0][..], data.value_range()),
            (&[(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)][..], Some((0.25, 1.0)))
        );
        assert_eq!(data.notes.len(), 2, "{:?}", data.notes);
    }

    #[test]
    fn a_rule_is_in_sight() {
        let rule = super::super::chart::Rule { value: 500.0, label: "SLO".to_string(), upright: false };
        let data = Data::new(&Chart { rules: vec![rule], ..chart(ChartKind::Line, &[(1.0, 10.0), (2.0, 20.0)]) });
        assert!(data.y.unit(500.0) <= 1.0 && data.y.unit(20.0) < 0.1);
    }

    #[test]
    fn bars_stand_in_slots_by_number_and_show_their_first_row() {
        let data = Data::new(&chart(ChartKind::Bar, &[(8.0, 1.0), (-1.0, 2.0), (0.0, 3.0), (-0.0, 9.0), (-3.0, 4.0)]));
        assert_eq!(data.slots.as_deref(), Some(&["-3", "-1", "0", "8"].map(String::from)[..]));
        assert_eq!(data.series[0], [(3.0, 1.0), (1.0, 2.0), (2.0, 3.0), (0.0, 4.0)]);
        assert_eq!(data.notes, ["1 row not drawn: their bar shows an earlier row"]);
    }
}
