//! The one integration binary: pipe as a user runs it, in a project of its own.

mod bench;
mod cache;
mod cases;
mod crash;
mod duckdb;
mod numbers;
mod policies;
mod project;
mod queueing;
mod readme;
mod real_traces;
mod sql;
mod tidy;
