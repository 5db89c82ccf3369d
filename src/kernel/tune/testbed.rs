//! Problems on which the samplers are tested and compared. Part of the library so that tests and the example `samplers`
//! share them; no part of its interface.

use serde_json::{Value, json};

use super::{Domain, Outcome, Parameter, Rules, SamplerSpec, Settings, Space, Study, Suggestion, Trial, hypervolume};

/// A space, rules, and what comes of a point.
pub struct Problem {
    pub name: &'static str,
    pub space: Space,
    /// The rules that a point breaks.
    pub mask: fn(&[Value]) -> u64,
    /// The parameters that each rule looks at.
    pub concerns: Vec<Vec<usize>>,
    /// All minimised; `None` for a failure.
    pub objectives: fn(&[Value]) -> Option<Vec<f64>>,
    /// Up to where volumes are counted.
    pub reference: Vec<f64>,
    /// The volume of the best front, or the least value of the only objective.
    pub best: f64,
}

impl Rules for Problem {
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
        points.iter().map(|p| (self.mask)(p)).collect()
    }

    fn parameters_of(&self, rule: usize) -> Option<Vec<usize>> {
        self.concerns.get(rule).cloned()
    }

    fn is_empty(&self) -> bool {
        self.concerns.is_empty()
    }
}

fn space(parameters: Vec<(String, Result<Domain, String>)>) -> Space {
    let named = |(path, domain): (String, Result<Domain, String>)| {
        Parameter::new(path, domain.unwrap_or_else(|e| panic!("a domain of the testbed: {e}")))
    };
    Space::new(parameters.into_iter().map(named).collect()).unwrap_or_else(|e| panic!("a space of the testbed: {e}"))
}

fn named(parameters: Vec<(&str, Result<Domain, String>)>) -> Space {
    space(parameters.into_iter().map(|(path, domain)| (path.to_owned(), domain)).collect())
}

fn cube(dimensions: usize, low: f64, high: f64) -> Space {
    space((0..dimensions).map(|i| (format!("x{i}"), Domain::float(low, high, false, None))).collect())
}

fn list(values: Value) -> Result<Domain, String> {
    Domain::list(values.as_array().cloned().unwrap_or_default())
}

/// The number that a value is; NaN for any other.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn numbers(values: &[Value]) -> Vec<f64> {
    values.iter().map(number).collect()
}

fn free(name: &'static str, space: Space, objectives: fn(&[Value]) -> Option<Vec<f64>>) -> Problem {
    Problem { name, space, mask: |_| 0, concerns: Vec::new(), objectives, reference: Vec::new(), best: 0.0 }
}

/// 60 points, of which the rule forbids 12.
pub fn small() -> Problem {
    Problem {
        mask: |v| u64::from(number(&v[1]) * number(&v[2]) >= 16.0),
        concerns: vec![vec![1, 2]],
        ..free(
            "small",
            named(vec![
                ("name", list(json!(["a", "b", "c"]))),
                ("tp", list(json!([1, 2, 4, 8]))),
                ("n", Domain::int(0, 4, false, None)),
            ]),
            |v| Some(vec![number(&v[1]) + number(&v[2]), -number(&v[1])]),
        )
    }
}

/// Names, ordinals, integers and floats on both scales, with a rule, and one region that fails.
pub fn mixed() -> Problem {
    Problem {
        mask: |v| u64::from(number(&v[1]) * number(&v[3]) > 1024.0),
        concerns: vec![vec![1, 3]],
        reference: vec![4.0, 4.0],
        // The best of 180,000 trials.
        best: 11.2335,
        ..free(
            "mixed",
            named(vec![
                ("policy", list(json!(["fcfs", "lpm", null, "lof", "random"]))),
                ("tp", list(json!([1, 2, 4, 8]))),
                ("batch", Domain::int(256, 16384, true, None)),
                ("seqs", Domain::int(8, 512, false, Some(8))),
                ("memory", Domain::float(0.5, 0.95, false, Some(0.05))),
                ("rate", Domain::float(0.01, 100.0, true, None)),
                ("share", Domain::float(0.0, 1.0, false, None)),
            ]),
            |v| {
                if v[0] == "random" && number(&v[6]) > 0.9 {
                    return None;
                }
                let policy = if v[0] == "lpm" { 0.0 } else { 0.4 };
                let miss = |x: f64, best: f64, width: f64| ((x - best) / width).powi(2);
                let common = policy
                    + miss(libm::log(number(&v[2])), libm::log(2048.0), 2.0)
                    + miss(number(&v[4]), 0.9, 0.4)
                    + miss(libm::log(number(&v[5])), 0.0, 3.0);
                Some(vec![
                    common + 2.0 / number(&v[1]) + number(&v[6]),
                    common + 0.2 * number(&v[1]) + 128.0 / (128.0 + number(&v[3])) + 1.0 - number(&v[6]),
                ])
            },
        )
    }
}

/// The first objective of [`mixed`] alone. The least value is 0.25: policy lpm, tp 8, every other term at its optimum.
pub fn mixed_single() -> Problem {
    Problem {
        name: "mixed_single",
        objectives: |v| Some(vec![*(mixed().objectives)(v)?.first()?]),
        reference: Vec::new(),
        best: 0.25,
        ..mixed()
    }
}

/// Branin's function: three equal optima.
pub fn branin() -> Problem {
    let space =
        named(vec![("x", Domain::float(-5.0, 10.0, false, None)), ("y", Domain::float(0.0, 15.0, false, None))]);
    let objectives = |v: &[Value]| {
        let (x, y, pi) = (number(&v[0]), number(&v[1]), std::f64::consts::PI);
        let valley = y - 5.1 / (4.0 * pi * pi) * x * x + 5.0 / pi * x - 6.0;
        Some(vec![valley * valley + 10.0 * (1.0 - 1.0 / (8.0 * pi)) * libm::cos(x) + 10.0])
    };
    Problem { best: 0.397_887, ..free("branin", space, objectives) }
}

/// Hartmann's function in six dimensions: six local optima.
pub fn hartmann6() -> Problem {
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    const WEIGHTS: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    let objectives = |v: &[Value]| {
        let x = numbers(v);
        let hill = |i: usize| {
            let distance: f64 = (0..6).map(|j| A[i][j] * (x[j] - P[i][j]).powi(2)).sum();
            WEIGHTS[i] * libm::exp(-distance)
        };
        Some(vec![-(0..4).map(hill).sum::<f64>()])
    };
    Problem { best: -3.322_37, ..free("hartmann6", cube(6, 0.0, 1.0), objectives) }
}

/// Rosenbrock's function in five dimensions: a bent valley.
pub fn rosenbrock5() -> Problem {
    let objectives = |v: &[Value]| {
        let bend = |w: &[f64]| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2);
        Some(vec![numbers(v).windows(2).map(bend).sum()])
    };
    free("rosenbrock5", cube(5, -5.0, 10.0), objectives)
}

/// ZDT1 in 30 dimensions (Zitzler, Deb, Thiele 2000): the front is `1 - sqrt(x)`.
pub fn zdt1() -> Problem {
    let objectives = |v: &[Value]| {
        let x = numbers(v);
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / 29.0;
        Some(vec![x[0], g * (1.0 - libm::sqrt(x[0] / g))])
    };
    let best = 4.0 + 2.0 / 3.0 + 0.5;
    Problem { reference: vec![1.1, 5.0], best, ..free("zdt1", cube(30, 0.0, 1.0), objectives) }
}

/// ZDT2 in 30 dimensions: the front is `1 - x^2`, which is not convex.
pub fn zdt2() -> Problem {
    let objectives = |v: &[Value]| {
        let x = numbers(v);
        let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / 29.0;
        Some(vec![x[0], g * (1.0 - (x[0] / g).powi(2))])
    };
    let best = 4.0 + 1.0 / 3.0 + 0.5;
    Problem { reference: vec![1.1, 5.0], best, ..free("zdt2", cube(30, 0.0, 1.0), objectives) }
}

/// DTLZ2 with 3 objectives in 12 dimensions (Deb, Thiele, Laumanns, Zitzler 2002): the front is an eighth of a sphere.
pub fn dtlz2() -> Problem {
    let objectives = |v: &[Value]| {
        let x = numbers(v);
        let g: f64 = x[2..].iter().map(|x| (x - 0.5) * (x - 0.5)).sum();
        let (a, b) = (x[0] * std::f64::consts::FRAC_PI_2, x[1] * std::f64::consts::FRAC_PI_2);
        let sphere = [libm::cos(a) * libm::cos(b), libm::cos(a) * libm::sin(b), libm::sin(a)];
        Some(sphere.iter().map(|s| (1.0 + g) * s).collect())
    };
    let best = 1.5 * 1.5 * 1.5 - std::f64::consts::PI / 6.0;
    Problem { reference: vec![1.5; 3], best, ..free("dtlz2", cube(12, 0.0, 1.0), objectives) }
}

/// The 18 parameters of a serving engine's command line with the rules between them on 8 devices, of which 84 % of all
/// points break some, and a made-up response with interactions: time to the first token, and negated tokens per
/// second.
pub fn tuner() -> Problem {
    let sizes = || list(json!([1, 2, 4, 8]));
    let backends = || list(json!([null, "flashinfer", "triton", "torch_native", "fa3"]));
    let space = named(vec![
        ("tp_size", sizes()),
        ("attention_backend", list(json!([null, "flashinfer", "triton", "torch_native", "fa3", "fa4"]))),
        ("chunked_prefill_size", list(json!([null, 512, 1024, 2048, 4096, 8192, 16384]))),
        ("max_prefill_tokens", list(json!([4096, 8192, 16384, 32768, 65536]))),
        ("dp_size", sizes()),
        ("schedule_policy", list(json!(["fcfs", "lpm", "random", "dfs-weight", "lof"]))),
        ("pp_size", sizes()),
        ("decode_attention_backend", backends()),
        ("prefill_attention_backend", backends()),
        ("page_size", list(json!([null, 16, 32, 64, 128, 256]))),
        ("cuda_graph_max_bs", list(json!([null, 8, 16, 24, 32, 48, 64, 80, 96]))),
        ("enable_mixed_chunk", Ok(Domain::boolean())),
        ("disable_overlap_schedule", Ok(Domain::boolean())),
        ("enable_torch_compile", Ok(Domain::boolean())),
        ("num_continuous_decode_steps", list(json!([1, 2, 4, 8, 16]))),
        ("enable_two_batch_overlap", Ok(Domain::boolean())),
        ("tokenizer_worker_num", list(json!([1, 2, 4, 8, 16]))),
        ("sampling_backend", list(json!([null, "flashinfer", "pytorch"]))),
    ]);
    Problem {
        mask: tuner_mask,
        concerns: vec![vec![0, 4, 6], vec![4, 6], vec![2, 3], vec![2, 4], vec![12, 15], vec![2, 10], vec![4, 10]],
        reference: vec![1.0, 0.0],
        // Of all legal points in which whatever has a best value has it.
        best: 88.867_752_277_117_15,
        ..free("tuner", space, tuner_response)
    }
}

fn tuner_mask(v: &[Value]) -> u64 {
    let n = |j: usize| v[j].as_f64();
    let (tp, dp, pp) = (number(&v[0]), number(&v[4]), number(&v[6]));
    let (chunk, graph) = (n(2), n(10));
    let rules = [
        tp * pp * dp > 8.0,
        pp > 4.0 && dp > 4.0,
        chunk.is_some_and(|c| c > number(&v[3])),
        dp > 1.0 && chunk.is_some_and(|c| libm::floor(c / dp) < 256.0),
        v[12] == true && v[15] == true,
        graph.is_some_and(|g| g > 32.0) && chunk.is_some_and(|c| c <= 2048.0),
        graph.is_some_and(|g| g > 64.0) && dp >= 4.0,
    ];
    rules.iter().enumerate().map(|(i, broken)| u64::from(*broken) << i).sum()
}

fn tuner_response(v: &[Value]) -> Option<Vec<f64>> {
    let (tp, dp, pp) = (number(&v[0]), number(&v[4]), number(&v[6]));
    let most = number(&v[3]);
    let chunk = v[2].as_f64().unwrap_or(most);
    let page = v[9].as_f64().unwrap_or(1.0);
    let graph = v[10].as_f64().unwrap_or(40.0);
    let (steps, workers) = (number(&v[14]), number(&v[16]));
    // How fast attention kernels are, in prefill and in decode; those not named are the general one.
    let kernel = |j: usize| if v[j].is_null() { v[1].as_str() } else { v[j].as_str() };
    let speed = |name: Option<&str>, of: [f64; 5]| match name {
        Some("triton") => of[1],
        Some("torch_native") => of[2],
        Some("fa3") => of[3],
        Some("fa4") => of[4],
        Some(_) | None => of[0],
    };
    let prefill = speed(kernel(8), [1.0, 0.8, 0.4, 1.1, 1.3]);
    let decode = speed(kernel(7), [1.1, 0.9, 0.3, 1.0, 0.95]);
    let compiled = if v[13] == true { 1.05 } else { 1.0 };
    let policy = match v[5].as_str() {
        Some("lpm") => [0.85, 1.05],
        Some("random") => [1.15, 0.98],
        Some("dfs-weight") => [0.9, 1.04],
        Some("lof") => [1.05, 0.96],
        Some(_) | None => [1.0, 1.0],
    };
    // Prompts of 1,000 tokens, 24 of them a second, spread over the replicas.
    let rate = 11_000.0 * libm::pow(tp, 0.8) * libm::pow(pp, 0.7) * prefill * compiled * chunk / (chunk + 600.0);
    let busy = (24_000.0 / dp / rate).min(0.95);
    let slots = 190.0 * libm::pow(tp, 0.65) * libm::pow(pp, 0.3) * (1.0 - most / 250_000.0) * (1.0 - graph / 900.0);
    let step_ms = |batch: f64| {
        let eager = if batch > graph { 3.0 / libm::pow(tp, 0.3) } else { 0.0 };
        let halves = if v[15] == true { if batch > 50.0 { 0.92 } else { 1.06 } } else { 1.0 };
        let paging = 1.0 + 0.01 * (libm::log2(page) - 5.0).powi(2);
        let host = if v[12] == true { 1.7 } else { 0.5 } / steps;
        let sampling = if v[17] == "pytorch" { 0.4 } else { 0.14 };
        let body = 5.5 / libm::pow(tp, 0.7) + 0.7 * (pp - 1.0) + 0.04 * batch;
        body * paging * halves / decode + eager + host + sampling
    };
    let batch = (30.0 / dp).min(slots);
    let mixed = if v[11] == true { [0.9, 0.97] } else { [1.0, 1.0] };
    let tokenizer = (1.8 / libm::pow(workers, 0.8)).min(0.95);
    let ttft = 1000.0 / rate * policy[0] * mixed[0] / (1.0 - busy)
        + 0.3 * chunk / rate
        + 0.004 / (1.0 - tokenizer)
        + 0.0006 * steps * step_ms(batch)
        + 0.003 * (pp - 1.0);
    let tps = dp * slots / step_ms(slots) * (1.0 - 0.5 * busy) * policy[1] * mixed[1] * (1.0 - 0.004 * workers);
    Some(vec![ttft, -tps])
}

/// What a study does with a problem.
pub struct Run {
    pub trials: Vec<Trial>,
    pub suggestions: Vec<Suggestion>,
}

/// Asks `ask` at a time and evaluates until there are `trials` of them, or nothing more is asked for.
///
/// # Panics
/// Where the sampler cannot work on the problem.
pub fn run(spec: &SamplerSpec, problem: &Problem, settings: &Settings, trials: usize, ask: usize) -> Run {
    let mut study = Study::new(problem.space.clone(), spec, settings.clone()).unwrap_or_else(|e| panic!("{e:?}"));
    let mut done = Run { trials: Vec::new(), suggestions: Vec::new() };
    while done.trials.len() < trials {
        let asked = study.ask(ask.min(trials - done.trials.len()), problem);
        if asked.is_empty() {
            break;
        }
        for suggestion in asked {
            let trial = evaluated(problem, &suggestion);
            study.tell(trial.clone());
            done.trials.push(trial);
            done.suggestions.push(suggestion);
        }
    }
    done
}

/// What comes of a suggestion.
pub fn evaluated(problem: &Problem, suggestion: &Suggestion) -> Trial {
    let broken = (problem.mask)(&suggestion.values);
    let outcome = match (problem.objectives)(&suggestion.values) {
        _ if broken != 0 => Outcome::Illegal { broken },
        Some(objectives) => Outcome::Complete { objectives, violation: 0.0 },
        None => Outcome::Failed,
    };
    Trial { number: suggestion.number, values: suggestion.values.clone(), outcome }
}

/// The objectives of trials that have them.
pub fn reached(trials: &[Trial]) -> Vec<Vec<f64>> {
    let of = |t: &Trial| match &t.outcome {
        Outcome::Complete { objectives, .. } => Some(objectives.clone()),
        Outcome::Pruned { .. } | Outcome::Illegal { .. } | Outcome::Failed => None,
    };
    trials.iter().filter_map(of).collect()
}

/// How good some trials are: the least value of one objective, or the share of the best volume of several.
pub fn quality(problem: &Problem, trials: &[Trial]) -> f64 {
    let reached = reached(trials);
    if problem.reference.is_empty() {
        return reached.iter().filter_map(|o| o.first().copied()).fold(f64::INFINITY, f64::min);
    }
    hypervolume::hypervolume(&reached, &problem.reference) / problem.best
}

/// The middle one of some numbers, the upper of two.
///
/// # Panics
/// On none.
pub fn median(mut xs: Vec<f64>) -> f64 {
    xs.sort_by(f64::total_cmp);
    xs[xs.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The points and values of `tests/bench/samplers/functions.py`, which are computed independently.
    #[test]
    fn functions_are_those_that_other_programs_are_measured_on() {
        let far = |n: usize, x: f64| vec![json!(x); n];
        let engine = json!([
            2,
            "fa3",
            null,
            8192,
            2,
            "lpm",
            2,
            null,
            "triton",
            64,
            48,
            true,
            false,
            true,
            4,
            true,
            4,
            "flashinfer"
        ]);
        let engine = engine.as_array().unwrap().clone();
        let lof = json!(["lof", 2, 300, 64, 0.7, 0.5, 0.25]).as_array().unwrap().clone();
        for (problem, point, expect) in [
            (branin(), vec![json!(std::f64::consts::PI), json!(2.275)], vec![0.397_887_357_729_738_16]),
            (hartmann6(), far(6, 0.5), vec![-0.505_314_991_702_233_3]),
            (rosenbrock5(), far(5, 2.0), vec![1604.0]),
            (mixed_single(), lof, vec![2.875_786_894_194_076_7]),
            (zdt1(), far(30, 0.25), vec![0.25, 2.348_612_181_134_002_6]),
            (zdt2(), far(30, 0.25), vec![0.25, 3.230_769_230_769_231]),
            (dtlz2(), far(12, 0.25), vec![1.387_024_259_714_069_8, 0.574_524_259_714_069_8, 0.621_860_577_593_270_8]),
            (tuner(), engine, vec![0.188_383_379_489_500_6, -26.733_969_810_595_074]),
        ] {
            let got = (problem.objectives)(&point).unwrap();
            let near = got.iter().zip(&expect).all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs().max(1.0));
            assert!(near && got.len() == expect.len(), "{}: {got:?} instead of {expect:?}", problem.name);
        }
    }
}
