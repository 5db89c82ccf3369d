//! `pipe bench`: how fast the simulator is on this machine.
//!
//! Every measurement is a process of its own: it builds the workload, looks at the clock and at its memory, simulates
//! with a sink that only counts, and looks again. So cases do not warm or fill each other's allocator, and the peak of
//! resident memory can be told from what the workload takes. What is counted must be the same in every repetition.
//!
//! Time is that which the thread ran, from `/proc/thread-self/schedstat`, not the wall clock: machines are shared. Memory
//! is `VmHWM` of `/proc/self/status`, set back through `/proc/self/clear_refs`. Where there is no such file, the wall
//! clock serves and says so, and memory is not told.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use pipe_kernel::bench_cases::{self, Case};
use serde::{Deserialize, Serialize};

use super::{Done, table, thousands};
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::stage::trace_file;

#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Only this case; may be given several times
    #[arg(long = "case", value_name = "LETTER", value_parser = letter)]
    cases: Vec<Case>,
    /// Runs of each case; the fastest counts, and the one with the most memory
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Trace for cases c and h in place of the synthetic conversations, such as Mooncake's `conversation_trace.jsonl`
    #[arg(long, value_name = "PATH")]
    trace: Option<PathBuf>,
    /// Share of each case's requests, for a quick look; a trace is never cut
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    scale: f64,
    /// One JSON object per case
    #[arg(long)]
    json: bool,
    /// Measure the one case here and now, and print what was measured
    #[arg(long, hide = true)]
    child: bool,
}

fn letter(text: &str) -> std::result::Result<Case, String> {
    let found = Case::ALL.into_iter().find(|c| c.letter() == text);
    found.ok_or_else(|| format!("cases are {}", Case::ALL.map(Case::letter).join(", ")))
}

fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        Ok(_) | Err(_) => Err("a number above 0, at most 1".to_string()),
    }
}

/// Which clock the seconds are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Clock {
    Cpu,
    Wall,
}

/// What depends on the case alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    case: String,
    name: String,
    /// `synthetic`, or the path of the trace.
    workload: String,
    replicas: u32,
    requests: u64,
    output_tokens: u64,
    steps: u64,
    preemptions: u64,
    prefix_tokens_queried: u64,
    prefix_tokens_hit: u64,
}

/// One run, as a child prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    counted: Counted,
    clock: Clock,
    seconds: f64,
    /// Most memory during the simulation over what there was before it.
    peak_bytes: Option<u64>,
}

pub(super) fn bench(args: BenchArgs) -> Done {
    let mut cases = args.cases.clone();
    if cases.is_empty() {
        cases.extend(Case::ALL);
    }
    if args.trace.is_some() && !cases.iter().any(|case| case.takes_trace()) {
        let problem = Diagnostic::new("bench::trace", "`--trace` is for cases c and h, neither of which is asked for");
        return Err(Failure::from(problem.help("add `--case c` or `--case h`, or leave `--trace` out")).into());
    }
    if let Some(path) = args.trace.as_ref().filter(|path| !path.is_file()) {
        let message = format!("`--trace`: there is no file {}", path.display());
        return Err(Failure::from(Diagnostic::new("bench::trace", message)).into());
    }
    if args.child {
        for case in cases {
            let run = measure(case, &args)?;
            say!("{}", serde_json::json!(run));
        }
        return Ok(Exit::Ok);
    }
    let results = rounds(&cases, &args)?;
    if args.json {
        for result in &results {
            say!("{}", in_full(result, &results));
        }
    } else {
        put!("{}", for_people(&results));
    }
    Ok(Exit::Ok)
}

/// Case after case, again and again: what slows the machine for a while slows all of them.
fn rounds(cases: &[Case], args: &BenchArgs) -> Result<Vec<Run>> {
    let mut best: Vec<Run> = Vec::new();
    for round in 0..args.repeat {
        for (i, case) in cases.iter().enumerate() {
            let run = in_child(*case, args)?;
            if round == 0 {
                best.push(run);
                continue;
            }
            assert_eq!(best[i].counted, run.counted, "the same case gave another result");
            best[i].seconds = best[i].seconds.min(run.seconds);
            best[i].peak_bytes = best[i].peak_bytes.max(run.peak_bytes);
        }
    }
    Ok(best)
}

fn in_child(case: Case, args: &BenchArgs) -> Result<Run> {
    let failed = |what: String| Failure::stage("bench::child", format!("case {}: {what}", case.letter()));
    let program = std::env::current_exe().map_err(|e| failed(format!("cannot find this program: {e}")))?;
    let mut command = Command::new(program);
    command.args(["bench", "--child", "--case", case.letter(), "--scale", &args.scale.to_string()]);
    if let (true, Some(trace)) = (case.takes_trace(), &args.trace) {
        command.arg("--trace").arg(trace);
    }
    // What is wrong, the child says itself.
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(format!("cannot start a process: {e}")))?;
    match out.status.code() {
        Some(0) => serde_json::from_slice(&out.stdout).map_err(|e| failed(format!("unreadable result: {e}"))),
        Some(code) if code == Exit::Usage as i32 => Err(Failure::usage(Vec::new())),
        Some(code) if code == Exit::Stage as i32 => Err(Failure { exit: Exit::Stage, diagnostics: Vec::new() }),
        Some(_) | None => Err(failed(format!("its process ended with {}", out.status))),
    }
}

/// Runs a case in this process.
fn measure(case: Case, args: &BenchArgs) -> Result<Run> {
    let (requests, workload) = match (case.takes_trace(), &args.trace) {
        (true, Some(path)) => (trace_file::read(path)?, path.display().to_string()),
        _ => {
            let count = f64::from(case.count()) * args.scale;
            (case.requests((count as u32).max(1)), "synthetic".to_string())
        }
    };
    let scenario = case.scenario();
    let before = memory("VmRSS:");
    // Without this, the most memory could be that of building the workload.
    let fresh = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let watch = Watch::start();
    let done = bench_cases::run(&scenario, &requests);
    let (seconds, clock) = watch.stop();
    let after = memory("VmHWM:").filter(|_| fresh);
    let (counts, summary) =
        done.map_err(|e| Failure::stage("bench::simulate", format!("case {}: {e}", case.letter())))?;
    let counted = Counted {
        case: case.letter().to_string(),
        name: case.name().to_string(),
        workload,
        replicas: scenario.deployment.replicas,
        requests: counts.requests,
        output_tokens: counts.output_tokens,
        steps: summary.steps,
        preemptions: summary.preemptions,
        prefix_tokens_queried: summary.prefix_tokens_queried,
        prefix_tokens_hit: summary.prefix_tokens_hit,
    };
    let peak_bytes = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    Ok(Run { counted, clock, seconds, peak_bytes })
}

/// Time that this thread runs, or else time that passes.
struct Watch {
    ran_ns: Option<u64>,
    began: Instant,
}

impl Watch {
    fn start() -> Watch {
        Watch { ran_ns: ran_ns(), began: Instant::now() }
    }

    fn stop(self) -> (f64, Clock) {
        match (self.ran_ns, ran_ns()) {
            (Some(before), Some(after)) => (after.saturating_sub(before).max(1) as f64 / 1e9, Clock::Cpu),
            (None, _) | (_, None) => (self.began.elapsed().as_secs_f64(), Clock::Wall),
        }
    }
}

/// Nanoseconds that this thread has been on a processor.
fn ran_ns() -> Option<u64> {
    // The kernel accounts when it schedules, or with the timer, some milliseconds late: so it is asked to schedule.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// A line of `/proc/self/status`, in bytes.
fn memory(line: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(line))?;
    value.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

impl Run {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }

    fn hit_rate(&self) -> f64 {
        let Counted { prefix_tokens_hit: hit, prefix_tokens_queried: of, .. } = self.counted;
        if of == 0 { 0.0 } else { hit as f64 / of as f64 }
    }
}

/// How much longer than case a a case took that only differs in one thing.
fn ratio(run: &Run, all: &[Run]) -> Option<f64> {
    let derived = [Case::LongOutputs, Case::MoreRequests].iter().any(|c| c.letter() == run.counted.case);
    let plain = all.iter().find(|r| r.counted.case == Case::Plain.letter())?;
    derived.then_some(run.seconds / plain.seconds)
}

fn in_full(run: &Run, all: &[Run]) -> serde_json::Value {
    let Run { counted: c, clock, seconds, peak_bytes } = run;
    serde_json::json!({
        "case": c.case,
        "name": c.name,
        "workload": c.workload,
        "replicas": c.replicas,
        "requests": c.requests,
        "output_tokens": c.output_tokens,
        "steps": c.steps,
        "preemptions": c.preemptions,
        "hit_rate": run.hit_rate(),
        "clock": clock,
        "seconds": seconds,
        "requests_per_s": run.per_second(c.requests),
        "output_tokens_per_s": run.per_second(c.output_tokens),
        "steps_per_s": run.per_second(c.steps),
        "peak_bytes": peak_bytes,
        "seconds_over_case_a": ratio(run, all),
    })
}

fn for_people(runs: &[Run]) -> String {
    let wall = runs.iter().any(|r| r.clock == Clock::Wall);
    let second = if wall { "s" } else { "CPU-s" };
    let header = [
        "case".to_string(),
        String::new(),
        "requests".to_string(),
        "output tokens".to_string(),
        "steps".to_string(),
        "preemptions".to_string(),
        "hit rate".to_string(),
        second.replace('-', " "),
        format!("requests/{second}"),
        format!("Mtokens/{second}"),
        format!("Msteps/{second}"),
        "peak MB".to_string(),
    ];
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    let mut out = table(&header.each_ref().map(String::as_str), &rows);
    for run in runs {
        let Some(ratio) = ratio(run, runs) else { continue };
        let (of, expect) = if run.counted.case == Case::LongOutputs.letter() {
            ("tokens", "below 2: steps are counted, not tokens")
        } else {
            ("requests", "about 2: linear")
        };
        out += &format!("  {}: {ratio:.2} times the time of case a for twice the {of} ({expect})\n", run.counted.case);
    }
    for run in runs.iter().filter(|r| r.counted.case == Case::Prefixes.letter()) {
        let which = match run.counted.workload.as_str() {
            "synthetic" => "a synthetic workload like Mooncake's conversation trace; --trace PATH reads a real one",
            path => path,
        };
        out += &format!("  c: {which}\n");
    }
    if wall {
        out += "  wall clock: this system does not tell how long a thread ran\n";
    }
    out
}

fn row(run: &Run) -> Vec<String> {
    let c = &run.counted;
    vec![
        c.case.clone(),
        c.name.clone(),
        thousands(c.requests),
        thousands(c.output_tokens),
        thousands(c.steps),
        thousands(c.preemptions),
        format!("{:.1}%", run.hit_rate() * 100.0),
        format!("{:.3}", run.seconds),
        thousands(run.per_second(c.requests) as u64),
        format!("{:.1}", run.per_second(c.output_tokens) / 1e6),
        format!("{:.2}", run.per_second(c.steps) / 1e6),
        run.peak_bytes.map_or("-".to_string(), |b| format!("{:.1}", b as f64 / 1e6)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(case: Case, seconds: f64, clock: Clock, peak_bytes: Option<u64>) -> Run {
        let counted = Counted {
            case: case.letter().to_string(),
            name: case.name().to_string(),
            workload: "synthetic".to_string(),
            replicas: 1,
            requests: 1_000,
            output_tokens: 2_000_000,
            steps: 30_000,
            preemptions: 4,
            prefix_tokens_queried: 200,
            prefix_tokens_hit: 15,
        };
        Run { counted, clock, seconds, peak_bytes }
    }

    #[test]
    fn figures_are_per_second_of_the_clock_that_there_is() {
        let cpu = for_people(&[run(Case::Plain, 0.5, Clock::Cpu, Some(12_340_000))]);
        let lines: Vec<&str> = cpu.lines().collect();
        assert!(lines[0].contains("CPU s") && lines[0].ends_with("peak MB"), "{cpu}");
        let cells: Vec<&str> = lines[1].split_whitespace().rev().take(9).collect();
        assert_eq!(cells, ["12.3", "0.06", "4.0", "2,000", "0.500", "7.5%", "4", "30,000", "2,000,000"]);
        assert_eq!(lines.len(), 2);
        let wall = for_people(&[run(Case::Plain, 0.5, Clock::Wall, None)]);
        assert!(!wall.contains("CPU") && wall.contains("wall clock") && wall.contains('-'), "{wall}");
    }

    #[test]
    fn derived_cases_are_compared_with_the_first() {
        let runs = [
            run(Case::Plain, 0.5, Clock::Cpu, None),
            run(Case::LongOutputs, 0.6, Clock::Cpu, None),
            run(Case::MoreRequests, 1.0, Clock::Cpu, None),
        ];
        assert_eq!(runs.each_ref().map(|r| ratio(r, &runs)), [None, Some(1.2), Some(2.0)]);
        assert_eq!(ratio(&runs[1], &runs[1..]), None);
        let text = for_people(&runs);
        assert!(text.contains("e: 1.20 times") && text.contains("f: 2.00 times"), "{text}");
    }

    #[test]
    fn a_share_is_above_zero_and_at_most_one() {
        for (text, ok) in [("1", true), ("0.01", true), ("0", false), ("1.1", false), ("NaN", false), ("x", false)] {
            assert_eq!(share(text).is_ok(), ok, "{text}");
        }
        assert_eq!(letter("c"), Ok(Case::Prefixes));
        assert!(letter("z").unwrap_err().contains("a, b, c, d, e, f, g, h"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn time_and_memory_are_those_of_the_process() {
        let watch = Watch::start();
        let busy = Instant::now();
        let mut filled: Vec<u64> = Vec::new();
        while busy.elapsed().as_millis() < 20 {
            filled.push(filled.len() as u64);
        }
        let (seconds, clock) = watch.stop();
        assert!(clock == Clock::Wall || seconds <= 1.1 * busy.elapsed().as_secs_f64() + 0.005, "{seconds} {clock:?}");
        assert!(seconds > 0.0 && !filled.is_empty());
        assert!(memory("VmHWM:") >= memory("VmRSS:").map(|b| b / 2));
        assert_eq!(memory("VmNothing:"), None);
    }
}
