//! What a user writes for `tokenize`.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{FilePath, Ref, Text, Tree};

/// Count the tokens of texts, and hash their blocks.
///
/// ```yaml
/// tokens:
///   tokenize:
///     from: conversations
///     encoding: { hugging_face: { path: models/llama/tokenizer.json } }
///     chat_template: beside
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// A table with texts.
    pub from: Ref,
    #[serde(default)]
    pub encoding: Encoding,
    /// What a server makes of the messages of a prompt before it counts their tokens.
    #[serde(default)]
    pub chat_template: ChatTemplate,
    /// Values that the template reads, as a server's `chat_template_kwargs`: `{ enable_thinking: false }`.
    #[serde(default)]
    pub template_variables: IndexMap<Text, Tree>,
    /// The day that a template writes with `strftime_now`, as `2025-01-31`. Fixed, so that rows stay the same tomorrow.
    #[serde(default = "new_year")]
    pub template_date: Text,
    /// More strings that are one token each where a template writes them. Those of the template's files, of the
    /// templates that come along, and of the tokenizer are known.
    #[serde(default)]
    pub special_tokens: Vec<String>,
    /// Tokens per hashed block.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
    /// Also write the numbers of the tokens, as columns `input_token_ids` and `output_token_ids`.
    #[serde(default)]
    pub token_ids: bool,
}

/// A tokenizer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// GPT-4o and later.
    #[default]
    O200kBase,
    /// GPT-4 and GPT-3.5.
    Cl100kBase,
    /// A Hugging Face `tokenizer.json`.
    HuggingFace(HuggingFace),
    /// A SentencePiece model, `tokenizer.model`: unigram, or byte pair encoding.
    Sentencepiece(SentencePiece),
    /// No tokenizer: so many bytes of a text are a token. For a quick look.
    Bytes(BytesPerToken),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HuggingFace {
    /// The `tokenizer.json`.
    pub path: FilePath,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentencePiece {
    /// The `.model`.
    pub path: FilePath,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BytesPerToken {
    /// Bytes of a token. English has about 4 with the vocabularies of today.
    pub per_token: u32,
}

impl Default for BytesPerToken {
    fn default() -> BytesPerToken {
        BytesPerToken { per_token: 1 }
    }
}

/// How messages become the text of a prompt.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// Their texts one after the other, with nothing between them.
    #[default]
    None,
    /// ChatML, of Qwen and many others: `<|im_start|>user`, a line feed, the text, `<|im_end|>`.
    Chatml,
    /// Of Llama 3: `<|start_header_id|>user<|end_header_id|>`, an empty line, the text, `<|eot_id|>`.
    Llama3,
    /// The model's own, from the files beside its tokenizer: `chat_template.jinja`, `tokenizer_config.json`,
    /// `special_tokens_map.json`.
    Beside,
    /// A file of its own.
    File(TemplateFile),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateFile {
    /// A Jinja template, or a `tokenizer_config.json` (`.json`) that has one, and its special tokens.
    pub path: FilePath,
    /// Of several templates in a `tokenizer_config.json`: which.
    #[serde(default)]
    pub name: Option<String>,
}

fn sixteen() -> u32 {
    16
}

fn new_year() -> Text {
    Text::new("2025-01-01".to_string(), None)
}
