//! Texts beside points, where there is room for them: none covers a point or another text, and none leaves the plot. The
//! first points come first; what finds no room is told where the pointer rests.

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Point, Type, text_width};
use super::data::Panel;
use super::frame::Frame;
use super::palette::INK;
use crate::diag::Result;

/// So many labels are tried, and so many points kept free: more would be a grey cloud.
const MOST: usize = 400;
const POINTS: usize = 3_000;

/// Corners of a rectangle: left, top, right, bottom.
type Corners = (f64, f64, f64, f64);

/// `points` are those of the panel's series in pixels.
pub(super) fn draw<DB: DrawingBackend>(
    panel: &Panel,
    points: &[Vec<Point>],
    frame: &Frame,
    canvas: &mut Canvas<DB>,
) -> Result<()> {
    let marker = 5.0 * frame.size;
    let kind = Type { rgb: INK, ..frame.tick_type(Align::Start) };
    let mut taken: Vec<Corners> = points
        .iter()
        .flatten()
        .take(POINTS)
        .map(|p| (p.0 - marker, p.1 - marker, p.0 + marker, p.1 + marker))
        .collect();
    let window = (frame.left, frame.top, frame.right, frame.bottom);
    let labelled = points.iter().zip(panel.labels).flat_map(|(p, l)| p.iter().zip(l));
    for (point, text) in labelled.filter(|(p, text)| !text.is_empty() && holds(window, (p.0, p.1, p.0, p.1))).take(MOST)
    {
        let size = (text_width(text, kind.em), kind.em);
        let free = |c: &Corners| holds(window, *c) && !taken.iter().any(|t| overlap(*t, *c));
        if let Some(corners) = places(*point, size, marker).into_iter().find(free) {
            canvas.text(text, (corners.0, corners.3 - 0.22 * kind.em), kind)?;
            taken.push(corners);
        }
    }
    Ok(())
}

/// Where a text of that width and height may stand: right of the point, left, above, below, and aslant.
fn places((x, y): Point, (wide, high): (f64, f64), away: f64) -> [Corners; 8] {
    let (right, left, middle) = (x + away * 1.2, x - away * 1.2 - wide, x - wide / 2.0);
    let (above, below, beside) = (y - away - high, y + away, y - high / 2.0);
    let at = |left: f64, top: f64| (left, top, left + wide, top + high);
    [
        at(right, beside),
        at(left, beside),
        at(middle, above),
        at(middle, below),
        at(x + away * 0.6, above),
        at(x + away * 0.6, below),
        at(x - away * 0.6 - wide, above),
        at(x - away * 0.6 - wide, below),
    ]
}

fn overlap(a: Corners, b: Corners) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

fn holds(outer: Corners, inner: Corners) -> bool {
    inner.0 >= outer.0 && inner.1 >= outer.1 && inner.2 <= outer.2 && inner.3 <= outer.3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_leave_their_point_free() {
        let point = (100.0, 100.0);
        for place in places(point, (60.0, 12.0), 5.0) {
            assert!(!overlap(place, (95.5, 95.5, 104.5, 104.5)), "{place:?}");
            assert!(overlap(place, (85.0, 80.0, 115.0, 120.0)), "{place:?} is far away");
        }
        assert!(
            holds((0.0, 0.0, 9.0, 9.0), (0.0, 1.0, 9.0, 2.0)) && !holds((0.0, 0.0, 9.0, 9.0), (1.0, 1.0, 9.5, 2.0))
        );
    }
}
