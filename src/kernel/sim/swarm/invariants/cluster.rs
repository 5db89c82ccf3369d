//! What lies between engines: decisions of routers, and transfers.

use super::{Checked, ensure};
use crate::pools::{FirstToken, Role};
use crate::sim::router::Router;
use crate::sim::{RequestRow, RouteRow, Status};

impl Checked<'_> {
    pub(super) fn cluster(&self) -> Result<(), String> {
        self.transfers()?;
        let decisions: Vec<&[RouteRow]> =
            self.rows.routes.chunk_by(|a, b| (a.at, a.request, a.role) == (b.at, b.request, b.role)).collect();
        ensure(self.rows.routes.is_sorted_by_key(|row| row.at), || "decisions are out of order".to_string())?;
        for (place, decision) in decisions.iter().enumerate() {
            self.decision(decision)
                .and_then(|()| self.backlogs(&decisions[..place], decision))
                .map_err(|e| format!("{e}: {decision:?}"))?;
        }
        for row in &self.rows.requests {
            self.sent(row, &decisions).map_err(|e| format!("{e}: {row:?}"))?;
        }
        Ok(())
    }

    /// The engines that serve the request's model in a role, in order.
    fn candidates(&self, request: u32, role: Role) -> Vec<u32> {
        let r = self.requests;
        let asked = r.model.get(request as usize).copied().flatten();
        let model = asked.map_or(&self.s.deployment.model, |model| &r.model_names[model as usize]);
        let alone = self.s.deployment.pools.is_empty();
        let serves = |site: &crate::pools::Site| site.role == role && (alone || site.deployment.model == *model);
        self.places.iter().filter(|place| serves(&place.site)).flat_map(|place| place.engines()).collect()
    }

    /// All candidates are looked at, and one is chosen: the best, where the router says what that is.
    fn decision(&self, decision: &[RouteRow]) -> Result<(), String> {
        let (request, role) = (decision[0].request, decision[0].role);
        let told: Vec<u32> = decision.iter().map(|row| row.replica).collect();
        let candidates = self.candidates(request, role);
        ensure(told == candidates, || format!("the candidates are {candidates:?}"))?;
        let chosen: Vec<&RouteRow> = decision.iter().filter(|row| row.chosen).collect();
        let [chosen] = chosen[..] else { return Err(format!("{} are chosen", chosen.len())) };
        let d = &self.s.deployment;
        let router = match (role, &d.disaggregation.decode_router) {
            (Role::Decode, Some(router)) => router,
            (Role::Mixed | Role::Encode | Role::Prefill | Role::Decode, _) => &d.router,
        };
        let scores: Vec<f64> = decision.iter().filter_map(|row| row.score).collect();
        let best = scores.len() == decision.len() && scores.iter().all(|s| chosen.score >= Some(*s));
        let right = match router {
            Router::RoundRobin | Router::Random => scores.is_empty(),
            Router::LeastOutstanding
            | Router::LeastQueued
            | Router::LeastTokens
            | Router::LopBinary
            | Router::LopBatchEnd
            | Router::LopUncached
            | Router::Weighted(_) => best,
            Router::StickyRoundRobin => scores.is_empty(),
            Router::StickyLor | Router::StickyLop => best || scores.is_empty(),
            Router::KvAware(rules) => best || (rules.temperature > 0.0 && scores.len() == decision.len()),
            // What else they go by is not the score.
            Router::TolerantStickyLopUncached(_)
            | Router::RankedStickyLopUncached(_)
            | Router::PowerOfTwo
            | Router::PrefixAffinity(_) => scores.iter().all(|score| score.is_finite()),
        };
        ensure(right, || format!("not what {router:?} does"))
    }

    /// What candidates have before them is at most what those sent there ask for, and something as long as one is there.
    fn backlogs(&self, earlier: &[&[RouteRow]], decision: &[RouteRow]) -> Result<(), String> {
        for row in decision {
            let sent = earlier.iter().flat_map(|d| d.iter()).filter(|e| e.chosen && e.replica == row.replica);
            let (mut least, mut most) = (0, 0);
            for request in sent.filter(|e| e.role == row.role).map(|e| e.request) {
                let Some(told) = self.rows.requests.iter().find(|told| told.request == request) else { continue };
                let end = match row.role {
                    Role::Mixed | Role::Decode => self.left(told),
                    Role::Prefill => told.prefilled.map(|t| t.0),
                    Role::Encode => told.encoded.map(|t| t.0),
                };
                let i = request as usize;
                let encoder = self.requests.encoder_tokens.get(i).copied().flatten().unwrap_or(0);
                let encoded = row.role == Role::Encode && told.encoded.is_some();
                let never_here = told.status == Status::Rejected && !encoded;
                let gone = never_here || end.is_some_and(|end| end < row.at.0);
                let asked = self.requests.input_tokens[i].max(encoder) + self.requests.output_tokens[i] * told.samples;
                most += if gone { 0 } else { u64::from(asked) };
                // Of an encoder's end it is only known when what it made had arrived.
                let here = row.role != Role::Encode && told.status.served() && end.is_some_and(|end| end > row.at.0);
                least += u64::from(here);
            }
            let backlog = row.backlog_tokens;
            ensure((least..=most).contains(&backlog), || {
                format!("{backlog} tokens before replica {}, not {least} to {most}", row.replica)
            })?;
        }
        Ok(())
    }

    /// A request is where it was sent, and was sent where it had to.
    fn sent(&self, row: &RequestRow, decisions: &[&[RouteRow]]) -> Result<(), String> {
        let own = decisions.iter().filter(|d| d[0].request == row.request);
        let chosen: Vec<&RouteRow> = own.flat_map(|d| d.iter()).filter(|e| e.chosen).collect();
        let of = |role: Role| chosen.iter().filter(|e| e.role == role).copied().collect::<Vec<_>>();
        for role in [Role::Mixed, Role::Encode, Role::Prefill, Role::Decode] {
            ensure(of(role).len() <= 1, || format!("several times routed as {role:?}"))?;
        }
        for e in &chosen {
            let right = match e.role {
                Role::Encode => e.at == row.arrival,
                Role::Mixed | Role::Prefill | Role::Decode => e.at == row.encoded.unwrap_or(row.arrival),
            };
            ensure(right, || format!("routed as {:?} at {:?}", e.role, e.at))?;
        }
        if row.queued.is_none() {
            return Ok(());
        }
        let whole: Vec<u32> = of(Role::Mixed).iter().chain(&of(Role::Decode)).map(|e| e.replica).collect();
        ensure(whole == [row.replica], || format!("was sent to {whole:?}"))?;
        let prefill = of(Role::Prefill).first().map(|e| e.replica);
        ensure(prefill == row.prefill_replica, || format!("its prompt was sent to {prefill:?}"))?;
        let encoder = self.requests.encoder_tokens.get(row.request as usize).copied().flatten();
        let encodes = encoder.is_some() && !self.candidates(row.request, Role::Encode).is_empty();
        let right = of(Role::Encode).len() == usize::from(encodes) && row.encoded.is_some() == encodes;
        ensure(right, || "its encoder".to_string())
    }

    /// Caches are sent once, whole but for what was there already; what lies between the end of a prompt and the arrival
    /// of its cache is waiting for room, or sending.
    fn transfers(&self) -> Result<(), String> {
        let s = self.summary;
        let remote: Vec<&RequestRow> = self.rows.requests.iter().filter(|row| row.prefilled.is_some()).collect();
        let arrived = remote.iter().filter(|row| row.kv_ready.is_some());
        let (count, tokens) = (arrived.clone().count() as u64, arrived.map(|row| u64::from(row.input_tokens)));
        let tokens: u64 = tokens.sum();
        // Whole blocks, or tokens; with heads and layers of the larger model.
        let per_token = |model: &crate::scenario::ModelSpec| {
            u128::from(model.layers) * u128::from(model.kv_heads) * u128::from(model.head_dim) * 4
        };
        let largest = self.places.iter().map(|place| per_token(&place.site.model)).max().unwrap_or(0);
        let block = self.places.iter().map(|place| place.site.deployment.kv.block_size).max().unwrap_or(0);
        let most = (u128::from(tokens) + u128::from(count) * u128::from(block)) * largest;
        let within = s.transfers <= count && s.transferred_bytes <= most;
        ensure(within || self.losses(), || {
            format!("{} transfers of {} bytes, and {tokens} tokens for {count}", s.transfers, s.transferred_bytes)
        })?;
        ensure(s.transfers > 0 || s.transferred_bytes == 0, || "bytes without a transfer".to_string())?;
        let found = |place: &super::Place| place.site.deployment.kv.enable_prefix_caching;
        let hits = self.requests.block_tokens > 0 && self.places.iter().any(found);
        if !self.losses() && !hits {
            ensure(s.transfers == count, || format!("{} transfers for {count} caches", s.transfers))?;
            // Of a prompt of one token, which is computed again, nothing comes.
            let again = self.first_token() == FirstToken::Decode;
            let right = s.transferred_bytes > 0 || count == 0 || (again && tokens == count);
            ensure(right, || "transfers without bytes".to_string())?;
        }
        let (mut expect, mut known) = (0_i128, true);
        for row in remote.iter().filter(|row| self.over_without_reply(row).is_none()) {
            match row.kv_ready.map(|t| t.0).or(self.horizon().filter(|_| row.status == Status::InFlight)) {
                Some(until) => expect += i128::from(until) - i128::from(row.prefilled.map_or(until, |t| t.0)),
                None => known = false,
            }
        }
        // With layers on their way beforehand, and where a client went, more was under way than rows tell.
        let exact = known && !self.losses() && !self.s.deployment.disaggregation.transfer.layerwise;
        let between = s.room_wait_ns + s.transfer_ns;
        ensure(between == expect || (!exact && between >= 0), || {
            format!("{between} ns between engines, not {expect}")
        })?;
        let to_prompt = match self.first_token() {
            FirstToken::Prefill | FirstToken::Transfer => 0,
            FirstToken::Decode => count,
        };
        let again = self.summary.recomputed_tokens >= to_prompt || self.losses() || self.full_hits();
        ensure(again, || format!("{to_prompt} last tokens of prompts are computed again: {s:?}"))
    }
}
