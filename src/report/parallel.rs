//! Parallel coordinates: a line per row across upright axes, one per column. Lines that cross between two axes tell that
//! more of the one is less of the other.
//!
//! An axis of numbers is logarithmic where all its values are positive and the largest is more than 100 times the
//! smallest: on a linear one most of them would lie on its foot. Where a row has no number the line has a gap.

use std::collections::BTreeSet;

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Pen, Point, Type, fit, text_width};
use super::chart::{Chart, ChartAxis, Series};
use super::data::{Data, Panel, Skipped, is_number, range};
use super::frame::{Frame, upright_ticks};
use super::marks::MANY;
use super::number::number;
use super::palette::{AXIS, INK, Look, Marker, PAPER, Rgb, SOFT_INK, look};
use super::scale::{Reach, Scale, Tick};
use crate::diag::Result;

/// Above this ratio of the largest value to the smallest an axis is logarithmic.
const WIDE: f64 = 100.0;

/// Names of an axis are cut to this many letters' sizes.
const NAME_EMS: f64 = 10.0;

/// One of the axes.
pub(super) struct Upright {
    pub label: String,
    pub scale: Scale,
    /// Of an axis of names, from below.
    names: Vec<String>,
    /// Some row has a value on it.
    any: bool,
    /// All of them are whole numbers: nothing is between these.
    whole: bool,
}

impl Upright {
    fn new(axis: &ChartAxis, values: impl Iterator<Item = f64>) -> Upright {
        let mut whole = true;
        let range = range(values.inspect(|v| whole &= v.fract() == 0.0));
        let scale = match range {
            _ if !axis.names.is_empty() => Scale::Slots(axis.names.len()),
            Some((low, high)) if low > 0.0 && high / low > WIDE => Scale::log((low, high)),
            range => Scale::linear(range.unwrap_or((0.0, 1.0)), Reach::NearZero(0.2)),
        };
        Upright { label: axis.label.clone(), scale, names: axis.names.clone(), any: range.is_some(), whole }
    }

    /// A value as people read it.
    pub fn text(&self, v: f64) -> String {
        if self.names.is_empty() { number(v) } else { self.names.get(v as usize).cloned().unwrap_or_default() }
    }

    /// Places with labels, on an axis that is `high`.
    fn ticks(&self, high: f64, em: f64) -> Vec<Tick> {
        if !self.any {
            return Vec::new();
        }
        if self.names.is_empty() {
            let mut ticks = upright_ticks(&self.scale, high, em);
            let steps = |ticks: &[Tick]| ticks.iter().filter(|t| t.value.fract().abs() < 1e-9).count();
            if self.whole && steps(&ticks) > 0 {
                ticks.retain(|t| t.value.fract().abs() < 1e-9);
                ticks.iter_mut().filter(|t| !t.label.is_empty()).for_each(|t| t.label = number(libm::round(t.value)));
            }
            return ticks;
        }
        let every = libm::ceil(em * 1.3 / (high / self.names.len() as f64)).max(1.0) as usize;
        let tick = |(i, n): (usize, &String)| Tick { value: i as f64, label: fit(n, em, em * NAME_EMS), rank: 0 };
        self.names.iter().enumerate().step_by(every).map(tick).collect()
    }
}

/// Rows with a value for each axis.
pub(super) fn data(chart: &Chart, parts: &[Series], skipped: &mut Skipped) -> Data {
    let known = |i: usize, v: f64| match chart.axes[i].names.len() {
        0 => is_number(v),
        names => v >= 0.0 && (v as usize) < names,
    };
    let mut tuples = Vec::new();
    let mut values = Vec::new();
    for part in parts {
        let mut kept = (Vec::new(), Vec::new());
        for (k, row) in part.tuples.iter().enumerate() {
            let value = |i: usize| row.get(i).copied().filter(|v| known(i, *v)).unwrap_or(f64::NAN);
            let row: Vec<f64> = (0..chart.axes.len()).map(value).collect();
            let missing = row.iter().filter(|v| v.is_nan()).count();
            if missing == row.len() {
                skipped.not_a_number += 1;
                continue;
            }
            skipped.gaps += usize::from(missing > 0);
            if let Some(value) = part.values.get(k) {
                skipped.colourless += usize::from(!is_number(*value));
                kept.1.push(*value);
            }
            kept.0.push(row);
        }
        tuples.push(kept.0);
        values.push(kept.1);
    }
    let of = |i: usize| tuples.iter().flatten().map(move |row: &Vec<f64>| row[i]).filter(|v| !v.is_nan());
    let axes = chart.axes.iter().enumerate().map(|(i, axis)| Upright::new(axis, of(i))).collect();
    let x = Scale::Linear { low: 0.0, high: chart.axes.len().saturating_sub(1).max(1) as f64 };
    Data { series: vec![Vec::new(); parts.len()], tuples, values, axes, x, ..Data::default() }
}

/// What the axes need: pixels left of the first and right of the last, and lines of titles above them. `wide` is about
/// what a plot has.
pub(super) fn room(data: &Data, wide: f64, em: f64) -> (f64, f64, usize) {
    let widest = |axis: Option<&Upright>| {
        let labels = axis.map(|axis| axis.ticks(em * 24.0, em)).unwrap_or_default();
        labels.iter().map(|t| text_width(&t.label, em)).fold(0.0, f64::max) + em * 0.9
    };
    let apart = wide / data.axes.len().saturating_sub(1).max(1) as f64;
    let titles = data.axes.iter().map(|a| text_width(&a.label, em)).fold(0.0, f64::max);
    let lines = if titles + em > apart { 2 } else { 1 };
    (widest(data.axes.first()), widest(data.axes.last()), lines)
}

/// The corners of a row's line, in pieces where it has gaps.
pub(super) fn pieces(panel: &Panel, frame: &Frame, row: &[f64]) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = vec![Vec::new()];
    for (i, (axis, v)) in panel.data.axes.iter().zip(row).enumerate() {
        if v.is_nan() {
            pieces.push(Vec::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push((frame.px(i as f64), height(frame, &axis.scale, *v)));
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn height(frame: &Frame, scale: &Scale, v: f64) -> f64 {
    frame.bottom - scale.unit(v) * (frame.bottom - frame.top)
}

pub(super) fn draw<DB: DrawingBackend>(panel: &Panel, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let all: usize = panel.data.tuples.iter().map(Vec::len).sum();
    let width = frame.size
        * match all {
            0..=60 => 2.0,
            61..=600 => 1.3,
            _ => 0.8,
        };
    let mut seen = BTreeSet::new();
    for (i, rows) in panel.tuples.iter().enumerate() {
        let values = panel.values.get(i).map(Vec::as_slice).unwrap_or_default();
        for (k, row) in rows.iter().enumerate() {
            let look = look(i);
            let rgb = values.get(k).map_or(look.rgb, |v| if is_number(*v) { panel.data.colour(*v) } else { AXIS });
            let pieces = pieces(panel, frame, row);
            // Of many lines, those that cover another to the pixel are drawn once.
            let same =
                |rgb: Rgb| -> (Rgb, Vec<i32>) { (rgb, pieces.iter().flatten().map(|p| (p.1 * 4.0) as i32).collect()) };
            if all > MANY && !seen.insert(same(rgb)) {
                continue;
            }
            line(&pieces, Look { rgb, ..look }, width, canvas)?;
        }
    }
    axes(panel.data, frame, canvas)
}

fn line<DB: DrawingBackend>(pieces: &[Vec<Point>], look: Look, width: f64, canvas: &mut Canvas<DB>) -> Result<()> {
    for piece in pieces {
        match piece[..] {
            [alone] => canvas.marker(Marker::Circle, alone, width * 1.4, (look.rgb, 1.0))?,
            _ => canvas.path(piece, Pen { rgb: look.rgb, width, dash: look.dash })?,
        }
    }
    Ok(())
}

/// Over the lines, so that labels can be read: left of their axis, but right of the last.
fn axes<DB: DrawingBackend>(data: &Data, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let em = frame.tick_type(Align::End).em;
    let apart = (frame.right - frame.left) / data.axes.len().saturating_sub(1).max(1) as f64;
    let lines = frame.upright.unwrap_or(1);
    let (before, after, _) = room(data, 0.0, em);
    for (i, axis) in data.axes.iter().enumerate() {
        let x = frame.px(i as f64);
        let (first, last) = (i == 0, i > 0 && i + 1 == data.axes.len());
        canvas.rule_down(x, frame.top, frame.bottom, SOFT_INK)?;
        for tick in axis.ticks(frame.bottom - frame.top, em) {
            let room = if first || last { em * NAME_EMS } else { (apart - em * 0.8).max(em) };
            // A number that is cut would be another number.
            let fits = !axis.names.is_empty() || text_width(&tick.label, em) <= room;
            let label = if fits { fit(&tick.label, em, room) } else { String::new() };
            let y = height(frame, &axis.scale, tick.value);
            tick_label(&label, (x, y), last, frame, canvas)?;
        }
        // With two lines of titles every other one is in the upper.
        let up = if lines > 1 && i % 2 == 1 { em * 1.5 } else { 0.0 };
        let title = fit(&axis.label, em, apart * lines as f64 - em);
        let half = text_width(&title, em) / 2.0;
        let middle = x.min(frame.right + after - half).max(frame.left - before + half);
        canvas.text(
            &title,
            (middle, frame.top - em * 0.7 - up),
            Type { rgb: INK, ..frame.tick_type(Align::Middle) },
        )?;
    }
    Ok(())
}

/// On a little paper, through which the lines below can be guessed.
fn tick_label<DB: DrawingBackend>(
    label: &str,
    (x, y): Point,
    behind: bool,
    frame: &Frame,
    canvas: &mut Canvas<DB>,
) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    let kind = frame.tick_type(if behind { Align::Start } else { Align::End });
    let (em, side) = (kind.em, if behind { 1.0 } else { -1.0 });
    let (near, far) = (x + side * em * 0.4, x + side * (em * 0.65 + text_width(label, em)));
    let corners = [(near, y - em * 0.6), (far, y - em * 0.6), (far, y + em * 0.6), (near, y + em * 0.6)];
    canvas.polygon(&corners, PAPER, 0.82)?;
    canvas.rule_across(y, x, x + side * em * 0.35, SOFT_INK)?;
    canvas.text(label, (x + side * em * 0.5, y + em * 0.34), kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ChartKind;

    fn chart(rows: &[[f64; 3]], values: Vec<f64>) -> Chart {
        let axis = |label: &str, names: &[&str]| ChartAxis {
            label: label.into(),
            names: names.iter().map(|n| n.to_string()).collect(),
        };
        let tuples = rows.iter().map(|r| r.to_vec()).collect();
        Chart {
            kind: ChartKind::Parallel,
            axes: vec![axis("rate", &[]), axis("router", &["a", "b"]), axis("cost", &[])],
            series: vec![Series { tuples, values, ..Series::default() }],
            ..Chart::default()
        }
    }

    #[test]
    fn between_whole_numbers_there_is_nothing() {
        let upright = |values: &[f64]| Upright::new(&ChartAxis::default(), values.iter().copied());
        let labels =
            |values: &[f64]| upright(values).ticks(400.0, 12.0).into_iter().map(|t| t.label).collect::<Vec<_>>();
        assert_eq!(labels(&[1.0, 2.0]), ["1", "2"]);
        assert_eq!(labels(&[4.0, 4.0, 8.0]).first().map(String::as_str), Some("4"));
        assert!(labels(&[1.0, 1.5]).len() > 3);
    }

    #[test]
    fn axes_are_logarithmic_where_the_values_span_much() {
        let scales =
            |rows: &[[f64; 3]]| Data::new(&chart(rows, Vec::new())).axes.iter().map(|a| a.scale).collect::<Vec<_>>();
        let found = scales(&[[1.0, 0.0, 1.0], [101.0, 1.0, 100.0]]);
        assert!(matches!(found[..], [Scale::Log { .. }, Scale::Slots(2), Scale::Linear { .. }]), "{found:?}");
        // Zero has no place on a logarithmic axis.
        let found = scales(&[[0.0, 0.0, -1.0], [1e6, 1.0, 1e6]]);
        assert!(matches!(found[..], [Scale::Linear { .. }, _, Scale::Linear { .. }]), "{found:?}");
        // A constant is in the middle of its axis, and an axis without values has no ticks.
        let data = Data::new(&chart(&[[7.0, 0.0, f64::NAN], [7.0, 1.0, f64::INFINITY]], Vec::new()));
        let middle = data.axes[0].scale.unit(7.0);
        assert!((0.2..0.8).contains(&middle), "{middle}");
        assert!(data.axes[2].ticks(100.0, 10.0).is_empty() && !data.axes[0].ticks(100.0, 10.0).is_empty());
        assert_eq!(data.notes, ["2 rows with gaps: no number on some axis"]);
    }

    #[test]
    fn rows_without_numbers_are_counted() {
        let nothing = [f64::NAN, f64::NAN, f64::NAN];
        let rows = [[1.0, 0.0, 1.0], nothing, [2.0, 9.0, 1.0], [2.0, 1.0, 3.0]];
        let data = Data::new(&chart(&rows, vec![1.0, 2.0, f64::NAN, 5.0]));
        assert_eq!((data.tuples[0].len(), data.values[0].len()), (3, 3));
        assert_eq!(data.range, Some((1.0, 5.0)));
        assert_eq!(
            data.notes,
            [
                "1 row without a number not drawn",
                "1 row with gaps: no number on some axis",
                "1 row in grey: no number for their colour"
            ]
        );
    }
}
