//! Where everything goes: title, notes, legend and labels around the plots, so that nothing hides the data.

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Pen, Point, Type, fit, text_width};
use super::chart::{Chart, ChartKind};
use super::data::Data;
use super::frame::{Area, Frame, LABEL, SMALL, frames};
use super::number::number;
use super::palette::{INK, Look, Rgb, SOFT_INK, look};
use crate::diag::Result;

/// Sizes of letters in a picture of 960 x 600 pixels.
pub(super) const TITLE: f64 = 19.0;
const CAPTION: f64 = 11.0;

/// Longer names in the legend are cut to the first of these widths, in letters' sizes, with which all have room.
const NAME_EMS: [f64; 3] = [40.0, 26.0, 16.0];

/// The places of everything.
pub(super) struct Layout {
    pub frames: Vec<Frame>,
    /// What is left for the plots.
    area: Area,
    texts: Vec<(String, Point, Type)>,
    swatches: Vec<Swatch>,
    /// Corners and colours of the bar that tells values by colour.
    ramp: Option<((Point, Point), Vec<Rgb>)>,
    /// What the caption takes.
    foot: f64,
    kind: ChartKind,
}

/// The sample of a series in the legend.
struct Swatch {
    look: Look,
    from: Point,
    width: f64,
}

/// The legend as it would be with names of some width.
#[derive(Default)]
struct Legend {
    texts: Vec<(String, Point, Type)>,
    swatches: Vec<Swatch>,
    /// Every series is in it.
    complete: bool,
    bottom: f64,
}

impl Layout {
    pub fn new(chart: &Chart, data: &Data) -> Layout {
        let (width, height) = (f64::from(chart.width.max(1)), f64::from(chart.height.max(1)));
        let size = (width / 960.0).min(height / 600.0).sqrt().clamp(0.55, 3.0);
        let pad = 16.0 * size;
        let area = Area {
            size,
            width,
            height,
            left: pad,
            right: (width - pad - 8.0 * size).max(width * 0.6),
            top: pad,
            bottom: (height - pad).max(height * 0.6),
        };
        let mut layout = Layout {
            frames: Vec::new(),
            area,
            texts: Vec::new(),
            swatches: Vec::new(),
            ramp: None,
            foot: 0.0,
            kind: chart.kind,
        };
        layout.head(chart, data);
        layout.caption(chart);
        (layout.frames, layout.area) = frames(chart, data, layout.area);
        layout.axis_labels(chart);
        layout
    }

    /// Title, notes and legend, from the top downwards.
    fn head(&mut self, chart: &Chart, data: &Data) {
        let (room, height) = (self.area.right - self.area.left, self.area.height);
        if !chart.title.is_empty() {
            self.line(fit(&chart.title, TITLE * self.area.size, room), TITLE, INK);
        }
        if !data.notes.is_empty() {
            self.line(fit(&data.notes.join("; "), SMALL * self.area.size, room), SMALL, SOFT_INK);
        }
        if let Some(range) = data.range {
            self.value_legend(chart, data, range);
        } else if chart.series.len() > 1 || chart.series.iter().any(|s| !s.name.is_empty()) {
            self.legend(chart, (height * 0.3 - self.area.top).max(0.0));
        }
        self.area.top = (self.area.top + 8.0 * self.area.size).min(height * 0.5);
    }

    /// From the lowest value to the highest.
    fn value_legend(&mut self, chart: &Chart, data: &Data, (low, high): (f64, f64)) {
        let em = SMALL * self.area.size;
        let y = self.area.top + em;
        let mut x = self.area.left;
        let mut say = |layout: &mut Layout, text: String, rgb: Rgb| {
            let wide = text_width(&text, em);
            layout.texts.push((text, (x, y), kind(em, rgb, Align::Start)));
            x += wide + em * 0.6;
            x
        };
        if !chart.legend.is_empty() {
            say(self, fit(&chart.legend, em, em * 26.0), SOFT_INK);
        }
        let from = say(self, number(low), INK);
        let wide = em * 9.0;
        const COLOURS: usize = 64;
        let colours = (0..COLOURS).map(|i| data.colour_at((i as f64 + 0.5) / COLOURS as f64)).collect();
        self.ramp = Some((((from, y - em * 0.75), (from + wide, y + em * 0.05)), colours));
        self.texts.push((number(high), (from + wide + em * 0.6, y), kind(em, INK, Align::Start)));
        self.area.top = y + em * 0.6;
    }

    /// The line under the picture.
    fn caption(&mut self, chart: &Chart) {
        if chart.caption.is_empty() {
            return;
        }
        let em = CAPTION * self.area.size;
        let text = fit(&chart.caption, em, self.area.right - self.area.left);
        self.texts.push((
            text,
            (self.area.left, self.area.height - 8.0 * self.area.size),
            kind(em, SOFT_INK, Align::Start),
        ));
        self.area.bottom -= em * 1.2;
        self.foot = em * 1.2;
    }

    /// A line of text under what is there.
    fn line(&mut self, text: String, em: f64, rgb: Rgb) {
        let em = em * self.area.size;
        self.texts.push((text, (self.area.left, self.area.top + em * 0.85), kind(em, rgb, Align::Start)));
        self.area.top += em * 1.5;
    }

    /// The series side by side, in as many rows as they need and `tall` permits.
    fn legend(&mut self, chart: &Chart, tall: f64) {
        let mut last = Legend::default();
        for ems in NAME_EMS {
            last = self.packed_legend(chart, tall, ems);
            if last.complete {
                break;
            }
        }
        self.texts.append(&mut last.texts);
        self.swatches.append(&mut last.swatches);
        self.area.top = last.bottom;
    }

    fn packed_legend(&self, chart: &Chart, tall: f64, ems: f64) -> Legend {
        let em = SMALL * self.area.size;
        let (row, sample, gap) = (em * 1.6, em * 1.9, em * 0.5);
        let rows = ((tall / row) as usize).max(1);
        let rest_room = text_width("+999 more", em) + gap;
        let mut legend = Legend { complete: true, ..Legend::default() };
        let (mut x, mut y, mut used) = (self.area.left, self.area.top + em, 1);
        if !chart.legend.is_empty() {
            let title = fit(&chart.legend, em, em * ems);
            let w = text_width(&title, em);
            legend.texts.push((title, (x, y), kind(em, SOFT_INK, Align::Start)));
            x += w + em * 1.3;
        }
        for (i, series) in chart.series.iter().enumerate() {
            let name = fit(&series.name, em, em * ems);
            let wide = sample + gap + text_width(&name, em);
            let reserve = if used == rows && i + 1 < chart.series.len() { rest_room } else { 0.0 };
            if x + wide + reserve > self.area.right && x > self.area.left {
                if used == rows {
                    let rest = format!("+{} more", chart.series.len() - i);
                    legend.texts.push((rest, (x, y), kind(em, SOFT_INK, Align::Start)));
                    legend.complete = false;
                    break;
                }
                (x, y, used) = (self.area.left, y + row, used + 1);
            }
            legend.swatches.push(Swatch { look: look(i), from: (x, y - em * 0.34), width: sample });
            legend.texts.push((name, (x + sample + gap, y), kind(em, INK, Align::Start)));
            x += wide + em * 1.5;
        }
        legend.bottom = y + em * 0.6;
        legend
    }

    fn axis_labels(&mut self, chart: &Chart) {
        let height = self.area.height;
        let em = LABEL * self.area.size;
        let (across, down) = ((self.area.left + self.area.right) / 2.0, (self.area.top + self.area.bottom) / 2.0);
        let x_label = fit(&chart.x_label, em, self.area.right - self.area.left);
        self.texts.push((x_label, (across, height - 16.0 * self.area.size - self.foot), kind(em, INK, Align::Middle)));
        let y_label = fit(&chart.y_label, em, (self.area.bottom - self.area.top).max(height * 0.6));
        let upwards = Type { upwards: true, ..kind(em, INK, Align::Middle) };
        self.texts.push((y_label, (16.0 * self.area.size + em * 0.85, down), upwards));
    }

    /// Everything around the plot except tick labels.
    pub fn draw_texts<DB: DrawingBackend>(&self, canvas: &mut Canvas<DB>) -> Result<()> {
        for (text, at, kind) in &self.texts {
            canvas.text(text, *at, *kind)?;
        }
        for swatch in &self.swatches {
            self.draw_swatch(swatch, canvas)?;
        }
        if let Some((((left, top), (right, bottom)), colours)) = &self.ramp {
            let wide = (right - left) / colours.len() as f64;
            for (i, rgb) in colours.iter().enumerate() {
                let x = left + wide * i as f64;
                canvas.rect((x, *top), (x + wide, *bottom), *rgb)?;
            }
        }
        Ok(())
    }

    fn draw_swatch<DB: DrawingBackend>(&self, swatch: &Swatch, canvas: &mut Canvas<DB>) -> Result<()> {
        let (x, y) = swatch.from;
        let middle = (x + swatch.width / 2.0, y);
        let (look, half) = (swatch.look, 4.5 * self.area.size);
        let line = [(x, y), (x + swatch.width, y)];
        let pen = Pen { rgb: look.rgb, width: 2.4 * self.area.size, dash: look.dash };
        match self.kind {
            ChartKind::Bar
            | ChartKind::Area
            | ChartKind::Box
            | ChartKind::Histogram
            | ChartKind::Heat
            | ChartKind::Span => canvas.rect((middle.0 - half, y - half), (middle.0 + half, y + half), look.rgb),
            ChartKind::Scatter => canvas.marker(look.marker, middle, half, (look.rgb, 1.0)),
            ChartKind::Cdf | ChartKind::Step | ChartKind::Parallel => canvas.path(&line, pen),
            ChartKind::Line | ChartKind::Path => {
                canvas.path(&line, pen)?;
                canvas.marker(look.marker, middle, 3.6 * self.area.size, (look.rgb, 1.0))
            }
        }
    }
}

fn kind(em: f64, rgb: Rgb, align: Align) -> Type {
    Type { em, rgb, align, upwards: false }
}
