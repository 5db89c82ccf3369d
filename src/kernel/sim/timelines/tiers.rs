//! Timelines of tiers behind the prefix cache. A block of four tokens has 524,288 bytes: of a tier that reads as many in a
//! millisecond, each takes one; writes take a microsecond.

use super::*;
use crate::sim::TierSummary;
use crate::sim::encoder::Encoder;
use crate::sim::lora::Lora;
use crate::sim::tiers::{Fetch, Replacement, Tier, Ttl, WritePolicy};

const BLOCK: u128 = 524_288;
/// GB/s: a block in a millisecond.
const SLOW: f64 = 0.524_288;

fn tier() -> Tier {
    Tier {
        capacity_blocks: Some(100),
        read_gb_per_s: Some(SLOW),
        write_gb_per_s: Some(1000.0 * SLOW),
        ..Tier::default()
    }
}

/// The first prompt leaves three blocks in the cache; the second takes so many that only the first of them stays.
fn before(others: u32) -> [Ask; 2] {
    [Ask { blocks: &[1, 2, 3], ..ask(0.0, 12, 1) }, ask(1.0, others * 4, 1)]
}

/// Asks for what they left, and one token more.
fn again() -> Ask {
    Ask { blocks: &[1, 2, 3], ..ask(5.0, 13, 1) }
}

/// The first two, with four blocks and these tiers, and what becomes of the third.
#[track_caller]
fn check_third(tiers: &[Tier], row: &str, step: &str, told: impl Fn(&[TierSummary])) {
    let [a, b] = before(3);
    check(
        |s, _| {
            blocks(s, 4);
            s.deployment.kv.tiers = tiers.to_vec();
        },
        &[a, b, again()],
        &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1", row],
        &["0+1 d0 p12/1 c0 r1 w0 x0 b3", "1+1 d0 p12/1 c0 r1 w0 x0 b3", step],
        |s| {
            assert_eq!(s.tiers, s.pools[0].tiers);
            told(&s.tiers);
        },
    );
}

#[test]
fn what_a_tier_has_is_fetched_and_the_rest_computed() {
    // One block is in the GPU's cache, two are fetched in a millisecond each; of 13 tokens one is left to compute.
    let fetched = "finished q5 s7 f8 d8 o1 c4 t8";
    check_third(&[tier()], fetched, "7+1 d0 p1/1 c12 r1 w0 x0 b4", |tiers| {
        let expect = TierSummary {
            lookups: 3,
            blocks_hit: 2,
            bytes_read: 2 * BLOCK,
            blocks_stored: 3,
            bytes_written: 3 * BLOCK,
            blocks_evicted: 0,
            blocks_total: 100,
            blocks_max: 3,
            stall_ns: 2_000_000,
        };
        assert_eq!(tiers, [expect]);
    });
    // A latency comes once for the transfer.
    let slow = Tier { latency_us: Some(500.0), ..tier() };
    check_third(&[slow], "finished q5 s7.5 f8.5 d8.5 o1 c4 t8", "7.5+1 d0 p1/1 c12 r1 w0 x0 b4", |_| ());
}

#[test]
fn what_is_not_written_yet_is_not_there() {
    // Three blocks of two milliseconds each are there at 7 ms: at 5 the tier has nothing.
    let slow = Tier { write_gb_per_s: Some(SLOW / 2.0), ..tier() };
    check_third(&[slow], "finished q5 s5 f6 d6 o1 c4", "5+1 d0 p9/1 c4 r1 w0 x0 b4", |tiers| {
        assert_eq!((tiers[0].blocks_hit, tiers[0].blocks_stored), (0, 3));
    });
}

#[test]
fn others_pass_a_request_that_is_fetched() {
    let [a, b] = before(7);
    check(
        |s, _| {
            blocks(s, 8);
            s.deployment.kv.tiers = vec![tier()];
        },
        &[a, b, again(), ask(5.0, 3, 1)],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q1 s1 f2 d2 o1",
            "finished q5 s7 f8 d8 o1 c4 t8",
            "finished q5 s5 f6 d6 o1",
        ],
        // The one that waits holds the blocks of its prompt.
        &[
            "0+1 d0 p12/1 c0 r1 w0 x0 b3",
            "1+1 d0 p28/1 c0 r1 w0 x0 b7",
            "5+1 d0 p3/1 c0 r1 w1 x0 b5",
            "7+1 d0 p1/1 c12 r1 w0 x0 b4",
        ],
        |s| {
            assert_eq!((s.running_ns, s.waiting_ns), (4_000_000, 2_000_000));
            // 3, 7, 5, then 4 while it waits on, and 4 while it runs.
            assert_eq!(s.kv_block_ns, (3 + 7 + 5 + 4 + 4) * 1_000_000);
        },
    );
}

#[test]
fn a_blocking_load_makes_the_step_longer() {
    let blocking = Tier { blocking: true, ..tier() };
    check_third(
        std::slice::from_ref(&blocking),
        "finished q5 s5 f8 d8 o1 c4 t8",
        "5+3 d0 p1/1 c12 r1 w0 x0 b4",
        |tiers| {
            assert_eq!((tiers[0].blocks_hit, tiers[0].stall_ns), (2, 2_000_000));
        },
    );
    // Beside another tier that is not, all of it is fetched.
    let first = Tier { capacity_blocks: Some(2), replacement: Replacement::Pinned, ..blocking };
    check_third(&[first, tier()], "finished q5 s6 f7 d7 o1 c4 t8", "6+1 d0 p1/1 c12 r1 w0 x0 b4", |_| ());
}

#[test]
fn several_tiers_have_a_part_each() {
    // The first has blocks 1 and 2, and gives the second; the other gives the third at the same time.
    let first = Tier { capacity_blocks: Some(2), replacement: Replacement::Pinned, ..tier() };
    check_third(&[first, tier()], "finished q5 s6 f7 d7 o1 c4 t8", "6+1 d0 p1/1 c12 r1 w0 x0 b4", |tiers| {
        let got: Vec<_> = tiers.iter().map(|t| (t.lookups, t.blocks_hit, t.blocks_stored, t.stall_ns)).collect();
        assert_eq!(got, [(3, 1, 2, 1_000_000), (3, 1, 3, 1_000_000)]);
    });
}

#[test]
fn what_is_cheaper_to_compute_is_computed() {
    let computed = ("finished q5 s5 f6 d6 o1 c4", "5+1 d0 p9/1 c4 r1 w0 x0 b4");
    // Two milliseconds are longer than a step of one.
    let cheaper = Tier { fetch: Fetch::Cheaper, ..tier() };
    check_third(std::slice::from_ref(&cheaper), computed.0, computed.1, |tiers| {
        assert_eq!((tiers[0].lookups, tiers[0].blocks_hit), (3, 0));
    });
    let as_long = Tier { read_gb_per_s: Some(2.0 * SLOW), ..cheaper.clone() };
    check_third(&[as_long], "finished q5 s6 f7 d7 o1 c4 t8", "6+1 d0 p1/1 c12 r1 w0 x0 b4", |_| ());
    let latent = Tier { read_gb_per_s: Some(2.0 * SLOW), latency_us: Some(0.1), ..cheaper };
    check_third(&[latent], computed.0, computed.1, |_| ());
    let never = Tier { fetch: Fetch::Never, ..tier() };
    check_third(&[never], computed.0, computed.1, |tiers| {
        assert_eq!((tiers[0].lookups, tiers[0].blocks_stored), (0, 3));
    });
}

#[test]
fn transfers_wait_for_each_other() {
    let [a, b] = before(7);
    let two = |concurrency: u32, rows: [&str; 2]| {
        check(
            |s, _| {
                blocks(s, 8);
                s.deployment.kv.tiers = vec![Tier { concurrency, ..tier() }];
            },
            &[a, b, again(), again()],
            &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1", rows[0], rows[1]],
            &[],
            whatever,
        );
    };
    two(1, ["finished q5 s7 f8 d8 o1 c4 t8", "finished q5 s9 f10 d10 o1 c4 t8"]);
    // Each has half of the bandwidth.
    two(2, ["finished q5 s9 f10 d10 o1 c4 t8", "finished q5 s9 f10 d10 o1 c4 t8"]);
    // Of four places two are empty, and a quarter is no more for that.
    two(4, ["finished q5 s13 f14 d14 o1 c4 t8"; 2]);
}

#[test]
fn a_request_is_fetched_while_the_step_runs_in_which_it_comes() {
    // The one that comes before it reuses the block that was left of the first.
    let [a, b] = before(7);
    let when = |prefetch: bool, row: &str| {
        check(
            |s, _| {
                blocks(s, 8);
                s.deployment.kv.tiers = vec![Tier { prefetch, ..tier() }];
            },
            &[a, b, ask(4.5, 3, 1), again()],
            &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1", "finished q4.5 s4.5 f5.5 d5.5 o1", row],
            &[],
            whatever,
        );
    };
    when(false, "finished q5 s8.5 f9.5 d9.5 o1 t12");
    when(true, "finished q5 s8 f9 d9 o1 t12");
}

#[test]
fn blocks_are_stored_when_the_cache_reuses_them() {
    // The second prompt reuses the third and the second block of the first. The last request reuses nothing that is known.
    let evicting = Tier { write: WritePolicy::OnEvict, ..tier() };
    check_third(&[evicting], "finished q5 s7 f8 d8 o1 c4 t8", "7+1 d0 p1/1 c12 r1 w0 x0 b4", |tiers| {
        assert_eq!((tiers[0].blocks_stored, tiers[0].bytes_written), (2, 2 * BLOCK));
    });
}

#[test]
fn a_full_tier_gives_up_ends_before_starts() {
    let one = "finished q5 s6 f7 d7 o1 c4 t4";
    let step = "6+1 d0 p5/1 c8 r1 w0 x0 b4";
    // The third block is stored first, and leaves for the first. The last request stores it again, in the place of that.
    let small = Tier { capacity_blocks: Some(2), ..tier() };
    check_third(std::slice::from_ref(&small), one, step, |tiers| {
        assert_eq!((tiers[0].blocks_stored, tiers[0].blocks_evicted, tiers[0].blocks_max), (4, 2, 2));
    });
    let pinned = Tier { replacement: Replacement::Pinned, ..small };
    check_third(&[pinned], one, step, |tiers| {
        assert_eq!((tiers[0].blocks_stored, tiers[0].blocks_evicted, tiers[0].blocks_max), (2, 0, 2));
    });
}

#[test]
fn what_is_not_used_for_a_time_is_gone() {
    let ttl = |s: f64| Tier { replacement: Replacement::Ttl(Ttl { s }), ..tier() };
    // Stored at 1 ms, asked for at 5.
    check_third(&[ttl(0.004)], "finished q5 s5 f6 d6 o1 c4", "5+1 d0 p9/1 c4 r1 w0 x0 b4", |tiers| {
        assert_eq!((tiers[0].blocks_stored, tiers[0].blocks_evicted), (5, 0));
    });
    check_third(&[ttl(0.004_001)], "finished q5 s7 f8 d8 o1 c4 t8", "7+1 d0 p1/1 c12 r1 w0 x0 b4", |_| ());
}

#[test]
fn stored_blocks_may_be_larger() {
    // Blocks 1 and 2 are one; of that only the second is missing, and block 3 is the half of another. The end of the last
    // request fills nothing, and what it computes of that other, neither.
    let large = Tier { block_size: Some(8), ..tier() };
    check_third(&[large], "finished q5 s6 f7 d7 o1 c4 t4", "6+1 d0 p5/1 c8 r1 w0 x0 b4", |tiers| {
        assert_eq!((tiers[0].blocks_hit, tiers[0].bytes_read), (1, BLOCK));
        assert_eq!((tiers[0].blocks_stored, tiers[0].bytes_written), (1, 2 * BLOCK));
    });
}

#[test]
fn transfers_slow_steps_down_where_they_do() {
    // The blocks of the first are written until 2.5 ms. Of the step from 1 ms on, half as much comes on top; the step of
    // the last begins when its fetch is over.
    let [a, b] = before(3);
    check(
        |s, _| {
            blocks(s, 4);
            s.deployment.kv.tiers = vec![Tier { contends_with_steps: 0.5, write_gb_per_s: Some(2.0 * SLOW), ..tier() }];
        },
        &[a, Ask { output: 2, input: 11, ..b }, again()],
        &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2.5 d3.5 o2", "finished q5 s7 f8 d8 o1 c4 t8"],
        &["0+1 d0 p12/1 c0 r1 w0 x0 b3", "1+1.5 d0 p11/1 c0 r1 w0 x0 b3", "2.5+1 d1 p0/0 c11 r1 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn a_client_that_goes_during_a_fetch_is_noticed_behind_it() {
    let [a, b] = before(3);
    check(
        |s, _| {
            blocks(s, 4);
            s.deployment.kv.tiers = vec![tier()];
        },
        &[a, b, Ask { timeout: Some(1.0), ..again() }, Ask { blocks: &[1, 2, 3], ..ask(8.0, 13, 1) }],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q1 s1 f2 d2 o1",
            "timed_out q5 s- f- d- o0 t8",
            // What was fetched is in the cache.
            "finished q8 s8 f9 d9 o1 c12",
        ],
        &[],
        |s| assert_eq!((s.timed_out, s.waiting_ns, s.end.0), (1, 2_000_000, 9_000_000)),
    );
}

#[test]
fn with_tiers_a_prompt_waits_for_all_its_blocks() {
    let asked = [ask(0.0, 5, 3), ask(1.0, 12, 1)];
    let when = |tiers: &[Tier], row: &str| {
        check(
            |s, r| {
                blocks(s, 4);
                r.max_num_batched_tokens = 5;
                s.deployment.kv.tiers = tiers.to_vec();
            },
            &asked,
            &["finished q0 s0 f1 d3 o3", row],
            &[],
            whatever,
        );
    };
    // Chunks of 4 and 4 tokens beside the decodes, and of 4; or of 5, 5, and 2 behind them.
    when(&[], "finished q1 s1 f4 d4 o1");
    when(&[tier()], "finished q1 s3 f6 d6 o1");
}

#[test]
fn engines_may_share_a_tier() {
    // Two engines take turns. The second has nothing in its cache; what the first has computed comes from the tier: to the
    // second request of its own behind that of the first, for there is one place.
    let same = |at: f64| Ask { blocks: &[1, 2, 3], ..ask(at, 13, 1) };
    let asked =
        [same(0.0), same(5.0), Ask { blocks: &[4, 5, 6], ..ask(5.0, 13, 1) }, Ask { blocks: &[1, 2, 7], ..same(5.5) }];
    let when = |shared: bool, rows: &[&str], blocks_hit: u64| {
        let totals = |s: &Summary| {
            assert_eq!(s.tiers[0].blocks_hit, blocks_hit);
            // Known contents of three blocks each; of the last request, the third alone is new.
            assert_eq!(s.tiers[0].blocks_max, if shared { 7 } else { 6 });
        };
        let edit = |s: &mut Scenario, _: &mut VllmV1| {
            s.deployment.replicas = 2;
            s.deployment.kv.tiers = vec![Tier { shared, ..tier() }];
        };
        check_cluster(edit, &asked, rows, totals);
    };
    when(
        true,
        &[
            "finished q0 s0 f1 d1 o1 @0",
            "finished q5 s8 f9 d9 o1 t12 @1",
            "finished q5 s5 f6 d6 o1 @0",
            "finished q5.5 s10 f11 d11 o1 t8 @1",
        ],
        5,
    );
    when(
        false,
        &[
            "finished q0 s0 f1 d1 o1 @0",
            "finished q5 s5 f6 d6 o1 @1",
            "finished q5 s5 f6 d6 o1 @0",
            "finished q5.5 s6 f7 d7 o1 c8 @1",
        ],
        0,
    );
}

/// Asks of the first and the third with these adapters; the second has none.
#[track_caller]
fn with_adapters(first: u32, third: u32, row: &str) {
    let [a, b] = before(3);
    let a = Ask { adapter: Some(first), ..a };
    check(
        |s, _| {
            blocks(s, 4);
            s.deployment.kv.tiers = vec![tier()];
            // Rank 16: a millisecond.
            let (bytes_per_rank, load_gb_per_s) = (Some(62_500.0), Some(1.0));
            s.deployment.lora = Some(Lora { max_loras: 2, bytes_per_rank, load_gb_per_s, ..Lora::default() });
        },
        &[a, Ask { at: 2.0, ..b }, Ask { adapter: Some(third), ..again() }],
        &["finished q0 s0 f2 d2 o1", "finished q2 s2 f3 d3 o1", row],
        &[],
        whatever,
    );
}

#[test]
fn tiers_tell_adapters_apart() {
    // Its adapter is on the GPU still.
    with_adapters(0, 0, "finished q5 s7 f8 d8 o1 c4 t8");
    // Of the other adapter nothing is there, and it is loaded in the step.
    with_adapters(0, 1, "finished q5 s5 f7 d7 o1");
}

#[test]
fn what_was_fetched_is_not_encoded() {
    // Twelve tokens are there; the encoder takes a millisecond for an input that reaches beyond them.
    let [a, b] = before(3);
    let when = |encoder: u32, row: &str| {
        check(
            |s, _| {
                blocks(s, 4);
                s.deployment.kv.tiers = vec![tier()];
                s.deployment.encoder = Some(Encoder { relative_cost: 1.0, ..Encoder::default() });
            },
            &[a, b, Ask { encoder: Some(encoder), ..again() }],
            &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1", row],
            &[],
            whatever,
        );
    };
    when(12, "finished q5 s7 f8 d8 o1 c4 t8");
    when(13, "finished q5 s7 f9 d9 o1 c4 t8");
}

#[test]
fn what_was_fetched_waits_for_its_adapter() {
    // While it is fetched another adapter takes the one slot; who asks for none passes it.
    let [a, b] = before(7);
    let of = |adapter: u32, ask: Ask| Ask { adapter: Some(adapter), ..ask };
    check(
        |s, _| {
            blocks(s, 8);
            s.deployment.kv.tiers = vec![tier()];
            let (bytes_per_rank, load_gb_per_s) = (Some(62_500.0), Some(1.0));
            s.deployment.lora = Some(Lora { max_loras: 1, bytes_per_rank, load_gb_per_s, ..Lora::default() });
        },
        &[of(0, a), Ask { at: 2.0, ..b }, of(0, again()), of(1, ask(5.0, 3, 4)), ask(7.5, 3, 1)],
        &[
            "finished q0 s0 f2 d2 o1",
            "finished q2 s2 f3 d3 o1",
            "finished q5 s10 f12 d12 o1 c4 t8",
            "finished q5 s5 f7 d10 o4",
            "finished q7.5 s8 f9 d9 o1",
        ],
        &[],
        |s| assert_eq!((s.adapters.loads, s.adapters.evictions), (3, 2)),
    );
}

#[test]
fn what_was_fetched_waits_for_the_encoder() {
    // Chunks of a block. It comes at 22 ms; the input of the other is kept until twelve tokens of that are computed, at 23.
    let [a, b] = before(11);
    check(
        |s, r| {
            blocks(s, 12);
            s.deployment.kv.tiers = vec![tier()];
            r.long_prefill_token_threshold = 4;
            let encoder_cache_size = Some(20);
            s.deployment.encoder = Some(Encoder { encoder_cache_size, relative_cost: 0.0, ..Encoder::default() });
        },
        &[
            a,
            Ask { at: 3.0, ..b },
            Ask { at: 20.0, encoder: Some(13), ..again() },
            Ask { encoder: Some(12), ..ask(20.0, 20, 1) },
        ],
        &[
            "finished q0 s0 f3 d3 o1",
            "finished q3 s3 f14 d14 o1",
            "finished q20 s23 f24 d24 o1 c4 t8",
            "finished q20 s20 f25 d25 o1",
        ],
        &[],
        whatever,
    );
}

#[test]
fn a_fetch_is_not_charged() {
    // The first to be served at 5 ms is fetched: its tenant goes on with the next, and is charged for that. Then the other
    // tenant goes, and what was fetched goes when it has come.
    let [a, b] = before(7);
    let of = |tenant: u32, ask: Ask| Ask { tenant: Some(tenant), ..ask };
    check(
        |s, r| {
            blocks(s, 8);
            s.deployment.kv.tiers = vec![tier()];
            (r.scheduling_policy, r.max_num_seqs) = (QueueOrder::Fair, 1);
        },
        &[of(1, a), of(1, b), of(1, again()), of(1, ask(5.0, 3, 1)), of(2, ask(5.0, 3, 1)), of(1, ask(5.0, 3, 1))],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q1 s1 f2 d2 o1",
            "finished q5 s7 f8 d8 o1 c4 t8",
            "finished q5 s5 f6 d6 o1",
            "finished q5 s6 f7 d7 o1",
            "finished q5 s8 f9 d9 o1",
        ],
        &[],
        whatever,
    );
}
