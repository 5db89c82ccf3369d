//! The one integration binary: pipe as a user runs it, in a project of its own.

mod bench;
mod cache;
mod cases;
mod cluster;
mod crash;
mod duckdb;
mod mono_vs_disagg;
mod numbers;
mod policies;
mod project;
mod queueing;
mod readme;
mod real_traces;
mod sql;
mod tidy;
mod vidur;
