//! LightLLM: a cache of single tokens, and a forecast of its peak.

use super::Forming;
use crate::sim::reference::world::World;
use crate::sim::scheduler::Lightllm;

impl World<'_> {
    pub(super) fn form_lightllm(&mut self, _r: usize, _rules: &Lightllm, _f: &mut Forming) {
        unimplemented!()
    }
}
