//! Workload specifications of inference-sim (BLIS), version 2; version 1 has other names of two classes.
//!
//! | there | here |
//! |---|---|
//! | `aggregate_rate`, `rate_fraction` | the rate of a client is its fraction of the sum of the fractions of all that are active together |
//! | `num_requests`, `horizon` (us) | number of requests, duration; those of the stage go before them |
//! | `arrival` | `constant`, `poisson`, `gamma`, `weibull` by `cv`; `shape` and `scale` (us) where given, also for the rate |
//! | distributions | `gaussian`, `exponential`, `lognormal`, `pareto_lognormal`, `constant`, `empirical` (inline) |
//! | `concurrency`, `think_time_us` | a closed loop of users |
//! | `lifecycle.windows` | when the client sends; a window with `trace_rate`, `arrival` or distributions of its own draws its gaps anew and fills itself with them; it keeps the prefix, which inference-sim drops there |
//! | `cohorts` | `population` clients `<id>-<i>` that share the fraction; `diurnal`, `spike` and `drain` are windows, as there |
//! | `reasoning` | `multi_turn`: sessions that begin at the rate of the client; the ratio is drawn in whole percent |
//! | `prefix_group`, `prefix_length` | a system prompt of that name, 50 tokens by default |
//! | `multimodal` | `text_distribution` is the prompt; images, audio and video are drawn one by one |
//! | `tenant_id`, `slo_class`, `model`, `adapter` | tenant, class, model, adapter |
//! | `timeout` (us), `slo_target_us` | `timeout_ns`, `deadline_ns`; without `timeout` there is none (there: 300 s) |
//! | `inference_perf` | see `inference_perf.rs` |
//!
//! Without effect, with a warning: `streaming`, `network`, `goodput_slo_targets`, `closed_loop` (`simulate` decides, by
//! `workload: { sessions: closed }`). Refused: `servegen_data`, `file`. `seed` and `category` change nothing.

use indexmap::IndexMap;
use pipe_kernel::scenario::{ConstantTime, Gamma, ThinkTime};
use pipe_kernel::workload::{
    Active, ArrivalProcess, Body, Client, Clients, ClosedLoop, Constant, Correlation, Empirical, Exponential, Images,
    LengthSet, Lengths, Lognormal, Normal, ParetoLognormal, Ratio, Reasoning, SyntheticSessions, SystemPrompt, Weibull,
    Window, Windows,
};

use super::blis_file::{Arrival, ClientSpec, Cohort, Dist, DiurnalSpec, Drain, InferencePerf, Lifecycle, MultiTurn};
use super::blis_file::{Spec, SpikeSpec, WindowSpec};
use super::{Notes, Read, empty, inference_perf};
use crate::diag::Diagnostic;
use crate::spec::{Tree, from_tree};

const CLASSES: [&str; 5] = ["critical", "standard", "sheddable", "batch", "background"];
/// Most members of a cohort, as there.
const POPULATION: u32 = 100_000;

/// A client, the path that it was written at, and what it weighs.
struct Member {
    spec: ClientSpec,
    path: String,
}

/// # Errors
/// Keys and types that such a file does not have.
pub(super) fn read(tree: &Tree) -> Result<Read, Vec<Diagnostic>> {
    let spec: Spec = from_tree(tree)?;
    let mut notes = Notes::of(tree);
    let version = spec.version.as_ref().map_or("2".to_string(), |v| match v.as_str() {
        Some(text) => text.to_string(),
        None => v.to_json().to_string(),
    });
    notes.require(matches!(version.as_str(), "" | "1" | "2"), "version", || format!("is {version}: known are 1 and 2"));
    let category = spec.category.as_deref().unwrap_or("");
    notes.require(matches!(category, "" | "language" | "multimodal" | "reasoning"), "category", || {
        format!("is `{category}`: known are language, multimodal and reasoning")
    });
    notes.ignore("goodput_slo_targets", "objectives are a stage `slo`");
    if spec.servegen_data.is_some() {
        notes.refuse("servegen_data", "is refused: `synthesize: { servegen: { path: FOLDER } }` reads such a folder");
    }
    let rate = spec.aggregate_rate;
    notes.require(rate.is_finite() && rate >= 0.0, "aggregate_rate", || {
        format!("must be a number from 0 up, not {rate}")
    });
    let members = members(&spec, &version, &mut notes);
    let mut made = Clients {
        clients: Vec::new(),
        requests: (spec.num_requests > 0).then_some(spec.num_requests),
        duration_s: (spec.horizon > 0).then(|| spec.horizon as f64 / 1e6),
    };
    if let Some(InferencePerf { stages, shared_prefix }) = spec.inference_perf {
        if members.is_empty() {
            let section = inference_perf::section(stages, &shared_prefix, &mut notes)?;
            made.clients = section.clients;
            made.requests = made.requests.or(section.requests);
            made.duration_s = made.duration_s.or(section.duration_s);
        } else {
            notes.refuse("inference_perf", "cannot be there together with `clients` or `cohorts`");
        }
    } else {
        notes.require(!members.is_empty(), "clients", || "or `cohorts` must have at least one client".to_string());
    }
    let rated = members.iter().filter(|m| m.spec.concurrency == 0);
    for member in rated {
        let own = |w: &WindowSpec| w.trace_rate.is_some();
        let absolute = member.spec.lifecycle.as_ref().is_some_and(|l| l.windows.iter().all(own));
        notes.require(rate > 0.0 || absolute, "aggregate_rate", || {
            "is 0: every client needs windows that have a `trace_rate`".to_string()
        });
    }
    let turns = members.iter().any(|m| m.spec.reasoning.as_ref().is_some_and(|r| r.multi_turn.is_some()));
    for member in members.iter().filter(|m| m.spec.concurrency > 0) {
        notes.require(!turns, &format!("{}.concurrency", member.path), || {
            "cannot be in one file with multi-turn clients".to_string()
        });
    }
    let mut lengths: IndexMap<String, u32> = IndexMap::new();
    for member in &members {
        if let Some(group) = &member.spec.prefix_group {
            let tokens = if member.spec.prefix_length > 0 { member.spec.prefix_length } else { 50 };
            lengths.entry(group.clone()).or_insert(tokens);
        }
    }
    // Each place is said once, though a cohort has many members.
    let before = notes.refused.len();
    for (i, member) in members.iter().enumerate() {
        let rates = Rates { all: &members, of: i, aggregate: rate };
        let known = notes.refused.len();
        let client = client(member, &rates, &lengths, &mut notes);
        made.clients.push(client);
        let new: Vec<Diagnostic> = notes.refused.drain(known..).collect();
        for d in new {
            if !notes.refused[before..].contains(&d) {
                notes.refused.push(d);
            }
        }
    }
    Ok(notes.done(made))
}

/// The clients, and the members of the cohorts.
fn members(spec: &Spec, version: &str, notes: &mut Notes) -> Vec<Member> {
    let mut all = Vec::new();
    for (i, client) in spec.clients.iter().enumerate() {
        let path = format!("clients.{i}");
        let mut client = client.clone();
        client.id = Some(client.id.unwrap_or_else(|| format!("client-{i}")));
        all.push(Member { spec: client, path });
    }
    for (i, cohort) in spec.cohorts.iter().enumerate() {
        let path = format!("cohorts.{i}");
        let Cohort { population, .. } = *cohort;
        notes.require((1..=POPULATION).contains(&population), &format!("{path}.population"), || {
            format!("must be from 1 to {POPULATION}, not {population}")
        });
        let sharing = cohort.prefix_sharing.as_deref().unwrap_or("shared");
        notes.require(matches!(sharing, "shared" | "per_member"), &format!("{path}.prefix_sharing"), || {
            format!("is `{sharing}`: known are shared and per_member")
        });
        let windows = windows(cohort, &path, notes);
        for member in 0..population.min(POPULATION) {
            let group = cohort.prefix_group.clone();
            let spec = ClientSpec {
                id: Some(format!("{}-{member}", cohort.id)),
                tenant_id: cohort.tenant_id.clone(),
                slo_class: cohort.slo_class.clone(),
                model: cohort.model.clone(),
                adapter: cohort.adapter.clone(),
                rate_fraction: cohort.rate_fraction / f64::from(population.max(1)),
                concurrency: 0,
                think_time_us: 0.0,
                arrival: cohort.arrival.clone(),
                input_distribution: cohort.input_distribution.clone(),
                output_distribution: cohort.output_distribution.clone(),
                prefix_group: if sharing == "per_member" { group.map(|g| format!("{g}-{member}")) } else { group },
                prefix_length: cohort.prefix_length,
                _streaming: None,
                _network: None,
                lifecycle: (!windows.is_empty()).then(|| Lifecycle { windows: windows.clone() }),
                multimodal: cohort.multimodal.clone(),
                reasoning: cohort.reasoning.clone(),
                timeout: cohort.timeout,
                slo_target_us: cohort.slo_target_us,
                _closed_loop: None,
            };
            all.push(Member { spec, path: path.clone() });
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for member in &mut all {
        let (id, path) = (member.spec.id.clone().unwrap_or_default(), &member.path);
        notes.require(names.insert(id.clone()), &format!("{path}.id"), || {
            format!("is `{id}`, as that of another client")
        });
        if let Some(class) = &mut member.spec.slo_class {
            if matches!(version, "" | "1") {
                *class = match class.as_str() {
                    "realtime" => "critical".to_string(),
                    "interactive" => "standard".to_string(),
                    _ => class.clone(),
                };
            }
            notes.require(class.is_empty() || CLASSES.contains(&class.as_str()), &format!("{path}.slo_class"), || {
                format!("is `{class}`: known are {}", CLASSES.join(", "))
            });
        }
        notes.ignore(&format!("{path}.streaming"), "a simulation knows when every token comes");
        notes.ignore(&format!("{path}.network"), "times of a network are settings of `compare`, and of deployments");
        notes.ignore(&format!("{path}.closed_loop"), "`simulate` decides, by `workload: { sessions: closed }`");
    }
    all
}

/// The windows of a cohort, in microseconds.
fn windows(cohort: &Cohort, path: &str, notes: &mut Notes) -> Vec<WindowSpec> {
    let on = |start_us: f64, len: f64| WindowSpec {
        start_us,
        end_us: start_us + len.max(1.0),
        trace_rate: None,
        arrival: None,
        input_distribution: None,
        output_distribution: None,
    };
    let mut made = Vec::new();
    if let Some(DiurnalSpec { peak_hour, peak_to_trough_ratio: ratio }) = cohort.diurnal {
        notes.require((0.0..24.0).contains(&peak_hour), &format!("{path}.diurnal.peak_hour"), || {
            format!("must be from 0 to 23, not {peak_hour}")
        });
        notes.require(ratio.is_finite() && ratio >= 1.0, &format!("{path}.diurnal.peak_to_trough_ratio"), || {
            format!("must be at least 1, not {ratio}")
        });
        for hour in 0..24 {
            let hour = f64::from(hour);
            let cosine = libm::cos(std::f64::consts::TAU * (hour - peak_hour) / 24.0);
            let part = f64::midpoint(1.0, cosine) * (1.0 - 1.0 / ratio) + 1.0 / ratio;
            made.push(on(hour * 3.6e9, (3.6e9 * part.min(1.0)).trunc()));
        }
    }
    if let Some(SpikeSpec { start_time_us, duration_us, trace_rate }) = cohort.spike {
        notes.require(duration_us > 0.0, &format!("{path}.spike.duration_us"), || "must be above 0".to_string());
        notes.require(start_time_us >= 0.0, &format!("{path}.spike.start_time_us"), || {
            "must not be below 0".to_string()
        });
        let trace_rate = trace_rate.map(|rate| rate / f64::from(cohort.population.max(1)));
        made.push(WindowSpec { trace_rate, ..on(start_time_us, duration_us) });
    }
    if let Some(Drain { start_time_us, ramp_duration_us }) = cohort.drain {
        notes.require(ramp_duration_us > 0.0, &format!("{path}.drain.ramp_duration_us"), || {
            "must be above 0".to_string()
        });
        notes.require(start_time_us >= 0.0, &format!("{path}.drain.start_time_us"), || {
            "must not be below 0".to_string()
        });
        if start_time_us > 0.0 {
            made.push(on(0.0, start_time_us));
        }
        let segment = (ramp_duration_us / 10.0).trunc().max(1.0);
        for i in 0..10 {
            let i = f64::from(i);
            made.push(on(start_time_us + i * segment, (segment * (10.0 - i) / 10.0).trunc()));
        }
    }
    made
}

/// What decides the rate of a client.
struct Rates<'a> {
    all: &'a [Member],
    of: usize,
    aggregate: f64,
}

impl Rates<'_> {
    /// Requests per second of a client whose rate does not depend on the window.
    fn whole(&self) -> f64 {
        let windows = |m: &'_ Member| m.spec.lifecycle.as_ref().map_or(Vec::new(), |l| spans(&l.windows));
        let own = &self.all[self.of];
        let mine = windows(own);
        let together = |other: &&Member| {
            let theirs = windows(other);
            let meets = |a: &(f64, f64)| theirs.iter().any(|b| a.0 < b.1 && b.0 < a.1);
            mine.is_empty() || theirs.is_empty() || mine.iter().any(meets)
        };
        let sum: f64 = self.all.iter().filter(together).map(|m| m.spec.rate_fraction.max(0.0)).sum();
        if sum > 0.0 { self.aggregate * own.spec.rate_fraction / sum } else { 0.0 }
    }

    /// Requests per second in a window of the client.
    fn within(&self, window: &WindowSpec) -> f64 {
        let own = self.all[self.of].spec.rate_fraction;
        let weight = window.trace_rate.unwrap_or(own);
        if self.aggregate == 0.0 {
            return weight;
        }
        let of = |member: &Member| match &member.spec.lifecycle {
            None => member.spec.rate_fraction.max(0.0),
            Some(l) => {
                let meets = |w: &&WindowSpec| w.start_us < window.end_us && window.start_us < w.end_us;
                l.windows.iter().find(meets).map_or(0.0, |w| w.trace_rate.unwrap_or(member.spec.rate_fraction))
            }
        };
        let sum: f64 = self.all.iter().filter(|m| m.spec.concurrency == 0).map(of).sum();
        if sum > 0.0 { self.aggregate * weight / sum } else { 0.0 }
    }
}

fn spans(windows: &[WindowSpec]) -> Vec<(f64, f64)> {
    windows.iter().map(|w| (w.start_us, w.end_us)).collect()
}

fn client(member: &Member, rates: &Rates, prefixes: &IndexMap<String, u32>, notes: &mut Notes) -> Client {
    let Member { spec, path } = member;
    let mut body = empty();
    let at = |key: &str| format!("{path}.{key}");
    notes.require(spec.concurrency == 0 || spec.rate_fraction == 0.0, &at("concurrency"), || {
        "cannot be there together with `rate_fraction`".to_string()
    });
    let fraction = spec.rate_fraction;
    notes.require(spec.concurrency > 0 || fraction.is_finite() && fraction > 0.0, &at("rate_fraction"), || {
        format!("must be a number above 0, not {fraction}")
    });
    for (value, key) in
        [(spec.timeout, "timeout"), (spec.slo_target_us, "slo_target_us"), (Some(spec.think_time_us), "think_time_us")]
    {
        notes.require(value.is_none_or(|v| v.is_finite() && v >= 0.0), &at(key), || "must not be below 0".to_string());
    }
    if let Some(media) = &spec.multimodal {
        let mut medium = |tokens: &Option<Dist>, count: &Option<Dist>, key: &str| {
            let (tokens, count) = (tokens.as_ref()?, count.as_ref()?);
            let path = at(&format!("multimodal.{key}"));
            Some(Images {
                share: 1.0,
                tokens: dist(Some(tokens), &format!("{path}_distribution"), notes),
                count: Some(dist(Some(count), &format!("{path}_count_distribution"), notes)),
            })
        };
        body.images = medium(&media.image_distribution, &media.image_count_distribution, "image");
        body.audio = medium(&media.audio_distribution, &media.audio_count_distribution, "audio");
        body.video = medium(&media.video_distribution, &media.video_count_distribution, "video");
        let text = media.text_distribution.as_ref();
        body.input = dist(text.or(spec.input_distribution.as_ref()), &at("multimodal.text_distribution"), notes);
    } else {
        body.input = dist(spec.input_distribution.as_ref(), &at("input_distribution"), notes);
    }
    body.output = dist(spec.output_distribution.as_ref(), &at("output_distribution"), notes);
    if let Some(group) = &spec.prefix_group {
        body.system_prompt = Some(SystemPrompt { name: Some(group.clone()), tokens: prefixes[group] });
    }
    if let Some(reasoning) = &spec.reasoning {
        let ratio = reasoning.reason_ratio_distribution.as_ref();
        let path = at("reasoning.reason_ratio_distribution");
        body.reasoning =
            ratio.map(|ratio| Reasoning { share: Ratio::Percent(Box::new(dist(Some(ratio), &path, notes))) });
        if let Some(turns) = &reasoning.multi_turn {
            body.sessions = Some(sessions(turns, &at("reasoning.multi_turn"), notes));
            body.starts = turns.single_session.then_some(1);
        }
    }
    let mut client = Client::new(spec.id.clone().unwrap_or_default(), Body::Alike(Box::new(empty())));
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    client.tenant = given(&spec.tenant_id);
    client.class = given(&spec.slo_class);
    client.model = given(&spec.model);
    client.adapter = given(&spec.adapter);
    client.timeout_s = spec.timeout.filter(|us| *us > 0.0).map(|us| us / 1e6);
    client.deadline_s = spec.slo_target_us.filter(|us| *us > 0.0).map(|us| us / 1e6);
    client.body = if spec.concurrency > 0 {
        let think_time = ThinkTime::Constant(ConstantTime { s: spec.think_time_us / 1e6 });
        body.arrivals = ArrivalProcess::ClosedLoop(ClosedLoop { users: spec.concurrency, think_time, turn_s: 1.0 });
        Body::Alike(Box::new(body))
    } else {
        let (process, own_rate) = arrival(spec.arrival.as_ref(), &at("arrival"), notes);
        let windows = spec.lifecycle.as_ref().map_or(&[][..], |l| &l.windows);
        for (i, w) in windows.iter().enumerate() {
            let ok = w.start_us >= 0.0 && w.end_us > w.start_us;
            notes.require(ok, &at(&format!("lifecycle.windows.{i}")), || "must end after it starts".to_string());
        }
        let overrides = |w: &WindowSpec| {
            w.trace_rate.is_some()
                || w.arrival.is_some()
                || w.input_distribution.is_some()
                || w.output_distribution.is_some()
        };
        if windows.iter().any(overrides) && body.sessions.is_none() {
            in_windows(member, rates, body, &process, notes)
        } else {
            notes.require(!windows.iter().any(overrides), &at("lifecycle.windows.0"), || {
                "cannot have rates or lengths of its own in a multi-turn client".to_string()
            });
            body.rate_rps = Some(own_rate.unwrap_or_else(|| rates.whole()));
            body.arrivals = process;
            body.active = windows.iter().map(|w| Active { from_s: w.start_us / 1e6, to_s: w.end_us / 1e6 }).collect();
            Body::Alike(Box::new(body))
        }
    };
    client
}

fn in_windows(
    member: &Member,
    rates: &Rates,
    base: pipe_kernel::workload::Synthetic,
    process: &ArrivalProcess,
    notes: &mut Notes,
) -> Body {
    let set = |input: Lengths, output: Lengths| LengthSet {
        input,
        output,
        correlation: Correlation::Independent,
        fields: Vec::new(),
    };
    let mut sets = vec![set(base.input.clone(), base.output.clone())];
    let mut windows = Vec::new();
    for (i, w) in member.spec.lifecycle.iter().flat_map(|l| &l.windows).enumerate() {
        let path = format!("{}.lifecycle.windows.{i}", member.path);
        let mut number = 0;
        if w.input_distribution.is_some() || w.output_distribution.is_some() {
            let mut own = |own: &Option<Dist>, of_client: &Lengths, key: &str| match own {
                Some(own) => dist(Some(own), &format!("{path}.{key}"), notes),
                None => of_client.clone(),
            };
            let input = own(&w.input_distribution, &base.input, "input_distribution");
            let output = own(&w.output_distribution, &base.output, "output_distribution");
            number = sets.len() as u32;
            sets.push(set(input, output));
        }
        let process = match &w.arrival {
            Some(own) => arrival(Some(own), &format!("{path}.arrival"), notes).0,
            None => process.clone(),
        };
        let rate_rps = rates.within(w);
        windows.push(Window { start_s: w.start_us / 1e6, end_s: w.end_us / 1e6, rate_rps, process, set: number });
    }
    Body::Windows(Box::new(Windows { base, windows, sets }))
}

fn sessions(turns: &MultiTurn, path: &str, notes: &mut Notes) -> SyntheticSessions {
    let MultiTurn { max_rounds, think_time_us, context_growth, single_session: _ } = turns;
    notes.require(*max_rounds > 0, &format!("{path}.max_rounds"), || "must be at least 1".to_string());
    notes.require(*think_time_us >= 0.0, &format!("{path}.think_time_us"), || "must not be below 0".to_string());
    notes.require(matches!(context_growth.as_str(), "" | "accumulate"), &format!("{path}.context_growth"), || {
        format!("is `{context_growth}`: known are accumulate and nothing")
    });
    SyntheticSessions {
        turns: Lengths::Constant(Constant { tokens: (*max_rounds).max(1) }),
        think_time: ThinkTime::Constant(ConstantTime { s: think_time_us / 1e6 }),
        accumulate: context_growth == "accumulate",
        max_context: None,
        turn_s: 0.0,
    }
}

/// The process, and the rate that its own scale makes, where it has one.
fn arrival(spec: Option<&Arrival>, path: &str, notes: &mut Notes) -> (ArrivalProcess, Option<f64>) {
    let none = Arrival { process: None, cv: None, shape: None, scale: None };
    let Arrival { process, cv, shape, scale } = spec.unwrap_or(&none);
    let cv = cv.unwrap_or(1.0);
    for (value, key) in [(Some(cv), "cv"), (*shape, "shape"), (*scale, "scale")] {
        notes.require(value.is_none_or(|v| v.is_finite() && v > 0.0), &format!("{path}.{key}"), || {
            "must be a number above 0".to_string()
        });
    }
    match (process.as_deref().unwrap_or(""), *shape) {
        ("constant", _) => (ArrivalProcess::Constant, None),
        ("poisson", _) => (ArrivalProcess::Poisson, None),
        ("gamma", None) => (ArrivalProcess::Gamma(Gamma { cv }), None),
        ("gamma", Some(k)) => (ArrivalProcess::Gamma(Gamma { cv: 1.0 / k.sqrt() }), scale.map(|us| 1e6 / (k * us))),
        ("weibull", None) => (ArrivalProcess::Weibull(Weibull { cv: Some(cv), shape: None }), None),
        ("weibull", Some(k)) => {
            let process = ArrivalProcess::Weibull(Weibull { cv: None, shape: Some(k) });
            (process, scale.map(|us| 1e6 / (us * libm::tgamma(1.0 + 1.0 / k))))
        }
        (other, _) => {
            notes.refuse(
                &format!("{path}.process"),
                format!("is `{other}`: known are constant, poisson, gamma and weibull"),
            );
            (ArrivalProcess::Poisson, None)
        }
    }
}

fn dist(spec: Option<&Dist>, path: &str, notes: &mut Notes) -> Lengths {
    let fallback = Lengths::Constant(Constant { tokens: 1 });
    let Some(Dist { r#type, params, file }) = spec else {
        notes.refuse(path, "is missing");
        return fallback;
    };
    if file.is_some() {
        notes.refuse(&format!("{path}.file"), "is refused: write the lengths and their shares under `params`");
        return fallback;
    }
    let known: &[&str] = match r#type.value.as_str() {
        "gaussian" => &["mean", "std_dev", "min", "max"],
        "exponential" => &["mean"],
        "lognormal" => &["mu", "sigma", "min", "max"],
        "pareto_lognormal" => &["alpha", "xm", "mu", "sigma", "mix_weight"],
        "constant" => &["value"],
        "empirical" => &[],
        other => {
            notes.refuse(
                &format!("{path}.type"),
                format!(
                    "is `{other}`: known are gaussian, exponential, lognormal, pareto_lognormal, constant and empirical"
                ),
            );
            return fallback;
        }
    };
    if r#type.value != "empirical" {
        let optional = |key: &str| r#type.value == "lognormal" && matches!(key, "min" | "max");
        for key in known.iter().filter(|key| !params.keys().any(|k| k.value == **key) && !optional(key)) {
            notes.refuse(&format!("{path}.params"), format!("of `{}` must have `{key}`", r#type.value));
        }
        for key in params.keys().filter(|key| !known.contains(&key.value.as_str())) {
            notes.refuse(&format!("{path}.params.{}", key.value), format!("is no parameter of `{}`", r#type.value));
        }
    }
    let number = |key: &str| params.iter().find(|(k, _)| k.value == key).map(|(_, v)| *v);
    let get = |key: &str| number(key).unwrap_or(1.0);
    let tokens =
        |key: &str| number(key).map(|v| (v.round().max(0.0) as u32).clamp(1, pipe_kernel::workload::MAX_TOKENS));
    let min = tokens("min").unwrap_or(1);
    let made = match r#type.value.as_str() {
        "gaussian" => Lengths::Normal(Normal { mean: get("mean"), std: get("std_dev"), min, max: tokens("max") }),
        "exponential" => Lengths::Exponential(Exponential { mean: get("mean"), min: 1, max: None }),
        "lognormal" => Lengths::Lognormal(Lognormal { mu: get("mu"), sigma: get("sigma"), min, max: tokens("max") }),
        "pareto_lognormal" => Lengths::ParetoLognormal(ParetoLognormal {
            alpha: get("alpha"),
            xm: get("xm"),
            mu: get("mu"),
            sigma: get("sigma"),
            mix_weight: get("mix_weight"),
            min: 1,
            max: None,
        }),
        "constant" => Lengths::Constant(Constant { tokens: tokens("value").unwrap_or(1) }),
        _ => {
            let mut made = Empirical::default();
            for (key, weight) in params {
                match key.value.trim().parse::<u32>() {
                    Ok(value) => {
                        made.values.push(value.max(1));
                        made.weights.push(*weight);
                    }
                    Err(_) => notes.refuse(&format!("{path}.params.{}", key.value), "is no whole number of tokens"),
                }
            }
            if made.values.is_empty() {
                notes.refuse(&format!("{path}.params"), "must have lengths and their shares");
                return fallback;
            }
            Lengths::Empirical(made)
        }
    };
    for problem in made.problems(path) {
        let field = problem.path.rsplit('.').next().unwrap_or_default();
        let field = if field == "std" { "std_dev" } else { field };
        notes.refuse(&format!("{path}.params.{field}"), problem.message);
    }
    made
}
