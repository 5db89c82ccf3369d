//! The grid, and the labels of its lines.

use plotters::prelude::DrawingBackend;

use super::canvas::{Align, Canvas, Type, text_width};
use super::frame::Frame;
use super::layout::TITLE;
use super::palette::{AXIS, FAINT_GRID, GRID, INK, PAPER, Rgb};
use super::scale::{FAINT, Scale, Tick};
use crate::diag::Result;

/// Draws the plot's background, to be called before its data.
pub(super) fn draw<DB: DrawingBackend>(frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let title = Type { rgb: INK, ..frame.tick_type(Align::Start) };
    canvas.text(&frame.title, (frame.left, frame.title_at), title)?;
    if frame.upright.is_some() {
        return Ok(());
    }
    // Faint lines first, so that they do not cross the others.
    for faint in [true, false] {
        if !matches!(frame.y, Scale::Slots(_)) {
            for tick in frame.y_ticks.iter().filter(|t| (t.rank == FAINT) == faint) {
                canvas.rule_across(frame.py(tick.value), frame.left, frame.right, colour(tick))?;
            }
        }
        if !matches!(frame.x, Scale::Slots(_)) {
            for tick in frame.x_ticks.iter().filter(|t| (t.rank == FAINT) == faint) {
                canvas.rule_down(frame.px(tick.value), frame.top, frame.bottom, colour(tick))?;
            }
        }
    }
    canvas.rule_across(frame.bottom, frame.left, frame.right, AXIS)?;
    labels(frame, canvas)
}

fn colour(tick: &Tick) -> Rgb {
    if tick.rank == FAINT { FAINT_GRID } else { GRID }
}

fn labels<DB: DrawingBackend>(frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let em = frame.tick_type(Align::End).em;
    for tick in &frame.y_ticks {
        let at = (frame.left - em * 0.6, frame.py(tick.value) + em * 0.34);
        canvas.text(&tick.label, at, frame.tick_type(Align::End))?;
    }
    for tick in &frame.x_ticks {
        let x = frame.px(tick.value);
        if frame.x_upwards {
            let upwards = Type { upwards: true, ..frame.tick_type(Align::End) };
            canvas.text(&tick.label, (x + em * 0.34, frame.bottom + em * 0.6), upwards)?;
        } else {
            canvas.text(&tick.label, (x, frame.bottom + em * 1.45), frame.tick_type(Align::Middle))?;
        }
    }
    Ok(())
}

/// Says in a plot that there is nothing to see.
pub(super) fn empty<DB: DrawingBackend>(text: &str, frame: &Frame, canvas: &mut Canvas<DB>) -> Result<()> {
    let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
    let small = frame.tick_type(Align::Middle);
    // In a small plot the text is smaller too.
    let em = (TITLE * frame.size).min((frame.right - frame.left) / 9.0).max(small.em * 0.8);
    // Upright axes stand in its way.
    let half = text_width(text, em) / 2.0 + em * 0.3;
    canvas.rect((middle.0 - half, middle.1 - em), (middle.0 + half, middle.1 + em * 0.5), PAPER)?;
    canvas.text(text, middle, Type { em, ..small })
}

/// Paints the paper.
pub(super) fn paper<DB: DrawingBackend>(size: (f64, f64), canvas: &mut Canvas<DB>) -> Result<()> {
    canvas.rect((0.0, 0.0), size, PAPER)
}
