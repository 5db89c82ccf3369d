//! Orca: iteration-level scheduling with reserved memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Common, QueueOrder};
use crate::pools::Site;

/// Orca: iteration-level scheduling with reserved memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Orca {}

impl Orca {
    pub(super) fn common(&self) -> Common {
        Common::new(QueueOrder::Fcfs)
    }

    /// What is wrong with it, by path: without, and with the blocks that a replica has.
    pub(in crate::sim) fn problems(&self, _site: &Site) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    pub(in crate::sim) fn problems_of_cache(&self, _site: &Site, _blocks: u64) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}
