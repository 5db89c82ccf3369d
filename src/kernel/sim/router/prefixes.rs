//! What is known of the prefix caches of all candidates: which of them have how much of a prompt.
//!
//! Promises: only candidates that hold the start of a prompt are looked at; what a cache has lost takes no memory.

use super::holders::{Holder, Holders, narrow};
use super::picker::{Ask, Kind};
use crate::request::Requests;
use crate::sim::kv::hashes::Derivation;

/// Candidates whose caches have the same hashes, and what they hold: how many KV blocks of the unit of a hash, counted
/// from its first.
struct Group {
    derivation: Derivation,
    block_size: u32,
    units: Holders,
}

impl Group {
    /// KV blocks of the request that can be found at most, given the tokens of its prompt that can be.
    fn most(&self, requests: &Requests, request: usize, tokens: u32) -> u32 {
        self.derivation.known_blocks(requests, request, self.block_size).min(tokens / self.block_size)
    }
}

/// See the head of the file.
pub(super) struct Prefixes {
    kinds: Vec<Kind>,
    groups: Vec<Group>,
    /// Group of every candidate.
    of: Vec<u32>,
    /// Candidates that have all that was looked at, and how many blocks that is; empty between calls.
    walking: Vec<Holder>,
}

impl Prefixes {
    pub(super) fn new(kinds: Vec<Kind>) -> Prefixes {
        let mut groups: Vec<Group> = Vec::new();
        let of = kinds.iter().map(|kind| {
            let same = |g: &Group| (g.derivation, g.block_size) == (kind.derivation, kind.block_size);
            groups.iter().position(same).unwrap_or_else(|| {
                let Kind { derivation, block_size, .. } = *kind;
                groups.push(Group { derivation, block_size, units: Holders::new() });
                groups.len() - 1
            }) as u32
        });
        let of = of.collect();
        Prefixes { kinds, groups, of, walking: Vec::new() }
    }

    /// Of every hash given, the candidate has so many KV blocks of the unit, counted from its first.
    pub(super) fn cached(&mut self, candidate: usize, changes: &[(u64, u32)]) {
        let units = &mut self.groups[self.of[candidate] as usize].units;
        for (hash, blocks) in changes {
            match blocks {
                0 => units.remove(*hash, candidate as u32),
                blocks => units.put(*hash, candidate as u32, *blocks),
            }
        }
    }

    /// Tokens of the prompt that a candidate has.
    pub(super) fn hit(&self, candidate: usize, ask: Ask, requests: &Requests) -> u32 {
        if !ask.hashed {
            return 0;
        }
        let (group, request) = (&self.groups[self.of[candidate] as usize], ask.request as usize);
        let most = group.most(requests, request, usable(&self.kinds[candidate], ask.prompt));
        let mut found = 0;
        for unit in group.derivation.units(requests, request, group.block_size) {
            let blocks = group.units.get(unit.hash, candidate as u32).unwrap_or(0).min(unit.blocks);
            found += blocks;
            if blocks < unit.blocks || found >= most {
                break;
            }
        }
        found.min(most) * group.block_size
    }

    /// The candidates that have some of the prompt, each once, and how many tokens, in place of what was in `hits`.
    pub(super) fn hits(&mut self, ask: Ask, requests: &Requests, hits: &mut Vec<Holder>) {
        hits.clear();
        if !ask.hashed {
            return;
        }
        let (request, walking) = (ask.request as usize, &mut self.walking);
        for group in &self.groups {
            let most = group.most(requests, request, ask.prompt);
            let mut units = group.derivation.units(requests, request, group.block_size);
            let Some(first) = units.next().filter(|_| most > 0) else { continue };
            let mut hit = |(candidate, found): Holder| {
                let tokens = usable(&self.kinds[candidate as usize], ask.prompt);
                let blocks = found.min(most).min(tokens / group.block_size);
                if blocks > 0 {
                    hits.push((candidate, blocks * group.block_size));
                }
            };
            for (candidate, blocks) in group.units.of(first.hash) {
                if *blocks < first.blocks {
                    hit((*candidate, *blocks));
                } else {
                    walking.push((*candidate, first.blocks));
                }
            }
            let mut all = first.blocks;
            for unit in units {
                if walking.is_empty() || all >= most {
                    break;
                }
                all += unit.blocks;
                narrow(walking, group.units.of(unit.hash), |candidate, blocks| {
                    candidate.1 += blocks.unwrap_or(0).min(unit.blocks);
                    if candidate.1 < all {
                        hit(*candidate);
                    }
                    candidate.1 == all
                });
            }
            walking.drain(..).for_each(hit);
        }
    }
}

/// Tokens of a prompt that can be found.
fn usable(kind: &Kind, prompt: u32) -> u32 {
    if kind.recompute_full_hits { prompt.saturating_sub(1) } else { prompt }
}
