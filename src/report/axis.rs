//! The grid, and the labels of its lines.

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Type};
use super::layout::Layout;
use super::palette::{AXIS, FAINT_GRID, GRID, PAPER, Rgb};
use super::scale::{FAINT, Scale, Tick};
use crate::diag::Result;

/// Draws the plot's background, to be called before its data.
pub(super) fn draw<DB: DrawingBackend>(layout: &Layout, canvas: &mut Canvas<DB>) -> Result<()> {
    // Faint lines first, so that they do not cross the others.
    for faint in [true, false] {
        if !matches!(layout.y, Scale::Slots(_)) {
            for tick in layout.y_ticks.iter().filter(|t| (t.rank == FAINT) == faint) {
                canvas.rule_across(layout.py(tick.value), layout.left, layout.right, colour(tick))?;
            }
        }
        if !matches!(layout.x, Scale::Slots(_)) {
            for tick in layout.x_ticks.iter().filter(|t| (t.rank == FAINT) == faint) {
                canvas.rule_down(layout.px(tick.value), layout.top, layout.bottom, colour(tick))?;
            }
        }
    }
    canvas.rule_across(layout.bottom, layout.left, layout.right, AXIS)?;
    labels(layout, canvas)
}

fn colour(tick: &Tick) -> Rgb {
    if tick.rank == FAINT { FAINT_GRID } else { GRID }
}

fn labels<DB: DrawingBackend>(layout: &Layout, canvas: &mut Canvas<DB>) -> Result<()> {
    let em = layout.tick_type(Align::End).em;
    for tick in &layout.y_ticks {
        let at = (layout.left - em * 0.6, layout.py(tick.value) + em * 0.34);
        canvas.text(&tick.label, at, layout.tick_type(Align::End))?;
    }
    for tick in &layout.x_ticks {
        let x = layout.px(tick.value);
        if layout.x_upwards {
            let upwards = Type { upwards: true, ..layout.tick_type(Align::End) };
            canvas.text(&tick.label, (x + em * 0.34, layout.bottom + em * 0.6), upwards)?;
        } else {
            canvas.text(&tick.label, (x, layout.bottom + em * 1.45), layout.tick_type(Align::Middle))?;
        }
    }
    Ok(())
}

/// Paints the paper.
pub(super) fn paper<DB: DrawingBackend>(size: (f64, f64), canvas: &mut Canvas<DB>) -> Result<()> {
    canvas.rect((0.0, 0.0), size, PAPER)
}
