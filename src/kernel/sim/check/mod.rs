//! What can be wrong with a scenario before it runs: every problem at once, each with the field and what would be valid.
//!
//! ```text
//! site.rs     one pool: facts, parallelism, scheduler, cache, latency, memory
//! cluster.rs  pools together: names, roles, router, disaggregation, signals
//! load.rs     arrivals, sessions, clients, warm-up
//! ```

mod cluster;
mod load;
mod site;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::SimError;
use super::beams;
use super::kv::hashes;
use super::latency;
use super::samples;
use super::tiers;
use crate::pools::Pool;
use crate::request::Requests;
use crate::scenario::Scenario;

/// A pool and its name.
type Named<'a> = (&'a str, &'a Pool);

/// A problem, and the pools that have it.
struct Found<'a> {
    path: Cow<'static, str>,
    message: String,
    pools: Vec<&'a str>,
}

/// Every problem once, in the order in which they are found.
#[derive(Default)]
struct Problems<'a> {
    found: Vec<Found<'a>>,
    /// The pool that is looked at. Problems of its own fields are found there, those of what it takes from the
    /// deployment at the deployment.
    pool: Option<Named<'a>>,
}

impl<'a> Problems<'a> {
    /// `path` is that of a deployment without pools.
    fn add(&mut self, path: impl Into<Cow<'static, str>>, message: impl Into<String>) {
        let (path, message) = (written(self.pool, path.into()), message.into());
        let pool = self.pool.map(|(name, _)| name);
        match self.found.iter_mut().find(|f| f.path == path && f.message == message) {
            Some(known) => known.pools.extend(pool),
            None => self.found.push(Found { path, message, pools: pool.into_iter().collect() }),
        }
    }

    /// Problems by path.
    fn extend(&mut self, found: Vec<(&'static str, String)>) {
        found.into_iter().for_each(|(path, message)| self.add(path, message));
    }

    fn positive(&mut self, path: impl Into<Cow<'static, str>>, value: u32) {
        if value == 0 {
            self.add(path, "is 0; must be at least 1");
        }
    }

    fn positive_f64(&mut self, path: impl Into<Cow<'static, str>>, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            self.add(path, format!("is {value}; must be a number above 0"));
        }
    }

    fn at_least_f64(&mut self, path: impl Into<Cow<'static, str>>, value: f64, low: f64) {
        if !(value.is_finite() && value >= low) {
            self.add(path, format!("is {value}; must be {low} or more"));
        }
    }

    /// Also refuses NaN.
    fn within(&mut self, path: impl Into<Cow<'static, str>>, value: f64, (low, high): (f64, f64), unit: &str) {
        if !(low..=high).contains(&value) {
            self.add(path, format!("is {value}; must be {low} to {high}{unit}"));
        }
    }

    /// `pools` is how many there are: a problem that not all of them have says which do.
    fn done(self, pools: usize) -> Result<(), Vec<SimError>> {
        if self.found.is_empty() {
            return Ok(());
        }
        let told = |f: Found| {
            let own = f.path.starts_with("deployment.pools.");
            let message = match f.pools.as_slice() {
                [] => f.message,
                some if own || some.len() == pools => f.message,
                [one] => format!("{} (pool `{one}`)", f.message),
                some => format!("{} (pools `{}`)", f.message, some.join("`, `")),
            };
            SimError::Invalid { path: f.path, message }
        };
        Err(self.found.into_iter().map(told).collect())
    }
}

/// Where a setting is written that a pool has under `path` of its own deployment: there, or in the deployment around it.
fn written(pool: Option<Named>, path: Cow<'static, str>) -> Cow<'static, str> {
    let Some((name, pool)) = pool else { return path };
    // Facts follow from the name that chose them.
    let field = path.strip_prefix("deployment.").unwrap_or(&path);
    let Pool {
        role: _,
        replicas: _,
        model,
        gpu,
        tp,
        pp,
        dp,
        enable_expert_parallel,
        dtype,
        max_model_len,
        scheduler,
        kv,
        latency,
    } = pool;
    let own = match field.split('.').next().unwrap_or_default() {
        "role" | "replicas" => true,
        "model" => model.is_some(),
        "gpu" => gpu.is_some(),
        "tp" => tp.is_some(),
        "pp" => pp.is_some(),
        "dp" => dp.is_some(),
        "enable_expert_parallel" => enable_expert_parallel.is_some(),
        "dtype" => dtype.is_some(),
        "max_model_len" => max_model_len.is_some(),
        "scheduler" => scheduler.is_some(),
        "kv" => kv.is_some(),
        "latency" => latency.is_some(),
        // What is not a pool's: router, load, and so on.
        _ => false,
    };
    if own { format!("deployment.pools.{name}.{field}").into() } else { path }
}

/// See [`super::check()`].
pub(super) fn check(scenario: &Scenario) -> Result<(), Vec<SimError>> {
    let mut p = Problems::default();
    let pools = scenario.deployment.pools.len();
    let countable = cluster::countable(&scenario.deployment, &mut p);
    let sites = if countable { scenario.sites() } else { Vec::new() };
    // A deployment without pools is a single site, which is no pool.
    let named = || scenario.deployment.pools.iter().map(|(name, pool)| Some((name.as_str(), pool))).chain([None]);
    for (site, pool) in sites.iter().zip(named()) {
        p.pool = pool;
        site::check(site, &mut p);
        let n = samples::most_of_all(&scenario.workload);
        if n > 1
            && let Some(why) = samples::unfit(site, n)
        {
            p.add("workload.n", format!("is above 1: {why}"));
        }
        p.extend(beams::problems_of(site, &scenario.workload));
    }
    p.pool = None;
    cluster::check(&scenario.deployment, &sites, &mut p);
    load::check(scenario, &mut p);
    if p.found.is_empty() {
        // What the planner and the schedulers ask for only makes sense of sizes that are sound.
        for (site, pool) in sites.iter().zip(named()) {
            p.pool = pool;
            if site.deployment.scheduler.common().is_some() {
                site::memory(site, &mut p);
            }
        }
    }
    p.done(pools)
}

/// See [`super::check_profiles()`].
pub(super) fn check_profiles(scenario: &Scenario) -> Result<(), Vec<SimError>> {
    let mut p = Problems::default();
    let named = || scenario.deployment.pools.iter().map(|(name, pool)| Some((name.as_str(), pool))).chain([None]);
    for (site, pool) in scenario.sites().iter().zip(named()) {
        p.pool = pool;
        p.extend(latency::unfit(site));
    }
    p.done(scenario.deployment.pools.len())
}

/// See [`super::check_requests()`].
pub(super) fn check_requests(scenario: &Scenario, requests: &Requests) -> Result<(), Vec<SimError>> {
    let mut p = Problems::default();
    let named = || scenario.deployment.pools.iter().map(|(name, pool)| Some((name.as_str(), pool))).chain([None]);
    for (site, pool) in scenario.sites().iter().zip(named()) {
        let (d, kv) = (&site.deployment, &site.deployment.kv);
        let Some(common) = d.scheduler.common() else { continue };
        let caches = kv.enable_prefix_caching && common.caches_prefixes;
        let known = hashes::derivation(requests, kv.block_size, caches);
        p.pool = pool;
        if let Err(SimError::Invalid { path, message }) = known {
            p.add(path, message);
        } else if let Err(SimError::Invalid { path, message }) = tiers::facts_of(site, requests) {
            p.add(path, message);
        }
    }
    p.pool = None;
    for checked in [samples::check(scenario, requests), beams::check(scenario, requests)] {
        if let Err(SimError::Invalid { path, message }) = checked {
            p.add(path, message);
        }
    }
    p.done(scenario.deployment.pools.len())
}
