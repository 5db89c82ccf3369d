//! The settings of `plot`: which columns of a query are drawn, and how.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Text, Tree};

/// Draw a chart from a query, or a ready-made figure of a stage.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// The data: a query whose columns are named below. This or `figure`.
    #[serde(default)]
    pub query: Option<Text>,
    /// A ready-made figure instead of a query: its name, as `pipe show figures` lists it, or that of a file
    /// `queries/figures/<name>.sql` of the project. It brings all settings below; those written here go before them.
    #[serde(default)]
    pub figure: Option<Text>,
    /// The stage that `figure` shows.
    #[serde(default)]
    pub of: Option<Text>,
    /// Parameters of `figure`: name -> number, or piece of SQL.
    #[serde(default)]
    #[schemars(with = "Option<IndexMap<String, Value>>")]
    pub with: Option<IndexMap<Text, Tree>>,
    #[serde(default)]
    pub kind: PlotKind,
    /// Column on the horizontal axis. For `cdf` and `histogram`: the column whose distribution is drawn. For `span`: where
    /// the bar begins. Every kind but `parallel` needs it.
    #[serde(default)]
    pub x: Option<Text>,
    /// Column where the bar of `span` ends.
    #[serde(default)]
    pub x_end: Option<Text>,
    /// Column on the vertical axis. Not for `cdf`, `histogram` and `parallel`. For `span`: the row, numbers or text, from
    /// top to bottom in the order of the query.
    #[serde(default)]
    pub y: Option<Text>,
    /// Column that colours the cells of `heat`, or the lines of `parallel`.
    #[serde(default)]
    pub z: Option<Text>,
    /// Of `heat`: values below this number are red, those above it blue, the more the further they are from it.
    #[serde(default)]
    pub z_middle: Option<f64>,
    /// The axes of `parallel`, from left to right: 2 to 24 columns of numbers or text. Default: those of the query
    /// less `series`, `facet` and `note`. An axis is logarithmic where all its
    /// values are positive and the largest is more than 100 times the smallest.
    #[serde(default)]
    pub columns: Vec<Text>,
    /// Column that splits the rows into lines, each with its colour and a legend entry. At most 1000 values.
    #[serde(default)]
    pub series: Option<Text>,
    /// Column that splits the rows into plots side by side, with the same axes and one legend. At most 36 values, in the
    /// order of the query.
    #[serde(default)]
    pub facet: Option<Text>,
    /// Plots of `facet` in a row. Default: about as many as there are rows of them.
    #[serde(default)]
    pub facet_columns: Option<u32>,
    /// Column of `scatter` whose text stands beside its point, where there is room for it.
    #[serde(default)]
    pub labels: Option<Text>,
    /// Column whose first text stands under the picture too: what the query leaves out, say.
    #[serde(default)]
    pub note: Option<Text>,
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub x_label: Option<String>,
    #[serde(default)]
    pub y_label: Option<String>,
    #[serde(default)]
    pub x_log: bool,
    #[serde(default)]
    pub y_log: bool,
    /// Where the horizontal axis begins. What lies outside the limits is not drawn, and counted under the title. Limits are
    /// for axes of numbers: not for `parallel`, for `x` of `bar`, `box` and `heat`, and for `y` of `heat` and `span`.
    #[serde(default)]
    pub x_min: Option<f64>,
    /// Where the horizontal axis ends.
    #[serde(default)]
    pub x_max: Option<f64>,
    /// Where the vertical axis begins.
    #[serde(default)]
    pub y_min: Option<f64>,
    /// Where the vertical axis ends.
    #[serde(default)]
    pub y_max: Option<f64>,
    /// Lines that the data are held against, such as an objective.
    #[serde(default)]
    pub rules: Vec<PlotRule>,
    /// Bins of `histogram`.
    #[serde(default = "plot_bins")]
    pub bins: u32,
    /// `dark` and `both` also write pictures for dark pages: `<stage>.dark.svg` and `.png`.
    #[serde(default)]
    pub theme: PlotTheme,
    /// Under the picture. Default: the stage, the tables that it shows, and the beginning of their content hash. Empty: none.
    #[serde(default)]
    pub caption: Option<String>,
    /// Width in pixels.
    #[serde(default = "plot_width")]
    pub width: u32,
    /// Height in pixels. Default: 600, or what the plots of `facet` and the rows of `span` need.
    #[serde(default)]
    pub height: Option<u32>,
}

fn plot_bins() -> u32 {
    40
}
fn plot_width() -> u32 {
    960
}

/// How a plot shows its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlotKind {
    #[default]
    Line,
    /// Points in the order of the rows, joined by a line: what follows the load where it turns back, say.
    Path,
    Scatter,
    Bar,
    /// Cumulative distribution of `x`.
    Cdf,
    /// A value holds until the next one: requests that run, replicas, blocks in use.
    Step,
    /// Series stand on each other: the parts of a whole.
    Area,
    /// How many `x` fall into each of equal bins; equal factors with `x_log`.
    Histogram,
    /// Of the `y` of each `x`: the median, the middle half in a box, 5 to 95 % on a line.
    Box,
    /// A cell per `x` and `y`, coloured by `z`.
    Heat,
    /// A line per row across upright axes, one for each of `columns`.
    Parallel,
    /// Bars from `x` to `x_end` in the row `y`: timelines, and what the time of a request is made of.
    Span,
}

/// A line across a plot.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlotRule {
    /// At this value of the horizontal axis. This or `y`.
    #[serde(default)]
    pub x: Option<f64>,
    /// At this value of the vertical axis.
    #[serde(default)]
    pub y: Option<f64>,
    /// Written on it.
    #[serde(default)]
    pub label: String,
}

/// For which pages pictures are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlotTheme {
    #[default]
    Light,
    Dark,
    Both,
}
