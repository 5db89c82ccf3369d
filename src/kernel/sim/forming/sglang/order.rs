//! The order of the queue (SGLang's `SchedulePolicy`).

use std::collections::HashMap;

use rand_pcg::Pcg64;

use super::State;
use crate::rng;
use crate::sim::kv::hashes::Derivation;
use crate::sim::node::Env;
use crate::sim::replica::Replica;
use crate::sim::scheduler::{LPM_MAX, SchedulePolicy};

/// A queue, and the numbers of the next shuffles.
pub(super) struct Stood {
    order: Vec<u32>,
    numbers: Option<Pcg64>,
}

/// A waiting request by what the cache has of it: hashes of its units, and blocks of the last of them.
struct Found {
    slot: u32,
    units: Vec<u64>,
    last: u32,
}

impl State {
    /// Rules 12 to 15. First come, first served, and `lof`, are the queue's own.
    pub(super) fn arrange(&mut self, r: &mut Replica, env: &Env<'_>) {
        let known = r.derivation != Derivation::None;
        let order = match self.rules.schedule_policy {
            SchedulePolicy::Lpm if known && r.waiting.len() <= LPM_MAX => self.by_prefix(r, env),
            SchedulePolicy::DfsWeight if known => by_weight(r, env),
            SchedulePolicy::Random => self.shuffled(r, env),
            SchedulePolicy::Lpm | SchedulePolicy::DfsWeight | SchedulePolicy::Fcfs | SchedulePolicy::Lof => return,
        };
        r.waiting.arrange(&order);
    }

    /// Where nobody runs and somebody may have to wait all the same: the queue as it stands, and the numbers to come. A look
    /// that leads to nothing leaves them as they are, and so it does not matter how many there are.
    pub(super) fn stands(&self, r: &Replica) -> Option<Stood> {
        let waits = r.running.is_empty() && (r.tiers.is_some() || r.adapters.is_some());
        let known = self.rules.schedule_policy != SchedulePolicy::Lof;
        (waits && known).then(|| Stood { order: r.waiting.iter().collect(), numbers: self.numbers.clone() })
    }

    /// The look led to nothing, unless somebody has left the queue.
    pub(super) fn put_back(&mut self, stood: Option<Stood>, r: &mut Replica) {
        let Some(stood) = stood.filter(|stood| stood.order.len() == r.waiting.len()) else { return };
        self.numbers = stood.numbers;
        r.waiting.arrange(&stood.order);
    }

    /// Rules 12 and 13.
    fn by_prefix(&self, r: &Replica, env: &Env<'_>) -> Vec<u32> {
        let check = self.rules.in_batch_prefix_caching_check_threshold;
        let share = self.rules.in_batch_prefix_caching_deprioritize_threshold;
        let tokens = |blocks: u32| i64::from(blocks) * i64::from(r.block_size);
        let mut waiting = Waiting::default();
        let mut keyed: Vec<(bool, i64, u32)> = Vec::with_capacity(r.waiting.len());
        for slot in r.waiting.iter() {
            let found = found(r, slot, env);
            let mut held_back = false;
            if tokens(found) <= check {
                held_back = tokens(waiting.shared(r, slot, env)) >= share;
                if !held_back {
                    waiting.insert(r, slot, env);
                }
            }
            keyed.push((held_back, if held_back { 0 } else { -i64::from(found) }, slot));
        }
        keyed.sort_by_key(|(held_back, found, _)| (*held_back, *found));
        keyed.into_iter().map(|(_, _, slot)| slot).collect()
    }

    fn shuffled(&mut self, r: &Replica, env: &Env<'_>) -> Vec<u32> {
        let numbers = self.numbers.get_or_insert_with(|| rng::stream(env.seed, &format!("scheduler/sglang/{}", r.id)));
        let mut order: Vec<u32> = r.waiting.iter().collect();
        for last in (1..order.len()).rev() {
            order.swap(last, rng::below(numbers, last as u64 + 1) as usize);
        }
        order
    }
}

/// Prefixes of requests that wait, by unit: blocks of it.
#[derive(Default)]
struct Waiting(HashMap<u64, u32>);

impl Waiting {
    /// Blocks at the start of a request that one of them has.
    fn shared(&self, r: &Replica, slot: u32, env: &Env<'_>) -> u32 {
        let mut shared = 0;
        for (hash, blocks) in units(r, slot, env) {
            let there = self.0.get(&hash).copied().unwrap_or(0).min(blocks);
            shared += there;
            if there < blocks {
                break;
            }
        }
        shared
    }

    fn insert(&mut self, r: &Replica, slot: u32, env: &Env<'_>) {
        for (hash, blocks) in units(r, slot, env) {
            let there = self.0.entry(hash).or_insert(0);
            *there = blocks.max(*there);
        }
    }
}

/// The units of all tokens of a waiting request that are known, and the blocks of each.
fn units(r: &Replica, slot: u32, env: &Env<'_>) -> impl Iterator<Item = (u64, u32)> {
    let live = &r.live[slot as usize];
    let mut left = live.known.min(live.target / r.block_size);
    r.derivation.units(env.requests, live.request as usize, r.block_size).map_while(move |unit| {
        let blocks = unit.blocks.min(left);
        left -= blocks;
        (blocks > 0).then_some((unit.hash, blocks))
    })
}

/// Blocks at the start of a waiting request that are in the cache; its last token counts.
fn found(r: &Replica, slot: u32, env: &Env<'_>) -> u32 {
    let live = &r.live[slot as usize];
    let most = live.known.min(live.target / r.block_size);
    r.pool.find(r.derivation.units(env.requests, live.request as usize, r.block_size), most).0
}

/// Rule 14.
fn by_weight(r: &Replica, env: &Env<'_>) -> Vec<u32> {
    let path = |slot| {
        let mut left = found(r, slot, env);
        let mut last = 0;
        let of = units(r, slot, env).map_while(|(hash, blocks)| {
            let here = blocks.min(left);
            left -= here;
            if here > 0 {
                last = here;
            }
            (here > 0).then_some(hash)
        });
        let units = of.collect();
        Found { slot, units, last }
    };
    let all: Vec<Found> = r.waiting.iter().map(path).collect();
    let mut order = Vec::with_capacity(all.len());
    visit((0..all.len()).collect(), 0, &all, &mut order);
    order.into_iter().map(|at| all[at].slot).collect()
}

/// The requests of one subtree: children by weight, what ends in their first `depth` units last.
fn visit(mut group: Vec<usize>, mut depth: usize, all: &[Found], order: &mut Vec<usize>) {
    loop {
        let (ends, on): (Vec<usize>, Vec<usize>) = group.iter().partition(|at| all[**at].units.len() == depth);
        let mut children: Vec<Vec<usize>> = Vec::new();
        let mut by_hash = HashMap::new();
        for at in on {
            let child = *by_hash.entry(all[at].units[depth]).or_insert_with(|| {
                children.push(Vec::new());
                children.len() - 1
            });
            children[child].push(at);
        }
        if ends.is_empty() && children.len() == 1 {
            (group, depth) = (children.swap_remove(0), depth + 1);
            continue;
        }
        children.sort_by_key(|child| std::cmp::Reverse(child.len()));
        children.into_iter().for_each(|child| visit(child, depth + 1, all, order));
        // Within a unit those that are found further come first.
        let mut ends = ends;
        ends.sort_by_key(|at| std::cmp::Reverse(all[*at].last));
        order.extend(ends);
        return;
    }
}
