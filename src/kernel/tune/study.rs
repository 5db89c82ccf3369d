//! A study: the trials so far, and what to try next.
//!
//! What is kept here for all samplers: points are legal (or marked), new, and each configuration is one point; numbers
//! and streams of trials; what was asked but not told yet; points that the user wants tried.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use rand_pcg::Pcg64;
use serde_json::Value;

use super::auto::{self, Choice};
use super::grid::Walk;
use super::history::{History, Outcome, Seen, Trial};
use super::repair::Repair;
use super::rules::{Judge, OnViolation, Rules};
use super::sampler::{Draft, Origin, Sampler, View};
use super::{SamplerSpec, Space};
use crate::rng;

/// Random draws in search of a new legal point, before a small space is searched from end to end. Enough to find, with
/// 99 % certainty, what half a per cent of the space consists of.
const DRAWS: usize = 1000;
/// The same in a space too large for that.
const DRAWS_LARGE: usize = 20_000;
/// The largest space that is searched from end to end.
pub(super) const SMALL: u64 = 1 << 20;
/// Parameters drawn afresh, one after another, until a proposal is new.
const RESETS: u32 = 20;
/// Proposals of a sampler until one is legal, where illegal ones are not repaired.
const RESAMPLES: usize = 50;
/// Random points that are repaired, where those of the sampler could not be.
const REPAIRS: usize = 4;

/// What a study is about, besides space and sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub seed: u64,
    /// Number of objectives, at least 1.
    pub objectives: usize,
    /// Trials between two looks of TPE at the results; 1 is sequential, up to 8 lose nothing. Other samplers have
    /// generations of their own.
    pub batch: u32,
    pub on_violation: OnViolation,
    /// Trials that there will be, if that is known. Only `auto` asks.
    pub budget: Option<u64>,
    /// What one trial costs, if that is known. Only `auto` asks.
    pub seconds_per_trial: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seed: 0,
            objectives: 1,
            batch: 8,
            on_violation: OnViolation::Repair,
            budget: None,
            seconds_per_trial: None,
        }
    }
}

/// What to try next.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    /// Number of the trial.
    pub number: u64,
    /// One value per parameter of the space, in its order; `null` for one that is not set or does not exist.
    pub values: Vec<Value>,
    /// What was suggested before it was repaired.
    pub raw: Option<Vec<Value>>,
    /// The rules that the suggestion broke: bit `i` for rule `i`. Without `raw`, it still breaks them, and must not be
    /// run but told as [`Outcome::Illegal`].
    pub broken: u64,
    pub origin: Origin,
    /// Numbers of the trials that it was bred from.
    pub parents: Vec<u64>,
}

/// Asked, but not told yet.
struct Pending {
    places: Vec<f64>,
    values: Vec<Value>,
}

/// What proposes.
enum Engine {
    Walk(Walk),
    Sampler(Box<dyn Sampler>),
}

/// A trial that is being made.
struct Work {
    number: u64,
    /// The sampler's stream of this trial, and that of everything else.
    rng: Pcg64,
    chance: Pcg64,
    /// With canonical places.
    draft: Draft,
}

/// A point that was found for a trial.
struct Found {
    places: Vec<f64>,
    raw: Option<Vec<f64>>,
    broken: u64,
    origin: Origin,
    parents: Vec<u64>,
}

/// A search in progress: see the [module](super).
pub struct Study {
    space: Arc<Space>,
    spec: SamplerSpec,
    settings: Settings,
    history: History,
    seen: Seen,
    pending: VecDeque<Pending>,
    /// Numbers of trials, and the points that the user wants there.
    queue: VecDeque<(u64, Vec<f64>)>,
    /// `None` until the first question: `auto` needs the rules to choose.
    engine: Option<Engine>,
    picked: Option<String>,
    exhausted: bool,
    /// Points of a small space, by number, that are known to be illegal.
    illegal: HashSet<u64>,
}

impl Study {
    /// # Errors
    /// What is wrong with the sampler or its space, in words for the user.
    pub fn new(space: Space, spec: &SamplerSpec, settings: Settings) -> Result<Study, Vec<String>> {
        let mut problems = spec.problems(&space, settings.objectives);
        if settings.batch == 0 {
            problems.push("the batch must be at least 1".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let history = History::new(space.dimensions(), settings.objectives);
        Ok(Study {
            space: Arc::new(space),
            spec: spec.clone(),
            settings,
            history,
            seen: Seen::default(),
            pending: VecDeque::new(),
            queue: VecDeque::new(),
            engine: None,
            picked: None,
            exhausted: false,
            illegal: HashSet::new(),
        })
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Number of trials that were told.
    pub fn told(&self) -> u64 {
        self.history.len() as u64
    }

    /// What `auto` picked, and why; `None` for other samplers, and before the first question.
    pub fn picked(&self) -> Option<&str> {
        self.picked.as_deref()
    }

    /// The last question found nothing new: no legal point is left, or, in a space too large to be sure, tens of
    /// thousands of draws found none.
    pub fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Has a point tried as soon as possible: it becomes the next trial that has not been asked for yet, after those
    /// enqueued before. A point that was tried, or is enqueued already, is passed over. A study that goes on from a
    /// table of trials must be given its points when the first was: all at the start, before the trials are told.
    ///
    /// # Errors
    /// The space does not have the point.
    pub fn enqueue(&mut self, values: &[Value]) -> Result<(), String> {
        let mut places = self.space.places(values).ok_or_else(|| format!("the space has no point {values:?}"))?;
        self.space.canonical(&mut places, |_| 0.5);
        if self.seen.contains(&places) || self.queue.iter().any(|(_, queued)| *queued == places) {
            return Ok(());
        }
        let next = self.told() + self.pending.len() as u64;
        let number = self.queue.back().map_or(next, |(last, _)| next.max(last + 1));
        self.queue.push_back((number, places));
        Ok(())
    }

    /// Takes in a trial. Trials are told in order of number, without gaps; those of an earlier session may be told
    /// without having been asked for.
    ///
    /// # Panics
    /// On any other number.
    pub fn tell(&mut self, trial: Trial) {
        assert!(trial.number == self.told(), "trial {} was told in place of {}", trial.number, self.told());
        let pending = self.pending.pop_front().filter(|p| p.values == trial.values);
        let places = pending.map(|p| p.places).or_else(|| self.space.places(&trial.values));
        if let Some(places) = &places {
            self.seen.insert(places);
        }
        while self.queue.front().is_some_and(|(number, _)| *number <= trial.number) {
            self.queue.pop_front();
        }
        match (&trial.outcome, self.settings.on_violation) {
            // All alike: the sampler does not learn how many rules were broken.
            (Outcome::Illegal { .. }, OnViolation::Prune) => {
                self.history.push(places.as_deref(), &Outcome::Illegal { broken: 0 });
            }
            (outcome, _) => self.history.push(places.as_deref(), outcome),
        }
    }

    /// The next trials, at most `n`. Fewer come back when the rest depends on results that are still missing, and none
    /// when there is nothing new.
    pub fn ask(&mut self, n: usize, rules: &dyn Rules) -> Vec<Suggestion> {
        self.exhausted = false;
        let space = Arc::clone(&self.space);
        let mut judge = Judge::new(&space, rules);
        if self.engine.is_none() {
            self.start(&mut judge);
        }
        let first = self.told() + self.pending.len() as u64;
        let works: Vec<Work> = (0..n as u64).map_while(|i| self.draft(first + i)).collect();
        // Rules are asked about all proposals at once, and about the first attempts to repair them. What comes of it is
        // the same as one by one: the answers are only remembered.
        let raws: Vec<Option<Vec<f64>>> = works.iter().map(|w| self.first_new(&w.draft.points)).collect();
        let asked: Vec<&[f64]> = raws.iter().flatten().map(Vec::as_slice).collect();
        let mut masks = judge.broken(&asked).into_iter();
        let mut repairs: Vec<Option<Repair>> = Vec::new();
        for (work, raw) in works.iter().zip(&raws) {
            let mask = raw.as_ref().and_then(|_| masks.next()).unwrap_or(0);
            let repair = raw.as_ref().filter(|_| mask != 0 && self.settings.on_violation == OnViolation::Repair);
            repairs.push(repair.map(|raw| Repair::new(&space, raw, mask, &judge, self.stream(work.number, "/repair"))));
        }
        let firsts: Vec<&[f64]> =
            repairs.iter_mut().flatten().flat_map(|r| r.first().iter().map(Vec::as_slice)).collect();
        judge.broken(&firsts);

        let mut suggestions = Vec::new();
        for ((mut work, raw), repair) in works.into_iter().zip(&raws).zip(repairs) {
            let number = work.number;
            if work.draft.origin == Origin::Enqueued && self.first_new(&work.draft.points).is_none() {
                // A trial just before this one was repaired to its point.
                match self.propose(number, &mut work.rng, &mut work.chance) {
                    Some(draft) => work.draft = draft,
                    None => break,
                }
            }
            let Some(found) = self.settle(work, raw.as_deref(), repair, &mut judge) else {
                self.exhausted = true;
                break;
            };
            let values = space.values(&found.places);
            self.seen.insert(&found.places);
            self.pending.push_back(Pending { places: found.places, values: values.clone() });
            suggestions.push(Suggestion {
                number,
                values,
                raw: found.raw.map(|raw| space.values(&raw)),
                broken: found.broken,
                origin: found.origin,
                parents: found.parents,
            });
        }
        suggestions
    }

    /// Chooses what proposes.
    fn start(&mut self, judge: &mut Judge) {
        let choice = match &self.spec {
            SamplerSpec::Auto => {
                let (choice, why) = auto::choose(&self.space, &self.settings, judge);
                self.picked = Some(why);
                choice
            }
            spec => Choice::Spec(spec.clone()),
        };
        self.engine = Some(match choice {
            Choice::Spec(SamplerSpec::Grid(grid)) => Engine::Walk(Walk::new(&grid, &self.space)),
            Choice::Spec(spec) => Engine::Sampler(spec.build(&self.space, self.settings.objectives)),
            Choice::Made(sampler) => Engine::Sampler(sampler),
        });
    }

    fn stream(&self, number: u64, what: &str) -> Pcg64 {
        rng::stream_numbered(self.settings.seed, "tune/", number, what)
    }

    /// The proposal for a trial; `None` where results are missing that it depends on.
    fn draft(&mut self, number: u64) -> Option<Work> {
        let mut rng = self.stream(number, "");
        let mut chance = self.stream(number, "/chance");
        let queued = self.queue.iter().find(|(n, _)| *n == number).map(|(_, places)| places.clone());
        let draft = match queued.filter(|places| !self.seen.contains(places)) {
            Some(places) => Draft { points: vec![places], origin: Origin::Enqueued, parents: Vec::new() },
            None => self.propose(number, &mut rng, &mut chance)?,
        };
        Some(Work { number, rng, chance, draft })
    }

    /// What the sampler proposes, with canonical places.
    fn propose(&mut self, number: u64, rng: &mut Pcg64, chance: &mut Pcg64) -> Option<Draft> {
        let Study { space, history, settings, engine, .. } = self;
        let view = View { space, history, seed: settings.seed, batch: u64::from(settings.batch) };
        match engine {
            Some(Engine::Sampler(sampler)) => {
                if !sampler.prepare(&view, number) {
                    return None;
                }
                let mut draft = sampler.propose(&view, number, rng);
                for point in &mut draft.points {
                    space.canonical(point, |_| rng::uniform01(chance));
                }
                Some(draft)
            }
            // The walk goes on only when it is known where.
            Some(Engine::Walk(_)) | None => {
                Some(Draft { points: Vec::new(), origin: Origin::Grid, parents: Vec::new() })
            }
        }
    }

    fn first_new(&self, points: &[Vec<f64>]) -> Option<Vec<f64>> {
        points.iter().find(|p| !self.seen.contains(p)).cloned()
    }

    /// Makes a proposal new and legal. `raw` and `repair` belong to each other, and were made before the trials just
    /// before this one were settled.
    fn settle(
        &mut self,
        mut work: Work,
        raw: Option<&[f64]>,
        repair: Option<Repair>,
        judge: &mut Judge,
    ) -> Option<Found> {
        if let (Some(Engine::Walk(walk)), true) = (&mut self.engine, work.draft.origin == Origin::Grid) {
            let places = walk.next(&self.space, &self.seen, judge)?;
            return Some(Found { places, raw: None, broken: 0, origin: Origin::Grid, parents: Vec::new() });
        }
        let point = self.new_proposal(&mut work);
        if let Some(point) = point {
            let broken = judge.broken(&[&point])[0];
            let found = |places: Vec<f64>, raw: Option<Vec<f64>>, work: Work| Found {
                places,
                raw,
                broken,
                origin: work.draft.origin,
                parents: work.draft.parents,
            };
            if broken == 0 {
                return Some(found(point, None, work));
            }
            match self.settings.on_violation {
                OnViolation::Prune | OnViolation::Constrain => return Some(found(point, None, work)),
                OnViolation::Repair => {
                    let space = Arc::clone(&self.space);
                    let same = raw.is_some_and(|raw| raw == point.as_slice());
                    let repair = repair.filter(|_| same).unwrap_or_else(|| {
                        Repair::new(&space, &point, broken, judge, self.stream(work.number, "/repair"))
                    });
                    if let Some(places) = repair.nearest(judge, &self.seen) {
                        return Some(found(places, Some(point), work));
                    }
                }
                OnViolation::Resample => {
                    if let Some(places) = self.resample(&mut work, judge) {
                        return Some(Found { broken: 0, ..found(places, None, work) });
                    }
                }
            }
        }
        self.by_chance(&mut work, judge)
    }

    /// The first point of the sampler that is new, or one of its points with parameters drawn afresh until it is.
    fn new_proposal(&mut self, work: &mut Work) -> Option<Vec<f64>> {
        if let Some(point) = self.first_new(&work.draft.points) {
            return Some(point);
        }
        for _ in 0..self.redraws() {
            let Some(draft) = self.propose(work.number, &mut work.rng, &mut work.chance) else { break };
            if let Some(point) = self.first_new(&draft.points) {
                work.draft = draft;
                return Some(point);
            }
        }
        let mut point = work.draft.points.first()?.clone();
        let chance = &mut work.chance;
        for _ in 0..RESETS {
            let j = rng::below(chance, point.len() as u64) as usize;
            point[j] = self.space.domain(j).place(rng::uniform01(chance));
            self.space.canonical(&mut point, |_| rng::uniform01(chance));
            if !self.seen.contains(&point) {
                return Some(point);
            }
        }
        None
    }

    fn redraws(&self) -> u32 {
        match &self.engine {
            Some(Engine::Sampler(sampler)) => sampler.redraws(),
            Some(Engine::Walk(_)) | None => 0,
        }
    }

    /// A point of the sampler that is new and legal.
    fn resample(&mut self, work: &mut Work, judge: &mut Judge) -> Option<Vec<f64>> {
        let mut tried = 0;
        while tried < RESAMPLES {
            let mut points = if tried == 0 { std::mem::take(&mut work.draft.points) } else { Vec::new() };
            while points.len() < RESAMPLES / 5 {
                points.extend(self.propose(work.number, &mut work.rng, &mut work.chance)?.points);
            }
            tried += points.len();
            if let Some(point) = self.first_legal(points, judge) {
                return Some(point);
            }
        }
        None
    }

    /// The first of some points that is new and legal; or only new, where trials may be illegal.
    fn first_legal(&self, points: Vec<Vec<f64>>, judge: &mut Judge) -> Option<Vec<f64>> {
        let mut new: Vec<Vec<f64>> = points.into_iter().filter(|p| !self.seen.contains(p)).collect();
        let masks = judge.broken(&new.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let at = masks.iter().position(|mask| *mask == 0 || self.keeps_illegal())?;
        Some(new.swap_remove(at))
    }

    fn keeps_illegal(&self) -> bool {
        matches!(self.settings.on_violation, OnViolation::Prune | OnViolation::Constrain)
    }

    /// A new legal point that the sampler has no part in; `None` where there is none, or none was found.
    fn by_chance(&mut self, work: &mut Work, judge: &mut Judge) -> Option<Found> {
        let found = |places: Vec<f64>, raw: Option<Vec<f64>>, broken: u64| Found {
            places,
            raw,
            broken,
            origin: Origin::Random,
            parents: Vec::new(),
        };
        let space = Arc::clone(&self.space);
        if self.settings.on_violation == OnViolation::Repair {
            for _ in 0..REPAIRS {
                let point = space.random(&mut work.chance);
                let broken = judge.broken(&[&point])[0];
                let stream = rng::stream(rng::below(&mut work.chance, u64::MAX), "tune/repair");
                if broken == 0 {
                    break;
                }
                if let Some(places) = Repair::new(&space, &point, broken, judge, stream).nearest(judge, &self.seen) {
                    return Some(found(places, Some(point), broken));
                }
            }
        }
        let small = space.points().filter(|&points| points <= SMALL);
        let draws = if small.is_some() { DRAWS } else { DRAWS_LARGE };
        let (mut drawn, mut chunk) = (0, 4);
        while drawn < draws {
            let points: Vec<Vec<f64>> = (0..chunk.min(draws - drawn)).map(|_| space.random(&mut work.chance)).collect();
            drawn += points.len();
            chunk = (2 * chunk).min(1024);
            if let Some(places) = self.first_legal(points, judge) {
                let broken = judge.broken(&[&places])[0];
                return Some(found(places, None, broken));
            }
        }
        let places = self.scan(&space, small?, &mut work.chance, judge)?;
        let broken = judge.broken(&[&places])[0];
        Some(found(places, None, broken))
    }

    /// Searches a small space from end to end for a new legal point, from a random place on.
    fn scan(&mut self, space: &Space, points: u64, chance: &mut Pcg64, judge: &mut Judge) -> Option<Vec<f64>> {
        let start = rng::below(chance, points);
        let mut indices = (0..points).map(|i| (start + i) % points);
        let mut chunk = 16;
        loop {
            let mut numbers: Vec<u64> = Vec::new();
            let mut found: Vec<Vec<f64>> = Vec::new();
            for index in indices.by_ref() {
                if self.illegal.contains(&index) {
                    continue;
                }
                let places = space.nth(index);
                if !self.seen.contains(&places) {
                    numbers.push(index);
                    found.push(places);
                }
                if found.len() >= chunk {
                    break;
                }
            }
            if found.is_empty() {
                return None;
            }
            chunk = (2 * chunk).min(4096);
            if self.keeps_illegal() {
                return Some(found.swap_remove(0));
            }
            let masks = judge.broken(&found.iter().map(Vec::as_slice).collect::<Vec<_>>());
            for ((index, places), mask) in numbers.into_iter().zip(found).zip(masks) {
                if mask == 0 {
                    return Some(places);
                }
                self.illegal.insert(index);
            }
        }
    }
}
