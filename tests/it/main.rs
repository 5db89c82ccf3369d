//! The one integration binary: pipe as a user runs it, in a project of its own.

mod bench;
mod cache;
mod calibrate;
mod cases;
mod catalog;
mod cluster;
mod crash;
mod duckdb;
mod fidelity;
mod latency;
mod measured;
mod mono_vs_disagg;
mod numbers;
mod policies;
mod profiles;
mod project;
mod queueing;
mod readme;
mod real_traces;
mod sql;
mod tidy;
mod tuning;
mod vidur;
mod vidur_requests;
mod vidur_steps;
mod workloads;
