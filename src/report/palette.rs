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
