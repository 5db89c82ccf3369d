//! Texts to token numbers: one interface to the tokenizers, and where a text may be cut so that the parts can be
//! tokenized by themselves, on several threads, once for all texts that share them.
//!
//! Two kinds of cuts leave the tokens as they are:
//!
//! - **At special tokens** ([`Encoder::cut`]). Every tokenizer takes them out of a text first, the longest at the
//!   leftmost place, and treats what is between them by itself. What a tokenizer does at the very start of a text (a
//!   space in front), or a special token to the white space beside it, is kept by encoding a part together with its
//!   neighbours and dropping those again.
//! - **Between a letter and white space** ([`Encoder::stretches`]), where the expression that splits texts into words
//!   is one of [`SURE`]: none of their alternatives goes on from a letter to white space, and none looks back, so what
//!   is left of such a place and what is right of it are split alike with and without the other. Only long texts are
//!   cut there.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tiktoken_rs::CoreBPE;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use super::sentencepiece::SentencePiece;

/// A long text is cut into stretches of at least so many bytes.
const STRETCH: usize = 16 << 10;

/// Special tokens that the vocabulary does not have are numbered from here.
const BEYOND: u32 = 1 << 24;

/// Expressions that split a text into words, and end every word before white space that follows a letter: of GPT-2, of
/// Llama 3, of Qwen 2, of GPT-4o, as `tokenizer.json` files have them.
pub(super) const SURE: [&str; 5] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// A tokenizer, ready to use.
pub struct Encoder {
    library: Library,
    specials: Vec<Special>,
    /// Finds `specials`; `None` where there are none.
    finder: Option<AhoCorasick>,
    /// Texts may be cut between a letter and white space.
    sure: bool,
    /// What comes first in a text is treated otherwise.
    starts: bool,
}

enum Library {
    Tiktoken(&'static CoreBPE),
    HuggingFace(Box<Tokenizer>),
    SentencePiece(Box<SentencePiece>),
    /// So many bytes a token.
    Bytes(usize),
}

/// A string that is one token wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Special {
    pub text: String,
    pub id: u32,
    /// It takes the white space at its left, or right, with it.
    takes: (bool, bool),
}

/// A part of a text: see [`Encoder::cut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part<'a> {
    Special(u32),
    Text(Piece<'a>),
}

/// A text to encode, and the special tokens beside it where they matter, as places in the list of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece<'a> {
    pub text: &'a str,
    pub before: Option<u32>,
    pub after: Option<u32>,
}

/// Vocabularies that the binary carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embedded {
    O200kBase,
    Cl100kBase,
}

impl Encoder {
    /// With `specials` (special tokens of a chat template), those and the vocabulary's own are taken for tokens where
    /// they stand in a text; without, they are text.
    pub fn embedded(which: Embedded, specials: Option<&[String]>) -> Encoder {
        let bpe = match which {
            Embedded::O200kBase => tiktoken_rs::o200k_base_singleton(),
            Embedded::Cl100kBase => tiktoken_rs::cl100k_base_singleton(),
        };
        let mut known: Vec<(String, u32)> = Vec::new();
        if specials.is_some() {
            let names = bpe.special_tokens().into_iter().map(str::to_string);
            known.extend(names.map(|name| (name.clone(), bpe.encode_with_special_tokens(&name)[0])));
        }
        Encoder::new(Library::Tiktoken(bpe), named(known, specials), true, false)
    }

    /// One token per so many bytes of a text, the last may have fewer.
    pub fn bytes(per_token: usize, specials: Option<&[String]>) -> Encoder {
        Encoder::new(Library::Bytes(per_token.max(1)), named(Vec::new(), specials), false, false)
    }

    /// A SentencePiece model. With `specials`, those and its control pieces are taken for tokens.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn sentencepiece(file: &[u8], specials: Option<&[String]>) -> Result<Encoder, String> {
        let model = SentencePiece::new(file)?;
        let known = if specials.is_some() { model.controls() } else { Vec::new() };
        Ok(Encoder::new(Library::SentencePiece(Box::new(model)), named(known, specials), false, false))
    }

    /// A Hugging Face `tokenizer.json`. Its added tokens are taken for tokens always, as its library does; `specials`
    /// that it does not have are added to it, numbered as the library numbers them.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn hugging_face(file: &[u8], specials: &[String]) -> Result<Encoder, String> {
        let mut tokenizer = Tokenizer::from_bytes(file).map_err(|e| e.to_string())?;
        // A file may ask for texts to be cut or filled up to a length, or for chance, for training.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            tokenizer.with_model(bpe);
        }
        let missing: Vec<AddedToken> = (specials.iter().filter(|s| tokenizer.token_to_id(s).is_none()))
            .map(|s| AddedToken::from(s.clone(), true))
            .collect();
        tokenizer.add_special_tokens(missing).map_err(|e| e.to_string())?;
        let added = tokenizer.get_added_tokens_decoder();
        let mut found: Vec<(u32, &AddedToken)> = added.iter().map(|(id, token)| (*id, token)).collect();
        found.sort_by_key(|(id, _)| *id);
        // Whether such a token counts depends on what is beside it.
        let apart = !found.iter().any(|(_, token)| token.single_word && !token.normalized);
        let plain =
            |t: &AddedToken| !t.content.contains(char::is_whitespace) && !t.single_word && !t.lstrip && !t.rstrip;
        let tame = found.iter().all(|(_, token)| !token.normalized || plain(token));
        let specials = (found.iter().filter(|(_, token)| apart && !token.normalized)).map(|(id, token)| Special {
            text: token.content.clone(),
            id: *id,
            takes: (token.lstrip, token.rstrip),
        });
        let specials = specials.collect();
        let splits = json(&tokenizer.get_pre_tokenizer());
        let sure = tame && is_sure(&splits) && keeps_words(&json(&tokenizer.get_normalizer()));
        let starts = mentions(&splits, "Metaspace");
        Ok(Encoder::new(Library::HuggingFace(Box::new(tokenizer)), specials, sure, starts))
    }

    fn new(library: Library, specials: Vec<Special>, sure: bool, starts: bool) -> Encoder {
        let build =
            || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(specials.iter().map(|s| &s.text));
        // Building fails for lists of gigabytes only; without a finder texts are not cut, which changes no token of a
        // tokenizer that finds its own.
        let finder = if specials.is_empty() { None } else { build().ok() };
        Encoder { library, specials, finder, sure, starts }
    }

    /// Special tokens that are taken for tokens in a text.
    pub fn specials(&self) -> &[Special] {
        &self.specials
    }

    /// The parts of a text: their tokens one after the other are the tokens of the text. Parts without text are left
    /// out.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut start, mut before) = (0, None);
        for found in self.finder.iter().flat_map(|finder| finder.find_iter(text)) {
            let special = found.pattern().as_u32();
            if start < found.start() {
                parts.push(Part::Text(self.piece(&text[start..found.start()], before, Some(special))));
            }
            parts.push(Part::Special(special));
            (start, before) = (found.end(), Some(special));
        }
        if start < text.len() {
            parts.push(Part::Text(self.piece(&text[start..], before, None)));
        }
        parts
    }

    /// A text between two special tokens.
    pub fn piece<'a>(&self, text: &'a str, before: Option<u32>, after: Option<u32>) -> Piece<'a> {
        Piece {
            text,
            before: before.filter(|at| self.starts || self.specials[*at as usize].takes.1),
            after: after.filter(|at| self.specials[*at as usize].takes.0),
        }
    }

    /// The number of a special token by its place.
    pub fn special(&self, at: u32) -> u32 {
        self.specials[at as usize].id
    }

    /// Stretches of a text whose tokens one after the other are the tokens of the text.
    pub fn stretches(&self, piece: &Piece) -> Vec<Range<usize>> {
        let text = piece.text;
        let mut cuts = vec![0];
        while self.sure && text.len() - cuts[cuts.len() - 1] > 2 * STRETCH {
            let from = text.ceil_char_boundary(cuts[cuts.len() - 1] + STRETCH);
            let mut letter = false;
            let next = text[from..].char_indices().find(|(_, c)| {
                let here = letter && matches!(c, ' ' | '\n');
                letter = is_letter(*c);
                here
            });
            match next {
                Some((at, _)) => cuts.push(from + at),
                None => break,
            }
        }
        cuts.push(text.len());
        cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// The tokens of a stretch of a piece.
    ///
    /// # Errors
    /// What the library says of the text.
    pub fn encode(&self, piece: &Piece, range: Range<usize>) -> Result<Vec<u32>, String> {
        let text = &piece.text[range.clone()];
        match &self.library {
            // With no special tokens allowed it does the same as `encode_ordinary`, which panics where this fails.
            Library::Tiktoken(bpe) => {
                bpe.encode(text, &Default::default()).map(|(ids, _)| ids).map_err(|e| e.to_string())
            }
            Library::SentencePiece(model) => Ok(model.encode(text)),
            Library::Bytes(per_token) => Ok(text.as_bytes().chunks(*per_token).map(byte_token).collect()),
            Library::HuggingFace(tokenizer) => {
                let beside =
                    |at: Option<u32>, there: bool| at.filter(|_| there).map(|at| &*self.specials[at as usize].text);
                let before = beside(piece.before, range.start == 0);
                let after = beside(piece.after, range.end == piece.text.len());
                let made = if before.is_none() && after.is_none() {
                    tokenizer.encode_fast(text, false)
                } else {
                    tokenizer.encode_fast([before.unwrap_or(""), text, after.unwrap_or("")].concat(), false)
                };
                let made = made.map_err(|e| e.to_string())?;
                let ids = made.get_ids();
                let ids = ids.get(usize::from(before.is_some())..).unwrap_or_default();
                Ok(ids[..ids.len().saturating_sub(usize::from(after.is_some()))].to_vec())
            }
        }
    }
}

/// Special tokens with their numbers: those known, and those that get one beyond the vocabulary, in the order given.
fn named(mut known: Vec<(String, u32)>, more: Option<&[String]>) -> Vec<Special> {
    known.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let mut specials: Vec<Special> = Vec::new();
    let more = more.unwrap_or_default().iter().zip(BEYOND..).map(|(text, id)| (text.clone(), id));
    for (text, id) in known.into_iter().chain(more) {
        if !text.is_empty() && !specials.iter().any(|s| s.text == text) {
            specials.push(Special { text, id, takes: (false, false) });
        }
    }
    specials
}

/// The number of some bytes: themselves, little endian, up to four; of more, a hash. The last byte of a text in UTF-8
/// is never 0xFF, so numbers of special tokens are others.
fn byte_token(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    match bytes.len() {
        0..=4 => four[..bytes.len()].copy_from_slice(bytes),
        _ => four.copy_from_slice(&blake3::hash(bytes).as_bytes()[..4]),
    }
    u32::from_le_bytes(four)
}

/// Letters of some scripts, by blocks that hold nothing else: a letter that is missed costs a cut, a sign taken for one
/// could cost a token.
fn is_letter(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'a'..='z' | 'À'..='Ö' | 'Ø'..='ö' | 'ø'..='ɏ' | 'Α'..='Ρ' | 'Σ'..='Ω' | 'α'..='ω'
        | 'Ѐ'..='ҁ' | 'Ҋ'..='ԯ' | 'א'..='ת' | 'ء'..='غ' | 'ف'..='ي' | 'ぁ'..='ゖ' | 'ァ'..='ヺ' | '一'..='鿿' | '가'..='힣')
}

/// A part of a tokenizer, as its file has it.
fn json(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).unwrap_or(Value::Null)
}

/// Whether a part of this type is in a tokenizer's file, at any depth.
fn mentions(part: &Value, kind: &str) -> bool {
    match part {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|t| t == kind) || fields.values().any(|v| mentions(v, kind))
        }
        Value::Array(items) => items.iter().any(|v| mentions(v, kind)),
        _ => false,
    }
}

/// Whether a pre-tokenizer ends every word before white space that follows a letter, and nothing else matters to it.
fn is_sure(part: &Value) -> bool {
    let field = |name: &str| part.get(name).cloned().unwrap_or(Value::Null);
    match part.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let parts = field("pretokenizers");
            let Some([first, rest @ ..]) = parts.as_array().map(Vec::as_slice) else { return false };
            // What comes after the split sees words only.
            is_sure(first) && rest.iter().all(|p| p["type"] == "ByteLevel" && p["add_prefix_space"] == false)
        }
        Some("Split") => {
            let expression = part["pattern"]["Regex"].as_str();
            let whole = field("behavior") == "Isolated" && field("invert") == false
                || field("behavior") == "Removed" && field("invert") == true;
            whole && expression.is_some_and(|e| SURE.contains(&e))
        }
        Some("ByteLevel") => field("add_prefix_space") == false && field("use_regex") == true,
        _ => false,
    }
}

/// Whether a normalizer does to two texts what it does to both as one, if the first ends with a letter and the second
/// begins with a space or line feed, and leaves that letter one.
fn keeps_words(part: &Value) -> bool {
    // Composing never goes over a space or line feed; other forms take letters apart.
    part.is_null() || part["type"] == "NFC"
}
