//! Routers: which replica an arriving request goes to.

use rand::Rng;
use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rng;

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

/// Picks replicas. Sees the requests in the system of every replica, never a request's true output length.
pub(crate) struct Picker {
    router: Router,
    replicas: u64,
    next: u64,
    random: Pcg64,
}

impl Picker {
    pub(crate) fn new(router: Router, replicas: u32, seed: u64) -> Picker {
        Picker { router, replicas: u64::from(replicas), next: 0, random: rng::stream(seed, "router") }
    }

    /// Whether decisions depend on the state of the replicas.
    pub(crate) fn looks(&self) -> bool {
        match self.router {
            Router::RoundRobin | Router::Random => false,
            Router::LeastOutstanding => true,
        }
    }

    /// The replica for the next request; `outstanding(i)` is the number of requests in the system of replica `i`.
    pub(crate) fn pick(&mut self, outstanding: impl Fn(usize) -> u64) -> usize {
        match self.router {
            Router::RoundRobin => {
                let picked = self.next;
                self.next = (self.next + 1) % self.replicas;
                picked as usize
            }
            // The upper half of a 64 by 64 bit product: uniform to within replicas / 2^64.
            Router::Random => ((u128::from(self.random.next_u64()) * u128::from(self.replicas)) >> 64) as usize,
            Router::LeastOutstanding => {
                let fewest = (0..self.replicas as usize).min_by_key(|&i| outstanding(i));
                fewest.unwrap_or(0)
            }
        }
    }
}
