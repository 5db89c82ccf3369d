//! Orca: iteration-level scheduling with reserved memory.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Orca;

impl World<'_> {
    pub(super) fn form_orca(&mut self, _r: usize, _rules: &Orca, _f: &mut Forming) {
        unimplemented!()
    }
}
