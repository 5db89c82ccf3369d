//! What happens to a text before it is cut into pieces.
//!
//! At each place, a user-defined piece stays as it is; else the longest rule of the character map replaces what it
//! matches; else the character stays. Then spaces: runs become one and those at both ends go
//! (`remove_extra_whitespaces`), one comes before the text (`add_dummy_prefix`), and each is written as `▁`
//! (`escape_whitespaces`).
//!
//! The character map is the size of a double array in bytes (4 bytes, little endian), the array, and the replacements,
//! each ended by a zero byte. Units of the array are as of darts-clone,
//! <https://github.com/s-yata/darts-clone>: 4 bytes with label, offset, and whether a rule ends there.

use super::char_len;
use super::proto::Normalization;
use super::trie::Trie;

const SPACE: &[u8] = "▁".as_bytes();

pub struct Normalizer {
    units: Vec<u32>,
    replacements: Vec<u8>,
    settings: Normalization,
}

impl Normalizer {
    /// # Errors
    /// The character map does not fit its own size.
    pub fn new(mut settings: Normalization) -> Result<Normalizer, String> {
        let map = std::mem::take(&mut settings.charsmap);
        if map.is_empty() {
            return Ok(Normalizer { units: Vec::new(), replacements: Vec::new(), settings });
        }
        let broken = || "its map of characters is broken".to_string();
        let (size, rest) = map.split_first_chunk::<4>().ok_or_else(broken)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (units, replacements) = rest.split_at_checked(size).ok_or_else(broken)?;
        let units = units.chunks_exact(4).filter_map(|unit| unit.try_into().ok().map(u32::from_le_bytes)).collect();
        Ok(Normalizer { units, replacements: replacements.to_vec(), settings })
    }

    /// The text that is cut into pieces. `symbols` are the user-defined pieces.
    pub fn normalize(&self, mut text: &[u8], symbols: &Trie) -> Vec<u8> {
        let set = &self.settings;
        if set.remove_extra_whitespaces {
            while !text.is_empty() {
                let (piece, length) = self.step(text, symbols);
                if piece != b" " {
                    break;
                }
                text = &text[length..];
            }
        }
        if text.is_empty() {
            return Vec::new();
        }
        let space = if set.escape_whitespaces { SPACE } else { b" " };
        let mut out = Vec::with_capacity(text.len() + text.len() / 2);
        if set.add_dummy_prefix && !set.whitespace_as_suffix {
            out.extend(space);
        }
        let mut after_space = set.remove_extra_whitespaces;
        while !text.is_empty() {
            let (mut piece, length) = self.step(text, symbols);
            while after_space && piece.first() == Some(&b' ') {
                piece = &piece[1..];
            }
            if !piece.is_empty() {
                for byte in piece {
                    if *byte == b' ' { out.extend(space) } else { out.push(*byte) }
                }
                after_space = set.remove_extra_whitespaces && piece.last() == Some(&b' ');
            }
            text = &text[length..];
        }
        if set.remove_extra_whitespaces {
            while out.ends_with(space) {
                out.truncate(out.len() - space.len());
            }
        }
        if set.add_dummy_prefix && set.whitespace_as_suffix {
            out.extend(space);
        }
        out
    }

    /// What stands for the beginning of a text that is not empty, and how many of its bytes that is for.
    fn step<'a>(&'a self, text: &'a [u8], symbols: &Trie) -> (&'a [u8], usize) {
        if let Some(length) = symbols.longest(text) {
            return (&text[..length], length);
        }
        if let Some((length, at)) = self.rule(text) {
            let rest = self.replacements.get(at..).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            return (&rest[..end], length);
        }
        let length = char_len(text[0]).min(text.len());
        (&text[..length], length)
    }

    /// The longest rule that `text` begins with: its length, and where its replacement is.
    fn rule(&self, text: &[u8]) -> Option<(usize, usize)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, byte) in text.iter().enumerate() {
            at ^= u32::from(*byte);
            let Some(unit) = self.units.get(at as usize) else { break };
            if unit & (1 << 31 | 0xFF) != u32::from(*byte) {
                break;
            }
            at ^= offset(*unit);
            if unit >> 8 & 1 == 1 {
                let Some(leaf) = self.units.get(at as usize) else { break };
                found = Some((i + 1, (leaf & 0x7FFF_FFFF) as usize));
            }
        }
        found
    }
}
