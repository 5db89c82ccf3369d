//! SentencePiece models (`.model`): the tokens that the library `sentencepiece` makes, without its C++.
//!
//! A text is normalized ([`normalize`]), then cut into pieces by byte pair encoding ([`bpe`]) or as the most probable
//! sequence of a unigram model ([`unigram`]). Characters that no piece has become `unk` (several in a row one `unk`),
//! or bytes where the model has byte pieces. Nothing is added: no begin or end of a sequence.
//!
//! Source: Kudo and Richardson, "SentencePiece" (2018), <https://arxiv.org/abs/1808.06226>; Kudo, "Subword
//! Regularization" (2018), <https://arxiv.org/abs/1804.10959>; behaviour as of google/sentencepiece 0.2.
//!
//! Left out: models of words and of characters, sampling, and offsets.

mod bpe;
mod normalize;
mod proto;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod trie;
mod unigram;

use std::collections::HashMap;

use normalize::Normalizer;
use proto::{Algorithm, PieceType, Proto};
use trie::Trie;

/// A model, ready to use.
pub struct SentencePiece {
    pieces: Vec<Piece>,
    /// Pieces that texts may be made of: normal, user defined and unused ones.
    trie: Trie,
    /// User-defined pieces, which are taken before anything else.
    symbols: Trie,
    /// Names of control, unknown and byte pieces: they win where a piece of text has the same name.
    reserved: HashMap<Vec<u8>, u32>,
    normalizer: Normalizer,
    algorithm: Algorithm,
    unknown: u32,
    /// Piece of each byte, where the model has them.
    bytes: Option<Box<[u32; 256]>>,
    /// Lowest and highest score of a normal piece.
    scores: (f32, f32),
}

struct Piece {
    score: f32,
    kind: PieceType,
}

impl SentencePiece {
    /// Reads the bytes of a `.model`.
    ///
    /// # Errors
    /// What is wrong with them, or what they ask for that is not done here.
    pub fn new(bytes: &[u8]) -> Result<SentencePiece, String> {
        let proto = Proto::read(bytes)?;
        let (mut unknown, mut reserved, mut byte_pieces) = (None, HashMap::new(), HashMap::new());
        let (mut texts, mut symbols) = (Vec::new(), Vec::new());
        let mut scores = (f32::MAX, f32::MIN_POSITIVE);
        for (id, piece) in (0..).zip(&proto.pieces) {
            if piece.text.is_empty() || piece.text.contains(&0) {
                return Err(format!("piece {id} is empty or has a zero byte"));
            }
            match piece.kind {
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => texts.push((piece.text.clone(), id)),
                PieceType::Unknown | PieceType::Control | PieceType::Byte => {
                    reserved.insert(piece.text.clone(), id);
                }
            }
            match piece.kind {
                PieceType::Normal => scores = (scores.0.min(piece.score), scores.1.max(piece.score)),
                PieceType::UserDefined => symbols.push((piece.text.clone(), id)),
                PieceType::Unknown => unknown = unknown.or(Some(id)),
                PieceType::Byte => {
                    byte_pieces.insert(piece.text.clone(), id);
                }
                PieceType::Control | PieceType::Unused => {}
            }
        }
        let bytes = match proto.byte_fallback {
            true => Some(byte_table(&byte_pieces)?),
            false => None,
        };
        Ok(SentencePiece {
            pieces: proto.pieces.iter().map(|p| Piece { score: p.score, kind: p.kind }).collect(),
            trie: Trie::new(texts)?,
            symbols: Trie::new(symbols)?,
            reserved,
            normalizer: Normalizer::new(proto.normalizer)?,
            algorithm: proto.algorithm,
            unknown: unknown.ok_or("it has no piece for what is unknown")?,
            bytes,
            scores,
        })
    }

    /// Control pieces such as `<s>`, in the order of their numbers. They stand for no text, and no text makes them.
    pub fn controls(&self) -> Vec<(String, u32)> {
        let is_control = |id: &u32| self.pieces[*id as usize].kind == PieceType::Control;
        let mut found: Vec<(String, u32)> = (self.reserved.iter().filter(|(_, id)| is_control(id)))
            .map(|(text, id)| (String::from_utf8_lossy(text).into_owned(), *id))
            .collect();
        found.sort_by_key(|(_, id)| *id);
        found
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let normalized = self.normalizer.normalize(text.as_bytes(), &self.symbols);
        let mut ids = Vec::with_capacity(normalized.len() / 3);
        let mut after_unknown = false;
        let mut take = |piece: &[u8], id: u32| {
            let is_unknown = id == self.unknown;
            match &self.bytes {
                Some(bytes) if is_unknown => ids.extend(piece.iter().map(|byte| bytes[usize::from(*byte)])),
                _ if is_unknown && after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = is_unknown;
        };
        match self.algorithm {
            Algorithm::Bpe => bpe::encode(self, &normalized, &mut take),
            Algorithm::Unigram => unigram::encode(self, &normalized, &mut take),
        }
        ids
    }

    /// The number of a piece by its name.
    fn id(&self, piece: &[u8]) -> u32 {
        let reserved = if piece.first() == Some(&b'<') { self.reserved.get(piece).copied() } else { None };
        reserved.or_else(|| self.trie.get(piece)).unwrap_or(self.unknown)
    }

    fn kind(&self, id: u32) -> PieceType {
        self.pieces[id as usize].kind
    }

    fn score(&self, id: u32) -> f32 {
        self.pieces[id as usize].score
    }
}

fn byte_table(pieces: &HashMap<Vec<u8>, u32>) -> Result<Box<[u32; 256]>, String> {
    let mut table = Box::new([0; 256]);
    for (byte, id) in table.iter_mut().enumerate() {
        let name = format!("<0x{byte:02X}>");
        *id = *pieces.get(name.as_bytes()).ok_or_else(|| format!("it falls back to bytes and has no piece {name}"))?;
    }
    Ok(table)
}

/// Bytes of the character that begins with this byte.
fn char_len(lead: u8) -> usize {
    match lead >> 4 {
        0xC | 0xD => 2,
        0xE => 3,
        0xF => 4,
        _ => 1,
    }
}
