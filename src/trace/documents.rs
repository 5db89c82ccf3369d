//! The formats that are JSON documents: what they look like, and who reads them.

use super::chunk::Text;
use super::detect::Key;
use super::document::{Node, Out, parse as parse_documents};
use super::fields::Fields;
use super::{Fault, Parsed, Settings};
use super::{aiperf, detailed_results, genai_perf, guidellm, inference_perf, openai, otlp, vllm_files};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::Format;

/// The format of a document with these keys.
pub fn guess(keys: &[Key]) -> Option<Format> {
    let has = |name: &str| keys.iter().any(|k| k.path == name);
    let all = |names: &[&str]| names.iter().all(|n| has(n));
    let counted = all(&["input_tokens", "output_tokens"]);
    match () {
        () if has("benchmarks") => Some(Format::Guidellm),
        () if has("experiments") => Some(Format::GenaiPerf),
        () if has("resourceSpans") || has("spans") => Some(Format::Otel),
        () if vllm_files::is_result(keys) => Some(Format::VllmResult),
        () if has("prompts") => Some(Format::DetailedResults),
        () if all(&aiperf::NAMES) => Some(Format::Aiperf),
        () if inference_perf::fits(has) && !counted => Some(Format::InferencePerf),
        () if has("custom_id") && (has("body") || has("response")) => Some(Format::OpenaiBatch),
        () if has("messages") && !counted => Some(Format::OpenaiChat),
        () if all(&["prompt", "output_tokens"]) && !counted => Some(Format::VllmPrompts),
        () => None,
    }
}

/// The fields of a file of documents that begins with `head` and whose first document has `keys`; `None` where the
/// format is none of them. `whole`: the file is one document, which ends in another line than it begins.
///
/// # Errors
/// A result without requests.
pub fn fields(settings: &Settings, format: Format, keys: &[Key], head: &[u8], whole: bool) -> Result<Option<Fields>> {
    let fields = match format {
        Format::OpenaiChat => openai::chat(),
        Format::OpenaiBatch if keys.iter().any(|k| k.path == "response") => openai::batch_output(),
        Format::OpenaiBatch => openai::batch_input(),
        Format::VllmPrompts => vllm_files::prompts(),
        Format::VllmResult if vllm_files::is_result(keys) && !vllm_files::has_requests(keys) => {
            let message = format!("{} has figures of all requests, and none of single ones", settings.written);
            let help = "run the benchmark with `--save-result --save-detailed`";
            let diagnostic = Diagnostic::new("trace::no_requests", message).help(help);
            return Err(Failure { exit: Exit::Stage, diagnostics: vec![diagnostic] });
        }
        Format::VllmResult => vllm_files::result(keys),
        Format::Otel => otlp::fields(),
        Format::Guidellm => guidellm::fields(),
        Format::Aiperf => aiperf::fields(),
        Format::GenaiPerf => genai_perf::fields(),
        Format::InferencePerf => inference_perf::fields(),
        Format::DetailedResults => match detailed_results::is_tokenized(head) {
            true => detailed_results::tokenized(settings.block_tokens),
            false => detailed_results::measured(),
        },
        Format::Auto
        | Format::Mooncake
        | Format::Dynamo
        | Format::GuidellmTrace
        | Format::Ragpulse
        | Format::Weka
        | Format::Apex
        | Format::Azure
        | Format::Burstgpt
        | Format::Splitwise
        | Format::Vidur
        | Format::Sharegpt
        | Format::Llmservingsim
        | Format::VllmBench
        | Format::TraceV2
        | Format::Jsonl
        | Format::Csv
        | Format::Parquet => return Ok(None),
    };
    Ok(Some(if whole { fields.whole() } else { fields }))
}

/// The requests of a chunk of a file of documents.
///
/// # Errors
/// The file is one document, and something is wrong with all of it; rows too large for Arrow.
pub fn parse(format: Format, fields: &Fields, text: &Text, written: &str) -> Result<Parsed> {
    let take: fn(&Fields, &mut Out, &Node) -> std::result::Result<(), Fault> = match format {
        Format::OpenaiChat => |_, out, node| openai::take_chat(out, node),
        Format::OpenaiBatch => |_, out, node| openai::take_batch(out, node),
        Format::VllmPrompts => |_, out, node| vllm_files::take_prompt(out, node),
        Format::VllmResult => |_, out, node| vllm_files::take_result(out, node),
        Format::Otel => |_, out, node| otlp::take(out, node),
        Format::Guidellm => |_, out, node| guidellm::take(out, node),
        Format::Aiperf => |_, out, node| aiperf::take(out, node),
        Format::GenaiPerf => |_, out, node| genai_perf::take(out, node),
        Format::InferencePerf => |_, out, node| inference_perf::take(out, node),
        Format::DetailedResults => detailed_results::take,
        Format::Auto
        | Format::Mooncake
        | Format::Dynamo
        | Format::GuidellmTrace
        | Format::Ragpulse
        | Format::Weka
        | Format::Apex
        | Format::Azure
        | Format::Burstgpt
        | Format::Splitwise
        | Format::Vidur
        | Format::Sharegpt
        | Format::Llmservingsim
        | Format::VllmBench
        | Format::TraceV2
        | Format::Jsonl
        | Format::Csv
        | Format::Parquet => unreachable!("not a format of documents"),
    };
    parse_documents(fields, text, written, |out, node| take(fields, out, node))
}
