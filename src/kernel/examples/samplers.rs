//! What the samplers cost, and what they find.
//!
//! ```sh
//! cargo run --release -p pipe-kernel --example samplers -- [--seeds 20] [--functions branin,zdt1,large]
//!     [--samplers tpe,auto] [--trials 300] [--batch 8] > runs.jsonl
//! ```
//!
//! Standard output has one line of JSON per run, which `tests/bench/samplers/compare.py` reads beside those of other
//! programs: `library`, `version`, `sampler`, `function`, `seed`, `trials`, `cpu_seconds` and `values`, one list of
//! objectives per trial, or null where nothing came out. Standard error has a summary: of the median seed, the least
//! value of one objective, or the share of the best volume of several.
//!
//! Time is that of the processor where the system tells it (Linux), so that other programs do not count; the evaluation
//! of the function, its rules and the choice of legal points are part of it. The function `large` is studies of up to
//! 400,000 trials of NSGA-II: their time, and what the study keeps in memory.

use std::time::Instant;

use pipe_kernel::tune::testbed::{self, Problem, evaluated, median, quality};
use pipe_kernel::tune::{CmaEs, Multivariate, Nsga2, Nsga3, Outcome, SamplerSpec, Settings, Study, Tpe, Trial};
use serde_json::json;

/// Trials after which the summary tells what was found.
const MARKS: [usize; 8] = [50, 100, 200, 300, 500, 1000, 2000, 5000];

fn samplers() -> Vec<(&'static str, SamplerSpec)> {
    let tpe = |together| SamplerSpec::Tpe(Tpe { multivariate: Multivariate::Always(together), ..Tpe::default() });
    vec![
        ("random", SamplerSpec::Random),
        ("sobol", SamplerSpec::Sobol),
        ("tpe", SamplerSpec::Tpe(Tpe::default())),
        ("tpe_multivariate", tpe(true)),
        ("tpe_independent", tpe(false)),
        ("nsga2", SamplerSpec::Nsga2(Nsga2::default())),
        ("nsga3", SamplerSpec::Nsga3(Nsga3::default())),
        ("cmaes", SamplerSpec::CmaEs(CmaEs::default())),
        ("auto", SamplerSpec::Auto),
    ]
}

/// How long the runs of a sampler are: as long as those of its like in the other programs, which are slower.
fn lengths(problem: &Problem, sampler: &str) -> &'static [usize] {
    match (problem.reference.is_empty(), sampler.starts_with("tpe"), problem.name) {
        (true, _, _) => &[300],
        (false, true, "tuner") => &[300, 1000],
        (false, true, _) => &[300],
        (false, false, _) => &[1000],
    }
}

/// What was asked for on the command line.
struct Wanted {
    seeds: u64,
    functions: Option<Vec<String>>,
    samplers: Option<Vec<String>>,
    trials: Option<usize>,
    batch: Option<u32>,
}

impl Wanted {
    fn read() -> Result<Wanted, String> {
        let mut wanted = Wanted { seeds: 20, functions: None, samplers: None, trials: None, batch: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|e| format!("{name} {value}: {e}"));
            let names = || Some(value.split(',').map(str::to_owned).collect());
            match name.as_str() {
                "--seeds" => wanted.seeds = number()?.max(1),
                "--trials" => wanted.trials = Some(number()?.max(1) as usize),
                "--batch" => wanted.batch = Some(number()?.max(1) as u32),
                "--functions" => wanted.functions = names(),
                "--samplers" => wanted.samplers = names(),
                _ => return Err(format!("unknown: {name}")),
            }
        }
        Ok(wanted)
    }
}

fn has(names: &Option<Vec<String>>, name: &str) -> bool {
    names.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
}

fn main() -> Result<(), String> {
    let wanted = Wanted::read()?;
    let problems = [
        testbed::branin(),
        testbed::hartmann6(),
        testbed::rosenbrock5(),
        testbed::mixed_single(),
        testbed::zdt1(),
        testbed::zdt2(),
        testbed::dtlz2(),
        testbed::tuner(),
    ];
    for problem in problems.iter().filter(|p| has(&wanted.functions, p.name)) {
        eprintln!("{}, {} seeds", problem.name, wanted.seeds);
        let objectives = problem.reference.len().max(1);
        for (name, spec) in samplers().iter().filter(|(name, _)| has(&wanted.samplers, name)) {
            if !spec.problems(&problem.space, objectives).is_empty() {
                continue;
            }
            match wanted.trials {
                Some(trials) => compare(name, spec, problem, trials, &wanted),
                None => lengths(problem, name).iter().for_each(|n| compare(name, spec, problem, *n, &wanted)),
            }
        }
    }
    if has(&wanted.functions, "large") {
        let before = resident_mib();
        [100_000, 200_000, 400_000].into_iter().for_each(|trials| large(trials, before));
    }
    Ok(())
}

/// Runs of all seeds: a line each, and one of the summary.
fn compare(name: &str, spec: &SamplerSpec, problem: &Problem, trials: usize, wanted: &Wanted) {
    let standard = Settings::default();
    let settings = |seed| Settings {
        seed,
        objectives: problem.reference.len().max(1),
        budget: Some(trials as u64),
        batch: wanted.batch.unwrap_or(standard.batch),
        ..standard.clone()
    };
    let runs: Vec<(Vec<Trial>, f64)> =
        (0..wanted.seeds).map(|seed| search(spec, problem, trials, settings(seed))).collect();
    for (seed, (done, cpu_s)) in runs.iter().enumerate() {
        let values: Vec<Option<Vec<f64>>> = done.iter().map(objectives_of).collect();
        let version = env!("CARGO_PKG_VERSION");
        println!(
            "{}",
            json!({"library": "pipe", "version": version, "sampler": name, "function": problem.name, "seed": seed,
                "trials": trials, "cpu_seconds": cpu_s, "values": values})
        );
    }
    let at = |mark: usize| median(runs.iter().map(|(t, _)| quality(problem, &t[..mark.min(t.len())])).collect());
    let told: Vec<String> = MARKS.iter().filter(|m| **m <= trials).map(|m| format!("@{m} {:.4}", at(*m))).collect();
    let us = median(runs.iter().map(|(done, cpu_s)| cpu_s * 1e6 / done.len() as f64).collect());
    eprintln!("  {name:16} {us:8.2} us  {}", told.join("  "));
}

/// To nine digits, as the other programs write them.
fn objectives_of(trial: &Trial) -> Option<Vec<f64>> {
    match &trial.outcome {
        Outcome::Complete { objectives, .. } => {
            let digits = |x: &f64| format!("{x:.8e}").parse().unwrap_or(*x);
            Some(objectives.iter().map(digits).collect())
        }
        Outcome::Pruned { .. } | Outcome::Illegal { .. } | Outcome::Failed => None,
    }
}

/// The trials of a search, and seconds that it took.
fn search(spec: &SamplerSpec, problem: &Problem, trials: usize, settings: Settings) -> (Vec<Trial>, f64) {
    let mut study = Study::new(problem.space.clone(), spec, settings).expect("a sampler without problems");
    let mut done: Vec<Trial> = Vec::new();
    let clock = Clock::start();
    while done.len() < trials {
        let asked = study.ask(64.min(trials - done.len()), problem);
        if asked.is_empty() {
            break;
        }
        for suggestion in asked {
            let trial = evaluated(problem, &suggestion);
            // The values are not needed any more.
            done.push(Trial { number: trial.number, values: Vec::new(), outcome: trial.outcome.clone() });
            study.tell(trial);
        }
    }
    (done, clock.seconds())
}

/// A study of so many trials of NSGA-II with 30 parameters and two objectives, which keeps nothing but itself.
/// `before` is the memory of the process without it.
fn large(trials: usize, before: Option<f64>) {
    let problem = testbed::zdt1();
    let settings = Settings { objectives: 2, ..Settings::default() };
    let spec = SamplerSpec::Nsga2(Nsga2::default());
    let mut study = Study::new(problem.space.clone(), &spec, settings).expect("a sampler without problems");
    let clock = Clock::start();
    while study.told() < trials as u64 {
        for suggestion in study.ask(50, &problem) {
            study.tell(evaluated(&problem, &suggestion));
        }
    }
    let seconds = clock.seconds();
    let kept =
        resident_mib().zip(before).map_or(String::new(), |(after, before)| format!(", {:.0} MiB", after - before));
    eprintln!("{trials} trials of nsga2 on zdt1: {seconds:.2} s{kept}");
}

/// Measures the time that this thread has a processor for; where the system does not tell, time as it passes.
struct Clock {
    wall: Instant,
    processor_s: Option<f64>,
}

impl Clock {
    fn start() -> Clock {
        Clock { wall: Instant::now(), processor_s: processor_s() }
    }

    fn seconds(&self) -> f64 {
        processor_s().zip(self.processor_s).map_or(self.wall.elapsed().as_secs_f64(), |(end, start)| end - start)
    }
}

/// Seconds that this thread has had a processor for. The kernel brings the figure up to date when the thread is
/// scheduled, so it is given way first.
fn processor_s() -> Option<f64> {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-9)
}

/// Memory that the process holds.
fn resident_mib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
