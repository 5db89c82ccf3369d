//! The parts of shapes that lie within a window.

use super::canvas::Point;

/// Two opposite corners: the upper left and the lower right.
pub(super) type Window = (Point, Point);

/// Points this close outside, in pixels, are on the edge.
const EDGE: f64 = 0.5;

/// Whether the point is inside, or on the edge.
pub(super) fn holds((x, y): Point, ((left, top), (right, bottom)): Window) -> bool {
    (left - EDGE..=right + EDGE).contains(&x) && (top - EDGE..=bottom + EDGE).contains(&y)
}

/// What the two rectangles share.
pub(super) fn rect((a, b): (Point, Point), ((left, top), (right, bottom)): Window) -> Option<(Point, Point)> {
    let from = (a.0.min(b.0).max(left), a.1.min(b.1).max(top));
    let to = (a.0.max(b.0).min(right), a.1.max(b.1).min(bottom));
    (from.0 < to.0 && from.1 < to.1).then_some((from, to))
}

/// The pieces of a line that are inside.
pub(super) fn path(points: &[Point], window: Window) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    for pair in points.windows(2) {
        let Some((from, to)) = segment((pair[0], pair[1]), window) else { continue };
        match pieces.last_mut() {
            // The line has not left the window since the last piece.
            Some(piece) if from == pair[0] && piece.last() == Some(&from) => piece.push(to),
            _ => pieces.push(vec![from, to]),
        }
    }
    pieces
}

/// The part of a segment that is inside: Y.-D. Liang and B. A. Barsky, "A New Concept and Method for Line Clipping", 1984.
fn segment((a, b): (Point, Point), ((left, top), (right, bottom)): Window) -> Option<(Point, Point)> {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
    // How fast the line goes out over each side, and how far inside it begins.
    for (speed, room) in [(-dx, a.0 - left), (dx, right - a.0), (-dy, a.1 - top), (dy, bottom - a.1)] {
        if speed == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if speed < 0.0 {
            enters = enters.max(room / speed);
        } else {
            leaves = leaves.min(room / speed);
        }
    }
    let at = |t: f64| (a.0 + dx * t, a.1 + dy * t);
    let from = if enters == 0.0 { a } else { at(enters) };
    let to = if leaves == 1.0 { b } else { at(leaves) };
    (enters <= leaves).then_some((from, to))
}

/// The part of a shape that is inside, side by side of the window: I. E. Sutherland and G. W. Hodgman, "Reentrant Polygon
/// Clipping", 1974. A shape that leaves the window and comes back keeps an edge along its border.
pub(super) fn polygon(corners: &[Point], ((left, top), (right, bottom)): Window) -> Vec<Point> {
    // How far inside each side a point is.
    let sides: [&dyn Fn(Point) -> f64; 4] = [&|p| p.0 - left, &|p| right - p.0, &|p| p.1 - top, &|p| bottom - p.1];
    sides.into_iter().fold(corners.to_vec(), |corners, inside| {
        let mut kept = Vec::new();
        for (i, &to) in corners.iter().enumerate() {
            let from = corners[(i + corners.len() - 1) % corners.len()];
            let (a, b) = (inside(from), inside(to));
            if (a < 0.0) != (b < 0.0) {
                let share = a / (a - b);
                kept.push((from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share));
            }
            if b >= 0.0 {
                kept.push(to);
            }
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = ((0.0, 0.0), (10.0, 10.0));

    #[test]
    fn lines_are_cut_at_the_edges() {
        let cases: [(&[Point], Vec<Vec<Point>>); 5] = [
            (&[(1.0, 1.0), (2.0, 2.0), (3.0, 1.0)], vec![vec![(1.0, 1.0), (2.0, 2.0), (3.0, 1.0)]]),
            (&[(-5.0, 5.0), (15.0, 5.0)], vec![vec![(0.0, 5.0), (10.0, 5.0)]]),
            // Out above, and back in.
            (
                &[(2.0, 5.0), (4.0, -5.0), (6.0, -5.0), (8.0, 5.0)],
                vec![vec![(2.0, 5.0), (3.0, 0.0)], vec![(7.0, 0.0), (8.0, 5.0)]],
            ),
            (&[(-5.0, 3.0), (-1.0, 3.0)], vec![]),
            (&[(-3.0, 4.0), (5.0, -4.0)], vec![vec![(0.0, 1.0), (1.0, 0.0)]]),
        ];
        for (points, expect) in cases {
            assert_eq!(path(points, WINDOW), expect, "{points:?}");
        }
    }

    #[test]
    fn shapes_are_cut_at_the_edges() {
        assert_eq!(rect(((-5.0, 12.0), (4.0, 3.0)), WINDOW), Some(((0.0, 3.0), (4.0, 10.0))));
        assert_eq!(rect(((11.0, 1.0), (14.0, 3.0)), WINDOW), None);
        let area = |p: &[Point]| {
            let next = |i: usize| p[(i + 1) % p.len()];
            p.iter().enumerate().map(|(i, a)| a.0 * next(i).1 - next(i).0 * a.1).sum::<f64>().abs() / 2.0
        };
        // A square that is half outside, a triangle around the window, one that is far away.
        assert_eq!(area(&polygon(&[(5.0, 5.0), (15.0, 5.0), (15.0, 9.0), (5.0, 9.0)], WINDOW)), 20.0);
        assert!((area(&polygon(&[(-100.0, -50.0), (100.0, -50.0), (5.0, 100.0)], WINDOW)) - 100.0).abs() < 1e-9);
        assert!(polygon(&[(50.0, 50.0), (60.0, 50.0), (50.0, 60.0)], WINDOW).is_empty());
        assert!(holds((10.4, 0.0), WINDOW) && !holds((10.6, 0.0), WINDOW));
    }
}
