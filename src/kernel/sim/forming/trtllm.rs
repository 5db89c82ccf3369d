//! Forming a step by the rules of [`Trtllm`]: first whose blocks fit, then how many tokens of whom go into the step. Those that
//! generate are looked at one by one only where some of them may get nothing.

use std::collections::btree_map::Iter;
use std::collections::{BTreeSet, BinaryHeap};
use std::iter::Peekable;
use std::vec::IntoIter;

use crate::sim::batch::{Forming, Seat};
use crate::sim::lora::Claims;
use crate::sim::node::Env;
use crate::sim::replica::{Live, Phase, Replica};
use crate::sim::scheduler::{CapacitySchedulerPolicy, ContextChunkingPolicy, Trtllm};

/// See the head of the file.
#[derive(Debug)]
pub(in crate::sim) struct State {
    rules: Trtllm,
    /// Requests that became active.
    fetched: u64,
    /// (place in the list, admission, slot) of started requests, and of some that are not any more.
    started: BinaryHeap<(u64, u64, u32)>,
}

/// Whose blocks fit.
#[derive(Default)]
struct Fitting {
    /// In the order in which they get tokens.
    list: Vec<u32>,
    /// All that generate come first, and are not in the list.
    generate: bool,
    /// Some were passed over, whatever is free.
    passed: bool,
}

impl State {
    pub(super) fn new(rules: &Trtllm) -> State {
        State { rules: *rules, fetched: 0, started: BinaryHeap::new() }
    }

    /// See [`super::Former::form`].
    pub(super) fn form(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) {
        self.fetch(replica, env);
        f.budget = self.rules.max_num_tokens;
        let in_order = self.is_in_order(replica);
        let pauses = self.rules.capacity_scheduler_policy == CapacitySchedulerPolicy::MaxUtilization;
        // Where some lack tokens for their drafts or beams, prompts before them in the list go on.
        let tokens = if replica.speculating.is_some() { replica.verify_sums().0 } else { replica.decodes };
        let in_order = in_order && tokens <= u64::from(self.rules.max_num_tokens);
        let fitting = match (pauses, in_order && replica.stalled == 0) {
            (false, _) => self.to_completion(replica, env),
            (true, true) if self.pause_last(replica, f, env) => Fitting {
                generate: true,
                list: by_place(replica, &replica.prefills).into_iter().map(|(_, slot)| slot).collect(),
                passed: false,
            },
            (true, true) => self.next_step(replica, env),
            (true, false) => self.next_step_in_order(replica, f, env),
        };
        let (generating, contexts) = self.tokens(replica, &fitting);
        generate(replica, generating.as_deref(), f, env);
        // Where some get no tokens of a step, who comes later may.
        let prompts = |slot: &&u32| replica.live[**slot as usize].phase != Phase::Decode;
        let short = self.rules.enable_chunked_context && contexts.len() < fitting.list.iter().filter(prompts).count();
        for (slot, tokens) in contexts {
            match replica.live[slot as usize].phase {
                Phase::Waiting => self.start(replica, slot, tokens, f, env),
                Phase::Prefill | Phase::Decode | Phase::Ending | Phase::Moving | Phase::Fetching => {
                    replica.run_prefill(slot, tokens, f, env);
                }
            }
        }
        replica.blocked = f.preempted == 0
            && replica.waits() > 0
            && !fitting.passed
            && !short
            && (in_order || !pauses)
            && replica.next.chunks.is_empty()
            && replica.stalled == 0
            && replica.decodes - replica.beside == replica.running.len() as u64;
    }

    /// The first of the queue become active while there is a place.
    fn fetch(&mut self, replica: &mut Replica, env: &Env<'_>) {
        while replica.running.len() + replica.fetched.len() < self.rules.max_batch_size as usize {
            let Some(slot) = replica.waiting.front() else { return };
            if replica.live[slot as usize].several {
                let all = replica.siblings(slot);
                let active = replica.running.len() + replica.fetched.len();
                if active + all.len() > self.rules.max_batch_size as usize {
                    return;
                }
                for slot in all {
                    replica.unqueue(slot, env);
                    self.activate(replica, slot);
                }
                continue;
            }
            replica.waiting.pop_front();
            self.activate(replica, slot);
        }
    }

    fn activate(&mut self, replica: &mut Replica, slot: u32) {
        replica.charge_prompt(slot);
        replica.live[slot as usize].place = Some(self.fetched);
        replica.fetched.insert(self.fetched, slot);
        self.fetched += 1;
    }

    /// Whoever was fetched stands behind all that started.
    fn is_in_order(&mut self, replica: &Replica) -> bool {
        let Some((first, _)) = replica.fetched.first_key_value() else { return true };
        self.last_started(replica).is_none_or(|(place, _)| place < *first)
    }

    /// The last of the list that started, and its place.
    fn last_started(&mut self, replica: &Replica) -> Option<(u64, u32)> {
        while let Some((place, seq, slot)) = self.started.peek().copied() {
            let live = &replica.live[slot as usize];
            if live.seq == seq && live.phase != Phase::Waiting {
                return Some((place, slot));
            }
            self.started.pop();
        }
        None
    }

    /// Where all that started stand before all that did not: the last of them are paused, until the others have the blocks of
    /// this step. In turn, each would pause the last until it has its own, and so none more than these. Whether any is: then
    /// nobody behind them is looked at.
    fn pause_last(&mut self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) -> bool {
        let before = f.preempted;
        while replica.decode_need() > replica.pool.free() {
            let Some((_, slot)) = self.last_started(replica) else { unreachable!("who needs blocks has started") };
            let running = replica.position(slot);
            replica.evict(running, f, env);
        }
        f.preempted > before
    }

    /// Those that generate, and behind them, in the order of the list, who can have all blocks that it may ever need.
    fn to_completion(&self, replica: &Replica, env: &Env<'_>) -> Fitting {
        let mut fitting = Fitting { generate: true, ..Fitting::default() };
        let fixed = self.rules.capacity_scheduler_policy == CapacitySchedulerPolicy::StaticBatch;
        let nobody = replica.prefills.is_empty() && replica.fetched.is_empty();
        if nobody || fixed && replica.decodes > 0 {
            return fitting;
        }
        let mut contributed = if fixed { None } else { Some(contributed(replica, env)) };
        let mut available = replica.pool.free() as i64 - (replica.promised as i64 - held_by_decodes(replica) as i64);
        let mut full = false;
        let mut claims = Claims::beside_those_in_use();
        let mut contexts = Contexts::new(replica);
        while let Some(slot) = contexts.next(!full) {
            let live = &replica.live[slot as usize];
            let waits = live.phase == Phase::Waiting;
            if waits && contributed.as_mut().is_some_and(|known| waits_for_prefix(replica, slot, known, env)) {
                fitting.passed = true;
                continue;
            }
            let (all, width) = (to_the_end(replica, slot, env), u64::from(live.width));
            let need = match waits {
                // Those that wait can be many.
                true if width == 1 => all + u64::from(replica.fixed),
                true => all - (width - 1) * u64::from(live.target / replica.block_size) + u64::from(replica.fixed),
                false => all - width * u64::from(live.target.div_ceil(replica.block_size)),
            } as i64;
            if need > available && !waits {
                break;
            }
            if need > available {
                full = true;
                continue;
            }
            if !claims.fits(replica, slot, env) {
                continue;
            }
            claims.claim(replica, slot);
            available -= need;
            fitting.list.push(slot);
        }
        fitting
    }

    /// Where all that started stand first, and have the blocks of this step: they, and who else can have his.
    fn next_step(&self, replica: &Replica, env: &Env<'_>) -> Fitting {
        let mut fitting = Fitting { generate: true, ..Fitting::default() };
        if replica.prefills.is_empty() && replica.fetched.is_empty() {
            return fitting;
        }
        let mut known = contributed(replica, env);
        let mut taken = replica.decode_need();
        let mut claims = Claims::beside_those_in_use();
        let mut contexts = Contexts::new(replica);
        while let Some(slot) = contexts.next(true) {
            let live = &replica.live[slot as usize];
            if live.phase == Phase::Waiting {
                if waits_for_prefix(replica, slot, &mut known, env) {
                    fitting.passed = true;
                    continue;
                }
                taken += to_start(replica, live);
                if taken > replica.pool.free() || !claims.fits(replica, slot, env) {
                    break;
                }
                claims.claim(replica, slot);
            }
            fitting.list.push(slot);
        }
        fitting
    }

    /// All in the order of the list: who can have the blocks of this step, for which others are paused.
    fn next_step_in_order(&self, replica: &mut Replica, f: &mut Forming, env: &Env<'_>) -> Fitting {
        let mut fitting = Fitting::default();
        let mut known = contributed(replica, env);
        let mut claims = Claims::none();
        // Of those that were fetched, only who is reached is looked at: they can be many.
        let mut started = by_place(replica, &replica.running);
        let (mut at, mut fetched, mut end, mut taken) = (0, 0, u64::MAX, 0);
        loop {
            let running = started.get(at).copied();
            let waiting = replica.fetched.range(fetched..end).next().map(|(place, slot)| (*place, *slot));
            let Some((place, slot)) = running.into_iter().chain(waiting).min() else { return fitting };
            let live = &replica.live[slot as usize];
            let waits = live.phase == Phase::Waiting;
            if waits {
                fetched = place + 1;
            }
            let need = match live.phase {
                Phase::Waiting => {
                    if waits_for_prefix(replica, slot, &mut known, env) {
                        fitting.passed = true;
                        continue;
                    }
                    to_start(replica, live)
                }
                Phase::Decode if replica.speculating.is_some() => {
                    let computed = replica.computed(live);
                    replica.verify_need(live, computed, replica.wanted(live, computed))
                }
                Phase::Decode => replica.blocks_for(slot, replica.computed(live), 1),
                Phase::Prefill | Phase::Ending | Phase::Moving | Phase::Fetching => 0,
            };
            while taken + need > replica.pool.free() || !claims.fits(replica, slot, env) {
                if started.len() <= at {
                    return fitting;
                }
                let Some((of_victim, victim)) = started.pop() else { return fitting };
                let running = replica.position(victim);
                replica.evict(running, f, env);
                // The list ends before it.
                end = of_victim;
                if victim == slot {
                    return fitting;
                }
            }
            taken += need;
            claims.claim(replica, slot);
            fitting.list.push(slot);
            at += usize::from(!waits);
        }
    }

    /// Who of them generates, unless all do, and the tokens of each prompt.
    fn tokens(&self, replica: &Replica, fitting: &Fitting) -> (Option<Vec<u32>>, Vec<(u32, u32)>) {
        let most = self.rules.max_num_tokens;
        let (mut left, mut contexts) = (most, Vec::new());
        let mut generating = Vec::new();
        if fitting.generate {
            let sums = if replica.speculating.is_some() { replica.verify_sums().0 } else { replica.decodes };
            if sums <= u64::from(most) {
                left -= sums as u32;
            } else {
                let mut places: Vec<_> =
                    decodes(replica).map(|slot| (replica.live[slot as usize].place, slot)).collect();
                places.sort_unstable();
                for (_, slot) in places {
                    let tokens = tokens_of(replica, slot);
                    if tokens > left {
                        break;
                    }
                    left -= tokens;
                    generating.push(slot);
                }
                // Who does not fit ends the search for others.
                return (Some(generating), contexts);
            }
        }
        for slot in &fitting.list {
            let live = &replica.live[*slot as usize];
            if live.phase == Phase::Decode {
                let tokens = tokens_of(replica, *slot);
                if tokens > left {
                    break;
                }
                left -= tokens;
                generating.push(*slot);
                continue;
            }
            let lacks = live.target - live.computed;
            if self.rules.enable_chunked_context {
                contexts.push((*slot, lacks));
                continue;
            }
            if lacks > left {
                break;
            }
            left -= lacks;
            contexts.push((*slot, lacks));
        }
        if self.rules.enable_chunked_context {
            self.cut(&mut contexts, left, replica.block_size);
        }
        let all = fitting.generate || generating.len() as u64 == replica.decodes - replica.beside;
        if all { (None, contexts) } else { (Some(generating), contexts) }
    }

    /// Prompts that lack so many tokens share `left`.
    fn cut(&self, contexts: &mut Vec<(u32, u32)>, mut left: u32, unit: u32) {
        let wanted: u64 = contexts.iter().map(|(_, lacks)| u64::from(*lacks)).sum();
        if wanted <= u64::from(left) {
            return;
        }
        match self.rules.context_chunking_policy {
            ContextChunkingPolicy::FirstComeFirstServed => {
                for (_, tokens) in contexts.iter_mut() {
                    if *tokens > left {
                        *tokens = left / unit * unit;
                    }
                    left -= *tokens;
                }
            }
            ContextChunkingPolicy::EqualProgress => {
                let lacks: Vec<u32> = contexts.iter().map(|(_, lacks)| *lacks).collect();
                contexts.iter_mut().for_each(|(_, tokens)| *tokens = 0);
                let mut grows = true;
                while left > 0 && std::mem::take(&mut grows) {
                    for ((_, tokens), lacks) in contexts.iter_mut().zip(&lacks) {
                        let more = unit.min(lacks - *tokens);
                        if more <= left {
                            *tokens += more;
                            left -= more;
                            grows |= more > 0;
                        }
                    }
                }
            }
        }
        contexts.retain(|(_, tokens)| *tokens > 0);
    }

    /// A fetched request starts with so many tokens, if nothing of its prompt is found.
    fn start(&mut self, replica: &mut Replica, slot: u32, tokens: u32, f: &mut Forming, env: &Env<'_>) {
        let size = replica.block_size;
        let (hits, _) = replica.prefix_of(slot, env);
        let promise = to_the_end(replica, slot, env);
        let live = &mut replica.live[slot as usize];
        live.promise = promise;
        let (target, found) = (live.target, hits * size);
        let Some(place) = live.place else { unreachable!("who starts was fetched") };
        let tokens = if found > 0 && found + tokens < target {
            (found + tokens) / size * size - found
        } else {
            tokens.min(target - found)
        };
        replica.fetched.remove(&place);
        let (whole, within) = (target / size, u32::from(!target.is_multiple_of(size)));
        let spare = whole + within * replica.live[slot as usize].width - hits;
        replica.seat(slot, &Seat { hits, tokens, spare }, f, env);
        self.started.push((place, replica.live[slot as usize].seq, slot));
    }
}

/// Those that generate get their token: all, or these.
fn generate(replica: &mut Replica, these: Option<&[u32]>, f: &mut Forming, env: &Env<'_>) {
    if these.is_none() && replica.stalled == 0 {
        return replica.decode_all(f, env);
    }
    let these: Option<BTreeSet<u32>> = these.map(|these| these.iter().copied().collect());
    let all: Vec<u32> = decodes(replica).collect();
    for slot in all {
        if these.as_ref().is_none_or(|these| these.contains(&slot)) {
            let computed = replica.computed(&replica.live[slot as usize]);
            replica.run_decode(slot, computed, f, env);
        } else {
            replica.stall(slot, f);
        }
    }
}

fn decodes(replica: &Replica) -> impl Iterator<Item = u32> + '_ {
    replica.running.iter().copied().filter(|slot| replica.live[*slot as usize].phase == Phase::Decode)
}

/// These requests by their place in the list.
fn by_place(replica: &Replica, slots: &[u32]) -> Vec<(u64, u32)> {
    let place = |slot: &u32| replica.live[*slot as usize].place.unwrap_or_else(|| unreachable!("who runs was fetched"));
    let mut list: Vec<_> = slots.iter().map(|slot| (place(slot), *slot)).collect();
    list.sort_unstable();
    list
}

/// Prompts that are under way or were fetched, in the order of the list. Those that were fetched can be many, and are looked at
/// one by one.
struct Contexts<'a> {
    started: Peekable<IntoIter<(u64, u32)>>,
    fetched: Peekable<Iter<'a, u64, u32>>,
}

impl Contexts<'_> {
    fn new(replica: &Replica) -> Contexts<'_> {
        let started = by_place(replica, &replica.prefills);
        Contexts { started: started.into_iter().peekable(), fetched: replica.fetched.iter().peekable() }
    }

    /// The next one; of those that were fetched only if `all`.
    fn next(&mut self, all: bool) -> Option<u32> {
        let fetched = self.fetched.peek().filter(|_| all).map(|(place, _)| **place);
        let started = self.started.peek().map(|(place, _)| *place);
        match (started, fetched) {
            (None, None) => None,
            (Some(started), fetched) if fetched.is_none_or(|fetched| started < fetched) => {
                self.started.next().map(|(_, slot)| slot)
            }
            _ => self.fetched.next().map(|(_, slot)| *slot),
        }
    }
}

/// Tokens of one that generates: of its drafts, or its beams.
fn tokens_of(replica: &Replica, slot: u32) -> u32 {
    let live = &replica.live[slot as usize];
    replica.wanted(live, replica.computed(live)) * live.width
}

/// Blocks that a fetched request takes when it starts: those of its whole prompt, of the last for each beam if that is not full,
/// and what it holds whatever its length.
fn to_start(replica: &Replica, live: &Live) -> u64 {
    let (whole, rest) = (live.target / replica.block_size, live.target % replica.block_size);
    u64::from(whole) + if rest > 0 { u64::from(live.width) } else { 0 } + u64::from(replica.fixed)
}

/// Blocks of its tokens that a request may have in the end, where those that its beams share count for each.
fn to_the_end(replica: &Replica, slot: u32, env: &Env<'_>) -> u64 {
    let live = &replica.live[slot as usize];
    let most = u64::from(live.input) + u64::from(env.demand.cap(live.request, env.max_len));
    most.div_ceil(u64::from(replica.block_size)) * u64::from(live.width)
}

/// Blocks of those that generate: the tokens of each, rounded up to blocks.
fn held_by_decodes(replica: &Replica) -> u64 {
    if replica.speculating.is_some() {
        let room = |slot: u32| u64::from(replica.live[slot as usize].room / replica.block_size);
        return decodes(replica).map(room).sum();
    }
    let size = replica.class_counts.len();
    let first = replica.class(replica.steps);
    // So many tokens behind a full last block: the classes before that of the full ones.
    let padding = |over: usize| ((size - over) % size) as u64 * replica.class_counts[(first + size - over) % size];
    (replica.context + (0..size).map(padding).sum::<u64>()) / size as u64
}

/// Contents of the first blocks that prompts under way do not find in the cache.
fn contributed(replica: &Replica, env: &Env<'_>) -> BTreeSet<u64> {
    replica.prefills.iter().filter_map(|slot| replica.next_content(*slot, env)).collect()
}

/// The first block of its prompt that is not in the cache is about to be computed by another.
fn waits_for_prefix(replica: &Replica, slot: u32, contributed: &mut BTreeSet<u64>, env: &Env<'_>) -> bool {
    replica.next_content(slot, env).is_some_and(|content| !contributed.insert(content))
}
