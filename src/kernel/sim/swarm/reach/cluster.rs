//! What random scenarios have reached beyond a single engine.

use crate::pools::{FirstToken, Role, Site};
use crate::request::Requests;
use crate::scenario::{Scenario, Sessions};
use crate::sim::router::Router;
use crate::sim::swarm::Rows;
use crate::sim::{RequestRow, RouteRow, Status, Summary};
use crate::units::SimTime;

/// From the end of a prompt until its cache had arrived.
type Span = (SimTime, SimTime);

/// Number of scenarios in which something occurred at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    pub pools: u64,
    /// Pools of one role and model, of different kinds.
    pub mixtures: u64,
    pub several_models: u64,
    /// Data-parallel engines.
    pub ranks: u64,
    /// Decisions among several candidates, by the kind of the router.
    pub routers: [u64; 17],
    /// Decisions among equal scores.
    pub score_ties: u64,
    /// Sessions that kept their replica without a look.
    pub kept: u64,
    /// Decisions on what was seen before, and on what was on its way to the gateway.
    pub stale: u64,
    pub delayed: u64,
    /// Prompts that a prefill replica computed, and those that a decode replica did.
    pub remote_prompts: u64,
    pub local_prompts: u64,
    /// Replies of several tokens to the former, by the mode of the first token; and those of a single token.
    pub first_tokens: [u64; 3],
    pub single_tokens: u64,
    pub transfers: u64,
    pub layerwise: u64,
    /// Transfers that were under way at one time.
    pub overlaps: u64,
    /// Transfers that were over at one time.
    pub ties: u64,
    /// Requests that waited for room on their decode replica.
    pub room_waits: u64,
    /// Clients that went, and horizons, between prefill and decode.
    pub lost_between: u64,
    pub cut_between: u64,
    /// Of requests whose prompt was to be computed elsewhere.
    pub preemptions: u64,
    /// By a decode replica.
    pub rejections: u64,
    pub encodes: u64,
    pub encodes_before_prefill: u64,
    /// Turns that were sent when the one before was done, and requests that wait for others that they name.
    pub turns: u64,
    pub graphs: u64,
    pub users: u64,
    pub never_sent: u64,
}

/// Its place in [`Cluster::routers`].
fn kind(router: &Router) -> usize {
    match router {
        Router::RoundRobin => 0,
        Router::Random => 1,
        Router::LeastOutstanding => 2,
        Router::LeastQueued => 3,
        Router::LeastTokens => 4,
        Router::LopBinary => 5,
        Router::LopBatchEnd => 6,
        Router::LopUncached => 7,
        Router::StickyRoundRobin => 8,
        Router::StickyLor => 9,
        Router::StickyLop => 10,
        Router::TolerantStickyLopUncached(_) => 11,
        Router::RankedStickyLopUncached(_) => 12,
        Router::PowerOfTwo => 13,
        Router::PrefixAffinity(_) => 14,
        Router::KvAware(_) => 15,
        Router::Weighted(_) => 16,
    }
}

/// The client went.
fn gone(row: &RequestRow) -> bool {
    match row.status {
        Status::TimedOut | Status::Cancelled => true,
        Status::Finished | Status::LengthCapped | Status::Rejected | Status::InFlight => false,
    }
}

impl Cluster {
    /// What one scenario reached.
    pub(super) fn of(s: &Scenario, requests: &Requests, rows: &Rows, summary: &Summary) -> Cluster {
        let mut reach = Cluster::default();
        reach.note_shape(s);
        reach.note_transfers(s, rows, summary);
        reach.note_requests(s, requests, rows, summary);
        for decision in rows.routes.chunk_by(|a, b| (a.at, a.request, a.role) == (b.at, b.request, b.role)) {
            reach.note_decision(s, decision);
        }
        reach
    }

    fn note_shape(&mut self, s: &Scenario) {
        let sites = s.sites();
        let same = |a: &Site, b: &Site| (a.role, &a.deployment.model) == (b.role, &b.deployment.model);
        let twin = |a: &Site| sites.iter().filter(|b| same(a, b)).count() > 1;
        let model = &sites[0].deployment.model;
        self.pools = u64::from(!s.deployment.pools.is_empty());
        self.mixtures = u64::from(sites.iter().any(twin));
        self.several_models = u64::from(sites.iter().any(|site| site.deployment.model != *model));
        self.ranks = u64::from(sites.iter().any(|site| site.deployment.dp > 1));
    }

    fn note_transfers(&mut self, s: &Scenario, rows: &Rows, summary: &Summary) {
        let rules = &s.deployment.disaggregation;
        let remote = || rows.requests.iter().filter(|row| row.prefill_replica.is_some());
        let any = |test: &dyn Fn(&RequestRow) -> bool| u64::from(remote().any(test));
        let several = any(&|row| row.output_tokens > 1);
        self.first_tokens = match rules.first_token {
            FirstToken::Prefill => [several, 0, 0],
            FirstToken::Transfer => [0, several, 0],
            FirstToken::Decode => [0, 0, several],
        };
        self.single_tokens = any(&|row| row.status.served() && row.output_tokens == 1);
        self.remote_prompts = any(&|row| row.prefilled.is_some());
        self.preemptions = any(&|row| row.preemptions > 0);
        let between = |row: &RequestRow| row.prefilled.is_some() && row.kv_ready.is_none();
        self.lost_between = any(&|row| between(row) && gone(row));
        self.cut_between = any(&|row| between(row) && row.status == Status::InFlight);
        self.transfers = u64::from(summary.transfers > 0);
        self.layerwise = u64::from(summary.transfers > 0 && rules.transfer.layerwise);
        self.room_waits = u64::from(summary.room_wait_ns > 0);
        let arrived: Vec<Span> = remote().filter_map(|row| Some((row.prefilled?, row.kv_ready?))).collect();
        let sent: Vec<&Span> = arrived.iter().filter(|(from, until)| from < until).collect();
        let among_others = |test: fn(&Span, &Span) -> bool| {
            let other = |at: usize| sent.iter().enumerate().any(|(b, span)| b != at && test(sent[at], span));
            u64::from((0..sent.len()).any(other))
        };
        self.overlaps = among_others(|a, b| b.0 <= a.0 && a.0 < b.1);
        self.ties = among_others(|a, b| a.1 == b.1);
    }

    fn note_requests(&mut self, s: &Scenario, requests: &Requests, rows: &Rows, summary: &Summary) {
        let load = &s.workload;
        let sites = s.sites();
        let decodes = |row: &RequestRow| {
            let site = sites.iter().rfind(|site| site.first <= row.replica);
            site.is_some_and(|site| site.role == Role::Decode)
        };
        let any = |test: &dyn Fn(&RequestRow) -> bool| u64::from(rows.requests.iter().any(test));
        self.local_prompts = any(&|row| decodes(row) && row.prefill_replica.is_none() && row.scheduled.is_some());
        self.rejections = any(&|row| decodes(row) && row.status == Status::Rejected);
        self.encodes = any(&|row| row.encoded.is_some());
        self.encodes_before_prefill = any(&|row| row.encoded.is_some() && row.prefill_replica.is_some());
        let closed = load.sessions == Sessions::Closed || load.concurrency.is_some();
        let in_session = |row: &RequestRow| requests.session.get(row.request as usize).copied().flatten();
        let mut sessions: Vec<u32> =
            rows.requests.iter().filter(|row| row.queued.is_some()).filter_map(in_session).collect();
        sessions.sort_unstable();
        self.turns = u64::from(closed && sessions.windows(2).any(|w| w[0] == w[1]));
        self.graphs = any(&|row| row.queued.is_some() && !requests.waits_for(row.request as usize).is_empty());
        self.users = u64::from(load.concurrency.is_some());
        self.never_sent = u64::from(summary.never_sent > 0);
    }

    fn note_decision(&mut self, s: &Scenario, decision: &[RouteRow]) {
        let (d, later) = (&s.deployment, decision[0].at > SimTime::ZERO);
        if decision.len() < 2 {
            return;
        }
        let router = match (decision[0].role, &d.disaggregation.decode_router) {
            (Role::Decode, Some(router)) => router,
            (Role::Mixed | Role::Encode | Role::Prefill | Role::Decode, _) => &d.router,
        };
        self.routers[kind(router)] = 1;
        let scores: Vec<f64> = decision.iter().filter_map(|row| row.score).collect();
        self.score_ties |= u64::from(scores.windows(2).any(|w| w[0] == w[1]));
        let compares = match router {
            Router::RoundRobin | Router::Random | Router::StickyRoundRobin => false,
            Router::LeastOutstanding
            | Router::LeastQueued
            | Router::LeastTokens
            | Router::LopBinary
            | Router::LopBatchEnd
            | Router::LopUncached
            | Router::StickyLor
            | Router::StickyLop
            | Router::TolerantStickyLopUncached(_)
            | Router::RankedStickyLopUncached(_)
            | Router::PowerOfTwo
            | Router::PrefixAffinity(_)
            | Router::KvAware(_)
            | Router::Weighted(_) => true,
        };
        self.kept |= u64::from(compares && scores.is_empty());
        self.stale |= u64::from(later && d.signals.refresh_ms > 0.0);
        self.delayed |= u64::from(later && d.signals.delay_ms > 0.0);
    }

    pub(super) fn fields(&mut self) -> Vec<(&'static str, &mut u64)> {
        let names = [
            "router: round_robin",
            "router: random",
            "router: least_outstanding",
            "router: least_queued",
            "router: least_tokens",
            "router: lop_binary",
            "router: lop_batch_end",
            "router: lop_uncached",
            "router: sticky_round_robin",
            "router: sticky_lor",
            "router: sticky_lop",
            "router: tolerant_sticky_lop_uncached",
            "router: ranked_sticky_lop_uncached",
            "router: power_of_two",
            "router: prefix_affinity",
            "router: kv_aware",
            "router: weighted",
        ];
        let modes = ["first token by prefill", "first token by transfer", "first token by decode"];
        let mut fields: Vec<(&'static str, &mut u64)> = names.into_iter().zip(&mut self.routers).collect();
        fields.extend(modes.into_iter().zip(&mut self.first_tokens));
        fields.extend([
            ("pools", &mut self.pools),
            ("pools of several kinds for one thing", &mut self.mixtures),
            ("several models", &mut self.several_models),
            ("data-parallel engines", &mut self.ranks),
            ("equal scores", &mut self.score_ties),
            ("sessions that kept their replica", &mut self.kept),
            ("stale signals", &mut self.stale),
            ("delayed signals", &mut self.delayed),
            ("prompts of prefill replicas", &mut self.remote_prompts),
            ("prompts of decode replicas", &mut self.local_prompts),
            ("single tokens after prefill replicas", &mut self.single_tokens),
            ("transfers", &mut self.transfers),
            ("layerwise transfers", &mut self.layerwise),
            ("transfers that overlap", &mut self.overlaps),
            ("transfers that end at one time", &mut self.ties),
            ("waits for room", &mut self.room_waits),
            ("clients gone between prefill and decode", &mut self.lost_between),
            ("horizons between prefill and decode", &mut self.cut_between),
            ("preemptions after prefill replicas", &mut self.preemptions),
            ("rejections by decode replicas", &mut self.rejections),
            ("encoders", &mut self.encodes),
            ("encoders before prefill replicas", &mut self.encodes_before_prefill),
            ("closed turns", &mut self.turns),
            ("requests that wait for others", &mut self.graphs),
            ("virtual users", &mut self.users),
            ("never sent", &mut self.never_sent),
        ]);
        fields
    }
}
