//! Points of a user's own, and the log of an engine's steps, with columns of any name.

use indexmap::IndexMap;
use pipe_kernel::profile::{Layout, Operator};
use serde_json::json;

use super::frame::Header;
use super::mapping::{Counted, Dim, Mapping, Name, Reading, Test, column};
use super::plan::{Plan, Planned};
use crate::diag::Diagnostic;
use crate::query::errors::did_you_mean;
use crate::spec::{GenericFile, StepLog, Text};
use crate::table::profile::shape_columns;

/// Columns of the time, and how many microseconds their unit is.
const TIMES: [(&str, f64); 4] = [("latency_us", 1.0), ("latency_ms", 1e3), ("latency_s", 1e6), ("latency_ns", 1e-3)];
const NAMES: [&str; 4] = ["operator", "variant", "dtype", "kv_dtype"];
/// What a log of steps may have beside the shape of a step.
const LOGGED: [&str; 3] = ["kv_blocks_total", "kv_blocks_free", "scheduled_tokens"];
/// The names of steps as a tracer of vLLM 0.11 and later writes them.
const TRACED: [(&str, &str); 7] = [
    ("latency_us", "step.duration_us"),
    ("prefill_tokens", "batch.prefill_tokens"),
    ("prefill_requests", "batch.num_prefill_reqs"),
    ("decode_requests", "batch.num_decode_reqs"),
    ("kv_blocks_total", "kv.blocks_total_gpu"),
    ("kv_blocks_free", "kv.blocks_free_gpu"),
    ("scheduled_tokens", "num_scheduled_tokens"),
];

/// Names of a file in place of ours.
#[derive(Clone, Debug)]
struct Renamed(Vec<(String, String)>);

impl Renamed {
    fn new(columns: &IndexMap<Text, Text>) -> Renamed {
        Renamed(columns.iter().map(|(ours, theirs)| (ours.value.clone(), theirs.value.clone())).collect())
    }

    fn given(&self, ours: &str) -> Option<&str> {
        self.0.iter().find(|(o, _)| o == ours).map(|(_, theirs)| theirs.as_str())
    }

    /// The column of a file that holds ours: the one that the user named, even where it is not there.
    fn of(&self, ours: &str, header: &Header) -> Option<String> {
        match self.given(ours) {
            Some(theirs) => Some(theirs.to_string()),
            None => header.has(ours).then(|| ours.to_string()),
        }
    }

    /// The column of the time and its factor.
    fn time(&self, header: &Header) -> Result<(String, f64), Vec<Diagnostic>> {
        let there = TIMES.iter().filter_map(|(ours, factor)| Some((self.of(ours, header)?, *factor)));
        let there: Vec<(String, f64)> = there.collect();
        match there.as_slice() {
            [one] => Ok(one.clone()),
            several => {
                let message = match several {
                    [] => format!("{} has no column of the time", header.written),
                    _ => {
                        let several: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                        format!("{} has several columns of the time: {}", header.written, several.join(", "))
                    }
                };
                let help = format!(
                    "expected one of latency_us, latency_ms, latency_s, latency_ns, or `columns: {{ latency_us: ... }}`\n\
                     columns: {}",
                    header.names.join(", ")
                );
                Err(vec![Diagnostic::new("profile::column", message).help(help)])
            }
        }
    }
}

/// Names of ours that there are not.
fn unknown(columns: &IndexMap<Text, Text>, valid: &[&str]) -> Vec<Diagnostic> {
    let valid: Vec<String> = valid.iter().map(|v| v.to_string()).collect();
    let wrong = columns.keys().filter(|ours| !valid.contains(&ours.value));
    wrong
        .map(|ours| {
            let message = format!("`columns` names `{}`, which a profile does not have", ours.value);
            let what = Diagnostic::new("profile::columns", message).at(ours.at.clone());
            what.help(did_you_mean(&ours.value, &valid, "columns"))
        })
        .collect()
}

/// As it stands in the recipe.
fn pairs(columns: &IndexMap<Text, Text>) -> Vec<(String, String)> {
    let mut pairs = Renamed::new(columns).0;
    pairs.sort();
    pairs
}

pub(super) fn plan(settings: &GenericFile) -> Planned {
    let GenericFile { path, columns } = settings;
    let times = TIMES.map(|(name, _)| name);
    let valid: Vec<&str> = NAMES.into_iter().chain(times).chain(shape_columns()).collect();
    let problems = unknown(columns, &valid);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut plan = Plan::new(Layout::Generic);
    let renamed = Renamed::new(columns);
    plan.read(path.clone(), Box::new(move |header| generic(header, &renamed)));
    plan.settings = json!({ "columns": pairs(columns) });
    Ok(plan)
}

fn generic(header: &Header, renamed: &Renamed) -> Result<Reading, Vec<Diagnostic>> {
    let (time, factor) = renamed.time(header)?;
    let operators = renamed.of("operator", header);
    let name = |ours: &str| renamed.of(ours, header).map_or_else(Name::none, Name::Column);
    let mapping = |operator: Operator, tests: Vec<Test>| {
        let dim = |ours: &&str| renamed.of(ours, header).map_or(Dim::Const(0), Dim::Column);
        Mapping {
            variant: name("variant"),
            dtype: name("dtype"),
            kv_dtype: name("kv_dtype"),
            tests,
            ..Mapping::new(operator, operator.dims().iter().map(dim).collect(), &time, factor)
        }
    };
    let mappings: Vec<Mapping> = match &operators {
        Some(column) => {
            let test = |o: &Operator| vec![Test::Is(column.clone(), o.name().to_string())];
            Operator::ALL.iter().map(|o| mapping(*o, test(o))).collect()
        }
        None => vec![mapping(Operator::Step, Vec::new())],
    };
    let any = mappings.iter().flat_map(|m| &m.shape).any(|d| matches!(d, Dim::Column(_)));
    if !any {
        let message = format!("{} has no column of a shape", header.written);
        let wanted = if operators.is_some() { shape_columns().join(", ") } else { Operator::Step.dims().join(", ") };
        let help = format!("expected some of {wanted}\ncolumns: {}", header.names.join(", "));
        return Err(vec![Diagnostic::new("profile::column", message).help(help)]);
    }
    Ok(Reading { operators, ..Reading::of(mappings) })
}

pub(super) fn steps(settings: &StepLog) -> Planned {
    let StepLog { path, columns, filter, block_tokens, tp } = settings;
    let times = TIMES.map(|(name, _)| name);
    let valid: Vec<&str> = times.into_iter().chain(Operator::Step.dims().iter().copied()).chain(LOGGED).collect();
    let mut problems = unknown(columns, &valid);
    if *tp == 0 || *block_tokens == 0 {
        let what = Diagnostic::new("profile::steps", "`tp` and `block_tokens` are at least 1");
        problems.push(what.at(path.at.clone()));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut plan = Plan::new(Layout::Steps);
    let renamed = Renamed::new(columns);
    let tests: Vec<Test> = pairs(filter).into_iter().map(|(column, value)| Test::Is(column, value)).collect();
    let (block_tokens, tp) = (*block_tokens, *tp);
    plan.read(path.clone(), Box::new(move |header| step_log(header, &renamed, &tests, block_tokens, tp)));
    plan.settings =
        json!({ "columns": pairs(columns), "where": pairs(filter), "block_tokens": block_tokens, "tp": tp });
    Ok(plan)
}

/// The columns of a log: those of the user, those of our names, and those of layouts that are known.
fn step_log(
    header: &Header,
    renamed: &Renamed,
    tests: &[Test],
    block_tokens: u32,
    tp: u32,
) -> Result<Reading, Vec<Diagnostic>> {
    let mut all = renamed.clone();
    let timed = TIMES.iter().any(|(ours, _)| renamed.of(ours, header).is_some());
    for (ours, theirs) in TRACED {
        let free = !(timed && ours == "latency_us") && renamed.of(ours, header).is_none();
        if free && header.has(theirs) {
            all.0.push((ours.to_string(), theirs.to_string()));
        }
    }
    let (time, factor) = all.time(header)?;
    let of = |ours: &str| all.of(ours, header);
    let scheduled = of("scheduled_tokens");
    let count = |ours: &str, counted: Counted| match (of(ours), &scheduled) {
        (Some(column), _) => Ok(Dim::Column(column)),
        (None, Some(map)) => Ok(Dim::Scheduled(map.clone(), counted)),
        (None, None) => {
            let message = format!("{} has no column `{ours}`", header.written);
            let help = format!("name it: `columns: {{ {ours}: ... }}`\ncolumns: {}", header.names.join(", "));
            Err(vec![Diagnostic::new("profile::column", message).help(help)])
        }
    };
    let prefill_tokens = count("prefill_tokens", Counted::PrefillTokens)?;
    let prefill_requests = match of("prefill_requests").is_some() || scheduled.is_some() {
        true => count("prefill_requests", Counted::PrefillRequests)?,
        false => Dim::Const(0),
    };
    let decode_requests = count("decode_requests", Counted::DecodeRequests)?;
    let decode_context = match (of("decode_context"), of("kv_blocks_total"), of("kv_blocks_free"), &decode_requests) {
        (Some(own), _, _, _) => Dim::Column(own),
        (None, Some(total), Some(free), Dim::Column(requests)) => {
            Dim::Used { total, free, requests: requests.clone(), block_tokens }
        }
        _ => Dim::Const(0),
    };
    let shape = vec![
        prefill_tokens,
        prefill_requests,
        of("prefill_context").map_or(Dim::Const(0), Dim::Column),
        decode_requests,
        decode_context,
        of("tp").map_or(Dim::Const(tp), |name| column(&name)),
    ];
    let mapping = Mapping::new(Operator::Step, shape, &time, factor);
    Ok(Reading { idle: true, ..Reading::of(vec![Mapping { tests: tests.to_vec(), ..mapping }]) })
}
