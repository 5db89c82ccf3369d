//! Timelines of batches: budget, preemption, the order of the queue, blocks.

use super::*;
use crate::sim::encoder::Encoder;

#[test]
fn a_prompt_takes_one_step_and_every_further_token_one() {
    check(
        |_, _| (),
        &[ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3"],
        &["0+1 d0 p3/1 c0 r1 w0 x0 b1", "1+1 d1 p0/0 c3 r1 w0 x0 b1", "2+1 d1 p0/0 c4 r1 w0 x0 b2"],
        |s| {
            assert_eq!((s.steps, s.busy.0, s.end.0, s.finished), (3, 3_000_000, 3_000_000, 1));
            assert_eq!((s.kv_block_ns, s.running_ns, s.waiting_ns), (4_000_000, 3_000_000, 0));
            assert_eq!((s.kv_blocks_max, s.running_max, s.waiting_max), (2, 1, 1));
            assert_eq!(s.itl, [(SimDuration(1_000_000), 2)]);
            assert_eq!((s.work.decode_requests, s.work.decode_context), (2, 7));
            assert_eq!((s.work.prefill_tokens, s.work.prefill_tokens_squared), (3, 9));
            assert_eq!(s.work.steps_by_tokens, [0, 2, 0, 1]);
        },
    );
}

#[test]
fn the_budget_goes_to_decodes_first_and_cuts_the_prompt_behind_them() {
    check(
        |_, r| r.max_num_batched_tokens = 10,
        &[ask(0.0, 5, 9), ask(1.0, 27, 1)],
        &["finished q0 s0 f1 d9 o9", "finished q1 s1 f4 d4 o1"],
        &[
            "0+1 d0 p5/1 c0 r1 w0 x0 b2",
            "1+1 d1 p9/1 c5 r2 w0 x0 b5",
            "2+1 d1 p9/1 c15 r2 w0 x0 b7",
            "3+1 d1 p9/1 c25 r2 w0 x0 b9",
            "4+1 d1 p0/0 c8 r1 w0 x0 b3",
        ],
        whatever,
    );
}

#[test]
fn chunks_end_at_the_threshold() {
    check(
        |_, r| r.long_prefill_token_threshold = 5,
        &[ask(0.0, 12, 1), ask(0.0, 3, 1)],
        &["finished q0 s0 f3 d3 o1", "finished q0 s0 f1 d1 o1"],
        &["0+1 d0 p8/2 c0 r2 w0 x0 b3", "1+1 d0 p5/1 c5 r1 w0 x0 b3", "2+1 d0 p2/1 c10 r1 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn without_chunks_a_prompt_waits_for_a_step_that_holds_it_and_holds_up_those_behind_it() {
    check(
        |s, r| {
            (r.enable_chunked_prefill, r.max_num_batched_tokens) = (false, 10);
            s.deployment.max_model_len = Some(10);
        },
        &[ask(0.0, 6, 1), ask(0.0, 6, 1), ask(0.0, 2, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p6/1 c0 r1 w2 x0 b2", "1+1 d0 p8/2 c0 r2 w0 x0 b3"],
        |s| assert_eq!((s.waiting_ns, s.waiting_max), (2_000_000, 3)),
    );
}

#[test]
fn a_request_holds_windows_and_states_as_long_as_it_runs() {
    // Half of the layers see four tokens: they and a block are two blocks of the other half. With one for its prompt and one
    // for its reply, two requests fill eight blocks.
    check(
        |s, _| {
            blocks(s, 8);
            (s.model.sliding_window, s.model.window_layers) = (4, 16);
        },
        &[ask(0.0, 4, 2), ask(0.0, 4, 2), ask(0.0, 4, 2)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d2 o2", "finished q0 s2 f3 d4 o2"],
        &[
            "0+1 d0 p8/2 c0 r2 w1 x0 b6",
            "1+1 d2 p0/0 c8 r2 w1 x0 b8",
            "2+1 d0 p4/1 c0 r1 w0 x0 b3",
            "3+1 d1 p0/0 c4 r1 w0 x0 b4",
        ],
        |s| assert_eq!(s.kv_blocks_max, 8),
    );
}

/// An encoder that takes half of what a step takes.
fn encoder(s: &mut Scenario, limit: Option<u32>) {
    s.deployment.encoder =
        Some(Encoder { max_num_encoder_input_tokens: limit, encoder_cache_size: limit, relative_cost: 0.5 });
}

#[test]
fn an_encoder_runs_before_the_prompt_it_is_for() {
    let image = |ask: Ask| Ask { encoder: Some(3), ..ask };
    check(
        |s, _| encoder(s, None),
        &[image(ask(0.0, 4, 2)), ask(0.0, 4, 2)],
        &["finished q0 s0 f1.5 d2.5 o2", "finished q0 s0 f1.5 d2.5 o2"],
        &["0+1.5 d0 p8/2 c0 r2 w0 x0 b2", "1.5+1 d2 p0/0 c8 r2 w0 x0 b4"],
        |s| assert_eq!((s.encoder_tokens, s.encoder_time), (3, SimDuration(500_000))),
    );
    // Not where the image is in the prefix cache.
    let same = |at| Ask { blocks: &[1, 2], ..image(ask(at, 8, 1)) };
    check(
        |s, _| encoder(s, None),
        &[same(0.0), same(10.0)],
        &["finished q0 s0 f1.5 d1.5 o1", "finished q10 s10 f11 d11 o1 c4"],
        &["0+1.5 d0 p8/1 c0 r1 w0 x0 b2", "10+1 d0 p4/1 c4 r1 w0 x0 b2"],
        |s| assert_eq!(s.encoder_tokens, 3),
    );
}

#[test]
fn an_encoder_has_a_budget_and_a_cache() {
    // Four tokens at once: one image of three, until the first half of its prompt is done.
    check(
        |s, r| {
            encoder(s, Some(4));
            r.long_prefill_token_threshold = 4;
        },
        &[Ask { encoder: Some(3), ..ask(0.0, 8, 2) }; 3],
        &["finished q0 s0 f3 d4.5 o2 i1.5/1.5/1.5", "finished q0 s1.5 f4.5 d5.5 o2", "finished q0 s3 f5.5 d6.5 o2"],
        &[
            "0+1.5 d0 p4/1 c0 r1 w2 x0 b1",
            "1.5+1.5 d0 p8/2 c4 r2 w1 x0 b3",
            "3+1.5 d1 p8/2 c12 r3 w0 x0 b6",
            "4.5+1 d1 p4/1 c12 r2 w0 x0 b5",
        ],
        |s| assert_eq!((s.encoder_tokens, s.encoder_time), (9, SimDuration(1_500_000))),
    );
    // None is too large for either.
    check(
        |s, _| encoder(s, Some(2)),
        &[Ask { encoder: Some(3), ..ask(0.0, 8, 1) }; 2],
        &["finished q0 s0 f1.5 d1.5 o1", "finished q0 s1.5 f3 d3 o1"],
        &[],
        |s| assert_eq!(s.encoder_tokens, 6),
    );
}

#[test]
fn a_preempted_request_keeps_its_tokens_and_computes_them_again() {
    // At 2 ms both hold four tokens, the first needs the second block; the other comes back when it is done.
    let two = |s: &mut Scenario, _: &mut VllmV1| blocks(s, 2);
    let asked = [ask(0.0, 3, 5), ask(0.0, 3, 5)];
    let steps = [
        "0+1 d0 p6/2 c0 r2 w0 x0 b2",
        "1+1 d2 p0/0 c6 r2 w0 x0 b2",
        "2+1 d1 p0/0 c4 r1 w1 x1 b2",
        "3+1 d1 p0/0 c5 r1 w1 x0 b2",
        "4+1 d1 p0/0 c6 r1 w1 x0 b2",
        "5+1 d0 p5/1 c0 r1 w0 x0 b2",
        "6+1 d1 p0/0 c5 r1 w0 x0 b2",
    ];
    let rows = ["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d8 o5 p1 l4 a4 i7/3.91/4"];
    let totals = |s: &Summary| {
        assert_eq!((s.preemptions, s.recomputed_tokens, s.kv_blocks_max), (1, 4, 2));
        assert_eq!((s.running_ns, s.waiting_ns, s.waiting_max), (10_000_000, 3_000_000, 2));
        assert_eq!(s.itl, [(SimDuration(1_000_000), 7), (SimDuration(4_000_000), 1)]);
    };
    check(two, &asked, &rows, &steps, totals);
    // Of requests of equal priority and arrival the last one goes.
    let by_priority = |s: &mut Scenario, r: &mut VllmV1| {
        blocks(s, 2);
        r.scheduling_policy = QueueOrder::Priority;
    };
    check(by_priority, &asked, &rows, &steps, totals);
}

#[test]
fn a_loss_ends_with_the_chunk_that_makes_it_good() {
    // The second request has four tokens to compute again, in chunks of three.
    check(
        |s, r| {
            blocks(s, 2);
            r.long_prefill_token_threshold = 3;
        },
        &[ask(0.0, 3, 5), ask(0.0, 3, 5)],
        &["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d9 o5 p1 l5 a4 i8/4.88/5"],
        &[],
        whatever,
    );
}

#[test]
fn a_preempted_request_goes_to_the_head_of_the_queue_or_to_its_ordered_place() {
    let order = |order| {
        move |s: &mut Scenario, r: &mut VllmV1| {
            blocks(s, 2);
            r.scheduling_policy = order;
        }
    };
    let asked = [ask(0.0, 3, 5), ask(0.0, 3, 5), ask(1.5, 2, 1)];
    check(
        order(QueueOrder::Fcfs),
        &asked,
        &["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d8 o5 p1 l4 a4 i7/3.91/4", "finished q1.5 s8 f9 d9 o1"],
        &[],
        whatever,
    );
    // The shorter prompt goes before it, and leaves it one block of the two that it needs.
    check(
        order(QueueOrder::Sjf),
        &asked,
        &["finished q0 s0 f1 d5 o5", "finished q0 s0 f1 d9 o5 p1 l5 a4 i8/4.88/5", "finished q1.5 s5 f6 d6 o1"],
        &[],
        whatever,
    );
}

#[test]
fn the_queue_is_in_its_order() {
    let asked = [
        ask(0.0, 3, 1),
        Ask { priority: Some(5), deadline: Some(2.0), ..ask(0.5, 9, 1) },
        ask(0.5, 3, 1),
        Ask { priority: Some(1), deadline: Some(5.0), ..ask(0.5, 6, 1) },
    ];
    // (order, when the three that wait are scheduled)
    let cases = [
        (QueueOrder::Fcfs, [1, 2, 3]),
        (QueueOrder::Priority, [3, 1, 2]),
        (QueueOrder::Sjf, [3, 1, 2]),
        (QueueOrder::Edf, [1, 3, 2]),
    ];
    for (order, scheduled) in cases {
        let row = |s: i32| format!("finished q0.5 s{s} f{} d{} o1", s + 1, s + 1);
        let [a, b, c] = scheduled.map(row);
        check(
            |_, r| (r.max_num_seqs, r.scheduling_policy) = (1, order),
            &asked,
            &["finished q0 s0 f1 d1 o1", &a, &b, &c],
            &[],
            whatever,
        );
    }
}

#[test]
fn the_highest_priority_value_is_preempted_and_gives_back_its_share() {
    // At 2 ms the first request takes the third block, the second needs it.
    check(
        |s, r| {
            blocks(s, 3);
            r.scheduling_policy = QueueOrder::Priority;
        },
        &[Ask { priority: Some(5), ..ask(0.0, 3, 3) }, ask(0.5, 4, 3)],
        &["finished q0 s0 f1 d5 o3 p1 l3 a4 i4/2.98/3", "finished q0.5 s1 f2 d4 o3"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d1 p4/1 c3 r2 w0 x0 b2",
            "2+1 d1 p0/0 c4 r1 w1 x1 b2",
            "3+1 d1 p0/0 c5 r1 w1 x0 b2",
            "4+1 d0 p5/1 c0 r1 w0 x0 b2",
        ],
        whatever,
    );
}

#[test]
fn a_share_given_back_goes_to_those_behind() {
    // At 4 ms the first request has four of six tokens and the last free block when the second needs one. The third
    // gets four tokens instead of one. The first loses the sixteen tokens that it had, not those of that step.
    check(
        |s, r| {
            blocks(s, 7);
            r.scheduling_policy = QueueOrder::Priority;
            (r.max_num_batched_tokens, r.long_prefill_token_threshold) = (6, 4);
        },
        &[
            Ask { priority: Some(5), ..ask(0.0, 20, 1) },
            Ask { priority: Some(-1), ..ask(0.5, 2, 6) },
            Ask { priority: Some(1), ..ask(1.5, 9, 1) },
        ],
        &["finished q0 s0 f11 d11 o1 p1 l6/6 a16", "finished q0.5 s1 f2 d7 o6", "finished q1.5 s2 f6 d6 o1"],
        &[
            "0+1 d0 p4/1 c0 r1 w0 x0 b1",
            "1+1 d0 p6/2 c4 r2 w0 x0 b3",
            "2+1 d1 p5/2 c10 r3 w0 x0 b5",
            "3+1 d1 p5/2 c16 r3 w0 x0 b6",
            "4+1 d1 p4/1 c6 r2 w1 x1 b4",
            "5+1 d1 p5/2 c11 r3 w0 x0 b6",
        ],
        whatever,
    );
}

#[test]
fn contents_of_a_share_given_back_are_forgotten() {
    // At 2 ms the first request would fill its fifth and sixth block. The second request takes one of them; when the
    // first comes back, the other does not hold what it would have held.
    check(
        |s, r| {
            blocks(s, 8);
            r.scheduling_policy = QueueOrder::Priority;
            (r.max_num_batched_tokens, r.long_prefill_token_threshold) = (16, 8);
        },
        &[Ask { priority: Some(5), blocks: &[1, 2, 3, 4, 5, 6], ..ask(0.0, 24, 1) }, ask(0.5, 8, 2)],
        &["finished q0 s0 f4 d4 o1 p1 l2/2", "finished q0.5 s1 f2 d3 o2"],
        &[
            "0+1 d0 p8/1 c0 r1 w0 x0 b2",
            "1+1 d0 p16/2 c8 r2 w0 x0 b6",
            "2+1 d1 p0/0 c8 r1 w1 x1 b3",
            "3+1 d0 p8/1 c16 r1 w0 x0 b6",
        ],
        whatever,
    );
}

#[test]
fn nobody_behind_a_request_that_preempts_itself_gets_anything() {
    // At 4 ms the first request needs a block, and nobody has a higher value: the decode behind it stalls, and the
    // step has no tokens.
    let edit = |s: &mut Scenario, r: &mut VllmV1| {
        blocks(s, 6);
        r.scheduling_policy = QueueOrder::Priority;
        (r.max_num_batched_tokens, r.long_prefill_token_threshold) = (6, 4);
    };
    let asked = [Ask { priority: Some(5), ..ask(0.0, 20, 1) }, ask(0.5, 6, 4)];
    check(
        |s, r| {
            edit(s, r);
            s.deployment.tick = "1ms".parse().ok();
        },
        &asked,
        &["finished q0 s0 f10 d10 o1 p1 l5/5 a16", "finished q0.5 s1 f4 d8 o4 i4/1.98/2"],
        &[
            "0+1 d0 p4/1 c0 r1 w0 x0 b1",
            "1+1 d0 p6/2 c4 r2 w0 x0 b3",
            "2+1 d0 p6/2 c10 r2 w0 x0 b4",
            "3+1 d0 p6/2 c16 r2 w0 x0 b6",
            "4+1 d0 p0/0 c0 r1 w1 x1 b2",
            "5+1 d1 p4/1 c6 r2 w0 x0 b3",
        ],
        |s| assert_eq!(s.work.steps_by_tokens, [1, 0, 0, 0, 3, 3, 3]),
    );
    // Without a tick such a step lasts a nanosecond, whatever the host needs for others.
    check(
        edit,
        &asked,
        &[
            "finished q0 s0 f9.000001 d9.000001 o1 p1 l4.000001/4.000001 a16",
            "finished q0.5 s1 f4 d7.000001 o4 i3.000001/1.000001/1.000001",
        ],
        &[],
        |s| assert_eq!((s.steps, s.busy.0), (10, 9_000_001)),
    );
}

#[test]
fn equal_prefixes_share_blocks_but_the_last_token_is_computed() {
    let asked = [
        Ask { blocks: &[1, 2], ..ask(0.0, 8, 1) },
        Ask { blocks: &[1, 2], ..ask(5.0, 8, 2) },
        Ask { blocks: &[1, 2], ..ask(9.0, 9, 1) },
        Ask { blocks: &[1, 7], ..ask(12.0, 8, 1) },
    ];
    check(
        |_, _| (),
        &asked,
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q5 s5 f6 d7 o2 c4",
            "finished q9 s9 f10 d10 o1 c8",
            "finished q12 s12 f13 d13 o1 c4",
        ],
        &[
            "0+1 d0 p8/1 c0 r1 w0 x0 b2",
            "5+1 d0 p4/1 c4 r1 w0 x0 b2",
            "6+1 d1 p0/0 c8 r1 w0 x0 b3",
            "9+1 d0 p1/1 c8 r1 w0 x0 b3",
            "12+1 d0 p4/1 c4 r1 w0 x0 b2",
        ],
        |s| {
            assert_eq!((s.prefix_tokens_queried, s.prefix_tokens_hit), (33, 16));
            assert_eq!((s.prefix_blocks_queried, s.prefix_blocks_hit), (8, 4));
            assert_eq!(s.recomputed_tokens, 0);
        },
    );
    check(
        |s, _| s.deployment.kv.enable_prefix_caching = false,
        &asked[..2],
        &["finished q0 s0 f1 d1 o1", "finished q5 s5 f6 d7 o2"],
        &[],
        |s| assert_eq!((s.prefix_tokens_queried, s.prefix_blocks_queried), (0, 0)),
    );
    // Found whole and not computed again: a step without tokens, and none of the blocks found.
    check(
        |s, r| {
            r.recompute_full_hits = false;
            s.deployment.tick = "1us".parse().ok();
        },
        &asked[..2],
        &["finished q0 s0 f1 d1 o1", "finished q5 s5 f5.001 d6.001 o2 c8"],
        &["0+1 d0 p8/1 c0 r1 w0 x0 b2", "5+0.001 d0 p0/0 c0 r1 w0 x0 b0", "5.001+1 d1 p0/0 c8 r1 w0 x0 b1"],
        |s| assert_eq!((s.prefix_tokens_hit, s.prefix_blocks_hit), (8, 2)),
    );
}

#[test]
fn the_longest_unused_block_is_reused_first_and_ends_of_chains_before_their_starts() {
    // Four blocks. The third request takes the end of the first chain, the fourth finds its start and takes the second
    // chain, the fifth leaves of the first chain its start.
    check(
        |s, _| blocks(s, 4),
        &[
            Ask { blocks: &[1, 2], ..ask(0.0, 8, 1) },
            Ask { blocks: &[3, 4], ..ask(2.0, 8, 1) },
            Ask { blocks: &[5], ..ask(4.0, 4, 1) },
            Ask { blocks: &[1, 2], ..ask(6.0, 9, 1) },
            Ask { blocks: &[3, 4], ..ask(8.0, 9, 1) },
            Ask { blocks: &[1, 2], ..ask(10.0, 9, 1) },
        ],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q2 s2 f3 d3 o1",
            "finished q4 s4 f5 d5 o1",
            "finished q6 s6 f7 d7 o1 c4",
            "finished q8 s8 f9 d9 o1",
            "finished q10 s10 f11 d11 o1 c4",
        ],
        &[],
        whatever,
    );
}
