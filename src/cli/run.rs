//! `pipe run` and `pipe plan`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::progress::{self, Style};
use super::{Done, Reported, check, cores, duration, key_value, runtime, table, thousands};
use crate::diag::Exit;
use crate::plan::{self, Action, Options, Plan};
use crate::run::{RunOptions, RunReport};
use crate::stage::Cancel;
use crate::store::{StageAction, Store};

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The pipeline
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Threads for computations. Default: the machine's cores. Never changes a row
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    jobs: Option<u32>,
    /// Say what would run, and run nothing (like `pipe plan`)
    #[arg(long)]
    dry_run: bool,
    /// Print the answer only
    #[arg(short, long)]
    quiet: bool,
    /// One JSON object per event on standard output
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The pipeline
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// One JSON object per stage
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Which {
    /// Set a parameter, or any value by its dotted path
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Run this stage, and what it needs that is not cached
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Run this stage and everything that depends on it, and what they need that is not cached
    #[arg(long, value_name = "STAGE", conflicts_with = "only")]
    from: Vec<String>,
    /// Run this stage even if it is cached; `all` for every stage
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
}

impl Which {
    fn options(&self) -> Options {
        Options { only: self.only.clone(), from: self.from.clone(), force: self.force.clone() }
    }
}

pub(super) fn plan(root: Option<PathBuf>, args: PlanArgs) -> Done {
    let (pipeline, dag, project) = check::checked(root, &args.file, &args.which.set)?;
    let store = Store::open(&project)?;
    let plan = plan::plan(&pipeline, &dag, &store, &args.which.options())?;
    print_plan(&plan, args.json);
    Ok(Exit::Ok)
}

fn print_plan(plan: &Plan, as_json: bool) {
    let word = |action: &Action| match action {
        Action::Cached(_) => "cached",
        Action::Run { .. } => "run",
        Action::Unknown { .. } => "perhaps",
        Action::Skipped => "skipped",
    };
    if as_json {
        for s in &plan.stages {
            let (action, reason) = (word(&s.action), s.action.reason());
            say!("{}", json!({"stage": s.name, "kind": s.kind, "action": action, "reason": reason}));
        }
        return;
    }
    let rows: Vec<Vec<String>> = plan
        .stages
        .iter()
        .map(|s| vec![s.name.clone(), s.kind.to_string(), word(&s.action).to_string(), s.action.reason()])
        .collect();
    put!("{}", table(&["stage", "kind", "plan", "why"], &rows));
    let count = |wanted: &str| plan.stages.iter().filter(|s| word(&s.action) == wanted).count();
    say!("\n{} cached, {} to run, {} perhaps", count("cached"), count("run"), count("perhaps"));
}

pub(super) fn run(root: Option<PathBuf>, args: RunArgs) -> Done {
    let (pipeline, dag, project) = check::checked(root, &args.file, &args.which.set)?;
    let sources = pipeline.sources.clone();
    let store = Store::open(&project)?;
    if args.dry_run {
        print_plan(&plan::plan(&pipeline, &dag, &store, &args.which.options())?, args.json);
        return Ok(Exit::Ok);
    }
    let jobs = args.jobs.map_or_else(cores, |n| n as usize);
    let style = match (args.quiet, args.json) {
        (true, _) => Style::Quiet,
        (_, true) => Style::Json,
        _ => Style::Auto,
    };
    let cancel = Cancel::default();
    let Options { only, from, force } = args.which.options();
    let options = RunOptions {
        jobs,
        only,
        from,
        force,
        events: progress::events(style),
        cancel: cancel.clone(),
        args: std::env::args().collect(),
    };
    let runtime = runtime(jobs.min(cores()).max(2))?;
    let report = runtime.block_on(async {
        let stop = tokio::spawn(on_signal(cancel));
        let report = crate::run::run(&pipeline, &dag, &store, options).await;
        stop.abort();
        report
    });
    // Computations that were told to stop must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    let report = report.map_err(|failure| Reported { failure, sources })?;
    if args.json {
        print_json(&report);
    } else {
        print_report(&report, args.quiet, &store);
    }
    Ok(report.exit())
}

/// Ctrl-C or SIGTERM asks the run to stop; a second one ends it at once.
async fn on_signal(cancel: Cancel) {
    interrupted().await;
    cancel.cancel();
    interrupted().await;
    std::process::exit(Exit::Interrupted as i32);
}

/// Ends at Ctrl-C or SIGTERM.
#[cfg(unix)]
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
pub(super) async fn interrupted() {
    let _ = tokio::signal::ctrl_c().await;
}

fn print_json(report: &RunReport) {
    say!(
        "{}",
        json!({
            "event": "run_finished", "run": report.id, "millis": report.millis, "answers": report.answers,
            "violated": report.violated,
        })
    );
}

fn print_report(report: &RunReport, quiet: bool, store: &Store) {
    if !quiet {
        say!("{}", stages(report));
    }
    for line in report.answers.iter().flat_map(|(_, lines)| lines) {
        say!("{line}");
    }
    for (_, text) in &report.violated {
        say!("\n{text}");
    }
    if !quiet {
        say!("\nLook further:");
        let name = &report.pipeline;
        if let Some(table) = report.stages.iter().rev().flat_map(|s| &s.tables).next() {
            say!("  pipe show {name}.{}", table.name);
            say!("  pipe sql \"SELECT * FROM {name}.{} LIMIT 10\"", table.name);
        }
        say!("  pipe ls {name}");
        for folder in ["figures", "exports"] {
            let dir = store.project().join("data").join(folder).join(name);
            let files = store.published_files().iter().filter(|f| f.path.starts_with(&dir)).count();
            if files > 0 {
                say!("  data/{folder}/{name}/  ({files} files)");
            }
        }
    }
}

/// The table of what each stage did.
fn stages(report: &RunReport) -> String {
    let rows: Vec<Vec<String>> = report
        .stages
        .iter()
        .filter(|s| s.action != StageAction::Skipped)
        .map(|s| {
            let (did, time) = match s.action {
                StageAction::Cached => ("cached", String::new()),
                StageAction::Ran => ("ran", duration(s.millis)),
                StageAction::Failed => ("failed", duration(s.millis)),
                StageAction::Interrupted => ("interrupted", duration(s.millis)),
                StageAction::Skipped => ("skipped", String::new()),
            };
            vec![s.name.clone(), s.kind.clone(), did.to_string(), thousands(s.rows), time]
        })
        .collect();
    table(&["stage", "kind", "", "rows", "time"], &rows)
}
