//! pipe: a declarative dataflow pipeline that turns request traces of LLM services into capacity, configuration and
//! cost decisions.

pub mod catalog;
pub mod cli;
pub mod diag;
pub mod plan;
pub mod query;
pub mod report;
pub mod run;
pub mod spec;
pub mod stage;
pub mod store;
pub mod table;
pub mod trace;
