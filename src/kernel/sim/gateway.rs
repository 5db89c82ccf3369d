//! The gateway: sets of candidates with a router each, which of them a request needs, and what the routers know.

use std::collections::{BTreeMap, VecDeque};

use super::SimError;
use super::kv::hashes::Derivation;
use super::router::{Ask, Kind, Load, Needs, Picker};
use crate::pools::{Decider, Role, Site};
use crate::request::Requests;
use crate::scenario::Scenario;
use crate::units::{SimDuration, SimTime};

/// What a pool's engines are to a router.
pub(super) struct PoolKind {
    pub derivation: Derivation,
    pub blocks: u64,
    pub recompute_full_hits: bool,
}

/// Engines that serve one model in one role.
pub(super) struct Set {
    pub role: Role,
    /// Numbers of the engines, in order.
    pub engines: Vec<u32>,
    pub picker: Picker,
    pub needs: Needs,
    /// Candidates that may look otherwise than when they were last seen.
    busy: Vec<u32>,
    is_busy: Vec<bool>,
}

/// Sets that serve a model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Served {
    pub mixed: Option<usize>,
    pub encode: Option<usize>,
    pub prefill: Option<usize>,
    pub decode: Option<usize>,
}

/// Set, candidate, load, and changes of the cache.
pub(super) type Seen = (usize, usize, Load, Vec<(u64, u32)>);

/// What was seen of candidates at one time, on its way to the router.
struct Sample {
    /// When the router has it.
    visible: SimTime,
    seen: Vec<Seen>,
}

/// See the head of the file.
pub(super) struct Gateway {
    pub sets: Vec<Set>,
    /// Set and candidate of every engine.
    pub member: Vec<(u32, u32)>,
    served: Vec<Served>,
    /// Place in `served`, by the models that requests ask for; empty where one model is served.
    by_name: Vec<usize>,
    default: usize,
    /// Interval between two looks; `None` for a look at every decision.
    refresh: Option<SimDuration>,
    delay: SimDuration,
    /// Number of the last look, from 0.
    looked: Option<i64>,
    samples: VecDeque<Sample>,
}

impl Gateway {
    /// # Errors
    /// A request asks for a model that no pool serves.
    pub(super) fn new(
        scenario: &Scenario,
        sites: &[Site],
        kinds: &[PoolKind],
        requests: &Requests,
    ) -> Result<Gateway, SimError> {
        let d = &scenario.deployment;
        let mut models: Vec<&str> = Vec::new();
        for site in sites {
            if !models.contains(&site.deployment.model.as_str()) {
                models.push(&site.deployment.model);
            }
        }
        let engines = sites.iter().map(Site::engines).sum::<u32>() as usize;
        let mut gateway = Gateway {
            sets: Vec::new(),
            member: vec![(0, 0); engines],
            served: Vec::new(),
            by_name: by_name(&models, requests)?,
            default: models.iter().position(|m| **m == d.model).unwrap_or(0),
            refresh: (d.signals.refresh_ms > 0.0).then(|| SimDuration::from_us(d.signals.refresh_ms * 1e3)),
            delay: SimDuration::from_us(d.signals.delay_ms * 1e3),
            looked: None,
            samples: VecDeque::new(),
        };
        for model in models {
            let mut set = |role: Role| gateway.add_set(scenario, sites, kinds, requests, model, role);
            let mixed = set(Role::Mixed);
            let encode = set(Role::Encode);
            let prefill = set(Role::Prefill);
            let decode = set(Role::Decode);
            gateway.served.push(Served { mixed, encode, prefill, decode });
        }
        Ok(gateway)
    }

    fn add_set(
        &mut self,
        scenario: &Scenario,
        sites: &[Site],
        kinds: &[PoolKind],
        requests: &Requests,
        model: &str,
        role: Role,
    ) -> Option<usize> {
        let d = &scenario.deployment;
        let number = self.sets.len();
        let (mut engines, mut of_candidates) = (Vec::new(), Vec::new());
        for (site, kind) in sites.iter().zip(kinds) {
            if site.role != role || site.deployment.model != model {
                continue;
            }
            for engine in site.first..site.first + site.engines() {
                self.member[engine as usize] = (number as u32, engines.len() as u32);
                engines.push(engine);
                of_candidates.push(Kind {
                    derivation: kind.derivation,
                    block_size: site.deployment.kv.block_size,
                    blocks: kind.blocks,
                    recompute_full_hits: kind.recompute_full_hits,
                });
            }
        }
        if engines.is_empty() {
            return None;
        }
        let router = match (role, &d.disaggregation.decode_router) {
            (Role::Decode, Some(router)) => router,
            (Role::Decode | Role::Mixed | Role::Encode | Role::Prefill, _) => &d.router,
        };
        let hits = role == Role::Decode && matches!(d.disaggregation.decider, Decider::UncachedTokens(_));
        let is_busy = vec![false; engines.len()];
        self.sets.push(Set {
            role,
            picker: Picker::new(router, of_candidates, number, scenario.seed, requests, hits),
            needs: Needs::of(router, hits),
            engines,
            busy: Vec::new(),
            is_busy,
        });
        Some(number)
    }

    /// Whether a router wants to know what is in the caches of the set of an engine.
    pub(super) fn watches(&self, engine: u32) -> bool {
        let (set, _) = self.member[engine as usize];
        self.sets[set as usize].needs.caches
    }

    /// Whether engines must tell what becomes of requests.
    pub(super) fn listens(&self) -> bool {
        self.sets.iter().any(|set| set.needs.ends || set.needs.prompts || set.needs.progress)
    }

    /// The sets that serve the model of a request.
    pub(super) fn served(&self, requests: &Requests, request: u32) -> Served {
        let asked = requests.model.get(request as usize).copied().flatten();
        let model = asked.and_then(|m| self.by_name.get(m as usize)).copied().unwrap_or(self.default);
        self.served[model]
    }

    /// An engine has something to do.
    pub(super) fn note_busy(&mut self, engine: u32) {
        let (set, candidate) = self.member[engine as usize];
        let set = &mut self.sets[set as usize];
        if (set.needs.loads || set.needs.caches) && !std::mem::replace(&mut set.is_busy[candidate as usize], true) {
            set.busy.push(candidate);
        }
    }

    /// Candidates of a set that may have changed.
    pub(super) fn busy(&self, set: usize) -> Vec<u32> {
        self.sets[set].busy.clone()
    }

    /// A candidate has nothing left to do, and was seen so.
    pub(super) fn note_idle(&mut self, set: usize, candidate: u32) {
        let set = &mut self.sets[set];
        set.is_busy[candidate as usize] = false;
        set.busy.retain(|other| *other != candidate);
    }

    /// Whether a set is looked at when it has to decide.
    pub(super) fn looks_now(&self, set: usize) -> bool {
        self.refresh.is_none() && (self.sets[set].needs.loads || self.sets[set].needs.caches)
    }

    /// Times of the looks that are due, with `until`, which is included if it is to be; only those that anybody will see.
    pub(super) fn looks_until(&mut self, until: SimTime, included: bool) -> Vec<SimTime> {
        let Some(refresh) = self.refresh.filter(|_| self.sets.iter().any(|s| s.needs.loads || s.needs.caches)) else {
            return Vec::new();
        };
        let last = (until.0 - i64::from(!included)).div_euclid(refresh.0);
        // What is asked at `until` sees the last look that is old enough; later questions see later ones.
        let oldest = (until.0 - self.delay.0).div_euclid(refresh.0).max(0).min(last);
        let first = self.looked.map_or(oldest, |looked| oldest.max(looked + 1));
        if last >= first {
            self.looked = Some(last);
        }
        (first..=last).map(|number| SimTime(number * refresh.0)).collect()
    }

    /// What was seen at a time.
    pub(super) fn keep(&mut self, at: SimTime, seen: Vec<Seen>) {
        if !seen.is_empty() {
            self.samples.push_back(Sample { visible: at + self.delay, seen });
        }
    }

    /// Routers know what is old enough.
    pub(super) fn show(&mut self, now: SimTime) {
        while let Some(sample) = self.samples.pop_front_if(|s| s.visible <= now) {
            for (set, candidate, load, changes) in sample.seen {
                let set = &mut self.sets[set];
                set.picker.see(candidate, load);
                set.picker.cached(candidate, &changes);
            }
        }
    }

    /// Engine of a candidate.
    pub(super) fn engine(&self, set: usize, candidate: usize) -> u32 {
        self.sets[set].engines[candidate]
    }

    pub(super) fn ended(&mut self, engine: u32, request: u32) {
        let (set, candidate) = self.member[engine as usize];
        self.sets[set as usize].picker.ended(candidate as usize, request);
    }

    pub(super) fn prompt_done(&mut self, engine: u32, request: u32) {
        let (set, candidate) = self.member[engine as usize];
        self.sets[set as usize].picker.prompt_done(candidate as usize, request);
    }

    pub(super) fn progress(&mut self, engine: u32, request: u32, tokens: u32) {
        let (set, candidate) = self.member[engine as usize];
        self.sets[set as usize].picker.progress(candidate as usize, request, tokens);
    }

    pub(super) fn hit(&self, set: usize, candidate: usize, ask: Ask, requests: &Requests) -> u32 {
        self.sets[set].picker.hit(candidate, ask, requests)
    }
}

/// The place of the model that each name of a request means; empty where all requests are for one.
fn by_name(models: &[&str], requests: &Requests) -> Result<Vec<usize>, SimError> {
    if models.len() < 2 {
        return Ok(Vec::new());
    }
    let known: BTreeMap<&str, usize> = models.iter().copied().zip(0..).collect();
    let places: Vec<Option<usize>> = requests.model_names.iter().map(|n| known.get(n.as_str()).copied()).collect();
    let unknown = |asked: &Option<u32>| asked.is_some_and(|m| places[m as usize].is_none());
    if let Some(request) = requests.model.iter().position(unknown) {
        let name = requests.model[request].map_or("", |m| &requests.model_names[m as usize]);
        let message =
            format!("request {request} asks for {name}, which no pool serves; served are {}", models.join(", "));
        return Err(SimError::Invalid { path: "deployment.pools".into(), message });
    }
    // A name that nobody asks for means nothing.
    Ok(places.into_iter().map(Option::unwrap_or_default).collect())
}
