//! A drawing surface in the chart's pixels, over any backend of plotters.
//!
//! Backends take whole numbers on a grid of `steps` per pixel; here are fractions of pixels. Text is measured the same
//! way for every backend, so that SVG and PNG have the same layout.

use std::sync::OnceLock;

use plotters::prelude::{DrawingBackend, FontDesc, FontFamily, FontStyle, FontTransform, RGBAColor, ShapeStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor, register_font};

use super::bearing;
use super::clip::{self, Window};
use super::palette::{Marker, Rgb, on_dark};
use crate::diag::{Failure, Result};

/// The family under which the font is known: SVG viewers choose the first that they have.
const FAMILY: &str = "Ubuntu, Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif";

/// Text is measured this many times larger, since widths come in whole numbers.
const MEASURE: f64 = 16.0;

pub(super) type Point = (f64, f64);

/// What differs between the backends.
#[derive(Clone, Copy)]
pub(super) struct Medium {
    /// Plotters' font size for letters of one em.
    size_per_em: f64,
    /// From the top of a text to its baseline, in font sizes.
    baseline: f64,
    /// Thick lines are drawn as a whole. The rasterizer cannot: where a line turns sharply it leaves holes.
    whole_lines: bool,
    /// Texts are drawn as a whole. The rasterizer cannot: it forgets the space on the left of letters.
    whole_texts: bool,
}

impl Medium {
    /// plotters-svg divides the size by 1.24 and puts the baseline 0.76 em under the top.
    pub const SVG: Medium = Medium { size_per_em: 1.24, baseline: 0.76 / 1.24, whole_lines: true, whole_texts: true };
    /// The rasterizer takes the height of the font for its size (1.121 em here), and puts the baseline in its middle.
    pub const RASTER: Medium = Medium { size_per_em: 1.121, baseline: 0.5, whole_lines: false, whole_texts: false };
}

/// Makes the embedded font known to plotters.
pub(super) fn register_fonts() -> Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done =
        DONE.get_or_init(|| register_font(FAMILY, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok());
    if *done { Ok(()) } else { Err(Failure::stage("plot::font", "the embedded font cannot be read")) }
}

/// The outcome of a drawing call as one of ours.
pub(super) fn drawn<E: std::error::Error>(outcome: std::result::Result<(), E>) -> Result<()> {
    outcome.map_err(|e| Failure::stage("plot::draw", format!("cannot draw the chart: {e}")))
}

/// Width of `text` in letters of `em` pixels.
pub(super) fn text_width(text: &str, em: f64) -> f64 {
    let font = font(em * MEASURE * Medium::RASTER.size_per_em);
    // Without a font, a rough guess: drawing reports what is wrong with it.
    font.layout_box(text).map_or(em * 0.5 * text.chars().count() as f64, |(_, (w, _))| f64::from(w) / MEASURE)
}

/// `text`, cut so that it is at most `room` wide.
pub(super) fn fit(text: &str, em: f64, room: f64) -> String {
    if text_width(text, em) <= room {
        return text.to_string();
    }
    let chars: Vec<char> = text.chars().collect();
    // Widths grow with every letter, so that the cut can be searched for by halves.
    let cut = |n: usize| chars[..n].iter().collect::<String>().trim_end().to_string() + "…";
    let (mut good, mut bad) = (0, chars.len());
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        if text_width(&cut(middle), em) <= room { good = middle } else { bad = middle }
    }
    if good == 0 { String::new() } else { cut(good) }
}

fn font(size: f64) -> FontDesc<'static> {
    FontDesc::new(FontFamily::Name(FAMILY), size, FontStyle::Normal)
}

/// Where the given point of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Start,
    Middle,
    End,
}

/// How a text is written.
#[derive(Clone, Copy)]
pub(super) struct Type {
    /// Size of the letters in pixels.
    pub em: f64,
    pub rgb: Rgb,
    pub align: Align,
    /// Read from bottom to top.
    pub upwards: bool,
}

/// How a line is drawn.
#[derive(Clone, Copy)]
pub(super) struct Pen {
    pub rgb: Rgb,
    /// Pixels.
    pub width: f64,
    /// Pixels of dash and gap.
    pub dash: Option<(f64, f64)>,
}

pub(super) struct Canvas<'a, DB: DrawingBackend> {
    backend: &'a mut DB,
    steps: f64,
    medium: Medium,
    dark: bool,
    /// What lies outside is not drawn; texts are.
    window: Option<Window>,
}

impl<'a, DB: DrawingBackend> Canvas<'a, DB> {
    pub fn new(backend: &'a mut DB, steps: u32, medium: Medium, dark: bool) -> Self {
        Canvas { backend, steps: f64::from(steps), medium, dark, window: None }
    }

    /// From now on draws only what lies between two corners, texts aside; `None`: everything.
    pub fn clip(&mut self, window: Option<Window>) {
        self.window = window;
    }

    fn colour(&self, rgb: Rgb, alpha: f64) -> RGBAColor {
        let (r, g, b) = if self.dark { on_dark(rgb) } else { rgb };
        RGBColor(r, g, b).mix(alpha)
    }

    fn fill(&self, rgb: Rgb, alpha: f64) -> ShapeStyle {
        ShapeStyle { color: self.colour(rgb, alpha), filled: true, stroke_width: 1 }
    }

    /// A filled shape with these corners.
    pub fn polygon(&mut self, corners: &[Point], rgb: Rgb, alpha: f64) -> Result<()> {
        let style = self.fill(rgb, alpha);
        let inside = self.window.map(|w| clip::polygon(corners, w));
        let corners: Vec<(i32, i32)> = inside.as_deref().unwrap_or(corners).iter().map(|p| self.at(*p)).collect();
        if corners.len() < 3 { Ok(()) } else { drawn(self.backend.fill_polygon(corners, &style)) }
    }

    fn at(&self, (x, y): Point) -> (i32, i32) {
        (self.fine(x), self.fine(y))
    }

    fn fine(&self, pixels: f64) -> i32 {
        libm::round(pixels * self.steps) as i32
    }

    /// A filled rectangle between two corners.
    pub fn rect(&mut self, from: Point, to: Point, rgb: Rgb) -> Result<()> {
        let inside = self.window.map_or(Some((from, to)), |w| clip::rect((from, to), w));
        let Some((from, to)) = inside else { return Ok(()) };
        let (a, b) = (self.at(from), self.at(to));
        let (upper_left, lower_right) = ((a.0.min(b.0), a.1.min(b.1)), (a.0.max(b.0), a.1.max(b.1)));
        let style = self.fill(rgb, 1.0);
        drawn(self.backend.draw_rect(upper_left, lower_right, &style, true))
    }

    /// A horizontal line on whole pixels, so that it is sharp.
    pub fn rule_across(&mut self, y: f64, from: f64, to: f64, rgb: Rgb) -> Result<()> {
        let y = libm::round(y - 0.5);
        self.rect((from, y), (to, y + 1.0), rgb)
    }

    /// A vertical line on whole pixels.
    pub fn rule_down(&mut self, x: f64, from: f64, to: f64, rgb: Rgb) -> Result<()> {
        let x = libm::round(x - 0.5);
        self.rect((x, from), (x + 1.0, to), rgb)
    }

    /// Lines from point to point.
    pub fn path(&mut self, points: &[Point], pen: Pen) -> Result<()> {
        let Some(window) = self.window else { return self.line(points, pen) };
        clip::path(points, window).iter().try_for_each(|piece| self.line(piece, pen))
    }

    fn line(&mut self, points: &[Point], pen: Pen) -> Result<()> {
        match pen.dash {
            None => self.solid(points, pen),
            Some(dash) => dashes(points, dash).iter().try_for_each(|piece| self.solid(piece, pen)),
        }
    }

    fn solid(&mut self, points: &[Point], pen: Pen) -> Result<()> {
        if !self.medium.whole_lines {
            return self.solid_pieces(points, pen);
        }
        let mut fine: Vec<(i32, i32)> = points.iter().map(|p| self.at(*p)).collect();
        fine.dedup();
        let stroke_width = self.fine(pen.width).max(1).unsigned_abs();
        let style = ShapeStyle { color: self.colour(pen.rgb, 1.0), filled: false, stroke_width };
        if fine.len() > 1 { drawn(self.backend.draw_path(fine, &style)) } else { Ok(()) }
    }

    /// A box per piece, and a disc where two of them meet.
    fn solid_pieces(&mut self, points: &[Point], pen: Pen) -> Result<()> {
        let half = pen.width / 2.0;
        let style = self.fill(pen.rgb, 1.0);
        for (i, pair) in points.windows(2).enumerate() {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let (dx, dy) = (x1 - x0, y1 - y0);
            let length = (dx * dx + dy * dy).sqrt();
            if length == 0.0 {
                continue;
            }
            let (across, along) = (-dy / length * half, dx / length * half);
            if dx == 0.0 || dy == 0.0 {
                let (across, along) = (across.abs(), along.abs());
                self.rect(
                    (x0.min(x1) - across, y0.min(y1) - along),
                    (x0.max(x1) + across, y0.max(y1) + along),
                    pen.rgb,
                )?;
            } else {
                let corners = [
                    (x0 + across, y0 + along),
                    (x1 + across, y1 + along),
                    (x1 - across, y1 - along),
                    (x0 - across, y0 - along),
                ];
                drawn(self.backend.fill_polygon(corners.map(|p| self.at(p)), &style))?;
            }
            if i > 0 {
                self.marker(Marker::Circle, (x0, y0), half, (pen.rgb, 1.0))?;
            }
        }
        Ok(())
    }

    /// A point of the data; `radius` is half of its width.
    pub fn marker(&mut self, marker: Marker, (x, y): Point, radius: f64, (rgb, alpha): (Rgb, f64)) -> Result<()> {
        if self.window.is_some_and(|w| !clip::holds((x, y), w)) {
            return Ok(());
        }
        let style = self.fill(rgb, alpha);
        let r = radius;
        let corners = match marker {
            Marker::Circle => {
                let r = self.fine(r).max(1).unsigned_abs();
                return drawn(self.backend.draw_circle(self.at((x, y)), r, &style, true));
            }
            Marker::Square => vec![(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)],
            Marker::Triangle => vec![(x, y - 1.2 * r), (x + 1.15 * r, y + 0.8 * r), (x - 1.15 * r, y + 0.8 * r)],
            Marker::Diamond => vec![(x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y)],
            Marker::Down => vec![(x, y + 1.2 * r), (x + 1.15 * r, y - 0.8 * r), (x - 1.15 * r, y - 0.8 * r)],
        };
        let corners: Vec<_> = corners.into_iter().map(|p| self.at(p)).collect();
        drawn(self.backend.fill_polygon(corners, &style))
    }

    /// Writes `text` on the baseline through `at`.
    pub fn text(&mut self, text: &str, at: Point, kind: Type) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.medium.whole_texts {
            return self.letters(text, at, kind);
        }
        let anchor = match kind.align {
            Align::Start => HPos::Left,
            Align::Middle => HPos::Center,
            Align::End => HPos::Right,
        };
        self.write(text, at, kind, anchor)
    }

    /// Letter by letter, each where its font wants it.
    fn letters(&mut self, text: &str, (x, y): Point, kind: Type) -> Result<()> {
        let share = match kind.align {
            Align::Start => 0.0,
            Align::Middle => 0.5,
            Align::End => 1.0,
        };
        let start = -share * text_width(text, kind.em);
        let mut letter = [0; 4];
        for (i, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            let letter: &str = c.encode_utf8(&mut letter);
            // With all that is before it, so that the distances of letter pairs count.
            let end = text_width(&text[..i + letter.len()], kind.em);
            let along = start + end - text_width(letter, kind.em) + bearing::left(c) * kind.em;
            let at = if kind.upwards { (x, y - along) } else { (x + along, y) };
            self.write(letter, at, kind, HPos::Left)?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str, at: Point, kind: Type, anchor: HPos) -> Result<()> {
        let size = kind.em * self.medium.size_per_em * self.steps;
        let above = size * self.medium.baseline / self.steps;
        let (transform, top) = if kind.upwards {
            (FontTransform::Rotate270, (at.0 - above, at.1))
        } else {
            (FontTransform::None, (at.0, at.1 - above))
        };
        let mut style = font(size).transform(transform).color(&self.colour(kind.rgb, 1.0));
        style.pos = Pos::new(anchor, VPos::Top);
        let top = self.at(top);
        drawn(self.backend.draw_text(text, &style, top))
    }
}

/// The pieces of a line that a dash pattern leaves.
fn dashes(points: &[Point], (dash, gap): (f64, f64)) -> Vec<Vec<Point>> {
    let mut pieces = Vec::new();
    let mut piece: Vec<Point> = points.first().copied().into_iter().collect();
    let (mut on, mut left) = (true, dash);
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let (dx, dy) = (to.0 - from.0, to.1 - from.1);
            let length = (dx * dx + dy * dy).sqrt();
            if length <= left {
                left -= length;
                if on {
                    piece.push(to);
                }
                break;
            }
            from = (from.0 + dx * left / length, from.1 + dy * left / length);
            if on {
                piece.push(from);
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece.push(from);
            }
            on = !on;
            left = if on { dash } else { gap };
        }
    }
    if on {
        pieces.push(piece);
    }
    pieces
}
