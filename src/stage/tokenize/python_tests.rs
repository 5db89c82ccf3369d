//! The same texts by the libraries that servers use, where Python has them: `tokenizers`, `sentencepiece`, `jinja2`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use chrono::NaiveDate;
use serde_json::{Value as Json, json};

use super::chat::{Chat, Message, Source};
use super::chat_tests::{TALK, TEMPLATES};
use super::encoder::Encoder;
use super::encoder_tests::{by_parts, files, texts};
use super::sentencepiece::SentencePiece;

/// What a program prints for some input, both JSON; `None` where Python or a module is not there.
fn python(module: &str, program: &str, input: &Json) -> Option<Json> {
    if !Command::new("python3").args(["-c", &format!("import {module}")]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: python3 has no {module}");
        return None;
    }
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_string();
    // On a thread of its own: a program may answer before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("python3 runs");
    writer.join().expect("no panic").expect("python3 reads");
    assert!(output.status.success(), "python3 failed");
    Some(serde_json::from_slice(&output.stdout).expect("the program prints JSON"))
}

fn tokens(of: &Json) -> Vec<Vec<u32>> {
    serde_json::from_value(of.clone()).expect("lists of numbers")
}

#[test]
fn tokenizers_of_hugging_face() {
    let program = "import sys, json, tokenizers\n\
        given = json.load(sys.stdin)\n\
        made = [tokenizers.Tokenizer.from_str(f) for f in given['files']]\n\
        print(json.dumps([[e.ids for e in t.encode_batch(given['texts'], add_special_tokens=False)] for t in made]))";
    let (files, texts) = (files(), texts());
    let Some(made) = python("tokenizers", program, &json!({ "files": files, "texts": texts })) else { return };
    for (i, file) in files.iter().enumerate() {
        let encoder = Encoder::hugging_face(file.as_bytes(), &[]).unwrap();
        for (text, expect) in texts.iter().zip(tokens(&made[i])) {
            assert_eq!(by_parts(&encoder, text), expect, "tokenizer {i}, {text:?}");
        }
    }
}

#[test]
fn models_of_sentencepiece() {
    let program = "import sys, json, io, base64, sentencepiece as s\n\
        given = json.load(sys.stdin)\n\
        lines = [l for t in given['texts'][:300] for l in t.split('\\n') if l.strip()]\n\
        out = []\n\
        for settings in given['models']:\n\
        \x20   file = io.BytesIO()\n\
        \x20   s.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, minloglevel=2,\n\
        \x20       character_coverage=0.99, hard_vocab_limit=False, **settings)\n\
        \x20   model = s.SentencePieceProcessor(model_proto=file.getvalue())\n\
        \x20   out.append({'file': list(file.getvalue()), 'ids': [model.encode(t) for t in given['texts']]})\n\
        print(json.dumps(out))";
    let models = json!([
        { "model_type": "unigram", "vocab_size": 900 },
        { "model_type": "unigram", "vocab_size": 1200, "byte_fallback": true, "remove_extra_whitespaces": false,
          "user_defined_symbols": ["[INST]", "the"] },
        { "model_type": "unigram", "vocab_size": 900, "treat_whitespace_as_suffix": true,
          "normalization_rule_name": "nfkc_cf" },
        { "model_type": "bpe", "vocab_size": 900 },
        { "model_type": "bpe", "vocab_size": 1200, "byte_fallback": true, "add_dummy_prefix": false,
          "normalization_rule_name": "identity", "user_defined_symbols": ["  ", "ing"] },
    ]);
    // Sums of very long texts are kept otherwise by the library: see `unigram`.
    let texts: Vec<String> = texts().into_iter().filter(|t| t.len() < 50_000).collect();
    let Some(made) = python("sentencepiece", program, &json!({ "models": models, "texts": texts })) else { return };
    for (i, of) in made.as_array().unwrap().iter().enumerate() {
        let file: Vec<u8> = serde_json::from_value(of["file"].clone()).unwrap();
        let model = SentencePiece::new(&file).unwrap();
        for (text, expect) in texts.iter().zip(tokens(&of["ids"])) {
            assert_eq!(model.encode(text), expect, "model {i}, {text:?}");
        }
    }
}

#[test]
fn templates_of_transformers() {
    // The settings of transformers' `_compile_jinja_template`.
    let program = "import sys, json\n\
        from jinja2.sandbox import ImmutableSandboxedEnvironment\n\
        given = json.load(sys.stdin)\n\
        env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,\n\
        \x20   extensions=['jinja2.ext.loopcontrols'])\n\
        def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):\n\
        \x20   return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,\n\
        \x20       sort_keys=sort_keys)\n\
        env.filters['tojson'] = tojson\n\
        env.globals['strftime_now'] = lambda f: __import__('datetime').datetime(2025, 1, 31).strftime(f)\n\
        print(json.dumps([env.from_string(t).render(messages=given['messages'], tools=None, documents=None,\n\
        \x20   add_generation_prompt=True, **given['names']) for t in given['templates']]))";
    let message = |m: &Message| json!({ "role": m.role, "content": m.content });
    let names = json!({ "eos_token": "</s>", "flag": false, "deep": { "list": [1, "two", null] } });
    let (chatml, llama3) = (Source::chatml().template, Source::llama3().template);
    let own = TEMPLATES.iter().map(|(template, _)| template.to_string()).filter(|t| !t.contains("generation %}"));
    let templates: Vec<String> = own.chain([chatml, llama3]).collect();
    let talk: Vec<Json> = TALK.iter().map(message).collect();
    let given = json!({ "messages": talk, "names": names, "templates": templates });
    let Some(made) = python("jinja2", program, &given) else { return };
    let day = NaiveDate::from_ymd_opt(2025, 1, 31).unwrap();
    let variables: Vec<(String, Json)> = names.as_object().unwrap().clone().into_iter().collect();
    for (template, expect) in templates.iter().zip(made.as_array().unwrap()) {
        let source = Source { template: template.clone(), ..Source::default() };
        let made = Chat::new(&source, &variables, day).unwrap().render(&TALK, true).unwrap();
        assert_eq!(made, expect.as_str().unwrap(), "{template}");
    }
}
