//! Timelines of FasterTransformer: static batches, and what padding costs.

use super::orca::{check_of, sizes};
use super::*;
use crate::sim::latency::Regression;
use crate::sim::scheduler::{FasterTransformer, Reserve};

fn rules(edit: impl Fn(&mut FasterTransformer)) -> Scheduler {
    let mut rules = FasterTransformer::default();
    edit(&mut rules);
    Scheduler::FasterTransformer(rules)
}

#[test]
fn a_batch_runs_until_its_longest_request_is_done() {
    check_of(
        rules(|_| ()),
        sizes(1_000, 40),
        &[ask(0.0, 3, 2), ask(0.0, 5, 4), ask(0.5, 3, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d4 o4", "finished q0.5 s4 f5 d5 o1"],
        &[
            "0+1 d0 p8/2 c0 r2 w0 x0 b20",
            "1+1 d2 p0/0 c8 r2 w1 x0 b20",
            "2+1 d1 p0/0 c6 r1 w1 x0 b10",
            "3+1 d1 p0/0 c7 r1 w1 x0 b10",
            "4+1 d0 p3/1 c0 r1 w0 x0 b10",
        ],
        |s| {
            assert_eq!((s.steps, s.waiting_ns, s.kv_block_ns), (5, 3_500_000, 70_000_000));
            // What is done is not counted as work.
            assert_eq!((s.work.decode_requests, s.work.decode_context, s.work.prefill_tokens), (4, 21, 11));
        },
    );
}

#[test]
fn a_batch_has_so_many_places() {
    check_of(
        rules(|r| r.batch_size_cap = 2),
        sizes(1_000, 40),
        &[ask(0.0, 3, 1), ask(0.0, 3, 3), ask(0.0, 3, 1), ask(2.0, 3, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d3 o3", "finished q0 s3 f4 d4 o1", "finished q2 s3 f4 d4 o1"],
        &[
            "0+1 d0 p6/2 c0 r2 w1 x0 b20",
            "1+1 d1 p0/0 c3 r1 w1 x0 b10",
            "2+1 d1 p0/0 c4 r1 w2 x0 b10",
            "3+1 d0 p6/2 c0 r2 w0 x0 b20",
        ],
        whatever,
    );
}

#[test]
fn memory_is_reserved_for_the_longest() {
    // Five blocks: the longest request takes two, these take one.
    let asked = [1, 1, 1].map(|output| Ask { max_tokens: Some(1), ..ask(0.0, 3, output) });
    check_of(
        rules(|_| ()),
        sizes(5, 8),
        &asked,
        &["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b4", "1+1 d0 p3/1 c0 r1 w0 x0 b2"],
        whatever,
    );
    check_of(
        rules(|r| r.reserve = Reserve::RequestCap),
        sizes(5, 8),
        &asked,
        &["finished q0 s0 f1 d1 o1"; 3],
        &["0+1 d0 p9/3 c0 r3 w0 x0 b3"],
        whatever,
    );
}

/// A millisecond for each step, each prompt token, and each request that decodes.
fn by_size(s: &mut Scenario) {
    sizes(1_000, 40)(s);
    (linear(s).per_prefill_token_us, linear(s).per_decode_token_us) = (1_000.0, 1_000.0);
}

#[test]
fn ended_requests_and_padding_are_computed() {
    let asked = [ask(0.0, 3, 2), ask(0.0, 5, 4)];
    // 1 + 8 tokens, then 1 + 2 requests in each of three steps, also when one of them is done.
    check_of(
        rules(|_| ()),
        by_size,
        &asked,
        &["finished q0 s0 f9 d12 o2 i3/3/3", "finished q0 s0 f9 d18 o4 i9/3/3"],
        &[
            "0+9 d0 p8/2 c0 r2 w0 x0 b20",
            "9+3 d2 p0/0 c8 r2 w0 x0 b20",
            "12+3 d1 p0/0 c6 r1 w0 x0 b10",
            "15+3 d1 p0/0 c7 r1 w0 x0 b10",
        ],
        |s| assert_eq!(s.busy.0, 18_000_000),
    );
    // 1 + 2 prompts of 5 tokens.
    check_of(
        rules(|r| r.remove_padding = false),
        by_size,
        &asked,
        &["finished q0 s0 f11 d14 o2 i3/3/3", "finished q0 s0 f11 d20 o4 i9/3/3"],
        &["0+11 d0 p8/2 c0 r2 w0 x0 b20"],
        whatever,
    );
    for remove_padding in [true, false] {
        check_of(
            rules(|r| (r.padded, r.remove_padding) = (false, remove_padding)),
            by_size,
            &asked,
            &["finished q0 s0 f9 d12 o2 i3/3/3", "finished q0 s0 f9 d16 o4 i7/2.98/3"],
            &["0+9 d0 p8/2 c0 r2 w0 x0 b20", "9+3 d2 p0/0 c8 r2 w0 x0 b20", "12+2 d1 p0/0 c6 r1 w0 x0 b10"],
            whatever,
        );
    }
}

/// A millisecond for each step, and each token that requests attend to while they decode.
fn by_context(s: &mut Scenario) {
    sizes(1_000, 40)(s);
    let costs = Regression { intercept_us: 1_000.0, decode_context_us: 1_000.0, ..Regression::default() };
    s.deployment.latency = Latency::Regression(costs);
}

#[test]
fn padding_is_attended_to() {
    let asked = [ask(0.0, 3, 2), ask(0.0, 5, 4)];
    // Contexts of 5 and 5; the first is done and has none any more: 6; 7.
    check_of(
        rules(|_| ()),
        by_context,
        &asked,
        &["finished q0 s0 f1 d12 o2 i11/11/11", "finished q0 s0 f1 d27 o4 i26/10.94/11"],
        &["0+1 d0 p8/2 c0 r2 w0 x0 b20", "1+11 d2 p0/0 c8 r2 w0 x0 b20", "12+7 d1 p0/0 c6 r1 w0 x0 b10"],
        whatever,
    );
    // The longer prompt ends first: 5 and 5; then 6 instead of 4, and 7.
    check_of(
        rules(|_| ()),
        by_context,
        &[ask(0.0, 3, 4), ask(0.0, 5, 2)],
        &["finished q0 s0 f1 d27 o4 i26/10.94/11", "finished q0 s0 f1 d12 o2 i11/11/11"],
        &["0+1 d0 p8/2 c0 r2 w0 x0 b20", "1+11 d2 p0/0 c8 r2 w0 x0 b20", "12+7 d1 p0/0 c4 r1 w0 x0 b10"],
        whatever,
    );
    check_of(
        rules(|r| r.padded = false),
        by_context,
        &asked,
        &["finished q0 s0 f1 d10 o2 i9/9/9", "finished q0 s0 f1 d25 o4 i24/8.98/9"],
        &["0+1 d0 p8/2 c0 r2 w0 x0 b20", "1+9 d2 p0/0 c8 r2 w0 x0 b20", "10+7 d1 p0/0 c6 r1 w0 x0 b10"],
        whatever,
    );
}
