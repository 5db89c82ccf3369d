//! The data themselves: lines, points, bars and steps.
//!
//! Points that would cover each other to the pixel are drawn once, so that a picture of a million rows is no larger
//! than its pixels.

use std::collections::BTreeSet;

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Pen, Point, Type, fit, text_width};
use super::chart::{ChartKind, Rule};
use super::data::Panel;
use super::frame::Frame;
use super::number::number;
use super::palette::{AXIS, INK, Look, PAPER, is_dark, look};
use super::{labels, parallel, span};
use crate::diag::Result;

/// Above this, points that fall on the same quarter of a pixel are drawn once.
pub(super) const MANY: usize = 5_000;

/// Half the width of an area that has one place only [px].
const COLUMN: f64 = 8.0;

pub(super) fn draw<DB: DrawingBackend>(panel: &Panel, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let all: usize = panel.data.series.iter().map(Vec::len).sum();
    let on_paper = |points: &Vec<Point>| points.iter().map(|&(x, y)| (frame.px(x), frame.py(y))).collect();
    let series: Vec<Vec<Point>> = panel.series.iter().map(on_paper).collect();
    match panel.data.kind {
        ChartKind::Line | ChartKind::Path => lines(series, frame, canvas),
        ChartKind::Bar => bars(panel, frame, canvas),
        ChartKind::Scatter => {
            // The first of the legend lies on top: the front on what it beats.
            let mut looks = series.iter().enumerate().rev();
            looks.try_for_each(|(i, s)| scatter(s.clone(), all, look(i), frame, canvas))?;
            labels::draw(panel, &series, frame, canvas)
        }
        ChartKind::Cdf => {
            let mut series = series.into_iter().enumerate();
            series.try_for_each(|(i, s)| canvas.path(&without_middles(s), pen(look(i), frame)))
        }
        ChartKind::Step => {
            let mut series = series.into_iter().enumerate();
            series.try_for_each(|(i, s)| canvas.path(&without_middles(held(&s)), pen(look(i), frame)))
        }
        ChartKind::Area => areas(series, frame, canvas),
        ChartKind::Histogram => outlines(panel, series, frame, canvas),
        ChartKind::Box => boxes(panel, frame, canvas),
        ChartKind::Heat => cells(panel, frame, canvas),
        ChartKind::Parallel => parallel::draw(panel, frame, canvas),
        ChartKind::Span => span::draw(panel, frame, canvas),
    }
}

/// Corners of a line that keeps its height until the next point.
fn held(points: &[Point]) -> Vec<Point> {
    let corners = points.windows(2).flat_map(|w| [w[0], (w[1].0, w[0].1)]);
    corners.chain(points.last().copied()).collect()
}

/// The topmost first: each covers the upper part of the one before it.
fn areas<DB: DrawingBackend>(all: Vec<Vec<Point>>, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let foot = frame.py(frame.y.foot());
    for (i, points) in all.iter().enumerate().rev() {
        let points = extremes_by_column(points);
        let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else { continue };
        let corners: Vec<Point> = if first.0 == last.0 {
            // One place has no width of its own: a column stands there.
            let (left, right) = ((first.0 - COLUMN).max(frame.left), (first.0 + COLUMN).min(frame.right));
            let top = points.iter().map(|p| p.1).fold(first.1, f64::min);
            vec![(left, foot), (left, top), (right, top), (right, foot)]
        } else {
            [(first.0, foot)].into_iter().chain(points).chain([(last.0, foot)]).collect()
        };
        canvas.polygon(&corners, look(i).rgb, 1.0)?;
    }
    canvas.rule_across(foot, frame.left, frame.right, AXIS)
}

/// Bins, filled so lightly that another series can be seen through them.
fn outlines<DB: DrawingBackend>(
    panel: &Panel,
    all: Vec<Vec<Point>>,
    frame: &Frame,
    canvas: &mut Canvas<DB>,
) -> Result<()> {
    let foot = frame.bottom;
    for (i, mut points) in all.into_iter().enumerate() {
        // A count of 0 has no place on a logarithmic axis.
        points.iter_mut().zip(&panel.series[i]).filter(|(_, (_, n))| *n <= 0.0).for_each(|(p, _)| p.1 = foot);
        let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else { continue };
        for bin in points.chunks_exact(2).filter(|bin| bin[0].1 < foot) {
            let corners = [(bin[0].0, foot), bin[0], bin[1], (bin[1].0, foot)];
            canvas.polygon(&corners, look(i).rgb, 0.3)?;
        }
        let outline: Vec<Point> = [(first.0, foot)].into_iter().chain(points).chain([(last.0, foot)]).collect();
        canvas.path(&without_middles(outline), Pen { width: 1.6 * frame.size, ..pen(look(i), frame) })?;
    }
    canvas.rule_across(foot, frame.left, frame.right, AXIS)
}

/// Side by side in each slot, one per series.
fn boxes<DB: DrawingBackend>(panel: &Panel, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let slots = panel.data.slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let slot = (frame.right - frame.left) / slots;
    let count = panel.series.len().max(1) as f64;
    let group = (slot * 0.7).min(count * 90.0 * frame.size);
    let wide = group / count;
    for (i, five) in panel.series.iter().enumerate() {
        let (rgb, pen) = (look(i).rgb, Pen { width: 1.6 * frame.size, dash: None, ..pen(look(i), frame) });
        for five in five.chunks_exact(5) {
            let middle = frame.px(five[0].0) - group / 2.0 + wide * (i as f64 + 0.5);
            let half = (wide * 0.38).max(1.0);
            let [low, from, median, to, high] = [0, 1, 2, 3, 4].map(|k: usize| frame.py(five[k].1));
            canvas.path(&[(middle, low), (middle, high)], pen)?;
            for end in [low, high] {
                canvas.path(&[(middle - half * 0.5, end), (middle + half * 0.5, end)], pen)?;
            }
            let corners = [(middle - half, from), (middle + half, from), (middle + half, to), (middle - half, to)];
            canvas.polygon(&corners, PAPER, 1.0)?;
            canvas.polygon(&corners, rgb, 0.35)?;
            canvas.path(&[corners[0], corners[1], corners[2], corners[3], corners[0]], pen)?;
            let thick = Pen { width: 3.0 * frame.size, ..pen };
            canvas.path(&[(middle - half, median), (middle + half, median)], thick)?;
        }
    }
    Ok(())
}

fn cells<DB: DrawingBackend>(panel: &Panel, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let count = |slots: &Option<Vec<String>>| slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let wide = (frame.right - frame.left) / count(&panel.data.slots);
    let high = (frame.bottom - frame.top) / count(&panel.data.row_slots);
    let em = frame.tick_type(Align::Middle).em;
    for (points, values) in panel.series.iter().zip(panel.values) {
        for ((x, y), value) in points.iter().zip(values) {
            let rgb = panel.data.colour(*value);
            let (cx, cy) = (frame.px(*x), frame.py(*y));
            canvas.rect(
                (cx - wide / 2.0 + 0.5, cy - high / 2.0 + 0.5),
                (cx + wide / 2.0 - 0.5, cy + high / 2.0 - 0.5),
                rgb,
            )?;
            let text = number(three_digits(*value));
            if text_width(&text, em) < wide - em * 0.6 && high > em * 1.4 {
                // Letters on a colour do not change with the paper.
                let ink = if is_dark(rgb) { (0xff, 0xff, 0xfe) } else { (0x1f, 0x24, 0x2a) };
                canvas.text(&text, (cx, cy + em * 0.34), Type { rgb: ink, ..frame.tick_type(Align::Middle) })?;
            }
        }
    }
    Ok(())
}

/// To three digits that say something: more would only be noise in a cell.
fn three_digits(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let unit = libm::pow(10.0, libm::floor(libm::log10(value.abs())) - 2.0);
    // A unit below 1 is not exact, its inverse is.
    if unit < 1.0 {
        libm::round(value * libm::round(1.0 / unit)) / libm::round(1.0 / unit)
    } else {
        libm::round(value / unit) * unit
    }
}

/// Lines that the data are held against, over the data.
pub(super) fn rules<DB: DrawingBackend>(rules: &[Rule], frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let pen = Pen { rgb: INK, width: 1.3 * frame.size, dash: Some((6.0 * frame.size, 4.0 * frame.size)) };
    let em = frame.tick_type(Align::End).em;
    for rule in rules {
        let (at, within) = match rule.upright {
            true => (frame.px(rule.value), frame.left..=frame.right),
            false => (frame.py(rule.value), frame.top..=frame.bottom),
        };
        if !within.contains(&at) {
            continue;
        }
        let label = fit(&rule.label, em, (frame.right - frame.left) * 0.5);
        if rule.upright {
            canvas.path(&[(at, frame.top), (at, frame.bottom)], pen)?;
            let room = frame.right - at > text_width(&label, em) + em;
            let (align, x) = if room { (Align::Start, at + em * 0.4) } else { (Align::End, at - em * 0.4) };
            rule_label(&label, (x, frame.top + em), align, frame, canvas)?;
        } else {
            canvas.path(&[(frame.left, at), (frame.right, at)], pen)?;
            // Under the line where there is no room above it.
            let y = if at - frame.top > em * 1.5 { at - em * 0.45 } else { at + em * 1.2 };
            rule_label(&label, (frame.right - em * 0.3, y), Align::End, frame, canvas)?;
        }
    }
    Ok(())
}

/// On a little paper, so that it can be read over data.
fn rule_label<DB: DrawingBackend>(
    label: &str,
    (x, y): Point,
    align: Align,
    frame: &Frame,
    canvas: &mut Canvas<DB>,
) -> Result<()> {
    let kind = Type { rgb: INK, ..frame.tick_type(align) };
    let (em, wide) = (kind.em, text_width(label, kind.em));
    if wide > 0.0 {
        let left = if align == Align::End { x - wide } else { x } - em * 0.15;
        let (right, top, bottom) = (left + wide + em * 0.3, y - em * 0.8, y + em * 0.22);
        canvas.polygon(&[(left, top), (right, top), (right, bottom), (left, bottom)], PAPER, 0.8)?;
    }
    canvas.text(label, (x, y), kind)
}

/// How the line of a series is drawn.
pub(super) fn pen(look: Look, frame: &Frame) -> Pen {
    Pen { rgb: look.rgb, width: 2.2 * frame.size, dash: look.dash.map(|(a, b)| (a * frame.size, b * frame.size)) }
}

/// Lines first, so that none hides a point: markers come where there is room for them.
fn lines<DB: DrawingBackend>(all: Vec<Vec<Point>>, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    for (i, points) in all.iter().enumerate() {
        canvas.path(&extremes_by_column(points), pen(look(i), frame))?;
    }
    for (i, points) in all.iter().enumerate() {
        let needed = points.len() as f64 * 11.0 * frame.size;
        if points.len() > 1 && needed > frame.right - frame.left {
            continue;
        }
        for point in points {
            canvas.marker(look(i).marker, *point, 3.8 * frame.size, (look(i).rgb, 1.0))?;
        }
    }
    Ok(())
}

fn scatter<DB: DrawingBackend>(
    mut points: Vec<Point>,
    all: usize,
    look: Look,
    frame: &Frame,
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
    points.into_iter().try_for_each(|p| canvas.marker(look.marker, p, radius * frame.size, (look.rgb, alpha)))
}

/// Groups of bars: one group per slot, one bar per series.
fn bars<DB: DrawingBackend>(panel: &Panel, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let slots = panel.data.slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let slot = (frame.right - frame.left) / slots;
    let count = panel.series.len().max(1) as f64;
    let group = (slot * if count > 1.0 { 0.82 } else { 0.64 }).min(count * 120.0 * frame.size);
    let wide = group / count;
    // A little paper between the bars of a group, while they are wide enough to tell apart without it.
    let gap = if wide > 6.0 { frame.size } else { 0.0 };
    let foot = frame.py(frame.y.foot());
    for (i, points) in panel.series.iter().enumerate() {
        for &(x, y) in points {
            let left = frame.px(x) - group / 2.0 + wide * i as f64;
            canvas.rect((left + gap / 2.0, frame.py(y)), (left + wide - gap / 2.0, foot), look(i).rgb)?;
        }
    }
    // Bars below zero hang from a line of their own.
    canvas.rule_across(foot, frame.left, frame.right, AXIS)
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
    fn cells_have_three_digits() {
        for (value, expected) in
            [(0.99742, 0.997), (0.0, 0.0), (-1234.5, -1230.0), (0.000_123_45, 0.000_123), (98_765.0, 98_800.0)]
        {
            assert_eq!(three_digits(value), expected);
        }
    }

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
