//! What a sampler is to a study: it proposes points; legality, novelty and conditions are the study's work.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Space;
use super::history::History;

/// Where a suggestion comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Grid,
    Sobol,
    Random,
    Tpe,
    Nsga2,
    Nsga3,
    CmaEs,
    Ego,
    /// Given by the user.
    Enqueued,
}

impl Origin {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Grid => "grid",
            Origin::Sobol => "sobol",
            Origin::Random => "random",
            Origin::Tpe => "tpe",
            Origin::Nsga2 => "nsga2",
            Origin::Nsga3 => "nsga3",
            Origin::CmaEs => "cma_es",
            Origin::Ego => "ego",
            Origin::Enqueued => "enqueued",
        }
    }
}

/// A study as its sampler reads it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub space: &'a Space,
    /// The trials that were told.
    pub history: &'a History,
    pub seed: u64,
    /// Trials between two looks at the results.
    pub batch: u64,
}

/// A proposal.
pub(super) struct Draft {
    /// Places, not necessarily canonical, best first: the first that is new counts. At least one.
    pub points: Vec<Vec<f64>>,
    pub origin: Origin,
    /// Trials that it was bred from.
    pub parents: Vec<u64>,
}

/// Proposes points. What it proposes for a trial depends on the results of trials up to some point before that one, on
/// the seed and on the trial's own stream, and on nothing else: in particular not on how often it was asked.
pub(super) trait Sampler: Send + Sync {
    /// Learns what trial `number` may depend on; `false` where results of that are missing. Numbers only grow.
    fn prepare(&mut self, view: &View, number: u64) -> bool;

    /// A point for trial `number`, for which it is prepared. Asked again with the same stream when all points of the
    /// draft are taken.
    fn propose(&mut self, view: &View, number: u64, rng: &mut Pcg64) -> Draft;

    /// How often to ask again for the same trial, before chance decides.
    fn redraws(&self) -> u32;
}
