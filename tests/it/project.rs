//! A project in a temporary folder, and the binary run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock, Mutex};

use pipe::store::Store;
use pipe_kernel::profile::Profile;
use tempfile::TempDir;

/// The repository's root: asked when the test runs, because clones that share a target folder share its binaries.
pub fn repository() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| std::env::var_os("CARGO_MANIFEST_DIR").unwrap().into());
    &ROOT
}

/// The folder of shared material beside or above the repository, where there is one: real traces and measurements.
pub fn shared() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("PIPE_SHARED") {
        return Some(PathBuf::from(dir));
    }
    repository().ancestors().map(|d| d.join("shared")).find(|d| d.join("data/traces").is_dir())
}

/// A copy of pipelines, queries and samples; `data/store` and `data/tables` are made there.
pub struct Project {
    pub dir: TempDir,
}

/// What a run printed, and how it ended.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "failed:\n{}\n{}", self.out, self.err);
        self
    }
}

impl Project {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for folder in ["pipelines", "queries", "data/samples"] {
            copy(&repository().join(folder), &dir.path().join(folder));
        }
        Project { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pipe"));
        c.args(args).current_dir(self.path()).env("NO_COLOR", "1").env_remove("PIPE_ROOT");
        c
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(args).output().expect("the binary starts");
        Ran {
            code: status.code(),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Rows of a query as JSON objects.
    pub fn rows(&self, query: &str) -> Vec<serde_json::Value> {
        let ran = self.run(&["sql", query, "--format", "json"]).ok();
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{}: {e}", ran.out))
    }

    /// Content hash of every published table of a pipeline, from `pipe ls`.
    pub fn hashes(&self, pipeline: &str) -> Vec<(String, String)> {
        let ran = self.run(&["ls", "--json"]).ok();
        let mut all: Vec<(String, String)> = ran
            .out
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap_or_else(|e| panic!("{l}: {e}")))
            .filter(|t| t["pipeline"] == pipeline)
            .map(|t| (text(&t["table"]), text(&t["hash"])))
            .collect();
        all.sort();
        assert!(!all.is_empty(), "no tables of {pipeline}");
        all
    }

    /// What the last stages did, from the events of a run: `(stage, action)`.
    pub fn actions(&self, args: &[&str]) -> Vec<(String, String)> {
        let mut all = vec!["run"];
        all.extend_from_slice(args);
        all.push("--json");
        let ran = self.run(&all).ok();
        ran.out
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap_or_else(|e| panic!("{l}: {e}")))
            .filter(|e| e["event"] == "stage_finished")
            .map(|e| (text(&e["stage"]), text(&e["action"])))
            .collect()
    }
}

/// What a stage `profile` with these settings, in YAML, makes, as latency models get it.
pub fn profile(settings: &str) -> Arc<Profile> {
    let project = Project::new();
    project.write("pipelines/p.yaml", &format!("name: p\nstages:\n  t:\n    profile: {settings}\n"));
    project.run(&["run", "pipelines/p.yaml", "--quiet"]).ok();
    let store = Store::open(project.path()).expect("a store");
    let table = store.published().into_iter().find(|t| (t.pipeline.as_str(), t.table.as_str()) == ("p", "t"));
    let handle = store.published_handle(&table.expect("a table")).expect("its parts");
    pipe::stage::read_profile(&handle).expect("a profile")
}

/// [`profile`] of a folder of Vidur's predictions, read once.
pub fn predictions(folder: &Path) -> Arc<Profile> {
    static READ: Mutex<BTreeMap<PathBuf, Arc<Profile>>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().expect("no test failed while it read");
    let make = || profile(&format!("{{ vidur_predictions: {{ path: {} }} }}", folder.display()));
    read.entry(folder.to_path_buf()).or_insert_with(make).clone()
}

pub fn text(v: &serde_json::Value) -> String {
    v.as_str().unwrap_or_else(|| panic!("not a string: {v}")).to_string()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A pipeline that takes a second: few requests, many scenarios.
pub const SMALL: &str = "\
name: small
seed: 5
stages:
  trace:
    synthesize:
      requests: 200
      rate_rps: 4
      input: { lognormal_p50_p90: { p50: 300, p90: 1200 } }
      output: { constant: { tokens: 60 } }
      shared_prefix: { groups: 4, tokens: 128 }
  sim:
    simulate:
      requests: trace
      deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }
      sweep:
        grid:
          deployment.replicas: [1, 2]
          workload.rate_rps: [4, 16, 64]
  metrics:
    sql: >
      SELECT scenario_id, quantile(ttft_ns, 0.99) / 1e6 AS ttft_ms_p99, avg(ms(e2e_ns)) AS e2e_ms_mean
      FROM sim_requests GROUP BY scenario_id ORDER BY scenario_id
  verdict:
    slo:
      from: sim
      rules: [ { name: fast, quantile: 0.99, all: [ { metric: ttft_ms, max: 400 } ] } ]
";
