//! Timelines of SGLang's scheduler, one for every rule of its table. Pages have four tokens.

use std::collections::BTreeMap;

use super::pools::split;
use super::{
    Ask, ENGINES, Quirks, Rows, Summary, cluster_text, linear, ms, request_text, requests, scenario as with_vllm,
    step_text, whatever,
};
use crate::pools::{Contention, FirstToken};
use crate::scenario::{KvCache, Scenario};
use crate::sim::encoder::Encoder;
use crate::sim::lora::Lora;
use crate::sim::scheduler::{AttentionBackend, KernelCost, SchedulePolicy, Scheduler, Sglang};
use crate::sim::tiers::{Tier, WritePolicy};
use std::sync::atomic::AtomicBool;

/// A request that may generate `most` tokens.
pub(super) fn ask(at: f64, input: u32, output: u32, most: u32) -> Ask {
    Ask { max_tokens: Some(most), ..super::ask(at, input, output) }
}

/// One with contents, that generates one token.
pub(super) fn of(at: f64, input: u32, blocks: &'static [u64]) -> Ask {
    Ask { blocks, ..ask(at, input, 1, 1) }
}

pub(super) fn rows_of(
    edit: impl Fn(&mut Scenario, &mut Sglang),
    asked: &[Ask],
    mut test: impl FnMut(&str, &Rows, &Summary),
) {
    let mut s = with_vllm(|_, _| ());
    let mut rules = Sglang::default();
    edit(&mut s, &mut rules);
    s.deployment.scheduler = Scheduler::Sglang(rules);
    for (name, engine) in ENGINES {
        let mut got = Rows::default();
        let summary = engine(&s, &requests(asked), &mut got, &AtomicBool::new(false), Quirks::default());
        let summary = summary.unwrap_or_else(|e| panic!("{name}: {e}"));
        got.requests.sort_by_key(|row| row.request);
        test(name, &got, &summary);
    }
}

#[track_caller]
pub(super) fn check(
    edit: impl Fn(&mut Scenario, &mut Sglang),
    asked: &[Ask],
    rows: &[&str],
    steps: &[&str],
    totals: impl Fn(&Summary),
) {
    rows_of(edit, asked, |name, got, summary| {
        let texts: Vec<String> = got.requests.iter().map(request_text).collect();
        assert_eq!(texts, rows, "requests of the {name}");
        let texts: Vec<String> = got.steps.iter().take(steps.len()).map(step_text).collect();
        assert_eq!(texts, steps, "steps of the {name}");
        totals(summary);
    });
}

pub(super) fn blocks(s: &mut Scenario, blocks: u64) {
    s.deployment.kv.num_gpu_blocks = Some(blocks);
}

#[test]
fn prompts_pause_replies() {
    check(
        |_, _| (),
        &[ask(0.0, 3, 4, 4), ask(1.0, 5, 3, 3)],
        &["finished q0 s0 f1 d5 o4 i4/1.98/2", "finished q1 s1 f2 d4 o3"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d0 p5/1 c0 r2 w0 x0 b3",
            "2+1 d2 p0/0 c8 r2 w0 x0 b3",
            "3+1 d2 p0/0 c10 r2 w0 x0 b4",
            "4+1 d1 p0/0 c5 r1 w0 x0 b2",
        ],
        |s| assert_eq!((s.steps, s.busy.0), (5, 5_000_000)),
    );
}

#[test]
fn a_cut_prompt_goes_first() {
    check(
        |_, r| r.chunked_prefill_size = Some(8),
        &[ask(0.0, 20, 1, 1), ask(0.0, 3, 1, 1)],
        &["finished q0 s0 f3 d3 o1", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p8/1 c0 r1 w1 x0 b2", "1+1 d0 p8/1 c8 r1 w1 x0 b4", "2+1 d0 p7/2 c16 r2 w0 x0 b6"],
        whatever,
    );
    // Without chunks the whole prompt is one step, and another one still fits beside it.
    check(
        |_, r| r.chunked_prefill_size = Some(-1),
        &[ask(0.0, 20, 1, 1), ask(0.0, 3, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d1 o1"],
        &["0+1 d0 p23/2 c0 r2 w0 x0 b6"],
        whatever,
    );
}

#[test]
fn the_first_that_does_not_fit_ends_it() {
    // 48 tokens. The first takes 12 and may get 30: the second does not fit, and the third is not looked at. At 1 ms the
    // first may get 29, of which 70 % count.
    check(
        |s, _| blocks(s, 12),
        &[ask(0.0, 10, 2, 30), ask(0.0, 10, 1, 1), ask(0.0, 1, 1, 1)],
        &["finished q0 s0 f1 d3 o2 i2/2/2", "finished q0 s1 f2 d2 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p10/1 c0 r1 w2 x0 b3", "1+1 d0 p11/2 c0 r3 w0 x0 b7", "2+1 d1 p0/0 c10 r1 w0 x0 b3"],
        whatever,
    );
}

#[test]
fn room_is_kept_for_replies() {
    // Of 48 tokens 36 are free at 1 ms, and the first may get 35. The second wants 13.
    let asked = [ask(0.0, 10, 5, 36), ask(1.0, 12, 1, 1)];
    let waits = ["finished q0 s0 f1 d5 o5", "finished q1 s5 f6 d6 o1"];
    let goes = ["finished q0 s0 f1 d6 o5 i5/1.97/2", "finished q1 s1 f2 d2 o1"];
    // 36 - 0.7 * 35 = 11.5.
    check(|s, _| blocks(s, 12), &asked, &waits, &[], whatever);
    // 36 - 0.35 * 35 = 23.75.
    let half = |s: &mut Scenario, r: &mut Sglang| {
        blocks(s, 12);
        r.schedule_conservativeness = 0.5;
    };
    check(half, &asked, &goes, &[], whatever);
    // 36 - 0.7 * 5.
    let clipped = |s: &mut Scenario, r: &mut Sglang| {
        blocks(s, 12);
        r.clip_max_new_tokens_estimation = 5;
    };
    check(clipped, &asked, &goes, &[], whatever);
}

#[test]
fn prefill_tokens_are_limited() {
    // Two pages leave two of the ten tokens: no page. One prompt may exceed it.
    check(
        |_, r| r.max_prefill_tokens = 10,
        &[ask(0.0, 7, 1, 1), ask(0.0, 6, 1, 1), ask(0.0, 1, 1, 1), ask(0.0, 30, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1", "finished q0 s2 f3 d3 o1", "finished q0 s3 f4 d4 o1"],
        &[],
        whatever,
    );
    check(
        |_, r| r.prefill_max_requests = Some(2),
        &[ask(0.0, 3, 1, 1), ask(0.0, 3, 1, 1), ask(0.0, 3, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &[],
        whatever,
    );
}

#[test]
fn prompts_are_cut_to_pages() {
    // Five tokens are two pages of the chunk.
    let asked = [ask(0.0, 5, 1, 1), ask(0.0, 3, 1, 1)];
    let apart = ["0+1 d0 p5/1 c0 r1 w1 x0 b2", "1+1 d0 p3/1 c0 r1 w0 x0 b1"];
    let rows = ["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"];
    check(|_, r| r.chunked_prefill_size = Some(8), &asked, &rows, &apart, whatever);
    let rows = ["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d1 o1"];
    check(|_, r| r.chunked_prefill_size = Some(12), &asked, &rows, &["0+1 d0 p8/2 c0 r2 w0 x0 b3"], whatever);
}

#[test]
fn who_ends_is_noticed_a_step_later() {
    // Two seats. The first ends at 2 ms, but the step from there on is one of replies; then the third gets its seat.
    check(
        |_, r| r.max_running_requests = Some(2),
        &[ask(0.0, 3, 2, 2), ask(0.0, 3, 6, 6), ask(0.0, 3, 1, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d7 o6 i6/1.96/2", "finished q0 s3 f4 d4 o1"],
        &[
            "0+1 d0 p6/2 c0 r2 w1 x0 b2",
            "1+1 d2 p0/0 c6 r2 w1 x0 b2",
            "2+1 d1 p0/0 c4 r1 w1 x0 b2",
            "3+1 d0 p3/1 c0 r2 w0 x0 b3",
        ],
        whatever,
    );
    // Who ends with its first token is noticed at once; and where nobody is left, nobody is waited for.
    check(
        |_, r| r.max_running_requests = Some(1),
        &[ask(0.0, 3, 1, 1), ask(0.0, 3, 2, 2), ask(0.0, 3, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d3 o2", "finished q0 s3 f4 d4 o1"],
        &[],
        whatever,
    );
}

#[test]
fn who_ended_still_counts() {
    // At 2 ms 44 of 48 tokens are free; the first has ended, but might have got 18, the second may get 6: of these 24, 70 %
    // leave 27 tokens. The third wants 29, and has to wait for the step of replies.
    check(
        |s, _| blocks(s, 12),
        &[ask(0.0, 3, 2, 20), ask(0.0, 3, 8, 8), ask(2.0, 28, 1, 1)],
        &["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d9 o8 i8/1.94/2", "finished q2 s3 f4 d4 o1"],
        &[],
        whatever,
    );
}

#[test]
fn the_ratio_decays() {
    // From 0.7 to 0.098 within two steps of replies.
    let two = |s: &mut Scenario, r: &mut Sglang| {
        blocks(s, 12);
        r.new_token_ratio_decay_steps = 2;
    };
    // 44 free, of which 0.7 * 39 are kept: 16.7. The other one wants 21, and waits until the first is done.
    let rows = ["finished q0 s0 f1 d10 o10", "finished q1 s10 f11 d11 o1"];
    check(two, &[ask(0.0, 4, 10, 40), ask(1.0, 20, 1, 1)], &rows, &[], whatever);
    // After two steps 40 are free, of which 0.098 * 37 are kept.
    let rows = ["finished q0 s0 f1 d11 o10 i10/1.92/2", "finished q3 s3 f4 d4 o1"];
    check(two, &[ask(0.0, 4, 10, 40), ask(3.0, 20, 1, 1)], &rows, &[], whatever);
    // Idling brings it back.
    let asked = [ask(0.0, 4, 3, 3), ask(5.0, 4, 10, 40), ask(6.0, 20, 1, 1)];
    let rows = ["finished q0 s0 f1 d3 o3", "finished q5 s5 f6 d15 o10", "finished q6 s15 f16 d16 o1"];
    check(two, &asked, &rows, &[], whatever);
}

/// Nothing is kept for replies: 24 tokens.
pub(super) fn reckless(s: &mut Scenario, r: &mut Sglang) {
    blocks(s, 6);
    r.schedule_conservativeness = 0.0;
}

#[test]
fn the_shortest_reply_is_retracted() {
    // At 8 ms both have seven tokens out, and a seventh page is needed: the one with the longer prompt goes.
    check(
        reckless,
        &[ask(0.0, 6, 9, 9), ask(0.0, 3, 9, 9)],
        &["finished q0 s0 f1 d12 o9 p1 l3 a12 i11/2.93/3", "finished q0 s1 f2 d10 o9"],
        &[
            "0+1 d0 p6/1 c0 r1 w1 x0 b2",
            "1+1 d0 p3/1 c0 r2 w0 x0 b3",
            "2+1 d2 p0/0 c9 r2 w0 x0 b3",
            "3+1 d2 p0/0 c11 r2 w0 x0 b4",
            "4+1 d2 p0/0 c13 r2 w0 x0 b5",
            "5+1 d2 p0/0 c15 r2 w0 x0 b5",
            "6+1 d2 p0/0 c17 r2 w0 x0 b5",
            "7+1 d2 p0/0 c19 r2 w0 x0 b6",
            "8+1 d1 p0/0 c9 r1 w1 x1 b3",
            "9+1 d1 p0/0 c10 r1 w1 x0 b3",
            "10+1 d0 p13/1 c0 r1 w0 x0 b4",
        ],
        |s| assert_eq!((s.preemptions, s.recomputed_tokens), (1, 12)),
    );
    // Later by three milliseconds, it is the other one: it has six tokens out, the first has eight.
    check(
        reckless,
        &[ask(0.0, 6, 9, 9), ask(3.0, 3, 9, 9)],
        &["finished q0 s0 f1 d10 o9 i9/1.93/2", "finished q3 s3 f4 d13 o9 p1 l2 a8 i9/1.93/2"],
        &[],
        whatever,
    );
}

#[test]
fn the_ratio_is_estimated_anew() {
    // As above, but the second may get 19, of which 9 count. A third waits since 7.5 ms, before the one that is retracted at 8:
    // it wants 5 of the 12 tokens that are free at 9 ms.
    let asked = [ask(0.0, 6, 9, 9), ask(0.0, 3, 9, 19), ask(7.5, 4, 1, 1)];
    let steps = |steps: u32| {
        move |s: &mut Scenario, r: &mut Sglang| {
            reckless(s, r);
            (r.retract_decode_steps, r.clip_max_new_tokens_estimation) = (steps, 9);
        }
    };
    // (7 + 20) / (19 + 1), at most 1: 9 are kept.
    let rows =
        ["finished q0 s0 f1 d12 o9 p1 l3 a12 i11/2.93/3", "finished q0 s1 f2 d10 o9", "finished q7.5 s10 f11 d11 o1"];
    check(steps(20), &asked, &rows, &[], whatever);
    // (7 + 0) / 20: 3.15 are kept.
    let rows = [
        "finished q0 s0 f1 d13 o9 p1 l4 a12 i12/3.86/4",
        "finished q0 s1 f2 d11 o9 i9/1.93/2",
        "finished q7.5 s9 f10 d10 o1",
    ];
    check(steps(0), &asked, &rows, &[], whatever);
}

/// One request at a time, in this order.
fn one_by_one(policy: SchedulePolicy) -> impl Fn(&mut Scenario, &mut Sglang) {
    move |_, r| (r.schedule_policy, r.max_running_requests) = (policy, Some(1))
}

#[test]
fn longest_prefix_first() {
    let asked = [of(0.0, 8, &[1, 2]), of(5.0, 8, &[9, 8]), of(5.0, 12, &[1, 2, 3])];
    let rows = ["finished q0 s0 f1 d1 o1", "finished q5 s6 f7 d7 o1", "finished q5 s5 f6 d6 o1 c8"];
    check(one_by_one(SchedulePolicy::Lpm), &asked, &rows, &[], whatever);
    let rows = ["finished q0 s0 f1 d1 o1", "finished q5 s5 f6 d6 o1", "finished q5 s6 f7 d7 o1 c8"];
    check(one_by_one(SchedulePolicy::Fcfs), &asked, &rows, &[], whatever);
    // Beyond 128 requests they stay as they stand, until the first of them is gone.
    for (others, at) in [(127, "5"), (128, "6")] {
        let mut asked = vec![of(0.0, 8, &[1, 2])];
        asked.extend((0..others).map(|_| of(5.0, 1, &[])));
        asked.push(of(5.0, 12, &[1, 2, 3]));
        rows_of(one_by_one(SchedulePolicy::Lpm), &asked, |name, got, _| {
            let last = got.requests.last().and_then(|row| row.scheduled);
            assert_eq!(last.map(|at| ms(at.0)).as_deref(), Some(at), "{name} {others}");
        });
    }
}

#[test]
fn one_of_those_that_share_goes_first() {
    const A: &[u64] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];
    const B: &[u64] = &[21, 22, 23, 24, 25, 26, 27, 28, 29];
    let asked = [of(0.0, 36, A), of(0.0, 36, A), of(0.0, 36, B)];
    let two = |check: i64| {
        move |_: &mut Scenario, r: &mut Sglang| {
            (r.schedule_policy, r.max_running_requests) = (SchedulePolicy::Lpm, Some(2));
            r.in_batch_prefix_caching_check_threshold = check;
        }
    };
    let rows = ["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1 c32", "finished q0 s0 f1 d1 o1"];
    check(two(32), &asked, &rows, &[], whatever);
    let rows = ["finished q0 s0 f1 d1 o1", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"];
    check(two(-1), &asked, &rows, &[], whatever);
}

#[test]
fn depth_first_by_weight() {
    check(
        one_by_one(SchedulePolicy::DfsWeight),
        &[
            of(0.0, 8, &[1, 2]),
            of(0.0, 8, &[3, 4]),
            of(5.0, 5, &[]),
            of(5.0, 9, &[1, 2]),
            of(5.0, 9, &[3, 7]),
            of(5.0, 9, &[3, 4]),
        ],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q0 s1 f2 d2 o1",
            "finished q5 s8 f9 d9 o1",
            "finished q5 s7 f8 d8 o1 c8",
            "finished q5 s6 f7 d7 o1 c4",
            "finished q5 s5 f6 d6 o1 c8",
        ],
        &[],
        whatever,
    );
}

#[test]
fn longest_output_first() {
    let asked = [ask(0.0, 3, 1, 2), ask(0.0, 3, 1, 9), ask(0.0, 3, 1, 5)];
    let rows = ["finished q0 s2 f3 d3 o1", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"];
    check(one_by_one(SchedulePolicy::Lof), &asked, &rows, &[], whatever);
    // Whoever, but everybody.
    let asked: Vec<Ask> = (0..8).map(|_| ask(0.0, 3, 1, 1)).collect();
    rows_of(one_by_one(SchedulePolicy::Random), &asked, |name, got, _| {
        let order: Vec<i64> = got.requests.iter().filter_map(|row| row.scheduled).map(|at| at.0 / 1_000_000).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..8).collect::<Vec<_>>(), "{name}");
        assert_ne!(sorted, order, "{name}");
    });
}

#[test]
fn prompts_of_one_step_share_nothing() {
    // But what both computed is kept once: beside the two pages each has one of its own.
    let long = |at, input, output, blocks| Ask { blocks, ..ask(at, input, output, output) };
    check(
        |_, _| (),
        &[long(0.0, 8, 3, &[1, 2]), long(0.0, 8, 3, &[1, 2]), of(5.0, 12, &[1, 2, 3])],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1 d3 o3", "finished q5 s5 f6 d6 o1 c8"],
        &["0+1 d0 p16/2 c0 r2 w0 x0 b4", "1+1 d2 p0/0 c16 r2 w0 x0 b4"],
        whatever,
    );
    // The first has ten tokens in its cache when the second comes: only those of its prompt are found before it ends.
    check(
        |_, _| (),
        &[long(0.0, 4, 9, &[1, 2, 3]), of(6.0, 13, &[1, 2, 3]), of(12.0, 13, &[1, 2, 3])],
        &["finished q0 s0 f1 d10 o9 i9/1.93/2", "finished q6 s6 f7 d7 o1 c4", "finished q12 s12 f13 d13 o1 c12"],
        &[],
        whatever,
    );
    // Without the radix cache there is nothing to find.
    check(
        |_, r| r.disable_radix_cache = true,
        &[of(0.0, 8, &[1, 2]), of(5.0, 12, &[1, 2, 3])],
        &["finished q0 s0 f1 d1 o1", "finished q5 s5 f6 d6 o1"],
        &[],
        |s| assert_eq!(s.prefix_tokens_queried, 0),
    );
}

#[test]
fn mixed_steps() {
    // A token of the chunk of 12 is the reply's: 11 are two pages for a prompt that is cut now, and 11 tokens for one that was.
    check(
        |_, r| (r.enable_mixed_chunk, r.chunked_prefill_size) = (true, Some(12)),
        &[ask(0.0, 3, 6, 6), ask(1.0, 20, 1, 1)],
        &["finished q0 s0 f1 d6 o6", "finished q1 s1 f4 d4 o1"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d1 p8/1 c3 r2 w0 x0 b3",
            "2+1 d1 p11/1 c12 r2 w0 x0 b7",
            "3+1 d1 p1/1 c24 r2 w0 x0 b7",
            "4+1 d1 p0/0 c6 r1 w0 x0 b2",
        ],
        whatever,
    );
}

#[test]
fn graphs_pad() {
    let asked = [ask(0.0, 3, 2, 2), ask(0.0, 3, 2, 2), ask(0.0, 3, 2, 2)];
    let done = |edit: &dyn Fn(&mut Sglang), expect: &str| {
        let edit = |s: &mut Scenario, r: &mut Sglang| {
            linear(s).per_decode_token_us = 100.0;
            edit(r);
        };
        rows_of(edit, &asked, |name, got, _| {
            let times: Vec<String> = got.steps.iter().map(|row| ms(row.duration.0)).collect();
            assert_eq!(times.join(" "), expect, "{name}");
        });
    };
    // Three replies run as four.
    done(&|_| (), "1 1.4");
    done(&|r| r.disable_cuda_graph_padding = true, "1 1.3");
    done(&|r| r.disable_cuda_graph = true, "1 1.3");
    done(&|r| r.attention_backend = Some(AttentionBackend::TorchNative), "1 1.3");
    done(&|r| r.cuda_graph_max_bs = Some(2), "1 1.3");
    // What kernels cost: a factor, then microseconds.
    let table = |parameter: &str, value: &str| {
        let cost = KernelCost { prefill: 3.0, prefill_us: 1.0, decode: 2.0, decode_us: 100.0 };
        BTreeMap::from([(parameter.to_string(), BTreeMap::from([(value.to_string(), cost)]))])
    };
    done(&|r| r.kernel_factors = table("cuda_graph", "none"), "1 1.4");
    done(&|r| (r.kernel_factors, r.cuda_graph_max_bs) = (table("cuda_graph", "none"), Some(2)), "1 2.7");
    done(&|r| r.kernel_factors = table("attention_backend", "none"), "3.001 2.9");
    let fa3 = Some(AttentionBackend::Fa3);
    done(&|r| (r.kernel_factors, r.attention_backend) = (table("attention_backend", "none"), fa3), "1 1.4");
    done(&|r| (r.kernel_factors, r.attention_backend) = (table("attention_backend", "fa3"), fa3), "3.001 2.9");
    // What computes replies has a name of its own.
    done(&|r| (r.kernel_factors, r.decode_attention_backend) = (table("attention_backend", "none"), fa3), "3.001 1.4");
    done(
        &|r| (r.kernel_factors, r.decode_attention_backend) = (table("decode_attention_backend", "fa3"), fa3),
        "1 2.9",
    );
}

#[test]
fn lengths() {
    check(
        |s, _| s.deployment.max_model_len = Some(20),
        &[super::ask(0.0, 13, 9), super::ask(0.0, 14, 1)],
        &["length_capped q0 s0 f1 d5 o5", "rejected q- s- f- d- o0"],
        &[],
        whatever,
    );
    // 24 tokens of cache.
    check(
        |s, _| blocks(s, 6),
        &[super::ask(0.0, 17, 9), super::ask(0.0, 18, 1)],
        &["length_capped q0 s0 f1 d5 o5", "rejected q- s- f- d- o0"],
        &[],
        whatever,
    );
}

#[test]
fn continuous_decode_steps() {
    let asked = [ask(0.0, 3, 8, 8), ask(1.5, 3, 1, 1)];
    let rows = ["finished q0 s0 f1 d9 o8 i8/1.94/2", "finished q1.5 s4 f5 d5 o1"];
    check(|_, r| (r.num_continuous_decode_steps, r.disable_overlap_schedule) = (3, true), &asked, &rows, &[], whatever);
    let rows = ["finished q0 s0 f1 d9 o8 i8/1.94/2", "finished q1.5 s2 f3 d3 o1"];
    check(|_, r| r.num_continuous_decode_steps = 3, &asked, &rows, &[], whatever);
}

#[test]
fn overlap_hides_the_host() {
    let asked = [ask(0.0, 3, 1, 1)];
    check(|_, r| r.scheduler_overhead_us = 500.0, &asked, &["finished q0 s0 f1 d1 o1"], &[], whatever);
    check(|_, r| r.scheduler_overhead_us = 1_500.0, &asked, &["finished q0 s0 f1.5 d1.5 o1"], &[], whatever);
    check(
        |_, r| (r.scheduler_overhead_us, r.disable_overlap_schedule) = (500.0, true),
        &asked,
        &["finished q0 s0 f1.5 d1.5 o1"],
        &[],
        whatever,
    );
}

#[test]
fn sglang_encodes_what_it_cannot_keep_again() {
    // Of a prompt of 12 tokens the first ten are an image, in chunks of eight: with the second, its embeddings are at hand, or
    // made again. Nobody waits for the encoder.
    let image = |encoder: u32, ask: Ask| Ask { encoder: Some(encoder), ..ask };
    for (cache, steps, encoded) in [(None, ["0+1.5", "1.5+1.5"], 12), (Some(9), ["0+1.5", "1.5+1.5"], 22)] {
        let edit = |s: &mut Scenario, r: &mut Sglang| {
            s.deployment.encoder =
                Some(Encoder { encoder_cache_size: cache, relative_cost: 0.5, ..Encoder::default() });
            r.chunked_prefill_size = Some(8);
        };
        rows_of(edit, &[image(10, ask(0.0, 12, 1, 1)), image(2, ask(0.0, 3, 1, 1))], |name, got, summary| {
            let times: Vec<String> =
                got.steps.iter().map(|row| format!("{}+{}", ms(row.start.0), ms(row.duration.0))).collect();
            assert_eq!(times, steps, "{name} {cache:?}");
            assert_eq!((summary.encoder_tokens, summary.encoder_time.0), (encoded, 1_000_000), "{name} {cache:?}");
        });
    }
    // Alone, the second chunk has nothing to encode but what was not kept.
    for (cache, time) in [(None, "1"), (Some(9), "1.5")] {
        let edit = |s: &mut Scenario, r: &mut Sglang| {
            s.deployment.encoder =
                Some(Encoder { encoder_cache_size: cache, relative_cost: 0.5, ..Encoder::default() });
            r.chunked_prefill_size = Some(8);
        };
        rows_of(edit, &[image(10, ask(0.0, 12, 1, 1))], |name, got, _| {
            assert_eq!(ms(got.steps[1].duration.0), time, "{name} {cache:?}");
        });
    }
}

/// One prefill and one decode server, transfers that do not share.
#[track_caller]
fn check_split(edit: impl Fn(&mut Scenario, &mut Sglang), asked: &[Ask], rows: &[&str]) {
    let apart = |s: &mut Scenario, rules: &mut Sglang| {
        split(s, 1, FirstToken::Transfer);
        s.deployment.disaggregation.transfer.contention = Contention::None;
        edit(s, rules);
    };
    rows_of(apart, asked, |name, got, _| {
        let texts: Vec<String> = got.requests.iter().map(cluster_text).collect();
        assert_eq!(texts, rows, "requests of the {name}");
    });
}

#[test]
fn caches_that_came_join_where_there_are_seats() {
    // The third's cache is there at 3 ms. The first is done at 4, which is noticed by the step of replies that begins then.
    check_split(
        |_, r| r.max_running_requests = Some(2),
        &[ask(0.0, 4, 3, 3), ask(0.0, 4, 5, 5), ask(0.0, 4, 3, 3)],
        &[
            "finished q0 s0 f2 d4 o3 @1 via 0 p1 k2",
            "finished q0 s0 f2 d6 o5 @1 via 0 p1 k2",
            "finished q0 s1 f3 d7 o3 i4/2.98/3 @1 via 0 p2 k3",
        ],
    );
    // With one seat nobody is left at 4 ms: it is looked again at once.
    check_split(
        |_, r| r.max_running_requests = Some(1),
        &[ask(0.0, 4, 3, 3), ask(0.0, 4, 3, 3)],
        &["finished q0 s0 f2 d4 o3 @1 via 0 p1 k2", "finished q0 s1 f3 d6 o3 i3/1.99/2 @1 via 0 p2 k3"],
    );
}

#[test]
fn a_prefill_server_expects_one_token_of_each() {
    // 20 tokens: the first takes 8, and may get 1 more; the second needs 7 and 1. With 5 each, it would wait.
    let small = |s: &mut Scenario, _: &mut Sglang| {
        let kv = KvCache { num_gpu_blocks: Some(5), ..s.deployment.kv.clone() };
        let Some(prompts) = s.deployment.pools.get_mut("prompts") else { panic!() };
        prompts.kv = Some(kv);
    };
    let asked = [ask(0.0, 7, 2, 5), ask(0.0, 7, 2, 5)];
    check_split(small, &asked, &["finished q0 s0 f3 d4 o2 @1 via 0 p1 k3"; 2]);
    let alone = |s: &mut Scenario, r: &mut Sglang| {
        blocks(s, 5);
        r.schedule_conservativeness = 1.0;
    };
    check(
        alone,
        &asked,
        &["finished q0 s0 f1 d2 o2", "finished q0 s2 f3 d4 o2"],
        &["0+1 d0 p7/1 c0 r1 w1 x0 b2"],
        whatever,
    );
}

#[test]
fn a_decode_server_keeps_no_prefixes() {
    // The same prompt again: found by the prefill server, sent whole.
    let same = |at| Ask { blocks: &[1, 2], ..ask(at, 8, 2, 2) };
    check_split(
        |_, _| (),
        &[same(0.0), same(5.0)],
        &["finished q0 s0 f3 d4 o2 @1 via 0 p1 k3", "finished q5 s5 f8 d9 o2 c4 @1 via 0 p6 k8"],
    );
}

/// A tier that reads a page in a millisecond, and writes it in a microsecond.
fn tier() -> Tier {
    let (read_gb_per_s, write_gb_per_s) = (Some(0.524_288), Some(524.288));
    Tier { capacity_blocks: Some(100), read_gb_per_s, write_gb_per_s, ..Tier::default() }
}

/// Of three pages that the first prompt leaves, the second takes two.
fn before() -> [Ask; 2] {
    [of(0.0, 12, &[1, 2, 3]), ask(1.0, 13, 1, 1)]
}

/// The first two, with five pages and this tier, and what becomes of the third.
#[track_caller]
fn check_third(tier: Tier, row: &str, step: &str, stored: u64) {
    let [a, b] = before();
    check(
        |s, _| {
            blocks(s, 5);
            s.deployment.kv.tiers = vec![tier.clone()];
        },
        &[a, b, of(5.0, 13, &[1, 2, 3])],
        &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1", row],
        &["0+1 d0 p12/1 c0 r1 w0 x0 b3", "1+1 d0 p13/1 c0 r1 w0 x0 b4", step],
        |s| assert_eq!((s.tiers[0].lookups, s.tiers[0].blocks_hit, s.tiers[0].blocks_stored), (3, 2, stored)),
    );
}

#[test]
fn the_host_has_what_the_tree_has_not() {
    let row = "finished q5 s5 f8 d8 o1 c4 t8";
    let step = "5+3 d0 p1/1 c12 r1 w0 x0 b4";
    check_third(Tier { blocking: true, ..tier() }, row, step, 3);
    // The step that it is loaded for holds the one page that is left to compute.
    let [a, b] = before();
    check(
        |s, r| {
            blocks(s, 5);
            s.deployment.kv.tiers = vec![Tier { blocking: true, ..tier() }];
            r.chunked_prefill_size = Some(4);
        },
        &[a, Ask { at: 3.0, ..b }, of(10.0, 13, &[1, 2, 3])],
        &["finished q0 s0 f3 d3 o1", "finished q3 s3 f7 d7 o1", "finished q10 s10 f13 d13 o1 c4 t8"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b1"],
        whatever,
    );
}

#[test]
fn what_was_fetched_goes_first() {
    check_third(tier(), "finished q5 s7 f8 d8 o1 c4 t8", "7+1 d0 p1/1 c12 r1 w0 x0 b4", 3);
    // Of twenty tokens it holds sixteen while it is fetched: those that come after it wait, though nobody runs, and then until
    // it has ended, for its reply counts.
    let [a, b] = before();
    check(
        |s, _| {
            blocks(s, 5);
            s.deployment.kv.tiers = vec![tier()];
        },
        &[a, b, of(5.0, 13, &[1, 2, 3]), ask(5.5, 3, 1, 1)],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q1 s1 f2 d2 o1",
            "finished q5 s7 f8 d8 o1 c4 t8",
            "finished q5.5 s8 f9 d9 o1",
        ],
        &[
            "0+1 d0 p12/1 c0 r1 w0 x0 b3",
            "1+1 d0 p13/1 c0 r1 w0 x0 b4",
            "7+1 d0 p1/1 c12 r1 w1 x0 b4",
            "8+1 d0 p3/1 c0 r1 w0 x0 b1",
        ],
        |s| assert_eq!(s.waiting_ns, 4_500_000),
    );
}

#[test]
fn what_was_fetched_and_cut_has_its_pages() {
    // The second takes eight of nine pages, and leaves the first page in the GPU's cache. The third holds seven from 10 ms on, and
    // is cut. Beside its last eight tokens, two pages are free for the fourth.
    check(
        |s, r| {
            blocks(s, 9);
            s.deployment.kv.tiers = vec![tier()];
            r.chunked_prefill_size = Some(12);
        },
        &[of(0.0, 8, &[1, 2]), ask(2.0, 29, 1, 1), of(10.0, 28, &[1, 2]), ask(11.5, 3, 1, 1)],
        &[
            "finished q0 s0 f1 d1 o1",
            "finished q2 s2 f5 d5 o1",
            "finished q10 s11 f13 d13 o1 c4 t4",
            "finished q11.5 s12 f13 d13 o1",
        ],
        &[
            "0+1 d0 p8/1 c0 r1 w0 x0 b2",
            "2+1 d0 p12/1 c0 r1 w0 x0 b3",
            "3+1 d0 p12/1 c12 r1 w0 x0 b6",
            "4+1 d0 p5/1 c24 r1 w0 x0 b8",
            "11+1 d0 p12/1 c8 r1 w0 x0 b7",
            "12+1 d0 p11/2 c20 r2 w0 x0 b8",
        ],
        whatever,
    );
}

#[test]
fn what_can_be_found_is_stored() {
    // When the GPU's cache gives up the third page and the second.
    let evicting = Tier { write: WritePolicy::OnEvict, ..tier() };
    check_third(evicting, "finished q5 s7 f8 d8 o1 c4 t8", "7+1 d0 p1/1 c12 r1 w0 x0 b4", 2);
    // Of three tokens and six of a reply eight are computed: two pages, which can be found when the reply ends, at 6 ms. The
    // writes of a page take three milliseconds each, so that at 11 ms they are not there.
    let when = |at: f64, stored: u64, row: &str| {
        check(
            |s, _| {
                blocks(s, 5);
                s.deployment.kv.tiers = vec![Tier { write_gb_per_s: Some(0.524_288 / 3.0), ..tier() }];
            },
            &[Ask { blocks: &[1, 2, 3], ..ask(0.0, 3, 6, 6) }, ask(7.0, 13, 1, 1), of(at, 9, &[1, 2])],
            &["finished q0 s0 f1 d6 o6", "finished q7 s7 f8 d8 o1", row],
            &[],
            |s| assert_eq!(s.tiers[0].blocks_stored, stored),
        );
    };
    when(11.0, 2, "finished q11 s11 f12 d12 o1 c4");
    when(12.0, 2, "finished q12 s13 f14 d14 o1 c4 t4");
}

fn slots(s: &mut Scenario, max_loras: u32) {
    // Rank 16 in a millisecond.
    let (bytes_per_rank, load_gb_per_s) = (Some(62_500.0), Some(1.0));
    s.deployment.lora = Some(Lora { max_loras, bytes_per_rank, load_gb_per_s, ..Lora::default() });
}

fn with(adapter: u32, ask: Ask) -> Ask {
    Ask { adapter: Some(adapter), ..ask }
}

#[test]
fn adapters_of_a_batch_have_slots() {
    check(
        |s, _| slots(s, 1),
        &[with(0, ask(0.0, 3, 3, 3)), with(1, ask(0.0, 3, 1, 1)), with(0, ask(0.0, 3, 1, 1))],
        &["finished q0 s0 f2 d4 o3", "finished q0 s4 f6 d6 o1", "finished q0 s0 f2 d2 o1"],
        &[
            "0+2 d0 p6/2 c0 r2 w1 x0 b2",
            "2+1 d1 p0/0 c3 r1 w1 x0 b1",
            "3+1 d1 p0/0 c4 r1 w1 x0 b2",
            "4+2 d0 p3/1 c0 r1 w0 x0 b1",
        ],
        |s| {
            let a = &s.adapters;
            assert_eq!((a.loads, a.evictions, a.wait_ns, &*a.steps_by_adapters), (2, 1, 4_000_000, &[0, 4][..]));
        },
    );
}

#[test]
fn requests_without_an_adapter_need_a_slot() {
    // Nothing is loaded for it.
    check(
        |s, _| slots(s, 1),
        &[with(0, ask(0.0, 3, 3, 3)), ask(0.0, 3, 1, 1)],
        &["finished q0 s0 f2 d4 o3", "finished q0 s4 f5 d5 o1"],
        &[],
        |s| assert_eq!((s.adapters.loads, s.adapters.evictions, s.adapters.wait_ns), (1, 1, 0)),
    );
    // It keeps the third out, and its slot is the next one's when it has ended.
    check(
        |s, _| slots(s, 2),
        &[with(0, ask(0.0, 3, 3, 3)), ask(0.0, 3, 1, 1), with(1, ask(0.0, 3, 1, 1))],
        &["finished q0 s0 f2 d6 o3 i4/2.98/3", "finished q0 s0 f2 d2 o1", "finished q0 s2 f4 d4 o1"],
        &["0+2 d0 p6/2 c0 r2 w1 x0 b2", "2+2 d0 p3/1 c0 r2 w0 x0 b2", "4+1 d1 p0/0 c3 r1 w0 x0 b1"],
        |s| {
            let a = &s.adapters;
            assert_eq!((a.loads, a.evictions, a.wait_ns, &*a.steps_by_adapters), (2, 0, 2_000_000, &[0, 4][..]));
        },
    );
}
