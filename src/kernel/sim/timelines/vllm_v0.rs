//! Timelines of [`VllmV0`], rule by rule. A block takes a millisecond between GPU and host.

use super::*;
use crate::sim::scheduler::{PreemptionMode, VllmV0};

/// Bytes of a block of four tokens.
pub(super) const BLOCK: f64 = 524_288.0;

/// Without a watermark.
fn rules() -> VllmV0 {
    VllmV0 { watermark: 0.0, ..VllmV0::default() }
}

fn swaps() -> VllmV0 {
    VllmV0 { preemption_mode: PreemptionMode::Swap, swap_gb_per_s: BLOCK / 1e6, ..rules() }
}

#[track_caller]
pub(super) fn check_vllm(rules: VllmV0, cache: u64, asked: &[Ask], rows: &[&str], steps: &[&str]) {
    let edit = |s: &mut Scenario| {
        blocks(s, cache);
        s.deployment.tick = "1ms".parse().ok();
    };
    check_scheduler(&Scheduler::VllmV0(rules), edit, asked, rows, steps, whatever);
}

/// The same with sequences of ten tokens at most, and few seats.
#[track_caller]
fn check_short(rules: VllmV0, asked: &[Ask], rows: &[&str], steps: &[&str]) {
    let scheduler = Scheduler::VllmV0(VllmV0 { max_num_seqs: 3, ..rules });
    check_scheduler(&scheduler, |s| s.deployment.max_model_len = Some(10), asked, rows, steps, whatever);
}

#[test]
fn prompts_go_first_and_replies_wait() {
    check_vllm(
        rules(),
        1_000,
        &[ask(0.0, 3, 4), ask(1.5, 3, 2)],
        &["finished q0 s0 f1 d5 o4 i4/1.98/2", "finished q1.5 s2 f3 d4 o2"],
        &[
            "0+1 d0 p3/1 c0 r1 w0 x0 b1",
            "1+1 d1 p0/0 c3 r1 w0 x0 b1",
            "2+1 d0 p3/1 c0 r2 w0 x0 b2",
            "3+1 d2 p0/0 c7 r2 w0 x0 b3",
            "4+1 d1 p0/0 c5 r1 w0 x0 b2",
        ],
    );
}

#[test]
fn a_step_holds_so_many_tokens_of_prompts() {
    check_short(
        VllmV0 { max_num_batched_tokens: Some(10), ..rules() },
        &[ask(0.0, 6, 1), ask(0.0, 6, 1), ask(0.0, 2, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p6/1 c0 r1 w2 x0 b2", "1+1 d0 p8/2 c0 r2 w0 x0 b3"],
    );
}

#[test]
fn padded_prompts_are_as_long_as_the_longest() {
    let rules = VllmV0 { max_num_batched_tokens: Some(12), ..rules() };
    let asked = [ask(0.0, 3, 1), ask(0.0, 6, 1), ask(0.0, 1, 1)];
    let now = "finished q0 s0 f1 d1 o1";
    check_short(rules.clone(), &asked, &[now, now, now], &["0+1 d0 p10/3 c0 r3 w0 x0 b4"]);
    // Two of six tokens are twelve, three would be eighteen.
    check_short(
        VllmV0 { pad_prompts: true, ..rules },
        &asked,
        &[now, now, "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p9/2 c0 r2 w1 x0 b3"],
    );
}

#[test]
fn no_more_run_than_there_are_seats() {
    check_vllm(
        VllmV0 { max_num_seqs: 2, ..rules() },
        1_000,
        &[ask(0.0, 4, 2), ask(0.0, 4, 1), ask(0.0, 4, 1)],
        &["finished q0 s0 f1 d3 o2 i2/2/2", "finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p8/2 c0 r2 w1 x0 b2", "1+1 d0 p4/1 c0 r2 w0 x0 b2", "2+1 d1 p0/0 c4 r1 w0 x0 b2"],
    );
}

#[test]
fn a_prompt_leaves_the_watermark() {
    let asked = [ask(0.0, 16, 3), ask(0.0, 16, 2), ask(0.5, 4, 1)];
    // At 1 ms two blocks of ten are free: the third prompt wants one, and two to stay.
    check_vllm(
        VllmV0 { watermark: 0.2, ..rules() },
        10,
        &asked,
        &["finished q0 s0 f1 d4 o3 i3/1.99/2", "finished q0 s0 f1 d2 o2", "finished q0.5 s2 f3 d3 o1"],
        &["0+1 d0 p32/2 c0 r2 w0 x0 b8", "1+1 d2 p0/0 c32 r2 w1 x0 b10", "2+1 d0 p4/1 c0 r2 w0 x0 b6"],
    );
    check_vllm(
        rules(),
        10,
        &asked,
        &["finished q0 s0 f1 d4 o3 i3/1.99/2", "finished q0 s0 f1 d3 o2 i2/2/2", "finished q0.5 s1 f2 d2 o1"],
        &["0+1 d0 p32/2 c0 r2 w0 x0 b8", "1+1 d0 p4/1 c0 r3 w0 x0 b9", "2+1 d2 p0/0 c32 r2 w0 x0 b10"],
    );
}

#[test]
fn a_request_goes_on_only_if_a_block_is_free() {
    let asked = [ask(0.0, 5, 3)];
    check_vllm(rules(), 3, &asked, &["finished q0 s0 f1 d3 o3"], &[]);
    // Five, six and seven tokens have room in two blocks; but no third one is free. It goes, and is a prompt in the step
    // after that.
    check_vllm(
        rules(),
        2,
        &asked,
        &["finished q0 s0 f1 d5 o3 p2 l4 a11 i4/2/2"],
        &["0+1 d0 p5/1 c0 r1 w0 x0 b2", "1+1 d0 p0/0 c0 r0 w1 x1 b0", "2+1 d0 p6/1 c0 r1 w0 x0 b2"],
    );
}

#[test]
fn the_last_goes_and_comes_back_as_a_prompt() {
    // From 3 ms on no block is free whenever the first request wants its token; the other comes back in every other step,
    // until three blocks are too many for it.
    check_vllm(
        rules(),
        4,
        &[ask(0.0, 3, 9), ask(0.0, 3, 9)],
        &["finished q0 s0 f1 d12 o9 i11/2/2", "finished q0 s0 f1 d15 o9 p4 l10 a26 i14/3.86/4"],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d2 p0/0 c6 r2 w0 x0 b2",
            "2+1 d2 p0/0 c8 r2 w0 x0 b4",
            "3+1 d1 p0/0 c5 r1 w1 x1 b2",
            "4+1 d0 p6/1 c0 r2 w0 x0 b4",
            "5+1 d1 p0/0 c6 r1 w1 x1 b2",
        ],
    );
}

#[test]
fn what_is_swapped_out_comes_back_before_the_queue() {
    // The second request goes at 3 and at 9 ms; the third waits although there are blocks for it.
    check_vllm(
        swaps(),
        4,
        &[ask(0.0, 3, 6), ask(0.0, 3, 5), ask(3.5, 2, 1)],
        &[
            "finished q0 s0 f1 d12 o6 i11/3/3",
            "finished q0 s0 f1 d15 o5 p2 l12 i14/6/6",
            "finished q3.5 s15 f16 d16 o1",
        ],
        &[
            "0+1 d0 p6/2 c0 r2 w0 x0 b2",
            "1+1 d2 p0/0 c6 r2 w0 x0 b2",
            "2+1 d2 p0/0 c8 r2 w0 x0 b4",
            "3+3 d1 p0/0 c5 r1 w1 x1 b2",
            "6+3 d2 p0/0 c11 r2 w1 x0 b4",
            "9+3 d1 p0/0 c7 r1 w2 x1 b2",
            "12+3 d1 p0/0 c6 r1 w1 x0 b2",
            "15+1 d0 p2/1 c0 r1 w0 x0 b1",
        ],
    );
}

/// At 6 ms the third request has eight tokens and goes; at 9 ms four blocks are free, and it needs three.
const THREE: [(u32, u32); 3] = [(3, 10), (3, 7), (3, 9)];

fn three() -> [Ask; 3] {
    THREE.map(|(input, output)| ask(0.0, input, output))
}

#[test]
fn who_comes_back_leaves_the_watermark() {
    let second = "finished q0 s0 f1 d9 o7 i8/2.9/3";
    check_vllm(
        VllmV0 { watermark: 0.15, ..swaps() },
        7,
        &three(),
        &["finished q0 s0 f1 d14 o10 i13/3/3", second, "finished q0 s0 f1 d14 o9 p1 l6 i13/5.65/6"],
        &[],
    );
    // Two blocks would not stay.
    check_vllm(
        VllmV0 { watermark: 0.3, ..swaps() },
        7,
        &three(),
        &["finished q0 s0 f1 d12 o10 i11/2.84/3", second, "finished q0 s0 f1 d17 o9 p1 l9 i16/8.44/9"],
        &[],
    );
}

#[test]
fn a_step_may_be_nothing_but_copies() {
    check_vllm(
        swaps(),
        2,
        &[ask(0.0, 5, 3)],
        &["finished q0 s0 f1 d11 o3 p2 l10 i10/5/5"],
        &["0+1 d0 p5/1 c0 r1 w0 x0 b2", "1+2 d0 p0/0 c0 r0 w1 x1 b0", "3+3 d1 p0/0 c5 r1 w0 x0 b2"],
    );
}

#[test]
fn without_room_on_the_host_the_engine_fails() {
    // Two blocks are copied, and the one of the next token must be free, too.
    for (host_blocks, fails) in [(0.0, true), (2.0, true), (3.0, false)] {
        let swap_space_gib = host_blocks * BLOCK / (1 << 30) as f64;
        let mut s = scenario(|s, _| blocks(s, 7));
        s.deployment.scheduler = Scheduler::VllmV0(VllmV0 { swap_space_gib, ..swaps() });
        for (name, engine) in ENGINES {
            let said =
                engine(&s, &requests(&three()), &mut Rows::default(), &AtomicBool::new(false), Quirks::default());
            match said {
                Ok(summary) => assert!(!fails && summary.preemptions == 1, "{name}, {host_blocks}: {summary:?}"),
                Err(SimError::Invalid { path, .. }) => {
                    assert!(fails && path == "deployment.scheduler.vllm_v0.swap_space_gib", "{name}: {path}");
                }
                Err(SimError::Cancelled) => panic!("{name}"),
            }
        }
    }
}

#[test]
fn what_can_never_be_admitted_is_rejected() {
    // Eight blocks of ten hold 32 tokens; a reply ends with the token that comes of them.
    check_vllm(
        VllmV0 { watermark: 0.2, ..rules() },
        10,
        &[ask(0.0, 32, 1), ask(2.0, 33, 1), ask(4.0, 30, 9)],
        &["finished q0 s0 f1 d1 o1", "rejected q- s- f- d- o0", "length_capped q4 s4 f5 d7 o3"],
        &[],
    );
}
