//! TensorRT-LLM's in-flight batching.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Trtllm;

impl World<'_> {
    pub(super) fn form_trtllm(&mut self, _r: usize, _rules: &Trtllm, _f: &mut Forming) {
        unimplemented!()
    }
}
