//! Requests of several parts: encoder, prompt and reply on different engines. Where each is, who waits for room, and what
//! moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::RequestRow;
use super::facts;
use super::node::Reply;
use super::transfer::Links;
use crate::pools::{FirstToken, Site};
use crate::scenario::Scenario;
use crate::units::SimTime;

/// Where a request of several parts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// With the encoder.
    Encoding,
    /// Its embeddings are on their way.
    Embeddings,
    /// Its prompt is computed on the prefill replica; or all is done on one replica, after an encoder.
    Prompt,
    /// The prompt is done, and waits for room.
    Room,
    /// The KV cache is on its way.
    Moving,
    /// The KV cache is there.
    Reply,
}

/// A request of several parts.
pub(super) struct Trip {
    pub place: u32,
    pub stage: Stage,
    /// Engine of the encoder's part.
    pub encoder: u32,
    /// Engine of the prompt, where it is not that of the reply.
    pub prefill: Option<u32>,
    /// Engine of the reply, or of everything but the encoder's part.
    pub last: u32,
    /// Tokens of the reply, and whether that is less than it would be.
    pub output: u32,
    pub capped: bool,
    /// What is known of it so far.
    pub row: RequestRow,
    /// Since when it is in this stage, where it waits for room or moves.
    pub since: SimTime,
    /// Bytes that moved.
    pub bytes: u128,
}

/// See the head of the file.
pub(super) struct Moves {
    pub trips: BTreeMap<u32, Trip>,
    /// Requests that wait for room, by engine; and those that joined at this instant.
    rooms: Vec<VecDeque<u32>>,
    pub joined: Vec<u32>,
    /// Requests whose embeddings have arrived at this instant.
    pub encoded: BTreeSet<u32>,
    /// Engines where room may have come free.
    pub roomy: Vec<u32>,
    pub links: Links,
    pub first_token: FirstToken,
    layerwise: bool,
    /// By pool.
    layers: Vec<u32>,
    block_bytes: Vec<u128>,
    embedding_bytes: Vec<u128>,
}

impl Moves {
    pub(super) fn new(scenario: &Scenario, sites: &[Site], engines: usize) -> Moves {
        let rules = &scenario.deployment.disaggregation;
        let block = |site: &Site| {
            let d = &site.deployment;
            u128::from(d.kv.block_size) * u128::from(facts::kv_bytes_per_token(&site.model, d.kv.kv_cache_dtype))
        };
        Moves {
            trips: BTreeMap::new(),
            rooms: vec![VecDeque::new(); engines],
            joined: Vec::new(),
            encoded: BTreeSet::new(),
            roomy: Vec::new(),
            links: Links::new(&rules.transfer, scenario.deployment.tick),
            first_token: rules.first_token,
            layerwise: rules.transfer.layerwise,
            layers: sites.iter().map(|site| site.model.layers).collect(),
            block_bytes: sites.iter().map(block).collect(),
            embedding_bytes: sites.iter().map(|site| u128::from(site.model.hidden) * 2).collect(),
        }
    }

    /// Bytes of the embeddings of so many tokens, from an engine of this pool.
    pub(super) fn embeddings(&self, site: usize, tokens: u32) -> u128 {
        self.embedding_bytes[site] * u128::from(tokens)
    }

    /// Bytes of so many blocks, to an engine of this pool.
    pub(super) fn blocks(&self, site: usize, blocks: u32) -> u128 {
        self.block_bytes[site] * u128::from(blocks)
    }

    /// Bytes that are left to move when the transfer begins.
    pub(super) fn left(&self, site: usize, trip: &Trip, bytes: u128) -> u128 {
        let (true, Some(from), Some(to)) = (self.layerwise, trip.row.scheduled, trip.row.prefilled) else {
            return bytes;
        };
        let last_layer = bytes.div_ceil(u128::from(self.layers[site]));
        bytes.saturating_sub(self.links.carried(to - from)).max(last_layer)
    }

    /// What the decode replica is asked for.
    pub(super) fn reply(&self, trip: &Trip, input: u32) -> Reply {
        let has_first = self.first_token != FirstToken::Decode;
        Reply {
            place: trip.place,
            row: trip.row,
            output: trip.output,
            capped: trip.capped,
            loaded: if has_first { input } else { input - 1 },
            has_first,
        }
    }

    /// Those that joined at this instant queue for room, in the order of the trace; the engines whose queues are to be
    /// looked at.
    pub(super) fn take_queues(&mut self) -> Vec<u32> {
        let mut joined = std::mem::take(&mut self.joined);
        joined.sort_unstable_by_key(|request| self.trips[request].place);
        let mut engines = std::mem::take(&mut self.roomy);
        for request in joined {
            let engine = self.trips[&request].last;
            self.rooms[engine as usize].push_back(request);
            engines.push(engine);
        }
        engines.sort_unstable();
        engines.dedup();
        engines
    }

    /// The request that is next to get room.
    pub(super) fn head(&self, engine: u32) -> Option<u32> {
        self.rooms[engine as usize].front().copied()
    }

    pub(super) fn pop(&mut self, engine: u32) {
        self.rooms[engine as usize].pop_front();
    }
}
