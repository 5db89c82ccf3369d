//! The data themselves: lines, points, bars and steps.
//!
//! Points that would cover each other to the pixel are drawn once, so that a picture of a million rows is no larger
//! than its pixels.

use std::collections::BTreeSet;

use plotters::prelude::DrawingBackend;

use super::canvas::{Canvas, Pen, Point};
use super::chart::ChartKind;
use super::data::Data;
use super::layout::Layout;
use super::palette::{AXIS, Look, look};
use crate::diag::Result;

/// Above this, points that fall on the same quarter of a pixel are drawn once.
const MANY: usize = 5_000;

pub(super) fn draw<DB: DrawingBackend>(
    kind: ChartKind,
    data: &Data,
    layout: &Layout,
    canvas: &mut Canvas<DB>,
) -> Result<()> {
    let all: usize = data.series.iter().map(Vec::len).sum();
    let on_paper = |points: &Vec<Point>| points.iter().map(|&(x, y)| (layout.px(x), layout.py(y))).collect();
    let series: Vec<Vec<Point>> = data.series.iter().map(on_paper).collect();
    match kind {
        ChartKind::Line => lines(series, layout, canvas),
        ChartKind::Bar => bars(data, layout, canvas),
        ChartKind::Scatter => {
            series.into_iter().enumerate().try_for_each(|(i, s)| scatter(s, all, look(i), layout, canvas))
        }
        ChartKind::Cdf => {
            let mut series = series.into_iter().enumerate();
            series.try_for_each(|(i, s)| canvas.path(&without_middles(s), pen(look(i), layout)))
        }
    }
}

fn pen(look: Look, layout: &Layout) -> Pen {
    Pen { rgb: look.rgb, width: 2.2 * layout.size, dash: look.dash.map(|(a, b)| (a * layout.size, b * layout.size)) }
}

/// Lines first, so that none hides a point: markers come where there is room for them.
fn lines<DB: DrawingBackend>(all: Vec<Vec<Point>>, layout: &Layout, canvas: &mut Canvas<DB>) -> Result<()> {
    for (i, points) in all.iter().enumerate() {
        canvas.path(&extremes_by_column(points), pen(look(i), layout))?;
    }
    for (i, points) in all.iter().enumerate() {
        let needed = points.len() as f64 * 11.0 * layout.size;
        if points.len() > 1 && needed > layout.right - layout.left {
            continue;
        }
        for point in points {
            canvas.marker(look(i).marker, *point, 3.8 * layout.size, (look(i).rgb, 1.0))?;
        }
    }
    Ok(())
}

fn scatter<DB: DrawingBackend>(
    mut points: Vec<Point>,
    all: usize,
    look: Look,
    layout: &Layout,
    canvas: &mut Canvas<DB>,
) -> Result<()> {
    let (radius, alpha) = match all {
        0..=200 => (4.2, 0.85),
        201..=2_000 => (3.0, 0.7),
        _ => (2.0, 0.5),
    };
    if all > MANY {
        let mut seen = BTreeSet::new();
        points.retain(|p| seen.insert(((p.0 * 4.0) as i32, (p.1 * 4.0) as i32)));
    }
    points.into_iter().try_for_each(|p| canvas.marker(look.marker, p, radius * layout.size, (look.rgb, alpha)))
}

/// Groups of bars: one group per slot, one bar per series.
fn bars<DB: DrawingBackend>(data: &Data, layout: &Layout, canvas: &mut Canvas<DB>) -> Result<()> {
    let slots = data.slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let slot = (layout.right - layout.left) / slots;
    let count = data.series.len().max(1) as f64;
    let group = (slot * if count > 1.0 { 0.82 } else { 0.64 }).min(count * 120.0 * layout.size);
    let wide = group / count;
    // A little paper between the bars of a group, while they are wide enough to tell apart without it.
    let gap = if wide > 6.0 { layout.size } else { 0.0 };
    let foot = layout.py(layout.y.foot());
    for (i, points) in data.series.iter().enumerate() {
        for &(x, y) in points {
            let left = layout.px(x) - group / 2.0 + wide * i as f64;
            canvas.rect((left + gap / 2.0, layout.py(y)), (left + wide - gap / 2.0, foot), look(i).rgb)?;
        }
    }
    // Bars below zero hang from a line of their own.
    canvas.rule_across(foot, layout.left, layout.right, AXIS)
}

/// A step line without the corners that lie on the way from their left to their right neighbour.
fn without_middles(points: Vec<Point>) -> Vec<Point> {
    let same = |a: f64, b: f64| (a - b).abs() < 0.25;
    let mut kept: Vec<Point> = Vec::new();
    for p in points {
        if let [.., a, b] = kept[..]
            && (same(a.0, b.0) && same(b.0, p.0) || same(a.1, b.1) && same(b.1, p.1))
        {
            kept.pop();
        }
        kept.push(p);
    }
    kept
}

/// Of the points in a column of pixels: first, lowest, highest and last, in their order. Looks the same.
fn extremes_by_column(points: &[Point]) -> Vec<Point> {
    if points.len() <= MANY {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0 as i32 == b.0 as i32) {
        let by_height = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let low = (0..column.len()).min_by(by_height).unwrap_or(0);
        let high = (0..column.len()).max_by(by_height).unwrap_or(0);
        let chosen = BTreeSet::from([0, low, high, column.len() - 1]);
        kept.extend(chosen.into_iter().map(|i| column[i]));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_shape() {
        let wave: Vec<Point> = (0..100_000).map(|i| (f64::from(i) / 100.0, f64::from(i % 7))).collect();
        let thin = extremes_by_column(&wave);
        assert!(thin.len() <= 4_000, "{}", thin.len());
        assert_eq!(thin.iter().map(|p| p.1 as i32).max(), Some(6));
        let steps = vec![(0.0, 5.0), (0.0, 4.0), (0.0, 3.0), (7.0, 3.0), (9.0, 3.0), (9.0, 0.0)];
        assert_eq!(without_middles(steps), [(0.0, 5.0), (0.0, 3.0), (9.0, 3.0), (9.0, 0.0)]);
    }
}
