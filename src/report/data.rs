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
        let mut slots = chart.categories.clone().filter(|_| chart.kind != ChartKind::Cdf);
        let x_log = chart.x_log && slots.is_none() && chart.kind != ChartKind::Bar;
        let mut series: Vec<_> = match chart.kind {
            ChartKind::Cdf => chart.series.iter().map(|s| steps(&s.points, x_log, chart.y_log, &mut skipped)).collect(),
            ChartKind::Line | ChartKind::Scatter | ChartKind::Bar => {
                chart.series.iter().map(|s| usable(&s.points, x_log, chart.y_log, &mut skipped)).collect()
            }
        };
        match chart.kind {
            ChartKind::Line => series.iter_mut().for_each(|s| s.sort_by(|a, b| a.0.total_cmp(&b.0))),
            ChartKind::Bar => {
                if slots.is_none() {
                    slots = Some(number_slots(&mut series));
                }
                series.iter_mut().for_each(|s| skipped.same_bar += one_per_slot(s));
            }
            ChartKind::Scatter | ChartKind::Cdf => {}
        }
        let (x, y) = scales(chart, &series, slots.as_ref().map(Vec::len), x_log);
        Data { series, slots, x, y, notes: skipped.notes() }
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

fn scales(chart: &Chart, series: &[Vec<(f64, f64)>], slots: Option<usize>, x_log: bool) -> (Scale, Scale) {
    let xs = range(series.iter().flatten().map(|p| p.0));
    let ys = range(series.iter().flatten().map(|p| p.1));
    let x = match (slots, xs) {
        (Some(n), _) => Scale::Slots(n),
        (None, Some(range)) if x_log => Scale::log(range),
        (None, range) => Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::NearZero(0.2)),
    };
    let y = match (chart.kind, ys) {
        (_, Some(range)) if chart.y_log => Scale::log(range),
        (ChartKind::Cdf, _) => Scale::linear((0.0, 1.0), Reach::Zero),
        (ChartKind::Bar, range) => Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::Zero),
        (ChartKind::Line | ChartKind::Scatter, range) => {
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
        Chart { kind, series: vec![Series { name: String::new(), points: points.to_vec() }], ..Chart::default() }
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
    fn bars_stand_in_slots_by_number_and_show_their_first_row() {
        let data = Data::new(&chart(ChartKind::Bar, &[(8.0, 1.0), (-1.0, 2.0), (0.0, 3.0), (-0.0, 9.0), (-3.0, 4.0)]));
        assert_eq!(data.slots.as_deref(), Some(&["-3", "-1", "0", "8"].map(String::from)[..]));
        assert_eq!(data.series[0], [(3.0, 1.0), (1.0, 2.0), (2.0, 3.0), (0.0, 4.0)]);
        assert_eq!(data.notes, ["1 row not drawn: their bar shows an earlier row"]);
    }
}
