//! Orders of the queue that need more than what the request says: virtual token counters, and what a prompt will take.

use super::parts::Stage;
use super::world::World;
use crate::sim::fair::{INPUT_WEIGHT, OUTPUT_WEIGHT};
use crate::sim::latency::BatchShape;
use crate::sim::scheduler::QueueOrder;
use crate::units::SimTime;

impl World<'_> {
    fn policy(&self, r: usize) -> QueueOrder {
        self.replicas[r].pool.common.policy
    }

    pub(super) fn tenant(&self, i: usize) -> i64 {
        self.demand.tenant(self.lives[i].request)
    }

    /// What the tenant of a request was given.
    pub(super) fn counter(&self, r: usize, i: usize) -> i64 {
        self.replicas[r].counters.get(&self.tenant(i)).copied().unwrap_or(0)
    }

    /// When the request must start at the latest.
    pub(super) fn latest_start(&self, i: usize) -> i64 {
        let life = &self.lives[i];
        match self.demand.deadline(life.request) {
            SimTime::MAX => i64::MAX,
            deadline => deadline.0.saturating_sub(life.estimate.0),
        }
    }

    /// A request of the queue that no list of active requests holds, and that has no KV cache from elsewhere, or awaits it.
    fn queues(&self, i: usize) -> bool {
        let life = &self.lives[i];
        !life.ready && life.listed.is_none() && life.trip.is_none()
    }

    /// The request is about to enter the queue.
    pub(super) fn joins(&mut self, r: usize, i: usize) {
        match self.policy(r) {
            QueueOrder::LeastSlack => self.estimate(r, i),
            QueueOrder::Fair if !self.lives[i].ready => self.lift(r, i),
            QueueOrder::Fair | QueueOrder::Fcfs | QueueOrder::Priority | QueueOrder::Sjf | QueueOrder::Edf => {}
        }
    }

    fn estimate(&mut self, r: usize, i: usize) {
        let pool = self.pool(r);
        let n = self.lives[i].prompt as u64;
        let alone = BatchShape {
            prefill_requests: 1,
            prefill_tokens: n,
            prefill_tokens_max: n,
            prefill_tokens_squared: n * n,
            prefill_tokens_x_input: n * n,
            ..BatchShape::default()
        };
        let asked = pool.model.extrapolated();
        self.lives[i].estimate = pool.model.step(&alone);
        self.estimates[pool.number] += pool.model.extrapolated() - asked;
        self.fire("orders: estimate");
    }

    fn lift(&mut self, r: usize, i: usize) {
        let mut others: Vec<usize> = self.replicas[r].waiting.iter().copied().collect();
        others.retain(|other| self.queues(*other));
        let tenant = self.tenant(i);
        if others.iter().any(|other| self.tenant(*other) == tenant) {
            return;
        }
        let (level, rule) = match others.iter().map(|other| self.counter(r, *other)).min() {
            Some(level) => (level, "fair: raised to the lowest"),
            None => {
                let last = self.replicas[r].last_left.and_then(|last| self.replicas[r].counters.get(&last));
                (last.copied().unwrap_or(0), "fair: raised to the last")
            }
        };
        if level > self.counter(r, i) {
            self.replicas[r].counters.insert(tenant, level);
            self.fire(rule);
        }
    }

    /// The request is about to leave the queue, for a seat, a place in the list, or because its client went.
    pub(super) fn leaves_queue(&mut self, r: usize, i: usize) {
        if self.queues(i) {
            self.replicas[r].last_left = Some(self.tenant(i));
        }
    }

    /// The request is admitted.
    pub(super) fn charge_prompt(&mut self, r: usize, i: usize) {
        let life = &mut self.lives[i];
        if life.stage != Stage::Reply && life.charged != Some(r) {
            life.charged = Some(r);
            let tokens = life.prompt as i64;
            self.charge(r, i, INPUT_WEIGHT * tokens);
        }
    }

    /// A step was formed in which the request has a token.
    pub(super) fn charge_token(&mut self, r: usize, i: usize) {
        self.charge(r, i, OUTPUT_WEIGHT);
    }

    fn charge(&mut self, r: usize, i: usize, weighted: i64) {
        let tenant = self.tenant(i);
        *self.replicas[r].counters.entry(tenant).or_insert(0) += weighted;
    }

    /// The head of the queue is not who came first.
    pub(super) fn note_overtaking(&mut self, r: usize, i: usize) {
        if self.policy(r) != QueueOrder::Fair {
            return;
        }
        let came = |i: &usize| (self.lives[*i].arrival, self.lives[*i].request, self.lives[*i].sample);
        let others = self.replicas[r].waiting.iter().filter(|other| self.queues(**other));
        if others.map(came).min().is_some_and(|first| first < came(&i)) {
            self.fire("fair: another tenant goes first");
        }
    }
}
