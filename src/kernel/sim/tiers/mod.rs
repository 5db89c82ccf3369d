//! Tiers behind the GPU's prefix cache: blocks that were computed once are kept in the host's memory, on disks or in a
//! store elsewhere, and are fetched instead of computed again.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | what a user says, what is refused, the numbers in whole units |
//! | `store` | what a tier holds: by runs of blocks, oldest first |
//! | `fetching` | what a replica does: lookups, fetches and loads, stores |
//!
//! # Rules
//!
//! 1. **Where.** Every engine has tiers of its own, in the order of `deployment.kv.tiers`; one that is `shared` is one
//!    store, with one set of places for transfers, for all engines of the deployment (of the pool). At one instant what
//!    steps that end fill is stored first, engine by engine; then each engine in turn does what it does with its queue
//!    and its next step. A tier holds blocks of `block_size` tokens (*stored blocks*); each is known by its content and
//!    all before it, as in the prefix cache.
//! 2. **Lookup.** When a waiting request would be admitted, and the blocks of its whole prompt (with what it generated
//!    before a preemption) are free beyond those that it shares, the tiers are asked for what follows its hits in the
//!    GPU's cache: the first tier that has the next block is used as far as it has them, then the first that has the
//!    one after that, and so on; up to the last token but one, and to the last whole stored block. Of a stored block
//!    only the KV blocks that are missing are read. Where the blocks of the whole prompt are not free, the request
//!    waits as one that does not fit (as with vLLM's `scheduler_reserve_full_isl`), whether or not there is something
//!    to fetch.
//! 3. **Fetch or compute.** `fetch: never` tiers are not looked up. With `cheaper`, the run that a tier has is fetched
//!    if the wait for a free transfer, the latency and the run's bytes together take no longer than what the latency
//!    model says of a step with a prompt of the run's tokens alone, behind those before them; else it is computed, and
//!    with it all behind.
//! 4. **A fetch.** What is to come from one tier is one transfer. The request leaves the queue and holds the blocks of
//!    its whole prompt, but no seat; it counts as waiting, and others may pass it (vLLM's `WAITING_FOR_REMOTE_KVS`).
//!    When its last transfer is over, the contents of the blocks are in the GPU's cache, and it waits again, ahead of
//!    all that hold no blocks; it is admitted when there are a seat and budget, and computes the rest. A client that
//!    goes meanwhile is noticed then.
//! 5. **A blocking load.** Where all of it comes from `blocking` tiers, the request is admitted at once, sized by what
//!    is loaded, and the step lasts longer by the time until the last of its loads is over.
//! 6. **Prefetch.** A request that enters the queue is fetched from `prefetch` tiers then, if the blocks of its whole
//!    prompt are free and these tiers have something; it may take blocks that others wait for.
//! 7. **Transfers.** Each way a tier has `concurrency` places, first come, first served; one transfer in a place takes
//!    `latency_us + ceil(bytes / (bandwidth / concurrency))`, at least 1 ns, rounded up to whole ticks. A KV block has
//!    `block_size` x KV bytes of a token over all layers.
//! 8. **Stores.** `write_through`: at the end of a step, what it filled of each request is stored by one transfer per
//!    request, in the order of the batch. `on_evict`: what the GPU's cache reuses while a step is formed (or a prefetch
//!    begins) is stored by one transfer, in the order in which it is reused; the GPU's block is free for its new use at
//!    once. What the tier has is not written again, and counts as used. A stored block can be read when its write is
//!    over. Only blocks whose content the trace knows are stored, and what is fetched is not stored anew.
//! 9. **Replacement.** A stored block is *used* when it is stored or read (by a fetch or a load, when that begins).
//!    `lru`: the block that was used the longest ago leaves for a new one; of a run the last one counts as used first,
//!    so that the ends of prompts leave before their starts. `ttl`: the same, and what was not used for so long is not
//!    there any more. `pinned`: nothing leaves; of a run the first blocks are stored as far as there is room. What
//!    leaves does not disturb a transfer.
//! 10. **Contention.** With `contends_with_steps: x`, a step that the model says lasts `d` lasts longer by `x` times
//!     the part of `d` in which a transfer of the tier goes on, as known when it is formed: until the last one that was
//!     asked for is over.
//!
//! # Beside others
//!
//! | rule | source | test (`timelines/tiers.rs`, else as it says) |
//! |---|---|---|
//! | 11. **Adapters.** Contents under different adapters are different ones, in tiers as in the GPU's cache. What was fetched waits for its adapter with its blocks, and those behind may pass it (rule 12 of [`super::lora`]) | vLLM `_gen_lora_extra_hash_keys`, `v1/core/sched/scheduler.py` | `tiers_tell_adapters_apart`, `what_was_fetched_waits_for_its_adapter` |
//! | 12. **Encoders.** What tiers have of a prompt need not be encoded; what they have not is encoded when the request is admitted, for which there must be room | vLLM `_try_schedule_encoder_inputs` (by the tokens that are there) | `what_was_fetched_is_not_encoded`, `what_was_fetched_waits_for_the_encoder` |
//! | 13. **Fair sharing.** A request that is fetched leaves the queue then, and its tenant is charged for it when it is admitted | Sheng et al., OSDI 2024 (counters move with admissions) | `a_fetch_is_not_charged` |
//! | 14. **SGLang** (HiCache). What it asks and stores when, is in [its table](super::scheduler::Sglang): rules 24 to 27 there | SGLang 0.5.9 `mem_cache/hiradix_cache.py` | `timelines/sglang.rs` |
//!
//! A scheduler that asks tiers says so ([`Common::asks_tiers`](super::scheduler::Common::asks_tiers)), calls
//! [`Replica::ask_tiers`](super::replica::Replica::ask_tiers) behind `prefix_of`, and admits what comes back by
//! [`Replica::admit_fetched`](super::replica::Replica::admit_fetched). Left out: stores that several pools share;
//! staging from one tier to the next; the copy of a block out of the GPU before its reuse.

mod fetching;
mod settings;
mod store;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use self::store::Store;
use super::TierSummary;
use super::kv::hashes::Derivation;
use super::latency::{BatchShape, CONTEXT_PAGE, LatencyModel};
use crate::request::Requests;
use crate::units::{SimDuration, SimTime, Tick};

pub(super) use self::fetching::Asked;
pub use self::settings::{Device, Fetch, Replacement, Tier, TierKind, Ttl, WritePolicy};
pub(super) use self::settings::{TierFacts, facts_of, problems};

/// Longest transfer: 13 days.
const TRANSFER_MAX_NS: u128 = 1 << 50;

/// The tiers of one engine. See the head of the file.
pub(super) struct Tiers {
    tiers: Vec<One>,
    /// (end, order, slot) of fetches.
    fetches: BinaryHeap<Reverse<(SimTime, u64, u32)>>,
    begun: u64,
    /// Requests that are fetched and whose client has gone.
    gone: Vec<u32>,
    /// What the request that was asked about last gets: tier, first block, block behind the last; and that request.
    plan: Vec<Portion>,
    planned: u32,
    /// Contents that the GPU's cache has given up; empty between events.
    evicted: Vec<(u64, u32, u32)>,
    pub prefetches: bool,
    pub contends: bool,
    pub on_evict: bool,
    /// Some are those of all engines of a pool, and here only while this engine is let pass.
    pub shared: bool,
}

/// Tiers that the engines of a pool share, by their places. The cluster lends them to the engine that it lets pass.
pub(super) struct Shared(Vec<(usize, One)>);

impl Shared {
    pub(super) fn new(facts: &[TierFacts]) -> Shared {
        Shared(
            facts.iter().enumerate().filter(|(_, tier)| tier.shared).map(|(at, tier)| (at, One::new(tier))).collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// To an engine that has not got them, or from one that has.
    pub(super) fn lend(&mut self, tiers: &mut Tiers) {
        for (at, one) in &mut self.0 {
            std::mem::swap(one, &mut tiers.tiers[*at]);
        }
    }
}

/// KV blocks `from..to` of a request, in a tier.
#[derive(Clone, Copy)]
struct Portion {
    tier: usize,
    from: u32,
    to: u32,
}

struct One {
    facts: TierFacts,
    store: Store,
    reads: Places,
    writes: Places,
    told: TierSummary,
}

/// Places of transfers in one direction: when each is free.
struct Places {
    free: Vec<SimTime>,
    rate: u128,
    latency: SimDuration,
    tick: Option<Tick>,
    /// The end of the last transfer.
    last: SimTime,
}

impl Places {
    fn new(facts: &TierFacts, rate: u128) -> Places {
        Places {
            free: vec![SimTime::ZERO; facts.concurrency as usize],
            rate,
            latency: facts.latency,
            tick: facts.tick,
            last: SimTime::ZERO,
        }
    }

    fn time(&self, bytes: u128) -> SimDuration {
        let flow = (bytes * 1_000_000_000).div_ceil(self.rate).min(TRANSFER_MAX_NS) as i64;
        let quantum = self.tick.map_or(1, |tick| tick.duration().0);
        SimDuration((self.latency.0 + flow).max(1).div_ceil_to(quantum))
    }

    /// The place that is free first, and when a transfer would begin there.
    fn first(&self, now: SimTime) -> (usize, SimTime) {
        let first = self.free.iter().enumerate().min_by_key(|(at, free)| (**free, *at));
        first.map_or((0, now), |(at, free)| (at, now.max(*free)))
    }

    /// When a transfer would be over.
    fn estimate(&self, bytes: u128, now: SimTime) -> SimTime {
        self.first(now).1 + self.time(bytes)
    }

    /// A transfer; returns when it is over.
    fn book(&mut self, bytes: u128, now: SimTime) -> SimTime {
        let (at, start) = self.first(now);
        self.free[at] = start + self.time(bytes);
        self.last = self.last.max(self.free[at]);
        self.free[at]
    }
}

trait DivCeilTo {
    fn div_ceil_to(self, quantum: i64) -> i64;
}

impl DivCeilTo for i64 {
    /// Up to a multiple of the quantum.
    fn div_ceil_to(self, quantum: i64) -> i64 {
        (self + quantum - 1) / quantum * quantum
    }
}

impl One {
    fn new(facts: &TierFacts) -> One {
        One {
            store: Store::new(facts.capacity, facts.ttl, facts.pinned),
            reads: Places::new(facts, facts.read_rate),
            writes: Places::new(facts, facts.write_rate),
            told: TierSummary { blocks_total: facts.capacity, ..TierSummary::default() },
            facts: facts.clone(),
        }
    }

    /// Bytes of KV blocks.
    fn bytes(&self, blocks: u32) -> u128 {
        self.facts.block_bytes * u128::from(blocks)
    }

    /// Up to which KV block, at most `most`, this tier has what follows the first `from` of a request.
    fn has(&self, requests: &Requests, request: usize, from: u32, most: u32, now: SimTime) -> u32 {
        let TierFacts { chunk, derivation, tokens, .. } = self.facts;
        let known = derivation.known_blocks(requests, request, tokens);
        let end = most.div_ceil(chunk).min(known);
        let parts = derivation.unit_blocks();
        let mut at = from / chunk;
        while at < end {
            let (unit, sub) = derivation.unit_of(at);
            let wanted = parts.min(end - unit * parts);
            let found = self.store.run(derivation.unit_hash(requests, request, unit), sub, wanted, now);
            at = unit * parts + found;
            if found < wanted {
                break;
            }
        }
        (at * chunk).min(most).max(from)
    }

    /// KV blocks of a request begin to be read; returns when they are there.
    fn read(&mut self, requests: &Requests, request: usize, portions: &[Portion], now: SimTime) -> SimTime {
        let blocks: u32 = portions.iter().map(|portion| portion.to - portion.from).sum();
        for portion in portions.iter().rev() {
            let (from, to) = (portion.from / self.facts.chunk, portion.to.div_ceil(self.facts.chunk));
            for (hash, lo, hi) in runs(self.facts.derivation, requests, request, from, to) {
                self.store.touch(hash, lo, hi, now);
            }
        }
        let bytes = self.bytes(blocks);
        let end = self.reads.book(bytes, now);
        self.told.blocks_hit += u64::from(blocks);
        self.told.bytes_read += bytes;
        self.told.stall_ns += i128::from((end - now).0);
        end
    }

    /// So many stored blocks were put into the store.
    fn write(&mut self, stored: u64, now: SimTime) {
        if stored == 0 {
            return;
        }
        let bytes = self.facts.block_bytes * u128::from(self.facts.chunk) * u128::from(stored);
        let end = self.writes.book(bytes, now);
        self.store.written(end, now);
        self.told.blocks_stored += stored;
        self.told.bytes_written += bytes;
    }
}

/// Runs of the stored blocks `from..to` of a request, the last one first: hash of the unit, first, behind the last.
fn runs(
    derivation: Derivation,
    requests: &Requests,
    request: usize,
    from: u32,
    to: u32,
) -> impl DoubleEndedIterator<Item = (u64, u32, u32)> {
    let parts = derivation.unit_blocks();
    let units = if from < to { from / parts..to.div_ceil(parts) } else { 0..0 };
    units.rev().map(move |unit| {
        let first = unit * parts;
        let hash = derivation.unit_hash(requests, request, unit);
        (hash, from.max(first) - first, to.min(first + parts) - first)
    })
}

impl Tiers {
    pub(super) fn new(facts: &[TierFacts]) -> Tiers {
        Tiers {
            tiers: facts.iter().map(One::new).collect(),
            fetches: BinaryHeap::new(),
            begun: 0,
            gone: Vec::new(),
            plan: Vec::new(),
            planned: u32::MAX,
            evicted: Vec::new(),
            prefetches: facts.iter().any(|tier| tier.prefetch),
            contends: facts.iter().any(|tier| tier.contends > 0.0),
            on_evict: facts.iter().any(|tier| tier.write == WritePolicy::OnEvict),
            shared: facts.iter().any(|tier| tier.shared),
        }
    }

    /// Requests that are being fetched.
    pub(super) fn fetching(&self) -> usize {
        self.fetches.len()
    }

    /// Fetches that have begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) fn fetching_slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.fetches.iter().map(|Reverse((_, _, slot))| *slot)
    }

    /// When the next fetch is over.
    pub(super) fn next_fetch(&self) -> Option<SimTime> {
        self.fetches.peek().map(|Reverse((at, ..))| *at)
    }

    /// By how much longer a step lasts that begins at `start`.
    pub(super) fn slowdown(&self, start: SimTime, said: SimDuration) -> SimDuration {
        let share = |one: &One| {
            let busy = one.reads.last.max(one.writes.last) - start;
            let overlap = busy.0.clamp(0, said.0.max(0));
            (overlap as f64 * one.facts.contends) as i64
        };
        SimDuration(self.tiers.iter().filter(|one| one.facts.contends > 0.0).map(share).sum())
    }

    pub(super) fn summaries(&self) -> Vec<TierSummary> {
        let told = |one: &One| TierSummary {
            blocks_max: one.store.most(),
            blocks_evicted: one.store.evicted(),
            ..one.told.clone()
        };
        self.tiers.iter().map(told).collect()
    }

    /// What the tiers have for a request behind its first `hits` blocks, of `most` in all; goes to `plan`. Returns the block
    /// behind the last.
    fn look_up(&mut self, wanted: &Wanted, requests: &Requests, model: &dyn LatencyModel, now: SimTime) -> u32 {
        self.plan.clear();
        let mut at = wanted.hits;
        let asked = |one: &One| one.facts.fetch != Fetch::Never && (!wanted.ahead || one.facts.prefetch);
        for one in self.tiers.iter_mut().filter(|one| asked(one)) {
            one.told.lookups += 1;
        }
        'walk: while at < wanted.most {
            for (tier, one) in self.tiers.iter().enumerate().filter(|(_, one)| asked(one)) {
                let to = one.has(requests, wanted.request, at, wanted.most, now);
                if to == at {
                    continue;
                }
                if one.facts.fetch == Fetch::Cheaper {
                    let fetched = one.reads.estimate(one.bytes(to - at), now) - now;
                    if fetched > computed(model, (to - at) * wanted.block_size, at * wanted.block_size, wanted.target) {
                        break 'walk;
                    }
                }
                self.plan.push(Portion { tier, from: at, to });
                at = to;
                continue 'walk;
            }
            break;
        }
        at
    }

    /// The transfers of the plan begin; returns when the last is over.
    fn begin(&mut self, requests: &Requests, request: usize, now: SimTime) -> SimTime {
        let mut end = now;
        for (tier, one) in self.tiers.iter_mut().enumerate() {
            let portions: Vec<Portion> = self.plan.iter().filter(|portion| portion.tier == tier).copied().collect();
            if !portions.is_empty() {
                end = end.max(one.read(requests, request, &portions, now));
            }
        }
        end
    }
}

/// What a lookup is about.
struct Wanted {
    request: usize,
    target: u32,
    hits: u32,
    /// Blocks that may be found.
    most: u32,
    block_size: u32,
    /// It enters the queue: only some tiers are asked.
    ahead: bool,
}

/// How long the latency model says that a step with these tokens of a prompt alone takes.
fn computed(model: &dyn LatencyModel, tokens: u32, context: u32, target: u32) -> SimDuration {
    let (n, context) = (u64::from(tokens), u64::from(context));
    model.step(&BatchShape {
        prefill_requests: 1,
        prefill_tokens: n,
        prefill_context: context,
        prefill_tokens_x_context: n * context,
        prefill_tokens_squared: n * n,
        prefill_tokens_x_input: n * u64::from(target),
        prefill_tokens_max: n,
        prefill_context_pages: context.div_ceil(CONTEXT_PAGE),
        ..BatchShape::default()
    })
}
