//! Pools as the oracle sees them: what all engines of one have in common, and which of them are candidates for what.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::steptime::Overhead;
use crate::pools::{Role, Site};
use crate::request::Requests;
use crate::scenario::{Deployment, Scenario};
use crate::sim::encoder::{self, Encoder};
use crate::sim::engine::bounded;
use crate::sim::kv::{hashes, hashes::Derivation, plan};
use crate::sim::latency::LatencyModel;
use crate::sim::load::Demand;
use crate::sim::lora::{Costs, Lora};
use crate::sim::scheduler::{Common, Scheduler};
use crate::sim::speculative::Speculative;
use crate::sim::tiers::{self, TierFacts};
use crate::sim::{SimError, facts};
use crate::units::{SimDuration, Tick};

/// Bytes of a number that an encoder sends.
const EMBEDDING_BYTES: u128 = 2;

/// What the engines of one pool have in common.
pub(super) struct Pool {
    /// Its place among the pools.
    pub number: usize,
    pub role: Role,
    pub deployment: Deployment,
    pub scheduler: Scheduler,
    pub speculative: Option<Speculative>,
    pub common: Common,
    pub model: Box<dyn LatencyModel>,
    /// LoRA adapters, and what they take in time.
    pub adapters: Option<(Lora, Costs)>,
    pub derivation: Derivation,
    pub block_size: usize,
    pub caching: bool,
    /// Blocks of an engine, and of them those that a request holds whatever its length.
    pub blocks: usize,
    pub fixed: usize,
    /// What the encoder of an engine may do, where it has one.
    pub encoder: Option<encoder::Limits>,
    pub overhead: Overhead,
    /// Coefficient of variation of its steps.
    pub jitter_cv: f64,
    pub tick: Option<Tick>,
    /// Longest prompt plus output.
    pub max_len: usize,
    /// Longest prompt, where that is less.
    pub longest_prompt: usize,
    /// Bytes of a block on one GPU.
    pub bytes_per_block: f64,
    /// Bytes of a block of the KV caches of all layers, and of a token as an embedding.
    pub block_bytes: u128,
    pub embedding_bytes: u128,
    pub layers: u128,
    pub tiers: Vec<TierFacts>,
}

impl Pool {
    fn new(number: usize, sites: &[Site], requests: &Requests, model: Box<dyn LatencyModel>) -> Result<Pool, SimError> {
        let site = &sites[number];
        let d = &site.deployment;
        let Some(common) = d.scheduler.common() else {
            let message = format!("{}: the exclusive scheduler has no pools", site.name);
            return Err(SimError::Invalid { path: "deployment.pools".into(), message });
        };
        let blocks = plan::blocks(d, &site.model, &site.gpu)?;
        let caching = d.kv.enable_prefix_caching && common.caches_prefixes;
        let derivation = match site.role {
            Role::Encode => Derivation::None,
            Role::Mixed | Role::Prefill | Role::Decode => {
                hashes::derivation(requests, d.kv.block_size, caching)?.with(d.lora.is_some())
            }
        };
        let said = u64::from(d.max_model_len.unwrap_or(site.model.max_pos));
        let fixed = plan::blocks_per_request(d, &site.model);
        let held = d.scheduler.most_tokens(blocks, fixed, d.kv.block_size);
        let whole = Deployment { tp: 1, ..d.clone() };
        let numbers = facts::kv_numbers_per_gpu(&whole, &site.model);
        Ok(Pool {
            number,
            role: site.role,
            deployment: d.clone(),
            scheduler: d.scheduler.clone(),
            speculative: d.speculative.clone(),
            common,
            model,
            adapters: d.lora.as_ref().filter(|_| site.role != Role::Encode).map(|lora| {
                let costs = Costs::new(lora, d, &site.model, &site.gpu);
                (lora.clone(), costs)
            }),
            derivation,
            block_size: d.kv.block_size as usize,
            caching,
            blocks: blocks as usize,
            fixed: fixed as usize,
            encoder: Encoder::of(sites, number, requests),
            overhead: Overhead::new(common.overhead_us, common.overhead_hidden),
            jitter_cv: d.overheads.jitter_cv,
            tick: d.tick,
            max_len: said.min(held).min(u64::from(u32::MAX / 4)) as usize,
            longest_prompt: d.scheduler.longest_prompt() as usize,
            bytes_per_block: plan::plan(d, &site.model, &site.gpu).bytes_per_block,
            block_bytes: u128::from(d.kv.block_size)
                * (f64::from(facts::holding_layers(&site.model)) * numbers * d.kv.kv_cache_dtype.bytes()) as u128,
            embedding_bytes: u128::from(site.model.hidden) * EMBEDDING_BYTES,
            layers: u128::from(site.model.layers),
            tiers: tiers::facts_of(site, requests)?,
        })
    }

    pub(super) fn before_queue(&self, prompt: usize) -> SimDuration {
        bounded(self.model.before_queue(prompt as u32), self.tick)
    }

    pub(super) fn after_token(&self) -> SimDuration {
        bounded(self.model.after_token(), self.tick)
    }

    pub(super) fn after_request(&self) -> SimDuration {
        bounded(self.model.after_request(), self.tick)
    }
}

/// The engines of the pools that serve one model in one role.
pub(super) struct Candidates {
    pub role: Role,
    /// In the order of their numbers.
    pub engines: Vec<usize>,
}

/// Which candidates serve a model in which role.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ways {
    pub mixed: Option<usize>,
    pub encode: Option<usize>,
    pub prefill: Option<usize>,
    pub decode: Option<usize>,
}

/// See the head of the file.
pub(super) struct Pools {
    /// By engine.
    pub engines: Vec<Rc<Pool>>,
    pub all: Vec<Rc<Pool>>,
    /// In the order of (first pool of the model, role).
    pub sets: Vec<Candidates>,
    /// By place of the request.
    pub ways: Vec<Ways>,
}

impl Pools {
    /// # Errors
    /// [`SimError::Invalid`] where a pool cannot be, or a request asks for a model that nobody serves.
    pub(super) fn new(
        scenario: &Scenario,
        demand: &Demand<'_>,
        model: fn(&Site) -> Result<Box<dyn LatencyModel>, SimError>,
    ) -> Result<Pools, SimError> {
        let sites = scenario.sites();
        let mut all = Vec::new();
        let mut engines = Vec::new();
        for (number, site) in sites.iter().enumerate() {
            let pool = Rc::new(Pool::new(number, &sites, demand.requests, model(site)?)?);
            engines.extend((0..site.engines()).map(|_| Rc::clone(&pool)));
            all.push(pool);
        }
        let mut models: Vec<&str> = Vec::new();
        for site in &sites {
            if !models.contains(&site.deployment.model.as_str()) {
                models.push(&site.deployment.model);
            }
        }
        let mut sets: Vec<Candidates> = Vec::new();
        let mut ways: BTreeMap<&str, Ways> = BTreeMap::new();
        for model in &models {
            let mut set = |role: Role| {
                let of = |site: &&Site| site.role == role && site.deployment.model == *model;
                let numbers = |site: &Site| (site.first..site.first + site.engines()).map(|r| r as usize);
                let engines: Vec<usize> = sites.iter().filter(of).flat_map(numbers).collect();
                (!engines.is_empty()).then(|| {
                    sets.push(Candidates { role, engines });
                    sets.len() - 1
                })
            };
            let [mixed, encode, prefill, decode] =
                [Role::Mixed, Role::Encode, Role::Prefill, Role::Decode].map(&mut set);
            let here = Ways { mixed, encode, prefill, decode };
            ways.insert(model, here);
        }
        let requests = demand.requests;
        let way = |place: usize| {
            let request = demand.nth(place);
            let asked = requests.model.get(request as usize).copied().flatten();
            let name = match asked {
                Some(at) => requests.model_names.get(at as usize).map_or("", String::as_str),
                None => scenario.deployment.model.as_str(),
            };
            // Where one model is served, every request is for that; and nobody may serve the model of the deployment.
            let first = models.first().copied().unwrap_or_default();
            let other = ways.get(first).filter(|_| models.len() == 1 || asked.is_none());
            let served = ways.get(name).or(other);
            served.copied().ok_or_else(|| SimError::Invalid {
                path: "deployment.pools".into(),
                message: format!(
                    "request {request} asks for the model `{name}`, which no pool serves; valid are {}",
                    models.join(", ")
                ),
            })
        };
        let ways = (0..demand.count()).map(way).collect::<Result<Vec<Ways>, SimError>>()?;
        Ok(Pools { engines, all, sets, ways })
    }
}
