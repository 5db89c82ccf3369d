//! What a router has sent where: of every candidate, the hashes (or adapters) that it was last sent.
//!
//! Promises: only candidates that were sent the first hash of a prompt are looked at; what is forgotten takes no memory.

use super::holders::{Holder, Holders, narrow};
use super::picker::Ask;
use crate::request::Requests;

/// A hash that was sent to a candidate, or (place = candidate) where the ring of its hashes closes.
#[derive(Clone, Copy)]
struct Node {
    hash: u64,
    /// Used before and after this one. The ring's own: used last and first.
    before: u32,
    after: u32,
}

/// See the head of the file.
pub(super) struct Sent {
    /// Hashes that are remembered for a candidate.
    capacity: u32,
    /// How many are.
    known: Vec<u32>,
    nodes: Vec<Node>,
    /// Hash to the candidates that were sent it, and its node.
    holders: Holders,
    /// Candidates that were sent all that was looked at; empty between calls.
    walking: Vec<Holder>,
}

impl Sent {
    pub(super) fn new(candidates: usize, capacity: u32) -> Sent {
        Sent {
            capacity,
            known: vec![0; candidates],
            nodes: (0..candidates as u32).map(|own| Node { hash: 0, before: own, after: own }).collect(),
            holders: Holders::new(),
            walking: Vec::new(),
        }
    }

    /// Hashes that are remembered for a candidate.
    pub(super) fn known(&self, candidate: usize) -> u32 {
        self.known[candidate]
    }

    /// The candidates that were sent the first of these hashes, each once, and how many of them without a gap, in place of
    /// what was in `matches`.
    pub(super) fn matches(&mut self, hashes: &[u64], matches: &mut Vec<Holder>) {
        matches.clear();
        let Some((first, others)) = hashes.split_first() else { return };
        let walking = &mut self.walking;
        walking.extend(self.holders.of(*first).iter().map(|(candidate, _)| (*candidate, 1)));
        for hash in others {
            if walking.is_empty() {
                break;
            }
            narrow(walking, self.holders.of(*hash), |candidate, node| {
                match node {
                    Some(_) => candidate.1 += 1,
                    None => matches.push(*candidate),
                }
                node.is_some()
            });
        }
        matches.append(walking);
    }

    /// These hashes are sent to the candidate, one after the other.
    pub(super) fn send(&mut self, candidate: usize, hashes: &[u64]) {
        if self.capacity == 0 {
            return;
        }
        for hash in hashes {
            let node = self.node(candidate as u32, *hash);
            let last = std::mem::replace(&mut self.nodes[candidate].before, node);
            self.nodes[last as usize].after = node;
            self.nodes[node as usize] = Node { hash: *hash, before: last, after: candidate as u32 };
        }
    }

    /// A node for the hash that is in no ring: its own, or that of the one used first, or a new one.
    fn node(&mut self, candidate: u32, hash: u64) -> u32 {
        if let Some(node) = self.holders.get(hash, candidate) {
            self.unlink(node);
            return node;
        }
        let known = &mut self.known[candidate as usize];
        let node = if *known < self.capacity {
            *known += 1;
            self.nodes.push(Node { hash, before: 0, after: 0 });
            u32::try_from(self.nodes.len() - 1).expect("no more hashes are remembered than can be numbered")
        } else {
            let first = self.nodes[candidate as usize].after;
            self.holders.remove(self.nodes[first as usize].hash, candidate);
            self.unlink(first);
            first
        };
        self.holders.put(hash, candidate, node);
        node
    }

    fn unlink(&mut self, node: u32) {
        let Node { before, after, .. } = self.nodes[node as usize];
        self.nodes[before as usize].after = after;
        self.nodes[after as usize].before = before;
    }
}

/// The trace's hashes of the blocks that the prompt fills or begins.
pub(super) fn prompt_hashes(ask: Ask, requests: &Requests) -> &[u64] {
    let hashes = requests.hashes(ask.request as usize);
    if !ask.hashed || hashes.is_empty() {
        return &[];
    }
    let blocks = requests.input_tokens[ask.request as usize].div_ceil(requests.block_tokens) as usize;
    &hashes[..blocks.min(hashes.len())]
}
