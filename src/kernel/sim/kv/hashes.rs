//! Content hashes of KV blocks, derived from the hashes of a trace whose blocks may have another size.
//!
//! Promises: equal hashes mean equal tokens in the block and in everything before it, as far as the trace can say.
//! Where trace blocks are larger, two requests that part in the middle of a trace block share nothing of it: the trace
//! does not tell where they part.

use crate::request::Requests;
use crate::sim::SimError;

/// How hashes of trace blocks become hashes of KV blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// No hashes, or caching is off: nothing can be reused.
    None,
    /// A trace block holds this many KV blocks (1: same size).
    Split(u32),
    /// A KV block holds this many trace blocks; the last one's hash covers all before it.
    Join(u32),
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
        return Ok(Derivation::Split(trace / block_size));
    }
    if block_size.is_multiple_of(trace) {
        return Ok(Derivation::Join(block_size / trace));
    }
    Err(SimError::Invalid {
        path: "deployment.kv.block_size",
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

    /// Hash of KV block `block` of request `i`, which must be one of its [`Self::known_blocks`].
    pub fn hash(self, requests: &Requests, i: usize, block: u32) -> u64 {
        let hashes = requests.hashes(i);
        match self {
            Derivation::None => 0,
            Derivation::Split(1) => hashes[block as usize],
            Derivation::Split(parts) => mix(hashes[(block / parts) as usize], block % parts),
            Derivation::Join(parts) => hashes[((block + 1) * parts - 1) as usize],
        }
    }
}

/// SplitMix64's finalizer over hash and index: a bijection of the hash for every index.
fn mix(hash: u64, part: u32) -> u64 {
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
}
