//! Colours and markers that tell series apart.

pub(super) type Rgb = (u8, u8, u8);

pub(super) const PAPER: Rgb = (255, 255, 255);
/// Titles and labels.
pub(super) const INK: Rgb = (0x1f, 0x24, 0x2b);
/// Tick labels and notes.
pub(super) const SOFT_INK: Rgb = (0x4a, 0x52, 0x5c);
/// The line at the foot of the plot.
pub(super) const AXIS: Rgb = (0x8a, 0x92, 0x9c);
pub(super) const GRID: Rgb = (0xe1, 0xe4, 0xe8);
/// Lines of the grid between labelled ones.
pub(super) const FAINT_GRID: Rgb = (0xf1, 0xf3, 0xf5);

/// Ten colours that stay apart under the common kinds of colour blindness: M. A. Petroff, "Accessible Color Sequences
/// for Data Visualization", arXiv:2107.02270.
const COLOURS: [Rgb; 10] = [
    (0x3f, 0x90, 0xda),
    (0xff, 0xa9, 0x0e),
    (0xbd, 0x1f, 0x01),
    (0x94, 0xa4, 0xa2),
    (0x83, 0x2d, 0xb6),
    (0xa9, 0x6b, 0x59),
    (0xe7, 0x63, 0x00),
    (0xb9, 0xac, 0x70),
    (0x71, 0x75, 0x81),
    (0x92, 0xda, 0xdd),
];

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Down,
}

const MARKERS: [Marker; 5] = [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Down];

/// How a series is drawn. Colours repeat after ten series; marker and dashes then differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub rgb: Rgb,
    pub marker: Marker,
    /// Lengths of dash and gap; `None` is a solid line.
    pub dash: Option<(f64, f64)>,
}

/// The look of the series number `index`.
pub(super) fn look(index: usize) -> Look {
    let turn = index / COLOURS.len();
    let dash = match turn % 4 {
        0 => None,
        1 => Some((8.0, 5.0)),
        2 => Some((3.0, 4.0)),
        _ => Some((14.0, 5.0)),
    };
    Look { rgb: COLOURS[index % COLOURS.len()], marker: MARKERS[turn % MARKERS.len()], dash }
}

/// Colours of values from 0 to 1, from dark to light in even steps of lightness: the anchors of Viridis (N. Smith and
/// S. van der Walt, matplotlib, CC0), between which colours are mixed.
const VALUES: [Rgb; 9] = [
    (0x44, 0x01, 0x54),
    (0x48, 0x28, 0x78),
    (0x3e, 0x4a, 0x89),
    (0x31, 0x68, 0x8e),
    (0x26, 0x82, 0x8e),
    (0x1f, 0x9e, 0x89),
    (0x35, 0xb7, 0x79),
    (0x6e, 0xce, 0x58),
    (0xfd, 0xe7, 0x25),
];

/// The colour of a value from 0 to 1.
pub(super) fn value_colour(unit: f64) -> Rgb {
    let at = unit.clamp(0.0, 1.0) * (VALUES.len() - 1) as f64;
    let below = (at as usize).min(VALUES.len() - 2);
    mix(VALUES[below], VALUES[below + 1], at - below as f64)
}

/// `share` of `b`, the rest of `a`.
pub(super) fn mix(a: Rgb, b: Rgb, share: f64) -> Rgb {
    let of = |a: u8, b: u8| libm::round(f64::from(a) + (f64::from(b) - f64::from(a)) * share) as u8;
    (of(a.0, b.0), of(a.1, b.1), of(a.2, b.2))
}

/// Whether letters on this colour are to be light.
pub(super) fn is_dark((r, g, b): Rgb) -> bool {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) < 140.0
}

/// The colour that stands for `rgb` on dark paper: paper, letters and grid have others, and the darkest of the series are
/// lighter.
pub(super) fn on_dark(rgb: Rgb) -> Rgb {
    let others = [
        (PAPER, (0x16, 0x1b, 0x22)),
        (INK, (0xe6, 0xed, 0xf3)),
        (SOFT_INK, (0xa9, 0xb4, 0xc0)),
        (AXIS, (0x6e, 0x78, 0x84)),
        (GRID, (0x2d, 0x34, 0x3d)),
        (FAINT_GRID, (0x20, 0x26, 0x2e)),
        (COLOURS[2], (0xe0, 0x5a, 0x41)),
        (COLOURS[4], (0xb0, 0x6f, 0xdb)),
        (COLOURS[8], (0x98, 0x9e, 0xac)),
    ];
    others.iter().find(|(light, _)| *light == rgb).map_or(rgb, |(_, dark)| *dark)
}
