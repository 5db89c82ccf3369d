//! FasterTransformer: static batches.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::FasterTransformer;

impl World<'_> {
    pub(super) fn form_faster_transformer(&mut self, _r: usize, _rules: &FasterTransformer, _f: &mut Forming) {
        unimplemented!()
    }
}
