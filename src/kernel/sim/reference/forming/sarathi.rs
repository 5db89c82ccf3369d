//! Sarathi-Serve: chunks of prompts beside tokens of replies.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Sarathi;

impl World<'_> {
    pub(super) fn form_sarathi(&mut self, _r: usize, _rules: &Sarathi, _f: &mut Forming) {
        unimplemented!()
    }
}
