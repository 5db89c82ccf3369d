//! Workloads as other tools write them, as clients of ours.
//!
//! A reader takes the YAML with its places, checks every key, and says what it does not keep. Distributions are those
//! of the tool; the numbers drawn are not, as every tool has its own generator.

mod blis;
mod blis_file;
mod guidellm;
mod inference_perf;
pub(super) mod servegen;

use pipe_kernel::workload::{Body, Client, Clients, Constant, Lengths, Normal, Synthetic};

use crate::diag::Diagnostic;
use crate::spec::{Preset, SpecFormat, Synthesize, Tree, TreeValue, WorkloadSpec, read_file};

/// A workload file as clients.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub clients: Clients,
    /// What is not kept, and changes nothing of the requests.
    pub warnings: Vec<String>,
    /// What cannot be kept and would change the requests.
    pub refused: Vec<Diagnostic>,
}

/// The workload of another tool, where the stage has one.
///
/// # Errors
/// A file that cannot be read; keys and values that the tool does not know.
pub(super) fn workload(stage: &Synthesize) -> Option<Result<Read, Vec<Diagnostic>>> {
    let settings = &stage.value;
    let read = if let Some(spec) = &settings.spec {
        of_spec(spec, stage)
    } else if let Some(preset) = settings.preset {
        Ok(of_preset(preset, settings.rate_rps))
    } else {
        let servegen = settings.servegen.as_ref()?;
        servegen::read(servegen, settings.rate_rps, settings.duration_s)
    };
    Some(read.map(|mut read| {
        let Read { clients, refused, .. } = &mut read;
        clients.requests = settings.requests.or(clients.requests);
        clients.duration_s = settings.duration_s.or(clients.duration_s);
        for client in &mut clients.clients {
            match &mut client.body {
                Body::Alike(body) => body.block_tokens = settings.block_tokens,
                Body::Windows(windows) => windows.base.block_tokens = settings.block_tokens,
            }
        }
        if refused.is_empty() {
            let at = stage.tree.at.clone();
            let wrong = |p: &pipe_kernel::workload::Problem| {
                // By name, as the user wrote them.
                let path = p.path.strip_prefix("clients.").and_then(|rest| rest.split_once('.'));
                let client = path.and_then(|(i, _)| clients.clients.get(i.parse::<usize>().ok()?));
                let path = match (path, client) {
                    (Some((_, field)), Some(client)) => format!("{field}` of client `{}", client.name),
                    _ => p.path.clone(),
                };
                Diagnostic::new("synthesize::value", format!("`{path}` {}", p.message)).at(at.clone())
            };
            refused.extend(clients.problems().iter().map(wrong).take(20));
        }
        read
    }))
}

fn of_spec(spec: &WorkloadSpec, stage: &Synthesize) -> Result<Read, Vec<Diagnostic>> {
    let WorkloadSpec { path, inline, format } = spec;
    let tree = match (path, inline) {
        (Some(path), None) => read_file::<Tree>(path)?,
        (None, Some(tree)) => tree.clone(),
        _ => {
            let message = "`spec` needs one of `path` (a file) and `inline` (what such a file says)";
            let at = stage.tree.nearest("spec").cloned();
            return Err(vec![Diagnostic::new("synthesize::spec", message).at(at)]);
        }
    };
    let at = tree.at.clone().or_else(|| stage.tree.nearest("spec").cloned());
    let has = |key: &str| tree.get_path(key).is_some();
    let format = match format {
        SpecFormat::Auto if has("rate") && has("data") => SpecFormat::Guidellm,
        SpecFormat::Auto if has("load") && has("data") => SpecFormat::InferencePerf,
        SpecFormat::Auto if ["clients", "cohorts", "servegen_data", "inference_perf"].into_iter().any(has) => {
            SpecFormat::Blis
        }
        other => *other,
    };
    match format {
        SpecFormat::Guidellm => guidellm::read(&tree),
        SpecFormat::Blis => blis::read(&tree),
        SpecFormat::InferencePerf => inference_perf::read(&tree),
        SpecFormat::Auto => {
            let keys = match &tree.value {
                TreeValue::Map(entries) => {
                    entries.iter().map(|(k, _)| format!("`{}`", k.value)).collect::<Vec<_>>().join(", ")
                }
                _ => String::new(),
            };
            let message = format!("this is no workload that is known by its keys: {keys}");
            let help = "GuideLLM has `rate` and `data`, inference-sim (BLIS) `clients` or `cohorts`, inference-perf \
                        `load` and `data`; `format` says which it is meant to be";
            Err(vec![Diagnostic::new("synthesize::spec", message).at(at).help(help)])
        }
    }
}

/// A named workload of inference-sim: its `defaults.yaml`, equal gaps, normal lengths within limits.
fn of_preset(preset: Preset, rate_rps: Option<f64>) -> Read {
    let normal =
        |(mean, std): (f64, f64), (min, max): (u32, u32)| Lengths::Normal(Normal { mean, std, min, max: Some(max) });
    let (name, input, output) = match preset {
        Preset::Chatbot => ("chatbot", normal((256.0, 100.0), (2, 800)), normal((256.0, 100.0), (1, 1024))),
        Preset::Contentgen => ("contentgen", normal((1024.0, 150.0), (10, 2048)), normal((1024.0, 200.0), (10, 2048))),
        Preset::Summarization => {
            ("summarization", normal((4096.0, 500.0), (100, 8192)), normal((512.0, 150.0), (10, 2048)))
        }
        Preset::Multidoc => {
            ("multidoc", normal((10_240.0, 1200.0), (500, 20_480)), normal((1536.0, 300.0), (50, 4096)))
        }
    };
    let mut body = empty();
    (body.input, body.output, body.rate_rps) = (input, output, rate_rps);
    body.arrivals = pipe_kernel::workload::ArrivalProcess::Constant;
    let client = Client::new(name, Body::Alike(Box::new(body)));
    Read { clients: Clients { clients: vec![client], ..Clients::default() }, ..Read::default() }
}

/// A workload that says nothing yet.
fn empty() -> Synthetic {
    let one = || Lengths::Constant(Constant { tokens: 1 });
    Synthetic { requests: None, rate_rps: None, ..Synthetic::new(1, 1.0, one(), one()) }
}

/// Notes what is wrong at the places of a tree.
struct Notes<'a> {
    tree: &'a Tree,
    warnings: Vec<String>,
    refused: Vec<Diagnostic>,
}

impl<'a> Notes<'a> {
    fn of(tree: &'a Tree) -> Self {
        Notes { tree, warnings: Vec::new(), refused: Vec::new() }
    }

    /// What stands at `path` cannot be kept, or is wrong.
    fn refuse(&mut self, path: &str, why: impl std::fmt::Display) {
        let at = self.tree.nearest(path).cloned();
        self.refused.push(Diagnostic::new("synthesize::spec", format!("`{path}` {why}")).at(at));
    }

    /// Refuses unless `ok`.
    fn require(&mut self, ok: bool, path: &str, why: impl FnOnce() -> String) {
        if !ok {
            self.refuse(path, why());
        }
    }

    /// What stands at `path` has no effect; nothing is said where it is not there, or was said before.
    fn ignore(&mut self, path: &str, why: &str) {
        let Some(found) = self.tree.get_path(path) else { return };
        if found.value == TreeValue::Null || found.value == TreeValue::Bool(false) {
            return;
        }
        let key = path.rsplit('.').next().unwrap_or(path);
        let text = format!("`{key}` has no effect: {why}");
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    fn done(self, clients: Clients) -> Read {
        Read { clients, warnings: self.warnings, refused: self.refused }
    }
}
