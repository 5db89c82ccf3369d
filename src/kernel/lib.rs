//! The simulator and the samplers of pipe.
//!
//! Pure computation: no I/O, no clock, no threads, no Arrow. What it returns depends on its arguments alone, so the
//! same scenario, requests and seed give the same rows on any machine and with any number of threads.
//!
//! | module | holds |
//! |---|---|
//! | [`units`] | integer time |
//! | [`rng`] | labelled random streams with a specified generator, and the distributions drawn from them |
//! | [`request`] | the requests of a workload, as flat arrays shared by every scenario of a fan-out |
//! | [`scenario`], [`pools`] | what is simulated: deployment and its pools, model, GPU, load, seed |
//! | [`profile`] | measured times of operators and steps, which some latency models read |
//! | [`sim`] | the engine, its schedulers, KV cache, routers, latency models, and the slow oracle that it must equal |
//! | [`queueing`] | the simple model of a cluster: rates and FIFO queues alone |
//! | [`workload`] | synthetic requests: arrivals, lengths, sessions, agents |
//! | [`tune`] | search spaces, samplers, Pareto fronts |

#[doc(hidden)]
pub mod bench_cases;
pub mod pools;
pub mod profile;
pub mod queueing;
pub mod request;
pub mod rng;
pub mod scenario;
pub mod sim;
pub mod tune;
pub mod units;
pub mod workload;

/// Version of the simulator's results. Raised by hand whenever the same scenario would give other rows: it is part of
/// every fingerprint of a simulation, so that results of an older simulator are never reused.
pub const SIM_VERSION: u32 = 6;
