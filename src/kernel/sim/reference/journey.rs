//! The way of a request through the pools: choices, an encoder, a prompt elsewhere, room, the KV cache's journey.

use super::caches::Sight;
use super::moving::Load;
use super::parts::{Coming, Life, Sent, Stage};
use super::routing::{Ask, Candidate};
use super::world::World;
use crate::pools::{Decider, FirstToken, Role};
use crate::sim::RouteRow;
use crate::units::SimTime;

impl World<'_> {
    /// The request arrives, or what its encoder made of it does.
    pub(super) fn arrive(&mut self, i: usize, now: SimTime, tell: bool) {
        if self.lives[i].arrived {
            return self.send_prompt(i, now, tell);
        }
        self.lives[i].arrived = true;
        let encoder_tokens = self.requests.encoder_tokens.get(self.lives[i].request as usize).copied().flatten();
        let of_encoder = self.pools.ways[i].encode.zip(encoder_tokens.filter(|tokens| *tokens > 0));
        let Some((set, tokens)) = of_encoder else { return self.send_prompt(i, now, tell) };
        let tokens = tokens as usize;
        let (engine, _) = self.choose(set, i, tokens, now, tell);
        let life = &mut self.lives[i];
        (life.home, life.stage, life.prompt) = (engine, Stage::Encode, tokens);
        let pool = &self.replicas[engine].pool;
        match tokens < pool.max_len && tokens <= pool.longest_prompt {
            true => self.set_out(i, engine, now),
            false => self.reject(i, now),
        }
    }

    /// The request goes to the replica that is to compute its prompt.
    fn send_prompt(&mut self, i: usize, now: SimTime, tell: bool) {
        let ways = self.pools.ways[i];
        let input = self.lives[i].input;
        let Some(last_set) = ways.decode.or(ways.mixed) else { unreachable!("a pool that finishes requests") };
        let (last, hit) = self.choose(last_set, i, input, now, tell);
        let elsewhere = match self.rules.decider {
            Decider::Always => true,
            Decider::Never => false,
            Decider::PromptTokens(threshold) => input > threshold.above as usize,
            Decider::UncachedTokens(threshold) => input - hit > threshold.above as usize,
        };
        let prefill_set = ways.prefill.filter(|_| elsewhere);
        let prefill = prefill_set.map(|set| self.choose(set, i, input, now, tell).0);
        self.seen.local_prompts += u64::from(ways.prefill.is_some() && !elsewhere);
        let first = prefill.unwrap_or(last);
        let max_len = self.replicas[first].pool.max_len.min(self.replicas[last].pool.max_len);
        let life = &mut self.lives[i];
        (life.home, life.prefill, life.prompt) = (last, prefill, input);
        let width = self.replicas[last].pool.scheduler.beam_width();
        let other_width = prefill.is_none() && width.is_some_and(|width| width != self.lives[i].beams);
        if other_width {
            self.fire("beams: another width");
        }
        if other_width || input >= max_len || input > self.replicas[first].pool.longest_prompt {
            return self.reject(i, now);
        }
        let max_len = max_len.min(self.longest_group(last, i));
        let life = &mut self.lives[i];
        let (output, cut) = self.demand.output(life.request, max_len as u32);
        (life.output, life.cut) = (output as usize, cut);
        life.stage = match (prefill, self.rules.first_token) {
            (None, _) => Stage::Whole,
            (Some(_), FirstToken::Prefill | FirstToken::Transfer) if output == 1 => Stage::PrefillOnly,
            (Some(_), _) => Stage::Prefill,
        };
        self.set_out(i, first, now);
    }

    /// On the way to the queue.
    fn set_out(&mut self, i: usize, engine: usize, now: SimTime) {
        let at = now + self.replicas[engine].pool.before_queue(self.lives[i].prompt);
        self.queue_at(i, engine, at);
    }

    fn queue_at(&mut self, i: usize, engine: usize, at: SimTime) {
        self.totals[self.replicas[engine].pool.number].injected += 1;
        self.replicas[engine].coming.push(Coming { at, life: i });
    }

    /// Asks the router of a set of candidates; the engine, and the tokens that it knows to be in its prefix cache.
    fn choose(&mut self, set: usize, i: usize, prompt: usize, now: SimTime, tell: bool) -> (usize, usize) {
        let (role, engines) = (self.pools.sets[set].role, self.pools.sets[set].engines.clone());
        let request = self.lives[i].request;
        let mut all = Vec::new();
        for engine in &engines {
            let sight = self.sights.seen(now, *engine, &self.replicas);
            self.seen.stale += u64::from(sight != Sight::of(&self.replicas[*engine]));
            let hit = match role {
                Role::Encode => 0,
                Role::Mixed | Role::Prefill | Role::Decode => {
                    sight.hit(&self.replicas[*engine].pool, self.requests, request)
                }
            };
            all.push(Candidate { hit, ..self.candidate(*engine, &sight) });
        }
        let ask = Ask::new(self.requests, request, prompt, role != Role::Encode);
        let choice = self.choosers[set].choose(&ask, &all);
        self.seen.moved_sessions += u64::from(choice.moved);
        if tell {
            for (at, engine) in engines.iter().enumerate() {
                self.routes.push(RouteRow {
                    at: now,
                    request,
                    role,
                    replica: *engine as u32,
                    chosen: at == choice.candidate,
                    score: choice.scores[at],
                    backlog_tokens: self.backlog(*engine, role),
                });
            }
        }
        let (engine, hit) = (engines[choice.candidate], all[choice.candidate].hit);
        let uncached = prompt - hit;
        self.lives[i].sent.push(Sent { engine, prompt, uncached, done: 0, outstanding: true, pending: true });
        (engine, hit)
    }

    /// The requests for which an engine was chosen and that have not ended there.
    fn outstanding(&self, engine: usize) -> impl Iterator<Item = (&Life, &Sent)> {
        let all = self.lives.iter().flat_map(|life| life.sent.iter().map(move |sent| (life, sent)));
        all.filter(move |(_, sent)| sent.engine == engine && sent.outstanding)
    }

    fn candidate(&self, engine: usize, sight: &Sight) -> Candidate {
        let pool = &self.replicas[engine].pool;
        let pending: Vec<&Sent> = self.outstanding(engine).map(|(_, sent)| sent).filter(|sent| sent.pending).collect();
        Candidate {
            outstanding: self.outstanding(engine).count(),
            prompts: pending.len(),
            tokens: pending.iter().map(|sent| sent.prompt).sum(),
            left: pending.iter().map(|sent| sent.prompt - sent.done).sum(),
            uncached: pending.iter().map(|sent| sent.uncached).sum(),
            prompt_blocks: self.outstanding(engine).map(|(_, sent)| sent.prompt.div_ceil(pool.block_size)).sum(),
            waiting: sight.waiting,
            running: sight.running,
            used: sight.used,
            blocks: pool.blocks,
            block_size: pool.block_size,
            hit: 0,
        }
    }

    /// What an engine really has before it.
    fn backlog(&self, engine: usize, role: Role) -> u64 {
        let tokens = |(life, sent): (&Life, &Sent)| {
            let prompt = if sent.pending { sent.prompt } else { 0 };
            let reply = match role {
                Role::Encode | Role::Prefill => 0,
                Role::Mixed | Role::Decode => self.reply_left_of(life),
            };
            (prompt + reply) as u64
        };
        self.outstanding(engine).map(tokens).sum()
    }

    /// The encoder is done with its part: what it made sets out.
    pub(super) fn encoder_done(&mut self, r: usize, i: usize, now: SimTime) {
        let bytes = self.lives[i].prompt as u128 * self.replicas[r].pool.embedding_bytes;
        self.leave_engine(r, i);
        let life = &mut self.lives[i];
        life.dealt_with(r, true);
        life.end_loss(now);
        (life.computed, life.target, life.most) = (0, 0, 0);
        self.roads.begin(i, Load::Embeddings, r, bytes, now);
    }

    /// What an encoder made has come. If the client has gone, that is the end; else it is routed with those that arrive.
    pub(super) fn embeddings_came(&mut self, i: usize, now: SimTime) {
        self.lives[i].encoded = Some(now);
        match self.lives[i].is_left(now) {
            true => self.abort(self.lives[i].home, i, now),
            false => self.encoded.push(i),
        }
    }

    /// A prefill replica is done with a prompt. Its blocks stay until the KV cache has moved.
    pub(super) fn prompt_done(&mut self, r: usize, i: usize, now: SimTime) {
        self.replicas[r].running.retain(|running| *running != i);
        let after_token = self.replicas[self.lives[i].home].pool.after_token();
        let life = &mut self.lives[i];
        life.dealt_with(r, true);
        life.prefilled = Some(now);
        match self.rules.first_token {
            FirstToken::Prefill => life.hand_out(now, after_token),
            FirstToken::Transfer | FirstToken::Decode => {}
        }
        self.joining.push(i);
    }

    /// A decode replica gives blocks to requests whose prompts are done, one after the other, until one does not fit: for
    /// the tokens that come, and for the next one.
    pub(super) fn give_room(&mut self, r: usize, now: SimTime) {
        while let Some(i) = self.replicas[r].room.front().copied() {
            if self.lives[i].is_left(now) {
                self.replicas[r].room.pop_front();
                self.seen.left_waiting_for_room += 1;
                self.leave_engine(self.prefill_of(i), i);
                self.abort(r, i, now);
                continue;
            }
            let pool = self.pool(r);
            let input = self.lives[i].input;
            let loaded = match self.rules.first_token {
                FirstToken::Prefill | FirstToken::Transfer => input,
                FirstToken::Decode => input - 1,
            };
            // As at an admission, but only of what comes.
            let usable = if pool.common.recompute_full_hits { input - 1 } else { input };
            let hits = self.found(r, i, usable.min(loaded) / pool.block_size);
            if !self.has_room(r, &hits, loaded + 1) {
                self.seen.no_room += 1;
                return;
            }
            self.replicas[r].room.pop_front();
            let moved = loaded.div_ceil(pool.block_size) - hits.len();
            let taken = (loaded + 1).div_ceil(pool.block_size) - hits.len();
            let machine = &mut self.replicas[r];
            hits.iter().for_each(|id| machine.share(*id));
            let mut room = hits;
            room.extend((0..taken).filter_map(|_| machine.take()));
            machine.hold_fixed(i);
            (self.lives[i].room, self.lives[i].loaded) = (room, loaded);
            self.note_blocks(r);
            self.begin_transfer(r, i, moved, now);
        }
    }

    fn prefill_of(&self, i: usize) -> usize {
        self.lives[i].prefill.unwrap_or_else(|| unreachable!("only a prompt that was computed elsewhere moves"))
    }

    /// The blocks of a KV cache that are not there already set out.
    fn begin_transfer(&mut self, r: usize, i: usize, blocks: usize, now: SimTime) {
        let engine = self.prefill_of(i);
        let pool = self.pool(r);
        let bytes = blocks as u128 * pool.block_bytes;
        let life = &mut self.lives[i];
        life.bytes = bytes;
        if bytes == 0 {
            self.seen.empty_transfers += 1;
            return self.cache_came(i, now);
        }
        let (Some(scheduled), Some(prefilled)) = (life.scheduled, life.prefilled) else {
            unreachable!("a prompt that was computed was scheduled")
        };
        let early = if self.rules.transfer.layerwise { self.roads.carries(prefilled - scheduled) } else { 0 };
        let last_layer = bytes.div_ceil(pool.layers);
        self.seen.sent_early += u64::from(early > 0);
        self.roads.begin(i, Load::Cache, engine, bytes.saturating_sub(early).max(last_layer), now);
    }

    /// The KV cache of a request is where its reply will be made.
    pub(super) fn cache_came(&mut self, i: usize, now: SimTime) {
        let (prefill, decode) = (self.prefill_of(i), self.lives[i].home);
        self.leave_engine(prefill, i);
        let after_token = self.replicas[decode].pool.after_token();
        let life = &mut self.lives[i];
        life.blocks = std::mem::take(&mut life.room);
        self.summary.transfers += 1;
        self.summary.transferred_bytes += life.bytes;
        life.kv_ready = Some(now);
        life.dealt_with(decode, false);
        (life.stage, life.ready, life.missing) = (Stage::Reply, true, 0);
        (life.computed, life.most, life.target) = (life.loaded, life.input, life.input);
        match self.rules.first_token {
            FirstToken::Transfer => life.hand_out(now, after_token),
            FirstToken::Prefill | FirstToken::Decode => {}
        }
        let (loaded, gone) = (life.loaded, life.is_left(now));
        self.note_contents(decode, i, 0, loaded);
        if gone {
            self.leave_engine(decode, i);
            self.abort(decode, i, now);
            self.looking.insert(decode);
            return;
        }
        self.queue_at(i, decode, now);
    }
}
