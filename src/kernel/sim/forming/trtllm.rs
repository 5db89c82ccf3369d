//! Forming a step by the rules of [`Trtllm`].

use crate::sim::batch::Forming;
use crate::sim::node::Env;
use crate::sim::replica::Replica;
use crate::sim::scheduler::Trtllm;

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: Trtllm,
}

impl State {
    pub(super) fn new(rules: &Trtllm) -> State {
        State { rules: rules.clone() }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, _replica: &mut Replica, _f: &mut Forming, _env: &Env<'_>) {
        unimplemented!("{:?}", self.rules)
    }
}
