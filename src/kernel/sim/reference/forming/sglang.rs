//! SGLang's scheduler.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Sglang;

impl World<'_> {
    pub(super) fn form_sglang(&mut self, _r: usize, _rules: &Sglang, _f: &mut Forming) {
        unimplemented!()
    }
}
