//! `pipe check` and `pipe schema`.

use std::path::PathBuf;

use clap::Args;

use super::{Done, Reported, folder, key_value, project};
use crate::diag::{self, Exit, Failure, Sources};
use crate::spec::Pipeline;
use crate::{plan, spec};

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The pipeline
    file: PathBuf,
    /// Set a parameter, or any value by its dotted path
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// One JSON object per problem, for editors
    #[arg(long)]
    json: bool,
}

/// Reads and checks a pipeline; every failure knows the texts it points into.
pub(super) fn checked(
    root: Option<PathBuf>,
    file: &std::path::Path,
    set: &[(String, String)],
) -> Result<(Pipeline, plan::Dag, PathBuf), Reported> {
    let project = project(root, folder(file))?;
    let mut sources = Sources::default();
    let (pipeline, mut problems) = spec::load_mended(file, set, &mut sources);
    let pipeline = match pipeline {
        Some(pipeline) if problems.is_empty() => pipeline,
        mended => {
            if let Some(pipeline) = mended {
                problems.extend(plan::more_problems(&pipeline, &project, &problems));
            }
            return Err(Reported { failure: Failure::usage(problems), sources });
        }
    };
    let dag =
        plan::check(&pipeline, &project).map_err(|failure| Reported { failure, sources: pipeline.sources.clone() })?;
    Ok((pipeline, dag, project))
}

pub(super) fn check(root: Option<PathBuf>, args: CheckArgs) -> Done {
    match checked(root, &args.file, &args.set) {
        Ok((pipeline, dag, _)) => {
            if !args.json {
                let tables: usize = dag.tables().count();
                say!("{}: {} stages, {tables} tables, no problems", args.file.display(), pipeline.stages.len());
            }
            Ok(Exit::Ok)
        }
        Err(reported) if args.json => {
            put!("{}", diag::render_json(&reported.failure));
            Ok(reported.failure.exit)
        }
        Err(reported) => Err(reported),
    }
}

pub(super) fn schema() -> Done {
    say!("{:#}", spec::json_schema());
    Ok(Exit::Ok)
}
