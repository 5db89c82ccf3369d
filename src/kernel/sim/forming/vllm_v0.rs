//! Forming a step by the rules of [`VllmV0`].

use crate::sim::batch::Forming;
use crate::sim::node::Env;
use crate::sim::replica::Replica;
use crate::sim::scheduler::VllmV0;

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: VllmV0,
}

impl State {
    pub(super) fn new(rules: &VllmV0) -> State {
        State { rules: rules.clone() }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, _replica: &mut Replica, _f: &mut Forming, _env: &Env<'_>) {
        unimplemented!("{:?}", self.rules)
    }
}
