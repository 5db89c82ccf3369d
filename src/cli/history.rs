//! `pipe history`: the runs that there were.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Done, duration, project, table, thousands};
use crate::diag::{Diagnostic, Exit, Result, nearest};
use crate::store::{RunRecord, RunStatus, StageAction, Store};

#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// A pipeline, for its runs; or a run (the beginning of its name will do), for what it did with each stage
    which: Option<String>,
    /// Runs to list
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
    /// One JSON object per run
    #[arg(long)]
    json: bool,
}

pub(super) fn history(root: Option<PathBuf>, args: HistoryArgs) -> Done {
    let store = Store::open(&project(root, Path::new("."))?)?;
    let runs = store.runs();
    let of_pipeline = |name: &str| runs.iter().any(|run| run.pipeline == name);
    if let Some(which) = args.which.as_deref().filter(|which| !of_pipeline(which)) {
        let run = find(&runs, which)?;
        if args.json {
            say!("{}", serde_json::json!(run));
        } else {
            put!("{}", one(run));
        }
        return Ok(Exit::Ok);
    }
    let wanted = runs.iter().filter(|run| args.which.as_ref().is_none_or(|name| run.pipeline == *name));
    let wanted: Vec<&RunRecord> = wanted.take(args.limit).collect();
    if args.json {
        wanted.iter().for_each(|run| say!("{}", serde_json::json!(run)));
        return Ok(Exit::Ok);
    }
    if wanted.is_empty() {
        say!("no runs yet: pipe run pipelines/sweep.yaml");
        return Ok(Exit::Ok);
    }
    let row = |run: &&RunRecord| {
        let count = |action: StageAction| run.stages.iter().filter(|s| s.action == action).count();
        vec![
            run.id.clone(),
            run.pipeline.clone(),
            word(run.status).to_string(),
            took(run),
            count(StageAction::Ran).to_string(),
            count(StageAction::Cached).to_string(),
            run.messages.first().map(|m| m.lines().next().unwrap_or_default().to_string()).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = wanted.iter().map(row).collect();
    put!("{}", table(&["run", "pipeline", "ended", "took", "ran", "cached", ""], &rows));
    Ok(Exit::Ok)
}

/// The run whose name begins with `which`; `latest` is the newest.
///
/// # Errors
/// There is none, or there are several.
pub(super) fn find<'a>(runs: &'a [RunRecord], which: &str) -> Result<&'a RunRecord> {
    if which == "latest"
        && let Some(run) = runs.first()
    {
        return Ok(run);
    }
    let found: Vec<&RunRecord> = runs.iter().filter(|run| run.id.starts_with(which)).collect();
    let wrong = |code, what: String, help: String| Err(Diagnostic::new(code, what).help(help).into());
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let names = runs.iter().flat_map(|run| [run.id.as_str(), run.pipeline.as_str()]);
            let near = nearest(which, names).map_or(String::new(), |near| format!("did you mean `{near}`? "));
            let help = format!("{near}`pipe history` lists the runs");
            wrong("cli::no_run", format!("there is no run and no pipeline `{which}`"), help)
        }
        several => {
            let names: Vec<&str> = several.iter().take(5).map(|run| run.id.as_str()).collect();
            let what = format!("{} runs begin with `{which}`", several.len());
            wrong("cli::ambiguous", what, format!("name one: {}", names.join(", ")))
        }
    }
}

fn word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Finished => "finished",
        RunStatus::Violated => "violated",
        RunStatus::Failed => "failed",
        RunStatus::Interrupted => "interrupted",
        RunStatus::Killed => "killed",
    }
}

/// From start to end.
fn took(run: &RunRecord) -> String {
    let time = |text: &str| chrono::DateTime::parse_from_rfc3339(text).ok();
    let span = time(&run.started).zip(run.finished.as_deref().and_then(time));
    span.map_or(String::new(), |(from, to)| duration((to - from).num_milliseconds().max(0).unsigned_abs()))
}

fn one(run: &RunRecord) -> String {
    let mut text = format!("{} of {} ({}): {}\n", run.id, run.pipeline, run.file, word(run.status));
    text += &format!("  by       {}, pipe {}\n  started  {}\n", run.who, run.pipe_version, run.started);
    if let Some(finished) = &run.finished {
        text += &format!("  ended    {finished}, after {}\n", took(run));
    }
    text += &format!("  command  {}\n", run.args.join(" "));
    for input in &run.inputs {
        text += &format!("  file     {} ({})\n", input.file, input.hash.short());
    }
    for message in &run.messages {
        text += &format!("  says     {}\n", message.trim_end().replace('\n', "\n           "));
    }
    let action = |action: StageAction| match action {
        StageAction::Cached => "cached",
        StageAction::Ran => "ran",
        StageAction::Failed => "failed",
        StageAction::Skipped => "skipped",
        StageAction::Interrupted => "interrupted",
    };
    let rows: Vec<Vec<String>> = run
        .stages
        .iter()
        .map(|stage| {
            vec![
                stage.name.clone(),
                stage.kind.clone(),
                action(stage.action).to_string(),
                thousands(stage.rows),
                if stage.action == StageAction::Ran { duration(stage.millis) } else { String::new() },
                stage.reason.clone(),
            ]
        })
        .collect();
    text + "\n" + &table(&["stage", "kind", "", "rows", "time", "why"], &rows)
}
