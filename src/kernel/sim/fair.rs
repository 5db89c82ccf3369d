//! Fair sharing between tenants: the virtual token counters of VTC (Sheng et al., "Fairness in Serving Large Language
//! Models", OSDI 2024, algorithm 2), by which [`QueueOrder::Fair`](super::scheduler::QueueOrder::Fair) goes.
//!
//! | rule | test |
//! |---|---|
//! | 1. Of the tenants that have requests in the queue, the one with the lowest counter goes first; of its requests the one that arrived first, then the lowest number; also of tenants with equal counters. | `the_tenant_that_was_served_least_goes_first` |
//! | 2. A tenant is charged [`INPUT_WEIGHT`] for every token of a prompt when the request is admitted for the first time on an engine that computes it, whatever is found in the cache; and [`OUTPUT_WEIGHT`] for every token that comes out, when the step that yields it is formed. What a preempted request computes again is not charged. | the same |
//! | 3. A tenant none of whose requests are in the queue, and that sends one, has its counter raised to the lowest of those that are in the queue; where nobody is, to that of the tenant whose request left the queue last. | `who_comes_back_has_saved_nothing_up` |
//!
//! A tenant is `Requests::tenant`, where no request has one, the class; requests that do not say it are one tenant. Engines do not know
//! each other's counters. Whom a preemption takes the blocks of, the counters do not say: with vLLM's V1 the last of the
//! running, as without them. Requests whose KV cache came from elsewhere go before the queue, first come, first served; their
//! tokens are charged like all others.

use std::collections::BTreeMap;

/// For every token of a prompt, and for every token that is generated: the paper's, after the prices of services.
pub(super) const INPUT_WEIGHT: i64 = 1;
pub(super) const OUTPUT_WEIGHT: i64 = 2;

/// What was given to a tenant. While its requests decode, every step adds a token for each: `fixed + OUTPUT_WEIGHT *
/// decodes * steps`.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    fixed: i64,
    decodes: i64,
    /// Requests in the queue.
    waiting: u32,
}

impl Counter {
    fn at(&self, steps: u64) -> i64 {
        self.fixed + OUTPUT_WEIGHT * self.decodes * steps as i64
    }
}

/// The counters of an engine. See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Fair {
    counters: BTreeMap<i64, Counter>,
    /// Steps formed.
    pub steps: u64,
    last_left: Option<i64>,
}

impl Fair {
    /// A request of the tenant arrives.
    pub(super) fn enter(&mut self, tenant: i64) {
        let steps = self.steps;
        if self.counters.get(&tenant).is_none_or(|counter| counter.waiting == 0) {
            let lowest = self.waiting().map(|(_, counter)| counter.at(steps)).min();
            let last = self.last_left.and_then(|last| self.counters.get(&last)).map(|counter| counter.at(steps));
            let counter = self.counters.entry(tenant).or_default();
            counter.fixed += lowest.or(last).map_or(0, |level| (level - counter.at(steps)).max(0));
        }
        self.enter_again(tenant);
    }

    /// A preempted request of the tenant waits again.
    pub(super) fn enter_again(&mut self, tenant: i64) {
        self.counters.entry(tenant).or_default().waiting += 1;
    }

    /// A request of the tenant is not in the queue any more.
    pub(super) fn leave(&mut self, tenant: i64) {
        self.counters.entry(tenant).or_default().waiting -= 1;
        self.last_left = Some(tenant);
    }

    /// Tokens that were, or are not to be, given.
    pub(super) fn charge(&mut self, tenant: i64, weighted: i64) {
        self.counters.entry(tenant).or_default().fixed += weighted;
    }

    /// From now on, with so many steps formed, one more request of the tenant decodes; or, where `more` is -1, one less.
    pub(super) fn decode(&mut self, tenant: i64, more: i64, steps: u64) {
        let counter = self.counters.entry(tenant).or_default();
        counter.decodes += more;
        counter.fixed -= OUTPUT_WEIGHT * more * steps as i64;
    }

    fn waiting(&self) -> impl Iterator<Item = (i64, &Counter)> {
        self.counters.iter().filter(|(_, counter)| counter.waiting > 0).map(|(tenant, counter)| (*tenant, counter))
    }

    /// Tenants with requests in the queue, and their counters.
    pub(super) fn levels(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.waiting().map(|(tenant, counter)| (tenant, counter.at(self.steps)))
    }

    /// Steps of decode requests alone, after so many steps, until `first` is not the first any more, 0 where it is not now;
    /// `before` tells whether a tenant goes before another with an equal counter.
    pub(super) fn steady(&self, first: i64, steps: u64, before: impl Fn(i64, i64) -> bool) -> u64 {
        let Some(leader) = self.counters.get(&first) else { return u64::MAX };
        let overtakes = |(tenant, other): (i64, &Counter)| {
            let lead = other.at(steps) - leader.at(steps);
            if lead < 0 || lead == 0 && before(tenant, first) {
                return 0;
            }
            // By so much the leader comes nearer in every step.
            let nearer = OUTPUT_WEIGHT * (leader.decodes - other.decodes);
            if nearer <= 0 {
                return u64::MAX;
            }
            let even = lead % nearer == 0 && before(tenant, first);
            (lead / nearer + i64::from(!even)) as u64
        };
        self.waiting().filter(|(tenant, _)| *tenant != first).map(overtakes).min().unwrap_or(u64::MAX)
    }
}
