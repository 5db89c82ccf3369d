//! The one integration binary: pipe as a user runs it, in a project of its own.

mod cache;
mod cases;
mod crash;
mod duckdb;
mod numbers;
mod project;
mod readme;
mod real_traces;
mod sql;
mod tidy;
