//! The requests of a run and their times: a FIFO station needs no event loop, only the times at which its GPUs become
//! free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::numbers::{NumpyLegacy, PythonRandom};
use super::{Cluster, Queueing};

/// A request that arrived before the end. Times are in seconds; those at or after the end of the simulation are what
/// would have come about, and count nowhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    pub arrival: f64,
    /// Counts saturate at 2^63 - 1.
    pub prompt_tokens: i64,
    pub output_tokens: i64,
    /// When a GPU begins with its prompt.
    pub prefill_start: f64,
    pub prefill_end: f64,
    /// When a GPU begins with its output: in mode `mono` the end of the prefill.
    pub decode_start: f64,
    pub first_token: f64,
    pub finished: f64,
}

impl Request {
    pub fn ttft(&self) -> f64 {
        self.first_token - self.arrival
    }

    pub fn e2e(&self) -> f64 {
        self.finished - self.arrival
    }

    /// Time in the queue for a GPU that does its prompt.
    pub fn prefill_wait(&self) -> f64 {
        self.prefill_start - self.arrival
    }

    /// Time in the queue between the two stations; 0 in mode `mono`.
    pub fn decode_wait(&self) -> f64 {
        self.decode_start - self.prefill_end
    }
}

/// Every request that arrives before the end, in the order of arrival; `None` where `stop` was set.
///
/// # Panics
/// Where the settings have [`Queueing::problems`].
pub fn run(settings: &Queueing, stop: &AtomicBool) -> Option<Vec<Request>> {
    assert!(settings.problems().is_empty(), "settings that the check refuses");
    let cluster = settings.cluster();
    let mut requests = arrivals(settings, stop)?;
    match cluster.decode_gpus {
        None => monolithic(&mut requests, &cluster),
        Some(decode_gpus) => {
            prefill(&mut requests, &cluster);
            decode(&mut requests, decode_gpus, cluster.decode_tokens_per_s);
        }
    }
    Some(requests)
}

/// The stream of requests, without what becomes of them.
fn arrivals(settings: &Queueing, stop: &AtomicBool) -> Option<Vec<Request>> {
    let mut gaps = PythonRandom::new(settings.random_seed);
    let mut lengths = NumpyLegacy::new(settings.random_seed);
    let (prompt, output) = (settings.prompt_tokens.log_space(), settings.output_tokens.log_space());
    let mut requests = Vec::new();
    let mut now = 0.0;
    loop {
        now += gaps.exponential(settings.arrival.rate_per_s);
        if now >= settings.sim_seconds {
            return Some(requests);
        }
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        // `as` cuts towards zero.
        let prompt_tokens = (lengths.lognormal(prompt.mu, prompt.sigma) as i64).max(i64::from(prompt.min));
        let output_tokens = (lengths.lognormal(output.mu, output.sigma) as i64).max(i64::from(output.min));
        requests.push(Request {
            arrival: now,
            prompt_tokens,
            output_tokens,
            prefill_start: 0.0,
            prefill_end: 0.0,
            decode_start: 0.0,
            first_token: 0.0,
            finished: 0.0,
        });
    }
}

/// One station.
fn monolithic(requests: &mut [Request], cluster: &Cluster) {
    let mut station = Station::new(cluster.gpus);
    for r in requests {
        r.prefill_start = station.start(r.arrival);
        r.prefill_end = r.prefill_start + r.prompt_tokens as f64 / cluster.prefill_tokens_per_s;
        r.decode_start = r.prefill_end;
        serve(r, cluster.decode_tokens_per_s);
        station.hold_until(r.finished);
    }
}

/// The first of two stations.
fn prefill(requests: &mut [Request], cluster: &Cluster) {
    let mut station = Station::new(cluster.gpus);
    for r in requests {
        r.prefill_start = station.start(r.arrival);
        r.prefill_end = r.prefill_start + r.prompt_tokens as f64 / cluster.prefill_tokens_per_s;
        station.hold_until(r.prefill_end);
    }
}

/// The second: requests join its queue as their prompts are done, of equal times in the order of arrival.
fn decode(requests: &mut [Request], gpus: u32, tokens_per_s: f64) {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|a, b| requests[*a].prefill_end.total_cmp(&requests[*b].prefill_end));
    let mut station = Station::new(gpus);
    for i in order {
        let r = &mut requests[i];
        r.decode_start = station.start(r.prefill_end);
        serve(r, tokens_per_s);
        station.hold_until(r.finished);
    }
}

/// First and last token of a request whose output begins.
fn serve(r: &mut Request, tokens_per_s: f64) {
    r.first_token = r.decode_start + 1.0 / tokens_per_s;
    r.finished = r.first_token + (r.output_tokens - 1).max(0) as f64 / tokens_per_s;
}

/// GPUs with one queue, first come, first served. Requests are handed over in the order in which they come.
struct Station {
    /// GPUs that nobody has used yet.
    unused: u32,
    /// When each of the others becomes free: the bits of a time from 0 up, which are ordered as the times are.
    free_at: BinaryHeap<Reverse<u64>>,
}

impl Station {
    fn new(gpus: u32) -> Station {
        Station { unused: gpus, free_at: BinaryHeap::new() }
    }

    /// When a request that comes at `at` gets a GPU. [`Station::hold_until`] must follow.
    fn start(&mut self, at: f64) -> f64 {
        if self.unused > 0 {
            self.unused -= 1;
            return at;
        }
        let Some(Reverse(bits)) = self.free_at.pop() else { unreachable!("a station without GPUs") };
        f64::from_bits(bits).max(at)
    }

    fn hold_until(&mut self, end: f64) {
        self.free_at.push(Reverse(end.to_bits()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arrival, ClusterDisagg, ClusterMono, Mode, TokenCounts};
    use super::*;
    use crate::request::Requests;
    use crate::rng;
    use crate::sim::latency::{Latency, Rates};
    use crate::sim::scheduler::{Exclusive, QueueOrder, Scheduler};
    use crate::sim::swarm::{Rows, scenario_8b};
    use crate::sim::{RequestRow, simulate};
    use crate::units::{SimDuration, SimTime};

    fn ran(settings: &Queueing) -> Vec<Request> {
        run(settings, &AtomicBool::new(false)).unwrap()
    }

    fn seconds(time: Option<SimTime>) -> f64 {
        time.unwrap().0 as f64 / 1e9
    }

    /// The same requests through the exclusive scheduler, which works through events in whole nanoseconds.
    fn by_events(settings: &Queueing, requests: &[Request]) -> Vec<RequestRow> {
        let cluster = settings.cluster();
        let mut s = scenario_8b();
        s.deployment.scheduler = Scheduler::Exclusive(Exclusive {
            servers: cluster.gpus,
            decode_servers: cluster.decode_gpus.unwrap_or(0),
            scheduling_policy: QueueOrder::Fcfs,
        });
        s.deployment.latency = Latency::Rates(Rates {
            prefill_tokens_per_s: cluster.prefill_tokens_per_s,
            decode_tokens_per_s: cluster.decode_tokens_per_s,
        });
        s.model.max_pos = u32::MAX;
        let requests = Requests {
            arrival: requests.iter().map(|r| SimTime(SimDuration::from_s(r.arrival).0)).collect(),
            input_tokens: requests.iter().map(|r| r.prompt_tokens as u32).collect(),
            output_tokens: requests.iter().map(|r| r.output_tokens as u32).collect(),
            ..Requests::default()
        };
        let mut rows = Rows::default();
        simulate(&s, &requests, &mut rows, &AtomicBool::new(false)).unwrap();
        rows.requests.sort_by_key(|row| row.request);
        rows.requests
    }

    #[test]
    fn stations_are_the_exclusive_scheduler() {
        let mut waited = [0, 0];
        for (mode, gpus, decode_gpus, rate_per_s, seed) in [
            (Mode::Mono, 1, 0, 1.5, 1),
            (Mode::Mono, 4, 0, 9.0, 2),
            (Mode::Disagg, 1, 1, 2.0, 3),
            (Mode::Disagg, 2, 3, 7.0, 4),
            (Mode::Disagg, 3, 2, 5.5, 5),
            (Mode::Disagg, 200, 200, 20.0, 6),
        ] {
            // Services of whole nanoseconds: the two differ by the rounding of the arrivals, which no queue adds up.
            let (prefill_tokens_per_s, decode_tokens_per_s) = (8e3, 2e3);
            let settings = Queueing {
                mode,
                sim_seconds: 2_000.0,
                random_seed: seed,
                arrival: Arrival { rate_per_s },
                cluster_mono: ClusterMono { num_gpus: gpus, prefill_tokens_per_s, decode_tokens_per_s },
                cluster_disagg: ClusterDisagg {
                    prefill_gpus: gpus,
                    decode_gpus,
                    prefill_tokens_per_s,
                    decode_tokens_per_s,
                },
                ..Queueing::default()
            };
            let requests = ran(&settings);
            assert!(requests.len() > 2_000, "{settings:?}");
            for (r, row) in requests.iter().zip(by_events(&settings, &requests)) {
                for (ours, theirs) in
                    [(r.prefill_start, row.scheduled), (r.first_token, row.first_token), (r.finished, row.finished)]
                {
                    assert!((ours - seconds(theirs)).abs() < 1e-9, "{settings:?}: {r:?}, {row:?}");
                }
                waited[0] += usize::from(r.prefill_wait() > 0.0);
                waited[1] += usize::from(r.decode_wait() > 0.0);
            }
        }
        assert!(waited.iter().all(|n| *n > 5_000), "{waited:?}");
    }

    /// Means of the waits at a station and at one behind it, from replications without their first tenth.
    fn mean_waits(gpus: u32, next: u32, rate: f64, law: impl Fn(&mut rand_pcg::Pcg64) -> f64) -> [(f64, f64); 2] {
        let mut means = Vec::new();
        for replication in 0..20 {
            let mut arrivals = rng::stream(replication, "arrivals");
            let mut services = rng::stream(replication, "services");
            let (mut first, mut second) = (Station::new(gpus), Station::new(next));
            let mut now = 0.0;
            // (end at the first station, wait there)
            let mut through: Vec<(f64, f64)> = Vec::new();
            for _ in 0..60_000 {
                now += rng::exponential(&mut arrivals, 1.0 / rate);
                let start = first.start(now);
                let end = start + law(&mut services);
                first.hold_until(end);
                through.push((end, start - now));
            }
            let waits: f64 = through[6_000..].iter().map(|(_, wait)| wait).sum();
            through.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut second_waits = 0.0;
            for (i, (at, _)) in through.into_iter().enumerate() {
                let start = second.start(at);
                second.hold_until(start + rng::exponential(&mut services, 1.0));
                second_waits += if i < 6_000 { 0.0 } else { start - at };
            }
            means.push([waits / 54_000.0, second_waits / 54_000.0]);
        }
        [0, 1].map(|i| {
            let mean = means.iter().map(|m| m[i]).sum::<f64>() / 20.0;
            let variance = means.iter().map(|m| (m[i] - mean) * (m[i] - mean)).sum::<f64>() / 19.0;
            (mean, (variance / 20.0).sqrt())
        })
    }

    #[track_caller]
    fn agrees((mean, error): (f64, f64), formula: f64) {
        // Student's t with 19 degrees of freedom, at the level at which a normal variable has 4.
        assert!((mean - formula).abs() < 5.102 * error, "{mean} +- {error}, not {formula}");
        assert!(error < 0.03 * formula, "{mean} +- {error} says nothing of {formula}");
    }

    /// Erlang: the probability of waiting, from the blocking probability of a station without queue.
    fn erlang_wait(gpus: u32, load: f64) -> f64 {
        let blocked = (1..=gpus).fold(1.0, |b, k| load * b / (f64::from(k) + load * b));
        let busy = load / f64::from(gpus);
        let waits = blocked / (1.0 - busy * (1.0 - blocked));
        waits / (f64::from(gpus) - load)
    }

    #[test]
    fn waits_are_those_of_queueing_theory() {
        assert!((erlang_wait(4, 3.2) - 0.74554).abs() < 1e-5 && (erlang_wait(8, 7.2) - 0.87692).abs() < 1e-5);
        for (gpus, load) in [(1, 0.8), (4, 3.2), (8, 7.2)] {
            // What leaves an M/M/c station is Poisson again (Burke), so the next one is M/M/c too.
            let next = gpus + 1;
            let [first, second] = mean_waits(gpus, next, load, |r| rng::exponential(r, 1.0));
            agrees(first, erlang_wait(gpus, load));
            agrees(second, erlang_wait(next, load));
        }
        // M/D/1 and M/G/1 (Pollaczek, Khinchine): load * E[S^2] / (2 (1 - load)).
        agrees(mean_waits(1, 9, 0.7, |_| 1.0)[0], 0.7 / 0.6);
        let lognormal = |r: &mut rand_pcg::Pcg64| {
            let variance = libm::log1p(0.25);
            rng::lognormal(r, -variance / 2.0, libm::sqrt(variance))
        };
        agrees(mean_waits(1, 9, 0.7, lognormal)[0], 0.7 * 1.25 / 0.6);
    }

    #[test]
    fn a_request_alone_takes_its_services() {
        for mode in [Mode::Mono, Mode::Disagg] {
            let settings =
                Queueing { mode, sim_seconds: 1e8, arrival: Arrival { rate_per_s: 1e-5 }, ..Queueing::default() };
            let requests = ran(&settings);
            assert!(requests.len() > 900);
            for r in requests {
                let ttft = r.prompt_tokens as f64 / 8e3 + 1.0 / 2e3;
                // The clock stands at 10^8 s, where doubles are 15 ns apart.
                assert!((r.ttft() - ttft).abs() < 1e-7, "{r:?}");
                assert!((r.e2e() - ttft - (r.output_tokens - 1) as f64 / 2e3).abs() < 1e-7, "{r:?}");
            }
        }
    }

    #[test]
    fn extreme_counts_do_no_harm() {
        let extreme = TokenCounts { mean: Some(16.0), sigma: Some(10.0), min_value: 0, ..TokenCounts::default() };
        let settings = Queueing {
            sim_seconds: 1e6,
            prompt_tokens: extreme,
            output_tokens: TokenCounts { mean: Some(-1e300), ..extreme },
            ..Queueing::default()
        };
        let requests = ran(&settings);
        assert!(requests.iter().any(|r| r.prompt_tokens == i64::MAX) && requests.iter().any(|r| r.prompt_tokens == 0));
        assert!(requests.iter().all(|r| r.output_tokens == 0 && r.finished == r.first_token && r.finished.is_finite()));
        assert_eq!(run(&settings, &AtomicBool::new(true)), None);
    }
}
