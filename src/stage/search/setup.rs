//! What a search starts from: the configurations, what they cost, and what can be wrong with the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pipe_kernel::scenario::Scenario;

use super::bracket::{Bracket, Goal, Range};
use super::seek::{Seek, Way};
use crate::catalog::{self, Catalog};
use crate::diag::{Diagnostic, nearest};
use crate::spec::{Find, Rank, Search, Simulate, Stage, Text, Tree, TreeValue};
use crate::stage::CheckCx;
use crate::stage::optimize::space::simulation;
use crate::stage::simulate::cost::{cost, prices};
use crate::stage::simulate::profiles;
use crate::stage::simulate::scenario::{Configuration, configurations};
use crate::stage::simulate::settings::{self, SettingKind};
use crate::stage::slo::rules_problems;
use crate::table::simulation as columns;

/// Most replications of a probe.
const REPLICATIONS_MAX: u32 = 1000;
/// Most searches of a stage.
const SEARCHES_MAX: usize = 100_000;

/// The settings of a search with everything that they name.
pub(super) struct Setup {
    pub simulation: Simulate,
    pub configurations: Vec<Configuration>,
    /// By name in the catalog.
    pub prices: BTreeMap<String, f64>,
    pub rank: Rank,
    /// The setting that is searched.
    pub path: Text,
    find: Find,
    integer: bool,
    catalog: Catalog,
}

impl Setup {
    /// # Errors
    /// Every problem of base, sweep, names and prices, each at its place.
    pub fn new(spec: &Search, stages: &[Stage], project: &Path, seed: u64) -> Result<Setup, Vec<Diagnostic>> {
        let simulation = simulated(spec, stages).map_err(|d| vec![d])?;
        let catalog = catalog::load(project).map_err(|f| f.diagnostics)?;
        let (path, start) = first(&spec.find);
        let setting = settings::at(&path.value, path.at.as_ref()).map_err(|d| vec![d])?;
        let integer = setting.kind == SettingKind::Int;
        if !(integer || setting.kind == SettingKind::Float) {
            let message = format!("`{}` is no number, so there is no highest or lowest of it", path.value);
            return Err(vec![Diagnostic::new("search::find", message).at(path.at.clone())]);
        }
        let configurations = configurations(&simulation, seed, &catalog, (&path, number(start, integer)))?;
        let prices = prices(&spec.prices, "search::prices", &catalog)?;
        let rank = spec.rank.unwrap_or_else(|| default_rank(&spec.find, &configurations, &prices));
        let setup = Setup { simulation, configurations, prices, rank, path, find: spec.find.clone(), integer, catalog };
        let problems = setup.problems(spec);
        if problems.is_empty() { Ok(setup) } else { Err(problems) }
    }

    /// Every configuration for every SLO, and for every value where these are listed.
    pub fn seeks(&self, spec: &Search) -> Vec<Seek> {
        let ways: Vec<Way> = match &self.find {
            Find::Qps(f) => {
                let range = Range { start: f.start, min: f.min, max: f.max };
                vec![Way::Bracket(Bracket::new(Goal::Highest { tolerance: f.tolerance }, range))]
            }
            Find::Replicas(f) => {
                let range = Range { start: f.start.into(), min: f.min.into(), max: f.max.into() };
                vec![Way::Bracket(Bracket::new(Goal::Fewest, range))]
            }
            Find::IsoQps(f) => f.multipliers.iter().map(|by| Way::Once(f.qps * by)).collect(),
        };
        let mut seeks = Vec::new();
        for (at, configuration) in self.configurations.iter().enumerate() {
            for slo in 0..spec.slos.len() {
                for way in &ways {
                    let mut seek = Seek::new(at, slo, way.clone());
                    if !configuration.wrong.is_empty() {
                        let why: Vec<&str> = configuration.wrong.iter().map(|d| d.message.as_str()).collect();
                        seek.give_up(&why.join("; "));
                    }
                    seeks.push(seek);
                }
            }
        }
        seeks
    }

    /// Whether a border is looked for, or values are compared as they are.
    pub fn is_bracketed(&self) -> bool {
        !matches!(self.find, Find::IsoQps(_))
    }

    /// The scenario of a configuration with a value of what is searched. Replications differ in their seed alone, and
    /// share it with those of the other configurations.
    ///
    /// # Errors
    /// The value does not fit the setting.
    pub fn scenario(&self, configuration: usize, value: f64, replication: u32) -> Result<Scenario, Vec<Diagnostic>> {
        let configuration = &self.configurations[configuration];
        let seed = configuration.scenario.seed.wrapping_add(u64::from(replication)) & (i64::MAX as u64);
        let seed = Tree::new(TreeValue::Int(i64::try_from(seed).unwrap_or(i64::MAX)), None);
        configuration.with(&[(&self.path.value, number(value, self.integer)), ("seed", seed)], &self.catalog)
    }

    /// GPUs, and dollars per hour, of a configuration with a value; the latter where all prices are known.
    pub fn cost(&self, configuration: usize, value: f64) -> (u64, Option<f64>) {
        match self.scenario(configuration, value, 0) {
            Ok(scenario) => cost(&scenario, &self.prices),
            Err(_) => (0, None),
        }
    }

    /// Requests per second of a configuration with a value: what is searched, or what its workload says.
    pub fn qps(&self, configuration: usize, value: f64) -> Option<f64> {
        match self.find {
            Find::Qps(_) | Find::IsoQps(_) => Some(value),
            Find::Replicas(_) => self.configurations[configuration].scenario.workload.rate_rps,
        }
    }

    /// What a configuration with a value is worth by the rank: more is better.
    pub fn score(&self, configuration: usize, value: f64) -> f64 {
        let (gpus, usd) = self.cost(configuration, value);
        let qps = || self.qps(configuration, value).unwrap_or(f64::NEG_INFINITY);
        match self.rank {
            Rank::Qps => qps(),
            Rank::QpsPerGpu => qps() / gpus as f64,
            Rank::QpsPerUsd => usd.map_or(f64::NEG_INFINITY, |usd| qps() / usd),
            Rank::Replicas => -value,
            Rank::Gpus => -(gpus as f64),
            Rank::UsdPerHour => -usd.unwrap_or(f64::INFINITY),
        }
    }

    /// The easiest value that may pass where this one fails.
    pub fn next_easier(&self, failing: f64) -> f64 {
        match self.find {
            Find::Replicas(_) => failing + 1.0,
            Find::Qps(_) | Find::IsoQps(_) => failing,
        }
    }

    /// Whether two searches answer the same question: one SLO, one model, and where values are listed one value.
    pub fn are_rivals(&self, a: &Seek, b: &Seek) -> bool {
        let model = |seek: &Seek| &self.configurations[seek.configuration].scenario.deployment.model;
        let value =
            |seek: &Seek| if self.is_bracketed() { None } else { seek.visits.first().map(|v| v.value.to_bits()) };
        a.slo == b.slo && model(a) == model(b) && value(a) == value(b)
    }

    fn problems(&self, spec: &Search) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let mut add = |code, message: String| {
            problems.push(Diagnostic::new(code, message).at(self.path.at.clone().or_else(|| place(spec))))
        };
        let searches = self.configurations.len() * spec.slos.len();
        if searches > SEARCHES_MAX {
            add(
                "search::size",
                format!(
                    "{searches} searches: {} configurations for {} SLOs; at most {SEARCHES_MAX}",
                    self.configurations.len(),
                    spec.slos.len()
                ),
            );
        }
        let needs_price = matches!(self.rank, Rank::QpsPerUsd | Rank::UsdPerHour);
        let priceless: BTreeSet<String> = self
            .configurations
            .iter()
            .flat_map(|c| c.scenario.sites())
            .map(|site| site.deployment.gpu)
            .filter(|gpu| !self.prices.contains_key(gpu))
            .collect();
        if needs_price && !priceless.is_empty() {
            let names: Vec<&str> = priceless.iter().map(String::as_str).collect();
            let message = format!("`rank` needs the price of {}", names.join(", "));
            add("search::prices", message);
        }
        // What is wrong with all of them is a mistake; with some, an answer.
        if let Some(first) = self.configurations.first()
            && self.configurations.iter().all(|c| !c.wrong.is_empty())
        {
            problems.extend(first.wrong.iter().cloned());
        }
        problems
    }
}

fn number(value: f64, integer: bool) -> Tree {
    let value = if integer { TreeValue::Int(value as i64) } else { TreeValue::Float(value) };
    Tree::new(value, None)
}

/// The setting that is searched, and the first value.
fn first(find: &Find) -> (Text, f64) {
    match find {
        Find::Qps(f) => (f.path.clone(), f.start.clamp(f.min.min(f.max), f.max.max(f.min))),
        Find::Replicas(f) => (f.path.clone(), f.start.clamp(f.min.min(f.max), f.max.max(f.min)).into()),
        Find::IsoQps(f) => (f.path.clone(), f.qps * f.multipliers.first().copied().unwrap_or(1.0)),
    }
}

/// The simulation that is searched.
fn simulated(spec: &Search, stages: &[Stage]) -> Result<Simulate, Diagnostic> {
    let over = spec.over.as_ref().map(|over| simulation(&over.0, "search::over", stages)).transpose()?;
    let wrong = |message: &str| Diagnostic::new("search::base", message).at(place(spec));
    if over.is_some() && (spec.requests.is_some() || spec.deployment.is_some()) {
        return Err(wrong("`over` brings requests and deployment with it: leave out either")
            .help("what a configuration has of its own goes into `sweep`"));
    }
    let simulation = spec.simulation(over).ok_or_else(|| {
        wrong("nothing to simulate: neither `over` nor `deployment`")
            .help("`over: sim` takes the settings of a `simulate` stage")
    })?;
    if simulation.is_queueing() {
        return Err(wrong("a queueing deployment is not searched")
            .help("a run of it takes milliseconds: try all values with `sweep`"));
    }
    simulation.requests()?;
    Ok(simulation)
}

/// Somewhere in the stage.
fn place(spec: &Search) -> Option<crate::diag::Span> {
    let over = spec.over.iter().chain(&spec.requests).find_map(|r| r.0.at.clone());
    over.or_else(|| spec.deployment.as_ref().and_then(|d| d.at.clone()))
        .or_else(|| spec.slos.first().and_then(|slo| slo.name.at.clone()))
}

fn default_rank(find: &Find, configurations: &[Configuration], prices: &BTreeMap<String, f64>) -> Rank {
    let priced = !prices.is_empty() && configurations.iter().all(|c| cost(&c.scenario, prices).1.is_some());
    match (find, priced) {
        (Find::Qps(_), true) => Rank::QpsPerUsd,
        (Find::Qps(_), false) => Rank::QpsPerGpu,
        // Where the load is given, the cheapest that carries it is the best.
        (Find::Replicas(_) | Find::IsoQps(_), true) => Rank::UsdPerHour,
        (Find::Replicas(_) | Find::IsoQps(_), false) => Rank::Gpus,
    }
}

/// Everything that is wrong with the settings.
pub(super) fn check(spec: &Search, cx: &CheckCx) -> Vec<Diagnostic> {
    let at = place(spec);
    let mut problems = rules_problems(&spec.slos, at.as_ref(), Some(&columns::requests()));
    let mut add = |message: String| problems.push(Diagnostic::new("search::find", message).at(at.clone()));
    if spec.replications == 0 || spec.replications > REPLICATIONS_MAX {
        add(format!("`replications` is {}; must be 1 to {REPLICATIONS_MAX}", spec.replications));
    }
    if !(spec.confidence > 0.5 && spec.confidence < 1.0) {
        add(format!("`confidence` is {}; must be above 0.5 and below 1", spec.confidence));
    }
    let above_zero = |x: f64| x > 0.0 && x.is_finite();
    match &spec.find {
        Find::Qps(f) => {
            if ![f.start, f.min, f.max].into_iter().all(above_zero) || f.min > f.max {
                add(format!(
                    "`qps`: from {} to {}, first {}; loads are above 0, and `min` is not above `max`",
                    f.min, f.max, f.start
                ));
            }
            if !(1e-6..1.0).contains(&f.tolerance) {
                add(format!("`tolerance` is {}; must be 0.000001 or more, and below 1", f.tolerance));
            }
        }
        Find::Replicas(f) => {
            if f.start == 0 || f.min == 0 || f.min > f.max {
                add(format!(
                    "`replicas`: from {} to {}, first {}; must be 1 or more, and `min` not above `max`",
                    f.min, f.max, f.start
                ));
            }
        }
        Find::IsoQps(f) => {
            if f.multipliers.is_empty() || !f.multipliers.iter().all(|by| above_zero(f.qps * by)) {
                add("`iso_qps` needs `qps` and `multipliers` above 0".to_string());
            }
        }
    }
    if !problems.is_empty() {
        return problems;
    }
    let stages = super::foreseen_stages(cx.stages);
    match Setup::new(spec, &stages, cx.project, cx.seed) {
        Ok(setup) => {
            problems.extend(profiles::check(&profiles::named(&setup.simulation), cx));
            problems.extend(unknown_requests(&setup.simulation, cx));
            if matches!(spec.find, Find::Replicas(_))
                && setup.configurations.iter().any(|c| c.scenario.workload.rate_rps.is_none())
                && matches!(spec.rank, Some(Rank::Qps | Rank::QpsPerGpu | Rank::QpsPerUsd))
            {
                let message =
                    "`rank` is by load, and the load is that of the trace: set `workload.rate_rps`, or rank by `gpus`";
                problems.push(Diagnostic::new("search::rank", message).at(place(spec)));
            }
        }
        Err(found) => problems.extend(found),
    }
    problems
}

fn unknown_requests(simulation: &Simulate, cx: &CheckCx) -> Option<Diagnostic> {
    let name = simulation.requests().ok()?;
    if cx.tables.contains_key(&name.value) {
        return None;
    }
    let d = Diagnostic::new("search::requests", format!("there is no table `{}`", name.value)).at(name.at.clone());
    Some(match nearest(&name.value, cx.tables.keys().map(String::as_str)) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d,
    })
}
