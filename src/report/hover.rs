//! Values that a browser shows when the pointer rests on them: invisible shapes over the data, each with a title.

use std::fmt::Write as _;

use super::chart::{Chart, ChartKind};
use super::data::Data;
use super::layout::Layout;
use super::number::number;

/// With more values than this the picture would be larger than what it shows.
const MANY: usize = 3_000;

/// The shapes, in the coordinates of a picture that is `steps` times finer than its pixels. Empty where there are too many.
pub(super) fn shapes(chart: &Chart, data: &Data, layout: &Layout, steps: f64) -> String {
    if data.series.iter().map(Vec::len).sum::<usize>() > MANY {
        return String::new();
    }
    let mut text = String::from("<g fill=\"#000\" fill-opacity=\"0\" stroke=\"none\">\n");
    let at = |pixels: f64| libm::round(pixels * steps) as i64;
    let slot = |names: &Option<Vec<String>>, v: f64| match names {
        Some(names) => names.get(v as usize).cloned().unwrap_or_default(),
        None => number(v),
    };
    let x_of = |x: f64| slot(&data.slots, x);
    let axis = |label: &str, value: String| if label.is_empty() { value } else { format!("{label}: {value}") };
    let mut rect = |(left, top): (f64, f64), (right, bottom): (f64, f64), title: &str| {
        let (left, right) = (at(left.min(right)), at(left.max(right)));
        let (top, bottom) = (at(top.min(bottom)), at(top.max(bottom)));
        let _ = writeln!(
            text,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
            (right - left).max(1),
            (bottom - top).max(1),
            escaped(title),
        );
    };
    let across = layout.right - layout.left;
    let slots = data.slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
    let foot = layout.py(layout.y.foot());
    let near = 6.0 * layout.size;
    for (i, points) in data.series.iter().enumerate() {
        let name = chart.series.get(i).map(|s| s.name.as_str()).unwrap_or_default();
        let said = |parts: Vec<String>| {
            let parts: Vec<String> = [name.to_string()].into_iter().chain(parts).filter(|p| !p.is_empty()).collect();
            parts.join("\n")
        };
        let wide = across / slots / data.series.len().max(1) as f64;
        let beside = |x: f64| layout.px(x) + wide * (i as f64 - (data.series.len() as f64 - 1.0) / 2.0);
        match chart.kind {
            ChartKind::Bar => points.iter().for_each(|&(x, y)| {
                let title = said(vec![axis(&chart.x_label, x_of(x)), axis(&chart.y_label, number(y))]);
                rect((beside(x) - wide / 2.0, layout.py(y)), (beside(x) + wide / 2.0, foot), &title);
            }),
            ChartKind::Box => points.chunks_exact(5).for_each(|five| {
                let q = |k: usize, what: &str| format!("{what} {}", number(five[k].1));
                let title = said(vec![
                    axis(&chart.x_label, x_of(five[0].0)),
                    [q(4, "95 %"), q(3, "75 %"), q(2, "median"), q(1, "25 %"), q(0, "5 %")].join("\n"),
                ]);
                let (left, right) = (beside(five[0].0) - wide / 2.0, beside(five[0].0) + wide / 2.0);
                rect((left, layout.py(five[4].1)), (right, layout.py(five[0].1)), &title);
            }),
            ChartKind::Histogram => points.chunks_exact(2).filter(|bin| bin[0].1 > 0.0).for_each(|bin| {
                let title = said(vec![
                    axis(&chart.x_label, format!("{} to {}", number(bin[0].0), number(bin[1].0))),
                    axis(&chart.y_label, number(bin[0].1)),
                ]);
                rect((layout.px(bin[0].0), layout.py(bin[0].1)), (layout.px(bin[1].0), layout.bottom), &title);
            }),
            ChartKind::Heat => {
                let rows = data.row_slots.as_ref().map_or(1, |s| s.len().max(1)) as f64;
                let (w, h) = (across / slots / 2.0, (layout.bottom - layout.top) / rows / 2.0);
                let values = data.values.get(i).map(Vec::as_slice).unwrap_or_default();
                for ((x, y), value) in points.iter().zip(values) {
                    let title = said(vec![
                        axis(&chart.x_label, x_of(*x)),
                        axis(&chart.y_label, slot(&data.row_slots, *y)),
                        axis(&chart.legend, number(*value)),
                    ]);
                    let (cx, cy) = (layout.px(*x), layout.py(*y));
                    rect((cx - w, cy - h), (cx + w, cy + h), &title);
                }
            }
            ChartKind::Line | ChartKind::Scatter | ChartKind::Cdf | ChartKind::Step | ChartKind::Area => {
                points.iter().enumerate().for_each(|(k, &(x, y))| {
                    // What is stacked is told by itself.
                    let below = if i == 0 { 0.0 } else { data.series[i - 1].get(k).map_or(0.0, |p| p.1) };
                    let own = if chart.kind == ChartKind::Area { y - below } else { y };
                    let title = said(vec![axis(&chart.x_label, x_of(x)), axis(&chart.y_label, number(own))]);
                    let (cx, cy) = (layout.px(x), layout.py(y));
                    rect((cx - near, cy - near), (cx + near, cy + near), &title);
                });
            }
        }
    }
    text + "</g>\n"
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
