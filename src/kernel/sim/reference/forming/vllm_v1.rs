//! vLLM's V1 scheduler.

use super::Forming;
use crate::sim::reference::tiers::ENCODER_WAITS;
use crate::sim::reference::world::World;
use crate::sim::scheduler::VllmV1;

impl World<'_> {
    pub(super) fn form_v1(&mut self, r: usize, rules: &VllmV1, f: &mut Forming) {
        f.budget = rules.max_num_batched_tokens as usize;
        self.serve_running(r, rules, f);
        if f.preempted == 0 {
            self.admit(r, rules, f);
        }
    }

    /// The running requests, in the order of their admission.
    fn serve_running(&mut self, r: usize, rules: &VllmV1, f: &mut Forming) {
        let mut at = 0;
        while at < self.replicas[r].running.len() && f.budget > 0 {
            let i = self.replicas[r].running[at];
            if self.is_in_flight(r, i) {
                if self.lives[i].decodes() {
                    at += 1;
                    continue;
                }
                self.fire("lanes: a chunk follows one in flight");
            }
            if self.is_about_to_be_cut(r, i) {
                self.seen.left_out += 1;
                at += 1;
                continue;
            }
            let life = &self.lives[i];
            let (decode, from) = (life.decodes(), life.computed);
            let wanted = if decode { self.wanted(r, i) } else { life.target - from };
            let tokens = chunk(rules, wanted).min(f.budget);
            let part = loop {
                if let Some(part) = self.run_on(r, i, decode, tokens) {
                    break part;
                }
                let victim = self.victim(r);
                if self.is_in_flight(r, victim) {
                    self.fire("lanes: a victim is in flight");
                }
                self.preempt(r, victim, f);
                if victim == i {
                    return;
                }
            };
            f.batch.push(part);
            f.budget -= tokens;
            // Victims that stood before it are gone.
            at = 1 + self.replicas[r].running.iter().position(|running| *running == i).unwrap_or(at);
        }
    }

    /// Admits waiting requests until one does not fit.
    fn admit(&mut self, r: usize, rules: &VllmV1, f: &mut Forming) {
        while f.budget > 0 && self.replicas[r].running.len() < rules.max_num_seqs as usize {
            let Some(at) = self.head(r) else { return };
            let i = self.replicas[r].waiting[at];
            if self.is_in_flight(r, i) {
                self.fire("lanes: the head of the queue is on its way");
                return;
            }
            if let Some(hits) = self.lives[i].hits {
                let wanted = chunk(rules, self.lives[i].target - self.lives[i].computed);
                if !rules.enable_chunked_prefill && wanted > f.budget {
                    self.seen.blocked += 1;
                    return;
                }
                if !self.can_encode(r, i, self.lives[i].computed, f) {
                    self.fire(ENCODER_WAITS);
                    return;
                }
                let tokens = wanted.min(f.budget);
                self.seat_fetched(r, at, hits, tokens, f);
                f.budget -= tokens;
            } else if self.lives[i].ready {
                self.seen.passed += u64::from(self.replicas[r].waiting.iter().any(|other| !self.lives[*other].ready));
                self.seat_ready(r, at, f);
            } else if !self.seat(r, at, rules, f) {
                self.seen.blocked += 1;
                return;
            }
        }
    }

    /// Admits the request at this place of the queue, if it fits.
    fn seat(&mut self, r: usize, at: usize, rules: &VllmV1, f: &mut Forming) -> bool {
        let i = self.replicas[r].waiting[at];
        let hits = self.look_up(r, i);
        let loads = match self.tiers_for(r, i, &hits, f.now) {
            Ok(loads) => loads,
            Err(goes_on) => return goes_on,
        };
        let computed = (hits.len() + loads.count()) * self.replicas[r].pool.block_size;
        let wanted = chunk(rules, self.lives[i].target - computed);
        if !rules.enable_chunked_prefill && wanted > f.budget {
            return false;
        }
        let tokens = wanted.min(f.budget);
        let fits = match tokens {
            0 => self.has_room(r, &[], 0),
            1.. => self.has_room(r, &hits, computed + tokens),
        };
        if !fits {
            return false;
        }
        if !self.can_encode(r, i, computed, f) {
            self.seen.encoder_waits += 1;
            return false;
        }
        match loads.count() {
            0 => self.take_seat(r, at, hits, tokens, f),
            1.. => self.take_seat_with(r, at, hits, &loads, tokens, f),
        }
        f.budget -= tokens;
        true
    }
}

fn chunk(rules: &VllmV1, wanted: usize) -> usize {
    match rules.long_prefill_token_threshold as usize {
        0 => wanted,
        threshold => wanted.min(threshold),
    }
}
