//! Tokens per second of the stage `tokenize`, beside the libraries called directly, in one run with the same threads.
//!
//! ```sh
//! cargo bench --bench tokenize
//! ```
//!
//! Both sides do the same texts in turns, each with a tokenizer that has seen nothing; the library has them on all threads
//! as well (rayon, `encode_batch_fast`), one text a task. `tokenize` also makes keys and hashes of blocks.
//!
//! Million tokens per second, and per second of processor, on a shared two-core machine (rustc 1.95, otherwise idle, two
//! threads, medians of 5 rounds):
//!
//! | texts | tokenizer | tokenize | library | ratio | tokenize, cpu | library, cpu | ratio |
//! |---|---|---|---|---|---|---|---|
//! | 1,500 prompts of unequal length | o200k_base | 5.7 | 6.0 | 0.95 | 2.9 | 3.1 | 0.95 |
//! | | tokenizer.json | 1.5 | 1.3 | 1.13 | 0.8 | 0.7 | 1.02 |
//! | one text of 4 MB | o200k_base | 10.9 | 7.7 | 1.42 | 5.7 | 7.8 | 0.73 |
//! | | tokenizer.json | 1.0 | 0.6 | 1.57 | 0.5 | 0.6 | 0.79 |
//! | 20 conversations of 12 turns, chatml | o200k_base | 38.7 | 12.3 | 3.14 | 21.2 | 6.0 | 3.52 |
//! | | tokenizer.json | 6.8 | 1.1 | 6.48 | 3.5 | 0.5 | 6.61 |
//!
//! The library has one text on one thread, this on all: where other work takes the second core that gains nothing, and the
//! threads share the memory of the library's expressions and of its cache. Conversations gain what their turns repeat.

use std::hint::black_box;
use std::time::Instant;

use chrono::NaiveDate;
use pipe::stage::tokenizing::{Chat, Embedded, Encoder, Request, Source, Tokenizer};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

/// Times that both sides are measured, in turns; the median counts.
const ROUNDS: usize = 5;

/// Most rows that the stage takes together.
const BATCH: usize = 1024;

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    println!("{threads} threads, medians of {ROUNDS} rounds, million tokens per second, and per second of processor\n");
    println!("| texts | tokenizer | tokenize | library | ratio | tokenize, cpu | library, cpu | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    pool.install(|| {
        let mut writer = Writer::new();
        let prompts: Vec<String> = (0..1500).map(|_| writer.unequal()).collect();
        let talks = Talks::new(&mut writer);
        let long = vec![writer.text(4_000_000)];
        let file = trained(&prompts[..500]);
        let bpe = tiktoken_rs::o200k_base_singleton();
        for (what, texts) in [("1,500 prompts of unequal length", &prompts), ("one text of 4 MB", &long)] {
            let requests: Vec<Request> = texts.iter().map(|t| ask(vec![t], None)).collect();
            let plain = |encoder: Encoder| Tokenizer::new(encoder, None, &[], 16);
            let ours = || plain(Encoder::embedded(Embedded::O200kBase, None));
            compare(what, "o200k_base", ours, &requests, || bpe, |bpe| by_tiktoken(bpe, texts));
            let ours = || plain(Encoder::hugging_face(&file, &[]).expect("it was just written"));
            compare(what, "tokenizer.json", ours, &requests, || open(&file), |library| by_hugging_face(library, texts));
        }
        let what = "20 conversations of 12 turns, chatml";
        let (requests, rendered) = (talks.requests(), talks.rendered());
        let source = Source::chatml();
        let ours = |encoder: Encoder| {
            let day = NaiveDate::from_ymd_opt(2025, 1, 1).expect("a day");
            let chat = Chat::new(&source, &[], day).expect("it comes along");
            Tokenizer::new(encoder, Some(chat), &source.specials, 16)
        };
        let embedded = || ours(Encoder::embedded(Embedded::O200kBase, Some(&source.specials)));
        compare(what, "o200k_base", embedded, &requests, || bpe, |bpe| by_tiktoken(bpe, &rendered));
        let json = || ours(Encoder::hugging_face(&file, &[]).expect("it was just written"));
        compare(what, "tokenizer.json", json, &requests, || open(&file), |library| by_hugging_face(library, &rendered));
    });
}

fn by_tiktoken(bpe: &tiktoken_rs::CoreBPE, texts: &[String]) -> usize {
    texts.par_iter().map(|t| bpe.encode_ordinary(t).len()).sum()
}

fn open(file: &[u8]) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(file).expect("it was just written")
}

fn by_hugging_face(library: &tokenizers::Tokenizer, texts: &[String]) -> usize {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let all = library.encode_batch_fast(texts, false).expect("they are texts");
    all.iter().map(|e| e.get_ids().len()).sum()
}

fn ask<'a>(messages: Vec<&'a str>, reply: Option<&'a str>) -> Request<'a> {
    Request { messages, reply, ..Request::default() }
}

/// Million tokens per second of the clock, and per second of processor where the system tells.
#[derive(Clone, Copy)]
struct Speed(f64, f64);

fn timed(work: impl FnOnce() -> usize) -> Speed {
    let (start, used) = (Instant::now(), processor());
    let tokens = black_box(work()) as f64 / 1e6;
    Speed(tokens / start.elapsed().as_secs_f64(), tokens / (processor() - used))
}

/// Seconds of processor that this program has used, all threads together: of other programs' load it says nothing.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

/// Times both sides in turns, each time with a tokenizer that has seen nothing, and prints their medians.
fn compare<L>(
    what: &str,
    name: &str,
    ours: impl Fn() -> Tokenizer,
    requests: &[Request],
    open: impl Fn() -> L,
    library: impl Fn(&L) -> usize,
) {
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let tokenizer = ours();
        own.push(timed(|| {
            let mut tokens = 0;
            for batch in requests.chunks(BATCH) {
                let rows = tokenizer.rows(batch).unwrap_or_else(|fault| panic!("{}", fault.reason));
                tokens += rows.iter().map(|row| row.input.len() + row.output.len()).sum::<usize>();
            }
            tokens
        }));
        let opened = open();
        theirs.push(timed(|| library(&opened)));
    }
    let ((a, b), (c, d)) = (medians(&own), medians(&theirs));
    println!("| {what} | {name} | {a:.1} | {c:.1} | {:.2} | {b:.1} | {d:.1} | {:.2} |", a / c, b / d);
}

fn medians(of: &[Speed]) -> (f64, f64) {
    let median = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    (median(of.iter().map(|s| s.0).collect()), median(of.iter().map(|s| s.1).collect()))
}

/// A `tokenizer.json` of byte pairs, trained on some texts, as those of today's models.
fn trained(texts: &[String]) -> Vec<u8> {
    let model = BPE::builder().build().expect("an empty model");
    let mut tokenizer: TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    > = TokenizerImpl::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    let mut trainer = BpeTrainer::builder().vocab_size(8000).show_progress(false).initial_alphabet(alphabet).build();
    tokenizer.train(&mut trainer, texts.iter()).expect("they are texts");
    let chat = ["<|im_start|>", "<|im_end|>"].map(|text| tokenizers::AddedToken::from(text, true));
    tokenizer.add_special_tokens(chat).expect("they are new");
    serde_json::to_vec(&tokenizer).expect("it can be written")
}

/// Writes texts of made-up words, some of them often, with numbers and punctuation.
struct Writer {
    state: u64,
    words: Vec<String>,
}

impl Writer {
    fn new() -> Writer {
        let mut writer = Writer { state: 1, words: Vec::new() };
        let parts =
            ["an", "be", "cor", "del", "ex", "fi", "gra", "ho", "ing", "ju", "ka", "len", "mo", "tion", "r", "s"];
        for _ in 0..30_000 {
            let syllables = 1 + writer.roll(4);
            let word: String = (0..syllables).map(|_| parts[writer.roll(parts.len())]).collect();
            writer.words.push(word);
        }
        writer
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % sides
    }

    /// A text of so many bytes or a little more.
    fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 32);
        while text.len() < bytes {
            // The lesser of several numbers: few words are frequent.
            let word = (0..4).map(|_| self.roll(30_000)).min().unwrap_or(0);
            text.push_str(&self.words[word]);
            let ends = [" ", " ", " ", " ", " ", " ", " ", ", ", ". ", "\n", " 2025 ", " (", ") ", "'s ", " — ", "。"];
            text.push_str(ends[self.roll(ends.len())]);
        }
        text
    }

    /// Mostly short, sometimes very long.
    fn unequal(&mut self) -> String {
        let bytes = 60 << self.roll(8);
        let more = self.roll(bytes);
        let bytes = if self.roll(300) == 0 { 400_000 } else { bytes + more };
        self.text(bytes)
    }
}

/// Conversations whose every turn repeats what was said before.
struct Talks(Vec<Vec<String>>);

impl Talks {
    fn new(writer: &mut Writer) -> Talks {
        Talks((0..20).map(|_| (0..24).map(|_| writer.text(900)).collect()).collect())
    }

    /// Turn by turn, the conversations side by side.
    fn requests(&self) -> Vec<Request<'_>> {
        let turn = |turn: usize| {
            self.0
                .iter()
                .map(move |talk| ask(talk[..=2 * turn].iter().map(String::as_str).collect(), Some(&talk[2 * turn + 1])))
        };
        (0..12).flat_map(turn).collect()
    }

    /// Prompt and reply of every request as one text.
    fn rendered(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for turn in 0..12 {
            for talk in &self.0 {
                let mut text = String::new();
                for (i, message) in talk[..=2 * turn + 1].iter().enumerate() {
                    let role = if i % 2 == 0 { "user" } else { "assistant" };
                    text.push_str(&format!("<|im_start|>{role}\n{message}<|im_end|>\n"));
                }
                texts.push(text);
            }
        }
        texts
    }
}
