//! Models small enough that their tokens can be worked out by hand. `python_tests` compares larger ones with the
//! library.

use super::SentencePiece;
use super::testing::{BPE, BYTE, Model, NORMAL, UNIGRAM, UNUSED, USER_DEFINED};

/// The names of the pieces of a text.
fn pieces(model: &Model, text: &str) -> Vec<String> {
    let ids = SentencePiece::new(&model.file()).unwrap().encode(text);
    ids.into_iter().map(|id| model.pieces[id as usize].0.clone()).collect()
}

fn check(model: &Model, text: &str, expect: &[&str]) {
    assert_eq!(pieces(model, text), expect, "{text:?}");
}

#[test]
fn the_most_probable_pieces_of_a_unigram_model() {
    let of = |whole: f32| {
        let pieces = [("▁a", -1.0, NORMAL), ("b", -1.0, NORMAL), ("▁ab", whole, NORMAL), ("▁", -4.0, NORMAL)];
        Model::new(UNIGRAM, &pieces)
    };
    // -1 - 1 against -3, and against -1.5.
    check(&of(-3.0), "ab", &["▁a", "b"]);
    check(&of(-1.5), "ab", &["▁ab"]);
    // Of equal sums, the path that was found first: the one whose last piece begins further left.
    check(&of(-2.0), "ab", &["▁ab"]);
    // Spaces at the ends go, and of several between words one stays.
    check(&of(-3.0), "  ab   ab ", &["▁a", "b", "▁a", "b"]);
    check(&of(-3.0), "", &[]);
    check(&of(-3.0), "   ", &[]);
    // What no piece has is unknown, several in a row once.
    check(&of(-3.0), "axyb", &["▁a", "<unk>", "b"]);
    check(&of(-3.0), "é<s>", &["▁", "<unk>"]);
}

#[test]
fn merges_of_a_bpe_model() {
    let letters = [("▁", -9.0, NORMAL), ("a", -9.0, NORMAL), ("b", -9.0, NORMAL), ("c", -9.0, NORMAL)];
    let with = |more: &[(&str, f32, u64)]| Model::new(BPE, &[&letters[..], more].concat());
    // "bc" goes before "ab", though "ab" is further left.
    check(&with(&[("bc", -0.0, NORMAL), ("ab", -1.0, NORMAL)]), "abc", &["▁", "a", "bc"]);
    // Of equal pairs the leftmost goes first.
    check(&with(&[("aa", -1.0, NORMAL)]), "aaa", &["▁", "aa", "a"]);
    check(&with(&[("aa", -1.0, NORMAL), ("aaaa", -2.0, NORMAL)]), "aaaaa", &["▁", "aaaa", "a"]);
    // An unused piece leads to longer ones, and is taken apart where it is left.
    let unused = with(&[("ab", -1.0, UNUSED), ("abc", -2.0, NORMAL)]);
    check(&unused, "abc ab", &["▁", "abc", "▁", "a", "b"]);
    // A user-defined piece is never part of another.
    let frozen = with(&[("bc", -5.0, USER_DEFINED), ("ab", -1.0, NORMAL)]);
    check(&frozen, "abc", &["▁", "a", "bc"]);
}

#[test]
fn bytes_stand_for_what_is_unknown() {
    let mut model = Model::new(UNIGRAM, &[("▁", -1.0, NORMAL)]);
    model.pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, BYTE)));
    model.trainer.push((35, 1));
    check(&model, "é", &["▁", "<0xC3>", "<0xA9>"]);
    // The name of a byte in a text is text.
    check(&model, "<", &["▁", "<0x3C>"]);
    model.pieces.pop();
    let problem = SentencePiece::new(&model.file()).err().unwrap();
    assert_eq!(problem, "it falls back to bytes and has no piece <0xFF>");
}

#[test]
fn texts_are_normalized_as_the_model_says() {
    let letters = [("▁", -1.0, NORMAL), ("a", -1.0, NORMAL), ("A", -1.0, NORMAL), (" ", -1.0, NORMAL)];
    let with = |trainer: &[(u64, u64)], normalizer: &[(u64, u64)]| Model {
        trainer: trainer.to_vec(),
        normalizer: normalizer.to_vec(),
        ..Model::new(UNIGRAM, &letters)
    };
    check(&with(&[], &[(3, 0)]), " a  a ", &["a", "▁", "a"]);
    check(&with(&[], &[(4, 0)]), " a  a ", &["▁", "▁", "a", "▁", "▁", "a", "▁"]);
    check(&with(&[], &[(5, 0)]), "a a", &[" ", "a", " ", "a"]);
    check(&with(&[(24, 1)], &[]), " a a ", &["a", "▁", "a", "▁"]);
    // One rule: `A` becomes `a`. The root leads to 256, `A` to 256 ^ 0x41, its leaf holds where the replacement is.
    let mut units = vec![0_u32; 834];
    (units[0], units[0x141], units[0x141 ^ 512]) = (256 << 10, 512 << 10 | 1 << 8 | 0x41, 1 << 31);
    let array: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let map = [&(array.len() as u32).to_le_bytes()[..], &array, b"a\0"].concat();
    check(&Model { charsmap: map.clone(), ..with(&[], &[]) }, "Aa A", &["▁", "a", "a", "▁", "a"]);
    // User-defined pieces are not touched.
    let mut model = Model { charsmap: map.clone(), ..with(&[], &[]) };
    model.pieces.push(("AA".to_string(), 0.0, USER_DEFINED));
    check(&model, "AAA", &["▁", "AA", "a"]);
    // A map that is cut off is refused; one that leads nowhere replaces nothing.
    let problem = SentencePiece::new(&Model { charsmap: map[..9].to_vec(), ..with(&[], &[]) }.file()).err().unwrap();
    assert_eq!(problem, "its map of characters is broken");
    let short = [&8_u32.to_le_bytes()[..], &array[..8], b"a\0"].concat();
    check(&Model { charsmap: short, ..with(&[], &[]) }, "A", &["▁", "A"]);
}

#[test]
fn files_that_are_no_models_are_refused() {
    let model = Model::new(UNIGRAM, &[("a", -1.0, NORMAL)]);
    let problem = |model: &Model| SentencePiece::new(&model.file()).err().unwrap();
    for algorithm in [3, 4] {
        let said = problem(&Model { algorithm, ..model.clone() });
        assert!(said.contains("only unigram and bpe"), "{said}");
    }
    let mut twice = model.clone();
    twice.pieces.push(("a".to_string(), -2.0, NORMAL));
    assert_eq!(problem(&twice), "the piece \"a\" is there twice");
    let mut lacking = model.clone();
    lacking.pieces.remove(0);
    assert_eq!(problem(&lacking), "it has no piece for what is unknown");
    let mut strange = model.clone();
    strange.pieces[3].1 = f32::NAN;
    assert_eq!(problem(&strange), "a piece has a score that is not a number");
    // No prefix of a file is one, and no bytes make it panic.
    let file = model.file();
    for end in 0..file.len() {
        let _ = SentencePiece::new(&file[..end]).map(|m| m.encode("a b"));
    }
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut broken = file.clone();
            broken[at] ^= 1 << bit;
            let _ = SentencePiece::new(&broken).map(|m| m.encode("a é <s>"));
        }
    }
    assert!(SentencePiece::new(b"{}").is_err());
    assert_eq!(SentencePiece::new(b"").err().unwrap(), "it has no pieces");
}
