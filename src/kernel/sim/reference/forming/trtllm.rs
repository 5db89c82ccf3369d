//! TensorRT-LLM's in-flight batching: the whole list of active requests is gone through, as often as there are steps.

use std::collections::BTreeSet;

use super::Forming;
use crate::sim::lora::Gated;
use crate::sim::reference::world::World;
use crate::sim::scheduler::{CapacitySchedulerPolicy, ContextChunkingPolicy, Trtllm};

/// A step has no tokens for the drafts of a request.
const NO_ROOM_FOR_DRAFTS: &str = "trtllm: no room for drafts";

impl World<'_> {
    pub(super) fn form_trtllm(&mut self, r: usize, rules: &Trtllm, f: &mut Forming) {
        self.make_active(r, rules);
        let scheduled = match rules.capacity_scheduler_policy {
            CapacitySchedulerPolicy::GuaranteedNoEvict => self.no_evict(r, false),
            CapacitySchedulerPolicy::StaticBatch => self.no_evict(r, true),
            CapacitySchedulerPolicy::MaxUtilization => self.max_utilization(r, f),
        };
        let mut tokens = self.micro_batch(r, rules, &scheduled);
        // Those that generate take their blocks in the order in which they started.
        for i in self.replicas[r].running.clone() {
            if self.lives[i].decodes() && tokens.iter().any(|(scheduled, _)| *scheduled == i) {
                for one in self.sequences(i) {
                    assert!(self.go_on(r, one, 1, f), "its block was set aside");
                }
                tokens.retain(|(scheduled, _)| *scheduled != i);
            }
        }
        for (i, tokens) in tokens {
            match self.replicas[r].running.contains(&i) {
                true => assert!(self.go_on(r, i, tokens, f), "it holds the blocks of its prompt"),
                false => self.start_context(r, i, tokens, f),
            }
        }
        let running = &self.replicas[r].running;
        f.batch.sort_by_key(|part| running.iter().position(|i| *i == part.life));
    }

    fn make_active(&mut self, r: usize, rules: &Trtllm) {
        while self.active(r).len() < rules.max_batch_size as usize {
            let Some(at) = self.next_to_fetch(r) else { return };
            let i = self.replicas[r].waiting[at];
            let together = self.with_its_samples(i);
            if self.active(r).len() + together.len() > rules.max_batch_size as usize {
                self.fire("trtllm: no room for all samples");
                break;
            }
            self.note_overtaking(r, i);
            for i in together {
                self.leaves_queue(r, i);
                self.charge_prompt(r, i);
                self.lives[i].listed = Some(self.replicas[r].listed);
                self.replicas[r].listed += 1;
            }
        }
        if self.next_to_fetch(r).is_some() {
            self.fire("trtllm: full");
        }
    }

    /// Adapters do not matter before requests are active.
    fn next_to_fetch(&self, r: usize) -> Option<usize> {
        self.head_by(r, &|_| Gated::Go)
    }

    /// The list of active requests.
    fn active(&self, r: usize) -> Vec<usize> {
        let machine = &self.replicas[r];
        let mut all: Vec<usize> = machine.waiting.iter().chain(&machine.running).copied().collect();
        all.retain(|i| self.lives[*i].listed.is_some());
        all.sort_by_key(|i| self.lives[*i].listed);
        all
    }

    fn started(&self, r: usize, i: usize) -> bool {
        self.replicas[r].running.contains(&i)
    }

    fn generates(&self, r: usize, i: usize) -> bool {
        self.started(r, i) && self.lives[i].decodes()
    }

    fn blocks_of(&self, r: usize, tokens: usize) -> usize {
        tokens.div_ceil(self.replicas[r].pool.block_size)
    }

    /// Tokens of its prompt, and those that it had before it was paused.
    fn context_length(&self, i: usize) -> usize {
        self.lives[i].prompt + self.lives[i].tokens.len()
    }

    fn remaining_blocks(&self, r: usize, i: usize) -> usize {
        let life = &self.lives[i];
        let cap = self.demand.cap(life.request, self.replicas[r].pool.max_len as u32) as usize;
        let all = self.blocks_of_beams(r, i, life.prompt + cap);
        all - self.blocks_of_all(i).len() + self.fixed_to_take(r, i)
    }

    /// Blocks of so many tokens of each of its beams, of which they share the whole ones of the prompt.
    fn blocks_of_beams(&self, r: usize, i: usize, tokens: usize) -> usize {
        let (all, beams) = (self.blocks_of(r, tokens), self.lives[i].beams as usize);
        match beams {
            1 => all,
            _ => {
                let shared = self.lives[i].prompt / self.replicas[r].pool.block_size;
                shared + (all - shared) * beams
            }
        }
    }

    /// Blocks that it holds whatever its length, until it has them.
    fn fixed_to_take(&self, r: usize, i: usize) -> usize {
        if self.started(r, i) { 0 } else { self.replicas[r].pool.fixed }
    }

    /// What GUARANTEED_NO_EVICT and STATIC_BATCH let run.
    fn no_evict(&mut self, r: usize, fixed: bool) -> Vec<usize> {
        let active = self.active(r);
        let (mut scheduled, pending): (Vec<usize>, Vec<usize>) = active.iter().partition(|i| self.generates(r, **i));
        let mut available = self.replicas[r].free.len() as i64;
        for i in &scheduled {
            available -= self.remaining_blocks(r, *i) as i64;
        }
        if fixed && !scheduled.is_empty() {
            if !pending.is_empty() {
                self.fire("trtllm: a static batch is not done");
            }
            return scheduled;
        }
        let mut contributed = self.contributed(r);
        let mut full = false;
        for i in pending {
            if full && !self.started(r, i) {
                continue;
            }
            if full {
                self.fire("trtllm: a context under way behind one that does not fit");
            }
            if !fixed && !self.started(r, i) && self.should_skip(r, i, &mut contributed) {
                continue;
            }
            let needed = self.remaining_blocks(r, i) as i64;
            if needed > available {
                if !self.started(r, i) && needed - self.replicas[r].pool.fixed as i64 <= available {
                    self.fire("trtllm: windows and states do not fit");
                }
                let rule = match self.started(r, i) {
                    true => "trtllm: a context under way is overtaken",
                    false => "trtllm: not enough blocks to completion",
                };
                self.fire(rule);
                if self.started(r, i) {
                    break;
                }
                full = true;
                continue;
            }
            let claimed: Vec<usize> = scheduled.iter().chain(&self.replicas[r].running).copied().collect();
            if !self.slots_suffice(r, i, &claimed) {
                self.fire("trtllm: no slot for an adapter");
                continue;
            }
            available -= needed;
            scheduled.push(i);
        }
        scheduled
    }

    /// What MAX_UTILIZATION lets run; who is in the way is paused.
    fn max_utilization(&mut self, r: usize, f: &mut Forming) -> Vec<usize> {
        let mut list = self.active(r);
        let mut contributed = self.contributed(r);
        let (mut scheduled, mut paused) = (Vec::new(), Vec::new());
        let mut blocks_scheduled = 0;
        let mut at = 0;
        'list: while at < list.len() {
            let i = list[at];
            if !self.started(r, i) && self.should_skip(r, i, &mut contributed) {
                at += 1;
                continue;
            }
            let needed = self.blocks_of_one_step(r, i);
            loop {
                let slots = self.slots_suffice(r, i, &scheduled);
                let fits = blocks_scheduled + needed <= self.free_without(r, &paused);
                if slots && fits {
                    break;
                }
                let Some(last) = list.iter().rposition(|other| self.started(r, *other)).filter(|last| *last >= at)
                else {
                    if fits {
                        self.fire("trtllm: no slot for an adapter ends the search");
                        break 'list;
                    }
                    self.fire("trtllm: not enough blocks for a step");
                    if self.fixed_to_take(r, i) > 0 {
                        self.fire("trtllm: windows and states do not fit");
                    }
                    break 'list;
                };
                self.fire(if last == at { "trtllm: pauses himself" } else { "trtllm: pauses the last" });
                if !self.started(r, i) {
                    self.fire("trtllm: pauses for who waits");
                }
                paused.push(list[last]);
                list.truncate(last);
                if last == at {
                    break 'list;
                }
            }
            blocks_scheduled += needed;
            scheduled.push(i);
            at += 1;
        }
        paused.into_iter().for_each(|i| self.preempt(r, i, f));
        scheduled
    }

    fn blocks_of_one_step(&self, r: usize, i: usize) -> usize {
        let life = &self.lives[i];
        match (self.started(r, i), self.generates(r, i)) {
            (false, _) => self.blocks_of_beams(r, i, self.context_length(i)) + self.fixed_to_take(r, i),
            (true, false) => 0,
            (true, true) => {
                let cap = self.demand.cap(life.request, self.replicas[r].pool.max_len as u32) as usize;
                let next = (life.computed + self.wanted(r, i)).min(life.prompt + cap);
                (self.blocks_of(r, next) - self.blocks_of(r, life.computed)) * life.beams as usize
            }
        }
    }

    /// Blocks that are free when these have given back theirs.
    fn free_without(&self, r: usize, paused: &[usize]) -> usize {
        let machine = &self.replicas[r];
        let mut users: Vec<usize> = machine.blocks.iter().map(|block| block.users).collect();
        for i in paused {
            machine.fixed[i].iter().chain(&self.lives[*i].apart).for_each(|block| users[*block] -= 1);
            for one in self.sequences(*i) {
                self.lives[one].blocks.iter().for_each(|block| users[*block] -= 1);
            }
        }
        users.iter().filter(|users| **users == 0).count()
    }

    /// The first whole block of its context that is not in the cache, if the trace knows what is in it.
    fn new_context_block(&self, r: usize, i: usize) -> Option<u64> {
        let whole = self.context_length(i) / self.replicas[r].pool.block_size;
        let found = self.found(r, i, whole).len();
        (found < whole.min(self.known_blocks(r, i))).then(|| self.hash(r, i, found))
    }

    fn contributed(&self, r: usize) -> BTreeSet<u64> {
        let started = self.replicas[r].running.iter().filter(|i| !self.lives[**i].decodes());
        started.filter_map(|i| self.new_context_block(r, *i)).collect()
    }

    fn should_skip(&mut self, r: usize, i: usize, contributed: &mut BTreeSet<u64>) -> bool {
        let Some(block) = self.new_context_block(r, i) else { return false };
        let skip = !contributed.insert(block);
        if skip {
            self.fire("trtllm: waits for a prefix");
        }
        skip
    }

    /// The tokens of a step.
    fn micro_batch(&mut self, r: usize, rules: &Trtllm, scheduled: &[usize]) -> Vec<(usize, usize)> {
        let most = rules.max_num_tokens as usize;
        let (mut batch, mut contexts, mut tokens) = (Vec::new(), Vec::new(), 0);
        for i in scheduled {
            if self.generates(r, *i) {
                let beams = self.lives[*i].beams as usize;
                let wanted = self.wanted(r, *i) * beams;
                if tokens + wanted > most {
                    self.fire(match (beams, wanted) {
                        (1, 1) => "trtllm: no token left to generate",
                        (1, _) => NO_ROOM_FOR_DRAFTS,
                        (_, _) => "beams: no room for all tokens",
                    });
                    break;
                }
                tokens += wanted;
                batch.push((*i, wanted));
                continue;
            }
            let lacks = self.context_length(*i) - self.lives[*i].computed;
            if rules.enable_chunked_context {
                contexts.push((*i, lacks));
            } else if tokens + lacks > most {
                self.fire("trtllm: a context does not fit");
                break;
            } else {
                tokens += lacks;
                batch.push((*i, lacks));
            }
        }
        let capacity = most - tokens;
        let chunks = match contexts.iter().map(|(_, lacks)| lacks).sum::<usize>() <= capacity {
            true => contexts.iter().map(|(_, lacks)| *lacks).collect(),
            false => self.chunks(r, rules, &contexts, capacity),
        };
        batch.extend(contexts.iter().zip(chunks).filter(|(_, chunk)| *chunk > 0).map(|((i, _), chunk)| (*i, chunk)));
        batch
    }

    /// Chunks of contexts that lack so many tokens, together `capacity` at most.
    fn chunks(&mut self, r: usize, rules: &Trtllm, contexts: &[(usize, usize)], capacity: usize) -> Vec<usize> {
        let unit = self.replicas[r].pool.block_size;
        let mut chunks = vec![0; contexts.len()];
        match rules.context_chunking_policy {
            ContextChunkingPolicy::FirstComeFirstServed => {
                for at in 0..contexts.len() {
                    let left = capacity - chunks.iter().sum::<usize>();
                    let lacks = contexts[at].1;
                    chunks[at] = if lacks <= left { lacks } else { left / unit * unit };
                    self.fire("trtllm: chunks first come first served");
                    if lacks <= left && chunks[..at].contains(&0) {
                        self.fire("trtllm: a later chunk fits");
                    }
                }
            }
            ContextChunkingPolicy::EqualProgress => loop {
                let before = chunks.clone();
                for at in 0..contexts.len() {
                    let grown = (chunks[at] + unit).min(contexts[at].1);
                    let others = chunks.iter().sum::<usize>() - chunks[at];
                    if others + grown <= capacity {
                        chunks[at] = grown;
                    }
                }
                if chunks == before {
                    self.fire("trtllm: chunks of equal progress");
                    break;
                }
            },
        }
        chunks
    }

    /// An active request begins to compute its context.
    fn start_context(&mut self, r: usize, i: usize, chunk: usize, f: &mut Forming) {
        let block_size = self.replicas[r].pool.block_size;
        let hits = self.look_up(r, i);
        let (target, found) = (self.lives[i].target, hits.len() * block_size);
        let end = found + chunk;
        let end = if found == 0 || end >= target { end.min(target) } else { end / block_size * block_size };
        if found > 0 && end < target {
            self.fire("trtllm: a first chunk behind a prefix");
        }
        let Some(at) = self.replicas[r].waiting.iter().position(|other| *other == i) else { unreachable!("it waits") };
        self.take_seat(r, at, hits, end - found, f);
        self.hold_blocks(r, i, target.div_ceil(block_size));
        let others = self.lives[i].beams as usize - 1;
        if others > 0 && !target.is_multiple_of(block_size) {
            self.fire("beams: a last block for each");
            self.hold_apart(r, i, others);
        }
    }
}
