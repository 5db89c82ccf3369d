//! `search`: the highest load that a configuration carries within an SLO, or the fewest replicas that carry a load.
//!
//! ```text
//! bracket.rs   which value to try next       seek.rs    one search: a configuration and an SLO
//! setup.rs     configurations, prices, what can be wrong        tables.rs   the tables
//! bound.rs     what the hardware could carry at best
//! ```
//!
//! Searches go on side by side: in every round each says which value it wants to know of, all that is not known yet is
//! simulated at once, on all threads, and everybody learns from it; what one SLO's search tried, the searches of the
//! others over the same configuration know too. Rounds follow from results alone, so the tables do not depend on threads.
//! Simulations are remembered one by one: a search that was stopped asks for the same ones again and finds them done.

mod bound;
mod bracket;
mod seek;
mod setup;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use pipe_kernel::SIM_VERSION;
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim;
use pipe_kernel::tune::paired;

use self::seek::{Seek, State};
use self::setup::Setup;
use super::calibrate::{calibrated_stages, foreseen_stages};
use super::simulate::evaluate::{Detail, Evaluator, Finished};
use super::simulate::input::Workload;
use super::simulate::profiles::{self, Profiles};
use super::slo::{Judge, rules_recipe};
use super::{CheckCx, Kind, Outcome, RunCx, TableShape};
use crate::catalog;
use crate::diag::{Diagnostic, Exit, Failure, Result};
use crate::spec::{Find, Search, Text};
use crate::table::simulation;

#[async_trait]
impl Kind for Search {
    fn kind(&self) -> &'static str {
        "search"
    }

    fn version(&self) -> u32 {
        1
    }

    fn inputs(&self) -> Result<Vec<Text>> {
        // With `over`, the tables of the simulation come in with it.
        let own = self.requests.iter().map(|r| r.0.clone());
        let profiles = self.simulation(None).map(|own| profiles::named(&own)).unwrap_or_default();
        Ok(self.over.iter().map(|r| r.0.clone()).chain(own).chain(profiles).collect())
    }

    fn tables(&self, stage: &str, cx: &CheckCx) -> Vec<TableShape> {
        let setup = Setup::new(self, &foreseen_stages(cx.stages), cx.project, cx.seed).ok();
        let shape = |name: &str, schema| TableShape { name: format!("{stage}{name}"), schema };
        vec![
            shape("", setup.as_ref().map(tables::answers)),
            shape("_probes", setup.as_ref().map(tables::probes)),
            shape("_sequence", Some(tables::sequence())),
        ]
    }

    fn check(&self, _stage: &str, cx: &CheckCx) -> Vec<Diagnostic> {
        setup::check(self, cx)
    }

    fn recipe(&self, cx: &CheckCx) -> Value {
        recipe(self, cx)
    }

    async fn run(&self, cx: RunCx) -> Result<Outcome> {
        let stages = calibrated_stages(&cx.stages, &cx.inputs).await?;
        let setup = Setup::new(self, &stages, &cx.project, cx.seed).map_err(Failure::usage)?;
        let profiles = Profiles::read(&profiles::named(&setup.simulation), &cx).await?;
        let requests = setup.simulation.requests()?;
        let missing = || Failure::stage("search::requests", format!("there is no table `{}`", requests.value));
        let workload =
            Workload::read(cx.inputs.get(&requests.value).ok_or_else(missing)?, &catalog::load(&cx.project)?).await;
        let workload = workload.map_err(|failure| failure.or_at(requests.at.as_ref()))?;
        let evaluator = Evaluator::new(&cx, workload, profiles.clone(), Detail::default());
        let mut run = Run::new(self, &cx, &setup, profiles, evaluator)?;
        run.rounds().await?;
        for text in run.warnings(&requests.value) {
            cx.progress.0.warning(&text);
        }
        let slos: Vec<String> = self.slos.iter().map(|slo| slo.name.value.clone()).collect();
        tables::write(&cx, &setup, &slos, &run.seeks, &run.probes)?;
        Ok(Outcome { answer: tables::answer(&cx.stage, &setup, &slos, &run.seeks, &run.probes), violated: None })
    }
}

/// A configuration that was simulated with a value of what is searched.
struct Probe {
    configuration: usize,
    value: f64,
    /// One per replication.
    scenarios: Vec<(Scenario, Finished)>,
    /// Per SLO.
    judged: Vec<Judged>,
}

/// What a probe says of an SLO.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Judged {
    passes: bool,
    /// The smallest margin of a limit, mean over the replications; `None` where nothing could be measured.
    margin: Option<f64>,
    /// Its lower confidence bound; the margin itself without replications.
    margin_low: Option<f64>,
}

/// Searches in progress.
struct Run<'a> {
    spec: &'a Search,
    cx: &'a RunCx,
    setup: &'a Setup,
    profiles: Profiles,
    evaluator: Evaluator,
    judges: Vec<Judge>,
    seeks: Vec<Seek>,
    probes: Vec<Probe>,
    /// Configuration and value, by its bits, to the probe.
    known: BTreeMap<(usize, u64), usize>,
}

impl<'a> Run<'a> {
    fn new(
        spec: &'a Search,
        cx: &'a RunCx,
        setup: &'a Setup,
        profiles: Profiles,
        evaluator: Evaluator,
    ) -> Result<Run<'a>> {
        let judges = spec.slos.iter().map(|slo| Judge::new(std::slice::from_ref(slo))).collect::<Result<_>>()?;
        let mut seeks = setup.seeks(spec);
        if let (true, Find::Qps(find)) = (spec.drop_hopeless, &spec.find) {
            for seek in &mut seeks {
                let scenario = &setup.configurations[seek.configuration].scenario;
                let at_best = bound::highest_qps(scenario, &evaluator.workload.requests, &spec.slos[seek.slo]);
                seek.ceiling = at_best.filter(|qps| *qps < find.max);
            }
        }
        Ok(Run { spec, cx, setup, profiles, evaluator, judges, seeks, probes: Vec::new(), known: BTreeMap::new() })
    }

    async fn rounds(&mut self) -> Result<()> {
        loop {
            self.cx.cancel.check()?;
            let wanted = self.wanted();
            if wanted.is_empty() {
                return Ok(());
            }
            self.simulate(wanted).await?;
            if self.spec.drop_hopeless {
                seek::drop_hopeless(&mut self.seeks, self.setup);
            }
        }
    }

    /// Every search goes on with what is known; what they cannot go on without, in order.
    fn wanted(&mut self) -> Vec<(usize, f64)> {
        let mut wanted = Vec::new();
        let waits = match self.spec.drop_hopeless {
            true => seek::waiting(&self.seeks, self.setup),
            false => vec![false; self.seeks.len()],
        };
        for (seek, _) in self.seeks.iter_mut().zip(waits).filter(|(_, waits)| !waits) {
            while let Some(value) = seek.wants() {
                let key = (seek.configuration, value.to_bits());
                match self.known.get(&key) {
                    Some(probe) => seek.learn(value, *probe, self.probes[*probe].judged[seek.slo]),
                    None => {
                        wanted.push((seek.configuration, value));
                        break;
                    }
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        wanted.retain(|(configuration, value)| seen.insert((*configuration, value.to_bits())));
        wanted
    }

    /// The scenarios of a probe.
    ///
    /// # Errors
    /// Why there is none with this value, in words for the user.
    fn scenarios(&self, configuration: usize, value: f64) -> std::result::Result<Vec<Scenario>, String> {
        let why = |found: Vec<Diagnostic>| found.into_iter().map(|d| d.message).collect::<Vec<_>>().join("; ");
        (0..self.spec.replications)
            .map(|replication| {
                let mut scenario = self.setup.scenario(configuration, value, replication).map_err(why)?;
                self.profiles.attach(&mut scenario);
                let checks = [
                    sim::check(&scenario),
                    sim::check_profiles(&scenario),
                    sim::check_requests(&scenario, &self.evaluator.workload.requests),
                ];
                let wrong: Vec<String> =
                    checks.into_iter().filter_map(|c| c.err()).flatten().map(|e| e.to_string()).collect();
                if wrong.is_empty() { Ok(scenario) } else { Err(wrong.join("; ")) }
            })
            .collect()
    }

    async fn simulate(&mut self, wanted: Vec<(usize, f64)>) -> Result<()> {
        let mut planned: Vec<(usize, f64, Vec<Scenario>)> = Vec::new();
        for (configuration, value) in wanted {
            match self.scenarios(configuration, value) {
                Ok(scenarios) => planned.push((configuration, value, scenarios)),
                Err(why) => {
                    let all = self.seeks.iter_mut().filter(|seek| seek.configuration == configuration);
                    all.for_each(|seek| seek.give_up(&why));
                }
            }
        }
        let requests = self.setup.simulation.requests()?;
        let all: Vec<Scenario> = planned.iter().flat_map(|(.., scenarios)| scenarios.iter().cloned()).collect();
        for scenario in &all {
            self.evaluator.workload.check(&scenario.workload, requests)?;
        }
        let done: usize = self.probes.iter().map(|probe| probe.scenarios.len()).sum();
        self.cx.progress.0.total((done + all.len()) as u64, "simulations");
        let (finished, _) = self.evaluator.evaluate(&all).await?;
        let threads = self.cx.pool.current_num_threads().max(1);
        let judging: Vec<_> = all.iter().zip(&finished).map(|(s, f)| self.verdicts(s, f)).collect();
        let verdicts: Vec<Vec<_>> = stream::iter(judging).buffered(threads).try_collect().await?;
        let mut rest = all.into_iter().zip(finished).zip(verdicts);
        for (configuration, value, scenarios) in planned {
            let (scenarios, verdicts): (Vec<_>, Vec<_>) = rest.by_ref().take(scenarios.len()).unzip();
            let judged = (0..self.judges.len())
                .map(|slo| judged(&verdicts.iter().map(|of| of[slo]).collect::<Vec<_>>(), self.spec.confidence))
                .collect();
            self.known.insert((configuration, value.to_bits()), self.probes.len());
            self.probes.push(Probe { configuration, value, scenarios, judged });
        }
        Ok(())
    }

    /// Per SLO: whether a simulation meets it, and by what margin.
    async fn verdicts(&self, scenario: &Scenario, finished: &Finished) -> Result<Vec<(bool, Option<f64>)>> {
        let rows = self.evaluator.request_rows(scenario, finished, 0).await?;
        let verdict = |judge: &Judge| judge.verdict(&rows).map(|verdict| (verdict.pass, verdict.margin));
        self.judges.iter().map(verdict).collect()
    }

    /// What the user should know, though it stops nothing.
    fn warnings(&self, requests: &str) -> Vec<String> {
        let mut found = Vec::new();
        let started: Vec<Scenario> =
            self.probes.iter().flat_map(|p| p.scenarios.first()).map(|(s, _)| s.clone()).collect();
        let finished: Vec<Finished> =
            self.probes.iter().flat_map(|p| p.scenarios.first()).map(|(_, f)| f.clone()).collect();
        let name = Text::new(requests.to_string(), None);
        found.extend(super::simulate::warnings(&name, &self.evaluator.workload, &started, &finished));
        let wavering = self.seeks.iter().filter(|seek| seek.contradictions() > 0).count();
        if wavering > 0 {
            found.push(format!(
                "in {wavering} of {} searches a harder value passes beyond one that fails; the first failure counts \
                 (`contradictions`): more `replications`, or more requests, make them steadier",
                self.seeks.len()
            ));
        }
        let open = self.seeks.iter().filter(|seek| seek.state == State::AllPass && self.setup.is_bracketed()).count();
        if open > 0 {
            found.push(format!(
                "{open} of {} searches pass at the end of their range, so the answer lies beyond it: widen `find`",
                self.seeks.len()
            ));
        }
        found
    }
}

/// A verdict from those of all replications.
fn judged(verdicts: &[(bool, Option<f64>)], confidence: f64) -> Judged {
    let margins: Option<Vec<f64>> = verdicts.iter().map(|(_, margin)| *margin).collect();
    let Some(margins) = margins else { return Judged { passes: false, margin: None, margin_low: None } };
    let mean = margins.iter().sum::<f64>() / margins.len() as f64;
    match verdicts {
        [(passes, _)] => Judged { passes: *passes, margin: Some(mean), margin_low: Some(mean) },
        _ => {
            // One-sided: what is left out on the other side is left out here too.
            let zeros = vec![0.0; margins.len()];
            let low = paired::difference(&margins, &zeros, 2.0 * confidence - 1.0).map_or(f64::NEG_INFINITY, |d| d.low);
            Judged { passes: low >= 0.0, margin: Some(mean), margin_low: Some(low) }
        }
    }
}

/// Everything that rows depend on. A configuration is in it with its defaults and its facts, as a hash: there may be many.
fn recipe(spec: &Search, cx: &CheckCx) -> Value {
    let stages = foreseen_stages(cx.stages);
    let Ok(setup) = Setup::new(spec, &stages, cx.project, cx.seed) else { return Value::Null };
    let mut hasher = blake3::Hasher::new();
    for configuration in &setup.configurations {
        hasher.update(serde_json::to_string(&configuration.scenario).unwrap_or_default().as_bytes());
    }
    let find = match &spec.find {
        Find::Qps(f) => {
            json!({ "qps": { "path": f.path.value, "start": f.start, "min": f.min, "max": f.max, "tolerance": f.tolerance } })
        }
        Find::Replicas(f) => {
            json!({ "replicas": { "path": f.path.value, "start": f.start, "min": f.min, "max": f.max } })
        }
        Find::IsoQps(f) => json!({ "iso_qps": { "path": f.path.value, "qps": f.qps, "multipliers": f.multipliers } }),
    };
    let prices: serde_json::Map<String, Value> =
        setup.prices.iter().map(|(gpu, price)| (gpu.clone(), json!(price))).collect();
    json!({
        "configurations": hasher.finalize().to_hex().to_string(),
        "find": find,
        "slos": rules_recipe(&spec.slos),
        "replications": spec.replications,
        "confidence": spec.confidence,
        "rank": format!("{:?}", setup.rank),
        "drop_hopeless": spec.drop_hopeless,
        "prices": prices,
        "sim_version": SIM_VERSION,
        "memo_version": simulation::MEMO_VERSION,
    })
}

/// A failure of a search that ran.
fn broken(code: &'static str, message: String) -> Failure {
    Failure { exit: Exit::Stage, diagnostics: vec![Diagnostic::new(code, message)] }
}
