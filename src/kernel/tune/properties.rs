//! What must hold for every sampler, on hundreds of random spaces with conditions, unset values and rules.

use std::collections::HashSet;

use rand_pcg::Pcg64;
use serde_json::{Value, json};

use super::testbed::{self, Problem, evaluated};
use super::*;
use crate::rng;

/// A space with rules of any kind, and outcomes of any kind.
struct World {
    space: Space,
    /// Two parameters and a limit: no more than so much of both together.
    limits: Vec<(usize, usize, f64)>,
    /// Whether it is known which parameters rules look at.
    known: bool,
    objectives: usize,
    seed: u64,
}

impl Rules for World {
    fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
        let mask = |values: &Vec<Value>| {
            let places = self.space.places(values).unwrap_or_else(|| panic!("{values:?} {:?}", self.space));
            let of = |j: usize| places[j].max(0.0);
            let rules = self.limits.iter().enumerate();
            rules.map(|(i, (a, b, most))| u64::from(of(*a) + of(*b) > *most) << i).sum()
        };
        points.iter().map(mask).collect()
    }

    fn parameters_of(&self, rule: usize) -> Option<Vec<usize>> {
        self.known.then(|| vec![self.limits[rule].0, self.limits[rule].1])
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = rng::stream(seed, "world");
        let n = 1 + rng::below(&mut rng, 6) as usize;
        let mut parameters: Vec<Parameter> = Vec::new();
        for i in 0..n {
            let mut parameter = Parameter::new(format!("p{i}"), domain(&mut rng));
            let candidates: Vec<&Parameter> = parameters.iter().filter(|p| p.domain.levels().is_some()).collect();
            if !candidates.is_empty() && rng::below(&mut rng, 3) == 0 {
                let parent = candidates[rng::below(&mut rng, candidates.len() as u64) as usize];
                let values = (0..2).map(|_| parent.domain.decode(rng::uniform01(&mut rng))).collect();
                parameter = parameter.when(parent.path.clone(), values);
            }
            parameters.push(parameter);
        }
        // Parameters may stand before those that they depend on.
        if rng::below(&mut rng, 2) == 0 {
            parameters.reverse();
        }
        let limits = (0..rng::below(&mut rng, 3)).map(|_| {
            let [a, b] = [0, 1].map(|_| rng::below(&mut rng, n as u64) as usize);
            (a, b, 0.4 + 1.2 * rng::uniform01(&mut rng))
        });
        World {
            limits: limits.collect(),
            space: Space::new(parameters).unwrap(),
            known: rng::below(&mut rng, 2) == 0,
            objectives: 1 + rng::below(&mut rng, 4) as usize,
            seed,
        }
    }

    /// What comes of a suggestion: a matter of its values alone.
    fn outcome(&self, suggestion: &Suggestion) -> Outcome {
        let broken = self.broken(std::slice::from_ref(&suggestion.values))[0];
        if broken != 0 {
            return Outcome::Illegal { broken };
        }
        let places = self.space.places(&suggestion.values).unwrap();
        let mut rng = rng::stream(self.seed, &format!("outcome/{places:?}"));
        let aim = |k: usize| {
            let away = |(j, p): (usize, &f64)| (p - ((j + k) % 3) as f64 / 2.0).abs();
            (places.iter().enumerate().map(away).sum::<f64>() * 4.0).round()
        };
        let objectives = (0..self.objectives).map(aim).collect();
        match rng::below(&mut rng, 12) {
            0 => Outcome::Failed,
            1 => Outcome::Complete { objectives: vec![f64::NAN; self.objectives], violation: 0.0 },
            2 => Outcome::Complete { objectives, violation: 1.0 + rng::uniform01(&mut rng) },
            3 | 4 => Outcome::Pruned { rung: rng::below(&mut rng, 3) as u32, objectives, violation: 0.0 },
            _ => Outcome::Complete { objectives, violation: 0.0 },
        }
    }

    fn settings(&self, on_violation: OnViolation) -> Settings {
        Settings { seed: self.seed, objectives: self.objectives, batch: 5, on_violation, ..Settings::default() }
    }

    /// Goes on with a study until it has `trials`, asking for as many at a time as chance says.
    fn go_on(&self, study: &mut Study, trials: u64, lots: &mut Pcg64) -> Vec<(Suggestion, Trial)> {
        let mut done = Vec::new();
        while study.told() < trials {
            let ask = (1 + rng::below(lots, 12)).min(trials - study.told());
            let mut asked = study.ask(ask as usize, self);
            // Sometimes more is asked for before anything is told.
            let more = trials - study.told() - asked.len() as u64;
            if rng::below(lots, 3) == 0 && !asked.is_empty() {
                asked.extend(study.ask(more.min(3) as usize, self));
            }
            if asked.is_empty() {
                break;
            }
            for suggestion in asked {
                let outcome = self.outcome(&suggestion);
                let trial = Trial { number: suggestion.number, values: suggestion.values.clone(), outcome };
                study.tell(trial.clone());
                done.push((suggestion, trial));
            }
        }
        done
    }

    /// All legal points of a small space.
    fn legal(&self) -> Option<u64> {
        let points = self.space.points().filter(|n| *n <= 500)?;
        let all: Vec<Vec<Value>> = (0..points).map(|i| self.space.values(&self.space.nth(i))).collect();
        Some(self.broken(&all).into_iter().filter(|mask| *mask == 0).count() as u64)
    }
}

fn domain(rng: &mut Pcg64) -> Domain {
    let made = match rng::below(rng, 10) {
        0 => Domain::list(vec![json!("a"), json!("b"), json!("c")]),
        1 => Ok(Domain::boolean()),
        2 => Domain::ordered(vec![json!("low"), json!("mid"), json!("high")]),
        3 => Domain::list(vec![json!(1), json!(2), json!(4), json!(8)]),
        4 => Domain::int(-2, 5, false, None),
        5 => Domain::int(1, 4096, true, None),
        6 => Domain::float(0.0, 1.0, false, Some(0.25)),
        7 => Domain::float(0.001, 10.0, true, None),
        8 => Domain::float(-1.0, 3.0, false, None),
        _ => Domain::list(vec![json!(null), json!(16), json!(32)]),
    };
    let made = made.unwrap();
    if rng::below(rng, 4) == 0 { made.or_unset() } else { made }
}

fn samplers() -> Vec<SamplerSpec> {
    let tpe = |multivariate| SamplerSpec::Tpe(Tpe { startup: 6, multivariate, ..Tpe::default() });
    vec![
        SamplerSpec::Auto,
        SamplerSpec::Grid(Grid { points: Some(3) }),
        SamplerSpec::Random,
        SamplerSpec::Sobol,
        tpe(Multivariate::Turns(Turns::Alternate)),
        tpe(Multivariate::Always(true)),
        tpe(Multivariate::Always(false)),
        SamplerSpec::Nsga2(Nsga2 { population: 8 }),
        SamplerSpec::Nsga3(Nsga3 { population: 8 }),
        SamplerSpec::CmaEs(CmaEs::default()),
    ]
}

/// Bounds, steps, conditions, rules, novelty, exhaustion, resuming and repeating, for one sampler in one world.
fn check(world: &World, spec: &SamplerSpec, on_violation: OnViolation, trials: u64) {
    let told = format!("seed {}, {spec:?}, {on_violation:?}", world.seed);
    let new = || Study::new(world.space.clone(), spec, world.settings(on_violation)).unwrap();
    let mut lots = rng::stream(world.seed, "lots");
    let mut study = new();
    let done = world.go_on(&mut study, trials, &mut lots);
    let keeps = matches!(on_violation, OnViolation::Prune | OnViolation::Constrain);
    let mut seen = HashSet::new();
    for (i, (suggestion, _)) in done.iter().enumerate() {
        assert_eq!(suggestion.number, i as u64, "{told}");
        // The values are those of a point, canonical: it comes back from its places.
        let places = world.space.places(&suggestion.values).unwrap_or_else(|| panic!("{told}: {suggestion:?}"));
        assert_eq!(world.space.values(&places), suggestion.values, "{told}");
        let mut canonical = places.clone();
        world.space.canonical(&mut canonical, |_| 0.5);
        assert_eq!(canonical, places, "{told}");
        assert!(seen.insert(format!("{:?}", suggestion.values)), "{told}: {:?} comes twice", suggestion.values);
        let broken = world.broken(std::slice::from_ref(&suggestion.values))[0];
        match &suggestion.raw {
            Some(raw) => {
                assert_eq!(broken, 0, "{told}");
                assert!(suggestion.broken != 0 && *raw != suggestion.values, "{told}");
                assert_eq!(world.broken(std::slice::from_ref(raw))[0], suggestion.broken, "{told}");
            }
            None => {
                assert_eq!(broken, suggestion.broken, "{told}");
                assert!(broken == 0 || keeps, "{told}");
            }
        }
        assert!(suggestion.parents.iter().all(|p| *p < suggestion.number), "{told}");
    }
    if let Some(legal) = world.legal() {
        // A grid does not visit what is illegal, and may be coarser than the space.
        let all = if keeps && !matches!(spec, SamplerSpec::Grid(_)) { world.space.points().unwrap() } else { legal };
        let auto_grid = keeps && matches!(spec, SamplerSpec::Auto);
        if !auto_grid {
            assert_eq!(done.len() as u64, all.min(trials), "{told}: {:?}", study.picked());
        }
        assert_eq!(study.exhausted(), done.len() as u64 != trials, "{told}");
    }
    // Told from stored text to a new study, asked in other portions: the same.
    let cut = rng::below(&mut lots, done.len() as u64 + 1) as usize;
    let mut resumed = new();
    for (_, trial) in &done[..cut] {
        let text = serde_json::to_string(&trial.values).unwrap();
        resumed.tell(Trial { values: serde_json::from_str(&text).unwrap(), ..trial.clone() });
    }
    let rest = world.go_on(&mut resumed, trials, &mut lots);
    for (again, (before, _)) in rest.iter().map(|(s, _)| s).zip(&done[cut..]) {
        assert_eq!(again, before, "{told}: resumed after {cut}");
    }
    assert_eq!(rest.len(), done.len() - cut, "{told}");
}

fn check_all(seeds: std::ops::Range<u64>, which: impl Fn(&SamplerSpec) -> bool) {
    let modes = [OnViolation::Repair, OnViolation::Resample, OnViolation::Prune, OnViolation::Constrain];
    let (mut conditional, mut ruled, mut small, mut ran) = (0, 0, 0, 0);
    for seed in seeds {
        let world = World::new(seed);
        conditional += u32::from(world.space.is_conditional());
        ruled += u32::from(!world.limits.is_empty());
        small += u32::from(world.legal().is_some());
        let mode = if world.limits.is_empty() || seed % 2 == 0 { modes[0] } else { modes[(seed / 2 % 4) as usize] };
        for spec in samplers().iter().filter(|s| which(s)) {
            if spec.problems(&world.space, world.objectives).is_empty() {
                check(&world, spec, mode, 45);
                ran += 1;
            }
        }
    }
    assert!(conditional > 10 && ruled > 50 && small > 10 && ran > 20, "{conditional} {ruled} {small} {ran}");
}

#[test]
fn what_learns_nothing_keeps_all_promises() {
    let plain = |s: &SamplerSpec| matches!(s, SamplerSpec::Grid(_) | SamplerSpec::Random | SamplerSpec::Sobol);
    check_all(0..300, plain);
}

#[test]
fn tpe_keeps_all_promises() {
    check_all(300..500, |s| matches!(s, SamplerSpec::Tpe(_)));
}

#[test]
fn genetic_algorithms_keep_all_promises() {
    check_all(500..800, |s| matches!(s, SamplerSpec::Nsga2(_) | SamplerSpec::Nsga3(_)));
}

#[test]
fn cma_es_keeps_all_promises() {
    check_all(0..600, |s| matches!(s, SamplerSpec::CmaEs(_)));
}

#[test]
fn auto_keeps_all_promises() {
    check_all(800..1000, |s| matches!(s, SamplerSpec::Auto));
}

fn ask(study: &mut Study, problem: &Problem, trials: usize) -> Vec<Suggestion> {
    let mut all = Vec::new();
    while all.len() < trials {
        let asked = study.ask(trials - all.len(), problem);
        if asked.is_empty() {
            break;
        }
        for suggestion in asked {
            study.tell(evaluated(problem, &suggestion));
            all.push(suggestion);
        }
    }
    all
}

#[test]
fn a_grid_walks_in_order() {
    let problem = testbed::small();
    let expect: Vec<Vec<Value>> =
        (0..60).map(|i| problem.space.values(&problem.space.nth(i))).filter(|v| (problem.mask)(v) == 0).collect();
    let settings = Settings { objectives: 2, ..Settings::default() };
    let mut study = Study::new(problem.space.clone(), &SamplerSpec::Grid(Grid::default()), settings).unwrap();
    let got: Vec<Vec<Value>> = ask(&mut study, &problem, 100).into_iter().map(|s| s.values).collect();
    assert_eq!((got, study.exhausted()), (expect, true));

    let x = Domain::float(0.0, 1.0, false, None).unwrap();
    let y = Domain::float(1.0, 100.0, true, None).unwrap();
    let space = Space::new(vec![Parameter::new("x", x), Parameter::new("y", y)]).unwrap();
    let problems = |points| SamplerSpec::Grid(Grid { points }).problems(&space, 1).len();
    assert_eq!((problems(None), problems(Some(1)), problems(Some(3))), (2, 1, 0));
    let spec = SamplerSpec::Grid(Grid { points: Some(3) });
    let all = Study::new(space, &spec, Settings::default()).unwrap().ask(100, &NoRules);
    assert_eq!((all.len(), &all[1].values), (9, &vec![json!(0.0), json!(10.0)]));
    assert_eq!(all[8].values, [json!(1.0), json!(100.0)]);
    let huge = Domain::int(0, 1 << 40, false, None).unwrap();
    let huge = Space::new(["a", "b"].map(|path| Parameter::new(path, huge.clone())).to_vec()).unwrap();
    assert_eq!(SamplerSpec::Grid(Grid::default()).problems(&huge, 1).len(), 1);
}

#[test]
fn repairs_go_to_the_nearest_legal_point_on_any_side() {
    let ordinal = || Domain::list([1, 2, 4, 8].map(Value::from).to_vec()).unwrap();
    let space = Space::new(vec![
        Parameter::new("tp", ordinal()),
        Parameter::new("pp", ordinal()),
        Parameter::new("free", ordinal()),
    ])
    .unwrap();
    struct Product;
    impl Rules for Product {
        fn broken(&self, points: &[Vec<Value>]) -> Vec<u64> {
            let product = |p: &Vec<Value>| p[0].as_i64().unwrap() * p[1].as_i64().unwrap();
            points.iter().map(|p| u64::from(product(p) > 8)).collect()
        }

        fn parameters_of(&self, _rule: usize) -> Option<Vec<usize>> {
            Some(vec![0, 1])
        }
    }
    let mut sides = HashSet::new();
    for seed in 0..20 {
        let settings = Settings { seed, ..Settings::default() };
        let mut study = Study::new(space.clone(), &SamplerSpec::Random, settings).unwrap();
        study.enqueue(&[json!(8), json!(4), json!(4)]).unwrap();
        study.enqueue(&[json!(4), json!(4), json!(8)]).unwrap();
        let asked = study.ask(2, &Product);
        // One parameter: two steps of either, but tp = 2 is one parameter and two steps, pp = 1 as well.
        assert_eq!(asked[0].raw.as_deref(), Some(&[json!(8), json!(4), json!(4)][..]));
        assert_eq!((asked[0].broken, asked[0].origin), (1, Origin::Enqueued));
        let values: Vec<i64> = asked[0].values.iter().map(|v| v.as_i64().unwrap()).collect();
        assert!(values == [2, 4, 4] || values == [8, 1, 4], "{values:?}");
        sides.insert(values);
        let values: Vec<i64> = asked[1].values.iter().map(|v| v.as_i64().unwrap()).collect();
        assert!(values == [2, 4, 8] || values == [4, 2, 8], "{values:?}");
    }
    assert_eq!(sides.len(), 2);
}

#[test]
fn repairs_of_numbers_end_at_the_border_and_may_take_several_parameters() {
    let unit = || Domain::float(0.0, 1.0, false, None).unwrap();
    let space = Space::new(vec![Parameter::new("x", unit()), Parameter::new("y", unit())]).unwrap();
    let rules = Allowed(|v: &[Value]| v[0].as_f64().unwrap() <= 0.3);
    let mut study = Study::new(space.clone(), &SamplerSpec::Random, Settings::default()).unwrap();
    study.enqueue(&[json!(0.9), json!(0.5)]).unwrap();
    let asked = study.ask(1, &rules).remove(0);
    let x = asked.values[0].as_f64().unwrap();
    assert!(x <= 0.3 && x > 0.29 && asked.values[1] == json!(0.5), "{:?}", asked.values);
    // Both have to change.
    let corner = Allowed(|v: &[Value]| v.iter().all(|x| x.as_f64().unwrap() <= 0.5));
    let mut study = Study::new(space, &SamplerSpec::Random, Settings::default()).unwrap();
    study.enqueue(&[json!(0.9), json!(0.9)]).unwrap();
    let values = study.ask(1, &corner).remove(0).values;
    assert!(values.iter().all(|x| (0.48..=0.5).contains(&x.as_f64().unwrap())), "{values:?}");
}

#[test]
fn points_of_the_user_come_first_and_once() {
    let problem = testbed::small();
    let settings = Settings { objectives: 2, ..Settings::default() };
    let start = || Study::new(problem.space.clone(), &SamplerSpec::Random, settings.clone()).unwrap();
    let mut study = start();
    let points = [[json!("b"), json!(2), json!(3)], [json!("a"), json!(1), json!(0)]];
    for point in points.iter().chain(&points) {
        study.enqueue(point).unwrap();
    }
    assert!(study.enqueue(&[json!("z"), json!(2), json!(3)]).unwrap_err().contains("no point"));
    let asked = study.ask(5, &problem);
    assert_eq!((asked[0].values.as_slice(), asked[1].values.as_slice()), (&points[0][..], &points[1][..]));
    let origins: Vec<Origin> = asked.iter().map(|s| s.origin).collect();
    assert_eq!(origins[..3], [Origin::Enqueued, Origin::Enqueued, Origin::Random]);
    // A study that goes on is given the same points, and passes over those that it had.
    let mut resumed = start();
    points.iter().chain(&points).for_each(|p| resumed.enqueue(p).unwrap());
    resumed.tell(evaluated(&problem, &asked[0]));
    assert_eq!(resumed.ask(4, &problem), asked[1..]);
}

#[test]
#[should_panic(expected = "in place of 0")]
fn trials_are_told_in_order() {
    let problem = testbed::small();
    let settings = Settings { objectives: 2, ..Settings::default() };
    let mut study = Study::new(problem.space.clone(), &SamplerSpec::Random, settings).unwrap();
    let second = study.ask(2, &problem).remove(1);
    study.tell(evaluated(&problem, &second));
}

#[test]
fn auto_says_what_it_picked_and_why() {
    let picked = |problem: &Problem, objectives: usize, budget: Option<u64>, seconds_per_trial: Option<f64>| {
        let settings = Settings { objectives, budget, seconds_per_trial, ..Settings::default() };
        let mut study = Study::new(problem.space.clone(), &SamplerSpec::Auto, settings).unwrap();
        assert_eq!(study.picked(), None);
        study.ask(1, problem);
        study.picked().unwrap().to_owned()
    };
    for (problem, objectives, budget, cost, expect) in [
        (testbed::small(), 2, Some(60), None, "grid: the space has 60 points, no more than the budget of 60"),
        (testbed::small(), 2, Some(50), None, "grid: 48 of the space's 60 points are legal"),
        (testbed::small(), 2, Some(40), None, "tpe: 3 parameters, 2 objectives, and only 40 trials"),
        (testbed::small(), 2, None, None, "grid: the space has only 60 points"),
        (testbed::rosenbrock5(), 1, Some(300), None, "cma_es: one objective over 5 numbers, and 300 trials"),
        (testbed::rosenbrock5(), 1, Some(100), None, "tpe: 5 parameters, 1 objective, and only 100"),
        (testbed::mixed_single(), 1, Some(1000), None, "tpe for the first 200 trials, then nsga2"),
        (testbed::zdt1(), 2, Some(1000), None, "tpe for the first 100 trials, then nsga2"),
        (testbed::zdt1(), 5, Some(1000), None, "tpe for the first 100 trials, then nsga3"),
        (testbed::tuner(), 2, None, Some(1e-4), "nsga2: a trial costs 100 us"),
        (testbed::tuner(), 2, Some(1000), Some(1e-4), "tpe for the first 200"),
    ] {
        let why = picked(&problem, objectives, budget, cost);
        assert!(why.starts_with(expect), "{why}");
    }
}

#[test]
fn a_sobol_sequence_fills_every_box_once() {
    let unit = Domain::float(0.0, 1.0, false, None).unwrap();
    let space = Space::new((0..300).map(|i| Parameter::new(format!("x{i}"), unit.clone())).collect()).unwrap();
    for seed in 0..5 {
        let settings = Settings { seed, ..Settings::default() };
        let mut study = Study::new(space.clone(), &SamplerSpec::Sobol, settings).unwrap();
        let points = study.ask(64, &NoRules);
        // Every coordinate by itself, also beyond the 256 of one sequence, is in each of 64 intervals once.
        for j in [0, 1, 17, 255, 256, 299] {
            let boxes: HashSet<i64> =
                points.iter().map(|p| (p.values[j].as_f64().unwrap() * 64.0).floor() as i64).collect();
            assert_eq!(boxes.len(), 64, "seed {seed}, coordinate {j}");
        }
        // The first two together are in each of 8 times 8 boxes once.
        let eighth = |v: &Value| (v.as_f64().unwrap() * 8.0).floor() as i64;
        let boxes: HashSet<(i64, i64)> = points.iter().map(|p| (eighth(&p.values[0]), eighth(&p.values[1]))).collect();
        assert_eq!(boxes.len(), 64, "seed {seed}");
    }
}
