//! Texts that are cut have the tokens that the library gives the whole.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{SplitDelimiterBehavior, TokenizerImpl};
use tokenizers::{AddedToken, Model, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::encoder::{Embedded, Encoder, Part, Piece, SURE};

/// Texts of many scripts, with everything that tokenizers treat in a way of its own.
pub const CORPUS: [&str; 22] = [
    "The quick brown fox jumps over the lazy dog; it's what they'd do, and we'll see if you're SURE.",
    "Größe, Straße, naïve café — «Übermut» tut selten gut…",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园吧！",
    "素早い茶色の狐がのろまな犬を飛び越える。ｶﾀｶﾅ ＡＢＣ １２３",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول، أليس كذلك؟",
    "नमस्ते दुनिया, यह एक परीक्षण है। क़लम ज़मीन",
    "השועל החום המהיר קופץ מעל הכלב העצלן",
    "สวัสดีชาวโลก นี่คือการทดสอบ",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 🤷🏽‍♀️ ok 👍👍🏿",
    "def f(x):\n\tif x == None:\n\t\treturn x**2  # squared\n\n\n    return {'a': [1, 2_000, 3.14e-5]}\n",
    "fn main() { println!(\"{:?}\", vec![0u8; 16]); } // 0xFFFF_FFFF\r\n\r\n",
    "  leading and   inner\u{3000}spaces\u{a0}here  ",
    "\t\ttabs\tand\r\nnewlines\n\n\nmore \n \n",
    "e\u{301} combining a\u{308} ﬁ ligature ① ½ ⅳ ⓐ\n²\u{200b}zero\u{feff}width",
    "1234567890 12,345.67 2025-01-31T23:59:59Z +49 (0)30 1234",
    "SHOUTING CamelCase snake_case kebab-case dromedaryCase HTTPServer2XX",
    "https://example.org/path?q=a%20b&c=d#e user@example.org",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<s>not a token</s> <|im_start|>nor this<|im_end|> [INST] perhaps [/INST]",
    "",
];

const SPECIALS: [&str; 8] = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "<|im_", "Hello World", " "];

/// A generator of numbers, for texts that nobody thought of.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Short and long texts of pieces of the corpus and special tokens, put together by chance.
pub(super) fn texts() -> Vec<String> {
    let mut dice = Dice(7);
    let mut texts: Vec<String> = CORPUS.iter().map(|t| t.to_string()).collect();
    for parts in (0..400).map(|i| 1 + i % 9) {
        let mut text = String::new();
        for _ in 0..parts {
            let source = CORPUS[dice.roll(CORPUS.len())];
            let start = source.floor_char_boundary(dice.roll(source.len() + 1));
            let end = source.floor_char_boundary((start + dice.roll(40)).min(source.len()));
            text.push_str(&source[start..end.max(start)]);
            if dice.roll(3) == 0 {
                text.push_str(SPECIALS[dice.roll(SPECIALS.len())]);
            }
        }
        texts.push(text);
    }
    let long = |pieces: usize, dice: &mut Dice| {
        let mut text = String::new();
        (0..pieces).for_each(|_| text.push_str(CORPUS[dice.roll(CORPUS.len())]));
        text
    };
    texts.push(long(2000, &mut dice));
    texts.push("é\n".repeat(30_000));
    texts.push("ŀ\nⓐ\n क़ \n".repeat(4_000));
    texts
}

/// The tokens of a text by its parts; checks that special tokens and long texts are cut where they can be.
pub(super) fn by_parts(encoder: &Encoder, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    for part in encoder.cut(text) {
        match part {
            Part::Special(special) => ids.push(encoder.special(special)),
            Part::Text(piece) => {
                for range in encoder.stretches(&piece) {
                    ids.extend(encoder.encode(&piece, range).unwrap());
                }
            }
        }
    }
    ids
}

fn stretches(encoder: &Encoder, text: &str) -> usize {
    encoder.stretches(&Piece { text, before: None, after: None }).len()
}

#[test]
fn embedded_vocabularies_equal_the_library() {
    for (which, library) in [
        (Embedded::O200kBase, tiktoken_rs::o200k_base_singleton()),
        (Embedded::Cl100kBase, tiktoken_rs::cl100k_base_singleton()),
    ] {
        let plain = Encoder::embedded(which, None);
        let special = Encoder::embedded(which, Some(&[]));
        for text in texts() {
            assert_eq!(by_parts(&plain, &text), library.encode_ordinary(&text), "{text:?}");
            let text = format!("{text}<|endoftext|>{text}<|endofprompt|><|endof");
            assert_eq!(by_parts(&special, &text), library.encode_with_special_tokens(&text), "{text:?}");
        }
        assert!(stretches(&plain, &CORPUS[0].repeat(2000)) > 5);
        assert_eq!(stretches(&plain, &"1 2 3 ".repeat(20_000)), 1);
    }
}

#[test]
fn special_tokens_of_templates_are_one_token_each() {
    let names = ["<|im_start|>".to_string(), "<|im_end|>".to_string()];
    for encoder in [Encoder::embedded(Embedded::O200kBase, Some(&names)), Encoder::bytes(4, Some(&names))] {
        let ids = by_parts(&encoder, "<|im_start|><|im_end|><|im_start|>");
        assert_eq!((ids.len(), ids[0]), (3, ids[2]));
        assert_ne!(ids[0], ids[1]);
        assert!(by_parts(&encoder, "<|im_start>").len() > 1);
    }
}

/// A tokenizer of byte pairs, trained on the corpus.
fn trained(
    normalizer: Option<NormalizerWrapper>,
    splits: impl Into<PreTokenizerWrapper>,
    tokens: Vec<AddedToken>,
) -> Tokenizer {
    let builder = TokenizerImpl::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >::new(BPE::builder().build().unwrap());
    let mut tokenizer = builder;
    tokenizer.with_normalizer(normalizer).unwrap();
    tokenizer.with_pre_tokenizer(Some(splits));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(900)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, CORPUS.iter().map(|t| t.to_string())).unwrap();
    tokenizer.add_special_tokens(tokens).unwrap();
    tokenizer.into()
}

/// A split by an expression, then bytes, as most models of today.
fn words(expression: &str) -> Sequence {
    let pattern = SplitPattern::Regex(expression.to_string());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
    Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()])
}

fn token(text: &str) -> AddedToken {
    AddedToken::from(text, true)
}

fn check(tokenizer: &Tokenizer, long_is_cut: bool, specials: usize) {
    let file = serde_json::to_vec(tokenizer).unwrap();
    let encoder = Encoder::hugging_face(&file, &[]).unwrap();
    assert_eq!(encoder.specials().len(), specials);
    for text in texts() {
        let whole = tokenizer.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(by_parts(&encoder, &text), whole.get_ids(), "{text:?}");
    }
    assert_eq!(stretches(&encoder, &CORPUS[0].repeat(1000)) > 1, long_is_cut);
}

#[test]
fn tokenizers_of_words_equal_the_library() {
    let chat = || vec![token("<|im_start|>"), token("<|im_end|>")];
    for expression in SURE {
        check(&trained(None, words(expression), chat()), true, 2);
    }
    check(&trained(Some(NFC.into()), words(SURE[2]), chat()), true, 2);
    check(&trained(None, ByteLevel::new(false, true, true), chat()), true, 2);
    // An expression that nobody has looked at is not cut.
    check(&trained(None, words(r"\w+|\W+"), chat()), false, 2);
    check(&trained(None, ByteLevel::new(true, true, true), chat()), false, 2);
}

#[test]
fn what_a_tokenizer_does_at_the_start_of_a_text_it_does_there_only() {
    let first = || Metaspace::new('▁', PrependScheme::First, false);
    let mut takes = token("[INST]");
    (takes.lstrip, takes.rstrip) = (true, true);
    let mut right = token("<|im_end|>");
    right.rstrip = true;
    check(&trained(None, first(), vec![token("<s>"), token("</s>"), takes.clone(), right]), false, 4);
    check(&trained(None, Metaspace::new('▁', PrependScheme::Always, true), vec![token("<s>"), takes]), false, 2);
    // Tokens that are found after normalizing, or as single words, are left to the library.
    let normalized = AddedToken::from("Hello World", false).normalized(true);
    check(&trained(Some(NFC.into()), words(SURE[1]), vec![normalized, token("<s>")]), false, 1);
    let word = token("<s>").single_word(true);
    check(&trained(None, words(SURE[1]), vec![word, token("</s>")]), true, 0);
}

#[test]
fn a_tokenizer_that_leaves_tokens_to_chance_is_made_to_choose() {
    let mut tokenizer = trained(None, words(SURE[1]), Vec::new());
    let text = CORPUS[0];
    let sure = tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
    let tokenizers::ModelWrapper::BPE(bpe) = tokenizer.get_model() else { panic!("it is of byte pairs") };
    let mut bpe = bpe.clone();
    bpe.dropout = Some(0.5);
    assert!(bpe.get_vocab_size() > 256);
    tokenizer.with_model(bpe);
    let encoder = Encoder::hugging_face(&serde_json::to_vec(&tokenizer).unwrap(), &[]).unwrap();
    for _ in 0..3 {
        assert_eq!(by_parts(&encoder, text), sure);
    }
}

/// Files of tokenizers of several kinds.
pub(super) fn files() -> Vec<String> {
    let mut takes = token("[INST]");
    (takes.lstrip, takes.rstrip) = (true, true);
    let first = Metaspace::new('▁', PrependScheme::First, false);
    let made = [
        trained(None, words(SURE[1]), vec![token("<|im_start|>"), token("<|im_end|>")]),
        trained(Some(NFC.into()), words(SURE[4]), vec![token("<s>")]),
        trained(None, first, vec![token("<s>"), takes]),
    ];
    made.iter().map(|t| serde_json::to_string(t).unwrap()).collect()
}

#[test]
fn tokens_that_a_tokenizer_lacks_are_added() {
    let file = serde_json::to_vec(&trained(None, words(SURE[1]), vec![token("<s>")])).unwrap();
    let names = ["<s>".to_string(), "<new>".to_string()];
    let encoder = Encoder::hugging_face(&file, &names).unwrap();
    assert_eq!(by_parts(&encoder, "<new><s>").len(), 2);
    assert!(by_parts(&Encoder::hugging_face(&file, &[]).unwrap(), "<new>").len() > 1);
}
