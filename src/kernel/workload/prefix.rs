//! What prompts begin with: system prompts, documents, templates; and how blocks of prompts are named.

use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mix::{Popularity, SharedPrefix};
use super::{MAX_TOKENS, Problem, Problems, chain};
use crate::rng;

/// Prompts that share their beginning like the leaves of a tree their path: a system prompt, below it templates, below
/// those documents. Every request, or session, goes down one path, and has the tokens of all levels before its own.
///
/// ```yaml
/// prefix_tree:
///   levels:
///     - { branching: 2, tokens: 1000 }             # two system prompts
///     - { branching: 20, tokens: 400, skew: 1 }    # below each twenty documents, unevenly asked for
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixTree {
    /// From the root down.
    pub levels: Vec<PrefixLevel>,
}

/// A level of a prefix tree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixLevel {
    /// Children of every node of the level above.
    pub branching: u32,
    /// Tokens of each of them.
    pub tokens: u32,
    /// How unevenly they are used: the k-th child has weight `1 / k^skew`. 0, the default, is even.
    #[serde(default)]
    pub skew: f64,
}

/// Prefixes of several lengths: `count` of them of `tokens` each, which together weigh `weight`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixGroup {
    /// Share of the requests, relative to that of the other groups.
    pub weight: f64,
    /// Number of different prefixes, all equally likely.
    #[serde(default = "one")]
    pub count: u32,
    /// Length of each in tokens. 0: requests without a prefix.
    pub tokens: u32,
}

fn one() -> u32 {
    1
}

/// A prefix that all requests of a workload or client begin with, before any other. Requests of two clients share it
/// where its name is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemPrompt {
    /// Its name. Default: that of the tenant, or else of the client.
    #[serde(default)]
    pub name: Option<String>,
    /// Its length in tokens.
    pub tokens: u32,
}

impl SystemPrompt {
    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let mut own = Problems::below(path);
        require_tokens(&mut own, u64::from(self.tokens), "tokens", 1);
        own.found
    }
}

impl PrefixTree {
    /// Most children of a node.
    const WIDEST: u32 = 1 << 24;

    pub(super) fn problems(&self, path: &str) -> Vec<Problem> {
        let mut own = Problems::below(path);
        own.require((1..=64).contains(&self.levels.len()), "levels", || {
            format!("must be from 1 to 64, not {}", self.levels.len())
        });
        for (i, PrefixLevel { branching, tokens, skew }) in self.levels.iter().enumerate() {
            own.require((1..=Self::WIDEST).contains(branching), &format!("levels.{i}.branching"), || {
                format!("must be from 1 to {}, not {branching}", Self::WIDEST)
            });
            require_tokens(&mut own, u64::from(*tokens), &format!("levels.{i}.tokens"), 1);
            own.require_at_least_zero(*skew, &format!("levels.{i}.skew"));
        }
        let total = self.levels.iter().map(|l| u64::from(l.tokens)).sum();
        require_tokens(&mut own, total, "levels", 0);
        own.found
    }
}

pub(super) fn group_problems(groups: &[PrefixGroup], path: &str) -> Vec<Problem> {
    let mut own = Problems::below(path);
    for (i, PrefixGroup { weight, count, tokens }) in groups.iter().enumerate() {
        own.require_at_least_zero(*weight, &format!("{i}.weight"));
        own.require(*count > 0, &format!("{i}.count"), || "must be at least 1".to_owned());
        require_tokens(&mut own, u64::from(*tokens), &format!("{i}.tokens"), 0);
    }
    own.require(groups.is_empty() || groups.iter().any(|g| g.weight > 0.0), "0.weight", || {
        "and all others must not be 0".to_owned()
    });
    own.found
}

fn require_tokens(own: &mut Problems, tokens: u64, field: &str, least: u64) {
    own.require((least..=u64::from(MAX_TOKENS)).contains(&tokens), field, || {
        format!("must be from {least} to {MAX_TOKENS} tokens, not {tokens}")
    });
}

/// Some words, by name, and how many tokens they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub words: u64,
    pub tokens: u32,
}

/// The prefixes that requests, or sessions, of one workload may have.
pub(super) struct Prefixes {
    system: Option<Piece>,
    shared: Option<(Popularity, u64, u32)>,
    levels: Vec<(Popularity, u32)>,
    groups: Option<(Popularity, Vec<PrefixGroup>)>,
    /// Names the words of levels and groups.
    tree: u64,
}

impl Prefixes {
    /// `seed` names what belongs to this workload alone, `common` what workloads of one seed share.
    pub fn new(
        system: Option<(u64, u32)>,
        shared: Option<SharedPrefix>,
        tree: Option<&PrefixTree>,
        groups: &[PrefixGroup],
        (seed, common): (u64, u64),
    ) -> Prefixes {
        let name = |label: &[u8], seed| chain(rng::fnv1a(label), seed);
        let system_words = name(b"workload/prefix/system", common);
        Prefixes {
            system: system.map(|(name, tokens)| Piece { words: chain(system_words, name), tokens }),
            shared: shared
                .map(|p| (Popularity::zipf(p.groups, p.skew), name(b"workload/sessions/shared", seed), p.tokens)),
            levels: tree
                .iter()
                .flat_map(|t| &t.levels)
                .map(|l| (Popularity::zipf(l.branching, l.skew), l.tokens))
                .collect(),
            groups: (!groups.is_empty()).then(|| (Popularity::of(groups.iter().map(|g| g.weight)), groups.to_vec())),
            tree: name(b"workload/prefix/tree", seed),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.system.is_none() && self.shared.is_none() && self.levels.is_empty() && self.groups.is_none()
    }

    /// The prefix of the next request, or session: as many draws as there are choices.
    pub fn draw(&self, rng: &mut Pcg64) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = self.system.into_iter().collect();
        if let Some((groups, words, tokens)) = &self.shared {
            pieces.push(Piece { words: chain(*words, groups.sample(rng)), tokens: *tokens });
        }
        let mut words = self.tree;
        for (children, tokens) in &self.levels {
            words = chain(words, children.sample(rng));
            pieces.push(Piece { words, tokens: *tokens });
        }
        if let Some((popularity, groups)) = &self.groups {
            let group = popularity.sample(rng);
            let PrefixGroup { count, tokens, .. } = groups[group as usize];
            let which = rng::below(rng, u64::from(count));
            if tokens > 0 {
                pieces.push(Piece { words: chain(chain(self.tree, group), which), tokens });
            }
        }
        pieces
    }
}

/// Tokens of all pieces.
pub(super) fn tokens(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|p| u64::from(p.tokens)).sum()
}

/// Appends the chained hashes of the full blocks of `pieces`. A block is named after the pieces in it, where in each it
/// begins, and how much of each it has: blocks that follow equal blocks have the same name if they hold the same words.
pub(super) fn push_blocks(root: u64, pieces: &[Piece], block_tokens: u32, hashes: &mut Vec<u64>) {
    let (mut hash, mut content, mut filled) = (root, 0, 0);
    for piece in pieces {
        let mut from = 0;
        while from < piece.tokens {
            let taken = (piece.tokens - from).min(block_tokens - filled);
            let part = u64::from(from) << 32 | u64::from(taken);
            content = chain(chain(content, piece.words), part);
            from += taken;
            filled += taken;
            if filled == block_tokens {
                hash = chain(hash, content);
                hashes.push(hash);
                (content, filled) = (0, 0);
            }
        }
    }
}
