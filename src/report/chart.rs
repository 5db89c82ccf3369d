//! A chart and its two renderings.
//!
//! Both formats are drawn on a grid finer than the picture's pixels: the SVG keeps the fine coordinates in its view
//! box, the PNG averages them, which is what smooths its edges.

use std::path::Path;

use plotters::prelude::{BitMapBackend, DrawingBackend, SVGBackend};

use super::canvas::{Canvas, Medium, drawn, register_fonts};
use super::data::Data;
use super::layout::Layout;
use super::{axis, frame, hover, marks};
use crate::diag::Result;

/// How the points are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChartKind {
    /// Points in the order of x, joined by a line.
    #[default]
    Line,
    /// Points in their own order, joined by a line.
    Path,
    Scatter,
    /// A group of bars per x, one bar per series.
    Bar,
    /// The empirical distribution of x; y of the points is ignored.
    Cdf,
    /// A value holds from its point until the next one.
    Step,
    /// Series on top of each other; where one has no value it counts as 0.
    Area,
    /// How many x fall into each of equal bins, of all series together; y of the points is ignored.
    Histogram,
    /// Of the y of each x: half of them in a box, the median in it, and 5 to 95 % on a line.
    Box,
    /// A cell per x and y, with the colour of its value.
    Heat,
    /// A line per row across upright axes.
    Parallel,
    /// Bars from x to an end, in the row y.
    Span,
}

impl ChartKind {
    /// Only x of the points matters.
    pub(super) fn is_distribution(self) -> bool {
        matches!(self, ChartKind::Cdf | ChartKind::Histogram)
    }

    /// Numbers on the horizontal axis stand side by side, as names do.
    pub(super) fn has_slots(self) -> bool {
        matches!(self, ChartKind::Bar | ChartKind::Box | ChartKind::Heat)
    }
}

/// A line across the plot that the data are held against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    pub value: f64,
    /// Written on it.
    pub label: String,
    /// It stands at a place of the horizontal axis.
    pub upright: bool,
}

/// Where an axis begins and ends, if not where its data do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Limits {
    /// A range that has one of them, to begin an axis with where there are no data.
    pub(super) fn around(self) -> Option<(f64, f64)> {
        self.low.or(self.high).map(|v| (v, v))
    }
}

/// An upright axis of a [`ChartKind::Parallel`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChartAxis {
    pub label: String,
    /// Of an axis of names: values are indices into them. Empty: numbers, on a logarithmic axis where all are positive
    /// and the largest is more than 100 times the smallest.
    pub names: Vec<String>,
}

/// What to draw. Texts may be empty: they take no space then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    pub kind: ChartKind,
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub x_log: bool,
    pub y_log: bool,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What tells the series apart; stands before the legend.
    pub legend: String,
    pub series: Vec<Series>,
    /// Names on the horizontal axis. Where given, x of a point is an index into them. Bars without categories have one
    /// per distinct x. A distribution has none.
    pub categories: Option<Vec<String>>,
    /// Names of the rows of a [`ChartKind::Heat`], from below, or of a [`ChartKind::Span`], from above; y of a point is an
    /// index into them. Without names there is a row per distinct y: in the order of numbers, or of a span's points.
    pub rows: Vec<String>,
    /// Of a [`ChartKind::Heat`]: values on both sides of it have colours of their own.
    pub middle: Option<f64>,
    /// Of a [`ChartKind::Parallel`].
    pub axes: Vec<ChartAxis>,
    /// Of axes of numbers, positive on logarithmic ones. What lies outside is not drawn, and counted in a note.
    pub x_limits: Limits,
    pub y_limits: Limits,
    /// Names of the plots that the chart is cut into, with the same axes and one legend; empty: one plot.
    pub facets: Vec<String>,
    /// What tells the facets apart: stands before their names.
    pub facet_label: String,
    /// Facets side by side; 0: about as many as there are rows of them.
    pub facet_columns: usize,
    pub rules: Vec<Rule>,
    /// Of a [`ChartKind::Histogram`]; 0 is 40.
    pub bins: usize,
    /// Stands under the picture: what it shows, and of what.
    pub caption: String,
    /// Light on dark.
    pub dark: bool,
}

/// Points that share a colour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Shown in the legend; a single series without a name has no legend.
    pub name: String,
    /// `(x, y)`; NaN stands for NULL.
    pub points: Vec<(f64, f64)>,
    /// What the points of a [`ChartKind::Heat`], or the rows of a [`ChartKind::Parallel`], are coloured by; else empty.
    pub values: Vec<f64>,
    /// Where the points of a [`ChartKind::Span`] end on the horizontal axis; else empty.
    pub ends: Vec<f64>,
    /// Written beside the points of a [`ChartKind::Scatter`] where there is room; or empty.
    pub labels: Vec<String>,
    /// Rows of a [`ChartKind::Parallel`], a value for each of its axes, instead of points; NaN stands for NULL.
    pub tuples: Vec<Vec<f64>>,
    /// The facet of each point or row, an index into [`Chart::facets`]; empty: all are in the first.
    pub facets: Vec<usize>,
}

impl Series {
    fn is_empty(&self) -> bool {
        self.points.is_empty() && self.tuples.is_empty()
    }
}

impl Chart {
    /// Pixels that the chart should be high when nobody says: 600, or what its facets and the rows of a
    /// [`ChartKind::Span`] need, up to 2400.
    pub fn natural_height(&self) -> u32 {
        let (_, down) = frame::grid(self);
        let down = u32::try_from(down).unwrap_or(u32::MAX);
        let rows = if self.kind == ChartKind::Span { u32::try_from(self.rows.len()).unwrap_or(u32::MAX) } else { 0 };
        let plot = rows.saturating_mul(18).saturating_add(40).max(230);
        let least = if down == 1 && self.facets.len() > 1 { 440 } else { 600 };
        down.saturating_mul(plot).saturating_add(140).clamp(least, 2400)
    }
}

/// Steps of the fine grid per pixel in an SVG.
const SVG_STEPS: u32 = 4;

/// Pixels of the fine grid of a PNG at most, while it is finer than the picture: 3 bytes each.
const RASTER_PIXELS: u64 = 36_000_000;

/// The chart as an SVG document.
///
/// # Errors
/// The font cannot be used.
pub fn svg(chart: &Chart) -> Result<String> {
    let (width, height) = (chart.width.max(1), chart.height.max(1));
    let fine = (width * SVG_STEPS, height * SVG_STEPS);
    let mut text = String::new();
    let mut backend = SVGBackend::with_string(&mut text, fine);
    draw(chart, &mut Canvas::new(&mut backend, SVG_STEPS, Medium::SVG, chart.dark))?;
    drawn(backend.present())?;
    drop(backend);
    let data = Data::new(chart);
    let shapes = hover::shapes(chart, &data, &Layout::new(chart, &data).frames, f64::from(SVG_STEPS));
    let text = match text.rfind("</svg>") {
        Some(end) => format!("{}{shapes}{}", &text[..end], &text[end..]),
        None => text,
    };
    // The view box stays on the fine grid, the size is that of the picture.
    let wide = format!("width=\"{}\" height=\"{}\"", fine.0, fine.1);
    // Lines whose colours say a value would be lost on dark paper, and what is dark is so already.
    let paper = if chart.dark || chart.kind == ChartKind::Parallel { " data-paper=\"own\"" } else { "" };
    let text = text.replacen(&wide, &format!("width=\"{width}\" height=\"{height}\"{paper}"), 1);
    Ok(if text.contains(no_xml) { text.replace(no_xml, "\u{fffd}") } else { text })
}

/// What XML has no place for, not even escaped.
fn no_xml(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{7f}') || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Writes the chart as a PNG. `path` must end in `.png`.
///
/// # Errors
/// The file cannot be written.
pub fn png(chart: &Chart, path: &Path) -> Result<()> {
    let size = (chart.width.max(1), chart.height.max(1));
    let steps = raster_steps(size);
    let fine = (size.0 * steps, size.1 * steps);
    let mut pixels = vec![255; fine.0 as usize * fine.1 as usize * 3];
    {
        let mut backend = BitMapBackend::with_buffer(&mut pixels, fine);
        draw(chart, &mut Canvas::new(&mut backend, steps, Medium::RASTER, chart.dark))?;
        drawn(backend.present())?;
    }
    let mut file = BitMapBackend::new(path, size);
    drawn(file.blit_bitmap((0, 0), size, &shrink(&pixels, size, steps as usize)))?;
    drawn(file.present())
}

/// The mean of every square of `steps` times `steps` pixels.
fn shrink(fine: &[u8], (width, height): (u32, u32), steps: usize) -> Vec<u8> {
    let row = width as usize * 3 * steps;
    let count = (steps * steps) as u32;
    let mut out = Vec::with_capacity(width as usize * height as usize * 3);
    let mut sums = vec![0u32; width as usize * 3];
    for rows in fine.chunks_exact(row * steps) {
        sums.fill(0);
        for line in rows.chunks_exact(row) {
            for (sum, square) in sums.chunks_exact_mut(3).zip(line.chunks_exact(3 * steps)) {
                for pixel in square.chunks_exact(3) {
                    sum[0] += u32::from(pixel[0]);
                    sum[1] += u32::from(pixel[1]);
                    sum[2] += u32::from(pixel[2]);
                }
            }
        }
        out.extend(sums.iter().map(|sum| ((sum + count / 2) / count) as u8));
    }
    out
}

/// The finest grid that a picture of this size can afford, at most 4 steps per pixel.
fn raster_steps((width, height): (u32, u32)) -> u32 {
    let fits = |steps: &u32| u64::from(width) * u64::from(height) * u64::from(steps * steps) <= RASTER_PIXELS;
    (2..=4).rev().find(fits).unwrap_or(1)
}

fn draw<DB: DrawingBackend>(chart: &Chart, canvas: &mut Canvas<DB>) -> Result<()> {
    register_fonts()?;
    let data = Data::new(chart);
    let layout = Layout::new(chart, &data);
    axis::paper((f64::from(chart.width.max(1)), f64::from(chart.height.max(1))), canvas)?;
    layout.draw_texts(canvas)?;
    let limited = chart.x_limits != Limits::default() || chart.y_limits != Limits::default();
    for (frame, panel) in layout.frames.iter().zip(data.panels()) {
        axis::draw(frame, canvas)?;
        canvas.clip(limited.then_some(((frame.left, frame.top), (frame.right, frame.bottom))));
        marks::draw(&panel, frame, canvas)?;
        canvas.clip(None);
        marks::rules(&chart.rules, frame, canvas)?;
        if panel.is_empty() {
            // Rows that cannot be drawn are counted above.
            let text = if chart.series.iter().all(Series::is_empty) { "no rows" } else { "nothing to draw" };
            axis::empty(text, frame, canvas)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
