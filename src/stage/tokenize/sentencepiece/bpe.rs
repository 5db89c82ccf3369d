//! Byte pair encoding by scores: of all neighbours that make a piece, those with the best score become one, the
//! leftmost first, until none do.
//!
//! A piece that is marked unused takes part and is taken apart again at the end, into what it was made of last.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::proto::PieceType;
use super::{SentencePiece, char_len};

const NONE: u32 = u32::MAX;

/// A stretch of the text.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    /// 0 once it is part of its left neighbour.
    length: u32,
    before: u32,
    after: u32,
    /// User-defined pieces stay as they are.
    frozen: bool,
}

/// Two neighbours that make a piece.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Length of the piece: where it differs by now, one of the two has changed.
    length: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

struct Work<'a> {
    model: &'a SentencePiece,
    text: &'a [u8],
    symbols: Vec<Symbol>,
    open: BinaryHeap<Pair>,
    /// Unused pieces, and how many of their bytes the left half had.
    halves: HashMap<&'a [u8], u32>,
}

/// Calls `take` for every piece of a normalized text, with its number.
pub fn encode(model: &SentencePiece, text: &[u8], take: &mut impl FnMut(&[u8], u32)) {
    let mut work = Work { model, text, symbols: Vec::new(), open: BinaryHeap::new(), halves: HashMap::new() };
    work.cut();
    for right in 1..work.symbols.len() as u32 {
        work.consider(right - 1, right);
    }
    while let Some(pair) = work.open.pop() {
        work.join(&pair);
    }
    let mut at = if work.symbols.is_empty() { NONE } else { 0 };
    while at != NONE {
        let symbol = work.symbols[at as usize];
        work.hand_out(symbol.start as usize..(symbol.start + symbol.length) as usize, take);
        at = symbol.after;
    }
}

impl Work<'_> {
    /// Characters and user-defined pieces.
    fn cut(&mut self) {
        let mut start = 0;
        while start < self.text.len() {
            let rest = &self.text[start..];
            let symbol = self.model.symbols.longest(rest);
            let length = symbol.unwrap_or_else(|| char_len(rest[0]).min(rest.len()));
            let at = self.symbols.len() as u32;
            self.symbols.push(Symbol {
                start: start as u32,
                length: length as u32,
                before: at.checked_sub(1).unwrap_or(NONE),
                after: at + 1,
                frozen: symbol.is_some(),
            });
            start += length;
        }
        if let Some(last) = self.symbols.last_mut() {
            last.after = NONE;
        }
    }

    /// Notes two neighbours if they make a piece.
    fn consider(&mut self, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (self.symbols[left as usize], self.symbols[right as usize]);
        if a.frozen || b.frozen {
            return;
        }
        let length = a.length + b.length;
        let piece = &self.text[a.start as usize..(a.start + length) as usize];
        let Some(id) = self.model.trie.get(piece) else { return };
        // Adding zero makes one zero of the two.
        self.open.push(Pair { score: self.model.score(id) + 0.0, left, right, length });
        if self.model.kind(id) == PieceType::Unused {
            self.halves.insert(piece, a.length);
        }
    }

    fn join(&mut self, pair: &Pair) {
        let (left, right) = (self.symbols[pair.left as usize], self.symbols[pair.right as usize]);
        if left.length == 0 || right.length == 0 || left.length + right.length != pair.length {
            return;
        }
        let joined = &mut self.symbols[pair.left as usize];
        (joined.length, joined.after) = (pair.length, right.after);
        self.symbols[pair.right as usize].length = 0;
        if right.after != NONE {
            self.symbols[right.after as usize].before = pair.left;
        }
        self.consider(left.before, pair.left);
        self.consider(pair.left, right.after);
    }

    fn hand_out(&self, range: std::ops::Range<usize>, take: &mut impl FnMut(&[u8], u32)) {
        let mut open = vec![range];
        while let Some(range) = open.pop() {
            let piece = &self.text[range.clone()];
            let id = self.model.id(piece);
            match self.halves.get(piece).filter(|_| self.model.kind(id) == PieceType::Unused) {
                Some(left) => {
                    let middle = range.start + *left as usize;
                    open.push(middle..range.end);
                    open.push(range.start..middle);
                }
                None => take(piece, id),
            }
        }
    }
}
