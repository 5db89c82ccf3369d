//! `profile`: measured times of operators, layers or steps, of several layouts, to one table.
//!
//! Promises: rows depend on the content of the files and the settings alone. What a file lacks, and what a folder does
//! not have, is said before anything runs; a row that cannot be, with file, row and column.
//!
//! | file | holds |
//! |---|---|
//! | `plan.rs` | which files are read, and how |
//! | `operators.rs`, `layers.rs`, `vidur.rs`, `generic.rs` | the layouts |
//! | `frame.rs` | CSV and Parquet as columns |
//! | `mapping.rs` | rows to points |
//! | `points.rs` | sorted, merged, looked at, written |
//! | `sources.rs` | what became of each file; facts of a GPU |
//! | `load.rs` | the table as the kernel's profile |

mod frame;
mod generic;
mod layers;
// Read by whoever supplies latency models.
pub(crate) mod load;
mod mapping;
mod operators;
mod plan;
mod points;
mod sources;
#[cfg(test)]
mod tests;
mod vidur;

use async_trait::async_trait;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Value, json};

use self::frame::{Frame, Header};
use self::mapping::Reading;
use self::plan::{Item, Plan};
use self::points::{Points, Raw, Source};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{FilePath, Profile, Text};
use crate::table::profile;

/// Files that are held in memory at once.
const FILES_AT_ONCE: usize = 8;

#[async_trait]
impl Kind for Profile {
    fn kind(&self) -> &'static str {
        "profile"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(Vec::new())
    }

    fn files(&self) -> Vec<FilePath> {
        let Ok(plan) = plan::of(self) else { return Vec::new() };
        plan.items.into_iter().map(|i| i.file).chain(plan.others).collect()
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let mut tables = vec![
            TableShape { name: stage.to_string(), schema: Some(profile::schema()) },
            TableShape { name: sources_name(stage), schema: Some(profile::sources_schema()) },
        ];
        if self.operators.is_some() {
            tables.push(TableShape { name: gpu_name(stage), schema: Some(profile::gpu_schema()) });
        }
        tables
    }

    fn check(&self, _stage: &str, _cx: &CheckCx) -> Vec<Diagnostic> {
        let plan = match plan::of(self) {
            Ok(plan) => plan,
            Err(problems) => return problems,
        };
        let mut found = Vec::new();
        for item in &plan.items {
            // A file that is not there is reported by whoever hashes it.
            if !item.file.path.is_file() {
                continue;
            }
            let at = item.file.at.as_ref();
            match frame::header(&item.file.path, &item.file.written) {
                Err(failure) => found.extend(failure.or_at(at).diagnostics),
                Ok(header) => {
                    let problems = reading(item, &header).err().unwrap_or_default();
                    found.extend(Failure::usage(problems).or_at(at).diagnostics);
                }
            }
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        // Contents of files enter the fingerprint by themselves; here is how they are read, and what is passed over.
        let plan = plan::of(self).ok();
        let skipped = plan.as_ref().map(|p| p.skipped.clone());
        let notes = plan.as_ref().map(|p| p.items.iter().map(|i| i.note.clone()).collect::<Vec<_>>());
        json!({
            "layout": plan.as_ref().map(|p| p.layout.name()),
            "bad_rows": self.bad_rows,
            "settings": plan.map(|p| p.settings),
            "skipped": skipped,
            "notes": notes,
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let plan = plan::of(self).map_err(Failure::usage)?;
        let job = Job { points: Points::new(plan.layout, self.bad_rows), plan, cx };
        super::tokenize::blocking(move || job.run()).await
    }
}

fn sources_name(stage: &str) -> String {
    format!("{stage}_sources")
}

fn gpu_name(stage: &str) -> String {
    format!("{stage}_gpu")
}

/// How a file is read; what it lacks.
fn reading(item: &Item, header: &Header) -> std::result::Result<Reading, Vec<Diagnostic>> {
    let reading = (item.map)(header)?;
    let missing = reading.missing(header);
    if missing.is_empty() { Ok(reading) } else { Err(missing) }
}

struct Job {
    plan: Plan,
    points: Points,
    cx: RunCx,
}

impl Job {
    fn run(mut self) -> Result<Outcome> {
        self.cx.progress.0.total(self.plan.items.len() as u64, "files");
        let items = std::mem::take(&mut self.plan.items);
        for some in items.chunks(FILES_AT_ONCE) {
            self.cx.cancel.check()?;
            // Which thread reads which file is of no consequence: they are taken in their order.
            let frames: Vec<Result<(Frame, Reading)>> = self.cx.pool.install(|| some.par_iter().map(open).collect());
            for (item, read) in some.iter().zip(frames) {
                self.cx.cancel.check()?;
                let (frame, reading) = read?;
                let file = item.file.written.clone();
                self.points.sources.push(Source { file, note: item.note.clone(), ..Source::default() });
                let source = self.points.sources.len() - 1;
                mapping::read(&frame, &reading, source, &mut self.points);
                self.cx.progress.0.advance(1);
            }
        }
        self.constants();
        self.points.check()?;
        self.points.write(&self.cx)?;
        for warning in &self.points.warnings {
            self.cx.progress.0.warning(warning);
        }
        for (file, why) in &self.plan.skipped {
            let note = format!("skipped: {why}");
            self.points.sources.push(Source { file: file.clone(), note, ..Source::default() });
        }
        sources::write(&self.cx, &sources_name(&self.cx.stage), &self.points.sources)?;
        if let Some(facts) = &self.plan.gpu {
            sources::write_gpu(&self.cx, &gpu_name(&self.cx.stage), facts)?;
        }
        Ok(Outcome::default())
    }

    /// Points that stand in no row.
    fn constants(&mut self) {
        for constant in std::mem::take(&mut self.plan.constants) {
            self.points.sources.push(Source { file: constant.file, rows: 1, ..Source::default() });
            let source = self.points.sources.len() - 1;
            self.points.sources[source].operators.insert(constant.operator);
            let none = self.points.name("");
            let raw = Raw {
                operator: constant.operator,
                variant: self.points.name(&constant.variant),
                dtype: none,
                kv_dtype: none,
                shape: constant.shape,
                latency_us: constant.value,
                source: source as u32,
                row: 0,
            };
            self.points.push(raw);
        }
    }
}

fn open(item: &Item) -> Result<(Frame, Reading)> {
    let written = &item.file.written;
    let header = frame::header(&item.file.path, written)?;
    let reading = reading(item, &header).map_err(Failure::usage)?;
    let columns = reading.columns();
    let frame = Frame::read(&item.file.path, written, &|name| columns.contains(&name))?;
    Ok((frame, reading))
}
