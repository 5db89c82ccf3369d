//! Where everything goes: title, notes, legend and labels around the plot, so that nothing hides the data.

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Pen, Point, Type, fit, text_width};
use super::chart::{Chart, ChartKind};
use super::data::Data;
use super::number::number;
use super::palette::{INK, Look, Rgb, SOFT_INK, look, value_colour};
use super::scale::{Scale, Tick};
use crate::diag::Result;

/// Sizes of letters in a picture of 960 x 600 pixels.
const TITLE: f64 = 19.0;
const LABEL: f64 = 14.0;
const SMALL: f64 = 12.5;
const CAPTION: f64 = 11.0;

/// Longer names in the legend are cut to the first of these widths, in letters' sizes, with which all have room.
const NAME_EMS: [f64; 3] = [40.0, 26.0, 16.0];

/// The frame of a chart.
pub(super) struct Layout {
    /// Sizes are multiplied by this: larger pictures have larger letters, though not in proportion.
    pub size: f64,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    pub x: Scale,
    pub y: Scale,
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
    /// Names of slots are written from bottom to top, since they do not fit side by side.
    pub x_upwards: bool,
    /// The lowest and the highest value of a heat map.
    values: Option<(f64, f64)>,
    texts: Vec<(String, Point, Type)>,
    swatches: Vec<Swatch>,
    /// Corners of the colours of a heat map's values.
    ramp: Option<(Point, Point)>,
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
        let mut layout = Layout {
            size,
            left: pad,
            right: (width - pad - 8.0 * size).max(width * 0.6),
            top: pad,
            bottom: (height - pad).max(height * 0.6),
            x: data.x,
            y: data.y,
            x_ticks: Vec::new(),
            y_ticks: Vec::new(),
            x_upwards: false,
            values: data.value_range(),
            texts: Vec::new(),
            swatches: Vec::new(),
            ramp: None,
            foot: 0.0,
            kind: chart.kind,
        };
        layout.head(chart, data, height);
        layout.caption(chart, height);
        layout.axes(chart, data, width, height);
        layout.axis_labels(chart, height);
        layout
    }

    /// The pixel of a value on the horizontal axis.
    pub fn px(&self, x: f64) -> f64 {
        self.left + self.x.unit(x) * (self.right - self.left)
    }

    /// The pixel of a value on the vertical axis.
    pub fn py(&self, y: f64) -> f64 {
        self.bottom - self.y.unit(y) * (self.bottom - self.top)
    }

    /// Where a value of a heat map lies between the lowest and the highest, 0 to 1.
    pub fn value_unit(&self, value: f64) -> f64 {
        match self.values {
            Some((low, high)) if high > low => (value - low) / (high - low),
            _ => 0.5,
        }
    }

    /// How tick labels are written.
    pub fn tick_type(&self, align: Align) -> Type {
        Type { em: SMALL * self.size, rgb: SOFT_INK, align, upwards: false }
    }

    /// Title, notes and legend, from the top downwards.
    fn head(&mut self, chart: &Chart, data: &Data, height: f64) {
        let room = self.right - self.left;
        if !chart.title.is_empty() {
            self.line(fit(&chart.title, TITLE * self.size, room), TITLE, INK);
        }
        if !data.notes.is_empty() {
            self.line(fit(&data.notes.join("; "), SMALL * self.size, room), SMALL, SOFT_INK);
        }
        if let (ChartKind::Heat, Some(range)) = (chart.kind, self.values) {
            self.value_legend(chart, range);
        } else if chart.series.len() > 1 || chart.series.iter().any(|s| !s.name.is_empty()) {
            self.legend(chart, (height * 0.3 - self.top).max(0.0));
        }
        self.top = (self.top + 8.0 * self.size).min(height * 0.5);
    }

    /// From the lowest value to the highest.
    fn value_legend(&mut self, chart: &Chart, (low, high): (f64, f64)) {
        let em = SMALL * self.size;
        let y = self.top + em;
        let mut x = self.left;
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
        self.ramp = Some(((from, y - em * 0.75), (from + wide, y + em * 0.05)));
        self.texts.push((number(high), (from + wide + em * 0.6, y), kind(em, INK, Align::Start)));
        self.top = y + em * 0.6;
    }

    /// The line under the picture.
    fn caption(&mut self, chart: &Chart, height: f64) {
        if chart.caption.is_empty() {
            return;
        }
        let em = CAPTION * self.size;
        let text = fit(&chart.caption, em, self.right - self.left);
        self.texts.push((text, (self.left, height - 8.0 * self.size), kind(em, SOFT_INK, Align::Start)));
        self.bottom -= em * 1.2;
        self.foot = em * 1.2;
    }

    /// A line of text under what is there.
    fn line(&mut self, text: String, em: f64, rgb: Rgb) {
        let em = em * self.size;
        self.texts.push((text, (self.left, self.top + em * 0.85), kind(em, rgb, Align::Start)));
        self.top += em * 1.5;
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
        self.top = last.bottom;
    }

    fn packed_legend(&self, chart: &Chart, tall: f64, ems: f64) -> Legend {
        let em = SMALL * self.size;
        let (row, sample, gap) = (em * 1.6, em * 1.9, em * 0.5);
        let rows = ((tall / row) as usize).max(1);
        let rest_room = text_width("+999 more", em) + gap;
        let mut legend = Legend { complete: true, ..Legend::default() };
        let (mut x, mut y, mut used) = (self.left, self.top + em, 1);
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
            if x + wide + reserve > self.right && x > self.left {
                if used == rows {
                    let rest = format!("+{} more", chart.series.len() - i);
                    legend.texts.push((rest, (x, y), kind(em, SOFT_INK, Align::Start)));
                    legend.complete = false;
                    break;
                }
                (x, y, used) = (self.left, y + row, used + 1);
            }
            legend.swatches.push(Swatch { look: look(i), from: (x, y - em * 0.34), width: sample });
            legend.texts.push((name, (x + sample + gap, y), kind(em, INK, Align::Start)));
            x += wide + em * 1.5;
        }
        legend.bottom = y + em * 0.6;
        legend
    }

    /// Ticks, and the room that their labels take.
    fn axes(&mut self, chart: &Chart, data: &Data, width: f64, height: f64) {
        let em = SMALL * self.size;
        let below = em * 1.5 + if chart.x_label.is_empty() { 0.0 } else { LABEL * self.size * 1.6 };
        self.bottom = (self.bottom - below).max(self.top + height * 0.1);
        if let Some(names) = &data.row_slots {
            self.name_rows(names);
        } else if !data.is_empty() {
            let want = ((self.bottom - self.top) / (em * 4.2)).clamp(2.0, 12.0) as usize;
            self.y_ticks = self.y.ticks(want);
            let places =
                self.y_ticks.iter().map(|t| (self.py(t.value) - em * 0.8, self.py(t.value) + em * 0.8)).collect();
            drop_crowded(&mut self.y_ticks, places);
        }
        let widest = self.y_ticks.iter().map(|t| text_width(&t.label, em)).fold(0.0, f64::max);
        let label = if chart.y_label.is_empty() { 0.0 } else { LABEL * self.size * 1.7 };
        self.left = (self.left + label + widest + em * 0.7).min(width * 0.5);
        match &data.slots {
            Some(names) => self.name_slots(names, height),
            None if data.is_empty() => {}
            None => self.number_x(em),
        }
        // The last label is centred under the edge of the plot, and must not leave the picture.
        if let Some(last) = self.x_ticks.last().filter(|_| !self.x_upwards) {
            let over = self.px(last.value) + text_width(&last.label, em) / 2.0 - (width - 4.0);
            self.right = (self.right - over.max(0.0)).max(self.left + 10.0);
        }
    }

    /// Names of the rows, as many as have room.
    fn name_rows(&mut self, names: &[String]) {
        let em = SMALL * self.size;
        let high = (self.bottom - self.top) / names.len().max(1) as f64;
        let every = libm::ceil(em * 1.3 / high).max(1.0) as usize;
        let tick = |(i, name): (usize, &String)| Tick { value: i as f64, label: fit(name, em, em * 16.0), rank: 0 };
        self.y_ticks = names.iter().enumerate().step_by(every).map(tick).collect();
    }

    /// As many ticks as have room side by side.
    fn number_x(&mut self, em: f64) {
        let room = self.right - self.left;
        let mut want = (room / (em * 6.5)).clamp(1.0, 14.0) as usize;
        loop {
            self.x_ticks = self.x.ticks(want);
            let crowded = |t: &[Tick], layout: &Layout| {
                let mut shown: Vec<_> = t.iter().filter(|t| !t.label.is_empty() && t.rank == 0).collect();
                shown.sort_by(|a, b| a.value.total_cmp(&b.value));
                shown.windows(2).any(|w| {
                    let half = (text_width(&w[0].label, em) + text_width(&w[1].label, em)) / 2.0;
                    layout.px(w[1].value) - layout.px(w[0].value) < half + em
                })
            };
            if want <= 1 || !crowded(&self.x_ticks, self) {
                break;
            }
            want -= 1;
        }
        let place = |t: &Tick| {
            let half = text_width(&t.label, em) / 2.0 + em * 0.4;
            (self.px(t.value) - half, self.px(t.value) + half)
        };
        let places = self.x_ticks.iter().map(place).collect();
        drop_crowded(&mut self.x_ticks, places);
    }

    /// Names under their slots: side by side, else upright, else some of them.
    fn name_slots(&mut self, names: &[String], height: f64) {
        let em = SMALL * self.size;
        let slot = (self.right - self.left) / names.len().max(1) as f64;
        let widest = names.iter().map(|n| text_width(n, em)).fold(0.0, f64::max);
        self.x_upwards = widest > slot - em * 0.6;
        let room = (height * 0.3).min(em * 14.0);
        if self.x_upwards {
            self.bottom = (self.bottom - widest.min(room) + em * 0.6).max(self.top + height * 0.1);
        }
        let every = if self.x_upwards { libm::ceil(em * 1.3 / slot).max(1.0) as usize } else { 1 };
        let shown = names.iter().enumerate().step_by(every);
        self.x_ticks =
            shown.map(|(i, n)| Tick { value: i as f64, label: fit(n, em, room.max(slot)), rank: 0 }).collect();
    }

    fn axis_labels(&mut self, chart: &Chart, height: f64) {
        let em = LABEL * self.size;
        let (across, down) = ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0);
        let x_label = fit(&chart.x_label, em, self.right - self.left);
        self.texts.push((x_label, (across, height - 16.0 * self.size - self.foot), kind(em, INK, Align::Middle)));
        let y_label = fit(&chart.y_label, em, (self.bottom - self.top).max(height * 0.6));
        let upwards = Type { upwards: true, ..kind(em, INK, Align::Middle) };
        self.texts.push((y_label, (16.0 * self.size + em * 0.85, down), upwards));
    }

    /// Everything around the plot except tick labels.
    pub fn draw_texts<DB: DrawingBackend>(&self, canvas: &mut Canvas<DB>) -> Result<()> {
        for (text, at, kind) in &self.texts {
            canvas.text(text, *at, *kind)?;
        }
        for swatch in &self.swatches {
            self.draw_swatch(swatch, canvas)?;
        }
        if let Some(((left, top), (right, bottom))) = self.ramp {
            const COLOURS: usize = 64;
            let wide = (right - left) / COLOURS as f64;
            for i in 0..COLOURS {
                let x = left + wide * i as f64;
                let rgb = value_colour((i as f64 + 0.5) / COLOURS as f64);
                canvas.rect((x, top), (x + wide, bottom), rgb)?;
            }
        }
        Ok(())
    }

    fn draw_swatch<DB: DrawingBackend>(&self, swatch: &Swatch, canvas: &mut Canvas<DB>) -> Result<()> {
        let (x, y) = swatch.from;
        let middle = (x + swatch.width / 2.0, y);
        let (look, half) = (swatch.look, 4.5 * self.size);
        let line = [(x, y), (x + swatch.width, y)];
        let pen = Pen { rgb: look.rgb, width: 2.4 * self.size, dash: look.dash };
        match self.kind {
            ChartKind::Bar | ChartKind::Area | ChartKind::Box | ChartKind::Histogram | ChartKind::Heat => {
                canvas.rect((middle.0 - half, y - half), (middle.0 + half, y + half), look.rgb)
            }
            ChartKind::Scatter => canvas.marker(look.marker, middle, half, (look.rgb, 1.0)),
            ChartKind::Cdf | ChartKind::Step => canvas.path(&line, pen),
            ChartKind::Line => {
                canvas.path(&line, pen)?;
                canvas.marker(look.marker, middle, 3.6 * self.size, (look.rgb, 1.0))
            }
        }
    }

    /// Says that there is nothing to see.
    pub fn draw_empty<DB: DrawingBackend>(&self, canvas: &mut Canvas<DB>) -> Result<()> {
        let middle = ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0);
        canvas.text("no rows", middle, kind(TITLE * self.size, SOFT_INK, Align::Middle))
    }
}

fn kind(em: f64, rgb: Rgb, align: Align) -> Type {
    Type { em, rgb, align, upwards: false }
}

/// Labels between decades go where they would touch another. `places` are the pixels that each label takes.
fn drop_crowded(ticks: &mut [Tick], places: Vec<(f64, f64)>) {
    let mut order: Vec<usize> = (0..ticks.len()).filter(|i| !ticks[*i].label.is_empty()).collect();
    order.sort_by_key(|i| ticks[*i].rank);
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for i in order {
        let (from, to) = places[i];
        if ticks[i].rank > 0 && taken.iter().any(|t| from < t.1 && to > t.0) {
            ticks[i].label.clear();
        } else {
            taken.push((from, to));
        }
    }
}
