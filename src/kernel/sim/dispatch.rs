//! Arrivals and ends: which engines a request goes to, what follows from the end of one of its parts, and what of it is
//! told to routers and to requests that wait.

use super::cluster::Cluster;
use super::disagg::{Stage, Trip};
use super::engine::bounded;
use super::node::{Node, Work};
use super::router::Ask;
use super::{RequestRow, RouteRow, SimError, Status};
use crate::pools::{Decider, FirstToken, Role};
use crate::units::SimTime;

impl Cluster<'_> {
    /// A request is sent.
    pub(super) fn arrive(&mut self, place: u32, now: SimTime) -> Result<(), SimError> {
        self.harvest.sent += 1;
        let request = self.demand.nth(place as usize);
        let requests = self.demand.requests;
        let served = self.gateway.served(requests, request);
        let encoder = requests.encoder_tokens.get(request as usize).copied().flatten().filter(|tokens| *tokens > 0);
        if let (Some(set), Some(tokens)) = (served.encode, encoder) {
            let ask = Ask { request, prompt: tokens, hashed: false };
            let engine = self.choose(set, ask, now)?;
            if !self.takes(engine, tokens) {
                self.reject(engine, place, None, now);
                return Ok(());
            }
            let trip = Trip {
                stage: Stage::Encoding,
                encoder: engine,
                ..Trip::new(place, engine, RequestRow::new(request, engine, Status::InFlight, now), now)
            };
            self.moves.trips.insert(request, trip);
            return self.send(engine, place, tokens, Work::Encode, now);
        }
        self.route(place, now)
    }

    /// Sends a request to where its prompt is computed.
    pub(super) fn route(&mut self, place: u32, now: SimTime) -> Result<(), SimError> {
        let request = self.demand.nth(place as usize);
        let requests = self.demand.requests;
        let served = self.gateway.served(requests, request);
        let input = requests.input_tokens[request as usize];
        let ask = Ask { request, prompt: input, hashed: true };
        let (Some(decode), Some(prefill)) = (served.decode, served.prefill) else {
            let Some(mixed) = served.mixed else { unreachable!("the check asks for a pool that finishes requests") };
            let engine = self.choose(mixed, ask, now)?;
            return self.send_whole(engine, place, now);
        };
        let last = self.choose(decode, ask, now)?;
        if !self.is_remote(decode, last, ask) {
            return self.send_whole(last, place, now);
        }
        let first = self.choose(prefill, ask, now)?;
        let max_len = self.max_len(first).min(self.max_len(last));
        if input >= max_len || !self.takes(first, input) {
            self.gateway.ended(first, request);
            self.harvest.part_ended(first, request);
            self.reject(last, place, Some(first), now);
            return Ok(());
        }
        let (output, capped) = self.demand.output(request, max_len);
        let encoded = self.moves.trips.remove(&request);
        let row = encoded.map_or(RequestRow::new(request, last, Status::InFlight, now), |trip| trip.row);
        let row = RequestRow { replica: last, prefill_replica: Some(first), ..row };
        let trip =
            Trip { stage: Stage::Prompt, prefill: Some(first), output, capped, ..Trip::new(place, last, row, now) };
        self.moves.trips.insert(request, trip);
        self.harvest.away(last, request, output);
        let ends_here = output == 1 && self.moves.first_token != FirstToken::Decode;
        self.send(first, place, input, if ends_here { Work::Prompt } else { Work::HeldPrompt }, now)
    }

    fn is_remote(&self, decode: usize, engine: u32, ask: Ask) -> bool {
        match self.decider() {
            Decider::Always => true,
            Decider::Never => false,
            Decider::PromptTokens(threshold) => ask.prompt > threshold.above,
            Decider::UncachedTokens(threshold) => {
                let (_, candidate) = self.gateway.member[engine as usize];
                let hit = self.gateway.hit(decode, candidate as usize, ask, self.demand.requests);
                ask.prompt.saturating_sub(hit) > threshold.above
            }
        }
    }

    fn decider(&self) -> Decider {
        // The same for all pools.
        self.sites[0].deployment.disaggregation.decider
    }

    /// Whether an engine can ever compute so many tokens of a prompt, and one of a reply.
    fn takes(&self, engine: u32, prompt: u32) -> bool {
        let env = &self.envs[self.site_of[engine as usize] as usize];
        prompt < env.max_len && prompt <= env.longest_prompt
    }

    fn max_len(&self, engine: u32) -> u32 {
        self.envs[self.site_of[engine as usize] as usize].max_len
    }

    /// One engine does everything, but for an encoder's part.
    fn send_whole(&mut self, engine: u32, place: u32, now: SimTime) -> Result<(), SimError> {
        let request = self.demand.nth(place as usize);
        let input = self.demand.requests.input_tokens[request as usize];
        let env = &self.envs[self.site_of[engine as usize] as usize];
        let width = env.beam_width.is_none_or(|width| width == self.demand.beams(request));
        if !width || !self.takes(engine, input) {
            self.reject(engine, place, None, now);
            return Ok(());
        }
        if let Some(trip) = self.moves.trips.get_mut(&request) {
            (trip.stage, trip.last, trip.row.replica) = (Stage::Reply, engine, engine);
        }
        self.send(engine, place, input, Work::Whole, now)
    }

    fn send(&mut self, engine: u32, place: u32, prompt: u32, work: Work, now: SimTime) -> Result<(), SimError> {
        if self.listens {
            // What it has to report next is foreseen from where it is now.
            self.advance(engine, now)?;
        }
        let site = self.site_of[engine as usize] as usize;
        let env = &self.envs[site];
        let queued = now + bounded(env.model.before_queue(prompt), env.tick);
        self.engines[engine as usize].push(place, queued, work, env);
        self.touch(engine);
        self.gateway.note_busy(engine);
        self.harvest.parts[site] += 1;
        Ok(())
    }

    /// The router of a set chooses an engine.
    fn choose(&mut self, set: usize, ask: Ask, now: SimTime) -> Result<u32, SimError> {
        self.look_now(set, now)?;
        let requests = self.demand.requests;
        if !self.harvest.wants_routes() {
            let candidate = self.gateway.sets[set].picker.pick(ask, requests, None);
            return Ok(self.gateway.engine(set, candidate));
        }
        let mut scores = Vec::new();
        let candidate = self.gateway.sets[set].picker.pick(ask, requests, Some(&mut scores));
        let role = self.gateway.sets[set].role;
        let engines = self.gateway.sets[set].engines.clone();
        for ((at, engine), score) in engines.iter().enumerate().zip(scores) {
            self.advance(*engine, now)?;
            let env = &self.envs[self.site_of[*engine as usize] as usize];
            let replies = match role {
                Role::Mixed | Role::Decode => self.engines[*engine as usize].reply_tokens(env),
                Role::Encode | Role::Prefill => 0,
            };
            self.harvest.route(
                RouteRow {
                    at: now,
                    request: ask.request,
                    role,
                    replica: *engine,
                    chosen: at == candidate,
                    score,
                    backlog_tokens: 0,
                },
                replies,
            );
        }
        self.harvest.sent_to(engines[candidate], ask.request, ask.prompt);
        Ok(engines[candidate])
    }

    /// A request that can never run.
    fn reject(&mut self, engine: u32, place: u32, prefill_replica: Option<u32>, now: SimTime) {
        let request = self.demand.nth(place as usize);
        let input_tokens = self.demand.requests.input_tokens[request as usize];
        let row = match self.moves.trips.remove(&request) {
            Some(trip) => trip.row,
            None => RequestRow::new(request, engine, Status::Rejected, now),
        };
        let samples = self.demand.samples(request);
        let row =
            RequestRow { status: Status::Rejected, replica: engine, prefill_replica, input_tokens, samples, ..row };
        self.gateway.ended(engine, request);
        self.ended(now, engine, row);
    }

    /// A request has ended; what an engine had of it is over.
    fn ended(&mut self, at: SimTime, engine: u32, row: RequestRow) {
        self.harvest.part_ended(engine, row.request);
        self.out.rows.push((at, engine, row));
        self.harvest.heard = self.out.rows.len();
        let mut never = Vec::new();
        self.flow.end(row.request, row.status, at, self.demand, &mut never);
        for place in never {
            let request = self.demand.nth(place as usize);
            let input_tokens = self.demand.requests.input_tokens[request as usize];
            let samples = self.demand.samples(request);
            let never =
                RequestRow { input_tokens, samples, ..RequestRow::new(request, row.replica, Status::Cancelled, at) };
            self.harvest.never(never, &mut self.out);
        }
    }

    /// An engine has done its part of a request, or the request has ended there otherwise.
    pub(super) fn part_ended(&mut self, at: SimTime, engine: u32, row: RequestRow) {
        self.gateway.ended(engine, row.request);
        match self.sites[self.site_of[engine as usize] as usize].role {
            Role::Mixed => match self.moves.trips.remove(&row.request) {
                Some(trip) => self.ended(at, engine, trip.complete(row)),
                None => self.ended(at, engine, row),
            },
            Role::Decode => {
                self.moves.roomy.push(engine);
                match self.moves.trips.remove(&row.request) {
                    Some(trip) => self.ended(at, engine, trip.complete(row)),
                    None => self.ended(at, engine, row),
                }
            }
            Role::Encode => self.encoder_ended(at, engine, row),
            Role::Prefill => self.prompt_ended(at, engine, row),
        }
    }

    fn encoder_ended(&mut self, at: SimTime, engine: u32, row: RequestRow) {
        let request = row.request;
        self.harvest.part_ended(engine, request);
        let input_tokens = self.demand.requests.input_tokens[request as usize];
        let Some(trip) = self.moves.trips.get_mut(&request) else { unreachable!("no trip of request {request}") };
        trip.row.input_tokens = input_tokens;
        trip.row.preemptions += row.preemptions;
        trip.row.recomputed_tokens += row.recomputed_tokens;
        trip.row.preempted += row.preempted;
        if !row.status.served() {
            let gone = RequestRow { status: row.status, ..trip.row };
            self.moves.trips.remove(&request);
            self.ended(at, engine, gone);
            return;
        }
        trip.stage = Stage::Embeddings;
        let place = trip.place;
        let tokens = self.demand.requests.encoder_tokens[request as usize].unwrap_or(1);
        let bytes = self.moves.embeddings(self.site_of[engine as usize] as usize, tokens);
        self.moves.links.start(at, engine, place, bytes);
    }

    fn prompt_ended(&mut self, at: SimTime, engine: u32, row: RequestRow) {
        let request = row.request;
        let Some(trip) = self.moves.trips.get_mut(&request) else { unreachable!("no trip of request {request}") };
        let (last, output, capped) = (trip.last, trip.output, trip.capped);
        let leg = trip.prompt(row);
        if !row.status.served() {
            self.moves.trips.remove(&request);
            self.leave_both(engine, last, request);
            self.ended(at, engine, leg);
            return;
        }
        trip.row = RequestRow { prefilled: Some(at), first_token: None, finished: None, output_tokens: 0, ..leg };
        if output == 1 && self.moves.first_token != FirstToken::Decode {
            self.moves.trips.remove(&request);
            let status = if capped { Status::LengthCapped } else { Status::Finished };
            self.leave_both(engine, last, request);
            self.ended(at, engine, RequestRow { status, prefilled: Some(at), ..leg });
            return;
        }
        (trip.stage, trip.since) = (Stage::Room, at);
        self.harvest.part_ended(engine, request);
        if self.moves.first_token == FirstToken::Prefill {
            self.harvest.away(last, request, output - 1);
        }
        self.moves.joined.push(request);
    }

    /// A request that was to go on from one replica to the other has ended.
    fn leave_both(&mut self, prefill: u32, last: u32, request: u32) {
        self.harvest.part_ended(prefill, request);
        self.gateway.ended(last, request);
        self.harvest.part_ended(last, request);
    }

    /// KV caches and embeddings that have arrived, and room for others.
    pub(super) fn move_caches(&mut self, now: SimTime) -> Result<(), SimError> {
        loop {
            let mut over = Vec::new();
            self.moves.links.pass(now, &mut over);
            over.sort_unstable();
            for place in &over {
                self.transfer_over(*place, now)?;
            }
            let engines = self.moves.take_queues();
            if over.is_empty() && engines.is_empty() {
                return Ok(());
            }
            for engine in engines {
                self.give_room(engine, now)?;
            }
        }
    }

    /// Those that wait for room on an engine get it, one after the other, as long as there is some.
    fn give_room(&mut self, engine: u32, now: SimTime) -> Result<(), SimError> {
        if self.moves.head(engine).is_none() {
            return Ok(());
        }
        self.advance(engine, now)?;
        let site = self.site_of[engine as usize] as usize;
        while let Some(request) = self.moves.head(engine) {
            let trip = &self.moves.trips[&request];
            let input = self.demand.requests.input_tokens[request as usize];
            if let Some(status) = self.gone(trip.place, now) {
                self.moves.pop(engine);
                self.turn_away(request, status, now)?;
                continue;
            }
            let reply = self.moves.reply(trip, input);
            let Some(replica) = self.engines[engine as usize].batch() else { unreachable!("no blocks to reserve") };
            let Some(blocks) = replica.reserve(&reply, now, &self.envs[site]) else { break };
            self.moves.pop(engine);
            self.gateway.note_busy(engine);
            let bytes = self.moves.blocks(site, blocks);
            let left = self.moves.left(site, &self.moves.trips[&request], bytes);
            let Some(trip) = self.moves.trips.get_mut(&request) else { unreachable!("no trip of request {request}") };
            self.harvest.room_waited(now - trip.since);
            (trip.stage, trip.since, trip.bytes) = (Stage::Moving, now, bytes);
            let (place, from) = (trip.place, trip.prefill.unwrap_or(engine));
            // The engine counts its reply from now on, but for a first token that is not out.
            let uncounted = u32::from(self.moves.first_token == FirstToken::Transfer);
            self.harvest.away(engine, request, uncounted);
            match blocks {
                0 => self.transfer_over(place, now)?,
                _ => self.moves.links.start(now, from, place, left),
            }
        }
        Ok(())
    }

    /// What becomes of the request if its client is gone by now.
    fn gone(&self, place: u32, now: SimTime) -> Option<Status> {
        self.demand.abort(place as usize).filter(|(at, _)| *at <= now).map(|(_, status)| status)
    }

    /// The client of a request is gone that waits for room, or whose KV cache has moved.
    fn turn_away(&mut self, request: u32, status: Status, now: SimTime) -> Result<(), SimError> {
        let Some(trip) = self.moves.trips.remove(&request) else { unreachable!("no trip of request {request}") };
        let (last, moved) = (trip.last, trip.stage == Stage::Moving);
        if let Some(prefill) = trip.prefill.filter(|_| !moved) {
            self.harvest.room_waited(now - trip.since);
            self.free(prefill, request, now)?;
        }
        if moved {
            self.free(last, request, now)?;
            self.moves.roomy.push(last);
        }
        let row = self.row_so_far(&trip, status);
        self.gateway.ended(last, request);
        self.ended(now, last, row);
        Ok(())
    }

    /// Blocks that an engine kept for a request are free.
    fn free(&mut self, engine: u32, request: u32, now: SimTime) -> Result<(), SimError> {
        self.advance(engine, now)?;
        let Some(replica) = self.engines[engine as usize].batch() else { unreachable!("no blocks to free") };
        replica.free(request, now);
        self.touch(engine);
        Ok(())
    }

    /// The row of a request between two engines, if it ends now.
    fn row_so_far(&self, trip: &Trip, status: Status) -> RequestRow {
        let env = &self.envs[self.site_of[trip.last as usize] as usize];
        let first = match self.moves.first_token {
            FirstToken::Prefill => trip.row.prefilled,
            FirstToken::Transfer => trip.row.kv_ready,
            FirstToken::Decode => None,
        };
        RequestRow {
            status,
            first_token: first.map(|t| t + env.after_token),
            output_tokens: u32::from(first.is_some()),
            ..trip.row
        }
    }

    /// All bytes of a request have arrived.
    fn transfer_over(&mut self, place: u32, now: SimTime) -> Result<(), SimError> {
        let request = self.demand.nth(place as usize);
        let gone = self.gone(place, now);
        let Some(trip) = self.moves.trips.get_mut(&request) else { unreachable!("no trip of request {request}") };
        if trip.stage == Stage::Embeddings {
            trip.row.encoded = Some(now);
            if let Some(status) = gone {
                let row = RequestRow { status, ..trip.row };
                let encoder = trip.encoder;
                self.moves.trips.remove(&request);
                self.ended(now, encoder, row);
                return Ok(());
            }
            self.moves.encoded.insert(place);
            return Ok(());
        }
        trip.row.kv_ready = Some(now);
        let (last, prefill, prefilled) = (trip.last, trip.prefill, trip.row.prefilled);
        self.harvest.transferred(trip.bytes, now - trip.since);
        if let Some(prefill) = prefill {
            self.free(prefill, request, now)?;
        }
        self.gateway.prompt_done(last, request);
        self.harvest.part_ended(last, request);
        if let Some(status) = gone {
            // Its room is free again, but what has come stays known for as long as nobody takes it.
            self.arrive_at(last, place, now, None)?;
            return self.turn_away(request, status, now);
        }
        let first = match self.moves.first_token {
            FirstToken::Prefill => prefilled,
            FirstToken::Transfer => Some(now),
            FirstToken::Decode => None,
        };
        if let Some(trip) = self.moves.trips.get_mut(&request) {
            trip.stage = Stage::Reply;
        }
        self.arrive_at(last, place, now, first)?;
        let Some(replica) = self.engines[last as usize].batch() else { unreachable!("no blocks to fill") };
        replica.queue_reply(place, now);
        let site = self.site_of[last as usize] as usize;
        self.harvest.parts[site] += 1;
        Ok(())
    }

    fn arrive_at(&mut self, engine: u32, place: u32, now: SimTime, first: Option<SimTime>) -> Result<(), SimError> {
        self.advance(engine, now)?;
        let env = &self.envs[self.site_of[engine as usize] as usize];
        let Some(replica) = self.engines[engine as usize].batch() else { unreachable!("no blocks to fill") };
        replica.arrive(place, first, env);
        Ok(())
    }

    /// The horizon, for what is between two engines.
    pub(super) fn close_trips(&mut self, horizon: SimTime) {
        let trips = std::mem::take(&mut self.moves.trips);
        for trip in trips.into_values() {
            match trip.stage {
                Stage::Room => self.harvest.room_waited(horizon - trip.since),
                Stage::Moving => self.harvest.moved_so_far(horizon - trip.since),
                Stage::Encoding | Stage::Embeddings | Stage::Prompt | Stage::Reply => {}
            }
            let row = self.row_so_far(&trip, Status::InFlight);
            self.out.rows.push((horizon, trip.last, row));
        }
    }
}

impl Trip {
    pub(super) fn new(place: u32, last: u32, row: RequestRow, now: SimTime) -> Trip {
        Trip {
            place,
            stage: Stage::Prompt,
            encoder: last,
            prefill: None,
            last,
            output: 0,
            capped: false,
            row,
            since: now,
            bytes: 0,
        }
    }

    /// The row of the last engine, with what others know.
    fn complete(&self, row: RequestRow) -> RequestRow {
        let known = &self.row;
        match self.prefill {
            // Its engine began with what was known.
            Some(_) => RequestRow {
                prefill_replica: known.prefill_replica,
                encoded: known.encoded,
                prefilled: known.prefilled,
                kv_ready: known.kv_ready,
                ..row
            },
            None => RequestRow { encoded: known.encoded, ..self.with_losses(row) },
        }
    }

    /// The row of the prefill replica, as one of the request.
    fn prompt(&self, row: RequestRow) -> RequestRow {
        let known = &self.row;
        RequestRow {
            replica: known.replica,
            prefill_replica: known.prefill_replica,
            encoded: known.encoded,
            ..self.with_losses(row)
        }
    }

    /// With what the encoder lost.
    fn with_losses(&self, row: RequestRow) -> RequestRow {
        let known = &self.row;
        RequestRow {
            preemptions: row.preemptions + known.preemptions,
            recomputed_tokens: row.recomputed_tokens + known.recomputed_tokens,
            preempted: row.preempted + known.preempted,
            ..row
        }
    }
}
