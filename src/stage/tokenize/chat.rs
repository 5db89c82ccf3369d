//! Chat templates: messages to the one text that a server makes of them.
//!
//! A template is Jinja, as Hugging Face's `apply_chat_template` renders it: blocks trimmed, undefined names empty,
//! Python's methods of text and its `tojson`, `raise_exception`, `strftime_now` (here of a given day, so that rows stay
//! the same tomorrow), `tools` and `documents` none, `{% generation %}` without effect. Source:
//! <https://huggingface.co/docs/transformers/chat_templating_writing>, and `utils/chat_template_utils.py` of
//! transformers.
//!
//! Left out: tools, documents, and messages of several parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::NaiveDate;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;

/// Where a template comes from, and what its files say besides.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// For messages.
    pub name: String,
    pub template: String,
    /// Names such as `bos_token` that the template may use.
    pub tokens: BTreeMap<String, String>,
    /// Strings that are one token where the template writes them.
    pub specials: Vec<String>,
}

/// What stands before each message of ChatML, and after it.
const CHATML: &str = "{% for message in messages %}\
{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The format of Llama 3, without the day and the tools that 3.1 adds.
const LLAMA3: &str = "{{ '<|begin_of_text|>' }}{% for message in messages %}\
{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' }}\
{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

impl Source {
    /// Of many models: Qwen, Hermes, Yi, and others that follow OpenAI's ChatML.
    pub fn chatml() -> Source {
        Source::of("chatml", CHATML, &["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    }

    /// Of Llama 3.
    pub fn llama3() -> Source {
        let specials =
            ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
        Source::of("llama3", LLAMA3, &specials, "<|eot_id|>")
    }

    fn of(name: &str, template: &str, specials: &[&str], eos: &str) -> Source {
        Source {
            name: name.to_string(),
            template: template.to_string(),
            tokens: BTreeMap::from([("eos_token".to_string(), eos.to_string())]),
            specials: specials.iter().map(|s| s.to_string()).collect(),
        }
    }

    /// Takes from a `tokenizer_config.json`, `special_tokens_map.json` or `chat_template.json` what it has: the special
    /// tokens, and the template called `wanted` (or `default`) unless there is one.
    ///
    /// # Errors
    /// Not JSON, or it has templates and none of that name.
    pub fn config(&mut self, file: &[u8], wanted: Option<&str>) -> Result<(), String> {
        let config: Json = serde_json::from_slice(file).map_err(|e| format!("not JSON: {e}"))?;
        let Some(fields) = config.as_object() else { return Err("not a JSON object".to_string()) };
        let text = |v: &Json| v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_string);
        for (key, value) in fields {
            if let Some(text) = text(value).filter(|_| key.ends_with("_token")) {
                self.specials.push(text.clone());
                self.tokens.insert(key.clone(), text);
            }
        }
        let lists = ["additional_special_tokens", "extra_special_tokens"].map(|key| fields.get(key));
        self.specials.extend(lists.into_iter().flatten().filter_map(Json::as_array).flatten().filter_map(text));
        let decoder = fields.get("added_tokens_decoder").and_then(Json::as_object);
        let special = |t: &&Json| t["special"] == true;
        self.specials.extend(decoder.iter().flat_map(|d| d.values()).filter(special).filter_map(text));
        let mut seen = std::collections::BTreeSet::new();
        self.specials.retain(|s| seen.insert(s.clone()));
        if self.template.is_empty()
            && let Some(found) = fields.get("chat_template").filter(|t| !t.is_null())
        {
            self.template = named(found, wanted)?;
        }
        Ok(())
    }
}

/// The template of this name, where a file has one or a list of them.
fn named(found: &Json, wanted: Option<&str>) -> Result<String, String> {
    let pair = |t: &Json| Some((t["name"].as_str()?.to_string(), t["template"].as_str()?.to_string()));
    let all: Vec<(String, String)> = match found {
        Json::String(template) if wanted.is_none_or(|w| w == "default") => return Ok(template.clone()),
        Json::String(_) => vec![("default".to_string(), String::new())],
        Json::Array(list) => list.iter().filter_map(pair).collect(),
        Json::Object(map) => map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect(),
        _ => Vec::new(),
    };
    let name = wanted.unwrap_or("default");
    let names = all.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
    let template = all.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
    template.ok_or_else(|| format!("it has no template called `{name}`; there are: {names}"))
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub role: &'a str,
    pub content: &'a str,
}

/// A template, ready to use.
pub struct Chat {
    env: Environment<'static>,
    /// What ends a reply, where the files say so.
    pub eos: Option<String>,
}

const TEMPLATE: &str = "chat_template";
/// Marks what a template says itself.
const RAISED: &str = "the template refuses: ";

impl Chat {
    /// `variables` are what a server's `chat_template_kwargs` set; `day` is the day of `strftime_now`.
    ///
    /// # Errors
    /// The template is no Jinja.
    pub fn new(source: &Source, variables: &[(String, Json)], day: NaiveDate) -> Result<Chat, String> {
        let mut env = Environment::new();
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| say(&e))?);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_formatter(write_value);
        env.add_filter("tojson", to_json);
        env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
        });
        env.add_function("strftime_now", move |format: String| {
            let mut text = String::new();
            let time = day.and_time(chrono::NaiveTime::MIN);
            let unknown = |_| Error::new(ErrorKind::InvalidOperation, format!("cannot write a time as {format:?}"));
            write!(text, "{}", time.format(&format)).map(|()| text).map_err(unknown)
        });
        for name in ["tools", "documents"] {
            env.add_global(name, Value::from(()));
        }
        for (name, token) in &source.tokens {
            env.add_global(name.clone(), Value::from(token.as_str()));
        }
        for (name, value) in variables {
            let value: Value = serde_json::from_value(value.clone()).map_err(|e| format!("variable `{name}`: {e}"))?;
            env.add_global(name.clone(), value);
        }
        env.add_template_owned(TEMPLATE, without_generation(&source.template)).map_err(|e| say(&e))?;
        Ok(Chat { env, eos: source.tokens.get("eos_token").cloned() })
    }

    /// The text of a prompt; with `generation`, up to where the reply begins.
    ///
    /// # Errors
    /// What the template says against the messages, or what is wrong with it.
    pub fn render(&self, messages: &[Message], generation: bool) -> Result<String, String> {
        let message = |m: &Message| Value::from_pairs([("role", m.role), ("content", m.content)]);
        let context = Value::from_pairs([
            ("messages", Value::from(messages.iter().map(message).collect::<Vec<_>>())),
            ("add_generation_prompt", Value::from(generation)),
        ]);
        let made = self.env.get_template(TEMPLATE).and_then(|template| template.render(context));
        made.map_err(|e| say(&e))
    }
}

/// What a template says itself, or what is wrong with it and in which line.
fn say(e: &Error) -> String {
    match e.detail().and_then(|d| d.find(RAISED).map(|at| d[at..].to_string())) {
        Some(raised) => raised,
        None => {
            let line = e.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
            let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
            format!("{}{detail}{line}", e.kind())
        }
    }
}

/// `{% generation %}` marks what the model wrote, for training: it writes nothing.
fn without_generation(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|at| open + at) else { break };
        let tag = &rest[open + 2..close];
        let left = if tag.starts_with(['-', '+']) { &tag[..1] } else { "" };
        let right = if tag.len() > 1 && tag.ends_with(['-', '+']) { &tag[tag.len() - 1..] } else { "" };
        let word = match tag[left.len()..tag.len() - right.len()].trim() {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..open]);
        match word {
            Some(word) => out.push_str(&format!("{{%{left} {word} {right}%}}")),
            None => out.push_str(&rest[open..close + 2]),
        }
        rest = &rest[close + 2..];
    }
    out.push_str(rest);
    out
}

/// Values as Python's `str` writes them.
fn write_value(out: &mut Output, _state: &mut State, value: &Value) -> Result<(), Error> {
    let done = match value.as_str() {
        Some(text) => out.write_str(text),
        None => {
            let mut text = String::new();
            write_repr(&mut text, value);
            out.write_str(&text)
        }
    };
    done.map_err(|_| Error::from(ErrorKind::WriteFailure))
}

/// As Python's `repr`.
fn write_repr(out: &mut String, value: &Value) {
    let list = |out: &mut String, ends: [&str; 2]| {
        out.push_str(ends[0]);
        for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            write_repr(out, &item);
            if value.kind() == ValueKind::Map {
                out.push_str(": ");
                write_repr(out, &value.get_item(&item).unwrap_or_default());
            }
        }
        out.push_str(ends[1]);
    };
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let text = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
            let text = if quote == '\'' { text.replace('\'', "\\'") } else { text };
            let _ = write!(out, "{quote}{text}{quote}");
        }
        ValueKind::Seq | ValueKind::Iterable => list(out, ["[", "]"]),
        ValueKind::Map => list(out, ["{", "}"]),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// As Python's `json.dumps` with `ensure_ascii=False`, which is what transformers uses.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let unfit = |e: serde_json::Error| Error::new(ErrorKind::InvalidOperation, format!("cannot be JSON: {e}"));
    let json = serde_json::to_value(value).map_err(unfit)?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
    };
    let mut out = String::new();
    Dump { indent, ascii, sort, item, key }.write(&mut out, &json, 0);
    Ok(out)
}

struct Dump {
    indent: Option<usize>,
    ascii: bool,
    sort: bool,
    /// Between items, and after a key.
    item: String,
    key: String,
}

impl Dump {
    fn write(&self, out: &mut String, value: &Json, depth: usize) {
        match value {
            Json::Array(items) if items.is_empty() => out.push_str("[]"),
            Json::Object(fields) if fields.is_empty() => out.push_str("{}"),
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.begin(out, i, depth + 1);
                    self.write(out, item, depth + 1);
                }
                self.line(out, depth);
                out.push(']');
            }
            Json::Object(fields) => {
                let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
                if self.sort {
                    fields.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (i, (key, value)) in fields.into_iter().enumerate() {
                    self.begin(out, i, depth + 1);
                    self.text(out, key);
                    out.push_str(&self.key);
                    self.write(out, value, depth + 1);
                }
                self.line(out, depth);
                out.push('}');
            }
            Json::String(text) => self.text(out, text),
            other => out.push_str(&other.to_string()),
        }
    }

    fn begin(&self, out: &mut String, i: usize, depth: usize) {
        if i > 0 {
            out.push_str(&self.item);
        }
        self.line(out, depth);
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn text(&self, out: &mut String, text: &str) {
        let quoted = Json::String(text.to_string()).to_string();
        for c in quoted.chars() {
            if self.ascii && !c.is_ascii() {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| {
                    let _ = write!(out, "\\u{unit:04x}");
                });
            } else {
                out.push(c);
            }
        }
    }
}
