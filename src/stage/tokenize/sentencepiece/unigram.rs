//! The most probable pieces of a text, each as probable as its score says whatever the others are: the path of highest
//! sum, by dynamic programming from the left (Viterbi). Of equal sums the one that was found first stays.
//!
//! Sums are in single precision, as in the library. From sums of about a quarter of a million (a text of 80,000
//! characters without a cut) the library keeps them more finely; of pieces that are as good as each other it may take
//! others there.

use super::proto::PieceType;
use super::{SentencePiece, char_len};

/// A character without a piece costs this much more than the rarest piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to a place in the text.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    /// Where its last piece begins; [`NONE`] for no way yet.
    from: u32,
    id: u32,
}

const NONE: u32 = u32::MAX;

/// Calls `take` for every piece of a normalized text, with its number.
pub fn encode(model: &SentencePiece, text: &[u8], take: &mut impl FnMut(&[u8], u32)) {
    let (lowest, highest) = model.scores;
    let unknown = lowest - UNKNOWN_PENALTY;
    let mut best = vec![Best { score: 0.0, from: NONE, id: 0 }; text.len() + 1];
    let mut at = 0;
    while at < text.len() {
        let here = best[at].score;
        let mut reach = |end: usize, score: f32, id: u32| {
            let score = score + here;
            if best[end].from == NONE || score > best[end].score {
                best[end] = Best { score, from: at as u32, id };
            }
        };
        let one = char_len(text[at]).min(text.len() - at);
        let mut has_one = false;
        for (length, id) in model.trie.prefixes(&text[at..]) {
            let score = match model.kind(id) {
                PieceType::Unused => continue,
                // Always taken: as good as that many of the best pieces, nearly.
                PieceType::UserDefined => (f64::from(length as f32 * highest) - 0.1) as f32,
                _ => model.score(id),
            };
            reach(at + length, score, id);
            has_one |= length == one;
        }
        if !has_one {
            reach(at + one, unknown, model.unknown);
        }
        at += one;
    }
    let mut pieces = Vec::new();
    let mut end = text.len();
    while end > 0 {
        let Best { from, id, .. } = best[end];
        pieces.push((from as usize..end, id));
        end = from as usize;
    }
    for (range, id) in pieces.into_iter().rev() {
        take(&text[range], id);
    }
}
