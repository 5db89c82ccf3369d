//! Problems on which the samplers are tested and compared.

use serde_json::{Value, json};

use super::{Domain, Parameter, Sampler, Space, Trial, pareto};

pub(super) struct Problem {
    pub space: Space,
    pub rule: fn(&[Value]) -> bool,
    pub objectives: fn(&[Value]) -> Option<Vec<f64>>,
}

fn space(parameters: Vec<(&str, Result<Domain, String>)>) -> Space {
    let named =
        |(path, domain): (&str, Result<Domain, String>)| Parameter { path: path.into(), domain: domain.unwrap() };
    Space::new(parameters.into_iter().map(named).collect()).unwrap()
}

fn list(values: Value) -> Result<Domain, String> {
    Domain::list(values.as_array().unwrap().clone())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// 60 points, of which the rule forbids 12.
pub(super) fn small() -> Problem {
    Problem {
        space: space(vec![
            ("name", list(json!(["a", "b", "c"]))),
            ("tp", list(json!([1, 2, 4, 8]))),
            ("n", Domain::int(0, 4, false, None)),
        ]),
        rule: |v| number(&v[1]) * number(&v[2]) < 16.0,
        objectives: |v| Some(vec![number(&v[1]) + number(&v[2]), -number(&v[1])]),
    }
}

/// Names, ordinals, integers and floats on both scales, with a rule, and one region that fails.
pub(super) fn mixed() -> Problem {
    Problem {
        space: space(vec![
            ("policy", list(json!(["fcfs", "lpm", null, "lof", "random"]))),
            ("tp", list(json!([1, 2, 4, 8]))),
            ("batch", Domain::int(256, 16384, true, None)),
            ("seqs", Domain::int(8, 512, false, Some(8))),
            ("memory", Domain::float(0.5, 0.95, false, Some(0.05))),
            ("rate", Domain::float(0.01, 100.0, true, None)),
            ("share", Domain::float(0.0, 1.0, false, None)),
        ]),
        rule: |v| number(&v[1]) * number(&v[3]) <= 1024.0,
        objectives: |v| {
            if v[0] == "random" && number(&v[6]) > 0.9 {
                return None;
            }
            let policy = if v[0] == "lpm" { 0.0 } else { 0.4 };
            let miss = |x: f64, best: f64, width: f64| ((x - best) / width).powi(2);
            let common = policy
                + miss(number(&v[2]).ln(), 2048f64.ln(), 2.0)
                + miss(number(&v[4]), 0.9, 0.4)
                + miss(number(&v[5]).ln(), 0.0, 3.0);
            Some(vec![
                common + 2.0 / number(&v[1]) + number(&v[6]),
                common + 0.2 * number(&v[1]) + 128.0 / (128.0 + number(&v[3])) + 1.0 - number(&v[6]),
            ])
        },
    }
}

/// ZDT1 in 30 dimensions (Zitzler, Deb, Thiele 2000).
pub(super) fn zdt1() -> Problem {
    let paths: Vec<String> = (0..30).map(|i| format!("x{i}")).collect();
    Problem {
        space: space(paths.iter().map(|p| (p.as_str(), Domain::float(0.0, 1.0, false, None))).collect()),
        rule: |_| true,
        objectives: |v| {
            let x: Vec<f64> = v.iter().map(number).collect();
            let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / 29.0;
            Some(vec![x[0], g * (1.0 - (x[0] / g).sqrt())])
        },
    }
}

/// Lists only, and rules that forbid most points: the shape of a serving engine's command line.
pub(super) fn tuner() -> Problem {
    Problem {
        space: space(vec![
            ("tp", list(json!([1, 2, 4, 8]))),
            ("dp", list(json!([1, 2, 4, 8]))),
            ("pp", list(json!([1, 2, 4, 8]))),
            ("backend", list(json!([null, "flashinfer", "triton", "torch_native", "fa3", "fa4"]))),
            ("chunk", list(json!([512, 1024, 2048, 4096, 8192, 16384]))),
            ("prefill", list(json!([4096, 8192, 16384, 32768, 65536]))),
            ("policy", list(json!(["fcfs", "lpm", "random", "dfs-weight", "lof"]))),
            ("page", list(json!([16, 32, 64, 128, 256]))),
            ("graph", list(json!([8, 16, 24, 32, 48, 64, 80, 96]))),
            ("mixed", list(json!([false, true]))),
            ("overlap", list(json!([false, true]))),
            ("steps", list(json!([1, 2, 4, 8, 16]))),
        ]),
        rule: |v| {
            let n = |j: usize| number(&v[j]);
            n(0) * n(1) * n(2) <= 8.0
                && n(4) <= n(5)
                && (n(1) <= 1.0 || n(4) / n(1) >= 256.0)
                && !(n(4) <= 2048.0 && n(8) > 32.0)
                && !(n(1) >= 4.0 && n(8) > 64.0)
        },
        objectives: |v| {
            let n = |j: usize| number(&v[j]);
            let backend = if v[3] == "fa3" { 1.0 } else { 1.4 };
            let policy = if v[6] == "lpm" { 0.9 } else { 1.0 };
            let overlap = if v[10] == true { 0.85 } else { 1.0 };
            let chunking = 1.0 + 0.1 * (n(4) / 4096.0).log2().powi(2) + 0.03 * (n(7) / 64.0).log2().powi(2);
            let latency = backend * policy * chunking * (1.0 + 0.1 * n(11)) * 4.0 / n(0).powf(0.8) / n(1).powf(0.2);
            let graphs = (n(8) / 96.0).powf(0.3);
            let throughput = n(1) * n(0).powf(0.6) * n(2).powf(0.7) * graphs * n(11).powf(0.1) / (backend * overlap);
            Some(vec![latency, -throughput / chunking * if v[9] == true { 1.1 } else { 1.0 }])
        },
    }
}

/// Asks and evaluates until there are `trials` of them, or nothing more is asked for.
pub(super) fn run(sampler: &dyn Sampler, problem: &Problem, trials: usize, batch: usize, seed: u64) -> Vec<Trial> {
    continue_run(sampler, problem, Vec::new(), trials, batch, seed)
}

fn continue_run(
    sampler: &dyn Sampler,
    problem: &Problem,
    mut history: Vec<Trial>,
    trials: usize,
    batch: usize,
    seed: u64,
) -> Vec<Trial> {
    while history.len() < trials {
        let batch = batch.min(trials - history.len());
        let asked = sampler.ask(&problem.space, &history, batch, seed, &problem.rule);
        assert!(asked.len() <= batch);
        if asked.is_empty() {
            break;
        }
        for params in asked {
            assert!((problem.rule)(&params), "{params:?} breaks the rule");
            let objectives = (problem.objectives)(&params);
            history.push(Trial { number: history.len() as u64, feasible: objectives.is_some(), params, objectives });
        }
    }
    history
}

/// Trials do not depend on the batch size, nor on where the run was cut and resumed from stored text.
pub(super) fn check_resumes(sampler: &dyn Sampler, problem: &Problem) {
    let seed = 9;
    let whole = run(sampler, problem, 100, 1, seed);
    for batch in [4, 8, 1000] {
        assert_eq!(run(sampler, problem, 100, batch, seed), whole, "batch {batch}");
    }
    for cut in [1, 19, 20, 33, 90] {
        let mut kept = whole[..cut.min(whole.len())].to_vec();
        for trial in &mut kept {
            let text = serde_json::to_string(&trial.params).unwrap();
            trial.params = serde_json::from_str(&text).unwrap();
        }
        assert_eq!(continue_run(sampler, problem, kept, 100, 8, seed), whole, "resumed after {cut}");
    }
}

pub(super) fn hypervolume(trials: &[Trial], reference: &[f64]) -> f64 {
    pareto::hypervolume(&trials.iter().filter_map(|t| t.objectives.clone()).collect::<Vec<_>>(), reference)
}

pub(super) fn median(mut xs: Vec<f64>) -> f64 {
    xs.sort_by(f64::total_cmp);
    xs[xs.len() / 2]
}
