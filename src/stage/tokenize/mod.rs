//! `tokenize`: texts to token counts and block hashes.
//!
//! [`encoder`] knows the tokenizers, [`chat`] the templates, [`rows`] what becomes of a request and what its hashes
//! are; here are settings, files and tables.
//!
//! A text that is not UTF-8 does not come here: `ingest` rejects its row, with line and column. A text may be empty,
//! and as long as a column of Arrow can hold: 2 GiB in a batch of rows.
//!
//! Rows are read in batches of at most [`ROWS`] rows and about [`BYTES`] bytes of text, a few of which are in memory at
//! a time.

mod cache;
mod chat;
#[cfg(test)]
mod chat_tests;
mod encoder;
#[cfg(test)]
mod encoder_tests;
#[cfg(test)]
mod python_tests;
mod rows;
#[cfg(test)]
mod rows_tests;
mod sentencepiece;
mod setup;
#[cfg(test)]
mod tests;

/// For the bench of tokenizing, which lies outside.
#[doc(hidden)]
pub mod bench {
    pub use super::chat::{Chat, Source};
    pub use super::encoder::{Embedded, Encoder};
    pub use super::rows::{Request, Tokenizer};
}

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, ListArray, ListBuilder, RecordBatch, UInt32Builder};
use arrow::array::{StringArray, UInt64Builder};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Value, json};

use self::rows::{Fault, FaultKind, Request, Tokenizer};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{ChatTemplate, Encoding, FilePath, Text, Tokenize};
use crate::table::{column, requests};
use crate::trace::{self, ordered::ordered};

/// Rows that are tokenized together. Small enough that a few of them keep all threads busy, large enough that most
/// turns of a conversation can share the work.
const ROWS: usize = 1024;

/// Text that is tokenized together, unless one row alone has more.
const BYTES: usize = 8 << 20;

#[async_trait]
impl Kind for Tokenize {
    fn kind(&self) -> &'static str {
        "tokenize"
    }

    fn version(&self) -> u32 {
        4
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(vec![self.from.0.clone()])
    }

    fn files(&self) -> Vec<FilePath> {
        self.all_files()
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        vec![TableShape { name: stage.to_string(), schema: Some(schema(self.token_ids)) }]
    }

    fn check(&self, stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let from = &self.from.0;
        if let Some(schema) = cx.tables.get(&from.value).and_then(|t| t.schema.as_ref())
            && let Err(problem) = has_texts(&from.value, schema)
        {
            found.push(problem.at(from.at.clone()));
        }
        let at = || cx.stages.iter().find(|s| s.name.value == stage).and_then(|s| s.name.at.clone());
        if self.block_tokens == 0 || self.block_tokens > trace::MAX_TOKENS as u32 {
            let message = format!("`block_tokens` is {}: expected 1 to {}", self.block_tokens, trace::MAX_TOKENS);
            found.push(Diagnostic::new("tokenize::block_tokens", message).at(at()).help("vLLM's default is 16"));
        }
        // Files that are not there are told of elsewhere.
        if self.all_files().iter().all(|file| file.path.is_file())
            && let Err(failure) = self.verify()
        {
            found.extend(failure.or_at(at().as_ref()).diagnostics);
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let Tokenize {
            from: _,
            encoding,
            chat_template,
            template_variables,
            template_date,
            special_tokens,
            block_tokens,
            token_ids,
        } = self;
        // The contents of files enter the fingerprint by their hashes.
        let encoding = match encoding {
            Encoding::O200kBase => json!("o200k_base"),
            Encoding::Cl100kBase => json!("cl100k_base"),
            Encoding::HuggingFace(_) => json!("hugging_face"),
            Encoding::Sentencepiece(_) => json!("sentencepiece"),
            Encoding::Bytes(bytes) => json!({ "bytes": bytes.per_token }),
        };
        let template = match chat_template {
            ChatTemplate::None => json!("none"),
            ChatTemplate::Chatml => json!("chatml"),
            ChatTemplate::Llama3 => json!("llama3"),
            ChatTemplate::Beside => json!("beside"),
            ChatTemplate::File(file) => json!({ "file": file.name }),
        };
        let variables: Vec<Value> = template_variables.iter().map(|(k, v)| json!([k.value, v.to_json()])).collect();
        json!({
            "encoding": encoding, "chat_template": template, "template_variables": variables,
            "template_date": template_date.value, "special_tokens": special_tokens, "block_tokens": block_tokens,
            "token_ids": token_ids,
        })
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

/// The table that is made.
fn schema(token_ids: bool) -> SchemaRef {
    if !token_ids {
        return requests::schema();
    }
    let mut fields: Vec<Arc<Field>> = requests::schema().fields().to_vec();
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::UInt32, false)));
    for (name, what) in [("input_token_ids", "prompt"), ("output_token_ids", "reply")] {
        fields.push(Arc::new(column(name, list.clone(), false, "", &format!("Numbers of the tokens of the {what}"))));
    }
    Arc::new(Schema::new(fields))
}

/// Whether a table with this schema has texts.
fn has_texts(table: &str, found: &Schema) -> std::result::Result<(), Diagnostic> {
    // A column that may be null may also be missing.
    let fits = |f: &Field| found.field_with_name(f.name()).map_or(f.is_nullable(), |g| g.data_type() == f.data_type());
    let unfit = |schema: SchemaRef| -> Vec<String> {
        schema.fields().iter().filter(|f| !fits(f)).map(|f| format!("`{}` ({})", f.name(), f.data_type())).collect()
    };
    let lacking = unfit(requests::texts_schema());
    if lacking.is_empty() {
        return Ok(());
    }
    if unfit(requests::schema()).is_empty() {
        let message = format!("table `{table}` has token counts and no texts");
        let help = format!("`{table}` can be simulated as it is: use it in place of this stage");
        return Err(Diagnostic::new("tokenize::no_texts", message).help(help));
    }
    let message = format!("table `{table}` does not hold requests with texts: it lacks {}", lacking.join(", "));
    let help = "expected a table of `ingest` from a ShareGPT file, or from a file with the columns input and output";
    Err(Diagnostic::new("tokenize::no_texts", message).help(help))
}

/// What was taken for granted or could not be shared, in all rows.
#[derive(Default)]
struct Counts {
    /// Prompts that do not say who speaks.
    guessed: AtomicU64,
    /// Replies that the template writes otherwise once they are past.
    rewritten: AtomicU64,
}

impl Tokenize {
    fn tokenize(&self, cx: &RunCx) -> Result<Outcome> {
        let name = &self.from.0.value;
        let missing = || Failure::stage("tokenize::no_table", format!("table `{name}` was not made"));
        let input = cx.inputs.get(name).ok_or_else(missing)?;
        has_texts(name, &input.schema).map_err(|d| Failure { exit: Exit::Stage, diagnostics: vec![d] })?;
        cx.progress.0.total(input.rows, "rows");
        let tokenizer = Arc::new(self.tokenizer()?);
        let counts = Arc::new(Counts::default());
        let mut batches = trace::batches(&input.parts, ROWS)?.flat_map(|batch| match batch {
            Ok(batch) => portions(&batch).into_iter().map(Ok).collect::<Vec<_>>(),
            Err(failure) => vec![Err(failure)],
        });
        let shape = schema(self.token_ids);
        let mut writer = cx.out.table(&cx.stage, shape.clone())?;
        let (cancel, block_tokens, counted) = (cx.cancel.clone(), self.block_tokens, counts.clone());
        let work = move |batch: RecordBatch| {
            cancel.check()?;
            tokenize_rows(&batch, &tokenizer, block_tokens, &shape, &counted)
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
        self.warn(cx, &counts, input.rows);
        Ok(Outcome::default())
    }

    /// Says what was taken for granted.
    fn warn(&self, cx: &RunCx, counts: &Counts, rows: u64) {
        let guessed = counts.guessed.load(Ordering::Relaxed);
        if guessed > 0 && !matches!(self.chat_template, ChatTemplate::None) {
            cx.progress.0.warning(&format!(
                "{guessed} of {rows} prompts do not say who speaks: user and assistant take turns there, the user last"
            ));
        }
        let rewritten = counts.rewritten.load(Ordering::Relaxed);
        if rewritten > 0 {
            cx.progress.0.warning(&format!(
                "{rewritten} of {rows} replies are written otherwise by the template once they are past: the next \
                 turns share no more than the prompts with them"
            ));
        }
    }
}

/// A batch in portions of at most [`BYTES`] bytes of prompts, or one row.
fn portions(batch: &RecordBatch) -> Vec<RecordBatch> {
    let Some(prompts) = batch.column_by_name("input").and_then(|c| c.as_list_opt::<i32>()) else {
        return vec![batch.clone()];
    };
    let Some(texts) = prompts.values().as_string_opt::<i32>() else { return vec![batch.clone()] };
    let byte = |row: usize| texts.value_offsets()[prompts.value_offsets()[row] as usize] as usize;
    let mut made = Vec::new();
    let mut start = 0;
    for row in 1..=batch.num_rows() {
        if row == batch.num_rows() || byte(row + 1) - byte(start) > BYTES {
            made.push(batch.slice(start, row - start));
            start = row;
        }
    }
    made
}

/// The columns of a batch that rows are made of.
struct Texts<'a> {
    prompts: &'a ListArray,
    messages: &'a StringArray,
    roles: Option<(&'a ListArray, &'a StringArray)>,
    replies: &'a StringArray,
    /// How long a reply was whose text is not there.
    told: Option<&'a Int32Array>,
    encoder_tokens: Option<&'a Int32Array>,
    model: Option<&'a StringArray>,
    adapter: Option<&'a StringArray>,
}

impl<'a> Texts<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Texts<'a>> {
        let lost =
            |name: &str| Failure::stage("tokenize::no_texts", format!("the input has no column `{name}` of text"));
        let texts = |list: &'a ListArray| list.values().as_string_opt::<i32>();
        let list = |name: &str| batch.column_by_name(name).and_then(|c| c.as_list_opt::<i32>());
        let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        let count = |name: &str| batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int32Type>());
        let prompts = list("input").ok_or_else(|| lost("input"))?;
        Ok(Texts {
            prompts,
            messages: texts(prompts).ok_or_else(|| lost("input"))?,
            roles: list("roles").and_then(|roles| Some((roles, texts(roles)?))),
            replies: text("output").ok_or_else(|| lost("output"))?,
            told: count("output_tokens"),
            encoder_tokens: count("encoder_tokens"),
            model: text("model"),
            adapter: text("adapter"),
        })
    }

    fn told(&self, row: usize) -> Option<i32> {
        self.told.filter(|t| self.replies.value(row).is_empty() && t.is_valid(row)).map(|t| t.value(row))
    }

    /// Tokens of the prompt that are of no text.
    fn media(&self, row: usize) -> i32 {
        self.encoder_tokens.filter(|t| t.is_valid(row)).map_or(0, |t| t.value(row).max(0))
    }

    fn request(&self, row: usize) -> Request<'a> {
        let items = |list: &ListArray| list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize;
        let name = |names: Option<&'a StringArray>| names.filter(|n| n.is_valid(row)).map(|n| n.value(row));
        let roles = self
            .roles
            .filter(|(list, _)| list.is_valid(row))
            .map(|(list, names)| items(list).map(|i| Some(names.value(i)).filter(|_| names.is_valid(i))).collect());
        Request {
            messages: items(self.prompts).map(|i| self.messages.value(i)).collect(),
            roles: roles.unwrap_or_default(),
            reply: Some(self.replies.value(row)).filter(|_| self.told(row).is_none()),
            model: name(self.model),
            adapter: name(self.adapter),
            prompt_only: self.media(row) > 0,
        }
    }
}

/// The rows of [`requests::texts_schema`] as rows of `shape`, which is one of [`schema`].
fn tokenize_rows(
    batch: &RecordBatch,
    tokenizer: &Tokenizer,
    block_tokens: u32,
    shape: &SchemaRef,
    counts: &Counts,
) -> Result<RecordBatch> {
    let texts = Texts::of(batch)?;
    let of: Vec<Request> = (0..batch.num_rows()).map(|row| texts.request(row)).collect();
    let unknown = |r: &&Request| r.roles.len() < r.messages.len() || r.roles.iter().any(Option::is_none);
    counts.guessed.fetch_add(of.iter().filter(unknown).count() as u64, Ordering::Relaxed);
    let rows = tokenizer.rows(&of).map_err(|fault| failure(batch, &fault))?;
    counts.rewritten.fetch_add(rows.iter().filter(|r| r.rewritten).count() as u64, Ordering::Relaxed);

    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for (row, made) in rows.iter().enumerate() {
        inputs.push(count(made.input.len() + texts.media(row) as usize)?);
        outputs.push(texts.told(row).map_or_else(|| count(made.output.len()), |n| Ok(n.max(1)))?);
    }
    let item = Arc::new(Field::new_list_field(DataType::UInt64, false));
    let mut hashes = ListBuilder::new(UInt64Builder::new()).with_field(item);
    for row in &rows {
        hashes.values().append_slice(&row.hashes);
        hashes.append(true);
    }
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("input_tokens", Arc::new(Int32Array::from(inputs))),
        ("output_tokens", Arc::new(Int32Array::from(outputs))),
        ("block_hashes", Arc::new(hashes.finish())),
        // A count that fits was checked before the stage ran.
        ("block_tokens", Arc::new(Int32Array::from(vec![block_tokens as i32; batch.num_rows()]))),
    ];
    let common = requests::common();
    let handed_on = common.iter().map(|field| field.name().as_str());
    for name in handed_on.chain(["images", "encoder_tokens", "reasoning_tokens"]) {
        columns.extend(batch.column_by_name(name).map(|c| (name, c.clone())));
    }
    let arrow = |e| Failure::stage("tokenize::arrow", format!("cannot put the rows together: {e}"));
    let made = requests::assemble(&requests::schema(), batch.num_rows(), columns).map_err(arrow)?;
    if shape.fields().len() == made.num_columns() {
        return Ok(made);
    }
    let mut columns = made.columns().to_vec();
    columns.push(ids(rows.iter().map(|row| &row.input)));
    columns.push(ids(rows.iter().map(|row| &row.output)));
    RecordBatch::try_new(shape.clone(), columns).map_err(arrow)
}

/// A column of lists of token numbers.
fn ids<'a>(rows: impl Iterator<Item = &'a Vec<u32>>) -> ArrayRef {
    let item = Arc::new(Field::new_list_field(DataType::UInt32, false));
    let mut lists = ListBuilder::new(UInt32Builder::new()).with_field(item);
    for row in rows {
        lists.values().append_slice(row);
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// A prompt or reply has at least one token, whatever its text.
fn count(tokens: usize) -> Result<i32> {
    let too_many = |_| Failure::stage("tokenize::too_long", format!("a text of {tokens} tokens is too long"));
    i32::try_from(tokens.max(1)).map_err(too_many)
}

/// What is wrong with a request of a batch, and what to do.
fn failure(batch: &RecordBatch, fault: &Fault) -> Failure {
    let ids = batch.column_by_name("request_id").and_then(|c| c.as_primitive_opt::<Int64Type>());
    let id = ids.map_or(fault.request as i64, |ids| ids.value(fault.request));
    let (code, help) = match fault.kind {
        FaultKind::Template => (
            "tokenize::template",
            "mend or leave out that conversation, or choose another `chat_template`: `none` puts the messages one \
             after the other",
        ),
        FaultKind::Text => ("tokenize::text", "leave out that request, or choose another `encoding`"),
    };
    let message = format!("request {id}: {}", fault.reason);
    Failure { exit: Exit::Stage, diagnostics: vec![Diagnostic::new(code, message).help(help)] }
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
