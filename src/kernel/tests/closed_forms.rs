//! Servers against queueing theory: mean waits of stations whose formulas are exact, identities, and limits.
//!
//! Arrivals are Poisson, services are token counts at a rate. A mean is estimated from [`REPLICATIONS`] independent runs
//! from an empty system, each without its first tenth. The formula must lie in the confidence interval of Student's t
//! at the level of four standard deviations (one failure in 16,000), and the interval must be narrow. Seeds are fixed.
//!
//! Formulas: Erlang (M/M/c), Pollaczek and Khinchine (M/G/1), Burke (tandem), Little. All times in mean services.

use std::sync::atomic::AtomicBool;

use pipe_kernel::request::Requests;
use pipe_kernel::rng;
use pipe_kernel::scenario::{Arrivals, Scenario};
use pipe_kernel::sim::latency::{Latency, Rates};
use pipe_kernel::sim::scheduler::{Exclusive, QueueOrder, Scheduler, VllmV1};
use pipe_kernel::sim::speculative::{Acceptance, DraftMethod, Speculative};
use pipe_kernel::sim::swarm::{Rows, scenario_8b};
use pipe_kernel::sim::{RequestRow, Sink, Summary, simulate};
use pipe_kernel::units::{SimDuration, SimTime};

const REPLICATIONS: usize = 20;
/// Of Student's t with 19 degrees of freedom, at the level at which a normal variable has 4.
const T_QUANTILE: f64 = 5.102;
/// A mean service has so many tokens, and lasts a second.
const TOKENS: f64 = 1e5;
/// What should take no time takes a nanosecond per token.
const AT_ONCE: f64 = 1e9;

/// A random number of tokens: mean [`TOKENS`], and a coefficient of variation.
#[derive(Clone, Copy, Debug)]
enum Law {
    Constant,
    Exponential,
    Lognormal(f64),
}

impl Law {
    fn cv(self) -> f64 {
        match self {
            Law::Constant => 0.0,
            Law::Exponential => 1.0,
            Law::Lognormal(cv) => cv,
        }
    }

    fn draw(self, count: usize, seed: u64, label: &str) -> Vec<u32> {
        let mut random = rng::stream(seed, label);
        let mut draw = || match self {
            Law::Constant => TOKENS,
            Law::Exponential => rng::exponential(&mut random, TOKENS),
            Law::Lognormal(cv) => {
                let variance = libm::log1p(cv * cv);
                rng::lognormal(&mut random, libm::log(TOKENS) - variance / 2.0, libm::sqrt(variance))
            }
        };
        (0..count).map(|_| (draw().round() as u32).max(1)).collect()
    }
}

/// What the servers do with a request.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// The law is that of the prompt; the reply is one token.
    Prompt(Law),
    /// The law is that of the reply; the prompt is one token.
    Reply(Law),
    /// Two stages, each of its own law.
    Both(Law, Law),
}

/// Sums over the requests after the warm-up.
struct Means {
    from: u32,
    rates: Rates,
    count: f64,
    wait_ns: f64,
    /// Between the two services.
    second_wait_ns: f64,
}

impl Sink for Means {
    fn request(&mut self, row: RequestRow) {
        let (Some(scheduled), Some(first)) = (row.scheduled, row.first_token) else { panic!("not served: {row:?}") };
        if row.request < self.from {
            return;
        }
        let before =
            f64::from(row.input_tokens) / self.rates.prefill_tokens_per_s + 1.0 / self.rates.decode_tokens_per_s;
        self.count += 1.0;
        self.wait_ns += (scheduled - row.arrival).0 as f64;
        self.second_wait_ns += (first - scheduled).0 as f64 - before * 1e9;
    }
}

fn exclusive(servers: u32, decode_servers: u32) -> Scheduler {
    Scheduler::Exclusive(Exclusive { servers, decode_servers, scheduling_policy: QueueOrder::Fcfs })
}

fn rates(work: Work) -> Rates {
    let (prefill_tokens_per_s, decode_tokens_per_s) = match work {
        Work::Prompt(_) => (TOKENS, AT_ONCE),
        Work::Reply(_) => (AT_ONCE, TOKENS),
        Work::Both(..) => (TOKENS, TOKENS),
    };
    Rates { prefill_tokens_per_s, decode_tokens_per_s }
}

/// A station to which `rate` requests per mean service come.
fn scenario(scheduler: Scheduler, work: Work, rate: f64, seed: u64) -> Scenario {
    let mut s = scenario_8b();
    s.deployment.scheduler = scheduler;
    s.deployment.latency = Latency::Rates(rates(work));
    s.workload.arrivals = Arrivals::Poisson;
    s.workload.rate_rps = Some(rate);
    s.seed = seed;
    s
}

fn requests(work: Work, count: usize, seed: u64) -> Requests {
    let (prompts, replies) = (|law: Law| law.draw(count, seed, "prompts"), |law: Law| law.draw(count, seed, "replies"));
    let (input_tokens, output_tokens) = match work {
        Work::Prompt(law) => (prompts(law), vec![1; count]),
        Work::Reply(law) => (vec![1; count], replies(law)),
        Work::Both(prompt, reply) => (prompts(prompt), replies(reply)),
    };
    Requests { arrival: vec![SimTime::ZERO; count], input_tokens, output_tokens, ..Requests::default() }
}

/// Mean waits before the first and the second service, and the totals, of every replication.
fn replicate(of: impl Fn(u64) -> (Scenario, Requests)) -> Vec<(f64, f64, Summary)> {
    let run = |seed: u64| {
        let (s, requests) = of(seed);
        let Latency::Rates(rates) = s.deployment.latency else { panic!("no rates") };
        let from = requests.len() as u32 / 10;
        let mut sink = Means { from, rates, count: 0.0, wait_ns: 0.0, second_wait_ns: 0.0 };
        let summary = simulate(&s, &requests, &mut sink, &AtomicBool::new(false)).unwrap();
        (sink.wait_ns / sink.count / 1e9, sink.second_wait_ns / sink.count / 1e9, summary)
    };
    (1..=REPLICATIONS as u64).map(run).collect()
}

/// The formula lies in the interval, and the interval is narrow: `width` of the formula to either side at most.
#[track_caller]
fn check(what: &str, values: impl Iterator<Item = f64>, formula: f64, width: f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    let half = T_QUANTILE * libm::sqrt(variance / n);
    println!("{what}: {mean:.5} +- {half:.5}, formula {formula:.5}");
    assert!(half <= width * formula, "{what}: {mean} +- {half} says too little about {formula}");
    assert!((mean - formula).abs() <= half, "{what}: {mean} +- {half}, not {formula}");
}

/// Mean wait of M/M/c with mean services of 1.
fn erlang(servers: u32, rate: f64) -> f64 {
    let c = f64::from(servers);
    let blocking = (1..=servers).fold(1.0, |b, k| rate * b / (f64::from(k) + rate * b));
    let waits = blocking / (1.0 - rate / c * (1.0 - blocking));
    waits / (c - rate)
}

/// Mean wait of M/G/1, from mean and coefficient of variation of the services.
fn pollaczek_khinchine(rate: f64, mean: f64, cv: f64) -> f64 {
    rate * mean * mean * (1.0 + cv * cv) / (2.0 * (1.0 - rate * mean))
}

#[test]
fn formulas_have_their_known_values() {
    for (got, expect) in [
        (erlang(1, 0.8), 4.0),
        (erlang(4, 3.2), 0.74554),
        (erlang(8, 7.2), 0.87692),
        (pollaczek_khinchine(0.8, 1.0, 1.0), 4.0),
        (pollaczek_khinchine(0.7, 1.0, 0.5), 1.4583),
        (pollaczek_khinchine(0.7, 1.0, 1.3), 3.1383),
    ] {
        assert!((got - expect).abs() < 5e-5, "{got}, not {expect}");
    }
}

#[test]
fn mean_waits_of_exclusive_servers() {
    use Law::{Constant, Exponential, Lognormal};
    for (servers, rate, work, count, width) in [
        (1, 0.8, Work::Prompt(Exponential), 100_000, 0.06),
        (4, 3.2, Work::Reply(Exponential), 100_000, 0.06),
        (8, 7.2, Work::Prompt(Exponential), 150_000, 0.10),
        (1, 0.8, Work::Reply(Constant), 100_000, 0.06),
        (1, 0.7, Work::Prompt(Lognormal(0.5)), 100_000, 0.06),
        (1, 0.7, Work::Reply(Lognormal(1.3)), 100_000, 0.06),
    ] {
        let formula = match work {
            Work::Prompt(Exponential) | Work::Reply(Exponential) => erlang(servers, rate),
            Work::Prompt(law) | Work::Reply(law) => pollaczek_khinchine(rate, 1.0, law.cv()),
            Work::Both(..) => panic!("one stage"),
        };
        let runs = replicate(|seed| (scenario(exclusive(servers, 0), work, rate, seed), requests(work, count, seed)));
        check(&format!("wait at {servers} servers, {work:?}"), runs.iter().map(|r| r.0), formula, width);
        // Time that a server was held, over time.
        let utilisation = |s: &Summary| s.busy.0 as f64 / s.end.0 as f64 / f64::from(servers);
        check("utilisation", runs.iter().map(|r| utilisation(&r.2)), rate / f64::from(servers), 0.01);
    }
}

/// What leaves M/M/2 is Poisson again, so the second station is M/M/2 by itself.
#[test]
fn stations_in_tandem_do_not_notice_each_other() {
    let work = Work::Both(Law::Exponential, Law::Exponential);
    let runs = replicate(|seed| (scenario(exclusive(2, 2), work, 1.5, seed), requests(work, 100_000, seed)));
    check("first wait", runs.iter().map(|r| r.0), erlang(2, 1.5), 0.06);
    check("second wait", runs.iter().map(|r| r.1), erlang(2, 1.5), 0.06);
}

/// One request at a time makes a server of general services of the batch engine: a prompt in one step, and two more for
/// the other tokens of its reply.
#[test]
fn mean_waits_of_a_batch_of_one() {
    let one = Scheduler::VllmV1(VllmV1 { max_num_seqs: 1, max_num_batched_tokens: 1 << 28, ..VllmV1::default() });
    for law in [Law::Exponential, Law::Lognormal(0.5), Law::Lognormal(1.3)] {
        let (work, rate, further) = (Work::Prompt(law), 0.6, 0.2);
        let runs = replicate(|seed| {
            let (mut s, mut requests) = (scenario(one.clone(), work, rate, seed), requests(work, 40_000, seed));
            let rates = Rates { prefill_tokens_per_s: TOKENS, decode_tokens_per_s: 2.0 / further };
            s.deployment.latency = Latency::Rates(rates);
            s.model.max_pos = 1 << 28;
            (s.deployment.kv.block_size, s.deployment.kv.num_gpu_blocks) = (1 << 16, Some(1 << 12));
            requests.output_tokens.fill(3);
            (s, requests)
        });
        let mean = 1.0 + further;
        let formula = pollaczek_khinchine(rate, mean, law.cv() / mean);
        check(&format!("wait for a batch of one, {law:?}"), runs.iter().map(|r| r.0), formula, 0.10);
    }
}

fn rows(s: &Scenario, requests: &Requests) -> (Rows, Summary) {
    let mut rows = Rows::default();
    let summary = simulate(s, requests, &mut rows, &AtomicBool::new(false)).unwrap();
    (rows, summary)
}

/// Little's law holds of any run that ends empty, to the nanosecond: the integral of the requests in a place is the sum
/// of their times there.
#[test]
fn littles_law_is_exact() {
    let sum = |rows: &Rows, time: &dyn Fn(&RequestRow) -> SimDuration| -> i128 {
        rows.requests.iter().map(|row| i128::from(time(row).0)).sum()
    };
    let work = Work::Both(Law::Lognormal(1.3), Law::Exponential);
    for (servers, decode_servers, rate) in [(1, 0, 0.45), (3, 0, 1.4), (2, 2, 1.8), (1, 4, 0.9)] {
        let s = scenario(exclusive(servers, decode_servers), work, rate, 7);
        let (rows, summary) = rows(&s, &requests(work, 5_000, 7));
        let here = sum(&rows, &|row| row.finished.unwrap() - row.queued.unwrap());
        assert_eq!(summary.waiting_ns + summary.running_ns, here);
        // At a rate of 10^5 every token takes 10^4 ns.
        let service = sum(&rows, &|row| SimDuration(i64::from(row.input_tokens + row.output_tokens) * 10_000));
        assert_eq!((summary.running_ns, i128::from(summary.busy.0)), (service, service));
        if decode_servers == 0 {
            assert_eq!(summary.waiting_ns, sum(&rows, &|row| row.scheduled.unwrap() - row.queued.unwrap()));
        }
    }
}

#[test]
fn without_company_nobody_waits() {
    let work = Work::Both(Law::Lognormal(1.3), Law::Lognormal(0.5));
    for (servers, decode_servers) in [(1, 0), (4, 0), (1, 1), (2, 3)] {
        let s = scenario(exclusive(servers, decode_servers), work, 1e-6, 3);
        let (rows, summary) = rows(&s, &requests(work, 500, 3));
        assert_eq!((summary.waiting_ns, summary.running_max), (0, 1));
        for row in &rows.requests {
            let ttft = row.first_token.unwrap() - row.arrival;
            assert_eq!(ttft, SimDuration(i64::from(row.input_tokens + 1) * 10_000), "{row:?}");
        }
    }
}

/// Leviathan, Kalman and Matias 2023, equation 1: with drafts of `k` tokens, each accepted with probability `a` if those before
/// it were, a step yields `(1 - a^(k + 1)) / (1 - a)` tokens on average.
#[test]
fn the_mean_is_that_of_leviathan() {
    for (a, k) in [(0.0, 3), (0.3, 1), (0.6, 4), (0.8, 2), (0.8, 8), (0.95, 5), (1.0, 5)] {
        let powers: Vec<f64> = (1..=k).map(|j| f64::powi(a, j)).collect();
        let told = speculate(k as u32, Acceptance::Rate(a));
        agrees(&told, &powers, &format!("{a}, {k}"));
        if a < 1.0 {
            let mean = 1.0 + powers.iter().sum::<f64>();
            assert!((mean - (1.0 - f64::powi(a, k + 1)) / (1.0 - a)).abs() < 1e-12);
        }
    }
    let rates = vec![0.8, 0.5, 0.5, 0.1];
    agrees(&speculate(4, Acceptance::Rates(rates.clone())), &rates, "by position");
}

/// The number of accepted drafts has mean `sum of rates` and second moment `sum of (2 j - 1) rate_j`.
fn agrees(told: &Summary, rates: &[f64], case: &str) {
    let told = &told.speculation;
    let mean: f64 = rates.iter().sum();
    let second: f64 = rates.iter().zip(1..).map(|(rate, j)| f64::from(2 * j - 1) * rate).sum();
    let error = ((second - mean * mean).max(0.0) / told.drafts as f64).sqrt();
    let length = told.acceptance_length().unwrap_or(0.0);
    println!("{case}: {length} of {} drafts, expected {}", told.drafts, 1.0 + mean);
    assert!((length - 1.0 - mean).abs() <= 4.0 * error + 1e-9, "{case}: {length}, not {}", 1.0 + mean);
    for (count, rate) in told.accepted_by_position.iter().zip(rates) {
        let share = *count as f64 / told.drafts as f64;
        let error = (rate * (1.0 - rate) / told.drafts as f64).sqrt();
        assert!((share - rate).abs() <= 4.5 * error + 1e-9, "{case}: {share}, not {rate}");
    }
    // A reply's steps are its tokens over the tokens of a step.
    assert!(told.emitted_tokens <= told.accepted_tokens + told.drafts);
}

fn speculate(num_speculative_tokens: u32, acceptance: Acceptance) -> Summary {
    let mut s = scenario_8b();
    s.deployment.speculative = Some(Speculative {
        method: DraftMethod::Eagle,
        num_speculative_tokens,
        num_speculative_tokens_per_batch_size: Vec::new(),
        adaptive: None,
        acceptance,
        draft_us: 0.0,
        draft_share: 0.0,
    });
    let count = 100;
    let requests = Requests {
        arrival: (0..count).map(|i| SimTime(i * 20_000_000)).collect(),
        input_tokens: vec![50; count as usize],
        output_tokens: vec![2_000; count as usize],
        ..Requests::default()
    };
    simulate(&s, &requests, &mut Rows::default(), &AtomicBool::new(false)).unwrap_or_else(|e| panic!("{e}"))
}
