//! From the settings of a stage to its tokenizer: which files there are, and what is in them.

use std::path::Path;

use chrono::NaiveDate;
use serde_json::Value;

use super::chat::{Chat, Source};
use super::encoder::{Embedded, Encoder};
use super::rows::Tokenizer;
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{ChatTemplate, Encoding, FilePath, TemplateFile, Tokenize};
use crate::trace;

/// Files of a model that have its special tokens, and perhaps a template.
const CONFIGS: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"];

/// Most bytes of a token, with which a count still says something.
const MOST_BYTES: u32 = 1024;

impl Tokenize {
    /// Every file that is read.
    pub(super) fn all_files(&self) -> Vec<FilePath> {
        let mut files: Vec<FilePath> = self.tokenizer_file().into_iter().cloned().collect();
        files.extend(self.template_file());
        files.extend(self.configs());
        files
    }

    fn tokenizer_file(&self) -> Option<&FilePath> {
        match &self.encoding {
            Encoding::O200kBase | Encoding::Cl100kBase | Encoding::Bytes(_) => None,
            Encoding::HuggingFace(file) => Some(&file.path),
            Encoding::Sentencepiece(file) => Some(&file.path),
        }
    }

    /// The Jinja template, where it has a file of its own.
    fn template_file(&self) -> Option<FilePath> {
        match &self.chat_template {
            ChatTemplate::None | ChatTemplate::Chatml | ChatTemplate::Llama3 => None,
            ChatTemplate::Beside => {
                self.tokenizer_file().map(|file| beside(file, "chat_template.jinja")).filter(|f| f.path.is_file())
            }
            ChatTemplate::File(file) => Some(file.path.clone()).filter(|_| !is_json(file)),
        }
    }

    /// Files of JSON that have special tokens: those beside the template, then those beside the tokenizer.
    fn configs(&self) -> Vec<FilePath> {
        let mut files = Vec::new();
        let mut near = Vec::new();
        match &self.chat_template {
            ChatTemplate::None | ChatTemplate::Chatml | ChatTemplate::Llama3 => return files,
            ChatTemplate::Beside => {}
            ChatTemplate::File(file) => {
                files.extend(Some(file.path.clone()).filter(|_| is_json(file)));
                near.push(&file.path);
            }
        }
        near.extend(self.tokenizer_file());
        for file in near.into_iter().flat_map(|file| CONFIGS.map(|name| beside(file, name))) {
            if file.path.is_file() && !files.iter().any(|f| f.path == file.path) {
                files.push(file);
            }
        }
        files
    }

    /// Reads the files and builds what they describe.
    ///
    /// # Errors
    /// Every file that is not what it should be, and settings that do not fit each other.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let source = self.source()?;
        let specials = self.specials(source.as_ref());
        let encoder = self.encoder(source.is_some(), &specials)?;
        let chat = match &source {
            Some(source) => Some(self.chat(source)?),
            None => None,
        };
        Ok(Tokenizer::new(encoder, chat, &specials, self.block_tokens))
    }

    /// Whether [`Self::tokenizer`] can be built. An embedded vocabulary is not unpacked for that: it takes longer than
    /// all else of a run that finds its tables in the store.
    ///
    /// # Errors
    /// Those of [`Self::tokenizer`].
    pub(super) fn verify(&self) -> Result<()> {
        if !matches!(self.encoding, Encoding::O200kBase | Encoding::Cl100kBase) {
            return self.tokenizer().map(drop);
        }
        let source = self.source()?;
        none_empty(&self.specials(source.as_ref()))?;
        source.map_or(Ok(()), |source| self.chat(&source).map(drop))
    }

    /// Those of the template's files, then those of the stage.
    fn specials(&self, source: Option<&Source>) -> Vec<String> {
        let mut specials = source.map(|s| s.specials.clone()).unwrap_or_default();
        specials.extend(self.special_tokens.iter().cloned());
        specials
    }

    fn encoder(&self, templated: bool, specials: &[String]) -> Result<Encoder> {
        none_empty(specials)?;
        let found = (templated || !specials.is_empty()).then_some(specials);
        match &self.encoding {
            Encoding::O200kBase => Ok(Encoder::embedded(Embedded::O200kBase, found)),
            Encoding::Cl100kBase => Ok(Encoder::embedded(Embedded::Cl100kBase, found)),
            Encoding::Bytes(bytes) if bytes.per_token == 0 || bytes.per_token > MOST_BYTES => {
                let message = format!("`per_token` is {}: expected 1 to {MOST_BYTES} bytes", bytes.per_token);
                Err(Diagnostic::new("tokenize::per_token", message).help("English has about 4 per token").into())
            }
            Encoding::Bytes(bytes) => Ok(Encoder::bytes(bytes.per_token as usize, found)),
            Encoding::HuggingFace(file) => {
                // A template that comes along writes tokens that a model may not have; a server would not add them.
                let own = match &self.chat_template {
                    ChatTemplate::None | ChatTemplate::Chatml | ChatTemplate::Llama3 => &self.special_tokens[..],
                    ChatTemplate::Beside | ChatTemplate::File(_) => specials,
                };
                Encoder::hugging_face(&read(&file.path)?, own).map_err(|e| {
                    let help = "expected the `tokenizer.json` of a model; a SentencePiece model is read with \
                                `encoding: { sentencepiece: { path: ... } }`";
                    unreadable(&file.path, "tokenize::tokenizer", " as a Hugging Face tokenizer.json", &e, help)
                })
            }
            Encoding::Sentencepiece(file) => Encoder::sentencepiece(&read(&file.path)?, found).map_err(|e| {
                let help = "expected a unigram or bpe model as SentencePiece writes it; if the model has a \
                            `tokenizer.json`, read that with `encoding: { hugging_face: { path: ... } }`";
                unreadable(&file.path, "tokenize::tokenizer", " as a SentencePiece model", &e, help)
            }),
        }
    }

    /// The template and what its files say.
    fn source(&self) -> Result<Option<Source>> {
        let (mut source, name) = match &self.chat_template {
            ChatTemplate::None => return Ok(None),
            ChatTemplate::Chatml => return Ok(Some(Source::chatml())),
            ChatTemplate::Llama3 => return Ok(Some(Source::llama3())),
            ChatTemplate::Beside => (Source::default(), None),
            ChatTemplate::File(file) => (Source::default(), file.name.as_deref()),
        };
        let main = self.template_file();
        if let Some(file) = &main {
            source.name = file.written.clone();
            let text = String::from_utf8(read(file)?)
                .map_err(|e| unreadable(file, "tokenize::template", " as a template", &e, "expected Jinja in UTF-8"))?;
            source.template = text;
        }
        for file in self.configs() {
            let had = !source.template.is_empty();
            source.config(&read(&file)?, name).map_err(|e| {
                let help = "expected a `tokenizer_config.json` of a model, with a `chat_template`";
                unreadable(&file, "tokenize::template", " for its chat template", &e, help)
            })?;
            if !had && !source.template.is_empty() {
                source.name = file.written.clone();
            }
        }
        if source.template.is_empty() {
            return Err(self.no_template());
        }
        Ok(Some(source))
    }

    fn no_template(&self) -> Failure {
        let (message, at) = match (&self.chat_template, self.tokenizer_file()) {
            (ChatTemplate::File(file), _) => {
                (format!("{} has no chat template", file.path.written), file.path.at.clone())
            }
            (_, Some(file)) => (format!("there is no chat template beside {}", file.written), file.at.clone()),
            (_, None) => {
                ("`chat_template: beside` is of a tokenizer with a file, and this one has none".to_string(), None)
            }
        };
        let help = "name one: `chat_template: { file: { path: chat_template.jinja } }`, or a `tokenizer_config.json`; \
                    `chatml` and `llama3` need no file";
        Diagnostic::new("tokenize::no_template", message).at(at).help(help).into()
    }

    fn chat(&self, source: &Source) -> Result<Chat> {
        let day = NaiveDate::parse_from_str(&self.template_date.value, "%Y-%m-%d").map_err(|_| {
            let message = format!("`template_date` is `{}`: expected a day as 2025-01-31", self.template_date.value);
            Failure::from(Diagnostic::new("tokenize::template_date", message).at(self.template_date.at.clone()))
        })?;
        let variables: Vec<(String, Value)> =
            self.template_variables.iter().map(|(name, value)| (name.value.clone(), value.to_json())).collect();
        Chat::new(source, &variables, day).map_err(|e| {
            let message = format!("the chat template of {} cannot be read: {e}", source.name);
            let at = match &self.chat_template {
                ChatTemplate::File(file) => file.path.at.clone(),
                ChatTemplate::None | ChatTemplate::Chatml | ChatTemplate::Llama3 | ChatTemplate::Beside => None,
            };
            Diagnostic::new("tokenize::template", message).at(at).help("templates are Jinja, as of transformers").into()
        })
    }
}

fn none_empty(specials: &[String]) -> Result<()> {
    if specials.iter().any(String::is_empty) {
        let message = "a special token is empty: it would stand everywhere";
        return Err(Diagnostic::new("tokenize::special_tokens", message).into());
    }
    Ok(())
}

/// A file in the folder of another.
fn beside(file: &FilePath, name: &str) -> FilePath {
    let written = Path::new(&file.written).with_file_name(name).display().to_string();
    FilePath { written, path: file.path.with_file_name(name), at: file.at.clone() }
}

fn is_json(file: &TemplateFile) -> bool {
    file.path.path.extension().is_some_and(|extension| extension == "json")
}

fn read(file: &FilePath) -> Result<Vec<u8>> {
    trace::read_bytes(&file.path)
        .map_err(|e| unreadable(file, "tokenize::file", "", &e, "the file must be there and readable"))
}

fn unreadable(file: &FilePath, code: &'static str, what: &str, e: &dyn std::fmt::Display, help: &str) -> Failure {
    let message = format!("cannot read {}{what}: {e}", file.written);
    Diagnostic::new(code, message).at(file.at.clone()).help(help).into()
}
