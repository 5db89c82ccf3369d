//! KV caches that leave an engine or come to it: who holds which blocks meanwhile.
//!
//! The cluster says when ([`super::disagg`]); an engine that takes part has been let pass up to that time, and may be in
//! the middle of a step.

use std::cmp::Reverse;

use super::Status;
use super::batch::Forming;
use super::lora::NO_ADAPTER;
use super::node::{Env, Reply, Work};
use super::replica::{Live, Phase, Replica};
use crate::units::SimTime;

impl Replica {
    /// A request whose prompt is done leaves the running ones, and keeps its blocks.
    pub(super) fn hold(&mut self, slot: u32) {
        let live = &self.live[slot as usize];
        let request = live.request;
        self.totals.running_ns += i128::from((self.clock - live.since).0);
        let at = self.position(slot);
        self.running.remove(at);
        let live = &mut self.live[slot as usize];
        // What the heaps still say of it is void.
        (live.phase, live.generation) = (Phase::Moving, 0);
        self.moving.insert(request, slot);
    }

    /// The blocks of a request that was held, or for which room was kept, are free.
    pub(super) fn free(&mut self, request: u32, now: SimTime) {
        let Some(slot) = self.moving.remove(&request) else { unreachable!("request {request} holds no blocks") };
        self.sum_blocks_to(now);
        let computed = self.live[slot as usize].computed;
        self.release(slot, computed, 0);
        self.unused.push(slot);
        self.something_changed(now);
    }

    /// Blocks are free that were not: who waits is looked at again.
    fn something_changed(&mut self, now: SimTime) {
        self.blocked = false;
        if self.asleep {
            self.asleep = false;
            self.clock = self.clock.max(now);
        }
    }

    /// Room for a KV cache that is to come, and for the next token; how many blocks must be moved. `None` if there is not
    /// enough.
    pub(super) fn reserve(&mut self, reply: &Reply, now: SimTime, env: &Env<'_>) -> Option<u32> {
        let request = env.demand.nth(reply.place as usize);
        let input = env.requests.input_tokens[request as usize];
        let known = self.derivation.known_blocks(env.requests, request as usize, self.block_size);
        let blocks = reply.loaded.div_ceil(self.block_size);
        let spare = (reply.loaded + 1).div_ceil(self.block_size) - blocks;
        let comes = reply.loaded / self.block_size;
        let (found, idle) = self.find_prefix(request as usize, known.min(comes), input, env);
        if u64::from(blocks - found + spare + self.fixed) + idle > self.pool.free() {
            return None;
        }
        let row = &reply.row;
        let emitted = u32::from(reply.has_first);
        let slot = self.slot(Live {
            request,
            adapter: NO_ADAPTER,
            work: Work::Reply,
            phase: Phase::Moving,
            spare,
            fixed: self.fixed,
            input,
            output: reply.output,
            capped: reply.capped,
            emitted,
            target: input,
            computed: reply.loaded,
            tenant: env.demand.tenant(request),
            charged: true,
            scheduled: row.scheduled,
            since: now,
            cached: row.cached_tokens,
            fetched: 0,
            fetched_tokens: row.fetched_tokens,
            preemptions: row.preemptions,
            recomputed: row.recomputed_tokens,
            // Without a first token, the last of the prompt is computed again.
            peak: input,
            preempted: row.preempted,
            prefill_preempted: row.prefill_preempted,
            known,
            ..Live::default()
        });
        if let Some(queued) = row.queued {
            self.live[slot as usize].queued = queued;
        }
        self.sum_blocks_to(now);
        if found > 0 {
            let units = self.derivation.units(env.requests, request as usize, self.block_size);
            self.pool.share(&mut self.live[slot as usize].held, units, found);
        }
        self.pool.take(u64::from(blocks - found + spare + self.fixed));
        self.totals.kv_blocks_max = self.totals.kv_blocks_max.max(self.pool.used());
        self.moving.insert(request, slot);
        Some(blocks - found)
    }

    /// The KV cache of a request has come. `first_token` is when that came out, if it did.
    pub(super) fn arrive(&mut self, place: u32, first_token: Option<SimTime>, env: &Env<'_>) {
        let request = env.demand.nth(place as usize);
        let Some(slot) = self.moving.get(&request).copied() else { unreachable!("request {request} has no room") };
        let live = &self.live[slot as usize];
        let (from, to) = (live.held.blocks(), (live.computed / self.block_size).min(live.known));
        if from < to {
            self.fill(slot, from, to, env);
            self.blocked = false;
        }
        let live = &mut self.live[slot as usize];
        live.first_token = first_token;
        live.last_token = first_token.unwrap_or(SimTime::ZERO);
    }

    /// A request whose KV cache has come is to join the queue.
    pub(super) fn queue_reply(&mut self, place: u32, now: SimTime) {
        self.pending.push(Reverse((now, place, Work::Reply)));
    }

    /// A request whose KV cache has come enters the queue.
    pub(super) fn enqueue_reply(&mut self, place: u32, at: SimTime, env: &Env<'_>) {
        let request = env.demand.nth(place as usize);
        let Some(slot) = self.moving.remove(&request) else { unreachable!("request {request} has no room") };
        let abort = env.demand.abort(place as usize);
        let live = &mut self.live[slot as usize];
        (live.phase, live.loaded, live.since) = (Phase::Waiting, true, at);
        live.goes = abort.map_or(Status::Cancelled, |(_, status)| status);
        self.wait(slot, abort, env);
    }

    /// Admits a request that was in the queue and holds its blocks, and that of its next token.
    pub(super) fn admit_loaded(&mut self, slot: u32, f: &mut Forming, env: &Env<'_>) {
        let live = &self.live[slot as usize];
        let (computed, has_first) = (live.computed, live.emitted > 0);
        let now = self.clock;
        let live = &mut self.live[slot as usize];
        self.totals.waiting_ns += i128::from((now - live.since).0);
        (live.since, live.loaded) = (now, false);
        live.seq = self.next_seq;
        self.next_seq += 1;
        self.running.push(slot);
        if !has_first {
            live.phase = Phase::Prefill;
            self.prefills.push(slot);
            self.book_chunk(slot, computed, 1, computed, f, env);
            return;
        }
        live.phase = Phase::Decode;
        live.base = i64::from(computed) - self.steps as i64;
        live.finish = self.steps + u64::from(live.output - live.emitted);
        // Its next token does not follow from one of the step before.
        live.stalled = true;
        self.stalled += 1;
        self.enter_decode(slot, env);
        // It has nothing drafted, and the block of its token.
        self.run_with(slot, (computed, 1), 0, f, env);
    }
}
