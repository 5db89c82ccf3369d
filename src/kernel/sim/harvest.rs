//! Rows in their order, the backlog of candidates, and totals.

use std::collections::{BTreeMap, BTreeSet};

use super::gateway::PoolKind;
use super::itl::Gaps;
use super::node::Out;
use super::{RequestRow, RouteRow, Sink, Status, Summary};
use crate::units::{SimDuration, SimTime};

/// In place of an engine: the request was never sent.
const NOWHERE: u32 = u32::MAX;

/// Where a row stands among those of its time: kind, engine, request.
pub(super) type Place = (SimTime, u8, u32, u32);

/// See the head of the file.
pub(super) struct Harvest<'a> {
    sink: &'a mut dyn Sink,
    /// Rows that were heard of.
    pub heard: usize,
    /// Requests that were sent, or are known never to be.
    pub sent: u64,
    /// Parts of requests that pools were sent.
    pub parts: Vec<u64>,
    /// KV blocks of an engine of every pool.
    blocks: Vec<u64>,
    /// Scratch: places of rows in the order in which they are handed out, and where each is.
    order: Vec<(Place, u32)>,
    summary: Summary,
    /// Only where decisions are told.
    backlog: Option<Backlog>,
}

/// What candidates have before them, beside the replies that their engines know of.
#[derive(Default)]
struct Backlog {
    /// By engine.
    prompts: Vec<u64>,
    replies: Vec<u64>,
    /// Prompt tokens that are pending, and reply tokens that the engine does not count: by engine and request.
    pending: BTreeMap<(u32, u32), u32>,
    away: BTreeMap<(u32, u32), u32>,
}

impl<'a> Harvest<'a> {
    pub(super) fn new(sink: &'a mut dyn Sink, kinds: &[PoolKind], engines: usize) -> Harvest<'a> {
        let backlog = sink.wants_routes().then(|| Backlog {
            prompts: vec![0; engines],
            replies: vec![0; engines],
            ..Backlog::default()
        });
        Harvest {
            sink,
            heard: 0,
            sent: 0,
            parts: vec![0; kinds.len()],
            blocks: kinds.iter().map(|kind| kind.blocks).collect(),
            order: Vec::new(),
            summary: Summary::default(),
            backlog,
        }
    }

    pub(super) fn wants_routes(&self) -> bool {
        self.backlog.is_some()
    }

    /// A candidate; `replies` are the tokens of replies that its engine counts.
    pub(super) fn route(&mut self, row: RouteRow, replies: u64) {
        let Some(backlog) = &self.backlog else { return };
        let at = row.replica as usize;
        self.sink.route(RouteRow { backlog_tokens: backlog.prompts[at] + backlog.replies[at] + replies, ..row });
    }

    /// An engine was chosen for a prompt.
    pub(super) fn sent_to(&mut self, engine: u32, request: u32, prompt: u32) {
        if let Some(backlog) = &mut self.backlog {
            backlog.prompts[engine as usize] += u64::from(prompt);
            backlog.pending.insert((engine, request), prompt);
        }
    }

    pub(super) fn prompt_done(&mut self, engine: u32, request: u32) {
        if let Some(backlog) = &mut self.backlog
            && let Some(prompt) = backlog.pending.remove(&(engine, request))
        {
            backlog.prompts[engine as usize] -= u64::from(prompt);
        }
    }

    /// Tokens of a reply that are to come out of an engine, which does not count them itself (any more, or yet).
    pub(super) fn away(&mut self, engine: u32, request: u32, tokens: u32) {
        if let Some(backlog) = &mut self.backlog {
            let before = match tokens {
                0 => backlog.away.remove(&(engine, request)),
                _ => backlog.away.insert((engine, request), tokens),
            };
            let replies = &mut backlog.replies[engine as usize];
            *replies = *replies + u64::from(tokens) - u64::from(before.unwrap_or(0));
        }
    }

    /// An engine has nothing more to do with a request.
    pub(super) fn part_ended(&mut self, engine: u32, request: u32) {
        self.prompt_done(engine, request);
        self.away(engine, request, 0);
    }

    pub(super) fn room_waited(&mut self, time: SimDuration) {
        self.summary.room_wait_ns += i128::from(time.0);
    }

    pub(super) fn transferred(&mut self, bytes: u128, time: SimDuration) {
        self.summary.transfers += 1;
        self.summary.transferred_bytes += bytes;
        self.moved_so_far(time);
    }

    pub(super) fn moved_so_far(&mut self, time: SimDuration) {
        self.summary.transfer_ns += i128::from(time.0);
    }

    /// A request that is never sent.
    pub(super) fn never(&mut self, row: RequestRow, out: &mut Out) {
        self.sent += 1;
        self.summary.never_sent += 1;
        out.rows.push((row.arrival, NOWHERE, row));
        self.heard = out.rows.len();
    }

    /// Hands out the rows of what came about before `now`. Nothing earlier can follow; at `now` something may.
    pub(super) fn flush(&mut self, now: SimTime, out: &mut Out) {
        // Ties keep their order: rows of one engine come about in batch order, rejections in order of arrival. Rows are
        // large, and mostly in order already, so their places are sorted instead.
        self.order.clear();
        self.order.extend(out.rows.iter().map(place).zip(0..));
        if !self.order.is_sorted() {
            self.order.sort_unstable();
        }
        let ready = self.order.partition_point(|((at, ..), _)| *at < now || now == SimTime::MAX);
        for (_, i) in &self.order[..ready] {
            let (at, _, row) = &out.rows[*i as usize];
            count(&mut self.summary, row);
            self.summary.end = self.summary.end.max(row.finished.unwrap_or(*at));
            self.sink.request(*row);
        }
        let late: BTreeSet<u32> = self.order[ready..].iter().map(|(_, i)| *i).collect();
        if late.is_empty() {
            out.rows.clear();
        } else {
            let mut at = 0;
            out.rows.retain(|_| {
                at += 1;
                late.contains(&(at - 1))
            });
        }
        self.heard = out.rows.len();
        // A step that runs has its row already.
        out.steps.sort_by_key(|(end, row)| (*end, row.replica));
        let over = out.steps.partition_point(|(end, _)| *end <= now);
        for (_, row) in out.steps.drain(..over) {
            self.sink.step(row);
        }
    }

    /// The totals of everything, from those of the pools.
    pub(super) fn totals(self, pools: Vec<Summary>, out_of_order: u64, gaps: Gaps) -> Summary {
        let mut s = self.summary;
        s.pools = pools;
        let of_pools = s.pools.iter_mut().zip(self.parts).zip(self.blocks);
        for ((pool, parts), blocks) in of_pools {
            (pool.injected, pool.kv_blocks_total) = (parts, blocks);
            assert!(pool.kv_blocks_max <= blocks, "impossible totals: {pool:?}");
        }
        for pool in s.pools.clone() {
            s.kv_blocks_total = s.kv_blocks_total.max(pool.kv_blocks_total);
            s.add(&pool);
        }
        s.injected = self.sent;
        s.out_of_order = out_of_order;
        s.itl = gaps.into_sorted();
        let ended = s.finished + s.length_capped + s.rejected + s.timed_out + s.cancelled;
        assert!(ended + s.in_flight == s.injected, "requests were lost: {s:?}");
        assert!(s.busy >= SimDuration::ZERO, "impossible totals: {s:?}");
        s
    }
}

/// Where a row that an engine hands out stands among the others.
pub(super) fn place((at, engine, row): &(SimTime, u32, RequestRow)) -> Place {
    match row.status {
        Status::Cancelled if *engine == NOWHERE => (*at, 2, 0, row.request),
        Status::Finished | Status::LengthCapped => (*at, 0, *engine, 0),
        Status::TimedOut | Status::Cancelled => (*at, 0, *engine, row.request + 1),
        Status::Rejected => (*at, 1, 0, 0),
        Status::InFlight => (*at, 3, 0, row.request),
    }
}

fn count(s: &mut Summary, row: &RequestRow) {
    let times =
        [Some(row.arrival), row.encoded, row.queued, row.scheduled, row.prefilled, row.kv_ready].into_iter().flatten();
    let tokens = [row.scheduled, row.first_token, row.finished].into_iter().flatten();
    assert!(times.is_sorted() && tokens.is_sorted(), "times out of order: {row:?}");
    let counter = match row.status {
        Status::Finished => &mut s.finished,
        Status::LengthCapped => &mut s.length_capped,
        Status::Rejected => &mut s.rejected,
        Status::TimedOut => &mut s.timed_out,
        Status::Cancelled => &mut s.cancelled,
        Status::InFlight => &mut s.in_flight,
    };
    *counter += 1;
    s.preemptions += u64::from(row.preemptions);
    s.recomputed_tokens += u64::from(row.recomputed_tokens);
}
