//! What a user writes for `tokenize`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{FilePath, Ref};

/// Count the tokens of texts, and hash their blocks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// A table with texts.
    pub from: Ref,
    #[serde(default)]
    pub encoding: Encoding,
    /// Tokens per hashed block.
    #[serde(default = "sixteen")]
    pub block_tokens: u32,
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
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HuggingFace {
    /// The `tokenizer.json`.
    pub path: FilePath,
}

fn sixteen() -> u32 {
    16
}
