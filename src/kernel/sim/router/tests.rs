//! Every router against one that goes through everything, in random sequences of events, and its rules case by case.

mod naive;

use rand::Rng;
use rand_pcg::Pcg64;

use super::*;
use crate::request::Requests;
use crate::rng::{below, stream};
use crate::sim::kv::hashes::{Derivation, derivation};
use crate::units::SimTime;
use naive::{Naive, Seen};

const NO_CACHE: Kind = Kind { derivation: Derivation::None, block_size: 16, blocks: 0, recompute_full_hits: true };

/// Prompts that begin as few documents do, in sessions, some with adapters.
fn random_requests(rng: &mut Pcg64) -> Requests {
    let trace = one_of(rng, &[16, 64]);
    let mut r = Requests { block_tokens: trace, block_hash_offsets: vec![0], ..Requests::default() };
    let (n, documents) = (20 + below(rng, 100), 1 + below(rng, 5));
    let hashed = below(rng, 8) > 0;
    for _ in 0..n {
        let (document, blocks, shared) = (below(rng, documents), below(rng, 7), below(rng, 5));
        let content = |block: u64| document * 1_000 + block + if block < shared { 0 } else { below(rng, 3) * 100 };
        if hashed {
            r.block_hashes.extend((0..blocks).map(content));
        }
        r.block_hash_offsets.push(r.block_hashes.len() as u64);
        let tokens = blocks as u32 * trace;
        let (input, output) = match below(rng, 4) {
            0 => (tokens / 2 + 1, tokens / 2 + 1),
            1 => (tokens + 1, 5),
            2 => (tokens.saturating_sub(5).max(1), 5),
            _ => (tokens.max(1), 5),
        };
        r.arrival.push(SimTime::ZERO);
        r.input_tokens.push(input);
        r.output_tokens.push(output);
        r.session.push((below(rng, 4) > 0).then(|| below(rng, 12) as u32));
        r.adapter.push((below(rng, 3) > 0).then(|| below(rng, 6) as u32));
    }
    r
}

fn random_kinds(rng: &mut Pcg64, requests: &Requests) -> Vec<Kind> {
    let most = one_of(rng, &[2, 4, 9, 40]);
    let n = 1 + below(rng, most);
    let kinds: Vec<Kind> = (0..1 + below(rng, 3))
        .map(|_| {
            let block_size = one_of(rng, &[16, 16, 8, 32, 128]);
            let derivation =
                derivation(requests, block_size, below(rng, 10) > 0).expect("sizes that divide each other");
            Kind { derivation, block_size, blocks: below(rng, 3) * 50, recompute_full_hits: below(rng, 4) > 0 }
        })
        .collect();
    (0..n).map(|_| kinds[below(rng, kinds.len() as u64) as usize]).collect()
}

/// What a cache may have of some request's units.
fn random_changes(rng: &mut Pcg64, requests: &Requests, kind: &Kind) -> Vec<(u64, u32)> {
    let i = below(rng, requests.len() as u64) as usize;
    let units: Vec<u64> = kind.derivation.units(requests, i, kind.block_size).map(|unit| unit.hash).collect();
    let parts = kind.derivation.unit_blocks();
    let all = one_of(rng, &[parts, parts, 0]);
    let some = |hash: u64| (hash, if below(rng, 6) == 0 { below(rng, u64::from(parts) + 1) as u32 } else { all });
    units.into_iter().map(some).collect()
}

/// Events in a random order, and every decision compared.
fn sequence(router: &Router, seed: u64, seen: &mut Seen) {
    let rng = &mut stream(seed, "router/test");
    let requests = random_requests(rng);
    let kinds = random_kinds(rng, &requests);
    let set = below(rng, 3) as usize;
    let label = ["router", "router/1", "router/2"][set];
    let (hits, own_prompts) = (below(rng, 3) == 0, below(rng, 4) == 0);
    let mut naive = Naive::new(router, &requests, &kinds, stream(seed, label));
    let mut picker = Picker::new(router, kinds.clone(), set, seed, &requests, hits);
    // A router that is told just what it needs decides as one that is told everything.
    let all = Needs { ends: true, prompts: true, progress: true, loads: true, caches: true };
    let needs = if below(rng, 2) == 0 { Needs::of(router, hits) } else { all };
    let mut scores = Vec::new();
    let mut next = 0;
    while next < requests.len() as u32 {
        let (at, a) = (rng.next_u64(), below(rng, kinds.len() as u64) as usize);
        match (below(rng, 10), naive.live(at)) {
            (0..4, _) => {
                let hashed = below(rng, 12) > 0;
                let own = requests.input_tokens[next as usize];
                let prompt = if own_prompts && !hashed { 1 + below(rng, 300) as u32 } else { own };
                let ask = Ask { request: next, prompt, hashed };
                if hits {
                    assert_eq!(picker.hit(a, ask, &requests), naive.hit(a, ask), "{next} {a}");
                }
                let (chosen, expect) = naive.pick(ask);
                let wanted = below(rng, 2) == 0;
                let picked = picker.pick(ask, &requests, wanted.then_some(&mut scores));
                assert_eq!(picked, chosen, "request {next}: {expect:?}");
                assert!(!wanted || scores == expect, "request {next}: {scores:?} is not {expect:?}");
                next += 1;
            }
            (4, Some((candidate, request))) => {
                let tokens = below(rng, 60) as u32;
                naive.progress(request, tokens);
                if needs.progress {
                    picker.progress(candidate, request, tokens);
                }
            }
            (5, Some((candidate, request))) => {
                naive.prompt_done(request);
                if needs.prompts {
                    picker.prompt_done(candidate, request);
                }
            }
            (6, Some((candidate, request))) => {
                naive.ended(request);
                if needs.ends {
                    picker.ended(candidate, request);
                }
            }
            (7, _) => {
                let blocks_used = below(rng, kinds[a].blocks + 1);
                let load = Load { waiting: below(rng, 3) as u32 * 70, running: below(rng, 3) as u32, blocks_used };
                naive.loads[a] = load;
                if needs.loads {
                    picker.see(a, load);
                }
            }
            (8..10, _) => {
                let changes = random_changes(rng, &requests, &kinds[a]);
                naive.caches[a].extend(changes.iter().copied());
                if needs.caches {
                    picker.cached(a, &changes);
                }
            }
            (_, None) => {}
            (case, Some(_)) => unreachable!("case {case}"),
        }
    }
    let more = naive.seen;
    seen.decisions += more.decisions;
    seen.ties += more.ties;
    seen.near += more.near;
    seen.hits += more.hits;
    seen.matches += more.matches;
    seen.kept += more.kept;
    seen.moved += more.moved;
    seen.uneven += more.uneven;
}

/// Sequences with settings that depend on the seed; what they came across.
fn sequences(seeds: u64, router: impl Fn(&mut Pcg64) -> Router) -> Seen {
    let mut seen = Seen::default();
    for seed in 0..seeds {
        let router = router(&mut stream(seed, "router/test/settings"));
        let run = std::panic::AssertUnwindSafe(|| sequence(&router, seed, &mut seen));
        assert!(std::panic::catch_unwind(run).is_ok(), "the sequence of seed {seed} fails with {router:?}");
    }
    seen
}

fn one_of<T: Copy>(rng: &mut Pcg64, values: &[T]) -> T {
    values[below(rng, values.len() as u64) as usize]
}

#[test]
fn counts_equal_the_obvious_way() {
    use Router::{LeastOutstanding, LeastQueued, LeastTokens, LopBatchEnd, LopBinary, PowerOfTwo, Random, RoundRobin};
    for router in [LeastOutstanding, LeastQueued, LeastTokens, LopBinary, LopBatchEnd] {
        let seen = sequences(150, |_| router.clone());
        assert!(seen.ties > 500 && seen.ties < seen.decisions, "{router:?} {seen:?}");
    }
    for router in [RoundRobin, Random, PowerOfTwo] {
        assert!(sequences(50, |_| router.clone()).decisions > 1_000, "{router:?}");
    }
}

#[test]
fn sticky_routers_equal_the_obvious_way() {
    for router in [Router::StickyRoundRobin, Router::StickyLor, Router::StickyLop] {
        let seen = sequences(100, |_| router.clone());
        assert!(seen.kept > 1_000, "{router:?} {seen:?}");
    }
}

#[test]
fn balance_equals_the_obvious_way() {
    let seen = sequences(300, |_| Router::LopUncached);
    assert!(seen.ties > 1_000 && seen.hits > 1_000, "{seen:?}");
    let seen = sequences(300, |rng| {
        let tolerance_factor = one_of(rng, &[1.0, 1.5, 2.0]);
        Router::TolerantStickyLopUncached(TolerantSticky { tolerance_factor })
    });
    assert!(seen.kept > 1_000 && seen.moved > 1_000 && seen.hits > 1_000, "{seen:?}");
    let seen = sequences(300, |rng| {
        let top_k = one_of(rng, &[1, 2, 3, u32::MAX]);
        Router::RankedStickyLopUncached(RankedSticky { top_k })
    });
    assert!(seen.kept > 1_000 && seen.moved > 1_000 && seen.hits > 1_000, "{seen:?}");
}

#[test]
fn affinity_equals_the_obvious_way() {
    let seen = sequences(400, |rng| {
        Router::PrefixAffinity(PrefixAffinity {
            cache_threshold: one_of(rng, &[0.0, 0.3, 0.5, 1.0]),
            balance_abs_threshold: one_of(rng, &[0, 1, 3, 32]),
            balance_rel_threshold: one_of(rng, &[1.0, 1.1, 3.0]),
            capacity: one_of(rng, &[0, 1, 3, 10, 10_000]),
        })
    });
    assert!(seen.matches > 5_000 && seen.uneven > 2_000 && seen.ties > 2_000, "{seen:?}");
}

#[test]
fn costs_equal_the_obvious_way() {
    let overlap_weight = |rng: &mut Pcg64| one_of(rng, &[1.0, 1.0, 0.5, 0.1, 1.0 / 3.0, 0.0, 1e-12, 1e-16, 1e9]);
    let seen = sequences(1_500, |rng| {
        let overlap_weight = overlap_weight(rng);
        Router::KvAware(KvAware { overlap_weight, temperature: 0.0 })
    });
    assert!(seen.ties > 10_000 && seen.near > 1_000 && seen.hits > 10_000, "{seen:?}");
    let seen = sequences(200, |rng| {
        let overlap_weight = overlap_weight(rng);
        Router::KvAware(KvAware { overlap_weight, temperature: one_of(rng, &[0.01, 0.5, 3.0]) })
    });
    assert!(seen.decisions > 10_000, "{seen:?}");
}

#[test]
fn weighted_scores_equal_the_obvious_way() {
    let seen = sequences(1_000, |rng| {
        let mut weight = || one_of(rng, &[0.0, 0.0, 1.0, 0.3, 2.0]);
        let scorers = Scorers {
            precise_prefix_cache: weight(),
            prefix_affinity: weight(),
            no_hit_lru: weight(),
            queue_depth: weight(),
            kv_utilization: weight(),
            load_balance: weight(),
            active_requests: weight(),
            running_requests: weight(),
            load_aware: weight(),
            lora_affinity: weight(),
        };
        let scorers = scorers.weights().iter().any(|(_, weight)| *weight > 0.0).then_some(scorers);
        let (capacity, max_loras) = (one_of(rng, &[2, 10, 10_000]), one_of(rng, &[1, 2, 4]));
        Router::Weighted(Weighted { scorers, capacity, max_loras })
    });
    assert!(seen.ties > 1_000 && seen.hits > 10_000, "{seen:?}");
    // Every scorer by itself.
    for at in 0..10 {
        let seen = sequences(40, |_| {
            let weight = |name: usize| f64::from(u8::from(name == at));
            let scorers = Scorers {
                precise_prefix_cache: weight(0),
                prefix_affinity: weight(1),
                no_hit_lru: weight(2),
                queue_depth: weight(3),
                kv_utilization: weight(4),
                load_balance: weight(5),
                active_requests: weight(6),
                running_requests: weight(7),
                load_aware: weight(8),
                lora_affinity: weight(9),
            };
            Router::Weighted(Weighted { scorers: Some(scorers), capacity: 12, ..Weighted::default() })
        });
        assert!(seen.decisions > 1_000, "{at} {seen:?}");
    }
}

/// A router of candidates without caches, or with those of the trace's blocks of 16 tokens.
struct Bench {
    picker: Picker,
    requests: Requests,
    next: u32,
}

impl Bench {
    /// Requests by prompt, session (or adapter) and hashes.
    fn new(router: Router, candidates: usize, requests: &[(u32, u32, &[u64])]) -> Bench {
        let mut r = Requests { block_tokens: 16, block_hash_offsets: vec![0], ..Requests::default() };
        for (prompt, session, hashes) in requests {
            r.arrival.push(SimTime::ZERO);
            r.input_tokens.push(*prompt);
            r.output_tokens.push(1);
            r.session.push(Some(*session));
            r.adapter.push(Some(*session));
            r.block_hashes.extend(*hashes);
            r.block_hash_offsets.push(r.block_hashes.len() as u64);
        }
        let derivation = derivation(&r, 16, true).expect("the trace's own size");
        let kind = Kind { derivation, block_size: 16, blocks: 100, recompute_full_hits: true };
        Bench { picker: Picker::new(&router, vec![kind; candidates], 0, 1, &r, false), requests: r, next: 0 }
    }

    /// The next request's candidate, and the scores.
    fn pick(&mut self) -> (usize, Vec<Option<f64>>) {
        let (request, mut scores) = (self.next, Vec::new());
        self.next += 1;
        let ask = Ask { request, prompt: self.requests.input_tokens[request as usize], hashed: true };
        (self.picker.pick(ask, &self.requests, Some(&mut scores)), scores)
    }

    /// The next request finds these scores; returns where it goes.
    fn scores<const N: usize>(&mut self, expect: [f64; N]) -> usize {
        let (picked, scores) = self.pick();
        assert_eq!(scores, expect.map(Some), "request {}", self.next - 1);
        picked
    }

    /// The next request finds these scores and goes to the highest of them.
    fn check<const N: usize>(&mut self, expect: [f64; N]) -> usize {
        let picked = self.scores(expect);
        let highest = expect.into_iter().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(expect[picked], highest, "request {}", self.next - 1);
        picked
    }
}

#[test]
fn streams_belong_to_sets_of_candidates() {
    let requests = [(1, 0, &[][..]); 40];
    let r = Bench::new(Router::Random, 1, &requests).requests;
    for (set, label) in [(0, "router"), (3, "router/3")] {
        let mut picker = Picker::new(&Router::Random, vec![NO_CACHE; 7], set, 5, &r, false);
        let mut rng = stream(5, label);
        for request in 0..40 {
            let expect = (u128::from(rng.next_u64()) * 7) >> 64;
            let ask = Ask { request, prompt: 1, hashed: true };
            assert_eq!(picker.pick(ask, &r, None) as u128, expect, "{label} {request}");
        }
    }
}

#[test]
fn what_counts_and_when_it_stops() {
    // Scores after a prompt of 10 tokens was sent, 4 of them were computed, all were, the request ended.
    let cases = [
        (Router::LeastOutstanding, [-1.0, -1.0, -1.0, 0.0]),
        (Router::LeastTokens, [-10.0, -10.0, 0.0, 0.0]),
        (Router::LopBinary, [-1.0, -1.0, 0.0, 0.0]),
        (Router::LopBatchEnd, [-10.0, -6.0, 0.0, 0.0]),
    ];
    for (router, expect) in cases {
        for early in [false, true] {
            let mut bench = Bench::new(router.clone(), 1, &[(10, 0, &[][..]); 5]);
            assert_eq!(bench.check([0.0]), 0);
            // The next ones leave at once.
            let score = |bench: &mut Bench, expect| {
                bench.check([expect]);
                bench.picker.ended(0, bench.next - 1);
            };
            score(&mut bench, expect[0]);
            bench.picker.progress(0, 0, 4);
            score(&mut bench, expect[1]);
            if !early {
                bench.picker.prompt_done(0, 0);
                score(&mut bench, expect[2]);
            }
            bench.picker.ended(0, 0);
            score(&mut bench, expect[3]);
        }
    }
    let mut bench = Bench::new(Router::LeastQueued, 2, &[(10, 0, &[][..]); 2]);
    bench.picker.see(0, Load { waiting: 7, running: 1, blocks_used: 1 });
    assert_eq!(bench.check([-7.0, 0.0]), 1);
    bench.picker.see(1, Load { waiting: 8, ..Load::default() });
    assert_eq!(bench.check([-7.0, -8.0]), 0);
}

#[test]
fn turns_and_the_better_of_two() {
    let requests = [(1, 0, &[][..]); 20];
    let mut bench = Bench::new(Router::RoundRobin, 3, &requests);
    let picks: Vec<usize> = (0..7).map(|_| bench.pick().0).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(bench.pick(), (1, vec![None; 3]));
    let mut bench = Bench::new(Router::PowerOfTwo, 2, &requests);
    for _ in 0..10 {
        let first = bench.check([0.0, 0.0]);
        let second = bench.check(if first == 0 { [-1.0, 0.0] } else { [0.0, -1.0] });
        assert_ne!(first, second);
        bench.picker.ended(first, bench.next - 2);
        bench.picker.ended(second, bench.next - 1);
    }
    let mut bench = Bench::new(Router::PowerOfTwo, 1, &requests);
    (0..20).for_each(|sent| assert_eq!(bench.check([-f64::from(sent)]), 0));
}

#[test]
fn sessions_stay_where_they_began() {
    let requests = [(5, 8, &[][..]), (1, 9, &[]), (1, 8, &[]), (1, 8, &[]), (1, 9, &[]), (1, 7, &[])];
    let mut bench = Bench::new(Router::StickyRoundRobin, 3, &requests);
    let picks: Vec<usize> = requests.iter().map(|_| bench.pick().0).collect();
    assert_eq!(picks, [0, 1, 0, 0, 1, 2]);
    let mut bench = Bench::new(Router::StickyLop, 2, &requests);
    let first = bench.check([0.0, 0.0]);
    let second = bench.check(if first == 0 { [-5.0, 0.0] } else { [0.0, -5.0] });
    assert_eq!(bench.pick(), (first, vec![None; 2]));
    assert_eq!(bench.pick(), (first, vec![None; 2]));
    assert_eq!(bench.pick(), (second, vec![None; 2]));
    bench.check(if first == 0 { [-7.0, -2.0] } else { [-2.0, -7.0] });
}

/// What candidate `x` has, and what the other one has.
fn two(x: usize, own: f64, other: f64) -> [f64; 2] {
    if x == 0 { [own, other] } else { [other, own] }
}

#[test]
fn imbalance_by_hand() {
    let prompts = [(10, 0, &[][..]), (4, 0, &[]), (6, 0, &[]), (1, 0, &[]), (3, 0, &[])];
    let mut bench = Bench::new(Router::LopUncached, 3, &prompts);
    let x = bench.check([-10.0; 3]);
    let mut expect = [-10.0; 3];
    expect[x] = -14.0;
    let y = bench.check(expect);
    // 10, 4 and 0 are pending; then 10, 4 and 6; then 10, 5 and 6; then, without the first prompt, 0, 5 and 6.
    let at = |own: [f64; 3]| -> [f64; 3] {
        let place = |a: usize| if a == x { 0 } else { 1 + usize::from(a != y) };
        [0, 1, 2].map(|a| own[place(a)])
    };
    assert_eq!(bench.check(at([-16.0, -10.0, -6.0])), 3 - x - y);
    assert_eq!(bench.check(at([-7.0, -5.0, -6.0])), y);
    bench.picker.prompt_done(x, 0);
    assert_eq!(bench.check(at([-3.0, -8.0, -9.0])), x);
}

#[test]
fn a_session_moves_when_its_replica_is_out_of_balance() {
    let prompts = [(10, 4, &[][..]), (10, 4, &[]), (10, 4, &[]), (3, 4, &[]), (1, 4, &[]), (10, 4, &[])];
    let router = Router::TolerantStickyLopUncached(TolerantSticky::default());
    let mut bench = Bench::new(router, 2, &prompts);
    let x = bench.check([-10.0; 2]);
    let y = 1 - x;
    assert_eq!(bench.scores(two(x, -20.0, 0.0)), y, "20 is above twice 0");
    assert_eq!(bench.scores([-10.0; 2]), y);
    assert_eq!(bench.scores(two(x, -7.0, -13.0)), y, "13 is not above twice 7");
    assert_eq!(bench.scores(two(x, -12.0, -14.0)), y);
    assert_eq!(bench.scores(two(x, -4.0, -24.0)), x, "24 is above twice 4");
    for (top_k, stays) in [(1, false), (2, true)] {
        let mut bench = Bench::new(Router::RankedStickyLopUncached(RankedSticky { top_k }), 2, &prompts);
        let x = bench.check([-10.0; 2]);
        assert_eq!(bench.scores(two(x, -20.0, 0.0)) == x, stays, "{top_k}");
    }
}

#[test]
fn affinity_by_hand() {
    let requests: [(u32, u32, &[u64]); 7] = [
        (64, 0, &[1, 2, 3, 4]),
        (64, 0, &[1, 2, 3, 4]),
        (64, 0, &[1, 2, 3, 4]),
        (60, 0, &[1, 2, 9, 9]),
        (64, 0, &[1, 2, 3, 9]),
        (20, 0, &[50, 51, 52]),
        (32, 0, &[50, 51]),
    ];
    let settings = PrefixAffinity { balance_abs_threshold: 1, balance_rel_threshold: 1.0, ..PrefixAffinity::default() };
    let mut bench = Bench::new(Router::PrefixAffinity(settings), 3, &requests);
    let x = bench.check([0.0; 3]);
    let mut scores = [0.0; 3];
    scores[x] = 1.0;
    assert_eq!(bench.check(scores), x);
    let y = bench.scores(scores);
    assert_ne!(y, x, "two requests are more than none by more than one");
    let z = 3 - x - y;
    (scores[x], scores[y]) = (0.5, 0.5);
    assert_eq!(bench.scores(scores), z, "the loads are uneven");
    bench.picker.ended(x, 0);
    (scores[x], scores[y], scores[z]) = (0.75, 0.75, 0.5);
    assert_ne!(bench.check(scores), z);
    assert_eq!(bench.scores([0.0; 3]), z, "it knows three hashes, the others four or more");
    scores = [0.0; 3];
    scores[z] = 1.0;
    // Of the request before, the prompt had two blocks. The loads are even: one has 1, the others 2.
    assert_eq!(bench.check(scores), z);
}

#[test]
fn costs_by_hand() {
    let requests: [(u32, u32, &[u64]); 4] = [(40, 0, &[]), (20, 0, &[]), (16, 0, &[]), (17, 0, &[7])];
    let router = Router::KvAware(KvAware { overlap_weight: 2.0, temperature: 0.0 });
    let mut bench = Bench::new(router, 2, &requests);
    // Twice 2.5 blocks to compute, 3 to hold.
    let x = bench.check([-8.0; 2]);
    assert_eq!(bench.check(two(x, -12.5, -4.5)), 1 - x);
    bench.picker.prompt_done(x, 0);
    assert_eq!(bench.check(two(x, -6.0, -7.5)), x);
    bench.picker.ended(x, 0);
    bench.picker.cached(1 - x, &[(7, 1)]);
    assert_eq!(bench.check(two(x, -7.125, -6.625)), 1 - x);
}

#[test]
fn a_temperature_spreads_requests() {
    let requests = vec![(16, 0, &[][..]); 4_000];
    let router = Router::KvAware(KvAware { overlap_weight: 1.0, temperature: 1.0 });
    let mut bench = Bench::new(router, 2, &requests);
    let x = bench.check([-2.0; 2]);
    // The other one costs least. Requests that end at once leave it at that.
    let mut other = 0;
    for request in 1..4_000 {
        let picked = bench.scores(two(x, -4.0, -2.0));
        bench.picker.ended(picked, request);
        other += u32::from(picked != x);
    }
    // 1 against 1 / e: a share of 0.731, with a standard error of 0.007.
    let share = f64::from(other) / 3_999.0;
    assert!((share - 1.0 / (1.0 + libm::exp(-1.0))).abs() < 0.025, "{share}");
}

#[test]
fn scorers_by_hand() {
    let none = Scorers::default();
    let cases = [
        (Scorers { precise_prefix_cache: 1.0, ..none }, [1.0, 0.5, 0.0]),
        (Scorers { prefix_affinity: 1.0, ..none }, [0.0; 3]),
        (Scorers { no_hit_lru: 1.0, ..none }, [1.0, 0.5, 0.0]),
        (Scorers { queue_depth: 1.0, ..none }, [1.0, 0.75, 0.0]),
        (Scorers { kv_utilization: 1.0, ..none }, [0.5, 0.0, 1.0]),
        (Scorers { load_balance: 1.0, ..none }, [1.0 / 5.0, 1.0 / 67.0, 1.0 / 257.0]),
        (Scorers { active_requests: 1.0, ..none }, [1.0; 3]),
        (Scorers { running_requests: 1.0, ..none }, [0.0, 0.5, 1.0]),
        (Scorers { load_aware: 1.0, ..none }, [0.5, 0.25, 0.0]),
        (Scorers { lora_affinity: 1.0, ..none }, [0.0; 3]),
        (Scorers { queue_depth: 3.0, kv_utilization: 1.0, ..none }, [0.875, 0.5625, 0.25]),
        (Weighted::default().scorers(), [0.875, 0.4375, 0.25]),
    ];
    for (scorers, expect) in cases {
        let router = Router::Weighted(Weighted { scorers: Some(scorers), ..Weighted::default() });
        let mut bench = Bench::new(router, 3, &[(40, 0, &[1, 2])]);
        for (candidate, waiting, running, blocks_used) in [(0, 0, 4, 50), (1, 64, 2, 100), (2, 256, 0, 0)] {
            bench.picker.see(candidate, Load { waiting, running, blocks_used });
        }
        bench.picker.cached(0, &[(1, 1), (2, 1)]);
        bench.picker.cached(1, &[(1, 1)]);
        bench.check(expect);
    }
}

#[test]
fn scorers_that_remember_by_hand() {
    let weighted = |scorers| Router::Weighted(Weighted { scorers: Some(scorers), max_loras: 1, ..Weighted::default() });
    let requests: [(u32, u32, &[u64]); 5] =
        [(32, 5, &[1, 8]), (16, 5, &[2]), (32, 6, &[1, 9]), (16, 5, &[3]), (16, 5, &[])];
    let mut bench = Bench::new(weighted(Scorers { no_hit_lru: 1.0, ..Scorers::default() }), 3, &requests);
    assert_eq!(bench.check([1.0, 0.5, 0.0]), 0);
    assert_eq!(bench.check([0.0, 1.0, 0.5]), 1);
    bench.check([0.5; 3]);
    assert_eq!(bench.check([0.5, 0.0, 1.0]), 2);
    assert_eq!(bench.check([1.0, 0.5, 0.0]), 0);
    let mut bench = Bench::new(weighted(Scorers { prefix_affinity: 1.0, ..Scorers::default() }), 1, &requests);
    [0.0, 0.0, 0.5, 0.0, 0.0].into_iter().for_each(|score| assert_eq!(bench.check([score]), 0));
    // One adapter is remembered.
    let mut bench = Bench::new(weighted(Scorers { lora_affinity: 1.0, ..Scorers::default() }), 1, &requests);
    [0.0, 1.0, 0.0, 0.0, 1.0].into_iter().for_each(|score| assert_eq!(bench.check([score]), 0));
    let mut bench = Bench::new(weighted(Scorers { active_requests: 1.0, ..Scorers::default() }), 2, &requests);
    let x = bench.check([1.0; 2]);
    assert_eq!(bench.check(two(x, 0.0, 1.0)), 1 - x);
    bench.check([0.0; 2]);
}

#[test]
fn a_prefix_ends_with_the_prompt_and_with_a_gap() {
    // A prompt of 64 tokens in KV blocks of 8: two to a hash.
    let r = Bench::new(Router::Random, 1, &[(64, 0, &[1, 2, 3, 4])]).requests;
    let split = derivation(&r, 8, true).expect("a divisor");
    let kind = Kind { derivation: split, block_size: 8, blocks: 0, recompute_full_hits: true };
    let all = Kind { recompute_full_hits: false, ..kind };
    let mut picker = Picker::new(&Router::Random, vec![kind, all, NO_CACHE], 0, 0, &r, true);
    let ask = Ask { request: 0, prompt: 64, hashed: true };
    type Changes = &'static [(u64, u32)];
    let cases: [(Changes, u32, u32); 6] = [
        (&[(2, 2), (3, 2)], 0, 0),
        (&[(1, 1)], 8, 8),
        (&[(1, 2), (4, 1)], 56, 56),
        (&[(4, 2)], 56, 64),
        (&[(2, 1)], 24, 24),
        (&[(2, 0), (3, 0)], 16, 16),
    ];
    for (changes, hit, full) in cases {
        picker.cached(0, changes);
        picker.cached(1, changes);
        assert_eq!([0, 1, 2].map(|a| picker.hit(a, ask, &r)), [hit, full, 0], "{changes:?}");
    }
    assert_eq!(picker.hit(0, Ask { hashed: false, ..ask }, &r), 0, "an encoder's prompt has no hashes");
}
