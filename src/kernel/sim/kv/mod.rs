//! The key-value cache of a replica: how many blocks there are, which are in use, whose content can be reused.

pub mod extents;
pub mod hashes;
pub mod plan;
pub(in crate::sim) mod table;
