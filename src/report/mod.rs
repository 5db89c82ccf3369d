//! Charts for people to look at: data in, SVG or PNG out.
//!
//! The same drawing goes to both formats. It depends on nothing but the [`Chart`]: fonts come with the binary, and
//! logarithms from `libm`, so the same chart gives the same bytes on every machine. Data is drawn as given; what cannot
//! be drawn (NULL, NaN, zero on a logarithmic axis) is counted in a note under the title, never dropped in silence.

mod axis;
mod bearing;
mod canvas;
mod chart;
mod clip;
mod data;
mod frame;
#[cfg(test)]
pub(crate) mod golden;
mod graph;
mod hover;
mod label;
mod labels;
mod layout;
mod marks;
mod number;
mod page;
mod palette;
mod parallel;
#[cfg(test)]
mod picture_tests;
mod scale;
mod span;

pub use chart::{Chart, ChartAxis, ChartKind, Limits, Rule, Series, png, svg};
pub use graph::{GraphNode, graph_mermaid, graph_svg};
pub use label::pretty;
pub use page::{Page, PageFigure, PageStage, PageTable};
