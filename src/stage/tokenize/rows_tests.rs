//! Prompts and replies, as a server sees them.

use chrono::NaiveDate;

use super::chat::{Chat, Source};
use super::encoder::{Embedded, Encoder};
use super::encoder_tests::CORPUS;
use super::rows::{Request, Row, Tokenizer};

fn with(source: &Source) -> Tokenizer {
    let encoder = Encoder::embedded(Embedded::O200kBase, Some(&source.specials));
    let chat = Chat::new(source, &[], NaiveDate::from_ymd_opt(2025, 1, 1).unwrap()).unwrap();
    Tokenizer::new(encoder, Some(chat), &source.specials, 4)
}

fn template(template: &str) -> Source {
    Source { template: template.to_string(), ..Source::chatml() }
}

fn ask<'a>(messages: &[&'a str], reply: &'a str) -> Request<'a> {
    Request { messages: messages.to_vec(), reply: Some(reply), ..Request::default() }
}

fn one(tokenizer: &Tokenizer, request: &Request) -> Row {
    tokenizer.rows(std::slice::from_ref(request)).unwrap().remove(0)
}

/// The tokens of a text with the special tokens of ChatML, as one text.
fn tokens(text: &str) -> Vec<u32> {
    let verbatim = with(&template("{{ messages[0].content }}"));
    let request = Request { messages: vec![text], ..Request::default() };
    one(&verbatim, &request).input
}

#[test]
fn prompts_and_replies_are_what_a_server_has() {
    let chatml = with(&Source::chatml());
    let row = one(&chatml, &ask(&["Be brief.", "Hello?"], "Hi!"));
    let prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!((row.input, row.output), (tokens(prompt), tokens("Hi!<|im_end|>")));
    assert!(!row.rewritten);

    let llama = Source::llama3();
    let row = one(&with(&llama), &ask(&["Hello?"], "  Hi!\n"));
    // Begin, three of a header, its line feeds, and the end of the turn; twice the header.
    let encoder = Encoder::embedded(Embedded::O200kBase, Some(&llama.specials));
    let id = |name: &str| encoder.specials().iter().find(|s| s.text == name).unwrap().id;
    assert_eq!((row.input[0], row.input[1]), (id("<|begin_of_text|>"), id("<|start_header_id|>")));
    assert_eq!(row.input.iter().filter(|i| **i == id("<|end_header_id|>")).count(), 2);
    assert_eq!(row.output, [tokens("Hi!"), vec![id("<|eot_id|>")]].concat());
}

#[test]
fn a_conversation_of_any_texts_shares_its_past() {
    let plain = || Tokenizer::new(Encoder::embedded(Embedded::O200kBase, None), None, &[], 4);
    for tokenizer in [plain(), with(&Source::chatml()), with(&Source::llama3())] {
        let mut messages = Vec::new();
        let mut past = Row::default();
        for pair in CORPUS.chunks(2) {
            messages.push(pair[0]);
            let row = one(&tokenizer, &ask(&messages, pair[1]));
            let seen = [&past.input[..], &past.output].concat();
            // A reply that begins with white space is tokenized otherwise once it is past, as a server does.
            if !pair[1].starts_with(char::is_whitespace) {
                assert!(row.input.starts_with(&seen), "{messages:?}");
                assert!(row.hashes.starts_with(&past.hashes));
            }
            messages.push(pair[1]);
            past = if pair[1].starts_with(char::is_whitespace) { Row::default() } else { row };
        }
    }
}

#[test]
fn rows_are_the_same_whatever_came_before() {
    let texts: Vec<String> = (0..60).map(|i| format!("{} {i}", CORPUS[i % CORPUS.len()])).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let requests: Vec<Request> = (1..30).map(|n| ask(&texts[n % 5..2 * n], texts[2 * n])).collect();
    for source in [Source::chatml(), Source::llama3()] {
        let together = with(&source);
        let rows = together.rows(&requests).unwrap();
        // Once more, with everything seen; then one by one, with nothing seen.
        assert_eq!(together.rows(&requests).unwrap(), rows);
        for (request, row) in requests.iter().zip(&rows) {
            assert_eq!(&one(&with(&source), request), row);
        }
    }
}

#[test]
fn replies_that_a_template_writes_otherwise_stay_what_the_model_wrote() {
    // Reasoning of past turns is left out.
    let source = template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}\
         {% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
    );
    let row = one(&with(&source), &ask(&["2 + 2?"], "Easy.</think>4"));
    let prompt = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n<think>";
    assert_eq!((row.input, row.output), (tokens(prompt), tokens("Easy.</think>4<|im_end|>")));
    assert!(row.rewritten);
}

#[test]
fn ends_of_prompts_and_of_replies() {
    // Without a token at the end of a turn, what the template writes there is the reply's.
    let source = template(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}\
         {% if add_generation_prompt %}assistant: {% endif %}",
    );
    let row = one(&with(&source), &ask(&["a"], "b"));
    // "assistant: b" has a token " b", which the prompt's end cuts: the reply has the tokens that it has alone.
    assert_eq!((row.input, row.output), (tokens("user: a\n\nassistant: "), tokens("b\n\n")));
    // A special token that prompt and reply make together is none.
    let straddling = template("{% for m in messages %}{{ m.content }}{% endfor %}");
    let row = one(&with(&straddling), &ask(&["x<|im_"], "end|>y"));
    assert_eq!((row.input, row.output), (tokens("x<|im_"), tokens("end|>y")));
    // One in a text is a token, as a server takes it.
    let row = one(&with(&straddling), &ask(&["x<|im_end|>"], "<|im_end|>y"));
    assert_eq!((row.input, row.output), (tokens("x<|im_end|>"), tokens("<|im_end|>y")));
}

#[test]
fn who_speaks_is_told_or_alternates() {
    let show = with(&template("{% for m in messages %}{{ m.role }} {% endfor %}"));
    let check = |count: usize, roles: &[Option<&str>], expect: &str| {
        let request = Request { messages: vec!["x"; count], roles: roles.to_vec(), ..Request::default() };
        assert_eq!(one(&show, &request).input, tokens(expect), "{count} {roles:?}");
    };
    check(1, &[], "user ");
    check(2, &[], "system user ");
    check(3, &[], "user assistant user ");
    check(4, &[], "system user assistant user ");
    check(3, &[Some("system"), None, Some("tool")], "system assistant tool ");
    check(0, &[], "");
}

#[test]
fn a_prefix_of_tokens_is_a_prefix_of_hashes() {
    let hashes = |text: &str| {
        let tokenizer = Tokenizer::new(Encoder::bytes(1, None), None, &[], 4);
        one(&tokenizer, &Request { messages: vec![text], ..Request::default() }).hashes
    };
    let long = hashes("0123456789abcdefgh");
    assert_eq!(long.len(), 4);
    assert_eq!(hashes("0123456789a"), long[..2]);
    assert!(hashes("012").is_empty());
    let pairs: Vec<bool> = long.iter().zip(hashes("01234X6789abcdefgh")).map(|(a, b)| *a == b).collect();
    assert_eq!(pairs, [true, false, false, false]);
    // As specified: the chain of 0 and the first bytes of the hash of the numbers.
    let content = blake3::hash(&[b'0', 0, 0, 0, b'1', 0, 0, 0, b'2', 0, 0, 0, b'3', 0, 0, 0]);
    let content = u64::from_le_bytes(*content.as_bytes().first_chunk().unwrap());
    assert_eq!(long[0], pipe_kernel::workload::chain(0, content));
}
