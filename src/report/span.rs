//! Spans: bars from a beginning to an end, in rows from top to bottom. Timelines, and what a time is made of.

use std::collections::BTreeMap;

use plotters::prelude::DrawingBackend;

use super::canvas::Canvas;
use super::chart::{Chart, Series};
use super::data::{Asked, Data, Panel, Skipped, is_number, range, within};
use super::frame::Frame;
use super::number::number;
use super::palette::look;
use super::scale::{Reach, Scale};
use crate::diag::Result;

/// Bars with a row per name, the first at the top.
pub(super) fn data(chart: &Chart, parts: &[Series], asked: Asked, skipped: &mut Skipped) -> Data {
    let names = if chart.rows.is_empty() { distinct(&chart.series) } else { Vec::new() };
    let slot: BTreeMap<u64, usize> = names.iter().enumerate().map(|(i, y)| (bits(*y), i)).collect();
    let mut rows = if chart.rows.is_empty() { names.iter().map(|y| number(*y)).collect() } else { chart.rows.clone() };
    let mut series = Vec::new();
    let mut ends = Vec::new();
    for part in parts {
        let mut kept = (Vec::new(), Vec::new());
        for (&(x, y), &end) in part.points.iter().zip(&part.ends) {
            let row = if chart.rows.is_empty() { slot.get(&bits(y)).copied() } else { Some(y as usize) };
            let row = row.filter(|r| is_number(y) && *r < rows.len());
            let (true, Some(row)) = (is_number(x) && is_number(end), row) else {
                skipped.not_a_number += 1;
                continue;
            };
            if end < x {
                skipped.backwards += 1;
                continue;
            }
            let after = asked.x.high.is_some_and(|high| x > high);
            let before = asked.x.low.is_some_and(|low| end < low);
            if after || before {
                skipped.beyond += 1;
                continue;
            }
            skipped.cut += usize::from(!within(asked.x, x) || !within(asked.x, end));
            // Slots count from below.
            kept.0.push((x, (rows.len() - 1 - row) as f64));
            kept.1.push(end);
        }
        series.push(kept.0);
        ends.push(kept.1);
    }
    rows.reverse();
    let rules = chart.rules.iter().filter(|r| r.upright && is_number(r.value)).map(|r| r.value);
    let all = series.iter().flatten().map(|p| p.0).chain(ends.iter().flatten().copied());
    let any = series.iter().any(|s| !s.is_empty());
    let all = range(all.chain(rules.filter(|_| any)).filter(|x| within(asked.x, *x)));
    let x = Scale::linear(all.unwrap_or((0.0, 1.0)), Reach::NearZero(0.2)).limited(asked.x);
    let y = Scale::Slots(rows.len());
    Data { series, ends, row_slots: Some(rows), x, y, ..Data::default() }
}

/// The distinct y in the order of the points.
fn distinct(series: &[Series]) -> Vec<f64> {
    let mut seen = std::collections::BTreeSet::new();
    let all = series.iter().flat_map(|s| &s.points).map(|p| p.1);
    all.filter(|y| is_number(*y) && seen.insert(bits(*y))).collect()
}

/// Adding zero makes -0 and 0 one value.
fn bits(y: f64) -> u64 {
    (y + 0.0).to_bits()
}

/// Where a bar is: its upper left and lower right corner.
pub(super) fn place(panel: &Panel, frame: &Frame, (x, y): (f64, f64), end: f64) -> ((f64, f64), (f64, f64)) {
    let rows = panel.data.row_slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let half = ((frame.bottom - frame.top) / rows * 0.39).min(13.0 * frame.size).max(0.5);
    let (from, to) = (frame.px(x), frame.px(end));
    // What takes no time can be seen too.
    ((from, frame.py(y) - half), (to.max(from + 1.0), frame.py(y) + half))
}

pub(super) fn draw<DB: DrawingBackend>(panel: &Panel, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    for (i, (points, ends)) in panel.series.iter().zip(panel.ends).enumerate() {
        for (point, end) in points.iter().zip(ends) {
            let (from, to) = place(panel, frame, *point, *end);
            // A little paper between bars of one colour that follow each other, while they are long enough for it.
            let gap = if to.0 - from.0 > 4.0 * frame.size { 0.6 * frame.size } else { 0.0 };
            canvas.rect(from, (to.0 - gap, to.1), look(i).rgb)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ChartKind, Limits};

    fn chart(points: &[(f64, f64, f64)]) -> Chart {
        let series = Series {
            points: points.iter().map(|p| (p.0, p.1)).collect(),
            ends: points.iter().map(|p| p.2).collect(),
            ..Series::default()
        };
        Chart { kind: ChartKind::Span, series: vec![series], ..Chart::default() }
    }

    #[test]
    fn rows_stand_in_the_order_of_the_points() {
        let data = Data::new(&chart(&[(0.0, 7.0, 1.0), (1.0, 3.0, 2.0), (2.0, 7.0, 5.0)]));
        assert_eq!(data.row_slots.as_deref(), Some(&["3", "7"].map(String::from)[..]));
        assert_eq!(data.series[0], [(0.0, 1.0), (1.0, 0.0), (2.0, 1.0)]);
        assert_eq!(data.ends[0], [1.0, 2.0, 5.0]);
        // The first row is the upper one, as with names.
        let named =
            Data::new(&Chart { rows: vec!["a".into(), "b".into()], ..chart(&[(0.0, 0.0, 1.0), (0.0, 1.0, 1.0)]) });
        assert_eq!(named.row_slots.as_deref(), Some(&["b", "a"].map(String::from)[..]));
        assert_eq!(named.series[0], [(0.0, 1.0), (0.0, 0.0)]);
    }

    #[test]
    fn what_is_no_span_is_counted() {
        let points = [
            (0.0, 1.0, 1.0),
            (f64::NAN, 1.0, 1.0),
            (0.0, 1.0, f64::INFINITY),
            (0.0, f64::NAN, 1.0),
            (3.0, 1.0, 2.0),
            (5.0, 1.0, 5.0),
            (8.0, 1.0, 12.0),
            (20.0, 1.0, 30.0),
        ];
        let limits = Limits { low: None, high: Some(10.0) };
        let data = Data::new(&Chart { x_limits: limits, ..chart(&points) });
        assert_eq!(data.series[0].len(), 3);
        assert_eq!(
            data.notes,
            [
                "3 rows without a number not drawn",
                "1 row with x_end < x not drawn",
                "1 row beyond the limits of the axes",
                "1 bar cut at the limits of the axes"
            ]
        );
    }
}
