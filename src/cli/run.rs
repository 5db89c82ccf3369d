//! `pipe run` and `pipe plan`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::progress::{self, Style};
use super::{Done, Reported, check, cores, duration, key_value, runtime, table, thousands};
use crate::diag::Exit;
use crate::plan::{self, Decision, Plan, Selection};
use crate::run::{Action, RunOptions, RunReport};
use crate::stage::Cancel;
use crate::store::Store;

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
    fn selection(&self) -> Selection {
        Selection { only: self.only.clone(), from: self.from.clone(), force: self.force.clone() }
    }
}

pub(super) fn plan(root: Option<PathBuf>, args: PlanArgs) -> Done {
    let (pipeline, dag, project) = check::checked(root, &args.file, &args.which.set)?;
    let store = Store::open(&project)?;
    let plan = plan::plan(&pipeline, &dag, &store, &args.which.selection())?;
    print_plan(&plan, args.json);
    Ok(Exit::Ok)
}

fn print_plan(plan: &Plan, as_json: bool) {
    if as_json {
        for s in &plan.stages {
            println!("{}", json!({"stage": s.name, "kind": s.kind, "decision": s.decision.word(), "reasons": s.decision.reasons()}));
        }
        return;
    }
    let rows: Vec<Vec<String>> = plan
        .stages
        .iter()
        .map(|s| vec![s.name.clone(), s.kind.to_string(), s.decision.word().to_string(), s.decision.reasons().join("; ")])
        .collect();
    print!("{}", table(&["stage", "kind", "plan", "why"], &rows));
    let count = |f: fn(&Decision) -> bool| plan.stages.iter().filter(|s| f(&s.decision)).count();
    println!(
        "\n{} cached, {} to run, {} to be seen",
        count(|d| matches!(d, Decision::Cached(_))),
        count(|d| matches!(d, Decision::Run { .. })),
        count(|d| matches!(d, Decision::Unknown { .. })),
    );
}

pub(super) fn run(root: Option<PathBuf>, args: RunArgs) -> Done {
    let (pipeline, dag, project) = check::checked(root, &args.file, &args.which.set)?;
    let sources = pipeline.sources.clone();
    let store = Store::open(&project)?;
    if args.dry_run {
        print_plan(&plan::plan(&pipeline, &dag, &store, &args.which.selection())?, args.json);
        return Ok(Exit::Ok);
    }
    let jobs = args.jobs.map_or_else(cores, |n| n as usize);
    let style = match (args.quiet, args.json) {
        (true, _) => Style::Quiet,
        (_, true) => Style::Json,
        _ => Style::Auto,
    };
    let cancel = Cancel::default();
    let options = RunOptions {
        jobs,
        selection: args.which.selection(),
        events: progress::events(style),
        cancel: cancel.clone(),
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
        print_report(&report, args.quiet, &pipeline.name);
    }
    Ok(if report.violated.is_empty() { Exit::Ok } else { Exit::Slo })
}

/// Ctrl-C or SIGTERM asks the run to stop; a second one ends it at once.
async fn on_signal(cancel: Cancel) {
    interrupted().await;
    cancel.cancel();
    interrupted().await;
    std::process::exit(Exit::Interrupted as i32);
}

#[cfg(unix)]
async fn interrupted() {
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
async fn interrupted() {
    let _ = tokio::signal::ctrl_c().await;
}

fn print_json(report: &RunReport) {
    println!(
        "{}",
        json!({"event": "run_finished", "run": report.id, "answers": report.answers, "violated": report.violated})
    );
}

fn print_report(report: &RunReport, quiet: bool, pipeline: &str) {
    if !quiet {
        let rows: Vec<Vec<String>> = report
            .stages
            .iter()
            .filter(|s| s.action != Action::Skipped)
            .map(|s| {
                let time = if s.action == Action::Cached { String::new() } else { duration(s.millis) };
                vec![s.name.clone(), s.kind.to_string(), s.action.as_str().to_string(), thousands(s.rows), time]
            })
            .collect();
        println!("{}", table(&["stage", "kind", "", "rows", "time"], &rows));
    }
    for line in &report.answers {
        println!("{line}");
    }
    for text in &report.violated {
        println!("\n{text}");
    }
    if !quiet {
        println!("\nLook further:");
        println!("  pipe ls                                  all tables");
        if let Some(table) = report.stages.iter().rev().flat_map(|s| &s.tables).next() {
            println!("  pipe show {pipeline}.{}", table.name);
            println!("  pipe sql \"SELECT * FROM {pipeline}.{} LIMIT 10\"", table.name);
        }
        if report.figures > 0 {
            println!("  data/figures/{pipeline}/  {} charts", report.figures);
        }
    }
}

