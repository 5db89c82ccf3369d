//! The optimizer configuration of inference-sim, as it is: from the file to a study.
//!
//! Facts of its format are those of `optimizer.py`, `optimizer_*_config.yaml`, `request_rate_sweep.py`,
//! `arrival_times_generation.py` and `pytools/experiments/utils.py` (inference-sim, August 2025): configurations are the
//! product of six lists; a log belongs to one whose name it begins with, letters of either case; the first two turns of
//! a tokenized conversation are prompt and reply; gaps are numpy's gamma of shape 1 in whole microseconds, the first
//! request arrives at once; coefficients are in seconds, overheads in microseconds.
//!
//! What that optimizer leaves out is varied here too: all that `pbounds` names, the intercept included. `vllm_overhead`
//! stands before the queue and not behind the last token, which for a client is the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};

use pipe_kernel::request::Requests;
use pipe_kernel::rng;
use pipe_kernel::units::SimTime;
use pipe_kernel::workload::chain;

use super::features::Times;
use super::study::{Case, Searched, Study, set_all, space};
use crate::catalog;
use crate::diag::{Diagnostic, Exit, Failure, Result, nearest};
use crate::spec::{CalibrateConfig, CaseRole, ErrorFunction, FilePath, Text, Tree, TreeValue, read_file};
use crate::stage::simulate::input::Workload;
use crate::stage::simulate::profiles::Profiles;
use crate::store::Hash;
use crate::trace::vllm;

/// Tokens per hashed block.
const BLOCK: usize = 16;
/// Names that are shown of those that were looked for.
const SHOWN: usize = 5;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    tokens_dir: FilePath,
    #[serde(default)]
    sim_dir: Option<Text>,
    vllm_dir: FilePath,
    kv_blocks: u64,
    #[serde(default)]
    error_function: ErrorFunction,
    #[serde(default)]
    pbounds: IndexMap<Text, (f64, f64)>,
    #[serde(default)]
    scaling: IndexMap<Text, f64>,
    train_config: Sweep,
    #[serde(default)]
    test_config: Option<Sweep>,
    #[serde(default = "forty_two")]
    seed: u64,
    #[serde(default)]
    n_trials: Option<u64>,
}

fn forty_two() -> u64 {
    42
}

/// A product of configurations. Numbers are kept as written: they are parts of names of files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    num_prompts: Vec<u32>,
    request_rate: Vec<Tree>,
    temperature: Vec<Tree>,
    max_num_batched_tokens: Vec<u32>,
    long_prefill_token_threshold: Vec<u32>,
    datasets: Vec<Dataset>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dataset {
    name: Text,
    /// Of the texts; what is read is the tokens.
    #[serde(default)]
    path: Option<Text>,
}

/// One configuration of a product.
struct Configuration<'a> {
    /// How the names of its logs begin.
    prefix: String,
    prompts: u32,
    rate: f64,
    batched: u32,
    threshold: u32,
    dataset: &'a Dataset,
}

/// Requests, and per case which of them it has and how it was measured.
pub(super) type Loaded = (Vec<Workload>, Vec<(usize, Times)>);

/// A configuration and one of its logs.
struct Pair<'a> {
    of: Configuration<'a>,
    log: PathBuf,
    name: String,
}

/// Names of the file -> where they belong, and how many units of the setting one of theirs is.
const NAMES: [(&str, &str, f64); 18] = [
    ("sum_decode_tokens", "latency.regression.sum_decode_tokens_us", 1e6),
    ("sum_prefill_tokens", "latency.regression.sum_prefill_tokens_us", 1e6),
    ("max_prefill_tokens", "latency.regression.max_prefill_tokens_us", 1e6),
    ("num_prefills", "latency.regression.num_prefills_us", 1e6),
    ("sum_decode_tokenss2", "latency.regression.sum_decode_tokens_squared_us", 1e6),
    ("sum_decode_tokensmsumprefill_tokens", "latency.regression.sum_decode_tokens_x_sum_prefill_tokens_us", 1e6),
    ("sum_decode_tokensmmaxprefill_tokens", "latency.regression.sum_decode_tokens_x_max_prefill_tokens_us", 1e6),
    ("sum_decode_tokensmnumprefills", "latency.regression.sum_decode_tokens_x_num_prefills_us", 1e6),
    ("sum_prefill_tokenss2", "latency.regression.sum_prefill_tokens_squared_us", 1e6),
    ("sum_prefill_tokensmmaxprefill_tokens", "latency.regression.sum_prefill_tokens_x_max_prefill_tokens_us", 1e6),
    ("sum_prefill_tokensmnumprefills", "latency.regression.sum_prefill_tokens_x_num_prefills_us", 1e6),
    ("max_prefill_tokenss2", "latency.regression.max_prefill_tokens_squared_us", 1e6),
    ("max_prefill_tokensmnumprefills", "latency.regression.max_prefill_tokens_x_num_prefills_us", 1e6),
    ("num_prefillss2", "latency.regression.num_prefills_squared_us", 1e6),
    ("intercept", "latency.regression.intercept_us", 1e6),
    ("step_constant", "overheads.step_us", 1.0),
    ("schedule_time", "overheads.step_us", 1.0),
    ("vllm_overhead", "overheads.tokenize_us", 1.0),
];
/// Parameters and their scaling where the file names none.
const DEFAULTS: [(&str, f64); 10] = [
    ("sum_decode_tokens", 1e-4),
    ("sum_prefill_tokens", 1e-4),
    ("num_prefills", 1e-4),
    ("sum_decode_tokenss2", 1e-4),
    ("sum_decode_tokensmsumprefill_tokens", 1e-4),
    ("sum_decode_tokensmmaxprefill_tokens", 1e-4),
    ("sum_decode_tokensmnumprefills", 1e-4),
    ("intercept", 0.01),
    ("step_constant", 2000.0),
    ("vllm_overhead", 6000.0),
];

/// Where a name belongs, and in which unit.
fn place(name: &Text) -> std::result::Result<(String, f64), Diagnostic> {
    let known = NAMES.iter().find(|(n, ..)| *n == name.value);
    known.map(|(_, path, unit)| (format!("deployment.{path}"), *unit)).ok_or_else(|| {
        let d = Diagnostic::new("calibrate::parameter", format!("no parameter `{}`", name.value)).at(name.at.clone());
        let all = || NAMES.iter().map(|(n, ..)| *n);
        match nearest(&name.value, all()) {
            Some(near) => d.help(format!("did you mean `{near}`?")),
            None => d.help(format!("known are {}", all().collect::<Vec<_>>().join(", "))),
        }
    })
}

impl Config {
    /// # Errors
    /// Every problem of the file's text.
    pub fn read(spec: &CalibrateConfig) -> std::result::Result<Config, Vec<Diagnostic>> {
        read_file(&spec.path)
    }

    /// The parameters that are searched, and what is wrong with the names.
    pub fn parameters(&self, spec: &CalibrateConfig) -> (Vec<Searched>, Vec<Diagnostic>) {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        let defaults = || DEFAULTS.iter().map(|(name, _)| (Text::new((*name).to_string(), None), (0.0, 1.0)));
        let bounds: IndexMap<Text, (f64, f64)> =
            if self.pbounds.is_empty() { defaults().collect() } else { self.pbounds.clone() };
        for name in self.scaling.keys().chain(spec.fix.keys()) {
            problems.extend(place(name).err());
        }
        for (name, (low, high)) in bounds {
            if spec.fix.contains_key(&name) {
                continue;
            }
            match place(&name) {
                Ok((path, unit)) => {
                    let usual = DEFAULTS.iter().find(|(n, _)| *n == name.value).map_or(1.0, |(_, s)| *s);
                    let scaling = self.scaling.get(&name).copied().unwrap_or(match self.scaling.is_empty() {
                        true => usual,
                        false => 1.0,
                    });
                    let name = name.clone();
                    found.push(Searched {
                        path,
                        at: name.at.clone(),
                        name: name.value,
                        low,
                        high,
                        log: false,
                        scaling: scaling * unit,
                    });
                }
                Err(d) => problems.push(d),
            }
        }
        (found, problems)
    }

    /// Pairs of a product, and the prefixes without a log.
    fn pairs<'a>(&'a self, sweep: &'a Sweep) -> (Vec<Pair<'a>>, Vec<String>) {
        let logs = logs(&self.vllm_dir.path);
        let (mut pairs, mut missing) = (Vec::new(), Vec::new());
        for of in sweep.configurations() {
            let prefix = of.prefix.to_lowercase();
            let before = pairs.len();
            for log in logs.iter().filter(|name| name.to_lowercase().starts_with(&prefix)) {
                let of = Configuration { prefix: of.prefix.clone(), ..of };
                pairs.push(Pair { of, log: self.vllm_dir.path.join(log), name: log.clone() });
            }
            if pairs.len() == before {
                missing.push(of.prefix);
            }
        }
        (pairs, missing)
    }

    /// The tokens of a dataset: `tokens_dir` is the file, or the folder that it is in.
    fn tokens(&self, dataset: &Dataset) -> PathBuf {
        let dir = &self.tokens_dir.path;
        if !dir.is_dir() {
            return dir.clone();
        }
        let name = dataset.path.as_ref().map_or(dataset.name.value.as_str(), |p| p.value.as_str());
        let stem = Path::new(name).file_stem().and_then(|s| s.to_str()).unwrap_or(name);
        let tokenized = dir.join(format!("{stem}_tokenized.json"));
        if tokenized.is_file() { tokenized } else { dir.join(name) }
    }

    fn sweeps(&self) -> impl Iterator<Item = (CaseRole, &Sweep)> {
        std::iter::once((CaseRole::Train, &self.train_config))
            .chain(self.test_config.iter().map(|test| (CaseRole::Test, test)))
    }

    /// Every file that is read, beside the configuration itself.
    pub fn files(&self, spec: &CalibrateConfig) -> Vec<FilePath> {
        let mut paths = BTreeSet::new();
        for (_, sweep) in self.sweeps() {
            paths.extend(sweep.datasets.iter().map(|d| self.tokens(d)));
            paths.extend(self.pairs(sweep).0.into_iter().map(|p| p.log));
        }
        let at = &spec.path.at;
        let file = |path: PathBuf| FilePath { written: path.display().to_string(), path, at: at.clone() };
        paths.into_iter().map(file).collect()
    }

    /// What to warn of, though it stops nothing.
    pub fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(dir) = &self.sim_dir {
            found.push(format!("`sim_dir` ({}) has no meaning: simulations are remembered in the store", dir.value));
        }
        for (role, sweep) in self.sweeps() {
            let (pairs, missing) = self.pairs(sweep);
            if !missing.is_empty() && !pairs.is_empty() {
                found.push(format!(
                    "{} of {} {} configurations have no log in `{}`, such as {}*",
                    missing.len(),
                    missing.len() + pairs.len(),
                    super::output::role_name(role),
                    self.vllm_dir.written,
                    missing[0]
                ));
            }
        }
        found
    }

    /// The study of the file.
    ///
    /// # Errors
    /// Every problem of names, bounds, logs and deployment.
    pub fn study(&self, spec: &CalibrateConfig, project: &Path) -> std::result::Result<Study, Vec<Diagnostic>> {
        let at = spec.path.at.clone();
        let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
        let (searched, mut problems) = self.parameters(spec);
        let base = self.base(spec, &mut problems);
        let mut cases = Vec::new();
        for (role, sweep) in self.sweeps() {
            let (pairs, missing) = self.pairs(sweep);
            if pairs.is_empty() {
                problems.push(self.no_logs(role, &missing, spec));
            }
            cases.extend(pairs.iter().map(|pair| pair.case(role, &base)));
        }
        let space = match problems.is_empty() {
            true => space(&searched, at.as_ref()).map_err(|found| problems.extend(found)).ok(),
            false => None,
        };
        let (Some(space), true) = (space, problems.is_empty()) else { return Err(problems) };
        let study = Study {
            searched,
            space,
            cases,
            objective: self.error_function,
            sampler: spec.sampler.clone(),
            trials: spec.trials.or(self.n_trials).unwrap_or(100),
            batch: spec.batch,
            racing: spec.racing.clone(),
            seed: self.seed,
            catalog,
            profiles: Profiles::default(),
            at,
        };
        study.checked()
    }

    fn no_logs(&self, role: CaseRole, missing: &[String], spec: &CalibrateConfig) -> Diagnostic {
        let shown: Vec<String> = missing.iter().take(SHOWN).map(|m| format!("{m}*")).collect();
        let more = if missing.len() > SHOWN { format!(" and {} more", missing.len() - SHOWN) } else { String::new() };
        let message = format!(
            "no log in `{}` belongs to one of the {} configurations of `{}_config`; looked for {}{more}",
            self.vllm_dir.written,
            missing.len(),
            super::output::role_name(role),
            shown.join(", "),
        );
        let there = logs(&self.vllm_dir.path);
        let help = match there.len() {
            0 if !self.vllm_dir.path.is_dir() => format!("there is no folder {}", self.vllm_dir.path.display()),
            0 => "the folder is empty".to_string(),
            n => {
                let names: Vec<&str> = there.iter().take(SHOWN).map(String::as_str).collect();
                format!("the folder has {n} files: {}", names.join(", "))
            }
        };
        let at = self.vllm_dir.at.clone().or_else(|| spec.path.at.clone());
        Diagnostic::new("calibrate::no_logs", message).at(at).help(help)
    }

    /// The scenario that all configurations have in common.
    fn base(&self, spec: &CalibrateConfig, problems: &mut Vec<Diagnostic>) -> Tree {
        let mut base = Tree::from_json(json!({
            "deployment": {
                "model": spec.model.value,
                "gpu": spec.gpu.value,
                "kv": { "num_gpu_blocks": self.kv_blocks, "block_size": BLOCK },
                "scheduler": { "vllm_v1": { "max_num_seqs": 256 } },
                "latency": { "regression": {} },
            },
            "workload": {},
            "measure": {},
            "seed": 0,
        }));
        for (name, value) in &spec.fix {
            if let Ok((path, unit)) = place(name) {
                base.set_path(&path, Tree::new(TreeValue::Float(value * unit), name.at.clone()));
            }
        }
        set_all(&mut base, &spec.set, problems);
        base.at = spec.path.at.clone();
        base
    }

    /// The requests of every case, each once; which of them each case has; and how it was measured.
    ///
    /// # Errors
    /// Tokens or logs that cannot be read.
    pub fn load(&self, spec: &CalibrateConfig) -> Result<Loaded> {
        let mut known: Vec<(PathBuf, u32, u64)> = Vec::new();
        let mut read: Vec<(PathBuf, Vec<Conversation>)> = Vec::new();
        let mut workloads = Vec::new();
        let mut cases = Vec::new();
        for (_, sweep) in self.sweeps() {
            for pair in self.pairs(sweep).0 {
                let path = self.tokens(pair.of.dataset);
                if read.iter().all(|(p, _)| *p != path) {
                    read.push((path.clone(), conversations(&path).map_err(|f| f.or_at(spec.path.at.as_ref()))?));
                }
                let key = (path.clone(), pair.of.prompts, pair.of.rate.to_bits());
                let source = match known.iter().position(|k| *k == key) {
                    Some(source) => source,
                    None => {
                        let all = read.iter().find(|(p, _)| *p == path).map_or(&[][..], |(_, c)| c.as_slice());
                        let few = all.len() < pair.of.prompts as usize;
                        if few {
                            let counts = format!("`{}` has {} conversations", path.display(), all.len());
                            let message = format!("{counts}, and {} asks for {}", pair.name, pair.of.prompts);
                            return Err(Failure::stage("calibrate::tokens", message).or_at(spec.path.at.as_ref()));
                        }
                        workloads.push(workload(&all[..pair.of.prompts as usize], pair.of.rate, spec.arrival_seed));
                        known.push(key);
                        workloads.len() - 1
                    }
                };
                cases.push((source, pair.measured().map_err(|f| f.or_at(spec.path.at.as_ref()))?));
            }
        }
        Ok((workloads, cases))
    }

    /// What the field's own record of a study has beside its parameters.
    pub fn record(&self) -> Value {
        let sweep = |s: &Sweep| {
            let trees = |t: &[Tree]| t.iter().map(Tree::to_json).collect::<Vec<_>>();
            let dataset = |d: &Dataset| json!({ "name": d.name.value, "path": d.path.as_ref().map(|p| &p.value) });
            json!({
                "num_prompts": s.num_prompts,
                "request_rate": trees(&s.request_rate),
                "temperature": trees(&s.temperature),
                "max_num_batched_tokens": s.max_num_batched_tokens,
                "long_prefill_token_threshold": s.long_prefill_token_threshold,
                "datasets": s.datasets.iter().map(dataset).collect::<Vec<_>>(),
            })
        };
        let scaling: serde_json::Map<String, Value> =
            self.scaling.iter().map(|(n, v)| (n.value.clone(), json!(v))).collect();
        let bounds: serde_json::Map<String, Value> =
            self.pbounds.iter().map(|(n, (l, h))| (n.value.clone(), json!([l, h]))).collect();
        json!({
            "train_config": sweep(&self.train_config),
            "test_config": self.test_config.as_ref().map(sweep),
            "pbounds": bounds,
            "scaling": scaling,
            "kv_blocks": self.kv_blocks,
            "vllm_path": self.vllm_dir.written,
        })
    }
}

/// Names of the files of a folder, in alphabetical order.
fn logs(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter(|e| e.path().is_file()).filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

impl Sweep {
    fn configurations(&self) -> Vec<Configuration<'_>> {
        let mut all = Vec::new();
        for &prompts in &self.num_prompts {
            for rate in &self.request_rate {
                for temperature in &self.temperature {
                    for &batched in &self.max_num_batched_tokens {
                        for &threshold in &self.long_prefill_token_threshold {
                            for dataset in &self.datasets {
                                let (r, t) = (python(rate), python(temperature));
                                let name = &dataset.name.value;
                                let prefix = format!("exp_{prompts}p_{r}r_{t}t_{batched}mbt_{threshold}lpt_{name}");
                                let rate = rate.to_json().as_f64().unwrap_or(f64::NAN);
                                all.push(Configuration { prefix, prompts, rate, batched, threshold, dataset });
                            }
                        }
                    }
                }
            }
        }
        all
    }
}

/// A number as Python writes it: `8` stays an integer, `0.0` a float.
fn python(number: &Tree) -> String {
    match &number.value {
        TreeValue::Int(i) => i.to_string(),
        TreeValue::Float(f) => format!("{f:?}"),
        _ => number.to_json().to_string(),
    }
}

impl Pair<'_> {
    fn case(&self, role: CaseRole, base: &Tree) -> Case {
        let mut base = base.clone();
        let int = |n: u32| Tree::new(TreeValue::Int(i64::from(n)), None);
        let scheduler = "deployment.scheduler.vllm_v1";
        base.set_path(&format!("{scheduler}.max_num_batched_tokens"), int(self.of.batched));
        base.set_path(&format!("{scheduler}.long_prefill_token_threshold"), int(self.of.threshold));
        Case {
            name: format!("{}/{}", super::output::role_name(role), self.name),
            role,
            at: base.at.clone(),
            base,
            requests: Text::new(String::new(), None),
            measured: None,
            run: None,
            log: None,
            targets: IndexMap::new(),
        }
    }

    /// What the log says. Its own medians, means and p99 go before those of its lists.
    fn measured(&self) -> Result<Times> {
        read_log(&self.log)
    }
}

/// The times of a log of `vllm bench serve`, or its result file. Its own aggregates go before those of its lists.
///
/// # Errors
/// It cannot be read, or is neither.
pub(super) fn read_log(path: &Path) -> Result<Times> {
    let text = std::fs::read_to_string(path).map_err(|e| crate::diag::io(path, "read", &e))?;
    let bench = vllm::bench(&text).map_err(|what| {
        let d = Diagnostic::new("calibrate::log", format!("{} {what}", path.display()));
        Failure { exit: Exit::Stage, diagnostics: vec![d] }
    })?;
    // Requests that failed have no times.
    let kept = |list: Vec<f64>| -> Vec<f64> {
        let failed = |i: usize| bench.failed.get(i).copied().unwrap_or(false);
        list.into_iter().enumerate().filter(|(i, v)| v.is_finite() && !failed(*i)).map(|(_, v)| v).collect()
    };
    Ok(Times {
        ttft_ms: kept(bench.ttft_ms.clone()),
        tpot_ms: kept(bench.tpot_ms.clone()),
        e2e_ms: kept(bench.e2e_ms.clone()),
        stated: bench.figures.clone(),
    })
}

/// Tokens of a prompt and its reply.
type Conversation = (Vec<u64>, Vec<u64>);

#[derive(Deserialize)]
struct Entry {
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: Vec<u64>,
}

/// The first two turns of every conversation.
fn conversations(path: &Path) -> Result<Vec<Conversation>> {
    let wrong = |what: String| Failure::stage("calibrate::tokens", format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| crate::diag::io(path, "read", &e))?;
    let help = "expected a list of `{ id, conversations: [{ from, value: [token, ...] }] }`";
    let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|e| wrong(format!("{e}; {help}")))?;
    let mut all = Vec::with_capacity(entries.len());
    for (i, entry) in entries.into_iter().enumerate() {
        let mut turns = entry.conversations.into_iter().map(|t| t.value);
        match (turns.next(), turns.next()) {
            (Some(prompt), reply) if !prompt.is_empty() => all.push((prompt, reply.unwrap_or_default())),
            _ => return Err(wrong(format!("conversation {i} has no prompt"))),
        }
    }
    Ok(all)
}

/// Requests of conversations that arrive at a rate.
fn workload(conversations: &[Conversation], rate: f64, seed: u32) -> Workload {
    let n = conversations.len();
    let mut gaps = Mt19937::new(seed);
    let mut arrival = Vec::with_capacity(n);
    let mut us = 0i64;
    for i in 0..n {
        if i > 0 {
            // Microseconds are cut, not rounded.
            us += ((1.0 / rate) * gaps.exponential() * 1e6) as i64;
        }
        arrival.push(SimTime(us * 1000));
    }
    let count = |tokens: &[u64]| u32::try_from(tokens.len().max(1)).unwrap_or(u32::MAX);
    let (mut block_hashes, mut block_hash_offsets) = (Vec::new(), vec![0u64]);
    for (prompt, reply) in conversations {
        let tokens: Vec<u64> = prompt.iter().chain(reply).copied().collect();
        let mut hash = 0;
        for block in tokens.chunks_exact(BLOCK) {
            let bytes: Vec<u8> = block.iter().flat_map(|t| t.to_le_bytes()).collect();
            hash = chain(hash, rng::fnv1a(&bytes));
            block_hashes.push(hash);
        }
        block_hash_offsets.push(block_hashes.len() as u64);
    }
    let requests = Requests {
        arrival,
        input_tokens: conversations.iter().map(|(prompt, _)| count(prompt)).collect(),
        output_tokens: conversations.iter().map(|(_, reply)| count(reply)).collect(),
        block_hashes,
        block_hash_offsets,
        block_tokens: BLOCK as u32,
        ..Requests::default()
    };
    let none: StringArray = vec![None::<&str>; n].into();
    let none: ArrayRef = Arc::new(none);
    Workload {
        table: "the tokens".to_string(),
        hash: hash_of(&requests),
        timed: true,
        request_id: Arc::new(Int64Array::from_iter_values(0..n as i64)),
        class: none.clone(),
        session_id: none,
        requests: Arc::new(requests),
    }
}

/// A hash of all that a simulation sees of the requests.
fn hash_of(requests: &Requests) -> Hash {
    let mut bytes: Vec<u8> = Vec::new();
    bytes.extend(requests.arrival.iter().flat_map(|t| t.0.to_le_bytes()));
    bytes.extend(requests.input_tokens.iter().chain(&requests.output_tokens).flat_map(|t| t.to_le_bytes()));
    bytes.extend(requests.block_hashes.iter().chain(&requests.block_hash_offsets).flat_map(|t| t.to_le_bytes()));
    Hash::of(&bytes)
}

/// The Mersenne Twister as numpy's legacy generator seeds and reads it (Matsumoto, Nishimura 1998).
struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Mt19937 {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = 1_812_433_253u32.wrapping_mul(before).wrapping_add(i as u32);
        }
        Mt19937 { state, next: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.next == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7FFF_FFFF);
                let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    /// `numpy.random.gamma(shape=1)`, which is `standard_exponential`: -ln(1 - u).
    fn exponential(&mut self) -> f64 {
        let (a, b) = (f64::from(self.next() >> 5), f64::from(self.next() >> 6));
        -libm::log(1.0 - (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
