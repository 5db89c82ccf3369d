//! Timelines of pools: from prefill to decode replicas, encoders, and what moves between engines.
//!
//! Engine 0 computes prompts. A block of four tokens is sent in a millisecond, unless somebody shares the way.

use super::*;
use crate::pools::{Contention, Decider, FirstToken, Pool, PoolFacts, Role, Threshold};
use crate::scenario::KvCache;

/// Bytes of a block of four tokens of Llama 3.1 8B: 32 layers, keys and values of 8 heads of 128, two bytes each.
const BLOCK: u128 = 4 * 32 * 2 * 8 * 128 * 2;

pub(super) fn pool(s: &mut Scenario, name: &str, role: Role, replicas: u32) {
    s.deployment.pools.insert(name.to_string(), Pool { role, replicas, ..Pool::default() });
    s.pools.push(PoolFacts::new(&s.model, &s.gpu));
    let transfer = &mut s.deployment.disaggregation.transfer;
    (transfer.bandwidth_gb_per_s, transfer.latency_us) = (BLOCK as f64 / 1e6, 0.0);
}

/// `prompts` prefill replicas from engine 0 on, and one decode replica.
pub(super) fn split(s: &mut Scenario, prompts: u32, first_token: FirstToken) {
    pool(s, "prompts", Role::Prefill, prompts);
    pool(s, "replies", Role::Decode, 1);
    s.deployment.disaggregation.first_token = first_token;
}

#[test]
fn the_first_token_is_there_after_the_prompt_the_transfer_or_a_step_more() {
    // The prompt ends at 1 ms, its block is there at 2, two or three steps follow.
    let cases = [
        (FirstToken::Prefill, "finished q0 s0 f1 d4 o3 i3/1.99/2 @1 via 0 p1 k2", 2),
        (FirstToken::Transfer, "finished q0 s0 f2 d4 o3 @1 via 0 p1 k2", 2),
        (FirstToken::Decode, "finished q0 s0 f3 d5 o3 a1 @1 via 0 p1 k2", 3),
    ];
    for (mode, row, steps) in cases {
        check_cluster(
            |s, _| split(s, 1, mode),
            &[ask(0.0, 4, 3)],
            &[row],
            |s| {
                assert_eq!((s.transfers, s.transferred_bytes), (1, BLOCK));
                assert_eq!((s.transfer_ns, s.room_wait_ns), (1_000_000, 0));
                assert_eq!((s.pools.len(), s.pools[0].steps, s.pools[1].steps), (2, 1, steps));
                assert_eq!((s.pools[0].injected, s.pools[1].injected), (1, 1));
                assert_eq!(s.work.prefill_tokens + s.work.decode_requests, 4 + steps);
            },
        );
    }
}

#[test]
fn a_reply_of_one_token_ends_with_its_prompt_unless_the_decode_replica_makes_it() {
    let cases = [
        (FirstToken::Prefill, "finished q0 s0 f1 d1 o1 @1 via 0 p1 k-", 0, 0),
        (FirstToken::Transfer, "finished q0 s0 f1 d1 o1 @1 via 0 p1 k-", 0, 0),
        (FirstToken::Decode, "finished q0 s0 f3 d3 o1 a1 @1 via 0 p1 k2", 1, 1),
    ];
    for (mode, row, transfers, steps) in cases {
        check_cluster(
            |s, _| split(s, 1, mode),
            &[ask(0.0, 4, 1)],
            &[row],
            |s| assert_eq!((s.transfers, s.pools[1].steps), (transfers, steps)),
        );
    }
}

#[test]
fn transfers_share_what_contention_says() {
    // Both prompts end at 1 ms: two blocks, and one. Shared, the one is there at 3 ms; then the first has one left.
    let shared = ["finished q0 s0 f4 d5 o2 @LAST via FIRST p1 k4", "finished q0 s0 f3 d4 o2 @LAST via SECOND p1 k3"];
    let alone = ["finished q0 s0 f3 d4 o2 @LAST via FIRST p1 k3", "finished q0 s0 f2 d3 o2 @LAST via SECOND p1 k2"];
    // (contention, prefill replicas, what comes about, time of transfers)
    let cases = [
        (Contention::Link, 1, shared, 5),
        (Contention::Fabric, 1, shared, 5),
        (Contention::None, 1, alone, 3),
        (Contention::Link, 2, alone, 3),
        (Contention::Fabric, 2, shared, 5),
        (Contention::None, 2, alone, 3),
    ];
    for (contention, prompts, rows, time) in cases {
        // One after the other.
        let engine = |text: &str| text.replace("FIRST", "0").replace("SECOND", if prompts == 1 { "0" } else { "1" });
        let [a, b] = rows.map(|row| engine(row).replace("LAST", &prompts.to_string()));
        check_cluster(
            |s, _| {
                split(s, prompts, FirstToken::Transfer);
                s.deployment.disaggregation.transfer.contention = contention;
            },
            &[ask(0.0, 8, 2), ask(0.0, 4, 2)],
            &[&a, &b],
            |s| {
                assert_eq!((s.transfers, s.transferred_bytes), (2, 3 * BLOCK));
                assert_eq!(s.transfer_ns, time * 1_000_000);
            },
        );
    }
}

#[test]
fn a_transfer_that_joins_halves_what_is_left_of_the_other() {
    // Of its two blocks the first has sent one when the second comes, at 2 ms; both have one left then.
    check_cluster(
        |s, _| split(s, 1, FirstToken::Transfer),
        &[ask(0.0, 8, 2), ask(1.0, 4, 2)],
        &["finished q0 s0 f4 d5 o2 @1 via 0 p1 k4", "finished q1 s1 f4 d5 o2 @1 via 0 p2 k4"],
        |s| assert_eq!((s.transfer_ns, s.steps), (5_000_000, 3)),
    );
    // Bytes flow a latency after the start: from 2.5 ms, and alone until 3.5.
    check_cluster(
        |s, _| {
            split(s, 1, FirstToken::Transfer);
            s.deployment.disaggregation.transfer.latency_us = 1_500.0;
        },
        &[ask(0.0, 8, 2), ask(1.0, 4, 2)],
        &["finished q0 s0 f5.5 d6.5 o2 @1 via 0 p1 k5.5", "finished q1 s1 f5.5 d6.5 o2 @1 via 0 p2 k5.5"],
        |s| assert_eq!(s.transfer_ns, 8_000_000),
    );
}

#[test]
fn layers_are_sent_while_the_prompt_is_computed_but_for_the_last() {
    let layerwise = |s: &mut Scenario, _: &mut VllmV1| {
        split(s, 1, FirstToken::Transfer);
        s.deployment.disaggregation.transfer.layerwise = true;
    };
    // One of two blocks has gone by the end of the step.
    check_cluster(layerwise, &[ask(0.0, 8, 2)], &["finished q0 s0 f2 d3 o2 @1 via 0 p1 k2"], |s| {
        assert_eq!((s.transfers, s.transferred_bytes), (1, 2 * BLOCK));
    });
    // Two steps would have carried all: one layer of 32 is left, a sixteenth of a block.
    check_cluster(
        |s, r| {
            layerwise(s, r);
            r.long_prefill_token_threshold = 4;
        },
        &[ask(0.0, 8, 2)],
        &["finished q0 s0 f2.0625 d3.0625 o2 @1 via 0 p2 k2.0625"],
        whatever,
    );
}

#[test]
fn a_full_decode_replica_holds_up_the_prompts() {
    // Three blocks everywhere. The first reply needs its third from 3 ms until it ends at 6; then the second cache has
    // room, and is there at 8. Until then it is also on the prefill replica, where the third prompt does not fit beside it.
    check_cluster(
        |s, _| {
            split(s, 1, FirstToken::Transfer);
            blocks(s, 3);
        },
        &[ask(0.0, 8, 4), ask(0.0, 8, 2), ask(3.5, 8, 1)],
        &[
            "finished q0 s0 f3 d6 o4 @1 via 0 p1 k3",
            "finished q0 s3 f8 d9 o2 @1 via 0 p4 k8",
            "finished q3.5 s8 f9 d9 o1 @1 via 0 p9 k-",
        ],
        |s| {
            assert_eq!((s.transfers, s.transfer_ns, s.room_wait_ns), (2, 4_000_000, 2_000_000));
            assert_eq!((s.pools[0].waiting_ns, s.pools[0].running_ns), (7_500_000, 3_000_000));
            // Two blocks all the time.
            assert_eq!(s.pools[0].kv_block_ns, 18_000_000);
        },
    );
}

#[test]
fn what_the_decode_replica_has_is_not_sent() {
    // The second time the decode replica has all but the last token, which is not sent but computed again.
    check_cluster(
        |s, _| split(s, 1, FirstToken::Decode),
        &[Ask { blocks: &[1, 2], ..ask(0.0, 9, 2) }, Ask { blocks: &[1, 2], ..ask(10.0, 9, 2) }],
        &["finished q0 s0 f4 d5 o2 a1 @1 via 0 p1 k3", "finished q10 s10 f12 d13 o2 c8 a1 @1 via 0 p11 k11"],
        |s| assert_eq!((s.transferred_bytes, s.transfer_ns), (2 * BLOCK, 2_000_000)),
    );
    // The block of the last token is never found; one of three tokens is sent whole.
    check_cluster(
        |s, _| split(s, 1, FirstToken::Transfer),
        &[Ask { blocks: &[1, 2], ..ask(0.0, 8, 2) }, Ask { blocks: &[1, 2], ..ask(10.0, 8, 2) }, ask(20.0, 3, 2)],
        &[
            "finished q0 s0 f3 d4 o2 @1 via 0 p1 k3",
            "finished q10 s10 f12 d13 o2 c4 @1 via 0 p11 k12",
            "finished q20 s20 f22 d23 o2 @1 via 0 p21 k22",
        ],
        |s| assert_eq!((s.transferred_bytes, s.transfer_ns), (4 * BLOCK, 4_000_000)),
    );
    // With other contents at its end, only that is sent.
    check_cluster(
        |s, _| split(s, 1, FirstToken::Transfer),
        &[Ask { blocks: &[1, 2], ..ask(0.0, 8, 2) }, Ask { blocks: &[1, 3], ..ask(10.0, 8, 2) }],
        &["finished q0 s0 f3 d4 o2 @1 via 0 p1 k3", "finished q10 s10 f12 d13 o2 c4 @1 via 0 p11 k12"],
        |s| assert_eq!((s.transferred_bytes, s.transfer_ns), (3 * BLOCK, 3_000_000)),
    );
}

#[test]
fn deciders_send_what_is_above_their_threshold() {
    let decided = |decider| {
        move |s: &mut Scenario, _: &mut VllmV1| {
            split(s, 1, FirstToken::Transfer);
            s.deployment.disaggregation.decider = decider;
        }
    };
    let (local, remote) = ("finished q0 s0 f1 d2 o2 @1", "finished q0 s0 f2 d3 o2 @1 via 0 p1 k2");
    // (decider, tokens of the prompt, what comes about)
    let cases = [
        (Decider::Always, 4, remote),
        (Decider::Never, 4, local),
        (Decider::PromptTokens(Threshold { above: 4 }), 4, local),
        (Decider::PromptTokens(Threshold { above: 3 }), 4, remote),
        (Decider::UncachedTokens(Threshold { above: 4 }), 4, local),
        (Decider::UncachedTokens(Threshold { above: 3 }), 4, remote),
    ];
    for (decider, input, row) in cases {
        check_cluster(decided(decider), &[ask(0.0, input, 2)], &[row], whatever);
    }
    // Two blocks are found on the decode replica: 4 and 8 tokens are not. Of the last prompt two more are sent.
    let content = |at: f64, input: u32| Ask { blocks: &[1, 2], ..ask(at, input, 2) };
    check_cluster(
        decided(Decider::UncachedTokens(Threshold { above: 4 })),
        &[content(0.0, 8), content(10.0, 12), content(20.0, 16)],
        &[
            "finished q0 s0 f3 d4 o2 @1 via 0 p1 k3",
            "finished q10 s10 f11 d12 o2 c8 @1",
            "finished q20 s20 f23 d24 o2 c8 @1 via 0 p21 k23",
        ],
        |s| assert_eq!(s.transferred_bytes, 4 * BLOCK),
    );
}

#[test]
fn an_encoder_comes_first() {
    // Embeddings of 4,096 numbers of two bytes: of four tokens, a sixteenth of a block of the cache.
    check_cluster(
        |s, _| {
            pool(s, "encoders", Role::Encode, 1);
            pool(s, "others", Role::Mixed, 1);
        },
        &[Ask { encoder: Some(4), ..ask(0.0, 6, 2) }, ask(0.0, 6, 1)],
        &["finished q1.0625 s1.0625 f2.0625 d3.0625 o2 @1 e1.0625", "finished q0 s0 f1 d1 o1 @1"],
        |s| {
            assert_eq!((s.transfers, s.transferred_bytes, s.transfer_ns), (0, 0, 0));
            assert_eq!((s.pools[0].steps, s.pools[0].work.prefill_tokens, s.pools[1].steps), (1, 4, 3));
        },
    );
    // When the embeddings are there, the request goes its way as if it arrived then.
    check_rows(
        |s, _| {
            pool(s, "encoders", Role::Encode, 1);
            split(s, 1, FirstToken::Transfer);
        },
        &[Ask { encoder: Some(4), ..ask(0.0, 4, 2) }],
        |name, got, _| {
            let row = cluster_text(&got.requests[0]);
            assert_eq!(row, "finished q1.0625 s1.0625 f3.0625 d4.0625 o2 @2 e1.0625 via 1 p2.0625 k3.0625", "{name}");
        },
    );
}

#[test]
fn a_client_that_goes_during_a_transfer_is_noticed_at_its_end() {
    // Until then its blocks are kept on the prefill replica, where those of the second prompt do not fit beside them.
    let cases = [
        (
            FirstToken::Prefill,
            ["timed_out q0 s0 f1 d- o1 @1 via 0 p1 k3", "finished q1.5 s3 f4 d4 o1 @1 via 0 p4 k-"],
            0,
        ),
        (
            FirstToken::Decode,
            ["timed_out q0 s0 f- d- o0 @1 via 0 p1 k3", "finished q1.5 s3 f7 d7 o1 a1 @1 via 0 p4 k6"],
            1,
        ),
    ];
    for (mode, rows, steps) in cases {
        check_cluster(
            |s, _| {
                split(s, 1, mode);
                blocks(s, 3);
            },
            &[Ask { timeout: Some(2.0), ..ask(0.0, 8, 3) }, ask(1.5, 8, 1)],
            &rows,
            |s| assert_eq!((s.timed_out, s.pools[1].steps), (1, steps)),
        );
    }
}

#[test]
fn the_horizon_cuts_a_transfer() {
    let cases = [
        (FirstToken::Prefill, "in_flight q0 s0 f1 d- o1 @1 via 0 p1 k-"),
        (FirstToken::Transfer, "in_flight q0 s0 f- d- o0 @1 via 0 p1 k-"),
    ];
    for (mode, row) in cases {
        check_cluster(
            |s, _| {
                split(s, 1, mode);
                s.workload.horizon_s = Some(2.5e-3);
            },
            &[ask(0.0, 8, 4)],
            &[row],
            |s| {
                assert_eq!((s.in_flight, s.transfers, s.transferred_bytes), (1, 0, 0));
                assert_eq!((s.transfer_ns, s.end.0, s.pools[1].steps), (1_500_000, 2_500_000, 0));
            },
        );
    }
}

#[test]
fn a_prompt_beyond_the_smaller_of_two_caches_is_rejected() {
    // Eight tokens fit on the prefill replica, and one of them must be of the reply.
    check(
        |s, _| {
            split(s, 1, FirstToken::Prefill);
            let kv = KvCache { num_gpu_blocks: Some(2), ..s.deployment.kv.clone() };
            s.deployment.pools.entry("prompts".to_string()).and_modify(|pool| pool.kv = Some(kv));
        },
        &[ask(0.0, 8, 2), ask(0.0, 7, 1)],
        &["rejected q- s- f- d- o0", "finished q0 s0 f1 d1 o1"],
        &[],
        |s| assert_eq!((s.rejected, s.finished, s.pools[0].steps), (1, 1, 1)),
    );
}
