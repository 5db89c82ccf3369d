//! The tokens of texts that were seen lately, in a bounded amount of memory, shared by all threads.
//!
//! A conversation repeats its past in every turn, and its turns are far apart in a trace: what one batch has tokenized
//! is kept for those after it. Texts are known by 128 bits of their BLAKE3 hash. What is kept changes no row, only how
//! long it takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::encoder::Piece;

/// Tokens that are kept, in all: 64 MiB of numbers.
const TOKENS: usize = 16 << 20;
const SHARDS: usize = 64;
/// What a text costs besides its tokens, counted as tokens.
const ENTRY: usize = 24;

/// What a text is known by.
pub type Key = u128;

/// The tokens of a text.
pub type Tokens = Arc<[u32]>;

pub struct Cache {
    shards: Vec<Mutex<Shard>>,
    /// Tokens that a half of a shard holds.
    limit: usize,
}

/// Two halves: when the young one is full, it becomes the old one, and what was not asked for since then goes.
#[derive(Default)]
struct Shard {
    young: HashMap<Key, Tokens>,
    old: HashMap<Key, Tokens>,
    tokens: usize,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache::new(TOKENS)
    }
}

impl Cache {
    /// A cache of about so many tokens.
    pub fn new(tokens: usize) -> Cache {
        Cache { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), limit: tokens / SHARDS / 2 }
    }

    pub fn get(&self, key: Key) -> Option<Tokens> {
        let mut shard = self.shard(key);
        if let Some(found) = shard.young.get(&key) {
            return Some(found.clone());
        }
        let found = shard.old.get(&key)?.clone();
        self.put(&mut shard, key, found.clone());
        Some(found)
    }

    pub fn insert(&self, key: Key, tokens: Tokens) {
        self.put(&mut self.shard(key), key, tokens);
    }

    fn put(&self, shard: &mut Shard, key: Key, tokens: Tokens) {
        let cost = tokens.len() + ENTRY;
        if cost > self.limit {
            return;
        }
        if shard.tokens + cost > self.limit {
            shard.old = std::mem::take(&mut shard.young);
            shard.tokens = 0;
        }
        if shard.young.insert(key, tokens).is_none() {
            shard.tokens += cost;
        }
    }

    fn shard(&self, key: Key) -> std::sync::MutexGuard<'_, Shard> {
        self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a piece is known by: its text and the special tokens beside it that matter.
pub fn key(piece: &Piece) -> Key {
    let mut hasher = blake3::Hasher::new();
    let beside = |at: Option<u32>| at.map_or(0, |at| u64::from(at) + 1).to_le_bytes();
    hasher.update(&beside(piece.before)).update(&beside(piece.after)).update(piece.text.as_bytes());
    let hash = hasher.finalize();
    u128::from_le_bytes(hash.as_bytes().first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_memory_is_bounded() {
        // All keys in one shard, whose halves hold ten texts of ten tokens.
        let cache = Cache::new(2 * SHARDS * 10 * (10 + ENTRY));
        let text = |i: u32| -> Tokens { vec![i; 10].into() };
        let key = |i: u32| Key::from(i) * SHARDS as Key;
        for i in 0..1000 {
            cache.insert(key(i), text(i));
            assert_eq!(cache.get(key(0)), Some(text(0)), "{i}");
        }
        let kept = (0..1000).filter(|i| cache.get(key(*i)).is_some()).count();
        assert!((10..=20).contains(&kept), "{kept}");
        assert_eq!(cache.get(key(500)), None);
        // A text that no half holds is not kept, and drops nothing.
        cache.insert(key(5000), vec![1; 400].into());
        assert_eq!((cache.get(key(5000)), cache.get(key(0))), (None, Some(text(0))));
    }
}
