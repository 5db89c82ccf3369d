//! Synthetic workloads: when requests arrive, how long they are, which of them begin with the same words, and which
//! wait for others.
//!
//! Every purpose draws from its own stream of the seed (`workload/arrivals`, `workload/input`, `workload/output`,
//! `workload/prefix`): another rate scales the gaps and changes nothing else, another output length leaves arrivals
//! and prompts alone. Two workloads of one seed can therefore be compared request by request. Every turn of a session
//! has streams of its own (`workload/sessions/7/2/input`), so that sessions of more turns leave the others alone too.
//!
//! | file | holds |
//! |---|---|
//! | `arrivals.rs`, `schedule.rs` | processes; rates that change over time |
//! | `lengths.rs`, `families.rs`, `shape.rs` | distributions of lengths; how the numbers of a request go together |
//! | `prefix.rs`, `mix.rs` | what prompts begin with; models, adapters, media |
//! | `sessions.rs`, `chains.rs`, `conversations.rs` | requests that wait for others |
//! | `generate.rs` | one kind of requests |
//! | `clients.rs`, `windows.rs` | several clients in one workload; clients that change from window to window |
//! | `fit.rs` | the clients that a trace seems to have |
//!
//! Left out: text.

mod arrivals;
#[cfg(test)]
mod arrivals_tests;
mod chains;
mod clients;
mod conversations;
#[cfg(test)]
mod conversations_tests;
mod families;
mod fit;
#[cfg(test)]
mod fit_tests;
mod generate;
mod lengths;
#[cfg(test)]
mod lengths_tests;
mod mix;
mod prefix;
#[cfg(test)]
mod prefix_tests;
mod schedule;
mod sessions;
mod shape;
mod windows;

pub use arrivals::{
    ArrivalProcess, Batch, BatchConstant, BatchGaps, BatchGeometric, BatchSize, BatchUniform, ClosedLoop, Mmpp,
    MmppState, Weibull,
};
pub use chains::{ChainStep, Chains, StepContext};
pub use clients::{Body, Client, Clients, generate_clients};
pub use families::{Empirical, Exponential, GammaLengths, Pareto, ParetoLognormal, SkewNormal, Zipf};
pub use fit::{FitSettings, Fitted, Observed, fit, rank_correlation};
pub use generate::{Made, Synthetic, chain, generate, generate_all};
pub use lengths::{
    Constant, Lengths, Lognormal, LognormalMeanStd, LognormalP50P90, MAX_TOKENS, Normal, Sampler, Uniform,
};
pub use mix::{Adapters, Images, SharedPrefix};
pub use prefix::{PrefixGroup, PrefixLevel, PrefixTree, SystemPrompt};
pub use schedule::{Active, After, Diurnal, Interpolate, RatePiece, RateSchedule, Spike};
pub use sessions::SyntheticSessions;
pub use shape::{ConstantRatio, Correlation, GaussianCopula, Joint, Ratio, Reasoning, UniformRatio};
pub use windows::{Field, LengthSet, Window, Windows};

/// One thing that is wrong with a workload: the user's mistake, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the field, e.g. `input.lognormal.sigma`.
    pub path: String,
    /// What is wrong with its value, and what would be valid.
    pub message: String,
}

/// Collects problems below one path.
struct Problems<'a> {
    path: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    fn below(path: &'a str) -> Self {
        Problems { path, found: Vec::new() }
    }

    /// Notes `message` against `field` unless `ok`.
    fn require(&mut self, ok: bool, field: &str, message: impl FnOnce() -> String) {
        if !ok {
            let path = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
            self.found.push(Problem { path, message: message() });
        }
    }

    /// Notes a number that is not finite and above zero.
    fn require_positive(&mut self, value: f64, field: &str) {
        self.require(value.is_finite() && value > 0.0, field, || format!("must be a number above 0, not {value}"));
    }

    fn require_at_least_zero(&mut self, value: f64, field: &str) {
        self.require(value.is_finite() && value >= 0.0, field, || format!("must be a number from 0 up, not {value}"));
    }
}
