//! Values that a browser shows when the pointer rests on them: invisible shapes over the data, each with a title.

use std::fmt::Write as _;

use super::canvas::Point;
use super::chart::{Chart, ChartKind};
use super::data::{Data, Panel};
use super::frame::Frame;
use super::number::number;
use super::{clip, parallel, span};

/// With more values than this the picture would be larger than what it shows.
const MANY: usize = 3_000;

/// The shapes, in the coordinates of a picture that is `steps` times finer than its pixels. Empty where there are too many.
pub(super) fn shapes(chart: &Chart, data: &Data, frames: &[Frame], steps: f64) -> String {
    let points: usize = data.series.iter().map(Vec::len).sum();
    let values: usize = data.tuples.iter().flatten().map(Vec::len).sum();
    if points + values > MANY {
        return String::new();
    }
    let mut shapes = Shapes { text: String::from("<g fill=\"#000\" fill-opacity=\"0\" stroke=\"none\">\n"), steps };
    for (panel, frame) in data.panels().zip(frames) {
        match chart.kind {
            ChartKind::Parallel => lines(chart, &panel, frame, &mut shapes),
            ChartKind::Span => spans(chart, &panel, frame, &mut shapes),
            ChartKind::Bar | ChartKind::Box | ChartKind::Histogram | ChartKind::Heat => {
                areas(chart, &panel, frame, &mut shapes);
            }
            ChartKind::Line
            | ChartKind::Path
            | ChartKind::Scatter
            | ChartKind::Cdf
            | ChartKind::Step
            | ChartKind::Area => {
                points_of(chart, &panel, frame, &mut shapes);
            }
        }
    }
    shapes.text + "</g>\n"
}

/// SVG that grows.
struct Shapes {
    text: String,
    steps: f64,
}

impl Shapes {
    fn at(&self, pixels: f64) -> i64 {
        libm::round(pixels * self.steps) as i64
    }

    fn rect(&mut self, (left, top): Point, (right, bottom): Point, title: &str) {
        let (left, right) = (self.at(left.min(right)), self.at(left.max(right)));
        let (top, bottom) = (self.at(top.min(bottom)), self.at(top.max(bottom)));
        let _ = writeln!(
            self.text,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
            (right - left).max(1),
            (bottom - top).max(1),
            escaped(title),
        );
    }

    /// A line that is `wide` pixels thick to the pointer.
    fn line(&mut self, points: &[Point], wide: f64, title: &str) {
        let points: Vec<String> = points.iter().map(|p| format!("{},{}", self.at(p.0), self.at(p.1))).collect();
        let _ = writeln!(
            self.text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#000\" stroke-opacity=\"0\" stroke-width=\"{}\"><title>{}</title></polyline>",
            points.join(" "),
            self.at(wide),
            escaped(title),
        );
    }
}

fn axis(label: &str, value: String) -> String {
    if label.is_empty() { value } else { format!("{label}: {value}") }
}

fn slot(names: &Option<Vec<String>>, v: f64) -> String {
    match names {
        Some(names) => names.get(v as usize).cloned().unwrap_or_default(),
        None => number(v),
    }
}

/// A title of the parts that say something, the name of the series first.
fn said(chart: &Chart, series: usize, parts: Vec<String>) -> String {
    let name = chart.series.get(series).map(|s| s.name.clone()).unwrap_or_default();
    let parts: Vec<String> = [name].into_iter().chain(parts).filter(|p| !p.is_empty()).collect();
    parts.join("\n")
}

/// Of marks that have a width.
fn areas(chart: &Chart, panel: &Panel, frame: &Frame, shapes: &mut Shapes) {
    let data = panel.data;
    let x_of = |x: f64| axis(&chart.x_label, slot(&data.slots, x));
    let across = frame.right - frame.left;
    let slots = data.slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let (foot, window) = (frame.py(frame.y.foot()), ((frame.left, frame.top), (frame.right, frame.bottom)));
    let wide = across / slots / panel.series.len().max(1) as f64;
    for (i, points) in panel.series.iter().enumerate() {
        let beside = |x: f64| frame.px(x) + wide * (i as f64 - (panel.series.len() as f64 - 1.0) / 2.0);
        let mut rect = |from: Point, to: Point, parts: Vec<String>| {
            if let Some((from, to)) = clip::rect((from, to), window) {
                shapes.rect(from, to, &said(chart, i, parts));
            }
        };
        match chart.kind {
            ChartKind::Bar => points.iter().for_each(|&(x, y)| {
                // A bar of no height is found too.
                let top = if (frame.py(y) - foot).abs() < 1.0 { foot - 1.0 } else { frame.py(y) };
                let parts = vec![x_of(x), axis(&chart.y_label, number(y))];
                rect((beside(x) - wide / 2.0, top), (beside(x) + wide / 2.0, foot), parts);
            }),
            ChartKind::Box => points.chunks_exact(5).for_each(|five| {
                let q = |k: usize, what: &str| format!("{what} {}", number(five[k].1));
                let quantiles = [q(4, "95 %"), q(3, "75 %"), q(2, "median"), q(1, "25 %"), q(0, "5 %")].join("\n");
                let (left, right) = (beside(five[0].0) - wide / 2.0, beside(five[0].0) + wide / 2.0);
                let (top, bottom) = (frame.py(five[4].1) - 0.5, frame.py(five[0].1) + 0.5);
                rect((left, top), (right, bottom), vec![x_of(five[0].0), quantiles]);
            }),
            ChartKind::Histogram => points.chunks_exact(2).filter(|bin| bin[0].1 > 0.0).for_each(|bin| {
                let edges = format!("{} to {}", number(bin[0].0), number(bin[1].0));
                let parts = vec![axis(&chart.x_label, edges), axis(&chart.y_label, number(bin[0].1))];
                rect((frame.px(bin[0].0), frame.py(bin[0].1)), (frame.px(bin[1].0), frame.bottom), parts);
            }),
            _ => {
                let rows = data.row_slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
                let (w, h) = (across / slots / 2.0, (frame.bottom - frame.top) / rows / 2.0);
                let values = panel.values.get(i).map(Vec::as_slice).unwrap_or_default();
                for ((x, y), value) in points.iter().zip(values) {
                    let row = axis(&chart.y_label, slot(&data.row_slots, *y));
                    let parts = vec![x_of(*x), row, axis(&chart.legend, number(*value))];
                    let (cx, cy) = (frame.px(*x), frame.py(*y));
                    rect((cx - w, cy - h), (cx + w, cy + h), parts);
                }
            }
        }
    }
}

fn points_of(chart: &Chart, panel: &Panel, frame: &Frame, shapes: &mut Shapes) {
    let near = 6.0 * frame.size;
    let window = ((frame.left, frame.top), (frame.right, frame.bottom));
    for (i, points) in panel.series.iter().enumerate() {
        for (k, &(x, y)) in points.iter().enumerate() {
            let (cx, cy) = (frame.px(x), frame.py(y));
            if !clip::holds((cx, cy), window) {
                continue;
            }
            // What is stacked is told by itself.
            let below = if i == 0 { 0.0 } else { panel.series[i - 1].get(k).map_or(0.0, |p| p.1) };
            let own = if chart.kind == ChartKind::Area { y - below } else { y };
            let label = panel.labels.get(i).and_then(|l| l.get(k)).cloned().unwrap_or_default();
            let x = axis(&chart.x_label, slot(&panel.data.slots, x));
            let title = said(chart, i, vec![label, x, axis(&chart.y_label, number(own))]);
            shapes.rect((cx - near, cy - near), (cx + near, cy + near), &title);
        }
    }
}

fn lines(chart: &Chart, panel: &Panel, frame: &Frame, shapes: &mut Shapes) {
    for (i, rows) in panel.tuples.iter().enumerate() {
        let values = panel.values.get(i).map(Vec::as_slice).unwrap_or_default();
        for (k, row) in rows.iter().enumerate() {
            let known = panel.data.axes.iter().zip(row).filter(|(_, v)| !v.is_nan());
            let value = values.get(k).filter(|v| !v.is_nan()).map(|v| axis(&chart.legend, number(*v)));
            let parts = known.map(|(a, v)| axis(&a.label, a.text(*v))).chain(value).collect();
            let title = said(chart, i, parts);
            for piece in parallel::pieces(panel, frame, row) {
                shapes.line(&piece, 8.0 * frame.size, &title);
            }
        }
    }
}

fn spans(chart: &Chart, panel: &Panel, frame: &Frame, shapes: &mut Shapes) {
    let window = ((frame.left, frame.top), (frame.right, frame.bottom));
    for (i, (points, ends)) in panel.series.iter().zip(panel.ends).enumerate() {
        for (point, end) in points.iter().zip(ends) {
            let (from, to) = span::place(panel, frame, *point, *end);
            let Some((from, to)) = clip::rect((from, to), window) else { continue };
            let times = format!("{} to {}", number(point.0), number(*end));
            let length = format!("length: {}", number(end - point.0));
            let row = axis(&chart.y_label, slot(&panel.data.row_slots, point.1));
            shapes.rect(from, to, &said(chart, i, vec![row, axis(&chart.x_label, times), length]));
        }
    }
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
