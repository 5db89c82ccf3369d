//! Settings to rows: files, tables, texts that tokenizers find hard.

use std::path::Path;

use arrow::array::{Int64Array, StringBuilder};
use arrow::datatypes::{UInt32Type, UInt64Type};

use super::*;
use crate::spec::{BytesPerToken, HuggingFace, Ref, SentencePiece, TemplateFile};
use crate::trace::Settings;

/// Settings with defaults.
fn spec(encoding: Encoding, chat_template: ChatTemplate) -> Tokenize {
    Tokenize {
        from: Ref(Text::new("texts".to_string(), None)),
        encoding,
        chat_template,
        template_variables: Default::default(),
        template_date: Text::new("2025-01-01".to_string(), None),
        special_tokens: Vec::new(),
        block_tokens: 16,
        token_ids: false,
    }
}

fn file(path: &Path) -> FilePath {
    let written = path.file_name().unwrap().to_string_lossy().into_owned();
    FilePath { written, path: path.to_path_buf(), at: None }
}

fn hugging_face(path: &Path) -> Encoding {
    Encoding::HuggingFace(HuggingFace { path: file(path) })
}

/// Messages, roles, reply.
type Talk<'a> = (&'a [&'a str], Option<&'a [&'a str]>, &'a str);

fn table(rows: &[Talk], more: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    let list =
        || ListBuilder::new(StringBuilder::new()).with_field(Arc::new(Field::new_list_field(DataType::Utf8, false)));
    let (mut input, mut roles) = (list(), list());
    for (messages, who, _) in rows {
        input.append_value(messages.iter().map(Some));
        match who {
            Some(who) => roles.append_value(who.iter().map(Some)),
            None => roles.append(false),
        }
    }
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("request_id", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64))),
        ("input", Arc::new(input.finish())),
        ("roles", Arc::new(roles.finish())),
        ("output", Arc::new(rows.iter().map(|(_, _, reply)| Some(*reply)).collect::<StringArray>())),
    ];
    columns.extend(more);
    requests::assemble(&requests::texts_schema(), rows.len(), columns).unwrap()
}

fn run(spec: &Tokenize, texts: &RecordBatch) -> Result<RecordBatch> {
    let counts = Counts::default();
    tokenize_rows(texts, &spec.tokenizer()?, spec.block_tokens, &schema(spec.token_ids), &counts)
}

fn ints(rows: &RecordBatch, name: &str) -> Vec<Option<i32>> {
    rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().iter().collect()
}

fn hashes(rows: &RecordBatch, row: usize) -> Vec<u64> {
    let lists = rows.column_by_name("block_hashes").unwrap().as_list::<i32>();
    lists.value(row).as_primitive::<UInt64Type>().values().to_vec()
}

/// Token numbers of prompt and reply.
fn ids(rows: &RecordBatch, row: usize) -> (Vec<u32>, Vec<u32>) {
    let of = |name: &str| {
        let lists = rows.column_by_name(name).unwrap().as_list::<i32>();
        lists.value(row).as_primitive::<UInt32Type>().values().to_vec()
    };
    (of("input_token_ids"), of("output_token_ids"))
}

#[test]
fn known_texts_have_known_tokens() {
    let tokens = |encoding: Encoding, text: &str| {
        let spec = Tokenize { token_ids: true, ..spec(encoding, ChatTemplate::None) };
        ids(&run(&spec, &table(&[(&[text], None, "")], Vec::new())).unwrap(), 0).0
    };
    assert_eq!(tokens(Encoding::O200kBase, "hello world"), [24912, 2375]);
    assert_eq!(tokens(Encoding::Cl100kBase, "hello world"), [15339, 1917]);
    assert!(tokens(Encoding::O200kBase, "").is_empty());
    // A special token in a text is text.
    assert!(tokens(Encoding::O200kBase, "<|endoftext|>").len() > 1);
    let bytes = |per_token| Encoding::Bytes(BytesPerToken { per_token });
    assert_eq!(tokens(bytes(1), "aé"), [0x61, 0xC3, 0xA9]);
    assert_eq!(tokens(bytes(4), "abcde"), [0x6463_6261, 0x65]);
    assert_eq!(tokens(bytes(7), "0123456789").len(), 2);
}

#[test]
fn tokenizer_files_are_read() {
    let sample = crate::repository().join("data/samples/tokenizer.json");
    let with_ids = |encoding| Tokenize { token_ids: true, ..spec(encoding, ChatTemplate::None) };
    let rows = run(&with_ids(hugging_face(&sample)), &table(&[(&["the garden xyzzy the"], None, "")], Vec::new()));
    let (ids, _) = ids(&rows.unwrap(), 0);
    assert_eq!((ids.len(), ids[0], ids[2]), (4, ids[3], 0));
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("tokenizer.json");
    std::fs::write(&wrong, "{}").unwrap();
    let failure = spec(hugging_face(&wrong), ChatTemplate::None).tokenizer().err().unwrap();
    assert!(failure.to_string().contains("cannot read tokenizer.json as a Hugging Face"), "{failure}");
    let model = Encoding::Sentencepiece(SentencePiece { path: file(&wrong) });
    let failure = spec(model, ChatTemplate::None).tokenizer().err().unwrap();
    assert!(failure.to_string().contains("cannot read tokenizer.json as a SentencePiece model"), "{failure}");
}

#[test]
fn a_sentencepiece_model_is_read() {
    use super::sentencepiece::testing::{Model, NORMAL, UNIGRAM};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    let letters = [("▁hello", -1.0, NORMAL), ("▁world", -1.0, NORMAL), ("▁", -5.0, NORMAL)];
    std::fs::write(&path, Model::new(UNIGRAM, &letters).file()).unwrap();
    let encoding = Encoding::Sentencepiece(SentencePiece { path: file(&path) });
    let template = "{% for m in messages %}{{ bos_token + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}\
                    {% endif %}{% endfor %}";
    let config = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" }, "chat_template": template });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let texts = table(&[(&["hello  world"], None, "hello"), (&["</s>"], None, "")], Vec::new());
    let plain = Tokenize { token_ids: true, ..spec(encoding.clone(), ChatTemplate::None) };
    let rows = run(&plain, &texts).unwrap();
    // The name of a control piece in a text is text: a space and unknown characters.
    assert_eq!([ids(&rows, 0), ids(&rows, 1)], [(vec![3, 4], vec![3]), (vec![5, 0], vec![])]);
    // What a template writes is the piece.
    let rows = run(&Tokenize { chat_template: ChatTemplate::Beside, ..plain }, &texts).unwrap();
    assert_eq!([ids(&rows, 0), ids(&rows, 1)], [(vec![1, 3, 4], vec![1, 3, 2]), (vec![1, 2], vec![1, 2])]);
}

#[test]
fn templates_come_from_the_files_that_models_have() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = dir.path().join("tokenizer.json");
    std::fs::copy(crate::repository().join("data/samples/tokenizer.json"), &tokenizer).unwrap();
    let put = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        file(&dir.path().join(name))
    };
    let count = |spec: &Tokenize| {
        let rows = run(spec, &table(&[(&["the garden"], None, "the")], Vec::new()))?;
        Ok::<_, Failure>((ints(&rows, "input_tokens")[0].unwrap(), ints(&rows, "output_tokens")[0].unwrap()))
    };
    let beside = spec(hugging_face(&tokenizer), ChatTemplate::Beside);
    let failure = count(&beside).err().unwrap();
    assert!(failure.to_string().contains("there is no chat template beside tokenizer.json"), "{failure}");
    let lacking = spec(Encoding::O200kBase, ChatTemplate::Beside).verify().unwrap_err();
    assert!(lacking.to_string().contains("is of a tokenizer with a file"), "{lacking}");
    assert_eq!(beside.all_files().len(), 1);

    let ended =
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}";
    let twice = "{% for m in messages %}{{ m.content }} {{ m.content }} {% endfor %}";
    let named = [("default", ended), ("twice", twice)].map(|(n, t)| json!({ "name": n, "template": t }));
    let config = json!({ "eos_token": "<end>", "chat_template": named });
    let config = put("tokenizer_config.json", &config.to_string());
    // The end of the turn is one token, which the tokenizer gets; the space behind it is the next turn's.
    assert_eq!(count(&beside).unwrap(), (2, 2));
    assert_eq!(beside.all_files().len(), 2);
    let named = |path: &FilePath, name: Option<&str>| {
        let name = name.map(str::to_string);
        spec(hugging_face(&tokenizer), ChatTemplate::File(TemplateFile { path: path.clone(), name }))
    };
    assert_eq!(count(&named(&config, Some("twice"))).unwrap(), (4, 2));
    let failure = count(&named(&config, Some("thrice"))).err().unwrap();
    let expect = "it has no template called `thrice`; there are: default, twice";
    assert!(failure.to_string().contains(expect), "{failure}");

    // A template in a file of its own goes before that of the configuration, which still has the tokens.
    let jinja = put("chat_template.jinja", "{% for m in messages %}the {{ m.content }}{{ eos_token }}{% endfor %}\n");
    assert_eq!(count(&beside).unwrap(), (4, 3));
    assert_eq!(count(&named(&jinja, None)).unwrap(), (4, 3));
    put("chat_template.jinja", "{% for m in messages %}");
    let failure = count(&beside).err().unwrap().to_string();
    assert!(failure.contains("the chat template of chat_template.jinja cannot be read: syntax error"), "{failure}");
    std::fs::write(dir.path().join("chat_template.jinja"), [0xFF, 0xFE]).unwrap();
    assert!(count(&beside).err().unwrap().to_string().contains("as a template: invalid utf-8"));
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    put("tokenizer_config.json", "{");
    assert!(
        count(&beside).err().unwrap().to_string().contains("tokenizer_config.json for its chat template: not JSON")
    );
}

#[test]
fn settings_that_do_not_fit_are_told() {
    let say = |spec: Tokenize| {
        let told = spec.tokenizer().err().unwrap().to_string();
        assert_eq!(spec.verify().unwrap_err().to_string(), told);
        told
    };
    let chatml = || spec(Encoding::O200kBase, ChatTemplate::Chatml);
    let day = Text::new("31.1.2025".to_string(), None);
    assert_eq!(
        say(Tokenize { template_date: day, ..chatml() }),
        "`template_date` is `31.1.2025`: expected a day as 2025-01-31"
    );
    let empty = vec![String::new()];
    assert_eq!(
        say(Tokenize { special_tokens: empty, ..chatml() }),
        "a special token is empty: it would stand everywhere"
    );
    let none = Encoding::Bytes(BytesPerToken { per_token: 0 });
    assert_eq!(say(spec(none, ChatTemplate::None)), "`per_token` is 0: expected 1 to 1024 bytes");
}

#[test]
fn a_template_that_refuses_says_which_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("strict.jinja");
    std::fs::write(
        &path,
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}\
         {{ m.content }}{% endfor %}",
    )
    .unwrap();
    let strict = spec(Encoding::O200kBase, ChatTemplate::File(TemplateFile { path: file(&path), name: None }));
    let rows: [Talk; 3] =
        [(&["a"], Some(&["user"]), "b"), (&["x", "a"], Some(&["system", "user"]), "b"), (&["x", "a"], None, "b")];
    assert!(run(&strict, &table(&rows[..1], Vec::new())).is_ok());
    let failure = run(&strict, &table(&rows, Vec::new())).err().unwrap();
    assert_eq!(failure.to_string(), "request 1: the template refuses: no system, please");
    assert!(failure.diagnostics[0].help.as_ref().unwrap().contains("`none`"));
}

#[test]
fn a_reply_without_text_is_as_long_as_the_file_says() {
    let rows: [Talk; 3] =
        [(&["hello world"], None, ""), (&["hello world"], None, "hello world"), (&["hello world"], None, "")];
    let more: Vec<(&str, ArrayRef)> = vec![
        ("output_tokens", Arc::new(Int32Array::from(vec![Some(7), Some(9), None]))),
        ("images", Arc::new(Int32Array::from(vec![Some(2), None, None]))),
    ];
    let texts = table(&rows, more);
    let plain = Tokenize { block_tokens: 2, ..spec(Encoding::O200kBase, ChatTemplate::None) };
    let rows = run(&plain, &texts).unwrap();
    assert_eq!(ints(&rows, "output_tokens"), [Some(7), Some(2), Some(1)]);
    assert_eq!(ints(&rows, "images"), [Some(2), None, None]);
    assert_eq!((0..3).map(|i| hashes(&rows, i).len()).collect::<Vec<_>>(), [1, 2, 1]);
    // With a template, a prompt whose reply is not there ends where the reply would begin; an empty reply ends its
    // turn.
    let rows = run(&Tokenize { chat_template: ChatTemplate::Chatml, ..plain }, &texts).unwrap();
    assert_eq!(ints(&rows, "input_tokens"), [Some(10), Some(10), Some(10)]);
    assert_eq!(ints(&rows, "output_tokens"), [Some(7), Some(3), Some(1)]);
}

#[test]
fn tokens_of_images_count_and_end_what_is_known() {
    let row: Talk = (&["hello world"], None, "hello world");
    let texts = table(&[row; 2], Vec::new());
    let mut fields = texts.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("encoder_tokens", DataType::Int32, true)));
    let mut columns = texts.columns().to_vec();
    columns.push(Arc::new(Int32Array::from(vec![Some(576), None])));
    let texts = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let rows = run(&Tokenize { block_tokens: 1, ..spec(Encoding::O200kBase, ChatTemplate::None) }, &texts).unwrap();
    assert_eq!(ints(&rows, "input_tokens"), [Some(578), Some(2)]);
    assert_eq!(ints(&rows, "encoder_tokens"), [Some(576), None]);
    assert_eq!((hashes(&rows, 0), hashes(&rows, 1).len()), (hashes(&rows, 1)[..2].to_vec(), 4));
}

#[test]
fn models_and_adapters_share_no_blocks() {
    let row: Talk = (&["a b c d e f g h i j k l m n o p q r s t u v w x y z"], None, "1");
    let names = |names: [Option<&'static str>; 5]| -> ArrayRef { Arc::new(StringArray::from(names.to_vec())) };
    let more = vec![
        ("model", names([None, Some("m"), Some("m"), None, Some("ma")])),
        ("adapter", names([None, None, Some("a"), Some("a"), None])),
    ];
    let rows = run(&spec(Encoding::O200kBase, ChatTemplate::None), &table(&[row; 5], more)).unwrap();
    let first: std::collections::BTreeSet<u64> = (0..5).map(|i| hashes(&rows, i)[0]).collect();
    assert_eq!((first.len(), hashes(&rows, 0).len()), (5, 1));
    // Without names, the hash is that of the tokens alone.
    let alone = run(&spec(Encoding::O200kBase, ChatTemplate::None), &table(&[row], Vec::new())).unwrap();
    assert_eq!(hashes(&alone, 0), hashes(&rows, 0));
}

#[test]
fn long_rows_come_in_portions() {
    let long = "x".repeat(BYTES / 2 + 1);
    let sizes: [&[&str]; 6] = [&["a"], &[&long], &[&long], &["b", &long], &["c"], &["d"]];
    let texts = table(&sizes.map(|messages| (messages, None, "")), Vec::new());
    let rows = |batch: &RecordBatch| portions(batch).iter().map(RecordBatch::num_rows).collect::<Vec<_>>();
    assert_eq!(rows(&texts), [2, 1, 3]);
    assert_eq!(rows(&texts.slice(3, 3)), [3]);
    assert!(portions(&texts.slice(0, 0)).is_empty());
}

/// The table made from the sample of conversations, with so many threads.
fn tokenize_sample(threads: usize, spec: &Tokenize) -> RecordBatch {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = testing::cx(dir.path(), threads);
    let sample = crate::repository().join("data/samples/sharegpt.json");
    let settings = Settings::new(sample, "sharegpt.json".to_string(), crate::spec::Format::Sharegpt);
    let (parser, mut chunks) = trace::open(&settings, Box::new(|_| ())).unwrap();
    let mut writer = cx.out.table("texts", requests::texts_schema()).unwrap();
    while let Some(chunk) = chunks.next_chunk().unwrap() {
        let parsed = parser.parse(chunk).unwrap();
        trace::conversation_requests(&parsed.conversations, |rows| {
            writer.write(&rows)?;
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    }
    writer.finish().unwrap();
    cx.inputs.insert("texts".to_string(), cx.out.handle("texts").unwrap());
    spec.tokenize(&cx).unwrap();
    testing::read(&cx, "t")
}

#[test]
fn rows_do_not_depend_on_threads_and_turns_share_their_past() {
    for template in [ChatTemplate::None, ChatTemplate::Chatml, ChatTemplate::Llama3] {
        let spec = Tokenize { token_ids: true, ..spec(Encoding::O200kBase, template.clone()) };
        let rows = tokenize_sample(1, &spec);
        assert_eq!(rows, tokenize_sample(4, &spec));
        let lengths = |name: &str| ints(&rows, name).into_iter().map(Option::unwrap).collect::<Vec<_>>();
        let (input, output) = (lengths("input_tokens"), lengths("output_tokens"));
        assert!((0..rows.num_rows()).all(|i| hashes(&rows, i).len() as i32 == (input[i] + output[i]) / 16));
        let sessions = rows.column_by_name("session_id").unwrap().as_string::<i32>();
        let turns = lengths("turn");
        let mut followed = 0;
        for i in 0..rows.num_rows() {
            let next =
                (i..rows.num_rows()).find(|j| sessions.value(*j) == sessions.value(i) && turns[*j] == turns[i] + 1);
            let Some(next) = next else { continue };
            followed += 1;
            let (prompt, reply) = ids(&rows, i);
            assert!(ids(&rows, next).0.starts_with(&[prompt, reply].concat()), "the next turn of {i}, {template:?}");
            assert!(hashes(&rows, next).starts_with(&hashes(&rows, i)), "the next turn of request {i}, {template:?}");
        }
        assert!(followed > 20, "{followed}");
    }
}
