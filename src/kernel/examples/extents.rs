//! How many requests per second the pool of KV blocks handles on one thread (its own time where Linux tells it, so that
//! other load on the machine shows less).
//!
//! `cargo run --release -p pipe-kernel --example extents`: requests of 24 trace blocks of 32 KV blocks each, as in a
//! trace with 512 tokens per hash, plus an output of 22 KV blocks of unknown content; 15 of the 24 are the start of one
//! of some shared documents. Each request is found, shared, taken, filled in chunks and released once others came.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::Instant;

// The pool is no part of the crate's interface.
#[allow(dead_code)]
#[path = "../sim/kv/extents.rs"]
mod extents;
#[allow(dead_code)]
#[path = "../sim/kv/table.rs"]
mod table;

use extents::{Extents, Held, Unit};

const REQUESTS: u64 = 500_000;
const UNITS: usize = 24;
const SHARED: usize = 15;
const OUTPUT_BLOCKS: u64 = 22;

struct Case {
    name: &'static str,
    /// KV blocks of the cache, and per unit.
    total: u64,
    unit_blocks: u32,
    documents: u64,
    /// Requests that hold blocks at the same time.
    live: usize,
    /// KV blocks filled at a time.
    chunk: u32,
}

/// Seconds that this thread ran; since the start of the program where the system does not tell.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanos.map_or_else(|| START.elapsed().as_secs_f64(), |nanos| nanos * 1e-9)
}

fn hashes(case: &Case) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(REQUESTS as usize * UNITS);
    let mut draw = 1_u64;
    for request in 0..REQUESTS {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let document = (draw >> 33) % case.documents;
        for unit in 0..UNITS {
            let owner = if unit < SHARED { document } else { case.documents + request };
            hashes.push(owner * UNITS as u64 + unit as u64);
        }
    }
    hashes
}

/// Fills what the request took, `chunk` blocks at a time, unit by unit.
fn fill(pool: &mut Extents, held: &mut Held, hashes: &[u64], case: &Case) {
    let known = UNITS as u32 * case.unit_blocks;
    while held.blocks() < known {
        let to = (held.blocks() + case.chunk).min(known);
        while held.blocks() < to {
            let (unit, sub) = (held.blocks() / case.unit_blocks, held.blocks() % case.unit_blocks);
            let count = (case.unit_blocks - sub).min(to - held.blocks());
            pool.fill(held, hashes[unit as usize], sub, count);
        }
    }
}

fn run(case: &Case, hashes: &[u64]) -> (f64, f64) {
    let mut pool = Extents::new(case.total);
    let known = UNITS as u32 * case.unit_blocks;
    let (mut live, mut spare, mut hits) = (VecDeque::new(), vec![Held::default()], 0_u64);
    let start = seconds();
    for own in hashes.chunks_exact(UNITS) {
        let units = own.iter().map(|hash| Unit { hash: *hash, blocks: case.unit_blocks });
        let (found, _) = pool.find(units.clone(), known - 1);
        let mut held = spare.pop().unwrap_or_default();
        pool.share(&mut held, units, found);
        hits += u64::from(found);
        pool.take(u64::from(known - found) + OUTPUT_BLOCKS);
        fill(&mut pool, &mut held, own, case);
        live.push_back(held);
        if live.len() == case.live
            && let Some(mut held) = live.pop_front()
        {
            pool.release(&mut held, OUTPUT_BLOCKS);
            spare.push(held);
        }
    }
    (seconds() - start, hits as f64 / (f64::from(known) * REQUESTS as f64))
}

fn main() {
    let base = Case { name: "", total: 60_000, unit_blocks: 32, documents: 40, live: 32, chunk: 1 << 20 };
    let cases = [
        Case { name: "60,000 blocks", ..base },
        Case { name: "60,000 blocks, chunks of 128", chunk: 128, ..base },
        Case { name: "60,000 blocks, too many documents", documents: 400, ..base },
        Case { name: "1,000,000 blocks", total: 1_000_000, documents: 600, live: 256, ..base },
        Case { name: "one block per hash", total: 2_000, unit_blocks: 1, ..base },
    ];
    for case in cases {
        let hashes = hashes(&case);
        let (took, hits) = run(&case, &hashes);
        println!(
            "{:<36} {:>9.0} requests/s  {:>5.2} us/request  {:>4.1} ns/unit  {:>4.1} % hits",
            case.name,
            REQUESTS as f64 / took,
            took * 1e6 / REQUESTS as f64,
            took * 1e9 / (REQUESTS as f64 * UNITS as f64),
            hits * 100.0,
        );
    }
}
