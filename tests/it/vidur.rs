//! Vidur's routers with prefix caches, reproduced request by request.
//!
//! Source: microsoft/vidur (MIT), branch canary, commit 25e0082: four replicas of Llama 3 8B, prefix caches, a synthetic
//! trace of sessions. The cases, the trace and the tables of predicted operator times that its runs used are in a folder
//! `shared` (see [`shared`]); where there is none, a note is printed.
//!
//! Compared for every request: replica, prompt tokens found in the cache, and, to the microsecond that Vidur prints, its
//! arrival, when it was scheduled, first token and end.
//!
//! Step times are those of the latency model `operators` on its tables.
//!
//! What has to be put in the place of the simulator's own:
//!
//! - Ties: `random.Random(67).choice`, which is asked for every decision that compares, also if one replica is the best.
//! - The place of the last token: a completed request takes it, and so can fill a block ([`Quirks`]). In vLLM, the last
//!   token is never computed.
//!
//! The rules are the same otherwise: batches, chunks, hits (never the last token of a prompt; a block can be found from
//! the step on that computes it), the order in which blocks are handed out again, what routers count, and when they stop.
//! No case preempts a request. Two differences are left, both with no counterpart in vLLM; [`Case::found`] names the
//! requests that they meet, eight of 2,500:
//!
//! - Vidur counts the first token as computed when the prompt is, and is a token ahead from then on. A block of a reply
//!   can be found a step before it is computed. Seven requests are admitted in that very step, and find a block more.
//! - A request that needs a block takes four more, as vLLM once did. So blocks that nobody uses are handed out again
//!   earlier, and one prompt finds less.
//!
//! What runs on a replica together with one of these, or after it, has other steps. All that ended on a replica before the
//! first of them arrived there must be equal.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use pipe_kernel::profile::Supplied;
use pipe_kernel::queueing::PythonRandom;
use pipe_kernel::request::Requests;
use pipe_kernel::sim::latency::{Latency, Operators};
use pipe_kernel::sim::router::{Draws, Router, TolerantSticky};
use pipe_kernel::sim::scheduler::Scheduler;
use pipe_kernel::sim::swarm::{Rows, scenario_8b};
use pipe_kernel::sim::{Parts, Quirks, RequestRow, simulate_of};
use pipe_kernel::units::SimTime;

use crate::project::{predictions, shared};

/// Vidur prints microseconds.
const HALF_US: i64 = 500;
/// Nanoseconds by which thousands of steps, each to the nearest nanosecond, may come out otherwise than its floats.
const DRIFT: i64 = 100;

/// Above all hashes of the trace.
const BEGUN: u64 = 1 << 32;

/// A case: what it has been run with, and what came out.
struct Case {
    name: &'static str,
    router: Router,
    /// The times of the trace are multiplied by this.
    scale: f64,
    blocks: u64,
    /// Requests that find another number of tokens there, and how many more.
    found: &'static [(usize, i64)],
    /// Requests that go to another replica there, for what follows from those.
    elsewhere: &'static [usize],
    /// Requests of which every time is equal.
    equal: usize,
}

/// What Vidur says of a request; times in nanoseconds.
struct Expected {
    arrival: i64,
    delay: i64,
    ttft: i64,
    e2e: i64,
    cached: i64,
    replica: u32,
}

impl Case {
    /// One of 400 requests at three tenths of the gaps of the trace, which presses the caches.
    fn dense(name: &'static str, router: Router, found: &'static [(usize, i64)], equal: usize) -> Case {
        Case { name, router, scale: 0.3, blocks: 5_000, found, elsewhere: &[], equal }
    }

    /// Runs the case, where it is at hand, and compares all.
    #[track_caller]
    fn check(&self) {
        let dir = shared().filter(|dir| dir.join("reference/cases/vidur").join(self.name).is_dir());
        let Some(dir) = dir else {
            eprintln!("skipped: no {}", self.name);
            return;
        };
        let expected = expected(&dir.join("reference/cases/vidur").join(self.name));
        let rows = self.run(&dir, expected.len());
        assert_eq!(rows.len(), expected.len());

        let pairs = || rows.iter().zip(&expected).enumerate();
        let elsewhere: Vec<usize> = pairs().filter(|(_, (row, e))| row.replica != e.replica).map(|(i, _)| i).collect();
        assert_eq!(elsewhere, self.elsewhere, "{}: requests on another replica", self.name);
        let more = |row: &RequestRow, e: &Expected| e.cached - i64::from(row.cached_tokens);
        let found: Vec<(usize, i64)> =
            pairs().map(|(i, (row, e))| (i, more(row, e))).filter(|(_, more)| *more != 0).collect();
        assert_eq!(found, self.found, "{}: requests that find more", self.name);

        // From when on a replica is not the same any more.
        let mut since = [SimTime(i64::MAX); 4];
        for i in self.found.iter().map(|(i, _)| *i).chain(elsewhere) {
            for replica in [rows[i].replica, expected[i].replica] {
                since[replica as usize] = since[replica as usize].min(rows[i].arrival);
            }
        }
        let (mut equal, mut worst) = (0, 0);
        for (i, (row, e)) in pairs() {
            let error = e.error(row);
            if error <= HALF_US + DRIFT {
                equal += 1;
                worst = worst.max(error);
                continue;
            }
            assert!(
                row.finished > Some(since[row.replica as usize]),
                "{}: {i} is off by {error} ns: {row:?}",
                self.name
            );
        }
        println!("{}: {equal} of {} requests equal, largest error {worst} ns", self.name, rows.len());
        assert_eq!(equal, self.equal, "{}: equal requests", self.name);
        assert!(rows.iter().all(|row| row.preemptions == 0), "{}", self.name);
    }

    fn run(&self, dir: &Path, n: usize) -> Vec<RequestRow> {
        let requests = requests(&dir.join("data/traces/vidur/session_trace_synthetic.csv"), n, self.scale);
        let mut s = scenario_8b();
        s.deployment.replicas = 4;
        s.deployment.router = self.router.clone();
        s.deployment.kv.num_gpu_blocks = Some(self.blocks);
        let Scheduler::VllmV1(rules) = &mut s.deployment.scheduler else { unreachable!("the default") };
        (rules.max_num_seqs, rules.max_num_batched_tokens) = (128, 512);
        s.deployment.latency = Latency::Operators(Operators::of("predictions"));
        let tables = predictions(&dir.join("data/profiles/vidur/predictions-llama-3-8b-a100-tp1-canary"));
        s.supplied = Supplied { profile: Some(tables), ..Supplied::default() };
        let mut python = PythonRandom::new(67);
        let choice: Draws = Box::new(move |n| python.choice(n as u32).into());
        let quirks = Quirks { block_at_completion: true, ..Quirks::default() };
        let parts = Parts { quirks, draws: vec![choice], ..Parts::default() };
        let mut rows = Rows::default();
        simulate_of(&s, &requests, &mut rows, &AtomicBool::new(false), parts).expect("the case can be run");
        rows.requests.sort_by_key(|row| row.request);
        rows.requests
    }
}

impl Expected {
    /// The largest difference of a time, in nanoseconds.
    fn error(&self, row: &RequestRow) -> i64 {
        let since = |t: Option<SimTime>| (t.expect("a time") - row.arrival).0;
        let times = [
            (row.arrival.0, self.arrival),
            (since(row.scheduled), self.delay),
            (since(row.first_token), self.ttft),
            (since(row.finished), self.e2e),
        ];
        times.into_iter().map(|(ours, theirs)| (ours - theirs).abs()).max().unwrap_or(0)
    }
}

fn ns(seconds: &str) -> i64 {
    (seconds.parse::<f64>().expect("seconds") * 1e9).round() as i64
}

fn expected(dir: &Path) -> Vec<Expected> {
    let file = std::fs::File::open(dir.join("request_metrics.csv.gz")).expect("the case's table");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the case's table");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows = reader.deserialize::<BTreeMap<String, String>>().map(|row| row.expect("a row"));
    let read = |(i, row): (usize, BTreeMap<String, String>)| {
        assert_eq!(row["Request Id"], i.to_string());
        Expected {
            arrival: ns(&row["request_arrived_at"]),
            delay: ns(&row["request_scheduling_delay"]),
            ttft: ns(&row["prefill_e2e_time"]),
            e2e: ns(&row["request_e2e_time"]),
            cached: row["request_num_prefill_tokens_cached"].parse().expect("tokens"),
            replica: row["replica"].parse().expect("a replica"),
        }
    };
    rows.enumerate().map(read).collect()
}

/// The first `n` requests of the trace.
fn requests(file: &Path, n: usize, scale: f64) -> Requests {
    let mut r = Requests { block_tokens: 16, block_hash_offsets: vec![0], ..Requests::default() };
    let mut reader = csv::Reader::from_path(file).expect("the trace");
    for row in reader.deserialize::<BTreeMap<String, String>>().take(n) {
        let row = row.expect("a row");
        let number = |name: &str| row[name].parse::<u32>().expect("a number");
        let seconds: f64 = row["arrived_at"].parse().expect("seconds");
        r.arrival.push(SimTime((seconds * scale * 1e9).round() as i64));
        r.input_tokens.push(number("num_prefill_tokens"));
        r.output_tokens.push(number("num_decode_tokens"));
        r.session.push(Some(number("session_id")));
        // Hashes of the full blocks of prompt and reply. As many as the prompt begins would be taken for those of the
        // prompt alone; one more, of the block that the reply begins, tells.
        r.block_hashes.extend(serde_json::from_str::<Vec<u64>>(&row["block_hash_ids"]).expect("a list"));
        r.block_hashes.push(BEGUN + r.arrival.len() as u64);
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
    }
    r
}

#[test]
fn round_robin() {
    Case {
        name: "k_l38b_4rep_rr_vllmv1_prefix_500",
        router: Router::RoundRobin,
        scale: 1.0,
        blocks: 6_000,
        found: &[],
        elsewhere: &[],
        equal: 500,
    }
    .check();
    // The one that finds less there: 512 tokens, where 1,216 are still in our cache.
    Case::dense("k400_round_robin_blk5000", Router::RoundRobin, &[(117, 16), (377, -704), (392, 16)], 298).check();
}

#[test]
fn sticky_round_robin() {
    Case::dense("k400_sticky_round_robin_blk5000", Router::StickyRoundRobin, &[(104, 16), (277, 16)], 274).check();
}

#[test]
fn lop() {
    // There, a prompt is still pending when it arrives; here, its last step, which is another one, has just ended.
    let case = Case::dense("k400_lop_blk5000", Router::LeastTokens, &[(369, 16)], 347);
    Case { elsewhere: &[390], ..case }.check();
}

#[test]
fn lop_uncached() {
    Case::dense("k400_lop_uncached_blk5000", Router::LopUncached, &[(125, 16)], 299).check();
}

#[test]
fn tolerant_sticky() {
    let router = Router::TolerantStickyLopUncached(TolerantSticky { tolerance_factor: 2.0 });
    Case::dense("k400_tolerant2_blk5000", router, &[(362, 16)], 373).check();
}
