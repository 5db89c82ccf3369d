//! `pipe gc`: makes room.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Done, bytes, project, table};
use crate::diag::{Diagnostic, Exit};
use crate::store::{GRACE_S, Garbage, Store};

#[derive(Args, Debug)]
pub struct GcArgs {
    /// Remove what is listed. Without this, nothing is changed
    #[arg(long)]
    delete: bool,
    /// Keep results that were made in the last so many days
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    keep_days: u64,
    /// Keep results that were published in the last so many minutes: somebody may be reading them
    #[arg(long, value_name = "MINUTES", default_value_t = GRACE_S / 60)]
    grace: u64,
    /// Also take back the tables and files of this pipeline, whose results then nobody uses
    #[arg(long, value_name = "PIPELINE")]
    forget: Vec<String>,
}

pub(super) fn gc(root: Option<PathBuf>, args: GcArgs) -> Done {
    let store = Store::open(&project(root, Path::new("."))?)?;
    let known = store.pipelines();
    if let Some(name) = args.forget.iter().find(|name| !known.contains(name)) {
        let help = format!("pipelines with tables: {}", known.join(", "));
        return Err(crate::diag::Failure::from(
            Diagnostic::new("cli::no_pipeline", format!("there is no pipeline `{name}`")).help(help),
        )
        .into());
    }
    // While another process writes, what it makes is not published yet.
    let _lock = args.delete.then(|| store.lock()).transpose()?;
    if args.delete {
        args.forget.iter().try_for_each(|name| store.retain_stages(name, &[]))?;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let young = |g: &Garbage| args.keep_days > 0 && now.saturating_sub(g.finished_unix_s) < args.keep_days * 86_400;
    let forgotten: &[String] = if args.delete { &[] } else { &args.forget };
    // What is forgotten was published until now: the grace keeps it, as --delete does.
    let gone: &[String] = if args.grace > 0 { &[] } else { forgotten };
    let found = store.unreachable_without(gone, args.grace.saturating_mul(60));
    let waiting = store.unreachable_without(forgotten, 0).len().saturating_sub(found.len());
    let found: Vec<Garbage> = found.into_iter().filter(|g| !young(g)).collect();
    let sum: u64 = found.iter().map(|g| g.bytes).sum();
    let row = |g: &Garbage| {
        let made = chrono::DateTime::from_timestamp(g.finished_unix_s as i64, 0);
        let made =
            made.filter(|_| g.finished_unix_s > 0).map_or("damaged".to_string(), |t| t.format("%F %R").to_string());
        vec![g.fingerprint.short().to_string(), g.stage.clone(), g.kind.clone(), bytes(g.bytes), made]
    };
    if !found.is_empty() {
        put!(
            "{}",
            table(&["result", "stage", "kind", "size", "made (UTC)"], &found.iter().map(row).collect::<Vec<_>>())
        );
    }
    if args.delete {
        store.collect(&found)?;
        say!("removed {} results, {}", found.len(), bytes(sum));
    } else {
        say!("{} results that no pipeline uses, {}; `pipe gc --delete` removes them", found.len(), bytes(sum));
    }
    if waiting > 0 {
        let then = match args.forget.as_slice() {
            [] => String::new(),
            _ => format!("; `pipe gc --delete` removes them {} minutes after they are forgotten", args.grace),
        };
        say!("kept: {waiting} results that were published in the last {} minutes (see --grace){then}", args.grace);
    }
    let memory = store.memory_bytes();
    if memory > 0 {
        say!("kept: the memory of scenarios, {} (data/store/memo may be deleted while nothing runs)", bytes(memory));
    }
    Ok(Exit::Ok)
}
