//! What the samplers cost, and what they find: microseconds per trial, and the median result over some seeds.
//!
//! `cargo run --release -p pipe-kernel --example samplers -- 5`: number of seeds; a second argument names one problem,
//! a third one sampler, a fourth sets the number of trials. Of one objective the least value is told, of several the
//! share of the best volume. Time is that of the processor where the system tells it (Linux), so that other programs do not
//! count; the evaluation of the problem, its rules and the choice of legal points are part of it. The last line is
//! 100,000 trials of NSGA-II.

use std::time::Instant;

use pipe_kernel::tune::testbed::{self, Problem, evaluated, median, quality};
use pipe_kernel::tune::{CmaEs, Multivariate, Nsga2, Nsga3, SamplerSpec, Settings, Study, Tpe, Trial};

fn samplers() -> Vec<(&'static str, SamplerSpec)> {
    let tpe = |together| SamplerSpec::Tpe(Tpe { multivariate: Multivariate::Always(together), ..Tpe::default() });
    vec![
        ("random", SamplerSpec::Random),
        ("sobol", SamplerSpec::Sobol),
        ("tpe together", tpe(true)),
        ("tpe single", tpe(false)),
        ("tpe", SamplerSpec::Tpe(Tpe::default())),
        ("nsga2", SamplerSpec::Nsga2(Nsga2::default())),
        ("nsga3", SamplerSpec::Nsga3(Nsga3::default())),
        ("cma_es", SamplerSpec::CmaEs(CmaEs::default())),
        ("auto", SamplerSpec::Auto),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seeds: u64 = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(5);
    let wanted = |i: usize, name: &str| arguments.get(i).is_none_or(|a| a.is_empty() || a == name);
    let problems = [
        testbed::branin(),
        testbed::hartmann6(),
        testbed::rosenbrock5(),
        testbed::mixed_single(),
        testbed::mixed(),
        testbed::zdt1(),
        testbed::zdt2(),
        testbed::dtlz2(),
        testbed::tuner(),
    ];
    for problem in problems.iter().filter(|p| wanted(1, p.name)) {
        let several = !problem.reference.is_empty();
        let trials = arguments.get(3).and_then(|a| a.parse().ok()).unwrap_or(if several { 1000 } else { 300 });
        println!("{}, {trials} trials, {seeds} seeds", problem.name);
        for (name, spec) in samplers().iter().filter(|(name, _)| wanted(2, name)) {
            let objectives = if several { problem.reference.len() } else { 1 };
            if spec.problems(&problem.space, objectives).is_empty() {
                compare(name, spec, problem, trials, seeds, objectives);
            }
        }
    }
    let problem = testbed::zdt1();
    let (_, us) = search(&SamplerSpec::Nsga2(Nsga2::default()), &problem, 100_000, 0, 2);
    println!("100,000 trials of nsga2 on zdt1: {:.2} s", us * 0.1);
}

fn compare(name: &str, spec: &SamplerSpec, problem: &Problem, trials: usize, seeds: u64, objectives: usize) {
    let marks: Vec<usize> = [50, 100, 200, 300, 500, 1000, 2000, 5000].into_iter().filter(|m| *m <= trials).collect();
    let runs: Vec<(Vec<Trial>, f64)> = (0..seeds).map(|seed| search(spec, problem, trials, seed, objectives)).collect();
    let at = |mark: usize| median(runs.iter().map(|(t, _)| quality(problem, &t[..mark.min(t.len())])).collect());
    let told: Vec<String> = marks.iter().map(|m| format!("@{m} {:.4}", at(*m))).collect();
    println!("  {name:13} {:9.1} us  {}", median(runs.iter().map(|(_, us)| *us).collect()), told.join("  "));
}

/// The trials of a search, and microseconds per trial.
fn search(spec: &SamplerSpec, problem: &Problem, trials: usize, seed: u64, objectives: usize) -> (Vec<Trial>, f64) {
    let settings = Settings { seed, objectives, budget: Some(trials as u64), ..Settings::default() };
    let mut study = Study::new(problem.space.clone(), spec, settings).expect("a sampler without problems");
    let mut done: Vec<Trial> = Vec::new();
    let (clock, start) = (Instant::now(), processor_s());
    while done.len() < trials {
        let asked = study.ask(64.min(trials - done.len()), problem);
        if asked.is_empty() {
            break;
        }
        for suggestion in asked {
            let trial = evaluated(problem, &suggestion);
            done.push(trial.clone());
            study.tell(trial);
        }
    }
    let wall = clock.elapsed().as_secs_f64();
    let spent = match (start, processor_s()) {
        // The system counts in ticks of some milliseconds.
        (Some(start), Some(end)) if wall > 0.05 => end - start,
        _ => wall,
    };
    let us = spent * 1e6 / done.len() as f64;
    (done, us)
}

/// Seconds that this thread has had a processor for.
fn processor_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-9)
}
