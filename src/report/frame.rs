//! The plots of a chart: how facets are laid out, where each plot is, and the ticks along its axes.

use super::canvas::{Align, Type, fit, text_width};
use super::chart::{Chart, ChartKind};
use super::data::Data;
use super::palette::SOFT_INK;
use super::parallel;
use super::scale::{Scale, Tick};

/// Sizes of letters in a picture of 960 x 600 pixels.
pub(super) const LABEL: f64 = 14.0;
pub(super) const SMALL: f64 = 12.5;

/// Pixels that a facet should be wide at least, and an axis of parallel ones.
const NARROW: usize = 150;
const NARROW_AXIS: usize = 80;

/// One plot.
#[derive(Clone)]
pub(super) struct Frame {
    /// Sizes are multiplied by this: larger pictures have larger letters, though not in proportion.
    pub size: f64,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    pub x: Scale,
    pub y: Scale,
    /// Without labels where another plot has them.
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
    /// Names of slots are written from bottom to top, since they do not fit side by side.
    pub x_upwards: bool,
    /// Which facet it is.
    pub title: String,
    /// The baseline of the title.
    pub title_at: f64,
    /// The axes are upright ones of their own, with so many lines of titles.
    pub upright: Option<usize>,
}

impl Frame {
    /// The pixel of a value on the horizontal axis.
    pub fn px(&self, x: f64) -> f64 {
        self.left + self.x.unit(x) * (self.right - self.left)
    }

    /// The pixel of a value on the vertical axis.
    pub fn py(&self, y: f64) -> f64 {
        self.bottom - self.y.unit(y) * (self.bottom - self.top)
    }

    /// How tick labels are written.
    pub fn tick_type(&self, align: Align) -> Type {
        Type { em: SMALL * self.size, rgb: SOFT_INK, align, upwards: false }
    }
}

/// The plots side by side and on top of each other: as asked for, or about as many across as down.
pub(super) fn grid(chart: &Chart) -> (usize, usize) {
    let count = chart.facets.len().max(1);
    let needed = NARROW.max(NARROW_AXIS * chart.axes.len());
    let room = (chart.width as usize / needed).max(1);
    let across = match chart.facet_columns {
        0 if count <= 3 => count.min(room),
        0 => (1..).find(|n| n * n >= count).unwrap_or(1).min(room),
        n => n.min(count),
    };
    (across, count.div_ceil(across))
}

/// Room for plots, in pixels.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    /// Of the picture.
    pub width: f64,
    pub height: f64,
    pub size: f64,
}

/// How the area is cut.
struct Cut {
    across: usize,
    down: usize,
    /// Between plots side by side.
    gap: f64,
    /// Above each plot: the name of its facet, and below that the titles of upright axes.
    title: f64,
    head: f64,
}

impl Cut {
    fn wide(&self, area: &Area) -> f64 {
        let gaps = self.gap * (self.across - 1) as f64;
        ((area.right - area.left - gaps) / self.across as f64).max(4.0)
    }

    fn high(&self, area: &Area) -> f64 {
        ((area.bottom - area.top) / self.down as f64 - self.head).max(4.0)
    }
}

/// The plots within an area, in the order of the facets, and what of the area is left for them: labels of ticks take
/// their room at its edges.
pub(super) fn frames(chart: &Chart, data: &Data, mut area: Area) -> (Vec<Frame>, Area) {
    let em = SMALL * area.size;
    let (across, down) = grid(chart);
    let title = if chart.facets.is_empty() { 0.0 } else { em * 2.3 };
    let mut cut = Cut { across, down, gap: em * 1.6, title, head: title };
    let x_label = if chart.x_label.is_empty() { 0.0 } else { LABEL * area.size * 1.6 };
    let mut upright = None;
    let below = x_label + if chart.kind == ChartKind::Parallel { em * 0.6 } else { em * 1.5 };
    area.bottom = (area.bottom - below).max(area.top + area.height * 0.1);
    let y_ticks = y_ticks(data, cut.high(&area), em);
    let widest = y_ticks.iter().map(|t| text_width(&t.label, em)).fold(0.0, f64::max);
    let label = if chart.y_label.is_empty() { 0.0 } else { LABEL * area.size * 1.7 };
    if chart.kind == ChartKind::Parallel {
        let (before, after, lines) = parallel::room(data, cut.wide(&area) * 0.9, em);
        cut.head += em * (0.5 + 1.5 * lines as f64);
        cut.gap += before + after;
        area.left = (area.left + before).min(area.width * 0.4);
        area.right = (area.right - after).max(area.width * 0.6);
        upright = Some(lines);
    } else {
        area.left = (area.left + label + widest + em * 0.7).min(area.width * 0.5);
    }
    let (x_ticks, x_upwards, deeper) = x_ticks(data, cut.wide(&area), area.height / down as f64, em);
    area.bottom = (area.bottom - deeper).max(area.top + area.height * 0.1);
    // The last label is centred under the edge of the plot, and must not leave the picture.
    if let Some(last) = x_ticks.last().filter(|_| !x_upwards) {
        let from_right = (1.0 - data.x.unit(last.value)) * cut.wide(&area);
        let over = area.right - from_right + text_width(&last.label, em) / 2.0 - (area.width - 4.0);
        area.right = (area.right - over.max(0.0)).max(area.left + 10.0);
    }
    let ticks = Frame {
        size: area.size,
        left: 0.0,
        right: 0.0,
        top: 0.0,
        bottom: 0.0,
        x: data.x,
        y: data.y,
        x_ticks,
        y_ticks,
        x_upwards,
        title: String::new(),
        title_at: 0.0,
        upright,
    };
    (placed(chart, &ticks, &cut, &area), area)
}

/// Every facet at its place, with the labels that belong there.
fn placed(chart: &Chart, ticks: &Frame, cut: &Cut, area: &Area) -> Vec<Frame> {
    let (wide, high) = (cut.wide(area), cut.high(area));
    let count = chart.facets.len().max(1);
    let em = SMALL * area.size;
    let titles = titles(chart, em, wide);
    let place = |i: usize| {
        let (column, row) = (i % cut.across, i / cut.across);
        let left = area.left + (wide + cut.gap) * column as f64;
        let top = area.top + (high + cut.head) * row as f64;
        let mut frame = Frame {
            left,
            right: left + wide,
            top: top + cut.head,
            bottom: top + cut.head + high,
            title: titles.get(i).cloned().unwrap_or_default(),
            title_at: top + cut.title - em * 0.55,
            ..ticks.clone()
        };
        if column > 0 {
            frame.y_ticks.iter_mut().for_each(|t| t.label.clear());
        }
        // Nothing stands below it.
        if i + cut.across < count {
            frame.x_ticks.iter_mut().for_each(|t| t.label.clear());
        }
        frame
    };
    (0..count).map(place).collect()
}

/// The names of the facets; what tells them apart before each, if there is room for that.
fn titles(chart: &Chart, em: f64, wide: f64) -> Vec<String> {
    let long = |name: &String| match chart.facet_label.is_empty() {
        true => name.clone(),
        false => format!("{}: {name}", chart.facet_label),
    };
    let fits = chart.facets.iter().all(|name| text_width(&long(name), em) <= wide);
    chart.facets.iter().map(|name| if fits { long(name) } else { fit(name, em, wide) }).collect()
}

/// Labels of the vertical axis of a plot that is `high`.
fn y_ticks(data: &Data, high: f64, em: f64) -> Vec<Tick> {
    if let Some(names) = &data.row_slots {
        // Names of rows, as many as have room.
        let every = libm::ceil(em * 1.3 / (high / names.len().max(1) as f64)).max(1.0) as usize;
        let tick = |(i, name): (usize, &String)| Tick { value: i as f64, label: fit(name, em, em * 16.0), rank: 0 };
        return names.iter().enumerate().step_by(every).map(tick).collect();
    }
    if data.is_empty() || data.kind == ChartKind::Parallel {
        return Vec::new();
    }
    upright_ticks(&data.y, high, em)
}

/// Ticks of an upright axis of numbers.
pub(super) fn upright_ticks(scale: &Scale, high: f64, em: f64) -> Vec<Tick> {
    let want = (high / (em * 4.2)).clamp(2.0, 12.0) as usize;
    let place =
        |t: &Tick| ((1.0 - scale.unit(t.value)) * high - em * 0.8, (1.0 - scale.unit(t.value)) * high + em * 0.8);
    let crowded = |ticks: &[Tick]| {
        let mut places: Vec<_> = labelled(ticks).map(place).collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        places.windows(2).any(|w| w[1].0 < w[0].1)
    };
    let mut ticks = rather_two(scale, want, scale.ticks(want), crowded);
    let places = ticks.iter().map(place).collect();
    drop_crowded(&mut ticks, places);
    ticks
}

/// Those that keep their labels whatever room there is.
fn labelled(ticks: &[Tick]) -> impl Iterator<Item = &Tick> {
    ticks.iter().filter(|t| !t.label.is_empty() && t.rank == 0)
}

/// One label says nothing of an axis: rather two that are close.
fn rather_two(scale: &Scale, want: usize, ticks: Vec<Tick>, crowded: impl Fn(&[Tick]) -> bool) -> Vec<Tick> {
    if ticks.iter().filter(|t| !t.label.is_empty()).count() > 1 {
        return ticks;
    }
    let mut more = (want + 1..want + 8).map(|want| scale.ticks(want));
    more.find(|t| labelled(t).count() > 1 && !crowded(t)).unwrap_or(ticks)
}

/// Labels of the horizontal axis of a plot that is `wide`, whether they are written upwards, and what they need below
/// more than a line.
fn x_ticks(data: &Data, wide: f64, tall: f64, em: f64) -> (Vec<Tick>, bool, f64) {
    match &data.slots {
        Some(names) => name_slots(names, wide, tall, em),
        None if data.is_empty() || data.kind == ChartKind::Parallel => (Vec::new(), false, 0.0),
        None => (number_x(&data.x, wide, em), false, 0.0),
    }
}

/// As many ticks as have room side by side.
fn number_x(scale: &Scale, wide: f64, em: f64) -> Vec<Tick> {
    let mut want = (wide / (em * 6.5)).clamp(1.0, 14.0) as usize;
    let px = |v: f64| scale.unit(v) * wide;
    let mut ticks = scale.ticks(want);
    let crowded = |ticks: &[Tick]| {
        let mut shown: Vec<_> = labelled(ticks).collect();
        shown.sort_by(|a, b| a.value.total_cmp(&b.value));
        shown.windows(2).any(|w| {
            let half = (text_width(&w[0].label, em) + text_width(&w[1].label, em)) / 2.0;
            px(w[1].value) - px(w[0].value) < half + em
        })
    };
    while want > 1 && crowded(&ticks) {
        want -= 1;
        ticks = scale.ticks(want);
    }
    ticks = rather_two(scale, want, ticks, crowded);
    let place = |t: &Tick| {
        let half = text_width(&t.label, em) / 2.0 + em * 0.4;
        (px(t.value) - half, px(t.value) + half)
    };
    let places = ticks.iter().map(place).collect();
    drop_crowded(&mut ticks, places);
    ticks
}

/// Names under their slots: side by side, else upright, else some of them.
fn name_slots(names: &[String], wide: f64, tall: f64, em: f64) -> (Vec<Tick>, bool, f64) {
    let slot = wide / names.len().max(1) as f64;
    let widest = names.iter().map(|n| text_width(n, em)).fold(0.0, f64::max);
    let upwards = widest > slot - em * 0.6;
    let room = (tall * 0.3).min(em * 14.0);
    let deeper = if upwards { widest.min(room) - em * 0.6 } else { 0.0 };
    let every = if upwards { libm::ceil(em * 1.3 / slot).max(1.0) as usize } else { 1 };
    let tick = |(i, n): (usize, &String)| Tick { value: i as f64, label: fit(n, em, room.max(slot)), rank: 0 };
    (names.iter().enumerate().step_by(every).map(tick).collect(), upwards, deeper.max(0.0))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::scale::Reach;

    #[test]
    fn facets_stand_in_a_grid() {
        // (facets, columns asked for, width, across and down)
        let cases = [
            (0, 0, 960, (1, 1)),
            (1, 0, 960, (1, 1)),
            (3, 0, 960, (3, 1)),
            (4, 0, 960, (2, 2)),
            (7, 0, 960, (3, 3)),
            (36, 0, 960, (6, 6)),
            (36, 0, 320, (2, 18)),
            (3, 0, 100, (1, 3)),
            (5, 2, 960, (2, 3)),
            (5, 9, 960, (5, 1)),
        ];
        for (facets, facet_columns, width, expect) in cases {
            let facets = vec![String::from("f"); facets];
            assert_eq!(grid(&Chart { facets, facet_columns, width, ..Chart::default() }), expect);
        }
    }

    #[test]
    fn an_axis_has_two_labels() {
        for range in [(30.0, 90.0), (44.0, 61.0), (9.0, 52.0), (1.0, 50.0), (95.0, 105.0), (3.0, 3.0)] {
            for scale in [Scale::log(range), Scale::linear(range, Reach::NearZero(0.2))] {
                for pixels in [150.0, 400.0] {
                    let count = |ticks: Vec<Tick>| ticks.iter().filter(|t| !t.label.is_empty()).count();
                    let (x, y) =
                        (count(number_x(&scale, pixels, 12.0)), count(upright_ticks(&scale, pixels * 0.6, 12.0)));
                    assert!(x > 1 && y > 1, "{range:?} over {pixels} pixels: {x} and {y} labels");
                }
            }
        }
    }

    #[test]
    fn a_chart_is_as_high_as_its_facets_and_rows_need() {
        let of = |facets: usize, rows: usize| Chart {
            kind: if rows > 0 { ChartKind::Span } else { ChartKind::Line },
            facets: vec![String::from("f"); facets],
            rows: vec![String::from("r"); rows],
            width: 960,
            ..Chart::default()
        };
        let heights = [(0, 0, 600), (3, 0, 440), (4, 0, 600), (9, 0, 830), (36, 0, 1520), (0, 10, 600), (0, 50, 1080)];
        for (facets, rows, expect) in heights {
            assert_eq!(of(facets, rows).natural_height(), expect, "{facets} facets, {rows} rows");
        }
        assert_eq!(of(0, 100_000).natural_height(), 2400);
    }
}
