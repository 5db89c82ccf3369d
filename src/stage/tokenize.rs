//! `tokenize`: texts to token counts and block hashes.
//!
//! Every message is tokenized by itself, as chat templates put special tokens between messages, and the tokens of all
//! messages of a prompt are put one after the other. Special tokens in the text are taken as plain text.
//!
//! Blocks: the tokens of prompt and reply are cut into blocks of `block_tokens`; every full block has a hash,
//! `chain(hash of the block before it, content)`, 0 before the first. `content` is the first 8 bytes, little endian,
//! of the BLAKE3 hash of the token numbers as 4 bytes each, little endian. [`pipe_kernel::workload::chain`] is
//! specified there. Two requests share a prefix of cached blocks exactly as far as their hashes agree.
//!
//! A conversation repeats its past in every turn; messages that come more than once in a batch are tokenized once.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, ListBuilder, RecordBatch, UInt64Builder};
use arrow::datatypes::{DataType, Field, Int32Type};
use async_trait::async_trait;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde_json::{Value, json};

use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Encoding, FilePath, Text, Tokenize};
use crate::table::requests;
use crate::trace::{self, ordered::ordered};

/// Rows that are tokenized together. Small enough that a few of them keep all threads busy, large enough that most
/// turns of a conversation can share the work.
const ROWS: usize = 1024;

#[async_trait]
impl Kind for Tokenize {
    fn kind(&self) -> &'static str {
        "tokenize"
    }

    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(vec![self.from.0.clone()])
    }

    fn files(&self) -> Vec<FilePath> {
        match &self.encoding {
            Encoding::O200kBase | Encoding::Cl100kBase => Vec::new(),
            Encoding::HuggingFace(file) => vec![file.path.clone()],
        }
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![TableShape { name: stage.to_string(), schema: Some(requests::schema()) }]
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let from = &self.from.0;
        if let Some(schema) = cx.tables.get(&from.value).and_then(|t| t.schema.as_ref())
            && let Err(problem) = has_texts(&from.value, schema)
        {
            found.push(problem.at(from.at.clone()));
        }
        if self.block_tokens == 0 || self.block_tokens > trace::MAX_TOKENS as u32 {
            let at = cx.stages.iter().find(|s| s.name.value == stage).and_then(|s| s.name.at.clone());
            let message = format!("`block_tokens` is {}: expected 1 to {}", self.block_tokens, trace::MAX_TOKENS);
            found.push(Diagnostic::new("tokenize::block_tokens", message).at(at).help("vLLM's default is 16"));
        }
        if let Encoding::HuggingFace(file) = &self.encoding
            && file.path.path.is_file()
            && let Err(failure) = Tokens::new(&self.encoding)
        {
            found.extend(failure.or_at(file.path.at.as_ref()).diagnostics);
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Tokenize { from: _, encoding, block_tokens } = self;
        let encoding = match encoding {
            Encoding::O200kBase => "o200k_base",
            Encoding::Cl100kBase => "cl100k_base",
            // The content of the file enters the fingerprint by its hash.
            Encoding::HuggingFace(_) => "hugging_face",
        };
        json!({ "encoding": encoding, "block_tokens": block_tokens })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let job = self.clone();
        blocking(move || job.tokenize(&cx)).await
    }
}

/// Runs a computation on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Failure::interrupted()),
    }
}

/// Whether a table with this schema has texts.
fn has_texts(table: &str, found: &arrow::datatypes::Schema) -> std::result::Result<(), Diagnostic> {
    // A column that may be null may also be missing.
    let fits = |f: &Field| found.field_with_name(f.name()).map_or(f.is_nullable(), |g| g.data_type() == f.data_type());
    let has = |schema: arrow::datatypes::SchemaRef| schema.fields().iter().all(|f| fits(f));
    if has(requests::texts_schema()) {
        return Ok(());
    }
    if has(requests::schema()) {
        let message = format!("table `{table}` has token counts and no texts");
        let help = format!("`{table}` can be simulated as it is: use it in place of this stage");
        return Err(Diagnostic::new("tokenize::no_texts", message).help(help));
    }
    let message = format!("table `{table}` does not hold requests with texts");
    let help = "expected a table of `ingest` from a ShareGPT file, or from a file with the columns input and output";
    Err(Diagnostic::new("tokenize::no_texts", message).help(help))
}

impl Tokenize {
    fn tokenize(&self, cx: &RunCx) -> Result<Outcome> {
        let name = &self.from.0.value;
        let missing = || Failure::stage("tokenize::no_table", format!("table `{name}` was not made"));
        let input = cx.inputs.get(name).ok_or_else(missing)?;
        has_texts(name, &input.schema).map_err(|d| Failure::stage(d.code, d.message))?;
        cx.progress.0.total(input.rows, "rows");
        let tokens = Arc::new(Tokens::new(&self.encoding)?);
        let mut batches = trace::parts(&input.parts)?.flat_map(|batch| {
            let parts = |b: RecordBatch| {
                (0..b.num_rows()).step_by(ROWS).map(move |at| b.slice(at, ROWS.min(b.num_rows() - at)))
            };
            let (good, bad) = match batch {
                Ok(batch) => (Some(batch), None),
                Err(failure) => (None, Some(Err(failure))),
            };
            good.into_iter().flat_map(parts).map(Ok).chain(bad)
        });
        let mut writer = cx.out.table(&cx.stage, requests::schema())?;
        let (cancel, block_tokens) = (cx.cancel.clone(), self.block_tokens);
        let work = move |batch: RecordBatch| {
            cancel.check()?;
            tokenize_rows(&batch, &tokens, block_tokens)
        };
        ordered(
            &cx.pool,
            || batches.next().transpose(),
            work,
            |batch| {
                writer.write(&batch)?;
                cx.progress.0.advance(batch.num_rows() as u64);
                Ok(ControlFlow::Continue(()))
            },
        )?;
        writer.finish()?;
        Ok(Outcome::default())
    }
}

/// The rows of [`requests::texts_schema`] as rows of [`requests::schema`].
fn tokenize_rows(batch: &RecordBatch, tokens: &Tokens, block_tokens: u32) -> Result<RecordBatch> {
    let column = |name: &str| {
        let missing = || Failure::stage("tokenize::no_texts", format!("the input has lost its column `{name}`"));
        batch.column_by_name(name).ok_or_else(missing)
    };
    let (prompts, replies) = (column("input")?.as_list::<i32>(), column("output")?.as_string::<i32>());
    // Where the file does not have the reply, it may say how long it was.
    let told = batch.column_by_name("output_tokens").and_then(|c| c.as_primitive_opt::<Int32Type>());
    let told = |row: usize| told.filter(|t| replies.value(row).is_empty() && t.is_valid(row)).map(|t| t.value(row));
    let messages = prompts.values().as_string::<i32>();
    let offsets = prompts.value_offsets();
    let used = &offsets[0..=batch.num_rows()];
    let all = (used[0]..used[batch.num_rows()]).map(|i| messages.value(i as usize));
    let known = encode_all(tokens, all.chain(replies.iter().flatten()))?;

    let item = Arc::new(Field::new_list_field(DataType::UInt64, false));
    let mut hashes = ListBuilder::new(UInt64Builder::new()).with_field(item);
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let mut ids: Vec<u32> = Vec::new();
    for row in 0..batch.num_rows() {
        ids.clear();
        for message in offsets[row]..offsets[row + 1] {
            ids.extend(&known[messages.value(message as usize)]);
        }
        let input = ids.len();
        ids.extend(&known[replies.value(row)]);
        inputs.push(count(input)?);
        outputs.push(told(row).map_or_else(|| count(ids.len() - input), |n| Ok(n.max(1)))?);
        push_hashes(&ids, block_tokens, hashes.values());
        hashes.append(true);
    }
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("input_tokens", Arc::new(Int32Array::from(inputs))),
        ("output_tokens", Arc::new(Int32Array::from(outputs))),
        ("block_hashes", Arc::new(hashes.finish())),
        // A count that fits was checked before the stage ran.
        ("block_tokens", Arc::new(Int32Array::from(vec![block_tokens as i32; batch.num_rows()]))),
    ];
    columns.extend(batch.column_by_name("images").map(|c| ("images", c.clone())));
    let schema = requests::schema();
    let common = requests::common();
    for field in &common {
        let known = if field.is_nullable() { batch.column_by_name(field.name()) } else { Some(column(field.name())?) };
        columns.extend(known.map(|c| (field.name().as_str(), c.clone())));
    }
    requests::assemble(&schema, batch.num_rows(), columns)
        .map_err(|e| Failure::stage("tokenize::arrow", format!("cannot put the rows together: {e}")))
}

/// A prompt or reply has at least one token, whatever its text.
fn count(tokens: usize) -> Result<i32> {
    let too_many = |_| Failure::stage("tokenize::too_long", format!("a text of {tokens} tokens is too long"));
    i32::try_from(tokens.max(1)).map_err(too_many)
}

/// The tokens of every text, each made once. A map is looked up, never walked: its order reaches no output.
fn encode_all<'a>(tokens: &Tokens, texts: impl Iterator<Item = &'a str>) -> Result<HashMap<&'a str, Vec<u32>>> {
    let mut known: HashMap<&str, Vec<u32>> = HashMap::new();
    let mut distinct = Vec::new();
    for text in texts {
        known.entry(text).or_insert_with(|| {
            distinct.push(text);
            Vec::new()
        });
    }
    let made: Result<Vec<_>> = distinct.into_par_iter().map(|text| Ok((text, tokens.encode(text)?))).collect();
    known.extend(made?);
    Ok(known)
}

/// Appends the chained hashes of the full blocks of `ids`.
fn push_hashes(ids: &[u32], block_tokens: u32, hashes: &mut UInt64Builder) {
    let mut hash = 0;
    let mut bytes = Vec::with_capacity(4 * block_tokens as usize);
    for block in ids.chunks_exact(block_tokens as usize) {
        bytes.clear();
        block.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        let content = blake3::hash(&bytes);
        let first = content.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
        hash = pipe_kernel::workload::chain(hash, u64::from_le_bytes(first));
        hashes.append_value(hash);
    }
}

/// A tokenizer, ready to use.
enum Tokens {
    Tiktoken(&'static tiktoken_rs::CoreBPE),
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl Tokens {
    fn new(encoding: &Encoding) -> Result<Self> {
        Ok(match encoding {
            Encoding::O200kBase => Tokens::Tiktoken(tiktoken_rs::o200k_base_singleton()),
            Encoding::Cl100kBase => Tokens::Tiktoken(tiktoken_rs::cl100k_base_singleton()),
            Encoding::HuggingFace(file) => {
                let unreadable = |e: &dyn std::fmt::Display| {
                    let message = format!("cannot read {} as a Hugging Face tokenizer.json: {e}", file.path.written);
                    Failure::stage("tokenize::tokenizer", message)
                };
                let bytes = trace::read_bytes(&file.path.path).map_err(|e| unreadable(&e))?;
                let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| unreadable(&e))?;
                // A file may ask for texts to be cut or filled up to a length, for training. Counts are of whole texts.
                tokenizer.with_padding(None);
                tokenizer.with_truncation(None).map_err(|e| unreadable(&e))?;
                Tokens::HuggingFace(Box::new(tokenizer))
            }
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let failed = |e: &dyn std::fmt::Display| {
            let start: String = text.chars().take(60).collect();
            Failure::stage("tokenize::text", format!("cannot tokenize the text that begins with {start:?}: {e}"))
        };
        match self {
            // With no special tokens allowed it does the same as `encode_ordinary`, which panics where this fails.
            Tokens::Tiktoken(bpe) => bpe.encode(text, &Default::default()).map(|(ids, _)| ids).map_err(|e| failed(&e)),
            Tokens::HuggingFace(tokenizer) => {
                tokenizer.encode_fast(text, false).map(|e| e.get_ids().to_vec()).map_err(|e| failed(&e))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! What a stage needs to run in a test.

    use std::path::Path;

    use super::*;
    use crate::stage::{Cancel, Progress, ProgressSink};
    use crate::store::{Memo, Staging};

    struct Silent;

    impl ProgressSink for Silent {
        fn total(&self, _units: u64, _what: &'static str) {}
        fn advance(&self, _units: u64) {}
    }

    pub fn cx(dir: &Path, threads: usize) -> RunCx {
        RunCx {
            stage: "t".to_string(),
            pipeline: "p".to_string(),
            recipe: Value::Null,
            seed: 1,
            project: dir.to_path_buf(),
            inputs: Default::default(),
            stages: Arc::default(),
            out: Staging::create(dir.join(format!("staging-{threads}"))).unwrap(),
            memo: Memo::open(dir.join("memo")),
            progress: Progress(Arc::new(Silent)),
            cancel: Cancel::default(),
            pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()),
        }
    }

    pub fn read(cx: &RunCx, table: &str) -> RecordBatch {
        let handle = cx.out.handle(table).unwrap();
        let batches: Vec<RecordBatch> = trace::parts(&handle.parts).unwrap().map(Result::unwrap).collect();
        arrow::compute::concat_batches(&handle.schema, &batches).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::datatypes::UInt64Type;

    use super::*;
    use crate::spec::{HuggingFace, Ref};

    fn hugging_face(path: &Path) -> Encoding {
        let path = FilePath { written: "tokenizer.json".to_string(), path: path.to_path_buf(), at: None };
        Encoding::HuggingFace(HuggingFace { path })
    }

    #[test]
    fn known_texts_have_known_tokens() {
        let o200k = Tokens::new(&Encoding::O200kBase).unwrap();
        let cl100k = Tokens::new(&Encoding::Cl100kBase).unwrap();
        assert_eq!(o200k.encode("hello world").unwrap(), [24912, 2375]);
        assert_eq!(cl100k.encode("hello world").unwrap(), [15339, 1917]);
        assert!(o200k.encode("").unwrap().is_empty());
        // A special token in a text is text.
        assert!(o200k.encode("<|endoftext|>").unwrap().len() > 1);
    }

    #[test]
    fn tokenizer_files_are_read() {
        let sample = crate::repository().join("data/samples/tokenizer.json");
        let tokens = Tokens::new(&hugging_face(&sample)).unwrap();
        let ids = tokens.encode("the garden xyzzy the").unwrap();
        assert_eq!((ids.len(), ids[0], ids[2]), (4, ids[3], 0));
        let dir = tempfile::tempdir().unwrap();
        let wrong = dir.path().join("tokenizer.json");
        std::fs::write(&wrong, "{}").unwrap();
        let failure = Tokens::new(&hugging_face(&wrong)).err().unwrap();
        assert!(failure.to_string().contains("cannot read tokenizer.json"), "{failure}");
    }

    #[test]
    fn a_prefix_of_tokens_is_a_prefix_of_hashes() {
        let hashes = |ids: &[u32]| {
            let mut builder = UInt64Builder::new();
            push_hashes(ids, 4, &mut builder);
            builder.finish().values().to_vec()
        };
        let long: Vec<u32> = (0..18).collect();
        assert_eq!(hashes(&long).len(), 4);
        assert_eq!(hashes(&long[..11]), hashes(&long)[..2]);
        assert!(hashes(&long[..3]).is_empty());
        let mut other = long.clone();
        other[5] = 99;
        let pairs: Vec<bool> = hashes(&long).iter().zip(hashes(&other)).map(|(a, b)| *a == b).collect();
        assert_eq!(pairs, [true, false, false, false]);
    }

    #[test]
    fn a_reply_without_text_is_as_long_as_the_file_says() {
        let mut input = ListBuilder::new(arrow::array::StringBuilder::new())
            .with_field(Arc::new(Field::new_list_field(DataType::Utf8, false)));
        for _ in 0..3 {
            input.append_value([Some("hello world")]);
        }
        let columns: [(&str, ArrayRef); 5] = [
            ("request_id", Arc::new(arrow::array::Int64Array::from(vec![0, 1, 2]))),
            ("input", Arc::new(input.finish())),
            ("output", Arc::new(arrow::array::StringArray::from(vec!["", "hello world", ""]))),
            ("output_tokens", Arc::new(Int32Array::from(vec![Some(7), Some(9), None]))),
            ("images", Arc::new(Int32Array::from(vec![Some(2), None, None]))),
        ];
        let texts = requests::assemble(&requests::texts_schema(), 3, columns).unwrap();
        let rows = tokenize_rows(&texts, &Tokens::new(&Encoding::O200kBase).unwrap(), 2).unwrap();
        let ints =
            |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().iter().collect::<Vec<_>>();
        assert_eq!(ints("output_tokens"), [Some(7), Some(2), Some(1)]);
        assert_eq!(ints("images"), [Some(2), None, None]);
        let hashes = rows.column_by_name("block_hashes").unwrap().as_list::<i32>();
        assert_eq!((0..3).map(|i| hashes.value(i).len()).collect::<Vec<_>>(), [1, 2, 1]);
    }

    /// The table made from the sample of conversations with so many threads.
    fn tokenize_sample(threads: usize) -> RecordBatch {
        let dir = tempfile::tempdir().unwrap();
        let mut cx = testing::cx(dir.path(), threads);
        let sample = crate::repository().join("data/samples/sharegpt.json");
        let settings = trace::Settings {
            path: sample,
            written: "sharegpt.json".to_string(),
            format: crate::spec::Format::Sharegpt,
            columns: Default::default(),
            time_unit: Default::default(),
            block_tokens: None,
            measured: None,
        };
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
        let from = Ref(Text::new("texts".to_string(), None));
        let spec = Tokenize { from, encoding: Encoding::O200kBase, block_tokens: 16 };
        spec.tokenize(&cx).unwrap();
        testing::read(&cx, "t")
    }

    #[test]
    fn rows_do_not_depend_on_threads_and_turns_share_their_past() {
        let rows = tokenize_sample(1);
        assert_eq!(rows, tokenize_sample(4));
        let lengths = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int32Type>().values().to_vec();
        let (input, output) = (lengths("input_tokens"), lengths("output_tokens"));
        let hashes = rows.column_by_name("block_hashes").unwrap().as_list::<i32>();
        let hashes = |i: usize| hashes.value(i).as_primitive::<UInt64Type>().values().to_vec();
        assert!((0..rows.num_rows()).all(|i| hashes(i).len() as i32 == (input[i] + output[i]) / 16));
        let sessions = rows.column_by_name("session_id").unwrap().as_string::<i32>();
        let turns = lengths("turn");
        for i in 0..rows.num_rows() {
            let next =
                (i..rows.num_rows()).find(|j| sessions.value(*j) == sessions.value(i) && turns[*j] == turns[i] + 1);
            let Some(next) = next else { continue };
            assert!(hashes(next).starts_with(&hashes(i)), "the next turn of request {i}");
        }
    }
}
