//! Timelines of TensorRT-LLM's batch manager.

use super::orca::windows;
use super::*;
use crate::sim::scheduler::{CapacitySchedulerPolicy, ContextChunkingPolicy, Trtllm};

/// Like [`super::check`], of steps of at most `tokens` tokens; caps are what requests generate.
#[track_caller]
fn check(tokens: u32, edit: impl Fn(&mut Scenario, &mut Trtllm), asked: &[Ask], rows: &[&str], steps: &[&str]) {
    let mut s = scenario(|s, _| s.workload.exact_max_tokens = true);
    let mut rules = Trtllm { max_num_tokens: tokens, ..Trtllm::default() };
    edit(&mut s, &mut rules);
    s.deployment.scheduler = Scheduler::Trtllm(rules);
    for (name, engine) in ENGINES {
        let mut got = Rows::default();
        let result = engine(&s, &requests(asked), &mut got, &AtomicBool::new(false), Quirks::default());
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
        got.requests.sort_by_key(|row| row.request);
        let texts: Vec<String> = got.requests.iter().map(request_text).collect();
        assert_eq!(texts, rows, "requests of the {name}");
        let texts: Vec<String> = got.steps.iter().take(steps.len()).map(step_text).collect();
        assert_eq!(texts, steps, "steps of the {name}");
    }
}

fn capped(at: f64, input: u32, output: u32, max_tokens: u32) -> Ask {
    Ask { max_tokens: Some(max_tokens), ..ask(at, input, output) }
}

fn known(at: f64, input: u32, output: u32, blocks: &'static [u64]) -> Ask {
    Ask { blocks, ..ask(at, input, output) }
}

fn chunked(_: &mut Scenario, rules: &mut Trtllm) {
    rules.enable_chunked_context = true;
}

fn max_utilization(s: &mut Scenario, rules: &mut Trtllm) {
    rules.capacity_scheduler_policy = CapacitySchedulerPolicy::MaxUtilization;
    rules.max_num_tokens = s.deployment.kv.num_gpu_blocks.unwrap() as u32 * 4;
}

#[test]
fn what_was_fetched_keeps_its_place() {
    // The second is active from the start, and in the way of the shorter one that comes while it waits for tokens.
    check(
        10,
        |_, r| (r.max_batch_size, r.scheduling_policy) = (2, QueueOrder::Sjf),
        &[ask(0.0, 3, 3), ask(0.0, 9, 1), ask(0.5, 2, 1)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s1 f2 d2 o1", "finished q0.5 s2 f3 d3 o1"],
        &["0+1 d0 p3/1 c0 r1 w1 x0 b1", "1+1 d1 p9/1 c3 r2 w1 x0 b4", "2+1 d1 p2/1 c4 r2 w0 x0 b3"],
    );
}

#[test]
fn nobody_starts_who_could_run_out_of_blocks() {
    // Of four blocks the first may need 2, the second 3: it waits, and the third, which needs 2, behind it.
    let asked = [capped(0.0, 3, 3, 5), capped(0.0, 3, 2, 9), capped(0.0, 3, 1, 5)];
    check(
        100,
        |s, _| {
            blocks(s, 4);
            s.workload.exact_max_tokens = false;
        },
        &asked,
        &["finished q0 s0 f1 d3 o3", "finished q0 s3 f4 d5 o2", "finished q0 s5 f6 d6 o1"],
        &["0+1 d0 p3/1 c0 r1 w2 x0 b1"],
    );
    // If caps are what requests generate, 2, 2 and 1.
    check(
        100,
        |s, _| blocks(s, 4),
        &asked,
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1 d2 o2", "finished q0 s2 f3 d3 o1"],
        &["0+1 d0 p6/2 c0 r2 w1 x0 b2"],
    );
    // Without a cap, a request may need all.
    check(
        100,
        |s, _| {
            blocks(s, 4);
            s.workload.exact_max_tokens = false;
        },
        &[ask(0.0, 3, 3), ask(0.0, 3, 2)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s3 f4 d5 o2"],
        &[],
    );
}

#[test]
fn a_static_batch_is_done_before_the_next() {
    check(
        100,
        |_, r| r.capacity_scheduler_policy = CapacitySchedulerPolicy::StaticBatch,
        &[ask(0.0, 3, 3), ask(0.0, 3, 1), ask(0.5, 3, 1)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1 d1 o1", "finished q0.5 s3 f4 d4 o1"],
        &["0+1 d0 p6/2 c0 r2 w0 x0 b2", "1+1 d1 p0/0 c3 r1 w1 x0 b1"],
    );
}

#[test]
fn who_is_alone_pauses_himself() {
    // At 1 ms both need a block and one is free: the second is the last that started. The third could have it, but the
    // list ends before the second; and then the second does not fit, and is before it.
    check(
        0,
        |s, r| {
            blocks(s, 3);
            max_utilization(s, r);
        },
        &[ask(0.0, 4, 6), ask(0.0, 4, 4), ask(0.5, 2, 1)],
        &["finished q0 s0 f1 d6 o6", "finished q0 s0 f1 d9 o4 p1 l6 a4 i8/5.9/6", "finished q0.5 s6 f7 d7 o1"],
        &["0+1 d0 p8/2 c0 r2 w0 x0 b2", "1+1 d1 p0/0 c4 r1 w2 x1 b2", "2+1 d1 p0/0 c5 r1 w2 x0 b2"],
    );
}

#[test]
fn the_last_of_the_list_is_paused_and_comes_back_to_its_place() {
    check(
        0,
        |s, r| {
            blocks(s, 2);
            max_utilization(s, r);
        },
        &[ask(0.0, 4, 3), ask(0.0, 3, 3)],
        &["finished q0 s0 f1 d3 o3", "finished q0 s0 f1 d5 o3 p1 l3 a3 i4/2.98/3"],
        &["0+1 d0 p7/2 c0 r2 w0 x0 b2", "1+1 d1 p0/0 c4 r1 w1 x1 b2"],
    );
    // The order of the queue does not change who is paused.
    let urgent = |at, input, output, priority| Ask { priority: Some(priority), ..ask(at, input, output) };
    check(
        0,
        |s, r| {
            blocks(s, 2);
            max_utilization(s, r);
            r.scheduling_policy = QueueOrder::Priority;
        },
        &[urgent(0.0, 4, 3, 9), urgent(0.5, 3, 3, 1)],
        &["finished q0 s0 f1 d3 o3", "finished q0.5 s3 f4 d6 o3"],
        &["0+1 d0 p4/1 c0 r1 w0 x0 b1", "1+1 d1 p0/0 c4 r1 w1 x0 b2"],
    );
}

#[test]
fn a_prompt_waits_for_one_that_computes_its_next_block() {
    // The third has nothing to do with the first, and is not held up.
    check(
        100,
        |_, _| (),
        &[known(0.0, 9, 1, &[1, 2]), known(0.0, 9, 1, &[1, 2]), known(0.0, 5, 1, &[7])],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1 c8", "finished q0 s0 f1 d1 o1"],
        &["0+1 d0 p14/2 c0 r2 w1 x0 b5", "1+1 d0 p1/1 c8 r1 w0 x0 b3"],
    );
}

#[test]
fn tokens_end_the_step() {
    check(
        10,
        |_, _| (),
        &[ask(0.0, 6, 1), ask(0.0, 6, 1), ask(0.0, 2, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1", "finished q0 s1 f2 d2 o1"],
        &["0+1 d0 p6/1 c0 r1 w2 x0 b2", "1+1 d0 p8/2 c0 r2 w0 x0 b3"],
    );
    // What is in the cache counts: eight tokens, of which four are computed.
    check(
        10,
        |_, _| (),
        &[known(0.0, 8, 1, &[1, 2]), known(1.0, 8, 1, &[1, 2]), ask(1.0, 3, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q1 s1 f2 d2 o1 c4", "finished q1 s2 f3 d3 o1"],
        &["0+1 d0 p8/1 c0 r1 w0 x0 b2", "1+1 d0 p4/1 c4 r1 w1 x0 b2"],
    );
}

#[test]
fn generation_goes_before_context() {
    // Nine tokens are left of ten: two blocks. The prompt has all its seven blocks at once.
    check(
        10,
        chunked,
        &[ask(0.0, 5, 9), ask(1.0, 27, 1)],
        &["finished q0 s0 f1 d9 o9", "finished q1 s1 f5 d5 o1"],
        &[
            "0+1 d0 p5/1 c0 r1 w0 x0 b2",
            "1+1 d1 p8/1 c5 r2 w0 x0 b9",
            "2+1 d1 p8/1 c14 r2 w0 x0 b9",
            "3+1 d1 p8/1 c23 r2 w0 x0 b9",
            "4+1 d1 p3/1 c32 r2 w0 x0 b10",
        ],
    );
}

#[test]
fn chunks_are_cut_to_blocks_first_come_first_served() {
    // One token is left, less than a block and than the second lacks; the third lacks one.
    check(
        10,
        chunked,
        &[ask(0.0, 9, 1), ask(0.0, 6, 1), ask(0.0, 1, 1)],
        &["finished q0 s0 f1 d1 o1", "finished q0 s1 f2 d2 o1", "finished q0 s0 f1 d1 o1"],
        &["0+1 d0 p10/2 c0 r2 w1 x0 b4", "1+1 d0 p6/1 c0 r1 w0 x0 b2"],
    );
}

#[test]
fn chunks_make_equal_progress() {
    // A block for each; then the first wants another, for which two tokens do not do, and the second its last two.
    check(
        10,
        |s, r| {
            chunked(s, r);
            r.context_chunking_policy = ContextChunkingPolicy::EqualProgress;
        },
        &[ask(0.0, 9, 1), ask(0.0, 6, 1)],
        &["finished q0 s0 f2 d2 o1", "finished q0 s0 f1 d1 o1"],
        &["0+1 d0 p10/2 c0 r2 w0 x0 b5", "1+1 d0 p5/1 c4 r1 w0 x0 b3"],
    );
}

#[test]
fn a_first_chunk_begins_behind_the_prefix() {
    check(
        6,
        chunked,
        &[known(0.0, 4, 1, &[1]), known(2.0, 18, 1, &[1])],
        &["finished q0 s0 f1 d1 o1", "finished q2 s2 f5 d5 o1 c4"],
        &[
            "0+1 d0 p4/1 c0 r1 w0 x0 b1",
            "2+1 d0 p4/1 c4 r1 w0 x0 b5",
            "3+1 d0 p4/1 c8 r1 w0 x0 b5",
            "4+1 d0 p6/1 c12 r1 w0 x0 b5",
        ],
    );
}

#[test]
fn a_prompt_beyond_a_step_is_rejected() {
    let asked = [ask(0.0, 11, 1), ask(0.0, 10, 1)];
    check(10, |_, _| (), &asked, &["rejected q- s- f- d- o0", "finished q0 s0 f1 d1 o1"], &[]);
    check(10, chunked, &asked, &["finished q0 s0 f2 d2 o1", "finished q0 s1 f3 d3 o1"], &[]);
}

#[test]
fn a_prompt_under_way_goes_on_behind_one_that_does_not_fit() {
    // The second waits for the blocks that the first computes. At 2 ms it may need all eight blocks, of which the third
    // has four, computed by half.
    let may_need_all = Ask { max_tokens: Some(20), ..known(0.0, 12, 1, &[1, 2]) };
    let first = Ask { max_tokens: Some(4), ..known(0.0, 8, 1, &[1, 2]) };
    check(
        8,
        |s, r| {
            blocks(s, 8);
            s.workload.exact_max_tokens = false;
            chunked(s, r);
            r.context_chunking_policy = ContextChunkingPolicy::EqualProgress;
        },
        &[first, may_need_all, capped(0.0, 16, 1, 4)],
        &["finished q0 s0 f2 d2 o1", "finished q0 s3 f4 d4 o1 c8", "finished q0 s0 f3 d3 o1"],
        &["0+1 d0 p8/2 c0 r2 w1 x0 b6", "1+1 d0 p8/2 c8 r2 w1 x0 b6", "2+1 d0 p8/1 c8 r1 w1 x0 b4"],
    );
}

#[test]
fn windows_are_needed_to_start() {
    // Half of the layers see four tokens: they and a block are two blocks for each. The first may need 4 in all, the others
    // 3 each: nine hold two of them, ten all.
    let of = |count: u64, third: &str, steps: &[&str]| {
        let edit = |s: &mut Scenario, _: &mut Trtllm| {
            blocks(s, count);
            windows(s, 4);
        };
        let rows = ["finished q0 s0 f1 d2 o2", "finished q0 s0 f1 d1 o1", third];
        check(100, edit, &[ask(0.0, 3, 2), ask(0.0, 3, 1), ask(0.0, 3, 1)], &rows, steps);
    };
    of(9, "finished q0 s1 f2 d2 o1", &["0+1 d0 p6/2 c0 r2 w1 x0 b6", "1+1 d1 p3/1 c3 r2 w0 x0 b6"]);
    of(10, "finished q0 s0 f1 d1 o1", &["0+1 d0 p9/3 c0 r3 w0 x0 b9", "1+1 d1 p0/0 c3 r1 w0 x0 b3"]);
    // At 1 ms the second gives back three of seven blocks, and has to have four to come back.
    check(
        0,
        |s, r| {
            blocks(s, 7);
            windows(s, 4);
            max_utilization(s, r);
        },
        &[ask(0.0, 4, 6), ask(0.0, 4, 4)],
        &["finished q0 s0 f1 d6 o6", "finished q0 s0 f1 d9 o4 p1 l6 a4 i8/5.9/6"],
        &["0+1 d0 p8/2 c0 r2 w0 x0 b6", "1+1 d1 p0/0 c4 r1 w1 x1 b4", "2+1 d1 p0/0 c5 r1 w1 x0 b4"],
    );
}
