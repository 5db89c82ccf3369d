//! Files of vLLM's serving benchmark: prompts that it can send, and its result.
//!
//! Prompts (`--dataset-name custom`): JSON lines `{"prompt", "output_tokens"}`. As the benchmark does unless it is told
//! otherwise, a prompt is what a user says, to which the chat template of the model is applied. `image_files` are
//! counted. Conversations for the benchmark are of the format `sharegpt`.
//!
//! Result (`--save-result --save-detailed`): one JSON object in which lists stand side by side, an item per request:
//! `input_lens`, `output_lens`, `ttfts` and `itls` (s), `errors`, and, in newer versions, `start_times` (s); without
//! them requests have no arrival. The last token comes when all gaps have passed. `model_id` is the model of all
//! requests. A time to the first token of 0 is one that was not measured: that of a request that failed, or was not
//! streamed.

use super::conversation::{Conversation, Message, Speaker};
use super::detect::Key;
use super::document::{Node, Out, Tree, field, what_went_wrong};
use super::fields::{Fields, Role};
use super::measured::Time;
use super::{Fault, Layout, number};
use crate::spec::TimeUnit;

type Faulty<T> = std::result::Result<T, Fault>;

pub fn prompts() -> Fields {
    Fields::new(Layout::Texts, TimeUnit::S)
}

/// Whether this is a result of the benchmark, with requests or without.
pub fn is_result(keys: &[Key]) -> bool {
    let has = |name: &str| keys.iter().any(|k| k.path == name);
    has_requests(keys) || has("total_input_tokens") && has("mean_ttft_ms")
}

/// Whether a result has its requests. Of long lists, the first alone may be in the head of the file.
pub fn has_requests(keys: &[Key]) -> bool {
    keys.iter().any(|k| k.path == "input_lens")
}

pub fn result(keys: &[Key]) -> Fields {
    let fields = Fields::new(Layout::Tokens, TimeUnit::S).whole().measured(TimeUnit::S);
    let fields = match keys.iter().any(|k| k.path == "start_times") {
        true => fields.required(Role::Arrival, "start_times"),
        false => fields.optional(Role::Arrival, "start_times"),
    };
    fields
        .required(Role::InputTokens, "input_lens")
        .required(Role::OutputTokens, "output_lens")
        .optional(Role::Model, "model_id")
        .optional(Role::Status, "errors")
        .optional(Role::Measured(Time::Ttft), "ttfts")
        .optional(Role::Measured(Time::E2e), "itls")
}

/// A prompt.
pub fn take_prompt(out: &mut Out, node: &Node) -> Faulty<()> {
    let missing = |what: &str| Fault::new(node.at, format!("missing {what}"));
    let prompt = node.key("prompt").ok_or_else(|| missing("`prompt`"))?;
    let text = prompt.text().ok_or_else(|| Fault::new(prompt.at, "`prompt` is not text"))?;
    let Some(length) = node.first(&["output_tokens", "expected_output_len", "output_len"]) else {
        return Err(missing("`output_tokens`: nothing says how long the reply is"));
    };
    let wrong = |reason: String| Fault::new(length.at, format!("`output_tokens` {reason}"));
    let written = length.written().ok_or_else(|| wrong("is not a number".to_string()))?;
    let mut made = Conversation::new(None);
    made.output_tokens = Some(number::tokens(written).map_err(wrong)?);
    let images = u32::try_from(node.list("image_files")?.len()).unwrap_or(u32::MAX);
    made.messages.push(Message { from: Speaker::User, text: text.to_string(), images });
    made.waits();
    out.conversations.push(made);
    Ok(())
}

/// A result.
pub fn take_result(out: &mut Out, node: &Node) -> Faulty<()> {
    let inputs = node.list("input_lens")?;
    let side = |name: &str| -> Faulty<Option<&[Node]>> {
        let Some(list) = node.key(name) else { return Ok(None) };
        let items = node.list(name)?;
        if items.len() != inputs.len() {
            let what =
                format!("`{name}` has {} items, and `input_lens` {}: expected as many", items.len(), inputs.len());
            return Err(Fault::new(list.at, what));
        }
        Ok(Some(items))
    };
    let outputs = side("output_lens")?.ok_or_else(|| Fault::new(node.at, "missing `output_lens`"))?;
    let (starts, ttfts, itls, errors) = (side("start_times")?, side("ttfts")?, side("itls")?, side("errors")?);
    for (i, input) in inputs.iter().enumerate() {
        let failed = errors.and_then(|e| e[i].text()).filter(|e| !e.is_empty());
        out.row(
            || format!("request {i}"),
            input,
            |rows| {
                field(rows, Role::InputTokens, Some(input))?;
                field(rows, Role::OutputTokens, Some(&outputs[i]))?;
                field(rows, Role::Model, node.key("model_id"))?;
                if let Some(start) = starts.map(|s| &s[i]) {
                    rows.arrival_ns(start.time_ns("start_times", TimeUnit::S)?, start.at)?;
                }
                if let Some(error) = failed {
                    rows.text(Role::Status, &what_went_wrong(error), input.at)?;
                }
                let Some(first) = ttfts.map(|t| &t[i]).filter(|t| t.value != Tree::Null) else { return Ok(()) };
                let ttft = first.time_ns("ttfts", TimeUnit::S)?;
                if ttft == 0 {
                    return Ok(());
                }
                rows.measured_ns(Time::Ttft, ttft, first.at)?;
                let Some(gaps) = itls.map(|g| &g[i]).filter(|_| failed.is_none()) else { return Ok(()) };
                let Tree::List(all) = &gaps.value else {
                    return Err(Fault::new(gaps.at, "an item of `itls` is not a list"));
                };
                let mut last = ttft;
                for gap in all {
                    last = last.saturating_add(gap.time_ns("itls", TimeUnit::S)?);
                }
                rows.measured_ns(Time::E2e, last, gaps.at)
            },
        );
    }
    Ok(())
}
