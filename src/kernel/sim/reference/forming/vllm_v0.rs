//! vLLM's scheduler of version 0: steps of whole prompts, or of tokens of replies.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::VllmV0;

impl World<'_> {
    pub(super) fn form_vllm_v0(&mut self, _r: usize, _rules: &VllmV0, _f: &mut Forming) {
        unimplemented!()
    }
}
