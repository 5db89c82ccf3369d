//! A chart and its two renderings.
//!
//! Both formats are drawn on a grid finer than the picture's pixels: the SVG keeps the fine coordinates in its view
//! box, the PNG averages them, which is what smooths its edges.

use std::path::Path;

use plotters::prelude::{BitMapBackend, DrawingBackend, SVGBackend};

use super::canvas::{Canvas, Medium, drawn, register_fonts};
use super::data::Data;
use super::layout::Layout;
use super::{axis, hover, marks};
use crate::diag::Result;

/// How the points are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChartKind {
    /// Points in the order of x, joined by a line.
    #[default]
    Line,
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
    /// Names of the rows of a [`ChartKind::Heat`], from below; y of a point is an index into them.
    pub rows: Vec<String>,
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
    /// What the points of a [`ChartKind::Heat`] are coloured by; else empty.
    pub values: Vec<f64>,
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
    let shapes = hover::shapes(chart, &data, &Layout::new(chart, &data), f64::from(SVG_STEPS));
    let text = match text.rfind("</svg>") {
        Some(end) => format!("{}{shapes}{}", &text[..end], &text[end..]),
        None => text,
    };
    // The view box stays on the fine grid, the size is that of the picture.
    let wide = format!("width=\"{}\" height=\"{}\"", fine.0, fine.1);
    Ok(text.replacen(&wide, &format!("width=\"{width}\" height=\"{height}\""), 1))
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
    for rows in fine.chunks_exact(row * steps) {
        for x in 0..width as usize {
            for channel in 0..3 {
                let square =
                    rows.chunks_exact(row).flat_map(|r| r[x * steps * 3 + channel..].iter().step_by(3).take(steps));
                let sum: u32 = square.map(|v| u32::from(*v)).sum();
                out.push(((sum + count / 2) / count) as u8);
            }
        }
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
    axis::draw(&layout, canvas)?;
    marks::draw(chart.kind, &data, &layout, canvas)?;
    marks::rules(&chart.rules, &layout, canvas)?;
    if data.is_empty() {
        layout.draw_empty(canvas)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
