//! Content hashes of KV blocks, derived from the hashes of a trace whose blocks may have another size.
//!
//! Promises: equal hashes mean equal tokens in the block and in everything before it, as far as the trace can say.
//! Where trace blocks are larger, two requests that part in the middle of a trace block share nothing of it: the trace
//! does not tell where they part.

use super::extents::Unit;
use crate::request::Requests;
use crate::sim::SimError;

/// How hashes of trace blocks become hashes of KV blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// No hashes, or caching is off: nothing can be reused.
    None,
    /// A trace block holds this many KV blocks (1: same size).
    Split(u32, Content),
    /// A KV block holds this many trace blocks; the last one's hash covers all before it.
    Join(u32, Content),
}

/// What makes the content of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its tokens, and those before.
    Tokens,
    /// These, and the adapter that they were computed with.
    TokensAndAdapter,
}

/// The derivation for KV blocks of `block_size` tokens.
///
/// # Errors
/// [`SimError::Invalid`] where neither size divides the other.
pub fn derivation(requests: &Requests, block_size: u32, caching: bool) -> Result<Derivation, SimError> {
    let trace = requests.block_tokens;
    if !caching || trace == 0 || requests.block_hashes.is_empty() {
        return Ok(Derivation::None);
    }
    if trace.is_multiple_of(block_size) {
        return Ok(Derivation::Split(trace / block_size, Content::Tokens));
    }
    if block_size.is_multiple_of(trace) {
        return Ok(Derivation::Join(block_size / trace, Content::Tokens));
    }
    Err(SimError::Invalid {
        path: "deployment.kv.block_size".into(),
        message: format!(
            "{block_size} neither divides nor is a multiple of the {trace} tokens per hashed block of the trace, so \
             no prefix could be recognised; use a divisor of {trace}, or set enable_prefix_caching to false"
        ),
    })
}

impl Derivation {
    /// KV blocks of request `i` whose content the trace knows, counted from the start.
    pub fn known_blocks(self, requests: &Requests, i: usize, block_size: u32) -> u32 {
        let hashes = requests.hashes(i).len() as u64;
        if self == Derivation::None || hashes == 0 {
            return 0;
        }
        let trace = u64::from(requests.block_tokens);
        let input = u64::from(requests.input_tokens[i]);
        let all = input + u64::from(requests.output_tokens[i]);
        // A last block that reaches beyond the prompt is a partial block of the prompt, unless there are more hashes
        // than the prompt has blocks: then the trace knows the output too.
        let limit = if hashes <= input.div_ceil(trace) { input } else { all };
        let blocks = (hashes * trace).min(limit) / u64::from(block_size);
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    /// With `adapters`, equal tokens under different ones are different contents.
    pub(crate) fn with(self, adapters: bool) -> Derivation {
        let content = if adapters { Content::TokensAndAdapter } else { Content::Tokens };
        match self {
            Derivation::None => Derivation::None,
            Derivation::Split(parts, _) => Derivation::Split(parts, content),
            Derivation::Join(parts, _) => Derivation::Join(parts, content),
        }
    }

    /// Hash of KV block `block` of request `i`, which must be one of its [`Self::known_blocks`].
    pub fn hash(self, requests: &Requests, i: usize, block: u32) -> u64 {
        match self {
            Derivation::None => 0,
            Derivation::Split(1, _) => self.unit_hash(requests, i, block),
            Derivation::Split(parts, _) => mix(self.unit_hash(requests, i, block / parts), block % parts),
            Derivation::Join(..) => self.unit_hash(requests, i, block),
        }
    }

    /// The [`Self::known_blocks`] of request `i` in runs that share a hash of the trace. Equal hash of the unit and equal
    /// place within it mean what an equal [`Self::hash`] means.
    pub(crate) fn units(
        self,
        requests: &Requests,
        i: usize,
        block_size: u32,
    ) -> impl Iterator<Item = Unit> + Clone + use<'_> {
        let known = self.known_blocks(requests, i, block_size);
        let (parts, hashes, adapter) = (self.unit_blocks(), requests.hashes(i), self.adapter(requests, i));
        (0..known.div_ceil(parts))
            .map(move |unit| Unit { hash: self.pick(hashes, adapter, unit), blocks: parts.min(known - unit * parts) })
    }

    /// The unit that a KV block belongs to, and its place there.
    #[inline]
    pub(crate) fn unit_of(self, block: u32) -> (u32, u32) {
        let parts = self.unit_blocks();
        (block / parts, block % parts)
    }

    /// Hash of a unit of request `i`, which must be one of its [`Self::units`].
    #[inline]
    pub(crate) fn unit_hash(self, requests: &Requests, i: usize, unit: u32) -> u64 {
        self.pick(requests.hashes(i), self.adapter(requests, i), unit)
    }

    /// The adapter that makes a difference to the contents of request `i`.
    #[inline]
    fn adapter(self, requests: &Requests, i: usize) -> Option<u32> {
        match self {
            Derivation::Split(_, Content::TokensAndAdapter) | Derivation::Join(_, Content::TokensAndAdapter) => {
                requests.adapter.get(i).copied().flatten()
            }
            Derivation::None | Derivation::Split(..) | Derivation::Join(..) => None,
        }
    }

    #[inline]
    fn pick(self, hashes: &[u64], adapter: Option<u32>, unit: u32) -> u64 {
        let hash = match self {
            Derivation::None => 0,
            Derivation::Split(..) => hashes[unit as usize],
            Derivation::Join(parts, _) => hashes[((unit + 1) * parts - 1) as usize],
        };
        adapter.map_or(hash, |adapter| mix(!hash, adapter))
    }

    /// KV blocks of a unit; the last one of a request may have fewer.
    #[inline]
    pub(crate) fn unit_blocks(self) -> u32 {
        match self {
            Derivation::Split(parts, _) => parts,
            Derivation::None | Derivation::Join(..) => 1,
        }
    }
}

/// SplitMix64's finalizer over hash and index: a bijection of the hash for every index.
pub(crate) fn mix(hash: u64, part: u32) -> u64 {
    let mut z = hash.wrapping_add(u64::from(part).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SimTime;

    fn one(input: u32, output: u32, hashes: &[u64], block_tokens: u32) -> Requests {
        Requests {
            arrival: vec![SimTime::ZERO],
            input_tokens: vec![input],
            output_tokens: vec![output],
            block_hashes: hashes.to_vec(),
            block_hash_offsets: vec![0, hashes.len() as u64],
            block_tokens,
            ..Requests::default()
        }
    }

    #[test]
    fn known_blocks() {
        // (input, output, trace hashes, trace block, kv block, expect)
        let cases = [
            (100, 50, 7, 16, 16, 6),    // prompt only, last block partial
            (100, 50, 9, 16, 16, 9),    // the trace knows the output
            (600, 50, 2, 512, 16, 37),  // Mooncake: ceil(600 / 512) ids
            (600, 500, 2, 512, 16, 37), // the partial block still ends with the prompt
            (64, 10, 4, 16, 32, 2),     // joined
            (8, 8, 1, 16, 16, 0),
        ];
        for (input, output, hashes, trace, kv, expect) in cases {
            let r = one(input, output, &(0..hashes).collect::<Vec<_>>(), trace);
            let d = derivation(&r, kv, true).unwrap();
            assert_eq!(d.known_blocks(&r, 0, kv), expect, "{input} {output} {hashes} {trace} {kv}");
        }
    }

    #[test]
    fn parts_of_a_block_differ() {
        let r = one(1024, 1, &[7, 9], 512);
        let d = derivation(&r, 16, true).unwrap();
        let mut seen: Vec<u64> = (0..64).map(|b| d.hash(&r, 0, b)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 64);
        assert_eq!(derivation(&r, 512, true).unwrap().hash(&r, 0, 1), 9);
        assert_eq!(derivation(&r, 1024, true).unwrap().hash(&r, 0, 0), 9);
        assert!(derivation(&r, 48, true).is_err());
        assert_eq!(derivation(&r, 48, false).unwrap(), Derivation::None);
    }

    /// Every unit and sub-block stands for exactly the blocks of one derived hash, in all requests.
    #[test]
    fn units_tell_blocks_apart_as_hashes_do() {
        // (KV block, trace block); prompts that share two trace blocks, one of them cut short, one with its output.
        for (kv, trace) in [(16, 16), (16, 512), (512, 512), (64, 16), (16, 48), (32, 16)] {
            let hashes: [Vec<u64>; 5] =
                [(1..14).collect(), (1..10).chain(20..24).collect(), (1..7).collect(), vec![1 << 63, 0], vec![1]];
            let mut r = Requests { block_tokens: trace, block_hash_offsets: vec![0], ..Requests::default() };
            for (i, own) in hashes.iter().enumerate() {
                let tokens = own.len() as u32 * trace;
                let (input, output) = if i == 1 { (trace, tokens) } else { (tokens - 7 * (i as u32 % 2), 3) };
                r.input_tokens.push(input);
                r.output_tokens.push(output);
                r.block_hashes.extend(own);
                r.block_hash_offsets.push(r.block_hashes.len() as u64);
            }
            let d = derivation(&r, kv, true).unwrap();
            let mut seen: Vec<(u64, (u64, u32))> = Vec::new();
            for i in 0..hashes.len() {
                let known = d.known_blocks(&r, i, kv);
                let places: Vec<(u64, u32)> =
                    d.units(&r, i, kv).flat_map(|unit| (0..unit.blocks).map(move |sub| (unit.hash, sub))).collect();
                assert_eq!(places.len(), known as usize, "{kv} {trace} {i}");
                for (block, place) in (0..known).zip(places) {
                    let (unit, sub) = d.unit_of(block);
                    assert_eq!((d.unit_hash(&r, i, unit), sub), place, "{kv} {trace} {i} {block}");
                    seen.push((d.hash(&r, i, block), place));
                }
            }
            let distinct = seen.iter().filter(|(hash, _)| seen.iter().filter(|(other, _)| other == hash).count() == 1);
            assert!((1..seen.len()).contains(&distinct.count()), "some blocks are shared, some are not");
            for (hash, place) in &seen {
                for (other, elsewhere) in &seen {
                    assert_eq!(hash == other, place == elsewhere, "{kv} {trace} {place:?} {elsewhere:?}");
                }
            }
            assert_eq!(Derivation::None.units(&r, 0, kv).count(), 0);
        }
    }
}
