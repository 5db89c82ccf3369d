//! Routers: which replica an arriving request goes to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The choice of a router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Router {
    /// One replica after the other.
    #[default]
    RoundRobin,
    /// Uniformly at random, from the scenario's own stream.
    Random,
    /// The replica with the fewest requests in the system (waiting or running); the lowest index among equals.
    LeastOutstanding,
}
