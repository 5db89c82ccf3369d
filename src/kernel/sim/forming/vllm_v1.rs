//! Forming a step by the rules of [`VllmV1`]: where every decode request is sure to get its token, only prefills are looked
//! at; else all running requests are, in order.

use crate::sim::batch::{Forming, Seat, new_blocks};
use crate::sim::node::Env;
use crate::sim::replica::{Phase, Replica};
use crate::sim::scheduler::{QueueOrder, VllmV1};
use crate::sim::tiers::Asked;

impl Replica {
    /// See [`super::Former::form`].
    pub(super) fn form_v1(&mut self, rules: VllmV1, f: &mut Forming, env: &Env<'_>) {
        f.budget = rules.max_num_batched_tokens;
        if self.all_fit(rules) {
            self.decode_all(f, env);
            for i in 0..self.prefills.len() {
                if f.budget == 0 {
                    break;
                }
                let slot = self.prefills[i];
                let live = &self.live[slot as usize];
                let tokens = rules.running_tokens(live.target - live.computed, f.budget);
                self.run_prefill(slot, tokens, f, env);
            }
        } else {
            self.walk(rules, f, env);
        }
        let admits = f.preempted == 0 || VllmV1::ADMITS_AFTER_PREEMPTION;
        let settled = !admits || self.admit(rules, f, env);
        self.blocked = f.preempted == 0
            && settled
            && self.waits() > 0
            && self.next.chunks.is_empty()
            && self.stalled == 0
            && self.decodes == self.running.len() as u64;
    }

    /// Whether every running request gets all that it wants, or at least every decode does, without preemption.
    fn all_fit(&self, rules: VllmV1) -> bool {
        let budget = u64::from(rules.max_num_batched_tokens);
        let (decode_tokens, decode_need) = match self.speculating {
            // Who is cut is served by himself.
            Some(_) if rules.long_prefill_token_threshold > 0 => return false,
            Some(_) => self.verify_sums(),
            None => (self.decodes, self.class_counts[self.class(self.steps)]),
        };
        if self.stalled > 0 || decode_tokens > budget || decode_need > self.pool.free() {
            return false;
        }
        let Some(first) = self.prefills.first() else { return true };
        let (mut left, mut need, mut wanted) = ((budget - decode_tokens) as u32, decode_need, 0_u64);
        for slot in &self.prefills {
            let live = &self.live[*slot as usize];
            let remaining = live.target - live.computed;
            let tokens = rules.running_tokens(remaining, left);
            wanted += u64::from(rules.running_tokens(remaining, u32::MAX));
            left -= tokens;
            need += self.chunk_need(live, tokens);
        }
        if need > self.pool.free() {
            return false;
        }
        // Prefills behind all decodes take what is left. Before a decode, they must leave it its token, and, where both
        // fill blocks of known content, not be overtaken: of equal contents the one filled first is found.
        let filling = self.class(self.steps + 1);
        let fills = match self.speculating {
            Some(_) => !self.class_lists.is_empty(),
            None => self.class_lists.get(filling).is_some_and(|list| !list.is_empty()),
        };
        let prefills_last = self.running[self.running.len() - self.prefills.len()] == *first;
        prefills_last || (!fills && wanted + decode_tokens <= budget)
    }

    /// All running requests in order.
    fn walk(&mut self, rules: VllmV1, f: &mut Forming, env: &Env<'_>) {
        let mut at = 0;
        'running: while at < self.running.len() && f.budget > 0 {
            let slot = self.running[at];
            let live = &self.live[slot as usize];
            if live.phase == Phase::Ending {
                at += 1;
                continue;
            }
            let decode = live.phase == Phase::Decode;
            let computed = self.computed(live);
            let wanted = if decode { self.wanted(live, computed) } else { live.target - computed };
            let tokens = rules.running_tokens(wanted, f.budget);
            let need = match (decode, &self.speculating) {
                (true, Some(_)) => self.verify_need(live, computed, tokens),
                (true, None) => new_blocks(computed, tokens, self.block_size),
                (false, _) => self.chunk_need(live, tokens),
            };
            while self.pool.free() < need {
                if let Some(lane) = self.lane_of_victim(env) {
                    self.preempt_in(lane, f, env);
                    continue;
                }
                let Some(victim_at) = self.victim(env) else { break 'running };
                let victim = self.running.remove(victim_at);
                f.preempted += 1;
                let given_back = if victim_at < at {
                    at -= 1;
                    self.take_back(victim, f)
                } else {
                    0
                };
                self.preempt(victim, given_back, env);
                if victim == slot {
                    break 'running;
                }
            }
            if decode {
                self.run_tokens(slot, computed, tokens, f, env);
            } else {
                self.run_prefill(slot, tokens, f, env);
            }
            at += 1;
        }
        for at in at..self.running.len() {
            let slot = self.running[at];
            match self.live[slot as usize].phase {
                Phase::Decode if self.lanes.is_some() => self.leave_out(slot),
                Phase::Decode => self.stall(slot, f),
                _ => {}
            }
        }
    }

    /// Place in `running` of the request that goes when blocks are missing.
    pub(in crate::sim) fn victim(&self, env: &Env<'_>) -> Option<usize> {
        match self.common.policy {
            QueueOrder::Fcfs | QueueOrder::Sjf | QueueOrder::Edf | QueueOrder::LeastSlack | QueueOrder::Fair => {
                self.running.len().checked_sub(1)
            }
            QueueOrder::Priority => (0..self.running.len()).max_by_key(|at| self.key(self.running[*at], env)),
        }
    }

    /// Admits waiting requests in order until one does not fit; false where time alone may change that.
    fn admit(&mut self, rules: VllmV1, f: &mut Forming, env: &Env<'_>) -> bool {
        while f.budget > 0 && rules.has_seat(self.seated()) {
            let Some(slot) = self.next_ready(env) else { return true };
            let (target, loaded) = (self.live[slot as usize].target, self.live[slot as usize].loaded);
            if loaded {
                if !self.admit_ready(slot, rules, f, env) {
                    return true;
                }
                continue;
            }
            if self.is_on_its_way(slot) {
                return true;
            }
            let (hits, idle) = self.prefix_of(slot, env);
            let loads = match self.ask_tiers(slot, hits, idle, env) {
                Asked::NoRoom => return true,
                Asked::Fetching => continue,
                Asked::Loads(blocks) => blocks,
            };
            let computed = (hits + loads) * self.block_size;
            let Some(tokens) = rules.waiting_tokens(target - computed, f.budget) else { return self.tiers.is_none() };
            let blocks = new_blocks(computed, tokens, self.block_size) + u64::from(loads) + idle;
            let need = if tokens > 0 { blocks } else { 0 };
            if need + u64::from(self.fixed) > self.pool.free() {
                return true;
            }
            if !self.can_encode(slot, computed, f, env) {
                return self.tiers.is_none();
            }
            self.dequeue(slot, env);
            self.seat(slot, &Seat { hits, tokens, spare: 0 }, f, env);
        }
        true
    }

    /// Admits one of those that hold their blocks, if it fits into the budget.
    fn admit_ready(&mut self, slot: u32, rules: VllmV1, f: &mut Forming, env: &Env<'_>) -> bool {
        let live = &self.live[slot as usize];
        if live.fetched == 0 {
            self.unload(slot, env);
            self.admit_loaded(slot, f, env);
            return true;
        }
        let computed = live.computed;
        let Some(tokens) = rules.waiting_tokens(live.target - computed, f.budget) else { return false };
        if !self.can_encode(slot, computed, f, env) {
            return false;
        }
        self.unload(slot, env);
        self.admit_fetched(slot, tokens, f, env);
        true
    }
}
