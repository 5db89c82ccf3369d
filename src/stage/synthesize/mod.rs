//! `synthesize`: requests drawn from distributions.
//!
//! The kernel draws; this stage reads what its settings name (tables, workload files of other tools, traces to
//! imitate), checks them and writes the table. Rows depend on the settings, on what is read, and on the seed of the
//! pipeline only.
//!
//! | file | holds |
//! |---|---|
//! | `settings.rs` | settings of the stage to workloads of the kernel; the places of what is wrong |
//! | `tables.rs` | lengths, pairs and rates out of tables |
//! | `peers/` | workload files of other tools |
//! | `fit.rs` | a trace to a workload like it |
//! | `rows.rs` | requests to rows |

mod fit;
mod peers;
mod rows;
mod settings;
mod tables;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use pipe_kernel::workload::{generate_all, generate_clients};
use serde_json::{Value, json};

use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{FilePath, Servegen, Synthesize, SynthesizeSettings, Text, WorkloadSpec};
use crate::table::requests;
use settings::Workload;

#[async_trait]
impl Kind for Synthesize {
    fn kind(&self) -> &'static str {
        "synthesize"
    }

    fn seeded(&self) -> bool {
        true
    }

    fn version(&self) -> u32 {
        3
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        Ok(tables::named(self))
    }

    fn files(&self) -> Vec<FilePath> {
        let spec = self.value.spec.iter().filter_map(|s| s.path.clone());
        spec.chain(self.value.servegen.iter().flat_map(peers::servegen::files)).collect()
    }

    fn tables(&self, stage: &str, _cx: &CheckCx) -> Vec<TableShape> {
        let mut tables = vec![TableShape { name: stage.to_string(), schema: Some(requests::schema()) }];
        if self.value.from.is_some() {
            tables.push(TableShape { name: fit::name(stage), schema: Some(fit::schema()) });
        }
        tables
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        let mut found = settings::mixed(&self.tree);
        if !found.is_empty() {
            return found;
        }
        found.extend(tables::problems(self, cx.tables));
        if let Some(from) = &self.value.from {
            found.extend(fit::problems(self, from, cx.tables));
            return found;
        }
        match peers::workload(self) {
            Some(Ok(read)) => found.extend(read.refused),
            Some(Err(problems)) => found.extend(problems),
            None => match settings::own(&self.value, &self.tree) {
                Ok(workload) => found.extend(settings::problems(&workload, self)),
                Err(problems) => found.extend(problems),
            },
        }
        found
    }

    fn recipe(&self, _cx: &CheckCx) -> Value {
        let SynthesizeSettings {
            requests,
            duration_s,
            rate_rps,
            arrivals,
            rate_schedule,
            diurnal,
            spikes,
            input,
            output,
            correlation,
            joint,
            system_prompt,
            shared_prefix,
            prefix_tree,
            prefix_groups,
            block_tokens,
            sessions,
            chains,
            models,
            adapters,
            images,
            audio,
            video,
            reasoning,
            clients,
            spec,
            preset,
            servegen,
            from,
            fit,
        } = &*self.value;
        // The content of files and tables enters the fingerprint by its hash.
        let spec = spec.as_ref().map(|WorkloadSpec { path, inline, format }| {
            json!({ "file": path.is_some(), "inline": inline.as_ref().map(|t| t.to_json()), "format": format })
        });
        let servegen =
            servegen.as_ref().map(|Servegen { path: _, from_s, scale }| json!({ "from_s": from_s, "scale": scale }));
        let clients: Vec<Value> = clients
            .keys()
            .map(|name| {
                json!([
                    name.value,
                    self.tree.get_path("clients").and_then(|c| c.get_path(&name.value)).map(|t| t.to_json())
                ])
            })
            .collect();
        json!({
            "requests": requests,
            "duration_s": duration_s,
            "rate_rps": rate_rps,
            "arrivals": arrivals,
            "rate_schedule": rate_schedule,
            "diurnal": diurnal,
            "spikes": spikes,
            "input": input,
            "output": output,
            "correlation": correlation,
            "joint": joint,
            "system_prompt": system_prompt,
            "shared_prefix": shared_prefix,
            "prefix_tree": prefix_tree,
            "prefix_groups": prefix_groups,
            "block_tokens": block_tokens,
            "sessions": sessions,
            "chains": chains.as_ref().map(settings::of_kernel),
            "models": models,
            "adapters": adapters,
            "images": images,
            "audio": audio,
            "video": video,
            "reasoning": reasoning,
            "clients": clients,
            "spec": spec,
            "preset": preset,
            "servegen": servegen,
            "from": from.is_some(),
            "fit": fit.as_ref().map(fit::recipe),
        })
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let stage = self.clone();
        super::tokenize::blocking(move || draw(&stage, &cx)).await
    }
}

fn draw(stage: &Synthesize, cx: &RunCx) -> Result<Outcome> {
    let made = if let Some(from) = &stage.value.from {
        let fitted = fit::read(stage, &from.0.value, &cx.inputs)?;
        let mut writer = cx.out.table(&fit::name(&cx.stage), fit::schema())?;
        writer.write(&fitted.rows()?)?;
        writer.finish()?;
        fitted.warnings.iter().for_each(|text| cx.progress.0.warning(text));
        generate_clients(&fitted.clients, cx.seed)
    } else {
        let mut workload = workload(stage, cx)?;
        tables::resolve(&mut workload, &cx.inputs)?;
        let problems = settings::problems(&workload, stage);
        if let Some(problem) = problems.into_iter().next() {
            // What was read is wrong: the rest was checked before.
            return Err(Failure::from(problem));
        }
        match &workload {
            Workload::One(one) => generate_all(one, cx.seed),
            Workload::Many(many) => generate_clients(many, cx.seed),
        }
    };
    rows::write(&made, cx)?;
    Ok(Outcome::default())
}

/// What is to be drawn.
///
/// # Errors
/// Settings that cannot be, files that cannot be read.
fn workload(stage: &Synthesize, cx: &RunCx) -> Result<Workload> {
    match peers::workload(stage) {
        Some(read) => {
            let read = read.map_err(Failure::usage)?;
            if !read.refused.is_empty() {
                return Err(Failure::usage(read.refused));
            }
            read.warnings.iter().for_each(|text| cx.progress.0.warning(text));
            Ok(Workload::Many(read.clients))
        }
        None => settings::own(&stage.value, &stage.tree).map_err(Failure::usage),
    }
}
