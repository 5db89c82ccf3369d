//! Timelines of [`Sarathi`], rule by rule.

use super::*;
use crate::sim::scheduler::Sarathi;

/// Without a watermark.
fn rules(chunk_size: u32) -> Sarathi {
    Sarathi { chunk_size, watermark_blocks_fraction: 0.0, ..Sarathi::default() }
}

#[track_caller]
fn check_sarathi(rules: Sarathi, cache: u64, asked: &[Ask], rows: &[&str], steps: &[&str]) {
    check_scheduler(&Scheduler::Sarathi(rules), |s| blocks(s, cache), asked, rows, steps, whatever);
}

#[test]
fn decodes_go_first_and_chunks_fill_the_step() {
    // The blocks of the second prompt, seven, are taken when it is admitted.
    check_sarathi(
        rules(10),
        1_000,
        &[ask(0.0, 5, 9), ask(1.0, 27, 1)],
        &["finished q0 s0 f1 d9 o9", "finished q1 s1 f4 d4 o1"],
        &[
            "0+1 d0 p5/1 c0 r1 w0 x0 b2",
            "1+1 d1 p9/1 c5 r2 w0 x0 b9",
            "2+1 d1 p9/1 c15 r2 w0 x0 b9",
            "3+1 d1 p9/1 c25 r2 w0 x0 b9",
            "4+1 d1 p0/0 c8 r1 w0 x0 b3",
        ],
    );
}

#[test]
fn many_decodes_leave_nothing_for_the_queue() {
    check_sarathi(
        rules(2),
        1_000,
        &[ask(0.0, 1, 4), ask(0.0, 1, 4), ask(0.5, 1, 1)],
        &["finished q0 s0 f1 d4 o4", "finished q0 s0 f1 d4 o4", "finished q0.5 s4 f5 d5 o1"],
        &["0+1 d0 p2/2 c0 r2 w0 x0 b2", "1+1 d2 p0/0 c2 r2 w1 x0 b2"],
    );
}

#[test]
fn no_more_run_than_there_are_seats() {
    check_sarathi(
        Sarathi { batch_size_cap: 2, ..rules(512) },
        1_000,
        &[ask(0.0, 4, 2), ask(0.0, 4, 1), ask(0.0, 4, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p8/2 c0 r2 w1 x0 b2", "1+1 d1 p4/1 c4 r2 w0 x0 b3"],
    );
}

#[test]
fn a_request_goes_on_only_if_a_block_is_free() {
    let asked = [ask(0.0, 5, 3)];
    check_sarathi(rules(512), 3, &asked, &["finished q0 s0 f1 d3 o3"], &[]);
    // Five, six and seven tokens have room in two blocks; but no third one is free. It goes, and is back at once.
    check_sarathi(
        rules(512),
        2,
        &asked,
        &["finished q0 s0 f1 d3 o3 p2 l2 a11"],
        &["0+1 d0 p5/1 c0 r1 w0 x0 b2", "1+1 d0 p6/1 c0 r1 w0 x1 b2", "2+1 d0 p7/1 c0 r1 w0 x1 b2"],
    );
}

#[test]
fn the_last_goes_and_may_be_back_in_the_same_step() {
    // From 3 ms on no block is free when the first request wants its token: the second gives up its two, and takes them
    // again as a prompt. At 6 ms the first takes one of them, and three are too many until it is done.
    check_sarathi(
        rules(512),
        4,
        &[ask(0.0, 3, 9), ask(0.0, 3, 9)],
        &["finished q0 s0 f1 d9 o9", "finished q0 s0 f1 d12 o9 p4 l7 a26 i11/3.79/4"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d2 p0/0 c6 r2 w0 x0 b2",
            "2+1 d2 p0/0 c8 r2 w0 x0 b4",
            "3+1 d1 p6/1 c5 r2 w0 x1 b4",
            "4+1 d1 p7/1 c6 r2 w0 x1 b4",
            "5+1 d1 p8/1 c7 r2 w0 x1 b4",
            "6+1 d1 p0/0 c8 r1 w1 x1 b3",
            "7+1 d1 p0/0 c9 r1 w1 x0 b3",
            "8+1 d1 p0/0 c10 r1 w1 x0 b3",
            "9+1 d0 p9/1 c0 r1 w0 x0 b3",
        ],
    );
}

#[test]
fn a_prompt_that_is_not_done_is_the_first_to_go() {
    check_sarathi(
        rules(4),
        5,
        &[ask(0.0, 3, 5), ask(0.5, 9, 1)],
        &["finished q0 s0 f1 d5 o5", "finished q0.5 s1 f7 d7 o1 p2 l3/3 a9"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d1 p3/1 c3 r2 w0 x0 b4",
            "2+1 d1 p3/1 c7 r2 w0 x0 b5",
            "3+1 d1 p3/1 c5 r2 w0 x1 b5",
            "4+1 d1 p3/1 c6 r2 w0 x1 b5",
            "5+1 d0 p4/1 c3 r1 w0 x0 b3",
            "6+1 d0 p2/1 c7 r1 w0 x0 b3",
        ],
    );
}

#[test]
fn a_prompt_takes_all_its_blocks_at_once_and_leaves_the_watermark() {
    let asked = [ask(0.0, 16, 3), ask(0.0, 16, 1), ask(0.0, 4, 1)];
    let fifth = Sarathi { watermark_blocks_fraction: 0.2, ..rules(20) };
    // At 1 ms one block of ten is free; the third request wants one, and two to stay.
    check_sarathi(
        fifth,
        10,
        &asked,
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f2 d2 o1", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p20/2 c0 r2 w1 x0 b8", "1+1 d1 p12/1 c20 r2 w1 x0 b9", "2+1 d1 p4/1 c17 r2 w0 x0 b6"],
    );
    check_sarathi(
        rules(20),
        10,
        &asked,
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f2 d2 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p20/2 c0 r2 w1 x0 b8", "1+1 d1 p16/2 c20 r3 w0 x0 b10"],
    );
}

#[test]
fn what_can_never_be_admitted_is_rejected() {
    // Eight blocks of ten hold 32 tokens; a reply ends with the token that comes of them.
    check_sarathi(
        Sarathi { watermark_blocks_fraction: 0.2, ..rules(512) },
        10,
        &[ask(0.0, 32, 1), ask(2.0, 33, 1), ask(4.0, 30, 9)],
        &["finished q0 s0 f1 d1 o1", "rejected q- s- f- d- o0", "length_capped q4 s4 f5 d7 o3"],
        &[],
    );
}
